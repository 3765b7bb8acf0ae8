"""SMPL-family bodies against the smplx package's own forward pass, on synthetic files of the right shapes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rigs import smpl
from rigs.catalogue import open_body
from rigs.skeleton import Skeleton

smplx = pytest.importorskip("smplx")
BODY_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
TO_OURS = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def finger_parents(first):
    return [p for hand, wrist in ((0, 20), (15, 21)) for f in range(5) for p in (wrist, first + hand + 3 * f, first + hand + 3 * f + 1)]


def synthetic(path: Path, kind: str) -> Path:
    random = np.random.default_rng(0)
    parents = {
        "SMPL": [*BODY_PARENTS, 20, 21],
        "SMPL-H": BODY_PARENTS + finger_parents(22),
        "SMPL-X": [*BODY_PARENTS, 15, 15, 15, *finger_parents(25)],
    }[kind]
    V, F, J = (10475, 20908, 55) if kind == "SMPL-X" else (6890, 13776, len(parents))
    weights, regressor = np.zeros((V, J)), np.zeros((J, V))
    for share in random.dirichlet(np.ones(4), V).T:
        weights[np.arange(V), random.integers(0, J, V)] += share
    for row in regressor:
        row[random.choice(V, 8, replace=False)] = 1 / 8
    arrays = {
        "v_template": random.normal(size=(V, 3)) * 0.3,
        "f": random.integers(0, V, (F, 3)).astype(np.uint32),
        "shapedirs": random.normal(size=(V, 3, 400 if kind == "SMPL-X" else 16)) * 1e-3,
        "posedirs": random.normal(size=(V, 3, 9 * (J - 1))) * 1e-4,
        "J_regressor": regressor,
        "kintree_table": np.stack([parents, np.arange(J)]),
        "weights": weights,
    }
    for side in ("l", "r"):
        arrays |= {f"hands_components{side}": np.eye(45), f"hands_mean{side}": random.normal(size=45)}
    arrays |= {"lmk_faces_idx": random.integers(0, F, 51), "lmk_bary_coords": np.full((51, 3), 1 / 3)}
    arrays |= {"dynamic_lmk_faces_idx": random.integers(0, F, (79, 17)), "dynamic_lmk_bary_coords": np.full((79, 17, 3), 1 / 3)}
    np.savez(path, **{k: a.astype(np.float32) if a.dtype == np.float64 else a for k, a in arrays.items()})
    return path


@pytest.fixture(scope="module", params=["SMPL", "SMPL-H", "SMPL-X"])
def opened(request, tmp_path_factory):
    path = synthetic(tmp_path_factory.mktemp("smpl") / "model.npz", request.param)
    return request.param, path, smpl.load(path)


def theirs(kind, path, betas, pose, transl, expression=None):
    """Vertices and joints of smplx's own forward; `pose` are rotation vectors in its own order and axes."""
    if kind == "SMPL":
        struct = smplx.utils.Struct(**{k: np.load(path)[k] for k in smpl._NEEDED})
        out = smplx.SMPL(str(path), data_struct=struct, num_betas=16)(
            betas=betas, global_orient=pose[:, 0], body_pose=pose[:, 1:].flatten(1), transl=transl
        )
        return out.vertices.detach(), out.joints.detach()[:, :24]
    first = 25 if kind == "SMPL-X" else 22
    call = {"betas": betas, "global_orient": pose[:, 0], "body_pose": pose[:, 1:22].flatten(1), "transl": transl}
    call |= {"left_hand_pose": pose[:, first : first + 15].flatten(1), "right_hand_pose": pose[:, first + 15 :].flatten(1)}
    options = {"ext": "npz", "use_pca": False, "flat_hand_mean": True, "num_betas": 16, "batch_size": len(pose)}
    if kind == "SMPL-X":
        call |= {"jaw_pose": pose[:, 22], "leye_pose": pose[:, 23], "reye_pose": pose[:, 24]}
        call["expression"] = torch.zeros(len(pose), 10) if expression is None else expression
    out = (smplx.SMPLX if kind == "SMPL-X" else smplx.SMPLH)(str(path), **options)(**call)
    return out.vertices.detach(), out.joints.detach()[:, : pose.shape[1]]


def test_posed_vertices_equal_the_smplx_package(opened):
    kind, path, body = opened
    torch.manual_seed(0)
    count = len(smpl.JOINTS[kind])
    pose, betas, transl = torch.randn(3, count, 3) * 0.6, torch.randn(3, len(body.shape_names)), torch.randn(3, 3)
    if kind == "SMPL":
        pose[:, 22:] = 0  # its rigid finger joints are not among the studio's
    A = torch.from_numpy(TO_OURS).float()
    ours = torch.zeros(3, 55, 3)
    ours[:, [Skeleton.human().index(n) for n in smpl.JOINTS[kind][: count if kind != "SMPL" else 22]]] = (pose @ A.T)[
        :, : count if kind != "SMPL" else 22
    ]
    vertices, joints = theirs(kind, path, betas, pose, transl)
    posed = body.shaped(betas).posed(ours, joints[:, 0] @ A.T)
    assert (posed.vertices() - vertices @ A.T).abs().max() < 1e-4
    hand = body.skeleton.index("LeftHand")
    assert (posed.joints[:, hand] - joints[:, 20] @ A.T).abs().max() < 1e-4


def test_expression_moves_the_neutral_face_as_in_the_smplx_package(opened):
    kind, path, body = opened
    if kind != "SMPL-X":
        assert body.expression_names == ()
        return
    torch.manual_seed(1)
    expression = torch.randn(1, 10)
    vertices, _ = theirs(kind, path, torch.zeros(1, 16), torch.zeros(1, 55, 3), torch.zeros(1, 3), expression)
    neutral, _ = theirs(kind, path, torch.zeros(1, 16), torch.zeros(1, 55, 3), torch.zeros(1, 3))
    posed = body.shaped(torch.zeros(16)).posed(torch.zeros(1, 55, 3), body.joints[:1], expression)
    moved = posed.vertices() - body.skin.rest
    assert (moved - (vertices - neutral) @ torch.from_numpy(TO_OURS).float().T).abs().max() < 1e-5


def test_a_smpl_body_obeys_the_studios_rest_frame(opened):
    kind, _, body = opened
    assert body.skeleton == Skeleton.human()
    assert abs(float(body.skin.rest[:, 2].min())) < 1e-6
    assert torch.allclose(body.skin.weights.sum(1), torch.ones(len(body.skin)), atol=1e-5)
    assert {"nose", "left_wrist", "right_heel"} <= set(body.keypoint_names)
    assert ("face-30" in body.keypoint_names) == (kind == "SMPL-X")


def test_fingers_that_a_model_lacks_stand_beyond_its_wrist(tmp_path):
    body = smpl.load(synthetic(tmp_path / "smpl.npz", "SMPL"))
    at = {n: body.joints[body.skeleton.index(n)] for n in body.skeleton.names}
    for side in ("Left", "Right"):
        forearm = at[side + "Hand"] - at[side + "ForeArm"]
        assert (at[side + "HandMiddle3"] - at[side + "Hand"]) @ forearm > 0
        assert body.skin.weights[:, body.skeleton.index(side + "HandMiddle3")].abs().max() == 0


def test_the_catalogue_opens_a_users_file_by_its_path(opened):
    _, path, body = opened
    assert torch.equal(open_body(str(path)).skin.rest, body.skin.rest)


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", v_template=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"other\.npz.*J_regressor"):
        smpl.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz"):
        smpl.load(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        smpl.load(tmp_path / "gone.npz")


def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = synthetic(tmp_path / "model.npz", "SMPL-H")
    monkeypatch.setitem(sys.modules, "smplx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mocap-studio\[smplx\]'"):
        smpl.load(path)

"""SMPL, SMPL-H and SMPL-X as a `Body`, through the `smplx` package, for users who own the model files and its licence.

SMPL frames are y up, facing +z; ours z up, facing -y: the same signed permutation as a rotation `AXES` maps points, and
conjugates rotations. Both keep joint frames parallel to the world at rest, so a pose needs no other conversion:
our local rotation is `AXES @ R_smpl @ AXES.T`, and our root position is `AXES @ (transl + pelvis at rest)` plus the lift of
the soles to the floor at rest.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs import makehuman
from rigs.body import Body, Skin
from rigs.keypoints import COCO_WHOLEBODY
from rigs.skeleton import Skeleton

AXES = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""R_ours_smpl."""
SHAPES, EXPRESSIONS = 16, 10
"""Leading coefficients kept of each space; both are standard normal over the scans they were learned from."""

_BODY = (
    "Hips", "LeftUpLeg", "RightUpLeg", "Spine", "LeftLeg", "RightLeg", "Spine1", "LeftFoot", "RightFoot", "Spine2", "LeftToeBase",
    "RightToeBase", "Neck", "LeftShoulder", "RightShoulder", "Head", "LeftArm", "RightArm", "LeftForeArm", "RightForeArm",
    "LeftHand", "RightHand",
)  # fmt: skip
_HANDS = tuple(
    f"{side}Hand{finger}{k}" for side in ("Left", "Right") for finger in ("Index", "Middle", "Pinky", "Ring", "Thumb") for k in (1, 2, 3)
)
JOINTS = {
    # SMPL ends in one rigid joint for all fingers of each hand, which here is the hand itself.
    "SMPL": (*_BODY, "LeftHand", "RightHand"),
    "SMPL-H": (*_BODY, *_HANDS),
    "SMPL-X": (*_BODY, "Jaw", "LeftEye", "RightEye", *_HANDS),
}
"""Our name of each joint, in the model's own order."""
_NEEDED = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")


def load(path: Path) -> Body:
    """The body in an SMPL, SMPL-H or SMPL-X .npz, with the studio's 55 joints; joints the model lacks move nothing.

    The effect of the expression on joint centres (well below a millimetre) is left out. A missing file or extra is a
    `FileNotFoundError` or `ModuleNotFoundError`, a file of another kind a `ValueError`.
    """
    path = Path(path)
    kind = _kind(path)
    model = _model(path, kind)
    names = Skeleton.human().names
    place = torch.tensor([names.index(name) for name in JOINTS[kind]])
    basis = torch.einsum("ab,vbs->vas", AXES, model.shapedirs[..., :SHAPES])
    face = torch.einsum("ab,vbe->vae", AXES, model.expr_dirs) if kind == "SMPL-X" else basis[..., :0]
    weights = torch.zeros(len(basis), len(names)).index_add_(1, place, model.lbs_weights)
    vertices = model.v_template @ AXES.T
    vertices = vertices - torch.cat([torch.zeros(2), vertices[:, 2].min()[None]])
    skin = Skin(vertices, basis, face, weights, _pose_basis(model.posedirs, place))
    joints, joint_basis = _joints(model.J_regressor[: len(set(JOINTS[kind]))], skin, place)
    points = _keypoints(model, kind, skin, joints, joint_basis)
    return Body(
        name=path.stem,
        skeleton=Skeleton.human(),
        joints=joints,
        joint_shape_basis=joint_basis,
        skin=skin,
        triangles=model.faces_tensor,
        shape_names=tuple(f"beta_{k:02d}" for k in range(basis.shape[-1])),
        expression_names=tuple(f"expression_{k:02d}" for k in range(face.shape[-1])),
        keypoint_names=tuple(points),
        keypoints=Skin.stacked(list(points.values())),
        parts=makehuman.parts(weights),
        part_names=tuple(makehuman.PARTS),
    )


def _kind(path: Path) -> str:
    """Which of the three models a file holds, told by its number of joints."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path) as file:
            missing = [name for name in _NEEDED if name not in file.files]
            count = 0 if missing else len(file["J_regressor"])
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not an .npz of the SMPL family ({error})") from error
    if missing:
        raise ValueError(f"{path}: not a model of the SMPL family, it has no {missing}")
    kinds = {len(joints): kind for kind, joints in JOINTS.items()}
    if count not in kinds:
        raise ValueError(f"{path}: {count} joints; SMPL has 24, SMPL-H 52, SMPL-X 55")
    return kinds[count]


def _model(path: Path, kind: str) -> Any:
    """The package's own model, hands flat at rest."""
    try:
        import smplx  # its licence is the user's choice, so nothing but opening such a file imports it
        from smplx.utils import Struct
    except ImportError as error:
        raise ModuleNotFoundError(f"{path}: opening it needs the smplx package: pip install 'mocap-studio[smplx]'") from error
    if kind == "SMPL":
        with np.load(path) as file:
            model = smplx.SMPL(str(path), data_struct=Struct(**{name: file[name] for name in _NEEDED}), num_betas=SHAPES)
    elif kind == "SMPL-H":
        model = smplx.SMPLH(str(path), ext="npz", use_pca=False, flat_hand_mean=True, num_betas=SHAPES)
    else:
        model = smplx.SMPLX(
            str(path),
            ext="npz",
            use_pca=False,
            flat_hand_mean=True,
            num_betas=SHAPES,
            num_expression_coeffs=EXPRESSIONS,
            use_face_contour=True,
        )
    return model.requires_grad_(False)


def _pose_basis(posedirs: Float[Tensor, "P V3"], place: Tensor) -> Float[Tensor, "V 3 Q"]:
    """The pose correctives for our axes and joint order: `R - 1` of each joint is conjugated, the displacement turned."""
    given = posedirs.unflatten(0, (-1, 3, 3)).unflatten(-1, (-1, 3))
    turned = torch.einsum("xa,yb,jabvc,zc->vzjxy", AXES, AXES, given, AXES)
    ours = turned.new_zeros(*turned.shape[:2], len(Skeleton.human()), 3, 3)
    # SMPL's rigid finger joints never turn against the hand, and must not count its rotation twice.
    first = [k for k in range(1, len(place)) if place[k] not in place[:k]]
    ours[:, :, place[first]] = turned[:, :, [k - 1 for k in first]]
    return ours[:, :, 1:].flatten(2)


def _joints(regressor: Float[Tensor, "K V"], skin: Skin, place: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and shape basis of our joints; those that the model lacks stand where the default body has them, turned and
    scaled with the head's or the hand's nearest bone."""
    skeleton = Skeleton.human()
    joints, basis = torch.zeros(len(skeleton), 3), torch.zeros(len(skeleton), 3, skin.shape_basis.shape[-1])
    place = place[: len(regressor)]
    joints[place], basis[place] = regressor @ skin.rest, torch.einsum("kv,vcs->kcs", regressor, skin.shape_basis)
    missing = sorted(set(range(len(skeleton))) - set(place.tolist()))
    if missing:
        default = makehuman.load().joints
        for j in missing:
            anchor = next(a for a in _ancestors(skeleton, j) if a not in missing)
            before = skeleton.parents[anchor]
            old, new = default[anchor] - default[before], joints[anchor] - joints[before]
            joints[j] = joints[anchor] + _similarity(old, new) @ (default[j] - default[anchor])
            basis[j] = basis[anchor]
    return joints, basis


def _ancestors(skeleton: Skeleton, j: int) -> list[int]:
    up = skeleton.parents[j]
    return [] if up < 0 else [up, *_ancestors(skeleton, up)]


def _similarity(a: Float[Tensor, "3"], b: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest turn, with scale, that takes a to b."""
    size = b.norm() / a.norm()
    half = a / a.norm() + b / b.norm()
    half = half / half.norm()
    unit = a / a.norm()
    # Two reflections, first in the plane across a, then in the one across the half-way direction, make the rotation a -> b.
    eye = torch.eye(3)
    return size * (eye - 2 * half[:, None] * half) @ (eye - 2 * unit[:, None] * unit)


def _keypoints(model: Any, kind: str, skin: Skin, joints: Float[Tensor, "J 3"], joint_basis: Float[Tensor, "J 3 S"]) -> dict[str, Skin]:
    """COCO-WholeBody points: joint centres, the package's own surface vertices, and SMPL-X's 68 face points."""
    from smplx.vertex_ids import vertex_ids

    skeleton = Skeleton.human()
    vertices = {k: v for k, v in vertex_ids["smplx" if kind == "SMPL-X" else "smplh"].items() if v < len(skin)}
    parts = {"eye": "eye", "ear": "ear", "big_toe": "BigToe", "small_toe": "SmallToe", "heel": "Heel"}
    tips = {"thumb": "thumb", "forefinger": "index", "middle_finger": "middle", "ring_finger": "ring", "pinky_finger": "pinky"}
    parts |= {f"{finger}4": short for finger, short in tips.items()}
    surface = {"nose": "nose"} | {
        f"{side}_{name}": (side[0].upper() if short[0].isupper() else side[0]) + short
        for side in ("left", "right")
        for name, short in parts.items()
    }
    found = {name: skin[[vertices[short]]] for name, short in surface.items() if short in vertices}
    unmoved = torch.zeros(1, 3, skin.expression_basis.shape[-1])
    rigid = None if skin.pose_basis is None else torch.zeros_like(skin.pose_basis[:1])
    for name, joint in makehuman.JOINT_OF_KEYPOINT.items():
        j = skeleton.index(joint)
        if kind != "SMPL" or not any(f in joint for f in ("Thumb", "Index", "Middle", "Ring", "Pinky")):
            found[name] = Skin(joints[j : j + 1], joint_basis[j : j + 1], unmoved, torch.eye(len(skeleton))[j : j + 1], rigid)
    if kind == "SMPL-X":
        faces = torch.cat([model.dynamic_lmk_faces_idx[0], model.lmk_faces_idx])
        mixes = torch.cat([model.dynamic_lmk_bary_coords[0], model.lmk_bary_coords])
        for i, (face, mix) in enumerate(zip(faces, mixes)):
            found[f"face-{i}"] = skin[model.faces_tensor[face]].combined(mix[None])
    return {name: found[name] for name in COCO_WHOLEBODY if name in found}

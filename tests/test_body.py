"""Forward kinematics and skinning against plain loops over 4x4 matrices."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rigs import rotation
from rigs.body import Body, Skin
from rigs.skeleton import Skeleton

S, E, V, J = 4, 3, 40, 12


def random_body(seed=0, correctives=True):
    g = torch.Generator().manual_seed(seed)
    parents = (-1, *(int(torch.randint(0, j, (), generator=g)) for j in range(1, J)))

    def r(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weights = r(V, J).exp() * (torch.rand(V, J, generator=g) < 0.3)
    weights[:, 0] += 0.01
    skin = Skin(
        r(V, 3),
        0.1 * r(V, 3, S),
        0.1 * r(V, 3, E),
        weights / weights.sum(1, keepdim=True),
        0.02 * r(V, 3, 9 * (J - 1)) if correctives else None,
    )
    return Body(
        name="random",
        skeleton=Skeleton(tuple(f"joint{j}" for j in range(J)), parents),
        joints=r(J, 3),
        joint_shape_basis=0.1 * r(J, 3, S),
        skin=skin,
        triangles=torch.randint(0, V, (60, 3), generator=g),
        shape_names=tuple("abcd"),
        expression_names=tuple("xyz"),
        keypoint_names=("tip", "heel"),
        keypoints=skin[[3, 5]],
        uv=r(60, 3, 2),
        parts=torch.arange(V) % 2,
        part_names=("one", "two"),
    )


def naive(body, shape, vectors, translation, expression):
    """Joint and vertex positions of one person in one pose, point by point."""
    shape, vectors, translation, expression = (x.numpy() for x in (shape, vectors, translation, expression))
    rest = body.joints.numpy() + body.joint_shape_basis.numpy() @ shape
    world = []
    for j, up in enumerate(body.skeleton.parents):
        local = np.eye(4)
        local[:3, :3] = Rotation.from_rotvec(vectors[j]).as_matrix()
        local[:3, 3] = translation if up < 0 else rest[j] - rest[up]
        world.append(local if up < 0 else world[up] @ local)
    feature = np.concatenate([(Rotation.from_rotvec(v).as_matrix() - np.eye(3)).ravel() for v in vectors[1:]])
    points = []
    for v in range(len(body.skin)):
        p = body.skin.rest[v].numpy() + body.skin.shape_basis[v].numpy() @ shape + body.skin.expression_basis[v].numpy() @ expression
        if body.skin.pose_basis is not None:
            p = p + body.skin.pose_basis[v].numpy() @ feature
        terms = [w * (world[j] @ np.append(p - rest[j], 1)) for j, w in enumerate(body.skin.weights[v].numpy())]
        points.append(np.sum(terms, 0)[:3])
    return np.stack([m[:3, 3] for m in world]), np.stack(points)


def draw(seed, *batch):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*batch, *s, generator=g, dtype=torch.float64) for s in ((S,), (J, 3), (3,), (E,))]


@pytest.mark.parametrize("correctives", [True, False])
def test_posing_equals_a_plain_loop(correctives):
    body = random_body(1, correctives)
    shape, vectors, translation, expression = draw(2, 5)
    posed = body.shaped(shape).posed(vectors, translation, expression)
    for t in range(5):
        joints, points = naive(body, shape[t], vectors[t], translation[t], expression[t])
        assert np.abs(posed.joints[t].numpy() - joints).max() < 1e-12
        assert np.abs(posed.vertices()[t].numpy() - points).max() < 1e-12


def test_one_shape_in_many_poses_and_many_shapes_in_one_pose_broadcast():
    body = random_body()
    shape, vectors, translation, expression = draw(3, 4)
    one = body.shaped(shape[0]).posed(vectors, translation, expression).vertices()
    many = body.shaped(shape).posed(vectors[0], translation[0], expression[0]).vertices()
    for t in range(4):
        assert torch.allclose(one[t], body.shaped(shape[0]).posed(vectors[t], translation[t], expression[t]).vertices())
        assert torch.allclose(many[t], body.shaped(shape[t]).posed(vectors[0], translation[0], expression[0]).vertices())
    grid = body.shaped(shape[:, None]).posed(vectors[None], translation[None], expression[None])
    assert grid.vertices().shape == (4, 4, V, 3)
    assert torch.allclose(grid.vertices()[2, 3], body.shaped(shape[2]).posed(vectors[3], translation[3], expression[3]).vertices())


def test_no_rotation_is_the_rest_pose():
    body = random_body()
    shape, _, _, _ = draw(4)
    shaped = body.shaped(shape)
    posed = shaped.posed(torch.zeros(J, 3, dtype=torch.float64), shaped.joints[0])
    assert torch.allclose(posed.vertices(), shaped.rest()) and torch.allclose(posed.joints, shaped.joints)


def test_moving_the_person_moves_every_point_rigidly():
    body = random_body(5)
    shape, vectors, translation, expression = draw(6)
    R, t = rotation.exp(torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)), torch.tensor([1.0, -2, 3], dtype=torch.float64)
    moved = vectors.clone()
    moved[0] = rotation.log(R @ rotation.exp(vectors[0]))
    before = body.shaped(shape).posed(vectors, translation, expression)
    after = body.shaped(shape).posed(moved, R @ translation + t, expression)
    assert torch.allclose(after.vertices(), before.vertices() @ R.T + t)
    assert torch.allclose(after.R_world_joint, R @ before.R_world_joint)


def test_a_joint_moves_only_what_is_below_it():
    body = random_body(7)
    shape, vectors, translation, _ = draw(8)
    shaped = body.shaped(shape)
    for j in range(1, J):
        turned = vectors.clone()
        turned[j] += 0.5
        moved = (shaped.posed(turned, translation).joints - shaped.posed(vectors, translation).joints).norm(dim=-1) > 1e-9
        below = body.skeleton.under[:, j].clone()
        below[j] = False
        assert not (moved & ~below).any()


def test_chosen_points_move_like_the_mesh():
    body = random_body(9)
    shape, vectors, translation, expression = draw(10, 3)
    posed = body.shaped(shape).posed(vectors, translation, expression)
    assert torch.allclose(posed.points(body.keypoint_skin(["heel"])), posed.vertices()[:, [5]])
    assert torch.allclose(posed.points(Skin.stacked([body.skin[:2], body.skin[[7]]])), posed.vertices()[:, [0, 1, 7]])
    assert posed.points(body.skin[[]]).shape == (3, 0, 3)


def test_a_mixture_of_points_of_one_bone_stays_the_mixture():
    body = random_body(11, correctives=False)
    rigid = Skin(body.skin.rest, body.skin.shape_basis, body.skin.expression_basis, torch.eye(J, dtype=torch.float64)[[4] * V])
    shape, vectors, translation, expression = draw(12)
    posed = body.shaped(shape).posed(vectors, translation, expression)
    mix = torch.rand(6, V, dtype=torch.float64)
    mix = mix / mix.sum(1, keepdim=True)
    assert torch.allclose(posed.points(rigid.combined(mix)), mix @ posed.points(rigid))


def test_the_gradient_of_a_point_matches_differences():
    body = random_body(13)
    shape, vectors, translation, expression = (x.requires_grad_() for x in draw(14))
    torch.autograd.gradcheck(
        lambda *x: body.shaped(x[0]).posed(x[1], x[2], x[3]).points(body.skin[[1, 2]]), (shape, vectors, translation, expression)
    )


def test_a_saved_body_comes_back_whole(tmp_path):
    body = random_body(15)
    body.save(tmp_path / "body.safetensors")
    again = Body.load(tmp_path / "body.safetensors")
    shape, vectors, translation, expression = draw(16)
    poses = [b.shaped(shape).posed(vectors, translation, expression) for b in (body, again)]
    assert torch.equal(poses[0].vertices(), poses[1].vertices())
    assert torch.equal(poses[0].points(body.keypoints), poses[1].points(again.keypoints))
    for name in ("name", "skeleton", "shape_names", "expression_names", "keypoint_names", "part_names"):
        assert getattr(again, name) == getattr(body, name)
    assert torch.equal(again.uv, body.uv) and torch.equal(again.parts, body.parts) and torch.equal(again.triangles, body.triangles)
    assert [p.name for p in tmp_path.iterdir()] == ["body.safetensors"]


def test_a_damaged_body_file_is_refused_by_name(tmp_path):
    random_body(15).save(tmp_path / "body.safetensors")
    whole = (tmp_path / "body.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.safetensors"):
        Body.load(tmp_path / "half.safetensors")


def test_single_precision_reaches_every_tensor():
    body = random_body().to(dtype=torch.float32)
    tensors = [body.joints, body.joint_shape_basis, body.skin.rest, body.skin.pose_basis, body.keypoints.weights, body.uv]
    assert {t.dtype for t in tensors} == {torch.float32}
    assert body.triangles.dtype == torch.int64


def test_a_skeleton_refuses_a_child_before_its_parent():
    with pytest.raises(ValueError, match="parent must come before"):
        Skeleton(("a", "b", "c"), (-1, 2, 0))
    with pytest.raises(ValueError, match="names must differ"):
        Skeleton(("a", "a"), (-1, 0))


def test_the_human_tree_has_both_sides_alike():
    human = Skeleton.human()
    assert len(human) == 55
    other = human.mirrored()
    for j, up in enumerate(human.parents):
        assert other[other[j]] == j
        assert up < 0 or human.parents[other[j]] == other[up]
    assert sum(other[j] == j for j in range(55)) == 7  # Hips, three spines, neck, head, jaw
    assert human.names[human.parents[human.index("LeftHandThumb1")]] == "LeftHand"


def test_under_is_reachability():
    human = Skeleton.human()
    for j in range(len(human)):
        chain, i = {j}, j
        while human.parents[i] >= 0:
            i = human.parents[i]
            chain.add(i)
        assert set(human.under[j].nonzero().flatten().tolist()) == chain

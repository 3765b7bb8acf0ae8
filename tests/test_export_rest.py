"""The rest pose: what a T-pose is, and that re-expressing a motion on it moves nothing."""

from dataclasses import replace

import pytest
import torch
from export_scene import motion, person, truth, y_up

from rigs.euler import unrolled
from studio.export.animation import character, resampled
from studio.export.mesh import surface
from studio.export.rest import aimed, t_pose


@pytest.fixture(scope="module")
def scene():
    body = person()
    moved = motion(body)
    return body, moved, character(moved, body)


def directions(rest, skeleton, a, b):
    d = rest[skeleton.index(b)] - rest[skeleton.index(a)]
    return d / d.norm()


def test_arms_are_level_and_legs_straight_in_the_t_pose(scene):
    body, _, c = scene
    for side, x in (("Left", 1.0), ("Right", -1.0)):
        for a, b in (("Arm", "ForeArm"), ("ForeArm", "Hand"), ("Hand", "HandMiddle1")):
            assert torch.allclose(directions(c.rest, body.skeleton, side + a, side + b), torch.tensor([x, 0, 0]).double(), atol=1e-6), a
        for a, b in (("UpLeg", "Leg"), ("Leg", "Foot")):
            assert torch.allclose(directions(c.rest, body.skeleton, side + a, side + b), torch.tensor([0, -1.0, 0]).double(), atol=1e-6), a
        foot = directions(c.rest, body.skeleton, side + "Foot", side + "ToeBase")
        assert abs(foot[0]) < 1e-6 and foot[2] > 0.5


def test_palms_look_down_and_fingers_are_straight_in_the_t_pose(scene):
    body, _, c = scene
    for side, x in (("Left", 1.0), ("Right", -1.0)):
        across = directions(c.rest, body.skeleton, f"{side}HandPinky1", f"{side}HandIndex1")
        assert abs(across[1]) < 1e-6 and across[2] > 0.5  # forefinger before little finger, neither higher
        for finger in ("Index", "Middle", "Ring", "Pinky"):
            first = directions(c.rest, body.skeleton, f"{side}Hand{finger}1", f"{side}Hand{finger}2")
            second = directions(c.rest, body.skeleton, f"{side}Hand{finger}2", f"{side}Hand{finger}3")
            end = c.ends[body.skeleton.index(f"{side}Hand{finger}3")] - c.rest[body.skeleton.index(f"{side}Hand{finger}3")]
            assert abs(first[1]) < 1e-6 and first[0] * x > 0.7
            assert torch.allclose(first, second, atol=1e-6) and torch.allclose(first, end / end.norm(), atol=1e-6)


def test_bones_keep_their_length_and_the_soles_stand_on_the_floor(scene):
    body, moved, c = scene
    shaped = truth(body, moved).shaped
    parents = torch.tensor(body.skeleton.parents[1:])
    before, after = (shaped.joints[1:] - shaped.joints[parents]).norm(dim=-1), c.offsets[1:].norm(dim=-1)
    assert torch.allclose(before, after, atol=1e-9)
    world = torch.eye(4).double().repeat(len(c.rest), 1, 1)
    world[:, :3, 3] = c.rest
    bones = world @ c.inverse_bind
    mesh = torch.cat([y_up(shaped.rest()), torch.ones(len(body.skin), 1).double()], -1)
    stood = torch.einsum("pj,jab,pb->pa", shaped.body.skin.weights, bones, mesh)
    assert abs(float(stood[:, 1].min())) < 1e-9


@pytest.mark.parametrize("rest", ["t", "a"])
def test_joints_and_skin_are_where_the_body_model_has_them_whatever_the_rest_pose(scene, rest):
    body, moved, _ = scene
    c = character(moved, body, rest)
    posed = truth(body, moved)
    R, p = c.skeleton.forward(c.R_parent_joint, c.rest, c.root)
    assert (p - y_up(posed.joints)).abs().max() < 1e-9
    world = torch.eye(4).double().repeat(*p.shape[:2], 1, 1)
    world[..., :3, :3], world[..., :3, 3] = R, p
    skin = posed.shaped.body.skin
    neutral = posed.shaped.rest() + torch.einsum("pce,te->tpc", skin.expression_basis, moved.expression)
    mesh = torch.cat([y_up(neutral), torch.ones(*neutral.shape[:2], 1).double()], -1)
    skinned = torch.einsum("pj,tjab,tpb->tpa", skin.weights, world @ c.inverse_bind, mesh)[..., :3]
    assert (skinned - y_up(posed.vertices())).abs().max() < 1e-9


def test_the_models_own_rest_pose_is_left_alone(scene):
    body, moved, _ = scene
    c = character(moved, body, "a")
    assert torch.allclose(c.rest, c.bind, atol=1e-12) and bool((c.R_rest_bind == torch.eye(3)).all())
    assert not torch.allclose(t_pose(truth(body, moved).shaped), torch.eye(3).double(), atol=0.1)  # the other is a real change


def test_aiming_turns_one_direction_onto_another_even_backwards():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20, 3, generator=g, dtype=torch.float64)
    for start, goal in [
        *zip(a, b),
        (a[0], a[0]),
        (a[0], -2 * a[0]),
        (torch.tensor([0, 0, 1.0]).double(), torch.tensor([0, 0, -1.0]).double()),
    ]:
        R = aimed(start, goal)
        assert torch.allclose(R @ start / start.norm(), goal / goal.norm(), atol=1e-9)
        assert torch.allclose(R @ R.T, torch.eye(3).double(), atol=1e-9)


def test_an_unknown_rest_pose_is_refused(scene):
    body, moved, _ = scene
    with pytest.raises(ValueError, match="rest pose 'x'"):
        character(moved, body, "x")


def test_a_rebound_skin_is_bound_in_the_t_pose_and_exact_in_the_models_own(scene):
    body, moved, exact = scene
    c = character(moved, body, rebound=True)
    assert torch.equal(c.R_parent_joint, exact.R_parent_joint) and torch.equal(c.rest, exact.rest)
    assert torch.equal(c.inverse_bind[:, :3, :3], torch.eye(3).double().expand(55, 3, 3))
    still = replace(moved, rotation=0 * moved.rotation, translation=0 * moved.translation)
    back = character(still, body, rebound=True)  # the model's own pose, as rotations from the T-pose
    R, p = back.skeleton.forward(back.R_parent_joint[0], back.rest, back.root[0])
    world = torch.eye(4).double().repeat(len(p), 1, 1)
    world[:, :3, :3], world[:, :3, 3] = R, p
    mesh = surface(c, split=False)
    for face, shown in ((0, mesh.points), (2, mesh.points + mesh.expressions[2])):
        points = torch.cat([shown, torch.ones(len(shown), 1).double()], -1)
        skinned = torch.einsum("pj,jab,pb->pa", truth(body, moved).shaped.body.skin.weights, world @ back.inverse_bind, points)[:, :3]
        expression = torch.nn.functional.one_hot(torch.tensor([face]), 3).double() * (face > 0)
        posed = truth(body, replace(still.cut(slice(0, 1)), expression=expression))
        assert torch.allclose(skinned, y_up(posed.vertices()[0]), atol=1e-9)
    stood = torch.linalg.inv(exact.inverse_bind)[:, :3, 3]
    assert not torch.allclose(stood, c.rest, atol=0.1)  # the other kind of file is bound elsewhere


def test_a_bone_without_length_leaves_the_pose_finite(scene):
    body, moved, _ = scene
    joints = body.joints.clone()
    for child, parent in (("LeftHandIndex2", "LeftHandIndex1"), ("RightForeArm", "RightArm"), ("LeftToeBase", "LeftFoot")):
        joints[body.skeleton.index(child)] = joints[body.skeleton.index(parent)]
    flat = replace(body, joints=joints, joint_shape_basis=torch.zeros_like(body.joint_shape_basis))
    c = character(moved, flat)
    assert bool(torch.isfinite(c.R_parent_joint).all()) and bool(torch.isfinite(c.rest).all())


def test_resampling_keeps_the_frames_both_rates_share_and_never_runs_past_the_end(scene):
    _, _, c = scene
    slow, fast = resampled(c, c.fps / 2), resampled(c, 2 * c.fps)
    assert len(slow.root) == 31 and len(fast.root) == 121 and fast.first_frame == 240
    for other, here, there in ((slow, slice(None), slice(None, None, 2)), (fast, slice(None, None, 2), slice(None))):
        assert torch.allclose(other.R_parent_joint[here], c.R_parent_joint[there], atol=1e-9)
        assert torch.allclose(other.root[here], c.root[there]) and torch.allclose(other.expression[here], c.expression[there])
    odd = resampled(c, 23.976)
    assert (len(odd.root) - 1) / 23.976 <= 60 / c.fps < len(odd.root) / 23.976


def test_a_steady_turn_stays_steady_when_resampled(scene):
    _, _, c = scene
    heading = torch.rad2deg(unrolled(resampled(c, 24.0).R_parent_joint[:, 0], "YXZ")[:, 0])
    assert torch.allclose(heading.diff(), torch.full((len(heading) - 1,), 720 / 60 * c.fps / 24).double(), atol=1e-6)


def test_a_senseless_rate_is_refused(scene):
    with pytest.raises(ValueError, match="fps 0 must lie"):
        resampled(scene[2], 0.0)

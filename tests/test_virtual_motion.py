"""Scripted and BVH motion: feet stand, knees bend the right way, seeds differ."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rigs import makehuman
from rigs.characters.bvh import read
from studio.virtual.actions import ACTIONS
from studio.virtual.bvh import from_bvh, matched
from studio.virtual.motion import scripted
from studio.virtual.truth import contacts, posed_at

ORACLE = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared/data")) / "bvh_oracle"


@pytest.fixture(scope="module")
def body():
    return makehuman.load()


@pytest.mark.parametrize("motion", ["walk", "lunge", "squat", "kick", "mixed"])
def test_planted_feet_stay_where_they_are_on_the_floor(body, motion):
    performance = scripted(body, 90, 30, 7, motion)
    soles = torch.nonzero(body.skin.rest[:, 2] < 0.01)[:, 0]
    points = posed_at(performance).points(body.skin[soles])
    assert points[..., 2].min() > -0.003, "no sole goes through the floor"
    left = points[:, body.skin.rest[soles, 0] > 0]
    right = points[:, body.skin.rest[soles, 0] < 0]
    planted = contacts(performance, 30)
    assert planted.amax(-1).min() == 1, "something always carries the person"
    assert points[..., 2].amin(-1).max() < 0.005
    stood = 0
    for foot, (heel, toe) in ((left, (0, 1)), (right, (2, 3))):
        flat = (planted[:-1, heel] * planted[:-1, toe] * planted[1:, heel] * planted[1:, toe]) > 0
        slide = (foot[1:] - foot[:-1]).norm(dim=-1).amax(-1)
        assert (slide[flat] < 0.003).all()
        stood += int(flat.sum())
    assert stood > 45


def test_a_walk_lifts_each_foot_and_leaves_the_place(body):
    performance = scripted(body, 150, 30, 3, "walk")
    planted = contacts(performance, 30)
    assert (planted.mean(0) < 0.9).all() and (planted.mean(0) > 0.3).all()
    assert (performance.translation.amax(0) - performance.translation.amin(0))[:2].max() > 0.15


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_knees_and_elbows_bend_one_way_and_fingers_curl_to_the_palm(body, seed):
    performance = scripted(body, 240, 15, seed, "mixed")
    posed = posed_at(performance)
    J = {n: posed.joints[:, j] for j, n in enumerate(body.skeleton.names)}
    R = {n: posed.R_world_joint[:, j] for j, n in enumerate(body.skeleton.names)}
    for side in ("Left", "Right"):
        ahead = -R[f"{side}Leg"][..., 1]
        knee = J[f"{side}Leg"] - (J[f"{side}UpLeg"] + J[f"{side}Foot"]) / 2
        assert ((knee * ahead).sum(-1) > -0.02).all()
        upper, fore = J[f"{side}ForeArm"] - J[f"{side}Arm"], J[f"{side}Hand"] - J[f"{side}ForeArm"]
        bend = torch.acos(torch.cosine_similarity(upper, fore))
        assert bend.max() < 2.6
        for finger in ("Index", "Middle", "Ring", "Pinky"):
            tip, root, wrist = J[f"{side}Hand{finger}3"], J[f"{side}Hand{finger}1"], J[f"{side}Hand"]
            across = torch.linalg.cross(J[f"{side}HandIndex1"] - wrist, J[f"{side}HandPinky1"] - wrist) * (1 if side == "Right" else -1)
            out_of_palm = ((tip - root) * across).sum(-1) / across.norm(dim=-1)
            assert out_of_palm.min() > -0.02, "a finger bends backwards"
            assert out_of_palm.max() > 0.012, "a finger never curls"


def test_every_finger_moves_on_its_own(body):
    rotation = torch.cat([scripted(body, 200, 30, seed, "hands").rotation for seed in range(3)])
    curl = torch.stack(
        [rotation[:, body.skeleton.index(f"LeftHand{f}2")].norm(dim=-1) for f in ("Thumb", "Index", "Middle", "Ring", "Pinky")]
    )
    assert (torch.corrcoef(curl) - torch.eye(5)).max() < 0.97
    assert (curl.amax(1) - curl.amin(1) > 0.4).all()


def test_motion_belongs_to_its_seed(body):
    one, same, other = (scripted(body, 40, 30, seed, "mixed") for seed in (5, 5, 6))
    assert torch.equal(one.rotation, same.rotation) and torch.equal(one.expression, same.expression)
    assert (one.rotation - other.rotation).abs().max() > 0.1


def test_motion_has_no_jumps(body):
    for seed in range(3):
        joints = posed_at(scripted(body, 300, 30, seed, "mixed")).joints
        assert torch.diff(joints, dim=0).norm(dim=-1).max() < 0.25, "no joint is faster than 7.5 m/s"
        assert torch.diff(joints, n=2, dim=0).norm(dim=-1).max() < 0.08


def test_faces_blink_smile_and_open_the_mouth(body):
    expression = scripted(body, 300, 30, 2, "look_around").expression
    moved = {n for n, low, high in zip(body.expression_names, expression.amin(0), expression.amax(0)) if high - low > 0.3}
    assert {"eyeBlinkLeft", "eyeBlinkRight"} <= moved and len(moved) >= 6
    assert expression.min() >= 0 and expression.max() <= 1


def test_an_unknown_script_is_named_with_the_known_ones(body):
    with pytest.raises(ValueError, match="walk") as error:
        scripted(body, 10, 30, 0, "moonwalk")
    assert all(name in str(error.value) for name in ACTIONS)


ARM = """HIERARCHY
ROOT Hips
{
 OFFSET 0 90 0
 CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
%s
}
MOTION
Frames: 3
Frame Time: 0.1
%s
"""


def chain(names, offsets):
    if not names:
        return " End Site\n {\n OFFSET 0 -5 0\n }\n"
    return f" JOINT {names[0]}\n {{\n OFFSET {offsets[0]}\n CHANNELS 3 Zrotation Xrotation Yrotation\n{chain(names[1:], offsets[1:])} }}\n"


def test_a_bvh_knee_bends_the_performer_s_knee_by_the_same_angle(body, tmp_path):
    limbs = ""
    for side, x in (("Left", 1), ("Right", -1)):
        limbs += chain([f"{side}UpLeg", f"{side}Leg", f"{side}Foot"], [f"{10 * x} 0 0", "0 -42 0", "0 -41 0"])
        limbs += chain([f"{side}Arm", f"{side}ForeArm", f"{side}Hand"], [f"{15 * x} 50 0", f"{28 * x} 0 0", f"{25 * x} 0 0"])
    rows = []
    for bend in (0, 40, 80):
        row = [0, 90, 0] + [0] * 3 + [0] * 36
        row[6 + 4] = bend  # the left knee's x rotation: LeftUpLeg has three channels, then LeftLeg z x y
        rows.append(" ".join(map(str, row)))
    path = tmp_path / "knee.bvh"
    path.write_text(ARM % (limbs, "\n".join(rows)))
    performance = from_bvh(body, path, 3, 10, 0)
    joints = posed_at(performance).joints
    at = lambda n: joints[:, body.skeleton.index(n)]  # noqa: E731
    for side, expected in (("Left", [0, 40, 80]), ("Right", [0, 0, 0])):
        thigh, shin = at(f"{side}Leg") - at(f"{side}UpLeg"), at(f"{side}Foot") - at(f"{side}Leg")
        angle = torch.rad2deg(torch.acos(torch.cosine_similarity(thigh, shin).clamp(-1, 1)))
        # Setting a straight leg's foot on the floor within a millimetre bends its knee by 5 degrees; a bent one hardly moves.
        assert ((angle - torch.tensor(expected)).abs() < torch.tensor([6 if e == 0 else 1 for e in expected])).all()
    arm = at("LeftHand") - at("LeftArm")
    assert (arm / arm.norm(dim=-1, keepdim=True) - torch.tensor([1.0, 0, 0])).abs().max() < 0.02, "the file's T-pose is a T-pose here"


@pytest.mark.parametrize(
    "break_it", [lambda s: s.replace("MOTION", ""), lambda s: s.replace("OFFSET 0 90 0", "OFFSET 0 x 0"), lambda s: s[:-20]]
)
def test_a_broken_bvh_is_an_error_that_names_the_file(tmp_path, break_it):
    path = tmp_path / "broken.bvh"
    path.write_text(break_it(ARM % (chain(["LeftUpLeg"], ["1 0 0"]), "\n".join(["0 90 0 0 0 0 10 20 30"] * 3))))
    with pytest.raises(ValueError, match=r"broken\.bvh"):
        read(path)


def test_a_bvh_without_frames_is_refused_and_namespaces_of_its_joints_are_looked_past(body, tmp_path):
    path = tmp_path / "still.bvh"
    path.write_text((ARM % (chain(["mixamorig:LeftUpLeg"], ["1 0 0"]), "")).replace("Frames: 3", "Frames: 0"))
    assert set(matched(read(path))) == {"Hips", "LeftUpLeg"}
    with pytest.raises(ValueError, match=r"still\.bvh: holds no frames"):
        from_bvh(body, path, 3, 10, 0)


@pytest.mark.skipif(not ORACLE.is_dir(), reason=f"{ORACLE} is absent")
def test_a_bvh_file_puts_its_joints_where_another_tool_puts_them():
    bvh = read(ORACLE / "walk01.bvh")
    _, positions = bvh.forward()
    table = np.genfromtxt(next(ORACLE.glob("*pos*.csv")), delimiter=",", names=True, deletechars="")
    for j, name in enumerate(bvh.skeleton.names):
        theirs = np.stack([table[f"{name}.{axis}"] for axis in "xyz"], 1)
        assert np.abs(positions[:, j].numpy() - theirs).max() < 1e-2
    assert {"Hips", "LeftUpLeg", "RightForeArm", "Head"} <= set(matched(bvh))


@pytest.mark.skipif(not ORACLE.is_dir(), reason=f"{ORACLE} is absent")
def test_feet_of_a_borrowed_walk_stand_still_on_the_floor(body):
    performance = from_bvh(body, ORACLE / "walk01.bvh", 90, 30, 0)
    planted = contacts(performance, 30)
    soles = torch.nonzero(body.skin.rest[:, 2] < 0.01)[:, 0]
    points = posed_at(performance).points(body.skin[soles])
    assert points[..., 2].min() > -0.01
    assert (planted[:, [1, 3]].mean(0) > 0.12).all() and planted.amax(-1).mean() > 0.6
    assert torch.diff(posed_at(performance).joints, n=2, dim=0).norm(dim=-1).max() < 0.08

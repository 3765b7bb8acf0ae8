"""Ranges of motion mean the same on both sides, flex the right way, and let limbs straighten."""

import math

import pytest
import torch

from rigs import makehuman, rotation
from rigs.anatomy import anatomy

BODY = makehuman.load()
ANATOMY = anatomy(BODY)


def turned(joint: str, axis: int, degrees: float) -> torch.Tensor:
    """Joint positions with one joint turned about one of its axes."""
    j = BODY.skeleton.index(joint)
    pose = torch.zeros(len(BODY.skeleton), 3)
    pose[j] = ANATOMY.axes[j, axis] * math.radians(degrees)
    return BODY.shaped(torch.zeros(len(BODY.shape_names))).posed(pose, BODY.joints[0]).joints


@pytest.mark.parametrize(
    ("joint", "end", "direction"),
    [
        ("ForeArm", "Hand", (0, -1, 0)),
        ("Leg", "Foot", (0, 1, 0)),
        ("UpLeg", "Leg", (0, -1, 0)),
        ("Foot", "ToeBase", (0, 0, 1)),
        ("Arm", "ForeArm", (0, -1, 0)),
    ],
)
def test_flexion_goes_where_anatomy_says_on_both_sides(joint, end, direction):
    for side in ("Left", "Right"):
        moved = turned(side + joint, 0, 20)[BODY.skeleton.index(side + end)] - BODY.joints[BODY.skeleton.index(side + end)]
        assert float(moved @ torch.tensor(direction, dtype=moved.dtype)) > 0.5 * float(moved.norm())


def test_fingers_flex_towards_the_palm():
    for side in ("Left", "Right"):
        wrist, tip = BODY.skeleton.index(side + "Hand"), BODY.skeleton.index(side + "HandMiddle3")
        curled = turned(side + "HandMiddle1", 0, 60)
        assert (curled[tip] - curled[wrist]).norm() < (BODY.joints[tip] - BODY.joints[wrist]).norm() - 0.01


def test_abduction_lifts_the_arm_and_spreads_the_leg_on_both_sides():
    for side, out in (("Left", 1.0), ("Right", -1.0)):
        elbow, knee = BODY.skeleton.index(side + "ForeArm"), BODY.skeleton.index(side + "Leg")
        assert turned(side + "Arm", 1, 20)[elbow, 2] > BODY.joints[elbow, 2] + 0.03
        assert out * (turned(side + "UpLeg", 1, 20)[knee, 0] - BODY.joints[knee, 0]) > 0.03


@pytest.mark.parametrize(
    ("upper", "hinge", "end"), [("Arm", "ForeArm", "Hand"), ("UpLeg", "Leg", "Foot"), ("HandIndex1", "HandIndex2", "HandIndex3")]
)
def test_a_hinge_can_be_straight_and_hardly_more(upper, hinge, end):
    for side in ("Left", "Right"):
        a, b, c = (BODY.skeleton.index(side + n) for n in (upper, hinge, end))
        for degrees, least, most in ((math.degrees(float(ANATOMY.low[b, 0])), 0, 11), (math.degrees(float(ANATOMY.high[b, 0])), 100, 152)):
            p = turned(side + hinge, 0, degrees)
            bend = math.degrees(math.acos(float(torch.nn.functional.cosine_similarity(p[b] - p[a], p[c] - p[b], dim=0))))
            assert least <= bend <= most


def test_the_relaxed_pose_is_within_every_range():
    assert ((ANATOMY.low <= ANATOMY.mean) & (ANATOMY.mean <= ANATOMY.high)).all()


def test_axes_are_orthonormal_and_mirrored():
    assert torch.allclose(ANATOMY.axes @ ANATOMY.axes.mT, torch.eye(3).expand(len(BODY.skeleton), 3, 3), atol=1e-5)
    mirror = torch.tensor([1.0, -1.0, -1.0])  # of a rotation axis, across the sagittal plane
    for name in BODY.skeleton.names:
        if name.startswith("Left"):
            left, right = (ANATOMY.axes[BODY.skeleton.index(s + name[4:])] for s in ("Left", "Right"))
            assert torch.allclose(left * mirror, right, atol=0.03), name
    assert rotation.exp(ANATOMY.axes[0]).shape == (3, 3, 3)

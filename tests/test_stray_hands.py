"""Hands that a network found where the arm does not end."""

import pytest
import torch
from test_track import ring

from studio.stray_hands import stray_hands

NAMES = tuple(f"{s}_{p}" for s in ("left", "right") for p in ("elbow", "wrist", "hand_root", "thumb4", "pinky_finger2"))
FRAMES = 30


@pytest.fixture
def seen():
    """A person's arms who turns before four cameras: cameras, pixels, sigma, confidence, distance."""
    cameras, turn = ring(4), torch.linspace(0, 6, FRAMES, dtype=torch.float64)
    along = torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], -1)
    up = torch.tensor([0.0, 0.0, 1.2], dtype=torch.float64)
    arm = [s * along * 0.25 + up + d * torch.tensor([0.0, 0.0, -1.0]) for s in (1, -1) for d in (0.0, 0.25, 0.28, 0.36, 0.38)]
    points = torch.stack(arm, 1)
    pixels = cameras.project(points.flatten(0, 1)).view(4, FRAMES, len(NAMES), 2).float()
    pixels += 2 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    depth = cameras.to_camera(points.mean(1))[..., 2]
    flat = torch.ones(4, FRAMES, len(NAMES))
    return cameras, pixels, 3 * flat, 0.9 * flat, depth


def left(*parts):
    return [NAMES.index(f"left_{p}") for p in parts]


HAND = left("hand_root", "thumb4", "pinky_finger2")


def other_hand(seen, camera=1, sure=0.1):
    """One view takes the right hand for the left one, whose wrist it does not see for sure."""
    cameras, pixels, sigma, confidence, distance = seen
    pixels[camera][:, HAND] = pixels[camera][:, [k + 5 for k in HAND]]
    confidence[camera][:, left("wrist")] = sure
    apart = (pixels[camera][:, HAND[0]] - pixels[camera][:, left("wrist")[0]]).norm(dim=-1)
    return (cameras, NAMES, pixels, sigma, confidence, distance), apart > 60  # where the hands are behind each other nothing is wrong


def test_hands_at_the_end_of_their_arms_stay(seen):
    cameras, pixels, sigma, confidence, distance = seen
    assert not stray_hands(cameras, NAMES, pixels, sigma, confidence, distance).any()


@pytest.mark.parametrize("sure", [0.1, 0.9])
def test_the_other_hand_is_told_and_nothing_else(seen, sure):
    told, apart = other_hand(seen, sure=sure)
    stray = stray_hands(*told)
    assert apart.sum() > 10 and stray[1, apart][:, HAND].all()
    stray[1, :, HAND] = False
    assert not stray.any()


def test_two_views_do_not_outvote_a_third_that_saw_the_wrist_itself(seen):
    told, apart = other_hand(seen, sure=0.9)
    told[4][2] = 0.0  # one camera sees nothing; the two that are left stand at a right angle
    told[3][2] = torch.inf
    assert not stray_hands(*told).any()
    told[4][1, :, left("wrist")] = 0.1
    assert stray_hands(*told)[1, apart][:, HAND].all()


def test_views_that_disagree_about_the_wrist_say_nothing(seen):
    told, _ = other_hand(seen)
    told[2][3][:, left("wrist")] += 150  # no forearm is that long
    told[4][2] = 0.0
    told[3][2] = torch.inf
    assert not stray_hands(*told)[1].any()


def test_two_cameras_or_other_keypoints_tell_nothing(seen):
    told, _ = other_hand(seen)
    cameras, names, *rest = told
    assert not stray_hands(cameras[list(cameras.names[:2])], names, *(x[:2] for x in rest)).any()
    assert not stray_hands(cameras, tuple(n.replace("hand_root", "palm") for n in names), *rest).any()

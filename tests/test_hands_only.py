"""Footage that shows hands and no body: found, named alike in all views, and fitted while the unseen rest keeps still."""

import math
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.cameras import joined, single
from rigs import makehuman, rotation
from rigs.keypoints import COCO_WHOLEBODY, GROUPS, RIGHT_HAND
from studio.detect.hands import Followed, Hands, named
from studio.detect.landmarks import HandSight
from studio.fit.config import FitConfig
from studio.fit.observed import Observed
from studio.fit.person import fit_actor
from studio.fit.points import Model
from studio.fit.seat import elbow, seated
from studio.fit.state import State
from studio.track import found_actors, track_actors
from studio.values import Keypoints2D
from studio.video import frames

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "handpose_two_view"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real footage in {DATA}; set STUDIO_DATA")
T = 40
RIGHT, LEFT = list(GROUPS["right_hand"]), list(GROUPS["left_hand"])


def two_views(target: torch.Tensor):
    """Cameras to the right of and above a place, 0.9 m away."""
    views = []
    for name, place in (("c0", (-0.6, -0.3, 0.6)), ("c1", (0.1, -0.75, 0.5))):
        position = target + torch.tensor(place)
        z = torch.nn.functional.normalize(target - position, dim=0)
        x = torch.nn.functional.normalize(torch.linalg.cross(z, torch.tensor([0.0, 0, 1])), dim=0)
        R = torch.stack([x, torch.linalg.cross(z, x), z]).double()
        size = torch.tensor([720.0, 720]).double()
        views.append(single(name, size, size + 200, size / 2 - 0.5, torch.zeros(8).double(), "brown", R, position.double()))
    return joined(views)


@cache
def scene(noise: float = 1.0):
    """True keypoints (T, K, 3) of somebody who moves one forearm, wrist and fingers, and what two cameras see of the right hand."""
    person = makehuman.individual(4)
    names = person.skeleton.names
    t = torch.arange(T) / 30
    turn = torch.zeros(T, len(names), 3)
    R = rotation.exp(turn)
    set_ = lambda joint, r: R.index_copy_(1, torch.tensor([names.index(joint)]), rotation.exp(r)[:, None])  # noqa: E731
    of = lambda *axes: torch.stack(torch.broadcast_tensors(*(torch.as_tensor(a) for a in axes)), -1)  # noqa: E731
    set_("RightArm", of(0.3 + 0.2 * torch.sin(2 * t), 0.6, 0.2 * torch.cos(3 * t)))
    set_("RightForeArm", of(0.2, 0.9 + 0.4 * torch.sin(3 * t), 0.3))
    for i, finger in enumerate(("Index", "Middle", "Ring", "Pinky")):
        set_(f"RightHand{finger}1", of(0.0, 0.0, -0.4 - 0.3 * torch.sin(3 * t + i)))
    state = State(R, torch.tensor([0.2, 0.1, 0.95]).expand(T, 3).clone(), torch.zeros(T, len(person.expression_names)))
    truth = Model(person, person.keypoint_skin(COCO_WHOLEBODY)).place(state, torch.zeros(0)).points
    cameras = two_views(truth[:, RIGHT].mean((0, 1)))
    g = torch.Generator().manual_seed(0)
    pixels = cameras.project(truth.double()) + noise * torch.randn(2, T, len(COCO_WHOLEBODY), 2, generator=g, dtype=torch.float64)
    unseen = [k for k in range(len(COCO_WHOLEBODY)) if k not in RIGHT]
    pixels[:, :, unseen] = math.nan
    sigma = torch.where(pixels[..., 0].isnan(), math.inf, noise)
    return truth, cameras, pixels, sigma


@cache
def fitted():
    truth, cameras, pixels, sigma = scene()
    rough = truth.clone()
    rough[:, [k for k in range(truth.shape[1]) if k not in RIGHT]] = math.nan
    seen = Observed(cameras, COCO_WHOLEBODY, "exact", 30.0, pixels, sigma, rough)
    return fit_actor(makehuman.load(), seen, FitConfig(key_frames=12))


def footage(*named_left: tuple[int, slice], also: float = 0.0) -> Keypoints2D:
    """The scene's hand as detections, called a left one in some views and frames."""
    _, cameras, pixels, sigma = scene()
    pixels, sigma = pixels.clone().float(), sigma.clone().float()
    for c, span in named_left:
        pixels[c, span, LEFT], pixels[c, span, RIGHT] = pixels[c, span][:, RIGHT], math.nan
        sigma[c, span, LEFT], sigma[c, span, RIGHT] = sigma[c, span][:, RIGHT], math.inf
    return Keypoints2D(
        cameras.names, COCO_WHOLEBODY, "exact", 30.0, 0, pixels[:, :, None], sigma[:, :, None], sigma.isfinite().float()[:, :, None]
    )


def test_fingers_follow_where_only_a_hand_is_seen():
    body = makehuman.load()
    found = Model(body, body.keypoint_skin(COCO_WHOLEBODY)).place(fitted().state, fitted().shape).points
    gap = (found - scene()[0])[:, RIGHT].norm(dim=-1)
    assert gap.mean() < 0.004 and gap[:, 4::4].mean(0).max() < 0.006  # each finger's tip


def test_an_unseen_body_keeps_still_upright_and_uncertain_while_the_arm_moves_the_hand():
    body, result = makehuman.load(), fitted()
    joints = body.shaped(result.shape).posed(rotation.log(result.state.R), result.state.root).joints
    at = lambda name: joints[:, body.skeleton.index(name)]  # noqa: E731
    way = lambda x: float((x - x.mean(0)).norm(dim=-1).max())  # noqa: E731
    assert way(at("RightHand")) > 0.08
    assert way(at("Hips")) < 0.02 and way(at("Neck")) < 0.04
    up = at("Neck") - at("Hips")
    assert (up[:, 2] / up.norm(dim=-1)).min() > 0.95
    sigma = lambda name: float(result.sigma[:, body.skeleton.index(name)].median())  # noqa: E731
    assert sigma("Hips") > 0.3 and sigma("LeftFoot") > 0.3 and sigma("RightForeArm") > 0.05
    assert sigma("RightHand") < 0.01 and sigma("RightHandIndex3") < 0.01
    assert not bool(result.contacts.any())  # feet that nobody saw are on no floor


def test_a_seat_is_only_for_those_whose_trunk_nobody_saw():
    points = scene()[0].clone()
    assert seated(makehuman.load(), COCO_WHOLEBODY, points) is None
    points[:, [k for k in range(points.shape[1]) if k not in RIGHT]] = math.nan
    assert seated(makehuman.load(), COCO_WHOLEBODY, points) is not None
    assert seated(makehuman.load(), COCO_WHOLEBODY, torch.full_like(points, math.nan)) is None


def test_elbows_are_an_arms_lengths_from_shoulder_and_wrist():
    g = torch.Generator().manual_seed(1)
    arm, shoulder = torch.tensor([0.3, 0.25]), torch.tensor([0.1, 0.2, 1.4])
    along = torch.nn.functional.normalize(torch.randn(50, 3, generator=g), dim=-1)
    wrist = shoulder + torch.nn.functional.normalize(torch.randn(50, 3, generator=g), dim=-1) * (0.1 + 0.4 * torch.rand(50, 1, generator=g))
    found = elbow(shoulder, wrist, along, arm)
    assert torch.allclose((found - shoulder).norm(dim=-1), arm[0].expand(50), atol=1e-4)
    assert torch.allclose((found - wrist).norm(dim=-1), arm[1].expand(50), atol=1e-4)
    far = elbow(shoulder, shoulder + torch.tensor([[2.0, 0, 0]]), along[:1], arm)
    assert torch.allclose(far, shoulder + torch.tensor([[0.3, 0, 0]]), atol=0.02)


@pytest.mark.parametrize("wrong", [(1, slice(10, 22)), (0, slice(0, 15))], ids=["in the middle", "at the beginning"])
def test_a_view_that_takes_a_right_hand_for_a_left_one_is_put_right(wrong):
    truth, cameras, _, _ = scene()
    tracks = track_actors(cameras, footage(wrong), ["one"])
    assert (tracks.points[:, 0][:, RIGHT] - truth[:, RIGHT]).norm(dim=-1).nanmedian() < 0.004
    assert torch.isfinite(tracks.points[:, 0][:, RIGHT]).all(-1).float().mean() > 0.95
    assert not torch.isfinite(tracks.points[:, 0][:, LEFT]).any()


def test_hands_that_two_views_show_are_one_actor(tmp_path):
    seen = footage()

    class Shown:
        folder = tmp_path

        def cameras(self):
            return scene()[1]

    import studio.track as stage

    before, stage.footage_of = stage.footage_of, lambda take, names: Whole(seen)
    try:
        assert found_actors(Shown()) == ("actor",)  # type: ignore[arg-type]
        seen = replace(seen, confidence=seen.confidence * torch.tensor([1.0, 0]).view(2, 1, 1, 1))
        with pytest.raises(ValueError, match="nobody was found in two views"):
            found_actors(Shown())  # type: ignore[arg-type]
    finally:
        stage.footage_of = before


class Whole:
    """Keypoints in memory as footage."""

    def __init__(self, value: Keypoints2D) -> None:
        self.value, self.frames = value, value.frames

    def cut(self, frames: slice) -> Keypoints2D:
        value = self.value
        return replace(value, **{n: getattr(value, n)[:, frames] for n in ("pixels", "sigma", "confidence")})


def hand_at(x: float, right: float) -> HandSight:
    grid = np.stack([np.linspace(0, 40, 21) + x, np.linspace(0, 90, 21) + 100], 1)
    return HandSight(0.9, right, grid, np.zeros((21, 3)), 200.0)


def test_one_doubtful_picture_does_not_make_a_right_hand_a_left_one():
    hand = Followed(hand_at(100, 0.9))
    for right in (0.9, 0.95, 0.9, 0.1, 0.9):
        hand.seen(hand_at(100, right))
        assert list(named([hand])) == ["right"]
    for _ in range(12):
        hand.seen(hand_at(100, 0.05))
    assert list(named([hand])) == ["left"]


def test_of_two_hands_one_is_left_and_one_right():
    one, two = Followed(hand_at(100, 0.9)), Followed(hand_at(400, 0.7))
    one.seen(hand_at(100, 0.9))
    two.seen(hand_at(400, 0.7))
    both = named([one, two])
    assert both["right"].points[0, 0] == 100 and both["left"].points[0, 0] == 400


@real
@pytest.mark.parametrize("camera", ["cam0_test", "cam1_test"])
def test_the_networks_find_the_hand_in_both_cameras_and_call_it_right(camera):
    detector = Hands()
    seen = [detector.see(image) for _, image in frames(DATA / "media" / f"{camera}.mp4", 270, 290)]
    sights = [s[0] for s in seen if s]
    assert len(sights) >= 18
    for sight in sights:
        assert (sight.confidence[RIGHT] > 0).all() and not sight.confidence[: min(RIGHT)].any()
    assert len(RIGHT_HAND) == len(RIGHT)

"""Evidence that is missing or wrong: the result is finite and smooth where something was seen, uncertain where not."""

from dataclasses import replace

import pytest
import torch
from test_fit_person import T, keypoints, scene

from rigs import makehuman
from rigs.keypoints import COCO_WHOLEBODY, mirrored
from studio.fit.config import FitConfig
from studio.fit.person import fit_actor

CONFIG = FitConfig(key_frames=16)
ARM = [
    k
    for k, n in enumerate(COCO_WHOLEBODY)
    if n.startswith("left_") and n[5:] not in ("hip", "knee", "ankle", "eye", "ear", "shoulder", "heel", "big_toe", "small_toe")
]


def unseen(observed, frames=slice(None), which=slice(None)):
    pixels, points = observed.pixels.clone(), observed.points.clone()
    pixels[:, frames, which], points[frames, which] = torch.nan, torch.nan
    return replace(observed, pixels=pixels, points=points)


def fitted(observed):
    found = fit_actor(makehuman.load(), observed, CONFIG)
    assert all(bool(torch.isfinite(x).all()) for x in (found.state.R, found.state.root, found.state.expression, found.sigma, found.shape))
    return found


def off(found, truth, frames=slice(None)):
    """Mean distance of body keypoints, m."""
    return float((keypoints(found) - truth)[frames, :17].norm(dim=-1).mean())


def test_a_limb_that_is_never_seen_hangs_and_says_that_it_was_not():
    truth, observed = scene(1)
    found = fitted(unseen(observed, which=ARM))
    kept = [k for k in range(17) if k not in ARM]
    assert float((keypoints(found) - truth)[:, kept].norm(dim=-1).mean()) < 0.008
    names = makehuman.load().skeleton.names
    left, right = (found.sigma[:, names.index(f"{s}Hand")].mean() for s in ("Left", "Right"))
    assert float(left) > 10 * float(right)
    turn = found.state.R[1:, names.index("LeftForeArm")].mT @ found.state.R[:-1, names.index("LeftForeArm")]
    assert float((turn - torch.eye(3)).abs().max()) < 0.01  # nothing moves it, so it does not tremble


def test_a_person_who_enters_late_waits_where_they_came_in():
    truth, observed = scene(1)
    found = fitted(unseen(observed, frames=slice(0, 12)))
    assert off(found, truth, slice(13, T)) < 0.008
    root = found.state.root
    assert float((root[:12] - root[12]).norm(dim=-1).max()) < 0.5
    assert float(found.sigma[0].mean()) > 5 * float(found.sigma[20].mean())


def test_one_view_with_left_and_right_exchanged_throughout_does_not_turn_anyone_round():
    truth, observed = scene(1)
    pixels = observed.pixels.clone()
    pixels[0] = pixels[0][:, mirrored(COCO_WHOLEBODY)]
    assert off(fitted(replace(observed, pixels=pixels)), truth) < 0.012


def test_a_third_of_a_second_that_nobody_saw_is_bridged_and_uncertain():
    truth, observed = scene(1)
    found = fitted(unseen(observed, frames=slice(10, 20)))
    assert off(found, truth, slice(0, 10)) < 0.01 and off(found, truth, slice(20, T)) < 0.01
    assert float(found.sigma[15].mean()) > 3 * float(found.sigma[3].mean())
    jump = (found.state.root[1:] - found.state.root[:-1]).norm(dim=-1)
    assert float(jump.max()) < 0.05


def test_scattered_nan_and_infinite_sigma_change_little():
    truth, observed = scene(1, missing=0.0)
    g = torch.Generator().manual_seed(5)
    pixels, sigma = observed.pixels.clone(), observed.sigma.clone()
    pixels[torch.rand(pixels.shape, generator=g) < 0.1] = torch.nan  # also one coordinate alone
    sigma[torch.rand(sigma.shape, generator=g) < 0.1] = torch.inf
    sigma[torch.rand(sigma.shape, generator=g) < 0.05] = torch.nan
    assert off(fitted(replace(observed, pixels=pixels, sigma=sigma)), truth) < 0.007


@pytest.mark.parametrize("scale", [1000.0, 0.001])
def test_cameras_in_a_wrong_unit_give_a_finite_result_that_fits_nothing_and_says_so(scale):
    from studio.fit import doubts

    _, observed = scene(1)
    cameras = replace(observed.cameras, position=observed.cameras.position * scale)
    found = fit_actor(makehuman.load(), replace(observed, cameras=cameras, points=observed.points * scale), CONFIG)
    assert bool(torch.isfinite(found.state.R).all()) and bool(torch.isfinite(found.state.root).all())
    assert doubts(makehuman.load(), found)

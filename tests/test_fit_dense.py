"""Sightings of the skin inside the fit: they fix what joints alone leave open."""

import math
from dataclasses import replace

import pytest
import torch
from test_fit_person import T, performed
from test_fit_solver import ring

from rigs import makehuman
from rigs.keypoints import COCO_17, FEET
from rigs.rotation import exp, log
from studio.fit.config import FitConfig
from studio.fit.dense import POINTS, Sightings, skin_points
from studio.fit.observed import Observed
from studio.fit.person import Fitted, fit_actor

NAMES = COCO_17 + FEET


@pytest.fixture(scope="module")
def turned() -> tuple[torch.Tensor, Observed]:
    """A person whose left forearm is turned by 50 degrees about its own axis, which shows in no keypoint of the body; true vertices."""
    body = makehuman.individual(3)
    state = performed(body, T, 3)
    j = body.skeleton.index("LeftForeArm")
    axis = torch.nn.functional.normalize(body.joints[j + 1] - body.joints[j], dim=0)
    R = state.R.clone()
    R[:, j] = R[:, j] @ exp(math.radians(50) * axis)
    posed = body.shaped(torch.zeros(0)).posed(log(R), state.root, torch.zeros(T, len(body.expression_names)))
    cameras, g = ring(), torch.Generator().manual_seed(5)
    points = posed.points(body.keypoint_skin(NAMES))
    pixels = cameras.project(points.double())
    pixels = pixels + 2 * torch.randn(pixels.shape, generator=g, dtype=torch.float64)
    sigma = torch.full(pixels.shape[:-1], 2.0, dtype=torch.float64)
    return posed.points(), Observed(cameras, NAMES, "exact", 30.0, pixels, sigma, points)


def seen(vertices: torch.Tensor, observed: Observed, sigma: float = 0.02) -> Observed:
    """With every tenth of the skin's points in each view, each by itself some centimetres off."""
    which, g = skin_points(makehuman.load()), torch.Generator().manual_seed(6)
    points = vertices[:, which].double()
    scale = observed.cameras.focal.mean(1)[:, None, None] / observed.cameras.to_camera(points)[..., 2]
    pixels = observed.cameras.project(points)
    pixels = pixels + sigma * scale[..., None] * torch.randn(pixels.shape, generator=g, dtype=torch.float64)
    pixels[torch.rand(pixels.shape[:-1], generator=g) > 0.3] = torch.nan
    return replace(observed, sightings=Sightings(which, pixels.float(), torch.full(pixels.shape[:-1], sigma)))


def twist(result: Fitted, vertices: torch.Tensor) -> float:
    """How far the skin of the left forearm's lower half is turned about the bone, degrees."""
    body = makehuman.load()
    found = body.shaped(result.shape).posed(log(result.state.R), result.state.root, result.state.expression).points()
    j = body.skeleton.index("LeftForeArm")
    bone = body.joints[j + 1] - body.joints[j]
    along = (body.skin.rest - body.joints[j]) @ bone / bone.square().sum()
    flesh = body.skin.weights[:, j] > 0.5
    low, high = (vertices[:, flesh & (along > a) & (along < a + 0.3)] for a in (0.6, 0.2))
    axis = torch.nn.functional.normalize(low.mean(1) - high.mean(1), dim=-1)[:, None]
    middle = flesh & (along > 0.5) & (along < 0.9)
    across = lambda v: (d := v - v.mean(1, keepdim=True)) - (d * axis).sum(-1, keepdim=True) * axis  # noqa: E731
    p, q = across(found[:, middle]), across(vertices[:, middle])
    sine = (torch.linalg.cross(p, q) * axis).sum((1, 2))
    return float(torch.rad2deg(torch.atan2(sine, (p * q).sum((1, 2)))).abs().mean())


def test_a_turned_forearm_shows_in_its_skin_and_not_in_keypoints(turned):
    vertices, observed = turned
    body = makehuman.load()
    alone = fit_actor(body, observed, FitConfig(key_frames=10))
    both = fit_actor(body, seen(vertices, observed), FitConfig(key_frames=10, dense=0.02))
    assert twist(alone, vertices) > 25
    assert twist(both, vertices) < 0.4 * twist(alone, vertices)


def test_sightings_that_are_not_asked_for_change_nothing(turned):
    vertices, observed = turned
    some = slice(0, 6)
    body = makehuman.load()
    shape = torch.zeros(len(body.shape_names))
    alone = fit_actor(body, observed[some], FitConfig(), shape)
    both = fit_actor(body, seen(vertices, observed)[some], FitConfig(), shape)
    assert torch.equal(alone.state.R, both.state.R)


def test_points_of_the_skin_are_a_few_hundred_of_its_vertices():
    vertices = skin_points(makehuman.load())
    assert 0.9 * POINTS < len(vertices.unique()) == len(vertices) <= POINTS

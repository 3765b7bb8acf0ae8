"""What masks tell of the shape, inside the fit."""

from dataclasses import replace

import pytest
import torch
from test_fit_person import scene

from rigs import makehuman
from studio.fit import silhouettes
from studio.fit.config import FitConfig
from studio.fit.observed import Observed
from studio.fit.person import Fitter
from studio.fit.silhouettes import Likely, seen_at
from studio.nets.shape import SIZE, WINDOW


def with_girth(body):
    """The body with one more coefficient, which widens the skin and moves no keypoint."""
    wider = lambda x, column: torch.cat([x, column[..., None]], -1)  # noqa: E731
    still = lambda x: wider(x, torch.zeros_like(x[..., 0]))  # noqa: E731
    skin = replace(body.skin, shape_basis=wider(body.skin.shape_basis, 0.01 * torch.ones_like(body.skin.rest)))
    keys = replace(body.keypoints, shape_basis=still(body.keypoints.shape_basis))
    names = (*body.shape_names, "girth")
    return replace(body, skin=skin, keypoints=keys, joint_shape_basis=still(body.joint_shape_basis), shape_names=names)


@pytest.fixture
def moments() -> Observed:
    return scene(1)[1][torch.arange(0, 30, 6)]


def test_masks_have_the_last_word_where_keypoints_are_silent_and_hardly_any_where_they_speak(moments, monkeypatch):
    body = with_girth(makehuman.load())
    S = len(body.shape_names)
    alone, _ = Fitter(body, moments, FitConfig()).shape(moments)
    told = torch.zeros(S)
    told[-1], told[0] = 1.7, 2.5  # the first coefficient is above all stature, of which keypoints know better
    monkeypatch.setattr("studio.fit.person.likely_shape", lambda *_: Likely(told, torch.eye(S), 4))
    both, _ = Fitter(body, moments, FitConfig(mask_shape=True)).shape(moments)
    assert abs(float(alone[-1])) < 1e-3 and abs(float(both[-1]) - 1.7) < 1e-3
    knee, ankle = (body.skeleton.index(n) for n in ("LeftLeg", "LeftFoot"))
    shin = lambda shape: float((body.shaped(shape).joints[knee] - body.shaped(shape).joints[ankle]).norm())  # noqa: E731
    assert abs(shin(both) - shin(alone)) < 0.1 * abs(shin(told) - shin(torch.zeros(S)))


def test_a_take_without_masks_or_without_hips_is_told_nothing(moments):
    body = makehuman.load()
    assert seen_at(body, moments[:1]) is None
    masks = tuple(torch.ones(len(moments), 90, 160, dtype=torch.bool) for _ in moments.cameras)
    lost = replace(moments, masks=masks, points=torch.full_like(moments.points, torch.nan))
    assert seen_at(body, lost[:1]) is None


def test_views_without_the_person_are_left_out(moments):
    body = makehuman.load()
    masks = [torch.zeros(len(moments), 90, 160, dtype=torch.bool) for _ in moments.cameras]
    masks[1] |= True
    found = seen_at(body, replace(moments, masks=tuple(masks))[:1])
    assert found is not None
    windows, views = found
    assert windows.shape == (1, SIZE, SIZE) and views.shape == (1, 4)
    centre = moments.points[0, [11, 12]].mean(0)
    far = float((moments.cameras.position[1].float() - centre).norm())
    assert abs(3 / (float(views[0, 3]) + 1) - far) < 0.05 * WINDOW


def test_another_body_is_told_nothing(moments, monkeypatch):
    monkeypatch.setattr(silhouettes.network, "load", lambda name: silhouettes.network.Priors(7))
    assert silhouettes.likely_shape(makehuman.load(), moments) is None

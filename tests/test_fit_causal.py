"""Following an actor while frames arrive, against exact individuals and against the solver of whole takes."""

import math
from dataclasses import replace
from functools import cache

import pytest
import test_fit_person
import torch
from test_fit_person import performed, ring

from rigs import makehuman
from rigs.keypoints import COCO_WHOLEBODY
from rigs.rotation import exp
from studio.fit import contact
from studio.fit.causal import Causal, CausalConfig, Solved
from studio.fit.config import FitConfig
from studio.fit.observed import Observed
from studio.fit.past import Continued, condensed, eliminated
from studio.fit.person import Fitter, fit_actor
from studio.fit.points import Model
from studio.fit.priors import Smoothness
from studio.fit.solve import objective, smooth
from studio.fit.state import State

FRAMES = 36
BODY_ONLY = [k for k, n in enumerate(COCO_WHOLEBODY) if not any(x in n for x in ("face-", "hand", "finger", "thumb"))]


@cache
def scene(frames: int = FRAMES, seed: int = 1):
    """As in the tests of whole takes, longer, and of the body alone: truth (T, K, 3) and what four cameras see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_fit_person, "T", frames)
        truth, seen = test_fit_person.scene.__wrapped__(seed)
    names = tuple(COCO_WHOLEBODY[k] for k in BODY_ONLY)
    some = replace(seen, keypoints=names, pixels=seen.pixels[:, :, BODY_ONLY], sigma=seen.sigma[:, :, BODY_ONLY])
    return truth[:, BODY_ONLY], replace(some, points=seen.points[:, BODY_ONLY])


@cache
def whole():
    return fit_actor(makehuman.load(), scene()[1], FitConfig(key_frames=20, silhouette=0, device="cpu"))


def followed(seen: Observed, lag: int = 10, shape=None, **changes) -> list[Solved]:
    one = Causal(makehuman.load(), CausalConfig(lag=lag, **changes), whole().shape if shape is None else shape)
    out = [x for t in range(len(seen)) for x in one.push(seen[t : t + 1])]
    return out + one.finish()


def keypoints(state: State, shape=None) -> torch.Tensor:
    body = makehuman.load()
    names = tuple(COCO_WHOLEBODY[k] for k in BODY_ONLY)
    return Model(body, body.keypoint_skin(names)).place(state, whole().shape if shape is None else shape).points


def path(out: list[Solved]) -> torch.Tensor:
    return keypoints(State.joined([x.state for x in out]))


def mean_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm(dim=-1).mean())


def test_ten_frames_of_patience_are_as_good_as_the_whole_take_and_none_nearly():
    truth, seen = scene()
    best = mean_error(keypoints(whole().state), truth)
    errors = {}
    for lag in (0, 10):
        out = followed(seen, lag)
        assert [x.frame for x in out] == list(range(FRAMES)) and all(x.followed for x in out)
        errors[lag] = mean_error(path(out), truth)
    assert errors[10] < 1.2 * best and errors[0] < 2 * best, (best, errors)
    assert errors[10] < errors[0]


def test_nothing_depends_on_frames_that_have_not_come():
    _, seen = scene()
    g = torch.Generator().manual_seed(5)
    for lag in (0, 4):
        other = replace(seen, pixels=seen.pixels.clone(), points=seen.points.clone())
        other.pixels[:, 10 + lag + 1 :] += 200 * torch.rand(other.pixels[:, 10 + lag + 1 :].shape, generator=g, dtype=torch.float64)
        other.points[10 + lag + 1 :] = math.nan
        a, b = followed(seen[:18], lag), followed(other[:18], lag)
        same = [torch.equal(x.state.R, y.state.R) and torch.equal(x.state.root, y.state.root) for x, y in zip(a, b)]
        assert all(same[:11]) and not all(same[11:])


def test_a_frame_is_given_out_when_its_lag_is_over():
    _, seen = scene()
    one = Causal(makehuman.load(), CausalConfig(lag=3), whole().shape)
    given = [[x.frame for x in one.push(seen[t : t + 1])] for t in range(8)]
    assert given == [[], [], [], [0], [1], [2], [3], [4]]
    assert [x.frame for x in one.finish()] == [5, 6, 7] and one.finish() == []


def test_an_actor_unseen_for_a_second_is_held_and_found_again():
    truth, seen = scene(72)
    blind = replace(seen, pixels=seen.pixels.clone(), points=seen.points.clone())
    blind.pixels[:, 20:50], blind.points[20:50] = math.nan, math.nan
    for lag in (0, 6):
        out = followed(blind, lag)
        assert [x.frame for x in out] == list(range(72))
        found = path(out)
        assert torch.isfinite(found).all()
        assert (found[20:50] - truth[19]).norm(dim=-1).mean() < 0.5  # it does not fly away
        assert not any(x.followed for x in out[40:50]) and all(x.followed for x in out[50:])
        assert mean_error(found[52:], truth[52:]) < 0.008
        still = found[41:49] - found[40:48]
        assert float(still.norm(dim=-1).max()) < 0.002


def test_who_is_found_again_is_followed_as_one_who_just_came():
    """What was seen before the loss tells neither of the floor nor of where feet stand: every bit is that of a new beginning."""
    _, seen = scene(72)
    still = replace(seen, pixels=seen.pixels[:, 50:51].repeat(1, 72, 1, 1), points=seen.points[50:51].repeat(72, 1, 1))
    still.pixels[:, 8:26], still.points[8:26] = math.nan, math.nan
    config = {"fit": FitConfig(device="cpu", silhouette=0, contact=0.003)}
    again, anew = followed(still, 4, **config)[26:], followed(still[26:], 4, **config)
    assert any(bool((x.contacts > 0.5).any()) for x in anew)  # feet are held
    for a, b in zip(again, anew, strict=True):
        assert torch.equal(a.state.R, b.state.R) and torch.equal(a.state.root, b.state.root) and torch.equal(a.contacts, b.contacts)


def test_a_gap_shorter_than_the_lag_is_bridged():
    truth, seen = scene()
    blind = replace(seen, pixels=seen.pixels.clone(), points=seen.points.clone())
    blind.pixels[:, 20:26], blind.points[20:26] = math.nan, math.nan
    bridged, filtered = (mean_error(path(followed(blind, lag))[20:26], truth[20:26]) for lag in (10, 0))
    assert bridged < 0.02 and bridged < filtered


def test_an_actor_in_another_place_at_once_is_followed_there():
    """Another person's detections, or a cut: the past is given up where a frame alone explains what is seen."""
    truth, seen = scene()
    away = torch.tensor([0.7, 0.0, 0.0])
    pixels = seen.cameras.project((truth + away).double())
    moved = replace(seen, pixels=torch.cat([seen.pixels[:, :24], pixels[:, 24:]], 1), points=seen.points.clone())
    moved.points[24:] += away
    found = path(followed(moved, 2))
    assert mean_error(found[26:], truth[26:] + away) < 0.01


def test_a_shape_nobody_knows_is_solved_from_the_first_seconds_and_held():
    truth, seen = scene()
    one = Causal(makehuman.load(), CausalConfig(lag=4, learn=0.6, fit=FitConfig(device="cpu", silhouette=0, key_frames=12)))
    given = [one.push(seen[t : t + 1]) for t in range(30)]
    assert not any(given[:17]) and [x.frame for x in given[17]] == list(range(14)) and all(len(x) == 1 for x in given[18:])
    assert one.shape is not None
    out = [x for part in given for x in part]
    found = keypoints(State.joined([x.state for x in out]), one.shape)
    assert mean_error(found, truth[: len(out)]) < 0.008


def test_a_foot_that_stands_does_not_slide_and_one_that_swings_is_not_held():
    person = makehuman.individual(4)
    names = tuple(COCO_WHOLEBODY[k] for k in BODY_ONLY)
    state = performed(person, 60, 4)
    right = [j for j, n in enumerate(person.skeleton.names) if n.startswith("Right") and n.endswith(("Leg", "Foot", "ToeBase"))]
    left = [j for j, n in enumerate(person.skeleton.names) if n.startswith("Left") and n.endswith(("Leg", "Foot", "ToeBase"))]
    state.R[:, left + [0]] = torch.eye(3)
    t = torch.arange(60.0) / 30
    state.R[:, right] = torch.eye(3)
    swing = torch.stack([0.6 * torch.sin(2 * math.pi * t) - 0.3, 0 * t, 0 * t], 1)
    state.R[:, right[0]] = exp(swing)
    standing = State(state.R, torch.tensor([0.0, 0, 0.95]).expand(60, 3).clone(), state.expression)
    truth = Model(person, person.keypoint_skin(names)).place(standing, torch.zeros(0)).points
    cameras = ring()
    pixels = cameras.project(truth.double())
    pixels = pixels + 4 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    seen = Observed(cameras, names, "exact", 30.0, pixels, torch.full(pixels.shape[:-1], 4.0), truth)
    shape = fit_actor(makehuman.load(), seen, FitConfig(contact=0, key_frames=12, device="cpu")).shape
    heel, slide = names.index("left_heel"), {}
    for hold in (0.0, 0.003):
        out = followed(seen, 6, shape, fit=FitConfig(device="cpu", silhouette=0, contact=hold))
        found = keypoints(State.joined([x.state for x in out]), shape)
        slide[hold] = float((found[41:, heel] - found[40:-1, heel]).norm(dim=-1).mean())
        swung = (found - truth)[40:, names.index("right_big_toe")].norm(dim=-1).mean()
        assert swung < 0.02
    assert slide[0.003] < 0.5 * slide[0.0], slide
    said = torch.stack([x.contacts for x in out])[40:]
    assert said[:, contact.POINTS.index("left_heel")].mean() > 0.8 and said[:, contact.POINTS.index("right_big_toe")].mean() < 0.3


def test_memory_does_not_grow_with_the_frames_that_came():
    _, seen = scene()
    one = Causal(makehuman.load(), CausalConfig(lag=4), whole().shape)

    def held() -> int:
        window = one._window
        assert window is not None and window.past is not None and window.state is not None and window.views is not None
        tensors = [window.state.R, window.views.plane, window.contacts, window.past.root, window.past.information]
        assert len(window.steps) <= 11 * 30 and len(window.seen) == len(window.state)
        return sum(x.numel() for x in tensors)

    sizes = []
    for t in range(FRAMES):
        one.push(seen[t : t + 1])
        if t in (16, FRAMES - 1):
            sizes.append(held())
    assert sizes[0] == sizes[1]


def test_what_left_tells_as_much_as_if_it_were_still_there():
    """Noise-free, so that the linearised past is exact: the window's optimum is that of all frames together."""
    body = makehuman.load()
    truth, seen = scene()
    exact = replace(seen, pixels=seen.cameras.project(truth.double()), points=truth)[:9]
    fitter = Fitter(body, exact, FitConfig(device="cpu", silhouette=0))
    shape, smoothness = whole().shape, fitter.smoothness()
    problem = replace(fitter.problem(shape, fitter.views(exact), 1e3), free=fitter.free)
    state = smooth(problem, whole().state[:9], smoothness, 12, stepped=eliminated, tolerance=1e-9)
    past = condensed(problem, state, smoothness, None)
    rest = problem.of(torch.arange(1, 9))
    nudged = State(state.R[1:], state.root[1:] + 0.02, state.expression[1:])
    back = smooth(rest, nudged, Continued.of_past(smoothness, past), 20, stepped=eliminated, tolerance=1e-9)
    without = smooth(rest, nudged, smoothness, 20, stepped=eliminated, tolerance=1e-9)
    assert float((back.root - state.root[1:]).norm(dim=-1).max()) < 2e-4
    assert float((back.root - state.root[1:]).norm()) < 0.2 * float((without.root - state.root[1:]).norm())
    assert float(objective(problem, state, smoothness)) <= float(objective(problem, whole().state[:9], smoothness))


def test_the_exact_step_is_the_one_conjugate_gradients_tend_to():
    _, seen = scene()
    fitter = Fitter(makehuman.load(), seen, FitConfig(device="cpu", silhouette=0))
    some = seen[:8]
    problem = replace(fitter.problem(whole().shape, fitter.views(some), 3.0), free=fitter.free)
    smoothness: Smoothness = fitter.smoothness()
    start = whole().state[:8]
    direct = smooth(problem, start, smoothness, 8, stepped=eliminated, tolerance=0)
    iterated = smooth(problem, start, smoothness, 12, inner=200, tolerance=0)
    a, b = (float(objective(problem, x, smoothness)) for x in (direct, iterated))
    assert a < b * 1.001


def test_wrong_settings_are_a_sentence():
    with pytest.raises(ValueError, match="lag -1: needs at least 0"):
        CausalConfig(lag=-1)
    with pytest.raises(ValueError, match="one frame at a time"):
        Causal(makehuman.load()).push(scene()[1][:2])

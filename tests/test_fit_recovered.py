"""Guesses of a network as starts of the fit, and its critic as a judge of poses."""

import math
from dataclasses import replace

import pytest
import torch
from test_fit_person import performed, scene

from rigs import makehuman
from rigs.anatomy import anatomy
from rigs.keypoints import COCO_WHOLEBODY
from studio.fit import recovered
from studio.fit.config import FitConfig
from studio.fit.person import Fitter
from studio.fit.state import State
from studio.nets.recovery import unlike
from studio.nets.shape import JOINTS, KEYPOINTS, Sight
from studio.train import recovery


@pytest.fixture(scope="module")
def moments():
    return scene(1)[1][torch.arange(0, 30, 6)]


def test_the_network_is_shown_what_it_learned_from(moments):
    truth, _ = scene(1)
    some = truth[torch.arange(0, 30, 6)]
    exact = moments.cameras.project(some.double())
    seen = recovered.shown(moments.cameras, COCO_WHOLEBODY, exact, some)
    assert seen is not None and bool(seen.there.all())
    columns = [COCO_WHOLEBODY.index(n) for n in KEYPOINTS]
    sight = Sight.at(moments.cameras.position.float()[None].expand(5, -1, -1), seen.middle[:, None].expand(-1, 4, -1))
    expected = sight.window(some[:, None, columns].expand(-1, 4, -1, -1))
    known = seen.keypoints[..., 2] > 0
    assert float((seen.keypoints[..., :2] - expected)[known].abs().max()) < 1e-3 and float(known.float().mean()) > 0.9


def test_a_guess_is_taken_only_where_it_explains_more(moments):
    body = makehuman.load()
    fitter, shape = Fitter(body, moments, FitConfig()), torch.zeros(len(body.shape_names))
    problem = fitter.problem(shape, fitter.views(moments), 25.0, face=False)
    good = fitter.start(moments, shape)
    bad = State(recovered.relaxed(body, anatomy(body), len(good)), good.root + 0.5, good.expression)
    able = torch.tensor([True, True, True, True, False])
    kept, none = recovered.better(problem, good, bad, able)
    assert not bool(none.any()) and torch.equal(kept.R, good.R)
    mended, taken = recovered.better(problem, bad, good, able)
    assert taken.tolist() == able.tolist() and torch.equal(mended.R[:4], good.R[:4]) and torch.equal(mended.R[4], bad.R[4])


def test_without_hips_nothing_is_guessed(moments):
    lost = replace(moments, points=torch.full_like(moments.points, math.nan))
    body = makehuman.load()
    assert recovered.guessed(body, anatomy(body), lost) is None


def test_the_shipped_network_stands_people_up_from_one_view():
    held = recovery.held_out(3)
    found = recovery.errors(recovered.network.load(), held, 1)
    batch = recovery.batch_of(held, slice(0, 1))
    still = torch.cat([batch["R"][:, :1], torch.eye(3).expand_as(batch["R"][:, 1:])], 1)
    upright = recovery.compared(recovery.keypoints(batch["shape"], still), recovery.keypoints(batch["shape"], batch["R"]))
    assert found["aligned mm"] < 0.8 * upright["aligned mm"] and found["violations %"] < 5


def test_the_shipped_critic_names_a_broken_knee_and_lets_people_be():
    body = makehuman.load()
    R = performed(body, 8, 3).R
    R = torch.eye(3).expand_as(R).clone()
    knee = body.skeleton.index("LeftLeg")
    whole = unlike(body.skeleton.names, R)
    R[:, knee] = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # a right angle forwards
    judged = unlike(body.skeleton.names, R)
    known = [body.skeleton.index(n) for n in JOINTS[1:]]
    assert known[int(judged[0, known].argmax())] == knee
    assert float(judged[0, knee]) > float(whole[0, known].max())
    assert bool(torch.isnan(judged[0, 0])) and bool(torch.isnan(judged[0, body.skeleton.index("Jaw")]))

"""Hands that lean on the floor are told from hands that are held still in the air, planted in the fit, and exported."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from test_fit_solver import ring

from rigs import makehuman, rotation
from rigs.keypoints import COCO_WHOLEBODY
from studio.fit import contact
from studio.fit.config import FitConfig
from studio.fit.observed import Observed
from studio.fit.person import fit_actor
from studio.fit.points import Model
from studio.fit.state import State
from studio.virtual.actions import smooth
from studio.virtual.anatomy import Anatomy, between, frames, unit
from studio.virtual.motion import scripted
from studio.virtual.truth import posed_at

T, FPS, DOWN = 75, 30.0, slice(22, 52)
"""The right hand is on the floor in the middle of the clip."""


@cache
def crouch(table: float = 0.0, seed: int = 5, noise: float = 3.0):
    """Somebody rocks over a right hand that is flat on the floor for a while: true points (T, K, 3), and what four cameras see.

    The pose is chosen from the hand outwards, so that it is the body that moves and the hand that does not. With a `table` (m) the hand
    leans on that, and the legs are straight.
    """
    person = makehuman.individual(seed)
    names, a = person.skeleton.names, Anatomy.of(person)
    t = torch.arange(T).double() / FPS
    rock = torch.sin(2.5 * t)[:, None]
    aim = lambda x, y, z, sway=0.0: unit(torch.tensor([x, y, z]).double() + sway * rock * torch.tensor([0.3, 1.0, 0]).double())  # noqa: E731
    wrist, tip = person.keypoint_skin(("right_hand_root", contact.HANDS[3])).rest
    flat = frames(aim(0, -1, 0), aim(0, 0, -1)) @ frames(unit((tip - wrist).double()), a.palm("Right")).mT
    world = rotation.exp(torch.tensor([1.4, 0, 0]).double()).repeat(T, len(names), 1, 1)  # on all fours

    def put(first: str, end: str, towards: torch.Tensor) -> None:
        below = person.skeleton.under[:, names.index(first)]
        world[:, below] = between(a.bone(first, end), towards).expand(T, 3, 3)[:, None]

    for side, arm in (("Right", aim(0, 0, -1, -0.3)), ("Left", aim(0.4, -0.9, -0.3, 0.2))):
        put(f"{side}Arm", f"{side}ForeArm", arm)
        put(f"{side}ForeArm", f"{side}Hand", arm)
        put(f"{side}UpLeg", f"{side}Leg", aim(0, -0.5, -1))
        put(f"{side}Leg", f"{side}Foot", aim(0, 0.1, -1) if table else aim(0, 1, 1.4))
    world[:, person.skeleton.under[:, names.index("RightHand")]] = flat[:, None]
    local = world.clone()
    local[:, 1:] = world[:, list(person.skeleton.parents[1:])].mT @ world[:, 1:]
    local = local.float()
    t, count = t.float(), torch.arange(T)
    away = torch.maximum(DOWN.start - count, count - DOWN.stop + 1).clamp_min(0) / 14
    ramp = torch.from_numpy(smooth(away.numpy()))
    lift = torch.stack([0.25 * ramp * torch.sin(4 * t), 0.15 * ramp, 0.35 * ramp], -1)
    state = State(local, torch.zeros(T, 3), torch.zeros(T, len(person.expression_names)))
    model = Model(person, person.keypoint_skin(COCO_WHOLEBODY))
    knuckle = COCO_WHOLEBODY.index("right_middle_finger1")
    placed = model.place(state, torch.zeros(0)).points[:, knuckle]
    state = State(local, torch.tensor([0.1, -0.2, table + 0.03]) + lift - placed, state.expression)
    truth = model.place(state, torch.zeros(0)).points
    cameras = ring()
    g = torch.Generator().manual_seed(seed)
    pixels = cameras.project(truth.double()) + noise * torch.randn(len(cameras), T, truth.shape[1], 2, generator=g, dtype=torch.float64)
    sigma = torch.where(pixels[..., 0].isnan(), math.inf, noise)
    return truth, Observed(cameras, COCO_WHOLEBODY, "exact", FPS, pixels, sigma, truth + 0.01 * torch.randn(truth.shape, generator=g))


@cache
def fitted(hold: float = 0.003):
    return fit_actor(makehuman.load(), crouch()[1], FitConfig(contact=hold, key_frames=16))


def hands(result) -> torch.Tensor:
    body = makehuman.load()
    return Model(body, body.keypoint_skin(contact.HANDS)).place(result.state, result.shape).points


def test_the_scene_rests_its_hand_on_the_floor_and_moves_its_body():
    truth, _ = crouch()
    at = lambda name: truth[DOWN, COCO_WHOLEBODY.index(name)]  # noqa: E731
    for name in contact.HANDS[2:]:
        assert (at(name) - at(name).mean(0)).norm(dim=-1).max() < 1e-4 and 0 < at(name)[:, 2].min() and at(name)[:, 2].max() < 0.04
    assert truth[:, :23, 2].min() > 0  # no foot or limb is below the floor
    assert (at("right_shoulder") - at("right_shoulder").mean(0)).norm(dim=-1).max() > 0.03


def test_a_hand_on_the_floor_is_a_contact_while_it_is_there():
    on = fitted().contacts > 0.5
    truth = torch.zeros(T, dtype=torch.bool)
    truth[DOWN] = True
    for column in (6, 7):
        assert (on[:, column] == truth).float().mean() > 0.85
        assert not on[: DOWN.start - 4, column].any() and not on[DOWN.stop + 4 :, column].any()
    assert not on[:, 4:6].any()  # the other hand is in the air


def test_a_planted_hand_does_not_slide_and_does_not_pop():
    """Against the same fit without contacts, on the same frames."""
    found, free = hands(fitted()), hands(fitted(0.0))
    on = (fitted().contacts[:, 6] > 0.5) & (fitted().contacts[:, 7] > 0.5)
    both = on[1:] & on[:-1]
    assert both.sum() > 20
    slide = lambda x: float((x[1:, 2:] - x[:-1, 2:]).norm(dim=-1)[both].mean())  # noqa: E731
    assert slide(found) < 0.0006 and slide(found) < 0.3 * slide(free)
    jolt = lambda x: float((x[2:] - 2 * x[1:-1] + x[:-2]).norm(dim=-1).max())  # noqa: E731
    assert jolt(found) < 1.2 * jolt(free)
    exact = crouch()[0][:, [COCO_WHOLEBODY.index(n) for n in contact.HANDS]]
    off = lambda x: float((x - exact)[:, 2:].norm(dim=-1).mean())  # noqa: E731
    assert off(found) < off(free) + 0.001


def of_script(motion: str, seed: int) -> torch.Tensor:
    """Contacts of a scripted motion, everything seen."""
    body = makehuman.load()
    posed = posed_at(scripted(body, 150, FPS, seed, motion))
    skin = body.keypoint_skin((*contact.POINTS, *contact.HANDS))
    points = posed.points(skin)
    soles = skin.rest[:4, 2] - body.skin.rest[:, 2].min()
    p = contact.hand_probability(points[:, 4:], points[:, :4], soles, torch.ones(150, 2, dtype=torch.bool), FPS)
    return contact.leaning(p, FPS)


@pytest.mark.parametrize("motion", ["walk", "wave", "squat", "reach", "hands", "mixed"])
def test_no_hand_is_planted_in_the_air(motion):
    assert not of_script(motion, 2).any()


def held_at(height: float, seen: bool = True) -> torch.Tensor:
    """Contacts of hands that are held perfectly still over standing feet."""
    feet = torch.tensor([0.03, 0.02, 0.03, 0.02])[None, :, None] * torch.tensor([0.0, 0, 1]) + torch.zeros(60, 4, 3)
    still = torch.tensor([0.4, 0.1, 0.0]) + torch.tensor([0.0, 0, 1]) * (height + torch.tensor(contact.SKIN))[None, :, None]
    look = torch.full((60, 2), seen)
    p = contact.hand_probability(still + torch.zeros(60, 4, 3), feet, torch.tensor([0.03, 0.02, 0.03, 0.02]), look, FPS)
    return contact.leaning(p, FPS)


def test_a_hand_held_still_is_a_contact_only_on_the_floor_and_only_if_it_was_seen():
    assert held_at(0.0).all()
    assert not held_at(0.1).any() and not held_at(1.0).any()
    assert not held_at(0.0, seen=False).any()


def test_hands_on_the_floor_show_where_it_is_when_feet_do_not():
    """A handstand: the feet are far above, and the hands are not below the floor."""
    up = torch.zeros(60, 4, 3) + torch.tensor([0.0, 0, 1.8])
    down = torch.zeros(60, 4, 3) + torch.tensor([0.0, 0, 1]) * torch.tensor(contact.SKIN)[None, :, None]
    p = contact.hand_probability(down, up, torch.zeros(4), torch.ones(60, 2, dtype=torch.bool), FPS)
    assert contact.leaning(p, FPS).all()


def test_a_hand_on_a_table_is_planted_only_where_a_person_says_so():
    truth, observed = crouch(table=0.6)
    feet = [COCO_WHOLEBODY.index(n) for n in contact.POINTS]
    assert truth[:, feet, 2].min() < 0.3
    by_itself = fit_actor(makehuman.load(), observed, FitConfig(key_frames=16))
    assert not (by_itself.contacts[:, 4:] > 0.5).any()
    said = torch.full((T, 8), math.nan)
    said[DOWN, 6:8] = 1.0
    marked = fit_actor(makehuman.load(), replace(observed, standing=said), FitConfig(), by_itself.shape)
    assert ((marked.contacts[:, 6:] > 0.5).all(1) == (said[:, 6] == 1)).all()
    slide = lambda x: float((hands(x)[DOWN][1:, 2:] - hands(x)[DOWN][:-1, 2:]).norm(dim=-1).mean())  # noqa: E731
    assert slide(marked) < 0.0006 and slide(marked) < 0.3 * slide(by_itself)

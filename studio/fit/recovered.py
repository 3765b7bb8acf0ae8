"""Poses where the closed form is lost: a network's guess from what each camera saw, taken only where it reprojects better.

The closed form needs triangulated points. Where too few are there (one camera sees the person, or cameras contradict each other) the
network still knows how people stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from rigs import rotation
from rigs.anatomy import Anatomy
from rigs.body import Body
from studio.fit.initial import filled
from studio.fit.observed import Observed
from studio.fit.solve import Problem
from studio.fit.state import State
from studio.nets import recovery as network
from studio.nets.shape import JOINTS, KEYPOINTS, SIZE, Sight

HIPS = ("left_hip", "right_hip")
LEAST = 8
"""Keypoints that a view must have seen for the network to be asked about it."""
BETTER = 0.8
"""The guess is taken where the objective is below this share of the closed form's."""


@dataclass(frozen=True)
class Seen:
    """What the network is shown of T frames in C cameras."""

    keypoints: Float[Tensor, "T C K 3"]
    """Window coordinates and confidence."""
    there: Bool[Tensor, "T C"]
    sight: Sight
    """Leading axes (T, C)."""
    middle: Float[Tensor, "T 3"]
    """Of the window, world, m."""


def guessed(body: Body, anatomy: Anatomy, observed: Observed, weights: str = "recovery") -> tuple[State, Bool[Tensor, "T"]] | None:
    """The network's poses, and in which frames it saw enough for one; None where the hips were never triangulated."""
    body, anatomy = body.to("cpu"), anatomy.to("cpu")
    pixels = torch.where(torch.isfinite(observed.sigma)[..., None], observed.pixels, torch.nan)
    seen = shown(observed.cameras, observed.keypoints, pixels, observed.points)
    if seen is None or not bool(seen.there.any()):
        return None
    networks = network.load(weights)
    which = seen.there.any(1)
    keys, there = seen.keypoints[which], seen.there[which]
    order = torch.argsort(
        there.int(), dim=1, descending=True, stable=True
    )  # the first view is the frame of all: it must be one that saw something
    pick = lambda x: x.gather(1, order.view(*order.shape, *(1,) * (x.dim() - 2)).expand_as(x))  # noqa: E731
    keys, there, R_view = pick(keys), pick(there), pick(seen.sight.R_view_world[which])
    tilt = pick(seen.sight.tilt()[which])
    n, C = there.shape
    with torch.no_grad():
        features = networks.proxy(keys.flatten(0, 1), keys.new_zeros(n * C, SIZE, SIZE), tilt.flatten(0, 1)).view(n, C, -1)
        guess = networks.regressor(features, network.relative(R_view), there)[-1]
    R = relaxed(body, anatomy, len(which))
    rows = torch.tensor([body.skeleton.index(j) for j in JOINTS])
    R_own = guess.R.clone()
    R_own[:, 0] = R_view[:, 0].mT @ guess.R[:, 0]
    frames = which.nonzero()[:, 0]
    R[frames[:, None], rows] = R_own
    root = seen.middle.clone()
    root[frames] += (R_view[:, 0].mT @ guess.shift[..., None])[..., 0]
    return State(R, root, R.new_zeros(len(R), len(body.expression_names))), which


def shown(cameras: Cameras, names: Sequence[str], pixels: Float[Tensor, "C T K 2"], points: Float[Tensor, "T K 3"]) -> Seen | None:
    """Keypoints in upright windows around the hips, bridged in time where they were not triangulated; None where they never were."""
    if any(n not in names for n in HIPS):
        return None
    middle = filled(torch.stack([points[:, names.index(n)] for n in HIPS], 1)).mean(1).float()
    return windowed(cameras, names, pixels, middle) if bool(torch.isfinite(middle).all()) else None


def windowed(cameras: Cameras, names: Sequence[str], pixels: Float[Tensor, "C T K 2"], middle: Float[Tensor, "T 3"]) -> Seen:
    """Keypoints in upright windows around where the hips are about (world, m)."""
    sight = Sight.at(cameras.position.float()[None].expand(len(middle), -1, -1), middle[:, None].expand(-1, len(cameras), -1))
    columns = [names.index(n) if n in names else -1 for n in KEYPOINTS]
    plane = cameras.undistort(pixels[:, :, columns].double())
    world = torch.einsum("cji,ctkj->tcki", cameras.R_camera_world, torch.cat([plane, torch.ones_like(plane[..., :1])], -1)).float()
    window = sight.window(sight.position[:, :, None] + world)
    known = torch.isfinite(window).all(-1) & (torch.tensor(columns) >= 0) & (window.abs() < 1.2).all(-1)
    seen = torch.where(known[..., None], window, torch.zeros_like(window))
    keypoints = torch.cat([seen, known[..., None].float()], -1)
    return Seen(keypoints, known.sum(-1) >= LEAST, sight, middle)


def relaxed(body: Body, anatomy: Anatomy, frames: int) -> Float[Tensor, "T J 3 3"]:
    """Every joint at ease."""
    R = rotation.exp((anatomy.axes.mT @ anatomy.mean[..., None])[..., 0]).to(body.joints)
    return R.repeat(frames, 1, 1, 1)


def better(problem: Problem, state: State, guess: State, able: Bool[Tensor, "T"]) -> tuple[State, Bool[Tensor, "T"]]:
    """The guess where it explains what was seen clearly better, the state elsewhere; and where the guess was taken."""
    every = slice(0, len(state))
    guess = State(*(x.to(state.root) for x in (guess.R, guess.root, guess.expression)))
    taken = able.to(state.root.device) & (problem.cost(guess, every) < BETTER * problem.cost(state, every))
    return guess.where(taken, state), taken

"""What people do in training scenes: a few consecutive moments of a scripted action, and departures from it within limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs.body import Body
from rigs.rotation import exp, log
from studio.virtual.actions import ACTIONS, Curves
from studio.virtual.anatomy import FINGERS, SIDES, performed

HELD_OUT = ("kick", "reach", "twist")
"""Whole actions that nobody performs in training scenes."""
TRAINED = tuple(name for name in ACTIONS if name not in HELD_OUT)

PAD = 5
"""Moments repeated at both ends of a clip."""

_DEPARTURES = {
    "bend": 0.15, "side": 0.12, "twist": 0.25, "nod": 0.25, "head_turn": 0.4, "head_tilt": 0.15, "pelvis_pitch": 0.1, "pelvis_roll": 0.08,
    **{f"{side}_{name}": size for side in SIDES for name, size in (
        ("raise", 0.35), ("front", 0.4), ("elbow", 0.4), ("arm_roll", 0.4), ("forearm_roll", 0.5), ("wrist", 0.35),
        ("wrist_side", 0.2), ("shrug", 0.1), ("spread", 0.5), ("foot_x", 0.05), ("foot_y", 0.12), ("foot_yaw", 0.2),
        *((f, 0.3) for f in FINGERS),
    )},
}  # fmt: skip
"""Standard deviation of the constant that is added to each control, rad, m, or share of a fist."""
_LIMITS = {
    "raise": (-0.25, 3.0), "front": (-0.9, 1.7), "elbow": (-0.05, 2.4), "arm_roll": (-1.6, 1.6),
    "forearm_roll": (-1.4, 1.4), "wrist": (-1.0, 1.0), "wrist_side": (-0.4, 0.4), "spread": (-0.3, 1.3), "bend": (-0.4, 1.3),
    "side": (-0.4, 0.4), "twist": (-0.9, 0.9), "nod": (-0.6, 0.7),
    "head_turn": (-1.1, 1.1), "head_tilt": (-0.4, 0.4), "drop": (0.0, 0.5), **{f: (-0.1, 1.1) for f in FINGERS},
}  # fmt: skip
"""What no departure goes beyond."""
_WIDE = {"raise": (0.0, 2.7), "front": (-0.5, 1.4), "elbow": (0.0, 2.2), "arm_roll": (-1.3, 1.3), "forearm_roll": (-1.0, 1.0)}
"""Where an arm that is posed freely may be."""


@dataclass(frozen=True)
class Clips:
    """Short clips of one person, N of them."""

    actions: tuple[str, ...]
    translation: Float[Tensor, "N T 3"]
    """World position of the root joint, m."""
    rotation: Float[Tensor, "N T J 3"]
    """Local joint rotation vectors, rad."""


def clips(
    body: Body, rng: np.random.Generator, names: tuple[str, ...], number: int, count: int, loose: float = 1.0, fps: float = 30.0
) -> Clips:
    """Clips of `count` consecutive moments of the named actions, each from a random time of it on, at a random place and heading.

    `loose` scales the departures: 0 is the script alone.
    """
    chosen = [str(names[rng.integers(len(names))]) for _ in range(number)]
    parts = [_curves(rng, name, names, count, loose, fps) for name in chosen]
    every = sorted({k for part in parts for k in part})
    # `performed` smooths over four frames to each side: repeated ends keep what is smoothed apart.
    padded = {k: np.concatenate([np.pad(part.get(k, np.zeros(count)), PAD, mode="edge") for part in parts]) for k in every}
    controls = {k: torch.from_numpy(np.ascontiguousarray(v, np.float64)) for k, v in padded.items()}
    whole = performed(body, controls, torch.zeros(2), 0.0)
    keep = lambda v: v.unflatten(0, (number, -1))[:, PAD : PAD + count].clone()  # noqa: E731
    translation, turned = keep(whole.translation), keep(whole.rotation)
    heading, place = rng.uniform(-math.pi, math.pi, number), rng.uniform(-0.6, 0.6, (number, 2))
    spin = exp(torch.from_numpy(heading[:, None] * [0.0, 0.0, 1.0]).float())[:, None]
    turned[:, :, 0] = log(spin @ exp(turned[:, :, 0]))
    translation = (spin @ translation[..., None])[..., 0] + torch.from_numpy(np.pad(place, ((0, 0), (0, 1)))).float()[:, None]
    return Clips(tuple(chosen), translation, turned)


def _curves(rng: np.random.Generator, name: str, names: tuple[str, ...], count: int, loose: float, fps: float) -> Curves:
    curves = _standing(rng, count)
    _add(curves, _acted(rng, name, count, fps))
    if loose > 0:
        if rng.uniform() < 0.25 * loose:  # arms of one action over legs of another
            other = _acted(rng, str(names[rng.integers(len(names))]), count, fps)
            _add(curves, {k: v for k, v in other.items() if "foot" not in k and not k.startswith("pelvis") and k != "drop"})
        _depart(curves, rng, loose)
    return curves


def _acted(rng: np.random.Generator, name: str, count: int, fps: float) -> Curves:
    seconds = rng.uniform(4.2, 5.2) if name == "walk" else rng.uniform(2.4, 3.6)
    step = 1 / (seconds * fps)
    begin = rng.uniform(0.05, max(0.95 - (count - 1) * step, 0.06))
    return ACTIONS[name](rng, begin + step * np.arange(count), seconds)


def _standing(rng: np.random.Generator, count: int) -> Curves:
    """A relaxed stand, every time a little different."""
    one = np.ones(count)
    curves: Curves = {"drop": 0.004 * one}
    for side, sign in zip(SIDES, (1, -1)):
        arms = (("raise", 0.14, 0.26), ("front", 0.2, 0.5), ("elbow", 0.2, 0.45))
        curves |= {f"{side}_{name}": rng.uniform(low, high) * one for name, low, high in arms}
        curves[f"{side}_foot_yaw"] = sign * rng.uniform(0.0, 0.15) * one
        curves |= {f"{side}_{finger}": rng.uniform(0.1, 0.35) * one for finger in FINGERS}
    return curves


def _add(curves: Curves, more: Curves) -> None:
    for name, values in more.items():
        curves[name] = curves.get(name, 0.0) + values


def _depart(curves: Curves, rng: np.random.Generator, loose: float) -> None:
    """Constants added to all controls, some arms anywhere, sometimes low on the knees or a foot in the air; all within limits."""
    count = len(curves["drop"])
    for name, size in _DEPARTURES.items():
        curves[name] = curves.get(name, np.zeros(count)) + loose * size * rng.normal()
    for side in SIDES:
        if rng.uniform() < 0.3 * loose:
            curves |= {f"{side}_{name}": curves[f"{side}_{name}"] * 0.2 + rng.uniform(low, high) for name, (low, high) in _WIDE.items()}
        if rng.uniform() < 0.1 * loose:
            curves[f"{side}_foot_lift"] = curves.get(f"{side}_foot_lift", np.zeros(count)) + rng.uniform(0, 0.3)
    if rng.uniform() < 0.15 * loose:
        curves["drop"] = curves["drop"] + rng.uniform(0, 0.35)
    for name, values in curves.items():
        low, high = _LIMITS.get(name.split("_", 1)[1] if name.startswith(SIDES) else name, (-np.inf, np.inf))
        curves[name] = np.clip(values, low, high)

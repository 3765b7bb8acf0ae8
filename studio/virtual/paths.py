"""Where several performers go while they perform: past each other, into each other's arms, out of the picture and back.

Whole bodies are carried along; feet glide, so a foot on such a path is rarely planted.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float

from studio.virtual.actions import smooth
from studio.virtual.anatomy import Performance

PATHS = ("apart", "cross", "hug", "leave")
PASSING = 0.25
"""How far beside the middle people pass when they cross, m."""
HUG = 0.4
"""Distance of two who hug, m."""


def carried(acts: list[Performance], places: Float[np.ndarray, "A 2"], path: str, beyond: float, door: float) -> list[Performance]:
    """The performances along their paths; `places` are where everyone begins, m.

    `cross`: each to the opposite place, beside the middle. `hug`: to within 0.4 m of the opposite and back. `leave`: the first goes
    out to `beyond` m from the middle, in the direction `door` (rad), and comes back; the others stay.
    """
    if path not in PATHS:
        raise ValueError(f"virtual capture: paths is {path!r}; it must be one of {list(PATHS)}")
    T = len(acts[0])
    u = np.linspace(0, 1, T)
    out = []
    for i, (act, place) in enumerate(zip(acts, places, strict=True)):
        shift = np.zeros((T, 2))
        away = place / max(float(np.linalg.norm(place)), 1e-6)
        if path == "cross":
            aside = np.array([-away[1], away[0]]) * PASSING
            shift = -2 * place * smooth((u - 0.1) / 0.8)[:, None] + aside * np.sin(math.pi * u)[:, None] ** 2
        elif path == "hug":
            own = act.translation[:, :2].numpy()  # who hugs takes no step aside
            shift = (away * HUG / 2 - own) * (smooth((u - 0.1) / 0.25) * smooth((0.9 - u) / 0.25))[:, None]
        elif path == "leave" and i == 0:
            goal = beyond * np.array([math.cos(door), math.sin(door)])
            shift = (goal - place) * (smooth((u - 0.15) / 0.25) * smooth((0.85 - u) / 0.25))[:, None]
        moved = act.translation + torch.from_numpy(np.concatenate([shift, np.zeros((T, 1))], 1)).float()
        out.append(Performance(act.body, moved, act.rotation, act.expression))
    return out

"""Scripted motion: a relaxed stand, seeded actions one after another on top of it, and a face that lives throughout."""

from __future__ import annotations

import numpy as np
import torch

from rigs.body import Body
from studio.virtual.actions import ACTIONS, Curves, sway
from studio.virtual.anatomy import FINGERS, SIDES, Performance, performed
from studio.virtual.faces import face


def scripted(
    body: Body, frames: int, fps: float, seed: int, motion: str, place: tuple[float, float] = (0.0, 0.0), heading: float = 0.0
) -> Performance:
    """A named motion (`ACTIONS`, or "mixed" for many in turn) performed by a person; fingers and face move throughout."""
    if motion != "mixed" and motion not in ACTIONS:
        raise ValueError(f"motion: no script {motion!r}; give a .bvh file, 'mixed', or one of {sorted(ACTIONS)}")
    rng = np.random.default_rng([seed, 41])
    curves = _standing(rng, frames, fps)
    for first, last, name in _plan(rng, frames, fps, motion):
        span = last - first
        phase = (np.arange(max(first, 0), min(last, frames)) - first) / max(span - 1, 1)
        whole = ACTIONS[name](rng, np.linspace(0, 1, span), span / fps)
        keep = slice(max(-first, 0), max(-first, 0) + len(phase))
        for channel, values in whole.items():
            curves.setdefault(channel, np.zeros(frames))[max(first, 0) : max(first, 0) + len(phase)] += values[keep]
    curves |= face(rng, frames, fps)
    controls = {name: torch.from_numpy(np.ascontiguousarray(values)).double() for name, values in curves.items()}
    return performed(body, controls, torch.tensor(place), heading)


def _plan(rng: np.random.Generator, frames: int, fps: float, motion: str) -> list[tuple[int, int, str]]:
    """(first, last + 1, action) one after the other until the frames are full; "mixed" shuffles all before it repeats."""
    plan: list[tuple[int, int, str]] = []
    names: list[str] = []
    start = -int(rng.uniform(0, 0.3) * fps)
    while start < frames:
        if not names:
            names = [str(n) for n in rng.permutation(sorted(ACTIONS))] if motion == "mixed" else [motion]
        span = int(rng.uniform(2.4, 3.6) * fps)
        name = names.pop()
        if name == "walk":
            span = int(rng.uniform(4.2, 5.2) * fps)
        plan.append((start, start + max(span, 8), name))
        start += int(span * 0.97)
    return plan


def _standing(rng: np.random.Generator, frames: int, fps: float) -> Curves:
    """A relaxed stand that breathes and shifts its weight; fingers half curled and restless."""
    one = np.ones(frames)
    curves: Curves = {
        "drop": 0.004 * one,
        "pelvis_x": 0.012 * sway(rng, frames, fps, 0.1, 0.4),
        "pelvis_y": 0.008 * sway(rng, frames, fps, 0.1, 0.5),
    }
    for name, size in (("bend", 0.02), ("side", 0.015), ("twist", 0.03), ("nod", 0.05), ("head_turn", 0.10), ("head_tilt", 0.03)):
        curves[name] = size * sway(rng, frames, fps, 0.1, 0.6)
    for side in SIDES:
        curves[f"{side}_raise"] = rng.uniform(0.14, 0.26) + 0.02 * sway(rng, frames, fps, 0.1, 0.6)
        curves[f"{side}_front"] = rng.uniform(0.2, 0.5) * one
        curves[f"{side}_elbow"] = rng.uniform(0.2, 0.45) + 0.04 * sway(rng, frames, fps, 0.1, 0.6)
        curves[f"{side}_foot_yaw"] = (1 if side == "Left" else -1) * rng.uniform(0.0, 0.15) * one
        for finger in FINGERS:
            curves[f"{side}_{finger}"] = rng.uniform(0.15, 0.32) + 0.06 * sway(rng, frames, fps, 0.2, 0.9)
    return curves

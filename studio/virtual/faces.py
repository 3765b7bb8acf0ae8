"""Scripted faces: blinks, talk, smiles, brows and gaze, seeded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import expit

MOODS: tuple[dict[str, float], ...] = (
    {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.85, "cheekSquintLeft": 0.5, "cheekSquintRight": 0.5},
    {"browInnerUp": 0.8, "browOuterUpLeft": 0.7, "browOuterUpRight": 0.7, "eyeWideLeft": 0.6, "eyeWideRight": 0.6, "jawOpen": 0.25},
    {"browDownLeft": 0.8, "browDownRight": 0.8, "mouthFrownLeft": 0.6, "mouthFrownRight": 0.6, "noseSneerLeft": 0.3, "noseSneerRight": 0.3},
    {"jawOpen": 0.6, "mouthFunnel": 0.3},
    {"mouthPucker": 0.8, "cheekPuff": 0.2},
    {"mouthSmileLeft": 0.7, "browOuterUpRight": 0.6},
    {"mouthLeft": 0.5, "mouthPressRight": 0.4},
)
"""Expressions that come and go, by ARKit's names."""


def face(rng: np.random.Generator, frames: int, fps: float) -> dict[str, Float[np.ndarray, "T"]]:
    """Curves of ARKit expressions (0..1) and of the gaze (rad)."""
    t = np.arange(frames) / fps
    curves: dict[str, np.ndarray] = {}

    def add(name: str, values: np.ndarray) -> None:
        curves[name] = curves.get(name, np.zeros(frames)) + values

    _moods(rng, t, add)
    blink = np.zeros(frames)
    at = rng.uniform(0.3, 2.0)
    while at < t[-1] + 0.5:
        blink = np.maximum(blink, np.exp(-(((t - at) / 0.07) ** 2)))
        at += rng.uniform(1.5, 4.5)
    add("eyeBlinkLeft", blink)
    add("eyeBlinkRight", blink * rng.uniform(0.9, 1.0))
    bounded = {name: np.clip(values, 0, 1) for name, values in curves.items()}
    return bounded | _gaze(rng, t)


def _moods(rng: np.random.Generator, t: np.ndarray, add: Callable[[str, np.ndarray], None]) -> None:
    at = rng.uniform(-0.5, 0.5)
    while at < t[-1]:
        length = rng.uniform(1.2, 2.5)
        weight = np.clip(np.sin(np.pi * np.clip((t - at) / length, 0, 1)) * 1.4, 0, 1) ** 2
        for name, full in MOODS[rng.integers(len(MOODS))].items():
            add(name, rng.uniform(0.6, 1.0) * full * weight)
        if rng.uniform() < 0.5:  # talk
            add("jawOpen", 0.22 * weight * (1 + np.sin(2 * np.pi * rng.uniform(2.5, 4.0) * t + rng.uniform(0, 6))))
        at += length * rng.uniform(0.8, 1.4)


def _gaze(rng: np.random.Generator, t: np.ndarray) -> dict[str, np.ndarray]:
    """Eyes jump to a new direction every second or so, within 60 ms."""
    turn, nod = np.zeros(len(t)), np.zeros(len(t))
    at = 0.0
    while at < t[-1] + 0.1:
        go = expit((t - at) / 0.012)
        turn, nod = turn + go * (rng.uniform(-0.25, 0.25) - turn), nod + go * (rng.uniform(-0.1, 0.12) - nod)
        at += rng.uniform(0.5, 1.6)
    return {"gaze_turn": turn, "gaze_nod": nod}

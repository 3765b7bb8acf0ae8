"""Scripted actions, each a smooth departure from standing and back, as curves of `studio.virtual.anatomy` controls.

An action's curves start and end at zero, so any order of actions is continuous. Every draw of amplitude, speed and side comes
from the random generator that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from studio.virtual.anatomy import FINGERS, SIDES, STANCE

Curve = Float[np.ndarray, "T"]
Curves = dict[str, Curve]
Action = Callable[[np.random.Generator, Curve, float], Curves]
"""(random draws, phase 0..1 at each frame, length in s) -> curves to add."""


def smooth(x: Curve) -> Curve:
    """0 to 1 with zero speed and acceleration at both ends (minimum jerk)."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x * x)


def bump(u: Curve, rise: float = 0.3, fall: float = 0.3) -> Curve:
    """0 to 1, hold, and back."""
    return smooth(u / rise) * smooth((1 - u) / fall)


def sway(rng: np.random.Generator, frames: int, fps: float, slow: float, fast: float) -> Curve:
    """A random walk without drift: six sines between two frequencies, Hz; of about unit size."""
    t = np.arange(frames) / fps
    f = rng.uniform(slow, fast, 6)
    return (np.sin(2 * np.pi * (f[:, None] * t + rng.uniform(0, 1, (6, 1)))) * rng.uniform(0.3, 1, (6, 1))).sum(0) / 1.8


def _side(rng: np.random.Generator) -> tuple[str, float]:
    side = SIDES[rng.integers(2)]
    return side, 1.0 if side == "Left" else -1.0


def wave(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """One arm up, forearm swinging, fingers open."""
    side, _ = _side(rng)
    b = bump(u)
    swing = b * np.sin(2 * np.pi * rng.uniform(1.3, 2.2) * seconds * u)
    return {
        f"{side}_raise": b * rng.uniform(1.0, 1.5),
        f"{side}_front": b * rng.uniform(0.1, 0.5),
        f"{side}_elbow": b * rng.uniform(0.9, 1.4) + 0.3 * swing,
        f"{side}_arm_roll": -b * rng.uniform(1.0, 1.3) + 0.2 * swing,
        f"{side}_wrist_side": 0.2 * swing,
        f"{side}_spread": b,
        **{f"{side}_{f}": -0.2 * b for f in FINGERS},
        "side": 0.06 * b,
        "head_turn": 0.2 * b * _side(rng)[1],
    }


def raise_arms(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """Both arms up at the sides, not quite together, to overhead and down."""
    out: Curves = {"bend": -0.12 * bump(u), "nod": -0.2 * bump(u)}
    for side in SIDES:
        b = bump(np.clip(u + rng.uniform(-0.06, 0.06), 0, 1) * bump(u, 0.02, 0.02), 0.4, 0.4)
        out |= {
            f"{side}_raise": b * rng.uniform(1.7, 2.5),
            f"{side}_front": b * rng.uniform(-0.2, 0.3),
            f"{side}_elbow": -0.15 * b,
            f"{side}_spread": 0.6 * b,
        }
    return out


def squat(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """Down and up, arms forward for balance."""
    b = bump(u, 0.42, 0.42) * rng.uniform(0.75, 1.1)
    arms = {
        f"{s}_{k}": v * b for s in SIDES for k, v in (("raise", rng.uniform(1.5, 2.1)), ("front", 1.15), ("elbow", rng.uniform(-0.1, 0.2)))
    }
    return {"drop": 0.40 * b, "pelvis_y": 0.16 * b, "pelvis_pitch": 0.55 * b, "bend": 0.25 * b, "nod": -0.45 * b, **arms}


def lunge(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """A step forwards or aside with one foot, down into it, and back."""
    side, sign = _side(rng)
    aside = rng.uniform() < 0.35
    out_step, back_step = smooth(u / 0.28), smooth((u - 0.72) / 0.28)
    away = out_step - back_step
    air = np.sin(np.pi * np.clip(u / 0.28, 0, 1)) ** 2 + np.sin(np.pi * np.clip((u - 0.72) / 0.28, 0, 1)) ** 2
    reach = rng.uniform(0.40, 0.52)
    other = SIDES[1 - SIDES.index(side)]
    weight = smooth(u / 0.4) - smooth((u - 0.62) / 0.36)
    drop = rng.uniform(0.16, 0.24) * bump(u, 0.45, 0.45)
    out = {
        f"{side}_foot_lift": 0.07 * air,
        "drop": drop,
        "bend": 0.12 * weight,
        "twist": sign * 0.15 * weight,
        f"{other}_elbow": 0.9 * weight,
        f"{side}_elbow": 0.5 * weight,
        f"{side}_raise": 0.2 * weight,
        f"{other}_raise": 0.25 * weight,
        f"{other}_front": 0.9 * weight,
    }
    if aside:
        return out | {
            f"{side}_foot_x": sign * reach * away,
            "pelvis_x": sign * 0.6 * reach * weight,
            f"{side}_foot_yaw": sign * 0.25 * away,
            "side": 0.1 * sign * weight,
        }
    return out | {f"{side}_foot_y": -reach * away, "pelvis_y": -0.5 * reach * weight, f"{other}_foot_pitch": 0.75 * weight}


def twist(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """The trunk turns to one side and then the other, arms carried along."""
    b = bump(u, 0.15, 0.15) * np.sin(2 * np.pi * rng.uniform(0.95, 1.05) * u) * _side(rng)[1]
    lift = bump(u)
    arms = {
        f"{s}_{k}": v * lift
        for s in SIDES
        for k, v in (("raise", rng.uniform(0.5, 1.2)), ("front", rng.uniform(0.2, 1.0)), ("elbow", rng.uniform(0.4, 1.3)))
    }
    return {"twist": rng.uniform(0.5, 0.8) * b, "pelvis_yaw": 0.22 * b, "head_turn": 0.3 * b, **arms}


def reach(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """One hand stretches to somewhere in front, high or low, takes hold and lets go."""
    side, sign = _side(rng)
    b = bump(u, 0.35, 0.35)
    high = rng.uniform(0.9, 2.0)
    fist = bump(np.clip((u - 0.25) / 0.5, 0, 1))
    low = max(0.0, 1.3 - high)
    return {
        f"{side}_raise": b * high,
        f"{side}_front": b * rng.uniform(0.7, 1.3),
        f"{side}_elbow": -0.25 * b,
        f"{side}_wrist": -0.25 * b,
        "twist": -sign * 0.3 * b,
        "bend": (0.1 + 0.5 * low) * b,
        "pelvis_y": -0.05 * b,
        "head_turn": sign * 0.15 * b,
        "nod": 0.35 * low * b,
        **{f"{side}_{f}": 0.65 * fist - 0.18 * b for f in FINGERS},
        f"{side}_spread": b * 0.5,
    }


def hands(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """Both hands before the chest: counting, spreading, fists, every finger on its own."""
    b = bump(u, 0.2, 0.2)
    out: Curves = {}
    for side in SIDES:
        out |= {
            f"{side}_raise": b * rng.uniform(0.15, 0.45),
            f"{side}_front": b * rng.uniform(0.4, 0.9),
            f"{side}_elbow": b * rng.uniform(1.3, 1.7),
            f"{side}_forearm_roll": b * rng.uniform(-0.5, 1.0),
            f"{side}_spread": b * rng.uniform(0.2, 1.0),
            f"{side}_arm_roll": -b * rng.uniform(0.1, 0.5),
        }
        for finger in rng.permutation(FINGERS):
            start = rng.uniform(0.05, 0.45)
            out[f"{side}_{finger}"] = -0.22 * b + rng.uniform(0.5, 1.1) * bump(np.clip((u - start) / rng.uniform(0.35, 0.5), 0, 1))
    return out | {"nod": 0.15 * b}


def bow(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """The trunk bends forwards from the hips, arms hanging or on the way to the knees."""
    b = bump(u, 0.4, 0.4) * rng.uniform(0.6, 1.0)
    arms = {
        f"{s}_{k}": v * b for s in SIDES for k, v in (("raise", rng.uniform(0.3, 0.8)), ("front", 1.1), ("elbow", rng.uniform(-0.1, 0.3)))
    }
    return {"bend": 0.75 * b, "pelvis_pitch": 0.5 * b, "pelvis_y": 0.12 * b, "nod": 0.1 * b, "drop": 0.04 * b, **arms}


def look_around(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """The head turns, nods and tilts; a hand goes to a hip."""
    side, sign = _side(rng)
    b = bump(u)
    turn = np.sin(2 * np.pi * u) * bump(u, 0.1, 0.1) * sign
    return {
        "head_turn": rng.uniform(0.6, 0.9) * turn,
        "nod": 0.25 * b * np.sin(2 * np.pi * 1.7 * u),
        "head_tilt": 0.2 * b * np.sin(2 * np.pi * 1.3 * u + 1),
        "twist": 0.12 * turn,
        f"{side}_raise": 0.75 * b,
        f"{side}_elbow": 1.5 * b,
        f"{side}_front": -0.5 * b,
        f"{side}_arm_roll": 1.2 * b,
    }


def kick(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """One knee comes up, or the leg swings forward, over a standing foot."""
    side, sign = _side(rng)
    other = SIDES[1 - SIDES.index(side)]
    b = bump(u, 0.4, 0.4)
    over = bump(u, 0.22, 0.22)
    return {
        f"{side}_foot_lift": rng.uniform(0.22, 0.4) * b,
        f"{side}_foot_y": -rng.uniform(0.1, 0.4) * b,
        f"{side}_foot_pitch": 0.35 * b,
        f"{side}_foot_x": -sign * 0.04 * b,
        "pelvis_x": -sign * 0.105 * over,
        "side": -sign * 0.08 * over,
        "bend": 0.1 * b,
        f"{other}_raise": 0.5 * b,
        f"{other}_front": 0.9 * b,
        f"{other}_elbow": 0.6 * b,
        f"{side}_raise": 0.3 * b,
        f"{side}_front": -0.5 * b,
    }


def walk(rng: np.random.Generator, u: Curve, seconds: float) -> Curves:
    """Once around a small circle, in steps of about half a second, ending where it began."""
    steps = 2 * max(2, round(seconds / rng.uniform(0.95, 1.15)))
    radius = rng.uniform(0.10, 0.26) * min(1.0, steps / 8)
    sign = _side(rng)[1]
    beat = np.clip(u, 0, 1) * steps

    def glide(done: Curve) -> Curve:
        return 0.5 * smooth(done) + 0.5 * done

    def spot(done: Curve) -> tuple[Curve, Curve, Curve]:
        """The body's place (x, y) and heading after a fraction of the round; the circle's centre lies to its side."""
        yaw = sign * 2 * np.pi * glide(done)
        return sign * radius * (1 - np.cos(yaw)), -sign * radius * np.sin(yaw), yaw

    x, y, yaw = spot(u)
    out: Curves = {"pelvis_x": x, "pelvis_y": y, "pelvis_yaw": yaw}
    for i, side in enumerate(SIDES):
        out |= _steps(side, i, steps, beat, spot)
    swing = np.sin(np.pi * beat) * bump(u, 0.12, 0.12)
    for side, s in zip(SIDES, (1, -1)):
        out |= {
            f"{side}_front": 0.3 * s * swing,
            f"{side}_raise": 0.10 + 0.10 * s * swing - 0.10,
            f"{side}_elbow": 0.15 * (1 + s * swing) * bump(u),
        }
    sidestep = np.sin(np.pi * (beat + 0.5)) * bump(u, 0.1, 0.1)
    out["pelvis_x"] = out["pelvis_x"] - 0.025 * sidestep * np.cos(yaw)
    out["pelvis_y"] = out["pelvis_y"] - 0.025 * sidestep * np.sin(yaw)
    return out | {"twist": 0.1 * swing, "bend": 0.05 * bump(u), "drop": 0.012 * bump(u)}


def _steps(side: str, parity: int, steps: int, beat: Curve, spot: Callable[[Curve], tuple[Curve, Curve, Curve]]) -> Curves:
    """One foot's curves: it swings on every second beat to where the body will be half a stride later."""
    half = STANCE if side == "Left" else -STANCE
    done, lift, pitch = np.zeros(len(beat)), np.zeros(len(beat)), np.zeros(len(beat))
    at = 0.0
    for k in range(parity, steps, 2):
        goal = min((k + 1.5) / steps, 1.0) if k < steps - 2 else 1.0
        s = (beat - k - 0.1) / 0.8
        done = np.where(s > 0, at + (goal - at) * smooth(s), done)
        lift += 0.075 * np.sin(np.pi * np.clip(s, 0, 1)) ** 2
        push = np.clip((beat - k + 0.25) / 0.45, 0, 1)
        pitch += 0.55 * smooth(push) * (1 - smooth((s - 0.1) / 0.75))
        at = goal
    x, y, yaw = spot(done)
    # The foot stands beside the path; its rest place is there already.
    return {
        f"{side}_foot_x": x + half * (np.cos(yaw) - 1),
        f"{side}_foot_y": y + half * np.sin(yaw),
        f"{side}_foot_yaw": yaw,
        f"{side}_foot_lift": lift,
        f"{side}_foot_pitch": pitch,
    }


ACTIONS: dict[str, Action] = {
    "wave": wave,
    "raise_arms": raise_arms,
    "squat": squat,
    "lunge": lunge,
    "twist": twist,
    "reach": reach,
    "hands": hands,
    "bow": bow,
    "look_around": look_around,
    "kick": kick,
    "walk": walk,
}
"""Every script by name."""

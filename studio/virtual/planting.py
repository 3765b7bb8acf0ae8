"""Feet of borrowed motion set down: where the motion means a foot to stand, it stands still and on the floor."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rigs import rotation
from studio.virtual.anatomy import SIDES, Anatomy, Performance, lowered, two_bones
from studio.virtual.truth import posed_at

NEAR, SLOW = 0.035, 0.45
"""A foot is meant to stand while its sole is lower than this, m, and its ball slower than this, m/s."""


def planted(performance: Performance, fps: float) -> Performance:
    """The same motion with standing feet held in place by bending the legs, the pelvis lowered where a leg is too short."""
    body, anatomy = performance.body, Anatomy.of(performance.body)
    posed = posed_at(performance)
    index = body.skeleton.index
    joints, R = posed.joints.double(), posed.R_world_joint.double()
    goal = {}
    for side in SIDES:
        foot = body.skin.weights[:, [index(f"{side}Foot"), index(f"{side}ToeBase")]].sum(1) > 0.5
        soles = torch.nonzero(foot & (body.skin.rest[:, 2] < body.skin.rest[:, 2].min() + 0.01))[:, 0]
        low = posed.points(body.skin[soles[::4]])[..., 2].amin(-1).double()
        goal[side] = joints[:, index(f"{side}Foot")] + _shift(joints[:, index(f"{side}ToeBase")], low, fps)
    hips = {side: joints[:, index(f"{side}UpLeg")] for side in SIDES}
    down = lowered({side: hips[side] - goal[side] for side in SIDES}, anatomy, stretch=0.9999)
    local = posed.R_parent_joint.double().clone()
    for side in SIDES:
        ahead = -R[:, index(f"{side}Leg"), :, 1]
        thigh, shin = two_bones(anatomy, side, hips[side] - down, goal[side], ahead)
        local[:, index(f"{side}UpLeg")] = R[:, 0].mT @ thigh
        local[:, index(f"{side}Leg")] = thigh.mT @ shin
        local[:, index(f"{side}Foot")] = shin.mT @ R[:, index(f"{side}Foot")]
    return Performance(body, performance.translation - down.float(), rotation.log(local).float(), performance.expression)


def _shift(ball: Float[Tensor, "T 3"], low: Float[Tensor, "T"], fps: float) -> Float[Tensor, "T 3"]:
    """How far a foot must move: to one place on the floor while it stands, blended while it swings."""
    T = len(ball)
    if T < 3:
        return torch.zeros_like(ball)
    speed = torch.gradient(ball, dim=0)[0].norm(dim=-1) * fps
    stands = ((low < NEAR) & (speed < SLOW)).numpy()
    known, shifts = [], []
    for first, last in _runs(stands):
        if last - first < max(2, round(0.08 * fps)):
            continue
        anchor = ball[first:last].mean(0)
        for t in range(first, last):
            known.append(t)
            shifts.append(torch.stack([anchor[0] - ball[t, 0], anchor[1] - ball[t, 1], -low[t]]).numpy())
    if not known:
        return torch.zeros_like(ball)
    columns = np.array(shifts).T
    return torch.from_numpy(np.stack([np.interp(np.arange(T), known, c) for c in columns], 1))


def _runs(mask: Bool[np.ndarray, "T"]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2])]

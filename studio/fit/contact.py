"""Feet that stand and hands that lean on the floor: when heels and toes, knuckles and fingertips are planted, and where."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rigs.limbs import runs

POINTS = ("left_heel", "left_big_toe", "right_heel", "right_big_toe")
"""First in the order of `Motion.contacts`."""
HANDS = ("left_middle_finger1", "left_middle_finger4", "right_middle_finger1", "right_middle_finger4")
"""What follows them there: the ball and the tip of each hand."""
SKIN = (0.015, 0.007, 0.015, 0.007)
"""How far these lie inside the skin, m."""
FIRM = 0.3
"""A planted hand may move so much less than a foot: its 21 keypoints in every camera would else outvote the floor."""
SURE = 0.8
"""A hand is on the floor where it once is so probable, and stays there down to a half: near the floor is not on it."""


def probability(points: Float[Tensor, "T 4 3"], fps: float, speed: float = 0.25, height: float = 0.05) -> Float[Tensor, "T 4"]:
    """Probability that each point is planted: slow (m/s) and low (m above the floor that the feet themselves show)."""
    if len(points) < 3:
        return torch.zeros_like(points[..., 0])
    floor = points[..., 2].quantile(0.05, dim=0)
    low = (points[..., 2] - floor) / height
    return torch.sigmoid(4 * (1 - _speed(points, fps) / speed)) * torch.sigmoid(4 * (1.5 - low))


def _speed(points: Float[Tensor, "T 4 3"], fps: float) -> Float[Tensor, "T 4"]:
    """m/s, over a span long enough that a tremor of millimetres is none; infinite in clips shorter than that."""
    T, half = len(points), max(1, round(0.07 * fps))
    if T <= 2 * half:
        return torch.full_like(points[..., 0], torch.inf)
    v = (points[2 * half :] - points[: -2 * half]).norm(dim=-1) * fps / (2 * half)
    return torch.cat([v[:1].expand(half, -1), v, v[-1:].expand(half, -1)])[:T]


def planted(p: Float[Tensor, "T 4"], fps: float, hold: float = 0.12) -> Bool[Tensor, "T 4"]:
    """Contacts that last at least `hold` seconds; brief gaps inside a contact are closed."""
    on = p > 0.5
    n = max(1, round(hold * fps))
    return _closed(_opened(on, n), max(1, n // 2))


def hand_probability(
    hands: Float[Tensor, "T 4 3"],
    feet: Float[Tensor, "T 4 3"],
    soles: Float[Tensor, "4"],
    seen: Bool[Tensor, "T 2"],
    fps: float,
    speed: float = 0.2,
    height: float = 0.03,
) -> Float[Tensor, "T 4"]:
    """Probability that ball and tip of the left and of the right hand rest on the floor: slow (m/s), low (m above it), and seen.

    The floor is the lowest that feet and hands show together, for nothing is below it; `soles` tells how high the points of standing feet
    lie, m. A hand that is held still higher up is no contact, however long, nor is one that no camera saw (`seen`, left and right).
    """
    if len(hands) < 3:
        return torch.zeros_like(hands[..., 0])
    skin = hands.new_tensor(SKIN)
    lowest = torch.cat([feet[..., 2] - soles, hands[..., 2] - skin], 1).quantile(0.05, dim=0).amin()
    low = (hands[..., 2] - skin - lowest) / height
    p = torch.sigmoid(4 * (1 - _speed(hands, fps) / speed)) * torch.sigmoid(4 * (1.5 - low))
    near = torch.nn.functional.max_pool1d(seen.T.float()[None], 2 * (reach := max(1, round(0.15 * fps))) + 1, 1, reach)[0].T > 0
    return p * near.repeat_interleave(2, dim=1)


def leaning(p: Float[Tensor, "T 4"], fps: float, hold: float = 0.25) -> Bool[Tensor, "T 4"]:
    """Contacts of hands: as `planted`, longer, and only where it once is `SURE` (hysteresis)."""
    on = planted(p, fps, hold)
    for i in range(on.shape[1]):
        for a, b in runs(on[:, i], 1):
            if float(p[a:b, i].max()) < SURE:
                on[a:b, i] = False
    return on


def _opened(on: Tensor, least: int) -> Tensor:
    out = on.clone()
    for i in range(on.shape[1]):
        for a, b in runs(on[:, i], 1):
            if b - a < least:
                out[a:b, i] = False
    return out


def _closed(on: Tensor, most: int) -> Tensor:
    out = on.clone()
    for i in range(on.shape[1]):
        for a, b in runs(~on[:, i], 1):
            if b - a <= most and a > 0 and b < len(on):
                out[a:b, i] = True
    return out


def anchors(points: Float[Tensor, "T 4 3"], on: Bool[Tensor, "T 4"]) -> Float[Tensor, "T 4 3"]:
    """Where each planted point stays: its median over the contact; NaN while it is free."""
    out = torch.full_like(points, torch.nan)
    for i in range(points.shape[1]):
        for a, b in runs(on[:, i], 1):
            out[a:b, i] = points[a:b, i].median(0).values
    return out

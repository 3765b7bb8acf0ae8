"""Feet that stand: when heels and toes are planted, and where."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

POINTS = ("left_heel", "left_big_toe", "right_heel", "right_big_toe")
"""Order of `Motion.contacts`."""


def probability(points: Float[Tensor, "T 4 3"], fps: float, speed: float = 0.25, height: float = 0.05) -> Float[Tensor, "T 4"]:
    """Probability that each point is planted: slow (m/s) and low (m above the floor that the feet themselves show)."""
    T = len(points)
    if T < 3:
        return torch.zeros_like(points[..., 0])
    half = max(1, round(0.07 * fps))  # long enough that a tremor of millimetres is no speed
    ahead, behind = points[2 * half :], points[: -2 * half] if T > 2 * half else points[:0]
    if not len(behind):
        return torch.zeros_like(points[..., 0])
    v = (ahead - behind).norm(dim=-1) * fps / (2 * half)
    v = torch.cat([v[:1].expand(half, -1), v, v[-1:].expand(half, -1)])[:T]
    floor = points[..., 2].quantile(0.05, dim=0)
    low = (points[..., 2] - floor) / height
    return torch.sigmoid(4 * (1 - v / speed)) * torch.sigmoid(4 * (1.5 - low))


def planted(p: Float[Tensor, "T 4"], fps: float, hold: float = 0.12) -> Bool[Tensor, "T 4"]:
    """Contacts that last at least `hold` seconds; brief gaps inside a contact are closed."""
    on = p > 0.5
    n = max(1, round(hold * fps))
    return _closed(_opened(on, n), max(1, n // 2))


def _runs(on: Tensor) -> list[tuple[int, int]]:
    edge = torch.diff(torch.cat([on.new_zeros(1), on, on.new_zeros(1)]).int())
    return list(zip((edge == 1).nonzero()[:, 0].tolist(), (edge == -1).nonzero()[:, 0].tolist()))


def _opened(on: Tensor, least: int) -> Tensor:
    out = on.clone()
    for i in range(on.shape[1]):
        for a, b in _runs(on[:, i]):
            if b - a < least:
                out[a:b, i] = False
    return out


def _closed(on: Tensor, most: int) -> Tensor:
    out = on.clone()
    for i in range(on.shape[1]):
        for a, b in _runs(~on[:, i]):
            if b - a <= most and a > 0 and b < len(on):
                out[a:b, i] = True
    return out


def anchors(points: Float[Tensor, "T 4 3"], on: Bool[Tensor, "T 4"]) -> Float[Tensor, "T 4 3"]:
    """Where each planted point stays: its median over the contact; NaN while it is free."""
    out = torch.full_like(points, torch.nan)
    for i in range(points.shape[1]):
        for a, b in _runs(on[:, i]):
            out[a:b, i] = points[a:b, i].median(0).values
    return out

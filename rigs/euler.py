"""Euler angles for files that know nothing better: any of the six orders of three different axes, continuous over time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

ORDERS = ("XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX")
_GIMBAL = 1e-6
"""Below this cosine of the middle angle only the sum (or difference) of the outer two is known."""


def _axes(order: str) -> tuple[int, int, int, int]:
    """Indices of the three axes, and +1 for a cyclic order, -1 for the others."""
    if order not in ORDERS:
        raise ValueError(f"rotation order {order!r} is none of {list(ORDERS)}")
    i, j, k = ("XYZ".index(axis) for axis in order)
    return i, j, k, 1 if (j - i) % 3 == 1 else -1


def matrix(angles: Float[Tensor, "... 3"], order: str) -> Float[Tensor, "... 3 3"]:
    """`R1(a1) @ R2(a2) @ R3(a3)`: angles (rad) in the order of `order`'s letters, each about the axis already turned by those before it."""
    result = torch.eye(3, dtype=angles.dtype).expand(*angles.shape[:-1], 3, 3)
    for position, axis in enumerate(_axes(order)[:3]):
        c, s = angles[..., position].cos(), angles[..., position].sin()
        turn = torch.zeros(*angles.shape[:-1], 3, 3, dtype=angles.dtype)
        after, last = (axis + 1) % 3, (axis + 2) % 3
        turn[..., axis, axis] = 1
        turn[..., after, after], turn[..., last, last] = c, c
        turn[..., last, after], turn[..., after, last] = s, -s
        result = result @ turn
    return result


def angles(R: Float[Tensor, "... 3 3"], order: str, near: Float[Tensor, "... 3"] | None = None) -> Float[Tensor, "... 3"]:
    """Angles (rad) with `matrix(angles, order) == R`; of all such triples the one nearest to `near` (zero unless given).

    At gimbal lock the last angle is kept at `near`'s. An odd order is the mirror image of a cyclic one: its angles change sign.
    """
    i, j, k, sign = _axes(order)
    near = torch.zeros_like(R[..., 0]) if near is None else near
    cosine = torch.hypot(R[..., i, i], R[..., i, j])
    middle = torch.atan2(R[..., i, k], cosine)
    locked = cosine < _GIMBAL
    pole = torch.where(middle < 0, -1.0, 1.0).to(R.dtype)
    kept = sign * near[..., 2]
    first = torch.where(locked, pole * (torch.atan2(R[..., j, i], R[..., j, j]) - kept), torch.atan2(-R[..., j, k], R[..., k, k]))
    last = torch.where(locked, kept, torch.atan2(-R[..., i, j], R[..., i, i]))
    solution = sign * torch.stack([first, middle, last], -1)
    twin = torch.stack([solution[..., 0] + math.pi, math.pi - solution[..., 1], solution[..., 2] + math.pi], -1)
    candidates = torch.stack([solution, torch.where(locked[..., None], solution, twin)])
    candidates = candidates + 2 * math.pi * torch.round((near - candidates) / (2 * math.pi))
    best = (candidates - near).abs().sum(-1).argmin(0)
    return torch.where(best[..., None] == 0, candidates[0], candidates[1])


def unrolled(R: Float[Tensor, "T ... 3 3"], order: str) -> Float[Tensor, "T ... 3"]:
    """Angles (rad) of every frame, each frame's nearest to the frame before: no jumps of 180 or 360 degrees, many turns add up."""
    rows: list[Tensor] = []
    for frame in R:
        rows.append(angles(frame, order, rows[-1] if rows else None))
    return torch.stack(rows) if rows else R.new_zeros(R.shape[:-1])

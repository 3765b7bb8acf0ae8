"""Points that a network misplaces by a habit: how far, depends on the side from which it sees the person.

A hip seen from the front lies elsewhere in the body than the same hip seen from the side, so no point in space fits all cameras. Cameras
stand still, and see one side of the person for long: the habit bends the rig, and more frames do not help. What it usually is can be
learned from people before cameras that are known, and taken out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calibration.people_bundle import State
from calibration.people_views import PeopleViews

TERMS = 9
GROSS = 0.16
"""Errors beyond this, as a share of the trunk's length, are blunders and tell no habit."""
RIDGE = 0.02
"""How much each sighting holds the habit at zero, so that sides that were never seen do not run away."""


@dataclass(frozen=True)
class SideBias:
    """A network's habit."""

    trunk: tuple[int, int, int, int]
    """Which points are left and right shoulder, left and right hip."""
    table: Float[Tensor, "K 9 2"]
    """How far right and down each point is seen too far, as a share of the trunk's length, by the terms of `basis`."""


def basis(side: Float[Tensor, "... 3"]) -> Float[Tensor, "... 9"]:
    """Spherical harmonics up to the second degree, not normalised, of the unit vector from the person to the camera (left, front, up)."""
    x, y, z = side.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1], -1)


def sides(
    points: Float[Tensor, "T K 3"], trunk: tuple[int, int, int, int], position: Float[Tensor, "C 3"]
) -> tuple[Float[Tensor, "C T 3"], Float[Tensor, "T 3"], Float[Tensor, "T"]]:
    """Unit vectors from the person to the cameras in the person's axes (left, front, up), the trunk's middle, and its length, m."""
    ls, rs, lh, rh = (points[:, k] for k in trunk)
    along = (ls + rs - lh - rh) / 2
    up = torch.nn.functional.normalize(along, dim=-1)
    left = ls - rs + lh - rh
    left = torch.nn.functional.normalize(left - (left * up).sum(-1, keepdim=True) * up, dim=-1)
    axes = torch.stack([left, torch.linalg.cross(left, up), up], -1)
    middle = (ls + rs + lh + rh) / 4
    away = torch.nn.functional.normalize(position[:, None] - middle, dim=-1)
    return torch.einsum("tji,ctj->cti", axes, away), middle, along.norm(dim=-1)


def learned(side: Float[Tensor, "N 3"], error: Float[Tensor, "N 2"], rounds: int = 4, width: float = 0.03) -> Float[Tensor, "9 2"]:
    """The habit of one point from its errors in images (right and down, share of the trunk's length) and the sides it was seen from.

    Ridge regression with Cauchy's weights of `width`.
    """
    ok = torch.isfinite(side).all(-1) & torch.isfinite(error).all(-1) & (error.norm(dim=-1) < GROSS)
    A, y = basis(side[ok]), error[ok]
    table = A.new_zeros(TERMS, 2)
    for _ in range(rounds):
        weight = 1 / (1 + (y - A @ table).square().sum(-1, keepdim=True) / width**2)
        table = torch.linalg.solve(A.mT @ (A * weight) + RIDGE * len(A) * torch.eye(TERMS, dtype=A.dtype), A.mT @ (y * weight))
    return table


def unbiased(views: PeopleViews, state: State, frames: Int[Tensor, "t"], points: Float[Tensor, "t K 3"]) -> PeopleViews:
    """The views less the habit, with the person where `points` has them at `frames` (frames between take the nearest)."""
    if views.habit is None:
        return views
    side, middle, length = sides(points, views.habit.trunk, state.position)
    depth = torch.einsum("cj,ctj->ct", state.R[:, 2], middle - state.position[:, None])
    share = torch.einsum("ctf,kfa->ctka", basis(side), views.habit.table)
    pixels = share * (state.lens[:, :1].exp() * length / depth.clamp_min(0.2))[..., None, None]
    pixels = torch.where(torch.isfinite(pixels), pixels, 0.0)
    nearest = (torch.arange(views.sigma.shape[1])[:, None] - frames).abs().argmin(1)
    return replace(views, pixels=views.pixels.double() - pixels[:, nearest])

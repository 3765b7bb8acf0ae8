"""Bodies are solid: limbs do not pass through each other, nor feet through the floor; seams of a stitched model stay closed."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.fit.robust import along
from studio.fit.state import Pull

NEAR = 0.08
"""A point deeper than this in another limb is taken to be on its far side, m."""


def floor(points: Float[Tensor, "T P 3"], height: float, sigma: float, kernel: float) -> Pull:
    """Points below the floor (z = `height`, m) are lifted; `sigma` in m."""
    deep = (height - points[..., 2]).clamp_min(0)
    slope = torch.zeros_like(points)
    slope[..., 2] = torch.where(deep > 0, -1 / sigma, 0)
    return along(deep / sigma, slope, kernel)


def apart(rest: Float[Tensor, "P 3"], least: float = 0.2) -> Bool[Tensor, "P P"]:
    """Which points of a surface are far from each other at rest (m), so that touching is contact and not anatomy."""
    return torch.cdist(rest, rest) > least


def interpenetration(
    points: Float[Tensor, "T P 3"], normals: Float[Tensor, "T P 3"], may: Bool[Tensor, "P P"], sigma: float, kernel: float
) -> Pull:
    """A point inside another limb is pushed out along that limb's normal, the limb the other way; `sigma` in m."""
    P = points.shape[1]
    other, deep = _nearest(points, normals, may)
    n = normals.gather(1, other[..., None].expand(-1, -1, 3))
    slope = torch.where((deep > 0)[..., None], -n / sigma, 0)
    own = along(deep / sigma, slope, kernel, share=2.0)
    return own + along(deep / sigma, -slope, kernel, other, P, share=2.0)


def _nearest(points: Tensor, normals: Tensor, may: Tensor) -> tuple[Int[Tensor, "T P"], Float[Tensor, "T P"]]:
    """The nearest point of another limb, and how deep under it each point lies, m; zero where it does not."""
    others, depths = [], []
    for t in range(0, len(points), 16):
        x, n = points[t : t + 16], normals[t : t + 16]
        distance = torch.where(may, torch.cdist(x, x), torch.inf)
        best = distance.min(-1)
        gather = best.indices[..., None].expand(-1, -1, 3)
        deep = ((x.gather(1, gather) - x) * n.gather(1, gather)).sum(-1)
        against = (n * n.gather(1, gather)).sum(-1) < 0  # surfaces that pass through each other face each other
        others.append(best.indices)
        depths.append(torch.where((deep > 0) & (best.values < NEAR) & against, deep, 0))
    return torch.cat(others), torch.cat(depths)


def seams(points: Float[Tensor, "T P 3"], pairs: Int[Tensor, "N 2"], sigma: float, kernel: float) -> Pull:
    """Pairs of points that are one place of a body stitched from several models; `sigma` in m."""
    P, total = points.shape[1], None
    gap = (points[:, pairs[:, 0]] - points[:, pairs[:, 1]]) / sigma
    square = gap.square().sum(-1, keepdim=True)
    keep = (kernel**2 / (kernel**2 + square)) ** 2
    for side, sign in ((0, 1.0), (1, -1.0)):
        onto = pairs[:, side].expand(len(points), -1)
        gradient = torch.zeros_like(points).scatter_add_(1, onto[..., None].expand(-1, -1, 3), sign * keep * gap / sigma)
        strength = points.new_zeros(points.shape[:2]).scatter_add_(1, onto, 2 * keep[..., 0] / sigma**2)
        information = strength[..., None, None] * torch.eye(3, dtype=points.dtype, device=points.device)
        cost = 0.25 * (square * kernel**2 / (kernel**2 + square)).sum((1, 2))
        part = Pull(information, gradient, cost)
        total = part if total is None else total + part
    assert total is not None and total.gradient.shape[1] == P
    return total

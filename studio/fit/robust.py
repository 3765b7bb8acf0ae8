"""What data terms share: the robust kernel on single numbers, and the image plane with its derivative."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.fit.state import Pull


def along(
    residual: Float[Tensor, "T N"],
    slope: Float[Tensor, "T N 3"],
    kernel: float,
    onto: Int[Tensor, "T N"] | None = None,
    points: int = 0,
    share: float = 1.0,
) -> Pull:
    """Evidence along one direction each: whitened residuals and their derivatives by a point (1/m), Geman-McClure of width `kernel`.

    `onto` names the point (of `points`) that each residual pulls on; else residual n pulls on point n. A residual that depends on several
    points is given once for each, with `share` their number: the sum of the parts' squares, so weighted, bounds the square of the sum.
    Zero slope and infinite residual is evidence that found no point: it costs what the kernel saturates at.
    """
    square = residual.square()
    keep = kernel**2 / (kernel**2 + square)
    cost = 0.5 * torch.where(torch.isfinite(square), square * keep, kernel**2).sum(-1) / share
    force = torch.where(torch.isfinite(residual), residual, 0) * keep.square()
    gradient = force[..., None] * slope
    information = (keep.square() * share)[..., None, None] * slope[..., :, None] * slope[..., None, :]
    if onto is not None:
        T = len(residual)
        index = onto[..., None]
        gradient = gradient.new_zeros(T, points, 3).scatter_add_(1, index.expand(-1, -1, 3), gradient)
        flat = information.flatten(-2)
        information = flat.new_zeros(T, points, 9).scatter_add_(1, index.expand(-1, -1, 9), flat).unflatten(-1, (3, 3))
    return Pull(information, gradient, cost)


def on_plane(
    points: Float[Tensor, "T P 3"], R: Float[Tensor, "3 3"], translation: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "T P 2"], Float[Tensor, "T P 2 3"], Float[Tensor, "T P"]]:
    """Where points fall on a camera's plane at depth 1, the derivative of that (1/m), and their depth (m)."""
    p = points @ R.T + translation
    z = p[..., 2].clamp_min(0.05)[..., None]
    plane = p[..., :2] / z
    return plane, (R[:2] - plane[..., None] * R[2]) / z[..., None], p[..., 2]


def padded(pull: Pull, before: int, after: int) -> Pull:
    """The pull on a set of points that has `before` more in front and `after` more behind, on which it says nothing."""
    grow = lambda x: torch.cat([x.new_zeros(len(x), before, *x.shape[2:]), x, x.new_zeros(len(x), after, *x.shape[2:])], 1)  # noqa: E731
    return Pull(grow(pull.information), grow(pull.gradient), pull.cost)

"""Ordinal depth: who is nearer to a camera, told by a person or a network, where distances are not to be had.

Pavlakos, Zhou and Daniilidis, Ordinal Depth Supervision for 3D Human Pose Estimation, 2018: weak labels that resolve mirrored limbs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.fit.robust import along
from studio.fit.state import Pull


@dataclass(frozen=True)
class Order:
    """Pairs of points of which one is nearer to a camera."""

    towards: Float[Tensor, "N 3"]
    """Viewing direction of the camera of each pair, in the world."""
    nearer: Int[Tensor, "N"]
    farther: Int[Tensor, "N"]
    said: Bool[Tensor, "T N"]
    """In which frames the pair is known."""

    def __getitem__(self, frames: slice | Tensor) -> Order:
        return Order(self.towards, self.nearer, self.farther, self.said[frames])


def ordinal(points: Float[Tensor, "T P 3"], order: Order, margin: float, sigma: float, kernel: float) -> Pull:
    """Points whose depths are in the wrong order are drawn past each other by `margin`; `margin` and `sigma` in m."""
    P, T = points.shape[1], len(points)
    depth = lambda i: (points[:, i] * order.towards).sum(-1)  # noqa: E731
    wrong = torch.where(order.said, (depth(order.nearer) - depth(order.farther) + margin).clamp_min(0), 0) / sigma
    slope = torch.where((wrong > 0)[..., None], order.towards / sigma, 0)
    first = along(wrong, slope, kernel, order.nearer.expand(T, -1), P, share=2.0)
    return first + along(wrong, -slope, kernel, order.farther.expand(T, -1), P, share=2.0)

"""Optical flow: visible points of the surface move as the image does. What was placed in one frame tells where it is in the next.

As in Joo, Simon and Sheikh, Total Capture, 2018, section 5: flow ties the body to texture between keypoints; it says nothing of where
the body is, only how it moves, so it refines a solution and cannot start one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from studio.fit.pulls import Views


def visible(points: Float[Tensor, "T P 3"], normals: Float[Tensor, "T P 3"], cameras: Cameras, cell: float = 0.03) -> Bool[Tensor, "C T P"]:
    """Which surface points face a camera, fall on its image, and have no nearer surface before them.

    Nearer is told among the points themselves on a grid of directions `cell` (rad) wide, coarser than their spacing at 1.5 m.
    """
    out = []
    for c in range(len(cameras)):
        camera = cameras[cameras.names[c]]
        sight = points - camera.position[0].to(points)
        distance = sight.norm(dim=-1)
        facing = (normals * sight).sum(-1) < -0.3 * distance
        pixels = camera.project(points.double())[0]
        inside = torch.isfinite(pixels).all(-1) & (pixels >= 0).all(-1) & (pixels <= camera.size[0] - 1).all(-1)
        bin_ = (pixels / camera.focal[0] / cell).nan_to_num(-1).floor().long().clamp(0, 4095)
        number = bin_[..., 0] * 4096 + bin_[..., 1]
        first = _least(number, torch.where(facing & inside, distance, torch.inf))
        out.append(facing & inside & (distance < first + 0.12))
    return torch.stack(out)


def _least(number: Tensor, value: Tensor) -> Tensor:
    """For every entry of a row, the least value among the entries of the same number."""
    compact = torch.stack([torch.unique(row, return_inverse=True)[1] for row in number])
    least = torch.full_like(value, torch.inf).scatter_reduce_(1, compact, value, "amin")
    return least.gather(1, compact)


def carried(
    points: Float[Tensor, "T P 3"],
    seen: Bool[Tensor, "C T P"],
    flow: Float[Tensor, "C T h w 2"],
    cameras: Cameras,
    sigma: float,
    step: int = 1,
) -> Views:
    """Where each frame's visible points should be by the flow from the frame before (`step` = 1) or after (-1): keypoints of the surface.

    `flow[c, t]` holds, for pixels of frame t - step at any resolution, their motion (px of the full image) to frame t; NaN where unknown.
    `sigma` is the flow's standard deviation, px. Frames without a neighbour are not seen.
    """
    C, T, P = seen.shape
    pixels = torch.full((C, T, P, 2), torch.nan, dtype=torch.float64)
    for c in range(C):
        camera = cameras[cameras.names[c]]
        projected = camera.project(points.double())[0]
        h, w = flow.shape[2:4]
        scale = torch.tensor([w, h], dtype=torch.float64) / camera.size[0]
        for t in range(T):
            source = t - step
            if not 0 <= source < T:
                continue
            at = (((projected[source] + 0.5) * scale - 0.5).nan_to_num(-1)).round().long()
            ok = seen[c, source] & (at >= 0).all(-1) & (at[:, 0] < w) & (at[:, 1] < h)
            x, y = at[:, 0].clamp(0, w - 1), at[:, 1].clamp(0, h - 1)
            moved = projected[source] + flow[c, t, y, x].double()
            pixels[c, t] = torch.where(ok[:, None], moved, torch.nan)
    return Views.undistorted(cameras, pixels, torch.full((C, T, P), sigma, dtype=torch.float64))

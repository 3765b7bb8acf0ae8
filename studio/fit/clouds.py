"""Point clouds: of a depth camera, a scan, or a visual hull; each cloud point draws the surface point under it along its normal.

Point-to-plane iterated closest points (Chen and Medioni 1991), where only surfaces facing the same way are matched, along the mean of
both normals (Rusinkiewicz, A symmetric objective function for ICP, 2019): two points of one round limb then agree, however far apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from studio.fit.robust import along
from studio.fit.state import Pull

REACH = 0.2
"""Cloud points farther than this from the body are not its own, m."""


@dataclass(frozen=True)
class Cloud:
    """Points with outward normals, in the world, m; NaN where a frame has fewer."""

    points: Float[Tensor, "T M 3"]
    normals: Float[Tensor, "T M 3"]

    def __getitem__(self, frames: slice | Tensor) -> Cloud:
        return Cloud(self.points[frames], self.normals[frames])

    def to(self, device: str | torch.device) -> Cloud:
        """The same on another device."""
        return Cloud(self.points.to(device), self.normals.to(device))


def cloud(points: Float[Tensor, "T P 3"], normals: Float[Tensor, "T P 3"], seen: Cloud, sigma: float, kernel: float) -> Pull:
    """The pull of a cloud on points of a body's surface; `sigma` in m, `kernel` in standard deviations."""
    known = torch.isfinite(seen.points).all(-1)
    q, n = (torch.where(known[..., None], v, 0) for v in (seen.points, seen.normals))
    which, found = [], []
    for t in range(0, len(points), 16):  # bounds memory: cloud times surface
        f = slice(t, t + 16)
        fits = n[f] @ normals[f].mT > 0.5
        best = torch.where(fits, torch.cdist(q[f], points[f]), torch.inf).min(-1)
        which.append(best.indices)
        found.append(best.values < REACH)
    onto, found = torch.cat(which), torch.cat(found) & known
    pick = lambda x: x.gather(1, onto[..., None].expand(-1, -1, 3))  # noqa: E731
    n = torch.nn.functional.normalize(n + pick(normals), dim=-1)
    residual = ((pick(points) - q) * n).sum(-1) / sigma
    residual = torch.where(found, residual, torch.where(known, torch.inf, 0))
    return along(residual, torch.where(found[..., None], n / sigma, 0), kernel, onto, points.shape[1])


def visual_hull(
    cameras: Cameras,
    masks: Bool[Tensor, "C h w"],
    low: Float[Tensor, "3"],
    high: Float[Tensor, "3"],
    voxel: float = 0.02,
    count: int = 2000,
) -> tuple[Float[Tensor, "M 3"], Float[Tensor, "M 3"]]:
    """Surface of the space that all masks admit, in a box (m): points and outward normals, at most `count`, evenly chosen.

    A camera does not carve what falls outside its image. The surface lies where the occupancy, smoothed over a voxel, crosses a half.
    """
    n = ((high - low) / voxel).ceil().long() + 1
    axes = [low[i] + voxel * torch.arange(int(n[i]), dtype=torch.float64) for i in range(3)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    inside = torch.ones(grid.shape[:3], dtype=torch.bool)
    for c in range(len(cameras)):
        inside &= _admitted(cameras[cameras.names[c]], masks[c], grid)
    soft = torch.nn.functional.avg_pool3d(inside[None, None].double(), 3, 1, 1)[0, 0]
    return isosurface(soft, low, voxel, count)


def isosurface(
    soft: Float[Tensor, "X Y Z"], low: Float[Tensor, "3"], voxel: float, count: int = 2000
) -> tuple[Float[Tensor, "M 3"], Float[Tensor, "M 3"]]:
    """Where a volume (cells `voxel` m apart, the first at `low`) crosses a half: at most `count` points, evenly chosen, outward normals."""
    soft, low = soft.double(), low.double()
    slope = torch.stack(torch.gradient(soft, spacing=voxel), -1)
    points, normals = [], []
    for axis in range(3):  # where the occupancy crosses a half between two neighbours along an axis
        a, b = soft.narrow(axis, 0, soft.shape[axis] - 1), soft.narrow(axis, 1, soft.shape[axis] - 1)
        i = ((a > 0.5) != (b > 0.5)).nonzero()
        j = i.clone()
        j[:, axis] += 1
        va, vb = soft[tuple(i.T)], soft[tuple(j.T)]
        share = ((0.5 - va) / (vb - va))[:, None]
        points.append(low + voxel * (i * (1 - share) + j * share))
        normals.append(-(slope[tuple(i.T)] * (1 - share) + slope[tuple(j.T)] * share))
    p, m = torch.cat(points), torch.cat(normals)
    pick = torch.linspace(0, max(0, len(p) - 1), min(count, len(p))).round().long()
    return p[pick], m[pick] / m[pick].norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _admitted(camera: Cameras, mask: Bool[Tensor, "h w"], grid: Float[Tensor, "X Y Z 3"]) -> Bool[Tensor, "X Y Z"]:
    """Cells that fall into a camera's mask, or outside its image."""
    h, w = mask.shape
    pixels = camera.project(grid.reshape(-1, 3))[0]
    scale = torch.tensor([w, h], dtype=torch.float64) / camera.size[0]
    at = ((pixels + 0.5) * scale - 0.5).round()
    out = ~torch.isfinite(at).all(-1) | (at < 0).any(-1) | (at[:, 0] > w - 1) | (at[:, 1] > h - 1)
    index = at.nan_to_num(0).long()
    x, y = index[:, 0].clamp(0, w - 1), index[:, 1].clamp(0, h - 1)
    return (out | mask[y, x]).reshape(grid.shape[:3])

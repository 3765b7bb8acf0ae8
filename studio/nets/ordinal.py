"""Who is nearer: the depth of every keypoint from one view's 2D keypoints, learned from order alone (Pavlakos et al. 2018).

A volume of `BINS` depths a keypoint is read by soft-argmax; a second network makes a pose of picture and depth (the paper's
reconstruction component). How far two depths lie apart says how surely one keypoint is nearer than the other, for the solver.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rigs.keypoints import COCO_17
from studio.nets import checkpoint
from studio.nets.residual import Residual

KEYPOINTS = COCO_17
BINS = 32
REACH = 1.2
"""Depths lie within this of the hips, m."""
HIPS = tuple(KEYPOINTS.index(f"{s}_hip") for s in ("left", "right"))


class Depth(nn.Module):
    """2D keypoints to a distribution over depth for each."""

    centres: Tensor
    spread: Tensor

    def __init__(self, width: int = 320) -> None:
        super().__init__()
        K = len(KEYPOINTS)
        self.inner = nn.Sequential(
            nn.Linear(3 * K + 1, width), nn.ReLU(), Residual(width, None), Residual(width, None), nn.Linear(width, BINS * K)
        )
        self.register_buffer("centres", torch.linspace(-REACH, REACH, BINS))
        self.register_buffer("spread", torch.tensor(0.08))

    def forward(self, seen: Float[Tensor, "N K 3"], tilt: Float[Tensor, "N"]) -> Float[Tensor, "N K B"]:
        """Probabilities of the bins. `seen`: `flat` keypoints and whether seen (0 or 1); `tilt`: how far the camera looks down, sine."""
        return self.inner(torch.cat([seen.flatten(1), tilt[:, None]], 1)).unflatten(1, (len(KEYPOINTS), BINS)).softmax(-1)

    def depth(self, p: Float[Tensor, "N K B"]) -> Float[Tensor, "N K"]:
        """Soft-argmax: expected depth behind the hips, m (of a person of the average scale)."""
        return p @ self.centres

    def nearer(self, z: Float[Tensor, "N K"], margin: float = 0.0) -> Float[Tensor, "N K K"]:
        """Probability that keypoint i is nearer to the camera than j by at least `margin`, m; logistic of a measured width."""
        return torch.sigmoid((z[:, None] - z[:, :, None] - margin) / self.spread)


class Lifter(nn.Module):
    """Depth and reconstruction together: what a checkpoint holds."""

    def __init__(self, width: int = 320) -> None:
        super().__init__()
        K = len(KEYPOINTS)
        self.depth = Depth(width)
        self.pose = nn.Sequential(
            nn.Linear(4 * K + 1, width), nn.ReLU(), Residual(width, None), Residual(width, None), nn.Linear(width, 3 * K)
        )

    def lifted(self, seen: Float[Tensor, "N K 3"], tilt: Float[Tensor, "N"], z: Float[Tensor, "N K"]) -> Float[Tensor, "N K 3"]:
        """Keypoints relative to the hips' middle, m, in the axes of the view; of depth only the relative size matters."""
        z = z - z[:, HIPS].mean(1, keepdim=True)
        z = z / z.square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
        return self.pose(torch.cat([seen.flatten(1), z, tilt[:, None]], 1)).unflatten(1, (len(KEYPOINTS), 3))

    def forward(self, seen: Float[Tensor, "N K 3"], tilt: Float[Tensor, "N"]) -> Float[Tensor, "N K 3"]:
        """The pose that one view shows."""
        return self.lifted(seen, tilt, self.depth.depth(self.depth(seen, tilt)))


def flat(plane: Float[Tensor, "N K 2"]) -> tuple[Float[Tensor, "N K 3"], Float[Tensor, "N 2"], Float[Tensor, "N"]]:
    """Image-plane keypoints (NaN: not seen) as the networks want them, with the centre and the size that were taken out.

    The centre is the hips' middle, or that of what is seen; the size is the root mean square distance from it.
    """
    there = torch.isfinite(plane).all(-1)
    hips = plane[:, HIPS].nanmean(1)
    centre = torch.where(torch.isfinite(hips), hips, plane.nanmean(1)).nan_to_num()
    off = torch.where(there[..., None], plane - centre[:, None], 0)
    size = (off.square().sum((1, 2)) / there.sum(1).clamp_min(1)).sqrt().clamp_min(1e-6)
    return torch.cat([off / size[:, None, None], there[..., None].to(off.dtype)], -1), centre, size


@cache
def shipped(name: str | Path = "ordinal") -> Lifter:
    """The network of a checkpoint, by name or path."""
    return checkpoint.read(name, Lifter, "ordinal")[0]

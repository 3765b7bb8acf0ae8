"""What one actor's fit is made from: in memory, or asked for stretch by stretch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from studio.fit.dense import Sightings
from studio.fit.mirrored import Nearer


@dataclass(frozen=True)
class Observed:
    """What one actor's fit is made from."""

    cameras: Cameras
    keypoints: tuple[str, ...]
    network: str
    fps: float
    pixels: Float[Tensor, "C T K 2"]
    sigma: Float[Tensor, "C T K"]
    points: Float[Tensor, "T K 3"]
    """Triangulated, NaN where unknown."""
    standing: Float[Tensor, "T 8"] | None = None
    """What a person said of `contact.POINTS` and `contact.HANDS`: 1 planted, 0 free, NaN nothing."""
    masks: tuple[Bool[Tensor, "T _ _"], ...] = ()
    """Of each camera, at any resolution; none where silhouettes are not wanted."""
    orders: tuple[Nearer, ...] = ()
    """What a person said of who is nearer."""
    sightings: Sightings | None = None
    """Where a network saw points of the skin."""
    others: tuple[Bool[Tensor, "T _ _"], ...] = ()
    """Where masks show somebody else, behind whom more of the body may be."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, frames: slice | Tensor) -> Observed:
        standing = None if self.standing is None else self.standing[frames]
        cut = {"pixels": self.pixels[:, frames], "sigma": self.sigma[:, frames], "points": self.points[frames]}
        masks, orders, others = (tuple(m[frames] for m in each) for each in (self.masks, self.orders, self.others))
        sightings = None if self.sightings is None else self.sightings[frames]
        return replace(self, **cut, standing=standing, masks=masks, orders=orders, sightings=sightings, others=others)

    def coverage(self) -> Int[Tensor, "T"]:
        """How many keypoints have a 3D point in each frame."""
        return torch.isfinite(self.points).all(-1).sum(1)


class Source(Protocol):
    """Observations that may lie on disk: only what is asked for is in memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, frames: slice | Tensor) -> Observed: ...
    def coverage(self) -> Int[Tensor, "T"]:
        """How many keypoints have a 3D point in each frame."""
        ...

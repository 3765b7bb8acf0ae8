"""One actor's observations on disk, as the fit reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from calibration.cameras import Cameras
from studio.fit.person import Observed
from studio.values import Footage, Tracks3D


@dataclass(frozen=True)
class StoredTake:
    """One actor's observations on disk; slices of frames are read when asked for."""

    cameras: Cameras
    footage: Footage
    tracks_file: Path
    actor: int
    frames: int

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, frames: slice | Tensor) -> Observed:
        if isinstance(frames, Tensor):
            parts = [self[slice(int(t), int(t) + 1)] for t in frames]
            joined = {k: torch.cat([getattr(p, k) for p in parts], axis) for k, axis in (("pixels", 1), ("sigma", 1), ("points", 0))}
            return replace(parts[0], **joined)
        keypoints = self.footage.cut(frames)
        tracks = Tracks3D.load(self.tracks_file, frames)
        pixels, sigma = tracks.observations(keypoints, self.actor)
        return Observed(self.cameras, keypoints.keypoints, keypoints.network, keypoints.fps, pixels, sigma, tracks.points[:, self.actor])

    def coverage(self) -> Int[Tensor, "T"]:
        """How many keypoints have a 3D point in each frame."""
        step = 2048
        points = (Tracks3D.load(self.tracks_file, slice(t, min(t + step, self.frames))).points for t in range(0, self.frames, step))
        return torch.cat([torch.isfinite(p[:, self.actor]).all(-1).sum(1) for p in points])

"""One actor's observations on disk, as the fit reads them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from calibration.cameras import Cameras
from studio.edits import Edits
from studio.fit.dense import Sightings
from studio.fit.masks import masks_of
from studio.fit.mirrored import Nearer
from studio.fit.observed import Observed
from studio.fit.skin import sightings
from studio.take import Take
from studio.values import Footage, Tracks3D

AXES = (("pixels", 1), ("sigma", 1), ("points", 0), ("standing", 0))
"""Where the frames are in each field of `Observed`."""


@dataclass(frozen=True)
class StoredTake:
    """One actor's observations on disk; slices of frames are read when asked for."""

    cameras: Cameras
    footage: Footage
    tracks_file: Path
    actor: int
    frames: int
    edits: Edits = field(default_factory=Edits)
    """Of this actor."""
    first: int = 0
    """The number of the first frame, as edits count."""
    masks: Take | None = None
    """The take whose masks are wanted too."""
    skin: Take | None = None
    """The take of which sightings of the skin are wanted too."""

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, frames: slice | Tensor) -> Observed:
        if isinstance(frames, Tensor):
            bare = replace(self, masks=None)  # scattered frames are for the shape, which keypoints tell
            parts = [bare[slice(int(t), int(t) + 1)] for t in frames]
            joined = {k: torch.cat([getattr(p, k) for p in parts], axis) for k, axis in AXES}
            return replace(parts[0], **joined, sightings=Sightings.joined([p.sightings for p in parts if p.sightings is not None]))
        keypoints = self.footage.cut(frames)
        tracks = Tracks3D.load(self.tracks_file, frames)
        seen = (*tracks.observations(keypoints, self.actor), tracks.points[:, self.actor])
        first = self.first + (frames.start or 0)
        for other, some in self.edits.partner(tracks.actors[self.actor], first, len(seen[2])):
            partner = tracks.actors.index(other)
            theirs = (*tracks.observations(keypoints, partner), tracks.points[:, partner])
            for own, new, axis in zip(seen, theirs, (1, 1, 0)):
                own.narrow(axis, some.start, some.stop - some.start).copy_(new.narrow(axis, some.start, some.stop - some.start))
        pixels, sigma, points = self.edits.seen(self.cameras.names, keypoints.keypoints, first, *seen)
        standing, begin = self.edits.standing(first, len(points)), frames.start or 0
        span, who = slice(begin, begin + len(points)), tracks.detection[:, :, self.actor]
        orders = tuple(Nearer.at(self.cameras.index(c), a, b, f, len(points)) for c, a, b, f in self.edits.orders(first, len(points)))
        seen_by = [] if self.masks is None else [masks_of(self.masks, c, who[i], span) for i, c in enumerate(self.cameras.names)]
        masks, others = tuple(m for m, _ in seen_by), tuple(o for _, o in seen_by)
        named = (self.cameras, keypoints.keypoints, keypoints.network, keypoints.fps)
        seen_skin = None if self.skin is None else sightings(self.skin, self.cameras.names, self.actor, span)
        return Observed(*named, pixels, sigma, points, standing, masks, orders, seen_skin, others)

    def coverage(self) -> Int[Tensor, "T"]:
        """How many keypoints have a 3D point in each frame."""
        step = 2048
        points = (Tracks3D.load(self.tracks_file, slice(t, min(t + step, self.frames))).points for t in range(0, self.frames, step))
        return torch.cat([torch.isfinite(p[:, self.actor]).all(-1).sum(1) for p in points])

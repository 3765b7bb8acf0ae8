"""Named points over time, the rows of the plain tables: joints, fitted keypoints, triangulated keypoints. World frame, metres."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.body import Body
from rigs.keypoints import COCO_WHOLEBODY
from studio.export.animation import checked
from studio.values import Motion, Tracks3D

BATCH = 512
"""Frames in memory at once."""


@dataclass(frozen=True)
class Points:
    """Where named points are in the studio's world (the cameras' frame: z up), m."""

    names: tuple[str, ...]
    position: Float[Tensor, "T N 3"]
    """m; NaN where unknown."""
    sigma: Float[Tensor, "T N"]
    """Standard deviation (root mean square of the three axes), m; NaN where unknown."""
    fps: float
    first_frame: int
    """Video frame of row 0."""


def in_batches(table: Callable[[Motion, Body], Points], motion: Motion, body: Body) -> Iterator[Points]:
    """A table of a whole motion, some frames at a time."""
    for start in range(0, len(motion.translation), BATCH):
        yield table(motion.cut(slice(start, start + BATCH)), body)


def together(pieces: Iterable[Points]) -> Points:
    """Consecutive pieces of one table as one."""
    listed = list(pieces)
    return replace(listed[0], position=torch.cat([p.position for p in listed]), sigma=torch.cat([p.sigma for p in listed]))


def joints(motion: Motion, body: Body) -> Points:
    """Joint centres of a motion."""
    checked(motion, body)
    posed = body.to(dtype=torch.float64).shaped(motion.shape.double()).posed(motion.rotation.double(), motion.translation.double())
    return Points(motion.joints, posed.joints, motion.sigma.double(), motion.fps, motion.first_frame)


def fitted(motion: Motion, body: Body) -> Points:
    """COCO-WholeBody keypoints of the fitted body, as many as it has; the sigma is that of the joint which moves a point most."""
    checked(motion, body)
    body = body.to(dtype=torch.float64)
    names = tuple(name for name in COCO_WHOLEBODY if name in body.keypoint_names)
    skin = body.keypoint_skin(names) if names else body.skin[:0]
    posed = body.shaped(motion.shape.double()).posed(motion.rotation.double(), motion.translation.double(), motion.expression.double())
    sigma = motion.sigma.double()[:, skin.weights.argmax(-1)]
    return Points(names, posed.points(skin), sigma, motion.fps, motion.first_frame)


def triangulated(tracks: Tracks3D, actor: str) -> Points:
    """Keypoints of one actor straight from the views, before any body was fitted."""
    if actor not in tracks.actors:
        raise ValueError(f"tracks3d: no actor {actor!r}; there are {list(tracks.actors)}")
    a = tracks.actors.index(actor)
    variance = tracks.covariance[:, a].double().diagonal(dim1=-2, dim2=-1).mean(-1)
    return Points(tracks.keypoints, tracks.points[:, a].double(), variance.sqrt(), tracks.fps, tracks.first_frame)


def triangulated_in_batches(tracks_file: Path, actor: str, first: int, count: int) -> Iterator[Points]:
    """The same from a file, `count` video frames from the `first` on, as many as the file has of them, some at a time."""
    begin = first - Tracks3D.load(tracks_file, slice(0, 0)).first_frame
    end = min(begin + count, Tracks3D.count(tracks_file))
    for start in range(max(begin, 0), end, BATCH):
        yield triangulated(Tracks3D.load(tracks_file, slice(start, min(start + BATCH, end))), actor)

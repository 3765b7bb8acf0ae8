"""People followed through a take, one unbroken stretch each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class IdentityConfig:
    """How far apart the sightings of one person may lie."""

    agreement: float = 0.12
    """Median distance between a view's rays and the person's marks, m."""
    reach: float = 0.3
    """The same against where the person is expected in the next frame, m."""
    speed: float = 4.0
    """How fast a person out of sight moves at most as a rule, m/s."""
    run: float = 10.0
    """As fast, m/s, somebody may run who is the same from one stretch to the next; who went there more slowly is more likely."""
    memory: float = 1.0
    """How long a person is expected back at the place last seen, s."""
    look: float = 0.15
    """How far apart the looks (Hellinger distance of the colours, 0 to 1) of one person are from one stretch to the next."""
    clothes: float = 0.5
    """Looks that are 1 apart (nothing in common) count as this many more metres."""
    stranger: float = 0.45
    """A detection whose looks are further from a person's is somebody else."""
    other: float = 0.15
    """So is one that looks by so much more like another, where that is beyond two of `look`."""
    pair: float = 0.6
    """Detections of two views that look further apart are two people; cameras differ in colour, so this is more than `stranger`."""
    build: float = 0.06
    """Standard deviation of a person's measured height from one stretch to the next, m."""
    still: float = 0.02
    """Whoever moves no part of the body by more than this, m, is a picture or a dummy."""


@dataclass(eq=False)
class Person:
    """Someone seen in a stretch of frames."""

    frames: list[int] = field(default_factory=list)
    detections: list[np.ndarray] = field(default_factory=list)
    """Per frame, the detection in each of C views; -1 for none."""
    marks: list[np.ndarray] = field(default_factory=list)
    """Per frame, (M, 3) m; NaN where not known."""
    prominence: float = 0.0
    """Sum over frames and views of the height in the picture, as a part of the picture's."""
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """m a frame."""

    looks: list[np.ndarray] = field(default_factory=list)
    """Per frame, colours: mean over the views; NaN where none tells."""
    wears: tuple[np.ndarray, np.ndarray] = (np.zeros(0), np.zeros((0, 0)))
    """For each camera how many sightings told colours, and their sum: cameras differ in colour, too."""
    placed: int = 0
    """Last frame in which two views told the place."""
    at: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """The marks then, m."""

    def expected(self, frame: int) -> np.ndarray:
        """Where the marks should be now, m."""
        return self.marks[-1] + self.velocity * min(frame - self.frames[-1], 3)

    def met(self, frame: int, detections: np.ndarray, marks: np.ndarray, size: float) -> None:
        """Add a sighting; marks that are not known move along with the others."""
        known = np.isfinite(marks)
        if self.frames:
            expected = self.expected(frame)
            if known.any():
                step = np.nanmedian(marks - self.at, axis=0) / (frame - self.placed)
                self.velocity = 0.5 * self.velocity + 0.5 * step
            marks = np.where(known, marks, expected)
        if known.any():
            self.placed, self.at = frame, marks
        self.frames.append(frame)
        self.detections.append(detections)
        self.marks.append(marks)
        self.prominence += size

    def looked(self, look: np.ndarray) -> None:
        """Add each view's (C, H) colours in the last sighting; NaN where they are not known."""
        known = np.isfinite(look).min(-1)
        self.looks.append(look[known].mean(0) if known.any() else np.full(look.shape[1], np.nan))
        count, total = self.wears if len(self.wears[0]) else (np.zeros(len(look)), np.zeros(look.shape))
        self.wears = count + known, total + np.nan_to_num(look)

    def colours(self, enough: int) -> np.ndarray | None:
        """Mean colours in each view (C, H), of all views where one has not told often `enough`; None where all have not."""
        count, total = self.wears
        if count.sum() < enough:
            return None
        return np.where((count >= enough)[:, None], total / np.maximum(count, 1)[:, None], total.sum(0) / count.sum())

    def met_by_one(self, frame: int, detections: np.ndarray, rays: np.ndarray, position: np.ndarray, size: float) -> None:
        """Add a sighting by one view: sideways it tells the place; in depth the person is taken to come to rest."""
        expected = self.expected(frame)
        offset = expected - position
        aside = (offset * rays).sum(-1, keepdims=True) * rays - offset
        shift = np.nanmedian(aside, axis=0) if np.isfinite(aside).any() else np.zeros(3)
        self.velocity = 0.7 * self.velocity
        self.met(frame, detections, np.full_like(expected, np.nan), size)
        self.marks[-1] = expected + shift

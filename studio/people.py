"""People followed through a take, and who of them plays which part."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class IdentityConfig:
    """How far apart the sightings of one person may lie."""

    agreement: float = 0.12
    """Median distance between a view's rays and the person's marks, m."""
    reach: float = 0.3
    """The same against where the person is expected in the next frame, m."""
    speed: float = 4.0
    """How fast a person out of sight may move, m/s."""
    memory: float = 1.0
    """How long a person is expected back at the place last seen, s."""


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

    def met_by_one(self, frame: int, detections: np.ndarray, rays: np.ndarray, position: np.ndarray, size: float) -> None:
        """Add a sighting by one view: sideways it tells the place; in depth the person is taken to come to rest."""
        expected = self.expected(frame)
        offset = expected - position
        aside = (offset * rays).sum(-1, keepdims=True) * rays - offset
        shift = np.nanmedian(aside, axis=0) if np.isfinite(aside).any() else np.zeros(3)
        self.velocity = 0.7 * self.velocity
        self.met(frame, detections, np.full_like(expected, np.nan), size)
        self.marks[-1] = expected + shift


def cast(
    people: list[Person], count: int, C: int, T: int, fps: float, config: IdentityConfig
) -> tuple[Int[Tensor, "C T A"], Float[Tensor, "T A 3"]]:
    """Give the `count` parts to people, and to the same part those who may be one person that was lost in between."""
    parts: list[list[Person]] = []
    for person in sorted(people, key=lambda p: -p.prominence):
        if any(_twins(person, other) for part in parts for other in part):
            continue
        reachable = [(miss, part) for part in parts if (miss := _miss(person, part, fps, config)) is not None]
        reachable = [(miss, part) for miss, part in reachable if _comparable(person, part)]
        if reachable:
            min(reachable, key=lambda r: r[0])[1].append(person)
        elif len(parts) < count:
            parts.append([person])
    detection = np.full((C, T, count), -1)
    place = np.full((T, count, 3), np.nan)
    for a, part in enumerate(parts):
        for person in part:
            detection[:, person.frames, a] = np.stack(person.detections, 1)
            known = np.stack(person.marks)
            place[person.frames, a] = np.nanmedian(np.where(np.isfinite(known).any(1, keepdims=True), known, 0), axis=1)
    return torch.from_numpy(detection), torch.from_numpy(place).float()


def _comparable(person: Person, part: list[Person]) -> bool:
    """Whether the person is about as prominent as who plays the part already; a bystander does not stand in for an actor."""
    rate = person.prominence / len(person.frames)
    return rate > 0.4 * sum(p.prominence for p in part) / sum(len(p.frames) for p in part)


def _twins(a: Person, b: Person) -> bool:
    """Whether two people are one that was detected twice: they share most frames, and the place."""
    shared = sorted(set(a.frames) & set(b.frames))
    if len(shared) < 0.5 * min(len(a.frames), len(b.frames)):
        return False
    of_a, of_b = dict(zip(a.frames, a.marks)), dict(zip(b.frames, b.marks))
    apart = [np.linalg.norm(of_a[t] - of_b[t], axis=-1) for t in shared]
    return bool(np.nanmedian(np.concatenate(apart)) < 0.2)


def _miss(person: Person, part: list[Person], fps: float, config: IdentityConfig) -> float | None:
    """How far the person is from where the part was last and next played, m; None where they overlap or it is too far to go."""
    far = 0.0
    for other in part:
        if person.frames[0] <= other.frames[-1] and other.frames[0] <= person.frames[-1]:
            return None
    before = max((o for o in part if o.frames[-1] < person.frames[0]), key=lambda o: o.frames[-1], default=None)
    after = min((o for o in part if o.frames[0] > person.frames[-1]), key=lambda o: o.frames[0], default=None)
    for first, then in ((before, person), (person, after)):
        if first is None or then is None:
            continue
        distance = float(np.nanmedian(np.linalg.norm(then.marks[0] - first.at, axis=-1)))
        if distance > config.reach + config.speed * (then.frames[0] - first.placed) / fps:
            return None
        far += distance
    return far

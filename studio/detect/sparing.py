"""Which frames need a look: while everybody moves evenly, what lies between two looks is known as well as a look would tell.

A detector's error hardly changes from one frame to the next, so the next look says little that is new; a path that bends does. Frames
are looked at in steps, and where keypoints bend off a straight line by more than the detector is unsure of them, somebody comes or
goes, or people are close to each other, the frames between are looked at after all: the detector is put back to what it knew then.
Of a network that was trained on single images nothing is lost; of a hand that is only now and then seen, a look or two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from studio.detect.landmarks import Sight
from studio.video import BrokenVideo

Array = np.ndarray
SLOWEST = 12.0
"""Looks a second at least: people do nothing in a sixth of a second that these do not show, or that does not bend their path."""
BENT = 1.0
"""Standard deviations by which a group of keypoints may lie off the line between two looks."""
AWAKE = 0.15
"""s for which every frame is looked at after somebody came or went."""
NEAR = 0.1
"""People's boxes are grown by this part of their height; who touches is looked at in every frame."""
BODY = ((0, 1, 2, 3, 4), (5, 7, 9), (6, 8, 10), (11, 13, 15, 17, 18, 19), (12, 14, 16, 20, 21, 22))
"""Head, arms, legs."""
MORE = (tuple(range(23, 59)), tuple(range(59, 71)), tuple(range(71, 91)), tuple(range(91, 112)), tuple(range(112, 133)))
"""Face, eyes, mouth, hands. Whether they are seen flickers; where one look has them and the next not, nothing lies between."""


class Restorable(Protocol):
    """A detector that can be put back."""

    def see(self, image: UInt8[Array, "H W 3"]) -> dict[int, Sight]:
        """Slot -> what was seen of a person."""
        ...

    def remembered(self) -> Callable[[], None]:
        """What it knows now; calling it, as often as wanted, puts the detector back to that."""
        ...


@dataclass
class Look:
    """One frame that was looked at."""

    number: int
    image: UInt8[Array, "H W 3"]
    sights: dict[int, Sight]
    back: Callable[[], None] = lambda: None
    """Puts the detector back to what it knew after this look."""


@dataclass(frozen=True)
class Between:
    """A frame that was not looked at, and the looks around it."""

    number: int
    image: UInt8[Array, "H W 3"]
    before: Look
    after: Look

    @property
    def part(self) -> float:
        """Of the way from the look before to the one after."""
        return (self.number - self.before.number) / (self.after.number - self.before.number)


def step_of(fps: float) -> int:
    """Frames from one look to the next: the largest power of two that leaves enough of them."""
    step = 1
    while fps / (2 * step) >= SLOWEST:
        step *= 2
    return step


class Sparing:
    """Goes through one video's frames in order; `always` names frames that are looked at in any case, `phase` shifts the others."""

    def __init__(self, detector: Restorable, fps: float, phase: int = 0, always: tuple[int, ...] = ()) -> None:
        self._detector, self._step, self._always = detector, step_of(fps), always
        self._phase, self._rest = phase, max(round(AWAKE * fps), 1)
        self._awake = -1
        self._last: tuple[Look | None, Look | None] = (None, None)
        """The last look but one, and the last."""

    def see(self, source: Iterator[tuple[int, UInt8[Array, "H W 3"]]]) -> Iterator[Look | Between]:
        """Every frame of the source; what breaks the source off is raised when all frames before it are through."""
        waiting: list[tuple[int, Any]] = []
        broken: BrokenVideo | None = None
        while True:
            try:
                frame = next(source, None)
            except BrokenVideo as error:
                broken, frame = error, None
            if frame is None:
                break
            waiting.append(frame)
            if self._wanted(frame[0]):
                yield from self._through(waiting)
                waiting = []
        if waiting:
            yield from self._through(waiting)
        if broken is not None:
            raise broken

    def _wanted(self, number: int) -> bool:
        """Whether a frame is looked at before what follows it is known."""
        last = self._last[1]
        if last is None or number in self._always or number <= self._awake or (number + self._phase) % self._step == 0:
            return True
        return number - last.number >= self._step or touching(list(last.sights.values()))

    def _through(self, frames: list[tuple[int, UInt8[Array, "H W 3"]]]) -> Iterator[Look | Between]:
        """Some frames of which the last is looked at."""
        earlier, before = self._last
        looks = [self._look(*frames[-1])]
        if len(frames) > 1 and before is not None:
            looks = self._resolved(earlier, before, frames[:-1], looks[0])
            looks[-1].back()
        row = [look for look in (earlier, before, *looks) if look is not None]
        self._last = (row[-2] if len(row) > 1 else None, row[-1])
        numbers = {look.number: i for i, look in enumerate(looks)}
        at = 0
        for number, image in frames:
            if number in numbers:
                at = numbers[number] + 1
                yield looks[at - 1]
            else:
                previous = looks[at - 1] if at else before
                assert previous is not None
                yield Between(number, image, previous, looks[at])

    def _look(self, number: int, image: UInt8[Array, "H W 3"]) -> Look:
        sights = self._detector.see(image)
        return Look(number, image, sights, self._detector.remembered())

    def _resolved(self, earlier: Look | None, a: Look, frames: list[tuple[int, Any]], b: Look) -> list[Look]:
        """The looks that are needed after `a` up to `b`, itself or made anew."""
        if not frames:
            return [b]
        if changed(a.sights, b.sights):
            self._awake = b.number + self._rest
            a.back()
            return [self._look(*frame) for frame in [*frames, (b.number, b.image)]]
        if earlier is not None and unevenness(earlier, a, b) <= BENT:
            return [b]
        half = len(frames) // 2
        a.back()
        middle = self._look(*frames[half])
        first = self._resolved(earlier, a, frames[:half], middle)
        return [*first, *self._resolved([a, *first][-2], first[-1], frames[half + 1 :], b)]


def touching(people: list[Sight]) -> bool:
    """Whether the boxes of two people come together."""
    if len(people) < 2:
        return False
    corners = []
    for sight in people:
        points = sight.pixels[np.isfinite(sight.pixels).all(1)]
        if len(points):
            low, high = points.min(0), points.max(0)
            margin = NEAR * (high - low).max()
            corners.append((low - margin, high + margin))
    return any(bool((np.maximum(a[0], b[0]) < np.minimum(a[1], b[1])).all()) for i, a in enumerate(corners) for b in corners[i + 1 :])


def changed(a: dict[int, Sight], b: dict[int, Sight]) -> bool:
    """Whether somebody came or went, or a part of a body; of hands alone, whether one of them did."""
    if set(a) != set(b):
        return True
    for slot, before in a.items():
        one, two = _seen(before), _seen(b[slot])
        bodiless = not (one[:17].any() or two[:17].any())
        if any(abs(one[list(g)].mean() - two[list(g)].mean()) > 0.5 for g in (MORE if bodiless else BODY)):
            return True
    return False


def unevenness(earlier: Look, a: Look, b: Look) -> float:
    """By how many standard deviations the path through three looks is off the line between the last two, where it is most: root mean
    square over the group of keypoints for which it is largest."""
    times = earlier.number, a.number, b.number
    # Newton's divided difference of second order; (t - t1) (t - t2) is largest in the middle.
    scale = (times[2] - times[1]) ** 2 / 4
    worst = 0.0
    for slot, last in b.sights.items():
        one, two = earlier.sights.get(slot), a.sights[slot]
        if one is None:
            return np.inf
        onward = (last.pixels - two.pixels) / (times[2] - times[1])
        before = (two.pixels - one.pixels) / (times[1] - times[0])
        bend = np.linalg.norm(onward - before, axis=1) / (times[2] - times[0]) * scale
        off = bend / np.maximum(two.sigma, last.sigma)
        worst = max(worst, *(_size(off[list(group)]) for group in (*BODY, *MORE)))
    return worst


def _seen(sight: Sight) -> Float[Array, "133"]:
    return np.isfinite(sight.pixels).all(1).astype(float)


def _size(off: Float[Array, "n"]) -> float:
    known = off[np.isfinite(off)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else 0.0

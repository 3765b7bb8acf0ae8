"""Which frames need a look: while everybody moves evenly, what lies between two looks is known as well as a look would tell.

A detector's error hardly changes from one frame to the next, so the next look says little that is new; a path that bends does. Frames
are looked at in steps, and where keypoints bend off a straight line, somebody comes or goes, or people are close to each other, the
frames between are looked at after all: the detector is put back to what it knew then. What swings in time with the looks seems to stand
still; so every now and then a frame is looked at although nothing bends, and if it is not where it was expected, all are for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rigs.keypoints import GROUPS
from studio.detect.landmarks import Sight
from studio.video import BrokenVideo

Array = np.ndarray
SLOWEST = 12.0
"""Looks a second at least."""
AWAKE, SWINGING = 0.15, 0.5
"""s for which every frame is looked at after somebody came or went, and after a frame was not as expected."""
CHECKED = 0.8
"""s after which a frame between two looks is looked at to see whether it is as expected."""
NEAR = 0.1
"""People's boxes are grown by this part of their height; who touches is looked at in every frame."""
BODY = ((0, 1, 2, 3, 4), (5, 7, 9), (6, 8, 10), (11, 13, 15, 17, 18, 19), (12, 14, 16, 20, 21, 22))
"""Head, arms, legs: seen or not, and each by itself."""
HANDS = (GROUPS["left_hand"], GROUPS["right_hand"])
FACE, FEATURES = list(GROUPS["face"]), slice(36, 68)
"""All of the face; of that, eyes and mouth."""
BENT, BENT_HAND, BENT_FEATURE = 0.6, 1.2, 0.15
"""Standard deviations by which a keypoint may lie off the line between two looks: one of the body or the face, one of a hand, whose network
is less steady, and one of eyes and mouth within the face, for lids and lips move less than the whole face is sure of."""
Frame = tuple[int, UInt8[Array, "H W 3"]]


class Detector(Protocol):
    """Sees people in the frames of one video, and can be put back to an earlier one."""

    def see(self, image: UInt8[Array, "H W 3"], passed: int = 1) -> dict[int, Sight]:
        """Slot (stays with a person while he is followed) -> what was seen of him, `passed` frames after the last look."""
        ...

    def remembered(self) -> Callable[[], None]:
        """What it knows now; calling it, as often as wanted, puts the detector back to that."""
        ...


@dataclass
class Look:
    """One frame that was looked at."""

    number: int
    image: UInt8[Array, "H W 3"] | None
    """None when it is over."""
    sights: dict[int, Sight]
    back: Callable[[], None] = lambda: None
    """Puts the detector back to what it knew after this look."""
    known: int = -1
    """The look before, as far as the detector knows."""


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
    while step < 64 and fps / (2 * step) >= SLOWEST:
        step *= 2
    return step


class Sparing:
    """Goes through one video's frames in order.

    Frames before `begin` are all looked at, and so is the first from there on and `last`; `phase` shifts the others. `when` gives a frame's
    time, s, by default of even steps.
    """

    def __init__(
        self,
        detector: Detector,
        fps: float,
        phase: int = 0,
        begin: int = 0,
        last: int | None = None,
        when: Callable[[int], float] | None = None,
    ) -> None:
        self._detector, self._step, self._phase, self._begin, self._end = detector, step_of(fps), phase, begin, last
        self._when = when or (lambda number: number / fps)
        self._frames = lambda seconds: max(round(seconds * fps), 1)
        self._awake, self._checked = -1, 0
        self._knows = -1
        """The last look that the detector knows of."""
        self._last: tuple[Look | None, Look | None] = (None, None)
        """The last look but one, and the last."""

    def see(self, source: Iterator[Frame]) -> Iterator[Look | Between]:
        """Every frame of the source; what breaks the source off is raised when all frames before it are through."""
        waiting: list[Frame] = []
        broken: BrokenVideo | None = None
        while True:
            try:
                frame = next(source, None)
            except BrokenVideo as error:
                broken, frame = error, None
            if frame is None:
                break
            if waiting and frame[0] != waiting[-1][0] + 1:  # frames are missing: nothing is known of what lies there
                yield from self._through(waiting)
                waiting = []
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
        if last is None or last.number < self._begin or number == self._end or number <= self._awake:
            return True
        if (number + self._phase) % self._step == 0 or number - last.number >= self._step:
            return True
        return touching(list(last.sights.values()))

    def _through(self, frames: list[Frame]) -> Iterator[Look | Between]:
        """Some frames, none missing among them, of which the last is looked at."""
        earlier, before = self._last
        if before is not None and frames[0][0] == before.number + 1:
            looks = self._resolved(earlier, before, frames[:-1], self._look(*frames[-1]))
        else:  # at the very beginning, or after a gap
            looks = [self._look(*frame) for frame in frames]
        self._return_to(looks[-1])
        row = [look for look in (earlier, before, *looks) if look is not None]
        for one, two in zip(row[-len(looks) - 1 :], row[-len(looks) :]):
            if one is not two and changed(one.sights, two.sights):
                self._awake = max(self._awake, two.number + self._frames(AWAKE))
        self._last = (row[-2] if len(row) > 1 else None, row[-1])
        numbers = {look.number: i for i, look in enumerate(looks)}
        at = 0
        for number, image in frames:
            if number in numbers:
                at = numbers[number] + 1
                yield looks[at - 1]
                looks[at - 1].image = None
            else:
                previous = looks[at - 1] if at else before
                assert previous is not None
                yield Between(number, image, previous, looks[at])

    def _look(self, number: int, image: UInt8[Array, "H W 3"]) -> Look:
        known = self._knows
        sights = self._detector.see(image, number - known if 0 <= known < number else 1)
        self._knows = number
        return Look(number, image, sights, self._detector.remembered(), known)

    def _return_to(self, look: Look) -> None:
        if self._knows != look.number:
            look.back()
            self._knows = look.number

    def _resolved(self, earlier: Look | None, a: Look, frames: list[Frame], b: Look) -> list[Look]:
        """The looks that are needed after `a` up to `b`, itself or made anew."""
        differs = changed(a.sights, b.sights)
        if not frames and (b.known == a.number or not differs):
            return [b]
        assert b.image is not None
        if differs:
            self._return_to(a)
            return [self._look(*frame) for frame in [*frames, (b.number, b.image)]]
        due = b.number >= self._checked + self._frames(CHECKED)
        flickers = len(frames) > 1 and changed(a.sights, b.sights, HANDS)
        even = earlier is not None and not flickers and not bends(earlier, a, b, self._when)
        if even and not due:
            return [b]
        half = len(frames) // 2
        self._return_to(a)
        middle = self._look(*frames[half])
        if even:
            self._checked = b.number
            if bends(a, middle, b, self._when):
                self._awake = b.number + self._frames(SWINGING)
                self._checked -= self._frames(CHECKED)  # afterwards the next frames are checked at once
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


def changed(a: dict[int, Sight], b: dict[int, Sight], parts: tuple[tuple[int, ...], ...] = BODY) -> bool:
    """Whether somebody came or went, or one of these parts of a body; of hands alone, whether one of them did."""
    if set(a) != set(b):
        return True
    for slot, before in a.items():
        one, two = _seen(before), _seen(b[slot])
        bodiless = not (one[:17].any() or two[:17].any())
        if any(abs(one[list(g)].mean() - two[list(g)].mean()) > 0.5 for g in (HANDS if bodiless else parts)):
            return True
    return False


def _seen(sight: Sight) -> Bool[Array, "133"]:
    return np.asarray(np.isfinite(sight.pixels).all(1))


def bends(earlier: Look, a: Look, b: Look, when: Callable[[int], float]) -> bool:
    """Whether the path through three looks is off the line between the last two by more than it may be, for any keypoint.

    A keypoint that was not yet seen in the first of them may have begun to move.
    """
    for slot, last in b.sights.items():
        one, two = earlier.sights.get(slot), a.sights[slot]
        if one is None:
            return True
        times = when(earlier.number), when(a.number), when(b.number)
        sigma = np.maximum(two.sigma, last.sigma)
        off = off_line(one.pixels, two.pixels, last.pixels, times) / sigma
        a1, a2, a3 = (s.pixels[FACE] - s.pixels[FACE].mean(0) for s in (one, two, last))
        within = (off_line(a1, a2, a3, times) / sigma[FACE])[FEATURES]
        off[list(sum(HANDS, ()))] /= BENT_HAND / BENT
        if (off > BENT).any() or (within > BENT_FEATURE).any():
            return True
    return False


def off_line(
    one: Float[Array, "K 2"], two: Float[Array, "K 2"], three: Float[Array, "K 2"], times: tuple[float, float, float]
) -> Float[Array, "K"]:
    """px: how far the parabola through three places is off the line between the last two, in the middle (Newton's divided differences);
    NaN where either of these is not known. An unknown first place counts as the second."""
    onward = (three - two) / (times[2] - times[1])
    before = np.nan_to_num((two - one) / (times[1] - times[0]))
    return np.linalg.norm(onward - before, axis=1) / (times[2] - times[0]) * (times[2] - times[1]) ** 2 / 4

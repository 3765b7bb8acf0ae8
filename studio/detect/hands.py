"""One person's hands and nothing else: for cameras so near that no body is seen.

Hands are found by their palms anywhere in the image and followed by their own landmarks. Which of them is the left is judged over
time, not frame by frame: the network's word for one picture of a fist is worth little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from studio.detect.landmarks import SIDES, HandSight, Sight, hands_alone, logit
from studio.detect.networks import Networks
from studio.detect.parts import PRESENT, SMALLEST
from studio.detect.regions import Array, Region, around_hand, around_palm, halvings
from studio.detect.runtimes import Runtime

KEPT = 0.95
"""How much of what was known of a hand's side is left after a frame: about two thirds of a second have a say."""
SAME = 0.15
"""Two hands whose landmarks lie closer than this part of the region looked at are one."""
PALM = 0.5
"""Score from which a palm is looked at."""
Pyramid = list[UInt8[Array, "H W 3"]]


@dataclass
class Followed:
    """A hand that is being followed."""

    sight: HandSight
    right: float = 0.0
    """Evidence for a right hand, in logits, fading over time."""

    def seen(self, sight: HandSight, passed: int = 1) -> None:
        """Remember where it is now, so many frames later, and what that says of its side; a doubtful sight says little."""
        self.sight = sight
        self.right = KEPT**passed * self.right + sight.presence * float(logit(np.array(np.clip(sight.right, 0.02, 0.98))))


class Hands:
    """Sees at most one left and one right hand, in slot 0."""

    def __init__(
        self, people: int = 1, search_every: int = 10, reduction: int = 0, regions: int = 1, runtime: Runtime | None = None
    ) -> None:
        """One person, no masks: of these settings only `search_every` and `runtime` have a meaning here."""
        self._networks, self._search_every = Networks(runtime), search_every
        self._followed: list[Followed] = []
        self._frame = 0

    def see(self, image: UInt8[Array, "H W 3"], passed: int = 1) -> dict[int, Sight]:
        """Slot 0 -> the hands, `passed` frames after the last look; empty where there are none."""
        pyramid, before = halvings(image), len(self._followed)
        self._frame += passed - 1
        self._follow(pyramid, passed)
        if len(self._followed) < before or (len(self._followed) < len(SIDES) and self._frame % self._often < passed):
            self._search(pyramid)
        self._frame += 1
        hands = named(self._followed)
        return {0: hands_alone(hands, (image.shape[1], image.shape[0]))} if hands else {}

    def remembered(self) -> Callable[[], None]:
        """What is known now; calling it puts the detector back to that."""
        kept, frame = [replace(hand) for hand in self._followed], self._frame

        def back() -> None:
            self._followed, self._frame = [replace(hand) for hand in kept], frame

        return back

    @property
    def _often(self) -> int:
        """Frames between searches: of every second image while no hand is followed, else as asked for."""
        return self._search_every if self._followed else 2

    def _follow(self, pyramid: Pyramid, passed: int) -> None:
        """Look at every hand again, where it was."""
        kept: list[Followed] = []
        for hand in sorted(self._followed, key=lambda h: -h.sight.presence):
            sight = _looked(self._networks, pyramid, around_hand(hand.sight.points))
            if sight is not None and not any(_same(sight, other.sight) for other in kept):
                hand.seen(sight, passed)
                kept.append(hand)
        self._followed = kept

    def _search(self, pyramid: Pyramid) -> None:
        """Add hands that nobody follows; one is believed if a second look, from its own landmarks, finds it again."""
        for region in _palms(self._networks, pyramid):
            if len(self._followed) == len(SIDES):
                return
            first = _looked(self._networks, pyramid, region)
            sight = first and _looked(self._networks, pyramid, around_hand(first.points))
            if sight is not None and not any(_same(sight, other.sight) for other in self._followed):
                self._followed.append(Followed(sight))
                self._followed[-1].seen(sight)


def named(followed: list[Followed]) -> dict[str, HandSight]:
    """Left and right: of two hands the one that is more of a right one, of one what it is."""
    order = sorted(followed, key=lambda h: h.right)
    if len(order) == 1:
        return {SIDES[int(order[0].right > 0)]: order[0].sight}
    return {side: hand.sight for side, hand in zip(SIDES, order)}


def _looked(networks: Networks, pyramid: Pyramid, region: Region) -> HandSight | None:
    """The hand in a region; None where the network sees none."""
    if not SMALLEST < region.size < 4 * max(pyramid[0].shape[:2]):
        return None
    sight = HandSight(*networks.hand(pyramid, region), region.size)
    return sight if sight.presence >= PRESENT else None


def _palms(networks: Networks, pyramid: Pyramid) -> Iterator[Region]:
    """Where hands may be: palms in the whole image, then in its four quarters, for small ones."""
    height, width = pyramid[0].shape[:2]
    middle, side = ((width - 1) / 2, (height - 1) / 2), float(max(width, height))
    yield from (around_palm(found) for _, found in networks.palms(pyramid, Region(*middle, side, 0.0), PALM))
    for x in (-0.2, 0.2):
        for y in (-0.2, 0.2):
            tile = Region(middle[0] + x * width, middle[1] + y * height, 0.6 * side, 0.0)
            yield from (around_palm(found) for _, found in networks.palms(pyramid, tile, PALM))


def _same(a: HandSight, b: HandSight) -> bool:
    """Whether two sights are of one hand."""
    gap: Any = np.linalg.norm(a.points - b.points, axis=1).mean()
    return float(gap) < SAME * min(a.size, b.size)

"""The networks of the mediapipe wheel on regions that follow from what all views together saw just before.

Whom a view follows it goes on following by itself; the 3D state says who must be in the picture although the view lost him, where each of
his hands is, and what needs no look because it is outside the picture or behind his trunk. Without a hint everything is as in `Mediapipe`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rigs.keypoints import mirrored
from studio.detect.landmarks import BODY, SIDES, HandSight, Sight
from studio.detect.mediapipe import Mediapipe, Person, Pyramid, credible, same_person
from studio.detect.networks import PoseSight
from studio.detect.parts import ARM, PRESENT, SMALLEST, SURE, hands_of, is_known
from studio.detect.regions import Array, Region, around_body, around_hand, halvings
from studio.guide import LIMBS, Hint, K

LOOKED = list(BODY.values())
MIRRORED = [LOOKED[i] for i in mirrored(tuple(BODY))]
EXPECTED = [K[name] for name in BODY]
"""The same points among the pose landmarks, there with left and right exchanged, and among a hint's keypoints."""
APART, OFF = 0.25, 0.08
"""m: how far a body's limbs, and a hand's points, may lie from where they are expected."""
DOUBT = 0.4
"""Of `OFF`: what a hand may lie off before it is looked for elsewhere."""
RARELY = 3
"""Searches of the whole image are so many times rarer while everybody expected is seen."""
AGAIN = 4
"""Of so many frames one looks thoroughly for a hand that should be seen and is not."""


OTHER = {"left": "right", "right": "left"}


class Guided(Mediapipe):
    """One view of several that are seen in step."""

    def __init__(self, phase: int = 0, **settings: Any) -> None:
        """`phase`: views search the whole image in different frames."""
        super().__init__(**settings)
        self._hints: dict[int, Hint] = {}
        self._phase = phase

    def see_with(self, image: UInt8[Array, "H W 3"], hints: Sequence[Hint]) -> dict[int, Sight]:
        """Slot -> person, of the next frame."""
        if not hints and not self._hints:
            return self.see(image)
        pyramid = halvings(image)
        self._follow(pyramid)
        self._hints = self._met(pyramid, hints)
        if not self._persons or self._due:
            self._search(pyramid)
        return self._sights(pyramid)

    @property
    def _due(self) -> bool:
        """Views search in different frames, and rarely while everybody expected is seen."""
        return (self._frame + self._phase) % (self._search_every * RARELY) == 0 if self._hints else super()._due

    @property
    def _turn(self) -> int | None:
        """All places: what the others see makes searches rare."""
        return None

    def _met(self, pyramid: Pyramid, hints: Sequence[Hint]) -> dict[int, Hint]:
        """By slot what is expected of everybody who is followed; who is expected and not followed is looked for where he must be."""
        known: dict[int, Hint] = {}
        for hint in hints:
            slot = hint.slot
            if slot in self._persons and _off(self._persons[slot].body, hint) < APART * hint.scale:
                known[slot] = hint
            elif (body := self._expected(pyramid, hint)) is not None:
                if slot not in self._persons:
                    slot = self._free_slot(body.region.size)
                if slot is not None:
                    self._persons[slot] = Person(body)
                    known[slot] = hint
        self._persons = {slot: self._persons[slot] for slot in sorted(self._persons)}
        return known

    def _expected(self, pyramid: Pyramid, hint: Hint) -> PoseSight | None:
        """The person where the hint puts him, if he can be seen and is there."""
        region = body_region(hint)
        if region is None:
            return None
        self._add_masks(pyramid)
        others = [person.body.seen for slot, person in self._persons.items() if slot != hint.slot]
        body = self._networks.pose(pyramid, region, others)
        if body.presence < PRESENT or _off(body, hint) > APART * hint.scale:
            return None
        (body,) = self._bodies(pyramid, [around_body(*body.anchors)], [(None, others)])  # the landmarks' own region is better
        fits = credible(body, pyramid[0].shape) and _off(body, hint) < APART * hint.scale
        return body if fits and not any(same_person(body, other.body) for other in self._persons.values()) else None

    def _hands(self, pyramid: Pyramid, person: Person) -> dict[str, HandSight]:
        hint = next((h for slot, h in self._hints.items() if self._persons.get(slot) is person), None)
        return super()._hands(pyramid, person) if hint is None else self._expected_hands(pyramid, person, hint)

    def _expected_hands(self, pyramid: Pyramid, person: Person, hint: Hint) -> dict[str, HandSight]:
        """The hands, each where the 3D state puts that of this arm; now and then, or where it puts none, as without a hint."""
        crossed, thorough = _crossed(person.body, hint), (self._frame + self._phase) % AGAIN == 0
        wanted = {side: OTHER[side] if crossed else side for side in SIDES}
        wanted = {side: own for side, own in wanted.items() if not hint.misses(own)}
        found: dict[str, HandSight] = {}
        open_: list[str] = []
        for side, own in wanted.items():
            points = hint.hand(own)
            known = bool(np.isfinite(points).all())
            hand = self._expected_hand(pyramid, points, hint.scale, person.hands.get(side)) if known else None
            if hand is not None:
                found[side] = hand
            if not known or (thorough and (hand is None or _worth(hand, points, hint.scale) < SURE - DOUBT)):
                open_.append(side)
        if open_:
            more = hands_of(self._networks, pyramid, person.body, {}, thorough)
            for side in (s for s in open_ if s in more):
                others = [hand for s, hand in found.items() if s != side]
                points = hint.hand(wanted[side])
                better = side not in found or _worth(more[side], points, hint.scale) > _worth(found[side], points, hint.scale)
                if better and not is_known(more[side], others):
                    found[side] = more[side]
        return {s: found[s] for s in SIDES if s in found}

    def _expected_hand(self, pyramid: Pyramid, points: Array, scale: float, before: Region | None) -> HandSight | None:
        """The hand that must be there: where this view itself saw it last, and where all put it together if that leaves doubt."""
        best: HandSight | None = None
        for region in (before, around_hand(points)):
            hand = self._looked(pyramid, region, points, OFF * scale)
            if hand is not None and before is None:  # a first look is refined by a second one, centred
                hand = self._looked(pyramid, around_hand(hand.points), points, OFF * scale) or hand
            if hand is not None and (best is None or _worth(hand, points, scale) > _worth(best, points, scale)):
                best = hand
            if best is not None and _worth(best, points, scale) >= SURE - DOUBT:
                break
        return best

    def _looked(self, pyramid: Pyramid, region: Region | None, points: Array, reach: float) -> HandSight | None:
        """The hand in a region, if there is one within `reach` px of these points."""
        if region is None or region.size < SMALLEST:
            return None
        hand = HandSight(*self._networks.hand(pyramid, region), region.size)
        near = float(np.linalg.norm(hand.points - points, axis=1).mean()) < reach
        return hand if hand.presence >= PRESENT and near else None


def _worth(hand: HandSight, points: Array, scale: float) -> float:
    """How sure its network is of a hand, less what it lies off from where all views together expect it."""
    gap = float(np.linalg.norm(hand.points - points, axis=1).mean())
    return hand.presence - (gap / (OFF * scale) if math.isfinite(gap) else 0.0)


def body_region(hint: Hint) -> Region | None:
    """Around the body that is expected; None where too little of it would be seen."""
    if hint.shown[LIMBS].sum() < 5:
        return None
    shoulders, hips = (hint.pixels[[K[f"left_{n}"], K[f"right_{n}"]]].mean(0) for n in ("shoulder", "hip"))
    if not np.isfinite([shoulders, hips]).all():
        return None
    reach = float(np.nanmax(np.linalg.norm(hint.pixels[EXPECTED] - hips, axis=1)))
    along = (shoulders - hips) / max(float(np.linalg.norm(shoulders - hips)), 1e-6)
    return around_body(hips, hips + along * 1.1 * reach)


def _off(body: PoseSight, hint: Hint) -> float:
    """px: median distance of a body's limbs from where they are expected, whichever side it calls left; infinite where none is known."""
    return min(_gaps(body.points, hint.pixels, LOOKED), _gaps(body.points, hint.pixels, MIRRORED))


def _gaps(points: Array, expected: Array, order: list[int]) -> float:
    gap = np.linalg.norm(points[order] - expected[EXPECTED], axis=1)
    gap = gap[np.isfinite(gap)]
    return float(np.median(gap)) if len(gap) >= 4 else np.inf


def _crossed(body: PoseSight, hint: Hint) -> bool:
    """Whether what this view calls the left arm is the right one."""
    gaps = []
    for sides in (("left", "right"), ("right", "left")):
        apart = [
            np.linalg.norm(body.points[ARM[a][i]] - hint.pixels[K[f"{b}_{joint}"]])
            for a, b in zip(SIDES, sides, strict=True)
            for i, joint in ((0, "elbow"), (1, "wrist"))
        ]
        gaps.append(float(np.sum(apart)))
    return bool(gaps[1] < 0.6 * gaps[0] and gaps[0] > 0.2 * hint.scale)

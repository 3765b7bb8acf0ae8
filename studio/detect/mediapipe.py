"""Bodies, feet, hands and faces of several people, with the networks of the mediapipe wheel on regions of our own.

Each person is followed from frame to frame by the region that the last landmarks give; hands and faces are looked for where that
body's own wrists and head are, so that a neighbour cannot lend his. Every so many frames, and whenever someone was lost, the
whole image is searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from studio.detect.hands import Hands
from studio.detect.landmarks import SIDES, FaceSight, HandSight, Sight, hands_alone, pixels_per_metre, whole_body
from studio.detect.neighbours import Around, Seen, image_without
from studio.detect.networks import Networks, PoseSight
from studio.detect.parts import ARM, PRESENT, face_of, hands_of, lone_hands, next_regions
from studio.detect.regions import Array, Region, around_body, around_face, around_hand, halvings, to_crop
from studio.detect.runtimes import Runtime

JOINTS = [0, *range(11, 17), *range(23, 29)]
"""Pose landmarks: nose, then shoulders, elbows, wrists, hips, knees, ankles."""
MISSED, AGAIN = 40, 3
"""For so many frames after somebody was lost, behind another mostly, he is searched for in every so many frames."""
FASTEST = 0.08
"""Of a body's region: who moves further from one frame to the next has not been followed but taken for another."""
ENDS, THICK = ((13, 15, 19), (14, 16, 20), (25, 27, 31), (26, 28, 32)), 1 / 24
"""Elbow, wrist and forefinger, knee, ankle and toe among a body's points; how thick they are at most, as a part of its region. With upper
arms and thighs, too, people who hug come out worse."""
PATIENCE = 2
"""Frames for which a hand that was lost is looked for in all places at once."""
RESIGNED = 8
"""Looks after which a hand is looked for in every second one."""
LARGE = 800
"""px: of an image so wide or high the smallest part searched, 0.6 of it, is more than twice what the network takes."""
Pyramid = list[UInt8[Array, "H W 3"]]


@dataclass
class Person:
    """Someone who is being followed, and where to look for hands and face."""

    body: PoseSight
    hands: dict[str, Region] = field(default_factory=dict)
    face: Region | None = None
    missing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    """For how many frames each hand has not been seen."""
    step: Float[Array, "2"] = field(default_factory=lambda: np.zeros(2))
    """How far his hips moved since the frame before, px."""
    swing: Float[Array, "33 2"] = field(default_factory=lambda: np.zeros((33, 2)))
    """How far each point moved beyond that, px."""

    def seen(self, body: PoseSight, passed: int = 1) -> None:
        """The next sight of him, so many frames later; hands and face are looked for where wrists, knuckles and head have moved to."""
        moved = {side: (body.points - self.body.points)[list(ARM[side][1:])].mean(0) for side in self.hands}
        self.hands = {side: r._replace(x=r.x + moved[side][0], y=r.y + moved[side][1]) for side, r in self.hands.items()}
        if self.face is not None:
            x, y = (body.points - self.body.points)[:11].mean(0)
            self.face = self.face._replace(x=self.face.x + x, y=self.face.y + y)
        step = (body.anchors[0] - self.body.anchors[0]) / passed
        self.step = step if np.hypot(*step) < FASTEST * body.region.size else np.zeros(2)
        swing = (body.points - self.body.points) / passed - self.step
        slow = np.hypot(*swing.T) < FASTEST * body.region.size
        self.swing = np.where(slow[:, None], swing, 0.0)
        self.body = body

    def expected(self) -> Seen:
        """Where he is likely to be seen in the next frame.

        His forearms, shins, hands and feet, which move most and are thin, are surely there: others' crops are painted over there, too, even
        where these people have been seen. To be less sure of them for others makes people who touch come out worse.
        """
        mask, region = self.body.seen
        seen = self.body.visibility > 0.5
        arms = [list(arm) for arm in ENDS if seen[list(arm[:2])].all()]
        lines = [to_crop(self.body.points[arm] + self.swing[arm], region, len(mask)).round().astype(np.int32) for arm in arms]
        drawn = cv2.polylines(np.zeros_like(mask), lines, False, 1.0, round(THICK * len(mask)))
        return np.maximum(mask, drawn), region._replace(x=region.x + float(self.step[0]), y=region.y + float(self.step[1]))


class Mediapipe:
    """The studio's own pipeline around the wheel's networks."""

    def __init__(
        self, people: int = 3, search_every: int = 10, reduction: int = 0, regions: int = 1, runtime: Runtime | None = None
    ) -> None:
        """`reduction` is the masks' (0: none); a body is averaged over `regions` slightly different regions."""
        self._networks = Networks(runtime)
        self._people, self._search_every, self._reduction, self._regions = people, search_every, reduction, regions
        self._persons: dict[int, Person] = {}
        self._lone: dict[str, Region] = {}
        self._frame, self._passed = 0, 1
        self._missed = 0
        self._sought = 0

    def see(self, image: UInt8[Array, "H W 3"], passed: int = 1) -> dict[int, Sight]:
        """Slot -> person."""
        pyramid = halvings(image)
        before = len(self._persons)
        self._frame += passed - 1
        self._passed = passed
        self._follow(pyramid)
        if len(self._persons) < before:
            self._sought = max(before, self._sought if self._missed else 0)
            self._missed = MISSED
        again = -self._missed % AGAIN < passed and self._missed > 0
        if self._due or len(self._persons) < max(before, 1) or again:
            self._search(pyramid)
            if len(self._persons) >= self._sought:
                self._missed = 0
        self._missed = max(self._missed - passed, 0)
        return self._sights(pyramid)

    def remembered(self) -> Callable[[], None]:
        """What is known now; calling it, as often as wanted, puts the detector back to that."""
        copied = lambda persons: {slot: replace(person) for slot, person in persons.items()}  # noqa: E731
        kept = self.__dict__ | {"_persons": copied(self._persons)}
        return lambda: self.__dict__.update(kept | {"_persons": copied(kept["_persons"])})

    def _sights(self, pyramid: Pyramid) -> dict[int, Sight]:
        """Everything of everybody who is followed, else hands alone; the frame is done then."""
        self._frame += 1
        if not self._persons:
            return self._lone_hands(pyramid)
        self._lone = {}
        return {slot: self._whole(pyramid, person) for slot, person in self._persons.items()}

    @property
    def _due(self) -> bool:
        """Whether this is one of the frames in which the whole image is searched, or the first look after one."""
        return self._frame % self._search_every < self._passed

    @property
    def _turn(self) -> int | None:
        """Which of the places is searched this time; None for all of them: somebody is missing."""
        return None if self._missed else self._frame // self._search_every

    @property
    def _room(self) -> bool:
        """Whether another could be followed; else only somebody larger than one of those who are is wanted."""
        return len(self._persons) < self._people

    def _follow(self, pyramid: Pyramid) -> None:
        """Looks at everybody again; of two slots that have come to hold one person, the surer stays."""
        persons = list(self._persons.values())
        alone = len(persons) < 2
        places = [] if alone else [person.expected() for person in persons]
        around = [(place, places[:i] + places[i + 1 :]) for i, place in enumerate(places)]
        masks = self._reduction > 0 or not alone or self._due
        bodies = self._bodies(pyramid, [around_body(*person.body.anchors) for person in persons], around, masks)
        for person, body in zip(persons, bodies, strict=True):
            person.seen(body, self._passed)
        kept: dict[int, Person] = {}
        for slot, person in sorted(self._persons.items(), key=lambda item: -_surety(item[1].body)):
            if credible(person.body, pyramid[0].shape) and not any(same_person(person.body, other.body) for other in kept.values()):
                kept[slot] = person
        self._persons = {slot: kept[slot] for slot in sorted(kept)}

    def _search(self, pyramid: Pyramid) -> None:
        """Adds people whom nobody follows; when all slots are taken, a larger person replaces the smallest.

        Of two who stand close the network that searches makes one, so those who are followed are painted over before.
        """
        self._add_masks(pyramid)
        bodies = [person.body for person in self._persons.values()]
        others = [body.seen for body in bodies]
        for region in self._candidates(pyramid, bodies):
            if any(_near(region, around_body(*person.body.anchors)) for person in self._persons.values()):
                continue
            body = self._networks.pose(pyramid, region, others)
            if body.presence >= PRESENT and others:
                body = self._networks.pose(pyramid, around_body(*body.anchors), others)
            if body.presence >= PRESENT:  # the last look starts from the landmarks' own, better region
                (body,) = self._bodies(pyramid, [around_body(*body.anchors)], [(None, others)])
            known = any(same_person(body, person.body) for person in self._persons.values())
            if known or not self._is_new(pyramid, body, others):
                continue
            slot = self._free_slot(body.region.size)
            if slot is not None:
                self._persons[slot] = Person(body)

    def _add_masks(self, pyramid: Pyramid) -> None:
        """To those who are followed and were looked at without: that somebody is lost or comes is not known beforehand."""
        for person in self._persons.values():
            if person.body.mask is None:
                person.body = replace(person.body, mask=self._networks.pose(pyramid, person.body.region).mask)

    def _candidates(self, pyramid: Pyramid, followed: list[PoseSight]) -> list[Region]:
        """Where people may be whom nobody follows. Of a large image the network that searches sees less than half the resolution."""
        others = [body.seen for body in followed]
        if not followed:
            return candidates(self._networks, pyramid)
        if len(pyramid) < 2 or max(pyramid[0].shape[:2]) < LARGE:
            return candidates(self._networks, halvings(image_without(pyramid[0], others, 1)), turn=self._turn, whole=self._room)
        half = halvings(image_without(pyramid[1], others, 2), len(pyramid) - 2)
        found = candidates(self._networks, half, 24, self._turn, self._room)
        return [Region(2 * x + 0.5, 2 * y + 0.5, 2 * size, angle) for x, y, size, angle in found]

    def _is_new(self, pyramid: Pyramid, body: PoseSight, others: Sequence[Seen] = ()) -> bool:
        """Whether to begin following: most of a body is clearly seen, or part of it with a face.

        An arm alone makes the network imagine a body to it, another one at every look: who is there is there at a second look, too.
        """
        shape = pyramid[0].shape
        if not credible(body, shape):
            return False
        if _clear([body], shape):
            again = self._networks.pose(pyramid, _varied(around_body(*body.anchors), 2)[1], others)
            return again.presence >= PRESENT and _clear([body, again], shape)
        return face_of(self._networks, pyramid, body, None) is not None

    def _free_slot(self, size: float) -> int | None:
        free = [slot for slot in range(self._people) if slot not in self._persons]
        if free:
            return free[0]
        smallest = min(self._persons, key=lambda slot: self._persons[slot].body.region.size)
        return smallest if self._persons[smallest].body.region.size < 0.7 * size else None

    def _bodies(self, pyramid: Pyramid, regions: list[Region], around: Sequence[Around], masks: bool = True) -> list[PoseSight]:
        """The person in each region, who else is there painted over; averaged over slightly different regions where that is asked for."""
        varied = [r for region in regions for r in _varied(region, self._regions)]
        sights = self._networks.poses(pyramid, varied, [a for a in around for _ in range(self._regions)], masks)
        return [_mean(sights[i : i + self._regions]) for i in range(0, len(sights), self._regions)]

    def _lone_hands(self, pyramid: Pyramid) -> dict[int, Sight]:
        """Slot 0 -> hands of which no body is seen; where nothing was followed, searched for in every fourth frame."""
        if not self._lone and (self._frame - 1) % 4 >= self._passed:
            return {}
        hands = lone_hands(self._networks, pyramid, self._lone)
        self._lone, _ = next_regions(hands, None)
        height, width = pyramid[0].shape[:2]
        return {0: hands_alone(hands, (width, height))} if hands else {}

    def _whole(self, pyramid: Pyramid, person: Person) -> Sight:
        """Everything of one person; remembers where to look next."""
        body = person.body
        hands = self._hands(pyramid, person)
        face = face_of(self._networks, pyramid, body, person.face)
        person.hands, person.face = next_regions(hands, face)
        person.missing = {side: 0 if side in hands else n + 1 for side, n in person.missing.items()}
        height, width = pyramid[0].shape[:2]
        mask = body.outline(width, height, self._reduction) if self._reduction else None
        return whole_body(body.points, body.visibility, body.world, body.region.size, hands, face, (width, height), mask)

    def _hands(self, pyramid: Pyramid, person: Person) -> dict[str, HandSight]:
        """His hands, by side."""
        turns = {side: n if n <= RESIGNED else n // 2 for side, n in person.missing.items() if n > PATIENCE}
        rested = {side for side, n in person.missing.items() if n > RESIGNED and n % 2}
        return hands_of(self._networks, pyramid, person.body, person.hands, self._frame % 4 < self._passed, turns, rested)


def candidates(networks: Networks, pyramid: Pyramid, least: float = 48, turn: int | None = None, whole: bool = False) -> list[Region]:
    """Body regions of more than `least` px found in the whole image and, for small people, in overlapping tiles; large first. With `turn`,
    a number that grows, in one of these places only, with `whole` in the whole image and one tile."""
    height, width = pyramid[0].shape[:2]
    side = float(max(width, height))
    places = [Region((width - 1) / 2, (height - 1) / 2, side, 0.0)]
    places += [Region(x, y, 0.6 * side, 0.0) for x in _centres(width, 0.6 * side) for y in _centres(height, 0.6 * side)]
    if turn is not None:
        kept, turns = (1, places[1:]) if whole else (0, places)
        places = [*places[:kept], turns[turn % len(turns)]]
    found = [around_body(k[2], k[3]) for place in places for _, k in networks.people(pyramid, place, 0.5)]
    distinct: list[Region] = []
    for region in sorted(found, key=lambda r: -r.size):
        reach = region.size / 2  # of someone whose hips are outside the image, the head may be inside
        inside = -reach <= region.x < width + reach and -reach <= region.y < height + reach
        if inside and region.size > least and not any(_near(region, d) for d in distinct):
            distinct.append(region)
    return distinct


def _centres(length: int, tile: float) -> list[float]:
    """Of the tiles that cover a length."""
    count = math.ceil(length / tile)
    return [(length - 1) / 2] if count == 1 else list(np.linspace(tile / 2, length - tile / 2, count))


def _mean(sights: list[PoseSight]) -> PoseSight:
    """Of several looks at one person, the first in the region asked for."""
    if len(sights) == 1:
        return sights[0]
    mean: dict[str, Any] = {n: np.mean([getattr(s, n) for s in sights], 0) for n in ("points", "visibility", "world", "anchors")}
    return PoseSight(sights[0].region, float(np.mean([s.presence for s in sights])), mask=sights[0].mask, **mean)


def _varied(region: Region, count: int) -> list[Region]:
    """The region, and others a little turned and scaled about it."""
    turns = ((0.0, 1.0), (0.06, 1.04), (-0.06, 0.96), (0.06, 0.96), (-0.06, 1.04))
    return [region._replace(size=region.size * scale, angle=region.angle + turn) for turn, scale in turns[:count]]


def _near(a: Region, b: Region) -> bool:
    """Whether two body regions can hold the same person's hips and size."""
    small, large = sorted((a.size, b.size))
    return math.hypot(a.x - b.x, a.y - b.y) < 0.15 * large and large < 2 * small


def same_person(a: PoseSight, b: PoseSight) -> bool:
    """Whether two sights are of one person: the limbs coincide."""
    gap = np.linalg.norm(a.points[11:] - b.points[11:], axis=1)
    return float(np.median(gap)) < 0.04 * min(a.region.size, b.region.size)


def _seen_joints(body: PoseSight, shape: tuple[int, ...]) -> Bool[Array, "13"]:
    """Which of nose, limb joints and shoulders are believed visible and lie in the image (height, width)."""
    x, y = body.points[JOINTS].T
    return (body.visibility[JOINTS] > 0.5) & (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])


def _clear(looks: list[PoseSight], shape: tuple[int, ...]) -> bool:
    """Whether most of a body is surely seen, the same parts of it at every look."""
    seen = np.all([_seen_joints(body, shape) for body in looks], 0)
    visibility = np.min([body.visibility[JOINTS] for body in looks], 0)
    return int(seen.sum()) >= 9 and float(np.median(visibility)) >= 0.8


def credible(body: PoseSight, shape: tuple[int, ...]) -> bool:
    """Whether enough of a body is still seen to go on following it."""
    seen = _seen_joints(body, shape)
    return body.presence >= PRESENT and (int(seen.sum()) >= 5 or bool(seen[:3].all()))  # head and shoulders do


def _surety(body: PoseSight) -> float:
    return body.presence * float(body.visibility.mean())


class Holistic:
    """The wheel's own all-in-one solution: one person, its own tracking; for comparison."""

    def __init__(self, people: int = 1, search_every: int = 0, reduction: int = 0, regions: int = 1, runtime: Any = None) -> None:
        """Only `reduction` has a meaning here."""
        from mediapipe.python.solutions.holistic import Holistic as Solution

        self._reduction = reduction
        self._solution = Solution(model_complexity=1, enable_segmentation=bool(reduction))

    def see(self, image: UInt8[Array, "H W 3"]) -> dict[int, Sight]:
        """Slot 0 -> the person; empty where none was seen."""
        height, width = image.shape[:2]
        result: Any = self._solution.process(image)
        if result.pose_landmarks is None:
            return {}
        points = _flat(result.pose_landmarks, width, height)
        visibility = np.array([p.visibility for p in result.pose_landmarks.landmark])
        world = np.array([(p.x, p.y, p.z) for p in result.pose_world_landmarks.landmark])
        hands = {}
        for side in ("left", "right"):
            if (seen := getattr(result, f"{side}_hand_landmarks")) is not None:
                flat = _flat(seen, width, height)
                size = around_hand(flat).size
                depth = np.array([p.z for p in seen.landmark])[:, None] * width
                metric = np.concatenate([flat, depth], 1) / pixels_per_metre(points, world)
                hands[side] = HandSight(0.8, float(side == "right"), flat, metric - metric[0], size)
        face = None
        if result.face_landmarks is not None:
            mesh = _flat(result.face_landmarks, width, height)[:468]
            face = FaceSight(0.8, mesh, around_face(mesh).size)
        mask = None
        if self._reduction:
            size = (-(-width // self._reduction), -(-height // self._reduction))
            mask = cv2.resize(result.segmentation_mask, size, interpolation=cv2.INTER_AREA)
        reach = float(np.ptp(points, axis=0).max()) * 1.25
        return {0: whole_body(points, visibility, world, reach, hands, face, (width, height), mask)}


def _flat(landmarks: Any, width: int, height: int) -> Float[Array, "K 2"]:
    """px."""
    return np.array([(p.x * width, p.y * height) for p in landmarks.landmark])


DETECTORS: dict[str, Any] = {"mediapipe": Mediapipe, "hands": Hands, "holistic": Holistic}
"""Detectors by the names that `DetectConfig` knows; others are files of networks."""

"""Where people are in space while they are being looked for, and so where every view has to look next.

A light state: each person's keypoints nearest to the rays of the views that show him, and their velocity. It steers detection only:
whom it places wrongly is looked for as if nothing were known, and the tracks are made from the detections afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from calibration.cameras import Cameras
from rigs.keypoints import COCO_WHOLEBODY, mirrored
from studio.matching import Expected, Sighting, bodies, hypotheses, matched

Array = np.ndarray
SIDES = ("left", "right")
K = {name: i for i, name in enumerate(COCO_WHOLEBODY)}
PAIRS = [(K[f"left_{m}"], K[f"right_{m}"]) for m in ("shoulder", "hip", "knee", "ankle", "elbow", "wrist")] + [(K["nose"], K["nose"])]
"""The middles of left and right do not move when a view exchanges the sides."""
LIMBS = [K[f"{s}_{p}"] for s in SIDES for p in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")]
ARMS = [K[f"{s}_{p}"] for s in SIDES for p in ("elbow", "wrist")]
HANDS = {s: slice(K[f"{s}_hand_root"], K[f"{s}_hand_root"] + 21) for s in SIDES}
MIRROR = list(mirrored(COCO_WHOLEBODY))
TRUNK = (0.15, 1.0)
"""Shortest and longest plausible trunk, m."""
AGREEMENT, REACH, SPEED = 0.12, 0.3, 4.0
"""m and m/s: how far views may lie from a person's marks, and a person from where he is expected at once and later."""
TRUSTED = 0.05
"""Median distance from the rays to the limbs, m, beyond which a person's place steers nothing."""
FRESH, MEMORY = 0.12, 1.0
"""s: how long a keypoint that no two views see goes on as it moved; how long a person nobody sees is remembered."""
HAND_WIDE = 0.26
"""No point of a hand is farther from its root than this, m."""
TORSO, SHOWN = 0.15, 0.25
"""m: within this distance of the middle of a trunk nothing is seen through it; the share of a hand that must be seen beside it."""


@dataclass(frozen=True)
class Hint:
    """One person as one view should see him."""

    slot: int | None
    """The view's own number for him; None where it does not follow him."""
    pixels: Float[np.ndarray, "133 2"]
    """px; NaN where nothing is known or it lies behind the camera."""
    scale: float
    """px per m at his distance."""
    shown: Bool[np.ndarray, "133"]
    """In the image, and no trunk before it."""

    def hand(self, side: str) -> Float[Array, "21 2"]:
        """px; NaN where it is not known."""
        return self.pixels[HANDS[side]]

    def misses(self, side: str) -> bool:
        """Whether most of the hand is known to be outside the image or behind a trunk."""
        known = np.isfinite(self.pixels[HANDS[side]]).all(-1)
        return bool(known.any()) and float(self.shown[HANDS[side]][known].mean()) < SHOWN


@dataclass
class Somebody:
    """A person in space."""

    points: Float[np.ndarray, "133 3"]
    """m."""
    when: Float[np.ndarray, "133"]
    """s, of each point; minus infinity where it was never seen."""
    velocity: Float[np.ndarray, "133 3"] = field(default_factory=lambda: np.zeros((133, 3)))
    """m/s."""
    met: float = 0.0
    """s, when he was last seen by two views."""
    slots: Int[np.ndarray, "C"] = field(default_factory=lambda: np.zeros(0, int))
    """Each view's number for him; -1 for none."""
    sound: bool = False
    """Whether the views agree about him."""

    def at(self, time: float, fresh: float = FRESH) -> Float[Array, "133 3"]:
        """Where his points are expected, m; NaN of those that were not seen lately."""
        ahead = (time - self.when)[:, None]
        return np.where(ahead <= fresh, self.points + self.velocity * np.minimum(ahead, fresh), np.nan)


class Guide:
    """The people in front of calibrated cameras, brought up to date once for every instant."""

    def __init__(self, cameras: Cameras) -> None:
        self._cameras = cameras.to(dtype=torch.float64)
        self._position = self._cameras.position.numpy()
        self._focal = self._cameras.focal.mean(1).numpy()
        self._people: list[Somebody] = []

    def hints(self, time: float) -> list[list[Hint]]:
        """For every view, whom to expect in it; only people whose views agree."""
        people = [p for p in self._people if p.sound]
        if not people:
            return [[] for _ in range(len(self._cameras))]
        points = np.stack([p.at(time) for p in people])
        world = torch.from_numpy(points)
        pixels = self._cameras.project(world).numpy()
        inside = self._cameras.inside(torch.from_numpy(pixels)).numpy()
        depth = self._cameras.to_camera(world)[..., 2].numpy()
        open_ = inside & ~self._covered(points)
        return [
            [
                Hint(_slot(p, c), pixels[c, n], float(self._focal[c] / np.nanmedian(depth[c, n, LIMBS])), open_[c, n])
                for n, p in enumerate(people)
                if np.isfinite(depth[c, n, LIMBS]).sum() >= 4 and np.nanmedian(depth[c, n, LIMBS]) > 0.2
            ]
            for c in range(len(self._cameras))
        ]

    def update(self, time: float, pixels: Float[np.ndarray, "C D 133 2"]) -> None:
        """Take in what all views saw at an instant (s), NaN where nothing; the second axis holds their numbers for people."""
        rays = self._cameras.ray(torch.from_numpy(np.concatenate([_marks(pixels), pixels], 2))).numpy()
        marks = Sighting(rays[:, :, : len(PAIRS)], self._position)
        self._people = [p for p in self._people if time - p.met <= MEMORY]
        taken = np.zeros(rays.shape[:2], bool)
        for person, found in zip(self._people, self._matches(time, marks), strict=True):
            _see(person, time, found, self._place(rays[:, :, len(PAIRS) :], found, person.at(time)))
            views = np.flatnonzero(found >= 0)
            taken[views, found[views]] = True
        for found in hypotheses(marks, ~taken, AGREEMENT, TRUNK):
            person = Somebody(np.full((133, 3), np.nan), np.full(133, -np.inf))
            _see(person, time, found, self._place(rays[:, :, len(PAIRS) :], found, None))
            taken[np.flatnonzero(found >= 0), found[found >= 0]] = True
            self._people.append(person)
        self._judge(np.asarray(np.isfinite(pixels).all(-1).any(-1)), taken)

    def _judge(self, there: Bool[Array, "C D"], taken: Bool[Array, "C D"]) -> None:
        """Whoever more views contradict than show is not to be relied on: they expect him and see others, no better known than he."""
        known = [int((p.slots >= 0).sum()) for p in self._people]
        for person, views in zip(self._people, known, strict=True):
            pixels = self._cameras.project(torch.from_numpy(person.points[LIMBS]))
            inside = self._cameras.inside(pixels).numpy().sum(-1) >= 6
            others = (there & ~taken).any(1)
            for other, count in zip(self._people, known, strict=True):
                if other is not person and count <= views:
                    others |= other.slots >= 0
            against = inside & (person.slots < 0) & others
            person.sound &= views > int(against.sum())

    def _matches(self, time: float, marks: Sighting) -> Int[Array, "P C"]:
        """Each known person's detections."""
        if not self._people:
            return np.zeros((0, len(self._position)), int)
        expected = np.stack([_marks(p.at(time, MEMORY)) for p in self._people])
        reach = np.array([REACH + SPEED * max(time - p.met - 0.05, 0.0) for p in self._people])
        return matched(marks, Expected(expected, reach), None, AGREEMENT)[0]

    def _place(self, rays: Array, found: Int[Array, "C"], expected: Array | None) -> tuple[Array, Array] | None:
        """A person's points (133, 3) from the rays of his detections, and the rays' distance from them (C, 133), m; None of one view."""
        views = np.flatnonzero(found >= 0)
        if len(views) < 2:
            return None
        own = np.full((len(found), 1, 133, 3), np.nan)
        own[views, 0] = rays[views, found[views]]
        if expected is not None:
            for c in views:
                own[c, 0] = _named(own[c, 0], expected, self._position[c])
        sight = Sighting(own, self._position)
        nothing = Expected(np.full((1, 133, 3), np.nan), np.full(1, AGREEMENT))
        points = bodies(sight, sight.planes(), np.where(found >= 0, 0, -1)[None], nothing)[0]
        points[np.isfinite(own[:, 0]).all(-1).sum(0) < 2] = np.nan
        return points, np.stack([_off(own[c, 0], points, self._position[c]) for c in range(len(found))])

    def _covered(self, points: Float[Array, "P 133 3"]) -> Bool[Array, "C P 133"]:
        """Whether a trunk stands between each camera and each point."""
        covered = np.zeros((len(self._position), *points.shape[:2]), bool)
        for trunk in points:
            top, bottom = (trunk[[K[f"left_{n}"], K[f"right_{n}"]]].mean(0) for n in ("shoulder", "hip"))
            if not np.isfinite([top, bottom]).all():
                continue
            axis = bottom + (top - bottom) * np.linspace(0, 0.9, 7)[:, None]  # seven balls: exact enough for what may be wrong by a hand
            for c, eye in enumerate(self._position):
                along = points - eye
                far = np.linalg.norm(along, axis=-1)
                ray = along / far[..., None]
                reach = (axis - eye) @ np.swapaxes(ray, -1, -2)  # (P, 7, 133)
                gap = np.linalg.norm((axis - eye)[None, :, None] - reach[..., None] * ray[:, None], axis=-1)
                covered[c] |= ((gap < TORSO) & (reach < far[:, None] - 2 * TORSO)).any(1)
        return covered


def stacked(sights: Sequence[Mapping[int, Float[np.ndarray, "133 2"]]]) -> Float[np.ndarray, "C D 133 2"]:
    """Each view's people by number, as `Guide.update` takes them, px."""
    depth = 1 + max((slot for view in sights for slot in view), default=0)
    out = np.full((len(sights), depth, 133, 2), np.nan)
    for c, view in enumerate(sights):
        for slot, pixels in view.items():
            out[c, slot] = pixels
    return out


def _slot(person: Somebody, c: int) -> int | None:
    return int(person.slots[c]) if person.slots[c] >= 0 else None


def _marks(points: Float[Array, "*b 133 n"]) -> Float[Array, "*b M n"]:
    left, right = (list(side) for side in zip(*PAIRS, strict=True))
    return (points[..., left, :] + points[..., right, :]) / 2


def _off(rays: Float[Array, "133 3"], points: Float[Array, "133 3"], eye: Float[Array, "3"]) -> Float[Array, "133"]:
    """Distance of each ray from its point, m."""
    along = points - eye
    return np.linalg.norm(along - (along * rays).sum(-1, keepdims=True) * rays, axis=-1)


def _named(rays: Float[Array, "133 3"], expected: Float[Array, "133 3"], eye: Float[Array, "3"]) -> Float[Array, "133 3"]:
    """The rays, left and right exchanged where the limbs then lie much nearer to where they are expected."""
    there, other = (np.nanmedian(np.append(_off(r, expected, eye)[LIMBS], np.nan)) for r in (rays, rays[MIRROR]))
    return rays[MIRROR] if other < 0.6 * there - 0.02 else rays


def _see(person: Somebody, time: float, found: Int[Array, "C"], placed: tuple[Array, Array] | None) -> None:
    """Bring a person up to date."""
    person.slots = found
    if placed is None:
        person.sound = person.sound and time - person.met <= FRESH
        return
    points, off = placed
    for hand in HANDS.values():
        root, wrist = points[hand.start], points[K["left_wrist" if hand is HANDS["left"] else "right_wrist"]]
        wide = np.linalg.norm(points[hand] - root, axis=-1)
        misplaced = np.linalg.norm(root - wrist) > 0.15
        if misplaced or not (wide < HAND_WIDE).all():
            points[hand] = np.nan
    there = np.isfinite(points).all(-1) & ((off < AGREEMENT).sum(0) >= 2)
    step = time - person.when
    again = there & (step < 2 * FRESH) & (step > 0)
    fresh = (points - person.points) / np.where(again, step, 1.0)[:, None]
    person.velocity = np.where(again[:, None], 0.5 * person.velocity + 0.5 * fresh, np.where(there[:, None], 0.0, person.velocity))
    person.points = np.where(there[:, None], points, person.points)
    person.when = np.where(there, time, person.when)
    limbs = off[:, LIMBS][:, np.isfinite(points[LIMBS]).all(-1)]
    enough = int(there[LIMBS].sum()) >= 6
    person.sound = enough and float(np.nanmedian(limbs)) < TRUSTED
    person.met = time

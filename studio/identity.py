"""Who is who: which detection of each view shows which person, frame after frame.

Left and right may be exchanged in any view at this stage, so people are compared by marks that an exchange does not move:
the middles between the left and right of each joint, and the nose. All people are followed, and the actors are then those
that most views see, and see large; so a bystander never has to be told apart by looks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from calibration.cameras import Cameras
from studio.casting import Cast, cast
from studio.matching import Expected, Sighting, agreeing, hypotheses, matched, plausible
from studio.people import IdentityConfig, Person
from studio.second_look import completed
from studio.values import Footage, Keypoints2D

MARKS = ("shoulder", "hip", "knee", "ankle", "elbow", "wrist")
KNOWN = 8
"""Sightings after which a person's looks are known."""
TRUNK = (0.15, 1.0)
"""Shortest and longest plausible distance between the middles of the shoulders and of the hips, m."""


def identify(
    cameras: Cameras,
    footage: Footage,
    count: int | None,
    config: IdentityConfig,
    progress: Callable[[int], object] = lambda done: None,
    stretch: int = 512,
) -> Cast:
    """Which detection of each view is which of `count` people (None: of all there are), most prominent first, and where they are."""
    T, C, facts = footage.frames, len(cameras), footage.cut(slice(0, 0))
    scene = Scene(cameras, facts, config)
    people: list[Person] = []
    active: list[Person] = []
    alone = torch.zeros(C, T, dtype=torch.bool)
    memory = max(1, round(config.memory * facts.fps))
    for start in range(0, T, stretch):
        part = slice(start, min(start + stretch, T))
        keypoints = footage.cut(part)
        alone[:, part] = scene.bodiless(keypoints)
        rays, size = scene.sight(keypoints)
        looks = None if keypoints.look is None else keypoints.look.numpy()
        for t in range(rays.shape[1]):
            frame = start + t
            active = [p for p in active if frame - p.frames[-1] <= memory]
            sight = Sighting(rays[:, t], scene.position)
            unlike = None if looks is None else scene.unlike(active, looks[:, t])
            taken = scene.follow(active, frame, sight, size[:, t], unlike)
            fresh = scene.discover(frame, sight, size[:, t], taken, None if looks is None else looks[:, t])
            active += fresh
            for person in active:
                if person.frames[-1] == frame:
                    person.looked(_looks(None if looks is None else looks[:, t], person.detections[-1]))
            people += fresh
        progress(part.stop)
    if count is None and not people and int(alone.any(1).sum()) >= 2:
        count = 1  # hands that two views show are somebody's
    found = cast(people, count, cameras, T, facts.fps, config)
    found = completed(found, lambda part: scene.sight(footage.cut(part))[0], scene.position, facts.fps, config, stretch)
    if count == 1 and facts.pixels.shape[2] == 1:  # nobody else: a view of hands or a face alone needs no body to know whose they are
        found.detection[:, :, 0] = torch.where(alone, 0, found.detection[:, :, 0])
    return found


class Scene:
    """The geometry that all frames share."""

    def __init__(self, cameras: Cameras, keypoints: Keypoints2D, config: IdentityConfig) -> None:  # `keypoints`: any stretch, or none
        self.cameras, self.config, self.fps = cameras, config, keypoints.fps
        self.position = cameras.position.numpy()
        names = keypoints.keypoints
        self.pairs = [(names.index(f"left_{m}"), names.index(f"right_{m}")) for m in MARKS if f"left_{m}" in names]
        if "nose" in names:
            self.pairs.append((names.index("nose"), names.index("nose")))
        self.trunk = TRUNK if {"left_shoulder", "left_hip"} <= set(names) else None
        if len(self.pairs) < 3:
            raise ValueError(f"keypoints of {keypoints.network!r} name none of {['left_' + m for m in MARKS]}; people cannot be told apart")

    def bodiless(self, keypoints: Keypoints2D) -> Bool[Tensor, "C T"]:
        """Where the first detection shows something, but too little of a body to tell whose."""
        seen = torch.isfinite(keypoints.pixels[:, :, :1]).all(-1) & (keypoints.confidence[:, :, :1] > 0)
        body = torch.stack([seen[..., a] & seen[..., b] for a, b in self.pairs]).sum(0)
        return (seen.any(-1) & (body < 2)).any(2)

    def sight(self, keypoints: Keypoints2D) -> tuple[np.ndarray, np.ndarray]:
        """Unit rays (C, T, D, M, 3) through the marks, and each detection's height as a part of the picture's (C, T, D)."""
        pixels = keypoints.pixels.double()
        seen = (keypoints.confidence > 0)[..., None]
        pixels = torch.where(seen, pixels, torch.nan)
        left, right = (pixels[..., list(side), :] for side in zip(*self.pairs))
        marks = (left + right) / 2
        rays = self.cameras.ray(marks)
        height = marks[..., 1].nan_to_num(-torch.inf).amax(-1) - marks[..., 1].nan_to_num(torch.inf).amin(-1)
        relative = height / self.cameras.size[:, 1].view(-1, 1, 1)
        return rays.numpy(), torch.where(torch.isfinite(relative), relative, 0.0).numpy()

    def unlike(self, people: list[Person], looks: np.ndarray) -> np.ndarray:
        """How unlike each detection (C, D) is to each person, as metres; infinite for somebody else, 0 where nobody can tell."""
        apart = np.zeros((len(people), *looks.shape[:2]))
        for n, person in enumerate(people):
            if (usual := person.colours(KNOWN)) is not None:
                apart[n] = np.linalg.norm(np.sqrt(looks) - np.sqrt(usual)[:, None], axis=-1) / np.sqrt(2)
        apart = np.nan_to_num(apart)
        known = np.array([p.colours(KNOWN) is not None for p in people], bool)
        nearest = np.where(known[:, None, None], apart, np.inf).min(0, initial=np.inf)
        another = (apart > 2 * self.config.look) & (apart > nearest + self.config.other)
        return np.where((apart > self.config.stranger) | another, np.inf, self.config.clothes * apart)

    def follow(self, people: list[Person], frame: int, sight: Sighting, size: np.ndarray, unlike: np.ndarray | None) -> np.ndarray:
        """Give known people their detections in this frame; which detections are taken (C, D)."""
        taken = np.zeros(sight.rays.shape[:2], bool)
        if not people:
            return taken
        gap = np.array([frame - p.frames[-1] for p in people]) / self.fps
        reach = self.config.reach + self.config.speed * np.maximum(gap - 1 / self.fps, 0)
        known = Expected(np.stack([p.expected(frame) for p in people]), reach, unlike)
        found, bodies = matched(sight, known, None, self.config.agreement)
        for detections in found:
            taken[_at(detections)] = True
        for n, (person, marks, detections, away) in enumerate(zip(people, bodies, found, gap)):
            if (detections >= 0).sum() == 1:
                others = taken if unlike is None else taken | np.isinf(unlike[n])
                marks, detections = self.rejoined(sight, person, frame, marks, detections, others)
                if (detections >= 0).sum() == 1 and away > 2 / self.fps:
                    taken[_at(detections)] = False
                    continue  # one view cannot tell that an old acquaintance is back
            views = np.flatnonzero(detections >= 0)
            taken[views, detections[views]] = True
            prominence = float((0.25 + size[views, detections[views]]).sum())
            if len(views) == 1:
                person.met_by_one(frame, detections, sight.rays[views[0], detections[views[0]]], sight.position[views[0]], prominence)
            elif len(views):
                person.met(frame, detections, marks, prominence)
        return taken

    def rejoined(
        self, sight: Sighting, person: Person, frame: int, marks: np.ndarray, detections: np.ndarray, taken: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The person with the free detection that meets the only view's; its depth may have drifted while no other view saw it."""
        best, seen = detections, np.isfinite(sight.rays).all(-1).sum(-1)
        free = [(c, d) for c, d in np.argwhere(~taken & (seen >= 3)) if detections[c] < 0]
        allowed = self.config.reach + self.config.speed * (frame - person.placed) / self.fps
        for c, d in free:
            two = detections.copy()
            two[c] = d
            found, guess = self.settled(sight, two[None])
            off = np.linalg.norm(guess[0] - person.expected(frame), axis=-1)
            moved = float(np.median(off[np.isfinite(off)])) if np.isfinite(off).any() else np.inf
            if (found[0] >= 0).sum() == 2 and plausible(guess[0], self.trunk) and moved < allowed:
                allowed, marks, best = moved, guess[0], two
        return marks, best

    def settled(self, sight: Sighting, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is left of detections (P, C) of people whom nobody expected when views that disagree are left out; and the marks."""
        agreement = self.config.agreement
        unknown = Expected(np.full((len(found), sight.rays.shape[2], 3), np.nan), np.full(len(found), agreement))
        return agreeing(sight, sight.planes(), found, unknown, agreement)

    def discover(self, frame: int, sight: Sighting, size: np.ndarray, taken: np.ndarray, looks: np.ndarray | None) -> list[Person]:
        """People who are not known yet: at least two free detections whose rays meet."""
        people: list[Person] = []
        found = hypotheses(sight, ~taken, self.config.agreement, self.trunk, looks, self.config.pair)
        if not len(found):
            return people
        for detections, marks in zip(*self.settled(sight, found)):
            views = np.flatnonzero(detections >= 0)
            if len(views) >= 2 and bool(plausible(marks, self.trunk)):
                people.append(Person())
                people[-1].met(frame, detections, marks, float((0.25 + size[views, detections[views]]).sum()))
        return people


def _looks(looks: np.ndarray | None, detections: np.ndarray) -> np.ndarray:
    """Colours (C, H) of the detections; NaN where they are not known."""
    out = np.full((len(detections), 1 if looks is None else looks.shape[-1]), np.nan)
    if looks is not None:
        views, slots = _at(detections)
        out[views] = looks[views, slots]
    return out


def _at(detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views and slots of the detections that there are."""
    views = np.flatnonzero(detections >= 0)
    return views, detections[views]

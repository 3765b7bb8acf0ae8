"""Who is who: which detection of each view shows which person, frame after frame.

Left and right may be exchanged in any view at this stage, so people are compared by marks that an exchange does not move:
the middles between the left and right of each joint, and the nose. All people are followed, and the actors are then those
that most views see, and see large; so a bystander never has to be told apart by looks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from calibration.cameras import Cameras
from studio.people import IdentityConfig, Person, cast
from studio.values import Footage, Keypoints2D

MARKS = ("shoulder", "hip", "knee", "ankle", "elbow", "wrist")
TRUNK = (0.15, 1.0)
"""Shortest and longest plausible distance between the middles of the shoulders and of the hips, m."""


def identify(
    cameras: Cameras,
    footage: Footage,
    count: int,
    config: IdentityConfig,
    progress: Callable[[int], object] = lambda done: None,
    stretch: int = 512,
) -> tuple[Int[Tensor, "C T A"], Float[Tensor, "T A 3"]]:
    """Which detection of each view is which of `count` people (-1 for none), most prominent first; and about where they are.

    Places are in m, NaN where nobody was found.
    """
    T, C, facts = footage.frames, len(cameras), footage.cut(slice(0, 0))
    scene = _Scene(cameras, facts, config)
    people: list[Person] = []
    active: list[Person] = []
    alone = torch.zeros(C, T, dtype=torch.bool)
    memory = max(1, round(config.memory * facts.fps))
    for start in range(0, T, stretch):
        part = slice(start, min(start + stretch, T))
        keypoints = footage.cut(part)
        alone[:, part] = scene.bodiless(keypoints)
        rays, size = scene.sight(keypoints)
        for t in range(rays.shape[1]):
            frame = start + t
            active = [p for p in active if frame - p.frames[-1] <= memory]
            taken = scene.follow(active, frame, rays[:, t], size[:, t])
            fresh = scene.discover(frame, rays[:, t], size[:, t], taken)
            active += fresh
            people += fresh
        progress(part.stop)
    detection, place = cast(people, count, C, T, facts.fps, config)
    if count == 1 and facts.pixels.shape[2] == 1:  # nobody else: a view of hands or a face alone needs no body to know whose they are
        detection[:, :, 0] = torch.where(alone, 0, detection[:, :, 0])
    return detection, place


class _Scene:
    """The geometry that all frames share."""

    def __init__(self, cameras: Cameras, keypoints: Keypoints2D, config: IdentityConfig) -> None:  # `keypoints`: any stretch, or none
        self.cameras, self.config, self.fps = cameras, config, keypoints.fps
        self.position = cameras.position.numpy()
        names = keypoints.keypoints
        self.pairs = [(names.index(f"left_{m}"), names.index(f"right_{m}")) for m in MARKS if f"left_{m}" in names]
        if "nose" in names:
            self.pairs.append((names.index("nose"), names.index("nose")))
        self.trunk = (0, 1) if {"left_shoulder", "left_hip"} <= set(names) else None
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

    def follow(self, people: list[Person], frame: int, rays: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Give known people their detections in this frame; which detections are taken (C, D)."""
        C, D = rays.shape[:2]
        taken = np.zeros((C, D), bool)
        if not people:
            return taken
        expected = np.stack([p.expected(frame) for p in people])
        gap = np.array([frame - p.frames[-1] for p in people]) / self.fps
        allowed = self.config.reach + self.config.speed * np.maximum(gap - 1 / self.fps, 0)
        cost = _distance(rays[None], expected[:, None, None], self.position[None, :, None])
        cost = np.where(np.isfinite(cost) & (cost < allowed[:, None, None]), cost, 1e3)
        found = np.full((len(people), C), -1)
        for c in range(C):
            for n, d in zip(*linear_sum_assignment(cost[:, c])):
                if cost[n, c, d] < 1e3:
                    found[n, c] = d
        agreed = [self.agreed(rays, f) for f in found]
        for _, detections in agreed:
            views = np.flatnonzero(np.greater_equal(detections, 0))
            taken[views, detections[views]] = True
        for person, (marks, detections), away in zip(people, agreed, gap):
            views = np.flatnonzero(np.greater_equal(detections, 0))
            if len(views) == 1:
                marks, detections = self.rejoined(rays, person, frame, detections, taken)
                views = np.flatnonzero(np.greater_equal(detections, 0))
                if len(views) == 1 and away > 2 / self.fps:
                    taken[views, detections[views]] = False
                    continue  # one view cannot tell that an old acquaintance is back
            taken[views, detections[views]] = True
            prominence = float((0.25 + size[views, detections[views]]).sum())
            if len(views) == 1:
                person.met_by_one(frame, detections, rays[views[0], detections[views[0]]], self.position[views[0]], prominence)
            elif len(views):
                person.met(frame, detections, marks, prominence)
        return taken

    def rejoined(
        self, rays: np.ndarray, person: Person, frame: int, detections: np.ndarray, taken: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The person with the free detections that meet the only view's; its depth may have drifted while no other view saw it."""
        marks, best = np.full((rays.shape[2], 3), np.nan), detections
        free = [(c, d) for c, d in np.argwhere(~taken) if detections[c] < 0 and np.isfinite(rays[c, d]).all(-1).sum() >= 3]
        allowed = self.config.reach + self.config.speed * (frame - person.placed) / self.fps
        for c, d in free:
            two = detections.copy()
            two[c] = d
            guess, two = self.agreed(rays, two)
            moved = np.linalg.norm(guess - person.expected(frame), axis=-1)
            if (two >= 0).sum() == 2 and self.plausible(guess) and np.nanmedian(moved) < allowed:
                allowed, marks, best = float(np.nanmedian(moved)), guess, two
        return marks, best

    def agreed(self, rays: np.ndarray, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Marks (M, 3) from the detections, and the detections without those that disagree with them most, one after the other."""
        detections = detections.copy()
        while True:
            views = np.flatnonzero(np.greater_equal(detections, 0))
            if len(views) < 2:
                return np.full((rays.shape[2], 3), np.nan), detections
            chosen = rays[views, detections[views]]
            marks = _meeting(chosen, self.position[views])
            apart = _distance(chosen, marks, self.position[views])
            worst = int(np.nanargmax(apart)) if np.isfinite(apart).any() else 0
            if not apart[worst] > self.config.agreement:
                return marks, detections
            if len(views) == 2:
                return np.full_like(marks, np.nan), np.full_like(detections, -1)
            without = [np.delete(np.arange(len(views)), k) for k in range(len(views))]
            rest = [np.nanmax(_distance(chosen[w], _meeting(chosen[w], self.position[views[w]]), self.position[views[w]])) for w in without]
            detections[views[int(np.argmin(rest))]] = -1

    def discover(self, frame: int, rays: np.ndarray, size: np.ndarray, taken: np.ndarray) -> list[Person]:
        """People who are not known yet: at least two free detections whose rays meet; those that most views support come first."""
        free = [(c, d) for c, d in np.argwhere(~taken) if np.isfinite(rays[c, d]).all(-1).sum() >= 3]
        found: list[Person] = []
        candidates: list[tuple[np.ndarray, float]] = []
        for (c, d), (e, f) in combinations(free, 2):
            if c != e:
                two = np.full(len(rays), -1)
                two[[c, e]] = d, f
                marks, two = self.agreed(rays, two)
                if (two >= 0).any() and self.plausible(marks):
                    candidates.append(self.supported(rays, marks, free))
        while candidates:
            candidates.sort(key=lambda k: (-int(np.sum(k[0] >= 0)), k[1]))
            detections = candidates[0][0]
            views = np.flatnonzero(np.greater_equal(detections, 0))
            marks, detections = self.agreed(rays, detections)
            if (detections >= 0).sum() >= 2 and self.plausible(marks):
                person = Person()
                person.met(frame, detections, marks, float((0.25 + size[views, detections[views]]).sum()))
                found.append(person)
            used = set(zip(views.tolist(), candidates[0][0][views].tolist()))
            candidates = [k for k in candidates[1:] if not used & set(enumerate(k[0].tolist()))]
        return found

    def supported(self, rays: np.ndarray, marks: np.ndarray, free: list) -> tuple[np.ndarray, float]:
        """In every view the free detection nearest to the marks, if near enough; and how far they are on average, m."""
        distance = np.full(rays.shape[:2], np.inf)
        for c, d in free:
            distance[c, d] = _distance(rays[c, d], marks, self.position[c])
        distance = np.where(np.isfinite(distance), distance, np.inf)
        best = distance.argmin(1)
        near = distance[np.arange(len(rays)), best]
        good = near < self.config.agreement
        return np.where(good, best, -1), float(near[good].mean()) if good.any() else np.inf

    def plausible(self, marks: np.ndarray) -> bool:
        """Whether the trunk has a person's length; rays of two people meet where nobody is."""
        if self.trunk is None:
            return True
        length = float(np.linalg.norm(marks[self.trunk[0]] - marks[self.trunk[1]]))
        return not np.isfinite(length) or TRUNK[0] < length < TRUNK[1]


def _distance(rays: np.ndarray, marks: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Median over the marks of the distance between ray and mark, m; NaN where fewer than two can be compared."""
    offset = marks - position[..., None, :]
    along = (offset * rays).sum(-1, keepdims=True)
    apart = np.linalg.norm(offset - along * rays, axis=-1)
    apart = np.where(along[..., 0] > 0, apart, np.where(np.isfinite(along[..., 0]), 1e2, np.nan))
    known = np.isfinite(apart).sum(-1)
    ordered = np.sort(apart, axis=-1)  # NaN last
    low, high = (np.take_along_axis(ordered, np.maximum(i, 0)[..., None], -1)[..., 0] for i in ((known - 1) // 2, known // 2))
    return np.where(known >= 2, (low + np.where(known % 2 == 1, low, high)) / 2, np.nan)


def _meeting(rays: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Points (M, 3) nearest to the rays (V, M, 3); NaN where fewer than two meet at an angle."""
    seen = np.isfinite(rays.sum(-1))
    d = np.where(seen[..., None], rays, 0)
    planes = (np.eye(3) - d[..., :, None] * d[..., None, :]) * seen[..., None, None]
    H = planes.sum(0)
    b = (planes @ position[:, None, :, None]).sum(0)
    sound = (seen.sum(0) >= 2) & (np.linalg.det(H) > 1e-4)
    H = np.where(sound[:, None, None], H, np.eye(3))
    return np.where(sound[:, None], np.linalg.solve(H, b)[..., 0], np.nan)

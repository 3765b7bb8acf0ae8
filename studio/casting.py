"""Who plays which part: stretches in which people were followed are put together, and those who are nobody are left out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from calibration.cameras import Cameras
from studio.people import IdentityConfig, Person
from studio.phantoms import mirror_images, moves

Array = np.ndarray
OVERLAP = 0.5
"""So long, s, two stretches of one person may be of the same time: who is lost is still followed by one view for a while."""
FADING, BOTH = 1.5, 0.25
"""Or even so long, s, where for no longer than that, s, two views each saw both: one view that joins two people is followed for longer."""
FEW = 3.0
"""A stretch that two views saw in so many frames counts as one standard deviation further off: crossing rays make some that are nobody."""
LOST = 0.1
"""Before somebody is lost he may have been followed wrongly for so long, s."""
UNLIKE = 6.0
"""Stretches whose looks and heights are this many squared standard deviations apart are not of one person."""


class Cast(NamedTuple):
    """Who is who in a take."""

    detection: Int[Tensor, "C T A"]
    """Which detection of each view shows each actor; -1 for none."""
    place: Float[Tensor, "T A 3"]
    """About where they are, m; NaN where nobody was found."""
    said: tuple[str, ...] = ()
    """Of people who were left out, in plain sentences."""


@dataclass(eq=False)
class Part:
    """All stretches of one person, in the order of time."""

    people: list[Person]

    @cached_property
    def _chosen(self) -> Int[Array, "n"]:
        """Of all sightings one a frame: where two stretches overlap, what more views saw, then what more views saw around that frame."""
        frames, detections = (np.concatenate([getattr(p, n) for p in self.people]) for n in ("frames", "detections"))
        around = np.concatenate([_views_around(p) for p in self.people])
        order = np.lexsort((-around, -(detections >= 0).sum(1), frames))
        return order[np.unique(frames[order], return_index=True)[1]]

    @cached_property
    def frames(self) -> Int[Array, "n"]:
        """In which the person was seen."""
        return np.concatenate([p.frames for p in self.people]).astype(int)[self._chosen]

    @cached_property
    def detections(self) -> Int[Array, "n C"]:
        """Of those frames."""
        return np.concatenate([p.detections for p in self.people])[self._chosen]

    @cached_property
    def marks(self) -> Float[Array, "n M 3"]:
        """Of those frames, m."""
        return np.concatenate([p.marks for p in self.people])[self._chosen]

    @property
    def prominence(self) -> float:
        """Sum over frames and views of the height in the picture."""
        return sum(p.prominence for p in self.people)

    @property
    def places(self) -> Float[Array, "n 3"]:
        """The middle of the marks, m."""
        return np.median(np.where(np.isfinite(self.marks).any(1, keepdims=True), _filled(self.marks), 0), 1)


def cast(people: list[Person], count: int | None, cameras: Cameras, T: int, fps: float, config: IdentityConfig) -> Cast:
    """Give `count` parts to the most prominent people, or one to everybody who is surely somebody (None)."""
    parts = sorted(joined(_unlike(people, 0.2), fps, config), key=lambda p: -p.prominence)
    chosen, said = _chosen(parts, count, cameras, T, fps, config)
    A = len(chosen) if count is None else count
    detection = np.full((len(cameras), T, A), -1)
    place = np.full((T, A, 3), np.nan)
    for a, part in enumerate(chosen):
        detection[:, part.frames, a] = part.detections.T
        place[part.frames, a] = part.places
    return Cast(torch.from_numpy(detection), torch.from_numpy(place).float(), tuple(said))


def joined(people: list[Person], fps: float, config: IdentityConfig) -> list[Part]:
    """Stretches of one person put together: cheapest links first (Kruskal 1956), none of the same time for longer than `OVERLAP`."""
    people = sorted(people, key=lambda p: p.frames[0])
    cost = links(people, fps, config)
    part = {n: [n] for n in range(len(people))}
    for a, b in zip(*np.unravel_index(np.argsort(cost, axis=None, kind="stable"), cost.shape)):
        if not np.isfinite(cost[a, b]):
            break
        if part[a] is part[b]:
            continue
        together = sorted(part[a] + part[b])
        if all(np.isfinite(cost[i, j]) for i, j in pairwise(together)):
            for n in together:
                part[n] = together
    return [Part([people[n] for n in group]) for group in {id(g): g for g in part.values()}.values()]


def links(people: list[Person], fps: float, config: IdentityConfig) -> Float[Array, "n n"]:
    """How badly the second goes on where the first ended: squared deviations of way, looks and height; infinite where it cannot be."""
    n = len(people)
    if n < 2:
        return np.full((n, n), np.inf)
    first, last, placed = (np.array([k(p) for p in people]) for k in (lambda p: p.frames[0], lambda p: p.frames[-1], lambda p: p.placed))
    begin, end = np.stack([p.marks[0] for p in people]), np.stack([p.at if len(p.at) else p.marks[-1] for p in people])
    rate = np.array([p.prominence / len(p.frames) for p in people])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of stretches that share no mark
        way = np.nanmedian(np.linalg.norm(end[:, None] - begin[None], axis=-1), -1)
    away = np.maximum(np.abs(first[None] - placed[:, None]) / fps, LOST)
    alike = np.minimum(rate[:, None], rate[None]) > 0.4 * np.maximum(rate[:, None], rate[None])  # a bystander stands in for no actor
    unlike = _unlikeness(np.stack([_look(p) for p in people]), config.look) + _unlikeness(
        np.array([_build(p) for p in people]), config.build
    )
    overlap = (last[:, None] - first[None]) / fps
    apart = (overlap < OVERLAP) | ((overlap < FADING) & (_together(people) < BOTH * fps))
    apart &= (first[:, None] < first[None]) & (last[:, None] < last[None])
    possible = apart & (way < config.reach + config.run * away) & alike & (unlike < UNLIKE)
    sure = np.array([max(1, int(((np.stack(p.detections) >= 0).sum(1) >= 2).sum())) for p in people])
    return np.where(
        possible, (way / (config.reach + config.speed * away)) ** 2 + unlike + FEW / np.minimum(sure[:, None], sure[None]), np.inf
    )


def _together(people: list[Person]) -> Int[Array, "n n"]:
    """In how many frames two views each saw both."""
    placed = [np.asarray(p.frames)[(np.stack(p.detections) >= 0).sum(1) >= 2] for p in people]
    who = np.repeat(np.arange(len(people)), [len(frames) for frames in placed])
    when = np.concatenate(placed)
    seen = csr_array((np.ones(len(who), int), (who, when)), shape=(len(people), int(when.max(initial=0)) + 1))
    return (seen @ seen.T).toarray()


def _unlikeness(values: Float[Array, "n *k"], sigma: float) -> Float[Array, "n n"]:
    """Squared deviations between all; 0 where one is not known."""
    apart = values[:, None] - values[None]
    squared = apart**2 if apart.ndim == 2 else (apart**2).sum(-1) / 2
    return np.nan_to_num(squared / sigma**2)


def _views_around(person: Person, reach: int = 2) -> Int[Array, "n"]:
    """In how many views he was seen, all told, from `reach` frames before each of his frames to as many after it."""
    frames = np.asarray(person.frames)
    total = np.concatenate([[0], np.cumsum((np.stack(person.detections) >= 0).sum(1))])
    return total[np.searchsorted(frames, frames + reach, "right")] - total[np.searchsorted(frames, frames - reach)]


def _look(person: Person) -> Float[Array, "H"]:
    """Square roots of the mean colours (their distance is Hellinger's); NaN where they are not known."""
    looks = np.stack(person.looks) if person.looks else np.full((1, 1), np.nan)
    known = np.isfinite(looks).all(-1)
    return np.sqrt(looks[known].mean(0)) if known.any() else np.full(looks.shape[1], np.nan)


def _build(person: Person) -> float:
    """How tall the body is, from the middle of the shoulders over hips and knees to the ankles, m; NaN where it was hardly seen."""
    marks = np.stack(person.marks)
    if marks.shape[1] < 4:
        return float("nan")
    bones = np.linalg.norm(np.diff(marks[:, :4], axis=1), axis=-1)  # between knees apart the middles are nearer: the longest count
    bones = bones[np.isfinite(bones).all(1)]
    return float(np.quantile(bones, 0.8, axis=0).sum()) if len(bones) >= 15 else float("nan")


def _chosen(
    parts: list[Part], count: int | None, cameras: Cameras, T: int, fps: float, config: IdentityConfig
) -> tuple[list[Part], list[str]]:
    """Who plays, and what is said of the others."""
    long = [p for p in parts if len(p.frames) >= min(fps, 0.3 * T)]
    images = {long[n] for n in mirror_images([(p.frames, p.marks) for p in long], cameras.position.numpy(), fps)}
    real = [p for p in parts if p not in images]
    living = [p for p in real if moves(p.frames, p.marks, fps, config.still)]
    sure = [p for p in living if p in long and _expected(p, cameras) > 0.35]
    chosen = sure if count is None else [*living, *(p for p in real if p not in living)][:count]
    said = []
    for part in long:
        x, y = np.median(part.places, 0)[:2]
        where, share = f"about ({x:.1f}, {y:.1f}) m", f"in {len(part.frames) / T:.0%} of the frames"
        if part in chosen:
            continue
        if part in images:
            said.append(f"Somebody {where} is a mirror image of somebody else and was left out.")
        elif part not in living:
            said.append(f"Somebody {where} never moves, like a poster or a dummy, and was left out.")
        elif part in sure:
            said.append(f"One more person was seen {where} {share} and left out; name more actors, or use --actors auto, to have all.")
        elif count is None:
            said.append(f"Somebody seen {where} {share} by few of the cameras that look there was left out.")
    return chosen, said


def _expected(part: Part, cameras: Cameras) -> float:
    """The share of the cameras that look at a person's place that saw the person, mean over the frames."""
    inside = cameras.inside(cameras.project(torch.from_numpy(part.places).double())).sum(0).clamp_min(1)
    return float(((part.detections >= 0).sum(1) / inside.numpy()).clip(0, 1).mean())


def _filled(marks: Float[Array, "n M 3"]) -> Float[Array, "n M 3"]:
    """Marks that are not known are in the middle of the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of frames without any
        return np.where(np.isfinite(marks), marks, np.nanmedian(marks, 1, keepdims=True))


def _unlike(people: list[Person], near: float) -> list[Person]:
    """The people without those who are another detected twice: they share most frames, and the place (m)."""
    kept: list[Person] = []
    for person in sorted(people, key=lambda p: -p.prominence):
        if not any(_twins(person, other, near) for other in kept):
            kept.append(person)
    return kept


def _twins(a: Person, b: Person, near: float) -> bool:
    if a.frames[-1] < b.frames[0] or b.frames[-1] < a.frames[0]:
        return False
    shared, i, j = np.intersect1d(a.frames, b.frames, return_indices=True)
    if len(shared) < 0.5 * min(len(a.frames), len(b.frames)):
        return False
    apart = np.linalg.norm(np.stack(a.marks)[i] - np.stack(b.marks)[j], axis=-1)
    return bool(np.isfinite(apart).any() and np.nanmedian(apart) < near)

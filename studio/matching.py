"""One frame's detections of all views matched with people: at most one detection a view each, all of them about one body in space.

Whoever is matched through a body in 3D is matched the same way round any cycle of views. Known people are matched from where they
are expected; then every view in turn is assigned again (Hungarian method, Kuhn 1955) against the bodies that the other views and the
expectation give, until nothing changes. New people are hypotheses of two views each, those that most views support first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

Array = np.ndarray
FAR = 1e3
"""A distance beyond all gates, m."""
NOISE = 0.06
"""Distance from ray to mark at which a ray has a quarter of its say (Geman and McClure 1987), m."""
ROUNDS = 4


@dataclass(frozen=True)
class Sighting:
    """The rays of one frame."""

    rays: Float[np.ndarray, "C D M 3"]
    """Unit directions; NaN where not seen."""
    position: Float[np.ndarray, "C 3"]
    """The cameras', m."""

    def planes(self) -> tuple[Float[Array, "C D M 3 3"], Float[Array, "C D M 3"]]:
        """What each ray adds to the normal equations of the point nearest to all of them."""
        d = np.nan_to_num(self.rays)
        seen = np.isfinite(self.rays).min(-1, keepdims=True)
        H = (np.eye(3) - d[..., :, None] * d[..., None, :]) * seen[..., None]
        return H, (H @ self.position[:, None, None, :, None])[..., 0]


@dataclass(frozen=True)
class Expected:
    """Where some known people should be."""

    marks: Float[Array, "P M 3"]
    """m; NaN where nothing is known."""
    reach: Float[Array, "P"]
    """How far off a detection may be, m."""
    unlike: Float[np.ndarray, "P C D"] | None = None
    """How unlike each detection looks, as so many more m of distance; infinite for somebody else."""

    def cost(self, far: Float[Array, "P C D"], gate: Float[Array, "P C"]) -> Float[Array, "P C D"]:
        """Of taking each detection that far from a person, m; `FAR` beyond the gate."""
        return np.where(far < gate[..., None], far + (0 if self.unlike is None else self.unlike), FAR)


def matched(
    sight: Sighting, known: Expected, found: Int[Array, "P C"] | None, agreement: float
) -> tuple[Int[Array, "P C"], Float[Array, "P M 3"]]:
    """Each person's detection in each view (-1 for none) and marks, m. `found` is where to start; by default from what is expected."""
    C = len(sight.rays)
    if found is None:
        far = distance(sight.rays[None], known.marks[:, None, None], sight.position[None, :, None])
        found = assigned(known.cost(far, np.repeat(known.reach[:, None], C, 1)))
    planes = sight.planes()
    for _ in range(ROUNDS):
        others = bodies(sight, planes, found, known, without=True)
        far = distance(sight.rays[None], others[:, :, None], sight.position[None, :, None])
        sure = np.stack([(np.delete(found, c, 1) >= 0).sum(1) >= 2 for c in range(C)], 1)
        gate = np.where(sure, agreement, np.maximum(known.reach, agreement)[:, None])
        better = assigned(known.cost(far, gate))
        if (better == found).all():
            break
        found = better
    return agreeing(sight, planes, found, known, agreement)


def assigned(cost: Float[Array, "P C D"]) -> Int[Array, "P C"]:
    """In every view the cheapest assignment; -1 where nothing is below `FAR`."""
    found = np.full(cost.shape[:2], -1)
    cost = np.nan_to_num(cost, nan=FAR, posinf=FAR)
    for c in np.flatnonzero((cost < FAR).any((0, 2))):
        n, d = linear_sum_assignment(cost[:, c])
        good = cost[n, c, d] < FAR
        found[n[good], c] = d[good]
    return found


def bodies(sight: Sighting, planes: tuple[Array, Array], found: Int[Array, "P C"], known: Expected, without: bool = False) -> Array:
    """Marks (P, M, 3) nearest to the detections' rays and to what is expected; `without`: (P, C, M, 3), each from the other views alone.

    Rays that miss count less; NaN where nothing tells.
    """
    P, C = found.shape
    there = (found >= 0)[..., None]
    views = np.arange(C)[None]
    H, b = (x[views, found] * there.reshape(P, C, 1, *(1,) * (x.ndim - 3)) for x in planes)
    rays = np.where(there[..., None], sight.rays[views, found], np.nan)
    hope = np.isfinite(known.marks).all(-1)
    weight = (NOISE / (NOISE + known.reach))[:, None] ** 2 * hope
    weight = np.where(np.isfinite(weight), weight, 0.0)
    prior_H, prior_b = weight[..., None, None] * np.eye(3), weight[..., None] * np.nan_to_num(known.marks)
    say = np.ones(H.shape[:3])
    marks = known.marks
    for again in (False, True):
        wH, wb = H * say[..., None, None], b * say[..., None]
        total_H, total_b = wH.sum(1) + prior_H, wb.sum(1) + prior_b
        if again and without:
            return _solved(total_H[:, None] - wH, total_b[:, None] - wb)
        marks = _solved(total_H, total_b)
        miss = _apart(rays, marks[:, None], sight.position[None])
        say = 1 / (1 + np.nan_to_num(miss / NOISE) ** 2) ** 2
    return marks


def agreeing(
    sight: Sighting, planes: tuple[Array, Array], found: Int[Array, "P C"], known: Expected, agreement: float
) -> tuple[Int[Array, "P C"], Float[Array, "P M 3"]]:
    """The matches without views that disagree with the rest, worst first; and the marks."""
    found = found.copy()
    while True:
        marks = bodies(sight, planes, found, known)
        rays = np.where((found >= 0)[..., None, None], sight.rays[np.arange(found.shape[1])[None], found], np.nan)
        far = np.nan_to_num(distance(rays, marks[:, None], sight.position[None]))
        worst = far.argmax(1) if far.size else np.zeros(0, int)
        bad = np.flatnonzero(far[np.arange(len(far)), worst] > agreement)
        if not len(bad):
            return found, marks
        found[bad, worst[bad]] = -1


def hypotheses(
    sight: Sighting,
    free: Bool[Array, "C D"],
    agreement: float,
    trunk: tuple[float, float] | None,
    looks: Float[Array, "C D H"] | None = None,
    stranger: float = 1.0,
) -> Int[Array, "P C"]:
    """People among the free detections: at least two that meet in space; those that most views support best come first.

    `trunk`: shortest and longest distance of the first two marks, m. Two whose `looks` are further apart than `stranger` (Hellinger) are
    two people.
    """
    views, slots = np.nonzero(free & (np.isfinite(sight.rays).all(-1).sum(-1) >= 3))
    i, j = np.triu_indices(len(views), 1)
    i, j = (k[views[i] != views[j]] for k in (i, j))
    if not len(i):
        return np.zeros((0, len(free)), int)
    H, b = (x[views, slots] for x in sight.planes())
    marks = _solved(H[i] + H[j], b[i] + b[j])
    rays, at = sight.rays[views, slots], sight.position[views]
    alike = np.ones((len(views), len(views)), bool)
    if looks is not None:
        root = np.sqrt(looks[views, slots])
        alike = ~(np.linalg.norm(root[:, None] - root[None], axis=-1) > np.sqrt(2) * stranger)
    near = np.maximum(*(np.nan_to_num(distance(rays[k], marks, at[k]), nan=FAR) for k in (i, j))) < agreement
    good = near & plausible(marks, trunk) & alike[i, j]
    marks, like = marks[good], alike[i[good]] & alike[j[good]]
    far = np.concatenate([distance(rays[None], part[:, None], at[None]) for part in np.array_split(marks, len(marks) // 500 + 1)])
    support = like * np.clip(1 - (np.nan_to_num(far, nan=FAR) / agreement) ** 2, 0, None)
    found = []
    while len(support):
        best = np.stack([support[:, views == c].max(1, initial=0) for c in range(len(free))], 1)
        total = best.sum(1) + (best > 0).sum(1)
        top = int(total.argmax())
        if (best[top] > 0).sum() < 2:
            break
        chosen = np.full(len(free), -1)
        for c in np.flatnonzero(best[top] > 0):
            n = np.flatnonzero(views == c)[support[top, views == c].argmax()]
            chosen[c] = slots[n]
            support[:, n] = 0
        found.append(chosen)
    return np.array(found) if found else np.zeros((0, len(free)), int)


def plausible(marks: Float[Array, "*b M 3"], trunk: tuple[float, float] | None) -> Bool[Array, "*b"]:
    """Whether the trunk, if known, has a person's length; rays of two people meet where nobody is."""
    if trunk is None:
        return np.ones(marks.shape[:-2], bool)
    length = np.linalg.norm(marks[..., 0, :] - marks[..., 1, :], axis=-1)
    return ~np.isfinite(length) | ((length > trunk[0]) & (length < trunk[1]))


def distance(rays: Float[Array, "*b M 3"], marks: Float[Array, "*b M 3"], position: Float[Array, "*b 3"]) -> Float[Array, "*b"]:
    """Median over the marks of the distance between ray and mark, m; NaN where fewer than two can be compared."""
    apart = _apart(rays, marks, position)
    known = np.isfinite(apart).sum(-1)
    ordered = np.sort(apart, axis=-1)  # NaN last
    low, high = (np.take_along_axis(ordered, np.maximum(i, 0)[..., None], -1)[..., 0] for i in ((known - 1) // 2, known // 2))
    return np.where(known >= 2, (low + np.where(known % 2 == 1, low, high)) / 2, np.nan)


def _apart(rays: Array, marks: Array, position: Array) -> Array:
    """Distance between every ray and its mark, m; 100 for marks behind the camera."""
    offset = marks - position[..., None, :]
    along = (offset * rays).sum(-1, keepdims=True)
    apart = np.linalg.norm(offset - along * rays, axis=-1)
    return np.where(along[..., 0] > 0, apart, np.where(np.isfinite(along[..., 0]), 1e2, np.nan))


def _solved(H: Float[Array, "*b 3 3"], b: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """NaN where the rays do not meet at an angle."""
    trace = np.trace(H, axis1=-2, axis2=-1)
    sound = np.linalg.det(H) > 1e-3 * (trace / 3) ** 3
    H = np.where(sound[..., None, None], H, np.eye(3))
    return np.where(sound[..., None], np.linalg.solve(H, b[..., None])[..., 0], np.nan)

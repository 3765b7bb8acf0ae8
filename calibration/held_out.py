"""How well a rig foretells instants of the board that it was not fitted to: pixels, the known square, and which way the board faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.boards import BoardViews
from calibration.cameras import Cameras
from calibration.extrinsics import RigFit, solve_rig
from calibration.intrinsics import LensFit
from calibration.reprojection import Sightings, lateness
from calibration.rig_views import board_velocity
from calibration.rotations import nearest_rotation
from calibration.triangulate import triangulate

EVERY = 5
"""Every so many instants that two cameras share is held out."""
LEAST = 4
"""Corners or edges from which a median is told."""


@dataclass(frozen=True)
class HeldOut:
    """What a rig that was fitted to the other instants says about the held-out ones. float64."""

    instants: Bool[Tensor, "B"]
    reprojection: Float[Tensor, "C"]
    """Median distance from a corner to where its triangulated point projects, px; NaN where a camera saw none."""
    left_out: Float[Tensor, "C"]
    """The same with the point from the other cameras only, px; NaN where fewer than two others saw it."""
    pair: Float[Tensor, "C C"]
    """Median distance where only these two cameras place the point, px; NaN where they share none."""
    square: float
    """Median length of the printed square's edge as the rig measures it, m."""
    spread: float
    """Robust standard deviation of one such edge, m."""
    edges: int
    turned_away: Float[Tensor, "C"]
    """Part of the instants at which the triangulated board shows a camera its wrong side though the camera sees it; NaN where unknown."""


def held_out(views: BoardViews, lenses: Sequence[LensFit], fit: RigFit, same_footage: bool = False) -> HeldOut:
    """Every fifth instant that two cameras share, measured with a rig fitted to all others.

    The lenses are refined without the held-out instants too, if `fit` refined them, from what `lenses` tells. A `ValueError` where the
    others are too few to fit a rig to.
    """
    shared = (views.seen().sum(0) >= 2).nonzero()[:, 0]
    out = torch.zeros(views.pixels.shape[1], dtype=torch.bool)
    out[shared[EVERY // 2 :: EVERY]] = True
    if not out.any():
        raise ValueError(f"{len(shared)} instants show the board to two cameras; too few to hold any out: film at least 20")
    rest = solve_rig(chosen(views, ~out), lenses, fit.lenses, same_footage=same_footage)
    velocity = board_velocity(views)
    if velocity is None:
        return measured(rest.cameras, views, out)
    # Cameras out of step saw the board elsewhere: where it was at the anchor's instants counts.
    instant = chosen(replace(views, pixels=views.pixels + velocity * rest.delay[:, None, None, None]), out)
    found = measured(rest.cameras, instant, torch.ones_like(out[out]))
    moved = at_one_moment(rest.cameras, instant, velocity[:, out], rest)
    steady = measured(rest.cameras, replace(instant, pixels=moved), torch.ones_like(out[out]))
    return replace(steady, instants=out, left_out=found.left_out)


def at_one_moment(
    cameras: Cameras, views: BoardViews, velocity: Float[Tensor, "C B N 2"], timing: RigFit, rounds: int = 8
) -> Float[Tensor, "C B N 2"]:
    """Corners (px) as every camera would have seen them at the same moment, by the jitter of a rig; delays are taken out already.

    Nothing is used of the board's shape: that corners of one view are late together, and must meet in space, tells the moments.
    """
    seen = views.pixels.isfinite().all(-1) & ~views.behind[..., None]
    pixels = torch.where(seen[..., None], views.pixels, torch.nan).to(torch.float64)
    sigma = ((timing.noise[:, None, None] * views.sigma).square() + timing.excess**2).sqrt()
    c, b = torch.cartesian_prod(*(torch.arange(n) for n in seen.shape[:2])).T
    weight = torch.where(seen, 1 / sigma, 0).nan_to_num()[c, b]
    sightings = Sightings(c, b, views.points()[c, b], pixels[c, b], weight, velocity[c, b], timing.jitter[c])
    late = torch.zeros(seen.shape[:2], dtype=torch.float64)
    for _ in range(rounds):
        moved = pixels + velocity * late[..., None, None]
        points = triangulate(cameras, moved, torch.where(seen, sigma, torch.nan), robust=False, dtype=torch.float64).points
        error = torch.where(seen[..., None] & (seen.sum(0) >= 2)[..., None], cameras.project(points) - pixels, torch.nan)
        late = lateness(sightings, error[c, b])[0].view(late.shape)
    return pixels + velocity * late[..., None, None]


def chosen(views: BoardViews, which: Bool[Tensor, "B"]) -> BoardViews:
    """The views at some instants."""
    return replace(
        views, pixels=views.pixels[:, which], sigma=views.sigma[:, which], behind=views.behind[:, which], instants=views.instants[:, which]
    )


def measured(cameras: Cameras, views: BoardViews, out: Bool[Tensor, "B"]) -> HeldOut:
    """What these cameras (in the order of the views) say about the board at some instants."""
    some = chosen(views, out)
    pixels = torch.where(some.behind[..., None, None], torch.nan, some.pixels).to(torch.float64)  # corners of the back are other points
    sigma = torch.where(pixels.isfinite().all(-1), some.sigma.to(torch.float64), torch.nan)
    C = len(cameras)
    # No view is turned down: a corner that a robust solution would leave out is what this is looking for.
    whole = triangulate(cameras, pixels, sigma, robust=False, dtype=torch.float64)
    left_out = torch.full((C,), torch.nan, dtype=torch.float64)
    for c in range(C) if C > 2 else ():
        others = sigma.clone()
        others[c] = torch.nan
        points = triangulate(cameras, pixels, others, robust=False, dtype=torch.float64).points
        left_out[c] = _median((cameras[c].project(points)[0] - pixels[c]).norm(dim=-1))
    pair = torch.full((C, C), torch.nan, dtype=torch.float64)
    for c, d in combinations(range(C), 2):
        both = [c, d]
        found = triangulate(cameras[both], pixels[both], sigma[both], robust=False, dtype=torch.float64)
        pair[c, d] = pair[d, c] = _median(found.residual)
    length, spread, count = _edges(whole.points, some)
    reprojection = torch.stack([_median(r) for r in whole.residual])
    return HeldOut(out, reprojection, left_out, pair, length, spread, count, _turned_away(whole.points, cameras, some))


def _median(values: Tensor) -> Tensor:
    values = values[values.isfinite()]
    return values.median() if len(values) >= LEAST else torch.tensor(torch.nan, dtype=torch.float64)


def neighbours(views: BoardViews) -> Int[Tensor, "2 E"]:
    """Corners that are one printed square (a marker's side) apart."""
    apart = torch.cdist(views.board.points(), views.board.points())
    return (apart.sub(views.board.pitch).abs() < 1e-6).triu().nonzero().T


def _edges(points: Float[Tensor, "B N 3"], views: BoardViews) -> tuple[float, float, int]:
    a, b = neighbours(views)
    lengths = (points[:, a] - points[:, b]).norm(dim=-1)
    lengths = lengths[lengths.isfinite()]
    if len(lengths) < LEAST:
        return float("nan"), float("nan"), len(lengths)
    middle = lengths.median()
    return float(middle), 1.4826 * float((lengths - middle).abs().median()), len(lengths)


def _turned_away(points: Float[Tensor, "B N 3"], cameras: Cameras, views: BoardViews) -> Float[Tensor, "C"]:
    """In a mirrored world the board, put together from its corners, turns its back on the cameras that read its front."""
    flat = views.board.points()
    ok = points.isfinite().all(-1)
    away: list[list[bool]] = [[] for _ in cameras.names]
    for b in (ok.sum(1) >= LEAST).nonzero()[:, 0].tolist():
        x, y = flat[ok[b]], points[b, ok[b]]
        M = (y - y.mean(0)).mT @ (x - x.mean(0))
        S = torch.linalg.svdvals(M)
        if float(S[1]) < 1e-3 * float(S[0]):
            continue  # in one line: either side may show
        R = nearest_rotation(M)
        for c in (views.seen()[:, b] & ~views.behind[:, b]).nonzero()[:, 0].tolist():
            away[c].append(bool((cameras.position[c] - y.mean(0)) @ R[:, 2] > 0))
    return torch.tensor([sum(a) / len(a) if a else torch.nan for a in away], dtype=torch.float64)

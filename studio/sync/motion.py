"""Clocks from motion seen by calibrated cameras: at the right offsets the rays to every joint meet.

Two rays meet where (baseline x ray) . ray is zero. Divided by its standard deviation (Sampson 1982) this is the residual of a pair
of cameras. Landmarks lie centimetres off, differently in each view and pose, but what is off changes slowly: of the residuals of every
pair and joint only what is lively counts, and each joint counts by how little is left of it. The clocks are those at which that has
nothing in common with the velocities. These are smoothed more widely than the residuals (instrumental variables, Wright 1928): noise that
residual and velocity share would draw the estimate to fractions of a frame at which the noise happens to be least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from studio.sync.estimate import Estimate
from studio.sync.person import Path2D
from studio.sync.rays import BLOCKS, MotionConfig, Ray, Rays, Trial
from studio.sync.search import search

__all__ = ["MotionConfig", "Verdict", "by_motion", "judged"]


COMMON = 0.06
"""What all parts and joints of a take may be off alike, frames (`benchmarks/motion_clocks.py`)."""


@dataclass(frozen=True)
class Normal:
    """Sums over moments, by part of the take and joint: velocities with the residuals' rates of change, and with the residuals."""

    H: Float[Tensor, "B K 2C 2C"]
    g: Float[Tensor, "B K 2C"]

    def solved(self, rays: Rays, clocks: Float[Tensor, "C 2"], blocks: Sequence[int], without: int | None = None) -> Float[Tensor, "C 2"]:
        """The Newton step from some blocks, and from all joints or all but one."""
        keep = [k for k in range(self.H.shape[1]) if k != without]
        H, g = (x[list(blocks)][:, keep].sum((0, 1)) for x in (self.H, self.g))
        prior = torch.zeros_like(clocks)
        prior[:, 0], prior[:, 1] = rays.config.reach**-2, (1e-6 * rays.config.drift_ppm) ** -2
        prior[0] = 1e18  # the first camera is the master
        return -torch.linalg.solve(H + torch.diag(prior.flatten()), g + prior.flatten() * clocks.flatten()).view(-1, 2)

    def spread(self, rays: Rays, clocks: Float[Tensor, "C 2"], blocks: Sequence[int]) -> Float[Tensor, "C"]:
        """Standard deviation of the shifts, s: parts of the take left out in turn, and joints, whose landmarks err each in its own way."""
        parts = [self.solved(rays, clocks, [b for b in blocks if b != out])[:, 0] for out in blocks]
        joints = [self.solved(rays, clocks, blocks, k)[:, 0] for k in range(self.H.shape[1])]
        return sum((_jackknife(torch.stack(x)) for x in (parts, joints)), torch.zeros(len(clocks), dtype=torch.float64)).sqrt()


def _jackknife(left: Float[Tensor, "n C"]) -> Float[Tensor, "C"]:
    """Variance of a mean whose parts were left out in turn (Quenouille 1949, Tukey 1958)."""
    return (left - left.mean(0)).square().sum(0) * (len(left) - 1) / len(left)


def normal(rays: Rays, clocks: Float[Tensor, "C 2"]) -> Normal:
    """The equations at these clocks."""
    C, K, h = len(rays.sights), rays.joints, 0.5 * rays.step
    H, g = torch.zeros(BLOCKS, K, 2 * C, 2 * C, dtype=torch.float64), torch.zeros(BLOCKS, K, 2 * C, dtype=torch.float64)

    def at(late: float, gliding: bool) -> list[Ray]:
        return [rays.directions(c, rays.own(clocks, c, late), rays.gliding if gliding else None) for c in range(C)]

    now, sharp, wide = at(0.0, False), [at(d, False) for d in (-h, h)], [at(d, True) for d in (-h, h)]
    steady = at(0.0, True)
    x = (rays.moments - rays.middle)[:, None]
    for i, j in rays.pairs:
        r = rays.residual(i, j, now[i], now[j])
        rates = [
            (rays.residual(i, j, a[1], b[1]) - rays.residual(i, j, a[0], b[0])) / (2 * h)
            for rest, moved in ((now, sharp), (steady, wide))
            for a, b in (((moved[0][i], moved[1][i]), (rest[j], rest[j])), ((rest[i], rest[i]), (moved[0][j], moved[1][j])))
        ]
        good = torch.stack([torch.isfinite(v) for v in (r, *rates)]).all(0) & (r.abs() < 30)
        r, *rates = (torch.where(good, v, 0.0).double() for v in (r, *rates))
        weight, scale = rays.weighed(r, good)
        r, di, dj, vi, vj = (rays.lively(v, weight) / scale for v in (r, *rates))
        J, V = torch.stack([di, di * x, dj, dj * x]), torch.stack([vi, vi * x, vj, vj * x])
        index = torch.tensor([2 * i, 2 * i + 1, 2 * j, 2 * j + 1])
        for b in range(BLOCKS):
            t = rays.block == b
            wV = weight[t] * V[:, t]
            H[b][:, index[:, None], index] += torch.einsum("pnk,qnk->kpq", wV, J[:, t])
            g[b][:, index] += (wV * r[t]).sum(1).mT
    return Normal(H, g)


def refined(rays: Rays, clocks: Float[Tensor, "C 2"], blocks: Sequence[int] = range(BLOCKS)) -> tuple[Tensor, Tensor]:
    """The clocks (C,2) from some parts of the take to a fraction of a frame, and the standard deviation of the shifts (C), s."""
    for _ in range(rays.config.steps):
        step = normal(rays, clocks).solved(rays, clocks, blocks)
        step = step * (2 * rays.step / step[:, 0].abs().max().clamp_min(2 * rays.step))
        clocks = clocks + step
        if float(step[:, 0].abs().max()) < 5e-3 * rays.step:
            break
    return clocks, normal(rays, clocks).spread(rays, clocks, blocks)


@dataclass(frozen=True)
class Verdict:
    """Clocks found from motion, and how they did on frames that were held out."""

    estimate: Estimate
    before: float
    """Robust cost with the clocks as they are, on held-out frames: 0 (all rays meet) to 1."""
    after: float
    """The same with clocks found on the other frames."""
    apart: float
    """Largest difference between the shifts found on the two halves, s."""
    cost: float
    """The cost over the whole take in the detections' own standard deviations, to compare one person's paths with another's."""

    def lowers(self, part: float) -> bool:
        """Whether the held-out cost falls by more than this part of it."""
        return self.after < (1 - part) * self.before


def by_motion(cameras: Cameras, paths: Sequence[Path2D], config: MotionConfig | None = None, starts: Sequence[Estimate] = ()) -> Verdict:
    """The clocks from one person's joints in calibrated views, relative to the first camera; `starts` are tried beside the search."""
    rays = Rays(cameras, paths, config or MotionConfig())
    tried = [search(rays), *(as_clocks(s, rays.middle) for s in starts)]
    best = min(tried, key=lambda c: _penalised(rays, c))
    rays.look(best)
    clocks, sigma = refined(rays, best)
    halves = [range(0, BLOCKS, 2), range(1, BLOCKS, 2)]
    nothing, before, after, shifts = torch.zeros_like(clocks), [], [], []
    for own, other in (halves, halves[::-1]):
        fitted, _ = refined(rays, clocks, own)
        shifts.append(fitted[:, 0])
        costs = rays.compared(nothing, fitted, other)
        before.append(costs[0])
        after.append(costs[1])
    offset = rays.middle - (1 + clocks[:, 1]) * (rays.middle - clocks[:, 0])
    apart = float((shifts[0] - shifts[1]).abs().max())
    # Halves differ by twice the whole's standard deviation, and the worst of some cameras by three times.
    sigma = (sigma.square() + (apart / 3) ** 2 + (COMMON * rays.step) ** 2).sqrt()
    sigma[0] = 0
    estimate = Estimate("motion", offset, clocks[:, 1], sigma, rays.middle)
    return Verdict(estimate, sum(before) / 2, sum(after) / 2, apart, rays.trial(clocks, 1.0).cost)


def _penalised(rays: Rays, clocks: Float[Tensor, "C 2"]) -> float:
    """Cost; few residuals left are as bad as large ones."""
    rays.look(clocks)
    trial = rays.trial(clocks, 1.0)
    possible = len(rays.moments) * max(int(torch.isfinite(rays.residuals(clocks)).any(1).sum()), 1)
    return trial.cost + max(0.0, 0.3 - trial.count / possible)


def as_clocks(estimate: Estimate, middle: float) -> Float[Tensor, "C 2"]:
    """Shift in the middle of the take, s, and drift of every camera; zero where the estimate is silent."""
    own = (middle - estimate.offset) / (1 + estimate.drift)
    clocks = torch.stack([middle - own, estimate.drift], 1)
    return torch.where(torch.isfinite(clocks), clocks, 0.0)


def judged(cameras: Cameras, paths: Sequence[Path2D], estimate: Estimate, config: MotionConfig | None = None) -> tuple[Trial, Trial]:
    """Robust cost with the clocks as they are, and with those of an estimate that came from elsewhere."""
    rays = Rays(cameras, paths, config or MotionConfig())
    clocks = as_clocks(estimate, rays.middle)
    scale = min(rays.scale(clocks), rays.scale(torch.zeros_like(clocks)))
    return rays.trial(torch.zeros_like(clocks), scale), rays.trial(clocks, scale)

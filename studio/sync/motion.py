"""Clocks from motion seen by calibrated cameras: at the right offsets the rays to every joint meet.

Two rays meet where (baseline x ray) . ray is zero. Divided by its standard deviation (Sampson 1982) this is the residual of a pair
of cameras; all pairs together, robustly weighted, give offsets and drifts by Gauss-Newton from a search over whole frames. Every pair
and joint has a constant of its own with a prior, so that a landmark placed differently by two views does not pass for a delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from studio.sync.estimate import Estimate
from studio.sync.person import Path2D, Sight

BLOCKS = 8
"""Parts of the take that are left out in turn to see how much the result depends on them."""


@dataclass(frozen=True)
class MotionConfig:
    """How clocks are found from motion."""

    reach: float = 2.0
    """Largest offset looked for, s."""
    placement: float = 0.004
    """How differently two views place a joint on the body, rad as seen from a camera; adds to the detections' sigma."""
    constant: float = 1.0
    """Standard deviation of what stays the same between a pair of views for a joint, in its residual's standard deviations."""
    drift_ppm: float = 100.0
    """Standard deviation of a camera clock's drift."""
    instants: int = 1500
    """Moments compared."""
    steps: int = 15
    """Gauss-Newton steps."""


@dataclass(frozen=True)
class Trial:
    """What the rays say about one set of clocks."""

    cost: float
    """Mean robust cost, 0 (all meet) to 1 (none does)."""
    count: int
    """Residuals."""


class Rays:
    """All cameras' rays to one person."""

    def __init__(self, cameras: Cameras, paths: Sequence[Path2D], config: MotionConfig) -> None:
        self.cameras, self.config = cameras, config
        self.sights = [Sight.of(cameras[c], path, config.placement) for c, path in enumerate(paths)]
        self.pairs = [(i, j) for i, j in combinations(range(len(paths)), 2)]
        self.step = min(p.step for p in paths)
        self.joints = paths[0].pixels.shape[1]
        longest = max(self.sights, key=lambda s: int(torch.isfinite(s.plane).sum()))
        every = max(1, -(-len(longest.times) // config.instants))
        self.moments = longest.times[::every]
        self.middle = float(self.moments.mean())
        self.block = torch.arange(len(self.moments)) * BLOCKS // max(len(self.moments), 1)

    def directions(self, c: int, own: Float[Tensor, "n"]) -> tuple[Float[Tensor, "n K 3"], Float[Tensor, "n K"]]:
        """Unit rays in the world at moments of camera `c`'s own time, and their standard deviation, rad."""
        plane, angle = self.sights[c].at(own)
        d = torch.cat([plane, torch.ones_like(plane[..., :1])], -1)
        d = d / d.norm(dim=-1, keepdim=True)
        return d @ self.cameras.R_camera_world[c], angle

    def residual(self, i: int, j: int, one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> Float[Tensor, "... K"]:
        """How far two cameras' rays are from meeting, in standard deviations; NaN where one is missing or they run along the baseline."""
        base = self.cameras.position[j] - self.cameras.position[i]
        base = base / base.norm()
        (a, s), (b, t) = one, two
        g = torch.linalg.cross(b, base.expand_as(b))
        h = torch.linalg.cross(base.expand_as(a), a)
        e = (a * g).sum(-1)
        across = g.square().sum(-1) - e.square()
        down = h.square().sum(-1) - e.square()
        r = e / (s.square() * across + t.square() * down).sqrt()
        return torch.where((across > 0.01) & (down > 0.01), r, torch.nan)

    def own(self, clocks: Float[Tensor, "C 2"], c: int, late: float = 0.0) -> Float[Tensor, "n"]:
        """Camera `c`'s own time of the moments; a clock is its shift in the middle of the take, s, and drift."""
        shift, drift = float(clocks[c, 0]) + late, float(clocks[c, 1])
        return self.middle - shift + (self.moments - self.middle) / (1 + drift)

    def residuals(self, clocks: Float[Tensor, "C 2"]) -> list[Float[Tensor, "n K"]]:
        """Of every pair."""
        rays = [self.directions(c, self.own(clocks, c)) for c in range(len(self.sights))]
        return [self.residual(i, j, rays[i], rays[j]) for i, j in self.pairs]

    def trial(self, clocks: Float[Tensor, "C 2"], scale: float, blocks: Sequence[int] | None = None) -> Trial:
        """The robust cost, or that of some of the blocks."""
        r = torch.stack(self.residuals(clocks))
        if blocks is not None:
            r = r[:, torch.isin(self.block, torch.tensor(list(blocks)))]
        r = r[torch.isfinite(r)]
        if not len(r):
            return Trial(1.0, 0)
        e = (r / (3 * scale)).square()
        return Trial(float((e / (1 + e)).mean()), len(r))

    def compared(self, one: Float[Tensor, "C 2"], other: Float[Tensor, "C 2"], scale: float, blocks: Sequence[int]) -> tuple[float, float]:
        """The robust costs of two sets of clocks where both can be judged."""
        part = torch.isin(self.block, torch.tensor(list(blocks)))
        r, s = (torch.stack(self.residuals(c))[:, part] for c in (one, other))
        both = torch.isfinite(r) & torch.isfinite(s)
        if not bool(both.any()):
            return 1.0, 1.0
        e, f = ((x[both] / (3 * scale)).square() for x in (r, s))
        return float((e / (1 + e)).mean()), float((f / (1 + f)).mean())

    def scale(self, clocks: Float[Tensor, "C 2"]) -> float:
        """Robust standard deviation of the residuals."""
        r = torch.stack(self.residuals(clocks))
        r = r[torch.isfinite(r)].abs()
        return max(1.48 * float(r.median()), 0.05) if len(r) else 1.0

    # The search over whole frames

    def search(self) -> Float[Tensor, "C 2"]:
        """The best clocks by whole frames, without drift."""
        C, reach = len(self.sights), round(self.config.reach / self.step)
        curves = self.curves(reach)
        start = [torch.zeros(C, dtype=torch.long)]
        sharp = sorted(self.pairs, key=lambda p: float(curves[p].min() - curves[p].median()))
        start.append(self._chained(curves, sharp, reach))
        found = [self._descended(curves, s, reach) for s in start]
        best = min(found, key=lambda f: f[0])[1]
        clocks = torch.zeros(C, 2, dtype=torch.float64)
        clocks[:, 0] = (best - best[0]) * self.step
        return clocks

    def curves(self, reach: int) -> dict[tuple[int, int], Float[Tensor, "L"]]:
        """For every pair the cost of each lag of the second camera's shift behind the first's, -reach to reach frames."""
        first = float(min(s.times[0] for s in self.sights))
        last = float(max(s.times[-1] for s in self.sights))
        count = int((last - first) / self.step) + 1
        grid = first + torch.arange(-reach, count + reach, dtype=torch.float64) * self.step
        rays = [tuple(x.float() for x in self.directions(c, grid)) for c in range(len(self.sights))]
        cameras = self.cameras
        self.cameras = cameras.to(dtype=torch.float32)
        wanted = torch.linspace(reach, reach + count - 1, min(count, 300)).long()
        curves = {}
        for i, j in self.pairs:
            one = (rays[i][0][wanted], rays[i][1][wanted])
            cost, seen = torch.ones(2 * reach + 1), torch.zeros(2 * reach + 1)
            for lag in range(-reach, reach + 1):  # camera j's shift is `lag` frames: its own time is that much earlier
                index = wanted - lag
                r = self.residual(i, j, one, (rays[j][0][index], rays[j][1][index]))
                e = (r[torch.isfinite(r)] / 3).square()
                seen[lag + reach] = len(e)
                if len(e):
                    cost[lag + reach] = (e / (1 + e)).mean()
            curves[i, j] = torch.where(seen >= 0.35 * seen.max().clamp_min(1), cost, 1.0)
        self.cameras = cameras
        return curves

    def _chained(self, curves: dict[tuple[int, int], Tensor], pairs: list[tuple[int, int]], reach: int) -> Int[Tensor, "C"]:
        """Cameras joined by their clearest pairs."""
        placed = {pairs[0][0]: 0}
        while len(placed) < len(self.sights):
            i, j = next(p for p in pairs if (p[0] in placed) != (p[1] in placed))
            lag = int(curves[i, j].argmin()) - reach
            if i in placed:
                placed[j] = placed[i] + lag
            else:
                placed[i] = placed[j] - lag
        return torch.tensor([placed[c] for c in range(len(self.sights))])

    def _descended(self, curves: dict[tuple[int, int], Tensor], shifts: Int[Tensor, "C"], reach: int) -> tuple[float, Int[Tensor, "C"]]:
        """One camera at a time moved to where all its pairs agree best, until none moves; the total cost and the shifts."""
        shifts = shifts.clone()

        def cost(c: int, places: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
            total = torch.zeros(len(places))
            for i, j in self.pairs:
                if c in (i, j):
                    lag = places - shifts[i] if c == j else shifts[j] - places
                    inside = lag.abs() <= reach
                    total += torch.where(inside, curves[i, j][lag.clamp(-reach, reach) + reach], 1.0)
            return total

        for _ in range(20):
            before = shifts.clone()
            for c in range(len(shifts)):
                places = torch.arange(-reach, reach + 1) + shifts[0]
                shifts[c] = places[cost(c, places).argmin()]
            if torch.equal(before, shifts):
                break
        return sum(float(cost(c, shifts[c : c + 1])[0]) for c in range(len(shifts))), shifts

    # Fractions of a frame

    def refined(self, clocks: Float[Tensor, "C 2"], blocks: Sequence[int] | None = None) -> tuple[Float[Tensor, "C 2"], Float[Tensor, "C"]]:
        """The clocks by Gauss-Newton, and the standard deviation of the shifts from leaving parts of the take out, s."""
        used = list(range(BLOCKS)) if blocks is None else list(blocks)
        for _ in range(self.config.steps):
            parts = self._normal(clocks, self.scale(clocks))
            step = self._solved(parts, clocks, used).clamp(-2 * self.step, 2 * self.step)
            clocks = clocks + step
            if float(step[:, 0].abs().max()) < 1e-3 * self.step:
                break
        parts = self._normal(clocks, self.scale(clocks))
        left = torch.stack([self._solved(parts, clocks, [b for b in used if b != out])[:, 0] for out in used])
        spread = (left - left.mean(0)).square().sum(0) * (len(used) - 1) / len(used)
        return clocks, spread.sqrt()

    def _normal(self, clocks: Float[Tensor, "C 2"], scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Normal equations of each block: of the clocks, between clocks and constants, of the constants, and their right sides."""
        C, N, h = len(self.sights), len(self.pairs) * self.joints, 0.5 * self.step
        H, g = torch.zeros(BLOCKS, 2 * C, 2 * C, dtype=torch.float64), torch.zeros(BLOCKS, 2 * C, dtype=torch.float64)
        M, D, f = (torch.zeros(BLOCKS, *s, dtype=torch.float64) for s in ((2 * C, N), (N,), (N,)))
        now, early, late = ([self.directions(c, self.own(clocks, c, d)) for c in range(C)] for d in (0.0, -h, h))
        x = (self.moments - self.middle)[:, None]
        for n, (i, j) in enumerate(self.pairs):
            r = self.residual(i, j, now[i], now[j]) / scale
            di = (self.residual(i, j, late[i], now[j]) - self.residual(i, j, early[i], now[j])) / (2 * h * scale)
            dj = (self.residual(i, j, now[i], late[j]) - self.residual(i, j, now[i], early[j])) / (2 * h * scale)
            good = torch.isfinite(r) & torch.isfinite(di) & torch.isfinite(dj)
            w = torch.where(good, 1 / (1 + (r / 3).square()).square(), 0.0)
            r, di, dj = (torch.where(good, v, 0.0) for v in (r, di, dj))
            J = torch.stack([di, di * x, dj, dj * x])
            at = [2 * i, 2 * i + 1, 2 * j, 2 * j + 1]
            for b in range(BLOCKS):
                t = self.block == b
                K = slice(n * self.joints, (n + 1) * self.joints)
                wJ, rb = w[t] * J[:, t], r[t]
                part = torch.einsum("pnk,qnk->pq", wJ, J[:, t])
                H[b][torch.tensor(at)[:, None], torch.tensor(at)] += part
                g[b, at] += (wJ * rb).sum((1, 2))
                M[b, at, K] = wJ.sum(1)
                D[b, K], f[b, K] = w[t].sum(0), (w[t] * rb).sum(0)
        return H, M, D, g, f

    def _solved(self, parts: tuple[Tensor, ...], clocks: Float[Tensor, "C 2"], blocks: Sequence[int]) -> Float[Tensor, "C 2"]:
        """The Gauss-Newton step from some blocks, constants eliminated."""
        H, M, D, g, f = (p[list(blocks)].sum(0) for p in parts)
        D = D + self.config.constant**-2
        H, g = H - (M / D) @ M.T, g - M @ (f / D)
        prior = torch.zeros_like(clocks)
        prior[:, 0], prior[:, 1] = self.config.reach**-2, (1e-6 * self.config.drift_ppm) ** -2
        prior[0] = 1e18  # the first camera is the master
        wanted = prior.flatten() * clocks.flatten()
        return -torch.linalg.solve(H + torch.diag(prior.flatten()), g + wanted).view(-1, 2)


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
    tried = [rays.search(), *(as_clocks(s, rays.middle) for s in starts)]
    scale = rays.scale(min(tried, key=lambda c: rays.trial(c, 1.0).cost))
    found = [rays.refined(c) for c in tried]
    clocks, sigma = min(found, key=lambda f: _penalised(rays, f[0], scale))
    scale = rays.scale(clocks)
    halves = [range(0, BLOCKS, 2), range(1, BLOCKS, 2)]
    nothing, before, after, shifts = torch.zeros_like(clocks), [], [], []
    for own, other in (halves, halves[::-1]):
        fitted, _ = rays.refined(clocks, own)
        shifts.append(fitted[:, 0])
        costs = rays.compared(nothing, fitted, scale, other)
        before.append(costs[0])
        after.append(costs[1])
    offset = rays.middle - (1 + clocks[:, 1]) * (rays.middle - clocks[:, 0])
    estimate = Estimate("motion", offset, clocks[:, 1], sigma, rays.middle)
    apart = float((shifts[0] - shifts[1]).abs().max())
    return Verdict(estimate, sum(before) / 2, sum(after) / 2, apart, _penalised(rays, clocks, 1.0))


def _penalised(rays: Rays, clocks: Float[Tensor, "C 2"], scale: float) -> float:
    """Cost; few residuals left are as bad as large ones."""
    trial, full = rays.trial(clocks, scale), rays.trial(torch.zeros_like(clocks), scale).count
    return trial.cost + max(0.0, 0.5 - trial.count / max(full, 1))


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

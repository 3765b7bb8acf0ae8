"""All cameras' rays to one person's joints, and how far two cameras' rays are from meeting at given clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from studio.sync.person import Path2D, Sight

BLOCKS = 8
"""Parts of the take that are left out in turn to see how much the result depends on them."""
GOLDEN = 0.6180339887
"""Steps by this part of one (modulo one) fill it evenly from the first on."""


@dataclass(frozen=True)
class MotionConfig:
    """How clocks are found from motion."""

    reach: float = 30.0
    """Largest offset looked for, s."""
    placement: float = 0.004
    """How differently two views place a joint on the body, rad as seen from a camera; adds to the detections' sigma."""
    settle: float = 0.5
    """What stays the same for this long, s, before and after, is a landmark placed differently by two views, not a delay."""
    glide: float = 0.17
    """Half width of the smoothing that tells velocities, s; at least two and a half frames."""
    drift_ppm: float = 100.0
    """Standard deviation of a camera clock's drift."""
    instants: int = 1500
    """Moments compared."""
    run: float = 2.5
    """Length of the stretches that they are taken from where the take has more, s."""
    steps: int = 10
    """Newton steps."""


@dataclass(frozen=True)
class Trial:
    """What the rays say about one set of clocks."""

    cost: float
    """Mean robust cost, 0 (all meet) to 1 (none does)."""
    count: int
    """Residuals."""


Ray = tuple[Float[Tensor, "... K 3"], Float[Tensor, "... K"]]
"""Unit directions in the world, and their standard deviation, rad."""


class Rays:
    """All cameras' rays to one person."""

    def __init__(self, cameras: Cameras, paths: Sequence[Path2D], config: MotionConfig) -> None:
        self.cameras, self.config = cameras, config
        self.sights = [Sight.of(cameras[c], path, config.placement) for c, path in enumerate(paths)]
        self.gliding = [Sight.of(cameras[c], path, config.placement, config.glide) for c, path in enumerate(paths)]
        self.pairs = [(i, j) for i, j in combinations(range(len(paths)), 2)]
        self.step = min(p.step for p in paths)
        self.joints = paths[0].pixels.shape[1]
        self.look(torch.zeros(len(paths), 2, dtype=torch.float64))

    def look(self, clocks: Float[Tensor, "C 2"]) -> None:
        """Choose the moments that are compared: where two cameras at least record by these clocks (offset at own time zero, drift).

        They lie at every part of a frame alike: what a camera sees between two frames is less noisy than at a frame, which must not
        make one offset look better than another.
        """
        edges = [(float(s.times[0] + k[0]), float(s.times[-1] + k[0])) for s, k in zip(self.sights, clocks)]
        begin, end = sorted(e[0] for e in edges)[1], sorted(e[1] for e in edges)[-2]
        length, run, most = max(end - begin, self.step), self.config.run, self.config.instants
        spacing = max(self.step / 2, min(length / most, self.step))
        runs = 1 if length <= most * spacing else max(int(most * spacing / run), 1)
        starts = torch.linspace(begin, max(end - run, begin), runs).tolist() if runs > 1 else [begin]
        count = int((run if runs > 1 else length) / spacing) + 1
        k = torch.arange(count, dtype=torch.float64)
        self.moments = torch.cat([s + (k + (k + 0.37 * n) * GOLDEN % 1.0) * spacing for n, s in enumerate(starts)])
        self.run = torch.arange(runs).repeat_interleave(count)
        self.middle = float(self.moments.mean())
        self.block = torch.arange(len(self.moments)) * BLOCKS // len(self.moments)
        self.reach = max(round(self.config.settle / spacing), 2)

    def directions(self, c: int, own: Float[Tensor, "n"], sights: Sequence[Sight] | None = None) -> Ray:
        """Camera `c`'s rays at moments of its own time."""
        plane, angle = (self.sights if sights is None else sights)[c].at(own)
        d = torch.cat([plane, torch.ones_like(plane[..., :1])], -1)
        d = d / d.norm(dim=-1, keepdim=True)
        return d @ self.cameras.R_camera_world[c], angle

    def residual(self, i: int, j: int, one: Ray, two: Ray) -> Float[Tensor, "... K"]:
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

    def residuals(self, clocks: Float[Tensor, "C 2"]) -> Float[Tensor, "P n K"]:
        """Of every pair."""
        rays = [self.directions(c, self.own(clocks, c)) for c in range(len(self.sights))]
        return torch.stack([self.residual(i, j, rays[i], rays[j]) for i, j in self.pairs])

    def lively(self, values: Float[Tensor, "n K"], weight: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
        """The values less their weighted mean over the moments around each; zero where the weight is."""
        return values - self._around(values * weight) / self._around(weight).clamp_min(1e-9)

    def _around(self, x: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
        """Sum over the moments of the same stretch within `settle`."""
        total = torch.cat([torch.zeros_like(x[:1]), x.cumsum(0)])
        n = torch.arange(len(x))
        count = int((self.run == 0).sum())
        begin = self.run * count
        low = torch.maximum(n - self.reach, begin)
        high = torch.minimum(n + self.reach + 1, begin + count)
        return total[high] - total[low]

    def weighed(self, r: Float[Tensor, "n K"], good: Bool[Tensor, "n K"]) -> tuple[Float[Tensor, "n K"], Float[Tensor, "K"]]:
        """Each residual's robust weight, and each joint's standard deviation of what is lively of it; `r` is finite."""
        weight = good.double()
        scale = torch.ones(r.shape[1], dtype=torch.float64)
        for _ in range(3):
            e = torch.where(good, self.lively(r, weight), torch.nan)
            own = (1.48 * e.abs().nanmedian(0).values).nan_to_num(1.0)
            all_of_them = 1.48 * float(e[good].abs().median()) if bool(good.any()) else 1.0
            scale = (0.8 * own.square() + 0.2 * all_of_them**2).sqrt().clamp_min(1e-3)
            weight = torch.where(good, 1 / (1 + (e / (3 * scale)).square()).square(), 0.0)
        return weight, scale

    def trial(self, clocks: Float[Tensor, "C 2"], scale: float) -> Trial:
        """The robust cost."""
        r = self.residuals(clocks)
        r = r[torch.isfinite(r)]
        if not len(r):
            return Trial(1.0, 0)
        e = (r / (3 * scale)).square()
        return Trial(float((e / (1 + e)).mean()), len(r))

    def compared(self, one: Float[Tensor, "C 2"], other: Float[Tensor, "C 2"], blocks: Sequence[int]) -> tuple[float, float]:
        """The robust costs of what is lively under two sets of clocks where both can be judged."""
        part = torch.isin(self.block, torch.tensor(list(blocks)))
        r, s = self.residuals(one), self.residuals(other)
        both = torch.isfinite(r) & torch.isfinite(s) & (r.abs() < 30) & (s.abs() < 30)
        if not bool((both & part[:, None]).any()):
            return 1.0, 1.0
        r, s = (torch.stack([self.lively(p.nan_to_num(), w) for p, w in zip(x, both.double())]) for x in (r, s))
        used = both & part[:, None]
        scale = max(1.48 * float(s[used].abs().median()), 0.02)
        e, f = ((x[used] / (3 * scale)).square() for x in (r, s))
        return float((e / (1 + e)).mean()), float((f / (1 + f)).mean())

    def scale(self, clocks: Float[Tensor, "C 2"]) -> float:
        """Robust standard deviation of the residuals."""
        r = self.residuals(clocks)
        r = r[torch.isfinite(r)].abs()
        return max(1.48 * float(r.median()), 0.05) if len(r) else 1.0

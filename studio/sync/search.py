"""The search for clocks over whole frames: coarse over a large range, then every frame around what was found."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.sync.rays import Rays

COARSE = 0.1
"""Step of the coarse search, s: most motion of a body is slower than that."""
NEAR = 0.5
"""Range of the fine search about what the coarse one found, s."""
FAR = 0.03
"""How much the cost of the farthest offset is raised: motion that repeats is taken for the nearest repetition."""
Pairs = dict[tuple[int, int], Float[Tensor, "L"]]


def search(rays: Rays) -> Float[Tensor, "C 2"]:
    """The best clocks by whole frames, without drift."""
    stride = max(round(COARSE / rays.step), 1)
    longest = max(float(s.times[-1] - s.times[0]) for s in rays.sights)
    reach = round(min(rays.config.reach, 0.65 * longest) / (stride * rays.step))
    centre = torch.zeros(len(rays.sights), dtype=torch.long)
    centre = stride * _best(rays, _curves(rays, reach, stride, centre), reach)
    near = max(round(NEAR / rays.step), 1)
    best = centre + _best(rays, _curves(rays, near, 1, centre), near)
    clocks = torch.zeros(len(rays.sights), 2, dtype=torch.float64)
    clocks[:, 0] = (best - best[0]) * rays.step
    return clocks


def _best(rays: Rays, curves: Pairs, reach: int) -> Int[Tensor, "C"]:
    """The shifts, in the curves' steps, whose pairs cost least together."""
    sharp = sorted(rays.pairs, key=lambda p: float(curves[p].min() - curves[p].median()))
    starts = [torch.zeros(len(rays.sights), dtype=torch.long), _chained(rays, curves, sharp, reach)]
    return min((_descended(rays, curves, s, reach) for s in starts), key=lambda f: f[0])[1]


def _curves(rays: Rays, reach: int, stride: int, centre: Int[Tensor, "C"]) -> Pairs:
    """For every pair the cost of each lag of the second camera's shift behind the first's, -reach to reach strides about the centres'."""
    first = float(min(s.times[0] for s in rays.sights))
    last = float(max(s.times[-1] for s in rays.sights))
    count = int((last - first) / rays.step) + 1
    margin = reach * stride + int(centre.max() - centre.min())
    grid = first + torch.arange(-margin, count + margin, dtype=torch.float64) * rays.step
    seen_rays = [tuple(x.float() for x in rays.directions(c, grid)) for c in range(len(rays.sights))]
    cameras = rays.cameras
    rays.cameras = cameras.to(dtype=torch.float32)
    wanted = torch.linspace(margin, margin + count - 1, min(count, 300)).long()
    curves = {}
    for i, j in rays.pairs:
        one = (seen_rays[i][0][wanted], seen_rays[i][1][wanted])
        cost, seen = torch.ones(2 * reach + 1), torch.zeros(2 * reach + 1)
        for k in range(-reach, reach + 1):  # camera j's shift is so many frames: its own time is that much earlier
            index = wanted - int(centre[j] - centre[i]) - stride * k
            r = rays.residual(i, j, one, (seen_rays[j][0][index], seen_rays[j][1][index]))
            e = (r[torch.isfinite(r)] / 3).square()
            seen[k + reach] = len(e)
            if len(e):
                cost[k + reach] = (e / (1 + e)).mean() + FAR * abs(stride * k) * rays.step / rays.config.reach
        curves[i, j] = torch.where(seen >= 0.3 * seen.max().clamp_min(1), cost, 1.0)
    rays.cameras = cameras
    return curves


def _chained(rays: Rays, curves: Pairs, pairs: list[tuple[int, int]], reach: int) -> Int[Tensor, "C"]:
    """Cameras joined by their clearest pairs."""
    placed = {pairs[0][0]: 0}
    while len(placed) < len(rays.sights):
        i, j = next(p for p in pairs if (p[0] in placed) != (p[1] in placed))
        lag = int(curves[i, j].argmin()) - reach
        if i in placed:
            placed[j] = placed[i] + lag
        else:
            placed[i] = placed[j] - lag
    return torch.tensor([placed[c] for c in range(len(rays.sights))])


def _descended(rays: Rays, curves: Pairs, shifts: Int[Tensor, "C"], reach: int) -> tuple[float, Int[Tensor, "C"]]:
    """One camera at a time moved to where all its pairs agree best, until none moves; the total cost and the shifts."""
    shifts = shifts.clone()

    def cost(c: int, places: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        total = torch.zeros(len(places))
        for i, j in rays.pairs:
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

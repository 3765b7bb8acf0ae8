"""Clocks from motion without a calibration: a joint that is fast in one view is mostly fast in the others too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from studio.sync.estimate import Estimate
from studio.sync.person import Path2D


def by_speed(paths: Sequence[Path2D], reach: float = 2.0) -> Estimate:
    """Offsets of one person's views by the correlation of their joints' speeds, relative to the first camera; no drift.

    About half a frame is what it can do, as speed in an image depends on the direction of view.
    """
    C, step = len(paths), min(p.step for p in paths) / 2
    longest = max(float(p.times[-1]) for p in paths)
    signals = [_signal(p, torch.arange(0, longest + step / 2, step, dtype=torch.float64)) for p in paths]
    half = round(reach / step)
    rows, shifts, weights = [], [], []
    for i, j in combinations(range(C), 2):
        lag, clear = _lag(signals[i], signals[j], half)
        row = torch.zeros(C, dtype=torch.float64)
        row[i], row[j] = -1.0, 1.0
        rows.append(row)
        shifts.append(lag * step)
        weights.append(clear)
    A, b, w = torch.stack(rows), torch.tensor(shifts, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64).clamp_min(1e-3)
    start, offset = w.clone(), torch.zeros(C, dtype=torch.float64)
    for _ in range(15):  # pairs that contradict the others lose their say
        H = A.mT @ (w[:, None] * A)
        H[0, 0] += 1e6
        offset = torch.linalg.solve(H, A.mT @ (w * b))
        w = start / (1 + ((A @ offset - b) / (2 * step)).square())
    offset = offset - offset[0]
    off = (A @ offset - b).square()
    spread = ((w * off).sum() / w.sum()).sqrt()
    sigma = torch.full((C,), float(spread) + 0.5 * step, dtype=torch.float64)
    sigma[0] = 0
    return Estimate("speed", offset, torch.zeros(C, dtype=torch.float64), sigma, longest / 2, "correlation of speeds in the images")


def _signal(path: Path2D, grid: Float[Tensor, "n"]) -> Float[Tensor, "K n"]:
    """Each joint's speed on an even grid in units of its own median; NaN where not seen."""
    _, velocity = path.smoothed()
    speed = velocity.norm(dim=-1)
    speed = (speed / speed.nanmedian(0).values.clamp_min(1e-9)).clamp_max(20)
    low = (torch.searchsorted(path.times, grid, right=True) - 1).clamp(0, len(path.times) - 2)
    a = ((grid - path.times[low]) / (path.times[low + 1] - path.times[low]))[:, None]
    value = (1 - a) * speed[low] + a * speed[low + 1]
    return torch.where((a >= 0) & (a <= 1), value, torch.nan).mT


def _lag(one: Float[Tensor, "K n"], two: Float[Tensor, "K n"], half: int) -> tuple[float, float]:
    """Shift of the second against the first, steps, with a parabola's fraction, and its correlation above the median one."""
    n = one.shape[1]
    size = 1 << (2 * n).bit_length()
    a, b = torch.isfinite(one).double(), torch.isfinite(two).double()
    x, y = one.nan_to_num().double(), two.nan_to_num().double()

    def across(p: Tensor, q: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(p, size) * torch.fft.rfft(q, size).conj(), size)

    lags = torch.arange(-min(half, n - 1), min(half, n - 1) + 1)
    count, sx, sy, sxx, syy, sxy = (across(p, q)[:, lags % size] for p, q in ((a, b), (x, b), (a, y), (x * x, b), (a, y * y), (x, y)))
    c = count.clamp_min(1)
    covariance = sxy / c - sx * sy / c**2
    deviation = ((sxx / c - (sx / c) ** 2).clamp_min(1e-9) * (syy / c - (sy / c) ** 2).clamp_min(1e-9)).sqrt()
    # Few frames in common correlate by chance.
    r = torch.where(count > 0.5 * count.amax(1, keepdim=True).clamp_min(8), covariance / deviation, torch.nan).nanmean(0).nan_to_num(-1.0)
    best = int(r.argmax())
    fraction = 0.0
    if 0 < best < len(r) - 1:
        left, top, right = r[best - 1 : best + 2].tolist()
        fraction = 0.5 * (left - right) / min(left - 2 * top + right, -1e-12)
    return float(lags[best]) + max(-0.5, min(0.5, fraction)), float(r[best] - r.median())

"""Clocks from sound: cross-correlation with the phase transform, window after window along the take.

Knapp and Carter 1976. A clap is best, but any sound that all microphones hear will do. Sound needs 3 ms for a metre, which is a fifth of a
frame at 60 frames a second: the sigma allows for the cameras' unequal distances from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from studio import video
from studio.sync.estimate import Estimate, line

SPEED_OF_SOUND = 343.0


@dataclass(frozen=True)
class AudioConfig:
    """How sounds are compared."""

    reach: float = 10.0
    """Largest offset looked for, s."""
    window: float = 10.0
    """Length of the pieces compared, s."""
    windows: int = 12
    """Most pieces along the take."""
    rate: int = 16_000
    """Samples a second."""
    path: float = 1.0
    """Standard deviation of how much further the sound is from one camera than from another, m."""
    distinct: float = 1.4
    """A lag counts where its correlation is this many times the next best's."""
    drift_ppm: float = 100.0
    """Standard deviation of a camera clock's drift."""


def by_sound(videos: Mapping[str, Path], durations: Sequence[float], config: AudioConfig | None = None) -> Estimate:
    """Offsets and drifts of all videos with a sound like the first such video's; NaN for the others."""
    config, names = config or AudioConfig(), list(videos)
    C = len(names)
    offset, drift, sigma = (torch.full((C,), torch.nan, dtype=torch.float64) for _ in range(3))
    heard = [video.audio(videos[n], config.rate, 0.0, _stretch(config)) for n in names]
    master = next((c for c in range(C) if bool((heard[c][0].abs() > 1e-4).any())), None)
    if master is None:
        return Estimate("audio", offset, drift, sigma, remark="no video has sound")
    offset[master] = drift[master] = sigma[master] = 0.0
    middle = durations[master] / 2
    for c in range(C):
        if c == master or not len(heard[c][0]):
            continue
        coarse, _ = _shift(heard[master], heard[c], 0.0, config.reach, config.rate)
        times, shifts = _along(videos[names[master]], videos[names[c]], coarse, durations[master], config)
        if len(times):
            noise = 0.0005
            centre, slow, spread = line(times, shifts, noise, 1e-6 * config.drift_ppm)
            here = centre + slow * (middle - float(times.mean()))  # shift in the middle: master time less own time
            offset[c], drift[c] = middle - (1 + slow) * (middle - here), slow
            sigma[c] = (spread**2 + (config.path / SPEED_OF_SOUND) ** 2) ** 0.5
    told = [names[c] for c in range(C) if bool(torch.isfinite(offset[c]))]
    return Estimate("audio", offset, drift, sigma, middle, f"sound of {', '.join(told)}")


def _stretch(config: AudioConfig) -> float:
    return 6 * config.window


def _along(master: Path, other: Path, coarse: float, duration: float, config: AudioConfig) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Master times and shifts of the pieces in which the two sound alike, s."""
    count = max(1, min(config.windows, int(duration / config.window)))
    length = min(config.window, duration)
    times, shifts = [], []
    # Far from the start a drift has moved the lag: the search is wide enough for three of its standard deviations.
    near = 0.02 + 3e-6 * config.drift_ppm * duration
    for begin in torch.linspace(0, max(duration - length, 0), count).tolist():
        one = video.audio(master, config.rate, begin, begin + length)
        two = video.audio(other, config.rate, max(begin - coarse - near, 0), begin + length - coarse + near)
        if min(len(one[0]), len(two[0])) < config.rate // 4:
            continue
        lag, clear = _shift(one, two, coarse, near, config.rate)
        if clear >= config.distinct:
            times.append(begin + length / 2)
            shifts.append(lag)
    return torch.tensor(times, dtype=torch.float64), torch.tensor(shifts, dtype=torch.float64)


def _shift(
    one: tuple[Float[Tensor, "n"], int, float], two: tuple[Float[Tensor, "m"], int, float], about: float, reach: float, rate: int
) -> tuple[float, float]:
    """By how much the second recording's own time is behind the first's, s, and how many times the next best lag's correlation it has."""
    a, b = one[0].double(), two[0].double()
    size = 1 << (len(a) + len(b)).bit_length()
    A, B = torch.fft.rfft(a - a.mean(), size), torch.fft.rfft(b - b.mean(), size)
    cross = A * B.conj()
    power = cross.abs()
    frequency = torch.arange(len(cross)) * rate / size
    heard = (frequency > 80) & (frequency < 0.45 * rate)
    cross = torch.where(heard, cross / (power + 0.05 * power[heard].mean() + 1e-20), 0)
    correlation = torch.fft.irfft(cross, size)
    base = one[2] - two[2]  # master time less own time at lag zero
    centre, half = round((about - base) * rate), max(round(reach * rate), 8)
    lags = torch.arange(centre - half, centre + half + 1)
    lags = lags[(lags > -len(b)) & (lags < len(a))]
    if len(lags) < 3:
        return about, 0.0
    values = correlation[lags % size]
    best = int(values.argmax())
    rest = values[(lags - lags[best]).abs() > 0.005 * rate]
    clear = float(values[best] / rest.max().clamp_min(1e-12)) if len(rest) else 0.0
    fraction = 0.0
    if 0 < best < len(values) - 1:
        left, top, right = values[best - 1 : best + 2].tolist()
        fraction = 0.5 * (left - right) / min(left - 2 * top + right, -1e-12)
    return float(lags[best] + fraction) / rate + base, clear

"""Clocks from light: a flash, or the room's light switched on or off, seen by all cameras.

The image's mean brightness is linear in the light that fell on it, so the centre of gravity of the excess (of a flash) or of the
change (of a switch) lies at the event to a fraction of a frame wherever it falls on two exposures, or on two frames' rows of a rolling
shutter. An event within one exposure tells only the frame.
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

LONGEST = 0.2
"""What goes out again within this time, s, is a flash; a lamp that stays on longer was switched on."""
ONE_FRAME = 0.29
"""Standard deviation of an event known to a frame, in frames: 1 / sqrt(12)."""


@dataclass(frozen=True)
class Event:
    """A sudden change of light."""

    time: float
    """The camera's own time, s."""
    sigma: float
    """s."""
    kind: str
    """flash, on or off."""


def brightness(path: Path, frames: tuple[int, int] | None = None) -> Float[Tensor, "T"]:
    """Mean brightness of every frame, 0 to 255."""
    first, last = frames or (0, None)
    images = video.frames(path, first, last, size=(32, 32), gray=True)
    return torch.tensor([float(image.mean()) for _, image in images], dtype=torch.float64)


def events(level: Float[Tensor, "T"], times: Float[Tensor, "T"], smallest: float = 2.0, clear: float = 10.0) -> list[Event]:
    """Sudden changes of more than `smallest` grey levels and `clear` times the usual unrest, in order."""
    if len(level) < 8:
        return []
    change = level.diff()
    unrest = 1.48 * float(change.abs().median())
    limit, found, step = max(smallest, clear * unrest), [], float(times.diff().median())
    long = max(6, round(LONGEST / step))
    t = 0
    while t < len(change):
        if abs(float(change[t])) < limit:
            t += 1
            continue
        low, high = max(t - 2, 0), min(t + long, len(level) - 1)
        before, after = float(level[max(t - 5, 0) : t + 1].median()), float(level[high - 2 : high + 1].median())
        part, when = level[low : high + 1], times[low : high + 1]
        between = (when[1:] + when[:-1]) / 2  # so that a frame's time is its exposure's middle, whatever the rate and kind of change
        peak = float((part - before)[(part - before).abs().argmax()])
        if abs(after - before) > 0.5 * abs(peak):
            weight, at = part.diff() * (1 if after > before else -1), between
            kind = "on" if after > before else "off"
        else:
            weight, at, kind = (part - before) * (1 if peak > 0 else -1), when, "flash"
            if int((weight > 0.02 * abs(peak)).sum()) >= 4:  # long enough for its two ends to be told like switches
                ends = [(sign * weight.diff()).clamp_min(0) for sign in (1, -1)]
                middle = sum(float((e * between).sum() / e.sum()) for e in ends) / 2
                found.append(Event(middle, 0.04 * step, kind))
                t = high
                continue
        weight = torch.where(weight.abs() > max(3 * unrest, 0.02 * abs(peak)), weight, 0.0).clamp_min(0)
        share = float(weight.max() / weight.sum())
        sigma = step * (ONE_FRAME if share > 0.97 else 0.04)
        found.append(Event(float((weight * at).sum() / weight.sum()), sigma, kind))
        t = high
    return found


def by_flash(
    videos: Mapping[str, Path],
    own: Sequence[Float[Tensor, "T"]],
    drift_ppm: float = 100.0,
    levels: Sequence[Float[Tensor, "T"]] | None = None,
) -> Estimate:
    """Offsets and drifts of the videos that show the same changes of light as the first one that shows any; NaN for the others."""
    levels = levels if levels is not None else [brightness(v) for v in videos.values()]
    seen = [events(level, times[: len(level)]) for level, times in zip(levels, own)]
    C = len(seen)
    offset, drift, sigma = (torch.full((C,), torch.nan, dtype=torch.float64) for _ in range(3))
    master = next((c for c in range(C) if seen[c]), None)
    if master is None:
        return Estimate("flash", offset, drift, sigma, remark="no sudden change of light")
    offset[master] = drift[master] = sigma[master] = 0.0
    middle = float(own[master][-1]) / 2
    for c in range(C):
        if c == master or not seen[c]:
            continue
        step = float(own[c].diff().median())
        pairs = _matched(seen[master], seen[c], 1.5 * step)
        times = torch.tensor([a.time for a, _ in pairs], dtype=torch.float64)
        shifts = torch.tensor([a.time - b.time for a, b in pairs], dtype=torch.float64)
        noise = max(sum((a.sigma**2 + b.sigma**2) for a, b in pairs) / len(pairs), 1e-12) ** 0.5
        centre, slow, spread = line(times, shifts, noise, 1e-6 * drift_ppm)
        here = centre + slow * (middle - float(times.mean()))
        offset[c], drift[c], sigma[c] = middle - (1 + slow) * (middle - here), slow, spread
    return Estimate("flash", offset, drift, sigma, middle, f"{len(seen[master])} changes of light")


def _matched(one: list[Event], two: list[Event], near: float) -> list[tuple[Event, Event]]:
    """The events that fall together at the shift that brings most together; the nearest shift to zero among equals."""
    best: list[tuple[Event, Event]] = []
    shifts = sorted((a.time - b.time for a in one for b in two if a.kind == b.kind), key=abs)
    for shift in shifts:
        pairs = []
        for a in one:
            close = [b for b in two if b.kind == a.kind and abs(a.time - b.time - shift) < near]
            if close:
                pairs.append((a, min(close, key=lambda b: abs(a.time - b.time - shift))))
        if len(pairs) > len(best):
            best = pairs
    return best or [(one[0], two[0])]

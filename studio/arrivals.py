"""When frames of live sources were taken: from their own stamps and their arrivals, and which of them belong together."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float


def ascending(times: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """The times in order, at least 10 us apart, so that every frame has a time of its own."""
    steps = np.arange(len(times)) * 1e-5
    return np.maximum.accumulate(np.sort(times) - steps) + steps


def frame_times(frames: list[tuple[float | None, float]]) -> Float[np.ndarray, "T"]:
    """When frames were taken, s of `time.monotonic`, from each one's own stamp (s, any zero) and its arrival.

    A source's own clock is even, arrivals are late by what the network makes of it, never early. So the stamps are laid under the arrivals:
    as late as they can be with none after its arrival. Stamps that do not keep pace with this computer's clock (a guessed
    rate, to more than 1 %), or that do not ascend, are not believed, and arrivals count instead.
    """
    arrived = np.array([a for _, a in frames])
    if len(frames) < 3 or any(s is None for s, _ in frames):
        return arrived
    stamp = np.array([s for s, _ in frames], dtype=np.float64)
    order = np.sort(stamp)
    span = order[-1] - order[0]
    if span <= 0 or (np.diff(order) <= 0).any():
        return arrived
    rate = float(np.polyfit(stamp - stamp[0], arrived - arrived[0], 1)[0])
    if span >= 2 and abs(rate - 1) > 0.01:
        return arrived
    pace = rate if span >= 60 and abs(rate - 1) < 1e-3 else 1.0  # the drift of two clocks shows only over minutes
    return pace * stamp + float((arrived - pace * stamp).min())


def write_table(path: Path, times: Mapping[str, Float[np.ndarray, "T"]]) -> Path:
    """sync_index, cam_id, frame_time: one row for each frame; frames of one instant share an index. Read by `studio.sync.table`."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("sync_index", "cam_id", "frame_time"))
            writer.writerows((index, name, f"{moment:.6f}") for index, name, moment in instants(times))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary.replace(path)


def instants(times: Mapping[str, Float[np.ndarray, "T"]]) -> list[tuple[int, str, float]]:
    """(index of the instant, source, time) of every frame, instants in the order of time, no source twice in one.

    The source with the most frames sets the instants; each frame of another belongs to the nearest of them, if it lies within half the
    distance between two and no other frame of its source is nearer. A frame that belongs to none is an instant of its own.
    """
    leader = max(times, key=lambda name: len(times[name]))
    beat = times[leader]
    reach = float(np.median(np.diff(beat))) / 2 if len(beat) > 1 else np.inf
    rows = [(float(t), leader, float(t)) for t in beat]
    for name in (n for n in times if n != leader):
        near = beat[np.clip(np.searchsorted((beat[1:] + beat[:-1]) / 2, times[name]), 0, len(beat) - 1)]
        off = np.abs(times[name] - near)
        nearest = {float(n): i for i, n in sorted(enumerate(near), key=lambda pair: -off[pair[0]])}
        rows += [
            (float(near[i]) if off[i] <= reach and nearest[float(near[i])] == i else float(t), name, float(t))
            for i, t in enumerate(times[name])
        ]
    index = {moment: number for number, moment in enumerate(sorted({moment for moment, _, _ in rows}))}
    return sorted(((index[moment], name, t) for moment, name, t in rows), key=lambda row: (row[0], row[2]))

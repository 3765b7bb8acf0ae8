"""Clocks that others wrote down: a table of frame times, and the cameras' own timecode."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from studio import video
from studio.clock import CameraClock, Sync
from studio.sync.estimate import Estimate

COLUMNS = ("sync_index", "cam_id", "frame_time")


def read_table(path: Path, cameras: Sequence[str], frames: Mapping[str, int]) -> Sync:
    """The clocks in a CSV with the columns sync_index, cam_id, frame_time (s): one row for each frame of each video, in order.

    A `cam_id` is a camera's name or the number at its end. `frames` says how many frames each video has. `ValueError` names what is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of frame times; correct --table")
    rows: dict[str, list[float]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}: has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
        for number, row in enumerate(reader, 2):
            try:
                rows.setdefault(str(row["cam_id"]).strip(), []).append(float(row["frame_time"]))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: line {number}: frame_time {row['frame_time']!r} is not a number of seconds") from error
    times = {c: sorted(rows[_id(path, c, rows)]) for c in cameras}
    for c, found in times.items():
        if len(found) != frames[c]:
            raise ValueError(
                f"{path}: lists {len(found)} frames of camera {c!r}, whose video holds {frames[c]}; is it another recording's?"
            )
        if len(found) < 2 or any(b <= a for a, b in pairwise(found)):
            raise ValueError(f"{path}: the frame times of camera {c!r} do not ascend; every frame needs a time of its own")
    order = sorted(cameras, key=lambda c: times[c][0])
    reference = order[(len(order) - 1) // 2]
    zero = times[reference][0]
    clocks = {c: CameraClock(t[0] - zero, source="reference" if c == reference else "table") for c, t in times.items()}
    fps = (len(times[reference]) - 1) / (times[reference][-1] - zero)
    return Sync(reference, fps, clocks, frame_times={c: tuple(x - t[0] for x in t) for c, t in times.items()})


def _id(path: Path, camera: str, rows: Mapping[str, object]) -> str:
    """The table's name of a camera."""
    digits = re.search(r"(\d+)$", camera)
    wanted = [r for r in rows if r == camera] or [r for r in rows if digits and r.isdigit() and int(r) == int(digits[1])]
    if len(wanted) != 1:
        raise ValueError(f"{path}: no cam_id for camera {camera!r}; there are {sorted(rows)}")
    return wanted[0]


def by_timecode(videos: Mapping[str, Path], rates: Sequence[float]) -> Estimate:
    """Offsets by the timecodes in the videos, to a frame; NaN for videos without one."""
    C = len(videos)
    offset, sigma = (torch.full((C,), torch.nan, dtype=torch.float64) for _ in range(2))
    seconds = [seconds_of(video.timecode(v), rates[c]) for c, v in enumerate(videos.values())]
    known = [c for c in range(C) if seconds[c] is not None]
    if len(known) < 2:
        return Estimate("timecode", offset, torch.zeros(C, dtype=torch.float64), sigma, remark="no timecodes")
    for c in known:
        apart = (seconds[c] or 0.0) - (seconds[known[0]] or 0.0)
        offset[c] = (apart + 43_200) % 86_400 - 43_200  # over midnight
        sigma[c] = 0.0 if c == known[0] else 0.29 / rates[c]
    return Estimate("timecode", offset, torch.zeros(C, dtype=torch.float64), sigma, remark=f"timecodes of {len(known)} videos")


def seconds_of(code: str | None, rate: float) -> float | None:
    """Seconds since midnight of HH:MM:SS:FF, or of drop-frame HH:MM:SS;FF (SMPTE 12M: two numbers a minute skipped, not every tenth)."""
    match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)", code or "")
    if not match:
        return None
    h, m, s, n = (int(match[i]) for i in (1, 2, 3, 5))
    whole = round(rate)
    frame = ((h * 60 + m) * 60 + s) * whole + n
    if match[4] in ";.":
        minutes = 60 * h + m
        frame -= round(whole / 15) * (minutes - minutes // 10)
    return frame / rate

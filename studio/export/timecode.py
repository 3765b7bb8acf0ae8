"""Timecode: HH:MM:SS:FF to frames since midnight and back, SMPTE 12M; drop-frame where a `;` stands before the frames."""

from __future__ import annotations

import re

_FORM = re.compile(r"(\d\d):(\d\d):(\d\d)([:;])(\d\d\d?)")


def nominal(fps: float) -> int:
    """Frames that a timecode counts in a second: 30 at 29.97, 24 at 23.976."""
    return max(round(fps), 1)


def exact(fps: float) -> float:
    """The rate that is meant by 23.98, 23.976, 29.97 or 59.94: NTSC's, a thousandth slower than the whole number; others as they are."""
    return next((n * 1000 / 1001 for n in (24, 30, 48, 60, 120) if abs(fps - n * 1000 / 1001) < 0.005), fps)


def drops(timecode: str) -> bool:
    """Whether a timecode leaves out numbers so as to keep up with the clock."""
    return ";" in timecode


def frames(timecode: str, fps: float) -> int:
    """Number of the frame, counted from 00:00:00:00; a `ValueError` where the text is none or its frames exceed the rate."""
    found = _FORM.fullmatch(timecode)
    if not found:
        raise ValueError(f"timecode {timecode!r} is not HH:MM:SS:FF; correct it in take.yaml")
    h, m, s, f = (int(found[i]) for i in (1, 2, 3, 5))
    rate = nominal(fps)
    if f >= rate or s > 59 or m > 59:
        raise ValueError(f"timecode {timecode!r} does not exist at {fps:.6g} frames a second; correct it, or the rate, in take.yaml")
    count = ((h * 60 + m) * 60 + s) * rate + f
    lost = _dropped_a_minute(rate) if drops(timecode) else 0
    minutes = 60 * h + m
    return count - lost * (minutes - minutes // 10)


def text(frame: int, fps: float, drop: bool = False) -> str:
    """Timecode of a frame counted from 00:00:00:00, within a day."""
    rate = nominal(fps)
    lost = _dropped_a_minute(rate) if drop else 0
    ten = 600 * rate - 9 * lost
    frame %= 144 * ten
    if lost:
        tens, rest = divmod(frame, ten)
        frame += 9 * lost * tens + lost * max((rest - lost) // (60 * rate - lost), 0)
    seconds, f = divmod(frame, rate)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{';' if lost else ':'}{f:02d}"


def _dropped_a_minute(rate: int) -> int:
    """Numbers left out at the beginning of each minute but every tenth: two at 29.97, four at 59.94."""
    return 2 * rate // 30 if rate % 30 == 0 else 0

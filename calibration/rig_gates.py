"""Gates on what the board cannot tell of its rig: its size by the tape and by that of rooms, its cameras' names by an earlier rig."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from calibration.boards import BoardViews
from calibration.cameras import Cameras
from calibration.gates import Gate, verdict
from calibration.rotations import nearest_rotation

DISTANCE = (0.005, 0.02)
"""Error of a measured distance between cameras, as a part of it."""
SIZES = ((0.3, 25.0), (0.1, 60.0))
"""Distances between cameras, m, outside which to warn, and to fail."""
SQUARES = (0.004, 0.3)
"""Sides of a printed square, m, that are none outside."""


@dataclass(frozen=True)
class Distance:
    """A distance between two cameras' lenses, measured with a tape."""

    first: str
    second: str
    metres: float


def judge_scale(views: BoardViews, cameras: Cameras, checked: bool) -> Gate:
    """Whether sizes are those of a room: a square stated in the wrong unit makes them tenfold. `checked`: a tape tells less."""
    far, side = float(torch.pdist(cameras.position).max()), views.board.square
    (low, high), (least, most) = SIZES
    told = f"The cameras are up to {far:.2f} m apart by the stated square of {1000 * side:g} mm."
    if least <= far <= most and SQUARES[0] <= side <= SQUARES[1]:
        fine = low <= far <= high and checked
        told += "" if checked else " Nothing else tells whether that was measured rightly."
        remedy = "" if fine else "Measure one square with a ruler, and the distance of two cameras for --distance."
        return Gate("scale", "pass" if fine else "warn", far, most, told, remedy)
    return Gate("scale", "fail", far, most, f"{told} That is no room.", "Measure one square and state its unit (54mm, not 54cm).")


def judge_distance(stated: Distance, cameras: Cameras) -> Gate:
    """Whether two cameras are as far apart as the tape says."""
    found = float((cameras.position[cameras.index(stated.first)] - cameras.position[cameras.index(stated.second)]).norm())
    off = found / stated.metres - 1
    grade = verdict(abs(off), DISTANCE)
    sentence = f"{stated.first} to {stated.second} measures {found:.3f} m where the tape says {stated.metres:.3f} m ({100 * off:+.1f} %)."
    remedy = (
        "" if grade == "pass" else f"Measure the printed square again: it may be {1 / (1 + off):.3f} times what was stated; or the tape."
    )
    return Gate(f"distance {stated.first} {stated.second}", grade, off, DISTANCE[1], sentence, remedy)


def judge_names(cameras: Cameras, before: Cameras | None) -> list[Gate]:
    """Whether the rig looks like an earlier one, but for two exchanged cameras."""
    common = [n for n in cameras.names if before is not None and n in before.names]
    if before is None or len(common) < 3:
        return []
    now, then = cameras[common], before[common]
    extent = float(torch.pdist(then.position).max())
    same = _unlike(now, then) / extent
    best, pair = same, None
    for i in range(len(common)):
        for j in range(i):
            order = list(range(len(common)))
            order[i], order[j] = j, i
            if (off := _unlike(now[order], then) / extent) < 0.3 * best:
                best, pair = off, (common[j], common[i])
    if pair and same > 0.02:
        sentence = f"Against the earlier calibration {pair[0]} and {pair[1]} have changed places."
        return [
            Gate("names", "fail", same, 0.02, sentence, f"Exchange the video files of {pair[0]} and {pair[1]}, unless they were moved.")
        ]
    return [Gate("names", "pass", same, 0.02, "No two cameras have changed places since the earlier calibration.")]


def _unlike(a: Cameras, b: Cameras) -> float:
    """How far two rigs are from each other when laid upon each other, turned but not stretched, m: the root mean square distance of their
    cameras' centres and of points ahead and beside them, as far as the rig is wide. So a rig that looks the same mirrored is told too.
    """
    reach = float(torch.pdist(b.position).max())
    x, y = (torch.cat([c.position, *(c.position + reach * c.R_camera_world[:, i] for i in (0, 2))]) for c in (a, b))
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x @ nearest_rotation(y.mT @ x).mT - y).square().sum(1).mean().sqrt())

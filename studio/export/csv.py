"""CSV: points, one row per point and frame, `frame,time,name,x,y,z,sigma`, in the cameras' world frame (z up), metres, seconds;
and face weights, one row per frame, `frame,time` and a column per face shape."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import torch

from studio.export.points import Points
from studio.values import Motion

HEADER = "frame,time,name,x,y,z,sigma"


def write(path: Path, pieces: Iterable[Points]) -> Path:
    """Write named points, consecutive pieces one after the other; `frame` counts from the videos' first, `time` is frame / fps.

    Numbers have 6 decimals (1 um, 1 us). A point that is missing has no row; an unknown sigma is an empty cell.
    """
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", newline="") as file:
        file.write(HEADER + "\n")
        for points in pieces:
            _write_rows(file, points)
    temporary.replace(path)
    return path


def _write_rows(file: TextIO, points: Points) -> None:
    seen = torch.isfinite(points.position).all(-1).tolist()
    for frame, (places, sigmas, there) in enumerate(zip(points.position.tolist(), points.sigma.tolist(), seen), points.first_frame):
        start = f"{frame},{frame / points.fps:.6f}"
        file.writelines(
            f"{start},{name},{x:.6f},{y:.6f},{z:.6f},{sigma:.6f}\n"
            if sigma < float("inf")
            else f"{start},{name},{x:.6f},{y:.6f},{z:.6f},\n"
            for name, (x, y, z), sigma, known in zip(points.names, places, sigmas, there)
            if known
        )


def write_face(path: Path, motion: Motion, names: tuple[str, ...]) -> Path:
    """Write the weight of every face shape (0 neutral, 1 full), 6 decimals, one row per video frame."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", newline="") as file:
        file.write(",".join(("frame", "time", *names)) + "\n")
        for frame, weights in enumerate(motion.expression, motion.first_frame):
            file.write(",".join((f"{frame}", f"{frame / motion.fps:.6f}", *(f"{weight:.6f}" for weight in weights.tolist()))) + "\n")
    temporary.replace(path)
    return path

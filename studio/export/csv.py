"""CSV: one row per point and frame, `frame,time,name,x,y,z,sigma`; the cameras' world frame (z up), metres, seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from studio.export.points import Points

HEADER = "frame,time,name,x,y,z,sigma"


def write(path: Path, points: Points) -> Path:
    """Write named points: `frame` counts from the videos' first, `time` is frame / fps, numbers have 6 decimals (1 um, 1 us).

    A point that is missing has no row; an unknown sigma is an empty cell.
    """
    temporary = path.with_name(path.name + ".partial")
    seen = torch.isfinite(points.position).all(-1).tolist()
    with temporary.open("w", newline="") as file:
        file.write(HEADER + "\n")
        for t, (places, sigmas, there) in enumerate(zip(points.position.tolist(), points.sigma.tolist(), seen)):
            frame = points.first_frame + t
            start = f"{frame},{frame / points.fps:.6f}"
            file.writelines(
                f"{start},{name},{x:.6f},{y:.6f},{z:.6f},{sigma:.6f}\n"
                if sigma < float("inf")
                else f"{start},{name},{x:.6f},{y:.6f},{z:.6f},\n"
                for name, (x, y, z), sigma, known in zip(points.names, places, sigmas, there)
                if known
            )
    temporary.replace(path)
    return path

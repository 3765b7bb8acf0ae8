"""TRC, the marker file of OpenSim and Pose2Sim: metres; y up as OpenSim wants it, or the world's own z up."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from studio.export.animation import y_up
from studio.export.points import Points

Up = Literal["y", "z"]


def write(path: Path, points: Points, up: Up = "y") -> Path:
    """Write named points as markers; frame numbers are those of the videos, time is frame / fps.

    With `up="y"` the axes are those of the animation files beside it: (x, z, -y) of the world. A missing marker is an empty cell.
    """
    if up not in ("y", "z"):
        raise ValueError(f"{path}: up axis {up!r} is none of ['y', 'z']")
    position = y_up(points.position) if up == "y" else points.position
    T, N = position.shape[:2]
    rate = f"{points.fps:.10g}"
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{path.name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{T}\t{N}\tm\t{rate}\t{points.first_frame}\t{T}",
        "Frame#\tTime\t" + "\t\t\t".join(points.names),
        "\t\t" + "\t".join(f"{axis}{n + 1}" for n in range(N) for axis in "XYZ"),
        "",
    ]
    for t, row in enumerate(position.flatten(1).tolist()):
        frame = points.first_frame + t
        cells = "\t".join(f"{value:.6f}" if value == value else "" for value in row)
        lines.append(f"{frame}\t{frame / points.fps:.6f}\t{cells}")
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)
    return path

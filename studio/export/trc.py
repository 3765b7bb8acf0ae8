"""TRC, the marker file of OpenSim and Pose2Sim: metres; y up as OpenSim wants it, or the world's own z up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from studio.export.animation import y_up
from studio.export.points import Points

Up = Literal["y", "z"]


def write(path: Path, pieces: Iterable[Points], frames: int, up: Up = "y") -> Path:
    """Write named points as markers, `frames` frames in consecutive pieces; frame numbers are those of the videos, time is frame / fps.

    With `up="y"` the axes are those of the animation files beside it: (x, z, -y) of the world. A missing marker is an empty cell.
    """
    if up not in ("y", "z"):
        raise ValueError(f"{path}: up axis {up!r} is none of ['y', 'z']")
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w") as file:
        for number, points in enumerate(pieces):
            if not number:
                file.writelines(line + "\n" for line in _header(path.name, points, frames))
            position = y_up(points.position) if up == "y" else points.position
            for frame, row in enumerate(position.flatten(1).tolist(), points.first_frame):
                cells = "\t".join(f"{value:.6f}" if value == value else "" for value in row)
                file.write(f"{frame}\t{frame / points.fps:.6f}\t{cells}\n")
    temporary.replace(path)
    return path


def _header(name: str, first: Points, frames: int) -> list[str]:
    rate, N = f"{first.fps:.10g}", len(first.names)
    return [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{frames}\t{N}\tm\t{rate}\t{first.first_frame}\t{frames}",
        "Frame#\tTime\t" + "\t\t\t".join(first.names),
        "\t\t" + "\t".join(f"{axis}{n + 1}" for n in range(N) for axis in "XYZ"),
        "",
    ]

"""C3D, the marker file of motion laboratories: keypoints of the fitted body and joint centres. Millimetres, z up, the cameras' frame.

The residual of a marker is its standard deviation, in steps of half a millimetre; a marker without a position is invalid (-1), an
unknown sigma is 0, which the format reads as "not measured". Written by ezc3d; layout after the C3D user guide (c3d.org).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.export.points import Points

MILLIMETRES = 1000.0
STEP = 0.5
"""Unit of the residual, mm; the format keeps it in one byte."""
MOST_FRAMES = 65535
"""The format counts frames in 16 bits."""


def write(path: Path, tables: Iterable[Points]) -> Path:
    """Write tables of the same frames side by side as markers; frame numbers are those of the videos where 16 bits hold them."""
    ezc3d = library(path)
    listed = list(tables)
    frames, first = len(listed[0].position), listed[0].first_frame
    if frames > MOST_FRAMES:
        raise ValueError(f"{path}: C3D holds {MOST_FRAMES} frames and this take has {frames}; export fewer with `frames`")
    position = torch.cat([p.position for p in listed], 1) * MILLIMETRES
    sigma = torch.cat([p.sigma for p in listed], 1) * MILLIMETRES
    names = [name for p in listed for name in p.names]
    document = ezc3d.c3d()
    _describe(document, names, listed[0].fps)
    points = np.ones((4, len(names), frames))
    points[:3] = position.permute(2, 1, 0).double().numpy()
    document["data"]["points"] = points
    document["data"]["meta_points"] = {
        "residuals": _residuals(position, sigma)[None],
        "camera_masks": np.zeros((7, len(names), frames), dtype=bool),
    }
    document["header"]["points"]["first_frame"] = first if first + frames <= MOST_FRAMES else 0
    temporary = path.with_name(f"{path.stem}.partial.c3d")  # the library puts .c3d behind any other ending
    document.write(str(temporary))
    temporary.replace(path)
    return path


def library(path: Path) -> Any:
    """The package that writes these files; a `ModuleNotFoundError` names the extra that holds it."""
    try:
        import ezc3d
    except ImportError as error:
        raise ModuleNotFoundError(f"{path}: C3D needs the ezc3d package: pip install 'mocap-studio[c3d]'") from error
    return ezc3d


def _describe(document: Any, names: list[str], fps: float) -> None:
    point = document["parameters"]["POINT"]
    for field, value in (("RATE", [fps]), ("UNITS", ["mm"]), ("SCALE", [-STEP]), ("LABELS", names)):
        point[field]["value"] = value
    document.add_parameter("POINT", "DESCRIPTIONS", ["joint centre" if name[0].isupper() else "keypoint" for name in names])
    document.add_parameter("POINT", "X_SCREEN", "+X")
    document.add_parameter("POINT", "Y_SCREEN", "+Z")
    document.add_parameter("MANUFACTURER", "SOFTWARE", "mocap-studio")


def _residuals(position: torch.Tensor, sigma: torch.Tensor) -> np.ndarray:
    """(N, T) mm: the nearest step that the byte holds; half a step more, because the library cuts off what lies beyond a step."""
    steps = (torch.nan_to_num(sigma, 0.0, posinf=0.0) / STEP).round().clamp(0, 255)
    steps = torch.where(torch.isfinite(position).all(-1), (steps + 0.25) * STEP, -1.0)
    return steps.T.double().numpy()

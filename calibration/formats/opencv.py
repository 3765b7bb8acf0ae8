"""OpenCV's FileStorage names, in YAML or JSON; matrices as `!!opencv-matrix`, ROS mappings or nested lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, write_text
from calibration.formats.fields import MATRIX, posed, trimmed

FISHEYE = {"fisheye", "equidistant", "kannala_brandt", "true", "1"}


def _entries(source: Source) -> Iterator[Entry]:
    """Cameras of one file: the document itself, or mappings or a list within it or within its `cameras`."""
    document = source.document
    if not isinstance(document, dict):
        return
    if any(k in document for k in MATRIX):
        yield Entry(source.path, str(document.get("camera_name", document.get("name", source.path.stem))), document)
        return
    listed = document.get("cameras", document)
    named = listed.items() if isinstance(listed, dict) else enumerate(listed) if isinstance(listed, list) else ()
    for key, value in named:
        if isinstance(value, dict) and any(k in value for k in (*MATRIX, "distortion_coefficients", "dist_coeffs", "image_width")):
            yield Entry(source.path, str(value.get("camera_name", value.get("name", key))), value)


def known(source: Source) -> bool:
    """A folder of such files, or a file with at least one camera under OpenCV's names."""
    if source.syntax == "folder":
        return True
    return source.syntax in ("yaml", "json") and any(True for _ in _entries(source))


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """A camera has `camera_matrix`, `distortion_coefficients`, `image_width` and `image_height` (or `image_size`), and its pose.

    The pose is what `cv2.projectPoints` takes: `R` (matrix) or `rvec`, with `T` or `tvec`. `distortion_model: fisheye` (or
    equidistant) names the lens.
    """
    for file in source.document if source.syntax == "folder" else [source]:
        entries = list(_entries(file))
        if not entries:
            raise ValueError(f"{file.path}: holds no camera; it needs 'camera_matrix', or take the file out of the folder")
        for entry in entries:
            model = next((entry.values[k] for k in ("distortion_model", "camera_model", "fisheye") if k in entry.values), "")
            yield posed(entry, unit, "fisheye" if str(model).lower() in FISHEYE else "brown")


def write(cameras: Cameras, path: Path) -> None:
    """A FileStorage YAML with the list `cameras`, for `cv2.FileStorage` or this reader; lengths in metres."""

    def matrix(name: str, rows: list[list[float]]) -> str:
        data = ", ".join(repr(float(v)) for row in rows for v in row)
        head = f"      {name}: !!opencv-matrix\n         rows: {len(rows)}\n         cols: {len(rows[0])}\n"
        return f"{head}         dt: d\n         data: [ {data} ]"

    lines = ["%YAML:1.0", "---", "cameras:"]
    for c, name in enumerate(cameras.names):
        width, height = (f"{v:g}" for v in cameras.size[c].tolist())
        lines += [
            f"   -\n      name: {json.dumps(name, ensure_ascii=False)}",
            f"      image_width: {width}",
            f"      image_height: {height}",
        ]
        lines += [f"      distortion_model: {cameras.lens[c]}", matrix("camera_matrix", cameras.matrix[c].tolist())]
        lines += [matrix("distortion_coefficients", [trimmed(cameras, c)]), matrix("R", cameras.R_camera_world[c].tolist())]
        lines += [matrix("T", cameras.translation[c][:, None].tolist())]
    write_text(path, "\n".join(lines) + "\n")

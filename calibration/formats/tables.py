"""The TOML of aniposelib's `CameraGroup.dump`, which Pose2Sim, FreeMoCap and Caliscope share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, write_text
from calibration.formats.fields import posed, rodrigues, trimmed


def tables(source: Source) -> dict[str, Any]:
    """The tables that describe cameras: all but `metadata`, or those within `cameras`."""
    if source.syntax != "toml":
        return {}
    found = source.document.get("cameras", source.document)
    fields = {"matrix", "distortions", "rotation", "translation"}
    return {k: v for k, v in found.items() if isinstance(v, dict) and fields & set(v)} if isinstance(found, dict) else {}


def is_caliscope(source: Source) -> bool:
    """Cameras that carry their number, or stand within `cameras`."""
    found = tables(source)
    return any("cam_id" in t or "port" in t for t in found.values()) or ("cameras" in source.keys and bool(found))


def is_pose2sim(source: Source) -> bool:
    """Every camera says whether it is a fisheye."""
    found = tables(source).values()
    return bool(found) and all("fisheye" in t for t in found)


def is_freemocap(source: Source) -> bool:
    """The metadata speak of a Charuco board, a folder or a date."""
    metadata = source.document.get("metadata", {}) if tables(source) else {}
    return isinstance(metadata, dict) and any(k.startswith(("charuco", "path_to", "date_time")) for k in metadata)


def known(source: Source) -> bool:
    """Any TOML with tables of cameras."""
    return bool(tables(source))


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """`rotation` is a Rodrigues vector, or a matrix (older Caliscope); with `translation` it takes world points into the camera.

    `ignore = true` leaves a camera out.
    """
    for key, table in tables(source).items():
        number = table.get("cam_id", table.get("port", key if key.isdigit() else None))
        name = str(table.get("name", key if number is None else f"{'port' if 'port' in table else 'cam'}_{number}"))
        if not table.get("ignore", False):
            yield posed(Entry(source.path, name, table), unit, "fisheye" if table.get("fisheye", False) else "brown")


def write(cameras: Cameras, path: Path) -> None:
    """Pose2Sim's TOML, which aniposelib reads too (metres)."""
    if "fisheye" in cameras.lens:
        name = cameras.names[cameras.lens.index("fisheye")]
        raise ValueError(
            f"{path}: camera {name!r}: Pose2Sim undistorts every lens as Brown-Conrady, this one is a fisheye; write OpenCV (.yml)"
        )
    lines = []
    for c, name in enumerate(cameras.names):
        fields = {
            "name": name,
            "size": cameras.size[c].tolist(),
            "matrix": cameras.matrix[c].tolist(),
            "distortions": trimmed(cameras, c),
            "rotation": rodrigues(cameras, c),
            "translation": cameras.translation[c].tolist(),
            "fisheye": False,
        }
        quoted = json.dumps(name, ensure_ascii=False)
        lines += [f"[{quoted}]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items()), ""]
    write_text(path, "\n".join([*lines, "[metadata]", "adjusted = false", "error = 0.0", ""]))

"""Blender's cameras as JSON, the file of extras/blender_cameras.py, which exports them from and loads them into a scene.

Source of the projection: Blender's BKE_camera_params_compute_viewplane (source/blender/blenkernel/intern/camera.cc): the fitted side of
the image shows `sensor` mm at `lens` mm, shifts are parts of that side, and a vertical fit counts pixels in units of their width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, single, write_text
from calibration.formats.fields import GL_FROM_CV

FORMAT = "blender cameras"
SENSOR = 36.0
"""mm across the image: Blender's own default."""


def known(source: Source) -> bool:
    """JSON that names itself `blender cameras`."""
    return source.syntax == "json" and source.keys >= {"format", "cameras"} and source.document["format"] == FORMAT


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """Cameras by their object's name; Blender's world is the studio's (z up, right-handed), its unit `unit_scale` m.

    `matrix_world` takes a camera that looks along -z with y up into the world; a scale in it is ignored, as Blender does. Blender's lens
    is ideal: `distortion` (with `lens_model`) stands beside it where the file came from a calibration.
    """
    listed = source.document["cameras"]
    if not isinstance(listed, list):
        raise ValueError(f"{source.path}: field 'cameras' must be a list of cameras; export it with extras/blender_cameras.py")
    scale = Entry(source.path, "(scene)", {"unit_scale": source.document.get("unit_scale", 1.0)}).numbers("unit_scale", shapes=((1,),))
    for values in listed:
        if not isinstance(values, dict):
            raise ValueError(f"{source.path}: field 'cameras' must hold mappings; export it with extras/blender_cameras.py")
        yield _camera(Entry(source.path, str(values.get("name", "without name")), values), unit * float(scale))


def _camera(entry: Entry, unit: float) -> Cameras:
    if entry.values.get("type", "PERSP") != "PERSP":
        raise entry.error("type", f"is {entry.values['type']}; only perspective cameras can be read: set the camera's type to Perspective")
    size = entry.size("resolution")
    focal, centre = _pinhole(entry, size)
    T = entry.numbers("matrix_world", shapes=((4, 4),))
    R = T[:3, :3] / T[:3, :3].norm(dim=0).clamp_min(1e-12)
    lens = str(entry.values.get("lens_model", "brown"))
    return single(
        name=entry.camera,
        size=size,
        focal=focal,
        centre=centre,
        distortion=entry.distortion(lens, "distortion"),
        lens=lens,
        R_camera_world=GL_FROM_CV[:, None] * entry.rotation(R, "matrix_world").mT,
        position=T[:3, 3] * unit,
    )


def _pinhole(entry: Entry, size: Float[Tensor, "2"]) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Focal lengths and centre, px."""

    def number(field: str) -> Float[Tensor, ""]:
        return entry.numbers(field, shapes=((1,),))[0]

    def positive(field: str) -> Float[Tensor, ""]:
        return entry.focal(number(field)[None], field)[0]

    aspect = entry.numbers("pixel_aspect", shapes=((2,),)) if "pixel_aspect" in entry.values else torch.ones(2, dtype=torch.float64)
    if not bool((aspect > 0).all()):
        raise entry.error("pixel_aspect", f"must be two positive numbers, got {aspect.tolist()}")
    tall, fit = aspect[1] / aspect[0], str(entry.values.get("sensor_fit", "AUTO"))
    if fit not in ("AUTO", "HORIZONTAL", "VERTICAL"):
        raise entry.error("sensor_fit", f"is {fit!r}, none of AUTO, HORIZONTAL, VERTICAL")
    across = fit == "HORIZONTAL" or (fit == "AUTO" and bool(size[0] * aspect[0] >= size[1] * aspect[1]))
    side = size[0] if across else size[1] * tall
    fx = positive("lens") / positive("sensor_height" if fit == "VERTICAL" else "sensor_width") * side
    shift = torch.stack([-number("shift_x"), number("shift_y") / tall]) * side
    return torch.stack([fx, fx / tall]), size / 2 + shift - 0.5


def write(cameras: Cameras, path: Path) -> None:
    """A JSON file for `blender --python extras/blender_cameras.py -- load FILE`, and for this reader."""
    listed = [_fields(cameras, c) for c in range(len(cameras))]
    write_text(path, json.dumps({"format": FORMAT, "unit_scale": 1.0, "cameras": listed}, indent=1, ensure_ascii=False) + "\n")


def _fields(cameras: Cameras, c: int) -> dict[str, Any]:
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3], T[:3, 3] = (GL_FROM_CV[:, None] * cameras.R_camera_world[c]).mT, cameras.position[c]
    width, height = cameras.size[c].tolist()
    fx, fy = cameras.focal[c].tolist()
    tall = fx / fy
    off = cameras.centre[c] + 0.5 - cameras.size[c] / 2
    return {
        "name": cameras.names[c],
        "type": "PERSP",
        "resolution": [round(width), round(height)],
        "pixel_aspect": [max(1.0, 1 / tall), max(1.0, tall)],  # Blender takes none below 1
        "sensor_fit": "HORIZONTAL",
        "sensor_width": SENSOR,
        "sensor_height": SENSOR * height / width,
        "lens": fx / width * SENSOR,
        "shift_x": -float(off[0]) / width,
        "shift_y": float(off[1]) / width * tall,
        "matrix_world": T.tolist(),
        "lens_model": cameras.lens[c],
        "distortion": cameras.distortion[c].tolist()[: 4 if cameras.lens[c] == "fisheye" else 8],
    }

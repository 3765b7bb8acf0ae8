"""Qualisys' calibration export (.qca.txt)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, single
from calibration.formats.fields import GL_FROM_CV


def known(source: Source) -> bool:
    """XML with `cameras/camera` in small letters."""
    return source.syntax == "xml" and source.document.find("cameras/camera") is not None


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """Focal length and centre in 1/64 px of the whole sensor, position in mm, world z up.

    The matrix r11..r33 turns world into a camera that looks along -z with y up, so two rows change sign. `fov_video` is the part of
    the sensor that is filmed. The distortion coefficients need no factor: checkerboard images calibrated with OpenCV give the same ones.
    """
    for tag in source.document.iterfind("cameras/camera"):
        if tag.get("active", "1") == "0" or tag.get("calibrated", "true") == "false":
            continue
        values = {
            k: v for part in ("transform", "intrinsic") for k, v in (tag.find(part).attrib if tag.find(part) is not None else {}).items()
        }
        fov = tag.find("fov_video")
        values |= {f"fov_video {k}": v for k, v in (fov.attrib if fov is not None else {}).items()}
        yield _camera(Entry(source.path, str(tag.get("serial", "without serial")), values), unit)


def _camera(entry: Entry, unit: float) -> Cameras:
    def row(*names: str) -> Float[Tensor, "n"]:
        return torch.cat([entry.numbers(name, shapes=((1,),)) for name in names])

    corner = row("fov_video left", "fov_video top")
    size = row("fov_video right", "fov_video bottom") - corner + 1
    if not bool((size > 0).all()):
        raise entry.error("fov_video", f"leaves an image of {size.tolist()} px; export the calibration again")
    R = entry.rotation(row(*(f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3))).view(3, 3), "transform")
    tangential = [f"tangental{n}" if f"tangental{n}" in entry.values else f"tangential{n}" for n in ("Distortion1", "Distortion2")]
    k = row("radialDistortion1", "radialDistortion2", *tangential, "radialDistortion3")
    return single(
        name=entry.camera,
        size=size,
        focal=entry.focal(row("focalLengthU", "focalLengthV") / 64, "focalLengthU"),
        centre=row("centerPointU", "centerPointV") / 64 - corner,
        distortion=torch.nn.functional.pad(k, (0, 3)),
        lens="brown",
        R_camera_world=GL_FROM_CV[:, None] * R,
        position=row("x", "y", "z") * unit,
    )

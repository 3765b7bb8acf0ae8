"""OptiTrack Motive's calibration (.mcal, Motive 3.2 and later)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, single
from calibration.formats.fields import GL_FROM_CV

Z_UP_FROM_Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)


def known(source: Source) -> bool:
    """XML with a `Camera` that has `Extrinsic` or Motive's own `Intrinsic`."""
    return source.syntax == "xml" and bool(_tags(source))


def _tags(source: Source) -> list[Any]:
    return [t for t in source.document.iter("Camera") if t.find("Extrinsic") is not None or t.find("Intrinsic") is not None]


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """Cameras named by their serial, the world turned from Motive's y up to z up: (x, y, z) becomes (x, -z, y); metres.

    X Y Z is the camera's place and OrientMatrix0..8 (by rows) turns a camera that looks along -z with y up into the world. Only
    `IntrinsicStandardCameraModel` is read, whose k1 k2 k3 TangentialX TangentialY are OpenCV's k1 k2 k3 p1 p2; `Intrinsic` is Motive's
    own lens, which is not published. Source: docs.optitrack.com, ".mcal XML Calibration Files"; which way the matrix turns and the order
    of the coefficients as public readers of such files found by projecting markers into Prime Color footage.
    """
    for tag in _tags(source):
        name = tag.get("Serial") or _attributes(tag, "Properties").get("CameraID") or "without serial"
        outer = Entry(source.path, name, {c.tag: c for c in tag})
        if tag.find("IntrinsicStandardCameraModel") is None:
            raise outer.error(
                "IntrinsicStandardCameraModel",
                "is missing, and Motive's own lens is not published; export the .mcal with Motive 3.2 or later",
            )
        parts = ("Attributes", "IntrinsicStandardCameraModel", "Extrinsic")
        yield _camera(Entry(source.path, name, {k: v for part in parts for k, v in _attributes(tag, part).items()}), unit)


def _attributes(tag: Any, part: str) -> dict[str, str]:
    found = tag.find(part)
    return dict(found.attrib) if found is not None else {}


def _camera(entry: Entry, unit: float) -> Cameras:
    def row(*names: str) -> Float[Tensor, "n"]:
        return torch.cat([entry.numbers(name, shapes=((1,),)) for name in names])

    R_world_camera = entry.rotation(row(*(f"OrientMatrix{i}" for i in range(9))).view(3, 3), "OrientMatrix0")
    return single(
        name=entry.camera,
        size=row("ImagerPixelWidth", "ImagerPixelHeight"),
        focal=entry.focal(row("HorizontalFocalLength", "VerticalFocalLength"), "HorizontalFocalLength"),
        centre=row("LensCenterX", "LensCenterY"),
        distortion=torch.nn.functional.pad(row("k1", "k2", "TangentialX", "TangentialY", "k3"), (0, 3)),
        lens="brown",
        R_camera_world=GL_FROM_CV[:, None] * R_world_camera.mT @ Z_UP_FROM_Y_UP.mT,
        position=Z_UP_FROM_Y_UP @ (row("X", "Y", "Z") * unit),
    )

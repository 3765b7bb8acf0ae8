"""XRMoCap's and XRPrimer's camera parameters: one JSON file a camera (`fisheye_param_00.json` ...), alone or in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, single, write_text
from calibration.formats.fields import image_size, pinhole

CLASSES = ("FisheyeCameraParameter", "PinholeCameraParameter")
COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")


def _documents(source: Source) -> list[Source]:
    return source.document if source.syntax == "folder" else [source]


def known(source: Source) -> bool:
    """JSON with `class_name` of XRPrimer, or with its `extrinsic_r`."""
    return source.syntax in ("json", "folder") and any(
        f.syntax == "json" and ({"class_name", "intrinsic"} <= f.keys or {"extrinsic_r", "extrinsic_t"} <= f.keys)
        for f in _documents(source)
    )


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """Cameras named by `name`, or by their file where that is missing or `default`; the world is as in the file.

    `intrinsic` is 3x3 or 4x4, of which the first two rows count. `extrinsic_r` and `extrinsic_t` take world into camera where
    `world2cam` is true, camera into world where it is false. Despite the class's name the lens is OpenCV's k1 k2 p1 p2 k3 k4 k5 k6, as
    XRPrimer's OpencvProjector hands it to `cv2.projectPoints`. Source: openxrlab/xrprimer, docs/en/data_structure/camera.md,
    cpp data_structure/camera and python ops/projection.
    """
    for file in _documents(source):
        values = file.document if isinstance(file.document, dict) else {}
        name = str(values.get("name") or "default")
        entry = Entry(file.path, file.path.stem if name == "default" else name, values)
        if values.get("class_name", CLASSES[0]) not in CLASSES:
            raise entry.error(
                "class_name", f"is {values['class_name']!r}, none of {', '.join(CLASSES)}; export a pinhole or fisheye camera"
            )
        if values.get("convention", "opencv") != "opencv":
            raise entry.error(
                "convention", f"is {values['convention']!r}; convert it with XRPrimer's convert_camera_parameter(dst='opencv')"
            )
        yield _camera(entry, unit)


def _camera(entry: Entry, unit: float) -> Cameras:
    K = pinhole(entry, entry.numbers("intrinsic", shapes=((3, 3), (4, 4))), "intrinsic")
    R = entry.rotation(entry.numbers("extrinsic_r", shapes=((3, 3),)), "extrinsic_r")
    t = entry.numbers("extrinsic_t", shapes=((3,),)) * unit
    inward = entry.values.get("world2cam")
    if not isinstance(inward, bool):
        raise entry.error("world2cam", "must be true (R, T take world into camera) or false (the other way); add it")
    k = [entry.numbers(f, shapes=((1,),)) if f in entry.values else torch.zeros(1, dtype=torch.float64) for f in COEFFICIENTS]
    return single(
        name=entry.camera,
        size=image_size(entry),
        focal=entry.focal(K[[0, 1], [0, 1]], "intrinsic"),
        centre=K[:2, 2],
        distortion=torch.cat(k),
        lens="brown",
        R_camera_world=R if inward else R.mT,
        position=-R.mT @ t if inward else t,
    )


def write(cameras: Cameras, path: Path) -> None:
    """A folder with `fisheye_param_00.json` and so on, world2cam, metres."""
    for c, name in enumerate(cameras.names):
        if cameras.lens[c] == "fisheye":
            raise ValueError(f"{path}: camera {name!r}: XRMoCap's lens is Brown-Conrady, this one is a fisheye; write OpenCV (.yml)")
    if path.is_file():
        raise ValueError(f"{path}: is a file; XRMoCap's cameras are a folder of files, name one")
    files = [path / f"fisheye_param_{c:02d}.json" for c in range(len(cameras))]
    if path.is_dir() and (others := sorted(set(path.glob("*.json")) - set(files))):
        raise ValueError(f"{path}: holds {others[0].name}, which would be read as another camera; choose an empty folder")
    path.mkdir(parents=True, exist_ok=True)
    for c, file in enumerate(files):
        write_text(file, json.dumps(_fields(cameras, c), indent=1, ensure_ascii=False) + "\n")


def _fields(cameras: Cameras, c: int) -> dict[str, Any]:
    K = torch.zeros(4, 4, dtype=torch.float64)
    K[:2, :3], K[2, 3], K[3, 2] = cameras.matrix[c, :2], 1, 1  # XRPrimer's perspective 4x4
    width, height = (round(v) for v in cameras.size[c].tolist())
    return {
        "class_name": CLASSES[0],
        "convention": "opencv",
        "world2cam": True,
        "name": cameras.names[c],
        "width": width,
        "height": height,
        "intrinsic": K.tolist(),
        "extrinsic_r": cameras.R_camera_world[c].tolist(),
        "extrinsic_t": cameras.translation[c].tolist(),
        **dict(zip(COEFFICIENTS, cameras.distortion[c].tolist())),
    }

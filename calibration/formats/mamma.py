"""MAMMA's calibration: JSON or YAML of a rig, or a folder of one npz a camera. Source: cuevhv/mamma, capture/loaders and run_ma_cap.py."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, single, write_text
from calibration.formats.fields import pinhole, quaternion
from calibration.formats.vicon import inverse_radial

LENSES = {"radtan": 4, "opencv_brown": 5, "vicon_radial_2": 5}
"""Coefficients of each `distortion_model`: k1 k2 p1 p2 (k3), or Vicon's cx cy k1 k2 k3."""
MARKS = ("extrinsics_matrix", "princpt", "rotation_quaternion")


def _listed(source: Source) -> Mapping[str, Any]:
    """Cameras by name: of the document, of its `cameras`, or of its first sequence."""
    document = source.document if isinstance(source.document, dict) else {}
    for listed in (document, document.get("cameras"), *document.values()):
        if isinstance(listed, dict) and any(isinstance(v, dict) and any(m in v for m in MARKS) for v in listed.values()):
            return listed
    return {}


def known(source: Source) -> bool:
    """npz, or a mapping of cameras with an `extrinsics_matrix`, a `princpt` or a `rotation_quaternion`."""
    return source.syntax == "npz" or (source.syntax in ("json", "yaml") and bool(_listed(source)))


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """Cameras in the file's own world (MAMMA takes any axis as up); metres, camera y down, looking along z.

    The lens `vicon_radial_2` holds the numbers of Vicon's file and is read as Vicon means them, from what is seen to the ideal; MAMMA's
    own undistortion runs them the other way.
    """
    if source.syntax == "npz":
        for path in source.document:
            yield _of_npz(path, unit)
        return
    shared = source.document if isinstance(source.document, dict) else {}
    for name, values in _listed(source).items():
        if not isinstance(values, dict):
            raise ValueError(f"{source.path}: camera {name!r}: needs a mapping with the fields of a camera")
        entry = Entry(source.path, str(name), values)
        if "extrinsics_matrix" in values:
            yield _of_matrix(entry, unit)
        elif "princpt" in values:
            yield _of_legacy(entry, unit)
        else:
            yield _of_quaternion(entry, shared, unit)


def _of_matrix(entry: Entry, unit: float) -> Cameras:
    """`intrinsic_matrix`, `distortions` (k1 k2 p1 p2 k3), `extrinsics_matrix` 3x4 from world into camera, `image_size`."""
    K = entry.numbers("intrinsic_matrix", shapes=((3, 3),))
    Rt = entry.numbers("extrinsics_matrix", shapes=((3, 4), (4, 4)))
    return _camera(entry, "image_size", K, "intrinsic_matrix", Rt, "extrinsics_matrix", "opencv_brown", "distortions", unit)


def _of_legacy(entry: Entry, unit: float) -> Cameras:
    """`focal`, `princpt`, `rotation` from world into camera, `position` in the world, `sensor_size`; `vicon_radial_2` or no distortion."""
    focal, centre = entry.numbers("focal", shapes=((1,), (2,))).expand(2), entry.numbers("princpt", shapes=((2,),))
    K = torch.cat([torch.diag(focal), centre[:, None]], -1)
    R = entry.numbers("rotation", shapes=((3, 3),))
    Rt = torch.cat([R, -R @ entry.numbers("position", shapes=((3,),))[:, None]], -1)
    model = "vicon_radial_2" if entry.values.get("vicon_radial_2") is not None else "none"
    return _camera(entry, "sensor_size", K, "focal", Rt, "rotation", model, "vicon_radial_2", unit)


def _of_quaternion(entry: Entry, shared: Mapping[str, Any], unit: float) -> Cameras:
    """The YAML: `intrinsics` fx fy cx cy, `rotation_quaternion` (scalar first) and `translation` as `extrinsics_convention` says."""
    if entry.values.get("camera_model", "pinhole") != "pinhole":
        raise entry.error("camera_model", f"is {entry.values['camera_model']!r}, not pinhole; calibrate with a pinhole lens")
    fx, fy, cx, cy = entry.numbers("intrinsics", shapes=((4,),))
    K = torch.stack([torch.stack([fx, 0 * fx, cx]), torch.stack([0 * fx, fy, cy])])
    q = entry.numbers("rotation_quaternion", shapes=((4,),))
    order, way = str(shared.get("quaternion_order", "wxyz")), str(shared.get("extrinsics_convention", "cam2world"))
    if order not in ("wxyz", "xyzw") or way not in ("cam2world", "world2cam"):
        raise entry.error(
            "extrinsics_convention", f"is {way!r}, with quaternion_order {order!r}; write cam2world or world2cam, wxyz or xyzw"
        )
    R = quaternion(entry, q if order == "xyzw" else q[[1, 2, 3, 0]], "rotation_quaternion")
    t = entry.numbers("translation", shapes=((3,),))[:, None]
    Rt = torch.cat([R, t] if way == "world2cam" else [R.mT, -R.mT @ t], -1)
    model = str(entry.values.get("distortion_model", "radtan"))
    return _camera(entry, "resolution", K, "intrinsics", Rt, "rotation_quaternion", model, "distortion_coeffs", unit)


def _of_npz(path: Path, unit: float) -> Cameras:
    """`cam_int` 3x3, `cam_ext` 4x4 from world into camera, `cam_img_w`, `cam_img_h`, `distortion_model` and `distortion_coeffs`."""
    wanted = ("cam_name", "cam_int", "cam_ext", "cam_img_w", "cam_img_h", "distortion_model", "distortion_coeffs")
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {k: file[k] for k in wanted if k in file.files}
            values |= _vicon_only(file) if "distortion_model" not in values else {}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not a readable npz ({error}); export it again with MAMMA's run_ma_cap.py") from error
    entry = Entry(path, str(values.get("cam_name", path.stem)), values)
    K, Rt = entry.numbers("cam_int", shapes=((3, 3),)), entry.numbers("cam_ext", shapes=((4, 4),))
    size = torch.cat([entry.numbers(f, shapes=((1,),)) for f in ("cam_img_w", "cam_img_h")])
    entry = Entry(path, entry.camera, {**values, "size": size.numpy()})
    model = str(values.get("distortion_model", "none"))
    return _camera(entry, "size", K, "cam_int", Rt, "cam_ext", model, "distortion_coeffs", unit)


def _vicon_only(file: Any) -> dict[str, Any]:
    """The lens of files from before `distortion_model`: five numbers of Vicon, or a pickled None that says there is no distortion."""
    try:
        given = file["vicon_radial_2"] if "vicon_radial_2" in file.files else None
    except ValueError:  # an object array: never unpickled
        given = None
    return {} if given is None else {"distortion_model": "vicon_radial_2", "distortion_coeffs": given}


def _camera(
    entry: Entry,
    size_field: str,
    K: Float[Tensor, "r 3"],
    K_field: str,
    Rt: Float[Tensor, "r 4"],
    Rt_field: str,
    model: str,
    lens_field: str,
    unit: float,
) -> Cameras:
    size, K, R = entry.size(size_field), pinhole(entry, K, K_field), entry.rotation(Rt[:3, :3], Rt_field)
    focal, centre = entry.focal(K[[0, 1], [0, 1]], K_field), K[:2, 2]
    if model not in (*LENSES, "none"):
        raise entry.error("distortion_model", f"is {model!r}, none of {', '.join(LENSES)}; calibrate with one of those")
    k = torch.zeros(8, dtype=torch.float64)
    if model == "vicon_radial_2":
        five = entry.numbers(lens_field, shapes=((5,),))
        k = inverse_radial(entry, lens_field, size, focal, centre, five[:2], five[2:])
    elif model != "none":
        k = torch.nn.functional.pad(entry.numbers(lens_field, shapes=((LENSES[model],),)), (0, 8 - LENSES[model]))
    return single(entry.camera, size, focal, centre, k, "brown", R, -R.mT @ (Rt[:3, 3] * unit))


def write(cameras: Cameras, path: Path) -> None:
    """MAMMA's flat JSON: OpenCV's matrices by camera, five coefficients, metres."""
    listed = {}
    for c, name in enumerate(cameras.names):
        if cameras.lens[c] == "fisheye" or bool(cameras.distortion[c, 5:].any()):
            what = "a fisheye" if cameras.lens[c] == "fisheye" else "one with k4, k5 or k6"
            raise ValueError(f"{path}: camera {name!r}: MAMMA's lens is k1 k2 p1 p2 k3, this is {what}; write OpenCV (.yml)")
        listed[name] = {
            "camera_name": name,
            "image_size": [round(v) for v in cameras.size[c].tolist()],
            "intrinsic_matrix": cameras.matrix[c].tolist(),
            "distortions": cameras.distortion[c, :5].tolist(),
            "extrinsics_matrix": torch.cat([cameras.R_camera_world[c], cameras.translation[c][:, None]], -1).tolist(),
        }
    write_text(path, json.dumps(listed, indent=1, ensure_ascii=False) + "\n")

"""Vicon's calibration (.xcp), and its radial lens, which maps the other way round than OpenCV's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.camera_file import Entry, Source
from calibration.cameras import Cameras, single
from calibration.formats.fields import quaternion

TOLERANCE = 0.01
"""px: how far the lens that stands in for Vicon's may be from it anywhere in the image."""


def known(source: Source) -> bool:
    """XML whose root `Cameras` holds `Camera` with `KeyFrames`."""
    return source.syntax == "xml" and source.document.tag == "Cameras" and source.document.find("Camera/KeyFrames") is not None


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """The video cameras; where none is marked as video, all that are calibrated. Named by NAME, or else by DEVICEID.

    ORIENTATION is a quaternion, scalar last, that turns world into a camera that looks along +z with y down; POSITION is the camera's
    place in mm; FOCAL_LENGTH and PRINCIPAL_POINT are px, the vertical focal length divided by PIXEL_ASPECT_RATIO. The world is z up, as
    Vicon's volume origin, and is kept. Sources: Vicon CaraPost Reference, "About calibration data (XCP) files"
    (documentation.vicon.com); for axes and aspect the readers of cuevhv/mamma (capture/loaders/xcp_loader.py) and of Pose2Sim.
    """
    tags = [t for t in source.document.iterfind("Camera") if t.find("KeyFrames/KeyFrame") is not None]
    for tag in [t for t in tags if _is_video(t)] or tags:
        frames = tag.findall("KeyFrames/KeyFrame")
        entry = Entry(source.path, tag.get("NAME") or tag.get("DEVICEID") or "without name", {**tag.attrib, **frames[0].attrib})
        if len(frames) > 1:
            raise entry.error(
                "KeyFrames", f"holds {len(frames)} poses, so this camera moves; calibrate it standing still, or delete all but one"
            )
        yield _camera(entry, unit)


def _is_video(tag: Any) -> bool:
    kinds = f"{tag.get('TYPE', '')} {tag.get('DISPLAY_TYPE', '')}".lower()
    return tag.get("ISDV") == "2" or "video" in kinds or "vue" in kinds


def _camera(entry: Entry, unit: float) -> Cameras:
    if entry.values.get("SKEW") and float(_numbers(entry, "SKEW", 1)) != 0:
        raise entry.error("SKEW", f"is {entry.values['SKEW']}, which no lens here has; calibrate without skew")
    aspect = float(_numbers(entry, "PIXEL_ASPECT_RATIO", 1)) if entry.values.get("PIXEL_ASPECT_RATIO") else 1.0
    focal = _numbers(entry, "FOCAL_LENGTH", 1)
    focal = entry.focal(torch.cat([focal, focal / aspect]), "FOCAL_LENGTH")
    size, centre = _numbers(entry, "SENSOR_SIZE", 2), _numbers(entry, "PRINCIPAL_POINT", 2)
    return single(
        name=entry.camera,
        size=size,
        focal=focal,
        centre=centre,
        distortion=_distortion(entry, size, focal, centre),
        lens="brown",
        R_camera_world=quaternion(entry, _numbers(entry, "ORIENTATION", 4), "ORIENTATION"),
        position=_numbers(entry, "POSITION", 3) * unit,
    )


def _numbers(entry: Entry, field: str, count: int) -> Float[Tensor, "n"]:
    split = Entry(entry.path, entry.camera, {field: str(entry.values[entry.named(field)]).split()})
    return split.numbers(field, shapes=((count,),))


def _distortion(entry: Entry, size: Float[Tensor, "2"], focal: Float[Tensor, "2"], centre: Float[Tensor, "2"]) -> Float[Tensor, "8"]:
    """VICON_RADIAL2 `Vicon3Parameter cx cy k1 k2 k3`, or the older VICON_RADIAL `k1 k2`, in powers of 1/px."""
    given = str(entry.values.get("VICON_RADIAL2") or "").split()
    if not given:
        if not entry.values.get("VICON_RADIAL"):
            return torch.zeros(8, dtype=torch.float64)
        radial = torch.cat([_numbers(entry, "VICON_RADIAL", 2), torch.zeros(1, dtype=torch.float64)])
        return inverse_radial(entry, "VICON_RADIAL", size, focal, centre, centre, radial)
    if given[0] not in ("Vicon3Parameter", "ViconRadial2"):
        raise entry.error("VICON_RADIAL2", f"names the lens {given[0]!r}; only Vicon3Parameter is known: export undistorted video")
    five = Entry(entry.path, entry.camera, {"VICON_RADIAL2": given[1:]}).numbers("VICON_RADIAL2", shapes=((5,),))
    return inverse_radial(entry, "VICON_RADIAL2", size, focal, centre, five[:2], five[2:])


def inverse_radial(
    entry: Entry,
    field: str,
    size: Float[Tensor, "2"],
    focal: Float[Tensor, "2"],
    centre: Float[Tensor, "2"],
    middle: Float[Tensor, "2"],
    radial: Float[Tensor, "3"],
) -> Float[Tensor, "8"]:
    """OpenCV's coefficients of Vicon's lens, to within `TOLERANCE` px over the image; a `ValueError` where there are none so near.

    Vicon corrects: ideal - c = (seen - c) (1 + k1 r^2 + k2 r^4 + k3 r^6), r = |seen - c| in px. OpenCV distorts the ideal point, so the
    rational radial model is fitted to the inverse. (That Vicon corrects: The Imaginarium's GRIP applies the same terms to detections;
    cameras seen by other cameras land on their places only this way round.)
    """
    if not bool(radial.any()):
        return torch.zeros(8, dtype=torch.float64)
    if abs(float(focal[0] / focal[1]) - 1) > 1e-6:
        raise entry.error("PIXEL_ASPECT_RATIO", f"is not 1 while {field} is not zero, whose meaning is then unknown; export square pixels")
    if float((middle - centre).abs().max()) > 0.5:
        raise entry.error(field, f"is centred at {middle.tolist()}, not at the principal point {centre.tolist()}; calibrate again")
    f = float(focal[0])
    corner = float(torch.maximum(centre.abs(), (size - 1 - centre).abs()).norm()) / f
    seen = torch.linspace(0, 1.02 * corner, 2001, dtype=torch.float64)[1:]
    powers = radial * torch.tensor([f**2, f**4, f**6], dtype=torch.float64)
    ideal = seen * (1 + (seen[:, None] ** torch.tensor([2, 4, 6]) @ powers))
    if bool((ideal.diff() <= 0).any()):
        raise entry.error(field, "folds the image over before its corner; calibrate this camera again with the wand out to the corners")
    k = _rational(seen, ideal)
    numerator, denominator = (1 + ideal[:, None] ** torch.tensor([2, 4, 6]) @ part for part in (k[:3], k[3:]))
    off = float((ideal * numerator / denominator - seen).abs().max()) * f
    if not off < TOLERANCE:
        raise entry.error(field, f"bends more than OpenCV's lens can follow (off by {off:.2g} px); export undistorted video")
    return torch.cat([k[:2], torch.zeros(2, dtype=torch.float64), k[2:]])


def _rational(seen: Float[Tensor, "n"], ideal: Float[Tensor, "n"]) -> Float[Tensor, "6"]:
    """k1 k2 k3 k4 k5 k6 of seen = ideal (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + ...), r = ideal.

    Least squares of the product form, weighted anew by the denominator before (Sanathanan and Koerner 1963).
    """
    scale = ideal[-1]
    r = (ideal / scale)[:, None] ** torch.tensor([2, 4, 6])
    rows, goal = torch.cat([ideal[:, None] * r, -seen[:, None] * r], -1), (seen - ideal)[:, None]
    weight, found = torch.ones_like(goal), torch.zeros(6, dtype=seen.dtype)
    for _ in range(5):
        found = torch.linalg.lstsq(rows * weight, goal * weight, rcond=1e-15, driver="gelsd").solution[:, 0]
        weight = 1 / (1 + r @ found[3:, None])
    return found / (scale ** torch.tensor([2, 4, 6])).repeat(2)

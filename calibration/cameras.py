"""Calibrated cameras: lenses, poses, projection, and `cameras.yaml`.

World: right-handed, z up, metres. Camera: x right, y down, z forward. Pixel (0, 0) is the centre of the top-left
pixel. Transforms are named `R_destination_source`, so `p_camera = R_camera_world @ (p_world - position)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from math import pi
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from jaxtyping import Bool, Float
from torch import Tensor

from calibration import lenses
from calibration.camera_file import COEFFICIENTS, Entry, parse_yaml, read_text

Lens = Literal["brown", "fisheye"]
FIELDS = ("size", "focal", "centre", "lens", "distortion", "R_camera_world", "position")


@dataclass(frozen=True)
class Cameras:
    """Named cameras in one world frame. All tensors are float64 on the CPU unless moved by `to`."""

    names: tuple[str, ...]
    size: Float[Tensor, "C 2"]
    """Width and height of the calibrated image, px."""
    focal: Float[Tensor, "C 2"]
    """Focal length along x and y, px."""
    centre: Float[Tensor, "C 2"]
    """Principal point, px."""
    distortion: Float[Tensor, "C 8"]
    """Coefficients in OpenCV's order, zero padded."""
    lens: tuple[Lens, ...]
    """Lens model of each camera."""
    R_camera_world: Float[Tensor, "C 3 3"]
    position: Float[Tensor, "C 3"]
    """Camera centres in the world, m."""

    def __post_init__(self) -> None:
        C = len(self.names)
        if len(set(self.names)) != C:
            raise ValueError(f"camera names must differ; got {list(self.names)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if len(value) != C:
                raise ValueError(f"cameras: {field.name} holds {len(value)} entries for {C} cameras")
            if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
                raise ValueError(f"cameras: {field.name} holds a value that is not finite")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: str | int | slice | list[int] | list[str]) -> Cameras:
        """The named or indexed cameras, in that order; always a `Cameras`."""
        if isinstance(which, slice):
            index = list(range(len(self)))[which]
        else:
            index = [self.index(w) if isinstance(w, str) else w for w in (which if isinstance(which, list) else [which])]
        picked: dict[str, Any] = {
            f.name: getattr(self, f.name)[index]
            if isinstance(getattr(self, f.name), Tensor)
            else tuple(getattr(self, f.name)[i] for i in index)
            for f in fields(self)
        }
        return Cameras(**picked)

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    def index(self, name: str) -> int:
        """Position of the camera called `name`."""
        if name not in self.names:
            raise KeyError(f"no camera {name!r}; there are {list(self.names)}")
        return self.names.index(name)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """The same cameras on another device or in another precision."""
        moved = {f.name: getattr(self, f.name).to(device=device, dtype=dtype) for f in fields(self) if f.name not in ("names", "lens")}
        return replace(self, **moved)

    def resized(self, size: Float[Tensor, "C 2"]) -> Cameras:
        """The same cameras for images scaled to `size` px, the half pixel honoured."""
        scale = size / self.size
        return replace(self, size=size, focal=self.focal * scale, centre=(self.centre + 0.5) * scale - 0.5)

    @property
    def matrix(self) -> Float[Tensor, "C 3 3"]:
        """Intrinsic matrices, px."""
        K = torch.zeros(len(self), 3, 3, dtype=self.focal.dtype, device=self.focal.device)
        K[:, 0, 0], K[:, 1, 1], K[:, 2, 2] = self.focal[:, 0], self.focal[:, 1], 1
        K[:, :2, 2] = self.centre
        return K

    @property
    def translation(self) -> Float[Tensor, "C 3"]:
        """World origin in each camera, m: `p_camera = R_camera_world @ p_world + translation`."""
        return -(self.R_camera_world @ self.position[..., None])[..., 0]

    def to_camera(self, points: Float[Tensor, "... 3"]) -> Float[Tensor, "C ... 3"]:
        """World points in every camera's frame, m."""
        lead = (len(self),) + (1,) * (points.ndim - 1)
        return torch.einsum("cij,c...j->c...i", self.R_camera_world, points - self.position.view(*lead, 3))

    def project(self, points: Float[Tensor, "... 3"]) -> Float[Tensor, "C ... 2"]:
        """Pixels of world points in every camera. NaN behind a camera and beyond its lens's `reach`."""
        p = self.to_camera(points)
        plane = torch.where(p[..., 2:] > 1e-6, p[..., :2] / p[..., 2:].clamp_min(1e-6), torch.nan)
        return self.distort(plane)

    def inside(self, pixels: Float[Tensor, "C ... 2"]) -> Bool[Tensor, "C ..."]:
        """Whether a pixel lies on its camera's image."""
        size = self.size.view(len(self), *(1,) * (pixels.ndim - 2), 2)
        return ((pixels >= -0.5) & (pixels <= size - 0.5)).all(-1)

    @cached_property
    def reach(self) -> Float[Tensor, "C"]:
        """Radius on the ideal image plane, sqrt(x^2 + y^2) / z, up to which the distorted radius still grows; inf where it always does.

        Beyond it a polynomial lens folds back and would put points far outside the view into the image.
        """
        angle = torch.linspace(0, pi / 2, 2049, dtype=torch.float64, device=self.focal.device)[1:-1]
        k = self.distortion.detach().to(torch.float64)[:, None]
        grows = torch.where(self._fish(2), lenses.fisheye_slope(angle, k) > 0, lenses.brown_grows(angle.tan().square(), k))
        safe = grows.cumprod(1).sum(1)
        reach = torch.cat([angle.new_zeros(1), angle.tan()])[safe]
        return torch.where(safe == len(angle), torch.inf, reach).to(self.focal.dtype)

    def _fish(self, ndim: int) -> Bool[Tensor, "C ..."]:
        """Which cameras have a fisheye lens, with `ndim` axes."""
        fish = torch.tensor([lens == "fisheye" for lens in self.lens], device=self.focal.device)
        return fish.view(len(self), *(1,) * (ndim - 1))

    def distort(self, plane: Float[Tensor, "C ... 2"]) -> Float[Tensor, "C ... 2"]:
        """Pixels of ideal image-plane coordinates (x/z, y/z); NaN beyond `reach`.

        Brown-Conrady with the rational term and Kannala-Brandt fisheye, as OpenCV's calib3d documentation defines them.
        """
        lead = (len(self),) + (1,) * (plane.ndim - 2)
        k = self.distortion.view(*lead, 8)
        bent = lenses.brown(plane, k)
        if "fisheye" in self.lens:
            bent = torch.where(self._fish(plane.ndim), lenses.fisheye(plane, k), bent)
        folded = plane.norm(dim=-1, keepdim=True) > self.reach.view(*lead, 1)
        return torch.where(folded, torch.nan, bent * self.focal.view(*lead, 2) + self.centre.view(*lead, 2))

    def undistort(self, pixels: Float[Tensor, "C ... 2"], steps: int = 40) -> Float[Tensor, "C ... 2"]:
        """Ideal image-plane coordinates (x/z, y/z) of pixels, by Newton's method; NaN where no point within `reach` is seen there."""
        lead = (len(self),) + (1,) * (pixels.ndim - 2)
        goal = (pixels - self.centre.view(*lead, 2)) / self.focal.view(*lead, 2)
        if not bool(self.distortion.any()) and "fisheye" not in self.lens:
            return goal
        k, reach = self.distortion.view(*lead, 8), self.reach.view(*lead, 1)
        plane = lenses.unbend_brown(goal, k, reach, steps)
        if "fisheye" in self.lens:
            plane = torch.where(self._fish(pixels.ndim), lenses.unbend_fisheye(goal, k, reach, steps), plane)
        return plane

    def ray(self, pixels: Float[Tensor, "C ... 2"]) -> Float[Tensor, "C ... 3"]:
        """Unit world directions from each camera's centre through its pixels."""
        plane = self.undistort(pixels)
        direction = torch.cat([plane, torch.ones_like(plane[..., :1])], -1)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        return torch.einsum("cji,c...j->c...i", self.R_camera_world, direction)

    def save(self, path: Path) -> None:
        """Write `cameras.yaml`."""
        listed = {
            name: {
                "size": [int(v) if v.is_integer() else v for v in self.size[c].tolist()],
                "focal": self.focal[c].tolist(),
                "centre": self.centre[c].tolist(),
                "lens": self.lens[c],
                "distortion": self.distortion[c, : COEFFICIENTS[self.lens[c]]].tolist(),
                "R_camera_world": self.R_camera_world[c].tolist(),
                "position": self.position[c].tolist(),
            }
            for c, name in enumerate(self.names)
        }
        write_text(
            path, yaml.safe_dump({"unit": "m", "cameras": listed}, sort_keys=False, default_flow_style=None, width=160, allow_unicode=True)
        )

    @classmethod
    def load(cls, path: Path) -> Cameras:
        """Read `cameras.yaml`; a `ValueError` names the file, camera and field that is wrong, and the remedy."""
        document = parse_yaml(path, read_text(path))
        listed = document.get("cameras") if isinstance(document, dict) else None
        if not isinstance(listed, dict) or not listed:
            raise ValueError(f"{path}: holds no camera; it needs a mapping 'cameras' with one entry per camera")
        if document.get("unit", "m") != "m":
            raise ValueError(f"{path}: field 'unit' is {document['unit']!r}; positions must be in metres: convert them and write 'unit: m'")
        return joined([_from_entry(Entry(path, name, values)) for name, values in listed.items()])


def joined(cameras: Sequence[Cameras]) -> Cameras:
    """All the cameras in one `Cameras`, in that order; a `ValueError` where two have one name."""
    columns: dict[str, Any] = {}
    for field in fields(Cameras):
        parts: list[Any] = [getattr(c, field.name) for c in cameras]
        columns[field.name] = torch.cat(parts) if isinstance(parts[0], Tensor) else tuple(chain(*parts))
    return Cameras(**columns)


def single(
    name: str,
    size: Float[Tensor, "2"],
    focal: Float[Tensor, "2"],
    centre: Float[Tensor, "2"],
    distortion: Float[Tensor, "8"],
    lens: str,
    R_camera_world: Float[Tensor, "3 3"],
    position: Float[Tensor, "3"],
) -> Cameras:
    """One camera (C=1); sizes in px, position in m."""
    return Cameras(
        (name,), size[None], focal[None], centre[None], distortion[None], (cast(Lens, lens),), R_camera_world[None], position[None]
    )


def upright_view(direction: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """`R_camera_world` of upright cameras that look along directions of any length in the world; zeros in x where one is vertical."""
    z = torch.nn.functional.normalize(direction, dim=-1, eps=1e-6)
    up = z.new_tensor([0.0, 0.0, 1.0]).expand_as(z)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, up), dim=-1, eps=1e-6)
    return torch.stack([x, torch.linalg.cross(z, x), z], -2)


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename, so that a killed run leaves no half file."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def adapt_to_video(camera: Cameras, width: int, height: int, narrowed: Literal["letterboxed", "cropped"] = "letterboxed") -> Cameras:
    """The camera (C=1) for its video's own size (px), which may differ from the calibrated one.

    The same shape (within 0.5 %) is a scaled image. One side longer by less than 16 px is a codec's padding at the right or bottom:
    the lens stays. One side shorter by less than 16 px is an image that was scaled evenly and centred between black bars, as video
    converters do (`letterboxed`), or whose right or bottom edge was cut (`cropped`). All else is a `ValueError`.
    """
    if len(camera) != 1:
        raise ValueError(f"adapt_to_video takes one camera and its video; got the cameras {list(camera.names)}")
    wide, high = (float(v) for v in camera.size[0])
    size = camera.size.new_tensor([[width, height]])
    change = [width - wide, height - high]
    if change == [0, 0]:
        return camera
    if 0 in change and abs(sum(change)) < 16:
        if sum(change) > 0 or narrowed == "cropped":
            return replace(camera, size=size)
        scale = min(width / wide, height / high)
        bars = (size - camera.size * scale) / 2
        return replace(camera, size=size, focal=camera.focal * scale, centre=(camera.centre + 0.5) * scale - 0.5 + bars)
    if abs(width / height * high / wide - 1) <= 0.005:
        return camera.resized(size)
    sizes = f"camera {camera.names[0]!r}: calibrated at {wide:g} x {high:g}, but its video is {width} x {height}"
    if abs(width / height * wide / high - 1) <= 0.01:
        raise ValueError(
            f"{sizes}: width and height are exchanged, so one of the two was decoded without the rotation in the file's metadata; "
            "calibrate from footage of the same orientation, or write the video again upright"
        )
    raise ValueError(f"{sizes}, another shape of image; record at the calibrated resolution, or calibrate at the video's")


def _from_entry(entry: Entry) -> Cameras:
    if not isinstance(entry.values, dict):
        raise ValueError(f"{entry.path}: camera {entry.camera!r}: needs a mapping with the fields {list(FIELDS)}")
    unknown = sorted(set(entry.values) - set(FIELDS))
    if unknown:
        raise entry.error(unknown[0], f"is not known; the fields are {list(FIELDS)}")
    lens = str(entry.values.get("lens", "brown"))
    return single(
        name=entry.camera,
        size=entry.size("size"),
        focal=entry.focal(entry.numbers("focal", shapes=((2,),)), "focal"),
        centre=entry.numbers("centre", shapes=((2,),)),
        distortion=entry.distortion(lens, "distortion"),
        lens=lens,
        R_camera_world=entry.rotation(entry.numbers("R_camera_world", shapes=((3, 3),)), "R_camera_world"),
        position=entry.numbers("position", shapes=((3,),)),
    )

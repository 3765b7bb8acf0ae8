"""Calibrated cameras: lenses, poses, projection, and `cameras.yaml`.

World: right-handed, z up, metres. Camera: x right, y down, z forward. Pixel (0, 0) is the centre of the top-left
pixel. Transforms are named `R_destination_source`, so `p_camera = R_camera_world @ (p_world - position)`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
import yaml
from jaxtyping import Bool, Float
from torch import Tensor

Lens = Literal["brown", "fisheye"]
COEFFICIENTS = {"brown": 8, "fisheye": 4}
"""brown: k1 k2 p1 p2 k3 k4 k5 k6 (OpenCV's order); fisheye: k1 k2 k3 k4 (Kannala-Brandt, OpenCV's `fisheye`)."""


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
        picked = {
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
        """Pixels of world points in every camera. NaN behind a camera."""
        p = self.to_camera(points)
        plane = torch.where(p[..., 2:] > 1e-6, p[..., :2] / p[..., 2:].clamp_min(1e-6), torch.nan)
        return self.distort(plane)

    def inside(self, pixels: Float[Tensor, "C ... 2"]) -> Bool[Tensor, "C ..."]:
        """Whether a pixel lies on its camera's image."""
        size = self.size.view(len(self), *(1,) * (pixels.ndim - 2), 2)
        return ((pixels >= -0.5) & (pixels <= size - 0.5)).all(-1)

    def distort(self, plane: Float[Tensor, "C ... 2"]) -> Float[Tensor, "C ... 2"]:
        """Pixels of ideal image-plane coordinates (x/z, y/z).

        Brown-Conrady with the rational term and Kannala-Brandt fisheye, as OpenCV's calib3d documentation defines them.
        """
        lead = (len(self),) + (1,) * (plane.ndim - 2)
        k = self.distortion.view(*lead, 8)
        bent = _brown(plane, k)
        if "fisheye" in self.lens:
            fish = torch.tensor([lens == "fisheye" for lens in self.lens], device=plane.device).view(*lead, 1)
            bent = torch.where(fish, _fisheye(plane, k), bent)
        return bent * self.focal.view(*lead, 2) + self.centre.view(*lead, 2)

    def undistort(self, pixels: Float[Tensor, "C ... 2"], steps: int = 20) -> Float[Tensor, "C ... 2"]:
        """Ideal image-plane coordinates (x/z, y/z) of pixels, by Newton's method on `distort`; NaN where it does not converge."""
        lead = (len(self),) + (1,) * (pixels.ndim - 2)
        goal = (pixels - self.centre.view(*lead, 2)) / self.focal.view(*lead, 2)
        if not bool(self.distortion.any()) and "fisheye" not in self.lens:
            return goal
        plane = goal.clone()
        unit = replace(self, focal=torch.ones_like(self.focal), centre=torch.zeros_like(self.centre))
        if "fisheye" in self.lens:  # start from the equidistant lens: r = tan(theta)
            fish = torch.tensor([lens == "fisheye" for lens in self.lens], device=pixels.device).view(*lead, 1)
            theta = goal.norm(dim=-1, keepdim=True)
            plane = torch.where(fish, goal * torch.tan(theta.clamp(max=1.5)) / theta.clamp_min(1e-12), plane)
        h = 1e-6 if goal.dtype == torch.float64 else 1e-3
        for _ in range(steps):
            error = unit.distort(plane) - goal
            dx = (unit.distort(plane + torch.tensor([h, 0.0], dtype=goal.dtype, device=goal.device)) - error - goal) / h
            dy = (unit.distort(plane + torch.tensor([0.0, h], dtype=goal.dtype, device=goal.device)) - error - goal) / h
            det = dx[..., 0] * dy[..., 1] - dy[..., 0] * dx[..., 1]
            step = torch.stack([dy[..., 1] * error[..., 0] - dy[..., 0] * error[..., 1], dx[..., 0] * error[..., 1] - dx[..., 1] * error[..., 0]], -1)
            step = step / torch.where(det.abs() < 1e-12, torch.ones_like(det), det)[..., None]
            plane = plane - step
            if bool((step.nan_to_num().abs() < (1e-12 if goal.dtype == torch.float64 else 1e-6)).all()):
                break
        miss = (unit.distort(plane) - goal).norm(dim=-1, keepdim=True) > 1e-4
        return torch.where(miss, torch.nan, plane)

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
                "size": [int(v) for v in self.size[c].tolist()],
                "focal": self.focal[c].tolist(),
                "centre": self.centre[c].tolist(),
                "lens": self.lens[c],
                "distortion": self.distortion[c, : COEFFICIENTS[self.lens[c]]].tolist(),
                "R_camera_world": self.R_camera_world[c].tolist(),
                "position": self.position[c].tolist(),
            }
            for c, name in enumerate(self.names)
        }
        text = yaml.safe_dump({"unit": "m", "cameras": listed}, sort_keys=False, default_flow_style=None, width=160)
        temporary = path.with_name(path.name + ".partial")
        temporary.write_text(text)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Cameras:
        """Read `cameras.yaml`; a `ValueError` names the file, camera and field that is wrong."""
        try:
            document = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a YAML file: {error}") from error
        listed = document.get("cameras") if isinstance(document, dict) else None
        if not isinstance(listed, dict) or not listed:
            raise ValueError(f"{path}: needs a mapping `cameras` with one entry per camera")
        columns: dict[str, list[Tensor]] = {k: [] for k in ("size", "focal", "centre", "distortion", "R_camera_world", "position")}
        shapes = {"size": (2,), "focal": (2,), "centre": (2,), "R_camera_world": (3, 3), "position": (3,)}
        lenses: list[Lens] = []
        for name, entry in listed.items():
            lens = entry.get("lens", "brown") if isinstance(entry, dict) else None
            if lens not in COEFFICIENTS:
                raise ValueError(f"{path}: camera {name!r}: lens {lens!r} is none of {sorted(COEFFICIENTS)}")
            lenses.append(lens)
            for field, shape in shapes.items():
                try:
                    value = torch.tensor(entry[field], dtype=torch.float64)
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{path}: camera {name!r}: field {field!r} is missing or not numbers") from error
                if value.shape != shape:
                    raise ValueError(f"{path}: camera {name!r}: field {field!r} has shape {tuple(value.shape)}, needs {shape}")
                columns[field].append(value)
            given = torch.tensor(entry.get("distortion", []), dtype=torch.float64)
            if given.numel() > COEFFICIENTS[lens]:
                raise ValueError(f"{path}: camera {name!r}: {given.numel()} distortion coefficients; a {lens} lens has at most {COEFFICIENTS[lens]}")
            columns["distortion"].append(torch.cat([given, torch.zeros(8 - given.numel(), dtype=torch.float64)]))
        return cls(names=tuple(str(n) for n in listed), lens=tuple(lenses), **{k: torch.stack(v) for k, v in columns.items()})


def _brown(plane: Tensor, k: Tensor) -> Tensor:
    x, y = plane[..., 0], plane[..., 1]
    r2 = x * x + y * y
    radial = (1 + r2 * (k[..., 0] + r2 * (k[..., 1] + r2 * k[..., 4]))) / (1 + r2 * (k[..., 5] + r2 * (k[..., 6] + r2 * k[..., 7])))
    p1, p2 = k[..., 2], k[..., 3]
    return torch.stack([x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1)


def _fisheye(plane: Tensor, k: Tensor) -> Tensor:
    r = plane.norm(dim=-1, keepdim=True)
    theta = torch.atan(r)
    t2 = theta * theta
    bent = theta * (1 + t2 * (k[..., 0:1] + t2 * (k[..., 1:2] + t2 * (k[..., 2:3] + t2 * k[..., 3:4]))))
    return plane * torch.where(r > 1e-9, bent / r.clamp_min(1e-9), torch.ones_like(r))

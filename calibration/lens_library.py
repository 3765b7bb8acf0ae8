"""A file of lenses that were calibrated before: model name -> resolution -> lens, to start from the next time such a camera is used.

    GoPro11 linear:
      1920x1080: {lens: brown, focal: [1150.2, 1150.9], centre: [958.1, 541.0], distortion: [-0.02, 0.01, 0, 0, 0, 0, 0, 0]}

Pixels; (0, 0) is the centre of the top-left pixel. A resolution that is not listed is taken from one of the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from calibration.camera_file import parse_yaml, read_text
from calibration.cameras import Cameras, adapt_to_video, joined, single, write_text
from calibration.intrinsics import FocalPrior

COPIES_SD = 0.01
"""How much copies of one model at one setting differ in focal length, as a part of it (standard deviation, on the safe side)."""
Lenses = dict[str, dict[tuple[int, int], Cameras]]


@dataclass(frozen=True)
class Library:
    """A library's file, and which of its models each camera is."""

    path: Path
    models: Mapping[str, str]
    """Camera -> model; under "" the model of all others. A camera that has none goes by its own name."""

    @classmethod
    def named(cls, path: Path, words: Sequence[str]) -> Library:
        """From words CAMERA=MODEL, or one MODEL for all cameras."""
        pairs = [w.split("=", 1) if "=" in w else ["", w] for w in words]
        if len({camera for camera, _ in pairs}) < len(pairs) or any(not model for _, model in pairs):
            raise ValueError(
                f"--lens-model {' '.join(words)}: write one MODEL for all cameras, and CAMERA=MODEL once for each that differs"
            )
        return cls(path, {camera: model for camera, model in pairs})

    def model(self, camera: str) -> str:
        """What this camera is called in the library."""
        return self.models.get(camera, self.models.get("", camera))

    def cameras(self, sizes: Mapping[str, tuple[int, int]]) -> Cameras:
        """The lenses of cameras with videos of these sizes (px), as cameras at the origin; a `ValueError` names one that it lacks."""
        lenses = read_library(self.path)
        return joined([self._lens(lenses, camera, size) for camera, size in sizes.items()])

    def priors(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, FocalPrior]:
        """What the library says beforehand of the focal length of each camera."""
        return {c.names[0]: FocalPrior(float(c.focal.mean()), COPIES_SD) for c in self.cameras(sizes)}

    def _lens(self, lenses: Lenses, camera: str, size: tuple[int, int]) -> Cameras:
        model = self.model(camera)
        if model not in lenses:
            raise ValueError(
                f"{self.path}: no lens {model!r} for camera {camera!r}; it holds {sorted(lenses)}. Say which it is with "
                f"--lens-model {camera}=MODEL, or calibrate with a board and --save-lenses"
            )
        known = lenses[model]
        for _, one in sorted(known.items(), key=lambda item: abs(item[0][0] - size[0])):
            try:
                found = adapt_to_video(one, *size)
            except ValueError:
                continue
            return replace(found, names=(camera,))
        listed = ", ".join(f"{w}x{h}" for w, h in known)
        raise ValueError(f"{self.path}: lens {model!r} is known at {listed}, which does not tell {size[0]}x{size[1]} of camera {camera!r}")

    def keep(self, cameras: Cameras) -> list[str]:
        """Write these cameras' lenses into the file, over those of the same model and size, and tell the models.

        A `ValueError` where two cameras of one model and size stand for one entry: only one can be kept.
        """
        lenses = read_library(self.path) if self.path.is_file() else {}
        mine: dict[tuple[str, tuple[int, int]], str] = {}
        for camera in cameras:
            size = (int(camera.size[0, 0]), int(camera.size[0, 1]))
            model = self.model(camera.names[0])
            if (twin := mine.setdefault((model, size), camera.names[0])) != camera.names[0]:
                raise ValueError(
                    f"--save-lenses: cameras {twin!r} and {camera.names[0]!r} are both {model!r} at {size[0]}x{size[1]}; name the one "
                    f"to keep --lens-model {twin}={model}, and give the others names of their own"
                )
            lenses.setdefault(model, {})[size] = camera
        listed = {model: {f"{w}x{h}": _entry(c) for (w, h), c in sorted(sizes.items())} for model, sizes in sorted(lenses.items())}
        head = "# Lenses by model and resolution, px; (0, 0) is the centre of the top-left pixel.\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, head + yaml.safe_dump(listed, sort_keys=False, default_flow_style=None, width=140, allow_unicode=True))
        return sorted({model for model, _ in mine})


def _entry(camera: Cameras) -> dict[str, Any]:
    numbers = {"focal": camera.focal[0], "centre": camera.centre[0], "distortion": camera.distortion[0]}
    return {"lens": camera.lens[0], **{k: [round(float(v), 6) for v in n] for k, n in numbers.items()}}


def read_library(path: Path) -> Lenses:
    """Model -> size (px) -> lens; a `ValueError` names file, model and field."""
    document = parse_yaml(path, read_text(path))
    if not isinstance(document, dict) or not all(isinstance(v, dict) for v in document.values()):
        raise ValueError(f"{path}: needs MODEL: WIDTHxHEIGHT: lens, focal, centre, distortion")
    return {
        str(model): dict(_read(path, str(model), str(size), entry) for size, entry in sizes.items()) for model, sizes in document.items()
    }


def _read(path: Path, model: str, size: str, entry: Any) -> tuple[tuple[int, int], Cameras]:
    where = f"{path}: {model!r} at {size!r}"
    if not (match := re.fullmatch(r"(\d+)x(\d+)", size)):
        raise ValueError(f"{where}: write the resolution as WIDTHxHEIGHT, for example 1920x1080")
    if not isinstance(entry, dict) or entry.get("lens") not in ("brown", "fisheye"):
        raise ValueError(f"{where}: field 'lens' must be brown or fisheye")
    numbers = {}
    for field, count in (("focal", 2), ("centre", 2), ("distortion", 8)):
        try:
            numbers[field] = torch.tensor([float(v) for v in entry[field]], dtype=torch.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: field {field!r} must be {count} numbers") from error
        if len(numbers[field]) != count or not bool(torch.isfinite(numbers[field]).all()):
            raise ValueError(f"{where}: field {field!r} must be {count} numbers, it has {len(numbers[field])}")
    if not bool((numbers["focal"] > 0).all()):
        raise ValueError(f"{where}: field 'focal' must be above zero, px")
    shape = (int(match[1]), int(match[2]))
    eye, origin = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    wide = torch.tensor(shape, dtype=torch.float64)
    return shape, single("lens", wide, numbers["focal"], numbers["centre"], numbers["distortion"], entry["lens"], eye, origin)

"""What flows between stages: `Keypoints2D`, `Tracks3D`, `Motion`. Frozen; arrays on disk are safetensors.

Axes: T frames, C cameras, A actors, D detections in one image, K keypoints, J joints, S shape, E expression.
NaN pixels or zero confidence mean not seen.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class Stored:
    """A frozen dataclass of tensors and small facts, kept in one safetensors file."""

    def save(self, path: Path, **record: Any) -> None:
        """Write to a temporary name, then rename. `record` (input hashes, config) goes into the header."""
        tensors, facts = {}, {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                tensors[f.name] = value.detach().cpu().contiguous()
            else:
                facts[f.name] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        save_file(tensors, temporary, metadata={"kind": type(self).__name__, "facts": json.dumps(facts), "record": json.dumps(record)})
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path, frames: slice | None = None) -> Self:
        """Read a file written by `save`, or only some consecutive frames of it (nothing else is then read from disk).

        A `ValueError` names the file when it is of another kind or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                axes = cls.time_axes() if frames is not None else {}
                tensors = {key: cls._slice(file, key, axes.get(key), frames) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error}); delete it and run the stage again") from error
        if header.get("kind") != cls.__name__:
            raise ValueError(f"{path}: holds {header.get('kind', 'something else')}, not {cls.__name__}")
        facts = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["facts"]).items()}
        return cls(**facts, **tensors)

    @classmethod
    def count(cls, path: Path) -> int:
        """Number of frames in a file, without reading them."""
        name, axis = next(iter(cls.time_axes().items()))
        with safe_open(path, framework="pt") as file:
            return file.get_slice(name).get_shape()[axis]

    @classmethod
    def time_axes(cls) -> dict[str, int]:
        """Which axis of each tensor counts frames: where its annotation says `T`."""
        found = {}
        for f in fields(cls):  # type: ignore[arg-type]
            dims = re.search(r"""["']([^"']+)["']""", str(f.type))
            if dims and "T" in dims[1].split():
                found[f.name] = dims[1].split().index("T")
        return found

    @staticmethod
    def _slice(file: Any, key: str, axis: int | None, frames: slice | None) -> Tensor:
        if axis is None or frames is None:
            return file.get_tensor(key)
        return file.get_slice(key)[(*(slice(None),) * axis, frames)]

    @staticmethod
    def record(path: Path) -> dict[str, Any]:
        """The `record` a file was saved with; empty where there is no readable file."""
        try:
            with safe_open(path, framework="pt") as file:
                return json.loads((file.metadata() or {}).get("record", "{}"))
        except (OSError, SafetensorError, json.JSONDecodeError):
            return {}


@dataclass(frozen=True)
class Keypoints2D(Stored):
    """What a network saw in every image."""

    cameras: tuple[str, ...]
    keypoints: tuple[str, ...]
    """Keypoint names, usually `rigs.keypoints.COCO_WHOLEBODY`."""
    network: str
    """Which network placed them (`mediapipe`, `openpose`, `exact`): names its landmark placement on the body."""
    fps: float
    first_frame: int
    """Number of frame 0 here within the videos."""
    pixels: Float[Tensor, "C T D K 2"]
    """px in the videos' own resolution, lens distortion included; NaN where not seen."""
    sigma: Float[Tensor, "C T D K"]
    """Standard deviation of each coordinate, px."""
    confidence: Float[Tensor, "C T D K"]
    """0 (not seen) to 1."""
    skeleton: Float[Tensor, "C T D K 3"] | None = None
    """The network's own 3D guess, m, in the camera's axes (x right, y down, z forward), origin anywhere; NaN where it has none."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.pixels.shape[1]

    @classmethod
    def read(cls, folder: Path, cameras: Sequence[str], frames: slice | None = None) -> Self:
        """The files of these cameras in `folder`, joined; a `FileNotFoundError` or `ValueError` names the file that does not fit."""
        if lost := [c for c in cameras if not (folder / f"{c}.safetensors").exists()]:
            raise FileNotFoundError(f"{folder / (lost[0] + '.safetensors')}: no keypoints of camera {lost[0]!r}; run the stage `detect`")
        return cls.joined([cls.load(folder / f"{c}.safetensors", frames) for c in cameras])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several cameras in one value, detections padded with not seen; frames cut to the shortest."""
        first = parts[0]
        for part in parts:
            same = ("keypoints", "network", "fps", "first_frame")
            if wrong := [k for k in same if getattr(part, k) != getattr(first, k)]:
                raise ValueError(
                    f"keypoints of cameras {first.cameras[0]!r} and {part.cameras[0]!r} differ in {wrong}; detect both again alike"
                )
        T = min(p.frames for p in parts)
        D = max(p.pixels.shape[2] for p in parts)

        def stack(name: str, empty: float) -> Tensor:
            tensors = [getattr(p, name)[:, :T] for p in parts]
            padded = [torch.cat([x, x.new_full((x.shape[0], T, D - x.shape[2], *x.shape[3:]), empty)], 2) for x in tensors]
            return torch.cat(padded)

        skeleton = None if any(p.skeleton is None for p in parts) else stack("skeleton", torch.nan)
        names = tuple(c for p in parts for c in p.cameras)
        pixels, sigma, confidence = stack("pixels", torch.nan), stack("sigma", torch.inf), stack("confidence", 0.0)
        return cls(names, first.keypoints, first.network, first.fps, first.first_frame, pixels, sigma, confidence, skeleton)


@dataclass(frozen=True)
class Tracks3D(Stored):
    """Who is who, and where their keypoints are."""

    keypoints: tuple[str, ...]
    actors: tuple[str, ...]
    fps: float
    first_frame: int
    points: Float[Tensor, "T A K 3"]
    """World, m; NaN where fewer than two views agree."""
    covariance: Float[Tensor, "T A K 3 3"]
    """m^2."""
    detection: Int[Tensor, "C T A"]
    """Which detection of each view is this actor; -1 for none."""
    swapped: Bool[Tensor, "C T A"]
    """Views whose left and right were exchanged by the network, in the arms or in the legs, and must be exchanged back."""
    trusted: Bool[Tensor, "C T A K"]
    """Keypoints of that detection (after the exchange) that agree with the other views."""
    exchanged: Bool[Tensor, "C T A K"] | None = None
    """Which keypoints of that detection take the place of their left or right counterpart; None for all of a swapped view."""


@dataclass(frozen=True)
class Motion(Stored):
    """One actor's animation, bound to a body model."""

    body: str
    """Name of the body model."""
    actor: str
    joints: tuple[str, ...]
    fps: float
    first_frame: int
    timecode: str
    """Of frame 0, HH:MM:SS:FF."""
    shape: Float[Tensor, "S"]
    translation: Float[Tensor, "T 3"]
    """World position of the root joint, m."""
    rotation: Float[Tensor, "T J 3"]
    """Local joint rotation vectors, rad."""
    expression: Float[Tensor, "T E"]
    sigma: Float[Tensor, "T J"]
    """Standard deviation of each joint's world position (root mean square of the three axes), m."""
    contacts: Float[Tensor, "T 4"]
    """Probability that left heel, left toe, right heel, right toe is planted."""

"""Synthetic training data: people of the virtual studio seen in crops, with the exact truth of everything a network may learn.

    config = SceneConfig(size=64, cameras=4)      # what to draw; `held_out(config)` is the same for tests
    sample(config, 7)                             # (studio.train.drawing) the sample of that number
    data = cached(config, 500)                    # (studio.train.shards) the first 500, drawn once and kept on disk
    data.image, data.keypoints, data.cameras(0)   # uint8 (N T C S S 3), px (N T C K 2), a sample's eyes as `Cameras`

One sample is a group: one person in T consecutive moments (for flow and adaptation) before C cameras at once (for
consistency, volumes and triangulation). A sample depends on nothing but the settings and its number. What is held out for tests: people
(another body generator besides, `studio.train.performers`), whole actions, clothes and rooms, the distances of cameras, and all draws.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from calibration.cameras import Cameras
from studio.stored import Stored
from studio.train.wardrobe import Split

Focus = Literal["body", "left_hand", "right_hand"]
MAPS = ("mask", "part", "uv", "surface", "depth", "flow")
"""Pictures of truth that can be asked for."""
GRID = 2.4
"""Side of the cube around the root joint whose occupancy is told, m."""
NEARBY = 0.02
"""Keypoints whose depths differ by less are of the same depth, m."""


@dataclass(frozen=True)
class SceneConfig:
    """What to draw."""

    size: int = 64
    """Of a crop, px."""
    cameras: int = 4
    """That see the same moments; about evenly around the person."""
    moments: int = 1
    """Consecutive frames; the crop stays."""
    fps: float = 30.0
    """Of consecutive frames."""
    focus: Focus = "body"
    """What the crop is around."""
    maps: tuple[str, ...] = ("mask",)
    """Which of `MAPS` are wanted."""
    occupancy: int = 0
    """Voxels along each side of the occupancy's cube; 0 for none (40 ms a moment at 32)."""
    split: Split = "train"
    bodies: Literal["model", "other"] = "model"
    loose: float = 1.0
    """Of departures from the scripted actions."""
    padding: float = 1.25
    """Side of the crop over that of the person's box."""
    jitter: float = 1.0
    """Of the crop's size (a third) and place (a tenth of the box)."""
    occluded: float = 0.35
    """Share of crops with something in front."""
    strength: float = 1.0
    """Of the image's faults: blur, noise, compression."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field, low, high in (("size", 16, 1024), ("cameras", 1, 64), ("moments", 1, 60), ("occupancy", 0, 256)):
            if not low <= getattr(self, field) <= high:
                raise ValueError(f"training scenes: {field} is {getattr(self, field)}; it must be {low} to {high}")
        if not self.fps > 0:
            raise ValueError(f"training scenes: fps is {self.fps}; it must be above 0")
        if unknown := [m for m in self.maps if m not in MAPS]:
            raise ValueError(f"training scenes: unknown map {unknown[0]!r}; there are {list(MAPS)}")


def held_out(config: SceneConfig) -> SceneConfig:
    """The same for tests: other people of another body generator, other actions as scripted, other clothes, rooms, camera distances;
    crops nearly as a detector gives them.
    """
    return replace(config, split="test", bodies="other", loose=0.0, jitter=0.25, occluded=0.15)


@dataclass(frozen=True)
class Scenes(Stored):
    """N samples of T moments, C cameras, crops of S px, K keypoints (`KEYPOINTS`), J joints; None where not asked for."""

    number: Int[Tensor, "N"]
    person: Int[Tensor, "N"]
    """Who: the seed of the draw; equal for one person."""
    action: Int[Tensor, "N"]
    """Index into `ACTIONS`."""
    outfit: Int[Tensor, "N"]
    """Seed of the clothes."""
    image: UInt8[Tensor, "N t C S S 3"]
    """RGB."""
    focal: Float[Tensor, "N C"]
    """px of the crop."""
    centre: Float[Tensor, "N C 2"]
    R_camera_world: Float[Tensor, "N C 3 3"]
    position: Float[Tensor, "N C 3"]
    keypoints: Float[Tensor, "N t C K 2"]
    """px of the crop, also where hidden or outside."""
    visible: Bool[Tensor, "N t C K"]
    """On the crop, and hidden by neither the body nor anything else."""
    box: Float[Tensor, "N t C 4"]
    """Left, top, right, bottom of the whole person (or hand) without occluders, px of the crop."""
    points: Float[Tensor, "N t K 3"]
    """Keypoints, world, m."""
    joints: Float[Tensor, "N t J 3"]
    """World, m."""
    shape: Float[Tensor, "N B"]
    """Coefficients of the default body; of people of the other kind the nearest."""
    rotation: Float[Tensor, "N t J 3"]
    """Local joint rotation vectors, rad."""
    translation: Float[Tensor, "N t 3"]
    """World position of the root joint, m."""
    mask: UInt8[Tensor, "N t C S S"] | None = None
    """0 no person, 1 the person behind something, 2 the person seen."""
    part: UInt8[Tensor, "N t C S S"] | None = None
    """Semantic part of the body from 1 (`Topology.part_names`), 0 elsewhere; also behind occluders."""
    uv: Float[Tensor, "N t C S S 2"] | None = None
    """Texture coordinates, 0 to 1; NaN where no person is."""
    triangle: Int[Tensor, "N t C S S"] | None = None
    """Of `surface`: index into the default body's triangles, -1 elsewhere; exact surface point with `corner`."""
    corner: Float[Tensor, "N t C S S 3"] | None = None
    """Of `surface`: barycentric coordinates."""
    depth: Float[Tensor, "N t C S S"] | None = None
    """Along the optical axis, relative to the root joint's, m; NaN where no person is."""
    flow: Float[Tensor, "N t C S S 2"] | None = None
    """Where the surface point goes until the next moment, px; NaN where no person is."""
    occupancy: Bool[Tensor, "N t G G G"] | None = None
    """Whether voxel centres (x, y, z) lie in the body (skin, no cloth); the cube of `GRID` m is centred on the root joint, axes as the
    world's (`voxels`)."""

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, which: Int[Tensor, "n"] | slice | list[int]) -> Scenes:
        """Some of the samples."""
        return Scenes(**{k: v[which] if isinstance(v, Tensor) else v for k, v in _values(self).items()})

    @staticmethod
    def stacked(parts: list[Scenes]) -> Scenes:
        """All samples of several."""
        joined: dict[str, Any] = {k: torch.cat([getattr(p, k) for p in parts]) for k, v in _values(parts[0]).items() if v is not None}
        return Scenes(**joined)

    def only(self, wanted: tuple[str, ...]) -> Scenes:
        """Without the maps that are not wanted."""
        optional = {f.name for f in fields(self) if f.default is None}
        return replace(self, **{name: None for name in optional - set(wanted)})

    def cameras(self, sample: int) -> Cameras:
        """The C eyes of one sample as ideal cameras whose images are the crops."""
        C, size = self.focal.shape[1], torch.full((self.focal.shape[1], 2), float(self.image.shape[-2]), dtype=torch.float64)
        return Cameras(
            tuple(f"cam{i + 1:02d}" for i in range(C)),
            size,
            self.focal[sample].double()[:, None].expand(-1, 2).contiguous(),
            self.centre[sample].double(),
            torch.zeros(C, 8, dtype=torch.float64),
            ("brown",) * C,
            self.R_camera_world[sample].double(),
            self.position[sample].double(),
        )

    def in_camera(self) -> Float[Tensor, "N t C K 3"]:
        """Keypoints in every camera's frame, m."""
        away = self.points[:, :, None] - self.position[:, None, :, None]
        return torch.einsum("ncij,ntckj->ntcki", self.R_camera_world, away.to(self.R_camera_world.dtype)).to(self.points.dtype)

    def depth_order(self, near: float = NEARBY) -> Int[Tensor, "N t C K K"]:
        """For each pair of keypoints +1 where the first is nearer to the camera, -1 where farther, 0 where within `near` m."""
        z = self.in_camera()[..., 2]
        gap = z[..., None, :] - z[..., :, None]
        return torch.where(gap.abs() < near, 0, gap.sign()).to(torch.int8)


def _values(scenes: Scenes) -> dict[str, Any]:
    return {f.name: getattr(scenes, f.name) for f in fields(scenes)}


def voxels(size: int) -> Float[np.ndarray, "G G G 3"]:
    """Centres of the voxels relative to the root joint, m."""
    line = ((np.arange(size) + 0.5) / size - 0.5) * GRID
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).astype(np.float32)

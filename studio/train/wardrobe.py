"""Clothes and rooms for training scenes: painted once, kept in the user's cache; those of training and of tests have no seed in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich import print as tell
from torch import Tensor

from rigs import makehuman, makehuman_assets
from studio.stored import Stored
from studio.virtual import looks, room
from studio.virtual.looks import dressed
from studio.virtual.room import HEIGHT, Room

Split = Literal["train", "test"]
SEEDS = {"train": 100_000, "test": 900_000}
"""First seed of everything random that belongs to a split."""
OUTFITS, ROOMS, VIEWS = {"train": 32, "test": 10}, {"train": 12, "test": 6}, 4
"""How many outfits and rooms are painted, and views of each room."""
TEXELS, BACKDROP = 256, 160
"""Side of a texture and of a picture of a room, px."""
_CODE = makehuman_assets.digest(__file__, looks.__file__, room.__file__)


@dataclass(frozen=True)
class Wardrobe(Stored):
    """L outfits and B pictures of rooms without people."""

    textures: UInt8[Tensor, "L N N 3"]
    """Square root of linear albedo (`studio.virtual.looks.Look`)."""
    thickness: Float[Tensor, "L V"]
    """How far hair and cloth stand off the skin, m."""
    rooms: UInt8[Tensor, "B N N 3"]
    """Square root of linear light."""


@lru_cache
def wardrobe(split: Split) -> Wardrobe:
    """Of a split; painted on first use (some tens of seconds), then read from the cache."""
    path = makehuman_assets.cache_folder() / "scenes" / f"wardrobe-{split}-{makehuman_assets.fingerprint(_CODE)}.safetensors"
    if not path.is_file():
        tell(f"training scenes: painting clothes and rooms ({split}), once")
        _painted(SEEDS[split], OUTFITS[split], ROOMS[split]).save(path)
    return Wardrobe.load(path)


def _painted(seed: int, outfits: int, rooms: int) -> Wardrobe:
    worn = [dressed(makehuman.individual(seed + i), seed + i, TEXELS) for i in range(outfits)]
    return Wardrobe(
        torch.from_numpy(np.stack([w.texture for w in worn])),
        torch.from_numpy(np.stack([w.thickness for w in worn])),
        torch.from_numpy(np.concatenate([_views(seed + i) for i in range(rooms)])),
    )


def _views(seed: int) -> UInt8[np.ndarray, "B N N 3"]:
    """Pictures of a room from inside, looking anywhere."""
    rng = np.random.default_rng([seed, 29])
    place = Room.seeded(seed, float(rng.uniform(3.5, 6.0)), 320)
    grid = (np.arange(BACKDROP, dtype=np.float32) + 0.5) / BACKDROP * 2 - 1
    pictures = []
    for _ in range(VIEWS):
        origin = np.array([*rng.uniform(-0.6, 0.6, 2) * place.half, rng.uniform(0.8, HEIGHT - 0.5)], np.float32)
        yaw, pitch, field = rng.uniform(-np.pi, np.pi), rng.uniform(-0.45, 0.2), rng.uniform(0.35, 0.8)
        ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)], np.float32)
        right = np.array([np.sin(yaw), -np.cos(yaw), 0], np.float32)
        x, y = np.meshgrid(grid, grid)
        rays = ahead + field * (x[..., None] * right + y[..., None] * np.cross(ahead, right))
        rays = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)
        points, surface = place.hits(origin, rays)
        everywhere, key = place.lit(points.reshape(-1, 3), surface.ravel())
        light = (everywhere + key).reshape(BACKDROP, BACKDROP, 3)
        pictures.append((np.sqrt(light.clip(0, 1)) * 255 + 0.5).astype(np.uint8))
    return np.stack(pictures)

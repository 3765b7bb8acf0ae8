"""The static room behind the people: floor, walls, posters and lamps; rendered once per camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from studio.virtual.rays import single

HEIGHT = 3.4
"""Of the room, m."""


@dataclass(frozen=True)
class Room:
    """A box with textured surfaces and a key lamp with a fill lamp opposite."""

    half: float
    """Half the side of the square floor, m."""
    textures: tuple[UInt8[np.ndarray, "N N 3"], ...]
    """Square root of linear albedo of floor, ceiling, and the walls at +x, -x, +y, -y."""
    key: Float[np.ndarray, "3"]
    """Where the key lamp hangs, m."""
    fill: Float[np.ndarray, "3"]

    @classmethod
    def seeded(cls, seed: int, half: float, texels: int = 1536) -> Room:
        """A room whose colours, posters and lamps depend on the seed alone; `texels` along each side of a surface."""
        rng = np.random.default_rng([seed, 23])
        angle = rng.uniform(0, 2 * np.pi)
        key = np.array([1.9 * np.cos(angle), 1.9 * np.sin(angle), HEIGHT - 0.1], np.float32)
        surfaces = [_floor(rng, half, texels), np.full((8, 8, 3), 0.7, np.float32), *(_wall(rng, half, texels) for _ in range(4))]
        textures = tuple((np.sqrt(s) * 255 + 0.5).astype(np.uint8) for s in surfaces)
        return cls(half, textures, key, key * single([-0.9, -0.9, 0.8]))

    def hits(
        self, origin: Float[np.ndarray, "3"], rays: Float[np.ndarray, "... 3"]
    ) -> tuple[Float[np.ndarray, "... 3"], Int[np.ndarray, "..."]]:
        """Where rays from inside the room meet it (world, m), and which surface."""
        limits = single([[self.half, self.half, HEIGHT], [-self.half, -self.half, 0]])
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(rays > 0, limits[0] - origin, limits[1] - origin) / rays
        reach = np.where(np.isfinite(reach), reach, np.inf)
        axis = reach.argmin(-1)
        point = origin + np.take_along_axis(reach, axis[..., None], -1) * rays
        positive = np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0
        surface = np.where(axis == 2, np.where(positive, 1, 0), 2 + 2 * axis + np.where(positive, 0, 1))
        return point.astype(np.float32), surface

    def lit(
        self, points: Float[np.ndarray, "N 3"], surface: Int[np.ndarray, "N"]
    ) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
        """Linear light that leaves the room's points towards any eye: from everywhere, and from the key lamp alone."""
        albedo = np.zeros_like(points)
        normals = single([[0, 0, 1], [0, 0, -1], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0]])
        for s in np.unique(surface):
            here = surface == s
            p = points[here]
            across = (p[:, 1] if s in (2, 3) else p[:, 0]) / self.half
            up = p[:, 1] / self.half if s < 2 else 1 - 2 * p[:, 2] / HEIGHT
            albedo[here] = (sampled(self.textures[s], (across + 1) / 2, (up + 1) / 2).astype(np.float32) / 255) ** 2
        to_key = self.key - points
        square = (to_key**2).sum(-1, keepdims=True)
        facing = (to_key * normals[surface]).sum(-1, keepdims=True).clip(0) / np.sqrt(square)
        corner = (1 - 0.35 * np.exp(-points[:, 2:] / 0.25) * (surface[:, None] >= 2)).astype(np.float32)
        return albedo * 0.6 * corner, albedo * facing * key_falloff(square)


def key_falloff(square: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Strength of the key lamp by squared distance (m^2), flattened so that near faces do not burn out."""
    return 7.5 / (3.5 + square)


def sampled(texture: Float[np.ndarray, "H W 3"], u: Float[np.ndarray, "N"], v: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N 3"]:
    """Bilinear samples of a texture at (u, v) in 0..1 from its left and top edges."""
    height, width = texture.shape[:2]
    # cv2.remap takes at most 32,767 rows: fold the list into an image.
    columns = 1024
    padded = -len(u) % columns
    x = np.pad((u * width - 0.5).astype(np.float32), (0, padded)).reshape(-1, columns)
    y = np.pad((v * height - 0.5).astype(np.float32), (0, padded)).reshape(-1, columns)
    parts = [
        cv2.remap(texture, x[i : i + 16384], y[i : i + 16384], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for i in range(0, len(x), 16384)
    ]
    if not parts:
        return np.zeros((0, 3), texture.dtype)
    return np.concatenate(parts).reshape(-1, 3)[: len(u)]


def cloud(rng: np.random.Generator, side: int, octaves: tuple[int, ...]) -> Float[np.ndarray, "N N"]:
    """Smooth noise of about unit variance: random grids of the given sizes, enlarged and added."""
    total = np.zeros((side, side), np.float32)
    for i, grid in enumerate(octaves):
        total += cv2.resize(rng.standard_normal((grid, grid)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC) * 0.7**i
    return total / max(float(total.std()), 1e-6)


def _floor(rng: np.random.Generator, half: float, texels: int) -> Float[np.ndarray, "N N 3"]:
    metre = texels / (2 * half)
    y, x = np.mgrid[:texels, :texels].astype(np.float32) / metre
    base = single(rng.uniform([0.20, 0.16, 0.12], [0.36, 0.30, 0.26]))
    plank = np.floor(x / 0.18).astype(int)
    row = np.floor(y / 1.3 + 0.37 * plank).astype(int)
    tone = rng.uniform(0.75, 1.2, (64, 64)).astype(np.float32)[plank % 64, row % 64]
    grain = cv2.resize(rng.standard_normal((48, texels)).astype(np.float32), (texels, texels), interpolation=cv2.INTER_CUBIC)
    seam = ((x / 0.18) % 1 < 0.04) | ((y / 1.3 + 0.37 * plank) % 1 < 0.006)
    shade = tone * (1 + 0.10 * grain + 0.05 * cloud(rng, texels, (12, 90))) * np.where(seam, 0.55, 1)
    return (base * shade[..., None]).clip(0.02, 0.9).astype(np.float32)


def _wall(rng: np.random.Generator, half: float, texels: int) -> Float[np.ndarray, "N N 3"]:
    base = single(rng.uniform(0.30, 0.55) * (1 + rng.uniform(-0.14, 0.14, 3)))
    wall = base * (1 + 0.05 * cloud(rng, texels, (6, 40, 200)))[..., None]
    wall[int(texels * 0.965) :] *= 0.35
    across, up = texels / (2 * half), texels / HEIGHT
    for _ in range(int(2 * half / 1.6)):
        w, h = (rng.uniform(0.5, 1.1, 2) * [across, up]).astype(int)
        x, y = int(rng.uniform(0, texels - w)), int(rng.uniform(0.15, 0.75) * (texels - h))
        wall[y : y + h, x : x + w] = _poster(rng, h, w)
    return wall.clip(0.02, 0.9).astype(np.float32)


def _poster(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "H W 3"]:
    side = max(height, width)
    low, high = rng.uniform(0.05, 0.3, 3), rng.uniform(0.3, 0.8, 3)
    kind = rng.integers(3)
    if kind == 0:
        mix = (cloud(rng, side, (4, 9, 30)) > 0).astype(np.float32)
    elif kind == 1:
        y, x = np.mgrid[:side, :side]
        mix = ((x * 8 // side + y * 8 // side) % 2).astype(np.float32)
    else:
        mix = (np.sin(np.linspace(0, rng.uniform(20, 60), side))[:, None] > 0).astype(np.float32) * np.ones((1, side), np.float32)
    picture = low + (high - low) * mix[:height, :width, None]
    edge = max(2, side // 40)
    picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:] = 0.8, 0.8, 0.8, 0.8
    return picture

"""One crop of a person, ray-cast directly: a pinhole eye, light on a textured surface, something behind and perhaps in front, a bad lens.

Only the crop's own rays are cast; what is behind is a picture and costs nothing. Light is linear, images are its square root in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from calibration.cameras import upright_view
from studio.train.performers import Topology
from studio.train.wardrobe import Wardrobe
from studio.virtual.rays import Hits, Meshes
from studio.virtual.room import cloud, sampled

SUBPIXELS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))
"""Where a pixel on an edge is sampled, px from its centre."""
STEP = 0.03
"""Jump of depth that makes an edge, m."""
TARGET = (0.0, 0.0, 1.02)
"""What cameras look at, m."""


@dataclass(frozen=True)
class Eye:
    """The pinhole camera of a crop of `size` px; pixel (0, 0) is the centre of the top-left pixel."""

    size: int
    focal: float
    """px."""
    centre: Float[np.ndarray, "2"]
    """Principal point, px of the crop; it may lie far outside."""
    R_camera_world: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, "3"]

    def project(self, points: Float[np.ndarray, "... 3"]) -> tuple[Float[np.ndarray, "... 2"], Float[np.ndarray, "..."]]:
        """Pixels and depths, m."""
        p = (points - self.position) @ self.R_camera_world.T
        return self.focal * p[..., :2] / p[..., 2:] + self.centre, p[..., 2]

    def rays(self, pixels: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 3"]:
        """Directions in the world, of length one along the optical axis: distances in them are depths."""
        plane = (pixels - self.centre) / self.focal
        return (np.concatenate([plane, np.ones_like(plane[..., :1])], -1) @ self.R_camera_world).astype(np.float32)

    def grid(self) -> Float[np.ndarray, "S S 3"]:
        """Rays through all pixels' centres."""
        x, y = np.meshgrid(np.arange(self.size), np.arange(self.size))
        return self.rays(np.stack([x, y], -1).astype(np.float64))


def placed(rng: np.random.Generator, yaw: float, far: float, size: int) -> Eye:
    """An eye `far` m from the middle, a little rolled, whose optical axis passes near it; it still has to be cropped."""
    height = rng.uniform(0.5, 2.8)
    position = np.array([far * np.cos(yaw), far * np.sin(yaw), height])
    level = upright_view(torch.from_numpy(np.array(TARGET) + rng.uniform(-0.15, 0.15, 3) - position)).numpy()
    roll = rng.normal(0, 0.08)
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return Eye(size, 1.0, np.zeros(2), turn @ level, position)


def cropped(eye: Eye, points: Float[np.ndarray, "N 3"], padding: float, shift: Float[np.ndarray, "2"]) -> Eye:
    """The eye zoomed so that a square `padding` times the points' box fills its image; `shift` moves the square by shares of the box."""
    plane, _ = eye.project(points)
    low, high = plane.min(0), plane.max(0)
    extent = float((high - low).max())
    focal = eye.size / (padding * extent)
    middle = (low + high) / 2 + shift * extent
    return Eye(eye.size, eye.focal * focal, (eye.size - 1) / 2 + focal * (eye.centre - middle), eye.R_camera_world, eye.position)


@dataclass(frozen=True)
class Surface:
    """A dressed person at one moment."""

    shared: Topology
    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    meshes: Meshes
    texture: UInt8[np.ndarray, "N N 3"]
    """Square root of linear albedo."""
    tint: Float[np.ndarray, "3"]

    @classmethod
    def dressed(
        cls,
        shared: Topology,
        skin: Float[np.ndarray, "V 3"],
        thick: Float[np.ndarray, "V"],
        texture: UInt8[np.ndarray, "N N 3"],
        tint: Float[np.ndarray, "3"],
    ) -> Surface:
        """The surface that stands off the skin by `thick` m."""
        normals = shared.normals(skin)
        vertices = np.ascontiguousarray(skin + thick[:, None] * normals, np.float32)
        # Cloth is a few millimetres thick or its folds are long: the skin's normals do for its light, and cost nothing again.
        return cls(shared, vertices, normals, Meshes([(vertices, shared.triangles)]), texture, tint)

    def at(self, values: Float[np.ndarray, "V ..."], hits: Hits, which: Bool[np.ndarray, "..."]) -> Float[np.ndarray, "n ..."]:
        """What vertices hold, at the chosen hits."""
        return np.einsum("nk,nkc->nc", hits.corner[which], values[self.shared.triangles[hits.triangle[which]]])

    def uv(self, hits: Hits, which: Bool[np.ndarray, "..."]) -> Float[np.ndarray, "n 2"]:
        """Texture coordinates at the chosen hits."""
        return np.einsum("nk,nkc->nc", hits.corner[which], self.shared.uv[hits.triangle[which]])


@dataclass(frozen=True)
class Light:
    """A lamp far away, and light from all around."""

    to_lamp: Float[np.ndarray, "3"]
    lamp: Float[np.ndarray, "3"]
    """Colours, linear."""
    around: Float[np.ndarray, "3"]
    gloss: float
    shadows: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> Light:
        """Mostly from above; warm, cold, hard or flat."""
        direction = rng.normal(0, 1, 3) + [0, 0, 1.0]
        direction /= np.linalg.norm(direction)
        colour = lambda: 1 + 0.15 * rng.normal(0, 1, 3).clip(-2, 2)  # noqa: E731
        return cls(
            direction.astype(np.float32),
            (rng.uniform(0.1, 1.5) * colour()).astype(np.float32),
            (rng.uniform(0.25, 0.7) * colour()).astype(np.float32),
            float(rng.uniform(0, 0.12)),
            bool(rng.uniform() < 0.7),
        )


def shaded(surface: Surface, light: Light, eye: Eye, hits: Hits, rays: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "n 3"]:
    """Linear light from where rays meet the person, in the order of the rays that do."""
    solid = hits.person >= 0
    uv = surface.uv(hits, solid)
    albedo = (sampled(surface.texture, uv[:, 0], 1 - uv[:, 1]).astype(np.float32) / 255) ** 2 * surface.tint
    normal = surface.at(surface.normals, hits, solid).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9)
    lit = ((normal @ light.to_lamp + 0.15) / 1.15).clip(0)
    ray = rays[solid]
    if light.shadows and len(ray):
        point = eye.position.astype(np.float32) + hits.distance[solid][:, None] * ray + 0.006 * normal
        lit = lit * ~surface.meshes.blocked(point, light.to_lamp, far=3.0)
    half = light.to_lamp - ray / np.linalg.norm(ray, axis=1, keepdims=True).clip(1e-9)
    half /= np.linalg.norm(half, axis=1, keepdims=True).clip(1e-9)
    shine = light.gloss * lit * (normal * half).sum(1).clip(0) ** 30
    return albedo * (light.around * (0.75 + 0.25 * normal[:, 2:]) + light.lamp * lit[:, None]) + light.lamp * shine[:, None]


def pictured(surface: Surface, light: Light, eye: Eye, behind: Float[np.ndarray, "S S 3"]) -> tuple[Float[np.ndarray, "S S 3"], Hits]:
    """Linear light of the person before a backdrop, edges smoothed by four samples a pixel; what every pixel's centre sees."""
    rays, origin = eye.grid(), eye.position.astype(np.float32)
    hits = surface.meshes.cast(origin, rays)
    solid = hits.person >= 0
    image = behind.copy()
    image[solid] = shaded(surface, light, eye, hits, rays)
    edge = _edges(hits)
    where = np.stack(np.nonzero(edge)[::-1], -1)[:, None] + np.array(SUBPIXELS)
    if len(where):
        aside = eye.rays(where)
        some = surface.meshes.cast(origin, aside)
        colours = np.repeat(behind[edge][:, None], len(SUBPIXELS), 1)
        colours[some.person >= 0] = shaded(surface, light, eye, some, aside)
        image[edge] = colours.mean(1)
    return image, hits


def _edges(hits: Hits) -> Bool[np.ndarray, "S S"]:
    depth = np.where(hits.person >= 0, hits.distance, 0).astype(np.float32)
    edge = np.zeros(depth.shape, bool)
    down, right = np.abs(np.diff(depth, axis=0)) > STEP, np.abs(np.diff(depth, axis=1)) > STEP
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def backdrop(rng: np.random.Generator, size: int, bank: Wardrobe) -> Float[np.ndarray, "S S 3"]:
    """Linear light behind a person: a part of a room, clouds of colour, or a gradient; with things standing about."""
    kind = rng.uniform()
    if kind < 0.7:
        picture = bank.rooms[int(rng.integers(len(bank.rooms)))].numpy()
        side = int(rng.uniform(0.35, 1.0) * len(picture))
        y, x = rng.integers(0, len(picture) - side + 1, 2)
        part = picture[y : y + side, x : x + side][:, :: rng.choice([-1, 1])]
        light = (cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255) ** 2
    else:
        low, high = rng.uniform(0, 0.8, (2, 3))
        ramp = np.linspace(0, 1, size)[:, None] * np.cos(a := rng.uniform(0, 6.3)) + np.linspace(0, 1, size) * np.sin(a)
        mix = ramp if kind < 0.85 else cloud(rng, size, (3, 7, 20)) * 0.3 + 0.5
        light = (low + (high - low) * mix.clip(0, 1)[..., None]).astype(np.float32)
    light = light * rng.uniform(0.5, 1.5) * (1 + 0.1 * rng.normal(0, 1, 3))
    for _ in range(rng.poisson(1.2)):
        alpha = _shape(rng, size, rng.uniform(0.05, 0.35))[..., None]
        light = light * (1 - alpha) + alpha * _stuff(rng, size, bank)
    return light.astype(np.float32).clip(0, 1)


def occluder(rng: np.random.Generator, size: int, bank: Wardrobe) -> tuple[Float[np.ndarray, "S S"], Float[np.ndarray, "S S 3"]]:
    """Something before the person: how much of each pixel it covers, and its linear light."""
    return _shape(rng, size, rng.uniform(0.12, 0.4)), _stuff(rng, size, bank)


def _shape(rng: np.random.Generator, size: int, reach: float) -> Float[np.ndarray, "S S"]:
    """Coverage of a bar, an ellipse or a polygon about `reach` of the image wide, at a random place."""
    fine, middle = 4 * size, rng.uniform(0, 1, 2)
    canvas = np.zeros((fine, fine), np.uint8)
    kind = rng.integers(3)
    if kind == 0:
        turn, thin = rng.uniform(0, np.pi), rng.uniform(0.03, 0.12)
        way, across = np.array([np.cos(turn), np.sin(turn)]) * 1.5 * reach, np.array([-np.sin(turn), np.cos(turn)]) * thin
        corners = middle + np.array([way + across, way - across, -way - across, -way + across])
    elif kind == 1:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        corners = middle + np.stack([np.cos(angles), np.sin(angles)], 1) * reach / 2 * rng.uniform(0.4, 1.0, 2)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, 6))
        corners = middle + np.stack([np.cos(angles), np.sin(angles)], 1) * reach / 2 * rng.uniform(0.5, 1.2, (6, 1))
    cv2.fillPoly(canvas, [np.round(corners * fine).astype(np.int32)], 255)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _stuff(rng: np.random.Generator, size: int, bank: Wardrobe) -> Float[np.ndarray, "S S 3"]:
    """Linear light of some material: plain, cloth as people wear it, or a piece of a room."""
    source = (None, bank.textures, bank.rooms)[rng.integers(3)]
    if source is None:
        return np.broadcast_to(rng.uniform(0, 0.8, 3), (size, size, 3)).astype(np.float32)
    picture = source[int(rng.integers(len(source)))].numpy()
    y, x = rng.integers(0, len(picture) - 40, 2)
    part = cv2.resize(picture[y : y + 40, x : x + 40], (size, size), interpolation=cv2.INTER_LINEAR)
    return (part.astype(np.float32) / 255) ** 2 * rng.uniform(0.4, 1.4)


def developed(rng: np.random.Generator, light: Float[np.ndarray, "S S 3"], strength: float) -> UInt8[np.ndarray, "S S 3"]:
    """8-bit RGB as a middling camera gives it: exposure, colour, blur, motion, noise and compression, all scaled by `strength`."""
    image = np.sqrt(light.clip(0, 1)) * 255
    gain = np.exp(strength * (rng.normal(0, 0.15) + 0.05 * rng.normal(0, 1, 3)))
    image = (image * gain + strength * rng.normal(0, 8)).astype(np.float32)
    if (sigma := strength * rng.uniform(0, 1.1)) > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.uniform() < 0.15 * strength:
        turn, kernel = rng.uniform(0, np.pi), np.zeros((5, 5), np.float32)
        for s in np.linspace(-2, 2, 9):
            kernel[round(2 + s * np.sin(turn)), round(2 + s * np.cos(turn))] = 1
        image = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    image += strength * rng.uniform(0, 9) * rng.standard_normal(image.shape, np.float32)
    out = (image + 0.5).clip(0, 255).astype(np.uint8)
    if rng.uniform() < 0.3 * strength:
        _, packed = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 92))])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1]
    return np.ascontiguousarray(out)

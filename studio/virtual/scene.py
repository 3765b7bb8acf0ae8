"""Ray-cast images of people in a room: what every pixel's centre sees, and how it is lit.

Embree (through Open3D) answers the rays; the room is rendered once per camera and only rays near people and their shadows are
cast anew each frame. Light is linear; `developed` turns it into an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy import sparse

from calibration.cameras import Cameras
from rigs.body import Body
from studio.virtual.looks import Look
from studio.virtual.rays import Hits, Meshes
from studio.virtual.room import Room, key_falloff, sampled

SUBPIXELS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))
"""Where a pixel on an edge is sampled, px from its centre."""
LAMP_RADIUS = 0.18
"""Of the key lamp, m: softens shadows on the room."""


@dataclass(frozen=True)
class Figure:
    """One person ready to be rendered; the mesh of their body with hair and cloth on it."""

    body: Body
    look: Look
    uv: Float[np.ndarray, "F 3 2"]
    triangles: Int[np.ndarray, "F 3"]
    gather: sparse.csr_matrix
    """(V, F): sums what the triangles around a vertex hold."""
    rest: Float[np.ndarray, "V 3"]
    """Rendered vertices at rest, m."""
    openness: Float[np.ndarray, "V"]
    """How much light from all around reaches each vertex at rest, 0..1."""

    @classmethod
    def of(cls, body: Body, look: Look) -> Figure:
        """A body whose template is the person, in a look."""
        F = body.triangles.numpy().astype(np.int64)
        assert body.uv is not None  # `dressed` has checked it
        gather = sparse.csr_matrix(
            (np.ones(F.size, np.float32), (F.ravel(), np.repeat(np.arange(len(F)), 3))), shape=(len(body.skin), len(F))
        )
        skin = body.skin.rest.numpy()
        bare = cls(body, look, body.uv.numpy().astype(np.float32), F, gather, skin, np.ones(len(skin), np.float32))
        surface, normals = bare.surface(skin)
        return cls(body, look, bare.uv, F, gather, surface, _openness(surface, normals, F))

    def surface(self, vertices: Float[np.ndarray, "V 3"]) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "V 3"]]:
        """Rendered vertices (hair and cloth stand off the skin) and their unit normals."""
        thick = vertices + self.look.thickness[:, None] * self._normals(vertices)
        return thick, self._normals(thick)

    def _normals(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        a, b, c = (vertices[self.triangles[:, i]] for i in range(3))
        normal = self.gather @ np.cross(b - a, c - a).astype(np.float32)
        return normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)


@dataclass(frozen=True)
class Crowd:
    """All people at one moment."""

    figures: tuple[Figure, ...]
    vertices: Float[np.ndarray, "M 3"]
    """Rendered surfaces of all figures, one after the other, m."""
    normals: Float[np.ndarray, "M 3"]
    meshes: Meshes

    @classmethod
    def posed(cls, figures: tuple[Figure, ...], skins: list[Float[np.ndarray, "V 3"]]) -> Crowd:
        """Figures whose skins lie at the given vertices."""
        surfaces = [f.surface(np.ascontiguousarray(v, np.float32)) for f, v in zip(figures, skins, strict=True)]
        vertices = np.concatenate([s[0] for s in surfaces])
        meshes = Meshes([(points, f.triangles) for f, (points, _) in zip(figures, surfaces)])
        return cls(figures, vertices, np.concatenate([s[1] for s in surfaces]), meshes)

    def offset(self, person: int) -> int:
        """Where a figure's vertices start."""
        return sum(len(f.look.thickness) for f in self.figures[:person])

    def cast(self, origin: Float[np.ndarray, "3"], rays: Float[np.ndarray, "... 3"]) -> Hits:
        """What unit rays from one point meet."""
        return self.meshes.cast(origin, rays)

    def shaded_from(self, lamp: Float[np.ndarray, "... 3"], points: Float[np.ndarray, "... 3"]) -> Bool[np.ndarray, "..."]:
        """Whether somebody stands between the points and the lamp."""
        return self.meshes.blocked(points, lamp - points, near=0.002)


def _openness(vertices: Float[np.ndarray, "V 3"], normals: Float[np.ndarray, "V 3"], F: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V"]:
    """Share of 48 cosine-spread rays of 7 cm that leave the body freely: creases, eye sockets and nostrils are darker."""
    rng = np.random.default_rng(0)
    sphere = rng.standard_normal((48, 3)).astype(np.float32)
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    ray = normals[:, None] * 1.001 + sphere
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    start = vertices[:, None] + 0.002 * normals[:, None]
    return 1 - Meshes([(vertices, F)]).blocked(start, ray, far=0.07).mean(1).astype(np.float32)


class View:
    """One camera's standing view of the room."""

    def __init__(self, camera: Cameras, room: Room) -> None:
        """Ray directions and the empty room's light for every pixel; a few seconds for a big image."""
        self.camera, self.room = camera, room
        self.width, self.height = (int(v) for v in camera.size[0].tolist())
        self.origin = camera.position[0].numpy().astype(np.float32)
        x, y = torch.meshgrid(torch.arange(self.width, dtype=torch.float64), torch.arange(self.height, dtype=torch.float64), indexing="xy")
        self.rays = camera.ray(torch.stack([x, y], -1)[None])[0].numpy().astype(np.float32)
        # Over a third of a pixel the lens is as good as linear.
        down, right = np.gradient(self.rays, axis=(0, 1))
        self.down, self.right = np.asarray(down, np.float32), np.asarray(right, np.float32)
        self.points, self.surface = room.hits(self.origin, self.rays)
        self.everywhere, self.key = self._empty_room()
        self.empty = self.everywhere + self.key
        self.distance = np.linalg.norm(self.points - self.origin, axis=-1)

    def _empty_room(self) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W 3"]]:
        total = [np.zeros_like(self.rays), np.zeros_like(self.rays)]
        for dx, dy in SUBPIXELS:
            points, surface = self.room.hits(self.origin, self.rays + dx * self.right + dy * self.down)
            for sum_, part in zip(total, self.room.lit(points.reshape(-1, 3), surface.ravel())):
                sum_ += part.reshape(sum_.shape) / len(SUBPIXELS)
        return total[0], total[1]

    def box(self, points: Float[np.ndarray, "N 3"], margin: int) -> tuple[slice, slice]:
        """Rows and columns of the image that hold the projected points, with a margin in px."""
        pixels = self.camera.project(torch.from_numpy(points).double())[0].numpy()
        pixels = pixels[np.isfinite(pixels).all(1)].clip(-1e6, 1e6)  # someone who passes close beside the camera
        if not len(pixels):
            return slice(0, 0), slice(0, 0)
        low, high = np.floor(pixels.min(0)).astype(int) - margin, np.ceil(pixels.max(0)).astype(int) + margin + 1
        columns = slice(int(np.clip(low[0], 0, self.width)), int(np.clip(high[0], 0, self.width)))
        return slice(int(np.clip(low[1], 0, self.height)), int(np.clip(high[1], 0, self.height))), columns

    def radiance(self, crowd: Crowd) -> Float[np.ndarray, "H W 3"]:
        """Linear light at every pixel."""
        image = self.empty.copy()
        self._add_shadows(image, crowd)
        for person in range(len(crowd.figures)):
            start = crowd.offset(person)
            box = self.box(crowd.vertices[start : start + len(crowd.figures[person].look.thickness)], 3)
            if box[0].stop > box[0].start and box[1].stop > box[1].start:
                self._add_people(image, crowd, box)
        return image

    def seen(self, crowd: Crowd) -> Hits:
        """What the centre of every pixel sees."""
        return crowd.cast(self.origin, self.rays)

    def _add_shadows(self, image: Float[np.ndarray, "H W 3"], crowd: Crowd) -> None:
        """Take the key lamp's light from where people stand in its way, and some of all light from under their feet."""
        lamp = self.room.key
        some = crowd.vertices[::7]
        cast, _ = self.room.hits(lamp, some - lamp)
        rows, columns = self.box(np.concatenate([cast, some]), 12)
        points = self.points[rows, columns]
        if not points.size:
            return
        rng = np.random.default_rng(5)
        jitter = rng.uniform(-LAMP_RADIUS, LAMP_RADIUS, (4, 4, 3)).astype(np.float32)
        tiles = np.tile(jitter, (points.shape[0] // 4 + 1, points.shape[1] // 4 + 1, 1))[: points.shape[0], : points.shape[1]]
        dark = cv2.blur(crowd.shaded_from(lamp + tiles, points).astype(np.float32), (4, 4))
        low = crowd.vertices[crowd.vertices[:, 2] < 0.12][::9]
        image[rows, columns] -= self.key[rows, columns] * dark[..., None]
        if len(low):
            rows, columns = self.box(np.concatenate([low, low * [1, 1, 0]]).astype(np.float32), 30)
            image[rows, columns] *= 1 - 0.55 * self._contact(self.points[rows, columns], low)[..., None]

    @staticmethod
    def _contact(points: Float[np.ndarray, "H W 3"], low: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "H W"]:
        """How much of the sky feet hide from floor points: near one of them within centimetres."""
        if not points.size:
            return np.zeros(points.shape[:2], np.float32)
        few = low[:: max(1, len(low) // 24)]
        gap = ((points[..., None, :] - few) ** 2).sum(-1)
        return (np.exp(-gap / 0.05**2).max(-1) * (points[..., 2] < 0.02)).astype(np.float32)

    def _add_people(self, image: Float[np.ndarray, "H W 3"], crowd: Crowd, box: tuple[slice, slice]) -> None:
        rays = self.rays[box]
        hits = crowd.cast(self.origin, rays)
        solid = hits.person >= 0
        image[box][solid] = self._shaded(crowd, hits, rays, solid)
        edge = _edges(hits)
        total = np.zeros((int(edge.sum()), 3), np.float32)
        behind = self.empty[box][edge]
        for dx, dy in SUBPIXELS:
            aside = rays[edge] + dx * self.right[box][edge] + dy * self.down[box][edge]
            aside = aside / np.linalg.norm(aside, axis=-1, keepdims=True)
            some = crowd.cast(self.origin, aside)
            light = self._backdrop(image, box, edge, solid, behind)
            light[some.person >= 0] = self._shaded(crowd, some, aside, some.person >= 0)
            total += light / len(SUBPIXELS)
        image[box][edge] = total

    @staticmethod
    def _backdrop(
        image: Float[np.ndarray, "H W 3"],
        box: tuple[slice, slice],
        edge: Bool[np.ndarray, "h w"],
        solid: Bool[np.ndarray, "h w"],
        bare: Float[np.ndarray, "N 3"],
    ) -> Float[np.ndarray, "N 3"]:
        """Light of the room behind edge pixels: shadowed where the pixel's centre shows the room, else unshadowed."""
        return np.where(solid[edge][:, None], bare, image[box][edge])

    def _shaded(
        self, crowd: Crowd, hits: Hits, rays: Float[np.ndarray, "... 3"], which: Bool[np.ndarray, "..."]
    ) -> Float[np.ndarray, "N 3"]:
        """Linear light from the people that the chosen rays meet."""
        person, triangle, corner = hits.person[which], hits.triangle[which], hits.corner[which]
        ray = rays[which]
        albedo, normal = np.empty_like(ray), np.empty_like(ray)
        openness, gloss = np.empty(len(ray), np.float32), np.empty(len(ray), np.float32)
        for p in np.unique(person):
            figure, mine = crowd.figures[p], person == p
            index, b = figure.triangles[triangle[mine]], corner[mine]
            normal[mine] = np.einsum("nk,nkc->nc", b, crowd.normals[index + crowd.offset(int(p))])
            uv = np.einsum("nk,nkc->nc", b, figure.uv[triangle[mine]])
            albedo[mine] = (sampled(figure.look.texture, uv[:, 0], 1 - uv[:, 1]).astype(np.float32) / 255) ** 2
            openness[mine] = (b * figure.openness[index]).sum(1)
            gloss[mine] = (b * figure.look.gloss[index]).sum(1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9)
        point = self.origin + hits.distance[which][:, None] * ray
        lit = ~crowd.shaded_from(self.room.key, point + 0.004 * normal)
        return _lit(self.room, point, normal, ray, albedo, openness, gloss, lit)


def _lit(
    room: Room,
    point: Float[np.ndarray, "N 3"],
    normal: Float[np.ndarray, "N 3"],
    ray: Float[np.ndarray, "N 3"],
    albedo: Float[np.ndarray, "N 3"],
    openness: Float[np.ndarray, "N"],
    gloss: Float[np.ndarray, "N"],
    lit: Bool[np.ndarray, "N"],
) -> Float[np.ndarray, "N 3"]:
    """Light of skin and cloth: from above and below, from the fill lamp, and from the key lamp where it is in sight."""
    to_key, to_fill = room.key - point, room.fill - point
    square = (to_key**2).sum(1)
    to_key /= np.sqrt(square)[:, None]
    to_fill /= np.linalg.norm(to_fill, axis=1, keepdims=True)
    # Wrapped cosine: skin and cloth carry light a little past the terminator.
    key = (((normal * to_key).sum(1) + 0.15) / 1.15).clip(0) * lit * key_falloff(square) * 1.15
    fill = (normal * to_fill).sum(1).clip(0) * 0.28
    sky = 0.42 + 0.16 * normal[:, 2]
    half = to_key - ray
    half /= np.linalg.norm(half, axis=1, keepdims=True).clip(1e-9)
    shine = gloss * lit * (normal * half).sum(1).clip(0) ** 40
    return albedo * ((sky * openness + fill * openness) + key * (0.6 + 0.4 * openness))[:, None] + shine[:, None]


def _edges(hits: Hits) -> Bool[np.ndarray, "H W"]:
    """Pixels beside another person or the room, or where the distance jumps by more than 15 mm."""
    depth = np.where(hits.person >= 0, hits.distance, 0).astype(np.float32)
    edge = np.zeros(depth.shape, bool)
    down = np.abs(np.diff(depth, axis=0)) > 0.015
    right = np.abs(np.diff(depth, axis=1)) > 0.015
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def developed(light: Float[np.ndarray, "H W 3"], noise: float, seed: tuple[int, ...]) -> UInt8[np.ndarray, "H W 3"]:
    """8-bit RGB of linear light (gamma 2), softened by the lens (0.45 px) and with sensor noise of `noise` grey levels."""
    image = cv2.sqrt(cv2.GaussianBlur(light.clip(0, 1), (3, 3), 0.45)) * 255
    if noise > 0:
        # A bank of noise read from a random corner: as good to the eye and the networks, and thirty times cheaper.
        rng = np.random.default_rng(list(seed))
        height, width = image.shape[:2]
        bank = (
            np.random.default_rng(1).standard_normal((height + 64, width + 64, 3), dtype=np.float32)
            if _BANK.get("shape") != image.shape
            else _BANK["noise"]
        )
        _BANK.update(shape=image.shape, noise=bank)
        y, x = rng.integers(64, size=2)
        image += noise * rng.choice([-1, 1]) * bank[y : y + height, x : x + width]
    return (image + 0.5).clip(0, 255).astype(np.uint8)


_BANK: dict = {}

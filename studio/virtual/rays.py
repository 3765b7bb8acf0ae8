"""Rays against triangle meshes: Embree through Open3D, numpy in and out, one thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
from jaxtyping import Bool, Float, Int

# Open3D's stubs do not know that a tensor is made from a numpy array.
_Tensor: Any = o3d.core.Tensor


@dataclass(frozen=True)
class Hits:
    """What rays meet; person is -1 where a ray meets nothing."""

    person: Int[np.ndarray, "..."]
    """Which mesh."""
    triangle: Int[np.ndarray, "..."]
    corner: Float[np.ndarray, "... 3"]
    """Barycentric coordinates."""
    distance: Float[np.ndarray, "..."]
    """In lengths of the ray's direction; infinite where a ray meets nothing."""


class Meshes:
    """Triangle meshes that rays can meet."""

    def __init__(self, meshes: Sequence[tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]]) -> None:
        self._scene: Any = o3d.t.geometry.RaycastingScene(nthreads=1)
        for vertices, triangles in meshes:
            self._scene.add_triangles(
                _Tensor(np.ascontiguousarray(vertices, np.float32)), _Tensor(np.ascontiguousarray(triangles, np.uint32))
            )

    def cast(self, origin: Float[np.ndarray, "*#n 3"], rays: Float[np.ndarray, "*#n 3"]) -> Hits:
        """The first thing each ray meets."""
        found = self._scene.cast_rays(_joined(origin, rays), nthreads=1)
        distance, uv = found["t_hit"].numpy(), found["primitive_uvs"].numpy()
        person = np.where(np.isfinite(distance), found["geometry_ids"].numpy().astype(np.int64), -1)
        corner = np.concatenate([1 - uv.sum(-1, keepdims=True), uv], -1)
        return Hits(person, found["primitive_ids"].numpy().astype(np.int64), corner, distance)

    def blocked(
        self, origin: Float[np.ndarray, "*#n 3"], way: Float[np.ndarray, "*#n 3"], near: float = 0.0, far: float = 1.0
    ) -> Bool[np.ndarray, "*n"]:
        """Whether anything lies between two fractions of a way."""
        return self._scene.test_occlusions(_joined(origin, way), tnear=near, tfar=far, nthreads=1).numpy()

    def gap(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N"]:
        """Distance of points to the nearest surface."""
        return self._scene.compute_distance(_Tensor(np.ascontiguousarray(points, np.float32)), nthreads=1).numpy()

    def inside(self, points: Float[np.ndarray, "*n 3"]) -> Bool[np.ndarray, "*n"]:
        """Whether points lie inside the meshes: rays from there cross the surface an odd number of times, most of three."""
        found = self._scene.compute_occupancy(_Tensor(np.ascontiguousarray(points, np.float32)), nthreads=1, nsamples=3)
        return found.numpy() > 0.5


def _joined(origin: Float[np.ndarray, "*#n 3"], rays: Float[np.ndarray, "*#n 3"]) -> Any:
    both = np.empty((*np.broadcast_shapes(origin.shape, rays.shape)[:-1], 6), np.float32)
    both[..., :3], both[..., 3:] = origin, rays
    return _Tensor(both)


def single(values: Any) -> Float[np.ndarray, "..."]:
    """Values as an array in single precision."""
    return np.asarray(values, np.float32)

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

_WAYS = ((0.0371, 0.0523, 1.0), (1.0, -0.0433, 0.0271), (-0.0519, -1.0, 0.0347))
"""Directions along no plane of symmetry and no edge."""


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
        self._solids = meshes
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
        distance = self._scene.compute_distance(_Tensor(np.ascontiguousarray(points, np.float32)), nthreads=1).numpy()
        return distance.copy()  # what Open3D still owns when the process ends makes it complain, and exit with 1

    def inside(self, points: Float[np.ndarray, "*n 3"]) -> Bool[np.ndarray, "*n"]:
        """Whether points lie inside the meshes: rays from there leave through more surfaces than they enter, by two of three directions.

        Unlike the parity of crossings this holds where a mesh overlaps itself, as at a bent elbow; one of three may pass through a hole.
        """
        flat = np.ascontiguousarray(points, np.float32).reshape(-1, 3)
        votes = np.sum([self._left(flat, np.array(way, np.float32)) > 0 for way in _WAYS], 0)
        return (votes >= 2).reshape(points.shape[:-1])

    def _left(self, points: Float[np.ndarray, "N 3"], way: Float[np.ndarray, "3"]) -> Int[np.ndarray, "N"]:
        """How many more surfaces the rays leave through than they enter."""
        found = self._scene.list_intersections(_joined(points, way))
        mesh, triangle = found["geometry_ids"].numpy().astype(np.int64), found["primitive_ids"].numpy().astype(np.int64)
        outwards = np.zeros(len(triangle))
        for i, (vertices, triangles) in enumerate(self._solids):
            corners = vertices[triangles[triangle[mesh == i]]]
            outwards[mesh == i] = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) @ way
        return np.rint(np.bincount(found["ray_ids"].numpy().astype(np.int64), np.sign(outwards), len(points))).astype(np.int64)


def _joined(origin: Float[np.ndarray, "*#n 3"], rays: Float[np.ndarray, "*#n 3"]) -> Any:
    both = np.empty((*np.broadcast_shapes(origin.shape, rays.shape)[:-1], 6), np.float32)
    both[..., :3], both[..., 3:] = origin, rays
    return _Tensor(both)


def single(values: Any) -> Float[np.ndarray, "..."]:
    """Values as an array in single precision."""
    return np.asarray(values, np.float32)

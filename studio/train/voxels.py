"""Exact volumes of sampled bodies: how much of every cell of a grid lies inside the skin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import open3d as o3d
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rigs import makehuman
from rigs.body import Skin
from studio.fit.surface import _outer as outer
from studio.nets.shape import Sight
from studio.nets.volume import FINE, REACH, Grid
from studio.train import sampled
from studio.train.performers import other_person
from studio.train.sampled import WORN, Dressed, Sampled

# Open3D's stubs do not know that a tensor is made from a numpy array.
_Tensor: Any = o3d.core.Tensor


def inside(vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"], size: int) -> Bool[np.ndarray, "D D D"]:
    """Cells of the cube from -`REACH` to `REACH` (m) whose middle a closed mesh winds around; z slowest.

    Rays along x count surfaces entered less those left, so where limbs sink into each other the body stays solid.
    """
    mesh = o3d.t.geometry.RaycastingScene()
    mesh.add_triangles(_Tensor(vertices.astype(np.float32)), _Tensor(triangles.astype(np.uint32)))
    a = Grid.axis(size).numpy()
    z, y = np.meshgrid(a, a, indexing="ij")
    start = np.stack([np.full(z.size, -4.0), y.ravel() + 1e-5, z.ravel() + 1e-5], 1)  # a hair aside: no ray along an edge of a regular mesh
    rays = np.concatenate([start, np.tile([1.0, 0.0, 0.0], (z.size, 1))], 1).astype(np.float32)
    hits = mesh.list_intersections(_Tensor(rays))
    ray, t, face = (hits[k].numpy() for k in ("ray_ids", "t_hit", "primitive_ids"))
    p, q, r = (vertices[triangles[face, k]] for k in range(3))
    entering = -np.sign((q - p)[:, 1] * (r - p)[:, 2] - (q - p)[:, 2] * (r - p)[:, 1])
    cell = np.ceil((t - 4.0 + REACH) / (2 * REACH) * size - 0.5).clip(0, size).astype(int)
    change = np.zeros((len(rays), size + 1), np.float32)
    np.add.at(change, (ray, cell), entering)
    return (change.cumsum(1)[:, :size] > 0.5).reshape(size, size, size)


def volumes(bodies: Float[Tensor, "n V 3"], grid: Grid, size: int = FINE) -> Bool[Tensor, "n D D D"]:
    """Of posed bodies (`bare`), each in its own grid."""
    own = (grid.within(bodies) * REACH).numpy()
    return torch.from_numpy(np.stack([inside(v, shell()[1], size) for v in own]))


@cache
def shell() -> tuple[Int[Tensor, "V"], Int[np.ndarray, "F 3"]]:
    """The body's closed outer skin: which vertices, and triangles among them. Eyes, teeth and tongue are inside."""
    body = makehuman.load()
    faces = body.triangles.numpy()
    kept = outer(body, faces)
    again = np.full(len(body.skin), -1)
    again[kept] = np.arange(len(kept))
    return torch.from_numpy(kept), again[faces[np.isin(faces, kept).all(1)]]


def bare(people: Sampled, who: Dressed | None = None) -> Float[Tensor, "n V 3"]:
    """Vertices of the outer skin in the world, m, without clothes; `who` where they are one person of the other generator."""
    shape = people.shape if who is None else people.shape[:, : len(who.body.shape_names) - len(WORN)]
    return skin(shape, people.R, people.root, who)


def skin(
    shape: Float[Tensor, "n S"], R: Float[Tensor, "n J 3 3"], root: Float[Tensor, "n 3"], who: Dressed | None = None
) -> Float[Tensor, "n V 3"]:
    """Vertices of the outer skin of a body, the default one or `who`'s, in the world, m, without clothes."""
    who, which = who or sampled.default(), shell()[0]
    own = who.body.skin[which]
    wide = torch.cat([own.shape_basis, own.shape_basis.new_zeros(len(which), 3, len(WORN))], -1)
    whole = Skin(own.rest, wide, own.expression_basis[..., :0], own.weights)
    return who.points(torch.cat([shape, shape.new_zeros(len(shape), len(WORN))], -1), R, root, whole)


def grids(people: Sampled) -> Grid:
    """Where the cubes of sampled people lie: what the views were told of hips and heading, detection's error included."""
    sight, told = people.sight, people.views
    centre = sight.position[:, 0] + sight.R_view_world[:, 0, 2] * sight.distance[:, :1]
    towards = -sight.R_view_world[:, 0, 2]
    angle = torch.atan2(towards[:, 1], towards[:, 0]) - torch.atan2(told[:, 0, 1], told[:, 0, 0])
    c, s, o = angle.cos(), angle.sin(), torch.zeros_like(angle)
    R = torch.stack([torch.stack([c, s, o], -1), torch.stack([-s, c, o], -1), torch.tensor([0.0, 0, 1]).expand(len(c), 3)], 1)
    return Grid.around(centre, R)


def others(seeds: Sequence[int], each: int, views: int, seed: int, bank: Tensor, clean: bool = False) -> tuple[Sampled, Tensor]:
    """People of the other generator with their bodies' vertices (`bare`): `each` moments of every person, one person after another."""
    people, bodies = [], []
    for i, number in enumerate(seeds):
        some = sampled.others([number], each, views, seed * 1009 + i, bank, clean=clean)
        person = other_person(number)
        people.append(some)
        bodies.append(bare(some, Dressed.of(person.body, torch.from_numpy(person.loose))))
    return Sampled.joined(people), torch.cat(bodies)


def chosen(sight: Sight, views: Sequence[int] | Tensor | slice) -> Sight:
    """Some of the views of (N, V) sights."""
    return Sight(sight.R_view_world[:, views], sight.position[:, views], sight.distance[:, views])

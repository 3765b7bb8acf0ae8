"""A person's mesh as files want it: one vertex per texture corner, normals, few influences a vertex, triangles sorted by material."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs.body import Shaped

LEAST_WEIGHT = 1e-5
"""Skinning weights below this are dropped and the others scaled up."""
SKIN = ((0.72, 0.53, 0.44), 0.6)
LOOKS = {
    "eye": ((0.92, 0.92, 0.90), 0.15), "teeth": ((0.90, 0.87, 0.78), 0.3), "tongue": ((0.62, 0.27, 0.27), 0.5),
    "lash": ((0.05, 0.04, 0.03), 0.9), "hair": ((0.12, 0.08, 0.05), 0.8), "nail": ((0.80, 0.62, 0.56), 0.3),
}  # fmt: skip
"""Base colour (linear RGB) and roughness by a word in the part's name; skin for all others."""


@dataclass(frozen=True)
class Mesh:
    """Drawable surface in the pose it was modelled in: metres, z up, facing -y."""

    points: Float[Tensor, "P 3"]
    source: Int[Tensor, "P"]
    """Which vertex of the body each point copies."""
    normals: Float[Tensor, "P 3"]
    uv: Float[Tensor, "P 2"] | None
    """Origin at the picture's lower left."""
    influences: Int[Tensor, "P N"]
    """Joints that move a point, heaviest first; N is a multiple of four."""
    weights: Float[Tensor, "P N"]
    """Zero where unused; rows sum to one."""
    expressions: Float[Tensor, "E P 3"]
    """Displacement at full expression, m."""
    triangles: Int[Tensor, "F 3"]
    parts: Int[Tensor, "F"]
    """Material of each triangle (index into `part_names`)."""
    part_names: tuple[str, ...]
    colours: tuple[tuple[tuple[float, float, float], float], ...]
    """Base colour and roughness of each material."""


def surface(shaped: Shaped) -> Mesh:
    """The person's neutral mesh, split along texture seams."""
    body, skin = shaped.body, shaped.body.skin
    rest = shaped.rest()
    source, triangles, uv = _split(body.triangles, body.uv, len(rest))
    parts, names = _materials(shaped)
    joints, weights = influences(skin.weights)
    return Mesh(
        points=rest[source],
        source=source,
        normals=vertex_normals(rest, body.triangles)[source],
        uv=uv,
        influences=joints[source],
        weights=weights[source],
        expressions=skin.expression_basis.permute(2, 0, 1)[:, source],
        triangles=triangles,
        parts=parts,
        part_names=names,
        colours=tuple(LOOKS.get(name, SKIN) for name in names),
    )


def _split(triangles: Tensor, uv: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Source vertex of every drawable point, triangles over those points, texture coordinates of the points."""
    if uv is None:
        return torch.arange(count), triangles, None
    corners = torch.cat([triangles.reshape(-1, 1).double(), uv.reshape(-1, 2).double()], -1)
    points, index = torch.unique(corners, dim=0, return_inverse=True)
    return points[:, 0].long(), index.reshape(-1, 3), points[:, 1:]


def _materials(shaped: Shaped) -> tuple[Tensor, tuple[str, ...]]:
    """Material of each triangle: what an eye joint moves, and parts that look different from skin, are apart; all others are one."""
    body = shaped.body
    named = [_look(body.part_names[p]) for p in body.parts.tolist()] if body.parts is not None else ["skin"] * len(body.skin)
    eyes = torch.tensor([name.endswith("Eye") for name in body.skeleton.names])[body.skin.weights.argmax(-1)].tolist()
    vertices = ["eye" if eye else name for eye, name in zip(eyes, named)]
    used = [vertices[v] for v in body.triangles[:, 0].tolist()]
    names = tuple(sorted(set(used), key=lambda word: (word != "skin", word)))
    return torch.tensor([names.index(word) for word in used]), names


def _look(name: str) -> str:
    return next((word for word in LOOKS if word in name.lower()), "skin")


def influences(weights: Float[Tensor, "P J"]) -> tuple[Int[Tensor, "P N"], Float[Tensor, "P N"]]:
    """Joints and weights of each point, heaviest first, N the least multiple of four that holds every weight worth keeping."""
    kept = torch.where(weights < LEAST_WEIGHT, 0.0, weights)
    most = int((kept > 0).sum(1).max())
    heavy, joints = kept.sort(dim=1, descending=True)
    width = min(-(-most // 4) * 4, weights.shape[1])
    heavy, joints = heavy[:, :width], joints[:, :width]
    missing = -(-most // 4) * 4 - width
    heavy = torch.nn.functional.pad(heavy / heavy.sum(1, keepdim=True), (0, missing))
    joints = torch.nn.functional.pad(joints, (0, missing))
    return torch.where(heavy > 0, joints, 0), heavy


def vertex_normals(points: Float[Tensor, "V 3"], triangles: Int[Tensor, "F 3"]) -> Float[Tensor, "V 3"]:
    """Unit normals, the area-weighted mean of each vertex's triangles; up where a vertex has none."""
    a, b, c = points[triangles].unbind(1)
    faces = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(points).index_add(0, triangles.flatten(), faces.repeat_interleave(3, 0))
    length = normals.norm(dim=-1, keepdim=True)
    up = normals.new_tensor([0, 0, 1.0])
    return torch.where(length > 1e-20, normals / length.clamp_min(1e-20), up)

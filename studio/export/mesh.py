"""A person's mesh as files want it: one vertex per texture corner, normals, few influences a vertex, triangles sorted by material."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs.body import Shaped, vertex_normals
from studio.export.animation import Character, y_up

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
    """Drawable surface in the pose to which it is bound: metres, y up, facing +z."""

    points: Float[Tensor, "P 3"]
    normals: Float[Tensor, "P 3"]
    uv: Float[Tensor, "P 2"] | None
    """Texture coordinates of each point, origin at the picture's lower left; None where points are not split or there are none."""
    corner_uv: Float[Tensor, "F 3 2"] | None
    """Texture coordinates of each triangle's corners."""
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


def surface(character: Character, split: bool) -> Mesh:
    """The person's neutral mesh; `split` makes one point per vertex and texture coordinate, for files that need it."""
    body, skin = character.shaped.body, character.shaped.body.skin
    uv = None if body.uv is None else body.uv.double()
    source, triangles, point_uv = _split(body.triangles, uv if split else None, len(skin))
    points, expressions = _bound(character)
    parts, names = _materials(character.shaped)
    joints, weights = influences(skin.weights)
    return Mesh(
        points=points[source],
        normals=vertex_normals(points, body.triangles)[source],
        uv=point_uv,
        corner_uv=uv,
        influences=joints[source] + len(character.above),
        weights=weights[source],
        expressions=expressions[:, source],
        triangles=triangles,
        parts=parts,
        part_names=names,
        colours=tuple(LOOKS.get(name, SKIN) for name in names),
    )


def _bound(character: Character) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "E V 3"]]:
    """Neutral vertices and face displacements in the pose to which the mesh is bound.

    A rebound mesh is the one that linear blend skinning carries from the rest pose exactly onto the model's own mesh, vertex by vertex,
    when the joints go back to the model's own pose; of all meshes at rest that could be chosen, this one is right where the model was
    made. Carrying the mesh to the rest pose instead errs there, and twice as much on the whole (`benchmarks/rest_pose.py`).
    """
    points, faces = y_up(character.shaped.rest()), y_up(character.shaped.body.skin.expression_basis.permute(2, 0, 1))
    if not character.rebound:
        return points, faces
    extra = len(character.above)
    R_bind_rest, rest, bind = character.R_rest_bind[extra:].mT, character.rest[extra:], character.bind[extra:]
    carry = bind - (R_bind_rest @ rest[..., None])[..., 0]
    affine = torch.cat([R_bind_rest, carry[..., None]], -1).flatten(-2)
    blended = (character.shaped.body.skin.weights @ affine).unflatten(-1, (3, 4))
    back = torch.linalg.inv(blended[..., :3])
    return (back @ (points - blended[..., 3])[..., None])[..., 0], (back @ faces[..., None])[..., 0]


def _split(triangles: Tensor, uv: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Source vertex of every drawable point, triangles over those points, texture coordinates of the points."""
    if uv is None:
        return torch.arange(count), triangles, None
    corners = torch.cat([triangles.reshape(-1, 1).double(), uv.reshape(-1, 2)], -1)
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

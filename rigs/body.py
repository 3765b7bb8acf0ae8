"""A deformable body in four frozen steps: `Body` (template) -> `Shaped` (a person) -> `Posed` (a moment) -> vertices.

Rest coordinates: metres, z up, the person faces -y and its left hand is at +x. At rest every joint frame is parallel to
the world, so a joint rotation of zero everywhere is the rest pose. All steps take any leading batch axes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rigs import rotation
from rigs.skeleton import Skeleton


@dataclass(frozen=True)
class Skin:
    """Material points P that shape, expression and joints move: the vertices of a mesh, or any chosen few of them."""

    rest: Float[Tensor, "P 3"]
    """Position on the template, m."""
    shape_basis: Float[Tensor, "P 3 S"]
    """Displacement for one unit of each shape coefficient, m."""
    expression_basis: Float[Tensor, "P 3 E"]
    """Displacement for one unit of each expression coefficient, m."""
    weights: Float[Tensor, "P J"]
    """Linear blend skinning weights; every row sums to one."""
    pose_basis: Float[Tensor, "P 3 Q"] | None = None
    """Displacement for each entry of `R_local - 1` of the joints after the root (SMPL's pose correctives), m."""

    def __len__(self) -> int:
        return len(self.rest)

    def __getitem__(self, index: Int[Tensor, "N"] | Sequence[int] | slice) -> Skin:
        """The chosen points."""
        i = index if isinstance(index, slice | Tensor) else torch.tensor(index, dtype=torch.long, device=self.rest.device)
        pose = None if self.pose_basis is None else self.pose_basis[i]
        return Skin(self.rest[i], self.shape_basis[i], self.expression_basis[i], self.weights[i], pose)

    def combined(self, mix: Float[Tensor, "N P"]) -> Skin:
        """N new material points, each an affine combination (rows of `mix` sum to one) of these points."""
        pose = None if self.pose_basis is None else torch.einsum("np,pcq->ncq", mix, self.pose_basis)
        return Skin(
            mix @ self.rest,
            torch.einsum("np,pcs->ncs", mix, self.shape_basis),
            torch.einsum("np,pce->nce", mix, self.expression_basis),
            mix @ self.weights,
            pose,
        )

    @staticmethod
    def stacked(parts: Sequence[Skin]) -> Skin:
        """The points of several skins of one body, one after the other."""
        bases = [p.pose_basis for p in parts]
        pose = torch.cat([b for b in bases if b is not None]) if all(b is not None for b in bases) else None
        return Skin(
            torch.cat([p.rest for p in parts]),
            torch.cat([p.shape_basis for p in parts]),
            torch.cat([p.expression_basis for p in parts]),
            torch.cat([p.weights for p in parts]),
            pose,
        )

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Skin:
        """The same points on another device or in another precision."""
        pose = None if self.pose_basis is None else self.pose_basis.to(device, dtype)
        return Skin(
            self.rest.to(device, dtype),
            self.shape_basis.to(device, dtype),
            self.expression_basis.to(device, dtype),
            self.weights.to(device, dtype),
            pose,
        )


@dataclass(frozen=True)
class Body:
    """A template person with its ways to differ (shape), to move (joints) and to look (expression)."""

    name: str
    skeleton: Skeleton
    joints: Float[Tensor, "J 3"]
    """Joint centres of the template, m."""
    joint_shape_basis: Float[Tensor, "J 3 S"]
    """Displacement of joint centres for one unit of each shape coefficient, m."""
    skin: Skin
    """The mesh's vertices."""
    triangles: Int[Tensor, "F 3"]
    """Vertex indices, counter-clockwise seen from outside."""
    shape_names: tuple[str, ...]
    """One name per shape coefficient; each is standard normal over people."""
    expression_names: tuple[str, ...]
    """One name per expression coefficient; 0 is neutral, 1 is full."""
    keypoint_names: tuple[str, ...] = ()
    keypoints: Skin | None = None
    """Where the named anatomical keypoints lie (`rigs.keypoints`), in the order of `keypoint_names`."""
    uv: Float[Tensor, "F 3 2"] | None = None
    """Texture coordinates of each triangle's corners."""
    parts: Int[Tensor, "V"] | None = None
    """Semantic part of each vertex (index into `part_names`)."""
    part_names: tuple[str, ...] = field(default=())

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Body:
        """The same body on another device or in another precision."""
        return replace(
            self,
            joints=self.joints.to(device, dtype),
            joint_shape_basis=self.joint_shape_basis.to(device, dtype),
            skin=self.skin.to(device, dtype),
            triangles=self.triangles.to(device),
            keypoints=None if self.keypoints is None else self.keypoints.to(device, dtype),
            uv=None if self.uv is None else self.uv.to(device, dtype),
            parts=None if self.parts is None else self.parts.to(device),
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file: to a name of this process alone, then renamed, so that no reader ever sees half a body."""
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        for part, skin in (("skin", self.skin), ("keypoints", self.keypoints)):
            if skin is not None:
                tensors |= {f"{part}.{f.name}": value for f in fields(skin) if (value := getattr(skin, f.name)) is not None}
        facts: dict[str, Any] = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), str | tuple)}
        facts["joints"] = [self.skeleton.names, self.skeleton.parents]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
        save_file(
            {k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary, metadata={"kind": "Body", "facts": json.dumps(facts)}
        )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Body:
        """Read a file written by `save`; a `ValueError` names the file when it is damaged or holds something else."""
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error}); delete it and make it again") from error
        if header.get("kind") != "Body":
            raise ValueError(f"{path}: holds {header.get('kind', 'something else')}, not a body")
        facts = json.loads(header["facts"])
        names, parents = facts.pop("joints")
        skins = {
            part: Skin(**{k.removeprefix(part + "."): t for k, t in tensors.items() if k.startswith(part + ".")})
            for part in ("skin", "keypoints")
            if f"{part}.rest" in tensors
        }
        values: dict[str, Any] = {k: t for k, t in tensors.items() if "." not in k} | skins
        values |= {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        return cls(skeleton=Skeleton(tuple(names), tuple(parents)), **values)

    def keypoint_skin(self, names: Sequence[str]) -> Skin:
        """The named keypoints as material points."""
        if self.keypoints is None:
            raise ValueError(f"body {self.name!r} has no keypoints")
        unknown = [n for n in names if n not in self.keypoint_names]
        if unknown:
            raise KeyError(f"body {self.name!r} has no keypoints {unknown}")
        return self.keypoints[[self.keypoint_names.index(n) for n in names]]

    def shaped(self, shape: Float[Tensor, "... S"]) -> Shaped:
        """This body with a person's shape."""
        return Shaped(self, shape, self.joints + torch.einsum("jcs,...s->...jc", self.joint_shape_basis, shape))


@dataclass(frozen=True)
class Shaped:
    """A body with a person's shape."""

    body: Body
    shape: Float[Tensor, "... S"]
    joints: Float[Tensor, "... J 3"]
    """Joint centres at rest, m."""

    def rest(self, skin: Skin | None = None) -> Float[Tensor, "... P 3"]:
        """Points at rest with a neutral face, m; of the mesh unless a skin is named."""
        skin = self.body.skin if skin is None else skin
        return skin.rest + torch.einsum("pcs,...s->...pc", skin.shape_basis, self.shape)

    def posed(
        self,
        rotation_vectors: Float[Tensor, "... J 3"],
        translation: Float[Tensor, "... 3"],
        expression: Float[Tensor, "... E"] | None = None,
    ) -> Posed:
        """This person in a pose: local joint rotations (rad), world position of the root joint (m), expression."""
        R_local = rotation.exp(rotation_vectors)
        R, p = self.body.skeleton.forward(R_local, self.joints, translation)
        if expression is None:
            expression = translation.new_zeros(*translation.shape[:-1], len(self.body.expression_names))
        return Posed(self, R_local, R, p, expression)


@dataclass(frozen=True)
class Posed:
    """A person at one moment (or at many: the leading axes)."""

    shaped: Shaped
    R_parent_joint: Float[Tensor, "... J 3 3"]
    """Local joint rotations."""
    R_world_joint: Float[Tensor, "... J 3 3"]
    joints: Float[Tensor, "... J 3"]
    """Joint centres in the world, m."""
    expression: Float[Tensor, "... E"]

    def points(self, skin: Skin | None = None) -> Float[Tensor, "... P 3"]:
        """World positions of material points, m; of the mesh unless a skin is named. Linear blend skinning."""
        skin = self.shaped.body.skin if skin is None else skin
        local = self.shaped.rest(skin) + torch.einsum("pce,...e->...pc", skin.expression_basis, self.expression)
        if skin.pose_basis is not None:
            feature = (self.R_parent_joint[..., 1:, :, :] - torch.eye(3, dtype=local.dtype, device=local.device)).flatten(-3)
            local = local + torch.einsum("pcq,...q->...pc", skin.pose_basis, feature)
        carry = self.joints - (self.R_world_joint @ self.shaped.joints[..., None])[..., 0]
        affine = torch.cat([self.R_world_joint, carry[..., None]], -1).flatten(-2)
        blended = (skin.weights @ affine).unflatten(-1, (3, 4))
        return (blended[..., :3] @ local[..., None])[..., 0] + blended[..., 3]

    def vertices(self) -> Float[Tensor, "... V 3"]:
        """World positions of the mesh, m."""
        return self.points()


def vertex_normals(points: Float[Tensor, "... V 3"], triangles: Int[Tensor, "F 3"]) -> Float[Tensor, "... V 3"]:
    """Unit normals, the area-weighted mean of each vertex's triangles; up (y, of animators' files) where a vertex has none."""
    a, b, c = points[..., triangles, :].unbind(-2)
    faces = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(points).index_add(-2, triangles.flatten(), faces.repeat_interleave(3, -2))
    length = normals.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-20, normals / length.clamp_min(1e-20), normals.new_tensor([0, 1.0, 0]))

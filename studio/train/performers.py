"""Who performs in training scenes: people of the body that is fitted, and people of another kind to test on.

A network that learned from one body and is measured on the same body has learned the body. So there are two generators: `model`, the
default body with random shape coefficients, linear blend skinning and tight clothes; and `other`, individuals of the artists' non-linear
space with local features that no shape coefficient holds, dual-quaternion skinning, and loose cloth. Both have the default body's mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from rigs import makehuman, rotation
from rigs.body import Body, Posed, Skin
from rigs.keypoints import COCO_WHOLEBODY, GROUPS
from studio.virtual.rays import Meshes

KEYPOINTS = tuple(COCO_WHOLEBODY[i] for group in ("body", "feet", "left_hand", "right_hand") for i in GROUPS[group])
"""Of training scenes: body, feet and both hands, 65 names."""
LOOSEST = 0.022
"""Greatest distance of loose cloth from the skin, m."""


@dataclass(frozen=True)
class Topology:
    """What all bodies here share."""

    triangles: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "F 3 2"]
    parts: Int[np.ndarray, "V"]
    """Semantic part of each vertex, from 1; 0 is left for the background."""
    part_names: tuple[str, ...]
    gather: sparse.csr_matrix
    """(V, F): sums what the triangles around a vertex hold."""
    depths: Float[np.ndarray, "K"]
    """How deep each of `KEYPOINTS` lies under the mean person's skin, m."""

    def normals(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        """Unit normals, the area-weighted mean of each vertex's triangles."""
        a, b, c = (vertices[self.triangles[:, i]] for i in range(3))
        normal = self.gather @ np.cross(b - a, c - a).astype(np.float32)
        return normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)


@lru_cache
def model() -> Body:
    """The body that is fitted, without its face units."""
    return _faceless(makehuman.load())


@lru_cache
def topology() -> Topology:
    """Of the default body."""
    body = model()
    assert body.uv is not None and body.parts is not None
    F = body.triangles.numpy().astype(np.int64)
    gather = sparse.csr_matrix((np.ones(F.size, np.float32), (F.ravel(), np.repeat(np.arange(len(F)), 3))), shape=(len(body.skin), len(F)))
    depths = Meshes([(body.skin.rest.numpy(), F)]).gap(body.keypoint_skin(KEYPOINTS).rest.numpy())
    return Topology(F, body.uv.numpy().astype(np.float32), body.parts.numpy() + 1, body.part_names, gather, depths)


@dataclass(frozen=True)
class Performer:
    """A person."""

    body: Body
    """At rest; no shape coefficients and no face units."""
    shape: Float[Tensor, "S"]
    """Coefficients of the default body: exact for `model`, the nearest person's by least squares over the vertices for `other`."""
    dual: bool
    """Skinned by dual quaternions."""
    loose: Float[np.ndarray, "V"]
    """Distance of loose cloth from the skin, m."""

    def posed(self, rotations: Float[Tensor, "T J 3"], translation: Float[Tensor, "T 3"]) -> Posed:
        """The person's joints in each of T moments."""
        return self.body.shaped(torch.zeros(0)).posed(rotations, translation, torch.zeros(len(translation), 0))

    def points(self, posed: Posed, skin: Skin | None = None) -> Float[Tensor, "T P 3"]:
        """World positions of material points, by default the mesh's vertices, m."""
        return dual_skinned(posed, self.body.skin if skin is None else skin) if self.dual else posed.points(skin)

    def keypoints(self, posed: Posed) -> Float[Tensor, "T K 3"]:
        """World positions of `KEYPOINTS`, m."""
        return self.points(posed, self.body.keypoint_skin(KEYPOINTS))


def model_person(rng: np.random.Generator) -> Performer:
    """A random person of the body that is fitted."""
    body = model()
    spread = np.array([0.5 if name.startswith("scale_") else 1.0 for name in body.shape_names])
    shape = torch.from_numpy((rng.standard_normal(len(spread)).clip(-2, 2) * spread).astype(np.float32))
    still = lambda skin: _still(skin, skin.rest + torch.einsum("pcs,s->pc", skin.shape_basis, shape))  # noqa: E731
    return Performer(_person(body, still, body.shaped(shape).joints), shape, False, np.zeros(len(body.skin), np.float32))


@lru_cache(maxsize=64)
def other_person(seed: int) -> Performer:
    """A person of another kind: not in the fitted body's space, skinned otherwise, in loose cloth."""
    body = _faceless(makehuman.individual(seed))
    person = _person(body, lambda skin: _still(skin, skin.rest), body.joints)
    shape = _solver() @ (body.skin.rest - model().skin.rest).flatten()
    return Performer(person, shape, True, _loose_cloth(body, seed))


def dual_skinned(posed: Posed, skin: Skin) -> Float[Tensor, "T P 3"]:
    """World positions by dual-quaternion skinning (Kavan et al. 2007), m; no joint collapses when it turns."""
    rest = posed.shaped.rest(skin)
    real = rotation.quaternion(posed.R_world_joint)
    carry = posed.joints - (posed.R_world_joint @ posed.shaped.joints[..., None])[..., 0]
    pure = torch.cat([torch.zeros_like(carry[..., :1]), carry], -1)
    dual = 0.5 * _product(pure, real)
    # q and -q are one rotation: all are taken on the side of the joint that holds most of the point.
    owner = skin.weights.argmax(1)
    side = torch.einsum("tpq,tjq->tpj", real[:, owner], real).sign()
    mix = skin.weights * side
    q, d = torch.einsum("tpj,tjq->tpq", mix, real), torch.einsum("tpj,tjq->tpq", mix, dual)
    size = q.norm(dim=-1, keepdim=True)
    q, d = q / size, d / size
    shift = 2 * _product(d, q * q.new_tensor([1, -1, -1, -1]))[..., 1:]
    w, v = q[..., :1], q[..., 1:]
    p = rest.expand(*v.shape[:-1], 3)
    turned = p + 2 * torch.linalg.cross(v, torch.linalg.cross(v, p) + w * p)
    return turned + shift


def _product(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Of quaternions (w, x, y, z)."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    return torch.cat([aw * bw - (av * bv).sum(-1, keepdim=True), aw * bv + bw * av + torch.linalg.cross(av, bv)], -1)


def _loose_cloth(body: Body, seed: int) -> Float[np.ndarray, "V"]:
    """Smooth folds over trunk, thighs, upper arms and a share of the shins and forearms; none on head, hands and feet."""
    rng = np.random.default_rng([seed, 91])
    names, weights, rest = body.skeleton.names, body.skin.weights.numpy(), body.skin.rest.numpy()
    covered = np.zeros(len(rest), np.float32)
    for suffix, share in (("Arm", 1.0), ("UpLeg", 1.0), ("Leg", 0.8), ("ForeArm", 0.5 * rng.integers(2))):
        columns = [i for i, n in enumerate(names) if n.removeprefix("Left").removeprefix("Right") == suffix]
        covered += share * weights[:, columns].sum(1)
    covered += weights[:, [i for i, n in enumerate(names) if n.startswith(("Hips", "Spine")) or n.endswith("Shoulder")]].sum(1)
    waves = rng.normal(0, 1, (12, 3)) * rng.uniform(8, 28, (12, 1))  # rad per m: folds of 0.2 to 0.8 m
    folds = np.sin(rest @ waves.T + rng.uniform(0, 2 * np.pi, 12)).sum(1) / 5
    return (covered * LOOSEST * (0.45 + 0.35 * folds).clip(0, 1)).astype(np.float32)


@lru_cache
def _solver() -> Float[Tensor, "S P"]:
    """From displacements of all coordinates to the nearest shape coefficients."""
    return torch.linalg.pinv(model().skin.shape_basis.flatten(0, 1).double()).float()


def _still(skin: Skin, rest: Tensor) -> Skin:
    """Points that no shape or face unit moves."""
    return replace(skin, rest=rest, shape_basis=rest.new_zeros(len(rest), 3, 0), expression_basis=rest.new_zeros(len(rest), 3, 0))


def _faceless(body: Body) -> Body:
    """The body without face units."""
    bare = lambda skin: replace(skin, expression_basis=skin.rest.new_zeros(len(skin), 3, 0))  # noqa: E731
    assert body.keypoints is not None
    return replace(body, skin=bare(body.skin), keypoints=bare(body.keypoints))


def _person(body: Body, still: Callable[[Skin], Skin], joints: Float[Tensor, "J 3"]) -> Body:
    """A body that is one person: `still` makes skins of theirs."""
    assert body.keypoints is not None
    basis = joints.new_zeros(len(joints), 3, 0)
    return replace(body, skin=still(body.skin), keypoints=still(body.keypoints), joints=joints, joint_shape_basis=basis, shape_names=())

"""People sampled by their parameters, with no image at all: shape and pose at random, their masks and keypoints as cameras would see them.

Masks are made from some ten thousand points spread evenly over the skin: at the networks' resolution they cover it without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rigs import makehuman, rotation
from rigs.anatomy import anatomy
from rigs.body import Body, Posed, Skin, vertex_normals
from rigs.skeleton import Skeleton
from studio.nets.shape import JOINTS, KEYPOINTS, SIZE, WINDOW, Sight, heading
from studio.train.performers import dual_skinned, other_person
from studio.virtual.motion import scripted

POINTS = 6000
WORN = ("shirt", "trousers", "hair")
"""What stands off the skin, each for one metre: three columns after the shape's in `Dressed.skin`."""


@dataclass(frozen=True)
class Sampled:
    """N people, each in one pose before V cameras."""

    shape: Float[Tensor, "N S"]
    """Zeros for people of the other generator."""
    rest: Float[Tensor, "N P 3"]
    """The `few` vertices at rest, relative to the root joint, m."""
    R: Float[Tensor, "N J 3 3"]
    """Local joint rotations."""
    root: Float[Tensor, "N 3"]
    """World, m."""
    sight: Sight
    masks: UInt8[Tensor, "N V 64 64"]
    """How much of each pixel is the person, 0 to 255."""
    keypoints: Float[Tensor, "N V K 3"]
    """Window coordinates with detection noise, and confidence (0: not seen)."""
    views: Float[Tensor, "N V 4"]

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, which: Int[Tensor, "n"] | slice) -> Sampled:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        sight = values.pop("sight")
        chosen = Sight(sight.R_view_world[which], sight.position[which], sight.distance[which])
        return Sampled(**{k: v[which] for k, v in values.items()}, sight=chosen)

    @staticmethod
    def joined(parts: Sequence[Sampled]) -> Sampled:
        """All of them."""
        plain = {f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Sampled) if f.name != "sight"}
        sight = Sight(*(torch.cat([getattr(p.sight, f.name) for p in parts]) for f in fields(Sight)))
        return Sampled(**plain, sight=sight)


@dataclass(frozen=True)
class Dressed:
    """A body made ready to be sampled."""

    body: Body
    """Its shape's last coefficients are `WORN`."""
    skin: Skin
    """Points spread evenly over the mesh, without face."""
    keypoints: Skin
    few: Skin
    """The vertices that losses and errors look at, without clothes."""
    worn: tuple[float, ...] = (0.018, 0.014, 0.03)
    """Greatest value of each of `WORN`."""
    dual: bool = False
    """Skinned by dual quaternions."""

    @staticmethod
    def of(body: Body, loose: Float[Tensor, "V"] | None = None) -> Dressed:
        """Any body with the default one's mesh; with `loose` cloth, m, it is of the other generator: skinned by dual quaternions."""
        worn = len(WORN)
        wider = lambda x: torch.cat([x, x.new_zeros(*x.shape[:-1], worn)], -1)  # noqa: E731
        padded = replace(body, joint_shape_basis=wider(body.joint_shape_basis), shape_names=body.shape_names + WORN, expression_names=())
        whole = replace(body.skin, shape_basis=wider(body.skin.shape_basis), expression_basis=body.skin.expression_basis[..., :0])
        triangle, corner = _places()
        normals, stands = vertex_normals(body.skin.rest, body.triangles), _worn(body)
        if loose is not None:
            stands = torch.stack([loose, torch.zeros_like(loose), stands[:, 2]], -1)
        basis = whole.shape_basis.clone()
        basis[..., -worn:] = normals[:, :, None] * stands[:, None]
        dressed = replace(whole, shape_basis=basis)
        corners = [dressed[body.triangles[triangle, k]] for k in range(3)]

        def mixed(name: str) -> Tensor:
            values = torch.stack([getattr(c, name) for c in corners], 1)
            return torch.einsum("mk,mk...->m...", corner, values)

        skin = Skin(mixed("rest"), mixed("shape_basis"), mixed("expression_basis"), mixed("weights"))
        keys = body.keypoint_skin(KEYPOINTS)
        keys = replace(keys, shape_basis=wider(keys.shape_basis), expression_basis=keys.expression_basis[..., :0])
        if loose is None:
            return Dressed(padded, skin, keys, whole[few()])
        return Dressed(padded, skin, keys, whole[few()], (1.0, 0.0, 0.03), True)

    def points(self, shape: Tensor, R: Tensor, root: Tensor, skin: Skin) -> Float[Tensor, "N P 3"]:
        """World positions, m, of material points under local rotation matrices."""
        if not self.dual:
            return placed(self.body, shape, R, root, skin)
        out = []
        for i in range(0, len(R), 8):
            shaped = self.body.shaped(shape[i : i + 8])
            world, joints = self.body.skeleton.forward(R[i : i + 8], shaped.joints, root[i : i + 8])
            out.append(dual_skinned(Posed(shaped, R[i : i + 8], world, joints, shape.new_zeros(len(joints), 0)), skin))
        return torch.cat(out)


def placed(
    body: Body, shape: Float[Tensor, "N S"], R: Float[Tensor, "N J 3 3"], root: Float[Tensor, "N 3"], skin: Skin
) -> Float[Tensor, "N P 3"]:
    """World positions, m, of material points under local rotation matrices; differentiable in all three."""
    shaped = body.shaped(shape)
    world, joints = body.skeleton.forward(R, shaped.joints, root)
    affine = torch.cat([world, (joints - (world @ shaped.joints[..., None])[..., 0])[..., None]], -1).flatten(-2)
    blended = (skin.weights @ affine).unflatten(-1, (3, 4))
    return (blended[..., :3] @ shaped.rest(skin)[..., None])[..., 0] + blended[..., 3]


@cache
def default() -> Dressed:
    """The studio's body."""
    return Dressed.of(makehuman.load())


@dataclass(frozen=True)
class Limbed:
    """The studio's body with the networks' joints alone: fingers move with their hand, jaw and eyes with the head."""

    body: Body
    vertices: Skin
    keypoints: Skin

    @staticmethod
    @cache
    def made(device: torch.device | None = None) -> Limbed:
        """Of the default body; a few vertices; on the CPU unless told."""
        body = makehuman.load()
        names, parents = body.skeleton.names, body.skeleton.parents
        rows = [names.index(n) for n in JOINTS]
        owner = list(range(len(names)))
        for j, name in enumerate(names):
            owner[j] = j if name in JOINTS else owner[parents[j]]
        gather = torch.zeros(len(names), len(rows))
        gather[torch.arange(len(names)), torch.tensor([rows.index(o) for o in owner])] = 1
        fewer = lambda skin: Skin(skin.rest, skin.shape_basis, skin.expression_basis[..., :0], skin.weights @ gather)  # noqa: E731
        skeleton = Skeleton(JOINTS, tuple(-1 if parents[j] < 0 else rows.index(parents[j]) for j in rows))
        own = replace(
            body, skeleton=skeleton, joints=body.joints[rows], joint_shape_basis=body.joint_shape_basis[rows], expression_names=()
        )
        return Limbed(own.to(device), fewer(body.skin[few()[:150]]).to(device), fewer(body.keypoint_skin(KEYPOINTS)).to(device))

    def points(self, shape: Float[Tensor, "N S"], R: Float[Tensor, "N J 3 3"], skin: Skin) -> Float[Tensor, "N P 3"]:
        """Relative to the root joint, m, in the axes that the root's rotation is given in."""
        return placed(self.body, shape, R, shape.new_zeros(len(shape), 3), skin)


@cache
def few(count: int = 600) -> Int[Tensor, "P"]:
    """Vertices spread evenly over the skin, for losses and errors."""
    triangle, _ = _places()
    pick = torch.from_numpy(np.random.default_rng(5).choice(len(triangle), count, replace=False))
    return makehuman.load().triangles[triangle[pick], 0]


@cache
def _places() -> tuple[Int[Tensor, "M"], Float[Tensor, "M 3"]]:
    """Triangle and barycentric coordinates of points spread evenly over the mean person."""
    body, rng = makehuman.load(), np.random.default_rng(3)
    a, b, c = (body.skin.rest[body.triangles[:, k]] for k in range(3))
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1).double().numpy()
    stairs = (np.arange(POINTS) + rng.uniform(0, 1, POINTS)) / POINTS  # one in each equal share of the surface
    triangle = np.searchsorted(area.cumsum() / area.sum(), stairs).clip(0, len(area) - 1)
    u, v = np.sqrt(rng.uniform(0, 1, POINTS)), rng.uniform(0, 1, POINTS)
    corner = np.stack([1 - u, u * (1 - v), u * v], -1).astype(np.float32)
    return torch.from_numpy(triangle), torch.from_numpy(corner)


def _worn(body: Body) -> Float[Tensor, "V 3"]:
    """Where shirt, trousers and hair may be: 0 to 1."""
    weights, names = body.skin.weights, body.skeleton.names
    of = lambda *joints: weights[:, [j for j, n in enumerate(names) if n.removeprefix("Left").removeprefix("Right") in joints]].sum(1)  # noqa: E731
    scalp = (of("Head") > 0.6) & (body.skin.rest[:, 2] > body.joints[names.index("LeftEye"), 2] + 0.03)
    return torch.stack([of("Spine", "Spine1", "Spine2", "Shoulder", "Arm"), of("Hips", "UpLeg", "Leg"), scalp.float()], -1)


def poses(seeds: Sequence[int], frames: int = 240, fps: float = 6.0) -> Float[Tensor, "N J 3"]:
    """Rotation vectors of scripted motions, one script after another, of each seed; the whole body's turn included."""
    body = makehuman.load()
    return torch.cat([scripted(body, frames, fps, seed, "mixed").rotation for seed in seeds])


def loosened(R: Float[Tensor, "N J 3 3"], spread: float, generator: torch.Generator) -> Float[Tensor, "N J 3 3"]:
    """The poses with every joint but the root turned a little (rad), kept inside what joints can do."""
    limits = anatomy(makehuman.load())
    r = rotation.log(R) + spread * torch.randn(*R.shape[:-1], generator=generator)
    angle = (limits.axes @ r[..., None])[..., 0]
    kept = (limits.axes.mT @ angle.maximum(limits.low).minimum(limits.high)[..., None])[..., 0]
    return torch.cat([R[:, :1], rotation.exp(kept[:, 1:])], 1)


def people(
    count: int,
    views: int,
    seed: int,
    bank: Float[Tensor, "M J 3"],
    dressed: Dressed | None = None,
    spread: float = 1.0,
    clean: bool = False,
) -> Sampled:
    """Random people of a body's shape space, in poses of the bank, before random cameras; `clean`: no clothes, no errors of detection."""
    g = torch.Generator().manual_seed(seed * 7919 + 13)
    who = dressed or default()
    S = len(who.body.shape_names) - len(WORN)
    shape = spread * torch.randn(count, S, generator=g)
    worn = torch.rand(count, len(WORN), generator=g) * torch.tensor(who.worn) * (not clean)
    pose = bank[torch.randint(len(bank), (count,), generator=g)]
    R = rotation.exp(pose)
    R = torch.where(torch.rand(count, 1, 1, 1, generator=g) < 0.5, R, loosened(R, 0.12, g))
    spin = torch.rand(count, generator=g) * (2 * torch.pi)
    turn = rotation.exp(torch.stack([torch.zeros_like(spin), torch.zeros_like(spin), spin], -1))
    R = torch.cat([turn[:, None] @ R[:, :1], R[:, 1:]], 1)
    root = torch.tensor([0.0, 0.0, 0.95]) + 0.05 * torch.randn(count, 3, generator=g)
    camera = _cameras(count, views, g)
    full = torch.cat([shape, worn], -1)
    hips = who.points(full, R, root, who.keypoints)
    centre = root + (0 if clean else 0.025) * torch.randn(count, 3, generator=g)
    sight = Sight.at(camera, centre[:, None].expand_as(camera))
    parts = [_masks(who, full[i : i + 64], R[i : i + 64], root[i : i + 64], _part(sight, i), g, clean) for i in range(0, count, 64)]
    left, right = (
        hips[:, KEYPOINTS.index(f"{s}_hip")] + (0 if clean else 0.02) * torch.randn(count, 3, generator=g) for s in ("left", "right")
    )
    facing = heading(left, right)[:, None].expand(-1, views, -1, -1)
    rest = who.body.shaped(full)
    few_rest = rest.rest(replace(who.few)) - rest.joints[:, :1]
    return Sampled(shape, few_rest, R, root, sight, torch.cat(parts), _seen(sight, hips, g, clean), sight.seen_from(facing))


def others(seeds: Sequence[int], poses_each: int, views: int, seed: int, bank: Float[Tensor, "M J 3"], clean: bool = False) -> Sampled:
    """The same of people of the other generator (`studio.train.performers`): individuals of MakeHuman's own non-linear space with local
    features that no shape coefficient holds, dual-quaternion skinning, loose cloth."""
    parts = []
    for i, number in enumerate(seeds):
        person = other_person(number)
        who = Dressed.of(person.body, torch.from_numpy(person.loose))
        parts.append(people(poses_each, views, seed * 1009 + i, bank, who, clean=clean))
    size = len(makehuman.load().shape_names)
    return Sampled.joined([replace(p, shape=p.shape.new_zeros(len(p), size)) for p in parts])


def _part(sight: Sight, i: int) -> Sight:
    return Sight(sight.R_view_world[i : i + 64], sight.position[i : i + 64], sight.distance[i : i + 64])


def _cameras(count: int, views: int, g: torch.Generator) -> Float[Tensor, "N V 3"]:
    """Places around a person: any azimuth, the views of one person spread apart; 2 to 6 m away, 0.6 to 3 m high."""
    draw = lambda: torch.rand(count, views, generator=g)  # noqa: E731
    azimuth = 2 * torch.pi * (torch.rand(count, 1, generator=g) + (torch.arange(views) + 0.8 * (draw() - 0.5)) / views)
    far, high = 2.0 + 4.0 * draw(), 0.6 + 2.4 * draw()
    return torch.stack([far * azimuth.cos(), far * azimuth.sin(), high], -1)


def _masks(
    who: Dressed, full: Tensor, R: Tensor, root: Tensor, sight: Sight, g: torch.Generator, clean: bool
) -> UInt8[Tensor, "n V 64 64"]:
    """Masks as a detector would give them: edges a pixel in or out, now and then a piece hidden."""
    points = who.points(full, R, root, who.skin)
    n, V = sight.distance.shape
    fine = 2 * SIZE
    place = ((sight.window(points[:, None].expand(-1, V, -1, -1)) + 1) * (fine / 2)).floor().long()
    inside = ((place >= 0) & (place < fine)).all(-1)
    index = torch.where(inside, place[..., 1] * fine + place[..., 0], fine * fine).flatten(0, 1)
    canvas = torch.zeros(n * V, fine * fine + 1, dtype=torch.uint8).scatter_(1, index, torch.full_like(index, 255, dtype=torch.uint8))
    level = 127 + (76 * (2 * torch.rand(n * V, generator=g) - 1)) * (not clean)
    corner = (torch.rand(n * V, 4, generator=g) * torch.tensor([fine, fine, 0.2 * fine, 0.2 * fine])).long().tolist()
    hidden = (torch.rand(n * V, generator=g) < 0.1 * (not clean)).tolist()
    out = np.empty((n * V, SIZE, SIZE), np.uint8)
    for i, image in enumerate(canvas[:, :-1].view(n * V, fine, fine).numpy()):
        whole = cv2.morphologyEx(image, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        whole = (cv2.blur(whole, (3, 3)) > float(level[i])).astype(np.uint8) * 255 if not clean else whole
        if hidden[i]:
            x, y, w, h = corner[i]
            whole[y : y + h, x : x + w] = 0
        out[i] = cv2.resize(whole, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(out).view(n, V, SIZE, SIZE)


def _seen(sight: Sight, points: Float[Tensor, "N K 3"], g: torch.Generator, clean: bool) -> Float[Tensor, "N V K 3"]:
    """Keypoints as a detector would give them: each sits a little off on every person, jitters, and is sometimes far off or missing."""
    N, V = sight.distance.shape
    K = points.shape[1]
    if not clean:
        points = points + 0.012 * torch.randn(N, K, 3, generator=g)
    place = sight.window(points[:, None].expand(-1, V, -1, -1))
    if not clean:
        wide = torch.where(torch.rand(N, V, K, 1, generator=g) < 0.04, 0.15, 0.008)
        place = place + wide * (2 / WINDOW) * torch.randn(N, V, K, 2, generator=g)
    seen = (torch.rand(N, V, K, 1, generator=g) > 0.05) | torch.tensor(clean)
    return torch.cat([place * seen, seen.float()], -1)

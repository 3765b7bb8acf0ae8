"""A character out of a binary FBX (7.1 to 7.7): joints, bind pose, skins, morphs, and every take sampled on its frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs.characters.character import Character, Clip, Mesh, Source, relative
from rigs.characters.fbx_curves import TICKS
from rigs.characters.fbx_nodes import Node
from rigs.characters.fbx_scene import Model, Scene, label
from rigs.characters.findings import of_rest, of_skin

JOINT_KINDS = ("LimbNode", "Limb", "Root")
CENTIMETRE = 0.01
LONGEST = 200_000
"""Frames; a take that claims more is taken for damaged."""
SCALED = 0.01
"""A joint's scaling is told when it differs from the file's unit by more than this part."""


@dataclass(frozen=True)
class Joints:
    """Which of a scene's models are joints, parents first, and what a character's numbers mean in the file."""

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    R_world_file: Float[Tensor, "3 3"]
    unit: float
    """m."""

    def placed(self, world: dict[int, Float[Tensor, "T 4 4"]]) -> tuple[Float[Tensor, "T J 3 3"], Float[Tensor, "T J 3"]]:
        """World rotation and position (m) of every joint, in our axes."""
        M = torch.stack([world[i] for i in self.ids], 1)
        return self.R_world_file @ unscaled(M), self.unit * M[..., :3, 3] @ self.R_world_file.T


def read(path: Path) -> Character:
    """The character in an FBX file; a `ValueError` names the file, what is wrong with it, and the remedy."""
    scene = Scene.of(path)
    joints = joints_of(scene)
    models = [scene.models[i] for i in joints.ids]
    problems = list(scene.problems)
    R, p = _rest(scene, joints, problems)
    R_local, offsets = relative(joints.parents, R, p)
    names = unique([m.name for m in models])
    if len(set(m.name for m in models)) < len(models):
        problems.append("some joints share one name; they are told apart by a number")
    meshes = _meshes(scene, joints, problems)
    clips = tuple(_clip(scene, joints, stack, problems) for stack in scene.stacks)
    top = _axes(scene)
    return Character(
        name=path.stem,
        joints=names,
        parents=joints.parents,
        R_parent_rest=R_local,
        offsets=offsets,
        source=Source(
            str(path), f"FBX {scene.version / 1000:g} binary", _creator(scene), top[0], top[1], joints.unit, joints.R_world_file, scene.fps
        ),
        orders=tuple(m.order for m in models),
        pre=torch.stack([m.pre for m in models]) if models else None,
        post=torch.stack([m.post for m in models]) if models else None,
        meshes=meshes,
        clips=clips,
        problems=tuple(problems + of_rest(names, joints.parents, p)),
    )


def joints_of(scene: Scene) -> Joints:
    """The joints of a scene: limbs, whatever a skin is bound to, and what lies between them; parents first."""
    bound = {a for a, b, name in scene.links if not name and a in scene.models and scene.objects.get(b, Node("")).name == "Deformer"}
    chosen = {i for i, m in scene.models.items() if m.kind in JOINT_KINDS} | bound
    for i in list(chosen):
        between, at = [], scene.models[i].parent
        while at in scene.models and at not in chosen:
            between.append(at)
            at = scene.models[at].parent
        if at in chosen:
            chosen.update(between)
    ids: list[int] = []

    def visit(i: int) -> None:
        ids.append(i)
        for child in (c for c in scene.models if c in chosen and scene.models[c].parent == i):
            visit(child)

    for i in (i for i in scene.models if i in chosen and scene.models[i].parent not in chosen):
        visit(i)
    parents = tuple(ids.index(scene.models[i].parent) if scene.models[i].parent in chosen else -1 for i in ids)
    _, _, R = _axes(scene)
    unit = CENTIMETRE * float(scene.settings.get("UnitScaleFactor", (1.0,))[0])
    return Joints(tuple(ids), parents, R, unit if unit > 0 else CENTIMETRE)


def unscaled(M: Float[Tensor, "... 4 4"]) -> Float[Tensor, "... 3 3"]:
    """The rotation in a matrix with scaling, its columns made orthonormal one after the other."""
    x, y = M[..., :3, 0], M[..., :3, 1]
    x = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    y = y - (x * y).sum(-1, keepdim=True) * x
    y = y / y.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def unique(names: list[str]) -> tuple[str, ...]:
    """The names, later ones of equal names with a number behind."""
    seen: dict[str, int] = {}
    told = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        told.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(told)


def _axes(scene: Scene) -> tuple[str, str, Float[Tensor, "3 3"]]:
    """Up and front axes, and the rotation from the file's axes to ours: right stays x, up becomes z, front -y."""

    def axis(name: str, plain: int) -> tuple[Tensor, str]:
        index = int(scene.settings.get(f"{name}Axis", (plain,))[0])
        sign = 1 if int(scene.settings.get(f"{name}AxisSign", (1,))[0]) >= 0 else -1
        index = index if index in (0, 1, 2) else plain
        return sign * torch.eye(3, dtype=torch.float64)[index], ("" if sign > 0 else "-") + "xyz"[index]

    (up, up_name), (right, _) = axis("Up", 1), axis("Coord", 0)
    front = torch.linalg.cross(right, up)
    if not float(front.norm()) > 0.5:
        right = torch.eye(3, dtype=torch.float64)[(int(up.abs().argmax()) + 2) % 3]
        front = torch.linalg.cross(right, up)
    way = int(front.abs().argmax())
    return up_name, ("" if front[way] > 0 else "-") + "xyz"[way], torch.stack([right, -front, up])


def _creator(scene: Scene) -> str:
    for node in scene.nodes:
        if node.name == "FBXHeaderExtension":
            info = node.child("SceneInfo")
            table = info.table if info else {}
            parts = [
                str(table.get(f"LastSaved|Application{k}", table.get(f"Original|Application{k}", ("",)))[0]) for k in ("Name", "Version")
            ]
            return " ".join(p for p in parts if p) or str(node.value("Creator", ""))
    return ""


def _clusters(scene: Scene) -> list[tuple[int, Node, int | None]]:
    """(id, node, joint's model or None) of every cluster."""
    found = []
    for i, node in scene.objects.items():
        if node.name == "Deformer" and len(node.properties) > 2 and node.properties[2] == "Cluster":
            joint = next((a for a, b, name in scene.links if b == i and not name and a in scene.models), None)
            found.append((i, node, joint))
    return found


def _matrix(values: object) -> Float[Tensor, "4 4"] | None:
    array = np.asarray(values, dtype=float).reshape(-1) if values is not None else np.zeros(0)
    return torch.from_numpy(array.reshape(4, 4).T.copy()) if array.size == 16 and np.isfinite(array).all() else None


def _rest(scene: Scene, joints: Joints, problems: list[str]) -> tuple[Float[Tensor, "J 3 3"], Float[Tensor, "J 3"]]:
    """World rotation and position of the joints in the bind pose; joints that it lacks keep their place below their parents."""
    bind: dict[int, Tensor] = {}
    for node in scene.objects.values():
        if node.name == "Pose":
            for entry in (c for c in node.children if c.name == "PoseNode"):
                if (M := _matrix(entry.value("Matrix"))) is not None and node.value("Type", "BindPose") == "BindPose":
                    bind[int(entry.value("Node", 0))] = M
    posed, clusters = bool(bind), _clusters(scene)
    for _, node, joint in clusters:
        if joint is not None and (M := _matrix(node.value("TransformLink"))) is not None:
            bind[joint] = M
    if clusters and not posed:
        problems.append("missing bind pose: the skin's own matrices are taken for it")
    stands, world = scene.world(None, np.zeros(1, np.int64)), {}
    for i in joints.ids:
        model = scene.models[i]
        above = world.get(model.parent, stands.get(model.parent, stands[0]))
        world[i] = bind[i][None] if i in bind else above @ torch.linalg.inv(stands[model.parent] if model.parent else stands[0]) @ stands[i]
    _tell_scales(scene, joints, world, problems)
    R, p = joints.placed(world) if joints.ids else (torch.zeros(1, 0, 3, 3).double(), torch.zeros(1, 0, 3).double())
    return R[0], p[0]


def _tell_scales(scene: Scene, joints: Joints, world: dict[int, Tensor], problems: list[str]) -> None:
    flat = [scene.models[i].name for i in joints.ids if float(torch.linalg.det(world[i][0, :3, :3]).abs()) < 1e-24]
    if flat:
        raise ValueError(f"{scene.path}: joint {flat[0]!r} is scaled to nothing at rest; give it a size and export again")
    sizes = {scene.models[i].name: world[i][0, :3, :3].norm(dim=0) for i in joints.ids}
    odd = {name: s for name, s in sizes.items() if float((s - 1).abs().max()) > SCALED}
    if odd:
        name, size = next(iter(odd.items()))
        told = f"{float(size.mean()):.4g}" if float(size.max() - size.min()) < 0.01 * float(size.max()) else "unequal by axis"
        problems.append(f"{len(odd)} joints have a scale other than 1 ({name}: {told}); respected here, but other programs stumble over it")
    mirrored = [scene.models[i].name for i in joints.ids if float(torch.linalg.det(world[i][0, :3, :3])) < 0]
    if mirrored:
        problems.append(
            f"{len(mirrored)} joints are mirrored by a negative scale ({mirrored[0]}); freeze their transforms and export again"
        )


@dataclass(frozen=True)
class _Bound:
    """What the meshes of a scene hang on."""

    scene: Scene
    joints: Joints
    clusters: list[tuple[int, Node, int | None]]
    stands: dict[int, Float[Tensor, "1 4 4"]]


def _meshes(scene: Scene, joints: Joints, problems: list[str]) -> tuple[Mesh, ...]:
    found = []
    bound = _Bound(scene, joints, _clusters(scene), scene.world(None, np.zeros(1, np.int64)))
    for i, node in scene.objects.items():
        if node.name == "Geometry" and len(node.properties) > 2 and node.properties[2] == "Mesh" and node.child("Vertices"):
            model = next((b for a, b, name in scene.links if a == i and not name and b in scene.models), 0)
            found.append(_mesh(bound, i, node, scene.models.get(model), problems))
    return tuple(found)


def _mesh(bound: _Bound, i: int, node: Node, model: Model | None, problems: list[str]) -> Mesh:
    scene, joints = bound.scene, bound.joints
    name = model.name if model else label(node)
    points = torch.from_numpy(np.asarray(node.value("Vertices"), dtype=float).reshape(-1, 3).copy())
    corners = np.asarray(node.value("PolygonVertexIndex", np.zeros(0, np.int32))).astype(np.int64)
    if corners.size and int(np.where(corners < 0, ~corners, corners).max()) >= len(points):
        raise ValueError(f"{scene.path}: mesh {name!r} has faces on vertices that do not exist; export it again")
    M, weights = bound.stands[model.id][0] if model else torch.eye(4, dtype=torch.float64), None
    skins = [j for j in scene.under(i, "Deformer") if scene.objects[j].properties[2] == "Skin"]
    if skins:
        inside = [j for skin in skins for j in scene.under(skin, "Deformer")]
        weights, placed = _weights(bound, name, len(points), [entry for entry in bound.clusters if entry[0] in inside], problems)
        M = M if placed is None else placed
        problems += of_skin(name, weights)
    points = joints.unit * (points @ M[:3, :3].T + M[:3, 3]) @ joints.R_world_file.T
    shapes = [j for d in scene.under(i, "Deformer") for j in scene.under(d, "Deformer")]
    morphs = tuple(label(scene.objects[j]) for j in shapes if scene.objects[j].properties[2] == "BlendShapeChannel")
    return Mesh(name, points, _triangles(corners), weights, morphs)


def _weights(
    bound: _Bound, name: str, count: int, clusters: list[tuple[int, Node, int | None]], problems: list[str]
) -> tuple[Float[Tensor, "V J"], Float[Tensor, "4 4"] | None]:
    """How much each joint moves each vertex, and where the mesh lay when it was bound (file axes and unit), if that is said."""
    scene, ids = bound.scene, bound.joints.ids
    weights, M = torch.zeros(count, len(ids)), None
    for c, cluster, joint in clusters:
        if joint is None or joint not in ids:
            problems.append(f"mesh {name!r}: cluster {label(scene.objects[c])!r} moves with no joint; its weights are lost")
            continue
        index, share = (np.atleast_1d(np.asarray(cluster.value(k, np.zeros(0)))) for k in ("Indexes", "Weights"))
        if len(index) != len(share) or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < count):
            raise ValueError(f"{scene.path}: mesh {name!r}: the weights of {scene.models[joint].name!r} do not fit; bind it again")
        column = torch.tensor(ids.index(joint))
        weights.index_put_((torch.from_numpy(index.astype(np.int64)), column), torch.from_numpy(share).float(), accumulate=True)
        inside, link = _matrix(cluster.value("Transform")), _matrix(cluster.value("TransformLink"))
        M = link @ inside if inside is not None and link is not None else M
    return weights, M


def _triangles(corners: np.ndarray) -> Tensor:
    """Fans of the polygons; the last corner of each is marked by its complement."""
    ends = np.flatnonzero(corners < 0)
    plain = np.where(corners < 0, ~corners, corners)
    begins = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    rows = [(plain[a], plain[k], plain[k + 1]) for a, b in zip(begins, ends) for k in range(a + 1, b)]
    return torch.tensor(np.array(rows, dtype=np.int64).reshape(-1, 3))


def _clip(scene: Scene, joints: Joints, stack: str, problems: list[str]) -> Clip:
    begin, end = scene.span(stack)
    count = max(0, round((end - begin) * scene.fps / TICKS)) + 1
    if count > LONGEST:
        raise ValueError(
            f"{scene.path}: take {stack!r} claims {count} frames at {scene.fps:g} a second; export it again with its true range"
        )
    if len(scene.stacks[stack]) > 1:
        problems.append(f"take {stack!r} has {len(scene.stacks[stack])} layers; they are added up, bake them if that is not meant")
    ticks = begin + np.round(np.arange(count) * (TICKS / scene.fps)).astype(np.int64)
    world = scene.world(stack, ticks)
    if not joints.ids:
        return Clip(stack, scene.fps, torch.zeros(count, 0, 3, 3), torch.zeros(count, 0, 3), begin / TICKS)
    R, p = relative(joints.parents, *joints.placed(world))
    return Clip(stack, scene.fps, R, p, begin / TICKS, timecode(begin / TICKS, scene.fps))


def timecode(seconds: float, fps: float) -> str:
    """HH:MM:SS:FF of a time, counted in whole frames a second without drops; negative times have none."""
    rate, frame = max(1, round(fps)), round(seconds * fps)
    if frame < 0:
        return ""
    whole = frame // rate
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{frame % rate:02d}"

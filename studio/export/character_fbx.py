"""FBX of anybody's character: the user's own file with its animation replaced, or a new file with skeleton, skin and animation.

The user's file keeps everything else: names, tree, meshes, materials, rest pose, pivots, rotation orders. A new file has y up, cm;
joints carry their rest as PreRotation, so that `Lcl Rotation` zero is the rest pose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs import euler
from rigs.body import vertex_normals
from rigs.characters.character import Character, Clip, Mesh, forward
from rigs.characters.fbx import Joints, joints_of, unscaled
from rigs.characters.fbx_nodes import CREATION_TIME, FILE_ID, VERSION, Int, Node, save
from rigs.characters.fbx_scene import Model, Scene, joined, label
from studio.export.fbx import TICKS, Curves, Objects, definitions, face_shapes, head, span, takes, time_mode
from studio.export.mesh import influences
from studio.export.timecode import drops

CENTIMETRES = 100.0
Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
"""From the file's axes (y up, z front) to ours."""
ANIMATION = ("AnimationStack", "AnimationLayer", "AnimationCurveNode", "AnimationCurve")
STILL = 1e-5
"""A translation that keeps within this of the file's own needs no curve, file units."""
Weights = Mapping[str, Float[Tensor, "T"]]
"""Morph -> weight over time; 1 is full."""


def write(path: Path, character: Character, clip: Clip, morphs: Weights | None = None) -> Path:
    """Write a clip of a character: into a copy of its own FBX where it came from one, else into a new file."""
    if Path(character.source.path).suffix.lower() == ".fbx" and character.source.path:
        return rewritten(path, Path(character.source.path), clip, morphs or {})
    return built(path, character, clip, morphs or {})


def _ticks(clip: Clip) -> np.ndarray:
    return np.array([round((clip.start + f / clip.fps) * TICKS) for f in range(clip.frames)], dtype=np.int64)


def rewritten(path: Path, original: Path, clip: Clip, morphs: Weights) -> Path:
    """The user's FBX with this clip in place of its own takes."""
    scene = Scene.of(original)
    joints = joints_of(scene)
    R, p = forward(joints.parents, clip.R_parent_joint, clip.position)
    R, p = joints.R_world_file.T @ R, p @ joints.R_world_file / joints.unit
    grown = Objects(last=max(scene.objects, default=0))
    ticks = _ticks(clip)
    curves = Curves.of(grown, clip.name, ticks)
    stands = scene.world(None, np.zeros(1, np.int64))
    world: dict[int, Tensor] = {i: M.expand(clip.frames, 4, 4) for i, M in stands.items() if i not in joints.ids}
    angles = _angles(scene, joints, R, stands)
    for j, i in enumerate(joints.ids):
        model = scene.models[i]
        above = world.get(model.parent, world[0])
        t, r = translation(model, above, R[:, j], p[:, j]), angles[:, j]
        world[i] = joined(above, model.local(t, r, model.s.expand(clip.frames, 3)), model.inherit)
        curves.on(i, "Lcl Rotation", "R", dict(zip("XYZ", r.T.numpy())))
        if float((t - model.t).abs().max()) > STILL:
            curves.on(i, "Lcl Translation", "T", dict(zip("XYZ", t.T.numpy())))
    for i, name in _channels(scene).items():
        if name in morphs:
            curves.on(i, "DeformPercent", "DeformPercent", {"DeformPercent": 100 * morphs[name].double().numpy()})
    save(path, _spliced(scene, grown, clip, ticks), scene.version if scene.version % 100 == 0 else VERSION)
    return path


def _angles(scene: Scene, joints: Joints, R: Float[Tensor, "T J 3 3"], stands: dict[int, Tensor]) -> Float[Tensor, "T J 3"]:
    """`Lcl Rotation` (degrees) of all joints that turns them so in the world (file axes)."""
    models = [scene.models[i] for i in joints.ids]
    own = torch.stack(
        [
            m.pre.T @ (R[:, up] if up >= 0 else unscaled(stands.get(m.parent, stands[0]))).mT @ R[:, j] @ m.post.T
            for j, (m, up) in enumerate(zip(models, joints.parents))
        ],
        1,
    )
    angles = torch.zeros_like(own[..., 0])
    for order in {m.order for m in models}:
        same = [j for j, m in enumerate(models) if m.order == order]
        found = torch.rad2deg(euler.unrolled(own[:, same], order))
        angles[:, same] = found[..., [order.index(axis) for axis in "XYZ"]]
    return angles


def translation(model: Model, above: Float[Tensor, "T 4 4"], R: Float[Tensor, "T 3 3"], p: Float[Tensor, "T 3"]) -> Float[Tensor, "T 3"]:
    """`Lcl Translation` that puts a model with a world rotation at a place (file axes and unit)."""
    local = unscaled(above).mT @ R
    place = torch.linalg.solve(above[:, :3, :3], (p - above[:, :3, 3])[..., None])[..., 0]
    roff, rp, soff, sp = model.pivots
    return place - roff - rp - (local @ (soff + sp - rp - model.s * sp)[..., None])[..., 0]


def _channels(scene: Scene) -> dict[int, str]:
    """Morph channels of a file: id -> name."""
    found = {i: n for i, n in scene.objects.items() if n.name == "Deformer" and n.properties[2:3] == ("BlendShapeChannel",)}
    return {i: label(n) for i, n in found.items()}


def _spliced(scene: Scene, grown: Objects, clip: Clip, ticks: np.ndarray) -> list[Node]:
    """The file's nodes with the old animation taken out and the new one put in."""
    gone = {i for i, n in scene.objects.items() if n.name in ANIMATION}
    tops: list[Node] = []
    for node in scene.nodes:
        if node.name == "Objects":
            kept = [c for c in node.children if c.name not in ANIMATION]
            node = Node("Objects", node.properties, kept + grown.objects.children)
        elif node.name == "Connections":
            kept = [c for c in node.children if not {int(v) for v in c.properties[1:3]} & gone]
            node = Node("Connections", node.properties, kept + grown.connections.children)
        elif node.name == "Definitions":
            node = _counted(node, grown, len(scene.objects) - len(gone))
        elif node.name == "GlobalSettings":
            rows = dict(span("TimeSpan", ticks)) | {
                "TimeMode": Int(time_mode(clip.fps, drops(clip.timecode))),
                "CustomFrameRate": float(clip.fps),
            }
            node = _with_settings(node, rows)
        elif node.name == "Documents":
            node = Node(node.name, node.properties, [_with_settings(c, {"ActiveAnimStackName": clip.name}) for c in node.children])
        elif node.name == "Takes":
            node = takes(clip.name, ticks)
        elif node.name in ("FileId", "CreationTime"):
            node = Node(node.name, (FILE_ID if node.name == "FileId" else CREATION_TIME,))
        tops.append(node)
    return tops


def _counted(table: Node, grown: Objects, rest: int) -> Node:
    """Definitions with the new numbers of animation objects."""
    counts = {kind: sum(c.name == kind for c in grown.objects.children) for kind in ANIMATION}
    children: list[Node] = []
    for child in table.children:
        kind = child.properties[0] if child.name == "ObjectType" and child.properties else None
        if child.name == "Count":
            child = Node("Count", (Int(rest + len(grown.objects.children) + 1),))
        elif kind in counts:
            number = Node("Count", (Int(counts.pop(kind)),))
            child = Node(child.name, child.properties, [number, *(c for c in child.children if c.name != "Count")])
        children.append(child)
    children += [Node("ObjectType", (kind,)).fill(Count=Int(n)) for kind, n in counts.items()]
    return Node(table.name, table.properties, children)


def _with_settings(node: Node, values: Mapping[str, object]) -> Node:
    """A node whose Properties70 has some rows' values exchanged; rows it lacks are not added, but for a frame rate of its own."""
    children = []
    for child in node.children:
        if child.name == "Properties70":
            rows = [
                Node(r.name, (*r.properties[:4], values[str(r.properties[0])])) if r.properties and str(r.properties[0]) in values else r
                for r in child.children
            ]
            child = Node(child.name, child.properties, rows)
        children.append(child)
    return Node(node.name, node.properties, children)


def built(path: Path, character: Character, clip: Clip, morphs: Weights) -> Path:
    """A new FBX of a character's skeleton, skins, face shapes and one clip."""
    scene, ticks = Objects(), _ticks(clip)
    R_rest, p_rest = (Y_UP.T @ character.rest[0], CENTIMETRES * character.rest[1] @ Y_UP)
    models = _joints(scene, character)
    channels: dict[int, str] = {}
    for mesh in (m for m in character.meshes if m.weights is not None):
        channels |= _skinned(scene, mesh, models, R_rest, p_rest, character.joints)
    curves = Curves.of(scene, clip.name, ticks)
    for channel, name in channels.items():
        if name in morphs:
            curves.on(channel, "DeformPercent", "DeformPercent", {"DeformPercent": 100 * morphs[name].double().numpy()})
    own = torch.stack([_own(character, j) for j in range(len(character))])
    top = torch.tensor([up < 0 for up in character.parents])
    turned = own.mT @ torch.where(top[:, None, None], Y_UP.T @ clip.R_parent_joint, clip.R_parent_joint)
    xyz = torch.rad2deg(euler.unrolled(turned, "ZYX")).flip(-1).numpy()
    places = CENTIMETRES * torch.where(top[:, None], clip.position @ Y_UP, clip.position)
    for j, model in enumerate(models):
        curves.on(model, "Lcl Rotation", "R", dict(zip("XYZ", xyz[:, j].T)))
        if float((places[:, j] - _offset(character, j)).abs().max()) > STILL:
            curves.on(model, "Lcl Translation", "T", dict(zip("XYZ", places[:, j].T.numpy())))
    opening = head(path, clip.fps, clip.name, ticks, drop=drops(clip.timecode))
    tops = [*opening, definitions(scene), scene.objects, scene.connections, takes(clip.name, ticks)]
    save(path, tops)
    return path


def _own(character: Character, j: int) -> Float[Tensor, "3 3"]:
    """Local rest rotation of a joint in the file's axes."""
    R = character.R_parent_rest[j]
    return Y_UP.T @ R if character.parents[j] < 0 else R


def _offset(character: Character, j: int) -> Float[Tensor, "3"]:
    offset = CENTIMETRES * character.offsets[j]
    return offset @ Y_UP if character.parents[j] < 0 else offset


def _joints(scene: Objects, character: Character) -> list[int]:
    models: list[int] = []
    for j, (name, up) in enumerate(zip(character.joints, character.parents)):
        attribute, node = scene.object("NodeAttribute", name, "NodeAttribute", "LimbNode")
        node.settings(("Size", "double", "Number", "", 1.0)).fill(TypeFlags="Skeleton")
        zyx = torch.rad2deg(euler.angles(_own(character, j), "ZYX")).tolist()
        models.append(_model(scene, name, "LimbNode", _offset(character, j).tolist(), zyx[::-1]))
        scene.connect(models[-1], models[up] if up >= 0 else 0)
        scene.connect(attribute, models[-1])
    return models


def _model(scene: Objects, name: str, kind: str, place: list[float], pre: list[float]) -> int:
    this, model = scene.object("Model", name, "Model", kind)
    model.fill(Version=Int(232)).settings(
        ("RotationActive", "bool", "", "", Int(1)),
        ("RotationOrder", "enum", "", "", Int(0)),
        ("InheritType", "enum", "", "", Int(1)),
        ("PreRotation", "Vector3D", "Vector", "", *pre),
        ("Lcl Translation", "Lcl Translation", "", "A", *place),
        ("Lcl Rotation", "Lcl Rotation", "", "A", 0.0, 0.0, 0.0),
        ("Lcl Scaling", "Lcl Scaling", "", "A", 1.0, 1.0, 1.0),
        ("DefaultAttributeIndex", "int", "Integer", "", Int(0)),
    )
    model.fill(Shading=True, Culling="CullingOff")
    return this


def _flat(values: Tensor) -> np.ndarray:
    return values.double().numpy().ravel()


def _skinned(scene: Objects, mesh: Mesh, models: list[int], R: Tensor, p: Tensor, names: tuple[str, ...]) -> dict[int, str]:
    """A mesh bound to the joints in the rest pose; its face shapes by the ids of their channels."""
    assert mesh.weights is not None
    geometry, node = scene.object("Geometry", mesh.name, "Geometry", "Mesh")
    points, corners = CENTIMETRES * mesh.points.double() @ Y_UP, mesh.triangles.numpy().astype(np.int32)
    ended = corners.copy()
    ended[:, 2:] = ~ended[:, 2:]  # the complement marks a polygon's last corner
    node.fill(GeometryVersion=Int(124), Vertices=_flat(points), PolygonVertexIndex=ended.ravel())
    layers = {
        "Normal": ("ByPolygonVertex", {"Normals": _flat(vertex_normals(points, mesh.triangles)[mesh.triangles])}),
        "Smoothing": ("ByPolygon", {"Smoothing": np.ones(len(corners), np.int32)}),
    }
    layer = Node("Layer", (Int(0),)).fill(Version=Int(100))
    for kind, (mapping, arrays) in layers.items():
        element = node.add(f"LayerElement{kind}", Int(0)).fill(Version=Int(101), Name="")
        element.fill(MappingInformationType=mapping, ReferenceInformationType="Direct", **arrays)
        layer.add("LayerElement").fill(Type=f"LayerElement{kind}", TypedIndex=Int(0))
    node.children.append(layer)
    drawn = _model(scene, mesh.name, "Mesh", [0.0] * 3, [0.0] * 3)
    scene.connect(drawn, 0)
    scene.connect(geometry, drawn)
    skin, node = scene.object("Deformer", f"{mesh.name}_skin", "Deformer", "Skin")
    node.fill(Version=Int(101), Link_DeformAcuracy=50.0)  # the format's own spelling
    scene.connect(skin, geometry)
    _clusters(scene, mesh, skin, drawn, models, R, p, names)
    if mesh.shapes is None:
        return {}
    return dict(zip(face_shapes(scene, mesh.morphs, mesh.shapes.double() @ Y_UP, geometry), mesh.morphs))


def _clusters(scene: Objects, mesh: Mesh, skin: int, drawn: int, models: list[int], R: Tensor, p: Tensor, names: tuple[str, ...]) -> None:
    assert mesh.weights is not None
    _, pose = scene.object("Pose", f"{mesh.name}_bind", "Pose", "BindPose")
    pose.fill(Type="BindPose", Version=Int(100), NbPoseNodes=Int(len(models) + 1))
    pose.add("PoseNode").fill(Node=drawn, Matrix=_flat(torch.eye(4)))
    which, share = influences(mesh.weights.double())
    for j, name in enumerate(names):
        link = torch.eye(4, dtype=torch.float64)
        link[:3, :3], link[:3, 3] = R[j], p[j]
        pose.add("PoseNode").fill(Node=models[j], Matrix=_flat(link.T.contiguous()))
        points, slots = ((which == j) & (share > 0)).nonzero(as_tuple=True)
        if not len(points):
            continue
        cluster, node = scene.object("Deformer", name, "SubDeformer", "Cluster")
        node.fill(Version=Int(100)).add("UserData", "", "")
        node.fill(Indexes=points.numpy().astype(np.int32), Weights=_flat(share[points, slots]))
        node.fill(Transform=_flat(torch.linalg.inv(link).T.contiguous()), TransformLink=_flat(link.T.contiguous()))
        scene.connect(cluster, skin)
        scene.connect(models[j], cluster)

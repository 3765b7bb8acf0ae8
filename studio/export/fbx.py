"""Binary FBX 7.4 or 7.5 of characters: skeleton, skin, face shapes and animation. Centimetres, y up, facing +z.

Joint frames are parallel to the world in the rest pose, so `Lcl Rotation` zero everywhere is the rest pose and `PreRotation` is zero.
The order of rotation is FBX's XYZ, M = Rz Ry Rx. Key times are counted from the first frame's number, never accumulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs import euler
from rigs.characters.fbx_nodes import Int, Node, save
from studio.export import keys, timecode
from studio.export.animation import Character
from studio.export.fbx_document import TICKS, Curves, Objects, definitions, head, span, takes, time_mode
from studio.export.mesh import Mesh, surface

__all__ = ["TICKS", "Curves", "Objects", "Options", "definitions", "face_shapes", "head", "span", "takes", "time_mode", "write"]

CENTIMETRES = 100.0
FOOT_CURVES = ("contact_left_heel", "contact_left_toe", "contact_right_heel", "contact_right_toe")
"""Custom properties of the top joint: probability that this part of a foot is planted."""
HAND_CURVES = ("contact_left_hand", "contact_left_fingertips", "contact_right_hand", "contact_right_fingertips")
"""... that this part of a hand rests on the floor."""
SIGMA_CURVE = "sigma_mm"
"""Custom property of every joint of the body: standard deviation of its position, mm."""
STILL = 1e-7
"""A face shape keeps displacements above this, m."""
FACE_ERROR = 0.2
"""What face weights may miss where keys are left out, percent."""
ROUNDING = 1e-4
"""Curves are kept in single precision; so much of an allowed error is left to that, degrees or centimetres."""


@dataclass(frozen=True)
class Options:
    """How a file is written."""

    version: Literal["7.4", "7.5"] = "7.4"
    """7.5 has 64-bit offsets: for files beyond 4 GB."""
    timeline: Literal["timecode", "zero"] = "zero"
    """Whether the first key lies at its timecode or at 0."""
    measures: bool = False
    """Write foot contacts and standard deviations as custom animated properties."""
    degrees: float = 0.0
    """Joints may miss their rotation by so much where keys are left out; 0 keeps all keys."""
    millimetres: float = 0.0
    """The same for positions."""


def write(path: Path, characters: Character | Sequence[Character], clip: str = "take", options: Options | None = None) -> Path:
    """Write characters of one take into one file as one FBX take called `clip`.

    Several characters keep their joints' names apart as Maya's and MotionBuilder's namespaces do: `actor:Hips`, below a null `actor`.
    """
    listed = [characters] if isinstance(characters, Character) else list(characters)
    options = options or Options()
    scene, fps = Objects(), listed[0].fps
    spans = [ticks_of(character, options) for character in listed]
    whole = np.array([min(t[0] for t in spans), max(t[-1] for t in spans)])
    curves = Curves.of(scene, clip, whole)
    for character, ticks in zip(listed, spans):
        prefix = f"{character.actor}:" if len(listed) > 1 else ""
        _character(scene, character, prefix, replace(curves, ticks=ticks), options)
    version = int(float(options.version) * 1000)
    drop = timecode.drops(listed[0].timecode) and options.timeline == "timecode"
    tops = [*head(path, fps, clip, whole, version, drop), definitions(scene), scene.objects, scene.connections, takes(clip, whole)]
    save(path, tops, version)
    return path


def ticks_of(character: Character, options: Options) -> np.ndarray:
    """Time of every frame in FBX units, from midnight or from the first frame."""
    first = character.start if options.timeline == "timecode" else 0
    return np.array([round(f * TICKS / character.fps) for f in range(first, first + len(character.root))], dtype=np.int64)


def _character(scene: Objects, character: Character, prefix: str, curves: Curves, options: Options) -> None:
    joints = _skeleton(scene, character, prefix)
    mesh = surface(character, split=False)
    drawn, geometry = _mesh(scene, character.actor, mesh)
    _skin(scene, character, mesh, joints, drawn, geometry)
    channels = face_shapes(scene, character.shaped.body.expression_names, mesh.expressions, geometry)
    _animate(curves, character, joints, channels, options)
    if options.measures:
        _measures(curves, scene, character, joints)


def _vector(name: str, values: list[float]) -> tuple[Any, ...]:
    """A row of three numbers; `Lcl ...` are animatable."""
    return (name, name, "", "A", *values) if name.startswith("Lcl") else (name, "Vector3D", "Vector", "", *values)


def _model(scene: Objects, name: str, kind: str, place: list[float]) -> int:
    this, model = scene.object("Model", name, "Model", kind)
    model.fill(Version=Int(232)).settings(
        ("RotationActive", "bool", "", "", Int(1)),
        ("RotationOrder", "enum", "", "", Int(0)),
        ("InheritType", "enum", "", "", Int(1)),
        _vector("PreRotation", [0.0] * 3),
        _vector("Lcl Translation", place),
        _vector("Lcl Rotation", [0.0] * 3),
        _vector("Lcl Scaling", [1.0] * 3),
        ("DefaultAttributeIndex", "int", "Integer", "", Int(0)),
    )
    model.fill(Shading=True, Culling="CullingOff")
    return this


def _skeleton(scene: Objects, character: Character, prefix: str) -> list[int]:
    """Ids of the joints; with a prefix they hang below a null called like the actor, which Blender makes an armature of its own."""
    models, top = [], 0
    if prefix:
        top = _model(scene, character.actor, "Null", [0.0] * 3)
        attribute, node = scene.object("NodeAttribute", character.actor, "NodeAttribute", "Null")
        node.fill(TypeFlags="Null")
        scene.connect(top, 0)
        scene.connect(attribute, top)
    names = [prefix + name for name in character.skeleton.names]
    for name, up, offset in zip(names, character.skeleton.parents, (character.offsets * CENTIMETRES).tolist()):
        attribute, node = scene.object("NodeAttribute", name, "NodeAttribute", "LimbNode")
        node.settings(("Size", "double", "Number", "", 1.0)).fill(TypeFlags="Skeleton")
        models.append(_model(scene, name, "LimbNode", offset))
        scene.connect(models[-1], models[up] if up >= 0 else top)
        scene.connect(attribute, models[-1])
    return models


def _layer(geometry: Node, kind: str, mapping: str, reference: str, **arrays: Any) -> None:
    """One layer element; its first array names it to the layer."""
    element = geometry.add(f"LayerElement{kind}", Int(0)).fill(Version=Int(101), Name="" if kind != "UV" else "map1")
    element.fill(MappingInformationType=mapping, ReferenceInformationType=reference, **arrays)


def _mesh(scene: Objects, actor: str, mesh: Mesh) -> tuple[int, int]:
    """Ids of the mesh's model and its geometry."""
    geometry, node = scene.object("Geometry", f"{actor}_mesh", "Geometry", "Mesh")
    corners = mesh.triangles.numpy().astype(np.int32)
    ended = corners.copy()
    ended[:, 2] = ~ended[:, 2]  # the complement marks a polygon's last corner
    node.fill(GeometryVersion=Int(124), Vertices=_flat(mesh.points * CENTIMETRES), PolygonVertexIndex=ended.ravel())
    _layer(node, "Normal", "ByPolygonVertex", "Direct", Normals=_flat(mesh.normals[mesh.triangles]))
    _layer(node, "Smoothing", "ByPolygon", "Direct", Smoothing=np.ones(len(corners), np.int32))
    _layer(node, "Material", "ByPolygon", "IndexToDirect", Materials=mesh.parts.numpy().astype(np.int32))
    kinds = ["Normal", "Smoothing", "Material"]
    if mesh.corner_uv is not None:
        places, index = np.unique(mesh.corner_uv.reshape(-1, 2).numpy(), axis=0, return_inverse=True)
        _layer(node, "UV", "ByPolygonVertex", "IndexToDirect", UV=places.ravel(), UVIndex=index.astype(np.int32).ravel())
        kinds.append("UV")
    layer = node.add("Layer", Int(0)).fill(Version=Int(100))
    for kind in kinds:
        layer.add("LayerElement").fill(Type=f"LayerElement{kind}", TypedIndex=Int(0))
    drawn = _model(scene, f"{actor}_mesh", "Mesh", [0.0] * 3)
    scene.connect(drawn, 0)
    scene.connect(geometry, drawn)
    for name, (colour, roughness) in zip(mesh.part_names, mesh.colours):
        material, node = scene.object("Material", name, "Material")
        node.fill(Version=Int(102), ShadingModel="phong", MultiLayer=Int(0))
        node.settings(("DiffuseColor", "Color", "", "A", *colour), ("Shininess", "double", "Number", "", 100 * (1 - roughness) ** 2))
        scene.connect(material, drawn)
    return drawn, geometry


def _flat(values: Tensor) -> np.ndarray:
    return values.double().numpy().ravel()


def _matrix(M: Float[Tensor, "4 4"]) -> np.ndarray:
    """Sixteen numbers, column by column, lengths in centimetres."""
    scaled = M.clone()
    scaled[:3, 3] *= CENTIMETRES
    return _flat(scaled.T.contiguous())


def _skin(scene: Objects, character: Character, mesh: Mesh, joints: list[int], drawn: int, geometry: int) -> None:
    skin, node = scene.object("Deformer", f"{character.actor}_skin", "Deformer", "Skin")
    node.fill(Version=Int(101), Link_DeformAcuracy=50.0)  # the format's own spelling
    scene.connect(skin, geometry)
    _, pose = scene.object("Pose", f"{character.actor}_bind", "Pose", "BindPose")
    pose.fill(Type="BindPose", Version=Int(100), NbPoseNodes=Int(len(joints) + 1))
    pose.add("PoseNode").fill(Node=drawn, Matrix=_matrix(torch.eye(4)))
    for j, (name, inverse) in enumerate(zip(character.skeleton.names, character.inverse_bind)):
        pose.add("PoseNode").fill(Node=joints[j], Matrix=_matrix(torch.linalg.inv(inverse)))
        points, slots = ((mesh.influences == j) & (mesh.weights > 0)).nonzero(as_tuple=True)
        if not len(points):
            continue
        cluster, node = scene.object("Deformer", name, "SubDeformer", "Cluster")
        node.fill(Version=Int(100)).add("UserData", "", "")
        node.fill(Indexes=points.numpy().astype(np.int32), Weights=_flat(mesh.weights[points, slots]))
        node.fill(Transform=_matrix(inverse), TransformLink=_matrix(torch.linalg.inv(inverse)))
        scene.connect(cluster, skin)
        scene.connect(joints[j], cluster)


def face_shapes(scene: Objects, names: tuple[str, ...], shapes: Float[Tensor, "E P 3"], geometry: int) -> list[int]:
    """Ids of the channels whose percentage drives each face shape of a mesh; `shapes` are in the file's axes, m."""
    if not names:
        return []
    blend, node = scene.object("Deformer", "face", "Deformer", "BlendShape")
    node.fill(Version=Int(100))
    scene.connect(blend, geometry)
    channels: list[int] = []
    for name, moved in zip(names, shapes):
        rows = (moved.abs().amax(1) > STILL).nonzero()[:, 0]
        rows = rows if len(rows) else torch.zeros(1, dtype=torch.long)
        shape, node = scene.object("Geometry", name, "Geometry", "Shape")
        node.fill(
            Version=Int(100),
            Indexes=rows.numpy().astype(np.int32),
            Vertices=_flat(moved[rows] * CENTIMETRES),
            Normals=np.zeros(3 * len(rows)),
        )
        channel, node = scene.object("Deformer", name, "SubDeformer", "BlendShapeChannel")
        node.fill(Version=Int(100), DeformPercent=0.0, FullWeights=np.array([100.0]))
        node.settings(("DeformPercent", "Number", "", "A", 0.0))
        scene.connect(channel, blend)
        scene.connect(shape, channel)
        channels.append(channel)
    return channels


def _animate(curves: Curves, character: Character, joints: list[int], channels: list[int], options: Options) -> None:
    for j, place in character.places.items():
        xyz = (place * CENTIMETRES).numpy()
        frames = _frames(xyz, options.millimetres / 10)
        curves.on(joints[j], "Lcl Translation", "T", dict(zip("XYZ", xyz.T)), frames)
    zyx = torch.rad2deg(euler.unrolled(character.R_parent_joint, "ZYX")).numpy()
    for j, joint in enumerate(joints):
        frames = _frames(zyx[:, j], options.degrees, total=True)
        curves.on(joint, "Lcl Rotation", "R", {axis: zyx[:, j, "ZYX".index(axis)] for axis in "XYZ"}, frames)
    fewer = FACE_ERROR if options.degrees else 0.0
    for channel, weight in zip(channels, 100 * character.expression.T.numpy()):
        curves.on(channel, "DeformPercent", "DeformPercent", {"DeformPercent": weight}, _frames(weight[:, None], fewer))


def _frames(values: np.ndarray, limit: float, total: bool = False) -> np.ndarray | None:
    """Frames to key; None for all."""
    return keys.kept(len(values), keys.straight(values, total), limit - ROUNDING) if limit > ROUNDING else None


def _measures(curves: Curves, scene: Objects, character: Character, joints: list[int]) -> None:
    """How sure the studio is, for scripts and for switches of foot locks."""
    by_joint: dict[int, dict[str, np.ndarray]] = {joints[0]: dict(zip(FOOT_CURVES + HAND_CURVES, character.contacts.T.numpy()))}
    for joint, sigma in zip(joints[len(character.above) :], 1000 * character.sigma.T.numpy()):
        by_joint.setdefault(joint, {})[SIGMA_CURVE] = sigma
    for joint, measured in by_joint.items():
        table = scene.model(joint).child("Properties70")
        assert table is not None
        for name, values in measured.items():
            table.add("P", name, "Number", "", "A+U", float(values[0]))  # U makes it the user's own
            curves.on(joint, name, name, {name: values})

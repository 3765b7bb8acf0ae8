"""glTF 2.0 binary: skinned mesh, face shapes, skeleton and animation of one or more characters. Metres, y up, facing +z.

Layout after the Khronos glTF 2.0 specification: for every character a plain node that holds its skeleton, and beside it the mesh.
The joints' node transforms are the rest pose; unless re-bound, the mesh keeps the pose it was modelled in, and the inverse bind matrices
lead from one to the other, so that skinning is exactly the body model's. Face shapes are sparse morph targets without normals.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from studio.export import keys
from studio.export.animation import Character, in_pieces
from studio.export.mesh import Mesh, surface

COMPONENTS = {"float32": 5126, "uint32": 5125, "uint16": 5123}
SHAPES = {1: "SCALAR", 3: "VEC3", 2: "VEC2", 4: "VEC4", 16: "MAT4"}
VERTICES, INDICES = 34962, 34963
STILL = 1e-7
"""Displacements below this are left out of a face shape, m; a quaternion that moves less has one key."""
ROUNDING = 1e-6
"""Numbers are kept in single precision; so much of an allowed error is left to that, rad or m."""


@dataclass
class GltfWriter:
    """The document and its binary chunk while they grow."""

    blob: bytearray = field(default_factory=bytearray)
    document: dict[str, Any] = field(default_factory=dict)

    def listed(self, kind: str, entry: dict[str, Any]) -> int:
        """Append an entry to one of the document's lists; its index."""
        self.document.setdefault(kind, []).append(entry)
        return len(self.document[kind]) - 1

    def view(self, array: np.ndarray, target: int | None = None) -> int:
        """The bytes of an array, aligned; index of their view."""
        self.blob.extend(b"\0" * (-len(self.blob) % 4))
        entry: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": array.nbytes}
        if target:
            entry["target"] = target
        self.blob.extend(np.ascontiguousarray(array).tobytes())
        return self.listed("bufferViews", entry)

    def accessor(self, array: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """A table of numbers, one row an element."""
        entry = _described(array, bounds) | {"bufferView": self.view(array, target)}
        return self.listed("accessors", entry)

    def sparse(self, array: np.ndarray) -> int:
        """A table of which few rows differ from zero; dense where that is smaller."""
        rows = np.flatnonzero(np.abs(array).max(1) > STILL)
        if len(rows) * 16 >= array.nbytes:
            return self.accessor(array, VERTICES, bounds=True)
        rows = rows if len(rows) else np.zeros(1, dtype=np.int64)  # a sparse accessor needs one row
        kept = np.zeros_like(array)
        kept[rows] = array[rows]
        index = rows.astype(np.uint16 if len(array) <= 65535 else np.uint32)
        changes = {
            "count": len(rows),
            "indices": {"bufferView": self.view(index), "componentType": COMPONENTS[index.dtype.name]},
            "values": {"bufferView": self.view(array[rows])},
        }
        return self.listed("accessors", _described(kept, True) | {"sparse": changes})

    def save(self, path: Path) -> None:
        """Write the file to a temporary name, then rename."""
        self.blob.extend(b"\0" * (-len(self.blob) % 4))
        self.document["buffers"] = [{"byteLength": len(self.blob)}]
        text = json.dumps(self.document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        if len(text) + len(self.blob) > 2**32 - 64:
            raise ValueError(f"{path}: GLB holds 4 GB at most and this take needs more; export a shorter range of frames")
        temporary = path.with_name(path.name + ".partial")
        with temporary.open("wb") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(self.blob)))
            file.write(struct.pack("<I4s", len(text), b"JSON") + text)
            file.write(struct.pack("<I4s", len(self.blob), b"BIN\0") + self.blob)
        temporary.replace(path)


def _described(array: np.ndarray, bounds: bool) -> dict[str, Any]:
    columns = 1 if array.ndim == 1 else array.shape[1]
    entry: dict[str, Any] = {"componentType": COMPONENTS[array.dtype.name], "count": len(array), "type": SHAPES[columns]}
    if bounds:
        table = array.reshape(len(array), -1)
        entry |= {"min": table.min(0).tolist(), "max": table.max(0).tolist()}
    return entry


def write(path: Path, characters: Sequence[Character], clip: str = "take", degrees: float = 0.0, millimetres: float = 0.0) -> Path:
    """Write characters of one take into one file as one animation called `clip`; its time 0 is their first frame.

    `degrees` and `millimetres` are what joints may miss where keys are left out; 0 keeps all keys.
    """
    file = GltfWriter(document={"asset": {"version": "2.0", "generator": "mocap-studio"}, "scene": 0, "scenes": [{"nodes": []}]})
    animation: dict[str, Any] = {"name": clip, "channels": [], "samplers": []}
    for character in characters:
        joints = _skeleton(file, character)
        drawn = _skinned_mesh(file, character, joints)
        _Animation(file, animation, character, (degrees, millimetres)).fill(joints, drawn)
    file.listed("animations", animation)
    file.save(path)
    return path


def _f32(values: Tensor) -> np.ndarray:
    return values.to(torch.float32).numpy()


def _skeleton(file: GltfWriter, character: Character) -> list[int]:
    """Nodes of the joints below one plain node with the actor's name, which comes right before them."""
    skeleton = character.skeleton
    first = len(file.document.get("nodes", [])) + 1
    facts = {"timecode": character.timecode, "first_frame": character.first_frame, "fps": character.fps}
    file.document["scenes"][0]["nodes"].append(file.listed("nodes", {"name": character.actor, "children": [first], "extras": facts}))
    for j, name in enumerate(skeleton.names):
        node: dict[str, Any] = {"name": name, "translation": character.offsets[j].tolist()}
        if children := [first + c for c, up in enumerate(skeleton.parents) if up == j]:
            node["children"] = children
        file.listed("nodes", node)
    return list(range(first, first + len(skeleton)))


def _skinned_mesh(file: GltfWriter, character: Character, joints: list[int]) -> int:
    """The node that draws the character; it lies at the scene's root because a skinned mesh ignores its parents."""
    mesh = surface(character, split=True)
    attributes = {
        "POSITION": file.accessor(_f32(mesh.points), VERTICES, bounds=True),
        "NORMAL": file.accessor(_unit(mesh.normals), VERTICES),
    }
    if mesh.uv is not None:
        attributes["TEXCOORD_0"] = file.accessor(_f32(torch.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], -1)), VERTICES)
    for n in range(mesh.influences.shape[1] // 4):
        four = slice(4 * n, 4 * n + 4)
        attributes[f"JOINTS_{n}"] = file.accessor(mesh.influences[:, four].numpy().astype(np.uint16), VERTICES)
        attributes[f"WEIGHTS_{n}"] = file.accessor(_f32(mesh.weights[:, four]), VERTICES)
    targets = [{"POSITION": file.sparse(_f32(d))} for d in mesh.expressions]
    primitives = [_primitive(file, mesh, part, attributes, targets) for part in range(len(mesh.part_names))]
    names = list(character.shaped.body.expression_names)
    entry: dict[str, Any] = {"name": f"{character.actor}_mesh", "primitives": primitives}
    if targets:
        entry |= {"weights": [0.0] * len(targets), "extras": {"targetNames": names}}
    inverse = file.accessor(_f32(character.inverse_bind.mT.flatten(1)))
    skin = {"name": character.actor, "joints": joints, "inverseBindMatrices": inverse, "skeleton": joints[0] - 1}
    node = {"name": f"{character.actor}_mesh", "mesh": file.listed("meshes", entry), "skin": file.listed("skins", skin)}
    drawn = file.listed("nodes", node)
    file.document["scenes"][0]["nodes"].append(drawn)
    return drawn


def _unit(normals: Float[Tensor, "P 3"]) -> np.ndarray:
    single = _f32(normals)
    return single / np.linalg.norm(single, axis=1, keepdims=True)


def _primitive(file: GltfWriter, mesh: Mesh, part: int, attributes: dict[str, int], targets: list[dict[str, int]]) -> dict[str, Any]:
    corners = mesh.triangles[mesh.parts == part].flatten().numpy().astype(np.uint32)
    colour, roughness = mesh.colours[part]
    look = {"baseColorFactor": [*colour, 1.0], "metallicFactor": 0.0, "roughnessFactor": roughness}
    material = file.listed("materials", {"name": mesh.part_names[part], "pbrMetallicRoughness": look})
    primitive: dict[str, Any] = {"attributes": attributes, "indices": file.accessor(corners, INDICES), "material": material}
    return primitive | ({"targets": targets} if targets else {})


class _Animation:
    """One character's channels of the animation while they are added."""

    def __init__(self, file: GltfWriter, animation: dict[str, Any], character: Character, limits: tuple[float, float]) -> None:
        self.file, self.animation, self.character, self.limits = file, animation, character, limits
        self.seconds = torch.arange(len(character.root), dtype=torch.float64) / character.fps
        self.every, self.first = file.accessor(_f32(self.seconds), bounds=True), -1

    def fill(self, joints: list[int], drawn: int) -> None:
        """All channels of the joints and of the mesh that is drawn."""
        degrees, millimetres = self.limits
        for j, place in self.character.places.items():
            values = place.numpy()
            self._channel(joints[j], "translation", place, self._kept(keys.straight(values), millimetres / 1000))
        turns = continuous(in_pieces(rotation.quaternion, self.character.R_parent_joint))
        for j, node in enumerate(joints):
            still = bool(((turns[:, j] - turns[:1, j]).abs() < STILL).all())
            frames = np.arange(1) if still else self._kept(keys.arc(turns[:, j].numpy()), math.radians(degrees))
            self._channel(node, "rotation", turns[:, j][:, [1, 2, 3, 0]], frames)
        if self.character.expression.shape[1]:
            self._channel(drawn, "weights", self.character.expression, None)

    def _kept(self, error: Callable[[int, int], np.ndarray], limit: float) -> np.ndarray | None:
        return keys.kept(len(self.seconds), error, limit - ROUNDING) if limit > ROUNDING else None

    def _channel(self, node: int, path: str, values: Tensor, frames: np.ndarray | None) -> None:
        """Keys on all frames, or on those chosen."""
        chosen = values if frames is None else values[frames]
        output = self.file.accessor(_f32(chosen).reshape(-1) if path == "weights" else _f32(chosen))
        entry = {"input": self._times(frames), "output": output, "interpolation": "LINEAR"}
        self.animation["samplers"].append(entry)
        self.animation["channels"].append({"sampler": len(self.animation["samplers"]) - 1, "target": {"node": node, "path": path}})

    def _times(self, frames: np.ndarray | None) -> int:
        """Times of keys; those of all frames, and the one of joints that stay still, are in the file once."""
        if frames is None:
            return self.every
        if len(frames) > 1:
            return self.file.accessor(_f32(self.seconds[frames]), bounds=True)
        if self.first < 0:
            self.first = self.file.accessor(_f32(self.seconds[:1]), bounds=True)
        return self.first


def continuous(quaternions: Float[Tensor, "T J 4"]) -> Float[Tensor, "T J 4"]:
    """The same rotations with signs such that neighbouring frames lie on the same side, so that blending takes the short way."""
    turned = (quaternions[1:] * quaternions[:-1]).sum(-1) < 0
    odd = turned.long().cumsum(0) % 2 == 1
    sign = torch.cat([torch.ones_like(quaternions[:1, :, 0]), torch.where(odd, -1.0, 1.0).to(quaternions.dtype)])
    return quaternions * sign[..., None]

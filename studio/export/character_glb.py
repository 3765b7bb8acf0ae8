"""GLB of anybody's character: the user's own glTF with its animations replaced, or a new file with skeleton, skin and animation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.body import vertex_normals
from rigs.characters.character import Character, Clip, Mesh, forward
from rigs.characters.fbx import unscaled
from rigs.characters.glb import Y_UP, joints_of, morphs_of, parents_of, standing
from rigs.characters.gltf_file import GltfFile
from studio.export.glb import VERTICES, GltfWriter, continuous
from studio.export.mesh import influences

Weights = Mapping[str, Float[Tensor, "T"]]
"""Morph -> weight over time; 1 is full."""
STILL = 1e-6
"""A translation that keeps within this of the node's own needs no keys, m."""


def write(path: Path, character: Character, clip: Clip, morphs: Weights | None = None) -> Path:
    """Write a clip of a character: into a copy of its own glTF where it came from one, else into a new file."""
    if Path(character.source.path).suffix.lower() in (".glb", ".gltf"):
        return rewritten(path, Path(character.source.path), clip, morphs or {})
    return built(path, character, clip, morphs or {})


def rewritten(path: Path, original: Path, clip: Clip, morphs: Weights) -> Path:
    """The user's glTF, in one .glb, with this clip in place of its own animations."""
    source = GltfFile.of(original)
    above = parents_of(source)
    nodes = joints_of(source, above)
    parents = tuple(nodes.index(above[i]) if above[i] in nodes else -1 for i in nodes)
    R, p = forward(parents, clip.R_parent_joint, clip.position)
    R, p = Y_UP.T @ R, p @ Y_UP
    file = _opened(source)
    stands = [M.expand(clip.frames, 4, 4) for M in standing(source, above)]
    world: dict[int, Tensor] = {}
    animated = _Animated(file, clip)
    for j, i in enumerate(nodes):
        M = world.get(above[i], stands[above[i]] if above[i] >= 0 else torch.eye(4, dtype=torch.float64).expand(clip.frames, 4, 4))
        turn = unscaled(M).mT @ R[:, j]
        place = torch.linalg.solve(M[:, :3, :3], (p[:, j] - M[:, :3, 3])[..., None])[..., 0]
        node, size = file.document["nodes"][i], _size(source.listed("nodes")[i])
        _opened_up(node, size)
        still = torch.tensor(node.get("translation", [0.0, 0, 0]), dtype=place.dtype)
        local = torch.eye(4, dtype=torch.float64).repeat(clip.frames, 1, 1)
        local[:, :3, :3], local[:, :3, 3] = turn * size, place
        world[i] = M @ local
        animated.turns(i, turn)
        if float((place - still).abs().max()) > STILL:
            animated.places(i, place)
    for i, node in enumerate(source.listed("nodes")):
        names = morphs_of(source.listed("meshes")[node["mesh"]]) if "mesh" in node else ()
        if any(name in morphs for name in names):
            animated.faces(i, _weights(names, morphs, clip))
    file.document["animations"] = [animated.entry]
    file.save(path)
    return path


def _weights(names: tuple[str, ...], morphs: Weights, clip: Clip) -> Float[Tensor, "T M"]:
    """Weights of all of a mesh's morphs, nothing for those that nobody moves."""
    return torch.stack([morphs.get(name, torch.zeros(clip.frames)).float() for name in names], 1)


def _opened_up(node: dict[str, Any], size: Float[Tensor, "3"]) -> None:
    """A node's matrix taken apart, in place: glTF animates only nodes whose translation, rotation and scale are apart."""
    if (matrix := node.pop("matrix", None)) is None:
        return
    M = torch.tensor(matrix, dtype=torch.float64).reshape(4, 4).T
    node |= {"translation": M[:3, 3].tolist(), "rotation": _xyzw(unscaled(M)[None])[0].tolist(), "scale": size.tolist()}


def _size(node: dict[str, Any]) -> Float[Tensor, "3"]:
    if "matrix" in node:
        return torch.tensor(node["matrix"], dtype=torch.float64).reshape(4, 4).T[:3, :3].norm(dim=0)
    return torch.tensor(node.get("scale", [1.0, 1, 1]), dtype=torch.float64)


def _opened(source: GltfFile) -> GltfWriter:
    """A glTF to write on from an existing one: all its buffers in one."""
    document, blob, starts = copy.deepcopy(source.document), bytearray(), []
    for data in source.buffers:
        blob.extend(b"\0" * (-len(blob) % 4))
        starts.append(len(blob))
        blob.extend(data)
    for view in document.get("bufferViews", []):
        view["byteOffset"] = view.get("byteOffset", 0) + starts[view["buffer"]]
        view["buffer"] = 0
    document.pop("animations", None)
    return GltfWriter(blob=blob, document=document)


class _Animated:
    """An animation that grows channel by channel."""

    def __init__(self, file: GltfWriter, clip: Clip) -> None:
        self.file, self.entry = file, {"name": clip.name, "channels": [], "samplers": []}
        seconds = torch.arange(clip.frames, dtype=torch.float64) / clip.fps
        self.time = file.accessor(seconds.float().numpy(), bounds=True)

    def _add(self, node: int, path: str, values: np.ndarray) -> None:
        self.entry["samplers"].append({"input": self.time, "output": self.file.accessor(values), "interpolation": "LINEAR"})
        self.entry["channels"].append({"sampler": len(self.entry["samplers"]) - 1, "target": {"node": node, "path": path}})

    def turns(self, node: int, R: Float[Tensor, "T 3 3"]) -> None:
        self._add(node, "rotation", _xyzw(R).float().numpy())

    def places(self, node: int, p: Float[Tensor, "T 3"]) -> None:
        self._add(node, "translation", p.float().numpy())

    def faces(self, node: int, weights: Float[Tensor, "T E"]) -> None:
        self._add(node, "weights", weights.reshape(-1).numpy())


def _xyzw(R: Float[Tensor, "T 3 3"]) -> Float[Tensor, "T 4"]:
    return continuous(rotation.quaternion(R)[:, None])[:, 0][:, [1, 2, 3, 0]]


def built(path: Path, character: Character, clip: Clip, morphs: Weights) -> Path:
    """A new GLB of a character's skeleton, skins, face shapes and one clip; metres, y up, facing +z."""
    file = GltfWriter(document={"asset": {"version": "2.0", "generator": "mocap-studio"}, "scene": 0, "scenes": [{"nodes": []}]})
    animated = _Animated(file, clip)
    for j, (name, up) in enumerate(zip(character.joints, character.parents)):
        turn, place, still, own = clip.R_parent_joint[:, j], clip.position[:, j], character.offsets[j], character.R_parent_rest[j]
        if up < 0:
            turn, place, still, own = Y_UP.T @ turn, place @ Y_UP, still @ Y_UP, Y_UP.T @ own
        node: dict[str, Any] = {"name": name, "translation": still.tolist(), "rotation": _xyzw(own[None])[0].tolist()}
        if below := list(character.children[j]):
            node["children"] = below
        file.listed("nodes", node)
        if up < 0:
            file.document["scenes"][0]["nodes"].append(j)
        animated.turns(j, turn)
        if float((place - still).abs().max()) > STILL:
            animated.places(j, place)
    for mesh in (m for m in character.meshes if m.weights is not None):
        drawn = _skinned(file, mesh, character)
        if mesh.shapes is not None and any(name in morphs for name in mesh.morphs):
            animated.faces(drawn, _weights(mesh.morphs, morphs, clip))
    file.document["animations"] = [animated.entry]
    file.save(path)
    return path


def _skinned(file: GltfWriter, mesh: Mesh, character: Character) -> int:
    """A mesh bound to the joints in the rest pose; it lies at the scene's root. Its node."""
    assert mesh.weights is not None
    points = mesh.points.double() @ Y_UP
    which, share = influences(mesh.weights.double())
    attributes = {
        "POSITION": file.accessor(points.float().numpy(), VERTICES, bounds=True),
        "NORMAL": file.accessor(vertex_normals(points, mesh.triangles).float().numpy(), VERTICES),
    }
    for n in range(which.shape[1] // 4):
        attributes[f"JOINTS_{n}"] = file.accessor(which[:, 4 * n : 4 * n + 4].numpy().astype(np.uint16), VERTICES)
        attributes[f"WEIGHTS_{n}"] = file.accessor(share[:, 4 * n : 4 * n + 4].float().numpy(), VERTICES)
    corners = file.accessor(mesh.triangles.flatten().numpy().astype(np.uint32), 34963)
    primitive: dict[str, Any] = {"attributes": attributes, "indices": corners}
    entry: dict[str, Any] = {"name": mesh.name, "primitives": [primitive]}
    if mesh.shapes is not None:
        primitive["targets"] = [{"POSITION": file.sparse((moved.double() @ Y_UP).float().numpy())} for moved in mesh.shapes]
        entry |= {"weights": [0.0] * len(mesh.morphs), "extras": {"targetNames": list(mesh.morphs)}}
    drawn = file.listed("meshes", entry)
    R, p = character.rest
    bind = torch.eye(4, dtype=torch.float64).repeat(len(character), 1, 1)
    bind[:, :3, :3], bind[:, :3, 3] = Y_UP.T @ R, p @ Y_UP
    inverse = file.accessor(torch.linalg.inv(bind).mT.flatten(1).float().numpy())
    skin = file.listed("skins", {"joints": list(range(len(character))), "inverseBindMatrices": inverse})
    node = file.listed("nodes", {"name": mesh.name, "mesh": drawn, "skin": skin})
    file.document["scenes"][0]["nodes"].append(node)
    return node

"""A character out of glTF 2.0 (.glb or .gltf): joints, skins, morphs, and every animation sampled on frames.

glTF is in metres, y up, facing +z; rotations are quaternions (x, y, z, w), so joints have no Euler orders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.characters.character import Character, Clip, Mesh, Source, relative
from rigs.characters.fbx import unique, unscaled
from rigs.characters.findings import of_rest, of_skin
from rigs.characters.gltf_file import GltfFile

Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
"""From glTF's axes to ours."""
USUAL_RATES = (24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60, 72, 90, 96, 100, 120, 240)
LONGEST = 200_000
"""Frames; an animation that claims more is taken for damaged."""
Local = dict[str, Float[Tensor, "T N"]]


def read(path: Path) -> Character:
    """The character in a glTF file; a `ValueError` names the file, what is wrong with it, and the remedy."""
    file = GltfFile.of(path)
    try:
        return _character(file)
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its parts do not fit together ({type(error).__name__}: {error}); export it again") from error


def _character(file: GltfFile) -> Character:
    above = parents_of(file)
    nodes = joints_of(file, above)
    parents = tuple(nodes.index(above[i]) if above[i] in nodes else -1 for i in nodes)
    stands = standing(file, above)
    problems: list[str] = []
    _tell_scales(file, nodes, stands, problems)
    names = unique([str(file.listed("nodes")[i].get("name", f"node{i}")) for i in nodes])
    R, p = _placed(nodes, stands)
    R_local, offsets = relative(parents, R[0], p[0]) if nodes else (R[0], p[0])
    meshes = _meshes(file, nodes, stands, problems)
    clips = tuple(_clip(file, n, above, nodes, parents) for n in range(len(file.listed("animations"))))
    asset = file.document["asset"]
    return Character(
        name=file.path.stem,
        joints=names,
        parents=parents,
        R_parent_rest=R_local,
        offsets=offsets,
        source=Source(str(file.path), "glTF 2.0", str(asset.get("generator", "")), "y", "z", 1.0, Y_UP, clips[0].fps if clips else 0.0),
        meshes=meshes,
        clips=clips,
        problems=tuple(problems + of_rest(names, parents, p[0])),
    )


def parents_of(file: GltfFile) -> list[int]:
    """Parent of every node; -1 at the top. A `ValueError` where a node is its own ancestor or has two parents."""
    nodes = file.listed("nodes")
    above = [-1] * len(nodes)
    for i, node in enumerate(nodes):
        for child in node.get("children", []):
            if above[child] >= 0:
                raise ValueError(f"{file.path}: node {child} hangs below two others; export it again")
            above[child] = i
    for i in range(len(nodes)):
        at, steps = i, 0
        while at >= 0:
            at, steps = above[at], steps + 1
            if steps > len(nodes):
                raise ValueError(f"{file.path}: node {i} is its own ancestor; export it again")
    return above


def joints_of(file: GltfFile, above: list[int]) -> list[int]:
    """Nodes that skins name as joints and what lies between them, parents first; without a skin, all that is animated and below it."""
    chosen = {j for skin in file.listed("skins") for j in skin["joints"]}
    if not chosen:
        moved = {c["target"].get("node") for a in file.listed("animations") for c in a["channels"]} - {None}
        drawn = {i for i, n in enumerate(file.listed("nodes")) if "mesh" in n or "camera" in n}
        chosen = {i for i in range(len(above)) if i not in drawn and _below(i, moved, above)}
    for i in list(chosen):
        between, at = [], above[i]
        while at >= 0 and at not in chosen:
            between.append(at)
            at = above[at]
        if at >= 0:
            chosen.update(between)
    ordered: list[int] = []

    def visit(i: int) -> None:
        ordered.append(i)
        for child in file.listed("nodes")[i].get("children", []):
            if child in chosen:
                visit(child)

    for i in sorted(i for i in chosen if above[i] not in chosen):
        visit(i)
    return ordered


def _below(i: int, tops: set[int], above: list[int]) -> bool:
    while i >= 0:
        if i in tops:
            return True
        i = above[i]
    return False


def _world(file: GltfFile, above: list[int], moved: dict[int, Local], frames: int) -> list[Float[Tensor, "T 4 4"]]:
    """World matrix of every node; `moved` replaces some of what a node's transform is made of."""
    result: list[Tensor | None] = [None] * len(above)

    def of(i: int) -> Tensor:
        if (done := result[i]) is None:
            local = _local(file.listed("nodes")[i], moved.get(i, {}), frames)
            done = result[i] = local if above[i] < 0 else of(above[i]) @ local
        return done

    return [of(i) for i in range(len(above))]


def standing(file: GltfFile, above: list[int]) -> list[Float[Tensor, "1 4 4"]]:
    """World matrix of every node as the file stands, in its own axes."""
    return _world(file, above, {}, 1)


def _local(node: dict[str, Any], moved: Local, frames: int) -> Float[Tensor, "T 4 4"]:
    if "matrix" in node and not moved:
        return torch.tensor(node["matrix"], dtype=torch.float64).reshape(4, 4).T.expand(frames, 4, 4)
    plain = {"translation": [0.0, 0, 0], "rotation": [0.0, 0, 0, 1], "scale": [1.0, 1, 1]}
    t, q, s = (moved.get(k, torch.tensor(node.get(k, v), dtype=torch.float64).expand(frames, len(v))) for k, v in plain.items())
    M = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    M[:, :3, :3] = rotation.matrix(q[:, [3, 0, 1, 2]]) * s[:, None]
    M[:, :3, 3] = t
    return M


def _placed(nodes: list[int], world: list[Tensor]) -> tuple[Float[Tensor, "T J 3 3"], Float[Tensor, "T J 3"]]:
    if not nodes:
        return torch.zeros(1, 0, 3, 3, dtype=torch.float64), torch.zeros(1, 0, 3, dtype=torch.float64)
    M = torch.stack([world[i] for i in nodes], 1)
    return Y_UP @ unscaled(M), M[..., :3, 3] @ Y_UP.T


def _tell_scales(file: GltfFile, nodes: list[int], world: list[Tensor], problems: list[str]) -> None:
    for i in nodes:
        size = world[i][0, :3, :3].norm(dim=0)
        name = file.listed("nodes")[i].get("name", f"node{i}")
        if float(size.min()) < 1e-8:
            raise ValueError(f"{file.path}: joint {name!r} is scaled to nothing at rest; give it a size and export again")
        if float((size - 1).abs().max()) > 0.01:
            problems.append(f"joints have a scale other than 1 ({name}: {float(size.mean()):.4g}); lengths are read with it")
            return


def _meshes(file: GltfFile, nodes: list[int], stands: list[Tensor], problems: list[str]) -> tuple[Mesh, ...]:
    found = []
    for i, node in enumerate(file.listed("nodes")):
        if "mesh" in node:
            skin = file.listed("skins")[node["skin"]] if "skin" in node else None
            found.append(_mesh(file, nodes, i, file.listed("meshes")[node["mesh"]], skin, stands, problems))
    return tuple(found)


def _mesh(
    file: GltfFile, nodes: list[int], i: int, entry: dict[str, Any], skin: dict[str, Any] | None, stands: list[Tensor], problems: list[str]
) -> Mesh:
    name = str(entry.get("name", f"mesh{i}"))
    points, triangles, weights, count = [], [], [], 0
    for primitive in entry["primitives"]:
        own = file.table(primitive["attributes"]["POSITION"]).astype(float)
        points.append(own)
        if primitive.get("mode", 4) == 4:
            corners = file.table(primitive["indices"])[:, 0].astype(np.int64) if "indices" in primitive else np.arange(len(own))
            triangles.append(corners[: len(corners) // 3 * 3].reshape(-1, 3) + count)
        if skin is not None:
            weights.append(_weights(file, primitive["attributes"], [nodes.index(j) for j in skin["joints"]], len(own), len(nodes)))
        count += len(own)
    table = torch.from_numpy(np.concatenate(weights)) if weights else None
    if table is not None:
        problems += of_skin(name, table)
    placed = torch.from_numpy(np.concatenate(points))
    if skin is None:
        M = stands[i][0]
        placed = placed @ M[:3, :3].T + M[:3, 3]
    faces = torch.from_numpy(np.concatenate(triangles)) if triangles else torch.zeros(0, 3, dtype=torch.long)
    return Mesh(name, placed @ Y_UP.T, faces, table, morphs_of(entry))


def morphs_of(mesh: dict[str, Any]) -> tuple[str, ...]:
    """Names of a mesh's morph targets, numbered where the file does not name them."""
    count = len(mesh["primitives"][0].get("targets", []))
    names = mesh.get("extras", {}).get("targetNames", [])
    return tuple(str(n) for n in names) if len(names) == count else tuple(f"morph{n}" for n in range(count))


def _weights(file: GltfFile, attributes: dict[str, int], joints: list[int], count: int, width: int) -> np.ndarray:
    table, n = np.zeros((count, width), np.float32), 0
    while f"JOINTS_{n}" in attributes:
        which, share = file.table(attributes[f"JOINTS_{n}"]).astype(np.int64), file.table(attributes[f"WEIGHTS_{n}"]).astype(np.float32)
        if which.size and int(which.max()) >= len(joints):
            raise ValueError(f"{file.path}: a vertex hangs on joint {int(which.max())} of a skin with {len(joints)}; export it again")
        for k in range(4):
            np.add.at(table, (np.arange(count), np.asarray(joints)[which[:, k]]), share[:, k])
        n += 1
    return table


def _clip(file: GltfFile, n: int, above: list[int], nodes: list[int], parents: tuple[int, ...]) -> Clip:
    entry = file.listed("animations")[n]
    name, channels = str(entry.get("name", f"animation{n}")), entry["channels"]
    times = [file.table(s["input"])[:, 0].astype(float) for s in entry["samplers"]]
    used = [t for t in times if len(t)]
    first, last = (min(float(t[0]) for t in used), max(float(t[-1]) for t in used)) if used else (0.0, 0.0)
    if not (np.isfinite(first) and np.isfinite(last)) or any((np.diff(t) < 0).any() for t in used):
        raise ValueError(f"{file.path}: animation {name!r}: its times do not increase; export it again")
    fps = _rate(used)
    count = round((last - first) * fps) + 1
    if count > LONGEST:
        raise ValueError(f"{file.path}: animation {name!r} claims {count} frames; export it again with its true range")
    at = first + np.arange(count) / fps
    moved: dict[int, Local] = {}
    for channel in channels:
        node, path = channel["target"].get("node"), channel["target"]["path"]
        sampler = entry["samplers"][channel["sampler"]]
        if node is not None and path in ("translation", "rotation", "scale"):
            keys, how = file.table(sampler["output"]).astype(float), sampler.get("interpolation", "LINEAR")
            blend = _arcs if path == "rotation" and how == "LINEAR" else _sampled
            moved.setdefault(node, {})[path] = torch.from_numpy(blend(times[channel["sampler"]], keys, at, how))
    R, p = _placed(nodes, _world(file, above, moved, count))
    return Clip(name, fps, *(relative(parents, R, p) if nodes else (R.expand(count, 0, 3, 3), p.expand(count, 0, 3))), first)


def _rate(times: list[np.ndarray]) -> float:
    """Frames a second of the densest keys; a usual rate where one fits, 30 where there is one key only."""
    steps = np.concatenate([np.diff(t) for t in times]) if times else np.zeros(0)
    steps = steps[steps > 1e-4]
    if not len(steps):
        return 30.0
    found = 1 / float(np.median(steps)) if np.ptp(steps) < 1e-3 else 1 / float(steps.min())
    near = min(USUAL_RATES, key=lambda rate: abs(rate - found))
    longest = max(times, key=len)
    exact = (len(longest) - 1) / float(longest[-1] - longest[0])
    if abs(exact - near) < 2e-4 * near:
        return float(near)
    return float(near) if abs(found - near) < 5e-3 * near else min(found, 240.0)


def _spans(times: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Key before each time, part of the way to the next, and the span's length, s."""
    if len(times) == 1:
        return np.zeros(len(at), np.int64), np.zeros(len(at)), np.ones(len(at))
    span = np.clip(np.searchsorted(times, at, "right") - 1, 0, len(times) - 2)
    long = np.maximum(times[span + 1] - times[span], 1e-12)
    return span, np.clip((at - times[span]) / long, 0, 1), long


def _sampled(times: np.ndarray, values: np.ndarray, at: np.ndarray, how: str) -> np.ndarray:
    span, part, long = _spans(times, at)
    after = np.minimum(span + 1, len(times) - 1)
    u = part[:, None]
    if how == "CUBICSPLINE":
        into, value, out = values.reshape(len(times), 3, -1).transpose(1, 0, 2)
        d = long[:, None]
        return (
            (2 * u**3 - 3 * u**2 + 1) * value[span]
            + d * (u**3 - 2 * u**2 + u) * out[span]
            + (3 * u**2 - 2 * u**3) * value[after]
            + d * (u**3 - u**2) * into[after]
        )
    if how == "STEP":
        return values[np.where(part >= 1, after, span)]
    return values[span] + u * (values[after] - values[span])


def _arcs(times: np.ndarray, values: np.ndarray, at: np.ndarray, how: str) -> np.ndarray:
    span, part, _ = _spans(times, at)
    a, b = torch.from_numpy(values[span]), torch.from_numpy(values[np.minimum(span + 1, len(times) - 1)])
    return rotation.slerp(a, b, torch.from_numpy(part)).numpy()

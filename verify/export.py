"""Writes the clips that break animation files, opens them in Blender and ufbx, and compares every joint on every frame with the body.

`make verify-export` installs Blender as the package `bpy` beside the project and runs this; `python verify/export.py --help` says more.
Truth is the body's own forward kinematics (`rigs.body`) on made-up motions; the skin of `bind="rest"` files, which differs from the
body's on purpose, is compared with linear blend skinning of what the file is said to hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

from export_scene import motion, person, truth  # noqa: E402

from rigs import makehuman  # noqa: E402
from rigs.body import Body  # noqa: E402
from studio.export import bvh, fbx, glb, usd  # noqa: E402
from studio.export.animation import Character, character  # noqa: E402
from studio.export.mesh import surface  # noqa: E402
from studio.export.root import rooted  # noqa: E402
from studio.values import Motion  # noqa: E402

LIMITS = {"joints": 0.01, "mesh": 0.01, "rest": 0.001}
"""mm."""
BVH_JOINTS = 0.05
RATES = (24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60, 100, 120, 37.5)
WRITERS: dict[str, Callable[[Path, list[Character], str, fbx.Options], Path]] = {
    "fbx": lambda path, actors, clip, options: fbx.write(path, actors, clip, options),
    "fbx-cpp": lambda path, actors, clip, options: fbx.write(path, actors, clip, options),
    "bvh": lambda path, actors, clip, options: bvh.write(path, actors[0]),
    "glb": lambda path, actors, clip, options: glb.write(path, actors, clip),
    "usd": lambda path, actors, clip, options: usd.write(path, actors, clip, actors[0].start if options.timeline == "timecode" else 0),
}
PLAIN = fbx.Options()
ENDINGS = {"fbx-cpp": "fbx", "usd": "usdc"}


@dataclass(frozen=True)
class Case:
    """One clip: what is played, and how it is written."""

    title: str
    body: Body
    motions: tuple[Motion, ...]
    importers: tuple[str, ...]
    clip: str = "take"
    rest: Any = "t"
    rebound: bool = False
    root: Any = "hips"
    options: fbx.Options = PLAIN
    stride: int = 1
    """Of so many frames one is compared."""
    control: bool = False
    """Writes something else than it says, so that the comparison must find it off."""


def cases(quick: bool) -> Iterator[Case]:
    """The matrix."""
    stick, every = person(), ("fbx", "fbx-cpp", "bvh", "glb", "usd")
    plain = motion(stick)
    yield Case("720 degrees, gimbal lock, T-pose, skin as modelled", stick, (plain,), every)
    yield Case("the same, skin bound in the T-pose", stick, (plain,), every, rebound=True)
    yield Case("the same, A-pose", stick, (plain,), every, rest="a")
    yield Case("root bone on the floor, its one child that moves", stick, (plain,), every, root="floor", rebound=True)
    late = fbx.Options(timeline="timecode")
    yield Case("timecode 01:00:00:00 at 24", stick, (replace(plain, fps=24.0, first_frame=0),), ("fbx", "fbx-cpp", "usd"), options=late)
    yield Case("control: rotations 0.1 % too large", stick, (plain,), every, control=True)
    yield Case("FBX 7.5", stick, (plain,), ("fbx", "fbx-cpp"), options=fbx.Options("7.5"))
    yield Case("contacts and sigmas as properties", stick, (plain,), ("fbx", "fbx-cpp"), options=fbx.Options(measures=True))
    second = replace(motion(stick, seed=8), actor="Zoë 李", translation=plain.translation + 1.5)
    yield Case("two characters, names of all scripts", stick, (plain, second), ("fbx", "fbx-cpp", "glb", "usd"), clip="Übung_走る")
    yield Case("one frame", stick, (plain.cut(slice(7, 8)),), every, rebound=True)
    for fps in RATES:
        yield Case(f"{fps:.6g} frames a second", stick, (replace(plain.cut(slice(0, 20)), fps=float(fps)),), every)
    yield human("the default body, 52 face shapes, skin as modelled", False)
    yield human("the default body, 52 face shapes, T-pose skin", True)
    if not quick:
        long = motion(stick, frames=20001)
        yield Case("20,001 frames, every tenth compared", stick, (long,), every, rebound=True, stride=10)


def human(title: str, rebound: bool) -> Case:
    """The default body with a person's shape and every face shape moving."""
    body, g = makehuman.load(), torch.Generator().manual_seed(3)
    faces = 0.5 * torch.rand(6, len(body.expression_names), generator=g).double()
    moved = replace(motion(body, frames=6), expression=faces, shape=0.7 * torch.randn(len(body.shape_names), generator=g))
    return Case(title, body, (replace(moved, fps=30.0),), ("fbx", "fbx-cpp", "glb", "usd"), rebound=rebound)


def z_up(points: torch.Tensor) -> np.ndarray:
    """File axes (y up, facing +z) to the studio's and Blender's (z up, facing -y)."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, -z, y], -1).numpy()


def job(case: Case, importer: str, folder: Path, number: int) -> dict[str, Any]:
    """The file, its references, and what to expect of it."""
    played = [replace(m, rotation=1.001 * m.rotation) if case.control else m for m in case.motions]
    characters = [rooted(character(m, case.body, case.rest, case.rebound), case.root) for m in played]
    path = folder / f"{number}.{ENDINGS.get(importer, importer)}"
    WRITERS[importer](path, characters, case.clip, case.options)
    first = case.motions[0]
    frames = len(first.translation)
    actors = [_actor(case, m, c, importer, folder / f"{number}_{k}.npz") for k, (m, c) in enumerate(zip(case.motions, characters))]
    begins = characters[0].start if case.options.timeline == "timecode" else 0
    return {
        "title": f"{case.title}: {importer}",
        "importer": importer,
        "path": str(path),
        "fps": first.fps,
        "frames": frames,
        "stride": case.stride,
        "actors": actors,
        "clip": case.clip,
        "begins": begins,
        "control": case.control,
        "morphs": sorted(case.body.expression_names) if importer != "bvh" else [],
    }


def _actor(case: Case, motion: Motion, shown: Character, importer: str, reference: Path) -> dict[str, Any]:
    frames = sorted({0, len(motion.translation) // 2, len(motion.translation) - 1})
    few = replace(motion, **{k: getattr(motion, k)[frames] for k in ("translation", "rotation", "expression")})
    bound = surface(shown, split=False)
    extra = len(shown.above)
    # What programs take for the rest pose is where the skin is bound; BVH has no skin, and shows the skeleton's.
    rest = shown.rest if shown.rebound or importer == "bvh" else shown.bind
    vertices = _skinned(shown, bound, frames) if case.rebound else truth(case.body, few).vertices().numpy()
    np.savez(
        reference, joints=_joints(case.body, motion), rest=z_up(rest)[extra:], mesh=vertices, bound=z_up(bound.points)
    )  # fmt: skip
    return {"name": motion.actor, "joints": list(case.body.skeleton.names), "reference": str(reference), "mesh_frames": frames}


def _joints(body: Body, motion: Motion) -> np.ndarray:
    shaped = body.to(dtype=torch.float64).shaped(motion.shape.double())
    return shaped.posed(motion.rotation.double(), motion.translation.double()).joints.numpy()


def _skinned(shown: Character, mesh: Any, frames: list[int]) -> np.ndarray:
    """Linear blend skinning of a character from its rest pose."""
    places = shown.offsets.repeat(len(frames), 1, 1)
    for j, place in shown.places.items():
        places[:, j] = place[frames]
    world = torch.eye(4, dtype=torch.float64).repeat(len(frames), len(shown.rest), 1, 1)
    for j, up in enumerate(shown.skeleton.parents):
        world[:, j, :3, :3], world[:, j, :3, 3] = shown.R_parent_joint[frames, j], places[:, j]
        world[:, j] = world[:, up] @ world[:, j] if up >= 0 else world[:, j]
    bones = world @ shown.inverse_bind
    face = mesh.points + torch.einsum("te,epc->tpc", shown.expression[frames], mesh.expressions)
    face = torch.cat([face, torch.ones_like(face[..., :1])], -1)
    moved = sum(
        (mesh.weights[:, n, None] * (bones[:, mesh.influences[:, n]] @ face[..., None])[..., :3, 0] for n in range(mesh.weights.shape[1])),
        torch.zeros(()),
    )
    return z_up(moved)  # type: ignore[arg-type]


def wrong(job: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    if "failed" in found:
        return [found["failed"]]
    limits = LIMITS | ({"joints": BVH_JOINTS} if job["importer"] == "bvh" else {})
    off = [f"{key} {found[key]:.4f} mm" for key, limit in limits.items() if found[key] > limit]
    if job["importer"] not in ("glb", "usd") and abs(found["rate"] / job["fps"] - 1) > 2e-6:
        off.append(f"rate {found['rate']:.6f}")
    if found["morphs"] != job["morphs"]:
        off.append(f"morphs {found['morphs']}")
    if job["importer"] in ("fbx", "fbx-cpp", "glb", "usd") and not any(job["clip"] in name for name in found["actions"]):
        off.append(f"take {found['actions']}")
    if job["frames"] > 1 and abs(found["step"] - step(job)) > 1e-4:
        off.append(f"a frame takes {found['step']:.5f} of Blender's")
    offset = {"fbx": 1, "fbx-cpp": 1, "bvh": 1}.get(job["importer"], 0)  # where Blender puts time 0
    if job["begins"] and abs(found["begins"] - offset - job["begins"]) > 0.01:
        off.append(f"begins at {found['begins']}")
    return off


def step(job: dict[str, Any]) -> float:
    """Blender's frames for one of ours: its older FBX importer rounds the rate when it places keys, for glTF's the scene's is rounded."""
    return round(job["fps"]) / job["fps"] if job["importer"] in ("fbx", "glb") else 1.0


def main() -> int:
    """Write, open, compare, print; 1 where something is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blender", type=Path, required=True, help="python of the environment that has bpy")
    parser.add_argument("--quick", action="store_true", help="without the long clip")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = [
            job(case, importer, folder, n) for n, (case, importer) in enumerate((c, i) for c in cases(arguments.quick) for i in c.importers)
        ]
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [arguments.blender, Path(__file__).with_name("in_blender.py"), folder / "jobs.json", folder / "results.json"]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if not (folder / "results.json").is_file():
            print(done.stdout[-2000:], done.stderr[-4000:])
            return 1
        results = json.loads((folder / "results.json").read_text())
    return told(jobs, results)


def told(jobs: list[dict[str, Any]], results: list[dict[str, Any]]) -> int:
    """Print the table; 1 where a row is off."""
    print(f"{'clip':66} {'joints':>8} {'mesh':>8} {'rest':>8} mm")
    bad = len(jobs) - len(results)
    for row, found in zip(jobs, results):
        off = wrong(row, found)
        if row["control"]:
            off = [] if any("joints" in word for word in off) else ["the comparison did not notice"]
        bad += bool(off)
        numbers = " ".join(f"{found.get(key, float('nan')):8.5f}" for key in LIMITS)
        print(f"{row['title']:66} {numbers}  {'; '.join(off) or 'ok'}")
    print(f"{len(jobs)} files, {bad} off")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

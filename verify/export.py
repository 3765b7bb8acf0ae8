"""Writes the clips that break animation files, opens them in Blender and ufbx, and compares every joint on every frame with the body.

`make verify-export` installs Blender as the package `bpy` beside the project and runs this; `python verify/export.py --help` says more.
Truth is the body's own forward kinematics (`rigs.body`) on made-up motions; the skin of `bind="rest"` files, which differs from the
body's on purpose, is compared with linear blend skinning of what the file is said to hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

from clips import ALL, Case, cases, written  # noqa: E402
from export_scene import truth  # noqa: E402

from rigs.body import Body  # noqa: E402
from studio.export.animation import Character, character  # noqa: E402
from studio.export.mesh import surface  # noqa: E402
from studio.export.root import rooted  # noqa: E402
from studio.values import Motion  # noqa: E402

LIMITS = {"joints": 0.01, "mesh": 0.01, "rest": 0.001}
"""mm."""
BVH_JOINTS = 0.05
GLB_BIND = 0.002
"""Where Blender, asked nothing, puts a glTF's joints at rest: worked out from where the skin is bound, in single precision, one joint after
the other. The rest pose that the file's nodes say has the limit of all."""
ENDINGS = {"bvh": "bvh", "glb": "glb", "usd": "usdc"}
"""Reader -> ending; all others read FBX."""
LONG = 5000
"""Frames of a clip that has a program for itself."""
PYTHON_IMPORTERS = ("fbx", "fbx-system")
"""Blender's older importer of FBX, which rounds the rate when it places keys."""


def z_up(points: torch.Tensor) -> np.ndarray:
    """File axes (y up, facing +z) to the studio's and Blender's (z up, facing -y)."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, -z, y], -1).numpy()


def jobs_of(case: Case, folder: Path, number: int, readers: tuple[str, ...]) -> list[dict[str, Any]]:
    """One job for each reader: the file, its references, and what to expect of it."""
    played = [replace(m, rotation=1.001 * m.rotation) if case.control else m for m in case.motions]
    characters = [rooted(character(m, case.body, case.rest, case.rebound), case.root) for m in played]
    wanted = {reader: ENDINGS.get(reader, "fbx") for reader in case.readers if reader in readers}
    paths = {ending: written(folder / f"{number}.{ending}", characters, case) for ending in set(wanted.values())}
    first, parts = case.motions[0], list(zip(case.motions, characters))
    actors = {}
    for bones in {ending == "bvh" for ending in paths}:
        actors[bones] = [_actor(case, m, c, bones, folder / f"{number}_{k}_{bones}.npz") for k, (m, c) in enumerate(parts)]
    timecode = case.options.timeline == "timecode"
    return [
        {
            "title": f"{case.title}: {reader}",
            "importer": reader,
            "path": str(paths[ending]),
            "fps": first.fps,
            "frames": len(first.translation),
            "actors": actors[ending == "bvh"],
            "clip": case.clip,
            "begins": characters[0].start if timecode else 0,
            "control": case.control,
            "morphs": sorted(case.body.expression_names) if ending != "bvh" else [],
        }
        for reader, ending in wanted.items()
    ]


def _actor(case: Case, motion: Motion, shown: Character, bones: bool, reference: Path) -> dict[str, Any]:
    frames = sorted({0, len(motion.translation) // 2, len(motion.translation) - 1})
    few = replace(motion, **{k: getattr(motion, k)[frames] for k in ("translation", "rotation", "expression")})
    bound = surface(shown, split=False)
    extra = len(shown.above)
    # What programs take for the rest pose is where the skin is bound; BVH has no skin, and shows the skeleton's.
    rest = shown.rest if shown.rebound or bones else shown.bind
    vertices = _skinned(shown, bound, frames) if case.rebound else truth(case.body, few).vertices().numpy()
    np.savez(
        reference, joints=_joints(case.body, motion), rest=z_up(rest)[extra:], nodes=z_up(shown.rest)[extra:], mesh=vertices,
        bound=z_up(bound.points),
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
    reader = job["importer"]
    limits = LIMITS | {"bvh": {"joints": BVH_JOINTS}, "glb": {"bind": GLB_BIND}}.get(reader, {})
    off = [f"{key} {found[key]:.4f} mm" for key, limit in limits.items() if found.get(key, 0.0) > limit]
    if found["compared"] != job["frames"]:
        off.append(f"{found['compared']} of {job['frames']} frames")
    if found.get("scale", 0.0) > 1e-5:
        off.append(f"a bone's scale is off by {found['scale']:.6f}")
    if reader not in ("glb", "usd") and abs(found["rate"] / job["fps"] - 1) > 2e-6:
        off.append(f"rate {found['rate']:.6f}")
    if found["morphs"] != job["morphs"]:
        off.append(f"morphs {found['morphs']}")
    if reader != "bvh" and not any(job["clip"] in name for name in found["actions"]):
        off.append(f"take {found['actions']}")
    if job["frames"] > 1 and abs(found["step"] - step(job)) > 1e-4:
        off.append(f"a frame takes {found['step']:.5f} of the program's")
    offset = 0 if reader in ("glb", "usd", "ufbx") else 1  # where Blender puts time 0
    if job["begins"] and abs(found["begins"] - offset - job["begins"]) > 0.01:
        off.append(f"begins at {found['begins']}")
    return off


def step(job: dict[str, Any]) -> float:
    """Blender's frames for one of ours: its older FBX importer rounds the rate when it places keys, for glTF's the scene's is rounded."""
    return round(job["fps"]) / job["fps"] if job["importer"] in (*PYTHON_IMPORTERS, "glb") else 1.0


def programs(blender: Path, system_blender: Path | None) -> dict[str, list[str]]:
    """Reader -> the command that runs a script in it; readers that are not there are left out."""
    python = [str(blender)]
    found = dict.fromkeys(("fbx", "fbx-cpp", "bvh", "glb", "usd"), python) | {"ufbx": [sys.executable]}
    if system_blender is not None:
        found["fbx-system"] = [str(system_blender), "-b", "--factory-startup", "-noaudio", "--python"]
    return found


def together(jobs: list[dict[str, Any]], runs: dict[str, list[str]]) -> list[list[dict[str, Any]]]:
    """Jobs that one start of a program does; long clips go alone, so that a stopped run loses little."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job in jobs:
        alone = job["importer"] if job["frames"] > LONG else ""
        groups.setdefault((*runs[job["importer"]], alone), []).append(job)
    return list(groups.values())


def opened(jobs: list[dict[str, Any]], command: list[str], folder: Path) -> list[dict[str, Any]]:
    """What one program finds in files; a program that dies leaves the jobs it did not reach failed."""
    tasks, results = folder / "jobs.json", folder / "results.json"
    tasks.write_text(json.dumps(jobs))
    results.unlink(missing_ok=True)
    script = Path(__file__).with_name("in_ufbx.py" if command[0] == sys.executable else "in_blender.py")
    behind = ["--"] if "--python" in command else []
    done = subprocess.run([*command, str(script), *behind, str(tasks), str(results)], capture_output=True, text=True)
    found = json.loads(results.read_text()) if results.is_file() else []
    died = {"failed": f"ended early: {(done.stderr or done.stdout)[-300:]}"}
    return found + [died] * (len(jobs) - len(found))


def main() -> int:
    """Write, open, compare, print; 1 where something is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blender", type=Path, required=True, help="python of the environment that has bpy")
    parser.add_argument("--system-blender", type=Path, help="another Blender, whose older FBX importer is asked too")
    parser.add_argument("--quick", action="store_true", help="without the long clip")
    parser.add_argument("--only", default="", help="clips whose title holds this")
    parser.add_argument("--results", type=Path, help="JSON that is written as results come; a stopped run of the same code goes on from it")
    arguments = parser.parse_args()
    runs = programs(arguments.blender, arguments.system_blender)
    kept: Path | None = arguments.results
    table = begun(kept)
    print(f"{'clip':75} {'joints':>8} {'mesh':>8} {'rest':>8} mm", flush=True)
    for number, case in enumerate(c for c in cases(arguments.quick) if arguments.only in c.title):
        with tempfile.TemporaryDirectory() as name:
            missing = tuple(r for r in ALL if r in runs and f"{case.title}: {r}" not in table)
            jobs = jobs_of(case, Path(name), number, missing) if set(missing) & set(case.readers) else []
            for mine in together(jobs, runs):
                found = opened(mine, runs[mine[0]["importer"]], Path(name))
                table |= {job["title"]: judged(job, result) for job, result in zip(mine, found)}
                saved(kept, table, done=False)
        for row in (f"{case.title}: {reader}" for reader in case.readers if reader in runs):
            print(line(row, table[row]), flush=True)
    saved(kept, table, done=not arguments.only)  # parts of the matrix add up to the whole
    return told(table)


def told(table: dict[str, dict[str, Any]]) -> int:
    """Print the largest distances; 1 where a row is off."""
    bad = sum(row["said"] != "ok" for row in table.values())
    print(f"{len(table)} files, {bad} off; the largest distances are")
    fair = {title: row for title, row in table.items() if "control" not in title}
    for reader in ALL:
        rows = [row for title, row in fair.items() if title.endswith(f": {reader}")]
        most = {key: max((row[key] for row in rows if row[key] is not None), default=None) for key in LIMITS}
        numbers = ", ".join(f"{key} {value:.4f} mm" for key, value in most.items() if value is not None)
        if numbers:
            print(f"  {reader}: {numbers}")
    return int(bad > 0)


def judged(job: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: distances (mm, None where that reader does not tell), and "ok" or what is off."""
    off = wrong(job, found)
    if job["control"]:
        off = [] if any("joints" in word for word in off) else ["the comparison did not notice"]
    numbers = {key: round(found[key], 6) if key in found else None for key in LIMITS}
    numbers |= {"bind": round(found["bind"], 6)} if "bind" in found else {}
    return {**numbers, "frames": found.get("compared", 0), "program": found.get("program", ""), "said": "; ".join(off) or "ok"}


def line(title: str, row: dict[str, Any]) -> str:
    """One row for people."""
    return f"{title:75} {' '.join(f'{row[key]:8.5f}' if row[key] is not None else '       -' for key in LIMITS)}  {row['said']}"


def code() -> str:
    """What stands in the code that writes and compares: results of another state are worth nothing."""
    files = [p for folder in ("rigs", "studio/export", "verify") for p in sorted((ROOT / folder).rglob("*.py"))]
    return hashlib.sha256(b"".join(p.read_bytes() for p in [*files, ROOT / "tests" / "export_scene.py"])).hexdigest()


def begun(path: Path | None) -> dict[str, dict[str, Any]]:
    """The rows of a run of this code that was stopped."""
    kept = json.loads(path.read_text()) if path and path.is_file() else {}
    return kept["clips"] if kept.get("code") == code() and not kept["done"] else {}


def saved(path: Path | None, table: dict[str, dict[str, Any]], done: bool) -> None:
    """The table as JSON, one file a line; never by halves."""
    if path is None:
        return
    limits = LIMITS | {"joints in BVH": BVH_JOINTS, "bind in GLB": GLB_BIND}
    rows = ",\n".join(f"  {json.dumps(title, ensure_ascii=False)}: {json.dumps(row)}" for title, row in table.items())
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(
        f'{{"limits_mm": {json.dumps(limits)}, "code": "{code()}", "done": {json.dumps(done)}, "clips": {{\n{rows}\n}}}}\n'
    )
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())

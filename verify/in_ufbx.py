"""Opens FBX files with the library ufbx and compares joints on every frame with what they should show.

`python verify/in_ufbx.py JOBS.json RESULTS.json`; `verify/export.py` writes the one and reads the other. One process a file, without
tidying up: the binding frees its objects in an order that can crash.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ufbx


def main() -> None:
    """All jobs; one result each."""
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    results = []
    for job in jobs:
        done = subprocess.run([sys.executable, __file__, "one"], input=json.dumps(job), capture_output=True, text=True)
        died = {"failed": done.stderr[-300:] or f"ended with {done.returncode}"}
        results.append(died if done.returncode else json.loads(done.stdout))
        out.write_text(json.dumps(results))


def one() -> None:
    """One job from standard input."""
    gc.disable()
    job = json.load(sys.stdin)
    scene = ufbx.load_file(job["path"])
    stack = scene.anim_stacks[0]
    name, begin, end = stack.name, stack.time_begin, stack.time_end  # at once: what is asked for twice may be freed in between
    KEPT.append(stack)
    found: dict[str, Any] = {
        "program": "ufbx",
        "rate": scene.settings.frames_per_second,
        "actions": [name],
        "morphs": sorted({channel.name for channel in scene.blend_channels}),
        "begins": begin * job["fps"],
        "step": (end - begin) * job["fps"] / max(job["frames"] - 1, 1),
        "compared": round((end - begin) * job["fps"]) + 1,
    }
    found["joints"], found["scale"] = 0.0, 0.0
    for actor in job["actors"]:
        wanted = np.load(actor["reference"])["joints"]
        away, scale = compared(scene, actor, wanted, begin + np.arange(found["compared"]) / job["fps"])
        found["joints"], found["scale"] = max(found["joints"], away), max(found["scale"], scale)
    print(json.dumps(found), flush=True)
    os._exit(0)


KEPT: list[Any] = []
"""What the binding made; nothing of it may be freed."""


def compared(scene: Any, actor: dict[str, Any], wanted: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """Largest distance of a joint (mm), and of a scale from one."""
    animation, nodes = scene.anim, {node.name: node for node in scene.nodes}
    above = {name: node.parent for name, node in nodes.items()}
    KEPT.extend([animation, nodes, above])
    spaced = {n: f"{actor['name']}:{n}" if f"{actor['name']}:{n}" in nodes else n for n in actor["joints"]}
    world: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    scale = 0.0

    def placed(name: str) -> tuple[np.ndarray, np.ndarray]:
        nonlocal scale
        if above[name] is None:
            return np.tile(np.eye(3), (len(times), 1, 1)), np.zeros((len(times), 3))
        if name not in world:
            R, p = placed(above[name].name)
            KEPT.extend(rows := [ufbx.evaluate_transform(animation, nodes[name], float(t)) for t in times])
            q = np.array([(r.rotation.x, r.rotation.y, r.rotation.z, r.rotation.w) for r in rows])
            local = np.array([(r.translation.x, r.translation.y, r.translation.z) for r in rows])
            scale = max(scale, float(np.abs(np.array([(r.scale.x, r.scale.y, r.scale.z) for r in rows]) - 1).max()))
            world[name] = R @ matrices(q), p + (R @ local[..., None])[..., 0]
        return world[name]

    found = scene.settings.unit_meters * np.stack([placed(spaced[n])[1] for n in actor["joints"]], 1)
    found = np.stack([found[..., 0], -found[..., 2], found[..., 1]], -1)  # y up to z up
    return float(1000 * np.linalg.norm(found - wanted, axis=-1).max()), scale


def matrices(q: np.ndarray) -> np.ndarray:
    """Rotation matrices of unit quaternions x, y, z, w."""
    x, y, z, w = q.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


if __name__ == "__main__":
    one() if sys.argv[1:] == ["one"] else main()

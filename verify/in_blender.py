"""Opens animation files in Blender (package bpy, an environment of its own) and compares them with what they should show.

`python verify/in_blender.py JOBS.json RESULTS.json`, or `blender -b --python verify/in_blender.py -- JOBS.json RESULTS.json`;
`verify/export.py` writes the one and reads the other. Nothing of the studio is imported. Blender's world is the studio's: metres, z up.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import bpy
import mathutils
import mathutils.kdtree
import numpy as np


def main() -> None:
    """All jobs; one result each."""
    tasks, out = (Path(name) for name in sys.argv[-2:])
    jobs = json.loads(tasks.read_text())
    results = []
    for job in jobs:
        begin = time.perf_counter()
        try:
            results.append(checked(job))
        except Exception as error:
            results.append({"failed": f"{type(error).__name__}: {error}"})
        results[-1]["seconds"] = time.perf_counter() - begin
        results[-1]["program"] = f"Blender {bpy.app.version_string}"
        out.write_text(json.dumps(results))
        print(job["title"], results[-1], flush=True)


def opened(job: dict[str, Any], bound: bool = True) -> None:
    """The file alone in an empty scene that has its rate; a glTF's rest is where its skin is bound, as usual, or what its nodes say."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    render = bpy.context.scene.render
    path, importer = job["path"], job["importer"]
    if importer in ("glb", "usd"):  # these follow the scene's rate; glTF's goes wrong by fps_base
        render.fps, render.fps_base = round(job["fps"]), 1.0 if importer == "glb" else round(job["fps"]) / job["fps"]
    if importer in ("fbx", "fbx-system"):
        bpy.ops.import_scene.fbx(filepath=path, ignore_leaf_bones=False, automatic_bone_orientation=False)
    elif importer == "fbx-cpp":
        bpy.ops.wm.fbx_import(filepath=path)
    elif importer == "bvh":
        bpy.ops.import_anim.bvh(filepath=path, global_scale=0.01, update_scene_fps=True, update_scene_duration=True)
    elif importer == "glb":
        bpy.ops.import_scene.gltf(filepath=path, guess_original_bind_pose=bound)
    else:
        bpy.ops.wm.usd_import(filepath=path)


def checked(job: dict[str, Any]) -> dict[str, Any]:
    """What is off, in millimetres and in words."""
    opened(job)
    render = bpy.context.scene.render
    rate = render.fps / render.fps_base
    armatures = [o for o in bpy.data.objects if o.type == "ARMATURE"]
    found: dict[str, Any] = {"rate": rate, "actions": [a.name for a in bpy.data.actions], "compared": job["frames"]}
    found |= dict.fromkeys(("joints", "mesh", "rest", "scale"), 0.0)
    found["begins"] = min(a.frame_range[0] for a in bpy.data.actions)
    found["morphs"] = sorted({k.name for mesh in bpy.data.shape_keys for k in mesh.key_blocks if k.name != mesh.reference_key.name})
    # Blender's older FBX importer takes 29.97 for 30 when it places keys, so the step between frames is measured.
    ends = max(a.frame_range[1] for a in bpy.data.actions)
    found["step"] = (ends - found["begins"]) / max(job["frames"] - 1, 1)
    for actor in job["actors"]:
        reference, armature = dict(np.load(actor["reference"])), taken(actor, armatures)
        for key, value in compared(job, actor, reference, armature, found["step"], found["begins"]).items():
            found[key] = max(found[key], value)
    if job["importer"] == "glb":
        found |= {"bind": found["rest"], "rest": told(job)}
    return found


def told(job: dict[str, Any]) -> float:
    """How far the rest pose of a glTF's nodes is off, mm: by default Blender works one out from where the skin is bound."""
    opened(job, bound=False)
    armatures, worst = [o for o in bpy.data.objects if o.type == "ARMATURE"], 0.0
    for actor in job["actors"]:
        armature = taken(actor, armatures)
        heads = np.array([armature.matrix_world @ armature.data.bones[prefixed(actor, n, armature)].head_local for n in actor["joints"]])
        worst = max(worst, distance(heads, np.load(actor["reference"])["nodes"]))
    return worst


def taken(actor: dict[str, Any], armatures: list[Any]) -> Any:
    """The armature that has an actor's joints, out of those that are left."""
    armature = next(a for a in armatures if {prefixed(actor, n, a) for n in actor["joints"]} <= {b.name for b in a.data.bones})
    armatures.remove(armature)
    return armature


def prefixed(actor: dict[str, Any], name: str, armature: Any) -> str:
    """A joint's name in the file, with the namespace that tells actors apart where there is one."""
    space = f"{actor['name']}:{name}"
    return space if space in armature.data.bones else name


def compared(job: dict[str, Any], actor: dict[str, Any], reference: Any, armature: Any, step: float, first: float) -> dict[str, float]:
    """Largest distances of one actor, mm."""
    scene, bones = bpy.context.scene, [armature.pose.bones[prefixed(actor, n, armature)] for n in actor["joints"]]
    meshes = [o for o in bpy.data.objects if o.type == "MESH" and o.find_armature() is armature]
    worst = dict.fromkeys(("joints", "mesh", "rest", "scale"), 0.0)
    heads = np.array([armature.matrix_world @ bone.bone.head_local for bone in bones])
    if job["importer"] == "bvh":  # whose top joint has no place of its own at rest
        heads = heads - heads[0] + reference["rest"][0]
    worst["rest"] = distance(heads, reference["rest"])
    for drawn in meshes:  # skins cost most of a frame's time
        drawn.hide_viewport = True
    for t, wanted in enumerate(reference["joints"]):
        moment(scene, first + t * step)
        found = np.array([armature.matrix_world @ bone.head for bone in bones])
        worst["joints"] = max(worst["joints"], distance(found, wanted))
    worst["scale"] = max(abs(part - 1) for bone in bones for part in bone.scale)
    for drawn in meshes:
        drawn.hide_viewport = False
    vertices = [nearest(o, reference["bound"]) for o in meshes]
    for t, wanted in zip(actor["mesh_frames"], reference["mesh"]):
        moment(scene, first + t * step)
        graph = bpy.context.evaluated_depsgraph_get()
        for drawn, vertex in zip(meshes, vertices):
            shown = drawn.evaluated_get(graph)
            points = np.array([shown.matrix_world @ v.co for v in shown.to_mesh().vertices])
            worst["mesh"] = max(worst["mesh"], distance(points, wanted[vertex]))
    return worst


def nearest(drawn: Any, bound: np.ndarray) -> np.ndarray:
    """Which vertex each drawn point is, told by where it is bound: files split vertices at seams and sort them by material."""
    tree = mathutils.kdtree.KDTree(len(bound))
    for n, point in enumerate(bound):
        tree.insert(point, n)
    tree.balance()
    found = [tree.find(drawn.matrix_world @ v.co) for v in drawn.data.vertices]
    assert max(away for _, _, away in found) < 1e-4, "the bound mesh is not the one that was written"
    return np.array([n for _, n, _ in found])


def moment(scene: Any, frame: float) -> None:
    """Go to a time between whole frames too."""
    whole = int(np.floor(frame + 1e-6))
    scene.frame_set(whole, subframe=max(0.0, min(frame - whole, 0.999999)))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance, mm."""
    return float(1000 * np.linalg.norm(a - b, axis=-1).max())


if __name__ == "__main__":
    main()

"""What an animator looks at first in an FBX, as Blender shows it; and the files side by side. Runs where `bpy` is installed.

`python verify/animator.py FILE.fbx ... [--frames 20 60] [--out OUT.png]` with the Python of `make verify-export`'s Blender. Each file is a
row of the picture: the rest pose, then the frames. Ends with 1 where a file is not as it should be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import bpy
import mathutils
import numpy as np
from picture import panel, save, stage

ARMS = (("LeftArm", "LeftForeArm"), ("upperarm_l", "lowerarm_l"), ("mixamorig:LeftArm", "mixamorig:LeftForeArm"))
TOPS = ("root", "Hips", "pelvis", "mixamorig:Hips")
LEVEL = 2.0
"""Degrees: an arm nearer to level than this is."""


def main() -> int:
    """Facts of every file, and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--frames", nargs="*", type=int, default=[20, 60])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows, bad = [], 0
    for file in arguments.files:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        bpy.ops.wm.fbx_import(filepath=str(file))
        armature = next(o for o in bpy.data.objects if o.type == "ARMATURE")
        lines, off = facts(armature)
        bad += bool(off)
        print(f"{file.name}: {'; '.join(lines)}" + "".join(f"; WRONG: {word}" for word in off), flush=True)
        if arguments.out:
            rows.append(drawn(armature, arguments.frames, arguments.out))
    if arguments.out:
        save(np.concatenate(rows[::-1], 0), arguments.out)  # Blender's pictures begin at the bottom
    return int(bad > 0)


def facts(armature: Any) -> tuple[list[str], list[str]]:
    """What is so, and what should not be."""
    scene, lines, off = bpy.context.scene, [], []
    meshes = [o for o in bpy.data.objects if o.type == "MESH"]
    first, last = (int(v) for v in bpy.data.actions[0].frame_range)
    armature.data.pose_position = "REST"
    lowest, highest = span(meshes)
    lines.append(f"at rest from {100 * lowest:.2f} to {100 * highest:.1f} cm above the floor")
    if abs(lowest) > 0.005:
        off.append(f"at rest the soles are {100 * lowest:.1f} cm above the floor")
    bones = armature.data.bones
    for a, b in ((a, b) for a, b in ARMS if a in bones):
        way = armature.matrix_world.to_3x3() @ (bones[b].head_local - bones[a].head_local)
        angle = float(np.degrees(np.arcsin(way.normalized().z)))
        lines.append(f"left arm {angle:+.1f} degrees from level")
    armature.data.pose_position = "POSE"
    scales, tops, soles = [], {n: [] for n in TOPS if n in bones}, []
    for frame in range(first, last + 1, max(1, (last - first) // 20)):
        scene.frame_set(frame)
        scales += [abs(part - 1) for bone in armature.pose.bones for part in bone.scale]
        for name, places in tops.items():
            places.append(armature.matrix_world @ armature.pose.bones[name].head)
        soles.append(span(meshes)[0])
    lines.append(
        f"bone scales within {max(scales):.0e} of 1, the armature's own {armature.scale.x:.2f} (a centimetre of the file in metres)"
    )
    if max(scales) > 1e-4:
        off.append("scaled bones")
    for name, places in tops.items():
        ways = [f"{100 * (max(p[k] for p in places) - min(p[k] for p in places)):.1f}" for k in range(3)]
        lines.append(f"{name} moves through {' x '.join(ways)} cm")
    lines.append(f"the lowest point in motion is {100 * min(soles):+.1f} to {100 * max(soles):+.1f} cm high")
    values = [
        p.co[1] for action in bpy.data.actions for curve in curves(action) if "key_blocks" in curve.data_path for p in curve.keyframe_points
    ]
    shapes = {k.name for mesh in bpy.data.shape_keys for k in mesh.key_blocks if k.name != mesh.reference_key.name}
    lines.append(f"{len(shapes)} face shapes" + (f", weights up to {max(values):.2f}" if values else ", none moves"))
    return lines, off


def curves(action: Any) -> list[Any]:
    """Animation curves of an action, which newer Blenders keep by layers."""
    return [c for layer in action.layers for strip in layer.strips for bag in strip.channelbags for c in bag.fcurves]


def span(meshes: list[Any]) -> tuple[float, float]:
    """Lowest and highest point of what is drawn, m."""
    graph = bpy.context.evaluated_depsgraph_get()
    heights = []
    for mesh in meshes:
        shown = mesh.evaluated_get(graph)
        places = np.empty(3 * len(shown.data.vertices), np.float32)
        shown.data.vertices.foreach_get("co", places)
        M = np.array(shown.matrix_world)
        heights += [z for z in places.reshape(-1, 3) @ M[2, :3] + M[2, 3]]
    return (float(min(heights)), float(max(heights))) if heights else (0.0, 0.0)


def drawn(armature: Any, frames: list[int], out: Path) -> np.ndarray:
    """A row: rest pose and frames, as seen a little from the side, with the floor's height at the same place in all."""
    stage()
    tall = max(span([o for o in bpy.data.objects if o.type == "MESH"])[1], 0.5)
    panels = []
    for frame in [None, *frames]:
        armature.data.pose_position = "REST" if frame is None else "POSE"
        bpy.context.scene.frame_set(frame or 1)
        name = next((n for n in TOPS[1:] if n in armature.pose.bones), armature.pose.bones[0].name)
        centre = armature.matrix_world @ armature.pose.bones[name].head
        at = mathutils.Vector((centre.x, centre.y, 0.52 * tall))
        panels.append(panel(at, mathutils.Vector((0.5, -1, 0)), 300, 1.15 * tall, out.with_suffix(f".{len(panels)}.png")))
    return np.concatenate(panels, 1)


if __name__ == "__main__":
    sys.exit(main())

"""Pictures of an FBX as Blender shows it: rest pose, one frame, the face on that frame. Runs where `bpy` is installed.

`python verify/picture.py FILE.fbx FRAME OUT.png` with the Python of `make verify-export`'s Blender.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bpy
import mathutils
import numpy as np

HEIGHT = 360


def main() -> None:
    """Import, render three panels, join them."""
    file, frame, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.fbx_import(filepath=str(file))
    armature = next(o for o in bpy.data.objects if o.type == "ARMATURE")
    for drawn in (o for o in bpy.data.objects if o.type == "MESH"):
        drawn.data.shade_smooth()
    stage()
    bpy.context.scene.frame_set(frame)
    panels = []
    for pose, width, span, part in (("REST", 380, 1.95, None), ("POSE", 260, 1.95, None), ("POSE", 260, 0.36, "Head")):
        armature.data.pose_position = pose
        bpy.context.view_layer.update()
        hips, head = (armature.matrix_world @ armature.pose.bones[n].head for n in ("Hips", "Head"))
        centre = mathutils.Vector((hips.x, hips.y, 0.93)) if part is None else head + mathutils.Vector((0, 0, 0.05))
        turn = (
            armature.pose.bones[part or "Hips"].matrix.to_3x3() @ armature.pose.bones[part or "Hips"].bone.matrix_local.to_3x3().inverted()
        )
        forward = armature.matrix_world.to_3x3() @ turn @ armature.matrix_world.to_3x3().inverted() @ mathutils.Vector((0.3, -1, 0))
        panels.append(panel(centre, forward, width, span, out.with_suffix(f".{len(panels)}.png")))
    save(np.concatenate(panels, 1), out)


def stage() -> None:
    """Light, ground colour, and a renderer that needs no screen."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.device = 24, "CPU"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.world = bpy.data.worlds.new("sky")
    scene.world.color = (0.25, 0.27, 0.3)
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy = 3.0
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.type = "ORTHO"
    for thing in (sun, camera):
        scene.collection.objects.link(thing)
    scene.camera = camera
    scene.view_settings.view_transform = "Standard"


def panel(centre: mathutils.Vector, forward: mathutils.Vector, width: int, span: float, path: Path) -> np.ndarray:
    """(height, width, 4) as seen from where the person looks, `span` metres high."""
    scene, camera = bpy.context.scene, bpy.context.scene.camera
    flat = mathutils.Vector((forward.x, forward.y, 0)).normalized()
    camera.location = centre + 3 * flat
    camera.rotation_euler = (-flat).to_track_quat("-Z", "Y").to_euler()
    light = bpy.data.objects["sun"]
    light.rotation_euler = (-flat + mathutils.Vector((0.3 * flat.y, -0.3 * flat.x, -0.7))).to_track_quat("-Z", "Y").to_euler()
    camera.data.ortho_scale = span * max(width / HEIGHT, 1.0)
    scene.render.resolution_x, scene.render.resolution_y, scene.render.filepath = width, HEIGHT, str(path)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    pixels = np.array(image.pixels[:]).reshape(HEIGHT, width, 4)
    path.unlink()
    return pixels


def save(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG."""
    image = bpy.data.images.new("picture", pixels.shape[1], pixels.shape[0])
    image.pixels = pixels.ravel()
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()


if __name__ == "__main__":
    main()

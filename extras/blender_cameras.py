"""Cameras out of Blender and into it, as the JSON that `studio cameras convert` reads and writes. Runs inside Blender.

    blender scene.blend --background --python extras/blender_cameras.py -- export cameras.json
    studio cameras convert cameras.json cameras.yaml

    studio cameras convert cameras.yaml rig.json --kind blender
    blender --background --python extras/blender_cameras.py -- load rig.json --save rig.blend

Without --background the second opens the rig in a window. Blender holds one image size for all cameras, so each camera keeps its own
in its custom properties `resolution` and `pixel_aspect`, beside the distortion, which Blender's lens does not have; on export they
count more than the scene's. Loading sets the scene to the first camera's size and replaces cameras of the same names; the startup
scene's own camera stays, delete it before exporting.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import bpy
from mathutils import Matrix

FORMAT = "blender cameras"
LENS = ("sensor_fit", "sensor_width", "sensor_height", "lens", "shift_x", "shift_y")


def exported(scene: Any) -> dict[str, Any]:
    """The scene's cameras in the layout of the file; panoramic and orthographic ones too, which the reader refuses by name."""
    render = scene.render
    size = [round(v * render.resolution_percentage / 100) for v in (render.resolution_x, render.resolution_y)]
    aspect = [render.pixel_aspect_x, render.pixel_aspect_y]
    cameras = []
    for thing in sorted((o for o in scene.objects if o.type == "CAMERA"), key=lambda o: o.name):
        data = thing.data
        fields = {
            "name": thing.name,
            "type": data.type,
            "resolution": [int(v) for v in thing.get("resolution", size)],
            "pixel_aspect": [float(v) for v in thing.get("pixel_aspect", aspect)],
            **{key: getattr(data, key) for key in LENS},
            "matrix_world": [list(row) for row in thing.matrix_world],
        }
        if "distortion" in thing:
            fields |= {"lens_model": str(thing["lens_model"]), "distortion": [float(v) for v in thing["distortion"]]}
        cameras.append(fields)
    return {"format": FORMAT, "unit_scale": scene.unit_settings.scale_length, "cameras": cameras}


def load(document: dict[str, Any], scene: Any) -> int:
    """Make the file's cameras in the scene; the number of them."""
    if document.get("format") != FORMAT or not document.get("cameras"):
        raise SystemExit("not a file of cameras for Blender; write one with `studio cameras convert IN OUT --kind blender`")
    scale = document.get("unit_scale", 1.0) / scene.unit_settings.scale_length
    made = [_camera(fields, scale, scene) for fields in document["cameras"]]
    first, render = document["cameras"][0], scene.render
    scene.camera, render.resolution_percentage = made[0], 100
    render.resolution_x, render.resolution_y = first["resolution"]
    render.pixel_aspect_x, render.pixel_aspect_y = first.get("pixel_aspect", [1, 1])
    for fields in document["cameras"][1:]:
        if [fields["resolution"], fields.get("pixel_aspect")] != [first["resolution"], first.get("pixel_aspect")]:
            print(f"{fields['name']}: {fields['resolution']} px; set the scene's resolution to it before looking through this camera")
    return len(made)


def _camera(fields: dict[str, Any], scale: float, scene: Any) -> Any:
    if (old := scene.objects.get(fields["name"])) is not None and old.type == "CAMERA":
        bpy.data.objects.remove(old)
    data = bpy.data.cameras.new(fields["name"])
    for key in LENS:
        setattr(data, key, fields[key])
    data.display_size, data.clip_end = 0.3, 1000.0
    thing = bpy.data.objects.new(fields["name"], data)
    place = Matrix(fields["matrix_world"])
    place.translation *= scale
    thing.matrix_world = place
    for key in ("resolution", "pixel_aspect", "lens_model", "distortion"):
        if key in fields:
            thing[key] = fields[key]
    scene.collection.objects.link(thing)
    return thing


def main(words: list[str]) -> None:
    """`export FILE`, or `load FILE [--save BLEND]`."""
    parser = argparse.ArgumentParser(prog="blender --python blender_cameras.py --")
    parser.add_argument("action", choices=["export", "load"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--save", type=Path, help="the .blend file to write after loading")
    args = parser.parse_args(words)
    scene = bpy.context.scene
    if args.action == "export":
        document = exported(scene)
        temporary = args.file.with_name(args.file.name + ".partial")
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
        temporary.replace(args.file)
        print(f"{args.file}: {len(document['cameras'])} cameras")
        return
    print(f"{args.file}: {load(json.loads(args.file.read_text(encoding='utf-8')), scene)} cameras loaded")
    if args.save:
        bpy.ops.wm.save_as_mainfile(filepath=str(args.save.resolve()))


if __name__ == "__main__":
    main(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:])

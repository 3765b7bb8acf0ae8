"""What ufbx sees in an FBX, as JSON on standard output. A process of its own: the binding frees its objects in an order that can crash."""

import gc
import json
import os
import sys

import ufbx


def main() -> None:
    gc.disable()
    scene, kept = ufbx.load_file(sys.argv[1]), []
    animation, stack = scene.anim, scene.anim_stacks[0]
    nodes = {node.name: node for node in scene.nodes}
    begin, end = stack.time_begin, stack.time_end
    rate = float(sys.argv[2])
    joints = {name: node for name, node in nodes.items() if node.bone is not None}
    tracks = {}
    for name, node in joints.items():
        rows = []
        for frame in range(round((end - begin) * rate) + 1):
            t = ufbx.evaluate_transform(animation, node, begin + frame / rate)
            kept.append(t)
            rows.append([t.translation.x, t.translation.y, t.translation.z, t.rotation.x, t.rotation.y, t.rotation.z, t.rotation.w])
        tracks[name] = rows
    print(
        json.dumps(
            {
                "version": scene.metadata.version,
                "unit": scene.settings.unit_meters,
                "fps": scene.settings.frames_per_second,
                "warnings": len(scene.metadata.warnings),
                "take": stack.name,
                "begin": begin,
                "end": end,
                "parents": {name: node.parent.name for name, node in joints.items()},
                "tracks": tracks,
                "morphs": [channel.name for channel in scene.blend_channels],
                "skins": len(scene.skin_deformers),
                "materials": [material.name for material in scene.materials],
            }
        ),
        flush=True,
    )
    os._exit(0)


if __name__ == "__main__":
    main()

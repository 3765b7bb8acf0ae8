"""Receive a motion from `studio stream` in Blender: open this in the text editor and run it; run it again to stop.

Each actor becomes an armature of its own name that follows what arrives. To keep a performance, record with auto-keying, or import the
exported FBX. Listens on port 39540 of this computer.
"""

import json
import socket

import bpy
from mathutils import Quaternion, Vector

PORT = 39540
EVERY = 1 / 60


def armature_of(actor: str, rest: dict) -> bpy.types.Object:
    """The actor's armature; made from the skeleton at rest where there is none."""
    if actor in bpy.data.objects:
        return bpy.data.objects[actor]
    thing = bpy.data.objects.new(actor, bpy.data.armatures.new(actor))
    bpy.context.scene.collection.objects.link(thing)
    bpy.context.view_layer.objects.active = thing
    bpy.ops.object.mode_set(mode="EDIT")
    bones = {}
    for name, (parent, *at) in rest.items():
        bone = bones[name] = thing.data.edit_bones.new(name)
        bone.head = Vector(at)
        children = [Vector(v[1:]) for v in rest.values() if v[0] == name]
        bone.tail = children[0] if len(children) == 1 and (children[0] - bone.head).length > 0.01 else bone.head + Vector((0, 0, 0.04))
        bone.parent = bones.get(parent)
    bpy.ops.object.mode_set(mode="OBJECT")
    for bone in thing.pose.bones:
        bone.rotation_mode = "QUATERNION"
    return thing


def posed(thing: bpy.types.Object, told: dict) -> None:
    """The armature as a datagram tells. Rotations come in the world's axes at rest; Blender wants them in the bone's."""
    for name, turn in told["joints"].items():
        bone = thing.pose.bones.get(name)
        if bone is None:
            continue
        own = bone.bone.matrix_local.to_quaternion()
        bone.rotation_quaternion = own.inverted() @ Quaternion(turn) @ own
        if bone.parent is None:
            bone.location = own.inverted() @ (Vector(told["hips"]) - bone.bone.head_local)


def take(data: bytes, rests: dict) -> None:
    """One datagram; skeletons are remembered in `rests`."""
    told = json.loads(data)
    if told.get("studio") != 1:
        return
    if "rest" in told:
        rests[told["actor"]] = told["rest"]
        armature_of(told["actor"], told["rest"])
    elif told["actor"] in rests:
        posed(armature_of(told["actor"], rests[told["actor"]]), told)


def receive() -> float:
    """Everything that has arrived; the timer's function."""
    while True:
        try:
            data, _ = listening["socket"].recvfrom(65536)
        except BlockingIOError:
            return EVERY
        take(data, listening["rests"])


def toggle() -> None:
    """Begin to listen, or stop."""
    if (old := bpy.app.driver_namespace.pop("studio_live", None)) is not None:
        bpy.app.timers.unregister(old["receive"])
        old["socket"].close()
        return
    listening["socket"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening["socket"].bind(("", PORT))
    listening["socket"].setblocking(False)
    bpy.app.driver_namespace["studio_live"] = {**listening, "receive": receive}
    bpy.app.timers.register(receive)


listening = {"rests": {}}
if __name__ == "__main__":
    toggle()

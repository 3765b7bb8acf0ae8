"""Face weights as the Live Link Face app records them: CSV with timecode, Apple's 52 blend shapes, head and eye rotations.

Column names and order are those of the app's recordings, so that what imports those (Unreal, MetaHuman, add-ons of Blender and Maya)
imports this. Rotations are radians: yaw about the head's up axis (positive to the person's left), pitch about its left axis (positive
down), roll about its forward axis, R = yaw pitch roll; the head's against the chest, the eyes' against the head.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import euler, rotation
from rigs.skeleton import Skeleton
from studio.export import timecode
from studio.export.animation import TO_Y_UP, in_pieces
from studio.values import Motion

NAMES = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft", "eyeWideLeft",
    "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight", "eyeWideRight",
    "jawForward", "jawRight", "jawLeft", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRight", "mouthLeft",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft",
    "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""Apple's `ARFaceAnchor.BlendShapeLocation`, in the order of the app's columns."""
TURNS = tuple(f"{part}{angle}" for part in ("Head", "LeftEye", "RightEye") for angle in ("Yaw", "Pitch", "Roll"))
HEADER = ("Timecode", "BlendShapeCount", *(name[0].upper() + name[1:] for name in NAMES), *TURNS)


def write(path: Path, motion: Motion, expression_names: tuple[str, ...]) -> Path:
    """Write one row a frame, 6 decimals; shapes the body lacks are 0. A `ValueError` where it has none of them."""
    known = {name: n for n, name in enumerate(expression_names)}
    if not known.keys() & set(NAMES):
        raise ValueError(
            f"{path}: body {motion.body!r} has none of Apple's face shapes; fit with the body makehuman, or leave 'arkit' out of formats"
        )
    weights = torch.stack([motion.expression[:, known[n]] if n in known else motion.expression.new_zeros(len(motion.expression))
                           for n in NAMES], 1)  # fmt: skip
    first = timecode.frames(motion.timecode, motion.fps) + motion.first_frame
    drop = timecode.drops(motion.timecode)
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", newline="") as file:
        file.write(",".join(HEADER) + "\n")
        for frame, row in enumerate(torch.cat([weights.double(), turns(motion)], 1).tolist(), first):
            cells = ",".join(f"{value:.6f}" for value in row)
            file.write(f"{timecode.text(frame, motion.fps, drop)}.000,{len(HEADER) - 2},{cells}\n")
    temporary.replace(path)
    return path


def turns(motion: Motion) -> Float[Tensor, "T 9"]:
    """Yaw, pitch, roll (rad) of the head against the chest, of the left and of the right eye against the head."""
    skeleton = Skeleton(motion.joints, Skeleton.human().parents)
    neck, head, left, right = (skeleton.index(name) for name in ("Neck", "Head", "LeftEye", "RightEye"))

    def angles(vectors: Tensor) -> Tensor:
        R = TO_Y_UP @ rotation.exp(vectors[:, [neck, head, left, right]].double()) @ TO_Y_UP.T
        return euler.angles(torch.stack([R[:, 0] @ R[:, 1], R[:, 2], R[:, 3]], 1), "YXZ").flatten(1)

    return in_pieces(angles, motion.rotation)

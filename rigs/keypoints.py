"""Named keypoint sets, and how the sets of different tools map onto each other."""

from __future__ import annotations

from functools import cache

_SIDES = ("left", "right")
_LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")

COCO_17 = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", *(f"{s}_{limb}" for limb in _LIMBS for s in _SIDES))
FEET = tuple(f"{s}_{part}" for s in _SIDES for part in ("big_toe", "small_toe", "heel"))
FACE = tuple(f"face-{i}" for i in range(68))
"""The 68 face points of iBUG 300-W, subject's right jaw first."""
LEFT_HAND = ("left_hand_root", *(f"left_{f}{i}" for f in _FINGERS for i in (1, 2, 3, 4)))
RIGHT_HAND = tuple(n.replace("left_", "right_", 1) for n in LEFT_HAND)
COCO_WHOLEBODY = COCO_17 + FEET + FACE + LEFT_HAND + RIGHT_HAND
"""133 names of COCO-WholeBody (Jin et al. 2020), the studio's own order."""

BODY_25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "mid_hip",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
    "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip
"""OpenPose's default set."""
BODY_25B = (
    *COCO_17, "neck", "head_top", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip
"""OpenPose's experimental set: COCO-17, upper neck, head top, feet."""
SETS = {"coco_17": COCO_17, "body_25": BODY_25, "body_25b": BODY_25B, "coco_wholebody": COCO_WHOLEBODY}

GROUPS = {
    "body": tuple(range(17)),
    "feet": tuple(range(17, 23)),
    "face": tuple(range(23, 91)),
    "left_hand": tuple(range(91, 112)),
    "right_hand": tuple(range(112, 133)),
}
"""Index ranges inside COCO_WHOLEBODY."""


@cache
def mirrored(names: tuple[str, ...]) -> tuple[int, ...]:
    """For each keypoint the index of its left-right counterpart in the same set; itself where there is none."""
    swap = {"left_": "right_", "right_": "left_"}
    faces = {**{i: 16 - i for i in range(17)}, **{17 + i: 26 - i for i in range(10)}, **{31 + i: 35 - i for i in range(5)}}
    pairs = (
        (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (55, 59), (56, 58),
        (60, 64), (61, 63), (65, 67),
    )  # fmt: skip
    faces |= {a: b for a, b in pairs} | {b: a for a, b in pairs}

    def other(name: str) -> str:
        if name.startswith("face-"):
            i = int(name[5:])
            return f"face-{faces.get(i, i)}"
        return next((swap[s] + name[len(s) :] for s in swap if name.startswith(s)), name)

    return tuple(names.index(other(n)) if other(n) in names else i for i, n in enumerate(names))


BONES = tuple(
    (a, b)
    for s in _SIDES
    for a, b in (
        (f"{s}_shoulder", f"{s}_elbow"), (f"{s}_elbow", f"{s}_wrist"), (f"{s}_hip", f"{s}_knee"), (f"{s}_knee", f"{s}_ankle"),
        (f"{s}_ankle", f"{s}_heel"), (f"{s}_ankle", f"{s}_big_toe"), (f"{s}_shoulder", f"{s}_hip"), (f"{s}_ear", f"{s}_eye"),
        (f"{s}_eye", "nose"),
        *((f"{s}_hand_root" if i == 0 else f"{s}_{f}{i}", f"{s}_{f}{i + 1}") for f in _FINGERS for i in range(4)),
    )
) + (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))  # fmt: skip
"""Pairs of COCO-WholeBody names to draw as lines."""

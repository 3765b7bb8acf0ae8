"""The rest pose of any character with the parts of a person: what would have to turn to bring it to a T-pose, and which pose it is in.

Everything here is in a frame with z up in which the person faces -y, left hand at +x; metres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.body import Shaped

FINGERS = ("Index", "Middle", "Ring", "Pinky")
Bone = Callable[[str, str], Tensor | None]
"""Vector between two joints of one side at rest, m; None where the skeleton lacks one."""
NO_LENGTH = 1e-6
"""m."""
EYE_AXIS = 0.03
"""How far before an eye's centre its tip is put, m."""
T_UNTIL, A_UNTIL = 20.0, 70.0
"""Upper arms hang below the level by at most so many degrees in a T-pose, in an A-pose."""


def t_turns(parts: Sequence[tuple[str, str | None]], centre: Mapping[str, Float[Tensor, "3"]]) -> dict[str, Float[Tensor, "3 3"]]:
    """World rotation of every part that takes the pose in which the parts have these `centre`s to a T-pose.

    `parts` are (name, parent's name), parents first; `centre` may also hold `...Tip`, where a childless part's bone ends.
    Upper arm, forearm, hand and straight fingers lie level along +-x with the palms down (fingers keep their spread, the thumb
    stays as the hand carries it), thighs and shins hang straight down, feet point forward with their soles as they were. The trunk
    and the collar bones keep their natural stance. Parts that are lacking are passed over.
    """
    plain = torch.eye(3, dtype=next(iter(centre.values())).dtype)
    R: dict[str, Tensor] = {}
    for name, parent in parts:
        carried = R[parent] if parent is not None else plain
        side, part = _split(name)
        R[name] = carried if side is None else _limb(side, part, carried, centre)
    return R


def pose_name(centre: Mapping[str, Float[Tensor, "3"]]) -> str:
    """ "T", "A", "arms down" or "unknown", told from how far the upper arms hang below the level."""
    angles = []
    for side in ("Left", "Right"):
        if f"{side}Arm" in centre and f"{side}ForeArm" in centre:
            along = centre[f"{side}ForeArm"] - centre[f"{side}Arm"]
            angles.append(float(torch.rad2deg(torch.atan2(-along[2], along[:2].norm()))))
    if not angles:
        return "unknown"
    worst = max(angles, key=abs)
    if worst < -T_UNTIL:
        return "arms up"
    return "T" if worst <= T_UNTIL else "A" if worst <= A_UNTIL else "arms down"


def tips(shaped: Shaped) -> dict[str, Float[Tensor, "3"]]:
    """Where the bone of each childless joint ends at rest, m: the farthest vertex the joint moves most; ahead of an eye.

    A joint that moves no vertex gets half its parent's bone again.
    """
    skeleton, rest = shaped.body.skeleton, shaped.rest()
    owner = shaped.body.skin.weights.argmax(-1)
    ends: dict[str, Tensor] = {}
    for j in (j for j in range(len(skeleton)) if j not in skeleton.parents):
        centre, up = shaped.joints[j], shaped.joints[skeleton.parents[j]] if j else shaped.joints[j]
        mine = rest[owner == j]
        if skeleton.names[j].endswith("Eye"):
            ends[skeleton.names[j]] = centre + centre.new_tensor([0, -EYE_AXIS, 0])
        elif len(mine):
            ends[skeleton.names[j]] = mine[(mine - centre).norm(dim=-1).argmax()]
        else:
            ends[skeleton.names[j]] = centre + (centre - up) / 2
    return ends


def _split(name: str) -> tuple[str | None, str]:
    """("Left", "Arm") of "LeftArm"; no side for joints on the midline."""
    side = next((s for s in ("Left", "Right") if name.startswith(s)), None)
    return side, name[len(side) :] if side else name


def _limb(side: str, part: str, carried: Tensor, centre: Mapping[str, Tensor]) -> Tensor:
    """World rotation of one joint of an arm or a leg whose parent turned by `carried`."""
    outward = carried.new_tensor([1.0 if side == "Left" else -1.0, 0, 0])
    down = carried.new_tensor([0, 0, -1.0])
    straight = {"Arm": ("ForeArm", outward), "ForeArm": ("Hand", outward), "UpLeg": ("Leg", down), "Leg": ("Foot", down)}

    def bone(start: str, end: str) -> Tensor | None:
        a, b = centre.get(side + start), centre.get(side + end)
        return None if a is None or b is None else b - a

    if part in straight:
        child, goal = straight[part]
        along = bone(part, child)
        turned = carried if along is None else aimed(carried @ along, goal) @ carried
        return _palm_down(turned, outward, bone) if part == "ForeArm" else turned
    if part == "Hand":
        along = bone("Hand", "HandMiddle1")
        return carried if along is None else _palm_down(aimed(carried @ along, outward) @ carried, outward, bone)
    if part == "Foot":
        along = bone("Foot", "ToeBase")
        return carried if along is None else aimed(_level(along), carried.new_tensor([0, -1.0, 0]))
    if part[4:-1] in FINGERS and part.startswith("Hand"):
        return _finger(part, carried, bone)
    return carried


def _finger(part: str, carried: Tensor, bone: Bone) -> Tensor:
    """A finger joint's rotation: the first phalanx is laid level, the others continue it."""
    along = bone(part, f"{part[:-1]}{int(part[-1]) + 1}" if part[-1] != "3" else f"{part}Tip")
    if along is None:
        return carried
    before = bone(f"{part[:-1]}{int(part[-1]) - 1}", part) if part[-1] != "1" else None
    goal = carried @ (along if before is None else before)
    return aimed(carried @ along, _level(goal)) @ carried


def _palm_down(R: Tensor, axis: Tensor, bone: Bone) -> Tensor:
    """`R` rolled about the level `axis` until the knuckles from little finger to forefinger point forward without rising."""
    across = bone("HandPinky1", "HandIndex1")
    if across is None:
        return R
    across = R @ across
    flat = across - (across @ axis) * axis
    return aimed(flat, flat.new_tensor([0, -1.0, 0])) @ R


def _level(v: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """The part of `v` that does not rise."""
    return v * v.new_tensor([1.0, 1.0, 0])


def aimed(start: Float[Tensor, "3"], goal: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that turns direction `start` to direction `goal`; for opposite ones half a turn about z (x along z).

    The identity where one of them has no length: a bone that is a point has no direction to correct.
    """
    if float(start.norm()) < NO_LENGTH or float(goal.norm()) < NO_LENGTH:
        return torch.eye(3, dtype=start.dtype)
    a, b = start / start.norm(), goal / goal.norm()
    axis, cosine = torch.linalg.cross(a, b), a @ b
    if float(axis.norm()) < 1e-9:
        spare = a.new_tensor([0, 0, 1.0]) if abs(float(a[2])) < 0.9 else a.new_tensor([1.0, 0, 0])
        spare = spare - (spare @ a) * a
        return torch.eye(3, dtype=a.dtype) if cosine > 0 else rotation.exp(spare / spare.norm() * torch.pi)
    return rotation.exp(axis / axis.norm() * torch.atan2(axis.norm(), cosine))

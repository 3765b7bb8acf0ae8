"""What joints can do: the axes about which each one flexes, abducts and twists, and how far (presets/anatomy.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from rigs.body import Body

FORWARD, BACKWARD, UP, DOWN = (0.0, -1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)
TOWARDS = {"Leg": BACKWARD, "Foot": UP, "ToeBase": UP, "Jaw": DOWN, "Eye": UP}
"""Where the far end of a bone goes in flexion; forward unless listed, fingers and hand towards the palm."""
CHILD = {"Hips": "Spine", "Spine2": "Neck", "Hand": "HandMiddle1"}
"""Which child a bone points to, where there are several."""


@dataclass(frozen=True)
class Anatomy:
    """Ranges of a body's joints, in axes of each joint's rest frame."""

    axes: Float[Tensor, "J 3 3"]
    """Rows: unit axes of flexion, abduction and twist."""
    low: Float[Tensor, "J 3"]
    high: Float[Tensor, "J 3"]
    """Range about each axis, rad."""
    mean: Float[Tensor, "J 3"]
    """Relaxed pose, rad."""

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Anatomy:
        """The same on another device or in another precision."""
        return Anatomy(*(x.to(device, dtype) for x in (self.axes, self.low, self.high, self.mean)))


@cache
def _ranges() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((Path(__file__).parent / "presets" / "anatomy.yaml").read_text())


def _kind(joint: str) -> str:
    """Entry of the table for a joint: sides and the four fingers share theirs."""
    for side in ("Left", "Right"):
        joint = joint.removeprefix(side)
    for finger in ("Middle", "Ring", "Pinky"):
        joint = joint.replace(finger, "Index")
    return joint


def _bone(body: Body, joint: str) -> Tensor:
    """Direction of a joint's bone at rest; of the parent's bone at a tip."""
    names, parents = body.skeleton.names, body.skeleton.parents
    j = body.skeleton.index(joint)
    side = next((s for s in ("Left", "Right") if joint.startswith(s)), "")
    children = [i for i, p in enumerate(parents) if p == j]
    wanted = side + CHILD[joint.removeprefix(side)] if joint.removeprefix(side) in CHILD else None
    if joint in ("Jaw", "LeftEye", "RightEye"):
        return torch.tensor(FORWARD, dtype=body.joints.dtype)
    if joint == "Head":
        return torch.tensor(UP, dtype=body.joints.dtype)
    if wanted in names:
        end = body.joints[names.index(str(wanted))] - body.joints[j]
    elif children:
        end = body.joints[children[0]] - body.joints[j]
    elif joint.removeprefix(side) == "ToeBase":
        return torch.tensor(FORWARD, dtype=body.joints.dtype)
    else:
        end = body.joints[j] - body.joints[parents[j]]
    return end / end.norm().clamp_min(1e-9)


def _bend(body: Body, j: int, bone: Tensor, flexion: Tensor) -> float:
    """How far a hinge is bent at rest about its flexion axis, rad."""
    before = body.joints[j] - body.joints[body.skeleton.parents[j]]
    before = before - (before @ flexion) * flexion
    after = bone - (bone @ flexion) * flexion
    return float(torch.atan2(torch.linalg.cross(before, after) @ flexion, before @ after))


def _palm(body: Body, side: str) -> Tensor:
    """Unit normal pointing out of the palm at rest."""
    wrist, index, pinky = (body.joints[body.skeleton.index(side + n)] for n in ("Hand", "HandIndex1", "HandPinky1"))
    normal = torch.linalg.cross(pinky - wrist, index - wrist) * (1 if side == "Left" else -1)
    return normal / normal.norm().clamp_min(1e-9)


def _towards(body: Body, joint: str) -> Tensor:
    side = next((s for s in ("Left", "Right") if joint.startswith(s)), "")
    kind = _kind(joint)
    if kind.startswith("HandThumb"):  # the thumb closes across the palm
        across = body.joints[body.skeleton.index(side + "HandPinky1")] - body.joints[body.skeleton.index(side + "HandIndex1")]
        return across / across.norm().clamp_min(1e-9) + 0.5 * _palm(body, side)
    if kind.startswith("Hand"):
        return _palm(body, side)
    return torch.tensor(TOWARDS.get(kind, FORWARD), dtype=body.joints.dtype)


def anatomy(body: Body) -> Anatomy:
    """Ranges of motion for a body's joints; the root is free. Joints without an entry keep a wide range."""
    J = len(body.skeleton)
    axes = torch.eye(3, dtype=body.joints.dtype).repeat(J, 1, 1)
    low, high, mean = torch.full((J, 3), -torch.pi), torch.full((J, 3), torch.pi), torch.zeros(J, 3)
    for j, joint in enumerate(body.skeleton.names):
        entry = _ranges().get(_kind(joint))
        if entry is None:
            continue
        bone, towards = _bone(body, joint), _towards(body, joint)
        flexion = torch.linalg.cross(bone, towards)
        flexion = flexion / flexion.norm().clamp_min(1e-9)
        mirror = -1 if joint.startswith("Right") else 1  # a rotation axis is a pseudo-vector: both sides then mean the same
        abduction, twist = mirror * torch.linalg.cross(flexion, bone), mirror * bone
        axes[j] = torch.stack([flexion, abduction, twist])
        ranges = torch.tensor([entry[k] for k in ("flexion", "abduction", "twist")], dtype=low.dtype)
        low[j], high[j] = ranges[:, 0].deg2rad(), ranges[:, 1].deg2rad()
        mean[j] = torch.tensor(entry.get("mean", [0.0, 0.0, 0.0])).deg2rad()
        if entry.get("straight"):
            for angles in (low, high, mean):
                angles[j, 0] -= _bend(body, j, bone, flexion)
    dtype = body.joints.dtype
    return Anatomy(axes, low.to(dtype), high.to(dtype), mean.to(dtype))

"""A tree of joints and its forward kinematics."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

HUMAN = (
    ("Hips", None), ("Spine", "Hips"), ("Spine1", "Spine"), ("Spine2", "Spine1"), ("Neck", "Spine2"), ("Head", "Neck"),
    ("Jaw", "Head"), ("LeftEye", "Head"), ("RightEye", "Head"),
    *((s + name, (s + parent) if parent[0] != "!" else parent[1:]) for s in ("Left", "Right") for name, parent in (
        ("Shoulder", "!Spine2"), ("Arm", "Shoulder"), ("ForeArm", "Arm"), ("Hand", "ForeArm"),
        *((f"Hand{finger}{i}", "Hand" if i == 1 else f"Hand{finger}{i - 1}")
          for finger in ("Thumb", "Index", "Middle", "Ring", "Pinky") for i in (1, 2, 3)),
        ("UpLeg", "!Hips"), ("Leg", "UpLeg"), ("Foot", "Leg"), ("ToeBase", "Foot"),
    )),
)  # fmt: skip
"""Joint names (HumanIK style) and parents of the studio's bodies: 55 joints, the tree of SMPL-X. A finger's joints are its
knuckles from the palm outwards (thumb: CMC, MCP, IP; others: MCP, PIP, DIP)."""


@dataclass(frozen=True)
class Skeleton:
    """Joint names with their parents; a parent always comes before its children, joint 0 is the root."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    """Index of each joint's parent, -1 for the root."""

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"joint names must differ: {self.names}")
        if self.parents[0] != -1 or any(not 0 <= p < j for j, p in enumerate(self.parents) if j):
            raise ValueError("joint 0 must be the only root, and a parent must come before its children")

    @classmethod
    def human(cls) -> Skeleton:
        """The 55 joints every body of the studio has."""
        names = tuple(name for name, _ in HUMAN)
        return cls(names, tuple(-1 if parent is None else names.index(parent) for _, parent in HUMAN))

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of the joint called `name`."""
        if name not in self.names:
            raise KeyError(f"no joint {name!r}; there are {list(self.names)}")
        return self.names.index(name)

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Joints by depth below the root; the first level is the root alone."""
        depth = [0] * len(self)
        for j, p in enumerate(self.parents):
            depth[j] = depth[p] + 1 if p >= 0 else 0
        return tuple(tuple(j for j in range(len(self)) if depth[j] == d) for d in range(max(depth) + 1))

    @cached_property
    def under(self) -> Bool[Tensor, "J J"]:
        """`under[j, i]`: joint j is i or below it."""
        below = torch.eye(len(self), dtype=torch.bool)
        for j, p in enumerate(self.parents):
            if p >= 0:
                below[j] |= below[p]
        return below

    def mirrored(self) -> tuple[int, ...]:
        """For each joint the index of its left-right counterpart (itself on the midline)."""
        swap = {"Left": "Right", "Right": "Left"}
        other = [next((swap[s] + n[len(s) :] for s in swap if n.startswith(s)), n) for n in self.names]
        return tuple(self.index(n) for n in other)

    def forward(
        self, R_local: Float[Tensor, "... J 3 3"], rest: Float[Tensor, "... J 3"], root: Float[Tensor, "... 3"]
    ) -> tuple[Float[Tensor, "... J 3 3"], Float[Tensor, "... J 3"]]:
        """World rotation and world position of every joint.

        `rest` holds joint centres at rest, in a frame parallel to the world; `root` is where joint 0 is, m.
        """
        batch = torch.broadcast_shapes(R_local.shape[:-3], rest.shape[:-2], root.shape[:-1])
        R = [R_local[..., :1, :, :].expand(*batch, 1, 3, 3)]
        p = [root[..., None, :].expand(*batch, 1, 3)]
        for above, level in itertools.pairwise(self.levels):
            here, up = list(level), [above.index(self.parents[j]) for j in level]
            R_up, bone = R[-1][..., up, :, :], rest[..., here, :] - rest[..., [self.parents[j] for j in level], :]
            R.append(R_up @ R_local[..., here, :, :])
            p.append(p[-1][..., up, :] + (R_up @ bone[..., None])[..., 0])
        order = [j for level in self.levels for j in level]
        back = sorted(range(len(self)), key=order.__getitem__)
        return torch.cat(R, -3)[..., back, :, :], torch.cat(p, -2)[..., back, :]

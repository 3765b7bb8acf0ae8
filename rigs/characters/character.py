"""What an animator's file holds: joints, rest pose, skins, clips. World axes and metres, whatever the file has.

World: z up, a character that faces its file's front faces -y, metres. The file's own axes and unit stay in `Source`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs import rotation


@dataclass(frozen=True)
class Source:
    """Where a character comes from, and in which conventions."""

    path: str
    """Empty for one that is in no file."""
    format: str
    """For people: "FBX 7.4 binary"."""
    creator: str = ""
    up: str = "z"
    """The file's up axis: x, y or z, with a minus before it where it points down."""
    front: str = "-y"
    """The file's axis out of the screen, towards which characters look by custom."""
    unit: float = 1.0
    """Length of the file's unit, m."""
    R_world_file: Float[Tensor, "3 3"] = field(default_factory=lambda: torch.eye(3, dtype=torch.float64))
    fps: float = 0.0
    """Frames a second the file speaks of; 0 where it does not say."""


@dataclass(frozen=True)
class Mesh:
    """One surface, in the pose in which it is bound to its joints; world axes, m."""

    name: str
    points: Float[Tensor, "V 3"]
    triangles: Int[Tensor, "F 3"]
    weights: Float[Tensor, "V J"] | None
    """How much each joint of the character moves each point, as the file has it: rows should sum to one. None without a skin."""
    morphs: tuple[str, ...] = ()
    shapes: Float[Tensor, "M V 3"] | None = None
    """How far each morph moves each point when it is full, m. None where only the names are known: files that are read keep them."""


@dataclass(frozen=True)
class Clip:
    """One animation, sampled on every frame. Positions are relative to the parent joint, in its axes, m."""

    name: str
    fps: float
    R_parent_joint: Float[Tensor, "T J 3 3"]
    position: Float[Tensor, "T J 3"]
    start: float = 0.0
    """Time of the first frame in the file, s."""
    timecode: str = ""
    """HH:MM:SS:FF of the first frame, where the file says."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.position)

    @property
    def seconds(self) -> float:
        """From the first frame to the last, s."""
        return (self.frames - 1) / self.fps


@dataclass(frozen=True)
class Character:
    """A tree (or several) of joints in its rest pose, and what hangs on it."""

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    """Index of each joint's parent, always before it; -1 for the top of a tree."""
    R_parent_rest: Float[Tensor, "J 3 3"]
    """Rotation of each joint at rest, relative to its parent (to the world for the top)."""
    offsets: Float[Tensor, "J 3"]
    """Position of each joint at rest, relative to its parent and in its axes, m."""
    source: Source
    orders: tuple[str, ...] = ()
    """Order of the file's Euler angles: `R1 @ R2 @ R3` in the order of the letters; empty where it has none."""
    pre: Float[Tensor, "J 3 3"] | None = None
    post: Float[Tensor, "J 3 3"] | None = None
    """A local rotation is `pre @ R(angles) @ post`."""
    ends: dict[int, Float[Tensor, "3"]] = field(default_factory=dict)
    """Where the bone of a childless joint ends, in its axes, m; where the file says."""
    meshes: tuple[Mesh, ...] = ()
    clips: tuple[Clip, ...] = ()
    problems: tuple[str, ...] = ()
    """What is odd about the file, in plain sentences."""

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, name: str) -> int:
        """Position of the joint called `name`."""
        if name not in self.joints:
            raise KeyError(f"{self.name}: no joint {name!r}; there are {list(self.joints)}")
        return self.joints.index(name)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each joint's children."""
        return tuple(tuple(c for c, up in enumerate(self.parents) if up == j) for j in range(len(self)))

    def above(self, joint: int) -> list[int]:
        """A joint and those above it, upwards."""
        line = [joint]
        while self.parents[line[-1]] >= 0:
            line.append(self.parents[line[-1]])
        return line

    def below(self, joint: int) -> list[int]:
        """A joint and all those below it."""
        found = [joint]
        for j in found:
            found += self.children[j]
        return found

    @cached_property
    def rest(self) -> tuple[Float[Tensor, "J 3 3"], Float[Tensor, "J 3"]]:
        """World rotation and world position (m) of every joint at rest."""
        return forward(self.parents, self.R_parent_rest, self.offsets)

    @property
    def morphs(self) -> tuple[str, ...]:
        """Names of all meshes' morphs, each once."""
        return tuple(dict.fromkeys(name for mesh in self.meshes for name in mesh.morphs))

    def world(self, clip: Clip) -> tuple[Float[Tensor, "T J 3 3"], Float[Tensor, "T J 3"]]:
        """World rotation and world position (m) of every joint on every frame of a clip."""
        return forward(self.parents, clip.R_parent_joint, clip.position)


def forward(
    parents: Sequence[int], R_parent_joint: Float[Tensor, "... J 3 3"], position: Float[Tensor, "... J 3"]
) -> tuple[Float[Tensor, "... J 3 3"], Float[Tensor, "... J 3"]]:
    """World rotation and position of every joint from those relative to its parent; any number of trees, parents first."""
    R: list[Tensor] = []
    p: list[Tensor] = []
    for j, up in enumerate(parents):
        here, place = R_parent_joint[..., j, :, :], position[..., j, :]
        R.append(here if up < 0 else R[up] @ here)
        p.append(place if up < 0 else p[up] + (R[up] @ place[..., None])[..., 0])
    if not R:
        return R_parent_joint, position
    return torch.stack(R, -3), torch.stack(p, -2)


def relative(
    parents: Sequence[int], R_world: Float[Tensor, "... J 3 3"], p_world: Float[Tensor, "... J 3"]
) -> tuple[Float[Tensor, "... J 3 3"], Float[Tensor, "... J 3"]]:
    """Rotation and position of every joint relative to its parent: the inverse of `forward`."""
    up = torch.tensor([max(p, 0) for p in parents], dtype=torch.long)
    top = torch.tensor([p < 0 for p in parents], dtype=torch.bool)
    above = R_world[..., up, :, :]
    R = torch.where(top[:, None, None], R_world, above.mT @ R_world)
    p = torch.where(top[:, None], p_world, (above.mT @ (p_world - p_world[..., up, :])[..., None])[..., 0])
    return R, p


def resampled(clip: Clip, fps: float) -> Clip:
    """The same clip at another rate, never past its end: rotations along the shorter arc, positions linearly."""
    if not 0 < fps <= 1000:
        raise ValueError(f"fps {fps:g} must lie between 0 and 1000")
    last = clip.frames - 1
    if abs(fps - clip.fps) < 1e-6 or last < 1:
        return replace(clip, fps=fps)
    count = int(last / clip.fps * fps + 1e-6) + 1
    at = (torch.arange(count, dtype=torch.float64) * clip.fps / fps).clamp(max=last)
    before = at.floor().long().clamp(max=last - 1)
    part = (at - before)[:, None]
    turns = rotation.quaternion(clip.R_parent_joint)
    blended = rotation.slerp(turns[before], turns[before + 1], part.expand(-1, turns.shape[1]))
    position = torch.lerp(clip.position[before], clip.position[before + 1], part[..., None])
    return replace(clip, fps=fps, R_parent_joint=rotation.matrix(blended), position=position)

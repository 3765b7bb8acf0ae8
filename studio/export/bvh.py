"""BVH: a skeleton and its animation as text. y up, centimetres, facing +z; position channels on the root, and on hips below a root bone.

A joint's rotation is M = R1 R2 R3 in the order of its channels. The root's OFFSET is zero, because readers differ in whether they add it
to its position channels; those of the hips below a root bone hold all of their position. There is no standard; this follows what Blender,
MotionBuilder and Maya importers accept.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rigs import euler
from rigs.characters.bvh import read
from rigs.skeleton import Skeleton
from studio.export.animation import PIECE, Character

__all__ = ["read", "write"]
CENTIMETRES = 100.0


def write(path: Path, character: Character, order: str = "ZXY", digits: int = 6) -> Path:
    """Write one character's animation; `digits` decimals of a centimetre and of a degree (6 keep joints within 0.002 mm)."""
    if digits < 6:
        raise ValueError(f"{path}: BVH with {digits} decimals moves joints visibly; use 6 or more")
    listed = _depth_first(character.skeleton)
    lines = ["HIERARCHY", *_hierarchy(character, 0, order, digits, ""), "MOTION", f"Frames: {len(character.root)}"]
    lines.append(f"Frame Time: {1 / character.fps:.10f}")
    turns = torch.rad2deg(euler.unrolled(character.R_parent_joint[:, listed], order))
    rows = [part for n, j in enumerate(listed) for part in _channels(character, j, turns[:, n])]
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w") as file:
        file.writelines(line + "\n" for line in lines)
        for start in range(0, len(turns), PIECE):
            for row in torch.cat([part[start : start + PIECE] for part in rows], 1).tolist():
                file.write(" ".join(f"{value:.{digits}f}" for value in row) + "\n")
    temporary.replace(path)
    return path


def _channels(character: Character, joint: int, turns: Tensor) -> list[Tensor]:
    """A joint's columns: its position (cm) if it moves, then its angles (degrees)."""
    return [character.places[joint] * CENTIMETRES, turns] if joint in character.places else [turns]


def _depth_first(skeleton: Skeleton, joint: int = 0) -> list[int]:
    """Joints in the order in which a BVH file lists them and their channels."""
    children = [j for j, up in enumerate(skeleton.parents) if up == joint]
    return [joint, *(j for child in children for j in _depth_first(skeleton, child))]


def _hierarchy(character: Character, joint: int, order: str, digits: int, indent: str) -> list[str]:
    def offset(v: Tensor) -> str:
        return "OFFSET " + " ".join(f"{value:.{digits}f}" for value in (v * CENTIMETRES).tolist())

    inner = indent + "\t"
    turns = " ".join(f"{axis}rotation" for axis in order)
    lines = [f"{indent}{'JOINT' if joint else 'ROOT'} {character.skeleton.names[joint]}", indent + "{"]
    lines.append(inner + offset(character.offsets[joint] if joint else torch.zeros(3)))
    moves = joint in character.places
    lines.append(inner + (f"CHANNELS 6 Xposition Yposition Zposition {turns}" if moves else f"CHANNELS 3 {turns}"))
    for child in (j for j, up in enumerate(character.skeleton.parents) if up == joint):
        lines += _hierarchy(character, child, order, digits, inner)
    if joint in character.ends:
        end = character.ends[joint] - character.rest[joint]
        lines += [inner + "End Site", inner + "{", inner + "\t" + offset(end), inner + "}"]
    return [*lines, indent + "}"]

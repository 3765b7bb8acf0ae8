"""BVH: a skeleton and its animation as text. y up, centimetres, facing +z; position channels on the root alone.

A joint's rotation is M = R1 R2 R3 in the order of its channels. The root's OFFSET is zero, because readers differ in whether they add it
to its position channels. There is no standard; this follows what Blender, MotionBuilder and Maya importers accept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.skeleton import Skeleton
from studio.export import euler
from studio.export.animation import PIECE, Character

CENTIMETRES = 100.0


@dataclass(frozen=True)
class Clip:
    """What a BVH file says, in the file's own length unit and axes (usually centimetres, y up)."""

    skeleton: Skeleton
    offsets: Float[Tensor, "J 3"]
    ends: dict[int, Float[Tensor, "3"]]
    """Offset of the End Site below a childless joint."""
    orders: tuple[str, ...]
    """Rotation order of each joint; empty where it has no rotation channels."""
    position: Float[Tensor, "T J 3"]
    """Each joint relative to its parent: its position channels where it has them, its offset elsewhere."""
    R_parent_joint: Float[Tensor, "T J 3 3"]
    frame_time: float
    """s."""

    def forward(self) -> tuple[Float[Tensor, "T J 3 3"], Float[Tensor, "T J 3"]]:
        """World rotation and position of every joint."""
        R, p = [self.R_parent_joint[:, 0]], [self.position[:, 0]]
        for j, up in list(enumerate(self.skeleton.parents))[1:]:
            R.append(R[up] @ self.R_parent_joint[:, j])
            p.append(p[up] + (R[up] @ self.position[:, j, :, None])[..., 0])
        return torch.stack(R, 1), torch.stack(p, 1)


def write(path: Path, character: Character, order: str = "ZXY", digits: int = 6) -> Path:
    """Write one character's animation; `digits` decimals of a centimetre and of a degree (6 keep joints within 0.002 mm)."""
    if digits < 6:
        raise ValueError(f"{path}: BVH with {digits} decimals moves joints visibly; use 6 or more")
    listed = _depth_first(character.skeleton)
    lines = ["HIERARCHY", *_hierarchy(character, 0, order, digits, ""), "MOTION", f"Frames: {len(character.root)}"]
    lines.append(f"Frame Time: {1 / character.fps:.10f}")
    turns = torch.rad2deg(euler.unrolled(character.R_parent_joint[:, listed], order)).flatten(1)
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w") as file:
        file.writelines(line + "\n" for line in lines)
        for root, turn in zip((character.root * CENTIMETRES).split(PIECE), turns.split(PIECE), strict=True):
            for row in torch.cat([root, turn], 1).tolist():
                file.write(" ".join(f"{value:.{digits}f}" for value in row) + "\n")
    temporary.replace(path)
    return path


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
    lines.append(inner + (f"CHANNELS 3 {turns}" if joint else f"CHANNELS 6 Xposition Yposition Zposition {turns}"))
    for child in (j for j, up in enumerate(character.skeleton.parents) if up == joint):
        lines += _hierarchy(character, child, order, digits, inner)
    if joint in character.ends:
        end = character.ends[joint] - character.rest[joint]
        lines += [inner + "End Site", inner + "{", inner + "\t" + offset(end), inner + "}"]
    return [*lines, indent + "}"]


def read(path: Path) -> Clip:
    """Read a BVH file strictly; a `ValueError` names the file, the line and what was expected there."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a BVH file: not text") from error
    words = _Words(path, [(n + 1, word) for n, line in enumerate(lines) for word in line.split()])
    words.expect("HIERARCHY")
    words.expect("ROOT")
    tree = _Tree([], [], [], [], {})
    _joint(words, tree, -1)
    words.expect("MOTION")
    words.expect("Frames:")
    frames = words.whole()
    words.expect("Frame")
    words.expect("Time:")
    frame_time = words.number()
    if frame_time <= 0:
        raise ValueError(f"{path}: Frame Time is {frame_time}; it must be positive")
    values = words.numbers_left()
    width = sum(len(channels) for channels in tree.channels)
    if len(values) != frames * width:
        raise ValueError(f"{path}: {frames} frames of {width} channels need {frames * width} numbers, found {len(values)}")
    return _clip(path, tree, torch.tensor(values, dtype=torch.float64).reshape(frames, width), frame_time)


@dataclass(frozen=True)
class _Tree:
    names: list[str]
    parents: list[int]
    offsets: list[list[float]]
    channels: list[list[str]]
    ends: dict[int, Tensor]


class _Words:
    """The file's words one after the other; every disappointment names its line."""

    def __init__(self, path: Path, words: list[tuple[int, str]]) -> None:
        self.path, self.words, self.at = path, words, 0

    def take(self, wanted: str) -> str:
        if self.at >= len(self.words):
            raise ValueError(f"{self.path}: ends where {wanted} was expected; the file is cut short")
        self.at += 1
        return self.words[self.at - 1][1]

    def fail(self, wanted: str) -> ValueError:
        line, word = self.words[self.at - 1]
        return ValueError(f"{self.path}: line {line}: expected {wanted}, found {word!r}")

    def expect(self, word: str) -> None:
        if self.take(repr(word)).upper() != word.upper():
            raise self.fail(repr(word))

    def number(self) -> float:
        word = self.take("a number")
        try:
            value = float(word)
        except ValueError as error:
            raise self.fail("a number") from error
        if not math.isfinite(value):
            raise self.fail("a finite number")
        return value

    def whole(self) -> int:
        word = self.take("a whole number")
        if not word.isdigit():
            raise self.fail("a whole number")
        return int(word)

    def numbers_left(self) -> list[float]:
        return [self.number() for _ in range(len(self.words) - self.at)]


def _joint(words: _Words, tree: _Tree, parent: int) -> None:
    """One joint with everything below it, the word JOINT or ROOT already read."""
    joint = len(tree.names)
    tree.names.append(words.take("a joint name"))
    tree.parents.append(parent)
    words.expect("{")
    words.expect("OFFSET")
    tree.offsets.append([words.number() for _ in range(3)])
    words.expect("CHANNELS")
    tree.channels.append([words.take("a channel") for _ in range(words.whole())])
    known = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}
    if unknown := set(tree.channels[-1]) - known:
        raise ValueError(f"{words.path}: joint {tree.names[joint]!r}: unknown channels {sorted(unknown)}; known are {sorted(known)}")
    while (word := words.take("JOINT, End Site or }").upper()) != "}":
        if word == "JOINT":
            _joint(words, tree, joint)
        elif word == "END":
            words.expect("Site")
            words.expect("{")
            words.expect("OFFSET")
            tree.ends[joint] = torch.tensor([words.number() for _ in range(3)], dtype=torch.float64)
            words.expect("}")
        else:
            raise words.fail("JOINT, End Site or }")


def _clip(path: Path, tree: _Tree, values: Float[Tensor, "T N"], frame_time: float) -> Clip:
    offsets = torch.tensor(tree.offsets, dtype=torch.float64)
    position = offsets.repeat(len(values), 1, 1)
    R = torch.eye(3, dtype=torch.float64).repeat(len(values), len(offsets), 1, 1)
    orders, at = [], 0
    for j, channels in enumerate(tree.channels):
        mine = values[:, at : at + len(channels)]
        at += len(channels)
        turning = [n for n, channel in enumerate(channels) if channel.endswith("rotation")]
        orders.append("".join(channels[n][0] for n in turning))
        if turning and orders[-1] not in euler.ORDERS:
            raise ValueError(f"{path}: joint {tree.names[j]!r}: rotation channels {orders[-1]!r} are none of {list(euler.ORDERS)}")
        if turning:
            R[:, j] = euler.matrix(torch.deg2rad(mine[:, turning]), orders[-1])
        for n, channel in enumerate(channels):
            if channel.endswith("position"):
                position[:, j, "XYZ".index(channel[0])] = mine[:, n]
    return Clip(Skeleton(tuple(tree.names), tuple(tree.parents)), offsets, tree.ends, tuple(orders), position, R, frame_time)

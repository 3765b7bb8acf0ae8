"""BVH: a skeleton and its animation as text, read. No standard says which unit or axes; both are guessed from the skeleton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import euler
from rigs.characters.character import Character, Clip, Source
from rigs.skeleton import Skeleton

UNITS = (
    (0.5, 3.5, 1.0),
    (12.0, 30.0, 0.0566),  # CMU's files
    (35.0, 99.0, 0.0254),
    (99.0, 350.0, 0.01),
    (500.0, 3500.0, 0.001),
)
"""Least and greatest distance from feet to head in a file's unit, and that unit in m."""


@dataclass(frozen=True)
class Recording:
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


def character(path: Path) -> Character:
    """The skeleton and the motion of a BVH file in our world, m; its rest pose is the one with all rotations zero."""
    found = read(path)
    top, lengths = _top(found)
    up = int(top.abs().argmax())
    unit, doubt = _unit(lengths)
    R = _axes(up, 1 if top[up] >= 0 else -1)
    problems = [doubt] if doubt else []
    still = found.offsets[1:].norm(dim=-1)
    if names := [found.skeleton.names[j + 1] for j in torch.nonzero(still < 1e-6)[:, 0].tolist()]:
        problems.append(f"{len(names)} joints lie on their parents (zero length): {', '.join(names[:5])}")
    offsets, position, turns = unit * found.offsets, unit * found.position, found.R_parent_joint
    offsets = torch.cat([torch.zeros_like(offsets[:1]), offsets[1:]])
    position = torch.cat([position[:, :1] @ R.T, position[:, 1:]], 1)
    turns = torch.cat([R @ turns[:, :1], turns[:, 1:]], 1)
    rest = torch.eye(3, dtype=torch.float64).repeat(len(found.skeleton), 1, 1)
    rest[0] = R
    lowest = _lowest(found.skeleton.parents, offsets, found.ends, unit, R)
    offsets[0, 2] -= lowest
    sign = "" if top[up] >= 0 else "-"
    source = Source(str(path), "BVH", "", sign + "xyz"[up], _front(R), unit, R, 1 / found.frame_time)
    clip = Clip(path.stem, 1 / found.frame_time, turns, position)
    return Character(
        name=path.stem,
        joints=found.skeleton.names,
        parents=found.skeleton.parents,
        R_parent_rest=rest,
        offsets=offsets,
        source=source,
        orders=found.orders,
        ends={j: unit * end for j, end in found.ends.items()},
        clips=(clip,),
        problems=tuple(problems),
    )


def _world_rest(found: Recording) -> Float[Tensor, "J 3"]:
    places: list[Tensor] = []
    for j, up in enumerate(found.skeleton.parents):
        places.append(places[up] + found.offsets[j] if up >= 0 else torch.zeros(3, dtype=torch.float64))
    return torch.stack(places)


def _top(found: Recording) -> tuple[Float[Tensor, "3"], float]:
    """From the lowest part of the skeleton to its head (or from the root, where none is named so), and how long that is."""
    places, names = _world_rest(found), [n.lower() for n in found.skeleton.names]
    heads = [j for j, n in enumerate(names) if "head" in n and "end" not in n]
    feet = [j for j, n in enumerate(names) if any(w in n for w in ("foot", "ankle", "toe"))]
    if not heads:
        size = float((places.amax(0) - places.amin(0)).max())
        return torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), size
    low = places[feet].mean(0) if feet else places[0]
    way = places[heads[0]] - low
    return way, float(way.norm())


def _unit(length: float) -> tuple[float, str]:
    for low, high, unit in UNITS:
        if low <= length < high:
            return unit, ""
    return 0.01, f"the skeleton is {length:.4g} units from feet to head; taken for centimetres, which may be wrong"


def _axes(up: int, sign: int) -> Float[Tensor, "3 3"]:
    """From the file's axes to ours: x stays, what is up becomes z."""
    if up == 1:
        rows = [[1.0, 0, 0], [0, 0, -sign], [0, sign, 0]]
    elif up == 2:
        rows = [[1.0, 0, 0], [0, sign, 0], [0, 0, sign]]
    else:
        rows = [[0, sign, 0], [0, 0, sign], [sign, 0, 0]]
    return torch.tensor(rows, dtype=torch.float64)


def _front(R: Float[Tensor, "3 3"]) -> str:
    way = -R[1]
    axis = int(way.abs().argmax())
    return ("" if way[axis] > 0 else "-") + "xyz"[axis]


def _lowest(parents: tuple[int, ...], offsets: Tensor, ends: dict[int, Tensor], unit: float, R: Tensor) -> float:
    """How far below the root the skeleton's lowest point lies at rest (negative), m: BVH has no floor, so the soles are put on it."""
    heights: list[float] = []
    for j, up in enumerate(parents):
        heights.append((heights[up] if up >= 0 else 0.0) + float((R @ offsets[j])[2]) * (up >= 0))
    tips = [heights[j] + unit * float((R @ end)[2]) for j, end in ends.items()]
    return min([*heights, *tips])


def read(path: Path) -> Recording:
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
    count = words.whole()
    tree.channels.append([words.take("a channel") for _ in range(count)])
    known = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}
    if tree.channels[-1][-1:] and tree.channels[-1][-1].upper() in ("JOINT", "END", "}"):
        raise ValueError(f"{words.path}: joint {tree.names[joint]!r} says CHANNELS {count} and lists fewer; correct the number")
    if unknown := set(tree.channels[-1]) - known:
        raise ValueError(f"{words.path}: joint {tree.names[joint]!r}: unknown channels {sorted(unknown)}; known are {sorted(known)}")
    while (word := words.take("JOINT, End Site or }").upper()) != "}":
        if word.endswith(("POSITION", "ROTATION")):
            raise ValueError(f"{words.path}: joint {tree.names[joint]!r} says CHANNELS {count} and lists more; correct the number")
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


def _clip(path: Path, tree: _Tree, values: Float[Tensor, "T N"], frame_time: float) -> Recording:
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
    if twice := sorted({n for n in tree.names if tree.names.count(n) > 1}):
        raise ValueError(f"{path}: two joints are called {twice[0]!r}; rename one of them")
    return Recording(Skeleton(tuple(tree.names), tuple(tree.parents)), offsets, tree.ends, tuple(orders), position, R, frame_time)

"""BVH of anybody's character: the tree that holds the hips, rest pose as offsets, y up, centimetres.

BVH has no rest rotations: its joints are parallel to the world at rest, and rotations are counted from there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import euler
from rigs.characters.character import Character, Clip, relative

CENTIMETRES = 100.0
Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
MOVES = 1e-4
"""A joint that comes this far from its place below its parent has position channels, m."""
TIP = 0.02
"""Length of the end of a childless joint that the character does not tell, m."""


def write(path: Path, character: Character, clip: Clip, hips: int, order: str = "ZXY", digits: int = 6) -> Path:
    """Write one clip; other trees than that of the joint `hips` are left out."""
    if digits < 6:
        raise ValueError(f"{path}: BVH with {digits} decimals moves joints visibly; use 6 or more")
    top = hips
    while character.parents[top] >= 0:
        top = character.parents[top]
    listed = _below(character, top)
    R_rest, p_rest = character.rest
    R, p = character.world(clip)
    turned = R @ R_rest.mT
    local, places = relative(character.parents, turned, p)
    up = torch.tensor([max(parent, 0) for parent in character.parents])
    still = torch.where(torch.arange(len(up))[:, None] == top, p_rest, p_rest - p_rest[up])
    moved = (places - still).norm(dim=-1).amax(0) > MOVES
    channels = {j: j == top or bool(moved[j]) for j in listed}
    turns = torch.rad2deg(euler.unrolled(Y_UP.T @ local[:, listed] @ Y_UP, order))
    numbers, lines = [], []
    for n, j in enumerate(listed):
        numbers += [CENTIMETRES * places[:, j] @ Y_UP, turns[:, n]] if channels[j] else [turns[:, n]]
    _hierarchy(lines, character, p_rest @ Y_UP * CENTIMETRES, channels, top, order, digits, "")
    lines += ["MOTION", f"Frames: {clip.frames}", f"Frame Time: {1 / clip.fps:.10f}"]
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w") as file:
        file.writelines(line + "\n" for line in ["HIERARCHY", *lines])
        for row in torch.cat(numbers, 1).tolist():
            file.write(" ".join(f"{value:.{digits}f}" for value in row) + "\n")
    temporary.replace(path)
    return path


def _below(character: Character, joint: int) -> list[int]:
    return [joint, *(j for child in character.children[joint] for j in _below(character, child))]


def _hierarchy(
    lines: list[str],
    character: Character,
    places: Float[Tensor, "J 3"],
    channels: dict[int, bool],
    joint: int,
    order: str,
    digits: int,
    indent: str,
) -> None:
    top, inner = not indent, indent + "\t"

    def offset(v: Tensor) -> str:
        return "OFFSET " + " ".join(f"{value:.{digits}f}" for value in v.tolist())

    turns = " ".join(f"{axis}rotation" for axis in order)
    moved = f"CHANNELS 6 Xposition Yposition Zposition {turns}" if channels[joint] else f"CHANNELS 3 {turns}"
    here = torch.zeros(3) if top else places[joint] - places[character.parents[joint]]
    name = character.joints[joint].replace(" ", "_")
    lines += [f"{indent}{'ROOT' if top else 'JOINT'} {name}", indent + "{", inner + offset(here), inner + moved]
    for child in character.children[joint]:
        _hierarchy(lines, character, places, channels, child, order, digits, inner)
    if not character.children[joint]:
        end = CENTIMETRES * character.ends[joint] if joint in character.ends else _onward(character, places, joint)
        lines += [inner + "End Site", inner + "{", inner + "\t" + offset(end), inner + "}"]
    lines.append(indent + "}")


def _onward(character: Character, places: Float[Tensor, "J 3"], joint: int) -> Float[Tensor, "3"]:
    """A bone's end two centimetres on in its parent's direction."""
    way = places[joint] - places[max(character.parents[joint], 0)]
    length = float(way.norm())
    return CENTIMETRES * TIP * (way / length if length > 1e-6 else torch.tensor([0.0, 1.0, 0.0]).to(way))

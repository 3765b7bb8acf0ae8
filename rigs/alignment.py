"""A performer and a character side by side: both brought to one pose in thought, facing one way, with the ratio of their sizes."""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.bones import SIDES, Mapping
from rigs.characters.character import Character
from rigs.performed import Performed
from rigs.rest import pose_name, t_turns
from rigs.skeleton import HUMAN

PARENT = dict(HUMAN)
SNAP = 10.0
"""A character that faces a quarter turn within this is taken to face it exactly, degrees."""


def facing(character: Character, mapping: Mapping) -> Float[Tensor, "3 3"]:
    """Rotation about z that turns the character at rest to face -y, its left hand at +x."""
    _, p = character.rest
    left = torch.zeros(3, dtype=p.dtype)
    for part in ("UpLeg", "Arm"):
        pair = [mapping.joints.get(side + part) for side in SIDES]
        if pair[0] is not None and pair[1] is not None:
            left = left + p[pair[0]] - p[pair[1]]
    if float(left[:2].norm()) < 1e-6:
        return torch.eye(3, dtype=p.dtype)
    angle = float(torch.rad2deg(torch.atan2(left[1], left[0])))
    quarter = 90 * round(angle / 90)
    angle = quarter if abs(angle - quarter) < SNAP else angle
    return rotation.exp(torch.tensor([0.0, 0.0, -angle], dtype=p.dtype).deg2rad())


def rest_name(character: Character, mapping: Mapping) -> str:
    """The pose a character rests in: "T", "A", "arms down", "arms up" or "unknown"."""
    return pose_name(centres(character, mapping, facing(character, mapping)))


def centres(character: Character, mapping: Mapping, turn: Float[Tensor, "3 3"]) -> dict[str, Float[Tensor, "3"]]:
    """Part -> where it is at rest, m, after a turn; finger tips too, where a joint or an end tells."""
    R, p = character.rest
    found = {part: turn @ p[j] for part, j in mapping.joints.items()}
    for part, j in mapping.joints.items():
        if "Hand" in part and part.endswith("3"):
            if character.children[j]:
                found[f"{part}Tip"] = turn @ p[character.children[j][0]]
            elif j in character.ends:
                found[f"{part}Tip"] = turn @ (p[j] + R[j] @ character.ends[j])
    return found


def _parts(present: Table[str, object]) -> list[tuple[str, str | None]]:
    """Parts that are there, each with the nearest part above it that is."""
    listed = []
    for name, _ in HUMAN:
        if name in present:
            up = PARENT[name]
            while up is not None and up not in present:
                up = PARENT[up]
            listed.append((name, up))
    return listed


@dataclass(frozen=True)
class Aligned:
    """Performer and character, the character at rest turned to face -y."""

    source: Performed
    character: Character
    mapping: Mapping
    R_rest: Float[Tensor, "J 3 3"]
    p_rest: Float[Tensor, "J 3"]
    centre: dict[str, Float[Tensor, "3"]]
    T_source: dict[str, Float[Tensor, "3 3"]]
    """Turns that take the performer's rest to the T-pose."""
    T_target: dict[str, Float[Tensor, "3 3"]]
    floor: float
    """Height of the character's soles at rest, m."""
    scale: float

    @classmethod
    def of(cls, source: Performed, character: Character, mapping: Mapping, scale: float | None = None) -> Aligned:
        """Both of them; `scale` None takes the ratio of the legs' lengths."""
        turn = facing(character, mapping)
        R, p = character.rest
        centre = centres(character, mapping, turn)
        own = dict(zip(source.names, source.rest))
        own |= {f"{n}Tip": tip for n, tip in source.tips.items() if f"{n}Tip" in centre}
        floor = _floor(character, mapping, centre)
        legs = _leg(centre, floor) / _leg(own, source.floor)
        scale = legs if scale is None else scale
        T_source, T_target = t_turns(_parts(dict.fromkeys(source.names)), own), t_turns(_parts(mapping.joints), centre)
        return cls(source, character, mapping, turn @ R, p @ turn.T, centre, T_source, T_target, floor, scale)

    def carried(self, part: str) -> Float[Tensor, "T 3 3"]:
        """How a part of the character is turned from its rest: as the performer's from the T-pose, after the character's own way there."""
        moved = self.source.R[:, self.source.at(part)] @ self.T_source[part].T
        return moved @ self.T_target.get(part, torch.eye(3, dtype=moved.dtype))

    def placed(self, R: Float[Tensor, "T J 3 3"], hips: Float[Tensor, "T 3"]) -> Float[Tensor, "T J 3"]:
        """Where joints are that are turned so in the world, m, with the hips at a place; what is above the hips hangs on them too."""
        up = torch.tensor([max(j, 0) for j in self.character.parents])
        bone = (R[:, up] @ self.character.offsets[None, ..., None])[..., 0]
        at: list[Tensor] = []
        for j, parent in enumerate(self.character.parents):
            at.append(at[parent] + bone[:, j] if parent >= 0 else torch.zeros_like(hips))
        p = torch.stack(at, 1)
        return p + (hips - p[:, self.mapping.joints["Hips"]])[:, None]


def _leg(centre: dict[str, Tensor], floor: float) -> float:
    """Height of straight legs with their soles, m; mean of both sides."""
    sides = []
    for s in SIDES:
        thigh, shin = (centre[s + "Leg"] - centre[s + "UpLeg"]).norm(), (centre[s + "Foot"] - centre[s + "Leg"]).norm()
        sides.append(float(thigh + shin + centre[s + "Foot"][2] - floor))
    return max(sum(sides) / 2, 1e-6)


def _floor(character: Character, mapping: Mapping, centre: dict[str, Tensor]) -> float:
    """Height of a character's soles at rest, m: its skin's lowest point about the feet, or the ground if its feet are near it."""
    feet = [mapping.joints[s + part] for s in SIDES for part in ("Foot", "ToeBase") if s + part in mapping.joints]
    below = [j for j in range(len(character)) if any(f in character.above(j) for f in feet)]
    heights = [
        m.points[rows, 2].min()
        for m in character.meshes
        if m.weights is not None and bool((rows := m.weights[:, below].sum(1) > 0.5).any())
    ]
    if heights:
        return float(torch.stack(heights).min())
    _, p = character.rest
    lowest = float(p[below, 2].min())
    size = float(centre["Hips"][2]) - lowest
    return 0.0 if 0 <= lowest < 0.15 * abs(size) else lowest - 0.02 * abs(size)

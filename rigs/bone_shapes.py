"""The parts of a person told by the tree and its rest pose alone, for characters whose names say nothing."""

from __future__ import annotations

import torch

from rigs.characters.character import Character

SIDES = ("Left", "Right")
ARM, LEG = ("Shoulder", "Arm", "ForeArm", "Hand"), ("UpLeg", "Leg", "Foot", "ToeBase")


def by_shape(character: Character) -> dict[str, int]:
    """Parts told by the tree alone: two mirrored chains that go down are legs, two that go sideways higher up are arms."""
    if not len(character):
        return {}
    _, places = character.rest
    below = [_line(character, j) for j in range(len(character))]
    for hips in range(len(character)):
        chains = [line for c in character.children[hips] if len(line := below[c]) >= 2]
        down = [line for line in chains if float(places[line[min(2, len(line) - 1)], 2] - places[hips, 2]) < 0]
        pair = _mirrored(places, down)
        up = [c for c in character.children[hips] if float(_highest(character, c, places) - places[hips, 2]) > 0]
        if pair is None or not up:
            continue
        for chest in character.below(up[0]):
            sideways = [below[c] for c in character.children[chest] if len(below[c]) >= 2]
            arms = _mirrored(places, sideways)
            if arms is not None:
                return _named(character, hips, chest, pair, arms, places)
    return {}


def _line(character: Character, joint: int) -> list[int]:
    """From a joint downwards as long as there is one child that goes on (the deepest of several)."""
    line = [joint]
    while character.children[line[-1]]:
        line.append(max(character.children[line[-1]], key=lambda c: len(character.below(c))))
    return line


def _highest(character: Character, joint: int, places: torch.Tensor) -> torch.Tensor:
    return places[character.below(joint), 2].max()


def _mirrored(places: torch.Tensor, chains: list[list[int]]) -> tuple[list[int], list[int]] | None:
    """Left and right of two chains that mirror each other in x; None where there are no such two."""
    for a in chains:
        for b in chains:
            n = min(len(a), len(b), 3)
            pa, pb = places[a[:n]], places[b[:n]].clone()
            middle = (pa[0, 0] + pb[0, 0]) / 2
            pb[:, 0] = 2 * middle - pb[:, 0]
            size = float((pa[-1] - pa[0]).norm()) + 1e-9
            if a is not b and float(pa[0, 0] - middle) > 0.02 * size and float((pa - pb).norm(dim=-1).max()) < 0.35 * size:
                return a, b
    return None


def _named(
    character: Character, hips: int, chest: int, legs: tuple[list[int], list[int]], arms: tuple[list[int], list[int]], places: torch.Tensor
) -> dict[str, int]:
    found = {"Hips": hips}
    for side, leg, arm in zip(SIDES, legs, arms):
        arm = arm[:-1] if len(arm) > 3 and character.joints[arm[-1]].lower().endswith("end") else arm
        found |= {side + part: j for part, j in zip(LEG, leg)}
        parts = ARM if len(arm) >= 4 else ARM[1:]
        found |= {side + part: j for part, j in zip(parts, arm)}
    rest = [c for c in character.children[chest] if c not in (arms[0][0], arms[1][0])]
    if rest:
        line = _line(character, max(rest, key=lambda c: float(_highest(character, c, places))))
        found["Head"] = line[min(1, len(line) - 1)] if len(line) > 2 else line[0]
    return found

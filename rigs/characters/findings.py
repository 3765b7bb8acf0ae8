"""What is odd about a character, in plain sentences that say what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

WEIGHT_SUM = 0.01
SHORT = 1e-5
"""A bone shorter than this has no direction, m."""


def of_skin(mesh: str, weights: Float[Tensor, "V J"]) -> list[str]:
    """Vertices without weights, with weights that do not sum to one, or that are negative or not finite."""
    found = []
    if wrong := int((~torch.isfinite(weights) | (weights < 0)).any(1).sum()):
        found.append(f"mesh {mesh!r}: {wrong} vertices have negative or broken skin weights; bind it again")
    total = torch.nan_to_num(weights).sum(1)
    if none := int((total <= 0).sum()):
        found.append(f"mesh {mesh!r}: {none} of {len(weights)} vertices have no skin weight and stay behind; weight them")
    if unequal := int(((total > 0) & ((total - 1).abs() > WEIGHT_SUM)).sum()):
        found.append(f"mesh {mesh!r}: skin weights of {unequal} of {len(weights)} vertices do not sum to 1; normalise them")
    return found


def of_rest(names: Sequence[str], parents: Sequence[int], places: Float[Tensor, "J 3"]) -> list[str]:
    """Joints on top of their parents, places that are not finite, and skeletons of impossible size."""
    if not len(names):
        return ["no joints: nothing here can carry a motion"]
    found = []
    broken = [n for n, p in zip(names, places) if not bool(torch.isfinite(p).all())]
    if broken:
        return [f"joint {broken[0]!r} is nowhere (not a number); export the file again"]
    beside = ("ik_", "interaction", "center_of_mass")  # Unreal's, which mark places
    flat = [n for n, p, up in zip(names, places, parents) if up >= 0 and float((p - places[up]).norm()) < SHORT]
    flat = [n for n in flat if not n.startswith(beside)]
    if flat:
        found.append(f"{len(flat)} bones have no length ({', '.join(flat[:4])}{' ...' if len(flat) > 4 else ''})")
    size = float((places.amax(0) - places.amin(0)).max())
    if not 0.2 < size < 20:
        found.append(f"the skeleton is {size:.4g} m large; check the file's unit")
    return found

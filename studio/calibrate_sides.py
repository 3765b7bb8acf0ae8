"""A network's habit of misplacing landmarks by the side it sees them from, as `studio train sides` learned it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import yaml

from calibration.people_sides import TERMS, SideBias

FOLDER = Path(__file__).parent / "detect"
TRUNK = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")


def one_sided(name: str) -> str:
    """The landmark under whose name the table keeps it: the left one of a pair."""
    return "left_" + name[6:] if name.startswith("right_") else name


def trunk_of(names: Sequence[str]) -> tuple[int, int, int, int]:
    """Where the trunk's corners are among the landmarks; a `ValueError` names one that is not."""
    if missing := [n for n in TRUNK if n not in names]:
        raise ValueError(f"people: {missing[0].replace('_', ' ')} is never seen; film the whole person")
    ls, rs, lh, rh = (list(names).index(n) for n in TRUNK)
    return ls, rs, lh, rh


@cache
def _table(network: str, folder: Path) -> dict[str, list[list[float]]]:
    file = folder / f"sides_{network}.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else {}


def habit_of(names: Sequence[str], network: str, folder: Path = FOLDER) -> SideBias | None:
    """The network's habit for these landmarks, zero for those without an entry; None where nothing is known of it."""
    table = _table(network, folder)
    if not table or not set(TRUNK) <= set(names):
        return None
    rows = torch.zeros(len(names), TERMS, 2, dtype=torch.float64)
    for k, name in enumerate(names):
        if (entry := table.get(one_sided(name))) is not None:
            rows[k] = torch.tensor(entry, dtype=torch.float64)
            if name.startswith("right_"):
                # The mirror image: terms odd in the direction to the left change sign, and so does right in the image.
                rows[k, [1, 4, 6]] *= -1
                rows[k, :, 0] *= -1
    return SideBias(trunk_of(names), rows)

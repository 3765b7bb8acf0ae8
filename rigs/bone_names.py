"""Names of joints taken apart: side, word, number, in whatever convention they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

HELPERS = frozenset((
    "ik", "fk", "ctrl", "control", "target", "pole", "twist", "roll", "end", "nub", "effector", "helper", "corrective", "corr", "socket",
    "weapon", "prop", "mch", "org", "attach", "tweak", "goal", "handle", "aim", "offset", "locator", "share", "bendy", "drv", "wgt", "vis",
    "heel", "bck", "fwd", "in", "out", "lat", "bicep", "tricep", "bulge", "half", "correctiveroot", "gun",
))  # fmt: skip
"""A joint with one of these words in its name is no part of a person but serves one."""
PLAIN = frozenset((
    "jnt", "joint", "bone", "bind", "def", "skin", "sk", "bip001", "bip01", "biped", "mixamorig", "character1", "character", "valvebiped",
    "rig", "j", "b", "c", "m", "smplhf",
))  # fmt: skip
"""Words that say nothing."""


@dataclass(frozen=True)
class Spelled:
    """A joint's name taken apart."""

    side: str
    """Left, Right or empty."""
    core: str
    """The other words, joined, without numbers at the end."""
    number: int
    """Number at the end; -1 for none."""
    helper: bool


def spelled(name: str) -> Spelled:
    """A joint's name as side, core and number, in whatever convention it is written."""
    plain = re.split(r"[:|]", name)[-1]
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", plain)
    words = [w for w in re.split(r"[^a-zA-Z0-9]+", plain.lower()) if w]
    words = [w for word in words for w in re.findall(r"(?:finger|digit)\d(?!\d)|(?:bip\d+|character1)(?=\d|$)|[a-z]+|\d+", word)]
    side = ""
    for n, word in enumerate(words):
        for chosen, spellings in (("Left", ("left", "l", "lf", "lft")), ("Right", ("right", "r", "rt", "rgt"))):
            if word in spellings or (word.startswith(chosen.lower()) and len(word) > 5):
                side, rest = chosen, word.removeprefix(chosen.lower()) if word.startswith(chosen.lower()) else ""
                words = [*words[:n], *([rest] if rest else []), *words[n + 1 :]]
                break
        if side:
            break
    digits = [w for w in words if w.isdigit()]
    kept = [w for w in words if not w.isdigit() and w not in PLAIN]
    kept = [w for w in kept if not (w == "f" and len(kept) > 1)]  # Rigify's f_index
    return Spelled(side, "".join(kept), int(digits[-1]) if digits else -1, bool(HELPERS & set(kept)))

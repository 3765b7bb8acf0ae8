"""Which joint of anybody's character is which part of a person: by names of the usual conventions, and by how the chains lie.

The parts are the studio's 55 joints (`rigs.skeleton.HUMAN`); a character may lack some and have many more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rigs.bone_names import Spelled, spelled
from rigs.bone_shapes import ARM, LEG, SIDES, by_shape
from rigs.characters.character import Character
from rigs.skeleton import HUMAN

FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
WORDS = {
    "Shoulder": "clavicle collar collarbone clav shoulder",
    "Arm": "upperarm uparm arm shldr shoulder",
    "ForeArm": "forearm lowerarm lowarm elbow",
    "Hand": "hand wrist",
    "UpLeg": "upleg upperleg thigh hip",
    "Leg": "lowerleg lowleg leg shin calf knee",
    "Foot": "ankle foot",
    "ToeBase": "toebase toe toes ball foot",
    "Eye": "eye eyeball",
}
"""Names of the joints of one side, best first; a joint takes at most one part, upper parts choose first."""
MIDDLE = {"Hips": "hips pelvis hip cog", "Head": "head", "Neck": "neck", "Jaw": "jaw"}
FINGER_WORDS = {
    "thumb": "Thumb", "index": "Index", "fore": "Index", "middle": "Middle", "mid": "Middle", "ring": "Ring", "pinky": "Pinky",
    "little": "Pinky", "finger1": "Thumb", "finger2": "Index", "finger3": "Middle", "finger4": "Ring", "finger5": "Pinky",
    "digit1": "Thumb", "digit2": "Index", "digit3": "Middle", "digit4": "Ring", "digit5": "Pinky",
}  # fmt: skip
CHAINS = (ARM, LEG)
NEEDED = ("Hips", *(s + p for s in SIDES for p in ("Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot")))
"""Parts without which no motion can be put on a character."""


@dataclass(frozen=True)
class Mapping:
    """Part of a person -> joint of a character."""

    joints: dict[str, int]
    """HUMAN name -> joint; the trunk's only at its ends."""
    spine: tuple[int, ...]
    """Joints from above the hips to the chest, in order."""
    neck: tuple[int, ...]
    """Joints from above the chest to below the head, in order."""
    convention: str
    """Whose names these are: "Mixamo", "Unreal" ...; "by shape" where no names were understood."""
    notes: tuple[str, ...] = ()
    served: dict[int, str] = field(default_factory=dict)
    """Twist joints -> the part whose twist they share."""
    copies: dict[int, int] = field(default_factory=dict)
    """Joints beside the body, for inverse kinematics in games -> the joint of the body that they follow."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts that the character lacks."""
        trunk = {n for n, chain in (("Spine", 1), ("Spine1", 2), ("Spine2", 3)) if len(self.spine) >= chain}
        trunk |= {"Neck"} if self.neck else set()
        return tuple(name for name, _ in HUMAN if name not in self.joints and name not in trunk)

    @property
    def all(self) -> frozenset[int]:
        """Joints that are some part of a person."""
        return frozenset([*self.joints.values(), *self.spine, *self.neck])


def mapped(character: Character) -> Mapping:
    """The parts of a person among a character's joints; a part that cannot be told is left out and stands in `missing`."""
    names = [spelled(n) for n in character.joints]
    found = _by_name(character, names)
    notes: list[str] = []
    convention = _convention(character)
    _from_limbs(character, names, found)
    if missing := [p for p in NEEDED if p not in found]:
        shaped = by_shape(character)
        if shaped and all(p in shaped for p in NEEDED):
            notes.append(f"names did not tell {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}; the chains' shape did")
            found, convention = shaped, "by shape"
    _in_order(character, found, notes)
    spine, neck = _trunk(character, found)
    if neck:
        found["Neck"] = neck[0]
    for j, part in zip(_spread(spine), ("Spine", "Spine1", "Spine2")):
        found[part] = j
    found |= _fingers(character, names, found)
    return Mapping(found, spine, neck, convention, tuple(notes), _twists(character, found), _copies(character))


def _by_name(character: Character, names: list[Spelled]) -> dict[str, int]:
    found: dict[str, int] = {}
    depth = _depths(character)

    def best(core: str, side: str) -> int | None:
        fits = [j for j, n in enumerate(names) if n.core == core and n.side == side and not n.helper and j not in found.values()]
        return min(fits, key=lambda j: (depth[j], names[j].number)) if fits else None

    for part, words in MIDDLE.items():
        for word in words.split():
            if part not in found and (j := best(word, "")) is not None:
                found[part] = j
    for side in SIDES:
        arms = any(best(word, side) is not None for word in ("upperarm", "uparm", "arm", "shldr"))
        ankle = best("ankle", side) is not None
        for part, words in WORDS.items():
            for word in words.split():
                unfit = (part == "Shoulder" and word == "shoulder" and not arms) or (part == "ToeBase" and word == "foot" and not ankle)
                if side + part not in found and not unfit and (j := best(word, side)) is not None:
                    found[side + part] = j
    return found


def _depths(character: Character) -> list[int]:
    depth: list[int] = []
    for up in character.parents:
        depth.append(depth[up] + 1 if up >= 0 else 0)
    return depth


def _in_order(character: Character, found: dict[str, int], notes: list[str]) -> None:
    """Take back parts that do not hang below the part before them."""
    for side in SIDES:
        for chain in CHAINS:
            before = found.get("Hips")
            for part in (side + p for p in chain):
                if part not in found:
                    continue
                if before is not None and before not in character.above(found[part]):
                    notes.append(
                        f"{character.joints[found[part]]!r} looks like {part} but does not hang below {character.joints[before]!r}"
                    )
                    del found[part]
                    continue
                before = found[part]


def _trunk(character: Character, found: dict[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spine from above the hips to where the arms branch off, neck from there to below the head."""
    tops = [found[p] for p in ("LeftArm", "RightArm", "Head") if p in found]
    if "Hips" not in found or not tops:
        return (), ()
    lines = [character.above(j)[1:] for j in tops[:2]]
    chest = next((j for j in lines[0] if all(j in line for line in lines)), found["Hips"])
    if found["Hips"] not in character.above(chest):
        return (), ()
    up = character.above(chest)
    spine = tuple(reversed(up[: up.index(found["Hips"])]))
    line = character.above(found["Head"])[1:] if "Head" in found else []
    neck = tuple(reversed(line[: line.index(chest)])) if chest in line else ()
    if not spine and neck:  # arms that branch off at the neck's foot
        return neck[:-1], neck[-1:]
    return spine, neck


def _spread(spine: tuple[int, ...]) -> tuple[int, ...]:
    """Three joints of a spine (or all of a shorter one): the first, one in the middle, the last."""
    return spine if len(spine) <= 3 else (spine[0], spine[len(spine) // 2], spine[-1])


def _fingers(character: Character, names: list[Spelled], found: dict[str, int]) -> dict[str, int]:
    fingers: dict[str, int] = {}
    depth = _depths(character)
    for side in (s for s in SIDES if f"{s}Hand" in found):
        below = [j for j in range(len(character)) if found[f"{side}Hand"] in character.above(j)[1:] and not names[j].helper]
        groups: dict[str, list[int]] = {}
        for j in below:
            word = next((w for w in FINGER_WORDS if w in names[j].core), None)
            if word is not None and "palm" not in names[j].core and "meta" not in names[j].core:
                groups.setdefault(FINGER_WORDS[word], []).append(j)
            elif word == "thumb" or (word and FINGER_WORDS[word] == "Thumb"):
                groups.setdefault("Thumb", []).append(j)
        for finger, joints in groups.items():
            chain = sorted(joints, key=lambda j: depth[j])
            if len(chain) > 3 and names[chain[0]].number == 0:
                chain = chain[1:]
            if len(chain) == 3 and not character.children[chain[-1]] and finger == "Thumb" and names[chain[-1]].core.endswith("tip"):
                chain = chain[:2]
            fingers |= {f"{side}Hand{finger}{n + 1}": j for n, j in enumerate(chain[:3])}
    return fingers


def _twists(character: Character, found: dict[str, int]) -> dict[int, str]:
    """Joints that share the twist of an upper or lower arm, thigh or shin."""
    limbs = {found[s + p]: s + p for s in SIDES for p in ("Arm", "ForeArm", "UpLeg", "Leg") if s + p in found}
    told = re.compile(r"twist|roll", re.IGNORECASE)
    return {j: limbs[up] for j, up in enumerate(character.parents) if up in limbs and told.search(character.joints[j])}


def _copies(character: Character) -> dict[int, int]:
    """Unreal's joints for inverse kinematics: `ik_hand_l` follows `hand_l`, `ik_hand_gun` the right hand."""
    where = {name: j for j, name in enumerate(character.joints)}
    pairs = {name: name.removeprefix("ik_") for name in where if name.startswith("ik_")} | {"ik_hand_gun": "hand_r"}
    return {where[name]: where[target] for name, target in pairs.items() if name in where and target in where}


def _from_limbs(character: Character, names: list[Spelled], found: dict[str, int]) -> None:
    """Hips and head without a telling name (Rigify calls both "spine"): where the legs meet, and the end of the line above the arms."""

    def meet(a: str, b: str) -> int | None:
        if a not in found or b not in found:
            return None
        line = character.above(found[b])[1:]
        return next((j for j in character.above(found[a])[1:] if j in line), None)

    if "Hips" not in found and (hips := meet("LeftUpLeg", "RightUpLeg")) is not None:
        found["Hips"] = hips
    chest = meet("LeftArm", "RightArm")
    if "Head" not in found and chest is not None:
        at = chest
        while up := [c for c in character.children[at] if not names[c].side and not names[c].helper]:
            at = max(up, key=lambda c: len(character.below(c)))
        if at != chest:
            found["Head"] = at


def _convention(character: Character) -> str:
    names, joined = set(character.joints), " ".join(character.joints)
    if "mixamorig" in joined:
        return "Mixamo"
    if {"pelvis", "spine_01", "clavicle_l", "upperarm_l"} <= names:
        return "Unreal"
    if {"left_collar", "left_elbow"} <= names:
        return "SMPL"
    if any(n in names for n in ("upper_arm.L", "DEF-upper_arm.L", "upper_arm_L")):
        return "Rigify"
    plain = {re.split(r"[:|]", n)[-1].removeprefix("Character1_") for n in names}
    if {"LeftThigh", "LeftShin"} <= plain:
        return "Rokoko"
    if {"Hips", "LeftUpLeg", "LeftForeArm"} <= plain:
        return "HumanIK"
    return "generic"

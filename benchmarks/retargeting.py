"""How well performances fit other skeletons: scripted motions of the default body on all presets and on characters of other tools.

    python benchmarks/retargeting.py [FILE.fbx ...] [--json benchmarks/retargeting.json]

Without files: two characters of Maya's among the data beside the repository, where they are. Per character and motion: greatest level
step of a heel or ball between two frames of contact; greatest distance of a hand from where it was relative to the shoulders, scaled, and
with `hands="world"` from where it was in the scaled room, beyond what the arm is too short by; greatest rotation of a part of the body in
one frame, relative to the performer's greatest; time. Ends with 1 where a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import characters, makehuman, rotation
from rigs.alignment import PARENT, Aligned
from rigs.bones import SIDES, Mapping, mapped
from rigs.characters import Character, Clip, preset
from rigs.performed import Performed
from rigs.retarget import Options, retarget
from studio.fit.contact import planted, probability
from studio.virtual.motion import scripted

MOTIONS, FRAMES, FPS, SEED = ("walk", "squat", "lunge", "kick", "reach", "hands", "mixed"), 150, 30.0, 3
DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAMPLES = ("maya_character_7500_binary.fbx", "maya_kenney_character_7700_binary.fbx")


@dataclass(frozen=True)
class Row:
    """One character in one motion."""

    character: str
    motion: str
    skate_mm: float
    hands_mm: float
    world_mm: float
    short_mm: float
    """How far the goals of `hands="world"` lie beyond the arms; told, not judged."""
    jump: float
    ms_frame: float


GATES = {"skate_mm": 4.0, "hands_mm": 20.0, "world_mm": 20.0, "jump": 1.5}


def performance(motion: str) -> Performed:
    """A scripted motion with contacts as the fit tells them."""
    body = makehuman.load()
    shaped, done = body.shaped(torch.zeros(len(body.shape_names))), scripted(body, FRAMES, FPS, SEED, motion)
    free = Performed.of(motion, shaped, done.rotation, done.translation, torch.zeros(FRAMES, 4), FPS)
    where = {name: free.at(name) for s in SIDES for name in (f"{s}Foot", f"{s}ToeBase")}
    points = soles(where, free.R, free.p, free.rest, free.floor)
    return replace(free, contacts=planted(probability(points, FPS), FPS).double())


def soles(where: dict[str, int], R: Tensor, p: Tensor, rest: Tensor, floor: float) -> Float[Tensor, "T 4 3"]:
    """Heel and ball of both feet, fixed to the foot: on the floor at rest, behind the ankle and below the toe joint; m."""
    found = []
    for side in SIDES:
        ankle, toe = where[f"{side}Foot"], where[f"{side}ToeBase"]
        for part in (-0.3, 1.0):
            point = torch.lerp(rest[ankle], rest[toe], part)
            away = torch.tensor([*point[:2], floor]).double() - rest[ankle]
            found.append(p[:, ankle] + (R[:, ankle] @ away[:, None])[..., 0])
    return torch.stack(found, 1)


def skate(source: Performed, character: Character, mapping: Mapping, clip: Clip) -> float:
    """Greatest level step of a sole's point between two frames of its contact, m."""
    R, p = character.world(clip)
    R_rest, p_rest = character.rest
    touching = source.contacts > 0.5
    both = touching[1:] & touching[:-1]
    points = soles(mapping.joints, R @ R_rest.mT, p, p_rest, 0.0)[..., :2]
    steps = (points[1:] - points[:-1]).norm(dim=-1)[both]
    return float(steps.max()) if len(steps) else 0.0


def arms(rest: Float[Tensor, "J 3"], at: dict[str, int]) -> float:
    """From the middle of the shoulders to a stretched hand, m."""
    reach = sum(float((rest[at[s + a]] - rest[at[s + b]]).norm()) for s in SIDES for a, b in (("Arm", "ForeArm"), ("ForeArm", "Hand")))
    return (reach + float((rest[at["LeftArm"]] - rest[at["RightArm"]]).norm())) / 2


def hands(source: Performed, character: Character, mapping: Mapping, clip: Clip) -> float:
    """Greatest distance of a hand from the performer's relative to the middle of the shoulders, times the ratio of the arms; m."""
    _, p = character.world(clip)
    size = arms(character.rest[1], mapping.joints) / arms(source.rest, {n: j for j, n in enumerate(source.names)})
    middle, theirs = p[:, [mapping.joints[f"{s}Arm"] for s in SIDES]].mean(1), source.p[:, [source.at(f"{s}Arm") for s in SIDES]].mean(1)
    wanted = [middle + size * (source.p[:, source.at(f"{s}Hand")] - theirs) for s in SIDES]
    return max(float((p[:, mapping.joints[f"{s}Hand"]] - w).norm(dim=-1).max()) for s, w in zip(SIDES, wanted))


def in_the_room(source: Performed, character: Character, mapping: Mapping, clip: Clip, scale: float) -> tuple[float, float]:
    """Greatest distance of a hand from the performer's in the scaled room beyond what its arm lacks, and the most an arm lacks; m."""
    _, p = character.world(clip)
    start, off, lacking = source.p[:1, source.at("Hips")] * torch.tensor([1.0, 1, 0]).double(), [], []
    for s in SIDES:
        a, b, c = (mapping.joints[s + part] for part in ("Arm", "ForeArm", "Hand"))
        wanted = start + scale * (source.p[:, source.at(f"{s}Hand")] - start)
        length = (p[0, a] - p[0, b]).norm() + (p[0, b] - p[0, c]).norm()
        short = ((wanted - p[:, a]).norm(dim=-1) - length).clamp_min(0)
        off.append(float(((p[:, c] - wanted).norm(dim=-1) - short).max()))
        lacking.append(float(short.max()))
    return max(off), max(lacking)


def turning(R: Float[Tensor, "T J 3 3"]) -> float:
    """Greatest rotation from one frame to the next, rad."""
    return float(rotation.geodesic(R[1:], R[:-1]).max())


def own_turning(source: Performed) -> float:
    """The performer's greatest rotation of a part against the part above it in one frame, rad."""
    up = [source.at(above) if (above := PARENT[name]) else None for name in source.names]
    return turning(torch.stack([source.R[:, j] if u is None else source.R[:, u].mT @ source.R[:, j] for j, u in enumerate(up)], 1))


def measured(source: Performed, character: Character) -> Row:
    """One row of the table."""
    mapping, begin = mapped(character), time.perf_counter()
    facing = replace(character, **turned_to_front(source, character, mapping))
    clip, _ = retarget(source, facing, mapping)
    spent = 1000 * (time.perf_counter() - begin) / FRAMES
    far, fit = retarget(source, facing, mapping, Options(hands="world"))
    world, short = in_the_room(source, facing, mapping, far, fit.scale)
    jump = turning(clip.R_parent_joint[:, sorted(mapping.all)]) / own_turning(source)
    slide, hand = skate(source, facing, mapping, clip), hands(source, facing, mapping, clip)
    slide, hand, world, short = (round(1000 * v, 2) for v in (slide, hand, world, short))
    return Row(character.name, source.name, slide, hand, world, short, round(jump, 2), round(spent, 2))


def turned_to_front(source: Performed, character: Character, mapping: Mapping) -> dict[str, Tensor]:
    """Rest rotations and offsets of the character facing as the performer does, for characters are turned so before they are moved."""
    scene = Aligned.of(source, character, mapping)
    top = torch.tensor([up < 0 for up in character.parents])
    R = torch.where(top[:, None, None], scene.R_rest, character.R_parent_rest)
    return {"R_parent_rest": R, "offsets": torch.where(top[:, None], scene.p_rest, character.offsets)}


def main() -> int:
    """Print the table; 1 where a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    body = makehuman.load()
    shaped = body.shaped(torch.zeros(len(body.shape_names)))
    files = arguments.files or [DATA / "fbx_samples" / name for name in SAMPLES if (DATA / "fbx_samples" / name).is_file()]
    found = [preset.named(name, shaped, mesh=False) for name in preset.names()] + [characters.read(file) for file in files]
    names = [field.name for field in fields(Row)]
    print(f"{names[0]:<34} {names[1]:<7} " + " ".join(f"{name:>9}" for name in names[2:]))
    rows, missed = [], 0
    for motion in MOTIONS:
        source = performance(motion)
        for character in found:
            rows.append(row := measured(source, character))
            over = [name for name, limit in GATES.items() if getattr(row, name) > limit]
            missed += bool(over)
            numbers = " ".join(f"{getattr(row, name):9.2f}" for name in names[2:])
            print(f"{row.character:<34} {row.motion:<7} {numbers}  {'over: ' + ', '.join(over) if over else ''}".rstrip(), flush=True)
    most = {name: max(getattr(row, name) for row in rows) for name in names[2:-1]}
    print(f"{len(rows)} rows, {missed} miss a gate of {GATES}; greatest {most}")
    if arguments.json:
        lines = ",\n  ".join(json.dumps(asdict(row)) for row in rows)
        arguments.json.write_text(f'{{"gates": {json.dumps(GATES)}, "greatest": {json.dumps(most)}, "rows": [\n  {lines}\n]}}\n')
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

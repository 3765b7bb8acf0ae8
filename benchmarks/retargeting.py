"""How well performances fit other skeletons: scripted motions of the default body on presets and on the files given.

    python benchmarks/retargeting.py [FILE.fbx ...]

Per character and motion: greatest level step of a heel or ball between two frames of contact; greatest distance of a hand from where it was
relative to the shoulders, scaled; greatest rotation of a part of the body in one frame, relative to the performer's greatest; time.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from rigs import characters, makehuman, rotation
from rigs.alignment import PARENT
from rigs.bones import SIDES, Mapping, mapped
from rigs.characters import Character, Clip, preset
from rigs.performed import Performed
from rigs.retarget import Fit, retarget
from studio.fit.contact import planted, probability
from studio.virtual.motion import scripted

MOTIONS, FRAMES, FPS, SEED = ("walk", "squat", "lunge", "kick", "reach", "hands", "mixed"), 150, 30.0, 3
PRESETS = ("ue5_manny", "mixamo")


def performance(motion: str) -> Performed:
    """A scripted motion with contacts as the fit tells them."""
    body = makehuman.load()
    shaped, done = body.shaped(torch.zeros(len(body.shape_names))), scripted(body, FRAMES, FPS, SEED, motion)
    free = Performed.of(motion, shaped, done.rotation, done.translation, torch.zeros(FRAMES, 4), FPS)
    where = {name: free.at(name) for s in SIDES for name in (f"{s}Foot", f"{s}ToeBase")}
    points = soles(where, free.R, free.p, free.rest, free.floor)
    return replace(free, contacts=planted(probability(points, FPS), FPS).double())


def soles(where: dict[str, int], R: torch.Tensor, p: torch.Tensor, rest: torch.Tensor, floor: float) -> torch.Tensor:
    """Heel and ball of both feet (T, 4, 3), fixed to the foot: on the floor at rest, behind the ankle and below the toe joint."""
    found = []
    for side in SIDES:
        ankle, toe = where[f"{side}Foot"], where[f"{side}ToeBase"]
        for part in (-0.3, 1.0):
            point = torch.lerp(rest[ankle], rest[toe], part)
            away = torch.tensor([*point[:2], floor]).double() - rest[ankle]
            found.append(p[:, ankle] + (R[:, ankle] @ away[:, None])[..., 0])
    return torch.stack(found, 1)


def errors(source: Performed, character: Character, mapping: Mapping, clip: Clip, fit: Fit) -> tuple[float, float, float]:
    """Skating (m), hands (m), jumps (relative)."""
    R, p = character.world(clip)
    R_rest, p_rest = character.rest
    touching = source.contacts > 0.5
    both = touching[1:] & touching[:-1]
    points = soles(mapping.joints, R @ R_rest.mT, p, p_rest, 0.0)[..., :2]
    steps = (points[1:] - points[:-1]).norm(dim=-1)[both]
    parents = [source.at(up) if (up := PARENT[name]) else None for name in source.names]
    own = torch.stack([source.R[:, j] if up is None else source.R[:, up].mT @ source.R[:, j] for j, up in enumerate(parents)], 1)
    jumps = [float(rotation.geodesic(x[1:], x[:-1]).max()) for x in (clip.R_parent_joint[:, sorted(mapping.all)], own)]
    hands = max(fit.reached[f"{s}Hand"] for s in SIDES)
    return float(steps.max()) if len(steps) else 0.0, hands, jumps[0] / jumps[1]


def main(files: list[str]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    body = makehuman.load()
    shaped = body.shaped(torch.zeros(len(body.shape_names)))
    found = [preset.named(name, shaped, mesh=False) for name in PRESETS] + [characters.read(Path(f)) for f in files]
    print(f"{'character':<36} {'motion':<8} {'skate mm':>9} {'hands mm':>9} {'jump':>6} {'ms/frame':>9}")
    for motion in MOTIONS:
        source = performance(motion)
        for character in found:
            mapping, begin = mapped(character), time.perf_counter()
            clip, fit = retarget(source, character, mapping)
            spent = 1000 * (time.perf_counter() - begin) / FRAMES
            skate, hand, jump = errors(source, character, mapping, clip, fit)
            print(f"{character.name:<36} {motion:<8} {1000 * skate:9.2f} {1000 * hand:9.2f} {jump:6.2f} {spent:9.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What is in anyone's character file, told for people: skeleton, rest pose, conventions, clips, skins, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from rigs import characters
from rigs.alignment import rest_name
from rigs.bones import NEEDED, Mapping, mapped
from rigs.characters import Character, Clip, Mesh
from rigs.skeleton import HUMAN

WIDTH = 34
"""Characters for a joint's name in the tree."""
STILL = 1e-3
"""A joint that never comes farther than this from its first place does not move, m."""
SHOWN = 40
"""Morph names that are told at most."""


def report(path: Path, tree: bool = True) -> list[str]:
    """Lines that say what is in a file; a `ValueError` or `FileNotFoundError` where it cannot be read."""
    character = characters.read(path)
    mapping = mapped(character)
    lines = [*_facts(character, mapping), *_clips(character, mapping), *_meshes(character), *_parts(mapping)]
    odd = problems(character, mapping)
    lines += ["", "problems:" if odd else "no problems", *(f"  - {text}" for text in odd)]
    if tree and len(character):
        lines += ["", "skeleton (position at rest in m, world z up; * is part of a person):", *_tree(character, mapping)]
    return lines


def problems(character: Character, mapping: Mapping) -> list[str]:
    """What is wrong with a character, in plain sentences: of its file, and of its use for a performance."""
    found = list(character.problems)
    lost = [p for p in NEEDED if p not in mapping.joints]
    if len(character) and lost:
        found.append(f"no {', '.join(lost[:6])}{' ...' if len(lost) > 6 else ''} was found: a performance cannot be put on it")
    if len(character) and not lost and rest_name(character, mapping) not in ("T", "A"):
        found.append(f"the rest pose has {rest_name(character, mapping)}: bind the character in a T- or A-pose")
    for clip in character.clips:
        if not bool(torch.isfinite(clip.R_parent_joint).all() & torch.isfinite(clip.position).all()):
            found.append(f"clip {clip.name!r} holds values that are not numbers; export it again")
    return found


def _facts(character: Character, mapping: Mapping) -> Iterator[str]:
    source, tops = character.source, [n for n, up in zip(character.joints, character.parents) if up < 0]
    yield f"{source.path}: {source.format}" + (f", written by {source.creator}" if source.creator else "")
    rate = f", {source.fps:.6g} frames a second" if source.fps else ""
    yield f"axes: {source.up} up, {source.front} front; unit {_unit(source.unit)}{rate}"
    if not len(character):
        return
    _, places = character.rest
    low, high = places.amin(0), places.amax(0)
    size = " x ".join(f"{float(v):.2f}" for v in high - low)
    yield f"skeleton: {len(character)} joints below {', '.join(tops[:4])}{' ...' if len(tops) > 4 else ''}; {size} m (wide, deep, high)"
    yield f"rest pose: {rest_name(character, mapping)}; names: {mapping.convention}"


def _unit(metres: float) -> str:
    named = {1.0: "m", 0.01: "cm", 0.001: "mm", 0.0254: "inch", 0.3048: "foot"}
    return next((name for size, name in named.items() if abs(size - metres) < 1e-9), f"{metres:g} m")


def _clips(character: Character, mapping: Mapping) -> Iterator[str]:
    yield f"clips: {len(character.clips)}"
    for clip in character.clips:
        start = f" from {clip.timecode}" if clip.timecode else ""
        length = f"{clip.frames} frames, {clip.seconds:.2f} s at {clip.fps:.6g} frames a second"
        yield f"  {clip.name}: {length}{start}{_moves(character, mapping, clip)}"


def _moves(character: Character, mapping: Mapping, clip: Clip) -> str:
    if not len(character) or clip.frames < 2:
        return ""
    _, p = character.world(clip)
    top = mapping.joints.get("Hips", 0)
    low, high = p[:, top].amin(0), p[:, top].amax(0)
    moving = int(((p - p[:1]).norm(dim=-1).amax(0) > STILL).sum())
    span = " x ".join(f"{float(v):.2f}" for v in high - low)
    return f"; {moving} of {len(character)} joints move, {character.joints[top]} through {span} m"


def _meshes(character: Character) -> Iterator[str]:
    skinned = [m for m in character.meshes if m.weights is not None]
    yield f"meshes: {len(character.meshes)}, {len(skinned)} skinned"
    for mesh in skinned:
        yield f"  {mesh.name}: {len(mesh.points)} vertices, {len(mesh.triangles)} triangles, {_influence(mesh)}"
    if morphs := character.morphs:
        told = ", ".join(morphs[:SHOWN]) + (" ..." if len(morphs) > SHOWN else "")
        yield f"morphs: {len(morphs)}: {told}"


def _influence(mesh: Mesh) -> str:
    assert mesh.weights is not None
    moved = mesh.weights > 0
    return f"{int(moved.any(0).sum())} joints, at most {int(moved.sum(1).max()) if len(moved) else 0} to a vertex"


def _parts(mapping: Mapping) -> Iterator[str]:
    found = len(HUMAN) - len(mapping.missing)
    yield f"parts of a person: {found} of {len(HUMAN)}; spine of {len(mapping.spine)}, neck of {len(mapping.neck)}"
    if mapping.missing:
        yield f"  without {', '.join(_short(mapping.missing))}"
    yield from (f"  {note}" for note in mapping.notes)


def _short(missing: tuple[str, ...]) -> list[str]:
    """Names of what is missing, whole fingers by their name alone."""
    fingers = {n[:-1] for n in missing if "Hand" in n and all(f"{n[:-1]}{i}" in missing for i in (1, 2, 3))}
    return list(dict.fromkeys(n[:-1] if n[:-1] in fingers else n for n in missing))


def _tree(character: Character, mapping: Mapping) -> Iterator[str]:
    _, places = character.rest
    part = {j: name for name, j in mapping.joints.items()}
    depth: list[int] = []
    for j, up in enumerate(character.parents):
        depth.append(depth[up] + 1 if up >= 0 else 0)
        name = "  " * depth[j] + character.joints[j]
        where = " ".join(f"{float(v):7.3f}" for v in places[j])
        star = f"* {part.get(j, 'spine' if j in mapping.spine else 'neck')}" if j in mapping.all else ""
        yield f"  {name:<{WIDTH}} {where}  {star}".rstrip()

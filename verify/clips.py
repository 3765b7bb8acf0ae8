"""The clips that `verify/export.py` writes: everything that is known to break animation files, and how each is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from export_scene import motion, person  # tests/, put on the path by verify/export.py

from rigs import characters, makehuman, rotation
from rigs.body import Body
from rigs.characters import Clip
from rigs.characters.character import forward, relative
from studio.export import bvh, character_bvh, character_fbx, character_glb, fbx, glb, usd
from studio.export.animation import Character
from studio.export.mesh import surface
from studio.export.root import BONES
from studio.values import Motion

RATES = (24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60, 100, 120, 37.5)
FBX = ("fbx", "fbx-cpp", "fbx-system", "ufbx")
"""Readers of FBX: Blender's older and newer importer, the older one in a Blender that the system has, and the library ufbx."""
ALL = (*FBX, "bvh", "glb", "usd")
PLAIN = fbx.Options()
Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
"""From a file's axes (y up, facing +z) to the studio's."""


@dataclass(frozen=True)
class Case:
    """One clip: what is played, and how it is written."""

    title: str
    body: Body
    motions: tuple[Motion, ...]
    readers: tuple[str, ...]
    clip: str = "take"
    rest: Any = "t"
    rebound: bool = False
    root: Any = "hips"
    options: fbx.Options = PLAIN
    turned: bool = False
    """Every joint's frame is turned at random against the world."""
    lone: bool = False
    """The top bone has the hips for its only child."""
    own: bool = False
    """The clip replaces the animation of a file that was there before."""
    control: bool = False
    """Writes something else than it says, so that the comparison must find it off."""


def cases(quick: bool) -> Iterator[Case]:
    """The matrix."""
    stick = person()
    plain = motion(stick)
    yield Case("720 degrees, gimbal lock, T-pose, skin as modelled", stick, (plain,), ALL)
    yield Case("the same, skin bound in the T-pose", stick, (plain,), ALL, rebound=True)
    yield Case("the same, A-pose", stick, (plain,), ALL, rest="a")
    files = (*FBX, "bvh", "glb")
    yield Case("joints turned at random", stick, (plain,), files, rebound=True, turned=True)
    yield Case("joints turned at random, root bone", stick, (plain,), files, rebound=True, turned=True, root="floor")
    yield Case("joints turned at random, into a file that was there", stick, (plain,), (*FBX, "glb"), rebound=True, turned=True, own=True)
    yield Case("root bone on the floor, its one child that moves", stick, (plain,), ALL, root="floor", rebound=True)
    lone = Case("root bone with one child", stick, (plain,), (*FBX, "glb"), rebound=True, root="floor", lone=True)
    yield from (lone, replace(lone, title="root bone with one child, joints turned at random", turned=True))
    late = fbx.Options(timeline="timecode")
    yield Case("timecode 01:00:00:00 at 24", stick, (replace(plain, fps=24.0, first_frame=0),), (*FBX, "usd"), options=late)
    yield Case("control: rotations 0.1 % too large", stick, (plain,), ALL, control=True)
    yield Case("control: joints turned, rotations 0.1 % too large", stick, (plain,), files, rebound=True, turned=True, control=True)
    yield Case("FBX 7.5", stick, (plain,), FBX, options=fbx.Options("7.5"))
    yield Case("contacts and sigmas as properties", stick, (plain,), FBX, options=fbx.Options(measures=True))
    second = replace(motion(stick, seed=8), actor="Zoë 李", translation=plain.translation + 1.5)
    yield Case("two characters, names of all scripts", stick, (plain, second), (*FBX, "glb", "usd"), clip="Übung_走る")
    yield Case("one frame", stick, (plain.cut(slice(7, 8)),), ALL, rebound=True)
    for fps in RATES:
        yield Case(f"{fps:.6g} frames a second", stick, (replace(plain.cut(slice(0, 20)), fps=float(fps)),), ALL)
    yield human("the default body, 52 face shapes, skin as modelled", False)
    yield human("the default body, 52 face shapes, T-pose skin", True)
    if not quick:
        yield Case("20,001 frames, every one compared", stick, (motion(stick, frames=20001),), ALL, rebound=True)


def human(title: str, rebound: bool) -> Case:
    """The default body with a person's shape and every face shape moving."""
    body, g = makehuman.load(), torch.Generator().manual_seed(3)
    faces = 0.5 * torch.rand(6, len(body.expression_names), generator=g).double()
    moved = replace(motion(body, frames=6), expression=faces, shape=0.7 * torch.randn(len(body.shape_names), generator=g))
    return Case(title, body, (replace(moved, fps=30.0),), (*FBX, "glb", "usd"), rebound=rebound)


WRITERS: dict[str, Callable[[Path, list[Character], Case], Path]] = {
    "fbx": lambda path, actors, case: fbx.write(path, actors, case.clip, case.options),
    "bvh": lambda path, actors, case: bvh.write(path, actors[0]),
    "glb": lambda path, actors, case: glb.write(path, actors, case.clip),
    "usdc": lambda path, actors, case: usd.write(path, actors, case.clip, actors[0].start if case.options.timeline == "timecode" else 0),
}
"""Ending -> writer of the studio's own skeleton."""


def written(path: Path, actors: list[Character], case: Case) -> Path:
    """A case as one file."""
    if not (case.turned or case.lone):
        return WRITERS[path.suffix[1:]](path, actors, case)
    hero, clip = turned(actors[0], case.clip, 3.0 if case.turned else 0.0)
    if case.lone:
        hero, clip = without(hero, clip, BONES[1])
    faces = dict(zip(hero.morphs, actors[0].expression.T))
    if path.suffix == ".bvh":
        return character_bvh.write(path, hero, clip, hero.index("Hips"))
    write = character_fbx.write if path.suffix == ".fbx" else character_glb.write
    if case.own:
        still = Clip("old", 30.0, hero.R_parent_rest[None], hero.offsets[None])
        before = write(path.with_stem(f"{path.stem}_before"), hero, still)
        again = characters.read(before)
        order = [hero.index(name) for name in again.joints]
        hero, clip = again, replace(clip, R_parent_joint=clip.R_parent_joint[:, order], position=clip.position[:, order])
    return write(path, hero, clip, faces)


def without(hero: characters.Character, clip: Clip, name: str) -> tuple[characters.Character, Clip]:
    """The same without a joint that has no children and no skin."""
    gone = hero.index(name)
    kept = [j for j in range(len(hero)) if j != gone]
    fewer = replace(
        hero,
        joints=tuple(hero.joints[j] for j in kept),
        parents=tuple(up - (up > gone) for up in (hero.parents[j] for j in kept)),
        R_parent_rest=hero.R_parent_rest[kept],
        offsets=hero.offsets[kept],
        meshes=tuple(replace(m, weights=None if m.weights is None else m.weights[:, kept]) for m in hero.meshes),
    )
    return fewer, replace(clip, R_parent_joint=clip.R_parent_joint[:, kept], position=clip.position[:, kept])


def turned(shown: Character, name: str, spread: float) -> tuple[characters.Character, Clip]:
    """The same skeleton, skin and movement with every joint's frame at rest turned at random (sigma in rad): nothing moves otherwise."""
    g = torch.Generator().manual_seed(11)
    parents, frames = shown.skeleton.parents, len(shown.root)
    places = shown.offsets.repeat(frames, 1, 1)
    for j, place in shown.places.items():
        places[:, j] = place
    R, p = forward(parents, shown.R_parent_joint, places)
    Q = rotation.exp(spread * torch.randn(len(parents), 3, generator=g).double())
    rest, offsets = relative(parents, Q, shown.rest @ Y_UP.T)
    local, position = relative(parents, Y_UP @ R @ Y_UP.T @ Q, p @ Y_UP.T)
    bound = surface(shown, split=False)
    weights = torch.zeros(len(bound.points), len(parents)).double().scatter_add_(1, bound.influences, bound.weights.double())
    names, shapes = shown.shaped.body.expression_names, bound.expressions @ Y_UP.T
    skin = characters.Mesh("skin", bound.points @ Y_UP.T, bound.triangles, weights, names, shapes)
    hero = characters.Character(
        "hero", shown.skeleton.names, parents, rest, offsets, characters.Source("", "turned"), meshes=(skin,)
    )  # fmt: skip
    return hero, Clip(name, shown.fps, local, position)

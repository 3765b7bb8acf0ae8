"""Characters that come as names and a tree alone (`rigs/presets/characters/*.yaml`), made to a person's measure.

A preset gives each joint a parent and a place: a part of the body (`Hand`), a point between two (`Hand, HandIndex1, 0.4`), where a bone
ends (`HeadTip`), or the `floor` below the hips. `<s>` in a name stands for both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from rigs.body import Shaped
from rigs.characters.character import Character, Mesh, Source, relative
from rigs.rest import t_turns, tips

FOLDER = Path(__file__).parents[1] / "presets" / "characters"
AXES = {"x": 0, "y": 1, "z": 2}
TIP = 0.5
"""A joint that nothing hangs below points on as its parent does; a tip that the body does not tell lies half its bone further."""


def names() -> tuple[str, ...]:
    """Presets there are."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.yaml")))


def named(preset: str, shaped: Shaped, mesh: bool = True) -> Character:
    """A preset's character with a person's proportions and skin; a `ValueError` lists the presets where there is none of that name."""
    if preset not in names():
        raise ValueError(f"no preset {preset!r}; there are {', '.join(names())}; your own character is given as a file")
    facts = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text())
    listed = _listed(facts)
    R, p, centre = _posed(shaped, facts["rest"])
    places = torch.stack([_place(entry, centre) for entry in listed.values()])
    joints = tuple(listed)
    parents = tuple(-1 if entry[0] is None else joints.index(entry[0]) for entry in listed.values())
    frames = _frames(facts["frames"], joints, parents, places)
    return Character(
        preset,
        joints,
        parents,
        *relative(parents, frames, places),
        source=Source("", f"preset {preset}", "", "y", "z", 0.01, torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).double()),
        meshes=(_mesh(shaped, R, p, listed, joints),) if mesh else (),
    )


def _listed(facts: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Joint -> parent, part, and for points between two parts the other part and the fraction; both sides spelled out."""
    found: dict[str, tuple[Any, ...]] = {}
    middle = {"Hips", "Spine", "Spine1", "Spine2", "Neck", "Head", "HeadTip", "Jaw", "floor", "RightHand"}
    for name, (parent, *where) in facts["joints"].items():
        for side, short in facts["sides"].items() if "<s>" in name else [("", "")]:
            parts = [w if not isinstance(w, str) or w in middle else side + w for w in where]
            found[name.replace("<s>", short)] = (parent and parent.replace("<s>", short), *parts)
    return found


def _posed(shaped: Shaped, rest: str) -> tuple[Float[Tensor, "J 3 3"], Float[Tensor, "J 3"], dict[str, Float[Tensor, "3"]]]:
    """World rotations and places of the body in a rest pose, soles on the floor, and every part and tip by name."""
    skeleton, joints = shaped.body.skeleton, shaped.joints.double()
    ends = {n: p.double() for n, p in tips(shaped).items()}
    head = shaped.rest()[shaped.body.skin.weights.argmax(-1) == skeleton.index("Head")].double()
    ends["Head"] = torch.stack([*joints[skeleton.index("Head"), :2], head[:, 2].max()]) if len(head) else joints[skeleton.index("Head")]
    parts = [(name, skeleton.names[p] if p >= 0 else None) for name, p in zip(skeleton.names, skeleton.parents)]
    centre = dict(zip(skeleton.names, joints)) | {f"{n}Tip": p for n, p in ends.items() if n != "Head"}
    turns = t_turns(parts, centre) if rest == "t" else {}
    R = torch.stack([turns.get(name, torch.eye(3, dtype=torch.float64)) for name in skeleton.names])
    above = torch.stack([R[p] if p >= 0 else torch.eye(3, dtype=torch.float64) for p in skeleton.parents])
    R, p = skeleton.forward(above.mT @ R, joints, joints[0])
    low = _skinned(shaped, R, p)[:, 2].min()
    p = p - torch.tensor([0.0, 0.0, float(low)], dtype=p.dtype)
    found = dict(zip(skeleton.names, p))
    found |= {f"{n}Tip": p[j] + R[j] @ (ends[n] - joints[j]) for n in ends for j in [skeleton.index(n)]}
    return R, p, found | {"floor": torch.zeros(3, dtype=p.dtype)}


def _skinned(shaped: Shaped, R: Float[Tensor, "J 3 3"], p: Float[Tensor, "J 3"]) -> Float[Tensor, "V 3"]:
    joints, weights = shaped.joints.double(), shaped.body.skin.weights.double()
    affine = torch.cat([R, (p - (R @ joints[..., None])[..., 0])[..., None]], -1).flatten(1)
    blended = (weights @ affine).unflatten(1, (3, 4))
    return (blended[..., :3] @ shaped.rest().double()[..., None])[..., 0] + blended[..., 3]


def _place(entry: tuple[Any, ...], centre: Mapping[str, Float[Tensor, "3"]]) -> Float[Tensor, "3"]:
    if len(entry) == 2:
        return centre[entry[1]]
    return torch.lerp(centre[entry[1]], centre[entry[2]], float(entry[3]))


def _frames(facts: Mapping[str, Any], joints: tuple[str, ...], parents: tuple[int, ...], places: Float[Tensor, "J 3"]) -> Tensor:
    """World rotation of every joint: its `along` axis on its bone, its `second` axis to the front (forward of the arms: up)."""
    R = torch.eye(3, dtype=places.dtype).repeat(len(joints), 1, 1)
    upright = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=places.dtype)
    if facts["along"] == "none":
        return upright.expand_as(R).clone()
    ways: list[Tensor] = []
    for j, up in enumerate(parents):
        below = [c for c in range(len(joints)) if parents[c] == j and float((places[c] - places[j]).norm()) > 1e-4]
        main = max(below, key=lambda c: (_size(parents, c), float((places[c] - places[j]).norm())), default=None)
        way = places[main] - places[j] if main is not None else ways[up] if up >= 0 else torch.tensor([0, 0, 1.0]).to(places)
        ways.append(way / way.norm())
        if (up < 0 and float(places[j].norm()) < 1e-9) or joints[j].startswith(("ik_", "interaction", "center_of")):
            R[j] = upright
            continue
        R[j] = _frame(facts, ways[j], bool(facts.get("mirrored")) and float(places[j, 0]) < -1e-4)
    where = {name: j for j, name in enumerate(joints)}
    for name, j in where.items():  # what follows another joint has its axes
        if name.startswith("ik_") and (name.removeprefix("ik_") in where or name == "ik_hand_gun"):
            R[j] = R[where.get(name.removeprefix("ik_"), where.get("hand_r", j))]
    return R


def _size(parents: tuple[int, ...], joint: int) -> int:
    return 1 + sum(_size(parents, c) for c, up in enumerate(parents) if up == joint)


def _frame(facts: Mapping[str, Any], way: Float[Tensor, "3"], flipped: bool) -> Float[Tensor, "3 3"]:
    front = torch.tensor([0.0, -1.0, 0.0] if abs(float(way[1])) < 0.8 else [0.0, 0.0, 1.0], dtype=way.dtype)
    sign = -1.0 if flipped else 1.0
    a = sign * way
    b = sign * (front - (front @ way) * way)
    b = b / b.norm()
    first, second = AXES[facts["along"]], AXES[facts["second"]]
    columns = [torch.zeros_like(a)] * 3
    columns[first], columns[second] = a, b
    third = 3 - first - second
    c = torch.linalg.cross(a, b)
    columns[third] = c if (second - first) % 3 == 1 else -c
    return torch.stack(columns, -1)


def _mesh(shaped: Shaped, R: Tensor, p: Tensor, listed: Mapping[str, tuple[Any, ...]], joints: tuple[str, ...]) -> Mesh:
    """The person's skin in the rest pose, moved by the preset's joints in place of the body's own."""
    skeleton, skin = shaped.body.skeleton, shaped.body.skin
    place = {entry[1]: joints.index(name) for name, entry in reversed(list(listed.items())) if len(entry) == 2}
    weights = torch.zeros(len(skin), len(joints))
    for j in range(len(skeleton)):
        at = j
        while skeleton.names[at] not in place:
            at = skeleton.parents[at]
        weights[:, place[skeleton.names[at]]] += skin.weights[:, j].float()
    names, basis = shaped.body.expression_names, skin.expression_basis.double().permute(2, 0, 1)
    blended = (skin.weights.double() @ R.flatten(1)).unflatten(1, (3, 3))
    shapes = (blended @ basis[..., None])[..., 0] if names else None
    return Mesh("body", _skinned(shaped, R, p), shaped.body.triangles, weights, names, shapes)

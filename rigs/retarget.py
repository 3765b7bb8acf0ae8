"""A performance of one of the studio's bodies put on anybody's character.

Both characters are brought to one pose in thought, the T-pose of `rigs.rest`; from there every part turns in the world as the
performer's does. The root is scaled by the length of the legs; then legs are bent so that the soles are where the performer's were,
scaled, and stay where they touch the floor, and arms so that the hands are where they were relative to the shoulders (or to the world).
World: z up, metres; a character at rest is turned to face -y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.alignment import Aligned
from rigs.bones import NEEDED, SIDES, Mapping
from rigs.characters.character import Character, Clip, relative
from rigs.limbs import SOFT, SOFT_LEG, bent, lowering, soles, standing, twisted
from rigs.performed import Performed

Hands = Literal["body", "world", "off"]
Root = Literal["floor", "hips", "in_place"]
Scaling = Callable[[Tensor], Tensor]
"""Points of the performer's room to the character's."""
TRUNK = ("Spine", "Spine1", "Spine2")


@dataclass(frozen=True)
class Options:
    """How a performance is put on a character."""

    hands: Hands = "body"
    """Where hands must be: "body" where they were relative to the shoulders, "world" where they were in the (scaled) room, "off" as the
    arms' angles put them."""
    root: Root = "hips"
    """Joints above the hips go along on the floor and turn as the hips head ("floor"), or stay as they rest ("hips"); "in_place": they
    stay, and the performance is brought back to them."""
    scale: float | None = None
    """Size of all paths; None for the ratio of the legs' lengths."""
    plant: bool = True
    """Feet that touch the floor stay where they are."""


@dataclass(frozen=True)
class Fit:
    """What a retargeting did, for the report."""

    scale: float
    reached: dict[str, float]
    """Part -> greatest distance from where it should be, m."""
    lowered: float
    """Greatest lowering of the hips so that both feet reach the floor, m."""


def retarget(source: Performed, character: Character, mapping: Mapping, options: Options | None = None) -> tuple[Clip, Fit]:
    """The performance on a character as one clip of all its joints, and how well it fits.

    A `ValueError` names the parts that a character lacks and cannot do without.
    """
    options = options or Options()
    if lost := [p for p in NEEDED if p not in mapping.joints]:
        raise ValueError(
            f"{character.source.path or character.name}: no {', '.join(lost)} was found among its {len(character)} joints; "
            "give them names that `studio inspect` understands (LeftArm, upperarm_l, upper_arm.L ...)"
        )
    scene = Aligned.of(source, character, mapping, options.scale)
    R = _turned(scene)
    R, p, fit = _solved(scene, options, R)
    R, p = _rooted(scene, options.root, R, p)
    R_local, position = relative(character.parents, R, p)
    return Clip(source.name, source.fps, R_local, position, source.start, source.timecode), fit


def _turned(scene: Aligned) -> Float[Tensor, "T J 3 3"]:
    """World rotation of all joints: parts of a person as the performer's, the others as their parents carry them."""
    chosen = _assigned(scene)
    rest = scene.character.R_parent_rest
    R: list[Tensor] = []
    still = scene.R_rest.expand(len(scene.source.R), *scene.R_rest.shape)
    for j, up in enumerate(scene.character.parents):
        if j in chosen:
            R.append(chosen[j] @ scene.R_rest[j])
        else:
            R.append(R[up] @ rest[j] if up >= 0 else still[:, j])
    return torch.stack(R, 1)


def _assigned(scene: Aligned) -> dict[int, Float[Tensor, "T 3 3"]]:
    """Joint -> how it is turned from its rest, for every joint that a part of the performer drives."""
    trunk = {*TRUNK, "Neck"}
    chosen = {j: scene.carried(part) for part, j in scene.mapping.joints.items() if part not in trunk and part in scene.source.names}
    spine, neck = scene.mapping.spine, scene.mapping.neck
    line = ["Hips", *TRUNK]
    for n, j in enumerate(spine):
        chosen[j] = _between(scene, line, (n + 1) / len(spine) * 3)
    for n, j in enumerate(neck):
        chosen[j] = _between(scene, ["Neck", "Head"], n / len(neck))
    return chosen


def _between(scene: Aligned, line: list[str], place: float) -> Float[Tensor, "T 3 3"]:
    """A turn between those of neighbouring parts of the trunk; `place` counts parts along the line."""
    first = min(int(place), len(line) - 2)
    part = place - first
    if part in (0, 1):
        return scene.carried(line[first + int(part)])
    a, b = (rotation.quaternion(scene.carried(name)) for name in line[first : first + 2])
    return rotation.matrix(rotation.slerp(a, b, torch.full_like(a[..., 0], part)))


def _solved(scene: Aligned, options: Options, R: Float[Tensor, "T J 3 3"]) -> tuple[Float[Tensor, "T J 3 3"], Float[Tensor, "T J 3"], Fit]:
    """Hips placed, legs and arms bent so that feet and hands are where they must be; helpers of limbs twisted along."""
    source, joints, reached = scene.source, scene.mapping.joints, {}
    origin = source.p[:1, source.at("Hips")] * torch.tensor([1.0, 1.0, 0.0], dtype=R.dtype)

    def scaled(points: Tensor) -> Tensor:
        return origin + scene.scale * (points - origin)

    hips = _hips(scene, R, scaled)
    goals = _feet(scene, options.plant, R, scaled)
    start = scene.placed(R, hips)
    down = lowering(
        {s: start[:, joints[s + "UpLeg"]] for s in SIDES},
        {s: goals[s][0] for s in SIDES},
        {s: goals[s][1] for s in SIDES},
        {s: _length(scene, s, ("UpLeg", "Leg", "Foot")) for s in SIDES},
        source.fps,
    )
    hips = hips - down[:, None] * torch.tensor([0.0, 0.0, 1.0], dtype=R.dtype)
    for side in SIDES:
        limb = [joints[side + part] for part in ("UpLeg", "Leg", "Foot")]
        pole = _pole(scene, side + "Leg", (0.0, -1.0, 0.0))
        R = bent(scene.character, R, scene.placed(R, hips), limb, goals[side][0], pole, SOFT_LEG)
        off = scene.placed(R, hips)[:, limb[2]] - goals[side][0]
        reached[side + "Foot"] = float(off.norm(dim=-1).max())
    if options.hands != "off":
        wrists = _hands(scene, options.hands, scene.placed(R, hips), scaled)
        for side in SIDES:
            limb = [joints[side + part] for part in ("Arm", "ForeArm", "Hand")]
            pole = _pole(scene, side + "ForeArm", (0.0, 1.0, 0.0))
            R = bent(scene.character, R, scene.placed(R, hips), limb, wrists[side], pole, SOFT[options.hands])
            reached[side + "Hand"] = float((scene.placed(R, hips)[:, limb[2]] - wrists[side]).norm(dim=-1).max())
    R = twisted(scene.character, scene.mapping, scene.R_rest, scene.p_rest, R)
    return R, scene.placed(R, hips), Fit(scene.scale, reached, float(down.max()))


def _length(scene: Aligned, side: str, parts: tuple[str, str, str]) -> float:
    a, b, c = (scene.centre[side + part] for part in parts)
    return float((b - a).norm() + (c - b).norm())


def _hips(scene: Aligned, R: Tensor, scaled: Scaling) -> Float[Tensor, "T 3"]:
    """Where the hips joint must be so that the middle between the thighs' heads is where the performer's is, scaled, above the floor."""
    source, joint = scene.source, scene.mapping.joints["Hips"]
    middle = source.p[:, [source.at(s + "UpLeg") for s in SIDES]].mean(1)
    own = sum((scene.centre[s + "UpLeg"] for s in SIDES), torch.zeros(3, dtype=R.dtype)) / 2 - scene.p_rest[joint]
    return scaled(middle) - (R[:, joint] @ (scene.R_rest[joint].T @ own)[:, None])[..., 0]


def _feet(scene: Aligned, plant: bool, R: Tensor, scaled: Scaling) -> dict[str, tuple[Tensor, Tensor]]:
    """For each side where the ankle must be, and how much that matters: 1 on the floor, 0 well above it."""
    source, goals = scene.source, {}
    own = dict(zip(source.names, source.rest))
    for n, side in enumerate(SIDES):
        foot, ankle = scene.mapping.joints[side + "Foot"], source.at(side + "Foot")
        theirs = soles(own[side + "Foot"], own.get(side + "ToeBase"), source.floor)
        mine = soles(scene.centre[side + "Foot"], scene.centre.get(side + "ToeBase"), scene.floor)
        R_foot = R[:, foot] @ scene.R_rest[foot].T
        touching = scaled(source.p[:, ankle, None] + (source.R[:, ankle, None] @ theirs[..., None])[..., 0])
        offsets = (R_foot[:, None] @ mine[..., None])[..., 0]
        contacts = source.contacts[:, 2 * n : 2 * n + 2] if plant else torch.zeros_like(source.contacts[:, :2])
        goals[side] = standing(touching, offsets, contacts, source.fps)
    return goals


def _hands(scene: Aligned, hands: Hands, p: Float[Tensor, "T J 3"], scaled: Scaling) -> dict[str, Float[Tensor, "T 3"]]:
    """Where the wrists must be."""
    source, joints = scene.source, scene.mapping.joints
    if hands == "world":
        return {s: scaled(source.p[:, source.at(s + "Hand")]) for s in SIDES}
    own = dict(zip(source.names, source.rest))
    lines = [c[s + b] - c[s + a] for c in (own, scene.centre) for s in SIDES for a, b in (("Arm", "ForeArm"), ("ForeArm", "Hand"))]
    lengths = [float(line.norm()) for line in lines]
    spans = [sum(lengths[:4]) / 2, sum(lengths[4:]) / 2]
    widths = [float((c["LeftArm"] - c["RightArm"]).norm()) / 2 for c in (own, scene.centre)]
    size = (spans[1] + widths[1]) / (spans[0] + widths[0])
    theirs = source.p[:, [source.at(s + "Arm") for s in SIDES]].mean(1)
    mine = p[:, [joints[s + "Arm"] for s in SIDES]].mean(1)
    return {s: mine + size * (source.p[:, source.at(s + "Hand")] - theirs) for s in SIDES}


def _pole(scene: Aligned, part: str, way: tuple[float, float, float]) -> Float[Tensor, "T 3"]:
    """Where a knee or an elbow points, were the limb straight: the part's own direction in the T-pose, turned with it."""
    source = scene.source
    return source.R[:, source.at(part)] @ scene.T_source[part].T @ torch.tensor(way, dtype=source.R.dtype)


def _headed(scene: Aligned, R_hips: Float[Tensor, "T 3 3"]) -> Float[Tensor, "T 3 3"]:
    """Turn about the upright axis in the hips' turn from rest: the twist of its swing-twist parts, kept where that is not told."""
    q = rotation.quaternion(R_hips @ scene.R_rest[scene.mapping.joints["Hips"]].T)
    told = torch.hypot(q[:, 0], q[:, 3]) > 1e-3
    last = torch.cummax(torch.where(told, torch.arange(len(q)), torch.zeros(len(q), dtype=torch.long)), 0).values
    angle = (2 * torch.atan2(q[:, 3], q[:, 0]))[last]
    return rotation.exp(angle[:, None] * torch.tensor([0.0, 0.0, 1.0], dtype=q.dtype))


def _rooted(scene: Aligned, root: Root, R: Tensor, p: Tensor) -> tuple[Float[Tensor, "T J 3 3"], Float[Tensor, "T J 3"]]:
    """Joints above the hips put where the chosen root mode wants them; whoever copies another joint follows it."""
    character, hips = scene.character, scene.mapping.joints["Hips"]
    above = character.above(hips)[1:]
    level = torch.tensor([1.0, 1.0, 0.0], dtype=p.dtype)
    path, turn = p[:, hips] * level, _headed(scene, R[:, hips])
    R_rest, p_rest = character.rest
    under = p_rest[hips] * level
    if root == "in_place":
        p = under + (turn.mT[:, None] @ (p - path[:, None])[..., None])[..., 0]
        R = turn.mT[:, None] @ R
    R, p = R.clone(), p.clone()
    for j in above:
        R[:, j], p[:, j] = R_rest[j], p_rest[j]
        if root == "floor":
            R[:, j], p[:, j] = turn @ R_rest[j], path + turn @ (p_rest[j] - under)
    loose = [j for j in range(len(character)) if hips not in character.above(j) and j not in above]
    for j in loose:  # what hangs beside the hips keeps its rest below its parent
        up = character.parents[j]
        if up < 0:
            R[:, j], p[:, j] = R_rest[j], p_rest[j]
        else:
            R[:, j] = R[:, up] @ character.R_parent_rest[j]
            p[:, j] = p[:, up] + (R[:, up] @ character.offsets[j, :, None])[..., 0]
        if j in scene.mapping.copies:
            R[:, j], p[:, j] = R[:, scene.mapping.copies[j]], p[:, scene.mapping.copies[j]]
    return R, p

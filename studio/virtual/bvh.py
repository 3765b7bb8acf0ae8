"""Motion from a BVH file on one of the studio's bodies: orientation differences from rest, the root scaled by leg length."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich import print as tell
from scipy import ndimage
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from rigs import rotation
from rigs.body import Body
from rigs.characters.bvh import Recording, read
from studio.virtual.anatomy import FINGERS, SIDES, Anatomy, Performance, between, turn, unit
from studio.virtual.motion import scripted
from studio.virtual.planting import planted

Z_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
"""From BVH axes (y up, facing +z) to ours (z up, facing -y)."""

_ARM = ("Shoulder", "Arm", "ForeArm", "Hand")
_LEG = ("UpLeg", "Leg", "Foot", "ToeBase")
_TRUNK = {
    "Hips": "hips pelvis hip root",
    "Spine": "spine lowerback abdomen chest",
    "Spine1": "spine1 chest2",
    "Spine2": "spine2 spine3 chest3 upperchest",
    "Neck": "neck neck1",
    "Head": "head",
}
DIALECTS = (
    {"Shoulder": "shoulder collar clavicle", "Arm": "arm uparm upperarm", "ForeArm": "forearm lowarm lowerarm", "Hand": "hand",
     "UpLeg": "upleg thigh upperleg", "Leg": "leg shin calf lowleg lowerleg", "Foot": "foot", "ToeBase": "toebase toe"},
    {"Shoulder": "collar clavicle", "Arm": "shoulder shldr", "ForeArm": "elbow forearm", "Hand": "wrist hand",
     "UpLeg": "hip upleg thigh", "Leg": "knee shin", "Foot": "ankle foot", "ToeBase": "toe toebase"},
)  # fmt: skip
"""Limb joints under the names two families of tools give them; the one that matches more joints is taken."""


def matched(recording: Recording) -> dict[str, int]:
    """Which BVH joint drives which of our joints, by name; what stands before a colon does not count."""
    named = [re.sub(r"[^a-z0-9]", "", n.split(":")[-1].lower()) for n in recording.skeleton.names]
    plain = {n: i for i, n in reversed(list(enumerate(named)))}
    best: dict[str, int] = {}
    for dialect in DIALECTS:
        wanted = {name: words.split() for name, words in _TRUNK.items()}
        for side in SIDES:
            short = side[0].lower()
            for joint in (*_ARM, *_LEG):
                wanted[side + joint] = [
                    p for w in dialect[joint].split() for p in (side.lower() + w, short + w, w + short, w + side.lower())
                ]
            for finger in FINGERS:
                for i in (1, 2, 3):
                    wanted[f"{side}Hand{finger}{i}"] = [f"{side.lower()}hand{finger.lower()}{i}"]
        found = {name: plain[next(w for w in words if w in plain)] for name, words in wanted.items() if any(w in plain for w in words)}
        if len(found) > len(best):
            best = found
    return best


def from_bvh(
    body: Body, path: Path, frames: int, fps: float, seed: int, place: tuple[float, float] = (0.0, 0.0), heading: float = 0.0
) -> Performance:
    """A BVH's motion performed by a person; to and fro where the file is shorter than `frames`. Fingers that the file does not
    have, and the face, are scripted. `ValueError` where the file's joints cannot be recognised."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such BVH file")
    source = read(path)
    if not len(source.position):
        raise ValueError(f"{path}: holds no frames, only a skeleton; give a file with motion")
    source = resampled(source, frames, fps)
    joints = matched(source)
    missing = {"Hips", *(s + j for s in SIDES for j in ("UpLeg", "Leg", "Foot", "Arm", "ForeArm"))} - set(joints)
    if missing:
        raise ValueError(f"{path}: no joints recognised for {sorted(missing)}; it has {list(source.skeleton.names)}")
    extra = scripted(body, frames, fps, seed, "hands", place, heading)
    anatomy = Anatomy.of(body)
    spin = turn(torch.tensor([0.0, 0, 1], dtype=torch.float64), torch.full((1,), heading, dtype=torch.float64))
    R_source, _ = source.forward()
    fixes = _rest_fixes(anatomy, source, joints)
    R_world: list[Tensor] = []
    local = rotation.exp(extra.rotation.double())
    for j, name in enumerate(body.skeleton.names):
        up = R_world[body.skeleton.parents[j]] if j else torch.eye(3, dtype=torch.float64).expand(frames, 3, 3)
        if name in joints:
            world = spin @ Z_UP @ R_source[:, joints[name]] @ Z_UP.T @ fixes[name]
            local[:, j] = up.mT @ world
        elif "Hand" not in name and not name.endswith("Eye"):
            local[:, j] = torch.eye(3, dtype=torch.float64)
        R_world.append(up @ local[:, j])
    root = _root(anatomy, source, joints, spin, place, path)
    still = Performance(body, root.float(), rotation.log(local).float(), extra.expression)
    return planted(_grounded(still, fps), fps)


def resampled(recording: Recording, frames: int, fps: float) -> Recording:
    """The motion at another rate, to and fro until there are `frames` frames; rotations along great arcs."""
    position, R, last = recording.position, recording.R_parent_joint, len(recording.position) - 1
    if last < 1:
        position, R = position[:1].expand(frames, -1, -1), R[:1].expand(frames, -1, -1, -1)
        return replace(recording, position=position, R_parent_joint=R, frame_time=1 / fps)
    t = np.arange(frames) / fps / recording.frame_time
    t = last - np.abs(t % (2 * last) - last)
    turned = np.stack([Slerp(np.arange(last + 1), Rotation.from_matrix(r.numpy()))(t).as_matrix() for r in R.unbind(1)], 1)
    at = torch.from_numpy(t)
    before = at.floor().long().clamp(max=last - 1)
    moved = torch.lerp(position[before], position[before + 1], (at - before)[:, None, None])
    return replace(recording, position=moved, R_parent_joint=torch.from_numpy(turned), frame_time=1 / fps)


def _rest_fixes(anatomy: Anatomy, source: Recording, joints: dict[str, int]) -> dict[str, Float[Tensor, "3 3"]]:
    """For each joint the rotation from our rest pose to the file's: limbs by their bone's direction, trunk and feet none."""
    fixes = {name: torch.eye(3, dtype=torch.float64) for name in joints}
    for side in SIDES:
        for chain in (("Arm", "ForeArm", "Hand"), ("UpLeg", "Leg", "Foot")):
            for a, b in pairwise(chain):
                if side + a in joints and side + b in joints:
                    bone = unit(Z_UP @ source.offsets[joints[side + b]])
                    fixes[side + a] = between(anatomy.bone(side + a, side + b), bone)
        for name in joints:
            if name.startswith(f"{side}Hand"):
                fixes[name] = fixes[f"{side}ForeArm"]
    return fixes


def _root(
    anatomy: Anatomy, source: Recording, joints: dict[str, int], spin: Tensor, place: tuple[float, float], path: Path
) -> Float[Tensor, "T 3"]:
    def leg(at: dict[str, int]) -> float:
        return float(source.offsets[at["LeftLeg"]].norm() + source.offsets[at["LeftFoot"]].norm())

    ours = float((anatomy.at("LeftLeg") - anatomy.at("LeftUpLeg")).norm() + (anatomy.at("LeftFoot") - anatomy.at("LeftLeg")).norm())
    root = source.forward()[1][:, joints["Hips"]] @ Z_UP.T * (ours / leg(joints))
    middle = (root.amin(0) + root.amax(0)) / 2
    root = (spin @ (root - middle)[..., None])[..., 0] + torch.tensor([*place, 0.0], dtype=torch.float64)
    wide = float((root.amax(0) - root.amin(0))[:2].max())
    if wide > 1.0:
        tell(f"virtual: {path.name} travels {wide:.1f} m; the cameras frame the middle 1.0 m")
    return root


def _grounded(performance: Performance, fps: float) -> Performance:
    """The same motion with the lowest sole of every 0.8 s on the floor: other legs and other feet stand at another height."""
    body = performance.body
    soles = torch.nonzero(body.skin.rest[:, 2] < body.skin.rest[:, 2].min() + 0.01)[:, 0][::5]
    shaped = body.shaped(torch.zeros(len(body.shape_names)))
    low = shaped.posed(performance.rotation, performance.translation).points(body.skin[soles])[..., 2].amin(-1)
    window = max(1, round(0.8 * fps))
    envelope = ndimage.minimum_filter1d(low.numpy(), window, mode="nearest")
    down = torch.from_numpy(ndimage.uniform_filter1d(envelope, max(1, window // 2), mode="nearest"))
    translation = performance.translation - down[:, None] * torch.tensor([0.0, 0.0, 1.0])
    return Performance(body, translation, performance.rotation, performance.expression)

"""Where a character's path over the floor lies: in the hips, in a bone on the floor above them, or nowhere."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.retarget import Root
from studio.export.animation import Character, in_pieces

BONES = ("root", "ik_foot_root")
"""The second bone is there because Blender joins a bone to its only child and then leaves the child's positions out."""


def rooted(character: Character, mode: Root) -> Character:
    """The same performance with another top bone.

    "hips": nothing above the hips. "floor": a bone `root` on the floor under the hips that goes where they go and turns as they
    head; joints stay where they are. "in_place": the same skeleton, but `root` stays at the origin, and so the performer does.
    """
    if mode == "hips":
        return character
    R_hips = character.R_parent_joint[:, 0]
    angle = heading(R_hips)
    turn = _about_up(angle)
    floor = character.root * torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    plain = torch.eye(3, dtype=torch.float64).expand(len(angle), 1, 3, 3)
    hips = (turn.mT @ (character.root - floor)[..., None])[..., 0]
    here = mode == "floor"
    nowhere = torch.zeros(len(BONES), 3, dtype=torch.float64)
    return replace(
        character,
        above=BONES,
        bind=torch.cat([nowhere, character.bind]),
        rest=torch.cat([nowhere, character.rest]),
        R_rest_bind=torch.cat([plain[:1, 0].expand(len(BONES), 3, 3), character.R_rest_bind]),
        ends={j + len(BONES): end for j, end in character.ends.items()} | {1: nowhere[0] + torch.tensor([0.0, 0.0, 0.1]).double()},
        R_parent_joint=torch.cat(
            [turn[:, None] if here else plain, plain, (turn.mT @ R_hips)[:, None], character.R_parent_joint[:, 1:]], 1
        ),
        root=floor if here else torch.zeros_like(floor),
        hips=hips,
    )


def heading(R: Float[Tensor, "T 3 3"]) -> Float[Tensor, "T"]:
    """Turn about the up axis (y) in each rotation, rad, running on past half turns: the twist of its swing-twist parts.

    Unlike an Euler angle it is well told when the hips lie level; a body upside down keeps the frame before's.
    """
    q = in_pieces(rotation.quaternion, R)
    told = torch.hypot(q[:, 0], q[:, 2]) > 1e-3
    angle = (2 * torch.atan2(q[:, 2], q[:, 0])).tolist()
    last, found = 0.0, []
    for value, good in zip(angle, told.tolist()):
        if good:
            last = value + 2 * math.pi * round((last - value) / (2 * math.pi))
        found.append(last)
    return torch.tensor(found, dtype=R.dtype)


def _about_up(angle: Float[Tensor, "T"]) -> Float[Tensor, "T 3 3"]:
    return rotation.exp(angle[:, None] * torch.tensor([0.0, 1.0, 0.0], dtype=angle.dtype))

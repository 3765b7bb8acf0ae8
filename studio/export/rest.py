"""The pose animators want a character to rest in: arms level, palms down, legs straight, feet forward.

Everything here is in the body's own frame: metres, z up, facing -y, left hand at +x.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.body import Shaped
from rigs.rest import aimed, t_turns

__all__ = ["aimed", "t_pose", "tips"]

EYE_AXIS = 0.03
"""How far before an eye's centre its tip is put, m."""


def t_pose(shaped: Shaped) -> Float[Tensor, "J 3 3"]:
    """World rotation of every joint that takes the model's own rest to a T-pose, as `rigs.rest.t_turns` says what that is."""
    skeleton = shaped.body.skeleton
    centre = dict(zip(skeleton.names, shaped.joints)) | {f"{name}Tip": p for name, p in tips(shaped).items()}
    parts = [(name, skeleton.names[p] if p >= 0 else None) for name, p in zip(skeleton.names, skeleton.parents)]
    R = t_turns(parts, centre)
    return torch.stack([R[name] for name in skeleton.names])


def tips(shaped: Shaped) -> dict[str, Float[Tensor, "3"]]:
    """Where the bone of each childless joint ends at rest, m: the farthest vertex the joint moves most; ahead of an eye.

    A joint that moves no vertex gets half its parent's bone again.
    """
    skeleton, rest = shaped.body.skeleton, shaped.rest()
    owner = shaped.body.skin.weights.argmax(-1)
    ends: dict[str, Tensor] = {}
    for j in (j for j in range(len(skeleton)) if j not in skeleton.parents):
        centre, up = shaped.joints[j], shaped.joints[skeleton.parents[j]] if j else shaped.joints[j]
        mine = rest[owner == j]
        if skeleton.names[j].endswith("Eye"):
            ends[skeleton.names[j]] = centre + centre.new_tensor([0, -EYE_AXIS, 0])
        elif len(mine):
            ends[skeleton.names[j]] = mine[(mine - centre).norm(dim=-1).argmax()]
        else:
            ends[skeleton.names[j]] = centre + (centre - up) / 2
    return ends

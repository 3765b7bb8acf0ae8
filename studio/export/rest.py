"""The pose animators want a character to rest in: arms level, palms down, legs straight, feet forward.

Everything here is in the body's own frame: metres, z up, facing -y, left hand at +x.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.body import Shaped
from rigs.rest import aimed, t_turns, tips

__all__ = ["aimed", "t_pose", "tips"]


def t_pose(shaped: Shaped) -> Float[Tensor, "J 3 3"]:
    """World rotation of every joint that takes the model's own rest to a T-pose, as `rigs.rest.t_turns` says what that is."""
    skeleton = shaped.body.skeleton
    centre = dict(zip(skeleton.names, shaped.joints)) | {f"{name}Tip": p for name, p in tips(shaped).items()}
    parts = [(name, skeleton.names[p] if p >= 0 else None) for name, p in zip(skeleton.names, skeleton.parents)]
    R = t_turns(parts, centre)
    return torch.stack([R[name] for name in skeleton.names])

"""Hands that are not where the arm ends: in a crop about a wrist that is hidden, a network finds whatever hand is there.

It may be the other one, or a neighbour's, and all its points are sure of themselves. The wrist that the *other* views see tells.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from calibration.triangulate import triangulate
from rigs.keypoints import LEFT_HAND, RIGHT_HAND

HANDS = {"left": LEFT_HAND, "right": RIGHT_HAND}
SURE = 0.3
"""A view with less confidence says nothing of where a wrist is."""
FOREARM = (0.15, 0.35)
"""Shortest and longest forearm, m: rays of two views always meet somewhere, but not there."""
BESIDE, DEVIATIONS = 0.1, 3.0
"""How far the root of a hand may lie from the wrist, m, and what is granted to their uncertainty beyond, in standard deviations."""


def stray_hands(
    cameras: Cameras,
    names: tuple[str, ...],
    pixels: Float[Tensor, "C T K 2"],
    sigma: Float[Tensor, "C T K"],
    confidence: Float[Tensor, "C T K"],
    distance: Float[Tensor, "C T"],
) -> Bool[Tensor, "C T K"]:
    """The keypoints of one actor that are of hands which lie elsewhere than where at least two other views agree that the wrist is.

    `sigma` is px, infinite where not seen; `distance` is the actor's from each camera, m.
    """
    stray = torch.zeros(sigma.shape, dtype=torch.bool)
    sides = [s for s in HANDS if {f"{s}_elbow", f"{s}_wrist", f"{s}_hand_root"} <= set(names)]
    if not sides or len(cameras) < 3:
        return stray
    elbows, wrists, roots = ([names.index(f"{s}_{part}") for s in sides] for part in ("elbow", "wrist", "hand_root"))
    sure = torch.where(confidence >= SURE, sigma, torch.inf)
    elbow = triangulate(cameras, pixels[:, :, elbows], sure[:, :, elbows]).points
    apart, spread, views = _apart(cameras, pixels[:, :, wrists], sure[:, :, wrists], pixels[:, :, roots], elbow)
    allowed = BESIDE * cameras.focal.mean(1)[:, None].float() / distance.float()
    wild = apart > allowed[..., None] + DEVIATIONS * (spread + sigma[:, :, roots].square()).sqrt()
    wild &= (views > 2) | ~torch.isfinite(sure[:, :, wrists])
    for s, side in enumerate(sides):
        stray[:, :, [k for k, n in enumerate(names) if n in HANDS[side]]] = wild[:, :, s, None]
    return stray & torch.isfinite(sigma)


def _apart(
    cameras: Cameras,
    pixels: Float[Tensor, "C T S 2"],
    sigma: Float[Tensor, "C T S"],
    roots: Float[Tensor, "C T S 2"],
    elbow: Float[Tensor, "T S 3"],
) -> tuple[Float[Tensor, "C T S"], Float[Tensor, "C T S"], Int[Tensor, "C T S"]]:
    """How far each view's root is from the wrist of the other views, NaN where these do not agree, and that wrist's variance there, px.

    Last, how many views agree on it.
    """
    C = len(cameras)
    own = torch.eye(C, dtype=torch.bool)[:, :, None, None]
    others = torch.where(own, torch.inf, sigma[:, None].expand(C, C, *sigma.shape[1:]))
    found = triangulate(cameras, pixels[:, None].expand(C, C, *pixels.shape[1:]), others)
    length, agree = (found.points - elbow).norm(dim=-1), found.inlier.sum(0)
    held = (length > FOREARM[0]) & (length < FOREARM[1]) & (agree >= 2) & (agree >= torch.isfinite(others).sum(0) - 1)
    views, flat = torch.arange(C), found.points.double().flatten(0, -2)
    at = cameras.project(flat).view(C, *found.points.shape[:-1], 2)[views, views].float()
    far = cameras.to_camera(flat)[..., 2].view(C, *found.points.shape[:-1])[views, views].float()
    spread = found.covariance.diagonal(dim1=-2, dim2=-1).mean(-1) * (cameras.focal.mean(1).float()[:, None, None] / far).square()
    return torch.where(held, (roots - at).norm(dim=-1), torch.nan), spread, agree

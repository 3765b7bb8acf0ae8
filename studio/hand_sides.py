"""Left and right of hands of which no arm is seen: in place of the arm the hand itself is compared between views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.values import Keypoints2D, of_actor

STAND_INS = {"shoulder": "pinky_finger1", "elbow": "forefinger1", "wrist": "hand_root"}
"""Points of an arm, and those of a hand that tell as well whether two views speak of the same side."""


def hands_for_arms(
    keypoints: Keypoints2D,
    which: Int[Tensor, "C T"],
    loosened: Callable[[Tensor], Tensor],
    names: tuple[str, ...],
    pixels: Float[Tensor, "C T K 2"],
    sigma: Float[Tensor, "C T K"],
    skeleton: Float[Tensor, "C T K 3"] | None,
) -> tuple[Float[Tensor, "C T K 2"], Float[Tensor, "C T K"], Float[Tensor, "C T K 3"] | None, Bool[Tensor, "T"]]:
    """An actor's points (`names`: px, their sigma, the networks' own 3D) with hands for arms in frames in which no view shows an arm.

    And which frames these are.

    `loosened` gives the hand's sigma, px, the allowance that the others have. The networks' 3D of a hand alone has no place: NaN.
    """
    pairs = [(f"{s}_{arm}", f"{s}_{hand}") for s in ("left", "right") for arm, hand in STAND_INS.items()]
    pairs = [(names.index(a), keypoints.keypoints.index(b)) for a, b in pairs if a in names and b in keypoints.keypoints]
    arms, hands = [a for a, _ in pairs], [b for _, b in pairs]
    alone = ~torch.isfinite(sigma[:, :, arms]).any(-1).any(0)
    if not pairs or not bool(alone.any()):
        return pixels, sigma, skeleton, torch.zeros_like(alone)
    spots = of_actor(keypoints.pixels[:, :, :, hands], which, torch.nan)
    spread = of_actor(keypoints.sigma[:, :, :, hands], which, torch.inf)
    seen = of_actor(keypoints.confidence[:, :, :, hands], which, 0.0) > 0
    pixels, sigma = pixels.clone(), sigma.clone()
    pixels[:, :, arms] = torch.where(alone[None, :, None, None], spots, pixels[:, :, arms])
    sigma[:, :, arms] = torch.where(alone[None, :, None], torch.where(seen, loosened(spread), torch.inf), sigma[:, :, arms])
    if skeleton is not None:
        skeleton = skeleton.clone()
        skeleton[:, :, arms] = torch.where(alone[None, :, None, None], torch.nan, skeleton[:, :, arms])
    return pixels, sigma, skeleton, alone

"""What of a person another one stands before: networks guess what they do not see, and mostly find it on who is in front."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from rigs.keypoints import FACE, LEFT_HAND, RIGHT_HAND

LIMBS = tuple(
    (f"{side}_{a}", f"{side}_{b}", radius)
    for side in ("left", "right")
    for a, b, radius in (("shoulder", "elbow", 0.06), ("elbow", "wrist", 0.05), ("hip", "knee", 0.09), ("knee", "ankle", 0.07))
)
"""Two keypoints and how thick it is between them, m."""
SPOKESMEN = {**dict.fromkeys(LEFT_HAND, "left_wrist"), **dict.fromkeys(RIGHT_HAND, "right_wrist"), **dict.fromkeys(FACE, "nose")}
"""Keypoints for many that lie close together: they are hidden when these are."""
TRUNK, HEAD = 0.17, 0.12
"""How thick it is between the middles of shoulders and hips, and of shoulders and ears, m."""
ARMS = 2.0
"""Two whose middles are further apart than this do not touch, m."""
BEFORE = 0.1
"""So much nearer to the camera somebody must be to hide another, m."""


def bones(names: tuple[str, ...], points: Float[Tensor, "T K 3"]) -> tuple[Float[Tensor, "T B 2 3"], Float[Tensor, "B"]]:
    """A person as thick lines: both ends, m, NaN where not known, and their radii, m."""
    at = lambda n: points[:, names.index(n)] if n in names else torch.full_like(points[:, 0], torch.nan)  # noqa: E731
    middle = lambda n: (at(f"left_{n}") + at(f"right_{n}")) / 2  # noqa: E731
    ends = [torch.stack([at(a), at(b)], 1) for a, b, _ in LIMBS]
    ends += [torch.stack([middle("shoulder"), middle(n)], 1) for n in ("hip", "ear")]
    return torch.stack(ends, 1), torch.tensor([*(r for _, _, r in LIMBS), TRUNK, HEAD])


def behind(
    cameras: Cameras,
    names: tuple[str, ...],
    pixels: Float[Tensor, "C T K 2"],
    points: Float[Tensor, "T K 3"],
    others: Sequence[Float[Tensor, "T K 3"]],
) -> Bool[Tensor, "C T K"]:
    """Which of an actor's pixels show somebody else who stands before them: `others` are their keypoints, m, as `points` are the actor's.

    A keypoint without a place is taken to be as far away as the actor's median one; where nothing is known nothing is hidden.
    """
    told = [names.index(n) if (n := SPOKESMEN.get(name)) in names else k for k, name in enumerate(names)]
    few = sorted(set(told))
    hidden = torch.zeros(*pixels.shape[:2], len(few), dtype=torch.bool)
    place = torch.where(torch.isfinite(points), points, points.nanmedian(1, keepdim=True).values)[:, few]
    rays, position = cameras.ray(pixels[:, :, few].double()).float(), cameras.position.float()
    middle = points.nanmedian(1).values
    for other in others:
        ends, radius = bones(names, other)
        theirs = other.nanmedian(1).values
        for c in range(len(cameras)):
            t = _before(middle - position[c], theirs - position[c])
            far = (place[t] - position[c]).norm(dim=-1)
            apart, along = _nearest(rays[c, t], ends[t] - position[c])
            hidden[c, t] |= ((apart < radius) & (along > 0) & (along < far[..., None] - BEFORE)).any(-1)
    return hidden[:, :, [few.index(k) for k in told]]


def _before(his: Float[Tensor, "T 3"], theirs: Float[Tensor, "T 3"]) -> Int[Tensor, "n"]:
    """Frames in which any of somebody there may stand before any of him; both from a camera, m."""
    ray = his / his.norm(dim=-1, keepdim=True)
    along = (theirs * ray).sum(-1)
    aside = (theirs - along[:, None] * ray).norm(dim=-1)
    return ((aside < ARMS) & (along > 0) & (along < his.norm(dim=-1) + ARMS)).nonzero()[:, 0]


def _nearest(rays: Float[Tensor, "T K 3"], ends: Float[Tensor, "T B 2 3"]) -> tuple[Float[Tensor, "T K B"], Float[Tensor, "T K B"]]:
    """How near unit rays from the origin come to lines between two ends, m, and how far along the ray; NaN where not known."""
    start, way = ends[:, :, 0], ends[:, :, 1] - ends[:, :, 0]
    # Without their parts along the ray, ray and line are a point and a line in a plane.
    begin, gain = rays @ start.mT, rays @ way.mT
    square, mixed, offset = ((x * y).sum(-1)[:, None] for x, y in ((way, way), (start, way), (start, start)))
    share = ((begin * gain - mixed) / (square - gain * gain).clamp_min(1e-9)).clamp(0, 1)
    along = begin + share * gain
    return (offset + share * (2 * mixed + share * square) - along * along).clamp_min(0).sqrt(), along

"""What of a person another one stands before: networks guess what they do not see, and mostly find it on who is in front."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras

LIMBS = tuple(
    (f"{side}_{a}", f"{side}_{b}", radius)
    for side in ("left", "right")
    for a, b, radius in (("shoulder", "elbow", 0.06), ("elbow", "wrist", 0.05), ("hip", "knee", 0.09), ("knee", "ankle", 0.07))
)
"""Two keypoints and how thick it is between them, m."""
TRUNK, HEAD = 0.17, 0.12
"""How thick it is between the middles of shoulders and hips, and of shoulders and ears, m."""
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
    hidden = torch.zeros(pixels.shape[:-1], dtype=torch.bool)
    place = torch.where(torch.isfinite(points), points, points.nanmedian(1, keepdim=True).values)
    rays, position = cameras.ray(pixels.double()).float(), cameras.position.float()
    for c in range(len(cameras)):
        far = (place - position[c]).norm(dim=-1)
        for other in others:
            ends, radius = bones(names, other)
            apart, along = _nearest(rays[c], ends - position[c])
            hidden[c] |= ((apart < radius) & (along < far[..., None] - BEFORE)).any(-1)
    return hidden


def _nearest(rays: Float[Tensor, "T K 3"], ends: Float[Tensor, "T B 2 3"]) -> tuple[Float[Tensor, "T K B"], Float[Tensor, "T K B"]]:
    """How near unit rays from the origin come to lines between two ends, m, and how far along the ray; NaN where not known."""
    start, way = ends[:, None, :, 0], (ends[:, :, 1] - ends[:, :, 0])[:, None]
    ray = rays[:, :, None]
    # Without their parts along the ray, ray and line are a point and a line in a plane.
    flat = lambda x: x - (x * ray).sum(-1, keepdim=True) * ray  # noqa: E731
    across, off = flat(way), flat(start)
    share = (-(across * off).sum(-1) / across.square().sum(-1).clamp_min(1e-9)).clamp(0, 1)
    spot = start + share[..., None] * way
    return flat(spot).norm(dim=-1), (spot * ray).sum(-1)

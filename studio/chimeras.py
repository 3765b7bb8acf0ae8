"""Detections that are no one's: where two people touch in a picture, networks join the left of one to the right of the other.

No projection makes a bone longer than it is. Across the shoulders and across the hips every view tells how long they are at least;
what most views and frames agree on is their length, and a detection that shows much more shows two people.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from studio.identity import Cast
from studio.values import Footage, of_actor

ACROSS = ("shoulder", "hip")
LONGER, BOTH = 1.18, 1.1
"""So many times its length no bone is seen: one of them so much, and all so much, for a single point may be anywhere."""
USUAL = 0.9
"""Quantile of the lengths seen in a take that is taken for the length: in a ring of cameras somebody always looks from the front."""


def chimeras(cameras: Cameras, footage: Footage, found: Cast, block: int) -> Bool[Tensor, "C T A"]:
    """Which detections of which actor join two people."""
    C, T, A = found.detection.shape
    names = footage.cut(slice(0, 0)).keypoints
    pairs = [(names.index(f"left_{n}"), names.index(f"right_{n}")) for n in ACROSS if f"left_{n}" in names]
    wide = torch.full((C, T, A, len(pairs)), torch.nan)
    for start in range(0, T, block):
        part = slice(start, min(start + block, T))
        keypoints = footage.cut(part)
        for a in range(A):
            wide[:, part, a] = _widths(cameras, keypoints.pixels, found.detection[:, part, a], found.place[part, a], pairs)
    length = torch.nanquantile(wide.transpose(0, 2).flatten(1, 2), USUAL, dim=1) if T else wide.new_zeros(A, len(pairs))
    return (wide > LONGER * length).any(-1) & (wide > BOTH * length).all(-1)


def _widths(
    cameras: Cameras,
    pixels: Float[Tensor, "C T D K 2"],
    which: Int[Tensor, "C T"],
    place: Float[Tensor, "T 3"],
    pairs: list[tuple[int, int]],
) -> Float[Tensor, "C T P"]:
    """How long each pair looks at the person's distance, m; NaN where it is not seen."""
    own = of_actor(pixels, which, torch.nan)
    left, right = (own[:, :, list(side)] for side in zip(*pairs))
    depth = cameras.to_camera(place.double())[..., 2].clamp_min(0.3).float()
    return (left - right).norm(dim=-1) * (depth / cameras.focal.mean(1)[:, None].float())[..., None]

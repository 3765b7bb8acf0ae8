"""Who else is in a person's crop, and a crop without them.

The pose network knows one person a crop. Of two who touch it takes the left of one and the right of the other, or jumps to whom it sees
better, and the two become one. Each one's own mask of the frame before says what of a crop is somebody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from studio.detect.regions import Array, Region, from_crop_to_crop, paste

SOMEBODY = 0.4
"""Probability from which a pixel of a mask is taken for the person."""
RIM, REACH = 1 / 32, 1 / 6
"""Of a crop's side: how far beyond his mask a person is painted over, and from how far the colours come that take his place."""
Seen = tuple[Float[Array, "side side"], Region]
"""Somebody's mask and the region it lies in."""
Around = tuple[Seen | None, Sequence[Seen]]
"""Where a region's own person was seen, None where he was not; and others."""


@dataclass(frozen=True)
class Others:
    """What of a crop is to be painted over, and with what."""

    covered: Bool[Array, "side side"]
    wall: Bool[Array, "side side"]
    """Where nobody is."""


def of_others(region: Region, others: Sequence[Seen], own: Seen | None, side: int) -> Others | None:
    """What of a region's crop, `side` px a side, is somebody else and not its own person; None where nobody else is in it."""
    near = [o for o in others if np.hypot(o[1].x - region.x, o[1].y - region.y) < 0.75 * (o[1].size + region.size)]
    if not near:
        return None
    theirs = np.max([_within(region, other, side) for other in near], 0)
    mine = np.zeros_like(theirs) if own is None else _within(region, own, side)
    covered = (theirs > SOMEBODY) & (theirs > mine)
    if not covered.any():
        return None
    own_part = (mine > SOMEBODY) & ~covered
    rim = np.ones((max(3, round(side * RIM)),) * 2, np.uint8)
    grown = [cv2.dilate(part.astype(np.uint8), rim) > 0 for part in (covered, own_part)]
    return Others(grown[0] & ~own_part, ~grown[0] & ~grown[1])


def _within(region: Region, seen: Seen, side: int) -> Float[Array, "side side"]:
    """A mask as the region's crop shows it."""
    mask, place = seen
    matrix = from_crop_to_crop(region, side, place, len(mask))
    return cv2.warpAffine(mask, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT)


def without(crop: Float[Array, "side side 3"], others: Others | None) -> Float[Array, "side side 3"]:
    """A crop with what is around in the place of others, as smooth as a wall."""
    if others is None:
        return crop
    known = others.wall.astype(np.float32)
    reach = max(3, round(len(crop) * REACH))
    light, weight = cv2.blur(crop * known[..., None], (reach, reach)), cv2.blur(known, (reach, reach))
    whole = (crop * known[..., None]).sum((0, 1)) / max(float(known.sum()), 1.0)
    wall = np.where(weight[..., None] > 1e-3, light / np.maximum(weight, 1e-3)[..., None], whole)
    return np.where(others.covered[..., None], wall, crop).astype(np.float32)


def image_without(image: UInt8[Array, "H W 3"], others: Sequence[Seen], reduction: int) -> UInt8[Array, "H W 3"]:
    """The image with what is around people in their places, as smooth as a wall. It is `reduction` times smaller than theirs."""
    height, width = image.shape[:2]
    covered = np.zeros((height, width), np.uint8)
    for own, region in others:
        rim = max(3, round(region.size / reduction / 40))
        mask = paste(own, region, reduction * width, reduction * height, reduction) > SOMEBODY
        covered = np.maximum(covered, cv2.dilate(mask.astype(np.uint8), np.ones((rim, rim), np.uint8)))
    small = (max(width // 8, 1), max(height // 8, 1))
    known = cv2.resize(1.0 - covered, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    light = cv2.resize(image * (1 - covered)[..., None], small, interpolation=cv2.INTER_AREA).astype(np.float32)
    reach = max(3, small[0] // 6)
    light, known = cv2.blur(light, (reach, reach)), cv2.blur(known, (reach, reach))
    wall = cv2.resize(light / np.maximum(known, 1e-3)[..., None], (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(covered[..., None] > 0, wall.clip(0, 255).astype(np.uint8), image)

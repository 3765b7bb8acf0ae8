"""A person's mask between two looks: both masks moved along with the nearest bone, and their mean."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Int

from rigs.keypoints import BONES, COCO_WHOLEBODY
from studio.detect.landmarks import Sight

Array = np.ndarray
ENDS = np.array([[COCO_WHOLEBODY.index(name) for name in bone] for bone in BONES])
ALONG = np.linspace(0, 1, 8)
SMOOTH = 5
"""Cells over which the motion is smoothed where one bone's part of the image ends."""
EDGE = cv2.BORDER_REPLICATE
"""Of what enters the image at its edge nothing is known but that it goes on there."""
MARGIN = 4
"""Cells around what either look shows."""


def moved_mask(before: Sight, after: Sight, part: float, reduction: int) -> Float[Array, "h w"] | None:
    """The mask at `part` of the way from one look to the next (0 to 1), of the masks' resolution; None where a look has none."""
    one, two = before.mask, after.mask
    if one is None or two is None:
        return None
    out = np.zeros_like(one)
    place = _extent(one, two)
    if place is None:
        return out
    start, spots = place
    from_one, to_two = (_bones(sight, reduction) for sight in (before, after))
    known = np.isfinite(from_one).all(1) & np.isfinite(to_two).all(1)
    here, there = from_one[known], to_two[known]
    shape = tuple(int(n) for n in spots)
    step = _nearest(here + part * (there - here) - start[::-1], there - here, shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    window = slice(start[0], start[0] + shape[0]), slice(start[1], start[1] + shape[1])

    def moved(mask: Float[Array, "h w"], by: float) -> Float[Array, "n m"]:
        at = columns + by * step[..., 0], rows + by * step[..., 1]
        return np.asarray(cv2.remap(mask[window].astype(np.float32), *at, cv2.INTER_LINEAR, borderMode=EDGE))

    out[window] = (1 - part) * moved(one, -part) + part * moved(two, 1 - part)
    return out


def _extent(one: Float[Array, "h w"], two: Float[Array, "h w"]) -> tuple[Int[Array, "2"], Int[Array, "2"]] | None:
    """First row and column, and how many, of what either mask shows, with a margin; None for nothing."""
    either = (one > 0.05) | (two > 0.05)
    rows, columns = (np.flatnonzero(either.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    low = np.maximum([rows[0] - MARGIN, columns[0] - MARGIN], 0)
    return low, np.minimum([rows[-1] + MARGIN + 1, columns[-1] + MARGIN + 1], either.shape) - low


def _bones(sight: Sight, reduction: int) -> Float[Array, "n 2"]:
    """Points along a person's bones, in cells of the mask; NaN where not seen."""
    ends = (sight.pixels[ENDS] + 0.5) / reduction - 0.5
    return (ends[:, :1] + ALONG[None, :, None] * (ends[:, 1:] - ends[:, :1])).reshape(-1, 2)


def _nearest(places: Float[Array, "n 2"], steps: Float[Array, "n 2"], shape: tuple[int, ...]) -> Float[Array, "h w 2"]:
    """For every cell the step of the nearest place (x, y); nothing moves where nothing is known."""
    x, y = np.round(places).astype(int).T if len(places) else np.zeros((2, 0), int)
    inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    if not inside.any():
        return np.zeros((*shape, 2), np.float32)
    x, y, steps = x[inside], y[inside], steps[inside]
    seeds = np.ones(shape, np.uint8)
    seeds[y, x] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    number = np.asarray(labels, np.int64)
    table = np.zeros((int(number.max()) + 1, 2), np.float32)
    table[number[y, x]] = steps
    return cv2.blur(table[number], (SMOOTH, SMOOTH))

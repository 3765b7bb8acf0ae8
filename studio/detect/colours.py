"""The colours of a person's clothes in one image: little enough to be kept for every detection, and telling when somebody returns."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from rigs.keypoints import COCO_WHOLEBODY
from studio.detect.landmarks import Sight

Array = np.ndarray
HUES, GREYS = 8, 4
LENGTH = 2 * (HUES + GREYS)
"""Bins of the trunk, then as many of the thighs; their sum is 1."""
GREY = 45
"""Chroma (0 to 255) below which a colour counts as grey."""
SURE = 0.3
SHOULDERS, HIPS, KNEES = ([COCO_WHOLEBODY.index(f"{side}_{n}") for side in ("left", "right")] for n in ("shoulder", "hip", "knee"))


def colours(image: UInt8[Array, "H W 3"], sight: Sight) -> Float[Array, "24"]:
    """Shares of hues and greys on the trunk and on the thighs (RGB image); NaN where the trunk or the thighs are not seen.

    Where a mask tells that somebody else covers the place, it is left out.
    """
    p, sure = sight.pixels, sight.confidence > SURE
    if not (sure[SHOULDERS].all() and sure[HIPS].all() and sure[KNEES].any()):
        return np.full(LENGTH, np.nan)
    down, across = np.meshgrid(np.linspace(0.1, 0.9, 12), np.linspace(0.2, 0.8, 6), indexing="ij")
    top, low = (p[pair[0]] + across[..., None] * (p[pair[1]] - p[pair[0]]) for pair in (SHOULDERS, HIPS))
    trunk = (top + down[..., None] * (low - top)).reshape(-1, 2)
    legs = [p[h] + u * (p[k] - p[h]) for h, k in zip(HIPS, KNEES) if sure[k] for u in np.linspace(0.25, 0.9, 18)]
    parts = [_shares(image, points, sight.mask) for points in (trunk, np.array(legs))]
    return np.concatenate(parts) / 2


def _shares(image: UInt8[Array, "H W 3"], points: Float[Array, "n 2"], mask: Float[Array, "h w"] | None) -> Float[Array, "12"]:
    """Shares of the colours at the points, neighbouring bins sharing what lies between them; NaN for too few points."""
    height, width = image.shape[:2]
    x, y = np.round(points).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    if mask is not None:
        scale = mask.shape[0] / height, mask.shape[1] / width
        inside[inside] = mask[(y[inside] * scale[0]).astype(int), (x[inside] * scale[1]).astype(int)] > 0.5
    if inside.sum() < 12:
        return np.full(HUES + GREYS, np.nan)
    hue, saturation, value = cv2.cvtColor(image[y[inside], x[inside]][None], cv2.COLOR_RGB2HSV)[0].astype(float).T
    vivid = np.clip(saturation * value / 255 / GREY - 0.5, 0, 1)
    out = np.zeros(HUES + GREYS)
    for first, count, at, weight in (
        (0, HUES, hue / 180 * HUES, vivid),
        (HUES, GREYS, np.clip(value / 256 * GREYS - 0.5, 0, GREYS - 1), 1 - vivid),
    ):
        low = np.floor(at).astype(int)
        part = at - low
        np.add.at(out, first + low % count, weight * (1 - part))
        np.add.at(out, first + (low + 1) % count, weight * part)
    return out / out.sum()

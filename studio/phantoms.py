"""People who are nobody: pictures and dummies that never move, and images in mirrors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import uniform_filter1d

Array = np.ndarray
Followed = tuple[Int[Array, "n"], Float[Array, "n M 3"]]
"""Frames in which someone was seen, and the marks then, m."""
WINDOW = 0.5
"""Places are means over this long, s, so that a network's noise is no movement."""
ENOUGH = 2.0
"""Nobody is called a picture who was seen for less, s."""
SIZE = 0.15
"""An image may be off by this much, m."""


def moves(frames: Int[Array, "n"], marks: Float[Array, "n M 3"], fps: float, still: float) -> bool:
    """Whether at least two parts of the body move by more than `still`, m, or there was too little time to tell."""
    window = (frames / (WINDOW * fps)).astype(int)
    if len(frames) < ENOUGH * fps or len(set(window.tolist())) < 4:
        return True
    middles = []
    for w in np.unique(window):
        here = marks[window == w]
        often = np.isfinite(here).all(-1).sum(0) >= max(3, 0.25 * len(here))
        middles.append(np.where(often[:, None], np.nanmedian(np.where(often[:, None], here, 0.0), 0), np.nan))
    ways = np.stack(middles)
    known = np.isfinite(ways).all(-1).sum(0) >= 3
    far = [
        np.linalg.norm(w - np.median(w, 0), axis=-1).max()
        for w in (ways[np.isfinite(ways[:, m]).all(-1), m] for m in np.flatnonzero(known))
    ]
    return len(far) < 3 or sorted(far)[-2] > still


def mirror_images(followed: Sequence[Followed], cameras: Float[Array, "C 3"], fps: float) -> set[int]:
    """The numbers of all who move as another does, reflected in a plane behind which no camera stands.

    `x` and its image differ along the plane's normal `n` alone and have their middles on the plane; both are fitted to all frames, and
    the movement about the mean place must be the reflected one: people who stand face to face look alike, but do not move
    alike: theirs differs by more than either moves.
    """
    images: set[int] = set()
    for (a, image), (_, original) in permutations(enumerate(followed), 2):
        _, i, j = np.intersect1d(image[0], original[0], return_indices=True)
        if len(i) < ENOUGH / 2 * fps:
            continue
        y, x = image[1][i], original[1][j]
        often = (np.isfinite(x) & np.isfinite(y)).all((0, 2))
        if often.sum() < 3:
            continue
        y, x = (uniform_filter1d(p[:, often], max(1, round(WINDOW * fps)), axis=0) for p in (y, x))
        step = np.linalg.svd((y - x).reshape(-1, 3), full_matrices=False)[2][0]
        height = ((x + y) / 2 @ step).ravel()
        plane = np.median(height)
        reflection = np.eye(3) - 2 * np.outer(step, step)
        off = np.linalg.norm(x @ reflection + 2 * plane * step - y, axis=-1)
        dx, dy = (p - p.mean(0) for p in (x, y))
        moved, missed = (float(np.sqrt((p**2).sum(-1).mean())) for p in (dx, dy - dx @ reflection))
        behind = np.sign(np.median(y @ step) - plane) != np.sign(cameras @ step - plane)
        if np.median(off) < SIZE and moved > 0.03 and missed < 0.6 * moved and behind.mean() > 0.8:
            images.add(a)
    return images

"""Two cameras whose calibrations, or videos, were exchanged: told by how much better views agree the other way round."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from calibration.cameras import Cameras
from studio.identity import Scene
from studio.matching import Sighting
from studio.people import IdentityConfig
from studio.values import Footage, Keypoints2D

FRAMES = 12
"""So many, spread over the take, are looked at."""
AGREED = 0.75
"""Where a larger share of all detections finds others to agree with, nothing is suspected."""
BETTER = 1.3
"""Exchanged cameras must bring so many times more agreement."""
TRIED = 8
"""Of more cameras only those are suspected that agree least."""


def exchanged_cameras(cameras: Cameras, footage: Footage, config: IdentityConfig) -> tuple[str, str] | None:
    """The names of two cameras that agree far better with the others when each has the other's place and lens; None where all is well.

    In a rig that looks the same from its other side, exchanging one pair is exchanging another: then either may be named.
    """
    T = footage.frames
    parts = [footage.cut(slice(t, t + 1)) for t in np.unique(np.linspace(0, T - 1, FRAMES).astype(int)).tolist()] if T else []
    if not parts or len(cameras) < 3:
        return None
    agreed, seen = _agreement(cameras, parts, config)
    if agreed.sum() > AGREED * seen.sum():
        return None
    share = agreed / np.maximum(seen, 1)
    suspects = sorted(np.argsort(share, kind="stable")[:TRIED].tolist())
    best, pair = BETTER * max(float(agreed.sum()), 1.0), None
    for a, b in combinations(suspects, 2):
        if not bool((cameras.size[a] == cameras.size[b]).all()):
            continue
        order = list(range(len(cameras)))
        order[a], order[b] = b, a
        found = float(_agreement(replace(cameras[order], names=cameras.names), parts, config)[0].sum())
        if found > best:
            best, pair = found, (cameras.names[a], cameras.names[b])
    return pair


def _agreement(cameras: Cameras, parts: list[Keypoints2D], config: IdentityConfig) -> tuple[np.ndarray, np.ndarray]:
    """For each camera how many of its detections agree with two others at least, and how many there are."""
    agreed, seen = np.zeros(len(cameras)), np.zeros(len(cameras))
    scene = Scene(cameras, parts[0], config)
    for frame, part in enumerate(parts):
        rays, size = scene.sight(part)
        nobody = np.zeros(rays.shape[:1] + rays.shape[2:3], bool)
        for person in scene.discover(frame, Sighting(rays[:, 0], scene.position), size[:, 0], nobody, None):
            views = person.detections[-1] >= 0
            agreed += views * (views.sum() >= 3)
        seen += (np.isfinite(rays[:, 0]).all(-1).sum(-1) >= 3).sum(-1)
    return agreed, seen

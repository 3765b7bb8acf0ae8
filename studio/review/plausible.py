"""Joints that lie as people seldom hold them: what the critic of poses (`studio.nets.recovery`) makes of a finished motion."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.limbs import runs
from rigs.rotation import exp
from studio.nets.recovery import unlike
from studio.values import Motion

BODY = "makehuman"
CHUNK = 4096
"""Frames judged at once."""
BRIEF = 3
"""Frames: a strange moment shorter than this is not worth a look."""


def strangeness(motion: Motion) -> Float[Tensor, "T J"] | None:
    """Of each of the motion's joints: 0 is usual, 1 as strange as one pose of a thousand; NaN for joints that the critic does not know.

    None for another body than the default one, on which the critic learned: others have other joints, or rest otherwise.
    """
    if motion.body != BODY:
        return None
    parts = [unlike(motion.joints, exp(motion.rotation[t : t + CHUNK])) for t in range(0, len(motion.rotation), CHUNK)]
    return torch.cat(parts) if parts else None


def strange_joints(motion: Motion, limit: float) -> list[dict[str, Any]]:
    """Joints beyond `limit` for some frames on end, the strangest first: name, how strange at most, stretches (first and last frame)."""
    values = strangeness(motion)
    if values is None:
        return []
    found = []
    for j in (values > limit).any(0).nonzero()[:, 0].tolist():
        spans = runs(values[:, j] > limit, BRIEF)
        if spans:
            most = max(float(values[a:z, j].max()) for a, z in spans)
            frames = [[motion.first_frame + a, motion.first_frame + z - 1] for a, z in spans]
            found.append({"joint": motion.joints[j], "most": round(most, 2), "frames": frames})
    return sorted(found, key=lambda row: -row["most"])

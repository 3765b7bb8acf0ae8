"""Smoothness that knows a strike from a held pose: how lively each limb is in each moment, from how it moved in a first fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from rigs.skeleton import Skeleton
from studio.fit.priors import Smoothness
from studio.fit.state import State

PARTS = {
    "arm": ("Shoulder", "Arm", "ForeArm", "Hand"),
    "leg": ("UpLeg", "Leg", "Foot", "ToeBase"),
}
REACH = 2
"""Frames on either side that share one liveliness."""


def parts(skeleton: Skeleton, coefficients: int) -> Int[Tensor, "D"]:
    """Which part of the body each unknown is of: 0 the trunk, then arms, hands and legs of either side, last the face."""
    found: dict[str, int] = {"": 0}

    def part(name: str) -> int:
        side = next((s for s in ("Left", "Right") if name.startswith(s)), "")
        own = name.removeprefix(side)
        limb = next((k for k, joints in PARTS.items() if own in joints), "hand" if own.startswith("Hand") else None)
        return 0 if limb is None else found.setdefault(side + limb, len(found))

    joints = torch.tensor([part(n) for n in skeleton.names]).repeat_interleave(3)
    return torch.cat([torch.zeros(3, dtype=torch.long), joints, torch.full((coefficients,), len(found))])


@dataclass(frozen=True)
class Bursts:
    """The variance of a part's accelerations in a few frames: what was seen where that is more than usual, else half of that and half of
    the usual. Iterated, a heavy-tailed prior whose scale a part's joints and neighbouring frames share (iteratively reweighted least
    squares; Lange, Little and Taylor 1989)."""

    part: Int[Tensor, "D"]
    ceiling: float
    """How much livelier than usual a part may become."""

    def adapted(self, smoothness: Smoothness, state: State) -> Smoothness:
        """The smoothness of a stretch that moves about as `state` does; `smoothness` is the usual one, the same for all frames."""
        if len(state) < 3:
            return smoothness
        square = smoothness.differences(state)[0].square() * smoothness.precision
        moving = square > 0  # what is locked says nothing
        count = int(self.part.max()) + 1
        sums = lambda x: x.new_zeros(len(x), count).index_add(1, self.part, x)  # noqa: E731
        mean = sums(square) / sums(moving.to(square.dtype)).clamp_min(1)
        near = torch.nn.functional.avg_pool1d(mean.T[None], 2 * REACH + 1, 1, REACH, count_include_pad=False)[0].T
        variance = torch.maximum(near, 0.5 * (1 + near)).clamp_max(self.ceiling**2)
        return Smoothness(smoothness.precision / variance[:, self.part])

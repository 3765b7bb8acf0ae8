"""What an earlier fit tells the one that solves a stretch of it again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.fit.pulls import targets
from studio.fit.state import Pull, State

STAYS = 0.0005
"""How far points may move in frames that stay as they were, m."""


@dataclass(frozen=True)
class Earlier:
    """A stretch as it was, and what was around it."""

    state: State
    points: Float[Tensor, "T K 3"]
    """Where the state puts the keypoints, m."""
    fresh: Bool[Tensor, "T"]
    """Frames that are now told something else."""
    bound: Bool[Tensor, "T"]
    """Frames that stay as they were: both ends."""
    before: Float[Tensor, "A K 3"]
    """Keypoints in the frames before the stretch, m."""
    after: Float[Tensor, "B K 3"]
    """Keypoints in those after it, m."""

    def pull(self, points: Float[Tensor, "n K 3"], frames: slice | Tensor) -> Pull:
        """Holds the ends."""
        to = torch.where(self.bound[frames, None, None], self.points[frames], torch.nan)
        return targets(points, to, torch.full_like(points[..., 0], STAYS), 1e4)

    def widened(self, x: Float[Tensor, "T n 3"], columns: list[int]) -> Float[Tensor, "W n 3"]:
        """Positions of some keypoints in this stretch, between those before and after it."""
        return torch.cat([self.before[:, columns], x, self.after[:, columns]])

    @property
    def own(self) -> slice:
        """The stretch in what is widened."""
        return slice(len(self.before), len(self.before) + len(self.points))

"""A pose from one view's 2D keypoints: the network on which multi-view consistency is shown. No stage of a take uses it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.nets.ordinal import HIPS, KEYPOINTS
from studio.nets.residual import Residual


class Monocular(nn.Module):
    """Keypoints in one image to the pose in that view's axes."""

    def __init__(self, width: int = 320) -> None:
        super().__init__()
        K = len(KEYPOINTS)
        self.inner = nn.Sequential(
            nn.Linear(3 * K + 1, width), nn.ReLU(), Residual(width, None), Residual(width, None), nn.Linear(width, 3 * K)
        )

    def forward(self, seen: Float[Tensor, "N K 3"], tilt: Float[Tensor, "N"]) -> Float[Tensor, "N K 3"]:
        """Relative to the hips' middle, m. `seen` and `tilt` as `studio.nets.ordinal.flat` and `Depth` have them."""
        pose = self.inner(torch.cat([seen.flatten(1), tilt[:, None]], 1)).unflatten(1, (len(KEYPOINTS), 3))
        return pose - pose[:, HIPS].mean(1, keepdim=True)

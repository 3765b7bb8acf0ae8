"""The block that the networks on keypoints and features are made of."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """Two layers and a way around them (Martinez et al. 2017)."""

    def __init__(self, width: int, dropout: float | None = 0.0) -> None:
        """`dropout` None has no such layers, and checkpoints number those that learn without them."""
        super().__init__()
        lost = [] if dropout is None else [dropout]
        layer = lambda: [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(), *(nn.Dropout(p) for p in lost)]  # noqa: E731
        self.inner = nn.Sequential(*layer(), *layer())

    def forward(self, x: Tensor) -> Tensor:
        """The same with what the layers add."""
        return x + self.inner(x)

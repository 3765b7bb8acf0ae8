"""Crops one by one for networks of keypoints: batches that are never the same twice, and the maps that are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from rigs.keypoints import mirrored
from studio.nets.hourglass import BODY, CELL, normalised
from studio.train.performers import KEYPOINTS
from studio.train.scenes import Scenes

SPREAD = 0.9
"""Standard deviation of the target's blob, cells."""
HIDDEN = 0.4
"""Weight of a keypoint that is on the crop but hidden."""


@dataclass(frozen=True)
class Crops:
    """Crops one by one; N of S px with K keypoints."""

    images: UInt8[Tensor, "N S S 3"]
    keypoints: Float[Tensor, "N K 2"]
    """px."""
    weight: Float[Tensor, "N K"]
    """1 seen, `HIDDEN` on the crop but hidden, 0 outside."""
    visible: Bool[Tensor, "N K"]
    side: Float[Tensor, "N"]
    """Longer side of the person's box, px."""

    @classmethod
    def of(cls, scenes: Scenes, names: tuple[str, ...]) -> Crops:
        """All crops of some scenes, cameras of a moment one after the other."""
        which, size = [KEYPOINTS.index(n) for n in names], scenes.image.shape[-2]
        points, visible = scenes.keypoints[..., which, :].flatten(0, 2), scenes.visible[..., which].flatten(0, 2)
        inside = ((points > -0.5) & (points < size - 0.5)).all(-1)
        box = scenes.box.flatten(0, 2)
        weight = torch.where(visible, 1.0, HIDDEN) * inside
        return cls(scenes.image.flatten(0, 2), points, weight, visible, (box[:, 2:] - box[:, :2]).amax(-1))

    def batch(self, step: int, count: int, names: tuple[str, ...], seed: int) -> dict[str, Tensor]:
        """A random batch: mirrored half the time, turned, enlarged and shifted a little, in other light."""
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        which = torch.randint(len(self.images), (count,), generator=g)
        images, points, weight = normalised(self.images[which]), self.keypoints[which], self.weight[which]
        size = images.shape[-1]
        flip = (torch.rand(count, generator=g) < 0.5) & (len(names) == len(BODY))
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        other = list(mirrored(names))
        points = torch.where(flip[:, None, None], points[:, other] * points.new_tensor([-1, 1]) + points.new_tensor([size - 1, 0]), points)
        weight = torch.where(flip[:, None], weight[:, other], weight)
        draw = lambda *shape: torch.randn(*shape, generator=g).clamp(-2, 2)  # noqa: E731
        turn, grow, shift = 0.15 * draw(count), torch.exp(0.08 * draw(count)), 0.03 * size * draw(count, 2)
        A = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).unflatten(-1, (2, 2)) * grow[:, None, None]
        middle = (size - 1) / 2
        points = torch.einsum("nij,nkj->nki", A, points - middle) + middle + shift[:, None]
        # `affine_grid` wants the way back, in units of half the image.
        back = torch.linalg.inv(A)
        offset = -(back @ shift[..., None])[..., 0] * 2 / size
        grid = functional.affine_grid(torch.cat([back, offset[..., None]], -1), list(images.shape), align_corners=False)
        images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        images = images * (1 + 0.1 * draw(count, 1, 1, 1)) + 0.1 * draw(count, 3, 1, 1)
        inside = ((points > -0.5) & (points < size - 0.5)).all(-1)
        return {"images": images.contiguous(memory_format=torch.channels_last), "points": points, "weight": weight * inside}


def target(points: Float[Tensor, "B K 2"], cells: int) -> Float[Tensor, "B K h w"]:
    """A blob of `SPREAD` cells around each keypoint; every map sums to one."""
    line, at = torch.arange(cells, device=points.device), (points + 0.5) / CELL - 0.5
    x, y = (torch.exp(-0.5 * ((line - at[..., i : i + 1]) / SPREAD) ** 2) for i in (0, 1))
    maps = y[..., :, None] * x[..., None, :]
    return maps / maps.sum((-2, -1), keepdim=True).clamp_min(1e-12)


def divergence(logits: Float[Tensor, "B K h w"], wanted: Float[Tensor, "B K h w"], weight: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the maps from the blobs, nat, mean over what counts."""
    apart = functional.kl_div(logits.float().flatten(2).log_softmax(-1), wanted.flatten(2), reduction="none").sum(-1)
    return (apart * weight).sum() / weight.sum().clamp_min(1)

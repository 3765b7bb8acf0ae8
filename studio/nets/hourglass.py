"""The stacked hourglass (Newell, Yang & Deng 2016): keypoints of one person, or one hand, in a crop, with the covariance of each.

Every stack looks at the features at all scales and says where it takes the keypoints to be; the next one sees that and says it again.
Here a map is a distribution over its cells (softmax) instead of a regressed blob: what a crop leaves open shows as width, so the
map's covariance, scaled once on data of its own, is the keypoint's. Pixel (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from rigs.keypoints import COCO_17, FEET, RIGHT_HAND, mirrored
from studio.nets.checkpoint import Card, read

BODY = COCO_17 + FEET
"""What the network of bodies sees, 23 names."""
HAND = RIGHT_HAND
"""What the network of hands sees, 21 names; it is shown left hands as in a mirror."""
MEAN, DEVIATION = 0.5, 0.25
"""Of colours from 0 to 1."""
CELL = 4
"""px of the crop along each side of a map's cell."""
WINDOW = 2.5
"""Cells around the highest one that decide where the keypoint is; all others only widen its covariance."""


class Residual(nn.Module):
    """A bottleneck with pre-activation: 1x1, 3x3, 1x1, added to what came in."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.layers = nn.Sequential(
            nn.BatchNorm2d(into), nn.ReLU(), nn.Conv2d(into, half, 1, bias=False),
            nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1, bias=False),
            nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, out, 1),
        )  # fmt: skip
        self.skip = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x: Float[Tensor, "B a h w"]) -> Float[Tensor, "B b h w"]:
        """Features of the same size."""
        return self.skip(x) + self.layers(x)


class Glass(nn.Module):
    """One hourglass: down to a few cells and up again, with a way past at every scale."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.past, self.down, self.up = Residual(width, width), Residual(width, width), Residual(width, width)
        self.inner = Glass(width, levels - 1) if levels > 1 else Residual(width, width)

    def forward(self, x: Float[Tensor, "B f h w"]) -> Float[Tensor, "B f h w"]:
        """Features that know of the whole crop."""
        low = self.up(self.inner(self.down(functional.max_pool2d(x, 2))))
        return self.past(x) + functional.interpolate(low, scale_factor=2.0, mode="nearest")


class Hourglass(nn.Module):
    """Crops to maps of every stack. The crop's side must be a multiple of `CELL * 2 ** levels` px."""

    def __init__(self, keypoints: int = len(BODY), stacks: int = 2, width: int = 64, levels: int = 3) -> None:
        super().__init__()
        self.multiple = CELL * 2**levels
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 5, 2, 2, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU(), Residual(width // 2, width // 2),
            nn.MaxPool2d(2), Residual(width // 2, width), Residual(width, width),
        )  # fmt: skip
        self.glasses = nn.ModuleList(Glass(width, levels) for _ in range(stacks))
        self.after = nn.ModuleList(
            nn.Sequential(Residual(width, width), nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for _ in range(stacks)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, keypoints, 1) for _ in range(stacks))
        self.back = nn.ModuleList(nn.Conv2d(width + keypoints, width, 1) for _ in range(stacks - 1))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B K h w"]]:
        """Logits of every stack over cells of `CELL` px; colours are normalised as `normalised` does."""
        if images.shape[-1] % self.multiple or images.shape[-2] % self.multiple:
            raise ValueError(f"hourglass: a crop is {list(images.shape[-2:])} px; its sides must be multiples of {self.multiple}")
        x, maps = self.stem(images), []
        for i, (glass, after, head) in enumerate(zip(self.glasses, self.after, self.heads, strict=True)):
            features = after(glass(x))
            maps.append(head(features))
            if i < len(self.back):
                # As a distribution a map is small and bounded; logits would drown the features.
                said = maps[-1].flatten(2).softmax(-1).unflatten(2, maps[-1].shape[-2:])
                x = x + self.back[i](torch.cat([features, said.to(features.dtype) * 10], 1))
        return maps


def normalised(images: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """RGB as the network takes it."""
    return (images.movedim(-1, 1).float() / 255 - MEAN) / DEVIATION


@dataclass(frozen=True)
class Seen:
    """Keypoints in crops."""

    points: Float[Tensor, "B K 2"]
    """px of the crop."""
    covariance: Float[Tensor, "B K 2 2"]
    """px^2."""


def decoded(probability: Float[Tensor, "B K h w"]) -> Seen:
    """The mean near the highest cell, and the spread of the whole distribution around it.

    Exact to a fraction of a cell for any blob narrower than the window; a second blob elsewhere does not move the point.
    """
    h, w = probability.shape[-2:]
    p = probability.flatten(2)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    cells = torch.stack([columns, rows], -1).flatten(0, 1).to(p)
    mean = cells[p.argmax(-1)]
    for _ in range(4):  # the window follows the mean, so that it does not pull it to its own middle
        away = (cells - mean[..., None, :]).abs().amax(-1)
        near = p * (WINDOW + 0.5 - away).clamp(0, 1)
        mean = near @ cells / near.sum(-1, keepdim=True).clamp_min(1e-12)
    off = cells - mean[..., None, :]
    covariance = torch.einsum("bkn,bkni,bknj->bkij", p, off, off) / p.sum(-1)[..., None, None].clamp_min(1e-12)
    return Seen((mean + 0.5) * CELL - 0.5, covariance * CELL**2)


def probabilities(logits: Float[Tensor, "B K h w"], temperature: float = 1.0) -> Float[Tensor, "B K h w"]:
    """The distribution over cells; a temperature above 1 widens it."""
    return (logits.float() / temperature).flatten(2).softmax(-1).unflatten(2, logits.shape[-2:])


@torch.no_grad()
def looked(network: Hourglass, images: UInt8[Tensor, "B S S 3"], names: tuple[str, ...], flip: bool, temperature: float) -> Seen:
    """Keypoints by the last stack, with `flip` from the mean of the crop's distribution and its mirror image's."""
    given = normalised(images).to(memory_format=torch.channels_last)
    p = probabilities(network(given)[-1], temperature)
    if flip:
        again = probabilities(network(given.flip(-1))[-1], temperature).flip(-1)
        p = (p + again[:, list(mirrored(names))]) / 2
    return decoded(p)


class Eye:
    """A trained hourglass: crops in, keypoints with calibrated covariances out."""

    def __init__(self, weights: str | Path = "hourglass") -> None:
        """By the name of a checkpoint, or its file; errors are those of `studio.nets.checkpoint.read`, or name what its card lacks."""
        self.network, self.card = read(weights, Hourglass, "hourglass")
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        reading = self.card.decoding
        if missing := [k for k in ("temperature", "scale", "floor") if k not in reading]:
            raise ValueError(f"card of {weights}: decoding has no {missing[0]}; train again")
        if len(reading["scale"]) != len(self.card.keypoints):
            raise ValueError(f"card of {weights}: scale has {len(reading['scale'])} entries for {len(self.card.keypoints)} keypoints")
        self.flip = bool(reading.get("flip", True))

    @property
    def size(self) -> int:
        """Side of a crop, px."""
        return self.card.size[0]

    def see(self, images: UInt8[Tensor, "B S S 3"]) -> Seen:
        """Keypoints in the card's order, px of the crop, and their covariances, px^2."""
        seen = looked(self.network, images, self.card.keypoints, self.flip, float(self.card.decoding["temperature"]))
        return calibrated(seen, self.card)


def calibrated(seen: Seen, card: Card) -> Seen:
    """Covariances as errors really are: scaled for each keypoint, plus a floor in every direction."""
    scale = torch.tensor(card.decoding["scale"], dtype=seen.covariance.dtype)
    floor = float(card.decoding["floor"]) * torch.eye(2, dtype=seen.covariance.dtype)
    return Seen(seen.points, scale[:, None, None] * seen.covariance + floor)

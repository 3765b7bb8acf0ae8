"""Dense surface correspondences: for every pixel of a person's crop the part of the body, and where on the body's skin it is.

DensePose (Guler, Neverova and Kokkinos 2018) says it as I, U, V: a part and coordinates of that part's chart. Here I is the same; in place
of U and V, which jump at seams, each part has the three coordinates that the point of skin has on the body at rest, which do not. Beside
them stands how far these are off (Laplace), so that a solver can weigh them. The network is told the body's keypoints as a detector saw
them: which arm is the left one cannot be learned from a few thousand small pictures, and need not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from studio.nets.checkpoint import Card, read
from studio.nets.hourglass import BODY, normalised

UNIT = 0.1
"""m of the body at rest that a number of the network stands for."""
SHARPEST, BLUNTEST = 0.004, 0.3
"""Between which the network says it is off, m."""
_LIMBS = ("shoulder elbow", "elbow wrist", "hip knee", "knee ankle", "ankle big_toe", "heel small_toe", "shoulder hip", "eye ear")
BONES = (
    *((f"{side}_{a}", f"{side}_{b}") for a, b in (limb.split() for limb in _LIMBS) for side in ("left", "right")),
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("left_eye", "right_eye"), ("nose", "left_ear"), ("nose", "right_ear"),
)  # fmt: skip
"""Pairs of keypoints; the line between them is drawn for the network."""
THICK = 3.0
"""Width of such a line at either side, px of a crop of 64."""
REACH = 0.045
"""Around a point of the skin, pixels that say they lie within about so far of it tell where it is seen, m."""


def _block(into: int, out: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, size, stride, size // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class SurfaceNet(nn.Module):
    """Down to a sixteenth and up to half of the crop's resolution; each cell there tells of its four pixels."""

    def __init__(self, parts: int = 14, keypoints: int = len(BODY), widths: Sequence[int] = (32, 64, 96, 128), top: int = 48) -> None:
        super().__init__()
        self.parts = parts
        a, b, c, d = widths
        self.down = nn.ModuleList(
            nn.Sequential(_block(into, out, 2, 5 if into == 3 else 3), _block(out, out)) for into, out in ((3, a), (a, b), (b, c), (c, d))
        )
        self.lines = nn.Conv2d(3 * len(BONES), a, 1)
        self.pose = nn.Sequential(nn.Linear(3 * keypoints, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU())
        self.posed = nn.ModuleList(nn.Linear(d, w) for w in (d, c, b, top))
        self.deep = _block(d, d)
        self.across = nn.ModuleList(nn.Conv2d(into, out, 1) for into, out in ((d, c), (c, b), (b, top)))
        self.past = nn.ModuleList(nn.Conv2d(into, out, 1) for into, out in ((c, c), (b, b), (a, top)))
        self.up = nn.ModuleList(_block(w, w) for w in (c, b, top))
        self.dense = nn.Conv2d(top, 4 * (1 + parts + 3 * parts + 1), 1)

    def forward(self, images: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B K 2"]) -> Dense:
        """Colours are normalised as `studio.nets.hourglass.normalised` does; the sides must be multiples of 16 px.

        `points` are `BODY` in px of the crop, NaN where not seen.
        """
        if images.shape[-1] % 16 or images.shape[-2] % 16:
            raise ValueError(f"surface: a crop is {list(images.shape[-2:])} px; its sides must be multiples of 16")
        pose = self.pose(listed(points, images.shape[-1]))
        enter, first = self.down[0].children()
        kept = [first(enter(images) + self.lines(drawn(points, images.shape[-1])))]
        for down in list(self.down)[1:]:
            kept.append(down(kept[-1]))
        wide = [layer(pose)[..., None, None] for layer in self.posed]
        x = self.deep(kept[-1] + wide[0])
        for across, past, up, skip, told in zip(self.across, self.past, self.up, kept[2::-1], wide[1:], strict=True):
            x = up(functional.interpolate(across(x), scale_factor=2.0, mode="nearest") + past(skip) + told)
        fine = functional.pixel_shuffle(self.dense(x), 2).float()
        part, where, spread = fine.split([1 + self.parts, 3 * self.parts, 1], 1)
        return Dense(part, UNIT * where.unflatten(1, (self.parts, 3)), spread[:, 0])


def listed(points: Float[Tensor, "B K 2"], size: int) -> Float[Tensor, "B 3*K"]:
    """Keypoints as numbers about -1 to 1, and whether each is seen."""
    seen = torch.isfinite(points).all(-1, keepdim=True)
    at = torch.where(seen, (points + 0.5) / size * 2 - 1, 0)
    return torch.cat([at, seen.to(at)], -1).flatten(1)


def drawn(points: Float[Tensor, "B K 2"], size: int) -> Float[Tensor, "B 3*N h w"]:
    """Lines between keypoints at half the crop's resolution: how near a cell is to each of `BONES`, how far along it, and how far aside."""
    a, b = (points[:, [BODY.index(bone[i]) for bone in BONES], None, None] for i in (0, 1))
    known = torch.isfinite(a + b).all(-1)
    line = torch.arange(size // 2, device=points.device) * 2 + 0.5
    cells = torch.stack([line.expand(len(line), -1), line[:, None].expand(-1, len(line))], -1).to(points)
    way = torch.where(known[..., None], b - a, 1)
    length = way.square().sum(-1).clamp_min(1)
    off = cells - torch.where(known[..., None], a, 0)
    along = (off * way).sum(-1) / length
    aside = (off[..., 0] * way[..., 1] - off[..., 1] * way[..., 0]) / length.sqrt()
    rest = off - along.clamp(0, 1)[..., None] * way
    thick = THICK * size / 64
    near = torch.exp(-0.5 * rest.square().sum(-1) / thick**2) * known
    return torch.cat([near, near * along.clamp(-1, 2), near * (aside / thick).clamp(-3, 3)], 1)


@dataclass(frozen=True)
class Dense:
    """What the network says of every pixel."""

    part: Float[Tensor, "B parts+1 H W"]
    """Logits; the first is the background."""
    where: Float[Tensor, "B parts 3 H W"]
    """For each part, where on it the pixel would be: relative to the part's middle on the body at rest, m."""
    spread: Float[Tensor, "B H W"]
    """Logarithm of the Laplace distribution's scale, of `UNIT`."""

    def scale(self) -> Float[Tensor, "B H W"]:
        """Scale b of the error's density exp(-r / b) / (2 pi b^2) along the skin, m."""
        return (UNIT * self.spread.exp()).clamp(SHARPEST, BLUNTEST)

    def at(self, part: Int[Tensor, "B H W"]) -> Float[Tensor, "B 3 H W"]:
        """The coordinates of one part (from 0) a pixel."""
        return self.where.gather(1, part[:, None, None].expand(-1, 1, 3, -1, -1))[:, 0]


@dataclass(frozen=True)
class Skin:
    """What crops show of the skin."""

    seen: Bool[Tensor, "B H W"]
    """Where the person is."""
    part: Int[Tensor, "B H W"]
    """I of the IUV: from 0; the likeliest of the parts also where nobody is."""
    rest: Float[Tensor, "B H W 3"]
    """U and V of the IUV: where on the body at rest, m."""
    sigma: Float[Tensor, "B H W"]
    """Standard deviation of that along each direction of the skin, m."""


class Eye:
    """A trained network of surfaces: crops in, what they show of the skin out."""

    def __init__(self, weights: str | Path = "surface") -> None:
        """By the name of a checkpoint, or its file; errors are those of `studio.nets.checkpoint.read`, or name what its card lacks."""
        self.network, self.card = read(weights, SurfaceNet, "surface")
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.middles = middles_of(self.card)

    @property
    def size(self) -> int:
        """Side of a crop, px."""
        return self.card.size[0]

    @torch.no_grad()
    def see(self, images: UInt8[Tensor, "B S S 3"], points: Float[Tensor, "B K 2"]) -> Skin:
        """Every pixel's part, place and doubt. `points` are the keypoints of the card in px of the crop, NaN where not seen."""
        given = normalised(images).contiguous(memory_format=torch.channels_last)
        return shown(self.network(given, points), self.middles, float(self.card.decoding.get("scale", 1.0)))


def middles_of(card: Card) -> Float[Tensor, "parts 3"]:
    """Middle of every part on the body at rest, m. A `ValueError` where the card has none."""
    if "middles" not in card.decoding:
        raise ValueError(f"card of {card.name or 'the surface network'}: decoding has no middles; train again")
    return torch.tensor(card.decoding["middles"], dtype=torch.float32)


def shown(dense: Dense, middles: Float[Tensor, "parts 3"], scale: float = 1.0) -> Skin:
    """The likeliest reading; `scale` makes the doubt as large as errors are. The density's variance a direction is 3 b^2."""
    part = dense.part[:, 1:].argmax(1)
    rest = dense.at(part).movedim(1, -1) + middles.to(dense.where)[part]
    return Skin(dense.part.argmax(1) > 0, part, rest, scale * 3**0.5 * dense.scale())


def sighted(skin: Skin, rest: Float[Tensor, "P 3"], part: Int[Tensor, "P"]) -> tuple[Float[Tensor, "B P 2"], Float[Tensor, "B P"]]:
    """Where points of the skin are seen in each crop, px, NaN where not; and how far along the skin that may be off, m.

    `rest` is where the points are on the body at rest. Around each one the pixels are a linear function of the place on the skin, fitted
    to pixels of the same part by weighted least squares; its value at the point is where it is seen, whichever side its pixels are on.
    """
    found = [_sighted(skin.seen[b], skin.part[b], skin.rest[b], skin.sigma[b], rest, part) for b in range(len(skin.seen))]
    return torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found])


def _sighted(
    seen: Bool[Tensor, "H W"],
    parts: Int[Tensor, "H W"],
    places: Float[Tensor, "H W 3"],
    sigma: Float[Tensor, "H W"],
    rest: Float[Tensor, "P 3"],
    part: Int[Tensor, "P"],
) -> tuple[Float[Tensor, "P 2"], Float[Tensor, "P"]]:
    y, x = seen.nonzero(as_tuple=True)
    if not len(x):
        return torch.full((len(rest), 2), torch.nan), torch.full((len(rest),), torch.nan)
    pixels, where, doubt = torch.stack([x, y], -1).to(rest), places[y, x], sigma[y, x]
    away = (where[None] - rest[:, None]) / REACH
    weight = torch.exp(-0.5 * away.square().sum(-1)) * (parts[y, x][None] == part[:, None]) / doubt.square()
    total = weight.sum(1).clamp_min(1e-12)
    middle = weight @ pixels / total[:, None]
    design = torch.cat([torch.ones_like(away[..., :1]), away], -1)
    gram = torch.einsum("pn,pni,pnj->pij", weight / total[:, None], design, design)
    # The slope is held a little: of two or three pixels it cannot be told. The value is not.
    gram = gram + torch.diag(gram.new_tensor([1e-6, 0.1, 0.1, 0.1]))
    right = torch.einsum("pn,pni,pnd->pid", weight / total[:, None], design, pixels[None] - middle[:, None])
    at = middle + torch.linalg.solve(gram, right)[:, 0]
    # At least as much as one pixel at full weight, and its middle not far off: else the point is on the other side.
    near = (torch.exp(-0.5 * away.square().sum(-1)) * (parts[y, x][None] == part[:, None])).sum(1)
    off = (torch.einsum("pn,pnc->pc", weight, away) / total[:, None]).norm(dim=-1)
    there = (near > 1.0) & (off < 0.8)
    spread = (weight * doubt.square()).sum(1) / total
    return torch.where(there[:, None], at, torch.nan), torch.where(there, spread.sqrt(), torch.nan)

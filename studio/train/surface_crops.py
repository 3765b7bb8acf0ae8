"""Crops one by one for the network of surfaces: batches that are never the same twice, and labels that may be few."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional

from rigs.keypoints import mirrored
from studio.nets.hourglass import BODY, normalised
from studio.train.keypoint_crops import HIDDEN
from studio.train.performers import KEYPOINTS, model, topology
from studio.train.scenes import Scenes

NOISE = 0.5
"""px by which the keypoints that the network is told are off, of a crop of 64: about 15 mm."""
UNKNOWN = 255
"""Part of a pixel that nobody labelled."""


@lru_cache
def sides() -> tuple[int, ...]:
    """Of every part, background included, which one it is in a mirror."""
    names = ("background", *topology().part_names)
    other = {"left": "right", "right": "left"}
    swap = lambda n: next((n.replace(a, b, 1) for a, b in other.items() if n.startswith(a)), n)  # noqa: E731
    return tuple(names.index(swap(n)) for n in names)


@lru_cache
def middles() -> Float[Tensor, "parts 3"]:
    """Mean of every part's vertices on the body at rest, m; a part and its mirror image lie symmetrically."""
    rest, parts = model().skin.rest, torch.from_numpy(topology().parts)
    own = torch.stack([rest[parts == i + 1].mean(0) for i in range(len(topology().part_names))])
    other = own[[s - 1 for s in sides()[1:]]] * own.new_tensor([-1, 1, 1])
    return (own + other) / 2


@dataclass(frozen=True)
class Skins:
    """N crops of S px with what is known of their pixels."""

    images: UInt8[Tensor, "N S S 3"]
    part: UInt8[Tensor, "N S S"]
    """From 1; 0 where no person is seen, `UNKNOWN` where nobody says."""
    rest: Float[Tensor, "N S S 3"]
    """Where on the body at rest, m (float16); 0 where no person is."""
    weight: Float[Tensor, "N S S"]
    """How much a label counts (float16)."""
    keypoints: Float[Tensor, "N K 2"]
    """`BODY`, px."""
    told: Float[Tensor, "N K"]
    """1 seen, `HIDDEN` on the crop but hidden, 0 outside."""

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(cls, scenes: Scenes) -> Skins:
        """All crops of some scenes, exactly and wholly labelled; cameras of a moment one after the other."""
        assert scenes.mask is not None and scenes.part is not None and scenes.triangle is not None and scenes.corner is not None
        seen = scenes.mask.flatten(0, 2) == 2
        triangles = torch.from_numpy(topology().triangles)
        corner, triangle = scenes.corner.flatten(0, 2), scenes.triangle.flatten(0, 2)
        rest = torch.zeros(*seen.shape, 3, dtype=torch.float16)
        rest[seen] = torch.einsum("nk,nkc->nc", corner[seen], model().skin.rest[triangles[triangle[seen].long()]]).half()
        which, size = [KEYPOINTS.index(n) for n in BODY], scenes.image.shape[-2]
        points, visible = scenes.keypoints[..., which, :].flatten(0, 2), scenes.visible[..., which].flatten(0, 2)
        told = torch.where(visible, 1.0, HIDDEN) * ((points > -0.5) & (points < size - 0.5)).all(-1)
        part = torch.where(seen, scenes.part.flatten(0, 2), 0)
        return cls(scenes.image.flatten(0, 2), part, rest, torch.ones(seen.shape, dtype=torch.float16), points, told)

    @staticmethod
    def joined(parts: list[Skins]) -> Skins:
        """One after the other."""
        return Skins(*(torch.cat([getattr(p, f) for p in parts]) for f in Skins.__dataclass_fields__))

    def seen_points(self, seed: int) -> Float[Tensor, "N K 2"]:
        """Keypoints as a detector sees them."""
        points = torch.where((self.told > 0)[..., None], self.keypoints, torch.nan)
        return blurred(points, self.told, torch.Generator().manual_seed(seed * 7 + 3))

    def sparse(self, count: int, seed: int) -> Skins:
        """As people label them: `count` pixels of each person; the background is known."""
        part, N = self.part.clone(), len(self)
        lot = torch.rand(part.shape, generator=torch.Generator().manual_seed(seed)) * (part > 0)
        least = lot.flatten(1).topk(count, 1).values[:, -1]
        return replace(self, part=torch.where((part > 0) & (lot < least.view(N, 1, 1)), UNKNOWN, part).to(torch.uint8))

    def batch(self, step: int, count: int, seed: int) -> dict[str, Tensor]:
        """A random batch: mirrored half the time, turned, enlarged and shifted a little, in other light."""
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        which = torch.randint(len(self), (count,), generator=g)
        images, part = normalised(self.images[which]), self.part[which].long()
        rest, weight = self.rest[which].float().movedim(-1, 1), self.weight[which].float()[:, None]
        points, told, size = self.keypoints[which], self.told[which], images.shape[-1]
        flip = torch.rand(count, generator=g) < 0.5
        wide = flip[:, None, None, None]
        swap = torch.tensor([*sides(), *range(len(sides()), 256)])
        part = torch.where(flip[:, None, None], swap[part.flip(-1)], part)[:, None].float()
        rest = torch.where(wide, rest.flip(-1) * rest.new_tensor([-1, 1, 1]).view(3, 1, 1), rest)
        images, weight = torch.where(wide, images.flip(-1), images), torch.where(wide, weight.flip(-1), weight)
        other = list(mirrored(BODY))
        points = torch.where(flip[:, None, None], points[:, other] * points.new_tensor([-1, 1]) + points.new_tensor([size - 1, 0]), points)
        told = torch.where(flip[:, None], told[:, other], told)
        draw = lambda *shape: torch.randn(*shape, generator=g).clamp(-2, 2)  # noqa: E731
        turn, grow, shift = 0.15 * draw(count), torch.exp(0.08 * draw(count)), 0.03 * size * draw(count, 2)
        A = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).unflatten(-1, (2, 2)) * grow[:, None, None]
        points = torch.einsum("nij,nkj->nki", A, points - (size - 1) / 2) + (size - 1) / 2 + shift[:, None]
        back = torch.linalg.inv(A)  # `affine_grid` wants the way back, in units of half the image
        grid = functional.affine_grid(
            torch.cat([back, -(back @ shift[..., None]) * 2 / size], -1), [count, 3, size, size], align_corners=False
        )
        labels = functional.grid_sample(torch.cat([part, rest, weight], 1), grid, mode="nearest", align_corners=False)
        images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        images = images * (1 + 0.1 * draw(count, 1, 1, 1)) + 0.1 * draw(count, 3, 1, 1)
        points = blurred(torch.where((told > 0)[..., None], points, torch.nan), told, g)
        return {
            "images": images.contiguous(memory_format=torch.channels_last), "part": labels[:, 0].round().long(),
            "rest": labels[:, 1:4], "weight": labels[:, 4], "points": points,
        }  # fmt: skip


def blurred(points: Float[Tensor, "N K 2"], told: Float[Tensor, "N K"], g: torch.Generator) -> Float[Tensor, "N K 2"]:
    """Keypoints as a detector sees them, px of a crop of 64: off by `NOISE`, more where hidden, a few wild ones, some missing."""
    draw = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    size = torch.where(told == HIDDEN, 2 * NOISE, NOISE) * torch.where(draw(*told.shape) < 0.03, 8.0, 1.0)
    points = points + size[..., None] * torch.randn(points.shape, generator=g)
    lost = draw(*told.shape) < torch.where(told == HIDDEN, 0.4, 0.06)
    return torch.where(lost[..., None], torch.nan, points)


def nearest_vertices(rest: Float[np.ndarray, "N 3"], part: np.ndarray | None, allowed: np.ndarray) -> np.ndarray:
    """Of places on the body at rest the vertex next to each: of the named part (from 0), or of any."""
    vertices, parts = model().skin.rest.numpy(), topology().parts[allowed]
    if part is None:
        return allowed[KDTree(vertices[allowed]).query(rest)[1]]
    out = np.zeros(len(rest), np.int64)
    for p in np.unique(part):
        own = allowed[parts == p + 1]
        out[part == p] = own[KDTree(vertices[own]).query(rest[part == p])[1]]
    return out

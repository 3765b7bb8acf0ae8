"""Where in space a person is: masks and keypoints of any number of calibrated views to a volume of occupancy (after BodyNet, 2018).

BodyNet's side view is rendered; a studio's side view is a real camera. So features of all views meet in one upright metric grid around
the person, turned with the hips, and are pooled over the views (Iskakov et al., Learnable triangulation, 2019); a small 3D network reads
it. `hull` is what geometry alone knows: the space that every mask admits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from studio.nets import checkpoint
from studio.nets.shape import KEYPOINTS, SIZE, WINDOW, Sight

REACH = 1.1
"""Half the edge of the cube, m."""
ABOVE = 0.05
"""How far above the hips its middle is, m."""
FINE = 64
"""Cells along an edge of what comes out; the network itself works on half as many."""
EDGE = 0.15
"""Distances to a mask's edge count up to here, m."""
ADMITTED = 0.9
"""How much of a cell's place every mask must hold for an untrained network to call it body: where hulls of four masks are at their best."""
THICK = 0.06
"""Spread of a limb's heat around the line between its keypoints, m."""
_LIMBS = (
    (("nose", "left_ear"), ("nose", "right_ear"), ("left_ear", "right_ear")),
    (
        ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
        ("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"),
    ),
    *(
        pairs
        for s in ("left", "right")
        for pairs in (
            ((f"{s}_shoulder", f"{s}_elbow"),),
            ((f"{s}_elbow", f"{s}_wrist"),),
            ((f"{s}_hip", f"{s}_knee"),),
            ((f"{s}_knee", f"{s}_ankle"), (f"{s}_heel", f"{s}_big_toe")),
        )
    ),
)  # fmt: skip
PARTS = len(_LIMBS)
"""Head, trunk; upper arm, forearm, thigh and shin with foot, first of the left side."""
MIRRORED = (0, 1, *range(2 + (PARTS - 2) // 2, PARTS), *range(2, 2 + (PARTS - 2) // 2))
"""Each part's place in a mirror."""
FEATURES = 8 * 4 + 3 * PARTS + 4


@dataclass(frozen=True)
class Grid:
    """Upright cubes around B people."""

    centre: Float[Tensor, "B 3"]
    """Of the cubes, world, m."""
    R_grid_world: Float[Tensor, "B 3 3"]
    """x to the left hip, z up (`studio.nets.shape.heading`)."""

    @staticmethod
    def around(hips: Float[Tensor, "B 3"], heading: Float[Tensor, "B 3 3"]) -> Grid:
        """Cubes for people whose hips' middle is there (m)."""
        return Grid(hips + hips.new_tensor([0.0, 0.0, ABOVE]), heading)

    @staticmethod
    def axis(size: int, device: torch.device | str = "cpu") -> Float[Tensor, "D"]:
        """Middles of the cells along any axis of the grid, m."""
        return ((torch.arange(size, device=device) + 0.5) / size * 2 - 1) * REACH

    def points(self, size: int) -> Float[Tensor, "B P 3"]:
        """Middles of size^3 cells in the world, m; z slowest, x fastest, as volumes (B, D, D, D) are stored."""
        a = Grid.axis(size, self.centre.device)
        z, y, x = torch.meshgrid(a, a, a, indexing="ij")
        own = torch.stack([x, y, z], -1).reshape(-1, 3)
        return self.centre[:, None] + own @ self.R_grid_world

    def within(self, points: Float[Tensor, "B P 3"]) -> Float[Tensor, "B P 3"]:
        """World points in the grid, -1 to 1 from face to face."""
        return ((points - self.centre[:, None]) @ self.R_grid_world.mT) / REACH


def drawn(masks: Float[Tensor, "B N 64 64"], keypoints: Float[Tensor, "B N K 3"]) -> tuple[Tensor, Tensor]:
    """Images to unproject: emptiness with the distance to the mask's edge in units of `EDGE` (outside positive), and the limbs' heat."""
    B, N = masks.shape[:2]
    empty = 1 - masks
    far = torch.from_numpy(np.stack([_edge(m) for m in masks.reshape(B * N, SIZE, SIZE).cpu().numpy()])).to(masks)
    return torch.stack([empty, far.view(B, N, SIZE, SIZE)], 2), heat(keypoints)


def _edge(mask: np.ndarray) -> np.ndarray:
    """Signed distance to the mask's edge."""
    inside = (mask > 0.5).astype(np.uint8)
    if not inside.any() or inside.all():
        return np.full(mask.shape, -1.0 if inside.any() else 1.0, np.float32)
    out, own = (cv2.distanceTransform(m, cv2.DIST_L2, 3) for m in (1 - inside, inside))
    signed = np.where(inside > 0, 0.5 - own, out - 0.5)
    return (signed * (WINDOW / SIZE / EDGE)).clip(-1, 1).astype(np.float32)


def heat(keypoints: Float[Tensor, "B N K 3"]) -> Float[Tensor, "B N L 64 64"]:
    """How near a pixel is to each part's lines, 1 on them; parts whose keypoints were not seen stay 0."""
    a, b = (torch.tensor([KEYPOINTS.index(pair[i]) for limb in _LIMBS for pair in limb], device=keypoints.device) for i in (0, 1))
    line = (torch.arange(SIZE, device=keypoints.device) + 0.5) / SIZE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    pixel = torch.stack([x, y], -1).view(-1, 2)
    start, end = keypoints[..., a, :], keypoints[..., b, :]
    along = end[..., :2] - start[..., :2]
    from_start = pixel - start[..., None, :2]
    share = ((from_start * along[..., None, :]).sum(-1) / along.square().sum(-1, keepdim=True).clamp_min(1e-6)).clamp(0, 1)
    square = (from_start - share[..., None] * along[..., None, :]).square().sum(-1) * (WINDOW / 2) ** 2
    seen = (start[..., 2:] > 0) & (end[..., 2:] > 0)
    each = torch.where(seen, torch.exp(-square / (2 * THICK**2)), 0)
    parts = [x.amax(2) for x in each.split([len(limb) for limb in _LIMBS], 2)]
    return torch.stack(parts, 2).unflatten(-1, (SIZE, SIZE))


def hull(masks: Float[Tensor, "B N 64 64"], sight: Sight, grid: Grid, size: int = FINE) -> Float[Tensor, "B D D D"]:
    """How far the emptiest of the views admits a cell, 0 to 1: above a threshold, the intersection of the masks. No learning.

    A window holds the whole person, so what lies outside one is not the person's.
    """
    return _looked(masks[:, :, None], sight, grid, size).amin(1)[:, 0]


def _looked(images: Float[Tensor, "B N C 64 64"], sight: Sight, grid: Grid, size: int) -> Float[Tensor, "B N C D D D"]:
    """Images at the cells' places in each view; 0 where a cell lies outside the window."""
    B, N, C = images.shape[:3]
    turn = sight.R_view_world @ grid.R_grid_world[:, None].mT
    middle = (sight.R_view_world @ (grid.centre[:, None] - sight.position)[..., None])[..., 0]
    a = Grid.axis(size, images.device)
    t, plane = turn[..., None, None], middle[..., None, None]  # cells are on lines: sums of three, no product for each
    plane = plane + t[..., 0, :, :] * a + t[..., 1, :, :] * a[:, None]
    x, y, z = (plane[..., None, :, :] + t[..., 2, :, :][..., None] * a[:, None, None]).unbind(2)
    scale = sight.distance[..., None, None, None] / (WINDOW / 2) / z.clamp_min(0.2)
    place = torch.stack([x * scale, y * scale], -1)
    found = F.grid_sample(images.flatten(0, 1), place.reshape(B * N, 1, -1, 2), align_corners=False)
    return found.view(B, N, C, size, size, size)


def features(
    masks: Float[Tensor, "B N 64 64"],
    keypoints: Float[Tensor, "B N K 3"],
    sight: Sight,
    grid: Grid,
    mirrored: bool = False,
    size: int = FINE,
) -> tuple[Float[Tensor, "B F h h h"], Float[Tensor, "B D D D"]]:
    """What the network is fed, on half the grid, and the emptiness of the emptiest view, on the whole.

    `mirrored` gives those of the person in a mirror.
    """
    outline, limbs = drawn(masks, keypoints)
    near = 1 - _looked(1 - outline, sight, grid, size)  # what lies outside a window is empty, as the hull has it
    far = _looked(limbs, sight, grid, size // 2)
    if mirrored:
        near, far = near.flip(-1), far[:, :, MIRRORED].flip(-1)
    carved = near.amax(1)
    fine = torch.stack([near[:, :, 0].mean(1), carved[:, 0], near[:, :, 1].mean(1), carved[:, 1]], 1)
    B, h = len(masks), size // 2
    cells = fine.view(B, 4, h, 2, h, 2, h, 2).permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(B, 32, h, h, h)
    mean = far.mean(1)
    spread = (far.square().mean(1) - mean.square()).clamp_min(1e-6).sqrt()
    a = Grid.axis(h, masks.device) / REACH
    where = torch.stack(torch.meshgrid(a, a, a, indexing="ij")).expand(B, -1, -1, -1, -1)
    few = masks.new_full((B, 1, h, h, h), 1 / masks.shape[1])
    return torch.cat([cells, mean, far.amax(1), spread, where, few], 1), carved[:, 0]


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(before, after, 3, stride, 1), nn.Conv3d(after, after, 3, 1, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(4, after), nn.GroupNorm(4, after)])
        self.around = nn.Conv3d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Half the size where the stride is 2."""
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.around(x))


class Volume(nn.Module):
    """A U-shaped 3D network that corrects the hull."""

    def __init__(self, channels: tuple[int, ...] = (12, 32, 48, 64)) -> None:
        super().__init__()
        self.first = nn.Conv3d(FEATURES, channels[0], 1)
        self.full = nn.Conv3d(channels[0], channels[0], 3, 1, 1)
        self.down = nn.ModuleList([Block(a, b, 2) for a, b in pairwise(channels)])
        self.up = nn.ModuleList([Block(a + b, a) for a, b in pairwise(channels[1:])])
        self.last = nn.Conv3d(2 * channels[0], channels[0], 3, 1, 1)
        self.narrow = nn.Conv3d(channels[1], channels[0], 1)
        self.cells = nn.Conv3d(channels[0], 8, 1)
        self.trust = nn.Parameter(torch.tensor(8.0))
        """How many logits the hull is worth."""
        for values in self.cells.parameters():
            nn.init.normal_(values, std=0.01)

    def encoded(self, x: Float[Tensor, "B F h h h"]) -> list[Tensor]:
        """Features at every scale, the finest first."""
        levels = [F.relu(self.full(F.relu(self.first(x))))]
        for block in self.down:
            levels.append(block(levels[-1]))
        return levels

    def forward(self, x: Float[Tensor, "B F h h h"], emptiest: Float[Tensor, "B D D D"]) -> Float[Tensor, "B D D D"]:
        """Logits of occupancy, each cell the share of it that is body; input as `features` gives it."""
        levels = self.encoded(x)
        y = levels.pop()
        for block in reversed(list(self.up)):
            y = block(torch.cat([levels.pop(), _twice(y)], 1))
        y = F.relu(self.last(torch.cat([levels.pop(), _twice(self.narrow(y))], 1)))
        cells, h = self.cells(y), y.shape[-1]
        cells = cells.view(-1, 2, 2, 2, h, h, h).permute(0, 4, 1, 5, 2, 6, 3).reshape(-1, 2 * h, 2 * h, 2 * h)
        return cells + self.trust * (1 - ADMITTED - emptiest)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def projected(logits: Float[Tensor, "B D D D"], grid: Grid, sight: Sight, size: int = 32, steps: int = 40) -> Float[Tensor, "B N s s"]:
    """What each view would see of a volume: the greatest logit along every pixel's ray, over the whole window."""
    line = (torch.arange(size, device=logits.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    deep = torch.linspace(-REACH, REACH, steps, device=logits.device)
    depth = sight.distance[..., None, None, None] + deep.view(-1, 1, 1)
    flat = torch.stack([x, y, torch.ones_like(x)], -1) * logits.new_tensor([WINDOW / 2, WINDOW / 2, 1.0])
    scale = torch.stack([depth / sight.distance[..., None, None, None]] * 2 + [depth], -1)
    own = flat * scale
    B, N = sight.distance.shape
    world = own.reshape(B, N, -1, 3) @ sight.R_view_world + sight.position[:, :, None]
    place = grid.within(world.flatten(1, 2)).view(B, 1, 1, -1, 3)
    low = -12.0
    along = F.grid_sample(logits[:, None] - low, place, align_corners=False).view(B, N, steps, size, size) + low
    return along.amax(2)


@torch.no_grad()
def occupancy(
    network: Volume,
    masks: Float[Tensor, "B N 64 64"],
    keypoints: Float[Tensor, "B N K 3"],
    sight: Sight,
    grid: Grid,
    seen: Bool[Tensor, "B N"] | None = None,
    size: int = FINE,
) -> Float[Tensor, "B D D D"]:
    """Share of every cell that is body, 0 to 1, from the views that were `seen` (all by default); zeros for people nobody saw."""
    out = masks.new_zeros(len(masks), size, size, size)
    for i in range(len(masks)):  # people are seen by unlike numbers of views
        some = torch.arange(masks.shape[1]) if seen is None else seen[i].nonzero()[:, 0]
        if not len(some):
            continue
        look = Sight(*(x[i : i + 1, some] for x in (sight.R_view_world, sight.position, sight.distance)))
        own = Grid(grid.centre[i : i + 1], grid.R_grid_world[i : i + 1])
        out[i] = network(*features(masks[i : i + 1, some], keypoints[i : i + 1, some], look, own, size=size))[0].sigmoid()
    return out


@cache
def load(name: str | Path = "volume") -> Volume:
    """The network of a checkpoint, ready to be asked; errors as `checkpoint.read`'s."""
    return checkpoint.read(name, Volume, "volume")[0]

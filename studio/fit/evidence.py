"""How well a posed body explains a shot, as a function that torch can differentiate: keypoints, masks in both directions, flow.

Everything is measured on planes at depth one with the lens removed, and told in metres at the body's distance or in standard deviations.
Residuals of one mask or one flow field depend on each other: they count as `OUTLINE` and `STREAM` independent ones a frame, however many
points are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from calibration.cameras import Cameras
from rigs.body import Body, Posed, Skin
from rigs.landmarks import landmark_skin
from studio.fit.flow import carried, visible
from studio.fit.outlines import Outlines, outlines
from studio.fit.pulls import Views

if TYPE_CHECKING:
    from studio.fit.shot import Shot

POINTS = 240
"""Points of the skin that are looked at."""
OUTLINE, STREAM = 12.0, 12.0
"""How many independent residuals a mask and a flow field are worth, a frame."""
KERNEL = 3.0
"""Residuals beyond so many standard deviations lose their say."""
GAP = 0.03
"""Half of the way between neighbouring points of the skin, m: the outline may be so far from the nearest."""


@dataclass(frozen=True)
class Terms:
    """Standard deviations: m at the body's distance, m, px; 0 leaves a term out."""

    keypoint: float
    mask: float
    flow: float


@dataclass(frozen=True)
class Figure:
    """A body of which only keypoints and a few hundred small triangles of skin are posed."""

    body: Body
    keypoints: Skin
    corners: Skin
    """Three for each triangle."""

    @staticmethod
    def of(body: Body, names: Sequence[str], network: str, count: int = POINTS) -> Figure:
        """Triangles are spread evenly over the skin."""
        bare = lambda skin: replace(skin, expression_basis=skin.expression_basis[..., :0])  # noqa: E731
        a, b, c = (body.skin.rest[body.triangles[:, k]] for k in range(3))
        stairs = torch.linalg.cross(b - a, c - a).norm(dim=-1).double().cumsum(0)
        chosen = torch.searchsorted(stairs, (torch.arange(count) + 0.5) / max(count, 1) * stairs[-1])
        return Figure(body, bare(landmark_skin(body, names, network)[0]), bare(body.skin[body.triangles[chosen].flatten()]))

    def posed(
        self, R: Float[Tensor, "T J 3 3"], root: Float[Tensor, "T 3"], shape: Float[Tensor, "S"] | Float[Tensor, "T S"]
    ) -> tuple[Float[Tensor, "T K 3"], Float[Tensor, "T P 3"], Float[Tensor, "T P 3"]]:
        """Keypoints, points of the skin and their outward unit normals in the world."""
        shaped = self.body.shaped(shape)
        world, joints = self.body.skeleton.forward(R, shaped.joints, root)
        posed = Posed(shaped, R, world, joints, R.new_zeros(len(R), 0))
        corners = posed.points(self.corners).unflatten(1, (-1, 3))
        edges = corners[:, :, 1:] - corners[:, :, :1]
        return posed.points(self.keypoints), corners.mean(2), F.normalize(torch.linalg.cross(edges[:, :, 0], edges[:, :, 1]), dim=-1)


@dataclass(frozen=True)
class Evidence:
    """Of one shot."""

    cameras: Cameras
    keypoints: Views
    """`precision` is one where seen."""
    distance: Float[Tensor, "C T"]
    """Depth of the body's middle, m."""
    masks: Outlines | None
    flow: Float[Tensor, "C T h w 2"] | None
    motion: Float[Tensor, "C T P 2"] | None = None
    """On the plane, from the frame before; NaN where unknown."""

    def misses(self, keys: Float[Tensor, "T K 3"]) -> Float[Tensor, "C T K"]:
        """How far each keypoint is from where it was detected, m at the body's distance; NaN where not detected."""
        seen = self.keypoints.plane.permute(1, 3, 2, 0)
        off = ((self.plane(keys) - seen).square().sum(-1) + 1e-12).sqrt() * self.distance[..., None]
        return torch.where(self.keypoints.precision.transpose(1, 2) > 0, off, torch.nan)

    def plane(self, points: Float[Tensor, "T P 3"]) -> Float[Tensor, "C T P 2"]:
        """World points on every camera's plane at depth one."""
        p = torch.einsum("cij,tpj->ctpi", self.keypoints.R, points) + self.keypoints.translation[:, None, None]
        return p[..., :2] / p[..., 2:].clamp_min(0.1)

    def carried(self, skin: Float[Tensor, "T P 3"], normals: Float[Tensor, "T P 3"], terms: Terms) -> Evidence:
        """With what flow says of the skin that is visible now."""
        if self.flow is None or not terms.flow:
            return self
        there = carried(skin, visible(skin, normals, self.cameras), self.flow, self.cameras, terms.flow)
        goal = there.plane.permute(1, 3, 2, 0)
        now = self.plane(skin)
        moved = torch.cat([torch.full_like(now[:, :1], torch.nan), goal[:, 1:] - now[:, :-1]], 1)
        return replace(self, motion=torch.where(there.precision.transpose(1, 2)[..., None] > 0, moved, torch.nan))

    def cost(self, keys: Float[Tensor, "T K 3"], skin: Float[Tensor, "T P 3"], terms: Terms) -> Float[Tensor, ""]:
        """Of a frame, on average: half the squares of residuals in standard deviations, cameras and terms together."""
        total = keys.new_zeros(())
        if terms.keypoint:
            seen = self.keypoints.precision.transpose(1, 2) > 0
            total = total + torch.where(seen, soft(self.misses(keys).nan_to_num() / terms.keypoint), 0).sum()
        if terms.mask and self.masks is not None:
            total = total + self._masked(self.plane(skin), terms.mask)
        if terms.flow and self.motion is not None:
            total = total + self._moved(self.plane(skin), terms.flow)
        return total / len(keys)

    def _masked(self, plane: Float[Tensor, "C T P 2"], sigma: float) -> Float[Tensor, ""]:
        assert self.masks is not None
        m = self.masks
        h, w = m.field.shape[2:]
        size = plane.new_tensor([w - 1, h - 1])
        at = (plane - m.origin[:, None, None]) / m.cell[:, None, None, None] / size * 2 - 1
        field = torch.stack([F.grid_sample(f[:, None].float(), a[:, None], align_corners=True)[:, 0, 0] for f, a in zip(m.field, at)])
        outside = field.clamp_min(0) / m.scale[..., None] / sigma
        inward = soft(outside).mean(-1)
        known = torch.isfinite(m.edge[..., 0])
        edge = torch.where(known[..., None], m.edge, 0)
        near = torch.stack([torch.cdist(e, p).amin(-1) for e, p in zip(edge, plane)]) * self.distance[..., None]
        outward = torch.where(known, soft((near - GAP).clamp_min(0) / sigma), 0).sum(-1) / known.sum(-1).clamp_min(1)
        return OUTLINE * (inward + outward).sum()

    def _moved(self, plane: Float[Tensor, "C T P 2"], sigma: float) -> Float[Tensor, ""]:
        assert self.motion is not None
        known = torch.isfinite(self.motion[:, 1:, :, 0])
        focal = self.cameras.focal.mean(1).to(plane)[:, None, None, None]
        off = (plane[:, 1:] - plane[:, :-1] - self.motion[:, 1:]).nan_to_num() * focal / sigma
        cost = torch.where(known, soft((off.square().sum(-1) + 1e-12).sqrt()), 0)
        return STREAM * (cost.sum(-1) / known.sum(-1).clamp_min(1)).sum()


def gathered(shot: Shot, figure: Figure) -> Evidence:
    """A shot made ready."""
    ones = torch.ones(shot.pixels.shape[:3], dtype=torch.float64)
    views = Views.undistorted(shot.cameras, shot.pixels, ones)
    depth = shot.cameras.to_camera(shot.middle.double())[..., 2].float().clamp_min(0.3)
    masks = outlines(shot.cameras, shot.masks, shot.middle, 64) if shot.masks else None
    return Evidence(shot.cameras, views, depth, masks, shot.flow if shot.flow is None else _own(shot.flow, shot.masks))


def _own(flow: Float[Tensor, "C T h w 2"], masks: Sequence[Bool[Tensor, "T _ _"]]) -> Float[Tensor, "C T h w 2"]:
    """The flow of the person alone, well inside the mask of the frame before: what stands behind stands still, and would hold the body."""
    out = flow.clone()
    for c, mask in enumerate(masks):
        inside = 1 - F.max_pool2d(1 - F.interpolate(mask[:-1, None].float(), flow.shape[2:4]), 3, 1, 1)[:, 0]
        out[c, 1:][inside < 0.5] = torch.nan
    return out


def soft(r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half the square near zero, logarithmic beyond `KERNEL`: what is far off still pulls a little (Cauchy's)."""
    return 0.5 * KERNEL**2 * torch.log1p((r / KERNEL).square())

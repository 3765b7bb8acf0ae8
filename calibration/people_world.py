"""Metres, up and floor of a rig that was found from people.

Up is the mean axis of the person while upright, then, where the feet have stood in places far enough apart, the normal of the plane
through those places. The floor z = 0 goes through the lowest feet points, the origin lies under the person's mean position. Which points
are feet and which lie along the body is the caller's knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.people import PeopleFit
from calibration.rotations import nearest_rotation

WIDE = 0.15
"""Spread (standard deviation) of the places stood on, across, from which they tell the floor's tilt, as a share of body height."""
STANDING = 0.04
"""How far above the lowest a foot point may be and still stand on the floor, as a share of body height."""


@dataclass(frozen=True)
class World:
    """A rig in a world with z up, and how well the floor holds."""

    fit: PeopleFit
    from_floor: bool
    """Whether the floor told the tilt, or only the person's axis."""
    tilt: float
    """Angle between the person's mean axis and up, rad."""
    floor_rms: float
    """Of standing feet points about the floor, m."""


@dataclass(frozen=True)
class Ground:
    """Where a person's feet stand in a world that has a floor at z = 0 already."""

    height: float
    """Of the standing feet's plane above z = 0 under the person, m."""
    tilt: float
    """Angle between that plane and z = 0, rad."""
    wide: bool
    """Whether the places stood on tell the tilt."""
    rms: float
    """Of standing feet points about their plane, m."""


def ground_of(points: Float[Tensor, "T K 3"], feet: Sequence[int], spine: Sequence[tuple[int, int]]) -> Ground:
    """Where the feet stand that a known rig sees (m); `spine` and `feet` as for `levelled`. A `ValueError` where they were never placed."""
    tall = float(lengths_of(points, spine).sum()) / 2  # both sides of the body
    ground = points[:, list(feet)].reshape(-1, 3)
    ground = ground[torch.isfinite(ground).all(-1)]
    if len(ground) < 20:
        raise ValueError("people: the feet were hardly ever placed in 3D; record a take that shows the whole person")
    normal, centre, standing, wide = _floor(ground, tall)
    rms = float(((standing - centre) @ normal).square().mean().sqrt())
    return Ground(float(centre[2]), float(torch.acos(normal[2].clamp(-1, 1))), wide, rms)


def lengths_of(points: Float[Tensor, "T K 3"], pairs: Sequence[tuple[int, int]]) -> Float[Tensor, "N"]:
    """Median distances between pairs of points, m; a `ValueError` where one is never seen together."""
    a, b = torch.tensor(list(pairs), dtype=torch.long).T
    lengths = (points[:, a] - points[:, b]).norm(dim=-1).nanmedian(0).values
    if not bool(torch.isfinite(lengths).all()):
        raise ValueError("people: a point that the scale is measured by was never placed in 3D; record a take that shows the whole person")
    return lengths


def scaled(fit: PeopleFit, pairs: Sequence[tuple[int, int]], metres: Float[Tensor, "N"]) -> PeopleFit:
    """The rig made larger so that these pairs of points are `metres` apart; where pairs disagree, in the median.

    One pair of known distance will do. Of many, some foreshortened by a habit of the network, the median is what most say.
    """
    if not bool((metres > 0).all()):
        raise ValueError(f"people: known lengths of {metres.tolist()} m; they must be positive")
    ratio = metres / lengths_of(fit.points, pairs)
    return fit.moved(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), float(torch.quantile(ratio, 0.5)))


def levelled(fit: PeopleFit, feet: Sequence[int], spine: Sequence[tuple[int, int]]) -> World:
    """The rig in the world of this person: z up, floor at 0, origin under the mean position.

    `spine` holds pairs (lower, upper) of points that lie above each other when the person stands, `feet` points that touch the floor.
    """
    low, high = torch.tensor(list(spine), dtype=torch.long).T
    along = fit.points[:, high] - fit.points[:, low]
    body = along.sum(1)
    usual = body.norm(dim=-1)
    if not bool(torch.isfinite(usual).any()):
        raise ValueError("people: never seen whole, so which way is up is unknown; record a take that shows the whole person")
    straight = torch.nan_to_num(usual) >= 0.97 * float(torch.quantile(usual[torch.isfinite(usual)], 0.9))
    axis = torch.nn.functional.normalize(body[straight], dim=-1).median(0).values
    axis = axis / axis.norm()
    level = fit.moved(_to_z(axis), torch.zeros(3, dtype=torch.float64), 1.0)
    tall = float(usual[straight].median())
    ground = level.points[:, list(feet)].reshape(-1, 3)
    ground = ground[torch.isfinite(ground).all(-1)]
    normal, centre, standing, wide = _floor(ground, tall)
    if wide:
        level = level.moved(_to_z(normal), torch.zeros(3, dtype=torch.float64), 1.0)
        centre, standing = _to_z(normal) @ centre, standing @ _to_z(normal).mT
    root = level.points[:, torch.cat([low, high])].nanmean((0, 1))
    shift = -torch.stack([root[0], root[1], centre[2]])
    level = level.moved(torch.eye(3, dtype=torch.float64), shift, 1.0)
    rms = float((standing[:, 2] - standing[:, 2].mean()).square().mean().sqrt())
    tilt = float(torch.acos((normal[2] if wide else torch.ones(())).clamp(-1, 1)))
    return World(level, wide, tilt, rms)


def _to_z(axis: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that turns a direction to z."""
    z = torch.tensor([0.0, 0.0, 1.0], dtype=axis.dtype)
    if float(axis @ z) < -0.999:
        return torch.diag(axis.new_tensor([1.0, -1.0, -1.0]))
    return nearest_rotation(z[:, None] * axis[None] + _rest(z, axis))


def _rest(z: Tensor, axis: Tensor) -> Tensor:
    """What keeps the directions across both as they are."""
    across = torch.linalg.cross(axis, z)
    if float(across.norm()) < 1e-9:
        return torch.eye(3, dtype=axis.dtype) - z[:, None] * z[None]
    n = across / across.norm()
    return n[:, None] * n[None] + torch.linalg.cross(n, z)[:, None] * torch.linalg.cross(n, axis)[None]


def _floor(ground: Float[Tensor, "N 3"], tall: float) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"], Float[Tensor, "M 3"], bool]:
    """Normal of the floor, a point on it, the points that stand on it, and whether they are spread enough to tell its tilt.

    The lowest points of each place (cells a quarter of body height wide) are fitted by a plane, those above it left out, three times.
    """
    up = torch.tensor([0.0, 0.0, 1.0], dtype=ground.dtype)
    cell = (ground[:, :2] / (0.25 * tall)).round()
    lowest = []
    for one in cell.unique(dim=0):
        heights = ground[(cell == one).all(1)]
        if len(heights) >= 5:
            bottom = torch.quantile(heights[:, 2], 0.1)
            lowest.append(heights[(heights[:, 2] - bottom).abs() < STANDING * tall / 2])
    standing = torch.cat(lowest) if lowest else ground
    bottom = torch.quantile(standing[:, 2], 0.1)
    standing = standing[standing[:, 2] < bottom + 0.1 * tall]
    normal = up
    for _ in range(3):
        centre = standing.mean(0)
        spread = torch.linalg.eigh((standing - centre).mT @ (standing - centre) / len(standing))
        wide = bool(spread.eigenvalues[1].sqrt() > WIDE * tall)
        normal = spread.eigenvectors[:, 0] * spread.eigenvectors[2, 0].sign() if wide else up
        off = (standing - centre) @ normal
        keep = off.abs() < max(2 * float(off.abs().median()), 0.005 * tall)
        if int(keep.sum()) > 20:
            standing = standing[keep]
    if float(normal[2]) < 0.97:  # a floor that leans by more than 14 degrees is none
        normal, wide = up, False
    return normal, standing.mean(0), standing, wide

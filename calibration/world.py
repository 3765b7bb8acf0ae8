"""Metric scale, floor, up and origin of a camera rig: from a board on the floor, known points, points on the floor, or feet.

A rig's shape comes out of its calibration; where the floor is does not. Every function here returns a `Move` into the world of the
studio: right-handed, z up, floor at z = 0, metres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from calibration.rotations import nearest_rotation

WIDE = 0.1
"""Spread (standard deviation) across, as a part of that along, from which points tell a plane's or a rig's tilt."""
TRIALS = 200
"""Triples of points that propose a floor."""


@dataclass(frozen=True)
class Move:
    """A similarity of the world: a point x goes to `scale * R @ x + t`. float64."""

    R: Float[Tensor, "3 3"]
    t: Float[Tensor, "3"]
    """m"""
    scale: float = 1.0
    off: float = 0.0
    """Root mean square distance of what the move rests on from where it should be afterwards, m."""
    used: int = 0
    """How many points it rests on."""

    def points(self, points: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        """Points after the move, m."""
        return self.scale * points.to(torch.float64) @ self.R.mT + self.t

    def with_origin(self, point: Float[Tensor, "3"]) -> Move:
        """The same with the origin on the floor under a point of the old world; heights stay."""
        across = self.points(point) * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
        return replace(self, t=self.t - across)

    def cameras(self, cameras: Cameras) -> Cameras:
        """The cameras after the move."""
        return moved(cameras, self.R, self.t, self.scale)


STAY = Move(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
"""The world as it is."""


def moved(cameras: Cameras, R: Float[Tensor, "3 3"], t: Float[Tensor, "3"], scale: float = 1.0) -> Cameras:
    """The same cameras in a world where the point x is `scale * R @ x + t`; every pixel keeps its point.

    A `ValueError` where R is no rotation (a mirroring would turn the actor's left into right) or the scale is not above 0.
    """
    R, t = R.to(cameras.position), t.to(cameras.position)
    if not torch.allclose(R @ R.mT, torch.eye(3, dtype=R.dtype, device=R.device), atol=1e-6) or float(torch.linalg.det(R)) < 0:
        raise ValueError("moved: R is not a rotation; give an orthonormal 3 x 3 matrix of determinant +1")
    if not 0 < scale < float("inf"):
        raise ValueError(f"moved: scale {scale}; it must be above 0")
    return replace(cameras, R_camera_world=cameras.R_camera_world @ R.mT, position=scale * cameras.position @ R.mT + t)


def from_board(R_world_board: Float[Tensor, "3 3"], position: Float[Tensor, "3"], height: float = 0.0) -> Move:
    """The world of a board that lies on the floor, face up: its origin is the world's, its x axis x, the floor `height` m below the print.

    A `ValueError` where the board's pose is not known (NaN).
    """
    if not bool(torch.isfinite(R_world_board).all() and torch.isfinite(position).all()):
        raise ValueError("the board's pose at that instant is not known: two cameras must see it where it lies; film it there again")
    # The board's z axis points into the board, so down, and its y axis towards the reader: half a turn about x stands it upright.
    half = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    R = half @ R_world_board.to(torch.float64).mT
    up = torch.tensor([0.0, 0.0, height], dtype=torch.float64)
    return Move(R, up - R @ position.to(torch.float64), used=1)


def from_known_points(seen: Mapping[str, Float[Tensor, "3"]], known: Mapping[str, Float[Tensor, "3"]], scale: bool = True) -> Move:
    """The world in which points (by name, m) lie where they are known to lie; with `scale` their distances give the metre too.

    Least squares (Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns"). A `ValueError`
    names what is wrong: fewer than three points of one name, all in one line, or a point that is far off all others.
    """
    names = [n for n in known if n in seen and bool(torch.isfinite(seen[n]).all())]
    if len(names) < 3:
        raise ValueError(f"known points: {len(names)} of {sorted(known)} were seen ({sorted(seen)}); three are needed, not in one line")
    x, y = (torch.stack([p[n].to(torch.float64) for n in names]) for p in (seen, known))
    _refuse_a_line(y, "known points")
    a, b = x - x.mean(0), y - y.mean(0)
    M = b.mT @ a
    R = nearest_rotation(M)
    factor = float((R * M).sum() / a.square().sum()) if scale else 1.0
    move = Move(R, y.mean(0) - factor * R @ x.mean(0), factor)
    error = (move.points(x) - y).norm(dim=-1)
    size = float(b.norm(dim=-1).max())
    if float(error.max()) > 0.1 * size:
        worst = names[int(error.argmax())]
        raise ValueError(
            f"known points: {worst!r} is {float(error.max()):.2f} m from where it should be when all others fit; "
            "were two points exchanged, or written in another unit or a left-handed frame?"
        )
    return replace(move, off=float(error.square().mean().sqrt()), used=len(names))


def from_floor(points: Float[Tensor, "N 3"], cameras: Cameras, tolerance: float = 0.02) -> Move:
    """The world whose floor goes through stated points on the floor or places where feet stood (m; NaN is left out).

    Points farther than about `tolerance` m from the plane that most agree on do not count. Up is the side that most cameras are on, the
    origin lies under the middle of the points, x stays as near to where it was as the floor allows. A `ValueError` says when the points
    cannot tell a floor.
    """
    given = points.to(torch.float64).reshape(-1, 3)
    given = given[torch.isfinite(given).all(-1)]
    if len(given) < 3:
        raise ValueError(f"floor: {len(given)} points on the floor are known; three are needed, not in one line")
    _refuse_a_line(given, "floor")
    normal, on = _plane(given, tolerance)
    if int(on.sum()) < max(3, len(given) // 2):
        raise ValueError(
            f"floor: only {int(on.sum())} of {len(given)} points lie within {100 * tolerance:g} cm of one plane; "
            "give points on a flat floor, or frames in which the feet stand"
        )
    _refuse_a_line(given[on], "floor")
    middle = given[on].mean(0)
    above = (cameras.position.to(torch.float64) - middle) @ normal
    normal = normal if int((above > 0).sum()) * 2 >= len(above) else -normal
    R = upright(normal)
    off = float(((given[on] - middle) @ normal).square().mean().sqrt())
    return Move(R, -R @ middle, off=off, used=int(on.sum()))


def from_marks(marks: Float[Tensor, "N 3"], cameras: Cameras, tolerance: float = 0.02) -> Move:
    """The world of three or more marks on the floor (m): the first is the origin, x goes towards the second, the floor is z = 0.

    A `ValueError` says where the first two are not known, and where the marks cannot tell a floor (see `from_floor`).
    """
    first = marks.reshape(-1, 3)[:2].to(torch.float64)
    if len(first) < 2 or not bool(first.isfinite().all()):
        raise ValueError("floor: the first two marks are the origin and where x goes: place both in two pictures or more")
    level = from_floor(marks, cameras, tolerance)
    origin, ahead = level.points(first)
    along = ahead - origin
    if float(along[:2].norm()) < 0.05:
        raise ValueError("floor: the first two marks are less than 5 cm apart; x needs a mark farther away")
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    x = torch.nn.functional.normalize(along * (1 - z), dim=0)
    turn = torch.stack([x, torch.linalg.cross(z, x), z])
    return replace(level, R=turn @ level.R, t=turn @ (level.t - origin * (1 - z)))


def from_up(lower: Float[Tensor, "3"], upper: Float[Tensor, "3"]) -> Move:
    """The world in which `upper` is straight above `lower` (m), which is the origin on the floor: a door's frame, a plumb line, a tripod.

    A `ValueError` where the two are no 10 cm apart, for then they tell no direction.
    """
    along = upper.to(torch.float64) - lower.to(torch.float64)
    if not float(along.norm()) > 0.1:
        raise ValueError(f"up: the two points are {float(along.norm()):.3f} m apart; give two that are far above each other")
    R = upright(along)
    return Move(R, -R @ lower.to(torch.float64), used=2)


def from_length(cameras: Cameras, a: Float[Tensor, "3"], b: Float[Tensor, "3"], metres: float) -> Move:
    """The world in which two points are `metres` apart: a stated height (floor and top of the head), or a measured distance.

    The world's origin stays. A `ValueError` where the length or the points cannot give a scale.
    """
    measured = float((a - b).norm())
    if not metres > 0:
        raise ValueError(f"length {metres} m: it must be above 0")
    extent = float(cameras.position.std(0).norm()) if len(cameras) > 1 else 0.0
    if not measured > 1e-3 * extent:
        raise ValueError("length: the two points are not known or lie in one place; give two that are apart")
    return Move(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), metres / measured, used=2)


def upright(normal: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The rotation that takes `normal` to z and keeps the horizontal part of x (of y where x is vertical) along x."""
    z = torch.nn.functional.normalize(normal.to(torch.float64), dim=0)
    axis = torch.eye(3, dtype=torch.float64)[0 if float(z[0].abs()) < 0.9 else 1]
    x = torch.nn.functional.normalize(axis - (axis @ z) * z, dim=0)
    return torch.stack([x, torch.linalg.cross(z, x), z])


def _plane(points: Float[Tensor, "N 3"], tolerance: float) -> tuple[Float[Tensor, "3"], Tensor]:
    """Unit normal of the plane that most points agree on, and which do: random triples, then least squares on those that agree."""
    random = torch.Generator().manual_seed(0)
    triples = torch.rand(TRIALS, len(points), generator=random).argsort(1)[:, :3]
    p = points[triples]
    normals = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    # A triple nearly in one line says little of the plane: large triangles weigh more among those that fit alike.
    area = normals.norm(dim=-1)
    normals = normals / area.clamp_min(1e-12)[:, None]
    off = ((points[None] - p[:, :1]) * normals[:, None]).sum(-1).abs()
    score = (off / tolerance).clamp(max=1).square().sum(1) + (area < 1e-3 * area.max()) * len(points)
    on = off[score.argmin()] < tolerance
    normal = normals[score.argmin()]
    for _ in range(5):
        if int(on.sum()) < 3:
            break
        centred = points[on] - points[on].mean(0)
        normal = torch.linalg.svd(centred, full_matrices=False)[2][2]
        on = ((points - points[on].mean(0)) @ normal).abs() < tolerance
    return normal, on


def _refuse_a_line(points: Float[Tensor, "N 3"], what: str) -> None:
    spread = torch.linalg.svdvals(points - points.mean(0))
    if float(spread[1]) < WIDE * float(spread[0]):
        raise ValueError(f"{what}: all {len(points)} points lie nearly in one line, which says nothing of the tilt; add some to its side")

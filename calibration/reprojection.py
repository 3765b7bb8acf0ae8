"""How well a board's corners project: residuals and normal equations of many views at once, with analytic derivatives.

A view is one board seen by one camera. Its residuals depend on the pose of the board in the camera's frame (R, t) and on the camera's
lens, a vector of 12: focal x y, centre x y (px), and the 8 distortion coefficients of `calibration.lenses`. A pose is moved by a twist
(rotation vector w in rad, shift v in m) on the camera's side: R becomes exp(w) R and t becomes exp(w) t + v.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration import lenses
from calibration.cameras import Cameras

LENS = 12
DELAY, THICKNESS = 12, 13
"""Columns of a camera's delay (frames) and of what the board is thicker than was said (m), after those of its lens."""
HUBER = 3.0
"""Standard deviations beyond which a corner pulls with constant strength; 1 % of correct corners lie there."""
CHUNK = 16384
"""Corners whose derivatives are in memory at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class Sightings:
    """Views of boards: which camera saw which board where."""

    camera: Int[Tensor, "V"]
    board: Int[Tensor, "V"]
    points: Float[Tensor, "V N 3"]
    """Corners in the board's frame, m."""
    pixels: Float[Tensor, "V N 2"]
    weight: Float[Tensor, "V N"]
    """1 / sigma, 1/px; zero where a corner was not seen."""
    velocity: Float[Tensor, "V N 2"] | None = None
    """px a frame; zero where not known."""
    jitter: Float[Tensor, "V"] | None = None
    """How far each view's own moment strays from its camera's delay, as a standard deviation, frames; zero where it does not."""
    behind: Bool[Tensor, "V"] | None = None
    """Seen from the back of a two-sided board."""

    def __len__(self) -> int:
        return len(self.camera)

    def __getitem__(self, which: Tensor | slice) -> Sightings:
        """The views at an index or mask."""
        rest = (None if value is None else value[which] for value in (self.velocity, self.jitter, self.behind))
        return Sightings(self.camera[which], self.board[which], self.points[which], self.pixels[which], self.weight[which], *rest)

    def at(self, delay: Float[Tensor, "C"]) -> Sightings:
        """Corners where they were `delay` frames of their camera later."""
        if self.velocity is None:
            return self
        return replace(self, pixels=self.pixels + self.velocity * delay[self.camera, None, None])

    def thicker(self, thickness: Float[Tensor, ""]) -> Sightings:
        """Corners seen from the back so much (m) farther behind the front."""
        if self.behind is None:
            return self
        away = torch.stack([torch.zeros_like(thickness), torch.zeros_like(thickness), thickness])
        return replace(self, points=self.points + self.behind[:, None, None] * away)

    def quieter(self, noise: Float[Tensor, "C"]) -> Sightings:
        """The same views with every camera's sigma multiplied by its factor."""
        return replace(self, weight=self.weight / noise[self.camera, None])


@dataclass(frozen=True)
class Normals:
    """Sums over each view's corners: half the robust sum of squares, gradient and Gauss-Newton matrix by [pose twist, lens columns]."""

    cost: Float[Tensor, "V"]
    gradient: Float[Tensor, "V P"]
    matrix: Float[Tensor, "V P P"]


def lens_vectors(cameras: Cameras) -> Float[Tensor, "C 12"]:
    """Focal, centre and distortion of every camera in one row."""
    return torch.cat([cameras.focal, cameras.centre, cameras.distortion], -1)


def fisheyes(cameras: Cameras) -> Bool[Tensor, "C"]:
    """Which cameras have a fisheye lens."""
    return torch.tensor([lens == "fisheye" for lens in cameras.lens])


def huber(square: Float[Tensor, "..."]) -> tuple[Tensor, Tensor]:
    """Huber's loss of a squared whitened distance, and the weight that gives the same gradient."""
    weight = (HUBER / square.clamp_min(HUBER**2).sqrt()).clamp(max=1)
    return torch.where(weight < 1, HUBER * (2 * square.clamp_min(1e-12).sqrt() - HUBER), square), weight


def residuals(
    views: Sightings, R: Float[Tensor, "V 3 3"], t: Float[Tensor, "V 3"], lens: Float[Tensor, "V 12"], fish: Bool[Tensor, "V"]
) -> Float[Tensor, "V N 2"]:
    """Projected minus seen, px; NaN where a corner was not seen. `lens` and `fish` are each view's own."""
    p = views.points @ R.mT + t[:, None]
    plane = p[..., :2] / p[..., 2:].clamp_min(1e-3)
    bent = lenses.brown(plane, lens[:, None, 4:])
    if bool(fish.any()):
        bent = torch.where(fish[:, None, None], lenses.fisheye(plane, lens[:, None, 4:]), bent)
    seen = bent * lens[:, None, :2] + lens[:, None, 2:4] - views.pixels
    return torch.where(views.weight[..., None] > 0, seen, torch.nan)


def lateness(views: Sightings, error: Float[Tensor, "V N 2"], steps: int = 4) -> tuple[Float[Tensor, "V"], Float[Tensor, "V"]]:
    """By how many frames each view is later still than its camera's delay, from residuals (px, NaN: not seen), and its information.

    The most likely value under `jitter`, corners weighted as in `huber`; zero where the motion or the jitter is unknown.
    """
    late = error.new_zeros(len(error))
    if views.velocity is None or views.jitter is None:
        return late, late.clone()
    known = 1 / views.jitter.square().clamp_min(1e-12)
    information = known
    v, e = views.velocity * views.weight[..., None], error.nan_to_num() * views.weight[..., None]
    for _ in range(steps):
        weight = huber((e - v * late[:, None, None]).square().sum(-1))[1]
        information = (weight[..., None] * v * v).sum((1, 2)) + known
        late = (weight[..., None] * v * e).sum((1, 2)) / information
    return late, information


def timed_residuals(
    views: Sightings,
    delay: Float[Tensor, "C"],
    R: Float[Tensor, "V 3 3"],
    t: Float[Tensor, "V 3"],
    lens: Float[Tensor, "V 12"],
    fish: Bool[Tensor, "V"],
) -> tuple[Float[Tensor, "V N 2"], Float[Tensor, "V"], Float[Tensor, "V"]]:
    """`residuals` of the moments at which the views were taken, and their `lateness` with its information."""
    error = residuals(views.at(delay), R, t, lens, fish)
    late, information = lateness(views, error)
    return (error if views.velocity is None else error - views.velocity * late[:, None, None]), late, information


def normals(
    views: Sightings,
    R: Float[Tensor, "V 3 3"],
    t: Float[Tensor, "V 3"],
    lens: Float[Tensor, "V 12"],
    fish: Bool[Tensor, "V"],
    columns: tuple[int, ...] = (),
) -> Normals:
    """Cost, gradient and Gauss-Newton matrix of every view, by its pose's twist and the lens entries `columns` (or `DELAY`, `THICKNESS`).

    Where views have a jitter, the moment of each is solved for and eliminated (variable projection, Golub and Pereyra 1973).
    """
    V, N = views.weight.shape
    P = 6 + len(columns)
    cost, gradient, matrix = R.new_empty(V), R.new_empty(V, P), R.new_empty(V, P, P)
    some_fish = bool(fish.any())
    step = max(CHUNK // max(N, 1), 1)
    for start in range(0, V, step):
        s = slice(start, start + step)
        residual, J = _linearised(views[s], R[s], t[s], lens[s], fish[s] if some_fish else None, columns)
        scale = views.weight[s]
        late, known = R.new_zeros(len(residual)), None
        if views.jitter is not None and views.velocity is not None:
            late, known = lateness(views[s], residual.mT)
            residual = residual - views.velocity[s].mT * late[:, None, None]
        residual = residual * scale[:, None]
        loss, weight = huber(residual.square().sum(1))
        cost[s] = loss.sum(1) / 2
        root = weight.sqrt()
        J *= (scale * root)[:, None, None]
        J = J.flatten(2)
        gradient[s] = (J @ (residual * root[:, None]).flatten(1)[..., None])[..., 0]
        torch.bmm(J, J.mT, out=matrix[s])
        if known is not None and views.velocity is not None and views.jitter is not None:
            own = (views.velocity[s].mT * (scale * root)[:, None]).flatten(1)
            coupling = (J @ own[..., None])[..., 0]
            matrix[s] -= coupling[:, :, None] * coupling[:, None] / known[:, None, None]
            cost[s] += (late / views.jitter[s].clamp_min(1e-6)).square() / 2
    return Normals(cost, gradient, matrix)


def _linearised(
    views: Sightings, R: Tensor, t: Tensor, lens: Tensor, fish: Tensor | None, columns: tuple[int, ...]
) -> tuple[Float[Tensor, "V 2 N"], Float[Tensor, "V P 2 N"]]:
    """Residuals in px (zero where not seen) and their derivatives."""
    px, py, pz = (R @ views.points.mT + t[..., None]).unbind(1)
    inverse = 1 / pz.clamp_min(1e-3)
    x, y = px * inverse, py * inverse
    k = lens[:, 4:, None].unbind(1)
    bent, slope, by_k = _brown(x, y, k)
    if fish is not None:
        alternative = _fisheye(x, y, k)
        mask = fish[:, None]
        bent, slope = (tuple(torch.where(mask, a, b) for a, b in zip(*pair)) for pair in ((alternative[0], bent), (alternative[1], slope)))
        by_k = [(torch.where(mask, a[0], b[0]), torch.where(mask, a[1], b[1])) for a, b in zip(alternative[2], by_k)]
    fx, fy, cx, cy = lens[:, :4, None].unbind(1)
    seen = views.weight > 0
    u, v = views.pixels.unbind(-1)
    residual = torch.stack([fx * bent[0] + cx - u, fy * bent[1] + cy - v], 1)
    residual = torch.where(seen[:, None], residual, 0)
    xx, xy, yy = slope
    J = R.new_empty(len(views), 6 + len(columns), 2, views.weight.shape[1])
    for row, (a, b) in enumerate(((fx * xx, fx * xy), (fy * xy, fy * yy))):
        ax, by = a * inverse, b * inverse
        az = -(ax * x + by * y)
        J[:, 3, row], J[:, 4, row], J[:, 5, row] = ax, by, az
        # p x gradient: a turn w moves p by w x p.
        J[:, 0, row], J[:, 1, row], J[:, 2, row] = py * az - pz * by, pz * ax - px * az, px * by - py * ax
    for n, column in enumerate(columns):
        J[:, 6 + n] = 0
        if column == DELAY:
            assert views.velocity is not None
            J[:, 6 + n] = -views.velocity.mT * seen[:, None]
        elif column == THICKNESS:
            assert views.behind is not None
            J[:, 6 + n] = torch.einsum("vi,vian->van", R[:, :, 2] * views.behind[:, None], J[:, 3:6])
        elif column < 2:
            J[:, 6 + n, column] = bent[column]
        elif column < 4:
            J[:, 6 + n, column - 2] = 1
        else:
            J[:, 6 + n, 0], J[:, 6 + n, 1] = fx * by_k[column - 4][0], fy * by_k[column - 4][1]
    return residual, J


def _brown(x: Tensor, y: Tensor, k: tuple[Tensor, ...]) -> tuple[tuple, tuple, list]:
    """`lenses.brown` with its derivatives: by x and y (symmetric: xx, xy, yy), and by each coefficient."""
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    xx, yy, xy = x * x, y * y, x * y
    r2 = xx + yy
    r4, r6 = r2 * r2, r2 * r2 * r2
    n, d = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), 1 / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    dn, dd = k1 + r2 * (2 * k2 + 3 * r2 * k3), k4 + r2 * (2 * k5 + 3 * r2 * k6)
    radial = n * d
    slope = 2 * (dn - radial * dd) * d
    bent = (x * radial + 2 * p1 * xy + p2 * (r2 + 2 * xx), y * radial + p1 * (r2 + 2 * yy) + 2 * p2 * xy)
    by = (
        radial + xx * slope + 2 * p1 * y + 6 * p2 * x,
        xy * slope + 2 * p1 * x + 2 * p2 * y,
        radial + yy * slope + 6 * p1 * y + 2 * p2 * x,
    )
    up, down = (r2 * d, r4 * d, r6 * d), tuple(-radial * d * power for power in (r2, r4, r6))
    tangential = [(2 * xy, r2 + 2 * yy), (r2 + 2 * xx, 2 * xy)]
    rest = [(x * f, y * f) for f in (up[2], *down)]
    return bent, by, [(x * up[0], y * up[0]), (x * up[1], y * up[1]), *tangential, *rest]


def _fisheye(x: Tensor, y: Tensor, k: tuple[Tensor, ...]) -> tuple[tuple, tuple, list]:
    """`lenses.fisheye` with its derivatives, as `_brown`; the last four coefficients are unused."""
    r2 = (x * x + y * y).clamp_min(1e-16)
    r = r2.sqrt()
    angle = torch.atan(r)
    t2 = angle * angle
    scale = angle * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3])))) / r
    steep = (1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3])))) / (1 + r2)
    q = torch.where(r2 > 1e-12, (steep - scale) / r2, 0)
    powers = [angle * t2**n / r for n in (1, 2, 3, 4)]
    nothing = torch.zeros_like(x)
    return (
        (x * scale, y * scale),
        (scale + x * x * q, x * y * q, scale + y * y * q),
        [(x * f, y * f) for f in powers] + [(nothing, nothing)] * 4,
    )

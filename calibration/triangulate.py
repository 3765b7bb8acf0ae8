"""Points in the world from many views: robust, with covariance, one batched torch implementation for CPU and CUDA.

A point is first the weighted linear solution of all its rays. Only where a view disagrees with that, the midpoint of every
camera pair is tried and scored by MSAC (Torr and Zisserman 2000) with thresholds in standard deviations. Gauss-Newton with
Geman-McClure weights then refines all points, and the information of the agreeing views at the solution gives the covariance.

Every camera's 3x3 block of the normal equations is a symmetric matrix in its own axes, so the sum over cameras is one
product with a constant matrix, and no Jacobian is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras

_ROWS = (0, 0, 0, 1, 1, 2)
_COLUMNS = (0, 1, 2, 1, 2, 2)
_PAIR_ELEMENTS = 1 << 18  # residuals of the pair search at a time: a megabyte, so that it stays in the cache


@dataclass(frozen=True)
class Points:
    """Triangulated points, and what each view said about them."""

    points: Float[Tensor, "... 3"]
    """World, m; NaN where fewer than two views agree or all agreeing rays are nearly parallel."""
    covariance: Float[Tensor, "... 3 3"]
    """m^2; NaN with the point."""
    inlier: Bool[Tensor, "C ..."]
    """Views that agree with the point."""
    residual: Float[Tensor, "C ..."]
    """Distance of the observation from the projected point, px; NaN where either is missing or the point is behind the camera."""


@dataclass(frozen=True)
class Rays:
    """What V views saw of n points, on ideal image planes. A camera may appear in several views."""

    R: Float[Tensor, "V 3 3"]
    """Rotation of each view's camera, `R_camera_world`."""
    position: Float[Tensor, "V 3"]
    """Camera centre less `origin`, m."""
    origin: Float[Tensor, "3"]
    """Subtracted from the world so that single precision suffices, m."""
    u: Float[Tensor, "V n"]
    v: Float[Tensor, "V n"]
    """Ideal coordinates x/z and y/z; zero where not seen."""
    uu: Float[Tensor, "V n"]
    vv: Float[Tensor, "V n"]
    uv: Float[Tensor, "V n"] | None
    """Information of (u, v): J^T J / sigma^2 with the lens' Jacobian J in px; zero where not seen. No `uv` without distortion."""

    @classmethod
    def of(cls, cameras: Cameras, pixels: Float[Tensor, "C n 2"], sigma: Float[Tensor, "C n"]) -> Rays:
        """Rays of distorted pixels with standard deviation `sigma` px; unseen where either is not finite or sigma is not positive."""
        lens = cameras.to(pixels.device, pixels.dtype)
        plane = lens.undistort(pixels)
        seen = torch.isfinite(plane).all(-1) & torch.isfinite(sigma) & (sigma > 0)
        plane = torch.where(seen[..., None], plane, 0.0)
        weight = torch.where(seen, 1 / sigma.square(), 0.0)
        fx, fy = lens.focal[:, :1], lens.focal[:, 1:]
        uu, vv, uv = weight * fx * fx, weight * fy * fy, None
        if bool(lens.distortion.any()) or "fisheye" in lens.lens:
            h = 1e-3
            dx, dy = (
                (lens.distort(plane + step) - lens.distort(plane - step)) / (2 * h)
                for step in torch.eye(2, dtype=plane.dtype, device=plane.device) * h
            )
            uu, vv, uv = (weight * (a * b).sum(-1) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
        origin = cameras.position.mean(0).to(pixels.device)
        position = (cameras.position.to(pixels.device) - origin).to(pixels.dtype)
        u, v = plane.unbind(-1)
        return cls(lens.R_camera_world, position, origin, u.contiguous(), v.contiguous(), uu, vv, uv)

    def __len__(self) -> int:
        return self.u.shape[1]

    def __getitem__(self, which: Int[Tensor, "m"] | Bool[Tensor, "n"] | slice) -> Rays:
        """The rays of some of the points."""
        picked = {k: getattr(self, k)[:, which].contiguous() for k in ("u", "v", "uu", "vv")}
        return replace(self, **picked, uv=None if self.uv is None else self.uv[:, which])

    @property
    def seen(self) -> Bool[Tensor, "V n"]:
        """Views that saw a point."""
        return self.uu > 0

    def directions(self) -> Float[Tensor, "V 3 n"]:
        """Unit vectors in the world."""
        length = (1 + self.u * self.u + self.v * self.v).rsqrt()
        return self.R.mT @ torch.stack([self.u * length, self.v * length, length], 1)

    def view(self, points: Float[Tensor, "3 m"]) -> Float[Tensor, "V 3 m"]:
        """Points (less `origin`) in camera axes, m."""
        V = len(self.R)
        shift = (self.R @ self.position[..., None]).reshape(V * 3, 1)
        return torch.addmm(shift, self.R.reshape(V * 3, 3), points, beta=-1).view(V, 3, -1)

    def deviation(self, points: Float[Tensor, "3 *h n"]) -> Float[Tensor, "V *h n"]:
        """Squared residual of points (less `origin`) in every view, in standard deviations; infinite behind it, zero where not seen."""
        p = self.view(points.reshape(3, -1)).view(len(self.R), *points.shape)
        z = p[:, 2]
        lead = (len(self.R),) + (1,) * (points.ndim - 2) + (-1,)
        inverse = z.reciprocal()
        du = p[:, 0] * inverse - self.u.view(lead)
        dv = p[:, 1] * inverse - self.v.view(lead)
        cross = None if self.uv is None else self.uv.view(lead) * du * dv
        e = du.square_().mul_(self.uu.view(lead)).addcmul_(dv.square_(), self.vv.view(lead))
        if cross is not None:
            e.add_(cross, alpha=2)
        return e.masked_fill_((z < 1e-3) & self.seen.view(lead), torch.inf)


def pair_points(rays: Rays, pairs: Int[Tensor, "2 P"], parallel: float) -> tuple[Float[Tensor, "3 P n"], Bool[Tensor, "P n"]]:
    """Midpoints between the two rays of each pair of views, less `origin`, m, and whether they exist.

    They do not where a view is missing, the rays are closer to parallel than `parallel` rad, or meet behind a camera.
    """
    i, j = pairs
    d = rays.directions()
    a, b = d[i], d[j]
    across = (rays.position[j] - rays.position[i])[..., None]
    cosine = (a * b).sum(1)
    sine2 = 1 - cosine * cosine
    along_a, along_b = (across * a).sum(1), (across * b).sum(1)
    scale = sine2.clamp_min(1e-12).reciprocal()
    s = (along_a - cosine * along_b) * scale
    t = (cosine * along_a - along_b) * scale
    middle = (rays.position[i] + rays.position[j])[..., None] / 2
    points = middle + (s[:, None] * a + t[:, None] * b) / 2
    seen = rays.seen
    return points.permute(1, 0, 2), seen[i] & seen[j] & (sine2 > math.sin(parallel) ** 2) & (s > 0) & (t > 0)


def triangulate(
    cameras: Cameras,
    pixels: Float[Tensor, "C ... 2"],
    sigma: Float[Tensor, "C ..."],
    threshold: float = 4.0,
    scale: float = 4.0,
    parallel: float = math.radians(1),
    robust: bool = True,
    dtype: torch.dtype = torch.float32,
    chunk: int = 8192,
) -> Points:
    """World points (m) from distorted pixels with standard deviation `sigma` (px), on the device of `pixels`.

    A view agrees within `threshold` standard deviations; `scale` is the Geman-McClure kernel's, likewise. NaN pixels and
    sigma that is not finite and positive mean not seen. Rays all within about `parallel` rad give no point. With
    `robust=False` every view counts fully. Memory beyond the result grows with `chunk` points, not with the input.
    """
    C = len(cameras)
    if pixels.ndim < 2 or pixels.shape[0] != C or pixels.shape[-1] != 2 or sigma.shape != pixels.shape[:-1]:
        raise ValueError(
            f"triangulate: {C} cameras need pixels ({C}, ..., 2) and sigma ({C}, ...); got {tuple(pixels.shape)} and {tuple(sigma.shape)}"
        )
    lead = pixels.shape[1:-1]
    flat, sd = pixels.reshape(C, -1, 2), sigma.reshape(C, -1)
    n = flat.shape[1]
    device = pixels.device
    points = torch.full((n, 3), torch.nan, dtype=dtype, device=device)
    covariance = torch.full((n, 3, 3), torch.nan, dtype=dtype, device=device)
    inlier = torch.zeros(C, n, dtype=torch.bool, device=device)
    residual = torch.full((C, n), torch.nan, dtype=dtype, device=device)
    limit = threshold**2 if robust else torch.inf
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        s = sd[:, part].to(dtype)
        rays = Rays.of(cameras, flat[:, part].to(dtype), s)
        x = _linear(rays)
        if robust:
            x = _searched(rays, x, limit, parallel)
        x = _refined(rays, x, limit, scale if robust else torch.inf)
        points[part], covariance[part], inlier[:, part], residual[:, part] = _judged(rays, x, s, limit, parallel)
    return Points(points.view(*lead, 3), covariance.view(*lead, 3, 3), inlier.view(C, *lead), residual.view(C, *lead))


def _pulls(rays: Rays, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Information times the residual, and the squared residual in standard deviations."""
    a, b = rays.uu * du, rays.vv * dv
    if rays.uv is not None:
        a, b = a.addcmul_(rays.uv, dv), b.addcmul_(rays.uv, du)
    return a, b, (a * du).addcmul_(b, dv)


def _blocks(rays: Rays) -> tuple[Tensor, Tensor]:
    """Constant matrices that sum every view's symmetric block (6 entries), and its product with the position, over the views."""
    V = len(rays.R)
    sums = torch.empty(9, 6, V, dtype=rays.R.dtype, device=rays.R.device)
    for k, (r, c) in enumerate(zip(_ROWS, _COLUMNS)):
        outer = rays.R[:, r, :, None] * rays.R[:, c, None, :]
        block = outer if r == c else outer + outer.mT
        sums[:6, k] = block[:, _ROWS, _COLUMNS].T
        sums[6:, k] = (block @ rays.position[..., None])[..., 0].T
    return sums.view(9, -1), rays.R.permute(2, 1, 0).reshape(3, -1)


def _information(rays: Rays, u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Six entries of each view's weighted 3x3 information in its own axes, for a point seen at (u, v)."""
    out = torch.empty(6, *u.shape, dtype=u.dtype, device=u.device)
    torch.mul(rays.uu, weight, out=out[0])
    out[1] = 0 if rays.uv is None else rays.uv * weight
    torch.mul(rays.vv, weight, out=out[3])
    torch.addcmul(out[0] * u, out[1], v, out=out[2]).neg_()
    torch.addcmul(out[1] * u, out[3], v, out=out[4]).neg_()
    torch.addcmul(out[2] * u, out[4], v, out=out[5]).neg_()
    return out.view(-1, u.shape[1])


def _solve(H: Float[Tensor, "6 n"], b: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    """Solution of symmetric 3x3 systems by cofactors, in double precision; not finite where singular."""
    return (_inverse(H.double()) * b.double()[None]).sum(1).to(b.dtype)


def _inverse(H: Float[Tensor, "6 n"]) -> Float[Tensor, "3 3 n"]:
    a, b, c, d, e, f = H.unbind(0)
    A, B, C = d * f - e * e, c * e - b * f, b * e - c * d
    D, E, F = a * f - c * c, b * c - a * e, a * d - b * b
    rows = torch.stack([A, B, C, B, D, E, C, E, F]).view(3, 3, -1)
    return rows / (a * A + b * B + c * C)


def _linear(rays: Rays) -> Float[Tensor, "3 n"]:
    """Weighted linear solution: first with equal depths, then with the depths that gave."""
    sums, _ = _blocks(rays)
    weight = (1 + rays.u * rays.u + rays.v * rays.v).reciprocal_()
    both = sums @ _information(rays, rays.u, rays.v, weight)
    x = _solve(both[:6], both[6:])
    depth = rays.view(x)[:, 2]
    both = sums @ _information(rays, rays.u, rays.v, depth.clamp_min(1e-2).square().reciprocal_())
    return _solve(both[:6], both[6:])


def _searched(rays: Rays, x: Float[Tensor, "3 n"], limit: float, parallel: float) -> Float[Tensor, "3 n"]:
    """x, replaced by the best camera pair's point wherever a view disagrees with x and a pair explains more."""
    e = rays.deviation(x).nan_to_num_(nan=torch.inf)
    doubtful = ((e > limit).any(0) & (rays.seen.sum(0) > 2)).nonzero()[:, 0]
    if not len(doubtful):
        return x
    pairs = torch.tensor(list(combinations(range(len(rays.R)), 2)), device=x.device).T
    x = x.clone()
    cost = e.clamp_max_(limit).sum(0)
    for part in doubtful.split(max(64, _PAIR_ELEMENTS // (pairs.shape[1] * len(rays.R)))):
        some = rays[part]
        guess, exists = pair_points(some, pairs, parallel)
        tried = some.deviation(guess).clamp_max_(limit).sum(0)
        best, which = tried.masked_fill_(~exists, torch.inf).min(0)
        chosen = guess.gather(1, which.expand(3, 1, -1))[:, 0]
        x[:, part] = torch.where(best < cost[part], chosen, x[:, part])
    return x


def _refined(rays: Rays, x: Float[Tensor, "3 n"], limit: float, scale: float) -> Float[Tensor, "3 n"]:
    """Three Gauss-Newton steps on the reprojection error, weighted by Geman-McClure's (1 + e/scale^2)^-2 within the limit.

    The first is lenient, because a pair's point can lie several deviations from views that are right; the last widens the
    kernel, because once the views that disagree are out, flatter weights waste less of the rest.
    """
    sums, rotate = _blocks(rays)
    for width, cut in ((2 * scale, 9 * limit), (scale, limit), (3 * scale, limit)):
        p = rays.view(x)
        inverse = p[:, 2].reciprocal()
        u, v = p[:, 0] * inverse, p[:, 1] * inverse
        pull_u, pull_v, e = _pulls(rays, u - rays.u, v - rays.v)
        weight = (1 + e / width**2).square_().reciprocal_().masked_fill_((e > cut) | (p[:, 2] < 1e-3), 0) * inverse
        pull_u, pull_v = pull_u * weight, pull_v * weight
        gradient = rotate @ torch.stack([pull_u, pull_v, -(pull_u * u).addcmul_(pull_v, v)]).view(-1, x.shape[1])
        step = _solve(sums[:6] @ _information(rays, u, v, weight * inverse), gradient)
        x = x - torch.where(torch.isfinite(step).all(0), step, 0.0)
    return x


def _judged(rays: Rays, x: Float[Tensor, "3 n"], sigma: Tensor, limit: float, parallel: float) -> Iterator[Tensor]:
    """Point, covariance, agreeing views, and residual."""
    sums, rotate = _blocks(rays)
    p = rays.view(x)
    inverse = p[:, 2].reciprocal()
    u, v = p[:, 0] * inverse, p[:, 1] * inverse
    e = _pulls(rays, u - rays.u, v - rays.v)[2]
    before = rays.seen & (p[:, 2] > 1e-3)
    agree = before & (e <= limit)
    residual = torch.where(before & torch.isfinite(e), e.sqrt() * sigma, torch.nan)
    length = torch.where(agree, (1 + u * u + v * v).rsqrt(), 0.0)
    together = (rotate @ torch.stack([u * length, v * length, length]).view(-1, len(rays))).square().sum(0)
    count = agree.sum(0)
    spread = (count * count - together) / 2  # sum over the pairs of 1 - cos(angle)
    H = sums[:6] @ _information(rays, u, v, torch.where(agree, inverse * inverse, 0.0))
    covariance = _inverse(H.double()).permute(2, 0, 1)
    good = (count >= 2) & (spread > 1 - math.cos(parallel)) & torch.isfinite(x).all(0) & torch.isfinite(covariance).all(-1).all(-1)
    points = torch.where(good[:, None], (x.double() + rays.origin[:, None]).T, torch.nan)
    yield points.to(x.dtype)
    yield torch.where(good[:, None, None], covariance, torch.nan).to(x.dtype)
    yield agree & good
    yield torch.where(good, residual, torch.nan)

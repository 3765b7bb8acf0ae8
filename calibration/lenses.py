"""Lens models on the ideal image plane (x/z, y/z), and their inverses.

Brown-Conrady with the rational term (k1 k2 p1 p2 k3 k4 k5 k6) and Kannala-Brandt fisheye (k1 k2 k3 k4), in the order and with the
formulas of OpenCV's calib3d documentation.
"""

from __future__ import annotations

from math import pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def _radial(r2: Float[Tensor, "..."], k: Float[Tensor, "... 8"]) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the radial factor at a squared radius."""
    return 1 + r2 * (k[..., 0] + r2 * (k[..., 1] + r2 * k[..., 4])), 1 + r2 * (k[..., 5] + r2 * (k[..., 6] + r2 * k[..., 7]))


def _radial_slopes(r2: Float[Tensor, "..."], k: Float[Tensor, "... 8"]) -> tuple[Tensor, Tensor]:
    """Derivatives of `_radial` by the squared radius."""
    return k[..., 0] + r2 * (2 * k[..., 1] + 3 * r2 * k[..., 4]), k[..., 5] + r2 * (2 * k[..., 6] + 3 * r2 * k[..., 7])


def brown_grows(r2: Float[Tensor, "..."], k: Float[Tensor, "... 8"]) -> Bool[Tensor, "..."]:
    """Whether the distorted radius r n/d grows at r, the tangential terms (which are small) left out."""
    (n, d), (dn, dd) = _radial(r2, k), _radial_slopes(r2, k)
    return (d > 0) & ((n + 2 * r2 * dn) * d > 2 * r2 * n * dd)


def brown(plane: Float[Tensor, "... 2"], k: Float[Tensor, "... 8"]) -> Float[Tensor, "... 2"]:
    """Brown-Conrady with the rational term: where a focal length of one pixel sees an ideal point (x/z, y/z)."""
    x, y = plane[..., 0], plane[..., 1]
    r2 = x * x + y * y
    n, d = _radial(r2, k)
    radial, p1, p2 = n / d, k[..., 2], k[..., 3]
    return torch.stack([x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1)


def unbend_brown(
    goal: Float[Tensor, "... 2"], k: Float[Tensor, "... 8"], reach: Float[Tensor, "... 1"], steps: int
) -> Float[Tensor, "... 2"]:
    """Inverse of `brown` within `reach`, by Newton's method on its (symmetric) Jacobian; a step beyond `reach` goes half way there."""
    length = goal.norm(dim=-1, keepdim=True)
    plane = goal * (0.9 * reach / length.clamp_min(1e-12)).clamp(max=1)
    tolerance = 1e-9 if goal.dtype == torch.float64 else 1e-5
    p1, p2 = k[..., 2], k[..., 3]
    for _ in range(steps):
        x, y = plane.unbind(-1)
        r2 = x * x + y * y
        (n, d), (dn, dd) = _radial(r2, k), _radial_slopes(r2, k)
        radial, slope = n / d, 2 * (dn * d - n * dd) / (d * d)
        a = radial + x * x * slope + 2 * p1 * y + 6 * p2 * x
        b = x * y * slope + 2 * p1 * x + 2 * p2 * y
        c = radial + y * y * slope + 6 * p1 * y + 2 * p2 * x
        e, f = (brown(plane, k) - goal).unbind(-1)
        step = torch.stack([c * e - b * f, a * f - b * e], -1) / (a * c - b * b)[..., None]
        moved = plane - step
        radius = moved.norm(dim=-1, keepdim=True)
        half = (plane.norm(dim=-1, keepdim=True) + reach) / 2
        plane = torch.where(radius > reach, moved * half / radius, moved)
        if bool((step.nan_to_num().abs() < tolerance * 1e-3).all()):
            break
    hit = (brown(plane, k) - goal).norm(dim=-1, keepdim=True) < tolerance * (1 + length)
    return torch.where(hit & (plane.norm(dim=-1, keepdim=True) <= reach), plane, torch.nan)


def _fisheye_angle(angle: Float[Tensor, "..."], k: Float[Tensor, "... 8"]) -> Float[Tensor, "..."]:
    """The distorted angle of a ray's angle to the optical axis, rad."""
    t2 = angle * angle
    return angle * (1 + t2 * (k[..., 0] + t2 * (k[..., 1] + t2 * (k[..., 2] + t2 * k[..., 3]))))


def fisheye_slope(angle: Float[Tensor, "..."], k: Float[Tensor, "... 8"]) -> Float[Tensor, "..."]:
    """Derivative of `_fisheye_angle`."""
    t2 = angle * angle
    return 1 + t2 * (3 * k[..., 0] + t2 * (5 * k[..., 1] + t2 * (7 * k[..., 2] + t2 * 9 * k[..., 3])))


def fisheye(plane: Float[Tensor, "... 2"], k: Float[Tensor, "... 8"]) -> Float[Tensor, "... 2"]:
    """Kannala-Brandt: where a focal length of one pixel sees an ideal point (x/z, y/z)."""
    r = plane.norm(dim=-1)
    scale = torch.where(r > 1e-9, _fisheye_angle(torch.atan(r), k) / r.clamp_min(1e-9), torch.ones_like(r))
    return plane * scale[..., None]


def unbend_fisheye(
    goal: Float[Tensor, "... 2"], k: Float[Tensor, "... 8"], reach: Float[Tensor, "... 1"], steps: int
) -> Float[Tensor, "... 2"]:
    """Inverse of `fisheye` within `reach`, by Newton's method on the angle."""
    bent, most = goal.norm(dim=-1), torch.atan(reach[..., 0])
    angle = torch.minimum(bent, 0.9 * most)
    tolerance = 1e-9 if goal.dtype == torch.float64 else 1e-5
    for _ in range(steps):
        moved = angle - (_fisheye_angle(angle, k) - bent) / fisheye_slope(angle, k)
        moved = torch.where(moved > most, (angle + most) / 2, moved)
        done = bool(((moved - angle).nan_to_num().abs() < tolerance * 1e-3).all())
        angle = moved
        if done:
            break
    found = ((_fisheye_angle(angle, k) - bent).abs() < tolerance) & (angle <= most) & (angle < pi / 2 - 1e-6)
    scale = torch.where(bent > 1e-9, angle.tan() / bent.clamp_min(1e-9), torch.ones_like(bent))
    return torch.where(found[..., None], goal * scale[..., None], torch.nan)

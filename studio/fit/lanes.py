"""Small algebra over many frames: 3-vectors (3, n, T) and 3x3 matrices (3, 3, n, T), time last.

Every elementwise operation then runs along contiguous frames, which suits wide registers and GPUs alike; batches of 3x3 products with
time first would spend their time on overhead.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def product(a: Float[Tensor, "i k *n"], b: Float[Tensor, "k j *n"]) -> Float[Tensor, "i j *n"]:
    """Matrix times matrix."""
    out = a[:, 0, None] * b[0]
    for k in range(1, len(b)):
        out.addcmul_(a[:, k, None], b[k])
    return out


def carried(a: Float[Tensor, "i k *n"], x: Float[Tensor, "k *n"]) -> Float[Tensor, "i *n"]:
    """Matrix times vector."""
    out = a[:, 0] * x[0]
    for k in range(1, len(x)):
        out.addcmul_(a[:, k], x[k])
    return out


def cross(y: Float[Tensor, "3 *n"], a: Float[Tensor, "3 *m"]) -> Float[Tensor, "3 *m"]:
    """`y × a` for a vector, or for every column of a matrix `a` (3, j, n, T)."""
    return torch.stack([torch.addcmul(y[j] * a[k], y[k], a[j], value=-1) for j, k in ((1, 2), (2, 0), (0, 1))])


def exp(r: Float[Tensor, "3 *n"]) -> Float[Tensor, "3 3 *n"]:
    """Rotation matrix of a rotation vector, rad (Rodrigues), accurate near zero."""
    square = (r * r).sum(0)
    small = square < 1e-8
    safe = torch.where(small, 1.0, square)
    half = 0.5 * safe.sqrt()
    sine, cosine = half.sin(), half.cos()
    b = torch.where(small, 0.5 - square / 24, 2 * sine * sine / safe)  # (1 - cos) / angle^2 without cancellation
    a = torch.where(small, 1 - square / 6, sine * cosine / half)
    w = a * r
    x, y, z = r
    xy, yz, zx = x * y * b, y * z * b, z * x * b
    own = [1 + b * (c * c - square) for c in r]
    flat = [own[0], xy - w[2], zx + w[1], xy + w[2], own[1], yz - w[0], zx - w[1], yz + w[0], own[2]]
    return torch.stack(flat).view(3, 3, *r.shape[1:])


def log(R: Float[Tensor, "3 3 *n"]) -> Float[Tensor, "3 *n"]:
    """Rotation vector, rad, of a matrix; angles in [0, pi].

    Up to a right angle from the antisymmetric part, beyond from the column of the symmetric part that is longest.
    """
    v = 0.5 * torch.stack([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    trace = R[0, 0] + R[1, 1] + R[2, 2]
    sine, cosine = (v * v).sum(0).clamp_min(1e-24).sqrt(), 0.5 * (trace - 1)  # the bound keeps the derivative at rest finite
    angle = torch.atan2(sine, cosine)
    near = v * torch.where(sine < 1e-4, 1 + sine * sine / 6, angle / sine.clamp_min(1e-12))
    far = cosine < 0
    if not bool(far.any()):
        return near
    S = R + R.transpose(0, 1)
    square = torch.stack([S[i, i] + 1 - trace for i in range(3)])  # 2 (1 - cos) a_i^2
    longest = square.argmax(0)
    column = torch.zeros_like(v)
    for i in range(3):
        own = torch.stack([square[i] if k == i else S[k, i] for k in range(3)])
        column = torch.where(longest == i, own, column)
    axis = column * (column * column).sum(0).clamp_min(1e-30).rsqrt()
    axis = torch.where((axis * v).sum(0) < 0, -axis, axis)
    return torch.where(far, axis * angle, near)


def left_jacobian_inverse(r: Float[Tensor, "3 *n"]) -> Float[Tensor, "*n"]:
    """Coefficient c of `1 - [r]/2 + c [r]^2`, the derivative of `log(exp(d) exp(r))` in d (Sola et al., 2018, eq. 146)."""
    square = (r * r).sum(0)
    small = square < 0.04
    safe = torch.where(small, 1.0, square)
    half = 0.5 * safe.sqrt()
    return torch.where(small, 1 / 12 + square * (1 / 720 + square / 30240), (1 - half / half.tan()) / safe)


def against_left_jacobian(r: Float[Tensor, "3 *n"], x: Float[Tensor, "3 *m"]) -> Float[Tensor, "3 *m"]:
    """Transpose of that derivative times x: `x + r × x / 2 + c r × (r × x)`; x may have axes before those of r."""
    once = cross(r, x)
    return x + 0.5 * once + left_jacobian_inverse(r) * cross(r, once)

"""Rotations: rotation vectors, matrices, quaternions (w, x, y, z) and 6D, all batched over leading axes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def skew(v: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """Matrix `K` with `K @ x = v × x`."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*v.shape, 3)


def exp(rotation: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """Matrix of a rotation vector (rad), Rodrigues' formula; differentiable at zero."""
    square = (rotation * rotation).sum(-1)[..., None, None]
    small = square < 1e-8
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    a = torch.where(small, 1 - square / 6, angle.sin() / angle)
    # 1 - cos would lose all digits of single precision below a milliradian.
    b = torch.where(small, 0.5 - square / 24, 2 * (angle / 2).sin().square() / safe)
    K = skew(rotation)
    return torch.eye(3, dtype=rotation.dtype, device=rotation.device) + a * K + b * (K @ K)


def log(R: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3"]:
    """Rotation vector (rad) of a matrix, angle in [0, pi], accurate near pi."""
    q = quaternion(R)
    w, v = q[..., :1], q[..., 1:]
    sine = v.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, w)
    return v * torch.where(sine < 1e-7, 2 / w.clamp_min(1e-7), angle / sine.clamp_min(1e-12))


def quaternion(R: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 4"]:
    """Unit quaternion (w, x, y, z) with w >= 0 of a matrix; the largest of the four components is the divisor (Shepperd 1978)."""
    m = R
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    yz, zx, xy = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    sxy, szx, syz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    rows = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, yz, zx, xy], -1),
            torch.stack([yz, 1 + xx - yy - zz, sxy, szx], -1),
            torch.stack([zx, sxy, 1 - xx + yy - zz, syz], -1),
            torch.stack([xy, szx, syz, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = torch.gather(rows, -2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.where(q[..., :1] < 0, -q, q)


def matrix(q: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Matrix of a quaternion (w, x, y, z), which need not have unit length."""
    q = q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    w, v = q[..., 0, None, None], q[..., 1:]
    K = skew(v)
    return torch.eye(3, dtype=q.dtype, device=q.device) + 2 * w * K + 2 * (K @ K)


def from_6d(columns: Float[Tensor, "... 6"]) -> Float[Tensor, "... 3 3"]:
    """Matrix whose first two columns are Gram-Schmidt of the two given 3-vectors (Zhou et al. 2019)."""
    a, b = columns[..., :3], columns[..., 3:]
    x = a / a.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    y = b - (x * b).sum(-1, keepdim=True) * x
    y = y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def geodesic(A: Float[Tensor, "... 3 3"], B: Float[Tensor, "... 3 3"]) -> Float[Tensor, "..."]:
    """Angle between two rotations, rad."""
    return log(A.mT @ B).norm(dim=-1)


def project_to_rotation(M: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation nearest to a matrix (orthogonal Procrustes)."""
    U, _, Vh = torch.linalg.svd(M)
    sign = torch.det(U @ Vh).sign()
    return torch.cat([U[..., :2], U[..., 2:] * sign[..., None, None]], -1) @ Vh


def slerp(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"], t: Float[Tensor, "..."]) -> Float[Tensor, "... 4"]:
    """Quaternion a fraction `t` along the shorter arc from a to b."""
    dot = (a * b).sum(-1, keepdim=True)
    b = torch.where(dot < 0, -b, b)
    angle = dot.abs().clamp(max=1).acos()
    sine = angle.sin()
    near = sine < 1e-6
    t = t[..., None]
    wa = torch.where(near, 1 - t, ((1 - t) * angle).sin() / sine.clamp_min(1e-12))
    wb = torch.where(near, t, (t * angle).sin() / sine.clamp_min(1e-12))
    q = wa * a + wb * b
    return q / q.norm(dim=-1, keepdim=True)

"""Rotations that lie nearest, and their angles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def nearest_rotation(M: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation R for which trace(R^T M) is largest; of M = sum y x^T the one that best carries x onto y (Kabsch 1976)."""
    U, _, Vt = torch.linalg.svd(M)
    sign = torch.ones_like(M[..., 0])
    sign[..., 2] = torch.det(U @ Vt).sign()
    return (U * sign[..., None, :]) @ Vt


def angle(R: Float[Tensor, "... 3 3"]) -> Float[Tensor, "..."]:
    """Angle of a rotation, rad."""
    return ((R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos()

"""Every data term: what evidence says about where points of the body should be.

A term takes the points' world positions and returns a `Pull`. Strengths are standard deviations in physical units. The robust kernel is
Geman-McClure, `rho(e) = c^2 e^2 / (2 (c^2 + e^2))` of the whitened residual e: it ignores what is many `c` away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from studio.fit.points import Pull


@dataclass(frozen=True)
class Views:
    """2D keypoints of one actor in calibrated cameras, lens distortion removed once."""

    R: Float[Tensor, "C 3 3"]
    translation: Float[Tensor, "C 3"]
    plane: Float[Tensor, "C T K 2"]
    """Ideal image-plane coordinates (x/z, y/z); zero where not seen."""
    precision: Float[Tensor, "C T K"]
    """One over the standard deviation on the image plane; zero where not seen."""

    @classmethod
    def undistorted(
        cls, cameras: Cameras, pixels: Float[Tensor, "C T K 2"], sigma: Float[Tensor, "C T K"], dtype: torch.dtype = torch.float32
    ) -> Views:
        """From pixels and their standard deviations (px); NaN pixels are not seen."""
        plane = cameras.undistort(pixels.to(torch.float64))
        seen = torch.isfinite(plane).all(-1) & torch.isfinite(sigma) & (sigma > 0)
        focal = cameras.focal.mean(-1)[:, None, None]
        precision = torch.where(seen, focal / sigma.clamp_min(1e-3), 0)
        plane = torch.where(seen[..., None], plane, 0)
        return cls(cameras.R_camera_world.to(dtype), cameras.translation.to(dtype), plane.to(dtype), precision.to(dtype))

    def to(self, device: str | torch.device) -> Views:
        """The same on another device."""
        return Views(self.R.to(device), self.translation.to(device), self.plane.to(device), self.precision.to(device))

    def __getitem__(self, frames: slice | Tensor) -> Views:
        return Views(self.R, self.translation, self.plane[:, frames], self.precision[:, frames])


def keypoints(points: Float[Tensor, "T K 3"], views: Views, kernel: float) -> Pull:
    """Reprojection of keypoints in every view, collapsed into one pull a keypoint. `kernel` is in standard deviations."""
    T, K = points.shape[:2]
    A = torch.zeros(T, K, 3, 3, dtype=points.dtype, device=points.device)
    b = torch.zeros(T, K, 3, dtype=points.dtype, device=points.device)
    cost = torch.zeros(T, dtype=points.dtype, device=points.device)
    for c in range(len(views.R)):
        R = views.R[c]
        p = points @ R.T + views.translation[c]
        z = p[..., 2:].clamp_min(0.05)
        s = views.precision[c][..., None] * (p[..., 2:] > 0.05)
        uv = p[..., :2] / z
        r = (uv - views.plane[c]) * s
        square = (r * r).sum(-1)
        keep = kernel**2 / (kernel**2 + square)
        cost += 0.5 * (square * keep).sum(-1)
        J = (s / z)[..., None] * (R[:2] - uv[..., None] * R[2])
        weighted = J * keep.square()[..., None, None]
        A += weighted.mT @ J
        b += (weighted.mT @ r[..., None])[..., 0]
    return Pull(A, b, cost)


def targets(points: Float[Tensor, "T K 3"], where: Float[Tensor, "T K 3"], sigma: Float[Tensor, "T K"], kernel: float) -> Pull:
    """Points of the body at known world positions; sigma in m, infinite or NaN target where unknown."""
    known = torch.isfinite(where).all(-1) & torch.isfinite(sigma)
    s = torch.where(known, 1 / sigma.clamp_min(1e-5), 0)
    r = torch.where(known[..., None], points - where, 0) * s[..., None]
    square = (r * r).sum(-1)
    keep = kernel**2 / (kernel**2 + square)
    strength = s * keep.square()
    eye = torch.eye(3, dtype=points.dtype, device=points.device)
    return Pull((strength * s)[..., None, None] * eye, strength[..., None] * r, 0.5 * (square * keep).sum(-1))

"""Every data term: what evidence says about where points of the body should be.

A term takes the points' world positions and returns a `Pull`. Strengths are standard deviations in physical units. The robust kernel is
Geman-McClure, `rho(e) = c^2 e^2 / (2 (c^2 + e^2))` of the whitened residual e: it ignores what is many `c` away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from studio.fit.state import Pull


@dataclass(frozen=True)
class Views:
    """2D keypoints of one actor in calibrated cameras, lens distortion removed once."""

    R: Float[Tensor, "C 3 3"]
    translation: Float[Tensor, "C 3"]
    plane: Float[Tensor, "2 C K T"]
    """Ideal image-plane coordinates (x/z, y/z); zero where not seen."""
    precision: Float[Tensor, "C K T"]
    """One over the standard deviation on the image plane; zero where not seen."""

    @classmethod
    def undistorted(
        cls, cameras: Cameras, pixels: Float[Tensor, "C T K 2"], sigma: Float[Tensor, "C T K"], dtype: torch.dtype = torch.float32
    ) -> Views:
        """From pixels and their standard deviations (px); NaN pixels are not seen."""
        plane = cameras.undistort(pixels.to(torch.float64))
        seen = torch.isfinite(plane).all(-1) & torch.isfinite(sigma) & (sigma > 0)
        focal = cameras.focal.mean(-1)[:, None, None]
        precision = torch.where(seen, focal / sigma.clamp_min(1e-3), 0).transpose(1, 2)
        plane = torch.where(seen[..., None], plane, 0).permute(3, 0, 2, 1)
        return cls(
            cameras.R_camera_world.to(dtype), cameras.translation.to(dtype), plane.to(dtype).contiguous(), precision.to(dtype).contiguous()
        )

    def to(self, where: str | torch.device | torch.dtype) -> Views:
        """The same on another device or in another precision."""
        return Views(self.R.to(where), self.translation.to(where), self.plane.to(where), self.precision.to(where))

    def __getitem__(self, frames: slice | Tensor) -> Views:
        part = Views(self.R, self.translation, self.plane[..., frames], self.precision[..., frames])
        part.__dict__["collapse"] = self.collapse  # the same cameras
        return part

    @cached_property
    def collapse(self) -> tuple[Float[Tensor, "9 4*C"], Float[Tensor, "3 3*C"]]:
        """What the columns 1, u, v, u^2 + v^2 of all cameras add to a point's information, and 1, 1, 1 to its gradient."""
        x, y, z = self.R.unbind(1)
        outer = lambda a, b: torch.einsum("ci,cj->cij", a, b).flatten(1)  # noqa: E731
        both = lambda a, b: -outer(a, b) - outer(b, a)  # noqa: E731
        information = torch.cat([outer(x, x) + outer(y, y), both(x, z), both(y, z), outer(z, z)])
        return information.T.contiguous(), torch.cat([x, y, -z]).T.contiguous()


def keypoints(points: Float[Tensor, "T K 3"], views: Views, kernel: float) -> Pull:
    """Reprojection of keypoints in every view, collapsed into one pull a keypoint. `kernel` is in standard deviations.

    With u = x/z, v = y/z in the camera of axes (x; y; z), a view's Jacobian is `(x - u z; y - v z) / depth`, so that the sum over
    views of its square is a constant matrix times sums of the weights times 1, u, v, u^2 + v^2.
    """
    X = points.permute(2, 1, 0)
    C, K, T = len(views.R), X.shape[1], X.shape[2]
    h = torch.addmm(views.translation.T.reshape(-1, 1), views.R.transpose(0, 1).reshape(-1, 3), X.reshape(3, -1)).view(3, C, K, T)
    ahead = (h[2] > 0.05).to(X.dtype)
    iz = h[2].clamp_min(0.05).reciprocal_()
    u, v = h[0] * iz, h[1] * iz
    ru, rv = u - views.plane[0], v - views.plane[1]
    strength = (views.precision * ahead).square_()
    square = (ru * ru).addcmul_(rv, rv).mul_(strength)
    keep = kernel**2 / (kernel**2 + square)
    cost = 0.5 * torch.einsum("ckt,ckt->t", square, keep)
    m = keep.square_().mul_(strength).mul_(iz)
    b = torch.empty(3, C, K, T, dtype=X.dtype, device=X.device)
    torch.mul(m, ru, out=b[0])
    torch.mul(m, rv, out=b[1])
    torch.mul(u, b[0], out=b[2]).addcmul_(v, b[1])
    M = torch.empty(4, C, K, T, dtype=X.dtype, device=X.device)
    torch.mul(m, iz, out=M[0])
    torch.mul(M[0], u, out=M[1])
    torch.mul(M[0], v, out=M[2])
    torch.mul(M[1], u, out=M[3]).addcmul_(M[2], v)
    information, gradient = views.collapse
    A = (information @ M.view(4 * C, -1)).view(3, 3, K, T)
    return Pull(A.permute(3, 2, 0, 1), (gradient @ b.view(3 * C, -1)).view(3, K, T).permute(2, 1, 0), cost)


def targets(points: Float[Tensor, "T K 3"], where: Float[Tensor, "T K 3"], sigma: Float[Tensor, "T K"], kernel: float) -> Pull:
    """Points of the body at known world positions; sigma in m, infinite or NaN target where unknown."""
    x, to = points.permute(2, 1, 0), where.permute(2, 1, 0)
    known = torch.isfinite(to).all(0) & torch.isfinite(sigma.T)
    s = torch.where(known, 1 / sigma.T.clamp_min(1e-5), 0)
    r = torch.where(known, x - to, 0) * s
    square = (r * r).sum(0)
    keep = kernel**2 / (kernel**2 + square)
    strength = s * keep.square()
    A = torch.zeros(3, 3, *square.shape, dtype=points.dtype, device=points.device)
    for i in range(3):
        torch.mul(strength, s, out=A[i, i])
    return Pull(A.permute(3, 2, 0, 1), (strength * r).permute(2, 1, 0), 0.5 * (square * keep).sum(0))

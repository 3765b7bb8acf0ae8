"""How far keypoints are off: in the image, in space from several views, and by what they say of themselves."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.train.scenes import Scenes


def nees(error: Float[Tensor, "... 2"], covariance: Float[Tensor, "... 2 2"]) -> Float[Tensor, "..."]:
    """Normalised squared error; 2 on average where covariances are true."""
    return (error * torch.linalg.solve(covariance, error[..., None])[..., 0]).sum(-1)


def pck(error: Float[Tensor, "N K"], side: Float[Tensor, "N"], which: Bool[Tensor, "N K"], share: float = 0.05) -> float:
    """Share of the chosen keypoints that are within a share of the box's longer side (PCK of Yang & Ramanan 2013, of the box)."""
    return float((error < share * side[:, None])[which].double().mean())


def intersected(
    scenes: Scenes, pixels: Float[Tensor, "N C K 2"], information: Float[Tensor, "N C K 2 2"], steps: int = 8
) -> Float[Tensor, "N K 3"]:
    """World points with the least squared reprojection error, each view weighted by its information (px^-2), m; moment 0.

    Gauss-Newton from the point nearest to all rays. Nothing is thrown out: what is compared is the weights.
    """
    R, position = scenes.R_camera_world.double(), scenes.position.double()
    focal, centre = scenes.focal.double()[..., None, None], scenes.centre.double()[:, :, None]
    plane = (pixels.double() - centre) / focal
    ray = torch.einsum("ncji,nckj->ncki", R, torch.cat([plane, torch.ones_like(plane[..., :1])], -1))
    ray = ray / ray.norm(dim=-1, keepdim=True)
    across = torch.eye(3, dtype=torch.float64) - ray[..., :, None] * ray[..., None, :]
    x = torch.linalg.solve(across.sum(1), torch.einsum("nckij,ncj->nki", across, position))
    W = information.double()
    for _ in range(steps):
        p = torch.einsum("ncij,nckj->ncki", R, x[:, None] - position[:, :, None])
        z = p[..., 2:].clamp_min(0.3)
        off = focal * p[..., :2] / z + centre - pixels.double()
        slope = focal[..., None] * (R[:, :, None, :2] - (p[..., :2] / z)[..., None] * R[:, :, None, 2:]) / z[..., None]
        H = torch.einsum("nckai,nckab,nckbj->nkij", slope, W, slope)
        b = torch.einsum("nckai,nckab,nckb->nki", slope, W, off)
        x = x - torch.linalg.solve(H + 1e-9 * torch.eye(3, dtype=torch.float64), b)
    return x

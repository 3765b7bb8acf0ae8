"""The pose of a board in one camera, for many views at once, with the second pose that a flat board nearly allows.

A small or distant plane looks almost the same when its tilt is mirrored along the line of sight (Schweighofer and Pinz 2006; Collins and
Bartoli 2014, "Infinitesimal plane-based pose estimation"). One view cannot decide, several can, so both poses are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.bundle import moved
from calibration.cameras import Cameras
from calibration.reprojection import Sightings, fisheyes, lens_vectors, normals


@dataclass(frozen=True)
class BoardPoses:
    """H poses of each view's board in its camera, the likeliest first."""

    R: Float[Tensor, "V H 3 3"]
    """R_camera_board."""
    t: Float[Tensor, "V H 3"]
    cost: Float[Tensor, "V H"]
    """Half the robust sum of squared whitened residuals; inf where the pose is impossible."""
    information: Float[Tensor, "V H 6 6"]
    """Of the twist (rotation vector rad, shift m) on the camera's side."""
    turned: Bool[Tensor, "V H"]
    """The board lies half a turn from how its corners were numbered (chessboards whose pattern allows it)."""

    def __getitem__(self, which: Tensor) -> BoardPoses:
        """The poses of the views at a mask or index."""
        return BoardPoses(self.R[which], self.t[which], self.cost[which], self.information[which], self.turned[which])


def board_poses(views: Sightings, cameras: Cameras) -> BoardPoses:
    """Both poses of every view (H = 2), each refined on the pixels; a flat board's from a homography, any other's by SQPnP."""
    plane = _undistorted(views, cameras)
    flat = bool(torch.allclose(views.points[..., 2], views.points[:, :1, 2], atol=1e-9))
    R, t = _from_homography(views, plane) if flat else _from_relief(views, plane)
    first = _refined(views, cameras, R, t, 12)
    middle = _mean(views.points, views.weight)
    sight = torch.nn.functional.normalize((first[0] @ middle[..., None])[..., 0] + first[1], dim=-1)
    mirror = torch.eye(3, dtype=R.dtype) - 2 * sight[:, :, None] * sight[:, None]
    other = mirror @ first[0] * R.new_tensor([1, 1, -1.0])
    shift = ((first[0] - other) @ middle[..., None])[..., 0]
    second = _refined(views, cameras, other, first[1] + shift, 12)
    R, t, cost, information = (torch.stack(pair, 1) for pair in zip(first, second))
    order = cost.argsort(1)
    rows = torch.arange(len(views))[:, None]
    return BoardPoses(R[rows, order], t[rows, order], cost[rows, order], information[rows, order], torch.zeros_like(cost, dtype=torch.bool))


def with_half_turns(poses: BoardPoses, points: Float[Tensor, "N 3"]) -> BoardPoses:
    """Twice the poses: also those of a board that lies half a turn from how its corners were numbered."""
    centre = (points.amin(0) + points.amax(0)) / 2
    half = torch.diag(points.new_tensor([-1, -1, 1.0]))
    shift = centre - half @ centre
    R, t = poses.R @ half, poses.t + poses.R @ shift
    both = [torch.cat(pair, 1) for pair in ((poses.R, R), (poses.t, t), (poses.cost, poses.cost), (poses.information, poses.information))]
    return BoardPoses(both[0], both[1], both[2], both[3], torch.cat([poses.turned, ~poses.turned], 1))


def facing(poses: BoardPoses, views: Sightings) -> Bool[Tensor, "V H"]:
    """Whether a pose shows the board's front: its inward normal points away from the camera."""
    middle = (poses.R @ _mean(views.points, views.weight)[:, None, :, None])[..., 0] + poses.t
    return (poses.R[..., 2] * middle).sum(-1) > 0


def _mean(points: Tensor, weight: Tensor) -> Float[Tensor, "V 3"]:
    seen = (weight > 0).to(points.dtype)[..., None]
    return (points * seen).sum(1) / seen.sum(1).clamp_min(1)


def _undistorted(views: Sightings, cameras: Cameras) -> Float[Tensor, "V N 2"]:
    """Corners on the ideal image plane; NaN where not seen."""
    plane = torch.full_like(views.pixels, torch.nan)
    for c, camera in enumerate(cameras):
        own = views.camera == c
        plane[own] = camera.undistort(views.pixels[own][None])[0]
    return torch.where(views.weight[..., None] > 0, plane, torch.nan)


def _from_homography(views: Sightings, plane: Float[Tensor, "V N 2"]) -> tuple[Tensor, Tensor]:
    """Poses from the plane's homography by the normalised direct linear transform (Hartley and Zisserman 2004, section 4.4)."""
    seen = plane.isfinite().all(-1).to(plane.dtype)
    (X, sx, mx), (x, sp, mp) = _normalised(views.points[..., :2], seen), _normalised(plane.nan_to_num(), seen)
    one, nothing = seen, torch.zeros_like(seen)
    a, b = X.unbind(-1)
    rows = [
        torch.stack(
            [a, b, one, nothing, nothing, nothing, -u * a, -u * b, -u]
            if first
            else [nothing, nothing, nothing, a, b, one, -u * a, -u * b, -u],
            -1,
        )
        for u, first in ((x[..., 0], True), (x[..., 1], False))
    ]
    A = torch.cat(rows, 1)
    H = torch.linalg.eigh(A.mT @ A)[1][..., 0].view(-1, 3, 3)
    H = _similarity(1 / sp, mp) @ H @ _similarity(sx, -mx * sx[:, None])
    depth = (H[:, 2] * torch.cat([mx, torch.ones_like(mx[:, :1])], -1)).sum(-1)
    H = H * depth.sign()[:, None, None] * 2 / H[:, :, :2].norm(dim=1).sum(-1)[:, None, None]
    R = torch.cat([H[..., :2], torch.linalg.cross(H[..., 0], H[..., 1])[..., None]], -1)
    U, _, Vh = torch.linalg.svd(R)
    R = U @ Vh
    return R, H[..., 2] - R[..., 2] * views.points[:, :1, 2]


def _normalised(points: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Seen points moved to zero mean and unit spread (others zero), the scale and the mean."""
    count = seen.sum(1).clamp_min(1)[:, None]
    mean = (points * seen[..., None]).sum(1) / count
    away = (points - mean[:, None]) * seen[..., None]
    scale = 1 / (away.square().sum((1, 2)) / count[:, 0]).sqrt().clamp_min(1e-12)
    return away * scale[:, None, None], scale, mean


def _similarity(scale: Tensor, shift: Tensor) -> Float[Tensor, "V 3 3"]:
    S = torch.diag_embed(torch.stack([scale, scale, torch.ones_like(scale)], -1))
    S[:, :2, 2] = shift
    return S


def _from_relief(views: Sightings, plane: Float[Tensor, "V N 2"]) -> tuple[Tensor, Tensor]:
    """Poses of boards that are not flat, view by view."""
    R, t = torch.eye(3, dtype=plane.dtype).repeat(len(views), 1, 1), plane.new_zeros(len(views), 3)
    for v, seen in enumerate(plane.isfinite().all(-1).numpy()):
        if seen.sum() < 4:
            continue
        ok, turn, shift = cv2.solvePnP(views.points[v].numpy()[seen], plane[v].numpy()[seen], np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP)
        if ok:
            R[v], t[v] = torch.from_numpy(cv2.Rodrigues(turn)[0]), torch.from_numpy(shift[:, 0])
    return R, t


def _refined(views: Sightings, cameras: Cameras, R: Tensor, t: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Levenberg-Marquardt on every view's own pixels: R, t, cost and information."""
    lens, fish = lens_vectors(cameras)[views.camera], fisheyes(cameras)[views.camera]
    best = normals(views, R, t, lens, fish)
    damping = torch.full((len(views),), 1e-3, dtype=R.dtype)
    active = torch.arange(len(views))
    for _ in range(steps):
        H, g = best.matrix[active], best.gradient[active]
        H = H + torch.diag_embed(H.diagonal(dim1=-2, dim2=-1) * damping[active, None] + 1e-9)
        L, wrong = torch.linalg.cholesky_ex(H)
        L = torch.where(wrong[:, None, None] > 0, torch.eye(6, dtype=R.dtype) * 1e6, L)
        step = -torch.cholesky_solve(g[..., None], L)[..., 0]
        R_new, t_new = moved(R[active], t[active], step)
        trial = normals(views[active], R_new, t_new, lens[active], fish[active])
        gained = best.cost[active] - trial.cost
        better = gained > 0
        chosen = active[better]
        R, t = R.index_copy(0, chosen, R_new[better]), t.index_copy(0, chosen, t_new[better])
        best = replace(
            best,
            cost=best.cost.index_copy(0, chosen, trial.cost[better]),
            gradient=best.gradient.index_copy(0, chosen, trial.gradient[better]),
            matrix=best.matrix.index_copy(0, chosen, trial.matrix[better]),
        )
        damping[active] = torch.where(better, damping[active] / 10, damping[active] * 10)
        # A quarter of a squared standard deviation in all is far below what the choice between two poses needs.
        active = active[(gained.abs() > 0.02 + 1e-4 * trial.cost) & (damping[active] < 1e6)]
        if not len(active):
            break
    ahead = ((R @ views.points.mT + t[..., None])[:, 2] > 0.01).all(1)
    return R, t, torch.where(ahead, best.cost, torch.inf), best.matrix

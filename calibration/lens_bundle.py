"""One lens and the poses of a board before it, by Levenberg-Marquardt, the poses eliminated (Schur complement).

Lens vectors are those of `calibration.reprojection`: focal x y, centre x y (px), k1 k2 p1 p2 k3 k4 k5 k6.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibration import lenses
from calibration.bundle import moved
from calibration.reprojection import LENS, Normals, Sightings, normals, residuals


@dataclass(frozen=True)
class LensPrior:
    """What is known of a lens before any board: a Gaussian, `information` about `mean`."""

    mean: Float[Tensor, "12"]
    information: Float[Tensor, "12 12"]

    def cost(self, lens: Float[Tensor, "12"]) -> Float[Tensor, ""]:
        """Half the squared, whitened distance of a lens."""
        return (lens - self.mean) @ self.information @ (lens - self.mean) / 2


@dataclass(frozen=True)
class Poses:
    """The board in the camera's frame, view by view."""

    R: Float[Tensor, "V 3 3"]
    t: Float[Tensor, "V 3"]
    """m."""

    def __getitem__(self, which: Tensor) -> Poses:
        return Poses(self.R[which], self.t[which])


@dataclass(frozen=True)
class Bundle:
    """A lens and the board's poses that fit the views best, and how firmly."""

    views: Sightings
    lens: Float[Tensor, "12"]
    fish: bool
    columns: tuple[int, ...]
    """Entries of the lens that were free."""
    poses: Poses
    normals: Normals
    prior: LensPrior
    cost: float

    @property
    def residual(self) -> Float[Tensor, "V N 2"]:
        """Projected minus seen, px; NaN where not seen."""
        return _residual(self.views, self.poses, self.lens, self.fish)

    @cached_property
    def view_information(self) -> Float[Tensor, "V K K"]:
        """What each view tells of the free entries, its own pose unknown."""
        return _schur(self.normals)[0]

    def covariance(self, spread: bool = True) -> Float[Tensor, "12 12"]:
        """Of the lens (zero for what was fixed). With `spread`, no smaller than the views' disagreement about the focal length shows.

        The views' disagreement: cluster-robust covariance, each view a cluster (Liang and Zeger 1986); it counts errors that a view's
        corners share, such as a bent board or motion during the exposure.
        """
        columns = list(self.columns)
        information = self.view_information.sum(0) + self.prior.information[columns][:, columns]
        cov = torch.linalg.inv(information)
        V, K = len(self.views), len(columns)
        if spread and V > 2:
            score = self.normals.gradient[:, 6:]
            robust = cov @ (score.mT @ score) @ cov * V / max(V - K / 2, 1)
            cov = cov * float((robust.diagonal()[:2] / cov.diagonal()[:2]).max().clamp(min=1))
        whole = cov.new_zeros(LENS, LENS)
        whole[torch.tensor(columns)[:, None], torch.tensor(columns)] = cov
        return whole


def _residual(views: Sightings, poses: Poses, lens: Tensor, fish: bool) -> Float[Tensor, "V N 2"]:
    V = len(views)
    return residuals(views, poses.R, poses.t, lens.expand(V, LENS), torch.full((V,), fish))


def _normals(views: Sightings, poses: Poses, lens: Tensor, fish: bool, columns: tuple[int, ...]) -> Normals:
    V = len(views)
    found = normals(views, poses.R, poses.t, lens.expand(V, LENS), torch.full((V,), fish), columns)
    return Normals(found.cost.clone(), found.gradient.clone(), found.matrix.clone())


def _schur(found: Normals, damping: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each view's information on the lens with its pose eliminated, the reduced gradient, and what brings the poses back."""
    pose = found.matrix[:, :6, :6]
    pose = pose + torch.diag_embed(pose.diagonal(dim1=1, dim2=2) * damping + 1e-12)
    both = torch.linalg.solve(pose, torch.cat([found.matrix[:, :6, 6:], found.gradient[:, :6, None]], -1))
    back, own = both[..., :-1], both[..., -1]
    cross = found.matrix[:, 6:, :6]
    return found.matrix[:, 6:, 6:] - cross @ back, found.gradient[:, 6:] - (cross @ own[..., None])[..., 0], back, own


def solve_lens(
    views: Sightings,
    poses: Poses,
    lens: Float[Tensor, "12"],
    fish: bool,
    columns: tuple[int, ...],
    prior: LensPrior,
    steps: int = 30,
) -> Bundle:
    """The lens entries `columns` and all poses that fit the views best, from a rough start."""
    found = _normals(views, poses, lens, fish, columns)
    cost, damping = float(found.cost.sum() + prior.cost(lens)), 1e-4
    chosen = torch.tensor(columns)
    for _ in range(steps):
        information, gradient, back, own = _schur(found, damping)
        A = information.sum(0) + prior.information[chosen[:, None], chosen]
        A = A + torch.diag(A.diagonal() * damping + 1e-12)
        g = gradient.sum(0) + (prior.information @ (lens - prior.mean))[chosen]
        change = -torch.linalg.solve(A, g)
        next_lens = lens.index_add(0, chosen, change)
        R, t = moved(poses.R, poses.t, -own - back @ change)
        next_poses = Poses(R, t)
        tried = _normals(views, next_poses, next_lens, fish, columns)
        next_cost = float(tried.cost.sum() + prior.cost(next_lens))
        if not (next_cost < cost and bool((next_lens[:2] > 0).all())):
            damping *= 10
            if damping > 1e6:
                break
            continue
        done = cost - next_cost < 1e-6 * cost
        poses, lens, found, cost, damping = next_poses, next_lens, tried, next_cost, max(damping / 10, 1e-9)
        if done:
            break
    return Bundle(views, lens, fish, columns, poses, found, prior, cost)


def settle_poses(views: Sightings, poses: Poses, lens: Float[Tensor, "12"], fish: bool, steps: int = 8) -> tuple[Poses, Float[Tensor, "V"]]:
    """Poses that fit best through a given lens, and each view's robust cost (half the sum of whitened squares)."""
    found = _normals(views, poses, lens, fish, ())
    damping = torch.full((len(views), 1), 1e-4, dtype=lens.dtype)
    for _ in range(steps):
        A = found.matrix + torch.diag_embed(found.matrix.diagonal(dim1=1, dim2=2) * damping + 1e-12)
        R, t = moved(poses.R, poses.t, -torch.linalg.solve(A, found.gradient))
        tried = _normals(views, Poses(R, t), lens, fish, ())
        better = tried.cost < found.cost
        poses = Poses(torch.where(better[:, None, None], R, poses.R), torch.where(better[:, None], t, poses.t))
        pick = better[:, None]
        found = Normals(
            torch.where(better, tried.cost, found.cost),
            torch.where(pick, tried.gradient, found.gradient),
            torch.where(pick[..., None], tried.matrix, found.matrix),
        )
        damping = torch.where(pick, damping / 10, damping * 10).clamp(1e-9, 1e6)
    return poses, found.cost


def pose_boards(views: Sightings, lens: Float[Tensor, "12"], fish: bool) -> tuple[Poses, Float[Tensor, "V"]]:
    """First poses through a rough lens, the better of a plane's two (Schweighofer and Pinz 2006), and each view's error there.

    The error is the median distance, px, at the lens's focal length; inf where no pose was found.
    """
    goal = (views.pixels - lens[2:4]) / lens[:2]
    reach = goal.new_full((*goal.shape[:-1], 1), 3.0)
    k = lens[4:].expand(*goal.shape[:-1], 8)
    plane = lenses.unbend_fisheye(goal, k, reach, 20) if fish else lenses.unbend_brown(goal, k, reach, 20)
    R, t, error = torch.eye(3, dtype=lens.dtype).repeat(len(views), 1, 1), goal.new_zeros(len(views), 3), goal.new_zeros(len(views))
    t[:, 2] = 1
    for v in range(len(views)):
        ok = (views.weight[v] > 0) & plane[v].isfinite().all(-1)
        if ok.sum() < 4:
            error[v] = torch.inf
            continue
        best = _pose(views.points[v, ok].numpy(), plane[v, ok].numpy())
        error[v] = best[2] * float(lens[:2].mean())
        R[v], t[v] = torch.from_numpy(best[0]), torch.from_numpy(best[1])
    return Poses(R, t), error


def _pose(points: Float[np.ndarray, "n 3"], plane: Float[np.ndarray, "n 2"]) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation, translation (m) and median error on the image plane."""
    centre = points.mean(0)  # a board's back lies off z = 0, where the planar solver wants it
    flat = np.ptp(points[:, 2]) < 1e-9
    method = cv2.SOLVEPNP_IPPE if flat else cv2.SOLVEPNP_SQPNP
    try:
        _, turns, shifts, _ = cv2.solvePnPGeneric(points - centre, plane[:, None], np.eye(3), None, flags=method)
    except cv2.error:  # corners all on a line
        return np.eye(3), np.array([0.0, 0.0, 1.0]), float("inf")
    best = (np.eye(3), np.array([0.0, 0.0, 1.0]), float("inf"))
    for turn, shift in zip(turns, shifts):
        R = cv2.Rodrigues(turn)[0]
        seen = (points - centre) @ R.T + shift.ravel()
        if (seen[:, 2] <= 0).any():
            continue
        error = float(np.median(np.linalg.norm(seen[:, :2] / seen[:, 2:] - plane, axis=1)))
        if error < best[2]:
            best = (R, shift.ravel() - R @ centre, error)
    return best

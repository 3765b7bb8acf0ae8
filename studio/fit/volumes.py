"""Volumes as evidence: the surface of what a network thinks is body becomes a point cloud that the solver's surface is drawn to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rigs.body import Body, Skin
from rigs.landmarks import landmark_skin
from studio.fit.clouds import Cloud, cloud, isosurface
from studio.fit.observed import Observed
from studio.fit.points import Model
from studio.fit.recovered import shown
from studio.fit.robust import padded
from studio.fit.solve import Problem
from studio.fit.state import Pull
from studio.fit.surface import Surface, sampled
from studio.nets import volume as network
from studio.nets.shape import Sight, crop, heading
from studio.nets.volume import REACH, Grid

COUNT = 1500
"""Points of a frame's cloud."""
LEAST = 0.004
"""Share of a window that a mask must cover to count."""
HIPS = ("left_hip", "right_hip")


def cloud_of(volumes: Float[Tensor, "T D D D"], grid: Grid, count: int = COUNT) -> Cloud:
    """The surfaces of volumes in the world, m; all NaN where a volume is empty."""
    T, size = len(volumes), volumes.shape[-1]
    points = torch.full((T, count, 3), torch.nan)
    normals = points.clone()
    voxel = 2 * REACH / size
    low = torch.full((3,), -REACH + voxel / 2)
    for t in range(T):
        p, n = isosurface(volumes[t].permute(2, 1, 0), low, voxel, count)
        points[t, : len(p)] = p.float() @ grid.R_grid_world[t] + grid.centre[t]
        normals[t, : len(n)] = n.float() @ grid.R_grid_world[t]
    return Cloud(points, normals)


def with_cloud(problem: Problem, model: Model, surface: Surface, seen: Cloud, sigma: float, kernel: float) -> Problem:
    """The problem with a cloud on the body's surface, `sigma` m; `model` has the surface's points after the problem's own."""
    own = len(problem.model.skin)

    def evidence(points: Tensor, frames: slice | Tensor) -> Pull:
        pull = padded(problem.evidence(points[:, :own], frames), 0, len(surface))
        skin = points[:, own:]
        return pull + padded(cloud(skin, surface.normals(skin), seen[frames], sigma, kernel), own, 0)

    return replace(problem, model=model, evidence=evidence)


def seen_at(body: Body, observed: Observed) -> tuple[Tensor, Tensor, Sight, Grid, Bool[Tensor, "T C"]] | None:
    """Masks and keypoints of frames in upright windows, the cubes around the person, and which views count; leading axes (T, C).

    None where masks are missing or the hips were not triangulated in every frame.
    """
    if not observed.masks or any(n not in observed.keypoints for n in HIPS):
        return None
    left, right = (observed.points[:, observed.keypoints.index(n)].float() for n in HIPS)
    facing = heading(left, right)
    rest = landmark_skin(body, HIPS, observed.network)[0].rest.mean(0)
    middle = (left + right) / 2 + (facing.mT @ (body.joints[0] - rest)[:, None])[..., 0]
    if not bool(torch.isfinite(middle).all()):
        return None
    pixels = torch.where(torch.isfinite(observed.sigma)[..., None], observed.pixels, torch.nan)
    keys = shown(observed.cameras, observed.keypoints, pixels, observed.points)
    if keys is None:
        return None
    windows = []
    for c, (mask, camera) in enumerate(zip(observed.masks, observed.cameras, strict=True)):
        sight = Sight(keys.sight.R_view_world[:, c], keys.sight.position[:, c], keys.sight.distance[:, c])
        windows.append(crop(mask, camera, sight))
    masks = torch.stack(windows, 1)
    return masks, keys.keypoints, keys.sight, Grid.around(middle, facing), masks.mean((2, 3)) > LEAST


def volumes(body: Body, observed: Observed, weights: str = "volume") -> tuple[Float[Tensor, "T D D D"], Grid] | None:
    """What the network thinks is body in every frame (share of each cell, 0 to 1), and where; None as `seen_at`."""
    found = seen_at(body.to("cpu"), observed)
    if found is None:
        return None
    masks, keypoints, sight, grid, seen = found
    return network.occupancy(network.load(weights), masks, keypoints, sight, grid, seen), grid


def with_volumes(problem: Problem, body: Body, moments: Iterable[Observed], sigma: float, kernel: float) -> Problem:
    """The problem with the body's surface drawn to those of the network's volumes, `sigma` m; one moment a frame, masks of one in memory.

    A moment without masks or hips has no volume.
    """
    nothing = Cloud(torch.full((1, COUNT, 3), torch.nan), torch.full((1, COUNT, 3), torch.nan))
    seen = [nothing if (found := volumes(body, moment)) is None else cloud_of(*found) for moment in moments]
    if all(one is nothing for one in seen):
        return problem
    surface = sampled(body)
    both = Model(problem.model.body, Skin.stacked([problem.model.skin, surface.skin]))
    joined = Cloud(torch.cat([c.points for c in seen]), torch.cat([c.normals for c in seen]))
    return with_cloud(problem, both, surface, joined.to(surface.vertices.device), sigma, kernel)

"""Silhouettes: every point of the body must fall into the mask, and every stretch of the mask's outline wants a rim of the body there.

Both directions are needed: the first alone is content with a body too small, the second alone with one too large.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from studio.fit.robust import along, on_plane
from studio.fit.state import Pull

RIM = 0.45
"""A point can be on the outline where the cosine between its normal and the line of sight is below this."""
BORDER = 2
"""Cells at the image's border whose outline is the frame's, not the body's."""
MARGIN = 24
"""Cells from the mask beyond which every distance counts as this one."""


@dataclass(frozen=True)
class Outlines:
    """Masks of one actor as distance fields and outlines, lens distortion removed; on each camera's plane at depth 1."""

    R: Float[Tensor, "C 3 3"]
    translation: Float[Tensor, "C 3"]
    focal: Float[Tensor, "C"]
    """px."""
    origin: Float[Tensor, "C 2"]
    """Plane coordinates of the first cell."""
    cell: Float[Tensor, "C"]
    """Plane units from cell to cell."""
    field: Float[Tensor, "C T h w"]
    """Distance to the outline, px, positive outside; zero where nothing is known."""
    edge: Float[Tensor, "C T M 2"]
    """Points of the outline; NaN where there are fewer."""
    outward: Float[Tensor, "C T M 2"]
    """Unit normals of the outline, away from the body."""
    scale: Float[Tensor, "C T"]
    """How large a metre is at the body's distance, px."""

    def __getitem__(self, frames: slice | Tensor) -> Outlines:
        return Outlines(
            self.R, self.translation, self.focal, self.origin, self.cell,
            self.field[:, frames], self.edge[:, frames], self.outward[:, frames], self.scale[:, frames],
        )  # fmt: skip

    def to(self, device: str | torch.device) -> Outlines:
        """The same on another device."""
        return Outlines(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))


def outlines(
    cameras: Cameras,
    masks: Sequence[Bool[Tensor, "T _ _"]],
    centre: Float[Tensor, "T 3"],
    count: int = 128,
    others: Sequence[Bool[Tensor, "T _ _"]] = (),
) -> Outlines:
    """From each camera's masks, of any resolution, that show the whole image; an empty mask says nothing of its frame.

    Where `others` are (masks of the same resolutions) nothing is known: the body may go on behind them.

    `centre` is about where the body is (m).
    """
    C, T = len(masks), len(masks[0])
    h, w = max(m.shape[1] for m in masks), max(m.shape[2] for m in masks)
    grids = [_grid(cameras[n], (h, w), tuple(m.shape[1:])) for n, m in zip(cameras.names, masks)]
    field = torch.zeros(C, T, h, w, dtype=torch.float16)  # the largest thing there is: half a pixel in 500 is plenty
    edge, outward = torch.full((C, T, count, 2), torch.nan), torch.zeros(C, T, count, 2)

    def draw(c: int) -> None:
        at, origin, cell = grids[c]
        known, at = _known(at, *masks[c].shape[1:]), np.ascontiguousarray(np.moveaxis(at, -1, 0))  # OpenCV would copy them for every mask
        for t in range(T):
            found = _drawn(masks[c][t], others[c][t] if len(others) else None, at, known, count)
            if found is not None:
                distance, points, normals = found
                field[c, t] = torch.from_numpy(distance * (cell * float(cameras.focal[c].mean())))
                edge[c, t, : len(points)] = torch.from_numpy(origin + cell * points).float()
                outward[c, t, : len(points)] = torch.from_numpy(normals).float()

    with ThreadPoolExecutor(min(C, os.cpu_count() or 1)) as pool:  # OpenCV lets go of the interpreter
        list(pool.map(draw, range(C)))
    origins = torch.tensor(np.array([o for _, o, _ in grids]), dtype=torch.float32)
    cells = torch.tensor([s for _, _, s in grids])
    R, translation = cameras.R_camera_world.float(), cameras.translation.float()
    focal = cameras.focal.mean(1).float()
    scale = focal[:, None] / cameras.to_camera(centre.double())[..., 2].float().clamp_min(0.3)
    return Outlines(R, translation, focal, origins, cells, field, edge, outward, scale)


def _drawn(
    mask: Bool[Tensor, "h w"], others: Bool[Tensor, "h w"] | None, at: np.ndarray, known: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """One mask's distances, points of its outline and their normals, in cells; None where it shows nothing."""
    seen = _resampled(mask, at) > 0.5
    if not (seen & known).any():
        return None
    free = known if others is None or not others.any() else known & ~_beside(others, at)
    box = _around(seen)
    distance = _distance(seen[box])
    whole = np.full(seen.shape, MARGIN, np.float32)
    whole[box] = distance
    points, normals = _outline(seen[box], distance, free[box], count)
    return np.where(free, whole, 0), points + (box[1].start, box[0].start), normals


def _grid(camera: Cameras, grid: tuple[int, int], mask: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, float]:
    """Where in a mask of (height, width) each cell of an undistorted grid lies, the grid's origin on the plane, and its spacing."""
    (h, w), (rows, columns) = grid, mask
    width, height = camera.size[0].tolist()
    rim = torch.tensor([[x * (width - 1), y * (height - 1)] for x in (0, 0.5, 1) for y in (0, 0.5, 1)], dtype=torch.float64)
    plane = camera.undistort(rim[None])[0]
    plane = plane[torch.isfinite(plane).all(-1)]
    low, high = plane.amin(0), plane.amax(0)
    cell = float(((high - low) / torch.tensor([w - 1, h - 1])).max())
    y, x = torch.meshgrid(torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64), indexing="ij")
    ray = torch.stack([low[0] + cell * x, low[1] + cell * y, torch.ones_like(x)], -1)
    world = ray @ camera.R_camera_world[0] + camera.position[0]
    pixels = camera.project(world.reshape(-1, 3))[0].reshape(h, w, 2)
    scale = torch.tensor([columns / width, rows / height], dtype=torch.float64)
    at = (pixels + 0.5) * scale - 0.5
    return at.nan_to_num(-10.0).float().numpy(), low.numpy(), cell


def _known(at: np.ndarray, h: int, w: int) -> np.ndarray:
    inside = (at[..., 0] >= 0) & (at[..., 0] <= w - 1) & (at[..., 1] >= 0) & (at[..., 1] <= h - 1)
    return cv2.erode(np.pad(inside, 1).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=BORDER)[1:-1, 1:-1] > 0


def _resampled(mask: Bool[Tensor, "h w"], at: np.ndarray) -> np.ndarray:
    """How much of each cell of the grid, which lies `at` x and y in the mask, shows the person."""
    return cv2.remap(mask.numpy().astype(np.float32), at[0], at[1], cv2.INTER_LINEAR)


def _beside(others: Bool[Tensor, "h w"], at: np.ndarray) -> np.ndarray:
    """Cells that show somebody else, or touch one that does."""
    shown = _resampled(others, at) > 0.25
    return cv2.dilate(shown.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=BORDER) > 0


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the mask, and `MARGIN` more on each side: beyond it is far."""
    spans = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, int(s[0]) - MARGIN), int(s[-1]) + MARGIN + 1) for s in spans)
    return rows, columns


def _distance(mask: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in cells, positive outside; the outline runs midway between cells."""
    m = mask.astype(np.uint8)
    out = cv2.distanceTransform(1 - m, cv2.DIST_L2, cv2.DIST_MASK_5)
    inside = cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.where(mask, 0.5 - inside, out - 0.5)


def _outline(mask: np.ndarray, distance: np.ndarray, known: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` points evenly along the outline (holes included), and their normals outward, in cells."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    x, y = np.concatenate([np.asarray(c).reshape(-1, 2) for c in contours if len(c) > 12] or [np.zeros((0, 2), np.int32)]).T
    seen = np.flatnonzero(known[y, x])
    if not len(seen):
        return np.zeros((0, 2)), np.zeros((0, 2))
    seen = seen[np.linspace(0, len(seen) - 1, min(count, len(seen))).round().astype(int)]
    x, y = x[seen], y[seen]
    soft = cv2.GaussianBlur(distance.astype(np.float32), (0, 0), 1.5)
    gradient = np.stack([np.asarray(cv2.Sobel(soft, cv2.CV_32F, *d))[y, x] for d in ((1, 0), (0, 1))], -1)
    normal = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)
    return np.stack([x, y], -1) + 0.5 * normal, normal


def silhouette(points: Float[Tensor, "T P 3"], normals: Float[Tensor, "T P 3"], seen: Outlines, sigma: float, kernel: float) -> Pull:
    """The pull of all masks on points of a body's surface; `sigma` (m, at the body's distance) is how far clothes and hair stand off,
    `kernel` in standard deviations."""
    total = None
    for c in range(len(seen.R)):
        plane, J, depth = on_plane(points, seen.R[c], seen.translation[c])
        px = (sigma * seen.scale[c, :, None]).clamp_min(1.0)
        pull = _inward(plane, J, depth, seen, c, px, kernel) + _outward(points, normals, plane, J, seen, c, px, kernel)
        total = pull if total is None else total + pull
    assert total is not None
    return total


def _inward(plane: Tensor, J: Tensor, depth: Tensor, seen: Outlines, c: int, sigma: Float[Tensor, "T 1"], kernel: float) -> Pull:
    """Points that fall outside the mask are drawn to its outline."""
    at = (plane - seen.origin[c]) / seen.cell[c]
    value, slope = _bilinear(seen.field[c], at)
    outside = (value > 0) & (depth > 0.05)
    residual = torch.where(outside, value, 0) / sigma
    slope = torch.where(outside[..., None], slope, 0) / (sigma[..., None] * seen.cell[c])
    return along(residual, (slope[..., None, :] @ J)[..., 0, :], kernel)


def _bilinear(field: Float[Tensor, "T h w"], at: Float[Tensor, "T P 2"]) -> tuple[Float[Tensor, "T P"], Float[Tensor, "T P 2"]]:
    """The field between its cells, and its exact slope there (per cell); zero beyond the grid."""
    h, w = field.shape[1:]
    inside = (at >= 0).all(-1) & (at[..., 0] < w - 1) & (at[..., 1] < h - 1)
    base = at.floor().long()
    x, y = base[..., 0].clamp(0, w - 2), base[..., 1].clamp(0, h - 2)
    u, v = at[..., 0] - x, at[..., 1] - y
    flat = field.flatten(1)
    corner = lambda dx, dy: flat.gather(1, (y + dy) * w + x + dx).to(at.dtype)  # noqa: E731
    a, b, c, d = corner(0, 0), corner(1, 0), corner(0, 1), corner(1, 1)
    value = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
    slope = torch.stack([(1 - v) * (b - a) + v * (d - c), (1 - u) * (c - a) + u * (d - b)], -1)
    return torch.where(inside, value, 0), torch.where(inside[..., None], slope, 0)


def _outward(
    points: Tensor, normals: Tensor, plane: Tensor, J: Tensor, seen: Outlines, c: int, sigma: Float[Tensor, "T 1"], kernel: float
) -> Pull:
    """Each point of the outline draws the nearest rim of the body that faces its way."""
    position = -seen.R[c].T @ seen.translation[c]
    sight = points - position
    grazing = (normals * sight).sum(-1).square() < RIM**2 * sight.square().sum(-1)  # several times faster than norms
    facing = (J @ normals[..., None])[..., 0]
    facing = facing * facing.square().sum(-1, keepdim=True).clamp_min(1e-18).rsqrt()
    edge, outward = seen.edge[c], seen.outward[c]
    known = torch.isfinite(edge[..., 0])
    at = torch.where(known[..., None], edge, 0)
    most = max(1, int(grazing.sum(1).max()))  # few points are on the rim
    rim = grazing.byte().sort(dim=1, descending=True, stable=True).indices[:, :most]
    among = lambda x: x.gather(1, rim.view(*rim.shape, *(1,) * (x.ndim - 2)).expand(*rim.shape, *x.shape[2:]))  # noqa: E731
    places, ways = among(plane), among(torch.where(grazing[..., None], facing, 0))  # of no length where there are fewer: fits nothing
    which, found = [], []
    for t in range(0, len(points), 16):  # bounds memory: outline times rim
        f = slice(t, t + 16)
        best = torch.cdist(at[f], places[f]).masked_fill_(outward[f] @ ways[f].mT <= 0.5, torch.inf).min(-1)
        which.append(rim[f].gather(1, best.indices))
        found.append(torch.isfinite(best.values))
    onto, found = torch.cat(which), torch.cat(found) & known
    pick = lambda x: x.gather(1, onto.view(*onto.shape, *(1,) * (x.ndim - 2)).expand(*onto.shape, *x.shape[2:]))  # noqa: E731
    scale = seen.focal[c] / sigma
    between = torch.nn.functional.normalize(outward + pick(facing), dim=-1)  # as in clouds: points of one round limb agree
    residual = ((pick(plane) - at) * between).sum(-1) * scale
    slope = (between[..., None, :] @ pick(J))[..., 0, :] * scale[..., None]
    residual = torch.where(found, residual, torch.where(known, torch.inf, 0))
    return along(residual, torch.where(found[..., None], slope, 0), kernel, onto, points.shape[1])

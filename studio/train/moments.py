"""Moments of takes that were run: crops of people by every camera, remembered as a network's features, and what all views together say.

Labels are the robust triangulation of what the network itself saw, projected back: each view's own mistakes go, and what views have in
common stays. Their covariance comes along, so that what was seen badly teaches little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from calibration.cameras import Cameras
from calibration.triangulate import triangulate
from rigs.keypoints import COCO_WHOLEBODY
from studio.clock import footage, recorded, video_frame
from studio.detect.regions import halvings, sampled
from studio.take import Take
from studio.train.pupils import Features, Matrix, Pupil, joined
from studio.values import Tracks3D
from studio.video import frames

PLACEMENT = 0.02
"""m by which views place one landmark differently on a body; as when tracking."""
BODY = slice(0, 23)
"""Of COCO-WholeBody: body and feet."""
ENOUGH = 8
"""Keypoints of body and feet a person must show in a view to be looked at there."""
BATCH = 16


@dataclass(frozen=True)
class Moments:
    """n moments of one take, a person in each, before C cameras; V looks of each, the first where the network itself would look."""

    name: str
    cameras: Cameras
    frame: Int[Tensor, "n"]
    sigma: Float[Tensor, "C n K"]
    """px, by the take's own detections, and how differently views place a landmark; infinite where not seen there."""
    row: Int[Tensor, "C n V"]
    """Of the features; -1 where there is no look."""
    matrix: Float[Tensor, "C n V 2 3"]
    """From px of the crop to px of the image."""
    features: Features

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class Labels:
    """What all views together say, in every image."""

    pixels: Float[Tensor, "C n K 2"]
    """px; NaN where fewer than two views agree, or where too little of the person is agreed on."""
    sigma: Float[Tensor, "C n K"]
    """px."""
    agree: Float[Tensor, "C"]
    """Share of what a camera saw that agrees with the others; NaN for cameras that had no say."""


def moments_of(take: Take, pupil: Pupil, count: int, more: int, seed: int = 0) -> Moments:
    """Up to `count` moments of a take that was tracked, evenly spread; each camera's look and `more` that are a little off.

    `FileNotFoundError` where the take was not run.
    """
    if not take.tracks_file.is_file():
        raise FileNotFoundError(f"{take.tracks_file}: the take was not tracked; run `studio run {take.folder}` first")
    cameras, tracks = take.cameras(), Tracks3D.load(take.tracks_file)
    picked = _picked(tracks, count)
    seen, sigma, middle = _seen(take, cameras, tracks, picked)
    which = [COCO_WHOLEBODY.index(n) for n in pupil.keypoints]
    depth = cameras.to_camera(middle.double())[..., 2].clamp_min(0.3)
    placement = (PLACEMENT * cameras.focal.mean(1)[:, None] / depth).float()
    n, C, V = len(picked), len(cameras), 1 + more
    row = torch.full((C, n, V), -1, dtype=torch.long)
    matrix = torch.full((C, n, V, 2, 3), torch.nan)
    parts: list[Features] = []
    looks = 0
    for c, camera in enumerate(cameras.names):
        there = [i for i in range(n) if int((torch.isfinite(seen[c, i, BODY]).all(-1)).sum()) >= ENOUGH]
        own = {i: picked[i][0] + tracks.first_frame for i in there}
        own = {i: video_frame(take, camera, f) for i, f in own.items() if recorded(take, camera, f)}
        for i, places, features in _looked(take, camera, own, seen[c], pupil, more, seed + 1000 * c):
            row[c, i] = torch.arange(V) + looks
            matrix[c, i] = torch.from_numpy(np.stack(places)).float()
            parts.append(features)
            looks += V
    if not parts:
        raise ValueError(f"{take.folder}: no camera sees enough of anybody to learn from; look at its report")
    spread = torch.hypot(sigma[:, :, which], placement[..., None])
    spread = torch.where((row[..., :1] >= 0) & torch.isfinite(spread), spread, torch.inf)
    return Moments(take.folder.name, cameras, torch.tensor([f for f, _ in picked]), spread, row, matrix, joined(parts))


def _picked(tracks: Tracks3D, count: int) -> list[tuple[int, int]]:
    """Frames and actors, evenly over the frames in which somebody's body is known."""
    known = torch.isfinite(tracks.points[:, :, BODY]).all(-1).sum(-1) >= ENOUGH
    there = known.nonzero().tolist()
    step = max(1, ceil(len(there) / count))
    return [(f, a) for f, a in there[::step]]


def _seen(
    take: Take, cameras: Cameras, tracks: Tracks3D, picked: Sequence[tuple[int, int]]
) -> tuple[Float[Tensor, "C n 133 2"], Float[Tensor, "C n 133"], Float[Tensor, "n 3"]]:
    """Pixels of the detections, their sigma (infinite also where sides were exchanged), and where each person is."""
    keypoints = footage(take, cameras.names).cut(slice(0, len(tracks.points)))
    pixels, sigma = [], []
    for a in range(len(tracks.actors)):
        p, s, _ = tracks.chosen(keypoints, a)
        pixels.append(p)
        sigma.append(torch.where(tracks.exchange(a), torch.inf, s))
    pick = [f for f, _ in picked], [a for _, a in picked]
    middle = tracks.points[:, :, BODY].nanmedian(2).values[pick]
    return torch.stack(pixels, 2)[:, pick[0], pick[1]], torch.stack(sigma, 2)[:, pick[0], pick[1]], middle


def _looked(
    take: Take, camera: str, own: dict[int, int], seen: Float[Tensor, "n K 2"], pupil: Pupil, more: int, seed: int
) -> Iterator[tuple[int, list[Matrix], Features]]:
    """(moment, places, features) of every moment, in the order of the video; one image in memory at a time."""
    wanted: dict[int, list[int]] = {}
    for i, number in own.items():
        wanted.setdefault(number, []).append(i)
    if not wanted:
        return
    for number, image in frames(take.videos[camera], min(wanted), max(wanted) + 1):
        if number not in wanted:
            continue
        pyramid = halvings(image)
        for i in wanted[number]:
            points = seen[i, BODY]
            points = points[torch.isfinite(points).all(-1)].numpy().astype(np.float64)
            places: list[Matrix] = pupil.places(pyramid, points, np.random.default_rng([seed, i]), more)
            crops = [(sampled(pyramid, m, (pupil.side, pupil.side)) + 0.5).clip(0, 255).astype(np.uint8) for m in places]
            yield i, places, pupil.remembered(torch.from_numpy(np.stack(crops)))


@torch.no_grad()
def points_of(moments: Moments, pupil: Pupil, tail: nn.Module) -> Float[Tensor, "C n K 2"]:
    """What the network sees at each first look, px of the image; NaN where there is none."""
    row = moments.row[..., 0]
    out = torch.full((*row.shape, len(pupil.keypoints), 2), torch.nan)
    places = (row >= 0).nonzero()
    for part in places.split(4 * BATCH):
        c, i = part.unbind(-1)
        points, _ = pupil.look(tail, {k: v[row[c, i]] for k, v in moments.features.items()})
        out[c, i] = to_image(points, moments.matrix[c, i, 0])
    return out


def to_image(points: Float[Tensor, "B K 2"], matrix: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B K 2"]:
    """px of the image from px of a crop."""
    return points @ matrix[..., :2].mT + matrix[:, None, :, 2]


def to_crop(points: Float[Tensor, "B K 2"], matrix: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B K 2"]:
    """px of a crop from px of the image."""
    return (points - matrix[:, None, :, 2]) @ torch.linalg.inv(matrix[..., :2]).mT


def labels_of(moments: Moments, points: Float[Tensor, "C n K 2"], teachers: Bool[Tensor, "C"], cameras: Cameras | None = None) -> Labels:
    """What the teaching cameras' points together say, in every camera; `cameras` in place of the moments' own for a control.

    A moment of which less than half the points is agreed on, or of which the agreeing views are off by more than their sigma in the
    middle, teaches nothing.
    """
    cameras = cameras or moments.cameras
    sigma = torch.where(teachers[:, None, None], moments.sigma, torch.inf)
    found = triangulate(cameras, points, sigma)
    pixels = cameras.project(found.points.double()).float()
    spread = _projected(cameras, found.points, found.covariance)
    off = torch.where(found.inlier, found.residual / sigma, torch.nan).permute(1, 0, 2).flatten(1).nanmedian(1).values
    had = (torch.isfinite(sigma).sum(0) >= 2).sum(-1)
    good = (torch.isfinite(found.points).all(-1).sum(-1) >= (0.5 * had).clamp_min(4)) & (off < 1)
    seen = torch.isfinite(sigma) & torch.isfinite(points).all(-1)
    agree = found.inlier.sum((1, 2)) / (seen & teachers[:, None, None]).sum((1, 2))
    return Labels(torch.where(good[None, :, None, None], pixels, torch.nan), spread, agree)


def _projected(cameras: Cameras, points: Float[Tensor, "n K 3"], covariance: Float[Tensor, "n K 3 3"]) -> Float[Tensor, "C n K"]:
    """Standard deviation of points in the images, px, mean of both directions."""
    step = 0.005 * torch.eye(3, dtype=torch.float64)
    x = points.double()
    J = torch.stack([(cameras.project(x + d) - cameras.project(x - d)) / 0.01 for d in step], -1)
    return (J @ covariance.double() @ J.mT).diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(0).sqrt().float()


def left_out(moments: Moments, points: Float[Tensor, "C n K 2"], camera: int) -> Float[Tensor, "n K 2"]:
    """Where the other cameras' points put each keypoint in this camera, px."""
    others = torch.ones(len(moments.cameras), dtype=torch.bool)
    others[camera] = False
    return labels_of(moments, points, others).pixels[camera]

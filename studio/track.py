"""Who is who across views and time, which limbs are left and right, which keypoints can be trusted, and where they are in 3D."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from calibration.cameras import Cameras
from calibration.triangulate import triangulate
from rigs import rotation
from studio.identity import identify
from studio.people import IdentityConfig
from studio.swaps import SwapConfig, exchanged, exchanges, groups
from studio.values import Keypoints2D, Tracks3D

if TYPE_CHECKING:
    from studio.take import Take

console = Console(highlight=False)
BODY = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear")


@dataclass(frozen=True)
class TrackConfig:
    """How views are brought together."""

    placement: float = 0.02
    """How far apart views place the same landmark on the body (standard deviation), m; it adds to the detections' sigma."""
    threshold: float = 4.0
    """A view disagrees about a keypoint beyond this many standard deviations."""
    sole_confidence: float = 0.5
    """A keypoint that one view alone sees is trusted from this confidence on."""
    wrong_view: float = 0.35
    """A view in which a smaller part of the body's keypoints agrees with at least two others shows somebody else."""
    jump: float = 0.15
    """A keypoint that leaves its way for one or two frames by more than this, m, and twice its own motion, is an error."""
    chunk: int = 256
    """Frames worked on at a time."""
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    exchange: bool = True
    """Whether to find views that exchanged left and right; otherwise they stay as the network named them."""
    swap: SwapConfig = field(default_factory=SwapConfig)


def track(take: Take, config: TrackConfig | None = None) -> Path:
    """Write the take's `tracks3d.safetensors` from its keypoints, and notes for the report; the path of the tracks."""
    config, begun = config or TrackConfig(), time.monotonic()
    cameras = take.cameras()
    keypoints = Keypoints2D.read(take.keypoints_folder, cameras.names)
    with Progress(console=console, transient=True) as bar:
        job = bar.add_task("track", total=2 * keypoints.frames)
        tracks = track_actors(cameras, keypoints, take.actors, config, lambda done: bar.update(job, completed=done))
    apart = disagreement(cameras, keypoints, tracks)
    warnings, numbers = _summary(cameras, keypoints, tracks, apart)
    for warning in warnings:
        console.print(f"[yellow]{warning}[/]")
    take.note("track", warnings, **numbers)
    tracks.save(take.tracks_file)
    median, swaps = numbers["reprojection_px"], numbers["swapped_views"]
    error = "no reprojection" if median is None else f"reprojection {median:.1f} px median"
    many = f"{len(take.actors)} actor{'s' * (len(take.actors) > 1)} in {len(cameras)} views"
    console.print(f"track: {keypoints.frames:,} frames, {many}, {error}, {swaps:,} views exchanged, {time.monotonic() - begun:.0f} s")
    return take.tracks_file


def track_actors(
    cameras: Cameras,
    keypoints: Keypoints2D,
    actors: Sequence[str],
    config: TrackConfig | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tracks3D:
    """The actors' keypoints in the world, most prominent person first; NaN where nobody was found.

    `progress` is told how many of twice the frames are done.
    """
    config = config or TrackConfig()
    if tuple(keypoints.cameras) != cameras.names:
        raise ValueError(f"keypoints are of cameras {list(keypoints.cameras)}, the calibration of {list(cameras.names)}")
    C, T, _, K = keypoints.confidence.shape
    detection, place = identify(cameras, keypoints, len(actors), config.identity, progress)
    A = len(actors)
    tracks = Tracks3D(
        keypoints=keypoints.keypoints,
        actors=tuple(actors),
        fps=keypoints.fps,
        first_frame=keypoints.first_frame,
        points=torch.full((T, A, K, 3), torch.nan),
        covariance=torch.full((T, A, K, 3, 3), torch.nan),
        detection=detection,
        swapped=torch.zeros(C, T, A, dtype=torch.bool),
        trusted=torch.zeros(C, T, A, K, dtype=torch.bool),
        exchanged=torch.zeros(C, T, A, K, dtype=torch.bool),
    )
    for a in range(A):
        _sort_sides(cameras, keypoints, tracks, a, place[:, a], config)
        for start in range(0, T, config.chunk):
            part = slice(start, start + config.chunk)
            _locate(cameras, keypoints, tracks, a, part, place[part, a], config)
            if progress:
                progress(T + (a * T + min(start + config.chunk, T)) // A)
        _drop_jumps(tracks, a, config)
    return tracks


def observations(
    keypoints: Keypoints2D, tracks: Tracks3D, actor: int, frames: slice = slice(None)
) -> tuple[Float[Tensor, "C T K 2"], Float[Tensor, "C T K"]]:
    """One actor's pixels and their standard deviation, px: chosen detection, exchanged back; NaN and infinite where not to be trusted."""
    pixels, sigma, _ = _chosen(keypoints, tracks, actor, frames)
    trusted = tracks.trusted[:, frames, actor] & torch.isfinite(sigma)
    return torch.where(trusted[..., None], pixels, torch.nan), torch.where(trusted, sigma, torch.inf)


def disagreement(cameras: Cameras, keypoints: Keypoints2D, tracks: Tracks3D) -> Float[Tensor, "C T A"]:
    """How far each view's own 3D body is from the triangulated one after the best similarity transform, median over the body, m.

    NaN where a network gives no 3D, or fewer than six points can be compared. Umeyama 1991.
    """
    C, T, A = tracks.detection.shape
    out = torch.full((C, T, A), torch.nan)
    if keypoints.skeleton is None:
        return out
    body = _body(tracks.keypoints)
    for a in range(A):
        for start in range(0, T, 1024):
            part = slice(start, start + 1024)
            skeleton = _of_actor(keypoints.skeleton[:, part], tracks.detection[:, part, a], torch.nan)
            skeleton = exchanged(skeleton, _exchange(tracks)[:, part, a], tracks.keypoints)[:, :, body]
            turned = torch.einsum("cji,ctkj->ctki", cameras.R_camera_world.float(), skeleton)
            out[:, part, a] = _misfit(turned, tracks.points[part, a][:, body].expand(C, -1, -1, -1))
    return out


def _misfit(source: Float[Tensor, "*b K 3"], target: Float[Tensor, "*b K 3"]) -> Float[Tensor, "*b"]:
    """Median distance after the similarity that brings source to target, m; NaN for fewer than six points."""
    both = torch.isfinite(source).all(-1) & torch.isfinite(target).all(-1)
    weight = both[..., None].float() / both.sum(-1).clamp_min(1)[..., None, None]
    x, y = (torch.where(both[..., None], p, 0.0) for p in (source, target))
    x, y = (torch.where(both[..., None], p - (p * weight).sum(-2, keepdim=True), 0.0) for p in (x, y))
    M = (y * weight).mT @ x
    R = rotation.project_to_rotation(M + 1e-12 * torch.eye(3))
    scale = (R * M).sum((-1, -2)) / (x.square() * weight).sum((-1, -2)).clamp_min(1e-9)
    apart = (y - scale[..., None, None] * x @ R.mT).norm(dim=-1)
    median = torch.where(both, apart, torch.nan).nanmedian(-1).values
    return torch.where(both.sum(-1) >= 6, median, torch.nan)


def _of_actor(values: Float[Tensor, "C T D *k"], detection: Int[Tensor, "C T"], empty: float) -> Float[Tensor, "C T *k"]:
    """The values of the chosen detection."""
    index = detection.clamp_min(0).view(*detection.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, 1, *values.shape[3:])
    picked = values.gather(2, index)[:, :, 0]
    return torch.where(detection.view(*detection.shape, *(1,) * (picked.ndim - 2)) >= 0, picked, empty)


def _exchange(tracks: Tracks3D) -> Bool[Tensor, "C T A K"]:
    if tracks.exchanged is not None:
        return tracks.exchanged
    return tracks.swapped[..., None].expand(*tracks.swapped.shape, len(tracks.keypoints))


def _chosen(keypoints: Keypoints2D, tracks: Tracks3D, actor: int, frames: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, sigma (infinite where not seen) and confidence of an actor's detections, exchanged back."""
    which = tracks.detection[:, frames, actor]
    pixels = _of_actor(keypoints.pixels[:, frames], which, torch.nan)
    sigma = _of_actor(keypoints.sigma[:, frames], which, torch.inf)
    confidence = _of_actor(keypoints.confidence[:, frames], which, 0.0)
    seen = torch.isfinite(pixels).all(-1) & torch.isfinite(sigma) & (sigma > 0) & (confidence > 0)
    sigma = torch.where(seen, sigma, torch.inf)
    mask = _exchange(tracks)[:, frames, actor]
    return tuple(exchanged(v, mask, tracks.keypoints) for v in (pixels, sigma, torch.where(seen, confidence, 0.0)))  # type: ignore[return-value]


def _loosened(cameras: Cameras, sigma: Tensor, place: Float[Tensor, "T 3"], placement: float) -> Float[Tensor, "C T K"]:
    """Sigma with the landmarks' uncertain place on the body added, px."""
    depth = (cameras.to_camera(place.double())[..., 2]).clamp_min(0.3)
    depth = torch.where(torch.isfinite(depth), depth, depth.nanmedian(1, keepdim=True).values.nan_to_num(3.0))
    return (sigma.square() + (placement * cameras.focal.mean(1)[:, None] / depth).float()[..., None].square()).sqrt()


def _sort_sides(cameras: Cameras, keypoints: Keypoints2D, tracks: Tracks3D, a: int, place: Tensor, config: TrackConfig) -> None:
    """Find an actor's exchanged limbs (in `tracks`). Only the body's points are compared, so only they are copied for the whole take."""
    if not config.exchange or tracks.exchanged is None or not keypoints.frames:
        return
    few = [k for k, n in enumerate(tracks.keypoints) if not any(part in n for part in ("face-", "hand", "finger", "thumb"))]
    names = tuple(tracks.keypoints[k] for k in few)
    which = tracks.detection[:, :, a]
    pixels, sigma, confidence = (
        _of_actor(v[:, :, :, few], which, e)
        for v, e in ((keypoints.pixels, torch.nan), (keypoints.sigma, torch.inf), (keypoints.confidence, 0.0))
    )
    sigma = torch.where(confidence > 0, _loosened(cameras, sigma, place, config.placement), torch.inf)
    skeleton = None
    if keypoints.skeleton is not None:
        own = _of_actor(keypoints.skeleton[:, :, :, few], which, torch.nan)
        skeleton = torch.einsum("cji,ctkj->ctki", cameras.R_camera_world.float(), own)
    found = exchanges(cameras, names, pixels, sigma, skeleton, config.swap) & (which >= 0)[..., None]
    for body, whole in zip(groups(names), groups(tracks.keypoints)):
        decided = found[:, :, body.members].any(-1, keepdim=True)
        tracks.exchanged[:, :, a, whole.members] = decided
    limbs = [k for k, n in enumerate(names) if n.endswith(("elbow", "wrist", "knee", "ankle"))]
    tracks.swapped[:, :, a] = found[:, :, limbs].float().mean(-1) > 0.4


def _locate(cameras: Cameras, keypoints: Keypoints2D, tracks: Tracks3D, a: int, part: slice, place: Tensor, config: TrackConfig) -> None:
    """Triangulate some frames of an actor and decide whom to trust (in `tracks`)."""
    body = _body(tracks.keypoints)
    for again in (False, True):
        pixels, raw, confidence = _chosen(keypoints, tracks, a, part)
        sigma = _loosened(cameras, raw, place, config.placement)
        found = triangulate(cameras, pixels, sigma, threshold=config.threshold)
        seen = torch.isfinite(raw)
        known = seen[:, :, body] & torch.isfinite(found.points[..., body, 0])
        share = (found.inlier[:, :, body] & known).sum(-1) / known.sum(-1).clamp_min(1)
        wrong = (known.sum(-1) >= 4) & (share < config.wrong_view) & ((share >= config.wrong_view).sum(0) >= 2)
        if again or not bool(wrong.any()):
            break
        tracks.detection[:, part, a] = torch.where(wrong, -1, tracks.detection[:, part, a])
    sole = (seen.sum(0) == 1) & seen & (confidence >= config.sole_confidence)
    tracks.points[part, a], tracks.covariance[part, a] = found.points, found.covariance
    tracks.trusted[:, part, a] = found.inlier | sole


def _drop_jumps(tracks: Tracks3D, a: int, config: TrackConfig) -> None:
    """Take back points that leave their way for one or two frames."""
    x = tracks.points[:, a]
    for reach in (1, 2) if len(x) > 3 else ():
        for lead in range(1, reach + 1):
            before = x.roll(lead, 0)
            after = x.roll(lead - reach - 1, 0)
            between = before + (after - before) * lead / (reach + 1)
            off = (x - between).norm(dim=-1) > config.jump + 2 * (after - before).norm(dim=-1)
            off[:lead] = off[len(off) + lead - reach - 1 :] = False
            tracks.points[:, a][off] = torch.nan
            tracks.covariance[:, a][off] = torch.nan
            tracks.trusted[:, :, a] &= ~off


def _body(names: tuple[str, ...]) -> list[int]:
    return [k for k, n in enumerate(names) if n in {f"{s}_{p}" for s in ("left", "right") for p in BODY} | {"nose"}]


def _summary(cameras: Cameras, keypoints: Keypoints2D, tracks: Tracks3D, apart: Tensor) -> tuple[list[str], dict]:
    """Warnings in plain sentences, and numbers for the report."""
    warnings, body = [], _body(tracks.keypoints)
    errors = []
    for a, actor in enumerate(tracks.actors):
        found = torch.isfinite(tracks.points[:, a, :, 0][:, body]).any(-1)
        if not bool(found.any()):
            warnings.append(
                f"{actor}: nobody was found in two views at once. Check that the cameras see the same person at the same time, "
                "and that the calibration belongs to these videos."
            )
        elif (lost := 1 - found.float().mean().item()) > 0.05:
            warnings.append(f"{actor}: not found in {lost:.0%} of the frames.")
        pixels, _ = observations(keypoints, tracks, a)
        errors.append((cameras.project(tracks.points[:, a].double()) - pixels).norm(dim=-1)[:, :, body].float())
        for c, name in enumerate(cameras.names):
            present = tracks.detection[c, :, a] >= 0
            trusted = tracks.trusted[c, :, a][:, body][present].float().mean().item() if present.any() else 1.0
            if trusted < 0.5:
                warnings.append(f"{actor}: camera {name!r} disagrees with the others in {1 - trusted:.0%} of the body's keypoints.")
    error = torch.stack(errors)
    median = error[torch.isfinite(error)].median().item() if torch.isfinite(error).any() else None
    own = {n: v for n, v in zip(cameras.names, (apart.flatten(1) * 1e3).nanmedian(1).values.tolist()) if v == v}
    for name, mm in own.items():
        if mm > max(100, 2 * float(np.median(list(own.values())))):
            warnings.append(
                f"camera {name!r}: the 3D body that the network sees there is {mm:.0f} mm from what all views give; "
                "is its person hidden, or the camera moved?"
            )
    numbers = {"reprojection_px": median, "swapped_views": int(tracks.swapped.sum()), "own_skeleton_mm": own}
    return warnings, numbers

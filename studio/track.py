"""Who is who across views and time, which limbs are left and right, which keypoints can be trusted, and where they are in 3D."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from calibration.cameras import Cameras
from calibration.triangulate import triangulate
from studio.chimeras import chimeras
from studio.clock import footage as footage_of
from studio.hand_sides import hands_for_arms
from studio.hidden import behind
from studio.identity import identify
from studio.misnamed import exchanged_cameras
from studio.people import IdentityConfig
from studio.stray_hands import stray_hands
from studio.swaps import EXHAUSTIVE, Evidence, SwapConfig, evidence, exchanges, groups, leading
from studio.tally import Tally, body_of, disagreement
from studio.true_sides import sides
from studio.values import Footage, Keypoints2D, Tracks3D, of_actor

if TYPE_CHECKING:
    from studio.take import Take

console = Console(highlight=False, soft_wrap=True)
WORTH = 3.0
"""A keypoint may become so many times less certain without the views in which somebody hides it."""
SETTLED = 8
"""Frames after which a neighbour no longer has a say in whether a keypoint jumped."""


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
    """Frames triangulated at a time."""
    block: int = 1000
    """Frames in memory at a time."""
    overlap: int = 64
    """How far blocks look into their neighbours to find exchanged sides, frames."""
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    exchange: bool = True
    """Whether to find views that exchanged left and right; otherwise they stay as the network named them."""
    swap: SwapConfig = field(default_factory=SwapConfig)


def track(take: Take, config: TrackConfig | None = None) -> Path:
    """Write the take's `tracks3d.safetensors` from its keypoints, and notes for the report; the path of the tracks.

    Keypoints are read and tracks written in blocks of frames, so memory does not grow with the take.
    """
    config, begun = config or TrackConfig(), time.monotonic()
    cameras = take.cameras()
    footage = footage_of(take, cameras.names)
    frames = footage.frames
    tally = Tally(cameras, take.actors, frames)
    with Progress(console=console, transient=True) as bar:
        job = bar.add_task("track", total=3 * frames)
        told: list[str] = []
        blocks = track_blocks(cameras, footage, take.actors, config, lambda done: bar.update(job, completed=done), told)
        model = _nothing(footage.cut(slice(0, 0)), take.actors)
        with model.writer(take.tracks_file, frames) as file:
            for start, keypoints, tracks in blocks:
                file.put(start, tracks)
                tally.add(start, keypoints, tracks, disagreement(cameras, keypoints, tracks))
    warnings, numbers = tally.said()
    warnings += told
    if pair := exchanged_cameras(cameras, footage, config.identity):
        warnings.append(
            f"Cameras {pair[0]!r} and {pair[1]!r} seem to be exchanged: views agree far better when each has the other's calibration. "
            "Check that each video has its own camera's name."
        )
    for warning in warnings:
        console.print(f"[yellow]{warning}[/]")
    take.note("track", warnings, **numbers)
    median, swaps = numbers["reprojection_px"], numbers["swapped_views"]
    error = "no reprojection" if median is None else f"reprojection {median:.1f} px median"
    many = f"{len(take.actors)} actor{'s' * (len(take.actors) > 1)} in {len(cameras)} views"
    console.print(f"track: {frames:,} frames, {many}, {error}, {swaps:,} views exchanged, {time.monotonic() - begun:.0f} s")
    return take.tracks_file


def track_actors(
    cameras: Cameras,
    keypoints: Keypoints2D,
    actors: Sequence[str],
    config: TrackConfig | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Tracks3D:
    """The actors' keypoints in the world, most prominent person first; NaN where nobody was found.

    `progress` is told how many of three times the frames are done.
    """
    parts = [tracks for _, _, tracks in track_blocks(cameras, keypoints, actors, config or TrackConfig(), progress)]
    axes = Tracks3D.time_axes()
    first = _nothing(keypoints.cut(slice(0, 0)), actors)
    return replace(first, **{name: torch.cat([getattr(p, name) for p in [first, *parts]], axis) for name, axis in axes.items()})


def found_actors(take: Take, config: TrackConfig | None = None) -> tuple[str, ...]:
    """Names for everybody who is in a take: actor1, actor2 ..., most prominent first; `actor` for one.

    A `ValueError` where nobody is found. Who is left out is noted when they are tracked.
    """
    config, cameras = config or TrackConfig(), take.cameras()
    found = identify(cameras, footage_of(take, cameras.names), None, config.identity, stretch=config.block)
    count = found.detection.shape[2]
    if not count:
        raise ValueError(
            f"{take.folder}: nobody was found in two views at once, so there are no actors. Check that the cameras see the same people at "
            "the same time, and that the calibration belongs to these videos; or say how many there are: --actors N"
        )
    for sentence in found.said:
        console.print(f"[yellow]{sentence}[/]")
    return ("actor",) if count == 1 else tuple(f"actor{n + 1}" for n in range(count))


def track_blocks(
    cameras: Cameras,
    footage: Footage,
    actors: Sequence[str],
    config: TrackConfig,
    progress: Callable[[int], object] = lambda done: None,
    told: list[str] | None = None,
) -> Iterator[tuple[int, Keypoints2D, Tracks3D]]:
    """Tracks in consecutive blocks: first frame, what was seen, who is where.

    Who plays which part, and which side is left, is decided for the whole take first, from a few numbers a frame. What is to be said of
    people who were left out is added to `told`.
    """
    facts, T = footage.cut(slice(0, 0)), footage.frames
    if facts.cameras != cameras.names:
        raise ValueError(f"keypoints are of cameras {list(facts.cameras)}, the calibration of {list(cameras.names)}")
    found = identify(cameras, footage, len(actors), config.identity, progress, config.block)
    detection, place, said = found
    if len(actors) > 1:
        detection[chimeras(cameras, footage, found, config.block)] = -1
    if told is not None:
        told += said
    distance = [_distance(cameras, place[:, a]) for a in range(len(actors))]
    sorted_sides = _sort_sides(cameras, footage, detection, distance, config, lambda done: progress(T + done))
    overlap = config.overlap if len(cameras) > EXHAUSTIVE else SETTLED
    for whole, kept in overlapping(T, config.block, overlap):
        keypoints = footage.cut(whole)
        tracks = replace(_nothing(keypoints, actors), detection=detection[:, whole].clone())
        for a, far in enumerate(distance):
            if sorted_sides is not None:
                lead, sides = sorted_sides[a]
                _exchange(cameras, keypoints, tracks, a, far[:, whole], lead, sides[:, whole], config)
        for part in (slice(t, t + config.chunk) for t in range(0, keypoints.frames, config.chunk)):
            _locate_all(cameras, keypoints.cut(part), tracks.cut(part), [far[:, whole][:, part] for far in distance], config)
        for a in range(len(actors)):
            _drop_jumps(tracks, a, config)
        progress(2 * T + whole.start + kept.stop)
        yield whole.start + kept.start, keypoints.cut(kept), tracks.cut(kept)


def overlapping(frames: int, block: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Stretches that reach `overlap` frames into their neighbours, and the part of each that is its own."""
    for start in range(0, frames, block):
        low, stop = max(start - overlap, 0), min(start + block, frames)
        yield slice(low, min(stop + overlap, frames)), slice(start - low, stop - low)


def _nothing(keypoints: Keypoints2D, actors: Sequence[str]) -> Tracks3D:
    """Tracks of these frames in which nobody is found yet."""
    C, T, _, K = keypoints.confidence.shape
    A, facts = len(actors), keypoints
    return Tracks3D(
        keypoints=facts.keypoints,
        actors=tuple(actors),
        fps=facts.fps,
        first_frame=facts.first_frame,
        points=torch.full((T, A, K, 3), torch.nan),
        covariance=torch.full((T, A, K, 3, 3), torch.nan),
        detection=torch.full((C, T, A), -1),
        swapped=torch.zeros(C, T, A, dtype=torch.bool),
        trusted=torch.zeros(C, T, A, K, dtype=torch.bool),
        exchanged=torch.zeros(C, T, A, K, dtype=torch.bool),
        hidden=torch.zeros(C, T, A, K, dtype=torch.bool),
    )


def _distance(cameras: Cameras, place: Float[Tensor, "T 3"]) -> Float[Tensor, "C T"]:
    """How far in front of each camera an actor is, m; the median of the take where nobody knows."""
    depth = cameras.to_camera(place.double())[..., 2].clamp_min(0.3)
    return torch.where(torch.isfinite(depth), depth, depth.nanmedian(1, keepdim=True).values.nan_to_num(3.0)) if len(place) else depth


def _loosened(cameras: Cameras, sigma: Float[Tensor, "C T K"], distance: Float[Tensor, "C T"], placement: float) -> Float[Tensor, "C T K"]:
    """Sigma with the landmarks' uncertain place on the body added, px."""
    return (sigma.square() + (placement * cameras.focal.mean(1)[:, None] / distance).float()[..., None].square()).sqrt()


def _limbs(
    cameras: Cameras, keypoints: Keypoints2D, which: Int[Tensor, "C T"], distance: Tensor, config: TrackConfig
) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor | None, Bool[Tensor, "T"]]:
    """The body's points, which alone are compared between views: names, an actor's pixels, sigma, and directions in the world.

    Last, the frames in which a hand's points take the place of its arm's.
    """
    few = [k for k, n in enumerate(keypoints.keypoints) if not any(part in n for part in ("face-", "hand", "finger", "thumb"))]
    pixels, sigma, confidence = (
        of_actor(v[:, :, :, few], which, e)
        for v, e in ((keypoints.pixels, torch.nan), (keypoints.sigma, torch.inf), (keypoints.confidence, 0.0))
    )
    sigma = torch.where(confidence > 0, _loosened(cameras, sigma, distance, config.placement), torch.inf)
    skeleton = None
    if keypoints.skeleton is not None:
        own = of_actor(keypoints.skeleton[:, :, :, few], which, torch.nan)
        skeleton = torch.einsum("cji,ctkj->ctki", cameras.R_camera_world.float(), own)
    names = tuple(keypoints.keypoints[k] for k in few)
    loosened = lambda raw: _loosened(cameras, raw, distance, config.placement)  # noqa: E731
    return names, *hands_for_arms(keypoints, which, loosened, names, pixels, sigma, skeleton)


def _sort_sides(
    cameras: Cameras,
    footage: Footage,
    detection: Int[Tensor, "C T A"],
    distance: list[Float[Tensor, "C T"]],
    config: TrackConfig,
    progress: Callable[[int], object],
) -> list[tuple[list[int], Bool[Tensor, "L T G"]]] | None:
    """For each actor the leading views, and which of them exchanged which limbs; None where that is not asked for."""
    if not config.exchange or not footage.frames:
        return None
    leads = [leading(detection[:, :, a]) for a in range(len(distance))]
    known: list[list[Evidence]] = [[] for _ in leads]
    names: tuple[str, ...] = ()
    for whole, kept in overlapping(footage.frames, config.block, config.overlap):
        keypoints = footage.cut(whole)
        for a, lead in enumerate(leads):
            names, pixels, sigma, skeleton, alone = _limbs(cameras, keypoints, detection[:, whole, a], distance[a][:, whole], config)
            own = None if skeleton is None else skeleton[lead]
            known[a].append(evidence(cameras[lead], names, pixels[lead], sigma[lead], own, config.swap, alone).cut(kept))
        progress(whole.start + kept.stop)
    return [(lead, sides(names, Evidence.joined(parts), config.swap)) for lead, parts in zip(leads, known, strict=True)]


def _exchange(
    cameras: Cameras,
    keypoints: Keypoints2D,
    tracks: Tracks3D,
    a: int,
    distance: Float[Tensor, "C T"],
    lead: list[int],
    sides: Bool[Tensor, "L T G"],
    config: TrackConfig,
) -> None:
    """Mark an actor's exchanged limbs (in `tracks`)."""
    assert tracks.exchanged is not None
    which = tracks.detection[:, :, a]
    names, pixels, sigma, _, _ = _limbs(cameras, keypoints, which, distance, config)
    found = exchanges(cameras, names, pixels, sigma, lead, sides, config.swap) & (which >= 0)[..., None]
    for body, whole in zip(groups(names), groups(tracks.keypoints)):
        tracks.exchanged[:, :, a, whole.members] = found[:, :, body.members].any(-1, keepdim=True)
    limbs = [k for k, n in enumerate(names) if n.endswith(("elbow", "wrist", "knee", "ankle"))]
    tracks.swapped[:, :, a] = found[:, :, limbs].float().mean(-1) > 0.4


def _locate_all(
    cameras: Cameras, keypoints: Keypoints2D, tracks: Tracks3D, distance: list[Float[Tensor, "C T"]], config: TrackConfig
) -> None:
    """Triangulate all actors (in `tracks`), twice where there are several: then without what others hide, where the rest tells as well."""
    given = tracks.detection.clone()
    for a, far in enumerate(distance):
        locate(cameras, keypoints, tracks, a, far, config)
    if len(distance) < 2:
        return
    first = [(tracks.points[:, a].clone(), tracks.covariance[:, a].clone()) for a in range(len(distance))]
    tracks.detection.copy_(given)  # a view may have seemed to show somebody else because of what is hidden in it
    for a, far in enumerate(distance):
        points, covariance = first[a]
        others = [p for b, (p, _) in enumerate(first) if b != a]
        hidden = behind(cameras, tracks.keypoints, tracks.chosen(keypoints, a)[0], points, others)
        locate(cameras, keypoints, tracks, a, far, config, hidden)
        spread, before = (c.diagonal(dim1=-2, dim2=-1).sum(-1) for c in (tracks.covariance[:, a], covariance))
        worse = ~(spread < WORTH**2 * before) & torch.isfinite(before)
        if bool((worse & hidden.any(0)).any()):
            locate(cameras, keypoints, tracks, a, far, config, hidden & ~worse)


def locate(
    cameras: Cameras,
    keypoints: Keypoints2D,
    tracks: Tracks3D,
    a: int,
    distance: Float[Tensor, "C T"],
    config: TrackConfig,
    hidden: Bool[Tensor, "C T K"] | None = None,
) -> None:
    """Triangulate an actor, every frame by itself, and decide whom to trust (in `tracks`): what is `hidden` only where fewer than two views
    show it."""
    body = body_of(tracks.keypoints)
    for again in (False, True):
        pixels, raw, confidence = tracks.chosen(keypoints, a)
        raw = raw.masked_fill(stray_hands(cameras, tracks.keypoints, pixels, raw, confidence, distance), torch.inf)
        if hidden is not None:
            assert tracks.hidden is not None
            tracks.hidden[:, :, a] = hidden & torch.isfinite(raw) & ((torch.isfinite(raw) & ~hidden).sum(0) >= 2)
            raw = raw.masked_fill(tracks.hidden[:, :, a], torch.inf)
        found = triangulate(cameras, pixels, _loosened(cameras, raw, distance, config.placement), threshold=config.threshold)
        seen = torch.isfinite(raw)
        known = seen[:, :, body] & torch.isfinite(found.points[..., body, 0])
        share = (found.inlier[:, :, body] & known).sum(-1) / known.sum(-1).clamp_min(1)
        wrong = (known.sum(-1) >= 4) & (share < config.wrong_view) & ((share >= config.wrong_view).sum(0) >= 2)
        if again or not bool(wrong.any()):
            break
        tracks.detection[:, :, a] = torch.where(wrong, -1, tracks.detection[:, :, a])
    sole = (seen.sum(0) == 1) & seen & (confidence >= config.sole_confidence)
    tracks.points[:, a], tracks.covariance[:, a] = found.points, found.covariance
    tracks.trusted[:, :, a] = found.inlier | sole


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

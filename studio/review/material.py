"""What a report is made of: the artefacts of one take on one time line, and what was seen of an actor in every view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from rigs import keypoints as sets
from rigs.body import Body, Posed, Skin
from rigs.landmarks import landmark_skin
from studio.clock import OneCamera, seen, sync_of
from studio.stored import OnDisk
from studio.values import Keypoints2D, Motion, Tracks3D

if TYPE_CHECKING:
    from studio.take import Take

CHUNK = 64
"""Frames posed at a time: 64 frames of a 14,000 vertex mesh are 11 MB."""


@dataclass(frozen=True)
class Sighting:
    """One actor in every view, left and right already put back, on the take's time line."""

    pixels: Float[Tensor, "C T K 2"]
    """px; NaN where not seen."""
    detected: Bool[Tensor, "C T"]
    swapped: Bool[Tensor, "C T"]
    """Whether the network took left for right here."""
    trusted: Bool[Tensor, "C T K"]
    """Whether a keypoint agrees with the other views."""

    @property
    def seen(self) -> Bool[Tensor, "C T K"]:
        """Whether the network gave this keypoint."""
        return torch.isfinite(self.pixels).all(-1)


@dataclass(frozen=True)
class Material:
    """Everything the stages left behind; what is missing is None or absent, and `gaps` says it in words."""

    take: Take
    cameras: Cameras
    detections: Mapping[str, OnDisk[Keypoints2D] | OneCamera]
    """On the take's clock."""
    tracks: OnDisk[Tracks3D] | None
    motions: dict[str, Motion]
    body: Body | None
    gaps: tuple[str, ...]

    @cached_property
    def actors(self) -> tuple[str, ...]:
        """Names of everybody tracked or animated."""
        found = [*(self.tracks.facts.actors if self.tracks else ()), *self.motions]
        return tuple(dict.fromkeys(found))

    @cached_property
    def first(self) -> int:
        """Number of the report's first frame within the videos."""
        return min((first for first, _ in self._spans()), default=(self.take.frames or (0, 0))[0])

    @cached_property
    def count(self) -> int:
        """Frames on the time line."""
        return max((last for _, last in self._spans()), default=self.first) - self.first

    @cached_property
    def fps(self) -> float:
        """Frames a second; 0 where no artefact says."""
        return next((v.fps for v in (*self.motions.values(), *self._stored())), 0.0)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Keypoint names."""
        return next((v.keypoints for v in self._stored()), ())

    def _stored(self) -> list[Tracks3D | Keypoints2D]:
        return [*((self.tracks.facts,) if self.tracks else ()), *(d.facts for d in self.detections.values())]

    def _spans(self) -> list[tuple[int, int]]:
        """First and one past the last video frame of what was placed in 3D; of the detections where nothing was."""
        spans = [(m.first_frame, m.first_frame + len(m.translation)) for m in self.motions.values()]
        disk = [self.tracks] if self.tracks else [] if spans else self.detections.values()
        return spans + [(d.facts.first_frame, d.facts.first_frame + d.frames) for d in disk]

    def on_time_line(self, values: Tensor, first_frame: int, axis: int, empty: float | bool, frames: slice = slice(None)) -> Tensor:
        """`values` cut and padded along `axis` so that index 0 is the report's first frame, or the first of `frames`."""
        begin, end, _ = frames.indices(self.count)
        shape = list(values.shape)
        shape[axis] = max(end - begin, 0)
        whole = torch.full(shape, empty, dtype=values.dtype)
        offset = first_frame - self.first - begin
        start, skip = max(offset, 0), max(-offset, 0)
        length = min(values.shape[axis] - skip, shape[axis] - start)
        if length > 0:
            whole.narrow(axis, start, length).copy_(values.narrow(axis, skip, length))
        return whole

    def _local(self, frames: slice, first_frame: int, count: int) -> slice:
        """Those of the time line's frames that a value of `count` frames from video frame `first_frame` on has, by its own numbers."""
        begin, end, _ = frames.indices(self.count)
        offset = self.first - first_frame
        return slice(min(max(begin + offset, 0), count), min(max(end + offset, 0), count))

    def _read(self, disk: Any, frames: slice) -> Any:
        return disk.cut(self._local(frames, disk.facts.first_frame, disk.frames))

    def sighting(self, actor: str, frames: slice = slice(None)) -> Sighting:
        """What the networks saw of `actor`. Without tracks every view's first detection counts, all trusted."""
        seen = {name: self._read(disk, frames) for name, disk in self.detections.items()}
        which, swapped, exchanged, trusted, hidden = self._assignment(actor, seen, frames)
        pixels = torch.full((*trusted.shape, 2), torch.nan)
        for c, name in enumerate(self.cameras.names):
            if name in seen:
                pixels[c] = self._picked(seen[name], which[c], exchanged[c], frames)
        pixels[hidden] = torch.nan  # what somebody else stands before was not seen
        return Sighting(pixels, which >= 0, swapped & (which >= 0), trusted & torch.isfinite(pixels).all(-1))

    def _assignment(self, actor: str, seen: dict[str, Keypoints2D], frames: slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Which detection (C,T); whether its sides were exchanged (C,T); of its keypoints (C,T,K) which were, are trusted, are hidden."""
        C, T, K = len(self.cameras), len(range(*frames.indices(self.count))), len(self.names)
        rows = self._rows()
        which, swapped = torch.full((C, T), -1), torch.zeros(C, T, dtype=torch.bool)
        trusted, hidden = torch.zeros(2, C, T, K, dtype=torch.bool)
        if self.tracks is None or rows is None or actor not in self.tracks.facts.actors:
            for c, name in enumerate(self.cameras.names):
                if name in seen:
                    found = (seen[name].confidence[0, :, 0] > 0).any(-1)
                    which[c] = self.on_time_line(found, seen[name].first_frame, 0, False, frames).long() - 1
            return which, swapped, hidden, ~trusted, hidden
        tracks, a = self._read(self.tracks, frames), self.tracks.facts.actors.index(actor)

        def placed(values: Tensor, empty: float | bool) -> Tensor:
            return self.on_time_line(values[:, :, a], tracks.first_frame, 1, empty, frames)

        which[rows], swapped[rows] = placed(tracks.detection.long(), -1), placed(tracks.swapped, False)
        trusted[rows] = placed(tracks.trusted, False)
        exchanged = swapped[..., None].expand(C, T, K).clone()
        if tracks.exchanged is not None:
            exchanged[rows] = placed(tracks.exchanged, False)
        if tracks.hidden is not None:
            hidden[rows] = placed(tracks.hidden, False)
        return which, swapped, exchanged, trusted, hidden

    def _rows(self) -> list[int] | None:
        """Which camera each row of the tracks is: all of them, or those with detections; None where neither number fits."""
        with_detections = [c for c, n in enumerate(self.cameras.names) if n in self.detections]
        count = self.tracks.facts.detection.shape[0] if self.tracks else -1
        return next((rows for rows in (list(range(len(self.cameras))), with_detections) if len(rows) == count), None)

    def _picked(self, seen: Keypoints2D, which: Tensor, exchanged: Tensor, frames: slice) -> Float[Tensor, "T K 2"]:
        """Pixels of detection `which` of each frame, of the other side where `exchanged`, NaN where nothing was seen."""
        pixels = torch.where((seen.confidence[0] > 0)[..., None], seen.pixels[0], torch.nan).float()
        pixels = self.on_time_line(pixels, seen.first_frame, 0, torch.nan, frames)
        index = which.clamp(0, pixels.shape[1] - 1)[:, None, None, None].expand(-1, 1, *pixels.shape[2:])
        chosen = torch.where(which[:, None, None] >= 0, pixels.gather(1, index)[:, 0], torch.nan)
        other = chosen[:, list(sets.mirrored(self.names))]
        return torch.where(exchanged[..., None], other, chosen)

    def triangulated(self, actor: str, frames: slice = slice(None)) -> Float[Tensor, "T K 3"]:
        """World keypoints of `tracks3d`, m; NaN where fewer than two views agree or without tracks."""
        if self.tracks is None or actor not in self.tracks.facts.actors:
            return torch.full((len(range(*frames.indices(self.count))), len(self.names), 3), torch.nan)
        tracks = self._read(self.tracks, frames)
        return self.on_time_line(tracks.points[:, tracks.actors.index(actor)].float(), tracks.first_frame, 0, torch.nan, frames)

    def fitted(self, actor: str, frames: slice = slice(None)) -> Float[Tensor, "T K 3"]:
        """Where the fitted body carries the same landmarks, m; NaN for those the body has no place for, or without a motion."""
        fit = torch.full((len(range(*frames.indices(self.count))), len(self.names), 3), torch.nan)
        motion = self.motions.get(actor)
        known = [k for k, n in enumerate(self.names) if self.body and n in self.body.keypoint_names]
        if motion is None or self.body is None or not known:
            return fit
        skin = self.landmarks([self.names[k] for k in known])
        part = motion.cut(self._local(frames, motion.first_frame, len(motion.translation)))
        points = torch.cat([torch.zeros(0, len(known), 3), *(posed.points(skin) for posed in self.poses(part))])
        fit[:, known] = self.on_time_line(points, part.first_frame, 0, torch.nan, frames)
        return fit

    def landmarks(self, names: list[str]) -> Skin:
        """Where on the body the take's network puts these landmarks."""
        assert self.body is not None
        network = next((d.facts.network for d in self.detections.values()), "exact")
        return landmark_skin(self.body, names, network)[0]

    def poses(self, motion: Motion) -> Iterator[Posed]:
        """The fitted body in a stretch of an actor's motion, `CHUNK` frames at a time."""
        assert self.body is not None
        shaped = self.body.shaped(motion.shape)
        for i in range(0, len(motion.translation), CHUNK):
            part = slice(i, i + CHUNK)
            yield shaped.posed(motion.rotation[part], motion.translation[part], motion.expression[part])

    def mesh(self, actor: str, frame: int, skin: Skin | None = None) -> Float[Tensor, "V 3"] | None:
        """The fitted body's vertices in video frame `frame`, m; None where the motion does not reach."""
        motion = self.motions.get(actor)
        if motion is None or self.body is None or not 0 <= frame - motion.first_frame < len(motion.translation):
            return None
        t = frame - motion.first_frame
        posed = self.body.shaped(motion.shape).posed(motion.rotation[t], motion.translation[t], motion.expression[t])
        vertices = posed.points(skin)
        return vertices if bool(torch.isfinite(vertices).all()) else None


def gathered(take: Take) -> Material:
    """All artefacts of a take; a file that is not there becomes a line in `gaps`, a damaged one a `ValueError` that names it."""
    gaps: list[str] = []
    cameras = take.cameras()
    detections: Mapping[str, OnDisk[Keypoints2D] | OneCamera]
    detections = files = {}
    for name in cameras.names:
        path = take.folder / "keypoints2d" / f"{name}.safetensors"
        if path.exists():
            files[name] = OnDisk.open(Keypoints2D, path)
        else:
            gaps.append(f"Camera {name} has no detections ({path.name} is not there): run the detect stage.")
    if files and (sync := sync_of(take)):
        detections = seen(take, sync, files)
    tracks_file = take.folder / "tracks3d.safetensors"
    tracks = OnDisk.open(Tracks3D, tracks_file) if tracks_file.exists() else None
    if tracks is None:
        gaps.append("There are no 3D tracks: run the track stage, or nobody was found in two views.")
    elif tracks.facts.detection.shape[0] not in (len(cameras), len(detections)):
        gaps.append(
            f"The 3D tracks were made from {tracks.facts.detection.shape[0]} cameras, not these {len(cameras)}: run the track stage again."
        )
    motions = {}
    for path in sorted(take.folder.glob("motion_*.safetensors")):
        motion = Motion.load(path)
        motions[motion.actor] = motion
    for actor in (*take.actors, *(tracks.facts.actors if tracks else ())):
        if actor not in motions and not any(actor in gap for gap in gaps):
            gaps.append(f"Actor {actor} has no motion: run the fit stage, or {actor} was not found.")
    return Material(take, cameras, detections, tracks, motions, _body(take, motions, gaps), tuple(gaps))


def _body(take: Take, motions: dict[str, Motion], gaps: list[str]) -> Body | None:
    from rigs import catalogue

    if not motions:
        return None
    wanted = next(iter(motions.values())).body
    trouble = ""
    for name in (take.body, wanted):  # a body from a file is opened by its path but knows itself by its name
        try:
            body = catalogue.open_body(name)
        except (ValueError, FileNotFoundError, KeyError, ImportError) as error:
            trouble = str(error)
            continue
        if wanted in (name, body.name):
            return body
    gaps.append(f"The body model {wanted!r} cannot be opened here, so no mesh is shown: {trouble or 'the take names another body'}")
    return None

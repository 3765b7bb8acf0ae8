"""One clock for all cameras: how each camera's own time maps onto it, and keypoints as they would be at the master's instants.

A camera's own time is zero at its first frame. `master time = offset + own time (1 + drift)`. The master's frame `n` is the instant
`n / fps`: frame `n` of the reference camera, whose offset and drift are zero.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from studio.freshness import write_text
from studio.interpolation import EXACT, Track2D, between
from studio.stored import OnDisk
from studio.values import Footage, KeypointFiles, Keypoints2D

if TYPE_CHECKING:
    from studio.take import Take

FILE = "sync.yaml"
MARGIN = 3
"""Frames that a stretch needs on either side of the instants asked for."""


@dataclass(frozen=True)
class CameraClock:
    """How one camera's own time maps onto the master's."""

    offset_s: float = 0.0
    """Master time of the camera's frame 0, s: negative for a camera that began earlier."""
    drift_ppm: float = 0.0
    """By how many millionths the camera's clock is slow."""
    sigma_s: float = 0.0
    """Standard deviation of the offset in the middle of the take, s."""
    source: str = "given"
    """What told: motion, speed, audio, flash, timecode, table, reference, given."""

    def master(self, own: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Master time of moments of the camera's own time, s."""
        return self.offset_s + own * (1 + 1e-6 * self.drift_ppm)

    def own(self, master: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The camera's own time at moments of the master clock, s."""
        return (master - self.offset_s) / (1 + 1e-6 * self.drift_ppm)


@dataclass(frozen=True)
class Sync:
    """The clocks of a take's cameras, kept in the take's `sync.yaml`, which a person may edit."""

    reference: str
    fps: float
    """The master's frames a second."""
    cameras: dict[str, CameraClock]
    use: bool = True
    """Whether later stages follow it."""
    frame_times: dict[str, tuple[float, ...]] | None = None
    """Own time of every frame where a table gave it, s from the camera's first frame; in place of the video's time stamps."""

    def __post_init__(self) -> None:
        if self.reference not in self.cameras:
            raise ValueError(f"sync: the reference {self.reference!r} is none of the cameras {list(self.cameras)}")
        if not self.fps > 0:
            raise ValueError(f"sync: fps {self.fps} needs to be above zero")

    @property
    def offsets_frames(self) -> dict[str, float]:
        """Offset of each camera in frames of the master."""
        return {c: clock.offset_s * self.fps for c, clock in self.cameras.items()}

    def save(self, path: Path) -> Path:
        """Write the file; its first line lets `edited` know later whether a person changed it."""
        listed = {
            c: {"offset_s": round(k.offset_s, 6), "drift_ppm": round(k.drift_ppm, 2), "sigma_s": round(k.sigma_s, 6), "source": k.source}
            for c, k in self.cameras.items()
        }
        document: dict[str, Any] = {"use": self.use, "reference": self.reference, "fps": self.fps, "cameras": listed}
        if self.frame_times is not None:
            document["frame_times"] = {c: [round(t, 6) for t in v] for c, v in self.frame_times.items()}
        text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=160, allow_unicode=True)
        return write_text(path, f"{_seal(text)}\n{text}")

    @classmethod
    def load(cls, path: Path) -> Sync:
        """Read such a file; a `ValueError` names the file, field and remedy."""
        try:
            document = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a YAML file: {error}") from error
        if not isinstance(document, dict) or not isinstance(document.get("cameras"), dict):
            raise ValueError(f"{path}: needs a mapping `cameras` with an offset_s for each; delete it and run `studio sync` again")
        known = ("use", "reference", "fps", "cameras", "frame_times")
        if wrong := [k for k in document if k not in known]:
            raise ValueError(f"{path}: unknown key {wrong[0]!r}; known keys are {list(known)}")
        try:
            clocks = {str(c): CameraClock(**_numbers(path, str(c), v)) for c, v in document["cameras"].items()}
            own = {str(c): tuple(float(t) for t in v) for c, v in (document.get("frame_times") or {}).items()}
            reference, fps = str(document.get("reference", next(iter(clocks)))), float(document["fps"])
            return cls(reference, fps, clocks, bool(document.get("use", True)), own or None)
        except (KeyError, TypeError, StopIteration) as error:
            raise ValueError(f"{path}: `fps` or a camera's field is missing or of a wrong kind ({error}); see `studio sync`") from error


def _numbers(path: Path, camera: str, values: Any) -> dict[str, Any]:
    kinds = {"offset_s": float, "drift_ppm": float, "sigma_s": float, "source": str}
    if not isinstance(values, dict) or (wrong := [k for k in values if k not in kinds]):
        raise ValueError(f"{path}: camera {camera!r}: needs fields of {list(kinds)}" + (f", not {wrong[0]!r}" if values else ""))
    try:
        return {k: kinds[k](v) for k, v in values.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: camera {camera!r}: {error}; offset_s, drift_ppm and sigma_s are numbers") from error


def _seal(text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return f"# Written by `studio sync` ({digest}). Edit freely: an edited file is kept; delete it to measure again."


def edited(path: Path) -> bool:
    """Whether a person wrote or changed this file."""
    head, _, text = path.read_text().partition("\n")
    return head != _seal(text)


def on_master_clock(
    keypoints: Keypoints2D,
    sync: Sync,
    own: Mapping[str, Float[Tensor, "T"]] | None = None,
    frames: slice | None = None,
) -> Keypoints2D:
    """The keypoints as the cameras would have seen them at the master's instants, of the same numbers as `keypoints` or those in `frames`.

    `own` gives the cameras' own time of every frame in `keypoints`, s; even steps of `keypoints.fps` otherwise. Values lie between
    seen neighbours only, are not seen elsewhere, and sigma grows with what the path between two frames may hide.
    """
    first, last = keypoints.first_frame, keypoints.first_frame + keypoints.frames
    wanted = range(first, last)[frames] if frames is not None else range(first, last)
    master = torch.tensor(wanted, dtype=torch.float64) / sync.fps
    parts = []
    for c, name in enumerate(keypoints.cameras):
        even = torch.arange(first, last, dtype=torch.float64) / keypoints.fps
        times = own[name] if own is not None and name in own else even
        parts.append(_one(_camera(keypoints, c), times, sync.cameras[name].own(master), sync.fps, wanted.start))
    return Keypoints2D.joined(parts)


def _camera(keypoints: Keypoints2D, c: int) -> Keypoints2D:
    """One camera's part."""
    names = ("pixels", "sigma", "confidence", "skeleton", "look", "looked")
    parts = {k: v[c : c + 1] for k in names if (v := getattr(keypoints, k)) is not None}
    return replace(keypoints, cameras=(keypoints.cameras[c],), **parts)


def _one(seen: Keypoints2D, times: Float[Tensor, "T"], wanted: Float[Tensor, "n"], fps: float, first: int) -> Keypoints2D:
    """One camera's keypoints (C=1) at other moments of its own time."""
    skeleton, look = (None if v is None else v[0] for v in (seen.skeleton, seen.look))
    track = Track2D(seen.pixels[0], seen.sigma[0], seen.confidence[0], skeleton, look)
    made = between(track, times, wanted, seen.keypoints)
    skeleton, look = (None if v is None else v[None] for v in (made.skeleton, made.look))
    return replace(
        seen, fps=fps, first_frame=first, pixels=made.pixels[None], sigma=made.sigma[None], confidence=made.confidence[None],
        skeleton=skeleton, look=look, looked=None,
    )  # fmt: skip


@dataclass(frozen=True)
class OneCamera:
    """A camera's keypoints on disk as they would be at the master's instants; read when asked for, like `OnDisk`."""

    disk: OnDisk[Keypoints2D]
    clock: CameraClock
    fps: float
    """The master's."""
    own: Float[Tensor, "T"]
    """The camera's own time of the frames on disk, s."""
    first: int
    """The master's first frame."""
    frames: int
    """The master's, from `first` on."""

    @cached_property
    def facts(self) -> Keypoints2D:
        """The value without a frame."""
        return replace(self.disk.facts, fps=self.fps, first_frame=self.first)

    def cut(self, frames: slice) -> Keypoints2D:
        """Some consecutive frames of the master."""
        begin, end, _ = frames.indices(self.frames)
        begin, end = begin + self.first, max(begin, end) + self.first
        wanted = self.clock.own(torch.arange(begin, end, dtype=torch.float64) / self.fps)
        low, high = 0, 0
        if len(wanted):
            low = max(int(torch.searchsorted(self.own, wanted[0])) - MARGIN, 0)
            high = min(int(torch.searchsorted(self.own, wanted[-1])) + MARGIN, len(self.own))
        part = slice(low, max(high, low))
        return _one(self.disk.cut(part), self.own[part], wanted, self.fps, begin)


@dataclass(frozen=True)
class OnMasterClock:
    """The keypoints of several cameras on disk, on one clock."""

    parts: tuple[OneCamera, ...]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return min(p.frames for p in self.parts)

    def cut(self, frames: slice) -> Keypoints2D:
        """Some consecutive frames, read now."""
        begin, end, _ = frames.indices(self.frames)
        return Keypoints2D.joined([p.cut(slice(begin, end)) for p in self.parts])


def sync_of(take: Take) -> Sync | None:
    """The clocks that this take's stages follow; None where the frames of one number belong together in videos as long as each other.

    Where nothing was found or is to be followed, videos of different rates began together, and so did videos of different lengths.
    """
    path = take.keypoints_folder.parent / FILE
    sync = Sync.load(path) if path.is_file() else None
    if sync is not None and sync.use:
        if missing := [c for c in take.videos if c not in sync.cameras]:
            raise ValueError(f"{path}: says nothing of camera {missing[0]!r}; add it, or delete the file and run `studio sync` again")
        return sync if take.rate is None else replace(sync, fps=take.rate)
    if not take.one_rate:
        return together(take)
    counts = {c: i.frames for c, i in take.probes.items()}
    if len(set(counts.values())) > 1:  # by number, whatever the time stamps say
        return together(take, {c: tuple(t / take.fps for t in range(n)) for c, n in counts.items()})
    return None


def together(take: Take, frame_times: dict[str, tuple[float, ...]] | None = None) -> Sync:
    """The clocks of cameras that all began at the same moment."""
    names = sorted(take.videos)
    clocks = {c: CameraClock(source="reference" if c == names[0] else "given") for c in names}
    return Sync(names[0], take.fps, clocks, frame_times=frame_times)


def own_times(take: Take, camera: str, sync: Sync | None = None) -> Float[Tensor, "T"]:
    """A camera's own time of each of its video's frames, s: from the table, from the time stamps where they vary, else even steps."""
    if sync is not None and sync.frame_times and camera in sync.frame_times:
        return torch.tensor(sync.frame_times[camera], dtype=torch.float64)
    info = take.probes[camera]
    if not info.variable:
        return torch.arange(info.frames, dtype=torch.float64) / float(info.fps)
    from studio.video import times

    stamps = times(take.videos[camera])
    return stamps - stamps[0]


def own_frames(take: Take, camera: str, frames: tuple[int, int]) -> tuple[int, int]:
    """First and one past the last of a camera's own frames needed for the master's `frames`; empty where it did not record then."""
    sync = sync_of(take)
    if sync is None:
        return frames
    own = own_times(take, camera, sync)
    low, high = sync.cameras[camera].own(torch.tensor(frames, dtype=torch.float64) / sync.fps).tolist()
    step = 0.25 / float(take.probes[camera].fps)  # an instant this near to a frame asks for no neighbour
    first = int((own <= low + step).sum()) - 1
    last = int((own < high - 1 / sync.fps - step).sum()) + 1
    return max(first, 0), last


def unlooked(take: Take) -> list[str]:
    """Cameras of whose frames that show the take's `frames` a quarter of a second and more was not looked at: its clock was not known."""
    lacking = []
    for camera in sorted(take.videos) if take.frames is not None else ():
        first, last = take.stretch(camera)
        file = OnDisk.open(Keypoints2D, take.keypoints_folder / f"{camera}.safetensors")
        begin = file.facts.first_frame
        missing = max(begin - first, 0) + max(last - begin - file.frames, 0)
        if missing > 0.25 * float(take.probes[camera].fps):
            lacking.append(camera)
    return lacking


def footage(take: Take, cameras: Sequence[str]) -> Footage:
    """What the networks saw of a take on one clock, which is how every stage after `sync` reads keypoints."""
    sync = sync_of(take)
    if sync is None:
        return KeypointFiles(take.keypoints_folder, tuple(cameras))
    if lost := [c for c in cameras if not (take.keypoints_folder / f"{c}.safetensors").exists()]:
        raise FileNotFoundError(
            f"{take.keypoints_folder / lost[0]}.safetensors: no keypoints of camera {lost[0]!r}; run the stage `detect`"
        )
    disks = {c: OnDisk.open(Keypoints2D, take.keypoints_folder / f"{c}.safetensors") for c in cameras}
    return OnMasterClock(tuple(seen(take, sync, disks).values()))


def seen(take: Take, sync: Sync, disks: Mapping[str, OnDisk[Keypoints2D]]) -> dict[str, OneCamera]:
    """Cameras' files on the take's clock: the take's frames while two cameras record; a camera sees nothing before and after its own."""
    own = {c: own_times(take, c, sync)[d.facts.first_frame :][: d.frames] for c, d in disks.items()}
    if short := [c for c, d in disks.items() if len(own[c]) < d.frames]:
        raise ValueError(
            f"{take.folder / FILE}: camera {short[0]!r} has keypoints of {disks[short[0]].frames} frames, but times "
            f"of {len(own[short[0]])}; delete the file and run `studio sync` again, or import the table that belongs to these videos"
        )
    first, last = _overlap([sync.cameras[c].master(t[[0, -1]]).tolist() for c, t in own.items() if len(t)], sync.fps)
    if take.frames is not None:
        first, last = max(first, take.frames[0]), min(last, take.frames[1])
    return {c: OneCamera(d, sync.cameras[c], sync.fps, own[c], first, max(last - first, 0)) for c, d in disks.items()}


def _overlap(recorded: list[list[float]], fps: float) -> tuple[int, int]:
    """First and one past the last frame of the master that two cameras recorded, frame 0 at the earliest."""
    if not recorded:
        return 0, 0
    starts, ends = sorted(r[0] for r in recorded), sorted(r[1] for r in recorded)
    begin, end = (starts[1], ends[-2]) if len(recorded) > 1 else (starts[0], ends[0])
    return max(math.ceil(begin * fps - EXACT), 0), math.floor(end * fps + EXACT) + 1


def video_frame(take: Take, camera: str, frame: int) -> int:
    """The camera's video frame nearest to the master's frame `frame`."""
    sync = sync_of(take)
    if sync is None:
        return frame
    own = own_times(take, camera, sync)
    wanted = sync.cameras[camera].own(torch.tensor([frame / sync.fps], dtype=torch.float64))
    return int((own - wanted).abs().argmin())


def recorded(take: Take, camera: str, frame: int) -> bool:
    """Whether the camera recorded at the master's frame `frame`: a frame of its own lies within a usual step."""
    sync = sync_of(take)
    if sync is None:
        return 0 <= frame < take.probes[camera].frames
    own = own_times(take, camera, sync)
    wanted = sync.cameras[camera].own(torch.tensor([frame / sync.fps], dtype=torch.float64))
    return float((own - wanted).abs().min()) <= 1.01 / min(take.rates[camera], sync.fps)

"""The stage that puts a take's cameras on one clock: from motion, sound, light, timecode or a table, to a fraction of a frame."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from calibration.cameras import Cameras
from studio.clock import FILE, CameraClock, Sync, edited, on_master_clock, own_times
from studio.identity import identify
from studio.people import IdentityConfig
from studio.stored import OnDisk
from studio.sync.audio import AudioConfig, by_sound
from studio.sync.estimate import Estimate, median_camera
from studio.sync.flash import by_flash
from studio.sync.motion import MotionConfig, Verdict, by_motion, judged
from studio.sync.person import Path2D, joints_of, path_of, prominent
from studio.sync.speed import by_speed
from studio.sync.table import by_timecode, read_table
from studio.take import Take
from studio.values import Keypoints2D

__all__ = ["MotionConfig", "Sync", "SyncConfig", "by_flash", "by_motion", "by_sound", "by_speed", "on_master_clock", "read_table", "sync"]
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class SyncConfig:
    """Where the clocks come from."""

    mode: Literal["auto", "off", "motion", "speed", "audio", "flash", "timecode"] = "auto"
    """`auto`: motion, with sound and timecode where there are any, followed only where it is clear and frames held out confirm it; the name
    of one source: followed as it is; `off`: the videos are taken as they are."""
    table: Path | None = None
    """A CSV of frame times (sync_index, cam_id, frame_time), followed as it is."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    frames: int = 3000
    """Most frames looked at, in stretches over the take."""
    gain: float = 0.05
    """`auto` follows clocks that lower the held-out cost by at least this part of it."""
    sure: float = 0.3
    """... whose standard deviation is at most this, frames."""
    stir: float = 4.0
    """... found from people whose mean squared speed is this many times what noise alone would give."""
    smallest: float = 0.1
    """... and one of which is off by at least this, frames, and three standard deviations."""


@dataclass(frozen=True)
class Finding:
    """What the stage decided, and what it says of it."""

    estimates: tuple[Estimate, ...]
    chosen: Estimate | None
    use: bool
    reason: str
    warnings: tuple[str, ...] = ()
    verdict: Verdict | None = None


def sync(take: Take, config: SyncConfig | None = None) -> Path:
    """Write the take's `sync.yaml`: each camera's offset and drift, and whether later stages follow them. An edited file is kept."""
    config, begun, path = config or SyncConfig(), time.monotonic(), take.folder / FILE
    if path.is_file() and edited(path):
        kept = Sync.load(path)
        os.utime(path)
        take.note("sync", [], reason="edited by hand and kept", offsets=_table(kept))
        console.print(f"sync: {FILE} was edited by hand and is kept ({_offsets(kept)}); delete it to measure again")
        return path
    names, fps = tuple(sorted(take.videos)), take.fps
    if config.table is not None:
        counts = {c: i.frames for c, i in take.probes.items()}
        made = read_table(config.table, names, counts)
        made = made if take.rate is None else replace(made, fps=take.rate)
        found = Finding((), None, True, f"frame times of {config.table.name}")
    else:
        found = _found(take, names, fps, config)
        made = _clocks(take, names, fps, found)
    made.save(path)
    numbers = {} if found.verdict is None else {"cost_before": round(found.verdict.before, 4), "cost_after": round(found.verdict.after, 4)}
    sources = {e.source: {n: _in_frames(e, c, fps) for c, n in enumerate(names)} for e in found.estimates}
    take.note("sync", found.warnings, followed=made.use, reason=found.reason, **numbers, offsets=_table(made), sources_frames=sources)
    for warning in found.warnings:
        console.print(f"[yellow]sync: {warning}[/]")
    state = "" if made.use else "not followed: "
    console.print(f"sync: {len(names)} cameras, {state}{found.reason}; {_offsets(made)}, {time.monotonic() - begun:.0f} s")
    return path


def _clocks(take: Take, names: tuple[str, ...], fps: float, found: Finding) -> Sync:
    """The file's content: what was found, or zero everywhere."""
    if found.chosen is None:
        clocks = {n: CameraClock(source="reference" if c == 0 else "given") for c, n in enumerate(names)}
        return Sync(names[0], fps, clocks, found.use)
    return found.chosen.against(median_camera(found.chosen)).sync(names, fps, found.use)


def _offsets(made: Sync) -> str:
    return "offsets " + ", ".join(f"{c} {v:+.2f}" for c, v in made.offsets_frames.items()) + " frames"


def _table(made: Sync) -> dict[str, dict[str, object]]:
    return {
        c: {
            "offset_frames": round(k.offset_s * made.fps, 3), "offset_ms": round(1000 * k.offset_s, 2), "drift_ppm": round(k.drift_ppm, 1),
            "sigma_frames": round(k.sigma_s * made.fps, 3), "source": k.source,
        }
        for c, k in made.cameras.items()
    }  # fmt: skip


def _in_frames(estimate: Estimate, c: int, fps: float) -> float | None:
    shift = float(estimate.shift()[c]) * fps
    return round(shift, 3) if shift == shift else None


def _found(take: Take, names: tuple[str, ...], fps: float, config: SyncConfig) -> Finding:
    """Ask the sources that the settings allow, and decide."""
    own = [own_times(take, c) for c in names]
    varying = [c for c in names if take.probes[c].variable or not take.one_rate]
    if config.mode == "off":
        return Finding((), None, False, "switched off")
    if config.mode in ("audio", "flash", "timecode"):
        return _alone(_asked(take, names, own, config), names)
    length = min(float(t[-1]) for t in own)
    watched = _watched(take, names, own, config)
    if not watched:
        if config.mode != "auto":
            raise ValueError(f"{take.keypoints_folder}: no person's joints to tell the clocks from; use audio, flash, or a table")
        return _unmoved("nobody's joints to compare", varying)
    if config.mode == "speed":
        return _alone(by_speed(watched[0], config.motion.reach), names)
    cameras = take.cameras()
    others = [] if config.mode == "motion" else [e for e in _cheap(take, names, config) if len(e.told) == len(names)]
    starts = [e.against(0) for e in others]
    if length > config.frames / fps:  # who began when is told by one stretch; then the cameras are looked at where they saw the same
        first = [by_motion(cameras, w, config.motion, starts) for w in watched]
        starts.append(min(first, key=lambda v: v.cost).estimate)
        watched = _watched(take, names, own, config, starts[-1].offset.tolist()) or watched
    verdict, paths = min(((by_motion(cameras, w, config.motion, starts), w) for w in watched), key=lambda v: v[0].cost)
    if config.mode == "auto" and (still := min(p.stir() for p in paths)) < config.stir:
        quiet = _unmoved(f"too little motion to tell ({still:.1f} times the noise)", varying)
        return replace(quiet, estimates=tuple(others))
    if config.mode == "motion":
        return Finding((verdict.estimate,), verdict.estimate, True, "by motion, as asked", verdict=verdict)
    return _decided(cameras, paths, verdict, others, names, fps, config, varying)


def _asked(take: Take, names: tuple[str, ...], own: Sequence[Tensor], config: SyncConfig) -> Estimate:
    """The one source that the settings name."""
    videos = {n: take.videos[n] for n in names}
    if config.mode == "audio":
        return by_sound(videos, [float(t[-1]) for t in own], config.audio)
    if config.mode == "flash":
        return by_flash(videos, own, config.motion.drift_ppm)
    return by_timecode(videos, [float(take.probes[n].fps) for n in names])


def _cheap(take: Take, names: tuple[str, ...], config: SyncConfig) -> list[Estimate]:
    """Sources that need no decoding of images."""
    return [_asked(take, names, [own_times(take, n) for n in names], replace(config, mode=mode)) for mode in ("timecode", "audio")]


def _alone(estimate: Estimate, names: tuple[str, ...]) -> Finding:
    """A source that was asked for by name; a `ValueError` where it says nothing."""
    if len(estimate.told) < 2:
        raise ValueError(f"sync: no offsets by {estimate.source} ({estimate.remark}); use another source, or `--mode off`")
    silent = [n for c, n in enumerate(names) if c not in estimate.told]
    warnings = (f"No offset by {estimate.source} for {', '.join(silent)}: taken as they are.",) if silent else ()
    return Finding((estimate,), estimate, True, f"by {estimate.source}, as asked", warnings)


def _unmoved(reason: str, varying: list[str]) -> Finding:
    """No offsets; time stamps count where frames are not evenly spaced."""
    if varying:
        return Finding((), None, True, f"{reason}; the time stamps of {', '.join(varying)} are followed")
    return Finding((), None, False, reason)


def _watched(
    take: Take, names: tuple[str, ...], own: Sequence[Tensor], config: SyncConfig, offsets: Sequence[float] | None = None
) -> list[list[Path2D]]:
    """Every way to tell one person's paths in all views: the largest in each view, and whom the geometry holds for the same.

    Long takes are looked at in part: with `offsets` (s) in pieces at the same moments of all cameras, without in the middle.
    """
    disks = [OnDisk.open(Keypoints2D, take.keypoints_folder / f"{n}.safetensors") for n in names]
    if len(joints_of(disks[0].facts.keypoints)) < 4 or min(d.frames for d in disks) < 16:
        return []
    zero = [float(t[d.facts.first_frame]) + o for d, t, o in zip(disks, own, offsets or [0.0] * len(disks))]
    begin, end = max(zero), min(z + (d.frames - 1) / d.facts.fps for z, d in zip(zero, disks))
    cuts = _stretches(end - begin, config.frames / take.fps, 1 if offsets is None else 6)
    if len(cuts) == 1 and cuts[0] == (0.0, end - begin):
        parts = [[d.cut(slice(0, d.frames))] for d in disks]
    else:
        parts = [
            [d.cut(slice(max(int((begin + a - z) * d.facts.fps), 0), max(int((begin + b - z) * d.facts.fps), 0))) for a, b in cuts]
            for d, z in zip(disks, zero)
        ]
    ways = [[path_of([(k, prominent(k)[0]) for k in here], t) for here, t in zip(parts, own)]]
    several = any(d.facts.pixels.shape[2] > 1 for d in disks)
    if several and len({d.facts.fps for d in disks}) == 1:
        cameras = take.cameras()
        alike = ([replace(k, first_frame=0) for k in p] for p in zip(*parts))
        which = [identify(cameras, Keypoints2D.joined(p), 1, IdentityConfig())[0][:, :, 0] for p in alike]
        pieces = [[(k, w[c]) for k, w in zip(here, which)] for c, here in enumerate(parts)]
        way = [path_of([(k.cut(slice(0, len(w))), w) for k, w in here], t) for here, t in zip(pieces, own)]
        if not all(torch.equal(a.pixels.nan_to_num(), b.pixels.nan_to_num()) for a, b in zip(way, ways[0])):
            ways.append(way)
    return [w for w in ways if sum(bool(torch.isfinite(p.pixels).any()) for p in w) == len(w)]


def _stretches(length: float, most: float, pieces: int) -> list[tuple[float, float]]:
    """Parts of a take of `length` s, `most` s in all: one in the middle, or several evenly over it."""
    if length <= most:
        return [(0.0, length)]
    if pieces == 1:
        return [((length - most) / 2, (length + most) / 2)]
    starts = torch.linspace(0, length - most / pieces, pieces).tolist()
    return [(s, s + most / pieces) for s in starts]


def _decided(
    cameras: Cameras,
    paths: list[Path2D],
    verdict: Verdict,
    others: list[Estimate],
    names: tuple[str, ...],
    fps: float,
    config: SyncConfig,
    varying: list[str],
) -> Finding:
    """Follow the clocks only where they are clear and frames that had no part in finding them say so too."""
    motion = verdict.estimate
    shift, wide = motion.shift() - motion.shift().median(), float(motion.sigma.max())
    estimates, warnings = (motion, *others), _disagreements(motion, others, names, fps)
    cost = f"held-out cost {verdict.before:.3f} to {verdict.after:.3f}"
    clear = wide * fps <= config.sure
    if clear and float(shift.abs().max()) < max(config.smallest / fps, 3 * wide):
        still = _unmoved(f"the cameras are in step within {3 * wide * fps:.1f} frames by motion", varying)
        return replace(still, estimates=estimates, warnings=warnings, verdict=verdict, chosen=None if still.use else motion)
    if clear and verdict.lowers(config.gain):
        joint = _combined(motion, others)
        return Finding(estimates, joint, True, f"by {joint.source}, {cost}", warnings, verdict)
    for other in others:
        before, after = judged(cameras, paths, other.against(0), config.motion)
        if other.source != "timecode" and after.count > 0.3 * before.count and after.cost < (1 - config.gain) * before.cost:
            told = f"by {other.source}, cost {before.cost:.3f} to {after.cost:.3f}"
            return Finding(estimates, other, True, told, warnings, verdict)
    doubt = f"motion tells the clocks to {wide * fps:.1f} frames only" if not clear else "they do not help on frames held out"
    still = _unmoved(f"{doubt}, {cost}", varying)
    return replace(still, estimates=estimates, warnings=warnings, verdict=verdict, chosen=None if still.use else motion)


def _disagreements(motion: Estimate, others: list[Estimate], names: tuple[str, ...], fps: float) -> tuple[str, ...]:
    """Cameras for which another source says something else than motion by more than three standard deviations."""
    said = []
    for other in others:
        there = other.against(0)
        apart = there.shift() - motion.shift()
        allowed = 3 * (there.sigma.square() + motion.sigma.square()).sqrt()
        for c in (apart.abs() > allowed).nonzero()[:, 0].tolist():
            said.append(
                f"{names[c]}: {other.source} puts it {float(there.shift()[c]) * fps:+.1f} frames from {names[0]}, "
                f"motion {float(motion.shift()[c]) * fps:+.1f}; motion is believed where it is clear."
            )
    return tuple(said)


def _combined(motion: Estimate, others: list[Estimate]) -> Estimate:
    """Motion and what agrees with it, each by its certainty."""
    total, weight, sources = motion.shift(), motion.sigma.clamp_min(1e-9).square().reciprocal(), ["motion"]
    for other in others:
        there = other.against(0)
        agrees = (there.shift() - motion.shift()).abs() <= 3 * (there.sigma.square() + motion.sigma.square()).sqrt()
        if not bool(agrees.all()):
            continue
        more = there.sigma.clamp_min(1e-9).square().reciprocal()
        total, weight = (total * weight + there.shift() * more) / (weight + more), weight + more
        sources.append(other.source)
    offset: Float[Tensor, "C"] = motion.middle - (1 + motion.drift) * (motion.middle - total)
    sigma = weight.rsqrt()
    sigma[0] = 0
    return replace(motion, source="+".join(sources), offset=offset, sigma=sigma)

"""Renders a whole virtual capture: videos, cameras and exact truth, one process a camera where wanted, resumable."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from rich import print as tell
from rich.progress import Progress

from calibration.cameras import Cameras
from rigs import makehuman
from studio.video import VideoWriter
from studio.virtual.anatomy import Performance
from studio.virtual.bvh import from_bvh
from studio.virtual.looks import dressed
from studio.virtual.maps import maps_of, write_maps
from studio.virtual.motion import scripted
from studio.virtual.paths import PATHS, carried
from studio.virtual.rig import ring
from studio.virtual.room import Room
from studio.virtual.scene import Crowd, Figure, View, developed
from studio.virtual.truth import Truth, posed_at, truth_of

SHUTTER = 0.5
"""Fraction of a frame that the shutter is open, with motion blur."""
BLUR_SAMPLES = 5


@dataclass(frozen=True)
class VirtualCapture:
    """What to render."""

    cameras: int = 4
    width: int = 1280
    """px."""
    height: int = 720
    fps: float = 30.0
    frames: int = 120
    people: int = 1
    """1 to 3."""
    seed: int = 0
    """Decides people, clothes, motion, cameras, room and noise."""
    motion: str = "mixed"
    """A script's name (`studio.virtual.actions.ACTIONS`), "mixed", or the path of a .bvh file."""
    paths: str = "apart"
    """Where several people go: they stay `apart`, `cross` each other's ways, `hug` (0.4 m), or one `leave`s the room and returns."""
    alone: int = 0
    """Only this one of the people is there, counted from 1, and does what he does among the others; 0: everybody."""
    distortion: bool = True
    noise: float = 1.8
    """Standard deviation of the sensor's noise, grey levels of 255."""
    motion_blur: bool = False
    truth_maps: bool = False
    """Also write who, IUV, depth and optical flow of every frame and camera under maps/."""
    board: bool = False
    """Also render a ChArUco calibration sequence under calibration/."""
    background: int = 0
    """Also render so many frames of the empty room under background/."""
    crf: int = 16
    """H.264 quality; lower is better."""
    workers: int = 1
    """Processes; each renders one camera at a time."""

    def __post_init__(self) -> None:
        bounds = {
            "cameras": (1, 64),
            "people": (1, 3),
            "frames": (1, 1_000_000),
            "width": (16, 8192),
            "height": (16, 8192),
            "workers": (1, 256),
        }
        for field, (low, high) in bounds.items():
            if not low <= getattr(self, field) <= high:
                raise ValueError(f"virtual capture: {field} is {getattr(self, field)}; it must be {low} to {high}")
        if not 0 <= self.alone <= self.people:
            raise ValueError(f"virtual capture: alone is {self.alone}; it must be 1 to {self.people}, or 0 for everybody")
        if self.background < 0:
            raise ValueError(f"virtual capture: background is {self.background} frames; it must not be below 0")
        if self.paths not in PATHS:
            raise ValueError(f"virtual capture: paths is {self.paths!r}; it must be one of {list(PATHS)}")
        if not (self.fps > 0 and self.noise >= 0):
            raise ValueError(f"virtual capture: fps {self.fps} must be above 0 and noise {self.noise} not below 0")

    def content(self) -> dict[str, Any]:
        """The settings that decide what is in the files of the capture itself."""
        usual = {"paths": "apart", "alone": 0}  # captures from before these had names
        return {k: v for k, v in asdict(self).items() if k not in ("workers", "board", "background") and v != usual.get(k, ...)}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each person who is there."""
        return tuple(1000 * self.seed + i for i in range(self.people) if self.alone in (0, i + 1))

    @property
    def spread(self) -> float:
        """Distance of people from the middle, m: neighbours do not touch with their arms out to work."""
        return {1: 0.0, 2: 0.85, 3: 1.0}[self.people]

    def camera_ring(self) -> Cameras:
        """The cameras of the capture."""
        return ring(self.cameras, self.width, self.height, self.seed, 3.5 + 1.2 * self.spread, 0.5 + self.spread, self.distortion)

    def room(self) -> Room:
        """The room of the capture; larger than the ring."""
        return Room.seeded(self.seed, 5.5 + 1.2 * self.spread, 1536 if self.height >= 480 else 384)


def performances(config: VirtualCapture) -> list[Performance]:
    """Who does what: body, place and motion of every person who is there."""
    if config.alone:
        return performances(replace(config, alone=0))[config.alone - 1 : config.alone]
    rng = np.random.default_rng([config.seed, 53])
    start = rng.uniform(0, 2 * math.pi)
    out, places = [], []
    for i, seed in enumerate(config.seeds):
        body = makehuman.individual(seed)
        angle = start + 2 * math.pi * i / config.people
        place = (config.spread * math.cos(angle), config.spread * math.sin(angle))
        places.append(place)
        heading = float(rng.uniform(-math.pi, math.pi))
        if config.motion.lower().endswith(".bvh"):
            out.append(from_bvh(body, Path(config.motion), config.frames, config.fps, seed, place, heading))
        else:
            out.append(scripted(body, config.frames, config.fps, seed, config.motion, place, heading))
    if config.paths == "apart":
        return out
    return carried(out, np.array(places), config.paths, config.room().half + 1.0, _door(config))


def _door(config: VirtualCapture) -> float:
    """Direction from the middle that is farthest from all cameras, rad."""
    at = config.camera_ring().position.numpy()
    angles = np.sort(np.arctan2(at[:, 1], at[:, 0]))
    gaps = np.diff(angles, append=angles[0] + 2 * math.pi)
    return float(angles[gaps.argmax()] + gaps.max() / 2)


def figures_of(config: VirtualCapture, acts: list[Performance]) -> tuple[Figure, ...]:
    """The performers dressed for the camera."""
    texels = 2048 if config.height >= 480 else 512
    return tuple(Figure.of(p.body, dressed(p.body, seed, texels)) for p, seed in zip(acts, config.seeds))


@dataclass(frozen=True)
class _Set:
    """Everything that all cameras of a capture share."""

    acts: list[Performance]
    figures: tuple[Figure, ...]
    cameras: Cameras
    room: Room


def render_capture(folder: Path, config: VirtualCapture) -> Path:
    """Render into `folder`: videos/<camera>.mp4, cameras.yaml, truth.safetensors; maps/, background/ on request. Returns the folder.

    A killed run is taken up again at the first unfinished camera. `ValueError` where the folder holds a capture of other
    settings. With several workers the calling script needs the usual `if __name__ == "__main__"` guard.
    """
    began = time.perf_counter()
    folder = Path(folder)
    truth_file = folder / "truth.safetensors"
    _same_settings(truth_file, config)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    acts, cameras = performances(config), config.camera_ring()
    stage = _Set(acts, figures_of(config, acts), cameras, config.room())
    if not truth_file.is_file():
        cameras.save(folder / "cameras.yaml")
        truth_of(acts, config.seeds, stage.figures, cameras, config.fps).save(truth_file, config=config.content())
    missing = [n for n in cameras.names if not (folder / "videos" / f"{n}.mp4").is_file()]
    if missing:
        _render_cameras(folder, config, missing, stage)
    if config.background:
        _render_background(folder / "background", config, cameras, stage.room)
    if config.board:
        from studio.virtual.board import render_board

        render_board(folder / "calibration", config)
    images, seconds = len(missing) * config.frames, time.perf_counter() - began
    tell(f"virtual: {len(cameras)} cameras, {config.frames} frames, {config.people} people; {images:,} images in {seconds:.0f} s")
    return folder


def _same_settings(truth_file: Path, config: VirtualCapture) -> None:
    if not truth_file.is_file():
        return
    before = Truth.record(truth_file).get("config", {})
    asked = config.content()
    other = {k: (before.get(k), asked.get(k)) for k in {**before, **asked} if before.get(k) != asked.get(k)}
    if other:
        listed = ", ".join(f"{k} {old} there, {new} asked for" for k, (old, new) in other.items())
        raise ValueError(f"{truth_file.parent}: holds a capture with other settings ({listed}); choose another folder or delete that one")


def _render_cameras(folder: Path, config: VirtualCapture, names: list[str], stage: _Set) -> None:
    with Progress(transient=True) as progress:
        bar = progress.add_task("rendering", total=len(names) * config.frames)
        if config.workers == 1:
            for name in names:
                _render_camera(folder, config, name, stage, lambda: progress.advance(bar))
            return
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager:
            ticks = manager.Queue()
            with ProcessPoolExecutor(min(config.workers, len(names)), context, _begin, (stage, ticks)) as pool:
                jobs = [pool.submit(_render_in_worker, folder, config, name) for name in names]
                while not all(job.done() for job in jobs):
                    time.sleep(0.3)
                    while not ticks.empty():
                        progress.advance(bar, ticks.get())
                for job in jobs:
                    job.result()


_worker: dict[str, Any] = {}


def _begin(stage: _Set, ticks: Any) -> None:
    """Give a worker process what all its cameras share."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _worker.update(stage=stage, ticks=ticks)


def _render_in_worker(folder: Path, config: VirtualCapture, name: str) -> None:
    _render_camera(folder, config, name, _worker["stage"], lambda: _worker["ticks"].put(1))


def _render_camera(folder: Path, config: VirtualCapture, name: str, stage: _Set, tick: Callable[[], Any]) -> None:
    figures, camera = stage.figures, stage.cameras.index(name)
    view = View(stage.cameras[name], stage.room)
    with VideoWriter(folder / "videos" / f"{name}.mp4", config.width, config.height, config.fps, crf=config.crf) as video:
        for frame, (before, now, after) in enumerate(_moments(stage.acts)):
            light = _exposed(view, figures, before, now, after, config.motion_blur)
            video.write(developed(light, config.noise, (config.seed, camera, frame)))
            if config.truth_maps:
                later = Crowd.posed(figures, after) if frame + 1 < config.frames else None
                write_maps(maps_of(view, Crowd.posed(figures, now), later), folder / "maps" / name, frame)
            tick()


def _render_background(folder: Path, config: VirtualCapture, cameras: Cameras, room: Room) -> None:
    """The empty room in every camera's noise, which is another in every frame of the capture."""
    folder.mkdir(exist_ok=True)
    for camera, name in enumerate(cameras.names):
        if (folder / f"{name}.mp4").is_file():
            continue
        empty = View(cameras[name], room).empty
        with VideoWriter(folder / f"{name}.mp4", config.width, config.height, config.fps, crf=config.crf) as video:
            for frame in range(config.background):
                video.write(developed(empty, config.noise, (config.seed, camera, config.frames + frame)))


Skins = list[Float[np.ndarray, "V 3"]]


def _moments(acts: list[Performance]) -> Iterator[tuple[Skins, Skins, Skins]]:
    """All people's skins one frame before, at, and one frame after every frame; the ends repeat."""
    last = len(acts[0]) - 1

    def at(t: int) -> Skins:
        return [posed_at(p, slice(t, t + 1)).vertices()[0].numpy() for p in acts]

    before = now = at(0)
    for t in range(last + 1):
        after = at(t + 1) if t < last else now
        yield before, now, after
        before, now = now, after


def _exposed(view: View, figures: tuple[Figure, ...], before: Skins, now: Skins, after: Skins, blur: bool) -> Float[np.ndarray, "H W 3"]:
    """Linear light of a frame; with blur the mean over the open shutter, centred on the frame's moment."""
    if not blur:
        return view.radiance(Crowd.posed(figures, now))
    total = np.zeros_like(view.rays)
    for s in (np.arange(BLUR_SAMPLES) + 0.5) / BLUR_SAMPLES - 0.5:
        ahead, share = (after, s * SHUTTER) if s >= 0 else (before, -s * SHUTTER)
        total += view.radiance(Crowd.posed(figures, [n + share * (o - n) for n, o in zip(now, ahead)])) / BLUR_SAMPLES
    return total

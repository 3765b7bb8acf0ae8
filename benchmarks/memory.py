"""How much memory each stage of a run takes, for takes of different length: it must not grow with the frames.

    python benchmarks/memory.py [--frames 300 1000 3000] [--fit-frames 3000] [--out benchmarks/memory.json]
    python benchmarks/memory.py --detect VIDEO_FOLDER CAMERA_FILE [--frames 100 1000] [--out benchmarks/memory.json]

Eight cameras see one moving person (the default body, all 133 keypoints, noise of 0.4 px on 320 x 180 px pictures); the keypoints are
written as the detect stage writes them. Every stage runs in a process of its own, whose peak resident memory the kernel counts;
memory-mapped file pages are in it, though the kernel may drop them. Where a take is longer than --fit-frames the true motion stands
for the fit. With --detect the detect stage, one process, looks with its own networks at the first 60 frames of two of the videos, 320 px
wide, played forth and back until there are enough.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from calibration.cameras import Cameras, upright_view
from rigs import makehuman
from rigs.keypoints import COCO_WHOLEBODY
from studio.take import Take
from studio.values import Keypoints2D, Motion

CAMERAS, WIDTH, HEIGHT, FPS, NOISE, SEED, HOUR = 8, 320, 180, 30.0, 0.4, 0, 108_000
BLOCK = 250
"""Frames made at a time."""
SWING = {"Arm": (0.5, 1), "ForeArm": (0.4, 2), "UpLeg": (0.4, 0), "Leg": (0.3, 0), "Spine": (0.2, 2), "Head": (0.3, 1)}
"""Joint -> how far (rad) and about which axis it swings."""


def ring() -> Cameras:
    """Eight cameras 4 m around the origin, alternating in height."""
    angle = (torch.arange(CAMERAS, dtype=torch.float64) + 0.3) / CAMERAS * 2 * torch.pi
    position = torch.stack([4 * angle.cos(), 4 * angle.sin(), 1.2 + 0.8 * (torch.arange(CAMERAS) % 2)], -1)
    R = upright_view(torch.tensor([0.0, 0.0, 0.9]) - position)
    size = torch.tensor([[WIDTH, HEIGHT]], dtype=torch.float64).expand(CAMERAS, 2)
    focal = torch.full((CAMERAS, 2), 230.0, dtype=torch.float64)
    names = tuple(f"c{i}" for i in range(CAMERAS))
    return Cameras(names, size, focal, size / 2, torch.zeros(CAMERAS, 8, dtype=torch.float64), ("brown",) * CAMERAS, R, position)


def motion(first: int, last: int, actor: str = "actor") -> Motion:
    """A person who walks about and swings arms, legs and head."""
    body, t = makehuman.load(), torch.arange(first, last) / FPS
    rotation = torch.zeros(last - first, len(body.skeleton), 3)
    for number, (joint, (size, axis)) in enumerate(SWING.items()):
        for side, sign in (("Left", 1.0), ("Right", -1.0)) if joint not in ("Spine", "Head") else (("", 1.0),):
            rotation[:, body.skeleton.index(side + joint), axis] = sign * size * (2 * torch.pi * (0.4 + 0.07 * number) * t).sin()
    rotation[:, 0, 2] = 0.3 * t
    place = torch.stack([0.6 * (0.5 * t).sin(), 0.6 * (0.37 * t).cos(), torch.full_like(t, float(body.joints[0, 2]))], -1)
    still = torch.zeros(last - first, len(body.expression_names)), torch.full(rotation.shape[:2], 0.005), torch.zeros(last - first, 4)
    shape = torch.zeros(len(body.shape_names))
    return Motion(body.name, actor, body.skeleton.names, FPS, first, "00:00:00:00", shape, place, rotation, *still)


def fabricate(folder: Path, frames: int) -> None:
    """A take of that many frames with keypoints of every camera and, as truth.safetensors, its motion."""
    cameras, body, random = ring(), makehuman.load(), torch.Generator().manual_seed(SEED)
    cameras.save(folder / "cameras.yaml")
    film(folder / "film.mp4", frames)
    Take.of({c: folder / "film.mp4" for c in cameras.names}, folder / "cameras.yaml", folder).save()
    known = [k for k, n in enumerate(COCO_WHOLEBODY) if n in body.keypoint_names]
    skin = body.keypoint_skin([COCO_WHOLEBODY[k] for k in known])
    shape = (1, 0, 1, len(COCO_WHOLEBODY))
    facts = (COCO_WHOLEBODY, "exact", FPS, 0, torch.zeros(*shape, 2), torch.zeros(shape), torch.zeros(shape), torch.zeros(*shape, 3))
    (folder / "keypoints2d").mkdir()
    for c, name in enumerate(cameras.names):
        with Keypoints2D((name,), *facts).writer(folder / "keypoints2d" / f"{name}.safetensors", frames) as file:
            for start in range(0, frames, BLOCK):
                moved = motion(start, min(start + BLOCK, frames))
                points = body.shaped(moved.shape).posed(moved.rotation, moved.translation, moved.expression).points(skin)
                file.put(start, seen(cameras[cameras.names[c]], known, points, start, random))
    motion(0, frames).save(folder / "truth.safetensors")


def seen(camera: Cameras, known: list[int], points: torch.Tensor, start: int, random: torch.Generator) -> Keypoints2D:
    """One camera's view of points (T, k, 3) that are the `known` ones of the whole set."""
    shape = (1, len(points), 1, len(COCO_WHOLEBODY))
    pixels, skeleton, confidence = torch.full((*shape, 2), torch.nan), torch.full((*shape, 3), torch.nan), torch.zeros(shape)
    pixels[0, :, 0, known] = camera.project(points.double())[0].float() + NOISE * torch.randn(*points.shape[:2], 2, generator=random)
    own = camera.to_camera(points.double())[0].float()
    skeleton[0, :, 0, known] = own - own.mean(1, keepdim=True) + 0.02 * torch.randn(own.shape, generator=random)
    confidence[0, :, 0, known] = 0.9
    return Keypoints2D(camera.names, COCO_WHOLEBODY, "exact", FPS, start, pixels, torch.full(shape, NOISE), confidence, skeleton)


def film(path: Path, frames: int) -> None:
    """Grey pictures."""
    from studio.video import VideoWriter

    with VideoWriter(path, WIDTH, HEIGHT, FPS) as video:
        for _ in range(frames):
            video.write(np.full((HEIGHT, WIDTH, 3), 110, np.uint8))


def watch(peak: list[float]) -> None:
    """Keep the largest anonymous memory (MB) seen: what the process itself holds, without files that the system may drop."""
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak[0] = max(peak[0], next(float(x.split()[1]) / 1024 for x in lines if x.startswith("RssAnon")))
        time.sleep(0.02)


def perform(stage: str, folder: Path, frames: int) -> None:
    """One stage in this process; its peak memory (MB, with and without mapped files) and seconds as the last line."""
    from studio.pipeline import STAGES, Config

    own = [0.0]
    threading.Thread(target=watch, args=(own,), daemon=True).start()

    torch.set_num_threads(1)
    begun = time.monotonic()
    if stage == "make":
        fabricate(folder, frames)
    elif stage == "borrow":
        (folder / "motion_actor.safetensors").hardlink_to(folder / "truth.safetensors")
    else:
        config = Config()
        take = Take.open(folder).checked()
        if stage == "detect":
            from studio.detect import DetectConfig

            STAGES[stage](take, DetectConfig(workers=1))
        else:
            STAGES[stage](take, getattr(config, stage))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
    print(json.dumps({"mb": round(peak, 1), "own_mb": round(own[0], 1), "s": round(time.monotonic() - begun, 1)}))


def measured(stage: str, folder: Path, frames: int) -> dict[str, float]:
    """The same in a process of its own."""
    call = [sys.executable, __file__, "--stage", stage, str(folder), "--frames", str(frames)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage} of {frames} frames failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def synthetic(frames: list[int], fit_frames: int) -> dict[str, dict[int, dict[str, float]]]:
    """Stage -> frames -> peak and seconds."""
    table: dict[str, dict[int, dict[str, float]]] = {}
    for count in frames:
        with tempfile.TemporaryDirectory() as name:
            for stage in ("make", "track", "fit" if count <= fit_frames else "borrow", "export", "report"):
                row = measured(stage, Path(name), count)
                if stage not in ("make", "borrow"):
                    table.setdefault(stage, {})[count] = row
                sizes = f"{row['mb']:.0f} MB, {row['own_mb']:.0f} without mapped files"
                print(f"  {count} frames, {stage}: {sizes}; {row['s']:.0f} s", flush=True)
    return table


def real(videos: Path, cameras: Path, frames: list[int]) -> dict[str, dict[int, dict[str, float]]]:
    """The detect stage on real videos."""
    table: dict[str, dict[int, dict[str, float]]] = {"detect": {}}
    for count in frames:
        with tempfile.TemporaryDirectory() as name:
            whole = Take.of([videos], cameras, Path(name))
            few = {camera: swung(file, Path(name) / f"{camera}.mp4", count) for camera, file in list(whole.videos.items())[:2]}
            Take.of(few, cameras, Path(name)).save()
            table["detect"][count] = measured("detect", Path(name), count)
    return table


def swung(video: Path, path: Path, count: int) -> Path:
    """A video's first frames, small, forth and back until there are `count`."""
    from studio.video import VideoWriter, frames, probe

    info = probe(video)
    size = (320, round(320 * info.height / info.width))
    clip = [image for _, image in frames(video, 0, min(60, info.frames), size=size)]
    with VideoWriter(path, *size, info.fps) as writer:
        for t in range(count):
            writer.write(clip[(t if (t // len(clip)) % 2 == 0 else -1 - t) % len(clip)])
    return path


def main() -> None:
    """Print the table; JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+")
    parser.add_argument("--fit-frames", type=int, default=3000)
    parser.add_argument("--detect", type=Path, nargs=2, metavar=("VIDEOS", "CAMERAS"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        perform(options.stage[0], Path(options.stage[1]), options.frames[0])
        return
    sizes = sorted(options.frames or ([100, 1000] if options.detect else [300, 1000, 3000]))
    table = real(*options.detect, sizes) if options.detect else synthetic(sizes, options.fit_frames)
    rows = {}
    for stage, runs in table.items():
        growth = [1024 * (runs[b]["mb"] - runs[a]["mb"]) / (b - a) for a, b in pairwise(runs)]
        hour = runs[max(runs)]["mb"] + (growth[-1] if growth else 0.0) * (HOUR - max(runs)) / 1024
        rows[stage] = {"peak": runs, "kb_a_frame": [round(g, 2) for g in growth], "hour_mb": round(hour)}
        peaks = ", ".join(f"{count}: {run['mb']:.0f} MB ({run['s']:.0f} s)" for count, run in runs.items())
        print(f"{stage:8s} {peaks}; grows {', '.join(f'{g:.1f}' for g in growth) or '-'} kB a frame; {HOUR:,} frames: {hour:.0f} MB")
    if options.out:
        before = json.loads(options.out.read_text())["stages"] if options.out.is_file() else {}
        options.out.write_text(json.dumps({"cameras": CAMERAS, "stages": {**before, **rows}}, indent=1) + "\n")


if __name__ == "__main__":
    main()

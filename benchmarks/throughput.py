"""Detection's speed beside MediaPipe's own Holistic: `python benchmarks/throughput.py VIDEO... [--workers 2] [--json FILE]`.

Videos of one folder are one take. Each detector sees body, hands and face of the same files on the same cores, one detector after the
other, `--rounds` times in turn, without masks; counted is the whole stage: starting processes, decoding, networks, writing. Printed are
frames a second and camera of wall time (the quickest round's: it means something on an idle machine only) and of CPU time (all
processes', the mean; this is what to compare on a busy one), and the ratios. Where a rendered capture's truth lies beside the folder,
3D errors, too. Then, for our detector, what comes after the networks: within one process's detection, and the stages behind it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hands import CONFIGS, measured, seen_hands

from rigs.keypoints import COCO_WHOLEBODY
from studio import pipeline
from studio.detect import detect
from studio.detect.mediapipe import DETECTORS
from studio.detect.runtimes import LiteRT
from studio.take import Take
from studio.values import Tracks3D
from studio.video import frames
from studio.virtual import Truth

LIMBS = slice(5, 17)


def cpu() -> float:
    """s, of this process and those it waited for."""
    return sum(u.ru_utime + u.ru_stime for u in (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def clocked(work: Any) -> tuple[float, float]:
    """Wall and CPU s."""
    wall, spent = time.perf_counter(), cpu()
    work()
    for child in multiprocessing.active_children():  # what a process has spent is known when it has been waited for
        child.join()
    return time.perf_counter() - wall, cpu() - spent


def takes_of(videos: Sequence[Path], cameras: Path | None, folder: Path) -> list[Take]:
    """A take for each folder of videos."""
    groups = groupby(sorted(v.resolve() for v in videos), key=lambda v: v.parent)
    return [
        Take(folder / f"{i}", {v.stem: v for v in files}, cameras or parent.parent / "cameras.yaml")
        for i, (parent, files) in enumerate(groups)
    ]


def raced(videos: Sequence[Path], cameras: Path | None, names: Sequence[str], workers: int, rounds: int, work: Path) -> dict[str, Any]:
    """Speed of every detector on the same files."""
    spent: dict[str, list[tuple[float, float]]] = {n: [] for n in names}
    first: dict[str, tuple[float, float]] = {}
    count = 0
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            takes = takes_of(videos, cameras, work / f"{name}{turn}")
            count = sum(last - first for t in takes for first, last in (t.stretch(c) for c in t.videos))
            config = replace(CONFIGS[name], workers=workers)
            times = [clocked(lambda: detect(t, config)) for t in takes]  # noqa: B023
            spent[name].append((sum(w for w, _ in times), sum(c for _, c in times)))
            first.setdefault(name, times[0])
    table: dict[str, Any] = {}
    for name, pairs in spent.items():
        wall, used = min(w for w, _ in pairs), sum(c for _, c in pairs) / len(pairs)
        table[name] = {"frames": count, "wall_s": wall, "fps_wall": count / wall, "cpu_s": used, "cpu_ms_a_frame": 1000 * used / count}
        table[name]["first_take"] = dict(zip(("wall_s", "cpu_s"), first[name], strict=True))
    return table


def accuracy(take: Take, name: str, folder: Path) -> dict[str, float]:
    """3D errors of limbs and hands, mm, triangulated alike; empty where no truth is known."""
    capture = next(iter(take.videos.values())).parent.parent
    if not (capture / "truth.safetensors").is_file():
        return {}
    hands = measured([seen_hands(capture, folder, CONFIGS[name])])
    truth, tracks = Truth.load(capture / "truth.safetensors"), Tracks3D.load(folder / "tracks3d.safetensors")
    limbs = [COCO_WHOLEBODY.index(n) for n in COCO_WHOLEBODY[LIMBS]]
    off = (tracks.points[:, 0, limbs] - truth.keypoints[: len(tracks.points), 0, limbs]).norm(dim=-1)
    return {
        "limbs_mm": 1000 * float(off.nanmean()),
        "limbs_found": float(torch.isfinite(off).float().mean()),
        "hands_mm": hands["error_mm"],
        "hands_found": hands["hands_triangulated"],
    }


class Counted(LiteRT):
    """Remembers what its networks cost."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.runs: Counter[str] = Counter()

    def run(self, name: str, crops: np.ndarray, low: float) -> list[np.ndarray]:
        """As LiteRT."""
        begun = time.process_time()
        answer = super().run(name, crops, low)
        self.seconds[name] += time.process_time() - begun
        self.runs[name] += len(crops)
        return answer


def inside(video: Path, first: int = 5, last: int = 65) -> dict[str, Any]:
    """CPU ms a look of one camera: each network, everything else of the detector, and decoding."""
    runtime = Counted()
    detector = DETECTORS["mediapipe"](runtime=runtime)
    images, decoding = [], time.process_time()
    for _, image in frames(video, 0, last):
        images.append(image)
    decoding = (time.process_time() - decoding) / len(images)
    for image in images[:first]:
        detector.see(image)
    runtime.seconds.clear()
    runtime.runs.clear()
    begun, count = time.process_time(), len(images) - first
    for image in images[first:]:
        detector.see(image)
    whole = (time.process_time() - begun) / count
    networks = {n: {"runs": runtime.runs[n] / count, "ms": 1000 * s / count} for n, s in runtime.seconds.items()}
    rest = whole - sum(runtime.seconds.values()) / count
    return {"networks": networks, "rest_ms": 1000 * rest, "decoding_ms": 1000 * decoding}


def stages(take: Take, detection: dict[str, float]) -> dict[str, Any]:
    """Wall and CPU s of the stages behind a detection, and their shares of all to 3D and of all to the fitted body."""
    config = pipeline.Config()
    times = {n: clocked(lambda: pipeline.step(take, n, getattr(config, n))) for n in ("sync", "track", "fit")}  # noqa: B023
    row: dict[str, Any] = {n: {"wall_s": w, "cpu_s": c} for n, (w, c) in times.items()}
    for i, kind in enumerate(("wall", "cpu")):
        to_3d, fitted = times["sync"][i] + times["track"][i], times["fit"][i]
        row[f"share_after_detection_to_3d_{kind}"] = to_3d / (detection[f"{kind}_s"] + to_3d)
        row[f"share_after_detection_to_body_{kind}"] = (to_3d + fitted) / (detection[f"{kind}_s"] + to_3d + fitted)
    return row


def main() -> None:
    """Print the tables, and JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--cameras", type=Path, help="the calibration; by default cameras.yaml beside the videos' folder")
    parser.add_argument("--detectors", nargs="+", choices=sorted(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        table = raced(options.videos, options.cameras, options.detectors, options.workers, options.rounds, work)
        for name in options.detectors:
            takes = takes_of(options.videos, options.cameras, work / f"{name}0")
            rows = [r for r in (accuracy(t, name, t.folder) for t in takes) if r]
            table[name] |= {k: sum(r[k] for r in rows) / len(rows) for k in (rows[0] if rows else ())}
            print(name, _rounded(table[name]), flush=True)
        ours, theirs = (table.get(n) for n in ("mediapipe", "holistic"))
        if ours and theirs:
            table["ratio"] = {"wall": theirs["wall_s"] / ours["wall_s"], "cpu": theirs["cpu_s"] / ours["cpu_s"]}
            print("times as fast as Holistic:", _rounded(table["ratio"]))
        table["inside"] = inside(options.videos[0])
        print("one camera, CPU ms a look:", _rounded(table["inside"]))
        take = takes_of(options.videos, options.cameras, work / "mediapipe0")[0]
        if ours and take.cameras_file.is_file():
            table["stages"] = stages(take, ours["first_take"])
            print("stages:", _rounded(table["stages"]))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

"""Our landmarks beside MediaPipe's own graph on the same frames: `python benchmarks/same_landmarks.py VIDEO... [--json FILE]`.

Body, head and feet: median distance, px, over the frames asked for, of what our network sees in the very region that the graph looked at
in that frame, and of what our detector sees in its own, which has followed the person by itself since the first frame; how far these
regions lie apart; and how much of it is the graph's smoothing over time, which is off unless named. Hands and face: our detector beside
Holistic, in frames where both are sure of them; left out where one never is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mediapipe.python.solution_base import SolutionBase

from studio.detect.mediapipe import Holistic, Mediapipe
from studio.detect.networks import Networks
from studio.detect.regions import Region
from studio.video import frames

GRAPH = "mediapipe/modules/pose_landmark/pose_landmark_cpu.binarypb"
PARTS = {"head": [0, 2, 5, 7, 8], "body": [11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28], "feet": [29, 30, 31, 32]}
FINE = {"face": slice(23, 91), "left hand": slice(92, 112), "right hand": slice(113, 133)}
SURE = 0.8


class Graph:
    """The wheel's own graph of one person's pose, which tells where it will look next."""

    def __init__(self, smooth: bool) -> None:
        settings = {"model_complexity": 1, "smooth_landmarks": smooth, "use_prev_landmarks": True}
        settings |= {"enable_segmentation": False, "smooth_segmentation": False}
        self._solution = SolutionBase(binary_graph_path=GRAPH, side_inputs=settings, outputs=["pose_landmarks", "pose_rect_from_landmarks"])
        self.region: Region | None = None
        """Where it looks in the frame that comes; None where it searches."""

    def see(self, image: np.ndarray) -> np.ndarray | None:
        """33 landmarks, px."""
        height, width = image.shape[:2]
        result: Any = self._solution.process({"image": image})
        if result.pose_landmarks is None:
            self.region = None
            return None
        r = result.pose_rect_from_landmarks
        self.region = Region(r.x_center * width - 0.5, r.y_center * height - 0.5, r.width * width, r.rotation)
        return np.array([(p.x * width, p.y * height) for p in result.pose_landmarks.landmark])


def bodies(video: Path, first: int, last: int) -> dict[str, list[Any]]:
    """Distances (33,) frame by frame, px; and how far the regions lie apart, as a share of their size."""
    plain, smooth, ours, networks = Graph(False), Graph(True), Mediapipe(), Networks()
    rows: dict[str, list[Any]] = {"the graph's region": [], "our region": [], "our region, graph smoothed": [], "regions apart": []}
    for number, image in frames(video, first, last):
        looked = plain.region
        theirs, smoothed = plain.see(image), smooth.see(image)
        ours.see(image)
        people = list(ours._persons.values())
        if theirs is None or smoothed is None or looked is None or len(people) != 1 or number < first + 3:
            continue
        body = people[0].body
        rows["the graph's region"].append(np.linalg.norm(networks.pose([image], looked).points - theirs, axis=1))
        rows["our region"].append(np.linalg.norm(body.points - theirs, axis=1))
        rows["our region, graph smoothed"].append(np.linalg.norm(body.points - smoothed, axis=1))
        rows["regions apart"].append(np.hypot(looked.x - body.region.x, looked.y - body.region.y) / looked.size)
    return rows


def fine_parts(video: Path, first: int, last: int) -> dict[str, list[float]]:
    """Median distance over a hand or face in every frame in which both are sure of it, px."""
    ours, theirs = Mediapipe(), Holistic()
    rows: dict[str, list[float]] = {n: [] for n in FINE}
    for _, image in frames(video, first, last):
        mine, other = ours.see(image).get(0), theirs.see(image).get(0)
        for name, part in FINE.items() if mine and other else ():
            if min(mine.confidence[part].min(), other.confidence[part].min()) >= SURE:  # type: ignore[union-attr]
                rows[name].append(float(np.median(np.linalg.norm(mine.pixels[part] - other.pixels[part], axis=1))))  # type: ignore[union-attr]
    return rows


def measured(videos: list[Path], first: int, last: int) -> dict[str, Any]:
    """Medians over all videos, px."""
    parts = [bodies(v, first, last) for v in videos]
    table: dict[str, Any] = {}
    for key in ("the graph's region", "our region", "our region, graph smoothed"):
        every = np.concatenate([np.array(p[key]) for p in parts])
        table[key] = {n: round(float(np.median(every[:, which])), 2) for n, which in PARTS.items()}
    table["regions apart, share of their size"] = round(float(np.median(np.concatenate([p["regions apart"] for p in parts]))), 4)
    table["frames"] = sum(len(p["our region"]) for p in parts)
    fine = [fine_parts(v, first, last) for v in videos]
    for name in FINE:
        every = np.concatenate([p[name] for p in fine])
        table[name] = {"median": round(float(np.median(every)), 2) if len(every) else None, "frames": len(every)}
    return table


def main() -> None:
    """Print the table, and JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, nargs=2, default=(30, 60))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = measured(options.videos, *options.frames)
    for key, value in table.items():
        print(f"{key}: {value}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

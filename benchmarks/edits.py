"""Solving again after an edit: `python benchmarks/edits.py FOLDER [--seeds 1 2 3] [--json]`.

Runs on the virtual captures that `benchmarks/virtual_accuracy.py FOLDER` left (4 cameras, real detector, 30 frames/s). Three edits a take,
each so placed that about 2 s of motion are solved again: a camera dropped, a wrist ignored, and an ankle set by hand where it truly is.
Printed: wall and processor time of the fit stage after the edit, how many frames were solved again, how far joints at most lie from a fit
of the whole take with the same edit and shape, m, and the mean error of limbs before and after. All synthetic.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import studio.fit as stage
from rigs.catalogue import open_body
from studio.clock import footage
from studio.edits import Edits
from studio.evaluate import evaluate, posed_of
from studio.fit import FitConfig, StoredTake, bound, fit_actor
from studio.take import Take
from studio.values import Motion, Tracks3D
from studio.virtual import Truth


def kinds(take: Take, truth: Truth) -> dict[str, str]:
    """The edits, by what they do."""
    cameras, frame = take.cameras(), 45
    ankle = truth.keypoints[frame, 0, truth.keypoint_names.index("left_ankle")]
    x, y = cameras[cameras.names[1]].project(ankle.double()[None])[0, 0].tolist()
    name = cameras.names[1]
    return {
        "camera dropped": f"- {{drop: {name}, frames: [31, 59]}}\n",
        "wrist ignored": "- {ignore: left_wrist, frames: [31, 59]}\n",
        "ankle set": f"- {{point: left_ankle, camera: {name}, frame: {frame}, at: [{x:.1f}, {y:.1f}]}}\n",
    }


def whole(take: Take, shape: torch.Tensor, config: FitConfig) -> Motion:
    """Every frame fitted with the take's edits and a known shape."""
    cameras, tracks = take.cameras(), Tracks3D.load(take.tracks_file, slice(0, 1))
    edits = Edits.load(take.folder, cameras.names, tracks.keypoints, tracks.actors).of(tracks.actors[0])
    frames, body = Tracks3D.count(take.tracks_file), open_body(take.body)
    source = StoredTake(cameras, footage(take, cameras.names), take.tracks_file, 0, frames, edits, tracks.first_frame, take)
    return bound(body, fit_actor(body, source, config, shape), tracks.actors[0], tracks, take.timecode)


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """One take, all edits."""
    take = Take.of([folder / "videos"], folder / "cameras.yaml", folder / "take").checked()
    config, found = FitConfig(device="cpu"), {}
    notes = take.folder / "edits.yaml"
    for name, text in kinds(take, Truth.load(folder / "truth.safetensors")).items():
        notes.unlink(missing_ok=True)
        file = stage.fit(take, config)
        before = Motion.load(file)
        error = evaluate(take, folder / "truth.safetensors")["limb keypoints, fitted"]["error_mm"]
        notes.write_text(text)
        begun, cpu = time.perf_counter(), time.process_time()
        stage.fit(take, config)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        after = Motion.load(file)
        moved = (after.rotation != before.rotation).flatten(1).any(1)
        apart = (posed_of(after).joints - posed_of(whole(take, before.shape, config)).joints)[moved].norm(dim=-1)
        edited = evaluate(take, folder / "truth.safetensors")["limb keypoints, fitted"]["error_mm"]
        found[name] = {
            "wall_s": wall, "cpu_s": cpu, "frames": int(moved.sum()), "apart_mm": 1000 * float(apart.mean()),
            "most_apart_mm": 1000 * float(apart.max()), "error_before_mm": error, "error_mm": edited,
        }  # fmt: skip
    notes.unlink(missing_ok=True)
    stage.fit(take, config)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", action="store_true", help="write benchmarks/edits.json")
    arguments = parser.parse_args()
    stage.console.quiet = True
    found = {str(seed): measured(arguments.folder / f"test{seed}") for seed in arguments.seeds}
    print(f"{'seed':5}{'edit':16}{'frames':>7}{'wall':>9}{'cpu':>9}{'apart':>9}{'at most':>10}{'limbs before':>14}{'after':>9}")
    for seed, rows in found.items():
        for name, r in rows.items():
            print(
                f"{seed:5}{name:16}{r['frames']:7.0f}{r['wall_s']:7.2f} s{r['cpu_s']:7.2f} s{r['apart_mm']:6.2f} mm"
                f"{r['most_apart_mm']:7.1f} mm{r['error_before_mm']:11.2f} mm{r['error_mm']:6.2f} mm"
            )
    if arguments.json:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

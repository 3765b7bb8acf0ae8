"""What an actor's profile is worth: `python benchmarks/actor_profile.py FOLDER [--seeds 1 2 3] [--json]`.

For each seed eleven seconds of an unseen person are rendered (4 cameras, kept in FOLDER), one action after the other. Seconds 4 to 11 teach
the profile; the first three (as `test1` ... of `benchmarks/virtual_accuracy.py FOLDER`) are fitted with and without it: whole, and cut down
to one second and two cameras. Real detector. Printed: mean error of joints and limbs, mm, and seconds of the fit.
All synthetic.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import studio.fit as stage
from studio import pipeline
from studio.evaluate import evaluate
from studio.fit import FitConfig, learn_profile
from studio.take import Take
from studio.virtual import VirtualCapture, render_capture

GOOD = (90, 330)
"""Frames of the take that teaches."""
POOR = 30
"""Frames of the poor take."""


def detected(videos: list[Path], cameras: Path, folder: Path, frames: tuple[int, int] | None = None) -> Take:
    """A take, tracked."""
    take = Take.of(videos, cameras, folder, frames=frames).checked()
    take.save()
    for name in ("detect", "sync", "track"):
        pipeline.step(take, name, getattr(pipeline.Config(), name))
    return take


def fitted(take: Take, truth: Path) -> dict[str, float]:
    """Errors of a fit from the start, and its time."""
    take.motion_file(take.actors[0]).unlink(missing_ok=True)
    begun = time.process_time()
    stage.fit(take, FitConfig(device="cpu", workers=1))
    spent, found = time.process_time() - begun, evaluate(take, truth)
    limbs, body = (found[k]["error_mm"] for k in ("limb keypoints, fitted", "body joints, fitted"))
    return {"limbs_mm": limbs, "body_mm": body, "cpu_s": spent}


def measured(folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """One person."""
    known = render_capture(folder / f"test{seed}", VirtualCapture(frames=90, seed=seed))
    good = render_capture(folder / f"long{seed}", VirtualCapture(frames=GOOD[1], seed=seed))
    teacher = detected([good / "videos"], good / "cameras.yaml", good / "take", GOOD)
    profile = learn_profile(teacher, teacher.actors[0], FitConfig(device="cpu"))
    text = profile.read_text()
    profile.unlink()
    whole = detected([known / "videos"], known / "cameras.yaml", known / "session" / "takes" / "whole")
    two = sorted((known / "videos").iterdir())[:2]
    poor = detected(two, known / "cameras.yaml", known / "session" / "takes" / "poor", (0, POOR))
    found = {}
    for name, take in (("whole", whole), ("poor", poor)):
        file = stage.profile_file(take, take.actors[0])
        file.unlink(missing_ok=True)
        found[name] = fitted(take, known / "truth.safetensors")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        found[f"{name}, profile"] = fitted(take, known / "truth.safetensors")
        file.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", action="store_true", help="write benchmarks/actor_profile.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {str(seed): measured(arguments.folder, seed) for seed in arguments.seeds}
    print(f"{'seed':6}{'take':18}{'limbs':>9}{'joints':>9}{'fit':>9}")
    for seed, rows in found.items():
        for name, r in rows.items():
            print(f"{seed:6}{name:18}{r['limbs_mm']:6.1f} mm{r['body_mm']:6.1f} mm{r['cpu_s']:7.2f} s")
    for name in next(iter(found.values())):
        mean = {k: sum(rows[name][k] for rows in found.values()) / len(found) for k in ("limbs_mm", "body_mm", "cpu_s")}
        print(f"{'mean':6}{name:18}{mean['limbs_mm']:6.1f} mm{mean['body_mm']:6.1f} mm{mean['cpu_s']:7.2f} s")
    if arguments.json:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Accuracy against exact truth on virtual captures: `python benchmarks/virtual_accuracy.py FOLDER [--seeds 1 2 3] [--json FILE]`.

For each seed an unseen person and motion is rendered (4 cameras, 1280x720, kept in FOLDER) and the whole job runs on the videos with the
real detector. `--every-frame` looks at all frames, also where somebody moves evenly. `--exact` replaces the detector by the true keypoints
with 2 px noise, 5 % outliers and 20 % missing. All synthetic.
The people are exact individuals outside the fitted shape space; the seeds of the landmark table (201 and up) must not be used here.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from rigs.keypoints import COCO_WHOLEBODY
from studio import pipeline
from studio.detect import DetectConfig
from studio.evaluate import evaluate, foretold
from studio.take import Take
from studio.values import Keypoints2D, Motion
from studio.virtual import Truth, VirtualCapture, render_capture

STAGES = ("track", "fit")


def exact_keypoints(take: Take, truth: Truth, seed: int) -> None:
    """Write the true keypoints, disturbed, as if a network had seen them."""
    g = torch.Generator().manual_seed(seed)
    cameras = take.cameras()
    pixels = cameras.project(truth.keypoints[:, 0].double())
    rand = lambda *n: torch.randn(*n, generator=g, dtype=torch.float64)  # noqa: E731
    wild = torch.rand(pixels.shape[:-1], generator=g) < 0.05
    pixels = pixels + 2 * rand(*pixels.shape) + 60 * wild[..., None] * rand(*pixels.shape)
    pixels[torch.rand(pixels.shape[:-1], generator=g) < 0.2] = torch.nan
    for c, name in enumerate(cameras.names):
        seen = pixels[c : c + 1, :, None].float()
        flat = torch.ones(seen.shape[:-1])
        value = Keypoints2D((name,), COCO_WHOLEBODY, "exact", truth.fps, 0, seen, 2 * flat, flat)
        value.save(take.keypoints_folder / f"{name}.safetensors")


def measured(folder: Path, seed: int, frames: int, exact: bool, every: bool) -> dict[str, dict[str, float]]:
    """One seed: rendered where it is not, run, evaluated."""
    capture = render_capture(folder / f"test{seed}", VirtualCapture(frames=frames, seed=seed))
    place = capture / ("exact" if exact else "every" if every else "take")
    take = Take.of([capture / "videos"], capture / "cameras.yaml", place).checked()
    take.save()
    config = pipeline.Config(detect=DetectConfig(sparing=not every))
    if exact:
        exact_keypoints(take, Truth.load(capture / "truth.safetensors"), seed)
    else:
        pipeline.step(take, "detect", config.detect)
    begun = time.monotonic()
    for stage in STAGES:
        pipeline.step(take, stage, getattr(config, stage))
    rows = evaluate(take, capture / "truth.safetensors")
    motion = Motion.load(take.motion_file(take.actors[0]))
    rows["foretold"] = {"squared error over sigma squared": foretold(motion, Truth.load(capture / "truth.safetensors"))}
    rows["seconds"] = {"track and fit": time.monotonic() - begun}
    return rows


def main() -> None:
    """Print one table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--every-frame", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {seed: measured(options.folder, seed, options.frames, options.exact, options.every_frame) for seed in options.seeds}
    quantities = [q for q in next(iter(results.values())) if q not in ("foretold", "seconds") and all(q in r for r in results.values())]
    print(f"{'quantity':36s} " + " ".join(f"{'seed ' + str(s):>16s}" for s in results) + f" {'mean':>16s}")
    for quantity in quantities:
        cells = [(r[quantity]["error_mm"], r[quantity]["acceleration"]) for r in results.values()]
        mean = tuple(sum(c[i] for c in cells) / len(cells) for i in (0, 1))
        print(f"{quantity:36s} " + " ".join(f"{e:6.1f} mm {a:6.2f}" for e, a in [*cells, mean]))
    ratios = [r["foretold"]["squared error over sigma squared"] for r in results.values()]
    print(f"squared error of the joints over what sigma foretells: {sum(ratios) / len(ratios):.2f}")
    print("mean distance to the truth, mm, and acceleration error, m/s^2; synthetic people")
    if options.json:
        known = {s: {q: {k: v for k, v in row.items() if v == v} for q, row in rows.items()} for s, rows in results.items()}
        options.json.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()

"""What each term of the solver is worth: `python benchmarks/ablation.py FOLDER [--seeds 1 2 3] [--terms WORD...] [--json FILE]`.

FOLDER holds what `benchmarks/virtual_accuracy.py FOLDER` rendered and detected. Every line is the fit with one setting changed: errors
against the exact truth beside those of the default settings, in the same run. All synthetic.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from studio.evaluate import evaluate, posed_of
from studio.fit import FitConfig, fit
from studio.take import Take
from studio.values import Motion
from studio.virtual import Truth

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no contacts": {"contact": 0.0},
    "no robust kernel": {"kernel": 1e3},
    "hardly smooth": {"root_acceleration": 400.0, "joint_acceleration": 1200.0, "expression_acceleration": 4000.0},
    "twice as smooth": {"root_acceleration": 0.75, "joint_acceleration": 3.0, "expression_acceleration": 20.0},
    "one shape frame": {"key_frames": 1},
    "silhouettes 20 mm": {"silhouette": 0.02},
    "no silhouettes": {"silhouette": 0.0},
    "silhouettes 150 mm": {"silhouette": 0.15},
    "solid limbs 10 mm": {"solid": 0.01},
    "floor 10 mm": {"floor": 0.01},
    "one liveliness for all": {"bursts": 0.0},
    "no learned poses": {"poses": 0.0},
    "no shares": {"shares": 0.0},
    "no hand synergies": {"synergies": 0.0},
}
ROWS = ("body joints, fitted", "limb keypoints, fitted", "hand joints, fitted")


def skate(motion: Motion, truth: Truth) -> float:
    """Mean speed of planted feet's joints where the truth says planted, mm a frame."""
    joints = posed_of(motion).joints
    moved = []
    for side, columns in (("Left", (0, 1)), ("Right", (2, 3))):
        on = truth.contacts[: len(joints), 0, columns].bool().all(-1)
        both = on[1:] & on[:-1]
        foot = joints[:, motion.joints.index(f"{side}Foot")]
        moved.append((foot[1:] - foot[:-1]).norm(dim=-1)[both])
    flat = torch.cat(moved)
    return 1000 * float(flat.mean()) if len(flat) else float("nan")


def measured(folder: Path, seed: int, changes: dict[str, Any]) -> dict[str, float]:
    """One variant on one capture."""
    capture = folder / f"test{seed}"
    with tempfile.TemporaryDirectory() as place:
        for name in ("take.yaml", "tracks3d.safetensors", "keypoints2d", "masks"):
            source = capture / "take" / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, Path(place) / name)
        take = Take.open(Path(place))
        fit(take, replace(FitConfig(), **changes))
        rows = evaluate(take, capture / "truth.safetensors")
        out = {row: rows[row]["error_mm"] for row in ROWS}
        out["acceleration"] = rows[ROWS[1]]["acceleration"]
        out["skate"] = skate(Motion.load(take.motion_file(take.actors[0])), Truth.load(capture / "truth.safetensors"))
    return out


def main() -> None:
    """Print one table, or write JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--terms", nargs="+", default=[], help="only variants whose name holds one of these words")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = {n: v for n, v in VARIANTS.items() if n == "default" or not options.terms or any(t in n for t in options.terms)}
    results = {name: [measured(options.folder, seed, changes) for seed in options.seeds] for name, changes in chosen.items()}
    table = Table(
        "mean over seeds", *(f"{r.removesuffix(', fitted')} mm" for r in ROWS), "acceleration error m/s²", "planted feet mm/frame"
    )
    for name, rows in results.items():
        table.add_row(name, *(f"{sum(r[q] for r in rows) / len(rows):.2f}" for q in rows[0]))
    Console(width=150).print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

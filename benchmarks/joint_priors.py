"""What the solver's priors on joints are worth: `python benchmarks/joint_priors.py [--only WORD...] [--seeds 1 2 3] [--json FILE]`.

People outside the shape space perform scripts that the pose prior was not learned from (it is learned again here without them), before four
cameras with exact 2D keypoints plus 3 px noise, 5 % outliers, 20 % missing. For a second evidence is taken away; fingers are hidden
throughout. Every line is one setting of the fit on the same evidence. All synthetic; nothing is rendered.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from calibration.cameras import Cameras, upright_view
from calibration.triangulate import triangulate
from rigs import makehuman
from rigs.keypoints import COCO_WHOLEBODY
from rigs.rotation import log
from studio.fit.config import FitConfig
from studio.fit.observed import Observed
from studio.fit.person import Fitted, fit_actor
from studio.train.pose_prior import learn
from studio.virtual.anatomy import Performance
from studio.virtual.motion import scripted

FOLDS = (("wave", "raise_arms"), ("reach", "hands", "look_around"), ("squat", "lunge", "kick"), ("bow", "twist", "walk"))
"""Scripts alike, held out together."""
FRAMES, FPS, GAP = 60, 30.0, slice(15, 45)
OFF: dict[str, Any] = {"poses": 0.0, "synergies": 0.0, "bursts": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "none": OFF,
    "poses": OFF | {"poses": 0.2},
    "synergies": OFF | {"synergies": 0.12},
    "bursts": OFF | {"bursts": 150.0},
    "default": {},
}


def ring(count: int = 4) -> Cameras:
    """Cameras 3.5 m around the origin, 1280x720."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    position = torch.stack([3.5 * angle.cos(), 3.5 * angle.sin(), torch.full_like(angle, 1.6)], 1)
    R = upright_view(torch.tensor([0, 0, 1.0], dtype=torch.float64) - position)
    same = lambda *v: torch.tensor(v, dtype=torch.float64).expand(count, -1).clone()  # noqa: E731
    names, lens = tuple(f"c{i}" for i in range(count)), ("brown",) * count
    return Cameras(names, same(1280, 720), same(900, 900), same(639.5, 359.5), same(*[0] * 8), lens, R, position)


@dataclass(frozen=True)
class Trial:
    """A performance, what is seen of it, and where errors count."""

    truth: Performance
    observed: Observed
    joints: tuple[str, ...]
    frames: slice


def seen(truth: Performance, seed: int, cameras: Cameras) -> torch.Tensor:
    """Pixels (C, T, K, 2) of the keypoints, disturbed."""
    shaped = truth.body.shaped(torch.zeros(len(truth.body.shape_names)))
    points = shaped.posed(truth.rotation, truth.translation, truth.expression).points(truth.body.keypoint_skin(COCO_WHOLEBODY))
    g = torch.Generator().manual_seed(900 + seed)
    pixels = cameras.project(points.double())
    rand = lambda *n: torch.randn(*n, generator=g, dtype=torch.float64)  # noqa: E731
    wild = torch.rand(pixels.shape[:-1], generator=g) < 0.05
    pixels = pixels + 3 * rand(*pixels.shape) + 60 * wild[..., None] * rand(*pixels.shape)
    pixels[torch.rand(pixels.shape[:-1], generator=g) < 0.2] = math.nan
    return pixels


def of(*words: str) -> list[int]:
    """Keypoints whose name holds one of the words."""
    return [k for k, n in enumerate(COCO_WHOLEBODY) if any(w in n for w in words)]


ARM = tuple(f"Left{n}" for n in ("ForeArm", "Hand", "HandMiddle1"))
LEG = tuple(f"Left{n}" for n in ("Leg", "Foot", "ToeBase"))
BODY = (*ARM, *(n.replace("Left", "Right") for n in ARM), *LEG, *(n.replace("Left", "Right") for n in LEG), "Neck", "Head")
HIDDEN = tuple(f"{s}Hand{f}{i}" for s in ("Left", "Right") for f in ("Middle", "Ring", "Pinky") for i in (2, 3))
FINGERS = tuple(f"{s}Hand{f}{i}" for s in ("Left", "Right") for f in ("Thumb", "Index", "Middle", "Ring", "Pinky") for i in (2, 3))
LEFT_ARM = [
    k for k in of("left_elbow", "left_wrist", "left_hand", "left-hand", "left_thumb", "left_fore", "left_middle", "left_ring", "left_pinky")
]


def trials(truth: Performance, seed: int) -> dict[str, Trial]:
    """One performance under every kind of missing evidence."""
    cameras = ring()
    whole = seen(truth, seed, cameras)
    everywhere = slice(0, len(truth))

    def trial(pixels: torch.Tensor, joints: tuple[str, ...], frames: slice) -> Trial:
        sigma = torch.full(pixels.shape[:-1], 3.0, dtype=torch.float64)
        points = triangulate(cameras, pixels, sigma).points.float()
        return Trial(truth, Observed(cameras, COCO_WHOLEBODY, "exact", FPS, pixels, sigma, points), joints, frames)

    def without(cams: slice, frames: slice, keypoints: list[int]) -> torch.Tensor:
        pixels = whole.clone()
        block = pixels[cams, frames]
        block[:, :, keypoints] = math.nan
        return pixels

    every = list(range(len(COCO_WHOLEBODY)))
    return {
        "all seen, body": trial(whole, BODY, everywhere),
        "all seen, fingers": trial(whole, FINGERS, everywhere),
        "arm unseen": trial(without(slice(None), GAP, LEFT_ARM), ARM, GAP),
        "leg unseen": trial(without(slice(None), GAP, of("left_knee", "left_ankle", "left_heel", "left_big", "left_small")), LEG, GAP),
        "two views": trial(without(slice(2, 4), GAP, every), BODY, GAP),
        "one view": trial(without(slice(1, 4), GAP, every), BODY, GAP),
        "three fingers hidden": trial(without(slice(None), everywhere, of("middle", "ring", "pinky")), HIDDEN, everywhere),
    }


def error(found: Fitted, trial: Trial) -> float:
    """Mean distance of the joints that count from the truth, mm."""
    names = trial.truth.body.skeleton.names
    which = [names.index(n) for n in trial.joints]
    exact = trial.truth.body.shaped(torch.zeros(0)).posed(trial.truth.rotation, trial.truth.translation).joints
    fitted = makehuman.load().shaped(found.shape).posed(log(found.state.R), found.state.root).joints
    return 1000 * float((fitted - exact)[trial.frames][:, which].norm(dim=-1).mean())


def measured(
    seed: int, fold: tuple[str, ...], folder: Path, variants: dict[str, dict[str, Any]], only: list[str]
) -> dict[str, dict[str, float]]:
    """One performance of one held-out script under every kind of evidence and every setting."""
    file = folder / f"{'_'.join(fold)}.safetensors"
    if not file.exists():
        learn(fold, range(8), file)
    truth = scripted(makehuman.individual(seed), FRAMES, FPS, seed, fold[seed % len(fold)])
    every = trials(truth, seed)
    shape = fit_actor(makehuman.load(), every["all seen, body"].observed, FitConfig(**OFF)).shape
    out: dict[str, dict[str, float]] = {}
    for what, trial in every.items():
        if only and not any(word in what for word in only):
            continue
        for name, changes in variants.items():
            config = FitConfig(**changes, pose_file=str(file), workers=1)
            out.setdefault(what, {})[name] = error(fit_actor(makehuman.load(), trial.observed, config, shape), trial)
    return out


def main() -> None:
    """Print one table, or write JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(len(FOLDS))))
    parser.add_argument("--only", nargs="+", default=[], help="only kinds of evidence whose name holds one of these words")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    variants = {n: VARIANTS[n] for n in options.variants}
    with tempfile.TemporaryDirectory() as folder:
        runs = [measured(seed, FOLDS[f], Path(folder), variants, options.only) for f in options.folds for seed in options.seeds]
    table = Table("mean error, mm", *variants)
    for what in runs[0]:
        table.add_row(what, *(f"{sum(r[what][v] for r in runs) / len(runs):.1f}" for v in variants))
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()

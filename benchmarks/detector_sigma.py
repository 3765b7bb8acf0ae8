"""Whether a detector's sigma says how wrong it is, on virtual captures with exact truth; and the table it is looked up in, learned.

    python benchmarks/detector_sigma.py FOLDER...                       judge the detections in FOLDER/take
    python benchmarks/detector_sigma.py FOLDER... --learn FOLDER... [--parts hand]
                                                                        learn studio/detect/sigmas.yaml on the second, then judge the first

FOLDERs are what `studio virtual` rendered, one person each, detected (`studio detect FOLDER/take`). Error is the distance of each image
coordinate from the true point of the body that the keypoint names. Printed for each part: the squared error over sigma squared, which
is 1 where sigma tells the truth, as the mean with outliers counted as 3 sigma and as the median over a normal distribution's; and the
share beyond 3 sigma (0.003 of a normal distribution).
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.optimize import isotonic_regression

from rigs.keypoints import COCO_WHOLEBODY
from studio.detect.landmarks import PART_OF, kind_of, logit, sigma_table
from studio.freshness import write_text
from studio.take import Take
from studio.values import Keypoints2D
from studio.virtual import Truth

Array = np.ndarray
TABLE = Path(__file__).parents[1] / "studio" / "detect" / "sigmas.yaml"
PARTS = ("body", "feet", "hand", "face")
CLIPPED, MEDIAN = 0.9950, 0.4549
"""Of a normal distribution: mean of min(z^2, 9), median of z^2."""


@dataclass(frozen=True)
class Errors:
    """Every keypoint that was seen."""

    keypoint: Array
    error: Array
    """(N, 2) px."""
    sigma: Array
    confidence: Array
    hidden: Array
    """In truth, behind the body itself."""

    def __getitem__(self, which: Array) -> Errors:
        return Errors(*(getattr(self, f)[which] for f in Errors.__annotations__))


def errors_of(folder: Path) -> Errors:
    """Of all cameras and frames of a capture."""
    take = Take.of([folder / "videos"], folder / "cameras.yaml", folder / "take").checked()
    seen, truth, cameras = (
        Keypoints2D.read(take.keypoints_folder, sorted(take.videos)),
        Truth.load(folder / "truth.safetensors"),
        take.cameras(),
    )
    exact = cameras.project(truth.keypoints[: seen.frames, 0].double())
    error = seen.pixels[:, :, 0].double() - exact
    ok = torch.isfinite(error).all(-1) & (seen.confidence[:, :, 0] > 0)
    keypoint = torch.arange(len(COCO_WHOLEBODY)).expand(ok.shape)
    hidden = ~truth.visible[:, : seen.frames, 0]
    return Errors(*(v[ok].numpy() for v in (keypoint, error, seen.sigma[:, :, 0], seen.confidence[:, :, 0], hidden)))


def joined(parts: list[Errors]) -> Errors:
    """All of them."""
    return Errors(*(np.concatenate([getattr(p, f) for p in parts]) for f in Errors.__annotations__))


def squared(errors: Errors) -> Array:
    """Per coordinate, over sigma squared."""
    return ((errors.error / errors.sigma[:, None]) ** 2).ravel()


def told(errors: Errors) -> str:
    """One row's numbers."""
    z = squared(errors)
    return f"{len(errors.sigma):7,} {np.minimum(z, 9).mean() / CLIPPED:5.2f} {np.median(z) / MEDIAN:5.2f} {(z > 9).mean():6.3f}"


def report(errors: Errors, title: str) -> None:
    part = np.array(PART_OF)[errors.keypoint]
    print(f"{title:28} {'count':>7} {'mean':>5} {'median':>5} {'beyond':>6}")
    for name in PARTS:
        mine = part == name
        if not mine.any():
            continue
        print(f"{name:28} {told(errors[mine])}")
        print(f"{'  hidden in truth':28} {told(errors[mine & errors.hidden])}")
        for low, high in ((0, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1.01)):
            if (some := mine & (errors.confidence >= low) & (errors.confidence < high)).sum() >= 100:
                print(f"{f'  confidence from {low}':28} {told(errors[some])}")


def robust_scale(z: Array) -> float:
    """What sigma must be multiplied by: outliers count as 3 sigma."""
    scale = 1.0
    for _ in range(30):
        scale *= float(np.sqrt(np.minimum(z / scale**2, 9).mean() / CLIPPED))
    return scale


def learn(errors: Errors, learned: list[str], rounds: int = 8) -> dict[str, Any]:
    """A new table: millimetres for each kind of keypoint, and for each part the factor at each knot of certainty, 1 at its surest.

    Of the parts `learned`; the others stay as they are.
    """
    kinds, parts, certainty = _told(errors)
    coarse, old = kinds == "coarse_hand", sigma_table()
    new, current = copy.deepcopy(old), errors
    for _ in range(rounds):
        for part in learned:
            mine, values = (parts == part) & ~coarse, new["factors"][part]
            new["factors"][part] = _factors(current[mine], certainty[mine], values)
        current = replace(errors, sigma=errors.sigma * _ratio(new, old, kinds, parts, certainty))
        for kind in sorted(set(kinds[np.isin(parts, learned)])):
            new["millimetres"][kind] *= robust_scale(squared(current[kinds == kind]))
        current = replace(errors, sigma=errors.sigma * _ratio(new, old, kinds, parts, certainty))
    return new


def _told(errors: Errors) -> tuple[Array, Array, Array]:
    """Kind, part and certainty (logit) under which each sigma was looked up; coarse hands are the body's, at half its confidence."""
    parts = np.array(PART_OF)[errors.keypoint]
    coarse = (parts == "hand") & (errors.confidence <= 0.5)
    kinds = np.where(coarse, "coarse_hand", np.array([kind_of(k) for k in range(len(COCO_WHOLEBODY))])[errors.keypoint])
    return kinds, np.where(coarse, "body", parts), logit(np.where(coarse, 2 * errors.confidence, errors.confidence))


def _factors(errors: Errors, certainty: Array, values: list[float]) -> list[float]:
    """Corrected at every knot where enough was seen; never rising with certainty; elsewhere the neighbours' value."""
    knots = np.array(sigma_table()["knots"], float)
    nearest = np.abs(certainty[:, None] - knots).argmin(1)
    counts = np.bincount(nearest, minlength=len(knots))
    seen = counts >= 60
    wanted = [np.log(values[i] * robust_scale(squared(errors[nearest == i]))) for i in np.flatnonzero(seen)]
    smooth = isotonic_regression(wanted, weights=counts[seen], increasing=False).x
    found = np.exp(np.interp(knots, knots[seen], smooth))
    return list(found / found[-1])


def _ratio(new: dict[str, Any], old: dict[str, Any], kinds: Array, parts: Array, certainty: Array) -> Array:
    """New sigma over the old one; the crop's grid, a small share, is taken to scale along."""
    ratio = np.array([new["millimetres"][k] / old["millimetres"][k] for k in kinds])
    for part in new["factors"]:
        x = certainty[parts == part]
        ratio[parts == part] *= np.interp(x, new["knots"], new["factors"][part]) / np.interp(x, old["knots"], old["factors"][part])
    return ratio


def write(table: dict[str, Any], captures: int, parts: list[str]) -> None:
    """The table, rounded, under its explanations."""
    text = "".join(line for line in TABLE.read_text().splitlines(keepends=True) if line.startswith("#") and "Learned by" not in line)
    text += f"# Learned by benchmarks/detector_sigma.py from {captures} virtual captures: {', '.join(parts)}.\n"
    plain = {
        **table,
        "millimetres": {k: round(float(v), 1) for k, v in table["millimetres"].items()},
        "factors": {part: [round(float(v), 2) for v in values] for part, values in table["factors"].items()},
    }
    write_text(TABLE, text + yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=140))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument(
        "--parts", nargs="+", choices=("body", "feet", "hand", "face"), default=["body", "feet", "hand", "face"], help="to learn"
    )
    parser.add_argument("--learn", type=Path, nargs="+", default=[], help="captures whose detections were made with the present table")
    options = parser.parse_args()
    errors = joined([errors_of(folder) for folder in options.captures])
    report(errors, "as detected")
    if options.learn:
        known = joined([errors_of(folder) for folder in options.learn])
        old, new = copy.deepcopy(sigma_table()), learn(known, options.parts)
        write(new, len(options.learn), options.parts)
        report(restated(known, old, new), "learned on")
        report(restated(errors, old, new), "with the new table")


def restated(errors: Errors, old: dict[str, Any], new: dict[str, Any]) -> Errors:
    """The same detections as the new table would judge them."""
    return replace(errors, sigma=errors.sigma * _ratio(new, old, *_told(errors)))


if __name__ == "__main__":
    main()

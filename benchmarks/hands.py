"""Hands seen beside MediaPipe's own Holistic: `python benchmarks/hands.py CAPTURE... [--detectors mediapipe holistic] [--json FILE]`.

For every CAPTURE that `studio virtual` rendered, each detector sees the same videos, and what it saw is tracked and triangulated alike.
A view truly sees a hand when at least 11 of its 21 points are on the image and hidden by nothing, by the exact truth; a hand is asked for
in frames in which at least two views do. Printed are: how far the hands are from the cameras, and how large in px (wrist to tip of the
middle finger); in how many of the views that see it the hand's own network found it, nearer than half its length; in how many frames its
fingers were triangulated (8 of the 8 of middle and ring finger and all of the rest but 4); and how far those are from the truth. Synthetic.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rigs.keypoints import COCO_WHOLEBODY
from studio.detect import DetectConfig, detect
from studio.take import Take
from studio.track import track
from studio.values import Keypoints2D, Tracks3D
from studio.virtual import Truth

SIDES = ("left", "right")
POINTS = {s: [COCO_WHOLEBODY.index(f"{s}_hand_root") + i for i in range(21)] for s in SIDES}
OWN = [9, 10, 11, 12, 13, 14, 15, 16]
"""Of the 21, middle and ring finger: only a hand's own network tells of them."""
CONFIGS = {
    "mediapipe": DetectConfig(masks=False, guided=False),
    "every frame": DetectConfig(masks=False, guided=False, sparing=False),
    "guided": DetectConfig(masks=False, guided=True),
    "holistic": DetectConfig(detector="holistic", masks=False),
}


def take_of(capture: Path, folder: Path) -> Take:
    """A take of the capture's videos, in `folder`."""
    return Take.of([capture / "videos"], capture / "cameras.yaml", folder).checked()


def seen_hands(capture: Path, folder: Path, config: DetectConfig) -> dict[str, Tensor]:
    """Per side, frame and view: what was truly seen and what was found; the key says what."""
    take, truth = take_of(capture, folder), Truth.load(capture / "truth.safetensors")
    detect(take, config)
    track(take)
    keypoints, tracks = Keypoints2D.read(take.keypoints_folder, take.cameras().names), Tracks3D.load(take.tracks_file)
    return {k: torch.stack(v) for k, v in _compared(take, truth, keypoints, tracks).items()}


def _compared(take: Take, truth: Truth, keypoints: Keypoints2D, tracks: Tracks3D) -> dict[str, list[Tensor]]:
    T = len(tracks.points)
    cameras, exact = take.cameras(), truth.keypoints[:T, 0]
    pixels, _, _ = tracks.chosen(keypoints, 0)
    rows: dict[str, list[Tensor]] = {}
    for side in SIDES:
        which = POINTS[side]
        flat = cameras.project(exact[:, which].double()).float()
        size = (flat[:, :, 0] - flat[:, :, 12]).norm(dim=-1)  # (C, T)
        long = (cameras.to_camera(exact[:, which[0]].double())).norm(dim=-1).float()
        off = (pixels[:, :, which] - flat).norm(dim=-1)[..., OWN].mean(-1)  # NaN where the hand's own network saw nothing
        length = (exact[:, which[0]] - exact[:, which[12]]).norm(dim=-1)
        scale = torch.stack([c.focal.mean() for c in cameras]).float()[:, None] * length / long
        row = {
            "visible": truth.visible[:, :T, 0][..., which].sum(-1) >= 11,
            "distance": long,
            "size": size,
            "found": torch.isfinite(off) & (off < 0.5 * scale),
            "wrong": torch.isfinite(off) & (off >= 0.5 * scale),
        }
        apart = (tracks.points[:, 0, which] - exact[:, which]).norm(dim=-1)
        there = torch.isfinite(apart[:, OWN]).all(-1) & (torch.isfinite(apart).sum(-1) >= 17)
        row |= {"solid": there, "apart": torch.where(there, apart.nanmean(-1), torch.nan)}
        for key, value in row.items():
            rows.setdefault(key, []).append(value)
    return rows


def measured(hands: Sequence[dict[str, Tensor]], common: Bool[Tensor, "n"] | None = None) -> dict[str, float]:
    """Shares and errors over several captures; errors also where `common` marks the frames that another detector found, too."""
    visible, found, wrong = (torch.cat([h[k].permute(1, 0, 2).flatten(1) for h in hands], 1) for k in ("visible", "found", "wrong"))
    solid, apart = (torch.cat([h[k].flatten() for h in hands]) for k in ("solid", "apart"))
    asked = visible.sum(0) >= 2
    good = asked & solid
    row = {
        "views_asked": int(visible.sum()),
        "views_found": _share(found, visible),
        "views_wrong": _share(wrong, torch.ones_like(wrong)),
        "hands_asked": int(asked.sum()),
        "hands_seen_by_two": _share((found & visible).sum(0) >= 2, asked),
        "hands_triangulated": _share(solid, asked),
        **_errors(apart[good]),
    }
    return row if common is None else {**row, "error_mm_where_all_found": 1000 * float(apart[good & common].mean())}


def found_frames(hands: Sequence[dict[str, Tensor]]) -> Bool[Tensor, "n"]:
    """Which hands of which frames were triangulated."""
    return torch.cat([h["solid"].flatten() for h in hands])


def _share(good: Bool[Tensor, "*n"], of: Bool[Tensor, "*n"]) -> float:
    return float((good & of).sum() / of.sum().clamp_min(1))


def _errors(apart: Float[Tensor, "n"]) -> dict[str, float]:
    millimetres = 1000 * apart
    return {"error_mm": float(millimetres.mean()), "median_mm": float(millimetres.median()), "p90_mm": float(millimetres.quantile(0.9))}


def setting(hands: Sequence[dict[str, Tensor]]) -> dict[str, list[float]]:
    """What the views that see a hand look at: 5th percentile, median and 95th of distance, m, and size, px."""
    q = torch.tensor([0.05, 0.5, 0.95])
    parts = {k: torch.cat([h[k][h["visible"]] for h in hands]) for k in ("distance", "size")}
    return {k: [round(float(x), 2) for x in v.quantile(q)] for k, v in parts.items()}


def main() -> None:
    """Print the table, and JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--detectors", nargs="+", choices=sorted(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where detections are kept, to be used again")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict] = {}
    everything: dict[str, list[dict[str, Tensor]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        for name in options.detectors:
            config = replace(CONFIGS[name], workers=options.workers)
            everything[name] = [seen_hands(c.resolve(), work / name / c.resolve().name, config) for c in options.captures]
    common = torch.stack([found_frames(h) for h in everything.values()]).all(0)
    for name, hands in everything.items():
        table[name] = measured(hands, common)
        print(name, {k: round(v, 3) for k, v in table[name].items()}, flush=True)
    table["setting"] = setting(next(iter(everything.values())))
    print("5 %, median, 95 % of distance (m) and size (px):", table["setting"])
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Several people: `python benchmarks/many_people.py [CAPTURE...] [--json FILE]`.

Stick figures known exactly, who cross, hug at 0.4 m, or of whom one leaves for two seconds and comes back elsewhere, seen by 4 to 16
cameras with 3 px noise, 3 % wild and 10 % missing keypoints, bodies that hide each other, detections in random order, a poster and a
mirror image. How many there are is not told; `alike`: all wear the same. Printed are changes of identity, phantoms, people not found, the
mean error of limbs, and that of the same people alone before the same cameras; then how long association takes for 8 people in 16
cameras and 300 frames.

For each CAPTURE that `studio virtual --people N --paths ...` rendered, the studio's own networks and the whole job: the fitted body's error
beside that of the same detections with everybody's identity given from the truth. Those of the baseline are of `studio virtual cross2
--people 2 --paths cross --seed 31 --frames 90 --fps 15 --width 640 --height 360` and of `leave2` with `--paths leave --seed 33`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from crowd_scene import Crowd, alone, crowd, outcome  # type: ignore[import-not-found]

from rigs.keypoints import COCO_WHOLEBODY
from studio import pipeline
from studio.evaluate import BODY, posed_of
from studio.identity import identify
from studio.people import IdentityConfig
from studio.take import AUTO, Take
from studio.track import track_actors
from studio.values import Keypoints2D, Motion, Tracks3D
from studio.virtual import Truth

SCENES = [
    *((count, cameras, kind, {"looks": True}) for count in (2, 3, 8) for cameras in (4, 8, 16) for kind in ("cross", "hug")),
    *((count, cameras, f"{kind}, alike", {}) for count, cameras in ((3, 4), (8, 8)) for kind in ("cross", "hug")),
    *((count, cameras, "leave", {"frames": 180, "away": (50, 110), "looks": True}) for count, cameras in ((2, 4), (3, 8))),
    *((count, cameras, "phantoms", {"poster": True, "mirror": True}) for count, cameras in ((2, 4), (3, 8))),
]
LIMBS = slice(5, 17)


def of_figures(count: int, cameras: int, kind: str, more: dict, seed: int) -> dict[str, float]:
    """One scene, nobody told how many there are."""
    scene = crowd(count, cameras, kind.split(",")[0], seed=seed, **{"frames": 90, **more})
    points, found = tracked(scene, None)
    row = outcome(scene, points)
    single = [outcome(one, tracked(one, 1)[0])["error_mm"] for one in (alone(scene, p) for p in range(min(count, 3)))]
    return {**row, "alone_mm": sum(single) / len(single), "actors": found}


def tracked(scene: Crowd, count: int | None) -> tuple[np.ndarray, int]:
    """Points of all actors, and how many there are."""
    if count is None:
        count = identify(scene.cameras, scene.keypoints, None, IdentityConfig()).detection.shape[2]
    tracks = track_actors(scene.cameras, scene.keypoints, tuple(f"actor{n + 1}" for n in range(count)))
    return tracks.points.numpy(), count


def association() -> float:
    """Seconds for 8 people in 16 cameras and 300 frames."""
    scene = crowd(8, 16, "cross", frames=300)
    begun = time.monotonic()
    identify(scene.cameras, scene.keypoints, None, IdentityConfig())
    return time.monotonic() - begun


def of_capture(folder: Path) -> dict[str, float]:
    """A rendered capture through the whole job, and through the same with identities from the truth."""
    truth = Truth.load(folder / "truth.safetensors")
    take = Take.of([folder / "videos"], folder / "cameras.yaml", folder / "many", actors=AUTO).checked()
    pipeline.step(take, "detect", pipeline.Config().detect)
    take = pipeline.with_actors(take, pipeline.Config().track)
    known = given(take, truth, folder / "known")
    rows = [solved(t, truth) for t in (take, known)]
    return {**rows[0], "known_mm": rows[1]["error_mm"], "actors": len(take.actors)}


def given(take: Take, truth: Truth, folder: Path) -> Take:
    """The same detections, each in the slot of the person who is nearest to it; what is near nobody is left out."""
    cameras, people = take.cameras(), len(truth.actors)
    for name in cameras.names:
        seen = Keypoints2D.load(take.keypoints_folder / f"{name}.safetensors")
        pixels = cameras[name].project(truth.keypoints[:, :, LIMBS].double())[0].float()
        size = pixels[..., 1].amax(-1) - pixels[..., 1].amin(-1)
        far = (seen.pixels[0, :, :, None, LIMBS] - pixels[:, None]).norm(dim=-1).nanmedian(-1).values / size[:, None]
        far, nearest = far.nan_to_num(9).min(1)  # (T, people): the best detection of each
        parts = {}
        for key, empty in (("pixels", torch.nan), ("sigma", torch.inf), ("confidence", 0.0), ("skeleton", torch.nan), ("look", torch.nan)):
            value = getattr(seen, key)[0]
            index = nearest.view(*nearest.shape, *(1,) * (value.ndim - 2)).expand(-1, -1, *value.shape[2:])
            good = (far < 0.15).view(*far.shape, *(1,) * (value.ndim - 2))
            parts[key] = torch.where(good, value.gather(1, index), empty)[None]
        for p in range(people):
            one = {k: v[:, :, p : p + 1] for k, v in parts.items()}
            replace(seen, **one).save(folder / f"person{p}" / "keypoints2d" / f"{name}.safetensors")
    return replace(take, folder=folder)


def solved(take: Take, truth: Truth) -> dict[str, float]:
    """Track and fit; a folder of one-person takes where identities are given. Errors where a person was tracked."""
    singles = [replace(take, folder=f, actors=("actor",)) for f in sorted(take.folder.glob("person*"))]
    joints = [truth.joint_names.index(n) for n in BODY]
    limbs = [COCO_WHOLEBODY.index(n) for n in COCO_WHOLEBODY[LIMBS]]
    errors, points, scored = [], [], singles or [take]
    for one in scored:
        for stage in ("track", "fit"):
            pipeline.step(one, stage, getattr(pipeline.Config(), stage))
        tracks = Tracks3D.load(one.tracks_file)
        for a, actor in enumerate(one.actors):
            motion = Motion.load(one.motion_file(actor))
            there = torch.isfinite(tracks.points[:, a, limbs]).all(-1).sum(-1) >= 3
            off = (posed_of(motion).joints[:, None, joints] - truth.joints[:, :, joints]).norm(dim=-1)[there]
            errors.append(off[:, off.mean((0, 2)).argmin()])
            points.append(tracks.points[:, a, limbs])
    scene = Crowd(take.cameras(), truth.keypoints[:, :, limbs].permute(1, 0, 2, 3).numpy(), None, None)  # type: ignore[arg-type]
    row = outcome(scene, torch.stack(points, 1).numpy(), list(range(len(limbs))))
    return {**row, "error_mm": 1000 * float(torch.cat(errors).mean())}


def main() -> None:
    """Print the table, and JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = {}
    print(f"{'scene':44s} {'people':>6s} {'found':>6s} {'switches':>8s} {'phantoms':>8s} {'lost':>5s} {'error':>9s} {'alone':>9s}")
    for count, cameras, kind, more in SCENES:
        for seed in options.seeds:
            row = of_figures(count, cameras, kind, more, seed)
            name = f"{count} people, {cameras} cameras, {kind}, seed {seed}"
            table[name] = row
            show(name, count, row, row["alone_mm"])
    for folder in options.captures:
        row = of_capture(folder)
        table[folder.name] = row
        show(f"rendered: {folder.name}", len(Truth.load(folder / "truth.safetensors").actors), row, row["known_mm"])
    table["association"] = {"seconds": association()}
    print(f"association of 8 people in 16 cameras and 300 frames: {table['association']['seconds']:.1f} s")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


def show(name: str, people: int, row: dict[str, float], single: float) -> None:
    """One line of the table."""
    cells = f"{people:6d} {row['actors']:6.0f} {row['switches']:8.0f} {row['phantoms']:8.0f} {row['lost']:5.0f}"
    print(f"{name:44s} {cells} {row['error_mm']:6.1f} mm {single:6.1f} mm", flush=True)


if __name__ == "__main__":
    main()

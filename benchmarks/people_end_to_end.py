"""Rendered people, each among others and alone: `python benchmarks/people_end_to_end.py FOLDER [--only SCENE...] [--seeds 1 2 3]`.

Two and three synthetic people cross, hug at 0.4 m, or one leaves the room and comes back, before four cameras (960x540, 15 frames/s, 4 or
6 s). Each scene is rendered once with everybody and once with each of them alone, same body, clothes, motion, room, cameras and noise; each
goes through the whole job, `studio run --actors auto`. Printed are changes of identity, phantoms and people not found among all frames,
and for each person the mean error of the fitted body's joints, hips to head, hands and feet, among others and alone, in all frames in
which he stands in at least two of the pictures, found or not. Another seed has other people, clothes, motions and ways. FOLDER keeps
everything, and a stopped run goes on where it was; the first takes about an hour on two cores for each seed. With --json FILE the table is
written there, too; scenes that are not asked for stay as they were.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from crowd_scene import Crowd, outcome  # type: ignore[import-not-found]

from studio import pipeline
from studio.detect import DetectConfig
from studio.evaluate import BODY, LIMBS, foretold, posed_of
from studio.take import AUTO, Take
from studio.values import Motion, Tracks3D
from studio.virtual import Truth, VirtualCapture, render_capture

ROOM = VirtualCapture(fps=15, frames=60, width=960, height=540)
SCENES = {
    "cross2": replace(ROOM, people=2, paths="cross", seed=31),
    "hug2": replace(ROOM, people=2, paths="hug", seed=32),
    "leave2": replace(ROOM, people=2, paths="leave", seed=33, frames=90),
    "cross3": replace(ROOM, people=3, paths="cross", seed=34),
}


def named(scene: str, seed: int, cameras: int) -> tuple[str, VirtualCapture]:
    """One of the scenes with other people (`seed` from 1 on) before so many cameras, and what it is called."""
    config = replace(SCENES[scene], seed=SCENES[scene].seed + 100 * (seed - 1), cameras=cameras)
    return scene + (f" seed {seed}" if seed > 1 else "") + (f" {cameras} cameras" if cameras != ROOM.cameras else ""), config


def measured(folder: Path, config: VirtualCapture) -> dict[str, Any]:
    """A scene with everybody, beside each of them alone."""
    truth = Truth.load(render_capture(folder, config) / "truth.safetensors")
    take = solved(folder)
    off, row = matched(take, truth)
    joints = truth.joints[:, :, [truth.joint_names.index(n) for n in BODY]].double()
    here = take.cameras().inside(take.cameras().project(joints)).all(-1).sum(0) >= 2
    among, single, cautious = [], [], []
    for p in range(config.people):
        place = render_capture(folder / f"alone{p + 1}", replace(config, alone=p + 1))
        lone, exact = solved(place), Truth.load(place / "truth.safetensors")
        own, _ = matched(lone, exact)
        cautious.append(foretold(Motion.load(lone.motion_file(lone.actors[0])), exact))
        among.append(1000 * float(off[here[:, p], p].mean()))
        single.append(1000 * float(own[here[:, p], 0].mean()))
    return {**row, "mm": among, "alone_mm": single, "ratio": sum(among) / sum(single), "foretold": cautious}


def solved(folder: Path) -> Take:
    """The capture's take after the whole job."""
    place = folder / "take"
    known = (place / "take.yaml").is_file()
    take = Take.open(place) if known else Take.of([folder / "videos"], folder / "cameras.yaml", place, actors=AUTO)
    pipeline.run(take, pipeline.Config(detect=DetectConfig(workers=1)))
    return Take.open(place)


def matched(take: Take, truth: Truth) -> tuple[Float[Tensor, "T P J"], dict[str, float]]:
    """Errors of each true person by the actor who is nearest to him on the whole, m; and who was mixed up."""
    joints = truth.joints[:, :, [truth.joint_names.index(n) for n in BODY]]
    tracks = Tracks3D.load(take.tracks_file)
    limbs = [tracks.keypoints.index(n) for n in LIMBS]
    tracked = torch.isfinite(tracks.points[:, :, limbs]).all(-1).sum(-1) >= 3
    fitted = torch.full((len(joints), len(take.actors), len(BODY), 3), torch.nan)
    for a, actor in enumerate(take.actors):
        if take.motion_file(actor).is_file():
            motion = Motion.load(take.motion_file(actor))
            fitted[:, a] = posed_of(motion).joints[:, [motion.joints.index(n) for n in BODY]]
    seen = torch.where(tracked[..., None, None], fitted, torch.nan)
    row = outcome(Crowd(take.cameras(), joints.permute(1, 0, 2, 3).numpy(), None, None), seen.numpy(), list(range(len(BODY))))  # type: ignore[arg-type]
    gap = (fitted[:, :, None] - joints[:, None]).norm(dim=-1)  # (T, A, P, J)
    owner = gap.nanmean((0, 3)).nan_to_num(torch.inf).argmin(0)
    people = torch.arange(joints.shape[1])
    kept = {k: row[k] for k in ("switches", "phantoms", "lost", "found")}
    return gap[:, owner, people], {**kept, "actors": len(take.actors)}


def main() -> None:
    """Print the table; JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--cameras", type=int, default=ROOM.cameras)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = dict(named(scene, seed, options.cameras) for scene in options.only for seed in options.seeds)
    table = {name: measured(options.folder / name.replace(" ", "-"), config) for name, config in asked.items()}
    print(f"{'scene':24s} {'people':>6s} {'found':>6s} {'switches':>8s} {'phantoms':>8s} {'lost':>5s}  each among others / alone")
    for name, row in table.items():
        each = ", ".join(f"{a:.1f} / {b:.1f} mm" for a, b in zip(row["mm"], row["alone_mm"]))
        cells = f"{asked[name].people:6d} {row['actors']:6.0f} {row['switches']:8.0f} {row['phantoms']:8.0f} {row['lost']:5.0f}"
        print(f"{name:24s} {cells}  {each}: {100 * (row['ratio'] - 1):+.0f} %")
    foretelling = [x for row in table.values() for x in row["foretold"]]
    print(f"squared error of the joints of each alone over what sigma foretells: {sum(foretelling) / len(foretelling):.2f} in the mean")
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.is_file() else {}
        rounded = {n: {k: np.round(v, 4).tolist() for k, v in row.items()} for n, row in table.items()}
        options.json.write_text(json.dumps({**before, **rounded}, indent=1) + "\n")


if __name__ == "__main__":
    main()

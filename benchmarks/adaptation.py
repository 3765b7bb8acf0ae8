"""`studio adapt` on virtual captures: does a network that learned from views alone come closer on a camera that had no say?

    python benchmarks/adaptation.py SESSION [--out FILE.json] [--cache FOLDER] [--seeds 0 1 2] [--arms ...]

SESSION's takes are virtual captures that were run, each with `truth.safetensors` beside its cameras file. Labels never see the truth.
Beside learning as `studio adapt` does: at a third of the rate, and with ten times the pull to the first outputs. Arms that must be refused:
one camera tilted by 5 degrees, cameras out of step by 10 frames and more, labels of other looks, and no pull at a huge rate.
Synthetic people; nothing here says how much real takes gain.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rigs import rotation
from rigs.keypoints import COCO_WHOLEBODY
from rigs.landmarks import landmark_skin
from studio.freshness import write_text
from studio.train.adapt import Adapting, Judged, Lesson, judged, lesson_of, takes_of, taught, turned
from studio.train.moments import Moments, moments_of, points_of
from studio.train.pupils import Pose, Pupil
from studio.virtual import Truth

ARMS = ("adapted", "gentle", "stays near", "one camera tilted", "out of step", "shuffled", "runs away")
CONTROLS = ("one camera tilted", "out of step", "shuffled", "runs away")
"""Must be refused."""
STEP = 10
"""Frames, at least, between cameras that are out of step."""


def main() -> None:
    """Print a line for every arm and seed; JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("session", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, help="folder that keeps the looks between calls")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--moments", type=int, default=30, help="of each take")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun, pupil = time.process_time(), Pose()
    known = [(_looks(t, pupil, options.moments, options.cache), Truth.load(t.cameras_file.parent / "truth.safetensors"))
             for t in takes_of(options.session)[0]]  # fmt: skip
    runs: list[dict[str, Any]] = json.loads(options.out.read_text())["runs"] if options.out and options.out.is_file() else []
    for arm in options.arms:
        for seed in options.seeds[:1] if arm == "runs away" else options.seeds:
            if any(r["arm"] == arm and r["seed"] == seed for r in runs):
                continue
            runs.append(_run(arm, seed, pupil, known, options.steps))
            print(json.dumps(runs[-1]), flush=True)
            if options.out:
                _save(options.out, runs, options, len(known), time.process_time() - begun)


def _looks(take: Any, pupil: Pupil, count: int, cache: Path | None) -> Moments:
    file = cache / f"{take.folder.name}.pt" if cache else None
    if file is not None and file.is_file():
        return torch.load(file, weights_only=False)
    found = moments_of(take, pupil, count, 1)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
    return found


def _run(arm: str, seed: int, pupil: Pose, known: list[tuple[Moments, Truth]], steps: int) -> dict[str, Any]:
    other = {
        "gentle": {"rate": 3e-5},
        "stays near": {"stay": 3.0},
        "runs away": {"rate": 0.05, "stay": 0.0, "steps": min(steps, 60)},
    }
    config = replace(Adapting(steps=steps, seed=seed), **other.get(arm, {}))
    given = [_spoiled(arm, moments) for moments, _ in known]
    named = 0
    for moments in given:
        try:
            lesson_of(moments, pupil)
        except ValueError:
            named += 1
    lessons = [lesson_of(moments, pupil, checked=False) for moments in given]
    if arm == "shuffled":
        _exchange(lessons, seed)
    labelled = sum(len(x.rows) for x in lessons)
    start = time.process_time()
    tail = taught(pupil, lessons, config) if labelled else pupil.tail
    result: Judged = judged(pupil, tail, lessons)
    right = [lesson_of(moments, pupil, checked=False) for moments, _ in known]
    against = [_against_truth(pupil, t, right, known) for t in (pupil.tail, tail)]
    rows = {k: [round(x, 3) for x in v] for k, v in result.rows.items()}
    return {
        "arm": arm, "seed": seed, "takes_named_before_learning": named,
        "labelled_looks": labelled, "accepted": result.accepted and not named,
        "gates_passed": result.accepted, "px": rows, "better_in_redrawn": round(result.better, 3),
        "ratio": round(rows["camera left out, moments kept back"][1] / rows["camera left out, moments kept back"][0], 4),
        "truth_px": {k: [round(a[k], 3) for a in against] for k in against[0]}, "learning_cpu_s": round(time.process_time() - start, 1),
    }  # fmt: skip


def _exchange(lessons: list[Lesson], seed: int) -> None:
    """Every look learns what was seen in another."""
    g = torch.Generator().manual_seed(seed)
    for lesson in lessons:
        other = torch.randperm(len(lesson.rows), generator=g)
        lesson.targets, lesson.weight = lesson.targets[other], lesson.weight[other]


def _spoiled(arm: str, moments: Moments) -> Moments:
    if arm == "one camera tilted":
        return replace(moments, cameras=turned(moments.cameras, 0, rotation.exp(torch.deg2rad(torch.tensor([5.0, 0.0, 0.0])))))
    if arm != "out of step":
        return moments
    lag = max(1, -(-STEP // max(int(moments.frame.diff().median()), 1)))
    row, matrix, sigma = moments.row.clone(), moments.matrix.clone(), moments.sigma.clone()
    for c, late in enumerate((0, lag, 2 * lag, 0)[: len(row)]):
        row[c], matrix[c], sigma[c] = row[c].roll(late, 0), matrix[c].roll(late, 0), sigma[c].roll(late, 0)
    return replace(moments, row=row, matrix=matrix, sigma=sigma)


def _against_truth(pupil: Pupil, tail: Any, lessons: list[Lesson], known: list[tuple[Moments, Truth]]) -> dict[str, float]:
    """On the camera left out, in moments kept back, median distances, px: to the exact anatomical keypoints; to where on the exact body the
    fit takes this network's landmarks to lie; and to the latter less what each landmark is off by in the middle of its take."""
    found: dict[str, list[torch.Tensor]] = {"to keypoints": [], "to landmarks on the body": [], "to these, scatter": []}
    for lesson, (moments, truth) in zip(lessons, known, strict=True):
        which = [COCO_WHOLEBODY.index(n) for n in pupil.keypoints]
        camera, late = moments.cameras[lesson.out], moments.frame[lesson.late]
        posed = truth.body(0).shaped(torch.zeros(0)).posed(truth.rotation[late, 0], truth.translation[late, 0], truth.expression[late, 0])
        own = posed.points(landmark_skin(truth.body(0), pupil.keypoints, "mediapipe")[0])
        seen = points_of(moments, pupil, tail)[lesson.out, lesson.late]
        seen = torch.where(torch.isfinite(moments.sigma[lesson.out, lesson.late])[..., None], seen, torch.nan)
        offs = [seen - camera.project(x.double())[0].float() for x in (truth.keypoints[late, 0][:, which], own)]
        offs.append(offs[1] - offs[1].nanmedian(0, keepdim=True).values)
        for values, off in zip(found.values(), offs, strict=True):
            values.append(off.norm(dim=-1).flatten())
    return {k: float(torch.cat(v).nanmedian()) for k, v in found.items()}


def _save(path: Path, runs: list[dict[str, Any]], options: argparse.Namespace, takes: int, cpu: float) -> None:
    middle = lambda arm: {  # noqa: E731
        "ratio": median(r["ratio"] for r in runs if r["arm"] == arm),
        **{k: [median(r["truth_px"][k][i] for r in runs if r["arm"] == arm) for i in (0, 1)] for k in runs[0]["truth_px"]},
        "accepted": sum(r["accepted"] for r in runs if r["arm"] == arm),
        "seeds": sum(r["arm"] == arm for r in runs),
    }
    medians = {arm: middle(arm) for arm in ARMS if any(r["arm"] == arm for r in runs)}
    facts = {
        "data": "synthetic: virtual captures with four cameras",
        "takes": takes,
        "moments_of_each": options.moments,
        "steps": options.steps,
    }
    controls = [r for r in runs if r["arm"] in CONTROLS]
    summary = {"medians": medians, "goal": 0.9, "controls_accepted": [r["arm"] for r in controls if r["accepted"]],
               "gates_alone_passed": [r["arm"] for r in controls if r["gates_passed"]]}  # fmt: skip
    write_text(path, json.dumps({**facts, "summary": summary, "cpu_s_of_last_call": round(cpu, 1), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The causal fit against lag: `python benchmarks/causal.py [--take FOLDER] [--frames 48] [--out benchmarks/causal.json]`.

Errors, acceleration errors and time with lags of 0, 3, 10 and 30 frames beside those of the whole stretch: on the reference scene of
`solver_scene` (truth from numpy alone), and with `--take` on a virtual capture that was detected and tracked with the real detector
(FOLDER/take and FOLDER/truth.safetensors, as `benchmarks/virtual_accuracy.py` leaves them; synthetic people). Both there are given the
same shape, and neither uses silhouettes. Milliseconds are CPU time of one thread, median over frames; latency is the lag and that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from ablation import skate
from solver import SCHEDULE, Setting
from solver_scene import FPS, scene
from torch import Tensor

from rigs.catalogue import open_body
from rigs.rotation import log
from studio.clock import footage
from studio.evaluate import BODY, compared, posed_of
from studio.fit import FitConfig, StoredTake, fit_actor
from studio.fit.causal import MUCH, Causal, CausalConfig
from studio.fit.causal import predicted as one_on
from studio.fit.past import Continued, condensed, eliminated
from studio.fit.solve import settle, smooth
from studio.fit.state import State
from studio.follow import sightings
from studio.take import Take
from studio.values import Motion, Tracks3D
from studio.virtual import Truth

LAGS = (0, 3, 10, 30)
Row = dict[str, Any]


def pace(spent: list[float], lag: int, fps: float) -> Row:
    """Time a frame once the window is full, ms, and what follows from it."""
    ms = 1000 * float(torch.tensor(spent[len(spent) // 3 :]).median())
    return {"cpu_ms_a_frame": round(ms, 1), "frames_per_second": round(1000 / ms, 1), "latency_ms": round(1000 * lag / fps + ms)}


def off(found: Tensor, truth: Tensor, fps: float) -> Row:
    """Mean distance, mm, and acceleration error, m/s^2."""
    row = compared(found, truth, fps)
    return {"error_mm": round(row["error_mm"], 3), "acceleration": round(row["acceleration"], 3)}


def reference(s: Setting, frames: int, lag: int) -> tuple[State, list[float]]:
    """The reference scene through a window that moves on."""
    views, memory, first = s.views(slice(0, frames)), max(lag + 1, CausalConfig().memory), 0
    problem = lambda a, b, kernel: s.problem(views[a:b], kernel, s.mean)  # noqa: E731
    state = s.start(slice(0, 1), s.model.body.joints)
    for kernel, iterations in SCHEDULE:
        state, _ = settle(problem(0, 1, kernel), state, iterations, damping=1e-2)
    past, given, spent = None, [state] if not lag else [], []
    for t in range(1, frames):
        begun = time.process_time()
        now = problem(first, t + 1, SCHEDULE[-1][0])
        state = State.joined([state, one_on(state)])
        state = smooth(now, state, Continued.of_past(s.smoothness, past), 2, tolerance=MUCH, stepped=eliminated)
        given += [state[t - lag - first :][:1]] if t >= lag else []
        if len(state) > memory:
            past, state, first = condensed(now, state, s.smoothness, past), state[1:], first + 1
        spent.append(time.process_time() - begun)
    return State.joined([*given, state[len(state) - lag :]]), spent


def on_reference(frames: int) -> dict[str, Row]:
    """All lags and the whole stretch."""
    s = Setting(scene(frames))
    points = lambda state: s.model.place(state, s.mean).points  # noqa: E731
    rows = {}
    for lag in LAGS:
        state, spent = reference(s, frames, lag)
        rows[f"lag {lag}"] = {**off(points(state), s.truth, FPS), **pace(spent, lag, FPS)}
    return rows | {"whole take": off(points(s.solved(slice(0, frames), s.mean)), s.truth, FPS)}


def judged(motion: Motion, truth: Truth) -> Row:
    """A motion against the truth: body joints, and how far planted feet slide."""
    which = [truth.joint_names.index(n) for n in BODY]
    when = slice(motion.first_frame, motion.first_frame + len(motion.translation))
    row = off(posed_of(motion).joints[:, which], truth.joints[when, 0][:, which], truth.fps)
    return row | {"slide_mm_a_frame": round(skate(motion, truth), 2)}


def on_take(folder: Path) -> dict[str, Row]:
    """A detected and tracked virtual capture: all lags and the whole take, with the shape that the whole take gave."""
    take, truth = Take.open(folder / "take"), Truth.load(folder / "truth.safetensors")
    body, cameras, tracks = open_body(take.body), take.cameras(), Tracks3D.load(take.tracks_file, slice(0, 1))
    frames = Tracks3D.count(take.tracks_file)
    source = StoredTake(cameras, footage(take, cameras.names), take.tracks_file, 0, frames)
    config = FitConfig(device="cpu", silhouette=0.0)
    best = fit_actor(body, source, config)

    def motion(state: State, shape: Tensor, first: int = 0) -> Motion:
        T = len(state)
        unknown, no = torch.full((T, len(body.skeleton)), torch.nan), torch.zeros(T, 4)
        names, at = body.skeleton.names, tracks.first_frame + first
        return Motion(
            body.name, "actor", names, tracks.fps, at, "00:00:00:00", shape, state.root, log(state.R), state.expression, unknown, no
        )

    rows: dict[str, Row] = {}
    seen = list(sightings(take, 0))
    for name, lag, shape in [*((f"lag {n}", n, best.shape) for n in LAGS), ("lag 10, shape from the first 2 s", 10, None)]:
        one, given, spent = Causal(body, CausalConfig(lag=lag, learn=2.0, fit=replace(config, key_frames=32)), shape), [], []
        for frame in seen:
            begun = time.process_time()
            given += one.push(frame)
            spent.append(time.process_time() - begun)
        given += one.finish()
        assert one.shape is not None
        found = motion(State.joined([x.state for x in given]), one.shape, given[0].frame)
        rows[name] = judged(found, truth) | (pace(spent, lag, tracks.fps) if shape is not None else {})
    return rows | {"whole take": judged(motion(best.state, best.shape), truth)}


def main() -> None:
    """Print JSON, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {"machine": platform.machine(), "torch": torch.__version__, "frames": options.frames}
    rows["reference scene"] = on_reference(options.frames)
    if options.take:
        rows["virtual capture"] = on_take(options.take)
    text = json.dumps(rows, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""What `studio evaluate volume` measures: the hull's geometry, the network beside it, controls, trainings for comparison, fits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor

from studio.freshness import write_text
from studio.nets import checkpoint
from studio.nets.volume import FINE, Volume, hull, occupancy
from studio.train import sampled, voxels
from studio.train import volume as learning
from studio.train.jobs import Evaluation, Gate, Report, gathered, medians
from studio.train.loop import Loop
from studio.train.pool import VIEWS
from studio.train.volume import ARMS, DATA, HELD_OUT, PRESETS, Arm, Solids, held_out, hull_row, hull_threshold, made, row
from studio.train.volume_fits import Regressor, fits, regressed, regressor, vertex_error

Rows = dict[str, dict[str, float]]
EACH = 4
FITTED = 3
"""People whose bodies are fitted, of each seed."""


def evaluated(config: Evaluation) -> Report:
    """The report; every seed has moments and cameras of its own, and trainings for comparison unless quick."""
    begun = time.process_time()
    network = checkpoint.read(config.weights or "volume", Volume, "volume")[0]
    runs = [_quick(network)] if config.quick else [_kept(seed, network) for seed in config.seeds]
    if not config.quick:
        for seed in config.seeds:
            for file in _folder().glob(f"volume_*_{seed}.*"):
                file.unlink()
    every = gathered(runs)
    rows = medians(every)
    facts = {"seconds_cpu_last_call": round(time.process_time() - begun, 1), "people": len(HELD_OUT), "moments_each": EACH, "grid": FINE}
    return Report("volume", f"{DATA}; held-out people of another generator", rows, gates(rows), every, facts)


def gates(rows: Rows) -> tuple[Gate, ...]:
    """The claims, as far as their rows were measured."""
    shown, spoilt = rows["shipped, 4 views"], ("shipped, 4 views, mirrored", "shipped, 4 views of somebody else")
    out = [
        Gate("hull of perfect masks, 4 views: share of the body it contains", rows["hull, perfect masks, 4 views"]["recall"], 0.99),
        Gate("4 views: IoU above the best hull's", shown["IoU"] - rows["best hull, 4 views"]["IoU"], 0.06),
    ]
    for name in spoilt:
        if name in rows:
            out.append(Gate(f"{name}: IoU over the right one's (must fall)", rows[name]["IoU"] / shown["IoU"], 0.8, at_least=False))
    if "shipped, perfect masks, 4 views" in rows:
        gain = rows["shipped, perfect masks, 4 views"]["IoU"] - rows["best hull, perfect masks, 4 views"]["IoU"]
        out.append(Gate("perfect masks, 4 views: IoU above the best hull's", gain, 0.06))
    if "fit: keypoints and volume" in rows:
        fit, direct = (rows[k]["vertices mm"] for k in ("fit: keypoints and volume", "regressor of the same size"))
        out.append(Gate("vertex error of the fit below the regressor's", 1 - fit / direct, 0.05))
    return tuple(out)


def _quick(network: Volume) -> Rows:
    held = held_out(77, HELD_OUT[:3])
    perfect = {n: held_out(77, HELD_OUT[:3], n, clean=True) for n in (4, 8, 16)}
    rows = {f"hull, perfect masks, {n} views": hull_row(some, FINE, 0.5, n) for n, some in perfect.items()}
    rows["best hull, 4 views"] = hull_row(held, FINE, hull_threshold(held, FINE))
    rows |= {f"shipped, {n} view{'s' * (n > 1)}": row(network, held, FINE, tuple(range(n))) for n in (1, 2, 4)}
    rows["shipped, 4 views, mirrored"] = row(network, held, FINE, spoilt="mirrored")
    return rows


def _folder() -> Path:
    """Where trainings for comparison and finished seeds are kept until all are done: an evaluation that was stopped goes on."""
    folder = checkpoint.trained("volume").parent / "arms"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept(seed: int, network: Volume) -> Rows:
    """All rows of a seed, step by step; what an earlier call finished is read."""
    rows: Rows = {}
    for name, step in {
        "geometry": _geometry,
        "network": lambda s: _network(s, network),
        "arms": _arms,
        "fits": lambda s: _fits(s, network),
    }.items():
        file = _folder() / f"volume_{name}_{seed}.json"
        if not file.is_file():
            write_text(file, json.dumps(step(seed)))
        rows |= json.loads(file.read_text())
    return rows


def _geometry(seed: int) -> Rows:
    """Hulls of perfect masks, by the number of views."""
    return {f"hull, perfect masks, {n} views": hull_row(held_out(77 + seed, views=n, clean=True), FINE, 0.5, n) for n in (4, 8, 16)}


def _network(seed: int, network: Volume) -> Rows:
    """The shipped network beside the best hull."""
    held, perfect, many = held_out(77 + seed), held_out(77 + seed, clean=True), held_out(77 + seed, HELD_OUT[:6], 8)
    known = learning.trained_on(40, 70 + seed)
    best = hull_threshold(known, FINE)
    clean = Solids.of(*_clean(known))
    rows = {
        "best hull, 4 views": hull_row(held, FINE, best),
        "best hull, perfect masks, 4 views": hull_row(perfect, FINE, hull_threshold(clean, FINE)),
        "best hull, 8 views": hull_row(many, FINE, best, 8),
        "shipped, perfect masks, 4 views": row(network, perfect, FINE),
        "shipped, 8 views": row(network, many, FINE, tuple(range(8))),
    }
    rows |= {f"shipped, {n} view{'s' * (n > 1)}": row(network, held, FINE, tuple(range(n))) for n in (1, 2, 4)}
    rows["shipped, 4 views, mirrored"] = row(network, held, FINE, spoilt="mirrored")
    rows["shipped, 4 views of somebody else"] = row(network, held, FINE, spoilt="others")
    return rows


def _clean(known: Solids) -> tuple[sampled.Sampled, Tensor]:
    people = sampled.people(len(known), VIEWS, 71, sampled.poses(range(60, 64)), clean=True)
    return people, voxels.bare(people)


def _arms(seed: int) -> Rows:
    """Trainings with and without shadows in the cameras, on half the grid, each as many steps; from four views and from one."""
    people, steps, size = PRESETS["small"]
    data, held = learning.trained_on(people, 50 + seed), held_out(77 + seed)
    rows: Rows = {f"best hull, {size} cells": hull_row(held, size, hull_threshold(data, size))}
    for arm, name in ARMS.items():
        network = _arm(data, seed, arm, steps, size)
        one = row(network, held, size, (0,))
        rows[f"{name}, {size} cells"] = row(network, held, size) | {"IoU of one view": one["IoU"]}
    return rows


def _arm(data: Solids, seed: int, arm: Arm, steps: int, size: int) -> Volume:
    network = made(seed)
    loop = Loop(steps, seed, precision="float32", device="cpu")
    learning.learned(network, data, loop, arm, size, _folder() / f"volume_{arm}_{seed}.safetensors")
    return network


@torch.no_grad()
def _volumes(network: Volume, held: Solids) -> Tensor:
    return occupancy(network, held.people.masks.float() / 255, held.people.keypoints, held.people.sight, held.grid)


def _fits(seed: int, network: Volume) -> Rows:
    """Vertex errors of bodies: fits with one shape a person, and a network of the same size that tells parameters."""
    held, bodies = voxels.others(HELD_OUT[:FITTED], EACH, VIEWS, 77 + seed, sampled.poses(range(900, 904)))
    solids = Solids.of(held, bodies)
    people, steps, size = PRESETS["small"]
    known = learning.trained_on(people, 50 + seed)
    hulls = hull(held.masks.float() / 255, held.sight, solids.grid) - hull_threshold(known, FINE) + 0.5
    volumes = {
        "fit: keypoints alone": None,
        "fit: keypoints and hull": hulls,
        "fit: keypoints and volume": _volumes(network, solids),
        "upper bound: fit, keypoints and true volume": solids.truth(slice(None), FINE),
    }
    rows = {name: {"vertices mm": vertex_error(fits(held, v, solids.grid, EACH), bodies)} for name, v in volumes.items()}
    loop = Loop(steps, seed, precision="float32", device="cpu")
    direct: Regressor = regressor(known.people, known.grid, loop, size, _folder() / f"volume_regressor_{seed}.safetensors")
    rows["regressor of the same size"] = {"vertices mm": vertex_error(regressed(direct, held, solids.grid, size, EACH), bodies)}
    return rows

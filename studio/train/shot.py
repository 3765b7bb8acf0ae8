"""What adapting a regressor to one shot is worth (after Tung et al. 2017), measured on people, actions and cameras that nobody trained on.

All that the adaptation is shown is estimated (`studio.train.shots`); nothing here is trained beforehand, so `train` says only that.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rigs import makehuman
from studio.fit.evidence import Figure
from studio.fit.shot import Adapted, Pose, Shot, ShotConfig, adapted
from studio.freshness import write_text
from studio.nets import checkpoint
from studio.nets.recovery import Recovery
from studio.nets.shape import KEYPOINTS
from studio.train import shots
from studio.train.jobs import Evaluation, Gate, Report, Training, gathered, medians
from studio.train.recovery import aligned
from studio.train.shots import FPS, Filmed, corrupted, filmed, occluded

SHOTS, FRAMES, QUICK = 2, 24, 12
"""Shots of one camera a seed, frames of each; frames of a quick evaluation."""
CAMERAS = 3
LOST = 0.15
"""A pose is lost where its keypoints are on average further off, m."""
CONFIG = ShotConfig()
ARMS = {
    "keypoints": replace(CONFIG, mask=0.0, flow=0.0),
    "keypoints, mask": replace(CONFIG, flow=0.0),
    "keypoints, mask, flow": CONFIG,
}
HIPS = [KEYPOINTS.index("left_hip"), KEYPOINTS.index("right_hip")]
DATA = "synthetic: drawn people of another generator in held-out actions; estimated keypoints, masks and flow (DIS on the drawn frames)"


def train(config: Training) -> Path:
    """Nothing is learned before there is a shot."""
    raise ValueError(
        "studio train shot: the network learns from each shot anew; train `recovery`, which it starts from, or `studio evaluate shot`"
    )


@dataclass(frozen=True)
class Ruler:
    """Truth of a shot, and the body that is measured."""

    figure: Figure
    points: Float[Tensor, "T K 3"]

    @staticmethod
    def of(film: Filmed) -> Ruler:
        """Of a filmed shot."""
        return Ruler(Figure.of(makehuman.load(), KEYPOINTS, "", 0), film.points)

    def of_pose(self, pose: Pose, smoothed: float = 0.0) -> dict[str, Tensor]:
        """Errors of a pose, its keypoints smoothed in time by so many frames (standard deviation)."""
        with torch.no_grad():
            found = self.figure.posed(pose.state.R, pose.state.root, pose.shape)[0]
        return self.off(calmed(found, smoothed) if smoothed else found)

    def off(self, found: Float[Tensor, "T K 3"]) -> dict[str, Tensor]:
        """By frame, about the hips: keypoints' mean distance, mm; after the best similarity; of accelerations, m/s^2."""
        own, true = (x - x[:, HIPS].mean(1, keepdim=True) for x in (found, self.points))
        bend = lambda x: (x[2:] - 2 * x[1:-1] + x[:-2]) * FPS**2  # noqa: E731
        return {
            "error mm": 1000 * (own - true).norm(dim=-1).mean(1),
            "aligned mm": 1000 * (aligned(own, true) - true).norm(dim=-1).mean(1),
            "acceleration m/s2": (bend(own) - bend(true)).norm(dim=-1).mean(1),
        }


def calmed(points: Float[Tensor, "T K 3"], frames: float) -> Float[Tensor, "T K 3"]:
    """Smoothed in time by a Gaussian."""
    far = int(3 * frames + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-far, far + 1) / frames).square())
    series = F.pad(points.flatten(1).T[:, None], (far, far), mode="replicate")
    return F.conv1d(series, (kernel / kernel.sum())[None, None])[:, 0].T.unflatten(1, points.shape[1:])


@dataclass
class _Table:
    """Errors of all frames by arm."""

    rows: dict[str, dict[str, list[Tensor]]]

    def add(self, arm: str, errors: dict[str, Tensor]) -> None:
        row = self.rows.setdefault(arm, {})
        for name, values in errors.items():
            row.setdefault(name, []).append(values.flatten().float())

    def means(self) -> dict[str, dict[str, float]]:
        out = {}
        for arm, row in self.rows.items():
            values = {k: torch.cat(v) for k, v in row.items()}
            out[arm] = {k: float(v.mean()) for k, v in values.items()}
            if "error mm" in values:
                out[arm]["lost %"] = 100 * float((values["error mm"] > 1000 * LOST).float().mean())
        return out


def measured(
    networks: Recovery, seed: int, count: int = SHOTS, frames: int = FRAMES, config: ShotConfig | None = None
) -> dict[str, dict[str, float]]:
    """Errors of every arm on one seed's shots."""
    table = _Table({})
    steps = (config or CONFIG).steps
    for number in range(count):
        film = filmed(100 * seed + number, frames)
        ruler = Ruler.of(film)
        table.add("estimated flow", {"flow error px": torch.tensor(film.flow_error)})
        for name, arm in ARMS.items():
            done = _run(film.shot, replace(arm, steps=steps), networks)
            table.add(f"adapted: {name}", ruler.of_pose(done.learned))
            if name == list(ARMS)[-1]:
                _used(table, "adapted", ruler, done)
                table.add("network", ruler.of_pose(done.first))
                table.add("network, smoothed by 2 frames", ruler.of_pose(done.first, 2.0))
                table.add("adapted, smoothed by 2 frames", ruler.of_pose(done.pose, 2.0))
        whole = replace(CONFIG, steps=steps)
        table.add("poses optimised instead, as many steps", ruler.of_pose(_run(film.shot, whole, networks, True).learned))
        hard = occluded(film.shot, seed)
        done = _run(hard, whole, networks)
        table.add("occluded: network", ruler.of_pose(done.first))
        table.add("occluded: adapted", ruler.of_pose(done.learned))
        table.add("occluded: poses optimised instead", ruler.of_pose(_run(hard, whole, networks, True).learned))
        done = _run(corrupted(film.shot, seed), whole, networks)
        _used(table, "30 % corrupted: adapted", ruler, done)
        table.add("30 % corrupted: network", ruler.of_pose(done.first))
        table.add("30 % corrupted: adapted without the test", ruler.of_pose(done.learned))
    film = filmed(100 * seed + 50, max(frames // 2, 4), CAMERAS)
    for name, shot in ((f"{CAMERAS} cameras", film.shot), (f"{CAMERAS} cameras, 30 % corrupted", corrupted(film.shot, seed))):
        done, ruler = _run(shot, replace(CONFIG, steps=steps), networks), Ruler.of(film)
        table.add(f"{name}: network", ruler.of_pose(done.first))
        _used(table, f"{name}: adapted", ruler, done)
    return table.means()


def _run(shot: Shot, config: ShotConfig, networks: Recovery, poses: bool = False) -> Adapted:
    return adapted(makehuman.load(), shot, config, networks, "parameters" if poses else "network")


def _used(table: _Table, arm: str, ruler: Ruler, done: Adapted) -> None:
    verdict = {"accepted %": 100.0 * done.verdict.accepted, "held back: gross %": 100 * done.verdict.gross}
    held = {"held back before mm": 1000 * done.verdict.before, "held back after mm": 1000 * done.verdict.after}
    table.add(arm, ruler.of_pose(done.pose) | {k: torch.tensor(v) for k, v in (verdict | held).items()})


def evaluate(config: Evaluation) -> Report:
    """Errors on each seed's shots; a seed that is finished is kept until all are, so that a stopped evaluation goes on."""
    begun = time.process_time()
    file = checkpoint.find(config.weights or "recovery")
    networks = checkpoint.read(file, Recovery, "recovery")[0]
    count, frames = (1, QUICK) if config.quick else (SHOTS, FRAMES)
    runs = []
    for seed in config.seeds:
        kept = _kept(file, seed)
        if not config.quick and kept.is_file():
            runs.append(json.loads(kept.read_text()))
            continue
        runs.append(measured(networks, seed, count, frames))
        if not config.quick:
            write_text(kept, json.dumps(runs[-1]))
    for seed in config.seeds:
        _kept(file, seed).unlink(missing_ok=True)
    every = gathered(runs)
    rows = medians(every)
    facts = {
        "seconds_cpu": round(time.process_time() - begun, 1),
        "seeds": list(config.seeds),
        "shots": count,
        "frames": frames,
        "config": vars(CONFIG),
        "weights": checkpoint.read_card(file).sha256,
    }
    return Report("shot", DATA, rows, gates_of(rows), every, facts)


def gates_of(rows: dict[str, dict[str, float]]) -> tuple[Gate, ...]:
    """What the medians must show."""
    share = lambda a, b, column: rows[a][column] / max(rows[b][column], 1e-9)  # noqa: E731
    spoiled = "30 % corrupted"
    return (
        Gate("one view: error, share of the network's", share("adapted", "network", "error mm"), 0.9, at_least=False),
        Gate("one view: acceleration error, share of it", share("adapted", "network", "acceleration m/s2"), 0.75, at_least=False),
        Gate("lost poses when occluded, share of those of poses optimised instead", _lost(rows), 0.5, at_least=False),
        Gate("30 % corrupted keypoints, one view: accepted, %", rows[f"{spoiled}: adapted"]["accepted %"], 0, at_least=False),
        Gate("the same: error, share of it", share(f"{spoiled}: adapted", f"{spoiled}: network", "error mm"), 1.02, at_least=False),
        Gate("30 % corrupted keypoints, several cameras: error, share of the network's",
             share(f"{CAMERAS} cameras, {spoiled}: adapted", f"{CAMERAS} cameras, {spoiled}: network", "error mm"), 1.02, at_least=False),
    )  # fmt: skip


def _lost(rows: dict[str, dict[str, float]]) -> float:
    """NaN, which passes no gate, where nothing is lost to begin with."""
    of = [rows[f"occluded: {name}"]["lost %"] for name in ("adapted", "poses optimised instead")]
    return of[0] / of[1] if of[1] > 0 else torch.nan


def _kept(file: Path, seed: int) -> Path:
    return checkpoint.trained("shot").parent / "arms" / f"shot_{shots.SIZE}_{checkpoint.read_card(file).sha256[:12]}_{seed}.json"

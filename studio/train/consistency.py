"""Several views of one moment agree up to the cameras' rotations: labels for a twentieth of the moments, consistency for the rest.

Rhodin, Spörri, Katircioglu, Constantin, Meyer, Müller, Salzmann and Fua, Learning Monocular 3D Human Pose Estimation from Multi-view
Images, 2018: poses of unit size (else the smallest pose would agree best), and a pull towards what the network said before (else it
drifts to what is consistent and wrong). Where cameras are calibrated, what they triangulate teaches more, each point as far as its rays
meet. Synthetic throughout.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from calibration.cameras import upright_view
from rigs import makehuman, rotation
from studio.nets import checkpoint
from studio.nets.checkpoint import Card
from studio.nets.monocular import Monocular
from studio.nets.ordinal import HIPS, KEYPOINTS, flat
from studio.train.jobs import Evaluation, Gate, Report, Training, gathered, medians
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.ordinal import STRANGERS
from studio.train.poses import HELD_OUT, TRAINED, clips

VIEWS, LATE = 4, 4
"""Cameras, and moments by which half of them are late in the control: a second."""
FPS = 4.0
LABELLED = 0.05
BATCH = 48
"""Labelled views of a batch, and unlabelled moments."""
PRESETS = {"small": (16, 60, 600), "full": (30, 120, 3000)}
"""People, moments each, steps of each phase."""
UNIT = 0.05
"""m in which losses are counted."""
CONSISTENT, STAY = 1.25, 0.1
"""Weights of consistency and of the pull towards the first predictions."""
RAY = 0.02
"""How far the rays of one keypoint pass each other, m: detection's errors at some metres."""
PEOPLE = 40_000
DATA = "synthetic: exact people in scripted motions before four cameras each, keypoints with detection noise"
Arm = Literal[
    "supervised", "consistency", "consistency, wrong cameras", "consistency, late views", "consistency, no labels", "taught by all views",
    "taught by triangulation", "triangulation, wrong cameras", "triangulation, late views", "all labels",
]  # fmt: skip
ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True)
class Moments:
    """N moments before `VIEWS` cameras, now and `LATE` moments later."""

    plane: Float[Tensor, "N 2 V K 2"]
    """Image planes of upright cameras that look straight at the hips, with errors; NaN where not detected."""
    tilt: Float[Tensor, "N 2 V"]
    R_view_world: Float[Tensor, "N 2 V 3 3"]
    position: Float[Tensor, "N 2 V 3"]
    """Of the cameras, m."""
    truth: Float[Tensor, "N 2 V K 3"]
    """In the axes of each view, m."""

    def __len__(self) -> int:
        return len(self.plane)

    def inputs(self, moments: Tensor, late: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Networks' inputs (n V K 3), tilts and rotations (n V 3 3); with `late`, half of the views show what comes later."""
        when = torch.zeros(VIEWS, dtype=torch.long)
        when[VIEWS // 2 :] = int(late)
        pick = (moments[:, None], when[None], torch.arange(VIEWS)[None])
        seen = flat(self.plane[pick].flatten(0, 1))[0].unflatten(0, (-1, VIEWS))
        return seen, self.tilt[pick], self.R_view_world[pick]


def moments(people: range, each: int, actions: tuple[str, ...], seed: int) -> Moments:
    """Every person in `each` clips of the actions, each clip before cameras of its own."""
    parts = []
    for person in people:
        body, rng = makehuman.individual(person), np.random.default_rng([seed, person])
        motion = clips(body, rng, actions, each, LATE + 1, fps=FPS)
        shaped, neutral = body.shaped(torch.zeros(0)), torch.zeros(each, 2, len(body.expression_names))
        posed = shaped.posed(motion.rotation[:, [0, LATE]], motion.translation[:, [0, LATE]], neutral)
        parts.append(_watched(posed.points(body.keypoint_skin(KEYPOINTS)), torch.Generator().manual_seed(seed * 7877 + person)))
    return Moments(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Moments)))


def _watched(points: Float[Tensor, "N 2 K 3"], g: torch.Generator) -> Moments:
    N, _, K = points.shape[:3]
    draw = lambda *n: torch.rand(*n, generator=g)  # noqa: E731
    azimuth = 2 * torch.pi * (draw(N, 1) + (torch.arange(VIEWS) + 0.5 * draw(N, VIEWS)) / VIEWS)
    far = 2.5 + 2.5 * draw(N, VIEWS)
    place = torch.stack([far * azimuth.cos(), far * azimuth.sin(), 0.8 + 2 * draw(N, VIEWS)], -1)
    hips = points[:, :, HIPS].mean(2)
    position = (place + hips[:, :1] * torch.tensor([1.0, 1.0, 0.0]))[:, None]
    R = upright_view(hips[:, :, None] - position)
    own = points + 0.012 * torch.randn(N, 1, K, 3, generator=g)  # where the network puts landmarks on this person
    view = (own[:, :, None] - position[..., None, :]) @ R.mT
    wide = torch.where(draw(N, 2, VIEWS, K, 1) < 0.06, 0.10, 0.010) / far[:, None, :, None, None]
    plane = view[..., :2] / view[..., 2:] + wide * torch.randn(N, 2, VIEWS, K, 2, generator=g)
    plane = torch.where(draw(N, 2, VIEWS, K, 1) < 0.05, torch.nan, plane)
    return Moments(plane, R[..., 2, 2], R, position.expand(-1, 2, -1, -1), (points - hips[:, :, None])[:, :, None] @ R.mT)


def unit(pose: Float[Tensor, "... K 3"]) -> Float[Tensor, "... K 3"]:
    """Poses of unit size (norm over all keypoints)."""
    return pose / pose.flatten(-2).norm(dim=-1)[..., None, None].clamp_min(1e-6)


def disagreement(pose: Float[Tensor, "n V K 3"], R_view_world: Float[Tensor, "n V 3 3"]) -> Float[Tensor, ""]:
    """Mean square by which the views' poses, of unit size and in the world's axes, are off their mean."""
    world = unit(pose) @ R_view_world
    return (world - world.mean(1, keepdim=True)).square().sum((-1, -2)).mean()


def agreed(pose: Float[Tensor, "n V K 3"], R_view_world: Float[Tensor, "n V 3 3"]) -> Float[Tensor, "n V K 3"]:
    """The median of the views' poses in the axes of each view: what all of them together would say."""
    world = (pose @ R_view_world).median(1, keepdim=True).values
    return world @ R_view_world.mT


def triangulated(
    plane: Float[Tensor, "n V K 2"], R_view_world: Float[Tensor, "n V 3 3"], position: Float[Tensor, "n V 3"], rounds: int = 4
) -> tuple[Float[Tensor, "n K 3"], Float[Tensor, "n K"]]:
    """Points nearest to all rays, outliers losing their say, and how far the rays pass them (m; infinite with fewer than two views)."""
    there = torch.isfinite(plane).all(-1)
    ray = F.normalize(torch.cat([plane.nan_to_num(), torch.ones_like(plane[..., :1])], -1) @ R_view_world, dim=-1)
    across = torch.eye(3) - ray[..., :, None] * ray[..., None, :]
    origin = position[:, :, None].expand_as(ray)
    weight = there.float()
    for _ in range(rounds):
        A = torch.einsum("nvk,nvkij->nkij", weight, across) + 1e-6 * torch.eye(3)
        b = torch.einsum("nvk,nvkij,nvkj->nki", weight, across, origin)
        points = torch.linalg.solve(A, b[..., None])[..., 0]
        off = ((across @ (points[:, None] - origin)[..., None])[..., 0]).norm(dim=-1)
        weight = there / (1 + (off / RAY) ** 2) ** 2
    said = weight.sum(1)
    spread = ((weight * off**2).sum(1) / said.clamp_min(1e-6)).sqrt()
    return points, torch.where(said > 1.2, spread, torch.inf)


def _taught(network: Monocular, data: Moments, arm: Arm, loop: Loop, labelled: Tensor, rate: float) -> bool:
    """A phase of learning in an arm; from where the network stands."""
    before = deepcopy(network).eval()
    g = torch.Generator().manual_seed(loop.seed + 17)
    turned = rotation.exp(torch.stack([torch.zeros(len(data), VIEWS)] * 2 + [6.28 * torch.rand(len(data), VIEWS, generator=g)], -1))

    def batch(step: int) -> dict[str, Tensor]:
        h = torch.Generator().manual_seed(loop.seed * 1_000_003 + step)
        known = torch.arange(len(data)) if arm == "all labels" else labelled[:1] if arm == "consistency, no labels" else labelled
        pick, view = known[torch.randint(len(known), (BATCH,), generator=h)], torch.randint(VIEWS, (BATCH,), generator=h)
        seen, tilt, _ = data.inputs(pick)
        n = torch.arange(BATCH)
        out = {"seen": seen[n, view], "tilt": tilt[n, view], "truth": data.truth[pick, 0, view]}
        if arm == "taught by triangulation" or arm.startswith("triangulation"):
            out |= _lesson(data, torch.randint(len(data), (BATCH,), generator=h), arm, turned)
        elif arm not in ("supervised", "all labels"):
            some = torch.randint(len(data), (BATCH,), generator=h)
            free, slant, R = data.inputs(some, arm == "consistency, late views")
            out |= {"free": free, "slant": slant, "R": R @ turned[some] if arm == "consistency, wrong cameras" else R}
        return out

    def loss(b: dict[str, Tensor]) -> Losses:
        losses = {"labels": F.l1_loss(network(b["seen"], b["tilt"]), b["truth"]) / UNIT}
        if "free" in b:
            free, slant = b["free"].flatten(0, 1), b["slant"].flatten()
            pose = network(free, slant)
            with torch.no_grad():
                said = before.to(free.device)(free, slant)
            each = pose.unflatten(0, (-1, VIEWS))
            if "lesson" in b:
                off = (each - b["lesson"]).abs().mean(-1)
                losses["taught"] = (off * b["trust"]).sum() / b["trust"].sum().clamp_min(1.0) / UNIT
            elif arm == "taught by all views":
                losses["taught"] = F.l1_loss(each, agreed(each.detach(), b["R"])) / UNIT
            else:
                losses["agree"] = (100.0 if arm == "consistency, no labels" else CONSISTENT) * 10 * disagreement(each, b["R"])
            if arm != "consistency, no labels":
                losses["stay"] = STAY * F.l1_loss(pose, said) / UNIT
        return losses

    return learn(Player(network, loss, rate=rate, average=0.995), batch, loop).done


def _lesson(data: Moments, some: Tensor, arm: Arm, turned: Tensor) -> dict[str, Tensor]:
    """What cameras triangulate of some moments, in the axes of each view, and how far it is to be trusted (0 to 1)."""
    late = arm == "triangulation, late views"
    free, slant, R = data.inputs(some, late)
    when = torch.zeros(VIEWS, dtype=torch.long)
    when[VIEWS // 2 :] = int(late)
    pick = (some[:, None], when[None], torch.arange(VIEWS)[None])
    R = R @ turned[some] if arm == "triangulation, wrong cameras" else R
    points, spread = triangulated(data.plane[pick], R, data.position[pick])
    pose = points - points[:, HIPS].mean(1, keepdim=True)
    trust = 1 / (1 + (spread / RAY) ** 2) * torch.isfinite(spread[:, HIPS].sum(1, keepdim=True))
    return {"free": free, "slant": slant, "R": R, "lesson": pose[:, None] @ R.mT, "trust": trust[:, None].expand(-1, VIEWS, -1)}


def fitted(data: Moments, arm: Arm, seed: int, steps: int, device: str = "cpu", first: Monocular | None = None) -> Monocular:
    """A network after both phases: labels alone, then as many steps of the arm. `first` has the first phase behind it."""
    labelled = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: max(1, round(LABELLED * len(data)))]
    network = begun(data, seed, steps, labelled, device) if first is None else deepcopy(first)
    _taught(network, data, arm, Loop(steps, seed + 100, device=device, precision="float32"), labelled, 5e-4)
    return network


def begun(data: Moments, seed: int, steps: int, labelled: Tensor | None = None, device: str = "cpu") -> Monocular:
    """The first phase: what the labels alone teach."""
    if labelled is None:
        labelled = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: max(1, round(LABELLED * len(data)))]
    torch.manual_seed(seed)
    network = Monocular()
    _taught(network, data, "supervised", Loop(steps, seed, device=device, precision="float32"), labelled, 1e-3)
    return network


@torch.no_grad()
def measured(network: Monocular, held: Moments) -> dict[str, float]:
    """Single-view errors on moments that nobody learned from: mean distance; after the best scale; how far the views disagree."""
    seen, tilt, R = held.inputs(torch.arange(len(held)))
    pose, truth = network(seen.flatten(0, 1), tilt.flatten()), held.truth[:, 0].flatten(0, 1)
    scale = (pose * truth).sum((1, 2)) / pose.square().sum((1, 2)).clamp_min(1e-9)
    off = lambda p: 1000 * float((p - truth).norm(dim=-1).mean())  # noqa: E731
    world = pose.unflatten(0, (-1, VIEWS)) @ R
    return {
        "pose mm": off(pose),
        "scaled mm": off(scale[:, None, None] * pose),
        "views apart mm": 1000 * float((world - world.mean(1, keepdim=True)).norm(dim=-1).mean()),
        "size": float(pose.flatten(1).norm(dim=1).mean() / truth.flatten(1).norm(dim=1).mean()),
    }


def train(config: Training) -> Path:
    """A monocular network that learned from few labels and from views that agree; written as a checkpoint."""
    people, each, steps = PRESETS[config.preset]
    path, steps = config.out or checkpoint.trained("consistency"), config.steps or steps
    network = fitted(
        moments(range(PEOPLE, PEOPLE + people), each, TRAINED, config.seed), "taught by all views", config.seed, steps, config.device
    )
    errors = {k: round(v, 2) for k, v in measured(network, _held(4)).items()}
    card = Card(
        "consistency", "monocular", {}, KEYPOINTS, (1, 1), {"keypoints": "relative to the hips' middle, over their root mean square"},
        {"pose": "m, in the view's axes"}, f"{DATA}; {people} people, {LABELLED:.0%} of the moments labelled", (config.seed,), 2 * steps,
        metrics=errors,
    )  # fmt: skip
    return checkpoint.write(path, network, card)


def _held(people: int) -> Moments:
    return moments(range(STRANGERS + 200, STRANGERS + 200 + people), 60, HELD_OUT, 3)


def evaluate(config: Evaluation) -> Report:
    """Single-view errors on held-out people, actions and cameras by what was taught; every arm of each seed is trained anew."""
    start = time.process_time()
    held, (people, each, steps) = _held(3 if config.quick else 8), PRESETS["small"]
    arms, steps = (ARMS[:2], 150) if config.quick else (ARMS, steps)
    runs = []
    for seed in config.seeds[:1] if config.quick else config.seeds:
        data = moments(range(PEOPLE + 100 * seed, PEOPLE + 100 * seed + people), each, TRAINED, seed)
        first = begun(data, seed, steps, device=config.device)
        mean = held.truth.new_zeros(1) + data.truth[:, 0].flatten(0, 1).mean(0)
        always = 1000 * float((mean - held.truth[:, 0]).norm(dim=-1).mean())
        rows = {"always the mean pose": {"pose mm": always}, "labels alone, half the steps": measured(first, held)}
        runs.append(rows | {arm: measured(fitted(data, arm, seed, steps, config.device, first), held) for arm in arms})
    every = gathered(runs)
    rows = medians(every)
    facts = {"cpu_s": round(time.process_time() - start, 1), "moments": people * each, "labelled": LABELLED, "held_out": len(held)}
    return Report("consistency", f"{DATA}; held-out people, actions and cameras", rows, _gates(rows), every, facts)


def _gates(rows: dict[str, dict[str, float]]) -> tuple[Gate, ...]:
    base = rows["supervised"]
    over = lambda arm, what="pose mm": rows[arm][what] / base[what]  # noqa: E731
    best: tuple[Arm, ...] = ("consistency", "taught by triangulation") if "all labels" in rows else ("consistency",)
    gates = [
        Gate(f"{arm}: {what} over labels alone", over(arm, what), most, at_least=False)
        for arm in best
        for what, most in (("pose mm", 0.9), ("scaled mm", 0.95))
    ]
    # Half the views a second late is told but no gate for triangulation: it trusts only what still meets, people who stand still.
    controls = [a for a in rows if a.endswith(("wrong cameras", "late views", "no labels")) and a != "triangulation, late views"]
    return (*gates, *(Gate(f"{arm} must not help: pose over labels alone", over(arm), 0.95) for arm in controls))

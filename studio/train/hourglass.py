"""Trains and measures the stacked hourglass (`studio.nets.hourglass`) on synthetic crops: bodies, or hands as one variant of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.keypoints import mirrored
from studio.nets.checkpoint import Card, read, trained, write
from studio.nets.hourglass import BODY, CELL, DEVIATION, HAND, MEAN, Hourglass, Seen, calibrated, decoded, looked
from studio.train.jobs import Evaluation, Gate, Report, Training, gathered, medians
from studio.train.keypoint_crops import Crops, divergence, target
from studio.train.keypoint_errors import intersected, nees, pck
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.performers import KEYPOINTS
from studio.train.scenes import Focus, SceneConfig, Scenes, held_out
from studio.train.shards import cached, folder_of

NETWORK = "hourglass"


@dataclass(frozen=True)
class Plan:
    """One way to train it."""

    size: int = 64
    """Of crops, px."""
    stacks: int = 2
    width: int = 32
    groups: int = 320
    """Samples of four crops that are learned from."""
    steps: int = 700
    batch: int = 32
    rate: float = 3e-3
    between: bool = True
    """Every stack is told the truth (intermediate supervision), not the last alone."""
    hands: bool = False
    """A hand instead of a body."""
    mixed: bool = False
    """bfloat16 on a processor too: twice as fast where it knows that format."""

    @property
    def names(self) -> tuple[str, ...]:
        """What is seen."""
        return HAND if self.hands else BODY

    @property
    def scenes(self) -> SceneConfig:
        """What is learned from; a crop of a hand shows more around it."""
        focus: Focus = "right_hand" if self.hands else "body"
        return SceneConfig(size=self.size, cameras=4, maps=(), focus=focus, padding=1.7 if self.hands else 1.25)


PLANS = {"small": Plan(), "full": Plan(size=96, width=64, groups=6144, steps=30000, rate=3e-3, mixed=True)}


def build(plan: Plan) -> dict[str, Any]:
    """The architecture of a plan, as the card keeps it."""
    levels = 3 if plan.size % 32 == 0 else 2
    return {"keypoints": len(plan.names), "stacks": plan.stacks, "width": plan.width, "levels": levels}


def fitted(plan: Plan, crops: Crops, loop: Loop, state: Path | None = None) -> tuple[Hourglass, bool]:
    """The network after the loop's steps, and whether they all were made."""
    torch.manual_seed(loop.seed)
    network = Hourglass(**build(plan)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def loss(batch: dict[str, Tensor]) -> Losses:
        maps = network(batch["images"])
        wanted = target(batch["points"], maps[-1].shape[-1])
        told = maps if plan.between else maps[-1:]
        return {f"stack{len(maps) - len(told) + i + 1}": divergence(m, wanted, batch["weight"]) for i, m in enumerate(told)}

    player = Player(network, loss, plan.rate, 1e-3, average=0.99)
    # A training may go on with more steps, or with more samples of the same data.
    recipe = {k: v for k, v in asdict(plan).items() if k not in ("steps", "mixed", "groups")} | {"data": folder_of(plan.scenes).name}
    loop = replace(loop, recipe=recipe, precision="mixed" if plan.mixed else loop.precision)
    return network, learn(player, lambda step: crops.batch(step, plan.batch, plan.names, loop.seed), loop, state).done


def train(config: Training, hands: bool = False) -> Path:
    """The checkpoint's file; with `minutes`, the state's file where steps are still to be made."""
    plan = replace(PLANS[config.preset], hands=hands)
    steps = config.steps or plan.steps
    name = NETWORK + ("-hands" if hands else "")
    path = config.out or trained(name)
    state = path.with_suffix(".state.safetensors")
    crops = Crops.of(cached(replace(plan.scenes, seed=config.seed), plan.groups), plan.names)
    loop = Loop(steps, config.seed, config.minutes, device=config.device, events=config.events)
    network, done = fitted(plan, crops, loop, state)
    if not done:
        print(f"{name}: time is up; the same command goes on")
        return state
    reading, metrics = calibration(network, plan)
    card = Card(
        name, NETWORK, build(plan), plan.names, (plan.size, plan.size), {"mean": MEAN, "deviation": DEVIATION}, reading,
        f"synthetic people alone (studio.train.scenes): {len(crops.images)} crops", (config.seed,), steps, metrics=metrics,
    )  # fmt: skip
    write(path, network, card)
    state.unlink(missing_ok=True)
    return path


def calibration(network: Hourglass, plan: Plan, groups: int = 64) -> tuple[dict[str, Any], dict[str, float]]:
    """How maps become covariances, and the errors there: on people of the other kind in the training's clothes, actions and distances.

    The temperature and floor are those with the greatest likelihood; each keypoint's scale makes its mean normalised squared error 2.
    """
    scenes = replace(held_out(plan.scenes), split="train", seed=77)
    crops = Crops.of(cached(scenes, groups), plan.names)
    best: tuple[float, dict[str, Any], float] = (float("inf"), {}, 0.0)
    for temperature in (0.6, 0.8, 1.0, 1.25, 1.6):
        seen = looked_at(network, crops, plan.names, temperature)
        error = (seen.points - crops.keypoints).double()
        for floor in (0.02, 0.1, 0.3, 0.8):
            scale = _scales(error, seen.covariance.double(), crops.weight > 0, floor, plan.names)
            covariance = scale[:, None, None] * seen.covariance.double() + floor * torch.eye(2, dtype=torch.float64)
            likely = float((nees(error, covariance) + covariance.logdet())[crops.weight > 0].mean())
            if likely < best[0]:
                told = {"temperature": temperature, "floor": floor, "scale": [round(float(x), 4) for x in scale], "flip": not plan.hands}
                best = (likely, told, float(error.norm(dim=-1).median()))
    return best[1], {"calibration_median_px": round(best[2], 3)}


def _scales(error: Tensor, covariance: Tensor, there: Tensor, floor: float, names: tuple[str, ...]) -> Float[Tensor, "K"]:
    """For each keypoint, shared with its mirror image's, the scale that makes the mean normalised squared error 2 (bisection)."""
    other = list(mirrored(names))
    low, high = torch.full((len(names),), 1e-3, dtype=torch.float64), torch.full((len(names),), 1e3, dtype=torch.float64)
    for _ in range(40):
        middle = (low * high).sqrt()
        square = nees(error, middle[:, None, None] * covariance + floor * torch.eye(2, dtype=torch.float64)) * there
        total = (square.sum(0) + square.sum(0)[other]) / (there.sum(0) + there.sum(0)[other]).clamp_min(1)
        low, high = torch.where(total > 2, middle, low), torch.where(total > 2, high, middle)
    return (low * high).sqrt()


def looked_at(network: Hourglass, crops: Crops, names: tuple[str, ...], temperature: float = 1.0, flip: bool = True) -> Seen:
    """What the network sees in all crops, 64 at a time."""
    flip = flip and len(names) == len(BODY)
    parts = [looked(network, crops.images[i : i + 64], names, flip, temperature) for i in range(0, len(crops.images), 64)]
    return Seen(torch.cat([p.points for p in parts]), torch.cat([p.covariance for p in parts]))


def evaluate(config: Evaluation, compare: bool = True) -> Report:
    """Errors of a checkpoint on held-out synthetic people, actions, clothes, rooms, cameras; with `compare`, also what telling every stack
    the truth is worth.
    """
    network, card = read(config.weights or NETWORK, Hourglass, NETWORK)
    plan = Plan(size=card.size[0], hands=card.keypoints == HAND)
    runs, worth = [], []
    for seed in config.seeds:
        scenes = cached(replace(held_out(plan.scenes), seed=seed), 8 if config.quick else 64)
        runs.append(measured(network, card, scenes, plan.names))
    every = gathered(runs)
    if compare and not config.quick:
        worth = [supervised(seed) for seed in config.seeds]
        every |= gathered(worth)
    rows = medians(every)
    own, even = rows["hourglass"], rows["hourglass, views weighted alike"]
    gates = [
        Gate("PCK@0.05 of the box, seen keypoints", own["PCK seen"], 0.90),
        Gate("four views, weighted by covariance: mean mm", own["4 views mm"], 15.0, at_least=False),
        Gate("covariance weights better than equal ones by %", 100 * (1 - own["4 views mm"] / even["4 views mm"]), 5.0),
        Gate("|normalised squared error - 2|", abs(own["squared error"] - 2), 0.5, at_least=False),
        Gate("control: PCK with another crop's image", rows["control: image of another crop"]["PCK seen"], 0.3, at_least=False),
    ]
    if worth:
        gain = [100 * (w["small, every stack told"]["PCK seen"] - w["small, last stack told"]["PCK seen"]) for w in worth]
        gates.append(Gate("intermediate supervision: PCK points at equal steps", sorted(gain)[len(gain) // 2], 0.0))
    told = f"synthetic held-out people, actions, clothes, rooms, cameras; {plan.size} px, {card.steps} steps"
    return Report(card.name, told, rows, tuple(gates), every, {"card": asdict(card), "seeds": list(config.seeds)})


def measured(network: Hourglass, card: Card, scenes: Scenes, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """The network beside exact maps (upper bound), the mean person (lower bound) and a control that must fail, on some scenes."""
    crops = Crops.of(scenes, names)
    seen = calibrated(looked_at(network, crops, names, float(card.decoding["temperature"])), card)
    exact = decoded(target(crops.keypoints, crops.images.shape[1] // CELL))
    mean = crops.keypoints.mean(0).expand_as(crops.keypoints)
    error = seen.points - crops.keypoints
    views = (len(scenes), scenes.image.shape[2])
    W = torch.linalg.inv(seen.covariance.double())
    own = errors(seen.points, crops) | {"squared error": float(nees(error.double(), seen.covariance.double())[crops.weight > 0].mean())}
    alike = torch.eye(2, dtype=torch.float64).expand_as(W)
    whole = (crops.weight > 0).unflatten(0, views).all(1)  # every view has the point on its crop
    truth = scenes_points(scenes, names)

    def in_space(points: Tensor, weights: Tensor) -> dict[str, float]:
        off = (intersected(scenes, points.unflatten(0, views), weights.unflatten(0, views)) - truth).norm(dim=-1)[whole] * 1000
        return {"4 views mm": float(off.mean()), "4 views median mm": float(off.median())}

    return {
        "hourglass": own | in_space(seen.points, W),
        "hourglass, views weighted alike": in_space(seen.points, alike),
        "upper bound: exact maps, decoded": errors(exact.points, crops) | in_space(exact.points, alike),
        "lower bound: the mean person": errors(mean, crops),
        "control: image of another crop": errors(seen.points.roll(7 * views[1], 0), crops),
    }


def errors(points: Float[Tensor, "N K 2"], crops: Crops) -> dict[str, float]:
    """In the image."""
    off = (points - crops.keypoints).norm(dim=-1)
    there = crops.weight > 0
    return {
        "PCK seen": pck(off, crops.side, crops.visible),
        "PCK all": pck(off, crops.side, there),
        "median px": float(off[there].median()),
    }


def scenes_points(scenes: Scenes, names: tuple[str, ...]) -> Float[Tensor, "N K 3"]:
    """True world positions at moment 0, m."""
    return scenes.points[:, 0, [KEYPOINTS.index(n) for n in names]].double()


def supervised(seed: int, steps: int = 250) -> dict[str, dict[str, float]]:
    """PCK of two small networks after equal steps from equal starts: every stack told the truth, or the last alone.

    Their states stay in the cache, so that an evaluation that was stopped goes on.
    """
    out = {}
    for name, between in (("small, every stack told", True), ("small, last stack told", False)):
        plan = replace(PLANS["small"], between=between, batch=16)
        crops = Crops.of(cached(plan.scenes, plan.groups), plan.names)
        state = trained(f"hourglass-compared-{seed}-{'every' if between else 'last'}").with_suffix(".state.safetensors")
        network, _ = fitted(plan, crops, Loop(steps, seed), state)
        test = Crops.of(cached(replace(held_out(plan.scenes), seed=0), 64), plan.names)
        out[name] = errors(looked_at(network, test, plan.names).points, test)
    return out

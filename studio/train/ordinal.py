"""Depth from order: the lifter learns from pairs "i is nearer than j", beside the same network with metric depths.

Pavlakos, Zhou and Daniilidis, Ordinal Depth Supervision for 3D Human Pose Estimation, 2018. Everything is synthetic: exact people of
MakeHuman's own space in scripted motions before random cameras, their keypoints with a detector's errors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from calibration.cameras import upright_view
from rigs import makehuman
from studio.fit.mirrored import LIMBS
from studio.nets import checkpoint
from studio.nets.checkpoint import Card
from studio.nets.ordinal import HIPS, KEYPOINTS, Lifter, flat
from studio.train.jobs import Evaluation, Gate, Report, Training, gathered, medians
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.mirrored_takes import WORDS, counted
from studio.train.poses import HELD_OUT, TRAINED, clips
from studio.train.recovery import aligned

LEVEL = 0.08
"""Depths closer than this are called equal, m."""
BATCH = 256
PRESETS = {"small": (12, 1500), "full": (32, 6000)}
"""People and steps."""
EACH = 500
"""Moments a person."""
PEOPLE, STRANGERS = 20_000, 29_000
"""First seeds of the people trained on, and of those who are held out."""
DATA = "synthetic: exact people in scripted motions before random cameras, keypoints with detection noise"
Arm = Literal["metric", "ordinal", "flipped", "random"]


@dataclass(frozen=True)
class Seen:
    """N single views of people."""

    plane: Float[Tensor, "N K 2"]
    """Image plane, with errors; NaN where not detected."""
    tilt: Float[Tensor, "N"]
    truth: Float[Tensor, "N K 3"]
    """Relative to the hips' middle in the axes of the view, m."""

    def __len__(self) -> int:
        return len(self.plane)

    def __getitem__(self, which: Tensor | slice) -> Seen:
        return Seen(*(getattr(self, f.name)[which] for f in fields(self)))


def views(people: range, each: int, actions: tuple[str, ...], seed: int, loose: float = 1.0) -> Seen:
    """Every person in `each` moments of the actions, each moment before one random camera 2 to 6 m away."""
    parts = []
    for person in people:
        body, rng = makehuman.individual(person), np.random.default_rng([seed, person])
        motion = clips(body, rng, actions, each, 1, loose)
        posed = body.shaped(torch.zeros(0)).posed(
            motion.rotation[:, 0], motion.translation[:, 0], torch.zeros(each, len(body.expression_names))
        )
        parts.append(_before_cameras(posed.points(body.keypoint_skin(KEYPOINTS)), torch.Generator().manual_seed(seed * 9973 + person)))
    return Seen(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Seen)))


def _before_cameras(points: Float[Tensor, "N K 3"], g: torch.Generator) -> Seen:
    N, K = points.shape[:2]
    draw = lambda *n: torch.rand(*n, generator=g)  # noqa: E731
    hips = points[:, HIPS].mean(1)
    azimuth, far, high = 2 * torch.pi * draw(N), 2 + 4 * draw(N), 0.5 + 2.5 * draw(N)
    position = torch.stack([hips[:, 0] + far * azimuth.cos(), hips[:, 1] + far * azimuth.sin(), high], -1)
    R = upright_view(hips + 0.15 * torch.randn(N, 3, generator=g) - position)
    exact = (points - hips[:, None]) @ R.mT
    placed = (points + 0.012 * torch.randn(N, K, 3, generator=g) - position[:, None]) @ R.mT
    wide = torch.where(draw(N, K, 1) < 0.03, 0.10, 0.006) * placed[..., 2:].mean(1, keepdim=True) / far.view(-1, 1, 1)
    plane = placed[..., :2] / placed[..., 2:] + wide / far.view(-1, 1, 1) * torch.randn(N, K, 2, generator=g)
    return Seen(torch.where(draw(N, K, 1) < 0.05, torch.nan, plane), R[:, 2, 2], exact)


def order(z: Float[Tensor, "N K"], level: float = LEVEL) -> Float[Tensor, "N K K"]:
    """1 where i is nearer than j, -1 where farther, 0 where they are level."""
    ahead = z[:, None] - z[:, :, None]
    return torch.where(ahead.abs() < level, 0.0, ahead.sign())


def ranking(z: Float[Tensor, "N K"], said: Float[Tensor, "N K K"]) -> Float[Tensor, ""]:
    """The paper's loss: log(1 + exp(z_i - z_j)) where i is nearer, and the square where they are level; z in units of `LEVEL`."""
    apart = (z[:, :, None] - z[:, None]) / LEVEL
    loss = torch.where(said == 0, 0.25 * apart.square(), F.softplus(said * apart))
    K = z.shape[1]
    return loss[:, *torch.triu_indices(K, K, 1)].mean()


def train(config: Training) -> Path:
    """Trains the lifter on order and metric depth together and writes a checkpoint; a call that was stopped goes on when repeated."""
    people, steps = PRESETS[config.preset]
    path = config.out or checkpoint.trained("ordinal")
    data = _pool(people, path.with_suffix(".people.safetensors"))
    network = Lifter()
    loop = Loop(config.steps or steps, config.seed, config.minutes, device=config.device, precision="float32", events=config.events)
    if not _learned(network, data, loop, "both", path.with_suffix(".state.safetensors")):
        return path
    network.depth.spread.fill_(spread(network, views(range(STRANGERS + 100, STRANGERS + 106), 200, TRAINED, 8)))
    errors = {k: round(v, 3) for k, v in measured(network, views(range(STRANGERS, STRANGERS + 6), 200, HELD_OUT, 7)).items()}
    card = Card(
        "ordinal", "ordinal", {}, KEYPOINTS, (1, 1), {"keypoints": "relative to the hips' middle, over their root mean square"},
        {"depth": "soft-argmax of bins, m"}, f"{DATA}; {people} people, {EACH} views each", (config.seed,), loop.steps, metrics=errors,
    )  # fmt: skip
    checkpoint.write(path, network, card)
    for suffix in (".people.safetensors", ".state.safetensors"):
        path.with_suffix(suffix).unlink(missing_ok=True)
    return path


def _pool(people: int, file: Path) -> Seen:
    """What is trained on, kept beside the checkpoint while it learns."""
    if file.is_file():
        return Seen(**load_file(file))
    data = views(range(PEOPLE, PEOPLE + people), EACH, TRAINED, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    save_file({f.name: getattr(data, f.name).contiguous() for f in fields(Seen)}, partial)
    partial.replace(file)
    return data


def _learned(network: Lifter, data: Seen, loop: Loop, arm: Arm | Literal["both"], state: Path | None = None) -> bool:
    torch.manual_seed(loop.seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            module.reset_parameters()
    said = told(data.truth[..., 2], arm, loop.seed)

    def batch(step: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(loop.seed * 1_000_003 + step)
        pick = torch.randint(len(data), (BATCH,), generator=g)
        seen, _, _ = flat(data.plane[pick])
        # What reconstruction learns from: depths whose order is right but whose spacing is not (the paper's simulated ones).
        z = data.truth[pick][..., 2]
        bent = z.sign() * (z.abs() / 0.3) ** (0.6 + 0.8 * torch.rand(BATCH, 1, generator=g)) * 0.3
        bent = bent + 0.08 * torch.randn(z.shape, generator=g)
        return {"seen": seen, "tilt": data.tilt[pick], "truth": data.truth[pick], "said": said[pick].float(), "bent": bent}

    def loss(b: dict[str, Tensor]) -> Losses:
        z, true = network.depth.depth(network.depth(b["seen"], b["tilt"])), b["truth"][..., 2]
        losses = {"pose": F.l1_loss(network.lifted(b["seen"], b["tilt"], b["bent"]), b["truth"]) / 0.05}
        if arm in ("metric", "both"):
            losses["depth"] = (z - true).square().mean() / LEVEL**2
        if arm != "metric":
            losses["order"] = 4 * ranking(z, b["said"])
        return losses

    return learn(Player(network, loss, rate=1e-3, average=0.999), batch, loop, state).done


def told(z: Float[Tensor, "N K"], arm: str, seed: int) -> Float[Tensor, "N K K"]:
    """The order an arm is told (int8): exact, a tenth of the pairs the wrong way round, or drawn by lot."""
    said, g = order(z), torch.Generator().manual_seed(seed + 5)
    if arm in ("flipped", "random"):
        share = 0.1 if arm == "flipped" else 0.5
        wrong = (torch.rand(said.shape, generator=g) < share).triu(1)
        said = torch.where(wrong | wrong.mT, -said, said)
    return said.to(torch.int8)


@torch.no_grad()
def measured(network: Lifter, held: Seen, z: Float[Tensor, "N K"] | None = None) -> dict[str, float]:
    """Errors on held-out views: pairs in the right order, depth after the best scale, pose relative to the hips, and turned onto the truth.

    A given `z` takes the place of the network's own depths.
    """
    seen, _, _ = flat(held.plane)
    own = network.depth.depth(network.depth(seen, held.tilt)) if z is None else z
    own = own - own[:, HIPS].mean(1, keepdim=True)
    true, right = held.truth[..., 2], order(held.truth[..., 2])
    pose = network.lifted(seen, held.tilt, own)
    pose = pose - pose[:, HIPS].mean(1, keepdim=True)
    scale = (own * true).sum() / own.square().sum().clamp_min(1e-9)
    return {
        "pairs in order": float((order(own, 0.0) == right)[right != 0].float().mean()),
        "depth mm": 1000 * float((scale * own - true).abs().mean()),
        "pose mm": 1000 * float((pose - held.truth).norm(dim=-1).mean()),
        "turned mm": 1000 * float((aligned(pose, held.truth) - held.truth).norm(dim=-1).mean()),
    }


@torch.no_grad()
def spread(network: Lifter, held: Seen) -> float:
    """The width of the logistic that tells best, of limbs of people it has not seen, which end is nearer; m."""
    z, true = network.depth.depth(network.depth(flat(held.plane)[0], held.tilt)), held.truth[..., 2]
    begin, end = ([KEYPOINTS.index(limb[k]) for limb in LIMBS] for k in (0, 1))
    ahead, right = z[:, end] - z[:, begin], true[:, end] > true[:, begin]
    widths = torch.logspace(-2, -0.3, 60)
    cost = torch.stack([F.softplus(torch.where(right, -ahead, ahead) / w).mean() for w in widths])
    return float(widths[cost.argmin()])


def evaluate(config: Evaluation) -> Report:
    """Pair order, depth and pose on held-out people, actions and cameras; trains every arm of each seed anew unless quick."""
    begun = time.process_time()
    held = views(range(STRANGERS, STRANGERS + (3 if config.quick else 10)), 200, HELD_OUT, 7)
    shipped = checkpoint.read(config.weights or "ordinal", Lifter, "ordinal")[0]
    known = {
        "shipped": measured(shipped, held),
        "shipped, depths all zero": measured(shipped, held, torch.zeros_like(held.tilt)[:, None].expand(-1, 17)),
    }
    known["upper bound: true depths"] = measured(shipped, held, held.truth[..., 2])
    runs = [known]
    if not config.quick:
        people, steps = PRESETS["small"]
        pool = views(range(PEOPLE, PEOPLE + people), EACH, TRAINED, 1)
        runs = []
        for seed in config.seeds:
            rows = dict(known)
            for arm in ("metric", "ordinal", "flipped", "random"):
                network = Lifter()
                _learned(network, pool, Loop(steps, seed, device=config.device, precision="float32"), arm)
                rows[NAMES[arm]] = measured(network, held)
            runs.append(rows)
    every = gathered(runs)
    rows = medians(every) | counted(range(2 if config.quick else 12))
    facts = {
        "cpu_s": round(time.process_time() - begun, 1),
        "held_out": {"people": len(held) // 200, "actions": HELD_OUT, "views": len(held)},
    }
    return Report("ordinal", f"{DATA}; held-out people, actions and cameras", rows, _gates(rows), every, facts)


NAMES = {"metric": "metric depths", "ordinal": "order alone", "flipped": "order, a tenth wrong", "random": "order drawn by lot"}


def _gates(rows: dict[str, dict[str, float]]) -> tuple[Gate, ...]:
    said, told = (rows[f"two views, {k}"]["mirrored limbs"] for k in ("nothing said", f"{WORDS} words"))
    turned = Gate(f"limbs still mirrored after {WORDS} words, share", told / max(said, 1.0), 0.5, at_least=False)
    zero = Gate("pose without depths over pose with them", rows["shipped, depths all zero"]["pose mm"] / rows["shipped"]["pose mm"], 1.1)
    if NAMES["ordinal"] not in rows:
        return zero, turned
    metric, alone, lot = (rows[NAMES[a]] for a in ("metric", "ordinal", "random"))
    return (
        Gate("pose of order alone over metric", alone["pose mm"] / metric["pose mm"], 1.15, at_least=False),
        Gate("pairs in order, learned from order alone", alone["pairs in order"], 0.75),
        Gate("pairs in order, drawn by lot (must be chance)", abs(lot["pairs in order"] - 0.5), 0.1, at_least=False),
        zero,
        turned,
    )

"""Recovery of people from what single views show: a regressor that corrects itself, and a critic that knows what people's joints do.

What is measured uses estimated keypoints and masks as the features of a view (the proxy), which can be sampled without end; nothing here
looks at an image.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from rich import print as tell
from torch import Tensor, nn

from rigs import makehuman, rotation
from rigs.anatomy import anatomy
from studio.nets import checkpoint
from studio.nets.checkpoint import Card
from studio.nets.recovery import LIMBED, STEPS, Guess, Recovery, relative
from studio.nets.shape import JOINTS, KEYPOINTS, SIZE, WINDOW
from studio.nets.shape import load as load_priors
from studio.train import sampled
from studio.train.jobs import Evaluation, Gate, Report, Training, gathered, medians
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.pool import VIEWS, Pool
from studio.train.recovery_images import COUNTS, image_errors, learn_to_see
from studio.train.sampled import Limbed, Sampled
from studio.train.shape import joint_rows, nearest

BATCH = 64
PRESETS = {"small": (2000, 1000), "full": (5000, 4000)}
"""People and steps."""
HELD_OUT = tuple(range(9100, 9130))
"""Seeds of the people that nothing is trained on, made by the other generator."""
BEYOND = 0.1
"""A joint breaks its limits when some angle is further out than this, rad."""
BROKEN = 0.35
"""How far out a planted fault puts a joint at least, rad."""
MASKLESS = 0.3
"""Share of views whose mask is withheld in training: not every take has masks."""
REPROJECTED, JUDGED = 60.0, 1.0
"""Weights of the reprojection (in half windows) and of the critic."""
DATA = "synthetic: estimated keypoints and masks of sampled bodies (no images); poses of scripted motions"


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    critic: bool = True
    steps: int = STEPS
    labels3d: bool = False
    """Whether pose and shape are labels too; else keypoints in the image are all there is."""
    views: tuple[int, ...] = (1,)
    exchanged: bool = False
    """Labels of somebody else: nothing can be learned."""


ARMS = {
    "2D labels, no critic": Arm(critic=False),
    "2D labels, critic": Arm(),
    "2D labels, critic, one step": Arm(steps=1),
}
SHIPPED = Arm(labels3d=True, views=(1, 2, VIEWS))
"""How the checkpoint that ships was trained."""


def joint_angles(R: Float[Tensor, "N J 3 3"]) -> Float[Tensor, "N J-1 3"]:
    """Angles of `JOINTS` but the root about their anatomical axes, rad."""
    limits, rows = anatomy(makehuman.load()), joint_rows()[1:]
    return (limits.axes[rows] @ rotation.log(R[:, 1:])[..., None])[..., 0]


def beyond(R: Float[Tensor, "N J 3 3"]) -> Float[Tensor, "N J-1"]:
    """How far the worst angle of each joint is outside what people can do, rad."""
    limits, rows, angle = anatomy(makehuman.load()), joint_rows()[1:], joint_angles(R)
    return torch.maximum(angle - limits.high[rows], limits.low[rows] - angle).clamp_min(0).amax(-1)


def batch_of(people: Sampled, views: Int[Tensor, "V"] | slice) -> dict[str, Tensor]:
    """Chosen views of everyone, with the truth in the axes of the first of them."""
    sight = sampled.Sight(*(x[:, views] for x in vars(people.sight).values()))
    R = people.R[:, joint_rows()]
    R[:, 0] = sight.R_view_world[:, 0] @ R[:, 0]
    return {
        "keypoints": people.keypoints[:, views], "masks": people.masks[:, views].float() / 255, "tilt": sight.tilt(),
        "R_view_first": relative(sight.R_view_world), "distance": sight.distance, "R": R, "shape": people.shape,
    }  # fmt: skip


def guesses(networks: Recovery, batch: dict[str, Tensor], steps: int = STEPS) -> list[Guess]:
    """What the regressor believes after each step."""
    B, N = batch["distance"].shape
    features = networks.proxy(batch["keypoints"].flatten(0, 1), batch["masks"].flatten(0, 1), batch["tilt"].flatten(0, 1))
    return networks.regressor(features.view(B, N, -1), batch["R_view_first"], steps=steps)


def keypoints(shape: Float[Tensor, "B S"], R: Float[Tensor, "B J 3 3"]) -> Float[Tensor, "B K 3"]:
    """Relative to the root joint, m, in the axes that the root's rotation is given in."""
    body = Limbed.made(R.device)
    return body.points(shape, R, body.keypoints)


def reprojected(points: Float[Tensor, "B K 3"], shift: Float[Tensor, "B 3"], batch: dict[str, Tensor]) -> Float[Tensor, "B N K 2"]:
    """Points relative to the root in the first view's axes, in the window of every view."""
    there = torch.einsum("bnij,bkj->bnki", batch["R_view_first"], points + shift[:, None])
    distance = batch["distance"][..., None, None]
    return there[..., :2] / (there[..., 2:] + distance).clamp_min(0.3) * (distance / (WINDOW / 2))


def labelled(guess: Guess, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Mean distance of reprojected keypoints from the labels (half windows), as far as they were seen; gross outliers count no more."""
    miss = (reprojected(keypoints(guess.shape, guess.R), guess.shift, batch) - batch["labels"][..., :2]).abs().clamp_max(1.0)
    return (miss * batch["labels"][..., 2:]).sum() / (2 * batch["labels"][..., 2].sum().clamp_min(1))


def train(config: Training) -> Path:
    """Trains regressor and critic and writes one checkpoint; a call that was stopped goes on when repeated."""
    people, steps = PRESETS[config.preset]
    path = config.out or checkpoint.trained("recovery")
    data, state = Pool(people, config.seed, path.with_suffix(".people.safetensors")), path.with_suffix(".state.safetensors")
    image = config.options.get("image", False)  # the trunk's weights would be half of the checkpoint
    networks = made(config.seed, image)
    networks.proxy.begun_from(load_priors().pose)
    for part in (networks.proxy.first, networks.proxy.units):  # what they know took longer to learn than all of this
        part.requires_grad_(False)
    loop = Loop(config.steps or steps, config.seed, config.minutes, device=config.device, precision="float32", events=config.events)
    if not learned(networks, data, loop, SHIPPED, state):
        tell(f"recovery: stopped before step {loop.steps}; the same command goes on")
        return path
    settle_usual(networks)
    seeing = path.with_suffix(".images.safetensors")
    if image and not learn_to_see(networks, config.preset, loop, seeing):
        tell("recovery: stopped while it learned to see images; the same command goes on")
        return path
    held = held_out(12)
    metrics = {f"{n}_views_{k}": round(v, 3) for n in (1, VIEWS) for k, v in errors(networks, held, n).items()}
    card = Card(
        "recovery", "recovery", {"shapes": len(makehuman.load().shape_names), "image": image}, KEYPOINTS, (SIZE, SIZE),
        {"window_m": WINDOW, "keypoints": "in the upright window, -1 to 1, and confidence"},
        {"rotations": list(JOINTS), "root": "in the axes of the first view", "critic": "one score a joint but the root; 1 is a person"},
        f"{DATA}; {people} people, {VIEWS} views each" + f"; rendered crops, {COUNTS[config.preset]} groups of four" * image,
        (config.seed,), loop.steps, metrics=metrics,
    )  # fmt: skip
    checkpoint.write(path, networks, card)
    path.with_suffix(".people.safetensors").unlink(missing_ok=True)
    state.unlink(missing_ok=True)
    seeing.unlink(missing_ok=True)
    return path


def made(seed: int, image: bool = False) -> Recovery:
    """Untrained networks."""
    torch.manual_seed(seed)
    return Recovery(len(makehuman.load().shape_names), image=image)


def learned(networks: Recovery, data: Pool, loop: Loop, arm: Arm, state: Path | None = None) -> bool:
    """Trains in place; whether it is done."""
    motions = rotation.exp(sampled.poses(range(5000 + 30 * loop.seed, 5024 + 30 * loop.seed)))[:, joint_rows()]
    seeing = nn.ModuleList([networks.proxy, networks.regressor])
    last: list[Guess] = []

    def batches(step: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(loop.seed * 100_003 + step)
        some = data()[torch.randint(data.people, (BATCH,), generator=g)]
        batch = batch_of(some, torch.randperm(VIEWS, generator=g)[: arm.views[step % len(arm.views)]])
        labels = batch["keypoints"][torch.randperm(BATCH, generator=g)] if arm.exchanged else batch["keypoints"]
        batch["masks"] = batch["masks"] * (torch.rand(*batch["distance"].shape, 1, 1, generator=g) > MASKLESS)
        real = motions[torch.randint(len(motions), (2 * BATCH,), generator=g)]
        wrong, where = broken(real[BATCH:], g)
        people = torch.randn(2 * BATCH, networks.regressor.shapes, generator=g)
        return batch | {"labels": labels, "real": real[:BATCH, 1:], "wrong": wrong[:, 1:], "where": where, "people": people}

    def regressed(batch: dict[str, Tensor]) -> Losses:
        last[:] = guesses(networks, batch, arm.steps)
        terms = {"reprojected": REPROJECTED * torch.stack([labelled(g, batch) for g in last]).mean()}
        if arm.critic:
            judged = torch.stack([(networks.critic(g.R[:, 1:], g.shape) - 1).square().sum(-1).mean() for g in last])
            terms["judged"] = JUDGED * judged.mean()
        else:
            terms["shape"] = 0.1 * last[-1].shape.square().mean()  # nobody else keeps the size of the coefficients in bounds
        if arm.labels3d:
            off = torch.stack([(g.R - batch["R"]).square().sum((-1, -2)).mean(0) for g in last]).mean(0)
            terms["labels"] = 10 * off.mean() + 3 * off[0]  # which way the person faces matters most
            own, true = keypoints(last[-1].shape, last[-1].R), keypoints(batch["shape"], batch["R"])
            terms["points"] = 40 * (own - true).norm(dim=-1).mean()
            terms["people"] = 0.3 * (last[-1].shape - batch["shape"]).square().mean()
        return terms

    def critical(batch: dict[str, Tensor]) -> Losses:
        fake = last[torch.randint(len(last), ())]
        R = torch.cat([batch["real"], fake.R[:, 1:].detach(), batch["wrong"]])
        shape = torch.cat([batch["people"][:BATCH], fake.shape.detach(), batch["people"][BATCH:]])
        real, faked, wrong = networks.critic(R, shape).chunk(3)
        aim = torch.ones_like(wrong)
        aim[:, :LIMBED] -= batch["where"].float()
        aim[:, LIMBED] = 0
        return {
            "real": (real - 1).square().sum(-1).mean(),
            "fake": faked.square().sum(-1).mean(),
            "planted": (wrong - aim).square().sum(-1).mean(),
        }

    players = [Player(seeing, regressed, rate=1e-3, average=0.99)]
    if arm.critic:
        players.append(Player(networks.critic, critical, rate=1e-3))
    recipe = {"arm": vars(arm) | {"views": list(arm.views)}, "people": data.people, "pool": data.seed}
    recipe["weights"] = [REPROJECTED, JUDGED]
    return learn(players, batches, replace(loop, recipe=recipe), state).done


def broken(R: Float[Tensor, "B J 3 3"], g: torch.Generator) -> tuple[Float[Tensor, "B J 3 3"], Tensor]:
    """The poses with one joint of each, not the root, turned by 60 to 140 degrees about any axis; and which (B, J-1), bool."""
    B = len(R)
    joint = torch.randint(1, R.shape[1], (B,), generator=g)
    axis = torch.randn(B, 3, generator=g)
    turn = axis / axis.norm(dim=-1, keepdim=True) * (1.05 + 1.4 * torch.rand(B, 1, generator=g))
    out = R.clone()
    out[torch.arange(B), joint] = rotation.exp(turn) @ R[torch.arange(B), joint]
    return out, joint[:, None] == torch.arange(1, R.shape[1])


def held_out(count: int = len(HELD_OUT)) -> Sampled:
    """People of the other generator in motions that nothing is trained on, the nearest shape of the model as theirs."""
    people = sampled.others(HELD_OUT[:count], 8, VIEWS, 78, sampled.poses(range(910, 914)))
    return replace(people, shape=nearest(people.rest))


@torch.no_grad()
def errors(networks: Recovery, people: Sampled, views: int = 1, steps: int = STEPS) -> dict[str, float]:
    """Of limb, trunk and head keypoints relative to the root, mm: as they are, and after the best similarity; joints out of limits."""
    batch = batch_of(people, slice(0, views))
    guess = guesses(networks, batch, steps)[-1]
    true = keypoints(batch["shape"], batch["R"])
    return {**compared(keypoints(guess.shape, guess.R), true), "violations %": 100 * violations(guess.R)}


def compared(found: Float[Tensor, "N K 3"], true: Float[Tensor, "N K 3"]) -> dict[str, float]:
    """Mean distances, mm: as they are, and after the best similarity of each (Procrustes)."""
    return {
        "error mm": 1000 * float((found - true).norm(dim=-1).mean()),
        "aligned mm": 1000 * float((aligned(found, true) - true).norm(dim=-1).mean()),
    }


def aligned(found: Float[Tensor, "N K 3"], true: Float[Tensor, "N K 3"]) -> Float[Tensor, "N K 3"]:
    """The points moved, turned and scaled as a whole to lie nearest to the true ones (Umeyama 1991)."""
    a, b = found - found.mean(1, keepdim=True), true - true.mean(1, keepdim=True)
    R = rotation.project_to_rotation(b.mT @ a)
    turned = a @ R.mT
    scale = (turned * b).sum((1, 2)) / a.square().sum((1, 2)).clamp_min(1e-9)
    return scale[:, None, None] * turned + true.mean(1, keepdim=True)


def violations(R: Float[Tensor, "N J 3 3"]) -> float:
    """Share of joints, of all poses, that are out of their limits."""
    return float((beyond(R) > BEYOND).float().mean())


def settle_usual(networks: Recovery) -> None:
    """Notes how the critic scores each joint on motions that it was not trained on."""
    with torch.no_grad():
        R = rotation.exp(sampled.poses(range(930, 936)))[:, joint_rows()]
        scores = networks.critic(R[:, 1:], R.new_zeros(len(R), networks.regressor.shapes))[:, :LIMBED]
        mean = scores.mean(0)
        networks.usual.copy_(torch.stack([mean, (mean - scores.quantile(0.001, 0)).clamp_min(0.05)]))


@torch.no_grad()
def named(networks: Recovery, seed: int = 3) -> dict[str, float]:
    """How often the critic's least plausible joint is the one that was broken; how well it tells broken poses from whole ones."""
    g = torch.Generator().manual_seed(seed)
    R = rotation.exp(sampled.poses(range(920, 926)))[:, joint_rows()]
    wrong, where = broken(R, g)
    out = (beyond(wrong) * where).amax(-1) > BROKEN
    score = networks.plausible(wrong)
    right = (score.argmax(-1) == where.float().argmax(-1))[out].float().mean()
    whole, bad = networks.plausible(R).amax(-1), score.amax(-1)[out]
    return {"named %": 100 * float(right), "told apart": float((bad[:, None] > whole[None]).float().mean())}


def evaluate(config: Evaluation) -> Report:
    """Pose errors on people of the other generator; trains the arms of each seed anew unless quick."""
    begun = time.process_time()
    held = held_out(6 if config.quick else len(HELD_OUT))
    shipped = checkpoint.read(config.weights or "recovery", Recovery, "recovery")[0]
    known = {f"shipped, {n} views": errors(shipped, held, n) for n in (1, 2, VIEWS)}
    known["shipped, keypoints of somebody else"] = errors(shipped, exchanged(held))
    known["shipped critic"] = named(shipped)
    if shipped.trunk is not None:
        known["shipped, one image"] = image_errors(shipped, 16 if config.quick else 64)
    batch = batch_of(held, slice(0, 1))
    true = keypoints(batch["shape"], batch["R"])
    still = torch.cat([batch["R"][:, :1], torch.eye(3).expand(len(held), LIMBED, 3, 3)], 1)
    known["standing still, facing as truth"] = compared(keypoints(torch.zeros_like(batch["shape"]), still), true)
    known["upper bound: truth"] = {"violations %": 100 * violations(batch["R"])}
    runs = []
    for seed in () if config.quick else config.seeds:
        rows = dict(known)
        people, steps = PRESETS["small"]
        for name, arm in ARMS.items():
            networks = made(seed)
            learned(networks, Pool(people, 60 + seed), Loop(steps, seed, precision="float32", device="cpu"), arm, _state(seed, name))
            rows[name] = errors(networks, held, 1, arm.steps)
            if name == "2D labels, critic":
                settle_usual(networks)
                rows["critic of the same training"] = named(networks)
        runs.append(rows)
    for seed in config.seeds:
        for name in ARMS:
            _state(seed, name).unlink(missing_ok=True)
    every = gathered(runs or [known])
    rows = medians(every)
    gates = [Gate("the broken joint is named, % of planted faults", rows["shipped critic"]["named %"], 80)]
    if runs:
        without, judged, once = (rows[name] for name in ARMS)
        gates += [
            Gate("joints out of limits without the critic, %", without["violations %"], 20),
            Gate("joints out of limits with the critic, %", judged["violations %"], 5, at_least=False),
            Gate("aligned error with the critic, share of that without", judged["aligned mm"] / without["aligned mm"], 0.9, at_least=False),
            Gate("aligned error of three steps, share of one step's", judged["aligned mm"] / once["aligned mm"], 1.0, at_least=False),
        ]
    facts = {"seconds_cpu": round(time.process_time() - begun, 1), "poses": len(held)}
    return Report(
        "recovery", f"{DATA}; held-out people of another generator, held-out motions and cameras", rows, tuple(gates), every, facts
    )


def _state(seed: int, name: str) -> Path:
    """Where a training for comparison is kept until all are done: an evaluation that was stopped goes on."""
    return checkpoint.trained("recovery").parent / "arms" / f"recovery_{list(ARMS).index(name)}_{seed}.safetensors"


def exchanged(people: Sampled) -> Sampled:
    """Everyone with the keypoints and masks of another."""
    half = len(people) // 2
    return replace(people, keypoints=people.keypoints.roll(half, 0), masks=people.masks.roll(half, 0))

"""Shape from masks and pose from keypoints, learned from sampled parameters alone; no image is rendered."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from rich import print as tell
from torch import Tensor

from rigs import makehuman
from studio.nets import checkpoint
from studio.nets.checkpoint import Card
from studio.nets.shape import JOINTS, KEYPOINTS, SIZE, WINDOW, PosePrior, Priors, ShapePrior, Sight
from studio.train import sampled
from studio.train.jobs import Evaluation, Gate, Report, Training, gathered, medians
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.pool import VIEWS, Pool
from studio.train.sampled import Limbed, Sampled

BATCH = 32
PRESETS = {"small": (3000, 2500), "full": (5000, 10000)}
"""People and steps."""
HELD_OUT = tuple(range(9000, 9040))
"""Seeds of the people that nothing is trained on, made by the other generator."""
UNIT = 0.02
"""Vertex errors are counted in this many metres, so that all losses have about unit size."""
DATA = "synthetic: bodies sampled in shape and pose, masks of projected skin with clothes' thickness, keypoints with detection noise"

Arm = Literal["vertices", "parameters", "shuffled"]
ARMS: tuple[Arm, ...] = ("vertices", "parameters", "shuffled")


def train(config: Training) -> Path:
    """Trains both networks and writes one checkpoint; a call that was stopped goes on when repeated."""
    people, steps = PRESETS[config.preset]
    path = config.out or checkpoint.trained("shape")
    data = Pool(people, config.seed, path.with_suffix(".people.safetensors"))
    networks = made(config.seed)
    loop = Loop(config.steps or steps, config.seed, config.minutes, device=config.device, precision="float32", events=config.events)
    if not _learned(networks, data, loop, "vertices", path.with_suffix(".state.safetensors")):
        tell(f"shape: stopped before step {loop.steps}; the same command goes on")
        return path
    held = sampled.others(HELD_OUT[:20], 4, VIEWS, 77, sampled.poses(range(900, 904)))
    networks.doubt.copy_(doubt(networks.shape, people=60))
    errors = {f"{n}_views_mm": round(tpose_error(networks.shape, held, n), 2) for n in (1, VIEWS)}
    card = Card(
        "shape", "shape", {"shapes": len(makehuman.load().shape_names)}, KEYPOINTS, (SIZE, SIZE),
        {"window_m": WINDOW, "mask": "0 to 1, how much of a pixel is the person, seen upright and straight at the hips"},
        {"shape": "coefficients of the default body", "pose": list(JOINTS), "doubt": "covariance of the shape's error, many views"},
        f"{DATA}; {people} people, {VIEWS} views each", (config.seed,), loop.steps, metrics=errors,
    )  # fmt: skip
    checkpoint.write(path, networks, card)
    path.with_suffix(".people.safetensors").unlink(missing_ok=True)
    path.with_suffix(".state.safetensors").unlink(missing_ok=True)
    return path


def made(seed: int) -> Priors:
    """Untrained networks."""
    torch.manual_seed(seed)
    return Priors(len(makehuman.load().shape_names))


def evaluate(config: Evaluation) -> Report:
    """T-pose vertex errors on people of the other generator, by number of views; trains the arms of each seed anew unless quick."""
    begun = time.process_time()
    count = 8 if config.quick else len(HELD_OUT)
    held = sampled.others(HELD_OUT[:count], 4, VIEWS, 77, sampled.poses(range(900, 904)))
    shipped = checkpoint.read(config.weights or "shape", Priors, "shape")[0]
    known = {"mean shape": _errors(lambda masks, views: masks.new_zeros(len(masks), len(makehuman.load().shape_names)), held)}
    known["upper bound: nearest body of the model"] = _errors(lambda masks, views: nearest(held.rest), held)
    known["shipped"] = _errors(shipped.shape, held)
    known["shipped, masks of somebody else"] = _errors(shipped.shape, _exchanged(held))
    runs = []
    for seed in () if config.quick else config.seeds:
        runs.append(known | {_named(arm): _errors(_arm(seed, arm).shape, held) for arm in ARMS})
    for seed in config.seeds:
        for arm in ARMS:
            _state(seed, arm).unlink(missing_ok=True)
    every = gathered(runs or [known])
    rows = medians(every)
    facts = {"seconds_cpu": round(time.process_time() - begun, 1), "people": count, "pose_prior": pose_errors(shipped.pose, held)}
    return Report("shape", f"{DATA}; held-out people of another generator", rows, gates_of(rows), every, facts)


def gates_of(rows: dict[str, dict[str, float]]) -> tuple[Gate, ...]:
    """The claims: of the checkpoint, and of the trainings for comparison as far as they were made."""
    error = lambda name, views=VIEWS: rows[name][f"{views} views mm"]  # noqa: E731
    less = lambda name, views: 1 - error(name, views) / error("mean shape", views)  # noqa: E731
    gates, own = [], _named("vertices")
    for name in ("shipped", own):
        if name in rows:
            gates += [
                Gate(f"{name}: T-pose vertex error below the mean shape's, one view", less(name, 1), 0.2),
                Gate(f"{name}: T-pose vertex error below the mean shape's, four views", less(name, VIEWS), 0.4),
            ]
    if own in rows:
        gates += [
            Gate("per-vertex loss: error below that of the parameter loss, four views", 1 - error(own) / error(_named("parameters")), 0.07),
            Gate("trained on masks of somebody else: no gain", less(_named("shuffled"), VIEWS), 0.05, at_least=False),
        ]
    return tuple(gates)


def _named(arm: str) -> str:
    return {"vertices": "per-vertex loss", "parameters": "parameter loss", "shuffled": "trained on masks of somebody else"}[arm]


def _arm(seed: int, arm: Arm) -> Priors:
    people, steps = PRESETS["small"]
    networks, state = made(seed), _state(seed, arm)
    _learned(networks, Pool(people, 50 + seed), Loop(steps, seed, precision="float32", device="cpu"), arm, state, pose=False)
    return networks


def _state(seed: int, arm: str) -> Path:
    """Where a training for comparison is kept until all are done: an evaluation that was stopped goes on."""
    return checkpoint.trained("shape").parent / "arms" / f"shape_{arm}_{seed}.safetensors"


@dataclass(frozen=True)
class _Ruler:
    """What errors are measured with: the model's rest vertices, relative to the root joint."""

    mean: Float[Tensor, "P 3"]
    basis: Float[Tensor, "P 3 S"]

    @staticmethod
    def made() -> _Ruler:
        body, which = makehuman.load(), sampled.few()
        skin = body.skin
        return _Ruler(skin.rest[which] - body.joints[0], skin.shape_basis[which] - body.joint_shape_basis[0])

    def rest(self, shape: Float[Tensor, "N S"]) -> Float[Tensor, "N P 3"]:
        return self.mean.to(shape) + torch.einsum("pcs,ns->npc", self.basis.to(shape), shape)


def _learned(networks: Priors, data: Pool, loop: Loop, arm: Arm, state: Path | None = None, pose: bool = True) -> bool:
    """Trains in place; whether it is done."""
    ruler = _Ruler.made()

    def batches(step: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(loop.seed * 100_003 + step)
        which = torch.randint(data.people, (BATCH,), generator=g)
        views = (1, 2, VIEWS)[step % 3]
        chosen = torch.randperm(VIEWS, generator=g)[:views]
        some = data()[which]
        shown = some[torch.randperm(BATCH, generator=g)] if arm == "shuffled" else some
        masks, views = shown.masks[:, chosen].float() / 255, some.views[:, chosen]
        if step % 2:  # bodies are symmetric: in a mirror they have the same shape
            masks, views = masks.flip(-1), views * views.new_tensor([-1, 1, 1, 1])
        return {"masks": masks, "views": views, "rest": some.rest, **_pose_batch(some, int(chosen[0]))}

    def shape_loss(batch: dict[str, Tensor]) -> Losses:
        found = networks.shape(batch["masks"], batch["views"])
        parameters = (found - batch["shape"]).square().mean()
        if arm == "parameters":
            return {"parameters": parameters}
        return {"vertices": ((ruler.rest(found) - batch["rest"]) / UNIT).square().sum(-1).mean(), "parameters": 0.05 * parameters}

    players = [Player(networks.shape, shape_loss, rate=2e-3, average=0.99)]
    if pose:
        players.append(Player(networks.pose, lambda batch: pose_loss(networks.pose, batch), rate=1e-3, average=0.99))
    return learn(players, batches, replace(loop, recipe={"arm": arm, "people": data.people, "pool": data.seed, "pose": pose}), state).done


def _pose_batch(people: Sampled, view: int) -> dict[str, Tensor]:
    """One view of everyone, in the axes of that view."""
    sight = Sight(*(x[:, view] for x in vars(people.sight).values()))
    R = people.R[:, joint_rows()]
    R[:, 0] = sight.R_view_world @ R[:, 0]
    return {"keypoints": people.keypoints[:, view], "tilt": sight.tilt(), "R": R, "shape": people.shape, "distance": sight.distance}


def pose_loss(network: PosePrior, batch: dict[str, Tensor]) -> Losses:
    """Rotations as matrices, vertices of the posed body, and keypoints in the window."""
    found = network(batch["keypoints"], batch["tilt"])
    body = Limbed.made(found.device)
    terms = {"rotations": (found - batch["R"]).square().sum((-1, -2)).mean(), "posed": found.new_zeros(())}
    for skin in (body.vertices, body.keypoints):
        own, true = (body.points(batch["shape"], R, skin) for R in (found, batch["R"]))
        terms["posed"] = terms["posed"] + ((own - true) / 0.1).square().sum(-1).mean()
    # `own` are the keypoints now. What is far off is the detection's error.
    miss = (window(own, batch["distance"]) - batch["keypoints"][..., :2]).abs().clamp_max(0.25) * batch["keypoints"][..., 2:]
    return terms | {"projected": 5 * miss.mean()}


def joint_rows() -> Tensor:
    """Where the networks' joints are among the body's."""
    return torch.tensor([makehuman.load().skeleton.index(n) for n in JOINTS])


def window(points: Float[Tensor, "N K 3"], distance: Float[Tensor, "N"]) -> Float[Tensor, "N K 2"]:
    """Points relative to the root in a view's axes, in its window."""
    depth = (points[..., 2:] + distance[:, None, None]).clamp_min(0.2)
    return points[..., :2] / depth * (distance[:, None, None] / (WINDOW / 2))


def nearest(rest: Float[Tensor, "N P 3"]) -> Float[Tensor, "N S"]:
    """The model's shape nearest to rest vertices, in the least-squares sense: the best that any estimate can do."""
    ruler = _Ruler.made()
    A = ruler.basis.flatten(0, 1).double()
    b = (rest - ruler.mean).flatten(1).double()
    return torch.linalg.lstsq(A, b.T).solution.T.float()


@torch.no_grad()
def tpose_error(estimate: Callable[[Tensor, Tensor], Tensor], people: Sampled, views: int) -> float:
    """Mean distance of rest vertices, relative to the root joint, mm; every choice of neighbouring views once."""
    errors = []
    for first in range(0, VIEWS, views):
        shown = slice(first, first + views)
        found = torch.cat(
            [estimate(people.masks[i : i + 64, shown].float() / 255, people.views[i : i + 64, shown]) for i in range(0, len(people), 64)]
        )
        found = found[: len(people)]
        errors.append(1000 * (_Ruler.made().rest(found) - people.rest).norm(dim=-1).mean())
    return float(torch.stack(errors).mean())


def _errors(estimate: Callable[[Tensor, Tensor], Tensor], people: Sampled) -> dict[str, float]:
    return {f"{n} views mm": tpose_error(estimate, people, n) for n in (1, 2, VIEWS)}


def _exchanged(people: Sampled) -> Sampled:
    """Everyone with the masks of the person after."""
    return replace(people, masks=people.masks.roll(len(people) // 2, 0))


@torch.no_grad()
def doubt(network: ShapePrior, people: int) -> Float[Tensor, "S S"]:
    """Covariance of the shape's error where a person is seen in many poses and views; people of the other generator, none of `HELD_OUT`.

    So few people do not tell how the errors of all coefficients go together: most of what they seem to tell of that is left out.
    """
    bank, gaps = sampled.poses(range(940, 944)), []
    for seed in range(8000, 8000 + people):
        one = sampled.others([seed], 3, VIEWS, seed, bank)
        found = network(one.masks.flatten(0, 1)[None].float() / 255, one.views.flatten(0, 1)[None])
        gaps.append(found - nearest(one.rest[:1]))
    gap = torch.cat(gaps)
    together = gap.T @ gap / len(gap)
    return 0.3 * together + 0.7 * torch.diag(together.diagonal()) + 0.02 * torch.eye(gap.shape[1])


@torch.no_grad()
def pose_errors(network: PosePrior, people: Sampled) -> dict[str, float]:
    """Mean distance of keypoints relative to the root, mm, from one view: the network's, and that of the rest pose facing as truth does."""
    batch = _pose_batch(replace(people, shape=nearest(people.rest)), 0)
    still = torch.cat([batch["R"][:, :1], torch.eye(3).expand_as(batch["R"][:, 1:])], 1)
    body = Limbed.made()
    keys = lambda R: body.points(batch["shape"], R, body.keypoints)  # noqa: E731
    error = lambda R: float(1000 * (keys(R) - keys(batch["R"])).norm(dim=-1).mean())  # noqa: E731
    found = network(batch["keypoints"], batch["tilt"])
    return {"pose_prior_mm": error(found), "rest_pose_mm": error(still)}

"""Trains and measures the network of dense surface correspondences (`studio.nets.surface`) on synthetic crops.

Errors are distances along the skin. GPS is DensePose's geodesic point similarity, the mean over a person's pixels of
exp(-d^2 / (2 k^2)) with k = 0.255 m; its average precision that over thresholds 0.5 to 0.95 of the share of people above them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from studio.nets.checkpoint import Card, read, trained, write
from studio.nets.hourglass import BODY, DEVIATION, MEAN, normalised
from studio.nets.surface import Dense, Skin, SurfaceNet, middles_of, shown
from studio.train.geodesics import Geodesics
from studio.train.jobs import Evaluation, Gate, Report, Training, gathered, medians
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.performers import model, topology
from studio.train.scenes import SceneConfig, Scenes, held_out
from studio.train.shards import SHARD, cached, drawn, folder_of
from studio.train.surface_crops import UNKNOWN, Skins, middles, nearest_vertices

NETWORK = "surface"
GPS = 0.255
"""k of the geodesic point similarity, m."""
POINTS = 20
"""Pixels of each person that are measured."""
LABELLED = 60
"""Pixels of a person that people label."""
DATA = "synthetic people alone (studio.train.scenes)"


@dataclass(frozen=True)
class Plan:
    """One way to train it."""

    groups: int = 128
    """Samples of four crops that are learned from."""
    steps: int = 400
    batch: int = 32
    rate: float = 3e-3
    widths: tuple[int, ...] = (32, 64, 96, 128)
    top: int = 48
    average: float = 0.98
    """Memory of the running mean of the weights, per step."""
    mixed: bool = False
    """bfloat16 on a processor too: faster where it knows that format."""

    @property
    def scenes(self) -> SceneConfig:
        """What is learned from."""
        return SceneConfig(size=64, cameras=4, maps=("mask", "part", "surface"))

    def build(self) -> SurfaceNet:
        """The bare network."""
        return SurfaceNet(len(topology().part_names), len(BODY), self.widths, self.top)


PLANS = {"small": Plan(), "full": Plan(groups=2048, steps=5000, average=0.995, mixed=True)}
ARMS = Plan(groups=128, steps=150, widths=(16, 32, 48, 64), top=24, mixed=True)
"""Small trainings for comparison."""


def crops(config: SceneConfig, groups: int) -> Skins:
    """The first crops of a config, drawn where they are not; a file of scenes at a time is in memory."""
    if drawn(config) < groups:
        cached(config, groups, maps=())
    return Skins.joined([Skins.of(s) for s in _files(config, groups)])


def _files(config: SceneConfig, groups: int) -> Iterator[Scenes]:
    for i in range(-(-groups // SHARD)):
        yield Scenes.load(folder_of(config) / f"{i:05d}.safetensors")[: groups - i * SHARD]


def balance(data: Skins) -> Float[Tensor, "256"]:
    """How much the choice of part counts: more where small parts are, and people rather than the background."""
    count = torch.bincount(data.part.flatten().long(), minlength=256)[1 : len(middles()) + 1].float()
    weight = torch.ones(256)
    weight[1 : len(count) + 1] = 1.5 * (count.mean() / count.clamp_min(1)).sqrt().clamp(0.7, 4)
    weight[UNKNOWN] = 0
    return weight


def losses(dense: Dense, batch: dict[str, Tensor], worth: Float[Tensor, "256"]) -> Losses:
    """Cross entropy of the part; the Laplace distribution's negative logarithm of where, of the true part."""
    part, weight = batch["part"], batch["weight"]
    known = part != UNKNOWN
    choice = functional.cross_entropy(dense.part, torch.where(known, part, 0), reduction="none")
    on = known & (part > 0)
    counts = weight * worth[part]
    off = dense.at((part - 1).clamp(0, dense.where.shape[1] - 1)) + middles().to(weight)[(part - 1).clamp(0, len(middles()) - 1)].movedim(
        -1, 1
    )
    r = ((off - batch["rest"]).square().sum(1) + 1e-6).sqrt()
    b = dense.scale()
    said = torch.where(on, 2 * (b / 0.1).log() + r / b, 0)
    share = (weight * on).sum().clamp_min(1)
    return {
        "part": (choice * counts).sum() / counts.sum().clamp_min(1),
        "where": 0.5 * (said * weight).sum() / share,
    }


def fitted(plan: Plan, data: Skins, loop: Loop, state: Path | None = None) -> tuple[SurfaceNet, bool]:
    """The network after the loop's steps, and whether they all were made."""
    torch.manual_seed(loop.seed)
    network = plan.build().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    worth = balance(data)
    loss = lambda b: losses(network(b["images"], b["points"]), b, worth.to(b["images"].device))  # noqa: E731
    player = Player(network, loss, plan.rate, 1e-3, plan.average)
    recipe = {k: v for k, v in asdict(plan).items() if k not in ("steps", "average", "mixed")} | {"data": folder_of(plan.scenes).name}
    loop = replace(loop, recipe=recipe, precision="mixed" if plan.mixed else loop.precision)
    return network, learn(player, lambda step: data.batch(step, plan.batch, loop.seed), loop, state).done


def train(config: Training) -> Path:
    """The checkpoint's file; with `minutes`, the state's file where steps are still to be made."""
    plan = PLANS[config.preset]
    steps, path = config.steps or plan.steps, config.out or trained(NETWORK)
    state = path.with_suffix(".state.safetensors")
    data = crops(replace(plan.scenes, seed=config.seed), plan.groups)
    loop = Loop(steps, config.seed, config.minutes, device=config.device, events=config.events)
    network, done = fitted(plan, data, loop, state)
    if not done:
        print(f"{NETWORK}: time is up; the same command goes on")
        return state
    write(path, network, carded(network, plan, config.seed, steps, len(data)))
    state.unlink(missing_ok=True)
    return path


def carded(network: SurfaceNet, plan: Plan, seed: int, steps: int, count: int) -> Card:
    """The card of a trained network; its doubt is scaled on people of the other kind in the training's clothes, actions and distances."""
    data = crops(replace(held_out(plan.scenes), split="train", seed=77), SHARD)
    skin, hit = looked(network, data), data.part > 0
    off = (skin.rest[hit] - data.rest[hit].float()).norm(dim=-1)
    scale = float((off / (2**0.5 * skin.sigma[hit])).median()) / 0.84  # of two directions: the median of r is 1.18 sigma
    decoding = {"middles": [[round(float(x), 4) for x in m] for m in middles()], "scale": round(scale, 3)}
    architecture = {"parts": len(middles()), "keypoints": len(BODY), "widths": list(plan.widths), "top": plan.top}
    normal = {"mean": MEAN, "deviation": DEVIATION}
    metrics = {"calibration_median_mm": round(1000 * float(off.median()), 1)}
    told = f"{DATA}: {count} crops"
    return Card(NETWORK, NETWORK, architecture, BODY, (64, 64), normal, decoding, told, (seed,), steps, metrics=metrics)


@torch.no_grad()
def looked(network: SurfaceNet, data: Skins, scale: float = 1.0, lot: Tensor | None = None) -> Skin:
    """What the network sees in all crops, 64 at a time; with `lot`, in the images of other ones."""
    network.eval()
    parts, points = [], data.seen_points(0)
    lot = torch.arange(len(data)) if lot is None else lot
    for i in range(0, len(data), 64):
        given = normalised(data.images[lot[i : i + 64]]).contiguous(memory_format=torch.channels_last)
        parts.append(shown(network(given, points[i : i + 64]), middles(), scale))
    return Skin(*(torch.cat([getattr(p, f) for p in parts]) for f in Skin.__dataclass_fields__))


@lru_cache
def geodesics() -> Geodesics:
    """Of the default body at rest."""
    return Geodesics.of(model().skin.rest.numpy(), topology().triangles)


@dataclass(frozen=True)
class Picked:
    """Some seen pixels of every person, and where they are on the skin."""

    crop: np.ndarray
    pixel: np.ndarray
    vertex: np.ndarray
    part: np.ndarray

    @classmethod
    def of(cls, data: Skins, seed: int) -> Picked:
        """At most `POINTS` a person."""
        lot = torch.rand(data.part.shape, generator=torch.Generator().manual_seed(seed)) * (data.part > 0)
        value, pick = lot.flatten(1).topk(POINTS, 1)
        crop = torch.arange(len(data))[:, None].expand_as(pick)[value > 0]
        pick = pick[value > 0]
        rest = data.rest.flatten(1, 2)[crop, pick].float().numpy()
        vertex = nearest_vertices(rest, None, geodesics().reached)
        return cls(crop.numpy(), pick.numpy(), vertex, data.part.flatten(1, 2)[crop, pick].numpy())


def measured(skin: Skin, data: Skins, seed: int = 0, swap: np.ndarray | None = None) -> dict[str, float]:
    """Errors along the skin; a pixel that is not seen as the person's counts as infinitely far off. `swap` renames the parts seen."""
    return compared({"": skin if swap is None else renamed(skin, swap)}, data, seed)[""]


def renamed(skin: Skin, swap: np.ndarray) -> Skin:
    """With other parts; places go along with the part that is named."""
    part = torch.from_numpy(swap)[skin.part]
    return replace(skin, part=part, rest=skin.rest + middles()[part] - middles()[skin.part])


def compared(skins: dict[str, Skin], data: Skins, seed: int = 0) -> dict[str, dict[str, float]]:
    """As `measured`, of several answers to the same crops: ways along the skin are sought once."""
    at = Picked.of(data, seed)
    take = lambda x: x.flatten(1, 2)[at.crop, at.pixel].numpy()  # noqa: E731
    found = [nearest_vertices(take(s.rest), take(s.part), geodesics().reached) for s in skins.values()]
    off = geodesics().between(at.vertex, np.stack(found))
    return {name: _scores(s, data, at, np.where(take(s.seen), d, np.inf), take) for (name, s), d in zip(skins.items(), off, strict=True)}


def _scores(skin: Skin, data: Skins, at: Picked, off: np.ndarray, take: Callable[[Tensor], np.ndarray]) -> dict[str, float]:
    people = np.bincount(at.crop, minlength=len(data))
    gps = np.bincount(at.crop, np.exp(-(off**2) / (2 * GPS**2)), len(data))[people > 0] / people[people > 0]
    both, either = ((skin.seen & (data.part > 0)), (skin.seen | (data.part > 0)))
    overlap = both.sum((1, 2)).numpy()[people > 0] / either.sum((1, 2)).clamp_min(1).numpy()[people > 0]
    thresholds = np.arange(0.5, 0.96, 0.05)
    precision = lambda x: float(np.mean([(x >= t).mean() for t in thresholds]))  # noqa: E731
    return {
        "median mm": 1000 * float(np.median(off)),
        "within 100 mm": float((off < 0.1).mean()),
        "part right": float(((take(skin.part) + 1 == at.part) & take(skin.seen)).mean()),
        "GPS": float(gps.mean()),
        "GPS AP": precision(gps),
        "GPSm AP": precision(np.sqrt(gps * overlap)),
        "IoU": float(overlap.mean()),
    }


def mean_person(data: Skins, held: Skins) -> Skin:
    """What can be said without looking: the commonest part and the mean place of every pixel of the crop, where the person is."""
    hit = (data.part > 0).float()
    rest = (data.rest.float() * hit[..., None]).sum(0) / hit.sum(0).clamp_min(1)[..., None]
    votes = torch.stack([(data.part == i + 1).sum(0) for i in range(len(middles()))], -1)
    wide = lambda x: x.expand(len(held), *x.shape)  # noqa: E731
    return Skin(held.part > 0, wide(votes.argmax(-1)), wide(rest), torch.ones(held.part.shape))


def evaluate(config: Evaluation) -> Report:
    """Errors of a checkpoint on held-out synthetic people, actions, clothes, rooms and cameras; what few labels are worth, unless quick."""
    network, card = read(config.weights or NETWORK, SurfaceNet, NETWORK)
    scale = float(card.decoding.get("scale", 1.0))
    middles_of(card)
    plan, runs = Plan(), []
    small = crops(plan.scenes, 64 if config.quick else ARMS.groups)
    for seed in config.seeds:
        held = crops(replace(held_out(plan.scenes), seed=seed), 6 if config.quick else 32)
        skin = looked(network, held, scale)
        lot = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))
        skins = {
            "surface": skin,
            "control: parts permuted": renamed(skin, np.roll(np.arange(len(middles())), 5)),
            "control: another crop's answer": Skin(held.part > 0, skin.part[lot], skin.rest[lot], skin.sigma),
            "keypoints with another crop's image": looked(network, held, scale, lot),
            "mean person": mean_person(small, held),
        }
        skins |= {} if config.quick else few_labels(small, held, seed)
        rows = compared(skins, held, seed)
        hit = skin.seen & (held.part > 0)
        off = (skin.rest[hit] - held.rest[hit].float()).norm(dim=-1)
        rows["surface"] |= {"error over doubt": float((off / (1.18 * skin.sigma[hit])).median())}
        runs.append(rows)
    every = gathered(runs)
    rows = medians(every)
    told = f"synthetic held-out people, actions, clothes, rooms, cameras; 64 px, {card.steps} steps"
    return Report(NETWORK, told, rows, _gates(rows), every, {"card": asdict(card), "seeds": list(config.seeds), "k": GPS})


def few_labels(data: Skins, held: Skins, seed: int) -> dict[str, Skin]:
    """What is learned from `LABELLED` pixels a person, from these and what a teacher who learned from them says of the others, and from
    all pixels. All make as many steps as teacher and pupil together."""
    few = data.sparse(LABELLED, seed)
    loop = lambda steps: Loop(steps, seed)  # noqa: E731
    teacher, _ = fitted(ARMS, few, loop(ARMS.steps))
    pupil, _ = fitted(ARMS, inpainted(few, looked(teacher, few)), loop(ARMS.steps))
    own, _ = fitted(ARMS, few, loop(2 * ARMS.steps))
    whole, _ = fitted(ARMS, data, loop(2 * ARMS.steps))
    arms = {f"small, {LABELLED} labels": own, "small, labels inpainted by a teacher": pupil, "small, every pixel labelled": whole}
    return {name: looked(network, held) for name, network in arms.items()}


def inpainted(few: Skins, said: Skin, least: float = 0.25) -> Skins:
    """Pixels without a label take the teacher's word: it counts for less (down to `least`) where the teacher doubts."""
    gap = few.part == UNKNOWN
    doubt = (said.sigma / said.sigma[gap].median()).clamp(1, 1 / least)
    return replace(
        few,
        part=torch.where(gap, said.part.to(torch.uint8) + 1, few.part),
        rest=torch.where(gap[..., None], said.rest.half(), few.rest),
        weight=torch.where(gap, (1 / doubt).half(), few.weight),
    )


def _gates(rows: dict[str, dict[str, float]]) -> tuple[Gate, ...]:
    own, permuted, blind = rows["surface"], rows["control: parts permuted"], rows["control: another crop's answer"]
    return (
        Gate("median error along the skin, mm", own["median mm"], 40.0, at_least=False),
        Gate("GPS AP", own["GPS AP"], 0.6),
        Gate("control: GPS AP with parts permuted", permuted["GPS AP"], 0.05, at_least=False),
        Gate("control: GPS AP of another crop's answer", blind["GPS AP"], 0.2, at_least=False),
        Gate("GPS over that of the mean person", own["GPS"] / rows["mean person"]["GPS"], 1.3),
        Gate("|error over doubt - 1|", abs(own["error over doubt"] - 1), 0.25, at_least=False),
    )

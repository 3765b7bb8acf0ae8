"""The one training loop: any networks, seeded, resumable, limited by steps and by time, told as progress and as TensorBoard events.

A batch is asked for by its step, so what a step sees depends on nothing but the seed and the step: a run that was stopped and
taken up again ends where an uninterrupted one would (on the CPU to the bit).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Losses = dict[str, Tensor]
"""Named terms, scalars; their sum is minimised."""


@dataclass(frozen=True)
class Loop:
    """How to learn."""

    steps: int = 1000
    seed: int = 0
    minutes: float | None = None
    """Stop after this long; calling again goes on."""
    warm_up: float = 0.03
    """Share of the steps over which the rate rises from 0; then it falls along a cosine to 0."""
    clip: float = 1.0
    """Longest gradient, by its norm."""
    device: str = "auto"
    precision: Literal["auto", "float32", "mixed"] = "auto"
    """`auto`: mixed (bfloat16) on a GPU, float32 on a processor."""
    save_every: float = 30.0
    """s between writings of the state."""
    events: Path | None = None
    """Folder for TensorBoard's events."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Whatever else decides the result (data, architecture): a state of another recipe is refused."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"training: steps is {self.steps}; it must be at least 1")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"training: minutes is {self.minutes}; it must be above 0")


@dataclass
class Player:
    """A network with its own loss and optimiser (AdamW). Two of them against each other are a generator and a critic."""

    network: nn.Module
    loss: Callable[[Any], Losses]
    """Batch (as `batches` gave it, on the loop's device) -> terms. Calls the network itself; gradients it causes elsewhere are dropped."""
    rate: float = 1e-3
    decay: float = 1e-2
    """Of weights with at least two axes."""
    average: float = 0.0
    """Memory of the running mean of the weights, per step (such as 0.999); 0 for none. The network ends as that mean."""
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Progressed:
    """Where a run stands."""

    step: int
    """How many were made, those of earlier calls included."""
    done: bool
    losses: dict[str, float]
    """Of the last step."""
    seconds: float
    """Of this call."""


def device_of(name: str) -> torch.device:
    """The device that a setting means: `auto` is a GPU where there is one. `ValueError` where a GPU is asked for and there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: torch sees no such GPU here; use cpu or auto (`studio doctor` tells more)")
    return torch.device(name)


def learn(players: Sequence[Player] | Player, batches: Callable[[int], Any], loop: Loop, state: Path | None = None) -> Progressed:
    """Trains the players' networks in place; they end in evaluation mode on the CPU.

    `batches(step)` gives nested dicts, lists and tuples of tensors. With `state` (*.safetensors), all that is needed to go on is written
    there now and then and when the call ends or is interrupted; what an earlier call left there is taken up. `ValueError` names a state
    that is damaged or of another recipe, and a loss that is not finite.
    """
    players = [players] if isinstance(players, Player) else list(players)
    device = device_of(loop.device)
    run = _Run(players, loop, device)
    begun = time.monotonic()
    step = run.resume(state) if state is not None and state.is_file() else 0
    first, losses, saved = step, {}, begun
    with _random(device), _events(loop.events) as event, _bar(loop.steps) as (bar, task):
        try:
            while step < loop.steps and not (loop.minutes and time.monotonic() - begun > 60 * loop.minutes and step > first):
                losses = run.step(step, batches(step))
                step += 1
                bar.update(task, completed=step, description=" ".join(f"{k} {v:.4g}" for k, v in losses.items()))
                for name, value in losses.items():
                    event(name, value, step)
                if state is not None and time.monotonic() - saved > loop.save_every:
                    run.save(state, step)
                    saved = time.monotonic()
        finally:
            if state is not None and step > first:
                run.save(state, step)
            run.finish()
    return Progressed(step, step >= loop.steps, losses, time.monotonic() - begun)


class _Run:
    """Networks, optimisers and running means in the middle of learning."""

    def __init__(self, players: list[Player], loop: Loop, device: torch.device) -> None:
        self.players, self.loop, self.device = players, loop, device
        mixed = loop.precision == "mixed" or (loop.precision == "auto" and device.type == "cuda")
        self.context: Callable[[], Any] = (lambda: torch.autocast(device.type, torch.bfloat16)) if mixed else nullcontext
        self.optimisers, self.means = [], []
        for player in players:
            network = player.network.to(device).train()
            groups = [[p for p in network.parameters() if (p.ndim > 1) == wide and p.requires_grad] for wide in (True, False)]
            decays = [player.decay, 0.0]
            self.optimisers.append(
                torch.optim.AdamW(
                    [{"params": g, "weight_decay": d} for g, d in zip(groups, decays, strict=True) if g],
                    lr=player.rate,
                    betas=player.betas,
                    fused=True,  # on a processor, too: a small network's step would take a third of the time otherwise
                )
            )
            self.means.append({k: v.detach().clone() for k, v in network.state_dict().items()} if player.average else {})

    def step(self, step: int, batch: Any) -> dict[str, float]:
        """One turn of every player; the values of their losses."""
        torch.manual_seed((self.loop.seed * 1_000_003 + step) % 2**63)
        batch = moved(batch, self.device)
        told: dict[str, float] = {}
        for i, (player, optimiser) in enumerate(zip(self.players, self.optimisers, strict=True)):
            for group in optimiser.param_groups:
                group["lr"] = player.rate * rate_at(step, self.loop)
            optimiser.zero_grad(set_to_none=True)
            with self.context():
                losses = player.loss(batch)
                total = torch.stack([v.float() for v in losses.values()]).sum()
            values = {k: float(v.detach()) for k, v in losses.items()}
            if not math.isfinite(sum(values.values())):
                raise ValueError(f"training: the loss is {values} at step {step + 1}; train with a lower rate, or see what the batch holds")
            total.backward()
            nn.utils.clip_grad_norm_(player.network.parameters(), self.loop.clip)
            optimiser.step()
            self._remember(i, step)
            told |= values if len(self.players) == 1 else {f"{k}_{i}" if k in told else k: v for k, v in values.items()}
        return told

    @torch.no_grad()
    def _remember(self, i: int, step: int) -> None:
        # At the beginning the mean is short, else it would keep the random start.
        keep = min(self.players[i].average, (1 + step) / (10 + step))
        for name, value in self.players[i].network.state_dict().items() if self.means[i] else ():
            mean = self.means[i][name]
            mean.lerp_(value, 1 - keep) if mean.is_floating_point() else mean.copy_(value)

    def save(self, path: Path, step: int) -> None:
        """Everything, under a temporary name first; no pickle."""
        tensors: dict[str, Tensor] = {}
        for i, (player, optimiser) in enumerate(zip(self.players, self.optimisers, strict=True)):
            tensors |= {f"network{i}/{k}": v for k, v in player.network.state_dict().items()}
            tensors |= {f"mean{i}/{k}": v for k, v in self.means[i].items()}
            for number, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser{i}/{number}/{k}": v for k, v in slots.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        facts = {"kind": "training", "step": str(step), "recipe": json.dumps(self._recipe())}
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, facts)
        temporary.replace(path)

    def resume(self, path: Path) -> int:
        """The step to go on from; everything is as it was then."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable training state ({error}); delete it to begin anew") from error
        if facts.get("kind") != "training" or json.loads(facts["recipe"]) != json.loads(json.dumps(self._recipe())):
            raise ValueError(f"{path}: is of another training ({facts.get('recipe')}); delete it to begin anew, or choose another --out")
        for i, (player, optimiser) in enumerate(zip(self.players, self.optimisers, strict=True)):
            player.network.load_state_dict(_under(tensors, f"network{i}/"))
            self.means[i] = {k: v.to(self.device) for k, v in _under(tensors, f"mean{i}/").items()}
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(tensors, f"optimiser{i}/").items():
                number, name = key.split("/")
                slots.setdefault(int(number), {})[name] = value
            optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
        return int(facts["step"])

    def _recipe(self) -> dict[str, Any]:
        rates = [[p.rate, p.decay, p.average, *p.betas] for p in self.players]
        return {"seed": self.loop.seed, "clip": self.loop.clip, "rates": rates, **self.loop.recipe}

    def finish(self) -> None:
        """Running means become the weights."""
        for player, mean in zip(self.players, self.means, strict=True):
            if mean:
                player.network.load_state_dict(mean)
            player.network.cpu().eval()


def rate_at(step: int, loop: Loop) -> float:
    """The learning rate's factor, 0 to 1: a linear rise, then half a cosine."""
    rise = max(1, round(loop.warm_up * loop.steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(loop.steps - rise, 1)))


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {k: moved(v, device) for k, v in batch.items()}
    return type(batch)(moved(v, device) for v in batch) if isinstance(batch, list | tuple) else batch


def _under(tensors: dict[str, Tensor], lead: str) -> dict[str, Tensor]:
    return {k.removeprefix(lead): v for k, v in tensors.items() if k.startswith(lead)}


def _random(device: torch.device) -> Any:
    """Random numbers outside the loop go on as if it had not been."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


class _events:
    """Writes scalars for TensorBoard; does nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.writer: Any = None
        if folder is not None:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ValueError("--events needs tensorboardX; install it with: pip install 'mocap-studio[train]'") from error
            self.writer = SummaryWriter(str(folder))

    def __enter__(self) -> Callable[[str, float, int], None]:
        return (lambda *_: None) if self.writer is None else self.writer.add_scalar

    def __exit__(self, *error: Any) -> None:
        if self.writer is not None:
            self.writer.close()


class _bar:
    """Progress with the time that remains at the rate so far."""

    def __init__(self, steps: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, transient=True)
        self.task = self.progress.add_task("", total=steps)

    def __enter__(self) -> tuple[Progress, Any]:
        self.progress.start()
        return self.progress, self.task

    def __exit__(self, *error: Any) -> None:
        self.progress.stop()

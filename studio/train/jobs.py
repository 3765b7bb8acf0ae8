"""What every learned network of ours has in common: the settings of a training and of an evaluation, and how results are told.

A network NAME is two files. `studio/nets/NAME.py` is the network alone: architecture, input, decoding. `studio/train/NAME.py` has

    train(config: Training) -> Path          a checkpoint (`studio.nets.checkpoint`), resumable: a stopped call goes on when repeated
    evaluate(config: Evaluation) -> Report   on held-out synthetic data: seeds 0, 1, 2, a step-matched baseline, an upper bound, and a
                                             negative control that must fail

and a row in `studio.cli.learning.NETWORKS`. Importing either must be cheap and free of effects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from studio.freshness import write_text

Preset = Literal["small", "full"]


@dataclass(frozen=True)
class Training:
    """What to train."""

    preset: Preset = "small"
    """`small` trains on a CPU within minutes; `full` is what is shipped."""
    seed: int = 0
    steps: int | None = None
    """Of the optimiser; the preset's own by default."""
    minutes: float | None = None
    """Stop after this long; the same call goes on from there."""
    out: Path | None = None
    """File of the checkpoint (*.safetensors); the user's cache by default."""
    events: Path | None = None
    """Folder for TensorBoard's events."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    options: dict[str, Any] = field(default_factory=dict)
    """What only some networks know (`--set key=value`)."""


@dataclass(frozen=True)
class Evaluation:
    """What to measure."""

    weights: Path | None = None
    """The checkpoint; the shipped one by default."""
    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
    """Fewer samples and no trainings for comparison: seconds instead of minutes."""
    out: Path | None = None
    """JSON file of the results; the user's cache by default."""
    device: str = "auto"


@dataclass(frozen=True)
class Gate:
    """A claim with its limit."""

    name: str
    value: float
    limit: float
    at_least: bool = True
    """Whether the value must not be below the limit, or not above it."""

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Report:
    """Results of an evaluation."""

    network: str
    data: str
    """What was measured on, in words; says "synthetic"."""
    rows: dict[str, dict[str, float]]
    """Arm -> column -> number; the median over the seeds."""
    gates: tuple[Gate, ...] = ()
    every: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """As `rows`, of every seed in turn."""
    facts: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """What goes into the JSON file."""
        gates = [{"name": g.name, "value": g.value, "limit": g.limit, "at_least": g.at_least, "passed": g.passed} for g in self.gates]
        return {"network": self.network, "data": self.data, "rows": self.rows, "every": self.every, "gates": gates, "facts": self.facts}

    def save(self, path: Path) -> Path:
        """As JSON, to a temporary name, then renamed."""
        return write_text(path, json.dumps(self.plain(), indent=1) + "\n")

    def show(self, console: Console) -> None:
        """Print the table and the gates."""
        columns = list(dict.fromkeys(c for row in self.rows.values() for c in row))
        view = Table("", *columns, title=f"{self.network}: {self.data}", title_justify="left")
        view.columns[0].no_wrap = True
        for column in view.columns[1:]:
            column.justify = "right"
        for name, row in self.rows.items():
            view.add_row(name, *(f"{row[c]:.4g}" if c in row else "" for c in columns))
        view.width = Console(width=1000).measure(view).maximum  # on a narrow terminal lines break; numbers are never cut off
        console.print(view, crop=False, overflow="ignore", no_wrap=True)
        for gate in self.gates:
            sign, colour = (">=" if gate.at_least else "<="), ("green" if gate.passed else "bold red")
            console.print(f"[{colour}]{'passed' if gate.passed else 'MISSED'}[/] {gate.name}: {gate.value:.4g} {sign} {gate.limit:g}")


def medians(every: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """The median over seeds of every arm and column."""
    return {arm: {column: median(values) for column, values in row.items()} for arm, row in every.items()}


def gathered(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """One seed's arms and columns after another as lists."""
    out: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for arm, row in run.items():
            for column, value in row.items():
                out.setdefault(arm, {}).setdefault(column, []).append(value)
    return out

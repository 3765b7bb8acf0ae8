"""Volumes from masks and keypoints of calibrated views, learned from sampled bodies whose exact volume is known; no image is rendered.

After BodyNet (Varol et al. 2018): cross entropy of every cell, and of the volume's shadow in each camera. Its front and side views are a
studio's real cameras here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from rich import print as tell
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from studio.nets import checkpoint
from studio.nets.checkpoint import Card
from studio.nets.shape import KEYPOINTS, SIZE, WINDOW, Sight
from studio.nets.volume import ABOVE, FINE, REACH, Grid, Volume, features, hull, occupancy, projected
from studio.train import sampled, voxels
from studio.train.jobs import Evaluation, Report, Training
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.pool import VIEWS, pool
from studio.train.sampled import Sampled

BATCH = 4
"""People a step; half as many on the finest grid."""
PRESETS: dict[str, tuple[int, int, int]] = {"small": (200, 300, 32), "full": (1000, 3000, FINE)}
"""People, steps, and cells along an edge of the grid."""
HELD_OUT = tuple(range(9000, 9006))
"""Seeds of the people that nothing is trained on, made by the other generator."""
COARSE = 0.6
"""Share of the steps that are made on half of the finest grid, at an eighth of the cost."""
SHADOW = 0.3
"""What the shadows in the cameras are worth beside the cells."""
OVERLAP = 1.0
"""What intersection over union is worth beside the cells' cross entropy, which cares for empty space as much as for limbs."""
HULL = (0.35, 0.5, 0.65, 0.8, 0.9)
"""Thresholds among which the hull has its best, found on the people trained on."""
DATA = "synthetic: bodies sampled in shape and pose, masks of projected skin with clothes' thickness, keypoints with detection noise"

Arm = Literal["cells", "shadows", "mirrored"]
ARMS: dict[Arm, str] = {"cells": "cells alone", "shadows": "cells and shadows", "mirrored": "cells and mirrored shadows"}


@dataclass(frozen=True)
class Solids:
    """Sampled people with their exact volumes, packed."""

    people: Sampled
    grid: Grid
    bits: Tensor

    def __len__(self) -> int:
        return len(self.people)

    def truth(self, which: Tensor | slice, size: int) -> Float[Tensor, "n D D D"]:
        """Share of each cell inside the bare body."""
        bits = np.unpackbits(self.bits[which].numpy(), axis=1)
        fine = torch.from_numpy(bits).view(-1, FINE, FINE, FINE).float()
        return F.avg_pool3d(fine[:, None], FINE // size)[:, 0]

    @staticmethod
    def of(people: Sampled, bodies: Float[Tensor, "n V 3"]) -> Solids:
        """With the volumes of these vertices (`voxels.bare`)."""
        grid = voxels.grids(people)
        return Solids(people, grid, packed(voxels.volumes(bodies, grid)))


def packed(volumes: Bool[Tensor, "n D D D"]) -> Tensor:
    """Eight cells a byte."""
    return torch.from_numpy(np.packbits(volumes.flatten(1).numpy(), axis=1))


def held_out(seed: int = 77, people: tuple[int, ...] = HELD_OUT, views: int = VIEWS, clean: bool = False) -> Solids:
    """People of the other generator, four moments each."""
    return Solids.of(*voxels.others(people, 4, views, seed, sampled.poses(range(900, 904)), clean))


def trained_on(people: int, seed: int, file: Path | None = None) -> Solids:
    """The pool's people; their volumes are kept in `file` while a training is under way."""
    made = pool(people, seed)
    grid = voxels.grids(made)
    if file is not None and file.is_file():
        bits = load_file(file)["bits"]
        if len(bits) != people:
            raise ValueError(f"{file}: holds {len(bits)} volumes, this training needs {people}; delete it, or choose another --out")
        return Solids(made, grid, bits)
    parts = []
    for i in range(0, people, 50):
        some = made[i : i + 50]
        part = Grid(grid.centre[i : i + 50], grid.R_grid_world[i : i + 50])
        parts.append(packed(voxels.volumes(voxels.bare(some), part)))
    solids = Solids(made, grid, torch.cat(parts))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        save_file({"bits": solids.bits}, partial)
        partial.replace(file)
    return solids


def train(config: Training) -> Path:
    """Trains and writes a checkpoint; a call that was stopped goes on when repeated."""
    people, steps, size = PRESETS[config.preset]
    path = config.out or checkpoint.trained("volume")
    kept = [path.with_suffix(s) for s in (".volumes.safetensors", ".state.safetensors")]
    data = trained_on(people, config.seed, kept[0])
    network = made(config.seed)
    loop = Loop(config.steps or steps, config.seed, config.minutes, device=config.device, precision="float32", events=config.events)
    if not learned(network, data, loop, "shadows", size, kept[1]):
        tell(f"volume: stopped before step {loop.steps}; the same command goes on")
        return path
    held = held_out()
    best, own = hull_row(held, size, hull_threshold(data, size)), row(network, held, size)
    card = Card(
        "volume", "volume", {}, KEYPOINTS, (SIZE, SIZE),
        {"window_m": WINDOW, "reach_m": REACH, "above_hips_m": ABOVE, "cells": size, "mask": "0 to 1, how much of a pixel is the person"},
        {"volume": "share of each cell that is body, x to the left hip, z up; stored z, y, x"},
        f"{DATA}; {people} people, {VIEWS} views each", (config.seed,), loop.steps,
        metrics={"iou": round(own["IoU"], 3), "hull_iou": round(best["IoU"], 3), "views": VIEWS},
    )  # fmt: skip
    checkpoint.write(path, network, card)
    for file in kept:
        file.unlink(missing_ok=True)
    return path


def made(seed: int) -> Volume:
    """An untrained network."""
    torch.manual_seed(seed)
    return Volume()


def learned(network: Volume, data: Solids, loop: Loop, arm: Arm, size: int, state: Path | None = None) -> bool:
    """Trains in place, the finest grid only after `COARSE` of the steps; whether it is done."""

    def batches(step: int) -> dict[str, Any]:
        g = torch.Generator().manual_seed(loop.seed * 100_003 + step)
        cells = size // 2 if size == FINE and step < COARSE * loop.steps else size
        which = torch.randint(len(data), (BATCH if cells < FINE else BATCH // 2,), generator=g)
        some, grid = data.people[which], Grid(data.grid.centre[which], data.grid.R_grid_world[which])
        views = torch.randperm(VIEWS, generator=g)[: (VIEWS, VIEWS, 2, 1)[step % 4]]
        flip = bool(torch.rand((), generator=g) < 0.5)
        masks, sight = some.masks.float() / 255, voxels.chosen(some.sight, views)
        x, emptiest = features(masks[:, views], some.keypoints[:, views], sight, grid, flip, cells)
        truth = data.truth(which, cells)
        seen = masks.flip(-1) if arm == "mirrored" else masks
        return {
            "x": x, "emptiest": emptiest, "truth": truth.flip(-1) if flip else truth, "flip": torch.tensor(flip),
            "seen": F.avg_pool2d(seen, 2), "centre": grid.centre, "turn": grid.R_grid_world,
            "sight": {k: v for k, v in vars(some.sight).items()},
        }  # fmt: skip

    def loss(b: dict[str, Any]) -> Losses:
        logits = network(b["x"], b["emptiest"])
        cells = F.binary_cross_entropy_with_logits(logits, b["truth"], reduction="sum") / b["truth"].sum().clamp_min(1)
        terms = {"cells": cells, "overlap": OVERLAP * (1 - overlap(logits.sigmoid(), b["truth"])).mean()}
        if arm == "cells":
            return terms
        upright = logits.flip(-1) if b["flip"] else logits
        shadow = projected(upright, Grid(b["centre"], b["turn"]), Sight(**b["sight"]), steps=logits.shape[-1] * 5 // 8)
        return terms | {"shadows": SHADOW * F.binary_cross_entropy_with_logits(shadow, b["seen"]) / b["seen"].mean()}

    recipe = {"arm": arm, "people": len(data), "size": size, "weights": [SHADOW, OVERLAP]}
    return learn(Player(network, loss, rate=2e-3, average=0.98), batches, replace(loop, recipe=recipe), state).done


def overlap(found: Float[Tensor, "n D D D"], truth: Float[Tensor, "n D D D"]) -> Float[Tensor, "n"]:
    """Intersection over union of shares, 0 to 1."""
    both = (found * truth).sum((1, 2, 3))
    return both / (found.sum((1, 2, 3)) + truth.sum((1, 2, 3)) - both).clamp_min(1e-6)


@torch.no_grad()
def row(network: Volume, held: Solids, size: int, views: tuple[int, ...] = tuple(range(VIEWS)), spoilt: str = "") -> dict[str, float]:
    """Scores of a network that is shown some of the views; `spoilt` masks and keypoints are mirrored, or somebody else's."""
    people, sight = held.people, voxels.chosen(held.people.sight, list(views))
    masks, keys = people.masks[:, list(views)].float() / 255, people.keypoints[:, list(views)]
    if spoilt == "mirrored":
        masks, keys = masks.flip(-1), keys * keys.new_tensor([-1, 1, 1])
    elif spoilt:
        masks, keys = (x.roll(len(people) // 2, 0) for x in (masks, keys))
    return scores(occupancy(network, masks, keys, sight, held.grid, size=size) > 0.5, held.truth(slice(None), size) > 0.5, held.grid)


def hull_row(held: Solids, size: int, threshold: float, views: int = VIEWS) -> dict[str, float]:
    """Scores of the intersection of masks."""
    return scores(_hulls(held, size, views) > threshold, held.truth(slice(None), size) > 0.5, held.grid)


def _hulls(held: Solids, size: int, views: int = VIEWS) -> Float[Tensor, "n D D D"]:
    people, out = held.people, []
    for i in range(0, len(people), 8):
        some, grid = people[i : i + 8], Grid(held.grid.centre[i : i + 8], held.grid.R_grid_world[i : i + 8])
        out.append(hull(some.masks[:, :views].float() / 255, voxels.chosen(some.sight, slice(0, views)), grid, size))
    return torch.cat(out)


def hull_threshold(data: Solids, size: int) -> float:
    """The one that serves the hull best on people trained on: the network is not to win by a number nobody chose."""
    some = Solids(data.people[:40], Grid(data.grid.centre[:40], data.grid.R_grid_world[:40]), data.bits[:40])
    soft, truth = _hulls(some, size), some.truth(slice(None), size) > 0.5
    return max(HULL, key=lambda t: scores(soft > t, truth, some.grid)["IoU"])


def scores(found: Bool[Tensor, "n D D D"], truth: Bool[Tensor, "n D D D"], grid: Grid) -> dict[str, float]:
    """Means over people: intersection over union, share of the body that is found, and of what is found that is body."""
    both, either = (found & truth).sum((1, 2, 3)), (found | truth).sum((1, 2, 3))
    return {
        "IoU": float((both / either.clamp_min(1)).mean()),
        "recall": float((both / truth.sum((1, 2, 3)).clamp_min(1)).mean()),
        "precision": float((both / found.sum((1, 2, 3)).clamp_min(1)).mean()),
    }


def evaluate(config: Evaluation) -> Report:
    """Hull, networks and fits on people of the other generator; see `studio.train.volume_report`."""
    from studio.train.volume_report import evaluated

    return evaluated(config)

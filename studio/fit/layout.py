"""Which number goes where: joints and expression of a body in the order in which the solver eliminates them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.fit.limbs import Level, Limbs


@dataclass(frozen=True)
class Slot:
    """Where expression meets the nodes of one kind in one limb's blocks."""

    level: int
    limb: int
    in_border: bool
    """In the border rather than in the limb's own block."""
    lower: bool
    """The expression is the limb's (its rows), not the border's (its columns)."""
    kind: int
    rows: Int[Tensor, "m"]
    """Pose unknowns, counted through the nodes."""
    at: Int[Tensor, "m"]
    """Where they stand in the block: columns where `lower`, else rows."""


@dataclass(frozen=True)
class Layout:
    """A model's constants for one choice of free unknowns, joints in the order of elimination."""

    limbs: Limbs
    joint: Int[Tensor, "n"]
    """Joint of each node (any for the translation)."""
    parent: Int[Tensor, "n"]
    root: int
    """Which node is the root joint."""
    translation: int
    under: Float[Tensor, "n N"]
    """Weight of each sub-point under each node."""
    starts: tuple[int, ...]
    """First node of each level."""
    border_rows: tuple[Int[Tensor, "P*B"], ...]
    """Pose unknowns of each level's borders, counted through the nodes."""
    border_at: tuple[Int[Tensor, "b"] | None, ...]
    """Where those stand in the border; None where the border holds nothing else."""
    face_under: Float[Tensor, "u*E 3*F"]
    """Wrench of all expressive sub-points under each different kind of node, per unit of expression."""
    face_square: Float[Tensor, "6*F L"]
    """Lower triangle of their information on the expression, per unit of each number of A in the joint's axes."""
    face_slots: tuple[Slot, ...]

    def add_to_nodes(self, own: list[Tensor], blocks: Float[Tensor, "3 3 n T"]) -> None:
        """Add a 3x3 block to every node's own diagonal block."""
        each = blocks.permute(3, 2, 0, 1)
        for level, block, start in zip(self.limbs.levels, own, self.starts):
            q = level.size - level.coefficients
            here = each[:, start : start + level.count * q // 3].unflatten(1, (level.count, q // 3))
            block[..., :q, :q].unflatten(2, (-1, 3)).unflatten(4, (-1, 3)).diagonal(dim1=2, dim2=4).add_(here.permute(0, 1, 3, 4, 2))

    def add_between(self, own: list[Tensor], pairs: tuple[tuple[int, int], ...], blocks: Float[Tensor, "3 3 p T"]) -> None:
        """Add a block for each pair of different joints that lie in one limb (others have no room here) to the lower triangle."""
        for level, (picked, limb, rows, columns) in self._rooms(pairs).items():
            own[level][:, limb, rows, columns] += blocks[:, :, picked].permute(3, 2, 0, 1)

    def _rooms(self, pairs: tuple[tuple[int, int], ...]) -> dict[int, tuple[Tensor, ...]]:
        """For each level which pairs it takes, in which limb (p, 1, 1), rows (p, 3, 1) and columns (p, 1, 3)."""
        if pairs not in self._known:
            found: dict[int, list[tuple[int, int, int, int]]] = {}
            place = self._places()
            for i, (a, b) in enumerate(pairs):
                if a == b or a not in place or b not in place or place[a][:2] != place[b][:2]:
                    continue
                level, limb, row = place[a]
                if row < place[b][2]:
                    raise ValueError(f"joint {a} comes before {b} in their limb: name the lower one first")
                found.setdefault(level, []).append((i, limb, row, place[b][2]))
            self._known[pairs] = {level: self._indices(rows) for level, rows in found.items()}
        return self._known[pairs]

    def _indices(self, rows: list[tuple[int, int, int, int]]) -> tuple[Tensor, ...]:
        picked, limb, row, column = torch.tensor(rows, device=self.joint.device).T
        axis = torch.arange(3, device=self.joint.device)
        return picked, limb[:, None, None], (row[:, None] + axis)[:, :, None], (column[:, None] + axis)[:, None]

    def _places(self) -> dict[int, tuple[int, int, int]]:
        """Level, limb, and first unknown within it, of each free joint."""
        place, at = {}, 0
        for i, level in enumerate(self.limbs.levels):
            each = (level.size - level.coefficients) // 3
            for n in range(level.count):
                for k in range(each):
                    place[self.limbs.nodes[at] - 1] = (i, n, 3 * k)
                    at += 1
        return place

    @cached_property
    def _known(self) -> dict[tuple[tuple[int, int], ...], dict[int, tuple[Tensor, ...]]]:
        return {}


def blocks(level: Level, start: int, border_rows: Tensor, border_at: Tensor | None, S: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    """A level's own blocks and borders; room for the expression is left empty."""
    q = level.size - level.coefficients
    rows = slice(start, start + level.count * q)
    force, axes = F[:, rows], S[:, rows].unflatten(1, (level.count, q))
    own = force.unflatten(1, (level.count, q)) @ axes.mT
    if level.own_mask is not None:
        own = own * level.own_mask[:, :q, :q]
    own = _widened(own, level, level.size, None)
    if not level.path:
        return own, own.new_zeros(*own.shape[:3], 0)
    above = S[:, border_rows].unflatten(1, (level.families, -1))
    border = (force.unflatten(1, (level.families, -1)) @ above.mT).view(len(S), level.count, q, -1)
    if level.border_mask is not None:
        border = border * (level.border_mask if border_at is None else level.border_mask[..., border_at])[:, :q]
    return own, _widened(border, level, level.border.shape[1], border_at)


def _widened(block: Tensor, level: Level, width: int, at: Tensor | None) -> Tensor:
    """A block of pose unknowns with room for the expression."""
    T, n, q, w = block.shape
    if q == level.size and w == width:
        return block
    whole = block.new_zeros(T, n, level.size, width)
    if at is None:
        whole[:, :, :q, :w] = block
    else:
        whole[:, :, :q, at] = block
    return whole


def face_slots(limbs: Limbs, kind: dict[int, int], starts: list[int], row: Tensor, posed: Tensor) -> tuple[Slot, ...]:
    """Where the expression meets the nodes that its points hang on."""
    found: dict[tuple, list[tuple[int, int]]] = {}
    for i, level in enumerate(limbs.levels):
        q = level.size - level.coefficients
        for n in range(level.count):
            border = level.border[n // level.siblings].cpu()
            own = [(3 * starts[i] + n * q + m, m) for m in range(q)]
            above = [(int(row[p]), b) for b, p in enumerate(border) if bool(posed[p])]
            if level.coefficients:
                pairs = [(False, x) for x in own] + [(True, x) for x in above]
            else:
                pairs = [(True, x) for x in own] if not bool(posed[border].all()) else []
            for in_border, (r, at) in pairs:
                if r // 3 in kind:
                    found.setdefault((i, n, in_border, bool(level.coefficients), kind[r // 3]), []).append((r, at))
    device = limbs.columns.device
    return tuple(Slot(*key, *(torch.tensor(v, device=device) for v in zip(*pairs))) for key, pairs in found.items())

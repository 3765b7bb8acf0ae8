"""The tree-sparse system of a frame: limbs are eliminated from the fingertips inwards, the trunk last.

A body's Gauss-Newton matrix couples a joint with those above and below it only. Joints are gathered into limbs (a chain between two
branchings); eliminating a limb fills in nothing but its border, the unknowns of the limbs above. Limbs of equal size go through every
operation together, so a factor is a handful of batched products (multifrontal elimination: Duff and Reid 1983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """Limbs eliminated at once: `families` of `siblings` under one parent limb, all of `size` unknowns."""

    start: int
    """First unknown in the system."""
    families: int
    siblings: int
    size: int
    path: tuple[tuple[int, tuple[int, ...]], ...]
    """Limbs above, nearest first: level, and for each family which limb of it."""
    border: Int[Tensor, "P B"]
    """Positions of each family's border in the system, nearest limb first."""
    own_mask: Float[Tensor, "N M M"] | None
    """Zero where unknowns of a limb are not above one another; None where they all are."""
    border_mask: Float[Tensor, "N M B"] | None
    coefficients: int
    """How many of a limb's unknowns, its last ones, are the expression's."""

    @property
    def count(self) -> int:
        """Number of limbs."""
        return self.families * self.siblings

    @property
    def span(self) -> slice:
        """Positions of the limbs' unknowns in the system."""
        return slice(self.start, self.start + self.count * self.size)


@dataclass(frozen=True)
class Normal:
    """Gauss-Newton systems of some frames: each limb's own block (lower triangle valid), its border, the gradient."""

    own: list[Float[Tensor, "T N M M"]]
    border: list[Float[Tensor, "T N M B"]]
    g: Float[Tensor, "T F"]

    def diagonal(self) -> Float[Tensor, "T F"]:
        """Diagonal of the system."""
        return torch.cat([b.diagonal(dim1=-2, dim2=-1).flatten(1) for b in self.own], 1)

    def raised(self, by: Float[Tensor, "T F"]) -> Normal:
        """With something added to the diagonal; changes this one."""
        at = 0
        for block in self.own:
            d = block.diagonal(dim1=-2, dim2=-1)
            n = d.shape[1] * d.shape[2]
            d.add_(by[:, at : at + n].unflatten(1, d.shape[1:]))
            at += n
        return self


@dataclass(frozen=True)
class Factor:
    """A factored system: inverse of each limb's own block, and how a limb follows its border, `-own^-1 border`."""

    inverse: list[Float[Tensor, "T N M M"]]
    follow: list[Float[Tensor, "T N M B"]]

    def __getitem__(self, frames: slice) -> Factor:
        return Factor([x[frames] for x in self.inverse], [x[frames] for x in self.follow])

    @staticmethod
    def joined(parts: Sequence[Factor]) -> Factor:
        """Stretches of frames, one after the other."""
        return Factor(*([torch.cat(x) for x in zip(*(getattr(p, k) for p in parts))] for k in ("inverse", "follow")))


@dataclass(frozen=True)
class Limbs:
    """The order of elimination of one body with some joints locked."""

    levels: tuple[Level, ...]
    nodes: tuple[int, ...]
    """Nodes (0 the root's translation, 1 + j joint j) in the order of the system; expression comes last within its level."""
    columns: Int[Tensor, "F"]
    """Which unknown of the body (translation, joints, expression) each unknown of the system is."""
    expression_at: slice
    """Positions of the expression's unknowns; empty where it is locked."""
    held: Bool[Tensor, "3 n 1"] | None
    """Axes of those nodes that must not move; None where all may."""

    def factor(self, normal: Normal) -> Factor:
        """Eliminate limb after limb; uses up `normal`."""
        own, border = list(normal.own), list(normal.border)
        inverse, follow = [], []
        for i, level in enumerate(self.levels):
            W = _inverse_cholesky(own[i])
            inverse.append(W.mT @ W)
            if not level.path:
                follow.append(border[i])
                continue
            follow.append((inverse[i] @ border[i]).neg_())
            stacked = lambda x: x.view(len(x), level.families, -1, x.shape[-1])  # noqa: E731, B023
            fill = stacked(border[i]).mT @ stacked(follow[i])
            at = 0
            for above, limb in level.path:
                end = at + self.levels[above].size
                for family, one in enumerate(limb):
                    own[above][:, one] += fill[:, family, at:end, at:end]
                    border[above][:, one] += fill[:, family, at:end, end:]
                at = end
        return Factor(inverse, follow)

    def solve(self, factor: Factor, r: Float[Tensor, "T F *m"]) -> Float[Tensor, "T F *m"]:
        """Solution of the factored systems for one or several right-hand sides."""
        T = len(r)
        x = r.clone() if r.dim() == 3 else r[..., None].clone()
        for level, follow in zip(self.levels, factor.follow):
            if level.path:
                own = x[:, level.span].unflatten(1, (level.families, -1))
                self._pass_on(x, level, _times(follow.view(T, level.families, own.shape[2], -1).mT, own))
        for level, inverse, follow in reversed(list(zip(self.levels, factor.inverse, factor.follow))):
            own = _times(inverse, x[:, level.span].unflatten(1, (level.count, level.size))).flatten(1, 2)
            if level.path:
                above = x[:, level.border.flatten()].unflatten(1, level.border.shape)
                own += _times(follow.view(T, level.families, -1, follow.shape[-1]), above).flatten(1, 2)
            x[:, level.span] = own
        return x if r.dim() == 3 else x[..., 0]

    def _pass_on(self, x: Float[Tensor, "T F m"], level: Level, passed: Float[Tensor, "T P B m"]) -> None:
        """Add what a level leaves to its borders, limb by limb."""
        at = 0
        for above, limb in level.path:
            size, start = self.levels[above].size, self.levels[above].start
            part = passed[:, :, at : at + size]
            if len(set(limb)) == 1:
                x[:, start + limb[0] * size : start + (limb[0] + 1) * size] += part.sum(1)
            else:
                for family, one in enumerate(limb):
                    x[:, start + one * size : start + (one + 1) * size] += part[:, family]
            at += size

    def covariance(self, factor: Factor) -> tuple[list[Tensor], list[Tensor]]:
        """Blocks of the inverse: of each limb with itself, and of the limb with its border, nearest limb first (Takahashi 1973)."""
        own: list[Tensor] = [factor.inverse[-1]] * len(self.levels)
        cross: list[Tensor] = [factor.follow[-1]] * len(self.levels)
        for i in reversed(range(len(self.levels))):
            level = self.levels[i]
            if level.path:
                K = factor.follow[i]
                between = K @ self.of_border(level, own, cross).repeat_interleave(level.siblings, 1)
                own[i], cross[i] = factor.inverse[i] + between @ K.mT, between
        return own, cross

    def of_border(self, level: Level, own: list[Tensor], cross: list[Tensor]) -> Float[Tensor, "T P B B"]:
        """Covariance of each family's border from that of the limbs above."""
        families = []
        for family in range(level.families):
            C = own[0].new_zeros(len(own[0]), level.border.shape[1], level.border.shape[1])
            at = 0
            for above, limb in level.path:
                end = at + self.levels[above].size
                C[:, at:end, at:end] = own[above][:, limb[family]]
                C[:, at:end, end:] = cross[above][:, limb[family]]
                C[:, end:, at:end] = C[:, at:end, end:].mT
                at = end
            families.append(C)
        return torch.stack(families, 1)

    def dense(self, normal: Normal) -> Float[Tensor, "T F F"]:
        """The same systems as full symmetric matrices."""
        T, F = normal.g.shape
        H = normal.g.new_zeros(T, F, F)
        for level, own, border in zip(self.levels, normal.own, normal.border):
            for n in range(level.count):
                rows = slice(level.start + n * level.size, level.start + (n + 1) * level.size)
                lower = torch.tril(own[:, n])
                H[:, rows, rows] = lower + torch.tril(lower, -1).mT
                if level.path:
                    cols = level.border[n // level.siblings]
                    H[:, rows, cols] = border[:, n]
                    H[:, cols, rows] = border[:, n].mT
        return H


def _times(a: Float[Tensor, "T n i j"], x: Float[Tensor, "T n j m"]) -> Float[Tensor, "T n i m"]:
    """Product; a single column goes as a row, which batched products are many times faster at."""
    return (x.mT @ a.mT).mT if x.shape[-1] == 1 else a @ x


def _inverse_cholesky(H: Float[Tensor, "T N M M"], base: int = 16) -> Float[Tensor, "T N M M"]:
    """`W` with `W H W^T = 1`, from the lower triangle; large blocks in halves, whose products are fast where small factorisations are not.

    A block that is not positive definite in the precision at hand is taken by its diagonal alone.
    """
    M = H.shape[-1]
    if M > base:
        m = M // 2
        A = _inverse_cholesky(H[..., :m, :m], base)
        V = H[..., m:, :m] @ A.mT
        C = _inverse_cholesky(H[..., m:, m:] - V @ V.mT, base)
        W = torch.zeros_like(H)
        W[..., :m, :m], W[..., m:, m:] = A, C
        W[..., m:, :m] = (C @ V).neg_() @ A
        return W
    L, info = torch.linalg.cholesky_ex(H)
    if bool(info.any()):
        alone = H.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-3).sqrt().diag_embed()
        L = torch.where(info[..., None, None] > 0, alone, L)
    eye = torch.eye(M, dtype=H.dtype, device=H.device)
    return torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False)


def limbs_of(
    parents: Sequence[int], free: Bool[Tensor, "D"], expressive: Bool[Tensor, "J"], device: torch.device, dtype: torch.dtype
) -> Limbs:
    """Limbs of a skeleton whose unknowns (translation, joints, expression) are `free`; joints `expressive` carry points that the
    expression moves. The root, and a joint that is free about some axis, are there with all their axes (see `Limbs.held`)."""
    return _limbs(tuple(parents), tuple(free.tolist()), tuple(expressive.tolist()), device, dtype)


@lru_cache(maxsize=32)
def _limbs(
    parents: tuple[int, ...], unknown: tuple[bool, ...], expressive: tuple[bool, ...], device: torch.device, dtype: torch.dtype
) -> Limbs:
    J, free = len(parents), torch.tensor(unknown)
    each = free[: 3 + 3 * J].view(-1, 3)
    nodes = [n for n in range(J + 1) if n < 2 or bool(each[n].any())]
    above = {n: _above(n, parents, set(nodes)) for n in nodes}
    chains = _merged(_chains(nodes, above), above)
    limb_of = {n: i for i, chain in enumerate(chains) for n in chain}
    paths = [list(dict.fromkeys(limb_of[a] for a in above[chain[0]])) for chain in chains]
    unknowns = [[3 * n + a for n in chain for a in range(3)] for chain in chains]
    coefficients = (3 + 3 * J + free[3 + 3 * J :].nonzero()[:, 0]).tolist()
    face = _face_limb({limb_of[n] for n in nodes if n and bool(expressive[n - 1])}, paths) if coefficients else -1
    if coefficients:
        unknowns[face] += coefficients
    groups = _groups(paths, [(len(u), i == face) for i, u in enumerate(unknowns)])
    order = [u for group in groups for i in group for u in unknowns[i]]
    levels, at = [], 0
    for group in groups:
        levels.append(_level(at, group, groups, paths, unknowns, order, above, 3 + 3 * J, device, dtype))
        at += levels[-1].count * levels[-1].size
    e = order.index(coefficients[0]) if coefficients else 0
    in_order = tuple(n for group in groups for i in group for n in chains[i])
    held = ~each[list(in_order)].T  # (3, n)
    mask = held.to(device)[..., None] if bool(held.any()) else None
    return Limbs(tuple(levels), in_order, torch.tensor(order, device=device), slice(e, e + len(coefficients)), mask)


def _above(node: int, parents: Sequence[int], free: set[int]) -> list[int]:
    """Free nodes above a node, nearest first."""
    found = []
    j = node - 1
    while j >= 0:
        j = parents[j]
        if j >= 0 and j + 1 in free:
            found.append(j + 1)
    return found + ([0] if node else [])


def _chains(nodes: list[int], above: dict[int, list[int]]) -> list[list[int]]:
    """Chains without branching, from the top of each down; the trunk comes last."""
    left, chains = set(nodes), []
    while left:
        children = {n: [m for m in left if above[m][:1] == [n]] for n in left}
        found = []
        for tip in sorted(n for n in left if not children[n]):
            chain = [tip]
            while (up := above[chain[0]][:1]) and len(children[up[0]]) == 1:
                chain.insert(0, up[0])
            found.append(chain)
        left -= {n for chain in found for n in chain}
        chains += found
    return chains


def _merged(chains: list[list[int]], above: dict[int, list[int]]) -> list[list[int]]:
    """Single joints (jaw, eyes) join the limb they hang on: three unknowns are not worth a step of their own."""
    limbs = [list(c) for c in chains if len(c) > 1 or not above[c[0]]]
    for chain in reversed(chains):
        if len(chain) == 1 and above[chain[0]]:
            next(k for k in limbs if above[chain[0]][0] in k).extend(chain)
    return [sorted(c) for c in limbs]


def _face_limb(carriers: set[int], paths: list[list[int]]) -> int:
    """The limb that takes the expression: the lowest one that carries it, or the trunk where several do."""
    lowest = [i for i in carriers if all(c == i or c in paths[i] for c in carriers)]
    return lowest[0] if lowest else next(i for i in range(len(paths)) if not paths[i])


def _groups(paths: list[list[int]], size: list[tuple[int, bool]]) -> list[list[int]]:
    """Limbs to eliminate at once, deepest first, siblings side by side: alike in size, number of siblings, and groups above."""
    home: dict[int, int] = {}
    groups: list[list[int]] = []
    for depth in range(max(map(len, paths)) + 1):
        families: dict[tuple, list[int]] = {}
        for i in (i for i in range(len(paths)) if len(paths[i]) == depth):
            families.setdefault((*paths[i][:1], size[i]), []).append(i)
        alike: dict[tuple, list[int]] = {}
        for members in families.values():
            first = members[0]
            alike.setdefault((size[first], len(members), *(home[a] for a in paths[first])), []).extend(members)
        for group in alike.values():
            home |= dict.fromkeys(group, len(groups))
            groups.append(group)
    return groups[::-1]


def _level(
    start: int, group: list[int], groups: list[list[int]], paths: list[list[int]], unknowns: list[list[int]], order: list[int],
    above: dict[int, list[int]], first_coefficient: int, device: torch.device, dtype: torch.dtype,
) -> Level:  # fmt: skip
    """One group as a level of the elimination."""

    def related(low: int, high: int) -> bool:
        a, b = low // 3, high // 3
        return max(low, high) >= first_coefficient or a == b or b in above[a] or a in above[b]

    families = [list(f) for f in zip(*[iter(group)] * _siblings(group, paths))]
    where = {u: p for p, u in enumerate(order)}
    place = {i: (g, n) for g, members in enumerate(groups) for n, i in enumerate(members)}
    path = tuple((place[a[0]][0], tuple(place[x][1] for x in a)) for a in zip(*(paths[f[0]] for f in families)))
    borders = [[u for a in paths[i] for u in unknowns[a]] for i in group]
    own = torch.tensor([[[related(u, v) for v in unknowns[i]] for u in unknowns[i]] for i in group])
    border = torch.tensor([[[related(u, v) for v in borders[n]] for u in unknowns[i]] for n, i in enumerate(group)])
    positions = torch.tensor([[where[u] for a in paths[f[0]] for u in unknowns[a]] for f in families], dtype=torch.long)
    mask = lambda m: None if bool(m.all()) else m.to(device, dtype)  # noqa: E731
    return Level(
        start, len(families), len(families[0]), len(unknowns[group[0]]), path, positions.to(device), mask(own), mask(border),
        sum(u >= first_coefficient for u in unknowns[group[0]]),
    )  # fmt: skip


def _siblings(group: list[int], paths: list[list[int]]) -> int:
    """How many limbs of a group hang on the same limb."""
    return sum(paths[i][:1] == paths[group[0]][:1] for i in group)

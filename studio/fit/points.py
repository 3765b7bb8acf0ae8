"""The posed body as the solver sees it: points, the kinematic tree, and normal equations built from pulls.

A pull says, for every point of the body, how strongly (a 3x3 information matrix) and which way (a gradient) the evidence
wants it moved. Skinned points are weighted sums of rigid sub-points, one per joint that carries them; each contributes a
6x6 spatial inertia (Featherstone, Rigid Body Dynamics Algorithms, 2008), composed up the tree, so the Gauss-Newton matrix is
`S_i^T M_j S_j` for every joint i above joint j and no Jacobian is formed. The weighted sum of squares of the sub-points bounds the
square of the weighted sum (Jensen), so the step is safe; the gradient is exact.

Unknowns of a frame, in this order: root translation 3, rotation of every joint 3 each (a small rotation applied on the
parent's side), expression. Tensors inside have time last (`studio.fit.lanes`); what other modules see has it first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rigs.body import Body, Skin
from studio.fit import lanes
from studio.fit.limbs import Factor, Level, Limbs, Normal, limbs_of

UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Where the six numbers of a symmetric 3x3 matrix stand."""


@dataclass(frozen=True)
class Pull:
    """Evidence on points of the body, in the world. Fastest where time is the innermost axis in memory (`permute` of time-last tensors)."""

    information: Float[Tensor, "T K 3 3"]
    """1/m^2."""
    gradient: Float[Tensor, "T K 3"]
    """Of the negative log likelihood, 1/m."""
    cost: Float[Tensor, "T"]
    """Negative log likelihood, robust, per frame."""

    def __add__(self, other: Pull) -> Pull:
        return Pull(self.information + other.information, self.gradient + other.gradient, self.cost + other.cost)

    def where(self, take: Bool[Tensor, "T"], other: Pull) -> Pull:
        """This pull in frames where `take`, the other elsewhere."""
        pick = lambda a, b: torch.where(take.view(-1, *[1] * (a.dim() - 1)), a, b)  # noqa: E731
        return Pull(pick(self.information, other.information), pick(self.gradient, other.gradient), pick(self.cost, other.cost))


@dataclass(frozen=True)
class State:
    """The unknowns of a stretch of frames."""

    R: Float[Tensor, "T J 3 3"]
    """Local joint rotations."""
    root: Float[Tensor, "T 3"]
    """World position of the root joint, m."""
    expression: Float[Tensor, "T E"]

    def __len__(self) -> int:
        return len(self.root)

    def __getitem__(self, frames: slice | Tensor) -> State:
        return State(self.R[frames], self.root[frames], self.expression[frames])

    def replaced(self, frames: Int[Tensor, "n"] | slice, by: State) -> State:
        """The state with some frames exchanged."""
        R, root, expression = self.R.clone(), self.root.clone(), self.expression.clone()
        R[frames], root[frames], expression[frames] = by.R, by.root, by.expression
        return State(R, root, expression)

    @staticmethod
    def joined(parts: list[State]) -> State:
        """Stretches of frames, one after the other."""
        return State(torch.cat([p.R for p in parts]), torch.cat([p.root for p in parts]), torch.cat([p.expression for p in parts]))

    def where(self, take: Tensor, other: State) -> State:
        """This state in frames where `take`, the other elsewhere."""
        return State(
            torch.where(take[:, None, None, None], self.R, other.R),
            torch.where(take[:, None], self.root, other.root),
            torch.where(take[:, None], self.expression, other.expression),
        )

    def moved(self, step: Float[Tensor, "T D"], limit: float = 0.8) -> State:
        """The state after a step; no joint turns by more than `limit` rad at once."""
        J = self.R.shape[1]
        turn = step[:, 3 : 3 + 3 * J].T.reshape(J, 3, -1).transpose(0, 1).contiguous()
        turn = turn * (limit * (turn * turn).sum(0).clamp_min(limit**2).rsqrt())
        R = lanes.product(lanes.exp(turn), _time_last(self.R))
        return State(R.permute(3, 2, 0, 1), self.root + step[:, :3], self.expression + step[:, 3 + 3 * J :])

    def between(self, known: Int[Tensor, "n"], frames: int) -> State:
        """A state for all `frames` from that of the `known` ones (the first and the last among them): along the shortest turns."""
        t = torch.arange(frames, device=known.device)
        i = (torch.searchsorted(known, t, right=True) - 1).clamp(0, len(known) - 2)
        share = (t - known[i]) / (known[i + 1] - known[i])
        R = _time_last(self.R)
        turn = lanes.log(lanes.product(R[..., 1:], R[..., :-1].transpose(0, 1)))
        R = lanes.product(lanes.exp(turn[..., i] * share), R[..., i])
        mixed = lambda x: torch.lerp(x[i], x[i + 1], share[:, None].to(x.dtype))  # noqa: E731
        return State(R.permute(3, 2, 0, 1), mixed(self.root), mixed(self.expression))


def _time_last(x: Float[Tensor, "T n *c"]) -> Float[Tensor, "*c n T"]:
    """Time and points moved behind the components; free where memory lies so already."""
    return x.permute(*range(2, x.dim()), 1, 0).contiguous()


@dataclass(frozen=True)
class Placed:
    """Points and joints of a stretch of frames, time last. Positions of sub-points and joints are relative to the root joint, m."""

    R: Float[Tensor, "3 3 J T"]
    """World rotations."""
    p: Float[Tensor, "3 J T"]
    """Joint centres."""
    y: Float[Tensor, "3 N T"]
    """Sub-points."""
    x: Float[Tensor, "3 K T"]
    """Points, in the world."""

    @property
    def points(self) -> Float[Tensor, "T K 3"]:
        """Points in the world, m."""
        return self.x.permute(2, 1, 0)

    @property
    def R_world(self) -> Float[Tensor, "T J 3 3"]:
        """World rotations of the joints."""
        return self.R.permute(3, 2, 0, 1)

    def where(self, take: Bool[Tensor, "T"], other: Placed) -> Placed:
        """This in frames where `take`, the other elsewhere."""
        return Placed(*(torch.where(take, a, b) for a, b in ((self.R, other.R), (self.p, other.p), (self.y, other.y), (self.x, other.x))))


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


@dataclass(frozen=True)
class Model:
    """A body reduced to the points that carry evidence."""

    body: Body
    skin: Skin
    _layouts: dict[bytes, Layout] = field(default_factory=dict, repr=False, compare=False)

    @property
    def unknowns(self) -> int:
        """Number of unknowns of one frame."""
        return 3 + 3 * len(self.body.skeleton) + len(self.body.expression_names)

    @cached_property
    def _carriers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Point, joint and weight of every rigid sub-point."""
        weights = torch.where(self.skin.weights > 1e-3, self.skin.weights, 0)
        weights = weights / weights.sum(1, keepdim=True)
        k, j = weights.nonzero(as_tuple=True)
        return k, j, weights[k, j]

    @cached_property
    def _to_point(self) -> Float[Tensor, "K N"]:
        """Sub-points to points."""
        k, _, w = self._carriers
        return torch.zeros(len(self.skin), len(k), dtype=w.dtype, device=w.device).index_put((k, torch.arange(len(k), device=w.device)), w)

    @cached_property
    def _under(self) -> Float[Tensor, "J J"]:
        """Which joints (column) are at or below each joint (row), transposed: sums of bones from the root down."""
        return self.body.skeleton.under.to(self.skin.rest.device, self.skin.rest.dtype)

    @cached_property
    def _levels(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Joints by depth below the root, and their parents."""
        ix = lambda v: torch.tensor(v, device=self.skin.rest.device)  # noqa: E731
        return tuple((ix(level), ix([self.body.skeleton.parents[j] for j in level])) for level in self.body.skeleton.levels[1:])

    @cached_property
    def _parents(self) -> Int[Tensor, "J"]:
        return torch.tensor(self.body.skeleton.parents, device=self.skin.rest.device).clamp_min(0)

    @cached_property
    def _expressive(self) -> Tensor:
        """Sub-points that expression moves."""
        k, _, _ = self._carriers
        return (self.skin.expression_basis[k].abs().sum((1, 2)) > 0).nonzero()[:, 0]

    @cached_property
    def _face(self) -> Float[Tensor, "3*F E"]:
        """Displacement of those in their joint's axes, per unit of expression."""
        return self.skin.expression_basis[self._carriers[0][self._expressive]].transpose(0, 1).flatten(0, 1)

    def place(self, state: State, shape: Float[Tensor, "S"]) -> Placed:
        """Where the points are."""
        k, j, _ = self._carriers
        rest_joints = self.body.joints + self.body.joint_shape_basis @ shape
        bones = rest_joints - rest_joints[self._parents]
        local = (self.skin.rest + self.skin.shape_basis @ shape)[k] - rest_joints[j]
        R = _time_last(state.R)
        G = torch.empty_like(R)
        G[:, :, 0] = R[:, :, 0]
        for here, up in self._levels:
            G.index_copy_(2, here, lanes.product(G.index_select(2, up), R.index_select(2, here)))
        d = lanes.carried(G.index_select(2, self._parents), bones.T[..., None])
        d[:, 0] = 0
        p = self._under @ d
        local = local.T[..., None].expand(3, len(k), len(state))
        if len(self._expressive):
            moved = (self._face @ state.expression.T).view(3, len(self._expressive), -1)
            local = local.index_add(1, self._expressive, moved)
        y = lanes.carried(G.index_select(2, j), local).add_(p.index_select(1, j))
        return Placed(G, p, y, (self._to_point @ y).add_(state.root.T[:, None]))

    def layout(self, free: Bool[Tensor, "D"]) -> Layout:
        """Constants for a choice of free unknowns, made once."""
        key = free.cpu().numpy().tobytes()
        if key not in self._layouts:
            self._layouts[key] = self._laid_out(free.cpu())
        return self._layouts[key]

    def _laid_out(self, free: Tensor) -> Layout:
        device, dtype = self.skin.rest.device, self.skin.rest.dtype
        _, j, w = self._carriers
        some, J = self._expressive, len(self.body.skeleton)
        expressive = torch.zeros(J, dtype=torch.bool)
        expressive[j[some].cpu()] = True
        limbs = limbs_of(self.body.skeleton.parents, free, self._seen_as_free(expressive, free), device, dtype)
        nodes = torch.tensor(limbs.nodes, device=device)
        moves = torch.cat([torch.ones(1, len(j), dtype=dtype, device=device), self._under[j].T])[nodes]
        E = limbs.expression_at.stop - limbs.expression_at.start
        face_nodes = moves[:, some].any(1).nonzero()[:, 0] if E else nodes[:0]
        kinds, kind = (
            torch.unique(moves[face_nodes][:, some], dim=0, return_inverse=True) if len(face_nodes) else (moves[:0, some], nodes[:0])
        )
        basis = self._face[:, free[3 + 3 * J :]].view(3, len(some), E)
        wrench = torch.einsum("un,n,ane->uean", kinds, w[some], basis).flatten(2).flatten(0, 1)
        square = torch.einsum("ane,bnf->abnef", basis, basis)
        both = torch.stack([square[a, b] + (square[b, a] if a != b else 0) for a, b in UPPER]).flatten(0, 1)
        lower = torch.tril_indices(E, E, device=device)
        both = both[:, lower[0], lower[1]].contiguous()
        starts, at = [], 0
        for level in limbs.levels:
            starts.append(at)
            at += level.count * (level.size - level.coefficients) // 3
        e = limbs.expression_at
        rows = torch.arange(len(limbs.columns)) - E * (torch.arange(len(limbs.columns)) >= e.stop)
        posed = torch.ones(len(limbs.columns), dtype=torch.bool)
        posed[e] = False
        border_rows = tuple(rows[level.border.cpu()[:, posed[level.border[0].cpu()]]].flatten().to(device) for level in limbs.levels)
        whole = [posed[level.border[0].cpu()] for level in limbs.levels]
        border_at = tuple(None if bool(b.all()) else b.nonzero()[:, 0].to(device) for b in whole)
        joint = (nodes - 1).clamp_min(0)
        position = {n: i for i, n in enumerate(limbs.nodes)}
        slots = _slots(limbs, dict(zip(face_nodes.tolist(), kind.tolist())), starts, rows, posed) if E else ()
        return Layout(
            limbs, joint, self._parents[joint], position[1], position[0], moves * w, tuple(starts), border_rows, border_at, wrench, both,
            slots,
        )  # fmt: skip

    def _seen_as_free(self, expressive: Bool[Tensor, "J"], free: Bool[Tensor, "D"]) -> Bool[Tensor, "J"]:
        """Expressive joints, a locked one replaced by the free joint above it."""
        out = torch.zeros_like(expressive)
        for j in expressive.nonzero()[:, 0].tolist():
            while j > 0 and not bool(free[3 + 3 * j]):
                j = self.body.skeleton.parents[j]
            out[j] = True
        return out

    def axes(self, placed: Placed, layout: Layout) -> Float[Tensor, "6 3 n T"]:
        """Spatial motion axis (angular, linear at the root joint) of every node's three unknowns."""
        n, T = len(layout.joint), placed.p.shape[-1]
        S = torch.empty(6, 3, n, T, dtype=placed.p.dtype, device=placed.p.device)
        eye = torch.eye(3, dtype=S.dtype, device=S.device)[:, :, None]
        S[:3] = placed.R.index_select(2, layout.parent)
        S[:3, :, layout.root], S[:3, :, layout.translation] = eye, 0
        S[3:] = lanes.cross(placed.p.index_select(1, layout.joint)[:, None], S[:3])
        S[3:, :, layout.translation] = eye
        return S if layout.limbs.held is None else S.masked_fill_(layout.limbs.held, 0)

    def assemble(self, placed: Placed, pull: Pull, layout: Layout) -> Normal:
        """Normal equations of every frame in the free unknowns."""
        k = self._carriers[0]
        A, f = _time_last(pull.information).index_select(2, k), _time_last(pull.gradient).index_select(1, k)
        inertia = _inertia(placed.y, A, f)
        S = self.axes(placed, layout)
        composite = layout.under @ inertia
        g = S[0] * composite[21]
        for a in range(1, 6):
            g.addcmul_(S[a], composite[21 + a])
        axes, forces, g = _rows(S), _rows(_forces(composite, S)), g.permute(2, 1, 0).flatten(1)
        own, border = [], []
        for i, level in enumerate(layout.limbs.levels):
            o, b = _blocks(level, 3 * layout.starts[i], layout.border_rows[i], layout.border_at[i], axes, forces)
            own.append(o)
            border.append(b)
        e = layout.limbs.expression_at
        if e.stop > e.start:
            slope = self._express(placed, A, f, inertia[:9].view(3, 3, len(k), -1), axes, layout, own, border)
            g = torch.cat([g[:, : e.start], slope, g[:, e.start :]], 1)
        return Normal(own, border, g)

    def _express(
        self, placed: Placed, A: Tensor, f: Tensor, YA: Tensor, axes: Tensor, layout: Layout, own: list[Tensor], border: list[Tensor]
    ) -> Float[Tensor, "T E"]:
        """Enter the expression into the blocks; returns its gradient."""
        some, (_, j, w) = self._expressive, self._carriers
        n, T = len(some), placed.p.shape[-1]
        E = layout.limbs.expression_at.stop - layout.limbs.expression_at.start
        G = placed.R.index_select(2, j[some])
        AG = lanes.product(A.index_select(2, some), G)
        wrench = torch.cat([lanes.product(YA.index_select(2, some), G), AG]).view(6, 3 * n, T)
        wrench = (layout.face_under @ wrench).view(6, -1, E, T).permute(3, 1, 2, 0)  # (T, kinds, E, 6)
        weight = w[some][:, None]
        local = torch.stack([sum(G[c, a] * AG[c, b] for c in range(3)) * weight for a, b in UPPER])  # type: ignore[arg-type]
        face = next(i for i, level in enumerate(layout.limbs.levels) if level.coefficients)
        lower = torch.tril_indices(E, E, device=A.device)
        own[face][:, 0, -E:, -E:][:, lower[0], lower[1]] = local.view(6 * n, T).T @ layout.face_square
        for slot in layout.face_slots:
            coupling = wrench[:, slot.kind] @ axes[:, slot.rows].mT
            block = (border if slot.in_border else own)[slot.level][:, slot.limb]
            if slot.lower:
                block[:, -E:, slot.at] = coupling
            else:
                block[:, slot.at, -E:] = coupling.mT
        slope = lanes.carried(G.transpose(0, 1), f.index_select(1, some)) * weight
        basis = self._face[:, layout.limbs.columns[layout.limbs.expression_at] - 3 - 3 * len(self.body.skeleton)]
        return (basis.T @ slope.reshape(3 * n, T)).T

    def couple_shape(
        self, placed: Placed, pull: Pull, layout: Layout
    ) -> tuple[Float[Tensor, "T F S"], Float[Tensor, "S S"], Float[Tensor, "T S"]]:
        """Shape against the unknowns of each frame, its own information over all frames, and its gradient in each."""
        k, j, w = self._carriers
        A, f = _time_last(pull.information).index_select(2, k), _time_last(pull.gradient).index_select(1, k)
        J = self._shape_motion(placed)
        AJ = _columns(A, J)
        wrench = torch.cat([lanes.cross(placed.y[:, None], AJ), AJ])
        composite = layout.under @ wrench  # (6, S, n, T)
        S = self.axes(placed, layout)
        B = torch.einsum("xant,xsnt->tnas", S, composite).flatten(1, 2)
        e = layout.limbs.expression_at
        weighted = AJ * w[:, None]
        if e.stop > e.start:
            some = self._expressive
            local = _columns(placed.R.index_select(2, j[some]).transpose(0, 1), weighted.index_select(2, some))
            basis = self._face[:, layout.limbs.columns[e] - 3 - 3 * len(self.body.skeleton)].view(3, len(some), -1)
            B = torch.cat([B[:, : e.start], torch.einsum("ane,asnt->tes", basis, local), B[:, e.start :]], 1)
        C = torch.einsum("asnt,arnt->sr", J, weighted)
        return B, C, torch.einsum("asnt,ant->ts", J, f * w[:, None])

    def _shape_motion(self, placed: Placed) -> Float[Tensor, "3 S N T"]:
        """How sub-points move relative to the root joint per unit of shape."""
        k, j, _ = self._carriers
        basis = self.body.joint_shape_basis
        bones = basis - basis[self._parents]
        d = _columns(placed.R.index_select(2, self._parents), bones.permute(1, 2, 0)[..., None])
        d[:, :, 0] = 0
        local = (self.skin.shape_basis[k] - basis[j]).permute(1, 2, 0)[..., None]
        return _columns(placed.R.index_select(2, j), local).add_((self._under @ d).index_select(2, j))

    def joint_covariance(self, placed: Placed, factor: Factor, layout: Layout) -> Float[Tensor, "T J 3 3"]:
        """Covariance of every joint's world position, m^2, from a factored system. A locked joint moves with the free one above it."""
        axes, p = _rows(self.axes(placed, layout)), placed.p.permute(2, 1, 0)
        own, cross = layout.limbs.covariance(factor)
        out = axes.new_zeros(len(axes), len(self.body.skeleton), 3, 3)
        for i, level in enumerate(layout.limbs.levels):
            above = layout.limbs.of_border(level, own, cross) if level.path else None
            for n in range(level.count):
                joints, rows, reach = self._riders(layout, i, n)
                q = len(rows) - (0 if above is None else len(layout.border_rows[i]) // level.families)
                C = own[i][:, n, :q, :q]
                if above is not None:
                    pick = layout.border_at[i]
                    pick = torch.arange(level.border.shape[1], device=axes.device) if pick is None else pick
                    between = cross[i][:, n, :q][..., pick]
                    C = torch.cat(
                        [torch.cat([C, between], 2), torch.cat([between.mT, above[:, n // level.siblings][:, pick][..., pick]], 2)], 1
                    )
                S = axes[:, None, rows]
                move = S[..., 3:] + torch.linalg.cross(
                    S[..., :3].expand(-1, len(joints), -1, -1), p[:, joints, None].expand(-1, -1, len(rows), -1)
                )
                move = (move * reach[..., None]).transpose(2, 3).flatten(1, 2)
                spread = (move @ C).unflatten(1, (-1, 3)) @ move.unflatten(1, (-1, 3)).mT
                out[:, joints] = spread
        return out

    def _riders(self, layout: Layout, level: int, limb: int) -> tuple[Tensor, Tensor, Float[Tensor, "j r"]]:
        """Joints that move with a limb, the pose unknowns of it and its border (counted through the nodes), and which move which joint."""
        device, one = layout.joint.device, layout.limbs.levels[level]
        ends = [*layout.starts, len(layout.limbs.nodes)]
        each = (ends[level + 1] - ends[level]) // one.count
        nodes = range(ends[level] + limb * each, ends[level] + (limb + 1) * each)
        mine = {layout.limbs.nodes[i] for i in nodes}
        free = set(layout.limbs.nodes)
        joints = []
        for j in range(len(self.body.skeleton)):
            h = j
            while h + 1 not in free:
                h = self.body.skeleton.parents[h]
            if h + 1 in mine:
                joints.append(j)
        rows = [3 * i + a for i in nodes for a in range(3)]
        if one.path:
            rows += layout.border_rows[level].view(one.families, -1)[limb // one.siblings].tolist()
        moving = [layout.limbs.nodes[r // 3] for r in rows]
        under = self.body.skeleton.under
        reach = torch.tensor([[m == 0 or bool(under[j, m - 1]) for m in moving] for j in joints], dtype=self.skin.rest.dtype).view(
            -1, len(rows)
        )
        return torch.tensor(joints, dtype=torch.long, device=device), torch.tensor(rows, device=device), reach.to(device)


def _rows(x: Float[Tensor, "6 3 n T"]) -> Float[Tensor, "T 3*n 6"]:
    """One row for each pose unknown."""
    return x.permute(3, 2, 1, 0).reshape(x.shape[-1], -1, 6)


def _columns(a: Float[Tensor, "3 3 n T"], x: Float[Tensor, "3 S n T"]) -> Float[Tensor, "3 S n T"]:
    """A matrix applied to every column."""
    out = a[:, 0, None] * x[0]
    for c in (1, 2):
        out.addcmul_(a[:, c, None], x[c])
    return out


def _inertia(y: Float[Tensor, "3 N T"], A: Float[Tensor, "3 3 N T"], f: Float[Tensor, "3 N T"]) -> Float[Tensor, "27 N T"]:
    """Spatial inertia of sub-points about the root joint: `[y]A` (9), `[y]A[y]^T` (6), A (6), and the wrench `y × f`, f."""
    M = torch.empty(27, *y.shape[1:], dtype=y.dtype, device=y.device)
    YA = M[:9].view(3, 3, *y.shape[1:])
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        torch.mul(y[j], A[k], out=YA[i]).addcmul_(y[k], A[j], value=-1)
        torch.mul(y[j], f[k], out=M[21 + i]).addcmul_(y[k], f[j], value=-1)
    for n, (a, b) in enumerate(UPPER):
        j, k = (a + 1) % 3, (a + 2) % 3
        torch.mul(y[j], YA[b, k], out=M[9 + n]).addcmul_(y[k], YA[b, j], value=-1)
        M[15 + n] = A[a, b]
    M[24:] = f
    return M


def _forces(I: Float[Tensor, "27 n T"], S: Float[Tensor, "6 3 n T"]) -> Float[Tensor, "6 3 n T"]:  # noqa: E741
    """Inertia times motion axes."""
    at = {pair: n for n, (a, b) in enumerate(UPPER) for pair in ((a, b), (b, a))}
    F = torch.empty_like(S)
    for i in range(3):
        torch.mul(I[9 + at[i, 0]], S[0], out=F[i])
        torch.mul(I[i], S[0], out=F[3 + i])
        for k in range(1, 3):
            F[i].addcmul_(I[9 + at[i, k]], S[k])
            F[3 + i].addcmul_(I[3 * k + i], S[k])
        for k in range(3):
            F[i].addcmul_(I[3 * i + k], S[3 + k])
            F[3 + i].addcmul_(I[15 + at[i, k]], S[3 + k])
    return F


def _blocks(level: Level, start: int, border_rows: Tensor, border_at: Tensor | None, S: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
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


def _slots(limbs: Limbs, kind: dict[int, int], starts: list[int], row: Tensor, posed: Tensor) -> tuple[Slot, ...]:
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

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
from studio.fit.layout import Layout, blocks, face_slots
from studio.fit.limbs import Factor, Normal, limbs_of
from studio.fit.state import Placed, Pull, State, time_last

UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Where the six numbers of a symmetric 3x3 matrix stand."""


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
        R = time_last(state.R)
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
        slots = face_slots(limbs, dict(zip(face_nodes.tolist(), kind.tolist())), starts, rows, posed) if E else ()
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
        A, f = time_last(pull.information).index_select(2, k), time_last(pull.gradient).index_select(1, k)
        inertia = _inertia(placed.y, A, f)
        S = self.axes(placed, layout)
        composite = layout.under @ inertia
        g = S[0] * composite[21]
        for a in range(1, 6):
            g.addcmul_(S[a], composite[21 + a])
        axes, forces, g = _rows(S), _rows(_forces(composite, S)), g.permute(2, 1, 0).flatten(1)
        own, border = [], []
        for i, level in enumerate(layout.limbs.levels):
            o, b = blocks(level, 3 * layout.starts[i], layout.border_rows[i], layout.border_at[i], axes, forces)
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
        A, f = time_last(pull.information).index_select(2, k), time_last(pull.gradient).index_select(1, k)
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

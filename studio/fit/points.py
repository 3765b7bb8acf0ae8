"""The posed body as the solver sees it: points, the kinematic tree, and normal equations built from pulls.

A pull says, for every point of the body, how strongly (a 3x3 information matrix) and which way (a gradient) the evidence
wants it moved. Skinned points are weighted sums of rigid sub-points, one per joint that carries them; each contributes a
6x6 spatial inertia (Featherstone, Rigid Body Dynamics Algorithms, 2008), composed up the tree, so the Gauss-Newton matrix is
`S_i^T M_j S_j` for every joint i above joint j and no Jacobian is formed. The weighted sum of squares of the sub-points bounds the
square of the weighted sum (Jensen), so the step is safe; the gradient is exact.

Unknowns of a frame, in this order: root translation 3, rotation of every joint 3 each (a small rotation applied on the
parent's side), expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs import rotation
from rigs.body import Body, Skin


@dataclass(frozen=True)
class Pull:
    """Evidence on points of the body, in the world."""

    information: Float[Tensor, "T K 3 3"]
    """1/m^2."""
    gradient: Float[Tensor, "T K 3"]
    """Of the negative log likelihood, 1/m."""
    cost: Float[Tensor, "T"]
    """Negative log likelihood, robust, per frame."""

    def __add__(self, other: Pull) -> Pull:
        return Pull(self.information + other.information, self.gradient + other.gradient, self.cost + other.cost)


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

    def replaced(self, frames: Int[Tensor, "n"], by: State) -> State:
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
        turn = step[:, 3 : 3 + 3 * J].unflatten(-1, (J, 3))
        turn = turn * (limit / turn.norm(dim=-1, keepdim=True).clamp_min(limit))
        R = rotation.exp(turn) @ self.R
        return State(R, self.root + step[:, :3], self.expression + step[:, 3 + 3 * J :])


@dataclass(frozen=True)
class Placed:
    """Points and joints of a stretch of frames. Positions of sub-points and joints are relative to the root joint, m."""

    R_world: Float[Tensor, "T J 3 3"]
    joints: Float[Tensor, "T J 3"]
    sub_points: Float[Tensor, "T N 3"]
    points: Float[Tensor, "T K 3"]
    """In the world."""


@dataclass(frozen=True)
class Normal:
    """Gauss-Newton system of every frame."""

    H: Float[Tensor, "T D D"]
    g: Float[Tensor, "T D"]


@dataclass(frozen=True)
class Model:
    """A body reduced to the points that carry evidence."""

    body: Body
    skin: Skin

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
    def _under(self) -> Float[Tensor, "N1 N"]:
        """Which sub-points each node of the tree moves; node 0 is the root translation, node 1 + j joint j."""
        _, j, _ = self._carriers
        under = self.body.skeleton.under.to(self.skin.rest.device)[j].T
        return torch.cat([torch.ones_like(under[:1]), under]).to(self.skin.rest.dtype)

    @cached_property
    def _ancestors(self) -> Float[Tensor, "Q Q"]:
        """Mask of pose unknowns (row) against unknowns of strictly higher nodes (column)."""
        J = len(self.body.skeleton)
        above = torch.zeros(J + 1, J + 1, dtype=torch.bool)
        above[1:, 1:] = self.body.skeleton.under & ~torch.eye(J, dtype=torch.bool)
        above[1:, 0] = True
        return above.repeat_interleave(3, 0).repeat_interleave(3, 1).to(self.skin.rest.device, self.skin.rest.dtype)

    @cached_property
    def _expressive(self) -> Tensor:
        """Sub-points that expression moves."""
        k, _, _ = self._carriers
        return (self.skin.expression_basis[k].abs().sum((1, 2)) > 0).nonzero()[:, 0]

    def place(self, state: State, shape: Float[Tensor, "S"]) -> Placed:
        """Where the points are."""
        k, j, w = self._carriers
        rest_joints = self.body.joints + self.body.joint_shape_basis @ shape
        R, p = self.body.skeleton.forward(state.R, rest_joints, torch.zeros_like(state.root))
        rest = self.skin.rest + self.skin.shape_basis @ shape
        local = (rest[k] - rest_joints[j]).expand(len(state), -1, -1)
        some = self._expressive
        if len(some):
            moved = torch.einsum("nce,te->tnc", self.skin.expression_basis[k[some]], state.expression)
            local = local.index_add(1, some, moved)
        y = p[:, j] + (R[:, j] @ local[..., None])[..., 0]
        x = torch.zeros(len(state), len(self.skin), 3, dtype=y.dtype, device=y.device).index_add_(1, k, y * w[:, None])
        return Placed(R, p, y, x + state.root[:, None])

    def axes(self, placed: Placed) -> Float[Tensor, "T Q 6"]:
        """Spatial motion axis (angular, linear at the root joint) of every pose unknown."""
        T, J = placed.joints.shape[:2]
        parents = torch.tensor(self.body.skeleton.parents, device=placed.joints.device)
        eye = torch.eye(3, dtype=placed.joints.dtype, device=placed.joints.device)
        up = placed.R_world[:, parents.clamp_min(0)].clone()
        up[:, 0] = eye
        omega = up.mT  # row a is the parent's axis a in the world
        linear = torch.linalg.cross(placed.joints[:, :, None].expand_as(omega), omega)
        first = torch.cat([torch.zeros_like(eye), eye], 1).expand(T, 1, 3, 6)
        return torch.cat([first, torch.cat([omega, linear], -1)], 1).reshape(T, 3 * (J + 1), 6)

    def assemble(self, placed: Placed, pull: Pull, expressive: bool = True) -> Normal:
        """Normal equations of every frame; without its expression's unless `expressive`."""
        k, _, w = self._carriers
        T, Q = len(placed.joints), 3 * (len(self.body.skeleton) + 1)
        A, f = pull.information[:, k] * w[:, None, None], pull.gradient[:, k] * w[:, None]
        Y = rotation.skew(placed.sub_points)
        YA = Y @ A
        inertia = torch.cat([torch.cat([YA @ Y.mT, YA], -1), torch.cat([YA.mT, A], -1)], -2).flatten(-2)
        wrench = torch.cat([(Y @ f[..., None])[..., 0], f], -1)
        composite = self._under @ torch.cat([inertia, wrench], -1)
        S = self.axes(placed)
        nodes = S.view(T, -1, 3, 6)
        F = nodes @ composite[..., :36].unflatten(-1, (6, 6))
        upper = (F.reshape(T, Q, 6) @ S.mT) * self._ancestors
        own = F @ nodes.mT
        E = len(self.body.expression_names)
        H = torch.zeros(T, Q + E, Q + E, dtype=S.dtype, device=S.device)
        H[:, :Q, :Q] = upper + upper.mT
        H[:, :Q, :Q].unflatten(1, (-1, 3)).unflatten(3, (-1, 3)).diagonal(dim1=1, dim2=3).add_(own.permute(0, 2, 3, 1))
        g = torch.zeros(T, Q + E, dtype=S.dtype, device=S.device)
        g[:, :Q] = (nodes @ composite[..., 36:, None])[..., 0].flatten(1)
        some = self._expressive
        if expressive and len(some):
            carried = placed.R_world[:, self._carriers[1][some]] @ self.skin.expression_basis[k[some]]
            B, C, c = self._couple(S, placed, A, f, carried, some)
            H[:, :Q, Q:], H[:, Q:, :Q], H[:, Q:, Q:], g[:, Q:] = B, B.mT, C, c
        return Normal(H, g)

    def couple_shape(self, placed: Placed, pull: Pull) -> tuple[Tensor, Tensor, Tensor]:
        """Shape against the unknowns of each frame: coupling (T, D, S), own information (T, S, S) and gradient (T, S)."""
        k, j, w = self._carriers
        A, f = pull.information[:, k] * w[:, None, None], pull.gradient[:, k] * w[:, None]
        carried = self._shape_motion(placed)[:, j] + placed.R_world[:, j] @ (self.skin.shape_basis[k] - self.body.joint_shape_basis[j])
        S = self.axes(placed)
        B, C, c = self._couple(S, placed, A, f, carried, torch.arange(len(k), device=k.device))
        some = self._expressive
        if len(self.body.expression_names):
            face = placed.R_world[:, j[some]] @ self.skin.expression_basis[k[some]]
            B = torch.cat([B, torch.einsum("tnce,tncs->tes", face, A[:, some] @ carried[:, some])], 1)
        return B, C, c

    def _shape_motion(self, placed: Placed) -> Float[Tensor, "T J 3 S"]:
        """How joint centres move relative to the root joint per unit of shape."""
        basis, parents = self.body.joint_shape_basis, self.body.skeleton.parents
        motion = [torch.zeros_like(basis[0]).expand(len(placed.joints), -1, -1)]
        for j in range(1, len(parents)):
            motion.append(motion[parents[j]] + placed.R_world[:, parents[j]] @ (basis[j] - basis[parents[j]]))
        return torch.stack(motion, 1)

    def _couple(self, S: Tensor, placed: Placed, A: Tensor, f: Tensor, carried: Tensor, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients that move the sub-points `some` by `carried` (T, n, 3, c): coupling to the pose, information, gradient."""
        T = len(S)
        force = A[:, some] @ carried
        wrench = torch.cat([rotation.skew(placed.sub_points[:, some]) @ force, force], -2)
        composite = (self._under[:, some] @ wrench.flatten(-2)).unflatten(-1, (6, -1))
        B = (S.view(T, -1, 3, 6) @ composite).flatten(1, 2)
        return B, torch.einsum("tnca,tncb->tab", carried, force), torch.einsum("tnca,tnc->ta", carried, f[:, some])

    def joint_covariance(self, placed: Placed, covariance: Float[Tensor, "T F F"], columns: Int[Tensor, "F"]) -> Float[Tensor, "T J 3 3"]:
        """Covariance of every joint's world position, m^2, from that of the unknowns at `columns`."""
        T, J = placed.joints.shape[:2]
        pose = columns[columns < 3 * (J + 1)]
        S = self.axes(placed)[:, pose]
        reach = torch.cat([torch.ones(J, 1, dtype=torch.bool), self.body.skeleton.under], 1).to(S.device, S.dtype)
        reach = reach.repeat_interleave(3, 1)[:, pose]
        linear = S[:, None, :, 3:] + torch.linalg.cross(S[:, None, :, :3], placed.joints[:, :, None].expand(T, J, len(pose), 3))
        linear = linear * reach[..., None]
        n = len(pose)
        carried = covariance[:, :n, :n] @ linear.permute(0, 2, 1, 3).reshape(T, n, 3 * J)
        return torch.einsum("tjqa,tqjb->tjab", linear, carried.view(T, n, J, 3))

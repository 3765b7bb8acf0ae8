"""Bundle adjustment of cameras that saw a rigid board: Levenberg-Marquardt over all poses and, if wanted, lenses, delays.

The board keeps its exact shape, so every instant has six unknowns however many corners were seen. These are eliminated first (Schur
complement; Triggs et al. 2000, "Bundle adjustment: a modern synthesis", section 6), which leaves a dense system of the cameras alone.
A view's residuals depend on the pose of its board in its camera only: one small Gauss-Newton matrix a view serves camera and board, for a
twist of the board in the world is the adjoint of the camera's pose times a twist in the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.reprojection import DELAY, LENS, THICKNESS, Normals, Sightings, normals

DELAY_SD = 0.5
"""Cameras are this much apart in time, as a prior, frames."""
THICKNESS_SD = 0.01
"""How well a two-sided board's thickness is known before, m."""
Pose = tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]


def skew(v: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """Matrix `K` with `K @ x = v x x`."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*v.shape, 3)


def moved(R: Float[Tensor, "... 3 3"], t: Float[Tensor, "... 3"], twist: Float[Tensor, "... 6"]) -> tuple[Tensor, Tensor]:
    """A pose after a twist (rotation vector rad, shift m) on its left: exp(w) R and exp(w) t + v."""
    turn = torch.linalg.matrix_exp(skew(twist[..., :3]))
    return turn @ R, (turn @ t[..., None])[..., 0] + twist[..., 3:]


def adjoint(R: Float[Tensor, "... 3 3"], t: Float[Tensor, "... 3"]) -> Float[Tensor, "... 6 6"]:
    """What a twist on the right of a pose amounts to on its left."""
    A = R.new_zeros(*R.shape[:-2], 6, 6)
    A[..., :3, :3] = A[..., 3:, 3:] = R
    A[..., 3:, :3] = skew(t) @ R
    return A


def composed(cameras: Pose, boards: Pose, views: Sightings) -> tuple[Float[Tensor, "V 3 3"], Float[Tensor, "V 3"]]:
    """The pose of each view's board in its camera."""
    R = cameras[0][views.camera]
    return R @ boards[0][views.board], (R @ boards[1][views.board][..., None])[..., 0] + cameras[1][views.camera]


@dataclass(frozen=True)
class LensModel:
    """Which parts of the lenses are unknown: camera c's lens is `start[group[c]] + basis @ change[group[c]]`."""

    start: Float[Tensor, "G 12"]
    fish: Bool[Tensor, "G"]
    group: Int[Tensor, "C"]
    basis: Float[Tensor, "12 K"]
    prior: Float[Tensor, "G K K"]
    """Information on `change` about zero, from earlier knowledge of the lens."""

    @property
    def columns(self) -> tuple[int, ...]:
        """Lens entries that `basis` touches."""
        return tuple(i for i in range(LENS) if bool(self.basis[i].any()))

    def of(self, change: Float[Tensor, "G K"]) -> Float[Tensor, "C 12"]:
        """Every camera's lens."""
        return (self.start + change @ self.basis.T)[self.group]


@dataclass(frozen=True)
class Adjusted:
    """Cameras and boards after the adjustment. Poses map the world into the camera, and the board into the world."""

    R: Float[Tensor, "C 3 3"]
    t: Float[Tensor, "C 3"]
    R_world_board: Float[Tensor, "B 3 3"]
    board_position: Float[Tensor, "B 3"]
    change: Float[Tensor, "G K"]
    delay: Float[Tensor, "C"]
    """Frames by which each camera's pictures must be moved on to fit the clock's; zero where no velocity was given."""
    thickness: Float[Tensor, ""]
    """What a two-sided board is thicker than was said, m; zero where no view shows its back."""
    cost: float
    steps: int
    information: Float[Tensor, "U U"]
    """Of the cameras' unknowns, boards eliminated: six twist entries a camera (camera's frame), lens groups', delays, thickness."""
    scores: Float[Tensor, "B U"]
    """Each instant's part of the gradient at the end, boards eliminated: what its data would still move."""

    def of_views(self, views: Sightings) -> tuple[Float[Tensor, "V 3 3"], Float[Tensor, "V 3"]]:
        """The board's pose in the camera, for each view."""
        return composed((self.R, self.t), (self.R_world_board, self.board_position), views)


@dataclass(frozen=True)
class _State:
    R: Tensor
    t: Tensor
    R_board: Tensor
    t_board: Tensor
    change: Tensor
    delay: Tensor
    thickness: Tensor


@dataclass(frozen=True)
class _System:
    """The normal equations at one state: cameras `A a`, coupling `E` and boards `B b`, without damping."""

    A: Float[Tensor, "U U"]
    a: Float[Tensor, "U"]
    E: Float[Tensor, "N U 6"]
    B: Float[Tensor, "N 6 6"]
    b: Float[Tensor, "N 6"]
    a_board: Float[Tensor, "N U"]
    cost: float


def adjust(
    views: Sightings,
    cameras: Pose,
    boards: Pose,
    lenses: LensModel,
    held: Sequence[int] = (0,),
    pose_prior: Float[Tensor, "C 6 6"] | None = None,
    delay: Float[Tensor, "C"] | None = None,
    thickness: Float[Tensor, ""] | None = None,
    clock: int | None = None,
    steps: int = 30,
    tolerance: float = 1e-7,
) -> Adjusted:
    """The poses (and lenses) of the least robust reprojection error.

    The world is fixed by the cameras `held`, or by `pose_prior`: information on each camera's twist away from its start (camera's frame).
    Where the views hold velocities, each camera's delay is solved too, from `delay` on; that of `clock`, or of the held, stays. Where some
    show a board's back, its thickness is solved, unless all cameras are held. `steps` bounds the iterations; it ends when a step promises
    to lower the cost by less than `tolerance` of it. Damping follows the gain ratio (Madsen, Nielsen, Tingleff 2004, "Methods for
    non-linear least squares problems", section 3.2).
    """
    if not held and pose_prior is None:
        raise ValueError("bundle adjustment: hold one camera, or give a prior on the camera poses; else the world may drift")
    C = len(cameras[0])
    delays = cameras[1].new_zeros(C) if delay is None else delay
    thick = cameras[1].new_zeros(()) if thickness is None else thickness
    start = _State(*cameras, *boards, lenses.start.new_zeros(len(lenses.start), lenses.basis.shape[1]), delays, thick)
    free = torch.ones(len(_prior(start, start, lenses, pose_prior)[0]), dtype=torch.bool)
    for c in held:
        free[6 * c : 6 * c + 6] = False
    for c in held if clock is None else (clock,):
        free[len(free) - 1 - C + c] = False
    free[len(free) - 1 - C : -1] &= views.velocity is not None
    free[-1] = views.behind is not None and bool(views.behind.any()) and not bool((~views.behind).all()) and len(held) < C
    system, state = _linearised(views, start, start, lenses, pose_prior), start
    damping, growth, taken = 1e-6, 2.0, 0
    for taken in range(1, steps + 1):  # noqa: B007
        solved = _step(system, free, damping)
        if solved is None:
            damping, growth = damping * growth, growth * 2
            continue
        promised, da, db = solved
        if promised <= tolerance * system.cost:
            break
        trial = _applied(state, da, db)
        trial_system = _linearised(views, trial, start, lenses, pose_prior)
        gain = (system.cost - trial_system.cost) / promised
        if gain > 0:
            state, system = trial, trial_system
            damping, growth = max(damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 1e-9), 2.0
        else:
            damping, growth = damping * growth, growth * 2
    return _finished(system, state, free, taken)


def _linearised(views: Sightings, state: _State, start: _State, lenses: LensModel, pose_prior: Tensor | None) -> _System:
    C, B, K, G = len(state.R), len(state.R_board), lenses.basis.shape[1], len(lenses.start)
    c, b = views.camera, views.board
    R, t = composed((state.R, state.t), (state.R_board, state.t_board), views)
    timed = views.velocity is not None
    extra_columns = ((DELAY,) if timed else ()) + ((THICKNESS,) if views.behind is not None else ())
    views = views.at(state.delay).thicker(state.thickness)
    found = normals(views, R, t, lenses.of(state.change)[c], lenses.fish[lenses.group][c], lenses.columns + extra_columns)
    H, g = _reduced(found, lenses, len(extra_columns))
    Ad = adjoint(state.R, state.t)[c]
    HA, P, U = H[:, :, :6] @ Ad, 6 + K + len(extra_columns), 6 * C + G * K + C + 1
    columns = [torch.arange(6 * C).view(C, 6), 6 * C + lenses.group[:, None] * K + torch.arange(K)]
    columns += [U - 1 - C + torch.arange(C)[:, None]] if timed else []
    columns = torch.cat([*columns, torch.full((C, 1), U - 1)], 1)[:, :P]
    blocks, own = H.new_zeros(C, P, P).index_add_(0, c, H), columns
    A = H.new_zeros(U * U).index_add_(0, (own[:, :, None] * U + own[:, None, :]).flatten(), blocks.flatten()).view(U, U)
    a_board = H.new_zeros(B * U).index_add_(0, (b[:, None] * U + columns[c]).flatten(), g.flatten()).view(B, U)
    E = H.new_zeros(B * U, 6).index_add_(0, (b[:, None] * U + columns[c]).flatten(), HA.flatten(0, 1)).view(B, U, 6)
    boards = H.new_zeros(B, 6, 6).index_add_(0, b, Ad.mT @ HA[:, :6])
    pulls = H.new_zeros(B, 6).index_add_(0, b, (Ad.mT @ g[:, :6, None])[..., 0])
    extra, extra_gradient, extra_cost = _prior(state, start, lenses, pose_prior)
    return _System(A + extra, a_board.sum(0) + extra_gradient, E, boards, pulls, a_board, float(found.cost.sum()) + extra_cost)


def _reduced(found: Normals, lenses: LensModel, more: int) -> tuple[Tensor, Tensor]:
    """Gauss-Newton matrix and gradient by the unknown changes instead of the lens entries."""
    basis = lenses.basis[list(lenses.columns)]
    T = torch.block_diag(torch.eye(6, dtype=basis.dtype), basis, torch.eye(more, dtype=basis.dtype))
    return T.T @ found.matrix @ T, found.gradient @ T


def _prior(state: _State, start: _State, lenses: LensModel, pose_prior: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Information, gradient and cost of what was known before."""
    C, K = len(state.R), state.change.shape[1]
    pull = (lenses.prior @ state.change[..., None])[..., 0]
    poses = state.R.new_zeros(C, 6, 6) if pose_prior is None else pose_prior
    turn = state.R @ start.R.mT
    # The vector of the antisymmetric part is the rotation vector up to the third order, enough for a prior of small angles.
    half = torch.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], -1) / 2
    away = torch.cat([half, state.t - (turn @ start.t[..., None])[..., 0]], -1)
    pulled = (poses @ away[..., None])[..., 0]
    late, thick = state.delay / DELAY_SD**2, state.thickness / THICKNESS_SD**2
    known = [*poses, *lenses.prior] if K else [*poses]
    information = torch.block_diag(*known, torch.eye(C, dtype=late.dtype) / DELAY_SD**2, torch.ones_like(thick) / THICKNESS_SD**2)
    cost = float((pull * state.change).sum() + (pulled * away).sum() + (late * state.delay).sum() + thick * state.thickness) / 2
    return information, torch.cat([pulled.flatten(), pull.flatten(), late, thick[None]]), cost


def _step(system: _System, free: Tensor, damping: float) -> tuple[float, Tensor, Tensor] | None:
    """Promised decrease of the cost and the step of cameras and boards; None where the damped system has no Cholesky factor."""
    B = system.B + torch.diag_embed(system.B.diagonal(dim1=-2, dim2=-1) * damping + 1e-12)
    L, wrong = torch.linalg.cholesky_ex(B)
    E, A, a = system.E[:, free], system.A[free][:, free], system.a[free]
    half = torch.linalg.solve_triangular(L, E.mT, upper=False)
    rhs = torch.linalg.solve_triangular(L, system.b[..., None], upper=False)
    flat = half.flatten(0, 1)
    S = A + torch.diag(A.diagonal() * damping + 1e-12) - flat.T @ flat
    factor, bad = torch.linalg.cholesky_ex(S)
    if bool(wrong.any()) or bool(bad):
        return None
    da = torch.cholesky_solve((flat.T @ rhs.flatten() - a)[:, None], factor)[:, 0]
    db = -torch.linalg.solve_triangular(L.mT, rhs + (flat @ da).view(len(B), 6, 1), upper=True)[..., 0]
    damped = damping * ((A.diagonal() * da * da).sum() + (system.B.diagonal(dim1=-2, dim2=-1) * db * db).sum())
    promised = (damped - (a * da).sum() - (system.b * db).sum()) / 2
    whole = system.a.new_zeros(len(free))
    whole[free] = da
    return float(promised), whole, db


def _applied(state: _State, da: Tensor, db: Tensor) -> _State:
    C = len(state.R)
    R, t = moved(state.R, state.t, da[: 6 * C].view(C, 6))
    R_board, t_board = moved(state.R_board, state.t_board, db)
    change = state.change + da[6 * C : len(da) - 1 - C].view(state.change.shape)
    delay, thickness = state.delay + da[len(da) - 1 - C : -1], state.thickness + da[-1]
    return _State(R, t, R_board, t_board, change, delay, thickness)


def _finished(system: _System, state: _State, free: Tensor, steps: int) -> Adjusted:
    B = system.B + 1e-12 * torch.eye(6, dtype=system.B.dtype)
    gain = torch.linalg.solve(B, system.E.mT)
    information = system.A - torch.einsum("nui,niv->uv", system.E, gain)
    scores = system.a_board - torch.einsum("ni,niu->nu", system.b, gain)
    information = torch.where(free[:, None] & free, information, 0)
    return Adjusted(
        state.R,
        state.t,
        state.R_board,
        state.t_board,
        state.change,
        state.delay,
        state.thickness,
        system.cost,
        steps,
        information,
        torch.where(free, scores, 0),
    )

"""The one solver: robust Levenberg-Marquardt on every frame, then on the whole stretch with smoothness.

`settle` treats frames alone: cheap, massively parallel, forgiving. `smooth` couples them: conjugate gradients over all frames,
preconditioned with each frame's own factor. Both accept a step only where the objective falls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.fit.points import Model, Normal, Placed, Pull, State
from studio.fit.priors import Priors, Smoothness

Evidence = Callable[[Float[Tensor, "T K 3"], slice | Tensor], Pull]
"""All data terms together: points of the frames named (a slice, or their numbers) -> one pull."""


@dataclass(frozen=True)
class Problem:
    """What is solved: a model's points under evidence and priors, some unknowns held."""

    model: Model
    shape: Float[Tensor, "S"]
    evidence: Evidence
    priors: Priors
    free: Bool[Tensor, "D"]
    """Unknowns that may change; the others are cut out of every system."""
    chunk: int = 128
    """Frames linearised at once: bounds memory."""

    def chunks(self, frames: int) -> list[slice]:
        """Stretches of at most `chunk` frames."""
        return [slice(a, min(frames, a + self.chunk)) for a in range(0, frames, self.chunk)]

    def cost(self, state: State, frames: slice | Tensor) -> Float[Tensor, "T"]:
        """Objective of each frame without smoothness; `state` covers just those frames."""
        return self.evidence(self.model.place(state, self.shape).points, frames).cost + self.priors.cost(state)

    @cached_property
    def columns(self) -> Int[Tensor, "F"]:
        """Positions of the free unknowns."""
        return self.free.nonzero()[:, 0]

    def linearised(self, state: State, frames: slice | Tensor) -> tuple[Normal, Placed, Pull]:
        """Normal equations of some frames in the free unknowns, priors included."""
        placed = self.model.place(state, self.shape)
        pull = self.evidence(placed.points, frames)
        expressive = bool(self.free[3 + 3 * len(self.model.body.skeleton) :].any())
        normal = self.priors.added(self.model.assemble(placed, pull, expressive), state)
        i = self.columns
        return Normal(normal.H[:, i[:, None], i], normal.g[:, i]), placed, pull

    def moved(self, state: State, step: Float[Tensor, "T F"]) -> State:
        """The state after a step of the free unknowns."""
        whole = step.new_zeros(len(step), len(self.free))
        whole[:, self.columns] = step
        return state.moved(whole)


def _factor(H: Tensor, damping: Tensor, extra: Tensor | float = 0.0) -> Tensor:
    """Cholesky factor of `H` with its diagonal scaled by 1 + damping; a frame that is not positive definite gets more. Changes `H`."""
    diagonal = H.diagonal(dim1=1, dim2=2)
    diagonal.mul_(1 + damping).add_(extra + 1e-6 * diagonal.amax(1, keepdim=True))
    L, info = torch.linalg.cholesky_ex(H)
    if bool((info > 0).any()):
        diagonal.add_(torch.where(info > 0, 1e-2, 0.0).to(H.dtype)[:, None] * diagonal.amax(1, keepdim=True))
        L, _ = torch.linalg.cholesky_ex(H)
    return L


def settle(problem: Problem, state: State, iterations: int, damping: float = 1e-3) -> tuple[State, Float[Tensor, "T"]]:
    """Every frame by itself; returns the state and each frame's objective. A frame that has settled is left alone."""
    parts, costs = [], []
    for frames in problem.chunks(len(state)):
        s, cost = _settle_chunk(problem, state[frames], frames, iterations, damping)
        parts.append(s)
        costs.append(cost)
    return State.joined(parts), torch.cat(costs)


def _settle_chunk(problem: Problem, s: State, frames: slice, iterations: int, damping: float) -> tuple[State, Tensor]:
    number = torch.arange(frames.start, frames.stop, device=s.root.device)
    lam = torch.full_like(s.root[:, 0], damping)
    cost = problem.cost(s, frames)
    busy = torch.arange(len(s), device=s.root.device)
    for _ in range(iterations):
        now = s[busy]
        normal, _, _ = problem.linearised(now, number[busy])
        L = _factor(normal.H, lam[busy, None])
        tried = problem.moved(now, -torch.cholesky_solve(normal.g[..., None], L)[..., 0])
        new, old = problem.cost(tried, number[busy]), cost[busy]
        better = new < old  # False for NaN too
        s = s.replaced(busy, tried.where(better, now))
        cost[busy] = torch.where(better, new, old)
        lam[busy] = torch.where(better, lam[busy] * 0.3, lam[busy] * 8).clamp(1e-6, 1e4)
        busy = busy[~better | (old - new > 1e-3 * old)]
        if not len(busy):
            break
    return s, cost


def objective(problem: Problem, state: State, smoothness: Smoothness) -> Float[Tensor, ""]:
    """Data, priors and smoothness of a stretch."""
    frames = [problem.cost(state[c], c).double().sum() for c in problem.chunks(len(state))]
    return torch.stack(frames).sum() + smoothness.cost(state).double()


def smooth(
    problem: Problem, state: State, smoothness: Smoothness, iterations: int, inner: int = 30, damping: float = 1e-4
) -> tuple[State, Float[Tensor, "T F F"]]:
    """The whole stretch with smoothness; returns the state and the inverse of each frame's block (smoothness' diagonal included)."""
    best = objective(problem, state, smoothness)
    inverse = state.root.new_zeros(0)
    for _ in range(iterations):
        inverse, g = _linearise_stretch(problem, state, smoothness, damping)
        step = -_conjugate_gradients(inverse, smoothness.of(problem.columns), g, inner)
        tried = problem.moved(state, step)
        new = objective(problem, tried, smoothness)
        if bool(new < best):
            gain = float((best - new) / best.abs().clamp_min(1e-12))
            state, best, damping = tried, new, max(damping * 0.3, 1e-6)
            if gain < 3e-4:
                break
        else:
            damping = max(damping, 1e-4) * 20
    return state, inverse


def _linearise_stretch(problem: Problem, state: State, smoothness: Smoothness, damping: float) -> tuple[Tensor, Tensor]:
    diagonal = smoothness.of(problem.columns).diagonal(len(state))
    scale = torch.tensor(damping, dtype=diagonal.dtype, device=diagonal.device)
    inverses, gradients = [], []
    for frames in problem.chunks(len(state)):
        normal, _, _ = problem.linearised(state[frames], frames)
        inverses.append(torch.cholesky_inverse(_factor(normal.H, scale, diagonal[frames])))
        gradients.append(normal.g)
    return torch.cat(inverses), torch.cat(gradients) + smoothness.gradient(state)[:, problem.columns]


def _conjugate_gradients(inverse: Tensor, smoothness: Smoothness, g: Tensor, steps: int) -> Tensor:
    """Solve (blocks + smoothness) x = g, where `inverse` is that of every (block + smoothness' diagonal)."""
    diagonal = smoothness.diagonal(len(g))
    x = torch.zeros_like(g)
    r = g.clone()
    z = (inverse @ r[..., None])[..., 0]
    p, Mp = z.clone(), r.clone()  # M p is carried along, so that a step costs one product
    rz = (r * z).sum()
    first = rz.clone()
    for _ in range(steps):
        Ap = Mp + smoothness.times(p) - diagonal * p
        alpha = rz / (p * Ap).sum().clamp_min(1e-30)
        x = x + alpha * p
        r = r - alpha * Ap
        z = (inverse @ r[..., None])[..., 0]
        new = (r * z).sum()
        if bool(new < 1e-4 * first):
            break
        beta, rz = new / rz, new
        p, Mp = z + beta * p, r + beta * Mp
    return x


def settle_shape(problem: Problem, state: State, iterations: int, independent: float = 6.0) -> tuple[State, Float[Tensor, "S"], Tensor]:
    """Poses of all frames and one shape together: the shape is a border, eliminated by its Schur complement.

    The shape's prior is standard normal; errors of a network's landmarks repeat from frame to frame, so all frames together count as
    `independent` ones. Returns state, shape, and the standard deviation of each coefficient.
    """
    frames = slice(0, len(state))
    prior = len(state) / independent
    shape, lam = problem.shape, 1e-3
    best = problem.cost(state, frames).sum() + 0.5 * prior * shape.square().sum()
    eye = torch.eye(len(shape), dtype=shape.dtype, device=shape.device)
    S = prior * eye
    for _ in range(iterations):
        now = replace(problem, shape=shape)
        normal, placed, pull = now.linearised(state, frames)
        B, C, c = now.model.couple_shape(placed, pull)
        B = B[:, problem.columns]
        L = _factor(normal.H, torch.tensor(lam, dtype=shape.dtype, device=shape.device))
        solved = torch.cholesky_solve(torch.cat([B, normal.g[..., None]], -1), L)
        S = C.sum(0) + prior * eye - torch.einsum("tds,tdr->sr", B, solved[..., :-1])
        gradient = c.sum(0) + prior * shape - torch.einsum("tds,td->s", B, solved[..., -1])
        change = -torch.linalg.solve(S + lam * torch.diag(S.diagonal()), gradient)
        change = change * (1.0 / change.abs().max().clamp_min(1.0))
        tried = problem.moved(state, -(solved[..., -1] + solved[..., :-1] @ change))
        new = replace(problem, shape=shape + change).cost(tried, frames).sum() + 0.5 * prior * (shape + change).square().sum()
        if bool(new < best):
            state, shape, best, lam = tried, shape + change, new, max(lam * 0.3, 1e-6)
        else:
            lam = max(lam, 1e-3) * 10
    sigma = torch.linalg.inv(S).diagonal().clamp_min(0).sqrt() * prior**0.5
    return state, shape, sigma


def spread(problem: Problem, state: State, inverse: Float[Tensor, "T F F"]) -> Float[Tensor, "T J"]:
    """Standard deviation of every joint's world position (root mean square of the three axes), m, from each frame's block."""
    out = []
    for frames in problem.chunks(len(state)):
        placed = problem.model.place(state[frames], problem.shape)
        each = problem.model.joint_covariance(placed, inverse[frames], problem.columns)
        out.append(each.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(0).sqrt())
    return torch.cat(out)

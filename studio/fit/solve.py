"""The one solver: robust Levenberg-Marquardt on every frame, then on the whole stretch with smoothness.

`settle` treats frames alone: cheap, massively parallel, forgiving. `smooth` couples them: conjugate gradients over all frames,
preconditioned with each frame's own factor. Both accept a step only where the objective falls, and choose their damping by how much of
the foretold gain came true (Nielsen, Damping parameter in Marquardt's method, 1999).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.fit.limbs import Factor, Normal
from studio.fit.points import Layout, Model, Placed, Pull, State
from studio.fit.priors import Priors, Smoothness

Evidence = Callable[[Float[Tensor, "T K 3"], slice | Tensor], Pull]
"""All data terms together: points of the frames named (a slice, or their numbers) -> one pull."""
STIFF = 1e4
"""Joins every diagonal (1/m^2, 1/rad^2) before damping scales it, so that what the evidence hardly tells is damped too."""
FLOOR = 1e-3
"""Added to every diagonal: frames without any evidence keep a solution."""


@dataclass(frozen=True)
class Look:
    """A state with everything that linearising it needs: evaluated once, used to judge a step and to take the next."""

    state: State
    placed: Placed
    pull: Pull
    cost: Float[Tensor, "T"]

    def where(self, take: Bool[Tensor, "T"], other: Look) -> Look:
        """This in frames where `take`, the other elsewhere."""
        cost = torch.where(take, self.cost, other.cost)
        return Look(self.state.where(take, other.state), self.placed.where(take, other.placed), self.pull.where(take, other.pull), cost)


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

    @cached_property
    def layout(self) -> Layout:
        """Order of elimination."""
        return self.model.layout(self.free)

    def look(self, state: State, frames: slice | Tensor) -> Look:
        """Evidence and objective of some frames; `state` covers just those frames."""
        placed = self.model.place(state, self.shape)
        pull = self.evidence(placed.points, frames)
        return Look(state, placed, pull, pull.cost + self.priors.cost(state))

    def cost(self, state: State, frames: slice | Tensor) -> Float[Tensor, "T"]:
        """Objective of each frame without smoothness; `state` covers just those frames."""
        return self.look(state, frames).cost

    def normal(self, look: Look) -> Normal:
        """Normal equations in the free unknowns, priors included."""
        return self.priors.added(self.model.assemble(look.placed, look.pull, self.layout), look.state, self.layout)

    def moved(self, state: State, step: Float[Tensor, "T F"]) -> State:
        """The state after a step of the free unknowns."""
        whole = step.new_zeros(len(step), len(self.free))
        whole[:, self.layout.limbs.columns] = step
        return state.moved(whole)


def settle(
    problem: Problem, state: State, iterations: int, damping: float = 1e-3, tolerance: float = 1e-3
) -> tuple[State, Float[Tensor, "T"]]:
    """Every frame by itself; returns the state and each frame's objective. A frame that has settled is left alone."""
    parts, costs = [], []
    for frames in problem.chunks(len(state)):
        s, cost = _settle_chunk(problem, state[frames], frames, iterations, damping, tolerance)
        parts.append(s)
        costs.append(cost)
    return State.joined(parts), torch.cat(costs)


def _settle_chunk(problem: Problem, s: State, frames: slice, iterations: int, damping: float, tolerance: float) -> tuple[State, Tensor]:
    number: slice | Tensor = frames
    now = problem.look(s, frames)
    lam, growth = torch.full_like(now.cost, damping), torch.full_like(now.cost, 2)
    busy, done, cost = torch.arange(len(s), device=lam.device), now.state, now.cost.clone()
    for i in range(iterations):
        normal = problem.normal(now)
        D = lam[:, None] * (normal.diagonal() + STIFF) + FLOOR
        step = -problem.layout.limbs.solve(problem.layout.limbs.factor(normal.raised(D)), normal.g)
        tried = problem.look(problem.moved(now.state, step), number)
        foretold = 0.5 * ((D * step - normal.g) * step).sum(1)
        better = tried.cost < now.cost  # False for NaN too
        gain = now.cost - tried.cost
        lam, growth = _damping(lam, growth, better, gain / foretold.clamp_min(1e-12))
        active = ~better | (gain > tolerance * now.cost)
        now = tried if bool(better.all()) else tried.where(better, now)
        count = int(active.sum())
        if i == iterations - 1 or not count:
            break
        if count < 0.6 * len(active):
            done, cost = done.replaced(busy, now.state), cost.index_put((busy,), now.cost)
            keep = active.nonzero()[:, 0]
            busy, lam, growth = busy[keep], lam[keep], growth[keep]
            number = busy + frames.start
            now = problem.look(now.state[keep], number)
    return done.replaced(busy, now.state), cost.index_put((busy,), now.cost)


def _damping(lam: Tensor, growth: Tensor, better: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Nielsen's rule: a good forecast lowers the damping up to threefold; failures raise it ever faster."""
    shrink = (1 - (2 * ratio.clamp(0, 1) - 1) ** 3).clamp_min(1 / 3)
    lam = torch.where(better, lam * shrink, lam * growth).clamp(1e-6, 1e6)
    return lam, torch.where(better, 2.0, growth * 2)


def objective(problem: Problem, state: State, smoothness: Smoothness) -> Float[Tensor, ""]:
    """Data, priors and smoothness of a stretch."""
    frames = [problem.cost(state[c], c).double().sum() for c in problem.chunks(len(state))]
    return torch.stack(frames).sum() + smoothness.cost(state).double()


def smooth(
    problem: Problem, state: State, smoothness: Smoothness, iterations: int, inner: int = 30, damping: float = 1e-4, tolerance: float = 3e-4
) -> State:
    """The whole stretch with smoothness."""
    looks = [problem.look(state[c], c) for c in problem.chunks(len(state))]
    best = _total(looks, smoothness, state)
    some = smoothness.of(problem.layout.limbs.columns)
    lam, growth = torch.full_like(best, damping), torch.full_like(best, 2)
    factor, g, D = _linearised(problem, looks, state, smoothness, float(lam))
    for i in range(iterations):
        step, foretold = _conjugate_gradients(problem, factor, some, -g, inner)
        foretold = foretold + 0.5 * (D * step * step).sum(dtype=torch.float64)
        tried = problem.moved(state, step)
        new_looks = [problem.look(tried[c], c) for c in problem.chunks(len(state))]
        new = _total(new_looks, smoothness, tried)
        better = new < best
        lam, growth = _damping(lam, growth, better, (best - new) / foretold.clamp_min(1e-12))
        gain = float((best - new) / best.abs().clamp_min(1e-12))
        if bool(better):
            state, best, looks = tried, new, new_looks
        if i == iterations - 1 or 0 <= gain < tolerance:
            break
        factor, g, D = _linearised(problem, looks, state, smoothness, float(lam))
    return state


def _total(looks: list[Look], smoothness: Smoothness, state: State) -> Float[Tensor, ""]:
    return torch.stack([x.cost.double().sum() for x in looks]).sum() + smoothness.cost(state).double()


def _linearised(problem: Problem, looks: list[Look], state: State, smoothness: Smoothness, damping: float) -> tuple[Factor, Tensor, Tensor]:
    """Factors of all frames' blocks (with smoothness' and the damping's diagonal), the gradient, and the damping's diagonal."""
    limbs = problem.layout.limbs
    diagonal = smoothness.of(limbs.columns).diagonal(len(state))
    factors, gradients, extra = [], [], []
    for frames, look in zip(problem.chunks(len(state)), looks):
        normal = problem.normal(look)
        D = damping * (normal.diagonal() + diagonal[frames] + STIFF) + FLOOR
        factors.append(limbs.factor(normal.raised(D + diagonal[frames])))
        gradients.append(normal.g)
        extra.append(D)
    rough = smoothness.gradient(state)[:, limbs.columns] * problem.free[limbs.columns]
    return Factor.joined(factors), torch.cat(gradients) + rough, torch.cat(extra)


def _conjugate_gradients(
    problem: Problem, factor: Factor, smoothness: Smoothness, r: Float[Tensor, "T F"], steps: int, tolerance: float = 0.03
) -> tuple[Float[Tensor, "T F"], Float[Tensor, ""]]:
    """Solve (blocks + smoothness) x = r, where `factor` is of every block + smoothness' diagonal; also by how much x lowers the model.

    Ends when a step adds little to what all steps gained (Nash and Sofer 1990).
    """
    limbs, diagonal = problem.layout.limbs, smoothness.diagonal(len(r))
    x = torch.zeros_like(r)
    z = limbs.solve(factor, r)
    p, Mp = z, r  # M p is carried along, so that a step costs one solve and one stencil
    rz = (r * z).sum(dtype=torch.float64)
    gained = torch.zeros_like(rz)
    for i in range(1, steps + 1):
        Ap = torch.addcmul(Mp, diagonal, p, value=-1).add_(smoothness.times(p))
        alpha = rz / (p * Ap).sum(dtype=torch.float64).clamp_min(1e-30)
        x = x.add_(alpha.to(x.dtype) * p)
        gained = gained + 0.5 * alpha * rz
        if i == steps or bool(i * 0.5 * alpha * rz < tolerance * gained):
            break
        r = r - alpha.to(x.dtype) * Ap
        z = limbs.solve(factor, r)
        new = (r * z).sum(dtype=torch.float64)
        beta, rz = (new / rz).to(x.dtype), new
        p, Mp = z + beta * p, r + beta * Mp
    return x, gained


def settle_shape(problem: Problem, state: State, iterations: int, independent: float = 6.0) -> tuple[State, Float[Tensor, "S"], Tensor]:
    """Poses of all frames and one shape together: the shape is a border, eliminated by its Schur complement.

    The shape's prior is standard normal; errors of a network's landmarks repeat from frame to frame, so all frames together count as
    `independent` ones. Returns state, shape, and the standard deviation of each coefficient.
    """
    frames, prior, shape, lam = slice(0, len(state)), len(state) / independent, problem.shape, 1e-3
    limbs = problem.layout.limbs
    now = problem.look(state, frames)
    best = now.cost.sum() + 0.5 * prior * shape.square().sum()
    eye = torch.eye(len(shape), dtype=shape.dtype, device=shape.device)
    S = prior * eye
    for _ in range(iterations):
        normal = problem.normal(now)
        B, C, c = problem.model.couple_shape(now.placed, now.pull, problem.layout)
        factor = limbs.factor(normal.raised(lam * (normal.diagonal() + STIFF) + FLOOR))
        solved = limbs.solve(factor, torch.cat([B, normal.g[..., None]], -1))
        S = C + prior * eye - torch.einsum("tds,tdr->sr", B, solved[..., :-1])
        gradient = c.sum(0) + prior * shape - torch.einsum("tds,td->s", B, solved[..., -1])
        change = -torch.linalg.solve(S + lam * torch.diag(S.diagonal()), gradient)
        change = change * (1.0 / change.abs().max().clamp_min(1.0))
        moved = problem.moved(now.state, -(solved[..., -1] + solved[..., :-1] @ change))
        tried = replace(problem, shape=shape + change)
        new = tried.look(moved, frames)
        value = new.cost.sum() + 0.5 * prior * tried.shape.square().sum()
        if bool(value < best):
            done = float(best - value) < 1e-6 * float(best)
            problem, now, shape, best, lam = tried, new, tried.shape, value, max(lam * 0.3, 1e-6)
            if done:
                break
        else:
            lam = max(lam, 1e-3) * 10
    sigma = torch.linalg.inv(S).diagonal().clamp_min(0).sqrt() * prior**0.5
    return now.state, shape, sigma


def spread(problem: Problem, state: State, smoothness: Smoothness) -> Float[Tensor, "T J"]:
    """Standard deviation of every joint's world position (root mean square of the three axes), m.

    From each frame's own block, with what its neighbours tell of it (`Smoothness.told`): what nobody saw is as uncertain as the priors.
    """
    chunks, limbs = problem.chunks(len(state)), problem.layout.limbs
    seen = [problem.look(state[c], c) for c in chunks]
    evidence = torch.cat([problem.model.assemble(x.placed, x.pull, problem.layout).diagonal() for x in seen])
    told = smoothness.of(limbs.columns).told(evidence)
    out = []
    for frames, look in zip(chunks, seen):
        factor = limbs.factor(problem.normal(look).raised(told[frames] + FLOOR))
        each = problem.model.joint_covariance(look.placed, factor, problem.layout)
        out.append(each.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(0).sqrt())
    return torch.cat(out)

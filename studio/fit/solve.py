"""The one solver: robust Levenberg-Marquardt on every frame, then on the whole stretch with smoothness.

`settle` treats frames alone: cheap, massively parallel, forgiving. `smooth` couples them: conjugate gradients over all frames,
preconditioned with each frame's own factor. Both accept a step only where the objective falls, and choose their damping by how much of
the foretold gain came true (Nielsen, Damping parameter in Marquardt's method, 1999).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.fit.layout import Layout
from studio.fit.limbs import Factor, Normal
from studio.fit.points import Model
from studio.fit.priors import Priors, Smoothness
from studio.fit.state import Placed, Pull, State

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

    def of(self, frames: Int[Tensor, "n"]) -> Problem:
        """The same problem for some of the frames."""
        return replace(self, evidence=lambda points, some: self.evidence(points, frames[some]))

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


Stepped = Callable[[Problem, list[Look], State, Smoothness, Tensor, bool], tuple[Tensor, Tensor, Tensor]]
"""One damped Gauss-Newton step of a stretch: problem, its frames evaluated, state, smoothness, each frame's damping, and whether
rotations of neighbours are taken exactly -> step, gradient, the damping's diagonal."""


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
    return torch.stack(frames).sum() + smoothness.cost(state).double().sum()


def smooth(
    problem: Problem,
    state: State,
    smoothness: Smoothness,
    iterations: int,
    inner: int = 30,
    damping: float = 1e-4,
    tolerance: float = 3e-4,
    stepped: Stepped | None = None,
) -> State:
    """The whole stretch with smoothness: by conjugate gradients, from a rough start; or by another way to take a step, from a smooth one.

    The step is taken or left as a whole; damping is each frame's own, so that one frame in trouble does not hold up the others.
    """
    rough = stepped is None  # neighbours still jump
    stepped = stepped or partial(_iterated, inner=inner)
    looks, cost = _watched(problem, state, smoothness)
    lam = torch.full_like(cost, damping)
    for i in range(iterations):
        step, g, D = stepped(problem, looks, state, smoothness, lam, not rough)
        tried = problem.moved(state, step)
        new_looks, new = _watched(problem, tried, smoothness)
        gain = float((cost.double() - new.double()).sum() / cost.double().sum().clamp_min(1e-12))
        foretold = _gathered(0.5 * ((D * step - g) * step).sum(1)).clamp_min(1e-12)
        ratio = _gathered(cost - new) / foretold
        if gain > 0:
            lam = (lam * torch.where(ratio > 0.75, 0.3, torch.where(ratio > 0.25, 1.0, 4.0))).clamp(1e-6, 1e6)
            state, cost, looks = tried, new, new_looks
        else:  # nobody moves; who rose is held harder, and if nobody stands out everybody is
            risen = ratio < 0.25
            lam = torch.where(risen | ~risen.any(), (lam * 30).clamp(1e-4, 1e6), lam)
        if i == iterations - 1 or (0 <= gain < tolerance and not rough):
            break
        rough = rough and gain > 0.02
    return state


def _iterated(
    problem: Problem, looks: list[Look], state: State, smoothness: Smoothness, lam: Float[Tensor, "T"], exact: bool, inner: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The step that conjugate gradients find, the gradient, and the damping's diagonal."""
    factor, g, D = _linearised(problem, looks, state, smoothness, lam, exact)
    return _conjugate_gradients(problem, factor, smoothness.of(problem.layout.limbs.columns), -g, inner), g, D


def _gathered(x: Float[Tensor, "T"], reach: int = 2) -> Float[Tensor, "T"]:
    """Sums over each frame and its neighbours, which smoothness couples."""
    ones = torch.ones(1, 1, 2 * reach + 1, dtype=x.dtype, device=x.device)
    return torch.nn.functional.conv1d(x[None, None], ones, padding=reach)[0, 0]


def _watched(problem: Problem, state: State, smoothness: Smoothness) -> tuple[list[Look], Float[Tensor, "T"]]:
    """All frames evaluated in chunks; objective of each frame, smoothness included."""
    looks = [problem.look(state[c], c) for c in problem.chunks(len(state))]
    return looks, torch.cat([x.cost for x in looks]) + smoothness.cost(state)


def _linearised(
    problem: Problem, looks: list[Look], state: State, smoothness: Smoothness, lam: Float[Tensor, "T"], exact: bool
) -> tuple[Factor, Tensor, Tensor]:
    """Factors of all frames' blocks (with smoothness' and the damping's diagonal), the gradient, and the damping's diagonal."""
    limbs = problem.layout.limbs
    diagonal = smoothness.of(limbs.columns).diagonal(len(state))
    factors, gradients, extra = [], [], []
    for frames, look in zip(problem.chunks(len(state)), looks):
        normal = problem.normal(look)
        D = lam[frames, None] * (normal.diagonal() + diagonal[frames] + STIFF) + FLOOR
        factors.append(limbs.factor(normal.raised(D + diagonal[frames])))
        gradients.append(normal.g)
        extra.append(D)
    rough = smoothness.gradient(state, exact)[:, limbs.columns] * problem.free[limbs.columns]
    return Factor.joined(factors), torch.cat(gradients) + rough, torch.cat(extra)


def _conjugate_gradients(
    problem: Problem, factor: Factor, smoothness: Smoothness, r: Float[Tensor, "T F"], steps: int, tolerance: float = 0.01
) -> Float[Tensor, "T F"]:
    """Solve (blocks + smoothness) x = r, where `factor` is of every block + smoothness' diagonal.

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
    return x


def nested(
    problems: Sequence[tuple[Problem, int]],
    state: State,
    smoothness: Smoothness,
    stride: int = 3,
    coarse: int = 3,
    fine: int = 3,
    inner: int = 20,
) -> State:
    """A stretch from a rough start: every `stride`-th frame alone (`problems` one after the other, with so many iterations each, their
    kernels narrowing), these together, then all frames together from between them.

    Smoothing begins where it is nearly smooth, and most frames are never solved alone (nested iteration in time).
    """
    last = problems[-1][0]
    T = len(state)
    picked = torch.cat([torch.arange(0, T - 1, stride), torch.tensor([T - 1])]).to(state.root.device)
    if stride < 2 or len(picked) < 4:
        picked, coarse = torch.arange(T, device=state.root.device), 0
    some = state[picked]
    for problem, iterations in problems:
        some, _ = settle(problem.of(picked), some, iterations, damping=1e-2)
    if coarse:
        some = smooth(last.of(picked), some, smoothness.thinned(stride), coarse, inner, tolerance=0)
        some = some.between(picked, T)
    return smooth(last, some, smoothness, fine, inner, tolerance=0)


def settle_shape(
    problem: Problem,
    state: State,
    iterations: int,
    independent: float = 6.0,
    likely: tuple[Float[Tensor, "S"], Float[Tensor, "S S"]] | None = None,
) -> tuple[State, Float[Tensor, "S"], Tensor]:
    """Poses of all frames and one shape together: the shape is a border, eliminated by its Schur complement.

    The shape's prior is standard normal unless `likely` gives a mean and a covariance; errors of a network's landmarks repeat from frame
    to frame, so all frames together count as `independent` ones. Returns state, shape, and the standard deviation of each coefficient.
    """
    frames, prior, shape, lam = slice(0, len(state)), len(state) / independent, problem.shape, 1e-3
    limbs = problem.layout.limbs
    now = problem.look(state, frames)
    mean, P = torch.zeros_like(shape), torch.eye(len(shape), dtype=shape.dtype, device=shape.device)
    if likely is not None:
        mean, P = likely[0].to(P), torch.linalg.inv(likely[1].double()).to(P)
    apart = lambda b: 0.5 * prior * ((b - mean) @ P @ (b - mean))  # noqa: E731
    best = now.cost.sum() + apart(shape)
    S = prior * P
    for _ in range(iterations):
        normal = problem.normal(now)
        B, C, c = problem.model.couple_shape(now.placed, now.pull, problem.layout)
        factor = limbs.factor(normal.raised(lam * (normal.diagonal() + STIFF) + FLOOR))
        solved = limbs.solve(factor, torch.cat([B, normal.g[..., None]], -1))
        S = C + prior * P - torch.einsum("tds,tdr->sr", B, solved[..., :-1])
        gradient = c.sum(0) + prior * (P @ (shape - mean)) - torch.einsum("tds,td->s", B, solved[..., -1])
        change = -torch.linalg.solve(S + lam * torch.diag(S.diagonal()), gradient)
        change = change * (1.0 / change.abs().max().clamp_min(1.0))
        moved = problem.moved(now.state, -(solved[..., -1] + solved[..., :-1] @ change))
        tried = replace(problem, shape=shape + change)
        new = tried.look(moved, frames)
        value = new.cost.sum() + apart(tried.shape)
        if bool(value < best):
            done = float(best - value) < 1e-6 * float(best)
            problem, now, shape, best, lam = tried, new, tried.shape, value, max(lam * 0.3, 1e-6)
            if done:
                break
        else:
            lam = max(lam, 1e-3) * 10
    sigma = torch.linalg.inv(S).diagonal().clamp_min(0).sqrt() * prior**0.5
    return now.state, shape, sigma


def spread(problem: Problem, state: State, smoothness: Smoothness | None) -> Float[Tensor, "T J"]:
    """Standard deviation of every joint's world position (root mean square of the three axes), m.

    From each frame's own block, with what its neighbours tell of it (`Smoothness.told`, where given): what nobody saw is as uncertain as
    the priors.
    """
    chunks, limbs = problem.chunks(len(state)), problem.layout.limbs
    seen = [problem.look(state[c], c) for c in chunks]
    normals = [problem.model.assemble(x.placed, x.pull, problem.layout) for x in seen]
    evidence = torch.cat([n.diagonal() for n in normals])
    told = torch.zeros_like(evidence) if smoothness is None else smoothness.of(limbs.columns).told(evidence)
    out = []
    for frames, look, normal in zip(chunks, seen, normals):
        factor = limbs.factor(problem.priors.added(normal, look.state, problem.layout).raised(told[frames] + FLOOR))
        each = problem.model.joint_covariance(look.placed, factor, problem.layout)
        out.append(each.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(0).sqrt())
    return torch.cat(out)

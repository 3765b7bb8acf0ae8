"""Priors of the solver: what joints can do, how smoothly they move, how much a face distorts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs import rotation
from rigs.anatomy import Anatomy
from studio.fit.points import Normal, State


def left_jacobian_inverse(r: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """How `log(exp(d) exp(r))` moves with a small d (Sola et al., A micro Lie theory, 2018, eq. 146)."""
    square = (r * r).sum(-1)[..., None, None]
    small = square < 1e-4
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    c = torch.where(small, 1 / 12 + square / 720, 1 / safe - (1 + angle.cos()) / (2 * angle * angle.sin().clamp_min(1e-4)))
    K = rotation.skew(r)
    return torch.eye(3, dtype=r.dtype, device=r.device) - 0.5 * K + c * (K @ K)


@dataclass(frozen=True)
class JointPrior:
    """Relaxed pose with a wide Gaussian, and soft walls at the ends of each joint's range."""

    anatomy: Anatomy
    spread: float = 1.0
    """Standard deviation of a joint about its relaxed pose, in half-ranges."""
    wall: float = 0.035
    """How far evidence may push a joint beyond its range, rad."""

    def terms(self, state: State) -> tuple[Float[Tensor, "T"], Float[Tensor, "T J 3"], Float[Tensor, "T J 3 3"]]:
        """Cost, gradient and information for the small rotations of every joint but the root."""
        a = self.anatomy
        r = rotation.log(state.R)
        angle = (a.axes @ r[..., None])[..., 0]
        sd = self.spread * (0.5 * (a.high - a.low)).clamp_min(0.02)
        soft = (angle - a.mean) / sd
        over = ((angle - a.high).clamp_min(0) + (angle - a.low).clamp_max(0)) / self.wall
        beyond = (over != 0).to(angle.dtype)
        turn = a.axes @ left_jacobian_inverse(r)
        slope = soft / sd + over / self.wall
        weight = 1 / sd**2 + beyond / self.wall**2
        free = torch.ones(r.shape[1], dtype=r.dtype, device=r.device)
        free[0] = 0
        cost = (0.5 * (soft**2 + over**2) * free[:, None]).sum((1, 2))
        gradient = (turn.mT @ slope[..., None])[..., 0] * free[:, None]
        information = turn.mT @ (weight[..., None] * turn) * free[:, None, None]
        return cost, gradient, information


@dataclass(frozen=True)
class ExpressionPrior:
    """Few muscles at once, between neutral and full."""

    sigma: float = 0.35
    wall: float = 0.05

    def terms(self, state: State) -> tuple[Float[Tensor, "T"], Float[Tensor, "T E"], Float[Tensor, "T E"]]:
        """Cost, gradient and (diagonal) information."""
        e = state.expression
        over = ((e - 1).clamp_min(0) + e.clamp_max(0)) / self.wall
        cost = 0.5 * ((e / self.sigma) ** 2 + over**2).sum(1)
        weight = 1 / self.sigma**2 + (over != 0).to(e.dtype) / self.wall**2
        return cost, e / self.sigma**2 + over / self.wall, weight


@dataclass(frozen=True)
class Priors:
    """Everything that needs no evidence of a frame."""

    joints: JointPrior
    expression: ExpressionPrior

    def cost(self, state: State) -> Float[Tensor, "T"]:
        """Negative log of the prior, per frame."""
        return self.joints.terms(state)[0] + self.expression.terms(state)[0]

    def added(self, normal: Normal, state: State) -> Normal:
        """The normal equations with the priors; changes its argument's tensors in place."""
        _, gj, Hj = self.joints.terms(state)
        _, ge, He = self.expression.terms(state)
        J = state.R.shape[1]
        H, g = normal.H, normal.g
        H[:, 3 : 3 + 3 * J, 3 : 3 + 3 * J].unflatten(1, (-1, 3)).unflatten(3, (-1, 3)).diagonal(dim1=1, dim2=3).add_(Hj.permute(0, 2, 3, 1))
        g[:, 3 : 3 + 3 * J] += gj.flatten(1)
        H.diagonal(dim1=1, dim2=2)[:, 3 + 3 * J :].add_(He)
        g[:, 3 + 3 * J :] += ge
        return normal


@dataclass(frozen=True)
class Smoothness:
    """Acceleration of every unknown is Gaussian over time: second differences of position, of joint rotation, of expression."""

    precision: Float[Tensor, "D"]
    """One over the variance of each unknown's second difference over frames."""

    @classmethod
    def from_sigmas(cls, position: float, rotations: Float[Tensor, "J"], expression: float, count: int, fps: float) -> Smoothness:
        """From accelerations: m/s^2 for the root, rad/s^2 a joint, 1/s^2 for `count` expression coefficients."""
        sigma = torch.cat([rotations.new_full((3,), position), rotations.repeat_interleave(3), rotations.new_full((count,), expression)])
        return cls((fps**2 / sigma) ** 2)

    def of(self, columns: Int[Tensor, "F"]) -> Smoothness:
        """For some of the unknowns."""
        return Smoothness(self.precision[columns])

    def differences(self, state: State) -> tuple[Float[Tensor, "T-2 D"], Float[Tensor, "T-1 J 3"]]:
        """Second differences of the unknowns, and the first differences (rotation vectors) of the joints."""
        r = rotation.log(state.R[1:] @ state.R[:-1].mT)
        second = lambda x: x[2:] - 2 * x[1:-1] + x[:-2]  # noqa: E731
        return torch.cat([second(state.root), (r[1:] - r[:-1]).flatten(1), second(state.expression)], 1), r

    def cost(self, state: State) -> Float[Tensor, ""]:
        """Negative log likelihood of the stretch's accelerations."""
        if len(state) < 3:
            return state.root.new_zeros(())
        return 0.5 * (self.differences(state)[0] ** 2 * self.precision).sum()

    def gradient(self, state: State) -> Float[Tensor, "T D"]:
        """Of the cost; exact in the rotations."""
        T, J = state.R.shape[:2]
        out = state.root.new_zeros(T, len(self.precision))
        if T < 3:
            return out
        d, r = self.differences(state)
        pull = d * self.precision
        out[2:] += pull
        out[1:-1] -= 2 * pull
        out[:-2] += pull
        turn = pull[:, 3 : 3 + 3 * J].unflatten(1, (J, 3))
        velocity = torch.zeros_like(r)  # gradient with respect to each first difference
        velocity[1:] += turn
        velocity[:-1] -= turn
        exact = state.root.new_zeros(T, J, 3)
        exact[1:] += (left_jacobian_inverse(r).mT @ velocity[..., None])[..., 0]
        exact[:-1] -= (left_jacobian_inverse(-r).mT @ velocity[..., None])[..., 0]
        out[:, 3 : 3 + 3 * J] = exact.flatten(1)
        return out

    def times(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """The (constant) second-difference matrix applied to a step."""
        if len(x) < 3:
            return torch.zeros_like(x)
        d = (x[2:] - 2 * x[1:-1] + x[:-2]) * self.precision
        out = torch.zeros_like(x)
        out[2:] += d
        out[1:-1] -= 2 * d
        out[:-2] += d
        return out

    def diagonal(self, frames: int) -> Float[Tensor, "T D"]:
        """Diagonal of that matrix."""
        count = self.precision.new_zeros(frames)
        if frames >= 3:
            count[2:] += 1
            count[1:-1] += 4
            count[:-2] += 1
        return count[:, None] * self.precision

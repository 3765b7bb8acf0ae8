"""Priors of the solver: what joints can do, how smoothly they move, how much a face distorts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs.anatomy import Anatomy
from studio.fit import lanes
from studio.fit.layout import Layout
from studio.fit.limbs import Normal
from studio.fit.state import State


@dataclass(frozen=True)
class JointPrior:
    """Relaxed pose with a wide Gaussian, and soft walls at the ends of each joint's range."""

    anatomy: Anatomy
    spread: float = 1.0
    """Standard deviation of a joint about its relaxed pose, in half-ranges."""
    wall: float = 0.035
    """How far evidence may push a joint beyond its range, rad."""

    def cost(self, state: State) -> Float[Tensor, "T"]:
        """Negative log of the prior, per frame; the root is free."""
        _, soft, over, _ = self._angles(state)
        return 0.5 * ((soft * soft).sum((0, 1)) + (over * over).sum((0, 1)))

    def terms(self, state: State) -> tuple[Float[Tensor, "3 J T"], Float[Tensor, "3 3 J T"]]:
        """Gradient and information for the small rotations of every joint."""
        r, soft, over, sd = self._angles(state)
        beyond = (over != 0).to(r.dtype)
        axes = self.anatomy.axes.permute(2, 1, 0)[..., None]  # (3, axis, J, 1)
        turn = lanes.against_left_jacobian(r[:, None], axes)
        slope = soft / sd + over / self.wall
        weight = 1 / sd**2 + beyond / self.wall**2
        slope[:, 0], weight[:, 0] = 0, 0
        information = turn.new_empty(3, 3, *r.shape[1:])
        for a in range(3):
            for b in range(a, 3):
                information[a, b] = information[b, a] = (turn[a] * turn[b] * weight).sum(0)
        return (turn * slope).sum(1), information

    def _angles(self, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotation vectors (3, J, T); whitened distance from the relaxed pose and beyond the range, and the prior's width (axis, J, 1)."""
        a = self.anatomy
        r = lanes.log(state.R.permute(2, 3, 1, 0))
        angle = lanes.carried(a.axes.permute(1, 2, 0)[..., None], r)
        low, high, mean = (x.T[..., None] for x in (a.low, a.high, a.mean))
        sd = (self.spread * (0.5 * (high - low))).clamp_min(0.02)
        soft = (angle - mean) / sd
        over = ((angle - high).clamp_min(0) + (angle - low).clamp_max(0)) / self.wall
        soft[:, 0], over[:, 0] = 0, 0
        return r, soft, over, sd


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
        return self.joints.cost(state) + self.expression.terms(state)[0]

    def added(self, normal: Normal, state: State, layout: Layout) -> Normal:
        """The normal equations with the priors; changes its argument's tensors in place."""
        slope, information = self.joints.terms(state)
        J, e = state.R.shape[1], layout.limbs.expression_at
        slope, information = slope[:, layout.joint], information[:, :, layout.joint]
        slope[:, layout.translation], information[:, :, layout.translation] = 0, 0
        if (held := layout.limbs.held) is not None:
            slope, information = slope.masked_fill(held, 0), information.masked_fill(held | held[:, None], 0)
        layout.add_to_nodes(normal.own, information)
        columns = layout.limbs.columns[e] - 3 - 3 * J
        _, ge, He = (x[..., columns] if x.dim() > 1 else x for x in self.expression.terms(state))
        for level, own in zip(layout.limbs.levels, normal.own):
            if level.coefficients:
                own.diagonal(dim1=2, dim2=3)[..., -level.coefficients :].add_(He[:, None])
        g = normal.g
        slope = slope.permute(2, 1, 0).flatten(1)
        g[:, : e.start] += slope[:, : e.start]
        g[:, e.stop :] += slope[:, e.start :]
        g[:, e] += ge
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

    def thinned(self, stride: int) -> Smoothness:
        """For every `stride`-th frame: second differences grow with the square of the spacing."""
        return Smoothness(self.precision / stride**4)

    def differences(self, state: State) -> tuple[Float[Tensor, "T-2 D"], Float[Tensor, "3 J T-1"]]:
        """Second differences of the unknowns, and the first differences (rotation vectors) of the joints."""
        R = state.R.permute(2, 3, 1, 0).contiguous()
        r = lanes.log(lanes.product(R[..., 1:], R[..., :-1].transpose(0, 1)))
        second = lambda x: x[2:] - 2 * x[1:-1] + x[:-2]  # noqa: E731
        turn = (r[..., 1:] - r[..., :-1]).permute(2, 1, 0).flatten(1)
        return torch.cat([second(state.root), turn, second(state.expression)], 1), r

    def cost(self, state: State) -> Float[Tensor, "T"]:
        """Negative log likelihood of the stretch's accelerations, each at its middle frame."""
        out = state.root.new_zeros(len(state))
        if len(state) > 2:
            out[1:-1] = 0.5 * (self.differences(state)[0].square() @ self.precision)
        return out

    def gradient(self, state: State, exact: bool = True) -> Float[Tensor, "T D"]:
        """Of the cost. Not `exact`: as if rotations of neighbouring frames commuted, as `times` does; the two together make good steps
        while neighbours are far apart."""
        T, J = state.R.shape[:2]
        if T < 3:
            return state.root.new_zeros(T, len(self.precision))
        d, r = self.differences(state)
        pull = d * self.precision
        out = _spread(pull, T)
        if not exact:
            return out
        turn = pull[:, 3 : 3 + 3 * J].T.reshape(J, 3, T - 2).transpose(0, 1)
        velocity = torch.zeros_like(r)  # gradient with respect to each first difference
        velocity[..., 1:] += turn
        velocity[..., :-1] -= turn
        turned = r.new_zeros(3, J, T)
        turned[..., 1:] += lanes.against_left_jacobian(r, velocity)
        turned[..., :-1] -= lanes.against_left_jacobian(-r, velocity)
        out[:, 3 : 3 + 3 * J] = turned.permute(2, 1, 0).flatten(1)
        return out

    def times(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """The (constant) second-difference matrix applied to a step."""
        if len(x) < 3:
            return torch.zeros_like(x)
        return _spread((x[2:] - 2 * x[1:-1] + x[:-2]).mul_(self.precision), len(x))

    def told(self, data: Float[Tensor, "T D"], reach: int = 6) -> Float[Tensor, "T D"]:
        """How much the frames around one tell of it: information that joins its own, where `data` is each frame's.

        Exact (within 10 %) for one unknown whose frames all have the same information h, under the precision q of second differences:
        the marginal variance is the mean over frequencies w of 1 / (h + q (2 - 2 cos w)^2), hence 2 sqrt(2) h^(3/4) q^(1/4) for small h.
        Nothing where nobody within `reach` frames has seen anything.
        """
        T = len(data)
        sums = torch.cat([torch.zeros_like(data[:1]), data.clamp_min(0).cumsum(0)])
        at = torch.arange(T, device=data.device)
        low, high = (at - reach).clamp_min(0), (at + reach + 1).clamp_max(T)
        ratio = (sums[high] - sums[low]) / (high - low)[:, None] / self.precision
        few = 2 * 2**0.5 * ratio**0.75
        return self.precision * few / (1 + few / 6 + 0.35 * ratio**0.25)

    def diagonal(self, frames: int) -> Float[Tensor, "T D"]:
        """Diagonal of that matrix."""
        count = self.precision.new_zeros(frames)
        if frames >= 3:
            count[2:] += 1
            count[1:-1] += 4
            count[:-2] += 1
        return count[:, None] * self.precision


def _spread(d: Float[Tensor, "T-2 D"], frames: int) -> Float[Tensor, "T D"]:
    """Transpose of taking second differences."""
    out = d.new_zeros(frames, d.shape[1])
    out[2:] += d
    out[1:-1].sub_(d, alpha=2)
    out[:-2] += d
    return out

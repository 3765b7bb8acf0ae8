"""Priors of the solver: what joints can do, how smoothly they move, how much a face distorts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs.anatomy import Anatomy
from studio.fit import lanes
from studio.fit.layout import Layout
from studio.fit.learned import PosePrior
from studio.fit.limbs import Normal
from studio.fit.state import State


@dataclass(frozen=True)
class Bent:
    """Joint angles about the anatomical axes; the root's are zero."""

    r: Float[Tensor, "3 J T"]
    """Rotation vectors, rad."""
    off: Float[Tensor, "3 J T"]
    """From the relaxed pose, rad."""
    over: Float[Tensor, "3 J T"]
    """Beyond the range, rad."""

    @classmethod
    def of(cls, state: State, anatomy: Anatomy) -> Bent:
        """Of a stretch of frames."""
        r = lanes.log(state.R.permute(2, 3, 1, 0))
        angle = lanes.carried(anatomy.axes.permute(1, 2, 0)[..., None], r)
        low, high, mean = (x.T[..., None] for x in (anatomy.low, anatomy.high, anatomy.mean))
        off, over = angle - mean, (angle - high).clamp_min(0) + (angle - low).clamp_max(0)
        off[:, 0], over[:, 0] = 0, 0
        return cls(r, off, over)

    def turn(self, anatomy: Anatomy) -> Float[Tensor, "3 3 J T"]:
        """How each angle (second axis) changes with a small rotation of its joint."""
        return lanes.against_left_jacobian(self.r[:, None], anatomy.axes.permute(2, 1, 0)[..., None])


@dataclass(frozen=True)
class JointPrior:
    """Relaxed pose with a wide Gaussian, and soft walls at the ends of each joint's range."""

    anatomy: Anatomy
    spread: float = 1.0
    """Standard deviation of a joint about its relaxed pose, in half-ranges."""
    wall: float = 0.035
    """How far evidence may push a joint beyond its range, rad."""
    known: Int[Tensor, "n"] | None = None
    """Joints whose poses were learned: where they turn far, these are hardly drawn to the relaxed pose."""

    def cost(self, bent: Bent) -> Float[Tensor, "T"]:
        """Negative log of the prior, per frame; the root is free."""
        return 0.5 * ((bent.off / self.width).square().sum((0, 1)) + (bent.over / self.wall).square().sum((0, 1)))

    def terms(self, bent: Bent) -> tuple[Float[Tensor, "3 J T"], Float[Tensor, "3 J T"]]:
        """Gradient and (diagonal) information for the angles of every joint."""
        slope = bent.off / self.width**2 + bent.over / self.wall**2
        weight = 1 / self.width**2 + (bent.over != 0).to(slope.dtype) / self.wall**2
        weight[:, 0] = 0
        return slope, weight

    @property
    def width(self) -> Float[Tensor, "3 J 1"]:
        """Standard deviation of each angle, rad."""
        half = 0.5 * (self.anatomy.high - self.anatomy.low)
        width = (self.spread * half).clamp_min(0.02).T[..., None]
        if self.known is None:
            return width
        own = width[:, self.known]
        return width.index_copy(1, self.known, torch.where(own > 0.6, 3 * own, own))


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
    poses: PosePrior | None = None

    def cost(self, state: State) -> Float[Tensor, "T"]:
        """Negative log of the prior, per frame."""
        bent = Bent.of(state, self.joints.anatomy)
        cost = self.joints.cost(bent) + self.expression.terms(state)[0]
        return cost if self.poses is None else cost + self.poses.cost(bent.off)

    def apart(self) -> Priors:
        """For what is said of uncertainty: no finger counts on the others."""
        return self if self.poses is None else replace(self, poses=self.poses.apart())

    def bending(self, state: State, normal: Normal, layout: Layout) -> tuple[Float[Tensor, "3 J T"], Float[Tensor, "3 3 J T"]]:
        """Gradient and information for the small rotations of every joint; what joins two joints is added to `normal` at once."""
        bent = Bent.of(state, self.joints.anatomy)
        turn = bent.turn(self.joints.anatomy)
        slope, weight = self.joints.terms(bent)
        information = turn.new_empty(3, 3, *slope.shape[1:])
        for a in range(3):
            for b in range(a, 3):
                information[a, b] = information[b, a] = (turn[a] * turn[b] * weight).sum(0)
        if self.poses is not None:
            learned, blocks = self.poses.terms(bent.off, turn)
            slope, (which, joint) = slope + learned, self.poses.alone
            information[:, :, joint] += blocks[:, :, which]
            layout.add_between(normal.own, self.poses.pairs, blocks)
        return (turn * slope).sum(1), information

    def added(self, normal: Normal, state: State, layout: Layout) -> Normal:
        """The normal equations with the priors; changes its argument's tensors in place."""
        slope, information = self.bending(state, normal, layout)
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

    precision: Float[Tensor, "*T D"]
    """One over the variance of each unknown's second difference over frames; for each middle frame, or the same for all."""

    @classmethod
    def from_sigmas(cls, position: float, rotations: Float[Tensor, "J"], expression: float, count: int, fps: float) -> Smoothness:
        """From accelerations: m/s^2 for the root, rad/s^2 a joint, 1/s^2 for `count` expression coefficients."""
        sigma = torch.cat([rotations.new_full((3,), position), rotations.repeat_interleave(3), rotations.new_full((count,), expression)])
        return cls((fps**2 / sigma) ** 2)

    def of(self, columns: Int[Tensor, "F"]) -> Smoothness:
        """For some of the unknowns."""
        return Smoothness(self.precision[..., columns])

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
            out[1:-1] = 0.5 * (self.differences(state)[0].square() * self.precision).sum(1)
        return out

    def gradient(self, state: State, exact: bool = True) -> Float[Tensor, "T D"]:
        """Of the cost. Not `exact`: as if rotations of neighbouring frames commuted, as `times` does; the two together make good steps
        while neighbours are far apart."""
        T, J = state.R.shape[:2]
        if T < 3:
            return state.root.new_zeros(T, self.precision.shape[-1])
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
        precision = self._of_all(T)
        ratio = (sums[high] - sums[low]) / (high - low)[:, None] / precision
        few = 2 * 2**0.5 * ratio**0.75
        return precision * few / (1 + few / 6 + 0.35 * ratio**0.25)

    def diagonal(self, frames: int) -> Float[Tensor, "T D"]:
        """Diagonal of that matrix."""
        if self.precision.dim() == 2:
            return _spread(self.precision, frames, (1, 4, 1))
        count = self.precision.new_zeros(frames)
        if frames >= 3:
            count[2:] += 1
            count[1:-1] += 4
            count[:-2] += 1
        return count[:, None] * self.precision

    def _of_all(self, frames: int) -> Float[Tensor, "*T D"]:
        """Precision at every frame, those at the ends as their neighbours."""
        if self.precision.dim() == 1 or not len(self.precision):
            return self.precision
        return torch.cat([self.precision[:1], self.precision, self.precision[-1:]])


def _spread(d: Float[Tensor, "T-2 D"], frames: int, weight: tuple[float, float, float] = (1, -2, 1)) -> Float[Tensor, "T D"]:
    """Transpose of taking second differences, or with other weights of the three frames."""
    out = d.new_zeros(frames, d.shape[1])
    if frames >= 3:
        out[2:].add_(d, alpha=weight[2])
        out[1:-1].add_(d, alpha=weight[1])
        out[:-2].add_(d, alpha=weight[0])
    return out

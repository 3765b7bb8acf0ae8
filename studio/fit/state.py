"""What the solver moves and what it is told: the unknowns of a stretch, where they put the body, and pulls on its points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.fit import lanes


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
        R = lanes.product(lanes.exp(turn), time_last(self.R))
        return State(R.permute(3, 2, 0, 1), self.root + step[:, :3], self.expression + step[:, 3 + 3 * J :])

    def between(self, known: Int[Tensor, "n"], frames: int) -> State:
        """A state for all `frames` from that of the `known` ones (the first and the last among them): along the shortest turns."""
        t = torch.arange(frames, device=known.device)
        i = (torch.searchsorted(known, t, right=True) - 1).clamp(0, len(known) - 2)
        share = (t - known[i]) / (known[i + 1] - known[i])
        return self[i].towards(self[i + 1], share)

    def towards(self, other: State, share: Float[Tensor, "T"]) -> State:
        """A state between this one (where `share` is 0) and the other (1): along the shortest turns."""
        R = time_last(self.R)
        turn = lanes.log(lanes.product(time_last(other.R), R.transpose(0, 1)))
        R = lanes.product(lanes.exp(turn * share), R)
        mixed = lambda x, y: torch.lerp(x, y, share[:, None].to(x.dtype))  # noqa: E731
        return State(R.permute(3, 2, 0, 1), mixed(self.root, other.root), mixed(self.expression, other.expression))


def time_last(x: Float[Tensor, "T n *c"]) -> Float[Tensor, "*c n T"]:
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

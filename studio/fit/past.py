"""What frames that have left a window still tell of those in it: their marginal, carried as one square-root block on two frames.

Second differences couple three frames, so all that the past tells of the future goes through the last two poses: where the body was and
how fast it moved. The marginal is exact for the system linearised where the frame left (a sliding-window filter: Sibley, Matthies and
Sukhatme 2010): what a later frame changes about the robust weights of one that has left is lost, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.fit import lanes
from studio.fit.priors import Smoothness
from studio.fit.solve import FLOOR, STIFF, Look, Problem
from studio.fit.state import State, time_last

RAISED = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2)
"""Shares of the diagonal added, one after the other, until rounding in single precision no longer makes information negative."""


@dataclass(frozen=True)
class Past:
    """A Gaussian over two consecutive frames: `|root^T d + offset|^2 / 2`, d the way from `at` in the system's unknowns."""

    at: State
    """Both frames where the past was linearised."""
    root: Float[Tensor, "2*F 2*F"]
    """Lower triangle; its square is the information."""
    information: Float[Tensor, "2*F 2*F"]
    """In double precision."""
    offset: Float[Tensor, "2*F"]
    columns: Int[Tensor, "F"]
    """Which unknown of the body each unknown of the system is."""

    def way(self, pair: State) -> tuple[Float[Tensor, "2*F"], Float[Tensor, "3 J 2"]]:
        """How far two frames are from `at`, and the turns of that in all joints."""
        turn = lanes.log(lanes.product(time_last(pair.R), time_last(self.at.R).transpose(0, 1)))
        parts = [pair.root - self.at.root, turn.permute(2, 1, 0).flatten(1), pair.expression - self.at.expression]
        return torch.cat(parts, 1)[:, self.columns].flatten(), turn

    def cost(self, pair: State) -> Float[Tensor, ""]:
        """Negative log likelihood of the two frames."""
        return 0.5 * (self.root.T @ self.way(pair)[0] + self.offset).square().sum()

    def gradient(self, pair: State) -> Float[Tensor, "2 D"]:
        """Of the cost, in all unknowns of the body."""
        way, turn = self.way(pair)
        J, (T, E) = turn.shape[1], pair.expression.shape
        whole = way.new_zeros(T, 3 + 3 * J + E)
        whole[:, self.columns] = (self.root @ (self.root.T @ way + self.offset)).view(2, -1)
        slope = whole[:, 3 : 3 + 3 * J].T.reshape(J, 3, T).transpose(0, 1)
        whole[:, 3 : 3 + 3 * J] = lanes.against_left_jacobian(turn, slope).permute(2, 1, 0).flatten(1)
        return whole


@dataclass(frozen=True)
class Continued(Smoothness):
    """Smoothness of a window whose first two frames continue a past."""

    past: Past | None = None

    @classmethod
    def of_past(cls, smoothness: Smoothness, past: Past | None) -> Continued:
        """The same smoothness after a past."""
        return cls(**{f.name: getattr(smoothness, f.name) for f in fields(Smoothness)}, past=past)

    def cost(self, state: State) -> Float[Tensor, "T"]:
        """Negative log likelihood, each part at its frame; the past's at the first."""
        out = super().cost(state)
        if self.past is not None:
            out[0] += self.past.cost(state[:2])
        return out

    def gradient(self, state: State, exact: bool = True) -> Float[Tensor, "T D"]:
        """Of the cost."""
        out = super().gradient(state, exact)
        if self.past is not None:
            out[:2] += self.past.gradient(state[:2])
        return out


def eliminated(
    problem: Problem, looks: list[Look], state: State, smoothness: Smoothness, lam: Float[Tensor, "T"], exact: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The exact step of a short window (`solve.Stepped`): frame after frame is eliminated, first to last, then filled in backwards.

    Rotations are always taken exactly: such a window begins nearly smooth.
    """
    columns, T = problem.layout.limbs.columns, len(state)
    H, g = _dense(problem, looks)
    own = smoothness.of(columns)
    diagonal = H.diagonal(dim1=1, dim2=2)
    past = smoothness.past if isinstance(smoothness, Continued) else None
    firm = own.diagonal(T)
    if past is not None:
        firm[:2] += past.information.diagonal().view(2, -1).to(firm.dtype)
    D = lam[:, None] * (diagonal + firm + STIFF) + FLOOR
    diagonal.add_(D)
    g = g + (smoothness.gradient(state) * problem.free)[:, columns]
    woven = Woven.of(state, smoothness, columns)
    step = _swept(H, -g, woven, past)
    if not bool(torch.isfinite(step).all()):
        step = _swept(H.double(), -g.double(), woven, past).to(g.dtype)
    return step, g, D


def _swept(H: Float[Tensor, "T F F"], r: Float[Tensor, "T F"], woven: Woven, past: Past | None) -> Tensor:
    """Solution of a window's system; not finite where the precision of `H` does not suffice."""
    T, F = r.shape
    ahead, r, kept = _information(past, F, H), torch.nn.functional.pad(r, (0, 0, 0, 2)), []
    for i in range(T):
        A = _joined(H[i], ahead, woven, i, min(3, T - i))
        gone = _Gone.of(A, r[i], F)
        rest = (len(A) - F) // F
        r[i + 1 : i + 1 + rest] -= gone.told().view(rest, F)
        ahead = gone.left
        kept.append(gone)
    x = torch.zeros_like(r)
    for i in reversed(range(T)):
        x[i] = kept[i].solved(x[i + 1 : i + 3].flatten())
    return x[:T]


def condensed(problem: Problem, state: State, smoothness: Smoothness, past: Past | None) -> Past | None:
    """The past of frames 1 and 2 when frame 0 leaves: its evidence, what it had of the past, and how the three hang together.

    None, the past forgotten, where rounding leaves no information that is positive.
    """
    three, columns = state[:3], problem.layout.limbs.columns
    H, g0 = _dense(problem, [problem.look(three[:1], slice(0, 1))])
    F, joined = len(columns), Continued.of_past(smoothness, past)
    g = (joined.gradient(three) * problem.free)[:, columns].double()
    g[0] += g0[0]
    A = _joined(H[0].double(), _information(past, F, H.double()), Woven.of(three, smoothness, columns), 0, 3)
    for share in RAISED:
        raised = A + torch.diag(FLOOR + share * A.diagonal())
        gone = _Gone.of(0.5 * (raised + raised.T), g[0], F)
        left = 0.5 * (gone.left + gone.left.T)
        left.diagonal().add_(FLOOR + share * left.diagonal().abs())
        root, failed = torch.linalg.cholesky_ex(left)
        if not bool(failed) and bool(torch.isfinite(root).all()):
            offset = torch.linalg.solve_triangular(root, (g[1:].flatten() - gone.told())[:, None], upper=False)[:, 0]
            return Past(three[1:], root.to(g0.dtype), left, offset.to(g0.dtype), columns)
    return None


def _dense(problem: Problem, looks: list[Look]) -> tuple[Float[Tensor, "T F F"], Float[Tensor, "T F"]]:
    """Every frame's own system, full."""
    normals = [problem.normal(look) for look in looks]
    return torch.cat([problem.layout.limbs.dense(n) for n in normals]), torch.cat([n.g for n in normals])


def _information(past: Past | None, F: int, like: Tensor) -> Float[Tensor, "2*F 2*F"]:
    """What the past adds to a window's first two frames."""
    return like.new_zeros(2 * F, 2 * F) if past is None else past.information.to(like.dtype)


def _joined(H: Tensor, ahead: Tensor, woven: Woven, i: int, frames: int) -> Float[Tensor, "n n"]:
    """The system of a frame and the (at most two) after it: its own block, what was left of earlier ones, and their smoothness."""
    F = len(H)
    A = H.new_zeros(frames * F, frames * F)
    some = min(len(ahead), len(A))
    A[:some, :some] = ahead[:some, :some]
    A[:F, :F] += H
    if frames == 3:
        woven.add(A.view(3, F, 3, F), i)
    return A


@dataclass(frozen=True)
class Woven:
    """Second derivatives of the smoothness of every three consecutive frames, each rotation taken where it is.

    To take neighbours' rotations as if they commuted, which steps of a whole take may do, would mislead the past for good.
    """

    straight: Float[Tensor, "3 3 F"]
    """Of what is no rotation."""
    turning: Float[Tensor, "T-2 3 3 n 3 3"]
    """Of the joints, frame against frame."""
    at: Int[Tensor, "n 3"]
    """Where the joints are in the system."""

    @classmethod
    def of(cls, state: State, smoothness: Smoothness, columns: Int[Tensor, "F"]) -> Woven:
        """Of a window."""
        J, T = state.R.shape[1], len(state)
        place = torch.full((len(smoothness.precision),), -1, device=columns.device)
        place[columns] = torch.arange(len(columns), device=columns.device)
        at = place[3 : 3 + 3 * J].view(J, 3)
        there = (at >= 0).all(1)
        straight = smoothness.precision.clone()
        straight[3 : 3 + 3 * J][there.repeat_interleave(3)] = 0
        R = time_last(state.R[:, there])
        r = lanes.log(lanes.product(R[..., 1:], R[..., :-1].transpose(0, 1)))
        eye = torch.eye(3, dtype=r.dtype, device=r.device)[:, :, None, None].expand(3, 3, *r.shape[1:])
        after, before = lanes.against_left_jacobian(r[:, None], eye), lanes.against_left_jacobian(-r[:, None], eye)
        M = torch.stack([before[..., : T - 2], -before[..., 1:] - after[..., : T - 2], after[..., 1:]])
        q = smoothness.precision[3 : 3 + 3 * J].view(J, 3)[there]
        second = torch.tensor([1.0, -2.0, 1.0], dtype=q.dtype, device=q.device)
        turning = torch.einsum("aijnt,nj,bkjnt->tabnik", M, q, M)
        return cls(torch.einsum("a,b,f->abf", second, second, straight[columns]), turning, at[there])

    def add(self, A: Float[Tensor, "3 F 3 F"], i: int) -> None:
        """Those of frames i to i + 2, to their system."""
        A.diagonal(dim1=1, dim2=3).add_(self.straight)
        frame = torch.arange(3, device=A.device)
        rows, columns = self.at[None, None, :, :, None], self.at[None, None, :, None, :]
        A[frame[:, None, None, None, None], rows, frame[None, :, None, None, None], columns] += self.turning[i].to(A.dtype)


@dataclass(frozen=True)
class _Gone:
    """A frame eliminated from its system."""

    L: Tensor
    X: Tensor
    """`L^-1` times how it hangs together with the frames that stay."""
    y: Tensor
    left: Tensor
    """Information on those."""

    @classmethod
    def of(cls, A: Tensor, r: Tensor, F: int) -> _Gone:
        L, failed = torch.linalg.cholesky_ex(A[:F, :F])
        L = torch.where(failed > 0, torch.nan, L)
        both = torch.linalg.solve_triangular(L, torch.cat([A[:F, F:], r[:, None]], 1), upper=False)
        X = both[:, :-1]
        return cls(L, X, both[:, -1], torch.addmm(A[F:, F:], X.T, X, alpha=-1))

    def told(self) -> Tensor:
        """What its right-hand side takes from theirs."""
        return self.X.T @ self.y

    def solved(self, later: Tensor) -> Tensor:
        """Its unknowns, once those after it are known."""
        y = self.y - self.X @ later[: self.X.shape[1]]
        return torch.linalg.solve_triangular(self.L.T, y[:, None], upper=True)[:, 0]

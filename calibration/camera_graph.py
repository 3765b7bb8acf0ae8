"""Which cameras saw the board together, where that places them, and the chain that reaches all of them.

Every instant that two cameras share gives their relative pose once, or up to four times where the board's pose is doubtful. True ones
agree from instant to instant, mirrored and mistaken ones scatter: the pose that most instants agree with is the pair's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import networkx as nx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.board_pose import BoardPoses
from calibration.bundle import adjoint, moved

LEAST, ENOUGH = 4, 10
"""Agreeing shared views below which a pair is not believed, and those that make a good one."""
AGREE = 35.0
"""Squared distance in standard deviations up to which two poses agree (six degrees of freedom; lens and timing err a little too)."""
FLOOR_TURN, FLOOR_SHIFT = 0.003, 0.004
"""What lens and timing errors add to a pose: rad, and a part of the board's distance."""
VALLEY = 0.1
"""Part of the way between a view's two poses that adds to the standard deviation of either."""
SEEDS, VOTERS = 24, 100
"""Instants of a pair that propose poses, and that vote on them."""


@dataclass(frozen=True)
class Pair:
    """Two cameras that saw the board together."""

    first: int
    second: int
    R: Float[Tensor, "3 3"]
    """R_second_first."""
    t: Float[Tensor, "3"]
    """The first camera's centre in the second's frame, m."""
    information: Float[Tensor, "6 6"]
    """Of the twist on the second camera's side."""
    shared: int
    """Instants that both saw."""
    agreeing: int
    """Of these, those that agree with the pose."""
    rival: int
    """Instants that agree with the best other pose: near `agreeing` where the pair cannot tell itself from its mirror image."""

    @property
    def weight(self) -> float:
        """How far to trust it, 1/m^2; little where a mirrored pose fits nearly as well."""
        sure = 1.0 if self.rival < 0.8 * self.agreeing else 1e-3
        return sure / float(torch.linalg.inv(self.information)[3:, 3:].trace().clamp_min(1e-18))


@dataclass(frozen=True)
class Placed:
    """Poses with their covariances, as `compared` wants them."""

    R: Float[Tensor, "n H 3 3"]
    t: Float[Tensor, "n H 3"]
    covariance: Float[Tensor, "n H 6 6"]
    penalty: Float[Tensor, "n H"]
    """Squared standard deviations by which a pose is less likely than its view's best."""

    def __getitem__(self, which: Tensor) -> Placed:
        """Some of them."""
        return Placed(self.R[which], self.t[which], self.covariance[which], self.penalty[which])

    def doubled(self, poses: BoardPoses) -> Placed:
        """Likewise for twice the poses, the second half like the first but for where they are."""
        return Placed(poses.R, poses.t, self.covariance.repeat(1, 2, 1, 1), self.penalty.repeat(1, 2))

    @cached_property
    def whiten(self) -> Float[Tensor, "n H 6 6"]:
        """Makes twists of unit variance."""
        return torch.linalg.inv(torch.linalg.cholesky(self.covariance))


def placed(poses: BoardPoses, doubt: Float[Tensor, "V 2"]) -> Placed:
    """Board poses in their cameras, with the covariance of their corners, and what lens and timing errors add.

    `doubt` is each view's lens: standard deviations of its focal length (as a part of it) and of its principal point (rad).
    """
    ridge = 1e-6 * torch.eye(6, dtype=poses.R.dtype)
    covariance = torch.linalg.inv(poses.information + ridge)
    shift = (FLOOR_SHIFT**2 + doubt[:, None, :1].square()) * poses.t.square().sum(-1, keepdim=True)
    turn = (FLOOR_TURN**2 + doubt[:, None, 1:].square()).expand(shift.shape)
    covariance = covariance + torch.diag_embed(torch.cat([turn.expand(poses.t.shape), shift.expand(poses.t.shape)], -1))
    # Between a view's two poses the cost has a valley that is wider than its curvature at either end tells.
    valley = VALLEY * twist_between(poses.R, poses.t, poses.R[:, [1, 0]], poses.t[:, [1, 0]])
    near = (poses.cost[:, 1:] - poses.cost[:, :1] < 10) & (valley[..., 0].abs().amax(1, keepdim=True) < 1)
    covariance = covariance + torch.where(near[..., None, None], valley[..., :, None] * valley[..., None, :], 0)
    penalty = (2 * (poses.cost - poses.cost.amin(1, keepdim=True))).nan_to_num(30.0).clamp(max=30.0)
    return Placed(poses.R, poses.t, covariance, torch.where(poses.cost.isfinite(), penalty, 1e6))


def relative(first: Placed, second: Placed) -> Placed:
    """Second camera from first, for each combination of their poses of the same board (H = first's x second's)."""
    n, h, k = len(first.R), first.R.shape[1], second.R.shape[1]
    R = second.R[:, None] @ first.R.mT[:, :, None]
    t = second.t[:, None] - (R @ first.t[:, :, None, :, None])[..., 0]
    A = adjoint(R, t)
    covariance = second.covariance[:, None] + A @ first.covariance[:, :, None] @ A.mT
    penalty = first.penalty[:, :, None] + second.penalty[:, None]
    flat = (n, h * k)
    return Placed(R.view(*flat, 3, 3), t.view(*flat, 3), covariance.view(*flat, 6, 6), penalty.view(flat))


def twist_between(R: Tensor, t: Tensor, R_to: Tensor, t_to: Tensor) -> Float[Tensor, "... 6"]:
    """The twist that moves one pose to another, exact for small turns; huge where they differ by more than 60 degrees."""
    turn = R_to @ R.mT
    half = torch.stack(
        [turn[..., 2, 1] - turn[..., 1, 2], turn[..., 0, 2] - turn[..., 2, 0], turn[..., 1, 0] - turn[..., 0, 1]], -1
    ) / 2  # fmt: skip
    far = turn.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) < 2
    return torch.cat([torch.where(far, 1e3, half), t_to - (turn @ t[..., None])[..., 0]], -1)


def compared(R: Float[Tensor, "... 3 3"], t: Float[Tensor, "... 3"], to: Placed) -> Float[Tensor, "... n H"]:
    """Squared distance, in standard deviations, from poses to each of the others."""
    twist = twist_between(R[..., None, None, :, :], t[..., None, None, :], to.R, to.t)
    return (to.whiten @ twist[..., None])[..., 0].square().sum(-1) + to.penalty


def pair_of(first: int, second: int, poses: Placed) -> Pair:
    """The relative pose that most instants agree with, refined by a robust weighted mean over them."""
    n = len(poses.R)
    spread = poses.covariance.diagonal(dim1=-2, dim2=-1)[..., 3:].sum(-1).amin(1)
    order = spread.argsort()
    voters, seeds = poses[order[:VOTERS]], poses[order[:SEEDS]]
    R, t = seeds.R.flatten(0, 1), seeds.t.flatten(0, 1)
    distance = compared(R, t, voters).amin(-1)
    score = distance.clamp(max=AGREE).sum(1)
    best = score.argmin()
    away = twist_between(R[best], t[best], R, t)[:, :3].norm(dim=-1) > 0.15
    votes = (distance < AGREE).sum(1) * n / len(voters.R)
    rival = int(torch.where(away, votes, 0).max())
    R, t, information = _mean(R[best], t[best], poses)
    agreeing = int((compared(R, t, poses).amin(-1) < AGREE).sum())
    return Pair(first, second, R, t, information, n, agreeing, rival)


def _mean(R: Tensor, t: Tensor, poses: Placed, steps: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean of poses on the group, Cauchy's weights; of each instant the nearest pose counts."""
    rows = torch.arange(len(poses.R))
    information = torch.eye(6, dtype=R.dtype)
    for _ in range(steps):
        distance, which = compared(R, t, poses).min(-1)
        whiten = poses.whiten[rows, which]
        inverse = whiten.mT @ whiten
        weight = torch.where(distance < 10 * AGREE, 1 / (1 + distance / 12), 0)[:, None, None]
        twist = twist_between(R, t, poses.R[rows, which], poses.t[rows, which])
        information = (weight * inverse).sum(0) + 1e-9 * torch.eye(6, dtype=R.dtype)
        R, t = moved(R, t, torch.linalg.solve(information, (weight * inverse @ twist[..., None]).sum(0)[:, 0]))
    return R, t, information


def pairs_of(poses: Placed, at: Int[Tensor, "C B"]) -> list[Pair]:
    """Every pair of cameras that shares an instant. `at` is the view of camera c at instant b, -1 where it has none."""
    found = []
    for i, j in combinations(range(len(at)), 2):
        both = (at[i] >= 0) & (at[j] >= 0)
        if both.any():
            found.append(pair_of(i, j, relative(poses[at[i, both]], poses[at[j, both]])))
    return found


def camera_graph(names: Sequence[str], pairs: Sequence[Pair]) -> nx.Graph:
    """Cameras joined where at least `LEAST` shared views agree; an edge holds its `pair` and `weight`."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(names)))
    graph.add_edges_from((p.first, p.second, {"pair": p, "weight": p.weight}) for p in pairs if p.agreeing >= LEAST)
    return graph


def refuse_unless_connected(names: Sequence[str], graph: nx.Graph, pairs: Sequence[Pair], seen: Bool[Tensor, "C B"]) -> None:
    """A `ValueError` that names cameras without the board, the groups that cannot be joined, and what to film for it."""
    views = seen.sum(1).tolist()
    blind = [names[c] for c in range(len(names)) if not views[c]]
    if blind:
        raise ValueError(
            f"{_listed(blind)} never {'sees' if len(blind) == 1 else 'see'} the board in {seen.shape[1]} instants: wave it where "
            f"{'this camera' if len(blind) == 1 else 'each of these'} and a neighbour both see it, at least {ENOUGH} times; or leave it out"
        )
    groups = sorted(nx.connected_components(graph), key=len, reverse=True)
    if len(groups) == 1:
        return
    shared = {(p.first, p.second): p for p in pairs}
    bridges = nx.Graph()
    for (g, one), (h, other) in combinations(enumerate(groups), 2):
        between = [(c, d) for c in one for d in other]
        best = max(between, key=lambda p: (shared[min(p), max(p)].agreeing if (min(p), max(p)) in shared else 0, views[p[0]] + views[p[1]]))
        known = shared.get((min(best), max(best)))
        bridges.add_edge(g, h, cameras=best, agreeing=known.agreeing if known else 0, shared=known.shared if known else 0)
    wanted = []
    for _, _, bridge in nx.maximum_spanning_edges(bridges, weight="agreeing", data=True):
        c, d = bridge["cameras"]
        have = f"{bridge['shared']} shared views, of which {bridge['agreeing']} agree" if bridge["shared"] else "no shared view"
        wanted.append(f"between {names[c]!r} and {names[d]!r} ({have}; at least {ENOUGH - bridge['agreeing']} more)")
    listed = "; ".join("[" + ", ".join(repr(names[c]) for c in sorted(group)) + "]" for group in groups)
    raise ValueError(f"the board does not join all cameras; groups that it joins: {listed}. Wave the board {', and '.join(wanted)}")


def _listed(names: Sequence[str]) -> str:
    return ("camera " if len(names) == 1 else "cameras ") + ", ".join(repr(n) for n in names)


def chained(graph: nx.Graph, anchor: int, R: Float[Tensor, "3 3"]) -> tuple[Float[Tensor, "C 3 3"], Float[Tensor, "C 3"], nx.Graph]:
    """Poses (R_camera_world, translation m) along the strongest spanning tree; the anchor is the origin, turned by `R`."""
    tree = nx.maximum_spanning_tree(graph, weight="weight")
    turns, shifts = R.repeat(len(graph), 1, 1), R.new_zeros(len(graph), 3)
    for c, d in nx.bfs_edges(tree, anchor):
        pair: Pair = tree.edges[c, d]["pair"]
        R_dc, t_dc = (pair.R, pair.t) if pair.first == c else (pair.R.T, -pair.R.T @ pair.t)
        turns[d], shifts[d] = R_dc @ turns[c], R_dc @ shifts[c] + t_dc
    return turns, shifts, tree


def agreement(
    R: Float[Tensor, "C 3 3"], t: Float[Tensor, "C 3"], poses: Placed, at: Int[Tensor, "C B"]
) -> tuple[Int[Tensor, "C B"], Int[Tensor, "B"], Bool[Tensor, "C B"]]:
    """With the cameras placed: each view's pose that its instant agrees on, the camera that says it best, and the views that agree.

    A view alone keeps its likeliest pose; where two disagree, neither is believed.
    """
    (C, B), H = at.shape, poses.R.shape[1]
    apart = torch.full((B, C, H, C, H), torch.nan, dtype=R.dtype)
    for i, j in combinations(range(C), 2):
        both = ((at[i] >= 0) & (at[j] >= 0)).nonzero()[:, 0]
        if not len(both):
            continue
        R_ji = R[j] @ R[i].T
        found = compared(R_ji, t[j] - R_ji @ t[i], relative(poses[at[i, both]], poses[at[j, both]])).view(-1, H, H)
        apart[both, i, :, j], apart[both, j, :, i] = found, found.mT
    near = torch.where(apart.isnan(), 2 * AGREE, apart).clamp(max=2 * AGREE).amin(-1)
    score = torch.where(at.T[:, :, None] >= 0, near.sum(-1), torch.inf)
    seed = score.flatten(1).argmin(1)
    camera, pose = seed // H, seed % H
    rows = torch.arange(B)
    to_seed = apart[rows, camera, pose]
    chosen = torch.where(to_seed.isnan(), torch.inf, to_seed).argmin(-1)
    chosen[rows, camera] = pose
    agrees = (to_seed.nan_to_num(torch.inf) < AGREE).any(-1)
    agrees[rows, camera] = agrees.any(1)
    return chosen.T, camera, agrees.T

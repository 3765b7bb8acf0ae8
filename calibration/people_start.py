"""A first guess of a camera rig from per-view 3D skeletons: they agree up to a rigid transform.

Two views' skeletons of the same instants differ by the rotation between the cameras (Rhodin et al. 2018, section 3), whatever a network
takes for their origin. Procrustes over all frames gives it for each pair (Kabsch 1976, Umeyama 1991), the pairs are made consistent by
averaging over the graph of cameras, and with rotations known the cameras' positions follow linearly from the 2D points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import networkx as nx
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.rotations import angle, nearest_rotation

MOST_CANDIDATES = 80
"""Frames whose own rotation is tried on all frames of a pair."""

MIRRORED = 0.87
"""A view may be a mirror image where turning it over leaves at most this share of the misfit of its skeletons."""


@dataclass(frozen=True)
class Turn:
    """How one camera's axes lie in another's, by what both made of a person."""

    R: Float[Tensor, "3 3"]
    """R_second_first."""
    error: float
    """What is left between the two skeletons, root mean square over points, the median frame, m."""
    exchanged: Bool[Tensor, "T"]
    """Frames where they agree better after left and right of one are exchanged."""
    margin: Float[Tensor, "T"]
    """How much better (error squared, m^2); zero in frames that one does not have."""


@dataclass(frozen=True)
class Start:
    """Rotations of all cameras, and who exchanged left and right when."""

    R: Float[Tensor, "C 3 3"]
    """R_camera_world; the world is the first camera."""
    exchanged: Bool[Tensor, "C T"]
    disagreement: Float[Tensor, "C"]
    """Median angle between a camera's rotation and what its pairs say, rad."""
    error: float
    """Median over pairs of what is left between two skeletons, m."""


def centred(skeleton: Float[Tensor, "... K 3"]) -> tuple[Float[Tensor, "... K 3"], Bool[Tensor, "... K"]]:
    """Skeletons about the mean of their points, zero where a point is missing; and which there are."""
    there = torch.isfinite(skeleton).all(-1)
    w = there.to(skeleton.dtype)[..., None]
    filled = skeleton.nan_to_num()
    return (filled - (filled * w).sum(-2, keepdim=True) / w.sum(-2, keepdim=True).clamp_min(1)) * w, there


def turn_between(first: Float[Tensor, "T K 3"], second: Float[Tensor, "T K 3"], mirror: Sequence[int]) -> Turn | None:
    """The rotation between two views' skeletons, robust to frames where one is wrong or has left and right exchanged; None without any.

    Every frame's own rotation, with and without the exchange, is tried on all frames; the best is refined on those that agree.
    """
    both = torch.isfinite(first).all(-1) & torch.isfinite(second).all(-1)
    T = len(first)
    H, power, count = first.new_zeros(2, T, 3, 3), first.new_zeros(2, T), first.new_zeros(2, T)
    for v, labels in enumerate((list(range(first.shape[1])), list(mirror))):
        a = first[:, labels]
        shared = both if v == 0 else torch.isfinite(a).all(-1) & torch.isfinite(second).all(-1)
        a, _ = centred(torch.where(shared[..., None], a, torch.nan))
        b, _ = centred(torch.where(shared[..., None], second, torch.nan))
        H[v] = torch.einsum("tki,tkj->tij", b, a)
        power[v], count[v] = a.square().sum((1, 2)) + b.square().sum((1, 2)), shared.sum(1)
    good = (count >= 4).all(0)
    if not bool(good.any()):
        return None
    frames = good.nonzero()[:, 0]
    some = frames[:: max(1, len(frames) // MOST_CANDIDATES)]

    def errors(R: Tensor) -> Tensor:  # (N, 2, T) mean squared error
        return ((power - 2 * torch.einsum("nij,vtij->nvt", R, H)) / count.clamp_min(1)).clamp_min(0)

    tried = nearest_rotation(H[:, some].flatten(0, 1))
    left = errors(tried)[:, :, good].min(1).values
    cap = 2 * left.median(1).values.min().clamp_min(1e-8)
    R = tried[left.clamp(max=float(cap)).sum(1).argmin()]
    for _ in range(5):
        e = errors(R[None])[0]
        chosen, which = e.min(0)
        weight = torch.where(good, 1 / (1 + chosen / cap).square(), 0.0)
        R = nearest_rotation((H.gather(0, which.view(1, T, 1, 1).expand(1, T, 3, 3))[0] * weight[:, None, None]).sum(0))
    e = errors(R[None])[0]
    margin = torch.where(good, (e[0] - e[1]).abs(), 0.0)
    return Turn(R, float(e.min(0).values[good].median().sqrt()), good & (e[1] < e[0]), margin)


def pair_turns(skeleton: Float[Tensor, "C T K 3"], mirror: Sequence[int]) -> dict[tuple[int, int], Turn]:
    """The turns between all pairs of cameras that saw a person together."""
    found = {(i, j): turn_between(skeleton[i], skeleton[j], mirror) for i, j in combinations(range(len(skeleton)), 2)}
    return {pair: turn for pair, turn in found.items() if turn is not None}


def start(skeleton: Float[Tensor, "C T K 3"], mirror: Sequence[int], names: Sequence[str]) -> Start:
    """Rotations of all cameras from their skeletons; a `ValueError` names a camera that shares no frame with the others."""
    turns = pair_turns(skeleton, mirror)
    R, disagreement = averaged(turns, len(skeleton), names)
    error = float(torch.tensor([t.error for t in turns.values()]).median())
    return Start(R, _exchanges(turns, *skeleton.shape[:2]), disagreement, error)


def averaged(turns: dict[tuple[int, int], Turn], C: int, names: Sequence[str]) -> tuple[Float[Tensor, "C 3 3"], Float[Tensor, "C"]]:
    """Camera rotations that fit the pairs' in the sense of least absolute angles, the first camera's being the identity.

    A spanning tree over the best pairs starts it; then each camera in turn takes the weighted mean of what its pairs say
    (Hartley et al. 2013, "Rotation averaging", section 7: weights one over the angle).
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(C))
    graph.add_weighted_edges_from((i, j, t.error) for (i, j), t in turns.items())
    lost = [names[c] for c in range(C) if not nx.has_path(graph, 0, c)]
    if lost:
        raise ValueError(
            f"camera {lost[0]!r} shares no frame in which it and another camera see the person whole; "
            "walk through the part of the volume that it sees, or leave it out"
        )
    R = [torch.eye(3, dtype=torch.float64)] * C
    tree = nx.minimum_spanning_tree(graph)
    for i, j in nx.bfs_edges(tree, 0):
        R[j] = _between(turns, i, j) @ R[i]
    for _ in range(30):
        for c in range(1, C):
            said = torch.stack([_between(turns, n, c) @ R[n] for n in graph.neighbors(c)])
            weight = torch.tensor([1 / graph.edges[n, c]["weight"] for n in graph.neighbors(c)], dtype=torch.float64)
            weight = weight / angle(said @ R[c].mT).clamp_min(0.02)
            R[c] = nearest_rotation((said * weight[:, None, None]).sum(0))
    off = [torch.stack([angle(_between(turns, n, c) @ R[n] @ R[c].mT) for n in graph.neighbors(c)]).median() for c in range(C)]
    return torch.stack(R), torch.stack(off)


def _between(turns: dict[tuple[int, int], Turn], i: int, j: int) -> Tensor:
    """R_j_i."""
    return turns[i, j].R if (i, j) in turns else turns[j, i].R.mT


def _exchanges(turns: dict[tuple[int, int], Turn], C: int, T: int) -> Bool[Tensor, "C T"]:
    """Who has left and right exchanged in each frame: what contradicts the pairs least, and of two opposite answers the rarer exchange."""
    if C > 10:
        first = torch.stack([turns[0, c].exchanged if (0, c) in turns else torch.zeros(T, dtype=torch.bool) for c in range(1, C)])
        both = torch.cat([torch.zeros(1, T, dtype=torch.bool), first])
        return torch.where(both.sum(0) > C / 2, ~both, both)
    patterns = torch.tensor(list(product((False, True), repeat=C)))
    cost = torch.zeros(len(patterns), T, dtype=torch.float64)
    for (i, j), turn in turns.items():
        differ = patterns[:, i] ^ patterns[:, j]
        cost += (differ[:, None] != turn.exchanged[None]) * turn.margin
    rare = cost + 1e-9 * patterns.sum(1, keepdim=True)
    return patterns[rare.argmin(0)].T


def flipped(skeleton: Float[Tensor, "T K 3"], mirror: Sequence[int]) -> Float[Tensor, "T K 3"]:
    """The skeleton that a network would have seen in the mirror image of a view."""
    return skeleton[:, list(mirror)] * skeleton.new_tensor([-1.0, 1.0, 1.0])


def mirror_image(skeleton: Float[Tensor, "C T K 3"], mirror: Sequence[int]) -> tuple[int, float] | None:
    """The camera whose skeletons fit the others' better turned over, and the share of misfit that leaves; None where there is none.

    A body is nearly its own mirror image, so this is a suspicion only.
    """
    T = skeleton.shape[1]
    some = skeleton[:, :: max(1, T // MOST_CANDIDATES)]
    ratios = []
    for c in range(len(some)):
        over = some.clone()
        over[c] = flipped(some[c], mirror)
        plain, turned = ([t.error for pair, t in pair_turns(s, mirror).items() if c in pair] for s in (some, over))
        ratios.append(sum(turned) / sum(plain) if plain and turned else 1.0)
    best = min(range(len(ratios)), key=ratios.__getitem__)
    return (best, ratios[best]) if len(some) > 2 and ratios[best] < MIRRORED else None


def placed(
    R: Float[Tensor, "C 3 3"],
    body: Float[Tensor, "T K 3"],
    plane: Float[Tensor, "C T K 2"],
    weight: Float[Tensor, "C T K"],
) -> tuple[Float[Tensor, "C 3"], Float[Tensor, "T K 3"]]:
    """Camera centres and points of the body in every frame, m, in the world's axes, the first camera at the origin.

    `body` is the person about its own origin in the world's axes, `plane` ideal image coordinates x/z, y/z, `weight` zero where not seen.
    In every view u (z + p_z) = x + p_x is linear in the body's place p (Tsai 1987 with the rotation known); differences of places are
    the cameras'.
    """
    own = torch.einsum("cij,tkj->ctki", R, body)
    w = torch.where(torch.isfinite(own).all(-1), weight, 0.0)[..., None]
    own, u = own.nan_to_num(), plane.nan_to_num()
    eye = torch.eye(2, dtype=R.dtype).expand(*u.shape[:-1], 2, 2)
    A = torch.cat([eye, -u[..., None]], -1)
    b = u * own[..., 2:] - own[..., :2]
    normal = torch.einsum("ctkai,ctkaj,ctkl->ctij", A, A, w)
    place = torch.linalg.solve(normal + 1e-9 * torch.eye(3, dtype=R.dtype), torch.einsum("ctkai,ctka,ctkl->cti", A, b, w)[..., None])[
        ..., 0
    ]
    seen = (w[..., 0] > 0).sum(-1) >= 4
    world = torch.where((seen & (place[..., 2] > 0.2))[..., None], torch.einsum("cji,ctj->cti", R, place), torch.nan)
    position = torch.zeros_like(R[:, 0])
    known = [0]
    while len(known) < len(R):  # the camera that shares most frames with those that have a place
        there = torch.isfinite(world[..., 0])
        shared = {c: int((there[c] & there[known].any(0)).sum()) for c in range(len(R)) if c not in known}
        c = max(shared, key=shared.__getitem__)
        body_at = (position[known][:, None] + world[known]).nanmedian(0).values
        position[c] = (body_at - world[c]).nanmedian(0).values.nan_to_num()
        known.append(c)
    root = (position[:, None] + world).nanmedian(0).values
    return position, root[:, None] + body

"""Which views exchanged left and right, found from what the other views say.

Networks name limbs from one picture, so a back seen as a front, or crossing legs, exchanges left and right in one view
alone. For each group of limbs every pattern of exchanged views is scored by how well the rays of its left and of its right
points meet (MSAC over every pair of rays), and by whether the networks' own 3D limbs, turned into the world, point the same
way. The best sequence of patterns over time is found exactly (Viterbi 1967). Which side is the true left is for
`studio.true_sides` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from calibration.triangulate import Rays, pair_points, triangulate
from rigs.keypoints import mirrored
from studio.values import exchanged

GROUPS = {
    "arms": ("shoulder", "elbow", "wrist"),
    "legs": ("hip", "knee", "ankle", "big_toe", "heel"),
    "head": ("eye", "ear"),
}
"""Limbs that networks exchange together; hands go with the arms, small toes with the legs."""
EXHAUSTIVE = 8
"""With more cameras than this, all patterns are tried among this many, and each other view is then judged alone."""


@dataclass(frozen=True)
class SwapConfig:
    """What an exchange costs, in units of squared standard deviations of a keypoint."""

    threshold: float = 4.0
    """A view disagrees about a keypoint beyond this many standard deviations."""
    rare: float = 2.0
    """For every view and frame that is exchanged: networks are more often right. For the head: exchanged unlike the arms."""
    lasting: float = 6.0
    """For every view that changes between exchanged and not from one frame to the next."""
    limb: float = 0.15
    """Standard deviation of the network's own 3D vector from right to left, m."""
    motion: float = 0.05
    """Standard deviation of a keypoint's way from one frame to the next, m."""
    facing: float = 8.0
    """For limbs on the wrong side of a body that faces where its nose or toes point."""


@dataclass(frozen=True)
class Group:
    """Left and right keypoints that are exchanged together."""

    name: str
    left: list[int]
    right: list[int]
    """Points that are compared."""
    members: list[int]
    """All keypoints that are exchanged."""


def groups(names: tuple[str, ...]) -> list[Group]:
    """The groups that a keypoint set has."""
    found = []
    for group, parts in GROUPS.items():
        present = [p for p in parts if f"left_{p}" in names and f"right_{p}" in names]
        if present:
            extra = (
                ("hand_root", "thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger") if group == "arms" else ("small_toe",)
            )
            keys = tuple(f"{s}_{p}" for s in ("left", "right") for p in (*parts, *(extra if group != "head" else ())))
            left, right = ([names.index(f"{s}_{p}") for p in present] for s in ("left", "right"))
            found.append(Group(group, left, right, [k for k, n in enumerate(names) if n.startswith(keys)]))
    return found


@dataclass(frozen=True)
class Evidence:
    """What some frames say about an actor's sides; little enough to be kept for a whole take. G groups, P points, L leading views."""

    pattern: Bool[Tensor, "L T G"]
    """Views that exchanged a group's limbs, if the first view did not."""
    votes: Float[Tensor, "T G 2"]
    """Views that see the group and are in the pattern, and those that are not."""
    sides: tuple[Float[Tensor, "T 2 P 3"], ...]
    """Left and right points of every group when the pattern is put back, world, m."""
    middle: dict[str, Float[Tensor, "T 3"]]
    """Points that no exchange moves, world, m; NaN where not known."""

    def cut(self, frames: slice) -> Evidence:
        """Some of the frames."""
        middle = {k: v[frames] for k, v in self.middle.items()}
        return Evidence(self.pattern[:, frames], self.votes[frames], tuple(s[frames] for s in self.sides), middle)

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """Consecutive stretches as one."""
        sides = tuple(torch.cat(group) for group in zip(*(p.sides for p in parts), strict=True))
        middle = {k: torch.cat([p.middle[k] for p in parts]) for k in parts[0].middle}
        return cls(torch.cat([p.pattern for p in parts], 1), torch.cat([p.votes for p in parts]), sides, middle)


def leading(detection: Int[Tensor, "C T"]) -> list[int]:
    """The views in which an actor was found most often: patterns of exchange are searched among these."""
    return sorted((detection >= 0).sum(1).argsort(descending=True, stable=True)[:EXHAUSTIVE].tolist())


def evidence(
    cameras: Cameras,
    names: tuple[str, ...],
    pixels: Float[Tensor, "L T K 2"],
    sigma: Float[Tensor, "L T K"],
    skeleton: Float[Tensor, "L T K 3"] | None,
    config: SwapConfig,
    alone: Bool[Tensor, "T"] | None = None,
) -> Evidence:
    """The likeliest pattern of exchanged views in every frame, and what tells which side is left. `skeleton` is in the world's axes, m.

    In frames that are `alone` the points are of hands without a body, of which mostly one is in view: there it counts that views meet.
    """
    L, T, K = sigma.shape
    seen = torch.isfinite(sigma) & torch.isfinite(pixels).all(-1)
    found = groups(names)
    patterns = torch.tensor([(0, *p) for p in product((0, 1), repeat=L - 1)], dtype=torch.bool)
    chosen, sides, votes = [], [], []
    for group in found:
        cost = _pattern_costs(cameras, pixels, sigma, group, patterns, config)
        if alone is not None and bool(alone.any()):
            cost += _unmet(seen, group, patterns, config) * alone[:, None]
        if skeleton is not None:
            cost += _limb_costs(skeleton, group, patterns, config)
        usual = chosen[0] if group.name == "head" and found[0].name == "arms" else torch.zeros(L, T, dtype=torch.bool)
        chosen.append(patterns[_sequence(cost, patterns, usual, config)].T)
        whole = torch.zeros(L, T, K, dtype=torch.bool)
        whole[:, :, group.members] = chosen[-1][..., None]
        p, s = exchanged(pixels, whole, names), exchanged(sigma, whole, names)
        both = group.left + group.right
        points = triangulate(cameras, p[:, :, both], s[:, :, both]).points
        sides.append(points.unflatten(1, (2, len(group.left))))
        visible = seen[:, :, both].any(-1)
        votes.append(torch.stack([(visible & chosen[-1]).sum(0), (visible & ~chosen[-1]).sum(0)], -1))
    middle = {name: _middle(cameras, pixels, sigma, names, name) for name in ("nose", "ear", "hip", "shoulder", "big_toe", "heel")}
    return Evidence(torch.stack(chosen, -1), torch.stack(votes, 1).float(), tuple(sides), middle)


def exchanges(
    cameras: Cameras,
    names: tuple[str, ...],
    pixels: Float[Tensor, "C T K 2"],
    sigma: Float[Tensor, "C T K"],
    lead: list[int],
    sides: Bool[Tensor, "L T G"],
    config: SwapConfig,
) -> Bool[Tensor, "C T K"]:
    """Keypoints of some frames of one actor that must take the place of their left or right counterpart.

    Views that are not among the leading are judged by what those say.
    """
    C, T, K = sigma.shape
    result = torch.zeros(C, T, K, dtype=torch.bool)
    seen = torch.isfinite(sigma) & torch.isfinite(pixels).all(-1)
    found = groups(names)
    for g, group in enumerate(found):
        result[torch.tensor(lead)[:, None], :, torch.tensor(group.members)] = sides[:, None, :, g]
    for c in sorted(set(range(C)) - set(lead)):
        _judge_alone(cameras, names, pixels, sigma, found, lead, c, result, config)
    return result & (seen | seen[:, :, list(mirrored(names))])


def _pattern_costs(
    cameras: Cameras, pixels: Tensor, sigma: Tensor, group: Group, patterns: Bool[Tensor, "S C"], config: SwapConfig
) -> Float[Tensor, "T S"]:
    """How badly the rays of the left and of the right points meet, for every pattern: the squared deviations, capped, of the best point."""
    C, T = sigma.shape[:2]
    limit = config.threshold**2
    views = list(range(C)) * 2
    pairs = torch.tensor([(a, b) for a, b in combinations(range(2 * C), 2) if views[a] != views[b]]).T
    left = torch.cat([~patterns, patterns], 1).float()
    right = torch.cat([patterns, ~patterns], 1).float()
    cost = torch.zeros(T, len(patterns))
    chunk = max(8, (1 << 21) // (pairs.shape[1] * max(2 * C, len(patterns))))
    for i, j in zip(group.left, group.right):
        for start in range(0, T, chunk):
            part = slice(start, start + chunk)
            rays = _both(Rays.of(cameras, pixels[:, part, i], sigma[:, part, i]), Rays.of(cameras, pixels[:, part, j], sigma[:, part, j]))
            guess, exists = pair_points(rays, pairs, 0.02)
            deviation = rays.deviation(guess).clamp_max_(limit).nan_to_num_(nan=limit)  # (2C, P, n)
            for side in (left, right):
                tried = (side @ deviation.flatten(1)).view(len(patterns), *exists.shape)
                best = tried.masked_fill_(~exists, torch.inf).amin(1)
                worst = side @ (rays.seen * limit)
                cost[part] += torch.minimum(best, worst).T
    return cost


def _unmet(seen: Bool[Tensor, "C T K"], group: Group, patterns: Bool[Tensor, "S C"], config: SwapConfig) -> Float[Tensor, "T S"]:
    """Half of what a contradiction costs for each point that a pattern leaves to one view alone."""
    cost = torch.zeros(seen.shape[1], len(patterns))
    for one, other in ((group.left, group.right), (group.right, group.left)):
        own, taken = seen[:, :, one].float(), seen[:, :, other].float()
        views = torch.einsum("sc,ctp->tsp", (~patterns).float(), own) + torch.einsum("sc,ctp->tsp", patterns.float(), taken)
        cost += (views == 1).sum(-1) * config.threshold**2 / 2
    return cost


def _both(left: Rays, right: Rays) -> Rays:
    """The left and right points as 2C views of one point."""
    joined = {k: torch.cat([getattr(left, k), getattr(right, k)]) for k in ("R", "position", "u", "v", "uu", "vv")}
    uv = None if left.uv is None or right.uv is None else torch.cat([left.uv, right.uv])
    return Rays(origin=left.origin, uv=uv, **joined)


def _limb_costs(skeleton: Tensor, group: Group, patterns: Bool[Tensor, "S C"], config: SwapConfig) -> Float[Tensor, "T S"]:
    """How badly the networks' own vectors from right to left agree between views, when the exchanged views' are turned round."""
    across = skeleton[:, :, group.left] - skeleton[:, :, group.right]
    C = len(across)
    cost = torch.zeros(across.shape[1], len(patterns))
    for a, b in combinations(range(C), 2):
        same = ((across[a] - across[b]) / config.limb).square().sum(-1) / 2
        other = ((across[a] + across[b]) / config.limb).square().sum(-1) / 2
        same, other = (x.clamp_max(config.threshold**2).nan_to_num(0).sum(-1, keepdim=True) * 2 / C for x in (same, other))
        cost += torch.where(patterns[:, a] == patterns[:, b], same, other)
    return cost


def _sequence(cost: Float[Tensor, "T S"], patterns: Bool[Tensor, "S C"], usual: Bool[Tensor, "C T"], config: SwapConfig) -> list[int]:
    """The cheapest pattern of each frame, near the usual one; a pattern and its complement are the same."""
    C = patterns.shape[1]
    differ = (patterns[:, None] ^ patterns[None]).sum(-1)
    unusual = (patterns[None] ^ usual.T[:, None]).sum(-1)
    unary = cost + config.rare * torch.minimum(unusual, C - unusual)
    return viterbi(unary.numpy(), (config.lasting * torch.minimum(differ, C - differ)).numpy())


def viterbi(unary: np.ndarray, change: np.ndarray) -> list[int]:
    """The cheapest sequence of states: costs `unary` (T, S) of a state and `change` (S, S) or (T, S, S) from one to the next."""
    T = len(unary)
    total = unary[0].astype(np.float64)
    came = np.zeros(unary.shape, np.int64)
    for t in range(1, T):
        ways = total[:, None] + (change if change.ndim == 2 else change[t])
        came[t] = ways.argmin(0)
        total = ways.min(0) + unary[t]
        total -= total.min()
    path = [int(total.argmin())]
    for t in range(T - 1, 0, -1):
        path.append(int(came[t, path[-1]]))
    return path[::-1]


def _middle(cameras: Cameras, pixels: Tensor, sigma: Tensor, names: tuple[str, ...], part: str) -> Float[Tensor, "T 3"]:
    """The middle between left and right in the world, which no exchange moves; NaN where it is not known."""
    if part in names:
        k = names.index(part)
        return triangulate(cameras, pixels[:, :, k], sigma[:, :, k]).points
    if f"left_{part}" not in names or f"right_{part}" not in names:
        return torch.full((pixels.shape[1], 3), torch.nan)
    i, j = names.index(f"left_{part}"), names.index(f"right_{part}")
    return triangulate(cameras, (pixels[:, :, i] + pixels[:, :, j]) / 2, sigma[:, :, [i, j]].amax(-1)).points


def _judge_alone(
    cameras: Cameras,
    names: tuple[str, ...],
    pixels: Tensor,
    sigma: Tensor,
    found: list[Group],
    lead: list[int],
    c: int,
    result: Tensor,
    config: SwapConfig,
) -> None:
    """Decide one more view (in `result`) by which side its points fall on."""
    p, s = exchanged(pixels[lead], result[lead], names), exchanged(sigma[lead], result[lead], names)
    for group in found:
        both, other = group.left + group.right, group.right + group.left
        points = triangulate(cameras[lead], p[:, :, both], s[:, :, both]).points
        seen = cameras[c].to(dtype=torch.float32).project(points)[0]
        cap = config.threshold**2
        kept, swapped = (
            ((pixels[c][:, k] - seen) / sigma[c][:, k, None]).square().sum(-1).clamp_max(cap).nan_to_num(0).sum(-1) for k in (both, other)
        )
        unary = torch.stack([kept, swapped + config.rare], -1)
        path = viterbi(unary.numpy(), config.lasting * (1 - np.eye(2)))
        result[c][:, group.members] = torch.tensor(path, dtype=torch.bool)[:, None]

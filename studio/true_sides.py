"""Which side is the true left, when views agree on which of them exchanged left and right.

All views together say nothing about it: that is a binary sequence of its own, from what most views say, from continuity in 3D, and from
where nose and toes point. Found exactly (Viterbi 1967).
"""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.swaps import Evidence, Group, SwapConfig, groups, viterbi


def sides(names: tuple[str, ...], known: Evidence, config: SwapConfig) -> Bool[Tensor, "L T G"]:
    """Which views exchanged which group, from the evidence of a whole take."""
    return known.pattern ^ _turns(groups(names), known, config)


def _turns(found: list[Group], known: Evidence, config: SwapConfig) -> Bool[Tensor, "T G"]:
    """For each group whether its pattern must be inverted so that left is left."""
    T, G = known.votes.shape[:2]
    middle = known.middle
    states = torch.tensor(list(product((0, 1), repeat=G)), dtype=torch.bool)
    unary = torch.zeros(T, len(states))
    change = torch.zeros(T, len(states), len(states))
    up = _unit(middle["shoulder"] - middle["hip"])
    toes, nose = middle["big_toe"] - middle["heel"], middle["nose"] - middle["ear"]
    forward = {"arms": nose, "head": nose, "legs": toes}
    across = {}
    for g, (group, points) in enumerate(zip(found, known.sides, strict=True)):
        swapped, kept = known.votes[:, g].unbind(-1)
        apart = points[:, 0] - points[:, 1]
        trunk = apart[:, 0] if group.name != "head" else torch.full_like(apart[:, 0], torch.nan)  # elbows and knees may cross
        across[group.name] = torch.where(trunk.isnan(), apart.nanmean(1), trunk)
        front = torch.linalg.cross(_unit(across[group.name]), up)
        agree = (_unit(front) * _unit(forward[group.name])).sum(-1).nan_to_num(0)
        on = states[:, g].float()
        unary += (
            config.rare * torch.where(states[:, g], kept[:, None], swapped[:, None])
            + config.facing * agree[:, None].mul(2 * on - 1).add(1) / 2
        )
        stay, cross = _continuity(points, config)
        flips = states[:, None, g] ^ states[None, :, g]
        change += torch.where(flips, cross[:, None, None], stay[:, None, None])
    place = {group.name: g for g, group in enumerate(found)}
    for one, two in (("arms", "legs"), ("arms", "head")):
        if one in place and two in place:
            aligned = (_unit(across[one]) * _unit(across[two])).sum(-1).nan_to_num(0)[:, None]
            unary += config.facing * (1 - torch.where(states[:, place[one]] ^ states[:, place[two]], -aligned, aligned)) / 2
    return states[viterbi(unary.numpy(), change.numpy())]


def _continuity(points: Float[Tensor, "T 2 P 3"], config: SwapConfig) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
    """Cost at each frame of left and right going on as they were in the last frame that knew them, and of having changed places."""
    T = len(points)
    last = points.clone()
    age = torch.zeros(points.shape[:-1])
    for t in range(1, T):
        lost = last[t].isnan().any(-1)
        last[t] = torch.where(lost[..., None], last[t - 1], last[t])
        age[t] = torch.where(lost, age[t - 1] + 1, 0)
    before, gap = last.roll(1, 0), age.roll(1, 0) + 1
    spread = config.motion * gap.amax(1)[..., None].sqrt()
    cap = config.threshold**2

    def cost(other: Tensor) -> Tensor:
        moved = ((points - other) / spread[:, None]).square().sum(-1).sum(1)
        total = moved.clamp_max(cap).nan_to_num(0).sum(-1)
        total[0] = 0
        return total

    return cost(before) + cap * _sole(points, points.flip(1), config), cost(before.flip(1)) + cap * _sole(points, points, config)


def _sole(points: Float[Tensor, "T 2 P 3"], former: Float[Tensor, "T 2 P 3"], config: SwapConfig) -> Int[Tensor, "T"]:
    """How many points are known of one side alone and were so in the frame before, of the same side of `former`, in the same place."""
    known, knew = (torch.isfinite(x).all(-1) for x in (points, former.roll(1, 0)))
    near = (points - former.roll(1, 0)).norm(dim=-1) < config.threshold * config.motion
    count = (known & ~known.flip(1) & knew & ~knew.flip(1) & near).sum((1, 2))
    count[:1] = 0
    return count


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6)

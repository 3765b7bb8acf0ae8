"""Poses that people take: each limb's joints together, and a hand's fingers together, learned from motion (`studio train pose_prior`).

A limb's joint angles come from a mixture of Gaussians or, with a small share, from anywhere in the joints' ranges: a pose that was never
met costs no more than a fixed amount and is then left in peace. The fingers of a hand share a few synergies (a Gaussian of low rank plus
a block for each finger), so that those nobody sees curl as the others do. Left and right share what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rigs.anatomy import Anatomy
from rigs.skeleton import Skeleton
from studio.fit import lanes

FILE = Path(__file__).parent / "poses.safetensors"
"""What the package was shipped with; its card lies beside it."""
FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
LIMBS = {
    "arm": ("Shoulder", "Arm", "ForeArm", "Hand"),
    "leg": ("UpLeg", "Leg", "Foot", "ToeBase"),
    "hand": tuple(f"Hand{finger}{i}" for finger in FINGERS for i in (1, 2, 3)),
}
"""Joints that go together, sides left out."""
SHARED = (("Spine", "Spine1", "Spine2"), ("Neck", "Head"))
"""Chains whose joints bend together, each as far as its range allows beside the others' (ranges of motion: `rigs.anatomy`)."""
ELSEWHERE = 0.1
"""Share of poses that resemble none that were learned."""
NEVER = -1e4
"""Log density of poses that do not occur."""


def instances(limb: str, names: Sequence[str]) -> list[list[int]]:
    """Joints of each limb of a kind, left before right; none where the skeleton lacks one."""
    named = [[side + joint for joint in LIMBS[limb]] for side in ("Left", "Right")]
    return [[names.index(n) for n in one] for one in named if all(n in names for n in one)]


@dataclass(frozen=True)
class Postures:
    """What is known of one kind of limb: a mixture over the angles of all its joints, in rad from the relaxed pose."""

    joints: Int[Tensor, "s n"]
    """Of each limb of the kind."""
    mean: Float[Tensor, "k 3*n"]
    """Three axes (`rigs.anatomy`) of one joint after the other."""
    precision: Float[Tensor, "k 3*n 3*n"]
    blocks: Float[Tensor, "k c m m"]
    """At least the precision, but without what chains of joints (fingers) have in common: what the solver's tree can hold."""
    share: Float[Tensor, "k"]
    """Log density of each component at its mean."""
    elsewhere: float
    """Log density of a pose unlike all."""

    def _near(self, off: Float[Tensor, "3 J T"]) -> tuple[Tensor, Tensor]:
        """Pull of each component (k, s, 3n, T), and log density of each and of elsewhere (k + 1, s, T)."""
        x = off[:, self.joints].permute(1, 2, 0, 3).flatten(1, 2)
        d = x - self.mean[:, None, :, None]
        pull = torch.einsum("kab,ksbt->ksat", self.precision, d)
        log = self.share[:, None, None] - 0.5 * (d * pull).sum(2)
        return pull, torch.cat([log, torch.full_like(log[:1], self.elsewhere)])

    def cost(self, off: Float[Tensor, "3 J T"]) -> Float[Tensor, "T"]:
        """Negative log of the prior, never below zero; `off` are angles from the relaxed pose."""
        best = torch.logsumexp(torch.cat([self.share, self.share.new_full((1,), self.elsewhere)]), 0)
        return (best - torch.logsumexp(self._near(off)[1], 0)).sum(0)

    def terms(self, off: Float[Tensor, "3 J T"]) -> tuple[Float[Tensor, "s n 3 T"], Float[Tensor, "s c m m T"]]:
        """Gradient and information for the angles; each frame's components as likely as its pose makes them."""
        pull, log = self._near(off)
        likely = log.softmax(0)[:-1]
        slope = (likely[:, :, None] * pull).sum(0).unflatten(1, (-1, 3))
        return slope, torch.einsum("kst,kcab->scabt", likely, self.blocks)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Joints of one chain, each with itself and with those above it: limb after limb, chain after chain."""
        m = self.blocks.shape[2] // 3
        chains = [chain for limb in self.joints.tolist() for chain in zip(*[iter(limb)] * m)]
        return [(chain[i], chain[j]) for chain in chains for i in range(m) for j in range(i + 1)]

    def of_pairs(self, information: Float[Tensor, "s c m m T"]) -> Float[Tensor, "3 3 p T"]:
        """Blocks of information for `pairs`."""
        m = information.shape[2] // 3
        i, j = torch.tril_indices(m, m, device=information.device)
        picked = information.unflatten(3, (m, 3)).unflatten(2, (m, 3))[:, :, i, :, j]
        return picked.permute(3, 4, 1, 2, 0, 5).flatten(2, 4)

    def apart(self) -> Postures:
        """With each chain as uncertain as it is when nothing is known of the others: for what is said of uncertainty."""
        size = self.blocks.shape[-1]
        C = torch.linalg.inv(self.precision)
        own = torch.stack([C[:, i : i + size, i : i + size] for i in range(0, C.shape[-1], size)], 1)
        return replace(self, blocks=torch.linalg.inv(own))


@dataclass(frozen=True)
class PosePrior:
    """All kinds of limbs."""

    kinds: tuple[Postures, ...]
    weight: float = 1.0
    """How much a frame counts: a pose is held for many frames, which together say little more than one."""

    @property
    def joints(self) -> Int[Tensor, "n"]:
        """All joints it speaks of."""
        return torch.cat([kind.joints.flatten() for kind in self.kinds])

    def cost(self, off: Float[Tensor, "3 J T"]) -> Float[Tensor, "T"]:
        """Negative log of the prior, per frame; `off` are angles from the relaxed pose, rad."""
        return self.weight * torch.stack([kind.cost(off) for kind in self.kinds]).sum(0)

    def terms(self, off: Float[Tensor, "3 J T"], turn: Float[Tensor, "3 3 J T"]) -> tuple[Float[Tensor, "3 J T"], Float[Tensor, "3 3 p T"]]:
        """Slope for the angles of every joint, and the information of each of `pairs` for small rotations of its joints.

        `turn[:, a]` is how the angle about axis a changes with a small rotation of its joint.
        """
        slope, blocks = torch.zeros_like(off), []
        for kind in self.kinds:
            own, information = kind.terms(off)
            slope[:, kind.joints.flatten()] += self.weight * own.flatten(0, 1).transpose(0, 1)
            blocks.append(kind.of_pairs(self.weight * information))
        low, high = self._ends
        between = lanes.product(turn[:, :, low], torch.cat(blocks, 2))
        return slope, lanes.product(between, turn[:, :, high].transpose(0, 1))

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Joints that the solver's matrix joins, and each with itself."""
        return tuple(pair for kind in self.kinds for pair in kind.pairs)

    @cached_property
    def alone(self) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
        """Which of the pairs are a joint with itself, and which joint."""
        own = [(i, a) for i, (a, b) in enumerate(self.pairs) if a == b]
        which, joint = torch.tensor(own, device=self.joints.device).T
        return which, joint

    @cached_property
    def _ends(self) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"]]:
        low, high = torch.tensor(self.pairs, device=self.joints.device).T
        return low, high

    def apart(self) -> PosePrior:
        """See `Postures.apart`."""
        return replace(self, kinds=tuple(kind.apart() for kind in self.kinds))


def prior(
    anatomy: Anatomy, skeleton: Skeleton, poses: float, synergies: float, weight: float = 1.0, file: Path = FILE, shares: float = 0.0
) -> PosePrior | None:
    """What was learned, for one body: joints lie about `poses` rad (fingers `synergies`) off the learned ones; 0 leaves a part out.

    `shares`: how far a joint of `SHARED` lies off its share of what its chain does, as a part of half its range; holds in every frame.
    """
    kinds = []
    for limb in LIMBS:
        sigma = synergies if limb == "hand" else poses
        joints = instances(limb, skeleton.names)
        if sigma and joints:
            kinds.append(_postures(limb, learned(file), torch.tensor(joints), anatomy, sigma))
    for chain in SHARED if shares else ():
        if all(joint in skeleton.names for joint in chain):
            kinds.append(_sharing(torch.tensor([[skeleton.names.index(joint) for joint in chain]]), anatomy, shares, weight))
    return PosePrior(tuple(kinds), weight) if kinds else None


def _postures(limb: str, table: dict[str, Tensor], joints: Tensor, anatomy: Anatomy, sigma: float) -> Postures:
    weight, mean, spread = (table[f"{limb}_{n}"].double() for n in ("weight", "mean", "covariance"))
    floor = sigma**2 * torch.eye(spread.shape[-1], dtype=spread.dtype)
    C = spread + floor
    blocks = torch.linalg.inv(C)[:, None]
    if limb == "hand":
        factor = table["hand_factor"].double()
        C = C + factor @ factor.mT
        size = spread.shape[-1] // len(FINGERS)
        blocks = torch.stack([blocks[:, 0, i : i + size, i : i + size] for i in range(0, spread.shape[-1], size)], 1)
    width = (anatomy.high - anatomy.low)[joints[0].to(anatomy.low.device)].flatten().double().cpu()
    share = weight.log() - 0.5 * torch.linalg.slogdet(2 * math.pi * C)[1] + math.log(1 - ELSEWHERE)
    elsewhere = math.log(ELSEWHERE) - float(width.clamp_min(4 * sigma).log().sum())
    to = lambda x: x.to(anatomy.low)  # noqa: E731
    return Postures(joints.to(anatomy.low.device), to(mean), to(torch.linalg.inv(C)), to(blocks), to(share), elsewhere)


def _sharing(joints: Int[Tensor, "1 n"], anatomy: Anatomy, shares: float, weight: float) -> Postures:
    """A chain that is free to bend within its range, all joints in proportion to theirs."""
    half = (0.5 * (anatomy.high - anatomy.low))[joints[0].to(anatomy.low.device)].double().cpu()
    together = torch.einsum("ia,jb,ab->iajb", half, half, torch.eye(3, dtype=half.dtype)).flatten(2).flatten(0, 1)
    P = torch.linalg.inv(together + torch.diag((shares * half.flatten()) ** 2)) / weight
    to = lambda x: x.to(anatomy.low)  # noqa: E731
    nothing = torch.zeros(1, dtype=P.dtype)
    return Postures(joints.to(anatomy.low.device), to(nothing.expand(1, len(P))), to(P[None]), to(P[None, None]), to(nothing), NEVER)


@cache
def learned(file: Path = FILE) -> dict[str, Tensor]:
    """Tables of a file that `studio train pose_prior` wrote; a `ValueError` names what is wrong with it."""
    wanted = {f"{limb}_{n}" for limb in LIMBS for n in ("weight", "mean", "covariance")} | {"hand_factor"}
    try:
        table = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); make it anew with `studio train pose_prior`") from error
    if lacking := sorted(wanted - set(table)):
        raise ValueError(f"{file}: lacks {lacking[0]}; make it anew with `studio train pose_prior`")
    return table

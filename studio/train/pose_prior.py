"""Learn the poses that people take from the motion scripts that ship with the studio: `studio train pose_prior`.

Angles of every limb's joints in anatomical axes, left and right alike. Limbs: a small mixture of Gaussians. Hands: a Gaussian of low rank
plus a block for each finger; scripts alone would make fingers too dependent on each other, so what is published on hands joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from jaxtyping import Float
from safetensors.torch import save
from scipy.cluster.vq import kmeans2
from torch import Tensor

from rigs import makehuman
from rigs.anatomy import anatomy
from studio.fit.learned import FILE, FINGERS, LIMBS, instances
from studio.freshness import write_text
from studio.virtual.actions import ACTIONS
from studio.virtual.motion import scripted

FPS, FRAMES = 10.0, 60
COMPONENTS = {"arm": 4, "leg": 4}
RIDGE = 0.03
"""Added to every learned standard deviation, rad: scripts move some joints not at all."""
SYNERGIES = 5
KNUCKLE, CURL, ASIDE, THUMB = 0.35, 0.45, 0.08, 0.2
"""How far a finger's knuckle flexes, how far its two outer joints curl, how far it goes aside, how far each thumb joint turns: standard
deviations, rad; about a quarter of the ranges in `rigs/presets/anatomy.yaml`."""
TIP = 2 / 3
"""Flexion of the last joint over that of the one before it (Rijpkema and Girard 1991)."""
LIKE_NEIGHBOUR = 0.8
"""Correlation of neighbouring fingers, its square two fingers apart and so on (in the order of Ingram et al. 2008)."""


def angles(excluded: Sequence[str], seeds: Sequence[int], people: int = 4) -> Float[Tensor, "T J 3"]:
    """Angles from the relaxed pose, rad, of every frame of all scripts but the excluded ones, by several people."""
    found = []
    for seed in seeds:
        person = makehuman.individual(7000 + seed % people)
        a = anatomy(person)
        for action in sorted(set(ACTIONS) - set(excluded)):
            turn = scripted(person, FRAMES, FPS, 5000 + seed, action).rotation
            found.append((a.axes @ turn[..., None])[..., 0] - a.mean)
    return torch.cat(found).double()


def mixture(x: Float[Tensor, "N d"], count: int, steps: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (k), means (k, d) and covariances (k, d, d) of a mixture of Gaussians, by expectation and maximisation from k-means."""
    x = x.double()
    ridge = RIDGE**2 * torch.eye(x.shape[1], dtype=x.dtype)
    label = torch.from_numpy(kmeans2(x.numpy(), count, seed=0, minit="++")[1]).long()  # pyright: ignore[reportCallIssue]
    share = torch.nn.functional.one_hot(label, count).to(x.dtype)
    weight = mean = covariance = x
    for _ in range(steps):
        n = share.sum(0).clamp_min(1.0)
        weight, mean = n / n.sum(), (share.T @ x) / n[:, None]
        d = x - mean[:, None]
        covariance = torch.einsum("nk,kna,knb->kab", share, d, d) / n[:, None, None] + ridge
        square = torch.einsum("kna,kab,knb->nk", d, torch.linalg.inv(covariance), d)
        share = (weight.log() - 0.5 * torch.linalg.slogdet(covariance)[1] - 0.5 * square).softmax(1)
    return weight, mean, covariance


def published() -> Float[Tensor, "45 45"]:
    """Covariance of a hand's joint angles from what is known of hands: tips follow, neighbours follow, the thumb goes its own way."""
    alike = LIKE_NEIGHBOUR ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
    one = torch.zeros(9, 9, dtype=torch.float64)
    knuckle, curl = one[0].clone(), one[0].clone()
    knuckle[0], curl[3], curl[6] = KNUCKLE, CURL, CURL * TIP
    one = torch.outer(knuckle, knuckle) + torch.outer(curl, curl) + 0.5 * (torch.outer(knuckle, curl) + torch.outer(curl, knuckle))
    aside = torch.zeros_like(one)
    aside[1, 1] = ASIDE**2
    thumb = torch.diag(torch.tensor([THUMB, THUMB, 0, THUMB, 0, 0, THUMB, 0, 0], dtype=torch.float64) ** 2)
    return torch.block_diag(thumb, torch.kron(alike, one) + torch.kron(torch.eye(4, dtype=torch.float64), aside))


def synergies(x: Float[Tensor, "N 45"], count: int = SYNERGIES) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (1, 45), what is each finger's own (1, 45, 45, blocks of 9) and what fingers share (1, 45, count)."""
    C = torch.cov(x.double().T) + published()
    value, vector = torch.linalg.eigh(C)
    factor = vector[:, -count:] * value[-count:].sqrt()
    apart = torch.kron(torch.eye(len(FINGERS), dtype=C.dtype), torch.ones(9, 9, dtype=C.dtype))
    own = (C - factor @ factor.T) * apart + RIDGE**2 * torch.eye(45, dtype=C.dtype)
    return x.double().mean(0)[None], own[None], factor[None]


def learn(excluded: Sequence[str] = (), seeds: Sequence[int] = range(12), file: Path = FILE) -> Path:
    """Learn from all scripts but the excluded ones; writes the tables and their card, returns the tables' file."""
    if unknown := sorted(set(excluded) - set(ACTIONS)):
        raise ValueError(f"no script {unknown[0]!r}; there are {sorted(ACTIONS)}")
    if set(excluded) >= set(ACTIONS):
        raise ValueError("all scripts are left out: nothing to learn from")
    x = angles(excluded, seeds)
    names = makehuman.load().skeleton.names
    table: dict[str, Tensor] = {}
    for limb in LIMBS:
        own = torch.cat([x[:, joints].flatten(1) for joints in instances(limb, names)])
        if limb == "hand":
            mean, covariance, table["hand_factor"] = synergies(own)
            weight = torch.ones(1, dtype=own.dtype)
        else:
            weight, mean, covariance = mixture(own, COMPONENTS[limb])
        table |= {f"{limb}_weight": weight, f"{limb}_mean": mean, f"{limb}_covariance": covariance}
    part = file.with_name(file.name + ".part")
    part.write_bytes(save({k: v.float().contiguous() for k, v in table.items()}))
    part.replace(file)
    write_text(file.with_suffix(".yaml"), yaml.safe_dump(_card(excluded, seeds, len(x)), sort_keys=False, width=140))
    return file


def _card(excluded: Sequence[str], seeds: Sequence[int], frames: int) -> dict[str, object]:
    return {
        "holds": "poses of arms and legs (mixtures of Gaussians) and hands (synergies), angles in rad from the relaxed pose",
        "made_by": "studio train pose_prior",
        "learned_from": f"scripts of studio/virtual/actions.py: {', '.join(sorted(set(ACTIONS) - set(excluded)))}",
        "frames": frames,
        "seeds": [5000 + s for s in seeds],
        "published": [
            "Rijpkema and Girard, Computer animation of knowledge-based human grasping (1991): DIP = 2/3 PIP",
            "Ingram, Koerding, Howard and Wolpert, The statistics of natural hand movements (2008): neighbouring fingers flex together",
        ],
        "licence": "Apache-2.0, as the scripts",
    }

"""Who a MakeHuman person is: phenotypes to target coefficients, a population of adults, and the linear shape space over it.

The macro targets are corners of a grid over (race, gender, age, muscle, weight, height, proportions); between the corners
MakeHuman interpolates multilinearly (anchors from the asset's own macrodetails/macro.json).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs.skeleton import Skeleton

ANCHORS = {
    "gender": {"female": 0.0, "male": 1.0},
    "age": {"baby": 0.0, "child": 0.1875, "young": 0.5, "old": 1.0},
    "muscle": {"minmuscle": 0.0, "averagemuscle": 0.5, "maxmuscle": 1.0},
    "weight": {"minweight": 0.0, "averageweight": 0.5, "maxweight": 1.0},
    "height": {"minheight": 0.0, "": 0.5, "maxheight": 1.0},
    "proportions": {"uncommonproportions": 0.0, "": 0.5, "idealproportions": 1.0},
}
"""Phenotype values of the grid's corners; no name: no target there."""
STATURE = (-0.367, 0.0, 0.723)
"""What the values 0, 0.5 and 1 of the height axis add to the stature of an average adult, m (measured on the mesh)."""
RACES = ("african", "asian", "caucasian")

SCALES: dict[str, tuple[float, str, tuple[str, ...]]] = {
    "spine": (0.04, "length", ("Spine", "Spine1", "Spine2")),
    "neck": (0.06, "length", ("Neck",)),
    "head": (0.03, "uniform", ("Head", "Jaw", "LeftEye", "RightEye")),
    "shoulder_width": (0.05, "length", ("LeftShoulder", "RightShoulder")),
    "upper_arm": (0.06, "length", ("LeftArm", "RightArm")),
    "forearm": (0.05, "length", ("LeftForeArm", "RightForeArm")),
    "hand": (0.04, "uniform", tuple(n for n in Skeleton.human().names if "Hand" in n)),
    "hip_width": (0.05, "width", ("Hips",)),
    "thigh": (0.05, "length", ("LeftUpLeg", "RightUpLeg")),
    "shin": (0.05, "length", ("LeftLeg", "RightLeg")),
    "foot": (0.04, "forward", ("LeftFoot", "RightFoot", "LeftToeBase", "RightToeBase")),
}
"""Scale components: one unit as a fraction of length, the direction scaled, the joints whose segments it scales.

A unit is a standard deviation among people of one stature: adult segment lengths vary by 5-6 %, about half of it shared with
stature; limbs have more, the arms most, for MakeHuman's are some 6 % short.
"""
_TIP = {"Spine2": "Neck", "Spine": "Spine1", "Spine1": "Spine2", "Neck": "Head"}


def age_value(years: float | np.ndarray) -> float | np.ndarray:
    """MakeHuman's age axis: 0 is 1 year, 0.5 is 25 years, 1 is 90 years, linear between."""
    return np.interp(years, (1.0, 25.0, 90.0), (0.0, 0.5, 1.0))


def average() -> dict[str, np.ndarray]:
    """Phenotypes of one person in the middle of every axis, all races alike, 25 years old."""
    return dict.fromkeys(ANCHORS, np.full(1, 0.5)) | dict.fromkeys(RACES, np.full(1, 1 / 3))


def population(count: int, seed: int) -> dict[str, np.ndarray]:
    """Phenotypes of random adults: mostly clearly male or female, 25 to 80 years, any mixture of the three races.

    Younger adults have the body of 25-year-olds: below that age MakeHuman blends towards a child of ten, 17 cm shorter at
    eighteen. The height axis is drawn so that stature has mean 1.65 m (women), 1.78 m (men) and a spread of 7 cm in each.
    """
    random = np.random.default_rng(seed)
    people = {"gender": random.beta(0.3, 0.3, count), "age": np.asarray(age_value(random.uniform(25, 80, count)))}
    people["height"] = np.interp(random.normal(0.055, 0.07, count), STATURE, (0.0, 0.5, 1.0))
    for name in ("muscle", "weight", "proportions"):
        people[name] = random.normal(0.5, 0.17, count).clip(0, 1)
    return people | dict(zip(RACES, random.dirichlet((1, 1, 1), count).T))


def macro_coefficients(names: Sequence[str], people: Mapping[str, np.ndarray]) -> Float[np.ndarray, "N M"]:
    """How much of each macro target each person has: the product of the memberships of the words in the target's name."""
    member: dict[str, np.ndarray] = {"universal": np.ones_like(people["gender"])} | {race: people[race] for race in RACES}
    for axis, anchors in ANCHORS.items():
        for k, word in enumerate(anchors):
            member[word] = np.interp(people[axis], list(anchors.values()), np.eye(len(anchors))[k])
    return np.stack([np.prod([member[word] for word in name.split("-")], axis=0) for name in names], -1)


def standing(points: Float[Tensor, "... P 3"], soles: Float[Tensor, "V"]) -> Float[Tensor, "... P 3"]:
    """The points (or displacements) lifted so that the weighted mean of the soles has zero height."""
    height = (points[..., : len(soles), 2] * soles).sum(-1)
    return torch.cat([points[..., :2], points[..., 2:] - height[..., None, None]], -1)


def principal_shapes(
    coefficients: Float[np.ndarray, "N M"], targets: Float[Tensor, "M P 3"], count: int, heavy: int = 55, weight: float = 30.0
) -> Float[Tensor, "P 3 count"]:
    """The leading principal displacements of the people `coefficients @ targets`, each for one standard deviation, m.

    The last `heavy` points (joint centres) count as `weight` vertices each. Signs: the largest person's is positive.
    """
    C = torch.from_numpy(coefficients - coefficients.mean(0))
    scale = torch.ones(targets.shape[1], 1)
    scale[-heavy:] = weight**0.5
    X = (targets * scale).flatten(1)
    # The Gram matrix of people has the same leading spectrum as the far larger covariance of coordinates.
    _, left = torch.linalg.eigh(C @ (X @ X.T).double() @ C.T)
    left = left.flip(1)[:, :count]
    left = left * left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    basis = targets.flatten(1).T @ (C.T @ left).float()
    return (basis / len(C) ** 0.5).unflatten(0, (-1, 3))


def scale_basis(points: Float[Tensor, "P 3"], weights: Float[Tensor, "V J"]) -> Float[Tensor, "P 3 G"]:
    """Displacement for one unit of each of `SCALES`, m: segments grow from their joint, everything further out moves along,
    vertices follow by their skinning weights."""
    skeleton = Skeleton.human()
    vertices, joints = points[: len(weights)], points[len(weights) :]
    columns = []
    for spread, kind, names in SCALES.values():
        stretch = torch.zeros(len(skeleton), 3, 3)
        for name in names:
            stretch[skeleton.index(name)] = spread * _direction(skeleton, joints, name, kind)
        moved = torch.zeros_like(joints)
        for j, up in enumerate(skeleton.parents[1:], 1):
            moved[j] = moved[up] + stretch[up] @ (joints[j] - joints[up])
        local = torch.einsum("jab,vjb->vja", stretch, vertices[:, None] - joints)
        columns.append(torch.cat([torch.einsum("vj,vja->va", weights, local + moved), moved]))
    return torch.stack(columns, -1)


def _direction(skeleton: Skeleton, joints: Tensor, name: str, kind: str) -> Float[Tensor, "3 3"]:
    """Projection onto what a scale component stretches of one joint's segment."""
    if kind == "uniform":
        return torch.eye(3)
    if kind == "width":
        return torch.diag(torch.tensor([1.0, 0.0, 0.0]))
    j = skeleton.index(name)
    tip = _TIP.get(name) or next((n for n, up in zip(skeleton.names, skeleton.parents) if up == j), name)
    along = joints[skeleton.index(tip)] - joints[j]
    if kind == "forward":  # level, so that the sole stays flat; the toes take their foot's direction
        side = name.removesuffix("Foot").removesuffix("ToeBase")
        foot, toe = skeleton.index(side + "Foot"), skeleton.index(side + "ToeBase")
        along = (joints[toe] - joints[foot]) * torch.tensor([1.0, 1.0, 0.0])
    along = along / along.norm()
    return along[:, None] * along

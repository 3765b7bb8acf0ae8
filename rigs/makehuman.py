"""The default body: MakeHuman's CC0 person with the studio's 55 joints, baked once into the user's cache.

`load()` is the deformable body with a linear shape space; `individual()` is one exact person of the original, non-linear
space, on the same mesh and skeleton, for use as ground truth.
"""

from __future__ import annotations

from functools import cache as remember
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from rich import print as tell
from torch import Tensor

from rigs import makehuman_assets, makehuman_shape
from rigs.body import Body, Skin
from rigs.keypoints import COCO_WHOLEBODY
from rigs.makehuman_assets import Assets
from rigs.skeleton import Skeleton

SAMPLE = 1200
"""Random adults whose mean is the template and whose principal components span the shape space."""
COMPONENTS = 20
SOLE_DEPTH = 0.006
"""Vertices this near to the lowest one are the soles, m."""

CANDIDATES = 16
"""Random adults drawn for an individual, of whom the first of usual stature is taken."""
LOCAL_SPREAD = 0.2
"""Standard deviation of each local target's strength in random individuals; 1 is the artists' extreme."""

PARTS = {
    "head": ("Neck", "Head", "Jaw", "LeftEye", "RightEye"),
    "torso": ("Hips", "Spine", "Spine1", "Spine2", "LeftShoulder", "RightShoulder"),
    **{f"{side.lower()}_{part}": tuple(side + joint for joint in joints) for side in ("Left", "Right") for part, joints in (
        ("upper_arm", ("Arm",)), ("forearm", ("ForeArm",)),
        ("hand", ("Hand", *(f"Hand{finger}{k}" for finger in ("Thumb", "Index", "Middle", "Ring", "Pinky") for k in (1, 2, 3)))),
        ("thigh", ("UpLeg",)), ("shin", ("Leg",)), ("foot", ("Foot", "ToeBase")),
    )},
}  # fmt: skip
"""Semantic parts and the joints whose vertices they are."""

_LIMBS = {"shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand", "hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "hand_root": "Hand"}
_FINGERS = {"thumb": "Thumb", "forefinger": "Index", "middle_finger": "Middle", "ring_finger": "Ring", "pinky_finger": "Pinky"}
JOINT_OF_KEYPOINT = {
    f"{side}_{name}": side.capitalize() + joint
    for side in ("left", "right")
    for name, joint in (_LIMBS | {f"{f}{k}": f"Hand{finger}{k}" for f, finger in _FINGERS.items() for k in (1, 2, 3)}).items()
}
"""Keypoints that are joint centres; all others lie on the surface, where `presets/makehuman/keypoints.txt` says."""


_CODE = makehuman_assets.digest(__file__, makehuman_assets.__file__, makehuman_shape.__file__, makehuman_assets.preset("keypoints.txt"))


def load(cache: Path | None = None) -> Body:
    """The default body in its mean adult shape; baked on first use (some seconds), then read from the cache."""
    path = makehuman_assets.cache_folder(cache) / f"makehuman-{makehuman_assets.fingerprint(_CODE)}.safetensors"
    if not path.is_file():
        tell("makehuman: baking the default body, once")
        _baked(makehuman_assets.assets(cache)).save(path)
    return Body.load(path)


def individual(
    seed: int | None = None,
    *,
    gender: float | None = None,
    age: float | None = None,
    muscle: float | None = None,
    weight: float | None = None,
    height: float | None = None,
    proportions: float | None = None,
    cache: Path | None = None,
) -> Body:
    """One exact person (no shape coefficients) with the default body's mesh, skeleton, face units and keypoints.

    Phenotypes run from 0 (female, 1 year, least) over 0.5 (between, 25 years, average) to 1 (male, 90 years, most). What is not
    given is average, or with a seed random: an adult of 1.5 to 2.0 m, with local features that the default body's shape
    space does not hold. A value outside 0 to 1 is a `ValueError`.
    """
    chosen = {"gender": gender, "age": age, "muscle": muscle, "weight": weight, "height": height, "proportions": proportions}
    given = {k: v for k, v in chosen.items() if v is not None}
    wrong = {k: v for k, v in given.items() if not 0 <= v <= 1}
    if wrong:
        raise ValueError(f"phenotypes must lie between 0 and 1, but {wrong}")
    assets = makehuman_assets.assets(cache)
    people = makehuman_shape.average() if seed is None else makehuman_shape.population(CANDIDATES, seed)
    people |= {k: np.full_like(people[k], v) for k, v in given.items()}
    features = 0 if seed is None else _local_features(assets, seed)
    points = _first_of_stature(_people(assets, people) + features)
    points = points - torch.cat([torch.zeros(2), points[: len(assets.weights), 2].min()[None]])
    return _body(f"makehuman-individual-{'average' if seed is None else seed}", assets, points, points.new_zeros(*points.shape, 0), ())


def _first_of_stature(people: Float[Tensor, "N P 3"]) -> Float[Tensor, "P 3"]:
    """The first person between 1.5 and 2.0 m; the very first where nobody is."""
    stature = people[..., 2].amax(-1) - people[..., 2].amin(-1)
    return people[int(((stature > 1.5) & (stature < 2.0)).float().argmax())]


def _local_features(assets: Assets, seed: int) -> Float[Tensor, "P 3"]:
    """A random mixture of the local targets, each between its minus (-1) and its plus (1) end."""
    strength = np.random.default_rng([seed, 1]).normal(0, LOCAL_SPREAD, len(assets.local)).clip(-1, 1)
    ends = torch.from_numpy(np.stack([-strength.clip(max=0), strength.clip(min=0)], -1)).float()
    return torch.einsum("le,lepc->pc", ends, assets.local)


def _baked(assets: Assets) -> Body:
    soles = _soles(assets)
    targets = makehuman_shape.standing(assets.macro, soles)
    coefficients = makehuman_shape.macro_coefficients(assets.macro_names, makehuman_shape.population(SAMPLE, seed=0))
    basis = makehuman_shape.principal_shapes(coefficients, targets, COMPONENTS)
    mean = assets.rest + torch.einsum("m,mpc->pc", torch.from_numpy(coefficients.mean(0)).float(), targets)
    mean = mean - torch.cat([torch.zeros(2), mean[: len(soles), 2].min()[None]])
    scales = makehuman_shape.scale_basis(mean, assets.weights)
    scales = makehuman_shape.standing(scales.movedim(-1, 0), soles).movedim(0, -1)
    names = (*(f"shape_{k:02d}" for k in range(COMPONENTS)), *(f"scale_{name}" for name in makehuman_shape.SCALES))
    return _body("makehuman", assets, mean, torch.cat([basis, scales], -1), names)


def _people(assets: Assets, people: dict[str, np.ndarray]) -> Float[Tensor, "N P 3"]:
    coefficients = torch.from_numpy(makehuman_shape.macro_coefficients(assets.macro_names, people)).float()
    return assets.rest + (coefficients @ assets.macro.flatten(1)).unflatten(1, (-1, 3))


def _soles(assets: Assets) -> Float[Tensor, "V"]:
    """Equal weights, summing to one, on the vertices an average adult stands on."""
    height = _people(assets, makehuman_shape.average())[0, : len(assets.weights), 2]
    low = (height < height.min() + SOLE_DEPTH).float()
    return low / low.sum()


def _body(name: str, assets: Assets, points: Float[Tensor, "P 3"], basis: Float[Tensor, "P 3 S"], shape_names: tuple[str, ...]) -> Body:
    """The body whose vertices and joint centres are `points` and move by `basis`."""
    count = len(assets.weights)
    skin = Skin(points[:count], basis[:count], assets.face.permute(1, 2, 0).contiguous(), assets.weights)
    joints, joint_basis = points[count:], basis[count:]
    return Body(
        name=name,
        skeleton=Skeleton.human(),
        joints=joints,
        joint_shape_basis=joint_basis,
        skin=skin,
        triangles=assets.triangles,
        shape_names=shape_names,
        expression_names=assets.face_names,
        keypoint_names=tuple(n for n in COCO_WHOLEBODY if n in JOINT_OF_KEYPOINT or n in _surface_places()),
        keypoints=_keypoints(skin, joints, joint_basis, assets.base_index),
        uv=assets.uv,
        parts=parts(assets.weights),
        part_names=tuple(PARTS),
    )


def parts(weights: Float[Tensor, "V J"]) -> Int[Tensor, "V"]:
    """The part (index into `PARTS`) that moves each vertex most."""
    names = Skeleton.human().names
    owner = torch.stack([weights[:, [names.index(n) for n in joints]].sum(1) for joints in PARTS.values()], -1)
    return owner.argmax(-1)


def _keypoints(skin: Skin, joints: Float[Tensor, "J 3"], joint_basis: Float[Tensor, "J 3 S"], base_index: Int[Tensor, "V"]) -> Skin:
    skeleton, places = Skeleton.human(), _surface_places()
    unmoved, one = torch.zeros(1, *skin.expression_basis.shape[1:]), torch.eye(len(skeleton))[:, None]
    number = {int(b): i for i, b in enumerate(base_index)}
    found: list[Skin] = []
    for name in COCO_WHOLEBODY:
        if name in JOINT_OF_KEYPOINT:
            j = skeleton.index(JOINT_OF_KEYPOINT[name])
            found.append(Skin(joints[j : j + 1], joint_basis[j : j + 1], unmoved, one[j]))
        elif name in places:
            vertices, mix = zip(*places[name])
            point = skin[[number[v] for v in vertices]].combined(torch.tensor([mix]))
            if name.endswith("_eye"):  # lies on the eyeball, but does not roll with the gaze
                point = Skin(point.rest, point.shape_basis, unmoved, one[skeleton.index("Head")])
            found.append(point)
    return Skin.stacked(found)


@remember
def _surface_places() -> dict[str, list[tuple[int, float]]]:
    """For each keypoint on the surface its base.obj vertices with barycentric weights."""
    places = {}
    for line in makehuman_assets.preset("keypoints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, *pairs = line.split()
            corners = [(int(v), float(w)) for v, w in (pair.split(":") for pair in pairs)]
            total = sum(w for _, w in corners)
            places[name] = [(v, w / total) for v, w in corners]
    return places

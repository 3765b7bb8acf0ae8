"""Several stick figures who cross, hug, leave and return, and what a network might see of them: exact pinhole projections with noise,
wild and missing keypoints, bodies that hide each other, detections in random order, people who are not there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from test_track import NAMES, person, ring

from calibration.cameras import Cameras
from rigs.keypoints import mirrored
from studio.values import Keypoints2D

LIMBS = [k for k, n in enumerate(NAMES) if n.endswith(("shoulder", "elbow", "wrist", "hip", "knee", "ankle"))]
WIDE = 0.2
"""Radius of the upright pillar that a body is for those behind it, m."""

WALL = 2.8
"""Where the mirror hangs, x in m; cameras stand on this side of it."""


@dataclass(frozen=True)
class Crowd:
    """Who is where, and what is seen of it."""

    cameras: Cameras
    truth: np.ndarray
    """(P, T, K, 3) m; NaN where a person is away."""
    keypoints: Keypoints2D
    slot: np.ndarray
    """(C, T, P): the detection that shows each person; -1 for none."""


def wander(count: int, frames: int, kind: str, seed: int) -> np.ndarray:
    """Ways (P, T, 2) m: `apart` each about his place; `cross` to the opposite place; `hug` in pairs to 0.4 m; `leave`: as apart."""
    random, u = np.random.default_rng([seed, 7]), np.linspace(0, 1, frames)
    radius = max(1.0, 0.55 * count / np.pi)
    angle = 2 * np.pi * (np.arange(count) + random.uniform(-0.15, 0.15, count)) / count
    place = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    ways = np.repeat(place[:, None], frames, 1)
    ease = lambda x: np.clip(x, 0, 1) ** 2 * (3 - 2 * np.clip(x, 0, 1))  # noqa: E731
    if kind == "cross":
        aside = np.stack([-place[:, 1], place[:, 0]], -1) / radius * max(0.25, 0.12 * count)
        when = ease((u[None] - random.uniform(0, 0.2, (count, 1))) / 0.75)
        ways = ways - 2 * place[:, None] * when[..., None] + aside[:, None] * np.sin(np.pi * when)[..., None] ** 2
    if kind == "hug":
        near = ease((u - 0.1) / 0.3) * ease((0.9 - u) / 0.3)
        for a in range(0, count - 1, 2):
            middle, apart = (place[a] + place[a + 1]) / 2, place[a] - place[a + 1]
            apart = apart / np.linalg.norm(apart) * 0.2
            ways[a] += (middle + apart - place[a]) * near[:, None]
            ways[a + 1] += (middle - apart - place[a + 1]) * near[:, None]
    sway = sum(
        0.05 * np.sin(2 * np.pi * (random.uniform(0.2, 0.6, (count, 1)) * frames / 30 * u + random.random((count, 1)))) for _ in "ab"
    )
    return ways + np.stack([sway, -sway], -1)


def crowd(
    count: int,
    cameras: int,
    kind: str = "apart",
    frames: int = 90,
    seed: int = 0,
    noise: float = 3.0,
    wild: float = 0.03,
    missing: float = 0.1,
    away: tuple[int, int] | None = None,
    poster: bool = False,
    mirror: bool = False,
    looks: bool = False,
    spare: int = 1,
) -> Crowd:
    """`count` people before a ring of cameras. The first is `away` in those frames and comes back elsewhere."""
    rig = ring(cameras, 5.0 + 0.25 * count)
    ways = wander(count, frames, kind, seed)
    if away:
        ways[0, away[1] :] = -ways[0, away[1] :]
    sizes = 1.55 + 0.3 * (np.arange(count) * 0.618 % 1)
    truth = np.stack([person(frames, 100 * seed + p, path=ways[p], height=sizes[p]) for p in range(count)])
    if away:
        truth[0, away[0] : away[1]] = np.nan
    phantoms = []
    if poster:
        still = person(2, 7000 + seed, path=np.full((2, 2), 2.2), height=1.6)[:1]
        phantoms.append(np.repeat(still, frames, 0))
    if mirror:
        rig = rig[(rig.position[:, 0] < WALL).nonzero()[:, 0].tolist()]
        image = truth[-1] * [-1, 1, 1] + [2 * WALL, 0, 0]
        phantoms.append(image[:, list(mirrored(NAMES))])
    everyone = np.concatenate([truth, *(p[None] for p in phantoms)])
    return _seen(rig, truth, everyone, seed, noise, wild, missing, looks, spare)


def _seen(
    rig: Cameras, truth: np.ndarray, everyone: np.ndarray, seed: int, noise: float, wild: float, missing: float, looks, spare
) -> Crowd:
    random = np.random.default_rng([seed, 11])
    pixels, hidden = _projected(rig, everyone)
    C, T, P, K = hidden.shape
    pixels = pixels + noise * random.normal(size=pixels.shape)
    pixels += 60 * random.normal(size=pixels.shape) * (random.random((C, T, P, K, 1)) < wild)
    lost = hidden | (random.random((C, T, P, K)) < missing)
    gone = (hidden.mean(-1) > 0.6) | np.isnan(pixels[..., 0]).all(-1) | (random.random((C, T, P)) < 0.02)
    pixels[lost | gone[..., None]] = np.nan
    D = P + spare
    order = np.argsort(random.random((C, T, D)), 2)[..., :P]  # the slot of each person
    out, look = np.full((C, T, D, K, 2), np.nan), np.full((C, T, D, 16), np.nan)
    c, t = np.indices((C, T))
    shades = np.random.default_rng([seed, 13]).dirichlet(np.full(16, 0.4), P)
    for p in range(P):
        out[c, t, order[..., p]] = pixels[:, :, p]
        seen = np.abs(shades[p] + 0.03 * random.normal(size=(C, T, 16)))
        look[c, t, order[..., p]] = np.where(gone[:, :, p, None], np.nan, seen / seen.sum(-1, keepdims=True))
    flat = torch.ones(C, T, D, K)
    known = {"look": torch.from_numpy(look).float()} if looks else {}
    keypoints = Keypoints2D(rig.names, NAMES, "exact", 30.0, 0, torch.from_numpy(out).float(), noise * flat, 0.9 * flat, **known)
    return Crowd(rig, truth, keypoints, np.where(gone, -1, order)[:, :, : len(truth)])


def _projected(rig: Cameras, everyone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (C, T, P, K, 2), and what somebody in front hides."""
    R, shift, focal, centre = (x.numpy() for x in (rig.R_camera_world, rig.translation, rig.focal, rig.centre))
    p = np.einsum("cij,ptkj->ctpki", R, everyone) + shift[:, None, None, None]
    pixels = p[..., :2] / p[..., 2:] * focal[:, None, None, None] + centre[:, None, None, None]
    trunk = everyone.mean(2)[..., :2]  # (P, T, 2)
    start, ends = rig.position.numpy()[:, None, None, None, :2], everyone.transpose(1, 0, 2, 3)[None, ..., :2]
    way = ends - start
    hidden = np.zeros(pixels.shape[:-1], bool)
    for other in range(len(everyone)):
        offset = trunk[other][None, :, None, None] - start
        part = (offset * way).sum(-1) / (way**2).sum(-1)
        off = np.linalg.norm(offset - part[..., None] * way, axis=-1)
        blocks = (part > 0) & (part < 1) & (off < WIDE)
        blocks[:, :, other] = False
        hidden |= blocks
    return pixels, hidden


def outcome(crowd: Crowd, points: np.ndarray, limbs: list[int] = LIMBS) -> dict[str, float]:
    """Of tracked points (T, A, K, 3): identity switches, phantoms (actors who are nobody), people lost, error of limbs, share found."""
    A = points.shape[1]
    with np.errstate(all="ignore"):
        gap = np.linalg.norm(points[:, None] - crowd.truth.transpose(1, 0, 2, 3)[:, :, None], axis=-1)[..., limbs]
        known = np.isfinite(gap).sum(-1) >= 3
        far = np.where(known, np.ma.median(np.ma.masked_invalid(gap), axis=-1).filled(np.inf), np.inf)  # (T, P, A)
    who = np.where(far.min(1) < 0.3, far.argmin(1), -1)
    there = np.isfinite(points[..., 0]).max(-1)
    switches, phantoms, owners, errors, found = 0, 0, [], [], 0
    for a in range(A):
        mine = who[:, a][there[:, a] & (who[:, a] >= 0)]
        if len(mine) < 0.5 * there[:, a].sum() or not len(mine):
            phantoms += 1
            continue
        switches += int((np.diff(mine) != 0).sum())
        owner = int(np.bincount(mine).argmax())
        owners.append(owner)
        own = gap[:, owner, a]
        errors.append(own[np.isfinite(own)])
        found += int((who[:, a] == owner).sum())
    present = np.isfinite(crowd.truth[..., 0]).any(-1).sum()
    return {
        "switches": switches,
        "phantoms": phantoms,
        "lost": len(crowd.truth) - len(set(owners)),
        "error_mm": float(1000 * np.concatenate([np.zeros(0), *errors]).mean()) if errors else float("nan"),
        "found": found / present,
    }


def alone(crowd: Crowd, p: int) -> Crowd:
    """The same person before the same cameras with nobody else there: what the others cost is the difference."""
    return _seen(crowd.cameras, crowd.truth[p : p + 1], crowd.truth[p : p + 1], 1, 3.0, 0.03, 0.1, False, 1)

"""Shots to adapt to: a few dozen consecutive frames of a person whom nobody trained on, drawn in clothes and light, and estimates.

Masks are of the drawn person with errors at the edges; flow is OpenCV's (DIS) on the drawn frames, kept where it agrees with that of the
way back; keypoints are exact ones with the errors of a detector: each sits off on every person, jitters, is now and then grossly
wrong or missing for some frames. Nothing of the truth gets into a `Shot` but the place of the hips to a few centimetres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from calibration.cameras import Cameras, joined, single
from studio.fit.shot import Shot
from studio.nets.shape import KEYPOINTS
from studio.train import performers
from studio.train.crops import Eye, Light, Surface, backdrop, cropped, pictured, placed
from studio.train.performers import other_person, topology
from studio.train.poses import HELD_OUT, clips
from studio.train.wardrobe import SEEDS, wardrobe

SIZE = 256
"""Pixels across a drawn frame; the person fills most of it."""
FPS = 30.0
BIAS, JITTER, GROSS = 0.012, 0.008, 0.15
"""How far keypoints are off, m: constant for a person, new in each frame, of gross errors."""
WRONG, MISSING = 0.06, 0.05
"""Share of keypoints with gross errors, and of those not found."""
AGREE = 1.0
"""How far there and back may differ where flow is believed, px."""
Array = np.ndarray


@dataclass(frozen=True)
class Filmed:
    """A shot with its truth."""

    shot: Shot
    points: Float[Tensor, "T K 3"]
    """Of `KEYPOINTS`, world, m."""
    frames: UInt8[np.ndarray, "C T S S 3"]
    flow_error: float
    """Median length of the flow's error on the skin, px."""


def filmed(seed: int, frames: int = 45, cameras: int = 1) -> Filmed:
    """A person of the other generator in one of the held-out actions; the same seed gives the same shot."""
    rng = np.random.default_rng([SEEDS["test"], seed, 57])
    person = other_person(SEEDS["test"] + 7000 + seed)
    clip = clips(person.body, rng, HELD_OUT, 1, frames, fps=FPS)
    posed = person.posed(clip.rotation[0], clip.translation[0])
    points = person.keypoints(posed)[:, [performers.KEYPOINTS.index(n) for n in KEYPOINTS]]
    bank, light = wardrobe("test"), Light.random(rng)
    outfit = int(rng.integers(len(bank.textures)))
    thick = person.loose + bank.thickness[outfit].numpy()
    skins = [
        Surface.dressed(topology(), s, thick, bank.textures[outfit].numpy(), np.ones(3, np.float32)) for s in person.points(posed).numpy()
    ]
    start, around = rng.uniform(0, 2 * np.pi), np.concatenate([s.vertices[::40] for s in skins])
    eyes, seen = [], []
    for c in range(cameras):
        eye = cropped(
            placed(rng, start + 2 * np.pi * c / cameras + rng.uniform(-0.3, 0.3), rng.uniform(3.3, 3.9), SIZE), around, 1.12, np.zeros(2)
        )
        eyes.append(eye)
        seen.append(_seen(rng, skins, light, eye, backdrop(rng, SIZE, bank)))
    flow = torch.from_numpy(np.stack([s.flow for s in seen]))
    shot = Shot(
        joined([_camera(f"cam{c + 1}", eye) for c, eye in enumerate(eyes)]),
        detected(rng, eyes, points),
        (posed.joints[:, 0] + torch.from_numpy(0.025 * rng.standard_normal(3)).float()),
        tuple(torch.from_numpy(s.masks) for s in seen),
        flow,
    )
    return Filmed(shot, points, np.stack([s.frames for s in seen]), float(np.median(np.concatenate([s.error for s in seen]))))


@dataclass(frozen=True)
class _Seen:
    """By one eye."""

    frames: UInt8[np.ndarray, "T S S 3"]
    masks: Bool[np.ndarray, "T S S"]
    flow: Float[np.ndarray, "T S S 2"]
    error: Float[np.ndarray, "N"]


def _seen(rng: np.random.Generator, skins: list[Surface], light: Light, eye: Eye, behind: Array) -> _Seen:
    frames, masks, flow, error = [], [], [], []
    before = None
    for t, surface in enumerate(skins):
        image, hits = pictured(surface, light, eye, behind)
        frames.append((np.sqrt(image.clip(0, 1)) * 255 + 3 * rng.standard_normal(image.shape)).clip(0, 255).astype(np.uint8))
        solid = hits.person >= 0
        masks.append(_rough(rng, solid))
        flow.append(np.full((SIZE, SIZE, 2), np.nan, np.float32) if t == 0 else flowed(frames[-2], frames[-1]))
        if before is not None:
            known = before.person >= 0
            there = [eye.project(surface.at(s.vertices, before, known).astype(np.float64))[0] for s in (skins[t - 1], surface)]
            off = np.linalg.norm(flow[-1][known] - (there[1] - there[0]), axis=1)
            error.append(off[np.isfinite(off)])
        before = hits
    return _Seen(np.stack(frames), np.stack(masks), np.stack(flow), np.concatenate(error) if error else np.zeros(0))


def flowed(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 2"]:
    """Motion of the first image's pixels to the second, px, by inverse search (Kroeger et al. 2016); NaN where the way back disagrees."""
    gray = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (before, after)]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = search.calc(gray[0], gray[1], None), search.calc(gray[1], gray[0], None)  # type: ignore[call-overload]
    y, x = np.mgrid[: there.shape[0], : there.shape[1]].astype(np.float32)
    returned = cv2.remap(back, x + there[..., 0], y + there[..., 1], cv2.INTER_LINEAR, borderValue=(np.nan, np.nan))
    return np.where(np.linalg.norm(there + returned, axis=-1, keepdims=True) < AGREE, there, np.nan).astype(np.float32)


def _rough(rng: np.random.Generator, solid: Bool[np.ndarray, "S S"]) -> Bool[np.ndarray, "S S"]:
    """A mask as a detector would give it: edges some pixels in or out, wavy; now and then a piece is missing."""
    wavy = cv2.GaussianBlur(rng.standard_normal(solid.shape).astype(np.float32), (0, 0), 6) * 15
    out = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 2.5) > 0.5 + 0.12 * wavy.clip(-2, 2)
    if rng.uniform() < 0.1:
        x, y = (int(v) for v in rng.integers(0, SIZE, 2))
        out[y : y + SIZE // 7, x : x + SIZE // 7] = False
    return out


def _camera(name: str, eye: Eye) -> Cameras:
    of = lambda x: torch.as_tensor(np.asarray(x), dtype=torch.float64)  # noqa: E731
    side = [float(eye.size)] * 2
    return single(
        name, of(side), of([eye.focal] * 2), of(eye.centre), torch.zeros(8).double(), "brown", of(eye.R_camera_world), of(eye.position)
    )


def detected(rng: np.random.Generator, eyes: list[Eye], points: Float[Tensor, "T K 3"]) -> Float[Tensor, "C T K 2"]:
    """Pixels as a detector would give them; NaN where it found nothing."""
    T, K = points.shape[:2]
    off = points.double().numpy() + BIAS * rng.standard_normal((K, 3))
    out = []
    for eye in eyes:
        pixels, depth = eye.project(off)
        metre = eye.focal / depth[..., None]
        wrong = _runs(rng, T, K, WRONG)[..., None]
        gross = np.repeat(rng.standard_normal((-(-T // 3), K, 2)), 3, 0)[:T] * GROSS
        pixels = pixels + metre * np.where(wrong, gross, JITTER * rng.standard_normal((T, K, 2)))
        out.append(np.where(_runs(rng, T, K, MISSING)[..., None], np.nan, pixels))
    return torch.from_numpy(np.stack(out))


def _runs(rng: np.random.Generator, T: int, K: int, share: float, length: int = 3) -> Bool[np.ndarray, "T K"]:
    """So large a share of all, in runs of frames."""
    return np.repeat(rng.uniform(size=(-(-T // length), K)) < share, length, 0)[:T]


def corrupted(shot: Shot, seed: int, share: float = 0.3) -> Shot:
    """The shot with so many of its keypoints 0.2 to 0.5 m off, each for a third of a second: what nothing can be learned from."""
    rng = np.random.default_rng([seed, 77])
    C, T, K = shot.pixels.shape[:3]
    metre = (shot.cameras.focal.mean(1)[:, None] / shot.cameras.to_camera(shot.middle.double())[..., 2])[..., None, None]
    moved = np.zeros((C, T, K, 2))
    for c in range(C):
        turn, far = rng.uniform(0, 2 * np.pi, (T // 10 + 1, K)), rng.uniform(0.2, 0.5, (T // 10 + 1, K))
        way = np.repeat(np.stack([np.cos(turn), np.sin(turn)], -1) * far[..., None], 10, 0)[:T]
        moved[c] = way * _runs(rng, T, K, share, 10)[..., None]
    return replace(shot, pixels=shot.pixels + metre * torch.from_numpy(moved))


def occluded(shot: Shot, seed: int) -> Shot:
    """The shot with half of the keypoints hidden, another half in each third of it: the lower, left, upper or right of the body."""
    rng = np.random.default_rng([seed, 79])
    C, T, _ = shot.pixels.shape[:3]
    low = torch.tensor([any(p in n for p in ("hip", "knee", "ankle", "toe", "heel")) for n in KEYPOINTS])
    left = torch.tensor([n.startswith("left") for n in KEYPOINTS])
    halves = torch.stack([low, ~low, left, ~left])[torch.from_numpy(rng.permutation(4))]
    hidden = halves[torch.arange(T) * 3 // T].expand(C, -1, -1)
    return replace(shot, pixels=shot.pixels.masked_fill(hidden[..., None], torch.nan))

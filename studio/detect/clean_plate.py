"""The empty stage, learned from a clip of it, and masks of people that follow what stands out from it.

Colours of the stage are Gaussian about the clip's; a shadow dims them and keeps their hue (Horprasert, Harwood and Davis 1999), and each
frame's exposure is measured where nobody is. A person's colours are those that the network's mask holds nearby. The network still says
who is there and roughly where: its outline may be moved by so much and no more, so furniture that was moved is nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from studio.take import Take
from studio.video import frames, probe

Array = np.ndarray
SAMPLES = 31
"""Frames of the clip, spread over it, that are looked at."""
LEAST = 3
"""Fewer are no clip."""
NOISE = 2.0
"""Standard deviation that codecs and small movements of the camera add to the clip's own, grey levels of 255."""
TEXTURE = 0.05
"""The same for strong edges, as a part of their contrast to the next cells."""
SHADOW = 0.45
"""The deepest shadow, as a part of the full light."""
CLOTHES = 18.0
"""Standard deviation of a person's colours about those nearby, grey levels."""
REACH = 0.05
"""An outline may be moved by this part of a person's height in the mask."""
SURE = 6.0
"""Log odds beyond which colours say no more."""
DISTINCT = 25.0
"""A person whose colours are so far from the stage's, grey levels, is told from it within a cell."""
ALIKE = 3.0
"""The same for the stage, whose colours clothes may have."""
EXPOSURE = (0.5, 2.0)


@dataclass(frozen=True)
class Plate:
    """The stage without people, at the resolution of the masks, grey levels of 255."""

    mean: Float[Array, "h w 3"]
    deviation: Float[Array, "h w 3"]

    @classmethod
    def learned(cls, clip: Path, shape: tuple[int, int]) -> Plate:
        """Medians of a clip's frames at (height, width), so that somebody who walks through it leaves no trace.

        At most `SAMPLES` small images are held. `ValueError` where the clip has too few frames.
        """
        count = probe(clip).frames
        if count < LEAST:
            raise ValueError(f"{clip}: holds {count} frames; film the empty stage for a second or more, or take this file away")
        wanted = set(np.linspace(0, count - 1, min(count, SAMPLES)).round().astype(int).tolist())
        kept = np.stack([reduced(image, shape) for number, image in frames(clip) if number in wanted])
        middle = np.median(kept, 0)
        spread = 1.48 * np.median(np.abs(kept - middle), 0)
        contrast = cv2.morphologyEx(middle, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        return cls(middle, np.sqrt(spread**2 + NOISE**2 + (TEXTURE * contrast) ** 2).astype(np.float32))

    def refined(self, labels: UInt8[Array, "h w"], image: UInt8[Array, "H W 3"]) -> UInt8[Array, "h w"]:
        """The labels (0 nobody, else whose) of an image with outlines where colours leave the stage's."""
        present = [int(n) for n in np.unique(labels) if n]
        if not present:
            return labels
        inside = np.stack([_depth(labels == n) for n in present])
        whose, depth = np.array(present, np.uint8)[inside.argmax(0)], inside.max(0)
        odds = self.odds(reduced(image, labels.shape), labels > 0)
        return np.where(cv2.GaussianBlur(odds, (0, 0), 0.8) + SURE * depth > 0, whose, 0).astype(np.uint8)

    def odds(self, seen: Float[Array, "h w 3"], people: Bool[Array, "h w"]) -> Float[Array, "h w"]:
        """Log odds that a cell shows a person rather than the stage or a shadow on it, at most `SURE`; `people` is a first guess."""
        apart = cv2.dilate(people.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
        stage = self.mean * exposure(seen, self.mean, apart)
        sigma = self.deviation
        flat, light = seen / sigma, stage / sigma
        dim = ((flat * light).sum(-1) / np.maximum((light**2).sum(-1), 1e-6)).clip(SHADOW, 1.0)[..., None]
        lit, shaded = (-0.5 * ((flat - s * light) ** 2).sum(-1) for s in (1.0, dim))
        normal = -np.log(sigma).sum(-1) - 1.5 * np.log(2 * np.pi)
        empty = np.logaddexp(lit, shaded - 2.0) + normal
        odds = (_clothes(seen, people) - empty).clip(-SURE, SURE).astype(np.float32)
        return _halved(odds, seen, stage * dim).clip(-ALIKE, SURE)


def clip_of(take: Take, camera: str) -> Path | None:
    """The clip `background/<camera>.*` of the empty stage in the take's folder, or else in its session's; None where there is none.

    `ValueError` where its pictures have another shape than the camera's video.
    """
    session = take.folder.resolve().parent.parent
    places = [take.folder, *([session] if (session / "session.yaml").is_file() else [])]
    clip = next((f for place in places for f in sorted((place / "background").glob("*")) if f.stem == camera and f.is_file()), None)
    if clip is None:
        return None
    here, there = probe(clip), take.probes[camera]
    if here.width * there.height != here.height * there.width:
        raise ValueError(
            f"{clip}: its pictures are {here.width}x{here.height}, those of {take.videos[camera]} {there.width}x{there.height}; "
            "film the empty stage with the camera as it stands and is set for the take, or take this file away"
        )
    return clip


def reduced(image: UInt8[Array, "H W 3"], shape: tuple[int, ...]) -> Float[Array, "h w 3"]:
    """The image at (height, width), each cell the mean of its pixels."""
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA).astype(np.float32)


def exposure(seen: Float[Array, "h w 3"], stage: Float[Array, "h w 3"], where: Bool[Array, "h w"]) -> Float[Array, "3"]:
    """How much brighter than the clip each colour is, by the median of the cells that show the stage; 1 where too few do."""
    where = where & (stage.min(-1) > 16) & (stage.max(-1) < 240)
    if where.sum() < 64:
        return np.ones(3, np.float32)
    return np.median(seen[where] / stage[where], axis=0).clip(*EXPOSURE).astype(np.float32)


def _clothes(seen: Float[Array, "h w 3"], people: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    """Log likelihood of the colours as a person's: like those well within the mask nearby, or any colour at all."""
    core = cv2.erode(people.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    reach = max(3, round(0.06 * people.any(1).sum())) | 1
    weight = cv2.blur(core, (reach, reach))
    near = cv2.blur(seen * core[..., None], (reach, reach)) / np.maximum(weight, 1e-3)[..., None]
    alike = -0.5 * ((seen - near) ** 2).sum(-1) / CLOTHES**2 - 3 * np.log(CLOTHES) - 1.5 * np.log(2 * np.pi)
    anything = -3 * np.log(256.0)
    return np.where(weight > 0.02, np.logaddexp(alike, anything) - np.log(2), anything)


def _halved(odds: Float[Array, "h w"], seen: Float[Array, "h w 3"], stage: Float[Array, "h w 3"]) -> Float[Array, "h w"]:
    """The odds with those of cells on the rim, which show both, by how much of them the person fills: its colours lie between."""
    fore = (odds > 0).astype(np.uint8)
    core = cv2.erode(fore, np.ones((3, 3), np.uint8))
    weight = cv2.blur(core.astype(np.float32), (5, 5))
    person = cv2.blur(seen * core[..., None], (5, 5)) / np.maximum(weight, 1e-3)[..., None]
    way = person - stage
    share = ((seen - stage) * way).sum(-1) / np.maximum((way**2).sum(-1), 1.0)
    rim = (fore > core) & (weight > 0.05) & (np.linalg.norm(way, axis=-1) > DISTINCT)
    return np.where(rim, SURE * (2 * share - 1).clip(-1, 1), odds).astype(np.float32)


def _depth(mask: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    """How far within its outline a cell lies, in units of `REACH`; negative outside."""
    m = mask.astype(np.uint8)
    far = cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_5) - cv2.distanceTransform(1 - m, cv2.DIST_L2, cv2.DIST_MASK_5)
    rows = np.flatnonzero(mask.any(1))
    return (far - 0.5 * np.sign(far)) / max(REACH * (rows[-1] + 1 - rows[0]), 1.0)

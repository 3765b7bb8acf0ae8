"""Bodies and feet by the studio's own hourglass (`studio.nets.hourglass`), learned from synthetic people alone.

People are found and followed by the wheel's small pose network, which also tells their 3D guess and mask; hands and faces are its
neighbours' too. Body and feet are the hourglass's, on an upright square around each person.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from rigs.keypoints import COCO_WHOLEBODY
from studio.detect.landmarks import BODY, Sight
from studio.detect.mediapipe import Mediapipe, Person, Pyramid
from studio.detect.regions import sampled
from studio.nets.checkpoint import find, read_card
from studio.nets.hourglass import Eye

Array = np.ndarray
NAME = "hourglass"
PADDING = 1.4
"""Side of the square over that of the pose network's landmarks: these end at the eyes, and the network learned to see a rim."""
LOST = 0.12
"""Standard deviation from which on a keypoint counts as not seen, share of the person's size."""
SURE = 0.03
"""Standard deviation at which confidence is a half, likewise."""


def is_own(detector: str) -> bool:
    """Whether a `--detector` means this one: by its name, or by the file of a checkpoint that was trained for it."""
    return detector == NAME or Path(detector).suffix == ".safetensors"


def files_of(detector: str) -> list[Path]:
    """The checkpoint and its card; errors name what is missing, or a checkpoint of another network."""
    path = find(detector)
    card = read_card(path)
    if card.network != NAME or not set(card.keypoints) >= set(COCO_WHOLEBODY[:17]):
        raise ValueError(f"{path}: is a checkpoint of {card.network!r} for {len(card.keypoints)} keypoints; name a hourglass of bodies")
    return [path, path.with_suffix(".yaml")]


def square(points: Float[Array, "K 2"], size: int) -> tuple[Float[Array, "2 3"], float]:
    """From px of a crop of `size` px around a person's points to px of the image, and the side of the points' box, px."""
    low, high = points.min(0), points.max(0)
    extent = max(float((high - low).max()), 4.0)
    step = PADDING * extent / size
    first = (low + high) / 2 - step * (size - 1) / 2
    return np.concatenate([np.eye(2) * step, first[:, None]], 1), extent


class Own(Mediapipe):
    """Follows people like `Mediapipe`; their body and feet are the hourglass's."""

    def __init__(self, weights: str = NAME, **settings: Any) -> None:
        """`weights` names a checkpoint or its file; `settings` are those of `Mediapipe`."""
        super().__init__(**settings)
        self._eye = Eye(files_of(weights)[0])
        self._which = [COCO_WHOLEBODY.index(n) for n in self._eye.card.keypoints]

    def _whole(self, pyramid: Pyramid, person: Person) -> Sight:
        sight, body = super()._whole(pyramid, person), person.body
        height, width = pyramid[0].shape[:2]
        matrix, extent = square(body.points, self._eye.size)
        crop = sampled(pyramid, matrix, (self._eye.size, self._eye.size))
        seen = self._eye.see(torch.from_numpy((crop + 0.5).clip(0, 255).astype(np.uint8))[None])
        step = matrix[0, 0]
        points = seen.points[0].numpy() * step + matrix[:, 2]
        spread = step * torch.sqrt(seen.covariance[0].diagonal(dim1=-2, dim2=-1).mean(-1)).numpy() / extent
        inside = ((points >= -0.5) & (points < (width - 0.5, height - 0.5))).all(1) & (spread < LOST)
        pixels, sigma, confidence, skeleton = (v.copy() for v in (sight.pixels, sight.sigma, sight.confidence, sight.skeleton))
        which = self._which
        pixels[which] = np.where(inside[:, None], points, np.nan)
        sigma[which] = np.where(inside, spread * extent, np.nan)
        confidence[which] = np.where(inside, 1 / (1 + (spread / SURE) ** 2), 0)
        for k in which:
            if COCO_WHOLEBODY[k] in BODY:
                skeleton[k] = body.world[BODY[COCO_WHOLEBODY[k]]]
        return replace(sight, pixels=pixels, sigma=sigma, confidence=confidence, skeleton=skeleton)

"""From MediaPipe's landmarks to COCO-WholeBody's, with a standard deviation for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from rigs.keypoints import COCO_WHOLEBODY, GROUPS

Array = np.ndarray
SIDES = ("left", "right")
COUNT = len(COCO_WHOLEBODY)

BODY = {
    "nose": 0, "left_eye": 2, "right_eye": 5, "left_ear": 7, "right_ear": 8, "left_shoulder": 11, "right_shoulder": 12,
    "left_elbow": 13, "right_elbow": 14, "left_wrist": 15, "right_wrist": 16, "left_hip": 23, "right_hip": 24, "left_knee": 25,
    "right_knee": 26, "left_ankle": 27, "right_ankle": 28, "left_heel": 29, "right_heel": 30, "left_big_toe": 31, "right_big_toe": 32,
}  # fmt: skip
"""Keypoint -> index among the 33 pose landmarks (the person's own left and right)."""
COARSE_HAND = {
    "left": {"left_hand_root": 15, "left_pinky_finger1": 17, "left_forefinger1": 19, "left_thumb3": 21},
    "right": {"right_hand_root": 16, "right_pinky_finger1": 18, "right_forefinger1": 20, "right_thumb3": 22},
}
"""Hand keypoint -> pose landmark that stands in for it."""
FACE_MESH = (
    127, 234, 132, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 361, 454, 356,  # jaw, from the person's right ear
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 98, 97, 2, 326, 327,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91,  # lips, outside
    78, 81, 13, 311, 308, 402, 14, 178,  # lips, inside
)  # fmt: skip
"""For each of iBUG's 68 face points the vertex of MediaPipe's face mesh."""


def _table(named: dict[str, int]) -> tuple[Array, Array]:
    """Keypoints and the landmarks that are theirs."""
    return np.array([COCO_WHOLEBODY.index(name) for name in named]), np.array(list(named.values()))


_BODY, _COARSE = _table(BODY), {side: _table(named) for side, named in COARSE_HAND.items()}
_GROUPS, _MESH = {name: np.array(GROUPS[name]) for name in ("left_hand", "right_hand", "face")}, np.array(FACE_MESH)


@dataclass(frozen=True)
class HandSight:
    """One hand as its own network saw it."""

    presence: float
    right: float
    """Probability of being a right hand."""
    points: Float[Array, "21 2"]
    """px."""
    world: Float[Array, "21 3"]
    """m, camera axes."""
    size: float
    """Side of the region looked at, px."""


@dataclass(frozen=True)
class FaceSight:
    """One face as its own network saw it."""

    presence: float
    """0 to 1; less where the body puts the face elsewhere, or it is seen from the side."""
    points: Float[Array, "468 2"]
    """px."""
    size: float
    """Side of the region looked at, px."""


@dataclass(frozen=True)
class Sight:
    """One person in one image, in COCO-WholeBody's order."""

    pixels: Float[Array, "133 2"]
    sigma: Float[Array, "133"]
    confidence: Float[Array, "133"]
    skeleton: Float[Array, "133 3"]
    mask: Float[Array, "h w"] | None
    """Probability of the person at reduced resolution."""


def pixels_per_metre(points: Float[Array, "33 2"], world: Float[Array, "33 3"]) -> float:
    """Scale of the person in the image: spread of the trunk and limbs in px over their spread in m across the view."""
    flat, metric = points[11:] - points[11:].mean(0), world[11:, :2] - world[11:, :2].mean(0)
    return float(np.sqrt((flat**2).sum() / max((metric**2).sum(), 1e-6)))


def whole_body(
    points: Float[Array, "33 2"],
    visibility: Float[Array, "33"],
    world: Float[Array, "33 3"],
    size: float,
    hands: dict[str, HandSight],
    face: FaceSight | None,
    image: tuple[int, int],
    mask: Float[Array, "h w"] | None,
) -> Sight:
    """One person's keypoints. `size` is the side of the body region, px; points outside the image (width, height) are not seen."""
    model = sigma_table()
    pixels, skeleton = np.full((COUNT, 2), np.nan), np.full((COUNT, 3), np.nan)
    sigma, confidence = np.full(COUNT, np.nan), np.zeros(COUNT)
    scale = pixels_per_metre(points, world)
    millimetres = _millimetres()

    def put(which: Array, seen: Array, certainty: Array | float, spread: Array | float, cell: float, doubt: Array) -> None:
        pixels[which], confidence[which] = seen, certainty
        sigma[which] = np.hypot(np.multiply(spread, 1e-3 * scale), model["grid"] * cell) * doubt

    certainty, feet = visibility[_BODY[1]], _BODY[0] >= PART_OF.index("feet")
    factors = np.where(feet, doubt("feet", certainty), doubt("body", certainty))
    put(_BODY[0], points[_BODY[1]], certainty, millimetres[_BODY[0]], size / 256, factors)
    skeleton[_BODY[0]] = world[_BODY[1]]
    for side in SIDES:
        if (hand := hands.get(side)) is not None:
            which = _GROUPS[f"{side}_hand"]
            put(which, hand.points, hand.presence, millimetres[which], hand.size / 224, doubt("hand", hand.presence))
            skeleton[which] = world[BODY[f"{side}_wrist"]] + hand.world - hand.world[0]
            continue
        which, own = _COARSE[side]
        certainty = visibility[own]
        put(which, points[own], 0.5 * certainty, model["millimetres"]["coarse_hand"], size / 256, doubt("body", certainty))
        skeleton[which] = world[own]
    if face is not None:
        which = _GROUPS["face"]
        put(which, face.points[_MESH], face.presence, millimetres[which], face.size / 192, doubt("face", face.presence))
    width, height = image
    with np.errstate(invalid="ignore"):
        inside = (pixels >= -0.5).all(1) & (pixels[:, 0] < width - 0.5) & (pixels[:, 1] < height - 0.5)
    lost = ~inside | (confidence < model["seen"])
    pixels[lost], sigma[lost], confidence[lost] = np.nan, np.nan, 0.0
    return Sight(pixels, sigma, confidence, skeleton, mask)


def hands_alone(hands: dict[str, HandSight], image: tuple[int, int]) -> Sight:
    """Hands of which no body is seen; the scale is the hands' own."""
    hidden = np.zeros((33, 2)) - 1e6
    first = next(iter(hands.values()))
    # A body far outside the image, of the hands' scale: all of its points count as not seen.
    flat, metric = first.points - first.points.mean(0), first.world[:, :2] - first.world[:, :2].mean(0)
    scale = float(np.sqrt((flat**2).sum() / max((metric**2).sum(), 1e-9)))
    world = np.random.default_rng(0).normal(size=(33, 3))
    return whole_body(hidden + world[:, :2] * scale, np.zeros(33), world, first.size, hands, None, image, None)


PART_OF = ("body",) * 17 + ("feet",) * 6 + ("face",) * 68 + ("hand",) * 42
"""For each keypoint the part whose networks' certainty is judged together."""


def doubt(part: str, certainty: Float[Array, "*n"] | float) -> Float[Array, "*n"]:
    """How many times larger an error is than at the network's surest, by what it states of its certainty (0 to 1)."""
    table = sigma_table()
    return np.asarray(np.interp(logit(np.asarray(certainty)), table["knots"], table["factors"][part]))


def logit(certainty: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Evens the steps between 0.9, 0.99 and 0.999."""
    p = np.clip(certainty, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


def kind_of(k: int) -> str:
    """Under which name the table keeps a keypoint's millimetres."""
    if k in GROUPS["face"]:
        return "jaw" if k - GROUPS["face"][0] < 17 else "face"
    name = COCO_WHOLEBODY[k]
    bare = name.split("_", 1)[1] if name.startswith(("left_", "right_")) else name
    if bare.startswith("thumb"):
        return "thumb"
    return bare if "finger" not in bare else f"finger{bare[-1]}"


@lru_cache
def sigma_table() -> dict[str, Any]:
    """What `sigmas.yaml` holds."""
    return yaml.safe_load((Path(__file__).parent / "sigmas.yaml").read_text())


@lru_cache
def _millimetres() -> Float[Array, "133"]:
    """The table spread over the keypoints."""
    return np.array([float(sigma_table()["millimetres"][kind_of(k)]) for k in range(COUNT)])

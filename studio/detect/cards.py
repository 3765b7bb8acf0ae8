"""Cards: what must be known of a network from elsewhere to run it. A YAML file beside the network, or one that ships with the studio."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from rigs.keypoints import SETS
from studio.settings import load

SHIPPED = sorted(Path(__file__).parent.glob("card_*.yaml"))


@dataclass(frozen=True)
class Card:
    """How an ONNX network that sees one person in a crop is fed and read."""

    name: str = ""
    """What `Keypoints2D.network` becomes: names its landmark placement on the body."""
    licence: str = ""
    address: str = ""
    """Where the file, or the archive with it, is published."""
    file: str = ""
    sha256: str = ""
    """Of the network file; empty where none is known."""
    keypoints: str = "coco_wholebody"
    """A set of `rigs.keypoints.SETS`, in the network's order."""
    size: tuple[int, int] = (288, 384)
    """Width and height of the crop, px."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Of the colours, 0 to 255, in the order red, green, blue."""
    deviation: tuple[float, float, float] = (58.395, 57.12, 57.375)
    order: Literal["rgb", "bgr"] = "rgb"
    """Of the channels that the network takes."""
    decoding: Literal["simcc", "heatmap"] = "simcc"
    """`simcc`: scores along x and along y (Li et al. 2022); `heatmap`: a score a cell."""
    split: float = 2.0
    """Of `simcc`: bins a pixel."""
    corners: bool = False
    """Of `heatmap`: first and last cell lie on first and last pixel (UDP), not evenly inside the crop."""
    padding: float = 1.25
    """The crop's size over that of the person."""
    flip: bool = False
    """Look at the mirror image as well and take the mean: twice the time, less noise."""
    seen: float = 0.3
    """Score below which a keypoint counts as not seen."""
    sure: float = 0.9
    """Score from which on an error is as small as it gets."""
    sigma: float = 1.0
    """Its errors over those that `sigmas.yaml` states, at its surest."""


@lru_cache
def opened(detector: str) -> tuple[Path, Card]:
    """The network file and the card of `--detector`: a path to an ONNX file.

    The card is the YAML file of the same name beside it, or the shipped one whose sha256 the file has. Errors name what is missing.
    """
    path = Path(detector)
    if path.suffix != ".onnx":
        raise ValueError(f"detector {detector!r}: choose mediapipe, hands, holistic, hourglass, or the path of an .onnx file. {_offers()}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such network file. {_offers()}")
    digest = _sha256(path)
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        card = load(beside, Card)
        if card.sha256 and card.sha256 != digest:
            raise ValueError(f"{path}: its sha256 is {digest}, but {beside} is for {card.sha256}; download it again or correct the card")
    else:
        card = next((card for card in shipped().values() if card.sha256 == digest), None)
        if card is None:
            raise ValueError(
                f"{path}: needs a card beside it, {beside.name} (an example: {SHIPPED[0]}); its sha256 {digest} is none of the known"
            )
    return path, _checked(card, beside)


def shipped() -> dict[str, Card]:
    """The cards that come with the studio; the networks do not."""
    return {path.stem.removeprefix("card_"): load(path, Card) for path in SHIPPED}


def _checked(card: Card, path: Path) -> Card:
    if not card.name:
        raise ValueError(f"{path}: name is missing: a word for the network, such as rtmw")
    if card.keypoints not in SETS:
        raise ValueError(f"{path}: keypoints {card.keypoints!r} is unknown; known are {sorted(SETS)}")
    if min(card.size) < 8 or card.split <= 0 or min(card.deviation) <= 0 or not 0 < card.seen < card.sure:
        raise ValueError(f"{path}: size, split and deviation must be positive, and seen smaller than sure")
    return card


def _offers() -> str:
    cards = shipped().values()
    return "Known networks, to be downloaded by you: " + "; ".join(f"{c.name} ({c.licence.split(' (')[0]}) {c.address}" for c in cards)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

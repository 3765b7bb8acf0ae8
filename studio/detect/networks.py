"""The networks inside the mediapipe wheel: regions of an image in, what they hold in image px out, with either runtime.

Inputs, outputs and anchors as documented in the wheel's graphs (mediapipe/modules/*/*.pbtxt); weights by Google, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from studio.detect.neighbours import Around, Seen, of_others, without
from studio.detect.regions import Array, Region, crop, paste, to_image, turned
from studio.detect.runtimes import LiteRT, Runtime


class Network:
    """One network of a runtime: crops in, its output tensors out, in the file's order."""

    def __init__(self, runtime: Runtime, name: str, low: float = 0.0) -> None:
        """0..255 of an image become `low`..1."""
        self._runtime, self._name, self._low = runtime, name, low
        self.side = runtime.side(name)

    def __call__(self, image: Float[Array, "side side 3"]) -> list[Float[Array, "..."]]:
        """Of one crop, without the batch axis."""
        return [y[0] for y in self.batch([image])]

    def batch(self, images: Sequence[Float[Array, "side side 3"]]) -> list[Float[Array, "B ..."]]:
        """Of several crops at once."""
        return self._runtime.run(self._name, images[0][None] if len(images) == 1 else np.stack(images), self._low)


class Finder:
    """A single-shot detector: boxes with keypoints (Liu et al. 2016; BlazeFace's anchors and blending of overlapping boxes)."""

    def __init__(self, runtime: Runtime, name: str, strides: tuple[int, ...], low: float = -1.0) -> None:
        self.network = Network(runtime, name, low)
        self._anchors = _anchors(self.network.side, strides)

    def __call__(self, pyramid: list[UInt8[Array, "H W 3"]], region: Region, threshold: float) -> list[tuple[float, Float[Array, "K 2"]]]:
        """(score, two corners of the box and the keypoints in image px) of what is found in an upright region, best first."""
        side = self.network.side
        raw, logits = self.network(crop(pyramid, region, side, black=True))
        scores = _sigmoid(logits[:, 0])
        keep = np.flatnonzero(scores >= threshold)
        keep = keep[np.argsort(-scores[keep], kind="stable")]
        scores, points = scores[keep], raw[keep].reshape(len(keep), raw.shape[1] // 2, 2) / side
        anchors = self._anchors[keep]
        centre, half = points[:, 0] + anchors, points[:, 1] / 2
        corners = np.stack([centre - half, centre + half], 1)
        points = np.concatenate([corners, points[:, 2:] + anchors[:, None]], 1)
        return [(score, to_image(p * side, region, side)) for score, p in _blended(scores, points)]


def _blended(scores: Float[Array, "N"], points: Float[Array, "N K 2"]) -> list[tuple[float, Array]]:
    """Those whose boxes (the first two points) overlap become one, weighted by score."""
    found = []
    while len(scores):
        overlap = (np.minimum(points[:, 1], points[0, 1]) - np.maximum(points[:, 0], points[0, 0])).clip(0).prod(1)
        area = (points[:, 1] - points[:, 0]).clip(0).prod(1)
        same = overlap > 0.3 * (area + area[0] - overlap)
        same[0] = True
        found.append((float(scores[0]), np.average(points[same], 0, scores[same])))
        scores, points = scores[~same], points[~same]
    return found


@dataclass(frozen=True)
class PoseSight:
    """33 landmarks of one person, and the two from which the next region follows."""

    region: Region
    """Where the network looked."""
    presence: float
    points: Float[Array, "33 2"]
    visibility: Float[Array, "33"]
    """0 to 1: in the image and not hidden."""
    world: Float[Array, "33 3"]
    """m, camera axes, origin between the hips."""
    anchors: Float[Array, "2 2"]
    mask: Float[Array, "256 256"] | None
    """Probability of the person in the region's crop; None where nobody asked for it."""

    @property
    def seen(self) -> Seen:
        """The mask and where it lies. `ValueError` where none was asked for."""
        if self.mask is None:
            raise ValueError("detect: a body's outline is needed that was looked at without its mask; ask for `masks`")
        return self.mask, self.region

    def outline(self, width: int, height: int, reduction: int) -> Float[Array, "h w"]:
        """The mask in the image (width, height), `reduction` times smaller. `ValueError` where none was asked for."""
        return paste(*self.seen, width, height, reduction)


class Networks:
    """All networks of one runtime (LiteRT's own by default), loaded when first used."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        self._runtime = runtime or LiteRT()

    @cached_property
    def people(self) -> Finder:
        """Person detector."""
        return Finder(self._runtime, "pose detection", (8, 16, 32, 32, 32))

    @cached_property
    def faces(self) -> Finder:
        """Face detector."""
        return Finder(self._runtime, "face detection", (8, 16, 16, 16))

    @cached_property
    def palms(self) -> Finder:
        """Detector of hands by their palms."""
        return Finder(self._runtime, "palm detection", (8, 16, 16, 16), low=0.0)

    @cached_property
    def pose_network(self) -> Network:
        """39 body points, 33 of them named."""
        return Network(self._runtime, "pose")

    @cached_property
    def pose_network_without_mask(self) -> Network:
        """The same, but for the mask: in little more than half the time."""
        return Network(self._runtime, "pose, no mask")

    @cached_property
    def hand_network(self) -> Network:
        """21 hand points."""
        return Network(self._runtime, "hand")

    @cached_property
    def hand_region_network(self) -> Network:
        """Two points that correct a coarse hand region."""
        return Network(self._runtime, "hand region")

    @cached_property
    def face_network(self) -> Network:
        """468 face points."""
        return Network(self._runtime, "face")

    def pose(self, pyramid: list[UInt8[Array, "H W 3"]], region: Region, others: Sequence[Seen] = ()) -> PoseSight:
        """The person in a region, `others` painted over."""
        return self.poses(pyramid, [region], [(None, others)])[0]

    def poses(
        self,
        pyramid: list[UInt8[Array, "H W 3"]],
        regions: Sequence[Region],
        around: Sequence[Around] = (),
        masks: bool = True,
    ) -> list[PoseSight]:
        """The person in each region, all seen at once; without `masks` at little more than half the cost.

        `around`, for each region where it is given: others are painted over.
        """
        if not regions:
            return []
        network = self.pose_network if masks else self.pose_network_without_mask
        crops = [crop(pyramid, region, network.side) for region in regions]
        for i, (own, others) in enumerate(around):
            crops[i] = without(crops[i], of_others(regions[i], others, own, network.side))
        outputs: list[Any] = network.batch(crops)
        if not masks:
            outputs.insert(2, [None] * len(regions))
        return [self._pose(region, network.side, *parts) for region, *parts in zip(regions, *outputs, strict=True)]

    def _pose(
        self, region: Region, side: int, landmarks: Array, presence: Array, mask: Array | None, heat: Array, world: Array
    ) -> PoseSight:
        landmarks = landmarks.reshape(39, 5).astype(np.float64)
        refined = _refined(landmarks[:, :2] / side, heat) * side
        points = to_image(refined, region, side)
        visible = np.minimum(_sigmoid(landmarks[:33, 3]), _sigmoid(landmarks[:33, 4]))
        turned_world = turned(world.reshape(39, 3)[:33].astype(np.float64), region)
        outline = None if mask is None else _sigmoid(mask[..., 0])
        return PoseSight(region, float(presence[0]), points[:33], visible, turned_world, points[33:35], outline)

    def hand(self, pyramid: list[UInt8[Array, "H W 3"]], region: Region) -> tuple[float, float, Float[Array, "21 2"], Float[Array, "21 3"]]:
        """Presence, probability of a right hand, points in image px, points in m (camera axes)."""
        side = self.hand_network.side
        points, presence, right, world = self.hand_network(crop(pyramid, region, side))
        flat = to_image(points.reshape(21, 3)[:, :2].astype(np.float64), region, side)
        return float(presence[0]), float(right[0]), flat, turned(world.reshape(21, 3).astype(np.float64), region)

    def hand_hints(self, pyramid: list[UInt8[Array, "H W 3"]], region: Region) -> Float[Array, "2 2"]:
        """The two points, crop px, that correct a coarse hand region."""
        return self.hand_region_network(crop(pyramid, region, self.hand_region_network.side))[0].reshape(2, 2).astype(np.float64)

    def face(self, pyramid: list[UInt8[Array, "H W 3"]], region: Region) -> tuple[float, Float[Array, "468 2"]]:
        """Presence, and points in image px."""
        side = self.face_network.side
        points, presence = self.face_network(crop(pyramid, region, side))
        flat = to_image(points.reshape(468, 3)[:, :2].astype(np.float64), region, side)
        return float(_sigmoid(presence.ravel()[0])), flat


def _refined(points: Float[Array, "K 2"], logits: Float[Array, "h w K"]) -> Float[Array, "K 2"]:
    """Points (0..1) moved to the centre of mass of their heat map within 9x9 cells, where it is sure (0.5) of them."""
    size, reach = np.array(logits.shape[1::-1]), np.arange(-4, 5)
    cell = np.trunc(points * size).astype(int)
    x, y = np.broadcast_arrays(cell[:, 0, None, None] + reach, cell[:, 1, None, None] + reach[:, None])
    there = (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1])
    k = np.arange(len(points))[:, None, None]
    weight = _sigmoid(logits[y.clip(0, size[1] - 1), x.clip(0, size[0] - 1), k].astype(np.float64)) * there
    sure = there[:, 4, 4] & (weight.max((1, 2)) >= 0.5)
    total = np.where(sure, weight.sum((1, 2)), 1.0)
    centre = np.stack([(weight * x).sum((1, 2)), (weight * y).sum((1, 2))], 1) / total[:, None] / size
    return np.where(sure[:, None], centre, points)


def _anchors(side: int, strides: tuple[int, ...]) -> Float[Array, "N 2"]:
    """Cell centres (0..1); two a layer, layers of one stride share their cells."""
    groups = []
    for stride in sorted(set(strides)):
        cells = side // stride
        y, x = np.meshgrid(*[(np.arange(cells) + 0.5) / cells] * 2, indexing="ij")
        groups.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), 2 * strides.count(stride), 0))
    return np.concatenate(groups)


def _sigmoid(logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))

"""The networks inside the mediapipe wheel, run one crop at a time on one CPU thread through LiteRT.

Inputs, outputs and anchors as documented in the wheel's graphs (mediapipe/modules/*/*.pbtxt); weights by Google, Apache-2.0.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from studio.detect.regions import Array, Region, crop, to_image, turned

FILES = {
    "pose detection": "pose_detection/pose_detection.tflite",
    "pose": "pose_landmark/pose_landmark_full.tflite",
    "hand": "hand_landmark/hand_landmark_full.tflite",
    "hand region": "holistic_landmark/hand_recrop.tflite",
    "palm detection": "palm_detection/palm_detection_full.tflite",
    "face detection": "face_detection/face_detection_short_range.tflite",
    "face": "face_landmark/face_landmark.tflite",
}


class Network:
    """One network: a crop in, its output tensors without the batch axis out, in the file's order."""

    def __init__(self, name: str, low: float = 0.0) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with _quiet():
            self._interpreter = Interpreter(model_path=str(_folder() / FILES[name]), num_threads=1)
            self._interpreter.allocate_tensors()
        given = self._interpreter.get_input_details()[0]
        self._input = given["index"]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]
        self.side = int(given["shape"][1])
        self._low = low

    def __call__(self, image: UInt8[Array, "side side 3"]) -> list[Float[Array, "..."]]:
        """Runs on an image whose 0..255 become `low`..1."""
        scaled = image.astype(np.float32) * np.float32((1 - self._low) / 255) + np.float32(self._low)
        self._interpreter.set_tensor(self._input, scaled[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(i)[0] for i in self._outputs]


class Finder:
    """A single-shot detector: boxes with keypoints (Liu et al. 2016; BlazeFace's anchors and blending of overlapping boxes)."""

    def __init__(self, name: str, strides: tuple[int, ...], low: float = -1.0) -> None:
        self.network = Network(name, low)
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


@contextmanager
def _quiet() -> Iterator[None]:
    """LiteRT greets every network on the process's error stream, past Python; it would break the progress bar."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
    mask: Float[Array, "256 256"]
    """Probability of the person in the region's crop."""


class Networks:
    """All networks of one process, loaded when first used."""

    @cached_property
    def people(self) -> Finder:
        """Person detector."""
        return Finder("pose detection", (8, 16, 32, 32, 32))

    @cached_property
    def faces(self) -> Finder:
        """Face detector."""
        return Finder("face detection", (8, 16, 16, 16))

    @cached_property
    def palms(self) -> Finder:
        """Detector of hands by their palms."""
        return Finder("palm detection", (8, 16, 16, 16), low=0.0)

    @cached_property
    def pose_network(self) -> Network:
        """39 body points, 33 of them named."""
        return Network("pose")

    @cached_property
    def hand_network(self) -> Network:
        """21 hand points."""
        return Network("hand")

    @cached_property
    def hand_region_network(self) -> Network:
        """Two points that correct a coarse hand region."""
        return Network("hand region")

    @cached_property
    def face_network(self) -> Network:
        """468 face points."""
        return Network("face")

    def pose(self, pyramid: list[UInt8[Array, "H W 3"]], region: Region) -> PoseSight:
        """The person in a region."""
        side = self.pose_network.side
        landmarks, presence, mask, heat, world = self.pose_network(crop(pyramid, region, side))
        landmarks = landmarks.reshape(39, 5).astype(np.float64)
        refined = _refined(landmarks[:, :2] / side, _sigmoid(heat)) * side
        points = to_image(refined, region, side)
        visible = np.minimum(_sigmoid(landmarks[:33, 3]), _sigmoid(landmarks[:33, 4]))
        turned_world = turned(world.reshape(39, 3)[:33].astype(np.float64), region)
        return PoseSight(region, float(presence[0]), points[:33], visible, turned_world, points[33:35], _sigmoid(mask[..., 0]))

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


def _refined(points: Float[Array, "K 2"], heat: Float[Array, "h w K"]) -> Float[Array, "K 2"]:
    """Points (0..1) moved to the centre of mass of their heat map within 9x9 cells, where it is sure (0.5) of them."""
    rows, columns = heat.shape[:2]
    refined = points.copy()
    for k, (x, y) in enumerate(points):
        column, row = int(x * columns), int(y * rows)
        if not (0 <= column < columns and 0 <= row < rows):
            continue
        top, left = max(row - 4, 0), max(column - 4, 0)
        window = heat[top : row + 5, left : column + 5, k]
        if window.max() >= 0.5:
            r, c = np.indices(window.shape)
            refined[k] = ((window * (c + left)).sum() / columns, (window * (r + top)).sum() / rows) / window.sum()
    return refined


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


def _folder() -> Path:
    """Where the wheel keeps its networks; found without importing it."""
    spec = importlib.util.find_spec("mediapipe")
    folder = Path(next(iter(spec.submodule_search_locations))) / "modules" if spec and spec.submodule_search_locations else None
    if folder is None or not all((folder / name).is_file() for name in FILES.values()):
        raise ValueError(
            f"mediapipe ({folder or 'not installed'}) carries no networks; install the version that does: pip install mediapipe==0.10.14"
        )
    return folder

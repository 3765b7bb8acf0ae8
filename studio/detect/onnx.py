"""Whole-body networks from elsewhere (RTMPose, RTMW, DWPose and their like) as ONNX files, run by onnxruntime.

People are found and followed by the wheel's small pose network, which also tells their scale, 3D guess and mask; the keypoints are the
ONNX network's, on an upright crop around each person.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from rigs.keypoints import COCO_WHOLEBODY, SETS, mirrored
from studio.detect.cards import Card, opened
from studio.detect.landmarks import BODY, COUNT, Sight, kind_of, pixels_per_metre, sigma_table
from studio.detect.mediapipe import Mediapipe, Person, Pyramid
from studio.detect.networks import PoseSight
from studio.detect.regions import Array, sampled


class Box(NamedTuple):
    """An upright rectangle of the image, px between its edges."""

    x: float
    """Centre."""
    y: float
    width: float
    height: float

    def matrix(self, size: tuple[int, int]) -> Float[Array, "2 3"]:
        """From px of a crop of that size to px of the image; centres fall on centres."""
        step = np.array([self.width / size[0], self.height / size[1]])
        first = np.array([self.x, self.y]) - step * (np.array(size) - 1) / 2
        return np.concatenate([np.diag(step), first[:, None]], 1)


def around(points: Float[Array, "K 2"], card: Card) -> Box:
    """The card's shape around a person's points, padded."""
    low, high = points.min(0), points.max(0)
    x, y = (low + high) / 2
    extent = (high - low) * card.padding
    unit = max(extent[0] / card.size[0], extent[1] / card.size[1], 1e-3)
    return Box(float(x), float(y), card.size[0] * float(unit), card.size[1] * float(unit))


class OnnxNetwork:
    """A network and its card: a crop in, keypoints in px of the crop with scores out."""

    def __init__(self, path: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"{path}: ONNX networks need onnxruntime; install it with: pip install 'mocap-studio[onnx]'") from error
        file, self.card = opened(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # there is a process for every processor
        options.log_severity_level = 3
        wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=wanted)
        except Exception as error:  # onnxruntime's own kinds are not public
            raise ValueError(f"{file}: onnxruntime cannot load it: {str(error).splitlines()[0]}") from error
        self._input = self._session.get_inputs()[0].name
        outputs = len(self._session.get_outputs())
        if outputs < (2 if self.card.decoding == "simcc" else 1):
            raise ValueError(f"{file}: has {outputs} output, but its card says decoding {self.card.decoding}")
        self._path, self._count = file, len(SETS[self.card.keypoints])

    def __call__(self, crop: Float[Array, "H W 3"]) -> tuple[Float[Array, "K 2"], Float[Array, "K"], Float[Array, "K"]]:
        """Points and their disagreement with the mirror image's (0 without `flip`), crop px; scores."""
        crops = [crop, crop[:, ::-1]] if self.card.flip else [crop]
        seen = [self._decoded(c) for c in crops]
        points, scores = seen[0]
        if not self.card.flip:
            return points, scores, np.zeros(len(points))
        other = list(mirrored(SETS[self.card.keypoints]))
        again = seen[1][0][other] * (-1, 1) + (crop.shape[1] - 1, 0)
        apart = np.linalg.norm(again - points, axis=1) / 2
        return (points + again) / 2, (scores + seen[1][1][other]) / 2, apart

    def _decoded(self, crop: Float[Array, "H W 3"]) -> tuple[Float[Array, "K 2"], Float[Array, "K"]]:
        colours = (crop - np.array(self.card.mean, np.float32)) / np.array(self.card.deviation, np.float32)
        if self.card.order == "bgr":
            colours = colours[..., ::-1]
        given = np.ascontiguousarray(colours.transpose(2, 0, 1)[None], np.float32)
        outputs: Any = self._session.run(None, {self._input: given})
        points, scores = (
            from_simcc(outputs[0][0], outputs[1][0], self.card.split)
            if self.card.decoding == "simcc"
            else from_heatmap(outputs[0][0], self.card.size, self.card.corners)
        )
        if len(points) != self._count:
            raise ValueError(f"{self._path}: sees {len(points)} keypoints, but its card says {self.card.keypoints} with {self._count}")
        return points, scores


def from_simcc(x: Float[Array, "K n"], y: Float[Array, "K m"], split: float) -> tuple[Float[Array, "K 2"], Float[Array, "K"]]:
    """Points in px from scores along each axis, and the lower of the two peaks (as RTMPose); between bins by a parabola."""
    peaks = [_peak(axis) for axis in (x, y)]
    return np.stack([at / split for at, _ in peaks], 1), np.minimum(peaks[0][1], peaks[1][1])


def from_heatmap(maps: Float[Array, "K h w"], size: tuple[int, int], corners: bool) -> tuple[Float[Array, "K 2"], Float[Array, "K"]]:
    """Points in px of a crop of that size, and the peaks; between cells by parabolas through the maps' logarithm (blobs are Gaussian)."""
    K, h, w = maps.shape
    best = maps.reshape(K, -1).argmax(1)
    row, column, k = best // w, best % w, np.arange(K)
    logs = np.log(np.maximum(maps, 1e-6))
    cells = np.stack([_peak(logs[k, row], column)[0], _peak(logs[k, :, column], row)[0]], 1)
    grid, whole = np.array([w, h]), np.array(size)
    points = cells * (whole - 1) / (grid - 1) if corners else (cells + 0.5) * whole / grid - 0.5
    return points, maps[k, row, column]


def _peak(values: Float[Array, "K n"], given: Array | None = None) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
    """Where each row is highest, to a fraction, and how high it is there."""
    k, n = np.arange(len(values)), values.shape[1]
    at = values.argmax(1) if given is None else given
    before, here, after = (values[k, (at + step).clip(0, n - 1)].astype(np.float64) for step in (-1, 0, 1))
    bend = before - 2 * here + after
    inner = (at > 0) & (at < n - 1) & (bend < -1e-9)
    step = np.where(inner, 0.5 * (before - after) / np.where(inner, bend, 1), 0).clip(-0.5, 0.5)
    return at + step, here


class Onnx(Mediapipe):
    """Follows people like `Mediapipe`; their keypoints are an ONNX network's."""

    def __init__(self, path: str, **settings: Any) -> None:
        """`path` is the network's, its card lies beside it; `settings` are those of `Mediapipe`."""
        super().__init__(**settings)
        self._network = OnnxNetwork(path)

    def _whole(self, pyramid: Pyramid, person: Person) -> Sight:
        body, card = person.body, self._network.card
        height, width = pyramid[0].shape[:2]
        box = around(body.points, card)
        matrix = box.matrix(card.size)
        points, scores, apart = self._network(sampled(pyramid, matrix, card.size))
        mask = body.outline(width, height, self._reduction) if self._reduction else None
        step = box.width / card.size[0]
        return _sight(points * step + matrix[:, 2], scores, apart * step, step, body, card, (width, height), mask)

    def _lone_hands(self, pyramid: list[UInt8[Array, "H W 3"]]) -> dict[int, Sight]:
        """None: such networks see whole bodies."""
        return {}


def _sight(
    points: Float[Array, "K 2"],
    scores: Float[Array, "K"],
    apart: Float[Array, "K"],
    step: float,
    body: PoseSight,
    card: Card,
    image: tuple[int, int],
    mask: Array | None,
) -> Sight:
    """In COCO-WholeBody's order; sigma grows with the person in the image, with doubt, and with the mirror image's disagreement."""
    table, scale = sigma_table(), pixels_per_metre(body.points, body.world)
    pixels, skeleton = np.full((COUNT, 2), np.nan), np.full((COUNT, 3), np.nan)
    sigma, confidence = np.full(COUNT, np.nan), np.zeros(COUNT)
    for i, name in enumerate(SETS[card.keypoints]):
        x, y = points[i]
        inside = -0.5 <= x < image[0] - 0.5 and -0.5 <= y < image[1] - 0.5
        if name not in COCO_WHOLEBODY or scores[i] < card.seen or not inside:
            continue
        k = COCO_WHOLEBODY.index(name)
        pixels[k], confidence[k] = points[i], min(float(scores[i]) / card.sure, 1.0)
        spread = card.sigma * 1e-3 * float(table["millimetres"][kind_of(k)]) * scale / confidence[k]
        sigma[k] = float(np.sqrt(spread**2 + (table["grid"] * step) ** 2 + apart[i] ** 2))
        if name in BODY:
            skeleton[k] = body.world[BODY[name]]
    return Sight(pixels, sigma, confidence, skeleton, mask)

"""One piece of one camera's video through a detector, and the pieces put together: what makes a killed run go on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.optimize import linear_sum_assignment

from rigs.keypoints import COCO_WHOLEBODY
from studio.detect.clean_plate import Plate
from studio.detect.colours import LENGTH, colours
from studio.detect.moved_masks import moved_mask
from studio.detect.runtimes import LiteRT, Runtime
from studio.detect.sparing import Between, Look, Sparing
from studio.interpolation import Track2D, between
from studio.values import Keypoints2D
from studio.video import BrokenVideo, VideoWriter, frames, probe, times

Array = np.ndarray
WARM_UP = 15
"""Frames looked at before a piece, so that everybody is being followed when it begins."""
FIELDS = ("pixels", "sigma", "confidence", "skeleton", "look")


@dataclass(frozen=True)
class Piece:
    """Some frames of one camera, and where what is seen in them goes."""

    camera: str
    video: Path
    first: int
    last: int
    """One past the last frame."""
    begin: int
    """First frame of the camera's whole job; there is no warming up before it."""
    fps: float
    detector: str
    """A name of `DETECTORS`, or the path of an ONNX file."""
    network: str
    """What the keypoints say of their origin."""
    settings: dict[str, Any]
    people: int
    reduction: int
    """Of the masks; 0 for none."""
    folder: Path
    record: dict[str, Any]
    """What the results depend on."""
    plate: Path | None = None
    """A clip of the empty stage."""
    sparing: bool = False
    """Whether frames between two looks that tell enough are not looked at."""
    phase: int = 0
    """Shifts which frames these are: cameras differ."""

    @property
    def frames(self) -> int:
        """How many."""
        return self.last - self.first

    @property
    def file(self) -> Path:
        """Of the keypoints."""
        return self.folder / f"{self.first:07d}.safetensors"

    @property
    def masks(self) -> Path:
        """Of the masks."""
        return self.folder / f"{self.first:07d}.mkv"

    @property
    def done(self) -> bool:
        """Whether it was finished before, with the same inputs and settings."""
        if Keypoints2D.record(self.file) != self.record or Keypoints2D.load(self.file, slice(0, 0)).look is None:
            return False
        return not self.reduction or self.masks.is_file()


def see_piece(piece: Piece, step: Callable[[str], bool], runtime: Runtime | None = None) -> str | None:
    """Writes the piece's files; a warning where the video breaks off. Networks run on `runtime`, by default on the detector's own.

    `step` is told of every frame; when it says False, `InterruptedError` is raised and nothing is left.
    """
    source = seen_frames(piece, runtime)
    with Findings(piece) as findings:
        while True:
            try:
                frame = next(source)
            except StopIteration:
                break
            except BrokenVideo as broken:
                findings.warning = str(broken)
                break
            findings.put(frame)
            if frame.number >= piece.first and not step(piece.camera):
                raise InterruptedError
        findings.save()
    return findings.warning


def seen_frames(piece: Piece, runtime: Runtime | None) -> Iterator[Look | Between]:
    """What is seen in every frame of a piece and of those to warm up on; `BrokenVideo` where the video breaks off."""
    if not piece.sparing:
        detector = detector_of(piece, runtime)
        return (Look(number, image, detector.see(image)) for number, image in opened_at(piece))
    when = _clock(piece)
    spared = Sparing(detector_of(piece, runtime), piece.fps, piece.phase, piece.first, piece.last - 1, when)
    return spared.see(opened_at(piece))


def _clock(piece: Piece) -> Callable[[int], float]:
    """When a frame was taken, s."""
    if not probe(piece.video).variable:
        return lambda number: number / piece.fps
    stamps = times(piece.video).tolist()
    return lambda number: stamps[number]


def detector_of(piece: Piece, runtime: Runtime | None = None, **more: Any) -> Any:
    """A detector with the piece's settings, and `more`."""
    from studio.detect.mediapipe import DETECTORS

    settings = {"people": piece.people, "reduction": piece.reduction, **piece.settings, **more}
    if (adapted := settings.pop("adapted", None)) and runtime is None:
        runtime = LiteRT(Path(adapted))
    settings |= {} if runtime is None else {"runtime": runtime}
    if kind := settings.pop("kind", DETECTORS.get(piece.detector)):
        return kind(**settings)
    return _from_elsewhere(piece.detector, settings)


def opened_at(piece: Piece) -> Iterator[tuple[int, UInt8[Array, "H W 3"]]]:
    """The piece's frames with their numbers, and those to warm up on before them."""
    return frames(piece.video, max(piece.first - WARM_UP, piece.begin), piece.last)


class Findings:
    """What was seen in a piece: keypoints in memory until they are saved, masks on disk as they come."""

    def __init__(self, piece: Piece) -> None:
        count, K = piece.last - piece.first, len(COCO_WHOLEBODY)
        self._piece, self._masks = piece, _Masks(piece)
        self._looked, self._between = np.zeros(count, bool), np.zeros(count, bool)
        self._values = {
            "pixels": np.full((1, count, piece.people, K, 2), np.nan, np.float32),
            "sigma": np.full((1, count, piece.people, K), np.nan, np.float32),
            "confidence": np.zeros((1, count, piece.people, K), np.float32),
            "skeleton": np.full((1, count, piece.people, K, 3), np.nan, np.float32),
            "look": np.full((1, count, piece.people, LENGTH), np.nan, np.float32),
        }
        self.warning: str | None = None
        """Where the video breaks off."""

    def put(self, frame: Look | Between) -> None:
        """Of a frame of the video; those before the piece are not kept."""
        t = frame.number - self._piece.first
        if t < 0:
            return
        if isinstance(frame, Between):
            self._between[t] = True
            self._masks.write(t, self._masks.between(frame), frame.image)
            return
        self._looked[t] = True
        assert frame.image is not None
        for slot, sight in frame.sights.items():
            for name in FIELDS[:-1]:
                self._values[name][0, t, slot] = getattr(sight, name)
            self._values["look"][0, t, slot] = colours(frame.image, sight)
        self._masks.write(t, {slot: s.mask for slot, s in frame.sights.items() if s.mask is not None}, frame.image)

    def save(self) -> None:
        """Write the keypoints, the last thing: the piece is done then."""
        piece = self._piece
        self._masks.fill(piece.last - piece.first)
        self._masks.__exit__(None, None, None)
        tensors: dict[str, Any] = {name: torch.from_numpy(value) for name, value in self._values.items()}
        seen = Keypoints2D((piece.camera,), COCO_WHOLEBODY, piece.network, piece.fps, piece.first, **tensors)
        if piece.sparing:
            clock = _clock(piece)
            when = torch.tensor([clock(number) for number in range(piece.first, piece.last)], dtype=torch.float64)
            seen = filled(seen, torch.from_numpy(self._looked), torch.from_numpy(self._between), when)
        seen.save(piece.file, **piece.record)

    def __enter__(self) -> Findings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._masks.__exit__(*error)


def filled(
    seen: Keypoints2D, looked: Bool[torch.Tensor, "T"], spared: Bool[torch.Tensor, "T"], when: Float[torch.Tensor, "T"]
) -> Keypoints2D:
    """One camera's keypoints (C=1), in `spared` frames put on the path through those that were looked at; `when` they were taken, s."""
    rows, others = looked.nonzero().flatten(), spared.nonzero().flatten()
    values = {name: getattr(seen, name).clone() for name in FIELDS}
    if len(rows) > 1 and len(others):
        track = Track2D(**{name: value[0, rows] for name, value in values.items()})
        made = between(track, when[rows], when[others], seen.keypoints, slots=True)
        there = made.seen
        for name, value in values.items():
            value[0, others] = getattr(made, name)
        values["sigma"][0, others] = torch.where(there, made.sigma, torch.nan)
        values["look"][0, others] = torch.where(there.any(-1, keepdim=True), values["look"][0, others], torch.nan)
    return replace(seen, **values, looked=looked[None])


def _from_elsewhere(path: str, settings: dict[str, Any]) -> Any:
    from studio.detect.own import Own, is_own

    if is_own(path):
        return Own(path, **settings)
    from studio.detect.onnx import Onnx

    return Onnx(path, **settings)


class _Masks:
    """Streams labels (0 background, slot + 1 a person) into the piece's video, one image for every frame."""

    def __init__(self, piece: Piece) -> None:
        self._writer, self._plate, self._reduction = None, None, piece.reduction
        if piece.reduction:
            info = probe(piece.video)
            self._shape = (-(-info.height // piece.reduction), -(-info.width // piece.reduction))
            self._plate = None if piece.plate is None else Plate.learned(piece.plate, self._shape)
            piece.folder.mkdir(parents=True, exist_ok=True)
            self._writer = VideoWriter(piece.masks, self._shape[1], self._shape[0], piece.fps, codec="ffv1 gray")
        self._next = 0

    def between(self, frame: Between) -> dict[int, Float[Array, "h w"]]:
        """By slot the masks of a frame between two looks; nothing where none are written."""
        if self._writer is None:
            return {}
        one, two = frame.before.sights, frame.after.sights
        found = {slot: moved_mask(one[slot], two[slot], frame.part, self._reduction) for slot in one if slot in two}
        return {slot: mask for slot, mask in found.items() if mask is not None}

    def write(self, t: int, masks: dict[int, Float[Array, "h w"]], image: UInt8[Array, "H W 3"]) -> None:
        """The labels of frame t, outlined by the empty stage where that is known; frames that could not be decoded before it are empty."""
        if self._writer is None:
            return
        self.fill(t)
        labels = _labels(masks, self._shape)
        self._writer.write(labels if self._plate is None else self._plate.refined(labels, image))
        self._next = t + 1

    def fill(self, until: int) -> None:
        """Empty images up to frame `until`."""
        while self._writer is not None and self._next < until:
            self._writer.write(np.zeros(self._shape, np.uint8))
            self._next += 1

    def __enter__(self) -> _Masks:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(*error)
            self._writer = None


def _labels(masks: dict[int, Float[Array, "h w"]], shape: tuple[int, int]) -> UInt8[Array, "h w"]:
    """The likeliest person of every pixel, 0 where none is likelier than not."""
    labels, best = np.zeros(shape, np.uint8), np.full(shape, 0.5)
    for slot, mask in masks.items():
        better = mask > best
        labels[better], best[better] = slot + 1, mask[better]
    return labels


def join(pieces: list[Piece], file: Path, masks: Path) -> None:
    """One file a camera from its pieces, one in memory at a time; a person keeps his slot across the seams, unused slots at the end go."""
    orders: list[tuple[int, ...]] = []
    depth, last = 1, torch.zeros(0)
    for piece in pieces:
        part = Keypoints2D.load(piece.file)
        orders.append(_continued(last, part.pixels[0, 0]) if orders else tuple(range(part.pixels.shape[2])))
        last = part.pixels[0, -1][list(orders[-1])].clone()
        used = (part.confidence[0] > 0).any(-1).any(0)[list(orders[-1])].nonzero().flatten().tolist()
        depth = max(depth, max(used, default=0) + 1)
    if pieces[0].reduction:
        _join_masks(pieces, orders, masks)
    model = _slots(Keypoints2D.load(pieces[0].file, slice(0, 0)), orders[0][:depth])
    with model.writer(file, pieces[-1].last - pieces[0].first, **pieces[0].record) as whole:
        for piece, order in zip(pieces, orders, strict=True):
            whole.put(piece.first - pieces[0].first, _slots(Keypoints2D.load(piece.file), order[:depth]))


def _slots(part: Keypoints2D, order: tuple[int, ...]) -> Keypoints2D:
    """The piece with these of its people, in this order."""
    return replace(part, **{name: getattr(part, name)[:, :, list(order)] for name in FIELDS})


def _continued(before: torch.Tensor, after: torch.Tensor) -> tuple[int, ...]:
    """For each slot of the piece before, the slot of the piece after that holds the same person."""
    gap = torch.nanmean((before[:, None, :17] - after[None, :, :17]).norm(dim=-1), -1).nan_to_num(1e4)
    return tuple(int(i) for i in linear_sum_assignment(gap.numpy())[1])


def _join_masks(pieces: list[Piece], orders: list[tuple[int, ...]], path: Path) -> None:
    info = probe(pieces[0].masks)
    with VideoWriter(path, info.width, info.height, pieces[0].fps, codec="ffv1 gray") as writer:
        for piece, order in zip(pieces, orders, strict=True):
            table = np.zeros(256, np.uint8)
            for slot, old in enumerate(order):
                table[old + 1] = slot + 1
            for _, labels in frames(piece.masks, gray=True):
                writer.write(table[labels])


def pieces_of(template: Piece, first: int, last: int, length: int) -> Iterator[Piece]:
    """The template's job cut into pieces of at most `length` frames."""
    for start in range(first, last, length):
        yield replace(template, first=start, last=min(start + length, last), begin=first)

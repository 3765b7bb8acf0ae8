"""The only decoder and encoder of video: frames in presentation order with exact numbers and time stamps, rotation applied.

Frame numbers are ranks of presentation time stamps over the packets that the file really holds, so they survive seeking, variable
frame rate, edit lists and headers that lie. Nothing here ever holds more than a few frames.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import av
import av.error
import numpy as np
import torch
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from jaxtyping import Float, UInt8
from torch import Tensor

Orientation = tuple[bool, bool, bool]
"""What to do to a decoded image, in this order: exchange rows and columns, mirror left-right, turn upside down."""

_ANGLE = {
    (False, False, False): (0, False),
    (True, True, False): (90, False),
    (False, True, True): (180, False),
    (True, False, True): (270, False),
    (False, True, False): (0, True),
    (True, False, False): (90, True),
    (False, False, True): (180, True),
    (True, True, True): (270, True),
}
"""Clockwise angle of an orientation, and whether a left-right mirror image follows."""


class BrokenVideo(ValueError):
    """A video that ends or breaks before its last frame; `frame` is the number of the first frame that is missing."""

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message)
        self.frame = frame


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds, as it is shown (rotation applied)."""

    width: int
    height: int
    fps: Fraction
    """Mean frames per second."""
    frames: int
    """Counted, not taken from the header."""
    promised: int
    """Frames the header speaks of; more than `frames` in a file that was cut off."""
    rotation: int
    """Degrees clockwise that the stored images were turned by."""
    mirrored: bool
    """Whether they were also mirrored left-right after turning."""
    duration: float
    """s, the last frame's own duration included."""
    variable: bool
    """Whether frame durations differ by more than a tenth; then use `times`."""


@dataclass(frozen=True)
class _Index:
    """Time stamps of all frames in presentation order, in units of the stream's time base, and where decoding can start."""

    stamps: tuple[int, ...]
    keyframes: tuple[tuple[int, int], ...]
    """(presentation, decoding) stamps."""
    promised: int
    time_base: Fraction
    rate: Fraction | None


def probe(path: Path) -> VideoInfo:
    """Size, rate, frame count and orientation of a video; reads all packets once but decodes a single frame.

    `FileNotFoundError` or `ValueError` (no video, empty, not readable) name the file and the remedy.
    """
    index = _index(path)
    orientation, width, height = _first_image(path)
    if orientation[0]:
        width, height = height, width
    rotation, mirrored = _ANGLE[orientation]
    steps = np.diff(np.asarray(index.stamps, dtype=np.int64))
    step = float(np.median(steps)) if len(steps) else float(1 / (index.time_base * (index.rate or 30)))
    duration = (index.stamps[-1] - index.stamps[0] + step) * float(index.time_base)
    # Containers with a coarse clock (Matroska: 1 ms) round every stamp by up to one unit.
    variable = bool(len(steps)) and float(np.abs(steps - step).max()) > max(0.1 * step, 1.5)
    measured = Fraction(len(index.stamps) / duration).limit_denominator(100_000)
    # A live stream's header may hold a guess: it is believed where the stamps bear it out.
    fps = index.rate if index.rate and not variable and abs(index.rate / measured - 1) < 0.05 else measured
    return VideoInfo(width, height, fps, len(index.stamps), index.promised, rotation, mirrored, duration, variable)


def times(path: Path) -> Float[Tensor, "T"]:
    """Presentation time of every frame, s from the start of the stream's clock (audio of the same file shares that clock)."""
    index = _index(path)
    return torch.tensor([float(stamp * index.time_base) for stamp in index.stamps], dtype=torch.float64)


def audio(path: Path, rate: int = 16_000, begin: float = 0.0, end: float | None = None) -> tuple[Float[Tensor, "N"], int, float]:
    """A video's sound mixed to one channel, its samples a second, and when the first sample was heard, s after the first video frame.

    Only the stretch from `begin` to `end` s is decoded. No samples where the file has no sound; a `ValueError` where the sound is broken.
    """
    zero = float(_index(path).stamps[0] * _index(path).time_base)
    with _opened(path) as container:
        if not container.streams.audio:
            return torch.zeros(0), rate, begin
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        if begin > 1:
            container.seek(int((zero + begin - 0.5) / stream.time_base), stream=stream)
        parts, start = [], None
        try:
            for frame in container.decode(stream):
                if end is not None and frame.time is not None and frame.time - zero > end:
                    break
                start = frame.time if start is None else start
                parts += [f.to_ndarray()[0] for f in resampler.resample(frame)]
            parts += [f.to_ndarray()[0] for f in resampler.resample(None)]
        except av.error.FFmpegError as error:
            raise ValueError(f"{path}: its sound cannot be decoded ({error}); copy the file again, or sync by another source") from error
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    start = (start or 0.0) - zero
    skip = min(max(round((begin - start) * rate), 0), len(samples))
    stop = len(samples) if end is None else min(max(round((end - start) * rate), skip), len(samples))
    return torch.from_numpy(samples[skip:stop].copy()), rate, start + skip / rate


def timecode(path: Path) -> str | None:
    """Timecode of the first frame as the camera wrote it (HH:MM:SS:FF, `;` before FF for drop frame); None where there is none."""
    with _opened(path) as container:
        places = [container.metadata, *(stream.metadata for stream in container.streams)]
    return next((str(m["timecode"]) for m in places if "timecode" in m), None)


def frames(
    path: Path, first: int = 0, last: int | None = None, size: tuple[int, int] | None = None, gray: bool = False, threads: int = 1
) -> Iterator[tuple[int, UInt8[np.ndarray, "..."]]]:
    """(number, image) of the frames `first` up to but without `last`, in presentation order, upright as shown.

    Images are uint8, (H, W, 3) RGB or (H, W) with `gray`; `size` (width, height) scales the upright image. `threads` 0 lets the
    decoder choose. A damaged or cut-off file yields all that decodes and then raises `BrokenVideo` with the number of the first
    missing frame.
    """
    index = _index(path)
    count = len(index.stamps)
    end = count if last is None else last
    promised = max(count, index.promised) if last is None else last
    if not 0 <= first < max(count, 1) or (last is not None and last <= first):
        raise ValueError(f"{path}: frames {first} to {last} asked for, but it holds frames 0 to {count - 1}")
    missing: int | None = None
    expected, trouble, orientation = first, "", None
    for item in _decoded(path, index, first, end, threads):
        if isinstance(item, str):
            trouble = item
            continue
        number, frame = item
        if number != expected and missing is None:
            missing = expected
        expected = number + 1
        # Only the first is asked: a frame and its side data hold each other, so a frame once asked stays until the garbage is collected.
        orientation = _orientation(frame) if orientation is None else orientation
        yield number, _upright(frame, orientation, size, gray)
    if missing is None and expected < promised:
        missing = expected
    if missing is not None:
        raise BrokenVideo(
            f"{path}: frame {missing} of {promised} cannot be decoded ({trouble or 'the file ends there'}); "
            "copy the file again from the camera, or limit the take to the frames before",
            missing,
        )


def _decoded(path: Path, index: _Index, first: int, end: int, threads: int) -> Iterator[tuple[int, VideoFrame] | str]:
    """Frames with their numbers, ascending; a string for every packet that does not decode."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        start = [dts for pts, dts in index.keyframes if pts <= index.stamps[first]]
        if first > 0 and start:
            container.seek(start[-1], stream=stream, backward=True)
        done = first - 1
        counter = -1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                images = packet.decode()
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                yield str(error)
                if isinstance(error, av.error.EOFError):
                    return
                continue
            for image in images:
                counter += 1
                number = counter if image.pts is None else bisect_left(index.stamps, image.pts)
                if number <= done:  # before the wanted range, or a leading frame of the key frame that decoding started at
                    continue
                if number >= end:
                    return
                done = number
                yield number, image
            if packet.dts is None and packet.size == 0:
                return


def _upright(frame: VideoFrame, orientation: Orientation, size: tuple[int, int] | None, gray: bool) -> UInt8[np.ndarray, "..."]:
    """The image as shown."""
    swap, mirror, flip = orientation
    width, height = size or (None, None)
    if swap:
        width, height = height, width
    same = gray and frame.format.name == "gray" and width is None
    image = (
        frame.to_ndarray()
        if same
        else frame.to_ndarray(format="gray" if gray else "rgb24", width=width, height=height, interpolation="AREA")
    )
    if not (swap or mirror or flip):
        return image
    if swap:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image[:: -1 if flip else 1, :: -1 if mirror else 1])


def _orientation(frame: VideoFrame) -> Orientation:
    """From the display matrix a b u c d v x y w (ISO 14496-12): a stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    side_data: Any = frame.side_data  # its stub wants a str where the library wants the enumeration
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
    swap = abs(b) > abs(a)
    return swap, (c if swap else a) < 0, (b if swap else d) < 0


@lru_cache(maxsize=64)
def _read_index(path: Path, _modified: int, _size: int) -> _Index:
    with _opened(path) as container:
        stream = container.streams.video[0]
        stamps, keyframes = [], []
        unstamped, packets, whole = 0, 0, None
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None:
                    unstamped += 1
                    continue
                packets += 1
                if not packet.is_corrupt:
                    whole = packet.dts
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keyframes.append((packet.pts, packet.dts if packet.dts is not None else packet.pts))
        except (av.error.FFmpegError, OSError):
            pass  # a cut-off file: what was read before counts, `promised` tells of the rest
        if packets < stream.frames and whole is not None:
            # Cut off: frames shown after the last whole packet's decoding time may lie between ones that never came.
            stamps = [stamp for stamp in stamps if stamp <= whole]
        time_base = Fraction(stream.time_base or Fraction(1, 1000))
        rate = stream.average_rate or stream.guessed_rate
        if unstamped and not stamps:  # raw streams: the rate is all there is
            stamps = [round(i / (Fraction(rate or 30) * time_base)) for i in range(unstamped)]
        return _Index(tuple(sorted(set(stamps))), tuple(sorted(keyframes)), stream.frames, time_base, Fraction(rate) if rate else None)


def _index(path: Path) -> _Index:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video; check the path, or record the take again")
    facts = path.stat()
    if facts.st_size == 0:
        raise ValueError(f"{path}: the file is empty; copy it again from the camera")
    index = _read_index(path, facts.st_mtime_ns, facts.st_size)
    if not index.stamps:
        raise ValueError(f"{path}: holds no video frame; copy it again from the camera")
    return index


def _opened(path: Path) -> Any:
    """An input container with at least one video stream; `ValueError` otherwise."""
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        remedy = "if the recording was interrupted, its index is missing: repair it with the camera's tool or record again"
        raise ValueError(f"{path}: not a readable video ({error}); {remedy}") from error
    if not container.streams.video:
        kinds = sorted({stream.type for stream in container.streams})
        container.close()
        raise ValueError(f"{path}: holds no video stream (only {', '.join(kinds) or 'nothing'}); give the camera's video file")
    return container


def _first_image(path: Path) -> tuple[Orientation, int, int]:
    """Orientation and stored width and height of the first frame that decodes."""
    index = _index(path)
    for item in _decoded(path, index, 0, len(index.stamps), 1):
        if not isinstance(item, str):
            return _orientation(item[1]), item[1].width, item[1].height
    raise BrokenVideo(f"{path}: not a single frame decodes; copy it again from the camera", 0)


class VideoWriter:
    """Writes images to a video under a temporary name and renames it on leaving the context; removes it if an error leaves it."""

    def __init__(self, path: Path, width: int, height: int, fps: Fraction | float, crf: int = 18, codec: str = "libx264") -> None:
        known = {"libx264": "yuv420p", "ffv1 gray": "gray"}
        if codec not in known:
            raise ValueError(f"{path}: codec {codec!r} is not one of {sorted(known)}")
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
        self._gray = codec == "ffv1 gray"
        self._shape = (height, width) if self._gray else (height, width, 3)
        self._container = av.open(str(self._partial), "w")
        rate = Fraction(fps).limit_denominator(100_000)
        stream: Any = self._container.add_stream(codec.split()[0], rate=rate)
        # Half-size colour planes need even sides.
        stream.pix_fmt = "yuv444p" if codec == "libx264" and (width % 2 or height % 2) else known[codec]
        stream.width, stream.height = width, height
        if codec == "libx264":
            stream.options = {"crf": str(crf)}
        self._stream, self._rate, self._written = stream, rate, 0

    def write(self, image: UInt8[np.ndarray, "..."]) -> None:
        """Append an image: (H, W, 3) RGB, or (H, W) for the gray codec."""
        if image.shape != self._shape or image.dtype != np.uint8:
            raise ValueError(f"{self.path}: image {image.shape} {image.dtype} given, {self._shape} uint8 expected")
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="gray" if self._gray else "rgb24")
        frame.pts, frame.time_base = self._written, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self._written += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._partial.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        self._container.close()
        self._partial.unlink(missing_ok=True)

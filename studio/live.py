"""The only opener of live sources, capture devices and network streams, and the writer that keeps what they send as it comes.

Beside studio/video.py, which reads finished files, the one module that knows PyAV: a live source cannot seek, has no index, and breaks.
"""

from __future__ import annotations

import errno
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import UInt8

COPIED = {"h264", "hevc", "mjpeg", "mpeg4", "mpeg2video", "vp8", "vp9", "av1"}
"""Codecs that are kept as they come; all else (raw images of a webcam) is encoded as H.264."""
CLOCKLESS = {"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "rawvideo", "image2pipe"}
"""Layouts that carry no time stamps: what the library makes up for them counts for nothing."""
MILLISECOND = Fraction(1, 1000)
"""Matroska's clock: the file's own stamps are rounded to it, the table of frame times is not."""


class SourceLost(ConnectionError):
    """A live source that cannot be opened, or that stopped sending."""


class SourceEnded(SourceLost):
    """A source that sent all there is: a file behind an address."""


@dataclass(frozen=True)
class Arrival:
    """What came from a source in one go."""

    packet: Any
    stamp: float | None
    """When it was taken, s on the source's own clock; None where the source does not say."""
    arrived: float
    """s of `time.monotonic`."""


def masked(place: str) -> str:
    """The address without user and password."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", place)


class LiveSource:
    """An open source: an address (rtsp, http, udp ...), a device (/dev/video0, or its number), or `lavfi:` and a test picture.

    `?key=value` pairs after a device are its driver's settings (`/dev/video0?framerate=60&video_size=1280x720`). A `SourceLost` says
    what is the matter and the remedy; a source silent for `patience` s counts as lost.
    """

    def __init__(self, name: str, place: str, patience: float = 5.0) -> None:
        self.name, self.place = name, place
        address, layout, options = _address(name, place)
        wait = (2 * patience, patience)
        try:
            try:
                # Webcams give their full rate only compressed, and raw images unless asked.
                asked = {"input_format": "mjpeg", **options} if layout == "v4l2" else options
                self._container: Any = av.open(address, format=layout, options=asked, timeout=wait)
            except (av.error.FFmpegError, OSError):
                if layout != "v4l2" or "input_format" in options:
                    raise
                self._container = av.open(address, format=layout, options=options, timeout=wait)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceLost(f"{name}: {masked(place)} cannot be opened ({_short(error)}); {_remedy(layout)}") from error
        if not self._container.streams.video:
            self.close()
            raise SourceLost(f"{name}: {masked(place)} sends no video; give the address of the camera's video stream")
        self.stream: Any = self._container.streams.video[0]
        self.stream.codec_context.thread_count = 1  # many sources at once: threads that wait for frames only delay them

    @property
    def copied(self) -> bool:
        """Whether its packets can be kept without encoding them again."""
        return self.stream.codec_context.name in COPIED

    @property
    def kind(self) -> tuple[str, int, int]:
        """Codec, width and height: what must stay the same for a recording to go on after a break. 0 px where it did not say yet."""
        context = self.stream.codec_context
        return context.name, context.width, context.height

    def packets(self) -> Iterator[Arrival]:
        """Packets as they arrive, without end; a `SourceLost` where they stop, a `SourceEnded` where no more will come."""
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except (av.error.FFmpegError, OSError, StopIteration) as error:
                raise self._end(error) from error
            arrived = time.monotonic()
            if packet.size == 0:
                raise self._end(EOFError())
            if not packet.is_corrupt:
                clocked = packet.pts is not None and self._container.format.name not in CLOCKLESS
                yield Arrival(packet, float(packet.pts * packet.time_base) if clocked else None, arrived)

    def _end(self, error: BaseException) -> SourceLost:
        if not isinstance(error, StopIteration | EOFError):
            return SourceLost(f"{self.name}: the connection is lost ({_short(error)})")
        if self._container.size > 0:  # its length was known: this is all of it
            return SourceEnded(f"{self.name}: the stream ended")
        return SourceLost(f"{self.name}: the stream ended")

    def images(self, packet: Any) -> list[VideoFrame]:
        """Images that a packet completes; none from one that does not decode."""
        try:
            return packet.decode()
        except (av.error.FFmpegError, OSError):
            return []

    def close(self) -> None:
        """Let the source go."""
        self._container.close()


def preview(frame: VideoFrame, width: int = 640) -> UInt8[np.ndarray, "H W 3"]:
    """The image as RGB, at most `width` px wide."""
    width = min(width, frame.width)
    return frame.to_ndarray(format="rgb24", width=width, height=max(2, round(frame.height * width / frame.width)))


class LiveWriter:
    """A Matroska file under a temporary name, renamed by `close`; even a killed run leaves it playable.

    Packets are kept as they are where the source's codec allows (`copied`), otherwise its images are encoded. An `OSError` says in a
    sentence why the file cannot be written.
    """

    def __init__(self, path: Path, source: LiveSource) -> None:
        self.path, self.copied = path, source.copied
        self._partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self._container, self._stream = self._opened(), None
        self._last: int | None = None
        self.frames = 0
        if not self.copied:
            return
        try:
            self._stream = self._container.add_stream_from_template(source.stream)
            self._container.start_encoding()
        except ValueError:  # a file's header needs what the stream has not told yet, such as the size of its images
            self._container.close()
            self.copied, self._container, self._stream = False, self._opened(), None

    def _opened(self) -> Any:
        return av.open(str(self._partial), "w", format="matroska", options={"flush_packets": "1", "cluster_time_limit": "1000"})

    def _encoder(self, width: int, height: int) -> Any:
        stream = self._container.add_stream("libx264", rate=30, options={"crf": "18", "preset": "veryfast", "bf": "0"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        return stream

    def write(self, item: Any, moment: float) -> None:
        """Append a packet, or an image where the writer encodes, shown `moment` s after the recording began."""
        try:
            (self._encode if isinstance(item, VideoFrame) else self._copy)(item, round(moment * 1000))
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"the clip ends here, for what came cannot be written ({_short(error)}); what was kept plays") from error
        self.frames += 1

    def _encode(self, image: VideoFrame, shown: int) -> None:
        self._stream = self._stream or self._encoder(image.width, image.height)
        image = image.reformat(self._stream.width, self._stream.height, self._stream.pix_fmt)
        image.pts, image.time_base = self._next(shown), MILLISECOND
        image.pict_type = 0  # the encoder decides, not the source
        self._container.mux(self._stream.encode(image))

    def _copy(self, packet: Any, shown: int) -> None:
        pts, dts = packet.pts, packet.dts
        late = 0 if dts is None or pts is None else max(0, round(float((pts - dts) * packet.time_base) * 1000))
        packet.stream, packet.time_base = self._stream, MILLISECOND
        decoded = self._next(shown - late)
        packet.pts, packet.dts = max(shown, decoded), decoded
        self._container.mux(packet)

    def _next(self, moment: int) -> int:
        """The moment, or the first free one after the last: stamps must ascend."""
        self._last = moment if self._last is None else max(moment, self._last + 1)
        return self._last

    def close(self) -> None:
        """Finish the file and give it its name; no file where nothing was written."""
        try:
            if not self.copied and self._stream is not None:
                self._container.mux(self._stream.encode(None))
        finally:
            try:
                self._container.close()
            finally:
                if self.frames:
                    self._partial.replace(self.path)  # on a full disk too: what is there plays
                else:
                    self._partial.unlink(missing_ok=True)


def _address(name: str, place: str) -> tuple[str, str | None, dict[str, str]]:
    """What to open, in which layout (None: the library finds out) and with which options."""
    if place.startswith("lavfi:"):
        return place.removeprefix("lavfi:"), "lavfi", {}
    if "://" in place:
        # Open at once: the rate is measured, not guessed from the first second; and nothing old is kept from looking at the stream.
        options = {"fflags": "nobuffer", "analyzeduration": "2000000", "fpsprobesize": "0"}
        return place, None, options | ({"rtsp_transport": "tcp"} if place.startswith("rtsp") else {})
    device, _, settings = place.partition("?")
    options = dict(pair.split("=", 1) for pair in settings.split("&") if "=" in pair)
    if sys.platform.startswith("linux"):
        path = Path(f"/dev/video{device}" if device.isdigit() else device)
        if not path.exists():
            there = sorted(str(p) for p in Path("/dev").glob("video*"))
            raise SourceLost(
                f"{name}: {path}: no such capture device; there {'are ' + ', '.join(there) if there else 'is none'}: plug the camera in, "
                "and see that this user may use it (group video)"
            )
        return str(path), "v4l2", options
    if sys.platform == "darwin":
        return device, "avfoundation", {"framerate": "30", **options}
    return f"video={device}", "dshow", options


def _remedy(layout: str | None) -> str:
    if layout is None:
        return "check the address in another player, user and password, and that the camera is on the network"
    return "close other programs that use it, and check its settings"


def _short(error: BaseException) -> str:
    if isinstance(error, StopIteration | EOFError):
        return "the stream ended"
    if getattr(error, "errno", None) == errno.EIO:
        return "the other side closed it"
    return "no answer in time" if "xit requested" in str(error) else str(getattr(error, "strerror", None) or error)

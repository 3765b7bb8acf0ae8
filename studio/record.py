"""Recording from capture devices and network streams: one clip a source, and a table of when each frame was taken."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from rich.console import Console

from studio.arrivals import ascending, frame_times, write_table
from studio.freshness import VIDEO_SUFFIXES
from studio.live import Arrival, LiveSource, LiveWriter, SourceEnded, SourceLost, masked, preview

Preview = Callable[[str, UInt8[np.ndarray, "H W 3"]], None]
PREVIEW = 0.2
"""s between two preview images of a source."""
SPARE = 500_000_000
"""Bytes that are left free on the disk: clips can still be finished, and the system lives."""


@dataclass(frozen=True)
class Clip:
    """What was recorded of one source."""

    video: Path | None
    """None where not a frame came, or nothing was to be kept."""
    times: Float[np.ndarray, "T"]
    """When each frame was taken, s since 1970, ascending."""
    dropped: int
    """Frames that are missing, told from gaps between those that came."""
    breaks: int
    """How often the connection was lost and found again."""
    trouble: str = ""
    """Why it ended before the others; empty where it did not."""

    @property
    def fps(self) -> float:
        """Frames per second as measured, of the usual distance between two frames; 0 for fewer than two."""
        return 1 / float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0


@dataclass(frozen=True)
class Recording:
    """Clips by source, and the table of their frame times (None where nothing was kept)."""

    clips: dict[str, Clip]
    table: Path | None


def record(
    sources: Mapping[str, str],
    folder: Path | None,
    seconds: float | None = None,
    on_preview: Preview | None = None,
    stop: threading.Event | None = None,
    patience: float = 5.0,
) -> Recording:
    """Record every source into `folder` (`<name>.mkv`, `timestamps.csv`) for `seconds`, or until `stop` is set or Ctrl-C is pressed.

    All begin together, once each has been opened. `on_preview` is called in this thread with a source's name and its latest image, RGB at
    most 640 px wide, at most five times a second each; without a `folder` nothing is kept, which makes a live view. A source that is lost
    is opened again until the end, and said so. A `ValueError` tells which source cannot be opened, a full disk is an `OSError`; what was
    recorded until then is kept.
    """
    console = Console(stderr=True)
    if not sources:
        raise ValueError("record: no source given; name one: cam01=/dev/video0, or cam02=rtsp://address")
    for name in sources:
        if not name or any(c in name for c in '/\\:*?"<>|') or name.startswith("."):
            raise ValueError(f"record: {name!r} cannot be the name of a clip; use letters, digits, - and _")
    if folder is not None:
        _prepare(folder, sources)
    stop = stop or threading.Event()
    shared = _Shared(stop, patience, lambda line: console.print(line, highlight=False, soft_wrap=True), on_preview is not None)
    workers = {name: _Worker(name, place, folder, shared) for name, place in sources.items()}
    for worker in workers.values():
        worker.start()
    try:
        _wait_until_open(workers, stop)
        shared.began = time.monotonic()
        shared.go.set()
        _watch(workers, shared, folder, seconds, on_preview)
    except KeyboardInterrupt:
        pass  # the usual way to end: what was recorded is finished below
    finally:
        stop.set()
        shared.go.set()
        for worker in workers.values():
            worker.join()
    epoch = time.time() - time.monotonic()
    clips = {name: worker.clip(epoch) for name, worker in workers.items()}
    table = None
    try:
        kept = {name: clip.times for name, clip in clips.items() if len(clip.times)}
        if folder is not None and kept:
            table = write_table(folder / "timestamps.csv", kept)
    except OSError as error:
        shared.disk = shared.disk or f"timestamps.csv cannot be written ({error.strerror})"
    console.print(_summary(clips, folder), highlight=False, soft_wrap=True)
    if shared.disk:
        raise OSError(f"{folder}: {shared.disk}; what was recorded until then is kept: make room, or choose another --out")
    return Recording(clips, table)


def _prepare(folder: Path, sources: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in sources:
        if there := [p for s in VIDEO_SUFFIXES if (p := folder / f"{name}{s}").exists()]:
            raise FileExistsError(f"{there[0]}: exists already; choose another --out, or move it away")
    if (folder / "timestamps.csv").exists():
        raise FileExistsError(f"{folder / 'timestamps.csv'}: exists already; choose another --out, or move that recording away")
    if shutil.disk_usage(folder).free < 2 * SPARE:
        raise OSError(f"{folder}: the disk is nearly full ({shutil.disk_usage(folder).free / 1e9:.1f} GB free); make room first")


@dataclass
class _Shared:
    stop: threading.Event
    patience: float
    tell: Callable[[str], None]
    wants_images: bool
    go: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    """`time.monotonic` when the recording began."""
    disk: str = ""
    """Set where the disk is full."""


class _Worker(threading.Thread):
    """Records one source."""

    def __init__(self, name: str, place: str, folder: Path | None, shared: _Shared) -> None:
        super().__init__(name=name, daemon=True)
        self.place, self.folder, self.shared = place, folder, shared
        self.ready, self.failed, self.trouble = threading.Event(), "", ""
        self.image: UInt8[np.ndarray, "H W 3"] | None = None
        self.segments: list[list[tuple[float | None, float]]] = []
        """For every stretch without a break: stamp and arrival of each frame that was kept."""
        self.writer: LiveWriter | None = None
        self.kind: tuple[str, int, int] | None = None
        self._shown = 0.0

    def run(self) -> None:
        """Open, record, open again after a break, until told to stop."""
        try:
            self._record()
        except OSError as error:
            self._troubled(error)
        except Exception as error:  # a thread's fault must reach the user, and must not end the others' recording
            self.trouble = f"{type(error).__name__}: {error}"
        finally:
            self._finish()
            if self.trouble and self.shared.go.is_set():
                self.shared.tell(f"{self.name}: {self.trouble}")
            self.ready.set()

    def _record(self) -> None:
        lost: float | None = None
        while not self.shared.stop.is_set():
            try:
                source = LiveSource(self.name, self.place, self.shared.patience)
            except SourceLost as error:
                if lost is None:  # never opened
                    self.failed = str(error)
                    return
                self.shared.stop.wait(0.5)
                continue
            try:
                if not self._same(source.kind):
                    self.trouble = f"came back as {source.kind} instead of {self.kind}; its recording ends at the break"
                    return
                self.kind, opened = source.kind, time.monotonic()
                self.ready.set()
                if lost is not None:
                    self.shared.tell(f"{self.name}: back after {time.monotonic() - lost:.1f} s")
                self.segments.append([])
                self._keep(source)
            except SourceEnded:
                self.trouble = "the stream ended"
                return
            except SourceLost as error:
                lost = time.monotonic()
                if not self.shared.stop.is_set():
                    self.shared.tell(f"{error}, trying again")
                if lost - opened < 1:  # a source that breaks at once is not asked a hundred times a second
                    self.shared.stop.wait(0.5)
            finally:
                source.close()

    def _same(self, kind: tuple[str, int, int]) -> bool:
        """Whether a source that came back sends what it sent before; a size that one of the two did not tell counts as the same."""
        return self.kind is None or kind == self.kind or (kind[0] == self.kind[0] and not (kind[1] and self.kind[1]))

    def _keep(self, source: LiveSource) -> None:
        """Everything a source sends, from its first whole image on, until the end or the source is lost."""
        first: float | None = None
        for arrival in source.packets():
            if self.shared.stop.is_set():
                return
            if not self.shared.go.is_set():
                continue
            if not self.segments[-1] and source.copied and not arrival.packet.is_keyframe:
                continue
            first = arrival.stamp if first is None else first
            if arrival.stamp is not None and first is not None and arrival.stamp < first:
                continue  # images that need one from before the first
            self._one(source, arrival)

    def _one(self, source: LiveSource, arrival: Arrival) -> None:
        wanted = self.shared.wants_images
        if self.folder is not None:
            self.writer = self.writer or LiveWriter(self.folder / f"{self.name}.mkv", source)
        copied = source.copied if self.writer is None else self.writer.copied
        images = source.images(arrival.packet) if wanted or not copied else []
        if self.writer is not None:
            for item in [arrival.packet] if copied else images:
                stamp = arrival.stamp if copied or arrival.stamp is None else item.time
                self.writer.write(item, self._moment(stamp, arrival.arrived))
                self.segments[-1].append((stamp, arrival.arrived))
        else:
            self.segments[-1].append((arrival.stamp, arrival.arrived))
        if wanted and images and arrival.arrived - self._shown >= PREVIEW:
            self._shown, self.image = arrival.arrived, preview(images[-1])

    def _moment(self, stamp: float | None, arrived: float) -> float:
        """Where in the clip a frame goes, s: by its own stamp within a stretch, by its arrival where a stretch begins."""
        first, begun = self.segments[-1][0] if self.segments[-1] else (stamp, arrived)
        passed = arrived - begun if stamp is None or first is None else stamp - first
        return begun - self.shared.began + passed

    def _finish(self) -> None:
        if self.writer is None:
            return
        try:
            self.writer.close()
        except OSError as error:
            self._troubled(error)

    def _troubled(self, error: OSError) -> None:
        told = f"{error.filename}: cannot be written ({error.strerror}); choose another --out" if error.filename else str(error)
        self.trouble = self.trouble or told
        if error.errno == errno.ENOSPC:
            self.shared.disk = "the disk is full"
            self.shared.stop.set()

    def clip(self, epoch: float) -> Clip:
        """What came of it; `epoch` is what `time.monotonic` lacks to the time since 1970, s."""
        parts = [frame_times(part) + epoch for part in self.segments if part]
        times = ascending(np.concatenate(parts)) if parts else np.zeros(0)
        steps = np.diff(times)
        usual = float(np.median(steps)) if len(steps) else 0.0
        missing = int(np.maximum(np.round(steps / usual) - 1, 0).sum()) if usual > 0 else 0
        video = self.writer.path if self.writer is not None and self.writer.path.exists() else None
        return Clip(video, times, missing, max(0, len(parts) - 1), self.trouble)


def _wait_until_open(workers: Mapping[str, _Worker], stop: threading.Event) -> None:
    """Until every source has been opened; a `ValueError` with all that could not be."""
    while not all(w.ready.is_set() or not w.is_alive() for w in workers.values()):
        if stop.wait(0.02):
            return
    if failed := [w.failed or f"{n}: {w.trouble}" for n, w in workers.items() if w.failed or w.trouble]:
        raise ValueError("; ".join(failed))


def _watch(workers: Mapping[str, _Worker], shared: _Shared, folder: Path | None, seconds: float | None, on_preview: Preview | None) -> None:
    """Hand out preview images and look after the disk until the time is over."""
    looked = 0.0
    while any(w.is_alive() for w in workers.values()):
        left = 3600.0 if seconds is None else shared.began + seconds - time.monotonic()
        if left <= 0 or shared.stop.wait(min(0.05, left)):
            return
        for name, worker in workers.items() if on_preview else ():
            image, worker.image = worker.image, None
            if image is not None and on_preview:
                on_preview(name, image)
        if folder is not None and time.monotonic() - looked > 1:
            looked = time.monotonic()
            if shutil.disk_usage(folder).free < SPARE:
                shared.disk = f"the disk is full but for {SPARE / 1e6:.0f} MB"
                return


def _summary(clips: Mapping[str, Clip], folder: Path | None) -> str:
    parts = []
    for name, clip in clips.items():
        extra = f", {clip.breaks} breaks" if clip.breaks else ""
        extra += f" ({clip.trouble})" if clip.trouble else ""
        parts.append(f"{name} {len(clip.times)} frames, {clip.fps:.2f} fps, {clip.dropped} dropped{extra}")
    longest = max((float(np.ptp(c.times)) for c in clips.values() if len(c.times)), default=0.0)
    return f"record: {longest:.1f} s; {'; '.join(parts)}" + (f" -> {folder}" if folder is not None else "")


def sources_of(devices: tuple[str, ...], streams: tuple[str, ...]) -> dict[str, str]:
    """Sources by name from `NAME=PLACE` words; a `ValueError` names the word that is wrong."""
    found: dict[str, str] = {}
    for word, what in (*((d, "device") for d in devices), *((s, "stream") for s in streams)):
        name, equals, place = word.partition("=")
        example = "cam01=/dev/video0" if what == "device" else "cam02=rtsp://192.168.0.12/stream"
        if not (name and equals and place) or (what == "stream" and "://" not in place):
            raise ValueError(f"--{what} {masked(word)}: needs NAME=PLACE, for example {example}")
        if name in found:
            raise ValueError(f"--{what} {masked(word)}: {name!r} is named twice; give each source its own name")
        found[name] = place
    return found

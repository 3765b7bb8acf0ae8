"""Several calibrated views seen in step, one instant after the other, so that each is told where the others put everybody.

What a view is told at an instant comes from the instants before alone, so the order in which views are worked on changes nothing.
Cameras count as started together with the stretch of the video that they were given; if they were not, views disagree about whoever
moves, nobody is told anything of him, and he is seen as by each camera alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch

from calibration.cameras import Cameras
from studio.detect.chunks import Findings, Piece, detector_of, opened_at, see_piece
from studio.detect.landmarks import Sight
from studio.detect.runtimes import Rounds, Runtime
from studio.detect.sparing import Look
from studio.guide import Guide, Hint, stacked
from studio.video import BrokenVideo


@dataclass(frozen=True)
class Group:
    """The pieces of all cameras that show the same time."""

    pieces: tuple[Piece, ...]
    cameras: Cameras
    """Of the pieces, in their order."""
    threads: int = 1
    """How many views are worked on at a time."""

    @property
    def done(self) -> bool:
        """Whether all of it was finished before."""
        return all(piece.done for piece in self.pieces)

    @property
    def frames(self) -> int:
        """Of all pieces."""
        return sum(piece.frames for piece in self.pieces)


Job = Piece | Group


def see(job: Job, step: Callable[[str], bool], runtime: Runtime | None = None) -> str | None:
    """Writes the files of a piece, or of all pieces of a group; a warning where a video breaks off. See `see_piece`."""
    if isinstance(job, Group):
        return see_group(job, step, runtime)
    with at_work(runtime):
        return see_piece(job, step, runtime)


def groups_of(jobs: dict[str, list[Piece]], cameras: Cameras, threads: int) -> list[Group]:
    """The cameras' first pieces, then their second, and so on; `jobs` has the cameras' names."""
    found = []
    for row in zip_longest(*(jobs[c] for c in cameras.names)):
        here = [i for i, piece in enumerate(row) if piece is not None]
        found.append(Group(tuple(row[i] for i in here), cameras[here], threads))
    return found


def at_work(runtime: Runtime | None) -> AbstractContextManager[None]:
    """Of a runtime that collects crops of several threads: this one's are waited for."""
    return runtime.at_work() if isinstance(runtime, Rounds) else nullcontext()


class _View:
    """One camera's part: its frames in order, and what was seen in them."""

    def __init__(self, piece: Piece, number: int, runtime: Runtime | None) -> None:
        from studio.detect.guided import Guided

        self.piece, self.findings = piece, Findings(piece)
        self._detector, self._source = detector_of(piece, runtime, kind=Guided, phase=7 * number), opened_at(piece)
        self._next: tuple[int, Any] | None = None
        self._advance()

    @property
    def time(self) -> float | None:
        """Of the frame that is next, s; None at the end."""
        return None if self._next is None else (self._next[0] - self.piece.begin) / self.piece.fps

    def see(self, until: float, hints: Sequence[Hint], working: ExitStack) -> tuple[int, dict[int, Sight]]:
        """Work off the frames before `until` (s), then close `working`; how many of them belong to the piece, and who is in the last."""
        count, sights = 0, {}
        with working:
            while self._next is not None and self.time < until:  # type: ignore[operator]
                number, image = self._next
                sights = self._detector.see_with(image, hints)
                self.findings.put(Look(number, image, sights))
                count += number >= self.piece.first
                self._advance()
        return count, sights

    def _advance(self) -> None:
        try:
            self._next = next(self._source, None)
        except BrokenVideo as broken:
            self.findings.warning, self._next = str(broken), None


def see_group(group: Group, step: Callable[[str], bool], runtime: Runtime | None = None) -> str | None:
    """Writes the files of all its pieces; a warning where videos break off. `step` is told of every frame, as in `see_piece`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the guide's matrices are small: more threads only wait for each other
    try:
        # Whoever is at work of those that collect crops must not wait for a thread.
        with ExitStack() as stack, ThreadPoolExecutor(len(group.pieces) if isinstance(runtime, Rounds) else group.threads) as pool:
            views = [_View(piece, i, runtime) for i, piece in enumerate(group.pieces)]
            for view in views:
                stack.enter_context(view.findings)
            for counts in _rounds(group, views, pool, runtime):
                if not all(step(v.piece.camera) for v, n in zip(views, counts, strict=True) for _ in range(n)):
                    raise InterruptedError
            for view in views:
                view.findings.save()
            return "\n".join(v.findings.warning for v in views if v.findings.warning) or None
    finally:
        torch.set_num_threads(threads)


def _rounds(group: Group, views: list[_View], pool: ThreadPoolExecutor, runtime: Runtime | None) -> Iterator[list[int]]:
    """Instant by instant of the slowest camera: how many frames of its piece each view has worked off."""
    guide, rate = Guide(group.cameras), min(piece.fps for piece in group.pieces)
    while (now := min((v.time for v in views if v.time is not None), default=None)) is not None:
        hints, until = guide.hints(now), now + 0.5 / rate
        working = [ExitStack() for _ in views]
        for one in working:  # before any of them begins, so that their crops go through the networks together
            one.enter_context(at_work(runtime))
        jobs = [pool.submit(v.see, until, h, w) for v, h, w in zip(views, hints, working, strict=True)]
        answers = [job.result() for job in jobs]
        guide.update(now, stacked([{slot: s.pixels for slot, s in sights.items()} for _, sights in answers]))
        yield [count for count, _ in answers]


def cores(workers: int, jobs: int) -> int:
    """Threads for each of so many jobs at a time."""
    there = workers or os.cpu_count() or 1
    return max(1, there // max(min(there, jobs), 1))

"""Who works through the pieces: processes on a CPU, or threads of one process that share a device in common batches."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import connection
from typing import Any

from studio.detect.runtimes import Rounds, Runtime
from studio.detect.together import Job, see


def see_in_threads(todo: list[Job], threads: int, runtime: Runtime, show: Callable[[int], None]) -> list[str | None]:
    """Each thread decodes and follows one video at a time, and all their crops go through `runtime` together; the videos' warnings.

    An interruption, or one thread's failure, lets each stop after its frame and leaves finished pieces in place.
    """
    rounds, waiting, stop, seen = Rounds(runtime), deque(todo), threading.Event(), 0
    counting = threading.Lock()

    def step(_: str) -> bool:
        nonlocal seen
        with counting:
            seen += 1
            show(seen)
        return not stop.is_set()

    def work() -> list[str | None]:
        found = []
        while waiting:
            try:
                job = waiting.popleft()
            except IndexError:  # another thread was quicker
                break
            found.append(see(job, step, rounds))
        return found

    crew = [work] * min(threads or 2 * (os.cpu_count() or 1), len(todo))
    with ThreadPoolExecutor(len(crew)) as pool:
        jobs = [pool.submit(job) for job in crew]
        try:
            return [warning for job in as_completed(jobs) for warning in job.result()]
        except BaseException:
            stop.set()
            waiting.clear()
            raise


def see_in_processes(todo: list[Job], processes: int, show: Callable[[int], None]) -> list[str | None]:
    """In processes of their own, which share no lock: whatever ends one of them, no other waits for it; the videos' warnings.

    An interruption lets each stop after its frame and leaves finished pieces in place.
    """
    processes = min(processes or os.cpu_count() or 1, len(todo))
    if processes > 1:
        return _see_apart(todo, processes, show)
    seen = 0

    def step(_: str) -> bool:
        nonlocal seen
        seen += 1
        show(seen)
        return True

    return [see(job, step) for job in todo]


def _see_apart(todo: list[Job], processes: int, show: Callable[[int], None]) -> list[str | None]:
    context = multiprocessing.get_context("spawn")
    stop = context.Value("b", 0, lock=False)
    counters = [context.Value("q", 0, lock=False) for _ in range(processes)]
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=_work, args=(todo[i::processes], counters[i], stop, pipes[i][1]), daemon=True) for i in range(processes)
    ]
    try:
        for worker, (_, sender) in zip(workers, pipes, strict=True):
            worker.start()
            sender.close()  # now the worker's alone: its end is the pipe's
        answers: list[str | None] = []
        waiting: list[Any] = [receiver for receiver, _ in pipes]
        while waiting:
            for receiver in connection.wait(waiting, timeout=0.2):
                answers += _answer(receiver)
                waiting.remove(receiver)
            show(sum(counter.value for counter in counters))
        return answers
    finally:
        stop.value = 1
        _end([worker for worker in workers if worker.pid is not None])


def _answer(receiver: Any) -> list[str | None]:
    """A worker's warnings; what it failed of is raised here."""
    try:
        warnings, error = receiver.recv()
    except EOFError:
        raise ValueError("detect: a worker process was ended from outside, probably for want of memory; use fewer `workers`") from None
    if error is not None:
        raise error
    return warnings


def _end(workers: list[Any], grace: float = 3.0) -> None:
    """Lets workers finish their frame; whoever has not ended after `grace` s is ended (what it was writing has a temporary name)."""
    until = time.monotonic() + grace
    for worker in workers:
        worker.join(max(until - time.monotonic(), 0.0))
        if worker.is_alive():
            worker.terminate()


def _work(pieces: list[Job], counter: Any, stop: Any, sender: Any) -> None:
    """A worker's life. The parent alone answers to Ctrl-C, and without it there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2
    import torch

    cv2.setNumThreads(1)  # there is a process for every processor
    torch.set_num_threads(1)
    parent = os.getppid()

    def step(_: str) -> bool:
        counter.value += 1
        return not stop.value and os.getppid() == parent

    try:
        sender.send(([see(job, step) for job in pieces], None))
    except InterruptedError:
        pass
    except Exception as error:
        sender.send(([], error))

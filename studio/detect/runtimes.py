"""The same weights run two ways: LiteRT, one crop at a time on a CPU thread, and torch, many crops at once on any device.

On a CPU LiteRT costs about half; a GPU wants torch and full batches, which `Rounds` collects from threads that each follow one video.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float

from studio.detect.adapted import Changed, file_with, read
from studio.detect.tflite import PARTS, Array, file_of_part, network_file

Choice = Literal["auto", "litert", "torch"]
Precision = Literal["float32", "float16", "bfloat16"]
LARGEST = 64
"""Crops in one batch: beyond that a GPU gains nothing and memory grows."""


class Runtime(Protocol):
    """Runs networks of the wheel by name."""

    def side(self, name: str) -> int:
        """px of the crops a network takes."""
        ...

    def run(self, name: str, crops: Float[Array, "B side side 3"], low: float) -> list[Float[Array, "B ..."]]:
        """Outputs in the file's order and layout (channels last), of crops whose 0..255 become `low`..1."""
        ...


class LiteRT:
    """On one CPU thread, through Google's interpreter. Belongs to one thread."""

    def __init__(self, adapted: Path | None = None) -> None:
        """`adapted`: a difference (`studio.detect.adapted`) that changes one of the networks."""
        self._interpreters: dict[str, tuple[Any, Any, list[int]]] = {}
        self._changed = None if adapted is None else read(adapted)

    def side(self, name: str) -> int:
        """px."""
        return int(self._interpreter(name)[0].get_input_details()[0]["shape"][1])

    def run(self, name: str, crops: Float[Array, "B side side 3"], low: float) -> list[Float[Array, "B ..."]]:
        """One crop after the other."""
        interpreter, given, wanted = self._interpreter(name)
        answers = []
        for crop in crops:
            _fill(interpreter.tensor(given)(), crop, low)
            interpreter.invoke()
            answers.append([interpreter.get_tensor(i) for i in wanted])
        return answers[0] if len(answers) == 1 else [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def _interpreter(self, name: str) -> tuple[Any, Any, list[int]]:
        """A network, the number of its input, and those of its outputs: asking for them every time costs as much as a small network."""
        if name not in self._interpreters:
            from ai_edge_litert.interpreter import Interpreter

            with _quiet():
                interpreter = Interpreter(num_threads=1, **_source(name, self._changed))
                interpreter.allocate_tensors()
            wanted = [d["index"] for d in interpreter.get_output_details()]
            self._interpreters[name] = interpreter, interpreter.get_input_details()[0]["index"], wanted
        return self._interpreters[name]


def _source(name: str, changed: Changed | None) -> dict[str, Any]:
    """Where the interpreter reads a network: the wheel's file, or bytes of one that was changed or cut down."""
    whole, outputs = PARTS.get(name, (name, None))
    if changed is not None and changed.base != whole:
        changed = None
    if changed is None and outputs is None:
        return {"model_path": str(network_file(whole))}
    if changed is None and outputs is not None:
        return {"model_content": _part(whole, tuple(outputs))}
    content = network_file(whole).read_bytes() if changed is None else file_with(changed)
    return {"model_content": content if outputs is None else file_of_part(content, outputs)}


@cache
def _part(name: str, outputs: tuple[int, ...]) -> bytes:
    """Cut down once a process, not for every video."""
    return file_of_part(network_file(name).read_bytes(), outputs)


def _fill(tensor: Float[Array, "1 side side 3"], crop: Float[Array, "side side 3"], low: float) -> None:
    """Writes a crop into a network's own memory, which nobody may hold while the network runs."""
    np.multiply(crop, np.float32((1 - low) / 255), out=tensor[0])
    if low:
        tensor += np.float32(low)


class Torch:
    """In batches on a device."""

    def __init__(self, device: str = "auto", precision: Precision = "float32", adapted: Path | None = None) -> None:
        """`float16` moves landmarks by about 0.1 px of the crop, `bfloat16` by 2: measure before using them. `adapted` as for `LiteRT`."""
        import torch

        self._torch = torch
        self.device = _device(device)
        self._dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[precision]
        self._networks: dict[str, Any] = {}
        self._changed = None if adapted is None else read(adapted)

    def side(self, name: str) -> int:
        """px."""
        return self._network(name).side

    def run(self, name: str, crops: Float[Array, "B side side 3"], low: float) -> list[Float[Array, "B ..."]]:
        """All crops at once, up to `LARGEST`."""
        torch, network = self._torch, self._network(name)
        parts = []
        # TensorFloat-32, cuDNN's default, would err as much as half precision.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for batch in torch.from_numpy(np.array(crops, np.float32)).split(LARGEST):
                images = batch.to(self.device).permute(0, 3, 1, 2) * ((1 - low) / 255) + low
                found = network(images.to(self._dtype).contiguous(memory_format=torch.channels_last))
                parts.append([(y.permute(0, 2, 3, 1) if y.ndim == 4 else y).float().cpu().numpy() for y in found])
        return [np.concatenate(found) for found in zip(*parts, strict=True)]

    def _network(self, name: str) -> Any:
        if name not in self._networks:
            if self._changed is not None and self._changed.base == PARTS.get(name, (name,))[0]:
                self._networks[name] = _ready(name, str(self.device), self._dtype, self._changed)
            else:
                self._networks[name] = _loaded(name, str(self.device), self._dtype)
        return self._networks[name]


@cache
def _loaded(name: str, device: str, dtype: Any) -> Any:
    """One copy a process, device and precision."""
    return _ready(name, device, dtype)


def _ready(name: str, device: str, dtype: Any, changed: Changed | None = None) -> Any:
    import torch

    from studio.detect.torch_network import load

    network = load(*PARTS.get(name, (name, None)), changed=changed).eval().requires_grad_(False).to(device, dtype)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _device(name: str) -> Any:
    """A `ValueError` says when it is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ValueError(f"detect: device {name!r} cannot be used ({str(error).splitlines()[0]}); this machine has {there}") from error
    return device


def chosen(runtime: Choice, device: str = "auto") -> Literal["litert", "torch"]:
    """What `auto` means here: torch where its device is a GPU, else LiteRT. A `ValueError` names a device that does not go with it."""
    if runtime == "auto":
        return "litert" if _device(device).type == "cpu" else "torch"
    if runtime == "litert" and device not in ("auto", "cpu"):
        raise ValueError(f"detect: runtime litert runs on the CPU only, not on {device!r}; choose runtime torch")
    return runtime


@dataclass
class _Question:
    name: str
    crops: Array
    low: float
    answer: list[Array] | None = None
    error: Exception | None = field(default=None)

    @property
    def settled(self) -> bool:
        return self.answer is not None or self.error is not None


class Rounds:
    """A runtime for many threads: when everybody at work waits for an answer, each network runs once on all that was asked of it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._turn = runtime, threading.Condition()
        self._workers, self._asked = 0, []
        self.batches: dict[int, int] = {}
        """How many batches of each size were run."""

    def side(self, name: str) -> int:
        """px."""
        with self._turn:
            return self._runtime.side(name)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While inside, this thread's questions are waited for."""
        with self._turn:
            self._workers += 1
        try:
            yield
        finally:
            with self._turn:
                self._workers -= 1
                self._answer()

    def run(self, name: str, crops: Float[Array, "B side side 3"], low: float) -> list[Float[Array, "B ..."]]:
        """As the runtime would; returns when the round is over."""
        question = _Question(name, crops, low)
        with self._turn:
            self._asked.append(question)
            self._answer()
            self._turn.wait_for(lambda: question.settled)
        if question.error is not None:
            raise question.error
        assert question.answer is not None
        return question.answer

    def _answer(self) -> None:
        """Once everybody waits."""
        if not self._asked or len(self._asked) < self._workers:
            return
        asked, self._asked = self._asked, []
        for kind in dict.fromkeys((q.name, q.low) for q in asked):
            self._answer_together([q for q in asked if (q.name, q.low) == kind])
        self._turn.notify_all()

    def _answer_together(self, questions: list[_Question]) -> None:
        crops = np.concatenate([q.crops for q in questions])
        self.batches[len(crops)] = self.batches.get(len(crops), 0) + 1
        try:
            outputs = self._runtime.run(questions[0].name, crops, questions[0].low)
        except Exception as error:  # belongs to those who asked, on their own threads
            for question in questions:
                question.error = error
            return
        ends = np.cumsum([len(q.crops) for q in questions])
        for question, end in zip(questions, ends, strict=True):
            question.answer = [y[end - len(question.crops) : end] for y in outputs]


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

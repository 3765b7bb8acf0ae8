"""Frozen values of tensors and small facts in one safetensors file each: written whole or piece by piece, read whole or in stretches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

DTYPES = {torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}
"""Their names in a safetensors header, widest first: in this order every tensor begins at a multiple of its element's size."""


class Stored:
    """A frozen dataclass of tensors and small facts, kept in one safetensors file."""

    def save(self, path: Path, **record: Any) -> None:
        """Write to a temporary name, then rename. `record` (input hashes, config) goes into the header."""
        tensors, metadata = self._parts(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
        temporary.replace(path)

    def _parts(self, record: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors, and the header's words."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        tensors = {k: v.detach().cpu() for k, v in values.items() if isinstance(v, Tensor)}
        facts = {k: v for k, v in values.items() if k not in tensors}
        return tensors, {"kind": type(self).__name__, "facts": json.dumps(facts), "record": json.dumps(record)}

    @contextmanager
    def writer(self, path: Path, frames: int, **record: Any) -> Iterator[Writer]:
        """Write a value of `frames` frames piece by piece; never more than a piece is in memory.

        This value is the model: it gives the facts, every tensor's other axes, and the tensors that have no frames; how many frames it
        has itself does not matter. The file appears under its name when all frames were written, a `ValueError` where some were not.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        try:
            with temporary.open("wb") as file:
                writer = Writer(file, self, frames, record)
                yield writer
                if not all(writer.written):
                    raise ValueError(f"{path}: {writer.written.count(0)} of {frames} frames were never written")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, frames: slice | None = None) -> Self:
        """Read a file written by `save`, or only some consecutive frames of it (nothing else is then read from disk).

        A `ValueError` names the file when it is of another kind or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                axes = cls.time_axes() if frames is not None else {}
                tensors = {key: cls._slice(file, key, axes.get(key), frames) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error}); delete it and run the stage again") from error
        if header.get("kind") != cls.__name__:
            raise ValueError(f"{path}: holds {header.get('kind', 'something else')}, not {cls.__name__}")
        facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["facts"]).items()}
        if frames is not None and "first_frame" in facts:
            facts["first_frame"] += frames.indices(cls.count(path))[0]
        return cls(**facts, **tensors)

    def cut(self, frames: slice) -> Self:
        """Some consecutive frames; views, nothing is copied."""
        changes: dict[str, Any] = {}
        for name, axis in self.time_axes().items():
            if (value := getattr(self, name)) is not None:
                start, stop, _ = frames.indices(value.shape[axis])
                changes[name] = value.narrow(axis, start, max(stop - start, 0))
                if hasattr(self, "first_frame"):
                    changes["first_frame"] = self.first_frame + start  # type: ignore[attr-defined]
        return replace(self, **changes)  # type: ignore[type-var]

    @classmethod
    def count(cls, path: Path) -> int:
        """Number of frames in a file, without reading them."""
        name, axis = next(iter(cls.time_axes().items()))
        with safe_open(path, framework="pt") as file:
            return file.get_slice(name).get_shape()[axis]

    @classmethod
    def time_axes(cls) -> dict[str, int]:
        """Which axis of each tensor counts frames: where its annotation says `T`."""
        found = {}
        for f in fields(cls):  # type: ignore[arg-type]
            dims = re.search(r"""["']([^"']+)["']""", str(f.type))
            if dims and "T" in dims[1].split():
                found[f.name] = dims[1].split().index("T")
        return found

    @staticmethod
    def _slice(file: Any, key: str, axis: int | None, frames: slice | None) -> Tensor:
        if axis is None or frames is None:
            return file.get_tensor(key)
        return file.get_slice(key)[(*(slice(None),) * axis, frames)]

    @staticmethod
    def record(path: Path) -> dict[str, Any]:
        """The `record` a file was saved with; empty where there is no readable file."""
        try:
            with safe_open(path, framework="pt") as file:
                return json.loads((file.metadata() or {}).get("record", "{}"))
        except (OSError, SafetensorError, json.JSONDecodeError):
            return {}


class Writer:
    """Puts stretches of frames where they belong in a safetensors file: 8 bytes header length, JSON header, then the tensors.

    Layout: https://huggingface.co/docs/safetensors/index#format
    """

    def __init__(self, file: BinaryIO, model: Stored, frames: int, record: dict[str, Any]) -> None:
        self.file, self.frames, self.axes = file, frames, model.time_axes()
        self.written = bytearray(frames)
        tensors, metadata = model._parts(record)
        tensors = {k: tensors[k] for k in sorted(tensors, key=lambda k: list(DTYPES).index(tensors[k].dtype))}
        self.shapes = {k: self._whole(k, tuple(v.shape)) for k, v in tensors.items()}
        self.dtypes = {k: v.dtype for k, v in tensors.items()}
        header: dict[str, Any] = {"__metadata__": metadata}
        self.begins, at = {}, 0
        for name, tensor in tensors.items():
            end = at + prod(self.shapes[name]) * tensor.element_size()
            header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(self.shapes[name]), "data_offsets": [at, end]}
            self.begins[name], at = at, end
        words = json.dumps(header).encode()
        words += b" " * (-len(words) % 8)
        file.write(len(words).to_bytes(8, "little") + words)
        self.begins = {k: v + 8 + len(words) for k, v in self.begins.items()}
        file.truncate(8 + len(words) + at)
        for name in tensors.keys() - self.axes.keys():
            self._write(name, tensors[name].reshape(1, -1), 0)

    def _whole(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = self.axes.get(name)
        return shape if axis is None else (*shape[:axis], self.frames, *shape[axis + 1 :])

    def put(self, start: int, part: Stored) -> None:
        """Write the part's frames from frame `start` on; a `ValueError` where its tensors are not of the model's kind."""
        count = 0
        for name, shape in self.shapes.items():
            if (axis := self.axes.get(name)) is None:
                continue
            value: Tensor = getattr(part, name)
            fits = isinstance(value, Tensor) and value.dtype == self.dtypes[name] and value.ndim == len(shape)
            if not fits or (*value.shape[:axis], self.frames, *value.shape[axis + 1 :]) != shape or start + value.shape[axis] > self.frames:
                raise ValueError(f"{self.file.name}: {name} of frames from {start} on does not fit into {list(shape)}")
            count = value.shape[axis]
            self._write(name, value.detach().cpu().reshape(prod(shape[:axis]), -1), start * prod(shape[axis + 1 :]))
        self.written[start : start + count] = b"\1" * count

    def _write(self, name: str, rows: Tensor, offset: int) -> None:
        """Each row at `offset` elements into its own part of the tensor."""
        size, stride = rows.element_size(), prod(self.shapes[name]) // max(len(rows), 1)
        for n, row in enumerate(rows):
            self.file.seek(self.begins[name] + (n * stride + offset) * size)
            self.file.write(row.contiguous().numpy().tobytes())


Kind = TypeVar("Kind", bound=Stored)


@dataclass(frozen=True)
class OnDisk(Generic[Kind]):
    """A stored value whose frames stay in its file until they are asked for."""

    path: Path
    facts: Kind
    """The value without a frame."""
    frames: int

    @classmethod
    def open(cls, kind: type[Kind], path: Path) -> OnDisk[Kind]:
        """A `ValueError` names the file when it is of another kind or damaged."""
        return cls(path, kind.load(path, slice(0, 0)), kind.count(path))

    def cut(self, frames: slice) -> Kind:
        """Some consecutive frames, read now."""
        return type(self.facts).load(self.path, frames)

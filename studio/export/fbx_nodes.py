"""The binary FBX 7.4 container: a tree of named nodes with typed properties.

The layout is not published by its owner; it follows the Blender Foundation's description ("FBX binary file format specification", 2013).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 7400
FILE_ID = bytes.fromhex("28b32aebb624ccc2bfc8b02aa92bfcf1")
CREATION_TIME = "1970-01-01 10:00:00:000"
"""The one time that goes with `FILE_ID` and the footer; readers check the three against each other."""
_FOOTER = bytes.fromhex("fabcab09d0c8d466b176fb831cf7267e"), bytes.fromhex("f85a8c6adef5d97eece90ce3758f290b")
_NULL = b"\0" * 13
_ENDED = {"AnimationLayer", "AnimationStack"}
"""Nodes that readers want ended by a null record even without children."""
_ARRAYS = {"float64": b"d", "float32": b"f", "int32": b"i", "int64": b"l"}
COMPRESSED_FROM = 128
"""Arrays of at least so many bytes are deflated."""


class Int(int):
    """An integer written in 32 bits; a plain `int` takes 64."""


@dataclass
class Node:
    """A named record: properties, then children."""

    name: str
    properties: tuple[Any, ...] = ()
    children: list[Node] = field(default_factory=list)

    def add(self, name: str, *properties: Any) -> Node:
        """A new child."""
        self.children.append(Node(name, properties))
        return self.children[-1]

    def fill(self, **values: Any) -> Node:
        """Children of one property each."""
        for name, value in values.items():
            self.add(name, value)
        return self

    def settings(self, *rows: tuple[Any, ...]) -> Node:
        """The child `Properties70` with rows (name, type, label, flags, values...)."""
        table = self.add("Properties70")
        for row in rows:
            table.add("P", *row)
        return self


def save(path: Path, nodes: list[Node]) -> None:
    """Write top-level nodes to a temporary name, then rename."""
    data = bytearray(b"Kaydara FBX Binary  \0\x1a\0" + struct.pack("<I", VERSION))
    for node in nodes:
        _append(data, node)
    data += _NULL + _FOOTER[0] + b"\0" * 4
    data += b"\0" * (16 - len(data) % 16) + struct.pack("<I", VERSION) + b"\0" * 120 + _FOOTER[1]
    if len(data) > 2**32 - 1:
        raise ValueError(
            f"{path}: FBX 7.4 holds 4 GB at most and this take needs {len(data) / 2**30:.1f}; export a shorter range of frames"
        )
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    temporary.replace(path)


def _append(data: bytearray, node: Node) -> None:
    start, name = len(data), node.name.encode()
    properties = b"".join(_encoded(value) for value in node.properties)
    data += b"\0" * 12 + bytes([len(name)]) + name + properties
    for child in node.children:
        _append(data, child)
    if node.children or not node.properties or node.name in _ENDED:
        data += _NULL
    struct.pack_into("<III", data, start, len(data) & 0xFFFFFFFF, len(node.properties), len(properties))


def _encoded(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"C" + struct.pack("<?", value)
    if isinstance(value, Int):
        return b"I" + struct.pack("<i", value)
    if isinstance(value, int):
        return b"L" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"D" + struct.pack("<d", value)
    if isinstance(value, str):
        return b"S" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"R" + struct.pack("<I", len(value)) + value
    raw = np.ascontiguousarray(value).tobytes()
    packed = zlib.compress(raw, 1) if len(raw) >= COMPRESSED_FROM else raw
    return _ARRAYS[value.dtype.name] + struct.pack("<III", value.size, int(packed is not raw), len(packed)) + packed

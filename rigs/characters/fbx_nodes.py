"""The binary FBX container, versions 7.1 to 7.7: a tree of named nodes with typed properties, read and written.

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
WIDE_FROM = 7500
"""Files from this version on have 64-bit offsets."""
KNOWN = (7100, 7700)
"""Oldest and newest version that is read."""
_ENDED = {"AnimationLayer", "AnimationStack"}
"""Nodes that readers want ended by a null record even without children."""
_ARRAYS = {"float64": b"d", "float32": b"f", "int32": b"i", "int64": b"l", "bool": b"b", "uint8": b"c"}
_KINDS = {code: np.dtype(name) for name, code in _ARRAYS.items()}
_SCALARS = {b"C": "<?", b"Y": "<h", b"I": "<i", b"L": "<q", b"F": "<f", b"D": "<d"}
_MAGIC = b"Kaydara FBX Binary  \0"
LARGEST = 2**31
"""No array of a file is unpacked to more bytes than this."""
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

    def child(self, name: str) -> Node | None:
        """The first child of that name."""
        return next((c for c in self.children if c.name == name), None)

    def value(self, name: str, default: Any = None) -> Any:
        """The first property of the first child of that name."""
        found = self.child(name)
        return found.properties[0] if found is not None and found.properties else default

    @property
    def table(self) -> dict[str, tuple[Any, ...]]:
        """Setting -> values of the child `Properties70`."""
        rows = self.child("Properties70")
        return {str(r.properties[0]): r.properties[4:] for r in rows.children if len(r.properties) >= 4} if rows else {}

    def settings(self, *rows: tuple[Any, ...]) -> Node:
        """The child `Properties70` with rows (name, type, label, flags, values...)."""
        table = self.add("Properties70")
        for row in rows:
            table.add("P", *row)
        return self


def save(path: Path, nodes: list[Node], version: int = VERSION) -> None:
    """Write top-level nodes to a temporary name, then rename."""
    data = bytearray(_MAGIC + b"\x1a\0" + struct.pack("<I", version))
    for node in nodes:
        _append(data, node, version)
    data += _null(version) + _FOOTER[0] + b"\0" * 4
    data += b"\0" * (16 - len(data) % 16) + struct.pack("<I", version) + b"\0" * 120 + _FOOTER[1]
    if version < WIDE_FROM and len(data) > 2**32 - 1:
        raise ValueError(
            f"{path}: FBX 7.4 holds 4 GB at most and this take needs {len(data) / 2**30:.1f}; export a shorter range of frames"
        )
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    temporary.replace(path)


def _null(version: int) -> bytes:
    return b"\0" * (25 if version >= WIDE_FROM else 13)


def _append(data: bytearray, node: Node, version: int) -> None:
    start, name, head = len(data), node.name.encode(), "<QQQ" if version >= WIDE_FROM else "<III"
    properties = b"".join(_encoded(value) for value in node.properties)
    data += b"\0" * struct.calcsize(head) + bytes([len(name)]) + name + properties
    for child in node.children:
        _append(data, child, version)
    if node.children or not node.properties or node.name in _ENDED:
        data += _null(version)
    end = len(data) if version >= WIDE_FROM else len(data) & 0xFFFFFFFF
    struct.pack_into(head, data, start, end, len(node.properties), len(properties))


def _encoded(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"C" + struct.pack("<?", value)
    if isinstance(value, Int):
        return b"I" + struct.pack("<i", value)
    if isinstance(value, int):
        return b"L" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"D" + struct.pack("<d", value)
    if isinstance(value, np.generic):
        kind = {"int16": b"Y", "float32": b"F"}[value.dtype.name]
        return kind + value.tobytes()
    if isinstance(value, str):
        raw = value.encode(errors="surrogateescape")
        return b"S" + struct.pack("<I", len(raw)) + raw
    if isinstance(value, bytes):
        return b"R" + struct.pack("<I", len(value)) + value
    raw = np.ascontiguousarray(value).tobytes()
    packed = zlib.compress(raw, 1) if len(raw) >= COMPRESSED_FROM else raw
    return _ARRAYS[value.dtype.name] + struct.pack("<III", value.size, int(packed is not raw), len(packed)) + packed


def load(path: Path) -> tuple[list[Node], int]:
    """Top-level nodes and version of a binary FBX file; a `ValueError` names the file, what is wrong with it, and the remedy."""
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        if b"FBXHeaderExtension" in data[:4096] or data[:5] == b"; FBX":
            raise ValueError(f"{path}: is a text (ASCII) FBX; export it again as binary FBX, or convert it with Autodesk's FBX Converter")
        raise ValueError(f"{path}: is no FBX file; it does not begin as one")
    if len(data) < 27:
        raise ValueError(f"{path}: is cut short after {len(data)} bytes; copy or export it again")
    version = struct.unpack_from("<I", data, 23)[0]
    if not KNOWN[0] <= version <= KNOWN[1] + 99:
        raise ValueError(f"{path}: is FBX {version / 1000:g}; versions 7.1 to 7.7 are read. Export it again as FBX 2014 or newer")
    nodes, at = [], 27
    try:
        while (node_and_end := _node(data, at, version, 0)) is not None:
            node, at = node_and_end
            nodes.append(node)
    except (struct.error, IndexError, zlib.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: is damaged or cut short at byte {at} of {len(data)} ({error}); copy or export it again") from error
    return nodes, version


def _node(data: bytes, at: int, version: int, depth: int) -> tuple[Node, int] | None:
    """The node that begins at a byte, and the byte after it; None for the end mark."""
    head = "<QQQ" if version >= WIDE_FROM else "<III"
    end, count, length = struct.unpack_from(head, data, at)
    at += struct.calcsize(head)
    size = data[at]
    if end == 0:
        return None
    if end > len(data) or end < at + 1 + size + length or depth > 64:
        raise ValueError("a record reaches past its end")
    node = Node(data[at + 1 : at + 1 + size].decode("utf-8", "replace"))
    at, stop = at + 1 + size, at + 1 + size + length
    values = []
    for _ in range(count):
        value, at = _decoded(data, at)
        values.append(value)
    if at != stop:
        raise ValueError(f"the properties of {node.name!r} do not fill their place")
    node.properties = tuple(values)
    while at < end:
        found = _node(data, at, version, depth + 1)
        if found is None:
            break
        node.children.append(found[0])
        at = found[1]
    return node, end


def _decoded(data: bytes, at: int) -> tuple[Any, int]:
    """One property, of the kind that `_encoded` writes back as it was, and the byte after it."""
    kind, at = data[at : at + 1], at + 1
    if kind in _SCALARS:
        value = struct.unpack_from(_SCALARS[kind], data, at)[0]
        made = {b"Y": np.int16, b"I": Int, b"F": np.float32}.get(kind, lambda plain: plain)(value)
        return made, at + struct.calcsize(_SCALARS[kind])
    if kind in (b"S", b"R"):
        size = struct.unpack_from("<I", data, at)[0]
        raw = data[at + 4 : at + 4 + size]
        if len(raw) != size:
            raise ValueError("a text reaches past the end of the file")
        return raw.decode("utf-8", "surrogateescape") if kind == b"S" else raw, at + 4 + size
    if kind not in _KINDS:
        raise ValueError(f"a property of unknown kind {kind!r}")
    count, packed, size = struct.unpack_from("<III", data, at)
    raw, wanted = data[at + 12 : at + 12 + size], count * _KINDS[kind].itemsize
    if wanted > LARGEST:
        raise ValueError(f"an array of {count} values is more than any character has")
    plain = zlib.decompressobj().decompress(raw, wanted + 1) if packed else raw
    if len(plain) != wanted:
        raise ValueError(f"an array of {count} values holds {len(plain)} bytes, not {wanted}")
    return np.frombuffer(plain, _KINDS[kind].newbyteorder("<")).astype(_KINDS[kind]), at + 12 + size

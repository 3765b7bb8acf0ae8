"""The glTF 2.0 container: its document and its tables of numbers, from .glb or .gltf. After the Khronos specification."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
TEXT_LIMIT = 2**28


@dataclass(frozen=True)
class GltfFile:
    """A document and its buffers."""

    path: Path
    document: dict[str, Any]
    buffers: list[bytes]

    @classmethod
    def of(cls, path: Path) -> GltfFile:
        """The container in a file; a `ValueError` names the file and what is wrong with it."""
        data = path.read_bytes()
        text, binary = _chunks(path, data) if data[:4] == b"glTF" else (data, b"")
        try:
            document = json.loads(text.decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: is no glTF file, or damaged ({error}); export it again") from error
        if not isinstance(document, dict) or not str(document.get("asset", {}).get("version", "")).startswith("2"):
            raise ValueError(f"{path}: is not glTF 2.0; export it again as glTF 2.0 (.glb)")
        if needed := sorted(set(document.get("extensionsRequired", [])) & {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}):
            raise ValueError(f"{path}: is compressed ({needed[0]}); export it again without compression")
        return cls(path, document, [_buffer(path, entry, binary) for entry in document.get("buffers", [])])

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """One of the document's lists; empty where it has none."""
        return self.document.get(kind, [])

    def table(self, index: int) -> np.ndarray:
        """An accessor's numbers, one row an element, normalised integers as fractions."""
        entry = self.listed("accessors")[index]
        kind, width, count = np.dtype(TYPES[entry["componentType"]]), WIDTHS[entry["type"]], int(entry["count"])
        values = self._rows(entry, kind, width, count) if "bufferView" in entry else np.zeros((count, width), kind)
        if "sparse" in entry:
            sparse = entry["sparse"]
            few = int(sparse["count"])
            rows = self._rows(sparse["indices"], np.dtype(TYPES[sparse["indices"]["componentType"]]), 1, few)[:, 0]
            values = values.copy()
            values[rows.astype(np.int64)] = self._rows(sparse["values"], kind, width, few)
        if entry.get("normalized") and kind.kind in "iu":
            values = np.maximum(values.astype(np.float64) / np.iinfo(kind).max, -1.0)
        return values

    def _rows(self, entry: dict[str, Any], kind: np.dtype, width: int, count: int) -> np.ndarray:
        view = self.listed("bufferViews")[entry["bufferView"]]
        data = self.buffers[view["buffer"]]
        start, step = view.get("byteOffset", 0) + entry.get("byteOffset", 0), view.get("byteStride", 0) or kind.itemsize * width
        end = start + step * (count - 1) + kind.itemsize * width if count else start
        if count < 0 or start < 0 or end > len(data):
            raise ValueError(f"{self.path}: a table reaches past the end of its buffer; the file is cut short, export or copy it again")
        if not count:
            return np.zeros((0, width), kind)
        return np.ndarray((count, width), kind.newbyteorder("<"), data, start, (step, kind.itemsize)).astype(kind)


def _chunks(path: Path, data: bytes) -> tuple[bytes, bytes]:
    """JSON and binary chunk of a .glb."""
    if len(data) < 20:
        raise ValueError(f"{path}: is cut short after {len(data)} bytes; copy or export it again")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise ValueError(f"{path}: is GLB version {version}, not 2; export it again as glTF 2.0")
    if length > len(data):
        raise ValueError(f"{path}: is cut short: {len(data)} of {length} bytes; copy or export it again")
    found: dict[int, bytes] = {}
    at = 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", data, at)
        if at + 8 + size > length:
            raise ValueError(f"{path}: is damaged: a part reaches past its end; copy or export it again")
        found.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    if JSON_CHUNK not in found or len(found[JSON_CHUNK]) > TEXT_LIMIT:
        raise ValueError(f"{path}: holds no document; export it again")
    return found[JSON_CHUNK], found.get(BINARY_CHUNK, b"")


def _buffer(path: Path, entry: dict[str, Any], binary: bytes) -> bytes:
    uri = entry.get("uri")
    if uri is None:
        return binary
    if uri.startswith("data:"):
        try:
            return base64.b64decode(uri.partition(",")[2], validate=True)
        except ValueError as error:
            raise ValueError(f"{path}: a buffer inside the file is damaged ({error}); export it again") from error
    file = (path.parent / unquote(uri)).resolve()
    if not file.is_relative_to(path.parent.resolve()):
        raise ValueError(f"{path}: wants {uri!r} from outside its folder; export it as one .glb file")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing, {path.name} needs it; put it there, or export one .glb file")
    return file.read_bytes()

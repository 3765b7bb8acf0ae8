"""Reading camera files: text, syntax, and numbers that are checked before use, with errors that name file, camera, field and remedy."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = {"brown": 8, "fisheye": 4}
"""brown: k1 k2 p1 p2 k3 k4 k5 k6 (OpenCV's order); fisheye: k1 k2 k3 k4 (Kannala-Brandt, OpenCV's `fisheye`)."""


class _Unique(yaml.constructor.BaseConstructor):
    """Refuses mappings whose keys are not text, or not unique."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Text(_Unique, yaml.BaseLoader):
    """YAML whose scalars all stay text: a camera `01` keeps its zero, `1e-5` is a number to `float`."""


class _Fast(_Unique, getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # pyright: ignore[reportGeneralTypeIssues]
    """The same ten times faster; it says less of what is wrong."""


def read_text(path: Path) -> str:
    """The file's text; a missing file is a `FileNotFoundError`, an unreadable or binary one a `ValueError`."""
    try:
        data = path.read_bytes()
        if data.startswith((b"\xff\xfe<", b"<\0")):  # OptiTrack writes XML as UTF-16, little endian
            return data.decode("utf-16-le").lstrip("\ufeff")
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such camera file; calibrate first or correct the path") from error
    except UnicodeDecodeError as error:
        remedy = "export it as .mcal with Motive 3.2 or later" if path.suffix.lower() == ".cal" else "give the calibration file itself"
        raise ValueError(f"{path}: not a text file, so not a camera file; {remedy}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check that it is a file and its permissions") from error


def parse_yaml(path: Path, text: str) -> Any:
    """The document of a YAML file, every scalar as text; OpenCV's `%YAML:1.0` head and matrix tags are accepted."""
    if text.startswith("%YAML"):
        text = text.partition("\n")[2]
    try:
        return yaml.load(text, _Fast)
    except yaml.YAMLError:
        pass
    try:
        return yaml.load(text, _Text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}; correct that line or write the file again") from error


@dataclass(frozen=True)
class Source:
    """A camera file, parsed but not yet understood."""

    path: Path
    syntax: str
    document: Any

    @property
    def keys(self) -> set[str]:
        """Keys of the document; none where it is not a mapping."""
        return set(self.document) if isinstance(self.document, dict) else set()


def parse(path: Path) -> Source:
    """The file in the syntax its content shows: XML, JSON, TOML, else YAML."""
    text = read_text(path)
    head = text.lstrip()[:1]
    try:
        if head == "<":
            # The text is decoded already, so the encoding that its first line names no longer holds.
            return Source(path, "xml", ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text).strip()))
        if head == "{":
            return Source(path, "json", json.loads(text, object_pairs_hook=_unique))
        if path.suffix.lower() == ".toml" or (head == "[" and path.suffix.lower() not in (".yaml", ".yml")):
            return Source(path, "toml", tomllib.loads(text))
    except (ElementTree.ParseError, json.JSONDecodeError, tomllib.TOMLDecodeError, KeyError) as error:
        raise ValueError(f"{path}: its syntax is broken: {error}; correct that place or write the file again") from error
    return Source(path, "yaml", parse_yaml(path, text))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise KeyError(f"{key!r} appears twice")
    return dict(pairs)


@dataclass(frozen=True)
class Entry:
    """What a file says of one camera."""

    path: Path
    camera: str
    values: Mapping[str, Any]

    def error(self, field: str, problem: str) -> ValueError:
        """The error to raise for a field."""
        return ValueError(f"{self.path}: camera {self.camera!r}: field {field!r} {problem}")

    def named(self, *fields: str) -> str:
        """The first of these fields that the file holds; a `ValueError` where it holds none."""
        for field in fields:
            if self.values.get(field) is not None:
                return field
        wanted = fields[0] if len(fields) == 1 else f"{fields[0]} (or {', '.join(fields[1:])})"
        raise ValueError(
            f"{self.path}: camera {self.camera!r}: field {wanted!r} is missing; the camera holds {sorted(map(str, self.values))}"
        )

    def numbers(self, *fields: str, shapes: tuple[tuple[int, ...], ...] = ()) -> Float[Tensor, "..."]:
        """Finite numbers of the first of `fields` present, in the first of `shapes` (any, where none is given) that their count fits."""
        field = self.named(*fields)
        value = self.values[field]
        if isinstance(value, Mapping) and "data" in value:  # an OpenCV or ROS matrix
            value = value["data"]
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise self.error(field, "does not hold numbers; write them as a list") from error
        if not np.isfinite(array).all():
            raise self.error(field, "holds a number that is not finite; calibrate this camera again")
        for shape in shapes:
            flat = array.ndim == 1 or min(array.shape, default=0) == 1
            if array.shape == shape or (array.size == np.prod(shape, dtype=int) and (flat or len(shape) < 2)):
                return torch.from_numpy(array.reshape(shape).copy())
        if shapes:
            raise self.error(field, f"has shape {array.shape}, needs {' or '.join(map(str, shapes))}")
        return torch.from_numpy(array.ravel().copy())

    def size(self, *fields: str) -> Float[Tensor, "2"]:
        """Width and height, px."""
        size = self.numbers(*fields, shapes=((2,),))
        if not bool((size >= 1).all()):
            raise self.error(self.named(*fields), f"must be width and height in pixels, got {size.tolist()}")
        return size

    def focal(self, focal: Float[Tensor, "2"], field: str) -> Float[Tensor, "2"]:
        """The focal length, px, after a check that it is positive."""
        if not bool((focal > 0).all()):
            raise self.error(field, f"holds a focal length that is not positive: {focal.tolist()}")
        return focal

    def distortion(self, lens: str, *fields: str) -> Float[Tensor, "8"]:
        """Coefficients of a known lens model, zero padded; none where the file holds none."""
        if lens not in COEFFICIENTS:
            raise self.error("lens", f"is {lens!r}, none of {sorted(COEFFICIENTS)}")
        if all(self.values.get(field) is None for field in fields):
            return torch.zeros(8, dtype=torch.float64)
        given, most = self.numbers(*fields), COEFFICIENTS[lens]
        if bool(given[most:].any()):  # OpenCV pads its thin-prism and tilt terms with zeros, which say nothing
            raise self.error(
                self.named(*fields),
                f"has {given.numel()} coefficients; a {lens} lens has {most}: calibrate without thin prism and tilt",
            )
        return torch.nn.functional.pad(given[:most], (0, 8 - min(given.numel(), most)))

    def rotation(self, R: Float[Tensor, "3 3"], field: str) -> Float[Tensor, "3 3"]:
        """The rotation nearest to a matrix written with few digits; a `ValueError` where it is no rotation."""
        if float((R @ R.mT - torch.eye(3, dtype=R.dtype)).abs().max()) > 1e-3:
            raise self.error(field, "is not a rotation matrix: its rows must be unit vectors at right angles")
        if float(torch.det(R)) < 0:
            raise self.error(field, "is a mirror, not a rotation; turn its third axis round")
        U, S, Vh = torch.linalg.svd(R)
        return R if float((S - 1).abs().max()) < 1e-12 else U @ Vh

"""What a calibration board is: its kind, its measures, where its corners lie, and `board.yaml`.

Board frame: origin at the printed pattern's top left (a chessboard's: its first inner corner), x right, y down as printed, z into
the board, metres.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from calibration.camera_file import parse_yaml, read_text
from calibration.cameras import write_text

Kind = Literal["charuco", "chessboard", "apriltag", "aruco"]
Corner = tuple[float, float, float]
Marker = tuple[int, Corner, Corner, Corner, Corner]


@dataclass(frozen=True)
class Board:
    """A calibration board. Lengths in metres."""

    kind: Kind
    columns: int
    """Squares across (charuco), inner corners across (chessboard), markers across (apriltag, aruco)."""
    rows: int
    square: float
    """Side of a square; from one marker to the next (apriltag, aruco)."""
    marker: float = 0.0
    """Side of a marker's black square."""
    dictionary: str = "DICT_4X4_50"
    """OpenCV's name of the markers' dictionary."""
    legacy: bool = False
    """ChArUco as printed by OpenCV before 4.6: a white square at the top left where the rows are even."""
    inverted: bool = False
    """Printed white for black."""
    two_sided: bool = False
    """The back shows the front's mirror image, corner behind corner."""
    thickness: float = 0.0
    """How far the back lies behind the front."""
    first: int = 0
    """Number of the first marker of a grid."""
    markers: tuple[Marker, ...] = ()
    """aruco: (number, top left, top right, bottom right, bottom left) of markers that form no grid; it replaces columns and rows."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"board: field 'kind' is {self.kind!r}; it is one of {', '.join(get_args(Kind))}")
        if self.markers:
            return
        least = 1 if self.kind in ("apriltag", "aruco") else 2
        if self.columns < least or self.rows < least:
            raise ValueError(f"board: {self.columns} x {self.rows} is too small for a {self.kind} board; count its columns and rows again")
        if not self.square > 0:
            raise ValueError(f"board: field 'square' is {self.square}; measure the printed square, in metres")
        if self.kind != "chessboard" and not 0 < self.marker < self.square:
            raise ValueError(f"board: field 'marker' is {self.marker}; it must be above 0 and below the square's {self.square} m")
        if self.kind != "chessboard" and self.dictionary not in dictionaries():
            raise ValueError(f"board: field 'dictionary' is {self.dictionary!r}; it is one of {', '.join(dictionaries())}")
        if self.kind != "chessboard" and self.first + self.count > opencv_dictionary(self.dictionary).bytesList.shape[0]:
            raise ValueError(f"board: needs {self.count} markers from {self.first} on, {self.dictionary} has fewer; take a larger one")

    @property
    def count(self) -> int:
        """How many markers it carries."""
        if self.kind == "chessboard":
            return 0
        return len(self.markers) or (self.columns * self.rows // 2 if self.kind == "charuco" else self.columns * self.rows)

    def points(self, behind: bool = False) -> Float[Tensor, "N 3"]:
        """Corner positions in the board's frame, m; a corner's number is its row. `behind`: those on the back of a two-sided board.

        charuco: inner corners, row by row, as OpenCV numbers them; chessboard: likewise; markers: four corners each, clockwise from
        the marker's own top left, marker by marker.
        """
        points = torch.tensor(corner_points(self), dtype=torch.float64)
        return points + torch.tensor([0, 0, self.thickness], dtype=torch.float64) if behind else points

    @property
    def chessboard_symmetric(self) -> bool:
        """Whether half a turn leaves the pattern as it is, so that cameras on opposite sides number its corners differently."""
        return self.kind == "chessboard" and (self.columns + self.rows) % 2 == 0

    @property
    def marker_side(self) -> float:
        """Side of a marker, of the first where they are listed, m."""
        return float(np.linalg.norm(np.subtract(self.markers[0][1], self.markers[0][2]))) if self.markers else self.marker

    @property
    def pitch(self) -> float:
        """Distance from one corner to its neighbour, m."""
        return self.marker_side if self.kind in ("apriltag", "aruco") else self.square

    @property
    def relief(self) -> bool:
        """Whether listed markers do not lie in the plane z = 0."""
        return bool(np.ptp(np.asarray(corner_points(self))[:, 2]) > 1e-4)

    def save(self, path: Path) -> None:
        """Write `board.yaml`, leaving out what is as usual."""
        usual = {f.name: f.default for f in fields(self)}
        listed = {k: v for k, v in asdict(self).items() if v != usual[k]}
        if self.markers:
            listed["markers"] = {m[0]: [list(c) for c in m[1:]] for m in self.markers}
        write_text(path, yaml.safe_dump({"unit": "m", **listed}, sort_keys=False, default_flow_style=None, width=120))

    @classmethod
    def load(cls, path: Path) -> Board:
        """Read `board.yaml`; a `ValueError` names file, field and remedy."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such description of a board; give the board.yaml that `studio board` wrote")
        document = parse_yaml(path, read_text(path))
        if not isinstance(document, dict):
            raise ValueError(f"{path}: needs a mapping with the fields {[f.name for f in fields(cls)]}")
        if document.pop("unit", "m") != "m":
            raise ValueError(f"{path}: field 'unit' must be m; write the lengths in metres")
        known = {f.name: f for f in fields(cls)}
        if unknown := sorted(set(document) - set(known)):
            raise ValueError(f"{path}: field {unknown[0]!r} is not known; the fields are {list(known)}")
        document = {"columns": "0", "rows": "0", "square": "0", **document} if "markers" in document else document
        if missing := [n for n in ("kind", "columns", "rows", "square") if n not in document]:
            raise ValueError(f"{path}: field {missing[0]!r} is missing; the file holds {sorted(document)}")
        try:
            return cls(**{name: _value(name, str(known[name].type), value) for name, value in document.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def _value(name: str, kind: str, value: Any) -> Any:
    """A field's value from text."""
    try:
        if name == "markers":
            return tuple((int(n), *(tuple(float(v) for v in c) for c in corners)) for n, corners in value.items())
        if kind == "bool":
            return {"true": True, "false": False, "yes": True, "no": False}[str(value).lower()]
        return {"int": int, "float": float}.get(kind, str)(value)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"field {name!r} is {value!r}; it must be {kind if name != 'markers' else 'number: four corners [x, y, z]'}"
        ) from error


@lru_cache(maxsize=16)
def corner_points(board: Board) -> tuple[Corner, ...]:
    """`Board.points` of the front, as plain numbers."""
    if board.markers:
        return tuple(c for m in board.markers for c in m[1:])
    if board.kind in ("chessboard", "charuco"):
        first, columns, rows = (1, board.columns - 1, board.rows - 1) if board.kind == "charuco" else (0, board.columns, board.rows)
        return tuple((board.square * (c + first), board.square * (r + first), 0.0) for r in range(rows) for c in range(columns))
    corners = [(0, 0), (board.marker, 0), (board.marker, board.marker), (0, board.marker)]
    return tuple(
        (board.square * c + x, board.square * r + y, 0.0) for r in range(board.rows) for c in range(board.columns) for x, y in corners
    )


def marker_numbers(board: Board) -> list[int]:
    """Numbers of the markers, in the order of `points`."""
    return [m[0] for m in board.markers] or list(range(board.first, board.first + board.count))


def dictionaries() -> tuple[str, ...]:
    """OpenCV's names of the marker dictionaries."""
    names = {n.upper(): n for n in sorted(dir(cv2.aruco)) if n.startswith("DICT_")}  # some exist in two spellings
    return tuple(names.values())


def opencv_dictionary(name: str) -> cv2.aruco.Dictionary:
    """A dictionary by OpenCV's name."""
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name))

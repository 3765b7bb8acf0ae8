"""Calibration boards and the corners that images show of them. The only place where OpenCV looks for boards.

Board frame: origin at the printed pattern's top left (a chessboard's: its first inner corner), x right, y down as printed, z into
the board, metres. Pixels are OpenCV's: (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
import torch
import yaml
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from calibration.camera_file import parse_yaml, read_text
from calibration.cameras import write_text

Kind = Literal["charuco", "chessboard", "apriltag", "aruco"]
Corner = tuple[float, float, float]
Marker = tuple[int, Corner, Corner, Corner, Corner]
FLOOR = 0.05
"""What no corner is better than, px: the edges of prints and lenses are not ideal."""


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
        if self.kind != "chessboard" and self.first + self.count > _dictionary(self.dictionary).bytesList.shape[0]:
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
        points = torch.tensor(_points(self), dtype=torch.float64)
        return points + torch.tensor([0, 0, self.thickness], dtype=torch.float64) if behind else points

    @property
    def chessboard_symmetric(self) -> bool:
        """Whether half a turn leaves the pattern as it is, so that cameras on opposite sides number its corners differently."""
        return self.kind == "chessboard" and (self.columns + self.rows) % 2 == 0

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


class Sighting(NamedTuple):
    """A board in one image; NaN where a corner was not seen."""

    pixels: Float[Tensor, "N 2"]
    sigma: Float[Tensor, "N"]
    """Standard deviation of a corner along each axis, px."""
    behind: bool
    """The back of a two-sided board is seen."""


@dataclass(frozen=True)
class BoardViews:
    """What all cameras saw of one board. One safetensors file."""

    cameras: tuple[str, ...]
    size: Float[Tensor, "C 2"]
    """Width and height of each camera's image, px."""
    board: Board
    pixels: Float[Tensor, "C B N 2"]
    """At B instants (frames that belong together), px; NaN where not seen."""
    sigma: Float[Tensor, "C B N"]
    """px; NaN where not seen."""
    behind: Bool[Tensor, "C B"]
    """Seen from the back (two-sided boards)."""
    instants: Int[Tensor, "C B"]
    """Which frame of each video; -1 where a camera has none."""

    def points(self) -> Float[Tensor, "C B N 3"]:
        """Where each camera saw each corner in the board's frame, m: on the front or on the back."""
        return torch.where(self.behind[..., None, None], self.board.points(behind=True), self.board.points())

    def seen(self) -> Bool[Tensor, "C B"]:
        """Whether a camera saw at least four corners at an instant."""
        return self.pixels.isfinite().all(-1).sum(-1) >= 4

    def save(self, path: Path, **record: Any) -> None:
        """Write to a temporary name, then rename. `record` (input hashes, settings) goes into the header."""
        tensors = {f.name: getattr(self, f.name).contiguous() for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        facts = json.dumps({"cameras": self.cameras, "board": asdict(self.board)})
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        save_file(tensors, temporary, metadata={"kind": "BoardViews", "facts": facts, "record": json.dumps(record)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> BoardViews:
        """Read a file written by `save`; a `ValueError` names the file when it is of another kind or damaged."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; find the board in the videos first")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error}); delete it and find the board again") from error
        if header.get("kind") != "BoardViews":
            raise ValueError(f"{path}: holds {header.get('kind', 'something else')}, not BoardViews")
        facts = json.loads(header["facts"])
        listed = facts["board"]
        listed["markers"] = tuple((m[0], *(tuple(c) for c in m[1:])) for m in listed["markers"])
        return cls(cameras=tuple(facts["cameras"]), board=Board(**listed), **tensors)


def find_board(image: UInt8[np.ndarray, "H W 3"], board: Board) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N"]] | None:
    """Corners (px, NaN where not seen) and their standard deviations (px) in an RGB or gray image; None where the board is not found."""
    found = sight_board(image, board)
    return None if found is None else (found.pixels, found.sigma)


def sight_board(image: UInt8[np.ndarray, "H W 3"], board: Board) -> Sighting | None:
    """Like `find_board`, and which side was seen: the back of a two-sided board is found in the mirrored image."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else np.ascontiguousarray(image)
    gray = 255 - gray if board.inverted else gray
    front = _face(gray, board)
    seen = 0 if front is None else int(np.isfinite(front[0]).all(1).sum())
    if not board.two_sided or board.kind == "chessboard" or 2 * seen >= len(_points(board)):
        return None if front is None else _sighting(*front, False)
    back = _face(np.ascontiguousarray(gray[:, ::-1]), board)
    if back is None or np.isfinite(back[0]).all(1).sum() <= seen:
        return None if front is None else _sighting(*front, False)
    back[0][:, 0] = gray.shape[1] - 1 - back[0][:, 0]
    return _sighting(*back, True)


def _sighting(pixels: Float[np.ndarray, "N 2"], sigma: Float[np.ndarray, "N"], behind: bool) -> Sighting:
    return Sighting(torch.from_numpy(pixels), torch.from_numpy(sigma), behind)


def _face(gray: UInt8[np.ndarray, "H W"], board: Board) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]] | None:
    """Refined corners of the board's front."""
    rough = _chessboard(gray, board) if board.kind == "chessboard" else _marked(gray, board)
    if rough is None:
        return None
    known = np.isfinite(rough).all(1)
    plane = np.asarray(_points(board))[:, :2]
    if known.sum() < 4 or np.linalg.svd(plane[known] - plane[known].mean(0), compute_uv=False)[1] < 0.1 * board_pitch(board):
        return None
    H = _agreeing(plane, rough, known, board) if not (board.markers and _relief(board)) else None
    if known.sum() < 4:
        return None
    pixels, sigma = np.full_like(rough, np.nan), np.full(len(rough), np.nan)
    half = _windows(H, plane[known], rough[known], board)
    pixels[known], sigma[known] = _refined(gray, rough[known], half)
    sigma[~np.isfinite(pixels).all(1)] = np.nan
    return pixels, sigma


def board_pitch(board: Board) -> float:
    """Distance from one corner to its neighbour, m."""
    return board.marker if board.kind in ("apriltag", "aruco") and not board.markers else board.square or _side(board)


def _side(board: Board) -> float:
    """Side of the first listed marker, m."""
    return float(np.linalg.norm(np.subtract(board.markers[0][1], board.markers[0][2])))


def _relief(board: Board) -> bool:
    """Whether listed markers do not lie in the plane z = 0."""
    return bool(np.ptp(np.asarray(_points(board))[:, 2]) > 1e-4)


def _agreeing(
    plane: Float[np.ndarray, "N 2"], rough: Float[np.ndarray, "N 2"], known: Bool[np.ndarray, "N"], board: Board
) -> Float[np.ndarray, "3 3"]:
    """The plane's homography; forgets in place what no flat board shows. The tolerance leaves room for lens distortion."""
    H, _ = cv2.findHomography(plane[known], rough[known], cv2.LMEDS)
    if H is None:
        known[:] = False
        return np.eye(3)
    off = np.linalg.norm(_mapped(H, plane) - rough, axis=1)
    known &= off < 0.35 * board_pitch(board) * _stretch(H, plane)
    return H


def _mapped(H: Float[np.ndarray, "3 3"], plane: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    return cv2.perspectiveTransform(plane[:, None], H)[:, 0]


def _stretch(H: Float[np.ndarray, "3 3"], plane: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N"]:
    """Least pixels per metre at each point of the plane."""
    here, step = _mapped(H, plane), 1e-4
    sides = np.stack([_mapped(H, plane + d) - here for d in ([step, 0.0], [0.0, step])], -1) / step
    return np.linalg.svd(sides, compute_uv=False)[:, 1]


def _windows(
    H: Float[np.ndarray, "3 3"] | None, plane: Float[np.ndarray, "N 2"], pixels: Float[np.ndarray, "N 2"], board: Board
) -> Int[np.ndarray, "N"]:
    """Half sizes, px, of the windows that hold a corner's own edges and nothing of its neighbours."""
    if board.kind == "charuco":
        clear = (board.square - board.marker) / 2
    elif board.kind == "chessboard":
        clear = 0.4 * board.square
    else:
        bits = _dictionary(board.dictionary).markerSize + 2
        side = board.marker or _side(board)
        clear = min(side / bits, (board.square - board.marker) / 2 if board.square else side / bits)
    if H is None:  # markers in space: each one's own size
        sides = np.linalg.norm(pixels - np.roll(pixels, 1, axis=0), axis=1)
        return np.clip(0.9 * clear * np.median(sides) / _side(board), 2, 8).astype(int).repeat(len(pixels))
    return np.clip(0.9 * clear * _stretch(H, plane), 2, 8).astype(int)


def _refined(
    gray: UInt8[np.ndarray, "H W"], rough: Float[np.ndarray, "N 2"], half: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
    """Corners where the gradients around them meet, and their standard deviations (px).

    Foerstner and Guelch 1987: the covariance is the gray values' noise times the inverse of the window's structure matrix.
    """
    pixels = rough.astype(np.float32)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 40, 0.002)
    for size in np.unique(half):
        chosen = half == size
        there = pixels[chosen].reshape(-1, 1, 2).copy()
        pixels[chosen] = cv2.cornerSubPix(gray, there, (int(size), int(size)), (-1, -1), stop)[:, 0]
    noise, sigma = _noise(gray, rough), np.empty(len(rough))
    for n, (at, size) in enumerate(zip(pixels, half, strict=True)):
        patch = cv2.getRectSubPix(gray, (2 * int(size) + 3,) * 2, (float(at[0]), float(at[1]))).astype(np.float64)
        gx, gy = (patch[1:-1, 2:] - patch[1:-1, :-2]) / 2, (patch[2:, 1:-1] - patch[:-2, 1:-1]) / 2
        a, b, c = (gx * gx).sum(), (gx * gy).sum(), (gy * gy).sum()
        sigma[n] = np.sqrt(FLOOR**2 + noise**2 * (a + c) / 2 / max(a * c - b * b, 1e-9))
    away = np.linalg.norm(pixels - rough, axis=1) > half
    height, width = gray.shape
    outside = ((pixels < half[:, None]) | (pixels > np.array([width - 1, height - 1]) - half[:, None])).any(1)
    result = pixels.astype(np.float64)
    result[away | outside | (sigma > 1.0)] = np.nan
    return result, sigma


def _noise(gray: UInt8[np.ndarray, "H W"], around: Float[np.ndarray, "N 2"]) -> float:
    """Standard deviation of the gray values' noise (at least 1) near the board, from what no edge explains (Immerkaer 1996)."""
    (x0, y0), (x1, y1) = np.maximum(around.min(0), 0).astype(int), around.max(0).astype(int) + 1
    part = gray[y0:y1, x0:x1].astype(np.float32)
    if min(part.shape) < 8:
        return 1.0
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return max(float(np.median(np.abs(cv2.filter2D(part, -1, mask)))) * 1.4826 / 6, 1.0)


def _marked(gray: UInt8[np.ndarray, "H W"], board: Board) -> Float[np.ndarray, "N 2"] | None:
    """Rough corners of a board with markers."""
    found = np.full((len(_points(board)), 2), np.nan)
    small, scale = _shrunk(gray, 2000)
    if board.kind == "charuco":
        corners, numbers, _, _ = _charuco_detector(board).detectBoard(small)
        if numbers is not None and len(numbers):
            found[np.ravel(numbers)] = np.reshape(corners, (-1, 2))
    else:
        corners, numbers, _ = marker_detector(board.dictionary).detectMarkers(small)
        order = {n: i for i, n in enumerate(_numbers(board))}
        for quad, number in zip(corners, [] if numbers is None else np.ravel(numbers)):
            if int(number) in order:
                found[4 * order[int(number)] : 4 * order[int(number)] + 4] = quad[0]
    return (found + 0.5) * scale - 0.5 if np.isfinite(found).any() else None


def _chessboard(gray: UInt8[np.ndarray, "H W"], board: Board) -> Float[np.ndarray, "N 2"] | None:
    """All inner corners of a chessboard, numbered alike from wherever it is seen (see `Board.chessboard_symmetric`)."""
    pattern = (board.columns, board.rows)
    small, scale = _shrunk(gray, 1000)
    quick = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_FAST_CHECK
    ok, corners = cv2.findChessboardCorners(small, pattern, flags=quick)
    if not ok:
        ok, corners = cv2.findChessboardCornersSB(small, pattern, flags=cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_EXHAUSTIVE)
    if not ok:
        return None
    corners = (corners + 0.5) * scale - 0.5
    grid = corners.reshape(board.rows, board.columns, 2).astype(np.float64)
    across, down = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
    if across[0] * down[1] - across[1] * down[0] < 0:
        grid = grid[:, ::-1]
    cells = (grid[1:, 1:] + grid[1:, :-1] + grid[:-1, 1:] + grid[:-1, :-1]) / 4
    tone = cv2.remap(gray, cells.astype(np.float32), None, cv2.INTER_LINEAR).astype(np.float64)
    even = np.add.outer(np.arange(board.rows - 1), np.arange(board.columns - 1)) % 2 == 0
    turned = grid[0, -1, 0] < grid[0, 0, 0] if board.chessboard_symmetric else even.any() and tone[even].mean() > tone[~even].mean()
    return (grid[::-1, ::-1] if turned else grid).reshape(-1, 2).copy()


def _shrunk(gray: UInt8[np.ndarray, "H W"], side: int) -> tuple[UInt8[np.ndarray, "h w"], Float[np.ndarray, "2"]]:
    """The image with no side longer than `side` px, and how many of its own pixels one of them spans."""
    height, width = gray.shape
    factor = min(side / max(height, width), 1.0)
    small = cv2.resize(gray, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA) if factor < 1 else gray
    return small, np.array([width / small.shape[1], height / small.shape[0]])


@lru_cache(maxsize=16)
def _points(board: Board) -> tuple[Corner, ...]:
    if board.markers:
        return tuple(c for m in board.markers for c in m[1:])
    if board.kind in ("chessboard", "charuco"):
        first, columns, rows = (1, board.columns - 1, board.rows - 1) if board.kind == "charuco" else (0, board.columns, board.rows)
        return tuple((board.square * (c + first), board.square * (r + first), 0.0) for r in range(rows) for c in range(columns))
    corners = [(0, 0), (board.marker, 0), (board.marker, board.marker), (0, board.marker)]
    return tuple(
        (board.square * c + x, board.square * r + y, 0.0) for r in range(board.rows) for c in range(board.columns) for x, y in corners
    )


def _numbers(board: Board) -> list[int]:
    """Numbers of the markers, in the order of `points`."""
    return [m[0] for m in board.markers] or list(range(board.first, board.first + board.count))


def dictionaries() -> tuple[str, ...]:
    """OpenCV's names of the marker dictionaries."""
    names = {n.upper(): n for n in sorted(dir(cv2.aruco)) if n.startswith("DICT_")}  # some exist in two spellings
    return tuple(names.values())


def _dictionary(name: str) -> cv2.aruco.Dictionary:
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name))


def _parameters() -> cv2.aruco.DetectorParameters:
    parameters = cv2.aruco.DetectorParameters()
    parameters.minMarkerPerimeterRate = 0.02  # a marker of a 1280 px wide image may be 6 px wide
    return parameters


@lru_cache(maxsize=32)
def marker_detector(dictionary: str) -> cv2.aruco.ArucoDetector:
    """A detector of a dictionary's markers, their corners refined."""
    parameters = _parameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    return cv2.aruco.ArucoDetector(_dictionary(dictionary), parameters)


def opencv_charuco(board: Board) -> cv2.aruco.CharucoBoard:
    """OpenCV's own ChArUco board."""
    numbers = np.arange(board.first, board.first + board.count, dtype=np.int32)
    size = (board.columns, board.rows)
    charuco = cv2.aruco.CharucoBoard(size, board.square, board.marker, _dictionary(board.dictionary), numbers)
    charuco.setLegacyPattern(board.legacy)
    return charuco


@lru_cache(maxsize=16)
def _charuco_detector(board: Board) -> cv2.aruco.CharucoDetector:
    options = cv2.aruco.CharucoParameters()
    options.minMarkers = 1  # a corner at the edge of a half visible board has one
    options.tryRefineMarkers = True
    return cv2.aruco.CharucoDetector(opencv_charuco(replace(board, inverted=False)), options, _parameters())

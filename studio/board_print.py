"""Prints calibration boards: a PDF at true scale with a ruler, and `board.yaml` beside it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import cv2
import numpy as np

from calibration.board import Board, Kind, marker_numbers, opencv_dictionary
from calibration.board_corners import opencv_charuco

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGES = {"A4": (210, 297), "letter": (215.9, 279.4), "A3": (297, 420), "A2": (420, 594), "A1": (594, 841), "A0": (841, 1189)}
"""Width and height, mm."""
UNITS = {"mm": 0.001, "cm": 0.01, "m": 1.0, "in": 0.0254}
MARGIN, FOOT = 10.0, 24.0
"""White around the pattern and below it, for ruler and words, mm."""
INCH = 25.4
Box = tuple[float, float, float, float]
"""Left, top, width, height, mm."""


def length(text: str) -> float:
    """Metres of a length such as 40mm, 4cm, 0.04m or 1.5in."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*(mm|cm|m|in)\s*", text)
    try:
        value = float(found[1]) * UNITS[found[2]] if found else 0.0
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ValueError(f"length {text!r}: write a number and its unit, for example 40mm, 4cm, 0.04m or 1.5in")
    return value


def described(kind: str, counts: str, square: str, marker: str | None, dictionary: str | None, two_sided: str | None) -> Board:
    """The board that a command line speaks of: counts such as 5x7, lengths with units, the thickness of a two-sided one."""
    found = re.fullmatch(r"(\d+)x(\d+)", counts.strip())
    if not found:
        raise ValueError(f"--{kind} {counts}: write columns x rows, for example 5x7")
    if kind not in get_args(Kind):
        raise ValueError(f"--{kind}: a board is one of {', '.join(get_args(Kind))}")
    columns, rows, side, kind = int(found[1]), int(found[2]), length(square), cast("Kind", kind)
    if kind == "chessboard":
        return Board(kind, columns, rows, side)
    need = columns * rows // 2 if kind == "charuco" else columns * rows
    usual = "DICT_APRILTAG_36h11" if kind == "apriltag" else f"DICT_4X4_{next((n for n in (50, 100, 250) if n >= need), 1000)}"
    inner = length(marker) if marker else round(0.75 * side, 6)
    thickness = length(two_sided) if two_sided else 0.0
    return Board(kind, columns, rows, side, inner, dictionary or usual, two_sided=two_sided is not None, thickness=thickness)


def print_board(board: Board, path: Path, page: str | None = None) -> Path:
    """Write the board as a PDF at true scale; the back of a two-sided one is its second page, to lie behind the first.

    `page` is one of `PAGES`; by default the smallest that holds the board. A `ValueError` says where none does. Returns the path.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import PdfPages

    if board.markers:
        raise ValueError("board: a set of listed markers has no layout to print; print its markers one by one")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    with mpl.rc_context({"pdf.fonttype": 42}), PdfPages(temporary, metadata={"Title": title(board), "CreationDate": None}) as pdf:
        for mirrored in (False, True)[: 1 + board.two_sided]:
            pdf.savefig(drawn(board, page, mirrored))
    temporary.replace(path)
    return path


def title(board: Board) -> str:
    """The board in a line of words."""
    words = (
        f"{board.kind} {board.columns}x{board.rows}, {'square' if board.kind in ('charuco', 'chessboard') else 'from marker to marker'} "
    )
    words += f"{1000 * board.square:g} mm"
    if board.kind != "chessboard":
        words += f", marker {1000 * board.marker:g} mm, {board.dictionary}"
    return words + (", inverted" if board.inverted else "") + (", legacy" if board.legacy else "")


def drawn(board: Board, page: str | None = None, mirrored: bool = False) -> Figure:
    """One page as a figure whose axes are millimetres from the page's top left."""
    from matplotlib.figure import Figure

    black, (wide, high) = pattern(board)
    _, width, height = page_of(board, page)
    figure = Figure(figsize=(width / INCH, height / INCH))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    left, top = (width - wide) / 2, max((height - FOOT - high) / 2, MARGIN)
    ink, paper = ("white", "black") if board.inverted else ("black", "white")
    _fill(axes, [(left - MARGIN / 2, top - MARGIN / 2, wide + MARGIN, high + MARGIN)], paper)
    for boxes, colour in ((black, ink), (_white(board), paper)):
        placed = [(left + (wide - x - w if mirrored else x), top + y, w, h) for x, y, w, h in boxes]
        _fill(axes, placed, colour)
    _ruler(axes, width, height)
    axes.text(width / 2, height - 4, title(board) + (", back" if mirrored else ""), ha="center", va="bottom", fontsize=7)
    return figure


def pattern(board: Board) -> tuple[list[Box], tuple[float, float]]:
    """Boxes to ink, from the pattern's top left, and its width and height; mm."""
    side, marker = 1000 * board.square, 1000 * board.marker
    if board.kind == "chessboard":
        squares = [(c, r) for r in range(board.rows + 1) for c in range(board.columns + 1) if (r + c) % 2 == 0]
        return [(side * c, side * r, side, side) for c, r in squares], (side * (board.columns + 1), side * (board.rows + 1))
    markers = [(x, y, marker, marker) for x, y in _marker_places(board)]
    if board.kind != "charuco":
        return markers, (side * (board.columns - 1) + marker, side * (board.rows - 1) + marker)
    white = {(int(x // side), int(y // side)) for x, y in _marker_places(board)}
    squares = [(c, r) for r in range(board.rows) for c in range(board.columns) if (c, r) not in white]
    return [(side * c, side * r, side, side) for c, r in squares] + markers, (side * board.columns, side * board.rows)


def _marker_places(board: Board) -> list[tuple[float, float]]:
    """Top left corner of every marker, mm, in the order of their numbers."""
    if board.kind == "charuco":
        return [(1000 * float(p[0][0]), 1000 * float(p[0][1])) for p in opencv_charuco(board).getObjPoints()]
    return [(1000 * float(x), 1000 * float(y)) for x, y, _ in board.points()[::4].tolist()]


def _white(board: Board) -> list[Box]:
    """Boxes of the markers' white cells, one for each row's run, mm."""
    if board.kind == "chessboard":
        return []
    dictionary = opencv_dictionary(board.dictionary)
    cells = dictionary.markerSize + 2
    cell, boxes = 1000 * board.marker / cells, []
    for (x, y), number in zip(_marker_places(board), marker_numbers(board), strict=True):
        image = cv2.aruco.generateImageMarker(dictionary, number, cells)
        for row, line in enumerate(image > 127):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
            boxes += [(x + cell * a, y + cell * row, cell * (b - a), cell) for a, b in edges.reshape(-1, 2).tolist()]
    return boxes


def _fill(axes: Axes, boxes: list[Box], colour: str) -> None:
    from matplotlib.collections import PolyCollection

    shapes = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in boxes]
    axes.add_collection(PolyCollection(shapes, facecolors=colour, linewidths=0), autolim=False)


def _ruler(axes: Axes, width: float, height: float) -> None:
    """Millimetres to hold a ruler against."""
    long = 10 * int(min(width - 3 * MARGIN, 200) // 10)
    left, base = (width - long) / 2, height - 12
    for mm in range(long + 1):
        tick = 4.0 if mm % 10 == 0 else 2.8 if mm % 5 == 0 else 1.6
        axes.plot([left + mm] * 2, [base, base - tick], color="black", linewidth=0.4, solid_capstyle="butt")
        if mm % 50 == 0:
            axes.text(left + mm, base - 4.4, f"{mm}", ha="center", va="bottom", fontsize=6)
    axes.plot([left, left + long], [base, base], color="black", linewidth=0.4, solid_capstyle="butt")
    words = (
        f"{long} mm. Print at 100 %, not fitted to the page; if this ruler is not true, measure a square and write its side in board.yaml."
    )
    axes.text(width / 2, base + 1, words, ha="center", va="top", fontsize=6)


def page_of(board: Board, page: str | None = None) -> tuple[str, float, float]:
    """Name, width and height (mm) of the page, turned as the board needs it: `page`, by default the smallest that holds the board.

    A `ValueError` where none does says the largest square that fits.
    """
    if page is not None and page not in PAGES:
        raise ValueError(f"--page {page}: is one of {', '.join(PAGES)}")
    _, (wide, high) = pattern(board)
    need = wide + 2 * MARGIN, high + 2 * MARGIN + FOOT
    for name in [page] if page else [p for p in PAGES if p != "letter"]:
        for width, height in _both_ways(name):
            if need[0] <= width and need[1] <= height:
                return name, width, height
    held = page or "A0"
    part = max(min((w - 2 * MARGIN) / wide, (h - 2 * MARGIN - FOOT) / high) for w, h in _both_ways(held))
    scaled = ", its marker in proportion" if board.kind != "chessboard" else ""
    raise ValueError(
        f"the board is {wide:.0f} x {high:.0f} mm with margins and ruler {need[0]:.0f} x {need[1]:.0f} mm: more than {held} holds; "
        f"the largest square that fits is {_rounded_down(1000 * board.square * part):g} mm{scaled}"
    )


def _both_ways(name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    short, long = PAGES[name]
    return (short, long), (long, short)


def _rounded_down(mm: float) -> float:
    """To a millimetre, of small squares to a tenth."""
    return math.floor(mm) if mm >= 10 else math.floor(10 * mm) / 10


def with_yaml(board: Board, pdf: Path) -> Path:
    """Write the description beside the PDF, for calibration; its path."""
    path = pdf.with_suffix(".yaml")
    board.save(path)
    return path

"""Why a board is not found in an image, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import UInt8

from calibration.board import Board, dictionaries, marker_numbers
from calibration.board_corners import face_corners, marker_detector

BLUR = 12.0
"""Edges of a sharp image are steeper than this many gray values a pixel, at their steepest hundredth."""


def why_not_found(images: Sequence[UInt8[np.ndarray, "H W *rgb"]], board: Board) -> str:
    """What is the matter with a board that these images (RGB or gray) should show, and what to do; one sentence or two."""
    grays = [cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) if i.ndim == 3 else i for i in images]
    grays = [255 - g if board.inverted else g for g in grays]
    steep = max((_steepness(g) for g in grays), default=0.0)
    found = _chessboard_fault(grays, board) if board.kind == "chessboard" else _marker_fault(grays, board)
    if found:
        return found
    if steep < BLUR:
        return "the images are blurred or almost evenly gray: focus the camera, hold the board still, use more light"
    if board.kind == "chessboard":
        return (
            f"no chessboard of {board.columns} x {board.rows} inner corners is seen: all its corners must be visible, with a white margin "
            "around the squares; count inner corners, not squares"
        )
    return (
        f"0 markers of {board.dictionary} are seen, nor of any other dictionary: bring the board nearer, light it evenly, and check that "
        "it faces the camera"
    )


def _steepness(gray: UInt8[np.ndarray, "H W"]) -> float:
    small = gray.astype(np.float32)
    return float(np.quantile(np.abs(np.diff(small, axis=1)), 0.99))


def _marker_fault(grays: Sequence[UInt8[np.ndarray, "H W"]], board: Board) -> str | None:
    variants = {
        "": grays,
        "mirrored": [np.ascontiguousarray(g[:, ::-1]) for g in grays],
        "inverted": [255 - g for g in grays],
    }
    own = {name: _count(images, board.dictionary, marker_numbers(board)) for name, images in variants.items()}
    best = max(own, key=lambda name: own[name])
    if best and own[best] > own[""] + 2:
        if best == "mirrored" and not board.two_sided:
            return (
                f"the print is mirrored: 0 markers of {board.dictionary} as it stands, {own[best]} in the mirrored image; print it again "
                "unmirrored, switch the camera's mirror image off, or state two_sided where its back is printed too"
            )
        if best == "inverted":
            state = "false" if board.inverted else "true"
            return f"the print is {'not ' if board.inverted else ''}white for black: write 'inverted: {state}' in the board's description"
    if own[""] == 0:
        return _other_dictionary(grays, board)
    if own[""] < max(2, board.count // 4):
        return f"only {own['']} of the board's {board.count} markers are seen at best: bring it nearer, and light it evenly"
    return _other_layout(grays, board) or (
        f"{own['']} markers of the board are seen but do not lie as its description says: check columns, rows, square and marker "
        f"(now {board.columns} x {board.rows}, {board.square:g} m, {board.marker:g} m)"
    )


def _other_dictionary(grays: Sequence[UInt8[np.ndarray, "H W"]], board: Board) -> str | None:
    families: dict[str, list[str]] = {}
    for name in sorted(dictionaries(), key=_entries):  # DICT_4X4_50 is the beginning of DICT_4X4_100
        families.setdefault(name.rpartition("_")[0], []).append(name)
    seen = {members[-1]: _numbers(grays, members[-1]) for members in families.values()}
    largest = max(seen, key=lambda name: len(seen[name]))
    if len(seen[largest]) < 3:  # few-bit markers are seen in any texture
        return None
    name = next(n for n in families[largest.rpartition("_")[0]] if _entries(n) > max(seen[largest]))
    if _entries(name) <= _entries(board.dictionary) and name.rpartition("_")[0] == board.dictionary.rpartition("_")[0]:
        return (
            f"the board's markers are not numbered from {board.first} on; {sorted(seen[largest])[:4]} are seen among others: write 'first' "
            "in its description"
        )
    return (
        f"0 markers of {board.dictionary}, but {len(seen[largest])} of {name} are seen: write 'dictionary: {name}' in the board's "
        "description"
    )


def _other_layout(grays: Sequence[UInt8[np.ndarray, "H W"]], board: Board) -> str | None:
    if board.kind != "charuco":
        return None
    for change, words in (
        ({"legacy": not board.legacy}, f"legacy: {str(not board.legacy).lower()}"),
        ({"columns": board.rows, "rows": board.columns}, f"columns: {board.rows}, rows: {board.columns}"),
    ):
        other = replace(board, **change, inverted=False)
        if any(_corners(g, other) >= 4 for g in grays):
            return f"the board's squares lie otherwise than described: write '{words}' in its description"
    return None


def _chessboard_fault(grays: Sequence[UInt8[np.ndarray, "H W"]], board: Board) -> str | None:
    for columns, rows in ((board.columns - 1, board.rows - 1), (board.columns + 1, board.rows + 1)):
        if min(columns, rows) < 3:
            continue
        if any(_corners(g, replace(board, columns=columns, rows=rows, inverted=False)) >= 4 for g in grays):
            hint = "you counted squares: " if columns < board.columns else ""
            return (
                f"{hint}the chessboard has {columns} x {rows} inner corners, not {board.columns} x {board.rows}: write "
                f"'columns: {columns}' and 'rows: {rows}' (an inner corner is where four squares meet)"
            )
    return None


def _corners(gray: UInt8[np.ndarray, "H W"], board: Board) -> int:
    found = face_corners(gray, board)
    return 0 if found is None else int(np.isfinite(found[0]).all(1).sum())


def _count(grays: Sequence[UInt8[np.ndarray, "H W"]], dictionary: str, numbers: Sequence[int]) -> int:
    """The most of these markers in one image."""
    return max((len(_numbers([gray], dictionary) & set(numbers)) for gray in grays), default=0)


def _numbers(grays: Sequence[UInt8[np.ndarray, "H W"]], dictionary: str) -> set[int]:
    """Numbers of the markers in the image that shows most of them."""
    found = (marker_detector(dictionary).detectMarkers(gray)[1] for gray in grays)
    return max(({int(n) for n in np.ravel(f)} for f in found if f is not None), key=len, default=set())


def _entries(dictionary: str) -> int:
    return len(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary)).bytesList)

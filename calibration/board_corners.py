"""Where a board's corners are in one image: found with OpenCV, kept where a flat board agrees, refined, with their standard deviations."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from calibration.board import Board, corner_points, marker_numbers, opencv_dictionary

FLOOR = 0.05
"""What no corner is better than, px: the edges of prints and lenses are not ideal."""
TOLERANCE = 0.35
"""How far, in squares, a corner may lie from where a flat board in a pinhole camera would show it: leaves room for lens distortion."""


def face_corners(gray: UInt8[np.ndarray, "H W"], board: Board) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]] | None:
    """Refined corners of the board's front."""
    rough = _chessboard(gray, board) if board.kind == "chessboard" else _marked(gray, board)
    if rough is None:
        return None
    known = np.asarray(np.isfinite(rough).all(1))
    plane = np.asarray(corner_points(board))[:, :2]
    if known.sum() < 4 or np.linalg.svd(plane[known] - plane[known].mean(0), compute_uv=False)[1] < 0.1 * board.pitch:
        return None
    H = _agreeing(plane, rough, known, board) if not (board.markers and board.relief) else None
    if known.sum() < 4:
        return None
    pixels, sigma = np.full_like(rough, np.nan), np.full(len(rough), np.nan)
    half = _windows(H, plane[known], rough[known], board)
    refine = _refined if board.kind in ("charuco", "chessboard") else _crossed
    pixels[known], sigma[known] = refine(gray, rough[known], half)
    sigma[~np.isfinite(pixels).all(1)] = np.nan
    return pixels, sigma


def _agreeing(
    plane: Float[np.ndarray, "N 2"], rough: Float[np.ndarray, "N 2"], known: Bool[np.ndarray, "N"], board: Board
) -> Float[np.ndarray, "3 3"]:
    """The plane's homography; forgets in place what no flat board shows."""
    H, _ = cv2.findHomography(plane[known], rough[known])
    if H is not None and (_off(H, plane, rough, board)[known] < 1).all():
        return H
    spread = [np.linalg.det(np.cov(a[known].T)) for a in (rough, plane)]
    scale = (max(spread[0], 0) / spread[1]) ** 0.25  # px a metre
    H, _ = cv2.findHomography(plane[known], rough[known], cv2.RANSAC, TOLERANCE * board.pitch * scale)
    if H is None:
        known[:] = False
        return np.eye(3)
    known &= _off(H, plane, rough, board) < 1
    return H


def _off(
    H: Float[np.ndarray, "3 3"], plane: Float[np.ndarray, "N 2"], rough: Float[np.ndarray, "N 2"], board: Board
) -> Float[np.ndarray, "N"]:
    """How far corners lie from where the homography puts them, in units of what is tolerated."""
    return np.linalg.norm(_mapped(H, plane) - rough, axis=1) / (TOLERANCE * board.pitch * _stretch(H, plane) + 1e-9)


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
        bits = opencv_dictionary(board.dictionary).markerSize + 2
        side = board.marker_side
        clear = min(side / bits, (board.square - board.marker) / 2 if board.square else side / bits)
    if H is None:  # markers in space: each one's own size
        sides = np.linalg.norm(pixels - np.roll(pixels, 1, axis=0), axis=1)
        return np.clip(0.9 * clear * np.median(sides) / board.marker_side, 2, 8).astype(int).repeat(len(pixels))
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


def _crossed(
    gray: UInt8[np.ndarray, "H W"], rough: Float[np.ndarray, "N 2"], half: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
    """Corners of whole markers where lines through their four edges cross, and their standard deviations (px).

    Blur rounds a lone corner off, which draws a gradient-based corner inwards; along its edges it moves nothing.
    """
    pixels, sigma = np.full_like(rough, np.nan), np.full(len(rough), np.nan)
    for first in range(0, len(rough) - 3, 4):
        quad, reach = rough[first : first + 4], float(half[first : first + 4].min()) + 1
        edges = [_edge(gray, quad[i], quad[(i + 1) % 4], reach) for i in range(4)]
        for i in range(4):
            (a, scatter_a), (b, scatter_b) = edges[i - 1], edges[i]
            cross = np.cross(a, b)
            if not np.isfinite(cross).all() or abs(cross[2]) < 0.2:  # edges that run alike do not cross surely
                continue
            at = cross[:2] / cross[2]
            if np.linalg.norm(at - quad[i]) <= reach + 1:
                pixels[first + i] = at
                sigma[first + i] = np.sqrt(FLOOR**2 + (scatter_a**2 + scatter_b**2) / cross[2] ** 2)
    return pixels, sigma


def _edge(
    gray: UInt8[np.ndarray, "H W"], start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"], reach: float
) -> tuple[Float[np.ndarray, "3"], float]:
    """The line (unit normal, offset) along an edge between two rough corners, and its standard deviation at its ends, px; NaN for none."""
    length = float(np.linalg.norm(end - start))
    nothing = np.full(3, np.nan), float("nan")
    if length < 8:
        return nothing
    along, count = (end - start) / length, int(max(length // 1.5, 6))
    across = np.array([-along[1], along[0]])
    steps = np.arange(-reach, reach + 0.25, 0.5)
    places = start + np.linspace(0.15, 0.85, count)[:, None] * (end - start)
    grid = (places[:, None] + steps[None, :, None] * across).astype(np.float32)
    if (grid < 0).any() or (grid > np.array(gray.shape[::-1]) - 1).any():
        return nothing
    columns, rows = np.ascontiguousarray(grid[..., 0]), np.ascontiguousarray(grid[..., 1])
    slope = np.diff(cv2.remap(gray, columns, rows, cv2.INTER_LINEAR).astype(np.float64), axis=1)
    slope = slope * np.sign(slope.sum()) - 0.25 * np.abs(slope).max(1, keepdims=True)  # a marker's own edge, without its neighbours
    weight = np.clip(slope, 0, None)
    total = weight.sum(1)
    if (total <= 0).any():
        return nothing
    found = places + ((weight * (steps[1:] + steps[:-1]) / 2).sum(1) / total)[:, None] * across
    centre = np.median(found @ across)
    found = found[np.abs(found @ across - centre) < reach]
    vx, vy, x, y = cv2.fitLine(found.astype(np.float32), cv2.DIST_HUBER, 0, 0.01, 0.01).ravel().astype(np.float64)
    normal = np.array([-vy, vx])
    off = (found - [x, y]) @ normal
    scatter = 1.4826 * np.median(np.abs(off))
    return np.array([*normal, -normal @ [x, y]]), float(2 * scatter / max(len(found), 1) ** 0.5)


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
    found = np.full((len(corner_points(board)), 2), np.nan)
    small, scale = _shrunk(gray, 2000)
    if board.kind == "charuco":
        corners, numbers, _, _ = _charuco_detector(board).detectBoard(small)
        if numbers is not None and len(numbers):
            found[np.asarray(numbers, np.int64).ravel()] = np.reshape(corners, (-1, 2))
    else:
        corners, numbers, _ = marker_detector(board.dictionary).detectMarkers(small)
        order = {n: i for i, n in enumerate(marker_numbers(board))}
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
    across_map, down_map = (np.ascontiguousarray(cells[..., i], np.float32) for i in (0, 1))
    tone = cv2.remap(gray, across_map, down_map, cv2.INTER_LINEAR).astype(np.float64)
    even = np.add.outer(np.arange(board.rows - 1), np.arange(board.columns - 1)) % 2 == 0
    turned = grid[0, -1, 0] < grid[0, 0, 0] if board.chessboard_symmetric else even.any() and tone[even].mean() > tone[~even].mean()
    return (grid[::-1, ::-1] if turned else grid).reshape(-1, 2).copy()


def _shrunk(gray: UInt8[np.ndarray, "H W"], side: int) -> tuple[UInt8[np.ndarray, "h w"], Float[np.ndarray, "2"]]:
    """The image with no side longer than `side` px, and how many of its own pixels one of them spans."""
    height, width = gray.shape
    factor = min(side / max(height, width), 1.0)
    small = cv2.resize(gray, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA) if factor < 1 else gray
    return small, np.array([width / small.shape[1], height / small.shape[0]])


def _parameters() -> cv2.aruco.DetectorParameters:
    parameters = cv2.aruco.DetectorParameters()
    parameters.minMarkerPerimeterRate = 0.02  # a marker of a 1280 px wide image may be 6 px wide
    return parameters


@lru_cache(maxsize=32)
def marker_detector(dictionary: str) -> cv2.aruco.ArucoDetector:
    """A detector of a dictionary's markers, their corners refined."""
    parameters = _parameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    return cv2.aruco.ArucoDetector(opencv_dictionary(dictionary), parameters)


def opencv_charuco(board: Board) -> cv2.aruco.CharucoBoard:
    """OpenCV's own ChArUco board."""
    numbers = np.arange(board.first, board.first + board.count, dtype=np.int32)
    size = (board.columns, board.rows)
    charuco = cv2.aruco.CharucoBoard(size, board.square, board.marker, opencv_dictionary(board.dictionary), numbers)
    charuco.setLegacyPattern(board.legacy)
    return charuco


@lru_cache(maxsize=16)
def _charuco_detector(board: Board) -> cv2.aruco.CharucoDetector:
    options = cv2.aruco.CharucoParameters()
    options.minMarkers = 1  # a corner at the edge of a half visible board has one
    options.tryRefineMarkers = True
    return cv2.aruco.CharucoDetector(opencv_charuco(replace(board, inverted=False)), options, _parameters())

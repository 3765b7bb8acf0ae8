"""Boards as images with known corners: textures by OpenCV's own printers, a pinhole camera with supersampled pixels."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from calibration.boards import Board

TEXELS = 96
"""A square's side in the texture."""
SIZE, FOCAL = (640, 480), 700.0


def texture(board: Board) -> tuple[np.ndarray, np.ndarray]:
    """Gray image of the print without margin, and where the board's origin lies on it, m."""
    if board.kind == "chessboard":
        cells = np.add.outer(np.arange(board.rows + 1), np.arange(board.columns + 1)) % 2
        return np.kron(cells * 255, np.ones((TEXELS, TEXELS))).astype(np.uint8), np.full(2, board.square)
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, board.dictionary))
    size = (board.columns, board.rows)
    if board.kind == "charuco":
        made = cv2.aruco.CharucoBoard(size, board.square, board.marker, dictionary)
        made.setLegacyPattern(board.legacy)
        return made.generateImage((TEXELS * size[0], TEXELS * size[1]), marginSize=0), np.zeros(2)
    made = cv2.aruco.GridBoard(size, board.marker, board.square - board.marker, dictionary)
    pixels = [round((n - 1 + board.marker / board.square) * TEXELS) for n in size]
    return made.generateImage(pixels, marginSize=0), np.zeros(2)


def pose(board: Board, turn=0.0, tilt=(0.0, 0.0), distance=0.6, shift=(0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """R_camera_board and translation (m) with the board's middle ahead, turned and tilted (degrees)."""
    R = Rotation.from_euler("zyx", [turn, *tilt], degrees=True).as_matrix()
    return R, np.array([*shift, distance]) - R @ board.points().numpy().mean(0)


def projected(points: np.ndarray, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Pixels of board points, (n, 2)."""
    p = points @ R.T + t
    return FOCAL * p[:, :2] / p[:, 2:] + (np.array(SIZE) - 1) / 2


def photograph(board: Board, R: np.ndarray, t: np.ndarray, depth=0.0, blur=0.0, noise=2.0, seed=0, samples=3) -> np.ndarray:
    """Gray image of the print at `depth` behind the board's front, seen as though the board were of glass."""
    print_, origin = texture(board)
    print_ = 255 - print_ if board.inverted else print_
    steps = (np.arange(SIZE[0] * samples) + 0.5) / samples - 0.5, (np.arange(SIZE[1] * samples) + 0.5) / samples - 0.5
    x, y = np.meshgrid(*(s.astype(np.float32) for s in steps))
    H = np.linalg.inv(np.stack([R[:, 0], R[:, 1], t + R[:, 2] * depth], 1)).astype(np.float32)
    rays = np.stack([(x - (SIZE[0] - 1) / 2) / FOCAL, (y - (SIZE[1] - 1) / 2) / FOCAL, np.ones_like(x)])
    on = (H @ rays.reshape(3, -1)).reshape(rays.shape)
    at = (on[:2] / on[2] + origin[:, None, None]) / board.square * TEXELS - 0.5
    margin = 0 if board.inverted else 255
    framed = cv2.copyMakeBorder(print_, 24, 24, 24, 24, cv2.BORDER_CONSTANT, value=margin)
    fine = cv2.remap(framed, (at[0] + 24).astype(np.float32), (at[1] + 24).astype(np.float32), cv2.INTER_LINEAR, borderValue=110)
    image = fine.reshape(SIZE[1], samples, SIZE[0], samples).mean((1, 3)) * 0.75 + 25
    image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
    return np.clip(image + np.random.default_rng(seed).normal(0, noise, image.shape), 0, 255).astype(np.uint8)

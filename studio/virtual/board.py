"""A rendered ChArUco board moved through the volume before the capture's cameras, with its exact pose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from studio.values import Stored
from studio.video import VideoWriter
from studio.virtual.actions import sway
from studio.virtual.room import key_falloff, sampled
from studio.virtual.scene import View, developed

if TYPE_CHECKING:
    from studio.virtual.capture import VirtualCapture

COLUMNS, ROWS = 7, 5
SQUARE, MARKER = 0.12, 0.09
"""Sides of a square and of a marker, m: large enough to be read across the volume."""
DICTIONARY = "DICT_4X4_50"
EDGE = 0.03
"""White border around the squares, m."""
SUBSAMPLES = 4
"""Samples along each side of a pixel."""


@dataclass(frozen=True)
class BoardTruth(Stored):
    """Where the board is in every frame. Board frame: origin at its top left corner, x right, y down, z away from the viewer."""

    columns: int
    rows: int
    square: float
    """m."""
    marker: float
    """m."""
    dictionary: str
    """OpenCV's name."""
    cameras: tuple[str, ...]
    fps: float
    R_world_board: Float[Tensor, "T 3 3"]
    position: Float[Tensor, "T 3"]
    """World position of the board's origin, m."""
    corners: Float[Tensor, "K 3"]
    """Inner chessboard corners in the board's frame by ChArUco id, m."""

    def corners_world(self) -> Float[Tensor, "T K 3"]:
        """World position of every corner, m."""
        return torch.einsum("tij,kj->tki", self.R_world_board, self.corners) + self.position[:, None]


def charuco() -> cv2.aruco.CharucoBoard:
    """The rendered board, for OpenCV's detector."""
    return cv2.aruco.CharucoBoard((COLUMNS, ROWS), SQUARE, MARKER, cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, DICTIONARY)))


def render_board(folder: Path, config: VirtualCapture) -> Path:
    """Render into `folder`: videos/<camera>.mp4, cameras.yaml (the truth), board.safetensors (`BoardTruth`). Returns the folder.

    The board turns once around the ring, so every camera sees it from the front; finished videos are kept.
    """
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    cameras, room = config.camera_ring(), config.room()
    cameras.save(folder / "cameras.yaml")
    truth = board_motion(config)
    truth.save(folder / "board.safetensors", config=config.content())
    texture = board_texture()
    for c, name in enumerate(cameras.names):
        path = folder / "videos" / f"{name}.mp4"
        if path.is_file():
            continue
        view = View(cameras[c], room)
        with VideoWriter(path, config.width, config.height, config.fps, crf=config.crf) as video:
            for t in track(range(config.frames), f"board {name}", transient=True):
                light = view.empty.copy()
                lay_board(light, view, texture, truth.R_world_board[t].numpy(), truth.position[t].numpy())
                video.write(developed(light, config.noise, (config.seed, 1000 + c, t)))
    return folder


def board_motion(config: VirtualCapture) -> BoardTruth:
    """A board that turns once around while it drifts through the volume, tilted up to 35 degrees either way."""
    T = config.frames
    rng = np.random.default_rng([config.seed, 61])
    calm = max(T / config.fps, 4.0)
    curve = [sway(rng, T, T / calm, 0.06, 0.25) for _ in range(6)]
    bearing = 2 * np.pi * np.arange(T) / T + rng.uniform(0, 2 * np.pi) + 0.35 * curve[0]
    pitch, roll = 0.35 * curve[1], 0.3 * curve[2]
    centre = np.stack([0.35 * curve[3], 0.35 * curve[4], 1.2 + 0.25 * curve[5]], 1)
    R = np.empty((T, 3, 3))
    for t in range(T):
        ahead = np.array([np.cos(bearing[t]), np.sin(bearing[t]), 0]) * np.cos(pitch[t]) + np.array([0, 0, np.sin(pitch[t])])
        z = -ahead  # away from the viewer that the board faces
        x = np.cross(z, [0.0, 0.0, 1.0])
        x /= np.linalg.norm(x)
        y = np.cross(z, x)
        R[t] = np.stack([np.cos(roll[t]) * x + np.sin(roll[t]) * y, np.cos(roll[t]) * y - np.sin(roll[t]) * x, z], 1)
    middle = np.array([COLUMNS * SQUARE / 2, ROWS * SQUARE / 2, 0])
    corners = torch.from_numpy(np.asarray(charuco().getChessboardCorners(), np.float64))
    return BoardTruth(
        COLUMNS,
        ROWS,
        SQUARE,
        MARKER,
        DICTIONARY,
        config.camera_ring().names,
        config.fps,
        torch.from_numpy(R),
        torch.from_numpy(centre - R @ middle),
        corners,
    )


def board_texture() -> Float[np.ndarray, "H W 3"]:
    """Linear albedo of the board without its border, 96 texels a square."""
    print_ = charuco().generateImage((COLUMNS * 96, ROWS * 96), marginSize=0, borderBits=1)
    return np.repeat(0.03 + 0.72 * (print_[..., None] > 127), 3, -1).astype(np.float32)


def lay_board(
    light: Float[np.ndarray, "H W 3"],
    view: View,
    texture: Float[np.ndarray, "h w 3"],
    R_world_board: Float[np.ndarray, "3 3"],
    position: Float[np.ndarray, "3"],
) -> None:
    """Paint the board over a view's linear light, every ray of a pixel's samples meeting its plane; its back is plain."""
    extent = np.array([COLUMNS * SQUARE, ROWS * SQUARE])
    rim = np.array([[x, y, 0] for x in (-EDGE, extent[0] + EDGE) for y in (-EDGE, extent[1] + EDGE)]) @ R_world_board.T + position
    rows, columns = view.box(rim.astype(np.float32), 4)
    base, right, down = (a[rows, columns].astype(np.float64) for a in (view.rays, view.right, view.down))
    if not base.size:
        return
    eye = (view.origin.astype(np.float64) - position) @ R_world_board
    front = eye[2] < 0
    total, share = np.zeros(base.shape), np.zeros(base.shape[:2])
    for dy in (np.arange(SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5:
        for dx in (np.arange(SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5:
            ray = (base + dx * right + dy * down) @ R_world_board
            with np.errstate(divide="ignore", invalid="ignore"):
                t = -eye[2] / ray[..., 2]
            at = (eye + t[..., None] * ray)[..., :2]
            inside = (t > 0) & (at >= -EDGE).all(-1) & (at <= extent + EDGE).all(-1)
            printed = inside & (at >= 0).all(-1) & (at <= extent).all(-1) & front
            albedo = np.where(inside[..., None], 0.75 if front else 0.4, 0.0) * np.ones(3)
            albedo[printed] = sampled(texture, at[printed][:, 0] / extent[0], at[printed][:, 1] / extent[1])
            total += albedo / SUBSAMPLES**2
            share += inside / SUBSAMPLES**2
    to_key = view.room.key - (position + R_world_board @ np.array([*extent / 2, 0]))
    square = float(to_key @ to_key)
    normal = -R_world_board[:, 2] if front else R_world_board[:, 2]
    strength = 0.6 + float(key_falloff(np.array(square))) * max(0.0, float(normal @ to_key) / square**0.5)
    light[rows, columns] = (light[rows, columns] * (1 - share[..., None]) + total * strength).astype(np.float32)

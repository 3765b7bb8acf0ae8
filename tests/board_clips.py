"""Clips of a board waved before three cameras, warped by OpenCV from a print: the truth is known, the faults are made on purpose."""

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from studio.video import VideoWriter

SQUARE, SIZE, FOCAL = 0.12, (480, 360), 430.0
NAMES = ("left", "middle", "right")
PLACES = dict(zip(NAMES, np.array([[-1.0, -2.2, 1.9], [0.1, -2.4, 2.1], [1.1, -2.1, 1.8]])))
MARGIN, TEXELS, FINE = 20, 48, 2
Pose = tuple[np.ndarray, np.ndarray]
Image = np.ndarray


def looking(position: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """R_camera_world of a camera that looks at the middle of the volume, turned aside by some degrees."""
    z = np.array([0, 0, 0.7]) - position
    z = Rotation.from_euler("z", turn, degrees=True).apply(z / np.linalg.norm(z))
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


RIG: dict[str, Pose] = {n: (looking(p), p) for n, p in PLACES.items()}


def charuco(dictionary: int = cv2.aruco.DICT_4X4_50) -> Image:
    """A print of 6 x 4 squares of 12 cm with markers of 9 cm."""
    board = cv2.aruco.CharucoBoard((6, 4), SQUARE, 0.75 * SQUARE, cv2.aruco.getPredefinedDictionary(dictionary))
    return framed(board.generateImage((6 * TEXELS, 4 * TEXELS), marginSize=0))


def chessboard() -> Image:
    """A print of 6 x 5 squares, so 5 x 4 inner corners."""
    return framed(np.kron(np.add.outer(np.arange(5), np.arange(6)) % 2 * 255, np.ones((TEXELS, TEXELS))).astype(np.uint8))


def framed(print_: Image) -> Image:
    return cv2.copyMakeBorder(print_, *(MARGIN,) * 4, cv2.BORDER_CONSTANT, value=255)


def waved(count: int, tilt: float = 32.0, lean: float = -25.0, seed: int = 8) -> list[Pose]:
    """R_world_board and the world place of the print's corner: facing the cameras, tilted at random, all over the volume."""
    random = np.random.default_rng(seed)
    middle, facing = np.array([3 * SQUARE, 2 * SQUARE, 0]), np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    poses = []
    for _ in range(count):
        R = Rotation.from_euler("x", lean, degrees=True).as_matrix() @ facing
        R = R @ Rotation.from_euler("xyz", random.uniform(-tilt, tilt, 3), degrees=True).as_matrix()
        poses.append((R, random.uniform([-0.6, -0.7, 0.3], [0.6, 0.3, 1.2]) - R @ middle))
    return poses


def lying(x: float, y: float, height: float = 0.0) -> Pose:
    """On the floor, print up."""
    down = np.diag([1.0, -1, -1])
    return down, np.array([x, y, height]) - down @ np.array([3 * SQUARE, 2 * SQUARE, 0])


def pictures(print_: Image, cameras: list[Pose], poses: list[Pose], seed: int = 9) -> list[Image]:
    """Gray pictures of one camera, which may stand elsewhere at each instant."""
    step = SQUARE / TEXELS
    metres = np.array([[step, 0, (0.5 - MARGIN) * step], [0, step, (0.5 - MARGIN) * step], [0, 0, 1]])
    K = np.array([[FINE * FOCAL, 0, FINE / 2 * SIZE[0] - 0.5], [0, FINE * FOCAL, FINE / 2 * SIZE[1] - 0.5], [0, 0, 1]])
    random, made = np.random.default_rng(seed), []
    for (R_cw, position), (R, origin) in zip(cameras, poses, strict=True):
        H = K @ np.stack([R_cw @ R[:, 0], R_cw @ R[:, 1], R_cw @ (origin - position)], 1) @ metres
        fine = cv2.warpPerspective(print_, H, (FINE * SIZE[0], FINE * SIZE[1]), flags=cv2.INTER_LINEAR, borderValue=90)
        image = cv2.resize(fine, SIZE, interpolation=cv2.INTER_AREA) * 0.8 + 20 + random.normal(0, 1.5, SIZE[::-1])
        made.append(image.clip(0, 255).astype(np.uint8))
    return made


def filmed(print_: Image, poses: list[Pose]) -> dict[str, list[Image]]:
    """What the three cameras see, standing still."""
    return {n: pictures(print_, [RIG[n]] * len(poses), poses, seed) for seed, n in enumerate(NAMES)}


def clip(path: Path, images: Iterable[Image]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, *SIZE, 10.0, crf=12) as video:
        for image in images:
            video.write(np.repeat(image[..., None], 3, 2))


def clips(folder: Path, images: dict[str, list[Image]], change: Callable[[Image], Image] = lambda image: image) -> Path:
    for name, seen in images.items():
        clip(folder / f"{name}.mp4", map(change, seen))
    return folder


def tape(first: str, second: str, factor: float = 1.0) -> str:
    """`--distance` as the tape says it."""
    return f"{first}:{second}:{factor * np.linalg.norm(PLACES[first] - PLACES[second]):.3f}m"

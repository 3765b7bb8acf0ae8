"""Pictures of what cameras saw of a calibration board: the corners that were found, and which parts of the image none has reached yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from calibration.board import Board
from calibration.boards import BoardViews
from calibration.lens_verdict import coverage_map
from studio.board_print import drawn
from studio.video import frames

Image = UInt8[np.ndarray, "H W 3"]
FOUND, BEFORE, EMPTY = (40, 235, 90), (255, 190, 40), (215, 60, 60)
"""Colours of the corners in this picture, of those at all other instants, and of cells that no corner reached."""


def still(video: Path, number: int = 0) -> Image:
    """One frame of a video, RGB."""
    return next(image for _, image in frames(video, number, number + 1))


def best_instant(views: BoardViews, c: int) -> int | None:
    """The instant at which a camera shows most of the board, largest where several show all; None where it never does."""
    seen = views.pixels[c].isfinite().all(-1)
    if int(seen.sum(1).max()) < 4:
        return None
    span = views.pixels[c].nan_to_num(-1e9).amax(1) - views.pixels[c].nan_to_num(1e9).amin(1)
    return int((seen.sum(1) + 0.5 * span.prod(-1).clamp(min=0) / views.size[c].prod()).argmax())


def board_picture(video: Path, views: BoardViews, c: int, b: int | None = None, width: int = 960, others: bool = True) -> Image:
    """What camera `c` saw at instant `b` (None: its best), scaled to `width` px: this instant's corners green; with `others` all other
    instants' yellow, and red where no corner was yet. Black where the camera has no such frame.
    """
    b = best_instant(views, c) if b is None else b
    number = int(views.instants[c, b]) if b is not None else max(int(views.instants[c].max()) // 2, 0)
    wide, high = views.size[c].long().tolist()
    image = still(video, number) if number >= 0 else np.zeros((high, wide, 3), np.uint8)
    scale = width / wide
    image = cv2.resize(image, (width, round(high * scale)), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if others:
        image = _with_empty_cells(image, coverage_map(views.pixels[c], views.size[c]).numpy())
        _dots(image, _scaled(views.pixels[c].flatten(0, 1).numpy(), scale), 2, BEFORE)
    if b is not None:
        _dots(image, _scaled(views.pixels[c, b].numpy(), scale), 5, FOUND)
    return image


def _scaled(pixels: Float[np.ndarray, "n 2"], scale: float) -> Float[np.ndarray, "n 2"]:
    return (pixels[np.isfinite(pixels).all(1)] + 0.5) * scale - 0.5


def _with_empty_cells(image: Image, coverage: Float[np.ndarray, "r c"]) -> Image:
    high, wide = image.shape[:2]
    empty = cv2.resize((coverage == 0).astype(np.uint8), (wide, high), interpolation=cv2.INTER_NEAREST)[..., None]
    return np.where(empty, (0.72 * image + 0.28 * np.array(EMPTY)).astype(np.uint8), image)


def _dots(image: Image, pixels: Float[np.ndarray, "n 2"], radius: int, colour: tuple[int, int, int]) -> None:
    for x, y in (16 * pixels).round().astype(int).tolist():
        cv2.circle(image, (x, y), 16 * radius, colour, -1 if radius < 4 else 2, cv2.LINE_AA, 4)


def live_picture(
    image: Image, pixels: Float[np.ndarray, "n 2"] | None = None, before: Float[np.ndarray, "m 2"] | None = None, width: int = 960
) -> Image:
    """A camera's picture scaled to `width` px with the corners found in it, and those found before (px of the whole image)."""
    scale = width / image.shape[1]
    small = cv2.resize(image, (width, round(image.shape[0] * scale)), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for points, radius, colour in ((before, 2, BEFORE), (pixels, 5, FOUND)):
        if points is not None:
            _dots(small, _scaled(points, scale), radius, colour)
    return small


def marked_picture(image: Image, marks: Sequence[tuple[str, float, float]], lines: Sequence[Float[np.ndarray, "n 2"]] = ()) -> Image:
    """A picture with named crosses (px), and with lines through pixels; both as fine as the picture is."""
    image, size = image.copy(), max(image.shape[1] // 60, 8)
    for line in lines:
        points = (16 * line[np.isfinite(line).all(1)]).round().astype(np.int32)
        cv2.polylines(image, [points.reshape(-1, 1, 2)], False, BEFORE, max(size // 12, 1), cv2.LINE_AA, 4)
    for name, x, y in marks:
        at = (round(x), round(y))
        cv2.drawMarker(image, at, (0, 0, 0), cv2.MARKER_CROSS, 2 * size, max(size // 6, 1) + 2)
        cv2.drawMarker(image, at, FOUND, cv2.MARKER_CROSS, 2 * size, max(size // 8, 1))
        for colour, thick in (((0, 0, 0), 4), (FOUND, 2)):
            cv2.putText(
                image, name, (at[0] + size // 2, at[1] - size // 2), cv2.FONT_HERSHEY_SIMPLEX, size / 22, colour, thick, cv2.LINE_AA
            )
    return image


def print_picture(board: Board, dots: int = 60) -> Image:
    """The printed board as a picture, to hold beside the real one; `dots` an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(drawn(board))
    canvas.figure.set_dpi(dots)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

"""What live cameras see of a calibration board, picture by picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from calibration.board import Board
from calibration.boards import find_board
from calibration.lens_verdict import coverage_map
from studio.board_pictures import live_picture

Shown = Callable[[dict[str, UInt8[np.ndarray, "H W 3"]], dict[str, list[str]]], None]
"""Hears the latest picture of each camera with the corners drawn, and sentences on each."""
VIEWS = 2000
"""Corners that are kept of each camera, the latest."""


class LiveBoard:
    """Looks for a board in previews of `studio.record.record` as they come; hand it `see`."""

    def __init__(self, board: Board, shown: Shown) -> None:
        self.board, self.shown = board, shown
        self.corners: dict[str, Float[np.ndarray, "n 2"]] = {}
        self.views: dict[str, int] = {}
        self._pictures: dict[str, UInt8[np.ndarray, "H W 3"]] = {}
        self._told: dict[str, list[str]] = {}

    def see(self, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """The latest picture of a camera."""
        found = find_board(image, self.board)
        now = None if found is None else found[0][found[0].isfinite().all(-1)].numpy()
        before = self.corners.get(name, np.zeros((0, 2)))
        self._pictures[name] = live_picture(image, now, before)
        if now is not None:
            self.corners[name] = np.concatenate([before, now])[-VIEWS:]
        self.views[name] = self.views.get(name, 0) + (now is not None)
        self._told[name] = self._sentences(name, now is not None, image.shape[1], image.shape[0])
        self.shown(dict(sorted(self._pictures.items())), self._told)

    def _sentences(self, name: str, sees: bool, wide: int, high: int) -> list[str]:
        size = torch.tensor([wide, high], dtype=torch.float64)
        covered = coverage_map(torch.from_numpy(self.corners.get(name, np.zeros((0, 2))))[None], size)
        part = 100 * float((covered > 0).double().mean())
        return ["Sees the board." if sees else "Does not see the board.", f"{self.views[name]} views, {part:.0f} % of the picture covered."]

"""What cameras see of a calibration board: in one image, and in all of them together.

Pixels are OpenCV's: (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from calibration.board import Board, corner_points
from calibration.board_corners import face_corners

__all__ = ["Board", "BoardViews", "Sighting", "find_board", "sight_board"]


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
    front = face_corners(gray, board)
    seen = 0 if front is None else int(np.isfinite(front[0]).all(1).sum())
    if not board.two_sided or board.kind == "chessboard" or 2 * seen >= len(corner_points(board)):
        return None if front is None else _sighting(*front, False)
    back = face_corners(np.ascontiguousarray(gray[:, ::-1]), board)
    if back is None or np.isfinite(back[0]).all(1).sum() <= seen:
        return None if front is None else _sighting(*front, False)
    back[0][:, 0] = gray.shape[1] - 1 - back[0][:, 0]
    return _sighting(*back, True)


def _sighting(pixels: Float[np.ndarray, "N 2"], sigma: Float[np.ndarray, "N"], behind: bool) -> Sighting:
    return Sighting(torch.from_numpy(pixels), torch.from_numpy(sigma), behind)

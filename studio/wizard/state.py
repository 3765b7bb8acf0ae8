"""What the wizard knows: frozen values, replaced as a whole by every action."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.gates import Gate
from calibration.intrinsics import LensFit
from studio.board_steps import Found, Placed, Rig

Step = Literal["clips", "film", "calibrate", "check", "floor", "accept"]
STEPS: dict[Step, str] = {
    "clips": "Clips and board",
    "film": "What was seen",
    "calibrate": "Calibrate",
    "check": "Check",
    "floor": "Floor",
    "accept": "Accept",
}
FILE = "board.yaml"
USUAL = "usual"
BEST, SAME = "each camera's best view", "all at one instant"
BOARD, MARKS = "the board lies on it", "marks that I click"


@dataclass(frozen=True)
class Choices:
    """What stands in the page's fields, as the operator wrote it."""

    clips: str = ""
    """Folder of clips."""
    described: str = "charuco"
    """The board's kind, or `FILE`."""
    board_file: str = ""
    columns: int = 5
    rows: int = 7
    square: str = "40mm"
    marker: str = ""
    dictionary: str = USUAL
    inverted: bool = False
    legacy: bool = False
    instants: str = ""
    """Table of frames that belong together."""
    pictures: str = BEST
    instant: int = 0
    known_lenses: str = ""
    tape: str = ""
    """Measured distances, CAMERA:CAMERA:LENGTH, with commas between."""
    floor: str = BOARD
    lying: int = 0
    """Number of the instant at which the board lies on the floor."""
    thickness: str = ""
    """Of the board."""
    camera: str = ""
    """Whose picture is clicked on."""
    mark: int = 1
    x: float = 0.0
    y: float = 0.0
    accept: bool = False


@dataclass(frozen=True)
class Click:
    """Where a person saw a mark on the floor in a camera's picture, px."""

    mark: int
    camera: str
    x: float
    y: float


@dataclass(frozen=True)
class State:
    """All that the pages are drawn from."""

    target: Path
    """The cameras.yaml to write."""
    step: Step = "clips"
    choices: Choices = field(default_factory=Choices)
    videos: dict[str, Path] = field(default_factory=dict)
    found: Found | None = None
    lenses: dict[str, LensFit | str] = field(default_factory=dict)
    rig: Rig | None = None
    placed: Placed | None = None
    clicks: tuple[Click, ...] = ()
    written: Path | None = None
    message: str = ""
    doing: str = ""
    """The work that is being done; empty while the page waits for the operator."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All that is known of the calibration's quality."""
        floor = () if self.placed is None else (self.placed.gate,)
        return () if self.rig is None else (*self.rig.gates, *floor)

    def at(self, step: Step) -> State:
        """The same at another step, without a message."""
        return replace(self, step=step, message="")

    def clicked(self) -> Float[Tensor, "C N 2"]:
        """Clicks as pixels of every camera and mark; NaN where not clicked."""
        assert self.found is not None
        names = self.found.views.cameras
        pixels = torch.full((len(names), max((k.mark for k in self.clicks), default=0), 2), torch.nan, dtype=torch.float64)
        for k in self.clicks:
            pixels[names.index(k.camera), k.mark - 1] = torch.tensor([k.x, k.y], dtype=torch.float64)
        return pixels

"""What the wizard knows: frozen values, replaced as a whole by every action."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from calibration.cameras import Cameras
from calibration.gates import Gate
from calibration.intrinsics import LensFit
from studio.board_steps import Found, Rig
from studio.world_points import Clicked, Settled, named

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
FOLDER, LIVE = "a folder of clips", "connected cameras"
BEST, SAME = "each camera's best view", "all at one instant"
BOARD, MARKS = "the board lies on it", "marks that I click"


@dataclass(frozen=True)
class Choices:
    """What stands in the page's fields, as the operator wrote it."""

    source: str = FOLDER
    sources: str = ""
    """Connected cameras, NAME=PLACE, one a line."""
    seconds: float = 60.0
    """How long to record."""
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
    world: Settled | None = None
    """Where floor and origin are."""
    clicks: tuple[Click, ...] = ()
    written: Path | None = None
    message: str = ""
    doing: str = ""
    """The work that is being done; empty while the page waits for the operator."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All that is known of the calibration's quality."""
        return () if self.rig is None else named(self.rig.gates, () if self.world is None else self.world.gates)

    @property
    def cameras(self) -> Cameras | None:
        """The rig's cameras, in the world as far as that is set."""
        if self.rig is None or self.rig.fit is None:
            return None
        return self.rig.fit.cameras if self.world is None else self.world.move.cameras(self.rig.fit.cameras)

    def at(self, step: Step) -> State:
        """The same at another step, without a message."""
        return replace(self, step=step, message="")

    def marks(self, least: int = 1) -> Clicked:
        """The marks that were clicked in at least so many pictures, named by their numbers."""
        pixels = {str(m): {k.camera: (k.x, k.y) for k in self.clicks if k.mark == m} for m in sorted({k.mark for k in self.clicks})}
        return Clicked("marks", {name: seen for name, seen in pixels.items() if len(seen) >= least}, {})

"""What a calibration has to say for itself, however it was made: one value that the report draws."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from calibration.gates import Gate
from calibration.world import Move


@dataclass(frozen=True)
class Seen:
    """What one camera saw, and by how much the calibration misses it."""

    camera: str
    what: str
    """Of what it was seen, for captions: `corners`, `points of a person`."""
    places: Float[Tensor, "N 2"]
    """Where, px."""
    offsets: Float[Tensor, "N 2"]
    """Foretold minus seen, px."""
    over_time: Float[Tensor, "T"]
    """Median length of the offsets at each instant, px; NaN where it saw nothing."""
    views: int
    """Instants at which it saw it, and those that the calibration rests on."""
    used: int
    left_out: str = ""
    """What became of the other views, in words."""


@dataclass(frozen=True)
class Row:
    """One camera's line in the table of lenses and places; NaN where a number is not known."""

    camera: str
    focal_sd: float
    """As a part of the focal length."""
    centre_sd: float
    """px"""
    place_sd: float
    """m"""
    turn_sd: float
    """rad"""
    delay: float
    """Frames that it is late."""
    delay_sd: float
    left_out_px: float
    """Median error where the other cameras alone foretell what it saw, at instants that were not fitted."""
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """Two cameras that saw the same."""

    first: str
    second: str
    shared: int
    """Instants that both saw."""
    agreeing: int
    """Of these, those that the calibration rests on."""
    px: float
    """How far rays of these two alone miss each other's pixels, median."""
    doubtful: bool = False


@dataclass(frozen=True)
class Account:
    """All of it. Places are in the world of the cameras."""

    title: str
    source: str
    """What it was made from, a sentence."""
    cameras: Cameras
    gates: tuple[Gate, ...]
    facts: dict[str, str] = field(default_factory=dict)
    seen: tuple[Seen, ...] = ()
    rows: tuple[Row, ...] = ()
    links: tuple[Link, ...] = ()
    boards: Float[Tensor, "B 4 3"] = field(default_factory=lambda: torch.zeros(0, 4, 3))
    """Corners of the board at every instant, m."""
    paths: tuple[Float[Tensor, "T 3"], ...] = ()
    """Ways of a person's points, m."""
    marks: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Named points, m."""
    accepted: bool = False

    def placed(self, cameras: Cameras) -> Account:
        """The same in the world in which the cameras stand so; uncertainties of places grow with the scale."""
        old, first = self.cameras, cameras[list(self.cameras.names)]
        scale = float(torch.pdist(first.position).max() / torch.pdist(old.position).max())
        R = first.R_camera_world[0].mT @ old.R_camera_world[0]
        move = Move(R, first.position[0] - scale * R @ old.position[0], scale)
        rows = tuple(replace(r, place_sd=scale * r.place_sd) for r in self.rows)
        return replace(self, cameras=first, boards=move.points(self.boards), paths=tuple(move.points(p) for p in self.paths), rows=rows)

"""From clips of a calibration board to an accepted calibration, step by step: what `studio calibrate` and `studio wizard` both call.

Each step is a function of what the steps before it gave; a script may stop between them, look, and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.board import Board
from calibration.boards import BoardViews
from calibration.cameras import Cameras, adapt_to_video
from calibration.extrinsics import RigFit, solve_rig
from calibration.formats import read_cameras
from calibration.gates import Gate, passed, place_for, save_gates
from calibration.held_out import HeldOut, held_out
from calibration.intrinsics import FocalPrior, LensFit, calibrate_lens
from calibration.lens_library import Library
from calibration.quality import judge
from calibration.rig_gates import Distance
from calibration.world import Move, from_board
from calibration.world_gates import judge_floor, rests
from studio.boards import find_in_videos, read_instants, sync_numbers
from studio.calibration_report import Account, account_of_boards, write_report
from studio.pairing import video_files
from studio.take import Session
from studio.video import probe

INSTANTS = 400
"""The board is looked for at about so many instants at most."""

Told = Callable[[float, str], None]
"""Hears how far a step is (0 to 1) and what it is doing. What it raises ends the step, so that a user can stop it."""


def quiet(part: float, doing: str) -> None:
    """A `Told` that nobody listens to."""


@dataclass(frozen=True)
class Numbering:
    """By which numbers a user names instants."""

    numbers: Sequence[int]
    """Of each instant, increasing."""
    what: str
    """What these are, in words."""

    @classmethod
    def of(cls, videos: Mapping[str, Path], table: Path | None) -> Numbering:
        """Frame numbers; with a table of instants its sync_index."""
        if table is not None:
            return cls(sync_numbers(table), f"the sync_index in {table}")
        return cls(range(max(probe(v).frames for v in videos.values())), "frame numbers")

    def position(self, number: int) -> int:
        """Which instant has the number, or is nearest to it; a `ValueError` names the range where it is outside."""
        first, last = self.numbers[0], self.numbers[-1]
        if not first <= number <= last:
            raise ValueError(f"--floor {number}: no such instant; they go from {first} to {last} ({self.what})")
        return min(range(len(self.numbers)), key=lambda i: abs(self.numbers[i] - number))


@dataclass(frozen=True)
class Found:
    """The board in the videos."""

    views: BoardViews
    every: int
    """It was looked for at every so many-th instant."""

    numbering: Numbering
    """Of all instants, looked at or not."""

    def number(self, b: int) -> int:
        """The number of the b-th instant that was looked at: of its frames, or its sync_index in the table of instants."""
        return self.numbering.numbers[b * self.every]

    def nearest(self, fit: RigFit, number: int) -> int:
        """The solved instant nearest to a number; a `ValueError` where there is no such number, or none is solved near it."""
        at = self.numbering.position(number)
        solved = fit.board_position.isfinite().all(-1).nonzero()[:, 0]
        b = int(solved[(solved * self.every - at).abs().argmin()]) if len(solved) else 0
        if abs(b * self.every - at) > self.every or not len(solved):
            near = f"; the nearest is {self.number(b)}" if len(solved) else ""
            raise ValueError(f"--floor {number}: two cameras place the board at no instant near it{near}. Name another")
        return b


@dataclass(frozen=True)
class Rig:
    """What calibrating gave: a rig, or gates that say why there is none."""

    fit: RigFit | None
    held: HeldOut | None
    gates: tuple[Gate, ...]
    account: Account | None = None
    """What the report says of the rig."""


@dataclass(frozen=True)
class Placed:
    """A rig in the world of the studio."""

    move: Move
    """From the world that the rig was solved in."""
    cameras: Cameras
    gate: Gate
    """What there is to say of the floor."""


def cameras_file(out: Path) -> Path:
    """Where the calibration goes: a session's place for it, a .yaml file, or cameras.yaml in a folder."""
    if (out / "session.yaml").is_file():
        return out / Session.open(out).cameras
    return out if out.suffix in (".yaml", ".yml") else out / "cameras.yaml"


def clips(places: Sequence[Path]) -> dict[str, Path]:
    """Camera -> its clip, by file name; a `ValueError` where there are fewer than two."""
    found = {p.stem: p for p in video_files(places)}
    if len(found) < 2:
        raise ValueError(f"{places[0]}: {len(found)} video; a rig needs at least two cameras, one video each")
    return found


def instants_beside(videos: Mapping[str, Path]) -> Path | None:
    """The table beside the videos that tells which of their frames belong together, where there is one."""
    table = next(iter(videos.values())).parent / "timestamps.csv"
    return table if table.is_file() else None


def find(videos: Mapping[str, Path], board: Board, cache: Path, instants: Path | None = None, told: Told = quiet) -> Found:
    """Look for the board in all clips. `instants` is a table of frames that belong together, by default frames of one number do.

    What was found is kept in `cache`. A `ValueError` says what is the matter where no camera sees the board.
    """
    table = read_instants(instants, list(videos)) if instants else None
    numbering = Numbering.of(videos, instants)
    every = max(round(len(numbering.numbers) / INSTANTS), 1)
    views = find_in_videos(videos, board, cache, every, table, lambda part: told(part, "looking for the board"))
    return Found(views, every, numbering)


def lenses(views: BoardViews, known: Path | None = None, told: Told = quiet, library: Library | None = None) -> dict[str, LensFit | str]:
    """Camera -> its lens, from its own views (and what a library says beforehand) or a camera file; or in words why its views give none."""
    given = read_cameras(known) if known else None
    sizes = {name: (int(w), int(h)) for name, (w, h) in zip(views.cameras, views.size.tolist())}
    priors = library.priors(sizes) if library else {}
    found: dict[str, LensFit | str] = {}
    for c, name in enumerate(views.cameras):
        told(c / len(views.cameras), f"the lens of {name}")
        found[name] = _known_lens(given, known, name, views) if given else lens_of(views, c, priors.get(name))
    return found


def lens_of(views: BoardViews, c: int, prior: FocalPrior | None = None) -> LensFit | str:
    """The lens of one camera, or in words why its views give none."""
    try:
        return calibrate_lens(views.pixels[c], views.points()[c], views.size[c], views.sigma[c], prior=prior)
    except ValueError as error:
        return f"{views.cameras[c]}: {error}"


def _known_lens(given: Cameras, file: Path | None, name: str, views: BoardViews) -> LensFit:
    """A lens from a camera file, taken as exact."""
    if name not in given.names:
        raise ValueError(f"{file}: no camera {name!r}; there are {list(given.names)}")
    wide, high = views.size[views.cameras.index(name)].long().tolist()
    try:
        camera = adapt_to_video(given[name], wide, high)
    except ValueError:
        camera = given[name]  # the gate of resolutions says what is the matter
    nothing, B = torch.zeros(12, 12, dtype=torch.float64), views.pixels.shape[1]
    unknown = torch.full((B, 3, 3), torch.nan, dtype=torch.float64)
    none = torch.zeros(B, dtype=torch.bool)
    return LensFit(
        camera.size[0], camera.focal[0], camera.centre[0], camera.distortion[0], camera.lens[0], 8, nothing, 0.0, float("nan"),
        none, none, unknown, unknown[:, 0], torch.zeros(6, 8, dtype=torch.float64), True, (),
    )  # fmt: skip


def known_cameras(distances: Sequence[Distance], names: Sequence[str]) -> None:
    """A `ValueError` where a distance names a camera that has no clip."""
    if unknown := [n for d in distances for n in (d.first, d.second) if n not in names]:
        raise ValueError(f"--distance: no camera {unknown[0]!r}; there are {list(names)}")


def solve(
    views: BoardViews,
    found: Mapping[str, LensFit | str],
    same_footage: bool = True,
    distances: Sequence[Distance] = (),
    before: Cameras | None = None,
    told: Told = quiet,
) -> Rig:
    """The rig and its gates. `same_footage`: the lenses come from these views. `before` is an earlier calibration of these cameras."""
    known_cameras(distances, views.cameras)
    fits = [lens for lens in found.values() if not isinstance(lens, str)]
    refusal = next((lens for lens in found.values() if isinstance(lens, str)), "")
    if refusal:
        return Rig(None, None, judge(views, [], None, None, refusal, distances, before))
    if any(not torch.equal(lens.size.to(views.size), size) for lens, size in zip(fits, views.size)):
        return Rig(None, None, judge(views, fits, None, None, "a lens is for other images", distances, before))
    fit, held, refusal = solved(views, fits, same_footage, told)
    gates = judge(views, fits, fit, held, refusal, distances, before)
    return Rig(fit, held, gates, None if fit is None else account_of_boards(views, fits, fit, held, gates))


def solved(
    views: BoardViews, lenses: Sequence[LensFit], same_footage: bool, told: Told = quiet
) -> tuple[RigFit | None, HeldOut | None, str]:
    """The rig and its check at held-out instants; or how far that came, and in words why no farther."""
    told(0.0, "placing the cameras")
    try:
        fit = solve_rig(views, lenses, same_footage=same_footage)
    except ValueError as error:
        return None, None, str(error)
    told(0.5, "checking the rig with instants that it was not made from")
    try:
        return fit, held_out(views, lenses, fit, same_footage), ""
    except ValueError:
        return fit, None, ""


def resting(found: Found, fit: RigFit, still: float = 0.002) -> list[int]:
    """Numbers of the instants at which the board lies still: moved less than `still` m since the solved instant before, and to the next.

    Where it lay on the floor is among them, most often last.
    """
    at = fit.board_position.isfinite().all(-1).nonzero()[:, 0]
    calm = (corners(found, fit)[at].diff(dim=0).norm(dim=-1).amax(1) < still) & (at.diff() == 1)
    both = torch.cat([calm[:1], calm[:-1] & calm[1:], calm[-1:]]) if len(calm) else calm
    return [found.number(b) for b in at[: len(both)][both].tolist()]


def source(found: Found) -> str:
    """What a calibration was made from, in words."""
    board = found.views.board
    squares = f"squares of {1000 * board.square:g} mm"
    return f"{len(found.views.cameras)} clips of a {board.kind} board of {board.columns} x {board.rows}, {squares}"


def nowhere(fit: RigFit) -> Placed:
    """The rig in the anchor camera's own world, and what there is to say of that."""
    sentence = f"The world is camera {fit.anchor}'s: where the floor is, is not known."
    remedy = "Lay the board on the floor, print up, in view of two cameras, and name that instant with --floor."
    still = Move(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    return Placed(still, fit.cameras, Gate("floor", "warn", float("nan"), float("nan"), sentence, remedy))


def on_board(found: Found, fit: RigFit, b: int, height: float = 0.0) -> Placed:
    """The rig in the world of the board as it lay at the b-th instant, the floor `height` m below its print."""
    move = from_board(fit.R_world_board[b], fit.board_position[b], height)
    cameras = move.cameras(fit.cameras)
    return Placed(move, cameras, rests(judge_floor(cameras), move.points(corners(found, fit)), b))


def corners(found: Found, fit: RigFit) -> Float[Tensor, "B N 3"]:
    """The board's corners at each instant in the world that the rig was solved in, m; NaN where its pose is not known."""
    return torch.einsum("bij,nj->bni", fit.R_world_board, found.views.board.points()) + fit.board_position[:, None]


def write(
    target: Path, cameras: Cameras, board: Board, gates: Sequence[Gate], accept: bool, account: Account | None = None, source: str = ""
) -> Path:
    """Write cameras.yaml, quality.yaml, board.yaml and, with the `account` of the rig, report.html; the file of the cameras.

    That failed gates were accepted is written down; where nobody accepts them, an earlier calibration stays (see `place_for`). `source`
    says in words what the calibration was made from.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    asked, target = target, place_for(target, gates, accept)
    cameras.save(target)
    if target == asked:
        board.save(target.with_name("board.yaml"))
    accepted = accept and not passed(gates)
    save_gates(target, gates, accepted=accepted)
    if account is not None:
        write_report(target, replace(account.placed(cameras), gates=tuple(gates), accepted=accepted, source=source or account.source))
    return target

"""What the wizard's buttons do: each is a call that a script could make, from one state to the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from calibration.board import Board
from calibration.formats import read_cameras
from calibration.gates import Gate, passed
from calibration.rig_gates import Distance
from studio import board_steps as steps
from studio.board_print import described, length
from studio.calibrate_boards import distance_of
from studio.live_board import LiveBoard
from studio.record import record, sources_of
from studio.wizard.state import BOARD, FILE, FOLDER, USUAL, Choices, Click, State
from studio.world_points import Settled, World, located, settled

Show = Callable[[dict[str, UInt8[np.ndarray, "H W 3"]], dict[str, list[str]]], None]
"""Puts the latest picture of each camera on the page, with sentences."""


def begun(session: Path) -> State:
    """The wizard's first page on a session, its fields filled with what the session's folder tells."""
    target = steps.cameras_file(session)
    folder, board = target.parent / "videos", target.with_name("board.yaml")
    known = board.is_file()
    choices = Choices(clips=str(folder), described=FILE if known else "charuco", board_file=str(board) if known else "")
    return State(target, choices=choices)


def clips_of(choices: Choices) -> dict[str, Path]:
    """The clips that the page speaks of."""
    if not choices.clips.strip():
        raise ValueError("Name the folder that holds the clips, one video for each camera.")
    return steps.clips([Path(choices.clips.strip()).expanduser()])


def board_of(choices: Choices) -> Board:
    """The board that the page describes."""
    if choices.described == FILE:
        if not choices.board_file.strip():
            raise ValueError("Name the board.yaml that `studio board` wrote, or choose the kind of board and describe it.")
        return Board.load(Path(choices.board_file.strip()).expanduser())
    dictionary = None if choices.dictionary == USUAL else choices.dictionary
    made = described(
        choices.described, f"{choices.columns}x{choices.rows}", choices.square, choices.marker.strip() or None, dictionary, None
    )
    return replace(made, inverted=choices.inverted, legacy=choices.legacy)


def distances_of(choices: Choices) -> list[Distance]:
    """The measured distances."""
    return [distance_of(text.strip()) for text in choices.tape.split(",") if text.strip()]


def watch(state: State, stop: threading.Event, show: Show) -> State:
    """Show what the connected cameras see, and the board in it, until stopped; nothing is kept."""
    record(_sources(state.choices), None, None, LiveBoard(board_of(state.choices), show).see, stop)
    return replace(state, message="")


def record_board(state: State, stop: threading.Event, show: Show) -> State:
    """Record the connected cameras into a new folder of the session, and go on with its clips."""
    if not state.choices.seconds > 0:
        raise ValueError(f"Seconds {state.choices.seconds:g}: record for longer than that.")
    folder = free_folder(state.target.parent)
    made = record(_sources(state.choices), folder, state.choices.seconds, LiveBoard(board_of(state.choices), show).see, stop)
    trouble = "; ".join(f"{name}: {clip.trouble}" for name, clip in made.clips.items() if clip.trouble)
    choices = replace(state.choices, source=FOLDER, clips=str(folder), instants=str(made.table or ""))
    return replace(state, choices=choices, message=trouble)


def _sources(choices: Choices) -> dict[str, str]:
    return sources_of(tuple(line.strip() for line in choices.sources.splitlines() if line.strip()), ())


def free_folder(inside: Path) -> Path:
    """The first of videos, videos2, videos3 ... that holds nothing."""
    names = ("videos" + (str(n) if n > 1 else "") for n in range(1, 10_000))
    return next(f for n in names if not (f := inside / n).exists() or not any(f.iterdir()))


def look(state: State, told: steps.Told) -> State:
    """Find the board in the clips, and each lens, which tells what is still to be filmed."""
    videos, board = clips_of(state.choices), board_of(state.choices)
    table = Path(state.choices.instants.strip()).expanduser() if state.choices.instants.strip() else steps.instants_beside(videos)
    found = steps.find(videos, board, state.target.parent / "board", table, lambda part, doing: told(0.7 * part, doing))
    lenses = steps.lenses(found.views, None, lambda part, doing: told(0.7 + 0.3 * part, doing))
    blank = State(state.target, choices=replace(state.choices, camera=found.views.cameras[0], instant=0))
    return replace(blank, step="film", videos=videos, found=found, lenses=lenses)


def calibrate(state: State, told: steps.Told) -> State:
    """Place the cameras and judge the result."""
    found = state.found
    assert found is not None
    views, known = found.views, state.choices.known_lenses.strip()
    before = read_cameras(state.target) if state.target.is_file() else None
    lenses = steps.lenses(views, Path(known).expanduser(), told) if known else state.lenses
    rig = steps.solve(views, lenses, not known, distances_of(state.choices), before, told)
    state = replace(state, rig=rig, world=None, clicks=(), written=None)
    if rig.fit is None:
        return replace(state.at("check"), message="These clips give no rig. What is missing stands in the table.")
    resting = steps.resting(found, rig.fit)
    return replace(state.at("check"), choices=replace(state.choices, lying=resting[-1] if resting else 0))


def click(state: State, x: float, y: float) -> State:
    """Put the chosen mark at a pixel of the chosen camera's picture, in place of where it was there, and choose the next."""
    assert state.found is not None
    choices = state.choices
    wide, high = state.found.views.size[state.found.views.cameras.index(choices.camera)].tolist()
    if not (-0.5 <= x <= wide - 0.5 and -0.5 <= y <= high - 0.5):
        raise ValueError(f"({x:.0f}, {y:.0f}) is not on the picture of {choices.camera}, which is {wide:.0f} x {high:.0f} px.")
    kept = tuple(k for k in state.clicks if (k.mark, k.camera) != (choices.mark, choices.camera))
    new = Click(choices.mark, choices.camera, round(x, 2), round(y, 2))
    state = replace(state, clicks=(*kept, new), choices=replace(choices, x=new.x, y=new.y), world=None, message="")
    return next_mark(state)


def next_mark(state: State) -> State:
    """Choose the first mark that is not yet in the chosen camera's picture."""
    there = {k.mark for k in state.clicks if k.camera == state.choices.camera}
    mark = next(m for m in range(1, len(there) + 2) if m not in there)
    return replace(state, choices=replace(state.choices, mark=mark))


def forget(state: State) -> State:
    """Take the chosen mark off all pictures."""
    return replace(state, clicks=tuple(k for k in state.clicks if k.mark != state.choices.mark), world=None, message="")


def agreement(state: State) -> Gate | None:
    """How well the clicks agree; None while no mark is clicked in two pictures."""
    seen = state.marks(least=2)
    if not seen.pixels or state.rig is None or state.rig.fit is None:
        return None
    return located(seen, state.rig.fit.cameras)[1]


def lay_floor(state: State) -> State:
    """Set floor and origin as the page says."""
    assert state.found is not None and state.rig is not None and state.rig.fit is not None
    fit, choices = state.rig.fit, state.choices
    if choices.floor == BOARD:
        height = length(choices.thickness) if choices.thickness.strip() else 0.0
        placed = steps.on_board(state.found, fit, state.found.nearest(fit, choices.lying), height)
        return replace(state.at("accept"), world=Settled(placed.move, (placed.gate,), {}))
    marks = state.marks()
    if not {"1", "2", "3"} <= set(marks.pixels):
        raise ValueError("Click marks 1, 2 and 3 on the floor, each in two cameras' pictures or more.")
    return replace(state.at("accept"), world=settled(fit.cameras, World(floor=marks, origin=("1", "2")), metric=True))


def without_floor(state: State) -> State:
    """Go on with the world of one camera."""
    assert state.rig is not None and state.rig.fit is not None
    placed = steps.nowhere(state.rig.fit)
    return replace(state.at("accept"), world=Settled(placed.move, (placed.gate,), {}))


def accept(state: State) -> State:
    """Write the calibration into the session; a `ValueError` where a gate fails and nobody accepted that."""
    rig, found, world, cameras = state.rig, state.found, state.world, state.cameras
    assert rig is not None and found is not None and world is not None and cameras is not None
    if not passed(state.gates) and not state.choices.accept:
        raise ValueError("A check fails. Film again as it says, or tick that you accept the calibration although it fails.")
    account = None if rig.account is None else replace(rig.account, marks=world.places)
    written = steps.write(state.target, cameras, found.views.board, state.gates, state.choices.accept, account, steps.source(found))
    return replace(state, written=written, message="")

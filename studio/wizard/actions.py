"""What the wizard's buttons do: each is a call that a script could make, from one state to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from calibration.board import Board
from calibration.formats import read_cameras
from calibration.gates import passed
from calibration.quality import Distance
from calibration.triangulate import Points
from studio import board_steps as steps
from studio.board_print import described, length
from studio.calibrate_boards import distance_of
from studio.wizard.state import BOARD, FILE, USUAL, Choices, Click, State


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
    state = replace(state, rig=rig, placed=None, clicks=(), written=None)
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
    state = replace(state, clicks=(*kept, new), choices=replace(choices, x=new.x, y=new.y), placed=None, message="")
    return next_mark(state)


def next_mark(state: State) -> State:
    """Choose the first mark that is not yet in the chosen camera's picture."""
    there = {k.mark for k in state.clicks if k.camera == state.choices.camera}
    mark = next(m for m in range(1, len(there) + 2) if m not in there)
    return replace(state, choices=replace(state.choices, mark=mark))


def forget(state: State) -> State:
    """Take the chosen mark off all pictures."""
    return replace(state, clicks=tuple(k for k in state.clicks if k.mark != state.choices.mark), placed=None, message="")


def marks(state: State) -> Points | None:
    """The clicked marks in the rig's own world; None while there are none."""
    if not state.clicks or state.rig is None or state.rig.fit is None:
        return None
    return steps.marks(state.rig.fit.cameras, state.clicked())


def lay_floor(state: State) -> State:
    """Set floor and origin as the page says."""
    assert state.found is not None and state.rig is not None and state.rig.fit is not None
    fit, choices = state.rig.fit, state.choices
    if choices.floor == BOARD:
        height = length(choices.thickness) if choices.thickness.strip() else 0.0
        return replace(state.at("accept"), placed=steps.on_board(fit, state.found.nearest(fit, choices.lying), height))
    seen = marks(state)
    if seen is None:
        raise ValueError("Click three marks on the floor or more, each in two cameras' pictures.")
    return replace(state.at("accept"), placed=steps.on_marks(fit, seen.points))


def without_floor(state: State) -> State:
    """Go on with the world of one camera."""
    assert state.rig is not None and state.rig.fit is not None
    return replace(state.at("accept"), placed=steps.nowhere(state.rig.fit))


def accept(state: State) -> State:
    """Write the calibration into the session; a `ValueError` where a gate fails and nobody accepted that."""
    assert state.rig is not None and state.placed is not None and state.found is not None
    if not passed(state.gates) and not state.choices.accept:
        raise ValueError("A check fails. Film again as it says, or tick that you accept the calibration although it fails.")
    board, accepted = state.found.views.board, state.choices.accept
    written = steps.write(state.target, state.placed.cameras, board, state.gates, accepted, state.rig.account, steps.source(state.found))
    return replace(state, written=written, message="")

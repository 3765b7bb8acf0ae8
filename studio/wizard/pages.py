"""The wizard's pages: for each step its words, fields and buttons, drawn from the state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from calibration.board import dictionaries
from calibration.gates import passed
from calibration.next_shots import pair_shots, shared_views
from calibration.view_gates import judge_views
from studio.review.markup import tag
from studio.wizard import actions, parts
from studio.wizard.state import BEST, BOARD, FILE, FOLDER, LIVE, MARKS, SAME, USUAL, Step

if TYPE_CHECKING:
    from studio.wizard.page import Page

KINDS = ("charuco", "chessboard", "apriltag", "aruco")
ACROSS = {"charuco": "Squares", "chessboard": "Inner corners", "apriltag": "Markers", "aruco": "Markers"}


def _drawn(state: State) -> State:
    """The page follows what its fields say."""
    return replace(state, message="")


def clips(page: Page) -> None:
    """1: which clips, which board."""
    gui, c = page.gui, page.state.choices
    page.field("source", gui.add_dropdown("From", (FOLDER, LIVE), initial_value=c.source), _drawn)
    (_folder if c.source == FOLDER else _cameras)(page)
    page.html(parts.heading("The board"))
    page.field("described", gui.add_dropdown("Kind", (*KINDS, FILE), initial_value=c.described), _drawn)
    if c.described == FILE:
        page.field("board_file", gui.add_text("File", c.board_file, hint="the board.yaml that `studio board` wrote"))
    else:
        _board(page)
    if c.source == FOLDER:
        page.button("Show clips and board", _drawn, hint="a picture of each clip, and the board as described")
        page.work_button("Find the board", "Looking for the board", actions.look)
    else:
        page.live_button("Look at the cameras", "What the cameras see", actions.watch)
        page.live_button("Record the board", "Recording: wave the board slowly, tilted each way", actions.record_board)


def _folder(page: Page) -> None:
    gui, c = page.gui, page.state.choices
    page.html(parts.words("One video per camera, each named after its camera, all filming the board at once."))
    page.field("clips", gui.add_text("Folder", c.clips, hint="where the clips are on the computer that runs the studio"))
    page.field("instants", gui.add_text("Instants", c.instants, hint="table of frames that belong together, if not timestamps.csv"))


def _cameras(page: Page) -> None:
    gui, c = page.gui, page.state.choices
    page.html(
        parts.words("One line a camera: NAME=DEVICE or NAME=ADDRESS, for example cam01=/dev/video0, cam02=rtsp://192.168.0.12/stream.")
    )
    page.field("sources", gui.add_text("Cameras", c.sources, multiline=True))
    page.field("seconds", gui.add_number("Seconds", c.seconds, min=1, step=1, hint="how long to record"))


def _board(page: Page) -> None:
    gui, c = page.gui, page.state.choices
    what = ACROSS[c.described]
    page.field("columns", gui.add_number(f"{what} across", c.columns, min=1, max=99, step=1))
    page.field("rows", gui.add_number(f"{what} down", c.rows, min=1, max=99, step=1))
    spaced = c.described in ("apriltag", "aruco")
    hint = "from one marker to the next, with its unit" if spaced else "side of a printed square, with its unit: measure it"
    page.field("square", gui.add_text("Spacing" if spaced else "Square", c.square, hint=hint))
    if c.described != "chessboard":
        page.field("marker", gui.add_text("Marker", c.marker, hint="side of a marker's black square; empty: three quarters of the square"))
        page.field("dictionary", gui.add_dropdown("Dictionary", (USUAL, *dictionaries()), initial_value=c.dictionary))
    page.field("inverted", gui.add_checkbox("White on black", c.inverted))
    if c.described == "charuco":
        page.field("legacy", gui.add_checkbox("Old pattern", c.legacy, hint="printed by OpenCV before 4.6"))


def film(page: Page) -> None:
    """2: what was seen, what to film next."""
    gui, state = page.gui, page.state
    assert state.found is not None
    views = state.found.views
    page.field("pictures", gui.add_dropdown("Pictures", (BEST, SAME), initial_value=state.choices.pictures), _drawn)
    if state.choices.pictures == SAME:
        last = views.pixels.shape[1] - 1
        instant = gui.add_slider("Instant", 0, max(last, 1), 1, min(state.choices.instant, last))
        page.field("instant", instant)
        page.button("Show that instant", _drawn)
    between = pair_shots(views)
    page.html(parts.heading("What to film between cameras"))
    page.html(parts.points(between) if between else parts.words("Nothing: every camera shares enough views with a neighbour."))
    page.html(parts.heading("How often cameras saw the board together"))
    page.html(parts.pairs_table(views.cameras, shared_views(views)))
    lenses = [lens for lens in state.lenses.values() if not isinstance(lens, str)]
    wrong = [g for g in judge_views(views, lenses if len(lenses) == len(views.cameras) else []) if g.verdict != "pass"]
    if wrong:
        page.html(parts.gates_table(wrong))
    page.html(parts.words("What each camera still lacks stands under its picture. Film more and look again, or go on."))
    page.button("Go on: calibrate", lambda state: state.at("calibrate"), main=True)
    page.back("clips")


def calibrate(page: Page) -> None:
    """3: run it."""
    gui, c = page.gui, page.state.choices
    page.html(parts.words("Both are optional. A measured distance is the only proof that the square was measured right."))
    page.field("tape", gui.add_text("Tape", c.tape, hint="distances between lenses: cam01:cam02:2.35m, with commas between"))
    page.field("known_lenses", gui.add_text("Known lenses", c.known_lenses, hint="a camera file whose lenses are taken as they are"))
    page.work_button("Calibrate", "Calibrating", actions.calibrate)
    page.back("film")


def check(page: Page) -> None:
    """4: the rig and its gates."""
    state = page.state
    assert state.rig is not None
    failed = [g.name for g in state.gates if g.verdict == "fail"]
    verdict = f"Fails: {', '.join(failed)}. Film again as it says." if failed else "Nothing fails: this rig can be used."
    page.html(parts.words(verdict))
    page.html(parts.gates_table(state.gates))
    if state.rig.fit is not None:
        page.button("Go on: set the floor", lambda state: state.at("floor"), main=True)
    page.back("calibrate")
    page.button("Film again", lambda state: state.at("clips"))


def floor(page: Page) -> None:
    """5: where floor and origin are."""
    gui, c = page.gui, page.state.choices
    page.html(parts.words("Where is the floor? z points up from it, and the origin lies on it."))
    page.field("floor", gui.add_dropdown("Floor", (BOARD, MARKS), initial_value=c.floor), _drawn)
    (_lying if c.floor == BOARD else _marks)(page)
    page.button("Set the floor", actions.lay_floor, main=True)
    page.button("Go on without a floor", actions.without_floor)
    page.back("check")


def _lying(page: Page) -> None:
    gui, c = page.gui, page.state.choices
    page.html(parts.words("The instant at which the board lies on the floor, print up: its corner becomes the origin, its x axis x."))
    page.field("lying", gui.add_number("Instant", c.lying, min=0, step=1))
    page.field("thickness", gui.add_text("Thickness", c.thickness, hint="of the board, with its unit, for example 5mm; empty: none"))
    page.button("Show that instant", _drawn)


def _marks(page: Page) -> None:
    gui, state = page.gui, page.state
    assert state.found is not None
    c = state.choices
    lines = ["Click the same mark on the floor in two cameras' pictures or more; three marks or more, not in one line."]
    lines.append("Mark 1 becomes the origin, x goes towards mark 2. Yellow: where the mark may be by the other pictures.")
    page.html(parts.words(*lines))
    page.field("camera", gui.add_dropdown("Camera", state.found.views.cameras, initial_value=c.camera), actions.next_mark)
    page.field("instant", gui.add_number("Instant", c.instant, min=0, step=1), _drawn)
    page.field("mark", gui.add_number("Mark", c.mark, min=1, max=20, step=1), _drawn)
    page.html(parts.words(f"Next click: mark {c.mark} in {c.camera}."))
    page.html(parts.marks_table(state.clicks, actions.agreement(state)))
    with gui.add_folder("By keyboard", expand_by_default=False):
        page.field("x", gui.add_number("x, px", c.x, step=0.5))
        page.field("y", gui.add_number("y, px", c.y, step=0.5))
        page.button("Put the mark there", lambda state: actions.click(state, state.choices.x, state.choices.y))
    page.button("Take this mark off", actions.forget)


def accept(page: Page) -> None:
    """6: accept it."""
    gui, state = page.gui, page.state
    if state.written is not None:
        _written(page)
        return
    failed = [g for g in state.gates if g.verdict == "fail"]
    lines = ["The rig in its world: the grid is the floor, red is x, green y, blue z up."] if state.world is not None else []
    page.html(parts.words(*lines, f"Accepting writes {state.target} and quality.yaml beside it."))
    floor = [] if state.world is None else list(state.world.gates)
    page.html(parts.gates_table(failed + [g for g in floor if g not in failed]))
    if not passed(state.gates):
        page.field("accept", gui.add_checkbox("I accept it although it fails", state.choices.accept))
    page.button("Accept and write", actions.accept, main=True)
    page.back("floor")


def _written(page: Page) -> None:
    state = page.state
    how = "" if passed(state.gates) else " It is written down that checks failed and were accepted."
    page.html(parts.words(f"Written: {state.written}.{how}", "This page can be closed."))
    command = f"studio run VIDEOS --cameras {state.written} --out takes/NAME"
    page.html(parts.words("Next:", tag("code", command)))
    page.button("Calibrate again", lambda state: actions.begun(state.target.parent))


def working(page: Page) -> None:
    """While long work goes on."""
    page.html(parts.heading(page.state.doing))
    bar = page.gui.add_progress_bar(0.0, animated=True)
    line = page.html(parts.words("beginning"))
    button = page.gui.add_button("Stop", color="gray")
    button.on_click(lambda _: page.stop())
    page.shown = (bar, line, button)


def progress(page: Page, part: float, doing: str) -> None:
    """A sign of progress."""
    if page.shown is not None:
        bar, line, _ = page.shown
        bar.value = 100 * part
        line.content = str(parts.words(f"{100 * part:.0f} %: {doing}"))


def elapsed(page: Page, seconds: float) -> None:
    """A sign of work whose end is the operator's."""
    if page.shown is not None:
        bar, line, _ = page.shown
        bar.visible = False
        line.content = str(parts.words(f"{seconds:.0f} s"))


def stopping(page: Page) -> None:
    """The operator wants the work to stop."""
    if page.shown is not None:
        _, line, button = page.shown
        button.disabled = True
        line.content = str(parts.words("Stopping after the part that is being done"))


PAGES: dict[Step, Callable[[Page], None]] = {
    "clips": clips, "film": film, "calibrate": calibrate, "check": check, "floor": floor, "accept": accept,
}  # fmt: skip

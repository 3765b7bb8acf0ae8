"""The calibration wizard, driven in a headless Chromium from a folder of clips to an accepted calibration, against the known rig."""

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from board_clips import FOCAL, NAMES, PLACES, SIZE, charuco, filmed, looking, lying, tape, waved
from board_clips import clips as written

from calibration.cameras import Cameras
from calibration.gates import Gate, load_gates
from studio.board_steps import Told, quiet
from studio.cli import call
from studio.take import Session
from studio.wizard import Page, actions, begun, opened
from studio.wizard.state import MARKS as MARKS_CLICKED
from studio.wizard.state import State

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
FLAGS = (
    "--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
)
MARKS = np.array([[-0.1, -0.1, 0], [0.5, -0.1, 0], [0.3, 0.35, 0], [-0.35, 0.3, 0]])
"""Where a person is to click, on the floor of the scene, m."""
FLOOR = 40
"""From this frame on the board lies on the floor."""
TRUE = np.array([PLACES[n] for n in NAMES])


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("clips"), filmed(charuco(), [*waved(FLOOR), *[lying(0.1, 0.05)] * 4]))


@pytest.fixture
def wizard(tmp_path) -> Page:
    Session(tmp_path / "session").save()
    page = opened(tmp_path / "session", port=8931)
    yield page
    page.server.stop()


@pytest.fixture
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    if CHROMIUM is None:
        pytest.skip("no chromium found: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


class Operator:
    """Somebody who sees only words and pictures."""

    def __init__(self, browser, page: Page) -> None:
        self.tab = browser.new_page(viewport={"width": 1400, "height": 900})
        self.tab.set_default_timeout(60_000)
        self.faults: list[str] = []
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.goto(f"http://127.0.0.1:{page.server.get_port()}")

    def sees(self, words: str) -> None:
        try:
            self.tab.get_by_text(words).first.wait_for()
        except Exception as error:
            raise AssertionError(f"{words!r} is not on the page: {self.tab.locator('body').inner_text()}") from error

    def button(self, name: str):
        return self.tab.get_by_role("button", name=name, exact=True)

    def press(self, name: str) -> None:
        self.button(name).click()

    def press_by_keyboard(self, name: str) -> None:
        self.button(name).wait_for()
        for _ in range(60):
            self.tab.keyboard.press("Tab")
            if self.tab.evaluate("document.activeElement.innerText").strip() == name:
                self.tab.keyboard.press("Enter")
                return
        raise AssertionError(f"the Tab key does not lead to {name!r}")

    def field(self, label: str):
        return self.tab.get_by_text(label, exact=True).locator("xpath=following::input[1]")

    def writes(self, label: str, words: str) -> None:
        self.field(label).click(click_count=3)
        self.tab.keyboard.type(words)
        self.tab.wait_for_timeout(500)  # what a hand needs from one field to the next; the browser tells keystrokes a little late

    def choose(self, label: str, option: str) -> None:
        self.field(label).click()
        self.tab.get_by_role("option", name=option, exact=True).click()

    def clicks_on_picture(self, x: float, y: float) -> None:
        """Click a pixel of the picture, which fills 1/1.04 of the canvas in the direction that is full."""
        box = self.tab.locator("canvas").first.bounding_box()
        scale = min(box["height"], box["width"] * SIZE[1] / SIZE[0]) / 1.04 / SIZE[1]
        at = box["x"] + box["width"] / 2 + (x + 0.5 - SIZE[0] / 2) * scale, box["y"] + box["height"] / 2 + (y + 0.5 - SIZE[1] / 2) * scale
        self.tab.mouse.click(*at)


def soon(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def seen_at(camera: str, point: np.ndarray) -> np.ndarray:
    p = looking(PLACES[camera]) @ (point - PLACES[camera])
    return FOCAL * p[:2] / p[2] + (np.array(SIZE) - 1) / 2


def test_an_operator_comes_from_clips_to_an_accepted_calibration(wizard, browser, clips):
    man = Operator(browser, wizard)
    man.writes("Folder", "/nowhere")
    man.press("Find the board")
    man.sees("no such file or folder")
    man.writes("Folder", str(clips))
    man.press("Show clips and board")
    man.sees("480 x 360, 10 frames a second, 44 frames")
    for label, value in {"Squares across": "6", "Squares down": "4", "Square": "12 ells", "Marker": "9cm"}.items():
        man.writes(label, value)
    man.press("Find the board")
    man.sees("write a number and its unit")
    man.writes("Square", "12cm")
    man.press("Find the board")

    man.sees("Fill the right edge of the image")
    man.sees("every camera shares enough views")
    assert man.tab.get_by_role("img", name="picture of middle").count() == 1
    man.press_by_keyboard("Go on: calibrate")
    man.writes("Tape", tape("left", "right"))
    man.press_by_keyboard("Calibrate")
    man.sees("Nothing fails: this rig can be used.")
    man.press_by_keyboard("Go on: set the floor")

    man.choose("Floor", "marks that I click")
    soon(lambda: wizard.state.choices.floor == "marks that I click")
    time.sleep(1.0)  # the picture is fitted into the window
    for name in ("left", "right"):
        if name == "right":
            man.choose("Camera", name)
        for m, mark in enumerate(MARKS, 1):
            man.sees(f"Next click: mark {m} in {name}.")
            pixel, before = seen_at(name, mark), len(wizard.state.clicks)
            man.clicks_on_picture(*pixel)
            soon(lambda before=before: len(wizard.state.clicks) > before)
            man.sees(f"Next click: mark {m + 1} in {name}.")
            np.testing.assert_allclose([wizard.state.clicks[-1].x, wizard.state.clicks[-1].y], pixel, atol=1.0)
    man.press("Set the floor")
    man.sees("The cameras stand 1.")
    np.testing.assert_allclose(wizard.state.cameras.position.numpy(), TRUE - MARKS[0], atol=0.03)

    man.press("Back: floor")
    man.choose("Floor", "the board lies on it")
    man.sees("does the board lie flat on the floor")
    assert FLOOR <= wizard.state.choices.lying < FLOOR + 4, "the instant at which it lies still is proposed"
    man.press_by_keyboard("Set the floor")
    man.press_by_keyboard("Accept and write")
    man.sees("This page can be closed.")
    folder = wizard.state.target.parent
    found = Cameras.load(folder / "cameras.yaml")
    assert found.names == ("left", "middle", "right")
    np.testing.assert_allclose(found.position.numpy(), TRUE - [0.1 - 0.36, 0.05 + 0.24, 0], atol=0.03)
    assert not [g.name for g in load_gates(folder / "quality.yaml")[0] if g.verdict == "fail"]
    assert (folder / "board.yaml").is_file()
    assert man.faults == []


@pytest.fixture(scope="module")
def calibrated(clips, tmp_path_factory) -> State:
    session = tmp_path_factory.mktemp("calibrated")
    Session(session).save()
    start = begun(session)
    fields = replace(start.choices, clips=str(clips), described="charuco", columns=6, rows=4, square="12cm", marker="9cm")
    return actions.calibrate(actions.look(replace(start, choices=fields), quiet), quiet)


def test_a_calibration_that_fails_is_written_only_when_that_is_accepted_and_says_so(calibrated, tmp_path):
    failed = Gate("distance left right", "fail", 0.3, 0.02, "Too far.", "Measure again.")
    rig = replace(calibrated.rig, gates=(*calibrated.rig.gates, failed))
    state = replace(actions.without_floor(replace(calibrated, rig=rig)), target=tmp_path / "cameras.yaml")
    with pytest.raises(ValueError, match="tick that you accept"):
        actions.accept(state)
    assert not state.target.exists()
    written = actions.accept(replace(state, choices=replace(state.choices, accept=True)))
    quality = yaml.safe_load((tmp_path / "quality.yaml").read_text())
    assert written.written == state.target and state.target.is_file()
    assert quality["verdict"] == "fail" and quality["accepted"] is True


def test_marks_outside_a_picture_too_few_marks_and_unknown_instants_are_refused_in_words(calibrated):
    with pytest.raises(ValueError, match="not on the picture of left"):
        actions.click(calibrated, 500.0, 20.0)
    one = actions.click(calibrated, 100.0, 20.0)
    assert one.choices.mark == 2, "the next mark is chosen"
    with pytest.raises(ValueError, match="marks 1, 2 and 3"):
        actions.lay_floor(replace(one, choices=replace(one.choices, floor=MARKS_CLICKED)))
    with pytest.raises(ValueError, match="no such instant; they go from 0 to 43"):
        actions.lay_floor(replace(calibrated, choices=replace(calibrated.choices, lying=4000)))


def test_connected_cameras_are_shown_and_recorded_into_the_session(clips, tmp_path):
    lines = "\n".join(f"{name}=lavfi:movie={clips / name}.mp4,realtime" for name in ("left", "right"))
    start = State(tmp_path / "cameras.yaml")
    fields = replace(start.choices, sources=lines, seconds=3.0, described="charuco", columns=6, rows=4, square="12cm", marker="9cm")
    told: dict[str, list[str]] = {}
    state = actions.record_board(replace(start, choices=fields), threading.Event(), lambda images, words: told.update(words))
    assert told["left"][0] == told["right"][0] == "Sees the board."
    assert Path(state.choices.clips) == tmp_path / "videos"
    found = actions.look(state, quiet).found
    assert found.views.cameras == ("left", "right") and int(found.views.seen().sum(1).min()) >= 10
    assert actions.free_folder(tmp_path) == tmp_path / "videos2", "an earlier recording is never written over"


def test_work_that_is_stopped_leaves_things_as_they_were(wizard):
    going = threading.Event()

    def endless(state: State, told: Told) -> State:
        while True:
            going.set()
            told(0.5, "turning in circles")
            time.sleep(0.01)

    before = wizard.state
    wizard.work("Turning", endless)
    assert going.wait(10)
    wizard.act(lambda state: state.at("accept"))
    assert wizard.state.step == "clips", "while work goes on nothing else is done"
    wizard.stop()
    soon(lambda: not wizard.state.doing)
    assert wizard.state.message.startswith("Stopped") and replace(wizard.state, message="") == before


def test_the_viewers_notices_leave_the_messages_free(wizard, browser):
    operator = Operator(browser, wizard)
    wizard.act(lambda state: 1 / 0)
    operator.sees("ZeroDivisionError")
    operator.sees("Software WebGL rendering detected")
    message = operator.tab.get_by_role("alert").filter(has_text="ZeroDivisionError").bounding_box()
    notice = operator.tab.locator(".mantine-Notification-root").first.bounding_box()
    assert notice["y"] > message["y"] + message["height"]


def test_a_fault_is_a_sentence_on_the_page(wizard, capsys):
    wizard.act(lambda state: 1 / 0)
    assert "ZeroDivisionError" in wizard.state.message and "Traceback" not in wizard.state.message


def test_the_verb_makes_a_session_and_refuses_a_folder_of_other_things(tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("studio.wizard.serve", lambda *words: served.append(words))
    assert call(["wizard", str(tmp_path / "new"), "--no-browser", "--port", "9000"]) == 0
    assert served == [(tmp_path / "new", "127.0.0.1", 9000, False)] and (tmp_path / "new/session.yaml").is_file()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").touch()
    assert call(["wizard", str(tmp_path / "letters")]) == 2
    assert "studio new" in capsys.readouterr().err

"""The calibration wizard, driven in a headless Chromium from a folder of clips to an accepted calibration, against the known rig."""

import shutil
import time

import numpy as np
import pytest
from test_calibrate_boards import FLOOR, FOCAL, PLACES, SIZE, apart, clips, looking  # noqa: F401

from calibration.cameras import Cameras
from calibration.gates import load_gates
from studio.take import Session
from studio.wizard import Page, opened

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
FLAGS = (
    "--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
)
MARKS = np.array([[-0.1, -0.1, 0], [0.5, -0.1, 0], [0.3, 0.35, 0], [-0.35, 0.3, 0]])
"""Where a person is to click, on the floor of the scene, m."""


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
        self.tab.set_default_timeout(120_000)
        self.faults: list[str] = []
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.goto(f"http://127.0.0.1:{page.server.get_port()}")

    def sees(self, words: str) -> None:
        self.tab.get_by_text(words).first.wait_for()

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


def seen_at(camera: int, point: np.ndarray) -> np.ndarray:
    p = looking(PLACES[camera]) @ (point - PLACES[camera])
    return FOCAL * p[:2] / p[2] + (np.array(SIZE) - 1) / 2


def test_an_operator_comes_from_clips_to_an_accepted_calibration(wizard, browser, clips):  # noqa: F811
    man = Operator(browser, wizard)
    man.field("Folder").fill("/nowhere")
    man.press("Find the board")
    man.sees("no such file or folder")
    man.field("Folder").fill(str(clips))
    man.press("Show clips and board")
    man.sees("480 x 360, 10 frames a second, 44 frames")
    for label, value in {"Squares across": "6", "Squares down": "4", "Square": "12 ells", "Marker": "9cm"}.items():
        man.field(label).fill(value)
    man.press("Find the board")
    man.sees("write a number and its unit")
    man.field("Square").fill("12cm")
    man.press("Find the board")

    man.sees("Fill the right edge of the image")
    man.sees("every camera shares enough views")
    assert man.tab.get_by_role("img", name="picture of middle").count() == 1
    man.press_by_keyboard("Go on: calibrate")
    man.field("Tape").fill(f"left:right:{apart(0, 2)}")
    man.press_by_keyboard("Calibrate")
    man.sees("Nothing fails: this rig can be used.")
    man.press_by_keyboard("Go on: set the floor")

    man.choose("Floor", "marks that I click")
    soon(lambda: wizard.state.choices.floor == "marks that I click")
    time.sleep(1.0)  # the picture is fitted into the window
    for c, name in ((0, "left"), (2, "right")):
        if c:
            man.choose("Camera", name)
        for m, mark in enumerate(MARKS, 1):
            man.sees(f"Next click: mark {m} in {name}.")
            pixel, before = seen_at(c, mark), len(wizard.state.clicks)
            man.clicks_on_picture(*pixel)
            soon(lambda before=before: len(wizard.state.clicks) > before)
            np.testing.assert_allclose([wizard.state.clicks[-1].x, wizard.state.clicks[-1].y], pixel, atol=1.0)
    man.press("Set the floor")
    man.sees("The cameras stand 1.")
    np.testing.assert_allclose(wizard.state.placed.cameras.position.numpy(), PLACES - MARKS[0], atol=0.03)

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
    np.testing.assert_allclose(found.position.numpy(), PLACES - [0.1 - 0.36, 0.05 + 0.24, 0], atol=0.03)
    assert not [g.name for g in load_gates(folder / "quality.yaml")[0] if g.verdict == "fail"]
    assert (folder / "board.yaml").is_file()
    assert man.faults == []

"""Every mistake a user can make when calibrating with a board ends in the failed gate that names it: clips in, gates out.

`FAILURES` is what the table in `docs/calibration.md` lists.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from board_clips import (
    FOCAL,
    NAMES,
    PLACES,
    RIG,
    SIZE,
    charuco,
    chessboard,
    clip,
    clips,
    filmed,
    looking,
    lying,
    pictures,
    tape,
    waved,
)

from calibration.gates import Gate, load_gates
from studio.cli import call

BOARD, CHESS = "charuco:6x4:12cm:DICT_4X4_50:marker=9cm", "chessboard:5x4:12cm"
FLAT = [23, 25]
"""Instants at which the board lies on the floor, in two places."""
TAPE = ["--distance", tape("left", "right")]


@dataclass
class Bench:
    """A good capture of both boards, and where a case may write."""

    good: Path
    images: dict[str, list[np.ndarray]]
    poses: list
    cache: Path
    folder: Path

    def calibrate(self, videos: Path, *words: str, board: str = BOARD, out: str = "out") -> tuple[int, dict[str, Gate]]:
        """The exit code, and the gates that were written."""
        target = self.folder / out
        if board == BOARD:  # clips as they were are not looked at again, as with a user who tries twice
            (target / "board").mkdir(parents=True, exist_ok=True)
            for file in self.cache.glob("*.safetensors"):
                shutil.copy2(file, target / "board" / file.name)
        code = call(["calibrate", str(videos), "--board", board, "--out", str(target), *words])
        quality = next((f for f in (target / "cameras.refused.quality.yaml", target / "quality.yaml") if f.is_file()), target)
        return code, {g.name: g for g in load_gates(quality)[0]} if quality.is_file() else {}

    def lenses(self, size: tuple[int, int] = SIZE) -> list[str]:
        """`--lenses` with the true ones, or ones for images of another size: what is not about lenses is tested faster with them."""
        lens = {"size": [*size], "focal": [FOCAL, FOCAL], "centre": [(n - 1) / 2 for n in size], "distortion": [0, 0, 0, 0]}
        cameras = {n: {**lens, "R_camera_world": R.tolist(), "position": p.tolist()} for n, (R, p) in RIG.items()}
        (self.folder / "lenses.yaml").write_text(yaml.safe_dump({"cameras": cameras}))
        return ["--lenses", str(self.folder / "lenses.yaml")]

    def changed(self, **new: Any) -> Path:
        """The clips, some cameras' replaced: by images, or by the name of another camera's clip."""
        for name in NAMES:
            place, value = self.folder / "clips" / f"{name}.mp4", new.get(name, name)
            if isinstance(value, str):
                place.parent.mkdir(exist_ok=True)
                place.symlink_to(self.good / f"{value}.mp4")
            else:
                clip(place, value)
        return self.folder / "clips"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    poses = [*waved(22), *[lying(0.1, 0.05)] * 2, *[lying(-0.5, 0.1)] * 2]
    images = filmed(charuco(), poses)
    clips(folder / "clips", images)
    words = ["--out", str(folder / "rig"), "--floor", *map(str, FLAT), *TAPE]
    assert call(["calibrate", str(folder / "clips"), "--board", BOARD, *words]) == 0
    return Bench(folder / "clips", images, poses, folder / "rig/board", folder)


@pytest.fixture
def bench(good, tmp_path):
    return Bench(good.good, good.images, good.poses, good.cache, tmp_path)


def still(bench: Bench, name: str, instants: range) -> list[np.ndarray]:
    """A camera's pictures, the board hidden at some instants."""
    blank = np.full(SIZE[::-1], 90, np.uint8)
    return [blank if i in instants else image for i, image in enumerate(bench.images[name])]


def mirrored_picture(b: Bench):
    """A camera that mirrors its picture, filming a board with markers."""
    return b.calibrate(b.changed(middle=[i[:, ::-1] for i in b.images["middle"]]))


def mirrored_print(b: Bench):
    """A board that was printed mirrored."""
    return b.calibrate(clips(b.folder / "clips", filmed(charuco()[:, ::-1].copy(), waved(2))))


def mirrored_chessboard(b: Bench):
    """One camera that mirrors its picture, filming a chessboard."""
    images = filmed(chessboard(), waved(12))
    return b.calibrate(clips(b.folder / "clips", images | {"right": [i[:, ::-1] for i in images["right"]]}), board=CHESS)


def wrong_square(b: Bench):
    """A square stated 10 % too large."""
    return b.calibrate(b.changed(), *TAPE, *b.lenses(), board="charuco:6x4:13.2cm:DICT_4X4_50:marker=9.9cm")


def wrong_unit(b: Bench):
    """A square stated in the wrong unit."""
    return b.calibrate(b.changed(), *b.lenses(), board="charuco:6x4:240cm:DICT_4X4_50:marker=180cm")


def wrong_dictionary(b: Bench):
    """A board of another dictionary than was printed."""
    return b.calibrate(clips(b.folder / "clips", {n: i[:3] for n, i in b.images.items()}), board="charuco:6x4:12cm:DICT_5X5_50:marker=9cm")


def squares_for_corners(b: Bench):
    """A chessboard's squares counted instead of its inner corners."""
    return b.calibrate(clips(b.folder / "clips", filmed(chessboard(), waved(2))), board="chessboard:6x5:12cm")


def blind_camera(b: Bench):
    """A camera that never sees the board."""
    return b.calibrate(b.changed(right=still(b, "right", range(99))))


def two_groups(b: Bench):
    """Cameras that never see the board together with the others."""
    half = len(b.poses) // 2
    parts = {n: still(b, n, range(half) if n == "right" else range(half, 99)) for n in NAMES}
    return b.calibrate(b.changed(**parts), *b.lenses())


def blurred_footage(b: Bench):
    """Cameras out of focus."""
    return b.calibrate(b.changed(**{n: [cv2.GaussianBlur(i, (0, 0), 7) for i in b.images[n]] for n in NAMES}))


def moved_camera(b: Bench):
    """A camera that was bumped half-way."""
    there = looking(PLACES["right"] + [0.03, 0, 0.02], 1.5), PLACES["right"] + [0.03, 0, 0.02]
    return b.calibrate(b.changed(right=pictures(charuco(), [RIG["right"]] * 14 + [there] * (len(b.poses) - 14), b.poses)))


def swapped_files(b: Bench):
    """Two cameras' files exchanged, where an earlier calibration is there to tell."""
    b.calibrate(b.good, *b.lenses())
    return b.calibrate(b.changed(left="right", right="left"), *b.lenses())


def wrong_resolution(b: Bench):
    """Lenses that were calibrated for images of another shape."""
    return b.calibrate(b.changed(), *b.lenses((640, 360)))


def board_never_tilted(b: Bench):
    """A board that always faces the cameras flatly."""
    row = {n: (looking(np.array([x, -3.0, 0.7])), np.array([x, -3.0, 0.7])) for n, x in zip(NAMES, (-0.2, 0.0, 0.2))}
    poses = waved(12, tilt=2.0, lean=0.0)
    return b.calibrate(clips(b.folder / "clips", {n: pictures(charuco(), [row[n]] * 12, poses) for n in NAMES}))


def out_of_step(b: Bench):
    """A file that began frames later than the others."""
    return b.calibrate(b.changed(right=b.images["right"][3:]))


def too_little_footage(b: Bench):
    """Too few instants to hold any out and check the rig by them."""
    return b.calibrate(clips(b.folder / "clips", {n: i[:4] for n, i in b.images.items()}))


def uneven_floor(b: Bench):
    """A board that did not lie on the floor at one of the instants named."""
    poses = [*b.poses[:24], *[lying(-0.5, 0.1, 0.08)] * 2]
    return b.calibrate(clips(b.folder / "clips", filmed(charuco(), poses)), "--floor", *map(str, FLAT), *b.lenses())


FAILURES = {
    mirrored_picture: "board seen",
    mirrored_print: "board seen",
    mirrored_chessboard: "in step",
    wrong_square: "distance left right",
    wrong_unit: "scale",
    wrong_dictionary: "board seen",
    squares_for_corners: "board seen",
    blind_camera: "board seen",
    two_groups: "connected",
    blurred_footage: "board seen",
    moved_camera: "held still",
    swapped_files: "names",
    wrong_resolution: "resolution",
    board_never_tilted: "tilt",
    out_of_step: "in step",
    too_little_footage: "held out",
    uneven_floor: "floor",
}
WORDS = {
    mirrored_picture: "mirrored", mirrored_print: "print is mirrored", wrong_dictionary: "dictionary: DICT_4X4_50",
    squares_for_corners: "you counted squares",
    blurred_footage: "blurred", blind_camera: "camera right", two_groups: "[left, middle] and [right]", moved_camera: "right moved",
    swapped_files: "left and right", wrong_resolution: "640 x 360", uneven_floor: "+80 mm", out_of_step: "right",
}  # fmt: skip
"""What the gate's sentence or remedy must say besides."""


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: f.__name__)
def test_the_failure_ends_in_the_gate_that_names_it(bench, failure, capsys):
    code, gates = failure(bench)
    failed = {n: f"{g.sentence} {g.remedy}" for n, g in gates.items() if g.verdict == "fail"}
    assert code == 2 and FAILURES[failure] in failed, (code, {n: (g.verdict, g.sentence) for n, g in gates.items()})
    assert WORDS.get(failure, "") in failed[FAILURES[failure]]
    assert "".join(WORDS.get(failure, "").split()) in "".join(capsys.readouterr().out.split())  # the table on the screen says it too
    assert all(g.remedy or "dictionary" in g.sentence or "seen" in g.sentence for g in gates.values() if g.verdict == "fail")


def test_the_documentation_lists_every_failure_with_its_gate():
    text = (Path(__file__).parent.parent / "docs/calibration.md").read_text()
    rows = re.search(r"These (\d+) mistakes .*?\n\|---\|---\|\n(.*?)\n\n", text, re.S)
    assert rows is not None and int(rows[1]) == len(FAILURES)
    listed = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows[2].splitlines()]
    assert listed == [((f.__doc__ or "").rstrip("."), gate) for f, gate in FAILURES.items()]


def test_a_chessboard_that_all_cameras_mirror_is_not_called_good(bench):
    code, gates = bench.calibrate(clips(bench.folder / "clips", filmed(chessboard(), waved(12)), lambda i: i[:, ::-1]), board=CHESS)
    assert code == 2 or (gates["not mirrored"].verdict == "warn" and "cannot be told" in gates["not mirrored"].sentence)


def test_the_same_footage_without_a_mistake_is_good(good):
    gates = load_gates(good.folder / "rig/quality.yaml")[0]
    assert {g.name: g.sentence for g in gates if g.verdict == "fail"} == {}
    [floor] = [g for g in gates if g.name == "floor"]
    assert floor.verdict == "pass" and abs(floor.value) < 8

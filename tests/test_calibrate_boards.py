"""`studio calibrate --board` from videos to gates: clips of a board are warped by OpenCV from a print and known cameras."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from board_clips import FOCAL, NAMES, SIZE, charuco, filmed, looking, lying, waved
from board_clips import PLACES as TRUE
from board_clips import clips as written

from calibration.cameras import Cameras
from calibration.gates import Gate, load_gates, save_gates
from calibration.lens_library import read_library
from studio.board_steps import Found, Numbering
from studio.cli import call
from studio.take import Take
from studio.video import VideoWriter

BOARD, FLOOR = "charuco:6x4:12cm:DICT_4X4_50:marker=9cm", 24
PLACES = np.stack(list(TRUE.values()))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    poses = [*waved(FLOOR), *[lying(0.1, 0.05)] * 3]
    return written(tmp_path_factory.mktemp("clips"), filmed(charuco(), poses))


def apart(a: int, b: int) -> str:
    return f"{np.linalg.norm(PLACES[a] - PLACES[b]):.3f}m"


def camera_file(folder: Path) -> Path:
    """The true cameras."""
    lens = {"size": list(SIZE), "focal": [FOCAL, FOCAL], "centre": [239.5, 179.5], "distortion": [0, 0, 0, 0]}
    posed = {n: {**lens, "R_camera_world": looking(p).tolist(), "position": p.tolist()} for n, p in zip(NAMES, PLACES)}
    (folder / "cameras.yaml").write_text(yaml.safe_dump({"cameras": posed}))
    return folder / "cameras.yaml"


def test_clips_of_a_board_give_metres_floor_and_gates(clips, tmp_path, capsys):
    out = tmp_path / "rig"
    tape = ["--distance", f"left:right:{apart(0, 2)}", "--floor", str(FLOOR + 1), "--save-lenses", str(tmp_path / "lenses.yaml")]
    assert call(["calibrate", str(clips), "--board", BOARD, "--out", str(out), *tape]) == 0
    told = capsys.readouterr().out
    assert set(read_library(tmp_path / "lenses.yaml")) == {"left", "middle", "right"}
    assert "120 mm square" in told and "leave one out" in told and "can be used" in told
    found = Cameras.load(out / "cameras.yaml")
    assert found.names == ("left", "middle", "right")
    np.testing.assert_allclose(found.position[:, 2], PLACES[:, 2], atol=0.03)
    between = [[np.linalg.norm(a - b) for a in p] for p in (found.position.numpy(), PLACES) for b in p]
    np.testing.assert_allclose(between[:3], between[3:], rtol=0.01, atol=1e-9)
    gates = {g.name: g for g in load_gates(out / "quality.yaml")[0]}
    assert {n for n, g in gates.items() if g.verdict == "fail"} == set()
    assert abs(gates["known square"].value) < 0.6
    # Against a tape that says otherwise the same clips end in a failed gate; accepted, files are written all the same, and say so.
    wrong = ["calibrate", str(clips), "--board", BOARD, "--out", str(out), "--distance", "left:right:3m"]
    before, board = (out / "cameras.yaml").read_bytes(), (out / "board.yaml").read_bytes()
    assert call(wrong) == 2 and "cameras.refused.yaml" in " ".join(capsys.readouterr().err.split())
    assert (out / "cameras.yaml").read_bytes() == before and (out / "board.yaml").read_bytes() == board
    assert load_gates(out / "quality.yaml")[0] == tuple(gates.values()) and "Accepted" not in (out / "report.html").read_text()
    assert load_gates(out / "cameras.refused.quality.yaml")[1]["accepted"] is False
    assert call([*wrong, "--accept"]) == 0
    document = yaml.safe_load((out / "quality.yaml").read_text())
    assert document["verdict"] == "fail" and document["accepted"] is True
    assert "Accepted by the operator" in (out / "report.html").read_text()


def test_the_floor_is_named_by_the_sync_index_of_the_table(clips, tmp_path, capsys):
    table = tmp_path / "table.csv"
    rows = [f"{35 + n},{c},{0.1 * n}" for n in range(FLOOR + 3) for c in NAMES]
    table.write_text("\n".join(["sync_index,cam_id,frame_time", *rows]))
    lenses = ["--lenses", str(camera_file(tmp_path))]
    words = ["calibrate", str(clips), "--board", BOARD, "--out", str(tmp_path / "rig"), "--instants", str(table), *lenses]
    assert call([*words, "--floor", str(FLOOR + 1)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "from 35 to 61" in told and "sync_index" in told and not (tmp_path / "rig").exists()  # before the long search
    assert call([*words, "--floor", str(35 + FLOOR + 1)]) == 0
    np.testing.assert_allclose(Cameras.load(tmp_path / "rig/cameras.yaml").position[:, 2], PLACES[:, 2], atol=0.03)
    assert call([*words, "--floor", str(35 + 5)]) == 2  # waved in the air
    gates = {g.name: g for g in load_gates(tmp_path / "rig/cameras.refused.quality.yaml")[0]}
    assert [n for n, g in gates.items() if g.verdict == "fail"] == ["floor"] and "below that floor" in gates["floor"].sentence


def test_an_instant_that_no_two_cameras_place_is_told_by_its_number():
    nowhere = torch.full((3,), torch.nan)
    fit = SimpleNamespace(board_position=torch.stack([torch.zeros(3), nowhere, nowhere, torch.ones(3)]))
    found = Found(None, 2, Numbering((35, 36, 38, 39, 40, 41, 50, 51), "the sync_index in t.csv"))  # type: ignore[arg-type]
    assert [found.number(b) for b in range(4)] == [35, 38, 40, 50] and found.nearest(fit, 50) == 3 and found.nearest(fit, 38) == 0
    with pytest.raises(ValueError, match="the nearest is 50"):
        Found(None, 1, Numbering((35, 36, 37, 38, 50), "")).nearest(SimpleNamespace(board_position=fit.board_position[[1, 1, 1, 1, 3]]), 36)  # type: ignore
    with pytest.raises(ValueError, match="35 to 51"):
        found.nearest(fit, 5)


def test_clips_that_give_no_rig_leave_an_earlier_calibration_alone(clips, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("left", "right"):
        (few / f"{name}.mp4").symlink_to(clips / f"{name}.mp4")
    with VideoWriter(few / "blind.mp4", *SIZE, 10.0) as video:
        for _ in range(4):
            video.write(np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))
    cameras = camera_file(tmp_path)
    before = cameras.read_bytes()
    assert call(["calibrate", str(few), "--board", BOARD, "--out", str(tmp_path)]) == 2
    assert "blind" in capsys.readouterr().out
    assert cameras.read_bytes() == before and not (tmp_path / "quality.yaml").exists()
    assert call(["calibrate", str(few), "--board", BOARD, "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new/cameras.yaml").exists()
    assert "board seen" in {g.name for g in load_gates(tmp_path / "new/quality.yaml")[0] if g.verdict == "fail"}


def test_a_take_warns_of_a_calibration_that_failed(clips, tmp_path):
    cameras = camera_file(tmp_path)
    take = Take.of([clips], cameras, tmp_path / "take")
    assert take.checked().warnings == ()
    save_gates(cameras, [Gate("held still", "fail", 9.0, 2.0, "Camera left moved.", "Fix it.")])
    assert any("Camera left moved. Fix it." in w for w in take.checked().warnings)


@pytest.mark.parametrize(
    "words",
    [
        ["--board", BOARD],
        ["--out", "x"],
        ["--board", "charuco:6x4", "--out", "x"],
        ["--board", BOARD, "--out", "x", "--distance", "left:top:2m"],
        ["--board", BOARD, "--out", "x", "--lenses", "nofile.yaml"],
        ["--board", BOARD, "--out", "/proc/foo"],
        ["--board", "foo.yaml", "--out", "x"],
    ],
)
def test_wrong_words_end_with_a_sentence_before_the_search(clips, tmp_path, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("studio.board_steps.find", lambda *_: pytest.fail("looked for the board first"))
    assert call(["calibrate", str(clips), *words]) == 2
    told = capsys.readouterr().err
    assert told and "Traceback" not in told and "Errno" not in told
    assert not list(tmp_path.iterdir())


def test_words_name_the_thing_that_is_missing(clips, tmp_path, capsys):
    assert call(["calibrate", str(clips), "--board", str(tmp_path / "foo.yaml"), "--out", str(tmp_path)]) == 2
    assert "no such description of a board" in (told := " ".join(capsys.readouterr().err.split())) and "camera file" not in told
    assert call(["calibrate", "--accept"]) == 2
    assert "--accept --out" in (told := " ".join(capsys.readouterr().err.split())) and "VIDEO" not in told

"""Boards in images: truth from OpenCV's printers, a pinhole camera of the tests' own, and footage with another tool's corners."""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from board_scene import photograph, pose, projected, texture

from calibration.board_faults import why_not_found
from calibration.boards import Board, BoardViews, find_board, sight_board
from studio import boards as finding
from studio.board_print import described, drawn, length, print_board
from studio.boards import find_in_images, find_in_videos, prior_from_image, read_instants, sync_numbers
from studio.cli import call
from studio.video import VideoWriter

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared/data"))
CALISCOPE = DATA / "caliscope_charuco/calibration/extrinsic"
CHARUCO = Board("charuco", 5, 4, 0.06, 0.045)
BOARDS = {
    "charuco": CHARUCO,
    "chessboard": Board("chessboard", 6, 5, 0.05),
    "apriltag": Board("apriltag", 4, 3, 0.08, 0.06, "DICT_APRILTAG_36h11"),
    "aruco": Board("aruco", 4, 3, 0.08, 0.06, "DICT_5X5_50"),
}


def errors(board, found, truth):
    assert found is not None
    error = found[0].numpy() - truth
    return error[np.isfinite(error).all(1)]


@pytest.mark.parametrize("kind", BOARDS)
def test_corners_lie_where_the_projection_puts_them(kind):
    board, gathered = BOARDS[kind], []
    for n, (turn, tilt) in enumerate([(0, (0, 0)), (20, (30, 10)), (95, (-15, 30)), (178, (25, -20))]):
        R, t = pose(board, turn, tilt)
        gathered.append(errors(board, find_board(photograph(board, R, t, seed=n), board), projected(board.points().numpy(), R, t)))
        assert len(gathered[-1]) >= 0.9 * len(board.points())
    error = np.concatenate(gathered)
    assert np.sqrt((error**2).sum(1).mean()) < 0.2
    assert np.abs(error.mean(0)).max() < 0.05, "no half-pixel slip"


def test_the_stated_deviation_is_the_true_one():
    for blur, noise in ((0.0, 3.0), (2.0, 4.0)):
        whitened = []
        for seed in range(4):
            R, t = pose(CHARUCO, 10 * seed, (20, -15))
            pixels, sigma = find_board(photograph(CHARUCO, R, t, blur=blur, noise=noise, seed=seed), CHARUCO) or (None, None)
            assert pixels is not None and sigma is not None
            whitened.append((pixels.numpy() - projected(CHARUCO.points().numpy(), R, t)) / sigma.numpy()[:, None])
        spread = np.sqrt(np.nanmean(np.concatenate(whitened) ** 2))
        assert 0.4 < spread < 2.5, (blur, noise, spread)


@pytest.mark.parametrize("shift", [0.15, 0.2, 0.25])
def test_half_a_board_gives_the_corners_that_are_seen_under_their_own_numbers(shift):
    R, t = pose(CHARUCO, 15, (20, 10), distance=0.5, shift=(shift, 0.0))
    truth = projected(CHARUCO.points().numpy(), R, t)
    found = find_board(photograph(CHARUCO, R, t), CHARUCO)
    error = errors(CHARUCO, found, truth)
    inside = (truth > 8).all(1) & (truth < np.array([631, 471])).all(1)
    assert len(CHARUCO.points()) > inside.sum() >= len(error) >= max(4, inside.sum() - 2)
    assert np.abs(error).max() < 0.6


@pytest.mark.parametrize("change", [{"inverted": True}, {"legacy": True}])
def test_inverted_and_legacy_prints_are_found_as_described_and_named_where_not(change):
    board = replace(CHARUCO, **change)
    R, t = pose(board, 5, (15, 15))
    image = photograph(board, R, t)
    error = errors(board, find_board(image, board), projected(board.points().numpy(), R, t))
    assert np.sqrt((error**2).sum(1).mean()) < 0.2 and len(error) >= 10
    field = next(iter(change))
    plain = find_board(image, CHARUCO)
    assert plain is None or np.isfinite(plain[0].numpy()).all(1).sum() < 8
    assert f"{field}: true" in why_not_found([image], CHARUCO)


def test_the_back_of_a_two_sided_board_is_seen_behind_its_front():
    board = replace(CHARUCO, two_sided=True, thickness=0.008)
    R, t = pose(board, 8, (160, 12))  # turned round: the camera looks at the back
    image = photograph(board, R, t, depth=board.thickness)
    assert find_board(image, CHARUCO) is None, "one-sided detection finds nothing there"
    seen = sight_board(image, board)
    assert seen is not None and seen.behind
    error = errors(board, seen, projected(board.points(behind=True).numpy(), R, t))
    assert len(error) >= 10 and np.sqrt((error**2).sum(1).mean()) < 0.2
    assert abs(error[:, 0].mean()) < 0.08, "mirrored columns map to W - 1 - x"
    front = sight_board(photograph(board, *pose(board, 8, (20, 12))), board)
    assert front is not None and not front.behind


def test_a_chessboard_is_numbered_alike_from_every_side():
    board = BOARDS["chessboard"]
    for turn in (0, 90, 180, 270):
        R, t = pose(board, turn + 7, (20, 5))
        assert np.abs(errors(board, find_board(photograph(board, R, t), board), projected(board.points().numpy(), R, t))).max() < 1
    assert Board("chessboard", 6, 4, 0.05).chessboard_symmetric and not board.chessboard_symmetric


def test_markers_in_space_are_found_where_they_are_listed():
    grid = BOARDS["aruco"]
    corners = grid.points().reshape(-1, 4, 3).tolist()
    listed = tuple((n, *(tuple(c) for c in corners[n])) for n in (5, 2, 7))
    board = Board("aruco", 0, 0, 0.0, dictionary=grid.dictionary, markers=listed)
    R, t = pose(grid, 12, (20, 20))
    error = errors(board, find_board(photograph(grid, R, t), board), projected(board.points().numpy(), R, t))
    assert len(error) == 12 and np.abs(error).max() < 0.5


def test_nothing_is_found_where_there_is_no_board():
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    for board in BOARDS.values():
        assert find_board(noise, board) is None
        assert find_board(np.full((480, 640), 128, np.uint8), board) is None


def test_words_name_what_is_wrong():
    R, t = pose(CHARUCO, 5, (15, 15))
    image = photograph(CHARUCO, R, t)
    words = why_not_found([image], replace(CHARUCO, dictionary="DICT_6X6_50"))
    assert "0 markers of DICT_6X6_50" in words and re.search(r"\b10 of DICT_4X4_50", words)
    assert "mirrored" in why_not_found([image[:, ::-1].copy()], CHARUCO)
    assert "blurred" in why_not_found([cv2.GaussianBlur(image, (0, 0), 12)], CHARUCO)
    assert "columns: 4, rows: 5" not in why_not_found([image], CHARUCO)
    chess = BOARDS["chessboard"]
    seen = photograph(chess, *pose(chess, 5, (15, 15)))
    words = why_not_found([seen], replace(chess, columns=7, rows=6))
    assert "6 x 5 inner corners" in words and "counted squares" in words


def test_a_description_survives_its_file(tmp_path):
    listed = ((3, (0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.1, 0.1, 0.0), (0.0, 0.1, 0.02)),)
    for board in (*BOARDS.values(), replace(CHARUCO, two_sided=True, thickness=0.005), Board("aruco", 0, 0, 0.0, markers=listed)):
        board.save(tmp_path / "board.yaml")
        assert Board.load(tmp_path / "board.yaml") == board


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: charuco\ncolumns: 5\nrows: 4\nsquare: 0.06\nmarker: 0.07\n", "marker"),
        ("kind: charuco\ncolumns: 5\nrows: 4\nsquare: 60mm\n", "square"),
        ("kind: charuco\ncolumns: 5\nsquare: 0.06\n", "'rows' is missing"),
        ("kind: disc\ncolumns: 5\nrows: 4\nsquare: 0.06\n", "kind"),
        ("kind: chessboard\ncolumns: 5\nrows: 4\nsquare: 0.06\nsquares: 3\n", "'squares' is not known"),
        ("kind: charuco\ncolumns: 5\nrows: 4\nsquare: 0.06\nmarker: 0.04\ndictionary: DICT_9X9\n", "DICT_4X4_50"),
        ("kind: charuco\ncolumns: 15\nrows: 14\nsquare: 0.06\nmarker: 0.04\n", "take a larger one"),
    ],
)
def test_a_wrong_description_is_refused_in_words(tmp_path, text, words):
    (tmp_path / "board.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        Board.load(tmp_path / "board.yaml")
    assert "board.yaml" in str(error.value)


def film(path, board, turns):
    with VideoWriter(path, 640, 480, 10, crf=10) as video:
        for turn in turns:
            image = photograph(board, *pose(board, turn, (20, 10)), samples=1)
            video.write(np.repeat(image[..., None], 3, -1))


def test_videos_are_looked_at_once(tmp_path, monkeypatch):
    board = replace(CHARUCO)
    film(tmp_path / "a.mp4", board, (0, 10, 20, 30))
    film(tmp_path / "b.mp4", board, (0, 10))
    videos = {"a": tmp_path / "a.mp4", "b": tmp_path / "b.mp4"}
    views = find_in_videos(videos, board, tmp_path / "cache")
    assert views.pixels.shape == (2, 4, 12, 2) and views.instants.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    assert views.seen().tolist() == [[True] * 4, [True, True, False, False]]
    truth = projected(board.points().numpy(), *pose(board, 20, (20, 10)))
    assert np.abs(views.pixels[0, 2].numpy() - truth).max() < 0.5
    monkeypatch.setattr(finding, "sight_board", lambda *_: pytest.fail("looked again"))
    again = find_in_videos(videos, board, tmp_path / "cache")
    assert torch.equal(again.pixels.nan_to_num(), views.pixels.nan_to_num())
    views.save(tmp_path / "views.safetensors")
    loaded = BoardViews.load(tmp_path / "views.safetensors")
    assert loaded.board == board and torch.equal(loaded.instants, views.instants) and loaded.cameras == views.cameras
    monkeypatch.undo()
    table = torch.tensor([[3, 1], [1, -1]])
    shifted = find_in_videos(videos, board, tmp_path / "cache", instants=table)
    assert torch.allclose(shifted.pixels[0].nan_to_num(), views.pixels[0, [3, 1]].nan_to_num()) and not shifted.seen()[1, 1]
    with pytest.raises(ValueError, match="10 of DICT_4X4_50"):
        find_in_videos(videos, replace(board, dictionary="DICT_5X5_50"), tmp_path / "cache")


def test_time_stamps_tell_which_frames_belong_together(tmp_path):
    table = tmp_path / "timestamps.csv"
    table.write_text("sync_index,cam_id,frame_time\n7,1,0.30\n5,0,0.1\n6,0,0.2\n5,1,0.11\n7,0,0.31\n")
    assert read_instants(table, ["cam_0", "cam_1"]).tolist() == [[0, 1, 2], [0, -1, 1]]
    assert sync_numbers(table) == (5, 6, 7)
    with pytest.raises(ValueError, match="cam_2"):
        read_instants(table, ["cam_0", "cam_2"])
    table.write_text("frame,time\n1,2\n")
    with pytest.raises(ValueError, match="sync_index"):
        read_instants(table, ["cam_0"])


def test_a_printed_board_has_its_true_size(tmp_path):
    board = Board("charuco", 4, 5, 0.035, 0.02625)
    figure = drawn(board)
    figure.savefig(tmp_path / "page.png", dpi=254)  # ten pixels a millimetre
    image = cv2.imread(str(tmp_path / "page.png"))
    found = find_board(image, board)
    assert found is not None
    mm = (found[0].numpy() + 0.5) / 10
    assert np.abs((mm - mm[0]) - 1000 * (board.points()[:, :2] - board.points()[0, :2]).numpy()).max() < 0.1
    dark = np.flatnonzero(image[((297 - 13) * 10) :, :, 0].min(0) < 128)  # the ruler's ticks
    assert abs((dark.max() - dark.min()) / 10 - 180) < 0.3
    data = print_board(board, tmp_path / "board.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ ?([0-9. ]+)\]", data)
    assert box and np.allclose([float(v) / 72 * 25.4 for v in box[1].split()][2:], (210, 297), atol=0.01)


def test_the_printed_back_is_the_front_seen_in_a_mirror(tmp_path):
    board = Board("charuco", 4, 5, 0.035, 0.02625, two_sided=True, thickness=0.004)
    seen = []
    for mirrored in (False, True):
        drawn(board, mirrored=mirrored).savefig(tmp_path / "page.png", dpi=127)
        found = sight_board(cv2.imread(str(tmp_path / "page.png")), board)
        assert found is not None and found.behind == mirrored
        seen.append(found.pixels.numpy())
    width = cv2.imread(str(tmp_path / "page.png")).shape[1]
    assert np.abs(seen[1][:, 0] - (width - 1 - seen[0][:, 0])).max() < 1.0


def test_every_printed_kind_is_found_again_and_equals_opencvs_print(tmp_path):
    for kind, board in BOARDS.items():
        small = replace(board, square=board.square / 2, marker=board.marker / 2)
        drawn(small).savefig(tmp_path / "page.png", dpi=150)
        found = find_board(cv2.imread(str(tmp_path / "page.png")), small)
        assert found is not None and bool(found[0].isfinite().all()), kind
    assert texture(CHARUCO)[0].shape == (4 * 96, 5 * 96)


def test_the_command_prints_a_board_and_its_description(tmp_path, capsys):
    assert call(["board", "--charuco", "5x7", "--square", "30mm", "--pdf", str(tmp_path / "out.pdf")]) == 0
    assert (tmp_path / "out.pdf").read_bytes()[:5] == b"%PDF-"
    assert Board.load(tmp_path / "out.yaml") == Board("charuco", 5, 7, 0.03, 0.0225)
    assert call(["board", "--charuco", "5x7", "--square", "80mm", "--page", "A4", "--pdf", str(tmp_path / "big.pdf")]) == 2
    assert "more than A4" in capsys.readouterr().err and not (tmp_path / "big.pdf").exists()
    assert call(["board", "--charuco", "5", "--pdf", str(tmp_path / "big.pdf")]) == 2
    assert length("1.5in") == pytest.approx(0.0381)
    assert described("charuco", "12x9", "30mm", None, None, "5mm").dictionary == "DICT_4X4_100"


def test_still_images_and_what_they_say_of_the_lens(tmp_path):
    from PIL import Image

    board, paths = BOARDS["chessboard"], []
    for n in range(2):
        paths.append(tmp_path / f"{n}.jpg")
        image = Image.fromarray(photograph(board, *pose(board, 10 * n, (20, 10))))
        exif = image.getexif()
        exif.get_ifd(0x8769)[0xA405] = 28
        image.save(paths[-1], quality=95, exif=exif)
    views = find_in_images(paths, board)
    assert views.seen().tolist() == [[True, True]] and views.size.tolist() == [[640, 480]]
    prior = prior_from_image(paths[0])
    assert prior is not None and prior.focal == pytest.approx(28 / 43.2666 * 800, rel=1e-3)
    with pytest.raises(ValueError, match="not a readable image"):
        find_in_images([tmp_path / "absent.jpg"], board)


@pytest.mark.skipif(not CALISCOPE.is_dir(), reason="needs shared/data/caliscope_charuco")
def test_real_inverted_boards_agree_with_another_tool():
    from studio.video import frames

    board = Board("charuco", 4, 5, 0.054, 0.0405, "DICT_4X4_1000", inverted=True)
    with (CALISCOPE / "xy.csv").open() as file:
        rows = list(csv.DictReader(file))
    instants = read_instants(CALISCOPE / "timestamps.csv", ["cam_0", "cam_1", "cam_2", "cam_3"])
    assert instants.shape == (4, 57)
    for camera in (0, 2):
        first = min(int(r["frame_index"]) for r in rows)
        theirs = {int(r["keypoint_id"]): (float(r["img_loc_x"]), float(r["img_loc_y"])) for r in rows
                  if int(r["cam_id"]) == camera and int(r["frame_index"]) == first + 20 + (camera == 0)}  # fmt: skip
        [(_, image)] = frames(CALISCOPE / f"cam_{camera}.mp4", 20, 21)
        found = find_board(image, board)
        assert found is not None and theirs
        off = [np.hypot(*(found[0][n].numpy() - theirs[n])) for n in theirs if bool(found[0][n].isfinite().all())]
        assert len(off) >= 10 and np.median(off) < 1.0


def test_printing_tells_the_page_and_the_largest_square_that_fits(tmp_path, capsys):
    pdf = str(tmp_path / "board.pdf")
    assert call(["board", "--charuco", "5x7", "--square", "53mm", "--pdf", pdf]) == 0
    assert "on A3 (297 x 420 mm)" in " ".join(capsys.readouterr().out.split())
    for kind, page, counts, square in (("charuco", "A3", "5x7", "54mm"), ("charuco", "A4", "7x5", "4cm"), ("apriltag", "A4", "4x5", "6cm")):
        words = ["board", f"--{kind}", counts, "--page", page, "--pdf", pdf, "--square"]
        assert call([*words, square]) == 2
        told = " ".join(capsys.readouterr().err.split())
        fits = re.search(r"largest square that fits is (\d+) mm", told)
        assert fits is not None, told
        assert call([*words, f"{fits[1]}mm"]) == 0 and call([*words, f"{int(fits[1]) + 1}mm"]) == 2
        capsys.readouterr()


def test_a_place_that_holds_no_file_is_told_in_words(capsys):
    assert call(["board", "--charuco", "5x7", "--pdf", "/proc/foo/board.pdf"]) == 2
    assert "cannot be written" in (told := " ".join(capsys.readouterr().err.split())) and "Errno" not in told

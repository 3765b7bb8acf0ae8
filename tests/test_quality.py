"""Each way to spoil a calibration ends with the gate that names it failing. Pixels are made by OpenCV's `projectPoints`."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from calibration.boards import Board, BoardViews
from calibration.cameras import Cameras
from calibration.gates import Gate, doubts, load_gates, passed, save_gates, verdict
from calibration.held_out import chosen
from calibration.intrinsics import LensFit, calibrate_lens
from calibration.quality import judge
from calibration.rig_gates import Distance
from calibration.world_gates import judge_floor
from studio.board_steps import solved
from studio.calibrate_boards import board_of, distance_of

BOARD = Board("charuco", 7, 5, 0.12, 0.09)
SIZE, BENT = (640, 480), np.array([-0.08, 0.02, 0.0, 0.0])
NAMES = ("left", "middle", "right", "far")
FOCAL = {"left": 520.0, "middle": 640.0, "right": 560.0, "far": 700.0}
Pose = tuple[np.ndarray, np.ndarray]


def looking(position: np.ndarray, turn: float = 0.0) -> Pose:
    """R_camera_world of a camera that looks at the middle of the volume, turned aside by some degrees, and its position."""
    z = np.array([0, 0, 1.0]) - position
    z = Rotation.from_euler("z", turn, degrees=True).apply(z / np.linalg.norm(z))
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z]), position


ARC = {n: looking(np.array([3 * math.sin(a), -3 * math.cos(a), h])) for n, a, h in zip(NAMES, (-0.6, -0.2, 0.2, 0.6), (1.6, 2.3, 1.4, 2.0))}


def boards(count: int, random: np.random.Generator, tilt: float = 30.0) -> list[Pose]:
    """R_world_board and the world position of the board's middle: it faces -y, tilted at random."""
    facing = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    turns = [Rotation.from_euler("xyz", random.uniform(-tilt, tilt, 3), degrees=True).as_matrix() for _ in range(count)]
    return [(facing @ turn, random.uniform([-0.8, -0.5, 0.4], [0.8, 0.5, 1.6])) for turn in turns]


def seen(cameras: list[dict[str, Pose]], poses: list[Pose], random: np.random.Generator, noise: float = 0.1) -> BoardViews:
    """What cameras (one dictionary an instant, so that they can move) see of the board."""
    names = tuple(cameras[0])
    flat = BOARD.points().numpy()
    pixels = np.full((len(names), len(poses), len(flat), 2), np.nan)
    for b, (R, middle) in enumerate(poses):
        for c, name in enumerate(names):
            R_cw, position = cameras[b][name]
            to_camera = R_cw @ R, R_cw @ (middle - R @ flat.mean(0) - position)
            K = np.array([[FOCAL[name], 0, 319.5], [0, FOCAL[name], 239.5], [0, 0, 1]])
            found = cv2.projectPoints(flat, cv2.Rodrigues(to_camera[0])[0], to_camera[1], K, BENT)[0][:, 0]
            found += random.normal(0, noise, found.shape)
            off = ((found < 0) | (found > np.array(SIZE) - 1)).any(1)
            pixels[c, b] = np.where(off[:, None], np.nan, found)
    values = torch.from_numpy(pixels)
    sigma = torch.where(values[..., 0].isnan(), torch.nan, noise).double()
    C, B = values.shape[:2]
    size = torch.tensor([SIZE], dtype=torch.float64).repeat(C, 1)
    return BoardViews(names, size, BOARD, values, sigma, torch.zeros(C, B, dtype=torch.bool), torch.arange(B).repeat(C, 1))


def lenses_of(views: BoardViews) -> list[LensFit]:
    return [calibrate_lens(views.pixels[c], BOARD.points(), SIZE, views.sigma[c], "brown", 2) for c in range(len(views.cameras))]


@pytest.fixture(scope="module")
def footage() -> tuple[BoardViews, list[LensFit]]:
    random = np.random.default_rng(3)
    views = seen([ARC] * 60, boards(60, random), random)
    return views, lenses_of(views)


def judged(views: BoardViews, lenses: list[LensFit], **more) -> dict[str, Gate]:
    fit, held, refusal = solved(views, lenses, same_footage=True)
    return {g.name: g for g in judge(views, lenses, fit, held, refusal, **more)}


def failing(gates: dict[str, Gate]) -> set[str]:
    return {name for name, g in gates.items() if g.verdict == "fail"}


def hidden(views: BoardViews, gone: torch.Tensor) -> BoardViews:
    """The views without those at a mask (C B)."""
    return replace(views, pixels=torch.where(gone[..., None, None], torch.nan, views.pixels))


def test_good_footage_passes_every_gate_and_the_tape_agrees(footage):
    apart = float(np.linalg.norm(ARC["left"][1] - ARC["far"][1]))
    gates = judged(*footage, distances=[Distance("left", "far", apart)])
    assert {n: g.sentence for n, g in gates.items() if g.verdict == "fail"} == {}
    assert abs(gates["known square"].value) < 0.3 and abs(gates["distance left far"].value) < 0.003
    assert all(g.remedy == "" for g in gates.values() if g.verdict == "pass")


@pytest.mark.parametrize("which", [[1], [0, 1, 2, 3]])
def test_a_mirrored_picture_is_named(footage, which):
    views, lenses = footage
    pixels = views.pixels.clone()
    pixels[which, ..., 0] = SIZE[0] - 1 - pixels[which, ..., 0]
    gates = judged(replace(views, pixels=pixels), lenses)
    assert "not mirrored" in failing(gates)
    assert NAMES[which[0]] in gates["not mirrored"].sentence and "mirror" in gates["not mirrored"].remedy


def test_a_wrong_square_is_caught_by_the_tape_and_a_wrong_unit_by_itself(footage):
    views, lenses = footage
    apart = float(np.linalg.norm(ARC["left"][1] - ARC["far"][1]))
    large = replace(views, board=replace(BOARD, square=0.132, marker=0.099))
    assert failing(judged(large, lenses, distances=[Distance("left", "far", apart)])) == {"distance left far"}
    centimetres = replace(views, board=replace(BOARD, square=1.2, marker=0.9))
    assert "scale" in failing(judged(centimetres, lenses))


def test_a_camera_that_never_sees_the_board_is_named(footage):
    views, lenses = footage
    gone = torch.zeros(4, 60, dtype=torch.bool)
    gone[3] = True
    for some in (lenses, []):
        gates = {g.name: g for g in judge(hidden(views, gone), some, None, None, "no lens")}
        assert "board seen" in failing(gates) and "far" in gates["board seen"].remedy
    assert "board seen" in failing(judged(hidden(views, gone), lenses))


def test_two_groups_that_share_no_view_are_not_joined(footage):
    views, lenses = footage
    gone = torch.zeros(4, 60, dtype=torch.bool)
    gone[:2, ::2], gone[2:, 1::2] = True, True
    gates = judged(hidden(views, gone), lenses)
    assert "connected" in failing(gates)
    assert "[left, middle] and [right, far]" in gates["connected"].sentence and "Wave the board between" in gates["connected"].remedy


def test_a_weak_link_warns_and_tells_how_many_views_more(footage):
    views, lenses = footage
    gone = torch.zeros(4, 60, dtype=torch.bool)
    gone[3, 7:] = True
    gates = judged(hidden(views, gone), lenses)
    assert gates["connected"].verdict == "warn"
    assert "only 7 views" in gates["connected"].sentence and "far" in gates["connected"].sentence
    assert "about 9 more" in gates["connected"].remedy


def test_a_camera_that_moved_half_way_is_named_with_the_frame(footage):
    random = np.random.default_rng(4)
    moved = {**ARC, "right": looking(ARC["right"][1] + [0.03, 0, 0.02], turn=1.5)}
    views = seen([ARC] * 34 + [moved] * 26, boards(60, random), random)
    gates = judged(views, footage[1])
    assert "held still" in failing(gates)
    assert "Camera right moved at about its frame 3" in gates["held still"].sentence


def test_exchanged_videos_are_told_by_the_earlier_calibration(footage):
    views, lenses = footage
    fit, _, _ = solved(views, lenses, same_footage=True)
    assert fit is not None
    assert judged(views, lenses, before=fit.cameras)["names"].verdict == "pass"
    order = [0, 3, 2, 1]
    other = replace(views, pixels=views.pixels[order], sigma=views.sigma[order])
    gates = judged(other, [lenses[i] for i in order], before=fit.cameras)
    assert failing(gates) == {"names"} and "middle and far" in gates["names"].sentence


def test_exchanged_lenses_do_not_end_in_a_good_calibration(footage):
    views, lenses = footage
    exact = [replace(lens, covariance=torch.zeros(12, 12, dtype=torch.float64)) for lens in lenses]
    assert failing(judged(views, exact)) == set()
    assert failing(judged(views, [exact[i] for i in (3, 1, 2, 0)]))


def test_a_lens_of_another_resolution_is_named(footage):
    views, lenses = footage
    other = replace(lenses[2], size=torch.tensor([1280.0, 720.0], dtype=torch.float64))
    gates = judged(views, [*lenses[:2], other, lenses[3]])
    assert "resolution" in failing(gates) and "Camera right" in gates["resolution"].sentence


def test_a_board_that_always_faces_the_cameras_tells_no_lens():
    random = np.random.default_rng(5)
    ahead = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    row = {"left": (ahead, np.array([-0.3, -3, 1.0])), "right": (ahead, np.array([0.3, -3, 1.0]))}
    views = seen([row] * 30, boards(30, random, tilt=2.0), random)
    gates = judged(views, lenses_of(views))
    assert failing(gates) & {"tilt", "lenses", "rig"}, {n: g.sentence for n, g in gates.items()}


def test_too_few_instants_to_hold_any_out_fail(footage):
    views, lenses = footage
    gates = judged(chosen(views, torch.arange(60) < 4), lenses)
    assert "held out" in failing(gates) and "20 instants" in gates["held out"].remedy
    assert judged(chosen(views, torch.arange(60) < 8), lenses)["held out"].verdict == "warn"


def test_cameras_below_the_floor_fail():
    eye = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    two = torch.ones(2, 2, dtype=torch.float64)
    height = torch.tensor([[0, 0, 1.0], [1, 0, 2.0]], dtype=torch.float64)
    rig = Cameras(("a", "b"), two * 100, two * 90, two * 50, torch.zeros(2, 8, dtype=torch.float64), ("brown",) * 2, eye, height)
    assert judge_floor(rig).verdict == "pass"
    assert judge_floor(replace(rig, position=-height)).verdict == "fail"


def test_no_number_is_no_pass():
    assert verdict(math.nan, (1, 2)) == verdict(math.nan, (2, 1)) == "fail"
    assert [verdict(v, (10, 4)) for v in (12, 10, 7, 4, 3)] == ["pass", "pass", "warn", "warn", "fail"]


def test_gates_are_kept_and_speak_only_of_their_own_cameras(tmp_path):
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text("the cameras")
    bad = Gate("tilt", "fail", math.nan, 15.0, "The board never tilted.", "Tilt it.")
    file = save_gates(cameras, [bad, replace(bad, verdict="pass")], accepted=True)
    gates, facts = load_gates(file)
    assert not passed(gates) and math.isnan(gates[0].value) and facts["accepted"] is True
    assert doubts(cameras) == [
        "The calibration cameras.yaml failed its check 'tilt' (accepted by the operator). The board never tilted. Tilt it."
    ]
    cameras.write_text("other cameras")
    assert doubts(cameras) == []
    file.write_text("gates: [{name: tilt}]")
    with pytest.raises(ValueError, match=r"quality\.yaml"):
        load_gates(file)


def test_boards_and_distances_are_read_from_words():
    board = board_of("charuco:4x5:54mm:DICT_4X4_1000:inverted")
    assert (board.columns, board.rows, board.square, board.dictionary, board.inverted) == (4, 5, 0.054, "DICT_4X4_1000", True)
    assert board_of("charuco:5x7:4cm:marker=30mm:legacy") == Board("charuco", 5, 7, 0.04, 0.03, "DICT_4X4_50", legacy=True)
    assert board_of("chessboard:9x6:25mm") == Board("chessboard", 9, 6, 0.025)
    assert distance_of("a:b:2.5m") == Distance("a", "b", 2.5)
    for wrong in ("charuco", "charuco:4x5", "charuco:4by5:54mm", "charuco:4x5:54", "charuco:4x5:54mm:DICT_4X4_50:upside"):
        with pytest.raises(ValueError, match=r"write|not known|columns|length"):
            board_of(wrong)

"""A two-sided board before cameras on both sides of it, from rendered images to the rig."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from board_scene import FOCAL, SIZE, photograph
from scipy.spatial.transform import Rotation

from calibration.boards import Board, BoardViews, sight_board
from calibration.cameras import Cameras
from calibration.extrinsics import solve_rig
from calibration.intrinsics import LensFit

THICK = 0.012
BOARD = Board("charuco", 5, 4, 0.06, 0.045, two_sided=True, thickness=THICK)
COUNT = 14


def facing_pairs() -> Cameras:
    """Two cameras on each side, 0.7 m from the middle."""
    angle = np.deg2rad([-20.0, 25.0, 165.0, 200.0])
    position = np.stack([0.7 * np.cos(angle), 0.7 * np.sin(angle), [0.1, -0.05, 0.15, 0.0]], -1)
    z = -position / np.linalg.norm(position, axis=1, keepdims=True)
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    R = np.stack([x, np.cross(z, x), z], 1)
    size = torch.tensor([SIZE] * 4, dtype=torch.float64)
    focal, bent = torch.full((4, 2), FOCAL, dtype=torch.float64), torch.zeros(4, 8, dtype=torch.float64)
    names = ("east", "east2", "west", "west2")
    return Cameras(names, size, focal, (size - 1) / 2, bent, ("brown",) * 4, torch.from_numpy(R), torch.from_numpy(position))


@pytest.fixture(scope="module")
def seen() -> BoardViews:
    """What `sight_board` finds in images of a board of the true thickness."""
    cameras, random = facing_pairs(), np.random.default_rng(0)
    N = len(BOARD.points())
    pixels, sigma = torch.full((4, COUNT, N, 2), torch.nan, dtype=torch.float64), torch.full((4, COUNT, N), torch.nan, dtype=torch.float64)
    behind = torch.zeros(4, COUNT, dtype=torch.bool)
    for b in range(COUNT):
        # The front towards east: its normal (z, into the board) points west, tilted up to 30 degrees.
        upright = np.array([[0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]])
        turn = Rotation.from_euler("zyx", random.uniform(-30, 30, 3), degrees=True).as_matrix() @ upright
        middle = random.uniform(-0.06, 0.06, 3)
        for c in range(4):
            R = cameras.R_camera_world[c].numpy()
            R_cb = R @ turn
            t = R @ (middle - turn @ BOARD.points().numpy().mean(0) - cameras.position[c].numpy())
            back = float(R_cb[:, 2] @ (R_cb @ BOARD.points().numpy().mean(0) + t)) < 0
            image = photograph(BOARD, R_cb, t, depth=THICK if back else 0.0, seed=10 * b + c, samples=2)
            if (found := sight_board(image, BOARD)) is not None:
                pixels[c, b], sigma[c, b], behind[c, b] = found.pixels, found.sigma, found.behind
                assert found.behind == back
    return BoardViews(cameras.names, cameras.size, BOARD, pixels, sigma, behind, torch.arange(COUNT).repeat(4, 1))


def lenses(cameras: Cameras) -> list[LensFit]:
    none, eye = torch.zeros(1, dtype=torch.bool), torch.eye(3, dtype=torch.float64)[None]
    nothing = torch.zeros(12, 12, dtype=torch.float64)
    return [
        LensFit(
            c.size[0], c.focal[0], c.centre[0], c.distortion[0], "brown", 4, nothing, 0.1, 0.1, none, none, eye, eye[:, 0],
            torch.ones(6, 8), True, (),
        )
        for c in cameras
    ]  # fmt: skip


def worst_centre(found: Cameras, truth: Cameras) -> float:
    """m, after the rigid alignment."""
    a, b = found.position.numpy(), truth.position.numpy()
    R = Rotation.align_vectors(b - b.mean(0), a - a.mean(0))[0]
    return float(np.linalg.norm(R.apply(a - a.mean(0)) - (b - b.mean(0)), axis=1).max())


def test_cameras_on_both_sides_are_joined_by_the_board_between_them(seen):
    fit = solve_rig(seen, lenses(facing_pairs()), synchronised=True)
    used = fit.used
    assert int((used & seen.behind).sum()) > 15 and int((used & ~seen.behind).sum()) > 15
    assert worst_centre(fit.cameras, facing_pairs()) < 0.0015
    assert abs(fit.thickness) < 0.001


@pytest.mark.parametrize("wrong", [0.005, -0.005])
def test_a_thickness_that_is_five_millimetres_wrong_is_found_and_made_good(seen, wrong):
    told = replace(seen, board=replace(BOARD, thickness=THICK + wrong))
    fit = solve_rig(told, lenses(facing_pairs()), synchronised=True)
    assert abs(fit.thickness + wrong) < 0.0005
    assert abs(fit.thickness + wrong) < 4 * fit.thickness_sd
    assert worst_centre(fit.cameras, facing_pairs()) < 0.0015


def test_a_board_seen_from_its_front_alone_says_nothing_of_its_thickness(seen):
    east = replace(
        seen, cameras=seen.cameras[:2], size=seen.size[:2], pixels=seen.pixels[:2], sigma=seen.sigma[:2],
        behind=seen.behind[:2], instants=seen.instants[:2],
    )  # fmt: skip
    fit = solve_rig(east, lenses(facing_pairs()[:2]), synchronised=True)
    assert fit.thickness == 0 and fit.thickness_sd == 0

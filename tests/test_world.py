"""The world frame of a rig. Rotations and rigs are SciPy's and OpenCV's; what a camera sees must not change when the world moves."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from calibration.cameras import Cameras
from calibration.world import from_board, from_floor, from_known_points, from_length, from_marks, moved, upright

FULL = torch.float64


def rig(count: int = 4) -> Cameras:
    """Cameras on a ring of 3 m, 1.5 to 2.4 m above the floor z = 0, looking inwards."""
    angle = np.arange(count) * 2 * np.pi / count
    position = np.stack([3 * np.cos(angle), 3 * np.sin(angle), 1.5 + 0.3 * np.arange(count)], 1)
    forward = np.array([0, 0, 1.0]) - position
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    R = torch.from_numpy(np.stack([right, np.cross(forward, right), forward], 1))
    two = torch.ones(count, 2, dtype=FULL)
    names = tuple("abcdefgh"[:count])
    return Cameras(
        names, two * 1000, two * 800, two * 499.5, torch.zeros(count, 8, dtype=FULL), ("brown",) * count, R, torch.from_numpy(position)
    )


def astray(seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """A similarity that takes the true world to the one that a calibration happened to end in."""
    random = np.random.default_rng(seed)
    return Rotation.random(random_state=seed).as_matrix(), random.uniform(-3, 3, 3), float(random.uniform(0.4, 2.5))


def lost(cameras: Cameras, points: torch.Tensor, seed: int = 0, scale: bool = True) -> tuple[Cameras, torch.Tensor]:
    """Cameras and points in that other world."""
    R, t, s = astray(seed)
    s = s if scale else 1.0
    return moved(cameras, torch.from_numpy(R), torch.from_numpy(t), s), s * points @ torch.from_numpy(R).T + torch.from_numpy(t)


def test_moving_the_world_moves_no_pixel():
    cameras = rig()
    points = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (20, 3)))
    other, there = lost(cameras, points)
    for c in range(4):
        K, R, t = (v.numpy() for v in (other.matrix[c], other.R_camera_world[c], other.translation[c]))
        seen = cv2.projectPoints(there.numpy(), cv2.Rodrigues(R)[0], t, K, None)[0][:, 0]
        np.testing.assert_allclose(seen, cameras[c].project(points)[0].numpy(), atol=1e-6)


def test_a_mirroring_and_a_scale_of_nothing_are_refused():
    eye, zero = torch.eye(3, dtype=FULL), torch.zeros(3, dtype=FULL)
    with pytest.raises(ValueError, match="rotation"):
        moved(rig(), torch.diag(torch.tensor([1.0, 1, -1], dtype=FULL)), zero)
    with pytest.raises(ValueError, match="rotation"):
        moved(rig(), 2 * eye, zero)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale"):
            moved(rig(), eye, zero, scale)


@pytest.mark.parametrize("height", [0.0, 0.012])
def test_a_board_on_the_floor_gives_floor_up_and_origin(height):
    truth = rig()
    # Print up, its origin 0.3, 0.2 on the floor, x along the world's x: seen from above, y as printed runs towards -y and z is down.
    R_world_board = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]], dtype=FULL)
    origin = torch.tensor([0.3, 0.2, height], dtype=FULL)
    other, there = lost(truth, origin[None], scale=False)
    R = torch.from_numpy(astray()[0])
    move = from_board(R @ R_world_board, there[0], height)
    found = move.cameras(other)
    assert torch.allclose(found.position, truth.position - torch.tensor([0.3, 0.2, 0], dtype=FULL), atol=1e-9)
    assert torch.allclose(found.R_camera_world, truth.R_camera_world, atol=1e-9)


def test_a_board_of_unknown_pose_is_no_floor():
    with pytest.raises(ValueError, match="instant"):
        from_board(torch.full((3, 3), math.nan), torch.zeros(3))


@pytest.mark.parametrize("scale", [True, False])
def test_known_points_give_the_world_back(scale):
    truth = rig()
    known = {"mark": [0, 0, 0], "door": [2.5, 0.1, 0], "shelf": [0.4, 1.8, 1.2], "lamp": [1.0, -0.7, 2.2]}
    points = torch.tensor(list(known.values()), dtype=FULL)
    other, there = lost(truth, points, seed=2, scale=scale)
    noise = torch.from_numpy(np.random.default_rng(3).normal(0, 1e-3, there.shape))
    move = from_known_points(dict(zip(known, there + noise)), dict(zip(known, points)), scale)
    found = move.cameras(other)
    assert float((found.position - truth.position).norm(dim=1).max()) < 0.012
    assert move.used == 4 and move.off < 0.004
    if scale:
        assert abs(move.scale * astray(2)[2] - 1) < 3e-3


def test_known_points_that_cannot_fit_are_refused_by_name():
    known = {n: torch.tensor(p, dtype=FULL) for n, p in {"a": [0.0, 0, 0], "b": [2.0, 0, 0], "c": [0.0, 1.5, 0], "d": [1.0, 1, 1]}.items()}
    with pytest.raises(ValueError, match="three"):
        from_known_points({n: known[n] for n in "ab"}, known)
    with pytest.raises(ValueError, match="line"):
        line = {n: torch.tensor([x, 0.0, 0.0]) for n, x in zip("abc", (0.0, 1.0, 2.0))}
        from_known_points(line, line)
    with pytest.raises(ValueError, match="exchanged"):
        from_known_points({**known, "b": known["c"], "c": known["b"]}, known)
    with pytest.raises(ValueError, match="left-handed"):
        from_known_points({n: p * torch.tensor([1.0, 1, -1]) for n, p in known.items()}, {**known, "e": known["a"]})


@pytest.mark.parametrize("seed", range(3))
def test_feet_give_the_floor_though_a_fifth_of_them_hang_in_the_air(seed):
    random = np.random.default_rng(seed)
    truth = rig()
    feet = np.concatenate([random.uniform(-1, 1, (200, 2)), random.normal(0, 0.004, (200, 1))], 1)
    feet[:40, 2] += random.uniform(0.05, 0.4, 40)
    feet[40] = np.nan
    other, there = lost(truth, torch.from_numpy(feet), seed, scale=False)
    move = from_floor(there, other)
    found = move.cameras(other)
    height = found.position[:, 2] - truth.position[:, 2]
    assert float(height.abs().max()) < 0.005, height
    up = move.R @ torch.from_numpy(astray(seed)[0]) @ torch.tensor([0, 0, 1.0], dtype=FULL)
    assert math.degrees(math.acos(min(float(up[2]), 1.0))) < 0.15
    assert 150 <= move.used <= 175 and move.off < 0.008
    # Least squares through all of them, the negative control, is centimetres off.
    good = there[torch.isfinite(there).all(1)]
    normal = torch.linalg.svd(good - good.mean(0))[2][2]
    assert float(((other.position - good.mean(0)) @ normal).abs().sub(truth.position[:, 2]).abs().max()) > 0.02


def test_points_that_are_no_floor_are_refused():
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="three"):
        from_floor(torch.zeros(2, 3), rig())
    with pytest.raises(ValueError, match="line"):
        from_floor(torch.linspace(0, 3, 10)[:, None] * torch.tensor([[1.0, 2.0, 0.0]]), rig())
    with pytest.raises(ValueError, match="plane"):
        from_floor(torch.from_numpy(random.uniform(-1, 1, (60, 3))), rig())


def test_a_stated_height_gives_the_metre():
    truth = rig()
    ends = torch.tensor([[0.2, 0.1, 0.0], [0.2, 0.1, 1.83]], dtype=FULL)
    other, there = lost(truth, ends, seed=4)
    found = from_length(other, there[0], there[1], 1.83).cameras(other)
    assert torch.allclose(torch.pdist(found.position), torch.pdist(truth.position), atol=1e-9)
    with pytest.raises(ValueError, match="apart"):
        from_length(other, there[0], there[0], 1.83)
    with pytest.raises(ValueError, match="above 0"):
        from_length(other, there[0], there[1], -1.83)


@pytest.mark.parametrize("normal", [[0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0], [0.3, -0.5, 0.8]])
def test_upright_is_a_rotation_that_takes_the_normal_to_z(normal):
    n = torch.tensor(normal, dtype=FULL)
    R = upright(n)
    assert torch.allclose(R @ n / n.norm(), torch.tensor([0, 0, 1.0], dtype=FULL), atol=1e-12)
    assert abs(float(torch.linalg.det(R)) - 1) < 1e-12


def test_marks_on_the_floor_set_origin_and_x():
    true, marks = rig(), torch.tensor([[0.3, -0.2, 0], [0.3, 0.9, 0], [-0.8, 0.1, 0], [1.0, 0.4, 0]], dtype=FULL)
    cameras, there = lost(true, marks, scale=False)
    move = from_marks(there, cameras)
    torch.testing.assert_close(move.points(there)[0], torch.zeros(3, dtype=FULL), atol=1e-9, rtol=0)
    torch.testing.assert_close(move.points(there)[1], torch.tensor([1.1, 0, 0], dtype=FULL), atol=1e-9, rtol=0)
    # In that world x is where y was: a quarter turn about the first mark.
    expected = (true.position - marks[0]) @ torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=FULL)
    torch.testing.assert_close(move.cameras(cameras).position, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ([[0.0, 0, 0]], "first two"),
        ([[0.0, 0, 0], [math.nan] * 3, [1, 0, 0], [0, 1, 0]], "first two"),
        ([[0.0, 0, 0], [1, 0, 0]], "three are needed"),
        ([[0.0, 0, 0], [0.01, 0.01, 0], [1, 0, 0], [0, 1, 0]], "5 cm"),
    ],
)
def test_marks_that_tell_no_world_are_refused(marks, words):
    with pytest.raises(ValueError, match=words):
        from_marks(torch.tensor(marks, dtype=FULL), rig())

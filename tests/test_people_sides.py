"""A network that misplaces points by the side it sees a person from: the habit is learned, taken out, and the rig is straight again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from people_scene import NAMES, film
from scipy.spatial.transform import Rotation

from calibration.people import calibrate_people
from calibration.people_sides import SideBias, basis, learned
from studio.calibrate_sides import habit_of, one_sided
from studio.train.sides import errors

TRUNK = (NAMES.index("lshoulder"), NAMES.index("rshoulder"), NAMES.index("lhip"), NAMES.index("rhip"))


def misplaced(seed: int, frames: int = 60):
    """Footage in which points slide by up to 6 % of the trunk's length with the azimuth that the camera sees the person from."""
    scene = film(frames=frames, seed=seed, travel=0.3)
    X, cameras = scene.points, scene.cameras
    left = X[:, TRUNK[0]] - X[:, TRUNK[1]]
    length = np.linalg.norm((X[:, TRUNK[0]] + X[:, TRUNK[1]] - X[:, TRUNK[2]] - X[:, TRUNK[3]]) / 2, axis=1)
    pixels = scene.views.pixels.clone()
    for c, camera in enumerate(cameras):
        away = camera.position[0].numpy()[:2] - X[:, TRUNK[2], :2]
        azimuth = np.arctan2(left[:, 0] * away[:, 1] - left[:, 1] * away[:, 0], (left[:, :2] * away).sum(1))
        depth = camera.to_camera(torch.from_numpy(X))[0, ..., 2].numpy()
        size = camera.focal[0, 0].item() * length[:, None] / depth
        turn = azimuth[:, None] + 0.4 * (np.arange(len(NAMES)) % 3)
        pixels[c, ..., 0] += torch.from_numpy(0.06 * np.cos(2 * turn) * size)  # cos(turn) would be another point in space
        pixels[c, ..., 1] += torch.from_numpy(0.05 * np.sin(turn) * size)
    return replace(scene.views, pixels=pixels, sigma=torch.full_like(scene.views.sigma, 4.0)), cameras


@pytest.fixture(scope="module")
def habit() -> SideBias:
    """What can be learned from two other people's footage with the cameras known."""
    side, error = [], []
    for seed in (5, 6):
        views, cameras = misplaced(seed)
        s, e = errors(views, cameras, TRUNK)
        side.append(s)
        error.append(e)
    seen_from = torch.cat([s.flatten(0, 1) for s in side])
    rows = [learned(seen_from, torch.cat([e[:, :, k].flatten(0, 1) for e in error])) for k in range(len(NAMES))]
    return SideBias(TRUNK, torch.stack(rows))


def worst_centre(found, truth) -> float:
    """m, after the similarity that fits best."""
    a, b = (x.position.numpy() - x.position.numpy().mean(0) for x in (found, truth))
    R = Rotation.align_vectors(b, a)[0].as_matrix()
    scale = ((a @ R.T) * b).sum() / (a**2).sum()
    return float(np.linalg.norm(scale * a @ R.T - b, axis=1).max())


def test_a_learned_habit_is_taken_out_of_the_rig_and_its_opposite_does_harm(habit):
    views, cameras = misplaced(0, 40)
    bent, straight, worse = (
        worst_centre(calibrate_people(replace(views, habit=h), cameras).cameras, cameras)
        for h in (None, habit, replace(habit, table=-habit.table))
    )
    assert bent > 0.012, "the footage has something to put right"
    assert straight < 0.4 * bent and worse > 1.5 * bent


def test_the_right_landmark_is_the_mirror_image_of_the_left():
    names = ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "left_knee", "right_knee")
    habit = habit_of(names, "mediapipe")
    assert habit is not None and one_sided("right_knee") == "left_knee" and one_sided("nose") == "nose"
    side = torch.nn.functional.normalize(torch.tensor([[0.6, 0.7, 0.2], [-0.3, -0.8, 0.1]], dtype=torch.float64), dim=-1)
    left = basis(side) @ habit.table[4]
    right = basis(side * torch.tensor([-1.0, 1, 1])) @ habit.table[5]
    assert torch.allclose(left * torch.tensor([-1.0, 1]), right, atol=1e-12)
    assert habit_of(names, "a network that nobody learned") is None and habit_of(names[:3], "mediapipe") is None

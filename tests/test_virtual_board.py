"""The rendered board against OpenCV's detector, which knows nothing of the renderer."""

import cv2
import numpy as np

from studio.virtual.board import board_motion, board_texture, charuco, lay_board
from studio.virtual.capture import VirtualCapture
from studio.virtual.scene import View, developed


def test_the_detector_finds_the_corners_where_the_truth_projects_them():
    config = VirtualCapture(cameras=2, frames=40, seed=4)
    truth, cameras, texture = board_motion(config), config.camera_ring(), board_texture()
    view = View(cameras["cam01"], config.room())
    to_camera = cameras.position[0] - truth.position
    facing = -(truth.R_world_board[:, :, 2] * to_camera).sum(-1) / to_camera.norm(dim=-1)
    expected = cameras["cam01"].project(truth.corners_world())[0].numpy()
    detector, found, errors = cv2.aruco.CharucoDetector(charuco()), 0, []
    frames = np.nonzero(facing.numpy() > 0.75)[0][::3]
    assert len(frames) >= 2
    for t in frames:
        light = view.empty.copy()
        lay_board(light, view, texture, truth.R_world_board[t].numpy(), truth.position[t].numpy())
        gray = cv2.cvtColor(developed(light, config.noise, (4, 0, int(t))), cv2.COLOR_RGB2GRAY)
        corners, ids, _, _ = detector.detectBoard(gray)
        found += 0 if ids is None else len(ids)
        if ids is not None:
            errors.append(corners.reshape(-1, 2) - expected[t][ids.ravel()])
    error = np.concatenate(errors)
    assert found >= 0.8 * 24 * len(frames)
    assert np.sqrt((error**2).sum(1).mean()) < 0.25
    assert np.abs(error.mean(0)).max() < 0.08, "no half-pixel slip"

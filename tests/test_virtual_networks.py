"""Networks trained on photographs take the rendered people for people, and see them where the truth says."""

import dataclasses

import numpy as np
import pytest
import torch

from calibration.cameras import upright_view
from studio.virtual.capture import VirtualCapture, performances
from studio.virtual.looks import dressed
from studio.virtual.scene import Crowd, Figure, View, developed
from studio.virtual.truth import posed_at

BODY = {
    "left_shoulder": 11,
    "right_shoulder": 12,
    "left_elbow": 13,
    "right_elbow": 14,
    "left_hip": 23,
    "right_hip": 24,
    "left_knee": 25,
    "right_knee": 26,
}
FACE = {"face-36": 33, "face-45": 263, "face-48": 61, "face-54": 291, "face-30": 1}


@pytest.fixture(scope="module")
def picture():
    config = VirtualCapture(seed=1, frames=2, motion="look_around")
    act = performances(config)[0]
    posed = posed_at(act, slice(0, 1))
    figure = Figure.of(act.body, dressed(act.body, 1000, 1024))
    camera, hips = config.camera_ring()["cam01"], posed.joints[0, 0].double()
    ahead = (posed.R_world_joint[0, 0] @ torch.tensor([0.3, -1.0, 0.0])).double()
    position = torch.tensor([hips[0], hips[1], 1.5]) + 3.2 * torch.tensor([ahead[0], ahead[1], 0.0]) / ahead.norm()
    camera = dataclasses.replace(camera, position=position[None], R_camera_world=upright_view(hips - position)[None])
    view = View(camera, config.room())
    image = developed(view.radiance(Crowd.posed((figure,), [posed.vertices()[0].numpy()])), config.noise, (1,))
    names = [n for n in (*BODY, *FACE) if n in act.body.keypoint_names]
    pixels = camera.project(posed.points(act.body.keypoint_skin(names))[0].double())[0].numpy()
    return image, dict(zip(names, pixels))


def test_mediapipe_sees_body_and_face_where_they_are(picture):
    holistic = pytest.importorskip("mediapipe").solutions.holistic
    image, truth = picture
    with holistic.Holistic(static_image_mode=True, model_complexity=1) as network:
        found = network.process(image)
    size = np.array(image.shape[1::-1])
    assert found.pose_landmarks and found.face_landmarks
    for landmarks, places, limit in ((found.pose_landmarks, BODY, 25), (found.face_landmarks, FACE, 6)):
        for name, index in places.items():
            if name in truth:
                at = np.array([landmarks.landmark[index].x, landmarks.landmark[index].y]) * size - 0.5
                assert np.linalg.norm(at - truth[name]) < limit, name


def test_mediapipe_sees_nobody_in_the_empty_room():
    holistic = pytest.importorskip("mediapipe").solutions.holistic
    config = VirtualCapture(seed=1)
    view = View(config.camera_ring()["cam01"], config.room())
    with holistic.Holistic(static_image_mode=True, model_complexity=1) as network:
        assert network.process(developed(view.empty, config.noise, (1,))).pose_landmarks is None

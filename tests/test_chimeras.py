"""Detections that join the left of one person to the right of another."""

import numpy as np
import pytest
import torch
from crowd_scene import crowd
from test_track import NAMES

from studio.casting import Cast
from studio.chimeras import chimeras

RIGHT = [k for k, n in enumerate(NAMES) if n.startswith("right_")]


def known(scene):
    """Who is who, and where, from the truth."""
    return Cast(torch.from_numpy(scene.slot), torch.from_numpy(scene.truth.mean(2).swapaxes(0, 1)).float())


def joined(scene, camera=1):
    """In a third of the frames one view has the right side of the second person on the first; in which of them, (T,)."""
    mixed = np.zeros(scene.keypoints.frames, bool)
    for t in range(30, 60):
        a, b = scene.slot[camera, t]
        if a >= 0 and b >= 0:
            scene.keypoints.pixels[camera, t, a, RIGHT] = scene.keypoints.pixels[camera, t, b, RIGHT]
            mixed[t] = True
    return mixed


@pytest.mark.parametrize("kind", ["hug", "cross"])
def test_nobody_is_taken_for_two_where_people_are_seen_as_they_are(kind):
    scene = crowd(2, 4, kind)
    mixed = chimeras(scene.cameras, scene.keypoints, known(scene), 40)
    assert mixed.sum() < 0.01 * (scene.slot >= 0).sum()  # single points are wild


def test_a_detection_of_two_halves_is_nobodys():
    scene = crowd(2, 4, "apart", missing=0.0)
    right = joined(scene)
    found = chimeras(scene.cameras, scene.keypoints, known(scene), 40)
    assert right.sum() > 10 and found[1, right, 0].float().mean() > 0.8
    assert found[1, ~right, 0].float().mean() < 0.02 and found[:, :, 1].float().mean() < 0.02 and found[[0, 2, 3]].float().mean() < 0.02

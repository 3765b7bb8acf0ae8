"""Views in which an actor was missed, found once it is known where everybody was before and after."""

import numpy as np
import pytest
import torch
from crowd_scene import crowd

from studio.casting import Cast
from studio.identity import Scene
from studio.people import IdentityConfig
from studio.second_look import completed


def looked_again(scene, detection, block=40):
    keypoints, config = scene.keypoints, IdentityConfig()
    eyes = Scene(scene.cameras, keypoints, config)
    cast = Cast(torch.from_numpy(detection), torch.from_numpy(scene.truth.mean(2).swapaxes(0, 1)).float())
    sight = lambda part: eyes.sight(keypoints.cut(part))[0]  # noqa: E731
    return completed(cast, sight, eyes.position, keypoints.fps, config, block).detection.numpy()


def missed(scene, share, seed=3):
    """The truth of who is where without a part of it, and without a stretch in which one view alone kept the first person."""
    detection = np.where(np.random.default_rng(seed).random(scene.slot.shape) < share, -1, scene.slot)
    detection[1:, 40:50, 0] = -1
    return detection


@pytest.mark.parametrize("kind", ["apart", "cross", "hug"])
def test_most_missed_views_are_found_and_none_is_given_to_another(kind):
    scene = crowd(2, 4, kind, missing=0.0)
    before = missed(scene, 0.2)
    after = looked_again(scene, before)
    lost = (before < 0) & (scene.slot >= 0)
    assert (after[lost] == scene.slot[lost]).mean() > 0.85 and lost.sum() > 100
    added = (before < 0) & (after >= 0)
    assert (after[added] == scene.slot[added]).mean() > 0.99
    assert (after[before >= 0] == before[before >= 0]).all()


def test_somebody_else_who_is_free_is_not_taken():
    scene = crowd(3, 4, "apart", missing=0.0)
    known = scene.slot.copy()
    known[2, :, 0] = -1  # one view shows the first person to nobody who asks: the slot holds the third one
    for t in range(known.shape[1]):
        if scene.slot[2, t, 0] >= 0:
            scene.keypoints.pixels[2, t, scene.slot[2, t, 0]] = torch.nan
    after = looked_again(scene, np.where(np.arange(3) == 2, -1, known))
    assert (after[2, :, 0] == -1).mean() > 0.98 and (after[:, :, 2] == -1).all()


def test_blocks_change_nothing():
    scene = crowd(2, 4, "cross")
    before = missed(scene, 0.2)
    assert (looked_again(scene, before, 17) == looked_again(scene, before, 1000)).all()


def test_where_nobody_knows_a_place_nothing_is_found():
    scene = crowd(1, 4)
    before = np.full_like(scene.slot, -1)
    before[0] = scene.slot[0]  # one view tells no place
    assert (looked_again(scene, before) == before).all()

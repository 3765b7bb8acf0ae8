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


def test_what_might_be_either_of_two_is_nobodys():
    scene = crowd(2, 4, "apart", missing=0.0, noise=0.5)
    ways = scene.truth - scene.truth.mean(2, keepdims=True)
    near = scene.truth[:1].mean(2, keepdims=True) + np.stack([ways[0], ways[0] + [0.03, 0, 0]])  # the second one 3 cm beside the first
    pixels = scene.cameras.project(torch.from_numpy(near.reshape(-1, 3))).view(4, *near.shape[:3], 2).transpose(1, 2).numpy()
    for c, t, p in np.ndindex(scene.slot.shape):
        if scene.slot[c, t, p] >= 0:
            scene.keypoints.pixels[c, t, scene.slot[c, t, p]] = torch.from_numpy(pixels[c, t, p]).float()
    before = scene.slot.copy()
    before[3] = -1
    middle = pixels[3].mean(1)
    for t in range(before.shape[1]):  # what the fourth view shows lies between them
        scene.keypoints.pixels[3, t] = torch.nan
        scene.keypoints.pixels[3, t, 0] = torch.from_numpy(middle[t]).float()
    assert (looked_again(scene, before)[3] == -1).mean() > 0.9


def test_who_is_seen_by_one_view_alone_is_found_a_little_further_off():
    scene = crowd(1, 4, "apart", missing=0.0, noise=0.5, wild=0.0)
    before = scene.slot.copy()
    before[1:, 40:43] = -1  # his place there is between those before and after
    moved = scene.keypoints.pixels[1, 40:43]
    far = scene.cameras.to_camera(torch.from_numpy(scene.truth[0].mean(1)))[1, 40:43, 2]
    for off, found in ((0.065, True), (0.12, False)):
        px = (off * scene.cameras.focal[1, 0] / far).float()[:, None, None, None]
        scene.keypoints.pixels[1, 40:43] = moved + px * torch.tensor([0.0, 1.0])
        after = looked_again(scene, before)[1, 40:43, 0]
        assert ((after >= 0) == found).all()
        two = before.copy()
        two[2, 40:43] = scene.slot[2, 40:43]
        two[3, 40:43] = scene.slot[3, 40:43]
        assert (looked_again(scene, two)[1, 40:43, 0] == -1).all()


def test_blocks_change_nothing():
    scene = crowd(2, 4, "cross")
    before = missed(scene, 0.2)
    assert (looked_again(scene, before, 17) == looked_again(scene, before, 1000)).all()


def test_where_nobody_knows_a_place_nothing_is_found():
    scene = crowd(1, 4)
    before = np.full_like(scene.slot, -1)
    before[0] = scene.slot[0]  # one view tells no place
    assert (looked_again(scene, before) == before).all()

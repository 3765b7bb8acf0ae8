"""Masks by a clip of the empty stage: shadows, exposure, people who walk through the clip."""

import cv2
import numpy as np
import pytest
from test_detect import CONFIG, Stub, take  # noqa: F401  (`take` is a fixture)

from studio.detect import detect
from studio.detect.clean_plate import Plate
from studio.video import VideoWriter, frames

H, W = 180, 320
MASK = (90, 160)


def stage(seed=0):
    """A wall of soft patches and a darker floor."""
    random = np.random.default_rng(seed)
    patches = cv2.resize(random.uniform(90, 170, (9, 16, 3)), (W, H), interpolation=cv2.INTER_CUBIC)
    patches[120:] *= 0.7
    return patches


def clip(path, pictures, seed=1):
    random = np.random.default_rng(seed)
    with VideoWriter(path, W, H, 30, crf=8) as writer:
        for picture in pictures:
            writer.write((picture + 1.5 * random.normal(size=picture.shape)).clip(0, 255).astype(np.uint8))
    return path


def performer(picture, x=150):
    """The picture with a person in it, and where he is."""
    where = np.zeros((H, W), np.uint8)
    cv2.ellipse(where, (x, 45), (12, 15), 0, 0, 360, 1, -1)
    cv2.rectangle(where, (x - 20, 62), (x + 20, 115), 1, -1)
    cv2.rectangle(where, (x - 18, 115), (x - 5, 165), 1, -1)
    cv2.rectangle(where, (x + 5, 115), (x + 18, 165), 1, -1)
    out = picture.copy()
    out[where > 0] = (40, 70, 160)
    return out, where


def guess(where, shift=4):
    """A network's mask: off by some pixels, and coarse."""
    moved = np.roll(cv2.dilate(where, np.ones((3, 3), np.uint8)), shift, 1)
    return cv2.resize(moved, MASK[::-1], interpolation=cv2.INTER_AREA)


def overlap(found, where):
    right = cv2.resize(where * 255, MASK[::-1], interpolation=cv2.INTER_AREA) > 127
    return (right & (found > 0)).sum() / (right | (found > 0)).sum()


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    return Plate.learned(clip(tmp_path_factory.mktemp("plate") / "a.mp4", [stage()] * 40), MASK)


def test_outlines_follow_what_stands_out_from_the_stage(plate):
    image, where = performer(stage())
    labels = guess(where)
    assert overlap(labels, where) < 0.8
    assert overlap(plate.refined(labels, image.astype(np.uint8)), where) > 0.87


@pytest.mark.parametrize("exposure", [(0.75, 0.75, 0.75), (1.25, 1.2, 1.1)])
def test_neither_a_shadow_nor_another_exposure_is_anybody(plate, exposure):
    lit = stage()
    lit[135:175, 90:240] *= 0.65  # over the feet and beside them
    image, where = performer(lit)
    found = plate.refined(guess(where), (image * exposure).clip(0, 255).astype(np.uint8))
    assert overlap(found, where) > 0.87


def test_what_was_moved_on_the_stage_is_nobody(plate):
    image, where = performer(stage())
    image[100:170, 230:300] = (200, 40, 40)  # a chair brought in
    found = plate.refined(guess(where), image.astype(np.uint8))
    assert not found[:, 105:].any() and overlap(found, where) > 0.87
    assert not plate.refined(np.zeros(MASK, np.uint8), image.astype(np.uint8)).any()


def test_clothes_in_the_colours_of_the_wall_are_not_cut_away(plate):
    _, where = performer(stage())
    labels = guess(where, 0)
    assert (plate.refined(labels, stage().astype(np.uint8)) > 0).sum() > 0.6 * (labels > 0).sum()


def test_two_people_keep_their_names_where_they_touch(plate):
    first, left = performer(stage(), 130)
    image, right = performer(first, 170)
    labels = np.where(guess(right, 2) > 0, 2, guess(left, 2)).astype(np.uint8)
    found = plate.refined(labels, image.astype(np.uint8))
    assert overlap(found == 2, right) > 0.85 and set(np.unique(found)) == {0, 1, 2}
    assert overlap(found, np.maximum(left, right)) > 0.9


def test_somebody_who_walks_through_the_clip_leaves_no_trace(plate, tmp_path):
    walked = clip(tmp_path / "b.mp4", [performer(stage(), 20 + 6 * t)[0] for t in range(45)])
    assert np.abs(Plate.learned(walked, MASK).mean - plate.mean).max() < 12


def test_a_clip_of_a_frame_or_two_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"b\.mp4: holds 2 frames; film the empty stage"):
        Plate.learned(clip(tmp_path / "b.mp4", [stage()] * 2), MASK)


def test_the_stage_uses_a_clip_where_there_is_one_and_sees_again_when_it_comes(take):  # noqa: F811
    def labels():
        return np.stack([image for _, image in frames(take.folder / "masks" / "a.mkv", gray=True)])

    detect(take, CONFIG)
    before, calls = labels(), Stub.calls
    (take.folder / "background").mkdir()
    with VideoWriter(take.folder / "background" / "a.mp4", 64, 48, 30) as writer:
        for _ in range(5):
            writer.write(np.full((48, 64, 3), 120, np.uint8))
    detect(take, CONFIG)
    assert calls < Stub.calls < 2 * calls  # camera a alone
    assert labels().shape == before.shape and (labels() != before).any()


def test_a_clip_of_another_shape_is_refused_before_anything_starts(take):  # noqa: F811
    (take.folder / "background").mkdir(parents=True)
    with VideoWriter(take.folder / "background" / "b.mp4", 48, 64, 30) as writer:
        writer.write(np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b\.mp4: its pictures are 48x64"):
        detect(take, CONFIG)
    assert Stub.calls == 0

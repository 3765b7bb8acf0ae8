"""People who touch in a picture, seen by a network that takes all that it sees in a crop for one person."""

import numpy as np
import pytest

from studio.detect.mediapipe import Mediapipe, Person
from studio.detect.neighbours import of_others, without
from studio.detect.networks import Networks, PoseSight
from studio.detect.regions import Region, around_body, crop, halvings, to_crop, to_image

SIDE, WALL = 128, 90.0


class Greedy:
    """In place of the pose network: whatever stands out from the wall is its one person."""

    side = SIDE

    def batch(self, images):
        shown = [np.abs(image[..., 0] - WALL) > 40 for image in images]
        boxes = [[(v.min() + 0.5, v.max() + 0.5) for v in np.nonzero(s)[::-1]] if s.any() else [(0.0, 1.0)] * 2 for s in shown]
        landmarks = np.full((len(images), 39, 5), 9.0)
        share = np.linspace(0, 1, 33)
        for points, ((left, right), (top, bottom)) in zip(landmarks, boxes, strict=True):
            points[:33, 0], points[:33, 1] = left + (right - left) * (np.arange(33) % 2), top + (bottom - top) * share
            points[33, :2], points[34, :2] = ((left + right) / 2, (top + bottom) / 2), ((left + right) / 2, top)
        presence = np.array([[float(s.mean() > 0.01)] for s in shown])
        masks = np.stack([np.where(s, 9.0, -9.0) for s in shown])[..., None].astype(np.float32)
        return [landmarks.reshape(len(images), -1), presence, masks, np.full((len(images), 8, 8, 39), -9.0), np.zeros((len(images), 117))]


def picture(*people):
    """Columns 24 px wide and 90 high, each with its middle at these pixels."""
    image = np.full((200, 320, 3), WALL, np.uint8)
    for x in people:
        image[50:140, x - 12 : x + 12] = 220
    return image


@pytest.fixture
def view():
    """A detector that follows people about x = 110 and x = 170."""
    view = Mediapipe(people=3)
    view._networks = Networks(runtime=object())
    view._networks.__dict__["pose_network"] = Greedy()
    for slot, x in enumerate((110, 170)):
        first = halvings(picture(x))
        view._persons[slot] = Person(view._networks.pose(first, around_body(np.array([x - 0.5, 94.5]), np.array([x - 0.5, 49.5]))))
    return view


def middles(view):
    return {slot: float(person.body.anchors[0][0]) for slot, person in view._persons.items()}


def test_two_who_come_to_touch_stay_two(view):
    for a, b in zip(range(110, 127), range(170, 153, -1), strict=True):  # at last they are side by side
        view._follow(halvings(picture(a, b)))
        assert middles(view) == pytest.approx({0: a, 1: b}, abs=3)


def test_without_the_paint_the_two_become_one(view, monkeypatch):
    monkeypatch.setattr("studio.detect.networks.of_others", lambda *a: None)
    for a, b in zip(range(110, 127), range(170, 153, -1), strict=True):
        view._follow(halvings(picture(a, b)))
    assert len(view._persons) == 1


def test_who_vanishes_behind_another_is_not_found_in_him(view):
    for b in range(170, 133, -1):
        view._follow(halvings(picture(110, b)))
    view._follow(halvings(picture(110)))
    assert middles(view) == pytest.approx({0: 110}, abs=3)


def test_nobody_near_changes_no_pixel_of_a_crop(view):
    mask = np.ones((64, 64), np.float32)
    own, far = Region(100, 90, 120, 0.0), Region(400, 90, 120, 0.2)
    assert of_others(own, [], (mask, own), SIDE) is None
    assert of_others(own, [(mask, far)], (mask, own), SIDE) is None
    shown = crop(halvings(picture(100)), own, SIDE)
    assert without(shown, None) is shown


def test_a_neighbour_is_painted_over_wherever_his_crop_was_and_oneself_is_not():
    image = picture(100, 130)
    own, other = Region(99.5, 94.5, 140, 0.0), Region(135, 90, 170, 0.5)
    masks = [(crop(halvings(picture(x)), region, 256)[..., 0] > 150).astype(np.float32) for x, region in ((100, own), (130, other))]
    covered = of_others(own, [(masks[1], other)], (masks[0], own), SIDE)
    shown = without(crop(halvings(image), own, SIDE), covered)
    alone = crop(halvings(picture(100)), own, SIDE)
    assert np.abs(shown - alone).mean() < 1.5 < 10 < np.abs(crop(halvings(image), own, SIDE) - alone).mean()
    assert np.array_equal(shown[alone > 200], alone[alone > 200])


def test_what_moved_beyond_the_mask_of_the_frame_before_is_not_taken_for_the_neighbours():
    region, points, step = Region(100.0, 100.0, 200.0, 0.3), np.full((33, 2), 100.0), np.array([5.0, 2.0])
    points[[13, 15, 19]] = (100, 120), (120, 120), (130, 120)  # an arm that points at the neighbour
    mask = np.zeros((SIDE, SIDE), np.float32)
    sure, hips = np.full(33, 0.9), np.full((2, 2), 100.0)
    person = Person(PoseSight(region, 1.0, points, sure, np.zeros((33, 3)), hips, mask))
    reach = np.zeros((33, 2))
    reach[[15, 19]] = (8, 0)
    person.seen(PoseSight(region, 1.0, points + step + reach, sure, np.zeros((33, 3)), hips + step, mask))
    theirs = np.ones((SIDE, SIDE), np.float32)
    there = region._replace(x=region.x + step[0], y=region.y + step[1])
    covered = of_others(there, [(theirs, there)], person.expected(), SIDE)
    assert covered is not None
    where = to_crop(np.array([[130 + 2 * 8, 120]]) + 2 * step, there, SIDE).round().astype(int)[0]  # beyond where it was
    assert not covered.covered[where[1], where[0]] and covered.covered.mean() > 0.9
    sure[:] = 0.1  # an arm that nobody saw is nowhere
    assert of_others(there, [(theirs, there)], person.expected(), SIDE).covered.all()


def test_a_hand_is_looked_for_where_its_wrist_and_knuckles_have_moved():
    def body(points):
        return PoseSight(Region(100.0, 100.0, 200.0, 0.0), 1.0, points, np.ones(33), np.zeros((33, 3)), points[23:25], None)

    points = np.random.default_rng(1).uniform(50, 150, (33, 2))
    person = Person(body(points), {"left": Region(60.0, 70.0, 30.0, 0.2), "right": Region(120.0, 90.0, 30.0, 0.0)})
    moved = points.copy()
    moved[[15, 17, 19]] += (30.0, -12.0)  # the left one; the right arm and the rest stay
    person.seen(body(moved))
    assert person.hands["left"] == pytest.approx((90.0, 58.0, 30.0, 0.2))
    assert person.hands["right"] == pytest.approx((120.0, 90.0, 30.0, 0.0))


def test_crop_and_image_are_there_and_back():
    region, points = Region(70.0, 90.0, 150.0, 0.4), np.random.default_rng(0).uniform(0, 200, (5, 2))
    assert np.allclose(to_image(to_crop(points, region, SIDE), region, SIDE), points)

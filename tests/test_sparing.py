"""Frames that are not looked at: which, and what is put there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigs.keypoints import COCO_WHOLEBODY
from studio.detect.chunks import filled
from studio.detect.landmarks import Sight
from studio.detect.moved_masks import moved_mask
from studio.detect.sparing import AWAKE, CHECKED, Between, Look, Sparing, bends, off_line, step_of, touching
from studio.values import Keypoints2D
from studio.video import BrokenVideo

K = len(COCO_WHOLEBODY)
STAND = np.random.default_rng(0).uniform(0, 100, (K, 2)) * (1, 4) + (200, 50)
IMAGE = np.zeros((4, 4, 3), np.uint8)


def sight(shift=(0.0, 0.0), sigma=2.0, seen=None, arm=(0.0, 0.0)):
    pixels = STAND + shift
    pixels[[7, 9]] += arm
    confidence = np.full(K, 0.9)
    if seen is not None:
        confidence[~seen] = 0
        pixels[~seen] = np.nan
    return Sight(pixels, np.full(K, sigma), confidence, np.zeros((K, 3)), None)


class Scripted:
    """Sees what a function of the frame's number says (the image holds it), and remembers in which order it was asked."""

    def __init__(self, people):
        self.people, self.knows, self.asked = people, (), []

    def see(self, image, passed=1):
        number = int(image[0, 0, 0])
        self.asked.append(number)
        assert not self.knows or number > self.knows[-1], "put back to before what it is shown now"
        self.knows = (*self.knows, number)
        return self.people(number)

    def remembered(self):
        kept = self.knows

        def back():
            self.knows = kept

        return back


def images(first, last):
    for number in range(first, last):
        yield number, np.full((4, 4, 3), number, np.uint8)


def through(people, first=0, last=24, fps=30.0, **settings):
    detector = Scripted(people)
    return detector, list(Sparing(detector, fps, **settings).see(images(first, last)))


def looked(frames):
    return [f.number for f in frames if isinstance(f, Look)]


@pytest.mark.parametrize(("fps", "step"), [(15.0, 1), (23.976, 1), (24.0, 2), (29.97, 2), (50.0, 4), (60.0, 4), (120.0, 8)])
def test_looks_come_often_enough_at_every_rate(fps, step):
    assert step_of(fps) == step


@pytest.mark.parametrize("phase", [0, 1])
def test_even_motion_is_looked_at_in_every_second_frame_by_turns(phase):
    detector, frames = through(lambda t: {0: sight((3.0 * t, t))}, phase=phase)
    assert [f.number for f in frames] == list(range(24))
    steady = [n for n in looked(frames) if 4 <= n < 22]
    assert steady == [n for n in range(4, 22) if (n + phase) % 2 == 0]
    assert len(detector.asked) < 16
    between = next(f for f in frames if isinstance(f, Between))
    assert between.before.number == between.number - 1 and between.after.number == between.number + 1 and between.part == 0.5


def test_high_rates_save_more_and_the_last_frame_is_always_seen():
    _, frames = through(lambda t: {0: sight((t, 0.0))}, last=50, fps=120.0)
    assert len(looked(frames)) <= 12 and looked(frames)[-1] == 49
    _, frames = through(lambda t: {0: sight((t, 0.0))}, last=50, fps=120.0, begin=17)
    assert set(range(18)) <= set(looked(frames)) and not {19, 20, 21} & set(looked(frames)), (
        "every frame of the warming up, and the piece's first"
    )


def test_a_path_that_bends_is_looked_at_where_it_does():
    """One arm, one stroke of three frames: in a mean over the body it would drown."""
    stroke = {12: 40.0, 13: 80.0, 14: 40.0}
    detector, frames = through(lambda t: {0: sight(arm=(0.0, stroke.get(t, 0.0)))})
    assert {11, 12, 13, 14, 15} <= set(looked(frames))
    assert not {3, 5, 7, 21} & set(looked(frames))
    assert detector.knows[-1] == 23, "it goes on from its latest look, not from the one it made in passing"


def test_at_high_rates_only_the_part_that_bends_is_looked_at_closely():
    _, frames = through(lambda t: {0: sight((40.0 * np.sin(t / 2.0) * (t > 24), 0.0))}, last=48, fps=120.0)
    close, far = ([n for n in looked(frames) if a <= n < b] for a, b in ((25, 41), (9, 17)))
    assert len(close) > 2 * len(far)


def test_who_comes_or_goes_is_seen_at_once_and_watched_for_a_while():
    _, frames = through(lambda t: {0: sight()} | ({1: sight((300.0, 0.0))} if t >= 11 else {}))
    assert all(set(f.sights) == ({0, 1} if f.number >= 11 else {0}) for f in frames if isinstance(f, Look))
    assert {11, 12, 13, 14, 15, 16} <= set(looked(frames))
    legs = np.ones(K, bool)
    legs[[11, 13, 15, 17, 18, 19]] = False
    _, frames = through(lambda t: {0: sight(seen=legs if t >= 11 else None)})
    assert {11, 12, 13} <= set(looked(frames))


def test_people_who_touch_are_looked_at_in_every_frame():
    _, frames = through(lambda t: {0: sight(), 1: sight((60.0, 0.0))})
    assert looked(frames) == list(range(24))
    assert touching([sight(), sight((60.0, 0.0))]) and not touching([sight(), sight((300.0, 0.0))]) and not touching([sight()])


def test_an_empty_stage_needs_few_looks():
    _, frames = through(lambda t: {})
    assert len(looked(frames)) < 18


def test_a_broken_video_loses_no_frame_before_the_break():
    def broken():
        yield from images(0, 10)
        raise BrokenVideo("film.mp4: frame 10", 10)

    frames = []
    with pytest.raises(BrokenVideo, match="frame 10"):
        for frame in Sparing(Scripted(lambda t: {0: sight((t, 0.0))}), 30.0).see(broken()):
            frames.append(frame)
    assert [f.number for f in frames] == list(range(10))


def test_how_far_a_path_is_off_the_line_is_counted_in_what_the_detector_is_unsure_of():
    """Steps of 2 frames, the second 8 px longer: in its middle a parabola is 1 px off the line."""
    places = [np.array([[x, 0.0]]) for x in (0.0, 10.0, 28.0)]
    assert off_line(*places, (0, 2, 4)) == pytest.approx(1.0)
    assert off_line(*places, (0, 1, 3)) == pytest.approx(0.5 / 3 * (18 / 2 - 10) ** 2 * 2), "uneven steps: slopes 10 and 9 over 3 frames"
    for sigma, bent in ((2.0, False), (1.0, True)):
        looks = [Look(n, IMAGE, {0: sight((x, 0.0), sigma=sigma)}) for n, x in ((0, 0.0), (2, 10.0), (4, 28.0))]
        assert bends(*looks, float) == bent


def test_one_finger_and_one_lid_count_by_themselves():
    """A fingertip by 40 px, then lids by 6: means over the hand, or the face, would not show them."""

    def moved(which, by):
        def person(t):
            shown = sight()
            shown.pixels[which] += (0.0, by if t == 13 else by / 2 if t in (12, 14) else 0.0)
            return {0: shown}

        return person

    for which, by in ((99, 40.0), ([60, 61], 6.0)):
        _, frames = through(moved(which, by))
        assert {12, 13, 14} & set(looked(frames)) == {12, 13, 14}, which


def test_a_path_that_begins_to_bend_is_never_far_from_what_is_put_there():
    """An arm at rest is off at full speed from one frame to the next: the line is wrong by half a frame's way, four times a parabola."""
    start = lambda t: np.array([4.0 * max(t - 11, 0), 0.0])  # noqa: E731
    _, frames = through(lambda t: {0: sight(arm=start(t))})
    for f in frames:
        if isinstance(f, Between):
            line = (1 - f.part) * f.before.sights[0].pixels + f.part * f.after.sights[0].pixels
            assert np.abs(line[9] - STAND[9] - start(f.number)).max() < 4 * 0.6 * 2.0


@pytest.mark.parametrize(("fps", "hertz"), [(30.0, 7.5), (30.0, 15.0), (60.0, 7.5)])
def test_what_swings_in_time_with_the_looks_is_found_out(fps, hertz):
    """Every look finds the hand in the same place; a frame that is looked at without need tells."""
    swing = lambda t: (0.0, 40 * np.cos(2 * np.pi * hertz * t / fps))  # noqa: E731
    _, frames = through(lambda t: {0: sight(arm=swing(t))}, last=round(3 * fps), fps=fps)
    late = [f.number for f in frames if isinstance(f, Between) and f.number > (2 * CHECKED + AWAKE) * fps]
    assert len(late) < 0.08 * 3 * fps


def test_who_is_there_in_passing_is_followed():
    """Person 1 is seen at first in a frame between two looks: from there on the detector knows him."""

    class Follows(Scripted):
        def see(self, image, passed=1):
            found = super().see(image)
            return found if 13 in self.knows else {0: found[0]}

    jump = {13: 60.0, 14: 60.0, 15: 60.0}
    detector = Follows(lambda t: {0: sight(arm=(0.0, jump.get(t, 0.0))), 1: sight((300.0, 0.0))})
    frames = list(Sparing(detector, 30.0).see(images(0, 24)))
    assert all((1 in f.sights) == (f.number >= 13) for f in frames if isinstance(f, Look))
    assert {13, 14, 15, 16} <= set(looked(frames))


def test_frames_that_are_missing_are_no_frames_between():
    frames = list(Sparing(Scripted(lambda t: {0: sight((t, 0.0))}), 120.0).see(f for f in images(0, 60) if not 21 <= f[0] < 30))
    assert [f.number for f in frames] == [*range(21), *range(30, 60)] and {20, 30} <= set(looked(frames))
    assert not any(f.before.number < 21 <= f.after.number for f in frames if isinstance(f, Between))


def test_the_detector_is_told_how_many_frames_have_passed():
    told = []

    class Counts(Scripted):
        def see(self, image, passed=1):
            assert not self.knows or int(image[0, 0, 0]) == self.knows[-1] + passed
            told.append(passed)
            return super().see(image)

    list(Sparing(Counts(lambda t: {0: sight((t + (t > 20) * 5.0 * t, 0.0))}), 60.0).see(images(0, 40)))
    assert {1, 2, 4} <= set(told)


def keypoints(paths):
    """One camera's keypoints of one person at paths (T, 2)."""
    T = len(paths)
    pixels = (torch.from_numpy(STAND)[None] + torch.as_tensor(paths)[:, None]).float()[None, :, None]
    flat, look = torch.full((1, T, 1, K), 0.9), torch.full((1, T, 1, 24), 1 / 24)
    return Keypoints2D(("a",), COCO_WHOLEBODY, "exact", 30.0, 0, pixels, 2 * flat, flat, torch.zeros(1, T, 1, K, 3), look)


def test_what_lies_between_is_on_the_path_and_marked():
    t = torch.arange(13.0)
    whole = keypoints(torch.stack([20 * (t / 4).sin(), 3 * t], -1))
    looks = t.long() % 2 == 0
    gaps = replace(whole, pixels=torch.where(looks[None, :, None, None, None], whole.pixels, torch.nan))
    found = filled(gaps, looks, ~looks, t.double() / 30)
    assert (found.pixels - whole.pixels)[0, 2:-2].norm(dim=-1).max() < 0.1, "a cubic, not a line (0.6 px)"
    assert torch.equal(found.pixels[:, looks], whole.pixels[:, looks]) and torch.equal(found.looked, looks[None])
    assert torch.isfinite(found.sigma).all() and (found.confidence > 0.5).all()


def test_frames_of_uneven_times_are_put_at_their_own():
    """The camera slows down to half its rate: what is a step further in number is two in time."""
    t = torch.cat([torch.arange(8.0), 8 + 2 * torch.arange(6.0)])
    whole = keypoints(torch.stack([10 * t, 0 * t], -1))
    looks = torch.arange(14) % 2 == 0
    found = filled(whole, looks, ~looks, t.double())
    assert (found.pixels - whole.pixels)[0, 1:-1].norm(dim=-1).max() < 0.01
    by_number = filled(whole, looks, ~looks, torch.arange(14.0).double())
    assert (by_number.pixels - whole.pixels)[0, 7].norm(dim=-1).max() > 1


def test_a_single_look_says_nothing_of_other_frames():
    whole = keypoints(torch.zeros(5, 2))
    looks = torch.arange(5) == 0
    gone = replace(whole, confidence=whole.confidence * looks[None, :, None, None])
    found = filled(gone, looks, torch.zeros(5, dtype=torch.bool), torch.arange(5).double())
    assert torch.equal(found.confidence, gone.confidence)


def test_nothing_is_put_where_a_neighbour_sees_nothing():
    whole = keypoints(torch.zeros(9, 2))
    looks = torch.arange(9) % 2 == 0
    for name, empty in (("pixels", torch.nan), ("sigma", torch.nan), ("confidence", 0.0)):
        getattr(whole, name)[:, 4, :, 100] = empty
    found = filled(whole, looks, ~looks, torch.arange(9).double())
    assert not found.confidence[0, 3:6, 0, 100].any() and found.confidence[0, 3:6, 0, 99].all()
    assert torch.isnan(found.pixels[0, 3:6, 0, 100]).all() and torch.isnan(found.sigma[0, 3:6, 0, 100]).all()


def test_masks_move_with_the_limbs():
    """A wide body stands, a thin arm swings by several times its width: a mean of both masks would have lost it."""

    def drawn(angle):
        shown = sight()
        pixels = np.full((K, 2), np.nan)
        pixels[[5, 6, 11, 12]] = [[180, 100], [220, 100], [180, 220], [220, 220]]
        pixels[[7, 9]] = np.array([180, 100]) + [[60 * np.cos(angle) * -1, 60 * np.sin(angle)], [-120 * np.cos(angle), 120 * np.sin(angle)]]
        y, x = np.mgrid[:80, :100] * 4 + 1.5
        mask = ((x > 170) & (x < 230) & (y > 90) & (y < 230)).astype(float)
        along = np.clip(((x - 180) * (pixels[9, 0] - 180) + (y - 100) * (pixels[9, 1] - 100)) / 120**2, 0, 1)
        arm = np.hypot(x - 180 - along * (pixels[9, 0] - 180), y - 100 - along * (pixels[9, 1] - 100)) < 8
        return replace(shown, pixels=pixels, mask=np.maximum(mask, arm))

    one, middle, two = (drawn(a) for a in (0.2, 0.45, 0.7))
    found = moved_mask(one, two, 0.5, 4)
    assert found is not None and middle.mask is not None and one.mask is not None and two.mask is not None
    iou = lambda a, b: (a & b).sum() / (a | b).sum()  # noqa: E731
    outside = np.mgrid[:80, :100][1] * 4 + 1.5 < 160
    truth = (middle.mask > 0.5) & outside
    assert iou((found > 0.5) & outside, truth) > 0.6 > 0.3 > iou((one.mask + two.mask > 1) & outside, truth)
    assert moved_mask(replace(one, mask=None), two, 0.5, 4) is None


def test_people_at_the_edge_of_the_image_keep_their_masks():
    """Somebody half out of the image moves on by 10 cells: nothing is cut off him there."""

    def at(x):
        pixels = np.full((K, 2), np.nan)
        pixels[[5, 6, 11, 12]] = [[x - 40, 60], [x + 40, 60], [x - 40, 160], [x + 40, 160]]
        columns = np.mgrid[:60, :80][1] * 4 + 1.5
        return replace(sight(), pixels=pixels, mask=(np.abs(columns - x) < 60).astype(float))

    for one, two in ((20, 60), (60, 20)):
        found, truth = moved_mask(at(one), at(two), 0.5, 4), at(40).mask
        assert found is not None and truth is not None and ((found > 0.5) != (truth > 0.5)).mean() < 0.02
        assert (found[:, :10] > 0.5).all()

"""Where everybody is in space tells every view where to look."""

import os
from pathlib import Path

import numpy as np
import torch
from test_track import ring

from rigs.keypoints import COCO_WHOLEBODY, mirrored
from studio.guide import HANDS, Guide, K, stacked

FPS = 30.0
DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pose2sim_single"
JOINTS = {"shoulder": (0.18, 0, 1.4), "elbow": (0.24, 0, 1.12), "wrist": (0.26, 0.06, 0.88), "hip": (0.1, 0, 0.92),
          "knee": (0.11, 0.02, 0.5), "ankle": (0.12, 0, 0.08), "eye": (0.03, 0.09, 1.63), "ear": (0.07, 0, 1.6),
          "big_toe": (0.13, 0.16, 0.02), "small_toe": (0.17, 0.13, 0.02), "heel": (0.12, -0.06, 0.03)}  # fmt: skip


def walker(frames, speed=1.2, seed=0):
    """(T, 133, 3) m: somebody who walks along x and swings the arms; y is ahead of the body, left is -x of a body seen from the front."""
    rng = np.random.default_rng(seed)
    rest = np.zeros((133, 3))
    rest[K["nose"]] = (0, 0.11, 1.6)
    for name, (x, y, z) in JOINTS.items():
        rest[K[f"left_{name}"]], rest[K[f"right_{name}"]] = (x, y, z), (-x, y, z)
    rest[23:91] = rest[K["nose"]] + rng.uniform(-0.06, 0.06, (68, 3))
    spread = rng.uniform(-0.05, 0.05, (21, 3))
    for side, sign in (("left", 1), ("right", -1)):
        rest[HANDS[side]] = rest[K[f"{side}_wrist"]] + spread * (sign, 1, 1) + (0, 0.03, -0.07)
    out = np.repeat(rest[None], frames, 0)
    t = np.arange(frames) / FPS
    out[..., 0] += (speed * (t - t.mean()))[:, None]
    for side, sign in (("left", 1), ("right", -1)):
        which = [K[f"{side}_wrist"], *range(HANDS[side].start, HANDS[side].stop)]
        out[:, which, 1] += sign * 0.2 * np.sin(5 * t)[:, None]
    return out


def projected(cameras, points):
    return cameras.project(torch.from_numpy(points)).numpy()


def fed(cameras, truth, change=lambda t, pixels: pixels):
    """A guide that saw all of it but the last frame; `change` spoils each frame's pixels (C, 133, 2)."""
    guide = Guide(cameras)
    for t, points in enumerate(truth[:-1]):
        pixels = change(t, projected(cameras, points))
        guide.update(t / FPS, stacked([{0: p} for p in pixels]))
    return guide, guide.hints((len(truth) - 1) / FPS), projected(cameras, truth[-1])


def test_a_view_that_lost_somebody_is_told_where_the_others_see_him():
    cameras, truth = ring(4, 4.0), walker(30)

    def lost(t, pixels):
        return np.concatenate([pixels[:1] * (np.nan if t > 9 else 1), pixels[1:]])

    _, hints, exact = fed(cameras, truth, lost)
    (hint,) = hints[0]
    assert hint.slot is None and hints[1][0].slot == 0
    assert np.linalg.norm(hint.pixels - exact[0], axis=-1).max() < 0.02 * hint.scale  # two cm at his distance
    for side in ("left", "right"):
        assert np.isfinite(hint.hand(side)).all()


def test_what_moves_is_expected_where_it_will_be():
    cameras, truth = ring(4, 4.0), walker(30, speed=3.0)
    _, hints, exact = fed(cameras, truth)
    before = projected(cameras, truth[-2])
    for c in range(4):
        trunk = [K["left_hip"], K["right_hip"], K["left_shoulder"]]
        off, step = (np.linalg.norm(p[trunk] - exact[c][trunk], axis=-1).max() for p in (hints[c][0].pixels, before[c]))
        assert off < 0.2 * step


def test_a_view_that_exchanged_the_sides_does_not_exchange_the_person():
    cameras, truth = ring(4, 4.0), walker(30)

    def mirror(t, pixels):
        return np.stack([p[list(mirrored(COCO_WHOLEBODY))] if c == t % 4 and t > 5 else p for c, p in enumerate(pixels)])

    _, hints, exact = fed(cameras, truth, mirror)
    for c in range(4):
        assert np.linalg.norm(hints[c][0].pixels - exact[c], axis=-1).max() < 0.03 * hints[c][0].scale


def test_a_calibration_of_exchanged_cameras_gives_no_hints():
    cameras, truth = ring(4, 4.0), walker(30)
    assert all(fed(cameras, truth)[1])
    guide = Guide(cameras[[1, 0, 3, 2]])
    for t, points in enumerate(truth):
        guide.update(t / FPS, stacked([{0: p} for p in projected(cameras, points)]))
        assert not any(guide.hints((t + 1) / FPS))


def test_cameras_half_a_second_apart_give_no_hints_of_who_walks():
    cameras, truth = ring(4, 4.0), walker(45, speed=2.0)
    guide = Guide(cameras)
    for t in range(30):
        both = [projected(cameras, truth[t]), projected(cameras, truth[t + 15])]
        guide.update(t / FPS, stacked([{0: both[c % 2][c]} for c in range(4)]))
        assert not any(guide.hints((t + 1) / FPS))


def test_a_hand_behind_the_back_or_outside_the_picture_needs_no_look():
    cameras, truth = ring(4, 4.0), walker(10, speed=0.0)
    hand, chest = HANDS["left"], truth[:, [K[f"{s}_{n}"] for s in ("left", "right") for n in ("shoulder", "hip")]].mean(1)
    behind = truth.copy()
    away = chest[0] - cameras.position[0].numpy()
    palm = truth[:, hand] - truth[:, hand].mean(1, keepdims=True)
    behind[:, hand] = 0.8 * palm + (chest + 0.35 * away / np.linalg.norm(away))[:, None]
    behind[:, K["left_wrist"]] = behind[:, hand.start]
    _, hints, _ = fed(cameras, behind)
    assert hints[0][0].misses("left") and not hints[2][0].misses("left")  # the third camera stands opposite the first
    aside = truth + (0, 0, 2.6)
    _, hints, exact = fed(cameras, aside)
    inside = cameras.inside(torch.from_numpy(exact)).numpy()
    for c, (hint,) in enumerate(hints):
        for side in ("left", "right"):
            assert hint.misses(side) == (inside[c, HANDS[side]].mean() < 0.25)
    assert not inside[:, hand].all()


def test_two_who_pass_each_other_keep_their_numbers_of_every_view():
    cameras = ring(6, 5.0)
    one, two = walker(60, speed=1.5), walker(60, speed=-1.5, seed=1) + (0, 0.8, 0)
    guide = Guide(cameras)
    for t in range(60):
        pixels = [projected(cameras, p[t]) for p in (one, two)]
        order = [(c % 2, 1 - c % 2) for c in range(6)]  # views number people differently
        guide.update(t / FPS, stacked([{order[c][p]: pixels[p][c] for p in (0, 1)} for c in range(6)]))
        for c, hints in enumerate(guide.hints(t / FPS)):
            for hint in hints:
                p = min((0, 1), key=lambda p: np.nanmedian(np.linalg.norm(hint.pixels - pixels[p][c], axis=-1)))
                assert hint.slot == order[c][p]
    assert all(len(h) == 2 for h in guide.hints(2.0))

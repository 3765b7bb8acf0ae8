"""How exact clocks are: landmarks that lie off differently in each view and pose, exact half frames, large offsets, drifts."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_scene import NAMES, Dancer, Recording, taken
from small_footage import rig
from test_sync import dancer, paths_of, recorded, shot

from studio.clock import _camera, sync_of
from studio.detect.openpose import read_keypoints
from studio.sync import MotionConfig, by_motion, by_sound, sync
from studio.sync.person import Path2D
from studio.take import Take

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))


def misplaced(cameras, seconds, seed, share=0.06, noise=0.7, rate=30.0):
    """Paths (C) of a network's landmarks: each view puts each joint off by a share of where the others are, so the error moves with
    the pose; and white noise, px."""
    g = torch.Generator().manual_seed(seed)
    times = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    pixels = cameras.project(dancer(times, seed, speed=0.6))
    found = []
    for x in pixels:
        mix = share * torch.randn(34, 34, generator=g, dtype=torch.float64) / 34**0.5
        off = ((x - x.mean((0, 1))).flatten(1) @ mix).view(x.shape)
        white = noise * torch.randn(x.shape, generator=g, dtype=torch.float64)
        drawn = x + off + white
        found.append(Path2D(times, drawn.float()[:, 5:], torch.full(x.shape[:2], 3.0)[:, 5:]))
    return found


def halved(paths, first):
    """Every second frame of each path from frame `first` on: beginnings that differ by exact halves of the new frames."""
    return [Path2D(p.times[a::2] - p.times[a], p.pixels[a::2], p.sigma[a::2]) for p, a in zip(paths, first)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_that_move_with_the_pose_do_not_pass_for_delays(seed):
    cameras = rig(list(NAMES), 1280, 960)
    first = [0, 1, 0, 3]
    true = torch.tensor(first, dtype=torch.float64) / 2
    paths = halved(misplaced(cameras, 8.0, seed), first)
    found = by_motion(cameras, paths).estimate
    error = found.shift() * 15 - true
    assert float(error.abs().max()) < 0.2
    assert bool((error.abs() <= 4 * found.sigma * 15 + 1e-9).all()) and float(found.sigma.max()) * 15 < 0.3


def wandering(cameras, seconds, seed, size=6.0, noise=0.7, rate=30.0):
    """Paths (C) of landmarks that each view lets wander slowly about the joint, px."""
    g = torch.Generator().manual_seed(seed)
    times = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    pixels = cameras.project(dancer(times, seed, speed=0.6, size=0.06))[:, :, 5:]
    knots = torch.randn(len(pixels), 24, int(0.7 * seconds) + 2, generator=g)
    slow = torch.nn.functional.interpolate(knots, len(times), mode="linear").transpose(1, 2).reshape(pixels.shape)
    white = torch.randn(pixels.shape, generator=g, dtype=torch.float64)
    drawn = (pixels + size * slow + noise * white).float()
    return [Path2D(times, x, torch.full(x.shape[:2], 3.0)) for x in drawn]


def test_landmarks_that_wander_slowly_do_not_pass_for_delays_which_they_do_where_all_of_the_residual_counts():
    cameras = rig(list(NAMES), 1280, 960)

    def off(**settings):
        found = [by_motion(cameras, wandering(cameras, 6.0, seed), MotionConfig(**settings)).estimate for seed in range(2)]
        return 30 * float(torch.stack([f.shift() for f in found]).square().mean().sqrt())

    lively = off()
    assert lively < 0.1 and off(settle=100.0) > 1.5 * lively


def test_somebody_who_hardly_moves_tells_no_clock_and_the_sigma_says_so():
    cameras = rig(list(NAMES), 1280, 960)
    g = torch.Generator().manual_seed(1)
    times = torch.arange(90, dtype=torch.float64) / 30
    pixels = cameras.project(dancer(times, 1, speed=0.3, size=0.01))
    slow = torch.nn.functional.interpolate(torch.randn(4, 34, 9, generator=g), 90, mode="linear").mT.reshape(4, 90, 17, 2)
    paths = [Path2D(times, (x + 4 * s).float()[:, 5:], torch.full((90, 12), 3.0)) for x, s in zip(pixels, slow)]
    found = by_motion(cameras, paths).estimate
    assert float(found.sigma.max()) * 30 > 0.3


def test_videos_that_began_many_seconds_apart_are_put_together_by_motion():
    cameras = rig(list(NAMES), 1280, 960)
    true = torch.tensor([0.0, 7.3117, -11.02, 3.4], dtype=torch.float64)
    found = by_motion(cameras, paths_of(shot(cameras, true.tolist(), rates=[30.0, 30.0, 60.0, 30.0], seconds=30.0, placement=6.0))).estimate
    assert float((found.shift() - true).abs().max()) * 30 < 0.1


def test_the_stage_puts_mixed_rates_that_began_seconds_apart_on_one_clock_by_motion(tmp_path):
    recordings = [
        Recording(0.0, Fraction(30), 150),
        Recording(-1.71, Fraction(60), 300),
        Recording(1.234, Fraction(30), 120, lost=(40, 41)),
    ]
    take = taken(tmp_path, Dancer(1, pitch=0.8), recordings, noise=0.05)
    sync(take)
    made = sync_of(take)
    assert made is not None and made.fps == 30 and "motion" in made.cameras["c1"].source + made.cameras["c0"].source
    zero = recordings[NAMES.index(made.reference)].start
    for name, r in zip(NAMES, recordings):
        assert made.cameras[name].offset_s == pytest.approx(r.start - zero, abs=0.2 / 30)


# Real footage


def real():
    folder = DATA / "pose2sim_single"
    if not folder.is_dir():
        pytest.skip("the real footage is not here (STUDIO_DATA)")
    names = tuple(f"cam0{i}" for i in range(1, 5))
    take = Take.of([folder / "videos"], folder / "calibration/Calib.qca.txt", Path("nowhere"))
    sizes = {c: (i.width, i.height) for c, i in take.probes.items()}
    seen = read_keypoints(folder / "reference/openpose_json", list(names), 60.0, 0, 100, sizes)
    return take.cameras(), paths_of([_camera(seen, c) for c in range(4)])


def test_exact_half_frames_put_into_real_footage_are_found_to_a_fifth_of_a_frame():
    cameras, paths = real()
    whole = by_motion(cameras, paths).estimate
    assert float(whole.sigma.max()) * 60 < 0.3
    for first in ([0, 1, 0, 1], [0, 1, 1, 0]):
        found = by_motion(cameras, halved(paths, first)).estimate
        true = whole.shift() * 30 + torch.tensor(first, dtype=torch.float64) / 2
        assert float((found.shift() * 30 - true).abs().max()) < 0.2


# Drift


def test_sound_tells_a_drift_of_50_ppm(tmp_path):
    rate, seconds, room = 8000, 150, np.random.default_rng(3)
    sound = 0.2 * room.standard_normal(rate * (seconds + 4))
    grid = np.arange(seconds * rate) / rate

    def microphone(offset, drift, seed):
        heard = np.interp(offset + grid * (1 + drift) + 1.0, np.arange(len(sound)) / rate, sound)
        return heard + 0.01 * np.random.default_rng(seed).standard_normal(len(heard))

    true = [(0.0, 0.0), (0.3, 50e-6), (-0.7, -50e-6)]
    videos = {f"c{i}": recorded(tmp_path / f"c{i}.mkv", microphone(o, d, i), rate, fps=1) for i, (o, d) in enumerate(true)}
    found = by_sound(videos, [float(seconds)] * 3)
    assert (1e6 * found.drift).tolist() == pytest.approx([1e6 * d for _, d in true], abs=5)
    assert found.offset.tolist() == pytest.approx([o for o, _ in true], abs=0.1 / 30)

"""Takes whose cameras have rates, beginnings and gaps of their own, from files to motion."""

import json
import math
from fractions import Fraction

import pytest
import torch
from moving_scene import NAMES, Dancer, Recording, cameras_of, filmed, taken

from rigs.keypoints import COCO_17
from studio import cli
from studio.clock import CameraClock, Sync, footage, own_frames, recorded, sync_of
from studio.evaluate import posed_of
from studio.fit import FitConfig, fit
from studio.review.overlays import picture
from studio.sync import SyncConfig, sync
from studio.take import Take
from studio.track import track
from studio.values import Keypoints2D, Motion, Tracks3D

LIMBS = [s + n for s in ("Left", "Right") for n in ("Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot")]


def imported(folder, dancer, recordings):
    """Videos with a lamp that is lit once, a calibration, and another program's keypoint files of every frame."""
    cameras = cameras_of()
    cameras.save(folder / "cameras.yaml")
    for name, recording in zip(NAMES, recordings):
        filmed(folder / "videos" / f"{name}.mp4", recording, lambda t: float(1.52 < t < 1.61))
        place = folder / "json" / name
        place.mkdir(parents=True)
        seen = cameras[name].project(dancer.keypoints(recording.times)[:, : len(COCO_17)].double())[0]
        for n, pixels in enumerate(seen.tolist()):
            numbers = [v for x, y in pixels for v in (x, y, 0.9)]
            (place / f"{name}_{n:06d}_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": numbers}]}))


RECORDINGS = (
    Recording(0.0, Fraction(30), 56),
    Recording(-2.3, Fraction(60), 252),
    Recording(1.2, Fraction(30000, 1001), 24, lost=(5, 6, 21)),
    Recording(0.8117, Fraction(30), 70),
)


def test_cameras_of_other_rates_that_began_seconds_apart_and_lost_frames_run_end_to_end(tmp_path):
    dancer = Dancer()
    imported(tmp_path, dancer, RECORDINGS)
    words = ["--cameras", tmp_path / "cameras.yaml", "--out", tmp_path / "out", "--keypoints", tmp_path / "json", "--frames", "35:59"]
    assert cli.call(["run", *map(str, [tmp_path / "videos", *words]), "--sync", "flash"]) == 0
    take = Take.open(tmp_path / "out")
    clocks = sync_of(take)
    assert clocks is not None and clocks.fps == 30
    zero = RECORDINGS[NAMES.index(clocks.reference)].start
    for name, recording in zip(NAMES, RECORDINGS):
        assert clocks.cameras[name].offset_s == pytest.approx(recording.start - zero, abs=0.1 / 30)
    tracks, motion = Tracks3D.load(take.tracks_file), Motion.load(take.motion_file("actor"))
    first, last = tracks.first_frame, tracks.first_frame + len(tracks.points)
    assert motion.fps == tracks.fps == 30 and (motion.first_frame, len(motion.translation)) == (first, last - first)
    times = zero + torch.arange(first, last, dtype=torch.float64) / 30
    truth = dancer.keypoints(times)[:, : len(COCO_17)]
    assert float((tracks.points[:, 0, : len(COCO_17)] - truth).norm(dim=-1).nanmedian()) < 0.015  # 3 m/s are 10 mm in a tenth of a frame
    for c, recording in enumerate(RECORDINGS):
        used = times[tracks.detection[c, :, 0] >= 0]
        assert float(used.min()) > recording.times[0] - 0.002 and float(used.max()) < recording.times[-1] + 0.002
    assert (first, last) == (35, 59) and bool((tracks.detection[:, :, 0] >= 0).any(1).all())  # all of them looked where it was needed


@pytest.mark.parametrize("rates", [("30", "60"), ("25", "50"), ("30", "30000/1001")])
def test_two_rates_are_as_exact_as_one(tmp_path, rates):
    dancer, slow, fast = Dancer(2, pitch=1.0), *map(Fraction, rates)
    count = lambda rate: int(1.2 * rate)  # noqa: E731
    mixed = [Recording(0.0, r, count(r)) for r in (slow, fast, slow, fast)]
    same = [Recording(0.0, slow, count(slow))] * 4

    def error(name, recordings):
        take = taken(tmp_path / name, dancer, recordings, rate=float(slow))
        track(take)
        tracks = Tracks3D.load(take.tracks_file)
        truth = dancer.keypoints(torch.arange(len(tracks.points), dtype=torch.float64) / float(slow))
        assert tracks.fps == float(slow) and abs(len(truth) - count(slow)) <= 1
        return float((tracks.points[:, 0, :17] - truth[:, :17]).norm(dim=-1)[2:-2].nanmean())

    assert error("mixed", mixed) < 1.15 * error("same", same)


def test_a_take_in_the_higher_rate_lies_on_the_path_between_the_slower_cameras_frames(tmp_path):
    dancer = Dancer(1, pitch=1.0)
    take = taken(tmp_path, dancer, [Recording(0.0, Fraction(r), 30 * r // 30) for r in (30, 60, 60, 30)])
    assert take.fps == 60
    track(take)
    tracks = Tracks3D.load(take.tracks_file)
    truth = dancer.keypoints(torch.arange(len(tracks.points), dtype=torch.float64) / 60)
    assert float((tracks.points[:, 0, :17] - truth[:, :17]).norm(dim=-1).nanmedian()) < 0.008


def test_subframe_times_lower_the_fits_joint_error_of_fast_motion_by_more_than_40_percent_against_rounding(tmp_path):
    dancer, offsets = Dancer(1), [0.0, 0.5 / 30, -0.5 / 30, 1.5 / 30]
    take = taken(tmp_path, dancer, [Recording(o, Fraction(30), 36) for o in offsets])
    which = [dancer.person.skeleton.index(n) for n in LIMBS]

    def error(values):
        Sync("c0", 30.0, {n: CameraClock(v) for n, v in zip(NAMES, values)}).save(take.folder / "sync.yaml")
        track(take)
        motion = Motion.load(fit(take, FitConfig(device="cpu", key_frames=16)))
        truth = dancer.joints((motion.first_frame + torch.arange(len(motion.translation))) / 30)
        return float((posed_of(motion).joints - truth)[3:-3, which].norm(dim=-1).mean())

    assert error(offsets) < 0.6 * error([math.floor(o * 30 + 0.5) / 30 for o in offsets])


def test_time_stamps_of_a_table_are_followed_through_the_run(tmp_path):
    dancer = Dancer(1, pitch=1.0)
    recordings = [Recording(0.0, Fraction(30), 40), Recording(0.21, Fraction(30), 40, lost=(7, 8, 20)), Recording(-0.033, Fraction(60), 80)]
    take = taken(tmp_path, dancer, recordings)
    rows = [f"{i},{name},{1000 + t:.6f}" for name, r in zip(NAMES, recordings) for i, t in enumerate(r.times.tolist())]
    (tmp_path / "timestamps.csv").write_text("\n".join(["sync_index,cam_id,frame_time", *rows]))
    sync(take, SyncConfig(table=tmp_path / "timestamps.csv"))
    made = sync_of(take)
    assert made is not None and made.reference == "c0"
    track(take)
    tracks = Tracks3D.load(take.tracks_file)
    truth = dancer.keypoints((tracks.first_frame + torch.arange(len(tracks.points), dtype=torch.float64)) / tracks.fps)
    error = (tracks.points[:, 0, :17] - truth[:, :17]).norm(dim=-1)
    assert bool(torch.isfinite(error[8:-8]).float().mean() > 0.9) and float(error.nanmedian()) < 0.01


def test_the_take_lasts_while_two_cameras_record(tmp_path):
    recordings = [Recording(0.0, count=40), Recording(1.0, count=40), Recording(-0.5, count=40)]
    take = taken(tmp_path, Dancer(), recordings)
    clocks = Sync("c0", 30.0, {n: CameraClock(r.start) for n, r in zip(NAMES, recordings)})
    clocks.save(take.folder / "sync.yaml")
    read = footage(take, NAMES[:3])
    whole = read.cut(slice(0, read.frames))
    assert (whole.first_frame, whole.frames) == (0, 40)
    there = (whole.confidence[:, :, 0] > 0).any(-1)
    assert [t.nonzero()[[0, -1], 0].tolist() for t in there] == [[0, 39], [30, 39], [0, 24]]
    assert [recorded(take, "c2", n) for n in (0, 24, 30)] == [True, True, False]
    assert int(picture(take, 0, "c2").max()) > 0 == int(picture(take, 30, "c2").max())  # the report shows no picture of another moment


def test_unequal_lengths_without_any_clock_are_not_cut_to_the_shortest(tmp_path):
    take = taken(tmp_path, Dancer(), [Recording(count=n) for n in (12, 20, 16, 20)])
    read = footage(take, NAMES)
    seen = read.cut(slice(0, read.frames))
    assert seen.frames == 20
    assert [(seen.confidence[c] > 0).any(-1).any(-1).sum().item() for c in range(4)] == [12, 20, 16, 20]
    one = Keypoints2D.load(take.keypoints_folder / "c1.safetensors")
    assert torch.equal(seen.pixels[1], one.pixels[0])


def test_only_the_frames_that_a_take_is_about_are_looked_at(tmp_path):
    take = taken(tmp_path, Dancer(), [Recording(0.0, Fraction(30), 60), Recording(-0.5, Fraction(60), 150)], frames=(10, 20), rate=30.0)
    assert take.stretch("c0") == (10, 20)
    assert own_frames(take, "c1", (10, 20)) == (20, 39)
    Sync("c0", 30.0, {"c0": CameraClock(), "c1": CameraClock(-0.5)}).save(take.folder / "sync.yaml")
    assert take.stretch("c1") == (50, 69)

"""One clock for all cameras: what each source finds, when it is followed, and what sub-frame times are worth."""

import csv
import math
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from small_footage import film, rig

from calibration.triangulate import triangulate
from rigs.keypoints import COCO_WHOLEBODY
from studio import video
from studio.clock import CameraClock, Sync, _camera, footage, on_master_clock, own_times, sync_of, video_frame
from studio.detect.openpose import read_keypoints
from studio.interpolation import Track2D, between
from studio.sync import SyncConfig, by_flash, by_motion, by_sound, by_speed, read_table, sync
from studio.sync.flash import events
from studio.sync.person import path_of, prominent
from studio.sync.table import by_timecode, seconds_of
from studio.take import Take
from studio.values import Keypoints2D

BODY = COCO_WHOLEBODY[:17]
NAMES = ("a", "b", "c", "d")
DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))


def dancer(times, seed=0, speed=1.0, size=0.12):
    """Where 17 joints are at any moment (n, 17, 3), m: sums of sines about their places, the whole body wandering."""
    g = torch.Generator().manual_seed(seed)
    home = 0.5 * torch.rand(1, 17, 3, generator=g, dtype=torch.float64) + torch.tensor([-0.25, -0.25, 0.75], dtype=torch.float64)
    x = torch.zeros(len(times), 17, 3, dtype=torch.float64)
    for _ in range(4):
        phase = 6.28 * torch.rand(1, 17, 3, generator=g, dtype=torch.float64)
        pitch = speed * (0.4 + 1.6 * torch.rand(1, 17, 3, generator=g, dtype=torch.float64))
        x += size * torch.sin(6.28 * pitch * times[:, None, None] + phase)
    return home + x


def shot(cameras, offsets, drifts=None, rates=None, seconds=6.0, noise=1.5, placement=0.0, seed=0, **motion):
    """Each camera's keypoints (C=1) of the dancer at that camera's own frames; `offsets` s of its frame 0 on the master clock."""
    g = torch.Generator().manual_seed(1000 + seed)
    drifts, rates = drifts or [0.0] * len(cameras), rates or [60.0] * len(cameras)
    found = []
    for c, camera in enumerate(cameras):
        own = torch.arange(int(seconds * rates[c]), dtype=torch.float64) / rates[c]
        pixels = camera.project(dancer(offsets[c] + own * (1 + drifts[c]), seed, **motion))
        pixels = pixels + noise * torch.randn(pixels.shape, generator=g, dtype=torch.float64)
        pixels = pixels + placement * torch.randn(1, 1, 17, 2, generator=g, dtype=torch.float64)
        seen = torch.isfinite(pixels).all(-1)
        sigma = torch.where(seen, max(noise, 0.1), torch.inf)[:, :, None].float()
        found.append(
            Keypoints2D((camera.names[0],), BODY, "exact", rates[c], 0, pixels[:, :, None].float(), sigma, seen[:, :, None].float())
        )
    return found


def paths_of(shots):
    return [path_of([(k, prominent(k)[0])], torch.arange(k.frames, dtype=torch.float64) / k.fps) for k in shots]


# Motion


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_motion_tells_offsets_to_a_fifth_of_a_frame_although_views_place_landmarks_differently(seed):
    cameras = rig(list(NAMES), 1280, 960)
    true = torch.tensor([0.0, 0.2083, -0.5417, 1.1]) + torch.tensor([0, 0.003, -0.004, 0.0061]) * (1 + seed)
    verdict = by_motion(cameras, paths_of(shot(cameras, true.tolist(), noise=2.0, placement=6.0, seed=seed)))
    error = (verdict.estimate.shift() - true) * 60
    assert float(error.abs().max()) < 0.2
    assert verdict.lowers(0.3) and float(verdict.estimate.sigma.max()) * 60 < 0.1
    assert bool((error.abs() < 5 * verdict.estimate.sigma * 60 + 0.02).all())  # the sigma it claims is about right


def test_motion_tells_cameras_of_30_and_60_frames_a_second_apart():
    cameras = rig(list(NAMES), 1280, 960)
    true = torch.tensor([0.0, 0.1117, -0.33, 0.05])
    verdict = by_motion(cameras, paths_of(shot(cameras, true.tolist(), rates=[60.0, 30.0, 60.0, 30.0])))
    assert float((verdict.estimate.shift() - true).abs().max()) * 60 < 0.2


def test_a_drift_of_50_ppm_is_found_in_a_long_take():
    cameras = rig(["a", "b", "c"], 1280, 960)
    made = shot(cameras, [0.0, 0.02, -0.1], drifts=[0.0, 50e-6, -50e-6], rates=[30.0] * 3, seconds=900.0)
    found = by_motion(cameras, paths_of(made)).estimate
    assert torch.allclose(1e6 * found.drift, torch.tensor([0.0, 50.0, -50.0], dtype=torch.float64), atol=5)
    assert torch.allclose(found.offset, torch.tensor([0.0, 0.02, -0.1], dtype=torch.float64), atol=0.2 / 30)


def test_speeds_in_the_images_tell_offsets_to_a_frame_without_a_calibration():
    cameras = rig(list(NAMES), 1280, 960)
    true = torch.tensor([0.0, 0.21, -0.5, 0.9], dtype=torch.float64)
    found = by_speed(paths_of(shot(cameras, true.tolist(), seconds=12.0)))
    assert float((found.offset - true).abs().max()) * 60 < 1.0


def test_a_cut_put_into_real_footage_is_found():
    folder = DATA / "pose2sim_single"
    if not folder.is_dir():
        pytest.skip("the real footage is not here (STUDIO_DATA)")
    names = tuple(f"cam0{i}" for i in range(1, 5))
    take = Take.of([folder / "videos"], folder / "calibration/Calib.qca.txt", Path("nowhere"))
    sizes = {c: (i.width, i.height) for c, i in take.probes.items()}
    seen = read_keypoints(folder / "reference/openpose_json", list(names), 60.0, 0, 100, sizes)
    whole = [_camera(seen, c) for c in range(4)]
    cut = [k if k.cameras != ("cam02",) else replace(k.cut(slice(7, None)), first_frame=0) for k in whole]  # its first 7 frames are gone
    before, after = (by_motion(take.cameras(), paths_of(k)).estimate.shift() * 60 for k in (whole, cut))
    assert torch.allclose(after - before, torch.tensor([0.0, 7.0, 0.0, 0.0], dtype=torch.float64), atol=0.3)


# Sound


def recorded(path, sound, rate=48_000, frames=8, fps=30):
    """A video of a few small frames a second with this sound (N,), written by PyAV."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=fps)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        voice = container.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=rate)
        for i in range(int(len(sound) / rate * fps)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (7 * i) % 255, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        whole = (np.clip(sound, -1, 1) * 32767).astype(np.int16)[None]
        for start in range(0, whole.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(whole[:, start : start + 1024]), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    return path


def heard(offset, kind, seconds=6.0, rate=48_000, drift=0.0, seed=0):
    """What a microphone whose recording begins at `offset` s of the room's time hears there, with hiss of its own."""
    room = np.random.default_rng(7)
    if kind == "clap":
        t = np.arange(rate // 5) / rate
        sound, times = np.exp(-t * 60) * room.standard_normal(len(t)), [1.7]
    else:
        sound, times = 0.2 * room.standard_normal(rate * 12), [-3.0]
    grid = np.arange(int(seconds * rate)) / rate * (1 + drift) + offset
    out = sum(np.interp(grid - begin, np.arange(len(sound)) / rate, sound, 0, 0) for begin in times)
    return 0.5 * out + 0.01 * np.random.default_rng(seed).standard_normal(len(out))


@pytest.mark.parametrize("kind", ["clap", "ambient"])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_tells_offsets_to_a_tenth_of_a_frame(tmp_path, kind, suffix):
    true = [0.0, 0.2345, -0.6789]
    videos = {f"cam{i}": recorded(tmp_path / f"cam{i}{suffix}", heard(o, kind, seed=i)) for i, o in enumerate(true)}
    found = by_sound(videos, [6.0] * 3)
    assert float((found.offset - torch.tensor(true)).abs().max()) < 0.1 / 30
    assert float(found.sigma[1:].min()) > 0.001  # the sound's own way is in it


def test_a_video_without_sound_or_with_another_sound_gets_no_offset(tmp_path):
    videos = {
        "a": recorded(tmp_path / "a.mkv", heard(0.0, "ambient")),
        "b": film(tmp_path / "b.mp4", frames=30),
        "c": recorded(tmp_path / "c.mkv", 0.1 * np.random.default_rng(99).standard_normal(48_000 * 6)),
    }
    found = by_sound(videos, [6.0, 1.0, 6.0])
    assert found.told == [0]
    assert len(video.audio(videos["b"])[0]) == 0


def test_a_stretch_of_sound_is_where_it_was_in_the_whole(tmp_path):
    path = recorded(tmp_path / "a.mp4", heard(0.0, "ambient"))
    whole, rate, start = video.audio(path)
    part, _, begin = video.audio(path, begin=2.5, end=3.5)
    at = round((begin - start) * rate)
    assert abs(begin - 2.5) < 2 / rate and abs(len(part) - rate) <= 2
    middle = part[2000:-2000].numpy()
    likeness = np.correlate(whole[at + 1900 : at + len(part) - 1900].numpy(), middle)
    assert abs(int(likeness.argmax()) - 100) <= 1


# Light


def exposed(light, fps, frames, offset, exposure=1.0, readout=0.0, rows=24):
    """Mean brightness of frames whose rows are exposed one after another: the light curve's integral over each exposure."""
    fine = 400
    level = np.zeros(frames)
    for r in range(rows):
        for n in range(frames):
            start = offset + (n + readout * r / rows) / fps
            level[n] += np.mean(light(start + np.arange(fine) / fine * exposure / fps)) / rows
    return torch.from_numpy(40 + 120 * level)


@pytest.mark.parametrize(
    ("light", "kind"),
    [
        (lambda t: (t > 0.5123) & (t < 0.6323), "flash"),  # a lamp for 120 ms
        (lambda t: t > 0.5123, "on"),
        (lambda t: t < 0.5123, "off"),
    ],
)
def test_light_tells_offsets_to_a_tenth_of_a_frame(light, kind):
    true = [0.0, 0.0107, -0.1441]
    levels = [exposed(light, 30, 40, o) for o in true]
    own = [torch.arange(40, dtype=torch.float64) / 30] * 3
    assert all([e.kind for e in events(x, own[0])] == [kind] for x in levels)
    found = by_flash(dict.fromkeys("abc", Path()), own, levels=levels)
    assert float((found.offset - torch.tensor(true)).abs().max()) * 30 < 0.1


def test_a_photo_flash_is_told_to_a_fraction_where_it_falls_on_a_rolling_shutter():
    """Rows read one after another over the whole frame time: the flash lights the end of one image and the start of the next."""
    true = [0.0, 0.0107, -0.0235]
    levels = [exposed(lambda t: 40.0 * ((t > 0.5123) & (t < 0.5133)), 30, 40, o, readout=1.0) for o in true]
    found = by_flash(dict.fromkeys("abc", Path()), [torch.arange(40, dtype=torch.float64) / 30] * 3, levels=levels)
    assert float((found.offset - torch.tensor(true)).abs().max()) * 30 < 0.1


def test_a_flash_within_one_exposure_claims_no_more_than_the_frame():
    level = torch.full((40,), 50.0, dtype=torch.float64)
    level[17] = 200
    (event,) = events(level, torch.arange(40, dtype=torch.float64) / 30)
    assert abs(event.time - 17 / 30) < 1e-9 and event.sigma > 0.25 / 30


def test_light_is_read_from_videos_and_people_who_move_are_no_flash(tmp_path):
    def filmed(name, offset):
        with video.VideoWriter(tmp_path / name, 64, 48, 30) as writer:
            for n, level in enumerate(exposed(lambda t: t > 0.5123, 30, 40, offset).tolist()):
                image = np.full((48, 64, 3), round(level), np.uint8)
                image[:, (n % 40) : (n % 40) + 6] //= 2  # somebody dark walks by
                writer.write(image)
        return tmp_path / name

    videos = {"a": filmed("a.mp4", 0.0), "b": filmed("b.mp4", 0.0207)}
    found = by_flash(videos, [torch.arange(40, dtype=torch.float64) / 30] * 2)
    assert abs(float(found.offset[1]) - 0.0207) * 30 < 0.1
    assert by_flash({"c": film(tmp_path / "c.mp4", 40)}, [torch.arange(40, dtype=torch.float64) / 30]).told == []


# Timecode and tables


def test_timecodes_in_the_files_tell_offsets(tmp_path):
    videos = {}
    for name, code in (("a", "10:00:00:00"), ("b", "10:00:01:12"), ("c", None)):
        videos[name] = tmp_path / f"{name}.mov"
        with av.open(str(videos[name]), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            if code:
                stream.metadata["timecode"] = code
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux([*stream.encode(frame), *stream.encode(None)])
    assert video.timecode(videos["b"]) == "10:00:01:12" and video.timecode(videos["c"]) is None
    found = by_timecode(videos, [25.0] * 3)
    assert found.told == [0, 1] and abs(float(found.offset[1]) - (1 + 12 / 25)) < 1e-9


def test_drop_frame_timecode_keeps_real_time():
    assert seconds_of("00:10:00;00", 30000 / 1001) == pytest.approx(600.0, abs=0.02)
    assert seconds_of("01:00:00;00", 30000 / 1001) == pytest.approx(3600.0, abs=0.02)
    assert seconds_of("at ten", 30.0) is None


def table(path, times):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("sync_index", "cam_id", "frame_time"))
        rows.writerows((i, cam, t) for cam, column in times.items() for i, t in enumerate(column))
    return path


def test_a_table_of_frame_times_gives_every_frame_its_time(tmp_path):
    even = [100 + n / 30 for n in range(10)]
    dropped = [100.02 + n / 30 for n in range(12) if n not in (4, 5)]
    found = read_table(table(tmp_path / "t.csv", {"0": even, "1": dropped}), ("cam_0", "cam_1"), {"cam_0": 10, "cam_1": 10})
    assert found.reference == "cam_0" and found.fps == pytest.approx(30)
    assert found.frame_times is not None
    master = found.cameras["cam_1"].master(torch.tensor(found.frame_times["cam_1"], dtype=torch.float64))
    assert torch.allclose(master + 100, torch.tensor(dropped, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"cam_1.*holds 11"):
        read_table(tmp_path / "t.csv", ("cam_0", "cam_1"), {"cam_0": 10, "cam_1": 11})
    with pytest.raises(ValueError, match="no cam_id for camera 'left'"):
        read_table(tmp_path / "t.csv", ("cam_0", "left"), {"cam_0": 10, "left": 10})


def test_another_tools_table_of_real_webcams_is_read():
    folder = DATA / "caliscope_charuco/calibration/extrinsic"
    if not folder.is_dir():
        pytest.skip("the real footage is not here (STUDIO_DATA)")
    names = tuple(f"cam_{i}" for i in range(4))
    found = read_table(folder / "timestamps.csv", names, {n: video.probe(folder / f"{n}.mp4").frames for n in names})
    assert found.fps == pytest.approx(6, abs=0.05)
    assert max(abs(v) for v in found.offsets_frames.values()) == pytest.approx(0.0173 * 6, abs=0.01)  # the first row of camera 3


# The master clock


def clocks(offsets, fps=60.0, **more):
    return Sync(NAMES[0], fps, {n: CameraClock(o, source="given") for n, o in zip(NAMES, offsets)}, **more)


def test_keypoints_between_frames_lie_on_the_path_and_sigma_tells_what_may_be_hidden():
    times = torch.arange(20, dtype=torch.float64) / 60
    path = lambda t: torch.stack([300 + 900 * t, 200 + 4000 * t**2], -1)  # noqa: E731 - px, as in free fall
    apart = 40 * torch.arange(17)[:, None]
    track = Track2D(path(times).float().view(20, 1, 1, 2) + apart, torch.full((20, 1, 17), 1.5), torch.ones(20, 1, 17))
    wanted = (torch.arange(1, 18, dtype=torch.float64) + 0.37) / 60
    made = between(track, times, wanted, BODY)
    assert torch.allclose(made.pixels[:, 0, 0].double(), path(wanted), atol=1e-3)
    assert bool((made.sigma > 1.5).all())
    same = between(track, times, times, BODY)
    assert torch.equal(same.pixels, track.pixels) and torch.equal(same.sigma, track.sigma)


def test_nothing_is_seen_where_a_neighbour_was_not_seen_or_is_far_or_beyond_the_ends():
    times = torch.cat([torch.arange(10), torch.arange(16, 26)]).double() / 60
    pixels = torch.rand(1, 1, 17, 2).repeat(20, 1, 1, 1) * 100 + torch.arange(20)[:, None, None, None]
    confidence = torch.ones(20, 1, 17)
    confidence[4, 0, 3] = 0
    made = between(
        Track2D(pixels, torch.ones(20, 1, 17), confidence), times, torch.tensor([-0.5, 3.5, 6.5, 12.0, 25.5]).double() / 60, BODY
    )
    assert made.seen[:, 0, 0].tolist() == [False, True, True, False, False]
    assert made.seen[:, 0, 3].tolist() == [False, False, True, False, False]


def test_two_people_who_change_places_in_the_list_are_not_mixed():
    T = 12
    one = 100 + torch.rand(17, 2) * 80 + 2 * torch.arange(T)[:, None, None]
    two = one + 400
    pixels = torch.stack([one, two], 1)
    pixels[5:] = pixels[5:].flip(1)
    times = torch.arange(T, dtype=torch.float64) / 30
    made = between(Track2D(pixels, torch.ones(T, 2, 17), torch.ones(T, 2, 17)), times, times[:-1] + 0.5 / 30, BODY)
    middle = 0.5 * (one[:-1] + one[1:])
    nearest = (made.pixels - middle[:, None]).norm(dim=-1).amin(1)
    assert float(nearest.nan_to_num(1e9).max()) < 0.01


def test_a_left_taken_for_a_right_in_the_next_frame_gives_no_point_between():
    pixels = torch.rand(6, 1, 17, 2) + 40 * torch.arange(17)[:, None]
    left, right = BODY.index("left_knee"), BODY.index("right_knee")
    pixels[3, :, [left, right]] = pixels[3, :, [right, left]]
    times = torch.arange(6, dtype=torch.float64)
    seen = between(Track2D(pixels, torch.ones(6, 1, 17), torch.ones(6, 1, 17)), times, times[:-1] + 0.5, BODY).seen[:, 0]
    assert seen[:, left].tolist() == seen[:, right].tolist() == [True, True, False, False, True]
    assert bool(seen[:, BODY.index("nose")].all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_subframe_times_lower_the_error_of_fast_motion_by_more_than_40_percent_against_rounding(seed):
    cameras = rig(list(NAMES), 1280, 960)
    offsets = [0.0, 0.5 / 60, -0.5 / 60, 1.5 / 60]
    seen = Keypoints2D.joined(shot(cameras, offsets, seconds=2.0, noise=1.0, seed=seed, speed=1.5))
    truth = dancer(torch.arange(seen.frames, dtype=torch.float64) / 60, seed, speed=1.5)

    def error(values):
        made = on_master_clock(seen, clocks(values))
        found = triangulate(cameras, made.pixels[:, 4:-4, 0], made.sigma[:, 4:-4, 0]).points
        return float((found - truth[4:-4]).norm(dim=-1).nanmedian())

    rounded = [math.floor(o * 60 + 0.5) / 60 for o in offsets]
    assert error(offsets) < 0.6 * error(rounded)


# On disk


def laid_out(tmp_path, offsets, frames=240, still=False, seed=0):
    """A take with tiny videos and the keypoints that its cameras would have given."""
    cameras = rig(list(NAMES), 64, 48)
    cameras.save(tmp_path / "cameras.yaml")
    for name in NAMES:
        film(tmp_path / "videos" / f"{name}.mp4", frames, 60)
    take = Take.of([tmp_path / "videos"], tmp_path / "cameras.yaml", tmp_path / "take")
    take.save()
    size = 0.0 if still else 0.12
    for k in shot(cameras, offsets, seconds=frames / 60, noise=0.08, seed=seed, size=size):
        k.save(take.keypoints_folder / f"{k.cameras[0]}.safetensors")
    return take.checked()


def test_the_stage_finds_and_follows_clear_offsets_and_later_stages_read_them(tmp_path):
    take = laid_out(tmp_path, [0.0, 1.5 / 60, -2.25 / 60, 0.0])
    sync(take)
    made = sync_of(take)
    assert made is not None and made.reference in ("a", "d")
    assert [made.offsets_frames[n] for n in NAMES] == pytest.approx([0, 1.5, -2.25, 0], abs=0.2)
    note = take.notes()["sync"]["numbers"]
    assert note["followed"] and note["cost_after"] < note["cost_before"]
    read = footage(take, NAMES)
    whole = read.cut(slice(0, read.frames))
    for part in (slice(0, 1), slice(50, 120), slice(100, read.frames)):
        assert torch.equal(read.cut(part).pixels.nan_to_num(), whole.pixels[:, part].nan_to_num())
        assert read.cut(part).first_frame == part.start
    truth = take.cameras().project(dancer(torch.arange(20, 200, dtype=torch.float64) / 60))
    assert float((whole.pixels[:, 20:200, 0] - truth).norm(dim=-1).nanmedian()) < 0.2  # the noise is 0.08 px a coordinate
    assert video_frame(take, "c", 100) == 102 and float(take.times("c", torch.tensor([0]))[0]) == pytest.approx(-2.25 / 60, abs=0.004)


@pytest.mark.parametrize("still", [True, False])
def test_a_take_in_step_or_without_motion_is_left_as_it_is(tmp_path, still):
    take = laid_out(tmp_path, [0.0, 1.5 / 60, -2.25 / 60, 0.0] if still else [0.0] * 4, still=still)
    sync(take)
    assert sync_of(take) is None and not take.notes()["sync"]["numbers"]["followed"]


def test_an_edited_file_is_kept_and_followed(tmp_path):
    take = laid_out(tmp_path, [0.0] * 4)
    path = sync(take, SyncConfig("off"))
    assert sync_of(take) is None
    path.write_text(path.read_text().replace("use: false", "use: true").replace("b: {offset_s: 0.0", "b: {offset_s: 0.05"))
    sync(take)
    made = sync_of(take)
    assert made is not None and made.cameras["b"].offset_s == 0.05
    path.write_text("cameras: {a: {offset: 1}}")
    with pytest.raises(ValueError, match=r"sync\.yaml.*'offset'"):
        sync(take)


def test_a_file_says_again_what_was_saved(tmp_path):
    made = clocks([0.0, 0.25, -1.5, 0.001], frame_times={"b": (0.0, 0.034, 0.066)})
    assert Sync.load(made.save(tmp_path / "sync.yaml")) == made
    with pytest.raises(ValueError, match="reference"):
        replace(made, reference="z")


def test_dropped_frames_are_placed_by_their_time_stamps(tmp_path):
    path = tmp_path / "videos" / "a.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in (0, 1, 2, 3, 6, 7, 8, 9, 10, 11):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    film(tmp_path / "videos" / "b.mp4", 12)
    rig(["a", "b"]).save(tmp_path / "cameras.yaml")
    take = Take.of([tmp_path / "videos"], tmp_path / "cameras.yaml", tmp_path / "take")
    assert torch.allclose(own_times(take, "a") * 30, torch.tensor([0, 1, 2, 3, 6, 7, 8, 9, 10, 11.0]).double(), atol=0.01)
    assert torch.allclose(take.times("b", torch.tensor([3, 5])) * 30, torch.tensor([3.0, 5.0]).double())

"""Recording live sources: from network cameras that tests serve themselves, and from a generated picture in place of a device."""

import csv
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from live_server import FPS, Camera, jpeg_camera, rtsp_camera, transport_stream, ts_camera

from studio import arrivals, cli, record, video
from studio.sync.table import read_table

RAW = "lavfi:testsrc=size=160x120:rate=20,realtime"


def numbers(path: Path) -> list[int]:
    """Numbers of the pictures that a clip shows, by their brightness (`live_server.picture`)."""
    return [round((float(image[-40:].mean()) - 40) / 4) for _, image in video.frames(path, gray=True)]


def rows(table: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["cam_id"], []).append(float(row["frame_time"]))
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three network cameras for three seconds; the connection to the third is cut after one."""
    folder, images = tmp_path_factory.mktemp("clips"), []
    with ts_camera() as h264, jpeg_camera() as jpeg, ts_camera(breaks={0: 30}) as broken:
        sources = {"cam01": h264.url, "cam02": jpeg.url, "cam03": broken.url}
        begun = time.time()
        made = record.record(sources, folder, 3.5, lambda name, image: images.append((name, time.monotonic(), image)), patience=2)
    return SimpleNamespace(folder=folder, made=made, images=images, begun=begun, ended=time.time())


def test_every_frame_of_a_clip_has_its_row_and_its_true_time(recorded):
    times = rows(recorded.made.table)
    for name, clip in recorded.made.clips.items():
        assert clip.video == recorded.folder / f"{name}.mkv"
        assert video.probe(clip.video).frames == len(times[name]) == len(clip.times) > 20
        assert recorded.begun < times[name][0] < times[name][-1] < recorded.ended
    steady = np.diff(times["cam01"])
    assert abs(np.median(steady) - 1 / FPS) < 1e-3 and abs(recorded.made.clips["cam01"].fps - FPS) < 0.2
    assert 3.5 * FPS * 0.6 < len(times["cam01"]) <= 3.5 * FPS + 1


def test_the_pictures_come_in_the_order_and_number_in_which_they_were_sent(recorded):
    for name in ("cam01", "cam02"):
        shown = np.array(numbers(recorded.folder / f"{name}.mkv"))
        assert (np.diff(shown) % 40 == 1).all()  # none lost, none twice


def test_what_the_network_sent_is_kept_without_encoding_it_again(recorded):
    import av

    for name, codec in (("cam01", "h264"), ("cam02", "mjpeg")):
        with av.open(str(recorded.folder / f"{name}.mkv")) as file:
            assert file.streams.video[0].codec_context.name == codec


def test_a_stream_without_time_stamps_is_as_fast_as_it_arrived(recorded):
    info = video.probe(recorded.folder / "cam02.mkv")  # the library would guess 25 a second
    assert abs(float(info.fps) - FPS) < 1
    assert abs(recorded.made.clips["cam02"].fps - FPS) < 1


def test_a_lost_connection_is_found_again_and_the_gap_is_counted(recorded):
    clip = recorded.made.clips["cam03"]
    gap = float(np.diff(clip.times).max())
    assert clip.breaks >= 1 and clip.trouble == ""
    assert gap > 2 / FPS and clip.dropped >= round(gap * FPS) - 2
    shown = np.array(numbers(clip.video))
    assert len(shown) == len(clip.times) and (np.diff(shown) % 40 != 1).sum() == 1  # in order but for the break


def test_an_rtsp_camera_is_kept_as_it_comes_and_found_again(tmp_path):
    with rtsp_camera(breaks={0: 25}) as camera:
        clip = record.record({"cam01": camera.url}, tmp_path, 4, patience=2).clips["cam01"]
    assert clip.breaks == 1 and clip.trouble == "" and abs(clip.fps - FPS) < 0.2
    shown = np.array(numbers(clip.video))
    assert len(shown) == len(clip.times) > 30 and (np.diff(shown) % 40 != 1).sum() == 1


def test_a_stream_joined_before_it_told_its_size_is_encoded_instead(tmp_path):
    pieces = transport_stream(160, gop=60, codec="mpeg4")  # without the first, its size comes with the sixtieth image
    with Camera(pieces, "video/mp2t", skipped=frozenset({0}), speed=4, finite=True) as camera:
        clip = record.record({"cam01": camera.url}, tmp_path, 10).clips["cam01"]
    info = video.probe(tmp_path / "cam01.mkv")
    assert (info.width, info.height) == (160, 120) and info.frames == len(clip.times) == 100
    wrong = (np.array(numbers(clip.video)) - np.arange(60, 160) + 20) % 40 - 20
    assert np.abs(wrong).max() <= 2  # in order, none twice; this codec blurs small steps of brightness


def test_a_stream_that_ended_is_not_called_lost_and_is_not_recorded_again(tmp_path, capsys):
    with Camera(transport_stream(30), "video/mp2t", speed=4, finite=True) as camera:
        clip = record.record({"cam01": camera.url}, tmp_path, 10, patience=2).clips["cam01"]
        assert camera.served == 1
    assert 20 <= len(clip.times) <= 30 and (clip.breaks, clip.trouble) == (0, "the stream ended")  # from a key frame on
    said = capsys.readouterr().err
    assert "cam01: the stream ended" in said and "lost" not in said and "back after" not in said


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_source_of_which_nothing_could_be_written_leaves_no_file(tmp_path, monkeypatch, codec):
    from studio import live

    def refuse(*_):
        raise live.av.error.ArgumentError(22, "Invalid argument", "cam01.partial.mkv")

    monkeypatch.setattr(live.LiveWriter, "_copy", refuse)
    monkeypatch.setattr(live.LiveWriter, "_encode", refuse)
    skipped = frozenset({0} if codec == "mpeg4" else ())
    with Camera(transport_stream(90, gop=60, codec=codec), "video/mp2t", speed=4, skipped=skipped, finite=True) as camera:
        clip = record.record({"cam01": camera.url}, tmp_path / "clips", 10, patience=2).clips["cam01"]
    assert clip.video is None and not list((tmp_path / "clips").iterdir())
    assert clip.trouble.startswith("the clip ends here, for what came cannot be written (Invalid argument)")


def test_previews_are_few_small_and_of_every_source(recorded):
    for name in recorded.made.clips:
        moments = [t for n, t, _ in recorded.images if n == name]
        assert 3 <= len(moments) <= 3.5 / record.PREVIEW + 2
    assert {image.shape for _, _, image in recorded.images} == {(120, 160, 3)}


def test_the_studio_reads_the_table_as_its_clocks(recorded):
    names = ["cam01", "cam02"]
    sync = read_table(recorded.made.table, names, {n: len(recorded.made.clips[n].times) for n in names})
    assert abs(sync.fps - FPS) < 0.5 and abs(sync.cameras["cam01"].offset_s - sync.cameras["cam02"].offset_s) < 1


def test_a_device_that_sends_raw_images_is_encoded(tmp_path):
    made = record.record({"cam01": RAW}, tmp_path, 1.0)
    info = video.probe(tmp_path / "cam01.mkv")
    assert info.frames == len(made.clips["cam01"].times) >= 15 and (info.width, info.height) == (160, 120)
    assert abs(float(info.fps) - 20) < 1


def test_a_live_view_keeps_nothing(tmp_path):
    seen, stop = [], threading.Event()

    def look(name, image):
        seen.append(name)
        if len(seen) == 3:
            stop.set()

    made = record.record({"cam01": RAW}, None, on_preview=look, stop=stop)
    assert len(seen) == 3 and made.table is None and made.clips["cam01"].video is None and not list(tmp_path.iterdir())


def test_ctrl_c_leaves_whole_files(tmp_path):
    with ts_camera(20) as camera:
        words = ["record", "--stream", f"cam01={camera.url}", "--out", str(tmp_path / "clips")]
        run = subprocess.Popen([sys.executable, "-c", "from studio.cli import main; main()", *words], stderr=subprocess.PIPE, text=True)
        partial = tmp_path / "clips/cam01.partial.mkv"
        for _ in range(400):
            if partial.exists() and partial.stat().st_size > 2000:  # so much is on the disk before the end
                break
            time.sleep(0.05)
        else:
            pytest.fail("nothing reached the disk")
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=90)  # a source that is read from is left when its patience ends, on busy machines late
    assert run.returncode == 0 and "fps, 0 dropped" in said and "Traceback" not in said
    assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == ["cam01.mkv", "timestamps.csv"]
    assert len(numbers(tmp_path / "clips/cam01.mkv")) == len(rows(tmp_path / "clips/timestamps.csv")["cam01"])


def test_a_missing_device_and_a_dead_address_are_told_together(tmp_path):
    sources = {"cam01": "/dev/video97", "cam02": "http://user:secret@127.0.0.1:9/video"}
    with pytest.raises(
        ValueError, match=r"cam01: /dev/video97: no such capture device; there .*cam02: http://\*\*\*@127.*cannot be opened"
    ) as told:
        record.record(sources, tmp_path / "clips", 1)
    assert "secret" not in str(told.value)


def test_a_full_disk_ends_the_recording_and_keeps_what_is_there(tmp_path, monkeypatch):
    free = iter([10**12, 10**12, 10**8])
    monkeypatch.setattr(record.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free, 10**8)))
    with pytest.raises(OSError, match=r"disk is full.*kept: make room"):
        record.record({"cam01": RAW}, tmp_path / "clips", 20)
    assert video.probe(tmp_path / "clips/cam01.mkv").frames > 5 and (tmp_path / "clips/timestamps.csv").exists()


def test_a_recording_is_never_written_over(tmp_path):
    (tmp_path / "cam01.mp4").write_bytes(b"a take")
    with pytest.raises(FileExistsError, match=r"cam01\.mp4: exists already; choose another --out"):
        record.record({"cam01": RAW}, tmp_path, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device", "cam01"], "needs NAME=PLACE, for example cam01=/dev/video0"),
        (["--stream", "cam01=/dev/video0"], "needs NAME=PLACE, for example cam02=rtsp"),
        (["--device", "a=0", "--stream", "a=rtsp://x"], "'a' is named twice"),
        ([], "no source given"),
        (["--device", "a/b=0"], "cannot be the name of a clip"),
        (["--device", "a=0", "--seconds", "-1"], "--seconds -1: needs a duration"),
    ],
)
def test_wrong_words_are_refused(tmp_path, capsys, words, says):
    assert cli.call(["record", *words, "--out", str(tmp_path / "clips")]) == 2
    assert says in capsys.readouterr().err


# Clocks, from times made up here


def test_frame_times_are_the_source_s_even_clock_under_the_late_arrivals():
    rng = np.random.default_rng(0)
    taken = 1000 + np.arange(200) / 30
    arrived = taken + 0.08 + rng.exponential(0.03, 200)
    arrived[57] = taken[57] + 0.08  # once the network was quick
    found = arrivals.frame_times([(t - 990, a) for t, a in zip(taken, arrived)])
    assert np.abs(found - taken - 0.08).max() < 2e-3
    assert np.abs(arrived - taken - 0.08).max() > 0.1  # which the arrivals alone would miss


def test_a_camera_s_clock_that_drifts_is_followed():
    taken = np.arange(0, 600, 0.5)
    found = arrivals.frame_times([(t * (1 + 2e-4), t + 0.1) for t in taken])
    assert np.abs(found - taken - 0.1).max() < 1e-3


@pytest.mark.parametrize("stamps", [np.arange(100) / 25, np.zeros(100), np.r_[np.arange(50), np.arange(50)] / 20])
def test_stamps_that_cannot_be_true_are_not_believed(stamps):
    arrived = 5 + np.arange(100) / 20
    assert np.array_equal(arrivals.frame_times(list(zip(stamps, arrived))), arrived)


def test_frames_of_one_instant_share_an_index_and_a_camera_is_in_each_once():
    times = {"a": np.arange(6) * 0.04, "b": np.arange(6) * 0.04 + 0.012, "c": np.arange(3) * 0.08 + 0.03}
    groups: dict[int, list[str]] = {}
    for index, name, _ in arrivals.instants(times):
        groups.setdefault(index, []).append(name)
    assert all(len(set(g)) == len(g) for g in groups.values())
    assert sum({"a", "b"} <= set(g) for g in groups.values()) == 6  # 12 ms apart of 40
    assert sum("c" in g and len(g) > 1 for g in groups.values()) == 3 and sorted(groups) == list(range(len(groups)))


def test_no_two_frames_have_one_time():
    assert (np.diff(np.round(arrivals.ascending(np.array([2.0, 1.0, 1.0, 1.0])), 6)) > 0).all()

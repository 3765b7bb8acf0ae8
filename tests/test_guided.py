"""Calibrated cameras seen in step: the stage's promises hold for them, too."""

import threading

import numpy as np
import pytest
import torch
from test_guide import DATA, K, walker
from test_track import ring

from studio.detect import DetectConfig, detect, guided
from studio.detect import mediapipe as detectors
from studio.detect.landmarks import Sight
from studio.detect.mediapipe import Mediapipe
from studio.detect.regions import Region
from studio.take import Take
from studio.values import Keypoints2D
from studio.video import VideoWriter, frames

CAMERAS = ring(4, 4.0)
TRUTH = walker(30)
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here; set STUDIO_DATA")


class Stub:
    """Sees the walker exactly; how sure it is tells whether it was given a hint, and whether that was right."""

    calls = 0
    stop_after: int | None = None
    lock = threading.Lock()

    def __init__(self, phase=0, **settings):
        self.camera = phase // 7

    def see_with(self, image, hints):
        with Stub.lock:
            if Stub.stop_after is not None and Stub.calls >= Stub.stop_after:
                raise KeyboardInterrupt
            Stub.calls += 1
        number = round(float(image.mean()) / 4)
        pixels = (CAMERAS[self.camera].project(torch.from_numpy(TRUTH[number]))[0].numpy() + 0.5) / 30 - 0.5  # the videos are smaller
        right = len(hints) == 1 and np.nanmax(np.linalg.norm(hints[0].pixels - pixels, axis=-1)) < 1
        return {0: Sight(pixels, np.ones(133), np.full(133, 0.9 if right else 0.8), np.zeros((133, 3)), None)}


@pytest.fixture
def take(tmp_path, monkeypatch):
    monkeypatch.setattr(guided, "Guided", Stub)
    Stub.calls, Stub.stop_after = 0, None
    CAMERAS.save(tmp_path / "cameras.yaml")
    for camera in CAMERAS.names:
        with VideoWriter(tmp_path / f"{camera}.mp4", 64, 36, 30, crf=4) as writer:
            for i in range(30):
                writer.write(np.full((36, 64, 3), 4 * i, np.uint8))
    return Take(tmp_path / "take", {c: tmp_path / f"{c}.mp4" for c in CAMERAS.names}, tmp_path / "cameras.yaml")


def seen(take):
    return Keypoints2D.read(take.keypoints_folder, CAMERAS.names)


CONFIG = DetectConfig(piece=10, workers=1, masks=False, guided=True)


def test_every_view_is_told_in_every_frame_also_at_the_seams(take):
    detect(take, CONFIG)
    sure = seen(take).confidence[:, :, 0, 0]
    assert sure.shape == (4, 30) and bool((sure[:, 1:] > 0.85).all())


def test_as_many_threads_as_cameras_see_what_one_sees(take):
    found = []
    for workers in (1, 4):
        detect(take, DetectConfig(piece=1000, workers=workers, masks=False, guided=True))
        found.append(seen(take))
        for file in take.keypoints_folder.iterdir():
            file.unlink()
    assert found[0].pixels.equal(found[1].pixels) and found[0].confidence.equal(found[1].confidence)


def test_a_killed_run_goes_on_with_the_pieces_that_are_not_done(take):
    detect(take, CONFIG)
    whole, needed = seen(take), Stub.calls
    for file in take.keypoints_folder.iterdir():
        file.unlink()
    Stub.calls, Stub.stop_after = 0, needed // 2
    with pytest.raises(KeyboardInterrupt):
        detect(take, CONFIG)
    assert not list(take.folder.rglob("*.partial*")) and not list(take.keypoints_folder.iterdir())
    first, Stub.stop_after = Stub.calls, None
    detect(take, CONFIG)
    again = seen(take)
    assert again.pixels.equal(whole.pixels) and again.confidence.equal(whole.confidence)
    assert Stub.calls - first <= needed - first + 4 * 25  # one window, with the frames before it, at most was seen twice
    assert not (take.folder / "parts").exists()


def test_what_is_fresh_is_not_seen_again_and_the_setting_counts(take):
    detect(take, CONFIG)
    before = Stub.calls
    detect(take, CONFIG)
    assert Stub.calls == before
    detect(take, DetectConfig(piece=12, workers=1, masks=False, guided=True))
    assert Stub.calls > before


class Blind:
    """Sees nobody."""

    def __init__(self, **settings):
        pass

    def see(self, image, passed=1):
        return {}

    def remembered(self):
        return lambda: None


@pytest.mark.parametrize("in_step", [True, False])
def test_another_calibration_makes_guided_detections_stale_and_no_others(take, monkeypatch, in_step):
    monkeypatch.setitem(detectors.DETECTORS, "mediapipe", Blind)
    config = DetectConfig(piece=25, workers=1, masks=False, guided=in_step)
    written = [(detect(take, config) / f"{CAMERAS.names[0]}.safetensors").stat().st_mtime_ns]
    for cameras in (CAMERAS, ring(4, 4.1)):
        cameras.save(take.cameras_file)
        written.append((detect(take, config) / f"{CAMERAS.names[0]}.safetensors").stat().st_mtime_ns)
    assert written[1] == written[0]
    assert (written[2] > written[1]) == in_step


@real
def test_without_hints_a_guided_view_sees_what_the_detector_alone_sees():
    alone, view = Mediapipe(), guided.Guided(phase=7)
    for _, image in frames(DATA / "videos" / "cam01.mp4", 40, 42):
        (a,), (b,) = alone.see(image).values(), view.see_with(image, []).values()
        assert np.array_equal(a.pixels, b.pixels, equal_nan=True)


@real
def test_whom_a_view_lost_it_finds_where_the_others_put_him_without_a_search(monkeypatch):
    """The hint is what another look at the same picture told, not what the guided view itself saw."""
    from studio.guide import Hint

    _, image = next(iter(frames(DATA / "videos" / "cam01.mp4", 40, 41)))
    (known,) = Mediapipe().see(image).values()
    hint = Hint(None, known.pixels, 450.0, np.isfinite(known.pixels).all(-1))
    view = guided.Guided(phase=1)  # no search is due
    monkeypatch.setattr(view, "_search", lambda pyramid: pytest.fail("searched"))
    (found,) = view.see_with(image, [hint]).values()
    limbs = [K[f"{s}_{n}"] for s in ("left", "right") for n in ("shoulder", "hip", "knee")]
    assert np.linalg.norm(found.pixels[limbs] - known.pixels[limbs], axis=1).max() < 25
    elsewhere = Hint(None, known.pixels - (400, 0), 450.0, hint.shown)
    empty = guided.Guided(phase=1)
    monkeypatch.setattr(empty, "_search", lambda pyramid: None)
    assert not any(s.confidence[:23].any() for s in empty.see_with(image, [elsewhere]).values())
    region = guided.body_region(hint)
    assert isinstance(region, Region) and 0.5 < region.size / float(np.nanmax(known.pixels[:23, 1]) - np.nanmin(known.pixels[:23, 1])) < 2

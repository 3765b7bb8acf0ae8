"""The decoder: exact frame numbers, upright images, honest errors, nothing half-written."""

import gc
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from studio.video import BrokenVideo, VideoWriter, frames, probe, times


def coded(number, width=64, height=48):
    """An image whose blocks spell the frame number in binary, robust to compression; the top left quarter of block 0 is red."""
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        image[height // 2 :, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    image[: height // 4, : width // 4] = (255, 0, 0)
    return image


def spelled(image):
    """The number in a coded image."""
    height, width = image.shape[:2]
    row = image[3 * height // 4].reshape(width, -1).mean(1)
    return sum(int(row[bit * width // 8 + width // 16] > 128) << bit for bit in range(8))


def raw(path, count=60, rate=30, stamps=None, gop=12, options=None, container_options=None, noise=0):
    """A video written directly with the library, not with the code under test."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"crf": "12", "g": str(gop), "bf": "3", **(options or {})}
        stream.codec_context.time_base = Fraction(1, 1000) if stamps else Fraction(1, rate)
        for i in range(count):
            image = coded(i)
            image[:24] += np.random.default_rng(i).integers(0, noise + 1, (24, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (stamps[i], Fraction(1, 1000)) if stamps else (i, Fraction(1, rate))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_every_frame_arrives_once_in_order_with_its_number(tmp_path):
    path = raw(tmp_path / "a.mp4")
    assert [(i, spelled(image)) for i, image in frames(path)] == [(i, i) for i in range(60)]
    info = probe(path)
    assert (info.width, info.height, info.frames, info.fps, info.rotation, info.variable) == (64, 48, 60, Fraction(30), 0, False)
    assert info.duration == pytest.approx(2.0)


@pytest.mark.parametrize("options", [{}, {"x264-params": "open-gop=1"}])
def test_seeking_lands_on_the_exact_frame(tmp_path, options):
    path = raw(tmp_path / "a.mp4", options=options)
    for first, last in ((0, 3), (11, 14), (12, 13), (13, 30), (47, 60), (59, 60)):
        assert [(i, spelled(image)) for i, image in frames(path, first, last)] == [(i, i) for i in range(first, last)]


def test_threads_do_not_change_what_is_decoded(tmp_path):
    path = raw(tmp_path / "a.mp4")
    one = [image for _, image in frames(path, 20, 40)]
    many = [image for _, image in frames(path, 20, 40, threads=0)]
    assert all((a == b).all() for a, b in zip(one, many, strict=True))


def red_corner(image):
    """Where the red block is: (top, left)."""
    rows, columns = np.nonzero((image[..., 0] > 150) & (image[..., 1] < 100))
    return bool(rows.mean() < image.shape[0] / 2), bool(columns.mean() < image.shape[1] / 2)


# Where a top left mark must be shown, from the meaning of each orientation.
@pytest.mark.parametrize(
    ("matrix", "shape", "corner", "angle", "mirrored"),
    [
        ([1, 0, 0, 1], (48, 64), (True, True), 0, False),
        ([0, 1, -1, 0], (64, 48), (True, False), 90, False),
        ([-1, 0, 0, -1], (48, 64), (False, False), 180, False),
        ([0, -1, 1, 0], (64, 48), (False, True), 270, False),
        ([-1, 0, 0, 1], (48, 64), (True, False), 0, True),
        ([1, 0, 0, -1], (48, 64), (False, True), 180, True),
        ([0, 1, 1, 0], (64, 48), (True, True), 90, True),
        ([0, -1, -1, 0], (64, 48), (False, False), 270, True),
    ],
)
def test_images_come_upright_whatever_the_phone_wrote(tmp_path, matrix, shape, corner, angle, mirrored):
    a, b, c, d = matrix
    path = patched(raw(tmp_path / "a.mp4", count=3), (a, b, c, d))
    info = probe(path)
    assert (info.height, info.width, info.rotation, info.mirrored) == (*shape, angle, mirrored)
    for _, image in frames(path):
        assert image.shape == (*shape, 3)
        assert red_corner(image) == corner
    small = next(iter(frames(path, size=(shape[1] // 2, shape[0] // 2))))[1]
    assert small.shape == (shape[0] // 2, shape[1] // 2, 3) and red_corner(small) == corner


def patched(path, matrix):
    """Put a display matrix into the track header by hand (ISO 14496-12, box `tkhd` version 0)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (v * 65536 for v in matrix)
    data[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    path.write_bytes(data)
    return path


def test_variable_frame_rate_keeps_its_time_stamps(tmp_path):
    stamps = [0, 33, 66, 200, 233, 266, 500, 533]
    path = raw(tmp_path / "a.mkv", count=8, stamps=stamps)
    info = probe(path)
    assert info.variable and info.frames == 8
    assert times(path).tolist() == pytest.approx([s / 1000 for s in stamps], abs=1e-3)
    assert [spelled(image) for _, image in frames(path, 3, 6)] == [3, 4, 5]


def test_ntsc_rate_stays_an_exact_fraction(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, Fraction(30000, 1001)) as writer:
        for i in range(30):
            writer.write(coded(i))
    assert probe(path).fps == Fraction(30000, 1001)


def test_a_cut_off_file_gives_what_it_holds_and_names_the_first_missing_frame(tmp_path):
    path = raw(tmp_path / "whole.mp4", container_options={"movflags": "faststart"}, noise=50)
    data = path.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 6 // 10])
    seen = []
    with pytest.raises(BrokenVideo, match=r"cut\.mp4: frame \d+ of 60") as caught:
        for i, image in frames(cut):
            seen.append((i, spelled(image)))
    assert 5 < len(seen) < 60
    assert seen == [(i, i) for i in range(len(seen))]
    assert caught.value.frame == len(seen)
    assert probe(cut).frames < probe(cut).promised == 60


def test_a_file_without_its_index_names_the_remedy(tmp_path):
    path = raw(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"a\.mp4: not a readable video .*record again"):
        probe(path)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4: no such video"):
        probe(tmp_path / "absent.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"empty\.mp4: the file is empty"):
        list(frames(tmp_path / "empty.mp4"))
    (tmp_path / "text.mp4").write_text("not a video" * 50)
    with pytest.raises(ValueError, match=r"text\.mp4: not a readable video"):
        probe(tmp_path / "text.mp4")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound\.wav: holds no video stream \(only audio\)"):
        probe(tmp_path / "sound.wav")
    path = raw(tmp_path / "a.mp4", count=5)
    with pytest.raises(ValueError, match="frames 5 to None asked for, but it holds frames 0 to 4"):
        list(frames(path, 5))


def test_masks_survive_exactly(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 31, 45), dtype=np.uint8)
    with VideoWriter(tmp_path / "m.mkv", 45, 31, 59.94, codec="ffv1 gray") as writer:
        for image in images:
            writer.write(image)
    assert (np.stack([image for _, image in frames(tmp_path / "m.mkv", gray=True)]) == images).all()
    assert (next(iter(frames(tmp_path / "m.mkv", 4, 5, gray=True)))[1] == images[4]).all()


def test_colours_and_gray_levels_survive_within_compression(tmp_path):
    flat = np.zeros((48, 64, 3), np.uint8)
    for i, colour in enumerate([(255, 255, 255), (0, 0, 0), (200, 40, 30), (30, 60, 210)]):
        flat[:, i * 16 : (i + 1) * 16] = colour
    with VideoWriter(tmp_path / "c.mp4", 64, 48, 25, crf=5) as writer:
        writer.write(flat)
    back = next(iter(frames(tmp_path / "c.mp4")))[1].astype(int)
    assert np.abs(back[:, 4::16] - flat[:, 4::16]).max() <= 6
    gray = next(iter(frames(tmp_path / "c.mp4", gray=True)))[1].astype(int)
    assert gray[24, 8] >= 252 and gray[24, 24] <= 3


def test_a_failed_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "x.mp4", 64, 48, 25) as writer:
        writer.write(coded(0))
        raise RuntimeError
    with pytest.raises(ValueError, match=r"x\.mp4: image \(10, 10, 3\)"), VideoWriter(tmp_path / "x.mp4", 64, 48, 25) as writer:
        writer.write(np.zeros((10, 10, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path):
    def peak(count):
        path = tmp_path / f"{count}.mp4"
        with VideoWriter(path, 640, 480, 30) as writer:
            for i in range(count):
                writer.write(np.full((480, 640, 3), i % 250, np.uint8))
        tracemalloc.start()
        for _ in frames(path):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(60) < peak(10) + 2 * 640 * 480 * 3


def test_odd_sizes_can_be_written(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4", 63, 47, 25) as writer:
        writer.write(np.full((47, 63, 3), 128, np.uint8))
    info = probe(tmp_path / "odd.mp4")
    assert (info.width, info.height, info.frames) == (63, 47, 1)


def test_images_that_were_shown_are_let_go_without_waiting_for_the_garbage_collector(tmp_path):
    path = tmp_path / "long.mp4"
    with VideoWriter(path, 64, 48, 30) as writer:
        for i in range(60):
            writer.write(np.full((48, 64, 3), i, np.uint8))
    gc.collect()
    gc.disable()
    try:
        before = sum(type(o).__name__ == "VideoFrame" for o in gc.get_objects())
        for _ in frames(path):
            pass
        kept = sum(type(o).__name__ == "VideoFrame" for o in gc.get_objects()) - before
    finally:
        gc.enable()
    assert kept <= 2

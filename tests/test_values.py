"""Values survive the disk, a stretch of frames can be read alone, and a damaged file is named."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from studio.values import KeypointFiles, Keypoints2D, Motion, Tracks3D


def seen(camera: str, T: int = 6, D: int = 1) -> Keypoints2D:
    g = torch.Generator().manual_seed(len(camera) + D)
    return Keypoints2D(
        (camera,),
        ("nose", "left_eye"),
        "exact",
        30.0,
        4,
        torch.rand(1, T, D, 2, 2, generator=g),
        torch.ones(1, T, D, 2),
        torch.ones(1, T, D, 2),
    )


def test_what_is_saved_is_loaded(tmp_path):
    value = seen("a")
    value.save(tmp_path / "a.safetensors", config={"x": 1})
    back = Keypoints2D.load(tmp_path / "a.safetensors")
    assert torch.equal(back.pixels, value.pixels) and back.cameras == ("a",) and back.first_frame == 4 and back.skeleton is None
    assert Keypoints2D.record(tmp_path / "a.safetensors") == {"config": {"x": 1}}


def test_some_frames_are_read_along_the_axis_that_counts_them(tmp_path):
    value = seen("a")
    value.save(tmp_path / "a.safetensors")
    assert torch.equal(Keypoints2D.load(tmp_path / "a.safetensors", slice(2, 5)).pixels, value.pixels[:, 2:5])
    views = {"detection": 1, "swapped": 1, "trusted": 1, "exchanged": 1, "hidden": 1}
    assert Tracks3D.time_axes() == {"points": 0, "covariance": 0, **views}
    assert Motion.time_axes()["rotation"] == 0 and "shape" not in Motion.time_axes()


def test_cameras_join_with_missing_people_as_not_seen(tmp_path):
    seen("a").save(tmp_path / "a.safetensors")
    seen("bb", T=5, D=3).save(tmp_path / "bb.safetensors")
    both = Keypoints2D.read(tmp_path, ["a", "bb"])
    assert both.pixels.shape == (2, 5, 3, 2, 2) and both.pixels[0, :, 1:].isnan().all() and both.confidence[0, :, 1:].eq(0).all()


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    seen("a").save(path)
    with pytest.raises(ValueError, match="not Tracks3D"):
        Tracks3D.load(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=str(path)):
        Keypoints2D.load(path)
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors"):
        Keypoints2D.read(tmp_path, ["a", "b"])


def tracks(T: int) -> Tracks3D:
    g = torch.Generator().manual_seed(T)
    flags = [torch.rand(3, T, 2, *k, generator=g) > 0.5 for k in ((), (5,))]
    points, covariance = torch.randn(T, 2, 5, 3, generator=g), torch.randn(T, 2, 5, 3, 3, generator=g)
    return Tracks3D(tuple("abcde"), ("x", "y"), 30.0, 7, points, covariance, torch.randint(-1, 3, (3, T, 2), generator=g), *flags)


def test_a_value_written_in_pieces_is_the_value_written_whole(tmp_path):
    value = tracks(23)
    value.save(tmp_path / "whole.safetensors", made="here")
    with value.cut(slice(0, 0)).writer(tmp_path / "pieces.safetensors", 23, made="here") as file:
        for start in (10, 0, 20):  # in any order
            file.put(start, value.cut(slice(start, start + 10)))
    one, other = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "pieces.safetensors")
    assert one.keys() == other.keys() == {"points", "covariance", "detection", "swapped", "trusted"}
    assert all(one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one)
    back = Tracks3D.load(tmp_path / "pieces.safetensors", slice(4, 9))
    assert back.first_frame == 11 and back.actors == ("x", "y") and torch.equal(back.points, value.points[4:9])
    assert Tracks3D.record(tmp_path / "pieces.safetensors") == {"made": "here"} and Tracks3D.count(tmp_path / "pieces.safetensors") == 23


def test_tensors_without_frames_are_written_once(tmp_path):
    T, rest = 5, (torch.rand(5, 3), torch.rand(5, 2, 3), torch.rand(5, 1), torch.rand(5, 2), torch.rand(5, 4))
    value = Motion("b", "x", ("r", "s"), 30.0, 0, "00:00:00:00", torch.rand(6), *rest)
    with value.writer(tmp_path / "m.safetensors", T) as file:
        file.put(0, value.cut(slice(0, 3)))
        file.put(3, value.cut(slice(3, 5)))
    back = Motion.load(tmp_path / "m.safetensors")
    assert torch.equal(back.shape, value.shape) and torch.equal(back.rotation, value.rotation)


def test_frames_that_were_forgotten_or_do_not_fit_leave_no_file(tmp_path):
    path, value = tmp_path / "t.safetensors", tracks(8)
    with pytest.raises(ValueError, match="3 of 8 frames"), value.writer(path, 8) as file:
        file.put(0, value.cut(slice(0, 5)))
    with pytest.raises(ValueError, match="does not fit"), value.writer(path, 8) as file:
        file.put(3, value)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_killed_half_way_leaves_no_file_under_the_final_name(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from test_values import tracks\n"
        "value = tracks(8)\n"
        "with value.writer(Path(sys.argv[1]), 8) as file:\n"
        "    file.put(0, value.cut(slice(0, 5)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "t.safetensors"
    ended = subprocess.run([sys.executable, "-c", program, str(path), os.path.dirname(__file__)], check=False)  # noqa: PTH120
    assert ended.returncode == -signal.SIGKILL
    assert not path.exists()


def test_files_of_several_cameras_are_read_in_stretches_as_long_as_the_shortest(tmp_path):
    a, b = seen("a"), seen("bb", T=5, D=3)
    a.save(tmp_path / "a.safetensors")
    b.save(tmp_path / "bb.safetensors")
    footage = KeypointFiles(tmp_path, ("a", "bb"))
    assert footage.frames == 5
    part = footage.cut(slice(2, 4))
    assert (
        part.first_frame == 6 and torch.equal(part.pixels[0, :, 0], a.pixels[0, 2:4, 0]) and torch.equal(part.pixels[1], b.pixels[0, 2:4])
    )

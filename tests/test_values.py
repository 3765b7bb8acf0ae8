"""Values survive the disk, a stretch of frames can be read alone, and a damaged file is named."""

import pytest
import torch

from studio.values import Keypoints2D, Motion, Tracks3D


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
    assert Tracks3D.time_axes() == {"points": 0, "covariance": 0, "detection": 1, "swapped": 1, "trusted": 1, "exchanged": 1}
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

"""COLMAP's models: text and bytes laid out here by COLMAP's documentation, and its camera models written out in numpy."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_formats import assert_same, rig

from calibration.formats import read_cameras, write_cameras

torch.set_num_threads(1)
IDS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "RADIAL": 3,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6,
    "SIMPLE_RADIAL_FISHEYE": 8,
    "RADIAL_FISHEYE": 9,
}
PARAMETERS = {
    "SIMPLE_PINHOLE": [1500, 960, 540.5],
    "PINHOLE": [1500, 1480, 960, 540.5],
    "SIMPLE_RADIAL": [1500, 960, 540.5, -0.11],
    "RADIAL": [1500, 960, 540.5, -0.11, 0.03],
    "OPENCV": [1500, 1480, 960, 540.5, -0.11, 0.03, 1e-3, -2e-3],
    "OPENCV_FISHEYE": [900, 890, 960, 540.5, 0.02, -0.01, 3e-3, -1e-3],
    "FULL_OPENCV": [1500, 1480, 960, 540.5, -0.11, 0.03, 1e-3, -2e-3, 0.01, 0.02, -0.01, 0.005],
    "SIMPLE_RADIAL_FISHEYE": [900, 960, 540.5, 0.02],
    "RADIAL_FISHEYE": [900, 960, 540.5, 0.02, -0.01],
}
POSES = {
    "a": ((0.9, 0.1, -0.3, 0.2), (0.1, -0.4, 3.0)),
    "b": ((0.2, -0.8, 0.4, 0.1), (-0.6, 0.2, 4.0)),
}


def colmap_pixels(model: str, points: np.ndarray, pose: tuple) -> np.ndarray:
    """COLMAP's projection (colmap/src/colmap/sensor/models.h): (0, 0) is the outer corner of the first pixel."""
    (w, x, y, z), t = pose
    X, Y, Z = (Rotation.from_quat(np.array([x, y, z, w])).as_matrix() @ points.T) + np.array(t)[:, None]
    u, v, p = X / Z, Y / Z, PARAMETERS[model]
    fx, fy, cx, cy, k = (p[0], *p[0:3], p[3:]) if model.startswith(("SIMPLE", "RADIAL")) else (*p[:4], p[4:])
    k = [*k, *[0.0] * (8 - len(k))]
    r = np.hypot(u, v)
    if "FISHEYE" in model:
        angle = np.arctan(r)
        bent = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8)
        return np.stack([fx * u * bent / r + cx, fy * v * bent / r + cy], -1)
    bend = (1 + k[0] * r**2 + k[1] * r**4 + k[4] * r**6) / (1 + k[5] * r**2 + k[6] * r**4 + k[7] * r**6)
    u, v = (
        u * bend + 2 * k[2] * u * v + k[3] * (r**2 + 2 * u * u),
        v * bend + 2 * k[3] * u * v + k[2] * (r**2 + 2 * v * v),
    )
    return np.stack([fx * u + cx, fy * v + cy], -1)


def as_text(folder, model: str) -> None:
    numbers = " ".join(map(str, PARAMETERS[model]))
    (folder / "cameras.txt").write_text(f"# Camera list\n7 {model} 1920 1080 {numbers}\n")
    lines = ["# Image list with two lines of data per image:"]
    for i, (name, (q, t)) in enumerate(POSES.items()):
        q = np.array(q) / np.linalg.norm(q)
        lines += [" ".join(map(repr, map(float, [*q, *t]))).join([f"{i + 1} ", f" 7 {name}.png"]), "" if i else "12.5 30.0 -1 4 5 2"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")


def as_bytes(folder, model: str) -> None:
    p = PARAMETERS[model]
    (folder / "cameras.bin").write_bytes(struct.pack(f"<QiiQQ{len(p)}d", 1, 7, IDS[model], 1920, 1080, *p))
    data = struct.pack("<Q", 2)
    for i, (name, (q, t)) in enumerate(POSES.items()):
        q = np.array(q) / np.linalg.norm(q)
        data += struct.pack("<i7di", i + 1, *q, *t, 7) + f"{name}.png".encode() + b"\0"
        data += struct.pack("<Q2dq", 1, 12.5, 30.0, -1) if i == 0 else struct.pack("<Q", 0)
    (folder / "images.bin").write_bytes(data)


@pytest.mark.parametrize("model", IDS)
@pytest.mark.parametrize("layout", [as_text, as_bytes])
def test_every_model_sees_points_where_colmap_sees_them_less_half_a_pixel(tmp_path, model, layout):
    layout(tmp_path, model)
    cameras = read_cameras(tmp_path)
    assert cameras.names == ("a", "b") and cameras.size.tolist() == [[1920, 1080]] * 2
    rng = np.random.default_rng(0)
    for c, (q, t) in enumerate(POSES.values()):
        q = np.array(q) / np.linalg.norm(q)
        seen = np.c_[rng.uniform(-0.3, 0.3, (50, 2)), np.ones(50)] * rng.uniform(2, 5, (50, 1))
        points = (seen - t) @ Rotation.from_quat(q[[1, 2, 3, 0]]).as_matrix()
        off = cameras[c].project(torch.tensor(points))[0].numpy() - (colmap_pixels(model, points, (q, t)) - 0.5)
        assert np.abs(off).max() < 1e-9


def test_a_model_is_found_from_its_folder_its_files_and_the_project(tmp_path):
    place = tmp_path / "sparse/0"
    place.mkdir(parents=True)
    as_text(place, "OPENCV")
    want = read_cameras(place)
    for path in (tmp_path, place / "images.txt", place / "cameras.txt"):
        assert_same(read_cameras(path), want)
    assert torch.allclose(read_cameras(place, unit=0.5).position, want.position / 2)


def test_images_in_a_folder_a_camera_are_named_after_their_folders(tmp_path):
    as_text(tmp_path, "PINHOLE")
    text = (tmp_path / "images.txt").read_text()
    (tmp_path / "images.txt").write_text(text.replace("a.png", "left/0001.png").replace("b.png", "right cam/0001.png"))
    assert read_cameras(tmp_path).names == ("left", "right cam")


@pytest.mark.parametrize("kind", ["colmap", "colmap-binary"])
def test_what_is_written_is_read_again_whatever_the_lens(tmp_path, kind):
    full = torch.tensor([[-0.1, 0.02, 1e-3, 2e-3, 0.01, 0.02, 0.01, 0.03]], dtype=torch.float64)
    fish = torch.tensor([[0.02, -0.01, 1e-3, 2e-3, 0, 0, 0, 0]], dtype=torch.float64)
    cameras = rig(("left", "01", "über 2"))
    cameras = replace(cameras, lens=("brown", "fisheye", "brown"), distortion=torch.cat([full, fish, 0 * full]))
    write_cameras(cameras, tmp_path / "model", kind)
    assert_same(read_cameras(tmp_path / "model"), cameras, 1e-12)
    ending = "bin" if kind == "colmap-binary" else "txt"
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [f"cameras.{ending}", f"images.{ending}", f"points3D.{ending}"]
    with pytest.raises(ValueError, match=r"holds a COLMAP model in .* files already; choose another folder"):
        write_cameras(cameras, tmp_path / "model", "colmap" if kind == "colmap-binary" else "colmap-binary")


def spoilt(folder, name: str, old: bytes, new: bytes) -> None:
    data = (folder / name).read_bytes()
    assert old in data
    (folder / name).write_bytes(data.replace(old, new, 1))


BAD = {
    "model": ("cameras.txt", b"OPENCV", b"FOV", r"images\.txt: camera 'a': field 'MODEL' is FOV.*image_undistorter"),
    "count": ("cameras.txt", b" -0.002", b"", r"camera 'a': field 'PARAMS' holds 7 numbers where OPENCV has 8"),
    "short": (
        "cameras.txt",
        b"1920 1080 1500 1480 960 540.5 -0.11 0.03 0.001 -0.002",
        b"1920",
        r"cameras\.txt: line 2: needs CAMERA_ID MODEL",
    ),
    "words": ("cameras.txt", b"1500", b"wide", r"cameras\.txt: line 2: .*are not numbers"),
    "focal": ("cameras.txt", b"1500", b"-1500", "field 'PARAMS' holds a focal length that is not positive"),
    "number": ("images.txt", b" 7 a.png", b" 8 a.png", r"images\.txt: camera 'a': field 'CAMERA_ID' is 8, which cameras\.txt lacks"),
    "length": ("images.txt", b" 3.0 7 a.png", b" 7 a.png", r"images\.txt: line 2: needs IMAGE_ID"),
    "quaternion": ("images.txt", b"1 0.9", b"1 9.9", "camera 'a': field 'QW QX QY QZ' is a quaternion of length"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_text_model_is_refused_with_file_camera_field_and_remedy(tmp_path, name):
    file, old, new, says = BAD[name]
    as_text(tmp_path, "OPENCV")
    spoilt(tmp_path, file, old, new)
    with pytest.raises(ValueError, match=f"(?s){says}"):
        read_cameras(tmp_path)


@pytest.mark.parametrize(
    ("file", "left"), [("cameras.bin", 50), ("images.bin", 40), ("images.bin", 78), ("images.bin", 100), ("cameras.bin", 3)]
)
def test_a_truncated_binary_model_says_so(tmp_path, file, left):
    as_bytes(tmp_path, "OPENCV")
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:left])
    with pytest.raises(ValueError, match=rf"{file}: the file ends too soon, after {left} bytes"):
        read_cameras(tmp_path)


def test_an_unknown_binary_model_and_a_missing_file_are_named(tmp_path):
    as_bytes(tmp_path, "OPENCV")
    spoilt(tmp_path, "cameras.bin", struct.pack("<ii", 7, 4), struct.pack("<ii", 7, 10))
    with pytest.raises(ValueError, match=r"cameras\.bin: camera 7: field 'MODEL' is number 10.*OPENCV_FISHEYE"):
        read_cameras(tmp_path)
    (tmp_path / "images.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"images\.bin: no such file; a COLMAP model needs both"):
        read_cameras(tmp_path)

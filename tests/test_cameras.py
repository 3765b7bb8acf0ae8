"""Cameras against OpenCV, and against the files people edit."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import yaml
from scipy.spatial.transform import Rotation

from calibration.cameras import Cameras, adapt_to_video, joined, upright_view

torch.set_num_threads(1)


def random_cameras(seed: int, coefficients: int, lens: str = "brown", count: int = 4) -> Cameras:
    rng = np.random.default_rng(seed)
    k = np.zeros((count, 8))
    scale = np.array([0.02, 0.01, 0.005, 0.002] + [0] * 4) if lens == "fisheye" else np.array([0.2, 0.1, 2e-3, 2e-3, 0.05, 0.1, 0.05, 0.02])
    k[:, :coefficients] = rng.normal(size=(count, coefficients)) * scale[:coefficients]
    return Cameras(
        names=tuple(f"cam{i}" for i in range(count)),
        size=torch.tensor([[1920.0, 1080.0]] * count, dtype=torch.float64),
        focal=torch.tensor(rng.uniform(900, 1600, (count, 2))),
        centre=torch.tensor(rng.uniform((900, 500), (1000, 580), (count, 2))),
        distortion=torch.tensor(k),
        lens=(lens,) * count,
        R_camera_world=torch.tensor(Rotation.random(count, random_state=seed).as_matrix()),
        position=torch.tensor(rng.normal(size=(count, 3)) * 3),
    )


def one(distortion: list[float], lens: str = "brown", size=(1920.0, 1080.0)) -> Cameras:
    """A camera at the origin that looks along z, with a wide view (f = 900 px)."""
    eye = torch.eye(3, dtype=torch.float64)
    k = torch.tensor([distortion + [0.0] * (8 - len(distortion))], dtype=torch.float64)
    focal, pixels = torch.tensor([[900.0, 910.0]], dtype=torch.float64), torch.tensor([size], dtype=torch.float64)
    return Cameras(("wide",), pixels, focal, (pixels - 1) / 2, k, (lens,), eye[None], torch.zeros_like(eye[:1]))


def points_in_view(cameras: Cameras, c: int, seed: int) -> torch.Tensor:
    """World points before camera c, to the edge of where its lens is one-to-one."""
    rng = np.random.default_rng(seed)
    radius = min(float(cameras.reach[c]) * 0.999, 1.2)
    angle, r = rng.uniform(0, 2 * np.pi, 500), rng.uniform(0, radius, 500)
    depth = rng.uniform(0.5, 8, 500)[:, None]
    p = np.stack([r * np.cos(angle), r * np.sin(angle), np.ones(500)], -1) * depth
    return torch.tensor(p) @ cameras.R_camera_world[c] + cameras.position[c]


@pytest.mark.parametrize("coefficients", [0, 4, 5, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_projection_is_opencvs(coefficients, seed):
    cameras = random_cameras(seed, coefficients)
    for c in range(len(cameras)):
        points = points_in_view(cameras, c, seed)
        rvec, K = cv2.Rodrigues(cameras.R_camera_world[c].numpy())[0], cameras.matrix[c].numpy()
        expected = cv2.projectPoints(
            points.numpy(), rvec, cameras.translation[c].numpy(), K, cameras.distortion[c, : max(coefficients, 4)].numpy()
        )[0]
        assert np.abs(cameras.project(points)[c].numpy() - expected[:, 0]).max() < 1e-6


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fisheye_projection_is_opencvs_also_beside_a_brown_lens(seed):
    cameras = joined([random_cameras(seed, 4, "fisheye", 2), replace(random_cameras(seed, 5, count=1), names=("plain",))])
    for c in range(2):
        points = points_in_view(cameras, c, seed)
        rvec, K = cv2.Rodrigues(cameras.R_camera_world[c].numpy())[0], cameras.matrix[c].numpy()
        expected = cv2.fisheye.projectPoints(
            points.numpy()[:, None], rvec, cameras.translation[c].numpy(), K, cameras.distortion[c, :4].numpy()
        )[0]
        assert np.abs(cameras.project(points)[c].numpy() - expected[:, 0]).max() < 1e-6


STRONG = {
    "gopro": ([-0.27, 0.09, 3e-4, -2e-4, -0.015], "brown"),
    "webcam": ([-0.3321, 0.0464, -0.0043, 0.0041, 0.0666], "brown"),
    "pincushion": ([0.5, 0.3, 1e-3, 1e-3, 0.1], "brown"),
    "rational": ([0.4, 0.05, 1e-4, 2e-4, 0.001, 0.75, 0.15, 0.005], "brown"),
    "barrel that folds": ([-0.45, 0.05, 0, 0, 0], "brown"),
    "fisheye": ([0.08, -0.02, 0.01, -0.003], "fisheye"),
    "ideal fisheye": ([0, 0, 0, 0], "fisheye"),
}


@pytest.mark.parametrize("name", STRONG)
def test_undistort_inverts_distort_or_says_nan(name):
    camera = one(*STRONG[name])
    rng = np.random.default_rng(0)
    angle, r = rng.uniform(0, 2 * np.pi, 5000), rng.uniform(0, min(0.99 * float(camera.reach), 4 if "fisheye" in name else 1.7), 5000)
    plane = torch.tensor(np.stack([r * np.cos(angle), r * np.sin(angle)], -1))[None]
    assert (camera.undistort(camera.distort(plane)) - plane).abs().max() < 1e-9
    x, y = np.meshgrid(np.linspace(-0.5, 1919.5, 97), np.linspace(-0.5, 1079.5, 55))
    pixels = torch.tensor(np.stack([x, y], -1))[None]
    again = camera.distort(camera.undistort(pixels))
    solved = torch.isfinite(again).all(-1)
    assert (again - pixels)[solved].abs().max() < 1e-6
    widest = np.abs(camera.distort(plane)[0].numpy() - camera.centre.numpy()).max()  # the last circle that any direction reaches
    near = np.hypot(x - float(camera.centre[0, 0]), y - float(camera.centre[0, 1])) < 0.97 * widest
    assert near.mean() > 0.3 and solved[0].numpy()[near].all()


def test_a_pixel_that_no_direction_reaches_has_no_ray():
    camera = one([-0.45, 0.05])
    widest = float(camera.distort(torch.tensor([[[float(camera.reach) * 0.9999, 0.0]]], dtype=torch.float64))[0, 0, 0])
    beyond = torch.tensor([[[widest + 5, float(camera.centre[0, 1])], [widest - 5, float(camera.centre[0, 1])]]], dtype=torch.float64)
    rays = camera.ray(beyond)
    assert torch.isnan(rays[0, 0]).all() and torch.isfinite(rays[0, 1]).all()


def test_a_point_far_outside_the_view_is_not_folded_into_the_image():
    camera = one([-0.45, 0.05])
    steep = torch.tensor([[1.55, 0.0, 1.0], [0.3, 0.0, 1.0]], dtype=torch.float64)
    folded = cv2.projectPoints(steep.numpy(), np.zeros(3), np.zeros(3), camera.matrix[0].numpy(), camera.distortion[0].numpy())[0][0]
    assert camera.inside(torch.tensor(folded)[None]).all(), "the plain polynomial puts it inside: the trap is real"
    pixels = camera.project(steep)[0]
    assert torch.isnan(pixels[0]).all() and torch.isfinite(pixels[1]).all()


def test_a_lens_that_never_folds_reaches_everywhere():
    assert torch.isinf(one([0.0]).reach).all() and torch.isinf(one([0.1, 0.1]).reach).all()
    # k1 alone folds where d(r + k1 r^3)/dr = 0
    assert float(one([-0.2]).reach) == pytest.approx((1 / 0.6) ** 0.5, rel=2e-3)


def test_single_precision_undistorts_to_a_hundredth_of_a_pixel():
    camera = random_cameras(3, 5, count=1).to(dtype=torch.float32)
    pixels = torch.rand(1, 1000, 2, generator=torch.Generator().manual_seed(0)) * camera.size[0]
    again = camera.distort(camera.undistort(pixels))
    assert torch.isfinite(again).all() and (again - pixels).abs().max() < 0.02


def test_the_ray_of_a_point_passes_through_it():
    cameras = random_cameras(5, 5)
    for c, camera in enumerate(cameras):
        points = points_in_view(cameras, c, 5)
        toward = points - camera.position[0]
        along = (camera.ray(camera.project(points))[0] * toward).sum(-1)
        assert (along - toward.norm(dim=-1)).abs().max() < 1e-9


def test_what_is_behind_a_camera_is_not_seen():
    camera = one([-0.1])
    pixels = camera.project(torch.tensor([[0.0, 0, -2], [0, 0, 0], [0, 0, 2]], dtype=torch.float64))[0]
    assert torch.isnan(pixels[:2]).all() and torch.allclose(pixels[2], camera.centre[0])


def test_gradients_of_a_projection_are_right():
    cameras = random_cameras(1, 8, count=1)
    points = points_in_view(cameras, 0, 1)[:5].requires_grad_()
    assert torch.autograd.gradcheck(cameras.project, points)


def test_resizing_keeps_the_corner_of_the_image_at_the_corner():
    camera = random_cameras(2, 5, count=1)
    half = camera.resized(torch.tensor([[960.0, 540.0]], dtype=torch.float64))
    points = points_in_view(camera, 0, 2)
    before, after = camera.project(points)[0].numpy(), half.project(points)[0].numpy()
    # a 2 x 2 block of pixels becomes one: cv2's area resampling puts the centre of pixels 0 and 1 (0.5) at pixel 0
    assert np.abs((before - 0.5) / 2 - after).max() < 1e-9


def test_one_camera_of_many_is_still_cameras():
    cameras = random_cameras(0, 5)
    assert cameras["cam2"].names == ("cam2",) and len(cameras[["cam3", "cam0"]]) == 2
    assert joined(list(cameras)).names == cameras.names
    with pytest.raises(KeyError, match=r"cam9.*cam0"):
        cameras.index("cam9")
    with pytest.raises(ValueError, match="differ"):
        joined([cameras, cameras])


def test_saved_cameras_come_back(tmp_path):
    cameras = joined([random_cameras(0, 8), replace(random_cameras(1, 4, "fisheye", 1), names=("01",))])
    cameras.save(tmp_path / "cameras.yaml")
    again = Cameras.load(tmp_path / "cameras.yaml")
    assert again.names == cameras.names and again.lens == cameras.lens
    for field in ("size", "focal", "centre", "distortion", "R_camera_world", "position"):
        assert torch.equal(getattr(again, field), getattr(cameras, field)), field
    assert [p.name for p in tmp_path.iterdir()] == ["cameras.yaml"]


BAD = {
    "size": ["wide", [1920], [0, 1080]],
    "focal": [None, [[1, 2], [3, 4]], [-900, 900], [".nan", 900], "a: b"],
    "centre": [[1, 2, 3], {"x": 1, "y": 2}],
    "lens": ["telephoto"],
    "distortion": [[0.0] * 9 + [0.1], ["k1"]],
    "R_camera_world": [[[1, 0, 0], [0, 1, 0], [0, 0, 2]], [[1, 0, 0], [0, 1, 0], [0, 0, -1]], [[1, 0, 0], [0, 1]]],
    "position": [[1, 2]],
    "distorsion": [[0.1]],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD.items() for v in values])
def test_a_bad_field_is_named_with_file_and_camera(tmp_path, field, value):
    path = tmp_path / "cameras.yaml"
    random_cameras(0, 5).save(path)
    document = yaml.safe_load(path.read_text())
    document["cameras"]["cam2"][field] = value
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=f"cameras.yaml: camera 'cam2': field '{field}'"):
        Cameras.load(path)


@pytest.mark.parametrize("field", ["size", "focal", "centre", "R_camera_world", "position"])
def test_a_missing_field_is_named(tmp_path, field):
    path = tmp_path / "cameras.yaml"
    random_cameras(0, 5).save(path)
    document = yaml.safe_load(path.read_text())
    del document["cameras"]["cam1"][field]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=f"cameras.yaml: camera 'cam1': field '{field}' is missing"):
        Cameras.load(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cameras: [", "not valid YAML"),
        ("cameras: {}", "no camera"),
        ("", "no camera"),
        ("- 1", "no camera"),
        ("unit: mm\ncameras: {a: {}}", "unit"),
        ("cameras: {a: {}, a: {}}", "'a' appears twice"),
        ("cameras: {a: 3}", "camera 'a'"),
        ("cameras: {? [1] : 2}", "plain text"),
    ],
)
def test_a_file_that_is_no_camera_file_is_refused_by_name(tmp_path, text, says):
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"(?s)cameras.yaml.*{says}"):
        Cameras.load(path)


def test_an_unreadable_file_is_refused_by_name(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"binary\.yaml: not a text file"):
        Cameras.load(tmp_path / "binary.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        Cameras.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.yaml.*calibrate"):
        Cameras.load(tmp_path / "none.yaml")


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    path = tmp_path / "cameras.yaml"
    one([0.0]).save(path)
    path.write_text(path.read_text().replace("distortion: [0.0,", "distortion: [1e-5,"))
    assert float(Cameras.load(path).distortion[0, 0]) == 1e-5


def test_a_video_of_the_calibrated_size_leaves_the_camera_alone():
    camera = one([0.1])
    assert adapt_to_video(camera, 1920, 1080) is camera


def test_a_smaller_video_of_the_same_shape_is_a_resize():
    camera = random_cameras(0, 5, count=1)
    points = points_in_view(camera, 0, 0)
    small = adapt_to_video(camera, 640, 360)
    assert torch.allclose((camera.project(points) + 0.5) / 3 - 0.5, small.project(points))
    assert small.size.tolist() == [[640, 360]]


def test_codec_padding_moves_nothing():
    camera = one([0.1])
    padded = adapt_to_video(camera, 1920, 1088)
    assert padded.size.tolist() == [[1920, 1088]] and torch.equal(padded.centre, camera.centre) and torch.equal(padded.focal, camera.focal)
    cut = adapt_to_video(one([0.1], size=(1920.0, 1088.0)), 1920, 1080, "cropped")
    assert cut.size.tolist() == [[1920, 1080]] and torch.equal(cut.centre, one([0.1], size=(1920.0, 1088.0)).centre)


def test_a_letterboxed_video_matches_the_image_a_converter_makes():
    camera = one([0.0], size=(1088.0, 1920.0))
    image = np.zeros((1920, 1088), np.float32)
    spots = np.array([[100, 150], [900, 200], [200, 1700], [950, 1800]])
    for x, y in spots:
        cv2.circle(image, (int(x), int(y)), 20, 1.0, -1)
    inner = cv2.resize(image, (1080, 1906), interpolation=cv2.INTER_AREA)  # scaled to the narrower side, then bars of 7 rows
    video = np.pad(inner, ((7, 7), (0, 0)))
    rays = torch.tensor(np.c_[(spots - camera.centre.numpy()) / camera.focal.numpy(), np.ones(4)])
    for (x, y), at in zip(spots, adapt_to_video(camera, 1080, 1920).project(rays)[0].numpy()):
        window = video[int(y) - 40 : int(y) + 40, int(x) - 40 : int(x) + 40]
        rows, columns = np.indices(window.shape)
        found = np.array([(window * columns).sum() / window.sum() + x - 40, (window * rows).sum() / window.sum() + y - 40])
        assert np.abs(found - at).max() < 0.1


@pytest.mark.parametrize(
    ("size", "says"), [((1080, 1920), "rotation"), ((720, 1280), "rotation"), ((640, 480), "another shape"), ((1920, 1200), "another")]
)
def test_a_video_of_another_shape_is_refused_with_both_sizes(size, says):
    with pytest.raises(ValueError, match=f"'wide'.*1920 x 1080.*{size[0]} x {size[1]}.*{says}"):
        adapt_to_video(one([0.1]), *size)


def test_a_whole_rig_is_not_adapted_to_one_video():
    with pytest.raises(ValueError, match="one camera"):
        adapt_to_video(random_cameras(0, 5), 1920, 1080)


def test_an_upright_view_has_what_it_looks_at_in_the_middle_and_what_is_above_it_above():
    ahead = torch.from_numpy(np.random.default_rng(4).normal(size=(2, 7, 3)) * 3)
    R = upright_view(ahead)
    up = ahead + torch.tensor([0.0, 0.0, 0.1])
    x, y, z = (R @ up[..., None])[..., 0].unbind(-1)
    assert torch.allclose((R @ ahead[..., None])[..., 0], torch.stack([0 * z, 0 * z, ahead.norm(dim=-1)], -1), atol=1e-12)
    assert float(x.abs().max()) < 1e-12 and float(y.max()) < 0
    assert torch.allclose(torch.linalg.det(R), torch.ones(2, 7, dtype=torch.float64))

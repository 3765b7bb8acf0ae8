"""Triangulation: exactness, robustness, honest covariance. Pixels come from OpenCV and from plain pinhole formulas."""

import cv2
import numpy as np
import pytest
import torch

from calibration.cameras import Cameras
from calibration.triangulate import triangulate


def ring(count: int = 6, lens: str = "brown", distortion: tuple[float, ...] = (), radius: float = 4.0, arc: float = 360.0) -> Cameras:
    angle = np.deg2rad(np.arange(count) / count * arc)
    position = np.stack([radius * np.cos(angle), radius * np.sin(angle), 1.4 + 0.7 * (np.arange(count) % 2)], -1)
    forward = np.array([0, 0, 1.0]) - position
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return Cameras(
        names=tuple(f"c{i}" for i in range(count)),
        size=torch.tensor([[1920.0, 1080.0]], dtype=torch.float64).repeat(count, 1),
        focal=torch.tensor([[1200.0, 1180.0]], dtype=torch.float64).repeat(count, 1),
        centre=torch.tensor([[955.0, 545.0]], dtype=torch.float64).repeat(count, 1),
        distortion=torch.tensor([[*distortion, *[0.0] * (8 - len(distortion))]], dtype=torch.float64).repeat(count, 1),
        lens=(lens,) * count,  # type: ignore[arg-type]
        R_camera_world=torch.from_numpy(np.stack([right, np.cross(forward, right), forward], 1)),
        position=torch.from_numpy(position),
    )


def seen_by_opencv(cameras: Cameras, points: np.ndarray) -> np.ndarray:
    """(C, n, 2) px by cv2."""
    out = []
    for c in range(len(cameras)):
        turn = cv2.Rodrigues(cameras.R_camera_world[c].numpy())[0]
        K, t = cameras.matrix[c].numpy(), cameras.translation[c].numpy()
        if cameras.lens[c] == "fisheye":
            pixels = cv2.fisheye.projectPoints(points[:, None], turn, t, K, cameras.distortion[c, :4].numpy())[0]
        else:
            pixels = cv2.projectPoints(points, turn, t, K, cameras.distortion[c].numpy())[0]
        out.append(pixels[:, 0])
    return np.stack(out)


def cloud(n: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((-0.6, -0.6, 0), (0.6, 0.6, 1.8), (n, 3))


LENSES = {
    "ideal": {},
    "brown": {"distortion": (-0.12, 0.03, 0.001, -0.0007, 0.004, 0.01, 0.002, 0.001)},
    "fisheye": {"lens": "fisheye", "distortion": (0.05, -0.01, 0.003, -0.001)},
}


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-6), (torch.float32, 5e-5)])
def test_without_noise_points_are_exact_for_every_lens(lens, dtype, error):
    cameras, truth = ring(**LENSES[lens]), cloud()
    pixels = torch.from_numpy(seen_by_opencv(cameras, truth))
    found = triangulate(cameras, pixels, torch.ones(6, len(truth)), dtype=dtype)
    assert found.points.dtype == dtype
    assert np.abs(found.points.double().numpy() - truth).max() < error
    assert bool(found.inlier.all())
    assert found.residual.max() < 0.02


def noisy(cameras: Cameras, truth: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    sigma = random.uniform(0.5, 3, (len(cameras), len(truth)))
    pixels = seen_by_opencv(cameras, truth) + random.normal(size=(len(cameras), len(truth), 2)) * sigma[..., None]
    return torch.from_numpy(pixels).float(), torch.from_numpy(sigma).float()


def test_a_lost_camera_does_not_move_the_point():
    cameras, truth = ring(), cloud()
    pixels, sigma = noisy(cameras, truth, 1)
    everyone = triangulate(cameras, pixels, sigma)
    pixels[2] = torch.nan
    found = triangulate(cameras, pixels, sigma)
    moved = (found.points - everyone.points).norm(dim=-1)
    allowed = 5 * found.covariance.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    assert bool((moved < allowed).all())
    assert not found.inlier[2].any()
    assert bool(found.residual[2].isnan().all())


def test_a_corrupted_camera_is_the_same_as_a_lost_one():
    cameras, truth = ring(), cloud()
    pixels, sigma = noisy(cameras, truth, 2)
    lost, corrupted = pixels.clone(), pixels.clone()
    lost[3] = torch.nan
    corrupted[3] += torch.tensor([70.0, -60.0])
    a, b = triangulate(cameras, lost, sigma), triangulate(cameras, corrupted, sigma)
    assert not b.inlier[3].any()
    truth = torch.from_numpy(truth)
    assert ((a.points - b.points).norm(dim=-1) < 2e-4).float().mean() > 0.99  # elsewhere chance decides about a view near the threshold
    assert (b.points - truth).norm(dim=-1).max() < 1.05 * (a.points - truth).norm(dim=-1).max()
    naive = triangulate(cameras, corrupted, sigma, robust=False)
    assert (naive.points - truth).norm(dim=-1).median() > 0.02  # the corruption matters where nothing guards against it


def test_three_corrupted_cameras_of_eight_do_not_move_the_point():
    cameras, truth = ring(8), cloud()
    pixels, sigma = noisy(cameras, truth, 3)
    random = np.random.default_rng(4)
    for n in range(len(truth)):
        for c in random.choice(8, 3, replace=False):
            turn = random.uniform(0, 2 * np.pi)
            pixels[c, n] += torch.tensor([np.cos(turn), np.sin(turn)]).float() * random.uniform(60, 400)
    error = (triangulate(cameras, pixels, sigma).points - torch.from_numpy(truth)).norm(dim=-1)
    assert (error < 0.03).float().mean() > 0.99


@pytest.mark.parametrize("lens", ["ideal", "fisheye"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_covariance_is_calibrated(seed, lens):
    cameras, truth = ring(5, **LENSES[lens]), cloud(4000, seed)
    pixels, sigma = noisy(cameras, truth, seed + 10)
    found = triangulate(cameras, pixels, sigma, dtype=torch.float64)
    error = (found.points - torch.from_numpy(truth))[..., None]
    squared = (error.mT @ torch.linalg.solve(found.covariance, error)).flatten()
    assert squared.isfinite().float().mean() > 0.999
    assert 2.85 < squared.nanmean() < 3.15  # of a chi-square variable with three degrees of freedom: 3
    assert 0.93 < (squared < 7.815).float().mean() < 0.965  # its 95 % quantile
    doubled = triangulate(cameras, pixels, 2 * sigma, dtype=torch.float64).covariance
    overstated = (error.mT @ torch.linalg.solve(doubled, error)).nanmean()
    assert overstated < 1  # a wrong sigma shows


def test_two_cameras_give_a_point_and_their_disagreement_gives_none():
    cameras, truth = ring(2, arc=180), cloud(50)
    pixels = torch.from_numpy(seen_by_opencv(cameras, truth))
    found = triangulate(cameras, pixels, torch.ones(2, 50), dtype=torch.float64)
    assert np.abs(found.points.numpy() - truth).max() < 1e-6
    across = pixels.clone()
    across[1, :, 1] += 80
    found = triangulate(cameras, across, torch.ones(2, 50))
    assert bool(found.points.isnan().all())
    assert bool(found.covariance.isnan().all())
    assert not found.inlier.any()


def test_what_is_not_seen_is_nan_and_never_a_number():
    cameras, truth = ring(), cloud(6)
    pixels = torch.from_numpy(seen_by_opencv(cameras, truth)).float()
    sigma = torch.ones(6, 6)
    pixels[:, 0] = torch.nan  # nobody
    pixels[1:, 1] = torch.nan  # one camera
    sigma[2:, 2] = torch.inf  # two cameras, the others without weight
    sigma[:5, 3] = torch.nan  # one camera
    sigma[:, 4] = 0  # nobody
    found = triangulate(cameras, pixels, sigma)
    assert found.points.isfinite().all(-1).tolist() == [False, False, True, False, False, True]
    assert found.inlier.sum(0).tolist() == [0, 0, 2, 0, 0, 6]
    assert not any(t.isinf().any() for t in (found.points, found.covariance, found.residual))


def test_rays_that_are_nearly_parallel_give_no_point():
    narrow, wide = ring(3, arc=1.0), ring(3, arc=30.0)
    truth = cloud(50)
    for cameras, finite in ((narrow, False), (wide, True)):
        cameras = Cameras(**{**vars(cameras), "position": cameras.position * torch.tensor([1, 1, 0]) + torch.tensor([0, 0, 1.4])})
        pixels = torch.from_numpy(seen_by_opencv(cameras, truth))
        points = triangulate(cameras, pixels, torch.ones(3, 50), dtype=torch.float64).points
        assert bool(points.isfinite().all()) == finite


def test_single_precision_agrees_with_double_far_from_the_origin():
    cameras, truth = ring(), cloud()
    shift = torch.tensor([300.0, -200.0, 50.0], dtype=torch.float64)
    pixels, sigma = noisy(cameras, truth, 5)
    away = Cameras(**{**vars(cameras), "position": cameras.position + shift})
    single = triangulate(away, pixels, sigma).points
    double = triangulate(away, pixels.double(), sigma.double(), dtype=torch.float64).points
    assert (single - double).abs().max() < 2e-4
    assert (double - shift - torch.from_numpy(truth)).norm(dim=-1).median() < 0.01


def test_chunks_and_leading_axes_do_not_change_the_result():
    cameras, truth = ring(), cloud(120)
    pixels, sigma = noisy(cameras, truth, 6)
    pixels[0, ::3] += 90
    whole = triangulate(cameras, pixels, sigma)
    parts = triangulate(cameras, pixels.view(6, 4, 30, 2), sigma.view(6, 4, 30), chunk=17)
    torch.testing.assert_close(parts.points.view(-1, 3), whole.points, atol=1e-5, rtol=0)
    assert bool((parts.inlier.view(6, -1) == whole.inlier).all())
    assert parts.covariance.shape == (4, 30, 3, 3)
    assert parts.residual.shape == (6, 4, 30)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"6 cameras need pixels \(6, \.\.\., 2\)"):
        triangulate(ring(), torch.zeros(5, 3, 2), torch.ones(5, 3))

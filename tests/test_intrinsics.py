"""Lens calibration: truth projected by OpenCV, compared with cv2.calibrateCamera and with Qualisys on real images."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from calibration.boards import Board
from calibration.formats import read_cameras
from calibration.intrinsics import FocalPrior, LensFit, calibrate_lens
from studio.boards import find_in_images

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared/data"))
POSE2SIM = DATA / "pose2sim_single/calibration"
BOARD = Board("charuco", 7, 5, 0.04, 0.03)
SIZE = (1280, 720)
CENTRE = (647.5, 348.5)


def footage(seed, views=20, focal=900.0, k=(), fisheye=False, tilt=35.0, noise=0.2, near=(0.4, 1.0), spread=0.8, middle=(0.0, 0.0)):
    """Corners (B, N, 2) of boards all over the image, NaN outside it; `k` in OpenCV's order."""
    rng, points = np.random.default_rng(seed), BOARD.points().numpy()
    K = np.array([[focal, 0, CENTRE[0]], [0, focal, CENTRE[1]], [0, 0, 1]])
    found = []
    while len(found) < views:
        R = Rotation.from_euler("zyx", [rng.uniform(-180, 180), *rng.uniform(-tilt, tilt, 2)], degrees=True)
        at = (rng.uniform(-1, 1, 2) * spread + middle) * np.array(SIZE) / 2 / focal
        t = np.array([*at, 1]) * rng.uniform(*near) - R.apply(points.mean(0))
        args = (points[:, None], R.as_rotvec(), t, K, np.array((*k, 0, 0, 0, 0)[:4], float))
        seen = cv2.fisheye.projectPoints(*args)[0][:, 0] if fisheye else cv2.projectPoints(*args)[0][:, 0]
        seen = seen + rng.normal(0, noise, seen.shape)
        seen[((seen < 0) | (seen > np.array(SIZE) - 1)).any(1)] = np.nan
        if np.isfinite(seen).all(1).sum() >= 12:
            found.append(seen)
    return torch.from_numpy(np.stack(found))


def calibrated(pixels, **options) -> LensFit:
    return calibrate_lens(pixels, BOARD.points(), SIZE, torch.full(pixels.shape[:2], 0.2), **options)


def test_the_lens_comes_back_within_its_stated_deviation():
    for seed, k in ((1, (-0.25, 0.08)), (2, ())):
        fit = calibrated(footage(seed, k=k))
        assert fit.trusted, fit.reasons
        assert fit.focal_sd < 0.006
        off = torch.cat([fit.focal - 900, fit.centre - torch.tensor(CENTRE)]) / fit.covariance.diagonal()[:4].sqrt()
        assert float(off.abs().max()) < 3.5
        assert fit.rms == pytest.approx(0.2 * 2**0.5, rel=0.15)
        assert fit.held_out == pytest.approx(fit.rms, rel=0.15)


def test_it_is_no_worse_than_opencv():
    ours, theirs = [], []
    for seed in range(3):
        pixels = footage(10 + seed, views=15, k=(-0.2, 0.05))
        fit = calibrated(pixels, lens="brown")
        seen = [p.isfinite().all(1).numpy() for p in pixels]
        objects = [BOARD.points().numpy()[s].astype(np.float32) for s in seen]
        images = [p.numpy()[s].astype(np.float32) for p, s in zip(pixels, seen)]
        K = cv2.calibrateCamera(objects, images, SIZE, None, None)[1]
        ours.append(fit.focal[0].item() - 900)
        theirs.append(K[0, 0] - 900)
    assert np.sqrt(np.mean(np.square(ours))) < 1.2 * np.sqrt(np.mean(np.square(theirs))) + 0.2


@pytest.mark.parametrize(
    ("k", "coefficients"),
    [((), {0}), ((-0.15,), {1, 2}), ((-0.3, 0.12), {2, 4}), ((-0.3, 0.12, 0.004, -0.005), {4, 5})],
)
def test_the_data_tell_how_many_coefficients_they_carry(k, coefficients):
    fit = calibrated(footage(21, views=24, k=k, focal=800.0), lens="brown")
    assert fit.coefficients in coefficients
    assert not bool(fit.distortion[5:].any())
    assert torch.allclose(fit.distortion[:2], torch.tensor([*k, 0.0, 0.0][:2], dtype=torch.float64), atol=0.04)


def test_a_fisheye_is_told_from_a_brown_lens():
    fit = calibrated(footage(7, views=30, focal=420.0, k=(-0.05, 0.01, -0.004, 0.001), fisheye=True, near=(0.2, 0.4), noise=0.1))
    assert fit.lens == "fisheye"
    assert abs(fit.focal[0].item() / 420 - 1) < 0.01


def test_views_that_disagree_are_left_out():
    pixels = footage(5, k=(-0.1,))
    clean = calibrated(pixels, lens="brown", coefficients=1)
    broken = pixels.clone()
    rng = np.random.default_rng(1)
    for view in (2, 9, 15):
        broken[view] += torch.from_numpy(rng.normal(0, 6, broken[view].shape))
    fit = calibrated(broken, lens="brown", coefficients=1)
    assert fit.bad.nonzero()[:, 0].tolist() == [2, 9, 15]
    assert abs(fit.focal[0].item() / clean.focal[0].item() - 1) < 0.005


def test_a_stray_corner_costs_no_view():
    pixels = footage(5, k=(-0.1,))
    clean = calibrated(pixels, lens="brown", coefficients=1)
    for view in range(0, 20, 2):
        corner = int(pixels[view].isfinite().all(-1).nonzero()[3])
        pixels[view, corner] += 25.0
    fit = calibrated(pixels, lens="brown", coefficients=1)
    assert not bool(fit.bad.any()) and bool(fit.used.all())
    assert fit.rms == pytest.approx(clean.rms, rel=0.05) and abs(fit.focal[0].item() / clean.focal[0].item() - 1) < 0.002


def test_boards_that_face_the_camera_are_refused_with_the_remedy():
    fit = calibrated(footage(9, tilt=2.0, spread=0.5), lens="brown")
    assert not fit.trusted
    assert any("tilt the board 30-45 degrees" in r for r in fit.reasons)
    assert any("focal length is known to" in r for r in fit.reasons) and fit.focal_sd > 0.01


def test_too_few_views_and_empty_edges_are_named():
    fit = calibrated(footage(3, views=3))
    assert not fit.trusted and "only 3 views" in fit.reasons[0]
    fit = calibrated(footage(4, spread=0.1, near=(0.8, 1.0), middle=(0.5, 0.0)), lens="brown")
    assert not fit.trusted and any("fill the left edge" in r for r in fit.reasons)
    assert float(fit.coverage[:, :3].sum()) == 0 and float(fit.coverage.sum()) > 100
    with pytest.raises(ValueError, match="0 of 4 views"):
        calibrated(torch.full((4, 24, 2), torch.nan, dtype=torch.float64))


def test_corners_that_fit_no_lens_are_not_trusted():
    fit = calibrated(footage(6, noise=4.0), lens="brown", coefficients=2)
    assert not fit.trusted and any("hold the board still" in r for r in fit.reasons)


def test_a_stated_focal_length_helps_where_views_cannot():
    pixels = footage(9, tilt=2.0, spread=0.5)
    fit = calibrated(pixels, lens="brown", coefficients=0, prior=FocalPrior(905.0, 0.01))
    assert abs(fit.focal[0].item() / 900 - 1) < 0.015 and fit.focal_sd < 0.015
    assert FocalPrior.from_view(90, (1280, 720)).focal == pytest.approx(640)
    assert FocalPrior.from_35mm(43.2666, (1280, 720)).focal == pytest.approx(np.hypot(1280, 720), rel=1e-4)


def test_a_wrong_square_changes_the_scale_alone():
    pixels = footage(8)
    right = calibrated(pixels, lens="brown", coefficients=0)
    double = calibrate_lens(pixels, 2 * BOARD.points(), SIZE, torch.full(pixels.shape[:2], 0.2), lens="brown", coefficients=0)
    assert torch.allclose(right.focal, double.focal, rtol=1e-4)
    assert torch.allclose(2 * right.translation, double.translation, rtol=1e-3)


def test_the_back_of_a_board_counts_with_its_depth():
    pixels, depth = footage(8, views=12), 0.02
    behind = torch.arange(12) % 2 == 0
    shift = torch.tensor([0, 0, depth], dtype=torch.float64)
    points = BOARD.points() + torch.where(behind[:, None, None], shift, 0 * shift)
    fit = calibrate_lens(pixels, points, SIZE, lens="brown", coefficients=0)
    plain = calibrate_lens(pixels, BOARD.points(), SIZE, lens="brown", coefficients=0)
    moved = (fit.translation - plain.translation).norm(dim=-1)
    assert torch.allclose(moved[behind], torch.tensor(depth, dtype=torch.float64), atol=1e-3) and float(moved[~behind].max()) < 1e-3


@pytest.mark.skipif(not POSE2SIM.is_dir(), reason="needs shared/data/pose2sim_single")
def test_seven_real_images_give_the_focal_length_of_qualisys():
    truth = read_cameras(POSE2SIM / "Calib.qca.txt")
    board = Board("chessboard", 4, 7, 0.06)
    for camera in (0, 3):
        images = sorted((POSE2SIM / f"intrinsics/int_cam0{camera + 1}_img").glob("*.jpg"))
        views = find_in_images(images, board)
        assert int(views.seen().sum()) >= 5
        fit = calibrate_lens(views.pixels[0], board.points(), views.size[0], views.sigma[0])
        assert fit.trusted, fit.reasons
        assert float((fit.focal / truth[camera].focal[0] - 1).abs().max()) < 0.015
        radius = torch.tensor([[[0.2, 0.0], [0.0, 0.3]]], dtype=torch.float64)
        bend = fit.camera().distort(radius)[0] - fit.centre - radius[0] * fit.focal
        theirs = truth[camera].distort(radius)[0] - truth[camera].centre[0] - radius[0] * truth[camera].focal[0]
        assert float((bend - theirs).abs().max()) < 3.0, "px of distortion half way out"

"""Camera rigs from board views, against virtual rigs whose truth is known. Projection is `Cameras.project`, alignment SciPy's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from calibration.board_pose import board_poses, facing
from calibration.boards import Board, BoardViews
from calibration.bundle import LensModel, adjust, moved
from calibration.cameras import Cameras
from calibration.extrinsics import RigFit, solve_rig
from calibration.intrinsics import LensFit
from calibration.reprojection import Sightings, fisheyes, lens_vectors, normals, residuals

FULL = torch.float64
BOARD = Board("charuco", 10, 7, 0.08, 0.06)
SYMMETRIC = Board("chessboard", 8, 6, 0.08)


def virtual_ring(count: int, random: np.random.Generator, fisheye: bool = False) -> Cameras:
    """Cameras 4 m around a point 1 m above the floor, lenses a little different."""
    angle = np.arange(count) / count * 2 * np.pi
    position = np.stack([4 * np.cos(angle), 4 * np.sin(angle), 1.5 + 0.8 * (np.arange(count) % 2)], -1)
    forward = np.array([0, 0, 1.0]) - position
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    distortion = np.zeros((count, 8))
    distortion[:, :4] = random.normal(size=(count, 4)) * ([0.02, 0.005, 0.002, 0.001] if fisheye else [0.05, 0.02, 0.001, 0.001])
    return Cameras(
        names=tuple(f"cam{i}" for i in range(count)),
        size=torch.tensor([[1920.0, 1080.0]], dtype=FULL).repeat(count, 1),
        focal=torch.from_numpy(1200 + random.normal(size=(count, 1)) * 40 + random.normal(size=(count, 2))),
        centre=torch.from_numpy([960, 540] + random.normal(size=(count, 2)) * 8),
        distortion=torch.from_numpy(distortion),
        lens=("fisheye" if fisheye else "brown",) * count,
        R_camera_world=torch.from_numpy(np.stack([right, np.cross(forward, right), forward], 1)),
        position=torch.from_numpy(position),
    )


def wave(cameras: Cameras, count: int, random: np.random.Generator, board: Board = BOARD, noise: float = 0.3) -> BoardViews:
    """The board waved through the volume, upright or tilted; a camera sees it up to 65 degrees from its normal."""
    normal = random.normal(size=(count, 3)) * [1, 1, 0.5]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    x = np.cross([0, 0, 1.0], normal)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    R = np.stack([x, np.cross(normal, x), normal], 2) @ Rotation.from_rotvec(random.normal(size=(count, 1)) * [0, 0, 0.4]).as_matrix()
    middle = random.uniform([-1, -1, 0.4], [1, 1, 1.8], (count, 3))
    points = board.points()
    world = (points - points.mean(0)) @ torch.from_numpy(R).mT + torch.from_numpy(middle)[:, None]
    pixels = cameras.project(world)
    sight = torch.from_numpy(middle) - cameras.position[:, None]
    slant = (sight * torch.from_numpy(normal)).sum(-1) / sight.norm(dim=-1)
    pixels = pixels + torch.from_numpy(random.normal(size=pixels.shape)) * noise
    pixels[(slant < np.cos(np.deg2rad(65)))[..., None, None].expand_as(pixels)] = torch.nan
    pixels[~cameras.inside(pixels)] = torch.nan
    sigma = torch.where(pixels[..., 0].isnan(), torch.nan, torch.tensor(noise, dtype=FULL))
    C = len(cameras)
    nobody = torch.zeros(C, count, dtype=torch.bool)
    return BoardViews(cameras.names, cameras.size, board, pixels, sigma, nobody, torch.arange(count).repeat(C, 1))


def known_lenses(cameras: Cameras, sd: tuple[float, float, float] = (0, 0, 0), random: np.random.Generator | None = None) -> list[LensFit]:
    """Lens fits that err with the standard deviations they state: focal px, centre px, distortion; exact for zeros."""
    spread = torch.tensor([sd[0]] * 2 + [sd[1]] * 2 + [sd[2], sd[2] / 3, sd[2] / 20, sd[2] / 20, 0, 0, 0, 0], dtype=FULL)
    fits = []
    for camera in cameras:
        off = spread if random is None else spread * torch.from_numpy(random.normal(size=12))
        off = off if any(sd) else torch.zeros_like(spread)
        fits.append(
            LensFit(
                size=camera.size[0], focal=camera.focal[0] + off[:2], centre=camera.centre[0] + off[2:4],
                distortion=camera.distortion[0] + off[4:], lens=camera.lens[0], coefficients=4, covariance=torch.diag(spread**2),
                rms=0.3, held_out=0.3, used=torch.ones(1, dtype=torch.bool), bad=torch.zeros(1, dtype=torch.bool),
                R_camera_board=torch.eye(3, dtype=FULL)[None], translation=torch.zeros(1, 3, dtype=FULL),
                coverage=torch.ones(6, 8), trusted=True, reasons=(),
            )
        )  # fmt: skip
    return fits


def rig_errors(fit: Cameras, truth: Cameras) -> np.ndarray:
    """(rotation vector rad, position m in the fit's frame) of every camera after the rigid alignment that makes their squares least."""
    p, goal = fit.position.numpy(), truth.position.numpy()
    U, _, Vt = np.linalg.svd((p - p.mean(0)).T @ (goal - goal.mean(0)))
    first = (U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt).T

    def errors(x: np.ndarray) -> np.ndarray:
        Q = Rotation.from_rotvec(x[:3]).as_matrix() @ first
        turn = Rotation.from_matrix(fit.R_camera_world.numpy() @ Q.T @ truth.R_camera_world.numpy().transpose(0, 2, 1)).as_rotvec()
        return np.concatenate([turn, (p - p.mean(0)) + (x[3:] + goal.mean(0) - goal) @ Q], 1).ravel()

    return errors(least_squares(errors, np.zeros(6), xtol=1e-15, ftol=1e-15, gtol=1e-15).x).reshape(-1, 6)


def worst_centre(fit: RigFit, truth: Cameras) -> float:
    """mm"""
    return float(np.linalg.norm(rig_errors(fit.cameras, truth)[:, 3:], axis=1).max() * 1e3)


def usual_centre(fit: RigFit, truth: Cameras) -> float:
    """Root mean square over the cameras, mm."""
    return float(np.sqrt(np.square(rig_errors(fit.cameras, truth)[:, 3:]).sum(1).mean()) * 1e3)


@pytest.mark.parametrize(("count", "boards"), [(4, 240), (8, 160), (16, 60)])
def test_camera_centres_of_virtual_rigs_are_within_a_millimetre_and_a_half_and_their_covariance_is_true(count, boards):
    normalised = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        truth = virtual_ring(count, random)
        fit = solve_rig(wave(truth, boards, random), known_lenses(truth))
        assert worst_centre(fit, truth) < 1.5
        assert fit.lenses == "fixed"
        error = rig_errors(fit.cameras, truth).ravel()
        normalised.append(error @ np.linalg.pinv(fit.joint_covariance.numpy(), rcond=1e-9) @ error / (6 * count - 6))
    assert 0.6 < np.mean(normalised) < 1.5, normalised


def test_refined_lenses_are_a_tenth_of_a_percent_right_and_know_how_far():
    normalised = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        truth = virtual_ring(8, random)
        views = wave(truth, 240, random)
        lenses = known_lenses(truth, (2.0, 1.0, 0.004), random)
        fit = solve_rig(views, lenses)
        assert fit.lenses == "refined"
        assert fit.held_out["refined"] < fit.held_out["fixed"]
        assert usual_centre(fit, truth) < 1.5
        off = fit.cameras.focal - truth.focal
        assert float((off / truth.focal).abs().max()) < 1e-3
        normalised.append(float((off.square() / fit.lens_covariance.diagonal(dim1=-2, dim2=-1)[:, :2]).mean()))
        # With the lenses left wrong the rig is worse: the choice matters.
        if seed == 0:
            assert usual_centre(solve_rig(views, lenses, "fixed"), truth) > usual_centre(fit, truth)
    assert 0.5 < np.mean(normalised) < 1.7, normalised


def test_cameras_of_one_type_share_a_lens_when_few_views_cannot_tell_them_apart():
    random = np.random.default_rng(4)
    truth = virtual_ring(6, random)
    truth = replace(
        truth, focal=truth.focal[:1].repeat(6, 1), centre=truth.centre[:1].repeat(6, 1), distortion=truth.distortion[:1].repeat(6, 1)
    )
    fit = solve_rig(wave(truth, 90, random), known_lenses(truth, (12.0, 6.0, 0.02), random), groups=[truth.names])
    assert fit.lenses == "shared"
    assert bool((fit.cameras.focal == fit.cameras.focal[0]).all())
    assert float((fit.cameras.focal / truth.focal - 1).abs().max()) < 1e-3


def test_covariance_is_told_relative_to_a_held_camera():
    random = np.random.default_rng(5)
    truth = virtual_ring(5, random)
    fit = solve_rig(wave(truth, 100, random), known_lenses(truth), hold="cam3")
    assert fit.anchor == "cam3"
    assert float(fit.camera_covariance[3].abs().max()) == 0
    R, p = fit.cameras.R_camera_world, fit.cameras.position
    Q = R[3].T @ truth.R_camera_world[3]
    true_position = (truth.position - truth.position[3]) @ Q.T + p[3]
    off = (p - true_position)[[0, 1, 2, 4]]
    variance = fit.camera_covariance[[0, 1, 2, 4], 3:, 3:]
    normalised = (off[:, None] @ torch.linalg.solve(variance, off[..., None]))[:, 0, 0] / 3
    assert 0.1 < float(normalised.mean()) < 3


def test_wrong_and_blurred_views_are_rejected_counted_and_harmless():
    random = np.random.default_rng(6)
    truth = virtual_ring(6, random)
    views = wave(truth, 120, random)
    clean = solve_rig(views, known_lenses(truth))
    pixels, sigma = views.pixels.clone(), views.sigma.clone()
    seen = views.seen()
    # A twelfth of the views show another instant (a dropped frame), some are smeared, some have scrambled corners.
    late = [(c, b) for c, b in seen.nonzero().tolist() if (7 * b + c) % 12 == 0 and b + 3 < 120 and bool(seen[c, b + 3])]
    for c, b in late:
        pixels[c, b], sigma[c, b] = views.pixels[c, b + 3], views.sigma[c, b + 3]
    smeared = [(c, b) for c, b in seen.nonzero().tolist() if (c, b) not in late][:9]
    for c, b in smeared:
        pixels[c, b] += torch.from_numpy(random.normal(size=(1, 2)) * 6 + random.normal(size=pixels[c, b].shape) * 2)
        sigma[c, b] *= 8
    scrambled = [(c, b) for c, b in seen.nonzero().tolist() if (c, b) not in late][-6:]
    for c, b in scrambled:
        pixels[c, b] = pixels[c, b].flip(0)[torch.randperm(pixels.shape[2], generator=torch.Generator().manual_seed(b))]
    fit = solve_rig(replace(views, pixels=pixels, sigma=sigma), known_lenses(truth))
    bad = [*late, *smeared, *scrambled]
    assert not any(bool(fit.used[c, b]) for c, b in bad)
    counts = [sum(reasons.get(word, 0) for reasons in fit.rejected.values()) for word in ("blurred", "misshapen", "disagrees")]
    assert counts[0] == len(smeared)
    assert counts[1] == len(scrambled)
    assert len(late) <= counts[2] <= 3 * len(late)  # of two that disagree nobody knows which is wrong
    assert worst_centre(fit, truth) < 1.3 * worst_centre(clean, truth) + 0.2


def test_a_mirrored_video_is_named_not_solved():
    random = np.random.default_rng(7)
    truth = virtual_ring(4, random)
    views = wave(truth, 60, random)
    pixels = views.pixels.clone()
    pixels[2, ..., 0] = 1919 - pixels[2, ..., 0]
    with pytest.raises(ValueError, match=r"'cam2' would see the board from behind.*mirror"):
        solve_rig(replace(views, pixels=pixels), known_lenses(truth))


def test_the_back_of_a_two_sided_board_joins_cameras_that_face_each_other():
    random = np.random.default_rng(8)
    board = replace(BOARD, two_sided=True, thickness=0.01)
    truth = virtual_ring(4, random)
    front = wave(truth, 150, random, board)
    # The same corners seen through the board, displaced by its thickness along the normal: only truth's projection knows it.
    random = np.random.default_rng(8)
    virtual_ring(4, random)
    whole = _both_sides(truth, random, board, 150)
    fit = solve_rig(whole, known_lenses(truth))
    assert int(fit.used.sum()) > 1.5 * int(front.seen().sum())
    assert worst_centre(fit, truth) < 1.0
    with pytest.raises(ValueError, match="from behind"):
        solve_rig(replace(whole, behind=torch.zeros_like(whole.behind)), known_lenses(truth))


def _both_sides(cameras: Cameras, random: np.random.Generator, board: Board, count: int) -> BoardViews:
    """Every camera sees the board, from the front or from the back."""
    R = Rotation.random(count, rng=random).as_matrix()
    middle = random.uniform([-0.6, -0.6, 0.6], [0.6, 0.6, 1.4], (count, 3))
    sight = torch.from_numpy(middle) - cameras.position[:, None]
    slant = (sight * torch.from_numpy(R[:, :, 2])).sum(-1) / sight.norm(dim=-1)
    behind = slant < 0
    pixels = torch.empty(len(cameras), count, len(board.points()), 2, dtype=FULL)
    for side in (False, True):
        world = (board.points() + torch.tensor([0, 0, board.thickness * side])) @ torch.from_numpy(R).mT + torch.from_numpy(middle)[:, None]
        pixels = torch.where((behind == side)[..., None, None], cameras.project(world), pixels)
    pixels = pixels + torch.from_numpy(random.normal(size=pixels.shape)) * 0.3
    pixels[(slant.abs() < 0.4)[..., None, None].expand_as(pixels) | ~cameras.inside(pixels)[..., None].expand_as(pixels)] = torch.nan
    sigma = torch.where(pixels[..., 0].isnan(), torch.nan, torch.tensor(0.3, dtype=FULL))
    return BoardViews(cameras.names, cameras.size, board, pixels, sigma, behind, torch.arange(count).repeat(len(cameras), 1))


def test_a_board_that_looks_the_same_after_half_a_turn_is_put_right():
    random = np.random.default_rng(9)
    truth = virtual_ring(5, random)
    views = wave(truth, 100, random, SYMMETRIC)
    pixels = views.pixels.clone()
    pixels[::2] = pixels[::2].flip(2)
    fit = solve_rig(replace(views, pixels=pixels, sigma=torch.where(pixels[..., 0].isnan(), torch.nan, 0.3)), known_lenses(truth))
    assert worst_centre(fit, truth) < 1.5
    asymmetric = replace(views, board=replace(BOARD, columns=9), pixels=pixels, sigma=torch.where(pixels[..., 0].isnan(), torch.nan, 0.3))
    with pytest.raises(ValueError):  # the same picture of a board that has one right side only
        solve_rig(asymmetric, known_lenses(truth))


def test_a_small_far_board_is_solved_though_single_views_choose_the_mirrored_pose():
    random = np.random.default_rng(10)
    truth = virtual_ring(10, random)[:4]
    small = Board("charuco", 6, 5, 0.04, 0.03)
    views = wave(truth, 150, random, small)
    c, b = views.seen().nonzero(as_tuple=True)
    sightings = Sightings(c, b, views.points()[c, b], views.pixels[c, b], (1 / views.sigma[c, b]).nan_to_num())
    poses = board_poses(sightings, truth)
    fit = solve_rig(views, known_lenses(truth))
    used = fit.used[c, b]
    R = fit.cameras.R_camera_world[c] @ fit.R_world_board[b]
    away = torch.linalg.matrix_norm(poses.R - R[:, None])
    mirrored = (away[used, 0] > away[used, 1]).double().mean()
    assert mirrored > 0.05
    assert worst_centre(fit, truth) < 6


def test_cameras_that_the_board_does_not_join_are_told_apart_and_where_to_wave_it():
    random = np.random.default_rng(11)
    truth = virtual_ring(5, random)
    views = wave(truth, 160, random)
    pixels = views.pixels.clone()
    pixels[:2, 80:], pixels[2:, :80] = torch.nan, torch.nan
    pixels[1, 80:90] = views.pixels[1, 80:90]
    with pytest.raises(ValueError) as refusal:
        solve_rig(replace(views, pixels=pixels), known_lenses(truth))
    text = str(refusal.value)
    assert "['cam2', 'cam3', 'cam4']; ['cam0', 'cam1']" in text
    assert "between" in text
    assert "at least" in text


def test_a_camera_that_never_sees_the_board_is_named():
    random = np.random.default_rng(12)
    truth = virtual_ring(4, random)
    views = wave(truth, 60, random)
    pixels = views.pixels.clone()
    pixels[3] = torch.nan
    with pytest.raises(ValueError, match="camera 'cam3' never sees the board in 60 instants"):
        solve_rig(replace(views, pixels=pixels), known_lenses(truth))
    with pytest.raises(ValueError, match="never see the board"):
        solve_rig(replace(views, pixels=torch.full_like(pixels, torch.nan)), known_lenses(truth))


def test_sigmas_that_are_too_small_do_not_make_the_rig_look_more_certain():
    random = np.random.default_rng(13)
    truth = virtual_ring(5, random)
    views = wave(truth, 100, random)
    fit = solve_rig(views, known_lenses(truth))
    vain = solve_rig(replace(views, sigma=views.sigma / 5), known_lenses(truth))
    assert torch.allclose(vain.noise, torch.full((5,), 5.0, dtype=FULL), rtol=0.05)
    assert torch.allclose(vain.camera_covariance, fit.camera_covariance, rtol=0.1, atol=1e-9)


def test_corners_that_err_together_widen_the_covariance():
    random = np.random.default_rng(14)
    truth = virtual_ring(5, random)
    views = wave(truth, 100, random)
    shaken = views.pixels + torch.from_numpy(random.normal(size=(5, 100, 1, 2))) * 0.6
    fit = solve_rig(replace(views, pixels=shaken), known_lenses(truth))
    assert fit.correlation > 5
    error = rig_errors(fit.cameras, truth).ravel()
    assert error @ np.linalg.pinv(fit.joint_covariance.numpy(), rcond=1e-9) @ error / 24 < 2.5


def test_fisheye_rigs_are_solved_too():
    random = np.random.default_rng(15)
    truth = virtual_ring(4, random, fisheye=True)
    fit = solve_rig(wave(truth, 150, random), known_lenses(truth, (3.0, 2.0, 0.002), random))
    assert worst_centre(fit, truth) < 3


def test_a_board_of_markers_in_space_is_solved():
    random = np.random.default_rng(16)
    truth = virtual_ring(4, random)
    side, cube = 0.2, []
    for n, R in enumerate(Rotation.from_euler("xyz", [[0, 0, 0], [60, 0, 0], [0, 60, 0], [0, -60, 0]], degrees=True).as_matrix()):
        corners = np.array([[-1, -1, -2], [1, -1, -2], [1, 1, -2], [-1, 1, -2]]) * side / 2 @ R.T
        cube.append((n, *(tuple(float(v) for v in c) for c in corners)))
    board = Board("aruco", 0, 0, 0, dictionary="DICT_4X4_50", markers=tuple(cube))
    fit = solve_rig(wave(truth, 120, random, board), known_lenses(truth))
    assert worst_centre(fit, truth) < 2


def waved_smoothly(
    cameras: Cameras, late: list[float], random: np.random.Generator, uneven: torch.Tensor | None = None, count: int = 150
) -> BoardViews:
    """A board on a smooth path at 30 frames/s; camera c shows at frame n where the board was at frame n - late[c] - uneven[c, n]."""
    points = BOARD.points()
    frame = torch.arange(count, dtype=FULL)[None] - torch.tensor(late, dtype=FULL)[:, None]
    frame = frame if uneven is None else frame - uneven
    second = (frame / 30).numpy()
    middle = np.stack([0.5 * np.sin(1.3 * second), 0.5 * np.sin(1.7 * second + 1), 1.1 + 0.3 * np.sin(1.1 * second)], -1)
    towards = np.stack([0.4 * np.sin(0.9 * second), -np.pi / 2 + 0.3 * np.sin(1.9 * second), np.pi / 2 + 0.5 * np.sin(0.7 * second)], -1)
    R = Rotation.from_euler("ZXY", np.stack([towards[..., 2], towards[..., 1], towards[..., 0]], -1).reshape(-1, 3)).as_matrix()
    world = (points - points.mean(0)) @ torch.from_numpy(R).view(len(cameras), count, 3, 3).mT + torch.from_numpy(middle)[:, :, None]
    pixels = torch.stack([camera.project(world[c])[0] for c, camera in enumerate(cameras)])
    normal = torch.from_numpy(R).view(len(cameras), count, 3, 3)[..., 2]
    sight = torch.from_numpy(middle) - cameras.position[:, None]
    front = (sight * normal).sum(-1) / sight.norm(dim=-1)
    pixels = pixels + torch.from_numpy(random.normal(size=pixels.shape)) * 0.3
    pixels[(front < 0.4)[..., None, None].expand_as(pixels)] = torch.nan
    pixels[~cameras.inside(pixels)] = torch.nan
    sigma = torch.where(pixels[..., 0].isnan(), torch.nan, torch.tensor(0.3, dtype=FULL))
    C = len(cameras)
    same = torch.arange(count).repeat(C, 1)
    return BoardViews(cameras.names, cameras.size, BOARD, pixels, sigma, torch.zeros(C, count, dtype=torch.bool), same)


def test_a_camera_that_is_late_is_found_out_and_does_not_bend_the_rig():
    random = np.random.default_rng(18)
    truth = virtual_ring(10, random)[[9, 0, 1]]
    views = waved_smoothly(truth, [0.0, 0.6, -0.3], random)
    fit = solve_rig(views, known_lenses(truth), hold=truth.names[0])
    assert torch.allclose(fit.delay, torch.tensor([0.0, 0.6, -0.3], dtype=FULL), atol=0.03)
    assert worst_centre(fit, truth) < 3
    blind = solve_rig(views, known_lenses(truth), hold=truth.names[0], synchronised=True)
    assert worst_centre(blind, truth) > 2 * worst_centre(fit, truth)


def test_a_camera_whose_pictures_come_unevenly_is_told_and_does_not_bend_the_rig():
    random = np.random.default_rng(19)
    truth = virtual_ring(10, random)[[9, 0, 1]]
    uneven = torch.zeros(3, 60, dtype=FULL)
    uneven[1, ::3], uneven[1, 1::3] = 1.2, -0.6  # of every three pictures one is late, one early
    views = waved_smoothly(truth, [0.0, 0.2, 0.0], random, uneven, 60)
    fit = solve_rig(views, known_lenses(truth), hold=truth.names[0])
    assert worst_centre(fit, truth) < 5
    assert float(fit.jitter[1]) > 0.4 and float(fit.jitter[[0, 2]].max()) < 0.1
    both = torch.stack([fit.late[1], uneven[1]])[:, fit.used[1]]
    assert float(torch.corrcoef(both)[0, 1]) > 0.97
    blind = solve_rig(views, known_lenses(truth), hold=truth.names[0], synchronised=True)
    assert worst_centre(blind, truth) > 10 * worst_centre(fit, truth)
    steady = solve_rig(waved_smoothly(truth, [0.0, 0.2, 0.0], random, None, 60), known_lenses(truth))
    assert float(steady.jitter.max()) < 0.03


@pytest.mark.parametrize("fish", [False, True])
def test_derivatives_agree_with_finite_differences(fish):
    generator = torch.Generator().manual_seed(0)
    points = BOARD.points()
    V, N = 4, len(points)
    R, t = moved(
        torch.eye(3, dtype=FULL).expand(V, 3, 3),
        torch.tensor([-0.3, -0.2, 2.0], dtype=FULL).expand(V, 3),
        torch.randn(V, 6, generator=generator, dtype=FULL) * 0.3,
    )
    lens = torch.tensor([1200, 1190, 960, 540, 0.05, -0.02, 0.001, -0.002, 0.01, 0.03, 0.01, 0.002], dtype=FULL).repeat(V, 1)
    kind = torch.full((V,), fish)
    bare = Sightings(
        torch.arange(V), torch.arange(V), points.expand(V, N, 3), torch.zeros(V, N, 2, dtype=FULL), torch.ones(V, N, dtype=FULL)
    )
    views = replace(bare, pixels=residuals(bare, R, t, lens, kind) + torch.randn(V, N, 2, generator=generator, dtype=FULL))
    found = normals(views, R, t, lens, kind, tuple(range(12)))
    for i in range(18):
        h = 1e-6 if i != 10 else 1e-7
        costs = []
        for sign in (h, -h):
            twist, other = torch.zeros(V, 6, dtype=FULL), lens.clone()
            if i < 6:
                twist[:, i] = sign
            else:
                other[:, i - 6] += sign
            costs.append(normals(views, *moved(R, t, twist), other, kind).cost)
        slope = (costs[0] - costs[1]) / (2 * h)
        assert torch.allclose(found.gradient[:, i], slope, rtol=1e-4, atol=1e-4 * float(found.matrix[:, i, i].sqrt().max()))


def test_bundle_adjustment_reaches_the_minimum_that_scipy_finds():
    random = np.random.default_rng(17)
    truth = virtual_ring(9, random)[:3]
    views = wave(truth, 5, random)
    c, b = views.seen().nonzero(as_tuple=True)
    points = views.points()[c, b]
    s = Sightings(c, b, points, views.pixels[c, b], (1 / views.sigma[c, b]).nan_to_num())
    lens, none = lens_vectors(truth), torch.zeros(12, 0, dtype=FULL)
    model = LensModel(lens, fisheyes(truth), torch.arange(3), none, none.new_zeros(3, 0, 0))
    poses = board_poses(s, truth)
    good = facing(poses, s)[:, 0]
    first = {int(j): int(v) for v, j in reversed(list(enumerate(b))) if good[v]}
    R = torch.eye(3, dtype=FULL).repeat(5, 1, 1)
    t = torch.zeros(5, 3, dtype=FULL)
    for j, v in first.items():
        R_wc = truth.R_camera_world[c[v]].T
        R[j], t[j] = R_wc @ poses.R[v, 0], R_wc @ poses.t[v, 0] + truth.position[c[v]]
    found = adjust(s, (truth.R_camera_world, truth.translation), (R, t), model, tolerance=1e-12)

    def whitened(x: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(x.reshape(-1, 6))
        Rc, tc = moved(truth.R_camera_world[1:], truth.translation[1:], x[:2])
        cameras = torch.cat([truth.R_camera_world[:1], Rc]), torch.cat([truth.translation[:1], tc])
        Rb, tb = moved(R, t, x[2:])
        view_R = cameras[0][c] @ Rb[b]
        view_t = (cameras[0][c] @ tb[b][..., None])[..., 0] + cameras[1][c]
        error = residuals(s, view_R, view_t, lens[c], torch.zeros(len(c), dtype=torch.bool)) * s.weight[..., None]
        length = error.nan_to_num().norm(dim=-1).clamp_min(1e-12)
        shrunk = torch.where(length < 3, length, (3 * (2 * length - 3)).clamp_min(0).sqrt())
        return (error.nan_to_num() * (shrunk / length)[..., None]).flatten().numpy()

    best = least_squares(whitened, np.zeros(6 * 7), x_scale="jac", xtol=1e-14, ftol=1e-14)
    assert abs(found.cost / best.cost - 1) < 1e-6

"""Rig calibration beside aniposelib and OpenCV on the same board views: CPU time and error of the camera centres.

Cameras on a ring see a 9 x 6 board of 80 mm with noise of 0.3 px. Two tasks: lenses known (only poses are solved), and lenses nearly known
(1,200 px and no distortion are assumed where focal lengths scatter by 20 px and k1 by 0.03; focal length and k1 are solved
too).

    python benchmarks/rig_calibration.py [--boards 60] [--aniposelib FOLDER] [--out benchmarks/rig_calibration.json]

aniposelib is optional: install it into a folder of its own and name that; it gets its board argument (rigid boards), and every tool's chain
of first poses is its own. OpenCV: cv2.stereoCalibrate of neighbours with fixed lenses, chained around the ring. `ours, adjustment only`
runs the bundle adjustment alone, from poses that are off by 10 mrad and 30 mm, at larger sizes too.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from calibration.boards import Board, BoardViews
from calibration.bundle import LensModel, adjust, moved
from calibration.cameras import Cameras, upright_view
from calibration.extrinsics import solve_rig
from calibration.intrinsics import LensFit
from calibration.reprojection import Sightings, fisheyes, lens_vectors

BOARD, NOISE, LIMIT = Board("chessboard", 9, 6, 0.08), 0.3, 240
FULL = torch.float64
Poses = tuple[np.ndarray, np.ndarray]


def ring(count: int, random: np.random.Generator) -> Cameras:
    angle = np.arange(count) / count * 2 * np.pi
    position = np.stack([4 * np.cos(angle), 4 * np.sin(angle), 1.5 + 0.8 * (np.arange(count) % 2)], -1)
    distortion = np.zeros((count, 8))
    distortion[:, 0] = random.normal(size=count) * 0.03
    return Cameras(
        names=tuple(f"camera{i}" for i in range(count)),
        size=torch.tensor([[1920.0, 1080.0]], dtype=FULL).repeat(count, 1),
        focal=torch.from_numpy(1200 + random.normal(size=(count, 1)) * 20 + np.zeros((count, 2))),
        centre=torch.tensor([[960.0, 540.0]], dtype=FULL).repeat(count, 1),
        distortion=torch.from_numpy(distortion),
        lens=("brown",) * count,
        R_camera_world=upright_view(torch.from_numpy([0, 0, 1.0] - position)),
        position=torch.from_numpy(position),
    )


def wave(cameras: Cameras, count: int, random: np.random.Generator) -> tuple[BoardViews, torch.Tensor, torch.Tensor]:
    """What the cameras see, and the board's true poses."""
    angle = random.uniform(0, 2 * np.pi, count)
    normal = np.stack([np.cos(angle), np.sin(angle), random.normal(size=count) * 0.3], -1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    x = np.cross([0, 0, 1.0], normal)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    R = torch.from_numpy(np.stack([x, np.cross(normal, x), normal], 2))
    position = torch.from_numpy(random.uniform([-0.8, -0.8, 0.4], [0.8, 0.8, 1.8], (count, 3)))
    pixels = cameras.project(BOARD.points() @ R.mT + position[:, None])
    middle = R @ BOARD.points().mean(0) + position
    depth = ((middle - cameras.position[:, None]) * R[:, :, 2]).sum(-1)
    pixels = pixels + torch.from_numpy(random.normal(size=pixels.shape)) * NOISE
    whole = cameras.inside(pixels).all(-1) & (depth > 1.2)
    pixels[~whole] = torch.nan
    sigma = torch.where(pixels[..., 0].isnan(), torch.nan, torch.tensor(NOISE, dtype=FULL))
    C = len(cameras)
    return (
        BoardViews(
            cameras.names, cameras.size, BOARD, pixels, sigma, torch.zeros(C, count, dtype=torch.bool), torch.arange(count).repeat(C, 1)
        ),
        R,
        position,
    )


def assumed(cameras: Cameras, known: bool) -> list[LensFit]:
    """The lenses as the tools are told them."""
    spread = torch.tensor([0.0 if known else 20.0] * 2 + [0.0] * 2 + [0.0 if known else 0.03] + [0.0] * 7, dtype=FULL)
    covariance = torch.diag(spread**2)
    covariance[0, 1] = covariance[1, 0] = (1 - 1e-6) * covariance[0, 0]  # the pixels are known to be square
    none = torch.zeros(1, dtype=torch.bool)
    return [
        LensFit(
            size=c.size[0], focal=c.focal[0] if known else torch.full((2,), 1200.0, dtype=FULL), centre=c.centre[0],
            distortion=c.distortion[0] if known else torch.zeros(8, dtype=FULL), lens="brown", coefficients=1, covariance=covariance,
            rms=NOISE, held_out=NOISE, used=none, bad=none, R_camera_board=torch.eye(3, dtype=FULL)[None],
            translation=torch.zeros(1, 3, dtype=FULL), coverage=torch.ones(6, 8), trusted=True, reasons=(),
        )
        for c in cameras
    ]  # fmt: skip


def centre_error(poses: Poses, cameras: Cameras) -> dict[str, float]:
    """mm, after the rigid alignment (no scale)."""
    R, t = poses
    found, truth = -np.einsum("cji,cj->ci", R, t), cameras.position.numpy()
    A, B = found - found.mean(0), truth - truth.mean(0)
    U, _, Vt = np.linalg.svd(A.T @ B)
    off = np.linalg.norm(A @ U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt - B, axis=1) * 1e3
    return {"centre_mm_rms": round(float(np.sqrt((off**2).mean())), 3), "centre_mm_worst": round(float(off.max()), 3)}


def row(method: Callable[[], Poses], cameras: Cameras, repeats: int = 1) -> dict[str, Any]:
    """Least CPU time of the runs, and errors; what went wrong where it failed or took too long."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    spent = []
    try:
        for _ in range(repeats):
            start = time.process_time()
            poses = method()
            spent.append(time.process_time() - start)
    except TimeoutError:
        return {"failed": f"not done in {LIMIT} s"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
    finally:
        signal.alarm(0)
    return {"cpu_s": round(min(spent), 3), **centre_error(poses, cameras)}


def ours(views: BoardViews, lenses: list[LensFit]) -> Poses:
    fit = solve_rig(views, lenses, "fixed" if not bool(lenses[0].covariance.any()) else "refined").cameras
    return fit.R_camera_world.numpy(), fit.translation.numpy()


def adjustment_only(cameras: Cameras, views: BoardViews, R: torch.Tensor, position: torch.Tensor, known: bool) -> Callable[[], Poses]:
    random = torch.Generator().manual_seed(0)

    def off(*size: int) -> torch.Tensor:
        return torch.cat(
            [0.01 * torch.randn(*size, 3, generator=random, dtype=FULL), 0.03 * torch.randn(*size, 3, generator=random, dtype=FULL)], -1
        )

    start = moved(cameras.R_camera_world, cameras.translation, off(len(cameras)))
    boards = moved(R, position, off(len(R)))
    c, b = views.seen().nonzero(as_tuple=True)
    sightings = Sightings(c, b, BOARD.points().expand(len(c), -1, -1), views.pixels[c, b], (1 / views.sigma[c, b]).nan_to_num())
    basis = torch.zeros(12, 2, dtype=FULL)
    basis[:2, 0], basis[4, 1] = 1, 1
    basis = basis[:, :0] if known else basis
    lens = lens_vectors(cameras).clone()
    if not known:
        lens[:, :2], lens[:, 4:] = 1200, 0
    G, K = len(cameras), basis.shape[1]
    model = LensModel(lens, fisheyes(cameras), torch.arange(G), basis, torch.zeros(G, K, K, dtype=FULL))

    def run() -> Poses:
        found = adjust(sightings, start, boards, model)
        return found.R.numpy(), found.t.numpy()

    return run


def stereo_chain(views: BoardViews, lenses: list[LensFit]) -> Poses:
    """cv2.stereoCalibrate of neighbours, lenses fixed."""
    points = views.board.points().numpy().astype(np.float32)
    K = [np.array([[f.focal[0], 0, f.centre[0]], [0, f.focal[1], f.centre[1]], [0, 0, 1]], dtype=float) for f in lenses]
    D = [f.distortion.numpy() for f in lenses]
    pixels = views.pixels.numpy().astype(np.float32)
    ok = np.asarray(np.isfinite(pixels).all(-1))
    R, t = [np.eye(3)], [np.zeros(3)]
    for c in range(len(lenses) - 1):
        shared = ok[c] & ok[c + 1]
        both = np.flatnonzero(shared.sum(1) >= 6)
        ours, first, second = (
            [v[b, shared[b]] for b in both] for v in (np.broadcast_to(points, pixels[c].shape[:2] + (3,)), *pixels[c : c + 2])
        )
        found = cv2.stereoCalibrate(
            ours, first, second, K[c], D[c], K[c + 1], D[c + 1], (1920, 1080), flags=cv2.CALIB_FIX_INTRINSIC
        )  # fmt: skip
        R.append(found[5] @ R[-1])
        t.append(found[5] @ t[-1] + found[6][:, 0])
    return np.array(R), np.array(t)


def aniposelib(views: BoardViews, lenses: list[LensFit], known: bool) -> Poses:
    """Its own chain of first poses, then its iterated bundle adjustment with rigid boards."""
    from aniposelib.cameras import Camera, CameraGroup  # type: ignore[import-not-found]
    from aniposelib.utils import get_initial_extrinsics  # type: ignore[import-not-found]

    np.random.seed(0)
    seen, pixels, points = (views.pixels.isfinite().all(-1).sum(-1) >= 6).numpy(), views.pixels.numpy(), views.board.points().numpy()
    (C, B), N = seen.shape, len(points)
    turns, shifts = np.full((C, B, 3), np.nan), np.full((C, B, 3), np.nan)
    K = [np.array([[f.focal[0], 0, f.centre[0]], [0, f.focal[1], f.centre[1]], [0, 0, 1]], dtype=float) for f in lenses]
    D = [f.distortion.numpy()[:5] for f in lenses]
    for c, b in zip(*np.nonzero(seen)):
        ok = np.isfinite(pixels[c, b]).all(-1)
        _, turn, shift = cv2.solvePnP(points[ok], pixels[c, b, ok], K[c], D[c], flags=cv2.SOLVEPNP_IPPE)
        turn, shift = cv2.solvePnPRefineLM(points[ok], pixels[c, b, ok], K[c], D[c], turn, shift)
        turns[c, b], shifts[c, b] = turn[:, 0], shift[:, 0]
    r0, t0 = get_initial_extrinsics(np.concatenate([turns, shifts], -1))
    group = CameraGroup([Camera(matrix=K[c], dist=D[c], size=(1920, 1080), rvec=r0[c], tvec=t0[c], name=str(c)) for c in range(C)])
    flat = pixels.reshape(C, B * N, 2)
    several = np.isfinite(flat[..., 0]).sum(0) > 1
    extra = {
        "objp": np.tile(points, (B, 1))[several],
        "ids": np.repeat(np.arange(B), N)[several],
        "rvecs": np.repeat(turns, N, 1)[:, several],
        "tvecs": np.repeat(shifts, N, 1)[:, several],
    }
    group.bundle_adjust_iter(np.ascontiguousarray(flat[:, several]), extra, only_extrinsics=known, error_threshold=0.0)
    R = np.array([cv2.Rodrigues(c.get_rotation())[0] for c in group.cameras])
    return R, np.array([c.get_translation() for c in group.cameras])


def measured(count: int, boards: int, with_anipose: bool) -> dict[str, Any]:
    random = np.random.default_rng(0)
    cameras = ring(count, random)
    views, R, position = wave(cameras, boards, random)
    tasks: dict[str, Any] = {}
    for task, known in (("lenses known", True), ("focal length and k1 solved", False)):
        lenses = assumed(cameras, known)
        rows = {
            "ours": row(lambda: ours(views, lenses), cameras, 2),  # noqa: B023
            "ours, adjustment only": row(adjustment_only(cameras, views, R, position, known), cameras, 3),
            "OpenCV stereo chain": row(lambda: stereo_chain(views, lenses), cameras),  # noqa: B023
        }
        if with_anipose:
            rows["aniposelib, rigid boards"] = row(lambda: aniposelib(views, lenses, known), cameras)  # noqa: B023
        for name, found in rows.items():
            if "cpu_s" in found and name != "ours":
                found["time_over_ours"] = round(found["cpu_s"] / rows["ours"]["cpu_s"], 2)
                found["error_over_ours"] = round(found["centre_mm_rms"] / rows["ours"]["centre_mm_rms"], 2)
        tasks[task] = rows
    return {"cameras": count, "boards": boards, "views": int(views.seen().sum()), "tasks": tasks}


def large() -> dict[str, Any]:
    """The adjustment alone at full size."""
    rows = {}
    for count, boards in ((8, 200), (16, 1000)):
        random = np.random.default_rng(0)
        cameras = ring(count, random)
        run = adjustment_only(cameras, *wave(cameras, boards, random), False)
        rows[f"{count} cameras x {boards} boards x 54 corners"] = row(run, cameras, 3)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=60)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--aniposelib", type=Path, help="folder with aniposelib and what it needs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.aniposelib:
        sys.path.append(str(options.aniposelib))  # last, so that this project's own packages win
    result = {
        "noise_px": NOISE,
        "time": "CPU time of the process, least of the runs, one thread",
        "machine": platform.processor() or platform.machine(),
        **measured(options.cameras, options.boards, options.aniposelib is not None),
        "ours, adjustment only": large(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")

"""Robust triangulation beside aniposelib and OpenCV on the same data: CPU time a point, error, and gross errors.

Eight cameras on a ring see 133 points in 1,000 frames with noise of 1.5 px / confidence, 10 % outliers of 40-400 px and
20 % missing. Slow peers get a part of the points; every row's ratio compares it with oracle inliers on the same part.

    python benchmarks/triangulation.py [--out benchmarks/triangulation.json]

OpenCV and aniposelib know no confidence, so they weight all views alike. aniposelib is optional: install it into a folder
of its own and name that in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch

from calibration.cameras import Cameras, upright_view
from calibration.triangulate import triangulate

CAMERAS, FRAMES, KEYPOINTS, NOISE, SEED = 8, 1000, 133, 1.5, 0
OUTLIERS, MISSING, JUMP = 0.10, 0.20, (40.0, 400.0)

Array = np.ndarray


def ring(count: int = CAMERAS) -> Cameras:
    angle = torch.arange(count, dtype=torch.float64) / count * 2 * torch.pi
    position = torch.stack([4 * angle.cos(), 4 * angle.sin(), 1.5 + 0.8 * (torch.arange(count) % 2)], -1)
    full = {"dtype": torch.float64}
    return Cameras(
        names=tuple(f"camera{i}" for i in range(count)),
        size=torch.tensor([[1920.0, 1080.0]], **full).repeat(count, 1),
        focal=torch.full((count, 2), 1200.0, **full),
        centre=torch.tensor([[960.0, 540.0]], **full).repeat(count, 1),
        distortion=torch.zeros(count, 8, **full),
        lens=("brown",) * count,
        R_camera_world=upright_view(torch.tensor([0.0, 0.0, 1.0]) - position),
        position=position,
    )


def capture(cameras: Cameras) -> tuple[Array, Array, Array, Array]:
    """True points (n, 3); pixels (C, n, 2), sigma (C, n), and which are outliers (C, n)."""
    random = np.random.default_rng(SEED)
    C, n = len(cameras), FRAMES * KEYPOINTS
    truth = random.uniform((-0.5, -0.5, 0), (0.5, 0.5, 1.8), (n, 3))
    P = (cameras.matrix @ torch.cat([cameras.R_camera_world, cameras.translation[..., None]], -1)).numpy()
    homogeneous = np.einsum("cij,nj->cni", P[..., :3], truth) + P[:, None, :, 3]
    sigma = NOISE / random.uniform(0.4, 1, (C, n))
    pixels = homogeneous[..., :2] / homogeneous[..., 2:] + random.normal(size=(C, n, 2)) * sigma[..., None]
    outlier = random.random((C, n)) < OUTLIERS
    angle, jump = random.uniform(0, 2 * np.pi, (C, n)), random.uniform(*JUMP, (C, n))
    pixels += (outlier * jump)[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    pixels[random.random((C, n)) < MISSING] = np.nan
    return truth, pixels, sigma, outlier


def timed(method: Callable[[], Array], truth: Array, oracle: Array | None, repeats: int = 1) -> dict[str, float]:
    """Best CPU time of the runs and error of one method."""
    spent, points = [], truth
    for _ in range(repeats):
        start = time.process_time()
        points = method()
        spent.append(time.process_time() - start)
    error = np.linalg.norm(points - truth, axis=1) * 1e3
    found = np.isfinite(error)
    row = {
        "points": len(truth),
        "us_per_point": round(min(spent) / len(truth) * 1e6, 3),
        "median_mm": round(float(np.median(error[found])), 3),
        "over_50_mm_percent": round(float((error[found] > 50).mean() * 100), 3),
        "no_point_percent": round(float((~found).mean() * 100), 3),
    }
    if oracle is not None:
        best = np.linalg.norm(oracle[: len(truth)] - truth, axis=1) * 1e3
        row["median_over_oracle"] = round(float(np.median(error[found]) / np.nanmedian(best)), 4)
    return row


def opencv_pairs(cameras: Cameras, pixels: Array) -> Array:
    """Median over every camera pair's cv2.triangulatePoints."""
    P = (cameras.matrix @ torch.cat([cameras.R_camera_world, cameras.translation[..., None]], -1)).numpy()
    found = np.full((len(P) * (len(P) - 1) // 2, pixels.shape[1], 3), np.nan)
    for k, (i, j) in enumerate(combinations(range(len(P)), 2)):
        both = np.isfinite(pixels[[i, j], :, 0]).all(0)
        homogeneous = cv2.triangulatePoints(P[i], P[j], pixels[i, both].T, pixels[j, both].T)
        found[k, both] = (homogeneous[:3] / homogeneous[3]).T
    return np.nanmedian(found, axis=0)


def opencv_dlt(cameras: Cameras, pixels: Array) -> Array:
    """Linear solution from all views of one point, one after the other, by cv2.SVDecomp."""
    P = (cameras.matrix @ torch.cat([cameras.R_camera_world, cameras.translation[..., None]], -1)).numpy()
    out = np.full((pixels.shape[1], 3), np.nan)
    for n in range(len(out)):
        seen = np.isfinite(pixels[:, n, 0])
        if seen.sum() > 1:
            rows = pixels[seen, n, :, None] * P[seen, 2:3] - P[seen, :2]
            _, _, vt = cv2.SVDecomp(rows.reshape(-1, 4))
            out[n] = vt[-1, :3] / vt[-1, 3]
    return out


def anipose(cameras: Cameras) -> object | None:
    """aniposelib's camera group, or None where it is not installed."""
    try:
        from aniposelib.cameras import Camera, CameraGroup  # type: ignore[import-not-found]
    except ImportError:
        return None
    K, t = cameras.matrix.numpy(), cameras.translation.numpy()
    turns = [cv2.Rodrigues(R)[0].ravel() for R in cameras.R_camera_world.numpy()]
    return CameraGroup([Camera(matrix=K[c], dist=np.zeros(5), rvec=turns[c], tvec=t[c], name=name) for c, name in enumerate(cameras.names)])


def peers(cameras: Cameras, truth: Array, pixels: Array, oracle: Array) -> dict[str, dict[str, float] | str]:
    """Rows of the other tools, on the first points where they are slow."""
    few, some = 60, 20_000
    rows: dict[str, dict[str, float] | str] = {
        "OpenCV triangulatePoints, median of pairs": timed(lambda: opencv_pairs(cameras, pixels[:, :some]), truth[:some], oracle),
        "OpenCV SVD, all views": timed(lambda: opencv_dlt(cameras, pixels[:, :some]), truth[:some], oracle),
    }
    group = anipose(cameras)
    names = ("aniposelib linear", "aniposelib pair median", "aniposelib RANSAC")
    if group is None:
        return rows | dict.fromkeys(names, "not installed")
    group.triangulate(pixels[:, :some].copy())  # type: ignore[attr-defined]  # compiles
    calls = (
        (some, lambda: group.triangulate(pixels[:, :some].copy())),  # type: ignore[attr-defined]
        (some, lambda: group.triangulate(pixels[:, :some].copy(), fast=True)),  # type: ignore[attr-defined]
        (few, lambda: group.triangulate_ransac(pixels[:, :few].copy())[0]),  # type: ignore[attr-defined]
    )
    return rows | {name: timed(call, truth[:n], oracle) for name, (n, call) in zip(names, calls)}


def measured(threads: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    cameras = ring()
    truth, pixels, sigma, outlier = capture(cameras)
    seen = torch.from_numpy(pixels).float()
    clean = torch.where(torch.from_numpy(outlier)[..., None], torch.nan, seen)
    sd = torch.from_numpy(sigma).float()
    oracle = triangulate(cameras, clean, sd, robust=False).points.numpy()
    rows: dict[str, dict[str, float] | str] = {
        "ours": timed(lambda: triangulate(cameras, seen, sd).points.numpy(), truth, oracle, 5),
        "ours, float64": timed(lambda: triangulate(cameras, seen, sd, dtype=torch.float64).points.numpy(), truth, oracle, 2),
        "ours with oracle inliers": timed(lambda: triangulate(cameras, clean, sd, robust=False).points.numpy(), truth, oracle, 3),
    } | peers(cameras, truth, pixels, oracle)
    scene = {
        "cameras": CAMERAS,
        "frames": FRAMES,
        "keypoints": KEYPOINTS,
        "noise_px": NOISE,
        "outliers": OUTLIERS,
        "missing": MISSING,
        "seed": SEED,
    }
    return {
        "scene": scene,
        "threads": threads,
        "time": "CPU time of the process, best of the runs",
        "machine": platform.processor() or platform.machine(),
        "methods": rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    text = json.dumps(measured(options.threads), indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")

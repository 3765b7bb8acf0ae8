"""A real rig of four webcams from a hand-held ChArUco board, judged on instants that were not used, and beside another tool's result.

    python benchmarks/real_calibration.py [--cache FOLDER] [--out FILE.json]

Of every 12 instants 8 calibrate and 4 judge. The printed square (54 mm) is the truth: corners of held-out instants are triangulated freely
(without knowing the board), and their distances and shape compared with it. Leave-one-out: a camera's corners against what the others'
points project to in it. The other tool's cameras (`camera_array.toml`) are judged in the same way; they are no truth.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from calibration.boards import Board, BoardViews
from calibration.cameras import Cameras
from calibration.extrinsics import RigFit, solve_rig
from calibration.formats import read_cameras
from calibration.intrinsics import LensFit, calibrate_lens
from calibration.triangulate import triangulate
from studio.boards import find_in_videos

HERE = Path(__file__).parent.parent
DATA = Path(os.environ.get("STUDIO_DATA", HERE.parent / "shared" / "data")) / "caliscope_charuco"
BOARD = Board("charuco", 4, 5, 0.054, 0.054 * 0.75, "DICT_4X4_1000", inverted=True)


def found(cache: Path) -> BoardViews:
    """The board in all four videos; which frames belong together is what the recorder noted."""
    rows = list(csv.DictReader((DATA / "calibration/extrinsic/CHARUCO/timestamps.csv").open()))
    names = sorted({row["cam_id"] for row in rows})
    table = torch.full((len(names), 1 + max(int(row["sync_index"]) for row in rows)), -1)
    for row in rows:
        table[names.index(row["cam_id"]), int(row["sync_index"])] = int(row["frame_index"])
    return find_in_videos({f"cam_{n}": DATA / f"calibration/extrinsic/cam_{n}.mp4" for n in names}, BOARD, cache, instants=table)


def part(views: BoardViews, which: torch.Tensor) -> BoardViews:
    pick = {name: getattr(views, name)[:, which] for name in ("pixels", "sigma", "behind", "instants")}
    return replace(views, **pick)


def as_fits(cameras: Cameras) -> list[LensFit]:
    """Another tool's lenses, taken as exact."""
    nothing, none = torch.zeros(12, 12, dtype=torch.float64), torch.zeros(1, dtype=torch.bool)
    eye = torch.eye(3, dtype=torch.float64)[None]
    return [
        LensFit(
            c.size[0], c.focal[0], c.centre[0], c.distortion[0], c.lens[0], 5, nothing, 0.0, 0.0, none, none, eye, eye[:, 0],
            torch.ones(6, 8), True, (),
        )
        for c in cameras
    ]  # fmt: skip


def judged(cameras: Cameras, held_out: BoardViews, delay: torch.Tensor) -> dict[str, float]:
    """Squares, shape and leave-one-out error of freely triangulated corners; corners moved on by each camera's delay first."""
    from calibration.rig_views import board_velocity

    velocity = board_velocity(held_out)
    pixels = held_out.pixels if velocity is None else held_out.pixels + velocity * delay[:, None, None, None]
    sigma = torch.full_like(held_out.sigma, 0.5)
    points = triangulate(cameras, pixels, sigma, robust=False, dtype=torch.float64).points
    few = pixels.isfinite().all(-1).sum(0) < 2
    points = torch.where(few[..., None], torch.nan, points)
    board = BOARD.points()
    apart = torch.cdist(board, board)
    i, j = ((apart - BOARD.square).abs() < 1e-6).triu().nonzero(as_tuple=True)
    sides = (points[:, i] - points[:, j]).norm(dim=-1)
    sides = sides[sides.isfinite()]
    a, b = (apart > 0).triu().nonzero(as_tuple=True)
    lengths = (points[:, a] - points[:, b]).norm(dim=-1)
    scale = (lengths / apart[a, b]).nanmedian()
    shape = [off for seen in points if (off := misshape(seen.numpy(), board.numpy())) is not None]
    left_out = []
    for c, name in enumerate(cameras.names):
        others = [k for k in range(len(cameras)) if k != c]
        enough = pixels[others].isfinite().all(-1).sum(0) >= 2
        p = triangulate(cameras[others], pixels[others], sigma[others], robust=False, dtype=torch.float64).points
        error = (cameras[name].project(p)[0] - pixels[c]).norm(dim=-1)[enough]
        left_out.append(error[error.isfinite()])
    return {
        "square_error_percent_median": float((sides / BOARD.square - 1).abs().median() * 100),
        "scale_error_percent": float((scale - 1) * 100),
        "board_shape_mm": float(np.median(shape) * 1e3),
        "leave_one_out_px_median": float(torch.cat(left_out).median()),
    } | {f"leave_one_out_px_{name}": float(error.median()) for name, error in zip(cameras.names, left_out) if len(error)}


def misshape(points: np.ndarray, board: np.ndarray) -> float | None:
    """Root mean square distance, m, to the rigid board at its best pose; None with fewer than six corners."""
    seen = np.isfinite(points).all(1)
    if seen.sum() < 6:
        return None
    A, B = board[seen] - board[seen].mean(0), points[seen] - points[seen].mean(0)
    turn, _ = Rotation.align_vectors(B, A)
    return float(np.sqrt(np.square(B - turn.apply(A)).sum(1).mean()))


def apart(cameras: Cameras, reference: Cameras) -> dict[str, float]:
    """Largest distances of centres (mm) and rotations (degrees) after the rigid alignment."""
    p, goal = cameras.position.numpy(), reference.position.numpy()
    first, _ = Rotation.align_vectors(goal - goal.mean(0), p - p.mean(0))

    def errors(x: np.ndarray) -> np.ndarray:
        Q = Rotation.from_rotvec(x[:3]) * first
        turn = Rotation.from_matrix(cameras.R_camera_world.numpy() @ Q.as_matrix().T @ reference.R_camera_world.numpy().transpose(0, 2, 1))
        return np.concatenate([turn.as_rotvec(), Q.apply(p - p.mean(0)) + x[3:] + goal.mean(0) - goal], 1).ravel()

    off = errors(least_squares(errors, np.zeros(6)).x).reshape(-1, 6)
    return {
        "centre_mm_worst": float(np.linalg.norm(off[:, 3:], axis=1).max() * 1e3),
        "rotation_degrees_worst": float(np.degrees(np.linalg.norm(off[:, :3], axis=1)).max()),
    }


def told(fit: RigFit, held_out: BoardViews, reference: Cameras) -> dict[str, Any]:
    return {
        "lenses": fit.lenses,
        "held_out_px": fit.held_out,
        "rejected": fit.rejected,
        "excess_px": fit.excess,
        "delay_frames": dict(zip(fit.cameras.names, fit.delay.tolist())),
        "centre_sd_mm": (fit.camera_covariance[:, 3:, 3:].diagonal(dim1=-2, dim2=-1).sum(-1).sqrt() * 1e3).tolist(),
        **judged(fit.cameras, held_out, fit.delay),
        "beside the other tool": apart(fit.cameras, reference),
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mocap-studio" / "real-calibration")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA}: not there; name the data's folder in STUDIO_DATA")
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    views = found(options.cache)
    train = torch.arange(views.pixels.shape[1]) % 12 < 8
    fitted, held_out = part(views, train), part(views, ~train)
    reference = read_cameras(DATA / "camera_array.toml")
    own = [calibrate_lens(fitted.pixels[c], BOARD.points(), fitted.size[c], fitted.sigma[c]) for c in range(len(views.cameras))]
    rigs = {
        "the other tool's lenses": solve_rig(fitted, as_fits(reference)),
        "the other tool's lenses, no delays": solve_rig(fitted, as_fits(reference), synchronised=True),
        "own lenses, from the same footage": solve_rig(fitted, own, same_footage=True),
        "own lenses, fixed": solve_rig(fitted, own, "fixed"),
    }
    still = torch.zeros(len(reference), dtype=torch.float64)
    result: dict[str, Any] = {
        "instants": {"fitted": int(train.sum()), "judged": int((~train).sum())},
        "own lenses trusted": {name: [fit.trusted, *fit.reasons] for name, fit in zip(views.cameras, own)},
        "the other tool, as it is": judged(reference, held_out, still),
        "the other tool, with our delays": judged(reference, held_out, rigs["the other tool's lenses"].delay),
        **{name: told(fit, held_out, reference) for name, fit in rigs.items()},
    }
    text = json.dumps(rounded(result), indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

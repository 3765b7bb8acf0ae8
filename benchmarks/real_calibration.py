"""A real rig of four webcams from a hand-held ChArUco board, judged on instants that were not used, and beside other tools' results.

    python benchmarks/real_calibration.py [--cache FOLDER] [--aniposelib FOLDER] [--out benchmarks/real_calibration.json]

Of every 12 instants 8 calibrate and 4 judge. The printed square (54 mm) is the truth: corners of held-out instants are triangulated freely
(without knowing the board), and their distances and shape compared with it. Leave-one-out: a camera's corners against what the others'
points project to in it. The other tool's cameras (`camera_array.toml`) are judged in the same way; they are no truth: `why they differ`
repeats its way (free points, pictures taken as simultaneous) on the same corners, and on corners simulated from our rig with the moments
that it found, where the truth is known. aniposelib is optional: install it into a folder of its own and name that.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares
from scipy.sparse import lil_matrix
from scipy.spatial.transform import Rotation, RotationSpline

from calibration.boards import Board, BoardViews
from calibration.cameras import Cameras
from calibration.extrinsics import RigFit, solve_rig
from calibration.formats import read_cameras
from calibration.held_out import at_one_moment
from calibration.intrinsics import LensFit, calibrate_lens
from calibration.rig_views import board_velocity
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


def judged(cameras: Cameras, held_out: BoardViews, timing: RigFit | None = None) -> dict[str, float]:
    """Squares, shape and leave-one-out error of freely triangulated corners.

    With a rig's `timing` corners are moved on by each camera's delay first, and for squares and shape to one moment. `across` is the part
    of the leave-one-out error across the corner's motion, where no moment is right or wrong.
    """
    velocity = board_velocity(held_out)
    assert velocity is not None
    pixels = held_out.pixels if timing is None else held_out.pixels + velocity * timing.delay[:, None, None, None]
    sigma = torch.full_like(held_out.sigma, 0.5)
    still = pixels if timing is None else at_one_moment(cameras, replace(held_out, pixels=pixels), velocity, timing)
    points = triangulate(cameras, still, sigma, robust=False, dtype=torch.float64).points
    direction = torch.nn.functional.normalize(velocity, dim=-1)
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
    left_out, across = [], []
    for c, name in enumerate(cameras.names):
        others = [k for k in range(len(cameras)) if k != c]
        enough = pixels[others].isfinite().all(-1).sum(0) >= 2
        p = triangulate(cameras[others], pixels[others], sigma[others], robust=False, dtype=torch.float64).points
        off = (cameras[name].project(p)[0] - pixels[c])[enough]
        side = (off * direction[c][enough].flip(-1) * off.new_tensor([-1, 1])).sum(-1).abs()
        left_out.append(off.norm(dim=-1)[off.isfinite().all(-1)])
        across.append(side[off.isfinite().all(-1)])
    return {
        "square_error_percent_median": float((sides / BOARD.square - 1).abs().median() * 100),
        "scale_error_percent": float((scale - 1) * 100),
        "board_shape_mm": float(np.median(shape) * 1e3),
        "leave_one_out_px_median": float(torch.cat(left_out).median()),
        "leave_one_out_across_px_median": float(torch.cat(across).median()),
    } | {f"leave_one_out_px_{name}": float(error.median()) for name, error in zip(cameras.names, left_out) if len(error)}


def misshape(points: np.ndarray, board: np.ndarray) -> float | None:
    """Root mean square distance, m, to the rigid board at its best pose; None with fewer than six corners."""
    seen = np.isfinite(points).all(1)
    if seen.sum() < 6:
        return None
    A, B = board[seen] - board[seen].mean(0), points[seen] - points[seen].mean(0)
    turn = Rotation.align_vectors(B, A)[0]
    return float(np.sqrt(np.square(B - turn.apply(A)).sum(1).mean()))


def apart(cameras: Cameras, reference: Cameras) -> dict[str, float]:
    """Largest distances of centres (mm) and rotations (degrees) after the rigid alignment."""
    p, goal = cameras.position.numpy(), reference.position.numpy()
    first = Rotation.align_vectors(goal - goal.mean(0), p - p.mean(0))[0]

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
        "jitter_frames": dict(zip(fit.cameras.names, fit.jitter.tolist())),
        "centre_sd_mm": (fit.camera_covariance[:, 3:, 3:].diagonal(dim1=-2, dim2=-1).sum(-1).sqrt() * 1e3).tolist(),
        **judged(fit.cameras, held_out, fit),
        "beside the other tool": apart(fit.cameras, reference),
    }


def plain(pixels: torch.Tensor, cameras: Cameras) -> tuple[Cameras, float]:
    """An adjustment that knows neither board nor time: cameras and free points, from these cameras on; and its residual (rms), px."""
    sigma = torch.full(pixels.shape[:-1], 0.5, dtype=torch.float64)
    points = triangulate(cameras, pixels, sigma, robust=False, dtype=torch.float64).points
    c, b, n = (pixels.isfinite().all(-1) & points.isfinite().all(-1)).nonzero(as_tuple=True)
    used, which = (b * pixels.shape[2] + n).unique(return_inverse=True)
    flat = cameras.undistort(pixels)[c, b, n].numpy()
    C, rows, focal = len(cameras), torch.arange(len(c)).numpy(), cameras.focal[c].numpy()
    c, which = c.numpy(), which.numpy()

    def off(x: np.ndarray) -> np.ndarray:
        pose, place = x[: 6 * C].reshape(C, 6), x[6 * C :].reshape(-1, 3)
        p = np.einsum("nij,nj->ni", Rotation.from_rotvec(pose[:, :3]).as_matrix()[c], place[which]) + pose[c, 3:]
        return ((p[:, :2] / p[:, 2:] - flat) * focal).ravel()

    pattern = lil_matrix((2 * len(c), 6 * C + 3 * len(used)), dtype=int)
    for row in (2 * rows, 2 * rows + 1):
        for k in range(6):
            pattern[row, 6 * c + k] = 1
        for k in range(3):
            pattern[row, 6 * C + 3 * which + k] = 1
    poses = np.concatenate([Rotation.from_matrix(cameras.R_camera_world.numpy()).as_rotvec(), cameras.translation.numpy()], 1)
    start = np.concatenate([poses.ravel(), points.flatten(0, 1)[used].numpy().ravel()])
    found = least_squares(off, start, jac_sparsity=pattern, x_scale="jac", ftol=1e-9, max_nfev=200)
    pose = found.x[: 6 * C].reshape(C, 6)
    R = Rotation.from_rotvec(pose[:, :3]).as_matrix()
    position = -(R.transpose(0, 2, 1) @ pose[:, 3:, None])[..., 0]
    solved = replace(cameras, R_camera_world=torch.from_numpy(R), position=torch.from_numpy(position))
    return solved, float(np.sqrt(2 * np.mean(found.fun**2)))


def simulated(fit: RigFit, views: BoardViews, noise: float = 0.2) -> torch.Tensor:
    """Corners (px) that the rig would have seen of the board on a smooth path, at the moments it found, with noise."""
    known = fit.board_position.isfinite().all(-1)
    number = np.flatnonzero(known.numpy())
    turn = RotationSpline(number, Rotation.from_matrix(fit.R_world_board[known].numpy()))
    place = CubicSpline(number, fit.board_position[known].numpy())
    moment = np.arange(len(known)) - (fit.delay[:, None] + fit.late.nan_to_num()).numpy()
    moment = np.clip(moment, number[0], number[-1])
    points = BOARD.points().numpy()
    seen = [points @ turn(m).as_matrix().transpose(0, 2, 1) + place(m)[:, None] for m in moment]
    pixels = torch.stack([camera.project(torch.from_numpy(p))[0] for camera, p in zip(fit.cameras, seen)])
    pixels = pixels + noise * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.where(views.pixels.isfinite(), pixels, torch.nan)


def why_they_differ(views: BoardViews, reference: Cameras) -> dict[str, Any]:
    """The other tool's rig beside its own way on real corners, and on corners whose truth is our rig."""
    ours = solve_rig(views, as_fits(reference))
    real, real_px = plain(views.pixels, reference)
    made = simulated(ours, views)
    blind, blind_px = plain(made, ours.cameras)
    again = solve_rig(replace(views, pixels=made), as_fits(reference))
    half = torch.arange(views.pixels.shape[1]) % 2 == 0
    parts = [solve_rig(part(views, which), as_fits(reference)).cameras for which in (half, ~half)]
    return {
        "its way, real corners, beside it": {**apart(real, reference), "residual_px": real_px},
        "its way, simulated corners, beside it": {**apart(blind, reference), "residual_px": blind_px},
        "its way, simulated corners, beside the truth": apart(blind, ours.cameras),
        "ours, simulated corners, beside the truth": apart(again.cameras, ours.cameras),
        "ours from odd and from even instants": apart(*parts),
    }


def others(views: BoardViews, lenses: list[LensFit], held_out: BoardViews, reference: Cameras, aniposelib: Path | None) -> dict[str, Any]:
    """OpenCV's stereo calibrations in a chain and aniposelib, with given lenses."""
    sys.path.insert(0, str(Path(__file__).parent))
    from rig_calibration import aniposelib as anipose
    from rig_calibration import stereo_chain

    found = {"OpenCV stereo chain": lambda: stereo_chain(views, lenses)}
    if aniposelib is not None:
        sys.path.append(str(aniposelib))  # last, so that this project's own packages win
        found["aniposelib, rigid boards"] = lambda: anipose(views, lenses, True)
    rows = {}
    for name, run in found.items():
        R, t = (torch.from_numpy(np.asarray(v, dtype=float)) for v in run())
        cameras = replace(reference, R_camera_world=R, position=-(R.mT @ t[..., None])[..., 0])
        rows[name] = {**judged(cameras, held_out), "beside the other tool": apart(cameras, reference)}
    return rows


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mocap-studio" / "real-calibration")
    parser.add_argument("--aniposelib", type=Path, help="folder with aniposelib and what it needs")
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
    result: dict[str, Any] = {
        "instants": {"fitted": int(train.sum()), "judged": int((~train).sum())},
        "own lenses trusted": {name: [fit.trusted, *fit.reasons] for name, fit in zip(views.cameras, own)},
        "the other tool, as it is": judged(reference, held_out),
        "the other tool, with our timing": judged(reference, held_out, rigs["the other tool's lenses"]),
        **{name: told(fit, held_out, reference) for name, fit in rigs.items()},
        **others(fitted, as_fits(reference), held_out, reference, options.aniposelib),
        "why they differ": why_they_differ(views, reference),
    }
    text = json.dumps(rounded(result), indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

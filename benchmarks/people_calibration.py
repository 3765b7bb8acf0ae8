"""Rigs found from people beside the truth.

`python benchmarks/people_calibration.py [TAKE=TRUTH ...] [--exact CAPTURE ...] [--bumps] [--out FILE]`

TAKE is a take's folder with `keypoints2d`, TRUTH its camera file; each is solved from video alone, and with known lenses. `--exact` takes
virtual captures (`studio virtual`) and uses their exact keypoints with 1 px of noise, a network's skeletons being the exact ones leaning by
7 degrees and off by 3 cm. Errors are after the best similarity between the camera centres; `turn_own` is what is left of the rotations
after the best common rotation instead.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from calibration.bundle import skew
from calibration.cameras import Cameras, adapt_to_video, joined
from calibration.formats import read_cameras
from calibration.people import PeopleConfig, PeopleFit, PeopleViews, calibrate_people
from calibration.people_prior import of_one_kind
from calibration.people_watch import watch
from calibration.rotations import angle, nearest_rotation
from rigs import makehuman
from rigs.keypoints import BONES, mirrored
from studio.calibrate import BODY_LANDMARKS, LANDMARKS, Filmed, filmed, in_world
from studio.values import Keypoints2D


def compared(fit: PeopleFit, true: Cameras) -> dict[str, float | list[float]]:
    """Errors of a rig: mm, degrees, and the scale that would have been right."""
    a, b = fit.cameras.position, true.position
    A, B = a - a.mean(0), b - b.mean(0)
    R = nearest_rotation(B.mT @ A)
    scale = float(((A @ R.mT) * B).sum() / A.square().sum())
    own = nearest_rotation((true.R_camera_world.mT @ fit.cameras.R_camera_world).sum(0))
    off = 1000 * (scale * A @ R.mT - B).norm(dim=1)
    turns, turns_own = (torch.rad2deg(angle(fit.cameras.R_camera_world @ r.mT @ true.R_camera_world.mT)) for r in (R, own))
    return {
        "centre_mm": [round(v, 1) for v in off.tolist()],
        "centre_rms_mm": round(float(off.square().mean().sqrt()), 1),
        "turn_deg": [round(v, 2) for v in turns.tolist()],
        "turn_rms_deg": round(float(turns.square().mean().sqrt()), 2),
        "turn_own_rms_deg": round(float(turns_own.square().mean().sqrt()), 2),
        "focal_error": [round(v, 3) for v in (fit.cameras.focal[:, 0] / true.focal[:, 0] - 1).tolist()],
        "delay_frames": [round(v, 2) for v in fit.delay.tolist()],
        "residual_px": round(fit.rms, 2),
        "true_over_found_scale": round(scale, 4),
    }


def up_error(fit: PeopleFit, true: Cameras) -> float:
    """Angle between the found and the true up, degrees."""
    own = nearest_rotation((true.R_camera_world.mT @ fit.cameras.R_camera_world).sum(0))
    return math.degrees(math.acos(min(1.0, float(own[2, 2]))))


def height_of(capture: Path) -> float | None:
    """The actor's true stature, m, where the folder is of a virtual capture."""
    from studio.virtual import Truth

    file = capture / "truth.safetensors"
    if not file.exists():
        return None
    rest = makehuman.individual(Truth.load(file).person_seeds[0]).skin.rest[:, 2]
    return float(rest.max() - rest.min())


def solved(film: Filmed, views: PeopleViews, true: Cameras, height: float | None) -> dict[str, dict]:
    """The rig with unknown lenses, where they truly are of one model also with that known, and with known lenses."""
    ways: dict[str, tuple[Cameras | None, PeopleConfig]] = {"video alone": (None, PeopleConfig())}
    if float(true.focal.std() / true.focal.mean()) < 0.01:
        ways["video alone, same lens"] = None, of_one_kind(PeopleConfig())
    ways["lenses known"] = true, PeopleConfig()
    rows = {}
    for name, (lenses, config) in ways.items():
        begun = time.perf_counter()
        found = calibrate_people(views, lenses, config)
        seconds = time.perf_counter() - begun
        fit = in_world(film, found, height).fit
        rows[name] = compared(fit, true) | {
            "up_error_deg": round(up_error(fit, true), 2),
            "scale": "height" if height else "network",
            "seconds": round(seconds, 1),
        }
    return rows


def from_take(take: Path, truth: Path) -> dict[str, dict]:
    """A take with what a network saw."""
    film = filmed([take])
    cameras = read_cameras(truth)
    true = joined([adapt_to_video(cameras[c], int(w), int(h)) for c, (w, h) in zip(film.keypoints.cameras, film.size.tolist())])
    return solved(film, film.views, true, height_of(truth.parent))


def alarms(take: Path, truth: Path, degrees: float = 1.0) -> dict[str, object]:
    """Alarms of the true rig as it stands, and with each camera in turn bumped by so much in the middle of the take."""
    film = filmed([take])
    cameras = read_cameras(truth)
    true = joined([adapt_to_video(cameras[c], int(w), int(h)) for c, (w, h) in zip(film.keypoints.cameras, film.size.tolist())])
    views, frame = film.views, film.keypoints.frames // 2 + 3
    rows: dict[str, object] = {"standing": list(watch(views, true).alarms)}
    turn = math.radians(degrees) * torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    for c, name in enumerate(true.names):
        flat = true[c].undistort(views.pixels[c : c + 1].double())
        rays = torch.cat([flat, torch.ones_like(flat[..., :1])], -1) @ torch.linalg.matrix_exp(skew(turn)).mT
        pixels = views.pixels.clone()
        pixels[c, frame:] = true[c].distort(rays[..., :2] / rays[..., 2:])[0, frame:].to(pixels.dtype)
        found = watch(replace(views, pixels=pixels), true).bumps
        rows[f"{name} bumped at {frame}"] = [[b.camera, b.frame, round(math.degrees(b.turn), 2)] for b in found]
    return rows


def from_truth(capture: Path, noise: float = 1.0, tilt: float = math.radians(7)) -> dict[str, dict]:
    """A virtual capture's exact keypoints with noise in place of a network's."""
    from studio.virtual import Truth

    rng = torch.Generator().manual_seed(0)
    truth, true = Truth.load(capture / "truth.safetensors"), Cameras.load(capture / "cameras.yaml")
    names = tuple(n for n in LANDMARKS if n in truth.keypoint_names)
    points = truth.keypoints[:, 0, [truth.keypoint_names.index(n) for n in names]].double()
    pixels = true.project(points)
    pixels = torch.where(true.inside(pixels)[..., None], pixels + noise * torch.randn(pixels.shape, generator=rng), torch.nan)
    own = true.to_camera(points)
    own = own - own.nanmean(2, keepdim=True)
    for c in range(len(true)):
        axis = torch.nn.functional.normalize(torch.randn(3, generator=rng, dtype=torch.float64), dim=0)
        skew = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3))
        own[c] = own[c] @ torch.linalg.matrix_exp(tilt * skew) + 0.03 * torch.randn(own[c].shape, generator=rng)
    own[:, :, [i for i, n in enumerate(names) if n not in BODY_LANDMARKS]] = torch.nan
    bones = tuple((names.index(a), names.index(b)) for a, b in BONES if a in names and b in names)
    sigma = torch.full(pixels.shape[:-1], noise, dtype=torch.float64)
    views = PeopleViews(true.names, true.size, truth.fps, pixels, sigma, own, mirrored(names), bones)
    keypoints = Keypoints2D(
        true.names, names, "exact", truth.fps, 0, pixels[:, :, None], sigma[:, :, None], sigma[:, :, None], own[:, :, None]
    )
    videos = {c: capture / "videos" / f"{c}.mp4" for c in true.names}
    return solved(Filmed(capture, videos, keypoints, ()), views, true, height_of(capture))


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("takes", nargs="*", help="TAKE=TRUTH")
    parser.add_argument("--exact", nargs="*", type=Path, default=[], help="virtual captures")
    parser.add_argument("--bumps", action="store_true", help="also: is a camera that is bumped named, and none that stands")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    pairs = [tuple(map(Path, t.split("=", 1))) for t in options.takes]
    jobs = {take.parent.name: lambda p=(take, truth): from_take(*p) for take, truth in pairs}
    jobs |= {f"{c.name} (exact)": lambda c=c: from_truth(c) for c in options.exact}
    if options.bumps:
        jobs |= {f"{take.parent.name} watched": lambda p=(take, truth): {"bumps of 1 degree": alarms(*p)} for take, truth in pairs}
    rows = {}
    for name, job in jobs.items():
        for how, row in job().items():
            rows[f"{name}: {how}"] = row
            print(f"{name}: {how}: {json.dumps(row)}", flush=True)
    for exact in (False, True):
        for how in ("video alone", "lenses known"):
            chosen = [r for n, r in rows.items() if n.endswith(": " + how) and ("(exact)" in n) == exact]
            if chosen:
                centre, turn, scale = (
                    np.median([abs(r[k] - one) for r in chosen])
                    for k, one in (("centre_rms_mm", 0), ("turn_rms_deg", 0), ("true_over_found_scale", 1))
                )
                told = "exact keypoints with noise" if exact else "a network's keypoints"
                print(f"{told}, {how}: median of {len(chosen)} takes: {centre:.0f} mm, {turn:.2f} degrees, scale {100 * scale:.1f} %")
    if options.out:
        temporary = options.out.with_name(options.out.name + ".partial")
        temporary.write_text(json.dumps(rows, indent=1))
        temporary.replace(options.out)


if __name__ == "__main__":
    main()

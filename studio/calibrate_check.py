"""`studio calibrate --check` and `--refine`: a known rig checked, and corrected, by a take of a person."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import print as say
from rich.markup import escape

from calibration.cameras import Cameras
from calibration.formats import read_cameras
from calibration.gates import Gate, add_gates, gates_of, passed, quality_file, save_gates
from calibration.people_gates import MEASURED, judge_ground, judge_people, judge_refined, judge_stature, judge_watch
from calibration.people_watch import refine_people, watch
from calibration.people_world import ground_of, lengths_of
from calibration.triangulate import triangulate
from studio.calibrate import Filmed, feet_among, filmed, fitted, stature_lengths, write_people_rig

SCALE_GATES = ("scale", "known square")
"""What refining leaves as it was."""


def check_with_people(places: Sequence[Path], cameras_file: Path, height: float | None = None, out: Path | None = None) -> int:
    """Prints whether the cameras stand as their file says, told by the person in a take; 0, or 3 where a gate fails.

    The person's `height` (m) tells besides whether the calibration's metre is one. The gates go among those that are kept of the file;
    with `out` into the `quality_file` of that instead, and nothing is written beside the file. A `ValueError` where `out` is another
    calibration.
    """
    if out is not None and out.is_file() and not out.samefile(cameras_file):
        raise ValueError(f"--out {out}: holds another calibration than the one to check; give a folder or a new file for the gates")
    known = read_cameras(cameras_file)
    film = filmed(places, known)
    cameras = fitted(known, film)
    gates = (*judge_watch(watch(film.views, cameras), cameras.names, film.size), *_in_known_world(film, cameras, cameras_file, height))
    _keep(gates, cameras_file, out)
    for g in gates:
        style = {"pass": "", "warn": "[yellow]", "fail": "[bold red]"}[g.verdict]
        say(style + escape(f"{g.name}: {g.sentence} {g.remedy}".rstrip()))
    say(f"calibrate: {told_of(gates)}")
    return 0 if passed(gates) else 3


def _keep(gates: Sequence[Gate], cameras_file: Path, out: Path | None) -> None:
    """Keep the gates where `check_with_people` says; beside another tool's file nothing is written."""
    if out is not None and not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        file = save_gates(out, gates, checked=str(cameras_file))
        say(f"calibrate: what was found is kept in {escape(str(file))}")
    elif out is None and not quality_file(cameras_file).is_file():
        say(f"calibrate: nothing is kept beside {escape(str(cameras_file))}, which is not of the studio; --out FOLDER keeps what was found")
    else:
        try:
            add_gates(cameras_file, gates)
        except PermissionError as error:  # the words are what matters
            say(f"[yellow]{escape(str(error.filename))}: cannot be written, so the gates are not kept[/]")


def told_of(gates: Sequence[Gate]) -> str:
    """All gates in a line."""
    failed, doubtful = ([g.name for g in gates if g.verdict == v] for v in ("fail", "warn"))
    if failed:
        return f"these cameras do not stand as calibrated: {', '.join(failed)}"
    if doubtful:
        return f"nothing fails, so no camera need be calibrated again, but look at: {', '.join(doubtful)}"
    return "no camera was bumped and none are exchanged"


def _in_known_world(film: Filmed, cameras: Cameras, file: Path, height: float | None) -> tuple[Gate, ...]:
    """Whether the person stands on the floor of a known rig, if it has one, and is as tall in its metres as they are."""
    names, views = film.landmarks, film.views
    sigma = torch.where(views.seen, views.sigma.double().clamp_min(0.5), torch.inf)
    points = triangulate(cameras, views.pixels.double(), sigma, robust=True, dtype=torch.float64).points
    pairs, unit = stature_lengths(names, film.keypoints.network, 1.0)
    try:
        found = float((lengths_of(points, pairs) / unit).median())
        stature = judge_stature(height, found, MEASURED, "by these cameras the person is")
        levelled_once = not any(g.name == "floor" and math.isnan(g.value) for g in gates_of(file)[0])
        ground = (judge_ground(ground_of(points, feet_among(names), pairs)),) if levelled_once else ()
    except ValueError as error:
        return (Gate("stature", "warn", math.nan, math.nan, f"Nothing is known of scale and floor: {error}.", "Film the whole person."),)
    return (stature, *ground)


def refine_from_people(
    places: Sequence[Path], cameras_file: Path, out: Path, turn: float = math.radians(0.5), position: float = 0.02, accept: bool = False
) -> Path:
    """Writes the cameras of `cameras_file` after each has moved as far as a take of a person asks, held by `turn` (rad) and `position` (m).

    Gates and report go beside `out`; what the file's own gates say of its scale stays true and is kept.

    A `ValueError` tells of exchanged cameras.
    """
    begun = time.monotonic()
    known = read_cameras(cameras_file)
    film = filmed(places, known)
    known = fitted(known, film)
    covariance = torch.diag(torch.tensor([turn**2] * 3 + [position**2] * 3, dtype=torch.float64)).expand(len(known), 6, 6)
    fit = refine_people(film.views, known, covariance)
    kept = tuple(g for g in gates_of(cameras_file)[0] if g.name in SCALE_GATES or g.name.startswith("distance "))
    world = _in_known_world(film, fit.cameras, cameras_file, None)
    gates = (*kept, *judge_people(fit, film.size, film.views.fps), judge_refined(fit, known.position), *world)
    out = write_people_rig(film, out, fit, gates, accept)
    moved = 1000 * (fit.cameras.position - known.position).norm(dim=-1)
    told = ", ".join(f"{c} {m:.0f} mm" for c, m in zip(known.names, moved.tolist()))
    say(f"calibrate: refined by {len(fit.frames)} frames of a person: {told}; {time.monotonic() - begun:.0f} s -> {out}")
    return out

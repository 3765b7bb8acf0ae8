"""`studio calibrate --board`: clips of a calibration board in, cameras.yaml and quality.yaml out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from calibration.board import Board
from calibration.boards import BoardViews
from calibration.cameras import Cameras, adapt_to_video
from calibration.extrinsics import RigFit, solve_rig
from calibration.formats import read_cameras
from calibration.gates import Gate, passed, save_gates
from calibration.held_out import HeldOut, held_out
from calibration.intrinsics import LensFit, calibrate_lens
from calibration.quality import Distance, judge, judge_floor
from calibration.world import from_board
from studio.board_print import described, length
from studio.boards import find_in_videos, read_instants
from studio.pairing import video_files
from studio.take import Session
from studio.video import probe

INSTANTS = 400
"""The board is looked for at about so many instants at most."""
COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def board_of(text: str) -> Board:
    """The board that a command line names: a board.yaml, or KIND:COLUMNSxROWS:SQUARE[:DICTIONARY][:marker=LENGTH][:inverted][:legacy]."""
    if text.endswith((".yaml", ".yml")):
        return Board.load(Path(text))
    parts = text.split(":")
    if len(parts) < 3:
        raise ValueError(f"--board {text}: write KIND:COLUMNSxROWS:SQUARE, for example charuco:5x7:40mm:DICT_4X4_50, or a board.yaml")
    flags = {p for p in parts[3:] if p in ("inverted", "legacy")}
    marker = next((p.removeprefix("marker=") for p in parts[3:] if p.startswith("marker=")), None)
    rest = [p for p in parts[3:] if p not in flags and not p.startswith("marker=")]
    if len(rest) > 1:
        raise ValueError(f"--board {text}: {rest[1]!r} is not known; after the dictionary come marker=LENGTH, inverted, legacy")
    board = described(parts[0], parts[1], parts[2], marker, rest[0] if rest else None, None)
    return replace(board, inverted="inverted" in flags, legacy="legacy" in flags)


def distance_of(text: str) -> Distance:
    """A measured distance from CAMERA:CAMERA:LENGTH."""
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"--distance {text}: write CAMERA:CAMERA:LENGTH, for example cam01:cam02:2.35m")
    return Distance(parts[0], parts[1], length(parts[2]))


def cameras_file(out: Path) -> Path:
    """Where the calibration goes: a session's place for it, a .yaml file, or cameras.yaml in a folder."""
    if (out / "session.yaml").is_file():
        return out / Session.open(out).cameras
    return out if out.suffix in (".yaml", ".yml") else out / "cameras.yaml"


def calibrate_from_boards(
    places: Sequence[Path],
    board: Board,
    out: Path,
    instants: Path | None = None,
    lenses: Path | None = None,
    floor: int | None = None,
    distances: Sequence[Distance] = (),
    accept: bool = False,
) -> int:
    """Writes cameras.yaml, quality.yaml and board.yaml, and prints a table of gates; 2 where one fails and is not accepted, else 0.

    `instants` is a table of which frames belong together (timestamps.csv beside the videos by default, else frames of one number).
    `floor` is the number of the instant at which the board lies on the floor. Without a rig nothing that was there is touched.
    """
    begun = time.monotonic()
    videos = {p.stem: p for p in video_files(places)}
    if len(videos) < 2:
        raise ValueError(f"{places[0]}: {len(videos)} video; a rig needs at least two cameras, one video each")
    target = cameras_file(out)
    before = read_cameras(target) if target.is_file() else None
    views, every = _views(videos, board, target.parent / "board", instants)
    if unknown := [n for d in distances for n in (d.first, d.second) if n not in views.cameras]:
        raise ValueError(f"--distance: no camera {unknown[0]!r}; there are {list(views.cameras)}")
    found, refusal = _lenses(views, lenses)
    fit, held, refusal = solved(views, found, same_footage=lenses is None) if found else (None, None, refusal)
    gates = judge(views, found, fit, held, refusal, distances, before)
    if fit is None:
        _refused(target, gates)
        return 2
    cameras, world = _placed(fit, floor, every)
    gates = (*gates, world)
    target.parent.mkdir(parents=True, exist_ok=True)
    cameras.save(target)
    board.save(target.with_name("board.yaml"))
    save_gates(target, gates, accepted=accept and not passed(gates))
    _tell(target, gates, fit, held, board, time.monotonic() - begun)
    return 0 if accept or passed(gates) else 2


def _views(videos: Mapping[str, Path], board: Board, cache: Path, instants: Path | None) -> tuple[BoardViews, int]:
    """The board in the videos, and at every how many-th instant it was looked for."""
    folder = next(iter(videos.values())).parent
    if instants is None and (folder / "timestamps.csv").is_file():
        instants = folder / "timestamps.csv"
        Console().print(f"board: {instants} tells which frames belong together", highlight=False)
    table = read_instants(instants, list(videos)) if instants else None
    count = table.shape[1] if table is not None else max(probe(v).frames for v in videos.values())
    every = max(round(count / INSTANTS), 1)
    return find_in_videos(videos, board, cache, every, table), every


def _lenses(views: BoardViews, known: Path | None) -> tuple[list[LensFit], str]:
    """A lens for each camera, from its own views or a camera file; none, and why, where a camera's views give no lens."""
    if known is not None:
        given = read_cameras(known)
        return [_known_lens(given, known, name, views) for name in views.cameras], ""
    found: list[LensFit] = []
    for c, name in enumerate(views.cameras):
        try:
            found.append(calibrate_lens(views.pixels[c], views.points()[c], views.size[c], views.sigma[c]))
        except ValueError as error:
            return [], f"{name}: {error}"
    return found, ""


def solved(views: BoardViews, lenses: Sequence[LensFit], same_footage: bool) -> tuple[RigFit | None, HeldOut | None, str]:
    """The rig and its check at held-out instants; or how far that came, and in words why no farther."""
    try:
        fit = solve_rig(views, lenses, same_footage=same_footage)
    except ValueError as error:
        return None, None, str(error)
    try:
        return fit, held_out(views, lenses, fit, same_footage), ""
    except ValueError:
        return fit, None, ""


def _known_lens(given: Cameras, file: Path | None, name: str, views: BoardViews) -> LensFit:
    """A lens from a camera file, taken as exact."""
    if name not in given.names:
        raise ValueError(f"{file}: no camera {name!r}; there are {list(given.names)}")
    wide, high = views.size[views.cameras.index(name)].long().tolist()
    try:
        camera = adapt_to_video(given[name], wide, high)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    nothing, B = torch.zeros(12, 12, dtype=torch.float64), views.pixels.shape[1]
    unknown = torch.full((B, 3, 3), torch.nan, dtype=torch.float64)
    none = torch.zeros(B, dtype=torch.bool)
    return LensFit(
        camera.size[0], camera.focal[0], camera.centre[0], camera.distortion[0], camera.lens[0], 8, nothing, 0.0, float("nan"),
        none, none, unknown, unknown[:, 0], torch.zeros(6, 8, dtype=torch.float64), True, (),
    )  # fmt: skip


def _placed(fit: RigFit, floor: int | None, every: int) -> tuple[Cameras, Gate]:
    """The cameras in the world of a board on the floor, or as they are, and what there is to say of the floor."""
    if floor is None:
        sentence = f"The world is camera {fit.anchor}'s: where the floor is, is not known."
        remedy = "Lay the board on the floor, print up, in view of two cameras, and name that instant with --floor."
        return fit.cameras, Gate("floor", "warn", float("nan"), float("nan"), sentence, remedy)
    solved = fit.board_position.isfinite().all(-1).nonzero()[:, 0]
    b = int(solved[(solved * every - floor).abs().argmin()]) if len(solved) else 0
    if abs(b * every - floor) > every:
        raise ValueError(f"--floor {floor}: two cameras place the board at no instant near it; the nearest is {b * every}. Name another")
    cameras = from_board(fit.R_world_board[b], fit.board_position[b]).cameras(fit.cameras)
    return cameras, judge_floor(cameras)


def _refused(target: Path, gates: Sequence[Gate]) -> None:
    _table(gates)
    kept = f"{target} stays as it was" if target.is_file() else f"{target} was not written"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        save_gates(target, gates)
    Console(stderr=True).print(f"[bold red]calibrate: no rig; {kept}[/]", highlight=False)


def _table(gates: Sequence[Gate]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("gate", "", "what was found, and what to do"):
        table.add_column(column, overflow="fold")
    for g in gates:
        table.add_row(g.name, f"[{COLOURS[g.verdict]}]{g.verdict}[/]", g.sentence + (f"\n[bold]{g.remedy}[/]" if g.remedy else ""))
    Console().print(table, highlight=False)


def _tell(target: Path, gates: Sequence[Gate], fit: RigFit, held: HeldOut | None, board: Board, seconds: float) -> None:
    """The table and one line with numbers."""
    _table(gates)
    bad = [g.name for g in gates if g.verdict == "fail"]
    numbers = ""
    if held is not None:
        error = torch.where(held.left_out.isfinite(), held.left_out, held.reprojection)
        each = ", ".join(f"{n} {px:.2f}" for n, px in zip(fit.cameras.names, error.tolist()))
        off, spread = 1000 * (held.square - board.pitch), 1000 * held.spread
        numbers = f"{1000 * board.pitch:g} mm square {off:+.2f} mm (spread {spread:.2f}), leave one out {each} px, "
    state = f"[bold red]fails: {', '.join(bad)}[/]" if bad else "[green]can be used[/]"
    count = int(fit.used.any(0).sum())
    line = f"calibrate: {len(fit.cameras)} cameras from {count} instants of a board, {numbers}{seconds:.0f} s, {state} -> {target}"
    Console().print(line, highlight=False)

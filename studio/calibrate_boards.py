"""`studio calibrate --board`: clips of a calibration board in, cameras.yaml and quality.yaml out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibration.board import Board
from calibration.cameras import Cameras
from calibration.extrinsics import RigFit
from calibration.formats import read_cameras
from calibration.gates import Gate, passed, save_gates, told_refused
from calibration.held_out import HeldOut
from calibration.lens_library import Library
from calibration.rig_gates import Distance
from calibration.view_gates import VIEWS
from calibration.world_gates import floors_agree
from studio import board_steps as steps
from studio.board_print import described, length
from studio.boards import NotSeen, why_unseen
from studio.world_points import Marks, World, named, settled

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


def calibrate_from_boards(
    places: Sequence[Path],
    board: Board,
    out: Path,
    instants: Path | None = None,
    lenses: Path | None = None,
    floor: Sequence[int] = (),
    distances: Sequence[Distance] = (),
    accept: bool = False,
    world: World | None = None,
    library: Library | None = None,
) -> int:
    """Writes cameras.yaml, quality.yaml, board.yaml and report.html, prints the gates; 2 where one fails and is not accepted, else 0.

    `instants` is a table of which frames belong together (timestamps.csv beside the videos by default, else frames of one number).
    `floor` numbers instants (by frame, or by the table's sync_index) at which the board lies on the floor: the first gives the world, at
    the others it must lie there too. `world` is told by points instead. `library` says beforehand what the lenses are. Without a rig
    nothing that was there is touched.
    """
    begun = time.monotonic()
    videos, target = steps.clips(places), steps.cameras_file(out)
    before = read_cameras(target) if target.is_file() else None
    if instants is None and (instants := steps.instants_beside(videos)):
        Console().print(f"board: {instants} tells which frames belong together", highlight=False)
    numbering = steps.Numbering.of(videos, instants)  # what is wrong with the words is told before the long search
    for number in floor:
        numbering.position(number)
    steps.known_cameras(distances, list(videos))
    known = read_cameras(lenses).names if lenses is not None else tuple(videos)
    if missing := [n for n in videos if n not in known]:
        raise ValueError(f"{lenses}: no camera {missing[0]!r}; there are {list(known)}")
    try:
        found = steps.find(videos, board, target.parent / "board", instants)
    except NotSeen as error:
        _refused(target, [Gate("board seen", "fail", 0, VIEWS[1], f"No camera sees the board. {error}")])
        return 2
    rig = steps.solve(found.views, steps.lenses(found.views, lenses, library=library), lenses is None, distances, before)
    if rig.fit is None:
        _refused(target, _explained(rig.gates, why_unseen(found.views, videos)))
        return 2
    cameras, gates, marks = _in_world(found, rig, floor, world)
    account = replace(rig.account, marks=marks) if rig.account else None
    written = steps.write(target, cameras, board, gates, accept, account, steps.source(found))
    _tell(written, gates, rig.fit, rig.held, board, time.monotonic() - begun)
    if words := told_refused(target, written):
        Console(stderr=True).print(f"[bold red]calibrate: {escape(words)}[/]", highlight=False)
    return 0 if accept or passed(gates) else 2


def _in_world(found: steps.Found, rig: steps.Rig, floor: Sequence[int], world: World | None) -> tuple[Cameras, tuple[Gate, ...], Marks]:
    """The cameras in the world that points tell, else the board on the floor, else their own; all gates; the points."""
    assert rig.fit is not None
    instants = [found.nearest(rig.fit, number) for number in floor]
    if world:
        told = settled(rig.fit.cameras, world, metric=True)
        move, gates, marks = told.move, named(rig.gates, told.gates), told.places
    else:
        placed = steps.on_board(found, rig.fit, instants[0]) if instants else steps.nowhere(rig.fit)
        move, gates, marks, instants = placed.move, (*rig.gates, placed.gate), {}, instants[1:]
    boards = list(move.points(steps.corners(found, rig.fit)[instants]))
    gates = tuple(floors_agree(g, boards) if g.name == "floor" else g for g in gates)
    return move.cameras(rig.fit.cameras), gates, marks


def _explained(gates: Sequence[Gate], unseen: Mapping[str, str]) -> list[Gate]:
    """The gates with what is the matter with the pictures of cameras that hardly ever see the board."""
    words = "; ".join(f"{name}: {why}" for name, why in unseen.items())
    return [replace(g, remedy=f"{g.remedy} ({words})") if words and g.name == "board seen" else g for g in gates]


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
        told = escape(g.sentence) + (f"\n[bold]{escape(g.remedy)}[/]" if g.remedy else "")
        table.add_row(g.name, f"[{COLOURS[g.verdict]}]{g.verdict}[/]", told)
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

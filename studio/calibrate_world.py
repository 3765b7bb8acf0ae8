"""`studio calibrate --floor-points` and `--known-points` for cameras that are calibrated already: another floor, origin, or metre."""

from __future__ import annotations

from pathlib import Path

from rich import print as say
from rich.markup import escape

from calibration.formats import read_cameras
from calibration.gates import gates_of, passed, place_for, report_file, save_gates, told_refused
from studio.calibration_report import Account, write_report
from studio.world_points import World, named, settled


def replace_world(file: Path, out: Path, world: World, accept: bool = False) -> int:
    """Writes the cameras of `file`, in the world that points tell, to `out`, with their gates and a report; 2 where a gate fails, else 0.

    Where one fails that is not accepted, a calibration that `out` holds stays, and what failed is written beside it (see `place_for`).
    Cameras that a board put in metres keep their metre, and the points check it; to others known points give it.
    """
    cameras = read_cameras(file)
    kept, _ = gates_of(file)
    told = settled(cameras, world, metric=any(g.name == "known square" for g in kept))
    gates = named([g for g in kept if g.name not in ("floor points", "known points")], told.gates)
    moved = told.move.cameras(cameras)
    out.parent.mkdir(parents=True, exist_ok=True)
    asked, out = out, place_for(out, gates, accept)
    moved.save(out)
    accepted = accept and not passed(gates)
    save_gates(out, gates, accepted=accepted)
    facts = {"How it was calibrated": f"the cameras come from {file.name}; here only the world was set, by {len(told.places)} points"}
    write_report(out, Account("Calibration in another world", file.name, moved, gates, facts, marks=told.places, accepted=accepted))
    for gate in told.gates:
        say(("[bold red]" if gate.verdict == "fail" else "") + escape(f"{gate.name}: {gate.sentence} {gate.remedy}".rstrip()))
    say(f"calibrate: world of {len(cameras)} cameras set by {len(told.places)} points -> {out}, {report_file(out).name}")
    if words := told_refused(asked, out):
        say(f"[bold red]calibrate: {escape(words)}[/]")
    return 0 if accept or passed(gates) else 2

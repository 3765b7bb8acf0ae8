"""The whole run of a take: detect, sync, track, fit, export, report. What is up to date is skipped, so a killed run goes on."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import studio
from calibration.gates import refuse_failed
from studio.actor import profile_file
from studio.clock import FILE as SYNC_FILE
from studio.clock import unlooked
from studio.detect import DetectConfig, detect, more_files
from studio.detect.clean_plate import clip_of
from studio.edits import FILE as EDITS_FILE
from studio.export import ExportConfig, export
from studio.fit import FitConfig, fit
from studio.freshness import fresh, seal, unseal
from studio.review import ReportConfig, report
from studio.sync import SyncConfig, sync
from studio.take import AUTO, Take
from studio.track import TrackConfig, found_actors, track

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Config:
    """The settings of every stage; in YAML one mapping per stage (`fit: {iterations: 40}`)."""

    detect: DetectConfig = field(default_factory=DetectConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


STAGES: dict[str, Callable[[Take, Any], Path]] = {
    "detect": detect, "sync": sync, "track": track, "fit": fit, "export": export, "report": report,
}  # fmt: skip


def run(take: Take, config: Config | None = None, force: bool = False, accept_calibration: bool = False) -> Path:
    """The take's report, after every stage whose inputs or settings changed (all of them with `force`). Its folder gets a `take.yaml`
    where it has none.

    A `ValueError` tells of cameras whose calibration failed a gate, unless that was accepted when they were calibrated or is now.
    """
    config = config or Config()
    take = take.checked()
    if not (take.folder / "take.yaml").is_file():
        take.save()
    if not accept_calibration:
        refuse_failed(take.cameras_file)
    begun = time.monotonic()
    for warning in take.warnings:
        console.print(warning, style="yellow", markup=False)
    take.note("take", take.warnings)
    path = take.folder
    for name in STAGES:
        if name == "track" and take.actors == AUTO:
            take = with_actors(take, config.track)
        path = step(take, name, getattr(config, name), force)
        if name == "sync" and (late := unlooked(take)):
            console.print(f"sync: other frames of {', '.join(late)} belong to this take; they are looked at now")
            unseal(take.keypoints_folder)
            path = [step(take, again, getattr(config, again)) for again in ("detect", "sync")][-1]
    console.print(f"[bold green]done[/] in {time.monotonic() - begun:.0f} s: {path}")
    return path


def with_actors(take: Take, config: TrackConfig) -> Take:
    """The take with the people who are in it as actors, also in its take.yaml, where they may be renamed."""
    take = replace(take, actors=found_actors(take, config))
    take.save()
    console.print(f"actors: {', '.join(take.actors)} found; rename them in {take.folder / 'take.yaml'}")
    return take


def step(take: Take, name: str, config: Any, force: bool = False) -> Path:
    """Run one stage unless what it makes is fresh; the path of what it makes."""
    inputs, outputs = reads(take, name, config), makes(take, name)
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "workers"}  # how many work changes no result
    facts = {k: v for k, v in take.facts.items() if k != "actors" or name not in ("detect", "sync")}  # what is seen depends on no names
    recipe = {"take": facts, "config": settings, "studio": studio.__version__}
    if missing := [p for p in inputs if not p.exists()]:
        raise FileNotFoundError(f"{missing[0]}: the stage `{name}` needs it; run `studio run {take.folder}`, which makes it first")
    if not force and any(p.exists() for p in outputs) and all(fresh(p, inputs, recipe) for p in outputs):
        console.print(f"{name}: up to date")
        return next(p for p in outputs if p.exists())
    before = {p: p.stat().st_mtime_ns for p in outputs if p.is_file()}
    for path in outputs:
        unseal(path)
        if force and path == take.keypoints_folder:  # cameras already done would be kept: the stage goes on where it was
            shutil.rmtree(path, ignore_errors=True)
        if force and name == "fit":  # frames that no edit touched would be kept
            path.unlink(missing_ok=True)
    sweep(take.folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            STAGES[name](take, config)
        finally:
            sweep(take.folder)
    tell(take, name, [str(w.message) for w in caught if issubclass(w.category, UserWarning)])
    for path in outputs:
        if path in before and path.stat().st_mtime_ns == before[path]:
            path.unlink()  # an actor whom this run does not find: the motion of an earlier run must not stand for this one's
    if not any(p.exists() for p in outputs):
        raise FileNotFoundError(f"{outputs[0]}: the stage `{name}` found nothing to put there; see its messages above")
    for path in outputs:
        seal(path, inputs, recipe)
    return next(p for p in outputs if p.exists())


def reads(take: Take, name: str, config: Any) -> list[Path]:
    """The files and folders that a stage's result depends on; the user's own files named in its config among them."""
    keypoints, motions = take.keypoints_folder, [p for p in makes(take, "fit") if p.exists()] or makes(take, "fit")
    given = [v for f in fields(config) if isinstance(v := getattr(config, f.name), Path) and v.exists()]
    cameras, notes = take.cameras_file, [p for p in sorted((take.folder / "notes").glob("*.json")) if p.stem != "report"]
    clocks = [p for p in makes(take, "sync") if p.exists()]  # takes from before this stage have none
    clips = [clip for c in take.videos if (clip := clip_of(take, c))] if name == "detect" else []
    if isinstance(config, DetectConfig):
        given += more_files(take, config)
    own = [p for p in (take.folder / EDITS_FILE, *(profile_file(take, a) for a in take.actors), take.folder / "masks") if p.exists()]
    return {
        "detect": [*take.videos.values(), *clips],
        "sync": [keypoints, cameras, *take.videos.values()],
        "track": [keypoints, cameras, *clocks],
        "fit": [take.tracks_file, keypoints, cameras, *clocks, *own],
        "export": [*motions, take.tracks_file],
        "report": [*motions, take.tracks_file, keypoints, cameras, *clocks, *take.videos.values(), *notes],
    }[name] + given


def makes(take: Take, name: str) -> list[Path]:
    """The files and folders that a stage makes."""
    return {
        "detect": [take.keypoints_folder],
        "sync": [take.folder / SYNC_FILE],
        "track": [take.tracks_file],
        "fit": [take.motion_file(a) for a in take.actors],
        "export": [take.folder / "export"],
        "report": [take.folder / "report.html", take.folder / "report.json"],
    }[name]


def tell(take: Take, name: str, caught: list[str]) -> None:
    """Print what a stage warned of, and put it where the report finds it; many of one kind as one."""
    said = list(dict.fromkeys(caught))
    if len(said) > 5:
        said = [*said[:4], f"{len(said) - 4} more warnings like these"]
    for text in said:
        console.print(f"{name}: {text}", style="yellow", markup=False)
    if said:
        note = take.notes().get(name, {"warnings": [], "numbers": {}})
        take.note(name, [*note["warnings"], *said], **note["numbers"])


def sweep(folder: Path) -> None:
    """Remove half-written files that a killed run left."""
    for path in folder.rglob("*.partial*"):
        if path.is_file():
            path.unlink(missing_ok=True)

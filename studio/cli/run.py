"""The verb `run`, and one verb for each of its stages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from studio.cli.arguments import PLAIN, File, Folder, Text
from studio.take import AUTO, Session, Take

UNCOUNTED = 8
"""Most people looked for in one image where nobody said how many there are."""

STAGES = {
    "detect": "Find people's keypoints in every image of a take.",
    "sync": "Put the cameras on one clock: from motion, sound, light, timecode or a table.",
    "track": "Tell who is who across cameras and time, and triangulate.",
    "fit": "Fit the body to what the cameras saw.",
    "export": "Write animation files and tables into the take's folder `export`; what is chosen here is kept for the next time.",
    "report": "Write the report.",
}


def run(
    videos: Annotated[Positional[tuple[Path, ...]], arg(metavar="VIDEO...", help_behavior_hint="")],
    /,
    cameras: File = None,
    out: Folder = None,
    frames: Annotated[str | None, arg(metavar="FIRST:LAST", help_behavior_hint="")] = None,
    actors: Annotated[tuple[str, ...], arg(metavar="N|NAME...|auto", help_behavior_hint="")] = (),
    keypoints: Folder = None,
    detector: Text = None,
    runtime: Text = None,
    body: Text = None,
    sync: Text = None,
    timecode: Text = None,
    settings: File = None,
    force: bool = False,
    accept_calibration: bool = False,
) -> None:
    """Videos in, animation and report out. What is up to date is skipped, so a stopped run goes on where it was.

    Args:
        videos: one video per camera, named after it; a folder of them; or the folder of a take
        cameras: the calibration (cameras.yaml or another tool's file)
        out: folder for the results
        frames: the video frames to use, LAST excluded; all by default
        actors: how many people, their names, or auto for everybody there is; one by default
        keypoints: folder of 2D keypoints made elsewhere (OpenPose JSON), one subfolder per camera
        detector: the network that sees: mediapipe; hands (no body in view); hourglass (our own); or a whole-body ONNX file with its card
        runtime: what runs it: auto, litert (processors) or torch (GPU)
        body: body model: makehuman, or a SMPL-family file of yours
        sync: the cameras' clocks: auto, off, motion, audio, flash, timecode, or a CSV of frame times
        timecode: of the first video frame, HH:MM:SS:FF
        settings: YAML file with settings of the stages (`studio settings` prints all of them)
        force: do everything again
        accept_calibration: go on although the calibration failed one of its checks
    """
    take = _take(videos, cameras, out, frames=_frames(frames), actors=_actors(actors), body=body, timecode=timecode)
    config = _config(take.folder, settings)
    config = replace(config, detect=_seeing(config.detect, take, keypoints, detector, runtime))
    if sync is not None:
        table = sync.endswith(".csv")
        config = replace(config, sync=_with(config.sync, {"table": sync} if table else {"mode": sync, "table": None}))
    if take.body != Take.body:
        from rigs.catalogue import open_body

        open_body(take.body)  # a wrong one is told now, not after hours of detection
    _keep(take, config)

    from studio import pipeline

    pipeline.run(take, config, force, accept_calibration)


def _seeing(config: Any, take: Take, keypoints: Path | None, detector: str | None, runtime: str | None) -> Any:
    """The settings of detection as `run` was told them; what cannot be opened is told now, before anything is written."""
    if keypoints and not keypoints.is_dir():
        raise FileNotFoundError(f"{keypoints}: --keypoints needs a folder of keypoint files, one subfolder per camera")
    if detector and detector.endswith((".onnx", ".safetensors")):
        detector = str(Path(detector).resolve())
    chosen = {"keypoints": str(keypoints.resolve()) if keypoints else None, "detector": detector, "runtime": runtime}
    config = _with(config, {k: v for k, v in chosen.items() if v is not None})
    if detector not in (None, "mediapipe", "hands", "holistic"):
        from studio.detect.cards import opened
        from studio.detect.own import files_of, is_own

        (files_of if is_own(detector) else opened)(detector)
    wanted = UNCOUNTED if take.actors == AUTO else len(take.actors) + 1
    return replace(config, people=wanted) if wanted > config.people and config.keypoints is None else config


def stage(name: str, argv: Sequence[str]) -> None:
    """One stage on a take, its settings as flags; what is not the default is kept in the take's settings.yaml."""
    from studio import pipeline
    from studio.settings import save

    folder = next((Path(a) for a in argv if (Path(a) / "take.yaml").is_file()), None)
    whole = _config(folder, None)
    kept = getattr(whole, name)
    default = _superseded(kept, argv) if name == "export" else kept

    def verb(take: Path, config: Any, force: bool = False) -> None:
        opened = Take.open(take).checked()
        if opened.actors == AUTO and name not in ("detect", "sync"):
            opened = pipeline.with_actors(opened, whole.track)
        pipeline.step(opened, name, config, force)
        if config != kept:  # only now: settings that fail must not stand in the way of the next command
            save(replace(_config(take, None), **{name: config}), take / "settings.yaml")

    again = Annotated[bool, arg(help="Do it although it is up to date.")]
    verb.__annotations__ = {"take": Positional[Path], "config": Annotated[type(default), arg(name="")], "force": again}
    verb.__defaults__ = (default, False)
    tyro.cli(verb, prog=f"studio {name}", args=list(argv), description=STAGES[name], config=PLAIN)


def _superseded(kept: Any, argv: Sequence[str]) -> Any:
    """The kept settings of `export` without those that the command line's choice of a skeleton takes the place of."""
    flags = {a.split("=")[0].replace("_", "-") for a in argv}
    chosen = ("--to-character" in flags, "--preset" in flags)
    return replace(kept, **{(True, False): {"preset": None}, (False, True): {"to_character": None}}.get(chosen, {}))


def _take(places: Sequence[Path], cameras: Path | None, out: Path | None, **facts: Any) -> Take:
    """The take that a command line speaks of: a take's folder, or videos with --cameras and --out."""
    given = {k: v for k, v in facts.items() if v is not None}
    if not places:
        raise ValueError("studio run: needs VIDEO...: a folder of videos, one per camera, or the folder of a take; `studio run --help`")
    if len(places) == 1 and (places[0] / "take.yaml").is_file():
        if cameras or out:
            raise ValueError(
                f"{places[0]}: is a take with its own cameras and folder; leave out --cameras and --out, or edit its take.yaml"
            )
        return replace(Take.open(places[0]), **given)
    if missing := [p for p in places if not p.exists()]:
        raise FileNotFoundError(f"{missing[0]}: no such file or folder; give videos, a folder of them, or a take's folder")
    if len(places) == 1 and (places[0] / "session.yaml").is_file():
        raise ValueError(
            f"{places[0]}: is a session; run one of its takes: {[f'{places[0]}/takes/{t}' for t in Session.open(places[0]).takes()]}"
        )
    if cameras is None or out is None:
        raise ValueError(f"studio run: needs {'--cameras FILE' if cameras is None else '--out DIR'} beside the videos")
    return Take.of(places, cameras, out, **given)


def _keep(take: Take, config: Any) -> None:
    """Write take.yaml, and settings.yaml where a setting is not the default, so that later verbs on the folder agree."""
    from studio.settings import difference, save

    try:
        take.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{take.folder}: cannot be made a folder ({error.strerror}); choose another --out") from error
    if not os.access(take.folder, os.W_OK):
        raise PermissionError(f"{take.folder}: cannot be written to; choose another --out")
    if not (take.folder / "take.yaml").exists() or take != Take.open(take.folder):
        take.save()
    if difference(config) or (take.folder / "settings.yaml").exists():
        save(config, take.folder / "settings.yaml")


def _config(folder: Path | None, settings: Path | None) -> Any:
    from studio import pipeline
    from studio.settings import load

    if settings is None and folder is not None and (folder / "settings.yaml").is_file():
        settings = folder / "settings.yaml"
    return load(settings, pipeline.Config) if settings else pipeline.Config()


def _with(config: Any, values: dict[str, Any]) -> Any:
    """The stage's config with some settings from the command line, checked like those of a file."""
    from studio.settings import filled, plain

    return filled(type(config), {**plain(config), **values}, "studio run")


def _frames(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise ValueError(f"--frames {text}: needs FIRST:LAST with FIRST < LAST, for example 0:90")
    return int(first), int(last)


def _actors(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """None for the take's own; `actor1`, `actor2` ... for a number; else the names."""
    if len(names) == 1 and names[0].isdigit():
        count = int(names[0])
        return ("actor",) if count == 1 else tuple(f"actor{i + 1}" for i in range(count))
    return names or None

"""The command line: verbs to functions. Heavy modules are imported by the verb that needs them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from studio.take import Session, Take

File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]

PLAIN = (tyro.conf.FlagCreatePairsOff,)
"""`--force` without a `--no-force`."""

EPILOG = """\
The two you need:
  studio demo
  studio run VIDEOS --cameras cameras.yaml --out takes/walk

`studio VERB --help` tells more; --debug after any verb shows tracebacks."""


def new(session: Positional[Path], /) -> None:
    """Make a session: a folder for the calibration and the takes of one camera setup.

    Args:
        session: the folder to make
    """
    if (session / "session.yaml").exists():
        raise FileExistsError(f"{session / 'session.yaml'}: exists already; edit it, or choose another folder")
    if (session / "take.yaml").exists():
        raise FileExistsError(f"{session}: is a take; make the session in another folder")
    made, wanted = Session(session).save(), session / "calibration/cameras.yaml"
    print(f"{made}: put the calibration at {wanted}, then `studio add-take {session} NAME VIDEOS`")


def add_take(session: Positional[Path], name: Positional[str], videos: Positional[tuple[Path, ...]], /, copy: bool = False) -> None:
    """Add a take to a session.

    Args:
        session: the session's folder
        name: the take's name
        videos: one video per camera, named after it, or a folder of them
        copy: copy the videos instead of linking to them
    """
    folder = Session.open(session).add(name, videos, copy)
    print(f"{folder}: run it with `studio run {folder}`")


def run(
    videos: Annotated[Positional[tuple[Path, ...]], arg(metavar="VIDEO...", help_behavior_hint="")],
    /,
    cameras: File = None,
    out: Folder = None,
    frames: Annotated[str | None, arg(metavar="FIRST:LAST", help_behavior_hint="")] = None,
    actors: Annotated[tuple[str, ...], arg(metavar="N|NAME...", help_behavior_hint="")] = (),
    keypoints: Folder = None,
    detector: Text = None,
    body: Text = None,
    sync: Text = None,
    timecode: Text = None,
    settings: File = None,
    force: bool = False,
) -> None:
    """Videos in, animation and report out. What is up to date is skipped, so a stopped run goes on where it was.

    Args:
        videos: one video per camera, named after it; a folder of them; or the folder of a take
        cameras: the calibration (cameras.yaml or another tool's file)
        out: folder for the results
        frames: the video frames to use, LAST excluded; all by default
        actors: how many people, or their names; one by default
        keypoints: folder of 2D keypoints made elsewhere (OpenPose JSON), one subfolder per camera
        detector: the network that sees (mediapipe)
        body: body model: makehuman, or a SMPL-family file of yours
        sync: the cameras' clocks: auto, off, motion, audio, flash, timecode, or a CSV of frame times
        timecode: of the first video frame, HH:MM:SS:FF
        settings: YAML file with settings of the stages (`studio settings` prints all of them)
        force: do everything again
    """
    take = _take(videos, cameras, out, frames=_frames(frames), actors=_actors(actors), body=body, timecode=timecode)
    config = _config(take.folder, settings)
    if keypoints and not keypoints.is_dir():
        raise FileNotFoundError(f"{keypoints}: --keypoints needs a folder of keypoint files, one subfolder per camera")
    chosen = {"keypoints": str(keypoints.resolve()) if keypoints else None, "detector": detector}
    config = replace(config, detect=_with(config.detect, {k: v for k, v in chosen.items() if v is not None}))
    if sync is not None:
        table = sync.endswith(".csv")
        config = replace(config, sync=_with(config.sync, {"table": sync} if table else {"mode": sync, "table": None}))
    if take.body != Take.body:
        from rigs.catalogue import open_body

        open_body(take.body)  # a wrong one is told now, not after hours of detection
    _keep(take, config)

    from studio import pipeline

    pipeline.run(take, config, force)


def virtual(argv: Sequence[str]) -> None:
    """Render a virtual capture: videos, cameras.yaml and the exact truth."""
    from studio.virtual import VirtualCapture, render_capture

    def verb(out: Path, config: VirtualCapture) -> None:
        print(f"{render_capture(out, config)}: videos, cameras.yaml, truth.safetensors")

    verb.__annotations__ = {"out": Positional[Path], "config": Annotated[VirtualCapture, arg(name="")]}
    verb.__defaults__ = (VirtualCapture(),)
    tyro.cli(verb, prog="studio virtual", args=list(argv), description=virtual.__doc__, config=PLAIN)


def cameras(action: Positional[str], source: Positional[Path], target: Positional[Path], /) -> None:
    """`studio cameras convert IN OUT`: rewrite a calibration in the format that OUT's name tells.

    Args:
        action: convert
        source: a calibration: cameras.yaml, or another tool's file
        target: the file to write
    """
    from calibration import formats

    if action != "convert":
        raise ValueError(f"studio cameras: {action!r} is not an action; use `studio cameras convert IN OUT`")
    read = formats.read_cameras(source)
    formats.write_cameras(read, target)
    print(f"{target}: {len(read)} cameras: {', '.join(read.names)}")


def calibrate(
    videos: Annotated[Positional[tuple[Path, ...]], arg(metavar="VIDEO...", help_behavior_hint="")] = (),
    /,
    board: Text = None,
    instants: File = None,
    floor: Annotated[int | None, arg(metavar="INSTANT", help_behavior_hint="")] = None,
    distance: Annotated[tuple[str, ...], arg(metavar="CAM:CAM:LENGTH...", help_behavior_hint="")] = (),
    accept: bool = False,
    from_people: Annotated[tuple[Path, ...], arg(metavar="VIDEO...|TAKE", help_behavior_hint="")] = (),
    out: File = None,
    height: Annotated[float | None, arg(metavar="METRES", help_behavior_hint="")] = None,
    lenses: File = None,
    same_lens: bool = False,
    refine: File = None,
    check: File = None,
) -> int:
    """Find the cameras from clips of a board, or of a person walking before them; check and refine cameras that are known.

    Args:
        videos: clips of a board, one per camera, named after it, or a folder of them
        board: the board: board.yaml, or for example charuco:4x5:54mm:DICT_4X4_1000[:marker=40mm][:inverted][:legacy]
        instants: table of which frames belong together (timestamps.csv); frames of one number by default
        floor: number of the instant at which the board lies on the floor, print up: it becomes z = 0
        distance: distances between cameras by the tape, to check the scale: cam01:cam02:2.35m
        accept: end well although a gate fails
        from_people: one video per camera, named after it; a folder of them; or the folder of a take
        out: the cameras.yaml to write, or for a board the session or folder to write it into
        height: the person's height, for the scale; without it the scale is a guess
        lenses: a camera file whose lenses are known; the result is far more exact with it
        same_lens: all cameras are of one model at one zoom
        refine: a camera file to refine: each camera moves a little where the person shows that it must
        check: a camera file to check: was a camera bumped, are two exchanged
    """
    if board is not None or videos:
        return _calibrate_board(videos, board, out, instants, lenses, floor, distance, accept, bool(from_people))
    from studio import calibrate as calibration

    if not from_people:
        raise ValueError("studio calibrate: needs VIDEO... --board BOARD, or --from-people VIDEO... (or a take's folder)")
    if missing := [p for p in from_people if not p.exists()]:
        raise FileNotFoundError(f"{missing[0]}: no such file or folder; give videos, a folder of them, or a take's folder")
    if check is not None:
        return calibration.check_with_people(from_people, check)
    if out is None:
        raise ValueError("studio calibrate: needs --out FILE, the cameras.yaml to write")
    if refine is not None:
        calibration.refine_from_people(from_people, refine, out)
    else:
        calibration.calibrate_from_people(from_people, out, height, lenses, same_lens)
    return 0


def _calibrate_board(
    videos: Sequence[Path],
    board: str | None,
    out: Path | None,
    instants: Path | None,
    lenses: Path | None,
    floor: int | None,
    distance: Sequence[str],
    accept: bool,
    people: bool,
) -> int:
    """`studio calibrate VIDEO... --board`."""
    if board is None or not videos or out is None or people:
        wanted = "either VIDEO... or --from-people" if people else "--board" if board is None else "VIDEO..." if not videos else "--out DIR"
        raise ValueError(f"studio calibrate: needs {wanted}, for example: clips/ --board charuco:5x7:40mm:DICT_4X4_50 --out session")
    from studio.calibrate_boards import board_of, calibrate_from_boards, distance_of

    known = [distance_of(d) for d in distance]
    return calibrate_from_boards(videos, board_of(board), out, instants, lenses, floor, known, accept)


def train(what: Positional[str], captures: Positional[tuple[Path, ...]], /, network: str = "mediapipe") -> None:
    """`studio train landmarks CAPTURE...`: learn from virtual captures where on the body a network puts its landmarks.

    Args:
        what: landmarks
        captures: folders that `studio virtual` rendered, one person each
        network: whose landmarks: mediapipe
    """
    if what != "landmarks":
        raise ValueError(f"studio train: {what!r} cannot be trained; use `studio train landmarks CAPTURE...`")
    from studio.train.landmarks import learn_from

    for name, p in learn_from(captures, network).items():
        print(f"{name:24s} {p.count:6d} sightings, scatter {1000 * p.before:5.1f} -> {1000 * p.scatter:5.1f} mm")


def board(
    charuco: Text = None,
    chessboard: Text = None,
    apriltag: Text = None,
    aruco: Text = None,
    square: str = "40mm",
    marker: Text = None,
    dictionary: Text = None,
    two_sided: Text = None,
    page: Text = None,
    pdf: Path = Path("board.pdf"),
) -> None:
    """Print a calibration board at true scale: a PDF with a ruler, and its description for `studio calibrate` beside it.

    Args:
        charuco: squares across x down, for example 5x7
        chessboard: inner corners across x down
        apriltag: markers across x down
        aruco: markers across x down
        square: side of a square; from marker to marker in a grid
        marker: side of a marker's black square; by default three quarters of the square
        dictionary: OpenCV's name of the markers' dictionary
        two_sided: print a back too, for a board this thick, for example 5mm
        page: A4, letter, A3, A2, A1 or A0; by default the smallest that fits
        pdf: the file to write
    """
    from studio.board_print import described, print_board, title, with_yaml

    given = {k: v for k, v in (("charuco", charuco), ("chessboard", chessboard), ("apriltag", apriltag), ("aruco", aruco)) if v}
    if len(given) != 1:
        raise ValueError("studio board: needs one of --charuco, --chessboard, --apriltag, --aruco, for example --charuco 5x7")
    [(kind, counts)] = given.items()
    made = described(kind, counts, square, marker, dictionary, two_sided)
    print_board(made, pdf, page)
    print(f"{pdf}: {title(made)}; description in {with_yaml(made, pdf)}")


def settings() -> None:
    """Print every stage's settings with their defaults as YAML, to save, edit and pass to `studio run --settings`."""
    import yaml

    from studio import pipeline
    from studio.settings import plain

    print(yaml.safe_dump(plain(pipeline.Config()), sort_keys=False), end="")


def doctor() -> int:
    """Check this machine: Python, libraries, networks, codecs, disk, and what to do about what is missing."""
    from studio.doctor import examine

    return examine()


def demo(out: Positional[Path] = Path("demo"), /, frames: int = 90, seed: int = 0, force: bool = False) -> None:
    """Render a virtual capture, run the whole job on it, and measure the result against the exact truth.

    Args:
        out: folder for it
        frames: how many frames
        seed: another seed, another person and performance
        force: do everything again
    """
    from studio.demo import demo

    demo(out, frames, seed, force)


def _stage(name: str, argv: Sequence[str]) -> None:
    """One stage on a take, its settings as flags; what is not the default is kept in the take's settings.yaml."""
    from studio import pipeline
    from studio.settings import save

    folder = next((Path(a) for a in argv if (Path(a) / "take.yaml").is_file()), None)
    whole = _config(folder, None)
    default = getattr(whole, name)

    def verb(take: Path, config: Any, force: bool = False) -> None:
        opened = Take.open(take).checked()
        if config != default:
            save(replace(whole, **{name: config}), take / "settings.yaml")
        pipeline.step(opened, name, config, force)

    verb.__annotations__ = {"take": Positional[Path], "config": Annotated[type(default), arg(name="")], "force": bool}
    verb.__defaults__ = (default, False)
    tyro.cli(verb, prog=f"studio {name}", args=list(argv), description=STAGES[name], config=PLAIN)


VERBS: dict[str, Callable[..., Any]] = {
    "run": run, "demo": demo, "doctor": doctor, "new": new, "add-take": add_take, "settings": settings, "cameras": cameras,
    "virtual": virtual, "calibrate": calibrate, "train": train, "board": board,
}  # fmt: skip
STAGES = {
    "detect": "Find people's keypoints in every image of a take.",
    "sync": "Put the cameras on one clock: from motion, sound, light, timecode or a table.",
    "track": "Tell who is who across cameras and time, and triangulate.",
    "fit": "Fit the body to what the cameras saw.",
    "export": "Write the animation files.",
    "report": "Write the report.",
}


def main() -> None:
    """The `studio` command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill leaves no half files either
    sys.exit(call(sys.argv[1:]))


def call(argv: Sequence[str]) -> int:
    """Run a command line; 0, or 2 after a message for the user, 1 after a fault of ours, 130 when stopped."""
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        import studio

        print(studio.__version__)
        return 0
    try:
        return _dispatch(argv[0], argv[1:])
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        told = _told(error)
        _complain(told or f"{type(error).__name__}: {error} (a fault of the studio: run again with --debug and report what it prints)")
        return 2 if told else 1


def _told(error: Exception) -> str:
    """What to tell the user of an error that is not a fault of the studio; empty for one that is."""
    if "No space left on device" in str(error):  # of the system, of safetensors and of PyAV alike
        return f"the disk is full ({error}): make room, or choose another --out; the same command goes on where it stopped"
    if isinstance(error, OSError) and error.filename and error.strerror and not isinstance(error, FileNotFoundError):
        return f"{error.filename}: {error.strerror}; check the path and who may write there, or choose another"
    return str(error) if isinstance(error, (ValueError, OSError, ImportError)) else ""


def _dispatch(verb: str, rest: Sequence[str]) -> int:
    if verb in STAGES:
        _stage(verb, rest)
        return 0
    if verb not in VERBS:
        raise ValueError(f"studio: no verb {verb!r}; there are {', '.join([*VERBS, *STAGES])}")
    if verb == "virtual":
        virtual(rest)
        return 0
    return tyro.cli(VERBS[verb], prog=f"studio {verb}", args=list(rest), config=PLAIN) or 0


def _overview() -> str:
    lines = [f"  {verb:<10} {(function.__doc__ or '').splitlines()[0]}" for verb, function in VERBS.items()]
    stages = [f"  {name:<10} {text}" for name, text in STAGES.items()]
    return "\n".join(
        ["usage: studio VERB ...", "", *lines, "", "The stages of `run`, one at a time, on a take's folder:", *stages, "", EPILOG]
    )


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(" ".join(message.split()), style="bold red"))


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

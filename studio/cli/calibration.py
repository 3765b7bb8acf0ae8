"""Verbs of the calibration: print a board, find the cameras, rewrite their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from studio.cli.arguments import File, Text, writable

if TYPE_CHECKING:
    from calibration.lens_library import Library
    from studio.world_points import World


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
    from studio.board_print import described, page_of, print_board, title, with_yaml

    writable("--pdf", pdf)
    given = {k: v for k, v in (("charuco", charuco), ("chessboard", chessboard), ("apriltag", apriltag), ("aruco", aruco)) if v}
    if len(given) != 1:
        raise ValueError("studio board: needs one of --charuco, --chessboard, --apriltag, --aruco, for example --charuco 5x7")
    [(kind, counts)] = given.items()
    made = described(kind, counts, square, marker, dictionary, two_sided)
    name, wide, high = page_of(made, page)
    print_board(made, pdf, page)
    print(f"{pdf}: {title(made)}; on {name} ({wide:g} x {high:g} mm); description in {with_yaml(made, pdf)}")


def calibrate(
    videos: Annotated[Positional[tuple[Path, ...]], arg(metavar="VIDEO...", help_behavior_hint="")] = (),
    /,
    board: Text = None,
    instants: File = None,
    floor: Annotated[tuple[int, ...], arg(metavar="INSTANT...", help_behavior_hint="")] = (),
    floor_points: Annotated[tuple[str, ...], arg(metavar="FILE|CAM:X,Y/CAM:X,Y...", help_behavior_hint="")] = (),
    known_points: File = None,
    origin: Annotated[str | None, arg(metavar="NAME[:NAME]", help_behavior_hint="")] = None,
    up: Annotated[str | None, arg(metavar="LOWER:UPPER", help_behavior_hint="")] = None,
    distance: Annotated[tuple[str, ...], arg(metavar="CAM:CAM:LENGTH...", help_behavior_hint="")] = (),
    accept: bool = False,
    from_people: Annotated[tuple[Path, ...], arg(metavar="VIDEO...|TAKE", help_behavior_hint="")] = (),
    out: File = None,
    height: Annotated[float | None, arg(metavar="METRES", help_behavior_hint="")] = None,
    lenses: File = None,
    same_lens: bool = False,
    lens_library: File = None,
    lens_model: Annotated[tuple[str, ...], arg(metavar="MODEL|CAM=MODEL...", help_behavior_hint="")] = (),
    save_lenses: File = None,
    refine: File = None,
    check: File = None,
) -> int:
    """Find the cameras from clips of a board, or of a person walking before them; check and refine cameras that are known.

    Args:
        videos: clips of a board, one per camera, named after it, or a folder of them
        board: the board: board.yaml, or for example charuco:4x5:54mm:DICT_4X4_1000[:marker=40mm][:inverted][:legacy]
        instants: table of which frames belong together (timestamps.csv); frames of one number by default
        floor: instant at which the board lies on the floor, print up: its frame, or sync_index in the table; z = 0; further ones check it
        floor_points: three or more points on the floor, clicked in two cameras or more: a YAML file of NAME: {CAM: [X, Y]}, or words
        known_points: YAML file of points that were measured: NAME: {pixels: {CAM: [X, Y]}, xyz: [X, Y, Z]} in metres, z up
        origin: the floor point that becomes the origin, and one that x goes towards
        up: two of the floor points, one straight above the other, instead of a floor
        distance: distances between cameras by the tape, to check the scale: cam01:cam02:2.35m
        accept: end well although a gate fails; alone with --out, accept a calibration that was made before
        from_people: one video per camera, named after it; a folder of them; or the folder of a take
        out: the cameras.yaml to write, or the session or folder to write it into; with --check where to keep what was found
        height: the person's height, for the scale; without it the scale is a guess
        lenses: a camera file whose lenses are known; the result is far more exact with it
        same_lens: all cameras are of one model at one zoom
        lens_library: a file of lenses by model and resolution; with a board what it says is where each lens starts from
        lens_model: which model of the library all cameras, or one of them, are; by default each goes by its own name
        save_lenses: a library to write the lenses that a board gave into, once the calibration is good
        refine: a camera file to refine: each camera moves a little where the person shows that it must
        check: a camera file to check: was a camera bumped, are two exchanged
    """
    from studio.board_steps import cameras_file
    from studio.world_points import world_of

    world = world_of(floor_points, known_points, origin, up)
    for flag, file in (("--save-lenses", save_lenses), ("--out", out and cameras_file(out))):
        if file is not None:
            writable(flag, file)
    if world and out is not None and not (videos or board or from_people):
        return _replace_world(refine or out, out, world, accept)
    if accept and not (videos or board or from_people):
        if out is None:
            raise ValueError("--accept: says that a calibration may be used although a gate failed; name it: --accept --out cameras.yaml")
        return _accept(out)
    from calibration.lens_library import Library

    library = Library.named(lens_library, lens_model) if lens_library else None
    if lens_model and not (lens_library or save_lenses):
        raise ValueError("--lens-model: says which lens of a library; give --lens-library FILE or --save-lenses FILE too")
    if save_lenses is not None and not videos:
        raise ValueError("--save-lenses: keeps lenses that a board gave; give VIDEO... and --board")
    if board is not None or videos:
        code = _calibrate_board(videos, board, out, instants, lenses, floor, distance, accept, bool(from_people), world, library)
        return _save_lenses(Library.named(save_lenses, lens_model), out) if save_lenses and out and not code else code
    target = None if out is None else cameras_file(out)
    return _calibrate_people(from_people, target, height, lenses, same_lens, refine, check, accept, world, library)


def _replace_world(file: Path, out: Path, world: World, accept: bool) -> int:
    """`studio calibrate --out FILE --floor-points ...`: cameras that are calibrated already."""
    from studio.board_steps import cameras_file
    from studio.calibrate_world import replace_world

    return replace_world(file if file.is_file() else cameras_file(file), cameras_file(out), world, accept)


def _accept(out: Path) -> int:
    """`studio calibrate --accept --out FILE`: use cameras although their calibration failed."""
    from calibration.gates import accept, quality_file
    from studio.board_steps import cameras_file

    failed = accept(target := cameras_file(out))
    told = ", ".join(g.name for g in failed) or "none"
    print(f"{quality_file(target)}: failed gates ({told}) are accepted; takes with these cameras say so in their report")
    return 0


def _calibrate_board(
    videos: Sequence[Path],
    board: str | None,
    out: Path | None,
    instants: Path | None,
    lenses: Path | None,
    floor: Sequence[int],
    distance: Sequence[str],
    accept: bool,
    people: bool,
    world: World,
    library: Library | None,
) -> int:
    """`studio calibrate VIDEO... --board`."""
    if board is None or not videos or out is None or people:
        wanted = "either VIDEO... or --from-people" if people else "--board" if board is None else "VIDEO..." if not videos else "--out DIR"
        raise ValueError(f"studio calibrate: needs {wanted}, for example: clips/ --board charuco:5x7:40mm:DICT_4X4_50 --out session")
    from studio.calibrate_boards import board_of, calibrate_from_boards, distance_of

    known = [distance_of(d) for d in distance]
    return calibrate_from_boards(videos, board_of(board), out, instants, lenses, floor, known, accept, world, library)


def _calibrate_people(
    people: Sequence[Path],
    out: Path | None,
    height: float | None,
    lenses: Path | None,
    same_lens: bool,
    refine: Path | None,
    check: Path | None,
    accept: bool,
    world: World,
    library: Library | None,
) -> int:
    """`studio calibrate --from-people VIDEO...`."""
    if not people:
        raise ValueError("studio calibrate: needs VIDEO... --board BOARD, or --from-people VIDEO... (or a take's folder)")
    if missing := [p for p in people if not p.exists()]:
        raise FileNotFoundError(f"{missing[0]}: no such file or folder; give videos, a folder of them, or a take's folder")
    from calibration.gates import gates_of, passed
    from studio import calibrate_check as checks
    from studio.calibrate import calibrate_from_people

    if check is not None:
        return checks.check_with_people(people, check, height, out)
    if out is None:
        raise ValueError("studio calibrate: needs --out FILE, the cameras.yaml to write")
    if refine is not None:
        written = checks.refine_from_people(people, refine, out, accept=accept)
    else:
        written = calibrate_from_people(people, out, height, lenses, same_lens, accept=accept, place=world, library=library)
    return 0 if accept or passed(gates_of(written)[0]) else 2


def _save_lenses(library: Library, out: Path) -> int:
    """`studio calibrate --save-lenses`: keep the lenses of a good calibration."""
    from calibration.formats import read_cameras
    from studio.board_steps import cameras_file

    print(f"{library.path}: keeps {', '.join(library.keep(read_cameras(cameras_file(out))))}")
    return 0


def cameras(
    action: Positional[str],
    source: Positional[Path],
    target: Positional[Path],
    /,
    unit: Annotated[float | None, arg(metavar="METRES", help_behavior_hint="")] = None,
    kind: Text = None,
) -> None:
    """`studio cameras convert IN OUT`: rewrite a calibration in the format that OUT's name tells, or --kind.

    Args:
        action: convert
        source: a calibration: cameras.yaml, or another tool's file or folder
        target: the file to write; a folder for COLMAP and XRMoCap
        unit: length of IN's unit in metres, for example 0.001, where it is not the tool's usual one
        kind: studio, pose2sim, opencv, colmap, colmap-binary, xrmocap, blender or mamma
    """
    from typing import cast

    from calibration import formats

    if action != "convert":
        raise ValueError(f"studio cameras: {action!r} is not an action; use `studio cameras convert IN OUT`")
    if unit is not None and not unit > 0:
        raise ValueError(f"--unit {unit:g}: needs the length of the file's unit in metres, for example 0.001")
    if kind is not None and kind not in formats.WRITERS:
        raise ValueError(f"--kind {kind}: these are written: {', '.join(formats.WRITERS)}")
    read = formats.read_cameras(source, unit)
    formats.write_cameras(read, target, cast("formats.Kind | None", kind))
    print(f"{target}: {len(read)} cameras: {', '.join(read.names)}")


def record(
    out: Path,
    device: Annotated[tuple[str, ...], arg(metavar="NAME=DEVICE...", help_behavior_hint="")] = (),
    stream: Annotated[tuple[str, ...], arg(metavar="NAME=URL...", help_behavior_hint="")] = (),
    seconds: Annotated[float | None, arg(metavar="S", help_behavior_hint="")] = None,
) -> None:
    """Record capture devices and network cameras at once: a clip each, and timestamps.csv with the time of every frame.

    Args:
        out: folder for the clips
        device: capture devices, for example cam01=/dev/video0 or cam01=0, with settings: "cam01=0?framerate=60&video_size=1280x720"
        stream: network cameras, for example cam02=rtsp://192.168.0.12/stream
        seconds: how long; until Ctrl-C by default
    """
    from studio import record as recorder

    if seconds is not None and not seconds > 0:
        raise ValueError(f"--seconds {seconds:g}: needs a duration in seconds, for example 30")
    made = recorder.record(recorder.sources_of(device, stream), out, seconds)
    if not any(len(c.times) for c in made.clips.values()):
        if why := "; ".join(f"{name}: {c.trouble}" for name, c in made.clips.items() if c.trouble):
            raise ValueError(f"nothing was recorded: {why}")
        raise ValueError(f"{out}: not a frame came before the end; record longer, and look at the cameras in another player")


def wizard(
    session: Positional[Path],
    /,
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: Annotated[bool, arg(help_behavior_hint="")] = True,
) -> None:
    """Calibrate in the browser: from board clips to accepted cameras, with pictures of what to film next.

    Args:
        session: the session's folder; made where there is none
        host: who may open the page: 127.0.0.1 is this computer only, 0.0.0.0 everybody in the network
        port: where the page is served; the next free one where it is taken
        browser: only print the address, open no browser
    """
    from studio.take import Session
    from studio.wizard import serve

    if not session.exists() or (session.is_dir() and not any(session.iterdir())):
        Session(session).save()
    serve(Session.open(session).folder, host, port, browser)

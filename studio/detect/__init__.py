"""The detect stage: what is seen in every frame of every camera, as keypoints in the image."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calibration.cameras import Cameras
from studio.detect.cards import opened
from studio.detect.chunks import Piece, join, pieces_of
from studio.detect.clean_plate import clip_of
from studio.detect.crews import see_in_processes, see_in_threads
from studio.detect.openpose import read_keypoints
from studio.detect.runtimes import Choice, Precision, Torch, chosen
from studio.detect.sparing import step_of
from studio.detect.together import Job, cores, groups_of
from studio.freshness import stamp
from studio.take import Take
from studio.values import Keypoints2D

say = Console(highlight=False, soft_wrap=True).print
BUILT_IN = ("mediapipe", "hands", "holistic")
"""Detectors that come with the studio; any other is the path of a file."""
STRETCH = 5000
"""Frames of keypoints in memory at a time when they are counted."""


@dataclass(frozen=True)
class DetectConfig:
    """How people are looked for."""

    detector: str = "mediapipe"
    """`mediapipe`: its networks on our own regions, several people; `hands`: the same networks, of one person only the hands,
    where no body is in view; `holistic`: its own one-person solution; `hourglass`: bodies and feet by the studio's own network, learned
    from synthetic people, or the path of another checkpoint of it; or the path of a whole-body network as ONNX file, its card beside it."""
    keypoints: Path | None = None
    """A folder of OpenPose JSON, used in place of the networks."""
    people: int = 3
    """Most people followed in one image."""
    masks: bool = True
    """Also write who covers which pixel."""
    mask_reduction: int = 4
    """Masks are smaller than the video by this factor."""
    search_every: int = 10
    """Frames between searches of the whole image for people who came in."""
    guided: bool = False
    """Cameras that are calibrated are seen in step, and what all of them saw just before tells each where to look (`mediapipe` only).
    Another calibration makes such detections stale, and only such: what a view is told depends on where the cameras are."""
    sparing: bool = True
    """While everybody moves evenly, only every second frame of each camera is looked at (of 50 or 60 frames a second every fourth, of 100
    or 120 every eighth), cameras by turns; what lies between is interpolated. Not with `guided` or `holistic`."""
    regions: int = 1
    """Slightly different regions over which a body is averaged: less noise, proportionally more time."""
    piece: int = 500
    """Frames after which the work so far is safe on disk."""
    runtime: Choice = "auto"
    """What runs the networks of `mediapipe`: `litert` on the processors, `torch` in batches on any device; `auto`: torch with a GPU."""
    device: str = "auto"
    """Of `torch`: `cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    precision: Precision = "float32"
    """Of `torch`: `float16` moves landmarks by about a tenth of a crop's pixel."""
    adapted: str | None = None
    """The pose network as `studio adapt` changed it on a studio's own takes (`mediapipe`, `hourglass`): a name among the `networks` of the
    take or its session, or a file (*.safetensors). Never used unless named."""
    workers: int = 0
    """Processes (with `torch`, threads); 0 for one a processor (two)."""


def detect(take: Take, config: DetectConfig | None = None) -> Path:
    """Writes `keypoints2d/<camera>.safetensors` and `masks/<camera>.mkv`; the folder of the former.

    Cameras that are fresh are skipped, pieces finished by a run that was killed are used. `ValueError` names a broken file.
    """
    config = config or DetectConfig()
    started = time.perf_counter()
    if config.keypoints is not None:
        return _imported(take, config, started)
    cameras = _guides(take, config)
    network = _network(take, config)
    jobs = {camera: list(_pieces(take, camera, config, network, cameras is not None)) for camera in sorted(take.videos)}
    stale = {camera: pieces for camera, pieces in jobs.items() if not _is_fresh(take, camera, pieces[0])}
    if stale and cameras is not None:
        stale = jobs
    warnings = _run(stale, cameras, config, network.adapted)
    for camera, pieces in stale.items():
        join(pieces, *_outputs(take, camera))
        shutil.rmtree(pieces[0].folder)
    _remove_empty(take.folder / "parts" / "detect", take.folder / "parts")
    _summary(take, started, len(stale), warnings, network.adapted)
    return take.keypoints_folder


def more_files(take: Take, config: DetectConfig) -> list[Path]:
    """What detections depend on beside videos and clips of the empty stage: files of networks, and the calibration where it guides.

    Errors as of `detect`.
    """
    if config.keypoints is not None:
        return []
    return [*_network(take, config).files, *([take.cameras_file] if _guides(take, config) is not None else [])]


@dataclass(frozen=True)
class _Network:
    """What sees, beside the wheel's own networks."""

    name: str
    """What the keypoints say of their origin."""
    files: list[Path]
    """Which decide on what is seen, cards among them."""
    adapted: Path | None
    """Of them the changes to the pose network."""


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _outputs(take: Take, camera: str) -> tuple[Path, Path]:
    return take.keypoints_folder / f"{camera}.safetensors", take.folder / "masks" / f"{camera}.mkv"


def _guides(take: Take, config: DetectConfig) -> Cameras | None:
    """The cameras that guide each other; None where they are not calibrated, or not asked to."""
    if not config.guided or config.detector != "mediapipe" or len(take.videos) < 2 or not take.cameras_file.is_file():
        return None
    return take.cameras()


def _pieces(take: Take, camera: str, config: DetectConfig, network: _Network, guided: bool) -> Iterator[Piece]:
    """One camera's job, cut up; where cameras are guided, into pieces that take as long in all of them."""
    first, last = take.stretch(camera)
    plate = clip_of(take, camera) if config.masks else None
    # What does not change a number is not part of the record: both runtimes see the same.
    aside = {"workers", "keypoints", "runtime", "device", "guided", "adapted"} | ({"precision"} if config.precision == "float32" else set())
    sparing = config.sparing and not guided and config.detector != "holistic"
    phase = sorted(take.videos).index(camera) % step_of(float(take.probes[camera].fps))
    facts = {k: v for k, v in asdict(config).items() if k not in aside} | ({"guided": True} if guided else {})
    facts |= {"sparing": phase if sparing else None}
    files = [*network.files, *([plate] if plate else []), *([take.cameras_file] if guided else [])]
    template = Piece(
        camera=camera,
        video=take.videos[camera],
        first=first,
        last=last,
        begin=first,
        fps=float(take.probes[camera].fps),
        detector=config.detector,
        network=network.name,
        settings={
            "search_every": config.search_every,
            "regions": config.regions,
            **({"adapted": str(network.adapted)} if network.adapted else {}),
        },
        people=1 if config.detector in ("hands", "holistic") else config.people,
        reduction=config.mask_reduction if config.masks and config.detector != "hands" else 0,
        folder=take.folder / "parts" / "detect" / camera,
        record=stamp([take.videos[camera], *files], {**facts, "frames": [first, last]}),
        plate=plate,
        sparing=sparing,
        phase=phase,
    )
    pace = float(take.probes[camera].fps) / min(float(i.fps) for i in take.probes.values()) if guided else 1.0
    return pieces_of(template, first, last, max(round(config.piece * pace), 1))


def _network(take: Take, config: DetectConfig) -> _Network:
    """What the settings name; a wrong one is told before anything starts."""
    files, name = ([], "mediapipe") if config.detector in BUILT_IN else _from_elsewhere(config.detector)
    adapted = _adapted(take, config)
    return _Network(name, [*files, *([adapted, adapted.with_suffix(".yaml")] if adapted else [])], adapted)


def _from_elsewhere(detector: str) -> tuple[list[Path], str]:
    """The files that decide what a network beside the built-in ones sees, and its name."""
    from studio.detect.own import NAME, files_of, is_own

    if is_own(detector):
        return files_of(detector), NAME
    path, card = opened(detector)
    return [f for f in (path, path.with_suffix(".yaml")) if f.is_file()], card.name


def _adapted(take: Take, config: DetectConfig) -> Path | None:
    """The file of changes to the pose network that the settings name."""
    if config.adapted is None:
        return None
    from studio.detect.adapted import find, read
    from studio.detect.own import is_own

    if config.detector != "mediapipe" and not is_own(config.detector):
        raise ValueError(f"detect: `adapted` changes mediapipe's pose network, which detector {config.detector!r} does not use; drop one")
    path = find(config.adapted, (take.folder, take.folder.resolve().parent.parent))
    read(path)
    return path


def _is_fresh(take: Take, camera: str, piece: Piece) -> bool:
    file, masks = _outputs(take, camera)
    return Keypoints2D.record(file) == piece.record and (not piece.reduction or masks.is_file())


def _jobs(stale: dict[str, list[Piece]], cameras: Cameras | None, workers: int) -> list[Job]:
    """What is not done: the first piece of every camera, then the second, so that cameras finish together; groups where they are guided."""
    if cameras is None:
        rows = zip_longest(*stale.values())
        return [piece for row in rows for piece in row if piece is not None and not piece.done]
    groups = [group for group in groups_of(stale, cameras, 1) if not group.done] if stale else []
    return [replace(group, threads=cores(workers, len(groups))) for group in groups]


def _run(stale: dict[str, list[Piece]], cameras: Cameras | None, config: DetectConfig, adapted: Path | None) -> list[str]:
    """Sees what is not done yet; what was odd about the videos."""
    todo = _jobs(stale, cameras, config.workers)
    if not todo:
        return []
    columns = (TextColumn("detect {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        total = sum(piece.frames for pieces in stale.values() for piece in pieces)
        done = total - sum(job.frames for job in todo)
        bar = progress.add_task(f"{len(stale)} cameras", total=total, completed=done)

        def show(count: int) -> None:
            progress.update(bar, completed=done + count)

        if config.detector in ("mediapipe", "hands") and chosen(config.runtime, config.device) == "torch":
            found = see_in_threads(todo, config.workers, Torch(config.device, config.precision, adapted), show)
        else:
            found = see_in_processes(todo, config.workers, show)
    return sorted({warning for warning in found if warning})


def _imported(take: Take, config: DetectConfig, started: float) -> Path:
    """The keypoints another program found."""
    assert config.keypoints is not None
    names = sorted(take.videos)
    sizes = {camera: (info.width, info.height) for camera, info in take.probes.items()}
    parts = {camera: take.stretch(camera) for camera in names}
    first, last = min(a for a, _ in parts.values()), max(b for _, b in parts.values())
    whole = read_keypoints(config.keypoints, names, float(take.fps), first, last, sizes)
    for i, camera in enumerate(whole.cameras):
        mine = slice(parts[camera][0] - first, parts[camera][1] - first)
        one = {n: getattr(whole, n)[i : i + 1, mine] for n in ("pixels", "sigma", "confidence")}
        value = Keypoints2D((camera,), whole.keypoints, whole.network, float(take.probes[camera].fps), parts[camera][0], **one)
        value.save(_outputs(take, camera)[0], **stamp([config.keypoints], {"frames": list(parts[camera])}))
    _summary(take, started, len(whole.cameras), [])
    return take.keypoints_folder


def _summary(take: Take, started: float, new: int, warnings: list[str], adapted: Path | None = None) -> None:
    """One line with what was seen, and a note for the report."""
    shares = {camera: _shares(_outputs(take, camera)[0]) for camera in sorted(take.videos)}
    looked = {camera: share.pop("looked") for camera, share in shares.items()}
    counts = {f"{last - first:,}" for first, last in (take.stretch(c) for c in shares)}
    means = ", ".join(f"{part} {100 * sum(s[part] for s in shares.values()) / len(shares):.0f}%" for part in next(iter(shares.values())))
    took = f"{new} new, {time.perf_counter() - started:.0f} s"
    own = f", pose network adapted by {adapted.name}" if adapted else ""
    spared = f", {100 * sum(looked.values()) / len(looked):.0f}% of them looked at" if min(looked.values()) < 1 else ""
    say(f"detect: {len(shares)} cameras x {' or '.join(sorted(counts))} frames{spared} ({took}{own}); seen in {means}")
    for warning in warnings:
        say(f"[yellow]detect: {warning}")
    take.note("detect", warnings, seen=shares, looked=looked)


def _shares(file: Path) -> dict[str, float]:
    """In how many of a camera's frames each part of a body is seen, and how many were `looked` at; 0 to 1."""
    parts = {"body": slice(5, 17), "face": slice(23, 91), "left hand": slice(92, 112), "right hand": slice(113, 133)}
    frames, sums = Keypoints2D.count(file), dict.fromkeys((*parts, "looked"), 0.0)
    for start in range(0, frames, STRETCH):
        stretch = Keypoints2D.load(file, slice(start, start + STRETCH))
        seen = stretch.confidence[0] > 0
        for part, which in parts.items():
            sums[part] += float((seen[..., which].sum(-1) > 5).any(-1).sum())
        sums["looked"] += stretch.frames if stretch.looked is None else float(stretch.looked.sum())
    return {part: total / max(frames, 1) for part, total in sums.items()}

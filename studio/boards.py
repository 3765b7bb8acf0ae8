"""Finds a calibration board in videos and still images: in parallel, what was found before is kept."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from calibration.board_faults import why_not_found
from calibration.boards import Board, BoardViews, Sighting, sight_board
from calibration.intrinsics import FocalPrior
from studio.freshness import stamp
from studio.stored import Stored
from studio.video import BrokenVideo, frames, probe


class NotSeen(ValueError):
    """No camera sees the board; in words why."""


STRETCH = 150
"""Frames that one worker looks at before it takes the next stretch."""
HARDLY = 4
"""Sightings below which a camera hardly sees the board: one or two may be mistaken."""
SAMPLES = 3
"""Images that are looked at to say why a board was not found."""


def find_in_videos(
    videos: Mapping[str, Path],
    board: Board,
    cache: Path,
    every: int = 1,
    instants: Int[Tensor, "C B"] | None = None,
    told: Callable[[float], None] = lambda part: None,
) -> BoardViews:
    """What every video shows of the board, at every `every`-th instant.

    `instants` tells which frames belong together (-1 where a camera has none), the cameras in the order of `videos`; without it,
    frames of one number do. Each camera's result is kept in `cache` and taken from there while video, board and frames are the same.
    `told` hears what part of the frames was looked at; what it raises ends the search. A `ValueError` says what is the matter where no
    camera sees the board.
    """
    if every < 1:
        raise ValueError(f"every {every}: look at every 1st frame or fewer")
    if not videos:
        raise ValueError("no video given to find the board in; give one video a camera")
    infos = {name: probe(path) for name, path in videos.items()}
    table = _same_numbers([i.frames for i in infos.values()]) if instants is None else instants
    if len(table) != len(videos):
        raise ValueError(f"the table of instants has {len(table)} cameras for {len(videos)} videos {sorted(videos)}")
    table = table[:, ::every].to(torch.int64)
    files = {name: cache / f"{name}.board.safetensors" for name in videos}
    notes = {n: stamp([videos[n]], {"board": board, "frames": table[c]}) for c, n in enumerate(videos)}
    missing = [n for n in videos if not _kept(files[n], notes[n])]
    todo = {n: table[c] for c, n in enumerate(videos) if n in missing}
    for name, sightings in _looked(videos, board, todo, told).items():
        info = infos[name]
        _gathered(name, (info.width, info.height), board, sightings, todo[name]).save(files[name], **notes[name])
    views = _joined([BoardViews.load(files[n]) for n in videos], tuple(videos))
    _tell(views, videos, kept=len(videos) - len(missing))
    return views


def find_in_images(images: Sequence[Path], board: Board) -> BoardViews:
    """What still images of one camera, all of one size, show of the board: C=1, an instant for each image."""
    if not images:
        raise ValueError("no image given to find the board in")
    sightings, sizes = {}, {}
    for number, path in enumerate(images):
        image = cv2.imread(str(path)) if path.is_file() else None
        if image is None:
            raise ValueError(f"{path}: not a readable image; give JPEG or PNG files")
        sizes[path] = (image.shape[1], image.shape[0])
        if (found := sight_board(image[..., ::-1].copy(), board)) is not None:
            sightings[number] = found
    first = sizes[images[0]]
    if other := [p for p in images if sizes[p] != first]:
        raise ValueError(f"{other[0]}: is {sizes[other[0]]} px, {images[0].name} is {first} px; calibrate from images of one size")
    return _gathered(images[0].parent.name, first, board, sightings, torch.arange(len(images)))


def prior_from_image(path: Path) -> FocalPrior | None:
    """The focal length that an image's EXIF data tell (`FocalLengthIn35mmFilm`, tag 0xA405); None where they do not."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            value = image.getexif().get_ifd(0x8769).get(0xA405)
            return FocalPrior.from_35mm(float(value), image.size) if value else None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not a readable image ({error}); give JPEG or PNG files") from error


def read_instants(path: Path, cameras: Sequence[str]) -> Int[Tensor, "C B"]:
    """Which frames belong together, from a CSV table with the columns sync_index, cam_id (or port) and frame_time (or frame_index).

    A camera's frames are its rows in the order of time; -1 where it has none. The columns go by `sync_numbers`. A `ValueError` names
    file, column and remedy.
    """
    seen = _stamps(path)
    owner = {c: _owner(path, c, cameras) for c in sorted({s[0] for s in seen})}
    numbers = {s: n for n, s in enumerate(sorted({s[1] for s in seen}))}
    table = torch.full((len(cameras), len(numbers)), -1, dtype=torch.int64)
    for column, index in owner.items():
        for frame, (_, sync, _) in enumerate(sorted((s for s in seen if s[0] == column), key=lambda s: s[2])):
            if index is not None:
                table[index, numbers[sync]] = frame
    if empty := [n for n, row in zip(cameras, table) if bool((row < 0).all())]:
        raise ValueError(f"{path}: has no row of camera {empty[0]!r}; its cameras are {sorted(owner)}")
    return table


def sync_numbers(path: Path) -> tuple[int, ...]:
    """The sync_index of each instant of a table of time stamps, increasing; a `ValueError` as of `read_instants`."""
    return tuple(sorted({s[1] for s in _stamps(path)}))


def _stamps(path: Path) -> list[tuple[str, int, float]]:
    """Camera, sync_index, and time or frame of each row."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of time stamps; leave it out where frames of one number belong together")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    held = list(rows[0]) if rows else []
    camera = next((c for c in ("cam_id", "port", "camera") if c in held), None)
    order = next((c for c in ("frame_time", "frame_index") if c in held), None)
    if camera is None or order is None or "sync_index" not in held:
        raise ValueError(f"{path}: needs the columns sync_index, cam_id (or port) and frame_time; it holds {held}")
    try:
        seen = [(str(r[camera]), int(r["sync_index"]), float(r[order])) for r in rows if r[order] not in ("", None)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a row holds no number where one belongs ({error}); write the table again") from error
    if not seen:
        raise ValueError(f"{path}: no row tells the {order} of a frame; write the table again")
    return seen


def _owner(path: Path, column: str, cameras: Sequence[str]) -> int | None:
    """Which camera `column` is: its name, or the number its name ends with; None for a camera without a video."""
    exact = [i for i, n in enumerate(cameras) if n == column]
    ending = [i for i, n in enumerate(cameras) if (tail := n.rpartition("_")[2].lstrip("camport")) == column or tail.lstrip("0") == column]
    found = exact or ending
    if len(found) > 1:
        raise ValueError(f"{path}: camera {column!r} may be any of {[cameras[i] for i in found]}; name the videos like the table's cameras")
    return found[0] if found else None


def _same_numbers(counts: Sequence[int]) -> Int[Tensor, "C B"]:
    numbers = torch.arange(max(counts)).expand(len(counts), -1)
    return torch.where(numbers < torch.tensor(counts)[:, None], numbers, -1)


def _kept(file: Path, note: dict) -> bool:
    return file.is_file() and {k: v for k, v in Stored.record(file).items() if k in note} == note


@dataclass(frozen=True)
class _Stretch:
    """Frames of one video that one worker looks at."""

    camera: str
    path: Path
    wanted: tuple[int, ...]


def _looked(
    videos: Mapping[str, Path], board: Board, todo: Mapping[str, Int[Tensor, "B"]], told: Callable[[float], None]
) -> dict[str, dict[int, Sighting]]:
    """By camera and frame number, what was seen. OpenCV and the decoder let go of the interpreter, so threads do."""
    stretches = []
    for name, row in todo.items():
        wanted = sorted({int(n) for n in row if n >= 0})
        step = max(STRETCH // max((wanted[-1] - wanted[0]) // len(wanted), 1), 1) if wanted else 1
        stretches += [_Stretch(name, videos[name], tuple(wanted[i : i + step])) for i in range(0, len(wanted), step)]
    found: dict[str, dict[int, Sighting]] = {name: {} for name in todo}
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with Progress(transient=True) as progress, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            bar = progress.add_task("board", total=sum(len(s.wanted) for s in stretches))
            whole = progress.tasks[bar]

            def look(stretch: _Stretch) -> None:
                for number, image in _images(stretch):
                    if (seen := sight_board(image, board)) is not None:
                        found[stretch.camera][number] = seen
                    progress.advance(bar)
                    told(whole.completed / max(whole.total or 1, 1))

            list(pool.map(look, stretches))
    finally:
        cv2.setNumThreads(before)
    return found


def _images(stretch: _Stretch) -> Iterator[tuple[int, UInt8[np.ndarray, "H W"]]]:
    """The wanted frames, gray; of a damaged video those before the damage, and a word about the rest."""
    wanted = set(stretch.wanted)
    try:
        for number, image in frames(stretch.path, stretch.wanted[0], stretch.wanted[-1] + 1, gray=True):
            if number in wanted:
                yield number, image
    except BrokenVideo as error:
        Console(stderr=True).print(f"[yellow]board: {error}; the frames before it are used[/]")


def _gathered(name: str, size: tuple[int, int], board: Board, seen: Mapping[int, Sighting], row: Int[Tensor, "B"]) -> BoardViews:
    """One camera's views, C=1."""
    B, N = len(row), len(board.points())
    pixels, sigma = torch.full((B, N, 2), torch.nan, dtype=torch.float64), torch.full((B, N), torch.nan, dtype=torch.float64)
    behind = torch.zeros(B, dtype=torch.bool)
    for b, number in enumerate(row.tolist()):
        if number in seen:
            pixels[b], sigma[b], behind[b] = seen[number].pixels, seen[number].sigma, seen[number].behind
    shape = torch.tensor([size], dtype=torch.float64)
    return BoardViews((name,), shape, board, pixels[None], sigma[None], behind[None], row[None].clone())


def _joined(parts: Sequence[BoardViews], names: tuple[str, ...]) -> BoardViews:
    def all_of(field: str) -> Tensor:
        return torch.cat([getattr(p, field) for p in parts])

    columns = [all_of(f) for f in ("pixels", "sigma", "behind", "instants")]
    return BoardViews(names, all_of("size"), parts[0].board, *columns)


def why_unseen(views: BoardViews, videos: Mapping[str, Path], most: int = 2) -> dict[str, str]:
    """For the first `most` cameras that hardly ever see the board, what is the matter with their pictures, in words."""
    found = {}
    blind = [c for c, count in enumerate(views.seen().sum(1).tolist()) if count < HARDLY]
    for c, name in enumerate(videos):
        if c not in blind[:most]:
            continue
        row = views.instants[c][views.instants[c] >= 0]
        some = row[torch.linspace(0, len(row) - 1, min(SAMPLES, len(row))).long()].tolist() if len(row) else []
        images = [image for n in some for _, image in _images(_Stretch(name, videos[name], (n,)))]
        found[name] = why_not_found(images, views.board)
    return found


def _tell(views: BoardViews, videos: Mapping[str, Path], kept: int) -> None:
    """One line of numbers; what is the matter with cameras that saw nothing, as a `NotSeen` where none saw anything."""
    seen = views.seen().sum(1).tolist()
    blind = [name for name, count in zip(videos, seen) if not count]
    why = "; ".join(why_unseen(views, videos, most=1).values()) if blind else ""
    if len(blind) == len(videos):
        raise NotSeen(f"{videos[blind[0]]}: the board is seen in no frame: {why}")
    counts = ", ".join(f"{n} {count}" for n, count in zip(videos, seen))
    before = f" ({kept} cameras as before)" if kept else ""
    console = Console()
    console.print(f"board: {views.pixels.shape[1]} instants, views {counts}{before}", highlight=False)
    if blind:
        console.print(f"[yellow]board: not seen by {', '.join(blind)}: {why}[/]", highlight=False)

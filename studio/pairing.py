"""Which video belongs to which camera, told by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from studio.freshness import VIDEO_SUFFIXES


def video_files(places: Iterable[Path]) -> list[Path]:
    """The video files among files and folders, in name order; a `FileNotFoundError` where a place is missing or holds none."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place}: no such file or folder")
        if place.is_file():
            found.append(place)
            continue
        inside = sorted(p for p in place.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith("."))
        if not inside:
            raise FileNotFoundError(f"{place}: holds no video ({', '.join(VIDEO_SUFFIXES)}); put one file per camera there")
        found += inside
    return found


def pair(videos: Sequence[Path], names: Sequence[str], cameras_file: Path) -> tuple[dict[str, Path], list[str]]:
    """Camera name -> video by file name, strictest likeness first, and warnings for what found no partner.

    `Cam1_take3.mp4` is for `cam01`; a likeness counts only where it joins one camera to one video.
    """
    paired: dict[str, Path] = {}
    for alike in (_same, _same_tokens, _one_inside, _same_but_for_camera_words):
        left_videos, left_names = [v for v in videos if v not in paired.values()], [n for n in names if n not in paired]
        for name in left_names:
            mine = [v for v in left_videos if alike(v.stem, name)]
            if len(mine) == 1 and sum(alike(mine[0].stem, n) for n in left_names) == 1:
                paired[name] = mine[0]
    lost_videos, lost_names = [v for v in videos if v not in paired.values()], [n for n in names if n not in paired]
    if len(paired) < 2:
        raise ValueError(
            f"{cameras_file}: only {len(paired)} of its cameras {list(names)} find their video "
            f"({[v.name for v in videos]}); 3D needs at least two. "
            "Name each video after its camera, or write `videos: {camera: file}` in take.yaml"
        )
    odd = [f"Camera {n} has no video and is left out." for n in lost_names]
    return paired, odd + [f"Video {v.name} belongs to no camera of {cameras_file.name} and is left out." for v in lost_videos]


def _tokens(text: str) -> list[str]:
    return [t.lstrip("0") or "0" if t.isdigit() else t for t in re.findall(r"\d+|[^\W\d_]+", text.casefold())]


def _same(stem: str, name: str) -> bool:
    return stem.casefold() == name.casefold()


def _same_tokens(stem: str, name: str) -> bool:
    return _tokens(stem) == _tokens(name)


def _one_inside(stem: str, name: str) -> bool:
    long, short = sorted((_tokens(stem), _tokens(name)), key=len, reverse=True)
    return bool(short) and any(long[i : i + len(short)] == short for i in range(len(long) - len(short) + 1))


def _same_but_for_camera_words(stem: str, name: str) -> bool:
    bare = [[t for t in _tokens(text) if t not in ("cam", "camera", "c", "view", "port", "video", "gopro")] for text in (stem, name)]
    return bool(bare[0]) and bare[0] == bare[1]

"""Sessions and takes on disk: what a person edits, where artefacts lie, and whether they are still true.

```
session/session.yaml                cameras, actors, body
session/takes/<take>/take.yaml      the same, and frames, timecode, videos; what is missing comes from the session
session/takes/<take>/videos/        one file a camera
```
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from studio.freshness import fresh, plain, seal, stamp, write_text
from studio.pairing import pair, video_files

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from calibration.cameras import Cameras
    from studio.video import VideoInfo

__all__ = ["Session", "Take", "fresh", "seal", "stamp"]
SESSION_KEYS = ("cameras", "actors", "body")
AUTO = ("auto",)
"""Actors who are still to be found: everybody there is, then called actor1, actor2 ..."""
TAKE_KEYS = ("cameras", "actors", "body", "frames", "fps", "timecode", "videos")
SAME_RATE = 2e-4
"""Frame rates that differ by no more than this fraction are one nominal rate: crystals differ by less, 29.97 and 30 by five times more."""


@dataclass(frozen=True)
class Take:
    """One recording of one or more actors by several cameras, and the folder its artefacts live in."""

    folder: Path
    videos: dict[str, Path]
    """Camera name -> video."""
    cameras_file: Path
    """Any camera file that `calibration.formats.read_cameras` reads."""
    frames: tuple[int, int] | None = None
    """First and one past the last frame on the take's clock, which are video frames where all began together at one rate; None for all."""
    actors: tuple[str, ...] = ("actor",)
    """Their names, or `AUTO` until they are found."""
    body: str = "makehuman"
    timecode: str = "00:00:00:00"
    """Of frame 0, HH:MM:SS:FF."""
    rate: float | None = None
    """Frames a second of the result; None for the videos' most common (`fps` in take.yaml)."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What was odd about the files, for the report."""

    def __post_init__(self) -> None:
        if self.frames is not None and not 0 <= self.frames[0] < self.frames[1]:
            raise ValueError(f"{self.folder}: frames {list(self.frames)}: needs first < last with first at least 0")
        if not self.actors or len(set(self.actors)) != len(self.actors):
            raise ValueError(f"{self.folder}: actors {list(self.actors)}: needs at least one, and different names")
        if wrong := [a for a in self.actors if not re.fullmatch(r"[\w][\w .-]*", a)]:
            raise ValueError(f"{self.folder}: actor {wrong[0]!r} cannot be part of a file name; use letters, digits, space, dot, - and _")
        if not re.fullmatch(r"\d\d:\d\d:\d\d[:;]\d\d", self.timecode):
            raise ValueError(f"{self.folder}: timecode {self.timecode!r} is not HH:MM:SS:FF")
        if self.rate is not None and not 1 <= self.rate <= 1000:
            raise ValueError(f"{self.folder}: fps {self.rate:g}: needs 1 to 1000 frames a second")

    @classmethod
    def open(cls, folder: Path) -> Take:
        """The take that `folder/take.yaml` describes; a session two folders up fills in what it leaves out."""
        file = folder / "take.yaml"
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder}: holds no take.yaml; make a take with `studio add-take` or `studio run VIDEOS --cameras FILE --out {folder}`"
            )
        facts = _read(file, TAKE_KEYS)
        session_file = folder.resolve().parent.parent / "session.yaml"
        session = _read(session_file, SESSION_KEYS) if session_file.is_file() else {}
        if "cameras" in facts:
            cameras = folder / facts["cameras"]
        elif session_file.is_file():
            cameras = session_file.parent / session.get("cameras", "calibration/cameras.yaml")
        else:
            raise ValueError(f"{file}: needs `cameras: FILE`, the calibration of these videos")
        listed = facts.get("videos")
        found = {c: folder / v for c, v in listed.items()} if isinstance(listed, dict) else [folder / v for v in listed or ["videos"]]
        known = {k: v for k, v in {**session, **facts}.items() if k in ("actors", "body", "frames", "timecode")}
        return cls.of(found, cameras, folder, rate=float(facts["fps"]) if "fps" in facts else None, **known)

    @classmethod
    def of(cls, videos: dict[str, Path] | Sequence[Path], cameras_file: Path, folder: Path, **facts: Any) -> Take:
        """A take of video files (or folders of them), each given to the camera its name tells; nothing is written yet."""
        names = _camera_names(cameras_file)
        odd: list[str] = []
        if isinstance(videos, dict):
            if missing := [c for c in videos if c not in names]:
                raise ValueError(
                    f"{cameras_file}: no camera {missing[0]!r}, which {folder / 'take.yaml'} gives a video; there are {list(names)}"
                )
            paired = dict(videos)
        else:
            paired, odd = pair(video_files(videos), names, cameras_file)
        if absent := [p for p in paired.values() if not p.is_file()]:
            raise FileNotFoundError(f"{absent[0]}: no such video; correct `videos` in {folder / 'take.yaml'} or put the file there")
        if len(paired) < 2:
            raise ValueError(
                f"{cameras_file}: {len(paired)} of its cameras {list(names)} has a video; "
                "3D needs at least two. Name each video after its camera"
            )
        facts = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items() if v is not None}
        paired = {c: paired[c] for c in sorted(paired)}
        return cls(folder=folder, videos=paired, cameras_file=cameras_file, warnings=tuple(odd), **facts)

    def save(self) -> Path:
        """Write `take.yaml`; paths inside the take's folder are kept relative so that it can be moved."""
        document = {
            "cameras": _relative(self.cameras_file, self.folder),
            "videos": {c: _relative(v, self.folder) for c, v in self.videos.items()},
            "frames": list(self.frames) if self.frames else None,
            "fps": self.rate,
            "actors": list(self.actors),
            "body": self.body,
            "timecode": self.timecode,
        }
        text = yaml.safe_dump({k: v for k, v in document.items() if v is not None}, sort_keys=False)
        return write_text(self.folder / "take.yaml", text)

    def cameras(self) -> Cameras:
        """The cameras that have a video, in name order, adjusted to the videos' resolution."""
        from calibration.cameras import adapt_to_video, joined
        from calibration.formats import read_cameras

        cameras = read_cameras(self.cameras_file)
        if missing := [c for c in self.videos if c not in cameras.names]:
            raise ValueError(
                f"{self.cameras_file}: no camera {missing[0]!r}, which has the video {self.videos[missing[0]]}; "
                f"there are {list(cameras.names)}"
            )
        fitted = []
        for name, info in self.probes.items():
            try:
                fitted.append(adapt_to_video(cameras[name], info.width, info.height))
            except ValueError as error:
                raise ValueError(f"{self.videos[name]} and {self.cameras_file}: {error}") from error
        return joined(fitted)

    @cached_property
    def probes(self) -> dict[str, VideoInfo]:
        """What each video's container says, in camera order."""
        from studio.video import probe

        return {c: probe(self.videos[c]) for c in sorted(self.videos)}

    @property
    def fps(self) -> float:
        """Frames a second of the result: as asked for, else the most common rate of the videos, the highest among equally common ones."""
        if self.rate is not None:
            return self.rate
        rates = list(self.rates.values())
        return max(rates, key=lambda r: (sum(_alike(r, other) for other in rates), r))

    @cached_property
    def rates(self) -> dict[str, float]:
        """Each video's frames a second; of one whose frames vary or were lost in part, the usual rate nearest to most of its steps."""
        return {c: _nominal(self.videos[c]) if i.variable else float(i.fps) for c, i in self.probes.items()}

    @property
    def one_rate(self) -> bool:
        """Whether all videos have the result's rate."""
        return all(_alike(rate, self.fps) for rate in self.rates.values())

    @property
    def span(self) -> tuple[int, int]:
        """First and one past the last frame to work on if the cameras began together: `frames`, as far as two videos last."""
        longest = sorted(self.probes, key=lambda c: self.probes[c].duration)[-2]
        info = self.probes[longest]
        count = info.frames if _alike(float(info.fps), self.fps) else max(round(info.duration * self.fps), 1)
        first, last = self.frames or (0, count)
        if first >= count:
            raise ValueError(
                f"{self.videos[longest]}: has {count} frames; the take starts at frame {first}. Correct --frames or `frames` in take.yaml"
            )
        return first, min(last, count)

    def stretch(self, camera: str) -> tuple[int, int]:
        """First and one past the last of a camera's own frames that show `frames` by what is known of its clock; at least one frame."""
        count = self.probes[camera].frames
        if self.frames is None:
            return 0, count
        from studio.clock import own_frames

        first, last = own_frames(self, camera, self.frames)
        first = min(max(first, 0), count - 1)
        return first, max(min(last, count), first + 1)

    def checked(self) -> Take:
        """The take with its videos' oddities among the warnings; a `ValueError` where they do not fit together."""
        _ = self.cameras()  # a calibration for other videos is told before hours of detection, not after
        last = self.span[1]
        from calibration.gates import doubts

        odd = [*self.warnings, *_oddities(self), *doubts(self.cameras_file)]
        if self.frames and last < self.frames[1]:
            odd.append(f"Frames up to {self.frames[1]} were asked for; the videos end at {last}.")
        take = replace(self, warnings=tuple(odd))
        take.__dict__["probes"] = self.probes
        return take

    def times(self, camera: str, frames: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """When some of a camera's video frames were taken, s on the take's clock (frame `n` of the reference camera is at `n / fps`)."""
        from studio.clock import own_times, sync_of

        sync = sync_of(self)
        own = own_times(self, camera, sync)[frames]
        return own if sync is None else sync.cameras[camera].master(own)

    def note(self, stage: str, warnings: Iterable[str] = (), **numbers: Any) -> None:
        """Keep what `stage` wants the report to say: warnings in plain sentences, and named numbers or tables (JSON values)."""
        write_text(
            self.folder / "notes" / f"{stage}.json", json.dumps({"warnings": list(warnings), "numbers": numbers}, indent=1, default=plain)
        )

    def notes(self) -> dict[str, dict[str, Any]]:
        """Stage -> `{"warnings": [...], "numbers": {...}}`, as the stages left them."""
        return {p.stem: json.loads(p.read_text()) for p in sorted((self.folder / "notes").glob("*.json"))}

    @property
    def facts(self) -> dict[str, Any]:
        """What results depend on besides files."""
        told = {"frames": self.frames, "actors": self.actors, "body": self.body, "timecode": self.timecode, "cameras": sorted(self.videos)}
        return told if self.rate is None else {**told, "fps": self.rate}

    @property
    def keypoints_folder(self) -> Path:
        """One `Keypoints2D` a camera."""
        return self.folder / "keypoints2d"

    @property
    def tracks_file(self) -> Path:
        """The `Tracks3D` of all actors."""
        return self.folder / "tracks3d.safetensors"

    def motion_file(self, actor: str) -> Path:
        """The `Motion` of one actor."""
        return self.folder / f"motion_{actor}.safetensors"


@dataclass(frozen=True)
class Session:
    """A folder of takes that share cameras, actors and body."""

    folder: Path
    cameras: Path = Path("calibration/cameras.yaml")
    """Relative to the folder."""
    actors: tuple[str, ...] = ("actor",)
    body: str = "makehuman"

    @classmethod
    def open(cls, folder: Path) -> Session:
        """The session that `folder/session.yaml` describes."""
        if not (folder / "session.yaml").is_file():
            raise FileNotFoundError(f"{folder}: holds no session.yaml; make a session with `studio new {folder}`")
        facts = _read(folder / "session.yaml", SESSION_KEYS)
        default = cls(folder)
        cameras, actors = Path(facts.get("cameras", default.cameras)), tuple(facts.get("actors", default.actors))
        return cls(folder, cameras, actors, facts.get("body", default.body))

    def save(self) -> Path:
        """Write `session.yaml` and make the folders."""
        for name in ("calibration/videos", "actors", "takes"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        document = {"cameras": str(self.cameras), "actors": list(self.actors), "body": self.body}
        return write_text(self.folder / "session.yaml", yaml.safe_dump(document, sort_keys=False))

    def takes(self) -> tuple[str, ...]:
        """Names of the takes, in order."""
        return tuple(sorted(p.parent.name for p in (self.folder / "takes").glob("*/take.yaml")))

    def take(self, name: str) -> Take:
        """The take of that name."""
        if name not in self.takes():
            raise FileNotFoundError(f"{self.folder}: no take {name!r}; there are {list(self.takes())}")
        return Take.open(self.folder / "takes" / name)

    def add(self, name: str, videos: Sequence[Path], copy: bool = False) -> Path:
        """Make a take of these videos (linked unless `copy`); the new take's folder."""
        folder = self.folder / "takes" / name
        if (folder / "take.yaml").exists():
            raise FileExistsError(f"{folder}: exists already; choose another name or edit its take.yaml")
        files = video_files(videos)
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        for file in files:
            place = folder / "videos" / file.name
            if place.exists():
                raise FileExistsError(f"{place}: exists already; two videos may not have one name")
            shutil.copy2(file, place) if copy else place.symlink_to(file.resolve())
        write_text(folder / "take.yaml", "# frames: [0, 900]    # first, last + 1; without it the whole videos\ntimecode: '00:00:00:00'\n")
        return folder


def _alike(one: float, other: float) -> bool:
    """Whether two frame rates are one nominal rate."""
    return abs(one - other) <= SAME_RATE * max(one, other)


def _nominal(path: Path) -> float:
    """The usual rate (29.97, 30 ...) within a hundredth of a video's median step, or that step's own."""
    from studio.video import times

    steps = times(path).diff()
    rate = 1 / float(steps.median()) if len(steps) else 30.0
    usual = [n * f for n in (24, 30, 48, 60, 90, 120, 240) for f in (1, 1000 / 1001)] + [12.5, 15, 25, 50, 100, 200]
    near = min(usual, key=lambda u: abs(u - rate))
    return near if abs(near - rate) < 0.011 * rate else rate


def _oddities(take: Take) -> list[str]:
    """In plain sentences, where a take's videos are unlike each other or unlike what they promise."""
    odd, infos = [], take.probes
    if not take.one_rate:
        listed = ", ".join(f"{c} {rate:.5g}" for c, rate in take.rates.items())
        odd.append(f"The videos have different rates ({listed} frames/s); the result has {take.fps:.5g}.")
    elif len({i.frames for i in infos.values()}) > 1:
        short = min(infos, key=lambda c: infos[c].frames)
        listed = ", ".join(f"{c} {i.frames}" for c, i in infos.items())
        odd.append(
            f"The videos have different numbers of frames ({listed}); each counts while it lasts. Does {short} start or stop elsewhere?"
        )
    for name, info in infos.items():
        if info.promised > info.frames:
            odd.append(f"Video {take.videos[name].name} is cut off: its header promises {info.promised} frames, it holds {info.frames}.")
        if info.variable:
            odd.append(f"Video {take.videos[name].name} has a varying frame rate; its frames count at their time stamps.")
    return odd


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _camera_names(file: Path) -> tuple[str, ...]:
    from calibration.formats import read_cameras

    if not file.exists():
        raise FileNotFoundError(f"{file}: no such camera file; calibrate first, or name the file with --cameras")
    return read_cameras(file).names


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "cameras": ("a file name", lambda v: isinstance(v, str)),
    "actors": ("a list of names", lambda v: isinstance(v, list) and all(isinstance(a, str) for a in v)),
    "body": ("a name or a file name", lambda v: isinstance(v, str)),
    "frames": ("[first, last + 1]", lambda v: isinstance(v, list) and len(v) == 2 and all(type(n) is int for n in v)),
    "fps": ("a number of frames a second", lambda v: type(v) in (int, float)),
    "timecode": ("'HH:MM:SS:FF' in quotes", lambda v: isinstance(v, str)),
    "videos": ("a mapping camera: file, or a list of files", lambda v: isinstance(v, list | dict)),
}


def _read(path: Path, known: Sequence[str]) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise ValueError(f"{path}: needs `key: value` lines; known keys are {list(known)}")
    if wrong := [k for k in document if k not in known]:
        raise ValueError(f"{path}: unknown key {wrong[0]!r}; known keys are {list(known)}")
    for key, value in document.items():
        wanted, fits = KINDS[key]
        if not fits(value):
            raise ValueError(f"{path}: `{key}: {value}` is not {wanted}")
    return document

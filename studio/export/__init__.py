"""Files for animators and analysts: one writer a file, one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import print as tell

from rigs import catalogue
from rigs.body import Body
from rigs.retarget import Hands, Options, Root
from studio.export import amass, arkit, bvh, c3d, csv, fbx, glb, points, timecode, trc, usd
from studio.export.animation import Character, Rest, character, checked, resampled
from studio.export.curves import Smooth, looped, mirrored, smoothed
from studio.export.onto import FORMATS, Onto, Target
from studio.export.root import rooted
from studio.values import Motion, Tracks3D

if TYPE_CHECKING:
    from studio.take import Take

__all__ = ["EXPORTERS", "ExportConfig", "Performance", "export"]


@dataclass(frozen=True)
class ExportConfig:
    """What `export` writes and how."""

    formats: tuple[str, ...] = ("fbx", "bvh", "glb", "trc", "csv")
    """Any of fbx, bvh, glb, usd (animation), npz (AMASS), arkit (Live Link Face), c3d, trc, csv (tables)."""
    rest: Rest = "t"
    """Rest pose of characters: "t" (arms level, palms down) or "a" (the body model's own)."""
    bind: Literal["rest", "model"] = "rest"
    """What the skin is bound to: "rest", so that every program shows the rest pose with its skin, which then differs from the fitted
    body's by 0.2 mm on the average and by centimetres in raised armpits; "model": the skin moves exactly as fitted, and programs that
    show a skin's bind pose as its rest (Blender does) show the body model's own pose."""
    fps: float | None = None
    """Rate of FBX, BVH, GLB and USD, 29.97 and its like taken exactly; None for the videos'. All else always has the videos' frames."""
    frames: tuple[int, int] | None = None
    """First and one past the last video frame to export; None for all."""
    root: Root = "hips"
    """What carries path and heading. "hips": they do, and bones above them stay at rest. "floor": the bones above them, which go along on
    the floor; the studio's own skeleton gets one, `root`. "in_place": nothing; those bones stay, and the performance with them."""
    smooth: Smooth = "off"
    """Filter animation (not the tables): "butterworth" (zero phase) or "one_euro"."""
    cutoff: float = 6.0
    """Of the filter, Hz."""
    beta: float = 0.5
    """How much quick movements open the 1-Euro filter, Hz for each rad/s or m/s."""
    mirror: bool = False
    """Exchange left and right in the animation."""
    loop: float = 0.0
    """Seconds at the end that lead back into the first frame; 0 for none."""
    reduce_degrees: float = 0.0
    """Leave out keys of FBX, GLB and USD as long as no joint's rotation is missed by more than this (degrees); 0 keeps a key on every
    frame. BVH cannot leave any out."""
    reduce_mm: float = 0.0
    """The same for positions, mm."""
    actors: Literal["each", "one"] = "each"
    """FBX, GLB and USD: one file for each actor, or one for all of a take, `together`."""
    timeline: Literal["timecode", "zero"] = "timecode"
    """FBX and USD begin at their timecode, which without one is the video's frame number, or at 0."""
    fbx: Literal["7.4", "7.5"] = "7.4"
    """Version of FBX files; 7.5 for those beyond 4 GB."""
    measures: bool = False
    """FBX: foot contacts and the standard deviation of every joint as custom animated properties."""
    bvh_order: str = "ZXY"
    """Order of BVH rotation channels: XYZ, XZY, YXZ, YZX, ZXY or ZYX."""
    bvh_digits: int = 6
    """Decimals of BVH numbers; at least 6."""
    trc_up: trc.Up = "y"
    """Up axis of TRC: "y" as OpenSim wants it, "z" as the cameras file has it."""
    usd: Literal["usdc", "usda"] = "usdc"
    """USD as binary or as text."""
    to_character: Path | None = None
    """An FBX, BVH or GLB of your own: the FBX, BVH and GLB written then hold that character, with its names and its rest pose."""
    preset: str | None = None
    """Write the skeleton of ue5_manny, ue5_quinn, metahuman, mixamo, humanik, rokoko, rigify or smplx instead of the studio's own."""
    hands: Hands = "body"
    """On other characters hands are where they were relative to the shoulders ("body"), in the scaled room ("world"), or as angles put
    them ("off")."""


@dataclass(frozen=True)
class Performance:
    """One actor of a take, ready to be written."""

    motion: Motion
    """As fitted, for tables."""
    played: Motion
    """As it is to be played."""
    body: Body
    character: Character
    """What is played, on a rest pose, at the chosen rate."""
    tracks_file: Path | None
    """Where what was triangulated of this actor lies, if the take still has it."""
    model: Path
    """What the body was opened from."""

    @property
    def actor(self) -> str:
        """The actor's name, which files are named after."""
        return self.motion.actor


def _bvh(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [bvh.write(folder / f"{performance.actor}.bvh", performance.character, config.bvh_order, config.bvh_digits)]


def _glb(performances: Sequence[Performance], name: str, folder: Path, config: ExportConfig) -> Path:
    characters = [p.character for p in performances]
    return glb.write(folder / f"{name}.glb", characters, name, config.reduce_degrees, config.reduce_mm)


def _fbx(performances: Sequence[Performance], name: str, folder: Path, config: ExportConfig) -> Path:
    options = fbx.Options(config.fbx, config.timeline, config.measures, config.reduce_degrees, config.reduce_mm)
    return fbx.write(folder / f"{name}.fbx", [p.character for p in performances], name, options)


def _usd(performances: Sequence[Performance], name: str, folder: Path, config: ExportConfig) -> Path:
    characters = [p.character for p in performances]
    first = min(c.start for c in characters) if config.timeline == "timecode" else 0
    return usd.write(folder / f"{name}.{config.usd}", characters, name, first, config.reduce_degrees, config.reduce_mm)


def _npz(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [amass.write(folder / f"{performance.actor}.npz", performance.played, performance.body, performance.model)]


def _arkit(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [arkit.write(folder / f"arkit_{performance.actor}.csv", performance.played, performance.body.expression_names)]


def _c3d(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    motion, body = performance.motion, performance.body
    tables = (points.together(points.in_batches(table, motion, body)) for table in (points.fitted, points.joints))
    return [c3d.write(folder / f"{performance.actor}.c3d", tables)]


def _trc(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    motion = performance.motion
    rows = points.in_batches(points.fitted, motion, performance.body)
    return [trc.write(folder / f"{performance.actor}.trc", rows, len(motion.translation), config.trc_up)]


def _csv(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    motion, body, actor = performance.motion, performance.body, performance.actor
    tables = {"points": points.in_batches(points.fitted, motion, body), "joints": points.in_batches(points.joints, motion, body)}
    if performance.tracks_file is not None:
        tables["triangulated"] = points.triangulated_in_batches(performance.tracks_file, actor, motion.first_frame, len(motion.translation))
    written = [csv.write(folder / f"{name}_{actor}.csv", table) for name, table in tables.items()]
    if body.expression_names:
        written.append(csv.write_face(folder / f"face_{actor}.csv", motion, body.expression_names))
    return written


SCENES: dict[str, Callable[[Sequence[Performance], str, Path, ExportConfig], Path]] = {"fbx": _fbx, "glb": _glb, "usd": _usd}
"""Format that can hold several actors -> writer of one file called so."""


def _scene(form: str) -> Callable[[Performance, Path, ExportConfig], list[Path]]:
    return lambda performance, folder, config: [SCENES[form]([performance], performance.actor, folder, config)]


EXPORTERS: dict[str, Callable[[Performance, Path, ExportConfig], list[Path]]] = {
    "fbx": _scene("fbx"),
    "bvh": _bvh,
    "glb": _scene("glb"),
    "usd": _scene("usd"),
    "npz": _npz,
    "arkit": _arkit,
    "c3d": _c3d,
    "trc": _trc,
    "csv": _csv,
}
"""Format -> writer of one actor's files into a folder; the paths written."""


def _trimmed(motion: Motion, frames: tuple[int, int] | None) -> Motion:
    if frames is None:
        return motion
    last = motion.first_frame + len(motion.translation)
    if not (motion.first_frame <= frames[0] < frames[1] <= last):
        raise ValueError(
            f"export: frames {list(frames)} of {motion.actor!r} must lie within {[motion.first_frame, last]}, first before last"
        )
    return motion.cut(slice(frames[0] - motion.first_frame, frames[1] - motion.first_frame))


def _played(motion: Motion, body: Body, config: ExportConfig) -> Motion:
    quiet = smoothed(motion, config.smooth, config.cutoff, config.beta)
    return looped(mirrored(quiet, body) if config.mirror else quiet, config.loop)


def _rate(config: ExportConfig) -> float | None:
    return None if config.fps is None else timecode.exact(config.fps)


def _character(motion: Motion, body: Body, config: ExportConfig) -> Character:
    animated, rate = character(motion, body, config.rest, config.bind == "rest"), _rate(config)
    return rooted(animated if rate is None else resampled(animated, rate), config.root)


def _warnings(bound: list[tuple[Motion, Body]], formats: tuple[str, ...]) -> list[str]:
    """What the files lack, in plain sentences."""
    found, chosen = [], set(formats)
    for actor, body in ((motion.actor, body) for motion, body in bound):
        if body.skin.pose_basis is not None and {"fbx", "glb", "usd"} & chosen:
            found.append(f"{actor}: FBX, GLB and USD leave out the pose correctives of body {body.name!r}; its skin bends plainly there")
        if not body.keypoint_names and {"trc", "csv", "c3d"} & chosen:
            found.append(f"{actor}: body {body.name!r} has no keypoints; TRC and points CSV are empty, joints CSV and C3D hold joints")
    return found


UNHEEDED = ("rest", "bind", "actors", "reduce_degrees", "reduce_mm", "fbx", "measures")
"""Settings of the studio's own skeleton, which files on other characters do not follow."""


def _unheeded(config: ExportConfig) -> list[str]:
    """One sentence about settings that are asked for and do not reach the files on another character; none where all do."""
    default = ExportConfig()
    asked = [name for name in UNHEEDED if getattr(config, name) != getattr(default, name)]
    if not asked or not set(config.formats) & set(FORMATS):
        return []
    flags = ", ".join("--" + name.replace("_", "-") for name in asked)
    return [f"files of other characters do not follow {flags}"]


def model_of(motion: Motion, take: Take) -> str:
    """What to open a motion's body from: the take's own where it is that one, for a motion knows a file by its stem only."""
    return take.body if Path(take.body).stem == motion.body else motion.body


def export(take: Take, config: ExportConfig) -> Path:
    """Write every actor's motion in the chosen formats; the folder `export` of the take.

    A `FileNotFoundError` names a motion that is missing; a `ValueError` an unknown format, or the frame and joint of a value that is
    not finite.
    """
    if unknown := [name for name in config.formats if name not in EXPORTERS]:
        raise ValueError(f"export: formats: unknown {unknown}; known are {sorted(EXPORTERS)}")
    for library in (module.library for name, module in (("usd", usd), ("c3d", c3d)) if name in config.formats):
        library(take.folder / "export")  # what is missing is told before any work is done
    begin, folder, tracks = time.perf_counter(), take.folder / "export", take.folder / "tracks3d.safetensors"
    tracked = Tracks3D.load(tracks, slice(0, 0)).actors if tracks.is_file() else ()
    bound: list[tuple[Motion, Body]] = []
    for actor in take.actors:
        path = take.folder / f"motion_{actor}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: actor {actor!r} has no motion; run the fit first")
        motion = Motion.load(path)
        body = catalogue.open_body(model_of(motion, take))
        checked(motion, body)
        bound.append((_trimmed(motion, config.frames), body))
    playing = [(_played(motion, body, config), body) for motion, body in bound]
    target, options = None, Options(config.hands, config.root)
    if config.to_character or config.preset:
        target = Target(config.to_character, config.preset).checked()
    placed = [] if target is None else [Onto.of(m, b, target, options, _rate(config), config.timeline) for m, b in playing]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for onto in placed:
        written += onto.write(folder, config.formats, config.bvh_order, config.bvh_digits)
        tell(onto.summary())
    own = tuple(name for name in config.formats if target is None or name not in FORMATS)
    shared = [name for name in own if name in SCENES] if config.actors == "one" and len(bound) > 1 else []
    performances = []
    for (motion, body), (played, _) in zip(bound, playing):
        triangulated = tracks if motion.actor in tracked else None
        model = Path(model_of(motion, take))
        performance = Performance(motion, played, body, _character(played, body, config), triangulated, model)
        written += [path for name in own if name not in shared for path in EXPORTERS[name](performance, folder, config)]
        performances += [performance] if shared else []
    written += [SCENES[name](performances, "together", folder, config) for name in shared]
    warnings = _warnings(bound, own) + (_unheeded(config) if target else []) + [remark for onto in placed for remark in onto.remarks()]
    take.note("export", warnings, files=len(written))
    for warning in warnings:
        tell(f"[yellow]{warning}[/]")
    size = sum(path.stat().st_size for path in written) / 1e6
    tell(f"export: {len(written)} files, {size:.1f} MB ({', '.join(config.formats)}), {time.perf_counter() - begin:.1f} s")
    return folder

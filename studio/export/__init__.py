"""Files for animators and analysts: one writer a file, one table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import print as tell

from rigs import catalogue
from rigs.body import Body
from rigs.retarget import Hands, Options, Root
from studio.export import amass, arkit, bvh, c3d, csv, fbx, glb, points, trc, usd
from studio.export.animation import Character, Rest, character, checked, resampled
from studio.export.onto import FORMATS, Onto, Target
from studio.values import Motion, Tracks3D

if TYPE_CHECKING:
    from studio.take import Take

__all__ = ["EXPORTERS", "ExportConfig", "Performance", "export"]


@dataclass(frozen=True)
class ExportConfig:
    """What `export` writes and how."""

    formats: tuple[str, ...] = ("fbx", "bvh", "glb", "trc", "csv")
    """Names in the table `EXPORTERS`."""
    rest: Rest = "t"
    """Rest pose of characters: "t" (arms level, palms down) or "a" (the body model's own)."""
    rebound: bool = False
    """Bring the mesh itself to the rest pose. Off, the skin moves exactly as fitted, but programs that show a skin's bind pose as its
    rest (Blender does) show the model's own pose; on, they show the rest pose, and skin near the armpits moves by centimetres."""
    fps: float | None = None
    """Rate of the animation files (FBX, BVH, GLB); None for the videos'. Tables always have the videos' frames."""
    bvh_order: str = "ZXY"
    """Order of BVH rotation channels: XYZ, XZY, YXZ, YZX, ZXY or ZYX."""
    bvh_digits: int = 6
    """Decimals of BVH numbers; at least 6."""
    trc_up: trc.Up = "y"
    """Up axis of TRC: "y" as OpenSim wants it, "z" as the cameras file has it."""
    usd: Literal["usdc", "usda"] = "usdc"
    """USD as binary or as text."""
    together: bool = False
    """Also write all actors of the take into one GLB."""
    to_character: Path | None = None
    """An FBX, BVH or GLB of your own: the FBX, BVH and GLB written then hold that character, with its names and its rest pose."""
    preset: str | None = None
    """Write the skeleton of ue5_manny, ue5_quinn, metahuman, mixamo, humanik, rokoko, rigify or smplx instead of the studio's own."""
    hands: Hands = "body"
    """On other characters hands are where they were relative to the shoulders ("body"), in the scaled room ("world"), or as angles put
    them ("off")."""
    root: Root = "floor"
    """On other characters joints above the hips go along on the floor and turn as the hips head ("floor") or stay at rest ("hips");
    "in_place": they stay, and the performance comes back to them."""


@dataclass(frozen=True)
class Performance:
    """One actor of a take, ready to be written."""

    motion: Motion
    body: Body
    character: Character
    tracks_file: Path | None
    """Where what was triangulated of this actor lies, if the take still has it."""
    model: Path = Path()
    """What the body was opened from."""

    @property
    def actor(self) -> str:
        """The actor's name, which files are named after."""
        return self.motion.actor


def _bvh(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [bvh.write(folder / f"{performance.actor}.bvh", performance.character, config.bvh_order, config.bvh_digits)]


def _glb(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [glb.write(folder / f"{performance.actor}.glb", [performance.character], clip=performance.actor)]


def _fbx(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [fbx.write(folder / f"{performance.actor}.fbx", performance.character, clip=performance.actor)]


def _usd(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [usd.write(folder / f"{performance.actor}.{config.usd}", [performance.character], clip=performance.actor)]


def _npz(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [amass.write(folder / f"{performance.actor}.npz", performance.motion, performance.body, performance.model)]


def _arkit(performance: Performance, folder: Path, config: ExportConfig) -> list[Path]:
    return [arkit.write(folder / f"arkit_{performance.actor}.csv", performance.motion, performance.body.expression_names)]


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
        tables["triangulated"] = points.triangulated_in_batches(performance.tracks_file, actor)
    written = [csv.write(folder / f"{name}_{actor}.csv", table) for name, table in tables.items()]
    if body.expression_names:
        written.append(csv.write_face(folder / f"face_{actor}.csv", motion, body.expression_names))
    return written


EXPORTERS: dict[str, Callable[[Performance, Path, ExportConfig], list[Path]]] = {
    "fbx": _fbx,
    "bvh": _bvh,
    "glb": _glb,
    "usd": _usd,
    "npz": _npz,
    "arkit": _arkit,
    "c3d": _c3d,
    "trc": _trc,
    "csv": _csv,
}
"""Format -> writer of one actor's files into a folder; the paths written."""


def _character(motion: Motion, body: Body, config: ExportConfig) -> Character:
    animated = character(motion, body, config.rest, config.rebound)
    return animated if config.fps is None else resampled(animated, config.fps)


def _warnings(bound: list[tuple[Motion, Body]], formats: tuple[str, ...]) -> list[str]:
    """What the files lack, in plain sentences."""
    found, chosen = [], set(formats)
    for actor, body in ((motion.actor, body) for motion, body in bound):
        if body.skin.pose_basis is not None and {"fbx", "glb", "usd"} & chosen:
            found.append(f"{actor}: FBX, GLB and USD leave out the pose correctives of body {body.name!r}; its skin bends plainly there")
        if not body.keypoint_names and {"trc", "csv", "c3d"} & chosen:
            found.append(f"{actor}: body {body.name!r} has no keypoints; TRC and points CSV are empty, joints CSV and C3D hold joints")
    return found


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
        bound.append((motion, catalogue.open_body(model_of(motion, take))))
        checked(*bound[-1])
    target = Target(config.to_character, config.preset).checked() if config.to_character or config.preset else None
    placed = [] if target is None else [Onto.of(m, b, target, Options(config.hands, config.root), config.fps) for m, b in bound]
    folder.mkdir(parents=True, exist_ok=True)
    written, together = [], []
    for onto in placed:
        written += onto.write(folder, config.formats, config.bvh_order, config.bvh_digits)
        tell(onto.summary())
    own = tuple(name for name in config.formats if target is None or name not in FORMATS)
    for motion, body in bound:
        animated, triangulated = _character(motion, body, config), tracks if motion.actor in tracked else None
        performance = Performance(motion, body, animated, triangulated, Path(model_of(motion, take)))
        written += [path for name in own for path in EXPORTERS[name](performance, folder, config)]
        together += [performance.character] if config.together and "glb" in own and len(bound) > 1 else []
    if together:
        written.append(glb.write(folder / "together.glb", together, clip="together"))
    warnings = _warnings(bound, own) + [remark for onto in placed for remark in onto.remarks()]
    take.note("export", warnings, files=len(written))
    for warning in warnings:
        tell(f"[yellow]{warning}[/]")
    size = sum(path.stat().st_size for path in written) / 1e6
    tell(f"export: {len(written)} files, {size:.1f} MB ({', '.join(config.formats)}), {time.perf_counter() - begin:.1f} s")
    return folder

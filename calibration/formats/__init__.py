"""Other tools' camera files in and out: one reader or writer a module, in the tables `READERS` and `WRITERS`.

Every reader ends in the studio's conventions: metres, `p_camera = R_camera_world @ (p_world - position)`, camera x right, y down,
z forward, pixel centres at whole numbers. World axes are as in the file, except for tools that define y as up, which are turned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import torch

from calibration.camera_file import Source, parse
from calibration.cameras import Cameras, joined
from calibration.formats import blender, colmap, easymocap, mamma, opencv, optitrack, qualisys, tables, vicon, xrmocap

Kind = Literal["studio", "pose2sim", "opencv", "colmap", "colmap-binary", "xrmocap", "blender", "mamma"]
ENDINGS: dict[str, Kind] = {".toml": "pose2sim", ".yml": "opencv", ".yaml": "studio"}


def read_cameras(path: Path, unit: float | None = None) -> Cameras:
    """The cameras of any file in `READERS`, recognised by content.

    A folder may hold EasyMocap's two files, the studio's cameras.yaml, a COLMAP model, MAMMA's npz, or one file a camera.
    `unit` is the length of the file's unit in metres, where it is not the one its tool usually writes (the studio's is always 1).
    A `ValueError` names file, camera, field and remedy; a missing file is a `FileNotFoundError`.
    """
    source = _source(path)
    for known, read, metres in READERS.values():
        if known(source):
            cameras = list(read(source, metres if unit is None else unit))
            if not cameras:
                raise ValueError(f"{path}: holds no camera that can be used; calibrate at least one, or mark one as active")
            return _plausible(path, cameras)
    raise ValueError(f"{path}: no camera in a known layout; these are read: {', '.join(READERS)}")


def write_cameras(cameras: Cameras, path: Path, kind: Kind | None = None) -> None:
    """Write cameras in the layout `kind`; by default what the name tells: .toml Pose2Sim, .yml OpenCV, .yaml the studio's own."""
    kind = kind or ENDINGS.get(path.suffix.lower())
    if kind not in WRITERS:
        named = ", ".join(f"{ending} {name}" for ending, name in ENDINGS.items())
        raise ValueError(f"{path}: its name does not tell the layout ({named}); give a kind: {', '.join(get_args(Kind))}")
    WRITERS[kind](cameras, path)


def _plausible(path: Path, cameras: list[Cameras]) -> Cameras:
    """All cameras in one; refuses names that occur twice and distances that only a wrong unit or a missing pose explains."""
    names = [c.names[0] for c in cameras]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{path}: camera {twice[0]!r}: field 'name' occurs twice; give each camera its own name")
    rig = joined(cameras)
    apart = float(torch.cdist(rig.position, rig.position).max())
    if len(rig) > 1 and not 0.05 < apart < 200:
        raise ValueError(
            f"{path}: the cameras would be {apart:.3g} m apart at most, so poses are missing or lengths are in another unit; "
            "solve the poses, or give the unit: `read_cameras(path, unit=metres per unit)`, `studio cameras convert --unit`"
        )
    return rig


def _source(path: Path) -> Source:
    """The file or folder, parsed as far as its syntax goes."""
    model = colmap.folder(path)
    if model is not None:
        return Source(model, "colmap", None)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return Source(path, "npz", [path])
    return parse(path)


def _folder(path: Path) -> Source:
    """EasyMocap's pair of files, the studio's own file, MAMMA's npz, or one file a camera."""
    if (path / "intri.yml").exists() or (path / "extri.yml").exists():
        return parse(path / "intri.yml")
    if (path / "cameras.yaml").exists():
        return parse(path / "cameras.yaml")
    arrays = sorted(p for p in path.glob("*.npz") if p.name != "global.npz")
    if arrays:
        return Source(path, "npz", arrays)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".yml", ".yaml", ".json"))
    if not files:
        raise ValueError(
            f"{path}: a folder without intri.yml and extri.yml, without a COLMAP model, and without a .yml, .yaml, .json or .npz file "
            "per camera; name the file"
        )
    return Source(path, "folder", [parse(file) for file in files])


def _is_studio(source: Source) -> bool:
    return source.syntax == "yaml" and isinstance(source.document, dict) and isinstance(source.document.get("cameras"), dict)


def _read_studio(source: Source, unit: float) -> Iterator[Cameras]:
    yield from Cameras.load(source.path)


READERS: dict[str, tuple[Callable[[Source], bool], Callable[[Source, float], Iterator[Cameras]], float]] = {
    "Qualisys .qca.txt": (qualisys.known, qualisys.read, 0.001),
    "Vicon .xcp": (vicon.known, vicon.read, 0.001),
    "OptiTrack .mcal": (optitrack.known, optitrack.read, 1.0),
    "Caliscope TOML": (tables.is_caliscope, tables.read, 1.0),
    "FreeMoCap TOML": (tables.is_freemocap, tables.read, 0.001),
    "Pose2Sim TOML": (tables.is_pose2sim, tables.read, 1.0),
    "anipose TOML": (tables.known, tables.read, 0.001),
    "EasyMocap intri.yml and extri.yml": (easymocap.known, easymocap.read, 1.0),
    "COLMAP text or binary": (colmap.known, colmap.read, 1.0),
    "Blender cameras JSON": (blender.known, blender.read, 1.0),
    "XRMoCap JSON": (xrmocap.known, xrmocap.read, 1.0),
    "MAMMA JSON, YAML or npz": (mamma.known, mamma.read, 1.0),
    "OpenCV YAML or JSON": (opencv.known, opencv.read, 1.0),
    "the studio's cameras.yaml": (_is_studio, _read_studio, 1.0),
}
"""Name -> is it this, read it, metres per unit. Anipose and FreeMoCap measure in the board's unit, which their guides give in mm."""

WRITERS: dict[str, Callable[[Cameras, Path], None]] = {
    "studio": lambda cameras, path: cameras.save(path),
    "pose2sim": tables.write,
    "opencv": opencv.write,
    "colmap": colmap.write_as_text,
    "colmap-binary": colmap.write_as_binary,
    "xrmocap": xrmocap.write,
    "blender": blender.write,
    "mamma": mamma.write,
}

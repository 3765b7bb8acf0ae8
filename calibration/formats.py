"""Other tools' camera files in and out: one small reader or writer each, in the tables `READERS` and `WRITERS`.

Every reader ends in the studio's conventions: world axes as in the file, metres, `p_camera = R_camera_world @ (p_world - position)`,
camera x right, y down, z forward. Pixel centres are taken at whole numbers, as OpenCV does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from calibration.camera_file import Entry, Source, parse
from calibration.cameras import Cameras, joined, single, write_text

Kind = Literal["studio", "pose2sim", "opencv"]
MATRIX = ("camera_matrix", "cameraMatrix", "intrinsic_matrix", "K", "matrix")
DISTORTION = ("distortion_coefficients", "dist_coeffs", "distCoeffs", "distortion", "dist", "D", "distortions")
SIZE = ("image_size", "imageSize", "size", "resolution")
ROTATION = ("R", "rotation", "rotation_matrix", "rvec", "Rvec")
TRANSLATION = ("T", "t", "tvec", "Tvec", "translation")
FISHEYE = {"fisheye", "equidistant", "kannala_brandt", "true", "1"}


def read_cameras(path: Path, unit: float | None = None) -> Cameras:
    """The cameras of any file in `READERS`, recognised by content.

    A folder may hold EasyMocap's two files, the studio's cameras.yaml, or one OpenCV file a camera.
    `unit` is the length of the file's unit in metres, where it is not the one its tool usually writes (the studio's is always 1).
    A `ValueError` names file, camera, field and remedy; a missing file is a `FileNotFoundError`.
    """
    source = _folder(path) if path.is_dir() else parse(path)
    for known, read, metres in READERS.values():
        if known(source):
            cameras = list(read(source, metres if unit is None else unit))
            if not cameras:
                raise ValueError(f"{path}: holds no camera that can be used; calibrate at least one, or mark one as active")
            return _plausible(path, cameras)
    raise ValueError(f"{path}: no camera in a known layout; these are read: {', '.join(READERS)}")


def write_cameras(cameras: Cameras, path: Path, kind: Kind | None = None) -> None:
    """Write cameras in the layout `kind`; by default what the name tells: .toml Pose2Sim, .yml OpenCV, .yaml the studio's own."""
    kind = kind or cast("Kind | None", {".toml": "pose2sim", ".yml": "opencv", ".yaml": "studio"}.get(path.suffix.lower()))
    if kind not in WRITERS:
        raise ValueError(f"{path}: cameras are written as {', '.join(get_args(Kind))} (.yaml, .toml, .yml); got {kind or path.suffix!r}")
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
            "solve the poses, or read the file with `read_cameras(path, unit=metres per unit)`"
        )
    return rig


def _folder(path: Path) -> Source:
    """EasyMocap's pair of files, the studio's own file, or one file a camera."""
    if (path / "intri.yml").exists() or (path / "extri.yml").exists():
        return parse(path / "intri.yml")
    if (path / "cameras.yaml").exists():
        return parse(path / "cameras.yaml")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".yml", ".yaml", ".json"))
    if not files:
        raise ValueError(
            f"{path}: a folder without intri.yml and extri.yml, and without a .yml, .yaml or .json file per camera; name the file"
        )
    listed = [parse(file) for file in files]
    return Source(path, "folder", listed)


def _tables(source: Source) -> dict[str, Any]:
    """The TOML tables that describe cameras: all but `metadata`, or those within `cameras`."""
    if source.syntax != "toml":
        return {}
    tables = source.document.get("cameras", source.document)
    fields = {"matrix", "distortions", "rotation", "translation"}
    return {k: v for k, v in tables.items() if isinstance(v, dict) and fields & set(v)} if isinstance(tables, dict) else {}


def _is_caliscope(source: Source) -> bool:
    return any("cam_id" in t or "port" in t for t in _tables(source).values()) or ("cameras" in _keys(source) and bool(_tables(source)))


def _is_pose2sim(source: Source) -> bool:
    tables = _tables(source).values()
    return bool(tables) and all("fisheye" in t for t in tables)


def _is_freemocap(source: Source) -> bool:
    metadata = source.document.get("metadata", {}) if _tables(source) else {}
    return isinstance(metadata, dict) and any(k.startswith(("charuco", "path_to", "date_time")) for k in metadata)


def _keys(source: Source) -> set[str]:
    return set(source.document) if isinstance(source.document, dict) else set()


def _read_tables(source: Source, unit: float) -> Iterator[Cameras]:
    """Aniposelib's `CameraGroup.dump` layout, which Pose2Sim, FreeMoCap and Caliscope share; `ignore = true` leaves a camera out.

    `rotation` is a Rodrigues vector, or a matrix (older Caliscope); with `translation` it takes world points into the camera.
    """
    for key, table in _tables(source).items():
        number = table.get("cam_id", table.get("port", key if key.isdigit() else None))
        name = str(table.get("name", key if number is None else f"{'port' if 'port' in table else 'cam'}_{number}"))
        if not table.get("ignore", False):
            yield _posed(Entry(source.path, name, table), unit, "fisheye" if table.get("fisheye", False) else "brown")


def _posed(entry: Entry, unit: float, lens: str) -> Cameras:
    """A camera given as matrix, distortion, rotation and translation under any of the usual names."""
    matrix = entry.named(*MATRIX)
    K = entry.numbers(matrix, shapes=((3, 3),))
    if abs(float(K[0, 1])) > 1e-6 * float(K[0, 0]):
        raise entry.error(matrix, f"has skew {float(K[0, 1]):g}, which no lens here has; calibrate without skew")
    R = _rotation(entry, *ROTATION)
    t = entry.numbers(*TRANSLATION, shapes=((3,),)) * unit
    return single(
        entry.camera,
        _size(entry),
        entry.focal(K[[0, 1], [0, 1]], matrix),
        K[:2, 2],
        entry.distortion(lens, *DISTORTION),
        lens,
        R,
        -R.mT @ t,
    )


def _rotation(entry: Entry, *fields: str) -> Float[Tensor, "3 3"]:
    field = entry.named(*fields)
    given = entry.numbers(field, shapes=((3, 3), (3,)))
    if given.shape == (3, 3):
        return entry.rotation(given, field)
    return torch.from_numpy(Rotation.from_rotvec(given.numpy()).as_matrix())


def _size(entry: Entry) -> Float[Tensor, "2"]:
    for pair in (("image_width", "image_height"), ("width", "height"), ("W", "H")):
        if all(entry.values.get(f) is not None for f in pair):
            return torch.cat([entry.numbers(f, shapes=((1,),)) for f in pair])
    return entry.size(*SIZE)


def _opencv_entries(source: Source) -> Iterator[Entry]:
    """Cameras of one file: the document itself, or mappings or a list within it or within its `cameras`."""
    document = source.document
    if not isinstance(document, dict):
        return
    if any(k in document for k in MATRIX):
        yield Entry(source.path, str(document.get("camera_name", document.get("name", source.path.stem))), document)
        return
    listed = document.get("cameras", document)
    named = listed.items() if isinstance(listed, dict) else enumerate(listed) if isinstance(listed, list) else ()
    for key, value in named:
        if isinstance(value, dict) and any(k in value for k in (*MATRIX, "distortion_coefficients", "dist_coeffs", "image_width")):
            yield Entry(source.path, str(value.get("camera_name", value.get("name", key))), value)


def _is_opencv(source: Source) -> bool:
    if source.syntax == "folder":
        return True
    return source.syntax in ("yaml", "json") and any(True for _ in _opencv_entries(source))


def _read_opencv(source: Source, unit: float) -> Iterator[Cameras]:
    """OpenCV's FileStorage names, in YAML or JSON; matrices as `!!opencv-matrix`, ROS mappings or nested lists.

    A camera has `camera_matrix`, `distortion_coefficients`, `image_width` and `image_height` (or `image_size`), and the pose that
    `cv2.projectPoints` takes: `R` (matrix) or `rvec`, with `T` or `tvec`. `distortion_model: fisheye` (or equidistant) names the lens.
    """
    for file in source.document if source.syntax == "folder" else [source]:
        entries = list(_opencv_entries(file))
        if not entries:
            raise ValueError(f"{file.path}: holds no camera; it needs 'camera_matrix', or take the file out of the folder")
        for entry in entries:
            model = next((entry.values[k] for k in ("distortion_model", "camera_model", "fisheye") if k in entry.values), "")
            yield _posed(entry, unit, "fisheye" if str(model).lower() in FISHEYE else "brown")


def _is_easymocap(source: Source) -> bool:
    return source.syntax == "yaml" and any(k.startswith(("K_", "R_", "Rot_")) for k in _keys(source)) and "names" in _keys(source)


def _read_easymocap(source: Source, unit: float) -> Iterator[Cameras]:
    """EasyMocap's intri.yml (`K_`, `dist_` or `D_`, `H_`, `W_`) and extri.yml (`R_` vector or `Rot_` matrix, `T_`) in one folder."""
    files = {name: source.path.with_name(f"{name}.yml") for name in ("intri", "extri")}
    inner, outer = (parse(files[name]).document for name in files)
    if not isinstance(inner, dict) or not isinstance(outer, dict) or not isinstance(inner.get("names"), list):
        raise ValueError(f"{files['intri']}: field 'names' is missing; it must list the cameras")
    for name in inner["names"]:
        lens = Entry(files["intri"], name, inner)
        pose = Entry(files["extri"], name, outer)
        K = lens.numbers(f"K_{name}", shapes=((3, 3),))
        if f"W_{name}" not in inner or f"H_{name}" not in inner:
            raise lens.error(f"W_{name}", f"or 'H_{name}' is missing; add the image size: `W_{name}: 1920` and `H_{name}: 1080`")
        R = _rotation(pose, f"R_{name}", f"Rot_{name}")
        yield single(
            name,
            torch.cat([lens.numbers(f"{axis}_{name}", shapes=((1,),)) for axis in "WH"]),
            lens.focal(K[[0, 1], [0, 1]], f"K_{name}"),
            K[:2, 2],
            lens.distortion("brown", f"dist_{name}", f"D_{name}"),
            "brown",
            R,
            -R.mT @ (pose.numbers(f"T_{name}", shapes=((3,),)) * unit),
        )


def _is_qualisys(source: Source) -> bool:
    return source.syntax == "xml" and source.document.find("cameras/camera") is not None


def _read_qualisys(source: Source, unit: float) -> Iterator[Cameras]:
    """Qualisys' calibration export (.qca.txt): focal length and centre in 1/64 px of the whole sensor, position in mm.

    The matrix r11..r33 turns world into a camera that looks along -z with y up, so two rows change sign. `fov_video` is the part of
    the sensor that is filmed. The distortion coefficients need no factor: checkerboard images calibrated with OpenCV give the same ones.
    """
    for tag in source.document.iterfind("cameras/camera"):
        if tag.get("active", "1") == "0" or tag.get("calibrated", "true") == "false":
            continue
        values = {
            k: v for part in ("transform", "intrinsic") for k, v in (tag.find(part).attrib if tag.find(part) is not None else {}).items()
        }
        fov = tag.find("fov_video")
        values |= {f"fov_video {k}": v for k, v in (fov.attrib if fov is not None else {}).items()}
        yield _qualisys_camera(Entry(source.path, str(tag.get("serial", "without serial")), values), unit)


def _qualisys_camera(entry: Entry, unit: float) -> Cameras:
    def row(*names: str) -> Float[Tensor, "n"]:
        return torch.cat([entry.numbers(name, shapes=((1,),)) for name in names])

    corner = row("fov_video left", "fov_video top")
    size = row("fov_video right", "fov_video bottom") - corner + 1
    if not bool((size > 0).all()):
        raise entry.error("fov_video", f"leaves an image of {size.tolist()} px; export the calibration again")
    R = entry.rotation(row(*(f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3))).view(3, 3), "transform")
    tangential = [f"tangental{n}" if f"tangental{n}" in entry.values else f"tangential{n}" for n in ("Distortion1", "Distortion2")]
    k = row("radialDistortion1", "radialDistortion2", *tangential, "radialDistortion3")
    return single(
        name=entry.camera,
        size=size,
        focal=entry.focal(row("focalLengthU", "focalLengthV") / 64, "focalLengthU"),
        centre=row("centerPointU", "centerPointV") / 64 - corner,
        distortion=torch.nn.functional.pad(k, (0, 3)),
        lens="brown",
        R_camera_world=torch.tensor([1.0, -1.0, -1.0], dtype=R.dtype)[:, None] * R,
        position=row("x", "y", "z") * unit,
    )


def _is_studio(source: Source) -> bool:
    return source.syntax == "yaml" and isinstance(source.document, dict) and isinstance(source.document.get("cameras"), dict)


def _read_studio(source: Source, unit: float) -> Iterator[Cameras]:
    yield from Cameras.load(source.path)


READERS: dict[str, tuple[Callable[[Source], bool], Callable[[Source, float], Iterator[Cameras]], float]] = {
    "Qualisys .qca.txt": (_is_qualisys, _read_qualisys, 0.001),
    "Caliscope TOML": (_is_caliscope, _read_tables, 1.0),
    "FreeMoCap TOML": (_is_freemocap, _read_tables, 0.001),
    "Pose2Sim TOML": (_is_pose2sim, _read_tables, 1.0),
    "anipose TOML": (lambda source: bool(_tables(source)), _read_tables, 0.001),
    "EasyMocap intri.yml and extri.yml": (_is_easymocap, _read_easymocap, 1.0),
    "OpenCV YAML or JSON": (_is_opencv, _read_opencv, 1.0),
    "the studio's cameras.yaml": (_is_studio, _read_studio, 1.0),
}
"""Name -> is it this, read it, metres per unit. Anipose and FreeMoCap measure in the board's unit, which their guides give in mm."""


def _trimmed(cameras: Cameras, c: int) -> list[float]:
    """The fewest coefficients (4, 5 or 8) that OpenCV accepts and that say all."""
    k = cameras.distortion[c].tolist()
    return next(k[:n] for n in (4, 5, 8) if not any(k[n:]))


def _rodrigues(cameras: Cameras, c: int) -> list[float]:
    return Rotation.from_matrix(cameras.R_camera_world[c].numpy()).as_rotvec().tolist()


def _write_pose2sim(cameras: Cameras, path: Path) -> None:
    """Pose2Sim's TOML, which aniposelib reads too (metres)."""
    if "fisheye" in cameras.lens:
        name = cameras.names[cameras.lens.index("fisheye")]
        raise ValueError(
            f"{path}: camera {name!r}: Pose2Sim undistorts every lens as Brown-Conrady, this one is a fisheye; write OpenCV (.yml)"
        )
    lines = []
    for c, name in enumerate(cameras.names):
        fields = {
            "name": name,
            "size": cameras.size[c].tolist(),
            "matrix": cameras.matrix[c].tolist(),
            "distortions": _trimmed(cameras, c),
            "rotation": _rodrigues(cameras, c),
            "translation": cameras.translation[c].tolist(),
            "fisheye": False,
        }
        quoted = json.dumps(name, ensure_ascii=False)
        lines += [f"[{quoted}]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in fields.items()), ""]
    write_text(path, "\n".join([*lines, "[metadata]", "adjusted = false", "error = 0.0", ""]))


def _write_opencv(cameras: Cameras, path: Path) -> None:
    """A FileStorage YAML with the list `cameras`, for `cv2.FileStorage` or this reader; lengths in metres."""

    def matrix(name: str, rows: list[list[float]]) -> str:
        data = ", ".join(repr(float(v)) for row in rows for v in row)
        head = f"      {name}: !!opencv-matrix\n         rows: {len(rows)}\n         cols: {len(rows[0])}\n"
        return f"{head}         dt: d\n         data: [ {data} ]"

    lines = ["%YAML:1.0", "---", "cameras:"]
    for c, name in enumerate(cameras.names):
        width, height = (f"{v:g}" for v in cameras.size[c].tolist())
        lines += [
            f"   -\n      name: {json.dumps(name, ensure_ascii=False)}",
            f"      image_width: {width}",
            f"      image_height: {height}",
        ]
        lines += [f"      distortion_model: {cameras.lens[c]}", matrix("camera_matrix", cameras.matrix[c].tolist())]
        lines += [matrix("distortion_coefficients", [_trimmed(cameras, c)]), matrix("R", cameras.R_camera_world[c].tolist())]
        lines += [matrix("T", cameras.translation[c][:, None].tolist())]
    write_text(path, "\n".join(lines) + "\n")


WRITERS: dict[str, Callable[[Cameras, Path], None]] = {
    "studio": lambda cameras, path: cameras.save(path),
    "pose2sim": _write_pose2sim,
    "opencv": _write_opencv,
}

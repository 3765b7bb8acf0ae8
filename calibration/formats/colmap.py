"""COLMAP's sparse models: cameras and images, as text or binary.

Source: colmap.github.io "Output Format" and "Camera Models", and scripts/python/read_write_model.py of colmap/colmap. COLMAP puts (0, 0)
at the outer corner of the top-left pixel, the studio at that pixel's centre, so half a pixel is taken off and added.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from scipy.spatial.transform import Rotation

from calibration.camera_file import Entry, Source, read_text
from calibration.cameras import Cameras, single, write_text
from calibration.formats.fields import quaternion


@dataclass(frozen=True)
class _Model:
    number: int
    count: int
    """Parameters: one or two focal lengths, two of the centre, then distortion."""
    focals: int
    lens: str
    places: tuple[int, ...]
    """Where each distortion parameter stands among the studio's eight."""


MODELS = {
    "SIMPLE_PINHOLE": _Model(0, 3, 1, "brown", ()),
    "PINHOLE": _Model(1, 4, 2, "brown", ()),
    "SIMPLE_RADIAL": _Model(2, 4, 1, "brown", (0,)),
    "RADIAL": _Model(3, 5, 1, "brown", (0, 1)),
    "OPENCV": _Model(4, 8, 2, "brown", (0, 1, 2, 3)),
    "OPENCV_FISHEYE": _Model(5, 8, 2, "fisheye", (0, 1, 2, 3)),
    "FULL_OPENCV": _Model(6, 12, 2, "brown", (0, 1, 2, 3, 4, 5, 6, 7)),
    "SIMPLE_RADIAL_FISHEYE": _Model(8, 4, 1, "fisheye", (0,)),
    "RADIAL_FISHEYE": _Model(9, 5, 1, "fisheye", (0, 1)),
}
REMEDY = "run COLMAP's image_undistorter, or reconstruct again with OPENCV or OPENCV_FISHEYE"


def folder(path: Path) -> Path | None:
    """The folder of the model that a path means: itself, its sparse/0, or that of one of its files; None where there is none."""
    for place in (path, path / "sparse" / "0", path / "0") if path.is_dir() else (path.parent,):
        if path.is_dir() or path.name in ("cameras.bin", "images.bin", "cameras.txt", "images.txt"):
            for suffix in (".bin", ".txt"):
                if (place / f"cameras{suffix}").is_file() or (place / f"images{suffix}").is_file():
                    return place
    return None


def known(source: Source) -> bool:
    """A folder with cameras.bin or cameras.txt."""
    return source.syntax == "colmap"


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """One camera for each image, named after the image's file, or after its folder where the files' names are alike.

    The pose takes world into a camera with y down, looking along z. COLMAP's world has neither metre nor up: lengths are taken as
    `unit` m and the axes are kept, so align the model first (`colmap model_aligner`), or calibrate the world afterwards.
    """
    binary = (source.path / "cameras.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    for part in ("cameras", "images"):
        if not (source.path / f"{part}{suffix}").is_file():
            raise FileNotFoundError(f"{source.path / part}{suffix}: no such file; a COLMAP model needs both cameras and images")
    lenses, images = (_read_binary if binary else _read_text)(source.path)
    names = _names([image for image, _, _ in images])
    for name, (_, number, pose) in zip(names, images):
        if number not in lenses:
            raise ValueError(
                f"{source.path / 'images'}{suffix}: camera {name!r}: field 'CAMERA_ID' is {number}, which cameras{suffix} lacks"
            )
        yield _camera(Entry(source.path / f"images{suffix}", name, {"pose": pose}), *lenses[number], unit)


def _names(images: list[str]) -> list[str]:
    """Files' names without their endings, or the folders' where those differ and the files do not."""
    paths = [PurePosixPath(image.replace("\\", "/")) for image in images]
    stems, folders = [p.stem for p in paths], [p.parent.name for p in paths]
    return folders if len(set(stems)) < len(stems) == len(set(folders)) else stems


Lens = tuple[str, list[float], list[float]]
"""Model, size, parameters."""
Images = list[tuple[str, int, list[float]]]
"""Name, number of the lens, quaternion (scalar first) and translation."""


def _camera(entry: Entry, model: str, size: list[float], parameters: list[float], unit: float) -> Cameras:
    if model not in MODELS:
        raise entry.error("MODEL", f"is {model}, none of {', '.join(MODELS)}; {REMEDY}")
    kind = MODELS[model]
    if len(parameters) != kind.count:
        raise entry.error("PARAMS", f"holds {len(parameters)} numbers where {model} has {kind.count}; export the model again")
    numbers = Entry(entry.path, entry.camera, {"PARAMS": parameters, "SIZE": size, **entry.values})
    p, pose = numbers.numbers("PARAMS"), numbers.numbers("pose", shapes=((7,),))
    distortion = torch.zeros(8, dtype=torch.float64)
    distortion[list(kind.places)] = p[kind.focals + 2 :]
    R = quaternion(entry, pose[[1, 2, 3, 0]], "QW QX QY QZ")
    return single(
        name=entry.camera,
        size=numbers.size("SIZE"),
        focal=entry.focal(p[[0, kind.focals - 1]], "PARAMS"),
        centre=p[kind.focals : kind.focals + 2] - 0.5,
        distortion=distortion,
        lens=kind.lens,
        R_camera_world=R,
        position=-R.mT @ (pose[4:] * unit),
    )


def _read_text(place: Path) -> tuple[Mapping[int, Lens], Images]:
    lenses: dict[int, Lens] = {}
    path = place / "cameras.txt"
    for number, words in _lines(path):
        if len(words) < 5:
            raise ValueError(f"{path}: line {number}: needs CAMERA_ID MODEL WIDTH HEIGHT PARAMS; export the model again")
        lenses[_whole(path, number, words[0])] = (words[1], _floats(path, number, words[2:4]), _floats(path, number, words[4:]))
    path, images = place / "images.txt", []
    rows = _lines(path, blank=True)
    for number, words in rows:
        if not words:
            continue
        if len(words) < 10:
            raise ValueError(f"{path}: line {number}: needs IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME; export the model again")
        images.append((" ".join(words[9:]), _whole(path, number, words[8]), _floats(path, number, words[1:8])))
        next(rows, None)  # the line of points, which may be blank
    return lenses, images


def _lines(path: Path, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.startswith("#") and (blank or line.strip()):
            yield number, line.split()


def _whole(path: Path, line: int, word: str) -> int:
    if not word.lstrip("-").isdigit():
        raise ValueError(f"{path}: line {line}: {word!r} is not a number of a camera; export the model again")
    return int(word)


def _floats(path: Path, line: int, words: list[str]) -> list[float]:
    try:
        return [float(w) for w in words]
    except ValueError as error:
        raise ValueError(f"{path}: line {line}: {' '.join(words)!r} are not numbers; export the model again") from error


class _Bytes:
    """A binary file read from front to back, little endian; a `ValueError` where it ends too soon."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, layout: str) -> tuple[float, ...]:
        try:
            found = struct.unpack_from("<" + layout, self.data, self.at)
        except struct.error as error:
            raise self.cut() from error
        self.at += struct.calcsize("<" + layout)
        return found

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.cut()
        found, self.at = self.data[self.at : end].decode(errors="replace"), end + 1
        return found

    def cut(self) -> ValueError:
        return ValueError(f"{self.path}: the file ends too soon, after {len(self.data)} bytes; copy it again, or export the model as text")


def _read_binary(place: Path) -> tuple[Mapping[int, Lens], Images]:
    names = {model.number: name for name, model in MODELS.items()}
    file, lenses = _Bytes(place / "cameras.bin"), {}
    for _ in range(int(file.take("Q")[0])):
        number, model, width, height = file.take("iiQQ")
        if model not in names:
            raise ValueError(f"{file.path}: camera {number:g}: field 'MODEL' is number {model:g}, none of {', '.join(MODELS)}; {REMEDY}")
        name = names[int(model)]
        lenses[int(number)] = (name, [width, height], list(file.take(f"{MODELS[name].count}d")))
    file, images = _Bytes(place / "images.bin"), []
    for _ in range(int(file.take("Q")[0])):
        _, *pose, number = file.take("i7di")
        name = file.text()
        points = int(file.take("Q")[0])
        file.at += 24 * points
        images.append((name, int(number), list(pose)))
    if file.at > len(file.data):
        raise file.cut()
    return lenses, images


def _lens(cameras: Cameras, c: int) -> tuple[str, list[float]]:
    """The plainest model that says all, and its parameters."""
    k = cameras.distortion[c].tolist()
    model = "OPENCV_FISHEYE" if cameras.lens[c] == "fisheye" else "FULL_OPENCV" if any(k[4:]) else "OPENCV" if any(k) else "PINHOLE"
    centre = (cameras.centre[c] + 0.5).tolist()
    return model, [*cameras.focal[c].tolist(), *centre, *k[: len(MODELS[model].places)]]


def _pose(cameras: Cameras, c: int) -> list[float]:
    x, y, z, w = Rotation.from_matrix(cameras.R_camera_world[c].numpy()).as_quat(canonical=True).tolist()
    return [w, x, y, z, *cameras.translation[c].tolist()]


def write_as_text(cameras: Cameras, path: Path) -> None:
    """A folder with cameras.txt, images.txt (one image NAME.png a camera) and an empty points3D.txt; metres."""
    lenses, images = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS"], ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of points"]
    for c, name in enumerate(cameras.names):
        model, parameters = _lens(cameras, c)
        lenses.append(f"{c + 1} {model} {' '.join(f'{v:.0f}' for v in cameras.size[c].tolist())} {' '.join(map(repr, parameters))}")
        images += [f"{c + 1} {' '.join(map(repr, _pose(cameras, c)))} {c + 1} {name}.png", ""]
    _fresh(path, ".bin")
    for part, lines in {"cameras": lenses, "images": images, "points3D": ["# none"]}.items():
        write_text(path / f"{part}.txt", "\n".join(lines) + "\n")


def write_as_binary(cameras: Cameras, path: Path) -> None:
    """The same as `write_as_text` in COLMAP's binary layout."""
    count = struct.pack("<Q", len(cameras))
    lenses, images = count, count
    for c, name in enumerate(cameras.names):
        model, parameters = _lens(cameras, c)
        size = [round(v) for v in cameras.size[c].tolist()]
        lenses += struct.pack(f"<iiQQ{len(parameters)}d", c + 1, MODELS[model].number, *size, *parameters)
        images += struct.pack("<i7di", c + 1, *_pose(cameras, c), c + 1) + f"{name}.png".encode() + b"\0" + struct.pack("<Q", 0)
    _fresh(path, ".txt")
    for part, data in {"cameras": lenses, "images": images, "points3D": struct.pack("<Q", 0)}.items():
        temporary = path / f"{part}.bin.partial"
        temporary.write_bytes(data)
        temporary.replace(path / f"{part}.bin")


def _fresh(path: Path, other: str) -> None:
    """Make the folder; refuse one that holds a model in the other layout, which COLMAP would read instead."""
    if path.is_file():
        raise ValueError(f"{path}: is a file; a COLMAP model is a folder, name one")
    if (path / f"cameras{other}").exists():
        raise ValueError(f"{path}: holds a COLMAP model in {other} files already; choose another folder, or remove it")
    path.mkdir(parents=True, exist_ok=True)

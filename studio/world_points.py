"""`--floor-points` and `--known-points`: points that a person clicked in several pictures set the floor, the origin and the metre.

A file of points, in YAML; `xyz` (metres, z up) only for known points:

    mark:  {pixels: {cam01: [412, 633], cam02: [97, 580]}, xyz: [0, 0, 0]}
    pillar: {cam01: [800, 122], cam03: [310, 95]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from calibration.gates import Gate
from calibration.triangulate import triangulate
from calibration.world import Move, from_floor, from_known_points, from_marks, from_up
from calibration.world_gates import judge_clicks, judge_floor, judge_points

Marks = dict[str, tuple[float, float, float]]
"""Named points, m."""
CLICK = 1.5
"""Standard deviation of a click along each axis, px."""


@dataclass(frozen=True)
class Clicked:
    """Named points, and where a person clicked them."""

    source: str
    """The file or option they come from, for messages."""
    pixels: dict[str, dict[str, tuple[float, float]]]
    """Point -> camera -> px."""
    xyz: Marks
    """Where they are known to lie."""


@dataclass(frozen=True)
class World:
    """Where the world is to be, by points. Which of the fields counts most: known, floor with up, floor."""

    floor: Clicked | None = None
    known: Clicked | None = None
    origin: tuple[str, ...] = ()
    """A floor point for the origin, and one that x goes towards."""
    up: tuple[str, ...] = ()
    """Two points above each other, the lower one on the floor."""

    def __bool__(self) -> bool:
        return self.floor is not None or self.known is not None


@dataclass(frozen=True)
class Settled:
    """A world found."""

    move: Move
    gates: tuple[Gate, ...]
    places: Marks
    """Of all points, after the move."""


def world_of(floor_points: Sequence[str], known_points: Path | None, origin: str | None, up: str | None) -> World:
    """What a command line says of the world; a `ValueError` in words where it does not say enough."""
    floor = clicked(floor_points) if floor_points else None
    known = read_clicked(known_points) if known_points else None
    if known and not known.xyz:
        raise ValueError(f"{known.source}: no point has `xyz`; write where the points lie, in metres, or give the file to --floor-points")
    first, lower = (tuple(t.split(":")) if t else () for t in (origin, up))
    if origin and not 1 <= len(first) <= 2:
        raise ValueError(f"--origin {origin}: write NAME, or NAME:NAME with a second point that x goes towards")
    if up and len(lower) != 2:
        raise ValueError(f"--up {up}: write LOWER:UPPER, two points above each other")
    if (origin or up) and floor is None:
        raise ValueError("--origin and --up name points of --floor-points; give those")
    if floor and (unknown := [n for n in (*first, *lower) if n not in floor.pixels]):
        raise ValueError(f"{floor.source}: no point {unknown[0]!r}; there are {list(floor.pixels)}")
    return World(floor, known, first, lower)


def clicked(words: Sequence[str]) -> Clicked:
    """Points from a file, or from words CAMERA:X,Y/CAMERA:X,Y, one word a point, named p1, p2 ..."""
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")):
        return read_clicked(Path(words[0]))
    pixels: dict[str, dict[str, tuple[float, float]]] = {}
    for number, word in enumerate(words, 1):
        try:
            seen = {c: _numbers(at.split(","), 2) for c, at in (part.rsplit(":", 1) for part in word.split("/"))}
        except ValueError as error:
            raise ValueError(f"--floor-points {word}: write CAMERA:X,Y/CAMERA:X,Y for each point, or a YAML file ({error})") from error
        pixels[f"p{number}"] = {c: (x, y) for c, (x, y) in seen.items()}
    return Clicked("--floor-points", pixels, {})


def read_clicked(path: Path) -> Clicked:
    """Points from a YAML file; a `ValueError` names file, point and field."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of points; write `NAME: {{CAMERA: [X, Y], CAMERA: [X, Y]}}` for each")
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(document, dict) or not document:
        raise ValueError(f"{path}: holds no points; write `NAME: {{CAMERA: [X, Y], CAMERA: [X, Y]}}` for each")
    pixels, xyz = {}, {}
    for name, value in document.items():
        pixels[str(name)], place = _point(path, str(name), value)
        if place is not None:
            xyz[str(name)] = place
    return Clicked(str(path), pixels, xyz)


def _point(path: Path, name: str, value: Any) -> tuple[dict[str, tuple[float, float]], tuple[float, float, float] | None]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: point {name!r} is {value!r}; write {{CAMERA: [X, Y], CAMERA: [X, Y]}}")
    seen = value.get("pixels", {k: v for k, v in value.items() if k != "xyz"})
    try:
        pixels = {str(c): (x, y) for c, (x, y) in ((c, _numbers(at, 2)) for c, at in seen.items())}
        if "xyz" not in value:
            return pixels, None
        x, y, z = _numbers(value["xyz"], 3)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: point {name!r}: {error}; pixels are [X, Y] by camera, xyz is [X, Y, Z] in metres") from error
    return pixels, (x, y, z)


def _numbers(values: Any, count: int) -> list[float]:
    found = [float(v) for v in values]
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"{values!r} is not {count} numbers")
    return found


def located(points: Clicked, cameras: Cameras) -> tuple[dict[str, Float[Tensor, "3"]], Gate]:
    """Where the points are, m, and how well their clicks agree; a `ValueError` names a point that fewer than two cameras place."""
    names = list(points.pixels)
    if unknown := [(n, c) for n, seen in points.pixels.items() for c in seen if c not in cameras.names]:
        raise ValueError(f"{points.source}: point {unknown[0][0]!r}: no camera {unknown[0][1]!r}; there are {list(cameras.names)}")
    if lonely := [n for n, seen in points.pixels.items() if len(seen) < 2]:
        raise ValueError(f"{points.source}: point {lonely[0]!r} is clicked in one picture; click it in two cameras or more")
    clicks = torch.full((len(cameras), len(names), 2), torch.nan, dtype=torch.float64)
    for n, name in enumerate(names):
        for camera, at in points.pixels[name].items():
            clicks[cameras.index(camera), n] = torch.tensor(at, dtype=torch.float64)
    sigma = torch.where(clicks.isfinite().all(-1), CLICK, torch.nan).to(torch.float64)
    found = triangulate(cameras, clicks, sigma, robust=False, dtype=torch.float64)
    if lost := [n for n, p in zip(names, found.points) if not bool(p.isfinite().all())]:
        raise ValueError(f"{points.source}: point {lost[0]!r}: its pixels meet nowhere before the cameras; click it again")
    return dict(zip(names, found.points, strict=True)), judge_clicks(names, cameras, found.residual)


def settled(cameras: Cameras, world: World, metric: bool) -> Settled:
    """The world that points tell. `metric`: the cameras are in metres already, by a board: known points then only check that, else they
    give the metre too."""
    points = world.known or world.floor
    assert points is not None
    found, clicks = located(points, cameras)
    factor = 1.0
    if world.known:
        true = {n: torch.tensor(p, dtype=torch.float64) for n, p in points.xyz.items()}
        move = from_known_points(found, true)
        factor = move.scale
        move = from_known_points(found, true, scale=False) if metric else move
    elif world.up:
        move = from_up(found[world.up[0]], found[world.up[1]])
    elif len(world.origin) == 2:
        order = [*world.origin, *(n for n in found if n not in world.origin)]
        move = from_marks(torch.stack([found[n] for n in order]), cameras)
    else:
        move = from_floor(torch.stack(list(found.values())), cameras)
    if len(world.origin) == 1 or (world.up and world.origin):
        move = move.with_origin(found[world.origin[0]])
    gates = [clicks, judge_floor(move.cameras(cameras))]
    if not world.up:
        gates += judge_points(move, world.known is not None, factor, metric)
    return Settled(move, tuple(gates), {n: _triple(move.points(p)) for n, p in found.items()})


def _triple(point: Float[Tensor, "3"]) -> tuple[float, float, float]:
    x, y, z = point.tolist()
    return x, y, z


def named(gates: Sequence[Gate], more: Sequence[Gate]) -> tuple[Gate, ...]:
    """Gates with `more` in place of those of the same names."""
    names: Mapping[str, Gate] = {g.name: g for g in more}
    return (*(g for g in gates if g.name not in names), *more)

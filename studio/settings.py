"""Settings in YAML: nested dataclasses filled from a file that a person edits, every key and kind checked."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from studio.freshness import write_text

T = TypeVar("T")


def load(path: Path, kind: type[T]) -> T:
    """The `kind` (a dataclass) that a YAML file describes, defaults where it is silent; a `ValueError` names file, key and remedy."""
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such settings file; `studio settings` prints one to start from") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    return filled(kind, {} if document is None else document, str(path))


def save(settings: Any, path: Path, everything: bool = False) -> Path:
    """Write settings as YAML: those that differ from their defaults, or `everything`."""
    document = plain(settings) if everything else difference(settings)
    return write_text(path, yaml.safe_dump(document, sort_keys=False))


def filled(kind: type[T], values: Any, where: str) -> T:
    """A `kind` with these values; `where` opens every message."""
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise ValueError(f"{where}: needs `key: value` lines; known keys are {names}")
    if unknown := [k for k in values if k not in names]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known keys are {names}")
    hints = get_type_hints(kind)
    return kind(**{key: _cast(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def plain(settings: Any) -> Any:
    """The YAML document of settings."""
    if is_dataclass(settings):
        return {f.name: plain(getattr(settings, f.name)) for f in fields(settings)}
    if isinstance(settings, tuple | list):
        return [plain(v) for v in settings]
    if isinstance(settings, dict):
        return {k: plain(v) for k, v in settings.items()}
    return str(settings) if isinstance(settings, Path) else settings


def difference(settings: Any) -> dict[str, Any]:
    """The YAML document of the settings that are not at their defaults."""
    changed: dict[str, Any] = {}
    default = type(settings)()
    for f in fields(settings):
        value = getattr(settings, f.name)
        if value == getattr(default, f.name):
            continue
        changed[f.name] = difference(value) if is_dataclass(value) and type(value) is type(getattr(default, f.name)) else plain(value)
    return changed


def _cast(kind: Any, value: Any, where: str) -> Any:
    """The value as the annotated kind, or a `ValueError` that says what was wanted."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(inside, value, where)
    if origin is Literal:
        if value not in inside:
            raise ValueError(f"{where}: {value!r} is none of {list(inside)}")
        return value
    if is_dataclass(kind):
        return filled(kind, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list):
        if not isinstance(value, list) or (origin is tuple and inside[-1] is not ... and len(inside) != len(value)):
            raise ValueError(
                f"{where}: {value!r} is not a list" + (f" of {len(inside)}" if origin is tuple and inside[-1] is not ... else "")
            )
        each = [inside[0]] * len(value) if origin is list or inside[-1] is ... else list(inside)
        return origin(_cast(k, v, where) for k, v in zip(each, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {value!r} is not a mapping")
        return {_cast(inside[0], k, where): _cast(inside[1], v, where) for k, v in value.items()}
    return _scalar(kind, value, where)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(k for k in kinds if k is not type(None))
    for kind in kinds:
        try:
            return _cast(kind, value, where)
        except ValueError:
            if kind is kinds[-1]:
                raise
    raise AssertionError("a union holds at least one kind")


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    if type(value) is kind:
        return value
    called = {bool: "true or false", int: "a whole number", float: "a number", str: "text (in quotes)", Path: "a file name"}.get(
        kind, str(kind)
    )
    raise ValueError(f"{where}: {value!r} is not {called}")

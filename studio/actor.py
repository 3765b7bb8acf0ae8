"""An actor's profile: the shape of a person, solved once from a good take and kept for all others (`session/actors/<actor>.yaml`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from studio.freshness import write_text
from studio.take import Take

KEYS = ("actor", "body", "shape", "sigma", "frames", "takes")


@dataclass(frozen=True)
class Profile:
    """A person's shape on a body model."""

    actor: str
    body: str
    """Name of the body model that the coefficients belong to."""
    shape: dict[str, float]
    """Coefficient name -> value, in standard deviations over people."""
    sigma: dict[str, float]
    """Coefficient name -> standard deviation of the value; what footage could not tell is near 1."""
    frames: int
    """Frames that it was solved from."""
    takes: tuple[str, ...]

    def save(self, path: Path) -> Path:
        """Write the profile as YAML; the file written."""
        rounded = {"shape": _rounded(self.shape), "sigma": _rounded(self.sigma)}
        document = {"actor": self.actor, "body": self.body, "frames": self.frames, "takes": list(self.takes), **rounded}
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_text(path, yaml.safe_dump(document, sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile; a `ValueError` names file, field and remedy."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such profile; make it with `studio actor TAKE`")
        try:
            document = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a YAML file: {error}") from error
        if not isinstance(document, dict) or (missing := [k for k in KEYS if k not in document]):
            lacking = missing[0] if isinstance(document, dict) else "actor"
            raise ValueError(f"{path}: lacks `{lacking}:`; make the profile again with `studio actor TAKE`")
        shape, sigma = (_numbers(path, k, document[k]) for k in ("shape", "sigma"))
        return cls(str(document["actor"]), str(document["body"]), shape, sigma, int(document["frames"]), tuple(document["takes"]))

    def fits(self, path: Path, body: str, names: tuple[str, ...]) -> list[float]:
        """The coefficients in the order of a body's shape names; a `ValueError` where the profile is of another body."""
        if self.body != body:
            raise ValueError(f"{path}: is of the body {self.body!r}, the take uses {body!r}; make a profile with that body, or delete it")
        if unknown := [n for n in self.shape if n not in names]:
            raise ValueError(f"{path}: shape {unknown[0]!r} is none of the body's coefficients {list(names)}; make the profile again")
        return [self.shape.get(n, 0.0) for n in names]


def profile_file(take: Take, actor: str) -> Path:
    """Where an actor's profile lies: with the session's actors, or in a take's own folder `actors` where it has no session."""
    session = take.folder.resolve().parent.parent
    return (session if (session / "session.yaml").is_file() else take.folder) / "actors" / f"{actor}.yaml"


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 4) for k, v in values.items()}


def _numbers(path: Path, field: str, values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        raise ValueError(f"{path}: `{field}:` needs `coefficient: number` lines")
    for name, value in values.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{path}: `{field}: {name}: {value}` is not a finite number; correct it, or make the profile again")
    return {str(k): float(v) for k, v in values.items()}

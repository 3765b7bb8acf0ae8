"""Gates: questions to a calibration, each with a verdict, a number, its limit, a sentence and a remedy in words; and `quality.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from calibration.camera_file import read_text
from calibration.cameras import write_text

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Gate:
    """One question to a calibration and its answer."""

    name: str
    verdict: Verdict
    value: float
    """NaN where there is no number."""
    limit: float
    """Where `fail` begins."""
    sentence: str
    remedy: str = ""
    """What to do; empty where nothing is to be done."""


def verdict(value: float, limits: tuple[float, float]) -> Verdict:
    """The verdict on a number by the limits where `warn` and `fail` begin; more is worse where the second is larger. NaN fails."""
    warn, fail = limits
    if fail < warn:
        value, warn, fail = -value, -warn, -fail
    return "pass" if value <= warn else "warn" if value <= fail else "fail"


def passed(gates: Sequence[Gate]) -> bool:
    """Whether no gate fails."""
    return all(g.verdict != "fail" for g in gates)


def save_gates(path: Path, gates: Sequence[Gate], **facts: Any) -> None:
    """Write `quality.yaml`: the gates and facts such as the cameras' fingerprint."""
    listed = [{k: (None if isinstance(v, float) and not isfinite(v) else v) for k, v in asdict(g).items()} for g in gates]
    document = {"verdict": "pass" if passed(gates) else "fail", **facts, "gates": listed}
    write_text(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=140))


def load_gates(path: Path) -> tuple[tuple[Gate, ...], dict[str, Any]]:
    """The gates of a `quality.yaml` and its facts; a `ValueError` names the file when it is none."""
    try:
        document = yaml.safe_load(read_text(path))
        gates = tuple(Gate(**{**g, "value": _number(g["value"]), "limit": _number(g["limit"])}) for g in document["gates"])
        if wrong := [g.verdict for g in gates if g.verdict not in get_args(Verdict)]:
            raise ValueError(f"verdict {wrong[0]!r}")
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a quality report of a calibration ({error}); calibrate again, or delete it") from error
    return gates, {k: v for k, v in document.items() if k not in ("gates", "verdict")}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)

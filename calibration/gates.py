"""Gates: questions to a calibration, each with a verdict, a number, its limit, a sentence and a remedy in words; and `quality.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
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


def worst(*verdicts: Verdict) -> Verdict:
    """The gravest of some verdicts."""
    return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"


def passed(gates: Sequence[Gate]) -> bool:
    """Whether no gate fails."""
    return all(g.verdict != "fail" for g in gates)


def quality_file(cameras: Path) -> Path:
    """Where the gates of a camera file are kept: `quality.yaml` beside `cameras.yaml`, `rig.quality.yaml` beside `rig.yaml`."""
    return _beside(cameras, "quality.yaml")


def report_file(cameras: Path) -> Path:
    """Where the report of a calibration lies: `report.html` beside `cameras.yaml`, `rig.report.html` beside `rig.yaml`."""
    return _beside(cameras, "report.html")


def _beside(cameras: Path, name: str) -> Path:
    return cameras.with_name(name if cameras.stem == "cameras" else f"{cameras.stem}.{name}")


def save_gates(cameras: Path, gates: Sequence[Gate], **facts: Any) -> Path:
    """Write `quality_file` of a camera file: the gates, facts, and the hash of the cameras that they speak of; the file written."""
    listed = [{k: (None if isinstance(v, float) and not isfinite(v) else v) for k, v in asdict(g).items()} for g in gates]
    document = {"verdict": "pass" if passed(gates) else "fail", "cameras": _hash(cameras), **facts, "gates": listed}
    path = quality_file(cameras)
    write_text(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=140))
    return path


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


def gates_of(cameras: Path) -> tuple[tuple[Gate, ...], dict[str, Any]]:
    """The gates kept of a camera file, and the facts beside them; none where nothing is kept or that speaks of other cameras."""
    file = quality_file(cameras)
    if not (file.is_file() and cameras.is_file()):
        return (), {}
    gates, facts = load_gates(file)
    return (gates, facts) if facts.get("cameras") == _hash(cameras) else ((), {})


def doubts(cameras: Path) -> list[str]:
    """Sentences on the gates that a camera file failed; none where nothing is kept of these cameras."""
    gates, facts = gates_of(cameras)
    accepted = " (accepted by the operator)" if facts.get("accepted") else ""
    failed = [g for g in gates if g.verdict == "fail"]
    return [f"The calibration {cameras.name} failed its check {g.name!r}{accepted}. {g.sentence} {g.remedy}".rstrip() for g in failed]


def refuse_failed(cameras: Path) -> None:
    """A `ValueError` where a gate of these cameras fails and nobody has accepted that: what fails, what to do, and how to go on anyway."""
    gates, facts = gates_of(cameras)
    failed = [g for g in gates if g.verdict == "fail"]
    if not failed or facts.get("accepted"):
        return
    told = " ".join(f"{g.name}: {g.sentence} {g.remedy}".rstrip() for g in failed)
    raise ValueError(
        f"{cameras}: this calibration failed {len(failed)} of its {len(gates)} checks. {told} "
        f"Calibrate again; to use it as it is, `studio calibrate --accept --out {cameras}`, or --accept-calibration for this run"
    )


def place_for(cameras: Path, gates: Sequence[Gate], accepted: bool) -> Path:
    """Where a calibration with these gates may be written: `cameras`; or `cameras.refused.yaml` beside it, where a gate fails that nobody
    accepts and what is there already is not known to be as bad.
    """
    before, facts = gates_of(cameras)
    bad = not passed(before) and not facts.get("accepted")
    return cameras if passed(gates) or accepted or bad or not cameras.is_file() else cameras.with_name(f"{cameras.stem}.refused.yaml")


def told_refused(cameras: Path, written: Path) -> str:
    """What to say of a calibration that was written elsewhere than asked, as `place_for` says; empty where it was not."""
    if written == cameras:
        return ""
    return (
        f"{cameras} stays as it was, for a gate fails; what failed is in {written.name} and {report_file(written).name}. "
        "To replace the calibration all the same, give --accept"
    )


def accept(cameras: Path) -> tuple[Gate, ...]:
    """Keep in the camera file's `quality_file` that an operator accepts the gates that fail; those gates.

    A `FileNotFoundError` where nothing is kept of these cameras.
    """
    gates, facts = gates_of(cameras)
    if not gates:
        raise FileNotFoundError(f"{quality_file(cameras)}: holds no gates of {cameras.name} as it is now, so there is nothing to accept")
    save_gates(cameras, gates, **{**{k: v for k, v in facts.items() if k != "cameras"}, "accepted": not passed(gates)})
    return tuple(g for g in gates if g.verdict == "fail")


def add_gates(cameras: Path, added: Sequence[Gate]) -> Path:
    """Put gates among those kept of a camera file, in place of others of their names; what was accepted stays so unless a new one fails."""
    gates, facts = gates_of(cameras)
    names = {g.name for g in added}
    facts = {**{k: v for k, v in facts.items() if k != "cameras"}, "accepted": bool(facts.get("accepted")) and passed(added)}
    return save_gates(cameras, [*(g for g in gates if g.name not in names), *added], **facts)


def _hash(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else "absent"

"""Whether an artefact is still true: a record of what it was made from, compared by content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".m4v", ".webm", ".mts", ".mxf")


def stamp(inputs: Sequence[Path], config: Any) -> dict[str, Any]:
    """What an artefact must record to be known as fresh later: pass it on as `Stored.save(path, **stamp(inputs, config))`."""
    return {
        "inputs": [f"{p.name} {fingerprint(p)}" for p in inputs],
        "config": json.loads(json.dumps(config, default=plain, sort_keys=True)),
    }


def seal(path: Path, inputs: Sequence[Path], config: Any) -> None:
    """Record beside a folder, or a file with no header of ours, what it was made from."""
    write_text(_sidecar(path), json.dumps({**stamp(inputs, config), "output": fingerprint(path)}, indent=1))


def unseal(path: Path) -> None:
    """Forget what `path` was made from: it is about to change."""
    _sidecar(path).unlink(missing_ok=True)


def fresh(path: Path, inputs: Sequence[Path], config: Any) -> bool:
    """Whether the artefact is whole and made from these inputs as they are now with this config; also where it was sealed as absent."""
    if not all(p.exists() for p in inputs):
        return False
    wanted = stamp(inputs, config)
    if (sidecar := _sidecar(path)).is_file():
        try:
            found = json.loads(sidecar.read_text())
        except json.JSONDecodeError:
            return False
        return found.pop("output", None) == fingerprint(path) and found == wanted
    if path.suffix != ".safetensors" or not path.exists():
        return False
    from studio.values import Stored

    record = Stored.record(path)
    return {k: record.get(k) for k in wanted} == wanted


def fingerprint(path: Path) -> str:
    """A hash of content: every byte, but of videos size and 64 samples of 64 KiB; of a folder, all its files and their names."""
    digest = blake2b(digest_size=16)
    if not path.exists():
        return "absent"
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            digest.update(f"{file.relative_to(path)} {fingerprint(file)}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    block, samples = 1 << 16, 64
    sampled = path.suffix.lower() in VIDEO_SUFFIXES and size > samples * block
    digest.update(str(size).encode())
    with path.open("rb") as file:
        if sampled:
            for i in range(samples):
                file.seek(i * (size - block) // (samples - 1))
                digest.update(file.read(block))
        else:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> Path:
    """Write to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    temporary.replace(path)
    return path


def _sidecar(path: Path) -> Path:
    return path.parent / "notes" / "made" / f"{path.name}.json"


def plain(value: Any) -> Any:
    """The JSON value that stands for a config, path or tensor."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    numbers = getattr(value, "tolist", None)
    return numbers() if callable(numbers) else str(value)

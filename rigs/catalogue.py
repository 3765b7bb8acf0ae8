"""Every body the studio can open, by name or by file."""

from __future__ import annotations

from pathlib import Path

from rigs import makehuman, smpl
from rigs.body import Body


def open_body(name: str) -> Body:
    """The body called `name` (`makehuman`), or the one in a file: .npz of the SMPL family, or .safetensors of `Body.save`."""
    if name == "makehuman":
        return makehuman.load()
    path = Path(name).expanduser()
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"no body {name!r}; give 'makehuman', a .npz of the SMPL family, or a .safetensors written by Body.save")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such body file")
    return smpl.load(path) if path.suffix == ".npz" else Body.load(path)

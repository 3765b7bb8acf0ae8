"""Kinds of arguments that several verbs take."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]

PLAIN = (tyro.conf.FlagCreatePairsOff,)
"""`--force` without a `--no-force`."""


def writable(flag: str, file: Path) -> Path:
    """The file that an option names; a `ValueError` in words where nothing can be written there. Leaves nothing behind."""
    absent = [p for p in (file.parent, *file.parent.parents) if not p.exists()]
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        why = "it can hold no such folder" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        raise ValueError(f"{flag} {file}: cannot be written: {why}; see who may write there, or choose another place") from error
    finally:
        for folder in absent:
            if folder.is_dir():
                folder.rmdir()
    return file

"""Kinds of arguments that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]

PLAIN = (tyro.conf.FlagCreatePairsOff,)
"""`--force` without a `--no-force`."""

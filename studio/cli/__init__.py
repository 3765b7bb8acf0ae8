"""The command line: verbs to functions. Heavy modules are imported by the verb that needs them."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from studio.cli.adapting import adapt
from studio.cli.arguments import PLAIN
from studio.cli.calibration import board, calibrate, cameras, record, wizard
from studio.cli.characters import inspect
from studio.cli.learning import evaluate, train
from studio.cli.run import STAGES, run, stage
from studio.cli.session import actor, add_take, demo, doctor, new, settings, stream, virtual

EPILOG = """\
The two you need:
  studio demo
  studio run VIDEOS --cameras cameras.yaml --out takes/walk

`studio VERB --help` tells more; --debug after any verb shows tracebacks."""

VERBS: dict[str, Callable[..., Any]] = {
    "run": run, "demo": demo, "doctor": doctor, "new": new, "add-take": add_take, "settings": settings, "cameras": cameras,
    "virtual": virtual, "calibrate": calibrate, "train": train, "evaluate": evaluate, "adapt": adapt, "board": board,
    "inspect": inspect,
    "record": record,
    "wizard": wizard,
    "actor": actor, "stream": stream,
}  # fmt: skip

RESUMED = {"run", "demo", "calibrate", "virtual", "train", *STAGES}
"""Verbs that keep what is finished and go on from there when they are called again."""

PATHS = {
    errno.ENOENT: "no such file or folder; correct the path, or make the folder first that it is to lie in",
    errno.EISDIR: "is a folder; name a file",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path",
    errno.EEXIST: "exists already and is no folder; choose another path",
}
"""What to tell of a path that the system refused; of other reasons its own words."""


def main() -> None:
    """The `studio` command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill leaves no half files either
    sys.exit(call(sys.argv[1:]))


def call(argv: Sequence[str]) -> int:
    """Run a command line; 0, or 2 after a message for the user, 1 after a fault of ours, 130 when stopped."""
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        import studio

        print(studio.__version__)
        return 0
    try:
        return _dispatch(argv[0], argv[1:])
    except KeyboardInterrupt:
        kept = "; what is finished is kept, the same command goes on from there" if argv[0] in RESUMED else ""
        print(f"\nstopped{kept}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        told = _told(error)
        _complain(told or f"{type(error).__name__}: {error} (a fault of the studio: run again with --debug and report what it prints)")
        return 2 if told else 1


def _told(error: Exception) -> str:
    """What to tell the user of an error that is not a fault of the studio; empty for one that is."""
    if "No space left on device" in str(error):  # of the system, of safetensors and of PyAV alike
        return f"the disk is full ({error}): make room, or choose another --out; the same command goes on where it stopped"
    if isinstance(error, OSError) and error.filename and error.strerror:
        place = str(error.filename).replace(".partial", "")  # files are written under such a name first
        return f"{place}: {PATHS.get(error.errno or 0) or f'{error.strerror}; check the path and who may write there, or choose another'}"
    return str(error) if isinstance(error, (ValueError, OSError, ImportError)) else ""


def _dispatch(verb: str, rest: Sequence[str]) -> int:
    if verb in STAGES:
        stage(verb, rest)
        return 0
    if verb not in VERBS:
        raise ValueError(f"studio: no verb {verb!r}; there are {', '.join([*VERBS, *STAGES])}")
    if verb == "virtual":
        virtual(rest)
        return 0
    return tyro.cli(VERBS[verb], prog=f"studio {verb}", args=list(rest), config=PLAIN) or 0


def _overview() -> str:
    lines = [f"  {verb:<10} {(function.__doc__ or '').splitlines()[0]}" for verb, function in VERBS.items()]
    stages = [f"  {name:<10} {text}" for name, text in STAGES.items()]
    return "\n".join(
        ["usage: studio VERB ...", "", *lines, "", "The stages of `run`, one at a time, on a take's folder:", *stages, "", EPILOG]
    )


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(" ".join(message.split()), style="bold red"))

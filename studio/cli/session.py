"""Verbs around the takes: sessions, the demo, this machine, settings, virtual captures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from studio.cli.arguments import PLAIN, Text
from studio.take import Session, Take


def new(session: Positional[Path], /) -> None:
    """Make a session: a folder for the calibration and the takes of one camera setup.

    Args:
        session: the folder to make
    """
    if (session / "session.yaml").exists():
        raise FileExistsError(f"{session / 'session.yaml'}: exists already; edit it, or choose another folder")
    if (session / "take.yaml").exists():
        raise FileExistsError(f"{session}: is a take; make the session in another folder")
    made, wanted = Session(session).save(), session / "calibration/cameras.yaml"
    print(f"{made}: put the calibration at {wanted}, then `studio add-take {session} NAME VIDEOS`")


def add_take(session: Positional[Path], name: Positional[str], videos: Positional[tuple[Path, ...]], /, copy: bool = False) -> None:
    """Add a take to a session.

    Args:
        session: the session's folder
        name: the take's name
        videos: one video per camera, named after it, or a folder of them
        copy: copy the videos instead of linking to them
    """
    folder = Session.open(session).add(name, videos, copy)
    print(f"{folder}: run it with `studio run {folder}`")


def actor(take: Positional[Path], name: Text = None) -> None:
    """Learn an actor's body from a good take, once: later takes of the session keep it, and are steadier for it.

    Args:
        take: a take's folder that `studio run` has tracked, best a minute in which the actor moves every joint
        name: the actor; the take's only one by default
    """
    from studio.fit import learn_profile

    opened = Take.open(take)
    if name is None:
        name, *others = opened.actors
        if others:
            raise ValueError(f"{take}: has the actors {list(opened.actors)}; say which with --name")
    learn_profile(opened, name)


def stream(
    take: Positional[Path],
    /,
    to: str = "127.0.0.1",
    port: int = 39540,
    speed: float = 1.0,
    loop: bool = False,
    causal: bool = False,
    lag: int = 10,
) -> None:
    """Send a take's motion over the network as it plays: JSON over UDP, received in Blender by extras/blender_live.py.

    Args:
        take: a take's folder that has been fitted
        to: the computer that receives
        port: where it listens
        speed: 1 is the take's own rate
        loop: begin again, until stopped
        causal: fit the take's detections as they play, as a live studio would, instead of playing the fitted motion; tracks suffice
        lag: with --causal, frames between one that comes and the one that is sent; 0 is quickest, 10 as good as the whole take
    """
    from studio.fit.causal import CausalConfig
    from studio.stream import stream as send

    opened = Take.open(take)
    print(f"{take}: playing to {to}:{port}; Ctrl-C stops it")
    print(f"stream: {send(opened, to, port, speed, loop, CausalConfig(lag=lag) if causal else None)} frames sent")


def settings() -> None:
    """Print every stage's settings with their defaults as YAML, to save, edit and pass to `studio run --settings`."""
    import yaml

    from studio import pipeline
    from studio.settings import plain

    print(yaml.safe_dump(plain(pipeline.Config()), sort_keys=False), end="")


def doctor() -> int:
    """Check this machine: Python, libraries, networks, codecs, disk, and what to do about what is missing."""
    from studio.doctor import examine

    return examine()


def demo(out: Positional[Path] = Path("demo"), /, frames: int = 90, seed: int = 0, force: bool = False) -> None:
    """Render a virtual capture, run the whole job on it, and measure the result against the exact truth.

    Args:
        out: folder for it
        frames: how many frames
        seed: another seed, another person and performance
        force: do everything again
    """
    from studio.demo import demo

    demo(out, frames, seed, force)


def virtual(argv: Sequence[str]) -> None:
    """Render a virtual capture: videos, cameras.yaml and the exact truth."""
    from studio.virtual import VirtualCapture, render_capture

    def verb(out: Path, config: VirtualCapture) -> None:
        print(f"{render_capture(out, config)}: videos, cameras.yaml, truth.safetensors")

    verb.__annotations__ = {"out": Positional[Path], "config": Annotated[VirtualCapture, arg(name="")]}
    verb.__defaults__ = (VirtualCapture(),)
    tyro.cli(verb, prog="studio virtual", args=list(argv), description=virtual.__doc__, config=PLAIN)

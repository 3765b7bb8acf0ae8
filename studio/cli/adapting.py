"""The verb `adapt`: a studio's own takes improve its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from studio.cli.arguments import File, Text


def adapt(
    path: Annotated[Positional[Path], arg(metavar="SESSION|TAKE", help_behavior_hint="")],
    /,
    network: Literal["pose", "hourglass"] = "pose",
    weights: File = None,
    hold_out: Text = None,
    steps: int = 300,
    minutes: Annotated[float | None, arg(metavar="N", help_behavior_hint="")] = None,
    moments: int = 120,
    seed: int = 0,
) -> int:
    """Let a network learn from your own takes what all cameras together say; written only if a camera left out says it is better.

    Args:
        path: a session (all its takes that were run), or the folder of a take
        network: pose, the landmarks of bodies as mediapipe sees them; hourglass, our own
        weights: of hourglass: the checkpoint to begin from; the shipped one by default
        hold_out: the camera that has no say and judges in the end; the last by name by default
        steps: of the optimiser
        minutes: stop learning after this long, and judge
        moments: at most so many are looked at
        seed: another seed, other looks
    """
    from studio.train.adapt import Adapting
    from studio.train.adapt import adapt as adapted

    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; name a session, or the folder of a take that was run")
    if steps < 1 or moments < 1:
        raise ValueError(f"studio adapt: --steps {steps} --moments {moments}: each must be at least 1")
    config = Adapting(network, str(weights) if weights else "hourglass", hold_out, steps, minutes, seed, moments)
    return 0 if adapted(path, config) else 1

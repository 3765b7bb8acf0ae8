"""The verb `inspect`: what is in animators' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def inspect(
    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE...", help_behavior_hint="")],
    /,
    tree: Annotated[bool, arg(help_behavior_hint="")] = True,
) -> None:
    """What is in an FBX, BVH or GLB file: skeleton, rest pose, axes and unit, clips, skins, and problems.

    Args:
        files: the files to look into
        tree: print the summary alone, without every joint
    """
    from studio.inspect import report

    if not files:
        raise ValueError("studio inspect: needs FILE...: an FBX, BVH or GLB")
    for n, path in enumerate(files):
        print("\n".join([*([""] if n else []), *report(path, tree)]))

"""Animators' characters: what their files hold, read into one value."""

from __future__ import annotations

from pathlib import Path

from rigs.characters.character import Character, Clip, Mesh, Source

__all__ = ["READERS", "Character", "Clip", "Mesh", "Source", "read"]
READERS = (".fbx", ".bvh", ".glb", ".gltf")
"""Suffixes of files that `read` opens."""


def read(path: Path) -> Character:
    """The character in a file; a `FileNotFoundError` or a `ValueError` that names the file, what is wrong with it, and the remedy."""
    from rigs.characters import bvh, fbx, glb

    kind = path.suffix.lower()
    if kind not in READERS:
        raise ValueError(f"{path}: is none of {list(READERS)}; convert it with Blender or another tool to one of them")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return {".fbx": fbx.read, ".bvh": bvh.character, ".glb": glb.read, ".gltf": glb.read}[kind](path)

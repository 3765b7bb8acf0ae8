"""A take on somebody else's skeleton: the user's own character from a file, or a preset of a usual one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import characters
from rigs.alignment import rest_name
from rigs.body import Body
from rigs.bones import Mapping, mapped
from rigs.characters import Character, Clip, preset
from rigs.characters.character import resampled
from rigs.performed import Performed
from rigs.retarget import Fit, Hands, Options, retarget
from studio.export import character_bvh, character_fbx, character_glb, timecode
from studio.values import Motion

FORMATS = ("fbx", "bvh", "glb")
FAR = 0.02
"""A hand or foot farther from its goal than this is told, m."""


@dataclass(frozen=True)
class Target:
    """A skeleton to put performances on, as the user named it."""

    file: Path | None
    """The user's own FBX, BVH or GLB."""
    preset: str | None
    """The name of a preset, where there is no file."""

    def checked(self) -> Target:
        """The same; a `ValueError` or `FileNotFoundError` where it cannot be used, before any work is done."""
        if self.file is not None and self.preset is not None:
            raise ValueError(
                f"export: to_character ({self.file}) and preset ({self.preset}) are both set, perhaps one in the take's settings.yaml; "
                "take one back with `--to-character None` or `--preset None`"
            )
        if self.preset is not None and self.preset not in preset.names():
            raise ValueError(f"export: no preset {self.preset!r}; there are {', '.join(preset.names())}")
        if self.file is not None:
            character = characters.read(self.file)
            if not len(character):
                raise ValueError(f"{self.file}: holds no joints; export the character with its skeleton")
        return self

    def character(self, motion: Motion, body: Body) -> Character:
        """The character for one actor: a preset takes the actor's proportions."""
        if self.file is not None:
            return characters.read(self.file)
        return preset.named(str(self.preset), body.to(dtype=body.joints.dtype).shaped(motion.shape.to(body.joints.dtype)))


@dataclass(frozen=True)
class Onto:
    """One actor's performance on a character, ready to be written."""

    actor: str
    character: Character
    mapping: Mapping
    clip: Clip
    fit: Fit
    morphs: dict[str, Float[Tensor, "T"]]
    """Morph of the character -> weight over time, for those that are called like one of the body's face shapes."""
    hands: Hands = "body"

    @classmethod
    def of(
        cls,
        motion: Motion,
        body: Body,
        target: Target,
        options: Options,
        fps: float | None,
        timeline: Literal["timecode", "zero"] = "zero",
    ) -> Onto:
        """The motion put on the target, beginning at its timecode or at 0."""
        character = target.character(motion, body)
        mapping = mapped(character)
        shaped = body.shaped(motion.shape.to(body.joints.dtype))
        done = Performed.of(
            motion.actor, shaped, motion.rotation, motion.translation, motion.contacts, motion.fps, timecode=motion.timecode
        )
        clip, fit = retarget(done, character, mapping, options)
        clip = _begun(clip if fps is None else resampled(clip, fps), motion, timeline)
        wanted = {name.lower(): n for n, name in enumerate(body.expression_names)}
        faces = _sampled(motion.expression, motion.fps, clip)
        morphs = {m: faces[:, wanted[m.lower()]] for m in character.morphs if m.lower() in wanted}
        return cls(motion.actor, character, mapping, clip, fit, morphs, options.hands)

    def write(self, folder: Path, formats: tuple[str, ...], order: str, digits: int) -> list[Path]:
        """Write the chosen formats; the files' paths."""
        stem = f"{self.actor}_{self.character.name}"
        written = []
        if "fbx" in formats:
            written.append(character_fbx.write(folder / f"{stem}.fbx", self.character, self.clip, self.morphs))
        if "bvh" in formats:
            hips = self.mapping.joints["Hips"]
            written.append(character_bvh.write(folder / f"{stem}.bvh", self.character, self.clip, hips, order, digits))
        if "glb" in formats:
            written.append(character_glb.write(folder / f"{stem}.glb", self.character, self.clip, self.morphs))
        return written

    def remarks(self) -> list[str]:
        """What a user should know of the fit, in plain sentences."""
        found = [f"{self.actor}: {note}" for note in self.mapping.notes]
        if odd := list(self.character.problems):
            more = f" ({len(odd) - 1} more: `studio inspect` tells)" if len(odd) > 1 else ""
            found.append(f"{self.actor}: {self.character.source.path or self.character.name}: {odd[0]}{more}")
        rest = rest_name(self.character, self.mapping)
        if rest not in ("T", "A"):
            found.append(f"{self.actor}: {self.character.name} rests with {rest}; a T- or A-pose retargets better")
        far = {part: away for part, away in self.fit.reached.items() if away > FAR}
        if far:
            told = ", ".join(f"{part} {1000 * away:.0f} mm" for part, away in far.items())
            room = "; they point at their goals, `--hands body` asks for nearer ones" if self.hands == "world" else ""
            found.append(f"{self.actor}: limbs of {self.character.name} are too short to reach by up to {told}{room}")
        return found

    def summary(self) -> str:
        """One line for the console."""
        parts = f"{55 - len(self.mapping.missing)} of 55 parts by {self.mapping.convention} names"
        if self.mapping.convention == "by shape":
            parts = f"{55 - len(self.mapping.missing)} of 55 parts by shape"
        return f"{self.actor} on {self.character.name}: {parts}, paths scaled by {self.fit.scale:.3f}"


def _begun(clip: Clip, motion: Motion, timeline: Literal["timecode", "zero"]) -> Clip:
    """The clip with its first frame at the motion's timecode, on a frame of the clip's rate, or at 0."""
    if timeline == "zero":
        return replace(clip, start=0.0, timecode="")
    first = timecode.frames(motion.timecode, motion.fps) + motion.first_frame
    return replace(clip, start=round(first * clip.fps / motion.fps) / clip.fps)


def _sampled(values: Float[Tensor, "T E"], fps: float, clip: Clip) -> Float[Tensor, "N E"]:
    """Values at the clip's frames, linearly between their own."""
    at = (torch.arange(clip.frames, dtype=torch.float64) * fps / clip.fps).clamp(max=len(values) - 1)
    before = at.floor().long()
    after = (before + 1).clamp(max=len(values) - 1)
    return torch.lerp(values[before].double(), values[after].double(), (at - before)[:, None])

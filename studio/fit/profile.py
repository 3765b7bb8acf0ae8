"""The shape of an actor: learned once from a good take, then known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from rich import print as say
from torch import Tensor

from rigs.body import Body
from rigs.catalogue import open_body
from studio.actor import Profile, profile_file
from studio.clock import footage
from studio.fit.config import FitConfig
from studio.fit.masks import masks_folder
from studio.fit.person import Fitter, one_thread
from studio.fit.stored_take import StoredTake
from studio.take import Take
from studio.values import Tracks3D

KEY_FRAMES = 160
"""Three times what a take without a profile is given: this is done once."""


def known_shape(take: Take, actor: str, body: Body) -> Float[Tensor, "S"] | None:
    """The shape in an actor's profile; None where there is none."""
    path = profile_file(take, actor)
    if not path.is_file():
        return None
    return torch.tensor(Profile.load(path).fits(path, body.name, body.shape_names))


def learn_profile(take: Take, actor: str, config: FitConfig | None = None) -> Path:
    """Solves an actor's shape from a tracked take and writes the profile, which the actor's later takes use; the file.

    A `ValueError` says why a take cannot give one.
    """
    if not take.tracks_file.is_file():
        raise FileNotFoundError(f"{take.tracks_file}: no tracks yet; `studio run {take.folder}` makes them")
    actors = Tracks3D.load(take.tracks_file, slice(0, 1)).actors
    if actor not in actors:
        raise ValueError(f"{take.tracks_file}: no actor {actor!r}; there are {list(actors)}")
    body, cameras = open_body(take.body), take.cameras()
    if not body.shape_names:
        raise ValueError(f"{take.folder}: the body {take.body!r} has no shape to learn")
    config = replace(config or FitConfig(), key_frames=KEY_FRAMES)
    masks = take if (config.mask_shape or config.volume) and masks_folder(take).is_dir() else None
    frames = Tracks3D.count(take.tracks_file)
    source = StoredTake(cameras, footage(take, cameras.names), take.tracks_file, actors.index(actor), frames, masks=masks)
    if int((source.coverage() > 0).sum()) < 10:
        raise ValueError(f"{take.tracks_file}: {actor!r} is seen in fewer than 10 frames; film a good minute of the actor alone")
    with one_thread():
        shape, sigma = Fitter(body, source[slice(0, 1)], config).shape(source)
    named = lambda values: dict(zip(body.shape_names, values.tolist()))  # noqa: E731
    profile = Profile(actor, body.name, named(shape), named(sigma), min(KEY_FRAMES, len(source)), (take.folder.resolve().name,))
    path = profile.save(profile_file(take, actor))
    told = float((sigma < 0.5).double().mean())
    say(f"actor: {actor}'s shape from {profile.frames} frames, {told:.0%} of its coefficients told by the footage -> {path}")
    return path

"""The stage that fits a body to every actor of a take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from rigs.body import Body
from rigs.catalogue import open_body
from rigs.rotation import log
from studio.actor import profile_file
from studio.clock import footage
from studio.edits import Edits, plain
from studio.fit.again import recipe, solved_again, spliced, touched
from studio.fit.config import FitConfig
from studio.fit.masks import masks_folder
from studio.fit.observed import Observed
from studio.fit.person import Fitted, Fitter, fit_actor
from studio.fit.profile import known_shape, learn_profile
from studio.fit.skin import see_skin
from studio.fit.stored_take import StoredTake
from studio.freshness import fingerprint
from studio.take import Take
from studio.values import Motion, Tracks3D

__all__ = ["FitConfig", "Fitted", "Observed", "StoredTake", "fit", "fit_actor", "learn_profile"]
console = Console(highlight=False)


def fit(take: Take, config: FitConfig) -> Path:
    """Fit the take's body to every actor; writes `motion_<actor>.safetensors` for each and returns the first.

    An actor whom no two cameras saw gets no motion and a warning; a `ValueError` where that is everyone.
    """
    body, cameras = open_body(take.body), take.cameras()
    tracks = Tracks3D.load(take.tracks_file, slice(0, 1))
    frames = Tracks3D.count(take.tracks_file)
    edits = Edits.load(take.folder, cameras.names, tracks.keypoints, tracks.actors)
    shared, masks = recipe(take, config), take if config.silhouette and masks_folder(take).is_dir() else None
    skin = take if config.dense else None
    if skin is not None:
        see_skin(take, body)
    warnings: list[str] = []
    written: list[Path] = []
    again: list[str] = []
    begun = time.monotonic()
    with Progress(console=console, transient=True) as progress:
        for a, actor in enumerate(tracks.actors):
            seen = footage(take, cameras.names)
            source = StoredTake(cameras, seen, take.tracks_file, a, frames, edits.of(actor), tracks.first_frame, masks, skin)
            if not bool(source.coverage().any()):
                warnings.append(
                    f"{actor}: no two cameras agree on this actor in any frame: no motion. Is everyone in view? See the overlays."
                )
                continue
            task = progress.add_task(f"fit {actor}", total=frames)
            made_from = {**shared, "profile": fingerprint(profile_file(take, actor))}
            fitted, motion, solved = _fitted(take, body, source, config, tracks, made_from, lambda n, task=task: progress.advance(task, n))
            motion.save(take.motion_file(actor), base=made_from, edits=plain(source.edits))
            written.append(take.motion_file(actor))
            warnings += [f"{actor}: {line}" for line in doubts(body, fitted)]
            again += [f"{actor} {solved} frames"] if solved is not None else []
    take.note("fit", warnings, seconds=round(time.monotonic() - begun, 1), frames=frames)
    if not written:
        raise ValueError(
            f"{take.tracks_file}: no actor is seen by two cameras in any frame; check the videos, the camera file and the frame range"
        )
    told = f"; solved again: {', '.join(again)}" if again else ""
    console.print(f"fit: {frames} frames, {len(written)} of {len(tracks.actors)} actors, {time.monotonic() - begun:.1f} s{told}")
    return written[0]


def _fitted(
    take: Take,
    body: Body,
    source: StoredTake,
    config: FitConfig,
    tracks: Tracks3D,
    made_from: dict[str, Any],
    advance: Callable[[int], None],
) -> tuple[Fitted, Motion, int | None]:
    """One actor's fit and motion; and how many frames were solved again, None where all were."""
    actor = tracks.actors[source.actor]
    path = take.motion_file(actor)
    changes = touched(path, made_from, source.edits, source.first, len(source))
    if changes is None:
        fitted = fit_actor(body, source, config, known_shape(take, actor, body), advance)
        return fitted, bound(body, fitted, actor, tracks, take.timecode), None
    old = Motion.load(path)
    fitted = solved_again(Fitter(body, source[:1], config).sat(source), source, old, changes)
    motion = spliced(old, bound(body, fitted, actor, tracks, take.timecode), changes.spans)
    return fitted, motion, changes.count


def bound(body: Body, fitted: Fitted, actor: str, tracks: Tracks3D, timecode: str) -> Motion:
    """A fit as the animation of one actor."""
    state = fitted.state
    rotations = log(state.R)
    for name, value in (("rotation", rotations), ("translation", state.root), ("expression", state.expression), ("sigma", fitted.sigma)):
        if not bool(torch.isfinite(value).all()):
            frame = int((~torch.isfinite(value.flatten(1))).any(1).nonzero()[0])
            raise FloatingPointError(
                f"fit of {actor}: {name} is not finite in frame {frame}; please report this with the take's tracks3d.safetensors"
            )
    cpu = lambda x: x.detach().float().cpu()  # noqa: E731
    return Motion(
        body.name, actor, body.skeleton.names, tracks.fps, tracks.first_frame, timecode, cpu(fitted.shape), cpu(state.root), cpu(rotations),
        cpu(state.expression), cpu(fitted.sigma), cpu(fitted.contacts),
    )  # fmt: skip


def doubts(body: Body, fitted: Fitted) -> list[str]:
    """What an operator should look at, in words."""
    found = []
    for name, value in zip(body.shape_names, fitted.shape.tolist()):
        if abs(value) > 3.5:
            found.append(f"shape coefficient {name} is {value:+.1f} standard deviations: is the calibration's scale right?")
    return found

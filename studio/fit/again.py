"""After an edit only the frames around it are solved again; the others stay as they were."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

import studio
from rigs.rotation import exp
from studio.clock import FILE as SYNC_FILE
from studio.edits import Edits, changed, remembered
from studio.fit.config import FitConfig
from studio.fit.masks import masks_folder
from studio.fit.observed import Source
from studio.fit.person import Fitted, Fitter, one_thread
from studio.fit.state import State
from studio.freshness import stamp
from studio.take import Take
from studio.values import Motion

MOST = 0.8
"""Where more than this share of a take would be solved again, all of it is, its shape too."""


def recipe(take: Take, config: FitConfig) -> dict[str, Any]:
    """All that a take's fits are made from but the actors' profiles and the edits."""
    clocks = take.folder / SYNC_FILE
    inputs = [p for p in (take.tracks_file, take.keypoints_folder, masks_folder(take), take.cameras_file, clocks) if p.exists()]
    strengths = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "workers"}
    return stamp(inputs, {"take": take.facts, "config": strengths, "studio": studio.__version__, "contacts": 8})


def touched(path: Path, base: dict[str, Any], edits: Edits, first: int, frames: int, halo: int) -> list[slice] | None:
    """The frames to solve again for an actor's motion file to hold with these edits; None where it was not made from the same `base`.

    An edit reaches `halo` frames beyond itself.
    """
    if not path.is_file():
        return None
    try:
        record = Motion.record(path)
        if record.get("base") != base or Motion.count(path) != frames:
            return None
        before = remembered(record.get("edits", []))
    except (ValueError, TypeError, KeyError):
        return None
    spans: list[slice] = []
    for a, z in changed(before, edits, first, frames):
        low, high = max(0, a - halo), min(frames, z + halo)
        if spans and low <= spans[-1].stop:
            low = spans.pop().start
        spans.append(slice(low, high))
    return spans if sum(s.stop - s.start for s in spans) <= MOST * frames else None


def solved_again(fitter: Fitter, observed: Source, motion: Motion, spans: list[slice]) -> Fitted:
    """The motion with some stretches solved again, each with a halo that is solved but not kept; the shape stays."""
    to = lambda x: x.to(fitter.device)  # noqa: E731
    shape, halo = to(motion.shape), fitter.config.halo
    state = State(exp(to(motion.rotation)), to(motion.translation), to(motion.expression))
    sigma, contacts = to(motion.sigma).clone(), to(motion.contacts).clone()
    with one_thread():
        for span in spans:
            low, high = max(0, span.start - halo), min(len(state), span.stop + halo)
            part, s, c = fitter.stretch(observed[low:high], shape)
            own = slice(span.start - low, span.stop - low)
            state = state.replaced(span, part[own])
            sigma[span], contacts[span] = s[own], c[own]
    state = replace(state, expression=state.expression.clamp(0, 1))
    return Fitted(shape, torch.full_like(shape, torch.nan), state, sigma, contacts)


def spliced(old: Motion, new: Motion, spans: list[slice]) -> Motion:
    """The old motion, to the last bit, with the new one's frames in `spans`."""
    values = {}
    for name in ("translation", "rotation", "expression", "sigma", "contacts"):
        values[name] = getattr(old, name).clone()
        for span in spans:
            values[name][span] = getattr(new, name)[span]
    return replace(old, **values)

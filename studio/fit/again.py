"""After an edit only the frames around it are solved again; the others stay as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

import studio
from rigs.rotation import exp
from studio.clock import FILE as SYNC_FILE
from studio.edits import Edits, changed, remembered
from studio.fit.config import FitConfig
from studio.fit.earlier import Earlier
from studio.fit.masks import masks_folder
from studio.fit.observed import Source
from studio.fit.person import Fitted, Fitter, one_thread
from studio.fit.state import State
from studio.freshness import stamp
from studio.take import Take
from studio.values import Motion

MOST = 0.8
"""Where more than this share of a take would be solved again, all of it is, its shape too."""
REACH = 16
"""How many frames beyond itself an edit is felt: by less than a millimetre further away."""
BOUND = 3
"""Frames on either side that are solved along with a stretch and held where they were: smoothness joins three."""
AROUND = 256
"""How many frames on either side of a stretch tell where the floor is and how long a foot has stood."""


def recipe(take: Take, config: FitConfig) -> dict[str, Any]:
    """All that a take's fits are made from but the actors' profiles and the edits."""
    clocks = take.folder / SYNC_FILE
    inputs = [p for p in (take.tracks_file, take.keypoints_folder, masks_folder(take), take.cameras_file, clocks) if p.exists()]
    strengths = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "workers"}
    return stamp(inputs, {"take": take.facts, "config": strengths, "studio": studio.__version__, "contacts": 8})


@dataclass(frozen=True)
class Touched:
    """What edits change."""

    spans: tuple[slice, ...]
    """Stretches to solve again."""
    fresh: Bool[Tensor, "T"]
    """Frames that edits speak of."""

    @property
    def count(self) -> int:
        """Frames to solve again."""
        return sum(s.stop - s.start for s in self.spans)


def touched(path: Path, base: dict[str, Any], edits: Edits, first: int, frames: int) -> Touched | None:
    """What to solve again for an actor's motion file to hold with these edits; None where it was not made from the same `base`.

    An edit is felt `REACH` frames beyond itself.
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
    fresh = torch.zeros(frames, dtype=torch.bool)
    for a, z in changed(before, edits, first, frames):
        fresh[a:z] = True
        low, high = max(0, a - REACH), min(frames, z + REACH)
        if spans and low <= spans[-1].stop + 2 * BOUND:
            low = spans.pop().start
        spans.append(slice(low, high))
    found = Touched(tuple(spans), fresh)
    return found if found.count <= MOST * frames else None


def solved_again(fitter: Fitter, observed: Source, motion: Motion, changes: Touched) -> Fitted:
    """The motion with some stretches solved again, each begun and held at both ends where it was; the shape stays."""
    to = lambda x: x.to(fitter.device)  # noqa: E731
    shape = to(motion.shape)
    state = State(exp(to(motion.rotation)), to(motion.translation), to(motion.expression))
    sigma, contacts = to(motion.sigma).clone(), to(motion.contacts).clone()
    with one_thread():
        for span in changes.spans:
            low, high = max(0, span.start - BOUND), min(len(state), span.stop + BOUND)
            part, s, c = fitter.stretch(observed[low:high], shape, _earlier(fitter, shape, state, changes, span, slice(low, high)))
            own = slice(span.start - low, span.stop - low)
            state = state.replaced(span, part[own])
            sigma[span], contacts[span] = s[own], c[own]
    state = replace(state, expression=state.expression.clamp(0, 1))
    return Fitted(shape, torch.full_like(shape, torch.nan), state, sigma, contacts)


def _earlier(fitter: Fitter, shape: Tensor, state: State, changes: Touched, own: slice, whole: slice) -> Earlier:
    wide = slice(max(0, whole.start - AROUND), min(len(state), whole.stop + AROUND))
    points = fitter.model.place(state[wide], shape).points
    before, after = (points[: whole.start - wide.start], points[whole.stop - wide.start :])
    bound = torch.ones(whole.stop - whole.start, dtype=torch.bool, device=fitter.device)
    bound[own.start - whole.start : own.stop - whole.start] = False
    held = points[whole.start - wide.start : whole.stop - wide.start]
    return Earlier(state[whole], held, changes.fresh[whole].to(fitter.device), bound, before, after)


def spliced(old: Motion, new: Motion, spans: Sequence[slice]) -> Motion:
    """The old motion, to the last bit, with the new one's frames in `spans`."""
    values = {}
    for name in ("translation", "rotation", "expression", "sigma", "contacts"):
        values[name] = getattr(old, name).clone()
        for span in spans:
            values[name][span] = getattr(new, name)[span]
    return replace(old, **values)

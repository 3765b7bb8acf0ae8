"""Long takes are solved in overlapping windows, side by side, and joined without a seam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from studio.fit.state import State

FADE = 8
"""Frames on either side of a seam over which one window's poses pass into the next one's."""


def windows(frames: int, size: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Stretches to solve, and the part of each that is kept."""
    for a in range(0, frames, size):
        z = min(frames, a + size)
        low, high = max(0, a - halo), min(frames, z + halo)
        yield slice(low, high), slice(a - low, z - low)


def faded(parts: Sequence[tuple[State, slice]]) -> State:
    """One state from windows and the part of each that is kept; around seams both windows have a say."""
    state, at = State.joined([whole[kept] for whole, kept in parts]), 0
    for (one, kept), (other, after) in pairwise(parts):
        at += kept.stop - kept.start
        reach = min(FADE, len(one) - kept.stop, after.start, kept.stop, len(other) - after.start)
        if reach < 1:
            continue
        before, behind = (x[i - reach : i + reach] for x, i in ((one, kept.stop), (other, after.start)))
        share = (torch.arange(2 * reach, device=state.root.device) + 0.5) / (2 * reach)
        state = state.replaced(slice(at - reach, at + reach), before.towards(behind, share * share * (3 - 2 * share)))
    return state

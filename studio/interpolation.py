"""Keypoints between two video frames: which detections belong together, and where they were in between."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rigs.keypoints import mirrored

EXACT = 0.02
"""A moment this near to a frame, in frames, is that frame's."""
GAP = 3.5
"""Frames further apart than this many usual steps are not joined."""
SAME = 0.5
"""A detection in the next frame is the same person where it moved by less than this part of its size."""


@dataclass(frozen=True)
class Track2D:
    """What one camera saw."""

    pixels: Float[Tensor, "T D K 2"]
    sigma: Float[Tensor, "T D K"]
    confidence: Float[Tensor, "T D K"]
    skeleton: Float[Tensor, "T D K 3"] | None = None
    look: Float[Tensor, "T D H"] | None = None

    def at(self, frames: Int[Tensor, "n"], detection: Int[Tensor, "n D"]) -> Track2D:
        """Some frames, their detections put in an order; -1 for not seen."""

        def picked(values: Tensor, empty: float) -> Tensor:
            index = detection.clamp_min(0).view(*detection.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
            there = (detection >= 0).view(*detection.shape, *(1,) * (values.ndim - 2))
            return torch.where(there, values[frames].gather(1, index), empty)

        skeleton, look = (None if v is None else picked(v, torch.nan) for v in (self.skeleton, self.look))
        return Track2D(picked(self.pixels, torch.nan), picked(self.sigma, torch.inf), picked(self.confidence, 0.0), skeleton, look)

    @property
    def seen(self) -> Bool[Tensor, "T D K"]:
        """Where there is something."""
        return torch.isfinite(self.pixels).all(-1) & torch.isfinite(self.sigma) & (self.confidence > 0)


def same_people(one: Track2D, other: Track2D) -> Int[Tensor, "T D"]:
    """Which detection of `other` shows the same person as each of `one`, frame by frame; -1 for none. Nearest pairs first."""
    both = one.seen[:, :, None] & other.seen[:, None]
    step = (other.pixels[:, None] - one.pixels[:, :, None]).norm(dim=-1)
    cost = torch.where(both, step, torch.nan).nanmedian(-1).values
    low, high = (torch.where(one.seen[..., None], sign * one.pixels, -torch.inf).amax(2) for sign in (-1.0, 1.0))
    size = (high + low).norm(dim=-1)
    cost = torch.where(cost < SAME * size[:, :, None], cost, torch.inf)
    T, D, E = cost.shape
    match = torch.full((T, D), -1)
    rows = torch.arange(T)
    for _ in range(min(D, E)):
        best = cost.view(T, -1).argmin(1)
        i, j = best // E, best % E
        fits = torch.isfinite(cost[rows, i, j])
        match[rows[fits], i[fits]] = j[fits]
        cost = cost.clone()
        cost[rows, i, :] = torch.inf
        cost[rows, :, j] = torch.inf
    return match


def between(track: Track2D, times: Float[Tensor, "T"], wanted: Float[Tensor, "n"], names: tuple[str, ...], slots: bool = False) -> Track2D:
    """The track at the moments `wanted` (ascending, on the clock of `times`, s); not seen where a neighbour is missing.

    A person is whoever lies where he was, and frames far apart are not joined; with `slots` he is the same detection in all frames, and all
    are joined. A cubic through four frames (Catmull and Rom 1974, for uneven steps: Hermite with three-point slopes) where all are seen,
    else a line. Sigma grows by a quarter of what the cubic bends off the line, or by a tenth of the step where nothing tells the bend.
    """
    T, D = track.pixels.shape[:2]
    if T == 0 or D == 0:
        return _nothing(track, len(wanted))
    usual = float(times.diff().median()) if T > 1 else 1.0
    low = (torch.searchsorted(times, wanted, right=True) - 1).clamp(0, max(T - 2, 0))
    high = (low + 1).clamp_max(T - 1)
    step = (times[high] - times[low]).clamp_min(1e-9) if T > 1 else torch.full_like(wanted, usual)
    part = (wanted - times[low]) / step
    near = EXACT * usual / step
    outside = (part < -near) | (part > 1 + near)
    base = torch.where(part > 0.5, high, low)
    chain = _chain(track, low, high, base, slots)
    part = part.clamp(0, 1)
    spots = [times[i] for i in _around(low, high, T)]
    joined = ((step < GAP * usual) | slots)[:, None, None] & ~_exchanged(chain[1], chain[2], names)
    made = _curve(chain, spots, part, joined)
    exact = ((part <= near) | (part >= 1 - near))[:, None, None]
    own = track.at(base, torch.arange(D).expand(len(wanted), -1))
    usable = ~outside[:, None, None]
    skeleton = None
    if made.skeleton is not None and own.skeleton is not None:
        skeleton = torch.where(usable[..., None], torch.where(exact[..., None], own.skeleton, made.skeleton), torch.nan)
    return Track2D(
        torch.where(usable[..., None], torch.where(exact[..., None], own.pixels, made.pixels), torch.nan),
        torch.where(usable, torch.where(exact, own.sigma, made.sigma), torch.inf),
        torch.where(usable, torch.where(exact, own.confidence, made.confidence), 0.0),
        skeleton,
        own.look,  # colours are those of the nearest frame
    )


def _nothing(track: Track2D, n: int) -> Track2D:
    """Nothing seen at n moments, of as many detections as the track has."""
    grow = lambda x, e: x.new_full((n, *x.shape[1:]), e)  # noqa: E731
    skeleton, look = (None if v is None else grow(v, torch.nan) for v in (track.skeleton, track.look))
    return Track2D(grow(track.pixels, torch.nan), grow(track.sigma, torch.inf), grow(track.confidence, 0.0), skeleton, look)


def _around(low: Int[Tensor, "n"], high: Int[Tensor, "n"], T: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (low - 1).clamp_min(0), low, high, (high + 1).clamp_max(T - 1)


def _chain(track: Track2D, low: Tensor, high: Tensor, base: Tensor, slots: bool) -> list[Track2D]:
    """The frames before, at, after and behind each moment, detections in the order of the nearest frame (`base`)."""
    T, D = track.pixels.shape[:2]
    straight = torch.arange(D).expand(len(low), -1)
    followed = same_people if not slots else lambda _one, _other: straight
    before, _, _, behind = _around(low, high, T)
    first, second = track.at(low, straight), track.at(high, straight)
    onward, backward = followed(first, second), followed(second, first)
    is_low = (base == low)[:, None]
    at_low = torch.where(is_low, straight, backward)
    at_high = torch.where(is_low, onward, straight)
    one, two = track.at(low, at_low), track.at(high, at_high)
    zero, three = track.at(before, straight), track.at(behind, straight)
    # The outermost frames have no neighbour beyond them.
    no_before, no_behind = (before == low)[:, None], (behind == high)[:, None]
    zero = track.at(before, torch.where(no_before, -1, followed(one, zero)))
    three = track.at(behind, torch.where(no_behind, -1, followed(two, three)))
    return [zero, one, two, three]


def _exchanged(one: Track2D, two: Track2D, names: tuple[str, ...]) -> Bool[Tensor, "n D K"]:
    """Keypoints whose left and right the network exchanged from one frame to the next: nothing lies between those."""
    other = torch.tensor(mirrored(names))
    straight = (two.pixels - one.pixels).norm(dim=-1)
    crossed = (two.pixels[:, :, other] - one.pixels).norm(dim=-1)
    straight, crossed = straight + straight[..., other], crossed + crossed[..., other]
    noise = one.sigma + two.sigma + (one.sigma + two.sigma)[..., other]
    return (crossed < 0.5 * straight) & (straight > 4 * noise) & (other != torch.arange(len(other)))


def _curve(chain: list[Track2D], spots: list[Float[Tensor, "n"]], part: Float[Tensor, "n"], joined: Bool[Tensor, "n D K"]) -> Track2D:
    """Values between the two inner frames of each chain, at `part` of the way."""
    zero, one, two, three = chain
    a = part.float()[:, None, None]
    h = [(later - earlier).clamp_min(1e-9).float()[:, None, None, None] for earlier, later in pairwise(spots)]
    p, q = one.pixels, two.pixels
    line = p + a[..., None] * (q - p)
    slope_p = ((p - zero.pixels) / h[0] * h[1] + (q - p) / h[1] * h[0]) / (h[0] + h[1]) * h[1]
    slope_q = ((q - p) / h[1] * h[2] + (three.pixels - q) / h[2] * h[1]) / (h[1] + h[2]) * h[1]
    b = a[..., None]
    cubic = (1 + 2 * b) * (1 - b) ** 2 * p + b * (1 - b) ** 2 * slope_p + b * b * (3 - 2 * b) * q - b * b * (1 - b) * slope_q
    whole = torch.isfinite(cubic).all(-1)
    # An end of the chain that leapt to another place says nothing of the path between.
    bend, step = (cubic - line).norm(dim=-1), (q - p).norm(dim=-1)
    whole &= bend < 0.5 * step + one.sigma
    hidden = torch.where(whole, 0.25 * bend, 0.1 * step * 4 * a * (1 - a))
    seen = one.seen & two.seen & joined
    sigma = ((1 - a) * one.sigma.square() + a * two.sigma.square() + hidden.square()).sqrt()
    confidence = (1 - a) * one.confidence + a * two.confidence
    skeleton = None
    if one.skeleton is not None and two.skeleton is not None:
        skeleton = torch.where(seen[..., None], one.skeleton + a[..., None] * (two.skeleton - one.skeleton), torch.nan)
    return Track2D(
        torch.where(seen[..., None], torch.where(whole[..., None], cubic, line), torch.nan),
        torch.where(seen, sigma, torch.inf),
        torch.where(seen, confidence, 0.0),
        skeleton,
    )

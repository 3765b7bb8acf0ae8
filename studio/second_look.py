"""Views in which an actor was missed, found once it is known where everybody was before and after.

While people are followed, only what came before can be asked, and looks must tell neighbours apart: where people cross, a view is often
left out. Looking back, the place alone tells: what nobody took and what lies where an actor surely was, and nobody else, is that actor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from studio.casting import Cast
from studio.matching import FAR, Expected, Sighting, assigned, bodies, distance
from studio.people import IdentityConfig

NEAR, LONELY, CLEAR = 0.05, 0.08, 1.5
"""How near, m, a detection must be to an actor whom two views see (one that a neighbour is mixed into does more harm than good) and to one
whom fewer see; and how many times further from everybody else."""


def completed(
    found: Cast,
    sight: Callable[[slice], Float[np.ndarray, "C T D M 3"]],
    position: Float[np.ndarray, "C 3"],
    fps: float,
    config: IdentityConfig,
    block: int,
) -> Cast:
    """The cast with the views that were missed. `sight` gives unit rays through the marks of a stretch of frames."""
    T, A = found.place.shape[:2]
    if not A:
        return found
    detection = found.detection.numpy()
    margin = max(1, round(config.memory * fps))
    added = detection.copy()
    for start in range(0, T, block):
        low, stop = max(start - margin, 0), min(start + block, T)
        whole = slice(low, min(stop + margin, T))
        rays, chosen = sight(whole), detection[:, whole]
        free = _free(rays, chosen)
        asked = np.flatnonzero((free.any(2) & (chosen < 0).any(2)).any(0))  # of a person alone mostly none
        asked = asked[(asked >= start - low) & (asked < stop - low)]
        marks = bridged(_marks(rays, position, chosen), margin) if len(asked) else np.zeros(0)
        for t in asked:
            more = _missed(Sighting(rays[:, t], position), marks[t], chosen[:, t].T, free[:, t])
            added[:, low + t] = np.where(more >= 0, more, chosen[:, t].T).T
    return found._replace(detection=torch.from_numpy(added))


def _free(rays: Float[np.ndarray, "C T D M 3"], chosen: Int[np.ndarray, "C T A"]) -> Bool[np.ndarray, "C T D"]:
    """Detections of somebody whom nobody took."""
    taken = (chosen[..., None] == np.arange(rays.shape[2])).any(2)
    return (np.isfinite(rays).all(-1).sum(-1) >= 3) & ~taken


def _marks(rays: Float[np.ndarray, "C T D M 3"], position: Float[np.ndarray, "C 3"], chosen: Int[np.ndarray, "C T A"]) -> np.ndarray:
    """Marks (T, A, M, 3) of frames in which two views or more saw an actor, m; NaN in others."""
    T, A = chosen.shape[1:]
    out = np.full((T, A, rays.shape[3], 3), np.nan)
    nothing = Expected(np.full(out.shape[1:], np.nan), np.ones(A))
    for t in range(T):
        one = Sighting(rays[:, t], position)
        enough = (chosen[:, t] >= 0).sum(0) >= 2
        if enough.any():
            out[t] = np.where(enough[:, None, None], bodies(one, one.planes(), chosen[:, t].T, nothing), np.nan)
    return out


def bridged(marks: Float[np.ndarray, "T A M 3"], margin: int) -> Float[np.ndarray, "T A M 3"]:
    """Marks that are not known lie on the straight way between the last and the next that are, `margin` frames apart at most."""
    out, T = marks.copy(), np.arange(len(marks))
    known = np.asarray(np.isfinite(marks).all(-1))
    for a, m in np.ndindex(known.shape[1:]):
        there = np.flatnonzero(known[:, a, m])
        if len(there) < 2:
            continue
        after = np.searchsorted(there, T).clip(1, len(there) - 1)
        gap = (T > there[0]) & (T < there[-1]) & (there[after] - there[after - 1] <= margin) & ~known[:, a, m]
        for axis in range(3):
            out[gap, a, m, axis] = np.interp(T[gap], there, marks[there, a, m, axis])
    return out


def _missed(
    sight: Sighting, marks: Float[np.ndarray, "A M 3"], chosen: Int[np.ndarray, "A C"], free: Bool[np.ndarray, "C D"]
) -> Int[np.ndarray, "A C"]:
    """`free` detections that are an actor's who lacks that view; -1 for none."""
    far = np.nan_to_num(distance(sight.rays[None], marks[:, None, None], sight.position[None, :, None]), nan=FAR)
    others = np.stack([np.delete(far, a, 0).min(0, initial=FAR) for a in range(len(far))])
    near = np.where((chosen >= 0).sum(1) >= 2, NEAR, LONELY)[:, None, None]
    his = (far < near) & (others > CLEAR * far) & free & (chosen < 0)[..., None]
    return assigned(np.where(his, far, FAR))

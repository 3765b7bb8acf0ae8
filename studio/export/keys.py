"""Fewer keys: the frames that straight lines between keys need so that every other frame is met within a stated error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int


def kept(count: int, error: Callable[[int, int], np.ndarray], limit: float) -> Int[np.ndarray, "K"]:
    """Frames to key, first and last among them; one where the first alone will do.

    `error(a, b)` is how far each frame from a to b (both included) is missed by the line between keys at a and b. Splitting where the
    line errs most (Ramer 1972, Douglas and Peucker 1973) ends when no frame errs by more than `limit`.
    """
    if count < 2:
        return np.arange(count)
    chosen, open_ = {0, count - 1}, [(0, count - 1)]
    while open_:
        a, b = open_.pop()
        missed = error(a, b)
        worst = int(missed.argmax())
        if missed[worst] > limit and 0 < worst < b - a:
            chosen.add(a + worst)
            open_ += [(a, a + worst), (a + worst, b)]
    return np.array(sorted(chosen))


def straight(values: Float[np.ndarray, "T N"], total: bool = False) -> Callable[[int, int], np.ndarray]:
    """Distance of each frame from the line between two; the sum of the columns' distances where `total`.

    Three Euler angles that miss by a, b and c turn a joint by no more than |a| + |b| + |c|.
    """

    def error(a: int, b: int) -> np.ndarray:
        share = np.linspace(0, 1, b - a + 1)[:, None]
        missed = values[a : b + 1] - (values[a] + share * (values[b] - values[a]))
        return np.abs(missed).sum(1) if total else np.sqrt((missed**2).sum(1))

    return error


def jointly(errors: Sequence[Callable[[int, int], np.ndarray]]) -> Callable[[int, int], np.ndarray]:
    """The largest of several errors on each frame, for values that share their keys."""
    return lambda a, b: np.max([error(a, b) for error in errors], 0)


def arc(turns: Float[np.ndarray, "T 4"]) -> Callable[[int, int], np.ndarray]:
    """Angle (rad) of each frame's unit quaternion from the arc between two."""

    def error(a: int, b: int) -> np.ndarray:
        cosine = float(np.clip(turns[a] @ turns[b], -1, 1))
        whole = np.arccos(abs(cosine))
        share = np.linspace(0, 1, b - a + 1)[:, None]
        end = turns[b] * (1 if cosine >= 0 else -1)
        if whole < 1e-9:
            between = np.repeat(turns[a][None], b - a + 1, 0)
        else:
            between = (np.sin((1 - share) * whole) * turns[a] + np.sin(share * whole) * end) / np.sin(whole)
        away = np.minimum(np.linalg.norm(between - turns[a : b + 1], axis=1), np.linalg.norm(between + turns[a : b + 1], axis=1))
        return 4 * np.arcsin(np.clip(away / 2, 0, 1))

    return error

"""FBX animation curves: keys with constant, linear and cubic (Bezier) spans, evaluated at any time.

The meaning of flags and slopes follows the behaviour of Autodesk's SDK as public readers describe it; checked against one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from rigs.characters.fbx_nodes import Node

TICKS = 46186158000
"""FBX time units a second."""
CONSTANT, LINEAR, CUBIC = 0x2, 0x4, 0x8
NEXT = 0x100
"""With CONSTANT: the span has its end's value."""
TCB, USER, BREAK = 0x200, 0x400, 0x800
CLAMP, TIME_INDEPENDENT, PROGRESSIVE = 0x1000, 0x2000, 0x4000
WEIGHTED_RIGHT, WEIGHTED_LEFT = 0x1000000, 0x2000000
WEIGHT_UNIT = 9999.0
THIRD = 1 / 3


@dataclass(frozen=True)
class Curve:
    """Values over time; before the first key and after the last one they stay."""

    ticks: Int[np.ndarray, "K"]
    values: Float[np.ndarray, "K"]
    flags: Int[np.ndarray, "K"]
    slopes: Float[np.ndarray, "K 2"]
    """At each key: to its right, and at the next key to the left, a second."""
    weights: Float[np.ndarray, "K 2"]
    """How far the tangents of a span reach from its start and from its end, as parts of the span."""

    @classmethod
    def of(cls, node: Node) -> Curve | None:
        """The curve of an `AnimationCurve` object; None for one without keys. A `ValueError` where its tables do not fit together."""
        ticks, values = (np.atleast_1d(np.asarray(node.value(k, []))) for k in ("KeyTime", "KeyValueFloat"))
        if len(ticks) != len(values):
            raise ValueError(f"a curve has {len(ticks)} times and {len(values)} values")
        if not len(ticks):
            return None
        flags, data, counts = (
            np.atleast_1d(np.asarray(node.value(k, []))) for k in ("KeyAttrFlags", "KeyAttrDataFloat", "KeyAttrRefCount")
        )
        counts = counts.astype(np.int64)
        if len(flags) != len(counts) or len(data) != 4 * len(flags) or int(counts.sum()) != len(ticks) or (counts < 0).any():
            flags, data, counts = np.array([LINEAR]), np.zeros(4, np.float32), np.array([len(ticks)])
        packed = np.ascontiguousarray(data.astype(np.float32).reshape(-1, 4))
        reach = packed[:, 2].copy().view(np.uint16).reshape(-1, 2).astype(float) / WEIGHT_UNIT
        bits = flags.astype(np.int64)
        reach[:, 0] = np.where(bits & WEIGHTED_RIGHT, reach[:, 0], THIRD)
        reach[:, 1] = np.where(bits & WEIGHTED_LEFT, reach[:, 1], THIRD)
        order = np.argsort(ticks, kind="stable")
        spread = np.repeat(np.arange(len(counts)), counts)[order]
        curve = cls(
            ticks.astype(np.int64)[order], values.astype(float)[order], bits[spread], packed[spread, :2].astype(float), reach[spread]
        )
        return curve._with_automatic_slopes()

    def at(self, ticks: Int[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
        """Value at each time."""
        if len(self.ticks) == 1:
            return np.full(len(ticks), self.values[0])
        span = np.clip(np.searchsorted(self.ticks, ticks, "right") - 1, 0, len(self.ticks) - 2)
        begin, end = self.ticks[span], self.ticks[span + 1]
        long = np.maximum(end - begin, 1)
        part = np.clip((ticks - begin) / long, 0.0, 1.0)
        a, b, flags = self.values[span], self.values[span + 1], self.flags[span]
        value = a + part * (b - a)
        if (cubic := (flags & CUBIC) > 0).any():
            value = np.where(cubic, self._bezier(span, part, long / TICKS), value)
        held = np.where(flags & NEXT, np.where(part > 0, b, a), np.where(part < 1, a, b))
        value = np.where((flags & CONSTANT) > 0, held, value)
        return np.where(ticks >= self.ticks[-1], self.values[-1], np.where(ticks <= self.ticks[0], self.values[0], value))

    def _bezier(self, span: np.ndarray, part: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """The cubic through a span's ends with its slopes and weights; its parameter is solved for time by bisection and Newton."""
        w0, w1 = self.weights[span].T
        s0, s1 = self.slopes[span].T
        a, b = self.values[span], self.values[span + 1]
        x1, x2 = w0, 1 - w1
        low, high, u = np.zeros_like(part), np.ones_like(part), part.copy()
        for _ in range(40):
            x = 3 * u * (1 - u) ** 2 * x1 + 3 * u * u * (1 - u) * x2 + u**3
            low, high = np.where(x < part, u, low), np.where(x < part, high, u)
            slope = 3 * (1 - u) ** 2 * x1 + 6 * u * (1 - u) * (x2 - x1) + 3 * u * u * (1 - x2)
            step = u - (x - part) / np.where(np.abs(slope) < 1e-12, 1.0, slope)
            u = np.where((step > low) & (step < high) & (np.abs(slope) > 1e-12), step, (low + high) / 2)
        y1, y2 = a + w0 * seconds * s0, b - w1 * seconds * s1
        return a * (1 - u) ** 3 + 3 * y1 * u * (1 - u) ** 2 + 3 * y2 * u * u * (1 - u) + b * u**3

    def _with_automatic_slopes(self) -> Curve:
        """Slopes filled in where the file leaves them to the reader: automatic tangents follow the chord past the key."""
        automatic = ((self.flags & CUBIC) > 0) & ((self.flags & (USER | TCB)) == 0)
        if not automatic.any():
            return self
        slopes, seconds = self.slopes.copy(), self.ticks / TICKS
        own = np.zeros(len(self.ticks))
        for k in np.flatnonzero(automatic):
            if 0 < k < len(self.ticks) - 1:
                own[k] = _chord(seconds[k - 1 : k + 2], self.values[k - 1 : k + 2], int(self.flags[k]))
        slopes[automatic, 0] = own[automatic]
        followed = np.flatnonzero(automatic[1:])
        slopes[followed, 1] = own[followed + 1]
        return Curve(self.ticks, self.values, self.flags, slopes, self.weights)


def _chord(times: np.ndarray, values: np.ndarray, flags: int) -> float:
    """Slope of an automatic tangent: the chord from the key before to the key after, held back where that would overshoot."""
    before, after = values[1] - values[0], values[2] - values[1]
    if flags & CLAMP and min(abs(before), abs(after)) <= 1e-9:
        return 0.0
    slope = (values[2] - values[0]) / max(times[2] - times[0], 1e-12)
    left, right = max(times[1] - times[0], 1e-12), max(times[2] - times[1], 1e-12)
    if not flags & TIME_INDEPENDENT:
        part = left / (left + right)
        slope = slope / 2 + (before / left * (1 - part) + after / right * part) / 2
    if flags & PROGRESSIVE:
        sign = 1.0 if slope >= 0 else -1.0
        most = min(max(0.0, sign * before / (left * THIRD)), max(0.0, sign * after / (right * THIRD)))
        slope = sign * min(abs(slope), most)
    return float(slope)

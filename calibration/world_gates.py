"""Whether a rig's world can be trusted: do several floors agree, were points clicked where they are, do known distances hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from calibration.gates import Gate, verdict, worst
from calibration.rig_gates import SIZES
from calibration.world import Move

HIGH, LEAN = (0.01, 0.04), (1.0, 3.0)
"""How far another board that lies on the floor may be above or below it, m, and lean, degrees, from which to warn, and to fail."""
BELOW, TWICE = (0.015, 0.03), 3
"""How far below a floor the board may come, m, from which to warn, and to fail, at so many instants, for one may be mistaken."""
MOVES, ALONG = (0.005, 0.015), 1.5
"""How far the board may move from an instant at which it lies on the floor to its nearer neighbour, m: the first where it goes on as far
in the same direction, so that from before to after it covers so many times one step (noise covers no more than one); else the second."""
CLICK = (0.003, 0.012)
"""How far a named point may miss where it was clicked, as a part of the image's longer side."""
FLAT = (0.01, 0.04)
"""Root mean square distance of points from where they should be: from one floor, or from where they are known to lie, m."""
SCALE = (0.005, 0.02)
"""By how much known points may make the metre another one than the calibration's, as a part of it."""


def judge_floor(cameras: Cameras) -> Gate:
    """Whether cameras stand where cameras do in a world that was levelled: above the floor, most of them, and no tower high."""
    height = cameras.position[:, 2]
    above, lowest = float((height > 0).double().mean()), float(height.min())
    if above <= 0.5:
        remedy = "The board lay face down, or name another instant: print up, flat on the floor, seen by two cameras."
        return Gate("floor", "fail", lowest, 0, f"{100 * (1 - above):.0f} % of the cameras would stand below the floor.", remedy)
    fine = lowest > 0 and float(height.max()) < SIZES[0][1]
    sentence = f"The cameras stand {lowest:.2f} to {float(height.max()):.2f} m above the floor."
    return Gate("floor", "pass" if fine else "warn", lowest, 0, sentence, "" if fine else "Is the board flat on the floor at that instant?")


def floors_agree(gate: Gate, others: Sequence[Float[Tensor, "N 3"]]) -> Gate:
    """The gate of a floor after a look at what else lay on it: points (m, in the floor's world) of boards at other places.

    They should be at z = 0; where they are not, the floor is uneven, a board was not flat, or the rig bends.
    """
    if not others or not math.isfinite(gate.value):
        return gate
    high = [float(p[:, 2].mean()) for p in others]
    lean = [_lean(p) for p in others]
    far, tilt = max(high, key=abs), max(lean)
    grade = worst(gate.verdict, verdict(abs(far), HIGH), verdict(tilt, LEAN))
    sentence = f"{gate.sentence} The board at {len(others)} other place{'s' * (len(others) > 1)} lies {1000 * far:+.0f} mm from that floor "
    sentence += f"and leans {tilt:.1f} degrees against it, at worst."
    remedy = gate.remedy
    if grade != "pass" and gate.verdict == "pass":
        remedy = "Lay the board flat, print up, at every instant that --floor names; is the floor level?"
    return replace(gate, verdict=grade, value=1000 * far, limit=1000 * HIGH[1], sentence=sentence, remedy=remedy)


def rests(gate: Gate, boards: Float[Tensor, "B N 3"], b: int) -> Gate:
    """The gate of a floor after a look at the board (points in the floor's world, m; NaN where not known) at all instants: at the b-th it
    is said to lie on the floor, so it must be still there, and nowhere be below it.
    """
    if not math.isfinite(gate.value):
        return gate
    low = boards[..., 2].amin(1).nan_to_num(math.inf)
    others = low[torch.arange(len(low)) != b].sort()
    count = int(others.values.isfinite().sum())
    at = min(TWICE, count) - 1
    deep = -float(others.values[at]) if count else 0.0
    grade, words = verdict(deep, BELOW), []
    if grade != "pass":
        words.append(f"The board itself comes {1000 * max(-float(others.values[0]), deep):.0f} mm below that floor at other instants.")
    if (step := _moves(boards, b)) is not None:
        grade = "fail"
        words.append(f"The board moves at that instant, by {1000 * step:.0f} mm to the next.")
    if not words:
        return gate
    remedy = "It was held in the air then: name an instant at which it lies still on the floor, print up, or film that, last."
    return replace(gate, verdict=worst(gate.verdict, grade), sentence=" ".join([gate.sentence, *words]), remedy=gate.remedy or remedy)


def _moves(boards: Float[Tensor, "B N 3"], b: int) -> float | None:
    """How far the board moves from the b-th instant to the nearer of its neighbours, m; None where it lies still, or nothing tells."""
    near = [i for i in (b - 1, b + 1) if 0 <= i < len(boards) and bool(boards[i].isfinite().all())]
    if not near:
        return None
    steps = [float((boards[i] - boards[b]).norm(dim=-1).median()) for i in near]
    step, limit = min(steps), MOVES[1]
    if len(near) == 2 and float((boards[near[1]] - boards[near[0]]).norm(dim=-1).median()) > ALONG * step:
        limit = MOVES[0]
    return step if step > limit else None


def _lean(points: Float[Tensor, "N 3"]) -> float:
    """Angle between the plane through points and z = 0, degrees."""
    normal = torch.linalg.svd(points - points.mean(0), full_matrices=False)[2][2]
    return math.degrees(math.acos(min(abs(float(normal[2])), 1.0)))


def judge_clicks(names: Sequence[str], cameras: Cameras, residual: Float[Tensor, "C N"]) -> Gate:
    """Whether points that were clicked in several pictures are one point each: how far they miss the clicks, px."""
    part = (residual / cameras.size.amax(1)[:, None]).nan_to_num(0)
    c, n = divmod(int(part.argmax()), part.shape[1])
    px, limit = float(residual[c, n].nan_to_num(0)), CLICK[1] * float(cameras.size[c].max())
    grade = verdict(float(part[c, n]), CLICK)
    sentence = f"Point {names[n]!r} misses where it was clicked in {cameras.names[c]} by {px:.1f} px, the worst of {len(names)}."
    remedy = "" if grade == "pass" else f"Click {names[n]!r} again: is it the same spot in every picture? Else that camera moved."
    return Gate("clicks", grade, px, limit, sentence, remedy)


def judge_points(move: Move, known: bool, factor: float, metric: bool) -> tuple[Gate, ...]:
    """Whether points lie where they should after a move: on one floor, or where they are known to be.

    `metric`: the cameras were in metres already; by known points everything is then `factor` times as large as it says.
    """
    grade = verdict(move.off, FLAT)
    told = f"{move.used} points lie {1000 * move.off:.0f} mm {'from where they are known to be' if known else 'from one plane'}."
    remedy = "Check the coordinates, in metres, and which point is which." if known else "Give points on a flat floor."
    name = "known points" if known else "floor points"
    gates = [Gate(name, grade, 1000 * move.off, 1000 * FLAT[1], told, "" if grade == "pass" else remedy)]
    if known and metric:
        off = factor - 1
        grade = verdict(abs(off), SCALE)
        sentence = f"By the known points everything is {100 * off:+.2f} % larger than the calibration says."
        remedy = "" if grade == "pass" else "Measure the printed square, and the points, again: one of them is not what was stated."
        gates.append(Gate("measured points", grade, off, SCALE[1], sentence, remedy))
    elif known:
        gates.append(Gate("scale", "pass", 0.0, SCALE[1], f"The metre comes from {move.used} known points."))
    return tuple(gates)

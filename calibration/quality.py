"""Whether a calibration from boards can be trusted: every gate, with its limits and the remedy in words.

A gate that fails means: do not record with this calibration. One that warns means: it works, and here is what makes it better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from calibration.board_pose import board_poses, facing
from calibration.boards import BoardViews
from calibration.camera_graph import ENOUGH, LEAST
from calibration.cameras import Cameras, joined
from calibration.extrinsics import RigFit
from calibration.gates import Gate, passed, verdict
from calibration.held_out import HeldOut
from calibration.intrinsics import LensFit
from calibration.reprojection import Sightings
from calibration.rig_views import DISAGREES, USED

__all__ = ["Distance", "Gate", "judge", "judge_floor", "judge_views", "passed"]

GOOD = 16
"""Shared views that make a link between two cameras firm."""
VIEWS = (10, LEAST)
LINK = (ENOUGH, LEAST)
"""Shared views below which to warn, and to fail."""
PIXELS = (0.0015, 0.005)
"""Held-out error as a part of the image's longer side above which to warn, and to fail."""
FEW = 4
"""Held-out instants below which a good error says little."""
SQUARE, SPREAD = (0.005, 0.015), (0.02, 0.06)
"""Error, and standard deviation, of the known square's edge, as a part of it."""
FOCAL = (0.01, 0.03)
"""Standard deviation of the focal length, as a part of it."""
PLACE = (0.005, 0.03)
"""Standard deviation of a camera's position, as a part of the largest distance between cameras."""
TILT = (25.0, 15.0)
"""Most tilt of the board towards a camera, degrees, below which to warn, and to fail."""
REJECTED = (0.1, 0.6)
"""Part of a camera's views that disagree with the others'."""
DELAY = 0.3
"""Frames out of step from which to warn."""
MOVED, ALIKE = 0.0015, 0.6
"""Jump of a camera's mean error as a part of the image's longer side, and the part of its squared error this explains: it moved."""
DISTANCE = (0.005, 0.02)
"""Error of a measured distance between cameras, as a part of it."""
AWAY = (0.05, 0.3)
"""Part of the views that show a board's wrong side."""
SIZES = ((0.3, 25.0), (0.1, 60.0))
"""Distances between cameras, m, outside which to warn, and to fail."""
SQUARES = (0.004, 0.3)
"""Sides of a printed square, m, that are none outside."""


@dataclass(frozen=True)
class Distance:
    """A distance between two cameras' lenses, measured with a tape."""

    first: str
    second: str
    metres: float


def judge(
    views: BoardViews,
    lenses: Sequence[LensFit],
    fit: RigFit | None,
    held: HeldOut | None,
    refusal: str = "",
    distances: Sequence[Distance] = (),
    before: Cameras | None = None,
) -> tuple[Gate, ...]:
    """The verdict on a rig that was solved from board views; without a `fit`, on why there is none (`refusal` says it in words; lenses may
    be missing too).

    `distances` were measured between cameras: only they can tell a wrongly stated square. `before` is an earlier calibration of the same
    cameras, which tells exchanged videos.
    """
    if fit is None:
        gates = list(judge_views(views, lenses))
        if passed(gates) and "does not join" in refusal:  # they see it at the same instants, and place it differently
            gates.append(_disagreeing(refusal))
        elif passed(gates):
            gates.append(Gate("rig", "fail", float("nan"), float("nan"), f"No rig fits these views: {refusal}", "Film the board again."))
        return tuple(gates)
    gates = [_resolution(views, lenses), _seen(views)] if lenses else [_seen(views)]
    gates += [_links(fit), _still(fit, views), _in_step(fit), *_foretold(views, held)]
    gates += [_lens(fit, lenses), _places(fit), _scale(views, fit.cameras, bool(distances))]
    if any(bool(lens.covariance.any()) for lens in lenses):
        gates.append(_tilt(views, fit))
    gates += [_distance(d, fit.cameras) for d in distances]
    gates += _names(fit.cameras, before)
    return tuple(gates)


def judge_views(views: BoardViews, lenses: Sequence[LensFit]) -> tuple[Gate, ...]:
    """The verdict on board views before there is a rig; `lenses` may be missing."""
    if not lenses:
        return _seen(views), _shared(views)
    size = _resolution(views, lenses)
    if size.verdict == "fail":  # poses by such a lens would say nothing
        return size, _seen(views), _shared(views)
    return size, _seen(views), _shared(views), _front(views, lenses)


def _resolution(views: BoardViews, lenses: Sequence[LensFit]) -> Gate:
    off = [c for c, lens in enumerate(lenses) if not torch.equal(lens.size.to(views.size), views.size[c])]
    if not off:
        return Gate("resolution", "pass", 0, 0, "Every lens was calibrated at its video's resolution.")
    c = off[0]
    told = [" x ".join(f"{v:g}" for v in size.tolist()) for size in (lenses[c].size, views.size[c])]
    sentence = f"Camera {views.cameras[c]}: the lens is for images of {told[0]}, the video is {told[1]}."
    return Gate("resolution", "fail", len(off), 0, sentence, "Calibrate the lens again at the resolution that is recorded.")


def _seen(views: BoardViews) -> Gate:
    counts = views.seen().sum(1).tolist()
    least = min(range(len(counts)), key=counts.__getitem__)
    name, n = views.cameras[least], counts[least]
    sentence = f"Every camera sees the board at {n} instants or more." if n >= VIEWS[0] else f"Camera {name} sees the board {n} times."
    remedy = "" if n >= VIEWS[0] else f"Wave the board before camera {name}, facing it and a neighbour, about {GOOD - n} more views."
    return Gate("board seen", verdict(n, VIEWS), n, VIEWS[1], sentence, remedy)


def _shared(views: BoardViews) -> Gate:
    """Before there is a rig: whether instants that two cameras share join all cameras."""
    seen = views.seen().double()
    count = (seen @ seen.mT).long().fill_diagonal_(0)
    return _weakest(views.cameras, count, "share the board")


def _links(fit: RigFit) -> Gate:
    """The weakest link of the strongest chain through all cameras."""
    used = fit.used.double()
    return _weakest(fit.cameras.names, (used @ used.mT).long().fill_diagonal_(0), "agree on")


def _weakest(names: Sequence[str], count: Tensor, how: str) -> Gate:
    graph = nx.Graph()
    graph.add_nodes_from(range(len(names)))
    graph.add_weighted_edges_from((c, d, int(count[c, d])) for c, d in torch.triu(count >= LEAST).nonzero().tolist())
    groups: list[set[int]] = sorted(nx.connected_components(graph), key=min)
    if len(groups) > 1:
        c, d = max(((c, d) for c in groups[0] for d in range(len(names)) if d not in groups[0]), key=lambda p: int(count[p]))
        listed = " and ".join("[" + ", ".join(str(names[i]) for i in sorted(g)) + "]" for g in groups)
        n = int(count[c, d])
        sentence = f"The board does not join {listed}: {names[c]} and {names[d]} {how} in {n} views."
    else:
        tree = nx.maximum_spanning_tree(graph)
        c, d, n = min(((a, b, w["weight"]) for a, b, w in tree.edges(data=True)), key=lambda e: e[2])
        sentence = f"Camera {names[c]} shares {'only ' if n < LINK[0] else ''}{n} views with camera {names[d]}, the weakest link."
    remedy = "" if n >= LINK[0] else f"Wave the board between {names[c]} and {names[d]}, both seeing it, about {GOOD - n} more views."
    return Gate("connected", verdict(n, LINK), n, LINK[1], sentence, remedy)


def _front(views: BoardViews, lenses: Sequence[LensFit]) -> Gate:
    """Before there is a rig: whether each camera by itself sees the side of the board that it reads."""
    cameras = joined([fit.camera(name) for name, fit in zip(views.cameras, lenses)])
    ok = views.pixels.isfinite().all(-1) & (views.sigma > 0)
    c, b = (ok.sum(-1) >= 6).nonzero(as_tuple=True)
    weight = torch.where(ok[c, b], 1 / views.sigma[c, b], 0).to(torch.float64)
    seen = Sightings(c, b, views.points()[c, b], views.pixels[c, b].nan_to_num().to(torch.float64), weight)
    wrong = facing(board_poses(seen, cameras), seen)[:, 0] == views.behind[c, b] if len(c) else torch.zeros(0, dtype=torch.bool)
    return _turned(views, torch.stack([wrong[c == i].double().mean() for i in range(len(views.cameras))]))


def _turned(views: BoardViews, away: Float[Tensor, "C"]) -> Gate:
    names = views.cameras
    worst = int(away.nan_to_num(0).argmax())
    part = float(away.nan_to_num(0)[worst])
    if views.board.kind == "chessboard" and verdict(part, AWAY) == "pass":
        sentence = "A chessboard looks the same in a mirror: whether all cameras mirror cannot be told by it."
        return Gate(
            "not mirrored", "warn", part, AWAY[1], sentence, "See that writing reads rightly in the videos; a ChArUco board would tell."
        )
    if verdict(part, AWAY) == "pass":
        return Gate("not mirrored", "pass", part, AWAY[1], "The board's front faces the cameras that read it.")
    sentence = (
        f"Camera {names[worst]} reads the board's front in {100 * part:.0f} % of its views while it shows its back: a mirrored picture."
    )
    remedy = f"Turn off mirror or selfie mode in camera {names[worst]} and film again, or check that the board is not described mirrored."
    return Gate("not mirrored", verdict(part, AWAY), part, AWAY[1], sentence, remedy)


def _still(fit: RigFit, views: BoardViews) -> Gate:
    """Whether some camera's errors jump at one instant: it moved. Being out of step makes errors come and go with the board's motion."""
    jumps = [_jump(off) for off in fit.residual.nanmean(2)]
    limit = MOVED * float(views.size.max())
    moved = [(px, c, at) for c, (at, px, part) in enumerate(jumps) if px > limit and part > ALIKE]
    if not moved:
        least = max((px for _, px, part in jumps if part > ALIKE), default=0.0)
        return Gate("held still", "pass", least, limit, "No camera moved while the board was filmed.")
    px, c, at = max(moved)
    name, frame = fit.cameras.names[c], int(views.instants[c, at])
    sentence = f"Camera {name} moved at about its frame {frame}: from there on what it sees is off by {px:.1f} px, all the same way."
    remedy = f"Fix camera {name} firmly and film the board again, or use only the frames on one side of {frame}."
    return Gate("held still", "fail", px, limit, sentence, remedy)


def _jump(off: Float[Tensor, "B 2"]) -> tuple[int, float, float]:
    """The instant at which a camera's mean error changes most, by how many px, and the part of all its squared error that this explains."""
    at = off.isfinite().all(-1).nonzero()[:, 0]
    if len(at) < 8:
        return 0, 0.0, 0.0
    size = off[at].norm(dim=1, keepdim=True)
    e = off[at] * (4 * size.quantile(0.75) / size.clamp_min(1e-9)).clamp(max=1)  # one false sighting shall not hide the rest
    n = torch.arange(1, len(at))[:, None]
    early, late = e.cumsum(0)[:-1] / n, (e.sum(0) - e.cumsum(0)[:-1]) / (len(at) - n)
    between = ((late - early).square().sum(1) * (n * (len(at) - n))[:, 0] / len(at))[2:-2]
    k = int(between.argmax())
    part = float(between[k] / (e - e.mean(0)).square().sum().clamp_min(1e-12))
    return int(at[k + 3]), float((late - early)[k + 2].norm()), part


def _in_step(fit: RigFit) -> Gate:
    """Views that disagree with what the other cameras saw at the same instant."""
    wrong, judged = fit.verdict == DISAGREES, (fit.verdict == DISAGREES) | (fit.verdict == USED)
    part = wrong.double().sum(1) / judged.double().sum(1).clamp_min(1)
    c = int(part.argmax())
    value, name = float(part[c]), fit.cameras.names[c]
    grade = verdict(value, REJECTED)
    sentence = f"{100 * value:.0f} % of the views of camera {name}, the most, disagree with the other cameras'."
    remedy = "" if grade == "pass" else f"Check that {name} is in step with the others; hold the board still for a moment in each place."
    d = int(fit.delay.abs().argmax())
    late = float(fit.delay[d])
    if abs(late) > max(DELAY, 3 * float(fit.delay_sd[d].nan_to_num())):
        off = fit.cameras.names[d]
        sentence += f" Camera {off} is {abs(late):.2f} frames out of step with {fit.anchor}; the rig was solved for that."
        remedy = f"{remedy} Start {off} with the others, or film the board held still.".strip()
        grade = "warn" if grade == "pass" else grade
    return Gate("in step", grade, value, REJECTED[1], sentence, remedy)


def _disagreeing(refusal: str) -> Gate:
    """Before there is a rig: cameras that share the board at enough instants, but do not agree where it then is."""
    sentence = f"Cameras that see the board together do not agree where it is: {refusal}."
    remedy = "Do their files begin at one moment (else give --instants), did one move, is each file its own camera's?"
    return Gate("in step", "fail", float("nan"), REJECTED[1], sentence, remedy)


def _foretold(views: BoardViews, held: HeldOut | None) -> list[Gate]:
    if held is None:
        sentence = "Too few instants to hold some out and check the rig by them."
        return [
            Gate("held out", "fail", float("nan"), float("nan"), sentence, "Film the board at 20 instants or more that two cameras share.")
        ]
    return [_reprojection(views, held), _pairs(views, held), _square(views, held), _turned(views, held.turned_away)]


def _reprojection(views: BoardViews, held: HeldOut) -> Gate:
    error = torch.where(held.left_out.isfinite(), held.left_out, held.reprojection)
    part = (error / views.size.amax(1)).nan_to_num(0)
    c = int(part.argmax())
    px, name, limit = float(error[c]), views.cameras[c], PIXELS[1] * float(views.size[c].max())
    how = "the other cameras foretell" if bool(held.left_out[c].isfinite()) else "the cameras place"
    if not bool(error.isfinite().any()):
        px, part = float("nan"), part * float("nan")
    grade = verdict(float(part[c]), PIXELS)
    sentence = f"At instants that were held out {how} corners to {px:.1f} px in camera {name}, the worst."
    remedy = "" if grade == "pass" else f"Check focus, firm stand and synchronisation of {name}; film the board slower and nearer to it."
    if grade == "pass" and int(held.instants.sum()) < FEW:
        grade, remedy = (
            "warn",
            f"Only {int(held.instants.sum())} instants could be held out: film the board at 20 or more that two cameras share.",
        )
    return Gate("held out", grade, px, limit, sentence, remedy)


def _pairs(views: BoardViews, held: HeldOut) -> Gate:
    part = (held.pair / views.size.max()).nan_to_num(0)
    c, d = divmod(int(part.argmax()), len(part))
    px, limit = float(held.pair[c, d].nan_to_num(0)), PIXELS[1] * float(views.size.max()) / 2
    grade = verdict(float(part[c, d]), (PIXELS[0] / 2, PIXELS[1] / 2))
    a, b = views.cameras[c], views.cameras[d]
    sentence = f"{a} and {b}, the pair that agrees least, meet to {px:.2f} px."
    return Gate("pairs", grade, px, limit, sentence, "" if grade == "pass" else f"Film more of the board between {a} and {b}, held still.")


def _square(views: BoardViews, held: HeldOut) -> Gate:
    true = views.board.pitch
    error, spread = held.square - true, held.spread / true
    grade = verdict(max(abs(error) / true / SQUARE[0], spread / SPREAD[0]), (1, SQUARE[1] / SQUARE[0]))
    measured = f"{1000 * held.square:.2f} mm, spread {1000 * held.spread:.2f} mm, {held.edges} edges"
    sentence = f"The {1000 * true:.2f} mm square measures {measured} at instants that were held out."
    remedy = "" if grade == "pass" else "Hold the board flat and still, nearer to the cameras, in more places of the volume."
    return Gate("known square", grade, 1000 * error, 1000 * SQUARE[1] * true, sentence, remedy)


def _lens(fit: RigFit, lenses: Sequence[LensFit]) -> Gate:
    sd = (fit.lens_covariance.diagonal(dim1=1, dim2=2)[:, :2].clamp_min(0).sqrt() / fit.cameras.focal).amax(1)
    c = int(sd.argmax())
    value, name = float(sd[c]), fit.cameras.names[c]
    grade = verdict(value, FOCAL)
    doubted = [i for i, lens in enumerate(lenses) if not lens.trusted]
    if grade == "pass" and not doubted:
        return Gate("lenses", "pass", value, FOCAL[1], f"Every focal length is known to {100 * value:.2g} % or better.")
    at = c if grade != "pass" else doubted[0]
    reasons = "; ".join(lenses[at].reasons) or "tilt the board 30-45 degrees about both its axes, near the camera and the image's corners"
    sentence = f"The focal length of {name} is known to {100 * value:.2g} %, the least."
    remedy = f"Camera {fit.cameras.names[at]} by itself: {reasons}."
    return Gate("lenses", "warn" if grade == "pass" else grade, value, FOCAL[1], sentence, remedy)


def _places(fit: RigFit) -> Gate:
    sd = fit.camera_covariance.diagonal(dim1=1, dim2=2)[:, 3:].clamp_min(0).sum(1).sqrt()
    extent = float(torch.pdist(fit.cameras.position).max())
    c = int(sd.argmax())
    grade = verdict(float(sd[c]) / extent, PLACE)
    name, value = fit.cameras.names[c], 1000 * float(sd[c])
    remedy = "" if grade == "pass" else f"Film more of the board before {name}, tilted, where its neighbours see it too."
    sentence = f"Camera {name} is placed to {value:.1f} mm, the least sure."
    return Gate("positions", grade, value, 1000 * PLACE[1] * extent, sentence, remedy)


def _tilt(views: BoardViews, fit: RigFit) -> Gate:
    """How far the board was ever tilted towards each camera: facing it always, distance and focal length look alike."""
    normal = torch.einsum("cij,bj->cbi", fit.cameras.R_camera_world, fit.R_world_board[..., 2])
    angle = normal[..., 2].abs().clamp(max=1).acos().rad2deg()
    most = torch.where(fit.used, angle, torch.nan).nan_to_num(-1).amax(1)
    c = int(most.argmin())
    value, grade = float(most[c]), verdict(float(most[c]), TILT)
    remedy = "" if grade == "pass" else f"Tilt the board 30-45 degrees left, right, up and down before {views.cameras[c]}."
    return Gate(
        "tilt", grade, value, TILT[1], f"The board was tilted up to {value:.0f} degrees before {views.cameras[c]}, the least.", remedy
    )


def _scale(views: BoardViews, cameras: Cameras, checked: bool) -> Gate:
    """Whether sizes are those of a room: a square stated in the wrong unit makes them tenfold. `checked`: a tape tells less."""
    far, side = float(torch.pdist(cameras.position).max()), views.board.square
    (low, high), (least, most) = SIZES
    told = f"The cameras are up to {far:.2f} m apart by the stated square of {1000 * side:g} mm."
    if least <= far <= most and SQUARES[0] <= side <= SQUARES[1]:
        fine = low <= far <= high and checked
        told += "" if checked else " Nothing else tells whether that was measured rightly."
        remedy = "" if fine else "Measure one square with a ruler, and the distance of two cameras for --distance."
        return Gate("scale", "pass" if fine else "warn", far, most, told, remedy)
    return Gate("scale", "fail", far, most, f"{told} That is no room.", "Measure one square and state its unit (54mm, not 54cm).")


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


def _distance(stated: Distance, cameras: Cameras) -> Gate:
    found = float((cameras.position[cameras.index(stated.first)] - cameras.position[cameras.index(stated.second)]).norm())
    off = found / stated.metres - 1
    grade = verdict(abs(off), DISTANCE)
    sentence = f"{stated.first} to {stated.second} measures {found:.3f} m where the tape says {stated.metres:.3f} m ({100 * off:+.1f} %)."
    remedy = (
        "" if grade == "pass" else f"Measure the printed square again: it may be {1 / (1 + off):.3f} times what was stated; or the tape."
    )
    return Gate(f"distance {stated.first} {stated.second}", grade, off, DISTANCE[1], sentence, remedy)


def _names(cameras: Cameras, before: Cameras | None) -> list[Gate]:
    """Whether the rig looks like an earlier one, but for two exchanged cameras."""
    common = [n for n in cameras.names if before is not None and n in before.names]
    if before is None or len(common) < 3:
        return []
    now, then = cameras[common], before[common]
    extent = float(torch.pdist(then.position).max())
    same = _unlike(now, then) / extent
    best, pair = same, None
    for i in range(len(common)):
        for j in range(i):
            order = list(range(len(common)))
            order[i], order[j] = j, i
            if (off := _unlike(now[order], then) / extent) < 0.3 * best:
                best, pair = off, (common[j], common[i])
    if pair and same > 0.02:
        sentence = f"Against the earlier calibration {pair[0]} and {pair[1]} have changed places."
        return [
            Gate("names", "fail", same, 0.02, sentence, f"Exchange the video files of {pair[0]} and {pair[1]}, unless they were moved.")
        ]
    return [Gate("names", "pass", same, 0.02, "No two cameras have changed places since the earlier calibration.")]


def _unlike(a: Cameras, b: Cameras) -> float:
    """How far two rigs are from each other when laid upon each other, turned but not stretched, m: the root mean square distance of their
    cameras' centres and of points ahead and beside them, as far as the rig is wide. So a rig that looks the same mirrored is told too.
    """
    reach = float(torch.pdist(b.position).max())
    x, y = (torch.cat([c.position, *(c.position + reach * c.R_camera_world[:, i] for i in (0, 2))]) for c in (a, b))
    x, y = x - x.mean(0), y - y.mean(0)
    U, _, Vt = torch.linalg.svd(y.mT @ x)
    R = U @ torch.diag(torch.stack([U.new_ones(()), U.new_ones(()), torch.linalg.det(U @ Vt).sign()])) @ Vt
    return float((x @ R.mT - y).square().sum(1).mean().sqrt())

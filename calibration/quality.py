"""Whether a calibration from boards can be trusted: gates on the rig that was solved, with their limits and the remedy in words.

A gate that fails means: do not record with this calibration. One that warns means: it works, and here is what makes it better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.boards import BoardViews
from calibration.cameras import Cameras
from calibration.extrinsics import RigFit
from calibration.gates import Gate, passed, verdict
from calibration.held_out import HeldOut
from calibration.intrinsics import LensFit
from calibration.rig_gates import Distance, judge_distance, judge_names, judge_scale
from calibration.rig_views import DISAGREES, USED
from calibration.view_gates import judge_links, judge_resolution, judge_sides, judge_sightings, judge_views

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
    gates = [judge_resolution(views, lenses), judge_sightings(views)] if lenses else [judge_sightings(views)]
    gates += [_links(fit), _still(fit, views), _in_step(fit), *_foretold(views, held)]
    gates += [_lens(fit, lenses), _places(fit), judge_scale(views, fit.cameras, bool(distances))]
    if any(bool(lens.covariance.any()) for lens in lenses):
        gates.append(_tilt(views, fit))
    gates += [judge_distance(d, fit.cameras) for d in distances]
    gates += judge_names(fit.cameras, before)
    return tuple(gates)


def _links(fit: RigFit) -> Gate:
    """The weakest link of the strongest chain through all cameras."""
    used = fit.used.double()
    return judge_links(fit.cameras.names, (used @ used.mT).long().fill_diagonal_(0), "agree on")


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
    return [_reprojection(views, held), _pairs(views, held), _square(views, held), judge_sides(views, held.turned_away)]


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

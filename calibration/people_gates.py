"""Whether a rig that was found, refined or checked by a person can be trusted: the gates, with their limits and remedies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from calibration.gates import Gate, verdict, worst
from calibration.people import PeopleFit
from calibration.people_watch import Watch
from calibration.people_world import Ground, World
from calibration.world_gates import judge_floor

RESIDUAL = (0.006, 0.015)
"""A camera's median residual, as a part of the image's longer side, from which to warn, and to fail."""
SCALE = (0.05, 0.2)
"""Standard deviation of the scale, as a part of it."""
STATURE = (0.15, 0.35)
"""Difference between the stated height and the one that the network sees, as a part of it."""
MEASURED = (0.05, 0.1)
"""Difference between the stated height and the one that a known rig measures, as a part of it."""
TALL = ((1.3, 2.15), (0.8, 2.4))
"""Heights of people, m, outside which to warn, and to fail."""
FOCAL, PLACE = (0.03, 0.15), (0.03, 0.15)
"""Standard deviations of a focal length as a part of it, and of a camera's place as a part of the rig's size."""
LINK, TOGETHER = (20, 8), 5
"""Frames in which two cameras see so many points of the person together, below which to warn, and to fail."""
FLOOR, LEAN = (0.015, 0.05), (3.0, 8.0)
"""Root mean square distance of standing feet from the floor, m; angle between the person's mean axis and up, degrees."""
UNDER, TILT = (0.05, 0.12), (2.0, 6.0)
"""How far a known floor is from where a person's feet stand, m, and how far it leans against it, degrees: heels are seen 2 cm high."""
LATE = (0.5, 0.3)
"""Frames out of step from which to warn, seconds from which to fail."""
MOVED = (0.03, 0.1)
"""How far refining moved a camera, as a part of the rig's size."""


def judge_people(fit: PeopleFit, size: Float[Tensor, "C 2"], fps: float) -> tuple[Gate, ...]:
    """What any rig that a person was seen by has to answer: residual, links, delays; the focal lengths and places."""
    return _connected(fit), _residual(fit, size), _in_step(fit, fps), _lenses(fit), _positions(fit)


def judge_world(world: World, height: float | None, seen: float) -> tuple[Gate, ...]:
    """Scale, stature and floor of a rig found from a person `height` m tall (None: not known), whom the network takes for `seen` m."""
    return _scale(height), judge_stature(height, seen, STATURE, "the network takes the person for"), _floor(world)


def _residual(fit: PeopleFit, size: Float[Tensor, "C 2"]) -> Gate:
    px = fit.residual.flatten(1).nanmedian(1).values
    part = px / size.amax(1)
    c = int(part.nan_to_num(torch.inf).argmax())
    grade = verdict(float(part[c]), RESIDUAL)
    name, limit = fit.cameras.names[c], RESIDUAL[1] * float(size[c].max())
    remedy = "" if grade == "pass" else f"Check that {name} stood still, is in step and filmed the same person; is its lens known?"
    return Gate("residual", grade, float(px[c]), limit, f"The person's points miss by {float(px[c]):.1f} px in {name}, the worst.", remedy)


def shared_frames(fit: PeopleFit) -> Float[Tensor, "C C"]:
    """In how many frames two cameras see at least `TOGETHER` points of the person together."""
    there = fit.residual.isfinite().double()
    return (torch.einsum("ctk,dtk->cdt", there, there) >= TOGETHER).double().sum(2)


def _connected(fit: PeopleFit) -> Gate:
    count, names = shared_frames(fit), fit.cameras.names
    graph = nx.Graph()
    graph.add_weighted_edges_from((c, d, int(count[c, d])) for c in range(len(names)) for d in range(c + 1, len(names)))
    c, d, n = min(nx.maximum_spanning_tree(graph).edges(data="weight"), key=lambda e: e[2])
    grade = verdict(n, LINK)
    remedy = "" if grade == "pass" else f"Walk where {names[c]} and {names[d]} both see you."
    return Gate("connected", grade, n, LINK[1], f"{names[c]} and {names[d]}, the weakest link, share {n} frames of the person.", remedy)


def _in_step(fit: PeopleFit, fps: float) -> Gate:
    c = int(fit.delay.abs().argmax())
    late, sd, limit = float(fit.delay[c]), float(fit.delay_sigma[c]), LATE[1] * fps
    name, first = fit.cameras.names[c], fit.cameras.names[0]
    if abs(late) <= max(LATE[0], 2 * sd):
        return Gate("in step", "pass", abs(late), limit, f"{name} is {late:+.2f} frames off {first}, the most.")
    grade = "fail" if not abs(late) <= limit else "warn"
    sentence = f"Camera {name} is {abs(late):.1f} frames out of step with {first}; the rig was solved for that."
    remedy = f"Start {name} with the others, or put the videos on one clock first (`studio sync`)."
    return Gate("in step", grade, abs(late), limit, sentence, remedy)


def _lenses(fit: PeopleFit) -> Gate:
    sd = fit.focal_sigma.nan_to_num(torch.inf)
    c = int(sd.argmax())
    grade = verdict(float(sd[c]), FOCAL)
    sentence = f"The focal length of {fit.cameras.names[c]} is known to {100 * float(sd[c]):.1f} %, the least."
    remedy = "" if grade == "pass" else "Calibrate the lenses with a board and give --lenses, or say --same-lens if they are alike."
    return Gate("lenses", grade, float(sd[c]), FOCAL[1], sentence, remedy)


def _positions(fit: PeopleFit) -> Gate:
    sd = fit.covariance.diagonal(dim1=1, dim2=2)[:, 3:].clamp_min(0).sum(1).sqrt()
    extent = float(torch.pdist(fit.cameras.position).max())
    c = int(sd.argmax())
    grade = verdict(float(sd[c]) / extent, PLACE)
    sentence = f"Camera {fit.cameras.names[c]} is placed to {1000 * float(sd[c]):.0f} mm, the least sure."
    remedy = "" if grade == "pass" else "Walk through more of the volume, nearer to the cameras, with known lenses."
    return Gate("positions", grade, 1000 * float(sd[c]), 1000 * PLACE[1] * extent, sentence, remedy)


def _scale(height: float | None) -> Gate:
    if height is not None:
        return Gate("scale", "pass", 0.02, SCALE[1], f"The metre comes from the person's height of {height:.2f} m, good to about 2 %.")
    sentence = "The metre is the network's guess of a person, good to about 10 %."
    return Gate("scale", verdict(0.1, SCALE), 0.1, SCALE[1], sentence, "Give the person's height with --height, or --known-points.")


def judge_stature(height: float | None, found: float, limits: tuple[float, float], who: str) -> Gate:
    """Whether a person's height is that of people, and, where it was stated, as found (m); `who` found it, in words."""
    (low, high), (least, most) = TALL
    if height is None:
        grade = "pass" if low <= found <= high else "warn" if least <= found <= most else "fail"
        remedy = "" if grade == "pass" else "Is this a grown person, seen whole? Give the height with --height."
        return Gate("stature", grade, found, most, f"{who[:1].upper()}{who[1:]} {found:.2f} m tall.", remedy)
    off = found / height - 1
    grade = verdict(abs(off), limits)
    sentence = f"The stated height is {height:.2f} m; {who} {found:.2f} m tall ({100 * off:+.0f} %)."
    remedy = "" if grade == "pass" else "Measure the person again, in metres with shoes on; a wrong height makes all else wrong."
    return Gate("stature", grade, off, limits[1], sentence, remedy)


def _floor(world: World) -> Gate:
    stands = judge_floor(world.fit.cameras)
    if stands.verdict == "fail":
        return Gate("floor", "fail", stands.value, stands.limit, stands.sentence, "Film the whole person, feet and head, standing upright.")
    lean, rms = math.degrees(world.tilt), world.floor_rms
    grade = worst(verdict(rms, FLOOR), verdict(lean, LEAN))
    sentence = f"Standing feet lie within {1000 * rms:.0f} mm of one floor, which leans {lean:.1f} degrees against the person. "
    remedy = "" if grade == "pass" else "Walk upright over more of a flat floor, seen whole."
    if not world.from_floor:
        grade = "warn" if grade == "pass" else grade
        sentence = f"The person stood in too few places to tell a floor: up is their mean axis; feet lie within {1000 * rms:.0f} mm. "
        remedy = "Walk through the whole volume, or give --floor-points."
    return Gate("floor", grade, 1000 * rms, 1000 * FLOOR[1], sentence + stands.sentence, remedy)


def judge_ground(ground: Ground) -> Gate:
    """Whether a known floor (z = 0) is where a person's feet stand."""
    tilt = math.degrees(ground.tilt) if ground.wide else 0.0
    grade = worst(verdict(abs(ground.height), UNDER), verdict(tilt, TILT))
    how = f" and lean {tilt:.1f} degrees" if ground.wide else ""
    sentence = f"The person's feet stand {1000 * ground.height:+.0f} mm above the calibration's floor{how}."
    remedy = "" if grade == "pass" else "Set the floor again: the board flat on it with --floor, or --floor-points."
    return Gate("floor", grade, 1000 * ground.height, 1000 * UNDER[1], sentence, remedy)


def judge_watch(result: Watch, names: Sequence[str], size: Float[Tensor, "C 2"]) -> tuple[Gate, ...]:
    """Whether known cameras stand as calibrated, by what a person's points said."""
    px, limit = result.disagreement, RESIDUAL[1] * float(size.max())
    grade = verdict(px / float(size.max()), RESIDUAL)
    words = f"The cameras disagree by {px:.1f} px about a person (median)."
    remedies = {
        "pass": "",
        "warn": "Check that the videos are in step; if they are, a better calibration would help.",
        "fail": "Calibrate again: no single camera explains it; or check that the videos are in step.",
    }
    gates = [Gate("residual", grade, px, limit, words, remedies[grade])]
    if len(names) < 3:
        sentence = "Two cameras cannot tell which of them moved, nor whether they are exchanged."
        return (*gates, Gate("held still", "warn", float("nan"), float("nan"), sentence, "Check with three cameras or more."))
    if result.exchanged:
        a, b = result.exchanged
        told = f"Cameras {a} and {b} are exchanged: each fits the other's place."
        gates.append(Gate("names", "fail", 1, 0, told, f"Give {a} and {b} each its own video."))
    else:
        gates.append(Gate("names", "pass", 0, 0, "No two cameras are exchanged."))
    if result.bumps:
        worst = max(result.bumps, key=lambda b: b.turn)
        first, _, remedy = worst.sentence.partition(". ")
        gates.append(Gate("held still", "fail", math.degrees(worst.turn), 0.25, first + ".", remedy))
    else:
        gates.append(Gate("held still", "pass", 0, 0.25, f"No {'single ' if grade == 'fail' else ''}camera was bumped."))
    return tuple(gates)


def judge_refined(fit: PeopleFit, before: Float[Tensor, "C 3"]) -> Gate:
    """How far refining moved the cameras from where they were, m: a little is a correction, much is another rig."""
    off = (fit.cameras.position - before).norm(dim=-1)
    extent = float(torch.pdist(before).max())
    c = int(off.argmax())
    grade = verdict(float(off[c]) / extent, MOVED)
    sentence = f"Camera {fit.cameras.names[c]} was moved by {1000 * float(off[c]):.0f} mm, the most."
    remedy = "" if grade == "pass" else "That is more than a correction: calibrate again."
    return Gate("moved", grade, 1000 * float(off[c]), 1000 * MOVED[1] * extent, sentence, remedy)

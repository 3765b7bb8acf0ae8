"""How well a take went, in numbers: errors in every view, coverage, steadiness, feet, bones, uncertainty."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rigs import keypoints as sets
from studio.review.material import CHUNK, Material
from studio.review.plausible import strange_joints

LIMBS = tuple((f"{s} {part}", f"{s}_{a}", f"{s}_{b}") for s in ("left", "right") for part, a, b in (
    ("upper arm", "shoulder", "elbow"), ("forearm", "elbow", "wrist"), ("thigh", "hip", "knee"), ("shin", "knee", "ankle"),
))  # fmt: skip
SOLES = ("left_heel", "left_big_toe", "right_heel", "right_big_toe")
"""Keypoints of the first four columns of `Motion.contacts`."""
PLANTED = 0.5
"""Contact probability above which a foot should not move."""
REGIONS = {
    "trunk and head": ("Hips", "Spine", "Spine1", "Spine2", "Neck", "Head"),
    "arms": tuple(s + j for s in ("Left", "Right") for j in ("Shoulder", "Arm", "ForeArm", "Hand")),
    "legs": tuple(s + j for s in ("Left", "Right") for j in ("UpLeg", "Leg", "Foot", "ToeBase")),
    "left fingers": tuple(f"LeftHand{f}{i}" for f in ("Thumb", "Index", "Middle", "Ring", "Pinky") for i in (1, 2, 3)),
    "right fingers": tuple(f"RightHand{f}{i}" for f in ("Thumb", "Index", "Middle", "Ring", "Pinky") for i in (1, 2, 3)),
}
"""Joints whose uncertainty is drawn as one line."""


PIECE = 1000
"""Frames in memory at a time."""
STRANGE = 3.5
"""Joints that lie stranger than this are listed; one pose of a thousand is at 1, and of a real man who balances none is above 3.3."""
LOOKED_AT = 6000
"""About as many frames, evenly over the take, give the medians and plots; fewer than twice as many are all looked at."""


@dataclass(frozen=True)
class Measured:
    """One actor against what the cameras saw. Errors are those of the fitted body, of the triangulated points without a fit.

    N counts the frames that are looked at: every `every`-th of the take's T.
    """

    actor: str
    source: str
    """`fit`, `triangulation`, or `nothing`."""
    every: int
    detected: Bool[Tensor, "C T"]
    swapped: Bool[Tensor, "C T"]
    """Views whose left and right the network exchanged."""
    seen: Bool[Tensor, "C N K"]
    trusted: Bool[Tensor, "C N K"]
    """Keypoints that agree with the other views."""
    groups: dict[str, list[int]]
    """Keypoint indices of body, feet, face and hands."""
    offset: Float[Tensor, "C N K 2"]
    """Seen minus projected, px; NaN where either is missing."""
    scale: Float[Tensor, "C N K"]
    """m at the actor's distance for one pixel."""
    velocity: Float[Tensor, "C N K 2"]
    """Of the projected point, px a frame."""
    triangulated: Float[Tensor, "N K 3"]
    fitted: Float[Tensor, "N K 3"]
    acceleration: dict[str, Float[Tensor, "N K"]]
    """Of the fitted and of the triangulated points, m/s^2."""
    soles: Float[Tensor, "T 4 3"]
    """Fitted heels and toes, m; NaN where the keypoint set has none."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """JSON values: what the page shows and `report.json` holds."""

    @property
    def error(self) -> Float[Tensor, "C N K"]:
        """Reprojection error, px."""
        return self.offset.norm(dim=-1)


def measured(material: Material, actor: str) -> Measured:
    """Everything measured of one actor."""
    every = max(1, material.count // LOOKED_AT)
    source = _source(material, actor)
    starts = range(0, max(material.count, 1), PIECE)
    pieces = [_looked_at(material, actor, source, slice(t, min(t + PIECE, material.count)), every) for t in starts]
    axes = {"detected": 1, "swapped": 1, "seen": 1, "trusted": 1, "offset": 1, "scale": 1, "velocity": 1}
    whole = {name: torch.cat([p[name] for p in pieces], axes.get(name, 0)) for name in pieces[0]}
    whole["acceleration"] = {kind: whole.pop(f"acceleration_{kind}") for kind in ("fit", "triangulated")}  # type: ignore[assignment]
    found = Measured(actor, source, every, groups=grouped(material.names), **whole)  # type: ignore[arg-type]
    found.numbers.update(
        source=source,
        every=every,
        reprojection=_reprojection(found, material),
        cameras={name: _camera(found, c) for c, name in enumerate(material.cameras.names)},
        groups={g: _group(found, index) for g, index in found.groups.items()},
        frames_in_two_views=_share(found.detected.sum(0) >= 2),
        bones=_bones(found, material.names),
        feet=_feet(found, material),
        shape=_shape(found, material),
        uncertainty=_uncertainty(found, material),
        strange=strange_joints(material.motions[actor], STRANGE) if actor in material.motions else [],
    )
    return found


def _source(material: Material, actor: str) -> str:
    """Which of both is measured: the fit where there is any."""
    for kind, table in (("fit", material.fitted), ("triangulation", material.triangulated)):
        if any(bool(torch.isfinite(table(actor, slice(t, t + CHUNK))).any()) for t in range(0, material.count, CHUNK)):
            return kind
    return "nothing"


def _looked_at(material: Material, actor: str, source: str, frames: slice, every: int) -> dict[str, Tensor]:
    """The tensors of `Measured` for some consecutive frames; neighbours on both sides give speeds."""
    begin, end = max(frames.start - 1, 0), min(frames.stop + 1, material.count)
    wide = slice(begin, end)
    sighting = material.sighting(actor, wide)
    triangulated, fitted = material.triangulated(actor, wide), material.fitted(actor, wide)
    projected, scale = _projected(material, fitted if source == "fit" else triangulated)
    velocity = torch.full_like(projected, torch.nan)
    velocity[:, 1:-1] = (projected[:, 2:] - projected[:, :-2]) / 2
    own = slice(frames.start - begin, frames.stop - begin)
    few = slice(own.start + -frames.start % every, own.stop, every)
    soles = torch.full((len(fitted), len(SOLES), 3), torch.nan)
    for i, name in enumerate(SOLES):
        if name in material.names:
            soles[:, i] = fitted[:, material.names.index(name)]
    parts = {
        "detected": sighting.detected[:, own],
        "swapped": sighting.swapped[:, own],
        "seen": sighting.seen[:, few],
        "trusted": sighting.trusted[:, few],
        "offset": (sighting.pixels - projected)[:, few],
        "scale": scale[:, few],
        "velocity": velocity[:, few],
        "triangulated": triangulated[few],
        "fitted": fitted[few],
        "acceleration_fit": _acceleration(fitted, material.fps)[few],
        "acceleration_triangulated": _acceleration(triangulated, material.fps)[few],
        "soles": soles[own],
    }
    return {name: part.clone() for name, part in parts.items()}  # a view would keep all that it was cut from


def _projected(material: Material, world: Float[Tensor, "T K 3"]) -> tuple[Tensor, Tensor]:
    """Pixels (C,T,K,2) of world points, and m for one pixel at their distance (C,T,K)."""
    focal = material.cameras.focal.mean(-1)[:, None, None]
    world = world.double()
    return material.cameras.project(world).float(), (material.cameras.to_camera(world)[..., 2] / focal).float()


def grouped(names: tuple[str, ...]) -> dict[str, list[int]]:
    """Keypoint indices by body, feet, face, left hand, right hand; keypoints of no known group count as body."""
    group_of = {sets.COCO_WHOLEBODY[i]: g for g, members in sets.GROUPS.items() for i in members}
    found: dict[str, list[int]] = {g: [] for g in sets.GROUPS}
    for k, name in enumerate(names):
        found[group_of.get(name, "body")].append(k)
    return {g: index for g, index in found.items() if index}


def spread(values: Tensor | np.ndarray, factor: float = 1.0, digits: int = 3) -> dict[str, float | int | None]:
    """Median, 90th percentile and count of the finite values, times `factor`."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    flat = flat[np.isfinite(flat)] * factor
    if not len(flat):
        return {"median": None, "p90": None, "count": 0}
    median, p90 = np.quantile(flat, (0.5, 0.9))
    return {"median": round(float(median), digits), "p90": round(float(p90), digits), "count": len(flat)}


def over_time(values: Float[Tensor, "... T"], bins: int) -> Float[np.ndarray, "rows bins"]:
    """Median over all leading axes but the first, in `bins` (or fewer) equal stretches of time; NaN where nothing was seen."""
    array = np.asarray(values, dtype=np.float32)
    edges = np.linspace(0, array.shape[-1], min(bins, array.shape[-1]) + 1).astype(int)
    rows = [[_median(row[..., a:b]) for a, b in pairwise(edges.tolist())] for row in array]
    return np.array(rows, dtype=np.float32).reshape(len(array), -1)


def _median(values: np.ndarray) -> float:
    flat = values[np.isfinite(values)]
    return float(np.median(flat)) if flat.size else float("nan")


def _share(flags: Bool[Tensor, "..."]) -> float:
    return round(float(flags.float().mean()), 4) if flags.numel() else 0.0


def _trusted(found: Measured) -> Float[Tensor, "C T K"]:
    return torch.where(found.trusted, found.error, torch.nan)


def _reprojection(found: Measured, material: Material) -> dict[str, Any]:
    error = _trusted(found)
    return {"px": spread(error), "mm": spread(error * found.scale, 1000), "all_seen_px": spread(found.error), "frames": material.count}


def _camera(found: Measured, c: int) -> dict[str, Any]:
    """Numbers of one view."""
    seen, trusted = found.seen[c], found.trusted[c]
    error = torch.where(trusted, found.error[c], torch.nan)
    return {
        "detected": _share(found.detected[c]),
        "swapped_frames": int(found.swapped[c].sum()),
        "rejected": round(1 - float(trusted.sum()) / max(float(seen.sum()), 1.0), 4),
        "px": spread(error),
        "mm": spread(error * found.scale[c], 1000),
        "all_seen_px": spread(found.error[c]),
        "groups": {g: {"detected": _share(seen[:, k].float().mean(-1) >= 0.5), "px": spread(error[:, k])} for g, k in found.groups.items()},
        "limbs_mm": spread((error * found.scale[c])[:, [i for g in ("body", "feet") for i in found.groups.get(g, [])]], 1000),
        "shift": _shift(found, c),
        "late_frames": _lateness(found, c),
    }


def _shift(found: Measured, c: int) -> dict[str, float | None]:
    """Middle of all offsets of a view, body and feet: a view whose camera was moved is off in one direction."""
    k = [i for g in ("body", "feet") for i in found.groups.get(g, [])]
    offset = found.offset[c, :, k][found.seen[c, :, k]]
    offset = offset[torch.isfinite(offset).all(-1)]
    if not len(offset):
        return {"x_px": None, "y_px": None, "mm": None, "share": None}
    middle = offset.median(0).values
    typical = float(offset.norm(dim=-1).median())
    size = float(middle.norm())
    scale = float(found.scale[c][torch.isfinite(found.scale[c])].median())
    return {
        "x_px": round(float(middle[0]), 2),
        "y_px": round(float(middle[1]), 2),
        "mm": round(size * scale * 1000, 2),
        "share": round(size / max(typical, 1e-6), 3),
    }


def _lateness(found: Measured, c: int) -> float | None:
    """Frames by which a view shows later moments than the body: least squares of offsets on image velocities, outliers left out.

    None where the actor hardly moves in this view. Being fitted to all views, the body follows a late camera part of the way, so
    true delays are larger.
    """
    k = [i for g in ("body", "feet") for i in found.groups.get(g, [])]
    r, v = found.offset[c, :, k].reshape(-1, 2), found.velocity[c, :, k].reshape(-1, 2)
    usable = torch.isfinite(r).all(-1) & torch.isfinite(v).all(-1) & (v.norm(dim=-1) > 1.0)
    if int(usable.sum()) < 100:
        return None
    r, v = r[usable], v[usable]
    r = r - r.median(0).values
    keep = r.norm(dim=-1) <= r.norm(dim=-1).quantile(0.9) if len(r) < 10_000_000 else torch.ones(len(r), dtype=torch.bool)
    return round(float((r * v)[keep].sum() / (v * v)[keep].sum()), 2)


def _group(found: Measured, k: list[int]) -> dict[str, Any]:
    """Numbers of one keypoint group over all views."""
    error = _trusted(found)[:, :, k]
    views = found.trusted[:, :, k].sum(0)
    return {
        "px": spread(error),
        "mm": spread(error * found.scale[:, :, k], 1000),
        "coverage": _share((views >= 2).float().mean(-1) >= 0.5),
        "acceleration_fit": spread(found.acceleration["fit"][:, k], digits=2),
        "acceleration_triangulated": spread(found.acceleration["triangulated"][:, k], digits=2),
    }


def _acceleration(points: Float[Tensor, "T K 3"], fps: float) -> Float[Tensor, "T K"]:
    """Second difference of the positions, m/s^2; NaN in the first and the last frame."""
    found = torch.full(points.shape[:-1], torch.nan)
    found[1:-1] = (points[2:] - 2 * points[1:-1] + points[:-2]).norm(dim=-1) * fps**2
    return found


def _bones(found: Measured, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Length over time of the limbs, mm: median and scatter, triangulated and fitted."""
    table = []
    for label, a, b in LIMBS:
        if a in names and b in names:
            row: dict[str, Any] = {"bone": label}
            for kind, points in (("triangulated", found.triangulated), ("fit", found.fitted)):
                length = (points[:, names.index(a)] - points[:, names.index(b)]).norm(dim=-1)
                length = length[torch.isfinite(length)]
                few = len(length) < 2
                row[kind] = None if few else round(float(length.median()) * 1000, 1)
                row[f"{kind}_scatter"] = None if few else round(float(length.std()) * 1000, 2)
            table.append(row)
    return table


def _feet(found: Measured, material: Material) -> dict[str, Any] | None:
    """Speed over the floor (mm/s) and height (mm) of heels and toes while their contact says planted; None without a fit."""
    motion = material.motions.get(found.actor)
    if motion is None or found.source != "fit" or not all(n in material.names for n in SOLES):
        return None
    soles = found.soles
    planted = material.on_time_line(motion.contacts[:, : len(SOLES)], motion.first_frame, 0, 0.0) > PLANTED
    both = planted[1:] & planted[:-1]
    speed = (soles[1:, :, :2] - soles[:-1, :, :2]).norm(dim=-1) * material.fps
    return {
        "planted": {n: _share(planted[:, i]) for i, n in enumerate(SOLES)},
        "speed_mm_s": spread(torch.where(both, speed, torch.nan), 1000, 1),
        "height_mm": spread(torch.where(planted, soles[..., 2], torch.nan), 1000, 1),
        "lowest_mm": spread(soles[..., 2].min(-1).values, 1000, 1),
    }


def _shape(found: Measured, material: Material) -> dict[str, Any] | None:
    motion = material.motions.get(found.actor)
    if motion is None:
        return None
    names = material.body.shape_names if material.body else ()
    size = motion.shape.abs()
    widest = int(size.argmax()) if size.numel() else None
    stature = None
    if material.body is not None:
        rest = material.body.shaped(motion.shape).rest()
        stature = round(float(rest[:, 2].max() - rest[:, 2].min()), 3)
    return {
        "stature_m": stature,
        "largest": round(float(size[widest]), 2) if widest is not None else None,
        "largest_name": names[widest] if widest is not None and widest < len(names) else None,
        "coefficients": [round(v, 3) for v in motion.shape.tolist()],
    }


def _uncertainty(found: Measured, material: Material) -> dict[str, Any] | None:
    motion = material.motions.get(found.actor)
    if motion is None:
        return None
    joints = {name: spread(motion.sigma[:, j], 1000, 2)["median"] for j, name in enumerate(motion.joints)}
    return {"mm": spread(motion.sigma, 1000, 2), "joints_mm": joints}

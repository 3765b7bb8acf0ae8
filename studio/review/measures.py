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
from studio.review.material import Material, Sighting

LIMBS = tuple((f"{s} {part}", f"{s}_{a}", f"{s}_{b}") for s in ("left", "right") for part, a, b in (
    ("upper arm", "shoulder", "elbow"), ("forearm", "elbow", "wrist"), ("thigh", "hip", "knee"), ("shin", "knee", "ankle"),
))  # fmt: skip
SOLES = ("left_heel", "left_big_toe", "right_heel", "right_big_toe")
"""Keypoints of the four columns of `Motion.contacts`."""
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


@dataclass(frozen=True)
class Measured:
    """One actor against what the cameras saw. Errors are those of the fitted body, of the triangulated points without a fit."""

    actor: str
    source: str
    """`fit`, `triangulation`, or `nothing`."""
    sighting: Sighting
    groups: dict[str, list[int]]
    """Keypoint indices of body, feet, face and hands."""
    offset: Float[Tensor, "C T K 2"]
    """Seen minus projected, px; NaN where either is missing."""
    scale: Float[Tensor, "C T K"]
    """m at the actor's distance for one pixel."""
    velocity: Float[Tensor, "C T K 2"]
    """Of the projected point, px a frame."""
    triangulated: Float[Tensor, "T K 3"]
    fitted: Float[Tensor, "T K 3"]
    numbers: dict[str, Any] = field(default_factory=dict)
    """JSON values: what the page shows and `report.json` holds."""

    @property
    def error(self) -> Float[Tensor, "C T K"]:
        """Reprojection error, px."""
        return self.offset.norm(dim=-1)


def measured(material: Material, actor: str) -> Measured:
    """Everything measured of one actor."""
    sighting = material.sighting(actor)
    triangulated, fitted = material.triangulated(actor), material.fitted(actor)
    has_fit, has_points = bool(torch.isfinite(fitted).any()), bool(torch.isfinite(triangulated).any())
    source = "fit" if has_fit else "triangulation" if has_points else "nothing"
    world = fitted if has_fit else triangulated
    projected, scale = _projected(material, world)
    velocity = torch.full_like(projected, torch.nan)
    velocity[:, 1:-1] = (projected[:, 2:] - projected[:, :-2]) / 2
    offset = sighting.pixels - projected
    found = Measured(actor, source, sighting, grouped(material.names), offset, scale, velocity, triangulated, fitted)
    found.numbers.update(
        source=source,
        reprojection=_reprojection(found, material),
        cameras={name: _camera(found, c) for c, name in enumerate(material.cameras.names)},
        groups={g: _group(found, index, material.fps) for g, index in found.groups.items()},
        frames_in_two_views=_share(sighting.detected.sum(0) >= 2),
        bones=_bones(found, material.names),
        feet=_feet(found, material),
        shape=_shape(found, material),
        uncertainty=_uncertainty(found, material),
    )
    return found


def _projected(material: Material, world: Float[Tensor, "T K 3"], chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Pixels (C,T,K,2) of world points, and m for one pixel at their distance (C,T,K); in stretches, for double precision is large."""
    focal = material.cameras.focal.mean(-1)[:, None, None]
    parts = [world[i : i + chunk].double() for i in range(0, max(len(world), 1), chunk)]
    pixels = torch.cat([material.cameras.project(p).float() for p in parts], 1)
    return pixels, torch.cat([(material.cameras.to_camera(p)[..., 2] / focal).float() for p in parts], 1)


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
    return torch.where(found.sighting.trusted, found.error, torch.nan)


def _reprojection(found: Measured, material: Material) -> dict[str, Any]:
    error = _trusted(found)
    return {"px": spread(error), "mm": spread(error * found.scale, 1000), "all_seen_px": spread(found.error), "frames": material.count}


def _camera(found: Measured, c: int) -> dict[str, Any]:
    """Numbers of one view."""
    seen, trusted = found.sighting.seen[c], found.sighting.trusted[c]
    error = torch.where(trusted, found.error[c], torch.nan)
    return {
        "detected": _share(found.sighting.detected[c]),
        "swapped_frames": int(found.sighting.swapped[c].sum()),
        "rejected": round(1 - float(trusted.sum()) / max(float(seen.sum()), 1.0), 4),
        "px": spread(error),
        "mm": spread(error * found.scale[c], 1000),
        "all_seen_px": spread(found.error[c]),
        "groups": {g: {"detected": _share(seen[:, k].float().mean(-1) >= 0.5), "px": spread(error[:, k])} for g, k in found.groups.items()},
        "shift": _shift(found, c),
        "late_frames": _lateness(found, c),
    }


def _shift(found: Measured, c: int) -> dict[str, float | None]:
    """Middle of all offsets of a view, body and feet: a view whose camera was moved is off in one direction."""
    k = [i for g in ("body", "feet") for i in found.groups.get(g, [])]
    offset = found.offset[c, :, k][found.sighting.seen[c, :, k]]
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


def _group(found: Measured, k: list[int], fps: float) -> dict[str, Any]:
    """Numbers of one keypoint group over all views."""
    error = _trusted(found)[:, :, k]
    views = found.sighting.trusted[:, :, k].sum(0)
    return {
        "px": spread(error),
        "mm": spread(error * found.scale[:, :, k], 1000),
        "coverage": _share((views >= 2).float().mean(-1) >= 0.5),
        "acceleration_fit": spread(acceleration(found.fitted[:, k], fps), digits=2),
        "acceleration_triangulated": spread(acceleration(found.triangulated[:, k], fps), digits=2),
    }


def acceleration(points: Float[Tensor, "T K 3"], fps: float) -> Float[Tensor, "T-2 K"]:
    """Second difference of the positions, m/s^2."""
    return (points[2:] - 2 * points[1:-1] + points[:-2]).norm(dim=-1) * fps**2


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
    soles = found.fitted[:, [material.names.index(n) for n in SOLES]]
    planted = material.on_time_line(motion.contacts, motion.first_frame, 0, 0.0) > PLANTED
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

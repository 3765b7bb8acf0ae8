"""How far a take's result is from the exact truth of a virtual capture, beside what triangulation alone would give."""

from __future__ import annotations

from itertools import permutations
from math import isnan
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rigs.body import Posed
from rigs.catalogue import open_body
from rigs.keypoints import COCO_17, COCO_WHOLEBODY
from studio.take import Take
from studio.values import Motion, Tracks3D
from studio.virtual import Truth

LIMBS = COCO_17[5:]
"""Shoulders to ankles: keypoints that both a triangulation and a fitted body have."""
BODY = ("Hips", "Spine2", "Neck", "Head", *(s + n for s in ("Left", "Right") for n in ("Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot")))
FEET = ("left_heel", "left_big_toe", "right_heel", "right_big_toe")
"""Order of `Truth.contacts`."""
FACE = tuple(n for n in COCO_WHOLEBODY if n.startswith("face-"))
Row = dict[str, float]


def evaluate(take: Take, truth: Path) -> dict[str, Row]:
    """Errors of the take's motions and tracks against `truth` (a virtual capture's truth.safetensors), noted for the report.

    Rows by actor and quantity: `error_mm` mean distance, `p90_mm` its 90th percentile, `acceleration` mean error, m/s^2, `found`
    share of frames with a value. Joints are the body's own; keypoints are shoulders to ankles where the true body has them.
    """
    exact, tracks = Truth.load(truth), Tracks3D.load(take.tracks_file)
    motions = {a: Motion.load(take.motion_file(a)) for a in take.actors if take.motion_file(a).exists()}
    if not motions:
        raise FileNotFoundError(f"{take.folder}: holds no motion to evaluate; run `studio run {take.folder}` first")
    rows: dict[str, Row] = {}
    for actor, who in matched(motions, exact).items():
        motion = motions[actor]
        posed, when = posed_of(motion), slice(motion.first_frame, motion.first_frame + len(motion.translation))
        lead = f"{actor}: " if len(motions) > 1 else ""
        names = exact.joint_names
        for part, joints in (("body joints", BODY), ("hand joints", tuple(n for n in names if "Hand" in n and n[-1].isdigit()))):
            which = [names.index(n) for n in joints]
            rows[f"{lead}{part}, fitted"] = compared(posed.joints[:, which], exact.joints[when, who][:, which], exact.fps)
        body = open_body(motion.body)
        right, face = (exact.keypoints[when, who][:, [exact.keypoint_names.index(n) for n in part]] for part in (LIMBS, FACE))
        rows[f"{lead}limb keypoints, fitted"] = compared(posed.points(body.keypoint_skin(LIMBS)), right, exact.fps)
        if known := [i for i, n in enumerate(FACE) if n in body.keypoint_names]:
            skin = body.keypoint_skin([FACE[i] for i in known])
            rows[f"{lead}face landmarks, fitted"] = compared(posed.points(skin), face[:, known], exact.fps)
            skate = skated(posed.points(body.keypoint_skin(FEET)), exact.contacts[when, who])
            rows |= {f"{lead}skate of planted feet a frame": skate} if skate["found"] else {}
        seen = tracks.points[:, tracks.actors.index(actor)][:, [tracks.keypoints.index(n) for n in LIMBS]]
        rows[f"{lead}limb keypoints, triangulated only"] = compared(seen, right, exact.fps)
    take.note("truth", against_truth={name: {k: None if isnan(v) else v for k, v in row.items()} for name, row in rows.items()})
    return rows


def compared(found: Float[Tensor, "T P 3"], exact: Float[Tensor, "T P 3"], fps: float) -> Row:
    """Distance and acceleration error of points; frames without a value are left out and lower `found`."""
    off = (found - exact).norm(dim=-1)
    there = torch.isfinite(off)
    bent = (torch.diff(found, n=2, dim=0) - torch.diff(exact, n=2, dim=0)).norm(dim=-1) * fps**2
    bent = bent[torch.isfinite(bent)]
    if not bool(there.any()):
        return {"error_mm": torch.nan, "p90_mm": torch.nan, "acceleration": torch.nan, "found": 0.0}
    return {
        "error_mm": 1000 * float(off[there].mean()),
        "p90_mm": 1000 * float(off[there].quantile(0.9)),
        "acceleration": float(bent.mean()) if len(bent) else torch.nan,
        "found": float(there.float().mean()),
    }


def skated(feet: Float[Tensor, "T 4 3"], planted: Float[Tensor, "T 4"]) -> Row:
    """How far `FEET` move from frame to frame while they truly stand in both; `found` is the share of such steps."""
    step, on = torch.diff(feet, dim=0).norm(dim=-1), planted > 0.5
    off = step[on[1:] & on[:-1]]
    mean, most = (float(off.mean()), float(off.quantile(0.9))) if len(off) else (torch.nan, torch.nan)
    return {"error_mm": 1000 * mean, "p90_mm": 1000 * most, "acceleration": torch.nan, "found": len(off) / max(1, step.numel())}


def posed_of(motion: Motion) -> Posed:
    """The body in every frame of a motion."""
    shaped = open_body(motion.body).shaped(motion.shape)
    return shaped.posed(motion.rotation, motion.translation, motion.expression)


def foretold(motion: Motion, exact: Truth, who: int = 0) -> float:
    """Mean squared error of a motion's joints over what their sigma foretells: 1 where sigma is right, less where it is cautious."""
    when = slice(motion.first_frame, motion.first_frame + len(motion.translation))
    off = posed_of(motion).joints - exact.joints[when, who]
    return float((off.square().mean(-1) / motion.sigma**2).mean())


def matched(motions: dict[str, Motion], exact: Truth) -> dict[str, int]:
    """Which true person each motion is: the assignment with the smallest distance between roots."""
    names = list(motions)
    if len(names) > len(exact.actors):
        raise ValueError(f"{len(names)} motions {names} for {len(exact.actors)} people in the truth; run with --actors {len(exact.actors)}")

    def apart(name: str, who: int) -> float:
        motion = motions[name]
        when = slice(motion.first_frame, motion.first_frame + len(motion.translation))
        return float((motion.translation - exact.translation[when, who]).norm(dim=-1).mean())

    best = min(
        permutations(range(len(exact.actors)), len(names)), key=lambda order: sum(apart(n, w) for n, w in zip(names, order, strict=True))
    )
    return dict(zip(names, best, strict=True))


def table(rows: dict[str, Row], console: Console) -> None:
    """Print what `evaluate` found."""
    view = Table("against the exact truth", "mean mm", "90 % within mm", "acceleration error m/s²", "found")
    for column in view.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        view.add_row(
            name,
            f"{row['error_mm']:.1f}",
            f"{row['p90_mm']:.1f}",
            "-" if isnan(row["acceleration"]) else f"{row['acceleration']:.1f}",
            f"{100 * row['found']:.0f} %",
        )
    console.print(view)

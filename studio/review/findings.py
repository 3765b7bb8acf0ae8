"""What a person should know before using a take: each finding says what was measured, the limit, and what to do."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from studio.review.material import Material
from studio.review.measures import STRANGE, Measured

Severity = Literal["stop", "look", "note"]
ORDER: tuple[Severity, ...] = ("stop", "look", "note")
"""stop: do not use the result before this is settled; look: check it; note: good to know."""


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which the report warns. Lengths are at the actor's distance, so they hold for any resolution and lens."""

    error_mm: float = 40.0
    """Median reprojection error of a camera."""
    error_ratio: float = 2.0
    """Median error of a camera over the median of the others (only above 10 mm)."""
    rejected: float = 0.3
    """Share of a camera's keypoints that other views contradict."""
    contradicted: float = 0.8
    """The same, beyond which the camera is wrong and not only doubtful."""
    shift_mm: float = 15.0
    """Middle of a camera's offsets, when they mostly point the same way."""
    shift_share: float = 0.6
    """That middle over the camera's typical error."""
    late_frames: float = 0.75
    """Frames that a camera runs ahead of or behind the others."""
    detected: float = 0.5
    """Share of frames in which a camera sees the actor (less: note)."""
    two_views: float = 0.95
    """Share of frames in which at least two cameras see the actor; below half of it the take is not usable."""
    body: float = 0.9
    feet: float = 0.8
    hands: float = 0.6
    face: float = 0.5
    """Share of frames in which half of a group's keypoints are agreed on by two views."""
    swapped: float = 0.15
    """Share of views in which the network took left for right (put back, but a sign of hard pictures)."""
    shape_sigma: float = 3.0
    """Standard deviations of the largest shape coefficient."""
    bone: float = 0.06
    """Difference between a fitted and a triangulated limb, relative."""
    bone_scatter: float = 0.06
    """Scatter of a triangulated limb's length over time, relative."""
    slide_mm_s: float = 100.0
    """90th percentile of a planted foot's speed."""
    floor_mm: tuple[float, float] = (-30.0, 60.0)
    """Median height of planted heels and toes."""
    uncertainty_mm: float = 25.0
    """Median standard deviation of the joints."""


@dataclass(frozen=True)
class Finding:
    """One thing to know."""

    severity: Severity
    title: str
    measured: str
    limit: str
    remedy: str


def findings(material: Material, actors: list[Measured], limits: Thresholds) -> list[Finding]:
    """All findings, the gravest first; each severity in the order of the capture: files, cameras, people, body, then the stages' words."""
    found = [*_of_files(material)]
    for actor in actors:
        found += [*_of_cameras(actor, limits), *_of_coverage(actor, material, limits), *_of_body(actor, material, limits)]
    found += [*_of_stages(material), *_unused_cameras(material)]
    once = {f.title: f for f in reversed(found)}  # a stage may say what another has said already
    return sorted((f for f in found if once[f.title] is f), key=lambda f: ORDER.index(f.severity))


def verdict(found: list[Finding]) -> tuple[Severity | Literal["good"], str]:
    """The worst severity and one line for the head of the report."""
    for severity, words in (("stop", "Do not use yet"), ("look", "Look before use")):
        titles = [f.title for f in found if f.severity == severity]
        if titles:
            rest = f" (and {len(titles) - 1} more)" if len(titles) > 1 else ""
            return ("stop" if severity == "stop" else "look"), f"{words}: {titles[0]}{rest}"
    return "good", "Trust: good. All measures are within their limits"


def _of_files(material: Material) -> Iterator[Finding]:
    for actor in material.actors or material.take.actors:
        if actor not in material.motions:
            yield Finding(
                "stop",
                f"{actor} has no motion",
                "no motion file",
                "one for every actor",
                "Run the fit stage; if nobody was found, see the cameras below.",
            )
            continue
        motion = material.motions[actor]
        whole = torch.isfinite(motion.rotation).all() and torch.isfinite(motion.translation).all()
        if not whole:
            yield Finding(
                "stop",
                f"The motion of {actor} holds values that are not numbers",
                "NaN or infinite",
                "none",
                "Run the fit stage again with --force.",
            )
    for gap in material.gaps:
        if "has no motion" not in gap:
            yield Finding(
                "look", gap.split(":")[0].split("(")[0].strip().rstrip("."), "file missing", "present", gap.split(": ", 1)[-1].capitalize()
            )


def _of_stages(material: Material) -> Iterator[Finding]:
    """What the stages and the opening of the take warned of."""
    for warning in material.take.warnings:
        yield Finding("look", warning, "Seen when the files were opened.", "", "Correct the files or take.yaml if this was not intended.")
    for stage, note in material.take.notes().items():
        for warning in note.get("warnings", []):
            yield Finding("look", warning, f"Said by the stage “{stage}”.", "", "")


def _unused_cameras(material: Material) -> Iterator[Finding]:
    from calibration import formats

    names = formats.read_cameras(material.take.cameras_file).names
    unused = [n for n in names if n not in material.take.videos]
    if unused:
        yield Finding(
            "note",
            f"Calibrated but not used: {', '.join(unused)}",
            f"{len(unused)} of {len(names)} cameras have no video",
            "every camera has a video",
            "Add their videos, unless they were left out on purpose.",
        )


def _of_cameras(actor: Measured, limits: Thresholds) -> Iterator[Finding]:
    cameras = actor.numbers["cameras"]
    middle = {c: n["limbs_mm"]["median"] for c, n in cameras.items() if n["limbs_mm"]["median"] is not None}
    late = {c: n["late_frames"] for c, n in cameras.items() if n["late_frames"] is not None}
    for name, numbers in cameras.items():
        yield from _error(name, numbers, [v for c, v in middle.items() if c != name], limits)
        if numbers["rejected"] > limits.rejected:
            yield Finding(
                "stop" if numbers["rejected"] > limits.contradicted else "look",
                f"Camera {name} contradicts the others",
                f"{numbers['rejected']:.0%} of its keypoints rejected",
                f"{limits.rejected:.0%}",
                "Look at its overlays: another person, the video of another camera, or a moved camera.",
            )
        shift = numbers["shift"]
        if shift["mm"] is not None and shift["mm"] > limits.shift_mm and shift["share"] > limits.shift_share:
            yield Finding(
                "look",
                f"Camera {name} is off in one direction",
                f"all its points are off by ({shift['x_px']:+.1f}, {shift['y_px']:+.1f}) px, {shift['mm']:.0f} mm at the actor",
                f"{limits.shift_mm:.0f} mm in one direction",
                "It was moved after the calibration, or is out of step: check sync, calibrate again, or leave it out and compare.",
            )
        others = [v for c, v in late.items() if c != name]
        if name in late and len(others) >= 2 and abs(delay := late[name] - statistics.median(others)) > limits.late_frames:
            yield Finding(
                "look",
                f"Camera {name} is out of step",
                f"about {abs(delay):.1f} frames {'ahead of' if delay > 0 else 'behind'} the others, or more",
                f"{limits.late_frames} frames",
                "Run the sync stage, or correct this camera's offset.",
            )
        if numbers["detected"] < limits.detected:
            yield Finding(
                "note",
                f"Camera {name} sees {actor.actor} in {numbers['detected']:.0%} of the frames",
                f"{numbers['detected']:.0%}",
                f"{limits.detected:.0%}",
                "Turn the camera towards the volume, or light that side better.",
            )


def _error(name: str, numbers: dict[str, Any], others: list[float], limits: Thresholds) -> Iterator[Finding]:
    error, px = numbers["limbs_mm"]["median"], numbers["px"]["median"]  # hands and faces are seen by some cameras only
    if error is None:
        return
    if error > limits.error_mm:
        severity: Severity = "stop" if error > 2 * limits.error_mm else "look"
        yield Finding(
            severity,
            f"Camera {name} does not fit the result",
            f"median error {px:.1f} px, {error:.0f} mm at the actor",
            f"{limits.error_mm:.0f} mm",
            "Check that the video belongs to this camera, then sync, then calibration.",
        )
    elif others and error > 10 and error > limits.error_ratio * statistics.median(others):
        yield Finding(
            "look",
            f"Camera {name} fits worse than the others",
            f"median error {error:.0f} mm against {statistics.median(others):.0f} mm",
            f"{limits.error_ratio:g} times the others",
            "Look at its overlays; calibrate again if the whole picture is off.",
        )


def _of_coverage(actor: Measured, material: Material, limits: Thresholds) -> Iterator[Finding]:
    share = actor.numbers["frames_in_two_views"]
    if share < limits.two_views:
        few = actor.detected.sum(0) < 2
        severity: Severity = "stop" if share < limits.two_views / 2 else "look"
        yield Finding(
            severity,
            f"{actor.actor} leaves the covered volume",
            f"seen by two cameras in {share:.0%} of the frames; less in {ranges(few, material.first)}",
            f"{limits.two_views:.0%}",
            "Trust the motion there only as far as it looks right; next time add a camera or keep to the middle.",
        )
    if hands := _only_hands(actor):
        yield Finding(
            "look",
            f"Only the {' and '.join(hands)} of {actor.actor} {'was' if len(hands) == 1 else 'were'} seen",
            "no camera shows anything else",
            "a body",
            "Use hands and fingers alone: arms, trunk and legs are put where the hands are at ease, and sigma says that nobody saw them.",
        )
        return
    wanted = {"body": limits.body, "feet": limits.feet, "left_hand": limits.hands, "right_hand": limits.hands, "face": limits.face}
    for group, numbers in actor.numbers["groups"].items():
        if numbers["coverage"] < wanted[group]:
            part, verb = group.replace("_", " "), "are" if group == "feet" else "is"
            yield Finding(
                "note" if group == "face" else "look",
                f"The {part} of {actor.actor} {verb} rarely seen",
                f"two views agree on it in {numbers['coverage']:.0%} of the frames",
                f"{wanted[group]:.0%}",
                "Where it was not seen the pose is a guess. Move cameras nearer, raise resolution or light, or animate this part by hand.",
            )
    swapped, detected = int(actor.swapped.sum()), int(actor.detected.sum())
    if swapped > limits.swapped * max(detected, 1):
        yield Finding(
            "note",
            "Left and right were often exchanged in the pictures",
            f"{swapped} of {detected} views, put back",
            f"{limits.swapped:.0%}",
            "Check arms and legs in the overlays; more light and contrast between the limbs help.",
        )


def _only_hands(actor: Measured) -> list[str]:
    """The hands that were seen, in words, where they are all that was; else nothing."""
    share = {group: float(actor.seen[:, :, index].any(-1).float().mean()) for group, index in actor.groups.items()}
    hands = [g.replace("_", " ") for g in ("left_hand", "right_hand") if share.pop(g, 0.0) > 0.02]
    return [] if any(share.values()) else hands


def _of_body(actor: Measured, material: Material, limits: Thresholds) -> Iterator[Finding]:
    shape, feet, sigma = (actor.numbers[k] for k in ("shape", "feet", "uncertainty"))
    if shape and shape["largest"] is not None and shape["largest"] > limits.shape_sigma:
        yield Finding(
            "look",
            f"The body shape of {actor.actor} is unlikely",
            f"coefficient {shape['largest_name'] or ''} at {shape['largest']:.1f} standard deviations",
            f"{limits.shape_sigma:g}",
            "Solve the shape from a take that shows the whole body from all sides, and reuse that profile.",
        )
    for row in actor.numbers["bones"]:
        yield from _bone(actor.actor, row, limits)
    if feet and (speed := feet["speed_mm_s"]["p90"]) is not None and speed > limits.slide_mm_s:
        yield Finding(
            "look",
            f"The feet of {actor.actor} slide while planted",
            f"90th percentile {speed:.0f} mm/s",
            f"{limits.slide_mm_s:.0f} mm/s",
            "Strengthen the floor contact in the fit, or pin the feet in the animation program.",
        )
    low, high = limits.floor_mm
    if feet and (height := feet["height_mm"]["median"]) is not None and not low <= height <= high:
        yield Finding(
            "look",
            "The floor is not where the feet stand",
            f"planted feet at {height:+.0f} mm",
            f"{low:.0f} to {high:.0f} mm",
            "Set the floor of the calibration again.",
        )
    if not _only_hands(actor):
        yield from _strange(actor)
    if sigma and not _only_hands(actor) and (middle := sigma["mm"]["median"]) is not None and middle > limits.uncertainty_mm:
        yield Finding(
            "look",
            f"The joints of {actor.actor} are uncertain",
            f"median standard deviation {middle:.0f} mm",
            f"{limits.uncertainty_mm:.0f} mm",
            "More cameras, or cameras more to the sides of one another.",
        )


def _strange(actor: Measured) -> Iterator[Finding]:
    if actor.numbers["strange"]:
        worst = actor.numbers["strange"][:3]
        told = "; ".join(f"{_words(row['joint'])} at {row['most']:.1f} in {_told(row['frames'])}" for row in worst)
        yield Finding(
            "look",
            f"{actor.actor} is bent as people seldom are",
            f"{told}, where 1 is the strangest of a thousand poses",
            f"{STRANGE:g}",
            "Look at the overlays there: a limb may be mirrored, or another's. A line in edits.yaml mends it; a stunt is no fault.",
        )


def _words(joint: str) -> str:
    """`LeftForeArm` as left fore arm."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", joint).lower()


def _bone(actor: str, row: dict[str, Any], limits: Thresholds) -> Iterator[Finding]:
    seen, fit = row["triangulated"], row["fit"]
    if not seen:
        return
    if fit and abs(fit / seen - 1) > limits.bone:
        yield Finding(
            "look",
            f"The {row['bone']} of {actor} has the wrong length",
            f"{fit:.0f} mm fitted, {seen:.0f} mm triangulated",
            f"{limits.bone:.0%}",
            "Solve the shape again from a take that shows this limb well.",
        )
    if row["triangulated_scatter"] > limits.bone_scatter * seen:
        yield Finding(
            "note",
            f"The triangulated {row['bone']} of {actor} changes its length",
            f"scatter {row['triangulated_scatter']:.0f} mm of {seen:.0f} mm",
            f"{limits.bone_scatter:.0%}",
            "The views disagree about this limb: see the residuals of the cameras over time.",
        )


def ranges(flags: Bool[Tensor, "T"], first: int, most: int = 4) -> str:
    """The frames where `flags` holds, as words: `frames 10-24, 31`."""
    spans: list[list[int]] = []
    for t in torch.nonzero(flags)[:, 0].tolist():
        if spans and t == spans[-1][1] + 1:
            spans[-1][1] = t
        else:
            spans.append([t, t])
    return _told([[a + first, b + first] for a, b in spans], most)


def _told(spans: list[list[int]], most: int = 4) -> str:
    """Stretches, each by its first and last frame, as words."""
    words = [f"{a}" if a == b else f"{a}–{b}" for a, b in spans[:most]]
    return f"frames {', '.join(words)}" + (f" and {len(spans) - most} more stretches" if len(spans) > most else "")

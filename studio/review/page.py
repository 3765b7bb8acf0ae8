"""The report's page: head, findings, playback, overlays, numbers, provenance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from studio.review import figures
from studio.review.document import card, document, heading, viewer
from studio.review.findings import Finding
from studio.review.markup import Markup, joined, number, table, tag
from studio.review.material import Material
from studio.review.measures import REGIONS, Measured, over_time
from studio.review.overlays import COLOURS, FITTED, REJECTED, TRUSTED
from studio.review.scene import Playback

WORDS = {"good": "good", "stop": "stop", "look": "look at", "note": "note"}
BINS = 240
"""Most columns of a plot over time."""


@dataclass(frozen=True)
class Thumbnail:
    """One picture of the overlay strips."""

    camera: str
    frame: int
    address: str
    """Data address."""


def page(
    material: Material,
    actors: list[Measured],
    summary: dict[str, Any],
    found: list[Finding],
    film: Playback | None,
    strips: list[Thumbnail],
) -> str:
    """The whole document."""
    sections: list[tuple[str, str, object]] = [
        ("findings", "Findings", _findings(found)),
        ("playback", "Playback", _playback(material, film)),
        ("overlays", "Overlays", _overlays(material, strips)),
        *((f"numbers-{i}", f"Numbers: {actor.actor}", _numbers(material, actor)) for i, actor in enumerate(actors)),
        *([("stages", "From the stages", _stages(summary["notes"]))] if summary["notes"] else []),
        ("provenance", "Provenance", _provenance(summary)),
    ]
    return document(f"{summary['take']}: take report", _head(summary), sections, _foot())


def _head(summary: dict[str, Any]) -> Markup:
    fps = summary["fps"]
    seconds = f" ({summary['frames'] / fps:.1f} s)" if fps else ""
    facts = {
        "Frames": f"{summary['frames']:,}{seconds}, {summary['first_frame']} to {summary['first_frame'] + summary['frames'] - 1}",
        "Rate": f"{fps:g} frames/s" if fps else "unknown",
        f"{len(summary['cameras'])} cameras": ", ".join(summary["cameras"]),
        "Actors": ", ".join(summary["actors"]) or "nobody",
        "Body model": summary["body"],
        "2D network": ", ".join(summary["networks"]) or "none ran",
        "Timecode of video frame 0": summary["timecode"],
        "Report made": summary["date"],
    }
    said = summary["verdict"]
    return heading("Take report", summary["take"], said["level"], said["text"], facts)


def _findings(found: list[Finding]) -> Markup:
    if not found:
        return tag(
            "div", tag("p", "Nothing to report: every measure is within its limit. The limits are listed under Provenance."), class_="card"
        )
    rows = []
    for f in found:
        said = f"Measured: {f.measured}; limit {f.limit}." if f.limit else f.measured
        rows.append(
            tag(
                "li",
                tag("span", WORDS[f.severity], class_=f"tag {f.severity}"),
                tag("b", f.title),
                tag("div", said, class_="more") if said else None,
                tag("div", f.remedy, class_="remedy") if f.remedy else None,
            )
        )
    return tag("ul", rows, class_="findings card")


def _playback(material: Material, film: Playback | None) -> Markup:
    if film is None:
        return tag("div", tag("p", "There is nothing to play: nobody was placed in 3D."), class_="card")
    every = (
        "every frame"
        if film.step == 1
        else f"every {film.step}th frame"
        if film.step > 3
        else f"every {('', '', '2nd', '3rd')[film.step]} frame"
    )
    words = (
        f"{film.shown} of {material.count} frames ({every}). Drag to turn, right drag to move, wheel to zoom; the bar below plays and "
        "scrubs. Yellow points are triangulated keypoints, grid cells half a metre. Faces stay neutral here and at most four joints "
        "move a vertex; the exported files hold everything."
    )
    return viewer(film.html, "3D playback", words)


def _overlays(material: Material, strips: list[Thumbnail]) -> Markup:
    if not strips:
        return tag("div", tag("p", "No picture could be read from the videos."), class_="card")
    keys = [(TRUSTED, "seen, other views agree"), (REJECTED, "seen, contradicted"), (FITTED, "cross: where the body says it is")]
    if len(material.actors) > 1:
        keys += [(COLOURS[i % len(COLOURS)], actor) for i, actor in enumerate(material.actors)]
    words = "The fitted body over the footage, cut out around the actors. A click enlarges; arrow keys go on, Escape closes."
    legend = joined(tag("p", words, class_="caption"), tag("div", [_key(*key) for key in keys], class_="legend"))
    rows = []
    for camera in material.cameras.names:
        mine = [s for s in strips if s.camera == camera]
        if mine:
            rows += [tag("h3", camera), tag("div", [_thumbnail(s) for s in mine], class_="strip")]
    return joined(legend, rows)


def _key(rgb: tuple[int, int, int], words: str) -> Markup:
    return tag("span", tag("span", class_="dot", style=f"background:rgb{rgb}"), words, class_="key")


def _thumbnail(shot: Thumbnail) -> Markup:
    words = f"{shot.camera}, frame {shot.frame}"
    box = tag("input", type="checkbox", aria_label=f"enlarge {words}")
    return tag(
        "figure", tag("label", box, tag("img", src=shot.address, alt=words, decoding="async")), tag("figcaption", f"frame {shot.frame}")
    )


def _numbers(material: Material, actor: Measured) -> Markup:
    numbers = actor.numbers
    if actor.source == "nothing":
        return tag("div", tag("p", f"{actor.actor} was not placed in 3D, so nothing can be measured."), class_="card")
    said = "the fitted body" if actor.source == "fit" else "the triangulated points (there is no fit)"
    all_px = numbers["reprojection"]
    intro = (
        f"Errors are distances between {said} and what the networks saw, over keypoints that other views agree with: "
        f"median {number(all_px['px']['median'])} px, {number(all_px['mm']['median'])} mm at the actor; "
        f"{number(all_px['all_seen_px']['median'])} px over everything seen. "
        f"Two cameras or more see {actor.actor} in {numbers['frames_in_two_views']:.1%} of the frames."
    )
    if actor.every > 1:
        intro += f" The take is long: errors are those of one frame in {actor.every}, evenly over all of it."
    return joined(
        tag("p", intro),
        card("Cameras", _camera_table(numbers["cameras"])),
        card("Parts of the body", _group_table(numbers["groups"])),
        card("Error over time, median of each camera", _error_plot(material, actor)),
        card("Error, camera by time", _error_map(material, actor)),
        tag("div", card("Limb lengths, mm", _bone_table(numbers["bones"])), card("Feet and body", _feet_and_shape(numbers)), class_="two"),
        _uncertainty(material, actor),
    )


def _camera_table(cameras: dict[str, Any]) -> Markup:
    heads = ("Camera", "Sees the actor", "Hands", "Rejected", "Error px", "90%", "mm", "90%", "Shift px", "Ahead, frames", "Exchanged")
    words = (
        "Rejected: share of keypoints that other views contradict. 90%: below this lie nine of ten. "
        "Shift: middle of all offsets. Exchanged: frames whose left and right were put back."
    )
    return joined(table(heads, [_camera_row(name, n) for name, n in cameras.items()]), tag("p", words, class_="caption under"))


def _camera_row(name: str, n: dict[str, Any]) -> list[object]:
    hands = [n["groups"][g]["detected"] for g in ("left_hand", "right_hand") if g in n["groups"]]
    shift = n["shift"]
    return [
        name,
        Markup(figures.bar(n["detected"])),
        Markup(figures.bar(sum(hands) / len(hands))) if hands else "–",
        f"{n['rejected']:.1%}",
        *_errors(n),
        "–" if shift["x_px"] is None else f"{shift['x_px']:+.1f}, {shift['y_px']:+.1f}",
        number(n["late_frames"], 2),
        n["swapped_frames"],
    ]


def _errors(n: dict[str, Any]) -> list[str]:
    """Median and 90th percentile in px, then in mm."""
    return [number(n[unit][which]) for unit in ("px", "mm") for which in ("median", "p90")]


def _group_table(groups: dict[str, Any]) -> Markup:
    heads = ("Part", "Seen by two views", "Error px", "90%", "mm", "90%", "Acceleration m/s², fit", "90%", "triangulated", "90%")
    rows = [
        [
            g.replace("_", " ").capitalize(),
            Markup(figures.bar(n["coverage"])),
            *_errors(n),
            *(number(n[f"acceleration_{kind}"][which]) for kind in ("fit", "triangulated") for which in ("median", "p90")),
        ]
        for g, n in groups.items()
    ]
    words = "Seen by two views: frames in which at least half of the part's keypoints are agreed on by two cameras or more."
    return joined(table(heads, rows), tag("p", words, class_="caption under"))


def _span(material: Material) -> tuple[float, float]:
    return float(material.first), float(material.first + material.count - 1)


def _trusted_error(actor: Measured) -> torch.Tensor:
    return torch.where(actor.trusted, actor.error, torch.nan).transpose(1, 2)


def _error_plot(material: Material, actor: Measured) -> Markup:
    values = over_time(_trusted_error(actor), BINS)
    return Markup(figures.lines(dict(zip(material.cameras.names, values, strict=True)), *_span(material), "px"))


def _error_map(material: Material, actor: Measured) -> Markup:
    values = over_time(_trusted_error(actor), BINS)
    return Markup(figures.heatmap(material.cameras.names, values, *_span(material), "px"))


def _bone_table(bones: list[dict[str, Any]]) -> Markup:
    heads = ("Limb", "Triangulated", "scatter", "Fitted", "scatter", "Difference")
    rows = []
    for b in bones:
        both = b["fit"] and b["triangulated"]
        difference = f"{b['fit'] / b['triangulated'] - 1:+.1%}" if both else "–"
        rows.append(
            (
                b["bone"].capitalize(),
                number(b["triangulated"], 0),
                number(b["triangulated_scatter"], 1),
                number(b["fit"], 0),
                number(b["fit_scatter"], 1),
                difference,
            )
        )
    return table(heads, rows)


def _feet_and_shape(numbers: dict[str, Any]) -> Markup:
    feet, shape = numbers["feet"], numbers["shape"]
    rows: list[tuple[str, str]] = []
    if feet:
        rows = [
            ("Sliding speed of planted feet, median", number(feet["speed_mm_s"]["median"], 0, "mm/s")),
            ("… 90th percentile", number(feet["speed_mm_s"]["p90"], 0, "mm/s")),
            ("Height of planted heels and toes, median", number(feet["height_mm"]["median"], 0, "mm")),
            *((f"{n.replace('_', ' ').capitalize()} planted", f"{share:.0%} of the frames") for n, share in feet["planted"].items()),
        ]
    if shape:
        rows += [("Stature", number(shape["stature_m"], 2, "m"))]
        rows += [
            (f"Largest shape coefficient{': ' + shape['largest_name'] if shape['largest_name'] else ''}", number(shape["largest"], 2, "sd"))
        ]
    if numbers["uncertainty"]:
        rows += [("Uncertainty of a joint, median", number(numbers["uncertainty"]["mm"]["median"], 1, "mm"))]
    return table(("Measure", "Value"), rows) if rows else tag("p", "There is no fitted body.", class_="quiet")


def _uncertainty(material: Material, actor: Measured) -> Markup | None:
    motion = material.motions.get(actor.actor)
    if motion is None or not bool(torch.isfinite(motion.sigma).any()):
        return None
    sigma = material.on_time_line(motion.sigma, motion.first_frame, 0, math.nan).T * 1000
    index = {region: [motion.joints.index(j) for j in joints if j in motion.joints] for region, joints in REGIONS.items()}
    curves = {region: over_time(sigma[k][None], BINS)[0] for region, k in index.items() if k}
    cells = over_time(sigma[:, None], BINS)
    keep = np.isfinite(cells).any(1)
    names = [n for n, there in zip(motion.joints, np.atleast_1d(keep).tolist(), strict=True) if there]
    return joined(
        card(
            "Uncertainty over time, median standard deviation of the joints' positions",
            Markup(figures.lines(curves, *_span(material), "mm")),
        ),
        card(
            "Uncertainty, joint by time",
            tag(
                "details",
                tag("summary", f"{len(names)} joints"),
                Markup(figures.heatmap(names, cells[keep], *_span(material), "mm", row=15)),
            ),
        ),
    )


def _stages(notes: dict[str, Any]) -> Markup:
    """What every stage noted, tables as tables."""
    cards = []
    for stage, note in notes.items():
        numbers = note.get("numbers") or {}
        if numbers:
            cards.append(card(stage.capitalize(), _noted(numbers)))
    return joined(cards) if cards else tag("p", "The stages noted nothing but the warnings above.", class_="quiet")


def _noted(numbers: dict[str, Any]) -> Markup:
    plain = [(k.replace("_", " ").capitalize(), _value(v)) for k, v in numbers.items() if not _is_table(v)]
    parts: list[object] = [table(("", ""), plain)] if plain else []
    for name, value in numbers.items():
        if _is_table(value):
            rows = [{"": k, **v} for k, v in value.items()] if isinstance(value, dict) else value
            heads = list(dict.fromkeys(h for row in rows for h in row))
            parts += [
                tag("h3", name.replace("_", " ").capitalize()),
                table([h.replace("_", " ") for h in heads], [[_value(r.get(h)) for h in heads] for r in rows]),
            ]
    return joined(parts)


def _is_table(value: object) -> bool:
    rows = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return bool(rows) and all(isinstance(r, dict) for r in rows)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_value(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_value(v) for v in value[:20]) + (f" … ({len(value)})" if len(value) > 20 else "")
    return "–" if value is None else str(value)


def _provenance(summary: dict[str, Any]) -> Markup:
    versions = table(("Program", "Version"), summary["versions"].items(), left=2)
    limits = table(
        ("Limit", "Value"), [(k.replace("_", " "), _value(list(v) if isinstance(v, tuple) else v)) for k, v in summary["limits"].items()]
    )
    files = table(("Input", "Where"), [*summary["videos"].items(), ("cameras", summary["cameras_file"])], left=2)
    return joined(
        tag("div", card("Made with", versions, tag("h3", "Inputs"), files), card("Limits of the findings", limits), class_="two"),
    )


def _foot() -> Markup:
    words = "The same numbers are in report.json beside this file. The 3D viewer is viser (Apache-2.0) with three.js (MIT)."
    return tag("footer", tag("main", words))

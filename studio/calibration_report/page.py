"""The page of a calibration's report: verdict, gates, rig, cameras, what each camera saw, links."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import torch

import studio
from calibration.gates import Gate, passed
from studio.calibration_report.account import Account, Row, Seen
from studio.calibration_report.pictures import arrows, coverage, enlargement, filled, plan
from studio.review import figures
from studio.review.document import card, document, heading, viewer
from studio.review.markup import Markup, joined, number, table, tag

STYLE = Path(__file__).with_name("page.css")
LEVELS = {"pass": "good", "warn": "look", "fail": "stop"}
BINS = 240
"""Most columns of a plot over time."""


def page(account: Account, scene: str | None) -> str:
    """The whole document; `scene` is the rig in 3D as a page of its own."""
    sections: list[tuple[str, str, object]] = [("gates", "Gates", _gates(account.gates)), ("rig", "The rig", _rig(account, scene))]
    if account.rows:
        sections.append(("cameras", "Cameras and lenses", _cameras(account)))
    if account.seen:
        sections.append(("seen", "What each camera saw", _pictures(account)))
    if account.links:
        sections.append(("links", "Links between cameras", _links(account)))
    if account.facts:
        sections.append(("facts", "Facts", card("Facts", table(("", ""), account.facts.items(), left=2))))
    level, words = verdict(account)
    facts = {
        "Made from": account.source,
        f"{len(account.cameras)} cameras": ", ".join(account.cameras.names),
        "Farthest apart": f"{float(torch.pdist(account.cameras.position).max()):.2f} m",
        "Report made": f"{datetime.now(UTC).astimezone():%Y-%m-%d %H:%M}, studio {studio.__version__}",
    }
    head = heading("Calibration report", account.title, level, words, facts)
    foot = "The same gates are in quality.yaml beside this file. The 3D viewer is viser (Apache-2.0) with three.js (MIT)."
    return document(f"{account.title}: report", head, sections, tag("footer", tag("main", foot)), STYLE.read_text())


def verdict(account: Account) -> tuple[str, str]:
    """`good`, `look` or `stop`, and one line: what is the matter with a calibration, if anything is."""
    failed = [g for g in account.gates if g.verdict == "fail"]
    warned = [g for g in account.gates if g.verdict == "warn"]
    if failed:
        accepted = "Accepted by the operator although it fails" if account.accepted else "Do not record with this calibration"
        return "stop", f"{accepted}: {failed[0].sentence}{_more(failed)}"
    if warned:
        return "look", f"Can be used, and could be better: {warned[0].sentence}{_more(warned)}"
    return "good", f"Good: all {len(account.gates)} gates are passed"


def _more(gates: list[Gate]) -> str:
    return f" (and {len(gates) - 1} more)" if len(gates) > 1 else ""


def _gates(gates: Iterable[Gate]) -> Markup:
    order = sorted(gates, key=lambda g: ("fail", "warn", "pass").index(g.verdict))
    rows = [
        (
            g.name,
            tag("span", g.verdict, class_=f"tag {g.verdict}"),
            joined(g.sentence, tag("span", g.remedy, class_="remedy") if g.remedy else None),
            _short(g.value),
            _short(g.limit),
        )
        for g in order
    ]
    words: list[object] = ["A gate that fails stops ", tag("code", "studio run"), ". Blue is what to do. Limit: where failing begins."]
    if not passed(order):
        words += [" To go on all the same: ", tag("code", "studio calibrate --accept --out FILE"), "."]
    listed = table(("Gate", "", "What was found", "Number", "Limit"), rows, left=3)
    return tag("div", listed, tag("p", words, class_="caption under"), class_="card gates")


def _short(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rig(account: Account, scene: str | None) -> Markup:
    floor = any(g.name == "floor" and math.isfinite(g.value) for g in account.gates)
    things = ["cameras with their names", "floor cells of half a metre" if floor else "no floor, for where it is is not known"]
    things += ["blue frames: the board at each instant, orange: one after the other"] if len(account.boards) else []
    things += ["dots: where the person's middle and feet were, orange: one instant after the other"] if account.paths else []
    things += ["yellow: named points"] if account.marks else []
    words = f"Drag to turn, right drag to move, wheel to zoom. Shown: {', '.join(things)}; the axes at the origin are 0.3 m."
    return viewer(scene, "the rig in 3D", words) if scene else tag("p", "There is no picture of the rig in 3D.", class_="quiet")


def _cameras(account: Account) -> Markup:
    heads = ("Camera", "Lens", "Focal px", "±", "Centre px", "±", "Place m", "± mm", "± deg", "Late, frames", "±", "Leave one out px")
    rows = [_line(account, row) for row in account.rows]
    words = (
        "±: one standard deviation, of places that of the rig's shape. Late: frames that a camera lags. Leave one out: median error, "
        "in this camera, of what the other cameras alone foretell."
    )
    advice = [tag("li", tag("b", r.camera), f": {'; '.join(r.advice)}") for r in account.rows if r.advice]
    notes = tag("div", tag("h3", "To make lenses better"), tag("ul", advice)) if advice else None
    return tag("div", table(heads, rows, left=2), tag("p", words, class_="caption under"), notes, class_="card cameras")


def _line(account: Account, r: Row) -> list[object]:
    c = account.cameras.index(r.camera)
    focal, centre, place = (getattr(account.cameras, n)[c].tolist() for n in ("focal", "centre", "position"))
    count = int((account.cameras.distortion[c] != 0).sum())
    lens = f"{account.cameras.lens[c]}, {count} coefficient{'' if count == 1 else 's'}"
    return [
        r.camera,
        lens,
        f"{(focal[0] + focal[1]) / 2:.1f}",
        _number(100 * r.focal_sd, 2, "%"),
        f"{centre[0]:.1f}, {centre[1]:.1f}",
        _number(r.centre_sd, 1),
        ", ".join(f"{v:.2f}" for v in place),
        _number(1000 * r.place_sd, 1),
        _number(math.degrees(r.turn_sd), 2),
        _number(r.delay, 2),
        _number(r.delay_sd, 2),
        _number(r.left_out_px, 2),
    ]


def _number(value: float, digits: int, unit: str = "") -> str:
    return number(value if math.isfinite(value) else None, digits, unit)


def _pictures(account: Account) -> Markup:
    times = enlargement(account.seen, float(account.cameras.size.max()))
    words = (
        "Left, how often each part of the image was used: the darker the oftener, red never. Right, from where a point was seen a line "
        f"to where the calibration foretells it, drawn {times:g} times as long as it is. Lines that point the same way all over the "
        "image: the camera moved or is out of step; outwards or turning at the edges: the lens is wrong; all ways: noise."
    )
    cards = []
    for s in account.seen:
        size = tuple(account.cameras.size[account.cameras.index(s.camera)].tolist())
        pictures = tag("div", coverage(s, size), arrows(s, size, times), class_="pictures")
        cards.append(card(s.camera, tag("p", _told(s, size), class_="caption"), pictures))
    return joined(tag("p", words, class_="caption"), cards, _course(account.seen))


def _told(s: Seen, size: tuple[float, float]) -> str:
    lengths = s.offsets.norm(dim=-1)
    middle = float(lengths.median()) if len(lengths) else math.nan
    most = float(lengths.quantile(0.9)) if len(lengths) else math.nan
    left = f" Left out: {s.left_out}." if s.left_out else ""
    return (
        f"Seen at {s.views} instants, {s.used} used; {s.what} in {100 * filled(s, size):.0f} % of the image; missed by "
        f"{_number(middle, 2)} px (median), {_number(most, 2)} px (nine of ten).{left}"
    )


def _course(seen: tuple[Seen, ...]) -> Markup | None:
    count = max((len(s.over_time) for s in seen), default=0)
    if count < 2:
        return None
    every = max(math.ceil(count / BINS), 1)
    series = {s.camera: torch.stack([p.nanmedian() for p in s.over_time.split(every)]).numpy() for s in seen}
    return card("Error over time, median of each camera", Markup(figures.lines(series, 0, count - 1, "px", "instant")))


def _links(account: Account) -> Markup:
    places = account.boards.mean(1) if len(account.boards) else torch.cat([*(p for p in account.paths), torch.zeros(0, 3)])
    places = places[places.isfinite().all(-1)]
    places = places[:: max(len(places) // 400, 1)]
    heads = ("Cameras", "Saw it together", "Agree", "Rays miss px")
    doubt = tag("span", " mirrored pose fits nearly as well", class_="quiet")
    rows = [
        (joined(f"{k.first} – {k.second}", doubt if k.doubtful else None), k.shared, k.agreeing, _number(k.px, 2)) for k in account.links
    ]
    words = "From above. The thicker a line, the more views of the two cameras agree; red: few, or a mirrored pose fits nearly as well."
    picture = card("The rig from above", plan(account.cameras, account.links, places), tag("p", words, class_="caption under"))
    caption = "Rays miss: how far what only these two cameras place misses their own pixels, at instants that were not fitted."
    return joined(picture, card("Pairs", table(heads, rows), tag("p", caption, class_="caption under")))

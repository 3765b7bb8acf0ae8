"""Pieces of the wizard's pages as HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from calibration.camera_graph import ENOUGH, LEAST
from calibration.gates import Gate
from studio.review.markup import Markup, tag
from studio.wizard.state import STEPS, Click, State

COLOURS = {"pass": "#2b8a3e", "warn": "#b35c00", "fail": "#c92a2a"}
TEXT = "font-size:0.9em;line-height:1.45;padding:0.1em 0.75em 0.5em"


NOTICES = Markup("<style>.mantine-Notifications-root{top:auto!important;bottom:1em!important}</style>")
"""The viewer's own notices, such as that there is no graphics card, at the foot of the page: at its head they cover messages."""


def header(state: State) -> Markup:
    """Where the operator is, and what went wrong last."""
    chips = []
    for number, (step, name) in enumerate(STEPS.items(), 1):
        here = step == state.step
        style = "background:#1c7ed6;color:#fff" if here else "background:#eef1f4;color:#444"
        words = f"{number} {name}"
        chips.append(tag("li", words, style=f"{style};border-radius:1em;padding:0.05em 0.65em", aria_current="step" if here else None))
    row = "display:flex;flex-wrap:wrap;gap:0.3em;list-style:none;margin:0;padding:0.2em 0.75em 0.7em;font-size:0.8em"
    return Markup(NOTICES + tag("ol", chips, style=row) + (told(state.message) if state.message else ""))


def told(words: str) -> Markup:
    """A message to the operator."""
    style = "margin:0 0.75em 0.7em;padding:0.5em 0.7em;border-left:4px solid #c92a2a;background:#fff1f1;color:#5c1010;font-size:0.9em"
    return tag("div", words, style=style + ";overflow-wrap:anywhere", role="alert")


def words(*paragraphs: object) -> Markup:
    """Plain text."""
    return tag("div", [tag("p", p, style="margin:0 0 0.5em") for p in paragraphs], style=TEXT)


def heading(text: str) -> Markup:
    """A title inside a page."""
    return tag("div", tag("strong", text), style=TEXT + ";padding-bottom:0.2em")


def points(sentences: Sequence[str]) -> Markup:
    """A list of sentences."""
    return tag("ul", [tag("li", s, style="margin-bottom:0.3em") for s in sentences], style=TEXT + ";margin:0;padding-left:1.9em")


def gates_table(gates: Sequence[Gate]) -> Markup:
    """Every gate with its verdict, what was found and what to do; the worst first."""
    order = sorted(gates, key=lambda g: ("fail", "warn", "pass").index(g.verdict))
    rows = []
    for gate in order:
        chip = tag("span", gate.verdict, style=f"color:#fff;background:{COLOURS[gate.verdict]};border-radius:0.7em;padding:0 0.6em")
        what = [tag("div", gate.sentence), tag("div", tag("strong", gate.remedy)) if gate.remedy else None]
        cells = [tag("td", chip), tag("td", gate.name), tag("td", what)]
        rows.append(tag("tr", [Markup(c.replace("<td", '<td style="vertical-align:top;padding:0.25em 0.5em 0.25em 0"', 1)) for c in cells]))
    return tag("div", tag("table", rows, style="border-collapse:collapse;width:100%"), style=TEXT)


def pairs_table(names: Sequence[str], shared: Int[Tensor, "C C"]) -> Markup:
    """How often two cameras saw the board together; on the diagonal how often each did."""
    cell = "padding:0.1em 0.5em;text-align:right;border:1px solid #dde2e6"
    head = tag("tr", tag("th", ""), [tag("th", n, style=cell, scope="col") for n in names])
    body = []
    for c, name in enumerate(names):
        row = [tag("th", name, style=cell, scope="row")]
        for d in range(len(names)):
            n = int(shared[c, d])
            colour = "#f1f3f5" if c == d else "#ffc9c9" if n < LEAST else "#ffe8cc" if n < ENOUGH else "#d3f9d8"
            row.append(tag("td", n, style=f"{cell};background:{colour}"))
        body.append(tag("tr", row))
    return tag("div", tag("table", head, body, style="border-collapse:collapse"), style=TEXT + ";overflow-x:auto")


def picture(image: UInt8[np.ndarray, "H W 3"], alt: str) -> Markup:
    """An image inside the page."""
    data = base64.b64encode(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()).decode()
    return tag("img", src=f"data:image/jpeg;base64,{data}", alt=alt, style="width:100%;display:block;border-radius:4px")


def cards(pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]], captions: Mapping[str, Sequence[str]], legend: object = None) -> Markup:
    """One picture a camera, with its name and sentences under it."""
    made = []
    for name, image in pictures.items():
        text = tag("ul", [tag("li", s) for s in captions.get(name, ())], style="margin:0.2em 0 0;padding-left:1.2em")
        title = tag("div", tag("strong", name), style="margin-top:0.35em")
        made.append(tag("figure", picture(image, f"picture of {name}"), tag("figcaption", title, text), style="margin:0"))
    across = "360px" if len(pictures) > 1 else "100%"
    grid = f"display:grid;grid-template-columns:repeat(auto-fill,minmax({across},1fr));gap:1em"
    return tag("div", legend, tag("div", made, style=grid), style="padding:0.3em 0.9em 1em;font-size:0.9em;line-height:1.45")


def marks_table(clicks: Sequence[Click], agreement: Gate | None) -> Markup:
    """Which mark was clicked in which cameras, and how well the clicks agree."""
    rows = []
    for mark in sorted({k.mark for k in clicks}):
        where = [k.camera for k in clicks if k.mark == mark]
        rows.append(tag("li", tag("strong", mark), f": {', '.join(where)}{'' if len(where) > 1 else ', needs another camera'}"))
    listed = tag("ul", rows, style=TEXT + ";margin:0;padding-left:1.9em")
    return Markup(listed + (gates_table([agreement]) if agreement else ""))


def dot(colour: tuple[int, int, int]) -> Markup:
    """A sample of a colour in a legend."""
    return tag(
        "span", style=f"display:inline-block;width:0.75em;height:0.75em;border-radius:50%;background:rgb{colour};margin:0 0.3em 0 0.9em"
    )

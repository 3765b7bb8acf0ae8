"""Pictures of what cameras saw: coverage, residual vectors, the rig from above. SVG that follows the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from calibration.lens_verdict import coverage_map
from studio.calibration_report.account import Link, Seen
from studio.review.markup import Markup, tag

ARROWS = 700
"""Most residuals drawn in one image."""
REACH = 0.05
"""Length at which nine of ten residuals are drawn at most, as a part of the image's longer side."""


def coverage(seen: Seen, size: tuple[float, float]) -> Markup:
    """How often something was seen in each cell of the image: the darker the oftener, hatched where never."""
    width, height = size
    cells = coverage_map(seen.places, torch.tensor(size))  # the lens is judged by the same
    (rows, columns), counts = cells.shape, cells.flatten()
    shade = (counts / counts.max().clamp_min(1)).sqrt()  # one corner there is much more than none
    w, h = width / columns, height / rows
    boxes = [
        tag("rect", tag("title", f"{int(n)}"), x=f"{w * (i % columns):.1f}", y=f"{h * (i // columns):.1f}", width=f"{w:.1f}",
            height=f"{h:.1f}", class_="never" if not n else "often", opacity=None if not n else f"{0.15 + 0.85 * s:.2f}")
        for i, (n, s) in enumerate(zip(counts.tolist(), shade.tolist(), strict=True))
    ]  # fmt: skip
    return _image(size, boxes, f"coverage of {seen.camera}")


def filled(seen: Seen, size: tuple[float, float]) -> float:
    """Part of the image's cells in which something was seen."""
    return float((coverage_map(seen.places, torch.tensor(size)) > 0).double().mean())


def enlargement(seen: Sequence[Seen], side: float) -> float:
    """How many times residuals are drawn larger than they are, one round number for all cameras."""
    lengths = torch.cat([s.offsets.norm(dim=-1) for s in seen]) if seen else torch.zeros(0)
    lengths = lengths[lengths.isfinite()]
    if not len(lengths):
        return 1.0
    most = REACH * side / max(float(lengths.quantile(0.9)), 1e-6)
    power = 10 ** math.floor(math.log10(max(most, 1.0)))
    return next(power * step for step in (5, 2, 1) if power * step <= max(most, 1.0))


def arrows(seen: Seen, size: tuple[float, float], times: float) -> Markup:
    """A line from where a point was seen towards where the calibration foretells it, `times` as long as it is, and the scale's bar."""
    every = max(math.ceil(len(seen.places) / ARROWS), 1)
    start = seen.places[::every]
    end = start + times * seen.offsets[::every]
    parts = zip(start.tolist(), end.tolist(), strict=True)
    path = "".join(f"M{a[0]:.0f} {a[1]:.0f}L{b[0]:.0f} {b[1]:.0f}" for a, b in parts)
    dots = "".join(f"M{x:.0f} {y:.0f}h.01" for x, y in start.tolist())
    unit = max(size) / 1000
    x, y, bar = 24 * unit, size[1] - 24 * unit, _round_bar(times, size)
    scale = [
        tag("path", d=f"M{x:.0f} {y:.0f}h{bar * times:.0f}", class_="bar1"),
        tag("text", f"{bar:g} px", x=f"{x:.0f}", y=f"{y - 9 * unit:.0f}", style=f"font-size:{30 * unit:.0f}px"),
    ]
    lines = [tag("path", d=path, class_="miss"), tag("path", d=dots, class_="spot")]
    return _image(size, [*lines, scale], f"residuals of {seen.camera}, {times:g} times as long")


def _round_bar(times: float, size: tuple[float, float]) -> float:
    """A length in px that is drawn about an eighth of the image long."""
    goal = 0.12 * max(size) / times
    power = 10.0 ** math.floor(math.log10(goal))
    return next(power * s for s in (5, 2, 1) if power * s <= goal)


def plan(cameras: Cameras, links: Sequence[Link], places: Float[Tensor, "N 3"]) -> Markup:
    """The rig from above: cameras with the direction they look in, what was filmed as dots, links the thicker the more views agree."""
    at = cameras.position[:, :2]
    ahead = torch.nn.functional.normalize(cameras.R_camera_world[:, 2, :2], dim=-1)
    around = torch.cat([at, places[:, :2].to(at)]) if len(places) else at
    low, high = around.amin(0), around.amax(0)
    wide, deep = (high - low).clamp_min(0.3).tolist()
    metre = min(840 / wide, 500 / deep)
    middle = (low + high) / 2

    def px(p: Tensor) -> tuple[float, float]:
        x, y = ((p - middle) * metre).tolist()
        return 500 + x, 310 - y

    most = max((link.agreeing for link in links), default=1) or 1
    parts: list[object] = []
    for x, y in (px(p) for p in places[:, :2].to(at)):
        parts.append(tag("circle", cx=f"{x:.0f}", cy=f"{y:.0f}", r="1.6", class_="spot2"))
    for link in links:
        (x1, y1), (x2, y2) = px(at[cameras.index(link.first)]), px(at[cameras.index(link.second)])
        words = f"{link.first} and {link.second}: {link.agreeing} views"
        kind = "link doubt" if link.doubtful or link.agreeing < 10 else "link"
        line = {"x1": f"{x1:.0f}", "y1": f"{y1:.0f}", "x2": f"{x2:.0f}", "y2": f"{y2:.0f}"}
        parts.append(tag("line", tag("title", words), **line, class_=kind, stroke_width=f"{1 + 7 * link.agreeing / most:.1f}"))
    for c, name in enumerate(cameras.names):
        x, y = px(at[c])
        dx, dy = float(ahead[c, 0]), -float(ahead[c, 1])
        wide = [(34 * dx - k * 14 * dy, 34 * dy + k * 14 * dx) for k in (1, -1)]
        shape = f"M{x:.0f} {y:.0f}" + "".join(f"L{x + a:.0f} {y + b:.0f}" for a, b in wide) + "Z"
        parts.append(tag("path", d=shape, class_="eye"))
        parts.append(tag("text", name, x=f"{x - 16 * dx:.0f}", y=f"{y - 16 * dy + 5:.0f}", class_="middle"))
    parts.append(tag("path", d=f"M20 600h{metre:.0f}", class_="bar1"))
    parts.append(tag("text", "1 m", x="20", y="592"))
    return tag("svg", parts, viewBox="0 0 1000 620", class_="plot plan", role="img", aria_label="the rig from above")


def _image(size: tuple[float, float], inside: object, words: str) -> Markup:
    width, height = size
    stroke = max(size) / 500
    frame = tag("rect", x="0", y="0", width=f"{width:g}", height=f"{height:g}", class_="frame")
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", frame, inside, viewBox=box, class_="seen", role="img", aria_label=words, style=f"--w:{stroke:.2f}")

"""Plots as inline SVG that follow the page's colours; no script, no font, no outside address."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1000, 56, 12, 10, 30
QUARTERS = (0, 0.25, 0.5, 0.75, 1)


def lines(series: dict[str, Float[np.ndarray, "N"]], first: float, last: float, unit: str, across: str = "frame", height: int = 220) -> str:
    """A line a series over `first` to `last`; gaps where values are not finite. Colours go by the order of the series."""
    finite = np.concatenate([v[np.isfinite(v)] for v in series.values()]) if series else np.zeros(0)
    if not finite.size:
        return '<p class="quiet">Nothing to draw: no value was measured.</p>'
    # A lone spike must not flatten everything else: what lies above leaves the frame.
    top = _round_up(max(float(np.quantile(finite, 0.995)) * 1.1, 1e-9))
    bottom = -_round_up(-float(finite.min()) * 1.1) if finite.min() < 0 else 0.0
    inner_w, inner_h = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM

    def y_of(value: Any) -> Any:
        return TOP + inner_h * (1 - (value - bottom) / (top - bottom))

    parts = [_axes(first, last, bottom, top, unit, across, height, y_of)]
    for number, (name, values) in enumerate(series.items()):
        x = LEFT + inner_w * (np.arange(len(values)) + 0.5) / max(len(values), 1)
        y = np.clip(y_of(values), TOP - 4, TOP + inner_h)
        path = _path(x, y)
        parts.append(f'<path class="line c{number % 8}" d="{path}"><title>{escape(name)}</title></path>')
    legend = "".join(f'<span class="key"><i class="c{i % 8}"></i>{escape(name)}</span>' for i, name in enumerate(series))
    return f'<div class="legend">{legend}</div>{_svg(height, "".join(parts))}'


def heatmap(
    rows: Sequence[str], values: Float[np.ndarray, "R N"], first: float, last: float, unit: str, across: str = "frame", row: int = 22
) -> str:
    """A coloured cell a value; blank where it is not finite. The scale ends at the 98th percentile."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return '<p class="quiet">Nothing to draw: no value was measured.</p>'
    top = _round_up(float(np.quantile(finite, 0.98)))
    label = LEFT + 50
    inner_w, inner_h = WIDTH - label - RIGHT, row * len(rows)
    scaled = np.clip(np.nan_to_num(values, nan=0.0) / max(top, 1e-9), 0, 1)
    colour = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    image = np.dstack([colour, np.isfinite(values).astype(np.uint8) * 255])
    height = inner_h + BOTTOM + 4
    parts = [
        f'<image x="{label}" y="2" width="{inner_w}" height="{inner_h}" preserveAspectRatio="none" class="cells" href="{_png(image)}"/>'
    ]
    parts += [
        f'<text x="{label - 8}" y="{2 + row * (i + 0.5) + 4:.0f}" class="end">{escape(_short(name))}</text>' for i, name in enumerate(rows)
    ]
    parts += [_tick(label + inner_w * f, inner_h + 18, f, first, last) for f in QUARTERS]
    parts.append(f'<text x="{label - 8}" y="{inner_h + 18}" class="end">{escape(across)}</text>')
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)
    words = f'<span class="key">{top:g} {escape(unit)} and more</span><span class="key quiet">blank: not seen</span>'
    scale = f'<div class="legend"><span class="key">0</span><img class="ramp" alt="" src="{_png(ramp)}">{words}</div>'
    return scale + _svg(height, "".join(parts))


def bar(share: float) -> str:
    """A share of one as a small bar with its number."""
    kind = "low" if share < 0.5 else "mid" if share < 0.8 else "high"
    return f'<span class="bar {kind}"><i style="width:{100 * min(max(share, 0), 1):.0f}%"></i></span><span class="num">{share:.0%}</span>'


def picture(image: np.ndarray, quality: int = 82) -> str:
    """A data address of an RGB image as JPEG."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _png(image: np.ndarray) -> str:
    done, data = cv2.imencode(".png", image)
    assert done
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def _svg(height: int, inside: str) -> str:
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img">{inside}</svg>'


def _tick(x: float, y: float, share: float, first: float, last: float) -> str:
    side = "end" if share == 1 else "middle" if share else "start"
    return f'<text class="{side}" x="{x:.1f}" y="{y:.1f}">{first + (last - first) * share:,.0f}</text>'


def _axes(first: float, last: float, bottom: float, top: float, unit: str, across: str, height: int, y_of: Callable[[Any], Any]) -> str:
    inner_w, base = WIDTH - LEFT - RIGHT, height - BOTTOM
    unit = f" {escape(unit)}"
    parts = []
    for f in QUARTERS:
        value = bottom + (top - bottom) * f
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y + 4:.1f}">{value:.3g}{unit if f == 1 else ""}</text>')
        parts.append(_tick(LEFT + inner_w * f, base + 18, f, first, last))
    parts.append(f'<text class="end" x="{LEFT - 8}" y="{base + 18}">{escape(across)}</text>')
    return "".join(parts)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Move and line commands; a new stretch after every gap."""
    words, pen = [], False
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if np.isfinite(b):
            words.append(f"{'L' if pen else 'M'}{a:.1f} {b:.1f}")
        pen = bool(np.isfinite(b))
    return "".join(words)


def _round_up(value: float) -> float:
    """The next of 1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8 times a power of ten: quarters of it are short numbers."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(s * power for s in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if s * power >= value * (1 - 1e-9)))


def _short(name: str) -> str:
    return name if len(name) <= 15 else name[:14] + "…"

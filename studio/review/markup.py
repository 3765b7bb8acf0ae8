"""HTML from plain function calls: every text and attribute is escaped unless it is already `Markup`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, /, *inside: object, **attributes: object) -> Markup:
    """`<name attribute="...">inside</name>`; `class_` stands for `class`, None leaves an attribute out, True gives it no value."""
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{escape(str(value), quote=True)}"')
    opened = f"<{' '.join(words)}>"
    return Markup(opened if name in ("img", "input", "meta", "br") else f"{opened}{joined(*inside)}</{name}>")


def joined(*parts: object) -> Markup:
    """Parts one after the other, lists opened, None left out."""
    words = []
    for part in parts:
        if isinstance(part, Markup):
            words.append(part)
        elif isinstance(part, list | tuple):
            words.append(joined(*part))
        elif part is not None:
            words.append(escape(str(part)))
    return Markup("".join(words))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> Markup:
    """A table whose columns after the first `left` are numbers, set flush right."""
    side = lambda i: None if i < left else "r"  # noqa: E731
    head = tag("tr", [tag("th", h, class_=side(i), scope="col") for i, h in enumerate(heads)])
    body = [tag("tr", [tag("td", cell, class_=side(i)) for i, cell in enumerate(row)]) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="scroll")


def number(value: float | int | None, digits: int = 1, unit: str = "") -> str:
    """A number for reading; a dash where nothing was measured."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}{' ' + unit if unit else ''}"

"""What every report of the studio shares: the page around its sections, the head with the verdict, cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from studio.review.markup import Markup, joined, tag

HERE = Path(__file__).parent


def document(title: str, head: object, sections: Sequence[tuple[str, str, object]], foot: object, style: str = "") -> str:
    """A whole page that needs nothing beside it; `sections` are (where, title, inside), each with a link in the menu."""
    links = [tag("a", words, href=f"#{where}") for where, words, _ in sections]
    menu = tag("nav", tag("div", links, class_="inside"))
    heading = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup((HERE / "page.css").read_text() + style)),
    )
    main = tag("main", [tag("section", tag("h2", words), inside, id=where) for where, words, inside in sections])
    script = tag("script", Markup((HERE / "page.js").read_text()))
    return "<!doctype html>\n" + tag("html", heading, tag("body", head, menu, main, foot, script), lang="en")


def heading(eyebrow: str, title: str, level: str, verdict: str, facts: Mapping[str, object]) -> Markup:
    """The head of a report: what it is of, the verdict (`good`, `look` or `stop`), and a few facts."""
    listed = [tag("div", tag("dt", k), tag("dd", v)) for k, v in facts.items()]
    return tag(
        "header",
        tag(
            "div",
            tag("div", eyebrow, class_="eyebrow"),
            tag("h1", title),
            tag("div", verdict, class_=f"verdict {level}"),
            tag("dl", listed, class_="facts"),
            class_="inside",
        ),
    )


def card(title: str, *inside: object) -> Markup:
    """A framed part of a section."""
    return tag("div", tag("h3", title, style="margin-top:0"), inside, class_="card")


def viewer(html: str, title: str, words: str) -> Markup:
    """A 3D scene (a page of its own) within the page, and words under it."""
    frame = tag("iframe", srcdoc=html, title=title, loading="lazy", allowfullscreen=True)
    return joined(frame, tag("p", words, class_="caption"))

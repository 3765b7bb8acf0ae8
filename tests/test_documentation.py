"""README and docs: every command, flag and file that they name exists."""

import contextlib
import io
import re
from functools import cache
from pathlib import Path

import pytest

from studio.cli import STAGES, VERBS, call

ROOT = Path(__file__).parent.parent
PAGES = {p.relative_to(ROOT).as_posix(): p.read_text() for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def commands(text: str) -> list[tuple[str, set[str]]]:
    """Verbs of `studio` with their flags, in blocks of shell and between backticks."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    lines = [line.split("#")[0] for line in blocks.splitlines() if "studio " in line]
    lines += [" ".join(span.split()) for span in re.findall(r"`(studio [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))]
    found = [re.search(r"studio ([a-z][\w-]*)(.*)", line) for line in lines]
    return [(m[1], set(FLAG.findall(m[2]))) for m in found if m]


def headings(text: str) -> set[str]:
    """Of a page, as links name them."""
    return {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)", text, re.M)}


@cache
def shown(verb: str) -> str:
    """What `studio VERB --help` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        call([verb, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_the_verb_and_the_flags_that_are_told(page):
    wrong = []
    for verb, flags in commands(PAGES[page]):
        if verb not in {*VERBS, *STAGES}:
            wrong.append(verb)
            continue
        known = set(FLAG.findall(shown(verb)))
        wrong += [f"{verb} {flag}" for flag in flags - known - {"--help"}]
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_benchmark_is_there_and_knows_the_flags_that_are_told(page):
    wrong = []
    for name, rest in re.findall(r"`python\s+benchmarks/(\w+\.py)([^`]*)`", PAGES[page]):
        file = ROOT / "benchmarks" / name
        wrong += [name] if not file.is_file() else [f"{name} {f}" for f in FLAG.findall(rest) if f'"{f}"' not in file.read_text()]
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    wrong = []
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        name, _, heading = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        if not file.exists() or (heading and heading not in headings(file.read_text())):
            wrong.append(target)
    assert not wrong


def test_a_command_that_is_not_there_would_be_noticed():
    [(verb, flags)] = commands("```sh\n.venv/bin/studio run walk/ --no-such --cameras x   # comment --other\n```")
    assert verb == "run" and flags == {"--no-such", "--cameras"}
    assert flags - set(FLAG.findall(shown("run"))) == {"--no-such"}

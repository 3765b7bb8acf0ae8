"""Which pictures the wizard shows beside a page."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8

from calibration.next_shots import camera_shots
from studio import board_pictures
from studio.board_print import title
from studio.review.markup import Markup, joined, tag
from studio.video import probe
from studio.wizard import actions, parts
from studio.wizard.state import FOLDER, SAME, Choices, State

SMALL = 960
"""Width of a picture among others, px."""
DEPTHS = np.geomspace(0.3, 60.0, 200)
"""Distances from a camera at which a mark that it sees may be, m."""


def board_words(choices: Choices) -> str:
    """The board in words, or what is wrong with its description."""
    try:
        return title(actions.board_of(choices))
    except (ValueError, OSError) as error:
        return str(error)


def clips_and_board(choices: Choices) -> Markup:
    """The first picture of each clip, and the board as it is described."""
    return joined(_clips(choices) if choices.source == FOLDER else None, _board(choices))


def _clips(choices: Choices) -> Markup:
    try:
        videos = actions.clips_of(choices)
        images = {name: board_pictures.live_picture(board_pictures.still(path), width=SMALL) for name, path in videos.items()}
        infos = {name: probe(path) for name, path in videos.items()}
    except (ValueError, OSError) as error:
        return parts.words(str(error))
    told = {n: [f"{i.width} x {i.height}, {float(i.fps):.4g} frames a second, {i.frames} frames"] for n, i in infos.items()}
    return parts.cards(images, told, parts.words(f"{len(videos)} clips"))


def live(images: dict[str, UInt8[np.ndarray, "H W 3"]], told: dict[str, list[str]]) -> Markup:
    """What connected cameras see."""
    samples = [(board_pictures.FOUND, "corners now"), (board_pictures.BEFORE, "corners before")]
    return parts.cards(images, told, _legend(samples))


def _board(choices: Choices) -> Markup:
    try:
        image = board_pictures.print_picture(actions.board_of(choices))
    except (ValueError, OSError) as error:
        return parts.words(f"The board: {error}")
    shown = tag("div", parts.picture(image, "the board as described"), style="max-width:420px;border:1px solid #ddd")
    return tag("div", parts.words("The board as it is described. Hold the real one beside it."), shown, style="padding:0.3em 0.9em")


def seen(state: State) -> Markup:
    """Every camera's picture with corners and empty regions, and what it still lacks."""
    assert state.found is not None
    views, b = state.found.views, state.choices.instant if state.choices.pictures == SAME else None
    images = {n: board_pictures.board_picture(state.videos[n], views, c, b, SMALL) for c, n in enumerate(views.cameras)}
    shots = camera_shots(views, state.lenses)
    counts = views.seen().sum(1).tolist()
    told = {n: [f"{k} views.", *(shots[n] or ("It has all it needs.",))] for n, k in zip(views.cameras, counts)}
    samples = [(board_pictures.FOUND, "corners in this picture"), (board_pictures.BEFORE, "in all others")]
    return parts.cards(images, told, _legend([*samples, (board_pictures.EMPTY, "none yet")]))


def _legend(samples: list[tuple[tuple[int, int, int], str]]) -> Markup:
    return tag("p", [[parts.dot(colour), text] for colour, text in samples], style="margin:0.2em 0 0.7em")


def lying(state: State) -> Markup:
    """All cameras at the instant at which the board is said to lie on the floor."""
    assert state.found is not None and state.rig is not None and state.rig.fit is not None
    views, number = state.found.views, state.choices.lying
    try:
        b = state.found.nearest(state.rig.fit, number)
    except ValueError as error:
        return parts.words(str(error))
    images = {n: board_pictures.board_picture(state.videos[n], views, c, b, SMALL, False) for c, n in enumerate(views.cameras)}
    return parts.cards(images, {}, parts.words(f"Instant {state.found.number(b)}: does the board lie flat on the floor, print up?"))


def marked(state: State) -> UInt8[np.ndarray, "H W 3"]:
    """The chosen camera's whole picture with the marks clicked on it, and where the chosen mark may be by the other pictures."""
    assert state.found is not None
    views, choices = state.found.views, state.choices
    c, b = views.cameras.index(choices.camera), min(choices.instant, views.pixels.shape[1] - 1)
    image = board_pictures.still(state.videos[choices.camera], max(int(views.instants[c, b]), 0))
    crosses = [(str(k.mark), k.x, k.y) for k in state.clicks if k.camera == choices.camera]
    return board_pictures.marked_picture(image, crosses, _sight_lines(state))


def _sight_lines(state: State) -> list[Float[np.ndarray, "n 2"]]:
    """The chosen mark's rays of the other cameras as the chosen camera sees them, px."""
    if state.rig is None or state.rig.fit is None:
        return []
    cameras, choices, lines = state.rig.fit.cameras, state.choices, []
    for k in state.clicks:
        if k.mark == choices.mark and k.camera != choices.camera:
            other = cameras[k.camera]
            ray = other.ray(torch.tensor([[k.x, k.y]], dtype=torch.float64))[0]
            along = other.position[0] + torch.from_numpy(DEPTHS)[:, None] * ray
            lines.append(cameras[choices.camera].project(along)[0].numpy())
    return lines

"""What to film next for a better calibration, in words: for each camera by itself, and between cameras."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import torch
from jaxtyping import Int
from torch import Tensor

from calibration.boards import BoardViews
from calibration.camera_graph import ENOUGH
from calibration.intrinsics import LensFit
from calibration.view_gates import GOOD, VIEWS


def shared_views(views: BoardViews) -> Int[Tensor, "C C"]:
    """At how many instants two cameras both see the board; on the diagonal, at how many a camera sees it."""
    seen = views.seen().to(torch.float64)
    return (seen @ seen.mT).long()


def camera_shots(views: BoardViews, lenses: Mapping[str, LensFit | str]) -> dict[str, tuple[str, ...]]:
    """Camera -> what to film before it, the most urgent first; nothing where it has all it needs.

    `lenses` holds a lens for each camera, or in words why there is none.
    """
    counts = views.seen().sum(1).tolist()
    return {name: tuple(_shots(n, lenses.get(name, ""))) for name, n in zip(views.cameras, counts)}


def _shots(seen: int, lens: LensFit | str) -> list[str]:
    if not seen:
        return ["It never sees the board: wave it before this camera, facing it."]
    wanted = [f"It sees the board {seen} times: about {GOOD - seen} more views."] if seen < VIEWS[0] else []
    if isinstance(lens, str):
        return wanted + ([_sentence(lens.partition(": ")[2] or lens)] if lens and not wanted else [])
    return wanted + [_sentence(words) for words in (*lens.reasons, *lens.advice)]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def pair_shots(views: BoardViews) -> tuple[str, ...]:
    """What to film between cameras, so that the strongest chain through all of them is firm, the weakest link first."""
    count, names = shared_views(views), views.cameras
    graph = nx.Graph()
    graph.add_nodes_from(range(len(names)))
    graph.add_weighted_edges_from((c, d, int(count[c, d])) for d in range(len(names)) for c in range(d))
    chain = sorted(nx.maximum_spanning_tree(graph).edges(data="weight"), key=lambda link: link[2])
    return tuple(
        f"{names[c]} and {names[d]} share {n} views: wave the board where both see it, about {GOOD - n} more times."
        for c, d, n in chain
        if n < ENOUGH
    )

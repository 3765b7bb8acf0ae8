"""Gates on board views, before there is a rig: whether every camera sees enough of the board, rightly, and shares it with others."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import torch
from jaxtyping import Float, Int
from torch import Tensor

from calibration.board_pose import board_poses, facing
from calibration.boards import BoardViews
from calibration.camera_graph import ENOUGH, LEAST
from calibration.cameras import joined
from calibration.gates import Gate, verdict
from calibration.intrinsics import LensFit
from calibration.reprojection import Sightings

GOOD = 16
"""Shared views that make a link between two cameras firm."""
VIEWS = (10, LEAST)
"""Views of a camera below which to warn, and to fail."""
LINK = (ENOUGH, LEAST)
"""Shared views below which to warn, and to fail."""
AWAY = (0.05, 0.3)
"""Part of the views that show a board's wrong side."""


def judge_views(views: BoardViews, lenses: Sequence[LensFit]) -> tuple[Gate, ...]:
    """The verdict on board views before there is a rig; `lenses` may be missing."""
    if not lenses:
        return judge_sightings(views), _shared(views)
    size = judge_resolution(views, lenses)
    if size.verdict == "fail":  # poses by such a lens would say nothing
        return size, judge_sightings(views), _shared(views)
    return size, judge_sightings(views), _shared(views), _front(views, lenses)


def judge_resolution(views: BoardViews, lenses: Sequence[LensFit]) -> Gate:
    """Whether lenses were calibrated for images of the videos' size."""
    off = [c for c, lens in enumerate(lenses) if not torch.equal(lens.size.to(views.size), views.size[c])]
    if not off:
        return Gate("resolution", "pass", 0, 0, "Every lens was calibrated at its video's resolution.")
    c = off[0]
    told = [" x ".join(f"{v:g}" for v in size.tolist()) for size in (lenses[c].size, views.size[c])]
    sentence = f"Camera {views.cameras[c]}: the lens is for images of {told[0]}, the video is {told[1]}."
    return Gate("resolution", "fail", len(off), 0, sentence, "Calibrate the lens again at the resolution that is recorded.")


def judge_sightings(views: BoardViews) -> Gate:
    """Whether every camera sees the board often enough."""
    counts = views.seen().sum(1).tolist()
    least = min(range(len(counts)), key=counts.__getitem__)
    name, n = views.cameras[least], counts[least]
    sentence = f"Every camera sees the board at {n} instants or more." if n >= VIEWS[0] else f"Camera {name} sees the board {n} times."
    remedy = "" if n >= VIEWS[0] else f"Wave the board before camera {name}, facing it and a neighbour, about {GOOD - n} more views."
    return Gate("board seen", verdict(n, VIEWS), n, VIEWS[1], sentence, remedy)


def _shared(views: BoardViews) -> Gate:
    """Before there is a rig: whether instants that two cameras share join all cameras."""
    seen = views.seen().double()
    count = (seen @ seen.mT).long().fill_diagonal_(0)
    return judge_links(views.cameras, count, "share the board")


def judge_links(names: Sequence[str], count: Int[Tensor, "C C"], how: str) -> Gate:
    """Whether shared views join all cameras: the weakest link of the strongest chain. `how` says what two cameras do with a view."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(names)))
    graph.add_weighted_edges_from((c, d, int(count[c, d])) for c, d in torch.triu(count >= LEAST).nonzero().tolist())
    groups: list[set[int]] = sorted(nx.connected_components(graph), key=min)
    if len(groups) > 1:
        c, d = max(((c, d) for c in groups[0] for d in range(len(names)) if d not in groups[0]), key=lambda p: int(count[p]))
        listed = " and ".join("[" + ", ".join(str(names[i]) for i in sorted(g)) + "]" for g in groups)
        n = int(count[c, d])
        sentence = f"The board does not join {listed}: {names[c]} and {names[d]} {how} in {n} views."
    else:
        tree = nx.maximum_spanning_tree(graph)
        c, d, n = min(((a, b, w["weight"]) for a, b, w in tree.edges(data=True)), key=lambda e: e[2])
        sentence = f"Camera {names[c]} shares {'only ' if n < LINK[0] else ''}{n} views with camera {names[d]}, the weakest link."
    remedy = "" if n >= LINK[0] else f"Wave the board between {names[c]} and {names[d]}, both seeing it, about {GOOD - n} more views."
    return Gate("connected", verdict(n, LINK), n, LINK[1], sentence, remedy)


def _front(views: BoardViews, lenses: Sequence[LensFit]) -> Gate:
    """Before there is a rig: whether each camera by itself sees the side of the board that it reads."""
    cameras = joined([fit.camera(name) for name, fit in zip(views.cameras, lenses)])
    ok = views.pixels.isfinite().all(-1) & (views.sigma > 0)
    c, b = (ok.sum(-1) >= 6).nonzero(as_tuple=True)
    weight = torch.where(ok[c, b], 1 / views.sigma[c, b], 0).to(torch.float64)
    seen = Sightings(c, b, views.points()[c, b], views.pixels[c, b].nan_to_num().to(torch.float64), weight)
    wrong = facing(board_poses(seen, cameras), seen)[:, 0] == views.behind[c, b] if len(c) else torch.zeros(0, dtype=torch.bool)
    return judge_sides(views, torch.stack([wrong[c == i].double().mean() for i in range(len(views.cameras))]))


def judge_sides(views: BoardViews, away: Float[Tensor, "C"]) -> Gate:
    """Whether no picture is mirrored: which part of each camera's views shows the board's wrong side."""
    names = views.cameras
    worst = int(away.nan_to_num(0).argmax())
    part = float(away.nan_to_num(0)[worst])
    if views.board.kind == "chessboard" and verdict(part, AWAY) == "pass":
        sentence = "A chessboard looks the same in a mirror: whether all cameras mirror cannot be told by it."
        return Gate(
            "not mirrored", "warn", part, AWAY[1], sentence, "See that writing reads rightly in the videos; a ChArUco board would tell."
        )
    if verdict(part, AWAY) == "pass":
        return Gate("not mirrored", "pass", part, AWAY[1], "The board's front faces the cameras that read it.")
    sentence = (
        f"Camera {names[worst]} reads the board's front in {100 * part:.0f} % of its views while it shows its back: a mirrored picture."
    )
    remedy = f"Turn off mirror or selfie mode in camera {names[worst]} and film again, or check that the board is not described mirrored."
    return Gate("not mirrored", verdict(part, AWAY), part, AWAY[1], sentence, remedy)

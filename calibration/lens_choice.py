"""Whether a rig's lenses stay as they were, are refined with it, or are shared by cameras of one type: what the data supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from calibration.bundle import LensModel, Pose, adjust
from calibration.cameras import Cameras
from calibration.intrinsics import LensFit
from calibration.reprojection import LENS, Sightings, fisheyes, huber, lens_vectors, timed_residuals

LensMode = Literal["fixed", "refined", "shared"]
MODES: tuple[LensMode, ...] = ("fixed", "shared", "refined")
"""From few unknowns to many."""
WORTH = 0.005
"""Part by which more unknowns must lower the held-out error to be taken."""
EVERY, MOST = 4, 160
"""Every fourth instant is held out; at most this many instants take part in the choice."""
REUSED = 10.0
"""Times the lens's standard deviation, as its prior, where lens and rig come from the same footage: it then only keeps within reason
what the views do not show."""


def fixed_model(cameras: Cameras) -> LensModel:
    """Lenses as they are."""
    C = len(cameras)
    none = torch.zeros(LENS, 0, dtype=torch.float64)
    return LensModel(lens_vectors(cameras), fisheyes(cameras), torch.arange(C), none, none.new_zeros(C, 0, 0))


def refined_model(cameras: Cameras, lenses: Sequence[LensFit], same_footage: bool, group: Sequence[int] | None = None) -> LensModel:
    """Lenses free about their fits, whose covariances are the prior; cameras of one `group` (numbered from 0) share a lens."""
    group = list(range(len(cameras))) if group is None else list(group)
    widen = REUSED if same_footage else 1.0
    covariance = torch.stack([fit.covariance for fit in lenses]) * widen**2
    free = covariance.diagonal(dim1=-2, dim2=-1).amax(0) > 0
    # What one lens had fixed another may have free: a tight prior keeps it, 1e-4 px or 1e-6 of a coefficient.
    tight = torch.cat([torch.full((4,), 1e-8), torch.full((8,), 1e-12)]).to(covariance)
    information = torch.linalg.inv((covariance + torch.diag(tight))[:, free][:, :, free])
    basis = torch.eye(LENS, dtype=torch.float64)[:, free]
    own, G = lens_vectors(cameras), max(group) + 1
    index = torch.tensor(group)
    prior = information.new_zeros(G, *information.shape[1:]).index_add_(0, index, information)
    pulled = (information @ own[:, free, None])[..., 0]
    mean = torch.linalg.solve(prior, pulled.new_zeros(G, pulled.shape[1]).index_add_(0, index, pulled))
    first = [group.index(g) for g in range(G)]
    start = own[first].clone()
    start[:, free] = mean
    return LensModel(start, fisheyes(cameras)[first], index, basis, prior)


def lens_groups(cameras: Cameras, lenses: Sequence[LensFit], groups: Sequence[Sequence[str]] | None) -> list[int]:
    """Number of each camera's group: as said, or cameras of one image size and model whose focal lengths agree within their doubt."""
    same = nx.Graph()
    same.add_nodes_from(range(len(cameras)))
    for i in range(len(cameras)):
        for j in range(i):
            if groups is not None:
                alike = any(cameras.names[i] in g and cameras.names[j] in g for g in groups)
            else:
                doubt = 3 * (lenses[i].covariance.diagonal()[:2] + lenses[j].covariance.diagonal()[:2]).sqrt() + 0.002 * lenses[i].focal
                alike = bool((lenses[i].size == lenses[j].size).all()) and bool(((lenses[i].focal - lenses[j].focal).abs() < doubt).all())
            if alike and lenses[i].lens == lenses[j].lens:
                same.add_edge(i, j)
    number = {c: n for n, part in enumerate(nx.connected_components(same)) for c in part}
    return [number[c] for c in range(len(cameras))]


def chosen_model(
    views: Sightings,
    poses: Pose,
    boards: Pose,
    cameras: Cameras,
    lenses: Sequence[LensFit],
    mode: LensMode | Literal["auto"],
    groups: Sequence[Sequence[str]] | None,
    same_footage: bool,
    anchor: int,
) -> tuple[LensModel, LensMode, dict[str, float]]:
    """The lens model that `mode` says, or the one that predicts held-out instants best; and the error (px) of each that was tried."""
    group = lens_groups(cameras, lenses, groups)
    models: dict[LensMode, LensModel] = {"fixed": fixed_model(cameras)}
    if any(bool(fit.covariance.any()) for fit in lenses):
        models["refined"] = refined_model(cameras, lenses, same_footage)
        if max(group) + 1 < len(group):
            models["shared"] = refined_model(cameras, lenses, same_footage, group)
    if mode != "auto":
        if mode not in models:
            why = "no two cameras are of one type: name them in `groups`" if mode == "shared" else "every lens's covariance is zero"
            raise ValueError(f"solve_rig: lenses cannot be {mode}: {why}")
        return models[mode], mode, {}
    train, test = _split(views)
    errors = {name: _held_out(train, test, poses, boards, model, anchor) for name, model in models.items()}
    best: LensMode = "fixed"
    for name in MODES:
        if name in errors and errors[name] < errors[best] * (1 - WORTH):
            best = name
    return models[best], best, {name: error for name, error in errors.items()}


def _split(views: Sightings) -> tuple[Sightings, Sightings]:
    """Views to fit and views to predict, whole instants each."""
    instants = views.board.unique()
    instants = instants[:: max(-(-len(instants) // MOST), 1)]
    out = torch.isin(views.board, instants[EVERY // 2 :: EVERY])
    return views[torch.isin(views.board, instants) & ~out], views[out]


def _held_out(train: Sightings, test: Sightings, poses: Pose, boards: Pose, model: LensModel, anchor: int) -> float:
    """Root mean square error, px, at instants where only the board's pose is fitted; robust, corners weighted by their sigma."""
    fitted = adjust(train, poses, boards, model, (anchor,), steps=12, tolerance=1e-5)
    lens = model.of(fitted.change)
    given = replace(model, start=lens, fish=model.fish[model.group], group=torch.arange(len(lens)), basis=model.basis[:, :0])
    given = replace(given, prior=lens.new_zeros(len(lens), 0, 0))
    cameras, everyone, delay = (fitted.R, fitted.t), tuple(range(len(lens))), fitted.delay
    test = test.thicker(fitted.thickness)
    placed = adjust(test, cameras, boards, given, everyone, delay=delay, steps=12, tolerance=1e-5)
    R, t = placed.of_views(test)
    error = timed_residuals(test, delay, R, t, lens[test.camera], given.fish[test.camera])[0]
    return rms(error, test.weight)


def rms(error: Float[Tensor, "V N 2"], weight: Float[Tensor, "V N"]) -> float:
    """Robust root mean square length, px, of errors (NaN: not seen) that are certain to 1 / weight."""
    loss = huber((error * weight[..., None]).square().sum(-1).nan_to_num())[0]
    return float((loss.sum() / weight.square().sum()).sqrt())

"""A camera rig from views of one board: who saw it together, the chain of cameras, the bundle adjustment, and how certain it all is.

The board's printed size gives the scale. The world is the anchor camera's: its centre is the origin, its x axis x, its viewing direction
y, and what it sees upwards z; moving it to the floor is another matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import networkx as nx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.boards import BoardViews
from calibration.bundle import Adjusted, LensModel, skew
from calibration.camera_graph import Pair, chained, refuse_unless_connected
from calibration.cameras import Cameras, joined
from calibration.intrinsics import LensFit
from calibration.lens_choice import LensMode, chosen_model, fixed_model, refined_model
from calibration.reprojection import LENS, lens_vectors
from calibration.rig_views import DISAGREES, USED, VERDICTS, Rig, begun, started

UPRIGHT = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
MIRROR = 0.8
"""Part of a pair's agreeing views from which another pose with so many makes it doubtful."""


@dataclass(frozen=True)
class RigFit:
    """A solved camera rig. float64."""

    cameras: Cameras
    camera_covariance: Float[Tensor, "C 6 6"]
    """Of each camera's rotation vector (camera's frame, rad) and position (world, m): where only the rig's shape counts; with a camera
    held, relative to that camera."""
    joint_covariance: Float[Tensor, "6C 6C"]
    """Likewise of all cameras together."""
    lens_covariance: Float[Tensor, "C 12 12"]
    """Of focal x y, centre x y (px), distortion; what was taken as given where the lenses were not refined."""
    R_world_board: Float[Tensor, "B 3 3"]
    """NaN at instants that fewer than two cameras agree on."""
    board_position: Float[Tensor, "B 3"]
    """Of the board's origin, m; NaN likewise."""
    residual: Float[Tensor, "C B N 2"]
    """Projected minus seen, px, of corners in screened views at solved instants; NaN elsewhere."""
    verdict: Int[Tensor, "C B"]
    """What became of each view, as index into `VERDICTS`."""
    noise: Float[Tensor, "C"]
    """By how much each camera's corners scatter more about a rigid board than their sigma says."""
    excess: float
    """What corners miss beyond that because cameras and board do not fit together exactly (lens, timing, board), px along one axis."""
    delay: Float[Tensor, "C"]
    """Frames by which each camera's pictures must be moved on to fit the anchor's; zero where the board did not move smoothly."""
    delay_sd: Float[Tensor, "C"]
    """frames"""
    jitter: Float[Tensor, "C"]
    """How far the moments of each camera's pictures stray from that (standard deviation), frames; zero where it was not solved."""
    late: Float[Tensor, "C B"]
    """Frames by which a picture is later than its camera's delay says; NaN in views that the rig does not rest on."""
    thickness: float
    """What a two-sided board is thicker than was said, m; zero where no view showed its back."""
    thickness_sd: float
    """m"""
    correlation: float
    """By how much the covariances were widened because corners of one instant err together (1 where they do not)."""
    lenses: LensMode
    """What was done with the lenses."""
    anchor: str
    pairs: tuple[Pair, ...]
    """Every two cameras that shared an instant."""
    tree: tuple[tuple[str, str], ...]
    """The chain that gave the first poses."""
    doubtful: tuple[tuple[str, str], ...]
    """Links of the chain whose mirrored pose fits nearly as well: film the board nearer and tilted there."""
    held_out: dict[str, float] = field(default_factory=dict)
    """Error (px, root mean square) at instants that were not fitted, for each way of treating the lenses that was tried."""

    @property
    def used(self) -> Bool[Tensor, "C B"]:
        """The views that the rig rests on."""
        return self.verdict == USED

    @property
    def rejected(self) -> dict[str, dict[str, int]]:
        """Camera -> reason -> number of views that were left out ("alone" is no fault of a view, but counted)."""
        return {
            name: {VERDICTS[code]: n for code, n in sorted(Counter(row).items()) if code > USED}
            for name, row in zip(self.cameras.names, self.verdict.tolist())
        }

    @property
    def rms(self) -> float:
        """Root mean square distance between projected and seen corners in the used views, px."""
        square = self.residual[self.used].square().sum(-1)
        return float(square[square.isfinite()].mean().sqrt())


def solve_rig(
    views: BoardViews,
    lenses: Sequence[LensFit],
    mode: LensMode | Literal["auto"] = "auto",
    groups: Sequence[Sequence[str]] | None = None,
    hold: str | None = None,
    same_footage: bool = False,
    synchronised: bool = False,
) -> RigFit:
    """The cameras' poses in metres, from what they saw of one board, and the covariance of each.

    `mode` says whether lenses stay fixed, are refined with each `LensFit`'s covariance as prior, or are shared by `groups` of cameras of
    one type (by default cameras whose lenses agree); auto takes what predicts held-out instants best. `hold` names the camera that the
    covariances are relative to. `same_footage`: the lenses come from these very views, which then must not count twice. `synchronised`: the
    cameras share a trigger; else each one's delay is solved where the board was waved smoothly through consecutive frames.

    A `ValueError` names cameras that never see the board, see it mirrored, or form groups that the board does not join, and what to film.
    """
    if len(lenses) != len(views.cameras):
        raise ValueError(f"solve_rig: got {len(lenses)} lenses for {len(views.cameras)} cameras; give one to each, in the same order")
    if len(views.cameras) < 2:
        raise ValueError("solve_rig: one camera is no rig; give views of at least two")
    if hold is not None and hold not in views.cameras:
        raise ValueError(f"solve_rig: no camera {hold!r} to hold; there are {list(views.cameras)}")
    cameras = joined([fit.camera(name) for name, fit in zip(views.cameras, lenses)])
    start = started(views, cameras, _doubt(lenses), synchronised)
    anchor = _middle(start.graph) if hold is None else views.cameras.index(hold)
    R, t, tree = chained(start.graph, anchor, UPRIGHT)
    known = mode == "fixed" or not any(bool(fit.covariance.any()) for fit in lenses)
    # Refined lenses first, lest a wrong one turns good views out; whether that was needed is asked afterwards.
    first = fixed_model(cameras) if known else refined_model(cameras, lenses, same_footage)
    rig = begun(start, R, t).settled(first, anchor)
    refuse_unless_connected(cameras.names, *rig.shared(), rig.used)
    model, taken, held_out = chosen_model(rig.sightings(), rig.cameras, rig.boards, cameras, lenses, mode, groups, same_footage, anchor)
    if taken != "fixed" or not known:
        rig = rig.settled(model, anchor)
        if bool((rig.verdict == DISAGREES).any()):  # the lenses as they were may have turned views out that the better ones explain
            again = started(views, _with_lenses(cameras, model, rig), _doubt(lenses) / 3, synchronised)
            rig = begun(again, *rig.cameras).settled(model, anchor)
        refuse_unless_connected(cameras.names, *rig.shared(), rig.used)
    return _judged(rig, model, taken, lenses, anchor, hold is not None, tree, held_out)


def _doubt(lenses: Sequence[LensFit]) -> Float[Tensor, "C 2"]:
    """Standard deviations of each focal length (as a part of it) and principal point (rad)."""
    return torch.stack([fit.covariance.diagonal()[:4].sqrt().view(2, 2).amax(1) / fit.focal.mean() for fit in lenses])


def _with_lenses(cameras: Cameras, model: LensModel, rig: Rig) -> Cameras:
    """The cameras with the lenses of an adjustment."""
    assert rig.adjusted is not None
    lens = model.of(rig.adjusted.change)
    return replace(cameras, focal=lens[:, :2], centre=lens[:, 2:4], distortion=lens[:, 4:])


def _middle(graph: nx.Graph) -> int:
    """The camera from which the others are reached over the fewest and strongest links."""
    strong = nx.maximum_spanning_tree(graph, weight="weight")
    return min(nx.center(strong), key=lambda c: (-strong.degree(c), c))


def _judged(
    rig: Rig,
    model: LensModel,
    taken: LensMode,
    lenses: Sequence[LensFit],
    anchor: int,
    held: bool,
    tree: nx.Graph,
    held_out: dict[str, float],
) -> RigFit:
    """The result with its covariances and residuals."""
    adjusted = rig.adjusted
    assert adjusted is not None
    cameras = _with_lenses(rig.start.cameras, model, rig)
    lens = lens_vectors(cameras)
    names = cameras.names
    joint, lens_covariance, delay_sd, thickness_sd, correlation = _covariances(adjusted, model, anchor, held)
    if taken == "fixed":
        lens_covariance = torch.stack([fit.covariance for fit in lenses])
    C = len(names)
    solved = rig.used.sum(0) >= 2
    residual, late = _residual(rig, lens, model.fish[model.group], solved)
    links = sorted((min(e), max(e)) for e in tree.edges)
    doubtful = [(c, d) for c, d in links if (p := tree.edges[c, d]["pair"]).rival >= MIRROR * p.agreeing]
    position = -(adjusted.R.mT @ adjusted.t[..., None])[..., 0]
    return RigFit(
        cameras=replace(cameras, R_camera_world=adjusted.R, position=position),
        camera_covariance=torch.stack([joint[6 * c : 6 * c + 6, 6 * c : 6 * c + 6] for c in range(C)]),
        joint_covariance=joint,
        lens_covariance=lens_covariance,
        R_world_board=torch.where(solved[:, None, None], adjusted.R_world_board, torch.nan),
        board_position=torch.where(solved[:, None], adjusted.board_position, torch.nan),
        residual=residual,
        verdict=rig.verdict,
        noise=rig.noise,
        excess=rig.excess,
        delay=adjusted.delay - adjusted.delay[anchor],
        delay_sd=delay_sd,
        jitter=rig.jitter if rig.views.velocity is not None else torch.zeros_like(rig.jitter),
        late=late,
        thickness=float(adjusted.thickness),
        thickness_sd=thickness_sd,
        correlation=correlation,
        lenses=taken,
        anchor=names[anchor],
        pairs=rig.start.pairs,
        tree=tuple((names[c], names[d]) for c, d in links),
        doubtful=tuple((names[c], names[d]) for c, d in doubtful),
        held_out=held_out,
    )


def _residual(
    rig: Rig, lens: Float[Tensor, "C 12"], fish: Bool[Tensor, "C"], solved: Bool[Tensor, "B"]
) -> tuple[Float[Tensor, "C B N 2"], Float[Tensor, "C B"]]:
    """Residuals of every screened view where the instant is solved, and the lateness of the used ones."""
    views, (error, own, _) = rig.views, rig.residuals(lens, fish)
    whole = torch.full((*rig.verdict.shape, *error.shape[1:]), torch.nan, dtype=error.dtype)
    whole[views.camera, views.board] = torch.where(solved[views.board, None, None], error, torch.nan)
    late = whole.new_full(rig.verdict.shape, torch.nan)
    late[views.camera, views.board] = own
    return whole, torch.where(rig.used, late, torch.nan)


def _covariances(
    adjusted: Adjusted, model: LensModel, anchor: int, held: bool
) -> tuple[Float[Tensor, "6C 6C"], Float[Tensor, "C 12 12"], Float[Tensor, "C"], float, float]:
    """Of all camera poses together and of each lens, standard deviations of each delay and the thickness; and how much they were widened.

    Corners of one instant err together where the board bends, the lens is described too simply or the shutter was late. The scatter
    of the instants' scores against what independent corners would give tells by how much (White 1980, clusters as in Liang and Zeger 1986).
    """
    C, (G, K) = len(adjusted.R), adjusted.change.shape
    free = adjusted.information.diagonal() > 0
    information = adjusted.information[free][:, free]
    inverse = torch.linalg.inv(information)
    scores = adjusted.scores[:, free]
    data = adjusted.information.clone()
    if K:
        data[6 * C : 6 * C + G * K, 6 * C : 6 * C + G * K] -= torch.block_diag(*model.prior)
    data = data[free][:, free]
    correlation = max(float((inverse * (scores.T @ scores)).sum() / (inverse * data).sum()), 1.0)
    covariance = adjusted.information.new_zeros(adjusted.information.shape)
    covariance[free.nonzero(), free.nonzero()[:, 0]] = inverse * correlation
    lens = torch.zeros(C, LENS, LENS, dtype=torch.float64)
    for c in range(C):
        own = slice(6 * C + K * int(model.group[c]), 6 * C + K * int(model.group[c]) + K)
        lens[c] = model.basis @ covariance[own, own] @ model.basis.T
    eye = torch.eye(3, dtype=torch.float64)
    to_position = torch.block_diag(*(torch.block_diag(eye, -R.T) for R in adjusted.R))
    if not held:
        to_position = _shape_only(adjusted) @ to_position
    against = torch.eye(C, dtype=torch.float64)
    against[:, anchor] -= 1
    delay_sd = (against @ covariance[-1 - C : -1, -1 - C : -1] @ against.T).diagonal().clamp_min(0).sqrt()
    poses = to_position @ covariance[: 6 * C, : 6 * C] @ to_position.T
    return poses, lens, delay_sd, float(covariance[-1, -1].sqrt()), correlation


def _shape_only(adjusted: Adjusted) -> Float[Tensor, "6C 6C"]:
    """Removes from (rotation, position) errors of all cameras what turning and shifting the whole world explains (inner constraints)."""
    position = -(adjusted.R.mT @ adjusted.t[..., None])[..., 0]
    eye = torch.eye(3, dtype=position.dtype)
    whole = torch.cat([torch.cat([torch.cat([-R, 0 * eye], 1), torch.cat([-skew(p), eye], 1)]) for R, p in zip(adjusted.R, position)])
    return torch.eye(len(whole), dtype=whole.dtype) - whole @ torch.linalg.solve(whole.T @ whole, whole.T)

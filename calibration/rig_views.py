"""Which views of a board a rig can rest on: screened one by one, then against what the other cameras saw at the same instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import networkx as nx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.board_pose import BoardPoses, board_poses, facing, with_half_turns
from calibration.boards import BoardViews
from calibration.bundle import Adjusted, LensModel, Pose, adjust, composed
from calibration.camera_graph import Pair, Placed, agreement, camera_graph, pairs_of, placed, refuse_unless_connected
from calibration.cameras import Cameras
from calibration.reprojection import Sightings, fisheyes, lens_vectors, residuals, timed_residuals

Verdict = Literal["unseen", "used", "alone", "few corners", "blurred", "misshapen", "from behind", "disagrees"]
VERDICTS: tuple[Verdict, ...] = ("unseen", "used", "alone", "few corners", "blurred", "misshapen", "from behind", "disagrees")
"""What became of a view. alone: no other camera saw the board then; disagrees: the other cameras place the board elsewhere."""
UNSEEN, USED, ALONE, FEW, BLURRED, MISSHAPEN, BEHIND, DISAGREES = range(8)
CORNERS = 6
STRAY, OFF, BLUR = 6.0, 4.0, 4.0
"""Standard deviations beyond which a corner is left out; times its camera's usual residual, and usual sigma, beyond which a view is."""
STEP = 1.5
"""Times the usual number of frames between instants up to which the board's motion from one to the next is straight."""
JITTER, STEADY = 0.2, 0.01
"""How far the moments of a camera's pictures are taken to stray at first (standard deviation), and the least that is told, frames."""
PROBES, ROUNDS, SAMPLE = 60, 8, 20_000
"""Views of a camera that tell its noise at first; rounds of adjusting and rejecting at most; corners that tell the excess."""


def scatter(square: Float[Tensor, "n"]) -> float:
    """Standard deviation along one axis, from squared lengths of two-dimensional errors; a tenth of gross errors hardly moves it."""
    if not len(square):
        return 1.0
    first = float(square.median()) / 1.3863  # the median of two squared normals
    inner = square[square < 9 * first]
    # Of two squared normals those below 9 have the mean 1.899.
    return max((float(inner.mean()) / 1.899) ** 0.5 if len(inner) else first**0.5, 1e-3)


def misfit(error: Float[Tensor, "V N 2"], weight: Float[Tensor, "V N"]) -> Float[Tensor, "V"]:
    """The median whitened error of each view, as a standard deviation: 1 where only the corners' noise is at work."""
    return ((error * weight[..., None]).square().sum(-1).nanmedian(1)[0] / 1.3863).sqrt().nan_to_num(torch.inf)


@dataclass(frozen=True)
class Start:
    """Screened views, the poses each allows, and which cameras they join."""

    cameras: Cameras
    views: Sightings
    """Those that passed, with the sigma of the board's finder."""
    poses: BoardPoses
    verdict: Int[Tensor, "C B"]
    noise: Float[Tensor, "C"]
    at: Int[Tensor, "C B"]
    """Index of each view in `views`, -1 where there is none."""
    pairs: tuple[Pair, ...]
    graph: nx.Graph
    placed: Placed
    """`poses` with their covariances."""
    half_turn: tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]
    """What takes corners to where half a turn of the board takes them."""


def started(views: BoardViews, cameras: Cameras, doubt: Float[Tensor, "C 2"], synchronised: bool = False) -> Start:
    """Screen every view, find its poses and every pair's; a `ValueError` says what to film where the cameras are not joined.

    `doubt`: standard deviations of each camera's focal length (as a part of it) and of its principal point (rad). `synchronised`: do not
    look for delays.
    """
    verdict, seen = _screened(views)
    noise = _noise(seen, cameras)
    verdict[tuple(torch.stack([seen.camera, seen.board])[:, _blurred(seen)])] = BLURRED
    poses = board_poses(seen.quieter(noise), cameras)
    lens, fish = lens_vectors(cameras), fisheyes(cameras)
    error = residuals(seen, poses.R[:, 0], poses.t[:, 0], lens[seen.camera], fish[seen.camera])
    wrong = (misfit(error, seen.quieter(noise).weight) > OFF) | ~poses.cost[:, 0].isfinite()
    verdict[seen.camera[wrong], seen.board[wrong]] = MISSHAPEN
    behind = facing(poses, seen)[:, 0] == views.behind[seen.camera, seen.board]
    behind &= ~wrong
    verdict[seen.camera[behind], seen.board[behind]] = BEHIND
    _refuse_mirrored(cameras.names, verdict)
    keep = verdict[seen.camera, seen.board] == USED
    seen, poses = seen[keep], poses[keep]
    points, known = views.board.points(), placed(poses, doubt[seen.camera])
    if views.board.chessboard_symmetric:
        poses = with_half_turns(poses, points)
        known = known.doubled(poses)
    velocity = None if synchronised else board_velocity(views)
    if velocity is not None:
        seen = replace(seen, velocity=velocity[seen.camera, seen.board])
    if bool(views.behind.any()):
        seen = replace(seen, behind=views.behind[seen.camera, seen.board])
    at = torch.full(verdict.shape, -1)
    at[seen.camera, seen.board] = torch.arange(len(seen))
    pairs = pairs_of(known, at)
    graph = camera_graph(cameras.names, pairs)
    refuse_unless_connected(cameras.names, graph, pairs, at >= 0)
    half = torch.diag(points.new_tensor([-1, -1, 1.0]))
    centre = (points.amin(0) + points.amax(0)) / 2
    return Start(cameras, seen, poses, verdict, noise, at, tuple(pairs), graph, known, (half, centre - half @ centre))


def board_velocity(views: BoardViews) -> Float[Tensor, "C B N 2"] | None:
    """Of the corners, px a frame, from the instants before and after; zero where not known. None where the board does not move smoothly."""
    p, n = views.pixels.to(torch.float64), views.instants.to(torch.float64)[..., None, None]
    blank, none = torch.full_like(p[:, :1], torch.nan), torch.full_like(n[:, :1], torch.nan)
    after, before = torch.cat([p[:, 1:], blank], 1) - p, p - torch.cat([blank, p[:, :-1]], 1)
    after_n, before_n = torch.cat([n[:, 1:], none], 1) - n, n - torch.cat([none, n[:, :-1]], 1)
    usual = STEP * after_n[after_n > 0].median() if bool((after_n > 0).any()) else 0.0
    after, before = (torch.where((f > 0) & (f <= usual), d / f, torch.nan) for d, f in ((after, after_n), (before, before_n)))
    both = (after + before).isfinite().all(-1)
    smooth = (after - before).norm(dim=-1) < (after + before).norm(dim=-1) / 2 + 1
    if int(both.sum()) < 0.3 * int(p.isfinite().all(-1).sum()) or int((smooth & both).sum()) < 0.6 * int(both.sum()):
        return None
    return torch.stack([after, before]).nanmean(0).nan_to_num(0.0)


def _screened(views: BoardViews) -> tuple[Int[Tensor, "C B"], Sightings]:
    """First verdicts, and the views with corners enough and not all in one line."""
    ok = views.pixels.isfinite().all(-1) & views.sigma.isfinite() & (views.sigma > 0)
    points = views.points()
    count = ok.sum(-1)
    weight = ok[..., None].to(points.dtype)
    away = (points - (points * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp_min(1)) * weight
    spread = torch.linalg.eigvalsh(away.mT @ away)[..., 1] / count.clamp_min(1)
    whole = points[0, 0] - points[0, 0].mean(0)
    thin = spread < 1e-3 * torch.linalg.eigvalsh(whole.T @ whole / len(whole))[2]
    enough = (count >= min(CORNERS, points.shape[2])) & ~thin
    verdict = torch.where(enough, USED, torch.where(count > 0, FEW, UNSEEN))
    c, b = enough.nonzero(as_tuple=True)
    weight = torch.where(ok[c, b], 1 / views.sigma[c, b], 0).to(torch.float64)
    return verdict, Sightings(c, b, points[c, b], views.pixels[c, b].to(torch.float64), weight)


def _blurred(seen: Sightings) -> Bool[Tensor, "V"]:
    """Views whose corners are far less certain than usual in their camera."""
    sigma = torch.where(seen.weight > 0, 1 / seen.weight, torch.nan).nanmedian(1)[0]
    blurred = torch.zeros(len(seen), dtype=torch.bool)
    for c in seen.camera.unique():
        own = seen.camera == c
        blurred[own] = sigma[own] > BLUR * sigma[own].median()
    return blurred


def _noise(seen: Sightings, cameras: Cameras) -> Float[Tensor, "C"]:
    """By how much each camera's corners miss a rigid board more than their sigma says, from some of its views."""
    chosen = [own[:: max(len(own) // PROBES, 1)] for own in ((seen.camera == c).nonzero()[:, 0] for c in range(len(cameras)))]
    some = seen[torch.cat(chosen)]
    noise = torch.ones(len(cameras), dtype=torch.float64)
    if not len(some):
        return noise
    poses = board_poses(some, cameras)
    error = residuals(some, poses.R[:, 0], poses.t[:, 0], lens_vectors(cameras)[some.camera], fisheyes(cameras)[some.camera])
    count = (some.weight > 0).sum(1, keepdim=True)
    square = (error * some.weight[..., None]).square().sum(-1) * 2 * count / (2 * count - 6).clamp_min(1)
    for c in range(len(cameras)):
        own = square[some.camera == c]
        noise[c] = scatter(own[own.isfinite()])
    return noise


def _refuse_mirrored(names: Sequence[str], verdict: Int[Tensor, "C B"]) -> None:
    """A board cannot be seen through its back: a camera that mostly does shows a mirrored picture."""
    behind, front = (verdict == BEHIND).sum(1).tolist(), (verdict == USED).sum(1).tolist()
    mirrored = [name for name, b, f in zip(names, behind, front) if b >= 3 and b > f]
    if mirrored:
        raise ValueError(
            f"{', '.join(repr(n) for n in mirrored)} would see the board from behind, which cannot be: the video is mirrored (turn off the "
            "camera's mirror or selfie mode and film again), or the board is described mirrored or is two-sided without saying so"
        )


@dataclass(frozen=True)
class Rig:
    """A rig on its way: poses of cameras and boards, and the views that they rest on."""

    start: Start
    views: Sightings
    """As in `start`, corners of boards that lay half a turn round renumbered."""
    cameras: Pose
    boards: Pose
    verdict: Int[Tensor, "C B"]
    noise: Float[Tensor, "C"]
    excess: float
    """What corners miss beyond that because cameras and board do not fit together exactly (lens, timing, board), px along one axis."""
    loose: Float[Tensor, "C"]
    """Times by which each camera misses more than excess and noise explain; 1 where it does not."""
    delay: Float[Tensor, "C"]
    """Frames by which each camera's pictures are moved on."""
    jitter: Float[Tensor, "C"]
    """How far single pictures stray from that, frames."""
    thickness: Float[Tensor, ""]
    """What a two-sided board is thicker than was said, m."""
    stray: Bool[Tensor, "V N"]
    adjusted: Adjusted | None = None

    @property
    def used(self) -> Bool[Tensor, "C B"]:
        """The views that it rests on."""
        return self.verdict == USED

    def sightings(self) -> Sightings:
        """Those views, stray corners left out, with sigmas as they turned out to be."""
        views = self._timed()
        views = replace(views, weight=torch.where(self.stray, 0, views.weight))
        return views[self.used[views.camera, views.board]]

    def _timed(self) -> Sightings:
        """All views with what is known of their noise and moments, on a board as thick as it turned out."""
        jitter = None if self.views.velocity is None else self.jitter[self.views.camera]
        return replace(self.views, weight=self._weight(self.excess), jitter=jitter)

    def residuals(self, lens: Float[Tensor, "C 12"], fish: Bool[Tensor, "C"]) -> tuple[Tensor, Tensor, Tensor]:
        """Of every view, px, at the moment it was taken; by how many frames that was late, and its information."""
        views = self._timed()
        c, (R, t) = views.camera, composed(self.cameras, self.boards, views)
        return timed_residuals(views.thicker(self.thickness), self.delay, R, t, lens[c], fish[c])

    def shared(self) -> tuple[nx.Graph, list[Pair]]:
        """Cameras joined by used views, and every pair with the number of them."""
        pairs = [replace(p, agreeing=int((self.used[p.first] & self.used[p.second]).sum())) for p in self.start.pairs]
        return camera_graph(self.start.cameras.names, pairs), pairs

    def settled(self, model: LensModel, anchor: int) -> Rig:
        """Adjusted, wrong views rejected (and mistaken rejections taken back), until nothing changes."""
        rig = self._reviewed(
            model.of(model.start.new_zeros(len(model.start), model.basis.shape[1])), model.fish[model.group], reject=False
        )[0]
        for _ in range(ROUNDS):
            clock = int(rig.jitter.argmin())
            adjusted = adjust(rig.sightings(), rig.cameras, rig.boards, model, (anchor,), None, rig.delay, rig.thickness, clock)
            boards = adjusted.R_world_board, adjusted.board_position
            rig = replace(rig, cameras=(adjusted.R, adjusted.t), boards=boards, delay=adjusted.delay, adjusted=adjusted)
            rig = replace(rig, thickness=adjusted.thickness)
            rig, changed = rig._reviewed(model.of(adjusted.change), model.fish[model.group])
            if not changed:
                break
        return rig

    def _reviewed(self, lens: Float[Tensor, "C 12"], fish: Bool[Tensor, "C"], reject: bool = True) -> tuple[Rig, bool]:
        """Excess, stray corners and verdicts from the residuals; and whether views changed, or the excess by more than 5 %."""
        c, b = self.views.camera, self.views.board
        error, late, information = self.residuals(lens, fish)
        even = replace(self, excess=self._excess(error), loose=torch.ones_like(self.loose))
        even = replace(even, jitter=self._strayed(late, information) if reject else self.jitter)
        off = torch.full(self.verdict.shape, torch.nan, dtype=torch.float64)
        off[c, b] = misfit(error, even._weight(even.excess))
        used, count, verdict = self.used, self.used.sum(0), self.verdict.clone()
        asked = used | ((verdict == DISAGREES) & (count >= 2))
        usual = torch.where(asked, off, torch.nan).nanmedian(1)[0].nan_to_num(1.0)
        # A camera whose lens or clock is not right yet counts less, but keeps its views until they are.
        rig = replace(even, loose=torch.where(usual > 1.2, usual, 1.0))
        off = (off / rig.loose[:, None]).nan_to_num(torch.inf)
        stray = ((error * rig._weight(rig.excess)[..., None]).square().sum(-1) > STRAY**2).nan_to_num(0)
        worst = torch.where(used, off, 0).amax(0)
        bad = used & (off > OFF) & reject & ((off == worst) | (count < 3))
        bad |= used & bad.any(0) & (count < 3)
        back = (verdict == DISAGREES) & (off < 0.75 * OFF) & (count >= 2) & ~bad.any(0)
        verdict[bad], verdict[back] = DISAGREES, USED
        verdict[(verdict == USED) & ((verdict == USED).sum(0) < 2)] = DISAGREES
        rig = replace(rig, verdict=verdict, stray=stray)
        same = bool((verdict == self.verdict).all()) and bool((stray == self.stray)[used[c, b]].all())
        even_so = torch.allclose(rig.loose, self.loose, rtol=0.1) and torch.allclose(rig.jitter, self.jitter, rtol=0.1, atol=0.01)
        return rig, not (same and even_so and abs(rig.excess - self.excess) <= 0.05 * rig.excess + 0.02)

    def _strayed(self, late: Float[Tensor, "V"], information: Float[Tensor, "V"]) -> Float[Tensor, "C"]:
        """The jitter that makes the used views' lateness likeliest, one step of expectation and maximisation (Dempster et al. 1977)."""
        c, b = self.views.camera, self.views.board
        if self.views.velocity is None:
            return self.jitter
        told = torch.where(self.used[c, b], 1 - 1 / (information * self.jitter[c].square()), 0)  # the data's part of what is known
        table = torch.full(self.verdict.shape, torch.nan, dtype=torch.float64)
        table[c, b] = torch.where(self.used[c, b], late, torch.nan)
        late = (table - table.nanquantile(0.5, 0))[c, b].nan_to_num()  # whose moment it was that strayed, the others say
        square = told * (late.square() + 1 / information)
        total, weight = (torch.zeros_like(self.jitter).index_add_(0, c, v) for v in (square, told))
        jitter = torch.where(weight > 1, (total / weight.clamp_min(1e-9)).sqrt(), self.jitter).clamp_min(STEADY)
        jitter[jitter.argmin()] = STEADY  # the steadiest camera is the clock: a moment that all miss alike is none
        return jitter

    def _weight(self, excess: float) -> Float[Tensor, "V N"]:
        """1 / the standard deviation of each corner, 1/px, with what cameras and board do not explain; zero where not seen."""
        c, w = self.views.camera, self.views.weight
        return w / (self.noise[c, None].square() + (excess * w).square()).sqrt() / self.loose[c, None]

    def _excess(self, error: Float[Tensor, "V N 2"]) -> float:
        """The excess, px, with which views scatter as much as expected; zero where they do without.

        Rejected views count too, for they are few: else every rejection would make the next one likelier.
        """
        asked = (self.used | (self.verdict == DISAGREES)) & (self.used.sum(0) >= 2)
        used = asked[self.views.camera, self.views.board]
        square = error.square().sum(-1)
        seen = used[:, None] & square.isfinite()
        unknowns = 6 * int(self.used.any(0).sum()) + 6 * len(self.used)
        numbers = 2 * int(seen.sum())
        share = numbers / max(numbers - unknowns, numbers / 4)
        chosen = seen.flatten().nonzero()[:, 0]
        chosen = chosen[:: max(len(chosen) // SAMPLE, 1)]
        square = square.flatten()[chosen] * share

        even = replace(self, loose=torch.ones_like(self.loose))

        def spread(excess: float) -> float:
            return scatter(square * even._weight(excess).flatten()[chosen].square())

        low, high = 0.0, float(square.mean().sqrt()) * 3
        if spread(low) < 1 + 2 / len(chosen) ** 0.5:
            return 0.0
        for _ in range(14):
            middle = (low + high) / 2
            low, high = (middle, high) if spread(middle) > 1 else (low, middle)
        return high


def begun(start: Start, R: Float[Tensor, "C 3 3"], t: Float[Tensor, "C 3"]) -> Rig:
    """First poses of the boards from cameras that were chained: at each instant the pose that most of its views agree with."""
    chosen, seed, agrees = agreement(R, t, start.placed, start.at)
    B = start.at.shape[1]
    rows = torch.arange(B)
    view = start.at[seed, rows]
    there, which = view.clamp_min(0), chosen[seed, rows]
    R_wc = R[seed].mT
    boards = R_wc @ start.poses.R[there, which], (R_wc @ (start.poses.t[there, which] - t[seed])[..., None])[..., 0]
    v = torch.arange(len(start.views))
    turned = start.poses.turned[v, chosen[start.views.camera, start.views.board]]
    half, shift = start.half_turn
    points = torch.where(turned[:, None, None], start.views.points @ half.T + shift, start.views.points)
    verdict = start.verdict.clone()
    seen = start.at >= 0
    verdict[seen & ~agrees] = DISAGREES
    verdict[seen & (seen.sum(0) == 1)] = ALONE
    stray = torch.zeros(start.views.weight.shape, dtype=torch.bool)
    one = torch.ones(len(R), dtype=R.dtype)
    views = replace(start.views, points=points)
    return Rig(start, views, (R, t), boards, verdict, start.noise, 0.0, one, 0 * one, JITTER * one, one.new_zeros(()), stray)

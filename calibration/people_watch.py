"""A known rig checked and refined by people: did a camera move, which, when, by how much; are two cameras exchanged.

Every answer is a hypothesis about the cameras, judged by how well what they saw then agrees: the points are triangulated anew under each,
and the residuals, cut off where they are gross, are compared. So a bumped camera is told from the others that it disturbs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.bundle import skew
from calibration.cameras import Cameras
from calibration.people import PeopleConfig, PeopleFit, refined
from calibration.people_views import PeopleViews
from calibration.triangulate import triangulate

CUT = 6.0
"""Residuals count up to this many standard deviations."""


@dataclass(frozen=True)
class WatchConfig:
    """When to raise the alarm."""

    window: float = 0.5
    """Length of the stretches of time that are compared, s."""
    turn: float = math.radians(0.25)
    """Smallest turn of a camera that is an alarm, rad."""
    better: float = 0.75
    """An explanation counts where it leaves at most this share of the disagreement."""
    exchanged: float = 0.5
    """Two cameras are exchanged where exchanging them leaves at most this share of the disagreement."""


@dataclass(frozen=True)
class Bump:
    """A camera that does not look where the calibration says."""

    camera: str
    frame: int | None
    """First frame after it moved; None where it had moved before the first."""
    shift: float
    """Median shift of its image, px."""
    turn: float
    """rad."""
    left: float
    """Share of the disagreement between all cameras that remains when the turn is put back."""

    @property
    def sentence(self) -> str:
        """For a person to read."""
        when = "before the first frame" if self.frame is None else f"at frame {self.frame}"
        return (
            f"Camera {self.camera!r} was bumped {when}: it turned by {math.degrees(self.turn):.2f} degrees, which shifts its image by "
            f"{self.shift:.1f} px. Calibrate it again, or refine the rig from frames after the bump "
            "(a camera out of step, or a video cropped since the calibration, looks much the same)."
        )


@dataclass(frozen=True)
class Watch:
    """What people say about a known rig."""

    disagreement: float
    """Median distance of what was seen from the triangulated points' images, px."""
    exchanged: tuple[str, str] | None
    """Two cameras whose videos are exchanged."""
    bumps: tuple[Bump, ...]
    turns: Float[Tensor, "W C 3"]
    """The turn of each camera alone that makes a stretch of time agree best, rad, in the camera's axes."""

    @property
    def alarms(self) -> tuple[str, ...]:
        """Sentences for a person to read."""
        swap = ()
        if self.exchanged:
            a, b = self.exchanged
            swap = (f"Cameras {a!r} and {b!r} are exchanged: each fits the other's place. Give each its own video.",)
        return (*swap, *(b.sentence for b in self.bumps))


def watch(views: PeopleViews, cameras: Cameras, config: WatchConfig | None = None) -> Watch:
    """Whether the cameras still stand as calibrated, told by a person moving before them; three cameras at least can be told apart.

    Turns are compared between stretches of time as well as with the calibration: a network that places its points
    slightly differently from each side moves no camera at one moment.
    """
    config = config or WatchConfig()
    T = views.sigma.shape[1]
    swap = _exchanged(views, cameras, config)
    count = max(1, min(12, int(T / (config.window * views.fps))))
    edges = [round(T * w / count) for w in range(count + 1)]
    parts = [_cut(views, slice(a, b)) for a, b in pairwise(edges)]
    turns = torch.zeros(count, len(cameras), 3, dtype=torch.float64)
    misfits = torch.zeros(count, len(cameras) + 1, dtype=torch.float64)
    for w, part in enumerate(parts):
        misfits[w, -1] = disagreement(part, cameras)
        for c in range(len(cameras)):
            turns[w, c] = _turn_of(part, cameras, c)
            misfits[w, c] = disagreement(part, turned(cameras, c, turns[w, c]))
    bumps = () if swap or len(cameras) < 3 else _bumps(views, cameras, turns, misfits, edges, config)
    return Watch(float(_residuals(views, cameras)[0].nanmedian()), swap, bumps, turns)


def disagreement(views: PeopleViews, cameras: Cameras) -> float:
    """How badly what the cameras saw agrees: mean squared residual of the triangulated points, in standard deviations, cut off."""
    _, e = _residuals(views, cameras)
    return float(e.square().clamp(max=CUT**2).nanmean())


def turned(cameras: Cameras, c: int, turn: Float[Tensor, "3"]) -> Cameras:
    """The cameras with one turned by a rotation vector in its own axes."""
    R = cameras.R_camera_world.clone()
    R[c] = torch.linalg.matrix_exp(skew(turn)) @ R[c]
    return replace(cameras, R_camera_world=R)


def _residuals(views: PeopleViews, cameras: Cameras) -> tuple[Float[Tensor, "C T K"], Float[Tensor, "C T K"]]:
    """Of points triangulated from all cameras, px, and in standard deviations; points behind a camera count as far off."""
    seen = torch.where(views.seen, views.sigma.double().clamp_min(0.5), torch.inf)
    points = triangulate(cameras, views.pixels.double(), seen, threshold=CUT, robust=True, dtype=torch.float64).points
    plain = triangulate(cameras, views.pixels.double(), seen, robust=False, dtype=torch.float64).points
    points = torch.where(torch.isfinite(points), points, plain)
    e = (cameras.project(points) - views.pixels.double()).norm(dim=-1)
    e = torch.where(views.seen & torch.isfinite(points).all(-1), e.nan_to_num(1e4), torch.nan)
    return e, e / seen


def _turn_of(views: PeopleViews, cameras: Cameras, c: int, steps: int = 6) -> Float[Tensor, "3"]:
    """The turn of camera c for which it agrees best with the points that the others make, rad; zero where they make none."""
    others = [i for i in range(len(cameras)) if i != c]
    turn = torch.zeros(3, dtype=torch.float64)
    if len(others) < 2:
        return turn
    seen = torch.where(views.seen, views.sigma.double().clamp_min(0.5), torch.inf)
    points = triangulate(cameras[others], views.pixels[others].double(), seen[others], threshold=CUT, dtype=torch.float64).points
    flat = cameras[c].undistort(views.pixels[c : c + 1].double())[0]
    good = torch.isfinite(points).all(-1) & views.seen[c] & torch.isfinite(flat).all(-1)
    if int(good.sum()) < 20:
        return turn
    focal = cameras.focal[c].mean()
    flat, sigma = flat[good], seen[c][good] / focal
    p = (points[good] - cameras.position[c]) @ cameras.R_camera_world[c].mT
    for _ in range(steps):
        q = p @ torch.linalg.matrix_exp(skew(turn)).mT
        z = q[:, 2].clamp_min(0.05)
        x = q[:, :2] / z[:, None]
        to_plane = torch.cat([torch.eye(2, dtype=q.dtype).expand(len(q), 2, 2), -x[..., None]], -1) / z[:, None, None]
        J = -to_plane @ skew(q)
        e = x - flat
        size = e.norm(dim=-1) / sigma
        weight = 1 / (sigma.square() * (1 + (size / max(float(size.median()), 1.0)).square()))
        H = torch.einsum("nai,naj,n->ij", J, J, weight)
        turn = turn - torch.linalg.solve(H + 1e-6 * torch.eye(3, dtype=H.dtype), torch.einsum("nai,na,n->i", J, e, weight))
    return turn


def _exchanged(views: PeopleViews, cameras: Cameras, config: WatchConfig) -> tuple[str, str] | None:
    """The two cameras whose exchange makes the rest agree, if any."""
    if len(cameras) < 3:
        return None
    few = _cut(views, slice(0, None, max(1, views.sigma.shape[1] // 40)))
    now = disagreement(few, cameras)

    def swapped(i: int, j: int) -> Cameras:
        order = list(range(len(cameras)))
        order[i], order[j] = j, i
        return cameras[order]

    pairs = list(combinations(range(len(cameras)), 2))
    then = [disagreement(few, swapped(i, j)) for i, j in pairs]
    best = min(range(len(pairs)), key=then.__getitem__)
    i, j = pairs[best]
    return (cameras.names[i], cameras.names[j]) if then[best] < config.exchanged * now else None


def _bumps(
    views: PeopleViews, cameras: Cameras, turns: Tensor, misfits: Tensor, edges: Sequence[int], config: WatchConfig
) -> tuple[Bump, ...]:
    """The camera whose turn explains most of the disagreement in the windows where it is large enough."""
    left = misfits[:, :-1] / misfits[:, -1:]
    worst = left.median(0).values if len(left) < 3 else left.quantile(0.25, 0)
    c = int(worst.argmin())
    usual = turns[:, c]
    jump, at = _jump(usual)
    before_all = usual.median(0).values
    sides = (usual[:at], usual[at:]) if at else (usual,)
    scatter = torch.cat([(s - s.median(0).values).norm(dim=-1) for s in sides])
    limit = max(config.turn, 4 * float(scatter.median()))
    if jump is not None and float(jump.norm()) > limit and float(left[at:, c].median()) <= config.better:
        frame = _moment(views, cameras, c, edges, at, jump)
        return (_bump(cameras, c, frame, jump, float(left[at:, c].median())),)
    if float(before_all.norm()) > limit and float(left[:, c].median()) <= config.better:
        return (_bump(cameras, c, None, before_all, float(left[:, c].median())),)
    return ()


def _jump(turns: Float[Tensor, "W 3"]) -> tuple[Float[Tensor, "3"] | None, int]:
    """The step between the windows before and after a moment (medians), and the first window after; None with too few windows.

    On both sides there must be two, for one alone cannot tell a step from its own noise.
    """
    if len(turns) < 4:
        return None, 0
    step: Callable[[int], Tensor] = lambda w: turns[w:].median(0).values - turns[:w].median(0).values  # noqa: E731
    scatter = [
        float((turns[:w] - turns[:w].median(0).values).norm(dim=-1).sum() + (turns[w:] - turns[w:].median(0).values).norm(dim=-1).sum())
        for w in range(2, len(turns) - 1)
    ]
    at = 2 + min(range(len(scatter)), key=scatter.__getitem__)
    return step(at), at


def _moment(views: PeopleViews, cameras: Cameras, c: int, edges: Sequence[int], at: int, jump: Tensor) -> int:
    """The frame within the windows about the step at which camera c's image jumps along the step."""
    first, last = edges[max(0, at - 1)], edges[min(len(edges) - 1, at + 1)]
    part = _cut(views, slice(first, last))
    others = [i for i in range(len(cameras)) if i != c]
    seen = torch.where(part.seen, part.sigma.double().clamp_min(0.5), torch.inf)
    points = triangulate(cameras[others], part.pixels[others].double(), seen[others], threshold=CUT, dtype=torch.float64).points
    there = cameras[c].project(points)[0]
    push = turned(cameras[c], 0, jump).project(points)[0] - there
    along = ((part.pixels[c].double() - there) * push).sum(-1) / push.square().sum(-1).clamp_min(1e-9)
    track = torch.where(part.seen[c], along, torch.nan).nanmedian(-1).values.nan_to_num(0.5)
    base = float(track[: max(1, len(track) // 4)].median())
    split = [float((track[:n] - base).abs().sum() + (track[n:] - base - 1).abs().sum()) for n in range(1, len(track))]
    return first + 1 + min(range(len(split)), key=split.__getitem__)


def _bump(cameras: Cameras, c: int, frame: int | None, turn: Tensor, left: float) -> Bump:
    """The alarm; the image's shift is that of its centre or, for a turn about the axis, of a point half way out."""
    focal, side = float(cameras.focal[c].mean()), float(cameras.size[c].min())
    shift = math.hypot(focal * float(turn[:2].norm()), float(turn[2]) * side / 4)
    return Bump(cameras.names[c], frame, shift, float(turn.norm()), left)


def _cut(views: PeopleViews, frames: slice) -> PeopleViews:
    return replace(views, pixels=views.pixels[:, frames], sigma=views.sigma[:, frames], skeleton=views.skeleton[:, frames])


def refine_people(
    views: PeopleViews, cameras: Cameras, covariance: Float[Tensor, "C 6 6"], config: PeopleConfig | None = None
) -> PeopleFit:
    """The known rig, each camera moved as far as what it saw of a person and its covariance (rad, m) together say; lenses stay.

    A `ValueError` tells of cameras that are exchanged: no refinement mends that.
    """
    if pair := _exchanged(views, cameras, WatchConfig()):
        raise ValueError(f"cameras {pair[0]!r} and {pair[1]!r} are exchanged: each fits the other's place; give each its own video")
    return refined(views, cameras, covariance, config or PeopleConfig())

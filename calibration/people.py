"""A camera rig from people instead of boards.

What is known are named 2D points, a network's own 3D guess in each view, which pairs of points are bones, and nothing else of bodies.
The per-view skeletons give the rotations, the 2D points the positions, and a bundle adjustment over points that are free in every frame
gives everything together: poses, focal lengths, delays between cameras, bone lengths. Metres come from a length that the caller knows,
and which way is up from which points are above which (`calibration.people_world`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from calibration.people_bundle import Prior, Sightings, Solution, State, adjust
from calibration.people_prior import PeopleConfig, are_alike, of_one_kind, prior_of
from calibration.people_sides import unbiased
from calibration.people_start import Start, centred, flipped, mirror_image, placed, start
from calibration.people_views import (
    PeopleViews,
    bone_lengths,
    camera_values,
    good_frames,
    kept_bones,
    retriangulated,
    sided,
    sightings,
    without_lens,
)

PROOF = 0.7
"""A video is a mirror image where the rig with it turned over costs at most this share."""


@dataclass(frozen=True)
class PeopleFit:
    """A rig found from people. Lengths are a network's guess of metres until scaled, and the world is the first camera's until levelled."""

    cameras: Cameras
    covariance: Float[Tensor, "C 6 6"]
    """Of each camera's turn (rotation vector in its own axes, rad) and position (m), the rig as a whole held; noise taken as correlated."""
    delay: Float[Tensor, "C"]
    """A camera's frame t + delay shows the instant of the first camera's frame t; frames."""
    delay_sigma: Float[Tensor, "C"]
    focal_sigma: Float[Tensor, "C"]
    """Of the log of the focal length."""
    frames: Int[Tensor, "T"]
    points: Float[Tensor, "T K 3"]
    """Where the person's points were in these frames, m; NaN where fewer than two cameras saw one."""
    residual: Float[Tensor, "C T K"]
    """Distance of what was seen from the points' images, px; NaN where not seen."""
    offset: Float[Tensor, "C T K 2"]
    """The same as a vector: the points' images minus what was seen."""
    exchanged: Bool[Tensor, "C T"]
    """Where a view had left and right exchanged."""
    start: Start | None
    """The first guess; None for a rig that was known."""
    alike: bool = False
    """Whether unknown lenses were taken to be of one kind."""

    @property
    def rms(self) -> float:
        """Median residual, px."""
        return float(self.residual.nanmedian())

    def moved(self, R: Float[Tensor, "3 3"], shift: Float[Tensor, "3"], scale: float) -> PeopleFit:
        """The same rig and person in another world: points p become scale * R p + shift."""
        c = self.cameras
        grow = torch.block_diag(torch.eye(3, dtype=torch.float64), scale * R)
        return replace(
            self,
            cameras=replace(c, R_camera_world=c.R_camera_world @ R.mT, position=scale * c.position @ R.mT + shift),
            covariance=grow @ self.covariance @ grow.mT,
            points=scale * self.points @ R.mT + shift,
        )


def calibrate_people(views: PeopleViews, lenses: Cameras | None = None, config: PeopleConfig | None = None) -> PeopleFit:
    """The rig that saw a person, unknown but for what `lenses` says of its lenses (poses ignored); see `PeopleFit` for its world.

    A `ValueError` says which camera shares nothing with the others, shows a mirror image, or that no rig explains what they saw.
    """
    config = config or PeopleConfig()
    plain = views if lenses is None else without_lens(views, lenses)
    first = _started(plain)
    plain = plain.relabelled(first.exchanged)
    prior = prior_of(plain, lenses, config)
    few = good_frames(plain, 40)
    tried = [_from_start(plain, first, few, prior, factor, config) for factor in ((1.0,) if lenses is not None else (0.75, 1.0, 1.4))]
    best = min(tried, key=lambda s: s.cost)
    _refuse_mirrored(plain, few, prior, best.cost, config)
    done = _settled(plain, best.state, prior, config)
    alike = config.alike
    if lenses is None and alike is None:
        alike = are_alike(done.solution, prior, done.together, config)
        if alike:
            config = replace(of_one_kind(config), rounds=2)
            done = _settled(done.views, done.solution.state, prior_of(plain, None, config), config)
    fit = _fit(done, lenses, first, first.exchanged ^ done.exchanged)
    return _checked(replace(fit, alike=bool(alike)), done.views, config)


def refined(views: PeopleViews, cameras: Cameras, covariance: Float[Tensor, "C 6 6"], config: PeopleConfig) -> PeopleFit:
    """A known rig after an adjustment in which each camera is held by its covariance (turn in its own axes, rad; position, m)."""
    plain = without_lens(views, cameras)
    prior = prior_of(plain, cameras, config)
    information = prior.information.clone()
    information[:, :6, :, :6] = 0
    c = torch.arange(len(cameras))
    information[c, :6, c, :6] = torch.linalg.inv(covariance.double())
    none = torch.zeros(0, dtype=torch.float64)
    state = replace(prior.state, R=cameras.R_camera_world, position=cameras.position, points=none, length=none)
    done = _settled(plain, state, Prior(state, information), config)
    return _checked(_fit(done, cameras, None, done.exchanged), done.views, config)


def _started(views: PeopleViews) -> Start:
    return start(_trusted(views), views.mirror, views.cameras)


def _refuse_mirrored(views: PeopleViews, few: Int[Tensor, "t"], prior: Prior, cost: float, config: PeopleConfig) -> None:
    """A `ValueError` where a camera's video is a mirror image: its skeletons raise the suspicion, a rig that fits far better proves it."""
    suspect = mirror_image(_trusted(views), views.mirror)
    if suspect is None:
        return
    c, swap = suspect[0], list(views.mirror)
    pixels, sigma, skeleton = views.pixels.double().clone(), views.sigma.clone(), views.skeleton.clone()
    pixels[c] = pixels[c][:, swap] * pixels.new_tensor([-1.0, 1.0])
    pixels[c, ..., 0] += 2 * prior.state.lens[c, 2]
    sigma[c], skeleton[c] = sigma[c][:, swap], flipped(skeleton[c], swap)
    over = replace(views, pixels=pixels, sigma=sigma, skeleton=skeleton)
    first = _started(over)
    over = over.relabelled(first.exchanged)
    turned = min(_from_start(over, first, few, prior, factor, config).cost for factor in (0.75, 1.0, 1.4))
    if turned < PROOF * cost:
        raise ValueError(
            f"camera {views.cameras[c]!r}: its video is a mirror image: turned over, the person it shows fits the other views with "
            f"{100 * turned / cost:.0f} % of the misfit; switch mirroring off and record again"
        )


def _trusted(views: PeopleViews) -> Float[Tensor, "C T K 3"]:
    """Skeletons where the points were also seen."""
    return torch.where((torch.isfinite(views.skeleton).all(-1) & views.seen)[..., None], views.skeleton.double(), torch.nan)


def _from_start(views: PeopleViews, first: Start, frames: Int[Tensor, "t"], prior: Prior, factor: float, config: PeopleConfig) -> Solution:
    """A first adjustment, of the points that the skeletons have, from focal lengths `factor` times the prior's."""
    R = first.R
    lens = prior.state.lens.clone()
    lens[:, 0] += math.log(factor)
    body, there = centred(views.skeleton[:, frames].double())
    turned = torch.einsum("cji,ctkj->ctki", R, torch.where(there[..., None], body, torch.nan))
    common = turned.nanmedian(0).values
    has = torch.isfinite(common).all(-1)
    plane = (views.pixels[:, frames].double() - lens[:, None, None, 2:]) / lens[:, None, None, :1].exp()
    weight = torch.where(views.seen[:, frames] & has[None], views.sigma[:, frames].double().clamp_min(0.5).square().reciprocal(), 0.0)
    position, points = placed(R, common, plane, weight)
    points = torch.where(torch.isfinite(points), points, points.nanmean((0, 1)))
    C, K = len(R), points.shape[1]
    bones = kept_bones(views, has.float().mean(0) > 0.5)
    state = State(R, position, lens, torch.zeros(C, dtype=torch.float64), points, bone_lengths(points, views, bones))
    share = torch.full((C, K), 2.0, dtype=torch.float64)
    seen = sightings(views, frames, state.delay, share, bones, 3 * config.bone_sigma / state.length.exp())
    seen = replace(seen, sigma=torch.where(has[None], seen.sigma, torch.inf))
    still = prior.information.clone()
    still[:, 7:, :, 7:] += 1e8 * torch.eye(4 * C, dtype=torch.float64).view(C, 4, C, 4)
    return adjust(state, seen, Prior(replace(prior.state, R=R, position=position), still), 3.0, 40, 1e-4)


@dataclass(frozen=True)
class _Settled:
    """The last adjustment and what it rests on."""

    views: PeopleViews
    """Left and right put back."""
    frames: Int[Tensor, "T"]
    seen: Sightings
    solution: Solution
    together: float
    """How many residuals are worth one independent one."""
    exchanged: Bool[Tensor, "C F"]
    """Where left and right were put back here, in all frames."""


def _settled(views: PeopleViews, state: State, prior: Prior, config: PeopleConfig) -> _Settled:
    """The last adjustments: all points, delays open, weights by what each point's residuals turned out to be."""
    frames = good_frames(views, config.frames)
    C, K = len(views.cameras), views.sigma.shape[2]
    share = torch.ones(C, K, dtype=torch.float64)
    exchanged = torch.zeros(views.sigma.shape[:2], dtype=torch.bool)
    solution = seen = None
    together = 1.0
    prior = Prior(replace(prior.state, R=state.R, position=state.position), prior.information)
    for _ in range(config.rounds):
        points = retriangulated(views, state, frames)
        views, more = sided(views, state, frames, points)
        exchanged = exchanged ^ more
        plain = unbiased(views, state, frames, points)
        if bool(more.any()) or views.habit is not None:
            points = retriangulated(plain, state, frames)
        there = torch.isfinite(points).all(-1)
        bones = kept_bones(views, there.float().mean(0) > 0.3)
        state = replace(
            state, points=torch.where(there[..., None], points, points.nanmean((0, 1))), length=bone_lengths(points, views, bones)
        )
        seen = sightings(plain, frames, state.delay, share, bones, config.bone_sigma / state.length.exp())
        seen = replace(seen, sigma=torch.where(there[None], seen.sigma, torch.inf))
        weighed = Prior(prior.state, prior.information * together)  # dependent observations count less against what was known before
        solution = adjust(state, seen, weighed, 2.0, 30, 1e-5)
        state, together = solution.state, correlation(solution.residual)
        share = share * _noise(solution, seen).clamp(0.25, 4.0)
    assert solution is not None and seen is not None
    return _Settled(views, frames, seen, solution, together, exchanged)


def _noise(solution: Solution, seen: Sightings) -> Float[Tensor, "1 K"]:
    """How much larger than its sigma each point's residual is, over all cameras and frames, corrected for the points being fitted."""
    e = (solution.residual.norm(dim=-1) / seen.sigma).flatten(0, 1)
    count = torch.isfinite(seen.sigma).sum(0).double()
    fitted = (1 - 1.5 / count.mean(0).clamp_min(2)).clamp_min(0.2).sqrt()
    return (e.nanmedian(0).values / 1.1774 / fitted).nan_to_num(1.0)[None]


def _checked(fit: PeopleFit, views: PeopleViews, config: PeopleConfig) -> PeopleFit:
    """The fit; a `ValueError` in plain words where it cannot be a rig."""
    if fit.start is not None and (moved := motion(fit.points)) < config.least_motion:
        raise ValueError(
            f"people: the person stands still: their points move by {100 * moved:.1f} % of their height, at least "
            f"{100 * config.least_motion:.0f} % are needed; walk through the whole volume, turn around, and raise and lower the arms"
        )
    share = (fit.residual / views.size.max(1).values[:, None, None]).flatten(1).nanmedian(1).values
    if float(share.max()) > config.worst_residual:
        c = int(share.argmax())
        raise ValueError(
            f"people: no rig explains what camera {fit.cameras.names[c]!r} saw: its median residual is "
            f"{float(fit.residual[c].nanmedian()):.0f} px, of all cameras {fit.rms:.0f} px; is its video of the same take, in step, "
            "and the same person the only one in view?"
        )
    at = (fit.frames[None] + fit.delay.round().long()[:, None]).clamp(0, views.sigma.shape[1] - 1)
    own = views.skeleton.double()[torch.arange(len(at))[:, None], at]
    own = torch.where((torch.isfinite(own) & torch.isfinite(fit.points)).all(-1, keepdim=True), own, torch.nan)
    a, there = centred(own)
    b = torch.einsum("cij,tkj->ctki", fit.cameras.R_camera_world, fit.points)
    b, _ = centred(torch.where(there[..., None], b, torch.nan))
    H = torch.einsum("ctki,ctkj->ij", b, a)
    if float(torch.det(H)) < 0:
        raise ValueError(
            "people: the rig came out mirrored in depth against what every view shows; record the person turning around and closer by"
        )
    return fit


def motion(points: Float[Tensor, "T K 3"]) -> float:
    """How far points move about their mean place (standard deviation, the median point), as a share of the person's extent."""
    there = torch.isfinite(points).all(-1, keepdim=True)
    count = there.sum(0).clamp_min(1)
    filled = points.nan_to_num() * there
    off = torch.where(there, points - filled.sum(0) / count, 0.0)
    spread = (off.square().sum((0, 2)) / count[:, 0]).sqrt()
    across = torch.where(there, points, torch.nan)
    extent = (across - across.nanmean(1, keepdim=True)).norm(dim=-1)
    return float(spread[there.any(0)[:, 0]].median() / (2 * torch.nanquantile(extent, 0.95)))


def _fit(done: _Settled, lenses: Cameras | None, first: Start | None, exchanged: Bool[Tensor, "C F"]) -> PeopleFit:
    solution, state = done.solution, done.solution.state
    cameras = camera_values(done.views.cameras, done.views.size, state)
    if lenses is not None:
        cameras = replace(lenses, R_camera_world=state.R, position=state.position)
    covariance = solution.covariance * done.together
    sigma = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    there = torch.isfinite(done.seen.sigma).any(0)
    return PeopleFit(
        cameras, covariance[:, :6, :6], state.delay - state.delay[0], sigma[:, 10], sigma[:, 6], done.frames,
        torch.where(there[..., None], state.points, torch.nan), solution.residual.norm(dim=-1), solution.residual, exchanged, first,
    )  # fmt: skip


def correlation(residual: Float[Tensor, "C T K 2"]) -> float:
    """How many residuals are worth one independent residual: by their correlation over time, times that within a frame."""
    power = residual.square().nanmean()
    over_time, T = 1.0, residual.shape[1]
    for lag in range(1, T // 2):
        r = float((residual[:, lag:] * residual[:, :-lag]).nanmean() / power)
        if not r > 0.05:
            break
        over_time += 2 * r
    there = torch.isfinite(residual[..., :1])
    count = there.sum(2).clamp_min(1)
    together = residual.nan_to_num().sum(2).square() / count
    within = float(together[there.any(2).expand_as(together)].mean() / power)
    return over_time * max(within, 1.0)


__all__ = ["PeopleConfig", "PeopleFit", "PeopleViews", "calibrate_people"]

"""What is known of cameras before a person is seen: priors of lenses and delays, and whether the lenses are of one kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from calibration.people_bundle import LENS, OWN, Prior, Solution, State
from calibration.people_views import PeopleViews

SAME = 0.004
"""How much lenses of one model at one zoom differ, as a share of the focal length."""
CLEAR = 1.0
"""Log odds from which the footage shows lenses to differ: cameras of a rig are mostly of one model, and less is no reason to doubt it."""


@dataclass(frozen=True)
class PeopleConfig:
    """How a rig is found from people."""

    focal_sigma: float = 0.25
    """Of the log of an unknown focal length around the image's longer side, for all cameras together."""
    focal_spread: float = 0.05
    """How much the cameras of one rig differ in it."""
    alike: bool | None = None
    """Whether the cameras are of one model at one zoom; None to ask the footage."""
    distortion_sigma: float = 0.06
    """Of an unknown radial distortion around zero, for all cameras together."""
    distortion_spread: float = 0.02
    """How much the cameras of one rig differ in it."""
    centre_sigma: float = 0.004
    """Of an unknown principal point around the image's centre, as a fraction of the longer side."""
    delay_sigma: float = 0.1
    """Of a camera's delay against the first, s; 0 for cameras that are in step."""
    bone_sigma: float = 0.015
    """How constant the length of a bone is, m."""
    frames: int = 150
    """Most frames in the adjustment, spread over the take."""
    rounds: int = 4
    """Adjustments, each with weights from the one before."""
    least_motion: float = 0.04
    """A person whose points stay within this share of their height (standard deviation) stands still, and is refused."""
    worst_residual: float = 0.03
    """Largest median residual, as a share of the image's longer side."""


def prior_of(views: PeopleViews, lenses: Cameras | None, config: PeopleConfig) -> Prior:
    """What is known of lenses and delays; the poses are free but for the first camera's, which holds the world."""
    C = len(views.cameras)
    side = views.size.max(1).values.double()
    lens = torch.stack([side.log(), torch.zeros_like(side), *((views.size.double() - 1) / 2).T], 1)
    alike, one = torch.ones(C, C, dtype=torch.float64), torch.eye(C, dtype=torch.float64)
    covariance = torch.zeros(C, OWN, C, OWN, dtype=torch.float64)
    covariance[:, 6, :, 6] = config.focal_sigma**2 * alike + config.focal_spread**2 * one
    covariance[:, 7, :, 7] = config.distortion_sigma**2 * alike + config.distortion_spread**2 * one
    covariance[:, 8, :, 8] = covariance[:, 9, :, 9] = torch.diag((config.centre_sigma * side).square())
    if lenses is not None:
        lens = torch.cat([lenses.focal.mean(1, keepdim=True).log(), torch.zeros(C, 1), lenses.centre], 1).double()
        covariance[:, LENS, :, LENS] = 1e-12 * torch.eye(4 * C, dtype=torch.float64).view(C, 4, C, 4)
    delay = torch.full((C,), max(config.delay_sigma * views.fps, 1e-6) ** 2, dtype=torch.float64)
    delay[0] = 1e-12
    covariance[:, 10, :, 10] = torch.diag(delay)
    loose = torch.full((C, 6), 1e6, dtype=torch.float64)
    loose[0] = 1e-6
    covariance[:, :6, :, :6] = torch.diag(loose.flatten()).view(C, 6, C, 6)
    information = torch.linalg.inv(covariance.view(OWN * C, OWN * C)).view(C, OWN, C, OWN)
    nothing = torch.zeros(0, dtype=torch.float64)
    state = State(torch.eye(3, dtype=torch.float64).expand(C, 3, 3), lens.new_zeros(C, 3), lens, lens.new_zeros(C), nothing, nothing)
    return Prior(state, information)


def of_one_kind(config: PeopleConfig) -> PeopleConfig:
    """The settings for cameras of one model at one zoom."""
    return replace(config, alike=True, focal_spread=SAME, distortion_spread=SAME)


def are_alike(solution: Solution, prior: Prior, together: float, config: PeopleConfig) -> bool:
    """Whether what the footage alone says of the focal lengths is as likely from lenses of one kind.

    The evidence of two hierarchical priors is compared (MacKay 1992, "Bayesian interpolation"); `together` residuals are worth one.
    """
    C = len(solution.state.R)
    both, one = torch.ones(C, C, dtype=torch.float64), torch.eye(C, dtype=torch.float64)

    def spread(share: float) -> Float[Tensor, "C C"]:
        return config.focal_sigma**2 * both + share**2 * one

    before = torch.linalg.inv(spread(config.focal_spread)) * together
    after = torch.linalg.inv(solution.joint(6))
    expected, found = prior.state.lens[:, 0], solution.state.lens[:, 0]
    said = after - before
    off = torch.linalg.solve(said, after @ found - before @ expected) - expected
    doubt = torch.linalg.inv(said) * together

    def evidence(share: float) -> float:
        V = doubt + spread(share)
        return -float(off @ torch.linalg.solve(V, off) + torch.logdet(V)) / 2

    certain = bool((torch.linalg.eigvalsh((said + said.mT) / 2) > 0).all())
    return not certain or evidence(config.focal_spread) - evidence(SAME) < CLEAR

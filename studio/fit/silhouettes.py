"""What an actor's masks tell of the body's shape, before any fit: a network's estimate and how far it is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.body import Body
from rigs.landmarks import landmark_skin
from studio.fit.observed import Observed, Source
from studio.nets import shape as network
from studio.nets.shape import Sight, crop, heading

MOMENTS = 10
"""Frames that are looked at, each from all cameras."""
LEAST = 0.004
"""Share of a window that a mask must cover to count: less is no person, or one far outside the image."""
HIPS = ("left_hip", "right_hip")


@dataclass(frozen=True)
class Likely:
    """A normal distribution of shape coefficients."""

    mean: Float[Tensor, "S"]
    covariance: Float[Tensor, "S S"]
    views: int
    """How many masks told of it."""


def likely_shape(body: Body, source: Source, weights: str = "shape") -> Likely | None:
    """The shape that masks suggest, from moments spread over the stretch; None where no mask of the actor is at hand, where hips are not
    tracked, or where the network knows another body."""
    priors, body = network.load(weights), body.to("cpu")
    if len(body.shape_names) != priors.shape.shape.out_features or body.name != "makehuman":
        return None
    good = (source.coverage() > 0).nonzero()[:, 0]
    if not len(good):
        return None
    pick = good[torch.linspace(0, len(good) - 1, min(MOMENTS, len(good))).round().long()]
    found = [views for t in pick.tolist() if (views := seen_at(body, source[slice(t, t + 1)])) is not None]
    if not found:
        return None
    masks, views = torch.cat([m for m, _ in found]), torch.cat([v for _, v in found])
    with torch.no_grad():
        mean = priors.shape(masks[None], views[None])[0]
    return Likely(mean, priors.doubt, len(masks))


def seen_at(body: Body, observed: Observed) -> tuple[Float[Tensor, "N 64 64"], Float[Tensor, "N 4"]] | None:
    """Masks of one moment in upright windows and what the network is told of each view; None where hips or masks are missing."""
    if not observed.masks or any(n not in observed.keypoints for n in HIPS):
        return None
    left, right = (observed.points[:1, observed.keypoints.index(n)].float() for n in HIPS)
    if not bool(torch.isfinite(left + right).all()):
        return None
    facing = heading(left, right)
    rest = landmark_skin(body, HIPS, observed.network)[0].rest.mean(0)
    centre = (left + right) / 2 + (facing.mT @ (body.joints[0] - rest)[:, None])[..., 0]
    windows, views = [], []
    for mask, camera in zip(observed.masks, observed.cameras, strict=True):
        sight = Sight.at(camera.position.float(), centre)
        windows.append(crop(mask[:1], camera, sight))
        views.append(sight.seen_from(facing))
    masks, told = torch.cat(windows), torch.cat(views)
    there = masks.mean((1, 2)) > LEAST
    return (masks[there], told[there]) if bool(there.any()) else None

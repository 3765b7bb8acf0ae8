"""What cameras saw of one person, for finding the rig: as observations for the adjustment, and as points in 3D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from calibration.people_bundle import Sightings, State
from calibration.triangulate import triangulate

if TYPE_CHECKING:
    from calibration.people_sides import SideBias


@dataclass(frozen=True)
class PeopleViews:
    """One person in all cameras, the same frames of each."""

    cameras: tuple[str, ...]
    size: Float[Tensor, "C 2"]
    """Width and height of the images, px."""
    fps: float
    pixels: Float[Tensor, "C T K 2"]
    """px; NaN where not seen."""
    sigma: Float[Tensor, "C T K"]
    """px."""
    skeleton: Float[Tensor, "C T K 3"]
    """A network's own 3D guess in each view, m, camera axes, origin anywhere; NaN where it has none."""
    mirror: tuple[int, ...]
    """For each point the index of its left-right counterpart; its own where it has none."""
    bones: tuple[tuple[int, int], ...]
    """Pairs of points whose distance is nearly constant."""
    habit: SideBias | None = None
    """How the network misplaces points, where that is known."""

    def __post_init__(self) -> None:
        C, T, K = self.sigma.shape
        wanted = {"pixels": (C, T, K, 2), "skeleton": (C, T, K, 3), "size": (C, 2)}
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"people: {name} has shape {tuple(getattr(self, name).shape)}; sigma asks for {shape}")
        if C < 2 or len(self.cameras) != C:
            raise ValueError(f"people: {len(self.cameras)} camera names for {C} views; a rig needs at least two views, each named")

    @property
    def seen(self) -> Bool[Tensor, "C T K"]:
        """Where there is a point."""
        return torch.isfinite(self.pixels).all(-1) & torch.isfinite(self.sigma) & (self.sigma > 0)

    def relabelled(self, exchanged: Bool[Tensor, "C T"]) -> PeopleViews:
        """The views with left and right put back where a network had them exchanged."""
        swap = list(self.mirror)
        e = exchanged[..., None]
        return replace(
            self,
            pixels=torch.where(e[..., None], self.pixels[:, :, swap], self.pixels),
            sigma=torch.where(e, self.sigma[:, :, swap], self.sigma),
            skeleton=torch.where(e[..., None], self.skeleton[:, :, swap], self.skeleton),
        )


def without_lens(views: PeopleViews, lenses: Cameras) -> PeopleViews:
    """The views as pinhole cameras of the same focal length and centre would have seen them."""
    flat = lenses.undistort(views.pixels.to(torch.float64))
    focal = lenses.focal.mean(1)[:, None, None, None]
    return replace(views, pixels=flat * focal + lenses.centre[:, None, None])


def good_frames(views: PeopleViews, most: int) -> Int[Tensor, "t"]:
    """Frames in which at least two cameras see the person, spread evenly."""
    good = ((views.seen.sum(-1) >= 5).sum(0) >= 2).nonzero()[:, 0]
    if len(good) < 5:
        raise ValueError(
            f"people: only {len(good)} frames show the person to two cameras; record at least a few seconds with the person in view of all"
        )
    return good[torch.linspace(0, len(good) - 1, min(most, len(good)), dtype=torch.float64).round().long()]


def sightings(
    views: PeopleViews,
    frames: Int[Tensor, "t"],
    delay: Float[Tensor, "C"],
    share: Float[Tensor, "C K"],
    bones: Bool[Tensor, "B"],
    sigma: Float[Tensor, "B"],
) -> Sightings:
    """What the cameras saw at these frames as a linear function of their delays, taken about `delay` rounded to whole frames.

    The velocity is the slope of a line through five frames. `share` multiplies each point's sigma.
    """
    C, T, _ = views.sigma.shape
    at = frames[None] + delay.round().long()[:, None]
    inside = (at >= 0) & (at < T)
    at = at.clamp(0, T - 1)
    rows = torch.arange(C)[:, None]
    pixels = views.pixels.double()
    velocity = slope(pixels)[rows, at]
    there = views.seen[rows, at] & inside[..., None] & torch.isfinite(velocity).all(-1)
    velocity = torch.where(there[..., None], velocity, 0.0)
    seen = torch.where(there[..., None], pixels[rows, at] - delay.round()[:, None, None, None] * velocity, 0.0)
    scaled = torch.where(there, views.sigma.double()[rows, at].clamp_min(0.5) * share[:, None], torch.inf)
    scaled = torch.where((torch.isfinite(scaled).sum(0) >= 2), scaled, torch.inf)
    return Sightings(seen, velocity, scaled, torch.tensor(views.bones, dtype=torch.long).view(-1, 2)[bones], sigma)


def slope(track: Float[Tensor, "C T K 2"], reach: int = 2) -> Float[Tensor, "C T K 2"]:
    """Change of a track per frame: of the line through the frames within `reach` that have it; NaN where fewer than two do."""
    T = track.shape[1]
    sums = [torch.zeros_like(track) for _ in range(5)]
    for step in range(-reach, reach + 1):
        source = slice(max(0, step), T + min(0, step))
        target = slice(max(0, -step), T + min(0, -step))
        there = torch.isfinite(track[:, source])
        value = track[:, source].nan_to_num()
        for total, part in zip(sums, (there, there * step, there * step**2, value, value * step)):
            total[:, target] += part
    n, x, xx, y, xy = sums
    spread = n * xx - x * x
    return torch.where(spread > 0, (n * xy - x * y) / spread.clamp_min(1e-9), torch.nan)


def kept_bones(views: PeopleViews, there: Bool[Tensor, "K"]) -> Bool[Tensor, "B"]:
    """Bones whose both ends are there."""
    return torch.tensor([bool(there[a] & there[b]) for a, b in views.bones], dtype=torch.bool)


def bone_lengths(points: Float[Tensor, "T K 3"], views: PeopleViews, bones: Bool[Tensor, "B"]) -> Float[Tensor, "b"]:
    """Log of the median lengths of these bones, m."""
    a, b = torch.tensor(views.bones, dtype=torch.long).view(-1, 2)[bones].T
    return (points[:, a] - points[:, b]).norm(dim=-1).nanmedian(0).values.clamp_min(0.005).log()


def camera_values(views_names: Sequence[str], size: Float[Tensor, "C 2"], state: State) -> Cameras:
    """The state's cameras."""
    C = len(views_names)
    distortion = torch.zeros(C, 8, dtype=torch.float64)
    distortion[:, 0] = state.lens[:, 1]
    focal = state.lens[:, :1].exp().expand(C, 2).clone()
    return Cameras(tuple(views_names), size.double(), focal, state.lens[:, 2:], distortion, ("brown",) * C, state.R, state.position)


def retriangulated(views: PeopleViews, state: State, frames: Int[Tensor, "t"]) -> Float[Tensor, "t K 3"]:
    """The points that the cameras as they are now make of what they saw, m; NaN where they make none."""
    K = views.sigma.shape[2]
    none = torch.zeros(len(views.bones), dtype=torch.bool)
    seen = sightings(
        views, frames, state.delay, torch.ones(len(views.cameras), K, dtype=torch.float64), none, torch.zeros(0, dtype=torch.float64)
    )
    pixels = seen.pixels + state.delay[:, None, None, None] * seen.velocity
    cameras = camera_values(views.cameras, views.size, state)
    return triangulate(cameras, pixels, seen.sigma, threshold=8.0, dtype=torch.float64).points


def sided(
    views: PeopleViews, state: State, frames: Int[Tensor, "t"], points: Float[Tensor, "t K 3"]
) -> tuple[PeopleViews, Bool[Tensor, "C T"]]:
    """The views with left and right put back in frames where a view fits the points clearly better that way; and where that was."""
    cameras = camera_values(views.cameras, views.size, state)
    sides = torch.tensor([k != m for k, m in enumerate(views.mirror)])
    image = cameras.project(points[:, sides])
    at = (frames[None] + state.delay.round().long()[:, None]).clamp(0, views.sigma.shape[1] - 1)
    rows = torch.arange(len(cameras))[:, None]

    def misfit(v: PeopleViews) -> Float[Tensor, "C t"]:
        e = (v.pixels.double()[rows, at][:, :, sides] - image).norm(dim=-1)
        return torch.where(torch.isfinite(e), e, torch.nan).nanmedian(-1).values

    everywhere = torch.ones(views.sigma.shape[:2], dtype=torch.bool)
    now, then = misfit(views), misfit(views.relabelled(everywhere))
    wrong = then < 0.5 * now
    if not bool(wrong.any()):
        return views, ~everywhere
    more = ~everywhere
    more[rows.expand_as(at)[wrong], at[wrong]] = True
    return views.relabelled(more), more

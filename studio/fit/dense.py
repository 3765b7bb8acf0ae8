"""Dense correspondences: points of the skin as a network saw them in each camera, which fix what joints alone leave open.

They are keypoints, only many and blunt: `pulls.keypoints` collapses all cameras into one pull a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from rigs.body import Body, Skin
from studio.fit import pulls
from studio.fit.points import Model
from studio.fit.robust import padded
from studio.fit.solve import Problem
from studio.fit.state import Pull
from studio.fit.surface import sampled

POINTS = 400
"""Of the skin, spread evenly, that a network is asked for."""


@dataclass(frozen=True)
class Sightings:
    """Where points of one actor's skin were seen."""

    vertices: Int[Tensor, "P"]
    """Which vertices of the body's mesh the points are."""
    pixels: Float[Tensor, "C T P 2"]
    """NaN where not seen."""
    sigma: Float[Tensor, "C T P"]
    """How far off they may be, m at the body."""

    def __getitem__(self, frames: slice | Tensor) -> Sightings:
        return Sightings(self.vertices, self.pixels[:, frames], self.sigma[:, frames])

    @staticmethod
    def joined(parts: Sequence[Sightings]) -> Sightings | None:
        """Stretches of frames, one after the other; None of none."""
        if not parts:
            return None
        return Sightings(parts[0].vertices, torch.cat([p.pixels for p in parts], 1), torch.cat([p.sigma for p in parts], 1))

    def views(self, cameras: Cameras, centre: Float[Tensor, "T 3"], shared: float) -> pulls.Views:
        """On the image planes. `centre` is about where the body is, m; `shared` (m) is how far off neighbours may be together: that does
        not shrink with their number, so it is not the network's to say.
        """
        depth = cameras.to_camera(centre.double()[:, None])[..., 0, 2].clamp_min(0.3)
        scale = (cameras.focal.mean(1)[:, None] / depth)[..., None]
        return pulls.Views.undistorted(cameras, self.pixels, (self.sigma.double() ** 2 + shared**2).sqrt() * scale)

    def heeded(
        self, problem: Problem, body: Body, skin: Skin, cameras: Cameras, centre: Float[Tensor, "T 3"], shared: float, kernel: float
    ) -> Problem:
        """The problem with these joined; `skin` has the points, carried as in the problem's model."""
        own, views = len(problem.model.skin), self.views(cameras, centre.cpu(), shared).to(centre.device)
        model = Model(body, Skin.stacked([problem.model.skin, skin]))

        def evidence(points: Tensor, frames: slice | Tensor) -> Pull:
            pull = padded(problem.evidence(points[:, :own], frames), 0, len(skin))
            return pull + padded(pulls.keypoints(points[:, own:], views[frames], kernel), own, 0)

        return replace(problem, model=model, evidence=evidence)


def skin_points(body: Body) -> Int[Tensor, "P"]:
    """The vertices of the points that a network is asked for."""
    return sampled(body, POINTS).vertices

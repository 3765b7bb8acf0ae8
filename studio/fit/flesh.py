"""The body's surface in the last smoothing: silhouettes, limbs that do not pass through each other, the floor. Each is off by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from rigs.body import Body
from studio.fit import outlines, solid
from studio.fit.points import Model
from studio.fit.robust import padded
from studio.fit.solve import Problem
from studio.fit.state import Pull
from studio.fit.surface import Surface, sampled

POINTS = 400
"""Of the surface; with 600 the fit is no better and a quarter slower, with 300 limbs are 0.4 mm worse."""
DEEP = 10.0
"""Kernel of what is solid: a limb far inside another is a mistake that must be undone, not an outlier."""


@dataclass(frozen=True)
class Flesh:
    """A surface and how strongly it is held; 0 switches a term off."""

    surface: Surface
    apart: Bool[Tensor, "P P"]
    silhouette: float
    """m."""
    solid: float
    """m."""
    floor: float
    """m."""
    kernel: float

    @classmethod
    def of(cls, body: Body, silhouette: float, solid_: float, floor: float, kernel: float) -> Flesh | None:
        """None where nothing is asked of the surface."""
        if not (silhouette or solid_ or floor) or not len(body.triangles):
            return None
        surface = sampled(body, POINTS)
        return cls(surface, solid.apart(surface.skin.rest), silhouette, solid_, floor, kernel)

    def speaks(self, masks: Sequence[Bool[Tensor, "T _ _"]]) -> bool:
        """Whether there is anything that a surface could be held by."""
        return bool(self.solid or self.floor or any(bool(m.any()) for m in masks))

    def outlined(
        self,
        cameras: Cameras,
        masks: Sequence[Bool[Tensor, "T _ _"]],
        centre: Float[Tensor, "T 3"],
        others: Sequence[Bool[Tensor, "T _ _"]] = (),
    ) -> outlines.Outlines | None:
        """The masks as distances and outlines, where they are heeded.

        `centre` is about where the body is (m); `others` are where somebody else is seen.
        """
        if not self.silhouette or not masks:
            return None
        return outlines.outlines(cameras, masks, centre.cpu(), others=others).to(self.surface.vertices.device)

    def joined(self, problem: Problem, model: Model, seen: outlines.Outlines | None) -> Problem:
        """The problem with the surface's evidence; `model` has the surface's points after the problem's own."""
        own = len(problem.model.skin)

        def evidence(points: Tensor, frames: slice | Tensor) -> Pull:
            pull = padded(problem.evidence(points[:, :own], frames), 0, len(self.surface))
            return pull + padded(self.pull(points[:, own:], None if seen is None else seen[frames]), own, 0)

        return replace(problem, model=model, evidence=evidence)

    def pull(self, points: Tensor, seen: outlines.Outlines | None) -> Pull:
        """What the terms that are on say of the surface's points."""
        normals = self.surface.normals(points)
        total = Pull(points.new_zeros(*points.shape, 3), torch.zeros_like(points), points.new_zeros(len(points)))
        if seen is not None:
            total = total + outlines.silhouette(points, normals, seen, self.silhouette, self.kernel)
        if self.solid:
            total = total + solid.interpenetration(points, normals, self.apart, self.solid, DEEP)
        if self.floor:
            total = total + solid.floor(points, 0.0, self.floor, DEEP)
        return total

"""What one source says about the cameras' clocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from studio.clock import CameraClock, Sync


@dataclass(frozen=True)
class Estimate:
    """Offsets and drifts of some cameras against one of them, which has zero of both: `master = offset + own (1 + drift)`."""

    source: str
    offset: Float[Tensor, "C"]
    """s; NaN where the source is silent."""
    drift: Float[Tensor, "C"]
    """Parts of one (not ppm)."""
    sigma: Float[Tensor, "C"]
    """Standard deviation of the offset in the middle of the take, s."""
    middle: float = 0.0
    """Master time of that middle, s."""
    remark: str = ""
    """In words, what it rests on."""

    @property
    def told(self) -> list[int]:
        """Cameras that the source speaks of."""
        return torch.isfinite(self.offset).nonzero()[:, 0].tolist()

    def against(self, reference: int) -> Estimate:
        """The same clocks with another camera as the master; a `ValueError` where the source is silent on it."""
        if reference not in self.told:
            raise ValueError(f"sync: the source {self.source!r} says nothing of the reference camera")
        slow = 1 + self.drift[reference]
        sigma = self.sigma.clone()
        if self.sigma[reference] > 0:  # the former master is no longer exact
            sigma = torch.where(self.sigma == 0, self.sigma[reference], self.sigma)
        sigma[reference] = 0
        offset = (self.offset - self.offset[reference]) / slow
        middle = (self.middle - float(self.offset[reference])) / float(slow)
        return replace(self, offset=offset, drift=(1 + self.drift) / slow - 1, sigma=sigma, middle=middle)

    def shift(self) -> Float[Tensor, "C"]:
        """How far each camera is off the master in the middle of the take, s."""
        return self.offset + self.drift * (self.middle - self.offset)

    def sync(self, names: tuple[str, ...], fps: float, use: bool = True) -> Sync:
        """The file's form; cameras that the source is silent on stay as they are."""
        clocks = {}
        for c, name in enumerate(names):
            known = c in self.told
            source = "reference" if known and self.sigma[c] == 0 and self.offset[c] == 0 else self.source
            clocks[name] = (
                CameraClock(float(self.offset[c]), 1e6 * float(self.drift[c]), float(self.sigma[c]), source)
                if known
                else CameraClock(source="unknown")
            )
        reference = next((n for n, k in clocks.items() if k.source == "reference"), names[0])
        return Sync(reference, fps, clocks, use)


def median_camera(estimate: Estimate) -> int:
    """The camera in the middle of all: with it as the master the others move least."""
    told = estimate.told
    order = sorted(told, key=lambda c: float(estimate.shift()[c]))
    return order[(len(order) - 1) // 2]


def line(times: Float[Tensor, "n"], shifts: Float[Tensor, "n"], sigma: float, drift_sigma: float) -> tuple[float, float, float]:
    """Shift in the middle, drift and the middle's standard deviation of shifts measured at several times, robustly.

    `sigma` is one measurement's; drift has a prior of `drift_sigma` about zero, as crystals have.
    """
    middle = times.mean()
    x = times - middle
    weight = torch.ones_like(shifts)
    centre, drift = float(shifts.median()), 0.0
    for _ in range(20):
        residual = shifts - centre - drift * x
        weight = 1 / (1 + (residual / (3 * sigma)).square()).square()
        H = torch.stack([weight.sum(), (weight * x).sum(), (weight * x).sum(), (weight * x * x).sum() + (sigma / drift_sigma) ** 2])
        b = torch.stack([(weight * shifts).sum(), (weight * x * shifts).sum()])
        centre, drift = torch.linalg.solve(H.view(2, 2), b).tolist()
    return centre, drift, sigma / max(float(weight.sum()), 1.0) ** 0.5

"""One person's path through each camera's images, smoothed so that it can be asked about at any moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calibration.cameras import Cameras
from studio.interpolation import GAP, Track2D, same_people
from studio.values import Keypoints2D, of_actor

JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "forefinger1", "forefinger4", "pinky_finger4")
"""What is compared: the large joints, and some of the hands, which move fastest. Where a view sees no hands it does without."""
WINDOW = 0.05
"""Half width of the smoothing, s; at least two and a half frames."""
HALF = 24
"""Most frames on either side that take part in it."""


@dataclass(frozen=True)
class Path2D:
    """One person's keypoints in one camera."""

    times: Float[Tensor, "T"]
    """The camera's own time, s, ascending."""
    pixels: Float[Tensor, "T K 2"]
    """NaN where not seen."""
    sigma: Float[Tensor, "T K"]

    @property
    def step(self) -> float:
        """Usual time between frames, s."""
        return float(self.times.diff().median()) if len(self.times) > 1 else 1.0

    def stir(self) -> float:
        """How many times the noise's share of the joints' mean squared speed there is: about one for somebody who keeps still."""
        count, (place, velocity) = self._count(WINDOW), self.smoothed()
        k = torch.arange(-count, count + 1, dtype=torch.float64) * self.step
        basis = torch.stack([torch.ones_like(k), k, k * k], 1)
        weight = _taper(k.abs() / max(WINDOW, 2.5 * self.step))
        fit = torch.linalg.solve(basis.mT @ (weight[:, None] * basis), basis.mT * weight)
        left = torch.eye(len(k), dtype=torch.float64)[count] - fit[0]
        apart = (self.pixels - place).square().sum(-1)
        # Squared distances with two equal variances have their median at 2 ln 2 of one of them.
        noise = apart[torch.isfinite(apart)].median() / (2 * math.log(2)) / left.square().sum()
        speed = velocity.square().sum(-1)
        return float(speed[torch.isfinite(speed)].mean() / (2 * noise * fit[1].square().sum()).clamp_min(1e-12))

    def _count(self, window: float) -> int:
        """Frames on either side that the smoothing uses."""
        return min(HALF, max(round(max(window, 2.5 * self.step) / self.step), 1))

    def smoothed(self, window: float = WINDOW) -> tuple[Float[Tensor, "T K 2"], Float[Tensor, "T K 2"]]:
        """Place, px, and velocity, px/s, by a local parabola (Savitzky and Golay 1964, for uneven steps and gaps).

        NaN where fewer than four frames within the window, or none on one side, were seen.
        """
        count, T = self._count(window), len(self.times)
        window = max(window, 2.5 * self.step)
        seen = torch.isfinite(self.pixels).all(-1) & torch.isfinite(self.sigma)
        H = self.pixels.new_zeros(*seen.shape, 3, 3, dtype=torch.float64)
        b = self.pixels.new_zeros(*seen.shape, 3, 2, dtype=torch.float64)
        used = torch.zeros_like(self.sigma)
        for k in range(-count, count + 1):
            index = (torch.arange(T) + k).clamp(0, T - 1)
            apart = (self.times[index] - self.times) / window
            inside = (torch.arange(T) + k == index) & (apart.abs() < 1.01)
            here = inside[:, None] & seen[index]
            weight = torch.where(here, _taper(apart.abs())[:, None] / self.sigma[index].square(), 0.0).double()
            basis = torch.stack([torch.ones_like(apart), apart, apart.square()], -1).double()
            H += weight[..., None, None] * (basis[:, :, None] * basis[:, None])[:, None]
            b += weight[..., None, None] * basis[:, None, :, None] * self.pixels[index].double().nan_to_num()[:, :, None]
            used += here
        good = seen & (used >= 4)
        H = torch.where(good[..., None, None], H, torch.eye(3, dtype=torch.float64))
        H = H + 1e-9 * H.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * torch.eye(3, dtype=torch.float64)
        x = torch.where(good[..., None, None], torch.linalg.solve(H, b), torch.nan)
        return x[..., 0, :], x[..., 1, :] / window


def _taper(apart: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """A frame's weight by its distance, in half widths of the window."""
    return 1.05 - apart.clamp_max(1.04)


@dataclass(frozen=True)
class Sight:
    """The same path as ideal image-plane coordinates with their rate of change."""

    times: Float[Tensor, "T"]
    plane: Float[Tensor, "T K 2"]
    rate: Float[Tensor, "T K 2"]
    """1/s."""
    angle: Float[Tensor, "T K"]
    """Standard deviation of a direction, rad."""
    step: float

    @classmethod
    def of(cls, camera: Cameras, path: Path2D, placement: float, window: float = WINDOW) -> Sight:
        """`placement` rad is added to the detections' own sigma: views place a landmark differently on the body."""
        pixels, velocity = path.smoothed(window)
        h = 1e-3
        plane = camera.undistort(pixels[None].double())[0]
        rate = (camera.undistort((pixels + h * velocity)[None].double())[0] - plane) / h
        angle = ((path.sigma / float(camera.focal.mean())).square() + placement**2).sqrt().double()
        return cls(path.times, plane, rate, angle, path.step)

    def at(self, moments: Float[Tensor, "n"]) -> tuple[Float[Tensor, "n K 2"], Float[Tensor, "n K"]]:
        """Plane coordinates (NaN where not seen) and their standard deviation at moments of the camera's own time."""
        T = len(self.times)
        low = (torch.searchsorted(self.times, moments.contiguous(), right=True) - 1).clamp(0, T - 2)
        h = (self.times[low + 1] - self.times[low]).clamp_min(1e-9)
        a = ((moments - self.times[low]) / h)[:, None, None]
        inside = (a >= -1e-6) & (a <= 1 + 1e-6) & (h < GAP * self.step)[:, None, None]
        p, q, u, v = self.plane[low], self.plane[low + 1], self.rate[low] * h[:, None, None], self.rate[low + 1] * h[:, None, None]
        b = 1 - a
        value = (1 + 2 * a) * b * b * p + a * b * b * u + a * a * (3 - 2 * a) * q - a * a * b * v
        return torch.where(inside, value, torch.nan), torch.maximum(self.angle[low], self.angle[low + 1])


def joints_of(names: Sequence[str]) -> list[int]:
    """Keypoints that are compared."""
    return [k for k, n in enumerate(names) if n.removeprefix("left_").removeprefix("right_") in JOINTS]


def path_of(stretches: Sequence[tuple[Keypoints2D, Int[Tensor, "T"]]], own: Float[Tensor, "N"]) -> Path2D:
    """One camera's view of the person whom the detections of every stretch (C=1) show; `own` is the camera's time of all video frames."""
    times, pixels, sigma = [], [], []
    for keypoints, which in stretches:
        few = joints_of(keypoints.keypoints)
        x, s, f = (
            of_actor(v[:, :, :, few], which[None], e)[0]
            for v, e in ((keypoints.pixels, torch.nan), (keypoints.sigma, torch.inf), (keypoints.confidence, 0.0))
        )
        seen = (f > 0) & torch.isfinite(x).all(-1) & torch.isfinite(s) & (s > 0)
        times.append(own[keypoints.first_frame :][: keypoints.frames])
        pixels.append(torch.where(seen[..., None], x, torch.nan)[: len(times[-1])])
        sigma.append(torch.where(seen, s, torch.inf)[: len(times[-1])])
    return Path2D(torch.cat(times).double(), torch.cat(pixels), torch.cat(sigma))


def prominent(keypoints: Keypoints2D) -> Int[Tensor, "C T"]:
    """In each view the person that is seen largest, followed from frame to frame; -1 for not seen."""
    C, T, D, _ = keypoints.confidence.shape
    if D == 1:
        return torch.where((keypoints.confidence[:, :, 0] > 0).any(-1), 0, -1)
    chosen = torch.full((C, T), -1)
    for c in range(C):
        track = Track2D(keypoints.pixels[c], keypoints.sigma[c], keypoints.confidence[c])
        high, low = (torch.where(track.seen[..., None], s * track.pixels, -torch.inf).amax(2) for s in (1.0, -1.0))
        size = torch.where(track.seen.sum(-1) > 3, (high + low).norm(dim=-1), 0.0)
        sooner, later = (Track2D(track.pixels[part], track.sigma[part], track.confidence[part]) for part in (slice(-1), slice(1, None)))
        ahead, back = same_people(sooner, later), same_people(later, sooner)
        chosen[c] = _followed(size, ahead, back)
    return chosen


def _followed(size: Float[Tensor, "T D"], ahead: Int[Tensor, "T-1 D"], back: Int[Tensor, "T-1 D"]) -> Int[Tensor, "T"]:
    """From the largest detection of all outwards; the largest again wherever the chain breaks."""
    T = len(size)
    chosen = torch.full((T,), -1)
    if not bool((size > 0).any()):
        return chosen
    start, d = divmod(int(size.argmax()), size.shape[1])
    largest = torch.where(size.amax(1) > 0, size.argmax(1), -1)
    chosen[start] = d
    for t in range(start + 1, T):
        d = int(ahead[t - 1, chosen[t - 1]]) if chosen[t - 1] >= 0 else -1
        chosen[t] = d if d >= 0 else largest[t]
    for t in range(start - 1, -1, -1):
        d = int(back[t, chosen[t + 1]]) if chosen[t + 1] >= 0 else -1
        chosen[t] = d if d >= 0 else largest[t]
    return chosen

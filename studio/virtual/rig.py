"""A ring of cameras around the volume, each framed so that everything in it stays in view."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from calibration.cameras import Cameras, upright_view

TARGET_HEIGHT = 1.02
"""What the cameras look at, m above the floor: the middle of a person with one arm raised."""
REACH = 2.05
"""Height that must stay in view, m: a raised hand."""


def ring(count: int, width: int, height: int, seed: int = 0, radius: float = 3.5, volume: float = 0.5, distortion: bool = True) -> Cameras:
    """`count` cameras named cam01, cam02, ... on a jittered ring of `radius` m, 1.2 to 2.6 m high, looking inwards.

    Every lens is as long as it can be while a cylinder of `volume` m radius and `REACH` m height stays on the image.
    Lenses are mild barrels with a little tangential distortion, or ideal without `distortion`.
    """
    if count < 1:
        raise ValueError(f"cameras: {count} asked for; a capture needs at least one")
    if radius < 2 * volume:
        raise ValueError(f"camera ring of {radius} m is too tight around a volume of {volume} m; give it at least {2 * volume} m")
    rng = np.random.default_rng([seed, 11])
    angle = 2 * math.pi * (np.arange(count) / count) - math.pi / 2 + 0.35 + rng.uniform(-0.35, 0.35, count) / max(count / 4, 1)
    far = radius * rng.uniform(0.93, 1.07, count)
    position = np.stack([far * np.cos(angle), far * np.sin(angle), rng.uniform(1.2, 2.6, count)], 1)
    target = np.array([0, 0, TARGET_HEIGHT]) + rng.uniform(-0.06, 0.06, (count, 3))
    R = upright_view(torch.from_numpy(target - position))
    k = np.zeros((count, 8))
    if distortion:
        k[:, :4] = rng.normal([-0.09, 0.03, 0, 0], [0.03, 0.01, 4e-4, 4e-4], (count, 4))
    size = torch.tensor([[width, height]], dtype=torch.float64).repeat(count, 1)
    centre = (size - 1) / 2 + torch.from_numpy(rng.normal(0, 0.006, (count, 2))) * size * float(distortion)
    names = tuple(f"cam{i + 1:02d}" for i in range(count))
    unit = Cameras(names, size, torch.ones_like(size), centre, torch.from_numpy(k), ("brown",) * count, R, torch.from_numpy(position))
    return _framed(unit, volume)


def _framed(unit: Cameras, volume: float) -> Cameras:
    """Cameras with the longest focal length that keeps the cylinder inside, with 1.5 % of the image to spare."""
    turn = torch.linspace(0, 2 * math.pi, 49, dtype=torch.float64)
    rim = torch.stack([volume * turn.cos(), volume * turn.sin()], 1)
    cylinder = torch.cat([torch.cat([rim, torch.full((len(rim), 1), z, dtype=torch.float64)], 1) for z in (0.0, REACH)])
    offset = unit.project(cylinder) - unit.centre[:, None]
    low, high = unit.centre + 0.5, unit.size - 0.5 - unit.centre
    room = torch.where(offset > 0, high[:, None], low[:, None]) / offset.abs().clamp_min(1e-9)
    focal: Tensor = 0.97 * room.amin(dim=(1, 2))
    return Cameras(
        unit.names, unit.size, focal[:, None].repeat(1, 2), unit.centre, unit.distortion, unit.lens, unit.R_camera_world, unit.position
    )

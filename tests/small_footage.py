"""Cameras and videos of a few pixels, for tests of what surrounds the images."""

import math
from fractions import Fraction

import numpy as np
import torch

from calibration.cameras import Cameras
from studio.video import VideoWriter


def rig(names, width=64, height=48):
    """Cameras on a circle, looking at the middle."""
    C = len(names)
    angle = torch.arange(C, dtype=torch.float64) * 2 * math.pi / C
    position = torch.stack([3 * angle.cos(), 3 * angle.sin(), torch.ones(C, dtype=torch.float64)], 1)
    z = -position / position.norm(dim=1, keepdim=True)
    x = torch.linalg.cross(z, torch.tensor([0, 0, 1.0], dtype=torch.float64).expand(C, 3))
    x = x / x.norm(dim=1, keepdim=True)
    size = torch.tensor([width, height], dtype=torch.float64).repeat(C, 1)
    R = torch.stack([x, torch.linalg.cross(z, x), z], 1)
    zero = torch.zeros(C, 8, dtype=torch.float64)
    return Cameras(tuple(names), size, size[:, :1].repeat(1, 2), size / 2 - 0.5, zero, ("brown",) * C, R, position)


def film(path, frames=6, fps: Fraction | int = 30, width=64, height=48):
    """A small video of a moving ramp."""
    ramp = np.arange(width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
    with VideoWriter(path, width, height, fps) as writer:
        for i in range(frames):
            writer.write(np.roll(ramp, 3 * i, 1))
    return path

"""Shape from masks, pose from keypoints: two small networks that learn from sampled bodies alone (after Pavlakos et al. 2018).

A person is looked at through an upright camera at the real one's place that looks straight at the hips: a window of `WINDOW` metres at
the person's distance. The studio's cameras are calibrated, so a mask in that window has metric size, and several views fuse into one body.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from calibration.cameras import Cameras, upright_view
from rigs import rotation
from rigs.keypoints import COCO_17, FEET
from rigs.skeleton import Skeleton
from studio.nets import checkpoint
from studio.nets.residual import Residual

SIZE = 64
"""Pixels across a mask."""
WINDOW = 2.4
"""What they show, m."""
KEYPOINTS = COCO_17 + FEET
JOINTS = tuple(
    n for n in Skeleton.human().names if not (n.startswith(("LeftHand", "RightHand")) and n[-1].isdigit()) and n[-3:] not in ("Jaw", "Eye")
)
"""What keypoints of limbs, trunk and head tell of: all joints but fingers, jaw and eyes."""


@dataclass(frozen=True)
class Sight:
    """An upright camera that looks straight at a person; any leading axes."""

    R_view_world: Float[Tensor, "... 3 3"]
    position: Float[Tensor, "... 3"]
    distance: Float[Tensor, "..."]
    """To the person's middle, m."""

    @staticmethod
    def at(position: Float[Tensor, "... 3"], centre: Float[Tensor, "... 3"]) -> Sight:
        """From a camera's place to a person's middle."""
        forward = centre - position
        return Sight(upright_view(forward), position, forward.norm(dim=-1))

    def window(self, points: Float[Tensor, "... P 3"]) -> Float[Tensor, "... P 2"]:
        """World points in the window, -1 to 1 from edge to edge, y down."""
        p = (points - self.position[..., None, :]) @ self.R_view_world.mT
        return p[..., :2] / p[..., 2:].clamp_min(0.2) * (self.distance[..., None, None] / (WINDOW / 2))

    def seen_from(self, heading: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 4"]:
        """What `ShapePrior` is told of a view: where the camera is in the frame of the person's hips, and how near."""
        towards = -self.R_view_world[..., 2, :]
        return torch.cat([(heading @ towards[..., None])[..., 0], (3 / self.distance - 1)[..., None]], -1)

    def tilt(self) -> Float[Tensor, "... 2"]:
        """What `PosePrior` is told of a view: how far it looks down, and how near it is."""
        return torch.stack([self.R_view_world[..., 2, 2], 3 / self.distance - 1], -1)


def heading(left_hip: Float[Tensor, "... 3"], right_hip: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """`R_hips_world` of a person upright: x to the left hip, z up."""
    across = (left_hip - right_hip) * left_hip.new_tensor([1.0, 1.0, 0.0])
    x = across / across.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    z = x.new_tensor([0.0, 0.0, 1.0]).expand_as(x)
    return torch.stack([x, torch.linalg.cross(z, x), z], -2)


def crop(masks: Bool[Tensor, "T h w"], camera: Cameras, sight: Sight) -> Float[Tensor, "T 64 64"]:
    """One camera's masks, of the whole image at any resolution, in the windows of sights (T,): how much of each pixel the person covers."""
    fine = 2 * SIZE
    edge = (torch.arange(fine, dtype=torch.float32) + 0.5) / fine * 2 - 1
    y, x = torch.meshgrid(edge, edge, indexing="ij")
    plane = torch.stack([x, y, torch.zeros_like(x)], -1) * (WINDOW / 2)
    centre = sight.position + sight.R_view_world[..., 2, :] * sight.distance[..., None]
    world = torch.einsum("tji,yxj->tyxi", sight.R_view_world.double(), plane.double()) + centre[:, None, None].double()
    pixels = camera.project(world)[0]
    place = ((pixels + 0.5) / camera.size[0] * 2 - 1).float().nan_to_num(9.0)
    return F.avg_pool2d(F.grid_sample(masks[:, None].float(), place, align_corners=False), 2)[:, 0]


class ShapePrior(nn.Module):
    """Masks of one person in any number of views and moments to the shape of the body."""

    def __init__(self, shapes: int, channels: tuple[int, ...] = (12, 24, 48, 64, 96), width: int = 224) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *channels), channels):
            size = 3 if layers else 5
            layers += [nn.Conv2d(before, after, size, 2, size // 2), nn.BatchNorm2d(after), nn.ReLU()]  # a third of pooling's time
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
        self.joined = nn.Linear(channels[-1] * (SIZE // 2 ** len(channels)) ** 2 + 4, width)
        self.each = Residual(width)
        self.attention = nn.Linear(width, 4)
        self.whole = Residual(width)
        self.shape = nn.Linear(width, shapes)
        nn.init.zeros_(self.attention.weight)
        nn.init.normal_(self.shape.weight, std=0.01)

    def forward(
        self, masks: Float[Tensor, "B N 64 64"], views: Float[Tensor, "B N 4"], seen: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B S"]:
        """Shape coefficients from N views each (`Sight.seen_from` tells of a view); those not `seen` have no say."""
        B, N = masks.shape[:2]
        marks = self.convolutions(masks.reshape(B * N, 1, SIZE, SIZE)).flatten(1)
        each = self.each(self.joined(torch.cat([marks, views.reshape(B * N, 4)], -1))).view(B, N, -1)
        weight = self.attention(each)
        if seen is not None:
            weight = weight.masked_fill(~seen[..., None], -1e9)
        weight = weight.softmax(1).repeat_interleave(each.shape[-1] // 4, -1)  # every quarter of the features has its own eyes
        return self.shape(self.whole((weight * each).sum(1)))


class PosePrior(nn.Module):
    """One view's keypoints to joint rotations."""

    def __init__(self, joints: int = len(JOINTS), keypoints: int = len(KEYPOINTS), width: int = 320, units: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(3 * keypoints + 2, width)
        self.units = nn.Sequential(*(Residual(width) for _ in range(units)))
        self.turns = nn.Linear(width, 6 * joints)
        nn.init.normal_(self.turns.weight, std=0.01)
        with torch.no_grad():
            self.turns.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(joints))

    def forward(self, keypoints: Float[Tensor, "B K 3"], tilt: Float[Tensor, "B 2"]) -> Float[Tensor, "B J 3 3"]:
        """Local rotations of `JOINTS`, the root's in the axes of the view, from window coordinates and confidence (0: not seen)."""
        known = torch.cat([keypoints[..., :2] * (keypoints[..., 2:] > 0), keypoints[..., 2:]], -1)
        turns = self.turns(self.units(self.first(torch.cat([known.flatten(1), tilt], -1))))
        return rotation.from_6d(turns.view(len(keypoints), -1, 6))


class Priors(nn.Module):
    """Both, as one checkpoint holds them."""

    def __init__(self, shapes: int, channels: tuple[int, ...] = (12, 24, 48, 64, 96), width: int = 224, joints: int = len(JOINTS)) -> None:
        super().__init__()
        self.shape = ShapePrior(shapes, tuple(channels), width)
        self.pose = PosePrior(joints)
        self.doubt: Tensor
        self.register_buffer("doubt", torch.eye(shapes))
        """Covariance of the shape's error on held-out synthetic people, many views of each."""


@cache
def load(name: str | Path = "shape") -> Priors:
    """The networks of a checkpoint, ready to be asked; errors as `checkpoint.read`'s."""
    return checkpoint.read(name, Priors, "shape")[0]

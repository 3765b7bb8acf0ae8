"""A person's pose and shape from what single views show, by repeated correction, and a critic of poses (after Kanazawa et al. 2018).

Every view is the upright window of `studio.nets.shape.Sight`. Rotations are those of `JOINTS`; the root's is in the axes of the first view.
Cameras are known, so views share one pose and one shape, and only how the axes of each view lie in the first's differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rigs import rotation
from studio.nets import checkpoint
from studio.nets.shape import JOINTS, KEYPOINTS, PosePrior, Residual

FEATURES = 352
STEPS = 3
CROP = 64
"""Pixels across an image in the window."""
LIMBED = len(JOINTS) - 1
"""Joints that the critic judges: all but the root, whose rotation is no matter of anatomy."""


@dataclass(frozen=True)
class Guess:
    """A person as the regressor believes."""

    R: Float[Tensor, "B J 3 3"]
    """Local rotations of `JOINTS`, the root's in the axes of the first view."""
    shape: Float[Tensor, "B S"]
    shift: Float[Tensor, "B 3"]
    """Of the root joint from the window's middle, in the axes of the first view, m."""


class Proxy(nn.Module):
    """Features of a view from its estimated keypoints and mask, which look alike for real and for sampled people."""

    def __init__(self, keypoints: int = len(KEYPOINTS), width: int = 320) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for before, after in ((1, 8), (8, 16), (16, 24)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
        self.mask = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 16, FEATURES - width))
        self.first = nn.Linear(3 * keypoints + 2, width)
        self.units = nn.Sequential(Residual(width), Residual(width))

    def forward(
        self, keypoints: Float[Tensor, "B K 3"], mask: Float[Tensor, "B 64 64"], tilt: Float[Tensor, "B 2"]
    ) -> Float[Tensor, "B F"]:
        """Window coordinates with confidence (0: not seen), how much of each pixel is the person, and `Sight.tilt`."""
        known = torch.cat([keypoints[..., :2] * (keypoints[..., 2:] > 0), keypoints[..., 2:]], -1)
        marks = self.units(self.first(torch.cat([known.flatten(1), tilt], -1)))
        return torch.cat([marks, self.mask(mask[:, None])], -1)

    def begun_from(self, prior: PosePrior) -> None:
        """What `PosePrior` knows of keypoints, to go on from."""
        self.first.load_state_dict(prior.first.state_dict())
        self.units.load_state_dict(prior.units.state_dict())


class Trunk(nn.Module):
    """Features of a view from the image itself: small convolutions with ways around them."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96, 128), width: int = FEATURES) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for before, after in zip((3, *channels), channels):
            down = nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
            same = nn.Sequential(nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            self.stages.append(nn.ModuleList([down, same] if before > 3 else [down]))
        self.out = nn.Sequential(nn.Linear(channels[-1] * (CROP // 2 ** len(channels)) ** 2 + 2, width), nn.LayerNorm(width), nn.ReLU())

    def forward(self, image: Float[Tensor, "B 3 64 64"], tilt: Float[Tensor, "B 2"]) -> Float[Tensor, "B F"]:
        """RGB in the window, 0 to 1, and `Sight.tilt`."""
        x = image - 0.45
        for stage in self.stages:
            down, *same = stage  # type: ignore[misc]
            x = down(x)
            for layer in same:
                x = x + layer(x)
        return self.out(torch.cat([x.flatten(1), tilt], -1))


class Regressor(nn.Module):
    """Corrects a belief again and again, each time looking at the same features; begins at a mean that is learned."""

    def __init__(self, shapes: int, joints: int = len(JOINTS), features: int = FEATURES, width: int = 256) -> None:
        super().__init__()
        self.joints, self.shapes = joints, shapes
        size = 6 * joints + shapes + 3
        self.mean = nn.Parameter(torch.cat([torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(joints), torch.zeros(shapes + 3)]))
        with torch.no_grad():  # upright and facing the camera: y of the view is down, the body's z is up, it faces its -y
            self.mean[:6] = torch.tensor([1.0, 0, 0, 0, 0, 1])
        self.view = nn.Sequential(nn.Linear(features + 6 + size, width), Residual(width))
        self.look = nn.Linear(width, 4)
        self.inner = nn.Sequential(nn.Linear(width + size, width), Residual(width))
        self.change = nn.Linear(width, size)
        nn.init.normal_(self.change.weight, std=0.01)
        nn.init.zeros_(self.change.bias)
        nn.init.zeros_(self.look.weight)

    def forward(
        self,
        features: Float[Tensor, "B N F"],
        R_view_first: Float[Tensor, "B N 3 3"],
        seen: Bool[Tensor, "B N"] | None = None,
        steps: int = STEPS,
    ) -> list[Guess]:
        """What is believed after each step; `R_view_first` are the axes of the views against the first's, views not `seen` have no say."""
        B, N = features.shape[:2]
        belief = self.mean.expand(B, -1)
        turned = R_view_first[..., :2].mT.flatten(-2)
        out = []
        for _ in range(steps):
            views = self.view(torch.cat([features, turned, belief[:, None].expand(-1, N, -1)], -1))
            weight = self.look(views)
            if seen is not None:
                weight = weight.masked_fill(~seen[..., None], -1e9)
            weight = weight.softmax(1).repeat_interleave(views.shape[-1] // 4, -1)
            belief = belief + self.change(self.inner(torch.cat([(weight * views).sum(1), belief], -1)))
            out.append(self._guess(belief))
        return out

    def _guess(self, belief: Tensor) -> Guess:
        turns, shape, shift = belief.split([6 * self.joints, self.shapes, 3], -1)
        return Guess(rotation.from_6d(turns.view(len(belief), -1, 6)), shape, shift)


class Critic(nn.Module):
    """Tells poses and shapes of people from others: a score for each joint, for all of them together, for the shape; 1 is a person."""

    def __init__(self, shapes: int, joints: int = LIMBED, hidden: int = 32, width: int = 192) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(9, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.own = nn.Parameter(torch.randn(joints, hidden) / hidden**0.5)
        self.bias = nn.Parameter(torch.zeros(joints))
        self.all = nn.Sequential(nn.Linear(joints * hidden, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.shape = nn.Sequential(nn.Linear(shapes, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, R: Float[Tensor, "B J 3 3"], shape: Float[Tensor, "B S"]) -> Float[Tensor, "B J+2"]:
        """Scores from local rotations of `JOINTS` without the root, and shape coefficients."""
        marks = self.shared(R.flatten(-2))
        each = (marks * self.own).sum(-1) + self.bias
        return torch.cat([each, self.all(marks.flatten(1)), self.shape(shape)], -1)


class Recovery(nn.Module):
    """Everything that one checkpoint holds."""

    def __init__(self, shapes: int, joints: int = len(JOINTS), image: bool = False) -> None:
        super().__init__()
        self.proxy = Proxy()
        self.regressor = Regressor(shapes, joints)
        self.critic = Critic(shapes, joints - 1)
        self.trunk = Trunk() if image else None
        self.usual: Tensor
        self.register_buffer("usual", torch.stack([torch.ones(joints - 1), torch.ones(joints - 1)]))
        """Mean of each joint's score on poses of people, and how far below it lies the score that one of a thousand falls short of."""

    def plausible(self, R: Float[Tensor, "B J 3 3"]) -> Float[Tensor, "B J-1"]:
        """How far each joint of `JOINTS` but the root is from what people do: 0 is usual, 1 as one of a thousand poses is."""
        scores = self.critic(R[:, 1:], R.new_zeros(len(R), self.critic.shape[0].in_features))[:, :-2]  # type: ignore[union-attr,index]
        return ((self.usual[0] - scores) / self.usual[1]).clamp_min(0)


def relative(R_view_world: Float[Tensor, "B N 3 3"]) -> Float[Tensor, "B N 3 3"]:
    """The axes of every view against the first's."""
    return R_view_world @ R_view_world[:, :1].mT


@cache
def load(name: str | Path = "recovery") -> Recovery:
    """The networks of a checkpoint, ready to be asked; errors as `checkpoint.read`'s."""
    return checkpoint.read(name, Recovery, "recovery")[0]


def unlike(joints: Sequence[str], R: Float[Tensor, "T J 3 3"], weights: str = "recovery") -> Float[Tensor, "T J"]:
    """How far the local rotation of each of the named joints is from what people do: 0 is usual, 1 as one pose of a thousand is, more is
    stranger; NaN for joints that the critic does not know (fingers, jaw, eyes, the root). The critic learned from synthetic motions."""
    rows = torch.tensor([joints.index(j) for j in JOINTS])
    out = torch.full(R.shape[:2], torch.nan)
    with torch.no_grad():
        out[:, rows[1:]] = load(weights).plausible(R[:, rows].float().cpu())
    return out

"""People of whom only hands are seen: a trunk that nobody saw is seated where the arms can be at ease, and stays there.

Hands alone do not tell a body. Left to priors each frame would swing the whole of it about the wrist; so the take's hands choose one place
for the shoulders and hips, softly held, from which elbows hang and forearms point the way the hands do. The arms then do the moving.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.body import Body
from studio.fit import pulls
from studio.fit.initial import filled
from studio.fit.state import Pull

TRUNK = tuple(f"{s}_{p}" for s in ("left", "right") for p in ("shoulder", "hip"))
HANDS = 42
"""Keypoints of two hands: whoever shows more in one frame has more than hands."""
INWARD = {"left": -math.radians(25), "right": math.radians(25)}
"""At ease before the trunk a forearm points so far inwards, rad to the left."""
FORWARD = math.radians(20)
"""... and the upper arm so far forward of hanging, rad."""
HELD = 0.03
"""How far each end of the trunk may lie from its place, m: leaning is cheaper than overstretching, an arm cheaper than both."""
SWIVELS = 36
"""Places of an elbow on its circle about the line from shoulder to wrist that are weighed."""


@dataclass(frozen=True)
class Seat:
    """Where an unseen trunk is held."""

    names: tuple[str, ...]
    trunk: Float[Tensor, "4 3"]
    """World place of `TRUNK`, m."""
    arm: Float[Tensor, "2"]
    """Length of upper arm and forearm, m."""

    def completed(self, points: Float[Tensor, "T K 3"]) -> Float[Tensor, "T K 3"]:
        """The points with the trunk in its place, and with elbows and wrists that lead from there to the hands."""
        out, known = points.clone(), filled(points)
        for name, place in zip(TRUNK, self.trunk):
            out[:, self.names.index(name)] = place.to(out)
        for side, wrist, along in _hands(self.names, known):
            shoulder = self.trunk[TRUNK.index(f"{side}_shoulder")].to(out)
            out[:, self.names.index(f"{side}_elbow")] = elbow(shoulder, wrist, along, self.arm.to(out))
            out[:, self.names.index(f"{side}_wrist")] = wrist
        return out

    def pull(self, points: Float[Tensor, "T K 3"]) -> Pull:
        """Towards the trunk's place; `points` are the body's, in the order of `names`."""
        where = torch.full_like(points, torch.nan)
        where[:, [self.names.index(n) for n in TRUNK]] = self.trunk.to(points)
        return pulls.targets(points, where, torch.full_like(points[..., 0], HELD), 1e3)


def seated(body: Body, names: tuple[str, ...], points: Float[Tensor, "T K 3"]) -> Seat | None:
    """The seat for some frames of a person; None where part of a trunk was seen, or no hand."""
    if not set(TRUNK) <= set(names) or bool(torch.isfinite(points[:, [names.index(n) for n in TRUNK]]).any()):
        return None
    hands = [(side, *_known(wrist, along)) for side, wrist, along in _hands(names, points)]
    hands = [(side, wrist, along) for side, wrist, along in hands if len(wrist)]
    if not hands:
        return None
    yaw = _facing(hands)
    R = _turn(yaw).to(points)
    joint = {n: body.joints[body.skeleton.index(n)].to(points) for n in ("Hips", "LeftArm", "RightArm", "RightForeArm", "RightHand")}
    arm = torch.stack([(joint["RightForeArm"] - joint["RightArm"]).norm(), (joint["RightHand"] - joint["RightForeArm"]).norm()])
    upper = R @ points.new_tensor([0.0, -math.sin(FORWARD), -math.cos(FORWARD)]) * arm[0]
    roots = []
    for side, wrist, along in hands:
        shoulder = (wrist - along * arm[1]).median(0).values - upper
        roots.append(shoulder - R @ (joint[f"{side.capitalize()}Arm"] - joint["Hips"]))
    root = torch.stack(roots).mean(0)
    rest = dict(zip(TRUNK, body.keypoint_skin(TRUNK).rest.to(points)))
    trunk = torch.stack([root + R @ (rest[n] - joint["Hips"]) for n in TRUNK])
    return Seat(names, trunk, arm)


def elbow(
    shoulder: Float[Tensor, "3"], wrist: Float[Tensor, "T 3"], along: Float[Tensor, "T 3"], arm: Float[Tensor, "2"]
) -> Float[Tensor, "T 3"]:
    """Where elbows are between a shoulder and wrists, m: low, and so that the forearm points as the hand does (`along`, unit).

    The mean over the circle that they can lie on, weighed by how little the wrist bends; beyond reach on the line between.
    """
    reach = wrist - shoulder
    far = reach.norm(dim=-1, keepdim=True).clamp(float((arm[0] - arm[1]).abs()) + 1e-3, float(arm.sum()) - 1e-3)
    ahead = torch.nn.functional.normalize(reach, dim=-1)
    foot = (far**2 + arm[0] ** 2 - arm[1] ** 2) / (2 * far)
    radius = (arm[0] ** 2 - foot**2).clamp_min(0).sqrt()
    down = reach.new_tensor([0.0, 0.0, -1.0]).expand_as(reach)
    down = torch.nn.functional.normalize(down - (down * ahead).sum(-1, keepdim=True) * ahead + 1e-6, dim=-1)
    aside = torch.linalg.cross(ahead, down)
    angle = torch.arange(SWIVELS, dtype=reach.dtype, device=reach.device) * (2 * math.pi / SWIVELS)
    out = angle.cos()[:, None, None] * down + angle.sin()[:, None, None] * aside
    places = shoulder + foot * ahead + radius * out
    bend = (torch.nn.functional.normalize(wrist - places, dim=-1) * along).sum(-1).clamp(-1, 1).acos()
    weight = torch.softmax(-((bend / 0.5) ** 2) + 1.5 * angle.cos()[:, None], 0)
    mean = (weight[..., None] * out).sum(0)
    return shoulder + foot * ahead + radius * torch.nn.functional.normalize(mean, dim=-1)


def _hands(names: tuple[str, ...], points: Float[Tensor, "T K 3"]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Side, root (T, 3) and unit direction (T, 3) of each hand that some frame shows."""
    for side in ("left", "right"):
        ends = (f"{side}_hand_root", f"{side}_middle_finger1")
        if set(ends) <= set(names):
            root, knuckle = (points[:, names.index(n)] for n in ends)
            if bool(torch.isfinite(root + knuckle).any()):
                yield side, root, torch.nn.functional.normalize(knuckle - root, dim=-1)


def _known(wrist: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    seen = torch.isfinite(wrist + along).all(-1)
    return wrist[seen], along[seen]


def _facing(hands: Sequence[tuple[str, Tensor, Tensor]]) -> float:
    """Which way the person faces, rad about z from -y: the way level hands point, less their turn inwards; 0 where all hang."""
    level = torch.stack([_turn(-INWARD[side])[:2, :2].to(along) @ along[:, :2].mean(0) for side, _, along in hands]).mean(0)
    return math.atan2(float(level[0]), -float(level[1])) if float(level.norm()) > 0.1 else 0.0


def _turn(yaw: float) -> Float[Tensor, "3 3"]:
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

"""From anatomical controls to joint rotations: limbs by direction and bend, fingers by flexion, legs by planted feet.

Controls mean the same on every person, whatever the rest pose of their body: an elbow bend of 0 is a straight arm, an arm
raise of 0 hangs, with all controls at 0 the person stands upright on both feet. Angles in rad, lengths in m.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from rigs import rotation
from rigs.body import Body
from rigs.skeleton import Skeleton

FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
SIDES = ("Left", "Right")
STRETCH = 0.992
"""Longest leg as a fraction of thigh + shin: real knees are never quite straight."""
STANCE = 0.11
"""Distance of each foot's ball from the midline when a person stands, m."""
Controls = Mapping[str, Float[Tensor, "T"]]
"""Curves over time by name; what is missing is 0."""


@dataclass(frozen=True)
class Performance:
    """One person's motion with their own body."""

    body: Body
    """The person at rest; shape coefficients are zero."""
    translation: Float[Tensor, "T 3"]
    """World position of the root joint, m."""
    rotation: Float[Tensor, "T J 3"]
    """Local joint rotation vectors, rad."""
    expression: Float[Tensor, "T E"]

    def __len__(self) -> int:
        return len(self.translation)


@dataclass(frozen=True)
class Anatomy:
    """A person's rest skeleton read as limbs."""

    skeleton: Skeleton
    joints: Float[Tensor, "J 3"]
    floor: float
    """Height of the soles at rest, m."""

    @classmethod
    def of(cls, body: Body) -> Anatomy:
        """The anatomy of a body's template."""
        return cls(body.skeleton, body.joints.double(), float(body.skin.rest[:, 2].min()))

    def at(self, name: str) -> Float[Tensor, "3"]:
        """Rest position of a joint, m."""
        return self.joints[self.skeleton.index(name)]

    def bone(self, start: str, end: str) -> Float[Tensor, "3"]:
        """Unit rest direction from one joint to another."""
        return unit(self.at(end) - self.at(start))

    def leg(self, side: str) -> Float[Tensor, ""]:
        """Longest useful distance from hip to ankle, m."""
        thigh, shin = self.at(f"{side}Leg") - self.at(f"{side}UpLeg"), self.at(f"{side}Foot") - self.at(f"{side}Leg")
        return STRETCH * (thigh.norm() + shin.norm())

    def palm(self, side: str) -> Float[Tensor, "3"]:
        """Unit normal of the palm at rest, out of the palm."""
        wrist, index, pinky = (self.at(side + n) for n in ("Hand", "HandIndex1", "HandPinky1"))
        normal = torch.linalg.cross(index - wrist, pinky - wrist)
        return unit(normal if side == "Right" else -normal)


def unit(v: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Vectors of length one."""
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def turn(axis: Float[Tensor, "3"], angle: Float[Tensor, "T"]) -> Float[Tensor, "T 3 3"]:
    """Rotations about one unit axis."""
    return rotation.exp(angle[:, None] * axis)


def between(a: Float[Tensor, "... 3"], b: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """The smallest rotation that carries unit vector a to unit vector b."""
    a, b = torch.broadcast_tensors(a, b)
    axis = torch.linalg.cross(a, b)
    sine, cosine = axis.norm(dim=-1, keepdim=True), (a * b).sum(-1, keepdim=True)
    return rotation.exp(axis / sine.clamp_min(1e-9) * torch.atan2(sine, cosine))


def frames(first: Float[Tensor, "... 3"], near: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """Rotations whose first column is `first` and whose second lies towards `near`."""
    first, near = torch.broadcast_tensors(unit(first), near)
    second = unit(near - (near * first).sum(-1, keepdim=True) * first)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def performed(body: Body, controls: Controls, place: Float[Tensor, "2"], heading: float) -> Performance:
    """The motion that controls describe, standing at `place` (m) and turned by `heading` (rad) about the vertical."""
    anatomy = Anatomy.of(body)
    T = len(next(iter(controls.values())))
    zero = torch.zeros(T, dtype=torch.float64)

    def c(name: str) -> Tensor:
        return controls.get(name, zero)

    R = torch.eye(3, dtype=torch.float64).repeat(T, len(body.skeleton), 1, 1)
    put: Callable[[str, Tensor], None] = lambda name, value: R.__setitem__((slice(None), body.skeleton.index(name)), value)  # noqa: E731
    x, y, z = torch.eye(3, dtype=torch.float64)
    put("Hips", turn(z, c("pelvis_yaw")) @ turn(x, c("pelvis_pitch")) @ turn(y, c("pelvis_roll")))
    for name in ("Spine", "Spine1", "Spine2"):
        put(name, turn(z, c("twist") / 3) @ turn(x, c("bend") / 3) @ turn(y, c("side") / 3))
    for name, share in (("Neck", 0.4), ("Head", 0.6)):
        put(name, turn(z, share * c("head_turn")) @ turn(x, share * c("nod")) @ turn(y, share * c("head_tilt")))
    for side in SIDES:
        put(f"{side}Eye", turn(z, c("gaze_turn")) @ turn(x, c("gaze_nod")))
        _arm(anatomy, side, c, put)
        _hand(anatomy, side, c, put)
    root = _legs(anatomy, c, R, put)
    spin = turn(z, zero + heading)
    R[:, 0] = spin @ R[:, 0]
    root = (spin @ root[..., None])[..., 0] + torch.cat([place.double(), torch.zeros(1, dtype=torch.float64)])
    expression = torch.stack([c(name) for name in body.expression_names], -1)
    return Performance(body, root.float(), rotation.log(R).float(), expression.float())


def _arm(anatomy: Anatomy, side: str, c: Callable[[str], Tensor], put: Callable[[str, Tensor], None]) -> None:
    """Clavicle, upper arm by direction and roll, elbow by its bend, forearm roll, wrist."""
    sign = 1.0 if side == "Left" else -1.0
    y = torch.eye(3, dtype=torch.float64)[1]
    shrug, raise_, front = c(f"{side}_shrug"), c(f"{side}_raise"), c(f"{side}_front")
    # A third of an arm's rise above the horizontal comes from the shoulder girdle.
    lift = shrug + 0.33 * torch.nn.functional.softplus((raise_ - 1.3) * 6) / 6
    clavicle = turn(y, -sign * lift)
    put(f"{side}Shoulder", clavicle)
    aim = torch.stack([sign * raise_.sin() * front.cos(), -raise_.sin() * front.sin(), -raise_.cos()], -1)
    upper, fore = anatomy.bone(f"{side}Arm", f"{side}ForeArm"), anatomy.bone(f"{side}ForeArm", f"{side}Hand")
    swing = between(upper, aim) @ turn(upper, sign * c(f"{side}_arm_roll"))
    put(f"{side}Arm", clavicle.mT @ swing)
    hinge = unit(torch.linalg.cross(upper, fore))
    bent = torch.acos((upper @ fore).clamp(-1, 1))
    put(f"{side}ForeArm", turn(hinge, c(f"{side}_elbow") - bent) @ turn(fore, sign * 0.5 * c(f"{side}_forearm_roll")))
    across = unit(torch.linalg.cross(fore, anatomy.palm(side)))
    put(
        f"{side}Hand",
        turn(fore, sign * 0.5 * c(f"{side}_forearm_roll"))
        @ turn(across, c(f"{side}_wrist"))
        @ turn(anatomy.palm(side), sign * c(f"{side}_wrist_side")),
    )


def _hand(anatomy: Anatomy, side: str, c: Callable[[str], Tensor], put: Callable[[str, Tensor], None]) -> None:
    """Fingers by curl (0 straight, 1 fist) of each, and spread of all."""
    palm = anatomy.palm(side)
    sign = 1.0 if side == "Left" else -1.0
    for finger, fan, full in zip(FINGERS, (0.5, 0.16, 0.02, -0.10, -0.22), ((0.35, 0.7, 0.9), *((1.45, 1.7, 1.15),) * 4)):
        stem = f"{side}Hand{finger}"
        chain = [f"{side}Hand", f"{stem}1", f"{stem}2", f"{stem}3"]
        bones = [anatomy.bone(a, b) for a, b in pairwise(chain)]
        bones.append(bones[-1])
        inward = palm if finger != "Thumb" else unit(anatomy.bone(f"{stem}2", f"{side}HandPinky1") + 0.3 * palm)
        curl = c(f"{side}_{finger}").clamp(-0.08, 1.12)
        for i in range(3):
            axis = unit(torch.linalg.cross(bones[i + 1], inward))
            flat = unit(bones[i] - (bones[i] @ axis) * axis), unit(bones[i + 1] - (bones[i + 1] @ axis) * axis)
            rest = torch.atan2(torch.linalg.cross(*flat) @ axis, flat[0] @ flat[1])
            if finger == "Thumb" and i == 0:
                rest = torch.zeros_like(rest)  # the thumb's root has no straight line with the wrist to return to
            if i == 2:
                rest = rest + 0.1
            bend = turn(axis, full[i] * curl - rest * (1.0 if finger != "Thumb" else 0.6))
            put(f"{stem}{i + 1}", turn(palm, sign * fan * c(f"{side}_spread")) @ bend if i == 0 else bend)


def _legs(
    anatomy: Anatomy, c: Callable[[str], Tensor], R: Float[Tensor, "T J 3 3"], put: Callable[[str, Tensor], None]
) -> Float[Tensor, "T 3"]:
    """Leg rotations that put both feet where the controls say; the root's path, lowered where a leg would be too short."""
    feet = {side: _foot(anatomy, side, c) for side in SIDES}
    root = _standing_root(anatomy) + torch.stack([c("pelvis_x"), c("pelvis_y"), -c("drop")], -1)
    hips = {s: (R[:, 0] @ (anatomy.at(f"{s}UpLeg") - anatomy.joints[0])) for s in SIDES}
    root = root - lowered({side: root + hips[side] - feet[side][0] for side in SIDES}, anatomy)
    for side in SIDES:
        ankle, R_foot, R_toe, ahead = feet[side]
        hip = root + hips[side]
        R_thigh, R_shin = two_bones(anatomy, side, hip, ankle, unit(ahead - R[:, 0, :, 1]))
        put(f"{side}UpLeg", R[:, 0].mT @ R_thigh)
        put(f"{side}Leg", R_thigh.mT @ R_shin)
        put(f"{side}Foot", R_shin.mT @ R_foot)
        put(f"{side}ToeBase", R_foot.mT @ R_toe)
    return root


def _standing_root(anatomy: Anatomy) -> Float[Tensor, "3"]:
    """Where the root is when a person stands on both feet with nearly straight legs."""
    heights = []
    for side in SIDES:
        ankle = _foot(anatomy, side, lambda _: torch.zeros(1, dtype=torch.float64))[0][0]
        hip = anatomy.at(f"{side}UpLeg")
        heights.append(ankle[2] + (anatomy.leg(side) ** 2 - (hip - ankle)[:2].square().sum()).sqrt() - hip[2])
    return anatomy.joints[0] + torch.stack([heights[0] * 0, heights[0] * 0, torch.stack(heights).min()])


def _foot(anatomy: Anatomy, side: str, c: Callable[[str], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ankle position, world rotations of foot and toes, and the direction the foot points to.

    The heel rises about the ball of the foot while the toes stay flat; in the air the toes follow the foot.
    """
    x, y, z = torch.eye(3, dtype=torch.float64)
    yaw, pitch, lift = (c(f"{side}_foot_{n}") for n in ("yaw", "pitch", "lift"))
    heading = turn(z, yaw)
    R_foot = heading @ turn(x, pitch)
    R_toe = heading @ turn(x, pitch * (lift / 0.06).clamp(0, 1))
    wide = anatomy.at(f"{side}ToeBase")[0]
    narrow = torch.stack([wide.sign() * STANCE - wide, torch.zeros_like(wide), torch.zeros_like(wide)])
    ball = anatomy.at(f"{side}ToeBase") + narrow + torch.stack([c(f"{side}_foot_x"), c(f"{side}_foot_y"), lift - anatomy.floor], -1)
    ankle = ball + (R_foot @ (anatomy.at(f"{side}Foot") - anatomy.at(f"{side}ToeBase")))
    return ankle, R_foot, R_toe, (heading @ -y)


def lowered(gaps: Mapping[str, Float[Tensor, "T 3"]], anatomy: Anatomy, stretch: float = STRETCH) -> Float[Tensor, "T 3"]:
    """How far the pelvis must come down for both legs to span the gaps from ankle to hip, m; starts a little early, ends a little late.

    `stretch` is the longest leg as a fraction of thigh + shin.
    """
    excess = torch.zeros(len(next(iter(gaps.values()))), dtype=torch.float64)
    for side, gap in gaps.items():
        allowed = ((anatomy.leg(side) * stretch / STRETCH) ** 2 - gap[:, :2].square().sum(-1)).clamp_min(1e-4).sqrt()
        excess = torch.maximum(excess, gap[:, 2] - allowed)
    early = ndimage.maximum_filter1d(excess.numpy(), 9, mode="nearest")
    down = torch.from_numpy(ndimage.uniform_filter1d(early, 9, mode="nearest"))
    return down[:, None] * torch.eye(3, dtype=torch.float64)[2]


def two_bones(
    anatomy: Anatomy, side: str, hip: Float[Tensor, "T 3"], ankle: Float[Tensor, "T 3"], ahead: Float[Tensor, "T 3"]
) -> tuple[Float[Tensor, "T 3 3"], Float[Tensor, "T 3 3"]]:
    """World rotations of thigh and shin that reach from hip to ankle with the knee towards `ahead` (law of cosines)."""
    hinge = torch.eye(3, dtype=torch.float64)[0]
    thigh, shin = anatomy.at(f"{side}Leg") - anatomy.at(f"{side}UpLeg"), anatomy.at(f"{side}Foot") - anatomy.at(f"{side}Leg")
    a, b = thigh.norm(), shin.norm()
    way = ankle - hip
    d = way.norm(dim=-1, keepdim=True).clamp(max=float(a + b) * 0.9999)
    along = unit(way)
    forward = unit(ahead - (ahead * along).sum(-1, keepdim=True) * along)
    cosine = ((a * a + d * d - b * b) / (2 * a * d)).clamp(-1, 1)
    knee = hip + a * (cosine * along + (1 - cosine * cosine).sqrt() * forward)
    normal = torch.linalg.cross(forward, along)
    R_thigh = frames(knee - hip, normal) @ frames(thigh, hinge).mT
    R_shin = frames(ankle - knee, normal) @ frames(shin, hinge).mT
    return R_thigh, R_shin

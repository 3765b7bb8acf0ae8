"""Limbs of two bones: bent to reach a goal, feet that stand, hips low enough for both, twist shared along a limb."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rigs import rotation
from rigs.bones import Mapping
from rigs.characters.character import Character

STRETCH = 0.9995
"""Limbs are straightened to this part of their length at most."""
STANDING = 0.998
"""Hips come down until standing legs are this part of their length: straighter knees snap."""
SOFT_LEG = 1 - STANDING
SOFT = {"body": 0.01, "world": 0.05}
"""Part of an arm's length over which it yields: goals in the room are often out of reach, those relative to the body hardly ever."""
POLE = 0.05
"""How much the anatomical direction of a knee or elbow counts beside the one it has, as part of the upper bone."""
NEAR, FAR = 0.03, 0.12
"""A sole lower than NEAR must be where it is wanted, one higher than FAR need not pull the hips down, m."""
SURFACE = 0.06
"""A contact within half of this of the floor is on it; beyond it, on something else; m."""
HOLD = 0.08
"""A contact shorter than this is none, s."""
LEAN = 0.015
"""Height difference of heel and ball at which the lower one decides where the foot is, m."""


def swing(a: Float[Tensor, "T 3"], b: Float[Tensor, "T 3"]) -> Float[Tensor, "T 3 3"]:
    """The smallest rotation from one direction to another."""
    axis = torch.linalg.cross(a, b, dim=-1)
    sine, cosine = axis.norm(dim=-1, keepdim=True), (a * b).sum(-1, keepdim=True)
    return rotation.exp(axis / sine.clamp_min(1e-12) * torch.atan2(sine, cosine))


def bent(
    character: Character,
    R: Float[Tensor, "T J 3 3"],
    p: Float[Tensor, "T J 3"],
    limb: list[int],
    goal: Float[Tensor, "T 3"],
    pole: Float[Tensor, "T 3"],
    soft: float = 0.0,
) -> Float[Tensor, "T J 3 3"]:
    """World rotations with the limb (upper, middle, end joint) bent so that its end is at the goal; the end keeps its own rotation.

    The plane of the bend stays the one it was in; a nearly straight limb bends towards `pole`. A goal too far is pointed at.
    The last part `soft` of its length a limb gives up more and more slowly, so that it does not snap straight.
    """
    upper, middle, end = (p[:, j] for j in limb)
    a, b = (middle - upper).norm(dim=-1, keepdim=True), (end - middle).norm(dim=-1, keepdim=True)
    way = goal - upper
    far = way.norm(dim=-1, keepdim=True)
    along = way / far.clamp_min(1e-9)
    far = _reachable(far, STRETCH * (a + b), soft).maximum((a - b).abs() + 1e-3 * a)
    side = middle - upper + POLE * a * pole
    # The bend's plane is carried with the limb: first the old line is turned onto the new one.
    old = end - upper
    carry = swing(old / old.norm(dim=-1, keepdim=True).clamp_min(1e-9), along)
    side = (carry @ side[..., None])[..., 0]
    side = side - (side * along).sum(-1, keepdim=True) * along
    side = side / side.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    cosine = ((a * a + far * far - b * b) / (2 * a * far)).clamp(-1, 1)
    knee = upper + a * (cosine * along + (1 - cosine * cosine).sqrt() * side)
    reached = upper + far * along
    thigh = _turn(middle - upper, knee - upper, carry)
    shin = _turn(end - middle, reached - knee, carry)
    below = [set(character.below(j)) for j in limb]
    R = R.clone()
    only_upper, only_middle = sorted(below[0] - below[1]), sorted(below[1] - below[2])
    R[:, only_upper] = thigh[:, None] @ R[:, only_upper]
    R[:, only_middle] = shin[:, None] @ R[:, only_middle]
    return R


def _reachable(far: Float[Tensor, "T 1"], most: Float[Tensor, "T 1"], soft: float) -> Float[Tensor, "T 1"]:
    """How far a limb goes for a goal at a distance: all the way until near its length, which it approaches exponentially."""
    if not soft:
        return far.minimum(most)
    room = soft * most
    over = (far - most + room).clamp_min(0)
    return torch.where(over > 0, most - room + room * (1 - torch.exp(-over / room)), far)


def _turn(old: Tensor, new: Tensor, carry: Tensor) -> Float[Tensor, "T 3 3"]:
    """Rotation of a bone from an old to a new direction, by way of what carries the whole limb."""
    a = (carry @ (old / old.norm(dim=-1, keepdim=True).clamp_min(1e-9))[..., None])[..., 0]
    return swing(a, new / new.norm(dim=-1, keepdim=True).clamp_min(1e-9)) @ carry


def soles(ankle: Float[Tensor, "3"], ball: Float[Tensor, "3"] | None, floor: float) -> Float[Tensor, "2 3"]:
    """Heel and ball of a foot at rest relative to its ankle, on the floor; m. Without a toe joint the foot is taken for ordinary."""
    height = float(ankle[2]) - floor
    forward = ankle.new_tensor([0.0, -max(1.4 * height, 1e-3), 0.0]) if ball is None else (ball - ankle) * ankle.new_tensor([1.0, 1.0, 0.0])
    down = ankle.new_tensor([0.0, 0.0, -height])
    return torch.stack([-0.35 * forward + down, forward + down])


def standing(
    touching: Float[Tensor, "T 2 3"], offsets: Float[Tensor, "T 2 3"], contacts: Float[Tensor, "T 2"], fps: float
) -> tuple[Float[Tensor, "T 3"], Float[Tensor, "T"]]:
    """Where an ankle must be so that heel and ball (`offsets` from it) are where they are wanted, and how near the floor the sole is.

    The lower of the two decides; what is in contact stays at one place.
    """
    lean = torch.sigmoid((touching[:, 0, 2] - touching[:, 1, 2]) / LEAN)[:, None]
    ankle = (1 - lean) * (touching[:, 0] - offsets[:, 0]) + lean * (touching[:, 1] - offsets[:, 1])
    low = torch.minimum(touching[:, 0, 2], touching[:, 1, 2])
    weight = 1 - ((low - NEAR) / (FAR - NEAR)).clamp(0, 1)
    return ankle + _locked(ankle[:, None] + offsets, contacts, fps), weight


def _locked(points: Float[Tensor, "T 2 3"], contacts: Float[Tensor, "T 2"], fps: float) -> Float[Tensor, "T 3"]:
    """Correction of an ankle that keeps heel and ball still, and on the floor, while they are in contact; in between it changes evenly.

    Where both are in contact and disagree, because the foot turns, the likelier one slips less. A foot stays near where it was on the
    whole, and one that is in contact well above the floor is on something else and keeps its height.
    """
    on = contacts > 0.5
    known, wanted = torch.zeros(len(points), dtype=torch.bool), torch.zeros_like(points[:, 0])
    for first, last in runs(on.any(1), max(2, round(HOLD * fps))):
        both = (on[first + 1 : last] & on[first : last - 1]) * (contacts[first + 1 : last] * contacts[first : last - 1]).square()
        step = points[first + 1 : last] - points[first : last - 1]
        slip = (both[..., None] * step).sum(1) / both.sum(1, keepdim=True).clamp_min(1e-12)
        still = torch.cat([torch.zeros_like(slip[:1]), -slip.cumsum(0)])
        low = points[first:last, :, 2].min(1).values
        still = still - still.median(0).values
        still[:, 2] = -low * ((SURFACE - low.abs()) / (SURFACE / 2)).clamp(0, 1)
        wanted[first:last], known[first:last] = still, True
    return _between(wanted, known)


def _between(values: Float[Tensor, "T 3"], known: Bool[Tensor, "T"]) -> Float[Tensor, "T 3"]:
    """Values where they are known, and smoothly from one to the next where they are not; the first and last go on."""
    frames = torch.nonzero(known)[:, 0]
    if not len(frames):
        return torch.zeros_like(values)
    given = values[frames]
    at = torch.arange(len(values)).clamp(int(frames[0]), int(frames[-1]))
    after = torch.searchsorted(frames, at)
    before = (after - (frames[after] > at).long()).clamp_min(0)
    span = (frames[after] - frames[before]).clamp_min(1)
    part = ((at - frames[before]) / span)[:, None].to(values.dtype)
    part = part * part * (3 - 2 * part)
    return given[before] + part * (given[after] - given[before])


def runs(on: Tensor, least: int) -> list[tuple[int, int]]:
    """First and one past the last frame of every stretch of at least so many frames that are on."""
    edge = torch.diff(torch.cat([on.new_zeros(1), on, on.new_zeros(1)]).int())
    starts, stops = (edge == 1).nonzero()[:, 0].tolist(), (edge == -1).nonzero()[:, 0].tolist()
    return [(a, b) for a, b in zip(starts, stops) if b - a >= least]


def lowering(
    hips: dict[str, Float[Tensor, "T 3"]],
    ankles: dict[str, Float[Tensor, "T 3"]],
    weights: dict[str, Float[Tensor, "T"]],
    lengths: dict[str, float],
    fps: float,
) -> Float[Tensor, "T"]:
    """How far the hips must come down so that legs of these lengths reach, m; smooth over a tenth of a second, never too little."""
    need = torch.zeros_like(next(iter(weights.values())))
    for side, hip in hips.items():
        away = hip - ankles[side]
        reach = STANDING * lengths[side]
        level = away[:, :2].square().sum(-1)
        allowed = (reach * reach - level).clamp_min(0).sqrt()
        need = torch.maximum(need, weights[side] * (away[:, 2] - allowed).clamp_min(0))
    half = max(1, round(0.1 * fps))
    if float(need.max()) == 0:
        return need
    widest = torch.nn.functional.max_pool1d(need[None, None], 2 * half + 1, 1, half)
    kernel = torch.hann_window(2 * half + 3, periodic=False, dtype=need.dtype)[1:-1]
    padded = torch.nn.functional.pad(widest, (half, half), mode="replicate")
    return torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[0, 0]


def twisted(
    character: Character, mapping: Mapping, R_rest: Float[Tensor, "J 3 3"], p_rest: Float[Tensor, "J 3"], R: Float[Tensor, "T J 3 3"]
) -> Float[Tensor, "T J 3 3"]:
    """Twist joints of limbs given their share: along a forearm or shin of the hand's or foot's twist, along an upper bone of its own."""
    child = {"Arm": "ForeArm", "ForeArm": "Hand", "UpLeg": "Leg", "Leg": "Foot"}
    R = R.clone()
    for j, part in mapping.served.items():
        side, kind = ("Left" if part.startswith("Left") else "Right"), part.removeprefix("Left").removeprefix("Right")
        bone, end = mapping.joints[part], mapping.joints.get(side + child[kind])
        if end is None:
            continue
        way = p_rest[end] - p_rest[bone]
        length = way.norm().clamp_min(1e-9)
        share = float(((p_rest[j] - p_rest[bone]) @ way / length**2).clamp(0, 1))
        lower = kind in ("ForeArm", "Leg")
        other = end if lower else character.parents[bone]
        own, beside = R[:, bone] @ R_rest[bone].T, R[:, other] @ R_rest[other].T
        angle = _twist(own.mT @ beside, way / length)
        turn = rotation.exp((share if lower else 1 - share) * angle[:, None] * (way / length))
        below = character.below(j)
        fixed = own @ turn @ own.mT
        R[:, below] = fixed[:, None] @ R[:, below]
    return R


def _twist(R: Float[Tensor, "T 3 3"], axis: Float[Tensor, "3"]) -> Float[Tensor, "T"]:
    """The part of rotations that is about an axis, rad, without jumps over time."""
    q = rotation.quaternion(R)
    angle = 2 * torch.atan2(q[:, 1:] @ axis, q[:, 0])
    step = torch.diff(angle, prepend=angle[:1])
    return angle - 2 * torch.pi * torch.cumsum(torch.round(step / (2 * torch.pi)), 0)

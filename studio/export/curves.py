"""What animators ask of a motion before it becomes a file: smoothed, mirrored, looped. Nothing here happens unless asked for."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from rigs import rotation
from rigs.body import Body
from studio.export.animation import in_pieces
from studio.export.glb import continuous
from studio.values import Motion

Smooth = Literal["off", "butterworth", "one_euro"]
ORDER = 2
"""Of the Butterworth filter; forwards and backwards it acts as one of twice that."""
TRAVEL = 0.25
"""A performer who ends farther than this from where the clip began walks; a loop then keeps the path over the floor, m."""
_CONTACT_SWAP = [2, 3, 0, 1, 6, 7, 4, 5]


def smoothed(motion: Motion, how: Smooth, cutoff: float, beta: float = 0.5) -> Motion:
    """The motion with less jitter: rotations (as quaternions), root position and face; `cutoff` in Hz.

    "butterworth": zero-phase, second order forwards and backwards, half the power passes at the cutoff. "one_euro" (Casiez et al. 2012,
    run forwards): its cutoff grows by `beta` Hz for each rad/s, m/s or face weight a second, so that quick moves lag less.
    """
    if how == "off":
        return motion
    if not 0 < cutoff < motion.fps / 2:
        raise ValueError(f"export: cutoff {cutoff:g} Hz must lie between 0 and half the frame rate, {motion.fps / 2:g} Hz")

    def calm(values: Tensor, groups: int) -> Tensor:
        if how == "butterworth":
            return _butterworth(values, cutoff, motion.fps)
        return _one_euro(values, groups, cutoff, beta, motion.fps)

    J = motion.rotation.shape[1]
    turns = continuous(in_pieces(rotation.quaternion, rotation.exp(motion.rotation.double())))
    # a quaternion runs half as fast as the rotation it stands for
    quieted = calm(2 * turns.flatten(1), J).unflatten(1, (J, 4))
    face = motion.expression.double()
    quiet_face = calm(face, max(face.shape[1], 1)).clamp(face.amin(0), face.amax(0))  # a filter's ringing must not close shut eyes twice
    vectors = in_pieces(lambda q: rotation.log(rotation.matrix(q)), quieted)
    return replace(
        motion,
        rotation=vectors.to(motion.rotation.dtype),
        translation=calm(motion.translation.double(), 1).to(motion.translation.dtype),
        expression=quiet_face.to(motion.expression.dtype),
    )


def _butterworth(values: Float[Tensor, "T N"], cutoff: float, fps: float) -> Float[Tensor, "T N"]:
    if len(values) < 2 or not values.shape[1]:
        return values
    # Forwards and backwards halves the power twice at a filter's own cutoff; this shift puts -3 dB back where it was asked for.
    shifted = min(math.tan(math.pi * cutoff / fps) / (math.sqrt(2) - 1) ** (1 / (2 * ORDER)), 1e6)
    sections = butter(ORDER, math.atan(shifted) / math.pi * fps, fs=fps, output="sos")
    ahead = min(len(values) - 1, round(2 * fps / cutoff))
    return torch.from_numpy(sosfiltfilt(sections, values.numpy(), axis=0, padlen=ahead).copy())


def _one_euro(values: Float[Tensor, "T N"], groups: int, cutoff: float, beta: float, fps: float) -> Float[Tensor, "T N"]:
    """Columns of a group share one speed, that of the group's vector, and with it one cutoff."""
    if not values.shape[1]:
        return values
    rows = values.unflatten(1, (groups, -1))
    now, speed, kept = rows[0], torch.zeros_like(rows[0, :, :1]), [rows[0]]
    slow = _share(torch.tensor(1.0, dtype=values.dtype), fps)
    for before, row in itertools.pairwise(rows):
        speed = speed + slow * ((row - before).norm(dim=-1, keepdim=True) * fps - speed)
        now = now + _share(cutoff + beta * speed, fps) * (row - now)
        kept.append(now)
    return torch.stack(kept).flatten(1)


def _share(cutoff: Tensor, fps: float) -> Tensor:
    """How much of a new value a first-order low-pass takes."""
    return 1 / (1 + fps / (2 * math.pi * cutoff))


def mirrored(motion: Motion, body: Body) -> Motion:
    """Left for right: the performance as a mirror in the world's plane x = 0 shows it. The body itself keeps its shape."""
    skeleton = body.skeleton
    other = torch.tensor(skeleton.mirrored())
    swap = {"Left": "Right", "Right": "Left"}
    names = body.expression_names
    opposite = [next((n[: -len(s)] + t for s, t in swap.items() if n.endswith(s)), n) for n in names]
    faces = torch.tensor([names.index(o) if o in names else k for k, o in enumerate(opposite)], dtype=torch.long)
    across = torch.tensor([-1.0, 1.0, 1.0], dtype=motion.translation.dtype)
    return replace(
        motion,
        rotation=motion.rotation[:, other] * -across.to(motion.rotation.dtype),  # a rotation vector is axial: its x stays
        translation=motion.translation * across,
        expression=motion.expression[:, faces],
        sigma=motion.sigma[:, other],
        contacts=motion.contacts[:, _CONTACT_SWAP[: motion.contacts.shape[1]]],
    )


def looped(motion: Motion, seconds: float) -> Motion:
    """The last `seconds` lead into the first frame, so that the clip can be repeated; its last frame is its first.

    Rotations take the difference along the shorter arc, everything else linearly, with a share that eases in and out. A walker (one
    who ends more than `TRAVEL` away from the beginning) keeps the path over the floor.
    """
    count = min(round(seconds * motion.fps), len(motion.translation) - 1)
    if seconds < 0:
        raise ValueError(f"export: loop {seconds:g} s must not be negative")
    if count < 1:
        return motion
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    share = t * t * (3 - 2 * t)
    R = rotation.exp(motion.rotation.double())
    left = rotation.log(R[0] @ R[-1].mT)
    turned = rotation.log(rotation.exp(share[:, None, None] * left) @ R[-count:])
    gap = (motion.translation[0] - motion.translation[-1]).double()
    if float(gap[:2].norm()) > TRAVEL:
        gap = gap * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)

    def led(values: Tensor, missing: Tensor) -> Tensor:
        return torch.cat([values[:-count], (values[-count:].double() + share[:, None] * missing).to(values.dtype)])

    return replace(
        motion,
        rotation=torch.cat([motion.rotation[:-count], turned.to(motion.rotation.dtype)]),
        translation=led(motion.translation, gap),
        expression=led(motion.expression, (motion.expression[0] - motion.expression[-1]).double()),
    )

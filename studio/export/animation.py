"""One actor's animation in animators' conventions: y up, facing +z, metres, double precision, relative to a chosen rest pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.body import Body, Shaped
from rigs.skeleton import Skeleton
from studio.export import timecode
from studio.export.rest import t_pose, tips
from studio.values import Motion

Rest = Literal["t", "a"]
TO_Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
"""Rotation from the studio's world (z up; a body at rest faces -y) to animators' (y up; it faces +z). Left stays at +x."""


PIECE = 2000
"""Frames whose rotations are worked out at once: what comes in between is many times larger than what goes in and out."""


def in_pieces(function: Callable[[Tensor], Tensor], values: Float[Tensor, "T ..."]) -> Float[Tensor, "T ..."]:
    """`function` of every frame, some frames at a time."""
    return torch.cat([function(part) for part in values.split(PIECE)])


def y_up(points: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """World points (or directions) with y up."""
    return points @ TO_Y_UP.to(points.dtype).T


@dataclass(frozen=True)
class Character:
    """A skeleton, its skin and its animation. Every joint's frame is parallel to the world in the rest pose `rest`."""

    actor: str
    shaped: Shaped
    """The person, still in the studio's axes: source of mesh, weights and face."""
    bind: Float[Tensor, "J 3"]
    """Joint centres in the pose the mesh was modelled in, m."""
    R_rest_bind: Float[Tensor, "J 3 3"]
    """Rotation of each joint from the pose the mesh was modelled in to the rest pose; identity where they are the same."""
    rest: Float[Tensor, "J 3"]
    """Joint centres in the rest pose, soles on y = 0, m."""
    ends: dict[int, Float[Tensor, "3"]]
    """Where the bones of childless joints end in the rest pose, m."""
    R_parent_joint: Float[Tensor, "T J 3 3"]
    """Local joint rotations; identity everywhere is the rest pose."""
    root: Float[Tensor, "T 3"]
    """Position of the root joint, m."""
    expression: Float[Tensor, "T E"]
    fps: float
    first_frame: int
    timecode: str
    start: int
    """Frame number of the first frame since 00:00:00:00, at this rate."""
    sigma: Float[Tensor, "T B"]
    """Standard deviation of the position of each of the body's joints, m."""
    contacts: Float[Tensor, "T 8"]
    """Probability that heels, toes and hands are planted, as in `Motion`."""
    rebound: bool = False
    """Whether the mesh itself is brought to the rest pose and bound there."""
    above: tuple[str, ...] = ()
    """Bones in front of the body's joints: the first is the top bone, the others hang below it, as do the hips."""
    hips: Float[Tensor, "T 3"] | None = None
    """Position of the hips in the top bone's frame, m; None where they are the top themselves."""

    @cached_property
    def skeleton(self) -> Skeleton:
        """Joint names and parents, with the bones above the body."""
        body, extra = self.shaped.body.skeleton, len(self.above)
        if not extra:
            return body
        parents = (-1, *(0,) * (extra - 1), 0, *(p + extra for p in body.parents[1:]))
        return Skeleton((*self.above, *body.names), parents)

    @property
    def places(self) -> dict[int, Float[Tensor, "T 3"]]:
        """Joint -> its position in its parent's frame, m, for the joints that move against their parents."""
        return {0: self.root} if self.hips is None else {0: self.root, len(self.above): self.hips}

    @property
    def offsets(self) -> Float[Tensor, "J 3"]:
        """Each joint from its parent in the rest pose, m; the root from the origin."""
        parents = torch.tensor(self.skeleton.parents)
        return torch.where(parents[:, None] < 0, self.rest, self.rest - self.rest[parents.clamp_min(0)])

    @property
    def inverse_bind(self) -> Float[Tensor, "J 4 4"]:
        """From the mesh to each joint's frame: world joint matrix @ inverse bind carries a vertex.

        Linear blend skinning cannot be bound anew without loss. Unless `rebound`, the mesh stays as it was modelled whatever the rest
        pose, and moves exactly as the body model; but programs that take the pose a mesh is bound in for the rest pose (Blender,
        Unreal) then show the model's own. `mesh.surface` says what a rebound mesh is.
        """
        R = torch.eye(3, dtype=self.bind.dtype).expand(len(self.bind), 3, 3) if self.rebound else self.R_rest_bind
        centre = self.rest if self.rebound else self.bind
        matrices = torch.eye(4, dtype=self.bind.dtype).repeat(len(self.bind), 1, 1)
        matrices[:, :3, :3] = R
        matrices[:, :3, 3] = -(R @ centre[..., None])[..., 0]
        return matrices


def checked(motion: Motion, body: Body) -> None:
    """Raise a `ValueError` naming actor, field, frame and joint where a motion does not fit its body or holds what is not finite."""
    who = f"motion of {motion.actor!r}"
    if motion.joints != body.skeleton.names:
        raise ValueError(f"{who}: its joints are not those of body {body.name!r}; fit the take again")
    for field, wanted in (("shape", len(body.shape_names)), ("expression", len(body.expression_names))):
        if (found := getattr(motion, field).shape[-1]) != wanted:
            raise ValueError(f"{who}: {field} has {found} values, body {body.name!r} needs {wanted}; fit the take again")
    if not len(motion.translation):
        raise ValueError(f"{who}: has no frames; fit the take again")
    if not bool(torch.isfinite(motion.shape).all()):
        raise ValueError(f"{who}: shape holds a value that is not finite; fit the take again")
    root = (motion.joints[0],) * 3
    feet = tuple(f"{s} {p}" for parts in (("heel", "toe"), ("hand", "fingertips")) for s in ("left", "right") for p in parts)
    fields = {"translation": root, "rotation": motion.joints, "expression": body.expression_names, "sigma": motion.joints, "contacts": feet}
    for field, names in fields.items():
        wrong = (~torch.isfinite(getattr(motion, field))).nonzero()
        if len(wrong):
            where = f"{names[int(wrong[0][1])]} at frame {motion.first_frame + int(wrong[0][0])}"
            raise ValueError(f"{who}: {field} of {where} is not finite ({len(wrong)} values in all); fit the take again")


def character(motion: Motion, body: Body, rest: Rest = "t", rebound: bool = False) -> Character:
    """The motion re-expressed on a rest pose; joint positions are unchanged, and so is the skinned mesh unless it is `rebound`.

    With R_t the world rotation of a joint from the model's rest to the new one, local rotations become R_t[parent] R_local R_t[joint]^T.
    """
    if rest not in ("t", "a"):
        raise ValueError(f"rest pose {rest!r} is none of ['t', 'a']")
    checked(motion, body)
    shaped = body.to(dtype=torch.float64).shaped(motion.shape.double())
    skeleton, parents = shaped.body.skeleton, shaped.body.skeleton.parents
    R_t = t_pose(shaped) if rest == "t" else torch.eye(3, dtype=torch.float64).expand(len(skeleton), 3, 3)
    above = torch.stack([R_t[p] if p >= 0 else torch.eye(3, dtype=torch.float64) for p in parents])
    stand = shaped.posed(rotation.log(above.mT @ R_t), shaped.joints[0])
    lift = stand.vertices()[:, 2].min() if rest == "t" else 0.0
    drop = torch.tensor([0.0, 0, 1], dtype=torch.float64) * lift
    index = {name: skeleton.index(name) for name in tips(shaped)}
    ends = {index[n]: stand.joints[index[n]] + R_t[index[n]] @ (p - shaped.joints[index[n]]) - drop for n, p in tips(shaped).items()}
    turn = TO_Y_UP

    def local(vectors: Tensor) -> Tensor:
        return turn @ (above @ rotation.exp(vectors.double()) @ R_t.mT) @ turn.T

    return Character(
        actor=motion.actor,
        shaped=shaped,
        bind=y_up(shaped.joints),
        R_rest_bind=turn @ R_t @ turn.T,
        rest=y_up(stand.joints - drop),
        ends={j: y_up(p) for j, p in ends.items()},
        R_parent_joint=in_pieces(local, motion.rotation),
        root=y_up(motion.translation.double()),
        expression=motion.expression.double(),
        fps=motion.fps,
        first_frame=motion.first_frame,
        timecode=motion.timecode,
        start=timecode.frames(motion.timecode, motion.fps) + motion.first_frame,
        sigma=motion.sigma.double(),
        contacts=motion.contacts.double(),
        rebound=rebound,
    )


def resampled(character: Character, fps: float) -> Character:
    """The same animation at another rate, never past its end: rotations along the shorter arc, places and face weights linearly."""
    if not 0 < fps <= 1000:
        raise ValueError(f"export: fps {fps:g} must lie between 0 and 1000")
    last = len(character.root) - 1
    if abs(fps - character.fps) < 1e-6 or not last:
        return replace(character, fps=fps)
    count = int(last / character.fps * fps + 1e-6) + 1
    at = (torch.arange(count, dtype=torch.float64) * character.fps / fps).clamp(max=last)
    before = at.floor().long().clamp(max=last - 1)
    part = at - before

    def between(values: Tensor) -> Tensor:
        return torch.lerp(values[before], values[before + 1], part[:, None])

    turns = in_pieces(rotation.quaternion, character.R_parent_joint)
    blended = rotation.slerp(turns[before], turns[before + 1], part[:, None].expand(-1, turns.shape[1]))
    return replace(
        character,
        R_parent_joint=in_pieces(rotation.matrix, blended),
        root=between(character.root),
        hips=None if character.hips is None else between(character.hips),
        expression=between(character.expression),
        sigma=between(character.sigma),
        contacts=between(character.contacts),
        fps=fps,
        first_frame=round(character.first_frame * fps / character.fps),
        start=round(character.start * fps / character.fps),
    )

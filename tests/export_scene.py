"""A small skinned person with face shapes, texture and keypoints, and a motion that is unkind to file formats."""

import math
from dataclasses import replace

import torch
from bodies import stick_person

from rigs.body import Body, Skin
from studio.values import Motion

FRAMES = 61


def person(points: int = 330) -> Body:
    """The stick person with triangles, texture seams, three face shapes (one of them empty) and eleven keypoints."""
    g = torch.Generator().manual_seed(5)
    body = stick_person(points=points, expressions=3)
    basis = body.skin.expression_basis.clone()
    basis[..., 1] = 0
    joint_of = {"shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand", "knee": "Leg", "ankle": "Foot"}
    names = tuple(f"{s}_{k}" for k in joint_of for s in ("left", "right"))
    near = [body.skeleton.index(f"{s}{j}") for j in joint_of.values() for s in ("Left", "Right")] + [body.skeleton.index("Head")]
    names = (*names, "nose")
    weights = torch.nn.functional.one_hot(torch.tensor(near), len(body.skeleton)).double()
    keypoints = Skin(body.joints[near] + 0.01, torch.zeros(len(near), 3, 6).double(), torch.zeros(len(near), 3, 3).double(), weights)
    triangles = torch.randperm(points, generator=g).reshape(-1, 3)
    triangles = torch.cat([triangles, torch.randperm(points, generator=g).reshape(-1, 3)])
    return replace(
        body,
        joint_shape_basis=0.1 * body.joint_shape_basis,  # fingers stay fingers
        skin=replace(body.skin, expression_basis=basis),
        triangles=triangles,
        uv=torch.randint(0, 8, (len(triangles), 3, 2), generator=g) / 8,
        expression_names=("jawOpen", "tongueOut", "mouthSmileLeft"),
        keypoint_names=names,
        keypoints=keypoints,
    )


def motion(body: Body, frames: int = FRAMES, seed: int = 1) -> Motion:
    """Two full turns of the hips, arms through gimbal lock of every order and past 180 degrees, everything else swinging."""
    g = torch.Generator().manual_seed(seed)
    J, t = len(body.skeleton), torch.linspace(0, 1, frames).double()
    phase, speed, size = (torch.rand(3, J, 3, generator=g).double() + 0.2).unbind(0)
    rotation = 0.4 * size * torch.sin(6 * speed * t[:, None, None] + 6 * phase)
    rotation[:, 0] = torch.stack([0 * t, 0 * t, 4 * math.pi * t], -1)
    for name, axis in (("LeftArm", 0), ("RightArm", 1), ("LeftForeArm", 2)):
        rotation[:, body.skeleton.index(name)] = torch.eye(3).double()[axis] * (2 * math.pi * t[:, None] - math.pi / 2)
    return Motion(
        body=body.name,
        actor="ann",
        joints=body.skeleton.names,
        fps=30000 / 1001,
        first_frame=120,
        timecode="01:00:00:00",
        shape=torch.randn(len(body.shape_names), generator=g).double(),
        translation=torch.stack([2 * t, 0.5 * torch.sin(9 * t), 0.95 + 0.05 * torch.cos(20 * t)], -1),
        rotation=rotation,
        expression=torch.stack([0.5 + 0.5 * torch.sin(7 * t), 0 * t, t], -1)[:, : len(body.expression_names)],
        sigma=0.002 + 0.001 * torch.rand(frames, J, generator=g).double(),
        contacts=torch.zeros(frames, 4).double(),
    )


def truth(body: Body, motion: Motion):
    """The studio's own posed person, in double precision."""
    return (
        body.to(dtype=torch.float64)
        .shaped(motion.shape.double())
        .posed(motion.rotation.double(), motion.translation.double(), motion.expression.double())
    )


def y_up(points: torch.Tensor) -> torch.Tensor:
    """World (z up, facing -y) to file axes (y up, facing +z), spelled out."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], -1)

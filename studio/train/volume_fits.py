"""Bodies from volumes: the solver on keypoints and a volume's surface, beside a network of the same size that regresses parameters."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calibration.cameras import Cameras
from calibration.triangulate import triangulate
from rigs import makehuman, rotation
from rigs.anatomy import anatomy
from rigs.body import Skin
from studio.fit import initial, pulls
from studio.fit.clouds import Cloud
from studio.fit.locked import LOCKED, with_locked_joints
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors
from studio.fit.solve import Problem, settle, settle_shape
from studio.fit.state import Pull, State
from studio.fit.surface import Surface
from studio.fit.surface import sampled as spread_out
from studio.fit.volumes import cloud_of, with_cloud
from studio.nets.shape import JOINTS, KEYPOINTS, SIZE, WINDOW, Residual
from studio.nets.volume import Grid, Volume, features
from studio.train import voxels
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.sampled import Limbed, Sampled
from studio.train.shape import joint_rows

KEYPOINT, CLOUD = 0.02, 0.12
"""How far triangulated keypoints and a volume's surface lie from the body, m. The surface's points err together: 1,500 of them, some 2 cm
off, count here as some 50 that err each for itself."""
BATCH = 8


class Regressor(nn.Module):
    """`Volume`'s encoder to parameters, with about as many weights as `Volume` has."""

    def __init__(self, size: int, shapes: int, width: int = 256) -> None:
        super().__init__()
        self.volume = Volume()
        for part in ("up", "last", "narrow", "cells"):
            delattr(self.volume, part)
        self.joined = nn.Linear(64 * (size // 16) ** 3, width)
        self.units = Residual(width)
        self.out = nn.Linear(width, 6 * len(JOINTS) + shapes + 3)
        self.shapes = shapes
        nn.init.normal_(self.out.weight, std=0.01)
        with torch.no_grad():
            self.out.bias.zero_()
            self.out.bias[: 6 * len(JOINTS)] = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(len(JOINTS))

    def forward(self, x: Float[Tensor, "B F h h h"]) -> tuple[Tensor, Tensor, Tensor]:
        """Rotations of `JOINTS` (the root's in the grid's axes), shape, and the root in the grid, m."""
        y = self.out(self.units(torch.relu(self.joined(self.volume.encoded(x)[-1].flatten(1)))))
        turns, shape, root = y.split([6 * len(JOINTS), self.shapes, 3], -1)
        return rotation.from_6d(turns.unflatten(-1, (-1, 6))), shape, root


def inputs(people: Sampled, grid: Grid, size: int) -> Tensor:
    """What either network is fed, from all views."""
    return features(people.masks.float() / 255, people.keypoints, people.sight, grid, size=size)[0]


def regressor(people: Sampled, grid: Grid, loop: Loop, size: int, state: Path | None = None) -> Regressor:
    """Trained on vertices and parameters."""
    torch.manual_seed(loop.seed)
    network, body = Regressor(size, people.shape.shape[1]), Limbed.made()
    rows = joint_rows()

    def batches(step: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(loop.seed * 100_003 + step)
        which = torch.randint(len(people), (BATCH,), generator=g)
        some, own = people[which], Grid(grid.centre[which], grid.R_grid_world[which])
        R = some.R[:, rows]
        R[:, 0] = own.R_grid_world @ R[:, 0]
        root = (own.R_grid_world @ (some.root - own.centre)[..., None])[..., 0]
        return {"x": inputs(some, own, size), "R": R, "root": root, "shape": some.shape}

    def loss(b: dict[str, Tensor]) -> Losses:
        R, shape, root = network(b["x"])
        true = body.points(b["shape"], b["R"], body.vertices) + b["root"][:, None]
        own = body.points(shape, R, body.vertices) + root[:, None]
        turns = (R - b["R"]).square().sum((-1, -2)).mean()
        return {"vertices": (own - true).norm(dim=-1).mean() / 0.1, "turns": turns, "shape": 0.05 * (shape - b["shape"]).square().mean()}

    learn(Player(network, loss, rate=1e-3, average=0.98), batches, replace(loop, recipe={"arm": "regressor", "size": size}), state)
    return network


@torch.no_grad()
def regressed(network: Regressor, people: Sampled, grid: Grid, size: int, each: int) -> tuple[State, Tensor]:
    """Poses, and one shape for each person's `each` moments: the mean of what they tell."""
    parts = []
    for i in range(0, len(people), 8):
        some, own = people[i : i + 8], Grid(grid.centre[i : i + 8], grid.R_grid_world[i : i + 8])
        R, shape, root = network(inputs(some, own, size))
        R[:, 0] = own.R_grid_world.mT @ R[:, 0]
        parts.append((R, shape, (own.R_grid_world.mT @ root[..., None])[..., 0] + own.centre))
    R, shape, root = (torch.cat(x) for x in zip(*parts))
    body = makehuman.load()
    whole = torch.eye(3).repeat(len(R), len(body.skeleton), 1, 1)
    whole[:, joint_rows()] = R
    shape = shape.view(-1, each, shape.shape[-1]).mean(1).repeat_interleave(each, 0)
    return State(whole, root, torch.zeros(len(R), len(body.expression_names))), shape


def triangulated(people: Sampled) -> Float[Tensor, "N K 3"]:
    """Keypoints in space from all views of every person, m; NaN where views do not agree."""
    sight, out = people.sight, []
    V = sight.distance.shape[1]
    full = torch.full((V, 2), float(SIZE), dtype=torch.float64)
    for i in range(len(people)):
        focal = (sight.distance[i, :, None].double() / (WINDOW / 2) * SIZE / 2).expand(-1, 2)
        names = tuple(str(v) for v in range(V))
        position, R = sight.position[i].double(), sight.R_view_world[i].double()
        lens = ("brown",) * V
        cameras = Cameras(names, full, focal, (full - 1) / 2, torch.zeros(V, 8).double(), lens, R, position)  # type: ignore[arg-type]
        pixels = (people.keypoints[i, ..., :2].double() + 1) * (SIZE / 2) - 0.5
        sigma = torch.where(people.keypoints[i, ..., 2] > 0, 0.5, torch.nan)
        out.append(triangulate(cameras, pixels, sigma.double()).points)
    return torch.stack(out).float()


@cache
def _surface() -> Surface:
    return spread_out(makehuman.load())


def fitted(points: Float[Tensor, "T K 3"], seen: Cloud | None, shape: Tensor | None = None) -> tuple[State, Float[Tensor, "S"]]:
    """One person's poses and shape from triangulated keypoints, and from clouds where there are any, each frame's own."""
    body = makehuman.load()
    skin = with_locked_joints(body.keypoint_skin(KEYPOINTS), body)
    shape = initial.stature(body, KEYPOINTS, points) if shape is None else shape
    state = initial.poses(body, anatomy(body), KEYPOINTS, points, shape)

    def evidence(x: Tensor, frames: slice | Tensor) -> Pull:
        return pulls.targets(x, points[frames], torch.full(points[frames].shape[:2], KEYPOINT), 3.0)

    model = Model(body, skin)
    free = torch.ones(model.unknowns, dtype=torch.bool)
    free[3 + 3 * len(body.skeleton) :] = False
    for joint in LOCKED:
        j = 3 + 3 * body.skeleton.index(joint)
        free[j : j + 3] = False
    problem = Problem(model, shape, evidence, Priors(JointPrior(anatomy(body)), ExpressionPrior()), free)
    state, _ = settle(problem, state, 10)
    if seen is not None:
        surface = _surface()
        both = Model(body, Skin.stacked([skin, with_locked_joints(surface.skin, body)]))
        problem = with_cloud(problem, both, surface, seen, CLOUD, 3.0)
        state, _ = settle(problem, state, 6)
    state, shape, _ = settle_shape(problem, state, 8)
    return state, shape


def fits(people: Sampled, volumes: Float[Tensor, "N D D D"] | None, grid: Grid, each: int) -> tuple[State, Tensor]:
    """Everyone's `fitted`, person after person, `each` moments of one shape."""
    points = triangulated(people)
    states, shapes = [], []
    for i in range(0, len(people), each):
        part = slice(i, i + each)
        seen = None if volumes is None else cloud_of(volumes[part], Grid(grid.centre[part], grid.R_grid_world[part]))
        state, shape = fitted(points[part], seen)
        states.append(state)
        shapes.append(shape.expand(each, -1))
    return State.joined(states), torch.cat(shapes)


@torch.no_grad()
def vertex_error(found: tuple[State, Tensor], bodies: Float[Tensor, "N V 3"]) -> float:
    """Mean distance of corresponding skin vertices in the world, mm."""
    (state, shape), total = found, []
    for i in range(0, len(bodies), 16):
        own = voxels.skin(shape[i : i + 16], state.R[i : i + 16], state.root[i : i + 16])
        total.append((own - bodies[i : i + 16]).norm(dim=-1).mean(1))
    return 1000 * float(torch.cat(total).mean())

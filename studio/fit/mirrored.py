"""Limbs that one view alone sees lie as well mirrored in depth; whoever knows which end is nearer turns them back.

A mirrored limb is a minimum of its own: the order of two points must carry the limb out of the picture before the picture takes it in
again. Frames next to one that was turned follow it as long as they see as well from its pose as from their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras, upright_view
from studio.fit.order import Order, ordinal
from studio.fit.solve import Problem, settle
from studio.fit.state import State
from studio.nets.ordinal import HIPS, KEYPOINTS, flat, shipped

MARGIN, SIGMA = 0.05, 0.03
"""How much nearer is nearer, and how exactly that holds, m."""
KERNEL = 6.0
"""Of an order among other evidence, standard deviations."""
WAY = ((3.0, 40.0, 8), (100.0, KERNEL, 12), (20.0, KERNEL, 8))
"""Kernels of what is seen and of the order, and iterations: first the order speaks, then the picture again."""
LIMBS = tuple(
    (f"{s}_{a}", f"{s}_{b}")
    for s in ("left", "right")
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
)
SAME = 0.04
"""Poses whose points lie this near to each other everywhere are one, m."""


@dataclass(frozen=True)
class Nearer:
    """In a camera's view, one keypoint is nearer than another, in some frames."""

    camera: int
    nearer: str
    farther: str
    said: Bool[Tensor, "T"]

    @classmethod
    def at(cls, camera: int, nearer: str, farther: str, when: slice, count: int) -> Nearer:
        """Said of some of `count` frames."""
        said = torch.zeros(count, dtype=torch.bool)
        said[when] = True
        return cls(camera, nearer, farther, said)

    def __getitem__(self, frames: slice | Tensor) -> Nearer:
        return replace(self, said=self.said[frames])


def order_of(said: Sequence[Nearer], names: Sequence[str], cameras: Cameras, device: torch.device) -> Order | None:
    """The statements about keypoints that the model has; None without any."""
    kept = [s for s in said if s.nearer in names and s.farther in names and bool(s.said.any())]
    if not kept:
        return None
    towards = cameras.R_camera_world[[s.camera for s in kept], 2].float().to(device)
    near, far = (torch.tensor([names.index(getattr(s, k)) for s in kept], device=device) for k in ("nearer", "farther"))
    return Order(towards, near, far, torch.stack([s.said for s in kept], 1).to(device))


def with_order(problem: Problem, order: Order, kernel: float = KERNEL) -> Problem:
    """The same problem, the order being evidence too."""
    return replace(problem, evidence=lambda x, f: problem.evidence(x, f) + ordinal(x, order[f], MARGIN, SIGMA, kernel))


def contradicted(points: Float[Tensor, "T P 3"], order: Order) -> Bool[Tensor, "T"]:
    """Frames in which some points are in the wrong order."""
    depth = lambda i: (points[:, i] * order.towards).sum(-1)  # noqa: E731
    return (order.said & (depth(order.nearer) > depth(order.farther))).any(1)


def turned_back(seen: Callable[[float], Problem], state: State, order: Order, kernel: float) -> State:
    """Poses in which no limb stands against the order where the picture allows it. `seen`: the problem under a kernel."""
    whole = with_order(seen(kernel), order)
    bad = contradicted(_points(whole, state), order).nonzero()[:, 0]
    if not len(bad):
        return state
    tried = state[bad]
    for narrow, loud, iterations in WAY:
        tried, _ = settle(with_order(seen(narrow), order, loud).of(bad), tried, iterations, damping=1e-2)
    tried, cost = settle(whole.of(bad), tried, 5)
    better = cost < _cost(whole, state, bad)
    turned = bad[better]
    state = state.replaced(turned, tried[better])
    for step in (1, -1):
        state = _followed(whole, state, turned, step)
    return state


def _followed(problem: Problem, state: State, turned: Tensor, step: int) -> State:
    """Neighbours, one after the other, take over the pose where it fits them as well as their own and is another."""
    fixed, front = torch.zeros(len(state), dtype=torch.bool, device=turned.device), turned
    fixed[turned] = True
    while len(front):
        front = front[((front + step) >= 0) & ((front + step) < len(state))]
        front = front[~fixed[front + step]]
        if not len(front):
            break
        there = front + step
        tried, cost = settle(problem.of(there), state[front], 4)
        apart = (_points(problem, tried) - _points(problem, state[there])).norm(dim=-1).amax(1)
        take = (cost <= 1.1 * _cost(problem, state, there) + 3) & (apart > SAME)
        state = state.replaced(there[take], tried[take])
        front = there[take]
        fixed[front] = True
    return state


def _points(problem: Problem, state: State) -> Float[Tensor, "T P 3"]:
    return problem.model.place(state, problem.shape).points


def _cost(problem: Problem, state: State, frames: Tensor) -> Float[Tensor, "n"]:
    return problem.cost(state[frames], frames)


def opinions(cameras: Cameras, names: Sequence[str], pixels: Float[Tensor, "C T K 2"], sure: float) -> tuple[Nearer, ...]:
    """What a network makes of single views, where fewer than two see a limb's end: which end is nearer, with probability `sure` or more.

    The network is told of a view turned straight at the hips (`studio.nets.ordinal`).
    """
    lifter, missing = shipped(), [n for n in KEYPOINTS if n not in names]
    if missing:
        return ()
    plane = cameras.undistort(pixels[:, :, [names.index(n) for n in KEYPOINTS]].double())
    seen = torch.isfinite(plane).all(-1)
    out: list[Nearer] = []
    for c in range(len(cameras)):
        with torch.no_grad():
            aimed, tilt = _aimed(plane[c], cameras.R_camera_world[c])
            nearer = lifter.depth.nearer(lifter.depth.depth(lifter.depth(flat(aimed.float())[0], tilt.float())))
        for a, b in LIMBS:
            i, j = KEYPOINTS.index(a), KEYPOINTS.index(b)
            alone = seen[c, :, i] & seen[c, :, j] & (seen[:, :, j].sum(0) < 2)
            out += [Nearer(c, a, b, alone & (nearer[:, i, j] >= sure)), Nearer(c, b, a, alone & (nearer[:, j, i] >= sure))]
    return tuple(o for o in out if bool(o.said.any()))


def _aimed(plane: Float[Tensor, "T K 2"], R_camera_world: Float[Tensor, "3 3"]) -> tuple[Float[Tensor, "T K 2"], Float[Tensor, "T"]]:
    """The image plane of an upright camera at the same place that looks straight at the hips, and how far it looks down."""
    rays = torch.cat([plane, torch.ones_like(plane[..., :1])], -1) @ R_camera_world
    middle = rays[:, HIPS].nanmean(1)
    middle = torch.where(torch.isfinite(middle), middle, rays.nanmean(1)).nan_to_num(1.0)
    R_view_world = upright_view(middle)
    turned = rays @ R_view_world.mT
    return turned[..., :2] / turned[..., 2:].clamp_min(0.1), R_view_world[:, 2, 2]

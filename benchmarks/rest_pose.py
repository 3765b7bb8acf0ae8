"""How far a skin bound in the T-pose lies from the body's own: `python benchmarks/rest_pose.py FOLDER...` (virtual captures).

Linear blend skinning cannot be bound in another pose without loss. Three meshes in the T-pose are compared on the poses of the captures:
the model's own mesh carried there; the one that goes back exactly to the model's own pose (what files hold); and for each vertex the
best place for these very poses.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import makehuman
from rigs.body import Body
from studio.export.animation import Character, character, y_up
from studio.export.mesh import surface
from studio.values import Motion
from studio.virtual.truth import Truth

EVERY = 6
"""Of so many frames one is looked at."""


def poses(folder: Path, body: Body) -> Motion:
    """What the first actor of a virtual capture did."""
    exact = Truth.load(folder / "truth.safetensors")
    rotation = exact.rotation[::EVERY, 0]
    T = len(rotation)
    return Motion(
        body.name, "actor", body.skeleton.names, exact.fps, 0, "00:00:00:00", torch.zeros(len(body.shape_names)),
        torch.zeros(T, 3), rotation, torch.zeros(T, len(body.expression_names)), torch.zeros(T, 55), torch.zeros(T, 4),
    )  # fmt: skip


def blends(shown: Character) -> Float[Tensor, "T V 3 4"]:
    """What carries each vertex of the bound mesh on every frame."""
    R, p = shown.skeleton.forward(shown.R_parent_joint, shown.rest, shown.root)
    world = torch.eye(4, dtype=torch.float64).repeat(*p.shape[:2], 1, 1)
    world[..., :3, :3], world[..., :3, 3] = R, p
    bones = (world @ shown.inverse_bind)[..., :3, :].flatten(-2)
    return (shown.shaped.body.skin.weights @ bones).unflatten(-1, (3, 4))


def skinned(blend: Tensor, points: Float[Tensor, "V 3"]) -> Float[Tensor, "T V 3"]:
    """The points on every frame."""
    return (blend[..., :3] @ points[..., None])[..., 0] + blend[..., 3]


def told(name: str, off: Float[Tensor, "T V"]) -> None:
    """One row, mm."""
    off = 1000 * off
    rank = off.flatten().sort().values
    share = {p: float(rank[int(p * (len(rank) - 1))]) for p in (0.99, 0.999)}
    print(f"{name:34} {off.mean():8.2f} {share[0.99]:8.2f} {share[0.999]:8.2f} {off.max():8.2f}")


def main() -> None:
    """Print the table."""
    body = makehuman.load()
    parts = [poses(Path(folder), body) for folder in sys.argv[1:]]
    moved = replace(parts[0], **{k: torch.cat([getattr(p, k) for p in parts]) for k in Motion.time_axes()})
    exact, bound = character(moved, body), character(moved, body, rebound=True)
    wanted, blend = skinned(blends(exact), y_up(exact.shaped.rest())), blends(bound)
    standing = replace(bound, R_parent_joint=torch.eye(3).double().expand(1, 55, 3, 3), root=bound.rest[:1])
    carried = skinned(blends(replace(standing, rebound=False)), y_up(exact.shaped.rest()))[0]
    A = blend[..., :3]
    best = torch.linalg.solve((A.mT @ A).sum(0), (A.mT @ (wanted - blend[..., 3])[..., None]).sum(0))[..., 0]
    print(f"{len(wanted)} poses, {len(carried)} vertices, distance from the body's own skin, mm")
    print(f"{'mesh in the T-pose':34} {'mean':>8} {'99 %':>8} {'99.9 %':>8} {'most':>8}")
    for name, mesh in (
        ("carried there", carried),
        ("exact in the model's own pose", surface(bound, False).points),
        ("best for these poses", best),
    ):
        told(name, (skinned(blend, mesh) - wanted).norm(dim=-1))
    names = body.skeleton.names
    off = (skinned(blend, surface(bound, False).points) - wanted).norm(dim=-1).amax(0)
    owner = [names[j] for j in body.skin.weights.argmax(1)[off > 0.01].tolist()]
    print("vertices off by more than 10 mm belong to " + ", ".join(f"{n} {owner.count(n)}" for n in sorted(set(owner))))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

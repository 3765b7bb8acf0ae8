"""A first guess in closed form: stature from bone lengths, poses from the directions of triangulated bones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.anatomy import Anatomy
from rigs.body import Body
from studio.fit.state import State

LENGTHS = tuple(
    (f"{s}_{a}", f"{s}_{b}")
    for s in ("left", "right")
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"), ("shoulder", "hip"))
) + (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))
"""Distances that hardly change with the pose."""


def stature(
    body: Body,
    names: tuple[str, ...],
    points: Float[Tensor, "T K 3"],
    sigma: float = 0.03,
    likely: tuple[Float[Tensor, "S"], Float[Tensor, "S S"]] | None = None,
) -> Float[Tensor, "S"]:
    """Shape whose rest lengths match the medians of the triangulated ones; as `likely` (mean, covariance) else, or as the mean person."""
    pairs = [(a, b) for a, b in LENGTHS if a in names and b in names]
    lengths = torch.stack([(points[:, names.index(a)] - points[:, names.index(b)]).norm(dim=-1).nanmedian() for a, b in pairs])
    known = torch.isfinite(lengths)
    mean, P = body.joints.new_zeros(len(body.shape_names)), torch.eye(len(body.shape_names)).to(body.joints)
    if likely is not None:
        mean, P = likely[0].to(P), torch.linalg.inv(likely[1].double()).to(P)
    shape = mean.clone()
    if not bool(known.any()) or not len(shape):
        return shape
    ends = [body.keypoint_skin([pair[i] for pair in pairs]) for i in (0, 1)]
    rest, basis = ends[0].rest - ends[1].rest, ends[0].shape_basis - ends[1].shape_basis
    for _ in range(8):  # Gauss-Newton on the lengths with the normal prior
        d = rest + basis @ shape
        n = d.norm(dim=-1)
        J = torch.einsum("pc,pcs->ps", d / n[:, None], basis)[known] / sigma
        r = ((n - lengths)[known]) / sigma
        shape = shape - torch.linalg.solve(J.T @ J + P, J.T @ r + P @ (shape - mean))
    return shape


def filled(points: Float[Tensor, "T K 3"]) -> Float[Tensor, "T K 3"]:
    """Gaps bridged linearly in time, ends held; a keypoint never seen stays NaN."""
    T = len(points)
    seen = torch.isfinite(points).all(-1)
    index = torch.arange(T, device=points.device)[:, None].expand_as(seen)
    before = torch.where(seen, index, -1).cummax(0).values
    after = torch.where(seen, index, 2 * T).flip(0).cummin(0).values.flip(0)
    after_ok, before_ok = after < T, before >= 0
    a = torch.where(before_ok, before, torch.where(after_ok, after, 0))
    b = torch.where(after_ok, after, a)
    pick = lambda i: torch.gather(points, 0, i[..., None].expand_as(points))  # noqa: E731
    share = torch.where(b > a, (index - a) / (b - a).clamp_min(1), torch.zeros_like(a, dtype=points.dtype))
    pa, pb = pick(a), pick(b)
    return torch.where((b > a)[..., None], pa + share[..., None] * (pb - pa), pa)


def poses(body: Body, anatomy: Anatomy, names: tuple[str, ...], points: Float[Tensor, "T K 3"], shape: Float[Tensor, "S"]) -> State:
    """Root, trunk, head, limbs and palms from triangulated keypoints; relaxed where nothing was ever seen."""
    x = {n: p for n, p in zip(names, filled(points).unbind(1)) if bool(torch.isfinite(p).all())}
    keys = body.keypoint_skin(names)
    rest = dict(zip(names, (keys.rest + keys.shape_basis @ shape).unbind(0)))
    T, J = len(points), len(body.skeleton)
    R_world = torch.eye(3, dtype=points.dtype, device=points.device).repeat(T, J, 1, 1)
    relaxed = rotation.exp((anatomy.axes.mT @ anatomy.mean[..., None])[..., 0]).to(points.dtype)
    turned: set[int] = set()

    def turn(joint: str, R: Tensor) -> None:
        j = body.skeleton.index(joint)
        R_world[:, j] = R
        turned.add(j)

    trunk = [n for n in ("left_hip", "right_hip", "left_shoulder", "right_shoulder") if n in x]
    if len(trunk) >= 3:
        turn("Hips", _procrustes(trunk, rest, x))
    chest = [n for n in ("left_shoulder", "right_shoulder") if n in x]
    if len(chest) == 2 and len(trunk) == 4:
        turn("Spine2", _chest(rest, x))
    head = [n for n in ("nose", "left_eye", "right_eye", "left_ear", "right_ear") if n in x]
    if len(head) >= 3:
        turn("Head", _procrustes(head, rest, x))
    _propagate(body, R_world, relaxed, turned)
    for side, s in (("Left", "left_"), ("Right", "right_")):
        for upper, lower, (a, b, c) in (("Arm", "ForeArm", ("shoulder", "elbow", "wrist")), ("UpLeg", "Leg", ("hip", "knee", "ankle"))):
            if all(s + n in x for n in (a, b, c)):
                axis = anatomy.axes[body.skeleton.index(side + lower), 0].to(points.dtype)
                before = R_world[:, body.skeleton.index(side + upper)]
                R_upper, R_lower = _hinge([rest[s + n] for n in (a, b, c)], [x[s + n] for n in (a, b, c)], axis, before)
                turn(side + upper, R_upper)
                turn(side + lower, R_lower)
        palm = [s + n for n in ("hand_root", "forefinger1", "middle_finger1", "ring_finger1", "pinky_finger1") if s + n in x]
        if len(palm) >= 4:
            turn(side + "Hand", _procrustes(palm, rest, x))
        foot = [s + n for n in ("ankle", "heel", "big_toe", "small_toe") if s + n in x]
        if len(foot) >= 3:
            turn(side + "Foot", _procrustes(foot, rest, x))
    _propagate(body, R_world, relaxed, turned)
    parents = torch.tensor(body.skeleton.parents)
    R = R_world.clone()
    R[:, 1:] = R_world[:, parents[1:]].mT @ R_world[:, 1:]
    root = _root(body, shape, R, trunk, x, rest, T)
    return State(R, root, points.new_zeros(T, len(body.expression_names)))


def _procrustes(chosen: list[str], rest: dict[str, Tensor], seen: dict[str, Tensor]) -> Float[Tensor, "T 3 3"]:
    """Rotation that best carries the chosen points at rest onto where they were seen."""
    a = torch.stack([rest[n] for n in chosen])
    b = torch.stack([seen[n] for n in chosen], 1)
    return rotation.project_to_rotation((b - b.mean(1, keepdim=True)).mT @ (a - a.mean(0)))


def _chest(rest: dict[str, Tensor], seen: dict[str, Tensor]) -> Float[Tensor, "T 3 3"]:
    """Frame of the shoulder line and the spine, against the same at rest."""

    def frame(p: dict[str, Tensor]) -> Tensor:
        across = p["left_shoulder"] - p["right_shoulder"]
        up = p["left_shoulder"] + p["right_shoulder"] - p["left_hip"] - p["right_hip"]
        return rotation.from_6d(torch.cat([across, up], -1))

    return frame(seen) @ frame(rest).mT


def _swing(a: Tensor, b: Tensor) -> Tensor:
    """Smallest rotation that carries direction a onto b."""
    a, b = a / a.norm(dim=-1, keepdim=True).clamp_min(1e-9), b / b.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    axis = torch.linalg.cross(a, b)
    sine, cosine = axis.norm(dim=-1, keepdim=True), (a * b).sum(-1, keepdim=True)
    return rotation.exp(axis / sine.clamp_min(1e-9) * torch.atan2(sine, cosine))


def _hinge(rest: list[Tensor], seen: list[Tensor], axis: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """World rotations of an upper and a lower limb joined by a hinge about `axis` (rest frame).

    Bent, the plane of the limb gives the twist of the upper bone; straight, the bone swings from where its parent carries it.
    """
    u0, l0 = rest[1] - rest[0], rest[2] - rest[1]
    u, low = seen[1] - seen[0], seen[2] - seen[1]
    swung = _swing((before @ u0[:, None])[..., 0], u) @ before
    normal = torch.linalg.cross(u, low)
    bend = torch.atan2(normal.norm(dim=-1), (u * low).sum(-1))
    bent = rotation.from_6d(torch.cat([u, normal], -1)) @ rotation.from_6d(torch.cat([u0, axis], -1)).mT
    share = ((bend - 0.2) / 0.3).clamp(0, 1)[:, None]
    mixed = rotation.matrix(rotation.slerp(rotation.quaternion(swung), rotation.quaternion(bent), share[:, 0]))
    R_upper = _swing((mixed @ u0[:, None])[..., 0], u) @ mixed
    R_lower = _swing((R_upper @ l0[:, None])[..., 0], low) @ R_upper
    return R_upper, R_lower


def _propagate(body: Body, R_world: Tensor, relaxed: Tensor, turned: set[int]) -> None:
    """Joints that nothing turned follow their parent, relaxed; the spine shares what the chest turned, the neck what the head did."""
    names, parents = body.skeleton.names, body.skeleton.parents
    for j in range(1, len(names)):
        if j not in turned:
            R_world[:, j] = R_world[:, parents[j]] @ relaxed[j]
    for chain, end in ((("Spine", "Spine1"), "Spine2"), (("Neck",), "Head")):
        first, last = body.skeleton.index(chain[0]), body.skeleton.index(end)
        if last not in turned:
            continue
        start = R_world[:, parents[first]]
        r = rotation.log(R_world[:, last] @ start.mT)
        for i, name in enumerate(chain):
            R_world[:, body.skeleton.index(name)] = rotation.exp(r * (i + 1) / (len(chain) + 1)) @ start


def _root(body: Body, shape: Tensor, R: Tensor, trunk: list[str], x: dict[str, Tensor], rest: dict[str, Tensor], T: int) -> Tensor:
    """Position of the root joint that puts the trunk's points where they were seen."""
    at = body.joints[0] + body.joint_shape_basis[0] @ shape
    hips = [n for n in trunk if n.endswith("hip")] or trunk or list(x)[:1]
    if not hips:
        return at.expand(T, 3).clone()
    return torch.stack([x[n] - (R[:, 0] @ (rest[n] - at)[:, None])[..., 0] for n in hips]).mean(0)

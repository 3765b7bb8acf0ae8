"""What is exactly true in a virtual capture: motion, joints, keypoints, who is hidden from which camera, and planted feet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras
from rigs import makehuman
from rigs.body import Body, Posed
from rigs.keypoints import COCO_WHOLEBODY
from studio.values import Stored
from studio.virtual.anatomy import SIDES, Performance
from studio.virtual.rays import Meshes
from studio.virtual.scene import Crowd, Figure

PLANTED_HEIGHT, PLANTED_SPEED = 0.012, 0.06
"""A heel or toe is planted while some point of its sole is below this height (m) and slower than this (m/s)."""


@dataclass(frozen=True)
class Truth(Stored):
    """Ground truth of a rendered capture; T frames, A people, C cameras."""

    actors: tuple[str, ...]
    cameras: tuple[str, ...]
    joint_names: tuple[str, ...]
    keypoint_names: tuple[str, ...]
    """`rigs.keypoints.COCO_WHOLEBODY`."""
    expression_names: tuple[str, ...]
    person_seeds: tuple[int, ...]
    """`rigs.makehuman.individual(seed)` is the body of each actor; it has no shape coefficients."""
    fps: float
    translation: Float[Tensor, "T A 3"]
    """World position of the root joint, m."""
    rotation: Float[Tensor, "T A J 3"]
    """Local joint rotation vectors, rad."""
    expression: Float[Tensor, "T A E"]
    joints: Float[Tensor, "T A J 3"]
    """World, m."""
    keypoints: Float[Tensor, "T A K 3"]
    """World, m; NaN where the body does not have the keypoint."""
    visible: Bool[Tensor, "C T A K"]
    """On the image, and hidden neither by another person nor by another part of the same body."""
    contacts: Float[Tensor, "T A 4"]
    """1 while left heel, left toe, right heel, right toe is planted, else 0."""

    def body(self, actor: int) -> Body:
        """The exact body of an actor."""
        return makehuman.individual(self.person_seeds[actor])

    def posed(self, actor: int, frames: slice = slice(None)) -> Posed:
        """An actor's body in the chosen frames; `.vertices()` is the skin under hair and cloth."""
        shaped = self.body(actor).shaped(torch.zeros(0))
        return shaped.posed(self.rotation[frames, actor], self.translation[frames, actor], self.expression[frames, actor])


def truth_of(performances: list[Performance], seeds: tuple[int, ...], figures: tuple[Figure, ...], cameras: Cameras, fps: float) -> Truth:
    """The truth of people who perform before cameras."""
    posed = [posed_at(p) for p in performances]
    keypoints = torch.stack([_keypoints(p.body, q) for p, q in zip(performances, posed)], 1)
    first = performances[0].body
    return Truth(
        actors=tuple(f"actor{i + 1}" if len(performances) > 1 else "actor" for i in range(len(performances))),
        cameras=cameras.names,
        joint_names=first.skeleton.names,
        keypoint_names=COCO_WHOLEBODY,
        expression_names=first.expression_names,
        person_seeds=seeds,
        fps=fps,
        translation=torch.stack([p.translation for p in performances], 1),
        rotation=torch.stack([p.rotation for p in performances], 1),
        expression=torch.stack([p.expression for p in performances], 1),
        joints=torch.stack([q.joints for q in posed], 1),
        keypoints=keypoints,
        visible=_visible(performances, figures, cameras, keypoints),
        contacts=torch.stack([contacts(p, fps) for p in performances], 1),
    )


def posed_at(performance: Performance, frames: slice = slice(None)) -> Posed:
    """A performer's body in the chosen frames."""
    shaped = performance.body.shaped(torch.zeros(len(performance.body.shape_names)))
    return shaped.posed(performance.rotation[frames], performance.translation[frames], performance.expression[frames])


def contacts(performance: Performance, fps: float) -> Float[Tensor, "T 4"]:
    """1 while left heel, left toe, right heel, right toe is planted (low and slow), else 0."""
    body = performance.body
    posed = posed_at(performance)
    planted = []
    for side in SIDES:
        foot, toes = (body.skin.weights[:, body.skeleton.index(side + n)] for n in ("Foot", "ToeBase"))
        low = body.skin.rest[:, 2] < body.skin.rest[:, 2].min() + 0.012
        rear = body.skin.rest[:, 1] > body.joints[body.skeleton.index(f"{side}Foot"), 1] - 0.01
        for region in (low & (foot > 0.5) & rear, low & (toes > 0.5)):
            where = posed.points(body.skin[torch.nonzero(region)[:, 0][::3]])
            speed = torch.zeros(where.shape[:2]) if len(where) < 2 else torch.gradient(where, dim=0)[0].norm(dim=-1) * fps
            planted.append(((where[..., 2] < PLANTED_HEIGHT) & (speed < PLANTED_SPEED)).any(-1))
    return torch.stack(planted, -1).float()


def _keypoints(body: Body, posed: Posed) -> Float[Tensor, "T K 3"]:
    known = [n for n in COCO_WHOLEBODY if n in body.keypoint_names]
    points = posed.points(body.keypoint_skin(known))
    out = torch.full((points.shape[0], len(COCO_WHOLEBODY), 3), torch.nan)
    out[:, [COCO_WHOLEBODY.index(n) for n in known]] = points
    return out


def _visible(
    performances: list[Performance], figures: tuple[Figure, ...], cameras: Cameras, keypoints: Float[Tensor, "T A K 3"]
) -> Bool[Tensor, "C T A K"]:
    T, A, K = keypoints.shape[:3]
    depth = np.stack([_depths(f) for f in figures])
    visible = np.zeros((len(cameras), T, A, K), bool)
    inside = cameras.inside(cameras.project(keypoints.double())).numpy()
    origins = cameras.position.numpy().astype(np.float32)
    for t in range(T):
        crowd = Crowd.posed(figures, [posed_at(p, slice(t, t + 1)).vertices()[0].numpy() for p in performances])
        for c, origin in enumerate(origins):
            visible[c, t] = inside[c, t] & seen_points(crowd, origin, keypoints[t].numpy(), depth)
    return torch.from_numpy(visible)


def seen_points(
    crowd: Crowd, origin: Float[np.ndarray, "3"], points: Float[np.ndarray, "A K 3"], depth: Float[np.ndarray, "A K"]
) -> Bool[np.ndarray, "A K"]:
    """Which keypoints nothing hides from a camera at `origin`.

    A joint's centre lies `depth` m under the nearest skin. It counts as seen when the way to the camera leaves the body through
    not much more flesh than that, and meets nothing afterwards: a finger before another finger hides it. A centimetre is
    forgiven, for lids before eyeballs and for skin that folds at a bent joint.
    """
    way = np.nan_to_num(origin - points).astype(np.float32)
    far = np.linalg.norm(way, axis=-1)
    start = np.nan_to_num(points).astype(np.float32)
    flesh = crowd.meshes.cast(start, way / far[..., None]).distance
    within = flesh < 2.5 * depth + 0.015
    left = np.where(within, flesh, 0) + 0.01
    free = ~crowd.meshes.blocked(start + way * (left / far)[..., None], way * (1 - left / far)[..., None])
    return free & np.isfinite(points).all(-1)


def _depths(figure: Figure) -> Float[np.ndarray, "K"]:
    """How deep each keypoint lies under the rendered surface at rest, m; 0 where the body has none."""
    body = figure.body
    known = [n for n in COCO_WHOLEBODY if n in body.keypoint_names]
    depth = np.zeros(len(COCO_WHOLEBODY), np.float32)
    depth[[COCO_WHOLEBODY.index(n) for n in known]] = Meshes([(figure.rest, figure.triangles)]).gap(body.keypoint_skin(known).rest.numpy())
    return depth

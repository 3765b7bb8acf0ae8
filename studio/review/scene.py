"""The take in 3D: bodies, triangulated points and cameras as one page that plays offline (viser's own viewer, taken from its wheel)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import viser
from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from studio.review.material import Material
from studio.review.offline import add_cameras, add_floor, offline, viewpoint
from studio.review.overlays import COLOURS
from studio.values import Motion

BONES_A_VERTEX = 4
"""What the viewer skins with."""
ASIDE = (0.0, 0.0, -500.0)
YELLOW = (250, 180, 40)


@dataclass(frozen=True)
class Playback:
    """A page of its own, and what it shows of the take."""

    html: str
    shown: int
    """Frames in it."""
    step: int
    """Video frames from one shown frame to the next."""


def playback(material: Material, most_frames: int = 600, most_fps: float = 30.0) -> Playback:
    """The take as a page with play bar, scrubber, speed and orbit; every `step`-th frame so that it stays within both limits."""
    fps = material.fps or most_fps
    step = max(math.ceil(fps / most_fps - 1e-6), math.ceil(material.count / most_frames), 1)
    frames = list(range(0, material.count, step))
    html = offline(lambda server: _recorded(server, material, frames, step / fps))
    return Playback(html, len(frames), step)


def _recorded(server: viser.ViserServer, material: Material, frames: list[int], pause: float) -> str:
    scene = server.scene
    middle, reach = _volume(material, frames)
    add_floor(scene, middle, reach)
    add_cameras(scene, material.cameras, reach)
    server.initial_camera.look_at = (middle[0], middle[1], 0.9)
    server.initial_camera.position = viewpoint(material.cameras, middle, away=2.7, height=1.6)
    actors = [_Figure(scene, material, actor, number, frames) for number, actor in enumerate(material.actors)]
    for figure in actors:
        figure.show(0)
    serializer = server.get_scene_serializer()
    for shown in range(1, len(frames)):
        serializer.insert_sleep(pause)
        for figure in actors:
            figure.show(shown)
    serializer.insert_sleep(pause)
    return serializer.as_html()


def _volume(material: Material, frames: list[int]) -> tuple[tuple[float, float], float]:
    """Where the actors are, m, and how far from there the farthest camera stands."""
    points = [material.triangulated(a, slice(t, t + 1))[0] for a in material.actors for t in frames]
    points += [m.translation for m in material.motions.values()]
    points = torch.cat(points) if points else torch.zeros(0, 3)
    points = points[torch.isfinite(points).all(-1)]
    middle = points.median(0).values[:2] if len(points) else material.cameras.position.mean(0)[:2].float()
    reach = (material.cameras.position[:, :2].float() - middle).norm(dim=-1).max()
    return (float(middle[0]), float(middle[1])), min(float(reach), 50.0)


class _Figure:
    """One actor in the scene: a skinned mesh and the triangulated points."""

    def __init__(self, scene: viser.SceneApi, material: Material, actor: str, number: int, frames: list[int]) -> None:
        points = torch.cat([material.triangulated(actor, slice(t, t + 1)) for t in frames])
        # The viewer wants as many points in every frame: those not seen go where nobody looks.
        self.points = torch.where(torch.isfinite(points).all(-1, keepdim=True), points, torch.tensor(ASIDE)).numpy()
        self.cloud = scene.add_point_cloud(f"/points/{number}", self.points[0], YELLOW, point_size=0.018, point_shape="circle")
        self.posed: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(frames)
        self.mesh = None
        motion = material.motions.get(actor)
        if motion is not None and material.body is not None:
            self.posed = [_bones(material, motion, material.first + t - motion.first_frame) for t in frames]
            self.mesh = self._mesh(scene, material, actor, number)

    def _mesh(self, scene: viser.SceneApi, material: Material, actor: str, number: int) -> Any:
        body = material.body
        assert body is not None
        shaped = body.shaped(material.motions[actor].shape)
        J = len(body.skeleton)
        return scene.add_mesh_skinned(
            f"/actors/{number}",
            shaped.rest().numpy(),
            body.triangles.numpy(),
            bone_wxyzs=np.tile(np.array([1.0, 0.0, 0.0, 0.0]), (J, 1)),
            bone_positions=shaped.joints.numpy(),
            skin_weights=strongest(body.skin.weights).numpy(),
            color=COLOURS[number % len(COLOURS)],
            opacity=0.85,  # so that the points inside can be seen
        )

    def show(self, shown: int) -> None:
        """Go to one of the frames it was made with."""
        self.cloud.points = self.points[shown]
        if self.mesh is None:
            return
        posed = self.posed[shown]
        self.mesh.visible = posed is not None
        if posed is not None:
            for bone, turn, place in zip(self.mesh.bones, *posed, strict=True):
                bone.wxyz, bone.position = turn, place


def _bones(material: Material, motion: Motion, t: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Rotations (J, 4) and places (J, 3) m of the joints in frame t of the motion; None where it has none."""
    if not 0 <= t < len(motion.translation):
        return None
    posed = next(material.poses(motion.cut(slice(t, t + 1))))
    turns, places = rotation.quaternion(posed.R_world_joint[0]).numpy(), posed.joints[0].numpy()
    return (turns, places) if np.isfinite(turns).all() and np.isfinite(places).all() else None


def strongest(weights: Float[Tensor, "V J"], most: int = BONES_A_VERTEX) -> Float[Tensor, "V J"]:
    """Skinning weights with all but the `most` largest of every vertex set to zero; rows again sum to one."""
    top = weights.topk(min(most, weights.shape[1]), dim=-1)
    kept = torch.zeros_like(weights).scatter(-1, top.indices, top.values)
    return kept / kept.sum(-1, keepdim=True).clamp_min(1e-12)

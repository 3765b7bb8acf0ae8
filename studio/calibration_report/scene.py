"""The calibrated rig in 3D: cameras, where the board was or a person walked, named points, and the floor."""

from __future__ import annotations

import math

import numpy as np
import torch
import viser
from jaxtyping import Float

from studio.calibration_report.account import Account
from studio.review.offline import add_cameras, add_floor, offline, viewpoint

Place = tuple[float, float, float]
MOST_BOARDS = 150
MOMENTS, PAUSE = 120, 0.2
"""Most instants that are played, and for how long each, s."""
ASIDE = (0.0, 0.0, -500.0)
"""Where points go that were not seen: the viewer wants as many in every frame."""
COLOURS = ((86, 150, 230), (217, 115, 13), (31, 157, 107), (164, 69, 178))


def rig_scene(account: Account) -> str:
    """A page of its own with the rig in it."""
    return offline(lambda server: _filled(server, account))


def _filled(server: viser.ViserServer, account: Account) -> str:
    server.initial_camera.look_at, server.initial_camera.position = add_rig(server.scene, account)
    now = _moments(account)
    cloud = server.scene.add_point_cloud("/now", now[0], COLOURS[1], point_size=0.02, point_shape="circle")
    serializer = server.get_scene_serializer()
    for moment in now[1:]:  # what moves also keeps the viewer drawing: names in a scene that stands still are left where they were first
        serializer.insert_sleep(PAUSE)
        cloud.points = moment
    serializer.insert_sleep(PAUSE)
    return serializer.as_html()


def _moments(account: Account) -> Float[np.ndarray, "T N 3"]:
    """Points that show one instant after the other: the board's edges, or a person's; the cameras' places where there are neither."""
    along = torch.linspace(0, 1, 12)[:-1, None, None]
    if len(account.boards):
        quads = account.boards[:: max(math.ceil(len(account.boards) / MOMENTS), 1)].float()
        edges = quads[:, None] * (1 - along) + quads.roll(-1, 1)[:, None] * along
        return edges.reshape(len(quads), -1, 3).numpy()
    if account.paths:
        person = torch.stack(account.paths, 1).float()
        person = person[:: max(math.ceil(len(person) / MOMENTS), 1)]
        return torch.where(person.isfinite().all(-1, keepdim=True), person, torch.tensor(ASIDE)).numpy()
    return account.cameras.position.float().repeat(2, 1, 1).numpy()


def add_rig(scene: viser.SceneApi, account: Account) -> tuple[Place, Place]:
    """Put the rig into a scene; what to look at there, and from where, m."""
    cameras = account.cameras
    around = torch.cat([account.boards.reshape(-1, 3).double(), *(p.double() for p in account.paths), cameras.position])
    around = around[around.isfinite().all(-1)]
    middle = around.median(0).values
    reach = min(float((cameras.position[:, :2] - middle[:2]).norm(dim=-1).max()), 50.0)
    flat = (float(middle[0]), float(middle[1]))
    if any(g.name == "floor" and math.isfinite(g.value) for g in account.gates):
        add_floor(scene, flat, reach)
    add_cameras(scene, cameras, reach)
    every = max(len(account.boards) // MOST_BOARDS, 1)
    if len(account.boards):
        quads, blue = account.boards[::every].float(), np.array(COLOURS[0])
        edges = torch.stack([quads, quads.roll(-1, 1)], 2).reshape(-1, 2, 3).numpy()
        scene.add_line_segments("/boards", edges, np.broadcast_to(blue, edges.shape), thickness=1.5, thickness_units="screen")
    for number, path in enumerate(account.paths):
        kept = path[path.isfinite().all(-1)].float().numpy()
        scene.add_point_cloud(f"/ways/{number}", kept, COLOURS[number % len(COLOURS)], point_size=0.02, point_shape="circle")
    for name, place in account.marks.items():
        scene.add_icosphere(f"/marks/{name}", 0.03, (250, 180, 40), position=place)
        scene.add_label(f"/marks/{name}/name", name, font_screen_scale=0.9, anchor="bottom-center")
    scene.add_frame("/origin", axes_length=0.3, axes_radius=0.008)
    height = max(float(cameras.position[:, 2].max()), 0.5) + 0.4 * reach
    return (*flat, float(middle[2])), viewpoint(cameras, flat, 0.95 * reach + 0.3, height)

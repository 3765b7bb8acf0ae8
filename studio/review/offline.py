"""3D scenes as pages that open without a network (viser's own viewer, taken from its wheel), and what all of them show: floor, cameras."""

from __future__ import annotations

import contextlib
import io
import math
import socket
from collections.abc import Callable

import torch
import viser

from calibration.cameras import Cameras
from rigs import rotation

CELL, SECTION = (150, 150, 155), (125, 125, 130)
"""Greys that are quiet on white and on black."""


def offline(build: Callable[[viser.ViserServer], str]) -> str:
    """The page that `build` makes of a server that nobody visits; it follows the reader's system in being dark or light."""
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host="127.0.0.1", port=_free_port(), verbose=False)
        try:
            server.scene.set_up_direction("+z")
            server.scene.configure_environment_map(hdri=None)
            light = {"sky_color": (255, 255, 255), "ground_color": (120, 115, 110), "intensity": 4.0}
            server.scene.add_light_hemisphere("/light/sky", **light)
            server.scene.world_axes.visible = False
            html = build(server)
        finally:
            server.stop()
    return html.replace("{darkMode:false}", "{darkMode:matchMedia('(prefers-color-scheme: dark)').matches}")


def add_floor(scene: viser.SceneApi, middle: tuple[float, float], reach: float) -> None:
    """A grid at z = 0 of half-metre cells, `reach` m to each side of the middle."""
    side, place = 2 * math.ceil(reach + 1), (round(middle[0]), round(middle[1]), 0.0)
    scene.add_grid("/floor", side, side, position=place, cell_size=0.5, section_size=1.0, cell_color=CELL, section_color=SECTION)


def add_cameras(scene: viser.SceneApi, cameras: Cameras, reach: float) -> None:
    """A frustum and a name at every camera."""
    turns = rotation.quaternion(cameras.R_camera_world.mT).numpy()
    for c, name in enumerate(cameras.names):
        width, height = cameras.size[c].tolist()
        scene.add_camera_frustum(
            f"/cameras/{c}",
            2 * math.atan(height / 2 / float(cameras.focal[c, 1])),
            width / height,
            scale=max(0.12, 0.04 * reach),
            thickness=1.5,
            thickness_units="screen",
            color=(120, 120, 130),
            wxyz=turns[c],
            position=cameras.position[c].numpy(),
        )
        scene.add_label(f"/cameras/{c}/name", name, font_screen_scale=0.9, anchor="bottom-center")


def viewpoint(cameras: Cameras, middle: tuple[float, float], away: float, height: float) -> tuple[float, float, float]:
    """Half-way between two neighbouring cameras, so that none stands in the picture; of all gaps the one nearest to -y."""
    x, y = (cameras.position[:, :2].float() - torch.tensor(middle)).unbind(-1)
    angles = torch.atan2(y, x).sort().values
    gaps = torch.diff(angles, append=angles[:1] + 2 * math.pi)
    middles = angles + gaps / 2
    best = middles[(middles.sin() - 0.3 * gaps).argmin()].item()  # a wide gap counts as some turning
    return middle[0] + away * math.cos(best), middle[1] + away * math.sin(best), height


def _free_port() -> int:
    """A port nobody listens on; the viewer's server never serves anything here, but it insists on one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

"""The large part of the wizard's page: pictures of the cameras, one picture to click on, or the rig in 3D."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import viser

from studio.calibration_report.scene import add_rig
from studio.wizard import actions, pictures
from studio.wizard.state import BOARD, SAME, State

if TYPE_CHECKING:
    from studio.wizard.page import Page

STRIP = 125
"""What pictures leave of the canvas, which must not vanish, px."""
UPRIGHT = (0.5**0.5, -(0.5**0.5), 0.0, 0.0)
"""Turns a picture, which has x right and y down, so that z is up."""
WIDE = 1000
"""Width of the pictures where no browser has told its own, px."""


class Canvas:
    """What is drawn beside the fields; drawn anew only where what it shows has changed."""

    def __init__(self, server: viser.ViserServer, page: Page) -> None:
        self.server, self.page = server, page
        self._shown: object = None
        self._panel: Any = None
        self._html: Any = None
        self._aim: Callable[[Any], None] = lambda camera: None
        self._fits = False
        """Whether the view has to fit a picture."""
        server.scene.world_axes.visible = False
        server.scene.set_up_direction("+z")
        self._picture: tuple[int, int] | None = None
        """Size of the picture to click on, px."""
        server.on_client_connect(self._joined)
        server.scene.on_click()(self._clicked)

    def draw(self, state: State) -> None:
        """Show what belongs to the state's step."""
        c, found = state.choices, id(state.found)
        if state.step == "clips":
            self._once(("clips", c.source, c.clips, pictures.board_words(c)), lambda: self.show(pictures.clips_and_board(c)))
        elif state.step in ("film", "calibrate"):
            self._once(("film", found, c.pictures == SAME and c.instant), lambda: self.show(pictures.seen(state)))
        elif state.step == "floor" and c.floor == BOARD:
            self._once(("lying", found, c.lying), lambda: self.show(pictures.lying(state)))
        elif state.step == "floor":
            self._once(("marks", found, c.camera, c.instant, c.mark, state.clicks), lambda: self._to_click(state))
        else:
            self._once(("rig", id(state.rig), id(state.world)), lambda: self._rig(state))

    def _joined(self, client: viser.ClientHandle) -> None:
        """Somebody opened the page. When its shape changes a picture is fitted into it again, but nobody's view of the rig is turned."""
        self._aim(client.camera)
        shape = client.camera.aspect

        @client.camera.on_update
        def _(camera: viser.CameraHandle) -> None:
            nonlocal shape
            if abs(camera.aspect / shape - 1) > 0.01:
                shape = camera.aspect
                if self._fits:
                    self._aim(camera)

    def _clicked(self, event: viser.SceneClickEvent) -> None:
        if self._picture is not None:
            x, y = pixel(event.ray_origin, event.ray_direction, *self._picture)
            self.page.act(lambda state: actions.click(state, x, y))

    def _once(self, what: object, draw: Callable[[], None]) -> None:
        if what == self._shown:
            return
        self._shown, self._picture = what, None
        draw()

    def show(self, html: str) -> None:
        """Pictures in a panel before the canvas."""
        if self._panel is None:
            clients = list(self.server.get_clients().values())
            room = max((client.camera.image_width for client in clients), default=WIDE + STRIP)
            self._panel = self.server.gui.add_panel()
            with self._panel.add_tab("Pictures"):
                self._html = self.server.gui.add_html("")
            self._panel.dock_right()
            self._panel.set_width(max(room - STRIP, 400))
        self._html.content = str(html)

    def live(self, html: str) -> None:
        """Pictures that come while work goes on; what was there is drawn anew afterwards."""
        self._shown = "live"
        self.show(html)

    def _bare(self) -> viser.SceneApi:
        """The canvas with nothing on it or before it."""
        if self._panel is not None:
            self._panel.remove()
            self._panel = None
        self.server.scene.reset()
        return self.server.scene

    def _look(self, aim: Callable[[Any], None], fits: bool) -> None:
        """Turn the view of whoever has the page open, and of whoever will."""
        self._aim, self._fits = aim, fits
        for client in self.server.get_clients().values():
            aim(client.camera)

    def _rig(self, state: State) -> None:
        """Cameras and board poses, and the floor where it is known."""
        scene = self._bare()
        if state.rig is None or state.rig.account is None or state.cameras is None:
            return
        marks = {} if state.world is None else state.world.places
        middle, place = add_rig(scene, replace(state.rig.account.placed(state.cameras), gates=state.gates, marks=marks))

        def aim(camera: Any) -> None:
            camera.up_direction, camera.position, camera.look_at = (0.0, 0.0, 1.0), place, middle

        self._look(aim, fits=False)

    def _to_click(self, state: State) -> None:
        """One camera's picture as a plane to click on: upright at y = 0, one unit high."""
        image = pictures.marked(state)
        high, wide = image.shape[:2]
        scene = self._bare()
        plain: dict[str, Any] = {"format": "jpeg", "jpeg_quality": 90, "cast_shadow": False, "receive_shadow": False}
        scene.add_image("/picture", image, wide / high, 1.0, wxyz=UPRIGHT, **plain)
        self._picture = wide, high

        def aim(camera: Any) -> None:
            fit = max(1.0, wide / high / max(camera.aspect, 0.1))
            away = 0.52 * fit / math.tan(camera.fov / 2)
            camera.up_direction, camera.position, camera.look_at = (0.0, 0.0, 1.0), (0.0, -away, 0.0), (0.0, 0.0, 0.0)

        self._look(aim, fits=True)


def pixel(origin: tuple[float, ...], direction: tuple[float, ...], wide: int, high: int) -> tuple[float, float]:
    """Where a ray meets the plane of the picture, px."""
    along = -origin[1] / direction[1]
    right, up = origin[0] + along * direction[0], origin[2] + along * direction[2]
    return right * high + (wide - 1) / 2, -up * high + (high - 1) / 2

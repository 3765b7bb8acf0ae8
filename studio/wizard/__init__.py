"""The calibration wizard: a page in the browser from board clips to an accepted calibration.

It has no logic of its own: what its buttons do are calls that a script can make (`studio.wizard.actions`, `studio.board_steps`).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import webbrowser
from pathlib import Path

import viser

from studio.wizard.actions import begun
from studio.wizard.page import Page

__all__ = ["Page", "begun", "opened", "serve"]


def opened(session: Path, host: str = "127.0.0.1", port: int = 8080) -> Page:
    """The wizard's page on a session, served until `page.server.stop()`; on the next free port where `port` is taken."""
    with contextlib.redirect_stdout(io.StringIO()):  # its address is told in our words
        server = viser.ViserServer(host=host, port=port, label="Calibration", verbose=False)
    return Page(server, begun(session))


def serve(session: Path, host: str = "127.0.0.1", port: int = 8080, browse: bool = True) -> None:
    """Serve the wizard until it is interrupted, and open it in a browser where there is one."""
    page = opened(session, host, port)
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{page.server.get_port()}"
    print(f"wizard: {address} calibrates {session}; Ctrl-C ends it", flush=True)
    if browse and (sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)):  # else a text browser might start
        webbrowser.open(address)
    try:
        page.server.sleep_forever()
    finally:
        page.server.stop()

"""The wizard's page in the browser: draws a state, and runs one action at a time, long ones in a thread that can be stopped."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import viser

from studio.board_steps import Told
from studio.wizard import actions, canvas, pages, parts, pictures
from studio.wizard.state import MARKS, STEPS, Choices, State, Step

LEFT = 430
"""Width of the panel with the fields, px."""
EVERY, LIVE = 0.1, 0.25
"""Seconds between two signs of progress, and between two live pictures."""

LATE = 0.15
"""Seconds by which the browser may tell the last keystrokes in a field after the press of a button."""


class Stopped(Exception):
    """The operator stopped the work."""


class Page:
    """One page, the same for everybody who has it open."""

    def __init__(self, server: viser.ViserServer, state: State) -> None:
        self.server, self.gui, self.state = server, server.gui, state
        self._fields: dict[str, Any] = {}
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._begun = self._drawn = 0.0
        self._content: Any = None
        self._canvas = canvas.Canvas(server, self)
        self.shown: Any = None
        """Bar, line and button of the work that goes on."""
        self.gui.configure_theme(show_logo=False, show_share_button=False)
        self.gui.set_panel_label("Calibration")
        self.gui.main_panel.dock_left()
        self.gui.main_panel.set_width(LEFT)
        self.show(state)

    def show(self, state: State) -> None:
        """Draw a state."""
        with self._lock:
            self.state = state
            clicking = state.step == "floor" and state.choices.floor == MARKS
            if clicking:  # the words speak of the picture that is there
                self._canvas.draw(state)
            self._draw(state)
            if not clicking and not state.doing:
                self._canvas.draw(state)

    def _draw(self, state: State) -> None:
        """Words, fields and buttons."""
        with self.server.atomic():
            if self._content is not None:
                self._content.remove()
            self._fields.clear()
            self._content = self.gui.add_folder(None)
            with self._content:
                self.html(parts.header(state))
                if state.doing:
                    pages.working(self)
                else:
                    pages.PAGES[state.step](self)

    def field(self, name: str, handle: Any, changed: Callable[[State], State] | None = None) -> None:
        """A field of `Choices`; `changed` is done at once when it changes."""
        assert name in {f.name for f in fields(Choices)}
        self._fields[name] = handle
        if changed is not None:
            handle.on_update(lambda _: self.act(changed))

    def html(self, content: str) -> Any:
        """Words, tables, pictures; the handle of what was put there."""
        return self.gui.add_html(str(content))  # plain text: the sender knows no kinds of it

    def button(self, label: str, action: Callable[[State], State], main: bool = False, hint: str | None = None) -> None:
        """A button that goes from one state to the next."""
        self.gui.add_button(label, color=None if main else "gray", hint=hint).on_click(lambda _: self.act(action))

    def work_button(self, label: str, doing: str, action: Callable[[State, Told], State]) -> None:
        """A button that starts long work."""
        self.gui.add_button(label).on_click(lambda _: self.work(doing, action))

    def live_button(self, label: str, doing: str, action: Callable[[State, threading.Event, actions.Show], State]) -> None:
        """A button that shows what cameras see until it is stopped."""

        def show(images: dict[str, Any], told: dict[str, list[str]]) -> None:
            if time.monotonic() - self._drawn > LIVE and not self._stop.is_set():
                self._canvas.live(pictures.live(images, told))
                self._drawn = time.monotonic()
                pages.elapsed(self, self._drawn - self._begun)

        def work(state: State, told: Told) -> State:
            return action(state, self._stop, show)

        self.gui.add_button(label, color="gray").on_click(lambda _: self.work(doing, work))

    def back(self, step: Step) -> None:
        """A button to an earlier step."""
        self.button(f"Back: {STEPS[step].lower()}", lambda state: state.at(step))

    def act(self, action: Callable[[State], State]) -> None:
        """Do something short, unless long work is going on."""
        time.sleep(LATE)
        with self._lock:
            if not self.state.doing:
                self.show(self._after(action, self._read()))

    def work(self, doing: str, action: Callable[[State, Told], State]) -> None:
        """Do something long in a thread, with progress on the page."""
        time.sleep(LATE)
        with self._lock:
            if self.state.doing:
                return
            self._stop.clear()
            self._begun = time.monotonic()
            before = replace(self._read(), message="")
            self.show(replace(before, doing=doing))
            self._thread = threading.Thread(target=self._worked, args=(before, action), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask the work to stop at its next sign of progress."""
        self._stop.set()
        pages.stopping(self)

    def _worked(self, before: State, action: Callable[[State, Told], State]) -> None:
        last = 0.0

        def told(part: float, doing: str) -> None:
            nonlocal last
            if self._stop.is_set():
                raise Stopped
            if time.monotonic() - last > EVERY:
                last = time.monotonic()
                pages.progress(self, part, doing)

        self.show(self._after(lambda state: action(state, told), before))

    def _after(self, action: Callable[[State], State], before: State) -> State:
        """The state after an action; where that failed, the one before with a message for the operator."""
        try:
            return action(before)
        except Stopped:
            return replace(before, message="Stopped; what was done before is kept.")
        except (ValueError, OSError, ImportError) as error:
            return replace(before, message=str(error))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)  # for whoever reports it; the operator goes on
            return replace(
                before, message=f"A fault of the studio: {type(error).__name__}: {error}. Please report what the terminal shows."
            )

    def _read(self) -> State:
        """The state with what stands in the fields now."""
        kinds = {f.name: type(getattr(self.state.choices, f.name)) for f in fields(Choices)}
        values = {name: kinds[name](handle.value) for name, handle in self._fields.items()}
        return replace(self.state, choices=replace(self.state.choices, **values))

"""The timeline under the viewer, kept up to date with a session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from .records import DOUBTFUL
from .session import Session

if TYPE_CHECKING:
    from .timeline import ConfidenceTimeline


class Review:
    """Makes the timeline once there is something to show, as a dock of its own.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the dock goes.
    go_to : callable
        Called with the frame that the user picks in the timeline.
    """

    def __init__(self, viewer: Any, go_to: Callable[[int], object]) -> None:
        self.timeline: ConfidenceTimeline | None = None
        self._viewer = viewer
        self._go_to = go_to
        self._dock: Any = None
        self._closed = False  # by the user
        self._shown: set[int] = set()

    @staticmethod
    def prepare() -> None:
        """Import what the timeline draws with, in a thread: a click would wait for it."""
        modules = ("matplotlib.figure", "matplotlib.backends.backend_qtagg")
        Thread(target=lambda: [import_module(m) for m in modules], daemon=True).start()

    def show(self, session: Session) -> None:
        """Bring everything up to date."""
        if self.timeline is None:
            seen = any(not np.isnan(session.records[i].confidence).all() for i in session.object_ids)
            if not seen or self._closed or session.stack.n_frames < 2:
                return
            self._make()
        timeline = self.timeline
        assert timeline is not None
        timeline.set_frames(session.stack.n_frames)
        for i in session.object_ids:
            record = session.records[i]
            red, green, blue, _ = session.drawing.color(i).tolist()
            absent = ~record.present & ~np.isnan(record.confidence)
            prompted, doubted = session.asking.prompted_frames(i), session.asking.doubted_frames(i)
            timeline.set_object(i, (red, green, blue), record.confidence, prompted, absent, doubted)
        for i in self._shown - set(session.object_ids):
            timeline.remove_object(i)
        self._shown = set(session.object_ids)
        self.show_frame(session)

    def show_frame(self, session: Session) -> None:
        """Show which frame is in view, and what the current object's memory attention looked at there."""
        if self.timeline is None:
            return
        frame = session.current_frame
        self.timeline.set_current(frame)
        use = session.records[session.current_object].memory.get(frame)
        self.timeline.set_memory(*((), (), ()) if use is None else (use.conditioning, use.kept, use.pruned))

    def reopen(self) -> None:
        """Show the timeline again where it was closed."""
        self._closed = False

    def clear(self) -> None:
        """Show nothing."""
        self._closed = False
        if self.timeline is not None:
            self.timeline.clear()
        self._shown.clear()

    def close(self) -> None:
        """Take the dock away."""
        with suppress(ValueError, TypeError, RuntimeError):
            self._viewer.events.theme.disconnect(self._color)
        if self._dock is not None:
            with suppress(Exception):  # the window may be gone before
                self._viewer.window.remove_dock_widget(self._dock)
        self._dock = self.timeline = None

    def _make(self) -> None:
        from .timeline import ConfidenceTimeline

        self.timeline = ConfidenceTimeline()
        self.timeline.set_threshold(DOUBTFUL)
        self.timeline.frame_chosen.connect(self._go_to)
        self._color()
        self._viewer.events.theme.connect(self._color)
        if (window := getattr(self._viewer, "window", None)) is not None:
            self._dock = window.add_dock_widget(self.timeline, name="Confidence", area="bottom")
            self._dock.destroyed.connect(self._on_destroyed)

    def _on_destroyed(self, _: Any = None) -> None:
        """Let go of it: its cross destroys it."""
        with suppress(ValueError, TypeError, RuntimeError):
            self._viewer.events.theme.disconnect(self._color)
        self._closed = True
        self._dock = self.timeline = None
        self._shown.clear()

    def _color(self, _: Any = None) -> None:
        from napari.utils.theme import get_theme

        if self.timeline is not None:
            theme = get_theme(self._viewer.theme)
            self.timeline.set_colors(theme.background.as_hex(), theme.text.as_hex())

"""Tracking through a video: a pass is begun, its frames are drawn and followed, and it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_surgsam2.errors import PromptError

from .asking import Asking
from .drawing import Drawing
from .given import says_where
from .worker import PassEnd, PassFrame, TrackerThread, sentence

if TYPE_CHECKING:
    from napari_surgsam2.tracking import Direction

_FOLLOW_EVERY = 0.25  # seconds between two moves of the slider while tracking


class Passes(QObject):
    """One pass after the other, each of which is a step that can be undone.

    Parameters
    ----------
    asking : Asking
        What was said of the objects.
    drawing : Drawing
        Where the masks go.
    thread : TrackerThread
        What tracks.
    go_to : callable
        Called with a frame that is to be shown.
    tell : callable
        Called with what goes wrong.

    Attributes
    ----------
    tracking : bool
        Whether a pass is under way.
    follow : bool
        Whether the next pass is to be followed with the slider.
    """

    progressed = Signal(object)  # PassFrame
    ended = Signal(object)  # PassEnd

    def __init__(
        self,
        asking: Asking,
        drawing: Drawing,
        thread: TrackerThread,
        go_to: Callable[[int], object],
        tell: Callable[[str], object],
    ) -> None:
        super().__init__()
        self.tracking = False
        self.follow = True
        self._asking, self._drawing, self._thread = asking, drawing, thread
        self._go_to, self._tell = go_to, tell
        self._objects: set[int] | None = None  # that are tracked; all if None
        self._following = False
        self._moved_at = 0.0
        thread.tracked.connect(self._on_tracked)
        thread.ended.connect(self.end)

    def begin(
        self,
        direction: Direction,
        start: int | None,
        frames: tuple[int, int] | None,
        objects: Sequence[int] | None,
    ) -> None:
        """Begin a pass; `Session.track` says what is asked for.

        Raises
        ------
        PromptError
            If there is nothing to track.
        """
        known = self._asking.known
        asked = {i for _, i in known if objects is None or i in objects}
        positive = {i for (_, i), prompts in known.items() if any(map(says_where, prompts))}
        if not asked & positive:
            which = "any object" if objects is None else " or ".join(f"object {i}" for i in objects)
            raise PromptError(
                f"There is nothing to track: no positive click, box or mask on {which}. Click on it first."
            )
        self.tracking = True
        self._objects = None if objects is None else set(objects)
        self._drawing.begin_pass(self._asking.state)
        self._following, self._moved_at = self.follow, 0.0
        self._thread.track(direction, start, frames, None if objects is None else sorted(asked))

    def follow_no_more(self) -> None:
        """Leave the slider where it is for the rest of the pass."""
        self._following = False

    def _on_tracked(self, tracked: PassFrame) -> None:
        if not self.tracking or self._drawing.canvas is None:
            return
        try:
            self._drawing.draw_tracked(tracked.answer, self._objects)
        except Exception as error:  # a full disk, or whatever an array of the user's raises
            self._thread.stop()
            self._tell(f"Masks cannot be written: {sentence(error)}")
            return
        if self._following and time.monotonic() - self._moved_at > _FOLLOW_EVERY:
            self._go_to(tracked.answer.frame)
            self._moved_at = time.monotonic()
        self.progressed.emit(tracked)

    def end(self, end: PassEnd) -> None:
        """End the pass that is under way, if one is, as it is said how; what it did stays."""
        if not self.tracking:
            return
        self.tracking = False
        self._drawing.end_pass()
        if end.error is not None:
            kept = f" {end.done} frames are done and kept." if end.done else ""
            self._tell(f"{sentence(end.error)}{kept}")
        self.ended.emit(end)

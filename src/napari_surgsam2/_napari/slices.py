"""Long work done a slice at a time, so that the window stays alive meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from .timers import single_shot

_SLICE = 0.03  # seconds of work before the window gets its turn


class SlicedWork:
    """Goes through iterators one after the other; they work in the thread of the window between two items.

    Parameters
    ----------
    done : callable
        Called when nothing is left to do.
    """

    def __init__(self, done: Callable[[], object]) -> None:
        self._done = done
        self._waiting: deque[Iterator[object]] = deque()
        self._working = False
        self._timer = single_shot(0, self._go_on)

    @property
    def is_busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting)

    def do(self, work: Iterator[object]) -> None:
        """Begin work at once, or after what is under way; what takes no longer than a slice is done then."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self._go_on()

    def finish(self, seconds: float = float("inf")) -> None:
        """Do all that is left now, as far as time allows; nothing where the work itself asks for it."""
        if self.is_busy and not self._working:
            self._go_on(seconds)

    def stop(self) -> None:
        """Leave undone what is left."""
        self._timer.stop()
        self._waiting.clear()

    def _go_on(self, seconds: float | None = None) -> None:
        until = time.monotonic() + (_SLICE if seconds is None else seconds)
        self._timer.start()  # goes on, after an error as well
        while self._waiting:
            work, ended = self._waiting[0], True
            self._working = True
            try:
                ended = next(work, work) is work
            finally:
                self._working = False
                if ended and work in self._waiting:  # it may have been stopped meanwhile
                    self._waiting.remove(work)
            if not ended and time.monotonic() >= until:
                return
        self._timer.stop()
        self._done()

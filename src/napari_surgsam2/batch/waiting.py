"""Waiting for a scheduler's workers, which may come late or never."""

from __future__ import annotations

import time

from .connection import Connection, ConnectionLostError

# Of all workers; one that loads a model or is at a large frame may say nothing for longer.
_SECONDS_OF_SILENCE = 10.0
_SECONDS_BETWEEN_NOTES = 60.0


class WorkerWatch:
    """Finds that a scheduler has no workers, by asking it when none has said anything for a while.

    That is no error: a cluster may start workers only as jobs wait, and they may wait for hours in a queue.
    """

    def __init__(self) -> None:
        self.heard()

    def heard(self) -> None:
        """Note that a worker has said something."""
        self._next_look = time.monotonic() + _SECONDS_OF_SILENCE
        self._next_note = 0.0

    def look(self, connection: Connection) -> str:
        """Return what is to be told: at first and every minute that there are no workers, else nothing.

        That may take some seconds.
        """
        now = time.monotonic()
        if now < self._next_look:
            return ""
        self._next_look = now + _SECONDS_OF_SILENCE
        try:
            count = connection.count_workers()
        except ConnectionLostError:  # the jobs will be found to be let go
            return ""
        if count:
            self.heard()
            return ""
        if now < self._next_note:
            return ""
        self._next_note = now + _SECONDS_BETWEEN_NOTES
        return (
            f"Waiting for workers: the scheduler at {connection.address} has none. Start some that reach it, "
            "or stop with Ctrl+C."
        )

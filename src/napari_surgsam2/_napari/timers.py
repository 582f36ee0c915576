"""Timers that fire once."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QTimer


def single_shot(milliseconds: int, call: Callable[[], object]) -> QTimer:
    """Return a timer that, each time it is started, calls once after a while; starting again begins anew."""
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(call)
    return timer

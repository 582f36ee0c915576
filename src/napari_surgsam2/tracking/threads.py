"""How threads of a process share the threads of the CPU that torch reckons with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_sharing, _all = 0, 0  # how many share torch's threads just now, and how many threads there are
_taken = 0  # and how many of them they have


def all_threads() -> int:
    """Return how many threads of the CPU torch uses where it need not share them.

    A thread that begins meanwhile would itself be told the share of another.
    """
    with _lock:
        return _all if _sharing else torch.get_num_threads()


def threads_left() -> int | None:
    """Return how many threads those leave who share torch's just now, at least one; None if nobody does."""
    with _lock:
        return max(_all - _taken, 1) if _sharing else None


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads of the CPU here, and all of them again afterwards; None changes nothing.

    What is set in one thread holds for all that begin later.
    """
    global _sharing, _all, _taken
    if count is None:
        yield
        return
    with _lock:
        if not _sharing:
            _all = torch.get_num_threads()
        _sharing += 1
        _taken += count
    torch.set_num_threads(count)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(_all)
            _sharing -= 1
            _taken -= count

"""Reading frames in a thread while the caller works on earlier ones."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

from .base import Video

Transform = Callable[[NDArray[np.uint8]], Any]
Items = Generator[tuple[int, Any], None, None]


def read_ahead(
    video: Video, frames: Iterable[int], transform: Transform | None = None, ahead: int = 4
) -> Items:
    """Yield frames in the order asked for, reading the next ones in a background thread.

    The thread starts with the first item taken and has ended when the generator is exhausted, closed or
    dropped, or has raised.

    Parameters
    ----------
    video : Video
        Used from the thread; a `reopen`ed one if the caller reads other frames of it meanwhile.
    frames : iterable of int
        Which frames, in which order.
    transform : callable, optional
        Applied to each (Y, X, 3) frame in the thread, such as resizing.
    ahead : int
        How many frames may be read before they are asked for; 0 reads in turn, without a thread.

    Yields
    ------
    index : int
        The frame's index.
    item : object
        What `transform` returned, or the frame.

    Raises
    ------
    UsageError
        If `ahead` is negative.
    VideoError
        If a frame cannot be read; raised in its turn, after the frames before it.
    """
    if ahead < 0:
        raise UsageError(f"ahead is {ahead}; it must be a whole number, at least 0.")
    items = _read(video, frames, transform)
    return items if ahead == 0 else _read_in_thread(items, ahead)


def _read(video: Video, frames: Iterable[int], transform: Transform | None) -> Items:
    for index in frames:
        pixels = video.frame(index)
        yield index, pixels if transform is None else transform(pixels)


class _Buffer:
    """What the thread and the consumer share; `changed` guards all of it."""

    def __init__(self) -> None:
        self.items: deque[tuple[int, Any]] = deque()
        self.error: BaseException | None = None
        self.finished = False
        self.changed = threading.Condition()


def _fill(buffer: _Buffer, items: Items, ahead: int) -> None:
    error: BaseException | None = None
    try:
        while True:
            with buffer.changed:
                buffer.changed.wait_for(lambda: buffer.finished or len(buffer.items) < ahead)
                if buffer.finished:
                    return
            item = next(items, None)
            if item is None:
                return
            with buffer.changed:
                buffer.items.append(item)
                buffer.changed.notify_all()
    # Whatever goes wrong belongs to the consumer.
    except BaseException as raised:
        error = raised
    finally:
        with buffer.changed:
            buffer.error = error
            buffer.finished = True
            buffer.changed.notify_all()


def _read_in_thread(items: Items, ahead: int) -> Items:
    buffer = _Buffer()
    thread = threading.Thread(target=_fill, args=(buffer, items, ahead), name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            with buffer.changed:
                buffer.changed.wait_for(lambda: buffer.finished or buffer.items)
                if not buffer.items:
                    break
                item = buffer.items.popleft()
                buffer.changed.notify_all()
            yield item
        if buffer.error is not None:
            raise buffer.error
    finally:
        with buffer.changed:
            buffer.finished = True
            buffer.changed.notify_all()
        # A dropped generator may be collected in the reading thread itself.
        if thread is not threading.current_thread():
            thread.join()

"""Videos in arrays: numpy, dask, zarr, or anything else with a shape, a dtype and indexing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .axes import AxesPlan
from .base import Video, VideoInfo
from .contrast import Contrast

BLOCKS_KEPT = 2
LARGEST_BLOCK = 256 * 2**20


class ArrayLike(Protocol):
    """All that is asked of an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""

    @property
    def dtype(self) -> Any:
        """Type of the values."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a part that `numpy.asarray` understands."""


class BlockReader:
    """Takes frames from an array, whole chunks at a time where a chunk holds several frames.

    A chunk of dask or zarr is computed as a whole whatever is asked of it; the last two are kept, so that
    playing through a video computes each once. Chunks above 256 MiB are not kept: there, single frames are
    asked for.

    Parameters
    ----------
    array : array-like
        Indexed as `plan` says. Its `chunks`, if it has any, are dask's (a tuple of lengths per axis) or
        zarr's (a length per axis).
    plan : AxesPlan
        How a frame is taken from `array`.
    """

    def __init__(self, array: ArrayLike, plan: AxesPlan) -> None:
        self._array = array
        self._plan = plan
        self._dtype = np.dtype(array.dtype).newbyteorder("=")
        self._bounds = _frame_bounds(array, plan)
        self._blocks: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __call__(self, index: int) -> NDArray[Any]:
        """Return frame `index` as (Y, X) or (Y, X, C), in memory of its own and in native byte order."""
        start, stop = self._block_of(index)
        if stop - start == 1 or (stop - start) * self._plan.frame_size * self._dtype.itemsize > LARGEST_BLOCK:
            pixels = np.asarray(self._array[self._plan.selection(index)])
        else:
            pixels = self._block(start, stop).take(index - start, axis=self._plan.run_axis())
        return np.array(self._plan.arrange(pixels), dtype=self._dtype, order="C")

    def clear(self) -> None:
        """Let go of the kept blocks."""
        self._blocks.clear()

    def _block_of(self, index: int) -> tuple[int, int]:
        if self._bounds is None:
            return index, index + 1
        place = int(np.searchsorted(self._bounds, index, side="right"))
        return int(self._bounds[place - 1]), int(self._bounds[place])

    def _block(self, start: int, stop: int) -> NDArray[Any]:
        block = self._blocks.pop(start, None)
        if block is None:
            while len(self._blocks) >= BLOCKS_KEPT:
                self._blocks.popitem(last=False)
            block = np.asarray(self._array[self._plan.selection(slice(start, stop))])
        self._blocks[start] = block
        return block


def _frame_bounds(array: ArrayLike, plan: AxesPlan) -> NDArray[np.int64] | None:
    """Return the frames at which chunks begin, and the end; None if a chunk holds no more than one."""
    chunks = getattr(array, "chunks", None)
    if plan.stack is None or not isinstance(chunks, Sequence) or len(chunks) != len(plan.shape):
        return None
    along = chunks[plan.stack]
    if isinstance(along, Sequence):
        return np.array([0, *accumulate(along)]) if max(along) > 1 else None
    if not isinstance(along, int) or along <= 1:
        return None
    return np.array([*range(0, plan.n_frames, along), plan.n_frames])


class StackVideo(Video):
    """A video whose frames are taken from an array, or from a file that is read like one.

    Parameters
    ----------
    open_array : callable
        Gives the array, and what closes it or None; called again by `reopen`.
    plan : AxesPlan
        How a frame is taken from the array.
    info : VideoInfo
        What is known of the video.
    contrast : Contrast
        The mapping to 8 bits.
    """

    def __init__(
        self,
        open_array: Callable[[], tuple[ArrayLike, Callable[[], None] | None]],
        plan: AxesPlan,
        info: VideoInfo,
        contrast: Contrast,
    ) -> None:
        super().__init__(info, contrast)
        self._open_array = open_array
        self._plan = plan
        self._reader: BlockReader | None = None
        self._close_array: Callable[[], None] | None = None

    def reopen(self) -> StackVideo:
        """Return an independent handle on the same source, with the same contrast limits."""
        handle = StackVideo(self._open_array, self._plan, self._info, self._contrast)
        if self.path is None:  # one array for all of them, which may read from a file of its own
            handle._lock = self._lock
        return handle

    @property
    def part(self) -> dict[str, Any]:
        """Which axes of the stack are what, and what was picked along the others."""
        plan = self._plan
        return {
            "y": plan.y,
            "x": plan.x,
            "colour": plan.colour,
            "frames": plan.stack,
            "picked": {str(axis): index for axis, index in sorted(plan.picked.items())},
        }

    def _read(self, index: int) -> NDArray[Any]:
        if self._reader is None:
            array, self._close_array = self._open_array()
            self._reader = BlockReader(array, self._plan)
        return self._reader(index)

    def _release(self) -> None:
        self._reader = None
        if self._close_array is not None:
            self._close_array()
            self._close_array = None

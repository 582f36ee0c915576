"""The picture within the black around it, as endoscopes leave it: the part that the network looks at."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_surgsam2.errors import VideoError
from napari_surgsam2.video import Video

_BLACK = 24  # of 255, at most
_FRAMES = 3  # that are looked at, from the first to the last
_FILLED = 0.7  # of the picture is not black in one of them: a disk fills 0.79 of the square around it
_LEAST = 32  # pixels of a side


class Window(NamedTuple):
    """A rectangle of the video, in its pixels: from the first row and column up to those after the last.

    Attributes
    ----------
    top, bottom, left, right : int
        Rows `top` to `bottom` and columns `left` to `right`, the last of each not included.
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """What to index a frame (Y, X, ...) with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def has(self, y: float, x: float) -> bool:
        """Whether a position of the video, (y, x), is in it."""
        return self.top <= y + 0.5 <= self.bottom and self.left <= x + 0.5 <= self.right

    def scaled(self, xy: Tensor, side: int) -> Tensor:
        """Take positions of the video (..., 2), (x, y), to the network's input; those outside to its edge."""
        height, width = self.shape
        end = xy.new_tensor([width, height])
        inside = (xy - xy.new_tensor([self.left, self.top])).clamp(min=-torch.ones_like(end), max=end)
        return inside * (side / end)


def whole(video: Video) -> Window:
    """Return the window that all of a video is in."""
    return Window(0, video.height, 0, video.width)


def find_window(video: Video) -> Window:
    """Return where the picture is in a video whose frames have black around it; else all of it.

    Black is what is so in the first, the middle and the last frame, in whole rows and columns. Where much of
    what is left is black too, as between cells, nothing is left out.
    """
    seen: npt.NDArray[np.bool_] = np.zeros((video.height, video.width), dtype=bool)
    for frame in sorted({round(f) for f in np.linspace(0, video.n_frames - 1, _FRAMES)}):
        with suppress(VideoError):  # damaged, and perhaps never asked for
            seen |= video.frame(frame).max(axis=-1) > _BLACK
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return whole(video)
    window = Window(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    is_picture = min(window.shape) >= _LEAST and seen[window.slices].mean() >= _FILLED
    return window if is_picture else whole(video)

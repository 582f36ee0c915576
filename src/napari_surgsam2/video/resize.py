"""Resizing of frames for the network."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_surgsam2.errors import UsageError


def resize_frame(frame: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Resize a frame to a square, as SAM 2 does: bicubic with antialiasing, not keeping the aspect ratio.

    Parameters
    ----------
    frame : ndarray of uint8, shape (Y, X, 3)
        RGB.
    size : int
        Side of the square in pixels.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)

    Raises
    ------
    UsageError
        If `frame` is of another type or shape, or `size` is less than 1.
    """
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise UsageError(
            f"The frame is {frame.dtype} of shape {frame.shape}; it must be uint8 of shape (Y, X, 3), as "
            "Video.frame returns it."
        )
    try:
        side = operator.index(size)
    except TypeError as error:
        raise UsageError(f"size is {size!r}; it must be a whole number, at least 1.") from error
    if side < 1:
        raise UsageError(f"size is {side}; it must be a whole number, at least 1.")
    return np.array(Image.fromarray(frame).resize((side, side)))

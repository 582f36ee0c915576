"""Resizing of frames for the network."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError


def resize_frame(frame: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Resize a frame to a square, as SAM 2 does: bicubic with antialiasing, not keeping the aspect ratio.

    SAM 2 does it with Pillow, whose result differs by one or two of 255 in a few of a thousand values; this
    is several times as fast.

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
    import torch  # only here: reading videos does without
    import torch.nn.functional as F

    image = torch.from_numpy(np.require(frame, requirements=["C", "W"])).permute(2, 0, 1)[None]
    resized: NDArray[np.uint8] = (
        F.interpolate(image, (side, side), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    )
    return resized

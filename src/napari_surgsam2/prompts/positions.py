"""Where one would click."""

from __future__ import annotations

import numpy as np

from .kinds import BoolArray


def central_position(mask: BoolArray) -> tuple[int, int]:
    """Return the pixel (y, x) of a mask (Y, X) that lies farthest from its outline and the picture's edge.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    if not mask.any():
        raise ValueError("an empty mask has no middle")
    return _deepest(mask)[0]


def correcting_position(mask: BoolArray, wanted: BoolArray) -> tuple[tuple[int, int], bool]:
    """Return where to click to correct a mask: in the middle of its largest mistake, as SAM 2 is evaluated.

    What is missed and what is too much are compared by how far inside them one can be, as in SAM 2's
    evaluation on videos (arXiv 2408.00714 and its published code).

    Parameters
    ----------
    mask, wanted : array, shape (Y, X), bool
        What was made of the object, and what it is; not the same.

    Returns
    -------
    position : tuple of 2 ints
        The pixel (y, x).
    positive : bool
        Whether the object is missed there.

    Raises
    ------
    ValueError
        If nothing is wrong.
    """
    (missed, depth_missed), (extra, depth_extra) = _deepest(wanted & ~mask), _deepest(mask & ~wanted)
    if not depth_missed and not depth_extra:
        raise ValueError("nothing is wrong with the mask")
    return (missed, True) if depth_missed > depth_extra else (extra, False)


def _deepest(mask: BoolArray) -> tuple[tuple[int, int], float]:
    """Return the pixel farthest inside, and how far that is in pixels; 0 of an empty mask."""
    from scipy import ndimage  # here, because it takes a while to import

    if not mask.any():
        return (0, 0), 0.0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    depth = ndimage.distance_transform_edt(part)  # type: ignore[attr-defined]
    y, x = np.unravel_index(int(depth.argmax()), part.shape)
    return (int(y) - 1 + int(rows[0]), int(x) - 1 + int(columns[0])), float(depth[y, x])

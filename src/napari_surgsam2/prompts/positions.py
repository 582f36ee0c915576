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
    from scipy import ndimage  # here, because it takes a while to import

    if not mask.any():
        raise ValueError("an empty mask has no middle")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    depth = ndimage.distance_transform_edt(part)  # type: ignore[attr-defined]
    y, x = np.unravel_index(int(depth.argmax()), part.shape)
    return int(y) - 1 + int(rows[0]), int(x) - 1 + int(columns[0])

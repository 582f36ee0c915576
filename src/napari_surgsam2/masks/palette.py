"""Colours of objects: the PASCAL VOC colour map, which DAVIS and most mask tools use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def voc_palette(n: int = 256) -> NDArray[np.uint8]:
    """Return the first colours of the PASCAL VOC map; DAVIS palette PNGs carry the same 256.

    Bits 0, 1 and 2 of an index go to the highest bits of red, green and blue, bits 3, 4 and 5 to the next
    lower ones, and so on; neighbouring indices therefore look different.

    Parameters
    ----------
    n : int
        How many colours.

    Returns
    -------
    ndarray, shape (n, 3), uint8
        Red, green, blue; the first is black, the background.
    """
    indices = np.arange(n)
    palette = np.zeros((n, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (indices >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


_PALETTE = voc_palette()


def object_color(object_id: int) -> tuple[int, int, int]:
    """Return the (red, green, blue) of an object, 0 to 255 each.

    It is the PASCAL VOC colour of the id; ids above 255 go round the colours 1 to 255 again, since the
    map's later colours are too dark to see. 0 is black.
    """
    index = 0 if object_id == 0 else (object_id - 1) % 255 + 1
    red, green, blue = _PALETTE[index].tolist()
    return red, green, blue

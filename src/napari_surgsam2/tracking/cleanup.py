"""Filling small holes of a mask and removing its small pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def clean_mask(mask: NDArray[Any], fill_holes: int = 0, remove_speckles: int = 0) -> NDArray[np.bool_]:
    """Fill the small holes of one object's mask, then remove its small separate pieces.

    A hole is background enclosed by the mask (4-connected; what touches the image's edge is no hole);
    pieces are 8-connected. Cleaning twice is the same as cleaning once.

    Parameters
    ----------
    mask : ndarray, shape (Y, X)
        The object's mask, boolean or zero and non-zero; it is not changed.
    fill_holes : int
        Holes of up to this area in pixels are filled; 0 fills none.
    remove_speckles : int
        Pieces of up to this area in pixels are removed, but the largest piece always stays (the first one
        from the top, of several as large); 0 removes none.

    Returns
    -------
    ndarray, shape (Y, X), bool
        A new array.
    """
    cleaned = np.array(mask, dtype=bool)
    if fill_holes <= 0 and remove_speckles <= 0:
        return cleaned
    rows = np.flatnonzero(cleaned.any(axis=1))
    if rows.size == 0:
        return cleaned
    columns = np.flatnonzero(cleaned.any(axis=0))
    # Holes and pieces lie within the mask's bounding box, mostly a small part of the image.
    box = cleaned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if fill_holes > 0:
        _fill_holes(box, fill_holes)
    if remove_speckles > 0:
        _remove_speckles(box, remove_speckles)
    return cleaned


def _fill_holes(mask: NDArray[np.bool_], area: int) -> None:
    regions = _label(~mask, connectivity=1)
    sizes = np.bincount(regions.ravel())
    small = sizes <= area
    small[0] = False
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        small[edge] = False
    if small.any():
        mask |= small[regions]


def _remove_speckles(mask: NDArray[np.bool_], area: int) -> None:
    pieces = _label(mask, connectivity=2)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    speckle = sizes <= area
    speckle[sizes.argmax()] = False
    if speckle[1:].any():
        mask &= ~speckle[pieces]


def _label(mask: NDArray[np.bool_], connectivity: int) -> NDArray[np.intp]:
    from skimage import measure

    label: Callable[..., NDArray[np.intp]] = measure.label
    return label(mask, connectivity=connectivity)

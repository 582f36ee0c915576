"""What counts as a label volume, and its number type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError


class LabelArray(Protocol):
    """Labels, shape (T, Y, X), integers: numpy, zarr, dask or anything with these three."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of frames, rows and columns."""
        ...

    @property
    def dtype(self) -> Any:
        """The numpy dtype."""
        ...

    def __getitem__(self, key: int, /) -> Any:
        """Return frame `key`, array-like of shape (Y, X)."""
        ...


def label_dtype(max_object_id: int) -> np.dtype[Any]:
    """Return the smallest of uint8, uint16 and uint32 that holds `max_object_id`.

    Raises
    ------
    UsageError
        If it is negative or does not fit in 32 bits.
    """
    for dtype in (np.uint8, np.uint16, np.uint32):
        if 0 <= max_object_id <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise UsageError(f"The object id {max_object_id} cannot be stored; ids go from 1 to {2**32 - 1}.")


def as_labels(labels: Any, dtype: np.dtype[Any], shape: tuple[int, int], what: str) -> NDArray[Any]:
    """Return one frame of labels as an array, shape (Y, X), of `dtype`.

    Raises
    ------
    UsageError
        If the shape differs, the values are no integers, or one of them does not fit in `dtype`.
    """
    array = np.asarray(labels)
    if array.shape != shape:
        raise UsageError(f"{what} has shape {array.shape}; it must be {shape}, the (Y, X) of the volume.")
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "bui":
        raise UsageError(f"{what} has dtype {array.dtype}; labels must be integers.")
    highest = int(np.iinfo(dtype).max)
    if not np.can_cast(array.dtype, dtype) and array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > highest:
            wrong = low if low < 0 else high
            raise UsageError(f"{what} has the label {wrong}; labels of a {dtype} volume are 0 to {highest}.")
    return array.astype(dtype)


def volume_shape(labels: LabelArray) -> tuple[int, int, int]:
    """Return (T, Y, X) of `labels`, or raise UsageError if it is no such volume."""
    shape = tuple(int(n) for n in labels.shape)
    if len(shape) != 3 or 0 in shape:
        raise UsageError(f"The labels have shape {shape}; it must be (T, Y, X), none of them 0.")
    return shape


def compact_dtype(labels: LabelArray) -> np.dtype[Any]:
    """Return the unsigned dtype to store `labels` in: its own if it is one, else the smallest that fits.

    Signed and 64-bit labels are read once, frame by frame, to find the largest.

    Raises
    ------
    UsageError
        If the labels are no integers or below 0 or above 32 bits.
    """
    dtype: np.dtype[Any] = np.dtype(labels.dtype)
    if dtype.kind not in "bui":
        raise UsageError(f"The labels have dtype {dtype}; they must be integers.")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "u" and dtype.itemsize <= 4:
        return np.dtype(f"u{dtype.itemsize}")
    extremes = [0]
    for t in range(labels.shape[0]):
        frame = np.asarray(labels[t])
        extremes += [int(frame.min()), int(frame.max())]
    if min(extremes) < 0:
        raise UsageError(f"The labels contain {min(extremes)}; they must be 0 or more.")
    return label_dtype(max(extremes))


def iter_frames(labels: LabelArray, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Yield the frames one by one, shape (Y, X), of `dtype`; only one is held in memory."""
    count, height, width = volume_shape(labels)
    for t in range(count):
        yield as_labels(labels[t], dtype, (height, width), f"Frame {t}")

"""napari's Image layers as sources of videos, known by their attributes: napari itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_surgsam2.errors import VideoError

from .contrast import Limits

METADATA_KEY = "napari_surgsam2"
_EIGHT_BITS = (0.0, 255.0)
_LEADING_LETTERS = ("", "T", "TZ")
# What going to another layer's coordinates and back loses; positions mean no more than that.
_ROUNDING = 1e-6


class ImageLayer(Protocol):
    """All that is asked of an Image layer; `contrast_limits`, `metadata` and `name` are used if there.

    It lies in the same world as another layer if it has `world_to_data` and the other one `data_to_world`.
    """

    @property
    def data(self) -> Any:
        """An array, or of a multiscale layer a sequence of them, the largest first."""

    @property
    def rgb(self) -> bool:
        """Whether the last axis of the array holds colours."""

    @property
    def multiscale(self) -> bool:
        """Whether there are several arrays."""


def is_image_layer(source: object) -> TypeGuard[ImageLayer]:
    """Tell whether something is an Image layer."""
    return all(hasattr(source, name) for name in ("data", "rgb", "multiscale"))


def full_data(layer: ImageLayer) -> Any:
    """Return a layer's array, of a multiscale one that of the highest resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def spatial_shape(layer: ImageLayer) -> tuple[int, ...]:
    """Return the shape of a layer's array without colours."""
    shape = tuple(int(size) for size in full_data(layer).shape)
    return shape[:-1] if layer.rgb else shape


def layer_axes(layer: ImageLayer) -> str:
    """Return what the axes of a layer's array are: Y and X last but for colours, T first, Z between.

    Raises
    ------
    VideoError
        If there are more.
    """
    shape = spatial_shape(layer)
    leading = len(shape) - 2
    if not 0 <= leading < len(_LEADING_LETTERS):
        raise VideoError(
            f"The layer '{getattr(layer, 'name', '')}' has shape {shape}; it must be (Y, X), (T, Y, X) or "
            "(T, Z, Y, X), with colours or without. Say what the axes are with open_video(layer, axes=...), "
            "or show a part of it as a layer of its own."
        )
    return _LEADING_LETTERS[leading] + ("YXC" if layer.rgb else "YX")


def layer_limits(layer: ImageLayer) -> Limits | None:
    """Return the values that a layer shows as black and white: what the network sees is what the user sees.

    None where pixels are taken as they are: booleans, and whole numbers of 8 bits in colours or with limits
    that are as wide as can be.
    """
    dtype = np.dtype(full_data(layer).dtype)
    if layer.rgb:  # napari shows colours by their full range
        if dtype.kind == "f":
            return 0.0, 1.0
        return (0.0, float(np.iinfo(dtype).max)) if dtype.kind == "u" and dtype.itemsize > 1 else None
    limits = getattr(layer, "contrast_limits", None)
    if limits is None or dtype.kind == "b":
        return None
    low, high = (float(value) for value in limits)
    if not low < high or (dtype == np.uint8 and (low, high) == _EIGHT_BITS):
        return None
    return low, high


def layer_path(layer: ImageLayer) -> str | None:
    """Return the file or folder that a layer says it shows."""
    about = (getattr(layer, "metadata", None) or {}).get(METADATA_KEY)
    path = about.get("video") if isinstance(about, Mapping) else None
    return path if isinstance(path, str) and path else None


def rows_in_video(layer: ImageLayer, other: Any, rows: ArrayLike) -> NDArray[np.float64]:
    """Take positions in another layer to the video that an Image layer shows.

    Parameters
    ----------
    layer : image layer
        The video.
    other : layer
        The one that the positions are in, of any scale and place.
    rows : array, shape (N, D)
        Positions in its data; without an axis for frames they are in the first one.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        (frame, y, x), in pixels of the video.
    """
    shape = spatial_shape(layer)
    own = np.asarray(rows, dtype=np.float64)
    if own.size == 0:
        return np.empty((0, 3))
    missing = max(0, len(shape) - own.shape[1])
    table = np.pad(own, ((0, 0), (missing, 0)))[:, -len(shape) :]
    if hasattr(other, "data_to_world") and hasattr(layer, "world_to_data"):
        moved = np.array([layer.world_to_data(other.data_to_world(row)) for row in own], dtype=np.float64)
        moved[:, :missing] = 0
        if not np.allclose(moved, table, rtol=0, atol=_ROUNDING):
            table = moved
    followed = [axis for axis in range(len(shape) - 2) if shape[axis] > 1]
    # In a single picture all is on frame 0.
    axis = next(iter(followed), 0)
    frames = table[:, axis] if len(shape) > 2 else np.zeros(len(table))
    return np.column_stack([frames, table[:, -2:]])

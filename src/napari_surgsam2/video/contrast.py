"""Mapping of any pixel type to the 8 bits that the network and the eye see."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_surgsam2.errors import UsageError, VideoError

Limits = tuple[float, float]

PERCENTILES = (0.1, 99.9)
SAMPLED_FRAMES = 16
SAMPLED_VALUES = 65_536


def require_pixel_type(dtype: DTypeLike) -> None:
    """Refuse pixels that are not real numbers.

    Raises
    ------
    VideoError
        If `dtype` is neither boolean, integer nor floating point.
    """
    kind = np.dtype(dtype)
    if kind.kind not in "buif":
        raise VideoError(
            f"The pixels are of type {kind.name}; they must be booleans, integers or floating point numbers. "
            "Convert the array first, for instance with abs() for complex numbers."
        )


def validate_limits(limits: Iterable[float]) -> Limits:
    """Return `limits` as a pair of floats.

    Raises
    ------
    UsageError
        Unless they are two finite numbers, the first one smaller.
    """
    try:
        low, high = (float(value) for value in limits)
    except (TypeError, ValueError) as error:
        raise UsageError(f"contrast_limits is {limits!r}; it must be two numbers (low, high).") from error
    if not (low < high and math.isfinite(high - low)):
        raise UsageError(
            f"contrast_limits is ({low:g}, {high:g}); both must be finite and the first smaller than "
            "the second."
        )
    return low, high


def robust_limits(samples: Iterable[NDArray[Any]]) -> Limits:
    """Return the 0.1 and 99.9 percentiles of the finite values of all samples together.

    Where these coincide, as in a dark video with few bright pixels, the smallest and the largest value are
    taken. A constant video gets limits that show it black; one without a finite value gets (0, 1).

    Parameters
    ----------
    samples : iterable of ndarray, each of shape (Y, X) or (Y, X, C)
        Frames; of each at most about 65,536 values are looked at, on a regular grid.
    """
    values = np.concatenate([_thin(sample).astype(np.float64).ravel() for sample in samples])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    # A quarter of the range keeps the difference of any two limits finite.
    bound = float(np.finfo(np.float64).max) / 4
    values = np.clip(values, -bound, bound)
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    if low >= high:
        low, high = float(values.min()), float(values.max())
    if low >= high:
        high = low + max(1.0, abs(low) * 1e-6)
    return low, high


def _thin(frame: NDArray[Any]) -> NDArray[Any]:
    step = max(1, math.ceil(math.sqrt(frame.size / SAMPLED_VALUES)))
    return frame[::step, ::step]


def apply_limits(pixels: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    """Map `limits` linearly to 0 and 255; values outside are clipped, and NaN becomes 0.

    Parameters
    ----------
    pixels : ndarray of any shape
        Booleans, integers or floats.
    limits : (float, float)
        The values that become 0 and 255.

    Returns
    -------
    ndarray of uint8, of the shape of `pixels`
    """
    if pixels.dtype in (np.uint8, np.uint16):
        levels = np.arange(np.iinfo(pixels.dtype).max + 1)
        return np.take(_scale(levels, limits), pixels)
    return _scale(pixels, limits)


def _scale(pixels: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    low, high = limits
    scaled = np.clip(pixels.astype(np.float64), low, high)
    scaled -= low
    # Dividing first: the other order overflows for the widest limits.
    scaled /= high - low
    scaled *= 255
    scaled += 0.5
    return np.nan_to_num(scaled, copy=False, nan=0.0).astype(np.uint8)


class Contrast:
    """One mapping to 8 bits for a whole video, shared by all handles on it.

    Parameters
    ----------
    dtype : dtype
        Of the video's pixels.
    limits : (float, float), optional
        The values to show as 0 and 255. By default 8-bit and boolean pixels are shown as they are, and
        other types by percentiles of a sample of the video, taken once, when first needed.

    Raises
    ------
    UsageError
        If the limits are not two finite numbers, the first one smaller.
    """

    def __init__(self, dtype: DTypeLike, limits: Iterable[float] | None = None) -> None:
        self._as_is = limits is None and np.dtype(dtype) in (np.uint8, np.bool_)
        self._limits = None if limits is None else validate_limits(limits)
        self._lock = threading.Lock()

    def limits(self, n_frames: int, read: Callable[[int], NDArray[Any]]) -> Limits | None:
        """Return the limits, or None where pixels are shown as they are.

        Parameters
        ----------
        n_frames : int
            Length of the video.
        read : callable
            Gives the native pixels of a frame; called for at most 16 frames, and only the first time. Frames
            that cannot be read count for nothing.

        Raises
        ------
        VideoError
            If none of the frames can be read.
        """
        if self._as_is:
            return None
        with self._lock:
            if self._limits is None:
                chosen = np.unique(np.linspace(0, n_frames - 1, SAMPLED_FRAMES).round().astype(int))
                self._limits = robust_limits(_readable(read, chosen.tolist()))
            return self._limits


def _readable(read: Callable[[int], NDArray[Any]], chosen: Iterable[int]) -> list[NDArray[Any]]:
    samples = []
    failure: VideoError | None = None
    for index in chosen:
        try:
            # A copy of what counts, so that not all frames are held at once.
            samples.append(_thin(without_alpha(read(index))).copy())
        except VideoError as error:
            failure = error
    if failure is not None and not samples:
        raise failure
    return samples


def without_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (Y, X) pixels as they are, and of (Y, X, C) ones at most the first three channels."""
    return pixels if pixels.ndim == 2 else pixels[..., :3]


def to_rgb(pixels: NDArray[Any], limits: Limits | None) -> NDArray[np.uint8]:
    """Return native pixels as 8-bit RGB.

    Parameters
    ----------
    pixels : ndarray, shape (Y, X) or (Y, X, 3 or 4)
        Grey or colour, with or without alpha, which is dropped.
    limits : (float, float) or None
        See `apply_limits`; None for 8-bit and boolean pixels shown as they are.

    Returns
    -------
    ndarray of uint8, shape (Y, X, 3)
        C-contiguous; `pixels` itself if it is just that already.
    """
    pixels = without_alpha(pixels)
    if limits is not None:
        shown = apply_limits(pixels, limits)
    elif pixels.dtype == np.bool_:
        shown = pixels.astype(np.uint8) * np.uint8(255)
    else:
        shown = pixels
    if shown.ndim == 2:
        shown = np.repeat(shown[..., np.newaxis], 3, axis=2)
    return np.ascontiguousarray(shown)

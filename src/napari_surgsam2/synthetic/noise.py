"""Random fields and random courses: what everything made up is built from."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.interpolate import PchipInterpolator

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]


def resize(field: FloatArray, height: int, width: int) -> FloatArray:
    """Resize (Y, X) bicubically."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 1, gain: float = 0.5
) -> FloatArray:
    """Return smooth noise, about -1 to 1, with features of `cell` pixels and finer ones of less weight."""
    total = np.zeros((height, width), dtype=np.float32)
    weight, norm = 1.0, 0.0
    for _ in range(octaves):
        fine = cell <= 1.5
        rows, columns = (height, width) if fine else (int(height / cell) + 3, int(width / cell) + 3)
        grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
        if not fine:
            big = resize(grid, int(rows * cell) + 1, int(columns * cell) + 1)
            y, x = rng.integers(0, [big.shape[0] - height + 1, big.shape[1] - width + 1])
            grid = big[y : y + height, x : x + width]
        total += weight * grid
        norm += weight**2
        weight, cell = weight * gain, cell / 2
        if cell < 1:
            break
    return total * np.float32(1.4 / norm**0.5)


def smoothstep(x: FloatArray, low: float, high: float) -> FloatArray:
    """Go smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def wander(
    rng: np.random.Generator, frames: int, low: float, high: float, pace: float, rest: float = 0.3
) -> FloatArray:
    """Return a random course (T,) between two values.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the randomness comes from.
    frames : int
        T.
    low, high : float
        The limits.
    pace : float
        New values in a frame, on average.
    rest : float
        How often a value is held.
    """
    knots = max(2, int(np.ceil(frames * pace)) + 2)
    values = rng.uniform(low, high, knots)
    for i in range(1, knots):
        if rng.random() < rest:
            values[i] = values[i - 1]
    times = np.linspace(0, max(frames - 1, 1), knots) if frames * pace > 1 else np.arange(knots) / pace
    offset = 0.0 if frames * pace > 1 else rng.uniform(0, times[-1] - frames + 1)
    course = PchipInterpolator(times, values)  # type: ignore[no-untyped-call]
    return np.asarray(course(np.arange(frames) + max(offset, 0.0)), dtype=np.float32)

"""Mean, recall and decay of an object's scores over a video, as the DAVIS benchmarks define them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_QUARTERS = 4
_GOOD = 0.5


@dataclass(frozen=True)
class Statistics:
    """What a score is like over the frames of a video; nan where there are no frames.

    Attributes
    ----------
    mean : float
        Over the frames.
    recall : float
        Share of the frames in which the score is above 0.5.
    decay : float
        Mean of the first quarter of the frames minus that of the last: what is lost on the way.
    """

    mean: float
    recall: float
    decay: float


def statistics(scores: ArrayLike) -> Statistics:
    """Return mean, recall and decay of scores, shape (T,), in the order of the frames.

    Quarters are those of the benchmark's code: their borders are four equal steps from the first frame to
    the last, rounded, half up, and a frame on a border belongs to both quarters. (That code keeps the borders
    in 8 bits, so that its decay means something else in videos of more than 256 frames; here it does not.)
    """
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        return Statistics(math.nan, math.nan, math.nan)
    borders = np.floor(np.linspace(0, values.size - 1, _QUARTERS + 1) + 0.5 + 1e-10).astype(int)
    first, last = values[: borders[1] + 1], values[borders[-2] :]
    decay = float(first.mean() - last.mean())
    return Statistics(float(values.mean()), float((values > _GOOD).mean()), decay)

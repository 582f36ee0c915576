"""Agreement of two masks: J, F and their mean as in DAVIS 2017 (arXiv 1704.00675), and Dice.

Masks are array-like, bool or integers, any value but 0 being object. One mask, shape (Y, X), gives a float;
a volume, shape (T, Y, X), gives a (T,) float64 array. Volumes may be lazy: they are read frame by frame.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

_Mask = NDArray[np.bool_]

TOLERANCE = 0.008
"""How far contours may be apart to match, as a fraction of the image's diagonal; the benchmark's."""


def region_similarity(prediction: Any, reference: Any, void: Any = None) -> float | NDArray[np.float64]:
    """Return J, the Jaccard index: the intersection's area over the union's; 1 if both masks are empty.

    Parameters
    ----------
    prediction, reference : array-like
        Masks of the same shape, (Y, X) or (T, Y, X).
    void : array-like, optional
        Mask of the pixels not to be counted, of the same shape.

    Returns
    -------
    float or ndarray
        From 0 to 1; of volumes one for each frame.

    Raises
    ------
    UsageError
        If the shapes differ or the values are neither bool nor integers.
    """
    return _score(_jaccard, prediction, reference, void)


iou = region_similarity
"""J under the name that it has elsewhere, intersection over union."""


def dice(prediction: Any, reference: Any, void: Any = None) -> float | NDArray[np.float64]:
    """Return Dice: twice the intersection's area over the sum of the areas; 1 if both masks are empty.

    Parameters, returns and errors are those of `region_similarity`.
    """
    return _score(_dice, prediction, reference, void)


def contour_accuracy(
    prediction: Any, reference: Any, void: Any = None, tolerance: float = TOLERANCE
) -> float | NDArray[np.float64]:
    """Return F, the harmonic mean of the precision and the recall of the contour.

    A pixel is on the contour if its right, lower or lower right neighbor within the image has another value.
    Precision is the part of the predicted contour that has a pixel of the reference contour within the
    tolerance, recall the reverse. If only one mask has a contour F is 0, and if neither has one, each being
    empty or full, it is 1.

    Parameters
    ----------
    prediction, reference : array-like
        Masks of the same shape, (Y, X) or (T, Y, X).
    void : array-like, optional
        Mask of the pixels not to be counted, of the same shape. They are background in both masks, so that an
        object that reaches into them has a contour along their edge.
    tolerance : float, optional
        Below 1 a fraction of the image's diagonal, rounded up to whole pixels; from 1 a number of pixels.

    Returns
    -------
    float or ndarray
        From 0 to 1; of volumes one for each frame.

    Raises
    ------
    UsageError
        If the shapes differ, the values are neither bool nor integers, or the tolerance is below 0.
    """
    radius = _radius(tolerance, np.shape(reference))
    return _score(lambda p, r: _contour_f(p, r, radius), prediction, reference, void)


def j_and_f(
    prediction: Any, reference: Any, void: Any = None, tolerance: float = TOLERANCE
) -> float | NDArray[np.float64]:
    """Return the mean of `region_similarity` and `contour_accuracy`.

    Parameters, returns and errors are those of `contour_accuracy`.
    """
    radius = _radius(tolerance, np.shape(reference))
    return _score(lambda p, r: (_jaccard(p, r) + _contour_f(p, r, radius)) / 2, prediction, reference, void)


def label_scores(
    predicted_labels: Any, reference_labels: Any, object_ids: Iterable[int] | None = None
) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return J and F of every object in every frame.

    Parameters
    ----------
    predicted_labels, reference_labels : array-like
        Object ids, shape (T, Y, X), 0 being background.
    object_ids : iterable of int, optional
        The objects to score; by default all of the reference, for which it is read once more.

    Returns
    -------
    dict of int to (J, F)
        Two (T,) arrays for each object id. Where an object is in neither volume both are 1.

    Raises
    ------
    UsageError
        If the shapes differ or are not (T, Y, X), or the labels are no integers.
    """
    predicted, reference = _same_shape(
        {"predicted labels": predicted_labels, "reference labels": reference_labels}, ndims=(3,)
    )
    frames = int(reference.shape[0])
    if object_ids is None:
        found = {int(i) for t in range(frames) for i in np.unique(_integers(reference[t]))}
        object_ids = sorted(found - {0})
    scores = {operator.index(i): (np.ones(frames), np.ones(frames)) for i in object_ids}
    radius = _radius(TOLERANCE, reference.shape)
    for t in range(frames):
        ours, theirs = _integers(predicted[t]), _integers(reference[t])
        for i, (j, f) in scores.items():
            j[t], f[t], _ = mask_scores(ours == i, theirs == i, radius)
    return scores


def tolerance_in_pixels(shape: tuple[int, ...], tolerance: float = TOLERANCE) -> float:
    """Return how far contours in images of a shape (..., Y, X) may be apart to match; see `TOLERANCE`."""
    return _radius(tolerance, shape)


def mask_scores(prediction: _Mask, reference: _Mask, radius: float) -> tuple[float, float, float]:
    """Return J, F and Dice of two masks (Y, X), with the contours' tolerance in pixels."""
    masks = _crop(prediction, reference)
    return _jaccard(*masks), _contour_f(*masks, radius), _dice(*masks)


def _score(
    measure: Callable[[_Mask, _Mask], float], prediction: Any, reference: Any, void: Any
) -> float | NDArray[np.float64]:
    """Apply `measure` to the part of the masks, or of each of their frames, that holds objects."""
    given = {"prediction": prediction, "reference": reference}
    volumes = _same_shape(given if void is None else given | {"void mask": void}, ndims=(2, 3))

    def score(*images: Any) -> float:
        ours, theirs, *ignored = (_integers(image).astype(bool, copy=False) for image in images)
        if ignored:
            ours, theirs = ours & ~ignored[0], theirs & ~ignored[0]
        return measure(*_crop(ours, theirs))

    if len(volumes[0].shape) == 2:
        return score(*volumes)
    frames = range(int(volumes[0].shape[0]))
    return np.array([score(*(volume[t] for volume in volumes)) for t in frames], dtype=np.float64)


def _same_shape(given: dict[str, Any], ndims: tuple[int, ...]) -> list[Any]:
    """Return what is given as arrays, lazy ones as they are, if they are alike in shape."""
    arrays = [array if hasattr(array, "shape") else np.asarray(array) for array in given.values()]
    shapes = {name: tuple(array.shape) for name, array in zip(given, arrays, strict=True)}
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other != shape:
            raise UsageError(
                f"The {first} has shape {shape} and the {name} {other}; they must be alike: take the same "
                f"frames at the same size of both."
            )
    if len(shape) not in ndims:
        axes = " or ".join({2: "(Y, X)", 3: "(T, Y, X)"}[n] for n in ndims)
        raise UsageError(f"The {first} has shape {shape}; it must be {axes}.")
    return arrays


def _integers(image: Any) -> NDArray[Any]:
    array = np.asarray(image)
    if array.dtype.kind not in "bui":
        raise UsageError(
            f"A mask or label image has dtype {array.dtype}; it must be bool or integers: threshold scores "
            f"first."
        )
    return array


def _radius(tolerance: float, shape: tuple[int, ...]) -> float:
    """Return the tolerance in pixels."""
    if not 0 <= tolerance < math.inf:
        raise UsageError(
            f"tolerance is {tolerance!r}; it must be a fraction of the diagonal, from 0 to below 1, or a "
            f"number of pixels, from 1."
        )
    return tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*shape[-2:]))


def _crop(a: _Mask, b: _Mask) -> tuple[_Mask, _Mask]:
    """Return views of both masks that hold their objects and contours.

    These are the objects' joint bounding box and one pixel around it, where the image has one: an object's
    contour is up to one pixel off it, and background at the edge of a view has no contour, as in the image.
    """
    both = a | b
    rows, columns = np.flatnonzero(both.any(axis=1)), np.flatnonzero(both.any(axis=0))
    if not rows.size:
        return a[:0, :0], b[:0, :0]
    part = tuple(slice(max(int(n[0]) - 1, 0), int(n[-1]) + 2) for n in (rows, columns))
    return a[part], b[part]


def _jaccard(a: _Mask, b: _Mask) -> float:
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def _dice(a: _Mask, b: _Mask) -> float:
    areas = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / areas) if areas else 1.0


def _contour_f(prediction: _Mask, reference: _Mask, radius: float) -> float:
    ours, theirs = _contour(prediction), _contour(reference)
    our_length, their_length = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not our_length or not their_length:
        return float(our_length == their_length)
    precision = _count_near(ours, theirs, radius) / our_length
    recall = _count_near(theirs, ours, radius) / their_length
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _contour(mask: _Mask) -> _Mask:
    contour = np.zeros_like(mask)
    contour[:, :-1] = mask[:, :-1] != mask[:, 1:]
    contour[:-1] |= mask[:-1] != mask[1:]
    contour[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return contour


def _count_near(contour: _Mask, other: _Mask, radius: float) -> int:
    """Count the pixels of a contour that have one of the other within `radius`.

    This is the same as dilating the other by a disk. A disk is one run of pixels per row, and how many of
    the other a run holds is a difference of two running sums, looked up for the few pixels that ask for it.
    """
    height, width = other.shape
    before = np.zeros((height, width + 1), dtype=np.int32)
    np.cumsum(other, axis=1, out=before[:, 1:])
    y, x = contour.nonzero()
    total = y.size
    farthest = int(min(radius, height - 1))
    for dy in sorted(range(-farthest, farthest + 1), key=abs):
        reach = int(min(math.sqrt(radius * radius - dy * dy), width))
        # What lies outside is clipped to a row or column nearer to the pixel, so still within the disk.
        row = np.clip(y + dy, 0, height - 1)
        far = before[row, np.minimum(x + reach + 1, width)] == before[row, np.maximum(x - reach, 0)]
        y, x = y[far], x[far]
        if not y.size:
            break
    return int(total - y.size)

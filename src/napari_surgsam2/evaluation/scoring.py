"""Scores of whole videos: J, F and Dice per object and frame, summed up as the DAVIS 2017 benchmark does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

from .challenge import Classes, ClassScores, frame_class_scores, join_class_scores
from .frame_statistics import statistics
from .measures import mask_scores, tolerance_in_pixels

VOID = 255
"""The label of pixels that do not count, in ground truth of 8 bits; the benchmark's."""


@dataclass(frozen=True, eq=False)
class LabelPair:
    """The predicted and the true labels of a video, read frame by frame.

    Attributes
    ----------
    name : str
        The video.
    frames : sequence of str
        Names of the T frames whose truth is known.
    predicted, reference : callable
        Return the labels of frame 0 to T - 1, shape (Y, X), integers.
    predicted_from, reference_from : str
        Where the labels come from, for messages.
    """

    name: str
    frames: Sequence[str]
    predicted: Callable[[int], NDArray[Any]]
    reference: Callable[[int], NDArray[Any]]
    predicted_from: str = "the predictions"
    reference_from: str = "the ground truth"


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """How well an object was segmented in the n frames that count.

    Attributes
    ----------
    object_id : int
        Its label.
    frames : ndarray, shape (n,), int
        Which of the video's frames count.
    j, f, dice : ndarray, shape (n,)
        Region similarity (IoU), contour accuracy and Dice in each of them.
    """

    object_id: int
    frames: NDArray[np.intp]
    j: NDArray[np.float64]
    f: NDArray[np.float64]
    dice: NDArray[np.float64]

    @property
    def j_and_f(self) -> NDArray[np.float64]:
        """The mean of J and F in each frame."""
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class Summary:
    """Means over objects of each object's statistics; nan where no frame counts.

    Attributes
    ----------
    objects, frames : int
        How many objects, and scores of an object in a frame.
    j, j_recall, j_decay, f, f_recall, f_decay, dice : float
        See `statistics`.
    """

    objects: int
    frames: int
    j: float
    j_recall: float
    j_decay: float
    f: float
    f_recall: float
    f_decay: float
    dice: float

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


@dataclass(frozen=True, eq=False)
class VideoScores:
    """The scores of a video.

    Attributes
    ----------
    name : str
        The video.
    frames : sequence of str
        Names of the frames whose truth is known.
    objects : list of ObjectScores
        Those of the ground truth, in the order of their labels.
    unknown : tuple of int
        Predicted labels that are not in the ground truth; they count for nothing.
    classes : ClassScores or None
        The EndoVis scores, if asked for.
    """

    name: str
    frames: Sequence[str]
    objects: list[ObjectScores]
    unknown: tuple[int, ...] = ()
    classes: ClassScores | None = None

    @property
    def summary(self) -> Summary:
        """The means over the objects."""
        return summarize([self])


def summarize(videos: Iterable[VideoScores]) -> Summary:
    """Return the means over all objects of all videos, as the benchmark takes them."""
    objects = [one for video in videos for one in video.objects]
    rows = [
        (j.mean, j.recall, j.decay, f.mean, f.recall, f.decay, statistics(one.dice).mean)
        for one in objects
        for j, f in [(statistics(one.j), statistics(one.f))]
        if len(one.frames)
    ]
    means = np.mean(rows, axis=0).tolist() if rows else [math.nan] * 7
    return Summary(len(objects), sum(len(one.frames) for one in objects), *means)


def score_volumes(
    predicted: Any,
    reference: Any,
    *,
    name: str = "video",
    frames: Sequence[str] | None = None,
    all_frames: bool = False,
    void_label: int | None = VOID,
    classes: Classes | None = None,
) -> VideoScores:
    """Score label volumes, as `score_pair` does.

    Parameters
    ----------
    predicted, reference : array-like, shape (T, Y, X), integer
        0 is background, other values are objects; lazy ones are read frame by frame.
    name : str
        What the video is called.
    frames : sequence of str, optional
        Names of the T frames; their numbers if left out.
    all_frames, void_label, classes
        As of `score_pair`.

    Returns
    -------
    VideoScores

    Raises
    ------
    UsageError
        If the shapes differ or the labels are no integers.
    """
    given = [array if hasattr(array, "shape") else np.asarray(array) for array in (predicted, reference)]
    shapes = [tuple(array.shape) for array in given]
    if shapes[0] != shapes[1] or len(shapes[0]) != 3:
        raise UsageError(
            f"The predicted labels have shape {shapes[0]} and the reference labels {shapes[1]}; both must be "
            "the same (T, Y, X)."
        )
    names = [str(t) for t in range(shapes[0][0])] if frames is None else list(frames)
    pair = LabelPair(name, names, lambda t: _labels(given[0][t]), lambda t: _labels(given[1][t]))
    return score_pair(pair, all_frames=all_frames, void_label=void_label, classes=classes)


def score_pair(
    pair: LabelPair,
    *,
    all_frames: bool = False,
    void_label: int | None = VOID,
    classes: Classes | None = None,
    on_frame: Callable[[], object] = lambda: None,
) -> VideoScores:
    """Score a video, object by object and frame by frame.

    Parameters
    ----------
    pair : LabelPair
        The labels; frames of the truth are read twice, all others once.
    all_frames : bool
        Score every frame. By default, as in the benchmark's semi-supervised task, neither the first frame,
        which was given, nor the last count; and of an object that appears later, nothing up to its first
        frame, which was given too.
    void_label : int or None
        Pixels of this value in ground truth of 8 bits do not count.
    classes : Classes, optional
        Also compute the EndoVis scores, from the same frames.
    on_frame : callable
        Called after each frame.

    Raises
    ------
    UsageError
        If images differ in size, or nothing but void is labelled.
    """
    firsts, voids = _first_frames(pair, void_label)
    if voids and not firsts:
        raise UsageError(
            f"The ground truth of '{pair.name}' ({pair.reference_from}) has no labels but 0 and "
            f"{void_label}, which is void and does not count. If it is an object, say so with --no-void "
            "(void_label=None)."
        )
    last = len(pair.frames) - (0 if all_frames else 1)
    table = None if classes is None else classes.of_video(pair.name, firsts)
    found: dict[int, list[tuple[float, ...]]] = {i: [] for i in firsts}
    of_classes: list[ClassScores] = []
    predicted_ids: set[int] = set()
    for t in range(0 if all_frames else 1, last):
        ours, theirs, void = _read(pair, t, void_label)
        predicted_ids |= _ids(ours)
        radius = tolerance_in_pixels(theirs.shape)
        for i, first in firsts.items():
            if all_frames or first < t:
                found[i].append((t, *mask_scores(ours == i, theirs == i, radius)))
        if table is not None:
            of_classes.append(frame_class_scores(ours, theirs, table, void))
        on_frame()
    objects = [_object_scores(i, found[i]) for i in sorted(firsts)]
    unknown = tuple(sorted(predicted_ids - set(firsts) - {0}))
    scores = None if table is None else join_class_scores(of_classes, table)
    return VideoScores(pair.name, pair.frames, objects, unknown, scores)


def _object_scores(object_id: int, rows: list[tuple[float, ...]]) -> ObjectScores:
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return ObjectScores(object_id, table[:, 0].astype(np.intp), *table[:, 1:].T)


def _first_frames(pair: LabelPair, void_label: int | None) -> tuple[dict[int, int], bool]:
    """Return the objects of the truth, each with its first frame, and whether there is void."""
    firsts: dict[int, int] = {}
    voids = False
    for t in range(len(pair.frames)):
        labels = pair.reference(t)
        for i in _ids(labels) - {0}:
            if i == void_label and labels.dtype.itemsize == 1:
                voids = True
            else:
                firsts.setdefault(i, t)
    return firsts, voids


def _read(
    pair: LabelPair, t: int, void_label: int | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]:
    """Return the predicted and the true labels of a frame, background where void, and the void pixels."""
    ours, theirs = pair.predicted(t), pair.reference(t)
    if ours.shape != theirs.shape:
        raise UsageError(
            f"Frame '{pair.frames[t]}' of '{pair.name}' is {_size(ours)} pixels in the predictions "
            f"({pair.predicted_from}) and {_size(theirs)} in the ground truth ({pair.reference_from}); they "
            "must be the same. Resize one of them, without interpolation."
        )
    void = theirs == void_label if void_label is not None and theirs.dtype.itemsize == 1 else None
    if void is None or not void.any():
        return ours, theirs, None
    return np.where(void, 0, ours), np.where(void, 0, theirs), void


def _size(labels: NDArray[Any]) -> str:
    return " x ".join(map(str, labels.shape)) + " (height x width)"


def _ids(labels: NDArray[Any]) -> set[int]:
    if labels.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())
    return set(np.unique(labels).tolist())


def _labels(image: Any) -> NDArray[Any]:
    array = np.asarray(image)
    if array.dtype.kind not in "bui":
        raise UsageError(f"Labels have dtype {array.dtype}; they must be integers.")
    return array.astype(np.uint8) if array.dtype == bool else array

"""How good a network is: whole videos tracked from one click an object, and corrected, scored by J and F."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_surgsam2.checkpoints import Model
from napari_surgsam2.evaluation import contour_accuracy, region_similarity
from napari_surgsam2.prompts import BoolArray, central_position, correcting_position
from napari_surgsam2.settings import TrackingSettings
from napari_surgsam2.tracking import Tracker
from napari_surgsam2.video import Video

from .clips import VOID, Truth, ValidationVideo

SEEN_WELL = 0.005  # of the picture: what an object must show of itself to be clicked


class ScoringStoppedError(Exception):
    """It was asked to stop before all was scored."""


@dataclass(frozen=True)
class VideoScore:
    """How well a video's objects were tracked.

    Attributes
    ----------
    name : str
        The video.
    objects : int
        How many objects were tracked.
    j, f : float
        Region similarity and contour accuracy, averaged over the frames and then the objects. An object's
        frames count from that of its first click on, which counts too.
    first_j : float
        Region similarity in the frames of the first clicks.
    false_positives : float
        Of these frames, where an object is out of view: the share that have a mask of it; nan of none.
    """

    name: str
    objects: int
    j: float
    f: float
    first_j: float
    false_positives: float

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


def mean_j_and_f(scores: Iterable[VideoScore]) -> float:
    """Return the mean J&F of videos; nan of none."""
    values = [s.j_and_f for s in scores]
    return float(np.mean(values)) if values else float("nan")


def score_videos(
    model: Model,
    videos: Iterable[ValidationVideo],
    settings: TrackingSettings | None = None,
    corrections: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    any_size: bool = False,
) -> Iterator[VideoScore]:
    """Score videos one after the other, as `score_video` does; those without objects are left out.

    `should_stop` is asked after every frame; where it says so, nothing more is scored.
    """
    for video in videos:
        if should_stop():
            return
        frames, labels, annotated = video.open()
        try:
            score = score_video(
                model, video.name, frames, labels, annotated, settings, corrections, should_stop, any_size
            )
        except ScoringStoppedError:
            return
        if score is not None:
            yield score


def score_video(
    model: Model,
    name: str,
    video: Video,
    labels: Truth,
    annotated: npt.NDArray[np.bool_],
    settings: TrackingSettings | None = None,
    corrections: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    any_size: bool = False,
) -> VideoScore | None:
    """Track a video's objects and score them; None if it has none that is large enough.

    Every object gets one click in the middle of what is seen of it in the first annotated frame that shows
    enough of it; what is before that does not count. With `any_size`, those of which no frame shows enough
    get theirs in the one that shows most. Then, as often as `corrections` says, each gets a click
    in the middle of the largest mistake in its worst frame (`correcting_position`), and all are tracked
    again.

    Parameters
    ----------
    model : Model
        What tracks.
    name : str
        The video's name.
    video : Video
        Its frames.
    labels : array, shape (T, Y, X), or Truth
        The truth; 0 is background, and `VOID` is not counted, as `evaluate` does not.
    annotated : array, shape (T,), bool
        The frames whose truth is known.
    settings : TrackingSettings, optional
        The defaults if left out.
    corrections : int
        More clicks on each object.
    should_stop : callable, optional
        Asked after every frame.
    any_size : bool
        Whether small objects are scored as well.

    Raises
    ------
    ScoringStoppedError
        Where it said so.
    """
    firsts = first_views(labels, annotated, any_size)
    if not firsts:
        return None
    until = int(np.flatnonzero(annotated)[-1]) + 1
    tracker = Tracker(model, video, settings)

    def masks(last: bool) -> Iterator[tuple[int, int, BoolArray, BoolArray]]:
        """Track; yields frame, object, mask and true mask wherever they count, neither of them on void.

        What was tracked is kept only where it is not the `last` time.
        """
        propagation = tracker.propagate(frames=(0, until))
        for result in propagation:
            if should_stop():
                raise ScoringStoppedError
            if last:
                tracker.keep_only(propagation.needed_frames())
            if annotated[result.frame]:
                truth = labels[result.frame]
                counted = truth != VOID
                for object_id, mask in zip(result.object_ids.tolist(), result.masks(), strict=True):
                    if result.frame >= firsts[object_id]:
                        yield result.frame, object_id, mask & counted, truth == object_id

    try:
        for object_id, t in firsts.items():
            tracker.add_points(t, object_id, [central_position(labels[t] == object_id)])
        for _ in range(corrections):
            for object_id, (t, mask) in _worst_frames(masks(last=False)).items():
                where, positive = correcting_position(mask, labels[t] == object_id)
                tracker.add_points(t, object_id, [where], [int(positive)])
        return _score(name, masks(last=True), firsts)
    finally:
        tracker.close()


def first_views(labels: Truth, annotated: npt.NDArray[np.bool_], any_size: bool = False) -> dict[int, int]:
    """Return the objects that are seen well enough, each with the first frame that shows it so.

    With `any_size` the others too, with the frame that shows most of them.
    """
    firsts: dict[int, int] = {}
    most: dict[int, tuple[int, int]] = {}
    for t in np.flatnonzero(annotated).tolist():
        frame = labels[t]
        for i, count in zip(*(x.tolist() for x in np.unique(frame, return_counts=True)), strict=True):
            if i > 0 and count >= SEEN_WELL * frame.size:
                firsts.setdefault(i, t)
            elif i > 0 and count > most.get(i, (0, 0))[0]:
                most[i] = count, t
    return {i: t for i, (_, t) in most.items()} | firsts if any_size else firsts


def _worst_frames(
    masks: Iterable[tuple[int, int, BoolArray, BoolArray]],
) -> dict[int, tuple[int, BoolArray]]:
    """Return the frame of the lowest J of each object, and its mask there; none for those all right."""
    worst: dict[int, tuple[float, int, BoolArray]] = {}
    for t, object_id, mask, wanted in masks:
        j = float(region_similarity(mask, wanted))
        if j < worst.get(object_id, (1.0,))[0]:
            worst[object_id] = (j, t, mask)
    return {object_id: (t, mask) for object_id, (_, t, mask) in worst.items()}


def _score(
    name: str,
    masks: Iterable[tuple[int, int, BoolArray, BoolArray]],
    firsts: dict[int, int],
) -> VideoScore:
    j: dict[int, list[float]] = {i: [] for i in firsts}
    f: dict[int, list[float]] = {i: [] for i in firsts}
    first_j: list[float] = []
    absent: list[bool] = []
    for t, object_id, mask, wanted in masks:
        j[object_id].append(float(region_similarity(mask, wanted)))
        f[object_id].append(float(contour_accuracy(mask, wanted)))
        if t == firsts[object_id]:
            first_j.append(j[object_id][-1])
        if not wanted.any():
            absent.append(bool(mask.any()))
    return VideoScore(
        name,
        len(firsts),
        float(np.mean([np.mean(values) for values in j.values()])),
        float(np.mean([np.mean(values) for values in f.values()])),
        float(np.mean(first_j)),
        float(np.mean(absent)) if absent else float("nan"),
    )

"""Videos with label volumes: what the user has tracked and corrected, to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import read_labels
from napari_surgsam2.video import Video, open_video

from .clips import MOST_DRAWS, SampledClip, ValidationVideo, draw_frames, require_clip


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A video, its labels, read frame by frame, and which frames count as annotated."""

    video: Video
    labels: Any
    labels_path: Path
    annotated: npt.NDArray[np.bool_]

    def label(self, t: int) -> npt.NDArray[np.integer]:
        frame: npt.NDArray[np.integer] = _frame(self.labels, t)
        if frame.dtype.kind == "i" and frame.size and frame.min() < 0:
            raise UsageError(
                f"Frame {t} of the labels '{self.labels_path}' has the value {frame.min()}; objects are "
                "numbered from 1 and background is 0. Correct the labels."
            )
        return frame


class LabelledVideos:
    """Videos with label volumes.

    Between the first and the last frame with labels, a frame without any is taken to show no object; the
    frames before and after are not annotated.

    Parameters
    ----------
    pairs : sequence of (path, path)
        Videos, as `open_video` takes them, and their labels, as `read_labels` takes them.

    Raises
    ------
    UsageError
        If labels cannot be read, do not fit their video, or are empty.
    VideoError
        If a video cannot be opened.
    """

    def __init__(self, pairs: Sequence[tuple[str | os.PathLike[str], str | os.PathLike[str]]]) -> None:
        if not pairs:
            raise UsageError("There are no videos to train on; give at least one, and its labels.")
        self._items = [_open(Path(video), Path(labels)) for video, labels in pairs]

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Draw a video, and a clip of it."""
        found = None
        for _ in range(MOST_DRAWS):
            item = self._items[int(rng.integers(len(self._items)))]
            chosen = draw_frames(rng, item.annotated, frames, frame_step)
            if chosen is None:
                continue
            first = item.label(int(chosen[0]))
            if not first.any():
                continue
            annotated = item.annotated[chosen]
            labels = np.zeros((frames, *first.shape), dtype=first.dtype)
            for t in np.flatnonzero(annotated).tolist():
                labels[t] = item.label(int(chosen[t])) if t else first
            pictures = np.stack([item.video.frame(t) for t in chosen.tolist()])
            found = SampledClip(pictures, labels, annotated)
            break
        return require_clip(found, "the labelled videos", frames)

    def validation_videos(self) -> Sequence[ValidationVideo]:
        """Return the videos in full."""
        return [ValidationVideo(item.video.name, _Opener(item)) for item in self._items]


class _Opener:
    """Reads a validation video's labels when they are wanted."""

    def __init__(self, item: _Labelled) -> None:
        self._item = item

    def __call__(self) -> tuple[Video, npt.NDArray[Any], npt.NDArray[np.bool_]]:
        item = self._item
        labels = np.zeros(item.video.shape, dtype=item.label(0).dtype)
        for t in np.flatnonzero(item.annotated).tolist():
            labels[t] = item.label(t)
        return item.video.reopen(), labels, item.annotated


def _open(video_path: Path, labels_path: Path) -> _Labelled:
    video = open_video(video_path)
    labels = read_labels(labels_path)
    if labels.ndim == 2:
        labels = labels[np.newaxis]
    if tuple(labels.shape) != video.shape:
        raise UsageError(
            f"The labels '{labels_path}' have the shape {tuple(labels.shape)}, while the video "
            f"'{video_path}' has {video.shape} (frames, height, width); they must be the same. Give the "
            "labels of this video."
        )
    # From both ends, so that only frames without labels are read in vain.
    count = len(labels)
    first = next((t for t in range(count) if _frame(labels, t).any()), None)
    if first is None:
        raise UsageError(f"The labels '{labels_path}' are empty; label at least one frame.")
    last = next(t for t in range(count - 1, -1, -1) if _frame(labels, t).any())
    annotated = np.zeros(count, dtype=bool)
    annotated[first : last + 1] = True
    return _Labelled(video, labels, labels_path, annotated)


def _frame(labels: Any, t: int) -> npt.NDArray[Any]:
    frame = np.asarray(labels[t])
    return frame.astype(np.uint8) if frame.dtype == bool else frame

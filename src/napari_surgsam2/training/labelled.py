"""Videos with label volumes: what the user has tracked and corrected, to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import read_labels
from napari_surgsam2.video import Video, open_video

from .clips import SampledClip, Truth, ValidationVideo, draw_clip, require_clip
from .settings import LabelPair


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

    Between the first and the last frame with labels, a frame without any is taken to show no object, unless
    its labels are sparse; the frames before and after are not annotated.

    Parameters
    ----------
    pairs : sequence of LabelPair
        Videos and their labels.

    Raises
    ------
    UsageError
        If labels cannot be read, do not fit their video, or are empty.
    VideoError
        If a video cannot be opened.
    """

    def __init__(self, pairs: Sequence[LabelPair]) -> None:
        if not pairs:
            raise UsageError("There are no videos to train on; give at least one, and its labels.")
        self._items = [_open(Path(p.video), Path(p.labels), p.sparse) for p in pairs]

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Draw a video, and a clip of it."""
        found = None
        for number in rng.permutation(len(self._items)).tolist():
            item = self._items[number]
            drawn = draw_clip(rng, item.annotated, frames, frame_step, item.label)
            if drawn is None:
                continue
            chosen, first = drawn
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
    """Opens a validation video; its labels are read frame by frame."""

    def __init__(self, item: _Labelled) -> None:
        self._item = item

    def __call__(self) -> tuple[Video, Truth, npt.NDArray[np.bool_]]:
        return self._item.video.reopen(), _Truth(self._item), self._item.annotated


class _Truth:
    """The labels of a video, read when asked for; the newest frame is kept, as each object asks for it."""

    def __init__(self, item: _Labelled) -> None:
        self._item = item
        self._newest: tuple[int, npt.NDArray[np.integer]] | None = None

    def __getitem__(self, t: int) -> npt.NDArray[np.integer]:
        if self._newest is None or self._newest[0] != t:
            self._newest = t, self._item.label(t)
        return self._newest[1]


def _open(video_path: Path, labels_path: Path, sparse: bool) -> _Labelled:
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
    if sparse:
        annotated[first : last + 1] = [_frame(labels, t).any() for t in range(first, last + 1)]
    return _Labelled(video, labels, labels_path, annotated)


def _frame(labels: Any, t: int) -> npt.NDArray[Any]:
    frame = np.asarray(labels[t])
    return frame.astype(np.uint8) if frame.dtype == bool else frame

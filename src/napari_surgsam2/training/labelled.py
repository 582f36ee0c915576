"""Videos with label volumes: what the user has tracked and corrected, to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import read_labels
from napari_surgsam2.video import Video, open_video

from .clips import SampledClip, Truth, ValidationVideo, draw_clip, has_clip, require_clip, told
from .settings import LabelPair

_MANY_EMPTY = 0.1  # of the frames between labels: what is worth saying


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A video, its labels, read frame by frame, which frames count as annotated, and whether that is said."""

    video: Video
    labels: Any
    labels_path: Path
    annotated: npt.NDArray[np.bool_]
    sparse: bool | None

    def label(self, t: int) -> npt.NDArray[np.integer]:
        frame: npt.NDArray[np.integer] = _frame(self.labels, t, self.labels_path)
        if frame.dtype.kind == "i" and frame.size and frame.min() < 0:
            raise UsageError(
                f"Frame {t} of the labels '{self.labels_path}' has the value {frame.min()}; objects are "
                "numbered from 1 and background is 0. Correct the labels."
            )
        return frame

    def empty_frames(self) -> str | None:
        """Say how many frames between the labels show nothing, if many do and it is not said what that means.

        Raises
        ------
        UsageError
            If most frames with labels stand alone, as where every tenth frame was labelled.
        """
        if self.sparse is not None:
            return None
        shows = np.array([self.label(t).any() for t in np.flatnonzero(self.annotated).tolist()])
        around = np.pad(shows, 1)
        labelled, alone = int(shows.sum()), int((shows & ~around[:-2] & ~around[2:]).sum())
        if labelled > 1 and 2 * alone > labelled:
            raise UsageError(
                f"The labels '{self.labels_path}' show something in {labelled} of the {len(shows)} frames "
                f"from the first to the last that do, and {alone} of these stand alone. Set sparse = true in "
                "this pair if nobody labelled the frames between, or sparse = false if these show no object."
            )
        if len(shows) - labelled < _MANY_EMPTY * len(shows):
            return None
        return (
            f"'{self.labels_path}': {len(shows) - labelled} of the {len(shows)} frames between the first and "
            "the last label show nothing and count as showing no object; set sparse = true if nobody "
            "labelled them, or sparse = false if that is right"
        )


class LabelledVideos:
    """Videos with label volumes.

    Between the first and the last frame with labels, a frame without any is taken to show no object, unless
    its labels are sparse; the frames before and after are not annotated. `summary` refuses labels that are
    not said to be sparse or not, and look sparse.

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

    def summary(self, frames: int) -> list[str]:
        """Say which videos are used, and where it is not clear what frames without labels mean.

        Raises
        ------
        UsageError
            If labels look sparse, and it is not said whether they are.
        """
        used = [item for item in self._items if has_clip(item.annotated, frames)]
        short = [item.video.name for item in self._items if item not in used]
        notes = [note for item in self._items if (note := item.empty_frames()) is not None]
        count = sum(int(item.annotated.sum()) for item in used)
        return [told(len(used), count, {f"too short for clips of {frames} frames": short}), *notes]


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


def _open(video_path: Path, labels_path: Path, sparse: bool | None) -> _Labelled:
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
    count = labels.shape[0]  # not all arrays of zarr have a length
    shows = partial(_shows_something, labels, path=labels_path)
    first = next(filter(shows, range(count)), None)
    if first is None:
        raise UsageError(f"The labels '{labels_path}' are empty; label at least one frame.")
    last = next(filter(shows, range(count - 1, -1, -1)))
    annotated = np.zeros(count, dtype=bool)
    annotated[first : last + 1] = True
    if sparse:
        annotated[first : last + 1] = [shows(t) for t in range(first, last + 1)]
    return _Labelled(video, labels, labels_path, annotated, sparse)


def _shows_something(labels: Any, t: int, path: Path) -> bool:
    return bool(_frame(labels, t, path).any())


def _frame(labels: Any, t: int, path: Path) -> npt.NDArray[Any]:
    try:
        frame = np.asarray(labels[t])
    except UsageError:
        raise
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise UsageError(
            f"Frame {t} of the labels '{path}' cannot be read: {error}. They may be damaged; replace them."
        ) from error
    return frame.astype(np.uint8) if frame.dtype == bool else frame

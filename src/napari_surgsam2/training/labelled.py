"""Videos with label volumes: what the user has tracked and corrected, to train on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import UsageError
from napari_surgsam2.evaluation.vos_folder import VOID as VOID_PIXEL
from napari_surgsam2.masks import read_labels
from napari_surgsam2.video import Video, open_video

from .clips import (
    Newest,
    SampledClip,
    Truth,
    ValidationVideo,
    draw_clip,
    far_apart,
    has_clip,
    mark_void,
    require_clip,
    shows_object,
    told,
)
from .sources import LabelPair

_MANY_EMPTY = 0.1  # of the frames between labels: what is worth saying
_KEPT_OPEN = 4  # videos that clips are drawn from, with their labels: each may hold hundreds of MiB


@dataclass(frozen=True, eq=False)
class _Opened:
    """A video and its labels, read frame by frame."""

    video: Video
    labels: Any
    labels_path: Path
    void: int | None

    def label(self, t: int) -> npt.NDArray[np.integer]:
        return _frame(self.labels, t, self.labels_path, self.void)


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A video and its labels, both closed, which frames count as annotated, and what is said of them."""

    video: Video
    labels_path: Path
    labels_dtype: np.dtype[Any]
    annotated: npt.NDArray[np.bool_]
    sparse: bool | None
    void: int | None

    def open(self) -> _Opened:
        """Return what reads them; nothing is examined again."""
        return _Opened(self.video.reopen(), _read(self.labels_path), self.labels_path, self.void)

    def note(self) -> str | None:
        """Look through the labels where it is not said what they mean; say what is taken for granted.

        Raises
        ------
        UsageError
            If it must be said.
        """
        may_have_void = self.void is None and self.labels_dtype == np.uint8
        if self.sparse is not None and not may_have_void:
            return None
        shows = np.zeros(len(self.annotated), dtype=bool)
        seen = np.zeros(256, dtype=bool)
        opened = self.open()
        for t in np.flatnonzero(self.annotated).tolist():
            label = opened.label(t)
            shows[t] = shows_object(label)
            if may_have_void:
                seen[np.unique(label)] = True
        if seen[VOID_PIXEL] and seen[1:VOID_PIXEL].any() and not seen[VOID_PIXEL - 1]:
            raise UsageError(
                f"The labels '{self.labels_path}' have pixels of {VOID_PIXEL} beside objects of far lower "
                f"numbers; {VOID_PIXEL} often marks what nobody can tell. Set void = {VOID_PIXEL} in this "
                "pair if they are to count for nothing, or void = 0 if they are an object like the others."
            )
        return None if self.sparse is not None else self._empty_frames(shows[self.annotated])

    def _empty_frames(self, shows: npt.NDArray[np.bool_]) -> str | None:
        """Say how many frames between the labels show nothing, if many do.

        Raises
        ------
        UsageError
            If most frames with labels stand alone, as where every tenth frame was labelled.
        """
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
    its labels are sparse; the frames before and after are not annotated. Pixels of a pair's `void` count for
    nothing. `summary` refuses labels of which it is not said whether they are sparse or have void, and that
    look like it. The few videos that the last clips came from stay open; so memory and open files do not grow
    with the number of videos.

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
        self._items = [_examine(pair) for pair in pairs]
        self._open: OrderedDict[int, _Opened] = OrderedDict()  # by place in _items, the last used last

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Draw a video, and a clip of it."""
        found = None
        for number in rng.permutation(len(self._items)).tolist():
            item = self._items[number]
            drawn = draw_clip(rng, item.annotated, frames, frame_step, partial(self._label, number))
            if drawn is None:
                continue
            chosen, first = drawn
            annotated = item.annotated[chosen]
            labels = [first] + [np.zeros_like(first)] * (frames - 1)
            for t in np.flatnonzero(annotated[1:]).tolist():
                labels[t + 1] = self._label(number, int(chosen[t + 1]))
            pictures = np.stack([self._opened(number).video.frame(t) for t in chosen.tolist()])
            found = SampledClip(pictures, np.stack(labels), annotated)
            break
        return require_clip(found, "the labelled videos", frames)

    def _label(self, number: int, t: int) -> npt.NDArray[np.integer]:
        return self._opened(number).label(t)

    def _opened(self, number: int) -> _Opened:
        """Return an open video; for one that was closed, that which was used least recently is closed."""
        opened = self._open.pop(number, None)
        if opened is None:
            while len(self._open) >= _KEPT_OPEN:
                _, oldest = self._open.popitem(last=False)
                oldest.video.close()
            opened = self._items[number].open()
        self._open[number] = opened
        return opened

    def validation_videos(self) -> Sequence[ValidationVideo]:
        """Return the videos in full."""
        return [ValidationVideo(item.video.name, _Opener(item)) for item in self._items]

    def summary(self, frames: int, frame_step: tuple[int, int] = (1, 1)) -> list[str]:
        """Say which videos are used, and where it is not clear what labels mean.

        Raises
        ------
        UsageError
            If labels look sparse or look to have void, and it is not said whether they do.
        """
        used = [item for item in self._items if has_clip(item.annotated, frames)]
        short = [item.video.name for item in self._items if item not in used]
        notes = [f"'{item.video.name}': {note}" for item in self._items for note in item.video.notes]
        notes += [note for item in self._items if (note := item.note()) is not None]
        notes += far_apart([(item.video.name, item.annotated) for item in used], frames, frame_step)
        count = sum(int(item.annotated.sum()) for item in used)
        return [told(len(used), count, {f"too short for clips of {frames} frames": short}), *notes]


class _Opener:
    """Opens a validation video; its labels are read frame by frame."""

    def __init__(self, item: _Labelled) -> None:
        self._item = item

    def __call__(self) -> tuple[Video, Truth, npt.NDArray[np.bool_]]:
        opened = self._item.open()
        return opened.video, Newest(opened.label), self._item.annotated


def _read(labels_path: Path) -> Any:
    """Return labels (T, Y, X), also those of a single picture."""
    labels = read_labels(labels_path)
    return labels[np.newaxis] if labels.ndim == 2 else labels


def _examine(pair: LabelPair) -> _Labelled:
    # Absolute, for they are opened again, wherever the process goes.
    video_path, labels_path, void = Path(pair.video), Path(pair.labels).absolute(), pair.void
    with open_video(video_path, axes=pair.axes, channel=pair.channel, z=pair.z) as video:
        labels = _read(labels_path)
    if tuple(labels.shape) != video.shape:
        raise UsageError(
            f"The labels '{labels_path}' have the shape {tuple(labels.shape)}, while the video "
            f"'{video_path}' has {video.shape} (frames, height, width); they must be the same. Give the "
            "labels of this video."
        )
    # From both ends, so that only frames without labels are read in vain.
    count = labels.shape[0]  # not all arrays of zarr have a length
    shows = partial(_shows_something, labels, path=labels_path, void=void)
    first = next(filter(shows, range(count)), None)
    if first is None:
        beside = f" but for {void}, which is void" if void else ""
        raise UsageError(f"The labels '{labels_path}' are empty{beside}; label at least one frame.")
    last = next(filter(shows, range(count - 1, -1, -1)))
    annotated = np.zeros(count, dtype=bool)
    annotated[first : last + 1] = True
    if pair.sparse:
        annotated[first : last + 1] = [shows(t) for t in range(first, last + 1)]
    return _Labelled(video, labels_path, np.dtype(labels.dtype), annotated, pair.sparse, void)


def _shows_something(labels: Any, t: int, path: Path, void: int | None) -> bool:
    return shows_object(_frame(labels, t, path, void))


def _frame(labels: Any, t: int, path: Path, void: int | None) -> npt.NDArray[np.integer]:
    """Return the labels (Y, X) of a frame, with pixels of `void` as such."""
    try:
        frame = np.asarray(labels[t])
    except UsageError:
        raise
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise UsageError(
            f"Frame {t} of the labels '{path}' cannot be read: {error}. They may be damaged; replace them."
        ) from error
    if frame.dtype == bool:
        return frame.astype(np.uint8)
    if frame.dtype.kind == "i" and frame.size and frame.min() < 0:
        raise UsageError(
            f"Frame {t} of the labels '{path}' has the value {frame.min()}; objects are numbered from 1 and "
            "background is 0. Correct the labels."
        )
    return mark_void(frame, void) if void else frame

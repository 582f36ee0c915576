"""Data folders as of DAVIS and YouTube-VOS: pictures in one folder, annotations as PNGs in another."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_surgsam2.errors import UsageError
from napari_surgsam2.evaluation.vos_folder import VOID as VOID_PIXEL
from napari_surgsam2.evaluation.vos_folder import (
    VosSequence,
    binary_annotation,
    find_sequences,
    folders_in,
    read_label_png,
    refuse_binary,
    require_same_size,
)
from napari_surgsam2.video import Video
from napari_surgsam2.video.base import describe
from napari_surgsam2.video.folder import open_pictures

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


class VosFolder:
    """Videos of a data folder as of DAVIS and YouTube-VOS.

    Each video has a folder of JPEG or PNG pictures and, under the same name, a folder of PNGs whose pixels
    are the objects' numbers (of palette PNGs the indices); 0 is background, and 255 in those of 8 bits void,
    which counts for nothing. A picture without a PNG of the same name is not annotated.

    Parameters
    ----------
    images, annotations : path
        The folders that hold the videos' folders.
    videos : sequence of str or path, optional
        Names of the videos to use, or a text file with one name a line; all that are in both folders if left
        out.

    Raises
    ------
    UsageError
        If a folder or video is missing, or a video has no annotated picture.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        videos: Sequence[str] | str | os.PathLike[str] | None = None,
    ) -> None:
        self.images, self.annotations = Path(images), Path(annotations)
        self._takes_all = videos is None
        self._sequences = find_sequences(self.images, self.annotations, videos)
        self._deep: dict[str, Video] = {}  # those of more than 8 bits, which share one contrast

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Draw a video, and a clip of it."""
        found = None
        for number in rng.permutation(len(self._sequences)).tolist():
            sequence = self._sequences[number]
            label = partial(_label, sequence)
            drawn = draw_clip(rng, sequence.annotated, frames, frame_step, label)
            if drawn is not None:
                found = self._read_clip(sequence, *drawn)
                break
        if found is None:
            for sequence in self._sequences:
                refuse_binary(sequence.annotations)
        return require_clip(found, f"'{self.images}'", frames)

    def _read_clip(
        self, sequence: VosSequence, chosen: npt.NDArray[np.intp], first: npt.NDArray[np.integer]
    ) -> SampledClip:
        frames = np.empty((len(chosen), *first.shape, 3), dtype=np.uint8)
        labels = [first] + [np.zeros_like(first)] * (len(chosen) - 1)
        for t, number in enumerate(chosen.tolist()):
            picture, annotation = sequence.pictures[number], sequence.annotations[number]
            frame = self._read_picture(sequence, number)
            if frame.shape[:2] != first.shape:
                require_same_size(sequence.annotations[chosen[0]], first.shape, picture, frame.shape[:2])
            frames[t] = frame
            if annotation is not None:
                labels[t] = labels[t] if t == 0 else _read(annotation)
                require_same_size(annotation, labels[t].shape, picture, frame.shape[:2])
        return SampledClip(frames, np.stack(labels), sequence.annotated[chosen])

    def _read_picture(self, sequence: VosSequence, number: int) -> npt.NDArray[np.uint8]:
        file = sequence.pictures[number]
        try:
            with Image.open(file) as picture:
                if not picture.mode.startswith(("I", "F")):
                    return np.asarray(picture.convert("RGB"))
        except Exception as error:  # damaged pictures make the decoders raise nearly anything
            raise UsageError(
                f"The picture '{file}' cannot be read: {describe(error)}. It may be damaged; replace it."
            ) from error
        if sequence.name not in self._deep:
            self._deep[sequence.name] = _open_pictures(sequence)
        return self._deep[sequence.name].frame(number)

    def validation_videos(self) -> Sequence[ValidationVideo]:
        """Return the videos in full."""
        return [ValidationVideo(sequence.name, _Opener(sequence)) for sequence in self._sequences]

    def summary(self, frames: int, frame_step: tuple[int, int] = (1, 1)) -> list[str]:
        """Say which videos are used; of each, annotations are read until one shows an object.

        Raises
        ------
        UsageError
            If an annotation cannot be read, or none is used because 255 is void.
        """
        used: list[VosSequence] = []
        unused: defaultdict[str, list[str]] = defaultdict(list)
        for s in self._sequences:
            if why := _why_not(s, frames):
                unused[why].append(s.name)
            else:
                used.append(s)
            unused["annotations without a picture of their name"] += [f"{s.name}/{f.name}" for f in s.strays]
        if not used:
            for s in self._sequences:
                refuse_binary(s.annotations)
        if self._takes_all:
            lone = folders_in(self.images) ^ folders_in(self.annotations)
            unused["in only one of the folders of pictures and of annotations"] += lone
        line = told(len(used), sum(int(s.annotated.sum()) for s in used), unused)
        return [line, *far_apart([(s.name, s.annotated) for s in used], frames, frame_step)]


class _Opener:
    """Reads a validation video when it is wanted."""

    def __init__(self, sequence: VosSequence) -> None:
        self._sequence = sequence

    def __call__(self) -> tuple[Video, Truth, npt.NDArray[np.bool_]]:
        video = _open_pictures(self._sequence)
        return video, Newest(partial(self._label, video.shape[1:])), self._sequence.annotated

    def _label(self, size: tuple[int, ...], t: int) -> npt.NDArray[np.integer]:
        picture, annotation = self._sequence.pictures[t], self._sequence.annotations[t]
        if annotation is None:
            return np.zeros(size, dtype=np.uint8)
        label = _read(annotation)
        require_same_size(annotation, label.shape, picture, size)
        return label


def _label(sequence: VosSequence, t: int) -> npt.NDArray[np.integer]:
    return _read(sequence.annotations[t])


def _read(file: Path | None) -> npt.NDArray[np.integer]:
    assert file is not None
    labels = read_label_png(file)
    return mark_void(labels, VOID_PIXEL) if labels.dtype == np.uint8 else labels


def _why_not(sequence: VosSequence, frames: int) -> str:
    """Say why no clip of so many frames is taken from a video; nothing if there are some."""
    if not has_clip(sequence.annotated, frames):
        return f"too short for clips of {frames} frames"
    if any(shows_object(_read(file)) for file in sequence.annotations if file is not None):
        return ""
    if binary_annotation(sequence.annotations) is None:
        return "with no object in the annotations"
    return f"with nothing but 0 and {VOID_PIXEL} in the annotations, where {VOID_PIXEL} is void"


def _open_pictures(sequence: VosSequence) -> Video:
    return open_pictures(sequence.pictures, sequence.pictures[0].parent, sequence.name, None)

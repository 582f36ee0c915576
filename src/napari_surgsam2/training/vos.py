"""Data folders as of DAVIS and YouTube-VOS: pictures in one folder, annotations as PNGs in another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_surgsam2.errors import UsageError
from napari_surgsam2.video import Video
from napari_surgsam2.video.base import describe
from napari_surgsam2.video.folder import open_pictures
from napari_surgsam2.video.natural import natural_key

from .clips import MOST_DRAWS, SampledClip, ValidationVideo, draw_frames, require_clip

VOID = 255  # pixels of no object and not quite background, by the convention of these data sets
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class _Sequence:
    """A video: its pictures, and the annotation of each or None."""

    name: str
    pictures: list[Path]
    annotations: list[Path | None]
    annotated: npt.NDArray[np.bool_]


class VosFolder:
    """Videos of a data folder as of DAVIS and YouTube-VOS.

    Each video has a folder of JPEG or PNG pictures and, under the same name, a folder of PNGs whose pixels
    are the objects' numbers (of palette PNGs the indices); 0 is background, and so is 255. A picture without
    a PNG of the same name is not annotated.

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
        for folder, what in ((self.images, "pictures"), (self.annotations, "annotations")):
            if not folder.is_dir():
                raise UsageError(
                    f"There is no folder '{folder}'; it must hold a folder of {what} for each video. Check "
                    "the path."
                )
        self._sequences = [_scan(self.images, self.annotations, name) for name in self._names(videos)]

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Draw a video, and a clip of it."""
        found = None
        for _ in range(MOST_DRAWS):
            sequence = self._sequences[int(rng.integers(len(self._sequences)))]
            chosen = draw_frames(rng, sequence.annotated, frames, frame_step)
            if chosen is None:
                continue
            first = _read_annotation(sequence.annotations[chosen[0]])
            if first.any():
                found = _read_clip(sequence, chosen, first)
                break
        return require_clip(found, f"'{self.images}'", frames)

    def validation_videos(self) -> Sequence[ValidationVideo]:
        """Return the videos in full."""
        return [ValidationVideo(sequence.name, _Opener(sequence)) for sequence in self._sequences]

    def _names(self, videos: Sequence[str] | str | os.PathLike[str] | None) -> Sequence[str]:
        with_images, annotated = _folders_in(self.images), _folders_in(self.annotations)
        if videos is None:
            both = sorted(with_images & annotated, key=natural_key)
            if not both:
                raise UsageError(
                    f"No folder in '{self.images}' has the name of one in '{self.annotations}' "
                    f"({_some(with_images)}; {_some(annotated)}); each video needs one of the same name in "
                    "both."
                )
            return both
        names = _read_names(Path(videos)) if isinstance(videos, (str, os.PathLike)) else list(videos)
        for name in names:
            for folder, there in ((self.images, with_images), (self.annotations, annotated)):
                if name not in there:
                    raise UsageError(
                        f"The video '{name}' has no folder in '{folder}', which has: {_some(there)}. Correct "
                        "the name, or leave it out of the videos."
                    )
        return names


class _Opener:
    """Reads a validation video when it is wanted."""

    def __init__(self, sequence: _Sequence) -> None:
        self._sequence = sequence

    def __call__(self) -> tuple[Video, npt.NDArray[Any], npt.NDArray[np.bool_]]:
        s = self._sequence
        video = open_pictures(s.pictures, s.pictures[0].parent, s.name, None)
        labels = np.zeros(video.shape, dtype=np.uint8)
        for t in np.flatnonzero(s.annotated).tolist():
            label = _read_annotation(s.annotations[t])
            _require_same_size(s.annotations[t], label.shape, s.pictures[t], video.shape[1:])
            if label.dtype != labels.dtype:
                labels = labels.astype(np.promote_types(label.dtype, labels.dtype))
            labels[t] = label
        return video, labels, s.annotated


def _folders_in(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names, key=natural_key)
    more = ", ..." if len(ordered) > 3 else ""
    return ", ".join(f"'{name}'" for name in ordered[:3]) + more if ordered else "no folders"


def _read_names(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The list of videos '{file}' cannot be read: {describe(error)}. Give a text file with one name "
            "a line."
        ) from error
    if not names:
        raise UsageError(f"The list of videos '{file}' is empty; it must have one name a line.")
    return names


def _scan(images: Path, annotations: Path, name: str) -> _Sequence:
    pictures = _files_in(images / name, _IMAGE_SUFFIXES)
    if not pictures:
        raise UsageError(f"The folder '{images / name}' holds no JPEG or PNG pictures; put them there.")
    masks = {file.stem: file for file in _files_in(annotations / name, (".png",))}
    found = [masks.get(picture.stem) for picture in pictures]
    if not any(found):
        example = f"; its first is '{next(iter(masks))}.png'" if masks else ""
        raise UsageError(
            f"No picture of '{images / name}' is annotated: '{annotations / name}' holds no PNG of the same "
            f"name, such as '{pictures[0].stem}.png'{example}. Rename the files, or leave the video out with "
            "`videos`."
        )
    return _Sequence(name, pictures, found, np.array([file is not None for file in found]))


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith(".")]
    return [folder / name for name in sorted(names, key=natural_key)]


def _read_clip(
    sequence: _Sequence, chosen: npt.NDArray[np.intp], first: npt.NDArray[np.integer]
) -> SampledClip:
    frames = np.empty((len(chosen), *first.shape, 3), dtype=np.uint8)
    labels = [first] + [np.zeros_like(first)] * (len(chosen) - 1)
    for t, number in enumerate(chosen.tolist()):
        picture, annotation = sequence.pictures[number], sequence.annotations[number]
        frame = _read_picture(picture)
        if frame.shape[:2] != first.shape:
            _require_same_size(sequence.annotations[chosen[0]], first.shape, picture, frame.shape[:2])
        frames[t] = frame
        if annotation is not None:
            labels[t] = labels[t] if t == 0 else _read_annotation(annotation)
            _require_same_size(annotation, labels[t].shape, picture, frame.shape[:2])
    return SampledClip(frames, np.stack(labels), sequence.annotated[chosen])


def _read_picture(file: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # damaged pictures make the decoders raise nearly anything
        raise UsageError(
            f"The picture '{file}' cannot be read: {describe(error)}. It may be damaged; replace it."
        ) from error


def _read_annotation(file: Path | None) -> npt.NDArray[np.integer]:
    """Return the objects' numbers, (Y, X)."""
    assert file is not None
    try:
        with Image.open(file) as image:
            mode, labels = image.mode, np.array(image)
    except Exception as error:  # as above
        raise UsageError(
            f"The annotation '{file}' cannot be read: {describe(error)}. It may be damaged; replace it."
        ) from error
    if mode not in ("P", "L", "1", "I") and not mode.startswith("I;16"):
        raise UsageError(
            f"The annotation '{file}' is a {mode} picture; it must be a palette or gray PNG whose pixels are "
            "the objects' numbers. Convert its colours to numbers."
        )
    if mode == "1":
        return labels.astype(np.uint8)
    if labels.dtype == np.uint8:
        if mode == "L" and not ((labels != 0) & (labels != VOID)).any() and (labels == VOID).any():
            raise UsageError(
                f"The annotation '{file}' has no pixels but 0 and {VOID}, and {VOID} counts as background; "
                "write objects as 1, 2, ..."
            )
        labels[labels == VOID] = 0
    return labels


def _require_same_size(
    annotation: Path | None, size: tuple[int, ...], picture: Path, expected: tuple[int, ...]
) -> None:
    if tuple(size) != tuple(expected):
        raise UsageError(
            f"The annotation '{annotation}' is {size[0]} x {size[1]} pixels (height x width), while the "
            f"picture '{picture}' is {expected[0]} x {expected[1]}; both must be of one size, as must all "
            "frames of a video. Resize one of them, the annotation without interpolation."
        )

"""Folders of videos as of DAVIS and YouTube-VOS: pictures in one folder, annotations as PNGs in another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_surgsam2.errors import UsageError
from napari_surgsam2.video.base import describe
from napari_surgsam2.video.natural import natural_key

VOID = 255  # pixels of no object and not quite background, by the convention of these data sets
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class VosSequence:
    """A video: its pictures, the annotation of each or None, and annotations without a picture."""

    name: str
    pictures: list[Path]
    annotations: list[Path | None]
    annotated: npt.NDArray[np.bool_]
    strays: list[Path]


def find_sequences(
    images: Path, annotations: Path, videos: Sequence[str] | str | os.PathLike[str] | None = None
) -> list[VosSequence]:
    """Return the videos of a data folder.

    Parameters
    ----------
    images, annotations : Path
        The folders that hold the videos' folders.
    videos : sequence of str or path, optional
        Names of the videos, or a text file with one name a line; all that are in both folders if left out.

    Raises
    ------
    UsageError
        If a folder or video is missing, or a video has no annotated picture.
    """
    for folder, what in ((images, "pictures"), (annotations, "annotations")):
        if not folder.is_dir():
            raise UsageError(
                f"There is no folder '{folder}'; it must hold a folder of {what} for each video. Check "
                "the path."
            )
    return [_scan(images, annotations, name) for name in _names(images, annotations, videos)]


def _names(
    images: Path, annotations: Path, videos: Sequence[str] | str | os.PathLike[str] | None
) -> Sequence[str]:
    with_images, annotated = folders_in(images), folders_in(annotations)
    if videos is None:
        both = sorted(with_images & annotated, key=natural_key)
        if not both:
            raise UsageError(
                f"No folder in '{images}' has the name of one in '{annotations}' "
                f"({some(with_images)}; {some(annotated)}); each video needs one of the same name in "
                "both."
            )
        return both
    names = video_names(videos)
    for name in names:
        for folder, there in ((images, with_images), (annotations, annotated)):
            if name not in there:
                raise UsageError(
                    f"The video '{name}' has no folder in '{folder}', which has: {some(there)}. Correct "
                    "the name, or leave it out of the videos."
                )
    return names


def folders_in(folder: Path) -> set[str]:
    """Return the names of the folders in a folder that are not hidden."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def some(names: Iterable[str]) -> str:
    """Return the first few of some names of folders, for a message."""
    ordered = sorted(names, key=natural_key)
    more = ", ..." if len(ordered) > 3 else ""
    return ", ".join(f"'{name}'" for name in ordered[:3]) + more if ordered else "no folders"


def video_names(videos: Sequence[str] | str | os.PathLike[str]) -> list[str]:
    """Return names as they are given, or from a text file with one name a line."""
    if not isinstance(videos, (str, os.PathLike)):
        return list(dict.fromkeys(videos))
    file = Path(videos)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The list of videos '{file}' cannot be read: {describe(error)}. Give a text file with one name "
            "a line."
        ) from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise UsageError(f"The list of videos '{file}' is empty; it must have one name a line.")
    return names


def _scan(images: Path, annotations: Path, name: str) -> VosSequence:
    pictures = files_in(images / name, IMAGE_SUFFIXES)
    if not pictures:
        raise UsageError(f"The folder '{images / name}' holds no JPEG or PNG pictures; put them there.")
    stems: dict[str, Path] = {}
    for picture in pictures:
        if (other := stems.setdefault(picture.stem, picture)) is not picture:
            raise UsageError(
                f"'{images / name}' holds both '{other.name}' and '{picture.name}', which are one frame; "
                "remove one of them."
            )
    masks = {file.stem: file for file in files_in(annotations / name, (".png",))}
    found = [masks.get(picture.stem) for picture in pictures]
    if not any(found):
        example = f"; its first is '{next(iter(masks))}.png'" if masks else ""
        raise UsageError(
            f"No picture of '{images / name}' is annotated: '{annotations / name}' holds no PNG of the same "
            f"name, such as '{pictures[0].stem}.png'{example}. Rename the files, or leave the video out with "
            "`videos`."
        )
    strays = [file for stem, file in masks.items() if stem not in stems]
    return VosSequence(name, pictures, found, np.array([file is not None for file in found]), strays)


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files with one of the suffixes that are not hidden, in natural order."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith(".")]
    return [folder / name for name in sorted(names, key=natural_key)]


def read_annotation(file: Path | None) -> npt.NDArray[np.integer]:
    """Return the objects' numbers, (Y, X); void counts as background.

    Raises
    ------
    UsageError
        If the file cannot be read, or is no palette or gray picture.
    """
    assert file is not None
    mode, labels = _read_indices(file)
    if labels.dtype == np.uint8 and mode != "1":
        labels[labels == VOID] = 0
    return labels


def binary_annotation(files: Iterable[Path | None]) -> Path | None:
    """Return an annotation, of those that show no object, that is a gray picture of 0 and void."""
    for file in files:
        if file is None:
            continue
        mode, labels = _read_indices(file)
        if mode == "L" and (labels == VOID).any():
            return file
    return None


def refuse_binary(files: Iterable[Path | None]) -> None:
    """Raise UsageError if an annotation, of those that show no object, is a gray picture of 0 and void."""
    if (file := binary_annotation(files)) is not None:
        raise UsageError(
            f"The annotation '{file}' has no pixels but 0 and {VOID}, and {VOID} is void; "
            "write objects as 1, 2, ..."
        )


def read_label_png(file: Path) -> npt.NDArray[np.integer]:
    """Return the numbers in a palette or gray PNG as they are, (Y, X)."""
    return _read_indices(file)[1]


def _read_indices(file: Path) -> tuple[str, npt.NDArray[np.integer]]:
    """Return the picture's mode and its values, which may be written to."""
    try:
        with Image.open(file) as image:
            mode, labels = image.mode, np.array(image)
    except Exception as error:  # damaged pictures make the decoders raise nearly anything
        raise UsageError(
            f"The annotation '{file}' cannot be read: {describe(error)}. It may be damaged; replace it."
        ) from error
    if mode not in ("P", "L", "1", "I") and not mode.startswith("I;16"):
        raise UsageError(
            f"The annotation '{file}' is a {mode} picture; it must be a palette or gray PNG whose pixels are "
            "the objects' numbers. Convert its colours to numbers."
        )
    return mode, labels.astype(np.uint8) if mode == "1" else labels


def require_same_size(
    annotation: Path | None, size: tuple[int, ...], picture: Path, expected: tuple[int, ...]
) -> None:
    """Raise UsageError if an annotation is not of its picture's (Y, X)."""
    if tuple(size) != tuple(expected):
        raise UsageError(
            f"The annotation '{annotation}' is {size[0]} x {size[1]} pixels (height x width), while the "
            f"picture '{picture}' is {expected[0]} x {expected[1]}; both must be of one size, as must all "
            "frames of a video. Resize one of them, the annotation without interpolation."
        )

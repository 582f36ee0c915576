"""Videos in a folder of pictures, one file a frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_surgsam2.errors import VideoError

from .base import Video, VideoInfo, describe
from .contrast import Contrast
from .natural import natural_key

PICTURE_KINDS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
CHECKED_FILES = 2000


class FrameFolder(Video):
    """A video whose frames are picture files; JPEG, PNG and BMP are read by Pillow, TIFF by tifffile.

    Palettes, CMYK and other colour spaces become RGB, grey with alpha becomes grey, and 16-bit grey stays
    16-bit. No rotation by EXIF is applied.
    """

    def __init__(self, files: Sequence[Path], info: VideoInfo, contrast: Contrast) -> None:
        super().__init__(info, contrast)
        self._files = files

    @property
    def pictures(self) -> tuple[str, ...] | None:
        """The file name of each frame's picture."""
        different = {file.stem.casefold() for file in self._files}
        return tuple(file.name for file in self._files) if len(different) == len(self._files) else None

    def reopen(self) -> FrameFolder:
        """Return an independent handle on the same files, with the same contrast limits."""
        return FrameFolder(self._files, self._info, self._contrast)

    def _read(self, index: int) -> NDArray[Any]:
        file = self._files[index]
        pixels = read_picture(file)
        _require_size(file, pixels.shape[:2], (self.height, self.width), self._files[0])
        if pixels.dtype != self.dtype:
            raise VideoError(
                f"'{file}' holds {pixels.dtype} pixels, while '{self._files[0].name}' holds "
                f"{self.dtype}; all "
                "frames must be of one type. Convert the files to one type."
            )
        return pixels


def open_folder(folder: Path, *, contrast_limits: Iterable[float] | None = None) -> FrameFolder:
    """Open the pictures of a folder as a video, in the natural order of their names.

    Hidden files and files that are no pictures are left out. If there are pictures of several kinds, the
    most frequent kind is taken, and a note says so.

    Raises
    ------
    VideoError
        If there are no pictures, the first cannot be read, or not all are of one size; sizes are compared
        here for up to 2000 files, and for more when a frame is read.
    """
    files, notes = pictures_in(folder)
    return open_pictures(files, folder, folder.name, contrast_limits, notes)


def open_pictures(
    files: Sequence[Path],
    path: Path,
    name: str,
    contrast_limits: Iterable[float] | None,
    notes: tuple[str, ...] = (),
) -> FrameFolder:
    """Open picture files as a video; `open_folder` says the rest."""
    first = read_picture(files[0])
    height, width = first.shape[:2]
    if len(files) <= CHECKED_FILES:
        for file in files[1:]:
            _require_size(file, _picture_size(file), (height, width), files[0])
    info = VideoInfo(name, path, len(files), height, width, first.dtype, notes=notes)
    return FrameFolder(files, info, Contrast(first.dtype, contrast_limits))


def pictures_in(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the pictures of a folder that are its frames, in their order, and notes on what was left out.

    Raises
    ------
    VideoError
        If there are none.
    """
    by_kind: dict[str, list[Path]] = {}
    for file in folder.iterdir():
        kind = PICTURE_KINDS.get(file.suffix.lower())
        if kind is not None and not file.name.startswith(".") and file.is_file():
            by_kind.setdefault(kind, []).append(file)
    if not by_kind:
        raise VideoError(
            f"The folder '{folder}' has no frames in it: it must hold one JPEG, PNG, TIFF or BMP file "
            "for each "
            "frame. To open a video file, give the file itself."
        )
    counts = Counter({kind: len(files) for kind, files in sorted(by_kind.items())})
    kind, _ = counts.most_common(1)[0]
    notes: tuple[str, ...] = ()
    if len(counts) > 1:
        left_out = ", ".join(f"{count} {other}" for other, count in counts.items() if other != kind)
        notes = (f"The folder holds pictures of several kinds: {kind} is used, and {left_out} left out.",)
    return sorted(by_kind[kind], key=lambda file: natural_key(file.name)), notes


def read_picture(file: Path) -> NDArray[Any]:
    """Return the pixels of a picture file, (Y, X) or (Y, X, 3 or 4).

    Raises
    ------
    VideoError
        If the file cannot be decoded, or holds more than one page.
    """
    try:
        if PICTURE_KINDS.get(file.suffix.lower()) == "TIFF":
            return _read_tiff(file)
        with Image.open(file) as picture:
            return _pillow_pixels(picture)
    except (VideoError, MemoryError):
        raise
    # Damaged pictures make the decoders raise nearly anything.
    except Exception as error:
        raise _unreadable(file, error) from error


def _read_tiff(file: Path) -> NDArray[Any]:
    with tifffile.TiffFile(file) as tiff:
        if len(tiff.pages) > 1:
            raise VideoError(
                f"'{file}' holds {len(tiff.pages)} pages; in a folder of frames each file must hold "
                "one. Open the "
                "file itself to track through its pages."
            )
        page = tiff.pages.first
        pixels = np.asarray(page.asarray())
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3):
        raise VideoError(
            f"'{file}' holds an array of shape {pixels.shape}; a frame must be (Y, X) or (Y, X, 3 or 4)."
        )
    return np.array(pixels, dtype=pixels.dtype.newbyteorder("="), order="C")


def _pillow_pixels(picture: Image.Image) -> NDArray[Any]:
    match picture.mode:
        case "L" | "RGB" | "F":
            pixels = np.array(picture)
        case mode if mode.startswith("I;16"):
            pixels = np.array(picture).astype(np.uint16)
        case "I":
            # Older Pillows open 16-bit PNG files as 32-bit.
            pixels = np.array(picture).astype(np.uint16 if picture.format == "PNG" else np.int32)
        case "1" | "LA" | "La":
            pixels = np.array(picture.convert("L"))
        case _:
            pixels = np.array(picture.convert("RGB"))
    return pixels


def _picture_size(file: Path) -> tuple[int, int]:
    try:
        if PICTURE_KINDS.get(file.suffix.lower()) == "TIFF":
            with tifffile.TiffFile(file) as tiff:
                page = tiff.pages.first
                return page.imagelength, page.imagewidth
        with Image.open(file) as picture:
            return picture.height, picture.width
    except Exception as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> VideoError:
    return VideoError(
        f"The picture '{file}' cannot be read: {describe(error)}. It may be damaged or of another kind than "
        "its name says; replace it or take it out of the folder."
    )


def _require_size(file: Path, size: tuple[int, ...], expected: tuple[int, ...], first: Path) -> None:
    if tuple(size) != tuple(expected):
        raise VideoError(
            f"'{file}' is {size[0]} x {size[1]} pixels (height x width), while '{first.name}' is "
            f"{expected[0]} x "
            f"{expected[1]}; all frames must be of one size. Resize the files, or put those of another size "
            "into a folder of their own."
        )

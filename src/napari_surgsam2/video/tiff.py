"""TIFF stacks: multi-page, BigTIFF, OME-TIFF and ImageJ hyperstacks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_surgsam2.errors import VideoError

from .arrays import ArrayLike, StackVideo
from .axes import plan_axes
from .base import VideoInfo, describe
from .contrast import Contrast, require_pixel_type


class _PagedSeries:
    """A TIFF series that is indexed like an array and reads one page at a time.

    The index is a tuple with an int or a slice for each axis, as a plan gives it. `shape` may leave out what
    is missing at the end of the first axis.
    """

    def __init__(self, series: Any, shape: tuple[int, ...]) -> None:
        self._series = series
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(series.dtype)
        self._page_axes = len(series.keyframe.shape)
        self._page: tuple[int, NDArray[Any]] | None = None

    def __getitem__(self, index: Any) -> NDArray[Any]:
        picks = index if isinstance(index, tuple) else (index,)
        picks += (slice(None),) * (len(self.shape) - len(picks))
        over_pages = len(self.shape) - self._page_axes
        sizes = self.shape[:over_pages]
        kept = [
            range(*pick.indices(size)) if isinstance(pick, slice) else [pick]
            for pick, size in zip(picks, sizes, strict=False)
        ]
        pages = [
            self._read_page(int(np.ravel_multi_index(place, sizes)) if place else 0)[picks[over_pages:]]
            for place in itertools.product(*kept)
        ]
        lengths = [len(k) for k, pick in zip(kept, picks, strict=False) if isinstance(pick, slice)]
        return np.stack(pages).reshape(*lengths, *pages[0].shape)

    def _read_page(self, number: int) -> NDArray[Any]:
        # Channels or planes may share a page; it is decoded once for those asked for in turn.
        if self._page is None or self._page[0] != number:
            page = self._series.pages[number]
            if page is None:
                raise VideoError(f"Page {number} is missing in the file: it was not written to its end.")
            self._page = number, np.asarray(page.asarray()).reshape(page.keyframe.shape)
        return self._page[1]


def open_tiff(
    path: Path,
    *,
    contrast_limits: Iterable[float] | None = None,
    axes: str | None = None,
    channel: int = 0,
    z: int | None = None,
) -> StackVideo:
    """Open a TIFF stack as a video; pages are read when asked for, or mapped where they lie in one piece.

    The axes are those of the file's OME or ImageJ metadata, unless `axes` says otherwise. If the file holds
    several image series, the first is taken and a note says so.

    Raises
    ------
    VideoError
        If the file is damaged, or its compression needs a package that is not installed.
    UsageError
        If `axes`, `channel` or `z` do not fit the stack.
    """
    with _opened(path) as tiff:
        every_series = _series(tiff, path)
        series = every_series[0]
        require_pixel_type(series.dtype)
        notes: tuple[str, ...] = ()
        if len(every_series) > 1:
            notes = (f"The file holds {len(every_series)} image series: the first is used.",)
        mapped, letters, shape, cut = _mapping(path, tiff, series)
        if mapped is None:
            shape, cut = _written(path, series, letters, shape)
    plan = plan_axes(letters if axes is None else axes, shape, channel=channel, z=z, middle_z=True)

    def open_series() -> tuple[ArrayLike, Callable[[], None] | None]:
        if mapped is not None:
            return np.memmap(path, mode="r", shape=shape, **mapped), None
        tiff = _opened(path)
        return _PagedSeries(_series(tiff, path)[0], shape), tiff.close

    info = VideoInfo(
        name=path.stem.removesuffix(".ome"),
        path=path,
        n_frames=plan.n_frames,
        height=shape[plan.y],
        width=shape[plan.x],
        dtype=np.dtype(series.dtype).newbyteorder("="),
        notes=(*notes, *cut, *plan.notes),
    )
    video = StackVideo(open_series, plan, info, Contrast(info.dtype, contrast_limits))
    # Whether the pages can be decoded shows only now, and is better known before a run than in its middle.
    try:
        video.raw(0)
    except VideoError as error:
        video.close()
        if "imagecodecs" in str(error.__cause__):
            raise VideoError(
                f"'{path}' is compressed in a way that needs another package ({describe(error.__cause__)}): "
                "install it with 'pip install imagecodecs'."
            ) from error.__cause__
        raise
    return video


def _opened(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except Exception as error:
        raise _unreadable(path, error) from error


def _series(tiff: tifffile.TiffFile, path: Path) -> list[Any]:
    try:
        series = list(tiff.series)
    except Exception as error:
        raise _unreadable(path, error) from error
    if not series:
        raise VideoError(f"'{path}' has no picture in it; it may not have been written to its end.")
    return series


def _unreadable(path: Path, error: Exception) -> VideoError:
    return VideoError(
        f"'{path}' cannot be opened as TIFF: {describe(error)}. It may be damaged, incomplete or of "
        "another kind."
    )


def _mapping(
    path: Path, tiff: tifffile.TiffFile, series: Any
) -> tuple[dict[str, Any] | None, str, tuple[int, ...], tuple[str, ...]]:
    """Return how to map data in one piece, the axes and shape, and a note if the file is cut short."""
    axes, shape = str(series.axes), tuple(int(size) for size in series.shape)
    offset = series.dataoffset
    if offset is None:
        return None, axes, shape, ()
    dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    page_shape = tuple(int(size) for size in series.keyframe.shape)
    # ImageJ describes a large stack by its first page only; cut short, it passes for that page alone.
    imagej = tiff.imagej_metadata or {}
    images = int(imagej.get("images", 1))
    if images > 1 and shape == page_shape:
        channels, slices = (int(imagej.get(name, 1)) for name in ("channels", "slices"))
        over = {"T": images // (channels * slices), "Z": slices, "C": channels}
        over = {letter: size for letter, size in over.items() if size > 1 and letter not in axes}
        if math.prod(over.values()) != images:
            over = {"T": images}
        axes, shape = "".join(over) + axes, (*over.values(), *shape)
    frame_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    there = (path.stat().st_size - offset) // frame_bytes if frame_bytes else shape[0]
    mapping = {"dtype": dtype, "offset": offset}
    if there >= shape[0]:
        return mapping, axes, shape, ()
    if there < 1 or axes[0] in "YX":
        raise VideoError(
            f"'{path}' is cut short: not even its first frame is there. Copy or export it again."
        )
    return mapping, axes, (there, *shape[1:]), (_cut_short(there, axes, shape),)


def _written(
    path: Path, series: Any, axes: str, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the shape of what is there of a series of pages, and a note if it was not written to its end."""
    pages = series.pages
    count = len(pages)
    while count and pages[count - 1] is None:
        count -= 1
    if count == len(pages) or axes[0] in "YX":
        return shape, ()
    there = count * shape[0] // len(pages)
    if not there:
        raise VideoError(
            f"'{path}' is cut short: not even its first frame is there. Copy or export it again."
        )
    return (there, *shape[1:]), (_cut_short(there, axes, shape),)


def _cut_short(there: int, axes: str, shape: tuple[int, ...]) -> str:
    return f"The file is cut short: {there} of {shape[0]} positions along {axes[0]} are there and used."

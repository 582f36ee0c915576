"""Opening whatever a video may come in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from napari_surgsam2.errors import UsageError, VideoError
from napari_surgsam2.paths import expanded

from .arrays import ArrayLike, StackVideo
from .axes import guess_axes, plan_axes
from .base import Video, VideoInfo, describe
from .contrast import Contrast, require_pixel_type, validate_limits
from .folder import PICTURE_KINDS, open_folder, open_pictures
from .layers import ImageLayer, full_data, is_image_layer, layer_axes, layer_limits, layer_path
from .movie import open_movie
from .tiff import open_tiff
from .zarrs import is_zarr, open_zarr

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8", ".tf2"})
MOVIE_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"}
)
_FRAMES_COMPARED = 5  # of a layer and its file
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUPPORTED = (
    "Supported are video files (mp4, avi, mov, mkv, webm and others that FFmpeg decodes), TIFF stacks, "
    "zarr, folders "
    "of JPEG, PNG, TIFF or BMP frames, arrays, and napari's Image layers."
)


def open_video(
    source: str | os.PathLike[str] | ArrayLike | ImageLayer | Video,
    *,
    contrast_limits: Iterable[float] | None = None,
    axes: str | None = None,
    channel: int = 0,
    z: int | None = None,
) -> Video:
    """Open a video; its frames are read when asked for.

    Parameters
    ----------
    source : str, path, array, layer or Video
        A video file; a TIFF stack (OME, ImageJ, BigTIFF); a zarr array or group, OME-NGFF among them; a
        folder with one JPEG, PNG, TIFF or BMP file for each frame, taken in natural order; or an array
        (T, Y, X), (T, Y, X, C) or (Y, X): numpy, dask, zarr or anything with a shape, a dtype and indexing.
        A napari Image layer is taken as it is shown: its array, (Y, X), (T, Y, X) or (T, Z, Y, X) with
        colours or without, of a multiscale one the largest, by its contrast limits;
        where it was read from a file that still shows the same, the file is opened.
        A `Video` is returned as it is.
    contrast_limits : (float, float), optional
        The pixel values that become 0 and 255. By default 8-bit pixels are taken as they are, booleans
        become 0 and 255, and other types are mapped by the 0.1 and 99.9 percentiles of up to 16 frames.
    axes : str, optional
        One letter for each axis of an array, TIFF or zarr, such as "TYX", "ZYX", "TCYX", "TYXC" or "YXC". T
        is followed as time; without it Z, and without that any other. By default the file's metadata or
        the array's shape say; of a layer its shape and whether it has colours.
    channel : int
        Which channel of a stack with several that are not red, green and blue.
    z : int, optional
        Which plane of a stack with both T and Z; by default the middle one for files, while for arrays it
        must be said.

    Returns
    -------
    Video

    Raises
    ------
    VideoError
        If the source is not there, not supported or damaged.
    UsageError
        If the source is no path, array or layer, or another argument has a value that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> video = open_video(np.zeros((5, 48, 64), np.uint8))
    >>> video.shape
    (5, 48, 64)
    >>> video.frame(0).shape
    (48, 64, 3)
    """
    if isinstance(source, Video):
        if contrast_limits is not None or axes is not None or channel or z is not None:
            raise UsageError(
                "The source is an open Video already; give the other arguments where it is opened."
            )
        return source
    limits = None if contrast_limits is None else validate_limits(contrast_limits)
    if isinstance(source, (str, os.PathLike)):
        if not os.fspath(source):
            raise VideoError("The path of the video is empty; give a file or a folder.")
        path = expanded(source).absolute()  # wherever the process goes
        try:
            return _open_path(path, limits, axes=axes, channel=channel, z=z)
        except OSError as error:
            raise VideoError(
                f"'{path}' cannot be read: {describe(error)}. Check that it is there and that you may "
                "read it."
            ) from error
    if is_image_layer(source):
        return _open_layer(source, limits, axes, channel, z)
    return _open_array(source, limits, axes, channel, z)


def _open_path(path: Path, limits: tuple[float, ...] | None, **choice: Any) -> Video:
    if not path.exists():
        raise VideoError(f"No file or folder at '{path}'; check the path.")
    suffix = path.suffix.lower()
    if path.is_dir():
        if is_zarr(path) or suffix == ".zarr":
            return open_zarr(path, contrast_limits=limits, **choice)
        _refuse_choice(path, "a folder of frames", **choice)
        return open_folder(path, contrast_limits=limits)
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise VideoError(f"'{path}' is empty: there is nothing in it. Copy or record it again.")
    if suffix in TIFF_SUFFIXES or start in _TIFF_STARTS:
        return open_tiff(path, contrast_limits=limits, **choice)
    if suffix in PICTURE_KINDS:
        _refuse_choice(path, "a picture", **choice)
        return open_pictures([path], path, path.stem, limits)
    _refuse_choice(path, "a video file", **choice)
    try:
        return open_movie(path, contrast_limits=limits)
    except VideoError as error:
        if suffix in MOVIE_SUFFIXES:
            raise
        raise VideoError(f"'{path}' is of no known kind. {_SUPPORTED}") from error


def _refuse_choice(path: Path, kind: str, axes: str | None, channel: int, z: int | None) -> None:
    if axes is not None or channel or z is not None:
        raise UsageError(
            f"'{path}' is {kind}, for which `axes`, `channel` and `z` have no meaning; leave them out."
        )


def _open_layer(
    layer: ImageLayer, limits: tuple[float, ...] | None, axes: str | None, channel: int, z: int | None
) -> Video:
    limits = layer_limits(layer) if limits is None else limits
    letters = layer_axes(layer) if axes is None else axes
    name = str(getattr(layer, "name", "array"))
    shown = _open_array(full_data(layer), limits, letters, channel, z, name)
    path = layer_path(layer)
    if path is None or axes is not None or channel or z is not None:
        return shown
    # The file is faster to read. It may be gone, or the layer a copy that has other pixels by now.
    with contextlib.suppress(VideoError):
        video = open_video(path, contrast_limits=limits)
        try:
            same = video.shape == shown.shape and _same_pixels(video, shown)
        except VideoError:
            same = False
        if same:
            return video
        video.close()
    return shown


def _same_pixels(one: Video, other: Video) -> bool:
    """Whether some frames of two videos of one shape are the same; what is registered differs later on."""
    chosen = np.unique(np.linspace(0, one.n_frames - 1, _FRAMES_COMPARED).round().astype(int))
    return all(np.array_equal(one.raw(t), other.raw(t)) for t in chosen.tolist())


def _open_array(
    array: Any,
    limits: tuple[float, ...] | None,
    axes: str | None,
    channel: int,
    z: int | None,
    name: str = "array",
) -> Video:
    if not all(hasattr(array, asked) for asked in ("shape", "dtype", "__getitem__")):
        raise UsageError(f"A {type(array).__name__} cannot be opened as a video. {_SUPPORTED}")
    if any(size != size for size in array.shape):  # NaN, in dask
        raise VideoError(
            f"The array has the shape {tuple(array.shape)}, in which a length is not known; have it found "
            "with array.compute_chunk_sizes()."
        )
    shape = tuple(int(size) for size in array.shape)
    try:
        dtype = np.dtype(array.dtype).newbyteorder("=")
    except TypeError as error:
        raise UsageError(
            f"The pixels of a {type(array).__name__} are of type {array.dtype}, which numpy does not know; "
            "give a numpy array, such as array.numpy()."
        ) from error
    require_pixel_type(dtype)
    plan = plan_axes(guess_axes(shape) if axes is None else axes, shape, channel=channel, z=z)
    info = VideoInfo(
        name=name,
        path=None,
        n_frames=plan.n_frames,
        height=shape[plan.y],
        width=shape[plan.x],
        dtype=dtype,
        notes=plan.notes,
    )

    def open_array() -> tuple[ArrayLike, Callable[[], None] | None]:
        return array, None

    return StackVideo(open_array, plan, info, Contrast(dtype, limits))

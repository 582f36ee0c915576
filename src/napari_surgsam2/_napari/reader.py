"""Reading movies and folders of frames as layers whose frames are decoded when shown."""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import VideoError
from napari_surgsam2.paths import expanded
from napari_surgsam2.video import Video, open_video
from napari_surgsam2.video.folder import PICTURE_KINDS
from napari_surgsam2.video.layers import METADATA_KEY
from napari_surgsam2.video.opening import MOVIE_SUFFIXES
from napari_surgsam2.video.zarrs import is_zarr

LayerData = tuple[Any, dict[str, Any], str]
PathLike = str | os.PathLike[str]


def get_reader(path: PathLike | Sequence[PathLike]) -> Callable[..., list[LayerData]] | None:
    """Return what reads a movie or a folder of frames, several of them if all are such; else None.

    Only the names are looked at; whether there is a video behind them shows when they are read.
    """
    paths = _as_list(path)
    return read_videos if paths and all(map(_is_ours, paths)) else None


def read_videos(path: PathLike | Sequence[PathLike]) -> list[LayerData]:
    """Open movies and folders of frames, each as an Image layer of its own.

    Returns
    -------
    list of (dask.array.Array, dict, "image")
        (T, Y, X) or (T, Y, X, C) of native pixels, one frame a chunk. The file is closed when nothing is
        left that could read from it.

    Raises
    ------
    VideoError
        If one is not there or damaged.
    """
    return [_read(path) for path in _as_list(path)]


def _as_list(path: PathLike | Sequence[PathLike]) -> list[Path]:
    paths = [path] if isinstance(path, (str, os.PathLike)) else path
    return [expanded(entry).absolute() for entry in paths]


def _is_ours(path: Path) -> bool:
    suffix = path.suffix.lower()
    if not path.is_dir():
        return suffix in MOVIE_SUFFIXES
    if suffix == ".zarr" or is_zarr(path):
        return False
    return any(f.suffix.lower() in PICTURE_KINDS and not f.name.startswith(".") for f in path.iterdir())


def _read(path: Path) -> LayerData:
    from napari.utils.notifications import show_warning

    video = open_video(path)
    frames = _lazy(video)
    for note in video.notes:
        show_warning(f"{video.name}: {note}")
    about: dict[str, Any] = {
        "name": video.name,
        "rgb": frames.ndim == 4,
        "metadata": {METADATA_KEY: {"video": str(path)}},
    }
    # What the network sees is what is shown.
    if frames.ndim == 3 and (limits := video.contrast_limits) is not None:
        about["contrast_limits"] = limits
    return frames, about, "image"


def _lazy(video: Video) -> Any:
    """Return a dask array, shape (T, Y, X) or (T, Y, X, C), that owns the video and closes it at its end."""
    import dask.array as da

    try:
        shape = video.raw(0).shape
    except VideoError:
        video.close()
        raise

    def block(block_id: tuple[int, ...]) -> npt.NDArray[Any]:
        return _fit(video.raw(block_id[0]), shape, video, block_id[0])[np.newaxis]

    # Arrays made from this one, as slices of it, keep the function and thereby the video.
    weakref.finalize(block, video.close)
    map_blocks: Callable[..., Any] = da.map_blocks
    return map_blocks(
        block,
        # A name of its own keeps dask from pickling the video to make one.
        name=f"video-{uuid.uuid4().hex}",
        chunks=((1,) * video.n_frames, *((size,) for size in shape)),
        dtype=video.dtype,
        meta=np.empty((0,) * (1 + len(shape)), dtype=video.dtype),
    )


def _fit(pixels: npt.NDArray[Any], shape: tuple[int, ...], video: Video, index: int) -> npt.NDArray[Any]:
    """Return a frame in the shape of the first: some programs write colourless frames as grey pictures."""
    if pixels.shape == shape:
        return pixels
    if pixels.ndim == 2 and shape[2:] == (3,):
        return np.repeat(pixels[..., np.newaxis], 3, axis=2)
    raise VideoError(
        f"Frame {index} of '{video.path}' has the shape {pixels.shape}, while frame 0 has {shape}; in a "
        "layer all frames must be grey, or all in colour. Convert the files to one kind."
    )

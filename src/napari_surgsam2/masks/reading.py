"""Opening labels: stacks written by this package or by others, and single mask images."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError
from napari_surgsam2.paths import expanded

from ._arrays import as_labels
from .coco import CocoLabels
from .export import SOFTWARE

_IMAGE_SUFFIXES = (".png", ".bmp", ".gif")


def read_labels(path: str | os.PathLike[str]) -> Any:
    """Open labels, a stack lazily.

    Parameters
    ----------
    path : path
        A TIFF, a zarr array (or a group with an array `labels` or `0`), a folder of PNGs in natural order (of
        palette PNGs the indices), one PNG, or COCO JSON (run lengths or polygons; see Notes).

    Returns
    -------
    zarr.Array, dask.array.Array or ndarray
        Integers, shape (T, Y, X); read only when indexed, one frame per chunk. A PNG or a TIFF with a single
        image is an ndarray, shape (Y, X), unless this package wrote it as a stack of one frame.

    Raises
    ------
    UsageError
        If there is nothing, or nothing that holds labels.

    Notes
    -----
    Frames of a COCO JSON file are its `images`, ordered by `frame_index` if all have one, else as they stand
    in the file. The label of an annotation is its `track_id`, or `instance_id` where not all annotations have
    one, or else its `id`: without tracks each annotation is an object of its own. Where one of these is 0,
    all are raised by 1. Of overlapping annotations the later one wins.
    """
    source = expanded(path).absolute()
    if not source.exists():
        raise UsageError(f"The labels {source} do not exist; check the path.")
    try:
        return _open(source)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"The labels {source} cannot be read: {error}") from error


def _open(source: Path) -> Any:
    suffix = source.suffix.lower()
    if source.is_dir():
        return _open_folder(source) if not _is_zarr(source) else _open_zarr(source)
    if suffix in (".tif", ".tiff"):
        return _open_tiff(source)
    if suffix in _IMAGE_SUFFIXES:
        return _read_image(source)
    if suffix == ".json":
        coco = CocoLabels(source)
        return _lazy(source, coco.frame, coco.shape, coco.dtype)
    raise UsageError(
        f"The labels {source} end in {source.suffix!r}; they must be a .tif or .tiff, a .zarr, a folder of "
        f"PNGs, a .png, or a COCO .json."
    )


def _is_zarr(folder: Path) -> bool:
    markers = ("zarr.json", ".zarray", ".zgroup")
    return folder.suffix.lower() == ".zarr" or any((folder / marker).exists() for marker in markers)


def _open_zarr(source: Path) -> Any:
    import zarr

    array: Any = zarr.open(source, mode="r")
    if not hasattr(array, "dtype"):
        name = next((name for name in ("labels", "0") if name in array), None)
        if name is None:
            raise UsageError(f"The zarr group {source} has no array 'labels' or '0'; name the array itself.")
        array = array[name]
    _require_labels(array, source, ndims=(2, 3))
    return array if array.ndim == 3 else np.asarray(array[:])


def _open_folder(source: Path) -> Any:
    # Hidden files are copies of metadata that macOS leaves beside the others.
    files = [f for f in source.iterdir() if f.suffix.lower() in _IMAGE_SUFFIXES and f.name[0] != "."]
    files.sort(key=_natural)
    if not files:
        raise UsageError(f"The folder {source} contains no PNGs.")
    first = _read_image(files[0])

    def read(t: int) -> NDArray[Any]:
        frame = _read_image(files[t])
        if frame.shape != first.shape:
            raise UsageError(
                f"{files[t]} has shape {frame.shape}; it must be {first.shape}, as {files[0].name}."
            )
        return as_labels(frame, first.dtype, first.shape, str(files[t]))

    return _lazy(source, read, (len(files), *first.shape), first.dtype)


def _open_tiff(source: Path) -> Any:
    import tifffile

    with contextlib.ExitStack() as cleanup:
        tiff = cleanup.enter_context(tifffile.TiffFile(source))
        series = tiff.series[0]
        shape, dtype = tuple(series.shape), np.dtype(series.dtype).newbyteorder("=")
        _require_labels(series, source, ndims=(2, 3))
        if "S" in series.axes:
            raise UsageError(f"The labels {source} are a colour picture; write the objects' numbers instead.")
        if len(shape) == 2 and not _is_own(tiff):
            return series.asarray().astype(dtype, copy=False)
        shape = (1, *shape)[-3:]
        if series.dataoffset is not None:
            # Uncompressed stacks may have only one page for all frames.
            whole = tifffile.memmap(source, mode="r", series=0).reshape(shape)
            return _lazy(source, lambda t: np.array(whole[t], dtype=dtype), shape, dtype)
        pages: Any = series.pages
        if len(pages) != shape[0]:
            raise UsageError(f"{source} has {len(pages)} pages for {shape[0]} frames; it must have one each.")
        # One file handle serves all threads that compute on the result.
        lock = threading.Lock()

        def read(t: int) -> NDArray[Any]:
            with lock:
                return np.asarray(pages[t].asarray(), dtype=dtype)

        weakref.finalize(read, cleanup.pop_all().close)
        return _lazy(source, read, shape, dtype)


def _is_own(tiff: Any) -> bool:
    """Whether this package wrote the file, and therefore as a stack, even of one frame."""
    return str(tiff.pages.first.software).startswith(SOFTWARE)


def _read_image(path: Path) -> NDArray[Any]:
    from PIL import Image

    with Image.open(path) as image:
        array: NDArray[Any] = np.asarray(image)
        if image.mode == "I":
            array = array.astype(np.uint16)
    _require_labels(array, path, ndims=(2,))
    return array.astype(np.uint8) if array.dtype == bool else array


def _require_labels(array: Any, path: Path, ndims: tuple[int, ...]) -> None:
    if np.dtype(array.dtype).kind not in "bui" or len(array.shape) not in ndims:
        axes = " or ".join({2: "(Y, X)", 3: "(T, Y, X)"}[n] for n in ndims)
        raise UsageError(
            f"{path} holds {array.dtype} values of shape {tuple(array.shape)}; labels are integers of shape "
            f"{axes}."
        )


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order numbers in names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _lazy(
    source: Path, read: Callable[[int], NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Any:
    """Return a dask array, shape (T, Y, X), whose blocks are the frames that `read` returns."""
    import dask.array as da

    def block(block_id: tuple[int, ...]) -> NDArray[Any]:
        try:
            return read(block_id[0])[np.newaxis]
        except UsageError:
            raise
        except Exception as error:  # damaged files make the decoders raise nearly anything
            raise UsageError(
                f"Frame {block_id[0]} of the labels {source} cannot be read: {error}. They may be damaged; "
                "replace them."
            ) from error

    frames, height, width = shape
    map_blocks: Callable[..., Any] = da.map_blocks
    return map_blocks(
        block,
        # A name of its own keeps dask from pickling the reader, and its open file, to make one.
        name=f"labels-{uuid.uuid4().hex}",
        chunks=((1,) * frames, (height,), (width,)),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype=dtype),
    )

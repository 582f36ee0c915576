"""Writing label volumes: TIFF, zarr, DAVIS palette PNGs, and COCO JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_surgsam2.errors import UsageError

from ._arrays import LabelArray, compact_dtype, iter_frames, volume_shape
from ._files import Format, label_target, new_output
from ._partial import create_array
from .coco import write_coco_file
from .palette import voc_palette

# Stays on TIFF files, to tell a stack of one frame from a single image.
SOFTWARE = "napari-surgsam2"

# TIFF offsets have 32 bits; compressed size is not known before, and labels compress well.
_CLASSIC_TIFF_BYTES = 3_900_000_000


def export(
    path: str | os.PathLike[str],
    labels: LabelArray,
    *,
    overwrite: bool = False,
    pictures: Sequence[str] | None = None,
    names: Mapping[int, str] | None = None,
) -> Path:
    """Write labels in the format that the path asks for.

    Parameters
    ----------
    path : path
        `.tif` or `.tiff`: as `write_tiff`; `.zarr`: as `write_zarr`; `.json`: as `write_coco`; no suffix, or
        a separator at the end: as `write_davis`.
    labels : array-like, shape (T, Y, X)
        Integers, 0 is background; read frame by frame.
    overwrite : bool
        Replace an existing output of the same kind.
    pictures : sequence of str, optional
        The file name of each frame's picture: the PNGs of a folder are called like them, and COCO JSON names
        them; other formats do not.
    names : mapping of int to str, optional
        Names by object id, which COCO JSON has; other formats have none.

    Returns
    -------
    Path
        The absolute path.

    Raises
    ------
    UsageError
        If the path asks for another format, or the labels do not fit.
    OutputError
        If the output exists or cannot be written.
    """
    target, kind = label_target(path)
    with new_output(target, kind, overwrite=overwrite) as temporary:
        write_as(kind, temporary, labels, pictures, names)
    return target


def write_tiff(
    path: str | os.PathLike[str], labels: LabelArray, *, fps: float | None = None, overwrite: bool = False
) -> Path:
    """Write a compressed TIFF stack, axes T, Y, X, frame by frame.

    8 and 16 bit labels make an ImageJ hyperstack, which Fiji opens as a time series. ImageJ's format ends at
    4 GB and has no 32 bit integers: larger volumes become a BigTIFF, and those with ids above 65535 a plain
    one, both with OME metadata (Fiji reads them by Bio-Formats).

    Parameters
    ----------
    path : path
        Where to, any suffix.
    labels : array-like, shape (T, Y, X)
        Integers, 0 is background; read frame by frame.
    fps : float, optional
        Frames per second, kept in the metadata.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The absolute path.

    Raises
    ------
    UsageError
        If the labels are no integers of that shape, or negative.
    OutputError
        If the file exists or cannot be written.
    """
    target = Path(path).absolute()
    with new_output(target, Format.TIFF, overwrite=overwrite) as temporary:
        _write_tiff(temporary, labels, fps)
    return target


def write_zarr(path: str | os.PathLike[str], labels: LabelArray, *, overwrite: bool = False) -> Path:
    """Write a zarr array (format 3), dimensions t, y, x, one compressed frame per chunk.

    Parameters, return value and errors are those of `write_tiff`, without `fps`.
    """
    target = Path(path).absolute()
    with new_output(target, Format.ZARR, overwrite=overwrite) as temporary:
        _write_zarr(temporary, labels)
    return target


def write_davis(
    folder: str | os.PathLike[str],
    labels: LabelArray,
    names: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a folder of 8-bit palette PNGs, one per frame, as DAVIS and YouTube-VOS have them.

    Parameters
    ----------
    folder : path
        The folder to make.
    labels : array-like, shape (T, Y, X)
        Integers 0 to 255, 0 is background; read frame by frame.
    names : sequence of str, optional
        A file name per frame, without the suffix; by default `00000`, `00001`, ...
    overwrite : bool
        Replace an existing folder, if there is nothing but such PNGs in it.

    Returns
    -------
    Path
        The absolute path of the folder.

    Raises
    ------
    UsageError
        If an id is above 255, a name is no file name or there twice, or the labels are no integers.
    OutputError
        If the folder exists or cannot be written.
    """
    target = Path(folder).absolute()
    with new_output(target, Format.DAVIS, overwrite=overwrite) as temporary:
        _write_davis(temporary, labels, names)
    return target


def write_as(
    kind: Format,
    path: Path,
    labels: LabelArray,
    pictures: Sequence[str] | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """Write labels, bit by bit, to a path where nothing is yet; parameters are those of `export`."""
    match kind:
        case Format.TIFF:
            _write_tiff(path, labels, fps=None)
        case Format.ZARR:
            _write_zarr(path, labels)
        case Format.DAVIS:
            _write_davis(path, labels, None if pictures is None else [Path(name).stem for name in pictures])
        case Format.COCO:
            write_coco_file(path, labels, names, pictures)
        case Format.VIDEO:
            raise UsageError("Labels are not written as a video; write_preview makes an overlay.")
        case Format.CSV:
            raise UsageError("Labels are not written as CSV; measure makes a table of them.")


def _write_tiff(path: Path, labels: LabelArray, fps: float | None) -> None:
    import tifffile

    if fps is not None and not fps > 0:
        raise UsageError(f"fps is {fps!r}; it must be above 0.")
    shape, dtype = volume_shape(labels), compact_dtype(labels)
    big = int(np.prod(shape)) * dtype.itemsize > _CLASSIC_TIFF_BYTES
    imagej = not big and dtype.itemsize <= 2
    metadata: dict[str, Any] = {"axes": "TYX"}
    if fps is not None and imagej:
        metadata |= {"fps": float(fps), "finterval": 1 / fps}
    elif fps is not None:
        metadata |= {"TimeIncrement": 1 / fps, "TimeIncrementUnit": "s"}
    tifffile.imwrite(
        path,
        iter_frames(labels, dtype),
        shape=shape,
        dtype=dtype,
        imagej=imagej,
        ome=not imagej,
        bigtiff=big,
        photometric="minisblack",
        compression="zlib",
        metadata=metadata,
        software=SOFTWARE,
    )


def _write_zarr(path: Path, labels: LabelArray) -> None:
    shape, dtype = volume_shape(labels), compact_dtype(labels)
    array = create_array(path, shape, dtype)
    for t, frame in enumerate(iter_frames(labels, dtype)):
        array[t] = frame


def _write_davis(folder: Path, labels: LabelArray, names: Sequence[str] | None) -> None:
    from PIL import Image

    shape, dtype = volume_shape(labels), compact_dtype(labels)
    if names is None:
        names = [f"{t:05}" for t in range(shape[0])]
    if len(names) != shape[0] or len(set(names)) != len(names):
        raise UsageError(
            f"{len(names)} names were given; there must be {shape[0]}, one per frame, all different."
        )
    if (wrong := next((name for name in names if not name or Path(name).name != name), None)) is not None:
        raise UsageError(f"The name {wrong!r} is no file name.")
    folder.mkdir()
    palette = voc_palette().tobytes()
    for t, (name, frame) in enumerate(zip(names, iter_frames(labels, dtype), strict=True)):
        highest = int(frame.max())
        if highest > 255:
            raise UsageError(
                f"Frame {t} has the object id {highest}; palette PNGs hold ids up to 255. Write .tif "
                f"or .zarr instead."
            )
        image = Image.fromarray(frame.astype(np.uint8, copy=False))
        image.putpalette(palette)
        image.save(folder / f"{name}.png", bits=8)

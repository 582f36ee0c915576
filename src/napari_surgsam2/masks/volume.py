"""A label volume that is written frame by frame and appears under its name only when complete."""

from __future__ import annotations

import math
import operator
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.files import writing

from . import _partial
from ._arrays import as_labels, label_dtype
from ._files import Format, check_target, is_taken, label_target
from ._partial import Partial, create_array, refuse_partial_name
from .export import write_as

MEBIBYTE = 2**20
IN_MEMORY_BYTES = 512 * MEBIBYTE


class AlreadyCompleteError(OutputError):
    """The run to be resumed has finished: its output is there, and no interrupted run beside it.

    Attributes
    ----------
    lacks_preview : bool
        Whether this very run made the output, and ended before the preview was drawn that was to follow.
    """

    def __init__(self, message: str, *, lacks_preview: bool = False) -> None:
        super().__init__(message)
        self.lacks_preview = lacks_preview


class LabelVolume:
    """Labels of a video, shape (T, Y, X): 0 is background, other values are object ids; made by `create`.

    Frames are written in any order, `volume[t] = labels`, and read back as from an array; what was not
    written reads as 0. The dtype is uint8 for object ids up to 255, uint16 up to 65535, and uint32 beyond.

    With an output, the frames are kept in `<output name>.partial.zarr` beside it until `finish`. Whenever the
    process ends, even when it is killed, `create(..., resume=True)` goes on there. Used as a context manager,
    a volume is closed at the end, but not finished.
    """

    def __init__(self, array: Any, partial: Partial | None) -> None:
        self._array = array
        self._partial = partial
        self._done = partial.done if partial else np.zeros(array.shape[0], dtype=bool)
        self._open = True

    @classmethod
    def create(
        cls,
        output: str | os.PathLike[str] | None,
        shape: tuple[int, int, int],
        max_object_id: int,
        *,
        overwrite: bool = False,
        resume: bool = False,
        run: Mapping[str, Any] | None = None,
        in_memory_bytes: int = IN_MEMORY_BYTES,
    ) -> Self:
        """Begin a volume, or go on with an interrupted one.

        Parameters
        ----------
        output : path or None
            `.tif` or `.tiff` for a TIFF stack, `.zarr` for a zarr array, `.json` for COCO JSON; a name
            without a suffix, or ending in a separator, for a folder of DAVIS palette PNGs. None keeps the
            result out of the file system: `finish` returns it.
        shape : tuple of int
            (T, Y, X).
        max_object_id : int
            The largest object id that will come.
        overwrite : bool
            Replace an existing output, which stays until the new one is complete, and throw away an
            interrupted run.
        resume : bool
            Go on with an interrupted run if there is one, else start; together with `overwrite` an output
            that is complete is made again, unless all that this run lacks is its preview (see `finish`).
        run : mapping, optional
            JSON values that identify the run, such as video, model and settings; only the same is resumed.
        in_memory_bytes : int
            Without an output, larger results go to a zarr array in a temporary folder. It is deleted when the
            array is garbage collected or Python exits, but not when the process is killed.

        Raises
        ------
        UsageError
            If the output's name, the shape or the id cannot be used; palette PNGs hold ids up to 255.
        OutputError
            If the output or an interrupted run exists, the run to resume is another one or, where that is
            known of a complete output, was, the output is being written by another process, or it cannot be
            written.
        AlreadyCompleteError
            If `resume` finds the output complete.
        """
        sizes = tuple(operator.index(n) for n in shape)
        if len(sizes) != 3 or min(sizes) < 1:
            raise UsageError(f"The shape is {tuple(shape)}; it must be (T, Y, X), each 1 or more.")
        dtype = label_dtype(max_object_id)
        if output is None:
            return cls(unsaved_labels(sizes, dtype, in_memory_bytes), None)
        target, kind = label_target(output)
        refuse_partial_name(target)
        if kind is Format.DAVIS and dtype.itemsize > 1:
            raise UsageError(
                f"The object id {max_object_id} cannot be stored in the folder {target.name}: palette PNGs "
                f"hold ids up to 255. Write .tif or .zarr instead."
            )
        if not target.parent.is_dir():
            check_target(target, kind, overwrite=overwrite)
        partial = Partial(target, kind)
        overwrite = overwrite or (resume and partial.is_outdated)
        try:
            if partial.exists and resume:
                partial.resume(sizes, dtype, run or {}, overwrite=overwrite)
            else:
                if partial.exists and not overwrite:
                    raise OutputError(
                        f"An interrupted run of {target} is there; go on with --resume (resume=True), or "
                        f"start anew with --force (overwrite=True)."
                    )
                if resume and is_taken(target):
                    lacks_preview = partial.lacks_preview(sizes, dtype, run or {})
                    if not overwrite:
                        partial.refuse_other_run(sizes, dtype, run or {})
                    if lacks_preview or not overwrite:
                        raise AlreadyCompleteError(
                            f"{target} exists already: nothing to resume; use --force (overwrite=True), "
                            "without --resume, to make it again.",
                            lacks_preview=lacks_preview,
                        )
                check_target(target, kind, overwrite=overwrite)
                partial.start(sizes, dtype, run or {}, overwrite=overwrite)
        except BaseException:
            partial.close()
            raise
        return cls(partial.array, partial)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, Y, X)."""
        frames, height, width = self._array.shape
        return frames, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, uint16 or uint32."""
        dtype: np.dtype[Any] = self._array.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """3."""
        return 3

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which frames are finished: a copy, shape (T,), indexed by frame."""
        return self._done.copy()

    @property
    def state_path(self) -> Path | None:
        """A file, not there at first, for what the caller needs to resume; None without an output.

        It lives as long as the interrupted run: finishing removes it, and so does starting anew.
        """
        return self._partial.state_path if self._partial else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """Return a frame, shape (Y, X), by its index, or any slicing of the three axes, as an array."""
        self._require_open()
        return np.asarray(self._array[key])

    def __setitem__(self, t: SupportsIndex, labels: Any) -> None:
        """Write frame `t`, from 0, and mark it as done.

        Parameters
        ----------
        t : int
            The frame.
        labels : array-like, shape (Y, X)
            Integers of any type, or booleans for object 1.

        Raises
        ------
        UsageError
            If the frame, the shape, the type or a value does not fit.
        OutputError
            If it cannot be written.
        """
        self._require_open()
        frame = operator.index(t)
        frames, height, width = self.shape
        if not 0 <= frame < frames:
            raise UsageError(f"Frame {frame} is outside the volume; its frames are 0 to {frames - 1}.")
        array = as_labels(labels, self.dtype, (height, width), f"Frame {frame}")
        if self._partial is not None:
            self._partial.write(frame, array)
        else:
            with writing(Path(tempfile.gettempdir())):
                self._array[frame] = array
            self._done[frame] = True

    def finish(
        self,
        *,
        preview_follows: bool = False,
        pictures: Sequence[str] | None = None,
        names: Mapping[int, str] | None = None,
    ) -> Any:
        """Put the complete result under its final name and close the volume.

        Frames that were never written are background. When this fails, the frames stay for another try.

        Parameters
        ----------
        preview_follows : bool
            A preview will be drawn of the result; until `forget_preview` is called, resuming this run says
            that it is all that is missing.
        pictures : sequence of str, optional
            The file name of each frame's picture, as `export` takes it.
        names : mapping of int to str, optional
            Names by object id, as `export` takes it.

        Returns
        -------
        Path, ndarray or zarr.Array
            The absolute path of the output; without one the labels, shape (T, Y, X).

        Raises
        ------
        OutputError
            If the output cannot be written, or something stands in its place that is not to be replaced.
        UsageError
            If object ids above 255 are in the way of a folder of palette PNGs.
        """
        self._require_open()
        if self._partial is None:
            self._open = False
            return self._array
        kind = self._partial.kind
        self._partial.finish(
            lambda path, labels: write_as(kind, path, labels, pictures, names),
            preview_follows=preview_follows,
        )
        self._open = False
        return self._partial.target

    def close(self) -> None:
        """Stop here, leaving an interrupted run to be resumed, or nothing where no frame is done.

        After `finish` this does nothing.
        """
        if not self._open:
            return
        self._open = False
        if self._partial is not None:
            self._partial.close()

    def _require_open(self) -> None:
        if not self._open:
            raise UsageError("The label volume is closed; make a new one, or resume it, to go on.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def forget_preview(output: str | os.PathLike[str]) -> None:
    """Take back that a preview of a complete output is still to be drawn, as `LabelVolume.finish` noted.

    Raises
    ------
    OutputError
        If another process is writing the output, or the note cannot be removed.
    """
    _partial.forget_preview(label_target(output)[0])


def unsaved_labels(
    shape: tuple[int, ...], dtype: np.dtype[Any], in_memory_bytes: int = IN_MEMORY_BYTES
) -> Any:
    """Return labels of 0 that are in no file of the user's, to be written to frame by frame.

    Parameters
    ----------
    shape : tuple of int
        The last two axes are a frame's.
    dtype : dtype
        An unsigned integer.
    in_memory_bytes : int
        Up to this size it is numpy; beyond, zarr in a temporary folder, which is deleted when the array is
        garbage collected or Python exits, but not when the process is killed.
    """
    if math.prod(shape) * dtype.itemsize <= in_memory_bytes:
        return np.zeros(shape, dtype=dtype)
    with writing(Path(tempfile.gettempdir())):
        folder = tempfile.mkdtemp(prefix="napari-surgsam2-")
        array = create_array(Path(folder) / "labels.zarr", shape, dtype)
    # The store is shared by all views of the array, so it lives as long as any of them.
    weakref.finalize(array.store, shutil.rmtree, folder, ignore_errors=True)
    return array

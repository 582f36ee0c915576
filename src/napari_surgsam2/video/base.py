"""What every video offers, wherever its frames come from."""

from __future__ import annotations

import operator
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError, VideoError

from .contrast import Contrast, Limits, require_pixel_type, to_rgb


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video once it is open; shared by all handles on it.

    Attributes
    ----------
    name : str
        The file's stem, or "array".
    path : Path or None
        The file or folder; None for an array.
    n_frames, height, width : int
        Size in frames and pixels.
    dtype : dtype
        Of the native pixels.
    fps : float or None
        Frames per second, where the source says; the average for a variable rate.
    notes : tuple of str
        What the user should be told, as sentences: damage found, a channel chosen, ...
    """

    name: str
    path: Path | None
    n_frames: int
    height: int
    width: int
    dtype: np.dtype[Any]
    fps: float | None = None
    notes: tuple[str, ...] = ()


class Video(ABC):
    """A video whose frames are read when asked for.

    Made by `open_video`. All methods may be called from any thread, one frame being read at a time; for
    reading in parallel, take a second handle with `reopen`. A video is a context manager that closes itself.
    """

    def __init__(self, info: VideoInfo, contrast: Contrast) -> None:
        require_pixel_type(info.dtype)
        self._info = info
        self._contrast = contrast
        self._lock = threading.RLock()
        self._closed = False

    @abstractmethod
    def reopen(self) -> Video:
        """Return an independent handle on the same source, with the same contrast limits.

        Cheap: nothing is examined again. Meant for reading in another thread; works on a closed video too.
        """

    @abstractmethod
    def _read(self, index: int) -> NDArray[Any]:
        """Return native pixels, (Y, X) or (Y, X, C), in memory that nobody else looks at."""

    def _release(self) -> None:  # noqa: B027 - most videos have nothing to let go of
        """Let go of files and caches; `close` calls it once."""

    @property
    def name(self) -> str:
        """The file's stem, or "array"."""
        return self._info.name

    @property
    def path(self) -> Path | None:
        """The file or folder; None for an array."""
        return self._info.path

    @property
    def part(self) -> dict[str, Any] | None:
        """Which part of its source it is, as JSON-ready values; None where the source has but one.

        Two videos of one file, opened with other `axes`, `channel` or `z`, differ in this.
        """
        return None

    @property
    def pictures(self) -> tuple[str, ...] | None:
        """The file name of each frame's picture; None of videos whose frames are no files.

        None also where two differ, but for their suffix, in upper and lower case only.
        """
        return None

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self._info.n_frames

    @property
    def height(self) -> int:
        """Height of a frame in pixels."""
        return self._info.height

    @property
    def width(self) -> int:
        """Width of a frame in pixels."""
        return self._info.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width: (T, Y, X)."""
        return self.n_frames, self.height, self.width

    @property
    def fps(self) -> float | None:
        """Frames per second where the source says, the average for a variable rate; else None."""
        return self._info.fps

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the native pixels, which `raw` returns."""
        return self._info.dtype

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should be told, as sentences: damage found, a channel chosen, ..."""
        return self._info.notes

    @property
    def contrast_limits(self) -> Limits | None:
        """The native values shown as 0 and 255; None for 8-bit or boolean pixels shown as they are.

        Unless given when opening, they are taken from a sample of the video when first needed, which reads
        up to 16 frames.
        """
        return self._contrast.limits(self.n_frames, self.raw)

    def __len__(self) -> int:
        return self.n_frames

    def raw(self, index: int) -> NDArray[Any]:
        """Return a frame's native pixels.

        Parameters
        ----------
        index : int
            From 0 to `n_frames - 1`.

        Returns
        -------
        ndarray of `dtype`, shape (Y, X) or (Y, X, C)
            The caller's own, free to be changed.

        Raises
        ------
        VideoError
            If there is no such frame, it cannot be read, or the video is closed.
        """
        index = self._check_index(index)
        with self._lock:
            if self._closed:
                raise VideoError(f"Video {self.name!r} is closed; call reopen() for a new handle on it.")
            try:
                return self._read(index)
            except (VideoError, MemoryError):
                raise
            # The arrays of other libraries raise whatever they like.
            except Exception as error:
                raise VideoError(
                    f"Frame {index} of {self._said} cannot be read: {describe(error)}. The source may "
                    "be damaged, "
                    "or have been moved or changed since it was opened."
                ) from error

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Return a frame as 8-bit RGB.

        Grey is repeated over the channels and alpha is dropped. Pixels of other types are mapped by
        `contrast_limits`, the same for the whole video; booleans become 0 and 255, and NaN 0.

        Parameters
        ----------
        index : int
            From 0 to `n_frames - 1`; negative ones are refused.

        Returns
        -------
        ndarray of uint8, shape (Y, X, 3)
            C-contiguous, and the caller's own.

        Raises
        ------
        VideoError
            If there is no such frame, it cannot be read, or the video is closed.
        """
        pixels = self.raw(index)
        return to_rgb(pixels, self.contrast_limits)

    def close(self) -> None:
        """Let go of files and caches; closing again does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Missing where the constructor refused its arguments.
        if not getattr(self, "_closed", True):
            self.close()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r}: {self.n_frames} frames of "
            f"{self.width} x {self.height} pixels, {self.dtype}>"
        )

    @property
    def _said(self) -> str:
        return repr(self.name) if self.path is None else f"'{self.path}'"

    def _check_index(self, index: int) -> int:
        try:
            number = operator.index(index)
        except TypeError as error:
            raise UsageError(f"The frame is {index!r}; it must be a whole number.") from error
        if not 0 <= number < self.n_frames:
            raise VideoError(
                f"There is no frame {number} in {self._said}; its frames are 0 to {self.n_frames - 1}."
            )
        return number


def describe(error: BaseException | None) -> str:
    """Return what another library's exception says, on one line and without a closing full stop."""
    # FFmpeg's and the system's errors come with numbers and paths around what they say.
    text = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
    return text or type(error).__name__

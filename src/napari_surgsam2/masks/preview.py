"""A video of the tracked objects, to be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.files import made_aside, writing
from napari_surgsam2.paths import expanded

from ._arrays import LabelArray, volume_shape
from ._files import Format, check_target
from ._overlay import overlay

_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")
_DEFAULT_FPS = 10.0

# FFmpeg converts RGB by BT.601; unless told, players take larger videos for BT.709 and show other colours.
_COLORS = {"colorspace": "smpte170m", "color_primaries": "smpte170m", "color_trc": "smpte170m"}


class PreviewVideo(Protocol):
    """What `write_preview` asks of a video."""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        ...

    @property
    def height(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Number of columns."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second, if known."""
        ...

    def frame(self, index: int, /) -> NDArray[np.uint8]:
        """Return a frame, shape (Y, X, 3), uint8, RGB."""
        ...


def check_preview(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return the absolute path of a preview that can be written there, before any work is done.

    Raises
    ------
    UsageError
        If the suffix is none of a video.
    OutputError
        If the file exists and is not to be replaced, or the folder is missing.
    """
    target = expanded(path).absolute()
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"The preview {target.name!r} ends in {target.suffix!r}; it must end in one of "
            f"{', '.join(_SUFFIXES)}."
        )
    check_target(target, Format.VIDEO, overwrite=overwrite)
    return target


def write_preview(
    path: str | os.PathLike[str],
    video: PreviewVideo,
    labels: LabelArray,
    *,
    frames: Sequence[int] | None = None,
    overwrite: bool = False,
    max_side: int = 1280,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write a video with the objects drawn over it, as `overlay` does.

    It is H.264 (MPEG-4 part 2 where the encoder is missing) with yuv420p pixels, which every player shows.

    Parameters
    ----------
    path : path
        `.mp4`, `.mkv`, `.mov` or `.avi`. The file appears when complete.
    video : PreviewVideo
        The frames.
    labels : array-like, shape (T, Y, X)
        Unsigned integers, 0 is background; T, Y and X are the video's.
    frames : sequence of int, optional
        Which frames, in this order; by default all.
    overwrite : bool
        Replace an existing file.
    max_side : int
        Larger pictures are made smaller until neither side is longer, in pixels.
    progress : callable, optional
        Called as `progress(done, total)` after each frame.

    Returns
    -------
    Path
        The absolute path.

    Raises
    ------
    UsageError
        If the suffix is another, the labels are not of the video's shape, or a frame is outside of it.
    OutputError
        If the file exists or cannot be written.
    """
    target = check_preview(path, overwrite=overwrite)
    if max_side < 2:
        raise UsageError(f"max_side is {max_side}; it must be 2 pixels or more.")
    shape = (video.n_frames, video.height, video.width)
    if volume_shape(labels) != shape:
        raise UsageError(f"The labels have shape {tuple(labels.shape)}; the video's (T, Y, X) is {shape}.")
    chosen = range(video.n_frames) if frames is None else [int(t) for t in frames]
    if not chosen or (outside := next((t for t in chosen if not 0 <= t < video.n_frames), None)) is not None:
        wrong = f"Frame {outside} is chosen" if chosen else "No frame is chosen"
        raise UsageError(f"{wrong} for the preview; the video's frames are 0 to {video.n_frames - 1}.")
    with made_aside(target, suffix=target.suffix) as partial:
        _encode(partial, target, video, labels, chosen, max_side, progress)
        with writing(target):
            check_target(target, Format.VIDEO, overwrite=overwrite)
            partial.replace(target)
    return target


def _encode(
    partial: Path,
    target: Path,
    video: PreviewVideo,
    labels: LabelArray,
    chosen: Sequence[int],
    max_side: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    import av

    # A time lapse is played faster than it was taken.
    fps = video.fps if video.fps and video.fps >= 1 else _DEFAULT_FPS
    rate = Fraction(fps).limit_denominator(1001)
    height, width = _even_size(video.height, video.width, max_side)
    codec, options = "libx264", {"crf": "20", "preset": "fast"}
    if codec not in av.codecs_available:
        codec, options = "mpeg4", {"qscale": "3"}
    if target.suffix.lower() == ".avi":
        options["bf"] = "0"  # the container has no room for the times of reordered frames
    with writing(target), _ffmpeg_errors(target), av.open(str(partial), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options={**options, **_COLORS})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for done, t in enumerate(chosen):
            picture = _draw(video.frame(t), np.asarray(labels[t]), height, width)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = done, 1 / rate
            container.mux(stream.encode(frame))
            if progress is not None:
                progress(done + 1, len(chosen))
        container.mux(stream.encode(None))


def _even_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Return the (height, width) of the preview: yuv420p needs even numbers."""
    even = height + height % 2, width + width % 2
    if max(even) <= max_side:
        return even
    scale = min(1.0, max_side / max(height, width))
    return max(2, int(height * scale) // 2 * 2), max(2, int(width * scale) // 2 * 2)


def _draw(frame: NDArray[np.uint8], labels: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
    """Return the overlay, shape (`height`, `width`, 3): made smaller, or by one row and column larger."""
    from PIL import Image

    below, right = height - frame.shape[0], width - frame.shape[1]
    if below >= 0 and right >= 0:
        picture = overlay(frame, labels)
        return np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")
    smaller = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BOX)
    rows = (np.arange(height) + 0.5) * frame.shape[0] // height
    columns = (np.arange(width) + 0.5) * frame.shape[1] // width
    return overlay(np.asarray(smaller), labels[np.ix_(rows.astype(int), columns.astype(int))])


@contextmanager
def _ffmpeg_errors(target: Path) -> Iterator[None]:
    """Turn FFmpeg's errors that are none of the operating system into OutputError."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(f"The preview {target} cannot be encoded: {error}.") from error

"""Clips that many tests use, and how they are written to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

WriteMovie = Callable[..., Path]


@pytest.fixture
def clip() -> np.ndarray:
    """(12, 24, 40, 3) uint8: noise, so that no two frames are alike."""
    return np.random.default_rng(0).integers(0, 256, (12, 24, 40, 3), dtype=np.uint8)


@pytest.fixture
def write_movie(tmp_path: Path) -> WriteMovie:
    """Write frames to a video file and return its path."""

    def write(
        name: str,
        frames: Sequence[np.ndarray] | np.ndarray,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        *,
        times: Sequence[int] | None = None,
        b_frames: int = 2,
        gop: int = 12,
        rotation: int = 0,
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream: Any = container.add_stream(codec, rate=25, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            stream.codec_context.gop_size = gop
            stream.codec_context.max_b_frames = b_frames
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for place, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = int(times[place]), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if rotation:
            _rotate(path, rotation)
        return path

    return write


def _rotate(path: Path, degrees: int) -> None:
    """Write a display matrix into the track header of an MP4 file, as a camera held sideways does."""
    one = 1 << 16
    cosine, sine = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    # The matrix lies 40 bytes after the version of the box.
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))


@pytest.fixture
def moving() -> np.ndarray:
    """(60, 96, 128, 3) uint8: something that moves, for codecs with motion."""
    base = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    frames = np.repeat(base[np.newaxis], 60, axis=0)
    for time, frame in enumerate(frames):
        frame[:, : 2 * time % 128] = 4 * time
        frame[:16, :16] = 3 * time
    return frames

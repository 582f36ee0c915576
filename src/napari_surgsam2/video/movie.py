"""Videos in files that FFmpeg decodes, with every frame at its exact place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from napari_surgsam2.errors import VideoError

from .base import Video, VideoInfo
from .contrast import Contrast
from .movie_checks import examine
from .movie_decoder import Decoder
from .movie_index import MovieIndex

# Pictures kept: a few while frames are only read forward, many once somebody has gone back.
FORWARD_CACHE_BYTES = 16 * 2**20
CACHE_BYTES = 128 * 2**20
# A stream with gradual refresh is whole only some key frames after the one that decoding began at.
ENTRIES_TRIED = 3


class Movie(Video):
    """A video file; frame `i` is the `i`-th one shown, whatever the frame rate does.

    The next frame is decoded on; another one from the key frame before it. Recently decoded pictures are
    kept so that stepping back is cheap: up to 128 MiB once that has happened, a few before. A rotation that
    the file asks for is applied.
    """

    def __init__(
        self,
        index: MovieIndex,
        rotation: int,
        coded_size: tuple[int, int],
        info: VideoInfo,
        contrast: Contrast,
    ) -> None:
        super().__init__(info, contrast)
        self._index = index
        self._rotation = rotation
        self._coded_size = coded_size
        self._decoder: Decoder | None = None
        self._reformatter = VideoReformatter()
        self._pictures: OrderedDict[int, Any] = OrderedDict()
        self._kept_bytes = 0
        self._cache_bytes = FORWARD_CACHE_BYTES
        self._last: int | None = None
        self._undecodable: set[int] = set()

    def reopen(self) -> Movie:
        """Return an independent handle on the same file, with the same contrast limits."""
        return Movie(self._index, self._rotation, self._coded_size, self._info, self._contrast)

    def _read(self, index: int) -> NDArray[Any]:
        if self._last is not None and index < self._last:
            self._cache_bytes = CACHE_BYTES
        picture = self._pictures.get(index)
        if picture is None and index not in self._undecodable:
            picture = self._decode(index)
        if picture is None:
            self._undecodable.add(index)
            raise VideoError(
                f"Frame {index} of '{self.path}' cannot be decoded: the file is damaged there. The frames "
                f"before the damage can be used: track only those, with --frames 0:{index} "
                f"(frames=(0, {index})). For those after it, encode the file anew."
            )
        self._pictures.move_to_end(index)
        return self._to_array(picture, index)

    def _decode(self, index: int) -> Any | None:
        if self._decoder is None:
            assert self.path is not None
            self._decoder = Decoder(self.path, self._index)
        entries = self._index.entries(index)
        if self._last is not None and self._last < index and entries[0] < self._decoder.next_position:
            picture = self._decode_until(index)
            if picture is not None:
                return picture
        entries = entries[:ENTRIES_TRIED]
        for entry in entries:
            clean = self._start_at(entry)
            if not clean and entry != entries[-1]:
                continue
            # After an entry that is not clean, pictures are whole only some way on.
            picture = self._decode_until(
                index, keep_from=self._index.frame_at(entry if clean else entries[0])
            )
            if picture is not None:
                return picture
        return None

    def _start_at(self, entry: int) -> bool:
        """Begin at a key frame; tell whether its own picture is the first to come, so that all are whole."""
        assert self._decoder is not None
        self._decoder.start_at(entry)
        self._last = None
        wanted = self._index.frame_at(entry)
        if wanted is None:
            # An edit list hides the key frame, so there is nothing to tell by.
            return True
        seen = []
        clean = False
        while (found := self._decoder.next_picture()) is not None:
            seen.append(found)
            frame = self._index.frame_at(found[0])
            # Pictures shown before the key frame lack what they refer to.
            if frame is not None and frame >= wanted:
                clean = frame == wanted
                break
        self._decoder.put_back(seen)
        return clean

    def _decode_until(self, index: int, keep_from: int | None = 0) -> Any | None:
        assert self._decoder is not None
        while (found := self._decoder.next_picture()) is not None:
            position, picture = found
            frame = self._index.frame_at(position)
            if frame is None or frame < (keep_from or 0):
                continue
            self._last = frame
            self._keep(frame, picture)
            if frame == index:
                return picture
            if frame > index:
                return None
        self._last = None
        return None

    def _keep(self, frame: int, picture: Any) -> None:
        if frame in self._pictures:
            self._pictures.move_to_end(frame)
            return
        self._pictures[frame] = picture
        self._kept_bytes += _picture_bytes(picture)
        while self._kept_bytes > self._cache_bytes and len(self._pictures) > 1:
            _, oldest = self._pictures.popitem(last=False)
            self._kept_bytes -= _picture_bytes(oldest)

    def _to_array(self, picture: Any, index: int) -> NDArray[np.uint8]:
        if (picture.height, picture.width) != self._coded_size:
            raise VideoError(
                f"Frame {index} of '{self.path}' is {picture.height} x {picture.width} pixels (height x "
                "width), while "
                f"the first is {self._coded_size[0]} x {self._coded_size[1]}; all frames must be of one "
                "size. Encode "
                "the video anew with one size."
            )
        pixels = self._reformatter.reformat(picture, format="rgb24").to_ndarray()
        # FFmpeg gives the angle counterclockwise, as rot90 takes it.
        return np.ascontiguousarray(np.rot90(pixels, self._rotation // 90))

    def _release(self) -> None:
        self._pictures.clear()
        self._kept_bytes = 0
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


def _picture_bytes(picture: Any) -> int:
    return sum(plane.buffer_size for plane in picture.planes)


def open_movie(path: Path, *, contrast_limits: Iterable[float] | None = None) -> Movie:
    """Open a video file; its packets are read through once, and its ends are decoded to see that they can be.

    Raises
    ------
    VideoError
        If the file is not a video, or no frame of it can be decoded.
    """
    found = examine(path)
    height, width = found.coded_size
    if found.rotation % 180:
        height, width = width, height
    info = VideoInfo(
        name=path.stem,
        path=path,
        n_frames=len(found.index.order),
        height=height,
        width=width,
        dtype=np.dtype(np.uint8),
        fps=found.fps,
        notes=found.notes,
    )
    return Movie(found.index, found.rotation, found.coded_size, info, Contrast(np.uint8, contrast_limits))

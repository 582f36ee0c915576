"""Decoding a video file from any key frame on, and telling which frame is which."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av

from napari_surgsam2.errors import VideoError

from .movie_index import MovieIndex, open_container


class Decoder:
    """Decodes forward from a packet, and gives each picture with the position of its packet.

    A packet's time stamp passes through the decoder to its picture, whatever order the pictures come out
    in; where stamps are missing or not unique, the packets' positions are sent through in their place.

    Parameters
    ----------
    path : Path
        The file.
    index : MovieIndex
        Where its frames are.

    Attributes
    ----------
    next_position : int
        Of the packet that is read next.
    failures : int
        How many packets could not be decoded so far.
    """

    def __init__(self, path: Path, index: MovieIndex) -> None:
        self._path = path
        self._index = index
        self._container, self._stream = open_container(path)
        self._packets: Iterator[Any] = iter(())
        self._decoded: deque[tuple[int | None, Any]] = deque()
        self._flushed = False
        self._fresh = True
        self.next_position = 0
        self.failures = 0
        self.start_at(0)

    def close(self) -> None:
        """Close the file."""
        self._decoded.clear()
        self._packets = iter(())
        self._container.close()

    def start_at(self, position: int) -> None:
        """Go to the packet at `position`, from which the next pictures are decoded."""
        self._decoded.clear()
        self._flushed = False
        if not self._seek(position):
            self._restart()
            self._skip_to(position)
        self._fresh = False

    def next_picture(self) -> tuple[int | None, Any] | None:
        """Return the position of the next picture's packet, None if not known, and the picture.

        Returns None at the end. Packets that cannot be decoded give no picture.
        """
        while not self._decoded:
            if self._flushed:
                return None
            packet = self._next_packet()
            try:
                if packet is None:
                    self._flushed = True
                    pictures = self._stream.codec_context.decode(None)
                else:
                    pictures = self._stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                self.failures += 1
                continue
            self._decoded.extend((self._position(picture), picture) for picture in pictures)
        return self._decoded.popleft()

    def put_back(self, pictures: Iterable[tuple[int | None, Any]]) -> None:
        """Let `next_picture` return these again, in this order, before others."""
        self._decoded.extendleft(reversed(list(pictures)))

    def _position(self, picture: Any) -> int | None:
        return self._index.position_of(picture.pts)

    def _next_packet(self) -> Any | None:
        """Return the next packet, its `pts` replaced by what tells it apart; None at the end."""
        try:
            packet = next(self._packets, None)
        # The file breaks off here.
        except av.error.FFmpegError:
            return None
        if packet is None or (packet.size == 0 and packet.dts is None and packet.pts is None):
            return None
        position: int | None
        if self._index.identity == "position":
            position = packet.pts = self.next_position
        else:
            packet.pts = getattr(packet, self._index.identity)
            position = self._index.position_of(packet.pts)
        if position is not None:
            self.next_position = position + 1
        return packet

    def _seek(self, position: int) -> bool:
        """Go to a packet by its time stamps; tell whether that succeeded."""
        if self._fresh and position == 0:
            self._packets = self._container.demux(self._stream)
            self.next_position = 0
            return True
        if self._index.identity == "position":
            return False
        packet = self._index.packets[position]
        # Some containers search by the time of showing, others by that of decoding.
        for stamp in (packet.pts, packet.dts):
            if stamp is None:
                continue
            try:
                self._container.seek(stamp, stream=self._stream, backward=True)
            except av.error.FFmpegError:
                continue
            self._packets = self._container.demux(self._stream)
            if self._skip_to(position):
                return True
        return False

    def _skip_to(self, position: int) -> bool:
        """Pass over packets until the next one is that at `position`; False if it does not come."""
        if self._index.identity == "position":
            while self.next_position < position:
                if self._next_packet() is None:
                    return False
            return True
        while (packet := self._next_packet()) is not None:
            found = self._index.position_of(packet.pts)
            if found == position:
                self._packets = _chain(packet, self._packets)
                self.next_position = position
                return True
            if found is not None and found > position:
                return False
        return False

    def _restart(self) -> None:
        self._container.close()
        try:
            self._container, self._stream = open_container(self._path)
        except VideoError as error:
            raise VideoError(f"'{self._path}' cannot be read any more: {error}") from error
        self._packets = self._container.demux(self._stream)
        self.next_position = 0


def _chain(packet: Any, packets: Iterator[Any]) -> Iterator[Any]:
    yield packet
    yield from packets

"""Where the frames of a video file are: found by reading its packets, without decoding them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av

from napari_surgsam2.errors import VideoError

from .base import describe

Identity = Literal["pts", "dts", "position"]

_BOXED_SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp")
# Demuxers that FFmpeg falls back to for text and for single pictures.
_NOT_VIDEO_FORMATS = ("tty", "image2", "bin", "srt", "ass", "webvtt")


@dataclass(frozen=True, slots=True)
class PacketFacts:
    """What a packet says of itself, before it is decoded."""

    pts: int | None
    dts: int | None
    keyframe: bool
    shown: bool


@dataclass(frozen=True)
class MovieIndex:
    """Maps frames, counted in the order they are shown, to packets, counted in the order they are stored.

    Attributes
    ----------
    packets : sequence of PacketFacts
        Indexed by position in the file.
    identity : {"pts", "dts", "position"}
        What tells packets apart: a time stamp, or where none is unique, the count from the file's start.
    order : tuple of int
        The position of every frame's packet, indexed by frame.
    """

    packets: Sequence[PacketFacts]
    identity: Identity
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        frame_at = {position: frame for frame, position in enumerate(self.order)}
        object.__setattr__(self, "_frame_at", frame_at)
        if self.identity == "position":
            tags: dict[Any, int] = {position: position for position in range(len(self.packets))}
        else:
            tags = {getattr(packet, self.identity): place for place, packet in enumerate(self.packets)}
        object.__setattr__(self, "_position_of", tags)
        entries = [place for place, packet in enumerate(self.packets) if packet.keyframe]
        object.__setattr__(self, "_entries", entries if entries[:1] == [0] else [0, *entries])

    def frame_at(self, position: int | None) -> int | None:
        """Return the frame made from the packet at `position`; None if it is not shown."""
        frame: int | None = self._frame_at.get(position)  # type: ignore[attr-defined]
        return frame

    def position_of(self, tag: int | None) -> int | None:
        """Return the position of the packet with this time stamp; None if it is not known."""
        position: int | None = self._position_of.get(tag)  # type: ignore[attr-defined]
        return position

    def entries(self, frame: int) -> list[int]:
        """Return the positions at which decoding can begin to reach `frame`, the nearest first."""
        every: list[int] = self._entries  # type: ignore[attr-defined]
        before = every[: bisect_right(every, self.order[frame])]
        # A frame shown before the key frame that is stored before it needs pictures from further back.
        return [entry for entry in reversed(before) if entry == 0 or (self.frame_at(entry) or 0) <= frame]

    def restricted(self, first: int, stop: int) -> MovieIndex:
        """Return the index with only the frames from `first` to before `stop`."""
        return MovieIndex(self.packets, self.identity, self.order[first:stop])

    def reordered(self, order: Sequence[int]) -> MovieIndex:
        """Return the index with the frames that a pass through the decoder gave, as positions of packets."""
        return MovieIndex(self.packets, self.identity, tuple(order))


def open_container(path: Path) -> tuple[Any, Any]:
    """Open a video file and return PyAV's container and the video stream, set to decode in threads.

    Raises
    ------
    VideoError
        If the file is not a video, is incomplete, or needs a decoder that is not there.
    """
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as error:
        if path.suffix.lower() in _BOXED_SUFFIXES and _lacks_moov(path):
            raise VideoError(
                f"'{path}' is incomplete: it has no 'moov' atom, which is written last, so the "
                "recording or the copy "
                "was cut off. Copy it again, or repair it with a tool such as untrunc."
            ) from error
        raise VideoError(
            f"'{path}' cannot be opened as a video: {describe(error)}. It may be damaged, or not be a video."
        ) from error
    try:
        formats = container.format.name
        stream: Any = container.streams.best("video")
        if formats in _NOT_VIDEO_FORMATS or formats.endswith("_pipe"):
            raise VideoError(f"'{path}' is not a video (it reads as {formats}).")
        if stream is None:
            kinds = ", ".join(sorted({str(other.type) for other in container.streams})) or "nothing"
            raise VideoError(f"'{path}' has no video in it, only {kinds}; give a file with a video stream.")
        if stream.codec_context is None:
            raise VideoError(
                f"'{path}' is coded in a way that the FFmpeg in PyAV cannot decode; convert it, for "
                "instance to H.264."
            )
        stream.thread_type = "AUTO"
    except VideoError:
        container.close()
        raise
    return container, stream


def build_index(container: Any, stream: Any) -> tuple[MovieIndex, bool]:
    """Read all packets and return the index they suggest, and whether the file breaks off.

    Where the time stamps are complete the frames are in their order, else in the order of the packets; the
    caller has to check this against the decoder where pictures are stored in another order than shown.
    """
    packets: list[PacketFacts] = []
    broken = False
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is None and packet.pts is None:
                continue
            if packet.is_corrupt:
                broken = True
            packets.append(
                PacketFacts(
                    packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard and _is_shown(packet)
                )
            )
    except av.error.FFmpegError:
        broken = True
    shown = [place for place, packet in enumerate(packets) if packet.shown]
    stamps = [packet.pts for packet in packets]
    if None not in stamps:
        shown.sort(key=lambda place: (stamps[place], place))
    identity: Identity = "position"
    for name, values in (("pts", stamps), ("dts", [packet.dts for packet in packets])):
        if None not in values and len(set(values)) == len(values):
            identity = name  # type: ignore[assignment]
            break
    return MovieIndex(packets, identity, tuple(shown)), broken


def _is_shown(packet: Any) -> bool:
    # VP8 stores reference pictures that are never shown as packets of their own; bit 4 tells.
    if packet.stream.codec_context.name != "vp8" or packet.size == 0:
        return True
    return bool(memoryview(packet)[0] & 0x10)


def _lacks_moov(path: Path) -> bool:
    """Tell whether a file is made of MP4 boxes, with none that describes the video."""
    kinds: list[bytes] = []
    with path.open("rb") as file:
        size = path.stat().st_size
        while file.tell() + 8 <= size and len(kinds) < 1000:
            start = file.tell()
            length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            kinds.append(kind)
            if length < 8:
                break
            file.seek(start + length)
    return bool(kinds) and kinds[0] == b"ftyp" and b"moov" not in kinds

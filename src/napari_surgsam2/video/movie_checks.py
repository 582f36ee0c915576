"""Examining a video file when it is opened: its order, its ends, its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from napari_surgsam2.errors import VideoError

from .movie_decoder import Decoder
from .movie_index import MovieIndex, build_index, open_container

# How many pictures are compared with the index at the start: more than any codec delays them.
HEAD_PICTURES = 24
# How many key frames are tried, going back, before the end counts as lost.
ENTRIES_TRIED = 3
# How much is decoded at most to see that the end can be, where nothing hints at damage: about a second.
TAIL_PIXELS = 400_000_000


@dataclass(frozen=True)
class MovieFacts:
    """What a look at the file gave; `coded_size` is height and width before the rotation, in degrees."""

    index: MovieIndex
    coded_size: tuple[int, int]
    rotation: int
    fps: float | None
    notes: tuple[str, ...]


def examine(path: Path) -> MovieFacts:
    """Index a video file and check the index against the decoder at both ends.

    Only the first pictures and those from the last key frame on are decoded. All are decoded once where the
    time stamps do not tell the order: in AVI files and bare streams whose pictures are stored in another
    order than shown, and where the first pictures are not those expected.

    Raises
    ------
    VideoError
        If the file is not a video, or no frame of it can be decoded.
    """
    container, stream = open_container(path)
    try:
        index, broken = build_index(container, stream)
        rate = stream.average_rate or stream.guessed_rate
        announced = int(stream.frames or 0)
        dropped = _dropped(container, index, announced)
        announced -= dropped
        ended_early = broken or announced > len(index.packets) or _lasts_longer(container, stream, index)
        untold = stream.codec_context.has_b_frames and (
            container.format.name == "avi" or index.identity != "pts"
        )
    finally:
        container.close()
    if not index.order:
        raise _no_frame(path)
    decoder = Decoder(path, index)
    try:
        head = _decode_head(decoder, path)
        picture = head[0][1]
        frames = [index.frame_at(position) for position, _ in head]
        if untold or not _as_expected(frames, damaged=decoder.failures > 0):
            kept = index.reordered(_decode_all(decoder))
            notes = _notes(kept, len(kept.order), announced, ended_early)
            if decoder.failures and not ended_early:
                notes = ("The file is damaged: frames that cannot be decoded are left out and not counted.",)
        else:
            first = frames[0] or 0
            stop = _decodable_end(decoder, index, picture.height * picture.width, ended_early)
            kept = index.restricted(first, stop)
            notes = _notes(kept, len(index.order) - first, announced, ended_early)
            if first:
                notes = (f"The first {first} frames of the file cannot be decoded and are left out.", *notes)
        if not kept.order:
            raise _no_frame(path)
    finally:
        decoder.close()
    if dropped:
        notes = (
            *notes,
            f"The file tells of {dropped} dropped frames, which are not counted.",
        )
    return MovieFacts(
        index=kept,
        coded_size=(picture.height, picture.width),
        rotation=int(picture.rotation) % 360 // 90 * 90,
        fps=float(rate) if rate else None,
        notes=notes,
    )


def _as_expected(frames: Sequence[int | None], damaged: bool) -> bool:
    """Tell whether the first pictures are those that the index says, or all of these that damage has left."""
    known = [frame for frame in frames if frame is not None]
    if len(known) < len(frames):
        return False
    steps = [after - before for before, after in pairwise(known)]
    return all(step >= 1 for step in steps) if damaged else all(step == 1 for step in steps)


def _decode_head(decoder: Decoder, path: Path) -> list[tuple[int | None, Any]]:
    pictures: list[tuple[int | None, Any]] = []
    while len(pictures) < HEAD_PICTURES and (found := decoder.next_picture()) is not None:
        pictures.append(found)
    if not pictures:
        raise _no_frame(path)
    return pictures


def _decode_all(decoder: Decoder) -> list[int]:
    """Return the position of every picture's packet, in the order in which the decoder gives them."""
    decoder.start_at(0)
    positions: dict[int, None] = {}
    while (found := decoder.next_picture()) is not None:
        if found[0] is not None:
            positions.setdefault(found[0])
    return list(positions)


def _decodable_end(decoder: Decoder, index: MovieIndex, frame_pixels: int, suspect: bool) -> int:
    """Return the number of frames up to the last that can be decoded, going back from the end."""
    stop = len(index.order)
    while stop:
        entries = index.entries(stop - 1)[:ENTRIES_TRIED]
        if not suspect and (len(index.packets) - entries[0]) * frame_pixels > TAIL_PIXELS:
            return stop
        last = -1
        # With gradual refresh the last key frame may be too near the end to show anything.
        for entry in entries:
            last = max(last, _last_decoded(decoder, index, entry, stop))
            if last == stop - 1:
                break
        if last >= 0:
            return last + 1
        suspect = True
        stop = min(index.frame_at(entries[-1]) or 0, stop - 1)
    return 0


def _last_decoded(decoder: Decoder, index: MovieIndex, entry: int, stop: int) -> int:
    """Return the last frame before `stop` that is decoded from the packet at `entry` on; -1 if none is."""
    decoder.start_at(entry)
    last = -1
    while last < stop - 1 and (found := decoder.next_picture()) is not None:
        frame = index.frame_at(found[0])
        if frame is not None and frame < stop:
            last = max(frame, last)
    return last


def _lasts_longer(container: Any, stream: Any, index: MovieIndex) -> bool:
    """Tell whether the file announces at least a second of video more than there is."""
    stamps = [packet.pts for packet in index.packets if packet.pts is not None]
    if not stamps:
        return False
    seconds = (max(stamps) - (stream.start_time or min(stamps))) * (stream.time_base or Fraction(1))
    if stream.duration is not None and stream.time_base is not None:
        announced = stream.duration * stream.time_base
    # The container's duration is that of its longest stream, which may be the sound.
    elif container.duration is not None and len(container.streams) == 1:
        announced = Fraction(container.duration, 1_000_000)
    else:
        return False
    longest = max((after - before for before, after in pairwise(sorted(stamps))), default=0)
    longest_step = longest * (stream.time_base or Fraction(1))
    return bool(announced > seconds + max(Fraction(1), 2 * longest_step))


def _dropped(container: Any, index: MovieIndex, announced: int) -> int:
    """Return how many of the announced frames are empty chunks, by which AVI files note dropped frames."""
    stamps = sorted(packet.dts for packet in index.packets if packet.dts is not None)
    if container.format.name != "avi" or not stamps:
        return 0
    longest = max((after - before for before, after in pairwise(stamps)), default=1)
    if stamps[-1] + longest < announced:
        return 0
    return max(0, announced - len(index.packets))


def _notes(kept: MovieIndex, n_indexed: int, announced: int, ended_early: bool) -> tuple[str, ...]:
    n_frames = len(kept.order)
    if n_frames == n_indexed and not ended_early:
        return ()
    n_expected = max(n_indexed, announced)
    of = f" of {n_expected}" if n_expected > n_frames else ""
    return (
        f"The file is damaged or cut short after frame {n_frames - 1}{of}: "
        f"frames 0 to {n_frames - 1} are used.",
    )


def _no_frame(path: Path) -> VideoError:
    return VideoError(
        f"No frame of '{path}' can be decoded: the file is damaged or incomplete. Copy it again."
    )

"""Memories of an object in a frame, and the store that keeps them within a byte limit."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_surgsam2.errors import OutputError

# SAM 2 clamps an earlier mask's logits to this range before it feeds them back.
LOGIT_RANGE = 32.0


@dataclass(eq=False)
class FrameMemory:
    """What is known of one object in one frame, on the host but for `active`.

    Attributes
    ----------
    logits : tensor, shape (4 h, 4 w), float32
        Low-resolution mask logits.
    pointer : tensor, shape (dim,), float32
        Object pointer.
    score : float
        Logit of the object being in the frame.
    reverse : bool
        Whether the frame was reached going backward in time.
    iou : float
        Predicted IoU of the mask, from 0 to 1.
    features : tensor, shape (memory_dim, h, w), float32, or None
        The memory feature map; None where it was let go, to be made again from the logits.
    prompted : bool
        Whether the user prompted the frame.
    active : ActiveMemory or None
        What the memory attention reads, on the device, while the memory is in use.
    """

    logits: Tensor
    pointer: Tensor
    score: float
    reverse: bool
    iou: float = 1.0
    features: Tensor | None = None
    prompted: bool = False
    active: ActiveMemory | None = None

    @property
    def is_given(self) -> bool:
        """Whether the user gave the mask, so that it is certain."""
        return self.prompted and self.iou == 1

    @property
    def trust(self) -> float:
        """How well the mask is expected to fit: its predicted IoU, or 0 where there is none."""
        return self.iou if self.score > 0 else 0.0

    @property
    def nbytes(self) -> int:
        """Host memory taken, in bytes."""
        features = 0 if self.features is None else self.features.nbytes
        return self.logits.nbytes + self.pointer.nbytes + features


@dataclass(eq=False)
class ActiveMemory:
    """A memory as the memory attention reads it, on the device.

    Attributes
    ----------
    features : tensor, shape (memory_dim, h, w)
        The memory feature map, for pruning.
    keys, values : tensor, shape (L, h * w, dim)
        Projected once for each of the L layers of the memory attention, without the memory's time.
    """

    features: Tensor
    keys: Tensor
    values: Tensor


class MemoryStore:
    """Memories of tracked frames; indexed by object id and frame.

    Past the byte limit the frames farthest from the newest one are reduced to their mask logits (half
    precision), pointer and score, which go to a file: host memory does not grow with the video.

    Parameters
    ----------
    limit : int
        Bytes of host memory that may be taken.
    window : int
        Frames this near the newest one are never reduced.
    path : Path, optional
        The file, an SQLite database, which stays and is read again if it is there; a temporary one if left
        out.
    """

    def __init__(self, limit: int, window: int, path: Path | None = None) -> None:
        self.limit = limit
        self.window = window
        self._path = path
        self.nbytes = 0
        self._memories: dict[int, dict[int, FrameMemory]] = {}  # by frame, then by object id
        self._reduced: sqlite3.Connection | None = None
        if path is not None and path.exists():
            self._execute("SELECT 1")

    def get(self, object_id: int, frame: int) -> FrameMemory | None:
        """Return a memory, its `features` None if it was reduced; None if there is none."""
        memory = self._memories.get(frame, {}).get(object_id)
        return memory if memory is not None else self._read_reduced(object_id, frame)

    def has(self, object_id: int, frame: int) -> bool:
        """Whether there is a memory of the object in the frame."""
        if object_id in self._memories.get(frame, {}):
            return True
        if self._reduced is None:
            return False
        query = "SELECT 1 FROM memories WHERE object_id = ? AND frame = ?"
        return bool(self._execute(query, object_id, frame))

    def put(self, object_id: int, frame: int, memory: FrameMemory) -> None:
        """Keep a memory in place of any other of that object and frame, reducing far ones where needed."""
        self._forget(object_id, frame)
        self._memories.setdefault(frame, {})[object_id] = memory
        self.nbytes += memory.nbytes
        while self.nbytes > self.limit and (farthest := self._farthest_from(frame)) is not None:
            self._reduce(farthest)

    def remove(self, object_id: int, frames: Iterable[int]) -> None:
        """Forget an object in some frames."""
        for frame in frames:
            self._forget(object_id, frame)

    def remove_object(self, object_id: int) -> None:
        """Forget an object."""
        for frame in list(self._memories):
            self._forget(object_id, frame)
        if self._reduced is not None:
            self._execute("DELETE FROM memories WHERE object_id = ?", object_id)

    def restore(self, object_id: int, frame: int, memory: FrameMemory) -> None:
        """Keep a memory as it was kept before: reduced if it has no features, and reducing no other."""
        self._memories.setdefault(frame, {})[object_id] = memory
        self.nbytes += memory.nbytes
        if memory.features is None:
            self._reduce(frame, object_id)

    def keep_only(self, masks: range, attends: Callable[[int, int], bool]) -> None:
        """Keep what `attends` says of (object id, frame), reduce what else is in `masks`, forget the rest."""
        kept = [(object_id, frame) for frame, memories in self._memories.items() for object_id in memories]
        for object_id, frame in kept:
            if attends(object_id, frame):
                continue
            if frame in masks:
                self._reduce(frame, object_id)
            else:
                self._forget(object_id, frame)
        if self._reduced is not None:
            query = "DELETE FROM memories WHERE frame < ? OR frame >= ?"
            self._execute(query, masks.start, masks.stop)

    def forget_ahead(self, frame: int, *, reverse: bool) -> None:
        """Forget what the file has of a frame and of those that a pass, forward or backward, comes to later.

        A process that was killed may have kept more there than its state knows of.
        """
        if self._reduced is not None:
            ahead = "reverse = 1 AND frame <= ?" if reverse else "reverse = 0 AND frame >= ?"
            self._execute(f"DELETE FROM memories WHERE {ahead}", frame)

    def frames(self, object_id: int) -> Iterator[int]:
        """Yield the frames with a memory of the object, in no particular order."""
        yield from (frame for frame, memories in self._memories.items() if object_id in memories)
        if self._reduced is not None:
            query = "SELECT frame FROM memories WHERE object_id = ?"
            yield from (row[0] for row in self._execute(query, object_id))

    def close(self) -> None:
        """Forget everything and delete the file, if it is a temporary one."""
        self._memories.clear()
        self.nbytes = 0
        if self._reduced is not None:
            self._reduced.close()
            self._reduced = None

    def _farthest_from(self, frame: int) -> int | None:
        farthest = max(self._memories, key=lambda f: abs(f - frame))
        return farthest if abs(farthest - frame) > self.window else None

    def _forget(self, object_id: int, frame: int) -> None:
        memories = self._memories.get(frame)
        if memories is not None and object_id in memories:
            self.nbytes -= memories.pop(object_id).nbytes
            if not memories:
                del self._memories[frame]
        elif self._reduced is not None:
            self._execute("DELETE FROM memories WHERE object_id = ? AND frame = ?", object_id, frame)

    def _reduce(self, frame: int, only: int | None = None) -> None:
        """Reduce the memories of a frame, of all objects or of one only."""
        memories = self._memories[frame]
        for object_id in list(memories) if only is None else [only]:
            memory = memories[object_id]
            logits = memory.logits.clamp(-LOGIT_RANGE, LOGIT_RANGE).to(torch.float16).numpy()
            self._execute(
                "INSERT OR REPLACE INTO memories VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                object_id,
                frame,
                memory.logits.shape[-1],
                zlib.compress(logits.tobytes(), level=1),
                memory.pointer.numpy().tobytes(),
                memory.score,
                memory.reverse,
                memory.iou,
            )
            self.nbytes -= memories.pop(object_id).nbytes
        if not memories:
            del self._memories[frame]

    def _read_reduced(self, object_id: int, frame: int) -> FrameMemory | None:
        if self._reduced is None:
            return None
        columns = "side, logits, pointer, score, reverse, iou"
        query = f"SELECT {columns} FROM memories WHERE object_id = ? AND frame = ?"
        rows = self._execute(query, object_id, frame)
        if not rows:
            return None
        side, logits, pointer, score, reverse, iou = rows[0]
        try:
            array = np.frombuffer(zlib.decompress(logits), dtype=np.float16).reshape(-1, side)
        except (zlib.error, ValueError) as error:
            raise self._damaged(error) from error
        return FrameMemory(
            logits=torch.from_numpy(array.astype(np.float32)),
            pointer=torch.from_numpy(np.frombuffer(pointer, dtype=np.float32).copy()),
            score=score,
            reverse=bool(reverse),
            iou=iou,
        )

    def _execute(self, query: str, *values: object) -> list[Any]:
        """Return the rows that a query gives; the file is made if there is none."""
        try:
            if self._reduced is None:
                self._reduced = _open_reduced(self._path)
            return self._reduced.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            place = "a temporary file" if self._path is None else f"'{self._path}'"
            folder = _temporary_folder() if self._path is None else self._path.parent
            raise OutputError(
                f"Masks of frames before cannot be kept in {place} ({error}); see that '{folder}' has space "
                "and can be written to, and try again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> OutputError:
        where = "the temporary file" if self._path is None else f"'{self._path}'"
        return OutputError(
            f"What was kept of frames before is damaged: {where} cannot be read ({error}). Start anew, with "
            "--force (overwrite=True) where there is an output."
        )


def _temporary_folder() -> str:
    """Return where SQLite puts temporary files: not always where Python does."""
    places = os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp"
    usual = tempfile.gettempdir()
    return usual if os.name == "nt" else next((p for p in places if p and os.access(p, os.W_OK)), usual)


def _open_reduced(path: Path | None) -> sqlite3.Connection:
    # An empty name is a private database in a temporary file, deleted when closed. One thread at a time uses
    # a tracker, but not always the same one.
    # Whoever names a file keeps others from it, and not every network has the locks that SQLite wants.
    name = "" if path is None else f"{path.absolute().as_uri()}?nolock=1"
    database = sqlite3.connect(name, check_same_thread=False, isolation_level=None, uri=path is not None)
    try:
        database.execute("PRAGMA synchronous = OFF")  # a power cut costs the run's state, not the masks
        database.execute(
            "CREATE TABLE IF NOT EXISTS memories (object_id INTEGER, frame INTEGER, side INTEGER, "
            "logits BLOB, pointer BLOB, score REAL, reverse INTEGER, iou REAL, "
            "PRIMARY KEY (object_id, frame)) WITHOUT ROWID"
        )
        # Every frame of a pass asks for frames to forget, however many are kept.
        database.execute("CREATE INDEX IF NOT EXISTS frames ON memories (frame)")
    except sqlite3.Error:
        database.close()
        raise
    return database

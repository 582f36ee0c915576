"""What is known of each object in each frame of a video: confidence, presence, and memories looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_surgsam2.tracking import MemoryUse

DOUBTFUL = 0.6  # confidence below which a frame is worth a look


class Known(NamedTuple):
    """What is known of an object in a frame; `ObjectRecord` says what the entries mean."""

    confidence: float
    present: bool
    tracked: bool = False


_NOTHING = Known(float("nan"), False)


@dataclass(eq=False)
class ObjectRecord:
    """One object over a video of T frames.

    Attributes
    ----------
    confidence : array, shape (T,), float32
        Between 0 and 1; nan where the object was not tracked or prompted.
    present : array, shape (T,), bool
        Where it has a mask.
    tracked : array, shape (T,), bool
        Where a pass came by.
    memory : dict of int to MemoryUse
        By frame, what was looked at there.
    """

    confidence: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    tracked: npt.NDArray[np.bool_]
    memory: dict[int, MemoryUse]

    @property
    def mean_confidence(self) -> float:
        """Over the frames in which it was tracked or prompted; nan without any."""
        known = self.confidence[~np.isnan(self.confidence)]
        return float(known.mean()) if known.size else float("nan")

    @property
    def is_noted(self) -> bool:
        """Whether anything is known of it."""
        return bool(self.present.any() or not np.isnan(self.confidence).all())


class Records:
    """Records by object id.

    Parameters
    ----------
    n_frames : int
        Length of the video.
    """

    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames
        self._records: dict[int, ObjectRecord] = {}

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids, ascending."""
        return tuple(sorted(self._records))

    @property
    def noted_ids(self) -> tuple[int, ...]:
        """Ids of which anything is known, ascending."""
        return tuple(i for i in self.object_ids if self._records[i].is_noted)

    def __getitem__(self, object_id: int) -> ObjectRecord:
        """Return an object's record, an empty one if there is nothing of it yet."""
        record = self._records.get(object_id)
        if record is None:
            present, tracked = np.zeros((2, self.n_frames), dtype=bool)
            record = ObjectRecord(np.full(self.n_frames, np.nan, np.float32), present, tracked, {})
            self._records[object_id] = record
        return record

    def has_mask(self, object_id: int, frame: int) -> bool:
        """Whether a mask of an object was made in a frame, perhaps an empty one."""
        record = self._records.get(object_id)
        return record is not None and not np.isnan(record.confidence[frame])

    def was_tracked(self, object_id: int, frame: int) -> bool:
        """Whether a pass drew an object in a frame."""
        record = self._records.get(object_id)
        return record is not None and bool(record.tracked[frame])

    def remove(self, object_id: int) -> None:
        """Forget an object."""
        self._records.pop(object_id, None)

    def note(
        self,
        object_id: int,
        frame: int,
        confidence: float,
        present: bool,
        memory: MemoryUse | None = None,
        tracked: bool = False,
    ) -> None:
        """Write down what came out for an object in a frame; a corrected mask stays one that was tracked."""
        record = self[object_id]
        record.confidence[frame], record.present[frame] = confidence, present
        record.tracked[frame] = (tracked or record.tracked[frame]) and not np.isnan(confidence)
        if memory is None:
            record.memory.pop(frame, None)
        else:
            record.memory[frame] = memory

    def at(self, frame: int) -> dict[int, Known]:
        """Return what is known of all objects in a frame."""
        return {
            i: Known(float(r.confidence[frame]), bool(r.present[frame]), bool(r.tracked[frame]))
            for i, r in sorted(self._records.items())
        }

    def restore(self, frame: int, values: Mapping[int, Known]) -> None:
        """Take a frame back to what `at` returned."""
        for object_id in self._records.keys() | values.keys():
            record = self[object_id]
            known = values.get(object_id, _NOTHING)
            record.confidence[frame], record.present[frame], record.tracked[frame] = known
            record.memory.pop(frame, None)

    def next_doubtful(
        self, after: int, objects: Sequence[int], threshold: float = DOUBTFUL
    ) -> tuple[int, int] | None:
        """Return the next frame, and the object, whose confidence is lowest in a run of doubtful ones.

        They are looked for from the frame after `after` on, and from the beginning again after the end;
        frame `after` itself comes last.
        """
        found: list[tuple[int, int]] = []
        for object_id in objects:
            confidence = self[object_id].confidence
            doubtful = np.flatnonzero(np.nan_to_num(confidence, nan=1.0) < threshold)
            if not doubtful.size:
                continue
            for run in np.split(doubtful, np.flatnonzero(np.diff(doubtful) > 1) + 1):
                found.append((int(run[confidence[run].argmin()]), object_id))
        if not found:
            return None
        return min(found, key=lambda entry: ((entry[0] - after - 1) % self.n_frames, entry[1]))

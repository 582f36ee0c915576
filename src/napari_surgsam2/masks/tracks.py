"""Where each object's centre goes, as napari's Tracks layer takes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arrays import LabelArray
from .measurements import iter_regions


@dataclass(frozen=True, eq=False)
class CentroidTracks:
    """Centroids of objects over time; the three go to napari as `Tracks(data, graph=..., properties=...)`.

    napari draws a line through all points of one track id, so an object that was out of view has a track for
    each stretch of frames where it is present: the first one under its object id, later ones under new ids.
    The graph says which belong together. napari draws it as a line of another colour, which
    `display_graph = False` hides. It takes no data without rows.

    Attributes
    ----------
    data : ndarray, shape (N, 4), float64
        Rows (track id, frame, y, x), sorted by track id, then frame. Pixels, their centres at integers.
    graph : dict of int to list of int
        For each later stretch of an object its track id, and that of the stretch before it, in a list.
    properties : dict of str to ndarray, shape (N,)
        For each row of `data`: `object_id`; `part`, the number of the stretch from 0; `area` in pixels.
    """

    data: NDArray[np.float64]
    graph: dict[int, list[int]]
    properties: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.data)


def centroid_tracks(
    labels: LabelArray,
    *,
    object_ids: Iterable[int] | None = None,
    frames: Iterable[int] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CentroidTracks:
    """Return the centroid of each object in each frame where it is present.

    Parameters
    ----------
    labels : array-like, shape (T, Y, X)
        Integers, 0 is background; read frame by frame.
    object_ids : iterable of int, optional
        Only these objects; by default all.
    frames : iterable of int, optional
        Only these frames; by default all. A track goes on over frames that are not looked at: it breaks where
        the object is missing in a frame that is.
    progress : callable, optional
        Called after each frame with the number of frames done and of all; what it raises ends the work.

    Returns
    -------
    CentroidTracks
        Without rows if no object is there.

    Raises
    ------
    UsageError
        If the labels are no integers of that shape or negative, or there is no such frame.
    """
    wanted = None if object_ids is None else set(object_ids)
    # By object id: (number of the frame among those looked at, frame, y, x, area).
    points: dict[int, list[tuple[float, ...]]] = {}
    highest = 0
    # All objects are asked for, since new track ids must differ from their ids too.
    for step, (t, found) in enumerate(iter_regions(labels, frames=frames, progress=progress)):
        for object_id, region in found:
            highest = max(highest, object_id)
            if wanted is None or object_id in wanted:
                points.setdefault(object_id, []).append((step, t, *region.centroid, region.area))
    return _assemble({object_id: np.array(points[object_id]) for object_id in sorted(points)}, highest + 1)


def _assemble(points: dict[int, NDArray[np.float64]], next_id: int) -> CentroidTracks:
    """Break tracks at gaps and put them in one table.

    Parameters
    ----------
    points : dict of int to ndarray, shape (n, 5)
        By object id, ascending: rows (number of the frame among those looked at, frame, y, x, area).
    next_id : int
        The first track id that no object has.
    """
    graph: dict[int, list[int]] = {}
    tables = []
    for object_id, rows in points.items():
        part = np.concatenate([[0], np.cumsum(np.diff(rows[:, 0]) > 1)])
        track_ids = [object_id, *range(next_id, next_id + int(part[-1]))]
        next_id += int(part[-1])
        graph |= {child: [parent] for parent, child in itertools.pairwise(track_ids)}
        track = np.array(track_ids)[part]
        tables.append(np.column_stack([track, rows[:, 1:], np.full(len(rows), object_id), part]))
    table = np.concatenate(tables) if tables else np.empty((0, 7))
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    properties = {
        "object_id": table[:, 5].astype(np.int64),
        "part": table[:, 6].astype(np.int64),
        "area": table[:, 4],
    }
    return CentroidTracks(table[:, :4], graph, properties)

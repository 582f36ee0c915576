"""Numbers for the instruments of a video, stable from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

SMALLEST = 0.0005
"""Share of the picture that a new instrument must have at least; smaller pieces join one of their class."""

_MOST = 254  # 255 is void


@dataclass(frozen=True, eq=False)
class Piece:
    """What belongs to one instrument, or to instruments of one class.

    Attributes
    ----------
    type_id : int
        The class.
    mask : ndarray, shape (Y, X), bool
        Where it is.
    key : str or None
        Tells the instrument in all frames; None if that is not known.
    is_whole : bool
        Without a key: whether the mask is one instrument. If not, each of its connected components may be.
    """

    type_id: int
    mask: NDArray[np.bool_]
    key: str | None = None
    is_whole: bool = False


class InstanceNumbers:
    """Numbers the instruments of a video, frame by frame.

    A piece belongs to the instrument of its class whose last mask it overlaps most. One that is the best
    overlap of several is where they touch, and is divided among them, each pixel going to the nearest last
    mask. One without overlap is an instrument of its class that is not in view, as one that comes back keeps
    its number, or else, if it is large enough, a new one.

    Attributes
    ----------
    types : dict of int to int
        By number, counted from 1 in the order of appearance, the class.
    """

    def __init__(self) -> None:
        self.types: dict[int, int] = {}
        self._keys: dict[tuple[int, str], int] = {}
        self._last: dict[int, NDArray[np.bool_]] = {}  # by number, the mask when last seen

    def label(self, pieces: Sequence[Piece], shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the numbers in the next frame, shape (Y, X); of overlapping pieces the later one wins."""
        labels = np.zeros(shape, dtype=np.uint8)
        for piece in pieces:
            if piece.key is not None and piece.mask.any():
                where = (piece.type_id, piece.key)
                if where not in self._keys:
                    self._keys[where] = self._new(piece.type_id)
                labels[piece.mask] = self._keys[where]
        for type_id in sorted({piece.type_id for piece in pieces if piece.key is None}):
            parts = [
                part
                for piece in pieces
                if piece.key is None and piece.type_id == type_id
                for part in _components(piece)
            ]
            self._assign(labels, type_id, parts)
        for number in np.unique(labels[labels > 0]).tolist():
            self._last[number] = labels == number
        return labels

    def _assign(self, labels: NDArray[np.uint8], type_id: int, parts: list[NDArray[np.bool_]]) -> None:
        parts = sorted((part for part in parts if part.any()), key=lambda part: -int(part.sum()))
        known = [i for i, of in self.types.items() if of == type_id and i in self._last]
        overlap = np.array(
            [[np.count_nonzero(part & self._last[i]) for i in known] for part in parts], dtype=np.int64
        ).reshape(len(parts), len(known))
        owners: dict[int, list[int]] = {p: [] for p in range(len(parts))}
        for column, i in enumerate(known):
            if len(parts) and overlap[:, column].any():
                owners[int(overlap[:, column].argmax())].append(i)
        taken = {i for of_part in owners.values() for i in of_part}
        for p, part in enumerate(parts):
            if len(owners[p]) > 1:
                self._divide(labels, part, owners[p])
                continue
            if owners[p]:
                number = owners[p][0]
            elif known and overlap[p].any():
                number = known[int(overlap[p].argmax())]
            else:
                found = self._unseen(part, type_id, [i for i in known if i not in taken], known)
                if found is None:
                    continue
                number = found
                taken.add(number)
            labels[part] = number

    def _unseen(self, part: NDArray[np.bool_], type_id: int, away: list[int], known: list[int]) -> int | None:
        """Return the number of a piece that overlaps nothing; None if it is too small for one of its own."""
        large = part.sum() >= SMALLEST * part.size
        candidates = away if large else known
        if candidates:
            return min(candidates, key=lambda i: _distance(part, self._last[i]))
        return self._new(type_id) if large else None

    def _divide(self, labels: NDArray[np.uint8], part: NDArray[np.bool_], numbers: list[int]) -> None:
        from scipy import ndimage

        distances = [
            ndimage.distance_transform_edt(~self._last[i])[part]  # type: ignore[attr-defined]
            for i in numbers
        ]
        labels[part] = np.array(numbers, dtype=np.uint8)[np.argmin(distances, axis=0)]

    def _new(self, type_id: int) -> int:
        number = len(self.types) + 1
        if number > _MOST:
            raise UsageError(
                f"There are more than {_MOST} instruments in one video; palette PNGs hold no more."
            )
        self.types[number] = type_id
        return number


def _components(piece: Piece) -> list[NDArray[np.bool_]]:
    from scipy import ndimage

    if piece.is_whole:
        return [piece.mask]
    found: Any = ndimage.label(piece.mask, structure=np.ones((3, 3)))  # type: ignore[attr-defined]
    return [found[0] == i for i in range(1, found[1] + 1)]


def _distance(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return how far the centroids of two masks are apart."""
    return float(np.linalg.norm(np.argwhere(a).mean(axis=0) - np.argwhere(b).mean(axis=0)))

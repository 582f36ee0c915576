"""Undo and redo: steps of prompts, and of the frames whose masks they changed."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .records import Known

_MOST_BYTES = 256 * 2**20
_tokens = itertools.count(1)  # of the steps of all histories


@dataclass(frozen=True, eq=False)
class FrameState:
    """A frame of the labels, compressed, and what was known of the objects in it.

    Attributes
    ----------
    packed : bytes or None
        What is in the `box`; None where all is background.
    box : tuple of 2 slices
        Rows and columns, out of which all is background.
    shape : tuple of int
        (Y, X).
    dtype : dtype
        Of the labels.
    known : dict
        As `Records.at` returns it.
    edited : frozenset of int
        The objects that the user painted there.
    """

    packed: bytes | None
    box: tuple[slice, slice]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    known: dict[int, Known]
    edited: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        labels: npt.NDArray[Any],
        known: dict[int, Known],
        edited: frozenset[int] = frozenset(),
    ) -> FrameState:
        """Keep a frame."""
        box = _box_around(labels)
        inside = labels[box]
        packed = zlib.compress(np.ascontiguousarray(inside).data, level=1) if inside.size else None
        return cls(packed, box, (labels.shape[0], labels.shape[1]), labels.dtype, known, edited)

    def labels(self) -> npt.NDArray[Any]:
        """Return the frame, (Y, X)."""
        out = np.zeros(self.shape, dtype=self.dtype)
        if self.packed is not None:
            inside = out[self.box]
            inside[...] = np.frombuffer(zlib.decompress(self.packed), self.dtype).reshape(inside.shape)
        return out

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return 200 + len(self.packed or b"")


def _box_around(labels: npt.NDArray[Any]) -> tuple[slice, slice]:
    """Return the rows and columns that hold all that is not background; none where all is."""
    rows = np.flatnonzero(labels.any(axis=1))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    here = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(labels[here].any(axis=0))
    return here, slice(int(columns[0]), int(columns[-1]) + 1)


@dataclass(eq=False)
class Step:
    """Something that can be undone.

    Attributes
    ----------
    token : int
        Its number.
    what : str
        What it was, for the user.
    before, after : object
        The prompts; the same object where they did not change.
    frames : dict
        By what a frame is indexed with, the state to be swapped in: that before the step while it is done,
        that after it while it is undone.
    ahead : set
        Those that are swapped already, though the step is not: they could not be swapped back.
    is_pass : bool
        Whether the masks were tracked in it, rather than made of prompts or painted.
    removes : int or None
        The object that it takes away.
    """

    token: int
    what: str
    before: Any
    after: Any
    frames: dict[tuple[int, ...], FrameState] = field(default_factory=dict)
    ahead: set[tuple[int, ...]] = field(default_factory=set)
    is_pass: bool = False
    removes: int | None = None

    @property
    def nbytes(self) -> int:
        """Memory taken by the frames."""
        return sum(state.nbytes for state in self.frames.values())


class History:
    """Steps done, and steps undone that can be done again; the oldest are forgotten past a byte limit."""

    def __init__(self, limit: int = _MOST_BYTES) -> None:
        self._limit = limit
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._bytes = 0  # of the steps that are done, or more

    def begin(
        self, what: str, before: Any, after: Any, is_pass: bool = False, removes: int | None = None
    ) -> Step:
        """Start a step; what was undone cannot be done again any more."""
        step = Step(next(_tokens), what, before, after, is_pass=is_pass, removes=removes)
        self._done.append(step)
        self._undone.clear()
        return step

    def find(self, token: int) -> Step | None:
        """Return a step that is done, or None."""
        return next((step for step in reversed(self._done) if step.token == token), None)

    def after(self, token: int) -> list[Step]:
        """Return the steps that were done after the one of a number, and were not undone."""
        return [step for step in self._done if step.token > token]

    @property
    def undone(self) -> tuple[Step, ...]:
        """The steps that can be done again."""
        return tuple(self._undone)

    def drop(self, step: Step) -> None:
        """Forget a step that turned out to change nothing."""
        if step in self._done:
            self._done.remove(step)

    def keep(self, step: Step, index: tuple[int, ...], state: FrameState) -> None:
        """Add a frame as it was before a step, if the step has none of it yet."""
        if index not in step.frames:
            step.frames[index] = state
            self._bytes += state.nbytes
            self._trim()

    def undo(self) -> Step | None:
        """Return the newest step, which from now on can be done again."""
        return self._move(self._done, self._undone)

    def redo(self) -> Step | None:
        """Return the step undone last, which from now on can be undone."""
        return self._move(self._undone, self._done)

    def move_back(self, step: Step) -> None:
        """Put a step that was to be undone or done again, in vain, back to where it was."""
        if step not in self._done:
            if step in self._undone:  # else something new was done meanwhile
                self._undone.remove(step)
            self._done.append(step)
            self._done.sort(key=lambda other: other.token)
        elif step is self._done[-1]:
            self._undone.append(self._done.pop())
        else:  # what is new is on top of it, so that it cannot be done again
            self._done.remove(step)

    @property
    def can_undo(self) -> str:
        """What would be undone; empty if nothing."""
        return self._done[-1].what if self._done else ""

    @property
    def can_redo(self) -> str:
        """What would be done again; empty if nothing."""
        return self._undone[-1].what if self._undone else ""

    @property
    def newest(self) -> Step | None:
        """The step that would be undone."""
        return self._done[-1] if self._done else None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to undo or do again."""
        return not self._done and not self._undone

    def clear(self) -> None:
        """Forget everything."""
        self._done.clear()
        self._undone.clear()

    @staticmethod
    def _move(here: list[Step], there: list[Step]) -> Step | None:
        if not here:
            return None
        there.append(here.pop())
        return there[-1]

    def _trim(self) -> None:
        if len(self._done) < 2 or self._bytes <= self._limit:
            return
        sizes = [step.nbytes for step in self._done]  # undoing and redoing change them
        self._bytes = sum(sizes)
        while len(self._done) > 1 and self._bytes > self._limit:
            del self._done[0]
            self._bytes -= sizes.pop(0)

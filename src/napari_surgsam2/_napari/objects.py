"""The objects of a session: their numbers and names, and which of them the next prompt is for."""

from __future__ import annotations

from collections.abc import Iterable, Set


class Objects:
    """Numbers that stand for objects, at least one of them; those of the user's own labels are among them.

    Attributes
    ----------
    current : int
        The object that the next prompt is for.
    names : dict of int to str
        By object id; also of objects that are not there any more.
    in_labels : set of int
        Those that labels held before they were drawn into.
    """

    def __init__(self) -> None:
        self.current = 1
        self.names: dict[int, str] = {}
        self.in_labels: set[int] = set()
        self._ids = {1}

    @property
    def ids(self) -> tuple[int, ...]:
        """All objects, ascending."""
        return tuple(sorted(self._ids))

    def __contains__(self, object_id: int) -> bool:
        """Whether there is such an object."""
        return object_id in self._ids

    def add(self, object_ids: Iterable[int]) -> None:
        """Add objects to those that are there."""
        self._ids.update(object_ids)

    def discard(self, object_id: int) -> None:
        """Take an object away; the number 1 is there, and empty, where none is left."""
        self._ids.discard(object_id)
        if not self._ids:
            self._ids.add(1)

    def rename(self, object_id: int, name: str) -> None:
        """Give an object a name; an empty one takes it away."""
        if name.strip():
            self.names[object_id] = name.strip()
        else:
            self.names.pop(object_id, None)

    def next_number(self, used: Set[int], reuse: bool) -> int:
        """Return the number of a new object.

        Parameters
        ----------
        used : set of int
            Objects that have prompts or masks.
        reuse : bool
            Whether an object without prompts, masks and a name is taken first.
        """
        unused = (i for i in self.ids if i not in used and i not in self.names)
        free = next(unused, None) if reuse else None
        return max(self._ids | used | self.names.keys(), default=0) + 1 if free is None else free

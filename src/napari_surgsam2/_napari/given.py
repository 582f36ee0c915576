"""Masks that are seen and become prompts: what was painted, and what a new tracker does not know of."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from napari_surgsam2.prompts import Mask, Point, Prompt

from .drawing import Drawing
from .prompts import GivenMask, Key, PromptLayers


class MaskGiver:
    """Makes prompts of masks in the labels.

    Parameters
    ----------
    prompts : PromptLayers
        Where they go.
    drawing : Drawing
        What is seen, and what is known of it.
    """

    def __init__(self, prompts: PromptLayers, drawing: Drawing) -> None:
        self._prompts = prompts
        self._drawing = drawing

    def give(self, keys: Collection[Key]) -> None:
        """Take masks as they are in the labels as prompts; an empty one says that the object is not there."""
        said = self._prompts.read(self._prompts.state()) if keys else {}
        for key in sorted(keys):
            self._give(key, said.get(key, ()))

    def give_painted(self, but: Collection[int] = ()) -> set[int]:
        """Take all that was painted by hand, so that tracking keeps it; returns the objects left out.

        What was painted over a mask that is on its way is not taken without it, and no object of `but` is.
        """
        if not self._drawing.painted_counts:
            return set()
        settled = [key for key in sorted(self._drawing.edited) if self._drawing.waiting_step(key) is None]
        painted = [key for key in settled if self._drawing.is_painted(key)]
        self.give([key for key in painted if key[1] not in but])
        return {i for _, i in painted} & set(but)

    def begin_with_what_is_there(
        self,
        wanted: Mapping[Key, tuple[Prompt, ...]],
        known: Mapping[Key, tuple[Prompt, ...]],
        cleared: Key | None = None,
    ) -> bool:
        """Give masks that prompts are to refine rather than to begin anew; returns whether there were any.

        Parameters
        ----------
        wanted, known : mapping of Key to prompts
            As they are now, and as they were before.
        cleared : Key, optional
            Where all is to be taken back, whatever is there.
        """
        changed = [key for key in wanted.keys() | known.keys() if wanted.get(key) != known.get(key)]
        found = False
        for key in changed:
            before = known.get(key, ())
            if key != cleared and self._is_to_stay(key, wanted.get(key, ()), before) and self._is_seen(key):
                self._give(key, before)
                found = True
        return found

    def _is_to_stay(self, key: Key, now: tuple[Prompt, ...], before: tuple[Prompt, ...]) -> bool:
        """Whether prompts refine a mask that the tracker does not know.

        That is so of painted ones; of those that an earlier tracker tracked, at the first click; and of all
        others where clicks are only negative.
        """
        frame, object_id = key
        if self._drawing.waiting_step(key) is not None:  # a mask comes yet, under what is painted
            return False
        if self._drawing.painted_counts and self._drawing.is_painted(key):
            return True
        if len(now) <= len(before) or key in self._drawing.on_tracker:
            return False
        first = not before and self._drawing.records.was_tracked(object_id, frame)
        return first or not any(map(says_where, now))

    def _is_seen(self, key: Key) -> bool:
        canvas = self._drawing.canvas
        return canvas is not None and bool((canvas.frame(key[0]) == key[1]).any())

    def _give(self, key: Key, settled: Collection[Prompt]) -> None:
        """Make a mask a prompt, in place of the clicks and boxes that led to it."""
        assert self._drawing.canvas is not None
        frame, object_id = key
        mask = Mask(frame, self._drawing.canvas.frame(frame) == object_id, object_id)
        before = self._prompts.masks.get(key)
        older = () if before is None else before.settled
        more = (p for p in settled if not isinstance(p, Mask))
        self._prompts.masks[key] = GivenMask(mask, (*older, *more), key in self._drawing.edited)
        self._drawing.edited.discard(key)


def says_where(prompt: Prompt) -> bool:
    """Whether a prompt says where an object is, rather than only where it is not."""
    return not isinstance(prompt, Point) or prompt.positive

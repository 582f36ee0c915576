"""Taking steps back, and doing them once more: their prompts, then frame by frame the masks they changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from .asking import Asking
from .drawing import Drawing
from .history import Step
from .objects import Objects
from .prompts import GivenMask, Key, PromptState
from .worker import TrackerThread, sentence


class Undoing:
    """Undoes and redoes; both are work that is done a frame at a time.

    Parameters
    ----------
    asking : Asking
        Where the prompts are restored.
    drawing : Drawing
        Where the masks are, and the steps.
    objects : Objects
        They come and go with their prompts and masks.
    thread : TrackerThread
        It forgets what is not seen any more.
    tell : callable
        Called with what goes wrong.
    """

    def __init__(
        self,
        asking: Asking,
        drawing: Drawing,
        objects: Objects,
        thread: TrackerThread,
        tell: Callable[[str], object],
    ) -> None:
        self._asking, self._drawing, self._objects, self._thread = asking, drawing, objects, thread
        self._tell = tell

    def undo(self, waited: bool) -> Iterator[None]:
        """Take the newest step back; nothing where it has `waited` and something was said meanwhile."""
        return self._take("Undo", self._drawing.undo, lambda step: step.before, waited)

    def redo(self, waited: bool) -> Iterator[None]:
        """Do the step that was undone last once more; nothing where it has `waited`, as for `undo`."""
        return self._take("Redo", self._drawing.history.redo, lambda step: step.after, waited)

    def _take(
        self,
        what: str,
        move: Callable[[], Step | None],
        prompts_of: Callable[[Step], PromptState],
        waited: bool,
    ) -> Iterator[None]:
        """Take the step that `move` gives back, or do it once more: its prompts, then frame by frame."""
        asking = self._asking
        known = asking.known
        asking.now()
        if waited and asking.known != known:
            return  # what was said since is not what is to be taken back
        step = move()
        if step is None:
            return
        said, given, objects = asking.state, asking.prompts.masks, {i for _, i in asking.known}
        if step.before is not step.after:
            asking.restore(prompts_of(step))
        restored = asking.state
        try:
            yield from asking.halfway(self._swap_frames(step, given, objects))
        except Exception as error:  # a full disk, or whatever an array of the user's raises
            self._drawing.history.move_back(step)
            if asking.prompts.state() == restored:  # else the user said more meanwhile, which stays
                asking.restore(said)
            self._tell_of_failed(what, step, error)

    def _swap_frames(self, step: Step, given: Mapping[Key, GivenMask], objects: set[int]) -> Iterator[None]:
        """Swap the frames of a step one by one; `given` and `objects` are what was prompted before it."""
        drawing, canvas = self._drawing, self._drawing.canvas
        if canvas is not None:  # else no mask has come yet
            for objects_there in drawing.swap(step):
                self._objects.add(objects_there)
                yield
            for object_id, frames in drawing.no_longer_tracked(step).items():
                self._thread.forget(object_id, frames)
            for key, old in given.items():  # one that had been painted is as it was before it was given
                is_back = old.painted and self._asking.prompts.masks.get(key) is not old
                if is_back and np.array_equal(canvas.frame(key[0]) == key[1], old.mask.mask):
                    drawing.take_as_painted(key)
        for i in objects - {i for _, i in self._asking.known}:
            self._asking.take_off_tracker(i)
            if i != self._objects.current and not drawing.records[i].present.any():
                self._objects.discard(i)

    def _tell_of_failed(self, what: str, step: Step, error: Exception) -> None:
        """Tell that undo or redo failed, and how things are now."""
        left = "everything is as it was before"
        if step.ahead:
            count = len(step.ahead)
            left = f"{count} frame{'s' if count > 1 else ''} could not be put back, and the others were"
        self._tell(
            f"{what} of '{step.what}' failed, since masks cannot be written: {sentence(error)} Now {left}. "
            f"{what} can be tried again once they can."
        )

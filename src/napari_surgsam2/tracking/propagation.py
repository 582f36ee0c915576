"""A pass through the video: which frames, in which order, and which objects in each."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from napari_surgsam2.errors import PromptError, UsageError
from napari_surgsam2.network import FrameFeatures
from napari_surgsam2.video import read_ahead

from .result import FrameResult
from .threads import all_threads, torch_threads

if TYPE_CHECKING:
    from .objects import TrackedObject
    from .tracker import Tracker

Direction: TypeAlias = Literal["forward", "backward", "both"]

_MOST_OBJECTS = 2  # beside whom frames are encoded: of more, all the rest takes much longer than the encoder


def visited_range(frames: tuple[int, int | None] | None, n_frames: int) -> tuple[int, int]:
    """Return the first frame of a range and the one after its last; None means all, or to the end.

    Raises
    ------
    UsageError
        If the range is empty or reaches beyond the video.
    """
    try:
        first, last = frames or (0, None)
        low, high = operator.index(first), n_frames if last is None else operator.index(last)
    except (TypeError, ValueError) as error:
        raise UsageError(f"frames is {frames!r}; it must be two whole numbers, or None.") from error
    if not 0 <= low < high <= n_frames:
        raise UsageError(
            f"The frames are {low}:{high}; the video has {n_frames} frames, so that they must lie within "
            f"0:{n_frames}, the first below the second."
        )
    return low, high


def check_direction(direction: str) -> None:
    """Raise UsageError if there is no such direction."""
    if direction not in ("forward", "backward", "both"):
        raise UsageError(f"direction is {direction!r}; it must be 'forward', 'backward' or 'both'.")


def first_frame(prompted: Collection[int], frames: tuple[int, int], direction: Direction) -> int:
    """Return the frame of a range that a pass begins with; `prompted` are those that say where objects are.

    Raises
    ------
    UsageError
        If the range cannot be reached from them in that direction.
    """
    low, high = frames
    within = [f for f in prompted if low <= f < high]
    before, behind = min(prompted) < low, max(prompted) >= high
    if before and direction != "backward":
        return low
    if within:
        return min(within)
    if behind and direction != "forward":
        return high - 1
    raise UsageError(
        f"Frames {low}:{high} cannot be reached going {direction} from what is prompted, on frame "
        f"{min(prompted) if behind else max(prompted)}. Prompt one of them, or go another way."
    )


@dataclass(frozen=True)
class NeededFrames:
    """What the rest of a pass may look at.

    Attributes
    ----------
    masks : range
        Frames whose masks it may show again.
    near : range
        Frames whose memories it may attend to, of every object.
    entries : mapping of int to range
        More of these, by object id: what the way back of each object will begin with.
    """

    masks: range
    near: range
    entries: Mapping[int, range] = field(default_factory=dict)

    def attends(self, object_id: int, frame: int) -> bool:
        """Whether the pass may attend to the memory of an object in a frame."""
        return frame in self.near or frame in self.entries.get(object_id, ())

    def attended(self, object_id: int) -> set[int]:
        """Return the frames in which it may attend to memories of an object."""
        return {*self.near, *self.entries.get(object_id, ())}


class Propagation(Iterator[FrameResult]):
    """Iterator over the frames of a pass, made by `Tracker.propagate`; it may simply be dropped.

    Attributes
    ----------
    total : int
        How many frames the pass visits, as far as is known at its beginning.
    """

    # The generator knows the pass, and not this object: so it is closed, and its reading thread ended, as
    # soon as the last reference to this object goes.

    def __init__(
        self,
        tracker: Tracker,
        direction: Direction,
        start: int | None,
        stop: int | None,
        frames: tuple[int, int | None] | None,
        objects: Sequence[int] | None,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        self._pass = _Pass(tracker, direction, start, stop, frames, objects)
        if resume is not None:
            self._pass.restore(resume)
        self.total = self._pass.count()
        self._results = self._pass.run()

    def __next__(self) -> FrameResult:
        return next(self._results)

    def close(self) -> None:
        """Stop; what was tracked stays."""
        self._results.close()

    @property
    def done(self) -> int:
        """How many frames have been visited."""
        return self._pass.done

    @property
    def finished(self) -> bool:
        """Whether no frame is left to visit."""
        return self._pass.finished

    def state(self) -> dict[str, Any]:
        """Return where the pass stands, as JSON-ready values; `Tracker.propagate` goes on there."""
        return self._pass.state()

    def settled_frames(self) -> range:
        """Return the frames that were visited and will not be again."""
        return self._pass.settled_frames()

    def needed_frames(self) -> NeededFrames:
        """Return what the rest of the pass may look at."""
        return self._pass.needed_frames()


class _Pass:
    """Where a pass stands and what comes next."""

    def __init__(
        self,
        tracker: Tracker,
        direction: Direction,
        start: int | None,
        stop: int | None,
        frames: tuple[int, int | None] | None,
        objects: Sequence[int] | None,
    ) -> None:
        check_direction(direction)
        self._tracker = tracker
        self._direction = direction
        self._objects = None if objects is None else set(objects)
        self._low, self._high = visited_range(frames, tracker.video.n_frames)
        self._start = self._first_frame(start)
        self._stop = self._last_frame(stop)
        # The frame that the forward pass of "both" first found each object in.
        self._entered: dict[TrackedObject, int] = {}
        self._backward_from: int | None = None  # where the backward pass of "both" began
        self._next = self._start

    def _first_frame(self, start: int | None) -> int:
        prompted = [f for obj in self._chosen() for f in self._tracker._starting_frames(obj)]
        if not prompted:
            negative = [str(obj.object_id) for obj in self._chosen() if obj.prompts]
            if negative:
                raise PromptError(
                    f"There is nothing to track: objects {', '.join(negative)} have only negative points; "
                    "add a positive point, a box or a mask on one of them."
                )
            raise PromptError("There is nothing to track; add a point, box or mask on an object first.")
        if start is not None:
            start = operator.index(start)
            if not self._low <= start < self._high:
                raise UsageError(
                    f"start is {start}; it must be a frame from {self._low} to {self._high - 1}."
                )
            return start
        return first_frame(prompted, (self._low, self._high), self._direction)

    def _last_frame(self, stop: int | None) -> int:
        end, sign = (self._low - 1, -1) if self._direction == "backward" else (self._high, 1)
        if stop is None:
            return end
        stop = operator.index(stop)
        if not 0 < (stop - self._start) * sign <= (end - self._start) * sign:
            side = "below" if sign < 0 else "above"
            raise UsageError(
                f"stop is {stop}; going {self._direction} from frame {self._start} it must be {side} that, "
                f"up to {end}."
            )
        return stop

    def _chosen(self) -> list[TrackedObject]:
        """Return the asked objects that are there by now."""
        tracker = self._tracker
        ids = [i for i in tracker.object_ids if self._objects is None or i in self._objects]
        return tracker._chosen(ids)

    def _entry(self, obj: TrackedObject) -> int:
        """Return where the forward pass found an object, or will; its end where it will not."""
        if obj in self._entered:
            return self._entered[obj]
        frames = self._tracker._starting_frames(obj)
        if any(f <= self._start for f in frames):
            return self._start
        return min((f for f in frames if f < self._stop), default=self._stop)

    def _last_entry(self) -> int:
        tracker = self._tracker
        tracked = (o for o in self._chosen() if o in self._entered or tracker._starting_frames(o))
        return max(map(self._entry, tracked), default=self._start)

    def count(self) -> int:
        """Return how many frames the whole pass visits."""
        if self._direction != "both":
            return abs(self._stop - self._start)
        return self._stop - self._start + self._last_entry() - self._low

    @property
    def done(self) -> int:
        """How many frames have been visited."""
        if self._direction == "backward":
            return self._start - self._next
        if self._backward_from is None:
            return self._next - self._start
        return self._stop - self._start + self._backward_from - self._next

    @property
    def finished(self) -> bool:
        """Whether no frame is left to visit."""
        if self._direction != "both":
            return self._next == self._stop
        if self._backward_from is None:
            return self._next == self._stop and self._last_entry() == self._low
        return self._next < self._low

    def state(self) -> dict[str, Any]:
        """See `Propagation.state`."""
        entered = {obj.object_id: frame for obj, frame in self._entered.items()}
        return {
            "start": self._start,
            "next": self._next,
            "backward_from": self._backward_from,
            "entered": entered,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._start = state["start"]  # corrections that were made since may come before it
        self._next, self._backward_from = state["next"], state["backward_from"]
        entered = {int(i): frame for i, frame in state["entered"].items()}
        self._entered = {o: entered[o.object_id] for o in self._chosen() if o.object_id in entered}

    def settled_frames(self) -> range:
        """See `Propagation.settled_frames`."""
        if self._direction == "backward":
            return range(self._next + 1, self._start + 1)
        if self._direction == "forward":
            return range(self._start, self._next)
        if self._backward_from is None:
            return range(max(self._start, self._last_entry()), self._next)
        return range(self._next + 1, self._stop)

    def needed_frames(self) -> NeededFrames:
        """See `Propagation.needed_frames`."""
        window = self._tracker._store.window
        # Of what a frame looks at, what came as long before it tells whether it is the object.
        near = range(max(self._next - 2 * window, 0), self._next + 2 * window + 1)
        if self._direction != "both" or self._last_entry() <= self._low:
            return NeededFrames(near, near)
        # The backward part is still to come, or under way: it begins with what each object was tracked to
        # from its entry on. And between the entries, what one was tracked to forward is shown with what
        # another is tracked to backward.
        entries = {obj.object_id: self._entry(obj) for obj in self._chosen()}
        if not entries:  # all objects were removed
            return NeededFrames(near, near)
        behind = {object_id: range(frame, frame + window + 1) for object_id, frame in entries.items()}
        return NeededFrames(range(min(entries.values()), max(entries.values()) + window + 1), near, behind)

    def run(self) -> Generator[FrameResult, None, None]:
        """Yield the results of the frames, one by one."""
        if self._direction == "backward":
            yield from self._leg(range(self._next, self._stop, -1), reverse=True)
            return
        if self._backward_from is None:
            yield from self._leg(range(self._next, self._stop), reverse=False)
        if self._direction == "both":
            if self._backward_from is None:
                self._backward_from = self._next = self._last_entry() - 1
            yield from self._leg(range(self._next, self._low - 1, -1), reverse=True)

    def _leg(self, frames: range, reverse: bool) -> Generator[FrameResult, None, None]:
        tracker = self._tracker
        _ = tracker._frames.window  # found here rather than in the thread that reads ahead
        ahead = _FramesAhead(tracker, frames, len(self._chosen()))
        try:
            for frame in frames:
                objects = self._chosen()
                tracker._settle_prompts(objects)
                reached = [obj for obj in objects if self._takes_part(obj, frame, reverse)]
                with torch_threads(ahead.threads(frame)):
                    use = tracker._step(frame, reverse, reached, ahead.take(frame))
                self._next = frame + frames.step
                yield tracker._result(frame, self._chosen(), use)
        finally:
            ahead.close()

    def _takes_part(self, obj: TrackedObject, frame: int, reverse: bool) -> bool:
        if self._direction == "both" and not reverse:
            # From its prompts on, and not from masks that an earlier pass left before them.
            if not obj.conditioning:
                return False
            if obj not in self._entered and not any(f <= frame for f in obj.conditioning):
                return False
            self._entered.setdefault(obj, frame)
            return True
        if not self._tracker._can_reach(obj, frame, reverse):
            return False
        return self._direction != "both" or frame < self._entered.get(obj, self._high)


class _FramesAhead:
    """Frames of a pass read and resized in a thread, but for those with features in the cache.

    Where the image encoder takes about as long as all the rest, and both run on a CPU, they are encoded in
    that thread too: each on its share of the cores does more than one after the other on all of them.
    """

    def __init__(self, tracker: Tracker, frames: range, objects: int) -> None:
        self._cache = cache = tracker._frames.cache
        self._step = frames.step
        self._video = tracker.video.reopen()
        wanted = (frame for frame in frames if frame not in cache)
        ahead, threads = tracker.settings.read_ahead, all_threads()
        self._left: int | None = None
        make: Callable[[NDArray[np.uint8]], Tensor | FrameFeatures] = tracker._frames.image
        if ahead and threads > 1 and objects <= _MOST_OBJECTS and tracker._frames.is_fast_on_cpu:
            self._left = threads - threads // 2
            make = partial(tracker._encode_on, threads // 2)
        self._items = read_ahead(self._video, wanted, make, ahead)
        self._next: tuple[int, Tensor | FrameFeatures] | None = None

    def threads(self, frame: int) -> int | None:
        """Return how many of torch's threads are left for the rest of a frame; None for all."""
        return None if frame in self._cache else self._left

    def take(self, frame: int) -> Tensor | FrameFeatures | None:
        """Return the resized frame, (S, S, 3) uint8, or its features; None where it was not read ahead.

        Whether the features of a frame were in the cache may change between the reading and the taking.
        """
        if frame in self._cache:
            return None
        while self._next is None or (frame - self._next[0]) * self._step > 0:
            self._next = next(self._items, None)
            if self._next is None:
                return None
        if self._next[0] != frame:
            return None
        seen, self._next = self._next[1], None
        return seen

    def close(self) -> None:
        """End the thread and close its video."""
        self._items.close()
        self._video.close()

"""A pass through the video: which frames, in which order, and which objects in each."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from napari_surgsam2.errors import PromptError, UsageError
from napari_surgsam2.video import read_ahead

from .result import FrameResult

if TYPE_CHECKING:
    from .objects import TrackedObject
    from .tracker import Tracker

Direction: TypeAlias = Literal["forward", "backward", "both"]


def visited_range(frames: tuple[int, int | None] | None, n_frames: int) -> tuple[int, int]:
    """Return the first frame of a range and the one after its last; None means all, or to the end.

    Raises
    ------
    UsageError
        If the range is empty or reaches beyond the video.
    """
    low, last = frames or (0, None)
    high = n_frames if last is None else last
    if not 0 <= low < high <= n_frames:
        raise UsageError(
            f"The frames are {low}:{high}; the video has {n_frames} frames, so that they must lie within "
            f"0:{n_frames}, the first below the second."
        )
    return low, high


class Propagation(Iterator[FrameResult]):
    """Iterator over the frames of a pass, made by `Tracker.propagate`; it may simply be dropped.

    Attributes
    ----------
    total : int
        How many frames the pass visits, as far as is known at its beginning.
    """

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
        if direction not in ("forward", "backward", "both"):
            raise UsageError(f"direction is {direction!r}; it must be 'forward', 'backward' or 'both'.")
        self._tracker = tracker
        self._objects = None if objects is None else set(objects)
        self._low, self._high = visited_range(frames, tracker.video.n_frames)
        self._start = self._first_frame(start)
        self._stop = self._last_frame(direction, stop)
        self._direction = direction
        # By object id, the frame that the forward pass of "both" first found it in.
        self._entered: dict[int, int] = {}
        self._backward_from: int | None = None
        self._next = self._start
        self.total = self._count()
        if resume is not None:
            self._next = resume["next"]
            self._backward_from = resume["backward_from"]
            self._entered = {int(i): frame for i, frame in resume["entered"].items()}
        self._results = self._run()

    def __next__(self) -> FrameResult:
        return next(self._results)

    def close(self) -> None:
        """Stop; what was tracked stays."""
        self._results.close()

    def state(self) -> dict[str, Any]:
        """Return where the pass stands, as JSON-ready values; `Tracker.propagate` goes on there."""
        return {"next": self._next, "backward_from": self._backward_from, "entered": self._entered}

    @property
    def done(self) -> int:
        """How many frames have been visited."""
        if self._direction == "backward":
            return self._start - self._next
        if self._backward_from is None:
            return self._next - self._start
        return self._stop - self._start + self._backward_from - self._next

    def frames_to_keep(self) -> range:
        """Return a range with all frames whose masks or memories the rest of the pass may look at."""
        window = self._tracker._store.window
        low, high = self._next - window, self._next + window
        if self._direction == "both":
            entries = [*self._entered.values(), *(self._expected_entry(obj) for obj in self._chosen())]
            if max(entries) > self._low:  # the backward part is still to come, or under way
                low, high = min(low, *entries), max(high, max(entries) + window)
        return range(max(low, 0), min(high + 1, self._tracker.video.n_frames))

    def _first_frame(self, start: int | None) -> int:
        prompted = [f for obj in self._chosen() for f in obj.prompts]
        if not prompted:
            raise PromptError("There is nothing to track; add a point, box or mask on an object first.")
        if start is None:
            within = [f for f in prompted if self._low <= f < self._high]
            return min(within) if within else (self._low if min(prompted) < self._low else self._high - 1)
        if not self._low <= start < self._high:
            raise UsageError(f"start is {start}; it must be a frame from {self._low} to {self._high - 1}.")
        return start

    def _last_frame(self, direction: Direction, stop: int | None) -> int:
        end, sign = (self._low - 1, -1) if direction == "backward" else (self._high, 1)
        if stop is None:
            return end
        if not 0 < (stop - self._start) * sign <= (end - self._start) * sign:
            side = "below" if sign < 0 else "above"
            raise UsageError(
                f"stop is {stop}; going {direction} from frame {self._start} it must be {side} that, up "
                f"to {end}."
            )
        return stop

    def _count(self) -> int:
        if self._direction != "both":
            return abs(self._stop - self._start)
        entries = [self._expected_entry(obj) for obj in self._chosen()]
        return self._stop - self._start + max(entries) - self._low

    def _expected_entry(self, obj: TrackedObject) -> int:
        ahead = [f for f in obj.prompts if self._start <= f < self._stop]
        behind = any(f <= self._start for f in obj.prompts)
        return self._start if behind or not ahead else min(ahead)

    def _chosen(self) -> list[TrackedObject]:
        """Return the asked objects that are there by now."""
        tracker = self._tracker
        ids = [i for i in tracker.object_ids if self._objects is None or i in self._objects]
        return tracker._chosen(ids)

    def _run(self) -> Generator[FrameResult, None, None]:
        if self._direction == "backward":
            yield from self._leg(range(self._next, self._stop, -1), reverse=True)
            return
        if self._backward_from is None:
            yield from self._leg(range(self._next, self._stop), reverse=False)
        if self._direction == "both":
            if self._backward_from is None:
                self._backward_from = self._next = max(self._entered.values(), default=self._start) - 1
            yield from self._leg(range(self._next, self._low - 1, -1), reverse=True)

    def _leg(self, frames: range, reverse: bool) -> Generator[FrameResult, None, None]:
        tracker = self._tracker
        images = _ImagesAhead(tracker, frames)
        try:
            for frame in frames:
                objects = self._chosen()
                tracker._settle_prompts(objects)
                reached = [obj for obj in objects if self._takes_part(obj, frame, reverse)]
                use = tracker._step(frame, reverse, reached, images.take(frame))
                self._next = frame + frames.step
                yield tracker._result(frame, self._chosen(), use)
        finally:
            images.close()

    def _takes_part(self, obj: TrackedObject, frame: int, reverse: bool) -> bool:
        if not self._tracker._can_reach(obj, frame, reverse):
            return False
        if self._direction == "both":
            if reverse:
                return frame < self._entered.get(obj.object_id, self._tracker.video.n_frames)
            self._entered.setdefault(obj.object_id, frame)
        return True


class _ImagesAhead:
    """Frames of a pass read and resized in a thread, but for those with features in the cache."""

    def __init__(self, tracker: Tracker, frames: range) -> None:
        self._cache = tracker._frames.cache
        self._step = frames.step
        self._video = tracker.video.reopen()
        wanted = (frame for frame in frames if frame not in self._cache)
        self._items = read_ahead(self._video, wanted, tracker._frames.image, tracker.settings.read_ahead)
        self._next: tuple[int, Tensor] | None = None

    def take(self, frame: int) -> Tensor | None:
        """Return the resized frame, (S, S, 3) uint8, or None where it was not read ahead.

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
        image, self._next = self._next[1], None
        return image

    def close(self) -> None:
        """End the thread and close its video."""
        self._items.close()
        self._video.close()

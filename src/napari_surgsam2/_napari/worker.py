"""The thread that a tracker lives in: jobs go in, Qt signals come out."""

from __future__ import annotations

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_surgsam2.errors import SurgSam2Error, UsageError
from napari_surgsam2.prompts import Point, Prompt
from napari_surgsam2.settings import TrackingSettings

if TYPE_CHECKING:
    from napari_surgsam2.checkpoints import Model
    from napari_surgsam2.tracking import Direction, FrameResult, MemoryUse, Tracker
    from napari_surgsam2.video import Video

_FRAMES_AHEAD = 4  # tracked frames that wait to be shown, before tracking waits for them
_PATIENCE = 0.05  # seconds between two looks at whether a waiting pass is to stop
_FAREWELL = 20.0  # seconds that Python waits for the frame under way when it ends
_NO_MEMORY = "DefaultCPUAllocator"  # what torch says, as a RuntimeError, where the host's memory ends


@dataclass(frozen=True)
class TrackerChoice:
    """What a tracker is made of.

    Attributes
    ----------
    model : str
        A registry name or a checkpoint file.
    device : str
        As `load_model` takes it.
    image_size : int or None
        Side of the network's input; the model's own if None.
    settings : TrackingSettings
        How it tracks.
    """

    model: str
    device: str = "auto"
    image_size: int | None = None
    settings: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass(frozen=True, eq=False)
class FrameAnswer:
    """The masks of a frame, as they come out of the thread.

    Attributes
    ----------
    frame : int
        Frame index.
    object_ids : tuple of int
        The objects that have a mask in the frame; perhaps an empty one.
    labels : array, shape (Y, X), unsigned integer
        Where masks overlap, the object with the largest logit.
    confidence : array, shape (O,), float32
        Of each object.
    present : array, shape (O,), bool
        Whether each has anything of a mask.
    memory : mapping of int to MemoryUse
        What each object that was tracked just now looked at.
    went_over : tuple of int
        Objects that have no mask, as the one that they were tracked to is of an object prompted in the frame.
    """

    frame: int
    object_ids: tuple[int, ...]
    labels: npt.NDArray[np.unsignedinteger]
    confidence: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    memory: Mapping[int, MemoryUse]
    went_over: tuple[int, ...] = ()

    @classmethod
    def of(cls, result: FrameResult) -> FrameAnswer:
        """Make the labels of a result, which takes its time at high resolution."""
        labels = result.labels()
        ids = tuple(int(i) for i in result.object_ids)
        present = np.array([(labels == i).any() for i in ids], dtype=bool)
        memory = dict(result.memory)
        return cls(result.frame, ids, labels, result.confidence, present, memory, result.went_over)


class MaskUse(Enum):
    """What becomes of the mask that prompts lead to."""

    DRAW = "draw"
    FILL = "fill"  # drawn where the object has none yet
    LEAVE = "leave"  # not drawn


@dataclass(frozen=True, eq=False)
class PromptAnswer:
    """What a change of prompts led to.

    Attributes
    ----------
    object_id : int
        The object that was prompted.
    answer : FrameAnswer
        The frame.
    masks : MaskUse
        What is to become of the mask, as it was said with the change.
    step : int or None
        The step that can be undone which the change was, as it was said with it.
    """

    object_id: int
    answer: FrameAnswer
    masks: MaskUse
    step: int | None


@dataclass(frozen=True, eq=False)
class PassFrame:
    """A frame of a pass.

    Attributes
    ----------
    answer : FrameAnswer
        What was tracked.
    done, total : int
        Frames visited, and to visit in all.
    """

    answer: FrameAnswer
    done: int
    total: int


@dataclass(frozen=True)
class PassEnd:
    """How a pass ended.

    Attributes
    ----------
    done, total : int
        Frames visited, and to visit in all.
    seconds : float
        How long it took.
    stopped : bool
        Whether it was asked to stop.
    error : Exception or None
        What it failed with.
    """

    done: int
    total: int
    seconds: float
    stopped: bool = False
    error: Exception | None = None


class StoppedError(Exception):
    """Raised inside of a job that is to end early."""


class TrackerThread(QObject):
    """Owns a tracker in a thread of its own; calls come from the main thread, and signals go there.

    Jobs run in turn. One with a key takes the place of a waiting one with the same key: the newest request
    wins. Changes of prompts are also done between the frames of a pass. Of a tracker that has been replaced
    nothing is heard any more, and after `close` nothing at all.

    Attributes
    ----------
    model : Model or None
        The tracker's; None while there is none.
    loading : bool
        Whether a tracker is on its way.
    """

    ready = Signal(object)  # the Model
    downloading = Signal(object, object)  # bytes done, and in all or None
    answered = Signal(object)  # PromptAnswer
    unanswered = Signal(
        int, int, object
    )  # frame, object and step of prompts that no mask came of; failed follows
    doubted = Signal(object)  # by object id, all its prompted frames that no other frame looks at
    tracked = Signal(object)  # PassFrame; the pass waits where too many have not been dealt with
    ended = Signal(object)  # PassEnd
    failed = Signal(object)  # Exception
    _sent = Signal(int, str, object)  # from the thread: number of the tracker, name of the signal, arguments

    def __init__(self) -> None:
        super().__init__()
        self.model: Model | None = None
        self.loading = False
        self._jobs: OrderedDict[Any, tuple[Callable[[], None], bool, int]] = OrderedDict()
        self._asked_again: set[object] = set()  # keys of jobs that no step of the user's waits for
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._closing = False
        self._working = False
        self._asked_for = 0  # number of the tracker asked for last
        self._at_work = 0  # number of the tracker that the thread's job is for
        self._room = threading.Semaphore(_FRAMES_AHEAD)
        self._sent.connect(self._deliver)
        self.ready.connect(self._on_ready)
        self.failed.connect(self._on_failed)
        self._tracker: Tracker | None = None
        self._video: Video | None = None
        self._thread = threading.Thread(target=self._run, name="napari-surgsam2 tracker", daemon=True)
        self._thread.start()

    # From the main thread

    def open(self, choice: TrackerChoice, open_video: Callable[[], Video]) -> None:
        """Make a tracker in place of the one before; `ready` follows, or `failed`."""
        self.stop()
        self.model, self.loading = None, True
        self._stop = stop = threading.Event()
        with self._changed:
            self._jobs.clear()
            self._asked_for += 1
        self._post("open", lambda: self._open(choice, open_video, stop))

    def set_prompts(
        self,
        frame: int,
        object_id: int,
        prompts: Sequence[Prompt],
        masks: MaskUse = MaskUse.DRAW,
        step: int | None = None,
        others: Sequence[Point] = (),
    ) -> None:
        """Put prompts in place of an object's on a frame; `answered` follows, with `masks` and `step`.

        `others` are the clicks on other objects there. `unanswered` follows where no mask can be made.
        """
        wanted = tuple(prompts)
        self._post(
            ("prompts", frame, object_id),
            lambda: self._set_prompts(frame, object_id, wanted, masks, step, others),
            between=True,
        )
        self._let_pass(("prompts", frame, object_id), is_users=step is not None)

    def _let_pass(self, key: object, is_users: bool) -> None:
        """Let prompts that the user has just given go before those that are only asked for again."""
        with self._changed:
            if not is_users:
                self._asked_again.add(key)
                return
            self._asked_again.discard(key)
            others = [k for k in self._jobs if k not in ("open", "warm") and k[0] != "prompts"]
            if not others:  # what is tracked, removed or forgotten comes after the prompts before it
                for again in [k for k in self._jobs if k in self._asked_again]:
                    self._jobs.move_to_end(again)

    def remove_object(self, object_id: int) -> None:
        """Forget an object."""
        self._post(("remove", object_id), lambda: self._remove(object_id), between=True)

    def forget(self, object_id: int, frames: Sequence[int]) -> None:
        """Forget what an object was tracked to in some frames."""
        self._post(("forget", object_id, tuple(frames)), lambda: self._forget(object_id, frames))

    def warm(self, frame: int) -> None:
        """Encode a frame that will perhaps be prompted."""
        self._post("warm", lambda: self._warm(frame))

    def track(
        self,
        direction: Direction,
        start: int | None,
        frames: tuple[int, int] | None,
        objects: Sequence[int] | None,
    ) -> None:
        """Track; `tracked` follows for every frame, and then `ended`."""
        self._stop.clear()
        stop = self._stop  # of this tracker; another one has its own
        self._post("track", lambda: self._track(direction, start, frames, objects, stop))

    def stop(self) -> None:
        """End a pass or a download; what was tracked stays."""
        self._stop.set()

    def close(self) -> None:
        """End the thread after what it is doing; no more signals come."""
        self._closing = True
        self.stop()
        with self._changed:
            self._jobs.clear()
            self._changed.notify()

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way or waiting."""
        with self._changed:
            return self._working or bool(self._jobs)

    @property
    def has_tracker(self) -> bool:
        """Whether there is a tracker, or one is on its way."""
        return self.model is not None or self.loading

    def _on_ready(self, model: Model) -> None:
        self.model, self.loading = model, False

    def _on_failed(self, _: Exception) -> None:
        self.loading = False

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def _post(self, key: object, job: Callable[[], None], between: bool = False) -> None:
        with self._changed:
            self._jobs.pop(key, None)
            self._jobs[key] = (job, between, self._asked_for)
            if between and "track" in self._jobs:  # a pass that has not begun is of what is said by then
                self._jobs.move_to_end("track")
            self._changed.notify()

    def _deliver(self, tracker: int, name: str, values: tuple[object, ...]) -> None:
        """Emit what came from the thread, unless it is of a tracker that has been replaced meanwhile."""
        try:
            if tracker == self._asked_for and not self._closing:
                getattr(self, name).emit(*values)
        finally:
            if name == "tracked":
                self._room.release()

    # In the thread

    def _run(self) -> None:
        # Coming back from torch when Python is no more would abort the process.
        atexit.register(self._close_and_wait)
        try:
            self._work()
            self._let_go()
        finally:
            atexit.unregister(self._close_and_wait)

    def _close_and_wait(self) -> None:
        self.close()
        self.join(_FAREWELL)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._working = False
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                _, (job, _, self._at_work) = self._jobs.popitem(last=False)
                self._working = True
            self._guard(job)
            del job

    def _guard(self, job: Callable[[], None]) -> None:
        try:
            job()
        except StoppedError:
            pass
        except Exception as error:  # whatever it is, the user is told, and the thread goes on
            self._send("failed", error)

    def _send(self, name: str, *values: object) -> None:
        if not self._closing:
            self._sent.emit(self._at_work, name, values)

    def _need_tracker(self) -> Tracker:
        if self._tracker is None:  # it has been told already that there is none
            raise StoppedError
        return self._tracker

    def _let_go(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
        if self._video is not None:
            self._video.close()
        self._tracker = self._video = None

    def _open(self, choice: TrackerChoice, open_video: Callable[[], Video], stop: threading.Event) -> None:
        self._let_go()

        def progress(done: int, total: int | None) -> None:
            if stop.is_set():
                raise StoppedError
            self._send("downloading", done, total)

        from napari_surgsam2.tracking import Tracker

        from .models import shared_model

        try:
            model: Model = shared_model(choice.model, choice.image_size, choice.device, progress)
        except StoppedError:
            raise UsageError("Loading the model was stopped; choose a model to go on.") from None
        self._video = open_video()
        self._tracker = Tracker(model, self._video, choice.settings)
        self._send("ready", model)

    def _warm(self, frame: int) -> None:
        with suppress(Exception):  # what is wrong is told when the frame is asked for
            self._need_tracker().warm(frame)

    def _set_prompts(
        self,
        frame: int,
        object_id: int,
        prompts: Sequence[Prompt],
        masks: MaskUse,
        step: int | None,
        others: Sequence[Point],
    ) -> None:
        try:
            result = self._need_tracker().set_prompts(frame, object_id, prompts, others)
        except BaseException:
            self._send("unanswered", frame, object_id, step)
            raise
        self._send_doubted([object_id])
        self._send("answered", PromptAnswer(object_id, FrameAnswer.of(result), masks, step))

    def _send_doubted(self, objects: Iterable[int]) -> None:
        """Tell of some objects which of their prompted frames no other frame looks at."""
        tracker = self._need_tracker()
        there = tracker.object_ids
        self._send("doubted", {i: tracker.doubted_frames(i) if i in there else () for i in objects})

    def _forget(self, object_id: int, frames: Sequence[int]) -> None:
        tracker = self._need_tracker()
        if object_id in tracker.object_ids:
            tracker.forget(object_id, frames)

    def _remove(self, object_id: int) -> None:
        tracker = self._need_tracker()
        if object_id in tracker.object_ids:
            tracker.remove_object(object_id)

    def _track(
        self,
        direction: Direction,
        start: int | None,
        frames: tuple[int, int] | None,
        objects: Sequence[int] | None,
        stop: threading.Event,
    ) -> None:
        began, done, total, stopped = time.monotonic(), 0, 0, False
        error: Exception | None = None
        try:
            tracker = self._need_tracker()
            known = None if objects is None else [i for i in objects if i in tracker.object_ids]
            propagation = tracker.propagate(direction, start, frames=frames, objects=known)
            total = propagation.total
            try:
                while not stop.is_set():
                    result = next(propagation, None)
                    if result is None:
                        break
                    done = propagation.done
                    self._hand_over(PassFrame(FrameAnswer.of(result), done, propagation.total))
                    self._do_between()
            finally:
                propagation.close()
            stopped = stop.is_set() and done < total
        except StoppedError:
            stopped = True
        except Exception as failure:  # told with the end of the pass
            error = failure
        if self._tracker is not None:  # masks of prompted frames may have been made on the way
            self._send_doubted(self._tracker.object_ids)
        self._send("ended", PassEnd(done, total, time.monotonic() - began, stopped, error))

    def _hand_over(self, frame: PassFrame) -> None:
        """Wait until there is room, so that frames do not pile up before a busy window."""
        while not self._room.acquire(timeout=_PATIENCE):
            if self._closing:
                raise StoppedError
        self._send("tracked", frame)

    def _do_between(self) -> None:
        with self._changed:
            if "open" in self._jobs:  # what waits is for the tracker that comes after this one
                return
            waiting = [key for key, (_, between, _) in self._jobs.items() if between]
            jobs = [self._jobs.pop(key)[0] for key in waiting]
        for job in jobs:
            self._guard(job)


def sentence(error: BaseException) -> str:
    """Return what to tell the user of an error."""
    if isinstance(error, SurgSam2Error):
        return str(error)
    said = str(error).strip().removesuffix(".")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY in said:
        return (
            f"There is not enough memory ({said}). Use a smaller model or input size, fewer objects at a "
            "time, or the device 'cpu'."
        )
    return f"Something went wrong that should not have ({type(error).__name__}: {said})."

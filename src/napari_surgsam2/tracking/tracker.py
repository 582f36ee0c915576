"""The tracker: prompts in, masks out, frame by frame."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_surgsam2.checkpoints import Model
from napari_surgsam2.checkpoints.loading import is_out_of_memory
from napari_surgsam2.errors import DeviceMemoryError, PromptError, UsageError
from napari_surgsam2.network import (
    ConvNetConfig,
    Decoded,
    FrameFeatures,
)
from napari_surgsam2.prompts import BoolArray, Box, Mask, Point, Prompt, check_prompts
from napari_surgsam2.settings import TrackingSettings
from napari_surgsam2.video import Video, open_video

from .corrections import Decode, unless_worse, without_others
from .features import FrameEncoder
from .memory import LOGIT_RANGE, ActiveMemory, FrameMemory, MemoryStore
from .objects import FramePrompts, TrackedObject, Visit
from .plausibility import (
    LONG_GONE,
    MEMORY_OF_PLACE,
    Claim,
    out_of_view,
    separate,
    went_over,
    without_hopeless,
    without_jumps,
    without_overlaps,
)
from .precision import resolve_precision
from .propagation import Direction, NeededFrames, Propagation
from .pruning import EfficientFramePruning, PruningStrategy
from .recall import MemoryRecall, Recalled, doubtful_frames
from .result import FrameResult, MemoryUse
from .threads import torch_threads
from .views import decode_views


class Tracker:
    """Tracks prompted objects through a video with SAM 2 and frame pruning.

    Coordinates are (y, x) in pixels of the video, pixel centres at integers. Objects are known by the user's
    positive ids; they can be added, prompted again and removed at any time, also between the frames of a
    running propagation. They do not influence one another but for this: the mask of a clicked frame leaves
    out what is clicked there as another object, tracked masks do not overlap, and one that proves to be of an
    object that was prompted in the frame is not this object. A tracker is for one thread at a time.

    Parameters
    ----------
    model : Model
        From `load_model`.
    video : Video, path or array
        What `open_video` takes, or returned.
    settings : TrackingSettings, optional
        The defaults if left out.
    pruning : PruningStrategy, optional
        Another way to prune than the settings' Efficient Frame Pruning.
    overflow : Path, optional
        A file for the masks of frames whose memories were let go, kept and read again; see `save_state`. A
        temporary one if left out.

    Examples
    --------
    >>> tracker = Tracker(model, video)                                             # doctest: +SKIP
    >>> tracker.add_points(frame=0, object_id=1, points=[(120, 200)], labels=[1])   # doctest: +SKIP
    >>> for result in tracker.propagate(direction="both"):                          # doctest: +SKIP
    ...     labels[result.frame] = result.labels()
    """

    def __init__(
        self,
        model: Model,
        video: Video | Any,
        settings: TrackingSettings | None = None,
        pruning: PruningStrategy | None = None,
        overflow: Path | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise UsageError(f"model is {model!r:.60}; it must be a Model: load_model({str(model)!r:.60}).")
        if settings is not None and not isinstance(settings, TrackingSettings):
            raise UsageError(f"settings is {settings!r:.60}; it must be a TrackingSettings.")
        self.model = model
        self.video = video if isinstance(video, Video) else open_video(video)
        self.settings = settings or TrackingSettings()
        config = model.network.config
        self._objects: dict[int, TrackedObject] = {}
        cropped = self._is_small if self.settings.cropped == "auto" else self.settings.cropped
        self._frames = FrameEncoder(model, self.video, self.settings.feature_cache_bytes, cropped)
        window = max(config.num_maskmem, config.max_object_pointers, MEMORY_OF_PLACE)
        self._store = MemoryStore(self.settings.memory_bytes, window, overflow)
        slots = config.num_maskmem
        self._recall = MemoryRecall(
            model.network,
            self._store,
            pruning or EfficientFramePruning(self.settings.pruning.prune_frames, slots),
            self.settings.max_conditioning_frames,
            self.settings.doubt_masks,
            self.video.n_frames,
            self._went_over,
            self._activate,
        )

    # Prompts

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The ids of all objects, ascending."""
        return tuple(sorted(self._objects))

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts, by object and frame; adding them to a new tracker in this order says the same."""
        return [
            prompt
            for object_id in self.object_ids
            for _, prompts in sorted(self._objects[object_id].prompts.items())
            for prompt in prompts.all()
        ]

    def add_points(
        self, frame: int, object_id: int, points: npt.ArrayLike, labels: npt.ArrayLike | None = None
    ) -> None:
        """Add clicks to what a frame already has of an object.

        Parameters
        ----------
        frame : int
            Frame index.
        object_id : int
            The object's number, at least 1; a new number makes a new object.
        points : array, shape (N, 2)
            Positions (y, x) in pixels of the video.
        labels : array, shape (N,), optional
            1 where the point belongs to the object, 0 where it does not; all 1 if left out.

        Raises
        ------
        PromptError
            If a point is outside the video, not a number, or the shapes do not fit.
        """
        try:
            array = np.atleast_2d(np.asarray(points, dtype=float))
            flags = np.ones(len(array)) if labels is None else np.atleast_1d(np.asarray(labels))
        except (TypeError, ValueError) as error:
            raise PromptError(
                f"points are {points!r:.60}; they must be (N, 2) numbers, each (y, x)."
            ) from error
        if array.ndim != 2 or array.shape[1:] != (2,) or flags.shape != (len(array),):
            raise PromptError(
                f"points have shape {array.shape} and labels {flags.shape}; they must be (N, 2), each "
                "(y, x), and (N,)."
            )
        if not np.isin(flags, (0, 1)).all():
            raise PromptError(f"labels are {flags.tolist()}; each must be 1 (positive) or 0 (negative).")
        self.add_prompts(
            Point(frame, y, x, object_id, bool(flag))
            for (y, x), flag in zip(array.tolist(), flags.tolist(), strict=True)
        )

    def add_box(self, frame: int, object_id: int, box: Sequence[float]) -> None:
        """Put a box (y0, x0, y1, x1) around an object, in pixels of the video, in place of an earlier one.

        Raises
        ------
        PromptError
            If the box is empty, not of finite numbers, or does not touch the video.
        """
        try:
            corners = np.asarray(box, dtype=float)
        except (TypeError, ValueError) as error:
            raise PromptError(f"the box is {box!r:.60}; it must be four numbers (y0, x0, y1, x1).") from error
        if corners.shape != (4,):
            raise PromptError(f"the box has shape {corners.shape}; it must be four numbers (y0, x0, y1, x1).")
        y0, x0, y1, x1 = corners.tolist()
        self.add_prompts([Box(frame, y0, x0, y1, x1, object_id)])

    def add_mask(self, frame: int, object_id: int, mask: npt.ArrayLike) -> None:
        """Say exactly where an object is: a mask of shape (Y, X), in place of all said before on that frame.

        Clicks and boxes that come after it refine it.

        Raises
        ------
        PromptError
            If the mask does not have the video's shape.
        """
        self.add_prompts([Mask(frame, np.asarray(mask), object_id)])

    def add_prompts(self, prompts: Iterable[Prompt]) -> None:
        """Add prompts of any kind; either all of them or, where one cannot be used, none.

        Raises
        ------
        PromptError
            If one is outside the video.
        """
        checked = list(prompts)
        check_prompts(checked, self.video.shape)
        for prompt in checked:
            obj = self._objects.setdefault(prompt.object_id, TrackedObject(prompt.object_id))
            obj.prompts.setdefault(prompt.frame, FramePrompts()).add(prompt)

    def set_prompts(
        self,
        frame: int,
        object_id: int,
        prompts: Iterable[Prompt],
        others: Iterable[Point] | None = None,
    ) -> FrameResult:
        """Put prompts in place of all that was said of an object on a frame, and make its mask at once.

        The prompts are taken one after the other, each refining the mask of those before it, so that the
        mask depends on them and on what the object was tracked to there, and not on any that were taken back.

        Parameters
        ----------
        frame : int
            Frame index.
        object_id : int
            The object's number, at least 1; a new number makes a new object.
        prompts : iterable of Point, Box and Mask
            Of this frame and object, in their order; none takes back all, as `clear_prompts` does.
        others : iterable of Point, optional
            Clicks on other objects in this frame, which the mask leaves out; those that the tracker has now
            if left out.

        Returns
        -------
        FrameResult
            Of all objects that have a mask in the frame now; perhaps of none.

        Raises
        ------
        PromptError
            If one is outside the video or of another frame or object.

        Notes
        -----
        Where it fails, also for a frame that cannot be read or a device out of memory, the old prompts stay.
        """
        frame, wanted = operator.index(frame), list(prompts)
        elsewhere = None if others is None else list(others)
        check_prompts([*wanted, *(elsewhere or ())], self.video.shape)
        for p in wanted:
            if (p.frame, p.object_id) != (frame, object_id):
                raise PromptError(
                    f"A prompt is for object {p.object_id} on frame {p.frame}; here all must be for object "
                    f"{object_id} on frame {frame}."
                )
        with self._as_before_on_error(frame, object_id):
            if object_id in self._objects:
                self.clear_prompts(frame, object_id)
            with self._computing():
                for prompt in wanted:
                    self.add_prompts([prompt])
                    obj = self._objects[object_id]
                    if not self._awaits_tracking(obj, frame):
                        self._settle(obj, frame, elsewhere)
        return self.result(frame)

    @contextmanager
    def _as_before_on_error(self, frame: int, object_id: int) -> Iterator[None]:
        """Put back what was said of an object on a frame, and the mask made of it, if this fails."""
        obj = self._objects.get(object_id)
        of_object: list[dict[int, Any]] = [] if obj is None else [obj.prompts, obj.conditioning, obj.visited]
        before = [of_frame.get(frame) for of_frame in of_object]
        try:
            yield
        except BaseException:
            if obj is None:
                self._objects.pop(object_id, None)
            for of_frame, kept in zip(of_object, before, strict=True):
                of_frame.pop(frame, None)
                if kept is not None:
                    of_frame[frame] = kept
            raise

    def clear_prompts(self, frame: int, object_id: int) -> None:
        """Take back all that was said of an object on a frame; the mask it was tracked to there comes back.

        An object without any prompts left keeps the masks it has, but is tracked no further.

        Raises
        ------
        PromptError
            If there is no such object.
        """
        obj, frame = self._known(object_id), operator.index(frame)
        obj.prompts.pop(frame, None)
        obj.conditioning.pop(frame, None)
        obj.visited.pop(frame, None)
        self._forget_features(frame)

    def forget(self, object_id: int, frames: Iterable[int]) -> None:
        """Forget what an object was tracked to in some frames; what is prompted there stays.

        What is tracked or clicked there next begins as if tracking had never passed.

        Raises
        ------
        PromptError
            If there is no such object.
        """
        obj, chosen = self._known(object_id), {operator.index(frame) for frame in frames}
        self._store.remove(obj.object_id, sorted(chosen))
        for frame in chosen:
            obj.visited.pop(frame, None)
        obj.active -= chosen - obj.conditioning.keys()

    def remove_object(self, object_id: int) -> None:
        """Forget an object and all its masks.

        Raises
        ------
        PromptError
            If there is no such object.
        """
        obj = self._known(object_id)
        del self._objects[obj.object_id]
        self._store.remove_object(obj.object_id)
        for frame in obj.conditioning:  # what was its own there may be another's
            self._forget_features(frame)

    def _known(self, object_id: int) -> TrackedObject:
        try:
            return self._objects[object_id]
        except KeyError:
            known = ", ".join(map(str, self.object_ids)) or "none"
            raise PromptError(f"There is no object {object_id}; the objects are: {known}.") from None

    # Masks

    def result(self, frame: int, objects: Sequence[int] | None = None) -> FrameResult:
        """Return the masks that objects have in a frame as it is, computing nothing; perhaps of no object.

        Raises
        ------
        PromptError
            If there is no such object.
        """
        return self._result(operator.index(frame), self._chosen(objects))

    def doubted_frames(self, object_id: int) -> tuple[int, ...]:
        """Return the prompted frames of an object that no other frame looks at, ascending.

        Their masks are expected to fit much worse than the object's best one; `TrackingSettings.doubt_masks`
        says when. More clicks there may change that, and masks given as prompts are never among them. What is
        prompted counts once its mask is made.

        Parameters
        ----------
        object_id : int
            The object's number.

        Returns
        -------
        tuple of int
            Frame indices; none where the settings doubt no masks.

        Raises
        ------
        PromptError
            If there is no such object.
        """
        obj = self._known(object_id)
        return tuple(sorted(doubtful_frames(obj.conditioning))) if self.settings.doubt_masks else ()

    def warm(self, frame: int) -> None:
        """Encode a frame, so that a prompt on it is answered sooner."""
        with self._computing():
            self._frames.features(operator.index(frame))

    def predict(self, frame: int, objects: Sequence[int] | None = None) -> FrameResult:
        """Return the masks of a frame at once: of the objects prompted there, or tracked there before.

        Parameters
        ----------
        frame : int
            Frame index.
        objects : sequence of int, optional
            Only these objects; all if left out.

        Raises
        ------
        PromptError
            If none of the objects is prompted or tracked there, or one has only negative clicks and no mask
            to take them from.
        """
        frame = operator.index(frame)
        chosen = self._chosen(objects)
        with self._computing():
            for obj in chosen:
                if frame in obj.prompts and obj.prompts[frame].pending:
                    self._settle(obj, frame)
        result = self._result(frame, chosen)
        if not len(result.object_ids):
            raise PromptError(
                f"No object is prompted on frame {frame} or was tracked there; add a point, box or mask "
                "first."
            )
        return result

    def propagate(
        self,
        direction: Direction = "forward",
        start: int | None = None,
        stop: int | None = None,
        *,
        frames: tuple[int, int | None] | None = None,
        objects: Sequence[int] | None = None,
        resume: Mapping[str, Any] | None = None,
    ) -> Propagation:
        """Track through the video; an iterator of `FrameResult` that may simply be dropped.

        An object is tracked from where it has a prompt or a mask to go on from; masks outside the asked
        range and of other objects stay as they are, and so do those of prompted frames. What happens to the
        prompts between two frames is taken into account from the next frame on.

        Parameters
        ----------
        direction : {"forward", "backward", "both"}
            "forward" visits start, start + 1, ...; "backward" start, start - 1, ...; "both" goes forward and
            then backward over the frames that each object had not been tracked to.
        start : int, optional
            First frame; the earliest prompted frame (within `frames`) if left out.
        stop : int, optional
            Where to stop, not visited itself; for "both" the end of the forward pass.
        frames : (int, int or None), optional
            Only frames from the first number up to, but not including, the second, or to the end.
        objects : sequence of int, optional
            Only these objects; all, and those that are added on the way, if left out.
        resume : mapping, optional
            What `load_state` returned, to go on with a propagation that was called with the same arguments.

        Returns
        -------
        Propagation
            Iterator over the frames as they are done; every result holds all asked objects that have a mask
            in that frame, tracked just now or before.

        Raises
        ------
        PromptError
            If there are no prompts to start from, or no such object.
        UsageError
            If a frame is outside the video, or the frames cannot be reached in that direction.
        """
        self._chosen(objects)
        return Propagation(self, direction, start, stop, frames, objects, resume)

    def keep_only(self, needed: NeededFrames) -> None:
        """Forget the masks and memories of tracked frames that are not needed; prompted frames stay.

        For runs that never come back to a frame; see `Propagation.needed_frames`.
        """
        self._store.keep_only(needed.masks, needed.attends)

    def close(self) -> None:
        """Let go of all memories; the tracker is not to be used after that."""
        self._objects.clear()
        self._store.close()
        self._frames.clear()

    # What Propagation asks for

    def _chosen(self, objects: Sequence[int] | None) -> list[TrackedObject]:
        return [self._known(i) for i in (self.object_ids if objects is None else sorted(set(objects)))]

    def _settle_prompts(self, objects: Sequence[TrackedObject]) -> None:
        """Make the masks of all newly prompted frames, but for corrections of frames still to be reached."""
        pending: dict[int, list[TrackedObject]] = {}  # by frame
        for obj in objects:
            for frame in obj.pending_frames():
                if not self._awaits_tracking(obj, frame):
                    pending.setdefault(frame, []).append(obj)
        with self._computing():
            for frame, prompted in pending.items():
                for obj in prompted:
                    self._settle(obj, frame)
                for obj in prompted:  # only now: they leave out one another's masks
                    self._remember(obj, frame, obj.conditioning[frame])

    def _awaits_tracking(self, obj: TrackedObject, frame: int) -> bool:
        """Whether the prompts only take away from a mask that is still to come."""
        return obj.prompts[frame].only_negative and self._memory(obj, frame) is None

    def _starting_frames(self, obj: TrackedObject) -> list[int]:
        """Return the prompted frames that an object can be tracked from."""
        return [frame for frame in obj.prompts if not self._awaits_tracking(obj, frame)]

    def _can_reach(self, obj: TrackedObject, frame: int, reverse: bool) -> bool:
        """Whether an object has a prompt or mask behind it to be tracked into a frame from."""
        behind = any(f >= frame if reverse else f <= frame for f in obj.conditioning)
        return behind or bool(
            obj.conditioning and self._store.has(obj.object_id, frame + 1 if reverse else frame - 1)
        )

    def _step(
        self,
        frame: int,
        reverse: bool,
        objects: Sequence[TrackedObject],
        seen: Tensor | FrameFeatures | None,
    ) -> dict[int, MemoryUse]:
        """Track objects into a frame, `seen` ahead or not; return what memory they used, by object id."""
        use = {}
        with self._computing():
            tracked = []
            for obj in objects:
                if frame in obj.conditioning:
                    obj.visited[frame] = Visit(reverse, obj.conditioning[frame])
                else:
                    tracked.append(obj)
            if tracked:
                features = self._frames.features(frame, seen)
                use = self._track(frame, reverse, tracked, features)
            for obj in tracked:
                if frame in obj.prompts and obj.prompts[frame].pending:
                    self._settle(obj, frame)
        return use

    def _encode_on(self, threads: int, frame: npt.NDArray[np.uint8]) -> FrameFeatures:
        """Resize and encode a frame, (Y, X, 3), on some of the CPU's threads."""
        with torch_threads(threads), self._computing():
            return self._frames.encode(self._frames.image(frame))

    def _track(
        self, frame: int, reverse: bool, objects: Sequence[TrackedObject], features: FrameFeatures
    ) -> dict[int, MemoryUse]:
        network = self.model.network
        recalled = [self._recall.recall(obj, frame, reverse) for obj in objects]
        decoded = network.decode(self._recall.attend(features, recalled), features)
        decoded = self._plausible(frame, reverse, objects, decoded)
        memories = network.encode_memory(features, decoded.logits, decoded.score, binarize=False)
        keys, values = network.memory_attention.project_memory(memories)
        host = memories.cpu()
        for b, (obj, memory) in enumerate(zip(objects, self._host_memories(decoded, reverse), strict=True)):
            memory.features = host[b].clone()  # of a view all of them would stay with the last one
            memory.active = ActiveMemory(memories[b], keys[b], values[b])
            obj.active.add(frame)
            self._store.put(obj.object_id, frame, memory)
        return {obj.object_id: r.use for obj, r in zip(objects, recalled, strict=True)}

    def _plausible(
        self, frame: int, reverse: bool, objects: Sequence[TrackedObject], decoded: Decoded
    ) -> Decoded:
        """Return what is left of the masks that objects were tracked to."""
        no_pointer = self.model.network.no_obj_ptr
        if self.settings.doubt_masks:
            gone_before = [self._gone(obj, frame + (1 if reverse else -1)) for obj in objects]
            decoded = without_hopeless(decoded, gone_before, no_pointer)
            last_seen = [self._last_seen(obj, frame, reverse) for obj in objects]
            decoded = without_jumps(decoded, last_seen, no_pointer)
        if self.settings.exclusive:
            others = [obj for obj in self._objects.values() if obj not in objects]
            has = [(obj, memory) for obj in others if (memory := self._memory(obj, frame)) is not None]
            claims = [Claim(memory.logits, obj.trust, memory.is_given) for obj, memory in has]
            # Those that are another one's claim nothing.
            masks = decoded.logits[:, 0]
            alone = [b for b, obj in enumerate(objects) if not self._is_other(obj, frame, masks[b], reverse)]
            trust = [objects[b].trust for b in alone]
            gone = [self._is_long_gone(objects[b], frame, reverse) for b in alone]
            if len(alone) == len(objects):
                return without_overlaps(decoded, trust, gone, claims, no_pointer)
            if alone:
                part = without_overlaps(
                    Decoded(*(x[alone] for x in decoded)), trust, gone, claims, no_pointer
                )
                decoded = Decoded(*(x.clone() for x in decoded))
                for x, y in zip(decoded, part, strict=True):
                    x[alone] = y
        return decoded

    def _went_over(self, obj: TrackedObject, frame: int, memory: FrameMemory) -> bool:
        """Whether a frame's mask is that of another object, as its prompts there tell."""
        return not memory.prompted and self._is_other(obj, frame, memory.logits, memory.reverse)

    def _is_other(self, obj: TrackedObject, frame: int, logits: Tensor, reverse: bool) -> bool:
        """Whether a mask (4 h, 4 w) that an object was tracked to is that of one prompted in the frame."""
        if not (self.settings.obey_clicks and self.settings.exclusive):
            return False
        prompted = [o for o in self._objects.values() if o is not obj and frame in o.conditioning]
        if not prompted:
            return False
        tracked, came_back = logits.cpu(), self._came_back(obj, frame, reverse)
        for other in prompted:
            memory, prompts = other.conditioning[frame], other.prompts[frame]
            clicked = prompts.mask is None and prompts.box is None
            places = self._places(prompts.points) if clicked else None
            if memory.score > 0 and went_over(tracked, memory.logits, places, came_back):
                return True
        return False

    def _before(self, obj: TrackedObject, frame: int, reverse: bool) -> Iterator[tuple[int, FrameMemory]]:
        """Yield the frames, and what they have of an object, that were tracked just before, the newest first.

        As many as a frame may look at, without a gap, whatever else their masks proved to be.
        """
        step = 1 if reverse else -1
        for at in (frame + step * d for d in range(1, self._store.window + 1)):
            memory = self._kept(obj, at)
            if memory is None:
                return
            yield at, memory

    def _came_back(self, obj: TrackedObject, frame: int, reverse: bool) -> bool:
        """Whether an object was out of view shortly before a frame, and not prompted since."""
        for _, memory in self._before(obj, frame, reverse):
            if memory.prompted or memory.score <= 0:
                return memory.score <= 0
        return False

    def _is_long_gone(self, obj: TrackedObject, frame: int, reverse: bool) -> bool:
        """Whether an object was out of view for some frames, or was another object."""
        for n, (at, memory) in enumerate(self._before(obj, frame, reverse), 1):
            if self._went_over(obj, at, memory):
                return True
            if memory.score > 0:
                return False
            if n == LONG_GONE or memory.prompted:
                return True
        return False

    def _gone(self, obj: TrackedObject, frame: int) -> float | None:
        """Return the predicted IoU of an object that is out of view in a frame, 0 if a user says so."""
        memory = self._memory(obj, frame)
        if memory is None or memory.score > 0:
            return None
        return 0.0 if memory.prompted else memory.iou

    def _last_seen(self, obj: TrackedObject, frame: int, reverse: bool) -> list[Tensor]:
        """Return the logits of the two masks that an object had last, the newest first; of lately only."""
        step = 1 if reverse else -1
        seen: list[Tensor] = []
        for at in (frame + step * d for d in range(1, MEMORY_OF_PLACE + 1)):
            memory = self._kept(obj, at)
            if memory is not None and memory.score > 0:
                if self._went_over(obj, at, memory):
                    break  # it was the other one before, too
                seen.append(memory.logits)
            if len(seen) == 2:
                break
        return seen

    def _result(
        self,
        frame: int,
        objects: Sequence[TrackedObject],
        use: dict[int, MemoryUse] | None = None,
    ) -> FrameResult:
        """Return the masks of those objects that have one in a frame."""
        found = [(obj, memory) for obj in objects if (memory := self._memory(obj, frame)) is not None]
        side = self.model.image_size // 4
        logits = np.empty((len(found), side, side), dtype=np.float32)
        for i, (_, memory) in enumerate(found):
            logits[i] = memory.logits.numpy()
        return FrameResult(
            frame=frame,
            object_ids=np.array([obj.object_id for obj, _ in found], dtype=np.int64),
            logits=logits,
            scores=torch.tensor([memory.score for _, memory in found]).sigmoid().numpy(),
            ious=np.array([memory.iou for _, memory in found], dtype=np.float32),
            video_shape=(self.video.height, self.video.width),
            window=self._frames.window,
            memory=use or {},
            went_over=tuple(
                obj.object_id
                for obj, _ in found
                if (kept := self._kept(obj, frame)) is not None and self._went_over(obj, frame, kept)
            ),
            given={obj.object_id: mask for obj, _ in found if (mask := _given_mask(obj, frame)) is not None},
            exclusive=self.settings.exclusive,
            fill_holes=self.settings.fill_holes,
            remove_speckles=self.settings.remove_speckles,
        )

    def _forget_features(self, frame: int) -> None:
        """Let the memories of a prompted frame be made anew: what is prompted there has changed."""
        if self.settings.exclusive:
            for obj in self._objects.values():
                if (memory := obj.conditioning.get(frame)) is not None:
                    memory.features = memory.active = None

    def _memory(self, obj: TrackedObject, frame: int) -> FrameMemory | None:
        """Return what is known of an object in a frame: out of view where its mask is another one's."""
        memory = self._kept(obj, frame)
        if memory is None or not self._went_over(obj, frame, memory):
            return memory
        return out_of_view(memory)

    def _kept(self, obj: TrackedObject, frame: int) -> FrameMemory | None:
        """Return what is kept of an object in a frame, whatever its mask proved to be."""
        return obj.conditioning.get(frame) or self._store.get(obj.object_id, frame)

    # The network

    def _settle(self, obj: TrackedObject, frame: int, others: Sequence[Point] | None = None) -> None:
        """Make the mask of a prompted frame from all its prompts together.

        It leaves out clicks on `others` in the frame; those that are known if None.
        """
        network, prompts = self.model.network, obj.prompts[frame]
        tracked = self._store.get(obj.object_id, frame)
        prior = self._memory(obj, frame)
        if prompts.only_negative and prior is None:
            raise PromptError(
                f"Object {obj.object_id} has only negative points on frame {frame}, and no mask there that "
                "they could correct; add a positive point on the object, or track it to this frame first."
            )
        features = self._frames.features(frame)
        given = None if prompts.mask is None else self._frames.mask(prompts.mask.mask)
        visit = obj.visited.get(frame)
        reverse = visit.reverse if visit is not None else tracked is not None and tracked.reverse
        if given is not None and prompts.is_given_mask:
            decoded = network.decode_given_mask(features, given)
        else:
            self._require_in_picture(prompts, frame)
            xy, labels = prompts.network_points(self._frames.window, self.model.image_size)
            if given is not None and prompts.mask_pending:
                (prior,) = self._host_memories(network.decode_given_mask(features, given), reverse)
                prior.prompted = True
            earlier: Tensor | None = None
            if prior is not None:
                earlier = prior.logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)[None, None].to(self.model.device)
            xy, labels = xy.to(self.model.device), labels.to(self.model.device)
            recalled: Recalled | None = None
            # Where tracking passed a mask made of the frame alone, SAM 2 looks at the memory of that; several
            # views of the frame are worth more.
            if tracked is not None or (visit is not None and not self.mirrors):
                recalled = self._recall.recall(obj, frame, reverse)
            decode = self._decoder(frame, features, recalled)
            decoded = decode(xy, labels, earlier)
            if self.settings.obey_clicks:
                if prior is not None and prompts.box is None:
                    decoded = unless_worse(decoded, prior, xy, labels)
                if self.settings.exclusive:
                    away = self._clicks_on_others(obj, frame) if others is None else others
                    places = self._places(away).to(self.model.device)
                    decoded = without_others(decode, decoded, xy, labels, places)
            if self.settings.doubt_masks and prior is not None and prompts.only_negative:
                # They tell what the object is not, and not what it is.
                decoded = decoded._replace(iou=decoded.iou.clamp(max=prior.iou))
        (memory,) = self._host_memories(decoded, reverse)
        memory.prompted = True
        obj.conditioning[frame] = memory
        self._forget_features(frame)
        for replaced in (tracked, None if visit is None else visit.memory):
            if replaced is not None:
                replaced.active = None
        prompts.pending = prompts.mask_pending = False

    def _decoder(self, frame: int, features: FrameFeatures, recalled: Recalled | None) -> Decode:
        """Return what makes a mask of clicks on a frame and an earlier mask, with memories if it has any."""
        network, obey = self.model.network, self.settings.obey_clicks
        if recalled is not None and recalled.memories:
            image = self._recall.attend(features, [recalled])
        elif self.mirrors:
            views, side = self._frames.views(frame), self.model.image_size
            return lambda xy, labels, earlier: decode_views(network, views, xy, labels, earlier, side, obey)
        else:
            image = network.without_memory(features)
        return lambda xy, labels, earlier: network.decode(image, features, xy, labels, earlier, obey)

    def _clicks_on_others(self, obj: TrackedObject, frame: int) -> list[Point]:
        """Return the clicks, positive or not, that a frame has on other objects."""
        prompts = [o.prompts[frame] for o in self._objects.values() if o is not obj and frame in o.prompts]
        return [p for one in prompts for p in one.points]

    def _places(self, clicks: Sequence[Point]) -> Tensor:
        """Return where positive clicks are in what the network sees: (N, 2), (x, y)."""
        xy = [(p.x, p.y) for p in clicks if p.positive]
        places = torch.tensor(xy, dtype=torch.float32).reshape(-1, 2)
        return self._frames.window.scaled(places, self.model.image_size)

    def _require_in_picture(self, prompts: FramePrompts, frame: int) -> None:
        """Raise PromptError if a positive click is in the black around the picture."""
        for p in prompts.points:
            if p.positive and not self._frames.window.has(p.y, p.x):
                raise PromptError(
                    f"The point at y = {p.y:g}, x = {p.x:g} on frame {frame} is in the black around the "
                    "picture, which is left out; place it in the picture, or set cropped to False in "
                    "TrackingSettings."
                )

    def _host_memories(self, decoded: Decoded, reverse: bool) -> Iterator[FrameMemory]:
        logits, pointers = decoded.logits[:, 0].cpu(), decoded.pointer.float().cpu()
        scores, ious = decoded.score[:, 0].tolist(), decoded.iou[:, 0].tolist()
        for b, (score, iou) in enumerate(zip(scores, ious, strict=True)):
            yield FrameMemory(logits[b].clone(), pointers[b].clone(), score, reverse, iou)

    def _activate(self, obj: TrackedObject, frame: int, memory: FrameMemory) -> ActiveMemory:
        """Bring a memory to the device."""
        features = self._remember(obj, frame, memory)[None].to(self.model.device)
        keys, values = self.model.network.memory_attention.project_memory(features)
        return ActiveMemory(features[0], keys[0], values[0])

    def _remember(self, obj: TrackedObject, frame: int, memory: FrameMemory) -> Tensor:
        """Return a memory's feature map, (memory_dim, h, w) on the host, making it where it is not there.

        A mask made of prompts leaves out what is prompted as another object in the frame.
        """
        if memory.features is None:
            device, logits = self.model.device, memory.logits[None]
            if self.settings.exclusive and memory.prompted and not memory.is_given:
                others = [o.conditioning.get(frame) for o in self._objects.values() if o is not obj]
                claims = [Claim(m.logits, m.trust, m.is_given) for m in others if m is not None]
                # As far as this frame tells: so it is the same, whatever is prompted later in others.
                logits = separate(logits, [memory.trust], claims)
            logits = logits[None].to(device)
            score = torch.tensor([[memory.score]], device=device)
            features = self._frames.features(frame)
            made = self.model.network.encode_memory(features, logits, score, binarize=memory.prompted)
            memory.features = made[0].cpu()
        return memory.features

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Run the network: no gradients, the asked precision, and out-of-memory errors a user understands."""
        device, dtype = self.model.device, self.precision
        try:
            with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._frames.clear()
            raise DeviceMemoryError(
                f"The device '{device}' ran out of memory at an input of {self.model.image_size} pixels with "
                f"{len(self._objects)} objects; what was tracked is kept. Use a smaller image size or model, "
                "fewer objects at a time, or the device 'cpu'."
            ) from error

    @property
    def mirrors(self) -> bool:
        """Whether prompted frames are looked at in several ways; see `views`."""
        wanted = self.settings.mirrored
        return self._is_small if wanted == "auto" else wanted

    @property
    def precision(self) -> torch.dtype:
        """The network's arithmetic: torch.float32 or torch.bfloat16."""
        return resolve_precision(self.settings.precision, self.model.device, self._is_small)

    @property
    def _is_small(self) -> bool:
        return isinstance(self.model.network.config.trunk, ConvNetConfig)


def _given_mask(obj: TrackedObject, frame: int) -> BoolArray | None:
    prompts = obj.prompts.get(frame)
    if prompts is None or prompts.pending or not prompts.is_given_mask or prompts.mask is None:
        return None
    return prompts.mask.mask

"""The masks of a session: how they get into the labels, what is known of them, how they are taken back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .canvas import Index, MaskCanvas, Stroke
from .history import FrameState, History, Step
from .prompts import Key, PromptState
from .records import Records
from .stacks import LayerStack, Plane
from .worker import FrameAnswer, MaskUse, PromptAnswer


class _Plane(NamedTuple):
    """What is known of a plane of the image while another one is in view."""

    records: Records
    edited: set[Key]
    unpainted: dict[Key, bytes]
    bare: dict[int, npt.NDArray[Any]]
    history: History
    said: PromptState  # in it, when it was left


class Drawing:
    """Draws what comes from the tracker; every step can be undone, and no stroke of the user's is lost.

    Parameters
    ----------
    stack : LayerStack
        The video.

    Attributes
    ----------
    canvas : MaskCanvas or None
        What is drawn into, while there are labels.
    history : History
        The steps.
    records : Records
        What is known of each object in each frame.
    edited : set of Key
        Where the user painted, as long as no prompt was made of it and nothing was drawn over it.
    on_tracker : set of Key
        What the tracker has tracked, and clicks can refine.
    preserve : bool
        Leave the pixels of all other labels as they are.
    painted_counts : bool
        Leave what the user painted as it is where a pass comes by.
    """

    def __init__(self, stack: LayerStack) -> None:
        self.canvas: MaskCanvas | None = None
        self.history = History()
        self.records = Records(stack.n_frames)
        self.edited: set[Key] = set()
        self._unpainted: dict[Key, bytes] = {}  # digests of masks before their first stroke
        # By frame, its labels without the strokes that a mask on its way is to go under.
        self._bare: dict[int, npt.NDArray[Any]] = {}
        self.on_tracker: set[Key] = set()
        self._hidden: set[Key] = set()  # of these, what proved to be another object
        self.preserve = True
        self.painted_counts = True
        self._stack = stack
        self._pass: Step | None = None
        self._awaited: dict[int, set[Key]] = {}  # by step, what it has no mask of yet
        self._answered: dict[int, set[Key]] = {}  # by step, what it has got
        self._elsewhere: dict[Plane, _Plane] = {}
        self._untracked: set[Key] = set()  # of the swap under way: masks of passes that are others now

    # What is drawn into

    def use(self, canvas: MaskCanvas) -> None:
        """Draw into other labels from now on; what was done in those before cannot be undone in them."""
        if self.canvas is not None:
            self.drop_canvas()
            self.forget()
        self.canvas = canvas

    def drop_canvas(self) -> None:
        """Let go of the labels."""
        if self.canvas is not None:
            self.canvas.close()
            self.canvas = None

    def forget(self) -> None:
        """Forget all masks, whose labels are gone or others."""
        self.forget_steps()
        self.on_tracker.clear()
        self._hidden.clear()
        self._elsewhere.clear()
        self.edited, self._unpainted = set(), {}  # others, for those may have been left with the labels
        self.records = Records(self._stack.n_frames)

    def forget_steps(self) -> None:
        """Forget what could be undone, in all planes."""
        for history in (self.history, *(plane.history for plane in self._elsewhere.values())):
            history.clear()
        self._bare.clear()

    def change_stack(self, stack: LayerStack, left: PromptState, found: PromptState) -> None:
        """Go to another plane of the image; what is known of this one is kept for when it is come back to.

        So are its steps, unless other clicks and boxes in it are `found` then than were `left`: they would be
        undone with them. Steps take memory, and are kept for one other plane only.
        """
        if not self.history.is_empty:
            for plane, other in self._elsewhere.items():
                if plane != stack.plane:
                    other.history.clear()
        here = _Plane(self.records, self.edited, self._unpainted, self._bare, self.history, left)
        self._elsewhere[self._stack.plane] = here
        self._stack = stack
        if self.canvas is not None:
            self.canvas.stack = stack
        fresh = _Plane(Records(stack.n_frames), set(), {}, {}, History(), found)
        here = self._elsewhere.pop(stack.plane, fresh)
        self.records, self.edited, self._unpainted, self._bare, self.history, before = here
        if (before.points, before.boxes) != (found.points, found.boxes):
            self.history.clear()

    @property
    def records_by_plane(self) -> dict[Plane, Records]:
        """What is known of every plane of the image."""
        return {self._stack.plane: self.records} | {p: other.records for p, other in self._elsewhere.items()}

    @property
    def edited_by_plane(self) -> dict[Plane, set[Key]]:
        """Where the user painted, in every plane of the image."""
        return {self._stack.plane: self.edited} | {p: other.edited for p, other in self._elsewhere.items()}

    def take_up(self, records: Mapping[Plane, Records], edited: Mapping[Plane, set[Key]]) -> None:
        """Go on with what was known of planes of the image; there are no steps yet."""
        for plane, known in records.items():
            if plane == self._stack.plane:
                self.records, self.edited = known, edited[plane]
            else:
                self._elsewhere[plane] = _Plane(known, edited[plane], {}, {}, History(), PromptState())

    @property
    def object_ids(self) -> set[int]:
        """The objects that have something in any plane, as far as it is known without looking at labels."""
        noted = {i for records in self.records_by_plane.values() for i in records.noted_ids}
        return noted | {i for edited in self.edited_by_plane.values() for _, i in edited}

    def color(self, object_id: int) -> npt.NDArray[np.float32]:
        """Return the colour that an object is drawn in, (4,) from 0 to 1; white while there are no labels."""
        if self.canvas is None:
            return np.ones(4, dtype=np.float32)
        colors = self.canvas.layer.colormap
        only_selected = colors.use_selection  # the others are not drawn then, but their colours stay theirs
        colors.use_selection = False
        try:
            return np.asarray(colors.map(object_id), dtype=np.float32)
        finally:
            colors.use_selection = only_selected

    # What the user paints

    def note_painted(self, strokes: Sequence[Stroke], objects: set[int], prompts: PromptState) -> set[int]:
        """Note what the user painted, as a step; returns the objects that were.

        These are the labels that came, and those of `objects` that were painted over; `prompts` are all there
        are.
        """
        where = f"frame {strokes[0].frame}" if len(strokes) == 1 else f"{len(strokes)} frames"
        step = self.history.begin(f"painting {where}", prompts, prompts)
        found: set[int] = set()
        for stroke in strokes:
            self._keep(stroke.frame, stroke.before, step)
            if self._is_awaited(stroke.frame):
                self._bare.setdefault(stroke.frame, stroke.before)
            ids = {i for i in stroke.painted | (stroke.over & objects) if i > 0}
            for i in ids:
                self._note_painted((stroke.frame, i), stroke.before)
            found |= ids
        if self._pass is not None:  # what follows is undone before it
            self.begin_pass(prompts)
        return found

    def note_painted_elsewhere(self, painted: Mapping[Plane, set[Key]]) -> set[int]:
        """Note what the user painted in planes of the image that are out of view; returns the objects."""
        for plane, keys in painted.items():
            if plane not in self._elsewhere:
                fresh = _Plane(Records(self._stack.n_frames), set(), {}, {}, History(), PromptState())
                self._elsewhere[plane] = fresh
            self._elsewhere[plane].edited.update(keys)
        return {i for keys in painted.values() for _, i in keys}

    def _note_painted(self, key: Key, before: npt.NDArray[Any]) -> None:
        """Note that an object was painted in a frame."""
        if key not in self.edited:
            self._unpainted[key] = _digest(before == key[1])
        self.edited.add(key)

    def take_as_painted(self, key: Key) -> None:
        """Note that what is seen of an object in a frame was painted, whatever was painted since."""
        self._unpainted.pop(key, None)
        self.edited.add(key)

    def is_painted(self, key: Key) -> bool:
        """Whether an object was painted in a frame and not taken back, which is forgotten where it was.

        napari's own undo tells nobody, so the mask is compared with what it was before.
        """
        if key not in self.edited or self.canvas is None:
            return False
        before = self._unpainted.get(key)
        if before is not None and before == _digest(self.canvas.frame(key[0]) == key[1]):
            self.edited.discard(key)
            return False
        return True

    # Masks of prompts

    def begin(self, what: str, before: PromptState, after: PromptState, awaited: Collection[Key]) -> Step:
        """Begin a step of changed prompts, which waits for the masks of some frames and objects."""
        for frame in {frame for frame, _ in awaited}:
            if not self._is_awaited(frame):
                self._bare.pop(frame, None)
        step = self.history.begin(what, before, after)
        self._awaited[step.token] = set(awaited)
        return step

    def waiting_step(self, key: Key) -> int | None:
        """Return the newest step that waits for the mask of a frame and object, and was not overtaken.

        While the object is removed none does; it waits again when that is undone.
        """
        waiting, answered = (
            max(
                (token for token, keys in steps.items() if key in keys and self.history.find(token)),
                default=0,
            )
            for steps in (self._awaited, self._answered)
        )
        return waiting if waiting > answered and not self._is_removed_since(key[1], waiting) else None

    def _is_removed_since(self, object_id: int, token: int) -> bool:
        return any(step.removes == object_id for step in self.history.after(token))

    def wait_no_more(self, key: Key, step: int | None) -> None:
        """Note that a mask that a step waits for does not come, so that what is painted there counts."""
        self._awaited.get(step or 0, set()).discard(key)
        if not self._is_awaited(key[0]):
            self._bare.pop(key[0], None)

    def _is_awaited(self, frame: int) -> bool:
        """Whether a mask in a frame is on its way."""
        keys = {key for awaited in self._awaited.values() for key in awaited if key[0] == frame}
        return any(self.waiting_step(key) is not None for key in keys)

    def wants(self, answered: PromptAnswer) -> bool:
        """Say whether the mask that prompts led to is to be drawn."""
        key = answered.answer.frame, answered.object_id
        if answered.step is not None:  # gone if it has been undone meanwhile; another answer is under way
            awaited = key in self._awaited.get(answered.step, ())
            there = self.history.find(answered.step) is not None
            return awaited and there and not self._is_removed_since(key[1], answered.step)
        # Of prompts that no mask can be made of, such as negative clicks alone, what is seen stays.
        made = answered.object_id in answered.answer.object_ids
        return made and answered.masks != MaskUse.LEAVE and not self.is_painted(key)

    def draw_prompted(self, answered: PromptAnswer, prompts: PromptState) -> None:
        """Draw the mask that prompts led to, which is wanted; `prompts` are all there are.

        It goes under what was painted while it was on its way.
        """
        assert self.canvas is not None
        answer, object_id, frame = answered.answer, answered.object_id, answered.answer.frame
        step = None if answered.step is None else self.history.find(answered.step)
        current = self.canvas.frame(frame)
        bare = drawn = self._bare.get(frame, current)
        changed: list[int] = []
        if answered.masks == MaskUse.DRAW or not (current == object_id).any():
            painted = self.painted_counts
            rivals = [i for i in answer.object_ids if not (painted and self.is_painted((frame, i)))]
            changed = self._gone_or_back(answer, object_id)
            drawn = self.canvas.merged(bare, answer.labels, [object_id, *changed], rivals, self.preserve)
        elif self.records.has_mask(object_id, frame):
            return
        new = _over(current, bare, drawn)
        if step is not None:
            self._keep_before_strokes(frame, step)
        self._write(frame, current, new, step)
        self._hidden |= {(frame, i) for i in changed if i in answer.went_over}
        for i in (object_id, *changed):
            if i in answer.object_ids:
                confidence = float(answer.confidence[answer.object_ids.index(i)])
                self.records.note(i, frame, confidence, bool((new == i).any()))
        if object_id not in answer.object_ids:
            self.records.note(object_id, frame, float("nan"), False)
        if np.array_equal(new == object_id, drawn == object_id):
            self.edited.discard((frame, object_id))
        else:
            self._unpainted[frame, object_id] = _digest(drawn == object_id)
        if step is not None:
            for i in (object_id, *changed):
                self._draw_under_strokes(frame, i, step, bare, drawn)
            self._awaited.get(step.token, set()).discard((frame, object_id))
            self._answered.setdefault(step.token, set()).add((frame, object_id))
            if self._pass is not None:  # what follows is undone before it
                self.begin_pass(prompts)
        if frame in self._bare:
            # What was painted is told by its difference, also where this mask has the same there.
            self._bare[frame] = np.where((current != bare) & (drawn == current), bare, drawn)
            if not self._is_awaited(frame):
                del self._bare[frame]

    def _gone_or_back(self, answer: FrameAnswer, object_id: int) -> list[int]:
        """Return whose masks proved to be a prompted object's, or do so no longer, besides that of one."""
        changed = []
        for n, i in enumerate(answer.object_ids):
            key, seen = (answer.frame, i), bool(self.records[i].present[answer.frame])
            gone = i in answer.went_over and seen
            back = key in self._hidden and bool(answer.present[n]) and not seen
            if i != object_id and (gone or back) and key in self.on_tracker and not self.is_painted(key):
                changed.append(i)
        return changed

    def _keep_before_strokes(self, frame: int, step: Step) -> None:
        """Keep a frame for a step as it was before what was painted since, which is undone before it."""
        index: Index = self._stack.index(frame)  # type: ignore[assignment]
        later = self._later(step, index)
        if later and frame in self._bare:
            self.history.keep(step, index, later[0].frames[index])

    def _later(self, step: Step, index: Index) -> list[Step]:
        """Return the steps after one that changed a frame."""
        return [other for other in self.history.after(step.token) if index in other.frames]

    def _draw_under_strokes(
        self, frame: int, object_id: int, step: Step, bare: npt.NDArray[Any], drawn: npt.NDArray[Any]
    ) -> None:
        """Draw a mask that came late into what the strokes since its step keep of the frame."""
        if frame not in self._bare:
            return
        index: Index = self._stack.index(frame)  # type: ignore[assignment]
        known = self.records.at(frame)[object_id]
        for other in (*self.history.after(step.token), *self.history.undone):
            if (state := other.frames.get(index)) is not None and other.removes != object_id:
                labels = _over(state.labels(), bare, drawn)
                there = known._replace(present=bool((labels == object_id).any()))
                other.frames[index] = FrameState.of(labels, {**state.known, object_id: there}, state.edited)

    # Masks of passes

    def begin_pass(self, prompts: PromptState) -> None:
        """Begin a step of tracking."""
        self.end_pass()
        self._pass = self.history.begin("tracking", prompts, prompts, is_pass=True)

    def end_pass(self) -> None:
        """End the step of tracking; there is none where nothing changed."""
        if self._pass is not None and not self._pass.frames:
            self.history.drop(self._pass)
        self._pass = None

    def draw_tracked(self, answer: FrameAnswer, objects: Collection[int] | None) -> None:
        """Draw a frame of a pass that is for some objects, for all if None."""
        assert self.canvas is not None
        frame = answer.frame
        ids = [i for i in answer.object_ids if objects is None or i in objects]
        if self.painted_counts:  # while it was tracking
            ids = [i for i in ids if not self.is_painted((frame, i))]
        current = self.canvas.frame(frame)
        new = self.canvas.merged(current, answer.labels, ids, preserve=self.preserve)
        self._write(frame, current, new, self._pass)
        if (bare := self._bare.get(frame)) is not None:
            self._bare[frame] = self.canvas.merged(bare, answer.labels, ids, preserve=self.preserve)
        for n, i in enumerate(answer.object_ids):
            if i in ids:
                there = bool(answer.present[n])
                confidence, memory = float(answer.confidence[n]), answer.memory.get(i)
                self.records.note(i, frame, confidence, there, memory, tracked=True)
                self.edited.discard((frame, i))
                self.on_tracker.add((frame, i))
                self._hidden.discard((frame, i))

    def _write(self, frame: int, current: npt.NDArray[Any], new: npt.NDArray[Any], step: Step | None) -> None:
        """Write a frame where it changed, so that it can be taken back with a step."""
        assert self.canvas is not None
        if np.array_equal(current, new):
            return
        if step is not None:
            self._keep(frame, current, step)
        self.canvas.write(frame, new)

    def _keep(self, frame: int, current: npt.NDArray[Any], step: Step) -> None:
        """Keep a frame, and what is known of it, as it was before a step."""
        state = self._state(frame, current)
        self.history.keep(step, self._stack.index(frame), state)  # type: ignore[arg-type]

    def _state(self, frame: int, labels: npt.NDArray[Any]) -> FrameState:
        """Return a frame, and what is known of it."""
        edited = frozenset(i for at, i in self.edited if at == frame)
        return FrameState.of(labels, self.records.at(frame), edited)

    # Taking away and taking back

    def erase(self, object_id: int, prompted: Sequence[int], step: Step) -> Iterator[None]:
        """Take an object out of every frame that may have a mask of it, one at a time.

        Of `prompted`, its prompts did.
        """
        assert self.canvas is not None
        known = self.records[object_id].present.copy()
        known[[frame for frame, i in self.edited if i == object_id]] = True
        known[list(prompted)] = True
        # Labels of before are only looked for in memory: elsewhere it takes too long.
        everywhere = isinstance(self.canvas.layer.data, np.ndarray)
        for frame in range(len(known)) if everywhere else np.flatnonzero(known).tolist():
            if known[frame] or (self.canvas.frame(frame) == object_id).any():
                if self._is_awaited(frame):  # a mask of another object, which is to go under this as well
                    self._bare.setdefault(frame, self.canvas.frame(frame).copy())
                self._erase_in(frame, object_id, step)
            yield
        self.records.remove(object_id)

    def _erase_in(self, frame: int, object_id: int, step: Step) -> None:
        def without(state: FrameState) -> FrameState:
            labels = state.labels()
            known = {i: there for i, there in state.known.items() if i != object_id}
            return FrameState.of(np.where(labels == object_id, 0, labels), known, state.edited - {object_id})

        index: Index = self._stack.index(frame)  # type: ignore[assignment]
        before, _ = self._change(step, index, without)
        self.history.keep(step, index, before)

    def undo(self) -> Step | None:
        """Return the newest step, as `History.undo` does; strokes that napari took back itself are none."""
        while (newest := self.history.newest) is not None and self._is_taken_back(newest):
            self.history.drop(newest)
        return self.history.undo()

    def _is_taken_back(self, step: Step) -> bool:
        if self.canvas is None or step.before is not step.after or not step.frames:
            return False
        data = self.canvas.layer.data
        return all(np.array_equal(data[index], state.labels()) for index, state in step.frames.items())

    def swap(self, step: Step) -> Iterator[set[int]]:
        """Swap the frames of a step, one at a time, with what it keeps; yields the objects in each.

        Where one cannot be written, those before it are swapped back, and the error is raised. What cannot be
        swapped back either is left out when the step is swapped the next time.
        """
        swapped: list[Index] = []
        self._untracked.clear()
        try:
            for index in list(step.frames):
                found = set() if index in step.ahead else self._swap_frame(step, index)
                swapped.append(index)
                yield found
        except Exception:
            step.ahead = {index for index in swapped if not self._is_swapped_back(step, index)}
            raise
        step.ahead.clear()

    def _swap_frame(self, step: Step, index: Index) -> set[int]:
        frame, state = self._frame_at(index), step.frames[index]
        step.frames[index], was = self._change(step, index, lambda _: state)
        if step.is_pass:
            self._untracked |= {(frame, i) for i in _differing(was, state.labels())}
        self.records.restore(frame, state.known)
        return set(state.known)

    def _change(
        self, step: Step, index: Index, change: Callable[[FrameState], FrameState]
    ) -> tuple[FrameState, npt.NDArray[Any]]:
        """Change a frame for a step, under what was painted over it since that began.

        Returns what it was under that, whole and its labels. A frame that cannot be written stays as it was,
        as far as that can be done.
        """
        assert self.canvas is not None
        frame, later = self._frame_at(index), self._later(step, index)
        now = self._state(frame, np.asarray(self.canvas.layer.data[index]))
        before = later[0].frames[index] if later else now
        after = change(before)
        was, becomes = before.labels(), after.labels()

        def under(state: FrameState) -> FrameState:
            edited = (state.edited - before.edited) | after.edited
            return FrameState.of(_over(state.labels(), was, becomes), after.known, edited)

        new = under(now) if later else after
        try:
            self.canvas.write_at(index, new.labels())
        except Exception:
            with suppress(Exception):  # a part of it may have been written
                self.canvas.write_at(index, now.labels())
            raise
        for other in later:
            other.frames[index] = under(other.frames[index])
        for i in new.edited - after.edited:  # their first stroke is over what there is now
            self._unpainted[frame, i] = _digest(becomes == i)
        self.edited = {key for key in self.edited if key[0] != frame} | {(frame, i) for i in new.edited}
        return before, was

    def _is_swapped_back(self, step: Step, index: Index) -> bool:
        try:
            self._swap_frame(step, index)
        except Exception:  # whatever is the matter with the array
            return False
        return True

    def _frame_at(self, index: Index) -> int:
        axis = self._stack.frame_axis
        return 0 if axis is None else index[axis]

    def no_longer_tracked(self, step: Step) -> dict[int, list[int]]:
        """Return, by object, the frames of a swapped step whose masks are not those of the tracker any more.

        The tracker is to forget them, so that no click refines what is not seen, nor is anything tracked from
        it. Masks of prompts it makes itself, when these are restored.
        """
        swapped = {self._frame_at(index) for index in step.frames}
        lost = {
            (frame, i)
            for frame, i in self.on_tracker
            if (frame, i) in self._untracked or (frame in swapped and not self.records.has_mask(i, frame))
        }
        self.on_tracker -= lost
        return {i: sorted(f for f, j in lost if j == i) for i in sorted({i for _, i in lost})}


def _differing(some: npt.NDArray[Any], others: npt.NDArray[Any]) -> set[int]:
    """Return the objects whose masks are not the same in two pictures of labels."""
    where = some != others
    return set(np.unique(np.concatenate([some[where], others[where]])).tolist()) - {0}


def _over(painted: npt.NDArray[Any], bare: npt.NDArray[Any], drawn: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what was drawn, with what was painted over what was there before."""
    return np.where(painted == bare, drawn, painted)


def _digest(mask: npt.NDArray[np.bool_]) -> bytes:
    return hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()

"""From the prompts in the layers to the tracker: what changed is found out, and masks are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_surgsam2.errors import SurgSam2Error
from napari_surgsam2.prompts import Prompt

from .drawing import Drawing
from .given import MaskGiver
from .objects import Objects
from .others import clicks_on_others, others_to_ask
from .prompt_layers import paint_points
from .prompts import Key, PromptLayers, PromptState, said_of_change
from .stacks import LayerStack, Plane
from .timers import single_shot
from .worker import MaskUse, TrackerThread

if TYPE_CHECKING:
    from napari.components import ViewerModel


class Asking(QObject):
    """Keeps the tracker told of what is in the prompt layers; masks come as the thread's answers.

    Layers tell that something in them changed, and it is taken up when the window has had its turn, so that
    changes that come together are one step. While frames are changed one after the other it waits.

    Parameters
    ----------
    viewer : ViewerModel
        Where the layers are, or will be added.
    stack : LayerStack
        The video.
    drawing : Drawing
        What is seen, and where steps begin that can be undone.
    objects : Objects
        Objects that are prompted come to them.
    thread : TrackerThread
        What is asked.

    Attributes
    ----------
    prompts : PromptLayers
        The layers.
    known : mapping of Key to prompts
        All prompts in the stack, as they were taken up last.
    left_out : mapping of Key to prompts
        Those that are not among them, for the labels have no room for their objects' numbers.
    state : PromptState
        What they were read from.
    """

    reading = Signal()  # what the user may have changed
    said = Signal()  # by the user: something new
    changed = Signal()  # what is known
    failed = Signal(str)  # what is wrong with the prompts

    def __init__(
        self,
        viewer: ViewerModel,
        stack: LayerStack,
        drawing: Drawing,
        objects: Objects,
        thread: TrackerThread,
    ) -> None:
        super().__init__()
        self._timer = single_shot(0, self.try_take_up)
        self.prompts = PromptLayers(viewer, stack, self.soon)
        self.known: dict[Key, tuple[Prompt, ...]] = {}
        self.left_out: dict[Key, tuple[Prompt, ...]] = {}
        self.state = PromptState()
        self._doubted: dict[int, tuple[int, ...]] = {}  # by object id, as the tracker said last
        self._drawing, self._objects, self._thread = drawing, objects, thread
        self._giver = MaskGiver(self.prompts, drawing)
        self._complaints: set[str] = set()  # of the prompts as they are
        # By plane, what was said before anything was said there while another one was segmented.
        self._before: dict[Plane, PromptState] = {}
        self._waits = False  # some frames are as they were before a step, others not yet
        self._closed = False
        thread.doubted.connect(self._on_doubted)

    # What is known

    @property
    def object_ids(self) -> set[int]:
        """The objects that have prompts, in any plane."""
        ids = {i for _, i in self.known}
        ids |= {*self.state.points.object_ids, *self.state.boxes.object_ids}
        return ids | {i for masks in self.prompts.masks_by_plane.values() for _, i in masks}

    def prompted_frames(self, object_id: int) -> list[int]:
        """Return the frames that an object is prompted on, ascending."""
        return sorted(frame for frame, i in self.known if i == object_id)

    def doubted_frames(self, object_id: int) -> list[int]:
        """Return the frames that an object is prompted on and no other frame looks at, ascending."""
        return [frame for frame in self._doubted.get(object_id, ()) if (frame, object_id) in self.known]

    def doubted_objects(self, frame: int) -> list[int]:
        """Return the objects that are prompted on a frame which no other looks at for them, ascending."""
        return sorted(i for i in self._doubted if frame in self.doubted_frames(i))

    def prompt_count(self, object_id: int) -> int:
        """Return how many prompts an object has."""
        return sum(len(prompts) for (_, i), prompts in self.known.items() if i == object_id)

    # Taking up

    @property
    def is_due(self) -> bool:
        """Whether something is to be taken up."""
        return self._timer.isActive()

    def soon(self) -> None:
        """Take up what was changed in the prompts, when the window has had its turn."""
        self._timer.start()

    def now(self) -> None:
        """Take up what was changed in the prompts now, if anything was."""
        if self.is_due:
            self._timer.stop()
            self.try_take_up()

    def stop(self) -> None:
        """Take nothing up that was changed so far."""
        self._timer.stop()

    def try_take_up(
        self,
        how: MaskUse | None = None,
        cleared: Key | None = None,
        beside: bool = True,
        state: PromptState | None = None,
    ) -> None:
        """Do as `take_up` does; what goes wrong is told."""
        try:
            self.take_up(how, cleared, beside, state)
        except SurgSam2Error as error:
            self._complain([str(error)])

    def take_up(
        self,
        how: MaskUse | None = None,
        cleared: Key | None = None,
        beside: bool = True,
        state: PromptState | None = None,
    ) -> None:
        """Find out what changed in the prompts, and have the masks of those frames made anew.

        It is a step that can be undone, unless `how` says that it is none of the user's, and what becomes of
        the masks; those that were tracked stay then. In any case a step that still waits for its masks gets
        them. Where it is `cleared`, not even what was painted stays. Masks of others `beside` what was
        clicked are made anew as well. Prompts are those of a `state`; of the layers as they are if left out.
        """
        if self._closed or self._waits:
            return
        is_users = how is None
        if is_users:
            self.reading.emit()
        state = self.prompts.state() if state is None else state
        wanted = self.prompts.read(state)
        if is_users:
            for plane in self.prompts.elsewhere(self.state, state):
                self._before.setdefault(plane, self.state)
        if is_users and self._giver.begin_with_what_is_there(wanted, self.known, cleared):
            state = self.prompts.state()
            wanted = self.prompts.read(state)
        self._leave_out_too_large(wanted)
        self._complain([f"{problem} It is not used." for problem in self.prompts.problems])
        differ = sorted(k for k in wanted.keys() | self.known.keys() if wanted.get(k) != self.known.get(k))
        if differ:
            self._objects.add(i for _, i in wanted)
            others = others_to_ask(differ, wanted, self.known, self._drawing, is_users) if beside else []
            if is_users:
                self.said.emit()
                what = said_of_change(differ, wanted, self.known)
                self._drawing.begin(what, self.state, state, [*differ, *others])
            for key in others:  # first, so that the new masks get what these let go
                self._ask(key, wanted, MaskUse.DRAW if is_users else MaskUse.LEAVE)
            for key in differ:
                stays = how == MaskUse.DRAW and self._drawing.records.was_tracked(key[1], key[0])
                self._ask(key, wanted, MaskUse.FILL if stays else how or MaskUse.DRAW)
        self.known, self.state = wanted, state
        if self.prompts.points is not None:
            paint_points(self.prompts.points, state.points, self._drawing.color)
        self.prompts.remind()
        self.changed.emit()

    def forget_other_planes(self) -> None:
        """Let what the layers say elsewhere count as said before; they are others now."""
        self._before.clear()

    def said_in(self, stack: LayerStack) -> PromptState:
        """Return the clicks and boxes that were taken up in a stack, whichever is segmented."""
        return self.prompts.within(self._before.get(stack.plane, self.state), stack)

    def _ask(self, key: Key, wanted: Mapping[Key, tuple[Prompt, ...]], how: MaskUse) -> None:
        if self._thread.has_tracker:
            step = self._drawing.waiting_step(key)
            how = how if step is None else MaskUse.DRAW
            self._thread.set_prompts(*key, wanted.get(key, ()), how, step, clicks_on_others(key, wanted))

    def _has_room_for(self, object_id: int) -> bool:
        return self._drawing.canvas is None or object_id <= self._drawing.canvas.largest_id

    def _leave_out_too_large(self, wanted: dict[Key, tuple[Prompt, ...]]) -> None:
        for object_id in sorted({i for _, i in wanted if not self._has_room_for(i)}):
            assert self._drawing.canvas is not None
            layer, largest = self._drawing.canvas.layer, self._drawing.canvas.largest_id
            self.prompts.problems.append(
                f"There is a prompt of object {object_id}, and the labels '{layer.name}' hold numbers up to "
                f"{largest}; take a smaller one, or labels of a wider type."
            )
        self.left_out = {key: prompts for key, prompts in wanted.items() if not self._has_room_for(key[1])}
        for key in self.left_out:
            del wanted[key]

    def _complain(self, problems: Sequence[str]) -> None:
        """Tell what is wrong with the prompts, once for as long as it stays so."""
        new = [problem for problem in problems if problem not in self._complaints]
        self._complaints = set(problems)
        if new:
            more = f" {len(new) - 1} more cannot be used either." if len(new) > 1 else ""
            self.failed.emit(new[0] + more)

    def complain_again(self) -> None:
        """Tell once more what is wrong with the prompts, which nobody has heard yet."""
        self._complaints.clear()
        self.soon()

    # Changing what is said

    def add(self, prompts: Iterable[Prompt]) -> None:
        """Add prompts as if the user had placed them."""
        wanted = list(prompts)
        self._objects.add(p.object_id for p in wanted if self._has_room_for(p.object_id))
        self.prompts.add(wanted)
        self.soon()

    def give(self, keys: Collection[Key]) -> None:
        """Take masks as they are in the labels as prompts; an empty one says that the object is not there."""
        self._giver.give(keys)
        self.soon()

    def give_painted(self, but: Collection[int] = ()) -> set[int]:
        """Take what was painted by hand as prompts, now, with what was changed in them.

        Returns those objects of `but` that were painted: they are left out.
        """
        left_out = self._giver.give_painted(but)
        self.take_up()
        return left_out

    def clear(self, key: Key) -> None:
        """Take back all prompts of a frame and object, and what was painted there."""
        self.now()
        self.prompts.drop(lambda frame, i: (frame, i) == key)
        self._timer.stop()
        self.try_take_up(cleared=key)

    def drop_object(self, object_id: int) -> None:
        """Take back all prompts of an object, as a part of a step that was begun; no mask changes."""
        self.prompts.drop(lambda _frame, i: i == object_id)
        self._timer.stop()
        self.try_take_up(MaskUse.LEAVE, beside=False)  # what its clicks took from others is not theirs now

    def restore(self, state: PromptState) -> None:
        """Take the layers back to what they held, as a part of a step; no mask changes."""
        self.prompts.restore(state)
        self._timer.stop()
        self.try_take_up(MaskUse.LEAVE)

    def halfway(self, frames: Iterable[object]) -> Iterator[None]:
        """Go through frames that are changed one after the other; prompts are taken up when all are."""
        self._waits = True
        try:
            for _ in frames:
                yield
        finally:
            self._waits = False
            self.soon()  # for what the user did meanwhile

    # The tracker

    def begin_anew(self, how: MaskUse) -> None:
        """Tell a new tracker all prompts; `how` is what becomes of the masks of prompted frames.

        What the user said here while another plane was segmented is a step then.
        """
        self.known = {}
        self._doubted.clear()
        self._drawing.on_tracker.clear()
        before = self._before.pop(self.prompts.stack.plane, None)
        if before is None:
            self.try_take_up(how)
        else:
            self.try_take_up(how, state=self.prompts.with_these_elsewhere(before, self.state))
            self.try_take_up()

    def take_off_tracker(self, object_id: int) -> None:
        """Let the tracker forget an object."""
        self._thread.remove_object(object_id)
        self._drawing.on_tracker = {key for key in self._drawing.on_tracker if key[1] != object_id}
        self._doubted.pop(object_id, None)

    def _on_doubted(self, doubted: Mapping[int, tuple[int, ...]]) -> None:
        if any(self._doubted.get(i, ()) != frames for i, frames in doubted.items()):
            self._doubted.update(doubted)
            self.changed.emit()

    # Showing

    def restyle(self) -> None:
        """Give the points their objects' colours again, which have changed."""
        points, state = self.prompts.points, self.state.points
        if points is not None and len(state.data) == len(points.data):
            paint_points(points, state, self._drawing.color)

    def close(self) -> None:
        """Let go of the layers."""
        self._closed = True
        self._timer.stop()
        self.prompts.drop_points()
        self.prompts.drop_boxes()

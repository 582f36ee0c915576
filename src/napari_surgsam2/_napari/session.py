"""A video being segmented in a viewer: its layers, its tracker, and what has come out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QApplication

from napari_surgsam2.errors import SurgSam2Error, UsageError
from napari_surgsam2.prompts import Prompt
from napari_surgsam2.video.layers import METADATA_KEY, layer_limits

from .asking import Asking
from .canvas import MaskCanvas, Stroke, ids_in, largest_id_in, make_labels, require_fit
from .drawing import Drawing
from .history import History
from .leftovers import leave, leave_frame_axis, leave_layers, left_frame_axis, take_up
from .objects import Objects
from .passes import Passes
from .position import Position
from .prompt_layers import place_on
from .prompts import Key, PromptLayers
from .records import Records
from .slices import SlicedWork
from .stacks import LayerStack, Plane, stack_of
from .timers import single_shot
from .undoing import Undoing
from .worker import MaskUse, PassEnd, PromptAnswer, TrackerChoice, TrackerThread, sentence

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Points, Shapes

    from napari_surgsam2.checkpoints import Model
    from napari_surgsam2.tracking import Direction

_PLACES = ("scale", "translate", "rotate", "shear", "affine")  # events of a layer
_PATIENCE = 0.5  # seconds that the window waits, at most, for what is under way in the frames
_REST = 150  # milliseconds without a move before the frame in view is encoded


class Session(QObject):
    """Turns what the user does to layers into work for the tracker, and what comes back into masks.

    Parameters
    ----------
    viewer : ViewerModel
        The viewer; layers are added to it, and none of the user's is removed or changed.
    image : napari.layers.Image
        The video.
    choice : TrackerChoice
        The model, and how to track.
    frame_axis : int, optional
        The axis of the image that is followed; if left out, what an earlier session on it was told, or else
        the likeliest.
    points : napari.layers.Points, optional
        Where the clicks are; a new layer if left out.
    labels : napari.layers.Labels, optional
        Where the masks go; a new layer if left out. Labels in it are kept.

    Attributes
    ----------
    objects : Objects
        Their numbers and names, and which of them is current.
    asking : Asking
        Brings the prompts in the layers to the tracker.
    passes : Passes
        Track.
    drawing : Drawing
        Brings the masks that come back into the labels; has the steps that can be undone.
    """

    changed = Signal()  # objects, prompts or masks
    state_changed = Signal()  # loading, ready, tracking
    loaded = Signal(object)  # the Model
    downloading = Signal(object, object)  # bytes done, and in all or None
    progressed = Signal(object)  # PassFrame
    ended = Signal(object)  # PassEnd
    failed = Signal(str)  # something the user should read
    warned = Signal(str)
    noticed = Signal(str)
    leaving = Signal()  # the part of the image that is segmented, or prompts in it, which are still there
    arrived = Signal()  # it is from now on
    gone = Signal()  # the image has been removed, or shows something else
    layers_chosen = Signal()  # to take prompts from, or to draw into

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        choice: TrackerChoice,
        frame_axis: int | None = None,
        points: Points | None = None,
        labels: Labels | None = None,
    ) -> None:
        super().__init__()
        self.viewer = viewer
        self.image = image
        self._position = Position(viewer, image)
        axis = left_frame_axis(image) if frame_axis is None else frame_axis
        self.stack = stack_of(image, axis, self._position.place())
        self.stack.require_video()  # before anything is made
        if frame_axis is not None:
            leave_frame_axis(image, frame_axis)
        self.choice = choice
        self.positive = True
        self.drawing = Drawing(self.stack)
        self.objects = Objects()
        self.lost_prompts = False  # with their layer, and none were placed since
        self.replaces_lost = False  # what is said now is, or will be, in place of lost prompts that were kept
        self._told: set[str] = set()  # since the user did something
        self._warned_of_units = False
        self._limits: tuple[float, float] | None = None
        self._closed = False
        self._work = SlicedWork(self._on_settled)  # on frames, one after the other
        self._postponed: list[Callable[[], object]] = []  # until that is done
        self._looking = SlicedWork(self.changed.emit)
        self._rest_timer = single_shot(_REST, self._on_rest)
        self._thread = self._start_thread()
        self.asking = self._start_asking()
        self.passes = self._start_passes()
        self._undoing = Undoing(self.asking, self.drawing, self.objects, self._thread, self._tell)
        try:
            if labels is not None:
                require_fit(labels, self.stack)
            self._set_labels(labels)
            self._set_points(points)
        except BaseException:
            self._thread.close()
            raise
        self.asking.state = self.prompts.state()  # before anything is said
        if labels is not None:
            take_up(labels, self.stack, self.objects, self.drawing, self.prompts)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.point.connect(self._on_dims)
        image.events.contrast_limits.connect(self._on_limits)
        image.events.data.connect(self._on_image_data)
        self._shape = tuple(image.data.shape)
        for name in _PLACES:
            getattr(image.events, name).connect(self._on_placed)
        self._open(MaskUse.FILL)
        self.asking.complain_again()

    # Layers

    def use_points(self, layer: Points | None = None) -> None:
        """Take clicks from another layer, or from a new one; those of the layer before count no more."""
        self._set_points(layer)
        self._start_again()

    def _set_points(self, layer: Points | None) -> None:
        self.prompts.use_points(layer)
        self.layers_chosen.emit()

    def _start_again(self) -> None:
        """Read prompts from other layers than before; masks stay, and what was done cannot be undone here."""
        self._work.finish()
        self.drawing.forget_steps()
        self.asking.forget_other_planes()
        self.asking.try_take_up(MaskUse.FILL)

    def use_boxes(self, layer: Shapes | None) -> None:
        """Take boxes from another layer, or from none."""
        if layer is None:
            self.prompts.drop_boxes()
        else:
            self.prompts.use_boxes(layer)
        self._start_again()

    def use_labels(self, layer: Labels | None = None) -> None:
        """Draw masks into another layer, or into a new one.

        Raises
        ------
        UsageError
            If the layer does not fit the image, or cannot be written to.
        """
        if layer is not None:
            require_fit(layer, self.stack)
        self._work.finish()
        if self.labels is not None:
            leave(self.labels, self.objects, self.drawing, self.prompts)
        self._set_labels(layer)
        assert self.labels is not None
        take_up(self.labels, self.stack, self.objects, self.drawing)

    def _set_labels(self, layer: Labels | None) -> None:
        if layer is None:
            layer = make_labels(self.viewer, self.stack)
        self._disconnect_labels()
        self.drawing.use(
            MaskCanvas(self.viewer, layer, self.stack, self._on_painted, self._on_painted_elsewhere)
        )
        layer.events.selected_label.connect(self._on_selected_label)
        layer.events.colormap.connect(self._restyle)
        layer.events.show_selected_label.connect(self._restyle)
        layer.events.data.connect(self._on_labels_data)
        self.layers_chosen.emit()
        self._looking.do(self._look_for_objects(layer))

    def _look_for_objects(self, layer: Labels) -> Iterator[None]:
        for found in ids_in(layer, self.image):
            if layer is not self.labels:
                return
            new = found - self.objects.in_labels
            self.objects.add(found)
            self.objects.in_labels |= found
            self._tell_of_taken(new, layer)
            yield

    def _tell_of_taken(self, found: set[int], layer: Labels) -> None:
        """Say which of our objects have numbers that labels of the user's have already."""
        if taken := sorted(found & {i for _, i in self.asking.known}):
            numbers = ", ".join(map(str, taken))
            self.warned.emit(
                f"The labels '{layer.name}' hold object {numbers} already, which is prompted too: its masks "
                "take the place of those labels. To keep them, choose other labels under 'Masks in'."
            )
        elif self.current_object in found:
            old = self.current_object
            with suppress(UsageError):  # there is no larger number
                self.new_object()
                self.noticed.emit(
                    f"The labels '{layer.name}' hold object {old} already, so clicks are for object "
                    f"{self.current_object}. Choose object {old} in the table to go on with it."
                )

    def _drop_labels(self) -> None:
        self._disconnect_labels()
        self.drawing.drop_canvas()

    def _disconnect_labels(self) -> None:
        if self.labels is not None:
            with suppress(ValueError, TypeError, RuntimeError):
                self.labels.events.selected_label.disconnect(self._on_selected_label)
                self.labels.events.colormap.disconnect(self._restyle)
                self.labels.events.show_selected_label.disconnect(self._restyle)
                self.labels.events.data.disconnect(self._on_labels_data)

    @property
    def canvas(self) -> MaskCanvas | None:
        """What masks are drawn into, while there are labels."""
        return self.drawing.canvas

    @property
    def history(self) -> History:
        """The steps that can be undone and redone."""
        return self.drawing.history

    @property
    def records(self) -> Records:
        """What is known of each object in each frame."""
        return self.drawing.records

    @property
    def labels(self) -> Labels | None:
        """The layer that masks are drawn into."""
        return None if self.canvas is None else self.canvas.layer

    @property
    def prompts(self) -> PromptLayers:
        """The layers that prompts are in."""
        return self.asking.prompts

    @property
    def points(self) -> Points | None:
        """The layer that clicks are taken from."""
        return self.prompts.points

    @property
    def boxes(self) -> Shapes | None:
        """The layer that boxes are taken from, once there is one."""
        return self.prompts.boxes

    def click_mode(self) -> None:
        """Let the next click in the viewer be a prompt."""
        if self.points is None:
            self.use_points()
        assert self.points is not None
        self.viewer.layers.selection.active = self.points
        self.points.mode = "add"

    def box_mode(self) -> None:
        """Let the next drag in the viewer be a box."""
        if self.boxes is None:
            self.prompts.use_boxes()
            self.layers_chosen.emit()
        assert self.boxes is not None
        self.viewer.layers.selection.active = self.boxes
        self.boxes.mode = "add_rectangle"

    def paint_mode(self) -> None:
        """Let the current object be painted."""
        labels = self._need_canvas().layer
        self.viewer.layers.selection.active = labels
        labels.selected_label = self.current_object
        labels.mode = "paint"

    def _need_canvas(self) -> MaskCanvas:
        if self.canvas is None:
            self.use_labels()
        assert self.canvas is not None
        return self.canvas

    def _on_removed(self, event: Any) -> None:
        try:
            if event.value in (self.labels, self.points, self.boxes):
                self._work.finish()  # in the layers that it began with
            if event.value in (self.image, self.points, self.boxes):
                self.leaving.emit()  # with all that was said by now
        finally:
            self._let_go(event.value)

    def _let_go(self, layer: Layer) -> None:
        if layer is self.image:
            self.close()
            self.gone.emit()
        elif layer is self.labels:
            self.stop()
            self._drop_labels()
            self.drawing.forget()
            self.changed.emit()
        elif layer is self.points:
            self.prompts.drop_points()
            self._forget_prompts()
        elif layer is self.boxes:
            self.prompts.drop_boxes()
            self._forget_prompts()

    def _forget_prompts(self) -> None:
        """Take back the prompts of a layer that is gone; the masks stay."""
        self.drawing.forget_steps()
        self.asking.forget_other_planes()
        self.lost_prompts = self.replaces_lost = True
        self.asking.try_take_up(MaskUse.LEAVE)

    # Objects

    @property
    def object_ids(self) -> tuple[int, ...]:
        """All objects, ascending."""
        return self.objects.ids

    @property
    def names(self) -> dict[int, str]:
        """Names by object id."""
        return self.objects.names

    @property
    def current_object(self) -> int:
        """The object that the next prompt is for."""
        return self.objects.current

    def set_current_object(self, object_id: int) -> None:
        """Choose the object that the next prompts are for; one that is not there yet is new."""
        before = self.current_object
        if object_id < 1 or object_id == before:
            return
        canvas = self.canvas
        if canvas is not None and object_id > canvas.largest_id:
            raise UsageError(
                f"The object's number is {object_id}; the labels '{canvas.layer.name}' hold numbers up to "
                f"{canvas.largest_id}. Take a smaller number, or labels of a wider type."
            )
        self.objects.add([object_id])
        if self._is_empty(before):  # the labels' spin box goes through many numbers
            self.objects.discard(before)
        self.objects.current = object_id
        self.prompts.set_next(object_id, self.positive)
        if canvas is not None and canvas.layer.selected_label != object_id:
            canvas.layer.selected_label = object_id
        self.changed.emit()

    def new_object(self) -> int:
        """Begin a new object, the current one from now on; an empty one is used first."""
        used = self._used_ids()
        if self.canvas is not None:
            used |= set(np.unique(self.canvas.frame(self.current_frame)).tolist()) - {0}
        if self._looking.is_busy and self.labels is not None:
            used.add(largest_id_in(self.labels))  # far faster than to look for each
        object_id = self.objects.next_number(used, reuse=not self._looking.is_busy)
        self.set_current_object(object_id)
        return object_id

    def _is_empty(self, object_id: int) -> bool:
        """Whether an object has neither prompts nor masks nor a name, in any plane."""
        if object_id in self.names or object_id in self._used_ids():
            return False
        return self.canvas is None or not (self.canvas.frame(self.current_frame) == object_id).any()

    def _used_ids(self) -> set[int]:
        """Return the numbers of prompts and masks, as far as they are known without looking at labels."""
        return self.objects.in_labels | self.asking.object_ids | self.drawing.object_ids

    def name_object(self, object_id: int, name: str) -> None:
        """Give an object a name; an empty one takes it away."""
        self.objects.rename(object_id, name)
        self.changed.emit()

    def remove_object(self, object_id: int) -> None:
        """Take an object's prompts and masks away; this can be undone."""
        if self.tracking:
            raise UsageError("Objects cannot be removed while tracking; press Stop first.")
        self._need_canvas()
        self._change_frames(self._remove(object_id))

    def _remove(self, object_id: int) -> Iterator[None]:
        asking = self.asking
        asking.now()
        if object_id not in self.objects:
            return
        step = self.history.begin(
            f"removing object {object_id}", asking.state, asking.state, removes=object_id
        )
        prompted = asking.prompted_frames(object_id)
        asking.drop_object(object_id)
        step.after = asking.state
        asking.take_off_tracker(object_id)
        self.objects.discard(object_id)
        if self.current_object == object_id:
            self.set_current_object(self.object_ids[0])
        try:
            yield from asking.halfway(self.drawing.erase(object_id, prompted, step))
        except Exception as error:
            self._tell(
                f"Object {object_id} is removed only in part, since masks cannot be written: "
                f"{sentence(error)} Undo brings it back."
            )

    def clear_frame(self, frame: int | None = None) -> None:
        """Take back all prompts of the current object on a frame, the one in view if left out.

        What was painted over their mask goes with it.
        """
        if frame is None:
            self._come_to_view()
        self.asking.clear(((self.current_frame if frame is None else frame), self.current_object))

    @property
    def has_prompts(self) -> bool:
        """Whether anything was said of an object."""
        return bool(self.asking.known)

    @property
    def all_prompts(self) -> list[Prompt]:
        """All prompts in the stack, by frame and object; a mask first among those of its frame."""
        return [p for _, prompts in sorted(self.asking.known.items()) for p in prompts]

    @property
    def prompts_to_keep(self) -> list[Prompt]:
        """All prompts in the stack, with those of objects that the labels have no room for."""
        return [
            p for _, prompts in sorted((self.asking.known | self.asking.left_out).items()) for p in prompts
        ]

    # Prompts

    def set_positive(self, positive: bool) -> None:
        """Choose what left clicks mean from now on."""
        self.positive = positive
        self.prompts.set_next(self.current_object, positive)
        self.state_changed.emit()

    def flip_selected(self) -> None:
        """Turn the selected points from positive to negative, and the other way."""
        self.prompts.flip_selected()

    def add_prompts(self, prompts: Iterable[Prompt]) -> None:
        """Add prompts as if the user had placed them; for scripts."""
        self.asking.add(prompts)

    def use_painted(self, frame: int | None = None, object_id: int | None = None) -> None:
        """Take an object's mask in a frame, as it is painted, as a prompt.

        An empty mask says that the object is not there.
        """
        if frame is None:
            self._come_to_view()
        self._need_canvas()
        at = self.current_frame if frame is None else frame
        self.asking.give([(at, self.current_object if object_id is None else object_id)])

    def _on_painted(self, strokes: Sequence[Stroke]) -> None:
        known = {i for _, i in self.asking.known}
        known |= {i for i in self.records.object_ids if not np.isnan(self.records[i].mean_confidence)}
        # A label that was only painted over becomes no object to be tracked by that.
        self.objects.add(self.drawing.note_painted(strokes, known, self.asking.state))
        self.state_changed.emit()  # it can be undone
        self.changed.emit()

    def _on_painted_elsewhere(self, painted: Mapping[Plane, set[Key]]) -> None:
        """Note what is painted in another plane before it is gone over to, as while this one is tracked."""
        self.objects.add(self.drawing.note_painted_elsewhere(painted))
        self.changed.emit()

    def _on_selected_label(self, event: Any = None) -> None:
        if self.canvas is not None:
            with suppress(UsageError):
                self.set_current_object(int(self.canvas.layer.selected_label))

    def finish(self) -> None:
        """Do now what is under way in the layers, and take up what was changed in the prompts."""
        self._work.finish()
        self.read_prompts()

    def when_settled(self, do: Callable[[], object]) -> None:
        """Do something now, or after what is under way in the frames; then what is wrong is told."""
        if self._work.is_busy:
            self._postponed.append(do)
        else:
            do()

    def _on_settled(self) -> None:
        self.changed.emit()
        while self._postponed and not self._work.is_busy:
            try:
                self._postponed.pop(0)()
            except SurgSam2Error as error:
                self._tell(str(error))

    def read_prompts(self) -> None:
        """Take up what was changed in the prompts now, rather than when the window has had its turn."""
        self.asking.now()

    def _on_said(self) -> None:
        self.lost_prompts = False
        self._told.clear()

    def _warn_of_units(self) -> None:
        if self._position.is_in_other_units and not self._warned_of_units:
            self._warned_of_units = True
            self.warned.emit(
                f"Another layer has smaller units than '{self.image.name}', so that the viewer shows both in "
                "those; napari does not convert clicks and strokes, which land in wrong places. Give all "
                "layers the same units."
            )

    def _restyle(self, _: Any = None) -> None:
        self.asking.restyle()
        self.changed.emit()

    def _on_answered(self, answered: PromptAnswer) -> None:
        self.when_settled(lambda: self._draw_answered(answered))  # not into what is changed just then

    def _draw_answered(self, answered: PromptAnswer) -> None:
        if self.drawing.wants(answered):
            self._need_canvas()
            try:
                self.drawing.draw_prompted(answered, self.asking.state)
            except Exception as error:
                self._tell(f"Masks cannot be written: {sentence(error)}")
            self.changed.emit()

    def _on_unanswered(self, frame: int, object_id: int, step: int | None) -> None:
        self.drawing.wait_no_more((frame, object_id), step)

    # Tracking

    def track(
        self,
        direction: Direction = "both",
        start: int | None = None,
        frames: tuple[int, int] | None = None,
        objects: Sequence[int] | None = None,
    ) -> None:
        """Track through the video; returns at once.

        Parameters
        ----------
        direction : {"forward", "backward", "both"}
            Which way.
        start : int, optional
            The first frame; the earliest prompted one if left out.
        frames : (int, int), optional
            Only frames from the first number up to, but not including, the second.
        objects : sequence of int, optional
            Only these; all that are prompted if left out.

        Raises
        ------
        UsageError
            If it is tracking already, there is no model, or undoing or removing takes a while longer.
        PromptError
            If there is nothing to track.
        """
        if self.tracking:
            raise UsageError("It is tracking already; press Stop first.")
        if not self._thread.has_tracker:
            raise UsageError("There is no model to track with; choose one that can be loaded.")
        self._told.clear()
        self._work.finish(_PATIENCE)
        if self._work.is_busy:
            raise UsageError("Frames are still being changed, by undo or a removal; track when that is done.")
        self._need_canvas()
        self.read_prompts()
        # Labels that were there before stay, retouched or not, unless they are prompted.
        if retouched := self.asking.give_painted(self.objects.in_labels - self.asking.object_ids):
            self._tell_of_retouched(retouched)
        self.passes.begin(direction, start, frames, objects)
        self.state_changed.emit()

    def _tell_of_retouched(self, object_ids: Collection[int]) -> None:
        assert self.labels is not None
        numbers = ", ".join(map(str, sorted(object_ids)))
        self.noticed.emit(
            f"The labels '{self.labels.name}' had object {numbers} already, which has no prompts: it is not "
            "tracked, and what you painted of it stays. To track it, press 'Use painted' in a frame of it."
        )

    @property
    def tracking(self) -> bool:
        """Whether it is tracking."""
        return self.passes.tracking

    def stop(self) -> None:
        """Stop tracking, or a download, after the frame under way; what is done stays."""
        if self.tracking or self.loading:
            self._thread.stop()

    def _on_ended(self, end: PassEnd) -> None:
        self._rest_timer.start()  # the viewer may have gone to another plane meanwhile
        self.ended.emit(end)
        self.state_changed.emit()
        self.changed.emit()

    # Undo

    def undo(self) -> None:
        """Take the newest step back: prompts, and the masks that they changed."""
        if self._may_swap():
            self._change_frames(self._undoing.undo(self._is_changing_soon))

    def redo(self) -> None:
        """Do the step that was undone last once more."""
        if self._may_swap():
            self._change_frames(self._undoing.redo(self._is_changing_soon))

    def _may_swap(self) -> bool:
        if self.tracking:
            self.noticed.emit("Undo and redo wait until tracking has stopped.")
            return False
        self._told.clear()
        return True

    @property
    def _is_changing_soon(self) -> bool:
        """Whether other work comes before what changes frames next."""
        return self._work.is_busy or self._looking.is_busy

    def _change_frames(self, changing: Iterator[None]) -> None:
        """Change frames one after the other, once the labels in them have been looked at."""
        self._work.do(self._look_through())
        self._work.do(changing)

    def _look_through(self) -> Iterator[None]:
        while self._looking.is_busy:
            self._looking.finish(0)  # one frame
            yield

    # Where the viewer is

    @property
    def current_frame(self) -> int:
        """The frame in view."""
        return self._position.frame(self.stack)

    def go_to(self, frame: int) -> None:
        """Show a frame."""
        self._position.go_to(self.stack, frame)

    def next_doubtful(self) -> bool:
        """Go to the next frame of little confidence; returns whether there is one."""
        found = self.records.next_doubtful(self.current_frame, self.object_ids)
        if found is None:
            self.noticed.emit("No frame is doubtful: every mask so far is one that the model is sure of.")
            return False
        frame, object_id = found
        self.go_to(frame)
        self.set_current_object(object_id)
        return True

    def _on_dims(self, _: Any = None) -> None:
        if not self._position.moving:
            self.passes.follow_no_more()
        self._rest_timer.start()
        self.state_changed.emit()

    def _come_to_view(self) -> None:
        """Go over to the plane in view, which is waited for otherwise, before something is done in it."""
        here = stack_of(self.image, self.stack.frame_axis, self._position.place())
        if here.picked == self.stack.picked:
            return
        if self.tracking or self._work.is_busy:
            raise UsageError(
                "Another plane of the image is being tracked or changed; do this when that is done."
            )
        self._change_stack(here)

    def _on_rest(self) -> None:
        """Look where the viewer came to rest: at another plane perhaps, and a frame to be prompted next."""
        if self._closed or self.tracking:
            return
        if self._work.is_busy:  # in the plane that is left
            self._rest_timer.start()
            return
        place = self._position.place()
        here = stack_of(self.image, self.stack.frame_axis, place)
        if here.picked != self.stack.picked:
            self._change_stack(here)
        elif self._shown_limits() != self._limits:
            self.read_prompts()
            self._open(MaskUse.FILL)
        elif self.model is not None:
            self._thread.warm(self.current_frame)

    def set_frame_axis(self, axis: int) -> None:
        """Follow another axis of the image."""
        if axis == self.stack.frame_axis:
            return
        if self.tracking:
            raise UsageError("The frame axis cannot be changed while tracking; press Stop first.")

        def change() -> None:
            self._change_stack(stack_of(self.image, axis, self._position.place()))
            leave_frame_axis(self.image, axis)

        self.when_settled(change)

    def _on_placed(self, _: Any = None) -> None:
        """Let our own layers follow the image, whose scale may be set only after the first clicks."""
        for layer in (self.labels, self.points, self.boxes):
            if layer is not None and METADATA_KEY in layer.metadata:
                place_on(layer, self.image)

    def _on_image_data(self, _: Any = None) -> None:
        """See the image's new pixels; where it has another shape, nothing here fits it any more."""
        if tuple(self.image.data.shape) == self._shape:
            self.passes.end(PassEnd(0, 0, 0.0, stopped=True))
            self.finish()
            self._open(MaskUse.FILL)
            return
        self.lost_prompts = True  # they are not of what the image shows now
        self._work.stop()
        self.asking.stop()
        try:
            self.close()
        finally:
            self.gone.emit()

    def _on_labels_data(self, _: Any = None) -> None:
        """Go on with the new labels, if they fit."""
        labels = self.labels
        assert labels is not None
        assert self.canvas is not None
        if self.canvas.has_the_same_in_another_array():  # of another type perhaps, which no step fits
            self._work.finish()
            self.drawing.forget_steps()
            self.changed.emit()
            return
        self.stop()
        self._work.stop()
        self.drawing.forget()
        self._on_settled()
        try:
            require_fit(labels, self.stack)
        except UsageError as error:
            self._drop_labels()
            self._tell(str(error))
        else:
            self._looking.do(self._look_for_objects(labels))
        self.changed.emit()

    def _on_limits(self, _: Any = None) -> None:
        self._rest_timer.start()

    def _shown_limits(self) -> tuple[float, float] | None:
        """Return what the image shows as black and white: the network is to see what the user sees."""
        # napari can choose them anew for every frame; then those that the video was opened with stay.
        return self._limits if getattr(self.image, "_keep_auto_contrast", False) else layer_limits(self.image)

    def _change_stack(self, stack: LayerStack) -> None:
        stack.opening()
        self.finish()
        self.leaving.emit()
        left, found = self.asking.said_in(self.stack), self.asking.said_in(stack)
        self.stack = stack
        self.drawing.change_stack(stack, left, found)
        self.prompts.change_stack(stack)
        self._open(MaskUse.FILL)
        self.arrived.emit()

    # The tracker

    def set_choice(self, choice: TrackerChoice) -> None:
        """Track with another model or other settings; what was tracked stays as it is."""
        if choice == self.choice and self._thread.has_tracker:
            return
        if self.tracking:
            raise UsageError("The model cannot be changed while tracking; press Stop first.")
        self.choice = choice
        self.when_settled(lambda: self._open_again(MaskUse.DRAW))

    def _open_again(self, how: MaskUse) -> None:
        """Make a tracker in place of the one there is; what the user just said is taken up before."""
        self.finish()
        self._open(how)

    def _open(self, how: MaskUse) -> None:
        """Make a tracker, and tell it all prompts; `how` is what becomes of the masks of prompted frames.

        Those that were tracked stay.
        """
        self._work.finish()
        self._told.clear()
        self._limits = layer_limits(self.image)
        self._thread.open(self.choice, self.stack.open)
        self.asking.begin_anew(how)
        self.state_changed.emit()

    def _start_thread(self) -> TrackerThread:
        thread = TrackerThread()
        thread.ready.connect(self._on_ready)
        thread.downloading.connect(self.downloading)
        thread.answered.connect(self._on_answered)
        thread.failed.connect(self._on_failed)
        thread.unanswered.connect(self._on_unanswered)
        return thread

    def _start_asking(self) -> Asking:
        asking = Asking(self.viewer, self.stack, self.drawing, self.objects, self._thread)
        asking.reading.connect(self._warn_of_units)
        asking.said.connect(self._on_said)
        asking.changed.connect(self.changed)
        asking.failed.connect(self.failed)
        return asking

    def _start_passes(self) -> Passes:
        passes = Passes(self.asking, self.drawing, self._thread, self.go_to, self._tell)
        passes.progressed.connect(self.progressed)
        passes.ended.connect(self._on_ended)
        return passes

    @property
    def model(self) -> Model | None:
        """What is tracked with; None while there is none."""
        return self._thread.model

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded, or downloaded."""
        return self._thread.loading

    def _on_ready(self, model: Model) -> None:
        self.loaded.emit(model)
        self._rest_timer.start()
        self.state_changed.emit()

    def _on_failed(self, error: Exception) -> None:
        self._tell(sentence(error))
        self.state_changed.emit()

    def _tell(self, message: str) -> None:
        """Tell the user something, once for each thing that the user does."""
        if message not in self._told:
            self._told.add(message)
            self.failed.emit(message)

    @property
    def is_busy(self) -> bool:
        """Whether anything is still under way."""
        working = self._work.is_busy or self._looking.is_busy
        return self.asking.is_due or working or self._thread.is_busy

    @property
    def is_changing_frames(self) -> bool:
        """Whether frames are being changed one after the other, by undoing or removing."""
        return self._work.is_busy

    def wait(self, timeout: float = 600.0) -> None:
        """Wait until nothing is under way any more, while the window stays alive; for scripts.

        Raises
        ------
        TimeoutError
            If that takes longer than `timeout` seconds.
        """
        until = time.monotonic() + timeout
        while self.is_busy or self.tracking:
            QApplication.processEvents()
            time.sleep(0.002)
            if time.monotonic() > until:
                raise TimeoutError(f"It is not done after {timeout:g} seconds.")
        QApplication.processEvents()

    def close(self) -> None:
        """Let go of everything but the layers; the session is not to be used after that."""
        if self._closed:
            return
        self._looking.stop()
        try:
            self.finish()
        finally:
            self._work.stop()
            self._close()

    def _close(self) -> None:
        leave_layers(self.image, self.points, self.boxes, self.labels)
        if self.labels is not None:
            leave(self.labels, self.objects, self.drawing, self.prompts)
        self._closed = True
        self.passes.tracking = False
        self._thread.close()
        self._rest_timer.stop()
        with suppress(ValueError, TypeError, RuntimeError):
            self.viewer.layers.events.removed.disconnect(self._on_removed)
            self.viewer.dims.events.point.disconnect(self._on_dims)
            self.image.events.contrast_limits.disconnect(self._on_limits)
            self.image.events.data.disconnect(self._on_image_data)
            for name in _PLACES:
                getattr(self.image.events, name).disconnect(self._on_placed)
        self.asking.close()
        self._drop_labels()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread of a closed session to end."""
        self._thread.join(timeout)

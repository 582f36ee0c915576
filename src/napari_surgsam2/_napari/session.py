"""A video being segmented in a viewer: its layers, its tracker, and what has come out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QApplication

from napari_surgsam2.errors import PromptError, SurgSam2Error, UsageError
from napari_surgsam2.prompts import Prompt
from napari_surgsam2.video.layers import METADATA_KEY, layer_limits

from .canvas import MaskCanvas, Stroke, ids_in, largest_id_in, make_labels, require_fit
from .drawing import Drawing
from .given import MaskGiver, says_where
from .history import History, Step
from .leftovers import Left, leave, take_up
from .others import clicks_on_others, others_to_ask
from .position import Position
from .prompt_layers import ClickMode, let_next_box_be_of, paint_points, place_on
from .prompts import GivenMask, Key, PromptLayers, PromptState, said_of_change
from .records import Records
from .slices import SlicedWork
from .stacks import LayerStack, stack_of
from .timers import single_shot
from .worker import MaskUse, PassEnd, PassFrame, PromptAnswer, TrackerChoice, TrackerThread, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Points, Shapes

    from napari_surgsam2.checkpoints import Model
    from napari_surgsam2.tracking import Direction

_PLACES = ("scale", "translate", "rotate", "shear", "affine")  # events of a layer
_FOLLOW_EVERY = 0.25  # seconds between two moves of the slider while tracking
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
        The axis of the image that is followed; the likeliest if left out.
    points : napari.layers.Points, optional
        Where the clicks are; a new layer if left out.
    labels : napari.layers.Labels, optional
        Where the masks go; a new layer if left out. Labels in it are kept.
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
    leaving = Signal()  # another part of the image is to be segmented
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
        self.stack = stack_of(image, frame_axis, self._position.place())
        self.stack.require_video()  # before anything is made
        self.choice = choice
        self.model: Model | None = None
        self.names: dict[int, str] = {}
        self.positive = True
        self.follow = True
        self.drawing = Drawing(self.stack)
        self.tracking = False
        self.loading = False
        self.lost_prompts = False  # with their layer, and none were placed since
        self.replaces_lost = False  # what is said now is, or will be, in place of lost prompts that were kept
        self._current = 1
        self._ids: set[int] = {1}
        self._found: set[int] = set()  # in labels that were the user's
        self._tracked_ids: set[int] | None = None
        self._following = False
        self._moved_at = 0.0
        self._known: dict[Key, tuple[Prompt, ...]] = {}
        self._state = PromptState()  # that they were read from
        self._told: set[str] = set()  # since the user did something
        self._complaints: set[str] = set()  # of the prompts as they are
        self._warned_of_units = False
        self._limits: tuple[float, float] | None = None
        self._closed = False
        self._swapping = False  # some frames are as they were before a step, others not yet
        self._work = SlicedWork(self.changed.emit)  # on frames, one after the other
        self._looking = SlicedWork(self.changed.emit)
        self._sync_timer = single_shot(0, self._sync_guarded)
        self._rest_timer = single_shot(_REST, self._on_rest)
        self._clicks: ClickMode | None = None
        self.prompts = PromptLayers(viewer, self.stack, self._sync_timer.start)
        self._giver = MaskGiver(self.prompts, self.drawing)
        self.use_labels(labels)
        self._set_points(points)
        self._state = self.prompts.state()
        if labels is not None:
            self._take_up_left(labels)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.point.connect(self._on_dims)
        image.events.contrast_limits.connect(self._on_limits)
        image.events.data.connect(self._on_image_data)
        self._shape = tuple(image.data.shape)
        for name in _PLACES:
            getattr(image.events, name).connect(self._on_placed)
        self._thread = self._start_thread()
        self._open(MaskUse.FILL)
        self._complaints.clear()  # nobody has heard them yet
        self._sync_timer.start()

    # Layers

    def use_points(self, layer: Points | None = None) -> None:
        """Take clicks from another layer, or from a new one; those of the layer before count no more."""
        self._set_points(layer)
        self._start_again()

    def _set_points(self, layer: Points | None) -> None:
        made = self.prompts.use_points(layer)
        if self._clicks is not None:
            self._clicks.close()
        self._clicks = ClickMode(made, lambda: (self._current, self.positive))
        self.layers_chosen.emit()

    def _start_again(self) -> None:
        """Read prompts from other layers than before; masks stay, and what was done cannot be undone here."""
        self._work.finish()
        self.drawing.forget_steps()
        self._sync_guarded(MaskUse.FILL)

    def use_boxes(self, layer: Shapes | None) -> None:
        """Take boxes from another layer, or from none."""
        if layer is None:
            self.prompts.drop_boxes()
        else:
            self.prompts.use_boxes(layer)
            self._set_defaults()
        self._start_again()

    def use_labels(self, layer: Labels | None = None) -> None:
        """Draw masks into another layer, or into a new one.

        Raises
        ------
        UsageError
            If the layer does not fit the image, or cannot be written to.
        """
        if layer is None:
            layer = make_labels(self.viewer, self.stack)
        else:
            require_fit(layer, self.stack)
        self._work.finish()
        self._disconnect_labels()
        self.drawing.use(MaskCanvas(self.viewer, layer, self.stack, self._on_painted))
        layer.events.selected_label.connect(self._on_selected_label)
        layer.events.colormap.connect(self._restyle)
        layer.events.data.connect(self._on_labels_data)
        self.layers_chosen.emit()
        self._looking.do(self._look_for_objects(layer))

    def _look_for_objects(self, layer: Labels) -> Iterator[None]:
        for found in ids_in(layer):
            if layer is not self.labels:
                return
            new = found - self._found
            self._ids |= found
            self._found |= found
            self._tell_of_taken(new, layer)
            yield

    def _tell_of_taken(self, found: set[int], layer: Labels) -> None:
        """Say which of our objects have numbers that labels of the user's have already."""
        prompted = {i for _, i in self._known}
        if taken := sorted(found & prompted):
            numbers = ", ".join(map(str, taken))
            self.warned.emit(
                f"The labels '{layer.name}' hold object {numbers} already, which is prompted too: its masks "
                "take the place of those labels. To keep them, choose other labels under 'Masks in'."
            )
        elif self._current in found:
            old = self._current
            with suppress(UsageError):  # there is no larger number
                self.new_object()
                self.noticed.emit(
                    f"The labels '{layer.name}' hold object {old} already, so clicks are for object "
                    f"{self._current}. Choose object {old} in the table to go on with it."
                )

    def _drop_labels(self) -> None:
        self._disconnect_labels()
        self.drawing.drop_canvas()

    def _disconnect_labels(self) -> None:
        if self.labels is not None:
            with suppress(ValueError, TypeError, RuntimeError):
                self.labels.events.selected_label.disconnect(self._on_selected_label)
                self.labels.events.colormap.disconnect(self._restyle)
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
            self._set_defaults()
            self.layers_chosen.emit()
        assert self.boxes is not None
        self.viewer.layers.selection.active = self.boxes
        self.boxes.mode = "add_rectangle"

    def paint_mode(self) -> None:
        """Let the current object be painted."""
        labels = self._need_canvas().layer
        self.viewer.layers.selection.active = labels
        labels.selected_label = self._current
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
            if self._clicks is not None:
                self._clicks.close()
                self._clicks = None
            self.prompts.drop_points()
            self._forget_prompts()
        elif layer is self.boxes:
            self.prompts.drop_boxes()
            self._forget_prompts()

    def _forget_prompts(self) -> None:
        """Take back the prompts of a layer that is gone; the masks stay."""
        self.drawing.forget_steps()
        self.lost_prompts = self.replaces_lost = True
        self._sync_guarded(MaskUse.LEAVE)

    # Objects

    @property
    def object_ids(self) -> tuple[int, ...]:
        """All objects, ascending."""
        return tuple(sorted(self._ids))

    @property
    def current_object(self) -> int:
        """The object that the next prompt is for."""
        return self._current

    def set_current_object(self, object_id: int) -> None:
        """Choose the object that the next prompts are for; one that is not there yet is new."""
        if object_id < 1 or object_id == self._current:
            return
        canvas = self.canvas
        if canvas is not None and object_id > canvas.largest_id:
            raise UsageError(
                f"The object's number is {object_id}; the labels '{canvas.layer.name}' hold numbers up to "
                f"{canvas.largest_id}. Take a smaller number, or labels of a wider type."
            )
        if self._is_empty(self._current):  # the labels' spin box goes through many numbers
            self._ids.discard(self._current)
        self._ids.add(object_id)
        self._current = object_id
        self._set_defaults()
        if canvas is not None and canvas.layer.selected_label != object_id:
            canvas.layer.selected_label = object_id
        self.changed.emit()

    def new_object(self) -> int:
        """Begin a new object, the current one from now on; an empty one is used first."""
        used = self._used_ids() | self._labelled_ids()
        if self._looking.is_busy and self.labels is not None:
            used.add(largest_id_in(self.labels))  # far faster than to look for each
        unused = (i for i in sorted(self._ids) if i not in used and i not in self.names)
        free = None if self._looking.is_busy else next(unused, None)
        object_id = max(self._ids | used | self.names.keys(), default=0) + 1 if free is None else free
        self.set_current_object(object_id)
        return object_id

    def _is_empty(self, object_id: int) -> bool:
        """Whether an object has neither prompts nor masks nor a name, in any plane."""
        if object_id in self.names or object_id in self._used_ids():
            return False
        return self.canvas is None or not (self.canvas.frame(self.current_frame) == object_id).any()

    def _used_ids(self) -> set[int]:
        """Return the numbers of prompts and masks, as far as they are known without looking at labels."""
        used = self._found | {i for _, i in self._known}
        used |= {*self._state.points.object_ids, *self._state.boxes.object_ids}
        for masks in self.prompts.masks_by_plane.values():
            used |= {i for _, i in masks}
        for records in self.drawing.records_by_plane.values():
            used |= set(records.noted_ids)
        for edited in self.drawing.edited_by_plane.values():
            used |= {i for _, i in edited}
        return used

    def name_object(self, object_id: int, name: str) -> None:
        """Give an object a name; an empty one takes it away."""
        if name.strip():
            self.names[object_id] = name.strip()
        else:
            self.names.pop(object_id, None)
        self.changed.emit()

    def remove_object(self, object_id: int) -> None:
        """Take an object's prompts and masks away; this can be undone."""
        if self.tracking:
            raise UsageError("Objects cannot be removed while tracking; press Stop first.")
        self._need_canvas()
        self._looking.finish()
        self._work.do(self._remove(object_id))

    def _remove(self, object_id: int) -> Iterator[None]:
        self.read_prompts()
        if object_id not in self._ids:
            return
        step = self.history.begin(f"removing object {object_id}", self._state, self._state)
        prompted = self.prompted_frames(object_id)
        self.prompts.drop(lambda _frame, i: i == object_id)
        self._sync_timer.stop()
        self._sync_guarded(MaskUse.LEAVE, beside=False)  # what its clicks took from others is not theirs now
        step.after = self._state
        self._take_off_tracker(object_id)
        self._ids.discard(object_id)
        if not self._ids:
            self._ids.add(1)
        if self._current == object_id:
            self.set_current_object(min(self._ids))
        try:
            yield from self._halfway(self.drawing.erase(object_id, prompted, step))
        except Exception as error:
            self._tell(
                f"Object {object_id} is removed only in part, since masks cannot be written: "
                f"{sentence(error)} Undo brings it back."
            )

    def _take_off_tracker(self, object_id: int) -> None:
        self._thread.remove_object(object_id)
        self.drawing.on_tracker = {key for key in self.drawing.on_tracker if key[1] != object_id}

    def _halfway(self, frames: Iterable[object]) -> Iterator[None]:
        """Go through frames that are changed one after the other; prompts are read when all are."""
        self._swapping = True
        try:
            for _ in frames:
                yield
        finally:
            self._swapping = False
            self._sync_timer.start()  # for what the user did meanwhile

    def clear_frame(self, frame: int | None = None) -> None:
        """Take back all prompts of the current object on a frame, the one in view if left out.

        What was painted over their mask goes with it.
        """
        cleared = (self.current_frame if frame is None else frame), self._current
        self.read_prompts()
        self.prompts.drop(lambda f, i: (f, i) == cleared)
        self._sync_timer.stop()
        self._sync_guarded(cleared=cleared)

    def prompted_frames(self, object_id: int) -> list[int]:
        """Return the frames that an object is prompted on, ascending."""
        return sorted(frame for frame, i in self._known if i == object_id)

    def prompt_count(self, object_id: int) -> int:
        """Return how many prompts an object has."""
        return sum(len(prompts) for (_, i), prompts in self._known.items() if i == object_id)

    @property
    def has_prompts(self) -> bool:
        """Whether anything was said of an object."""
        return bool(self._known)

    @property
    def all_prompts(self) -> list[Prompt]:
        """All prompts in the stack, by frame and object; a mask first among those of its frame."""
        return [p for key in sorted(self._known) for p in self._known[key]]

    def color(self, object_id: int) -> npt.NDArray[np.float32]:
        """Return an object's colour, (4,) from 0 to 1."""
        found = None if self.canvas is None else self.canvas.layer.get_color(object_id)
        if found is None:
            return np.ones(4, dtype=np.float32)
        return np.asarray(found, dtype=np.float32)

    def _labelled_ids(self) -> set[int]:
        """Return the ids in the frame in view."""
        if self.canvas is None:
            return set()
        return set(np.unique(self.canvas.frame(self.current_frame)).tolist()) - {0}

    # Prompts

    def set_positive(self, positive: bool) -> None:
        """Choose what left clicks mean from now on."""
        self.positive = positive
        self._set_defaults()
        self.state_changed.emit()

    def flip_selected(self) -> None:
        """Turn the selected points from positive to negative, and the other way."""
        layer = self.points
        if layer is None or not layer.selected_data:
            return
        state = self.prompts.state().points
        rows = list(layer.selected_data)
        features = layer.features.copy()
        labels = list(features["label"]) if "label" in features else [1] * len(state.labels)
        features["label"] = [1 - state.labels[n] if n in rows else label for n, label in enumerate(labels)]
        layer.features = features
        self._sync_timer.start()

    def add_prompts(self, prompts: Iterable[Prompt]) -> None:
        """Add prompts as if the user had placed them; for scripts."""
        wanted = list(prompts)
        self._ids |= {p.object_id for p in wanted if self._has_room_for(p.object_id)}
        self.prompts.add(wanted)
        self._sync_timer.start()

    def use_painted(self, frame: int | None = None, object_id: int | None = None) -> None:
        """Take an object's mask in a frame, as it is painted, as a prompt.

        An empty mask says that the object is not there.
        """
        self._need_canvas()
        at = self.current_frame if frame is None else frame
        self._giver.give([(at, self._current if object_id is None else object_id)])
        self._sync_timer.start()

    def _on_painted(self, strokes: Sequence[Stroke]) -> None:
        # A label that was only painted over becomes no object to be tracked by that.
        self._ids |= self.drawing.note_painted(strokes, self._tracked_or_prompted(), self._state)
        self.state_changed.emit()  # it can be undone
        self.changed.emit()

    def _tracked_or_prompted(self) -> set[int]:
        known = {i for _, i in self._known}
        return known | {i for i in self.records.object_ids if not np.isnan(self.records[i].mean_confidence)}

    def _set_defaults(self) -> None:
        if self._clicks is not None:
            self._clicks.apply()
        if self.boxes is not None:
            let_next_box_be_of(self.boxes, self._current)

    def _on_selected_label(self, event: Any = None) -> None:
        if self.canvas is not None:
            with suppress(UsageError):
                self.set_current_object(int(self.canvas.layer.selected_label))

    def finish(self) -> None:
        """Do now what is under way in the layers, and take up what was changed in the prompts."""
        self._work.finish()
        self.read_prompts()

    def read_prompts(self) -> None:
        """Take up what was changed in the prompts now, rather than when the window has had its turn."""
        if self._sync_timer.isActive():
            self._sync_timer.stop()
            self._sync_guarded()

    def _sync_guarded(
        self, how: MaskUse | None = None, cleared: Key | None = None, beside: bool = True
    ) -> None:
        try:
            self._sync(how, cleared, beside)
        except SurgSam2Error as error:
            self._complain([str(error)])

    def _sync(self, how: MaskUse | None = None, cleared: Key | None = None, beside: bool = True) -> None:
        """Find out what changed in the prompts, and have the masks of those frames made anew.

        It is a step that can be undone, unless `how` says that it is none of the user's, and what becomes of
        the masks; those that were tracked stay then. In any case a step that still waits for its masks gets
        them. Where it is `cleared`, not even what was painted stays. Masks of others `beside` what was
        clicked are made anew as well.
        """
        if self._closed or self._swapping:
            return
        is_users = how is None
        if is_users:
            self._warn_of_units()
        state = self.prompts.state()
        wanted = self.prompts.read(state)
        if is_users and self._giver.begin_with_what_is_there(wanted, self._known, cleared):
            state = self.prompts.state()
            wanted = self.prompts.read(state)
        self._leave_out_too_large(wanted)
        self._complain([f"{problem} It is not used." for problem in self.prompts.problems])
        differ = sorted(k for k in wanted.keys() | self._known.keys() if wanted.get(k) != self._known.get(k))
        if differ:
            self._ids |= {i for _, i in wanted}
            others = others_to_ask(differ, wanted, self._known, self.drawing, is_users) if beside else []
            if is_users:
                self.lost_prompts = False
                self._told.clear()
                what = said_of_change(differ, wanted, self._known)
                self.drawing.begin(what, self._state, state, [*differ, *others])
            for key in others:  # first, so that the new masks get what these let go
                self._ask(key, wanted, MaskUse.DRAW if is_users else MaskUse.LEAVE)
            for key in differ:
                stays = how == MaskUse.DRAW and self.records.was_tracked(key[1], key[0])
                self._ask(key, wanted, MaskUse.FILL if stays else how or MaskUse.DRAW)
        self._known, self._state = wanted, state
        if self.points is not None and len(state.points.data):
            paint_points(self.points, state.points, self.color)
        self._set_defaults()
        self.changed.emit()

    def _warn_of_units(self) -> None:
        if self._position.is_in_other_units and not self._warned_of_units:
            self._warned_of_units = True
            self.warned.emit(
                f"Another layer has smaller units than '{self.image.name}', so that the viewer shows both in "
                "those; napari does not convert clicks and strokes, which land in wrong places. Give all "
                "layers the same units."
            )

    def _has_room_for(self, object_id: int) -> bool:
        return self.canvas is None or object_id <= self.canvas.largest_id

    def _leave_out_too_large(self, wanted: dict[Key, tuple[Prompt, ...]]) -> None:
        for object_id in sorted({i for _, i in wanted if not self._has_room_for(i)}):
            assert self.canvas is not None
            self.prompts.problems.append(
                f"There is a prompt of object {object_id}, and the labels '{self.canvas.layer.name}' hold "
                f"numbers up to {self.canvas.largest_id}; take a smaller one, or labels of a wider type."
            )
        for key in [key for key in wanted if not self._has_room_for(key[1])]:
            del wanted[key]

    def _ask(self, key: Key, wanted: Mapping[Key, tuple[Prompt, ...]], how: MaskUse) -> None:
        if self.model is not None or self.loading:
            step = self.drawing.waiting_step(key)
            how = how if step is None else MaskUse.DRAW
            self._thread.set_prompts(*key, wanted.get(key, ()), how, step, clicks_on_others(key, wanted))

    def _restyle(self, _: Any = None) -> None:
        if self.points is not None and len(self._state.points.data) == len(self.points.data):
            paint_points(self.points, self._state.points, self.color)
        self.changed.emit()

    def _on_answered(self, answered: PromptAnswer) -> None:
        if self.drawing.wants(answered):
            self._need_canvas()
            try:
                self.drawing.draw_prompted(answered, self._state)
            except Exception as error:
                self._tell(f"Masks cannot be written: {sentence(error)}")
            self.changed.emit()

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
            If it is tracking already, or there is no model.
        PromptError
            If there is nothing to track.
        """
        if self.tracking:
            raise UsageError("It is tracking already; press Stop first.")
        if self.model is None and not self.loading:
            raise UsageError("There is no model to track with; choose one that can be loaded.")
        self._told.clear()
        self._work.finish()
        self._need_canvas()
        self._giver.give_painted()
        self._sync()
        asked = {i for _, i in self._known if objects is None or i in objects}
        positive = {i for (_, i), prompts in self._known.items() if any(map(says_where, prompts))}
        if not asked & positive:
            which = "any object" if objects is None else " or ".join(f"object {i}" for i in objects)
            raise PromptError(
                f"There is nothing to track: no positive click, box or mask on {which}. Click on it first."
            )
        self.tracking = True
        self._tracked_ids = None if objects is None else set(objects)
        self.drawing.begin_pass(self._state)
        self._following, self._moved_at = self.follow, 0.0
        self._thread.track(direction, start, frames, None if objects is None else sorted(asked))
        self.state_changed.emit()

    def stop(self) -> None:
        """Stop tracking, or a download, after the frame under way; what is done stays."""
        if self.tracking or self.loading:
            self._thread.stop()

    def _on_tracked(self, tracked: PassFrame) -> None:
        if not self.tracking or self.canvas is None:
            return
        frame = tracked.answer.frame
        try:
            self.drawing.draw_tracked(tracked.answer, self._tracked_ids)
        except Exception as error:  # a full disk, or whatever an array of the user's raises
            self.stop()
            self._tell(f"Masks cannot be written: {sentence(error)}")
            return
        if self._following and time.monotonic() - self._moved_at > _FOLLOW_EVERY:
            self.go_to(frame)
            self._moved_at = time.monotonic()
        self.progressed.emit(tracked)

    def _on_ended(self, end: PassEnd) -> None:
        if not self.tracking:
            return
        self.tracking = False
        self.drawing.end_pass()
        if end.error is not None:
            kept = f" {end.done} frames are done and kept." if end.done else ""
            self._tell(f"{sentence(end.error)}{kept}")
        self._rest_timer.start()  # the viewer may have gone to another plane meanwhile
        self.ended.emit(end)
        self.state_changed.emit()
        self.changed.emit()

    # Undo

    def undo(self) -> None:
        """Take the newest step back: prompts, and the masks that they changed."""
        self._swap("Undo", self.drawing.undo, lambda step: step.before)

    def redo(self) -> None:
        """Do the step that was undone last once more."""
        self._swap("Redo", self.history.redo, lambda step: step.after)

    def _swap(
        self, what: str, move: Callable[[], Step | None], prompts_of: Callable[[Step], PromptState]
    ) -> None:
        if self.tracking:
            self.noticed.emit("Undo and redo wait until tracking has stopped.")
        else:
            self._told.clear()
            self._looking.finish()
            self._work.do(self._take_step(what, move, prompts_of, self._work.is_busy))

    def _take_step(
        self,
        what: str,
        move: Callable[[], Step | None],
        prompts_of: Callable[[Step], PromptState],
        waited: bool,
    ) -> Iterator[None]:
        """Take the step that `move` gives back, or do it once more: its prompts, then frame by frame."""
        known = self._known
        self.read_prompts()
        if waited and self._known != known:
            return  # what was said since is not what is to be taken back
        step = move()
        if step is None:
            return
        said, given, objects = self._state, self.prompts.masks, {i for _, i in self._known}
        if step.before is not step.after:
            self._restore_prompts(prompts_of(step))
        restored = self._state
        try:
            yield from self._halfway(self._swap_frames(step, given, objects))
        except Exception as error:  # a full disk, or whatever an array of the user's raises
            self.history.move_back(step)
            if self.prompts.state() == restored:  # else the user said more meanwhile, which stays
                self._restore_prompts(said)
            self._tell_of_failed(what, step, error)

    def _restore_prompts(self, state: PromptState) -> None:
        self.prompts.restore(state)
        self._sync_timer.stop()
        self._sync_guarded(MaskUse.LEAVE)

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

    def _swap_frames(self, step: Step, given: Mapping[Key, GivenMask], objects: set[int]) -> Iterator[None]:
        """Swap the frames of a step one by one; `given` and `objects` are what was prompted before it."""
        canvas = self.canvas
        if canvas is not None:  # else no mask has come yet
            for objects_there in self.drawing.swap(step):
                self._ids |= objects_there
                yield
            for object_id, frames in self.drawing.no_longer_tracked(step).items():
                self._thread.forget(object_id, frames)
            for key, old in given.items():  # one that had been painted is as it was before it was given
                painted = canvas.frame(key[0]) == key[1]
                if key not in self.prompts.masks and np.array_equal(painted, old.mask.mask):
                    self.drawing.edited.add(key)
        for i in objects - {i for _, i in self._known}:
            self._take_off_tracker(i)
            if i != self._current and not self.records[i].present.any():
                self._ids.discard(i)

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
            self._following = False
        self._rest_timer.start()
        self.state_changed.emit()

    def _on_rest(self) -> None:
        """Look where the viewer came to rest: at another plane perhaps, and a frame to be prompted next."""
        if self._closed or self.tracking:
            return
        place = self._position.place()
        here = stack_of(self.image, self.stack.frame_axis, place)
        if here.picked != self.stack.picked:
            self._change_stack(here)
        elif self._shown_limits() != self._limits:
            self._open(MaskUse.FILL)
        elif self.model is not None:
            self._thread.warm(self.current_frame)

    def set_frame_axis(self, axis: int) -> None:
        """Follow another axis of the image."""
        if axis == self.stack.frame_axis:
            return
        if self.tracking:
            raise UsageError("The frame axis cannot be changed while tracking; press Stop first.")
        place = self._position.place()
        self._change_stack(stack_of(self.image, axis, place))

    def _on_placed(self, _: Any = None) -> None:
        """Let our own layers follow the image, whose scale may be set only after the first clicks."""
        for layer in (self.labels, self.points, self.boxes):
            if layer is not None and METADATA_KEY in layer.metadata:
                place_on(layer, self.image)

    def _on_image_data(self, _: Any = None) -> None:
        """See the image's new pixels; where it has another shape, nothing here fits it any more."""
        if tuple(self.image.data.shape) == self._shape:
            if self.tracking:
                self._on_ended(PassEnd(0, 0, 0.0, stopped=True))
            self._open(MaskUse.FILL)
            return
        self.lost_prompts = True  # they are not of what the image shows now
        self._work.stop()
        self._sync_timer.stop()
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
        self.stack = stack
        self.drawing.change_stack(stack, self._state)
        self.prompts.change_stack(stack)
        self._open(MaskUse.FILL)
        self.arrived.emit()

    # The tracker

    def set_choice(self, choice: TrackerChoice) -> None:
        """Track with another model or other settings; what was tracked stays as it is."""
        if choice == self.choice and (self.model is not None or self.loading):
            return
        if self.tracking:
            raise UsageError("The model cannot be changed while tracking; press Stop first.")
        self.choice = choice
        self._work.finish()
        self._open(MaskUse.DRAW)

    def _open(self, how: MaskUse) -> None:
        """Make a tracker, and tell it all prompts; `how` is what becomes of the masks of prompted frames.

        Those that were tracked stay.
        """
        self._work.finish()
        self.model, self.loading = None, True
        self._told.clear()
        self._known = {}
        self.drawing.on_tracker.clear()
        self._limits = layer_limits(self.image)
        self._thread.open(self.choice, self.stack.open)
        self._sync_guarded(how)
        self.state_changed.emit()

    def _start_thread(self) -> TrackerThread:
        thread = TrackerThread()
        thread.ready.connect(self._on_ready)
        thread.downloading.connect(self.downloading)
        thread.answered.connect(self._on_answered)
        thread.tracked.connect(self._on_tracked)
        thread.ended.connect(self._on_ended)
        thread.failed.connect(self._on_failed)
        thread.unanswered.connect(self._on_unanswered)
        return thread

    def _on_ready(self, model: Model) -> None:
        self.model, self.loading = model, False
        self.loaded.emit(model)
        self._rest_timer.start()
        self.state_changed.emit()

    def _on_failed(self, error: Exception) -> None:
        self.loading = False
        self._tell(sentence(error))
        self.state_changed.emit()

    def _on_unanswered(self, frame: int, object_id: int, step: int | None) -> None:
        self.drawing.wait_no_more((frame, object_id), step)

    def _tell(self, message: str) -> None:
        """Tell the user something, once for each thing that the user does."""
        if message not in self._told:
            self._told.add(message)
            self.failed.emit(message)

    def _complain(self, problems: Sequence[str]) -> None:
        """Tell what is wrong with the prompts, once for as long as it stays so."""
        new = [problem for problem in problems if problem not in self._complaints]
        self._complaints = set(problems)
        if new:
            more = f" {len(new) - 1} more cannot be used either." if len(new) > 1 else ""
            self.failed.emit(new[0] + more)

    @property
    def is_busy(self) -> bool:
        """Whether anything is still under way."""
        working = self._work.is_busy or self._looking.is_busy
        return self._sync_timer.isActive() or working or self._thread.is_busy

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
        self._leave()
        self._closed = True
        self.tracking = False
        self._thread.close()
        for timer in (self._sync_timer, self._rest_timer):
            timer.stop()
        with suppress(ValueError, TypeError, RuntimeError):
            self.viewer.layers.events.removed.disconnect(self._on_removed)
            self.viewer.dims.events.point.disconnect(self._on_dims)
            self.image.events.contrast_limits.disconnect(self._on_limits)
            self.image.events.data.disconnect(self._on_image_data)
            for name in _PLACES:
                getattr(self.image.events, name).disconnect(self._on_placed)
        if self._clicks is not None:
            self._clicks.close()
        self.prompts.drop_points()
        self.prompts.drop_boxes()
        self._drop_labels()

    def _leave(self) -> None:
        """Leave what no layer holds with our own labels, for the next session on the same video."""
        if self.labels is not None:
            drawing = self.drawing
            left = Left(
                self.names, drawing.records_by_plane, drawing.edited_by_plane, self.prompts.masks_by_plane
            )
            leave(self.labels, left)

    def _take_up_left(self, labels: Labels) -> None:
        left = take_up(labels)
        if left is None:
            return
        self.names.update(left.names)
        shape = self.stack.layer_shape
        lengths = {plane: 1 if plane[0] is None else shape[plane[0]] for plane in left.records}
        if all(records.n_frames == lengths[plane] for plane, records in left.records.items()):
            self.prompts.masks_by_plane = left.masks
            self.drawing.take_up(left.records, left.edited)
            for records in left.records.values():
                self._ids |= {i for i in records.object_ids if records[i].present.any()}

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread of a closed session to end."""
        self._thread.join(timeout)

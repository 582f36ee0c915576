"""The dock widget: from opening a video to a saved mask."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils import progress as activity
from napari.utils.key_bindings import coerce_keybinding
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_surgsam2.errors import SurgSam2Error, UsageError
from napari_surgsam2.prompts import Prompt

from . import autosaves, choosing, saving
from .controls import Controls
from .doubt import said_of_doubt
from .keeping import Keeper
from .object_table import ObjectRow
from .position import Position
from .reader import get_reader
from .review import Review
from .session import Session
from .stacks import axis_name, frame_axes
from .timers import single_shot
from .worker import PassEnd, PassFrame

if TYPE_CHECKING:
    import napari
    from napari.layers import Image, Labels, Points, Shapes
    from qtpy.QtGui import QCloseEvent

    from napari_surgsam2.project import Project
    from napari_surgsam2.tracking import Direction

_REFRESH = 150  # milliseconds between two updates of the table and the timeline
_NEW = "a new layer"
_NONE = "no layer"
_NO_VIDEO = "There is no video; open one, or choose an image layer."


class SurgSam2Widget(QWidget):
    """Segments a video by clicks.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer it belongs to.

    Attributes
    ----------
    controls : Controls
        Everything that a user can press, so that scripts and tests can press it too.
    session : Session or None
        The video being segmented, which does the work; None while there is none.
    keeper : Keeper
        What saves and opens.
    review : Review
        The timeline.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari hands plugins a wrapper, whose layers are not the layers themselves.
        self.viewer = getattr(viewer, "__wrapped__", viewer)
        self.session: Session | None = None
        self.controls = Controls()
        self.keeper = Keeper(self, lambda: self.session, self._tell)
        self.review = Review(self.viewer, lambda frame: self._do(lambda s: s.go_to(frame)))
        self._activity: Any = None
        self._pace = _Pace()
        self._choosing = False  # while true, what the combos say is not the user's doing
        self._refused: Image | None = None  # one that is no video, which has been said
        self._closed = False
        self._problem = ""
        self._earlier: Project | None = None  # what is offered of an earlier session
        self._bound: dict[str, Callable[[Any], None]] = {}
        self._refresh_timer = single_shot(_REFRESH, self._refresh)
        self._choose_timer = single_shot(0, self._choose_video)
        self._left_timer = single_shot(0, self._shut_down_if_left)
        self._end_with_window()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.controls)
        self._connect()
        self._bind_keys()
        self._choose_video()

    def _connect(self) -> None:
        c = self.controls
        c.axis_row.visible = c.restore.visible = False
        c.video.choices = self._images
        c.frame_axis.choices = self._axes
        c.clicks_in.choices = self._points_layers
        c.boxes_in.choices = self._shapes_layers
        c.masks_in.choices = self._labels_layers
        c.video.changed.connect(self._on_video)
        c.frame_axis.changed.connect(self._on_frame_axis)
        c.clicks_in.changed.connect(self._on_clicks_in)
        c.boxes_in.changed.connect(self._on_boxes_in)
        c.masks_in.changed.connect(self._on_masks_in)
        c.models.changed.connect(self._on_model)
        c.models.failed.connect(self._tell)
        for signal in (c.models.downloaded, c.models.chosen_again):
            signal.connect(lambda *_: self._on_model())
        c.objects.current_changed.connect(lambda i: self._do(lambda s: s.set_current_object(i)))
        c.objects.renamed.connect(lambda i, name: self._do(lambda s: s.name_object(i, name)))
        c.objects.remove_asked.connect(lambda i: self._do(lambda s: s.remove_object(i)))
        for box in (c.follow, c.preserve, c.painted_counts):
            box.changed.connect(self._set_options)
        actions: dict[Any, Callable[[Session], object]] = {
            c.click: lambda s: s.click_mode(),
            c.box: lambda s: s.box_mode(),
            c.paint: lambda s: s.paint_mode(),
            c.polarity: lambda s: s.set_positive(not s.positive),
            c.new_object: _begin_object,
            c.use_painted: lambda s: s.use_painted(),
            c.clear_frame: lambda s: s.clear_frame(),
            c.undo: lambda s: s.undo(),
            c.redo: lambda s: s.redo(),
            c.track_all: lambda s: self._track(s, "both"),
            c.track_forward: lambda s: self._track(s, "forward"),
            c.track_backward: lambda s: self._track(s, "backward"),
            c.stop: lambda s: s.stop(),
            c.doubtful: lambda s: s.next_doubtful(),
            c.restore: self._restore,
        }
        for button, action in actions.items():
            button.changed.connect(lambda _=None, action=action: self._do(action))
        c.save_masks.changed.connect(lambda _=None: self.keeper.ask_masks())
        c.add_tracks.changed.connect(lambda _=None: self.keeper.add_tracks())
        c.save_measurements.changed.connect(lambda _=None: self.keeper.ask_measurements())
        c.save_project.changed.connect(lambda _=None: self.keeper.ask_save_project())
        c.open_project.changed.connect(lambda _=None: self._ask_project())
        for event in self._layer_events():
            event.connect(self._on_layers)

    def _layer_events(self) -> list[Any]:
        events = self.viewer.layers.events
        renamed = [events.renamed] if hasattr(events, "renamed") else []  # not in every napari
        return [events.inserted, events.removed, events.changed, *renamed]

    def _bind_keys(self) -> None:
        keys: dict[str, Callable[[Session], object]] = {
            "T": lambda s: s.set_positive(not s.positive),
            "Shift-T": lambda s: s.flip_selected(),
            "N": _begin_object,
            "C": lambda s: s.use_painted(),
            "J": lambda s: s.next_doubtful(),
            "Control-Z": lambda s: s.undo(),
            "Control-Shift-Z": lambda s: s.redo(),
        }
        # What is bound here comes before these, which may be shortcuts of the user's own making.
        naparis = {key for kind in type(self.viewer).__mro__ for key in getattr(kind, "class_keymap", ())}
        for key, action in keys.items():
            if coerce_keybinding(key) in naparis:
                continue

            def bound(_viewer: Any, action: Callable[[Session], object] = action) -> None:
                self._do(action)

            with suppress(ValueError):  # it is bound to something else already, which stays
                self.viewer.bind_key(key, bound, overwrite=False)
                self._bound[key] = bound

    # Layers and combos

    def _images(self, _: Any = None) -> list[Image]:
        return choosing.images(self.viewer)

    def _axes(self, _: Any = None) -> list[tuple[str, int]]:
        if self.session is None:
            return []
        image = self.session.image
        return [(axis_name(image, axis), axis) for axis in frame_axes(image)]

    def _points_layers(self, _: Any = None) -> list[tuple[str, Any]]:
        fitting = [] if self.session is None else choosing.points_for(self.viewer, self.session.image)
        return [*((layer.name, layer) for layer in fitting), (_NEW, None)]

    def _shapes_layers(self, _: Any = None) -> list[tuple[str, Any]]:
        fitting = [] if self.session is None else choosing.shapes_for(self.viewer, self.session.image)
        return [(_NONE, None), *((layer.name, layer) for layer in fitting)]

    def _labels_layers(self, _: Any = None) -> list[tuple[str, Any]]:
        fitting = [] if self.session is None else choosing.labels_for(self.viewer, self.session.image)
        return [*((layer.name, layer) for layer in fitting), (_NEW, None)]

    @contextmanager
    def _by_itself(self) -> Iterator[None]:
        """Do something meanwhile; what the combos come to say is not the user's doing."""
        before, self._choosing = self._choosing, True
        try:
            yield
        finally:
            self._choosing = before

    def _on_layers(self, _: Any = None) -> None:
        """Layers came, went or got another name or order."""
        self._offer_layers()
        if self.session is None and not self._closed:
            self._choose_timer.start()

    def _offer_layers(self) -> None:
        """Let the combos offer what layers there are."""
        c, session = self.controls, self.session
        with self._by_itself():
            combos = (c.video, c.clicks_in, c.boxes_in, c.masks_in)
            for combo in combos:
                combo.reset_choices()
            used: tuple[Any, ...] = (None,) * len(combos)
            if session is not None:
                used = (session.image, session.points, session.boxes, session.labels)
            for combo, layer in zip(combos, used, strict=True):
                if layer in combo.choices:
                    combo.value = layer

    def _on_clicks_in(self, layer: Points | None) -> None:
        if not self._choosing:
            self._do(lambda s: s.use_points(layer))
            self._offer_layers()

    def _on_boxes_in(self, layer: Shapes | None) -> None:
        if not self._choosing:
            self._do(lambda s: s.use_boxes(layer))
            self._offer_layers()

    def _on_masks_in(self, layer: Labels | None) -> None:
        if not self._choosing:
            self._do(lambda s: s.use_labels(layer))
            self._offer_layers()

    def _on_arrived(self) -> None:
        """Offer what there is for another part of the image."""
        self._offer_earlier()
        if self.session is not None and self.controls.frame_axis.value != self.session.stack.frame_axis:
            self._offer_axes()

    def _on_frame_axis(self, axis: int | None) -> None:
        if not self._choosing and axis is not None:
            self._do(lambda s: s.set_frame_axis(axis))
            self._offer_axes()
            self._refresh()

    def _offer_axes(self) -> None:
        session, c = self.session, self.controls
        if session is None:
            return
        with self._by_itself():
            c.frame_axis.reset_choices()
            if session.stack.frame_axis is not None:
                c.frame_axis.value = session.stack.frame_axis
        c.axis_row.visible = len(c.frame_axis.choices) > 1
        last = session.stack.n_frames - 1
        c.first.max = c.last.max = last
        c.first.value, c.last.value = 0, last

    # The video

    def _choose_video(self) -> None:
        """Begin with the image that is selected, or the only one there is."""
        if self.session is not None:
            return
        found, active = self._images(), self.viewer.layers.selection.active
        chosen = active if active in found else found[0] if len(found) == 1 else None
        with self._by_itself():
            self.controls.video.reset_choices()
            self.controls.video.value = chosen
        if chosen is not None and chosen is not self._refused:
            self.begin(chosen)
        else:
            self._show_state()

    def _on_video(self, image: Image | None) -> None:
        if not self._choosing and (self.session is None or image is not self.session.image):
            self.end()
            if image is not None:
                self.begin(image)

    def begin(self, image: Image, frame_axis: int | None = None) -> None:
        """Begin to segment an image; layers that an earlier session on it left are used again.

        Parameters
        ----------
        image : napari.layers.Image
            The video.
        frame_axis : int, optional
            The axis that is followed; if left out, what an earlier session on it was told, or else the
            likeliest.
        """
        self.end()
        try:
            choice = self.controls.models.value()
            points = choosing.earlier_points(self.viewer, image)
            boxes = choosing.earlier_boxes(self.viewer, image)
            labels = choosing.earlier_labels(self.viewer, image)
            with self._by_itself():
                session = Session(self.viewer, image, choice, frame_axis, points, labels)
        except SurgSam2Error as error:
            self._refused = image
            self._tell(str(error))
            return
        self.session, self._refused = session, None
        session.changed.connect(self._on_changed)
        session.state_changed.connect(self._show_state)
        session.loaded.connect(self._on_loaded)
        session.downloading.connect(self._on_downloading)
        session.progressed.connect(self._on_progressed)
        session.ended.connect(self._on_ended)
        session.failed.connect(self._tell)
        session.warned.connect(show_warning)
        session.noticed.connect(show_info)
        session.leaving.connect(self._keep_now)
        session.arrived.connect(self._on_arrived)
        session.gone.connect(self._on_gone)
        session.layers_chosen.connect(self._offer_layers)
        if boxes is not None:
            session.use_boxes(boxes)
        self.keeper.begin(session)
        self._set_options()
        self._problem = ""
        self._offer_layers()
        self._offer_axes()
        self._offer_earlier()
        session.click_mode()
        self._refresh()

    def end(self) -> None:
        """End the session; its layers stay."""
        if self.session is None:
            return
        session = self.session
        try:
            session.finish()
            self.keeper.flush()
        finally:
            self.keeper.leave(session)
            self.session = None
            session.close()
        self._end_activity()
        self.review.clear()
        c = self.controls
        c.objects.set_rows([])
        c.bar.hide()
        c.pace.setText("")
        c.axis_row.visible = c.restore.visible = False
        self._offer_layers()
        self._show_state()

    def _on_gone(self) -> None:
        self.end()
        self._choose_timer.start()

    def _on_model(self) -> None:
        try:
            choice = self.controls.models.value()
        except UsageError:
            return  # the panel says what is wrong
        if self.session is not None:
            self._do(lambda s: s.set_choice(choice))
        elif self._refused is not None:  # perhaps because of what was chosen before
            self._refused = None
            self._choose_timer.start()

    def _on_loaded(self, _: Any) -> None:
        """Show what is known only now that torch is there, and that a model may have been downloaded."""
        from napari_surgsam2.checkpoints import available_devices

        self.controls.models.set_devices(available_devices())
        self.controls.models.refresh()
        self.review.prepare()

    def _on_downloading(self, done: int, total: int | None) -> None:
        mega = 1_000_000
        whole = "" if total is None else f" of {total / mega:.0f}"
        self.controls.status.setText(f"Downloading the model: {done / mega:.0f}{whole} MB. Stop cancels it.")

    # Doing things

    def _do(self, action: Callable[[Session], object]) -> None:
        """Do something with the session; what goes wrong is told."""
        self._problem = ""
        if self.session is None:
            self._tell(_NO_VIDEO)
            return
        try:
            action(self.session)
        except SurgSam2Error as error:
            self._tell(str(error))
        self._show_state()

    def _set_options(self, _: Any = None) -> None:
        if self.session is not None:
            self.session.passes.follow = self.controls.follow.value
            self.session.drawing.preserve = self.controls.preserve.value
            self.session.drawing.painted_counts = self.controls.painted_counts.value

    def _track(self, session: Session, direction: Direction) -> None:
        c = self.controls
        start = None if direction == "both" else session.current_frame
        frames = (c.first.value, c.last.value + 1) if c.use_range.value else None
        if frames is not None and not frames[0] < frames[1]:
            raise UsageError(
                f"The frames are {frames[0]} to {frames[1] - 1}; the first must not be after the last."
            )
        if frames is not None and start is not None and not frames[0] <= start < frames[1]:
            raise UsageError(
                f"Frame {start}, which is in view, is not among frames {frames[0]} to {frames[1] - 1}; go to "
                "one of them, or untick 'Only frames'."
            )
        objects = c.objects.selected_objects() if c.only_selected.value else None
        if objects is not None and not objects:
            raise UsageError(
                "No object is selected in the table; select some, or untick 'Only selected objects'."
            )
        session.track(direction, start, frames, objects)
        self.review.reopen()
        c.bar.setRange(0, 0)
        c.bar.show()
        c.pace.setText("")
        self._pace = _Pace()
        self._activity = activity(total=session.stack.n_frames, desc=f"Tracking {session.image.name}")

    def _on_progressed(self, frame: PassFrame) -> None:
        c = self.controls
        c.bar.setRange(0, max(1, frame.total))
        c.bar.setValue(frame.done)
        c.pace.setText(self._pace.said(frame.done, frame.total))
        if self._activity is not None:
            self._activity.total = frame.total
            self._activity.update(frame.done - self._activity.n)
        self._refresh_soon()  # prompts have not changed, and are kept once those before are

    def _on_ended(self, end: PassEnd) -> None:
        self.controls.bar.hide()
        self._end_activity()
        how = "Stopped" if end.stopped else "Failed" if end.error is not None else "Done"
        rate = f", {end.done / end.seconds:.1f} frames/s" if end.done and end.seconds else ""
        self.controls.pace.setText(f"{how}: {end.done} of {end.total} frames{rate}")
        self._refresh()

    def _end_activity(self) -> None:
        if self._activity is not None:
            self._activity.close()
            self._activity = None

    def _tell(self, message: str) -> None:
        """Tell the user once, in napari's way, and leave it in the dock until something is done."""
        self._problem = message
        if not self._closed:
            self.controls.status.setText(message)
        show_error(message)

    # Showing

    def _on_changed(self) -> None:
        self._refresh_soon()
        self.keeper.autosave_soon()

    def _refresh_soon(self) -> None:
        if not self._refresh_timer.isActive():
            self._refresh_timer.start()

    def _show_state(self) -> None:
        """Enable what can be done, and say how things stand."""
        c, session = self.controls, self.session
        tracking = session is not None and session.tracking
        usable = session is not None and not tracking
        for control in (
            c.track_all,
            c.track_forward,
            c.track_backward,
            c.frame_axis,
            c.clicks_in,
            c.boxes_in,
            c.masks_in,
        ):
            control.enabled = usable
        for control in (
            c.click, c.box, c.paint, c.polarity, c.new_object, c.use_painted, c.clear_frame, c.doubtful,
            c.save_masks, c.save_measurements, c.add_tracks, c.save_project,
        ):  # fmt: skip
            control.enabled = session is not None
        c.models.setEnabled(not tracking)
        c.stop.enabled = session is not None and (tracking or session.loading)
        c.undo.enabled = session is not None and usable and bool(session.history.can_undo)
        c.redo.enabled = session is not None and usable and bool(session.history.can_redo)
        c.polarity.text = "+ on it" if session is None or session.positive else "− not it"
        c.status.setText(self._problem or self._said())
        if session is not None:
            self.review.show_frame(session)

    def _said(self) -> str:
        """Say how things stand."""
        session = self.session
        if session is None:
            return (
                "Choose the video to segment."
                if self._images()
                else "Open a video, or drop it on the viewer."
            )
        if session.loading:
            return "Loading the model..."
        if session.model is None:
            return "There is no model; choose one that can be loaded."
        frame, current = session.current_frame, session.current_object
        doubted = [] if session.tracking else session.asking.doubted_objects(frame)
        if doubted:
            return said_of_doubt(_name(session, current if current in doubted else doubted[0]), [frame])
        frames, height, width = session.stack.shape
        return f"{frames} frames of {width} × {height}; {session.model.name} on {session.model.device}"

    def _refresh(self) -> None:
        """Bring the table and the timeline up to date."""
        session, table = self.session, self.controls.objects
        if session is None:
            return
        table.set_rows([_object_row(session, i) for i in session.object_ids])
        table.set_current_object(session.current_object)
        self.review.show(session)
        self._show_state()

    # Projects

    def _ask_project(self) -> None:
        if path := self.keeper.ask_project():
            self.load_project(path)

    def load_project(self, path: str | Path) -> None:
        """Open a project: its video, if it is not there yet, its prompts, settings and model."""
        from napari_surgsam2.project import load_project

        self._problem = ""
        try:
            if self.session is not None and self.session.tracking:
                raise UsageError("A project cannot be opened while tracking; press Stop first.")
            project = load_project(Path(path))
            image = self._image_of(project)
            position = Position(self.viewer, image)
            stack = saving.stack_for(project, image, position.place())
            if project.contrast_limits is not None and image.contrast_limits != list(project.contrast_limits):
                image.contrast_limits = project.contrast_limits  # what the network saw
            self.controls.models.setValue(saving.choice_of(project, self.controls.models.device.value))
            session = self.session
            if session is not None and session.image is image and session.stack.plane == stack.plane:
                self._on_model()
            else:
                position.go_to_plane(stack)
                self.begin(image, stack.frame_axis)
            if self.session is not None:
                alone = not self.session.has_prompts
                saving.take_up(self.session, project)
                self.controls.restore.visible = False
                if alone:
                    self.keeper.opened(Path(path), project)
                else:
                    show_info(
                        "The project's prompts were added to those that were here; its file stays as it is. "
                        "Save project... keeps both."
                    )
        except SurgSam2Error as error:
            self._tell(str(error))

    def _image_of(self, project: Project) -> Image:
        """Return the layer of a project's video, opening it where it is not there."""
        found = self._images()
        current = found[0] if self.session is None and len(found) == 1 else None
        if self.session is not None:
            current = self.session.image
        if project.video is None or not project.video.exists():  # perhaps it was opened from elsewhere
            if current is not None:
                return current
            if project.video is None:
                raise UsageError(
                    "The project's video came from no file; open it, choose it above, and open the project "
                    "again."
                )
        for image in sorted(found, key=lambda image: image is not current):  # channels are of one file
            source = autosaves.source_path(image)
            if source is not None and source.samefile(project.video):
                return image
        project.open_video().close()  # says what is wrong with it
        plugin = "napari-surgsam2" if get_reader(str(project.video)) is not None else "napari"
        with self._by_itself():
            opened = self.viewer.open(str(project.video), plugin=plugin)
        for layer in opened:
            if choosing.has_picture(layer):
                return layer
        raise UsageError(f"There is no image in '{project.video}'; open the video, and the project again.")

    def _offer_earlier(self) -> None:
        self._earlier = project = self.keeper.earlier()
        restore = self.controls.restore
        restore.visible = project is not None
        if project is not None:
            count = len(project.prompts)
            restore.text = f"Restore {count} prompt{'s' if count > 1 else ''} of an earlier session"

    def _restore(self, session: Session) -> None:
        self.controls.restore.visible = False
        if self._earlier is not None:
            saving.take_up(session, self._earlier)

    # For scripts

    def add_prompts(self, prompts: Prompt | Sequence[Prompt]) -> None:
        """Place points, boxes and masks as if by hand; coordinates are (frame, y, x) in pixels."""
        wanted = list(prompts) if isinstance(prompts, Sequence) else [prompts]
        self._do(lambda s: s.add_prompts(wanted))

    def wait(self, timeout: float = 600.0) -> None:
        """Wait until nothing is under way any more; the window stays alive.

        Raises
        ------
        TimeoutError
            If that takes longer than `timeout` seconds.
        """
        until = time.monotonic() + timeout
        if self.session is not None:
            self.session.wait(timeout)
        while self.keeper.is_busy:
            if time.monotonic() > until:
                raise TimeoutError(f"It is not done after {timeout:g} seconds.")
            QApplication.processEvents()
        self._refresh()

    def _end_with_window(self) -> None:
        """Shut down with the window, and keep what is to be kept when napari quits."""
        shut_down = weakref.WeakMethod(self.shut_down)

        def destroyed() -> None:
            if (call := shut_down()) is not None:
                call()

        self.destroyed.connect(destroyed)
        if (application := QApplication.instance()) is not None:
            application.aboutToQuit.connect(self._keep_now)

    def _keep_now(self) -> None:
        if self.session is not None:
            self.session.finish()
        self.keeper.flush()

    def event(self, event: QEvent | None) -> bool:
        """Notice being taken out of a dock: that is all that happens when its cross is clicked."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            self._left_timer.start()
        return super().event(event)

    def _shut_down_if_left(self) -> None:
        if self.parent() is None:
            self.shut_down()
            self.deleteLater()  # else what Qt's signals are connected to keeps it alive

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802
        """Stop everything when the widget is closed; the layers stay."""
        self.shut_down()
        super().closeEvent(event)

    def shut_down(self) -> None:
        """Let go of the viewer; the widget is not to be used after that."""
        if self._closed:
            return
        self._closed = True
        with suppress(RuntimeError):  # when Python ends they may have been deleted before the window
            for timer in (self._refresh_timer, self._choose_timer, self._left_timer):
                timer.stop()
        for event in self._layer_events():
            event.disconnect(self._on_layers)
        for key in self._bound:
            self.viewer.bind_key(key, None, overwrite=True)
        self._bound.clear()
        with suppress(RuntimeError):  # what is shown may have been deleted, with the window
            self.end()
        self.review.close()


def _name(session: Session, object_id: int) -> str:
    return session.names.get(object_id, f"object {object_id}")


def _object_row(session: Session, object_id: int) -> ObjectRow:
    record = session.records[object_id]
    red, green, blue, alpha = session.drawing.color(object_id).tolist()
    return ObjectRow(
        object_id,
        (red, green, blue, alpha),
        _name(session, object_id),
        session.asking.prompt_count(object_id),
        int(record.present.sum()),
        record.mean_confidence,
        tuple(session.asking.doubted_frames(object_id)),
    )


class _Pace:
    """How fast it goes, and how long it will take."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def said(self, done: int, total: int) -> str:
        """Return it in words."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        began, before = self._first
        text = f"{done} of {total} frames"
        if done - before < 2 or now <= began:
            return text
        rate = (done - before) / (now - began)
        left = round((total - done) / rate)
        return f"{text}, {rate:.1f} frames/s, {left // 60}:{left % 60:02} left"


def _begin_object(session: Session) -> None:
    session.new_object()
    session.click_mode()

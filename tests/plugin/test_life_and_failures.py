"""How the widget lives with its viewer, and what happens when something fails."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import dask.array as da
import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication

from napari_surgsam2 import checkpoints
from napari_surgsam2._napari import models
from napari_surgsam2._napari.worker import TrackerChoice, TrackerThread, sentence
from napari_surgsam2.errors import UsageError
from napari_surgsam2.prompts import Box, Mask, Point
from napari_surgsam2.tracking import Tracker

from .conftest import click_on, press, true_objects, until

SHORT = 6


@pytest.fixture
def told():
    """Return what the user has been told of going wrong since then."""
    notification_manager.records.clear()
    return lambda: [
        str(note.message)
        for note in notification_manager.records
        if note.severity in (NotificationSeverity.ERROR, NotificationSeverity.WARNING)
    ]


@pytest.fixture
def clip(surgery):
    """The first frames, (T, Y, X, 3)."""
    return surgery.video[:SHORT]


@pytest.fixture
def widget(open_widget, clip):
    """The widget in a viewer without a window, on a short clip."""
    viewer = ViewerModel()
    viewer.add_image(clip, name="clip")
    return open_widget(viewer)


@pytest.fixture
def clicked(widget, surgery):
    """The same, with a click on the largest object."""
    widget.add_prompts(click_on(surgery, true_objects(surgery)[0]))
    widget.wait()
    assert widget.session.canvas.frame(0).any()
    return widget


def track(widget):
    """Track everything, to the end."""
    press(widget.controls.track_all)
    widget.wait()


def shown(widget):
    """Return the frames that have a mask."""
    return [t for t in range(widget.session.stack.n_frames) if widget.session.canvas.frame(t).any()]


def collected(*references):
    """Return whether all have been garbage collected, once the window has had its turn."""

    def gone():
        gc.collect()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        return all(reference() is None for reference in references)

    until(gone, 5)
    return True


# The viewer and the dock


@pytest.mark.parametrize("how", ["the cross of the dock", "the viewer", "the window"])
def test_closing_ends_what_was_begun(how, make_napari_viewer, open_widget, surgery, clip):
    viewer = make_napari_viewer()
    viewer.add_image(clip)
    widget = open_widget(viewer)
    widget.add_prompts(click_on(surgery, true_objects(surgery)[0]))
    widget.wait()
    press(widget.controls.track_all)
    until(lambda: widget.session.canvas.frame(1).any())
    session, names = widget.session, [layer.name for layer in viewer.layers]
    assert viewer.keymap
    if how == "the cross of the dock":
        widget.parent().destroyOnClose()
    elif how == "the viewer":
        viewer.close()
    else:  # what Qt does to what is in a window that is closed
        widget.parent().deleteLater()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    until(lambda: widget._closed)
    session.join(20)
    assert not session._thread._thread.is_alive()
    assert not viewer.keymap
    if how != "the viewer":
        assert [layer.name for layer in viewer.layers] == names
        assert not [d for d in viewer.window.dock_widgets if d == "Confidence"]
        viewer.layers.remove(viewer.layers[0])  # nothing listens any more


def test_what_was_closed_is_garbage_collected(make_napari_viewer, surgery, clip):
    viewer = make_napari_viewer()
    viewer.add_image(clip)
    widget = viewer.window.add_plugin_dock_widget("napari-surgsam2", "Segment a video")[1]
    widget.wait(60)
    widget.add_prompts(click_on(surgery, true_objects(surgery)[0]))
    widget.wait()
    track(widget)
    session = widget.session
    references = [weakref.ref(x) for x in (widget, session, session.canvas, session.history, widget.review)]
    widget.parent().destroyOnClose()
    until(lambda: references[1]()._closed)
    session.join(20)
    del widget, session
    assert collected(*references)


def test_a_session_without_a_window_is_garbage_collected(clicked):
    session = clicked.session
    references = [weakref.ref(x) for x in (session, session.prompts, session.canvas, session.history)]
    session.undo()
    clicked.end()
    session.join(20)
    del session
    assert collected(*references)


def test_the_menu_opens_one_widget_in_a_viewer(make_napari_viewer, clip):
    viewer = make_napari_viewer()
    viewer.add_image(clip)
    _, first = viewer.window.add_plugin_dock_widget("napari-surgsam2", "Segment a video")
    _, second = viewer.window.add_plugin_dock_widget("napari-surgsam2", "Segment a video")
    assert first is second
    first.wait(60)
    first.parent().destroyOnClose()
    until(lambda: first._closed)
    _, third = viewer.window.add_plugin_dock_widget("napari-surgsam2", "Segment a video")
    assert third is not first
    third.wait(60)
    assert third.session.model is not None
    assert len(viewer.keymap) == 7
    third.shut_down()


def test_two_viewers_share_the_model_and_nothing_else(open_widget, clip, surgery):
    one, other = (open_widget(viewer) for viewer in (ViewerModel(), ViewerModel()))
    first, second = true_objects(surgery)[:2]
    for widget, label in ((one, first), (other, second)):
        widget.viewer.add_image(clip)
        until(lambda widget=widget: widget.session is not None)
        widget.add_prompts(click_on(surgery, label))
        widget.wait()
    track(one)
    alone = one.session.labels.data.copy()
    one.session.undo()
    one.wait()
    press(one.controls.track_all)
    press(other.controls.track_all)
    other.wait()
    one.wait()
    assert one.session.model is other.session.model
    np.testing.assert_array_equal(one.session.labels.data, alone)
    assert other.session.labels.data.any()
    assert not (other.session.labels.data == alone)[alone > 0].all()
    other.end()
    assert one.session.model is not None
    track(one)
    np.testing.assert_array_equal(one.session.labels.data, alone)


# Layers


def test_an_image_that_is_added_later_is_taken(open_widget, clip, told):
    viewer = ViewerModel()
    widget = open_widget(viewer)
    assert widget.session is None
    widget.add_prompts(Point(0, 5, 5))
    assert told() == ["There is no video; open one, or choose an image layer."]
    viewer.add_points(np.zeros((1, 3)))
    QApplication.processEvents()
    assert widget.session is None
    image = viewer.add_image(clip)
    until(lambda: widget.session is not None)
    assert widget.session.image is image
    assert widget.controls.video.value is image


def test_of_two_images_the_user_chooses(open_widget, clip):
    viewer = ViewerModel()
    images = [viewer.add_image(clip, name=name) for name in "ab"]
    viewer.layers.selection.clear()
    widget = open_widget(viewer)
    assert widget.session is None
    widget.controls.video.value = images[0]
    assert widget.session.image is images[0]
    widget.controls.video.value = None
    QApplication.processEvents()
    assert widget.session is None
    widget.controls.video.value = images[1]
    assert widget.session.image is images[1]
    viewer.layers.remove(images[1])
    until(lambda: widget.session is not None)  # there is one left
    assert widget.session.image is images[0]


@pytest.mark.parametrize("tracking", [False, True], ids=["at rest", "while tracking"])
@pytest.mark.parametrize("kind", ["image", "labels", "points", "boxes"])
def test_layers_may_be_deleted(kind, tracking, clicked, clip, surgery, told):
    viewer, session = clicked.viewer, clicked.session
    first, second = true_objects(surgery)[:2]
    y, x = np.argwhere(surgery.labels[0] == second).min(0), np.argwhere(surgery.labels[0] == second).max(0)
    clicked.add_prompts(Box(0, *map(float, (*y, *x)), 2))
    clicked.wait()
    assert {1, 2} <= set(np.unique(session.canvas.frame(0)))
    if tracking:
        press(clicked.controls.track_all)
        until(lambda: session.canvas.frame(1).any())
    viewer.layers.remove(getattr(session, kind))
    QApplication.processEvents()
    if kind == "image":
        assert clicked.session is None
        assert any(type(layer).__name__ == "Labels" and layer.data.any() for layer in viewer.layers)
        viewer.add_image(clip)
        until(lambda: clicked.session is not None)
    clicked.wait()
    assert not clicked.session.tracking
    if kind in ("points", "boxes"):
        gone = {"points": 1, "boxes": 2}[kind]
        assert gone not in {p.object_id for p in clicked.session.all_prompts}
        assert (clicked.session.canvas.frame(0) == gone).any()  # masks stay
    if kind == "labels":
        assert not clicked.session.history.can_undo
        assert not clicked.session.records[1].present.any()
    # It goes on as if nothing had been.
    clicked.add_prompts(click_on(surgery, first, frame=1))
    clicked.wait()
    track(clicked)
    assert clicked.session.labels in viewer.layers
    assert all((clicked.session.canvas.frame(t) == 1).any() for t in range(SHORT))
    assert told() == []


def test_everything_is_there_again_after_another_video(clicked, clip, surgery):
    first = clicked.session.image
    second = true_objects(surgery)[1]
    mask = surgery.labels[2] == second
    clicked.add_prompts([Mask(2, mask, 3), Box(1, 20.0, 20.0, 60.0, 90.0, 2)])
    clicked.session.name_object(3, "hook")
    clicked.wait()
    track(clicked)
    masks, prompts = clicked.session.labels, clicked.session.all_prompts
    kept, confidence = masks.data.copy(), clicked.session.records[1].confidence.copy()
    other = clicked.viewer.add_image(clip[::-1], name="other")
    clicked.controls.video.value = other
    clicked.wait()
    assert clicked.session.image is other
    assert clicked.session.all_prompts == []
    assert clicked.session.labels is not masks
    assert not clicked.session.labels.data.any()
    clicked.controls.video.value = first
    clicked.wait()
    session = clicked.session
    assert session.labels is masks
    assert session.all_prompts == prompts
    assert session.names == {3: "hook"}
    assert session.object_ids == (1, 2, 3)
    np.testing.assert_array_equal(session.records[1].confidence, confidence)
    np.testing.assert_array_equal(masks.data, kept)
    assert not session.history.can_undo
    session.remove_object(1)
    session.finish()
    assert not (masks.data == 1).any()


def test_renamed_layers_stay_what_they_are(clicked, clip):
    viewer, session = clicked.viewer, clicked.session
    image, labels, points = session.image, session.labels, session.points
    image.name, labels.name, points.name = "mine", "masks of mine", "clicks"
    assert clicked.controls.masks_in.current_choice == "masks of mine"
    assert clicked.controls.clicks_in.current_choice == "clicks"
    assert clicked.controls.video.current_choice == "mine"
    newcomer = viewer.add_image(clip, name="clip")
    clicked.controls.video.value = newcomer
    assert clicked.session.labels is not labels
    assert clicked.session.points is not points
    clicked.controls.video.value = image
    assert clicked.session.labels is labels
    assert clicked.session.points is points


def test_other_layers_are_left_alone(open_widget, clip, surgery):
    viewer = ViewerModel()
    viewer.add_image(clip, name="clip", colormap=None)
    labels = viewer.add_labels(np.ones(clip.shape[:3], np.uint8), name="mine", features={"a": [1, 2]})
    points = viewer.add_points(np.ones((2, 3)), name="own", features={"a": [1, 2]}, symbol="star")
    shapes = viewer.add_shapes([[[0, 1, 1], [0, 9, 9]]], shape_type="line", name="lines")
    viewer.layers.selection.active = viewer.layers["clip"]

    def state(layer):
        data = [np.array(d) for d in layer.data] if layer is shapes else [np.array(layer.data)]
        looks = layer.opacity, layer.visible, layer.mode, layer.name, dict(layer.metadata)
        return data, layer.features.to_dict(), looks

    before = [state(layer) for layer in (labels, points, shapes)]
    picture = viewer.layers["clip"].data.copy()
    widget = open_widget(viewer)
    assert viewer.layers.selection.active is widget.session.points
    widget.add_prompts(click_on(surgery, true_objects(surgery)[0]))
    widget.wait()
    track(widget)
    widget.session.remove_object(1)
    widget.session.undo()
    widget.wait()
    widget.shut_down()
    for (data, features, looks), layer in zip(before, (labels, points, shapes), strict=True):
        after = state(layer)
        assert all(map(np.array_equal, data, after[0]))
        assert (features, looks) == after[1:]
    np.testing.assert_array_equal(viewer.layers["clip"].data, picture)
    assert [layer.name for layer in viewer.layers] == [
        "clip",
        "mine",
        "own",
        "lines",
        "clip masks",
        "clip prompts",
    ]


# Importing

_IMPORTING = """
import os, sys, threading, warnings
import zarr  # numcodecs has a filter of its own
import napari.components
from napari.settings import get_settings
before = get_settings().model_dump_json()
filters = list(warnings.filters)
environment = dict(os.environ)

import napari_surgsam2._napari.widget as plugin

assert not {"torch", "matplotlib"} & set(sys.modules)
assert dict(os.environ) == environment
assert warnings.filters == filters
assert get_settings().model_dump_json() == before

threads = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            threads.append(threading.current_thread() is threading.main_thread())
            raise ImportError("not here")
sys.meta_path.insert(0, Finder())
import numpy as np
from qtpy.QtWidgets import QApplication
app = QApplication([])
viewer = napari.components.ViewerModel()
viewer.add_image(np.zeros((3, 32, 32), np.uint8))
widget = plugin.SurgSam2Widget(viewer)
widget.show()
widget.session.wait(20)
assert threads and not any(threads), threads
assert "torch" not in sys.modules and "matplotlib" not in sys.modules
widget.shut_down()
print("fine")
"""


def test_importing_and_opening_changes_nothing_and_starts_torch_in_a_thread(tmp_path):
    environment = {**os.environ, "NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip().endswith("fine"), done.stderr


_ENDING = """
import numpy as np
from qtpy.QtWidgets import QApplication
from napari_surgsam2._napari.worker import TrackerChoice, TrackerThread
from napari_surgsam2.prompts import Point
from napari_surgsam2.video import open_video

app = QApplication([])
frames = np.random.default_rng(1).integers(0, 255, (500, 64, 64)).astype(np.uint8)
thread = TrackerThread()
seen = []
thread.tracked.connect(seen.append)
thread.open(TrackerChoice("nano", "cpu"), lambda: open_video(frames))
thread.set_prompts(0, 1, [Point(0, 32, 32)])
thread.track("both", None, None, None)
while len(seen) < 3:
    app.processEvents()
print("tracking", flush=True)
"""


def test_python_ends_as_it_should_while_it_is_tracking():
    """The thread must not come back from torch into an interpreter that is no more."""
    done = subprocess.run([sys.executable, "-c", _ENDING], capture_output=True, text=True, timeout=120)
    assert done.stdout == "tracking\n", done.stderr
    assert done.returncode == 0, done.stderr


def test_a_new_click_does_not_wait_for_prompts_that_are_asked_for_again(qtbot, monkeypatch):
    """As many are after a change of settings; but what was to be removed before it is removed before it."""
    thread, held, done = TrackerThread(), threading.Event(), []
    monkeypatch.setattr(thread, "_set_prompts", lambda frame, object_id, *_: done.append((frame, object_id)))
    monkeypatch.setattr(thread, "_remove", lambda object_id: done.append(("removed", object_id)))

    def put_in_order(*jobs):
        held.clear()
        thread._post("held", held.wait)
        until(lambda: "held" not in thread._jobs)
        for job in jobs:
            job()
        held.set()
        until(lambda: not thread.is_busy)
        order = done.copy()
        done.clear()
        return order

    def again(frame):
        return lambda: thread.set_prompts(frame, 1, [Point(frame, 5, 5)])

    def clicked():
        thread.set_prompts(9, 1, [Point(9, 5, 5)], step=3)

    assert put_in_order(again(0), again(1), clicked, again(2)) == [(9, 1), (0, 1), (1, 1), (2, 1)]
    removed = put_in_order(again(0), lambda: thread.remove_object(1), clicked)
    assert removed == [(0, 1), ("removed", 1), (9, 1)]
    thread.close()
    thread.join(10)


def test_masks_that_cannot_be_drawn_into_any_more_do_not_keep_the_video_from_being_opened(
    open_widget, surgery
):
    viewer = ViewerModel()
    viewer.add_image(surgery.video[:4], name="clip")
    widget = open_widget(viewer)
    labels = widget.session.labels
    widget.shut_down()
    labels.data = da.from_array(labels.data)

    again = open_widget(viewer)

    assert again.session is not None
    assert again.session.labels is not labels


# Failures


def test_after_a_checkpoint_that_cannot_be_read_another_can_be_chosen(clicked, tmp_path, told):
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"no weights")
    prompts = clicked.session.all_prompts
    masks = clicked.session.labels.data.copy()
    clicked.controls.models.setValue(TrackerChoice(str(garbage)))
    clicked.controls.models.changed.emit()
    clicked.wait()
    assert len(told()) == 1
    assert "garbage.pt" in told()[0]
    assert clicked.session.model is None
    assert clicked.session.all_prompts == prompts
    press(clicked.controls.track_all)
    assert len(told()) == 2
    assert "choose" in told()[1]
    clicked.controls.models.setValue(TrackerChoice("nano"))
    clicked.controls.models.changed.emit()
    clicked.wait()
    np.testing.assert_array_equal(clicked.session.labels.data, masks)
    track(clicked)
    assert shown(clicked) == list(range(SHORT))
    assert len(told()) == 2


def test_a_pass_that_waits_for_a_model_that_cannot_be_had_ends(clicked, tmp_path, told):
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"no weights")
    clicked.session.set_choice(TrackerChoice(str(garbage)))
    press(clicked.controls.track_all)
    assert clicked.session.tracking
    clicked.wait(20)
    assert not clicked.session.tracking
    assert len(told()) == 1
    assert clicked.controls.track_all.enabled
    assert not clicked.session.history.can_undo.startswith("tracking")


def test_of_a_model_that_was_replaced_nothing_is_heard(clicked, tmp_path, told):
    session = clicked.session
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"no weights")
    for choice in (TrackerChoice(str(garbage)), TrackerChoice("nano")):
        session.set_choice(choice)
        end = threading.Event()
        while session._thread.is_busy and not end.wait(0.005):  # the window has no turn meanwhile
            pass
        if choice.model != "nano":
            assert session.loading
    clicked.wait()
    assert told() == []
    assert session.model.name == "nano"
    session.set_choice(TrackerChoice("nano", "cpu"))
    while session._thread.is_busy:
        threading.Event().wait(0.005)
    session.set_choice(TrackerChoice(str(garbage)))
    clicked.wait()
    assert session.model is None  # and not the one that had been ready
    assert len(told()) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "Use a smaller model or input size"),
        (ValueError("odd"), "Something went wrong that should not have (ValueError: odd)"),
        (UsageError("A rule. A remedy."), "A rule. A remedy."),
    ],
    ids=["memory", "unforeseen", "ours"],
)
def test_a_pass_that_fails_keeps_what_is_done(error, said, clicked, monkeypatch, told):
    step = Tracker._step

    def failing(self, frame, *rest):
        if frame == 4:
            raise error
        return step(self, frame, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "_step", failing)
        track(clicked)
    assert len(told()) == 1
    assert said in told()[0]
    assert "4 frames are done and kept." in told()[0]
    assert clicked.controls.pace.text().startswith("Failed: 4 of 6 frames")
    assert shown(clicked) == [0, 1, 2, 3]
    track(clicked)
    assert shown(clicked) == list(range(SHORT))
    assert len(told()) == 1
    clicked.session.undo()
    clicked.session.undo()
    clicked.wait()
    assert shown(clicked) == [0]


def out_of_memory(*_):
    raise torch.OutOfMemoryError("all gone")


def test_a_prompt_that_fails_is_told_each_time_and_can_be_tried_again(clicked, surgery, monkeypatch, told):
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "_settle", out_of_memory)
        for frame in (2, 3):
            clicked.add_prompts(click_on(surgery, true_objects(surgery)[0], frame=frame))
            clicked.wait()
    assert len(told()) == 2
    assert all("Use a smaller image size or model" in message for message in told())
    track(clicked)
    assert shown(clicked) == list(range(SHORT))


class BrokenFrames:
    """An array-like whose frame 4 cannot be read while `broken`."""

    def __init__(self, array):
        self.array, self.broken = array, False
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, index):
        first = index[0] if isinstance(index, tuple) else index
        if self.broken and first == 4:
            raise OSError("the disk is gone")
        return self.array[index]

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype=dtype)


def test_a_frame_that_cannot_be_read_ends_the_pass_there(open_widget, clip, surgery, told):
    viewer = ViewerModel()
    frames = BrokenFrames(clip[..., 0])
    viewer.add_image(frames, rgb=False, contrast_limits=(0, 255))
    widget = open_widget(viewer)
    widget.add_prompts(click_on(surgery, true_objects(surgery)[0]))
    widget.wait()
    frames.broken = True
    track(widget)
    assert len(told()) == 1
    assert "the disk is gone" in told()[0]
    assert "4 frames are done and kept." in told()[0]
    assert widget.session.records[1].present[:4].any()
    frames.broken = False
    track(widget)
    assert not np.isnan(widget.session.records[1].confidence).any()
    assert len(told()) == 1


def test_memory_that_ends_on_the_cpu_is_told_as_such():
    text = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
    for error in (MemoryError("Unable to allocate 9 GiB"), RuntimeError(text)):
        assert "Use a smaller model or input size" in sentence(error)


def test_prompts_outside_are_told_once_and_not_used(clicked, told):
    height = clicked.session.stack.shape[1]
    layer = clicked.session.points
    clicked.add_prompts(Point(1, height + 50.0, 5.0))
    clicked.wait()
    clicked.session.name_object(1, "a")
    layer.add([0, -80, 5])
    layer.add([1, 40, 60])
    clicked.wait()
    assert len(told()) == 2
    assert all("It is not used." in message for message in told())
    assert [p.frame for p in clicked.session.all_prompts] == [0, 1]


def test_only_negative_points_cannot_be_tracked(widget, told):
    widget.add_prompts(Point(0, 50.0, 50.0, 1, False))
    widget.wait()
    press(widget.controls.track_all)
    assert len(told()) == 1
    assert "no positive click, box or mask on any object" in told()[0]
    assert not widget.session.tracking


def test_tracking_twice_is_refused(clicked, told):
    press(clicked.controls.track_all)
    clicked._do(lambda s: s.track())
    assert told() == ["It is tracking already; press Stop first."]
    for change in (
        lambda s: s.remove_object(1),
        lambda s: s.set_choice(TrackerChoice("nano", "cpu")),
    ):
        clicked._do(change)
    clicked.wait()
    assert len(told()) == 3
    assert shown(clicked) == list(range(SHORT))


def test_two_threads_load_a_model_once(monkeypatch):
    made = []

    def slow(name, **_):
        time.sleep(0.05)
        made.append(name)
        return Weights()

    monkeypatch.setattr(checkpoints, "load_model", slow)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(models.shared_model("some", None, "cpu")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["some"]
    assert found[0] is found[1] is found[2]


class Weights:
    """Stands for a model."""


def test_the_timeline_may_be_closed(make_napari_viewer, open_widget, surgery, clip, told):
    viewer = make_napari_viewer()
    viewer.add_image(clip)
    widget = open_widget(viewer)
    widget.add_prompts(click_on(surgery, true_objects(surgery)[0]))
    widget.wait()
    assert "Confidence" in viewer.window.dock_widgets
    widget.review.timeline.parent().destroyOnClose()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert "Confidence" not in viewer.window.dock_widgets
    track(widget)
    widget.session.go_to(3)
    widget.end()
    widget.shut_down()
    assert told() == []

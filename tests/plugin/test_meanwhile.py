"""What the user does while something else is under way: none of it is lost, and nothing comes back."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers.base import ActionType
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_surgsam2._napari import models, slices, worker
from napari_surgsam2._napari.session import Session
from napari_surgsam2._napari.worker import TrackerChoice
from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import unsaved_labels
from napari_surgsam2.prompts import Box, Point
from napari_surgsam2.settings import TrackingSettings

from .conftest import until
from .sessions import blob_clip, click, middle, session_on, track

N = 5
VIDEO, MASKS = blob_clip(N)
PLANES = np.stack([VIDEO] * 2, axis=1)  # (T, Z, Y, X)
BESIDE = (85.0, 100.0)  # where the clip has nothing


@pytest.fixture
def session(qapp):
    with session_on(VIDEO) as opened:
        yield opened


@pytest.fixture
def slow_undo(monkeypatch):
    """Frames are changed one at a time, with a turn of the window between any two."""
    monkeypatch.setattr(slices, "_SLICE", 0.0)


@contextmanager
def held(monkeypatch, frame):
    """Hold the tracker's thread, once it has computed a frame; yields an event that is set then."""
    reached, go_on = threading.Event(), threading.Event()
    of = worker.FrameAnswer.of

    def slow(result):
        if result.frame == frame and not reached.is_set():
            reached.set()
            assert go_on.wait(20)
        return of(result)

    monkeypatch.setattr(worker.FrameAnswer, "of", slow)
    try:
        yield reached
    finally:
        go_on.set()


def masks(session):
    return np.asarray(session.labels.data).copy()


def paint(session, frame, object_id, rows, columns=(2, 3, 4)):
    at = np.array(columns)
    session.labels.data_setitem((np.full_like(at, frame), np.full_like(at, rows), at), object_id)


# An object that is removed


def removed_while_its_mask_was_on_its_way(session, monkeypatch):
    with held(monkeypatch, 0) as reached:
        session.add_prompts([middle(MASKS, 0, 2)])
        session.read_prompts()
        until(reached.is_set)
        session.remove_object(2)
        QApplication.processEvents()
    session.wait(30)


def test_the_mask_of_an_object_that_was_removed_does_not_come_afterwards(session, monkeypatch):
    removed_while_its_mask_was_on_its_way(session, monkeypatch)

    assert not masks(session).any()
    assert session.all_prompts == []


def test_when_the_removal_is_undone_its_mask_comes(session, monkeypatch):
    removed_while_its_mask_was_on_its_way(session, monkeypatch)

    session.undo()
    session.wait(30)
    there = masks(session)
    assert ((there[0] == 2) & MASKS[0]).sum() > 0.7 * MASKS[0].sum()

    session.redo()
    session.wait(30)
    assert not masks(session).any()
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), there)


def test_what_is_painted_while_an_object_is_being_removed_stays_and_can_be_undone(session, slow_undo):
    click(session, middle(MASKS))
    track(session)
    before = masks(session)

    session.remove_object(1)
    assert session.is_changing_frames
    paint(session, N - 1, 7, 3)
    session.wait(30)
    assert [(masks(session) == i).sum() for i in (1, 7)] == [0, 3]

    session.undo()
    session.wait(30)
    assert not masks(session).any()
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), before)


def test_a_mask_that_comes_while_the_removal_of_its_object_is_undone_is_not_lost(
    session, slow_undo, monkeypatch
):
    click(session, middle(MASKS, 0, 2))
    track(session)
    tracked = masks(session)
    with held(monkeypatch, N - 1) as reached:
        session.add_prompts([Point(N - 1, *BESIDE, 2)])
        session.read_prompts()
        until(reached.is_set)
        session.remove_object(2)
        until(lambda: not session.is_changing_frames)
    session.wait(30)
    assert not masks(session).any()

    monkeypatch.setattr(session._work._timer, "start", lambda *_: None)  # the rest of it takes its time
    session.undo()
    assert session.is_changing_frames
    until(lambda: not session._thread.is_busy)
    for _ in range(5):
        QApplication.processEvents()
    monkeypatch.undo()
    session.finish()
    session.wait(30)
    there = masks(session)
    np.testing.assert_array_equal(there[:-1], tracked[:-1])
    assert there[-1, 85, 100] == 2

    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), tracked)


def test_the_mask_of_another_object_that_comes_after_a_removal_goes_under_it(session, monkeypatch):
    click(session, middle(MASKS, 0, 2))
    before = masks(session)
    with held(monkeypatch, 0) as reached:
        session.add_prompts([Point(0, *BESIDE, 3)])
        session.read_prompts()
        until(reached.is_set)
        session.remove_object(2)
        QApplication.processEvents()
    session.wait(30)
    assert set(np.unique(masks(session))) == {0, 3}
    third = masks(session) == 3

    session.undo()  # the removal
    session.wait(30)
    np.testing.assert_array_equal(masks(session) == 3, third)
    np.testing.assert_array_equal(masks(session) == 2, before == 2)
    session.undo()  # the click
    session.wait(30)
    np.testing.assert_array_equal(masks(session), before)


# Undo and redo


def test_what_is_painted_while_a_pass_is_being_undone_stays(session, slow_undo):
    click(session, middle(MASKS))
    clicked = masks(session)
    track(session)

    session.undo()
    assert session.is_changing_frames
    paint(session, N - 1, 7, 3)
    paint(session, N - 1, 8, 5)
    session.wait(30)

    expected = clicked.copy()
    expected[N - 1, 3, 2:5] = 7
    expected[N - 1, 5, 2:5] = 8
    np.testing.assert_array_equal(masks(session), expected)
    assert session.drawing.edited == {(N - 1, 7), (N - 1, 8)}
    for rows in (5, 3):  # one stroke after the other
        session.undo()
        session.wait(30)
        expected[N - 1, rows] = 0
        np.testing.assert_array_equal(masks(session), expected)


def test_what_is_painted_while_a_pass_is_being_redone_stays(session, slow_undo):
    click(session, middle(MASKS))
    clicked = masks(session)
    track(session)
    tracked = masks(session)
    session.undo()
    session.wait(30)

    session.redo()
    assert session.is_changing_frames
    paint(session, N - 1, 7, 3)
    session.wait(30)

    expected = tracked.copy()
    expected[N - 1, 3, 2:5] = 7
    np.testing.assert_array_equal(masks(session), expected)
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), tracked)
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), clicked)


def test_the_window_lives_while_what_was_asked_for_waits_for_an_undo(session, slow_undo):
    click(session, middle(MASKS))
    track(session)
    session.undo()
    assert session.is_changing_frames

    done, ticks = [], []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(len(done)))
    timer.start(0)
    session.when_settled(lambda: done.append(masks(session)))
    assert done == []
    until(lambda: done)
    assert 0 in ticks
    assert not done[0][1:].any()


def test_tracking_is_refused_as_long_as_an_undo_takes_long(session, slow_undo, monkeypatch):
    click(session, middle(MASKS))
    track(session)
    monkeypatch.setattr("napari_surgsam2._napari.session._PATIENCE", 0.0)
    session.undo()
    with pytest.raises(UsageError, match="Frames are still being changed, by undo or a removal"):
        session.track()
    session.wait(30)
    track(session)
    assert masks(session).any(axis=(1, 2)).all()


def test_a_model_that_was_chosen_during_an_undo_is_taken_though_that_ends_early(session, slow_undo):
    click(session, middle(MASKS))
    track(session)
    session.undo()
    assert session.is_changing_frames
    choice = TrackerChoice("nano", settings=TrackingSettings(fill_holes=9))
    session.set_choice(choice)
    opened = []
    session.loaded.connect(opened.append)
    session.labels.data = np.zeros_like(session.labels.data)  # which nothing can be put back into
    session.wait(30)
    assert len(opened) == 1
    assert session._thread._tracker.settings.fill_holes == 9


# Tracking


def test_a_click_that_comes_before_a_pass_has_begun_is_tracked_with_it(qapp, monkeypatch):
    go_on, shared = threading.Event(), models.shared_model

    def slow(*args):
        assert go_on.wait(20)
        return shared(*args)

    monkeypatch.setattr(models, "shared_model", slow)
    viewer = ViewerModel()
    session = Session(viewer, viewer.add_image(VIDEO), TrackerChoice("nano"))
    told = []
    session.failed.connect(told.append)
    first = middle(MASKS)
    session.add_prompts([first])
    session.read_prompts()
    session.track()
    session.add_prompts([Point(0, first.y + 3, first.x + 3)])  # of the same object in the same frame
    session.read_prompts()
    go_on.set()
    session.wait(60)

    assert told == []
    assert masks(session).any(axis=(1, 2)).all()
    session.close()
    session.join(30)


def test_a_stroke_that_napari_took_back_while_tracking_leaves_no_hole(session, monkeypatch):
    click(session, middle(MASKS))
    with held(monkeypatch, 1) as reached:
        session.track("forward", 0)
        until(reached.is_set)
        paint(session, 3, 1, 2)
        session.labels.undo()  # as Ctrl+Z does while the labels are selected
    session.wait(60)

    assert (masks(session) == 1).any(axis=(1, 2)).all()


# Planes


def look_at(session, plane, frame=0):
    session.viewer.dims.set_point(1, plane)
    session.viewer.dims.set_point(0, frame)


def arrive(session, plane):
    until(lambda: session.stack.picked == {1: plane})
    session.wait(30)


@pytest.fixture
def two_planes(qapp):
    """A session in which object 1 is tracked in both planes, and the first is in view."""
    with session_on(PLANES) as opened:
        for plane in (1, 0):
            look_at(opened, plane)
            arrive(opened, plane)
            click(opened, middle(MASKS))
            track(opened)
        yield opened


def click_away(session, plane, frame):
    """Click, as the mouse does, on a pixel at the side of a mask that does not belong to it; return it."""
    rows, columns = np.nonzero(session.labels.data[frame, plane] == 1)
    at = int(rows[columns.argmax()]), int(columns.max()) - 1
    session.points.feature_defaults = {"object_id": 1, "label": 0}
    session.points.add(np.array([[frame, plane, *map(float, at)]]))
    return at


def test_a_click_in_a_plane_that_was_just_come_to_counts(two_planes):
    session = two_planes
    before = masks(session)
    look_at(session, 1, 2)
    at = click_away(session, 1, 2)  # at once
    QApplication.processEvents()
    assert session.stack.picked == {1: 0}
    arrive(session, 1)

    assert session.labels.data[(2, 1, *at)] == 0
    assert session.history.can_undo == "adding prompts of object 1 on frame 2"
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), before)


def test_so_does_one_in_another_plane_than_is_being_tracked(two_planes, monkeypatch):
    session = two_planes
    with held(monkeypatch, 1) as reached:
        session.track("forward", 0)
        until(reached.is_set)
        look_at(session, 1, 2)
        at = click_away(session, 1, 2)
        QApplication.processEvents()
    session.wait(60)
    arrive(session, 1)

    assert session.labels.data[(2, 1, *at)] == 0
    assert session.history.can_undo == "adding prompts of object 1 on frame 2"


def test_undo_leaves_what_was_said_in_other_planes(two_planes):
    session = two_planes
    look_at(session, 1, 2)
    click_away(session, 1, 2)
    QApplication.processEvents()
    arrive(session, 1)
    session.add_prompts([Box(1, 10.0, 10.0, 50.0, 60.0, 2)])
    session.wait(30)
    look_at(session, 0)
    arrive(session, 0)

    while session.history.can_undo:
        session.undo()
        session.wait(30)
    assert session.all_prompts == []
    assert not session.labels.data[:, 0].any()
    look_at(session, 1)
    arrive(session, 1)
    assert [(type(p), p.frame, p.object_id) for p in session.all_prompts if not hasattr(p, "mask")] == [
        (Point, 0, 1),
        (Box, 1, 2),
        (Point, 2, 1),
    ]

    look_at(session, 0)
    arrive(session, 0)
    while session.history.can_redo:
        session.redo()
        session.wait(30)
    assert len(session.all_prompts) == 1
    assert session.labels.data[:, 0].any(axis=(1, 2)).all()


def test_what_was_said_in_another_plane_meanwhile_changes_nothing_in_this_one(two_planes, monkeypatch):
    session = two_planes
    with held(monkeypatch, 1) as reached:
        session.track("forward", 0)
        until(reached.is_set)
        look_at(session, 1, 2)
        click_away(session, 1, 2)
        QApplication.processEvents()
        look_at(session, 0, 3)
    session.wait(60)
    click(session, middle(MASKS, 3))
    said, drawn, step = session.all_prompts, session.labels.data[:, 0].copy(), session.history.newest

    look_at(session, 1, 2)
    arrive(session, 1)
    look_at(session, 0, 3)
    arrive(session, 0)
    assert session.all_prompts == said
    np.testing.assert_array_equal(session.labels.data[:, 0], drawn)
    assert session.history.newest is step


@pytest.mark.parametrize("how", ["chosen", "deleted"])
def test_with_other_points_the_masks_of_other_planes_stay(how, two_planes):
    session = two_planes
    session._rest_timer.setInterval(10_000)
    look_at(session, 1, 2)
    click_away(session, 1, 2)
    QApplication.processEvents()
    look_at(session, 0)
    session._rest_timer.setInterval(0)
    if how == "chosen":
        session.use_points()
    else:
        session.viewer.layers.remove(session.points)
        session.click_mode()
    session.wait(30)
    drawn = masks(session)
    assert drawn[:, 1].any()

    look_at(session, 1)
    arrive(session, 1)
    np.testing.assert_array_equal(masks(session), drawn)
    assert session.history.can_undo == ""


def test_undo_of_a_click_leaves_boxes_as_they_look(qapp):
    with session_on(PLANES) as session:
        for plane in (0, 1):
            look_at(session, plane)
            arrive(session, plane)
            click(session, Box(0, 10.0, 10.0, 50.0, 60.0, 2))
        look_at(session, 0)
        arrive(session, 0)
        session.boxes.edge_width = [3.0, 7.0]
        click(session, middle(MASKS))
        session.undo()
        session.wait(30)
        assert list(session.boxes.edge_width) == [3.0, 7.0]
        assert [corners[0, 1] for corners in session.boxes.data] == [0, 1]


def test_another_frame_axis_that_waits_for_an_undo_is_shown_when_it_is_followed(open_widget, slow_undo):
    viewer = ViewerModel()
    viewer.add_image(np.stack([VIDEO] * 3, axis=1), name="clip")
    widget = open_widget(viewer)
    session, controls = widget.session, widget.controls
    click(session, middle(MASKS))
    track(session)
    session.undo()
    assert session.is_changing_frames
    controls.frame_axis.value = 1
    widget.wait(30)
    assert session.stack.frame_axis == controls.frame_axis.value == 1
    assert controls.last.value == 2


# Boxes


def test_dragging_a_box_is_one_step(session):
    rows, columns = np.nonzero(MASKS[0])
    box = Box(0, float(rows.min()), float(columns.min()), float(rows.max()), float(columns.max()))
    click(session, box)
    layer, place = session.boxes, session.boxes.data[0].copy()
    layer.mode = "select"
    layer.selected_data = {0}

    def tell(action):
        layer.events.data(value=layer.data, action=action, data_indices=(0,), vertex_indices=((0, 1, 2, 3),))

    tell(ActionType.CHANGING)  # as napari does: once when it begins to move, and once where it is let go
    layer._moving_coordinates, layer._is_moving = (0, 20, 20), True
    for shift in ([2, 2], [1, 3]):
        layer._data_view.shift(0, shift)
        QApplication.processEvents()
        session.read_prompts()
    assert session.all_prompts == [box]
    tell(ActionType.CHANGED)
    layer._is_moving = False
    session.wait(30)

    moved = Box(0, box.y0 + 3, box.x0 + 5, box.y1 + 3, box.x1 + 5)
    assert session.all_prompts == [moved]
    session.undo()
    session.wait(30)
    assert session.all_prompts == [box]
    np.testing.assert_array_equal(session.boxes.data[0], place)


# Other labels


def test_what_is_known_of_labels_is_known_when_they_are_chosen_again(session):
    """Of arrays that are not in memory it is not found out by looking."""
    mine = session.viewer.add_labels(unsaved_labels(VIDEO.shape, np.dtype(np.uint16), 0), name="mine")
    session.use_labels(mine)
    click(session, middle(MASKS))
    track(session)
    known = session.records[1].confidence.copy()
    assert masks(session).any(axis=(1, 2)).all()

    session.use_labels()
    assert np.isnan(session.records[1].confidence).all()
    session.use_labels(mine)
    session.wait(30)
    np.testing.assert_array_equal(session.records[1].confidence, known)
    session.remove_object(1)
    session.wait(30)
    assert not masks(session).any()


def test_names_of_objects_are_not_those_of_labels(session):
    first = session.labels
    session.name_object(1, "liver")
    session.use_labels()
    second = session.labels
    session.name_object(1, "spleen")
    session.use_labels(first)
    assert session.names == {1: "spleen"}
    session.name_object(1, "")
    session.use_labels(second)
    assert session.names == {}

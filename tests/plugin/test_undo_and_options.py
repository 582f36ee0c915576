"""Undo and redo, keys, and what the options and buttons do to a pass."""

import time
from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.action_manager import action_manager
from napari.utils.key_bindings import KeymapHandler, coerce_keybinding
from napari.utils.notifications import NotificationSeverity, notification_manager
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from skimage.draw import ellipse

from napari_surgsam2._napari import slices
from napari_surgsam2._napari.saving import StackLabels
from napari_surgsam2.prompts import Box, Mask, Point

from .conftest import click_on, press, true_objects, until
from .sessions import click, overlap, session_on
from .sessions import track as track_there

FRAMES = 8
GROUND = (40.0, 60.0)  # where no object is in any frame


@pytest.fixture
def widget(open_widget, surgery):
    """The widget in a viewer without a window, on a short clip."""
    viewer = ViewerModel()
    viewer.add_image(surgery.video[:FRAMES], name="clip")
    return open_widget(viewer)


@pytest.fixture
def session(widget, surgery):
    """Its session, with the two largest objects clicked in the first frame."""
    widget.add_prompts([click_on(surgery, label, n) for n, label in enumerate(true_objects(surgery)[:2], 1)])
    widget.wait()
    return widget.session


def told(severity=NotificationSeverity.ERROR):
    """Return what was said since the viewer was made."""
    return [str(note.message) for note in notification_manager.records if note.severity == severity]


@pytest.fixture(autouse=True)
def nothing_told():
    notification_manager.records.clear()


def track(session, *args, **kwargs):
    session.track(*args, **kwargs)
    session.wait()


def masks(session):
    return session.labels.data.copy()


def paint(session, frame, object_id, y, x, size=12):
    """Paint as the brush does."""
    session.labels.brush_size = size
    session.labels.paint((frame, y, x), object_id)


def box_of(clip, label, object_id):
    rows = np.argwhere(clip.labels[0] == label)
    return Box(0, *map(float, (*rows.min(0), *rows.max(0))), object_id)


# Undo and redo


def test_every_step_can_be_undone_and_done_again(widget, surgery):
    session = widget.session
    first, second = true_objects(surgery)[:2]

    def move_a_point():
        data = session.points.data.copy()
        data[0, 1:] += 3
        session.points.data = data

    def delete_a_point():
        session.points.selected_data = {1}
        session.points.remove_selected()

    steps = [
        lambda: session.add_prompts([click_on(surgery, first)]),
        lambda: session.add_prompts([Point(0, *GROUND, 1, False)]),
        move_a_point,
        delete_a_point,
        lambda: session.add_prompts([box_of(surgery, second, 2)]),
        lambda: session.add_prompts([Mask(3, surgery.labels[3] == second, 2)]),
        session.track,
        lambda: session.add_prompts([Point(5, *GROUND, 1, False)]),
        lambda: session.clear_frame(5),
        lambda: session.remove_object(2),
        lambda: session.add_prompts([Mask(4, surgery.labels[4] == second, 1)]),
        lambda: session.track("forward", 4),
    ]
    states = [(masks(session), session.all_prompts)]
    for step in steps:
        step()
        session.wait()
        states.append((masks(session), session.all_prompts))
    present = session.records[1].present.copy()

    def is_at(n):
        session.wait()
        np.testing.assert_array_equal(session.labels.data, states[n][0], err_msg=f"after step {n}")
        assert session.all_prompts == states[n][1]

    assert not np.array_equal(states[6][0], states[7][0])
    for n in reversed(range(len(steps))):
        session.undo()
        is_at(n)
    session.undo()  # there is nothing more
    is_at(0)
    assert not session.records[1].present.any()
    for n in range(1, len(states)):
        session.redo()
        is_at(n)
    session.redo()
    is_at(len(steps))
    np.testing.assert_array_equal(session.records[1].present, present)
    assert session.object_ids == (1,)
    for _ in steps:
        session.undo()
    is_at(0)


def test_an_object_that_comes_back_is_tracked_on(session):
    track(session)
    before = masks(session)
    session.name_object(2, "hook")
    session.remove_object(2)
    session.wait()
    assert not (session.labels.data == 2).any()
    assert session.object_ids == (1,)
    assert session.new_object() == 3  # not under the name of the one that may come back
    session.undo()
    session.wait()
    np.testing.assert_array_equal(session.labels.data, before)
    assert session.records[2].present.sum() == (before == 2).any(axis=(1, 2)).sum()
    assert session.names == {2: "hook"}
    track(session)
    np.testing.assert_array_equal(session.labels.data, before)
    # Done away with once more, it stays away.
    session.remove_object(2)
    session.undo()
    session.redo()
    session.wait()
    track(session)
    assert not (session.labels.data == 2).any()


def test_an_answer_that_was_under_way_does_not_come_after_undo(widget, surgery):
    session = widget.session
    click = click_on(surgery, true_objects(surgery)[0])
    session.add_prompts([click])
    session.read_prompts()
    session.undo()
    session.wait()
    assert not session.labels.data.any()
    session.redo()
    session.wait()
    assert session.canvas.frame(0).any()
    drawn = masks(session)
    session.undo()
    session.wait()
    assert not session.labels.data.any()
    # Two clicks in a row, of which only the second is answered.
    session.add_prompts([click])
    session.read_prompts()
    session.add_prompts([Point(0, click.y + 2, click.x + 2)])
    session.read_prompts()
    session.wait()
    session.undo()
    session.wait()
    np.testing.assert_array_equal(session.labels.data, drawn)
    session.undo()
    session.wait()
    assert not session.labels.data.any()


def test_a_click_while_a_long_step_is_undone_counts(session, surgery, monkeypatch):
    track(session)
    monkeypatch.setattr(slices, "_SLICE", 1e-6)
    session.undo()
    QApplication.processEvents()
    assert session._work.is_busy
    session.add_prompts([click_on(surgery, true_objects(surgery)[0], 1, frame=7)])
    QApplication.processEvents()
    session.wait()
    assert 7 in {p.frame for p in session.all_prompts}
    assert (session.canvas.frame(7) == 1).any()
    assert not session.labels.data[1:7].any()
    session.redo()
    assert session.history.can_redo == ""  # the click was something new
    # Tracking does not begin before everything is back.
    track(session)
    whole = masks(session)
    session.undo()
    track(session)
    np.testing.assert_array_equal(session.labels.data, whole)


def test_steps_undone_while_a_long_one_is_wait_for_it(session, surgery, monkeypatch):
    """Rather than the window does."""
    session.add_prompts([click_on(surgery, true_objects(surgery)[0], 3, frame=2)])
    session.wait()
    clicked = masks(session)
    track(session)
    session.add_prompts([click_on(surgery, true_objects(surgery)[0], 4, frame=5)])
    session.wait()
    whole = masks(session)
    monkeypatch.setattr(slices, "_SLICE", 1e-6)
    for _ in range(2):
        session.undo()
        assert session._work.is_busy
    assert session.labels.data[-1].any()  # not there yet
    session.wait()
    np.testing.assert_array_equal(masks(session), clicked)
    for _ in range(2):
        session.redo()
    session.wait()
    np.testing.assert_array_equal(masks(session), whole)


def test_an_object_is_removed_from_a_long_video_while_the_window_lives(session, surgery, monkeypatch):
    track(session)
    tracked = masks(session)
    monkeypatch.setattr(slices, "_SLICE", 1e-6)
    session.remove_object(2)
    assert 2 not in session.object_ids  # at once
    assert (session.labels.data == 2).any()
    clicked = click_on(surgery, true_objects(surgery)[0], 1, frame=7)
    session.add_prompts([clicked])  # waits
    session.wait()
    assert not (session.labels.data == 2).any()
    assert clicked in session.all_prompts
    session.undo()  # the click
    session.undo()
    session.wait()
    np.testing.assert_array_equal(masks(session), tracked)
    assert 2 in session.object_ids


def test_an_undo_that_waited_takes_back_nothing_that_was_said_after_it(session, surgery, monkeypatch):
    track(session)
    monkeypatch.setattr(slices, "_SLICE", 1e-6)
    session.undo()
    session.undo()  # waits
    clicked = click_on(surgery, true_objects(surgery)[0], 3, frame=6)
    session.add_prompts([clicked])
    session.wait()
    assert clicked in session.all_prompts
    assert len(session.all_prompts) == 3


def test_what_is_saved_or_measured_right_after_a_removal_is_without_the_object(session, surgery, monkeypatch):
    track(session)
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    session.remove_object(2)
    clicked = click_on(surgery, true_objects(surgery)[0], 1, frame=7)
    session.add_prompts([clicked])
    labels = StackLabels(session)
    assert not any((labels[t] == 2).any() for t in range(FRAMES))
    assert clicked in session.all_prompts
    session.wait()


def test_removing_an_object_twice_is_one_step(session, monkeypatch):
    track(session)
    tracked = masks(session)
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    session.remove_object(2)
    session.remove_object(2)
    session.wait()
    session.undo()
    session.wait()
    np.testing.assert_array_equal(masks(session), tracked)


def test_what_is_painted_of_an_object_while_it_is_removed_counts_where_it_stays(session, monkeypatch):
    track(session)
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    session.remove_object(2)
    paint(session, 0, 2, *GROUND)  # in a frame that is done
    session.wait()
    assert (session.canvas.frame(0) == 2).any()
    assert session.drawing.edited == {(0, 2)}
    assert 2 in session.object_ids


def test_a_new_object_takes_no_number_that_later_frames_of_the_users_labels_have(session, monkeypatch):
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    mine = np.zeros(session.labels.data.shape, np.uint8)
    mine[-1, :9, :9] = 3
    session.use_labels(session.viewer.add_labels(mine))
    assert session.new_object() == 4


def test_undoing_a_click_whose_mask_has_not_come_needs_no_labels(session, surgery):
    session.viewer.layers.remove(session.labels)
    session.add_prompts([click_on(surgery, true_objects(surgery)[0], 6)])
    session.read_prompts()
    session.undo()
    session.wait()
    assert told() == []
    assert 6 not in {p.object_id for p in session.all_prompts}


def test_undo_forgets_that_a_mask_was_painted_and_redo_knows_it_again(session):
    """Otherwise its frame, empty again, would say that the object is not there."""
    track(session)
    paint(session, 3, 1, *GROUND)
    painted = masks(session)
    session.undo()  # the stroke
    session.undo()  # the pass
    session.wait()
    assert not session.canvas.frame(3).any()
    track(session)
    assert not any(isinstance(p, Mask) for p in session.all_prompts)
    assert (session.canvas.frame(3) == 1).any()
    session.undo()
    session.redo()
    session.wait()
    paint(session, 3, 1, *GROUND)
    session.undo()
    session.redo()
    session.wait()
    np.testing.assert_array_equal(session.labels.data, painted)
    track(session)
    assert [(p.frame, p.object_id) for p in session.all_prompts if isinstance(p, Mask)] == [(3, 1)]
    np.testing.assert_array_equal(session.canvas.frame(3) == 1, painted[3] == 1)


def test_a_click_after_an_undone_pass_refines_the_mask_that_is_seen(qapp):
    """And not the one of the pass that is undone, which the tracker had in its place."""
    video = np.random.default_rng(7).integers(40, 60, (6, 96, 112)).astype(np.uint8)
    other = np.zeros(video.shape, dtype=bool)
    for t in range(len(video)):
        video[t][ellipse(30, 30 + 2 * t, 16, 14)] += 140
        other[t][ellipse(70, 80 - 2 * t, 12, 16)] = True
    video[other] += 180
    with session_on(video) as session:
        click(session, Point(0, 30.0, 30.0, 1))
        track_there(session, "forward")
        before = masks(session)
        click(session, Mask(3, other[3], 1))
        track_there(session, "forward", start=3)
        assert overlap(masks(session)[5] == 1, before[5] == 1) < 0.5
        session.undo()
        session.undo()
        session.wait(30)
        np.testing.assert_array_equal(masks(session), before)
        click(session, Point(5, 30.0, 58.0, 1, False))  # beside it
        assert overlap(masks(session)[5] == 1, before[5] == 1) > 0.9


def test_an_object_that_comes_back_has_what_was_painted_of_it(session):
    track(session)
    paint(session, 5, 2, *GROUND)
    by_hand = session.canvas.frame(5) == 2
    session.remove_object(2)
    session.undo()
    session.wait()
    track(session)
    np.testing.assert_array_equal(session.canvas.frame(5) == 2, by_hand)


@pytest.fixture
def removed(session):
    """A session in which the second object was prompted again, tracked and removed."""
    session.add_prompts([Point(5, *GROUND, 2)])
    session.wait()
    track(session)
    session.remove_object(2)
    session.wait()
    return session


def fill_disk(session, writes, for_good):
    """Let a write of masks fail after some more, and all after it too, or not."""
    write, left = session.canvas.write_at, iter([True] * writes + [False])

    def failing(index, labels):
        if not next(left, not for_good):
            raise OSError(28, "No space left on device")
        write(index, labels)

    session.canvas.write_at = failing


def make_room(session):
    del session.canvas.write_at


@pytest.mark.parametrize("writes", [0, 1, 5])
@pytest.mark.parametrize("how", ["undo", "redo"])
def test_undo_that_cannot_be_written_leaves_everything_as_it_was(how, writes, removed):
    if how == "redo":
        removed.undo()
        removed.wait()
    before, prompts = masks(removed), removed.all_prompts
    steps = removed.history.can_undo, removed.history.can_redo
    present = removed.records[2].present.copy()

    fill_disk(removed, writes, for_good=False)
    getattr(removed, how)()
    removed.wait()

    np.testing.assert_array_equal(removed.labels.data, before)
    np.testing.assert_array_equal(removed.records[2].present, present)
    assert removed.all_prompts == prompts
    assert (removed.history.can_undo, removed.history.can_redo) == steps
    (said,) = told()
    assert said.startswith(f"{how.capitalize()} of 'removing object 2' failed")
    assert "No space left on device" in said
    assert "everything is as it was before" in said

    make_room(removed)
    getattr(removed, how)()
    removed.wait()
    assert (removed.labels.data == 2).any() == (how == "undo")
    assert (2 in {p.object_id for p in removed.all_prompts}) == (how == "undo")


def test_undo_goes_on_where_it_could_not_be_taken_back(removed):
    fill_disk(removed, 3, for_good=True)
    removed.undo()
    removed.wait()
    (said,) = told()
    assert "3 frames could not be put back" in said
    assert 2 not in {p.object_id for p in removed.all_prompts}

    make_room(removed)
    removed.undo()
    removed.wait()
    assert (removed.labels.data == 2).any(axis=(1, 2)).all()
    undone = masks(removed)
    removed.redo()
    removed.wait()
    assert not (removed.labels.data == 2).any()
    removed.undo()
    removed.wait()
    np.testing.assert_array_equal(removed.labels.data, undone)


def test_a_removal_that_cannot_be_written_is_undone(session):
    track(session)
    tracked = masks(session)
    fill_disk(session, 3, for_good=False)
    session.remove_object(2)
    session.wait()
    (said,) = told()
    assert said.startswith("Object 2 is removed only in part")
    session.undo()
    session.wait()
    np.testing.assert_array_equal(session.labels.data, tracked)
    assert 2 in session.object_ids


@pytest.mark.parametrize("layer", ["labels", "points"])
def test_a_layer_removed_while_a_long_step_is_undone_leaves_a_session_that_works(
    layer, session, surgery, monkeypatch
):
    track(session)
    tracked = masks(session)
    monkeypatch.setattr(slices, "_SLICE", 1e-6)
    session.undo()
    assert session._work.is_busy
    session.viewer.layers.remove(getattr(session, layer))
    session.wait()
    assert not session._work.is_busy
    assert told() == []
    if layer == "points":
        np.testing.assert_array_equal(session.canvas.frame(0), tracked[0])  # masks outlive their clicks
        assert not session.labels.data[1:].any()
    session.add_prompts([click_on(surgery, true_objects(surgery)[0])])
    session.wait()
    assert (session.canvas.frame(0) == 1).any()


def test_undo_waits_for_tracking(widget, session):
    press(widget.controls.track_all)
    assert not widget.controls.undo.enabled
    session.undo()
    assert told(NotificationSeverity.INFO) == ["Undo and redo wait until tracking has stopped."]
    widget.wait()
    assert widget.controls.undo.enabled
    session.undo()
    session.wait()
    assert not session.labels.data[1:].any()


def test_clicks_while_tracking_are_taken_into_account_and_undone_one_by_one(session, surgery):
    before = masks(session)
    session.track()
    until(lambda: session.canvas.frame(1).any())
    session.set_current_object(3)
    session.add_prompts([Point(0, *GROUND, 3), Point(7, *GROUND, 3)])
    session.wait()
    tracked = masks(session)
    assert (tracked == 3).any(axis=(1, 2))[[0, 7]].all()
    assert (tracked == 3).any(axis=(1, 2)).sum() > 2
    undone = []
    while 3 in {p.object_id for p in session.all_prompts}:
        undone.append(session.history.can_undo)
        session.undo()
        session.wait()
    assert undone[-1] == "adding prompts of 2 places"
    assert set(undone[:-1]) == {"tracking"}
    assert not (session.labels.data == 3).any()
    assert session.labels.data[1].any()
    assert session.history.can_undo == "tracking"
    session.undo()
    session.wait()
    np.testing.assert_array_equal(session.labels.data, before)
    for _ in range(len(undone) + 1):
        session.redo()
    session.wait()
    np.testing.assert_array_equal(session.labels.data, tracked)


def test_another_video_has_a_history_of_its_own(widget, session, surgery):
    first, before = session.image, masks(session)
    other = widget.viewer.add_image(surgery.video[:FRAMES][::-1], name="other")
    widget.controls.video.value = other
    widget.wait()
    assert not widget.controls.undo.enabled
    widget.session.undo()
    widget.session.redo()
    widget.controls.video.value = first
    widget.wait()
    assert not widget.controls.undo.enabled
    widget.session.undo()
    np.testing.assert_array_equal(widget.session.labels.data, before)


def test_other_layers_to_work_in_begin_without_a_history(widget, session, surgery):
    before = masks(session)
    empty = widget.viewer.add_labels(np.zeros(before.shape, np.uint8), name="mine")
    points = widget.viewer.add_points(np.zeros((0, 3)), name="own", features={"note": np.empty(0)})
    widget.controls.masks_in.value = empty
    assert session.labels is empty
    session.undo()
    session.wait()
    assert not empty.data.any()
    widget.controls.clicks_in.value = points
    session.wait()
    assert session.all_prompts == []
    session.undo()
    session.wait()
    assert len(points.data) == 0
    session.add_prompts([click_on(surgery, true_objects(surgery)[0])])
    session.wait()
    assert empty.data.any()
    assert "note" in points.features
    np.testing.assert_array_equal(widget.viewer.layers["clip masks"].data, before)


# Keys


def test_keys(make_napari_viewer, open_widget, surgery, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(surgery.video[:3])
    widget = open_widget(viewer)
    session, canvas = widget.session, viewer.window._qt_viewer.canvas.native
    session.go_to(0)

    def key(which, modifier=Qt.KeyboardModifier.NoModifier):
        qtbot.keyClick(canvas, which, modifier)
        QApplication.processEvents()

    control, shift = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
    session.add_prompts([click_on(surgery, true_objects(surgery)[0])])
    widget.wait()
    drawn = masks(session)
    assert viewer.layers.selection.active is session.points
    key(Qt.Key.Key_T)
    assert not session.positive
    assert widget.controls.polarity.text == "− not it"
    key(Qt.Key.Key_T)
    assert session.positive
    key(Qt.Key.Key_Z, control)
    widget.wait()
    assert session.all_prompts == []
    assert not session.labels.data.any()
    key(Qt.Key.Key_Z, control | shift)
    widget.wait()
    np.testing.assert_array_equal(session.labels.data, drawn)
    session.points.selected_data = {0}
    key(Qt.Key.Key_T, shift)
    widget.wait()
    assert not session.all_prompts[0].positive
    key(Qt.Key.Key_Z, control)
    widget.wait()
    assert session.all_prompts[0].positive
    key(Qt.Key.Key_N)
    assert session.current_object == 2
    session.records.note(1, 2, 0.2, True)
    key(Qt.Key.Key_J)
    assert (session.current_frame, session.current_object) == (2, 1)
    # In the Labels layer Ctrl+Z is its own.
    widget.controls.paint.native.click()
    paint(session, 2, 1, 30, 30)
    steps = session.history.can_undo
    key(Qt.Key.Key_Z, control)
    assert not session.canvas.frame(2).any()
    assert session.history.can_undo == steps
    paint(session, 2, 1, 30, 30)
    key(Qt.Key.Key_C)
    widget.wait()
    assert [type(p) for p in session.all_prompts] == [Point, Mask]


@pytest.fixture
def naparis_keys():
    """napari's own keys, bound as its window does when it is made."""
    for action, keys in default_shortcuts.items():
        for key in keys:
            action_manager.bind_shortcut(action, key)
    yield
    for action in default_shortcuts:
        action_manager.unbind_shortcut(action)


@pytest.mark.filterwarnings("ignore:Could not resolve type hint:UserWarning")  # of one that needs a window
@pytest.mark.parametrize("layer", ["image", "points", "boxes", "labels"])
def test_no_key_is_taken_from_napari(layer, naparis_keys, widget):
    widget.session.box_mode()
    viewer, selected = widget.viewer, getattr(widget.session, layer)
    chain = KeymapHandler()
    chain.keymap_providers = [selected, viewer]
    naparis = {**viewer.class_keymap, **selected.class_keymap}
    assert len(naparis) > 20
    for key, function in naparis.items():
        assert chain.active_keymap[key].__func__ is function, key
    ours = {str(key) for key in viewer.keymap if key not in naparis}
    assert {"T", "C", "N", "J"} - ours == {"image": {"C"}, "boxes": {"T"}}.get(layer, set())


def test_a_shortcut_of_the_users_own_for_the_viewer_stays(open_widget, monkeypatch):
    """As napari's preferences make it, on the class."""
    monkeypatch.setattr(ViewerModel, "class_keymap", {coerce_keybinding("J"): print})
    widget = open_widget(ViewerModel())
    assert coerce_keybinding("J") not in widget.viewer.keymap
    assert coerce_keybinding("N") in widget.viewer.keymap


# Passes


def test_stop_takes_effect_at_once_and_going_on_finishes(widget, session):
    press(widget.controls.track_all)
    until(lambda: session.canvas.frame(2).any())
    seen = []
    session.progressed.connect(lambda frame: seen.append(frame.answer.frame))
    press(widget.controls.stop)
    began = time.monotonic()
    widget.wait()
    assert time.monotonic() - began < 2
    assert len(seen) <= 5  # those that waited to be shown, and the one under way
    reached = int(session.records[1].present.sum()) - 1
    assert 2 <= reached < FRAMES - 1
    kept = masks(session)
    assert widget.controls.pace.text().startswith("Stopped")
    press(widget.controls.track_all)
    widget.wait()
    np.testing.assert_array_equal(session.labels.data[: reached + 1], kept[: reached + 1])
    assert session.records[1].present.all()


def test_tracking_from_here_changes_nothing_before(widget, session):
    track(session)
    before = masks(session)
    session.labels.data[:] = np.where(before == 1, 9, before)  # so that what is written anew shows
    session.drawing.preserve = False
    session.go_to(5)
    press(widget.controls.track_forward)
    widget.wait()
    assert not (session.labels.data[:5] == 1).any()
    assert all((session.labels.data[t] == 1).any() for t in range(5, FRAMES))
    session.go_to(2)
    press(widget.controls.track_backward)
    widget.wait()
    assert [(session.labels.data[t] == 1).any() for t in range(FRAMES)] == [True] * 3 + [False] * 2 + [
        True
    ] * 3


def test_corrections_stay_whichever_way_tracking_passes(widget, surgery):
    session = widget.session
    session.add_prompts([click_on(surgery, true_objects(surgery)[0])])
    session.wait()
    mask = np.zeros(session.stack.shape[1:], bool)
    mask[30:60, 40:80] = True
    track(session)
    session.add_prompts([Mask(4, mask, 1), Point(2, *GROUND, 1, False)])
    session.wait()
    corrected = masks(session)
    for direction, start in (("forward", 0), ("backward", 7), ("both", None)):
        track(session, direction, start)
        for frame in (0, 2, 4):
            np.testing.assert_array_equal(session.labels.data[frame], corrected[frame], err_msg=direction)


@pytest.mark.parametrize("preserve", [True, False])
def test_other_labels_are_preserved_if_asked(preserve, widget, session):
    widget.controls.preserve.value = preserve
    middle = int(np.median(np.nonzero(session.canvas.frame(0) == 1)[1]))
    session.labels.data[:, :, middle:] = 7  # over half of an object
    theirs = session.labels.data == 7
    track(session)
    assert ((session.labels.data == 7) == theirs).all() == preserve
    assert (session.labels.data[-1] == 1).any() or (session.labels.data[-1] == 2).any()


def test_an_object_that_has_left_leaves_no_ghost(open_widget, surgery):
    viewer = ViewerModel()
    video = surgery.video[:FRAMES].copy()
    video[4:] = 0
    viewer.add_image(video)
    widget = open_widget(viewer)
    session = widget.session
    session.add_prompts([click_on(surgery, true_objects(surgery)[0])])
    session.wait()
    session.labels.data[1:, 100:150, 100:150] = 1
    track(session)
    assert all(session.canvas.frame(t).any() for t in range(3))
    assert not session.canvas.frame(FRAMES - 1).any()
    assert not session.records[1].present[-1]
    assert session.records[1].confidence[-1] >= 0
    session.undo()
    session.wait()
    assert (session.labels.data[1:, 100:150, 100:150] == 1).all()


@pytest.mark.parametrize("counts", [True, False])
def test_what_is_painted_by_hand_stays_if_asked(counts, widget, session):
    widget.controls.painted_counts.value = counts
    track(session)
    tracked = masks(session)
    paint(session, 3, 1, *GROUND)
    by_hand = session.canvas.frame(3) == 1
    assert by_hand.sum() > (tracked[3] == 1).sum()
    track(session)
    assert np.array_equal(session.canvas.frame(3) == 1, by_hand) == counts
    if not counts:
        np.testing.assert_array_equal(session.labels.data, tracked)
        return
    assert {(p.frame, p.object_id) for p in session.all_prompts if isinstance(p, Mask)} == {(3, 1)}
    # Taking all that back, the paint stays, and stays when tracking passes again.
    session.undo()
    session.undo()
    session.wait()
    assert not any(isinstance(p, Mask) for p in session.all_prompts)
    np.testing.assert_array_equal(session.canvas.frame(3) == 1, by_hand)
    track(session)
    np.testing.assert_array_equal(session.canvas.frame(3) == 1, by_hand)


def test_one_more_click_refines_what_was_painted_over_a_clicked_mask(session, surgery):
    paint(session, 0, 1, *GROUND, size=20)
    by_hand = session.canvas.frame(0) == 1
    session.add_prompts([click_on(surgery, true_objects(surgery)[0])])
    session.wait()
    kept = session.canvas.frame(0) == 1
    assert (kept & by_hand).sum() > 0.5 * by_hand.sum()
    # Painted and clicked once more, the first clicks do not count again.
    paint(session, 0, 1, *GROUND, size=20)
    session.add_prompts([Point(0, *GROUND, 1)])
    session.wait()
    assert [type(p) for p in session.all_prompts if (p.frame, p.object_id) == (0, 1)] == [Mask, Point]


def test_other_settings_leave_the_masks_that_were_tracked(session):
    """Among them one that a negative click corrected, from which alone none can be made."""
    track(session)
    y, x = np.argwhere(session.canvas.frame(4) == 1).mean(axis=0)
    session.add_prompts([Point(4, float(y), float(x), 1, positive=False)])
    session.wait()
    track(session)
    tracked = masks(session)
    session.set_choice(replace(session.choice, settings=session.choice.settings.replace(fill_holes=30)))
    session.wait()
    np.testing.assert_array_equal(session.labels.data, tracked)


def test_a_click_that_was_overtaken_draws_nothing_later(widget, surgery):
    session = widget.session
    click = click_on(surgery, true_objects(surgery)[0])
    settings = session.choice.settings
    with session._thread._changed:  # so that only the second is answered
        for y in (click.y, click.y + 2):
            session.add_prompts([Point(0, y, click.x)])
            session.read_prompts()
    session.wait()
    paint(session, 0, 1, *GROUND)
    by_hand = masks(session)
    session.set_choice(replace(session.choice, settings=settings.replace(fill_holes=30)))
    session.wait()
    np.testing.assert_array_equal(session.labels.data, by_hand)


def test_what_is_painted_while_tracking_stays(session):
    session.track()
    until(lambda: session.canvas.frame(1).any())
    paint(session, 6, 1, *GROUND)
    by_hand = session.canvas.frame(6) == 1
    session.wait()
    np.testing.assert_array_equal(session.canvas.frame(6) == 1, by_hand)
    assert (session.canvas.frame(6) == 2).any()
    assert (session.canvas.frame(7) == 1).any()
    session.remove_object(1)  # what was painted goes with it, and does not bring it back
    session.wait()
    assert not (session.labels.data == 1).any()
    track(session)
    assert not (session.labels.data == 1).any()


def test_only_some_frames_and_objects(widget, session):
    controls = widget.controls
    controls.use_range.value = True
    controls.first.value, controls.last.value = 2, 4
    widget.wait()
    session.go_to(6)
    press(controls.track_forward)
    assert len(told()) == 1
    assert "Frame 6, which is in view, is not among frames 2 to 4" in told()[0]
    controls.first.value, controls.last.value = 5, 4
    press(controls.track_all)
    assert "the first must not be after the last" in told()[1]
    controls.first.value = 2
    press(controls.track_all)
    widget.wait()
    assert [t for t in range(1, FRAMES) if session.canvas.frame(t).any()] == [2, 3, 4]
    session.undo()
    session.wait()
    track(session, objects=[2])
    assert set(np.unique(session.labels.data[1:])) == {0, 2}
    assert np.isnan(session.records[1].confidence[1:]).all()


def test_a_click_after_an_undone_pass_begins_anew(widget, session, surgery):
    """It refines no mask that the user does not see any more."""
    label = true_objects(surgery)[0]
    session.track()
    session.wait()
    session.undo()
    session.wait()
    last = FRAMES - 1
    assert not session.canvas.frame(last).any()
    session.add_prompts([click_on(surgery, label, frame=last)])
    session.wait()
    after_undo = session.canvas.frame(last) == 1
    session.remove_object(1)
    session.add_prompts([click_on(surgery, label, frame=last)])
    session.wait()
    np.testing.assert_array_equal(session.canvas.frame(last) == 1, after_undo)

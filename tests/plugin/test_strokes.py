"""What the user paints by hand: nothing that comes later may take it away unasked."""

from __future__ import annotations

import time

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_surgsam2._napari.canvas import MaskCanvas
from napari_surgsam2._napari.prompts import PromptLayers
from napari_surgsam2._napari.stacks import stack_of
from napari_surgsam2.errors import DeviceMemoryError
from napari_surgsam2.prompts import Mask, Point
from napari_surgsam2.tracking import Tracker

from .conftest import until
from .sessions import blob_clip, click, middle, session_on, track

N = 6
VIDEO, MASKS = blob_clip(N)
BESIDE = (80, 95)  # where the clip has nothing


@pytest.fixture
def session(qapp):
    """A session on a short clip, in which object 1 is clicked in the first frame."""
    with session_on(VIDEO) as opened:
        click(opened, middle(MASKS))
        yield opened


def paint(session, frame, object_id, y, x, size=9):
    """Paint as the brush does, and return the frame as it is then."""
    session.labels.brush_size = size
    session.labels.paint((frame, y, x), object_id)
    return session.canvas.frame(frame).copy()


def masks(session):
    return session.labels.data.copy()


def given(session, frame):
    """Return the kinds of prompts on a frame."""
    return [type(p) for p in session.all_prompts if p.frame == frame]


# Masks that come later


def test_a_click_on_one_object_leaves_what_was_painted_of_another(session):
    click(session, Point(0, *map(float, BESIDE), 2))
    track(session)
    y, x = np.argwhere(MASKS[2]).mean(axis=0).astype(int).tolist()
    painted = paint(session, 2, 2, y, x)  # in the midst of object 1

    click(session, Point(2, y + 9.0, float(x), 1))

    np.testing.assert_array_equal(session.canvas.frame(2) == 2, painted == 2)
    assert (session.canvas.frame(2) == 1).any()


def click_and_paint(session, object_id=1):
    """Click and paint in frame 3 before the mask of the click comes; return what was painted, as labels."""
    session.add_prompts([middle(MASKS, 3)])
    session.read_prompts()  # the mask is on its way
    paint(session, 3, object_id, *BESIDE)
    y, x = np.argwhere(MASKS[3])[0].tolist()  # half on the object
    painted = paint(session, 3, object_id, y, x)
    assert (painted > 0).sum() < 200
    return painted


@pytest.mark.parametrize("object_id", [1, 2])
def test_the_mask_of_a_click_comes_under_a_stroke_that_was_quicker(object_id, session):
    click(session, middle(MASKS, 3))
    clicked = session.canvas.frame(3).copy()
    session.undo()
    session.wait(30)
    assert not session.canvas.frame(3).any()

    painted = click_and_paint(session, object_id)
    session.wait(30)

    both = np.where(painted > 0, painted, clicked)
    np.testing.assert_array_equal(session.canvas.frame(3), both)
    track(session)  # and the whole is what tracking keeps
    (given_there,) = (p for p in session.all_prompts if isinstance(p, Mask))
    np.testing.assert_array_equal(given_there.mask, both == object_id)


def test_strokes_over_a_mask_that_was_slower_are_undone_one_by_one(session):
    before = masks(session)
    painted = click_and_paint(session)
    session.wait(30)
    both = masks(session)
    states = [both]
    while session.history.can_undo != "adding prompts of object 1 on frame 0":
        session.undo()
        session.wait(30)
        states.append(masks(session))
    assert len(states) == 4
    clicked = states[2][3] == 1
    assert clicked[painted == 0].any()  # the mask is there without the strokes
    assert not clicked[BESIDE]
    np.testing.assert_array_equal(states[3], before)
    for state in states[-2::-1]:
        session.redo()
        session.wait(30)
        np.testing.assert_array_equal(session.labels.data, state)


def test_a_stroke_undone_before_the_mask_of_a_click_comes_leaves_the_mask(session):
    click(session, middle(MASKS, 3))
    clicked = masks(session)
    session.undo()
    session.wait(30)
    painted = click_and_paint(session)
    session.undo()
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(session.labels.data, clicked)
    session.redo()
    session.redo()
    session.wait(30)
    np.testing.assert_array_equal(session.canvas.frame(3), np.where(painted > 0, painted, clicked[3]))


def test_clicks_before_and_after_a_stroke_that_was_quicker_both_count(session):
    """Here the stroke is no mask that the second click refines: that of the first one is to come yet."""
    painted = click_and_paint(session)
    second = Point(3, *np.argwhere(MASKS[3]).mean(axis=0) + 3)
    session.add_prompts([second])
    session.wait(30)
    assert [p for p in session.all_prompts if p.frame == 3] == [middle(MASKS, 3), second]
    found = session.canvas.frame(3)
    np.testing.assert_array_equal(found[painted > 0], painted[painted > 0])
    assert (found == 1).sum() > 0.5 * MASKS[3].sum()


def test_a_stroke_that_was_quicker_than_a_mask_outlives_a_pass_that_was_asked_for_at_once(session):
    painted = click_and_paint(session)
    session.track()
    session.wait(60)
    found = session.canvas.frame(3)
    np.testing.assert_array_equal(found[painted > 0], painted[painted > 0])
    assert (found == 1)[MASKS[3]].mean() > 0.7
    assert given(session, 3) == [Point]
    track(session)
    assert given(session, 3) == [Mask]
    np.testing.assert_array_equal(session.canvas.frame(3), found)


def move(session):
    data = session.points.data.copy()
    data[-1, 1] += 2
    session.points.data = data


def flip(session):
    session.points.selected_data = {len(session.points.data) - 1}
    session.flip_selected()


def delete(session):
    session.points.selected_data = {len(session.points.data) - 1}
    session.points.remove_selected()


@pytest.mark.parametrize("change", [move, flip])
@pytest.mark.parametrize("clicks", [1, 2])
def test_a_click_that_changes_after_a_stroke_refines_what_was_painted(change, clicks, session):
    click(session, *[middle(MASKS, 3)] * clicks)
    painted = paint(session, 3, 1, *BESIDE)

    change(session)
    session.wait(30)

    assert given(session, 3) == [Mask, Point]
    assert (session.all_prompts[1].mask == (painted == 1)).all()


@pytest.mark.parametrize("clicks", [1, 2])
def test_a_stroke_outlives_the_click_that_it_was_made_after(clicks, session):
    click(session, *[middle(MASKS, 3)] * clicks)
    painted = paint(session, 3, 1, *BESIDE)

    delete(session)
    session.wait(30)

    assert given(session, 3) == [Mask]
    np.testing.assert_array_equal(session.canvas.frame(3), painted)


def test_clear_frame_takes_what_was_painted_over_a_click_with_it(session):
    click(session, middle(MASKS, 3))
    painted = paint(session, 3, 1, *BESIDE)
    session.clear_frame(3)
    session.wait(30)
    assert given(session, 3) == []
    assert not session.canvas.frame(3).any()
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(session.canvas.frame(3), painted)
    assert session.drawing.edited == {(3, 1)}


def test_two_clicks_on_what_was_painted_both_count(session):
    """Also where the first one's mask has not come when the second is made."""
    paint(session, 3, 1, 40, 45)
    for y in (40.0, 42.0):
        session.add_prompts([Point(3, y, 45.0, 1)])
        session.read_prompts()
    session.wait(30)
    assert given(session, 3) == [Mask, Point, Point]


# Undo


def test_a_stroke_is_a_step_that_can_be_undone(session):
    track(session)
    tracked = masks(session)
    paint(session, 3, 1, *BESIDE)
    paint(session, 4, 7, *BESIDE)  # of another object
    painted = masks(session)
    assert session.history.can_undo == "painting frame 4"

    session.undo()
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(session.labels.data, tracked)
    assert session.drawing.edited == set()

    session.redo()
    session.redo()
    session.wait(30)
    np.testing.assert_array_equal(session.labels.data, painted)
    assert session.drawing.edited == {(3, 1), (4, 7)}


def test_a_stroke_that_napari_took_back_is_no_step_any_more(session):
    track(session)
    paint(session, 3, 1, *BESIDE)
    session.labels.undo()
    session.undo()
    session.wait(30)
    assert not session.labels.data[1:].any()  # the pass is undone


def test_a_stroke_through_several_frames_is_one_step(session):
    before = masks(session)
    session.labels.n_edit_dimensions = 3
    paint(session, 3, 2, *BESIDE, size=5)
    assert session.history.can_undo == "painting 5 frames"
    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(session.labels.data, before)


def test_a_stroke_after_undo_cannot_be_lost_by_redo(session):
    track(session)
    session.undo()
    session.wait(30)
    painted = paint(session, 3, 1, *BESIDE)
    session.redo()
    session.wait(30)
    np.testing.assert_array_equal(session.canvas.frame(3), painted)


def test_a_stroke_while_tracking_is_undone_before_what_was_tracked_until_then(session):
    clicked = masks(session)
    session.track()
    until(lambda: session.canvas.frame(1).any())
    paint(session, 1, 1, *BESIDE)
    paint(session, N - 1, 1, *BESIDE)
    session.wait(60)
    tracked = masks(session)
    steps = 0
    while session.history.can_undo != "adding prompts of object 1 on frame 0":
        session.undo()
        session.wait(30)
        steps += 1
    np.testing.assert_array_equal(session.labels.data, clicked)
    for _ in range(steps):
        session.redo()
    session.wait(30)
    np.testing.assert_array_equal(session.labels.data, tracked)


# Labels of another type


def test_labels_of_another_type_hold_what_is_known_of_them(session):
    """napari's 'Convert data type' puts another array in place of theirs."""
    track(session)
    painted = paint(session, 3, 1, *BESIDE)
    confidence = session.records[1].confidence.copy()

    session.labels.data = session.labels.data.astype(np.uint8)
    session.wait(30)

    np.testing.assert_array_equal(session.records[1].confidence, confidence)
    assert session.drawing.edited == {(3, 1)}
    assert session.history.can_undo == ""
    track(session)
    np.testing.assert_array_equal(session.canvas.frame(3) == 1, painted == 1)
    session.labels.data = np.zeros_like(session.labels.data)
    assert np.isnan(session.records[1].confidence).all()


# How long it takes


def test_painting_through_many_frames_looks_at_every_pixel_once(qapp):
    data = np.zeros((2000, 32, 32), np.uint8)
    viewer = ViewerModel()
    image = viewer.add_image(data)
    told = []
    stack = stack_of(image, 0, (0.0, 0.0, 0.0))
    canvas = MaskCanvas(viewer, viewer.add_labels(data.copy()), stack, told.extend)
    where = tuple(axis.ravel() for axis in np.mgrid[0:2000, 0:32, 0:32])
    began = time.monotonic()
    canvas.layer.data_setitem(where, np.full(where[0].shape, 4, np.uint8))
    assert time.monotonic() - began < 3
    assert [(s.frame, s.painted, s.over) for s in told] == [(t, {4}, set()) for t in range(2000)]
    canvas.close()


def test_the_prompts_are_read_no_more_often_where_more_frames_are_painted(session, monkeypatch):
    for t in range(1, N):
        paint(session, t, 1, *BESIDE)
    read, counted = PromptLayers.read, []
    monkeypatch.setattr(PromptLayers, "read", lambda *args: counted.append(1) or read(*args))
    track(session)
    assert sum(isinstance(p, Mask) for p in session.all_prompts) == N - 1
    assert len(counted) < 4


def test_many_boxes_are_added_at_once(session):
    from napari_surgsam2.prompts import Box

    boxes = [Box(t, 10.0, 10.0, 60.0, 70.0, 3) for t in range(N)]
    session.box_mode()
    told = []
    session.boxes.events.data.connect(lambda event: told.append(event.action))
    session.add_prompts(boxes)
    session.read_prompts()
    assert [p for p in session.all_prompts if isinstance(p, Box)] == boxes
    assert len(told) == 2  # adding, added
    session.wait(60)


def test_what_is_painted_where_a_click_led_to_no_mask_counts(session, monkeypatch):
    """No mask comes that it could go on top of."""

    def full(*_):
        raise DeviceMemoryError("The device 'cpu' ran out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "set_prompts", full)
        click(session, Point(2, *map(float, BESIDE), 2))
    assert session.told == ["The device 'cpu' ran out of memory."]

    painted = paint(session, 2, 2, *BESIDE)
    track(session)

    assert Mask in given(session, 2)
    np.testing.assert_array_equal(session.canvas.frame(2) == 2, painted == 2)


# Strokes that a pass made prompts of, after undo

UPPER, LOWER = (10, 95), (80, 95)  # where the clip has nothing


def undo(session, times):
    for _ in range(times):
        session.undo()
        session.wait(30)


def test_two_strokes_of_which_one_is_undone_leave_the_other(session):
    first = paint(session, 3, 1, *UPPER)
    track(session)
    paint(session, 3, 1, *LOWER)
    undo(session, 3)  # the second stroke, the pass, and that the first became a prompt
    np.testing.assert_array_equal(session.canvas.frame(3), first)
    track(session)
    np.testing.assert_array_equal(session.canvas.frame(3) == 1, first == 1)


def test_a_stroke_beside_a_painted_prompt_is_painted_still_when_its_pass_is_undone(session):
    paint(session, 3, 1, *UPPER)
    session.use_painted(3, 1)
    session.wait(30)
    both = paint(session, 3, 1, *LOWER)
    track(session)
    undo(session, 2)  # the pass, and that both strokes became a prompt
    np.testing.assert_array_equal(session.canvas.frame(3), both)
    track(session)
    np.testing.assert_array_equal(session.canvas.frame(3) == 1, both == 1)


def test_an_undone_click_leaves_no_tracked_mask_as_a_prompt(session):
    """Where the tracker does not know the mask, the click makes a prompt of it."""
    track(session)
    undo(session, 1)
    session.redo()
    session.wait(30)
    click(session, middle(MASKS, frame=3))
    assert Mask in given(session, 3)
    undo(session, 1)
    track(session)
    assert given(session, 3) == []

"""A click on one object takes what it is on from the mask of another one in the frame."""

from dataclasses import replace

import numpy as np
import pytest

from napari_surgsam2 import TrackingSettings
from napari_surgsam2.prompts import Point, central_position
from napari_surgsam2.synthetic import make_scene

from .sessions import blob_clip, click, middle, overlap, session_on, track


@pytest.fixture(scope="module")
def instruments():
    """A frame (1, Y, X, 3) with two instruments that touch, and the mask of each."""
    picture, labels = make_scene(63140, 1, (320, 400), "teamwork").draw(0)
    return picture[None], labels == 2, labels == 4


@pytest.fixture
def session(instruments, qapp):
    """A session in which one instrument is clicked, and the mask takes the other one in."""
    video, first, second = instruments
    with session_on(video) as opened:
        click(opened, on(first, 1))
        assert opened.canvas.frame(0)[central_position(second)] == 1
        yield opened


def on(mask, object_id, frame=0):
    """Return a click in the middle of a mask."""
    y, x = central_position(mask)
    return Point(frame, float(y), float(x), object_id)


def masks(session):
    return session.canvas.frame(0).copy()


def test_a_click_on_another_object_mends_the_mask_that_took_it_in(session, instruments):
    _, first, second = instruments
    both = masks(session)

    click(session, on(second, 2))

    now = masks(session)
    assert overlap(now == 1, first) > overlap(both == 1, first) + 0.1
    assert overlap(now == 2, second) > 0.6
    assert now[central_position(first)] == 1
    assert now[central_position(second)] == 2


def test_that_is_one_step(session, instruments):
    both = masks(session)
    click(session, on(instruments[2], 2))
    apart = masks(session)

    session.undo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), both)
    session.redo()
    session.wait(30)
    np.testing.assert_array_equal(masks(session), apart)


def test_the_tracker_has_the_masks_that_are_seen_after_undo(session, instruments):
    """What is tracked from the frame is what the user sees there."""
    click(session, on(instruments[2], 2))
    session.undo()
    session.wait(30)
    both = masks(session)

    session.track()
    session.wait(60)

    assert overlap(masks(session) == 1, both == 1) > 0.99


def test_it_is_so_in_whatever_order_they_come(session, instruments):
    """Both at once, as a project's or pasted ones are; and after a change of settings."""
    _, first, second = instruments
    click(session, on(second, 2))
    apart = masks(session)
    session.track()
    session.wait(60)
    np.testing.assert_array_equal(masks(session), apart)

    with session_on(instruments[0]) as other:
        click(other, on(first, 1), on(second, 2))
        assert overlap(masks(other) == 1, apart == 1) > 0.95
        other.set_choice(replace(other.choice, settings=TrackingSettings(remove_speckles=1)))
        other.wait(30)
        other.track()
        other.wait(60)
        assert overlap(masks(other) == 1, apart == 1) > 0.95


def test_a_click_before_the_others_mask_is_there_counts_too(instruments, qapp):
    video, first, second = instruments
    with session_on(video) as session:
        session.add_prompts([on(first, 1)])
        session.asking.take_up()
        session.add_prompts([on(second, 2)])
        session.asking.take_up()
        session.wait(30)
        assert masks(session)[central_position(second)] == 2
        assert overlap(masks(session) == 1, first) > 0.6


def test_a_removed_object_gives_nothing_back_that_is_not_drawn(session, instruments):
    """What is seen of the other one is what is tracked from."""
    click(session, on(instruments[2], 2))

    session.remove_object(2)
    session.wait(30)
    assert masks(session)[central_position(instruments[2])] == 0
    session.track()
    session.wait(60)

    assert masks(session)[central_position(instruments[2])] == 0


def test_what_was_tracked_before_a_change_of_settings_is_not_taken_away(session, instruments):
    """The new tracker knows nothing of it, and could make no mask of negative clicks alone."""
    video, first, second = instruments
    with session_on(np.repeat(video, 3, axis=0)) as tracked:
        click(tracked, on(first, 1))
        tracked.track()
        tracked.wait(60)
        click(tracked, Point(2, 2.0, 2.0, 1, False))
        tracked.set_choice(replace(tracked.choice, settings=TrackingSettings(remove_speckles=1)))
        tracked.wait(30)
        seen = tracked.canvas.frame(2) == 1
        assert seen.any()

        click(tracked, on(second, 2, frame=2))

        now = tracked.canvas.frame(2)
        assert (now == 1).sum() >= 0.5 * (seen & (now != 2)).sum() > 0


def test_a_mask_that_is_not_clicked_is_left_alone(session, instruments):
    both = masks(session)
    beside = np.argwhere(both == 0)[0].astype(float)
    asked = []
    session.asking._ask = lambda key, *_: asked.append(key[1])

    session.add_prompts([Point(0, *beside, 2)])
    session.asking.take_up()

    assert asked == [2]


def test_what_is_painted_stays(session, instruments):
    both = masks(session)
    session.labels.brush_size = 15
    session.labels.paint((0, *np.argwhere(both == 0)[0].tolist()), 1)
    painted = masks(session)
    assert (painted != both).any()

    click(session, on(instruments[2], 2))

    np.testing.assert_array_equal(masks(session) == 1, painted == 1)


def test_a_click_on_what_another_object_was_tracked_to_takes_it_over(qapp):
    """In the frame of the click at once, and from there on when it is tracked."""
    video, moving = blob_clip(5)
    with session_on(video) as session:
        click(session, middle(moving))
        track(session)
        assert [int(session.canvas.frame(t).max()) for t in range(5)] == [1] * 5
        before = session.canvas.frame(2).copy()

        click(session, middle(moving, 2, object_id=2))

        now = session.canvas.frame(2).copy()
        assert overlap(now == 2, moving[2]) > 0.7
        assert not (now == 1).any()
        session.undo()
        session.wait(30)
        np.testing.assert_array_equal(session.canvas.frame(2), before)
        session.redo()
        session.wait(30)
        np.testing.assert_array_equal(session.canvas.frame(2), now)
        track(session, "forward")
        for t, object_id in enumerate((1, 1, 2, 2, 2)):
            labels = session.canvas.frame(t)
            assert set(np.unique(labels)) == {0, object_id}, t
            assert overlap(labels == object_id, moving[t]) > 0.6
        assert session.told == []


@pytest.mark.parametrize("how", ["moved", "cleared"])
def test_it_is_the_first_object_again_once_nothing_says_otherwise(qapp, how):
    video, moving = blob_clip(4)
    with session_on(video) as session:
        click(session, middle(moving))
        track(session)
        before = session.canvas.frame(2).copy()
        taken = middle(moving, 2, object_id=2)
        click(session, taken)
        assert not (session.canvas.frame(2) == 1).any()
        session.undo()
        session.wait(30)
        click(session, taken)
        assert not (session.canvas.frame(2) == 1).any(), "also when it is clicked again"

        if how == "cleared":
            session.set_current_object(2)
            session.clear_frame(2)
            session.wait(30)
        else:
            points = session.points
            data = points.data.copy()
            data[-1] = (2, 5, 105)
            points.data = data
            session.wait(30)

        now = session.canvas.frame(2)
        assert overlap(now == 1, before == 1) > 0.9
        assert overlap(now == 2, moving[2]) < 0.2

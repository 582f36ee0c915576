"""A click on one object takes what it is on from the mask of another one in the frame."""

import numpy as np
import pytest

from napari_surgsam2.prompts import Point, central_position
from napari_surgsam2.synthetic import make_scene

from .sessions import click, overlap, session_on


@pytest.fixture(scope="module")
def instruments():
    """A frame (1, Y, X, 3) with two instruments that touch, and the mask of each."""
    picture, labels = make_scene(63012, 1, (320, 400), "teamwork").draw(0)
    return picture[None], labels == 4, labels == 5


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
    assert overlap(now == 1, first) > overlap(both == 1, first) + 0.15
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


def test_a_mask_that_is_not_clicked_is_left_alone(session, instruments):
    both = masks(session)
    beside = np.argwhere(both == 0)[0].astype(float)
    asked = []
    session._ask = lambda frame, object_id, *_: asked.append(object_id)

    session.add_prompts([Point(0, *beside, 2)])
    session._sync()

    assert asked == [2]


def test_what_is_painted_stays(session, instruments):
    both = masks(session)
    session.labels.brush_size = 15
    session.labels.paint((0, *np.argwhere(both == 0)[0].tolist()), 1)
    painted = masks(session)
    assert (painted != both).any()

    click(session, on(instruments[2], 2))

    np.testing.assert_array_equal(masks(session) == 1, painted == 1)

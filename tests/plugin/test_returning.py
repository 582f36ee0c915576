"""Several videos in one viewer: what was chosen, drawn and said of each is there on coming back."""

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_surgsam2._napari import keeping, slices
from napari_surgsam2._napari.canvas import MaskCanvas
from napari_surgsam2._napari.stacks import stack_of
from napari_surgsam2.errors import UsageError

from .sessions import blob_clip, click, middle, session_on, track

VIDEO, MASKS = blob_clip()


@pytest.fixture
def channels(open_widget):
    """The widget on the first of two channels of a recording; object 1 is tracked in it."""
    viewer = ViewerModel()
    first, second = (viewer.add_image(data, name=name) for data, name in ((VIDEO, "one"), (VIDEO, "two")))
    widget = open_widget(viewer)
    widget.begin(first)
    widget.wait()
    click(widget.session, middle(MASKS))
    track(widget.session)
    return widget, first, second


def go_to(widget, image):
    widget.begin(image)
    widget.wait()
    return widget.session


def test_the_layers_that_were_chosen_last_are_taken_again(channels):
    widget, first, second = channels
    session, viewer = widget.session, widget.viewer
    mine = viewer.add_points(np.zeros((0, 3)), name="mine")
    older = session.labels
    session.use_labels()
    session.use_points(mine)
    newer = session.labels
    click(session, middle(MASKS))

    go_to(widget, second)
    session = go_to(widget, first)
    assert session.labels is newer
    assert session.points is mine
    assert session.has_prompts

    viewer.layers.remove(newer)  # what is gone is not waited for
    go_to(widget, second)
    assert go_to(widget, first).labels is older


def test_masks_of_another_video_are_not_drawn_over(channels):
    widget, _, second = channels
    theirs = widget.session.labels
    before = theirs.data.copy()
    session = go_to(widget, second)
    session.use_labels(theirs)
    session.wait(30)
    assert session.current_object == 2
    click(session, middle(MASKS, object_id=2))
    track(session)
    np.testing.assert_array_equal(theirs.data == 1, before == 1)


def test_what_was_said_of_a_video_outlives_another_ones_use_of_its_masks(channels):
    widget, first, second = channels
    session = widget.session
    theirs = session.labels
    theirs.data[1] = MASKS[1]
    session.use_painted(1, 1)
    session.name_object(1, "hook")
    session.wait(30)
    said = session.all_prompts

    other = go_to(widget, second)
    other.use_labels(theirs)
    other.wait(30)
    session = go_to(widget, first)
    assert session.labels is theirs
    assert session.all_prompts == said
    assert session.names == {1: "hook"}


def test_labels_of_the_users_own_stay_where_they_are_retouched(qapp):
    mine = np.zeros(VIDEO.shape, np.uint16)
    mine[:, :12, :12] = 7
    with session_on(VIDEO, labels=lambda viewer: viewer.add_labels(mine, name="mine")) as session:
        session.paint_mode()
        session.labels.selected_label = 7
        session.labels.paint((1, 5, 13), 7)
        retouched = session.labels.data.copy()
        click(session, middle(MASKS, object_id=8))
        session.told.clear()
        track(session)
        assert ["'mine' had object 7 already" in told for told in session.told] == [True]
        np.testing.assert_array_equal(session.labels.data == 7, retouched == 7)

        session.use_painted(1, 7)  # then it is meant
        session.told.clear()
        track(session)
        assert session.told == []
        assert session.asking.prompted_frames(7) == [1]


def test_undo_comes_when_long_labels_were_looked_through_and_the_window_lives_meanwhile(qapp, monkeypatch):
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    with session_on(VIDEO) as session:
        click(session, middle(MASKS))
        session._looking.do(iter([None] * 1000))
        session.undo()
        assert session._looking.is_busy
        assert session.has_prompts
        session.wait(30)
        assert not session.has_prompts


def test_tracks_are_of_the_plane_that_was_in_view_when_they_were_asked_for(open_widget, monkeypatch):
    monkeypatch.setattr(keeping, "create_worker", lambda work, _connect, **_: later.append((work, _connect)))
    later = []
    viewer = ViewerModel()
    viewer.add_image(np.stack([VIDEO] * 3, axis=1), name="volumes")
    widget = open_widget(viewer)
    viewer.dims.set_point(1, 1)
    widget.session._on_rest()
    widget.wait()
    session = widget.session
    click(session, middle(MASKS))
    track(session)
    widget.keeper.add_tracks()
    viewer.dims.set_point(1, 2)
    session._on_rest()
    ((work, connected),) = later
    connected["returned"](work())
    np.testing.assert_array_equal(viewer.layers[-1].data[:, 2], 1)


def test_objects_keep_their_colours_while_only_the_selected_one_is_shown(qapp):
    with session_on(VIDEO) as session:
        session.set_current_object(2)
        click(session, middle(MASKS), middle(MASKS, 1, object_id=2))
        before = [session.drawing.color(i) for i in (1, 2)]
        points = session.points.face_color.copy()
        session.labels.show_selected_label = True
        click(session, middle(MASKS, 2, object_id=2))
        np.testing.assert_array_equal([session.drawing.color(i) for i in (1, 2)], before)
        np.testing.assert_array_equal(session.points.face_color[: len(points)], points)
        assert session.labels.colormap.use_selection


@pytest.mark.parametrize(
    ("ndisplay", "order", "shown"),
    [
        pytest.param(2, (0, 1, 2, 3), {(1, 1)}, id="frames"),
        pytest.param(2, (1, 2, 0, 3), {(0, 1), (1, 1), (2, 1)}, id="across the frames"),
        pytest.param(3, (0, 1, 2, 3), {(1, 0), (1, 1)}, id="volumes"),
    ],
)
def test_frames_that_are_seen_are_painted_at_once(ndisplay, order, shown, qapp):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((3, 2, 32, 32), np.uint8))
    canvas = MaskCanvas(
        viewer, viewer.add_labels(np.zeros((3, 2, 32, 32), np.uint8)), stack_of(image, 0, (0,) * 4)
    )
    viewer.dims.ndisplay, viewer.dims.order = ndisplay, order
    viewer.dims.point = (1, 1, 16, 16)
    assert {(t, z) for t in range(3) for z in range(2) if canvas.is_in_view((t, z))} == shown
    canvas.close()


def test_what_is_painted_in_another_plane_while_one_is_tracked_is_kept(qapp):
    with session_on(np.stack([VIDEO] * 3, axis=1)) as session:
        click(session, middle(MASKS))
        session.track()
        session.viewer.dims.set_point(1, 2)
        session.labels.selected_label = 1
        session.labels.brush_size = 9
        session.labels.paint((1, 2, 20, 20), 1)
        with pytest.raises(UsageError, match="Another plane"):
            session.use_painted()
        with pytest.raises(UsageError, match="Another plane"):
            session.clear_frame()
        session.wait(60)
        painted = session.labels.data[1, 2] == 1
        assert painted.any()
        session._on_rest()  # the viewer has come to rest there
        session.wait(30)
        assert session.stack.picked == {1: 2}
        track(session)
        assert session.asking.prompted_frames(1) == [1]
        np.testing.assert_array_equal(session.labels.data[1, 2] == 1, painted)
        assert session.told == []

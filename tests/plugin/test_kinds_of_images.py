"""Images of every kind, segmented as a user would, in a viewer without a window where that is enough."""

import time

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_surgsam2._napari import slices
from napari_surgsam2._napari.canvas import ids_in
from napari_surgsam2._napari.stacks import frame_axes, likely_frame_axis, stack_of
from napari_surgsam2._napari.worker import TrackerChoice
from napari_surgsam2.errors import UsageError, VideoError
from napari_surgsam2.prompts import Box, Point
from napari_surgsam2.settings import TrackingSettings

from .conftest import press, until
from .sessions import blob_clip, click, middle, overlap, session_on, track

pytestmark = pytest.mark.usefixtures("qapp")

VIDEO, MASKS = blob_clip()
N = len(VIDEO)


class Handed:
    """An array of neither numpy nor dask: a shape, a type and indexing."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size

    def __getitem__(self, index):
        return self._array[index]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._array, dtype)


def tracked(data, **kwargs):
    """Return the labels after a click in the first frame and tracking."""
    with session_on(data, **kwargs) as session:
        click(session, middle(MASKS))
        track(session)
        assert session.told == []
        return np.asarray(session.labels.data).copy()


@pytest.fixture(scope="module")
def expected(request):
    """The labels of the plain clip: gray, 8 bits, in numpy."""
    return {}


def same_as_plain(labels, expected):
    if "labels" not in expected:
        expected["labels"] = tracked(VIDEO)
        assert all(overlap(expected["labels"][t] == 1, MASKS[t]) > 0.7 for t in range(N))
    np.testing.assert_array_equal(labels, expected["labels"])


def pyramid(video):
    return [video, video[:, ::2, ::2], video[:, ::4, ::4]]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        pytest.param(np.stack([VIDEO] * 3, axis=-1), {"rgb": True}, id="rgb"),
        pytest.param(
            np.concatenate([np.stack([VIDEO] * 3, axis=-1), np.full((*VIDEO.shape, 1), 255, np.uint8)], -1),
            {"rgb": True},
            id="rgba",
        ),
        pytest.param(VIDEO.astype(np.uint16) * 257, {"contrast_limits": (0, 65_535)}, id="16 bits"),
        pytest.param(VIDEO.astype(np.int32) * 10 - 400, {"contrast_limits": (-400, 2150)}, id="int32"),
        pytest.param(VIDEO / np.float32(255), {"contrast_limits": (0, 1)}, id="float"),
        pytest.param(VIDEO.astype(">u2") * 257, {"contrast_limits": (0, 65_535)}, id="other byte order"),
        pytest.param(da.from_array(VIDEO, chunks=(2, 50, 50)), {}, id="dask"),
        pytest.param(zarr.array(VIDEO, chunks=(1, 96, 112)), {}, id="zarr"),
        pytest.param(Handed(VIDEO), {}, id="array-like"),
        pytest.param(pyramid(VIDEO), {"multiscale": True}, id="multiscale"),
        pytest.param([da.from_array(v) for v in pyramid(VIDEO)], {"multiscale": True}, id="dask pyramid"),
        pytest.param(VIDEO, {"scale": (2, 0.5, 0.5), "translate": (3, 10, -20)}, id="scale"),
        pytest.param(
            VIDEO,
            {"scale": (0.1, 0.3, 0.3), "units": ("s", "um", "um"), "axis_labels": ("t", "y", "x")},
            id="units",
        ),
        pytest.param(VIDEO, {"rotate": 20, "scale": (1, 2, 2)}, id="turned"),
        pytest.param(VIDEO, {"axis_labels": ("z", "y", "x")}, id="volume"),
        pytest.param(VIDEO[:, None], {}, id="one plane"),
        pytest.param(VIDEO[None], {}, id="one time"),
    ],
)
def test_the_same_pixels_give_the_same_masks(data, options, expected):
    labels = tracked(data, **options)
    same_as_plain(labels.reshape(VIDEO.shape), expected)


def test_booleans():
    labels = tracked(MASKS)
    assert all(overlap(labels[t] == 1, MASKS[t]) > 0.7 for t in range(N))


def test_masks_lie_on_their_image():
    with session_on(VIDEO, scale=(2, 0.5, 0.25), translate=(3, 10, -20), units=("s", "um", "um")) as session:
        image = session.image
        for layer in (session.labels, session.points):
            np.testing.assert_allclose(layer.data_to_world((1, 5, 6)), image.data_to_world((1, 5, 6)))
            assert layer.units == image.units
        session.box_mode()
        np.testing.assert_allclose(session.boxes.data_to_world((1, 5, 6)), image.data_to_world((1, 5, 6)))
        session.go_to(2)
        assert session.current_frame == 2
        assert session.viewer.dims.point[0] == pytest.approx(3 + 2 * 2)


# Contrast


def test_the_network_sees_what_the_user_sees():
    dim = VIDEO.astype(np.uint16)  # dark in wider limits
    with session_on(dim, contrast_limits=(0, 255)) as session:
        click(session, middle(MASKS))
        wanted = session.canvas.frame(0).copy()
    with session_on(dim, contrast_limits=(0, 4000)) as session:
        click(session, middle(MASKS))
        assert session.canvas.frame(0).any()
        assert not np.array_equal(session.canvas.frame(0), wanted)
        in_the_dark = session.canvas.frame(0).copy()
        session.image.contrast_limits = (0, 255)
        until(lambda: not session._rest_timer.isActive())
        session.wait(30)
        np.testing.assert_array_equal(session.canvas.frame(0), in_the_dark)  # what is there stays
        session.clear_frame(0)
        session.wait(30)
        click(session, middle(MASKS))
        np.testing.assert_array_equal(session.canvas.frame(0), wanted)


def test_limits_that_napari_chooses_for_every_frame_do_not_make_it_begin_anew():
    with session_on(VIDEO.astype(np.uint16), contrast_limits=(0, 255)) as session:
        loads = []
        session.state_changed.connect(lambda: loads.append(session.loading))
        session.image._keep_auto_contrast = True
        session.go_to(1)
        session.image.contrast_limits = (40, 200)
        until(lambda: not session._rest_timer.isActive())
        session.wait(30)
        assert not any(loads)
        session.image._keep_auto_contrast = False
        session.image.contrast_limits = (40, 210)
        until(lambda: not session._rest_timer.isActive())
        assert any(loads)
        session.wait(30)


def test_layers_follow_an_image_whose_scale_is_set_later():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS), Box(1, 20, 20, 60, 60, 2))
        theirs = session.viewer.add_points([[0, 5, 5]])
        before = session.all_prompts
        session.image.scale = (2, 0.5, 0.25)
        session.image.translate = (0, 7, 8)
        for layer in (session.points, session.boxes, session.labels):
            np.testing.assert_allclose(layer.data_to_world((1, 5, 6)), session.image.data_to_world((1, 5, 6)))
        np.testing.assert_allclose(theirs.scale, 1)
        click(session, middle(MASKS, 2))
        assert session.all_prompts == [*before, middle(MASKS, 2)]


# More axes

FOUR = np.stack([VIDEO, VIDEO[:, ::-1], VIDEO[:, :, ::-1]], axis=1)  # (T, Z, Y, X)
FOUR_MASKS = np.stack([MASKS, MASKS[:, ::-1], MASKS[:, :, ::-1]], axis=1)


def look_at(session, *place):
    """Move the sliders, and wait for what follows from that."""
    session.viewer.dims.point = [float(v) for v in session.image.data_to_world((*place, 0, 0))]
    until(lambda: not session._rest_timer.isActive())
    session.wait(30)


@pytest.mark.parametrize("options", [{}, {"scale": (2, 3, 0.5, 0.5), "translate": (0, 30, 1, 2)}])
def test_the_plane_in_view_is_segmented(options, expected):
    viewer = ViewerModel()
    with session_on(FOUR, viewer, **options) as session:
        look_at(session, 0, 0)
        assert session.stack.picked == {1: 0}
        click(session, middle(MASKS))
        track(session)
        same_as_plain(session.labels.data[:, 0], expected)
        assert not session.labels.data[:, 1:].any()
        assert session.points.data[0].tolist()[:2] == [0, 0]


def test_each_plane_has_its_prompts_and_masks():
    with session_on(FOUR) as session:
        look_at(session, 0, 0)
        click(session, middle(MASKS), middle(MASKS, object_id=2, positive=False))
        first = session.all_prompts
        masks = session.labels.data[:, 0].copy()
        confidence = session.records[1].confidence.copy()
        look_at(session, 0, 2)
        assert session.all_prompts == []
        click(session, middle(FOUR_MASKS[:, 2], 1))
        session.clear_frame(0)  # has nothing to do with the other plane's frame 0
        session.wait(30)
        assert [p.frame for p in session.all_prompts] == [1]
        assert overlap(session.labels.data[1, 2] == 1, FOUR_MASKS[1, 2]) > 0.7
        np.testing.assert_array_equal(session.labels.data[:, 0], masks)
        look_at(session, 0, 0)
        assert session.all_prompts == first
        np.testing.assert_array_equal(session.records[1].confidence, confidence)
        np.testing.assert_array_equal(session.labels.data[:, 0], masks)
        assert len(session.points.data) == 3
        assert session.told == []


def test_removing_an_object_leaves_the_other_planes():
    with session_on(FOUR) as session:
        look_at(session, 0, 2)
        click(session, middle(FOUR_MASKS[:, 2]))
        there = session.labels.data[:, 2].copy()
        look_at(session, 0, 0)
        click(session, middle(MASKS))
        session.remove_object(1)
        session.wait(30)
        assert not session.labels.data[:, 0].any()
        np.testing.assert_array_equal(session.labels.data[:, 2], there)
        assert len(session.points.data) == 1


def test_masks_given_in_a_plane_come_back_with_it():
    with session_on(FOUR) as session:
        look_at(session, 0, 0)
        session.labels.data[1, 0, 10:30, 10:30] = 4
        session.use_painted(1, 4)
        session.wait(30)
        given_there = session.all_prompts
        assert len(given_there) == 1
        look_at(session, 0, 1)
        assert session.all_prompts == []
        look_at(session, 0, 0)
        assert session.all_prompts == given_there


def test_a_plane_chosen_while_tracking_is_taken_up_afterwards():
    with session_on(np.concatenate([FOUR] * 3)) as session:
        look_at(session, 0, 0)
        click(session, middle(MASKS))
        session.track()
        session.viewer.dims.set_point(1, 2)
        until(lambda: not session.tracking)
        until(lambda: session.stack.picked == {1: 2})
        session.wait(30)
        assert session.labels.data[:, 0].any(axis=(1, 2)).all()
        assert not session.labels.data[:, 1:].any()


def test_an_answer_that_comes_too_late_is_for_no_other_plane():
    with session_on(FOUR) as session:
        look_at(session, 0, 0)
        click(session, middle(MASKS))
        session.set_choice(TrackerChoice("nano", settings=TrackingSettings(fill_holes=3)))  # all anew
        while session._thread.is_busy:  # the answer waits for the window
            time.sleep(0.01)
        session._change_stack(stack_of(session.image, 0, (0, 2, 0, 0)))
        session.wait(30)
        assert not session.labels.data[:, 2].any()


def test_another_axis_can_be_followed():
    channels = np.moveaxis(FOUR, 0, 1)  # (C, T, Y, X)
    with session_on(channels) as session:
        assert session.stack.frame_axis == 0
        click(session, Point(1, 40, 40))
        look_at(session, 2, 0)
        session.set_frame_axis(1)
        session.wait(30)
        assert session.stack.picked == {0: 2}
        assert session.stack.n_frames == N
        click(session, middle(FOUR_MASKS[:, 2]))
        track(session)
        assert all(overlap(session.labels.data[2, t] == 1, FOUR_MASKS[t, 2]) > 0.7 for t in range(N))
        assert session.told == []


def test_the_axis_that_is_called_time_is_followed():
    channels = np.moveaxis(FOUR, 0, 1)
    with session_on(channels, axis_labels=("c", "t", "y", "x")) as session:
        assert session.stack.frame_axis == 1
        assert session.stack.shape == VIDEO.shape


def test_five_axes(expected):
    five = np.stack([FOUR, FOUR[:, ::-1]], axis=1)  # (T, C, Z, Y, X)
    with session_on(five) as session:
        look_at(session, 0, 0, 0)
        assert session.stack.opening() == {"axes": "TZCYX", "z": 0, "channel": 0}
        click(session, middle(MASKS))
        track(session)
        same_as_plain(session.labels.data[:, 0, 0], expected)
        assert session.labels.data.any(axis=(0, 3, 4)).sum() == 1


def test_colours_with_planes(expected):
    colours = np.stack([FOUR] * 3, axis=-1)
    with session_on(colours, rgb=True) as session:
        look_at(session, 0, 0)
        click(session, middle(MASKS))
        track(session)
        same_as_plain(session.labels.data[:, 0], expected)


def test_a_viewer_with_more_axes_than_the_image(expected):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((2, 5, 3, 20, 20), np.uint8))
    with session_on(VIDEO, viewer) as session:
        session.go_to(2)
        assert session.current_frame == 2
        assert viewer.dims.point[2] == 2
        click(session, middle(MASKS))
        track(session)
        same_as_plain(session.labels.data, expected)


# Units


def test_frames_are_gone_to_beside_a_layer_in_smaller_units():
    """napari shows both in the smaller ones, and does not convert positions from them by itself."""
    viewer = ViewerModel()
    units, scale = ("s", "mm", "mm"), np.array([2.0, 0.5, 0.5])
    with session_on(VIDEO, viewer, units=units, scale=scale) as session:
        click(session, middle(MASKS))
        assert session.told == []
        viewer.add_image(VIDEO, units=("ms", "um", "um"), scale=1000 * scale, name="other")
        assert viewer.dims.range[0].stop == 1000 * 2 * (N - 1)
        for frame in (1, N - 1):
            session.go_to(frame)
            assert session.current_frame == frame
            assert viewer.dims.current_step[0] == frame
            assert session.canvas.is_in_view((frame,))
            assert not session.canvas.is_in_view((0,))

        # Points of the user's own are taken from where they are seen.
        mine = viewer.add_points(
            session.points.data, units=("ms", "um", "um"), scale=1000 * scale, name="mine"
        )
        session.use_points(mine)
        session.wait(30)
        assert [(p.frame, p.y, p.x) for p in session.all_prompts] == [
            pytest.approx((p.frame, p.y, p.x)) for p in [middle(MASKS)]
        ]
        click(session, middle(MASKS, 1))
        (said,) = session.told
        assert "smaller units than 'clip'" in said


def test_units_of_different_kinds_are_not_converted_by_napari_either():
    viewer = ViewerModel()
    with session_on(VIDEO, viewer, units=("s", "mm", "mm"), scale=(2.0, 0.5, 0.5)) as session:
        viewer.add_image(VIDEO, name="other")  # in pixels
        session.go_to(2)
        assert session.current_frame == 2
        assert session.told == []


# Single pictures


@pytest.mark.parametrize(
    "data", [VIDEO[0], VIDEO[:1], VIDEO[:1, None], np.stack([VIDEO[0]] * 3, axis=-1)], ids=str
)
def test_a_single_picture_is_tracked_as_a_video_of_one_frame(data):
    rgb = data.ndim == 3 and data.shape[-1] == 3
    with session_on(data, rgb=rgb) as session:
        assert session.stack.n_frames == 1
        click(session, middle(MASKS))
        clicked = session.canvas.frame(0).copy()
        assert overlap(clicked == 1, MASKS[0]) > 0.7
        for direction in ("both", "forward", "backward"):
            track(session, direction)
        np.testing.assert_array_equal(session.canvas.frame(0), clicked)
        session.undo()
        session.wait(30)
        assert not session.canvas.frame(0).any()
        assert session.told == []


# What is no video


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (np.zeros((4, 7, 20), np.uint8), {}, "7 x 20 pixels"),
        (np.zeros((5, 6), np.uint8), {}, "5 x 6 pixels"),
        (np.zeros((2, 2, 2, 2, 16, 16), np.uint8), {}, "at most 2 axes"),
        (np.zeros((16, 20, 4), np.uint8), {"rgb": False}, "20 x 4 pixels"),
        (np.zeros((16, 20, 30), np.uint8), {"axis_labels": ("y", "x", "t")}, "called y, x, t"),
    ],
)
def test_what_is_no_video_is_refused_before_anything_is_made(qapp, data, options, said):
    viewer = ViewerModel()
    with pytest.raises(VideoError) as caught, session_on(data, viewer, **options):
        pass
    assert said in str(caught.value)
    assert len(viewer.layers) == 1


def test_the_widget_goes_on_after_what_is_no_video(make_napari_viewer, open_widget, monkeypatch):
    from napari_surgsam2._napari import widget as module

    told = []
    monkeypatch.setattr(module, "show_error", told.append)
    viewer = make_napari_viewer()
    viewer.add_image(np.zeros((4, 6, 6), np.uint8), name="tiny")
    widget = open_widget(viewer)
    assert widget.session is None
    assert len(told) == 1
    assert "'tiny'" in told[0]
    assert "6 x 6" in told[0]
    viewer.add_points(ndim=3)
    widget.wait()
    until(lambda: not widget._choose_timer.isActive())
    assert len(told) == 1  # not again for every layer that comes
    viewer.add_image(VIDEO, name="clip")
    until(lambda: widget.session is not None)
    widget.wait()
    assert widget.session.image.name == "clip"
    widget.add_prompts(middle(MASKS))
    widget.wait()
    assert overlap(widget.session.canvas.frame(0) == 1, MASKS[0]) > 0.7
    assert len(told) == 1


def test_the_widget_offers_the_axes(make_napari_viewer, open_widget, expected):
    viewer = make_napari_viewer()
    viewer.add_image(np.moveaxis(FOUR, 0, 1), axis_labels=("c", "frames", "y", "x"))
    widget = open_widget(viewer)
    axis = widget.controls.frame_axis
    assert list(axis.choices) == [0, 1]
    assert axis.value == 1
    viewer.dims.set_point(0, 0)
    until(lambda: widget.session.stack.picked == {0: 0})
    widget.wait()
    widget.add_prompts(middle(MASKS))
    widget.wait()
    press(widget.controls.track_all)
    widget.wait()
    same_as_plain(widget.session.labels.data[0], expected)
    assert not widget.session.labels.data[1:].any()


def test_the_axis_that_was_chosen_is_followed_again(open_widget):
    channels, viewer = np.moveaxis(FOUR, 0, 1), ViewerModel()  # (C, T, Y, X)
    image = viewer.add_image(channels)
    widget = open_widget(viewer)
    widget.controls.frame_axis.value = 1
    widget.wait()
    widget.add_prompts(middle(MASKS))
    widget.wait()
    before = widget.session.stack.plane
    widget.shut_down()

    again = open_widget(viewer)
    assert again.session.stack.plane == before
    assert again.controls.frame_axis.value == 1
    assert [p.frame for p in again.session.all_prompts] == [0]
    again.shut_down()

    image.data = channels[:, 1:]  # another video
    assert open_widget(viewer).session.stack.frame_axis == 0


def test_the_likeliest_axis_is_followed_where_none_was_chosen(open_widget):
    viewer = ViewerModel()
    image = viewer.add_image(np.moveaxis(FOUR, 0, 1))
    open_widget(viewer).shut_down()
    image.axis_labels = ("c", "t", "y", "x")
    again = open_widget(viewer)
    assert again.session.stack.frame_axis == 1
    again.begin(image, 0)  # as a project may ask for
    again.shut_down()
    assert open_widget(viewer).session.stack.frame_axis == 0


# The user's own labels


def with_labels(data):
    return lambda viewer: viewer.add_labels(data, name="mine")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("preserve", [True, False])
def test_labels_of_the_users_are_kept_unless_they_are_not_to_be(dtype, preserve):
    mine = np.zeros(VIDEO.shape, dtype)
    mine[:, :, 44:60] = 9  # over half of the object
    mine[:, 90:, 100:] = 3
    if np.issubdtype(dtype, np.signedinteger):
        mine[:, :5, :5] = -2
    before = mine.copy()
    with session_on(VIDEO, labels=with_labels(mine)) as session:
        assert session.labels.name == "mine"
        assert session.object_ids == (1, 3, 9)
        session.drawing.preserve = preserve
        click(session, middle(MASKS))
        track(session)
        found = session.labels.data
        np.testing.assert_array_equal(found == 3, before == 3)
        np.testing.assert_array_equal(found < 0, before < 0)
        if preserve:
            np.testing.assert_array_equal(found == 9, before == 9)
        else:
            assert all((found[t][MASKS[t] & (before[t] == 9)] == 1).mean() > 0.7 for t in range(N))
        assert all((found[t][MASKS[t] & (before[t] == 0)] == 1).mean() > 0.7 for t in range(N))
        assert session.told == []


def test_objects_in_long_labels_are_looked_for_frame_by_frame(monkeypatch):
    """So that the window lives meanwhile."""
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    mine = np.zeros(VIDEO.shape, np.uint8)
    mine[0, :9, :9], mine[-1, :9, :9] = 3, 9
    assert list(ids_in(Labels(mine), Image(VIDEO))) == [{3}, *[set()] * (N - 2), {9}]
    with session_on(VIDEO, labels=with_labels(mine)) as session:
        session.wait()
        assert session.object_ids == (1, 3, 9)


def test_labels_in_zarr_are_drawn_into(expected):
    mine = zarr.zeros(VIDEO.shape, chunks=(1, 96, 112), dtype=np.uint8)
    with session_on(VIDEO, labels=with_labels(mine)) as session:
        click(session, middle(MASKS))
        track(session)
        same_as_plain(np.asarray(mine[:]), expected)


def read_only(data):
    data.flags.writeable = False
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (da.zeros(VIDEO.shape, dtype=np.uint8), "cannot be written to"),
        (read_only(np.zeros(VIDEO.shape, np.uint8)), "cannot be written to"),
        (np.zeros(VIDEO.shape[1:], np.uint8), r"have shape \(96, 112\); they must have \(3, 96, 112\)"),
        (np.zeros((2, *VIDEO.shape[1:]), np.uint8), "must have"),
        ([np.zeros(VIDEO.shape, np.uint8), np.zeros((3, 48, 56), np.uint8)], "multiscale"),
    ],
)
def test_labels_that_cannot_be_drawn_into_are_refused(data, said):
    with session_on(VIDEO) as session:
        other = session.viewer.add_labels(data)
        own = session.labels
        with pytest.raises(UsageError, match=said):
            session.use_labels(other)
        assert session.labels is own
        click(session, middle(MASKS))
        assert own.data[0].any()


@pytest.mark.parametrize(
    ("dtype", "object_id", "fits"),
    [
        (np.uint8, 255, True),
        (np.uint8, 256, False),
        (np.uint16, 65_535, True),
        (np.uint16, 65_537, False),
        (np.uint32, 70_000, True),
        (np.int64, 70_000, True),
    ],
)
def test_ids_as_large_as_the_labels_hold(dtype, object_id, fits):
    with session_on(VIDEO, labels=with_labels(np.zeros(VIDEO.shape, dtype))) as session:
        click(session, middle(MASKS, object_id=object_id))
        labels = session.canvas.frame(0)
        if fits:
            assert overlap(labels == object_id, MASKS[0]) > 0.7
            assert session.told == []
            session.set_current_object(object_id)
        else:
            assert not labels.any()
            assert len(session.told) == 1
            assert f"{np.iinfo(dtype).max}" in session.told[0]
            assert object_id not in session.object_ids
            with pytest.raises(UsageError, match="hold numbers up to"):
                session.set_current_object(object_id)
            click(session, middle(MASKS, 1))
            assert session.canvas.frame(1).any()


# Stacks


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), max_size=3).map(lambda sizes: (*sizes, 9, 10)),
    data=st.data(),
)
def test_places_go_to_the_layer_and_back(shape, data):
    layer = Image(np.zeros(shape, np.uint8))
    axes = frame_axes(layer)
    axis = data.draw(st.sampled_from([None, *axes]))
    position = [data.draw(st.integers(0, size - 1)) for size in shape]
    stack = stack_of(layer, axis, position)
    assert stack.frame_axis == (likely_frame_axis(layer) if axis is None else axis)
    frame = data.draw(st.integers(0, stack.n_frames - 1))
    place = (frame, data.draw(st.floats(0, 8)), data.draw(st.floats(0, 9)))
    rows = stack.to_layer([place])
    assert rows.shape == (1, len(shape))
    back, inside = stack.to_frame(rows)
    assert inside.all()
    np.testing.assert_allclose(back, [place])
    assert np.zeros(shape)[stack.index(frame)].shape == (9, 10)
    for other in stack.picked:
        elsewhere = rows.copy()
        elsewhere[:, other] += 1
        assert not stack.to_frame(elsewhere)[1].any()


@pytest.mark.parametrize("axis", [-1, 2, 3, 7])
def test_an_axis_of_the_picture_cannot_be_followed(axis):
    with pytest.raises(UsageError, match="0 to 1"):
        stack_of(Image(np.zeros((3, 4, 9, 10), np.uint8)), axis, (0, 0, 0, 0))


def test_an_axis_with_one_entry_is_not_followed_beside_longer_ones():
    with pytest.raises(UsageError, match="one entry; follow one of 1"):
        stack_of(Image(np.zeros((1, 4, 9, 10), np.uint8)), 0, (0, 0, 0, 0))

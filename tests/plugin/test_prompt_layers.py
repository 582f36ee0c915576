"""Clicks, boxes and painted masks, as users leave them in layers of theirs."""

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Points as PointsLayer
from qtpy.QtCore import Qt

from napari_surgsam2._napari.prompt_layers import (
    ClickMode,
    boxes_state,
    points_state,
    read_boxes,
    read_points,
    restore_points,
)
from napari_surgsam2._napari.prompts import PromptLayers
from napari_surgsam2._napari.stacks import stack_of
from napari_surgsam2.errors import UsageError
from napari_surgsam2.prompts import Box, Mask, Point

from .conftest import Mouse, press, until
from .sessions import blob_clip, click, middle, overlap, session_on, track

pytestmark = pytest.mark.usefixtures("qapp")

SHAPE = (4, 64, 80)


def stack_in(viewer, shape=SHAPE, **kwargs):
    image = viewer.add_image(np.zeros(shape, np.uint8), **kwargs)
    return stack_of(image, None, image.world_to_data(viewer.dims.point))


@pytest.fixture
def model():
    return ViewerModel()


@pytest.fixture
def stack(model):
    return stack_in(model)


@pytest.fixture
def layers(qapp, model, stack):
    """The layers that prompts are in, and how often they told of a change."""
    told = []
    made = PromptLayers(model, stack, lambda: told.append(1))
    made.told = told
    yield made
    made.drop_points()
    made.drop_boxes()


def read(layer, stack):
    return read_points(points_state(layer), layer, stack)


def boxes_in(layer, stack):
    return read_boxes(boxes_state(layer), layer, stack)


# Points of the user's


def test_points_without_features_are_positive_and_of_the_first_object(model, stack):
    layer = model.add_points([[0, 5, 6], [2, 7.5, 8]])
    points, problems = read(layer, stack)
    assert points == [Point(0, 5, 6), Point(2, 7.5, 8)]
    assert problems == []


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"object_id": [3, 4]}, [(3, True), (4, True)]),
        ({"object_id": [3.0, 4.0], "label": [0.0, 1.0]}, [(3, False), (4, True)]),
        ({"object_id": [3.0, np.nan], "label": [np.nan, 0]}, [(3, True), (1, False)]),
        ({"object_id": ["3", "4"], "label": ["positive", "negative"]}, [(3, True), (4, False)]),
        ({"label": [True, False]}, [(1, True), (1, False)]),
        ({"label": pd.Categorical(["negative", "positive"])}, [(1, False), (1, True)]),
        ({"label": np.array(["+", None], object)}, [(1, True), (1, True)]),
        ({"label": np.array(["negative", 1], object)}, [(1, False), (1, True)]),
        ({"object_id": np.array([7, 300], np.uint16)}, [(7, True), (300, True)]),
        ({"other": ["a", "b"]}, [(1, True), (1, True)]),
    ],
)
def test_features_of_any_type(model, stack, features, expected):
    layer = model.add_points([[0, 5, 6], [2, 7, 8]], features=pd.DataFrame(features))
    points, problems = read(layer, stack)
    assert [(p.object_id, p.positive) for p in points] == expected
    assert problems == []


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"object_id": [-2, 4]}, "object id of a point is -2"),
        ({"object_id": [0, 4]}, "object id of a point is 0"),
        ({"object_id": [2.5, 4]}, "object id of a point is 2.5"),
        ({"object_id": ["cell", "4"]}, "object id of a point is 'cell'"),
        ({"object_id": [4, 4], "label": ["maybe", "positive"]}, "label of a point is 'maybe'"),
        ({"object_id": [4, 4], "label": [2, 1]}, "label of a point is 2"),
    ],
)
def test_a_point_whose_features_mean_nothing_is_left_out(model, stack, features, said):
    layer = model.add_points([[0, 5, 6], [2, 7, 8]], features=pd.DataFrame(features))
    points, problems = read(layer, stack)
    assert points == [Point(2, 7, 8, 4)]
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize("place", [(0, -1, 5), (0, 5, 79.6), (4, 5, 5), (-1, 5, 5)])
def test_a_point_outside_is_left_out(model, stack, place):
    layer = model.add_points([place, (3, 63.4, 79.4), (0, -0.5, -0.5)])
    points, problems = read(layer, stack)
    assert points == [Point(3, 63.4, 79.4), Point(0, -0.5, -0.5)]
    assert len(problems) == 1


@pytest.mark.parametrize("place", [(0, np.nan, 5), (np.nan, 5, 5), (np.inf, 5, 5)])
def test_a_point_that_is_no_number_is_left_out(model, stack, place):
    layer = model.add_points([[0.0, 1, 1], [1, 5, 6]])
    layer.data[0] = place
    points, problems = read(layer, stack)
    assert points == [Point(1, 5, 6)]
    assert len(problems) == 1
    assert "finite" in problems[0]


def test_points_between_frames_are_on_the_nearest(model, stack):
    layer = model.add_points([[1.4, 5, 6], [1.6, 5, 6], [-0.3, 5, 6]])
    assert [p.frame for p in read(layer, stack)[0]] == [1, 2, 0]


@pytest.mark.parametrize(
    ("image", "points"),
    [
        ({"scale": (1, 0.5, 0.5)}, {}),
        ({"scale": (2, 0.5, 0.25), "translate": (3, 10, -20)}, {}),
        ({}, {"scale": (1, 2, 2), "translate": (0, 1, 1)}),
        ({"scale": (1, 0.5, 0.5), "translate": (0, 4, 4)}, {"scale": (0.5, 0.25, 0.25)}),
        ({"rotate": 30}, {}),
    ],
)
def test_points_with_another_scale_are_where_they_are_seen(model, image, points):
    stack = stack_in(model, **image)
    wanted = np.array([[0, 5, 6], [2, 20.25, 30.5]])
    layer = PointsLayer(np.zeros((2, 3)), **points)
    layer.data = [layer.world_to_data(stack.layer.data_to_world(row)) for row in wanted]
    found, problems = read(layer, stack)
    assert problems == []
    np.testing.assert_allclose([(p.frame, p.y, p.x) for p in found], wanted, atol=1e-6)


def test_only_points_of_the_plane_are_read(model):
    stack = stack_in(model, (3, 5, 64, 80))
    plane = stack.picked[1]
    layer = model.add_points([[1, plane, 5, 6], [1, plane + 1, 5, 6], [2, plane + 0.3, 7, 8]])
    assert read(layer, stack)[0] == [Point(1, 5, 6), Point(2, 7, 8)]


def test_a_layer_of_other_axes_is_refused(layers, model):
    flat = model.add_points([[3, 4]])
    with pytest.raises(UsageError, match="2 axes; they must have 3"):
        layers.use_points(flat)
    assert layers.points is None


def test_a_points_layer_goes_back_to_what_it_held(model, stack):
    features = pd.DataFrame({"object_id": [1, 2], "label": ["positive", "-"], "cell": ["a", "b"]})
    layer = model.add_points([[0, 5, 6], [2, 7, 8]], features=features)
    before = points_state(layer)
    layer.add([1, 1, 1])
    layer.selected_data = {0}
    layer.remove_selected()
    assert points_state(layer) != before
    restore_points(layer, before)
    assert points_state(layer) == before
    pd.testing.assert_frame_equal(layer.features, features)
    assert layer.selected_data == set()


def test_going_back_to_no_points(model, stack):
    layer = model.add_points(ndim=3)
    before = points_state(layer)
    layer.add([1, 1, 1])
    restore_points(layer, before)
    assert len(layer.data) == 0
    assert points_state(layer) == before


# Clicking


@pytest.mark.parametrize(
    "features",
    [
        None,
        {"label": ["positive", "negative"], "cell": ["a", "b"]},
        {"label": pd.Categorical(["positive", "negative"])},
        {"object_id": np.array([1, 2], np.uint8), "label": [True, False]},
        {"object_id": pd.Categorical([1, 2])},
        {"object_id": [1.0, np.nan], "label": [1.0, 0.0]},
        {"object_id": ["1", "2"]},
        {"object_id": np.array([1, 2], np.int8)},
    ],
)
def test_a_click_means_what_the_mode_says_whatever_the_features(model, stack, features):
    features = None if features is None else pd.DataFrame(features)
    layer = model.add_points([[0, 5, 6], [2, 7, 8]], features=features)
    before, _ = read(layer, stack)
    meaning = [300, False]
    mode = ClickMode(layer, lambda: tuple(meaning))
    layer.add([1, 9, 9])
    meaning[:] = 4, True
    mode.apply()
    layer.add([1, 10, 10])
    mode.close()
    points, problems = read(layer, stack)
    assert problems == []
    assert points == [*before, Point(1, 9, 9, 300, False), Point(1, 10, 10, 4, True)]
    if features is not None and "cell" in features:
        assert layer.features["cell"].tolist()[:2] == ["a", "b"]


# Boxes


def rectangle(frame, y0, x0, y1, x1):
    return np.array([[frame, y0, x0], [frame, y0, x1], [frame, y1, x1], [frame, y1, x0]])


def test_rectangles_are_boxes_and_other_shapes_are_named(layers, stack):
    layers.add([Box(1, 5, 6, 20, 30, 2), Box(0, 1, 1, 9, 9)])
    layer = layers.boxes
    assert boxes_in(layer, stack) == ([Box(1, 5, 6, 20, 30, 2), Box(0, 1, 1, 9, 9, 1)], [])
    layer.add(rectangle(2, 5, 5, 20, 20), shape_type="ellipse")
    boxes, problems = boxes_in(layer, stack)
    assert len(boxes) == 2
    assert len(problems) == 1
    assert "'ellipse'" in problems[0]


@pytest.mark.parametrize(
    ("corners", "said"),
    [
        (rectangle(9, 5, 5, 20, 20), "frame 9"),
        (rectangle(-2, 5, 5, 20, 20), "frame -2"),
        (rectangle(0, 70, 5, 90, 20), "outside the video"),
        ([[0, 5, 5], [2, 5, 5], [2, 5, 20], [0, 5, 20]], "from frame 0 to 2"),
    ],
)
def test_a_box_that_is_nowhere_is_named(layers, stack, corners, said):
    layer = layers.use_boxes()
    layer.add(corners, shape_type="rectangle")
    boxes, problems = boxes_in(layer, stack)
    assert boxes == []
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize(("object_id", "said"), [(-3, "is -3"), ("cell", "is 'cell'"), (2.5, "is 2.5")])
def test_a_box_of_no_object_is_named(layers, stack, object_id, said):
    layers.add([Box(1, 5, 6, 20, 30), Box(2, 5, 6, 20, 30)])
    layers.boxes.features = {"object_id": np.array([object_id, 7], object)}
    found = layers.read(layers.state())
    assert found == {(2, 7): (Box(2, 5, 6, 20, 30, 7),)}
    assert len(layers.problems) == 1
    assert said in layers.problems[0]


def test_a_box_that_is_being_drawn_is_none_yet(layers, stack):
    layer = layers.use_boxes()
    layer.add(rectangle(0, 5, 5, 5.2, 5.2), shape_type="rectangle")
    assert boxes_in(layer, stack) == ([], [])


def test_boxes_of_the_users_layer_without_features(layers, model, stack):
    theirs = model.add_shapes([rectangle(1, 5, 6, 20, 30)], shape_type="rectangle", scale=(1, 2, 2))
    layers.use_boxes(theirs)
    assert layers.read(layers.state()) == {(1, 1): (Box(1, 10, 12, 40, 60),)}


# Together


def test_what_is_added_is_read_back(layers):
    mask = np.zeros(SHAPE[1:], bool)
    mask[10:20, 10:20] = True
    prompts = [
        Point(0, 5.5, 6.25),
        Point(0, 7, 8, 2, False),
        Box(0, 1, 2, 30, 40),
        Point(3, 9, 9, 2),
        Mask(1, mask, 5),
    ]
    layers.add(prompts)
    assert layers.read(layers.state()) == {
        (0, 1): (Box(0, 1, 2, 30, 40), Point(0, 5.5, 6.25)),  # a box comes before clicks
        (0, 2): (Point(0, 7, 8, 2, False),),
        (3, 2): (Point(3, 9, 9, 2),),
        (1, 5): (Mask(1, mask, 5),),
    }
    assert layers.told


def test_prompts_are_added_to_a_layer_of_another_scale_where_they_belong(layers, model, stack):
    theirs = model.add_points([[0, 3, 3]], scale=(1, 0.5, 0.5), features={"cell": ["a"]}, translate=(0, 1, 1))
    layers.use_points(theirs)
    before = layers.read(layers.state())[0, 1]
    layers.add([Point(2, 20, 30, 4, False)])
    assert layers.read(layers.state()) == {(0, 1): before, (2, 4): (Point(2, 20, 30, 4, False),)}
    np.testing.assert_allclose(theirs.data_to_world(theirs.data[1]), (2, 20, 30))
    assert theirs.features["cell"].tolist()[0] == "a"


def test_all_of_it_goes_back_to_what_it_was(layers):
    layers.add([Point(0, 5, 6), Box(1, 1, 2, 30, 40, 3)])
    before = layers.state()
    layers.boxes.features = layers.boxes.features.assign(note=["first"])
    with_note = layers.state()
    layers.add([Point(0, 7, 8), Box(2, 1, 2, 30, 40), Mask(1, np.ones(SHAPE[1:], bool))])
    layers.points.data = layers.points.data + 1
    layers.restore(with_note)
    assert layers.state() == with_note == before
    assert layers.read(layers.state()) == {(0, 1): (Point(0, 5, 6),), (1, 3): (Box(1, 1, 2, 30, 40, 3),)}
    assert layers.boxes.features["note"].tolist() == ["first"]


def test_prompts_of_some_are_dropped_and_others_stay(layers):
    layers.add(
        [Point(0, 5, 6), Point(0, 7, 8, 2), Point(1, 5, 6), Box(0, 1, 2, 30, 40), Box(1, 1, 2, 30, 40)]
    )
    layers.drop(lambda frame, i: (frame, i) == (0, 1))
    assert set(layers.read(layers.state())) == {(0, 2), (1, 1)}


def test_what_comes_next_is_as_said_in_layers_made_since(layers):
    layers.set_next(3, False)
    layers.add([Point(0, 5, 6), Box(0, 1, 2, 30, 40)])
    layers.remind()
    layers.points.add([1, 5, 5])
    layers.boxes.add_rectangles([[1, 1, 2], [1, 1, 40], [1, 30, 40], [1, 30, 2]])
    found = layers.read(layers.state())
    assert found[1, 3] == (Box(1, 1, 2, 30, 40, 3), Point(1, 5, 5, 3, False))
    assert set(found) == {(0, 1), (1, 3)}


def test_prompts_of_other_planes_stay(qapp, model):
    image = model.add_image(np.zeros((3, 5, 64, 80), np.uint8))
    first, second = (stack_of(image, 0, (0, plane, 0, 0)) for plane in (1, 3))
    layers = PromptLayers(model, first, lambda: None)
    mask = np.ones((64, 80), bool)
    layers.add([Point(0, 5, 6), Mask(2, mask), Box(1, 1, 1, 9, 9)])
    of_first = layers.read(layers.state())
    layers.change_stack(second)
    assert layers.read(layers.state()) == {}
    layers.add([Point(0, 9, 9)])
    layers.drop(lambda frame, i: True)
    assert layers.read(layers.state()) == {}
    layers.change_stack(first)
    assert layers.read(layers.state()) == of_first
    layers.drop_points()
    layers.drop_boxes()


def test_a_drag_is_told_once_it_is_over(layers):
    layers.add([Point(0, 5, 6)])
    layers.told.clear()
    layer = layers.points
    layer.events.data(value=layer.data, action="changing", data_indices=(0,), vertex_indices=((),))
    for _ in range(5):
        layer.data[0, 1] += 1
        layer.events.features()  # as napari does at every move
        assert layers.read(layers.state()) == {(0, 1): (Point(0, 5, 6),)}
    assert layers.told == []
    layer.events.data(value=layer.data, action="changed", data_indices=(0,), vertex_indices=((),))
    assert layers.told
    assert layers.read(layers.state()) == {(0, 1): (Point(0, 10, 6),)}


def test_a_box_is_there_once_it_is_drawn(layers):
    layers.add([Box(0, 1, 1, 9, 9)])
    before = layers.state()
    layers.told.clear()
    layer = layers.boxes
    layer._is_creating = True  # as its mouse does between press and release
    layer.add(rectangle(1, 5, 5, 20, 20), shape_type="rectangle", gui=True)
    assert layers.state() == before
    assert set(layers.read(layers.state())) == {(0, 1)}
    layers._look_at_features()
    assert layers.told == []
    layer._moving_value = (1, 4)
    layer._finish_drawing()
    assert layers.told
    assert set(layers.read(layers.state())) == {(0, 1), (1, 1)}


def test_an_edit_in_the_table_of_features_is_noticed(layers):
    layers.add([Point(0, 5, 6), Box(0, 1, 1, 9, 9)])
    layers.state()
    for layer in (layers.points, layers.boxes):
        layers.told.clear()
        layer.features.iloc[0, layer.features.columns.get_loc("object_id")] = 3
        until(lambda: layers.told)
        layers.state()
    layers.told.clear()
    layers._look_at_features()
    assert layers.told == []


# In a session

VIDEO, MASKS = blob_clip()
SIDE = np.s_[60:90, 75:105]  # where nothing is


def points_in(rows, **features):
    return lambda viewer: viewer.add_points(rows, name="mine", features=pd.DataFrame(features))


def in_pixels(points):
    return [(p.frame, p.y, p.x) for p in points]


def test_every_change_of_a_point_changes_the_mask():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS))
        layer, there = session.points, session.canvas.frame(0).copy()
        assert overlap(there == 1, MASKS[0]) > 0.7

        layer.features = layer.features.assign(object_id=[5])
        session.wait(30)
        assert np.unique(session.canvas.frame(0)).tolist() == [0, 5]
        np.testing.assert_array_equal(session.canvas.frame(0) == 5, there == 1)

        layer.data = [[2, *layer.data[0, 1:]]]
        session.wait(30)
        assert not session.canvas.frame(0).any()
        assert overlap(session.canvas.frame(2) == 5, MASKS[2]) > 0.5

        layer.features.iloc[0, layer.features.columns.get_loc("object_id")] = 2  # as napari's table does
        until(lambda: session.canvas.frame(2).max() == 2)

        layer.features = layer.features.assign(label=[0])
        session.wait(30)
        assert not session.canvas.frame(2).any()
        assert str(layer.symbol[0].value) == "x"

        layer.features = layer.features.assign(label=[1])
        session.wait(30)
        assert session.canvas.frame(2).any()
        layer.selected_data = {0}
        layer.remove_selected()
        session.wait(30)
        assert not session.labels.data.any()
        assert session.told == []


def test_points_look_like_their_object():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS), Point(0, 80, 90, 7), Point(0, 5, 5, 7, False))
        for n, object_id in enumerate((1, 7, 7)):
            np.testing.assert_allclose(session.points.face_color[n], session.labels.get_color(object_id))
        assert [str(s.value) for s in session.points.symbol] == ["disc", "disc", "x"]
        session.labels.new_colormap(3)
        session.wait(30)
        np.testing.assert_allclose(session.points.face_color[1], session.labels.get_color(7), atol=1e-6)


def test_objects_of_one_frame_are_apart():
    video, masks = VIDEO.copy(), MASKS
    video[:, 66:86, 80:100] = 190
    with session_on(video) as session:
        click(session, middle(masks), Point(0, 76, 90, 2))
        both = session.canvas.frame(0).copy()
        assert overlap(both == 1, masks[0]) > 0.6
        assert (both[70:80, 85:95] == 2).mean() > 0.7
        session.points.selected_data = {1}
        session.points.remove_selected()
        session.wait(30)
        left = session.canvas.frame(0)
        assert not (left == 2).any()
        np.testing.assert_array_equal(left == 1, both == 1)


def test_the_newest_request_wins():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS), Point(0, 5, 5, positive=False))
        wanted = session.canvas.frame(0).copy()
        layer = session.points
        for y in (20, 60, 80):  # faster than masks come
            layer.data = [[0, y, 90], *layer.data[1:]]
            session.asking.stop()
            session.asking.take_up()
        y, x = in_pixels([middle(MASKS)])[0][1:]
        layer.data = [[0, y, x], *layer.data[1:]]
        session.wait(30)
        np.testing.assert_array_equal(session.canvas.frame(0), wanted)


def test_points_of_the_users_that_cannot_be_used_are_told_once_and_the_others_are_used():
    place = in_pixels([middle(MASKS)])[0]
    rows = [place, (0, -20, 5), (9, 5, 5), (1, 5, 500), (1, *place[1:])]
    mine = points_in(rows, object_id=[1, 1, 1, 1, -4], kind=list("abcde"))
    with session_on(VIDEO, points=mine) as session:
        assert len(session.told) == 1
        assert "3 more" in session.told[0]
        assert in_pixels(session.all_prompts) == [place]
        assert overlap(session.canvas.frame(0) == 1, MASKS[0]) > 0.7
        # It is the user's layer: nothing in it has gone or moved.
        layer = session.points
        assert layer.name == "mine"
        np.testing.assert_array_equal(layer.data, rows)
        assert layer.features["kind"].tolist() == list("abcde")
        assert layer.features["object_id"].tolist() == [1, 1, 1, 1, -4]
        click(session, middle(MASKS, 2))
        assert len(session.told) == 1  # not again
        session.undo()
        session.wait(30)
        np.testing.assert_array_equal(layer.data, rows)
        assert layer.features["kind"].tolist() == list("abcde")
        layer.data = np.vstack([layer.data, [(0, 5, 900)]])
        session.wait(30)
        assert len(session.told) == 2  # another one


def test_undoing_does_not_put_the_points_of_one_layer_into_another():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS))
        other = session.viewer.add_points([[1, 40, 45]], name="other")
        masks = session.canvas.frame(0).copy()
        session.use_points(other)
        session.wait(30)
        assert [p.frame for p in session.all_prompts] == [1]
        np.testing.assert_array_equal(session.canvas.frame(0), masks)  # what there was stays
        assert overlap(session.canvas.frame(1) == 1, MASKS[1]) > 0.7
        click(session, middle(MASKS, 2))
        for _ in range(3):
            session.undo()
            session.wait(30)
        np.testing.assert_array_equal(other.data, [[1, 40, 45]])


# Boxes in a session


def box_around(mask, frame=0, object_id=1):
    ys, xs = np.nonzero(mask)
    return Box(frame, ys.min(), xs.min(), ys.max(), xs.max(), object_id)


def test_boxes_alone_and_with_clicks():
    with session_on(VIDEO) as session:
        click(session, box_around(MASKS[0]))
        assert overlap(session.canvas.frame(0) == 1, MASKS[0]) > 0.7
        click(session, middle(MASKS, positive=True))
        assert [type(p) for p in session.all_prompts] == [Box, Point]
        assert overlap(session.canvas.frame(0) == 1, MASKS[0]) > 0.7
        session.points.selected_data = {0}
        session.points.remove_selected()
        session.wait(30)
        assert [type(p) for p in session.all_prompts] == [Box]


def test_a_box_that_is_moved_to_another_frame_takes_the_mask_along():
    with session_on(VIDEO) as session:
        click(session, box_around(MASKS[0]))
        corners = np.array(session.boxes.data[0])
        corners[:, 0] = 2
        corners[:, 2] += 8
        session.boxes.data = [corners]
        session.wait(30)
        assert not session.canvas.frame(0).any()
        assert overlap(session.canvas.frame(2) == 1, MASKS[2]) > 0.7


def test_an_ellipse_is_said_to_be_no_box():
    with session_on(VIDEO) as session:
        click(session, box_around(MASKS[0]))
        session.boxes.add(rectangle(1, 20, 20, 60, 60), shape_type="ellipse")
        session.wait(30)
        assert len(session.told) == 1
        assert "'ellipse'" in session.told[0]
        click(session, middle(MASKS, 1))
        assert len(session.told) == 1
        assert overlap(session.canvas.frame(1) == 1, MASKS[1]) > 0.7


def test_a_box_is_drawn_for_the_current_object():
    with session_on(VIDEO) as session:
        session.set_current_object(6)
        session.box_mode()
        session.boxes.add(rectangle(0, 20, 20, 60, 60), shape_type="rectangle")
        session.wait(30)
        assert [p.object_id for p in session.all_prompts] == [6]
        session.set_current_object(3)
        session.boxes.add(rectangle(0, 20, 20, 60, 60), shape_type="rectangle")
        session.wait(30)
        assert [p.object_id for p in session.all_prompts] == [3, 6]


# Painting


def paint(session, frame, object_id, region):
    """Paint a region with the brush, as a drag does."""
    session.go_to(frame)
    labels = session.labels
    labels.brush_size = 1
    with labels.block_history():
        for y in range(region[0].start, region[0].stop):
            for x in range(region[1].start, region[1].stop):
                labels.paint((frame, y, x), object_id, refresh=False)


def paint_mask(session, frame, object_id, mask):
    """Paint a mask at once."""
    ys, xs = np.nonzero(mask)
    session.labels.data_setitem((np.full_like(ys, frame), ys, xs), object_id)


def test_what_is_painted_becomes_a_prompt():
    with session_on(VIDEO) as session:
        paint(session, 1, 4, np.s_[70:75, 80:85])
        assert 4 in session.object_ids
        session.use_painted(1, 4)
        session.wait(30)
        (prompt,) = session.all_prompts
        assert (prompt.frame, prompt.object_id, np.count_nonzero(prompt.mask)) == (1, 4, 25)
        assert np.count_nonzero(session.canvas.frame(1) == 4) == 25
        session.undo()
        session.wait(30)
        assert session.all_prompts == []


def test_tracking_keeps_what_was_painted():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS))
        paint(session, 1, 1, SIDE)
        painted = session.canvas.frame(1).copy()
        track(session)
        np.testing.assert_array_equal(session.canvas.frame(1), painted)
        assert [type(p) for p in session.all_prompts] == [Point, Mask]


def test_an_object_that_is_painted_away_has_left():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS))
        track(session)
        assert session.canvas.frame(1).any()
        session.labels.contiguous = False
        session.labels.fill((1, *map(int, in_pixels([middle(MASKS, 1)])[0][1:])), 0)
        session.go_to(1)
        session.use_painted()
        session.wait(30)
        track(session, "both")
        assert not session.canvas.frame(1).any()
        assert not session.records[1].present[1]
        assert session.canvas.frame(0).any()


def test_a_label_that_is_painted_over_becomes_no_object_to_track():
    mine = np.zeros(VIDEO.shape, np.uint8)
    mine[:, 60:90, 75:105] = 7
    with session_on(VIDEO, labels=lambda viewer: viewer.add_labels(mine)) as session:
        click(session, middle(MASKS))
        paint(session, 0, 1, np.s_[62:66, 80:84])
        track(session)
        assert {p.object_id for p in session.all_prompts} == {1}
        for t in (1, 2):
            assert (session.canvas.frame(t)[SIDE] == 7).all()


def test_a_click_on_what_was_painted_refines_it():
    with session_on(VIDEO) as session:
        paint_mask(session, 0, 1, MASKS[0])
        click(session, middle(MASKS))
        assert [type(p) for p in session.all_prompts] == [Mask, Point]
        np.testing.assert_array_equal(session.all_prompts[0].mask, MASKS[0])
        assert overlap(session.canvas.frame(0) == 1, MASKS[0]) > 0.7
        session.undo()
        session.wait(30)
        assert session.all_prompts == []


def test_a_mask_of_an_earlier_session_is_not_lost_by_a_click_beside_it():
    mine = MASKS.astype(np.uint8)
    with session_on(VIDEO, labels=lambda viewer: viewer.add_labels(mine)) as session:
        click(session, Point(1, 5, 5, 1, False))
        assert overlap(session.canvas.frame(1) == 1, MASKS[1]) > 0.7


def test_a_click_beside_a_tracked_mask_refines_it_as_it_was_tracked():
    with session_on(VIDEO) as session:
        click(session, middle(MASKS))
        track(session)
        beside = Point(1, 5, 5, 1, False)
        click(session, beside)
        assert session.all_prompts == [middle(MASKS), beside]
        assert overlap(session.canvas.frame(1) == 1, MASKS[1]) > 0.7


def test_prompts_of_an_earlier_session_leave_its_masks(make_napari_viewer, open_widget):
    prompts = [middle(MASKS), box_around(MASKS[1], 1)]
    viewer = make_napari_viewer()
    viewer.add_image(VIDEO, name="clip")
    widget = open_widget(viewer)
    widget.add_prompts(prompts)
    widget.wait()
    labels = widget.session.labels
    labels.data[:, :40] = 0  # corrected by hand
    labels.data[2, 60:70, 60:70] = 1
    before = labels.data.copy()
    names = [layer.name for layer in viewer.layers]
    widget.shut_down()
    again = open_widget(viewer)
    again.wait()
    assert again.session.labels is labels
    assert again.session.all_prompts == prompts
    assert [layer.name for layer in viewer.layers] == names
    np.testing.assert_array_equal(labels.data, before)


# With the mouse


def test_a_drag_is_one_step(make_napari_viewer, open_widget, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(VIDEO, name="clip", scale=(1, 0.5, 0.5))
    widget = open_widget(viewer)
    session = widget.session
    session.go_to(0)
    mouse = Mouse(viewer, qtbot)
    y, x = (0.5 * v for v in in_pixels([middle(MASKS)])[0][1:])
    mouse.click(38, 45)
    widget.wait()
    placed = session.points.data.copy()
    session.points.mode = "select"
    native = mouse.canvas.native
    qtbot.mousePress(native, Qt.MouseButton.LeftButton, pos=mouse.at(38, 45))
    for part in np.linspace(0.1, 1, 8):
        qtbot.mouseMove(native, mouse.at(38 + part * (y - 38), 45 + part * (x - 45)))
        qtbot.wait(20)
    until(lambda: np.allclose(session.points.data[0, 1:], (2 * y, 2 * x), atol=2))
    qtbot.mouseRelease(native, Qt.MouseButton.LeftButton, pos=mouse.at(y, x))
    widget.wait()
    np.testing.assert_allclose(session.points.data[0, 1:], (2 * y, 2 * x), atol=2)
    assert overlap(session.canvas.frame(0) == 1, MASKS[0]) > 0.7
    session.undo()
    widget.wait()
    np.testing.assert_allclose(session.points.data, placed)
    session.undo()
    widget.wait()
    assert len(session.points.data) == 0
    assert not session.labels.data.any()


def test_a_box_is_drawn_with_the_mouse(make_napari_viewer, open_widget, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(VIDEO, name="clip")
    widget = open_widget(viewer)
    session = widget.session
    session.go_to(0)
    press(widget.controls.box)
    mouse, box = Mouse(viewer, qtbot), box_around(MASKS[0])
    native, (y, x) = mouse.canvas.native, (box.y1 + 2, box.x1 + 2)
    qtbot.mousePress(native, Qt.MouseButton.LeftButton, pos=mouse.at(box.y0 - 2, box.x0 - 2))
    for part in (0.3, 0.7, 1):
        qtbot.mouseMove(native, mouse.at(box.y0 + part * (y - box.y0), box.x0 + part * (x - box.x0)))
        qtbot.wait(20)
    qtbot.mouseRelease(native, Qt.MouseButton.LeftButton, pos=mouse.at(y, x))
    widget.wait()
    (found,) = session.all_prompts
    np.testing.assert_allclose(
        (found.y0, found.x0, found.y1, found.x1), (box.y0 - 2, box.x0 - 2, y, x), atol=2
    )
    assert overlap(session.canvas.frame(0) == 1, MASKS[0]) > 0.7
    session.undo()
    widget.wait()
    assert len(session.boxes.data) == 0
    assert not session.labels.data.any()


def test_no_layer_of_the_users_is_changed(make_napari_viewer, open_widget):
    viewer = make_napari_viewer()
    theirs = [
        viewer.add_image(VIDEO, name="clip"),
        viewer.add_points([[0, 5, 5]], name="cells", face_color="red"),
        viewer.add_shapes([rectangle(0, 5, 5, 20, 20)], name="regions"),
        viewer.add_labels(MASKS.astype(np.uint8) * 3, name="truth"),
    ]
    colours = theirs[1].face_color.copy()
    widget = open_widget(viewer)
    widget.add_prompts([middle(MASKS), box_around(MASKS[1], 1, 2)])
    widget.wait()
    widget.shut_down()
    assert list(viewer.layers)[:4] == theirs
    assert [layer.name for layer in theirs] == ["clip", "cells", "regions", "truth"]
    np.testing.assert_array_equal(theirs[1].face_color, colours)
    assert list(theirs[1].features.columns) == []
    assert len(theirs[1].data) == len(theirs[2].data) == 1
    np.testing.assert_array_equal(theirs[3].data, MASKS * 3)

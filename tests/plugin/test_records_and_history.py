"""What is known of the objects by frame, what can be undone, and how masks are drawn into labels."""

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from napari.components import ViewerModel

from napari_surgsam2._napari.canvas import MaskCanvas
from napari_surgsam2._napari.history import FrameState, History
from napari_surgsam2._napari.records import DOUBTFUL, Records
from napari_surgsam2._napari.stacks import stack_of

from .conftest import until

SURE, UNSURE = 0.95, 0.4


def records_of(n_frames, confidence):
    """Return records with a confidence by object and frame."""
    records = Records(n_frames)
    for object_id, by_frame in confidence.items():
        for frame, value in by_frame.items():
            records.note(object_id, frame, value, value > 0)
    return records


# Records


def test_what_was_noted_is_there_and_nothing_else_is_known():
    records = records_of(4, {2: {1: SURE, 3: UNSURE}})
    assert records.object_ids == (2,)
    np.testing.assert_array_equal(records[2].present, [False, True, False, True])
    np.testing.assert_allclose(records[2].confidence, [np.nan, SURE, np.nan, UNSURE], rtol=1e-6)
    assert records[2].mean_confidence == pytest.approx((SURE + UNSURE) / 2)
    assert np.isnan(records[9].mean_confidence)


@pytest.mark.parametrize(
    ("confidence", "after", "expected"),
    [
        ({1: {}}, 0, None),
        ({1: dict.fromkeys(range(10), SURE)}, 0, None),
        ({1: {4: UNSURE}}, 0, (4, 1)),
        ({1: {4: UNSURE}}, 6, (4, 1)),  # from the beginning again
        ({1: {4: DOUBTFUL}}, 0, None),  # not below it
        ({1: {3: 0.5, 4: 0.2, 5: 0.5}}, 0, (4, 1)),  # one of a run: its lowest
        ({1: {3: 0.5, 4: 0.2, 5: 0.5}}, 3, (4, 1)),  # also from inside of it
        ({1: {3: 0.2, 8: 0.2}}, 3, (8, 1)),
        ({1: {3: 0.2, 8: 0.2}}, 8, (3, 1)),
        ({1: {8: 0.2}, 2: {3: 0.2}}, 0, (3, 2)),
        ({1: {3: 0.2}, 2: {3: 0.2}}, 0, (3, 1)),
        ({1: {9: 0.2}}, 9, (9, 1)),  # the only one there is
    ],
)
def test_the_next_doubtful_frame(confidence, after, expected):
    records = records_of(10, confidence)
    assert records.next_doubtful(after, sorted(confidence)) == expected


def test_runs_of_two_objects_that_overlap_are_both_visited():
    doubtful = {1: {5: 0.5, 6: 0.5, 7: 0.5, 8: 0.5, 9: 0.1}, 2: {7: 0.2, 8: 0.5}}
    records = records_of(20, doubtful)
    visited, frame = [], 0
    for _ in range(2):
        frame, object_id = records.next_doubtful(frame, (1, 2))
        visited.append((frame, object_id))
    assert visited == [(7, 2), (9, 1)]


def test_only_the_objects_asked_for_are_doubted():
    records = records_of(5, {1: {1: 0.1}, 2: {3: 0.1}})
    assert records.next_doubtful(0, (2,)) == (3, 2)


def test_a_frame_goes_back_to_what_was_known_also_of_objects_forgotten_since():
    records = records_of(3, {1: {0: 0.9, 1: 0.8}, 2: {1: 0.7}})
    before = records.at(1)
    records.note(1, 1, 0.1, False)
    records.note(5, 1, 0.3, True)
    records.remove(2)
    records.restore(1, before)
    known = {i: v for i, v in records.at(1).items() if v[1]}
    assert {i: (round(c, 3), p) for i, (c, p, _) in known.items()} == {1: (0.8, True), 2: (0.7, True)}
    assert records[1].confidence[0] == pytest.approx(0.9)


# Frames and steps


@settings(max_examples=30, deadline=None)
@given(
    labels=arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32, np.int64, np.dtype(">u2")]),
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.integers(0, 100),
    )
)
def test_a_frame_is_kept_as_it_was(labels):
    kept = FrameState.of(labels, {3: (0.5, True)})
    np.testing.assert_array_equal(kept.labels(), labels)
    assert kept.labels().dtype == labels.dtype
    assert kept.known == {3: (0.5, True)}
    np.testing.assert_array_equal(FrameState.of(labels.T, {}).labels(), labels.T)  # not contiguous


def test_a_frame_is_kept_small():
    labels = np.zeros((500, 500), np.uint16)
    assert FrameState.of(labels, {}).nbytes < 1000
    labels[100:300, 100:300] = 7
    assert FrameState.of(labels, {}).nbytes < 10_000


def noise(seed, side=64):
    return np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)


def test_steps_are_undone_and_done_again_in_order():
    history = History()
    for name in "abc":
        history.begin(name, name.upper(), name)
    assert history.can_undo == "c"
    assert not history.can_redo
    assert [history.undo().what, history.undo().what] == ["c", "b"]
    assert history.can_redo == "b"
    assert history.redo().what == "b"
    history.begin("d", None, None)  # what was undone cannot be done again
    assert history.redo() is None
    assert [history.undo().what for _ in range(3)] == ["d", "b", "a"]
    assert history.undo() is None


def test_a_step_keeps_the_first_state_of_each_frame():
    history = History()
    step = history.begin("painting", None, None)
    history.keep(step, (0,), FrameState.of(np.full((8, 8), 1, np.uint8), {}))
    history.keep(step, (0,), FrameState.of(np.full((8, 8), 2, np.uint8), {}))
    assert step.frames[0,].labels().max() == 1


def test_the_oldest_steps_are_forgotten_past_the_limit():
    one = FrameState.of(noise(0), {}).nbytes
    history = History(limit=int(3.5 * one))
    for n in range(5):
        step = history.begin(str(n), None, None)
        history.keep(step, (n,), FrameState.of(noise(n), {}))
    assert [history.undo().what for _ in range(3)] == ["4", "3", "2"]
    assert history.undo() is None


def test_the_newest_step_is_kept_however_large():
    history = History(limit=1)
    first, second = history.begin("first", None, None), history.begin("second", None, None)
    for n in range(3):
        history.keep(second, (n,), FrameState.of(noise(n), {}))
    assert history.find(first.token) is None
    assert history.undo() is second
    assert len(second.frames) == 3


def test_many_frames_in_a_step_take_no_time():
    history = History()
    history.begin("before", None, None)
    step = history.begin("tracking", None, None)
    state = FrameState.of(np.zeros((8, 8), np.uint8), {})
    looked_at = 0

    class Counting(dict):
        def values(self):
            nonlocal looked_at
            looked_at += len(self)
            return super().values()

    step.frames = Counting()
    for n in range(2000):
        history.keep(step, (n,), state)
    assert looked_at < 20_000


def test_a_step_that_changed_nothing_is_dropped():
    history = History()
    step = history.begin("tracking", None, None)
    history.drop(step)
    history.drop(step)
    assert history.undo() is None


# The canvas


def canvas_on(data, image=None, on_painted=None, viewer=None, **kwargs):
    """Return a canvas on labels, in a viewer without a window."""
    viewer = ViewerModel() if viewer is None else viewer
    shown = viewer.add_image(np.zeros(data.shape, np.uint8) if image is None else image, **kwargs)
    labels = viewer.add_labels(data, **kwargs)
    stack = stack_of(shown, None, shown.world_to_data(viewer.dims.point))
    return MaskCanvas(viewer, labels, stack, on_painted)


@pytest.fixture(scope="module")
def merged(qapp):
    """What a canvas merges."""
    canvas = canvas_on(np.zeros((2, 8, 8), np.uint16))
    yield canvas.merged
    canvas.close()


small = st.sampled_from([np.uint8, np.uint16, np.int32, np.int64])
frames = small.flatmap(lambda dtype: arrays(dtype, (6, 7), elements=st.integers(0, 5)))
ids = st.lists(st.integers(1, 5), unique=True, max_size=4)


@settings(max_examples=100, deadline=None)
@given(current=frames, labels=frames, objects=ids, rivals=ids, preserve=st.booleans())
def test_merging_changes_only_what_it_may(merged, current, labels, objects, rivals, preserve):
    before = current.copy()
    out = merged(current, labels, objects, rivals, preserve)
    np.testing.assert_array_equal(current, before)
    assert out.dtype == current.dtype
    mine, wanted = np.isin(current, objects), np.isin(labels, objects)
    # Nothing but the masks of these objects comes or goes.
    np.testing.assert_array_equal(out[~mine & ~wanted], current[~mine & ~wanted])
    np.testing.assert_array_equal(out[mine & ~wanted], 0)
    others = (current != 0) & ~mine
    if preserve:
        untouchable = others & ~np.isin(current, rivals)
        np.testing.assert_array_equal(out[untouchable], current[untouchable])
        free = wanted & ~untouchable
    else:
        free = wanted
    np.testing.assert_array_equal(out[free], labels[free])


def test_an_object_that_has_left_loses_its_mask(merged):
    current = np.zeros((8, 8), np.uint16)
    current[2:5, 2:5] = 3
    current[6, 6] = 4
    out = merged(current, np.zeros((8, 8), np.uint8), [3])
    assert np.unique(out).tolist() == [0, 4]


@pytest.mark.parametrize("object_id", [255, 256, 65_535])
def test_ids_fill_the_numbers_of_the_layer(merged, object_id):
    labels = np.zeros((8, 8), np.uint32)
    labels[1, 1] = object_id
    out = merged(np.zeros((8, 8), np.uint16), labels, [object_id])
    assert out[1, 1] == object_id


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_the_largest_id_is_that_of_the_layer(qapp, dtype):
    canvas = canvas_on(np.zeros((2, 8, 8), dtype))
    assert canvas.largest_id == np.iinfo(dtype).max
    canvas.close()


@pytest.mark.parametrize("where", ["numpy", "zarr"])
def test_a_frame_in_view_is_shown_and_another_is_not(qapp, where):
    data = np.zeros((3, 8, 8), np.uint8)
    canvas = canvas_on(zarr.array(data, chunks=(1, 8, 8)) if where == "zarr" else data)
    canvas._viewer.dims.set_point(0, 1)
    assert [canvas.is_in_view(canvas.stack.index(t)) for t in range(3)] == [False, True, False]
    repainted = []
    canvas.layer.events.set_data.connect(lambda: repainted.append(canvas.frame(1).max()))
    canvas.write(2, np.full((8, 8), 9, np.uint8))
    assert not canvas._repaint.isActive()
    canvas.write(1, np.full((8, 8), 7, np.uint8))
    until(lambda: repainted)
    assert repainted == [7]
    assert canvas.frame(2).max() == 9
    canvas.close()


def painting_canvas(shape, **kwargs):
    """Return a canvas, and the list in which it says what was painted."""
    told = []
    canvas = canvas_on(
        np.zeros(shape, np.uint8),
        on_painted=lambda strokes: told.extend((s.frame, s.painted, s.over) for s in strokes),
        **kwargs,
    )
    return canvas, told


def test_strokes_are_told_with_their_frame(qapp):
    canvas, told = painting_canvas((3, 32, 32))
    canvas._viewer.dims.set_point(0, 1)
    layer = canvas.layer
    layer.paint((1, 10, 10), 4)
    layer.paint((1, 10, 12), 6)  # partly over the first
    layer.paint((1, 10, 12), 0)
    layer.fill((1, 30, 30), 8)
    layer.data_setitem((np.array([2, 2]), np.array([3, 4]), np.array([5, 5])), 7)
    assert told == [(1, {4}, set()), (1, {6}, {4}), (1, set(), {6}), (1, {8}, set()), (2, {7}, set())]
    canvas.close()


def test_strokes_are_told_with_what_was_there_before(qapp):
    labels = np.zeros((3, 16, 16), np.uint8)
    labels[1, 4:8, 4:8] = 2
    told = []
    canvas = canvas_on(labels, on_painted=told.extend)
    before = labels[1].copy()
    with canvas.layer.block_history():  # one stroke of three dabs
        for x in (5, 6, 6):
            canvas.layer.paint((1, 5, x), 3)
    np.testing.assert_array_equal(told[-1].before, before)
    canvas.close()


def test_a_bucket_that_fills_a_frame_is_told(qapp):
    canvas, told = painting_canvas((2, 16, 16))
    canvas.layer.fill((0, 3, 3), 5)
    assert told == [(0, {5}, set())]
    canvas.close()


def test_a_brush_through_time_is_told_for_every_frame(qapp):
    canvas, told = painting_canvas((5, 32, 32))
    canvas.layer.n_edit_dimensions = 3
    canvas.layer.brush_size = 3
    canvas.layer.paint((2, 10, 10), 4)
    assert {frame for frame, *_ in told} == {1, 2, 3}
    canvas.close()


def test_what_is_painted_in_another_plane_is_not_told(qapp):
    canvas, told = painting_canvas((3, 4, 32, 32))
    plane = canvas.stack.picked[1]
    canvas.layer.data_setitem(tuple(np.array([n]) for n in (2, plane + 1, 5, 5)), 3)
    assert told == []
    canvas.layer.data_setitem(tuple(np.array([n]) for n in (2, plane, 5, 5)), 3)
    assert told == [(2, {3}, set())]
    canvas.close()


def test_a_single_picture_is_painted(qapp):
    canvas, told = painting_canvas((32, 32))
    canvas.layer.paint((4, 4), 2)
    assert told == [(0, {2}, set())]
    canvas.close()


def test_masks_are_written_into_one_plane(qapp):
    canvas = canvas_on(np.zeros((3, 4, 8, 8), np.uint8), image=da.zeros((3, 4, 8, 8), dtype=np.uint8))
    plane = canvas.stack.picked[1]
    canvas.write(2, np.full((8, 8), 5, np.uint8))
    assert np.argwhere(canvas.layer.data.any(axis=(2, 3))).tolist() == [[2, plane]]
    canvas.close()

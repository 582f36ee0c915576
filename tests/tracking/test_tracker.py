"""What users rely on: prompts, corrections, directions, ranges, objects coming and going."""

import gc
import threading

import numpy as np
import pytest
import torch

from napari_surgsam2 import PruningSettings, Tracker, TrackingSettings
from napari_surgsam2.checkpoints import Model
from napari_surgsam2.errors import PromptError, UsageError, VideoError
from napari_surgsam2.network import Decoded
from napari_surgsam2.prompts import Point
from napari_surgsam2.tracking import FrameResult

EXACT = {"rtol": 0, "atol": 1e-4}


def run(tracker: Tracker, *args, **kwargs) -> dict[int, dict[int, np.ndarray]]:
    """Propagate; return logits by frame and object id."""
    return {
        r.frame: dict(zip(r.object_ids.tolist(), r.logits, strict=True))
        for r in tracker.propagate(*args, **kwargs)
    }


def assert_same(a: dict, b: dict, frames=None) -> None:
    for frame in frames if frames is not None else a:
        assert a[frame].keys() == b[frame].keys()
        for object_id in a[frame]:
            np.testing.assert_allclose(a[frame][object_id], b[frame][object_id], **EXACT)


def click(tracker: Tracker, frame: int = 0, object_id: int = 1, at=(25, 20), label: int = 1) -> None:
    tracker.add_points(frame, object_id, [at], [label])


# Results


def test_a_result_has_logits_scores_masks_and_labels(tracker: Tracker) -> None:
    click(tracker, object_id=3)
    click(tracker, object_id=300, at=(45, 60))

    result = tracker.predict(0)

    assert result.frame == 0
    assert result.object_ids.tolist() == [3, 300]
    assert result.logits.shape == (2, 32, 32)
    assert result.logits.dtype == np.float32
    assert (result.scores >= 0).all()
    assert (result.scores <= 1).all()
    masks, labels = result.masks(), result.labels()
    assert masks.shape == (2, 72, 96)
    assert masks.dtype == bool
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) <= {0, 3, 300}
    np.testing.assert_array_equal(labels > 0, masks.any(axis=0))


def test_where_masks_overlap_the_largest_logit_wins(tracker: Tracker) -> None:
    click(tracker, object_id=1)
    click(tracker, object_id=2, at=(28, 24))
    result = tracker.predict(0)
    logits = result.video_logits()

    labels = result.labels()

    both = result.masks().all(axis=0)
    assert both.any()
    np.testing.assert_array_equal(labels[both], np.where(logits[0] >= logits[1], 1, 2)[both])


def test_clean_up_changes_masks_but_not_logits(model, clip) -> None:
    plain, cleaned = (
        Tracker(model, clip),
        Tracker(model, clip, TrackingSettings(fill_holes=9, remove_speckles=50)),
    )
    for t in (plain, cleaned):
        click(t)
    before, after = plain.predict(0), cleaned.predict(0)

    np.testing.assert_array_equal(before.logits, after.logits)
    assert not np.array_equal(before.masks(), after.masks())


# Directions and ranges


@pytest.mark.parametrize(
    ("direction", "kwargs", "visited"),
    [
        ("forward", {}, [*range(5, 24)]),
        ("forward", {"start": 8, "stop": 12}, [8, 9, 10, 11]),
        ("backward", {}, [5, 4, 3, 2, 1, 0]),
        ("backward", {"start": 9, "stop": 6}, [9, 8, 7]),
        ("both", {}, [*range(5, 24), 4, 3, 2, 1, 0]),
        ("both", {"frames": (3, 8)}, [5, 6, 7, 4, 3]),
        ("forward", {"frames": (10, 13)}, [10, 11, 12]),
        ("backward", {"frames": (0, 3)}, [2, 1, 0]),
    ],
)
def test_frames_visited(tracker: Tracker, direction, kwargs, visited) -> None:
    click(tracker, frame=5)

    propagation = tracker.propagate(direction, **kwargs)

    assert propagation.total == len(visited)
    assert [r.frame for r in propagation] == visited
    assert propagation.done == len(visited)


def test_each_object_is_tracked_from_its_own_first_prompt_both_ways(tracker: Tracker) -> None:
    click(tracker, frame=4, object_id=1)
    click(tracker, frame=10, object_id=2, at=(45, 60))

    seen: dict[int, set] = {}
    for result in tracker.propagate("both"):
        seen[result.frame] = set(result.object_ids.tolist())  # the last visit counts

    assert seen == {frame: {1, 2} for frame in range(24)}


def test_a_forward_pass_starts_an_object_at_its_first_prompt(tracker: Tracker) -> None:
    click(tracker, frame=4, object_id=1)
    click(tracker, frame=10, object_id=2)

    seen = run(tracker, "forward")

    assert all(set(seen[f]) == ({1} if f < 10 else {1, 2}) for f in range(4, 24))


def test_two_halves_are_the_whole(model, clip) -> None:
    whole, halves = Tracker(model, clip), Tracker(model, clip)
    for t in (whole, halves):
        click(t)
        click(t, object_id=2, at=(45, 60))

    expected = run(whole, "forward")
    got = run(halves, "forward", stop=11) | run(halves, "forward", start=11)

    assert_same(expected, got)


def test_a_dropped_propagation_keeps_what_it_did_and_can_be_gone_on_from(model, clip) -> None:
    whole, dropped = Tracker(model, clip), Tracker(model, clip)
    for t in (whole, dropped):
        click(t)
    expected = run(whole, "forward")

    for result in dropped.propagate("forward"):
        if result.frame == 9:
            break
    got = run(dropped, "forward", start=10)

    assert_same(expected, got, range(10, 24))


# Objects


def test_together_or_alone_is_the_same(model, clip) -> None:
    """But for what tells them apart: clicks on another object of a frame, and that masks do not overlap."""
    settings = TrackingSettings(obey_clicks=False, exclusive=False)
    together = Tracker(model, clip, settings)
    prompts = {1: (0, (25, 20)), 2: (3, (45, 60)), 7: (0, (60, 80))}
    for object_id, (frame, at) in prompts.items():
        click(together, frame, object_id, at)
    click(together, 12, 2, (40, 50))  # another number of memories than the others have
    everything = run(together, "forward")

    for object_id, (frame, at) in prompts.items():
        alone = Tracker(model, clip, settings)
        click(alone, frame, object_id, at)
        if object_id == 2:
            click(alone, 12, 2, (40, 50))
        for t, logits in run(alone, "forward").items():
            np.testing.assert_allclose(everything[t][object_id], logits[object_id], **EXACT)


def test_objects_may_come_and_go_while_tracking(tracker: Tracker) -> None:
    click(tracker, object_id=1)
    seen = {}
    for result in tracker.propagate("forward"):
        seen[result.frame] = result.object_ids.tolist()
        if result.frame == 5:
            click(tracker, frame=6, object_id=2, at=(45, 60))
        if result.frame == 15:
            tracker.remove_object(1)

    assert seen[5] == [1]
    assert seen[6] == seen[15] == [1, 2]
    assert seen[16] == [2]


def test_only_the_asked_objects_and_frames_change(model: Model, clip: np.ndarray) -> None:
    # Weights at random make masks that would be doubted, and none are all alike.
    tracker = Tracker(model, clip, TrackingSettings(doubt_masks=False))
    click(tracker, object_id=1)
    click(tracker, object_id=2, at=(45, 60))
    before = run(tracker, "forward")
    click(tracker, frame=8, object_id=1, at=(30, 40))
    click(tracker, frame=8, object_id=2, at=(50, 50))

    run(tracker, "forward", start=8, stop=12, objects=[1])

    after = {f: tracker.predict(f) for f in (5, 10, 15)}
    for frame, changed in ((5, []), (10, [1]), (15, [])):
        for object_id, logits in zip(after[frame].object_ids.tolist(), after[frame].logits, strict=True):
            same = np.allclose(before[frame][object_id], logits, **EXACT)
            assert same == (object_id not in changed), (frame, object_id)


def test_a_removed_object_leaves_nothing(tracker: Tracker) -> None:
    click(tracker, object_id=1)
    click(tracker, object_id=2, at=(45, 60))
    run(tracker, "forward")

    tracker.remove_object(2)

    assert tracker.object_ids == (1,)
    assert tracker.predict(7).object_ids.tolist() == [1]
    with pytest.raises(PromptError, match="no object 2; the objects are: 1"):
        tracker.remove_object(2)


# Corrections


def test_a_prompted_frame_keeps_its_mask_after_any_propagation(tracker: Tracker) -> None:
    click(tracker)
    run(tracker, "forward")
    click(tracker, frame=9, at=(30, 40))
    click(tracker, frame=9, at=(10, 10), label=0)
    corrected = tracker.predict(9).logits

    passes = [run(tracker, d, start=s) for d, s in (("both", None), ("backward", 20), ("forward", 3))]

    for seen in passes:
        np.testing.assert_array_equal(seen[9][1], corrected[0])
    np.testing.assert_array_equal(tracker.predict(9).logits, corrected)


def test_a_correction_changes_the_frames_after_it(tracker: Tracker) -> None:
    click(tracker)
    before = run(tracker, "forward")
    click(tracker, frame=9, at=(50, 70))

    after = run(tracker, "forward", start=9)

    assert not np.allclose(before[12][1], after[12][1], **EXACT)


def test_correcting_a_tracked_frame_starts_from_its_mask(model, clip) -> None:
    tracked, fresh = Tracker(model, clip), Tracker(model, clip)
    click(tracked)
    run(tracked, "forward", stop=12)
    for t in (tracked, fresh):
        click(t, frame=9, at=(30, 40))

    assert not np.allclose(tracked.predict(9).logits, fresh.predict(9).logits, **EXACT)


def test_predict_is_repeatable_and_each_new_click_refines(tracker: Tracker) -> None:
    click(tracker)
    first, again = tracker.predict(0).logits, tracker.predict(0).logits
    click(tracker, at=(30, 30))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(tracker.predict(0).logits, first)


def test_clearing_prompts_brings_the_tracked_mask_back(tracker: Tracker) -> None:
    click(tracker)
    tracked = run(tracker, "forward")
    click(tracker, frame=9, at=(60, 80))
    tracker.predict(9)

    tracker.clear_prompts(9, 1)

    np.testing.assert_array_equal(tracker.predict(9).logits[0], tracked[9][1])


def test_an_object_whose_prompts_are_cleared_on_the_way_is_tracked_no_further(tracker: Tracker) -> None:
    click(tracker)
    click(tracker, frame=0, at=(60, 80), object_id=2)
    propagation = tracker.propagate("both")
    for _ in range(3):
        next(propagation)

    tracker.clear_prompts(0, 2)

    assert [i for r in propagation for i in r.object_ids.tolist() if i == 2 and r.frame > 2] == []


def test_an_object_without_prompts_makes_no_pass_longer(tracker: Tracker) -> None:
    click(tracker)
    click(tracker, frame=0, at=(60, 80), object_id=2)
    run(tracker, "both")
    tracker.clear_prompts(0, 2)
    propagation = tracker.propagate("both")
    assert propagation.total == 24
    assert [r.frame for r in propagation] == list(range(24))


def test_points_that_are_no_table_are_told(tracker: Tracker) -> None:
    with pytest.raises(PromptError, match=r"must be numbers of shape \(N, 2\)|must be \(N, 2\) numbers"):
        tracker.add_points(0, 1, [(1, 2), (3,)])


def test_prompts_stay_as_they_were_where_new_ones_cannot_be_used(tracker: Tracker, monkeypatch) -> None:
    click(tracker)
    click(tracker, at=(30, 30))
    before = tracker.predict(0).logits
    prompts = tracker.prompts

    def fail(*_: object) -> None:
        raise VideoError("the disk is gone")

    monkeypatch.setattr(tracker._frames, "features", fail)
    for object_id in (1, 2):
        with pytest.raises(VideoError):
            tracker.set_prompts(0, object_id, [Point(0, 9, 9, object_id), Point(0, 12, 9, object_id)])
    monkeypatch.undo()

    assert tracker.prompts == prompts
    assert tracker.object_ids == (1,)
    np.testing.assert_array_equal(tracker.predict(0).logits, before)


def test_a_negative_click_ahead_waits_until_tracking_gets_there(tracker: Tracker) -> None:
    click(tracker)
    click(tracker, frame=9, at=(40, 50), label=0)

    seen = run(tracker, "forward")

    assert set(seen) == set(range(24))
    np.testing.assert_array_equal(tracker.predict(9).logits[0], seen[9][1])


# Masks as prompts


def test_a_given_mask_comes_back_as_it_is_and_is_tracked(tracker: Tracker) -> None:
    mask = np.zeros((72, 96), bool)
    mask[20:41, 13:30] = True
    tracker.add_mask(0, 5, mask)

    seen = {r.frame: r for r in tracker.propagate("forward")}

    np.testing.assert_array_equal(seen[0].masks()[0], mask)
    np.testing.assert_array_equal(seen[0].labels(), mask * np.uint8(5))
    assert seen[1].object_ids.tolist() == [5]


@pytest.mark.parametrize("thick", [1, 3, 8, 20])
def test_however_thin_a_given_mask_is_it_is_remembered(model, thick: int) -> None:
    """A thread in a large picture is less than half a pixel wide in what the network sees."""
    for left in range(300, 311, 2):
        tracker = Tracker(model, np.zeros((1, 480, 640, 3), np.uint8))
        mask = np.zeros((480, 640), bool)
        mask[100:200, left : left + thick] = True
        tracker.add_mask(0, 1, mask)

        result = tracker.predict(0)

        assert result.scores[0] > 0.99
        remembered = result.logits[0] > 0
        assert remembered.any()
        rows, columns = np.nonzero(remembered)
        scale = np.array(mask.shape) / remembered.shape
        assert abs((rows.mean() + 0.5) * scale[0] - 150) < 2 * scale[0]
        assert abs((columns.mean() + 0.5) * scale[1] - left - thick / 2) < 2 * scale[1]
        tracker.close()


def test_clicks_after_a_mask_refine_it_and_a_mask_replaces_clicks(tracker: Tracker) -> None:
    mask = np.zeros((72, 96), bool)
    mask[20:41, 13:30] = True
    tracker.add_mask(0, 1, mask)
    click(tracker, at=(22, 15), label=0)
    refined = tracker.predict(0).masks()[0]
    assert not np.array_equal(refined, mask)

    tracker.add_mask(0, 1, mask)

    np.testing.assert_array_equal(tracker.predict(0).masks()[0], mask)


def test_an_empty_mask_says_the_object_is_not_there(tracker: Tracker) -> None:
    click(tracker)
    tracker.add_mask(6, 1, np.zeros((72, 96), bool))

    result = {r.frame: r for r in tracker.propagate("forward")}[6]

    assert not result.masks().any()
    assert result.scores[0] < 0.01


def test_a_box_and_clicks_are_combined(model, clip) -> None:
    logits = []
    for with_box, with_click in ((True, False), (False, True), (True, True)):
        tracker = Tracker(model, clip)
        if with_click:
            click(tracker)
        if with_box:
            tracker.add_box(0, 1, (10, 8, 40, 36))
        logits.append(tracker.predict(0).logits)

    assert not any(np.allclose(logits[2], other, **EXACT) for other in logits[:2])


# Bad prompts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.add_points(24, 1, [(5, 5)]), "frame 24, but the video has 24 frames: 0 to 23"),
        (lambda t: t.add_points(0, 1, [(72, 5)]), "72 pixels high .y. and 96 wide"),
        (lambda t: t.add_points(0, 1, [(np.nan, 5)]), "finite numbers"),
        (lambda t: t.add_points(0, 0, [(5, 5)]), "object id of a point is 0"),
        (lambda t: t.add_points(0, 1, [(5, 5, 5)]), r"must be \(N, 2\)"),
        (lambda t: t.add_points(0, 1, [(5, 5)], [2]), "must be 1 .positive. or 0"),
        (lambda t: t.add_points(-1, 1, [(5, 5)]), "frame of a point is -1"),
        (lambda t: t.add_box(0, 1, (5, 5, 5, 9)), "is empty"),
        (lambda t: t.add_box(0, 1, (5, 5, 9)), "four numbers"),
        (lambda t: t.add_box(0, 1, (80, 5, 90, 9)), "outside the video"),
        (lambda t: t.add_box(0, 1, "left"), "must be four numbers"),
        (lambda t: t.add_mask(0, 1, np.zeros((5, 5))), r"must be the video's, \(72, 96\)"),
        (lambda t: t.predict(0), "No object is prompted on frame 0"),
        (lambda t: next(t.propagate()), "nothing to track"),
    ],
)
def test_bad_prompts_are_refused_and_leave_nothing(tracker: Tracker, call, message) -> None:
    with pytest.raises(PromptError, match=message):
        call(tracker)
    assert tracker.object_ids == ()


def test_only_negative_clicks_are_refused(tracker: Tracker) -> None:
    click(tracker, label=0)

    with pytest.raises(PromptError, match="only negative points on frame 0"):
        tracker.predict(0)
    with pytest.raises(PromptError, match="objects 1 have only negative points; add a positive"):
        run(tracker, "forward")


def test_an_object_with_nothing_but_negative_clicks_stops_no_other(tracker: Tracker) -> None:
    """Also where it comes up, or its positive clicks are taken back, while the others are tracked."""
    click(tracker)
    click(tracker, frame=0, object_id=2, at=(50, 60))
    click(tracker, frame=12, object_id=2, at=(50, 60), label=0)
    seen = {}
    for result in tracker.propagate():
        seen[result.frame] = set(result.object_ids.tolist())
        if result.frame == 3:
            tracker.set_prompts(8, 3, [Point(8, 5, 5, 3, positive=False)])
        if result.frame == 5:
            tracker.clear_prompts(0, 2)

    assert list(seen) == list(range(24))
    assert all(1 in objects and 3 not in objects for objects in seen.values())
    assert 2 not in seen[23]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("sideways",), {}, "must be 'forward', 'backward' or 'both'"),
        (("forward",), {"start": 24}, "from 0 to 23"),
        (("forward",), {"start": 5, "stop": 5}, "must be above that"),
        (("backward",), {"start": 5, "stop": 7}, "must be below that"),
        (("both",), {"frames": (5, 30)}, "within 0:24"),
        (("forward",), {"objects": [2]}, "no object 2"),
        (("both",), {"frames": (5,)}, "must be two whole numbers"),
        (("both",), {"frames": (0.0, 5)}, "must be two whole numbers"),
        (
            ("backward",),
            {"frames": (6, 16)},
            "cannot be reached going backward .*, on frame 0",
        ),
    ],
)
def test_bad_ranges_are_refused_at_once(tracker: Tracker, args, kwargs, message) -> None:
    click(tracker)
    with pytest.raises(UsageError, match=message):
        tracker.propagate(*args, **kwargs)


def test_prompts_can_be_taken_to_another_tracker(model, clip) -> None:
    first, second = Tracker(model, clip), Tracker(model, clip)
    click(first, frame=2, object_id=4)
    click(first, frame=2, object_id=4, at=(30, 30), label=0)
    first.add_box(6, 2, (10, 8, 40, 36))

    second.add_prompts(first.prompts)

    assert_same(run(first, "both"), run(second, "both"))


def test_pruning_changes_what_is_seen_and_zero_is_plain(model, clip) -> None:
    use = {}
    for prune in (0, 2, 20):
        tracker = Tracker(model, clip, TrackingSettings(pruning=PruningSettings(prune)))
        click(tracker)
        click(tracker, frame=4, at=(26, 25))
        use[prune] = {r.frame: r.memory.get(1) for r in tracker.propagate("forward")}

    assert use[0][20].pruned == ()
    assert use[0][20].kept == (14, 15, 16, 17, 18, 19)
    assert len(use[2][20].pruned) == 3  # two prompted frames and six tracked ones are 8 of 7 slots, less 2
    assert use[20][20].kept == (19,)
    assert all(use[p][20].conditioning == (0, 4) for p in use)


@pytest.mark.parametrize(
    ("direction", "kwargs", "prompts", "seen"),
    [
        ("both", {"frames": (10, 13)}, {1: [5], 2: [20]}, {f: {1, 2} for f in (10, 11, 12)}),
        ("both", {"frames": (3, 8)}, {1: [5], 2: [12]}, {f: {1, 2} for f in range(3, 8)}),
        ("both", {"frames": (3, 8)}, {1: [12]}, {f: {1} for f in range(3, 8)}),
        ("both", {"stop": 10}, {1: [5], 2: [20]}, {f: {1, 2} for f in range(10)}),
        ("backward", {"frames": (10, 13)}, {1: [5, 20]}, {f: {1} for f in (10, 11, 12)}),
        (
            "forward",
            {"frames": (6, 10)},
            {1: [2], 2: [8]},
            {f: {1} if f < 8 else {1, 2} for f in range(6, 10)},
        ),
    ],
)
def test_objects_prompted_beyond_the_range_are_tracked_into_it(
    tracker: Tracker, direction, kwargs, prompts, seen
) -> None:
    for object_id, frames in prompts.items():
        for frame in frames:
            click(tracker, frame, object_id)

    last_visit = {r.frame: set(r.object_ids.tolist()) for r in tracker.propagate(direction, **kwargs)}

    assert last_visit == seen


def test_an_object_is_tracked_into_a_range_alike_whoever_else_is_prompted_there(model, clip) -> None:
    apart = TrackingSettings(exclusive=False)
    alone, together = Tracker(model, clip, apart), Tracker(model, clip, apart)
    for tracker in (alone, together):
        click(tracker, 2, 1)
    click(together, 12, 2, at=(50, 60))

    a, b = (run(t, "both", frames=(6, 16)) for t in (alone, together))

    for frame in range(6, 16):
        np.testing.assert_allclose(a[frame][1], b[frame][1], **EXACT)


def test_a_pass_that_is_gone_on_with_counts_the_frames_of_the_whole(tracker: Tracker) -> None:
    """Also where a correction before its first frame has been reached since."""
    click(tracker, frame=10)
    click(tracker, frame=4, at=(40, 50), label=0)
    first = tracker.propagate("both")
    while first.done < 22:
        next(first)
    rest = tracker.propagate("both", resume=first.state())

    assert (rest.done, rest.total) == (first.done, first.total)
    for _ in rest:
        pass
    assert rest.done == rest.total


def test_a_dropped_propagation_ends_its_reading_thread_at_once(tracker: Tracker) -> None:
    click(tracker)
    before = threading.active_count()
    gc.disable()
    try:
        for result in tracker.propagate("forward"):
            if result.frame == 1:
                assert threading.active_count() == before + 1
                break
        del result
        assert threading.active_count() == before
    finally:
        gc.enable()


def test_numpy_integers_are_integers(model, clip) -> None:
    tracker = Tracker(model, clip, TrackingSettings(memory_bytes=0))
    click(tracker, object_id=np.int64(1))
    run(tracker, "forward", start=np.int64(0), stop=np.int64(24))

    assert tracker.predict(np.int64(2)).object_ids.tolist() == [1]
    tracker.forget(np.int64(1), np.arange(1, 24))  # most of them are in the file for what was let go
    assert not any(len(tracker.result(frame).object_ids) for frame in range(1, 24))
    tracker.remove_object(np.int64(1))
    click(tracker, frame=20)
    with pytest.raises(PromptError, match="No object is prompted on frame 2"):
        tracker.predict(2)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_given_mask_keeps_its_pixels_in_labels_too(exclusive: bool) -> None:
    """However high the logits of another object are there; unless things may lie within things."""
    given = np.zeros((16, 16), bool)
    given[4:8, 4:8] = True
    sure = np.full((16, 16), 15.0, np.float32)
    result = FrameResult(
        frame=0,
        object_ids=np.array([1, 2]),
        logits=np.stack([np.zeros_like(sure), sure]),
        scores=np.ones(2, np.float32),
        ious=np.ones(2, np.float32),
        video_shape=(16, 16),
        given={1: given},
        exclusive=exclusive,
    )
    np.testing.assert_array_equal(result.labels(), np.where(given & exclusive, 1, 2))


def test_an_object_taken_away_and_added_again_is_a_new_one(tracker: Tracker) -> None:
    click(tracker, object_id=1)
    click(tracker, frame=5, object_id=2, at=(45, 60))
    seen = {}
    for result in tracker.propagate("both"):
        seen[result.frame] = result.object_ids.tolist()
        if result.frame == 10 and 15 not in seen:
            tracker.remove_object(2)
            click(tracker, frame=15, object_id=2, at=(45, 60))

    assert all(seen[frame] == [1, 2] for frame in range(11, 24))
    tracker.remove_object(1)
    tracker.remove_object(2)


def test_clicking_a_passed_frame_again_starts_from_its_memory(tracker: Tracker) -> None:
    click(tracker)
    run(tracker, "forward", stop=4)
    click(tracker, at=(30, 30))
    recalled = []
    recall = tracker._recall.recall
    tracker._recall.recall = lambda *args: recalled.append(recall(*args)) or recalled[-1]

    tracker.predict(0)

    assert recalled[0].use.conditioning == (0,)  # its own, as SAM 2 does


def test_a_correction_before_the_first_prompt_counts_for_nothing_until_it_is_reached(tracker) -> None:
    click(tracker, frame=10)
    click(tracker, frame=2, label=0)

    propagation = tracker.propagate("both")

    assert propagation.total == 24
    assert [r.frame for r in propagation] == [*range(10, 24), *range(9, -1, -1)]
    assert propagation.finished


def place_in_video(result: FrameResult, index: int) -> tuple[float, float]:
    """Return where in the video an entry of the first object's logits is."""
    places = zip(np.unravel_index(index, result.logits[0].shape), result.logits[0].shape, strict=True)
    y, x = (float((place + 0.5) / side) for place, side in places)
    return y * result.video_shape[0], x * result.video_shape[1]


@pytest.fixture
def worse(tracker: Tracker, monkeypatch):
    """Click; return mask logits that all decoding gives from then on, expected to fit worse."""
    click(tracker)
    before = tracker.predict(0)
    assert (before.logits > 0).any()
    decoded = Decoded(
        torch.full((1, 1, *before.logits.shape[-2:]), -5.0),
        torch.zeros(1, tracker.model.network.config.dim),
        torch.tensor([[3.0]]),
        torch.tensor([[float(before.ious[0]) / 2]]),
    )
    monkeypatch.setattr(tracker.model.network, "decode", lambda *_, **__: decoded)
    return decoded.logits[0].numpy()


def test_a_click_that_cannot_be_followed_leaves_the_mask_as_it_is(tracker: Tracker, worse) -> None:
    """The network neither obeys it nor expects to fit as well as what is there."""
    before = tracker.result(0)
    at = place_in_video(before, int(before.logits[0].argmin()))
    click(tracker, at=at)
    after = tracker.predict(0)

    np.testing.assert_array_equal(after.logits, before.logits)
    assert after.ious == before.ious
    assert (tracker.prompts[-1].y, tracker.prompts[-1].x) == at  # it stays, and counts with the next


@pytest.mark.parametrize("kind", ["a box", "a click that the mask agrees with"])
def test_other_prompts_make_the_mask_anew_whatever_is_expected(tracker: Tracker, worse, kind) -> None:
    before = tracker.result(0)
    if kind == "a box":
        tracker.add_box(0, 1, (5, 5, 60, 70))
    else:
        click(tracker, at=place_in_video(before, int(before.logits[0].argmax())))

    np.testing.assert_array_equal(tracker.predict(0).logits, worse)

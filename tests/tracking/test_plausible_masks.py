"""Masks of tracked objects that cannot be right."""

import numpy as np
import pytest
import torch

from napari_surgsam2 import Tracker, TrackingSettings, load_model
from napari_surgsam2.evaluation import region_similarity
from napari_surgsam2.network import Decoded
from napari_surgsam2.tracking.plausibility import (
    Claim,
    separate,
    went_over,
    without_hopeless,
    without_jumps,
    without_overlaps,
)

SIDE = 64
NO_POINTER = torch.zeros(1, 8)


def box(y0, x0, y1, x1, logit=4.0):
    """Return logits, (64, 64), of a rectangle."""
    logits = torch.full((SIDE, SIDE), -4.0)
    logits[y0:y1, x0:x1] = logit
    return logits


def decoded(*masks, score=1.0, iou=0.8):
    """Return masks as the network would, all as sure."""
    n = len(masks)
    pointers = torch.ones(n, 8)
    return Decoded(torch.stack(masks)[:, None], pointers, torch.full((n, 1), score), torch.full((n, 1), iou))


def there(found):
    """Return which objects are in view; the others have neither mask nor pointer."""
    seen = (found.score[:, 0] > 0).tolist()
    assert (found.logits > 0).flatten(1).any(1).tolist() == seen
    assert (found.pointer != 0).any(1).tolist() == seen
    return seen


def test_masks_that_fit_next_to_nothing_are_none():
    for iou, stays in ((0.01, False), (0.03, True)):
        assert there(without_hopeless(decoded(box(0, 0, 9, 9), iou=iou), [None], NO_POINTER)) == [stays]


def test_what_was_out_of_view_comes_back_when_it_is_seen_better():
    mask = box(0, 0, 9, 9)
    for iou, stays in ((0.03, False), (0.2, False), (0.3, True)):
        found = without_hopeless(decoded(mask, iou=iou, score=3.0), [0.0], NO_POINTER)
        assert there(found) == [stays]
    assert there(without_hopeless(decoded(mask, mask, iou=0.1), [0.0, None], NO_POINTER)) == [False, True]


def test_what_was_out_of_view_comes_back_when_it_is_fairly_sure_to_be_there():
    mask = box(0, 0, 9, 9)
    for score, back in ((0.3, False), (1.3, False), (1.5, True)):
        found = without_hopeless(decoded(mask, mask, score=score), [0.0, None], NO_POINTER)
        assert there(found) == [back, True]


@pytest.mark.parametrize(
    ("before", "now", "score", "back"),
    [
        (0.45, 0.45, 0.3, True),
        (0.35, 0.45, 0.3, False),
        (0.45, 0.35, 0.3, False),
        (0.45, 0.45, -0.3, False),
    ],
)
def test_or_when_its_mask_is_to_fit_well_twice_running(before, now, score, back):
    found = without_hopeless(decoded(box(0, 0, 9, 9), iou=now, score=score), [before], NO_POINTER)
    assert bool(found.score > 0) == back


def test_a_frame_that_is_said_to_be_empty_is_no_sign_of_what_comes_back(model, clip):
    """Its predicted IoU is 1: the mask that was given for it fits."""
    tracker = Tracker(model, clip, TrackingSettings(doubt_masks=True))
    tracker.add_points(0, 1, [(20, 20)])
    tracker.add_mask(1, 1, np.zeros(clip.shape[1:3], bool))
    tracker.predict(1)
    obj = tracker._objects[1]
    assert obj.conditioning[1].iou == 1
    assert tracker._gone(obj, 1) == 0
    assert tracker._gone(obj, 0) is None
    tracker.close()


# Jumps

SLIVER = box(30, 0, 36, 3)  # what is left of an object that leaves at the left

AFTER_A_SLIVER = {
    "another thing, many times as large": (box(20, 4, 50, 24), False),
    "another thing, far away": (box(0, 40, 30, 60), False),
    "another thing beside it": (box(32, 1, 44, 12), False),
    "the object comes back in": (box(24, 0, 44, 12), True),  # it covers what was there, and is seen well
    "another sliver": (box(50, 0, 56, 4), True),  # something small may be anywhere
    "nothing": (box(0, 0, 0, 0), True),
}


@pytest.mark.parametrize("case", AFTER_A_SLIVER)
def test_what_grows_many_times_and_is_elsewhere_is_of_another_thing(case):
    mask, stays = AFTER_A_SLIVER[case]
    found = without_jumps(decoded(mask, score=1.6), [[SLIVER]], NO_POINTER)
    assert (found.score[:, 0] > 0).tolist() == [stays]
    assert bool((found.logits > 0).any()) == (stays and case != "nothing")


def test_what_grows_while_the_network_is_unsure_goes_over_to_another_thing():
    twice, more = box(30, 0, 36, 6), box(30, 0, 38, 6)  # both cover all that was there
    assert there(without_jumps(decoded(twice, more, score=1.0), [[SLIVER], [SLIVER]], NO_POINTER)) == [
        True,
        False,
    ]
    assert there(without_jumps(decoded(more, score=1.6), [[SLIVER]], NO_POINTER)) == [True]


def test_an_object_that_is_surely_in_view_may_be_anywhere():
    large = box(0, 40, 30, 60)
    assert there(without_jumps(decoded(large, score=4.0), [[SLIVER]], NO_POINTER)) == [True]


def test_an_object_not_seen_lately_may_be_anywhere():
    large = box(0, 40, 30, 60)
    assert there(without_jumps(decoded(large), [[]], NO_POINTER)) == [True]
    assert there(without_jumps(decoded(large, large), [[], [SLIVER]], NO_POINTER)) == [True, False]


@pytest.mark.parametrize(
    ("before", "score", "stays"),
    [
        ([box(2, 0, 22, 20), box(4, 0, 24, 24)], 1.0, False),  # it stayed and is elsewhere at once
        ([box(2, 0, 22, 20), box(4, 0, 24, 24)], 1.6, True),  # and is seen well there
        ([box(2, 0, 22, 20), box(24, 0, 44, 20)], 1.0, True),  # it moved as far before
        ([box(2, 0, 22, 20)], 1.0, True),  # nobody knows how it moves
        ([box(40, 40, 52, 60), box(40, 40, 60, 60)], 1.0, True),  # it is where it was
    ],
)
def test_what_is_elsewhere_at_once_is_of_another_thing(before, score, stays):
    found = without_jumps(decoded(box(40, 40, 60, 60), score=score), [before], NO_POINTER)
    assert there(found) == [stays]


# Overlaps


def claim(logits, trust=0.8, given=False):
    return Claim(logits, trust, given)


def separated(*masks, trust=None, others=()):
    """Return what is left of masks, (B, 64, 64) bool."""
    return separate(torch.stack(masks), trust or [0.8] * len(masks), others).numpy() > 0


def test_a_pixel_is_the_object_s_of_the_highest_logit():
    upper, lower = box(0, 0, 40, 40, logit=3.0), box(20, 0, 60, 40, logit=5.0)
    masks = separated(upper, lower)
    np.testing.assert_array_equal(masks[0], box(0, 0, 20, 40) > 0)
    np.testing.assert_array_equal(masks[1], lower > 0)
    np.testing.assert_array_equal(separated(upper, others=[claim(lower)])[0], masks[0])


def test_of_logits_nearly_alike_the_better_clicked_object_has_the_pixel():
    upper, lower = box(0, 0, 40, 40, logit=3.0), box(20, 0, 60, 40, logit=3.5)
    np.testing.assert_array_equal(separated(upper, lower, trust=[0.9, 0.6])[0], upper > 0)
    np.testing.assert_array_equal(separated(upper, lower, trust=[0.9, 0.8])[1], lower > 0)
    np.testing.assert_array_equal(
        separated(lower, trust=[0.6], others=[claim(upper, 0.9)])[0], box(40, 0, 60, 40) > 0
    )


def test_masks_that_do_not_overlap_stay_as_they_are():
    """However much one object is trusted."""
    apart = decoded(box(0, 0, 20, 64, logit=0.1), box(20, 0, 64, 64))
    found = without_overlaps(apart, [0.1, 1.0], [False, False], [], NO_POINTER)
    for before, after in zip(apart, found, strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_a_given_mask_keeps_all_its_pixels():
    weak = claim(box(0, 0, 30, 30, logit=0.1), given=True)
    mask = separated(box(0, 0, 60, 30, logit=9.0), others=[weak])[0]
    np.testing.assert_array_equal(mask, box(30, 0, 60, 30) > 0)


def test_an_object_of_which_nothing_is_left_is_out_of_view():
    small, large = box(10, 10, 20, 20, logit=2.0), box(0, 0, 40, 40, logit=5.0)
    both = without_overlaps(decoded(small, large), [0.8, 0.8], [False, False], [], NO_POINTER)
    assert there(both) == [False, True]
    assert there(without_overlaps(decoded(small), [0.8], [False], [claim(large)], NO_POINTER)) == [False]


@pytest.mark.parametrize(("width", "back"), [(50, False), (20, True)])
def test_what_another_object_has_did_not_come_back(width, back):
    """However sure the network is; but an object may come back beside another one."""
    comes, has = box(0, 0, 20, 60, logit=9.0), box(0, 0, 20, width, logit=1.0)
    found = without_overlaps(decoded(comes, has), [1.0, 0.2], [True, False], [], NO_POINTER)
    assert there(found) == [back, True]
    np.testing.assert_array_equal(found.logits[1, 0], has)
    if back:
        np.testing.assert_array_equal(found.logits[0, 0] > 0, box(0, width, 20, 60) > 0)
    beside = without_overlaps(decoded(comes), [1.0], [True], [claim(has, 0.2)], NO_POINTER)
    assert there(beside) == [back]


MIDDLE = torch.tensor([[30.0 * 4, 30.0 * 4]])  # of the first of these, in pixels of the network's input


@pytest.mark.parametrize(
    ("tracked", "clicked", "over"),
    [
        (box(20, 20, 40, 40), box(18, 20, 40, 44), True),
        (box(20, 20, 40, 60), box(20, 20, 40, 41), True),
        (box(20, 0, 40, 60), box(20, 22, 40, 40), False),  # a small thing before a large one
        (box(20, 22, 40, 40), box(20, 0, 40, 60), False),  # and the large one behind it
        (box(20, 34, 40, 40), box(20, 20, 40, 40), False),  # the click is beside it
        (box(0, 0, 0, 0), box(20, 20, 40, 40), False),
    ],
)
def test_a_mask_with_another_object_s_click_that_is_mostly_the_same_is_that_one_s(tracked, clicked, over):
    assert went_over(tracked, clicked, MIDDLE, came_back=True) is over


@pytest.mark.parametrize(("width", "over"), [(40, True), (43, False)])
def test_an_object_that_was_in_view_all_the_time_must_be_nearly_the_same(width, over):
    """A click on a thin thing may have led to the mask of what it lies on, and of more."""
    tracked, clicked = box(20, 20, 40, 40), box(20, 20, 40, width)
    assert went_over(tracked, clicked, MIDDLE, came_back=False) is over
    assert went_over(tracked, clicked, MIDDLE, came_back=True)


def test_no_click_need_be_in_the_mask_of_an_object_of_which_more_was_said():
    tracked, prompted = box(20, 20, 40, 40), box(22, 20, 42, 40)
    assert went_over(tracked, prompted, None, True)
    assert not went_over(tracked, prompted, torch.zeros(0, 2), True)
    assert not went_over(tracked, box(40, 20, 60, 40), None, True)


# With a network


@pytest.fixture(scope="module")
def nano():
    return load_model("nano", device="cpu")


def crossing(frames=12, size=(128, 160)):
    """Return frames, (T, Y, X, 3), and labels of two alike bars, one of which moves towards the other."""
    rng = np.random.default_rng(0)
    video = np.empty((frames, *size, 3), np.uint8)
    labels = np.zeros((frames, *size), np.uint8)
    ground = rng.normal((150, 70, 60), 6, (*size, 3))
    for t in range(frames):
        labels[t, 20:110, 96:112] = 2
        x = 30 + 5 * t
        labels[t, 30:70, x : x + 16] = 1
        video[t] = np.where(labels[t, ..., None] > 0, rng.normal(200, 6, (*size, 3)), ground).clip(0, 255)
    return video, labels


def test_objects_that_touch_do_not_run_into_one_another(nano):
    video, labels = crossing()
    shared, fit = {}, {}
    for exclusive in (True, False):
        tracker = Tracker(nano, video, TrackingSettings(exclusive=exclusive))
        tracker.add_points(0, 1, [(50, 37)])
        tracker.add_points(0, 2, [(70, 104)])
        results = list(tracker.propagate())
        tracker.close()
        masks = np.stack([r.logits > 0 for r in results[1:]])
        shared[exclusive] = int(masks.all(axis=1).sum())
        fit[exclusive] = [
            region_similarity(r.masks()[i], labels[r.frame] == i + 1) for r in results for i in (0, 1)
        ]
    assert shared[True] == 0
    assert shared[False] > 0
    assert np.mean(fit[True]) >= np.mean(fit[False]) - 0.02


def test_an_object_tracked_alone_leaves_the_others_masks_as_they_are(nano):
    """And its own leaves them out."""
    video, _ = crossing()
    tracker = Tracker(nano, video)
    tracker.add_points(0, 2, [(70, 104)])
    before = {r.frame: r.logits[0] for r in tracker.propagate()}
    tracker.add_points(0, 1, [(50, 37)])
    for result in tracker.propagate(objects=[1]):
        np.testing.assert_array_equal(tracker.result(result.frame, [2]).logits[0], before[result.frame])
        if result.frame > 0:
            sure = before[result.frame] > result.logits[0] + 3
            assert not ((result.logits[0] > 0) & sure).any()
    tracker.close()


def test_what_is_prompted_together_is_remembered_apart_in_any_order(nano):
    """Also where the second object is clicked after the first was tracked."""
    video, settings = crossing()[0][::-1][:6], TrackingSettings(obey_clicks=False)
    clicks = {1: (50, 90), 2: (90, 104)}
    tracker = Tracker(nano, video, settings)
    for i, at in clicks.items():
        tracker.add_points(0, i, [at])
    assert (tracker.predict(0).logits > 0).all(axis=0).sum() > 10
    tracker.close()
    found = []
    for order, in_between in (((1, 2), False), ((1, 2), True), ((2, 1), True)):
        tracker = Tracker(nano, video, settings)
        for i in order:
            tracker.add_points(0, i, [clicks[i]])
            if in_between:
                list(tracker.propagate(frames=(0, 3)))
        found.append([r.logits for r in tracker.propagate()])
        tracker.close()
    for logits in found[1:]:
        np.testing.assert_allclose(np.stack(logits), np.stack(found[0]), atol=1e-4)


def test_what_an_object_had_is_another_s_again_when_it_is_removed(nano):
    video, settings = crossing()[0][::-1][:4], TrackingSettings(obey_clicks=False)
    found = []
    for others in ([], [1]):
        tracker = Tracker(nano, video, settings)
        tracker.add_points(0, 2, [(90, 104)])
        for i in others:
            tracker.add_points(0, i, [(50, 90)])
            list(tracker.propagate())
            tracker.remove_object(i)
            tracker.forget(2, range(1, 4))
        found.append(np.stack([r.logits for r in tracker.propagate()]))
        tracker.close()
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


def test_prompts_of_other_frames_that_were_taken_back_leave_no_trace(nano):
    """Not even in what a frame with two objects is remembered as, though one was trusted more meanwhile."""
    video = crossing()[0][::-1][:7]
    found = []
    for also_box in (False, True):
        tracker = Tracker(nano, video)
        tracker.add_points(0, 1, [(50, 90)])
        tracker.add_points(0, 2, [(90, 104)])
        if also_box:
            tracker.add_box(6, 1, (29, 54, 70, 72))
            list(tracker.propagate(frames=(0, 2)))
            tracker.clear_prompts(6, 1)
            for i in (1, 2):
                tracker.forget(i, range(7))
        found.append(np.stack([r.logits for r in tracker.propagate(frames=(0, 4))]))
        tracker.close()
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


def test_a_given_mask_stays_where_negative_clicks_beside_it_ask_for_nothing(nano):
    video, labels = crossing()
    mask = labels[0] == 1
    tracker = Tracker(nano, video)
    tracker.add_mask(0, 1, mask)
    for at in ((70, 104), (20, 20)):
        tracker.add_points(0, 1, [at], [0])
        assert region_similarity(tracker.predict(0).masks()[0], mask) > 0.9
    assert tracker.predict(0).ious.tolist() == [1]
    tracker.add_points(0, 1, [(60, 37)], [0])
    assert not tracker.predict(0).masks()[0][60, 37]
    tracker.close()


def test_a_click_on_what_another_object_was_tracked_to_takes_it_over(nano):
    """As where an object left, and one that is like it was taken for it."""
    video, labels = crossing(10)
    tracker = Tracker(nano, video)
    tracker.add_points(0, 1, [(50, 37)])
    before = {r.frame: r.logits[0] for r in tracker.propagate()}
    there = 6
    tracker.add_points(there, 2, [(50, 67)])
    now = tracker.predict(there)
    assert now.object_ids.tolist() == [1, 2]
    assert not now.masks()[0].any()
    assert region_similarity(now.labels() == 2, labels[there] == 1) > 0.6
    results = {r.frame: r for r in tracker.propagate(start=there)}
    for frame, result in results.items():
        assert not (result.labels() == 1).any(), frame
        assert region_similarity(result.labels() == 2, labels[frame] == 1) > 0.6, frame
    assert results[there + 2].memory[1].kept == (there + 1,), "what was tracked before was another object"
    # What was before is as it was, and so is all of it without the click.
    np.testing.assert_array_equal(tracker.result(there - 1, [1]).logits[0], before[there - 1])
    tracker.remove_object(2)
    np.testing.assert_array_equal(tracker.result(there, [1]).logits[0], before[there])
    tracker.close()


@pytest.mark.parametrize("kind", ["box", "mask", "mask and a negative click"])
def test_so_does_whatever_else_says_where_another_object_is(nano, kind):
    video, labels = crossing(5)
    tracker = Tracker(nano, video)
    tracker.add_points(0, 1, [(50, 37)])
    assert all(r.masks()[0].any() for r in tracker.propagate())
    if kind == "box":
        tracker.add_box(2, 2, (29, 39, 70, 56))
    else:
        tracker.add_mask(2, 2, labels[2] == 1)
    if kind == "mask and a negative click":
        tracker.add_points(2, 2, [(90, 104)], [0])
    result = tracker.predict(2)
    assert result.went_over == (1,)
    assert not result.masks()[0].any()
    assert result.confidence[0] > 0.8, "that it is not there is sure"
    tracker.close()


def test_going_backward_too(nano):
    video, labels = crossing(8)
    tracker = Tracker(nano, video)
    tracker.add_points(7, 1, [(50, 72)])
    tracker.add_points(4, 2, [(50, 57)])
    for result in tracker.propagate("backward", start=7):
        expected = 1 if result.frame > 4 else 2
        found = result.labels()
        assert region_similarity(found == expected, labels[result.frame] == 1) > 0.6
        assert not (found == 3 - expected).any()
    tracker.close()


def test_what_is_said_of_the_first_object_then_begins_with_nothing(nano):
    """And not with the other one's mask, so that a click where it truly is gives it alone."""
    video, labels = crossing(6)
    tracker = Tracker(nano, video)
    tracker.add_points(0, 1, [(50, 37)])
    list(tracker.propagate())
    tracker.add_points(3, 2, [(50, 52)])
    assert not tracker.predict(3).masks()[0].any()
    tracker.add_points(3, 1, [(80, 104)])  # the bar that stands still
    result = tracker.predict(3)
    first, second = result.masks()
    assert result.went_over == ()
    assert region_similarity(first, labels[3] == 2) > 0.6
    assert region_similarity(second, labels[3] == 1) > 0.6
    tracker.close()


@pytest.mark.parametrize("setting", ["obey_clicks", "exclusive"])
def test_sam_2_lets_a_mask_stay_where_another_object_is_clicked(nano, setting):
    video, _ = crossing(4)
    tracker = Tracker(nano, video, TrackingSettings(**{setting: False}))
    tracker.add_points(0, 1, [(50, 37)])
    before = list(tracker.propagate())
    tracker.add_points(2, 2, [(50, 47)])
    np.testing.assert_array_equal(tracker.predict(2).logits[0], before[2].logits[0])
    tracker.close()

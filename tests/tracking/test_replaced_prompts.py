"""Prompts in place of others: the mask depends on what is there now, not on what was taken back."""

import numpy as np
import pytest

from napari_surgsam2 import Box, Point, Tracker
from napari_surgsam2.errors import PromptError
from napari_surgsam2.prompts import Mask

FIRST, SECOND = Point(0, 25, 20), Point(0, 40, 50, positive=False)


def logits(tracker: Tracker, frame: int = 0) -> np.ndarray:
    return tracker.result(frame).logits


def test_the_mask_is_that_of_the_clicks_given_one_after_the_other(model, clip) -> None:
    replaced, clicked = Tracker(model, clip), Tracker(model, clip)
    replaced.set_prompts(0, 1, [FIRST, SECOND])
    for point in (FIRST, SECOND):
        clicked.add_prompts([point])
        clicked.predict(0)
    np.testing.assert_array_equal(logits(replaced), logits(clicked))


def test_what_was_taken_back_leaves_no_trace(model, clip) -> None:
    changed, fresh = Tracker(model, clip), Tracker(model, clip)
    changed.set_prompts(0, 1, [FIRST])
    changed.set_prompts(0, 1, [FIRST, SECOND])
    again = changed.set_prompts(0, 1, [FIRST])
    np.testing.assert_array_equal(again.logits, fresh.set_prompts(0, 1, [FIRST]).logits)


def test_taking_all_back_brings_the_tracked_mask_back(tracker) -> None:
    tracker.set_prompts(0, 1, [FIRST])
    for _ in tracker.propagate():
        pass
    tracked = logits(tracker, 3)
    tracker.set_prompts(3, 1, [Point(3, 10, 10)])
    assert not np.array_equal(logits(tracker, 3), tracked)
    np.testing.assert_array_equal(tracker.set_prompts(3, 1, []).logits, tracked)
    assert not len(tracker.set_prompts(0, 1, []).object_ids)


def test_only_negative_clicks_wait_for_a_mask(tracker) -> None:
    assert not len(tracker.set_prompts(0, 1, [SECOND]).object_ids)
    assert tracker.set_prompts(0, 1, [SECOND, FIRST]).object_ids.tolist() == [1]


def test_boxes_and_masks_are_taken_too(tracker) -> None:
    assert tracker.set_prompts(0, 1, [Box(0, 10, 10, 40, 40)]).object_ids.tolist() == [1]
    mask = np.zeros(clip_shape(tracker), bool)
    mask[20:40, 30:60] = True
    given = tracker.set_prompts(0, 1, [Mask(0, mask)])
    np.testing.assert_array_equal(given.masks()[0], mask)
    assert given.ious.tolist() == [1.0]


def clip_shape(tracker: Tracker) -> tuple[int, int]:
    return tracker.video.height, tracker.video.width


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(Point(1, 5, 5), "object 1 on frame 1"), (Point(0, 5, 5, 2), "object 2"), (Point(0, 500, 5), "outside")],
)
def test_prompts_that_do_not_fit_change_nothing(tracker, wrong, message) -> None:
    before = tracker.set_prompts(0, 1, [FIRST]).logits
    with pytest.raises(PromptError, match=message):
        tracker.set_prompts(0, 1, [wrong])
    np.testing.assert_array_equal(logits(tracker), before)


def test_a_frame_that_was_encoded_before_is_not_read_again(tracker, monkeypatch) -> None:
    tracker.warm(2)
    monkeypatch.setattr(tracker.video, "frame", lambda _: pytest.fail("read again"))
    tracker.set_prompts(2, 1, [Point(2, 25, 20)])


def test_confidence_is_of_the_mask_or_of_its_absence(tracker) -> None:
    result = tracker.set_prompts(0, 1, [FIRST])
    present = result.scores > 0.5
    expected = np.where(present, result.scores * result.ious, 1 - result.scores)
    np.testing.assert_array_equal(result.confidence, expected)
    assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
    absent = tracker.set_prompts(1, 1, [Mask(1, np.zeros(clip_shape(tracker), bool))])
    assert absent.confidence[0] > 0.99


def test_what_an_object_was_tracked_to_can_be_forgotten(model, clip) -> None:
    tracker, fresh = Tracker(model, clip), Tracker(model, clip)
    for t in (tracker, fresh):
        t.set_prompts(0, 1, [FIRST])
    for _ in tracker.propagate():
        pass
    tracker.forget(1, range(2, 5))
    assert not len(tracker.result(3).object_ids)
    assert tracker.result(1).object_ids.tolist() == [1]
    assert tracker.result(0).object_ids.tolist() == [1]
    click = Point(3, 10, 10)
    np.testing.assert_array_equal(
        tracker.set_prompts(3, 1, [click]).logits, fresh.set_prompts(3, 1, [click]).logits
    )


def test_going_both_ways_again_takes_no_object_forward_into_its_own_prompt(tracker) -> None:
    """One that is prompted late is tracked backward from there, however often."""
    tracker.set_prompts(0, 1, [FIRST])
    tracker.set_prompts(4, 2, [Point(4, 45, 60, 2)])
    for _ in range(2):
        tracked = [(r.frame, tuple(r.memory)) for r in tracker.propagate("both")]
        forward, backward = tracked[: tracker.video.n_frames], tracked[tracker.video.n_frames :]
        assert [frame for frame, objects in forward if 2 in objects] == [*range(5, tracker.video.n_frames)]
        assert [frame for frame, objects in backward if 2 in objects] == [3, 2, 1, 0]

"""Masks whose predicted IoU is low."""

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_surgsam2 import Tracker, TrackingSettings
from napari_surgsam2.checkpoints import Model
from napari_surgsam2.errors import PromptError
from napari_surgsam2.tracking.memory import FrameMemory
from napari_surgsam2.tracking.recall import doubtful_frames
from tests.helpers.weights import rule_network


def memory(iou, score=3.0):
    return FrameMemory(torch.zeros(4, 4), torch.zeros(8), score, False, iou)


def test_prompted_frames_that_fit_much_worse_than_the_best_are_doubted():
    assert doubtful_frames({0: memory(0.9), 5: memory(0.7), 8: memory(0.6)}) == {8}


def test_what_fits_badly_everywhere_is_not_doubted():
    """A thread, of which no mask is sure, is tracked from all its prompts."""
    assert doubtful_frames({0: memory(0.3), 5: memory(0.25)}) == set()
    assert doubtful_frames({0: memory(0.01)}) == set()
    assert doubtful_frames({}) == set()


def test_that_an_object_is_out_of_view_is_not_doubted():
    assert doubtful_frames({0: memory(0.9), 5: memory(0.0, score=-3.0)}) == set()


def test_with_given_masks_clicked_ones_are_not_compared():
    """A painted mask is certain; it does not make those that were clicked worse."""
    prompted = {0: memory(0.6), 4: memory(0.5), 9: memory(1.0)}
    assert doubtful_frames(prompted) == set()
    assert doubtful_frames(prompted | {12: memory(0.4)}) == {12}


@pytest.fixture
def fitting():
    """A tiny model, and what says how well its masks are expected to fit, one call after the other."""
    network = rule_network()
    expected = []
    decode = network.decode

    def decode_so(*args, **more):
        decoded = decode(*args, **more)
        iou = expected.pop(0) if expected else 0.8
        score = torch.full_like(decoded.score, 2.0)
        return decoded._replace(iou=torch.full_like(decoded.iou, iou), score=score)

    network.decode = decode_so
    return Model("tiny", Path("tiny"), network, 128, torch.device("cpu")), expected


@pytest.mark.parametrize("doubt", [True, False])
def test_a_doubted_correction_keeps_its_mask_and_is_not_looked_at(fitting, clip, doubt):
    model, expected = fitting
    tracker = Tracker(model, clip, TrackingSettings(doubt_masks=doubt))
    tracker.add_points(0, 1, [(25, 20)])
    tracker.predict(0)
    expected.append(0.3)
    tracker.add_points(3, 1, [(25, 20)])
    corrected = tracker.predict(3).masks()[0]
    assert corrected.any()

    seen = {r.frame: r for r in tracker.propagate(frames=(0, 8))}

    np.testing.assert_array_equal(seen[3].masks()[0], corrected)
    used = [seen[t].memory[1].conditioning for t in (4, 7)]
    assert used == [(0,), (0,)] if doubt else [(0, 3), (0, 3)]
    assert all(3 not in seen[t].memory[1].kept for t in (4, 7))
    tracker.close()


@pytest.mark.parametrize("doubt", [True, False])
def test_which_prompted_frames_are_doubted_can_be_asked(fitting, clip, doubt):
    model, expected = fitting
    tracker = Tracker(model, clip, TrackingSettings(doubt_masks=doubt))
    tracker.add_points(0, 1, [(25, 20)])
    tracker.predict(0)
    expected.append(0.3)
    tracker.add_points(3, 1, [(25, 20)])
    assert tracker.doubted_frames(1) == ()  # there is no mask yet
    tracker.predict(3)
    assert tracker.doubted_frames(1) == ((3,) if doubt else ())

    expected.append(0.75)
    tracker.add_points(3, 1, [(27, 22)])
    tracker.predict(3)
    assert tracker.doubted_frames(1) == ()
    with pytest.raises(PromptError, match="There is no object 2"):
        tracker.doubted_frames(2)
    tracker.close()


@pytest.mark.parametrize("doubt", [True, False])
def test_a_tracked_mask_that_fits_next_to_nothing_is_none(fitting, clip, doubt):
    model, expected = fitting
    tracker = Tracker(model, clip, TrackingSettings(doubt_masks=doubt, obey_clicks=False))
    tracker.add_points(0, 1, [(25, 20)])
    expected += [0.01, 0.8, 0.01, 0.8]

    seen = list(tracker.propagate(frames=(0, 4)))

    there = [bool(r.masks()[0].any()) for r in seen]
    assert there == [True, True, not doubt, True]  # a clicked mask is never taken away
    assert (seen[2].scores[0] < 0.5) == doubt
    assert seen[2].confidence[0] < 0.6  # that it is not there is not sure either
    tracker.close()


@pytest.mark.parametrize("doubt", [True, False])
def test_negative_clicks_alone_make_no_mask_more_certain(fitting, clip, doubt):
    model, expected = fitting
    tracker = Tracker(model, clip, TrackingSettings(doubt_masks=doubt, obey_clicks=False))
    tracker.add_points(0, 1, [(25, 20)])
    expected += [0.8, 0.8, 0.4]
    for _ in tracker.propagate(frames=(0, 3)):
        pass
    expected.append(0.9)
    tracker.add_points(2, 1, [(60, 80)], [0])
    assert tracker.predict(2).ious[0] == pytest.approx(0.4 if doubt else 0.9)
    expected.append(0.9)
    tracker.add_points(2, 1, [(25, 20)])
    assert tracker.predict(2).ious[0] == pytest.approx(0.9)
    tracker.close()

"""The built-in model on made-up scenes: what a user sees of tracking."""

import threading

import numpy as np
import pytest
import torch

from napari_surgsam2 import Tracker, TrackingSettings, load_model
from napari_surgsam2.evaluation import region_similarity
from napari_surgsam2.prompts import central_position
from tests.helpers.scenes import crossing_instruments, hidden_for_a_while


@pytest.fixture(scope="module")
def nano():
    return load_model("nano", device="cpu")


def track(tracker):
    """Return labels (T, Y, X)."""
    return np.stack([result.labels() for result in tracker.propagate()])


def click(tracker, labels, frame=0):
    """Click once in the middle of every object of a frame."""
    for object_id in np.unique(labels[frame]):
        if object_id:
            tracker.add_points(frame, int(object_id), [central_position(labels[frame] == object_id)])


def test_one_click_gives_the_object(nano):
    video, labels = hidden_for_a_while()
    tracker = Tracker(nano, video[:1])
    click(tracker, labels)
    assert region_similarity(tracker.predict(0).labels() == 1, labels[0] == 1) >= 0.85


def test_an_object_is_found_again_after_it_was_hidden(nano):
    video, labels = hidden_for_a_while()
    tracker = Tracker(nano, video)
    click(tracker, labels)
    found = track(tracker)
    area = (labels == 1).sum(axis=(1, 2))
    hidden = np.flatnonzero(area == 0)
    again = np.flatnonzero(area > 0.9 * area[0])
    again = again[again > hidden[-1]]
    assert len(hidden) >= 2
    assert len(again) >= 3
    j = region_similarity(found == 1, labels == 1)
    assert j[: hidden[0] - 3].min() >= 0.75
    assert not (found[hidden] == 1).any()
    assert j[again].min() >= 0.75


def test_objects_of_the_same_looks_keep_their_ids_when_they_cross(nano):
    video, labels = crossing_instruments()
    tracker = Tracker(nano, video)
    click(tracker, labels)
    found = track(tracker)
    for object_id in (1, 2):
        j = region_similarity(found == object_id, labels == object_id)
        other = region_similarity(found == object_id, labels == 3 - object_id)
        assert j[-3:].min() >= 0.6
        assert other[-3:].max() <= 0.2


def test_a_correction_stays(nano):
    """What a click changed holds on its frame, whatever is tracked afterwards."""
    video, labels = crossing_instruments()
    tracker = Tracker(nano, video)
    click(tracker, labels)
    before = track(tracker)
    j = region_similarity(before == 1, labels == 1)
    worst = int(j.argmin())
    missed, extra = (labels[worst] == 1) & (before[worst] != 1), (before[worst] == 1) & (labels[worst] != 1)
    positive = missed.sum() >= extra.sum()
    where = central_position(missed if positive else extra)
    tracker.add_points(worst, 1, [where], [int(positive)])
    corrected = tracker.predict(worst).masks()[0]
    assert not np.array_equal(corrected, before[worst] == 1)
    for _ in range(2):
        for result in tracker.propagate():
            if result.frame == worst:
                np.testing.assert_array_equal(result.masks()[0], corrected)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("objects", "ahead"), [(1, True), (2, True), (3, False)])
def test_frames_are_encoded_beside_the_tracking_of_few_objects(two_threads, monkeypatch, objects, ahead):
    """Which changes no mask, and takes no thread from who uses torch between two frames."""
    video, labels = crossing_instruments()
    nano = load_model("nano", device="cpu", image_size=64)
    encode, here = nano.network.encode_image, threading.current_thread()
    encoders = set()

    def encoded(images):
        encoders.add(threading.current_thread())
        return encode(images)

    found = []
    for settings in (TrackingSettings(), TrackingSettings(read_ahead=0)):
        tracker = Tracker(nano, video[:4], settings)
        for object_id in range(1, objects + 1):
            tracker.add_points(0, object_id, [central_position(labels[0] == 1 + object_id % 2)])
        tracker.predict(0)
        monkeypatch.setattr(nano.network, "encode_image", encoded)
        logits = []
        for result in tracker.propagate():
            logits.append(result.logits)
            assert torch.get_num_threads() == 2
        found.append(np.stack(logits))
        assert (here not in encoders) == (ahead and settings.read_ahead > 0)
        encoders.clear()
        monkeypatch.undo()
        tracker.close()
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)

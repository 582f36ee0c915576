"""The EndoVis scores against loops written from their definitions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_surgsam2.errors import UsageError
from napari_surgsam2.evaluation import (
    ENDOVIS17_CLASSES,
    ENDOVIS18_CLASSES,
    class_scores,
    load_classes,
    score_volumes,
    summarize,
)

NAMES = {1: "one", 2: "two", 3: "three"}


def plain(predicted, reference, void=None):
    """Return Challenge IoU, ISI IoU, and the mean over classes of each class's mean."""
    challenge, isi = [], []
    by_class = {c: [] for c in NAMES}
    for p, r in zip(predicted, reference, strict=True):
        counts = np.ones(r.shape, bool) if void is None else r != void
        found, of_truth = {}, []
        for c in NAMES:
            a, b = (p == c) & counts, (r == c) & counts
            if a.any() or b.any():
                found[c] = (a & b).sum() / (a | b).sum()
                by_class[c].append(found[c])
            if b.any():
                of_truth.append(found[c])
        if of_truth:
            challenge.append(sum(of_truth) / len(of_truth))
        if found:
            isi.append(sum(found.values()) / len(found))
    means = [sum(v) / len(v) for v in by_class.values() if v]
    return [sum(v) / len(v) if v else math.nan for v in (challenge, isi, means)]


def found(scores):
    return [scores.challenge_iou, scores.isi_iou, scores.mean_class_iou]


@given(arrays(np.uint8, (2, 4, 3, 5), elements=st.sampled_from([0, 0, 1, 2, 3, 9])))
@settings(max_examples=80, deadline=None)
def test_any_volumes(labels) -> None:
    predicted, reference = labels
    expected = plain(predicted, reference)
    assert found(class_scores(predicted, reference, NAMES)) == pytest.approx(expected, nan_ok=True)
    wide = labels.astype(np.int64) * 1000
    names = {c * 1000: name for c, name in NAMES.items()}
    assert found(class_scores(*wide, names)) == pytest.approx(expected, nan_ok=True)
    with_void = plain(predicted, reference, 9)
    assert found(class_scores(predicted, reference, NAMES, 9)) == pytest.approx(with_void, nan_ok=True)


def test_worked_out_by_hand() -> None:
    reference = np.array([[[1, 1, 1, 1, 2, 2, 0, 0]], [[0] * 8], [[0] * 8]], np.uint8)
    predicted = np.array([[[1, 1, 0, 0, 3, 3, 0, 0]], [[2] * 8], [[0] * 8]], np.uint8)
    scores = class_scores(predicted, reference, NAMES)
    # Frame 0: class 1 a half, 2 missed, 3 wrong. Frame 1 is wrong, and shows nothing. Frame 2 has nothing.
    assert scores.challenge_iou == (0.5 + 0) / 2
    assert scores.isi_iou == pytest.approx(((0.5 + 0 + 0) / 3 + 0) / 2)
    assert scores.class_iou == {"one": 0.5, "two": 0, "three": 0}
    assert scores.mean_class_iou == pytest.approx(0.5 / 3)


def test_perfect_is_one_and_nothing_is_nothing() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (3, 6, 7))
    assert found(class_scores(labels, labels, NAMES)) == [1, 1, 1]
    assert all(map(math.isnan, found(class_scores(labels * 0, labels * 0, NAMES))))


def test_objects_of_one_class_are_one() -> None:
    reference = np.zeros((4, 6, 8), np.uint8)
    reference[:, :2], reference[:, 4:] = 1, 2
    swapped = np.where(reference == 1, 2, np.where(reference == 2, 1, 0)).astype(np.uint8)
    table = {"classes": {"3": "Large Needle Driver"}, "objects": {"seq_2": {"1": 3, "2": 3}}}

    def scores(classes):
        return score_volumes(swapped, reference, name="seq_2", classes=classes)

    from napari_surgsam2.evaluation.challenge import _parse

    same = scores(_parse(table))
    assert same.classes.class_iou == {"Large Needle Driver": 1}
    assert same.summary.j == 0
    each = scores(load_classes("objects"))
    assert each.classes.class_iou == {"seq_2 object 1": 0, "seq_2 object 2": 0}
    assert len(each.classes.iou) == 2  # neither the first frame nor the last


def test_the_classes_of_the_challenges() -> None:
    assert load_classes("2017").names == ENDOVIS17_CLASSES
    assert load_classes("2018").names == ENDOVIS18_CLASSES
    assert (ENDOVIS17_CLASSES[6], ENDOVIS18_CLASSES[4]) == ("Monopolar Curved Scissors",) * 2


def test_labels_without_a_class_are_refused() -> None:
    labels = np.full((3, 4, 5), 8, np.uint8)
    with pytest.raises(UsageError, match=r"ground truth of 'clip' has the label 8, which has no class"):
        score_volumes(labels, labels, name="clip", classes=load_classes("2018"))


@pytest.mark.parametrize(
    "text",
    [
        '{"names": {}}',
        "[]",
        '{"classes": {"a": "b"}}',
        '{"classes": {"0": "background", "1": "a"}}',
        "{",
        '{"classes": {"1": "a"}, "objects": {"v": {"1": 2}}}',
    ],
)
def test_tables_that_are_none(text: str, tmp_path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"they must be 2017, 2018, objects, or a JSON file"):
        load_classes(file)


def test_a_video_that_the_table_lacks(tmp_path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"classes": {"1": "a"}, "objects": {"seq_1": {"1": 1}}}))
    labels = np.ones((3, 4, 5), np.uint8)
    assert score_volumes(labels, labels, name="seq_1", classes=load_classes(file)).classes.isi_iou == 1
    with pytest.raises(UsageError, match="no video 'seq_2'"):
        score_volumes(labels, labels, name="seq_2", classes=load_classes(file))


def test_videos_are_joined_frame_by_frame() -> None:
    from napari_surgsam2.evaluation.challenge import join_class_scores

    rng = np.random.default_rng(1)
    predicted, reference = rng.integers(0, 4, (2, 9, 4, 5))
    parts = [class_scores(predicted[s], reference[s], NAMES) for s in (slice(0, 2), slice(2, 9))]
    whole = class_scores(predicted, reference, NAMES)
    assert found(join_class_scores(parts)) == found(whole)
    assert summarize([]).objects == 0

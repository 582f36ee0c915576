"""Scores of whole videos against the definitions, written here frame by frame and pixel by pixel."""

from __future__ import annotations

import csv
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import cKDTree

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.evaluation import (
    iou,
    region_similarity,
    score_volumes,
    statistics,
    summarize,
    write_csv,
    write_json,
)


def plain_j(a, b):
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def plain_dice(a, b):
    both = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0


def contour_points(mask):
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    contour = (padded[:-1, :-1] != padded[:-1, 1:]) | (padded[:-1, :-1] != padded[1:, :-1])
    # the corner neighbor counts only where there is one within the image
    contour[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return np.argwhere(contour)


def plain_f(a, b):
    radius = math.ceil(0.008 * math.hypot(*a.shape))
    ours, theirs = contour_points(a), contour_points(b)
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    precision = (cKDTree(theirs).query(ours)[0] <= radius + 1e-9).mean()
    recall = (cKDTree(ours).query(theirs)[0] <= radius + 1e-9).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_statistics(values):
    """The quarters' borders in exact fractions, counted from 1, rounded half up."""
    n = len(values)
    borders = [math.floor(1 + Fraction(i * (n - 1), 4) + Fraction(1, 2)) for i in range(5)]
    first = values[borders[0] - 1 : borders[1]]
    last = values[borders[3] - 1 : borders[4]]
    recall = sum(v > 0.5 for v in values) / n
    return sum(values) / n, recall, sum(first) / len(first) - sum(last) / len(last)


def assert_right(predicted, reference, all_frames=False):
    scores = score_volumes(predicted, reference, all_frames=all_frames)
    void = reference == 255
    ids = sorted(set(np.unique(reference).tolist()) - {0, 255})
    assert [one.object_id for one in scores.objects] == ids
    expected = []
    for one in scores.objects:
        truth, guess = (reference == one.object_id), (predicted == one.object_id) & ~void
        first = int(truth.any(axis=(1, 2)).argmax())
        counted = range(len(truth)) if all_frames else range(first + 1, len(truth) - 1)
        assert one.frames.tolist() == list(counted)
        for name, measure in (("j", plain_j), ("f", plain_f), ("dice", plain_dice)):
            values = [measure(guess[t], truth[t]) for t in counted]
            assert getattr(one, name).tolist() == pytest.approx(values)
            if values and name != "dice":
                expected.append((name, plain_statistics(values)))
    for name in ("j", "f"):
        rows = [row for of, row in expected if of == name]
        if rows:
            summary = scores.summary
            found = [getattr(summary, name + end) for end in ("", "_recall", "_decay")]
            assert found == pytest.approx(np.mean(rows, axis=0).tolist())


def boxes(*places, size=(24, 30)):
    """A frame per place: None, or top, left, height and width of object 1, or a dict of such by object."""
    volume = np.zeros((len(places), *size), np.uint8)
    for frame, place in zip(volume, places, strict=True):
        for label, where in (place if isinstance(place, dict) else {1: place}).items():
            if where is not None:
                y, x, h, w = where
                frame[y : y + h, x : x + w] = label
    return volume


STILL = [(5, 6, 10, 12)] * 6
CASES = {
    "the same": (boxes(*STILL), boxes(*STILL)),
    "shifted more and more": (boxes(*[(5, 6 + t, 10, 12) for t in range(6)]), boxes(*STILL)),
    "nothing predicted": (boxes(*[None] * 6), boxes(*STILL)),
    "one pixel": (boxes(*[(5, 6, 1, 1)] * 6), boxes(*[(5, 7, 1, 1)] * 6)),
    "full": (boxes(*[(0, 0, 24, 30)] * 6), boxes(*STILL)),
    "out of view in between": (boxes(*STILL), boxes(*STILL[:2], None, None, *STILL[:2])),
    "appears later": (
        boxes(*[{1: (2, 2, 5, 5), 3: (12, 12, 8, 8)}] * 6),
        boxes(*[{1: (2, 2, 5, 5), 3: (12, 13, 8, 8) if t > 2 else None} for t in range(6)]),
    ),
    "void around": (
        boxes(*STILL),
        boxes(*[{255: (4, 5, 12, 14), 1: (6, 7, 8, 10)}] * 6),
    ),
    "two frames": (boxes(*STILL[:2]), boxes(*STILL[:2])),
}


@pytest.mark.parametrize("all_frames", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_videos_are_scored_by_the_definitions(case, all_frames) -> None:
    assert_right(*CASES[case], all_frames)


@given(arrays(np.uint8, (2, 5, 6, 7), elements=st.sampled_from([0, 0, 1, 2, 255])))
@settings(max_examples=60, deadline=None)
def test_any_videos(labels) -> None:
    predicted, reference = labels
    if set(np.unique(reference).tolist()) - {0, 255}:
        assert_right(predicted, reference)
        assert_right(predicted, reference, all_frames=True)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 78, 300])
def test_mean_recall_and_decay(n: int) -> None:
    values = np.random.default_rng(n).random(n).tolist()
    found = statistics(values)
    assert (found.mean, found.recall, found.decay) == pytest.approx(plain_statistics(values))


def test_decay_by_hand() -> None:
    found = statistics([1, 1, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2])
    # borders at frames 1, 3 (2.75), 5 (4.5), 6 (6.25) and 8, counted from 1
    assert found.decay == pytest.approx((1 + 1 + 0.9) / 3 - (0.5 + 0.4 + 0.2) / 3)
    assert found.recall == 5 / 8  # 0.5 itself is not above 0.5
    assert all(math.isnan(v) for v in vars(statistics([])).values())


def test_the_mean_is_taken_over_objects_not_videos() -> None:
    good = score_volumes(*CASES["the same"], name="good")
    two = score_volumes(boxes(*[None] * 6), boxes(*[{1: (2, 2, 5, 5), 3: (12, 13, 8, 8)}] * 6), name="two")
    mean = summarize([good, two])
    assert (mean.objects, mean.frames) == (3, 12)
    assert mean.j == pytest.approx(1 / 3)
    assert mean.j_and_f == pytest.approx((mean.j + mean.f) / 2)


def test_objects_without_a_frame_that_counts_do_not_count() -> None:
    late = score_volumes(
        boxes(*STILL), boxes(*[{1: STILL[0], 2: (0, 0, 3, 3) if t == 5 else None} for t in range(6)])
    )
    assert [len(one.frames) for one in late.objects] == [4, 0]
    assert late.summary.objects == 2
    assert late.summary.j == late.objects[0].j.mean()


def test_labels_that_the_truth_lacks_are_told() -> None:
    predicted, reference = (volume.copy() for volume in CASES["the same"])
    predicted[2, 0, 0] = 7
    assert score_volumes(predicted, reference).unknown == (7,)


def test_255_is_an_object_where_it_is_not_void() -> None:
    predicted, reference = boxes(*STILL), boxes(*STILL)
    with pytest.raises(UsageError, match=r"no labels but 0 and 255, which is void.*--no-void"):
        score_volumes(predicted * 255, reference * 255)
    assert score_volumes(predicted * 255, reference * 255, void_label=None).summary.j == 1
    wide = reference.astype(np.uint16) * 255  # more than 8 bits have no void
    assert score_volumes(wide, wide).objects[0].object_id == 255


def test_volumes_that_differ_are_refused() -> None:
    a = boxes(*STILL)
    with pytest.raises(UsageError, match=r"shape \(5, 24, 30\) and the reference labels \(6, 24, 30\)"):
        score_volumes(a[:5], a)
    with pytest.raises(UsageError, match="dtype float64; they must be integers"):
        score_volumes(a / 2, a / 2)


def test_iou_is_j() -> None:
    a, b = (volume == 1 for volume in CASES["shifted more and more"])
    assert iou(a, b).tolist() == region_similarity(a, b).tolist()


def test_files_hold_every_score(tmp_path) -> None:
    scores = score_volumes(*CASES["appears later"], name="clip", frames=[f"{t:05}" for t in range(6)])
    write_csv(tmp_path / "s.csv", [scores])
    write_json(tmp_path / "s.json", [scores])

    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [(r["video"], r["object"], r["frame"]) for r in rows] == [
        *[("clip", "1", f"{t:05}") for t in range(1, 5)],
        ("clip", "3", "00004"),
    ]
    assert float(rows[-1]["J"]) == pytest.approx(7 / 9, abs=1e-5)
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["mean"]["j"] == scores.summary.j == summary["videos"]["clip"]["j"]
    assert list(summary["videos"]["clip"]["by_object"]) == ["1", "3"]
    assert summary["endovis"] is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.csv", "s.json"]


def test_files_are_not_replaced_unasked(tmp_path) -> None:
    scores = score_volumes(*CASES["the same"])
    for write in (write_csv, write_json):
        write(tmp_path / "s", [scores], overwrite=True)
        with pytest.raises(OutputError, match="exists already"):
            write(tmp_path / "s", [scores])
        with pytest.raises(OutputError, match="does not exist; create it first"):
            write(tmp_path / "none" / "s", [scores])
        with pytest.raises(OutputError, match="is a folder"):
            write(tmp_path, [scores])


def test_json_has_null_for_what_is_not_defined(tmp_path) -> None:
    write_json(tmp_path / "s.json", [score_volumes(*CASES["two frames"])])
    assert json.loads((tmp_path / "s.json").read_text())["mean"]["j"] is None

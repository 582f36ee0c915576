"""J, F and Dice against slow ones written pixel by pixel from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.morphology import dilation, disk

from napari_surgsam2.errors import UsageError
from napari_surgsam2.evaluation import contour_accuracy, dice, j_and_f, label_scores, region_similarity

MEASURES = [region_similarity, dice, contour_accuracy, j_and_f]
Pixels = set[tuple[int, int]]


def objects(mask: np.ndarray, void: np.ndarray | None) -> Pixels:
    return {
        (y, x)
        for y in range(mask.shape[0])
        for x in range(mask.shape[1])
        if mask[y, x] and (void is None or not void[y, x])
    }


def plain_j(a: np.ndarray, b: np.ndarray, void: np.ndarray | None = None) -> float:
    ours, theirs = objects(a, void), objects(b, void)
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0


def plain_dice(a: np.ndarray, b: np.ndarray, void: np.ndarray | None = None) -> float:
    ours, theirs = objects(a, void), objects(b, void)
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


def plain_contour(inside: Pixels, height: int, width: int) -> Pixels:
    """Case by case, as the benchmark treats the last row, the last column and their corner."""
    contour = set()
    for y in range(height):
        for x in range(width):
            if (y, x) == (height - 1, width - 1):
                neighbors = []
            elif y == height - 1:
                neighbors = [(y, x + 1)]
            elif x == width - 1:
                neighbors = [(y + 1, x)]
            else:
                neighbors = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any((n in inside) != ((y, x) in inside) for n in neighbors):
                contour.add((y, x))
    return contour


def plain_f(a: np.ndarray, b: np.ndarray, void: np.ndarray | None = None, tolerance: float = 0.008) -> float:
    height, width = a.shape
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * np.linalg.norm([height, width]))
    ours = plain_contour(objects(a, void), height, width)
    theirs = plain_contour(objects(b, void), height, width)

    def share(some: Pixels, others: Pixels) -> float:
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in some]
        return sum(near) / len(near)

    if not ours and not theirs:
        precision, recall = 1.0, 1.0
    elif not ours:
        precision, recall = 1.0, 0.0
    elif not theirs:
        precision, recall = 0.0, 1.0
    else:
        precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def assert_right(a: np.ndarray, b: np.ndarray, void: np.ndarray | None = None) -> None:
    j, f = plain_j(a, b, void), plain_f(a, b, void)
    assert region_similarity(a, b, void) == pytest.approx(j)
    assert dice(a, b, void) == pytest.approx(plain_dice(a, b, void))
    assert contour_accuracy(a, b, void) == pytest.approx(f)
    assert j_and_f(a, b, void) == pytest.approx((j + f) / 2)
    for tolerance in (0.0, 0.1, 0.3, 1.0, 2.5, 4, 1e150):
        expected = plain_f(a, b, void, tolerance)
        assert contour_accuracy(a, b, void, tolerance) == pytest.approx(expected)
        assert j_and_f(a, b, void, tolerance) == pytest.approx((j + expected) / 2)


def box(rows: slice, columns: slice, shape: tuple[int, int] = (13, 17)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = True
    return mask


EVERY = slice(None)
SHAPES = {
    "empty": box(slice(0), slice(0)),
    "full": box(EVERY, EVERY),
    "inside": box(slice(4, 9), slice(5, 11)),
    "shifted": box(slice(5, 10), slice(7, 13)),
    "far": box(slice(11, 12), slice(14, 16)),
    "at the top left": box(slice(0, 5), slice(0, 6)),
    "at the bottom right": box(slice(8, 13), slice(10, 17)),
    "one row off the bottom right": box(slice(7, 12), slice(9, 16)),
    "last row": box(slice(12, 13), EVERY),
    "last column": box(EVERY, slice(16, 17)),
    "all but the last row": box(slice(0, 12), EVERY),
    "first corner": box(slice(0, 1), slice(0, 1)),
    "last corner": box(slice(12, 13), slice(16, 17)),
    "one pixel": box(slice(6, 7), slice(8, 9)),
}
VOID = box(slice(3, 8), slice(7, 15))


@pytest.mark.parametrize("prediction", SHAPES)
@pytest.mark.parametrize("reference", SHAPES)
def test_shapes(prediction: str, reference: str) -> None:
    a, b = SHAPES[prediction], SHAPES[reference]
    for void in (None, VOID):
        assert contour_accuracy(a, b, void) == pytest.approx(plain_f(a, b, void))
        assert contour_accuracy(a, b, void, 3) == pytest.approx(plain_f(a, b, void, 3))
        assert region_similarity(a, b, void) == pytest.approx(plain_j(a, b, void))
        assert dice(a, b, void) == pytest.approx(plain_dice(a, b, void))


@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_random_masks(density: float) -> None:
    rng = np.random.default_rng(0)
    for shape in ((11, 14), (1, 9), (9, 1), (1, 1)):
        a, b, void = rng.random((3, *shape)) < [[[density]], [[density]], [[0.2]]]
        assert_right(a, b)
        assert_right(a, b, void)


small = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(small.flatmap(lambda shape: arrays(bool, (3, *shape))))
@settings(max_examples=60, deadline=None)
def test_any_masks(masks: np.ndarray) -> None:
    a, b, void = masks
    assert_right(a, b)
    assert_right(a, b, void)


@given(arrays(bool, (2, 8, 9)), st.floats(0, 12))
@settings(max_examples=50, deadline=None)
def test_measures_are_symmetric_and_perfect_for_the_same_mask(masks: np.ndarray, tolerance: float) -> None:
    a, b = masks
    assert contour_accuracy(a, b, None, tolerance) == pytest.approx(contour_accuracy(b, a, None, tolerance))
    for measure in MEASURES:
        assert 0 <= measure(a, b) <= 1
        assert measure(a, b) == pytest.approx(measure(b, a))
        assert measure(a, a) == 1


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 14, 15])
def test_the_tolerance_is_the_disk_that_dilation_takes(radius: int) -> None:
    rng = np.random.default_rng(radius)
    shape = (50, 60)
    for density in (0.0005, 0.003, 0.01):
        masks = rng.random((2, *shape)) < density
        masks[:, 20:22, 30:33] = True
        contours = np.zeros((2, *shape), dtype=bool)
        for mask, contour in zip(masks, contours, strict=True):
            for pixel in plain_contour(objects(mask, None), *shape):
                contour[pixel] = True
        near = [dilation(contour, disk(radius)) for contour in contours]
        precision = (contours[0] & near[1]).sum() / contours[0].sum()
        recall = (contours[1] & near[0]).sum() / contours[1].sum()
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert contour_accuracy(*masks, None, radius) == pytest.approx(expected)


def test_numbers_worked_out_by_hand() -> None:
    a, b = box(slice(4, 8), slice(4, 8)), box(slice(4, 8), slice(6, 10))
    assert region_similarity(a, b) == 8 / 24
    assert dice(a, b) == 0.5
    # Contours are the rings of rows 3 to 7 and columns 3 to 7, or 5 to 9: 16 pixels, 6 of them shared.
    assert contour_accuracy(a, b, None, 0) == 6 / 16


def test_a_full_mask_has_no_contour() -> None:
    full, empty, some = SHAPES["full"], SHAPES["empty"], SHAPES["inside"]
    assert contour_accuracy(full, empty) == 1
    assert region_similarity(full, empty) == 0
    assert contour_accuracy(full, some) == contour_accuracy(some, full) == contour_accuracy(some, empty) == 0


def test_void_pixels_do_not_count() -> None:
    a, b = SHAPES["inside"], SHAPES["shifted"]
    assert region_similarity(a, b, a ^ b) == dice(a, b, a ^ b) == contour_accuracy(a, b, a ^ b) == 1
    assert region_similarity(a, b, a & b) == 0
    assert [measure(a, b, SHAPES["full"]) for measure in MEASURES] == [1, 1, 1, 1]


def test_the_tolerance_follows_the_diagonal_of_the_image_not_of_the_objects() -> None:
    a, b = np.zeros((2, 300, 400), dtype=bool)  # a diagonal of 500, 4 pixels
    a[100:140, 100:150] = True
    b[100:140, 104:154] = True
    assert contour_accuracy(a, b) == 1
    b[100:140, 104] = False
    assert contour_accuracy(a, b) < 1


def test_the_tolerance_does_not_depend_on_the_number_of_frames() -> None:
    a, b = np.zeros((2, 130, 75, 100), dtype=bool)  # a diagonal of 125, 1 pixel
    a[:, 20:40, 20:40] = True
    b[:, 20:40, 22:42] = True
    expected = contour_accuracy(a[0], b[0])
    assert expected < 1
    assert (contour_accuracy(a, b) == expected).all()
    assert (label_scores(a, b)[1][1] == expected).all()
    assert (j_and_f(a, b) == j_and_f(a[0], b[0])).all()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "convert", [np.asarray, np.ndarray.tolist, lambda a: da.from_array(a, chunks=(1, 8, 9))]
)
def test_volumes_give_one_score_for_each_frame(measure: Callable[..., Any], convert: Any) -> None:
    a, b, void = np.random.default_rng(1).random((3, 5, 8, 9)) < 0.3
    a[2] = b[2] = False
    one = measure(a[0], b[0])
    scores = measure(convert(a), convert(b))
    assert isinstance(one, float)
    assert isinstance(scores, np.ndarray)
    assert (scores.shape, scores.dtype) == ((5,), np.float64)
    assert scores.tolist() == [measure(p, r) for p, r in zip(a, b, strict=True)]
    assert measure(convert(a), convert(b), convert(void)).tolist() == [
        measure(*images) for images in zip(a, b, void, strict=True)
    ]
    assert measure(a[:0], b[:0]).shape == (0,)


@pytest.mark.parametrize("measure", MEASURES)
def test_any_value_but_zero_is_object(measure: Callable[..., Any]) -> None:
    a, b, void = np.random.default_rng(2).random((3, 8, 9)) < 0.4
    assert measure(a * np.uint8(255), b * -3, void * np.uint16(256)) == measure(a, b, void)


def test_inputs_stay_as_they_are() -> None:
    images = np.random.default_rng(3).random((3, 8, 9)) < 0.4
    before = images.copy()
    images.flags.writeable = False
    for measure in MEASURES:
        measure(*images)
    np.testing.assert_array_equal(images, before)


class TestLabelScores:
    LABELS = np.random.default_rng(4).choice([0, 0, 2, 5], (2, 4, 10, 12)).astype(np.uint8)

    def test_has_every_object_of_the_reference(self) -> None:
        predicted, reference = self.LABELS.copy()
        predicted[0, 0, 0] = 9
        reference[2, reference[2] == 5] = 0
        scores = label_scores(predicted, reference)
        assert list(scores) == [2, 5]
        for i, (j, f) in scores.items():
            np.testing.assert_array_equal(j, region_similarity(predicted == i, reference == i))
            np.testing.assert_array_equal(f, contour_accuracy(predicted == i, reference == i))

    def test_has_the_objects_asked_for(self) -> None:
        predicted, reference = self.LABELS
        everything = label_scores(predicted, reference)
        scores = label_scores(da.from_array(predicted), da.from_array(reference), iter(np.array([5, 300])))
        assert list(scores) == [5, 300]
        assert all(type(i) is int for i in scores)
        np.testing.assert_array_equal(scores[5], everything[5])
        np.testing.assert_array_equal(scores[300], np.ones((2, 4)))

    def test_large_ids_and_missing_objects(self) -> None:
        reference = (self.LABELS[1] > 0) * np.uint32(4_000_000_000)
        j, f = label_scores(np.zeros_like(self.LABELS[0]), reference)[4_000_000_000]
        assert j.tolist() == f.tolist() == [0, 0, 0, 0]

    def test_no_objects(self) -> None:
        assert label_scores(self.LABELS[0], np.zeros_like(self.LABELS[0])) == {}

    def test_refuses_shapes_that_differ_or_are_no_volumes(self) -> None:
        with pytest.raises(
            UsageError, match=r"labels has shape \(4, 10, 12\) and the reference labels \(3, 10"
        ):
            label_scores(self.LABELS[0], self.LABELS[1, :3])
        with pytest.raises(UsageError, match=r"shape \(10, 12\); it must be \(T, Y, X\)\."):
            label_scores(self.LABELS[0, 0], self.LABELS[1, 0])
        with pytest.raises(UsageError, match="dtype float64"):
            label_scores(self.LABELS[0], self.LABELS[1] / 2)


@pytest.mark.parametrize("measure", MEASURES)
class TestErrors:
    def test_shapes_that_differ(self, measure: Callable[..., Any]) -> None:
        a, b = np.zeros((2, 4, 5), dtype=bool)
        with pytest.raises(
            UsageError, match=r"prediction has shape \(4, 5\) and the reference \(4, 4\); .* alike"
        ):
            measure(a, b[:, :4])
        with pytest.raises(UsageError, match=r"prediction has shape \(4, 5\) and the reference \(1, 4, 5\)"):
            measure(a, b[np.newaxis])
        with pytest.raises(UsageError, match=r"shape \(4, 5\) and the void mask \(5,\)"):
            measure(a, b, np.zeros(5, dtype=bool))

    @pytest.mark.parametrize("shape", [(), (5,), (1, 2, 3, 4)])
    def test_shapes_of_no_mask(self, measure: Callable[..., Any], shape: tuple[int, ...]) -> None:
        with pytest.raises(UsageError, match=r"it must be \(Y, X\) or \(T, Y, X\)\."):
            measure(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))

    def test_values_of_no_mask(self, measure: Callable[..., Any]) -> None:
        with pytest.raises(UsageError, match=r"dtype float64; it must be bool or integers"):
            measure(np.zeros((4, 5)), np.zeros((4, 5), dtype=bool))


@pytest.mark.parametrize("measure", [contour_accuracy, j_and_f])
@pytest.mark.parametrize("tolerance", [-1, -0.1, math.nan, math.inf])
def test_tolerances_that_are_none(measure: Callable[..., Any], tolerance: float) -> None:
    a = SHAPES["inside"]
    with pytest.raises(UsageError, match=f"tolerance is {tolerance}; it must be"):
        measure(a, a, None, tolerance)

"""Numbers of instruments that stay from frame to frame."""

from __future__ import annotations

import numpy as np
import pytest

from napari_surgsam2.endovis.instances import InstanceNumbers, Piece
from napari_surgsam2.errors import UsageError

SHAPE = (40, 60)


def box(y: int, x: int, h: int = 8, w: int = 10) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[y : y + h, x : x + w] = True
    return mask


def numbers_of(labels: np.ndarray, *places: tuple[int, int]) -> list[int]:
    return [int(labels[place]) for place in places]


def label(numbers: InstanceNumbers, *masks: np.ndarray, type_id: int = 1) -> np.ndarray:
    """Label a frame in which the pixels of all masks are of one class, and nothing tells them apart."""
    whole = np.logical_or.reduce(masks) if masks else np.zeros(SHAPE, bool)
    return numbers.label([Piece(type_id, whole)] if masks else [], SHAPE)


def test_components_of_a_class_are_instruments_that_keep_their_numbers() -> None:
    numbers = InstanceNumbers()
    for t in range(5):  # the one grows, the other shrinks: by size they would be swapped
        labels = label(numbers, box(2 + t, 2, 8 + t), box(20, 40 - t, 12 - t))
        if t == 0:
            first = numbers_of(labels, (4, 4), (22, 42))
            assert sorted(first) == [1, 2]
        assert numbers_of(labels, (8, 4), (22, 42)) == first
    assert numbers.types == {1: 1, 2: 1}


def test_classes_do_not_share_numbers() -> None:
    numbers = InstanceNumbers()
    pieces = [Piece(3, box(2, 2)), Piece(1, box(2, 30))]
    labels = numbers.label(pieces, SHAPE)
    assert numbers.types == {1: 1, 2: 3}
    assert numbers_of(labels, (3, 3), (3, 31)) == [2, 1]
    swapped = numbers.label([Piece(1, box(2, 2)), Piece(3, box(2, 30))], SHAPE)
    assert numbers_of(swapped, (3, 3), (3, 31)) == [1, 2]


def test_instruments_that_touch_are_divided_where_they_were() -> None:
    numbers = InstanceNumbers()
    label(numbers, box(10, 5), box(10, 25))
    labels = label(numbers, box(10, 5, 8, 30))
    a, b = numbers_of(labels, (12, 6), (12, 33))
    assert {a, b} == {1, 2}
    assert (labels[10:18, 5:18] == a).all()
    assert (labels[10:18, 22:35] == b).all()
    assert len(numbers.types) == 2


def test_an_instrument_in_pieces_is_one() -> None:
    numbers = InstanceNumbers()
    label(numbers, box(10, 5, 8, 30))
    labels = label(numbers, box(10, 5, 8, 12), box(10, 22, 8, 13))
    assert set(np.unique(labels).tolist()) == {0, 1}


def test_one_that_comes_back_keeps_its_number() -> None:
    numbers = InstanceNumbers()
    label(numbers, box(2, 2), box(25, 45))
    label(numbers, box(2, 2))
    assert not label(numbers).any()
    labels = label(numbers, box(3, 3), box(5, 40))
    assert sorted(numbers_of(labels, (5, 5), (7, 42))) == [1, 2]
    assert len(numbers.types) == 2


def test_a_third_is_new() -> None:
    numbers = InstanceNumbers()
    label(numbers, box(2, 2), box(25, 45))
    labels = label(numbers, box(2, 2), box(25, 45), box(2, 45))
    assert numbers_of(labels, (4, 47)) == [3]


def test_specks_are_no_instruments() -> None:
    numbers = InstanceNumbers()
    assert not label(numbers, box(30, 50, 1, 1)).any()
    label(numbers, box(2, 2))
    labels = label(numbers, box(2, 2), box(30, 50, 1, 1))
    assert labels[30, 50] == 1
    assert numbers.types == {1: 1}


def test_instruments_that_are_told_apart_need_not_overlap() -> None:
    numbers = InstanceNumbers()
    for places in (((2, 2), (2, 40)), ((2, 40), (2, 2)), ((20, 20), (30, 45))):
        pieces = [Piece(2, box(*place), key=key) for key, place in zip("ab", places, strict=True)]
        labels = numbers.label(pieces, SHAPE)
        assert numbers_of(labels, *places) == [1, 2]


def test_whole_masks_are_not_cut_into_components() -> None:
    numbers = InstanceNumbers()
    both = [
        Piece(1, box(2, 2) | box(2, 20), is_whole=True),
        Piece(1, box(20, 2) | box(20, 20), is_whole=True),
    ]
    labels = numbers.label(both, SHAPE)
    assert numbers_of(labels, (3, 3), (3, 21)) == numbers_of(labels, (3, 3)) * 2
    assert len(numbers.types) == 2


def test_what_is_known_by_name_goes_on_by_overlap() -> None:
    numbers = InstanceNumbers()
    numbers.label([Piece(2, box(2, 2), key="left"), Piece(2, box(2, 40), key="right")], SHAPE)
    labels = label(numbers, box(3, 3), box(3, 41), type_id=2)
    assert numbers_of(labels, (5, 5), (5, 43)) == [1, 2]


def test_more_than_a_palette_holds() -> None:
    numbers = InstanceNumbers()
    for t in range(254):
        numbers.label([Piece(1, box(2, 2), key=str(t))], SHAPE)
    with pytest.raises(UsageError, match="more than 254 instruments"):
        numbers.label([Piece(1, box(2, 2), key="more")], SHAPE)

"""clean_mask: named cases drawn as text, and what holds for any mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from napari_surgsam2.tracking.cleanup import clean_mask

EIGHT = np.ones((3, 3))


def drawn(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


CASES = {
    "a hole is filled": (drawn("###", "#.#", "###"), 1, 0, drawn("###", "###", "###")),
    "a larger hole stays": (drawn("####", "#..#", "####"), 1, 0, drawn("####", "#..#", "####")),
    "a hole closed by corners only is one": (drawn(".#.", "#.#", ".#."), 1, 0, drawn(".#.", "###", ".#.")),
    "a notch at the image's edge is no hole": (drawn("###", "#.#", "#.#"), 5, 0, drawn("###", "#.#", "#.#")),
    "a speckle goes": (drawn("##..", "##.#"), 0, 1, drawn("##..", "##..")),
    "a larger piece stays": (drawn("##..#", "##..#"), 0, 1, drawn("##..#", "##..#")),
    "a piece joined by a corner belongs": (drawn("##.", "##.", "..#"), 0, 1, drawn("##.", "##.", "..#")),
    "the largest always stays": (drawn("#..", "..#", "..#"), 0, 9, drawn("...", "..#", "..#")),
    "of equal ones one stays": (
        drawn(
            "#.#",
        ),
        0,
        1,
        drawn(
            "#..",
        ),
    ),
    "zeros do nothing": (drawn("###.#", "#.#..", "###.."), 0, 0, drawn("###.#", "#.#..", "###..")),
    "an empty mask stays empty": (drawn("..", ".."), 9, 9, drawn("..", "..")),
    "holes are filled before pieces are weighed": (
        drawn("###..##", "#.#..##", "###...."),
        1,
        8,
        drawn("###....", "###....", "###...."),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_case(case: str) -> None:
    mask, fill_holes, remove_speckles, expected = CASES[case]
    before = mask.copy()
    np.testing.assert_array_equal(clean_mask(mask, fill_holes, remove_speckles), expected)
    np.testing.assert_array_equal(mask, before)


def test_any_number_type_gives_bool() -> None:
    assert clean_mask(np.array([[0, 7], [0, 0]], dtype=np.int32)).tolist() == [[False, True], [False, False]]


masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
areas = st.integers(0, 12)


@settings(max_examples=150, deadline=None)
@given(masks, areas, areas)
def test_cleaning_twice_is_cleaning_once(mask: np.ndarray, fill: int, remove: int) -> None:
    once = clean_mask(mask, fill, remove)
    np.testing.assert_array_equal(clean_mask(once, fill, remove), once)


@settings(max_examples=150, deadline=None)
@given(masks, areas)
def test_only_small_pieces_go_and_never_all(mask: np.ndarray, remove: int) -> None:
    cleaned = clean_mask(mask, 0, remove)
    pieces, count = ndimage.label(mask, EIGHT)
    for piece in range(1, count + 1):
        kept = cleaned[pieces == piece]
        assert kept.all() or (not kept.any() and kept.size <= remove)
    assert not (cleaned & ~mask).any()
    assert cleaned.any() == mask.any()


@settings(max_examples=150, deadline=None)
@given(masks, areas)
def test_only_small_enclosed_holes_are_filled(mask: np.ndarray, fill: int) -> None:
    cleaned = clean_mask(mask, fill, 0)
    assert (cleaned | ~mask).all()
    enclosed = ndimage.binary_fill_holes(mask) & ~mask
    holes, count = ndimage.label(enclosed)
    assert not (cleaned & ~mask & ~enclosed).any()
    for hole in range(1, count + 1):
        filled = cleaned[holes == hole]
        assert filled.all() == (filled.size <= fill)
        assert filled.any() == filled.all()

"""The mapping of other pixels to 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_surgsam2.errors import UsageError
from napari_surgsam2.video import open_video
from napari_surgsam2.video.contrast import apply_limits, robust_limits

TYPES = [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64]


@given(st.data())
def test_mapping_keeps_the_order(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(TYPES)))
    elements = {"allow_nan": False} if dtype.kind == "f" else {}
    pixels = data.draw(hnp.arrays(dtype, st.integers(1, 40), elements=hnp.from_dtype(dtype, **elements)))
    low, high = robust_limits([pixels[np.newaxis]])
    assert low < high
    shown = apply_limits(np.sort(pixels), (low, high)).astype(int)
    assert (np.diff(shown) >= 0).all()


def test_limits_become_0_and_255() -> None:
    pixels = np.array([-np.inf, -1, 0, 50, 100, 101, np.inf, np.nan], np.float32)
    assert apply_limits(pixels, (0, 100)).tolist() == [0, 0, 0, 128, 255, 255, 255, 0]


def test_percentiles_of_the_whole_video_are_used() -> None:
    ramp = np.linspace(0, 1, 100 * 20 * 30, dtype=np.float32).reshape(100, 20, 30)
    ramp[3, 0, 0], ramp[4, 0, 0] = np.nan, np.inf
    video = open_video(ramp)
    low, high = video.contrast_limits
    assert 0 <= low < 0.01
    assert 0.99 < high <= 1
    assert video.frame(3)[0, 0].tolist() == [0, 0, 0]
    assert video.frame(50).max() < video.frame(99).min()


@pytest.mark.parametrize("value", [0, 5000, 2**16 - 1])
def test_constant_video_is_black(value: int) -> None:
    assert not open_video(np.full((3, 16, 16), value, np.uint16)).frame(0).any()


def test_nothing_but_nan_is_black() -> None:
    video = open_video(np.full((3, 16, 16), np.nan))
    assert video.contrast_limits == (0, 1)
    assert not video.frame(0).any()


def test_few_bright_pixels_are_seen() -> None:
    dark = np.zeros((2, 100, 100), np.uint16)
    dark[:, 50, 50] = 900
    assert open_video(dark).frame(0)[50, 50].tolist() == [255] * 3


def test_booleans_become_black_and_white() -> None:
    mask = np.eye(16, dtype=bool)[np.newaxis]
    video = open_video(mask)
    assert video.contrast_limits is None
    np.testing.assert_array_equal(video.frame(0)[..., 1], mask[0] * 255)


def test_alpha_does_not_count() -> None:
    pixels = np.full((2, 16, 16, 4), 100, np.uint16)
    pixels[0, ..., 0] = 0
    pixels[..., 3] = 65535
    assert open_video(pixels).contrast_limits == (0, 100)


def test_given_limits_apply_to_8_bit_too() -> None:
    video = open_video(np.full((2, 16, 16), 60, np.uint8), contrast_limits=(20, 100))
    assert video.contrast_limits == (20, 100)
    assert (video.frame(0) == 128).all()


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (0, float("nan")), (0, float("inf")), (1,), "ab"])
def test_impossible_limits_are_refused(limits: object) -> None:
    with pytest.raises(UsageError, match="contrast_limits is"):
        open_video(np.zeros((2, 16, 16), np.uint8), contrast_limits=limits)


def test_limits_are_taken_once_and_shared_by_other_handles() -> None:
    reads = []

    class Counting:
        shape, dtype = (100, 16, 16), np.dtype(np.uint16)

        def __getitem__(self, index: int) -> np.ndarray:
            reads.append(index)
            return np.full((16, 16), index, np.uint16)

    video = open_video(Counting())
    assert reads == []
    other = video.reopen()
    other.frame(0)
    assert len(reads) == 17
    assert video.contrast_limits == other.contrast_limits
    assert len(reads) == 17

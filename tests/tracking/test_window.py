"""The black around an endoscope's picture is left out, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import disk

import napari_surgsam2 as ns
from napari_surgsam2.errors import PromptError
from napari_surgsam2.prompts import central_position
from napari_surgsam2.synthetic import make_clip
from napari_surgsam2.tracking.window import Window, find_window
from napari_surgsam2.video import open_video

ALL = Window(0, 120, 0, 200)


@pytest.fixture(scope="module")
def nano():
    return ns.load_model("nano", device="cpu")


def framed(picture, top, left, height=120, width=200):
    """Put pictures (T, Y, X, 3) into black frames."""
    out = np.zeros((len(picture), height, width, 3), np.uint8)
    out[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
    return out


def gray(value, frames=5, size=(80, 100)):
    return np.full((frames, *size, 3), value, np.uint8)


def window_of(clip):
    return find_window(open_video(clip))


def test_a_letterboxed_picture_is_found():
    assert window_of(framed(gray(90), 10, 60)) == Window(10, 90, 60, 160)


def test_so_is_a_round_one_with_noise_around_it():
    clip = np.random.default_rng(0).integers(0, 12, (5, 120, 200, 3)).astype(np.uint8)
    rows, columns = disk((60, 100), 50)
    clip[:, rows, columns] += 100
    top, bottom, left, right = window_of(clip)
    assert (top, bottom) == (rows.min(), rows.max() + 1)
    assert (left, right) == (columns.min(), columns.max() + 1)


def test_what_is_bright_in_one_of_the_frames_is_kept():
    clip = framed(gray(90), 10, 60)
    clip[-1] = 90
    assert window_of(clip) == ALL
    clip[-1] = 0  # it ends in black
    assert window_of(clip) == Window(10, 90, 60, 160)


def test_dark_pictures_with_little_in_them_stay_whole():
    cells = np.zeros((5, 120, 200, 3), np.uint8)
    cells[:, 30:40, 50:60] = cells[:, 80:90, 120:130] = 200
    assert window_of(cells) == ALL
    assert window_of(np.zeros_like(cells)) == ALL
    assert window_of(framed(gray(90, size=(8, 8)), 10, 60)) == ALL


def test_frames_that_cannot_be_read_are_passed_over():
    class Damaged:
        shape, dtype = (5, 120, 200, 3), np.dtype(np.uint8)

        def __getitem__(self, t):
            if t == 4:
                raise OSError("damaged")
            return framed(gray(90), 10, 60)[t]

    assert window_of(Damaged()) == Window(10, 90, 60, 160)


@given(st.integers(0, 40), st.integers(0, 100), st.integers(1, 80), st.integers(1, 100), st.data())
def test_positions_go_where_the_resized_picture_has_them(top, left, height, width, data):
    import torch

    window = Window(top, top + height, left, left + width)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    assert window.has(top + y, left + x)
    placed = window.scaled(torch.tensor([[float(left + x), float(top + y)]]), 320)
    torch.testing.assert_close(placed, torch.tensor([[x * 320 / width, y * 320 / height]]))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_framed_clip_has_the_masks_of_the_clip_itself(nano, direction):
    clip = make_clip(3, 4, (160, 200))
    ids, counts = np.unique(clip.labels[0], return_counts=True)
    chosen = ids[1:][counts[1:].argmax()]
    start = 0 if direction == "forward" else 3
    y, x = central_position(clip.labels[start] == chosen)
    plain = ns.track(clip.video, [ns.Point(start, y, x)], model=nano, direction=direction)
    wide = framed(clip.video, 20, 70, 200, 400)
    assert find_window(open_video(wide)).shape == find_window(open_video(clip.video)).shape
    found = ns.track(wide, [ns.Point(start, y + 20, x + 70)], model=nano, direction=direction)
    assert plain.any()
    np.testing.assert_array_equal(found, framed(plain[..., None], 20, 70, 200, 400)[..., 0])


def test_given_masks_and_boxes_are_of_the_video(nano):
    clip = make_clip(3, 2, (160, 200))
    ids, counts = np.unique(clip.labels[0], return_counts=True)
    wide = framed(clip.video, 20, 70, 200, 400)
    mask = framed((clip.labels == ids[1:][counts[1:].argmax()])[..., None], 20, 70, 200, 400)[0, ..., 0] > 0
    labels = ns.track(wide, [ns.Mask(0, mask)], model=nano)
    np.testing.assert_array_equal(labels[0] > 0, mask)
    assert (labels[1].astype(bool) & mask).sum() > 0.5 * mask.sum()

    tracker = ns.Tracker(nano, wide)
    rows, columns = np.nonzero(mask)
    tracker.add_box(0, 1, (rows.min(), columns.min(), rows.max(), columns.max()))
    found = tracker.predict(0).masks()[0]
    assert (found & mask).sum() > 0.5 * (found | mask).sum()
    tracker.close()


def test_a_click_in_the_black_is_told_of(nano):
    tracker = ns.Tracker(nano, framed(gray(90), 10, 60))
    tracker.add_points(0, 1, [(5, 100)])
    with pytest.raises(PromptError, match=r"y = 5, x = 100 on frame 0 is in the black .* cropped"):
        tracker.predict(0)
    tracker.close()


def test_it_can_be_switched_off(nano):
    clip = framed(gray(90), 10, 60)
    for cropped, window in ((True, Window(10, 90, 60, 160)), ("auto", Window(10, 90, 60, 160)), (False, ALL)):
        tracker = ns.Tracker(nano, clip, ns.TrackingSettings(cropped=cropped))
        assert tracker._frames.window == window
        tracker.close()

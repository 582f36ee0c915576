"""Reading ahead and resizing."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from PIL import Image

from napari_surgsam2.errors import UsageError, VideoError
from napari_surgsam2.video import open_video, read_ahead, resize_frame


class Slow:
    """Frames that hold their own index; one of them may be broken."""

    shape, dtype = (50, 16, 16), np.dtype(np.uint8)

    def __init__(self, broken: int | None = None) -> None:
        self.read: list[int] = []
        self._broken = broken

    def __getitem__(self, index: int) -> np.ndarray:
        self.read.append(index)
        if index == self._broken:
            raise OSError("unplugged")
        return np.full((16, 16), index, np.uint8)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> object:
    yield
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"] == []


@pytest.mark.parametrize("ahead", [0, 1, 4, 100])
def test_frames_come_in_the_order_asked_for(ahead: int) -> None:
    video = open_video(Slow())
    wanted = [5, 4, 3, 20, 21, 0]
    items = list(read_ahead(video, iter(wanted), lambda frame: int(frame[0, 0, 0]), ahead))
    assert items == [(index, index) for index in wanted]


def test_no_more_than_asked_for_is_buffered() -> None:
    source = Slow()
    items = read_ahead(open_video(source), range(50), ahead=3)
    assert source.read == []
    next(items)
    time.sleep(0.1)
    assert source.read == [0, 1, 2, 3]
    items.close()


@pytest.mark.parametrize("ahead", [0, 4])
def test_errors_come_in_their_turn(ahead: int) -> None:
    items = read_ahead(open_video(Slow(broken=3)), range(10), ahead=ahead)
    assert [next(items)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(VideoError, match=r"Frame 3 .* unplugged"):
        next(items)


def test_error_of_the_consumer_ends_the_thread() -> None:
    def consume() -> None:
        for index, _ in read_ahead(open_video(Slow()), range(50)):
            if index == 5:
                raise KeyError(index)

    with pytest.raises(KeyError):
        consume()


def test_dropping_the_generator_ends_the_thread() -> None:
    items = read_ahead(open_video(Slow()), range(50))
    next(items)
    del items


def test_negative_ahead_is_refused() -> None:
    with pytest.raises(UsageError, match="ahead is -1"):
        read_ahead(open_video(Slow()), range(3), ahead=-1)


def test_one_video_may_be_read_from_many_threads(write_movie, moving: np.ndarray) -> None:
    video = open_video(write_movie("a.mp4", moving))
    expected = [video.frame(index) for index in range(60)]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 60, 20):
            if not np.array_equal(video.frame(index), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("size", [16, 64])
def test_resize_is_pillows_default_but_for_rounding(size: int) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    resized = resize_frame(frame, size)
    assert resized.shape == (size, size, 3)
    expected = np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))
    difference = np.abs(resized.astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.05


def test_a_frame_of_the_size_stays_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_frame(frame, 16), frame)


@pytest.mark.parametrize("change", ["flipped", "read-only", "a part"])
def test_resize_takes_any_array_and_leaves_it(change: str) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    changed = {"flipped": frame[::-1], "read-only": frame.copy(), "a part": frame[3:, 5:]}[change]
    changed.flags.writeable = False
    expected = resize_frame(changed.copy(), 16)
    np.testing.assert_array_equal(resize_frame(changed, 16), expected)
    assert not changed.flags.writeable


@pytest.mark.parametrize(
    ("shape", "dtype", "size"), [((9, 9), "u1", 8), ((9, 9, 3), "f4", 8), ((9, 9, 3), "u1", 0)]
)
def test_resize_refuses(shape: tuple[int, ...], dtype: str, size: int) -> None:
    with pytest.raises(UsageError, match="it must be"):
        resize_frame(np.zeros(shape, dtype), size)

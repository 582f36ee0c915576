"""Folders of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from napari_surgsam2.errors import UsageError, VideoError
from napari_surgsam2.video import open_video
from napari_surgsam2.video.natural import natural_key


@given(st.lists(st.integers(0, 10**12), unique=True, min_size=2), st.text("abcXYZ_- ", max_size=8))
def test_numbers_in_names_order_as_numbers(numbers: list[int], stem: str) -> None:
    names = [f"{stem}{number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{stem}{number}.png" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_names_have_an_order(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def _save(path: Path, value: int, mode: str = "L", size: tuple[int, int] = (20, 16)) -> None:
    Image.new("L", size, value).convert(mode).save(path)


def test_natural_order_and_case(tmp_path: Path) -> None:
    for value, name in enumerate(["frame1.PNG", "Frame2.png", "frame10.png"]):
        _save(tmp_path / name, value)
    video = open_video(tmp_path)
    assert [int(video.raw(index)[0, 0]) for index in range(3)] == [0, 1, 2]
    assert video.name == tmp_path.name


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_png_modes(tmp_path: Path, mode: str) -> None:
    _save(tmp_path / "a.png", 255, mode)
    assert (open_video(tmp_path).frame(0) == 255).all()


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = open_video(tmp_path).frame(0)[8, 8]
    assert red > 230
    assert max(green, blue) < 30


def test_sizes_are_compared_when_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a1.png", "a2.png"):
        _save(tmp_path / name, 1)
    _save(tmp_path / "a3.png", 1, size=(30, 16))
    with pytest.raises(VideoError, match=r"a3.png' is 16 x 30 .* 'a1.png' is 16 x 20"):
        open_video(tmp_path)
    monkeypatch.setattr("napari_surgsam2.video.folder.CHECKED_FILES", 2)
    video = open_video(tmp_path)
    video.frame(1)
    with pytest.raises(VideoError, match=r"a3.png' is 16 x 30"):
        video.frame(2)


def test_types_must_agree(tmp_path: Path) -> None:
    _save(tmp_path / "a1.png", 1)
    Image.fromarray(np.zeros((16, 20), np.uint16)).save(tmp_path / "a2.png")
    with pytest.raises(VideoError, match=r"holds uint16 pixels, while 'a1.png' holds uint8"):
        open_video(tmp_path).frame(1)


def test_folders_without_frames(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="has no frames in it"):
        open_video(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"a.png' cannot be read"):
        open_video(tmp_path)


def test_damaged_picture_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a1.png", "a2.png"):
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "a2.png").write_bytes((tmp_path / "a1.png").read_bytes()[:2000])
    video = open_video(tmp_path)
    with pytest.raises(VideoError, match=r"a2.png' cannot be read"):
        video.frame(1)


def test_stacks_among_frames_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 16, 20), np.uint8), photometric="minisblack")
    with pytest.raises(VideoError, match="holds 3 pages"):
        open_video(tmp_path)


def test_of_several_kinds_the_most_frequent_is_used(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "a.png"):
        _save(tmp_path / name, 1)
    video = open_video(tmp_path)
    assert len(video) == 2
    assert "JPEG is used, and 1 PNG left out" in video.notes[0]


def test_one_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", 7)
    video = open_video(tmp_path / "a.png")
    assert video.shape == (1, 16, 20)
    assert (video.reopen().frame(0) == 7).all()
    with pytest.raises(UsageError, match="have no meaning"):
        open_video(tmp_path / "a.png", axes="YX")

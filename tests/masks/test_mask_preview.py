"""The overlay and the preview video, looked at by decoding them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import overlay, write_preview


class GreyVideo:
    """Frames of one grey each, 100 + index."""

    def __init__(self, n_frames: int = 6, height: int = 90, width: int = 120, fps: float | None = 25) -> None:
        self.n_frames, self.height, self.width, self.fps = n_frames, height, width, fps

    def frame(self, index: int) -> np.ndarray:
        return np.full((self.height, self.width, 3), 100 + index, dtype=np.uint8)


def labels_for(video: GreyVideo) -> np.ndarray:
    labels = np.zeros((video.n_frames, video.height, video.width), dtype=np.uint8)
    labels[:, : video.height // 2, : video.width // 2] = 2
    return labels


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class TestOverlay:
    def test_tints_outlines_and_numbers_the_object_and_nothing_else(self) -> None:
        frame = np.full((60, 80, 3), 100, dtype=np.uint8)
        labels = np.zeros((60, 80), dtype=np.uint16)
        labels[10:50, 20:70] = 300
        picture = overlay(frame, labels)
        assert frame.min() == frame.max() == 100
        assert (picture[labels == 0] == 100).all()
        outline = picture[10, 20].tolist()
        assert outline == picture[11, 69].tolist() == picture[48, 40].tolist()
        tint = picture[12, 22].tolist()
        assert tint == [round(0.55 * 100 + 0.45 * part) for part in outline]
        assert (picture[25:35, 35:55] == 255).all(axis=-1).any()

    def test_objects_side_by_side_each_have_an_outline(self) -> None:
        labels = np.ones((40, 80), dtype=np.uint8)
        labels[:, 40:] = 2
        picture = overlay(np.zeros((40, 80, 3), np.uint8), labels)
        red, green = picture[5, 39], picture[5, 40]
        assert red[0] > 150 > red[1] + red[2]
        assert green[1] > 150 > green[0] + green[2]
        assert picture[5, 37].sum() < red.sum()

    def test_the_number_is_on_the_object_even_if_it_is_bent(self) -> None:
        labels = np.zeros((100, 100), dtype=np.uint8)
        labels[10:90, 10:30] = 1
        labels[70:90, 10:90] = 1
        white = (overlay(np.zeros((100, 100, 3), np.uint8), labels) == 255).all(axis=-1)
        assert white.any()
        assert (labels[white] == 1).mean() > 0.7

    def test_without_objects_it_is_a_copy(self) -> None:
        frame = np.full((4, 5, 3), 9, dtype=np.uint8)
        picture = overlay(frame, np.zeros((4, 5), np.uint8))
        assert picture is not frame
        np.testing.assert_array_equal(picture, frame)

    def test_shapes_must_belong_together(self) -> None:
        with pytest.raises(UsageError, match=r"must be uint8 \(Y, X, 3\) and \(Y, X\)"):
            overlay(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_every_frame_is_there_with_color_in_the_mask(tmp_path: Path, suffix: str) -> None:
    video = GreyVideo()
    calls: list[tuple[int, int]] = []
    path = write_preview(
        tmp_path / f"preview{suffix}",
        video,
        labels_for(video),
        progress=lambda done, total: calls.append((done, total)),
    )
    frames = decode(path)
    assert [f.shape for f in frames] == [(90, 120, 3)] * 6
    assert calls == [(n, 6) for n in range(1, 7)]
    for index, frame in enumerate(frames):
        inside = frame[8:16, 8:16].mean(axis=(0, 1))
        assert inside[1] > inside[0] + 20
        np.testing.assert_allclose(frame[60:80, 80:110].mean(axis=(0, 1)), 100 + index, atol=3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 25
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((91, 121), 1280, (92, 122)),
        ((300, 400), 200, (150, 200)),
        ((400, 301), 200, (200, 150)),
        ((51, 99), 99, (50, 98)),
        ((1, 60), 30, (2, 30)),
    ],
)
def test_size_is_even_and_within_the_limit(
    tmp_path: Path, size: tuple[int, int], max_side: int, expected: tuple[int, int]
) -> None:
    video = GreyVideo(2, *size, fps=None)
    path = write_preview(tmp_path / "p.mp4", video, labels_for(video), max_side=max_side)
    assert decode(path)[0].shape[:2] == expected


def test_chosen_frames_in_their_order(tmp_path: Path) -> None:
    video = GreyVideo()
    path = write_preview(tmp_path / "p.mp4", video, labels_for(video), frames=[5, 0])
    np.testing.assert_allclose([f[80, 110].mean() for f in decode(path)], [105, 100], atol=2)


def test_without_libx264_it_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    video = GreyVideo(fps=30000 / 1001)
    path = write_preview(tmp_path / "p.mp4", video, labels_for(video))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert len(decode(path)) == 6


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("p.gif", {}, r"must end in one of \.mp4"),
        ("p.mp4", {"frames": [0, 6]}, "Frame 6 is chosen.* 0 to 5"),
        ("p.mp4", {"frames": []}, "No frame is chosen"),
        ("p.mp4", {"max_side": 1}, "max_side is 1"),
    ],
)
def test_arguments_that_cannot_be_used(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    video = GreyVideo()
    with pytest.raises(UsageError, match=message):
        write_preview(tmp_path / name, video, labels_for(video), **options)


def test_labels_of_another_video(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\(5, 90, 120\); the video's \(T, Y, X\) is \(6, 90, 120\)"):
        write_preview(tmp_path / "p.mp4", GreyVideo(), labels_for(GreyVideo(5)))


def test_a_failure_leaves_the_old_preview_and_no_partial(tmp_path: Path) -> None:
    video = GreyVideo()
    path = write_preview(tmp_path / "p.mp4", video, labels_for(video))
    with pytest.raises(OutputError, match=r"exists already.*--force"):
        write_preview(path, video, labels_for(video))
    old = path.read_bytes()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_preview(path, video, labels_for(video), overwrite=True, progress=stop)
    assert path.read_bytes() == old
    assert [f.name for f in tmp_path.iterdir()] == ["p.mp4"]
    write_preview(path, video, labels_for(video), overwrite=True, frames=[0])
    assert len(decode(path)) == 1


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise av.error.OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(av, "open", full)
    with pytest.raises(OutputError, match="No space left on the disk of"):
        write_preview(tmp_path / "p.mp4", GreyVideo(), labels_for(GreyVideo()))
    assert not list(tmp_path.iterdir())


def test_a_time_lapse_of_one_frame_an_hour_can_be_watched(tmp_path: Path) -> None:
    video = GreyVideo(fps=1 / 3600)
    write_preview(tmp_path / "a.mp4", video, labels_for(video))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration < 10_000_000  # microseconds

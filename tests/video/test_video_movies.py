"""Video files: every frame at its exact place, and damage told."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from napari_surgsam2.errors import UsageError, VideoError
from napari_surgsam2.video import open_video

UNEVEN = np.cumsum(np.random.default_rng(1).integers(7, 200, 60)).tolist()
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=12"}

CASES = {
    "b-frames": ("a.mp4", {}),
    "b-frames in mkv": ("a.mkv", {}),
    "b-frames in avi, whose stamps are wrong": ("a.avi", {}),
    "b-frames in ts": ("a.ts", {}),
    "mpeg4 avi": ("a.avi", {"codec": "mpeg4"}),
    "mjpeg avi": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "b_frames": 0}),
    "mpeg2 program stream": ("a.mpg", {"codec": "mpeg2video"}),
    "mpeg1 with equal stamps": ("a.mpeg", {"codec": "mpeg1video"}),
    "variable rate": ("a.mp4", {"times": UNEVEN}),
    "variable rate in mkv": ("a.mkv", {"times": UNEVEN}),
    "open groups": ("a.mp4", {"options": OPEN_GOP}),
    "open groups in ts": ("a.ts", {"options": OPEN_GOP}),
    "gradual refresh": ("a.mp4", {"options": REFRESH, "b_frames": 0}),
    "bare stream without stamps": ("a.h264", {}),
    "10 bits": ("a.mp4", {"pix_fmt": "yuv420p10le"}),
    "with alpha": ("a.mov", {"codec": "png", "pix_fmt": "rgba", "b_frames": 0}),
    "gif": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8", "b_frames": 0}),
    "wmv": ("a.wmv", {"codec": "wmv2", "b_frames": 0}),
}


def _decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("cache", [1, 128 * 2**20])
@pytest.mark.parametrize("case", CASES)
def test_any_order_gives_the_frames_of_sequential_decoding(
    case: str, cache: int, write_movie, moving: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_surgsam2.video.movie.CACHE_BYTES", cache)
    name, options = CASES[case]
    path = write_movie(name, moving, **options)
    expected = _decoded(path)
    with open_video(path) as video:
        assert len(video) == len(expected)
        assert video.notes == ()
        order = np.random.default_rng(2).permutation(len(expected))[:24].tolist()
        wrong = [index for index in order if not np.array_equal(video.frame(index), expected[index])]
        assert wrong == []
        again = video.reopen()
        assert [i for i in range(15, 30) if not np.array_equal(again.frame(i), expected[i])] == []


def test_going_on_does_not_seek(write_movie, moving: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    video = open_video(write_movie("a.mp4", moving))
    video.frame(7)
    started = []
    monkeypatch.setattr(
        "napari_surgsam2.video.movie_decoder.Decoder.start_at", lambda self, place: started.append(place)
    )
    for index in [*range(8, 60), *range(59, 0, -1)]:
        video.frame(index)
    assert started == []


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation: int, write_movie, moving: np.ndarray) -> None:
    plain = open_video(write_movie("a.mp4", moving)).frame(5)
    video = open_video(write_movie("b.mp4", moving, rotation=rotation))
    # The matrix of a file turns clockwise.
    expected = np.rot90(plain, -rotation // 90)
    assert (video.height, video.width) == expected.shape[:2]
    np.testing.assert_array_equal(video.frame(5), expected)


def test_edit_list_hides_frames(write_movie, moving: np.ndarray) -> None:
    path = write_movie("a.mp4", moving, gop=30)
    data = bytearray(path.read_bytes())
    start = data.index(b"elst") + 4 + 8
    media_time = int.from_bytes(data[start + 4 : start + 8], "big")
    data[start + 4 : start + 8] = (media_time + 10 * 512).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    expected = _decoded(path)
    assert len(expected) < 60
    video = open_video(path)
    assert len(video) == len(expected)
    for index in (20, 0, 40):
        np.testing.assert_array_equal(video.frame(index), expected[index])


def test_dropped_frames_are_no_damage(write_movie, moving: np.ndarray) -> None:
    """AVI files note them by empty chunks, which FFmpeg makes of gaps between time stamps."""
    times = [40 * t for t in (*range(6), *range(10, 14))]
    path = write_movie("a.avi", moving[:10], "mjpeg", "yuvj420p", b_frames=0, times=times)
    video = open_video(path)
    assert len(video) == 10
    assert any("dropped frames" in note for note in video.notes)
    assert not any("damaged" in note for note in video.notes)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts", "fast.mp4"])
def test_cut_file_ends_where_its_frames_end(name: str, write_movie, moving: np.ndarray) -> None:
    fast = {"movflags": "faststart"} if name == "fast.mp4" else None
    path = write_movie(name, moving, container_options=fast)
    expected = _decoded(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    video = open_video(path)
    assert 10 < len(video) < 50
    # A transport stream does not say how long it is.
    if name != "a.ts":
        assert f"after frame {len(video) - 1}" in video.notes[0]
    for index in (0, len(video) - 2, 5):
        np.testing.assert_array_equal(video.frame(index), expected[index])


def test_blank_tail_is_left_out(write_movie, moving: np.ndarray) -> None:
    path = write_movie("a.mp4", moving, container_options={"movflags": "faststart"})
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size * 3 // 4] + bytes(size - size * 3 // 4))
    video = open_video(path)
    assert 10 < len(video) < 60
    assert "of 60: frames 0 to" in video.notes[0]
    video.frame(len(video) - 1)


def test_hole_in_the_middle_is_told_by_frame(write_movie, moving: np.ndarray) -> None:
    path = write_movie("a.mp4", moving, container_options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    size = len(data)
    data[size * 5 // 10 : size * 7 // 10] = bytes(size * 7 // 10 - size * 5 // 10)
    path.write_bytes(bytes(data))
    video = open_video(path)
    assert len(video) == 60
    video.frame(0)
    video.frame(59)
    for _ in range(2):
        with pytest.raises(VideoError, match=r"Frame 20 of .* the file is damaged there. The frames before"):
            video.frame(20)
    video.frame(5)


def test_recording_without_its_index_is_told(write_movie, moving: np.ndarray) -> None:
    path = write_movie("a.mp4", moving)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(VideoError, match="no 'moov' atom"):
        open_video(path)


def test_text_named_mp4(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("these are words\n" * 100)
    with pytest.raises(VideoError, match="cannot be opened as a video: Invalid data"):
        open_video(tmp_path / "a.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="has no video in it, only audio"):
        open_video(path)


def test_axes_have_no_meaning(write_movie, clip: np.ndarray) -> None:
    with pytest.raises(UsageError, match="have no meaning"):
        open_video(write_movie("a.mkv", clip, "ffv1", "bgr0", b_frames=0), axes="TYX")

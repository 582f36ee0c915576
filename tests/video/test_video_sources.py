"""The same frames from whatever a video may come in."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

from napari_surgsam2.errors import UsageError, VideoError
from napari_surgsam2.video import open_video


class OnlyFrames:
    """An array that knows nothing but its frames."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: int) -> np.ndarray:
        assert isinstance(index, (int, np.integer))
        return self._array[index]


def _ngff(path: Path, data: np.ndarray, axes: str, *, version: int) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("0", data=data, chunks=(2, *data.shape[1:]))
    named = [{"name": letter.lower()} for letter in axes]
    multiscales = [{"axes": named, "datasets": [{"path": "0"}]}]
    group.attrs.update(
        {"multiscales": multiscales} if version == 2 else {"ome": {"multiscales": multiscales}}
    )
    return path


def _save_pictures(folder: Path, clip: np.ndarray, suffix: str = "png") -> Path:
    folder.mkdir()
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"frame{number}.{suffix}")
    (folder / ".hidden.png").write_bytes(b"no picture")
    (folder / "readme.txt").write_text("not a frame")
    return folder


def _tiff(path: Path, data: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, data, **options)
    return path


def _zarr_array(path: Path, data: np.ndarray) -> Path:
    zarr.create_array(path, data=data, chunks=(5, *data.shape[1:]))
    return path


COLOUR = {
    "numpy": lambda clip, tmp: clip,
    "dask": lambda clip, tmp: da.from_array(clip, chunks=(5, -1, -1, -1)),
    "frames only": lambda clip, tmp: OnlyFrames(clip),
    "zarr array": lambda clip, tmp: zarr.array(clip, chunks=(5, *clip.shape[1:])),
    "with alpha": lambda clip, tmp: np.concatenate([clip, clip[..., :1]], axis=-1),
    "rgb tiff": lambda clip, tmp: _tiff(tmp / "a.tif", clip, photometric="rgb"),
    "planar rgb tiff": lambda clip, tmp: _tiff(
        tmp / "a.tif", clip.transpose(0, 3, 1, 2), photometric="rgb", planarconfig="separate"
    ),
    "zlib tiled tiff": lambda clip, tmp: _tiff(
        tmp / "a.tif", clip, photometric="rgb", compression="zlib", tile=(16, 16)
    ),
    "bigtiff": lambda clip, tmp: _tiff(tmp / "a.btf", clip, photometric="rgb", bigtiff=True),
    "ome-tiff": lambda clip, tmp: _tiff(
        tmp / "a.ome.tif", clip, photometric="rgb", metadata={"axes": "TYXS"}, compression="zlib"
    ),
    "imagej": lambda clip, tmp: _tiff(
        tmp / "a.tif", clip, photometric="rgb", imagej=True, metadata={"axes": "TYXS"}
    ),
    "png folder": lambda clip, tmp: _save_pictures(tmp / "frames", clip),
    "bmp folder": lambda clip, tmp: _save_pictures(tmp / "frames", clip, "bmp"),
    "tiff folder": lambda clip, tmp: _save_pictures(tmp / "frames", clip, "tif"),
    "zarr folder": lambda clip, tmp: _zarr_array(tmp / "a.zarr", clip),
}


@pytest.mark.parametrize("source", COLOUR)
def test_colour_frames_are_the_same_from_everywhere(source: str, clip: np.ndarray, tmp_path: Path) -> None:
    with open_video(COLOUR[source](clip, tmp_path)) as video:
        assert video.shape == clip.shape[:3]
        assert video.contrast_limits is None
        for index in (0, 11, 3, 4, 5, 10, 2):
            frame = video.frame(index)
            assert frame.dtype == np.uint8
            assert frame.flags.c_contiguous
            np.testing.assert_array_equal(frame, clip[index])


def test_lossless_movie_gives_the_same_frames(clip: np.ndarray, write_movie) -> None:
    path = write_movie("a.mkv", clip, "ffv1", "bgr0", b_frames=0)
    with open_video(path) as video:
        assert (video.name, video.path, video.fps, len(video)) == ("a", path, 25.0, 12)
        for index in (0, 11, 3, 2):
            np.testing.assert_array_equal(video.frame(index), clip[index])


GREY = {
    "numpy": lambda grey, tmp: grey,
    "one channel": lambda grey, tmp: OnlyFrames(grey[..., np.newaxis]),
    "big-endian": lambda grey, tmp: grey.astype(">u2"),
    "dask": lambda grey, tmp: da.from_array(grey, chunks=(4, -1, -1)),
    "tiff": lambda grey, tmp: _tiff(tmp / "a.tif", grey),
    "big-endian tiff": lambda grey, tmp: _tiff(tmp / "a.tif", grey, byteorder=">"),
    "zlib tiff": lambda grey, tmp: _tiff(tmp / "a.tif", grey, compression="zlib", rowsperstrip=5),
    "ome-tiff": lambda grey, tmp: _tiff(tmp / "a.ome.tif", grey, metadata={"axes": "TYX"}),
    "imagej": lambda grey, tmp: _tiff(tmp / "a.tif", grey, imagej=True, metadata={"axes": "TYX"}),
    "imagej z": lambda grey, tmp: _tiff(tmp / "a.tif", grey, imagej=True, metadata={"axes": "ZYX"}),
    "ngff 0.4": lambda grey, tmp: _ngff(tmp / "a.ome.zarr", grey[:, None, None], "TCZYX", version=2),
    "ngff 0.5": lambda grey, tmp: _ngff(tmp / "a.zarr", grey[:, None], "TZYX", version=3),
    "png folder": lambda grey, tmp: _save_pictures(tmp / "frames", grey),
    "tiff folder": lambda grey, tmp: _save_pictures(tmp / "frames", grey, "tif"),
}


@pytest.mark.parametrize("source", GREY)
def test_16_bit_frames_are_the_same_from_everywhere(source: str, clip: np.ndarray, tmp_path: Path) -> None:
    grey = clip[..., 0].astype(np.uint16) * 17
    expected = open_video(grey)
    with open_video(GREY[source](grey, tmp_path)) as video:
        assert video.dtype == np.uint16
        assert video.contrast_limits == expected.contrast_limits
        for index in (11, 0, 5):
            np.testing.assert_array_equal(video.raw(index), grey[index])
            np.testing.assert_array_equal(video.frame(index), expected.frame(index))


def leave_first_page(path: Path, length: int) -> None:
    """Let an ImageJ stack describe its first page only, as large ones do, and cut its pixels to a length."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        after_tags = page.offset + 2 + 12 * len(page.tags)
        offset = page.dataoffsets[0]
    data[after_tags : after_tags + 4] = bytes(4)
    path.write_bytes(bytes(data[: offset + length]))


@pytest.mark.parametrize("frames", [10, 12])
def test_imagej_stack_described_by_its_first_page(tmp_path: Path, clip: np.ndarray, frames: int) -> None:
    path = _tiff(tmp_path / "a.tif", clip[..., 0], imagej=True, metadata={"axes": "TYX"})
    leave_first_page(path, frames * 24 * 40 + 7)
    video = open_video(path)
    assert video.shape == (frames, 24, 40)
    assert ("10 of 12" in " ".join(video.notes)) == (frames == 10)
    np.testing.assert_array_equal(video.raw(frames - 1), clip[frames - 1, ..., 0])


def test_a_hyperstack_that_is_cut_short_keeps_its_channels_apart(tmp_path: Path) -> None:
    stack = np.random.default_rng(1).integers(0, 255, (10, 2, 16, 20), dtype=np.uint8)
    path = _tiff(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TCYX"})
    leave_first_page(path, 15 * 16 * 20)

    video = open_video(path, channel=1)

    assert video.shape == (7, 16, 20)
    assert "7 of 10 positions along T" in " ".join(video.notes)
    np.testing.assert_array_equal(video.raw(6), stack[6, 1])


@pytest.fixture
def aborted(tmp_path: Path) -> Path:
    """An OME-TIFF that says 20 frames, of which 12 were written."""
    stack = np.random.default_rng(1).integers(0, 4000, (20, 16, 20), dtype=np.uint16)
    whole = _tiff(tmp_path / "whole.ome.tif", stack, metadata={"axes": "TYX"}, compression="zlib")
    with tifffile.TiffFile(whole) as tiff:
        description = tiff.pages.first.description
    path = tmp_path / "2024.05.01_a.ome.tif"
    with tifffile.TiffWriter(path, ome=False) as writer:
        for t in range(12):
            told = description.encode() if t == 0 else None
            writer.write(stack[t], compression="zlib", description=told, metadata=None)
    return path


def test_an_acquisition_that_was_aborted_ends_where_its_frames_end(aborted: Path) -> None:
    video = open_video(aborted)
    assert video.shape == (12, 16, 20)
    assert "12 of 20 positions along T" in " ".join(video.notes)
    assert video.name == "2024.05.01_a"
    assert video.frame(11).any()


def test_a_frame_that_cannot_be_read_spoils_no_other(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 4000, (6, 16, 20), dtype=np.uint16)
    folder = _save_pictures(tmp_path / "frames", frames)
    broken = folder / "frame5.png"
    broken.write_bytes(broken.read_bytes()[:60])
    video = open_video(folder)
    assert video.frame(0).any()
    with pytest.raises(VideoError, match="damaged"):
        video.frame(5)


def test_colour_in_pages_of_their_own(tmp_path: Path) -> None:
    stack = np.random.default_rng(1).integers(0, 255, (5, 3, 16, 20), dtype=np.uint8)
    path = _tiff(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TCYX"}, compression="zlib")
    video = open_video(path, axes="TSYX")
    np.testing.assert_array_equal(video.frame(4), stack[4].transpose(1, 2, 0))


def test_a_video_stays_the_same_file_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tiff(tmp_path / "~nobody.tif", np.ones((5, 16, 20), np.uint8), compression="zlib")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    video = open_video("~nobody.tif")
    monkeypatch.chdir(tmp_path / "other")
    assert video.reopen().raw(2).all()


def test_channel_and_plane_of_a_hyperstack(tmp_path: Path) -> None:
    stack = np.random.default_rng(1).integers(0, 255, (4, 5, 2, 16, 20), dtype=np.uint8)
    path = _tiff(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    video = open_video(path)
    assert video.shape == (4, 16, 20)
    np.testing.assert_array_equal(video.raw(3), stack[3, 2, 0])
    assert [word in " ".join(video.notes) for word in ("channel 0", "plane 2")] == [True, True]
    zipped = _tiff(tmp_path / "b.ome.tif", stack, metadata={"axes": "TZCYX"}, compression="zlib")
    other = open_video(zipped, channel=1, z=4)
    np.testing.assert_array_equal(other.raw(3), stack[3, 4, 1])
    with pytest.raises(UsageError, match="channel is 2; it must be from 0 to 1"):
        open_video(path, channel=2)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((24, 40), None, (1, 24, 40)),
        ((24, 40, 3), "YXC", (1, 24, 40)),
        ((1, 24, 40), None, (1, 24, 40)),
        ((24, 40, 5), "yxt", (5, 24, 40)),
        ((5, 3, 24, 40), "TCYX", (5, 24, 40)),
        ((1, 5, 1, 24, 40), "TZCYX", (5, 24, 40)),
    ],
)
def test_axes(shape: tuple[int, ...], axes: str | None, expected: tuple[int, ...]) -> None:
    video = open_video(np.zeros(shape, np.uint8), axes=axes)
    assert video.shape == expected
    assert video.frame(expected[0] - 1).shape == (24, 40, 3)


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((24, 40, 3), None, "axes='YXC'"),
        ((5, 4, 24, 40), "TZYX", "T and Z are both longer than 1.*`z`"),
        ((5, 6, 24, 40), None, "Say what the axes are"),
        ((0, 24, 40), None, "nothing in it"),
        ((24, 40), "TYX", "names 3 axes"),
        ((5, 24, 40), "TYY", "must hold Y and X"),
    ],
)
def test_axes_refused(shape: tuple[int, ...], axes: str | None, message: str) -> None:
    with pytest.raises((UsageError, VideoError), match=message):
        open_video(np.zeros(shape, np.uint8), axes=axes)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((4, 16, 20)), {"contrast_limits": 5}, r"contrast_limits is 5; it must be two numbers"),
        (
            np.zeros((4, 2, 16, 20)),
            {"axes": "TCYX", "channel": "GFP"},
            "channel is 'GFP'; it must be a whole",
        ),
        (np.zeros((4, 2, 16, 20)), {"axes": "TZYX", "z": 1.0}, "z is 1.0; it must be a whole number"),
        (torch.zeros((4, 16, 20)), {}, r"give a numpy array, such as array.numpy\(\)"),
        (np.zeros((4, 2, 16, 20)), {"axes": "QQYX"}, r"Q is an axis that the file does not name"),
    ],
)
def test_values_that_cannot_be_used(array, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_video(array, **options)


def test_an_array_of_unknown_length_says_how_to_know_it() -> None:
    stack = da.from_array(np.ones((6, 16, 20), np.uint8), chunks=(2, -1, -1))
    with pytest.raises(VideoError, match=r"compute_chunk_sizes\(\)"):
        open_video(stack[stack.mean(axis=(1, 2)) > 0])


def test_plane_of_an_array_may_be_picked() -> None:
    stack = np.random.default_rng(1).integers(0, 255, (5, 4, 24, 40), dtype=np.uint8)
    np.testing.assert_array_equal(open_video(stack, axes="TZYX", z=3).raw(2), stack[2, 3])


def test_complex_pixels_and_other_objects_are_refused() -> None:
    with pytest.raises(VideoError, match="complex64"):
        open_video(np.zeros((3, 16, 16), np.complex64))
    with pytest.raises(UsageError, match="A list cannot be opened"):
        open_video([1, 2])


def test_frame_index_outside() -> None:
    video = open_video(np.zeros((3, 16, 16), np.uint8))
    for index in (-1, 3):
        with pytest.raises(VideoError, match=f"no frame {index} .* 0 to 2"):
            video.frame(index)
    with pytest.raises(UsageError, match="whole number"):
        video.frame(0.5)  # type: ignore[arg-type]


def test_frames_may_be_changed_by_the_caller(clip: np.ndarray) -> None:
    original = clip.copy()
    video = open_video(clip)
    video.frame(0)[:] = 0
    video.raw(1)[:] = 0
    np.testing.assert_array_equal(clip, original)


def test_closed_video_can_be_reopened(clip: np.ndarray) -> None:
    with open_video(clip) as video:
        assert open_video(video) is video
    video.close()
    with pytest.raises(VideoError, match="closed"):
        video.frame(0)
    np.testing.assert_array_equal(video.reopen().frame(2), clip[2])


@pytest.mark.parametrize(("frames_per_chunk", "computed"), [(5, 4), (1, 20)])
def test_dask_chunks_are_computed_once(frames_per_chunk: int, computed: int) -> None:
    blocks = []

    def block(block_info=None) -> np.ndarray:
        place = block_info[None]["array-location"]
        blocks.append(place[0])
        return np.zeros([stop - start for start, stop in place], np.uint8)

    array = da.map_blocks(
        block, chunks=((frames_per_chunk,) * (20 // frames_per_chunk), (16,), (20,)), dtype=np.uint8
    )
    blocks.clear()
    video = open_video(array)
    for index in range(20):
        video.frame(index)
    assert len(blocks) == computed
    assert len(set(blocks)) == computed


def test_of_huge_chunks_single_frames_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_surgsam2.video.arrays.LARGEST_BLOCK", 100)
    asked = []

    class Chunked(OnlyFrames):
        chunks = (10, 16, 20)

        def __getitem__(self, index: int) -> np.ndarray:
            asked.append(index)
            return super().__getitem__(index)

    open_video(Chunked(np.zeros((20, 16, 20), np.uint8))).frame(7)
    assert asked == [7]


def test_errors_of_arrays_become_ours() -> None:
    class Broken(OnlyFrames):
        def __getitem__(self, index: int) -> np.ndarray:
            raise RuntimeError("disk gone")

    video = open_video(Broken(np.zeros((3, 16, 16), np.uint8)))
    with pytest.raises(VideoError, match="Frame 1 of 'array' cannot be read: disk gone"):
        video.frame(1)


def test_zarr_groups(tmp_path: Path, clip: np.ndarray) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    with pytest.raises(VideoError, match="no array in it"):
        open_video(tmp_path / "a.zarr")
    group.create_array("inner/raw", data=clip)
    np.testing.assert_array_equal(open_video(tmp_path / "a.zarr").frame(3), clip[3])
    group.create_array("more", data=clip)
    with pytest.raises(VideoError, match=r"holds 2 arrays.*inner/raw' .*more"):
        open_video(tmp_path / "a.zarr")
    np.testing.assert_array_equal(open_video(tmp_path / "a.zarr" / "more").frame(3), clip[3])
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(VideoError, match="cannot be opened as zarr"):
        open_video(tmp_path / "empty.zarr")


def test_zarr_dimension_names(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a.zarr", shape=(2, 5, 16, 20), dtype="u1", dimension_names=["c", "t", "y", "x"]
    )
    assert open_video(tmp_path / "a.zarr").shape == (5, 16, 20)


def test_the_dimension_names_that_xarray_writes_into_zarr_2(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(16, 20, 5), dtype="u1", zarr_format=2)
    array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x", "time"]
    assert open_video(tmp_path / "a.zarr").shape == (5, 16, 20)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"No file or folder at '.*nothing.mp4'; check the path"):
        open_video(tmp_path / "nothing.mp4")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(VideoError, match="is empty"):
        open_video(str(tmp_path / "empty.tif"))
    (tmp_path / "notes.txt").write_text("some words\n" * 50)
    with pytest.raises(VideoError, match=r"of no known kind. Supported are"):
        open_video(tmp_path / "notes.txt")
    (tmp_path / "bad.tif").write_bytes(b"no TIFF at all")
    with pytest.raises(VideoError, match="cannot be opened as TIFF"):
        open_video(tmp_path / "bad.tif")


def test_files_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1234")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(VideoError, match=r"Permission denied. Check that"):
        open_video(path)


def test_tiff_without_its_codec_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _tiff(tmp_path / "a.tif", np.zeros((5, 16, 16), np.uint8), compression="zlib")

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    monkeypatch.setattr(tifffile.TiffFrame, "asarray", refuse)
    with pytest.raises(VideoError, match="pip install imagecodecs"):
        open_video(path)


def test_tiff_with_several_series_says_so(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.zeros((4, 16, 20), np.uint8), photometric="minisblack")
        writer.write(np.zeros((3, 32, 20), np.uint8), photometric="minisblack")
    video = open_video(tmp_path / "a.tif")
    assert video.shape == (4, 16, 20)
    assert "2 image series" in video.notes[0]

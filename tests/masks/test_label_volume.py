"""What a LabelVolume promises while nothing goes wrong, and what it refuses."""

from __future__ import annotations

import errno
import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import LabelVolume, export, read_labels

SHAPE = (5, 12, 16)
OUTPUTS = ["masks.tif", "masks.zarr", "masks"]


def labels_of(frame: int) -> np.ndarray:
    labels = np.zeros(SHAPE[1:], dtype=np.uint8)
    labels[2:6, frame : frame + 4] = 1
    labels[8:11, 3:9] = 2
    return labels


EXPECTED = np.stack([labels_of(t) for t in range(SHAPE[0])])


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_appears_only_when_finished(tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    volume = LabelVolume.create(output, SHAPE, 2)
    for t in (2, 3, 4, 1, 0):
        volume[t] = labels_of(t)
        assert not output.exists()
    assert volume.finish() == output
    assert [f.name for f in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(np.asarray(read_labels(output)), EXPECTED)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such names")
@pytest.mark.parametrize("name", ["well::1.tif", "well::1.zarr", "day::1/masks.zarr"])
def test_names_that_zarr_would_take_for_addresses(tmp_path: Path, name: str) -> None:
    """It would look for them in the folder of the name's first half, which may be the user's."""
    (tmp_path / "well").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for resume in (False, True):
        with LabelVolume.create(tmp_path / name, SHAPE, 1, resume=resume) as volume:
            volume[int(resume)] = np.ones(SHAPE[1:], int)
    with LabelVolume.create(tmp_path / name, SHAPE, 1, resume=True) as volume:
        volume.finish()
    assert np.asarray(read_labels(tmp_path / name)).any(axis=(1, 2)).tolist() == [True, True] + [False] * 3
    assert not list((tmp_path / "well").iterdir())


@pytest.mark.parametrize("name", [None, "masks.zarr"])
def test_reads_back_and_tells_what_is_done(tmp_path: Path, name: str | None) -> None:
    with LabelVolume.create(name and tmp_path / name, SHAPE, 2) as volume:
        volume[3] = labels_of(3)
        np.testing.assert_array_equal(volume[3], EXPECTED[3])
        assert not volume[0].any()
        assert volume.done.tolist() == [False, False, False, True, False]
        assert (volume.shape, volume.ndim, len(volume), volume.dtype) == (SHAPE, 3, 5, np.uint8)


def test_frames_never_written_are_background(tmp_path: Path) -> None:
    volume = LabelVolume.create(tmp_path / "masks.tif", SHAPE, 2)
    volume[1] = labels_of(1)
    result = np.asarray(read_labels(volume.finish()))
    np.testing.assert_array_equal(result[1], EXPECTED[1])
    assert not result[[0, 2, 3, 4]].any()


def test_a_frame_can_be_written_again(tmp_path: Path) -> None:
    volume = LabelVolume.create(tmp_path / "masks.zarr", SHAPE, 2)
    volume[1] = labels_of(0)
    volume[1] = labels_of(1)
    assert volume.done[1]
    np.testing.assert_array_equal(read_labels(volume.finish())[1], EXPECTED[1])


@pytest.mark.parametrize(("max_id", "dtype"), [(255, "uint8"), (256, "uint16"), (65536, "uint32")])
def test_dtype_follows_the_largest_id(tmp_path: Path, max_id: int, dtype: str) -> None:
    volume = LabelVolume.create(tmp_path / "masks.zarr", SHAPE, max_id)
    volume[0] = np.full(SHAPE[1:], max_id)
    result = read_labels(volume.finish())
    assert result.dtype == dtype
    assert result[0].max() == max_id


def test_a_finished_zarr_holds_one_compressed_frame_per_chunk_and_nothing_else(tmp_path: Path) -> None:
    volume = LabelVolume.create(tmp_path / "masks.zarr", SHAPE, 2)
    volume[0] = labels_of(0)
    array = zarr.open_array(volume.finish(), mode="r")
    assert array.chunks == (1, 12, 16)
    assert array.metadata.dimension_names == ("t", "y", "x")
    assert len(array.compressors) == 1
    assert sorted(f.name for f in (tmp_path / "masks.zarr").iterdir()) == ["c", "zarr.json"]


def test_without_output_a_small_result_is_numpy() -> None:
    volume = LabelVolume.create(None, SHAPE, 2)
    volume[2] = labels_of(2)
    result = volume.finish()
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result[2], EXPECTED[2])
    assert volume.state_path is None


def test_without_output_a_large_result_is_a_zarr_that_goes_with_its_last_user() -> None:
    volume = LabelVolume.create(None, SHAPE, 2, in_memory_bytes=100)
    volume[2] = labels_of(2)
    result = volume.finish()
    folder = Path(result.store.root)
    np.testing.assert_array_equal(result[2], EXPECTED[2])
    assert folder.exists()
    del volume, result
    gc.collect()
    assert not folder.parent.exists()


@pytest.mark.parametrize(
    ("frame", "labels", "message"),
    [
        (5, labels_of(0), "Frame 5 is outside.* 0 to 4"),
        (-1, labels_of(0), "Frame -1"),
        (0, np.zeros((16, 12), np.uint8), r"shape \(16, 12\); it must be \(12, 16\)"),
        (0, np.zeros(SHAPE[1:], np.float32), "float32; labels must be integers"),
        (0, np.full(SHAPE[1:], 300), "label 300; .*0 to 255"),
        (0, np.full(SHAPE[1:], -1), "label -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(frame: int, labels: np.ndarray, message: str) -> None:
    volume = LabelVolume.create(None, SHAPE, 2)
    with pytest.raises(UsageError, match=message):
        volume[frame] = labels
    assert not volume.done.any()


@pytest.mark.parametrize(
    ("output", "shape", "max_id", "message"),
    [
        ("masks.mp4", SHAPE, 2, r"\.tif or \.tiff, as \.zarr, as \.json \(COCO\), or as a folder"),
        ("/", SHAPE, 2, "has no name"),
        ("long" * 60, SHAPE, 2, "takes 240 bytes; it may take 220"),
        (None, (5, 12), 2, r"\(T, Y, X\)"),
        (None, (0, 12, 16), 2, r"\(T, Y, X\)"),
        (None, SHAPE, 2**32, "ids go from 1"),
        ("masks", SHAPE, 256, "palette PNGs hold ids up to 255"),
    ],
)
def test_arguments_that_cannot_be_used(
    tmp_path: Path, output: str | None, shape: tuple[int, int, int], max_id: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        LabelVolume.create(output and str(tmp_path / output), shape, max_id)
    assert not list(tmp_path.iterdir())


def test_a_separator_at_the_end_asks_for_a_folder(tmp_path: Path) -> None:
    volume = LabelVolume.create(f"{tmp_path}/run.2/", SHAPE, 2)
    assert sorted(f.name for f in volume.finish().iterdir())[-1] == "00004.png"


def test_a_closed_volume_says_so(tmp_path: Path) -> None:
    volume = LabelVolume.create(tmp_path / "masks.tif", SHAPE, 2)
    volume.close()
    volume.close()
    with pytest.raises(UsageError, match="closed"):
        volume[0] = labels_of(0)


class TestExistingOutput:
    @pytest.mark.parametrize("name", OUTPUTS)
    def test_is_not_replaced_unless_asked(self, tmp_path: Path, name: str) -> None:
        export(tmp_path / name, EXPECTED)
        with pytest.raises(OutputError, match=r"exists already.*--force"):
            LabelVolume.create(tmp_path / name, SHAPE, 2)
        assert [f.name for f in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("name", OUTPUTS)
    def test_stays_until_the_new_one_is_complete(self, tmp_path: Path, name: str) -> None:
        output = export(tmp_path / name, EXPECTED)
        volume = LabelVolume.create(output, SHAPE, 2, overwrite=True)
        volume[0] = np.full(SHAPE[1:], 7)
        np.testing.assert_array_equal(np.asarray(read_labels(output)), EXPECTED)
        volume.finish()
        assert np.asarray(read_labels(output)[0]).max() == 7
        assert [f.name for f in tmp_path.iterdir()] == [name]

    def test_an_empty_folder_is_no_output(self, tmp_path: Path) -> None:
        (tmp_path / "masks").mkdir()
        LabelVolume.create(tmp_path / "masks", SHAPE, 2).finish()
        assert len(list((tmp_path / "masks").iterdir())) == 5

    @pytest.mark.parametrize(("name", "content"), [("Documents", "thesis.txt"), ("data.zarr", "thesis.txt")])
    def test_a_folder_of_other_things_is_never_replaced(
        self, tmp_path: Path, name: str, content: str
    ) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text("years of work")
        with pytest.raises(OutputError, match="not replaced, not even with --force"):
            LabelVolume.create(tmp_path / name, SHAPE, 2, overwrite=True)
        assert (tmp_path / name / content).read_text() == "years of work"

    @pytest.mark.parametrize("version", [2, 3])
    def test_nor_is_a_zarr_group_which_may_hold_anything(self, tmp_path: Path, version: int) -> None:
        path = tmp_path / "study.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=version)
        group.create_array("0", data=np.ones(SHAPE, np.uint8))
        with pytest.raises(OutputError, match=r"not replaced.*it is a zarr group"):
            LabelVolume.create(path, SHAPE, 2, overwrite=True)
        assert zarr.open_array(path / "0", mode="r")[:].all()
        array = tmp_path / "array.zarr"
        zarr.create_array(array, shape=(2,), dtype="u1", zarr_format=version)
        LabelVolume.create(array, SHAPE, 2, overwrite=True).finish()
        assert zarr.open_array(array, mode="r").shape == SHAPE

    def test_what_file_managers_leave_in_folders_is_in_nobodys_way(self, tmp_path: Path) -> None:
        output = export(tmp_path / "masks", EXPECTED)
        (output / ".DS_Store").write_bytes(b"icons")
        (output / "._00000.png").write_bytes(b"more of them")
        export(output, np.full(SHAPE, 3, np.uint8), overwrite=True)
        assert np.asarray(read_labels(output)[0]).max() == 3

    @pytest.mark.parametrize("name", [".git", ".env", "._more"])
    def test_other_hidden_things_are_never_removed(self, tmp_path: Path, name: str) -> None:
        output = export(tmp_path / "masks", EXPECTED)
        (output / name).mkdir()
        with pytest.raises(OutputError, match="not even with --force"):
            export(output, EXPECTED, overwrite=True)
        assert (output / name).is_dir()

    def test_photographs_are_no_label_pngs(self, tmp_path: Path) -> None:
        from PIL import Image

        (tmp_path / "masks").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "masks" / "00000.png")
        with pytest.raises(OutputError, match=r"00000\.png"):
            export(tmp_path / "masks", EXPECTED, overwrite=True)

    @pytest.mark.parametrize(("name", "is_folder"), [("m.tif", True), ("m.zarr", False), ("m", False)])
    def test_a_folder_is_no_file_and_a_file_no_folder(
        self, tmp_path: Path, name: str, is_folder: bool
    ) -> None:
        if is_folder:
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text("text")
        with pytest.raises(OutputError, match="is a f"):
            LabelVolume.create(tmp_path / name, SHAPE, 2, overwrite=True)

    def test_a_folder_goes_back_if_the_new_one_cannot_come(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = export(tmp_path / "masks.zarr", EXPECTED)
        rename = Path.rename

        def fail_for_the_new_one(path: Path, target: Path) -> Path:
            if path.name == "labels":
                raise OSError(errno.EIO, "Input/output error")
            return rename(path, target)

        volume = LabelVolume.create(output, SHAPE, 2, overwrite=True)
        monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
        with pytest.raises(OutputError, match="Input/output error"):
            volume.finish()
        monkeypatch.undo()
        np.testing.assert_array_equal(read_labels(output)[:], EXPECTED)
        volume.finish()
        assert not read_labels(output)[:].any()


class TestFileSystemTrouble:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="does not exist; create it first"):
            LabelVolume.create(tmp_path / "none" / "masks.tif", SHAPE, 2)

    def test_unwritable_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(OutputError, match=r"Permission denied.*permissions"):
            LabelVolume.create(tmp_path / "masks.tif", SHAPE, 2)

    def test_disk_full_while_writing_a_frame(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        volume = LabelVolume.create(tmp_path / "masks.zarr", SHAPE, 2)
        volume[0] = labels_of(0)
        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", no_space)
            with pytest.raises(OutputError, match=r"No space left on the disk of .*--resume"):
                volume[1] = labels_of(1)
        assert volume.done.tolist() == [True, False, False, False, False]
        volume.close()
        resumed = LabelVolume.create(tmp_path / "masks.zarr", SHAPE, 2, resume=True)
        assert resumed.done[0]
        resumed.close()

    @pytest.mark.parametrize("name", ["masks.tif", "masks"])
    def test_disk_full_while_finishing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        import tifffile
        from PIL import Image

        with LabelVolume.create(tmp_path / name, SHAPE, 2) as volume:
            volume[0] = labels_of(0)
            with monkeypatch.context() as patch:
                patch.setattr(tifffile, "imwrite", no_space)
                patch.setattr(Image.Image, "save", no_space)
                with pytest.raises(OutputError, match="No space left"):
                    volume.finish()
        volume = LabelVolume.create(tmp_path / name, SHAPE, 2, resume=True)
        np.testing.assert_array_equal(np.asarray(read_labels(volume.finish())[0]), EXPECTED[0])
        assert [f.name for f in tmp_path.iterdir()] == [name]

    def test_disk_full_while_exporting(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zarr.Array, "__setitem__", no_space)
        with pytest.raises(OutputError, match="No space left"):
            export(tmp_path / "masks.zarr", EXPECTED)
        assert not list(tmp_path.iterdir())


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_importing_masks_needs_numpy_only() -> None:
    heavy = ["zarr", "tifffile", "av", "dask", "PIL", "skimage", "scipy", "torch", "napari", "qtpy"]
    code = f"import sys, napari_surgsam2.masks; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

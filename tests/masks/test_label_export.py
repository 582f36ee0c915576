"""Label files: what other programs find in them, and that they appear whole or not at all."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import export as export_labels
from napari_surgsam2.masks import (
    object_color,
    read_labels,
    voc_palette,
    write_davis,
    write_tiff,
    write_zarr,
)

LABELS = (np.arange(3 * 20 * 30) % 7).reshape(3, 20, 30).astype(np.uint8)


class TestPalette:
    def test_is_the_pascal_voc_map(self) -> None:
        known = {
            0: (0, 0, 0),
            1: (128, 0, 0),
            2: (0, 128, 0),
            3: (128, 128, 0),
            4: (0, 0, 128),
            8: (64, 0, 0),
        }
        palette = voc_palette()
        assert palette.shape == (256, 3)
        assert {i: tuple(palette[i].tolist()) for i in known} == known
        assert palette[255].tolist() == [224, 224, 192]
        assert len(np.unique(palette, axis=0)) == 256

    def test_large_ids_have_colors_too(self) -> None:
        assert object_color(3) == (128, 128, 0)
        assert object_color(256) == object_color(1)
        assert object_color(0) == (0, 0, 0)


class TestTiff:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_is_a_compressed_imagej_time_series(self, tmp_path: Path, dtype: Any) -> None:
        path = write_tiff(tmp_path / "masks.tif", LABELS.astype(dtype), fps=25)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_imagej
            assert tiff.series[0].axes == "TYX"
            assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
            assert tiff.imagej_metadata is not None
            assert tiff.imagej_metadata["frames"] == 3
            assert tiff.imagej_metadata["fps"] == 25
            assert tiff.series[0].dtype == dtype
            np.testing.assert_array_equal(tiff.asarray(), LABELS)

    def test_ids_above_16_bits_are_ome(self, tmp_path: Path) -> None:
        labels = LABELS.astype(np.uint32) + 70_000
        path = write_tiff(tmp_path / "masks.tif", labels, fps=10)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_ome
            assert tiff.series[0].axes == "TYX"
            np.testing.assert_array_equal(tiff.asarray(), labels)

    def test_beyond_four_gigabytes_it_is_a_big_ome_tiff(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As an attribute of the package, `export` is the function.
        module = importlib.import_module("napari_surgsam2.masks.export")
        monkeypatch.setattr(module, "_CLASSIC_TIFF_BYTES", 1000)
        with tifffile.TiffFile(write_tiff(tmp_path / "masks.tif", LABELS)) as tiff:
            assert tiff.is_bigtiff
            assert tiff.is_ome
            np.testing.assert_array_equal(tiff.asarray(), LABELS)

    def test_fps_must_be_positive(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="fps is 0"):
            write_tiff(tmp_path / "masks.tif", LABELS, fps=0)
        assert not list(tmp_path.iterdir())


class TestDavis:
    def test_pngs_carry_the_indices_and_the_palette(self, tmp_path: Path) -> None:
        folder = write_davis(tmp_path / "masks", LABELS)
        assert sorted(f.name for f in folder.iterdir()) == ["00000.png", "00001.png", "00002.png"]
        with Image.open(folder / "00001.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), LABELS[1])
            palette = image.getpalette()
            assert palette is not None
            np.testing.assert_array_equal(np.array(palette).reshape(-1, 3), voc_palette())

    def test_frames_may_be_named(self, tmp_path: Path) -> None:
        folder = write_davis(tmp_path / "masks", LABELS, ["a", "c", "b"])
        assert sorted(f.name for f in folder.iterdir()) == ["a.png", "b.png", "c.png"]

    @pytest.mark.parametrize("names", [["a", "b"], ["a", "a", "b"], ["a", "../b", "c"], ["a", "", "c"]])
    def test_names_must_be_file_names_one_per_frame(self, tmp_path: Path, names: list[str]) -> None:
        with pytest.raises(UsageError, match="name"):
            write_davis(tmp_path / "masks", LABELS, names)
        assert not list(tmp_path.iterdir())

    def test_ids_above_255_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"Frame 0 has the object id 301; .*\.tif or \.zarr"):
            write_davis(tmp_path / "masks", np.full((2, 4, 4), 301))
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["masks.tif", "masks.TIFF", "masks.zarr", "masks"])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_any_array_of_integers_comes_back(tmp_path: Path, name: str, dtype: Any) -> None:
    labels = LABELS.astype(dtype)
    path = export_labels(tmp_path / name, labels)
    opened = read_labels(path)
    assert opened.dtype == np.uint8
    assert opened.shape == LABELS.shape
    np.testing.assert_array_equal(np.asarray(opened), labels)
    np.testing.assert_array_equal(np.asarray(opened[1]), labels[1])


def test_zarr_arrays_are_written_frame_by_frame(tmp_path: Path) -> None:
    source = zarr.open_array(write_zarr(tmp_path / "a.zarr", LABELS), mode="r")
    np.testing.assert_array_equal(np.asarray(read_labels(export_labels(tmp_path / "b.tif", source))), LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[0], r"shape \(20, 30\); it must be \(T, Y, X\)"),
        (LABELS.astype(float), "float64; they must be integers"),
        (LABELS.astype(int) - 1, "contain -1"),
        (LABELS.astype(int) + 2**33, "cannot be stored"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export_labels(tmp_path / "masks.zarr", labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["masks.tif", "masks.zarr", "masks"])
def test_an_existing_file_is_replaced_only_if_asked_and_only_by_a_whole_one(
    tmp_path: Path, name: str
) -> None:
    path = export_labels(tmp_path / name, LABELS)
    with pytest.raises(OutputError, match=r"exists already.*--force"):
        export_labels(path, LABELS)

    class Breaking:
        shape, dtype = LABELS.shape, LABELS.dtype

        def __getitem__(self, t: int) -> np.ndarray:
            if t == 2:
                raise RuntimeError("the source broke")
            return LABELS[t] * 0

    with pytest.raises(RuntimeError, match="the source broke"):
        export_labels(path, Breaking(), overwrite=True)
    np.testing.assert_array_equal(np.asarray(read_labels(path)), LABELS)
    export_labels(path, LABELS * 0, overwrite=True)
    assert not np.asarray(read_labels(path)).any()
    assert [f.name for f in tmp_path.iterdir()] == [name]


class TestReading:
    def test_a_stack_of_one_frame_stays_a_stack(self, tmp_path: Path) -> None:
        assert read_labels(write_tiff(tmp_path / "a.tif", LABELS[:1])).shape == (1, 20, 30)
        assert read_labels(write_tiff(tmp_path / "b.tif", LABELS[:1].astype(np.uint32))).shape == (1, 20, 30)

    @pytest.mark.parametrize("imagej", [False, True])
    def test_a_single_image_is_two_dimensional(self, tmp_path: Path, imagej: bool) -> None:
        tifffile.imwrite(tmp_path / "mask.tif", LABELS[0], imagej=imagej)
        Image.fromarray(LABELS[0]).save(tmp_path / "mask.png")
        for name in ("mask.tif", "mask.png"):
            mask = read_labels(tmp_path / name)
            assert isinstance(mask, np.ndarray)
            np.testing.assert_array_equal(mask, LABELS[0])

    def test_black_and_white_and_16_bit_pngs(self, tmp_path: Path) -> None:
        Image.fromarray(LABELS[0] > 3).save(tmp_path / "bw.png")
        Image.fromarray(LABELS[0].astype(np.uint16) + 300).save(tmp_path / "deep.png")
        np.testing.assert_array_equal(read_labels(tmp_path / "bw.png"), (LABELS[0] > 3).astype(np.uint8))
        assert read_labels(tmp_path / "deep.png").dtype == np.uint16
        assert read_labels(tmp_path / "deep.png").max() == 306

    @pytest.mark.parametrize("options", [{"imagej": True}, {"photometric": "minisblack"}, {"bigtiff": True}])
    def test_uncompressed_stacks_of_other_programs(self, tmp_path: Path, options: dict[str, Any]) -> None:
        labels = np.tile(LABELS, (2, 1, 1)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "stack.tif", labels, **options)
        opened = read_labels(tmp_path / "stack.tif")
        assert opened.dtype == np.dtype(np.uint16)
        assert opened.chunks[0] == (1,) * 6
        np.testing.assert_array_equal(np.asarray(opened), labels)

    def test_a_folder_is_in_natural_order(self, tmp_path: Path) -> None:
        for value in (2, 10, 1):
            Image.fromarray(np.full((3, 4), value, np.uint8)).save(tmp_path / f"frame{value}.png")
        (tmp_path / "._frame1.png").write_bytes(b"what macOS leaves on foreign disks")
        assert np.asarray(read_labels(tmp_path))[:, 0, 0].tolist() == [1, 2, 10]

    def test_a_group_with_labels(self, tmp_path: Path) -> None:
        group = zarr.create_group(str(tmp_path / "run.zarr"))
        group.create_array("labels", data=LABELS)
        np.testing.assert_array_equal(read_labels(tmp_path / "run.zarr")[:], LABELS)

    def test_what_holds_no_labels(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "broken.tif").write_bytes(b"no TIFF")
        (tmp_path / "notes.txt").touch()
        tifffile.imwrite(tmp_path / "float.tif", np.zeros((3, 4, 5), np.float32), photometric="minisblack")
        Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
        tifffile.imwrite(tmp_path / "photo.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
        zarr.create_group(str(tmp_path / "other.zarr"))
        for name, message in {
            "none.tif": "do not exist",
            "empty": "contains no PNGs",
            "broken.tif": "cannot be read",
            "notes.txt": r"'\.txt'",
            "float.tif": "holds float32 values",
            "photo.png": r"shape \(4, 4, 3\); labels are integers of shape \(Y, X\)",
            "photo.tif": "are a colour picture",
            "other.zarr": "no array 'labels'",
        }.items():
            with pytest.raises(UsageError, match=message):
                read_labels(tmp_path / name)

    def test_frames_of_different_sizes(self, tmp_path: Path) -> None:
        for t, size in enumerate([4, 5]):
            Image.fromarray(np.zeros((size, 4), np.uint8)).save(tmp_path / f"{t}.png")
        with pytest.raises(UsageError, match=r"1\.png has shape \(5, 4\); it must be \(4, 4\)"):
            np.asarray(read_labels(tmp_path))

"""Measurements against values worked out by hand, and the table they come in."""

from __future__ import annotations

import csv
import math

import dask.array as da
import numpy as np
import pytest
import skimage.measure
import zarr

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import measure
from napari_surgsam2.video import open_video

# Object 2 is a rectangle of 4 x 6 pixels, object 5 a square of 3 x 3 in frames 0 and 2.
LABELS = np.zeros((3, 20, 30), dtype=np.uint8)
LABELS[0, 2:6, 3:9] = 2
LABELS[1, 3:7, 3:9] = 2
LABELS[2, 4:8, 3:9] = 2
LABELS[[0, 2], 10:13, 20:23] = 5


def disc(radius, height, width):
    """A disc of `radius` in units of length, drawn in pixels of `height` and `width`."""
    rows, columns = math.ceil(radius / height) + 2, math.ceil(radius / width) + 2
    y, x = np.ogrid[-rows : rows + 1, -columns : columns + 1]
    return (y * height) ** 2 + (x * width) ** 2 <= radius**2


def row(table, number):
    return {name: column[number].item() for name, column in table.columns.items()}


class TestRows:
    def test_one_for_each_object_and_frame_where_it_is_present(self):
        table = measure(LABELS)
        assert len(table) == 5
        assert table.columns["frame"].tolist() == [0, 0, 1, 2, 2]
        assert table.columns["object_id"].tolist() == [2, 5, 2, 2, 5]

    def test_pixels_of_size_one(self):
        assert row(measure(LABELS), 0) == {
            "frame": 0,
            "time": 0,
            "object_id": 2,
            "name": "object 2",
            "area": 24,
            "centroid_y": 3.5,
            "centroid_x": 5.5,
            "bbox_y0": 2,
            "bbox_x0": 3,
            "bbox_y1": 6,
            "bbox_x1": 9,
            "perimeter": 2 * (3 + 5),
            # The second moment of n pixel centres in a row is (n² - 1) / 12.
            "eccentricity": pytest.approx(math.sqrt(1 - (4**2 - 1) / (6**2 - 1))),
            "mean_intensity": pytest.approx(math.nan, nan_ok=True),
            "confidence": pytest.approx(math.nan, nan_ok=True),
        }

    def test_units_and_names(self):
        table = measure(
            LABELS, spacing=(0.5, 2), frame_interval=0.04, names={2: "forceps"}, confidence={2: {1: 0.75}}
        )
        second = row(table, 2)
        expected = {
            "time": pytest.approx(0.04),
            "name": "forceps",
            "area": 24,
            "centroid_y": 4.5 * 0.5,
            "centroid_x": 5.5 * 2,
            "bbox_y0": 1.5,
            "bbox_x0": 6,
            "bbox_y1": 3.5,
            "bbox_x1": 18,
            "confidence": 0.75,
        }
        assert {name: second[name] for name in expected} == expected
        assert table.columns["name"].tolist() == ["forceps", "object 5", "forceps", "forceps", "object 5"]
        assert np.isnan(table.columns["confidence"]).tolist() == [True, True, False, True, True]

    def test_eccentricity_is_that_of_the_true_shape(self):
        mask = disc(80, 2, 0.5)[np.newaxis].astype(np.uint8)
        assert measure(mask, spacing=(2, 0.5)).columns["eccentricity"][0] < 0.15
        assert measure(mask).columns["eccentricity"][0] > 0.9

    def test_pieces_of_an_object_are_one_row(self):
        labels = np.zeros((1, 5, 9), dtype=np.uint8)
        labels[0, 1, [1, 7]] = 1
        assert row(measure(labels), 0)["centroid_x"] == 4
        assert len(measure(labels)) == 1

    def test_some_objects_and_frames_only(self):
        table = measure(LABELS, object_ids=[5, 9], frames=[2, 1])
        assert [(row(table, n)["frame"], row(table, n)["object_id"]) for n in range(len(table))] == [(2, 5)]

    @pytest.mark.parametrize("convert", [zarr.array, da.from_array, lambda a: a.astype(np.int64)])
    def test_any_array_will_do(self, convert):
        table = measure(convert(LABELS))
        np.testing.assert_array_equal(table.columns["area"], [24, 9, 24, 24, 9])

    def test_booleans_are_object_1(self):
        assert measure(LABELS == 2).columns["object_id"].tolist() == [1, 1, 1]

    def test_large_ids_cost_no_memory(self):
        labels = np.where(LABELS > 0, LABELS.astype(np.uint32) + 4_000_000_000, 0)
        table = measure(labels)
        assert table.columns["object_id"].tolist() == [4_000_000_000 + i for i in (2, 5, 2, 2, 5)]
        np.testing.assert_array_equal(table.columns["area"], [24, 9, 24, 24, 9])

    def test_no_objects_no_rows(self, tmp_path):
        table = measure(LABELS * 0)
        assert len(table) == 0
        assert table.columns["area"].dtype == np.float64
        assert table.summary() == {}
        assert len(table.to_csv(tmp_path / "a.csv").read_text().splitlines()) == 1


class TestIntensity:
    def test_is_of_native_pixels(self):
        pixels = np.full(LABELS.shape, 1000, dtype=np.uint16)
        pixels[0, 2:6, 3:6] = 40_000
        means = measure(LABELS, open_video(pixels)).columns["mean_intensity"]
        assert means.tolist() == [20_500, 1000, 1000, 1000, 1000]

    def test_is_the_mean_over_colours_without_alpha(self):
        pixels = np.zeros((*LABELS.shape, 4), dtype=np.uint8)
        pixels[...] = (10, 20, 60, 255)
        assert measure(LABELS, open_video(pixels)).columns["mean_intensity"].tolist() == [30] * 5
        assert measure(LABELS, open_video(pixels[..., :3])).columns["mean_intensity"].tolist() == [30] * 5

    def test_borders_without_a_value_do_not_count(self):
        pixels = np.full(LABELS.shape, 30, np.float32)
        pixels[:, ::2] = np.nan
        assert measure(LABELS, open_video(pixels)).columns["mean_intensity"].tolist() == [30] * 5

    def test_half_precision_does_not_overflow(self):
        pixels = np.full(LABELS.shape, 60_000, dtype=np.float16)
        assert measure(LABELS, open_video(pixels)).columns["mean_intensity"][0] == np.float16(60_000)

    def test_the_video_must_be_that_of_the_labels(self):
        with pytest.raises(UsageError, match=r"shape \(3, 20, 30\), the video \(3, 20, 31\)"):
            measure(LABELS, open_video(np.zeros((3, 20, 31), np.uint8)))


class TestPerimeter:
    def test_of_square_pixels_is_that_of_scikit_image(self):
        labels = np.random.default_rng(0).random((1, 40, 50)) < 0.6
        perimeter = measure(labels, spacing=(0.5, 0.5)).columns["perimeter"]
        assert perimeter.tolist() == [0.5 * skimage.measure.perimeter(labels[0])]

    @pytest.mark.parametrize("spacing", [(1, 1.01), (1, 1.5), (2, 1), (3, 1), (0.2, 0.5)])
    @pytest.mark.parametrize("pixels", [5, 15, 60])
    def test_of_a_disc_is_that_of_a_circle_whatever_the_pixels(self, spacing, pixels):
        radius = pixels * max(spacing)
        perimeter = measure(disc(radius, *spacing)[np.newaxis], spacing=spacing).columns["perimeter"][0]
        assert perimeter == pytest.approx(2 * math.pi * radius, rel=0.035)

    @pytest.mark.parametrize(("height", "tolerance"), [(5, 0.07), (15, 0.025), (60, 0.008)])
    def test_of_a_rectangle_is_the_sum_of_its_sides(self, height, tolerance):
        labels = np.zeros((1, height + 9, 2 * height + 9), dtype=bool)
        labels[0, 4:-5, 4:-5] = True
        perimeter = measure(labels, spacing=(0.5, 0.75)).columns["perimeter"][0]
        assert perimeter == pytest.approx(2 * (height * 0.5 + 2 * height * 0.75), rel=tolerance)

    def test_turns_and_grows_with_the_object(self):
        labels = np.tri(20, 30, 5, dtype=np.uint8)[np.newaxis]
        (upright,) = measure(labels, spacing=(1, 3)).columns["perimeter"]
        (turned,) = measure(labels.transpose(0, 2, 1), spacing=(30, 10)).columns["perimeter"]
        assert turned == pytest.approx(10 * upright)

    def test_of_one_pixel_is_that_of_its_edges(self):
        labels = np.ones((1, 1, 1), dtype=np.uint8)
        assert measure(labels, spacing=(2, 3)).columns["perimeter"].tolist() == [pytest.approx(10)]

    def test_of_two_pixels_with_a_gap_is_that_of_both(self):
        labels = np.array([[[1, 0, 1]]], dtype=np.uint8)
        assert measure(labels, spacing=(1, 1.5)).columns["perimeter"][0] == pytest.approx(10, rel=0.2)


class TestProgress:
    def test_is_told_after_each_frame(self):
        calls = []
        measure(LABELS, frames=[0, 2], progress=lambda *call: calls.append(call))
        assert calls == [(1, 2), (2, 2)]

    def test_what_it_raises_ends_the_reading(self):
        class Counting:
            shape, dtype, read = LABELS.shape, LABELS.dtype, 0

            def __getitem__(self, t):
                self.read += 1
                return LABELS[t]

        def stop(done, total):
            raise StopAsyncIteration

        labels = Counting()
        with pytest.raises(StopAsyncIteration):
            measure(labels, progress=stop)
        assert labels.read == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": [0, 3]}, "Frame 3 is outside the labels; their frames are 0 to 2"),
        ({"frames": [-1]}, "Frame -1 is outside"),
        ({"spacing": (1, 0)}, r"spacing is \(1\.0, 0\.0\); it must be 2 positive numbers"),
        ({"spacing": (1, 1, 1)}, "it must be 2 positive numbers"),
        ({"spacing": (1, math.nan)}, "it must be 2 positive numbers"),
        ({"frame_interval": -1}, r"frame_interval is -1\.0; it must be a positive number"),
    ],
)
def test_what_cannot_be_used_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        measure(LABELS, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[0], r"it must be \(T, Y, X\)"),
        (LABELS.astype(float), "labels must be integers"),
        (LABELS.astype(int) - 1, "has the label -1"),
    ],
)
def test_other_arrays_are_refused(labels, message):
    with pytest.raises(UsageError, match=message):
        measure(labels)


class TestCsv:
    def test_has_a_header_and_all_rows(self, tmp_path):
        table = measure(LABELS, names={2: 'forceps, "left"'}, confidence={2: {0: 0.5}})
        path = table.to_csv(tmp_path / "a.csv")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(table.columns)
        assert [r["area"] for r in rows] == ["24.0", "9.0", "24.0", "24.0", "9.0"]
        assert rows[0]["name"] == 'forceps, "left"'
        assert [r["confidence"] for r in rows] == ["0.5", "", "", "", ""]
        assert rows[3]["frame"] == "2"

    def test_replaces_a_file_only_if_asked(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("mine")
        with pytest.raises(OutputError, match="exists already"):
            measure(LABELS).to_csv(path)
        assert path.read_text() == "mine"
        measure(LABELS).to_csv(path, overwrite=True)
        assert path.read_text().startswith("frame,time,")
        assert list(tmp_path.iterdir()) == [path]

    def test_an_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupt(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr("napari_surgsam2.masks.measurements.csv.writer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measure(LABELS).to_csv(tmp_path / "a.csv")
        assert not list(tmp_path.iterdir())


def test_summary_says_what_there_is_to_say_of_each_object():
    labels = LABELS.copy()
    labels[2, 10:13, 22] = 0
    summary = measure(labels, spacing=(2, 2), names={5: "clip"}, confidence={2: {0: 0.5, 2: 1.0}}).summary()
    assert list(summary) == [2, 5]
    assert summary[5] == {
        "name": "clip",
        "frames": 2,
        "first_frame": 0,
        "last_frame": 2,
        "mean_area": (36 + 24) / 2,
        "min_area": 24,
        "max_area": 36,
        "mean_perimeter": ((4 + 4) + (4 + 2)),
        "mean_intensity": pytest.approx(math.nan, nan_ok=True),
        "mean_confidence": pytest.approx(math.nan, nan_ok=True),
    }
    assert summary[2]["mean_confidence"] == 0.75

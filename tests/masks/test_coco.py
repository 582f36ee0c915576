"""COCO JSON: what other programs find in it, what is read of theirs, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import LabelVolume, export, read_labels, write_coco
from napari_surgsam2.masks.coco import (
    compress_counts,
    counts_from_mask,
    decompress_counts,
    mask_from_counts,
)

# Two objects in three frames of 5 x 7 pixels; the second one is an L, absent in frame 1.
LABELS = np.zeros((3, 5, 7), dtype=np.uint8)
LABELS[:, 1:4, 2:4] = 1
LABELS[[0, 2], 0:5, 6] = 4
LABELS[[0, 2], 4, 4:7] = 4

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20))


def document_of(labels, tmp_path, **options):
    return json.loads(write_coco(tmp_path / "masks.json", labels, **options).read_text())


class TestRunLengths:
    # Strings as COCO's own tools make them.
    KNOWN = {  # noqa: RUF012
        "empty": (np.zeros((3, 4), bool), [12], "<"),
        "full": (np.ones((3, 4), bool), [0, 12], "0<"),
        "one pixel": (np.eye(3, dtype=bool) & (np.arange(3) == 1), [4, 1, 4], "414"),
        "diagonal": (np.eye(3, dtype=bool), [0, 1, 3, 1, 3, 1], "013000"),
        "long runs": (np.repeat([[False, True, False, True]], 100, axis=0), [100, 100, 100, 100], "T3T3T30"),
    }

    @pytest.mark.parametrize("name", KNOWN)
    def test_are_column_major_and_compressed_as_coco_has_them(self, name):
        mask, counts, text = self.KNOWN[name]
        assert counts_from_mask(mask).tolist() == counts
        assert compress_counts(np.array(counts)) == text
        assert decompress_counts(text).tolist() == counts

    @given(mask=masks)
    def test_any_mask_comes_back(self, mask):
        counts = counts_from_mask(mask)
        assert counts.sum() == mask.size
        assert (counts[1:] > 0).all()
        np.testing.assert_array_equal(mask_from_counts(counts, mask.shape), mask)

    @given(counts=st.lists(st.integers(0, 2**32), min_size=1))
    def test_any_counts_survive_compression(self, counts):
        text = compress_counts(np.array(counts))
        assert text.isascii()
        assert text.isprintable()
        assert decompress_counts(text).tolist() == counts

    @pytest.mark.parametrize("text", ["", "5T", "5 5", "é5", "T" * 40 + "0", "5\x7f"])
    def test_damaged_strings_are_refused(self, text):
        with pytest.raises(UsageError, match="damaged"):
            decompress_counts(text)

    @pytest.mark.parametrize("counts", [[1.5, 2.5], [-1, 5], "13", None, [[1], [3]], [True, 3]])
    def test_what_is_no_list_of_counts_is_refused(self, counts):
        with pytest.raises(UsageError, match="must be a list of whole numbers"):
            mask_from_counts(counts, (2, 2))

    @pytest.mark.parametrize("counts", [[], [3], [2, 3]])
    def test_counts_must_fill_the_mask(self, counts):
        with pytest.raises(UsageError, match=r"add up to \d; they must add up to its 2 x 2 pixels"):
            mask_from_counts(counts, (2, 2))


class TestWriting:
    def test_each_frame_is_an_image(self, tmp_path):
        images = document_of(LABELS, tmp_path)["images"]
        assert images[1] == {"id": 2, "file_name": "00001.png", "width": 7, "height": 5, "frame_index": 1}
        assert len(images) == 3

    def test_each_object_has_an_annotation_where_it_is_present(self, tmp_path):
        annotations = document_of(LABELS, tmp_path)["annotations"]
        assert [(a["id"], a["image_id"], a["track_id"]) for a in annotations] == [
            (1, 1, 1),
            (2, 1, 4),
            (3, 2, 1),
            (4, 3, 1),
            (5, 3, 4),
        ]
        assert annotations[1] == {
            "id": 2,
            "image_id": 1,
            "category_id": 4,
            "track_id": 4,
            # Down the columns: 24 outside, the foot of the L twice, then all of the last column.
            "segmentation": {"size": [5, 7], "counts": compress_counts(np.array([24, 1, 4, 6]))},
            "area": 7,
            "bbox": [4, 0, 3, 5],
            "iscrowd": 0,
        }

    def test_objects_are_named_by_number(self, tmp_path):
        categories = document_of(LABELS, tmp_path)["categories"]
        assert [(c["id"], c["name"]) for c in categories] == [(1, "object 1"), (4, "object 4")]

    def test_objects_of_one_name_are_one_category(self, tmp_path):
        document = document_of(LABELS, tmp_path, names={4: "forceps", 1: "forceps", 9: "suture"})
        assert [(c["id"], c["name"]) for c in document["categories"]] == [(1, "forceps"), (9, "suture")]
        assert {a["category_id"] for a in document["annotations"]} == {1}

    def test_an_unnamed_object_does_not_take_the_category_of_another(self, tmp_path):
        document = document_of(LABELS, tmp_path, names={4: "object 1"})
        assert [(c["id"], c["name"]) for c in document["categories"]] == [(4, "object 1")]
        assert {a["category_id"] for a in document["annotations"]} == {4}

    def test_pictures_may_be_named(self, tmp_path):
        images = document_of(LABELS, tmp_path, file_names=["a.jpg", "b.jpg", "ü.jpg"])["images"]
        assert [image["file_name"] for image in images] == ["a.jpg", "b.jpg", "ü.jpg"]

    def test_each_frame_needs_a_file_name(self, tmp_path):
        with pytest.raises(UsageError, match="2 file names were given; there must be 3"):
            write_coco(tmp_path / "masks.json", LABELS, file_names=["a", "b"])
        assert not list(tmp_path.iterdir())

    def test_the_background_has_no_name(self, tmp_path):
        with pytest.raises(UsageError, match="the object id 0; ids are 1 or more"):
            write_coco(tmp_path / "masks.json", LABELS, names={0: "tissue"})
        assert not list(tmp_path.iterdir())

    def test_nothing_but_background_is_written_and_read(self, tmp_path):
        path = write_coco(tmp_path / "masks.json", LABELS * 0)
        assert json.loads(path.read_text())["annotations"] == []
        np.testing.assert_array_equal(np.asarray(read_labels(path)), LABELS * 0)

    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
    def test_export_and_read_labels_know_the_suffix(self, tmp_path, dtype):
        labels = LABELS.astype(dtype)
        opened = read_labels(export(tmp_path / "masks.JSON", labels))
        assert opened.dtype == np.uint8
        assert opened.chunks[0] == (1, 1, 1)
        np.testing.assert_array_equal(np.asarray(opened), labels)

    def test_a_volume_can_be_written_resumed_and_finished(self, tmp_path):
        output = tmp_path / "masks.json"
        with LabelVolume.create(output, LABELS.shape, 4) as volume:
            volume[0] = LABELS[0]
        volume = LabelVolume.create(output, LABELS.shape, 4, resume=True)
        volume[1], volume[2] = LABELS[1], LABELS[2]
        np.testing.assert_array_equal(np.asarray(read_labels(volume.finish())), LABELS)
        assert list(tmp_path.iterdir()) == [output]

    def test_large_ids_stay(self, tmp_path):
        labels = LABELS.astype(np.uint32) * 1_000_000_000
        opened = read_labels(write_coco(tmp_path / "masks.json", labels))
        assert opened.dtype == np.uint32
        np.testing.assert_array_equal(np.asarray(opened), labels)

    @given(
        labels=arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3))
    )
    def test_any_labels_come_back(self, tmp_path_factory, labels):
        path = write_coco(tmp_path_factory.mktemp("coco") / "masks.json", labels)
        np.testing.assert_array_equal(np.asarray(read_labels(path)), labels)


class TestReplacing:
    def test_an_existing_file_is_replaced_only_if_asked(self, tmp_path):
        path = write_coco(tmp_path / "masks.json", LABELS)
        with pytest.raises(OutputError, match=r"exists already.*--force"):
            write_coco(path, LABELS * 0)
        write_coco(path, LABELS * 0, overwrite=True)
        assert not np.asarray(read_labels(path)).any()

    def test_an_interrupted_write_leaves_the_old_file_or_none(self, tmp_path):
        class Breaking:
            shape, dtype = LABELS.shape, LABELS.dtype

            def __getitem__(self, t):
                if t == 2:
                    raise KeyboardInterrupt
                return LABELS[t] * 0

        with pytest.raises(KeyboardInterrupt):
            write_coco(tmp_path / "new.json", Breaking())
        assert not list(tmp_path.iterdir())
        path = write_coco(tmp_path / "masks.json", LABELS)
        with pytest.raises(KeyboardInterrupt):
            write_coco(path, Breaking(), overwrite=True)
        np.testing.assert_array_equal(np.asarray(read_labels(path)), LABELS)
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"version": 1, "points": []}', "its first key is 'version'"),
            ("[1, 2]", "it is no JSON object"),
            ("notes", "it is no JSON object"),
        ],
    )
    def test_other_files_are_not_replaced(self, tmp_path, content, message):
        path = tmp_path / "prompts.json"
        path.write_text(content)
        with pytest.raises(OutputError, match=f"{message}, so it is no COCO JSON file"):
            export(path, LABELS, overwrite=True)
        assert path.read_text() == content

    @pytest.mark.parametrize("content", ["", '\ufeff\n{ "images": []}', '{"licenses": []}'])
    def test_empty_files_and_coco_files_of_others_are(self, tmp_path, content):
        path = tmp_path / "masks.json"
        path.write_text(content, encoding="utf-8")
        export(path, LABELS, overwrite=True)
        np.testing.assert_array_equal(np.asarray(read_labels(path)), LABELS)

    def test_the_names_of_projects_are_refused(self, tmp_path):
        with pytest.raises(UsageError, match=r"ends in '\.surgsam2\.json', as projects do"):
            export(tmp_path / "case.surgsam2.json", LABELS)


IMAGE = {"id": 7, "file_name": "a.png", "height": 4, "width": 6}


def read(tmp_path, annotations, images=(IMAGE,)):
    """Read a COCO file of these entries; `image_id` is 7 unless given."""
    path = tmp_path / "others.json"
    annotations = [{"image_id": 7, **annotation} for annotation in annotations]
    path.write_text(json.dumps({"images": list(images), "annotations": annotations, "categories": []}))
    return read_labels(path)


class TestReadingOthersFiles:
    WHOLE = {"size": [4, 6], "counts": [0, 24]}  # noqa: RUF012
    FIRST_COLUMN = {"size": [4, 6], "counts": [0, 4, 20]}  # noqa: RUF012

    def test_uncompressed_counts(self, tmp_path):
        labels = read(tmp_path, [{"track_id": 3, "segmentation": self.FIRST_COLUMN}])
        assert labels.shape == (1, 4, 6)
        assert np.asarray(labels)[0].tolist() == [[3, 0, 0, 0, 0, 0]] * 4

    def test_polygons_hold_the_pixels_whose_centres_they_hold(self, tmp_path):
        two = [[1, 1, 3, 1, 3, 4, 1, 4], [4.4, 0, 6, 0, 6, 1.6, 4.4, 1.6]]
        labels = np.asarray(read(tmp_path, [{"track_id": 2, "segmentation": two}]))[0]
        expected = np.zeros((4, 6), dtype=int)
        expected[1:4, 1:3] = 2
        expected[0:2, 4:6] = 2
        np.testing.assert_array_equal(labels, expected)

    def test_of_overlapping_annotations_the_later_one_wins(self, tmp_path):
        annotations = [
            {"track_id": 5, "segmentation": self.WHOLE},
            {"track_id": 2, "segmentation": self.FIRST_COLUMN},
        ]
        assert np.asarray(read(tmp_path, annotations))[0].tolist() == [[2, 5, 5, 5, 5, 5]] * 4

    LABELS_OF = {  # noqa: RUF012
        "track ids": ([{"track_id": 5, "id": 1}, {"track_id": 2, "id": 2}], [5, 2]),
        "track ids from 0": ([{"track_id": 0}, {"track_id": 1}], [1, 2]),
        "CVAT's attributes": (
            [{"attributes": {"track_id": 4}}, {"attributes": {"track_id": 3, "occluded": False}}],
            [4, 3],
        ),
        "instance ids": ([{"instance_id": 5, "track_id": 1}, {"instance_id": 6}], [5, 6]),
        "annotation ids": ([{"id": 11, "track_id": 11}, {"id": 12}], [11, 12]),
        "place in the file": ([{}, {"id": 1}], [1, 2]),
    }

    @pytest.mark.parametrize("name", LABELS_OF)
    def test_labels_are(self, tmp_path, name):
        entries, expected = self.LABELS_OF[name]
        images = [{**IMAGE, "id": i} for i in range(2)]
        annotations = [
            {"image_id": i, "segmentation": self.WHOLE, **entry} for i, entry in enumerate(entries)
        ]
        assert np.asarray(read(tmp_path, annotations, images))[:, 0, 0].tolist() == expected

    @pytest.mark.parametrize(("keys", "expected"), [({}, [1, 2, 3]), ({"frame_index": 0}, [2, 3, 1])])
    def test_frames_are_ordered_by_index_or_as_in_the_file(self, tmp_path, keys, expected):
        indices = [20, 0, 10]
        images = [{**IMAGE, "id": i, **dict.fromkeys(keys, index)} for i, index in enumerate(indices)]
        annotations = [{"image_id": i, "track_id": i + 1, "segmentation": self.WHOLE} for i in range(3)]
        assert np.asarray(read(tmp_path, annotations, images))[:, 0, 0].tolist() == expected

    @pytest.mark.parametrize(
        ("annotation", "message"),
        [
            ({"image_id": 8, "segmentation": WHOLE}, r"Annotation 9 of .*image_id 8, which no image has"),
            ({"bbox": [0, 0, 2, 2]}, "has no segmentation"),
            ({"segmentation": []}, "has no segmentation"),
            ({"track_id": -1, "segmentation": WHOLE}, "track_id -1; it must be a whole number"),
            ({"track_id": "a", "segmentation": WHOLE}, "track_id 'a'; it must be a whole number"),
            ({"track_id": 2**32, "segmentation": WHOLE}, "4294967296 cannot be stored"),
        ],
    )
    def test_annotations_without_a_place_mask_or_number_are_refused_at_once(
        self, tmp_path, annotation, message
    ):
        with pytest.raises(UsageError, match=message):
            read(tmp_path, [{"id": 9, **annotation}])

    @pytest.mark.parametrize(
        ("segmentation", "message"),
        [
            ({"size": [6, 4], "counts": "0h"}, r"size \[6, 4\]; it must be \[4, 6\]"),
            ({"size": [4, 6], "counts": [0, 23]}, "add up to 23"),
            ({"size": [4, 6], "counts": "T"}, "damaged"),
            ({"size": [4, 6]}, "neither polygons nor run lengths"),
            ([[1, 1, 2, 2]], r"polygon 0 is \[1, 1, 2, 2\]"),
            ([1, 1, 2, 2, 3, 3], "polygon 0 is 1"),
        ],
    )
    def test_what_is_wrong_with_a_mask_is_said_with_its_annotation(self, tmp_path, segmentation, message):
        labels = read(tmp_path, [{"id": 9, "segmentation": segmentation}])
        with pytest.raises(UsageError, match=f"Annotation 9 of .*others.json: .*{message}"):
            np.asarray(labels)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "has no images"),
            ([IMAGE, {**IMAGE, "id": 8, "width": 7}], "has images of 2 sizes"),
            ([{"id": 7, "file_name": "a.png"}], "height None and width None; both must be 1 or more"),
            ([IMAGE, IMAGE], "must have an 'id' each, all different"),
        ],
    )
    def test_images_must_be_frames_of_one_video(self, tmp_path, images, message):
        with pytest.raises(UsageError, match=message):
            read(tmp_path, [], images)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("case.surgsam2.json", {"images": [], "annotations": []}, "is a project file, not labels"),
            (
                "prompts.json",
                {"version": 1, "points": [], "boxes": [], "masks": []},
                "holds prompts, not labels",
            ),
            ("any.json", {"images": {}, "annotations": []}, "is no COCO JSON of labels"),
            ("list.json", [1], "is no COCO JSON of labels"),
        ],
    )
    def test_other_json_files_are_refused(self, tmp_path, name, content, message):
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(UsageError, match=message):
            read_labels(tmp_path / name)

    def test_half_a_file_is_refused(self, tmp_path):
        (tmp_path / "half.json").write_text('{"images": [')
        with pytest.raises(UsageError, match=r"half\.json cannot be read"):
            read_labels(tmp_path / "half.json")

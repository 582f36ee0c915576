"""`napari-surgsam2 prepare-endovis` on small trees of the shape that the challenges give out."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_surgsam2.endovis import SPLITS, prepare_endovis
from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.synthetic import make_clip
from napari_surgsam2.training.vos import VosFolder

from .conftest import Run

SIZE_18 = (48, 64)


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "png", compress_level=1)
    return stream.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def picture(brightness: int, size: tuple[int, int] = SIZE_18) -> np.ndarray:
    return np.full((*size, 3), brightness, np.uint8)


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image)


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# 2018


def pictures_18(*sequences: int, frames: int = 3) -> dict[str, bytes]:
    release = "miccai_challenge_2018_release_1"
    files = {f"{release}/labels.json": b"[]", f"__MACOSX/{release}/seq_2/left_frames/._frame000.png": b"x"}
    for s in sequences:
        for t in range(frames):
            for side, brightness in (("left", 40), ("right", 200)):
                files[f"{release}/seq_{s}/{side}_frames/frame{t:03}.png"] = png(
                    picture(brightness + 10 * t + s)
                )
            files[f"{release}/seq_{s}/labels/frame{t:03}.png"] = png(picture(0))
    return files


def types_18(t: int) -> np.ndarray:
    """Two instruments of class 2 that move, and from frame 1 on one of class 6."""
    image = np.zeros(SIZE_18, np.uint8)
    image[2:12, 2 + t : 14 + t] = image[30:44, 40 - t : 60 - t] = 2
    if t:
        image[20:28, 5:20] = 6
    return image


def annotations_18(
    split: str, *sequences: int, frames: int = 3, form: str = "seq_{s}_frame{t:03}.png"
) -> dict:
    return {
        f"{split}/annotations/{form.format(s=s, t=t)}": png(types_18(t))
        for s in sequences
        for t in range(frames)
    }


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """2018 as a zip in a folder, and ISINet's annotations as a folder."""
    zipped(tmp_path / "downloads" / "release_1.zip", pictures_18(1, 2, 4))
    write(tmp_path / "isinet", annotations_18("train", 1) | annotations_18("val", 2))
    return tmp_path


def test_2018_from_a_zip_and_isinets_annotations(run: Run, downloads: Path) -> None:
    outcome = run("prepare-endovis", "downloads", "isinet", "--year", "2018", "-o", "data", cwd=downloads)

    assert outcome.code == 0
    made = downloads / "data" / "VOS-Endovis18"
    frames = [f"{t:05}" for t in range(3)]
    assert tree(made) == {
        *(f"train/JPEGImages/seq_1/{t}.jpg" for t in frames),
        *(f"train/Annotations/seq_1/{t}.png" for t in frames),
        *(f"valid/JPEGImages/seq_2/{t}.jpg" for t in frames),
        *(f"valid/Annotations/seq_2/{t}.png" for t in frames),
        *(f"valid/VOS/Annotations_vos_instrument/seq_2/{t}.png" for t in frames[:2]),
        "classes.json",
        "report.json",
    }
    for t in range(3):
        assert abs(int(read(made / f"valid/JPEGImages/seq_2/0000{t}.jpg").mean()) - (42 + 10 * t)) <= 1
        labels = read(made / f"valid/Annotations/seq_2/0000{t}.png")
        assert ((labels > 0) == (types_18(t) > 0)).all()
        assert [labels[4, 8], labels[35, 45], labels[22, 10]] == [2, 1, 3 if t else 0]
    assert "Skipped: seq_4: there are pictures, and no annotations of instrument types" in outcome.err
    assert [line.split()[:4] for line in outcome.out.splitlines()[1:]] == [
        ["train", "seq_1", "3", "3"],
        ["valid", "seq_2", "3", "3"],
    ]
    report = json.loads((made / "report.json").read_text())
    assert [v["name"] for v in report["videos"]] == ["seq_1", "seq_2"]
    assert len(report["skipped"]) == 1


def test_first_masks_hold_only_what_is_new(downloads: Path) -> None:
    prepare_endovis([downloads / "downloads", downloads / "isinet"], downloads, 2018)
    masks = downloads / "VOS-Endovis18" / "valid" / "VOS" / "Annotations_vos_instrument" / "seq_2"
    assert [set(np.unique(read(file)).tolist()) for file in sorted(masks.iterdir())] == [{0, 1, 2}, {0, 3}]


def test_the_classes_of_the_objects_are_kept(downloads: Path) -> None:
    prepare_endovis([downloads / "downloads", downloads / "isinet"], downloads, 2018)
    table = json.loads((downloads / "VOS-Endovis18" / "classes.json").read_text())
    assert table["objects"]["seq_2"] == {"1": 2, "2": 2, "3": 6}
    assert (table["classes"]["2"], table["classes"]["6"]) == ("Prograsp Forceps", "Suction Instrument")


def test_what_comes_out_is_a_vos_folder(downloads: Path) -> None:
    prepare_endovis([downloads / "downloads", downloads / "isinet"], downloads, 2018)
    valid = downloads / "VOS-Endovis18" / "valid"
    (video,) = VosFolder(valid / "JPEGImages", valid / "Annotations").validation_videos()
    frames, labels, annotated = video.open()
    assert frames.shape == (3, *SIZE_18)
    assert [labels[t].shape for t in range(3)] == [SIZE_18] * 3
    assert annotated.tolist() == [True] * 3


@pytest.mark.parametrize("form", ["seq2_frame{t:03}.png", "seq_{s}/frame{t:03}.png", "seq{s}/{t:05}.png"])
def test_small_differences_in_layout(form: str, tmp_path: Path) -> None:
    tarred(tmp_path / "images.tar", pictures_18(2))
    write(tmp_path / "isinet", annotations_18("val", 2, form=form))
    report = prepare_endovis([tmp_path / "images.tar", tmp_path / "isinet"], tmp_path, 2018)
    assert [(v.split, v.name, v.frames) for v in report.videos] == [("valid", "seq_2", 3)]


def test_masks_of_each_instrument_win_over_components(tmp_path: Path) -> None:
    touching = np.zeros(SIZE_18, np.uint8)
    touching[10:20, 10:40] = 2
    left, right = touching.copy(), touching.copy()
    left[:, 25:], right[:, :25] = 0, 0
    files = pictures_18(2, frames=1) | {"val/annotations/seq_2_frame000.png": png(touching)}
    for i, mask in enumerate((left, right)):
        files[f"val/binary_annotations/seq_2_frame000_class2_inst{i}.png"] = png(
            np.uint8(mask > 0) * np.uint8(255)
        )
    files["val/binary_annotations/seq_2_frame000_class9_inst0.png"] = png(np.full(SIZE_18, 255, np.uint8))

    prepare_endovis([write(tmp_path / "all", files)], tmp_path, 2018)

    labels = read(tmp_path / "VOS-Endovis18" / "valid" / "Annotations" / "seq_2" / "00000.png")
    assert set(np.unique(labels[10:20, 10:25]).tolist()) | set(np.unique(labels[10:20, 25:40]).tolist()) == {
        1,
        2,
    }
    assert labels[12, 12] != labels[12, 38]
    assert labels[0, 0] == 0


def test_instruments_without_a_mask_of_their_own_are_there_too(tmp_path: Path) -> None:
    """ISINet has such masks of some types only: suction, of class 6, has none."""
    files = pictures_18(2, frames=2) | annotations_18("val", 2, frames=2)
    for t in range(2):
        grasper = np.uint8(types_18(t) == 2) * np.uint8(255)
        files[f"val/binary_annotations/seq_2_frame{t:03}_class2_inst0.png"] = png(grasper)

    prepare_endovis([write(tmp_path / "all", files)], tmp_path, 2018)

    labels = read(tmp_path / "VOS-Endovis18" / "valid" / "Annotations" / "seq_2" / "00001.png")
    assert labels[22, 10] not in (0, labels[4, 8])


def test_the_same_archive_twice_is_one(tmp_path: Path) -> None:
    files = pictures_18(2) | annotations_18("val", 2)
    for t in range(3):
        files[f"val/binary_annotations/seq_2_frame{t:03}_class2_inst0.png"] = png(
            np.uint8(types_18(t) == 2) * np.uint8(255)
        )
    once = prepare_endovis([write(tmp_path / "all", files)], tmp_path / "a", 2018)
    twice = prepare_endovis([tmp_path / "all", zipped(tmp_path / "all.zip", files)], tmp_path / "b", 2018)
    assert twice.videos == once.videos
    for file in sorted((tmp_path / "a").rglob("Annotations/*/*.png")):
        other = tmp_path / "b" / file.relative_to(tmp_path / "a")
        np.testing.assert_array_equal(read(other), read(file))


def test_annotations_of_another_size_than_their_pictures(tmp_path: Path) -> None:
    files = pictures_18(1, 2) | annotations_18("train", 1) | annotations_18("val", 2)
    files["val/annotations/seq_2_frame001.png"] = png(np.ones((50, 64), np.uint8))
    report = prepare_endovis([write(tmp_path / "all", files)], tmp_path, 2018)
    assert [v.name for v in report.videos] == ["seq_1"]
    assert "differ in size (height x width): 48 x 64, 50 x 64" in report.skipped[0]


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    files = pictures_18(1, 2) | annotations_18("train", 1) | annotations_18("val", 2)
    path = zipped(tmp_path / "all.zip", files)
    data = bytearray(path.read_bytes())
    place = data.index(b"seq_2/left_frames/frame001.png") + 60
    data[place] ^= 255
    path.write_bytes(bytes(data))
    report = prepare_endovis([path], tmp_path, 2018)
    assert [v.name for v in report.videos] == ["seq_1"]
    assert "frame001.png' cannot be read: Bad CRC-32" in report.skipped[0]


def test_the_test_set_of_2018_is_left_out(tmp_path: Path) -> None:
    files = pictures_18(2) | annotations_18("val", 2)
    files |= {f"test_data/seq_2/left_frames/frame{t:03}.png": png(picture(255)) for t in range(9)}
    report = prepare_endovis([write(tmp_path / "all", files)], tmp_path, 2018)
    assert report.videos[0].frames == 3
    assert report.skipped == ["9 files of the test set of 2018, which has no instrument types"]


def test_folders_with_test_in_their_name_are_no_test_set(tmp_path: Path) -> None:
    write(tmp_path / "latest", pictures_18(2) | annotations_18("val", 2))
    report = prepare_endovis([tmp_path / "latest"], tmp_path, 2018)
    assert (report.videos[0].frames, report.skipped) == (3, [])


def test_what_was_made_before_is_no_source(downloads: Path) -> None:
    for _ in range(2):
        prepare_endovis([downloads], downloads, 2018, overwrite=True)
        labels = read(downloads / "VOS-Endovis18" / "valid" / "Annotations" / "seq_2" / "00001.png")
        assert [labels[4, 8], labels[35, 45], labels[22, 10]] == [2, 1, 3]


def test_frames_that_lack_something_are_counted(tmp_path: Path) -> None:
    files = pictures_18(2, frames=3) | annotations_18("val", 2, frames=5)
    del files["val/annotations/seq_2_frame001.png"]
    (video,) = prepare_endovis([write(tmp_path / "all", files)], tmp_path, 2018).videos
    assert (video.frames, video.without_picture, video.without_annotation) == (2, 2, 1)


def test_a_sequence_that_cannot_be_used_is_left_out_whole(downloads: Path) -> None:
    (downloads / "isinet" / "val" / "annotations" / "seq_2_frame002.png").write_bytes(b"damaged")
    write(downloads / "isinet", {"train/annotations/seq_4_frame000.png": png(np.full(SIZE_18, 9, np.uint8))})
    report = prepare_endovis([downloads / "downloads", downloads / "isinet"], downloads, 2018)
    assert [v.name for v in report.videos] == ["seq_1"]
    assert "frame002.png' cannot be read" in report.skipped[0]
    assert "has the value 9; classes are 1 to 7" in report.skipped[1]
    assert not any("seq_2" in name or "seq_4" in name for name in tree(downloads / "VOS-Endovis18"))


# 2017


def frame_17(t: int) -> np.ndarray:
    """Black around the picture proper."""
    image = np.zeros((1080, 1920, 3), np.uint8)
    image[28:1052, 320:1600] = 100 + 10 * t
    return image


def mask_17(y: int, x: int) -> np.ndarray:
    mask = np.zeros((1080, 1920), np.uint8)
    mask[28 + y : 128 + y, 320 + x : 470 + x] = 50
    return mask


@pytest.fixture
def downloads_17(tmp_path: Path) -> Path:
    """Sequence 2 with two instruments of a kind, whose places are swapped, and a frame of its test part."""
    files = {}
    for t in range(2):
        base = "instrument_1_4_training/instrument_dataset_2"
        files[f"{base}/left_frames/frame{t:03}.png"] = png(frame_17(t))
        for k, side in enumerate(("Left", "Right")):
            where = 600 if (t + k) % 2 else 100
            files[f"{base}/ground_truth/{side}_Prograsp_Forceps_labels/frame{t:03}.png"] = png(
                mask_17(300, where)
            )
    other = "instrument_5_8_training/instrument_dataset_7"
    files[f"{other}/left_frames/frame000.png"] = png(frame_17(5))
    files[f"{other}/ground_truth/Monopolar_Curved_Scissors_labels/frame000.png"] = png(mask_17(0, 0))
    base = "instrument_2017_test/instrument_dataset_2"
    types = np.where(mask_17(310, 610) + mask_17(290, 110), 2, 0).astype(np.uint8)
    files[f"{base}/left_frames/frame225.png"] = png(frame_17(9))
    files[f"{base}/gt/TypeSegmentation/frame225.png"] = png(types)
    files[f"{base}/gt/BinarySegmentation/frame225.png"] = png(types * 50)
    files["instrument_9_10_testing/instrument_dataset_9/left_frames/frame000.png"] = png(frame_17(1))
    zipped(tmp_path / "downloads" / "all.zip", files)
    return tmp_path


def test_2017_is_cropped_and_numbered_by_its_folders(run: Run, downloads_17: Path) -> None:
    outcome = run("prepare-endovis", "downloads", "--year", "2017", "-o", "data", cwd=downloads_17)

    assert outcome.code == 0
    valid = downloads_17 / "data" / "VOS-Endovis17" / "valid"
    assert sorted(p.name for p in (valid / "Annotations" / "seq_2").iterdir()) == [
        "00000.png",
        "00001.png",
        "00225.png",
    ]
    image = read(valid / "JPEGImages" / "seq_2" / "00001.jpg")
    assert image.shape == (1024, 1280, 3)
    assert (image.min(), image.max()) == (110, 110)
    for t, at in ((0, (150, 650)), (1, (650, 150)), (225, (650, 150))):
        labels = read(valid / "Annotations" / "seq_2" / f"{t:05}.png")
        assert labels.shape == (1024, 1280)
        assert [labels[350, x] for x in at] == [1, 2]
    assert (valid.parent / "train" / "Annotations" / "seq_7" / "00000.png").is_file()
    table = json.loads((valid.parent / "classes.json").read_text())
    assert table["objects"] == {"seq_2": {"1": 2, "2": 2}, "seq_7": {"1": 6}}
    assert "seq_9: there are pictures, and no ground truth" in outcome.err


def test_folds_of_2017(downloads_17: Path) -> None:
    report = prepare_endovis([downloads_17 / "downloads"], downloads_17, 2017, split="fold3")
    assert {v.name: v.split for v in report.videos} == {"seq_2": "train", "seq_7": "valid"}
    folds = [SPLITS[2017][f"fold{k}"] for k in range(4)]
    assert sorted(i for fold in folds for i in fold) == list(range(1, 9))


def test_pictures_of_2017_of_another_size(tmp_path: Path) -> None:
    files = {
        "instrument_dataset_1/left_frames/frame000.png": png(picture(3)),
        "instrument_dataset_1/ground_truth/Other_labels/frame000.png": png(types_18(0)),
        "instrument_dataset_2/left_frames/frame000.png": png(picture(3, (1024, 1280))),
        "instrument_dataset_2/ground_truth/Other_labels/frame000.png": png(np.ones((1024, 1280), np.uint8)),
        "instrument_dataset_3/left_frames/frame000.png": png(picture(3, (1024, 1280))),
        "instrument_dataset_3/ground_truth/Spoon_labels/frame000.png": png(np.ones((1024, 1280), np.uint8)),
    }
    report = prepare_endovis([write(tmp_path / "all", files)], tmp_path, 2017)
    assert [v.name for v in report.videos] == ["seq_2"]  # cropped already
    assert "is 48 x 64 pixels" in report.skipped[0]
    assert "the folder 'Spoon_labels' is named like none of the instruments" in report.skipped[1]


# Published annotations


@pytest.fixture
def published(tmp_path: Path) -> dict[str, bytes]:
    palette = Image.fromarray(types_18(1))
    palette.putpalette(bytes(range(255, -1, -1)) * 3)
    stream = io.BytesIO()
    palette.save(stream, "png")
    files = {}
    for split, s in (("train", 1), ("valid", 2), ("valid", 5)):
        for t in range(2):
            files[f"VOS-Endovis18/{split}/Annotations/seq_{s}/{t:05}.png"] = stream.getvalue()
    files["VOS-Endovis18/valid/VOS/Annotations_vos_instrument/seq_2/00000.png"] = stream.getvalue()
    return files


def test_published_annotations_are_taken_as_they_are(
    run: Run, published: dict[str, bytes], tmp_path: Path
) -> None:
    zipped(tmp_path / "VOS-Endovis18.zip", published)
    zipped(tmp_path / "downloads" / "release_1.zip", pictures_18(1, 2, 4))
    options = ("--annotations", "VOS-Endovis18.zip", "--year", "2018", "-o", "data")

    outcome = run("prepare-endovis", "downloads", *options, cwd=tmp_path)

    assert outcome.code == 0
    made = tmp_path / "data" / "VOS-Endovis18"
    for name, data in published.items():
        assert (tmp_path / "data" / name).read_bytes() == data
    assert sorted(p.name for p in (made / "valid" / "JPEGImages" / "seq_2").iterdir()) == [
        "00000.jpg",
        "00001.jpg",
    ]
    assert abs(int(read(made / "train" / "JPEGImages" / "seq_1" / "00001.jpg").mean()) - 51) <= 1
    assert not (made / "classes.json").exists()
    assert "Skipped: seq_5: none of its pictures is in the sources" in outcome.err


def test_the_demo_sequence_has_pictures_too(published: dict[str, bytes], tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture(70)).save(stream, "jpeg")
    demo = {f"endovis18/images/seq_2/{t:05}.jpg": stream.getvalue() for t in range(3)}
    write(tmp_path / "datasets", demo)
    write(tmp_path / "archive", published)
    report = prepare_endovis([tmp_path / "datasets"], tmp_path, 2018, annotations=tmp_path / "archive")
    assert [(v.name, v.frames) for v in report.videos] == [("seq_2", 2)]
    image = tmp_path / "VOS-Endovis18" / "valid" / "JPEGImages" / "seq_2" / "00001.jpg"
    assert image.read_bytes() == stream.getvalue()  # a JPEG is not encoded again


# What is refused


def test_an_existing_data_set_is_not_replaced_unasked(run: Run, downloads: Path) -> None:
    command = ("prepare-endovis", "downloads", "isinet", "--year", "2018", "-o", "data")
    assert run(*command, cwd=downloads).code == 0
    before = tree(downloads / "data")
    mark = downloads / "data" / "VOS-Endovis18" / "train" / "JPEGImages" / "seq_1" / "99999.jpg"
    mark.write_bytes(b"mine")

    outcome = run(*command, cwd=downloads)
    assert (outcome.code, "exists already" in outcome.err, mark.exists()) == (1, True, True)

    assert run(*command, "--force", cwd=downloads).code == 0
    assert tree(downloads / "data") == before

    (downloads / "data" / "VOS-Endovis18" / "notes.txt").write_text("mine")
    outcome = run(*command, "--force", cwd=downloads)
    assert (outcome.code, "it contains notes.txt" in outcome.err) == (1, True)


def test_nothing_is_left_of_a_run_that_fails(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_surgsam2.endovis import prepare

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "_write_png", full)
    with pytest.raises(OutputError, match="No space left"):
        prepare_endovis([downloads / "downloads", downloads / "isinet"], downloads / "data", 2018)
    assert list((downloads / "data").iterdir()) == []


def test_sources_are_never_replaced(downloads: Path) -> None:
    write(downloads / "VOS-Endovis18", {"train/x": b""})
    with pytest.raises(UsageError, match="in the place of the input"):
        prepare_endovis([downloads / "VOS-Endovis18"], downloads, 2018, overwrite=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("downloads", "--year", "2017"), "Nothing of EndoVis 2017 was found"),
        (("downloads", "--year", "2019"), "The year is 2019; it must be 2017 or 2018"),
        (("downloads", "--year", "2018", "--split", "fold0"), "there are: surgsam2"),
        (("nothing", "--year", "2018"), "There is no 'nothing'"),
        (("broken.zip", "--year", "2018"), "cannot be opened"),
        (("text.txt", "--year", "2018"), "is no folder, .zip or .tar"),
        (("downloads", "--year", "2018"), "no annotations of instrument types (get those of ISINet)"),
        (
            ("downloads", "--year", "2018", "--split", "surgsam2", "--annotations", "x.zip"),
            "a split of their own",
        ),
    ],
)
def test_mistakes_are_told(options: tuple[str, ...], says: str, run: Run, downloads: Path) -> None:
    (downloads / "broken.zip").write_bytes(b"no zip")
    (downloads / "text.txt").write_text("no archive")
    outcome = run("prepare-endovis", *options, "-o", "data", cwd=downloads)
    assert (outcome.code, says in outcome.err) == (2, True)
    assert not (downloads / "data").exists() or not tree(downloads / "data")


# From downloads to scores


def test_six_clips_from_downloads_to_scores(run: Run, tmp_path: Path) -> None:
    files = {}
    for k, (s, split) in enumerate(
        ((1, "train"), (2, "val"), (3, "train"), (5, "val"), (9, "val"), (15, "val"))
    ):
        made = make_clip(101 + 2 * k, frames=4, size=(64, 80), scene="things")
        for t in range(4):
            files[f"release/seq_{s}/left_frames/frame{t:03}.png"] = png(made.video[t])
            files[f"{split}/annotations/seq_{s}_frame{t:03}.png"] = png(made.labels[t])
    zipped(tmp_path / "all.zip", files)

    prepared = run("prepare-endovis", "all.zip", "--year", "2018", "-o", ".", cwd=tmp_path)
    valid = tmp_path / "VOS-Endovis18" / "valid"
    folders = (
        "--video-dir",
        "JPEGImages",
        "--mask-dir",
        "VOS/Annotations_vos_instrument",
        "--output-dir",
        "r",
    )
    tracked = run("vos", *folders, "--gt-root", "Annotations", "--device", "cpu", cwd=valid)
    options = ("--endovis", "../classes.json", "--json", "s.json", "--all-frames")
    scored = run("evaluate", "r", "Annotations", *options, cwd=valid)

    assert (prepared.code, tracked.code, scored.code) == (0, 0, 0)
    scores = json.loads((valid / "s.json").read_text())
    assert list(scores["videos"]) == ["seq_2", "seq_5", "seq_9", "seq_15"]
    objects = json.loads((valid.parent / "classes.json").read_text())["objects"]
    ious = []  # of one class in one frame, by the definition
    for video in scores["videos"]:
        for t in range(4):
            truth, result = (read(valid / root / video / f"{t:05}.png") for root in ("Annotations", "r"))
            of_frame = []
            for c in sorted(set(objects[video].values())):
                ids = [int(i) for i, of in objects[video].items() if of == c]
                a, b = np.isin(result, ids), np.isin(truth, ids)
                if b.any():
                    of_frame.append((a & b).sum() / (a | b).sum())
            if of_frame:
                ious.append(np.mean(of_frame))
    assert scores["endovis"]["challenge_iou"] == pytest.approx(np.mean(ious))
    assert 0.5 < scores["endovis"]["challenge_iou"] < 1

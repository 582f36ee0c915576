"""Clips to train on: where they come from, how they are varied, and that each follows from its place."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import write_zarr
from napari_surgsam2.training.augmentation import NoObjectError, look
from napari_surgsam2.training.clips import VOID, SampledClip, TrainingClip, draw_frames
from napari_surgsam2.training.labelled import LabelledVideos
from napari_surgsam2.training.loading import ClipSampler, make_source
from napari_surgsam2.training.settings import (
    AugmentationSettings,
    TrainingSettings,
)
from napari_surgsam2.training.sources import LabelPair, SourceSettings
from napari_surgsam2.training.vos import VosFolder

HEIGHT, WIDTH = 48, 64
COLOURS = np.array([(40, 40, 40), (220, 40, 40), (40, 220, 40), (40, 40, 220)], dtype=np.uint8)
OFF = AugmentationSettings(flip=False, reverse=False, crop=(1, 1), affine=0, colour=0, gray=0, blur=0)


def labels_of(frames: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Two discs that move, the first to the right and the second to the left, (T, Y, X) uint8."""
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        for i, column in ((1, 0.25 + 0.02 * t), (2, 0.75 - 0.02 * t)):
            labels[t][(y - 0.3 * i * height) ** 2 + (x - column * width) ** 2 < (height / 8) ** 2] = i
    return labels


def clip_of(frames: int, height: int = HEIGHT, width: int = WIDTH) -> SampledClip:
    """Each object has its own colour, and the brightness of the ground says which frame it is."""
    labels = labels_of(frames, height, width)
    pictures = COLOURS[labels]
    for t in range(frames):
        pictures[t][labels[t] == 0] = 10 * t
    return SampledClip(pictures, labels, np.ones(frames, dtype=bool))


def save_png(path: Path, labels: np.ndarray, palette: bool = True) -> None:
    image = Image.fromarray(labels)
    if palette:
        image.putpalette([*range(256)] * 3)
    image.save(path)


def make_video(root: Path, name: str, frames: int = 10, annotated: Sequence[int] | None = None) -> None:
    """A video whose annotated frames are those numbered, by default all."""
    clip = clip_of(frames)
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / name).mkdir(parents=True)
    for t in range(frames):
        Image.fromarray(clip.frames[t]).save(root / "JPEGImages" / name / f"{t:05d}.png")
        if annotated is None or t in annotated:
            save_png(root / "Annotations" / name / f"{t:05d}.png", clip.labels[t])


def vos(root: Path, videos: Any = None) -> VosFolder:
    return VosFolder(root / "JPEGImages", root / "Annotations", videos)


def number_of(frame: np.ndarray) -> int:
    """Which frame it is."""
    return int(frame[0, 0, 0]) // 10


# Frames of a clip


@pytest.mark.parametrize("seed", range(20))
def test_a_clip_begins_annotated_and_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    annotated = rng.random(20) < 0.3
    annotated[7] = True

    chosen = draw_frames(rng, annotated, 5, (1, 9))

    assert chosen is not None
    assert annotated[chosen[0]]
    steps = np.diff(chosen)
    assert len(set(steps.tolist())) == 1
    assert 1 <= abs(steps[0]) <= 4
    assert chosen.min() >= 0
    assert chosen.max() < 20


def test_a_clip_falls_where_only_the_last_frame_is_annotated() -> None:
    annotated = np.arange(6) == 5

    chosen = draw_frames(np.random.default_rng(0), annotated, 3, (2, 2))

    assert chosen is not None
    assert chosen.tolist() == [5, 3, 1]


def test_a_still_may_be_any_annotated_frame() -> None:
    rng = np.random.default_rng(0)
    annotated = np.arange(6) % 2 == 1

    chosen = [draw_frames(rng, annotated, 1, (1, 3)) for _ in range(60)]

    assert {int(c[0]) for c in chosen if c is not None} == {1, 3, 5}


@pytest.mark.parametrize(("every", "steps"), [(3, {3}), (4, {2, 4}), (5, set())])
def test_clips_come_upon_a_second_annotated_frame_where_that_can_be(every: int, steps: set[int]) -> None:
    annotated = np.arange(60) % every == 0
    chosen = [draw_frames(np.random.default_rng(seed), annotated, 3, (2, 4)) for seed in range(40)]
    if steps:
        assert all(annotated[c[1:]].any() for c in chosen)
        assert {int(abs(c[1] - c[0])) for c in chosen} == steps
    assert all(annotated[c[0]] for c in chosen)


def test_there_may_be_no_clip() -> None:
    rng = np.random.default_rng(0)
    assert draw_frames(rng, np.ones(4, bool), 5, (1, 1)) is None
    assert draw_frames(rng, np.arange(7) == 3, 6, (1, 1)) is None


# Folders as of VOS data sets


def test_a_folder_gives_clips_of_its_videos(tmp_path: Path) -> None:
    make_video(tmp_path, "one", annotated=[0, 5])
    make_video(tmp_path, "two")
    (tmp_path / "JPEGImages" / "three").mkdir()
    source = vos(tmp_path)

    some_sparse = False
    for seed in range(20):
        clip = source.sample(np.random.default_rng(seed), 4, (1, 2))
        assert clip.frames.shape == (4, HEIGHT, WIDTH, 3)
        assert clip.annotated[0]
        assert clip.labels[0].any()
        numbers = [number_of(frame) for frame in clip.frames]
        assert np.ptp(np.diff(numbers)) == 0
        whole = labels_of(10)
        for t, number in enumerate(numbers):
            expected = whole[number] if clip.annotated[t] else 0
            np.testing.assert_array_equal(clip.labels[t], expected)
        some_sparse = some_sparse or not clip.annotated.all()
    assert some_sparse


def test_videos_may_be_chosen_by_name_or_in_a_file(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        make_video(tmp_path, name)
    names = tmp_path / "names.txt"
    names.write_text("two\n\n one \n", encoding="utf-8")

    assert [v.name for v in vos(tmp_path, ["three"]).validation_videos()] == ["three"]
    assert [v.name for v in vos(tmp_path, names).validation_videos()] == ["two", "one"]
    assert len(vos(tmp_path).validation_videos()) == 3


def test_a_validation_video_is_whole(tmp_path: Path) -> None:
    make_video(tmp_path, "one", annotated=[2, 5])

    (video,) = vos(tmp_path).validation_videos()
    frames, labels, annotated = video.open()

    assert frames.shape == (10, HEIGHT, WIDTH)
    assert labels[0].shape == (HEIGHT, WIDTH)
    assert np.flatnonzero(annotated).tolist() == [2, 5]
    np.testing.assert_array_equal(labels[5], labels_of(10)[5])
    assert not labels[0].any()
    assert number_of(frames.frame(3)) == 3


def test_255_is_void_in_8_bits_and_gray_pngs_hold_numbers(tmp_path: Path) -> None:
    make_video(tmp_path, "one", frames=2)
    folder = tmp_path / "Annotations" / "one"
    label = labels_of(1)[0]
    label[0] = 255
    save_png(folder / "00000.png", label)
    deep = labels_of(2)[1].astype(np.uint16) * 300
    deep[0] = 255
    Image.fromarray(deep).save(folder / "00001.png")

    clip = vos(tmp_path).sample(np.random.default_rng(0), 2, (1, 1))

    assert sorted(np.unique(clip.labels).tolist()) == [VOID, 0, 1, 2, 255, 300, 600]
    (video,) = vos(tmp_path).validation_videos()
    _, labels, _ = video.open()
    assert [(labels[t][0, 0], labels[t].dtype) for t in range(2)] == [(VOID, np.int16), (255, np.uint16)]


def test_a_frame_of_nothing_but_void_shows_no_object(tmp_path: Path) -> None:
    make_video(tmp_path, "one", frames=3)
    for file in (tmp_path / "Annotations" / "one").iterdir():
        save_png(file, labels_of(1)[0], palette=False)
    void = np.zeros((HEIGHT, WIDTH), np.uint8)
    void[:3] = 255
    save_png(tmp_path / "Annotations" / "one" / "00001.png", void, palette=False)

    clip = vos(tmp_path).sample(np.random.default_rng(0), 3, (1, 1))

    assert [(label > 0).any() for label in clip.labels] == [True, False, True]
    assert [(label == VOID).any() for label in clip.labels] == [False, True, False]


def test_pictures_of_16_bits_are_seen_as_they_are_tracked(tmp_path: Path) -> None:
    make_video(tmp_path, "one", frames=3)
    for t in range(3):
        deep = clip_of(3).frames[t, ..., 0].astype(np.uint16) * 16
        Image.fromarray(deep).save(tmp_path / "JPEGImages" / "one" / f"{t:05d}.png")
    source = vos(tmp_path)

    clip = source.sample(np.random.default_rng(0), 1, (1, 1))

    (video,) = source.validation_videos()
    frames = video.open()[0]
    assert any(np.array_equal(clip.frames[0], frames.frame(t)) for t in range(3))
    assert len(np.unique(clip.frames)) > 2


def spoil_size(root: Path) -> None:
    save_png(root / "Annotations" / "one" / "00000.png", labels_of(1, 24, 32)[0])


def spoil_picture_size(root: Path) -> None:
    Image.new("RGB", (32, 24)).save(root / "JPEGImages" / "one" / "00001.png")


def spoil_colours(root: Path) -> None:
    Image.fromarray(COLOURS[labels_of(1)[0]]).save(root / "Annotations" / "one" / "00000.png")


def spoil_binary(root: Path) -> None:
    label = (labels_of(1)[0] > 0).astype(np.uint8) * 255
    save_png(root / "Annotations" / "one" / "00000.png", label, palette=False)


def spoil_annotation(root: Path) -> None:
    (root / "Annotations" / "one" / "00000.png").write_bytes(b"no PNG")


def spoil_picture(root: Path) -> None:
    (root / "JPEGImages" / "one" / "00001.png").write_bytes(b"no PNG")


def empty_annotations(root: Path) -> None:
    save_png(root / "Annotations" / "one" / "00000.png", np.zeros((HEIGHT, WIDTH), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_size, r"annotation .*00000.png' is 24 x 32 pixels .* while the picture .* is 48 x 64"),
        (spoil_picture_size, r"is 48 x 64 pixels .* while the picture .*00001.png' is 24 x 32"),
        (spoil_colours, r"is a RGB picture; it must be a palette or gray PNG"),
        (spoil_binary, r"has no pixels but 0 and 255, and 255 is void"),
        (spoil_annotation, r"The annotation .* cannot be read"),
        (spoil_picture, r"The picture .*00001.png' cannot be read"),
        (empty_annotations, r"No clip of 2 frames from .* begins with an annotated frame"),
    ],
)
def test_files_that_do_not_fit_are_said_when_they_are_read(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    make_video(tmp_path, "one", frames=2, annotated=[0])
    spoil(tmp_path)

    with pytest.raises(UsageError, match=said):
        vos(tmp_path).sample(np.random.default_rng(0), 2, (1, 1))


def test_videos_shorter_than_a_clip_are_said(tmp_path: Path) -> None:
    make_video(tmp_path, "one", frames=2)

    with pytest.raises(UsageError, match=r"No clip of 3 frames from .*; annotate more frames, or take fewer"):
        vos(tmp_path).sample(np.random.default_rng(0), 3, (1, 1))


def test_what_is_used_of_a_folder_is_said(tmp_path: Path) -> None:
    make_video(tmp_path, "one", annotated=[0, 5])
    make_video(tmp_path, "two")

    assert vos(tmp_path).summary(6) == ["2 videos, 12 annotated frames"]
    assert vos(tmp_path, ["one"]).summary(6) == ["1 video, 2 annotated frames"]


def only_zero_and_void(root: Path) -> None:
    for file in (root / "Annotations" / "b").iterdir():
        save_png(file, np.full((HEIGHT, WIDTH), 255, np.uint8), palette=False)


def no_objects(root: Path) -> None:
    for file in (root / "Annotations" / "b").iterdir():
        save_png(file, np.zeros((HEIGHT, WIDTH), np.uint8))


def other_names(root: Path) -> None:
    for file in (root / "Annotations" / "b").iterdir():
        if file.name != "00000.png":
            file.rename(file.with_name(f"mask_{file.name}"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: make_video(root, "short", frames=2), "'short' (too short for clips of 3 frames)"),
        (lambda root: (root / "JPEGImages" / "c").mkdir(), "'c' (in only one of the folders of pictures"),
        (
            lambda root: (root / "Annotations" / "c").mkdir(),
            "'c' (in only one of the folders of pictures",
        ),
        (
            only_zero_and_void,
            "'b' (with nothing but 0 and 255 in the annotations, where 255 is void)",
        ),
        (no_objects, "'b' (with no object in the annotations)"),
        (other_names, "'b/mask_00001.png', 'b/mask_00002.png' (annotations without a picture of their name)"),
        (
            lambda root: [make_video(root, f"short{i}", frames=1) for i in range(5)],
            "'short0', 'short1', 'short2', ... (5 in all, too short for clips of 3 frames)",
        ),
    ],
)
def test_what_is_not_used_of_a_folder_is_said(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    for name in ("a", "b"):
        make_video(tmp_path, name, frames=3)
    spoil(tmp_path)

    line, *_ = vos(tmp_path).summary(3)

    assert "; not used: " in line
    assert said in line


def test_folders_of_masks_of_0_and_255_are_refused_at_once(tmp_path: Path) -> None:
    make_video(tmp_path, "b", frames=3)
    only_zero_and_void(tmp_path)

    with pytest.raises(UsageError, match="has no pixels but 0 and 255"):
        vos(tmp_path).summary(3)


def test_folders_that_do_not_fit_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder '.*JPEGImages'; it must hold a folder of pictures"):
        vos(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(UsageError, match=r"no folder '.*Annotations'; it must hold a folder of annotations"):
        vos(tmp_path)
    (tmp_path / "Annotations" / "b").mkdir(parents=True)
    (tmp_path / "JPEGImages" / "a").mkdir()
    with pytest.raises(UsageError, match=r"No folder in .* has the name of one in .* \('a'; 'b'\)"):
        vos(tmp_path)
    (tmp_path / "JPEGImages" / "b").mkdir()
    with pytest.raises(UsageError, match="holds no JPEG or PNG pictures"):
        vos(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages" / "b" / "1.jpg")
    with pytest.raises(UsageError, match=r"No picture of '.*b' is annotated: .* such as '1.png'\. Rename"):
        vos(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "Annotations" / "b" / "mask1.png")
    with pytest.raises(UsageError, match=r"such as '1.png'; its first is 'mask1.png'"):
        vos(tmp_path)
    with pytest.raises(UsageError, match=r"'a' has no folder in '.*Annotations', which has: 'b'"):
        vos(tmp_path, ["a"])
    with pytest.raises(UsageError, match=r"list of videos .* cannot be read"):
        vos(tmp_path, tmp_path / "missing.txt")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"list of videos .* is empty"):
        vos(tmp_path, str(tmp_path / "empty.txt"))


# Videos with label volumes


def save_labelled(root: Path, labels: np.ndarray, frames: int = 10) -> tuple[Path, Path]:
    video, target = root / "video.tif", root / "labels.tif"
    tifffile.imwrite(video, clip_of(frames).frames, photometric="rgb")
    tifffile.imwrite(target, labels, compression="zlib", photometric="minisblack")
    return video, target


def pair(root: Path, labels: np.ndarray, sparse: bool | None = None, void: int | None = None) -> LabelPair:
    video, target = save_labelled(root, labels)
    return LabelPair(str(video), str(target), sparse, void)


def many_pairs(root: Path, count: int) -> list[LabelPair]:
    """Up to 10 videos, each a little brighter than the one before."""
    pairs = []
    for number in range(count):
        (root / str(number)).mkdir()
        pairs.append(pair(root / str(number), labels_of(10)))
        tifffile.imwrite(pairs[-1].video, clip_of(10).frames + np.uint8(number), compression="zlib")
    return pairs


def open_files(root: Path) -> int:
    """How many files in a folder this process has open."""
    return sum(link.resolve().is_relative_to(root.resolve()) for link in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="lists open files as Linux does")
def test_what_is_open_does_not_grow_with_the_number_of_videos(tmp_path: Path) -> None:
    source = LabelledVideos(many_pairs(tmp_path, 7))
    assert open_files(tmp_path) == 0

    seen, most = set(), 0
    for seed in range(25):
        clip = source.sample(np.random.default_rng(seed), 2, (1, 2))
        seen.add(int(clip.frames[0, 0, 0, 0]) % 10)
        most = max(most, open_files(tmp_path))
    assert seen == set(range(7))
    assert 0 < most <= 2 * 4  # a video and its labels


def test_a_clip_follows_from_its_seed_whichever_videos_are_open(tmp_path: Path) -> None:
    source = LabelledVideos(many_pairs(tmp_path, 7))
    seeds = range(20)
    clips = [source.sample(np.random.default_rng(seed), 2, (1, 2)) for seed in seeds]
    again = [source.sample(np.random.default_rng(seed), 2, (1, 2)) for seed in reversed(seeds)]
    for clip, other in zip(clips, reversed(again), strict=True):
        np.testing.assert_array_equal(clip.frames, other.frames)
        np.testing.assert_array_equal(clip.labels, other.labels)


def test_labels_are_known_from_the_first_to_the_last(tmp_path: Path) -> None:
    labels = labels_of(10).astype(np.uint16)
    labels[:2] = labels[8:] = labels[4] = 0
    source = LabelledVideos([pair(tmp_path, labels)])

    (video,) = source.validation_videos()
    frames, found, annotated = video.open()
    assert np.flatnonzero(annotated).tolist() == [2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal([found[t] for t in range(10)], labels)
    assert frames.shape == (10, HEIGHT, WIDTH)
    for seed in range(20):
        clip = source.sample(np.random.default_rng(seed), 4, (1, 2))
        assert clip.labels[0].any()
        for t, frame in enumerate(clip.frames):
            np.testing.assert_array_equal(clip.labels[t], labels[number_of(frame)])
            assert clip.annotated[t] == (2 <= number_of(frame) <= 7)


def test_frames_that_nobody_has_labelled_show_nothing_of_what_is_not_there(tmp_path: Path) -> None:
    labels = labels_of(10)
    labels[1::2] = 0
    for sparse, known in ((False, range(9)), (True, range(0, 10, 2))):
        (video,) = LabelledVideos([pair(tmp_path, labels, sparse)]).validation_videos()
        assert np.flatnonzero(video.open()[2]).tolist() == list(known)


def test_the_channel_that_was_labelled_can_be_trained_on(tmp_path: Path) -> None:
    labels = labels_of(10)
    one = pair(tmp_path, labels)
    stack = np.stack([np.full_like(labels, 10), np.full_like(labels, 90)], axis=1).astype(np.uint8)
    tifffile.imwrite(one.video, stack, metadata={"axes": "TCYX"}, ome=True)

    for channel, value in ((0, 10), (1, 90)):
        source = LabelledVideos([dataclasses.replace(one, channel=channel)])
        _, note = source.summary(2)
        assert note.startswith(f"'video': The stack has 2 channels: channel {channel} is used")
        assert (source.sample(np.random.default_rng(0), 2, (1, 1)).frames == value).all()


def frames_with_labels(*shows: bool) -> np.ndarray:
    """Ten frames, of which those show something that are said to."""
    labels = labels_of(10)
    labels[[not x for x in np.resize(shows, 10)]] = 0
    return labels


def test_it_must_be_said_whether_labels_that_look_sparse_are(tmp_path: Path) -> None:
    every_third = frames_with_labels(True, False, False)

    with pytest.raises(UsageError, match=r"in 4 of the 10 frames .* 4 of these stand alone\. Set"):
        LabelledVideos([pair(tmp_path, every_third)]).summary(2)
    source = LabelledVideos([pair(tmp_path, every_third, True)])
    assert source.summary(2, (1, 3)) == ["1 video, 4 annotated frames"]
    assert LabelledVideos([pair(tmp_path, every_third, False)]).summary(2) == ["1 video, 10 annotated frames"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64])
def test_what_is_void_in_own_labels_is_said_by_the_pair(tmp_path: Path, dtype: type) -> None:
    labels = labels_of(10).astype(dtype)
    labels[3, 0] = 200
    source = LabelledVideos([pair(tmp_path, labels, void=200)])

    (video,) = source.validation_videos()
    _, found, _ = video.open()
    wanted = labels_of(10).astype(int)
    wanted[3, 0] = VOID
    for t in range(10):
        np.testing.assert_array_equal(found[t], wanted[t])
    for seed in range(10):
        clip = source.sample(np.random.default_rng(seed), 4, (1, 2))
        for t, frame in enumerate(clip.frames):
            np.testing.assert_array_equal(clip.labels[t], wanted[number_of(frame)])


def test_frames_with_nothing_but_void_show_no_object(tmp_path: Path) -> None:
    labels = labels_of(10)
    labels[:2] = 0
    labels[:2, 5] = 9
    (video,) = LabelledVideos([pair(tmp_path, labels, void=9)]).validation_videos()
    assert np.flatnonzero(video.open()[2]).tolist() == list(range(2, 10))
    labels[labels < 9] = 0
    with pytest.raises(UsageError, match=r"are empty but for 9, which is void; label at least one frame"):
        LabelledVideos([pair(tmp_path, labels, void=9)])


def test_it_must_be_said_whether_255_among_own_labels_is_void(tmp_path: Path) -> None:
    labels = labels_of(10)
    labels[4, 0] = 255

    for sparse in (None, True, False):
        with pytest.raises(UsageError, match=r"Set void = 255 in this pair .* or void = 0 if they are an"):
            LabelledVideos([pair(tmp_path, labels, sparse)]).summary(2)
    for void, ids in ((255, {VOID, 0, 1, 2}), (0, {0, 1, 2, 255})):
        source = LabelledVideos([pair(tmp_path, labels, void=void)])
        assert len(source.summary(2)) == 1
        assert set(np.unique(source.sample(np.random.default_rng(0), 10, (1, 1)).labels).tolist()) == ids


def test_masks_of_0_and_255_and_numbers_up_to_255_are_objects(tmp_path: Path) -> None:
    many = labels_of(10)
    many[:, 0, 1::2], many[:, 1, ::2] = 254, 255
    for labels in (labels_of(10) // 2 * 255, many, labels_of(10).astype(np.uint16) * 255):
        source = LabelledVideos([pair(tmp_path, labels)])
        assert len(source.summary(2)) == 1
        assert source.sample(np.random.default_rng(0), 2, (1, 1)).labels.max() >= 255


def test_objects_that_are_out_of_view_for_long_are_a_note(tmp_path: Path) -> None:
    for_long = frames_with_labels(True, True, *[False] * 6, True, True)
    seldom = frames_with_labels(*[True] * 9)
    first_only = frames_with_labels(True, *[False] * 9)

    line, note = LabelledVideos([pair(tmp_path, for_long)]).summary(2)
    assert line == "1 video, 10 annotated frames"
    assert "6 of the 10 frames between the first and the last label show nothing and count as showing" in note
    assert len(LabelledVideos([pair(tmp_path, for_long, False)]).summary(2)) == 1
    assert len(LabelledVideos([pair(tmp_path, seldom)]).summary(2)) == 1
    assert len(LabelledVideos([pair(tmp_path, first_only)]).summary(1)) == 1


def test_labelled_videos_shorter_than_a_clip_are_told(tmp_path: Path) -> None:
    (line,) = LabelledVideos([pair(tmp_path, labels_of(10))]).summary(11)
    assert line == "0 videos, 0 annotated frames; not used: 'video' (too short for clips of 11 frames)"


def test_a_damaged_frame_of_labels_is_named(tmp_path: Path) -> None:
    labelled = pair(tmp_path, labels_of(10))
    path = Path(labelled.labels)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[4].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    source = LabelledVideos([labelled])  # read from both ends

    with pytest.raises(UsageError, match=r"Frame 4 of the labels .*labels\.tif cannot be read"):
        source.summary(2)


def test_a_damaged_frame_of_a_zarr_is_named(tmp_path: Path) -> None:
    video, _ = save_labelled(tmp_path, labels_of(10))
    write_zarr(tmp_path / "labels.zarr", labels_of(10))
    (tmp_path / "labels.zarr" / "c" / "4" / "0" / "0").write_bytes(b"damaged")
    source = LabelledVideos([LabelPair(str(video), str(tmp_path / "labels.zarr"))])

    with pytest.raises(UsageError, match=r"Frame 4 of the labels '.*labels\.zarr' cannot be read"):
        source.summary(2)


def test_the_one_frame_with_an_object_is_always_found(tmp_path: Path) -> None:
    labels = np.zeros_like(labels_of(10))
    labels[0] = labels[9] = labels_of(1)[0]
    source = LabelledVideos([pair(tmp_path, labels)])
    for seed in range(30):
        assert source.sample(np.random.default_rng(seed), 4, (1, 2)).labels[0].any()


def test_a_picture_and_its_labels_are_a_still(tmp_path: Path) -> None:
    Image.fromarray(clip_of(1).frames[0]).save(tmp_path / "picture.png")
    save_png(tmp_path / "labels.png", labels_of(1)[0])

    source = LabelledVideos([LabelPair(str(tmp_path / "picture.png"), str(tmp_path / "labels.png"))])

    assert source.sample(np.random.default_rng(0), 1, (1, 3)).labels.shape == (1, HEIGHT, WIDTH)
    with pytest.raises(UsageError, match="No clip of 2 frames from the labelled videos"):
        source.sample(np.random.default_rng(0), 2, (1, 3))


def test_labels_that_do_not_fit_are_said(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"have the shape \(9, 48, 64\), while the video .* has \(10, 48, 64\)"
    ):
        LabelledVideos([pair(tmp_path, labels_of(9))])
    with pytest.raises(UsageError, match="are empty; label at least one frame"):
        LabelledVideos([pair(tmp_path, np.zeros_like(labels_of(10)))])
    with pytest.raises(UsageError, match="There are no videos to train on"):
        LabelledVideos([])
    with pytest.raises(UsageError, match="has the value -1; objects are numbered from 1"):
        LabelledVideos([pair(tmp_path, -(labels_of(10) == 1).astype(np.int16))]).sample(
            np.random.default_rng(0), 2, (1, 1)
        )


@pytest.mark.parametrize(
    ("every", "frames", "steps", "remedy"),
    [
        (4, 3, (1, 1), "set a frame_step that goes up to 2 in [run], or annotate frames that lie closer"),
        (4, 3, (1, 2), None),
        (5, 6, (1, 1), None),
        (5, 3, (1, 5), "set another number of frames in [run], or annotate frames that lie closer"),
        (5, 1, (1, 1), None),
    ],
)
def test_clips_that_never_come_upon_a_second_annotated_frame_are_told(
    tmp_path: Path, every: int, frames: int, steps: tuple[int, int], remedy: str | None
) -> None:
    """As where a data set has one annotated frame a second: memory would learn nothing all night."""
    make_video(tmp_path, "a", annotated=range(0, 10, every))
    sparse = np.zeros_like(labels_of(10))
    sparse[::every] = labels_of(10)[::every]

    for source in (vos(tmp_path), LabelledVideos([pair(tmp_path, sparse, True)])):
        _, *notes = source.summary(frames, steps)
        assert len(notes) == (remedy is not None)
        if remedy is not None:
            assert f"no clip of {frames} frames comes upon a second annotated frame" in notes[0]
            assert remedy in notes[0]
        clips = [source.sample(np.random.default_rng(seed), frames, steps) for seed in range(10)]
        assert any(clip.annotated[1:].any() for clip in clips) == (remedy is None and frames > 1)


# Augmentation


def augment(
    clip: SampledClip,
    rng: np.random.Generator,
    settings: AugmentationSettings,
    size: int,
    objects: int,
) -> TrainingClip:
    """Draw what is seen of a clip, and take its pictures."""
    return look(clip, rng, settings, size, objects).take(rng, settings)


def nearest_colour(frames: torch.Tensor) -> np.ndarray:
    """Tell the objects by their colours; the ground is gray."""
    pixels = frames.numpy().astype(int)
    strongest, spread = pixels.argmax(-1) + 1, np.ptp(pixels, axis=-1)
    return np.where(spread > 60, strongest, 0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip": True},
        {"reverse": True},
        {"crop": (0.5, 0.9)},
        {"affine": 0.3},
        {"letterbox": 1.0},
        {"letterbox": 1.0, "affine": 0.2, "flip": True},
        {"flip": True, "reverse": True, "crop": (0.6, 1.0), "affine": 0.2, "colour": 0.2, "blur": 0.5},
    ],
    ids=lambda changes: "+".join(changes) or "off",
)
@pytest.mark.parametrize(("height", "width", "size"), [(96, 128, 96), (60, 50, 128), (300, 400, 96)])
def test_masks_stay_on_their_objects(
    changes: dict[str, Any], seed: int, height: int, width: int, size: int
) -> None:
    clip = augment(clip_of(4, height, width), np.random.default_rng(seed), OFF.replace(**changes), size, 3)

    assert clip.frames.shape == (4, size, size, 3)
    assert clip.frames.dtype == torch.uint8
    assert clip.masks.dtype == clip.annotated.dtype == torch.bool
    assert clip.masks.shape[1:] == (4, size, size)
    assert clip.masks[:, 0].flatten(1).any(1).all()
    seen = nearest_colour(clip.frames)
    for mask in clip.masks.numpy():
        (object_id,) = {int(np.bincount(seen[t][mask[t]]).argmax()) for t in range(4) if mask[t].any()}
        assert object_id in (1, 2)
        wanted = seen == object_id
        assert (mask & wanted).sum() > 0.85 * (mask | wanted).sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip": True, "reverse": True, "crop": (0.6, 1.0)},
        {"flip": True, "reverse": True, "crop": (0.6, 1.0), "affine": 0.2},
        {"letterbox": 1.0, "affine": 0.1},
    ],
    ids=lambda changes: "+".join(changes) or "off",
)
@pytest.mark.parametrize(("height", "width", "size"), [(96, 128, 96), (60, 50, 128), (300, 400, 96)])
def test_void_stays_where_it_is(
    changes: dict[str, Any], seed: int, height: int, width: int, size: int
) -> None:
    source = clip_of(4, height, width)
    labels = source.labels.astype(np.int16)
    labels[:, height // 3 : 2 * height // 3, width // 4 : 3 * width // 4] = VOID  # a part of the objects too
    pictures = np.where(labels[..., None] == VOID, COLOURS[3], source.frames)

    marked = SampledClip(pictures, labels, source.annotated)
    clip = augment(marked, np.random.default_rng(seed), OFF.replace(**changes), size, 3)

    assert clip.void is not None
    assert clip.void.shape == (4, size, size)
    assert not (clip.masks & clip.void).any()
    wanted = nearest_colour(clip.frames) == 3
    void = clip.void.numpy()
    assert (void & wanted).sum() > 0.9 * (void | wanted).sum()


def test_a_clip_has_void_only_where_it_is_annotated() -> None:
    source = clip_of(3)
    assert augment(source, np.random.default_rng(0), OFF, 64, 2).void is None
    labels = source.labels.astype(np.int16)
    labels[2, 0] = VOID
    sparse = SampledClip(source.frames, labels, np.array([True, True, False]))
    assert augment(sparse, np.random.default_rng(0), OFF, 64, 2).void is None


def test_void_is_no_object_to_follow_or_to_begin_with() -> None:
    source = clip_of(2)
    labels = np.where(source.labels == 2, VOID, source.labels.astype(np.int16))
    labels[1][labels[1] == 1] = VOID
    void = SampledClip(source.frames, labels, source.annotated)

    for seed in range(10):  # never backwards, for the last frame shows no object
        looked = look(void, np.random.default_rng(seed), OFF.replace(reverse=True), 64, 3)
        clip = looked.take(np.random.default_rng(seed), OFF)
        assert clip.masks.flatten(2).any(2).tolist() == [[True, False]]
        assert number_of(clip.frames[0].numpy()) == 0
    assert not looked.has_absence  # it may be where the void is


def test_an_object_is_absent_where_void_is_too_narrow_to_hide_it() -> None:
    source = clip_of(2, 96, 96)
    labels = source.labels.astype(np.int16)
    labels[1][labels[1] == 2] = 0
    labels[1, 40:42] = VOID
    marked = SampledClip(source.frames, labels, source.annotated)
    assert look(marked, np.random.default_rng(0), OFF, 96, 2).has_absence
    labels[1, 40:50] = VOID
    assert not look(marked, np.random.default_rng(0), OFF, 96, 2).has_absence


def test_without_changes_the_clip_is_only_resized() -> None:
    source = clip_of(3, 96, 96)

    clip = augment(source, np.random.default_rng(0), OFF, 96, 5)

    np.testing.assert_array_equal(clip.frames.numpy(), source.frames)
    assert len(clip.masks) == 2
    assert {int(source.labels[0][mask[0].numpy()].max()) for mask in clip.masks} == {1, 2}


def test_a_letterboxed_clip_shows_the_whole_picture_between_black_bars() -> None:
    sides = 0
    for seed in range(20):
        source = clip_of(2, 96, 96)
        bright = SampledClip(source.frames.clip(40), source.labels, source.annotated)
        clip = augment(bright, np.random.default_rng(seed), OFF.replace(letterbox=1.0), 96, 1)
        dark = clip.frames[0].amax(-1) == 0
        columns, rows = dark.all(0).sum(), dark.all(1).sum()
        assert bool(columns > 0) != bool(rows > 0)
        assert 3 <= columns + rows <= 37  # up to three eighths
        sides += bool(columns > 0)
        assert not clip.masks[0, 0][dark].any()
    assert sides > 12


def test_frames_without_annotation_have_no_masks_and_come_not_first() -> None:
    whole = clip_of(3)
    source = SampledClip(whole.frames, whole.labels, np.array([True, True, False]))
    settings = OFF.replace(reverse=True)

    for seed in range(10):
        clip = augment(source, np.random.default_rng(seed), settings, 64, 2)
        assert clip.annotated.tolist() == [True, True, False]
        assert not clip.masks[:, 2].any()
        assert clip.masks[:, 1].any()


def test_every_second_clip_is_turned() -> None:
    numbers = set()
    for seed in range(20):
        clip = augment(clip_of(3), np.random.default_rng(seed), OFF.replace(reverse=True), 64, 1)
        numbers.add(tuple(number_of(frame) for frame in clip.frames.numpy()))
    assert numbers == {(0, 1, 2), (2, 1, 0)}


def test_as_many_objects_as_wanted_are_drawn() -> None:
    chosen = set()
    for seed in range(20):
        clip = augment(clip_of(2), np.random.default_rng(seed), OFF, 64, 1)
        assert len(clip.masks) == 1
        chosen.add(int(nearest_colour(clip.frames)[0][clip.masks[0, 0].numpy()].max()))
    assert chosen == {1, 2}


def test_objects_that_leave_come_first_where_that_is_wanted() -> None:
    whole = clip_of(3)
    whole.labels[2][whole.labels[2] == 2] = 0

    for seed in range(8):
        looked = look(whole, np.random.default_rng(seed), OFF, 64, 1, leaving=True)
        assert looked.has_absence
        assert looked.masks[0].flatten(1).any(1).tolist() == [True, True, False]
    both = look(whole, np.random.default_rng(0), OFF, 64, 2, leaving=True)
    assert len(both.masks) == 2
    assert not look(clip_of(3), np.random.default_rng(0), OFF, 64, 2, leaving=True).has_absence


def test_what_is_not_annotated_is_not_absent() -> None:
    whole = clip_of(3)
    sparse = SampledClip(whole.frames, whole.labels, np.array([True, False, True]))

    assert not look(sparse, np.random.default_rng(0), OFF, 64, 2, leaving=True).has_absence


def test_objects_that_are_tiny_or_come_later_are_not_followed() -> None:
    whole = clip_of(2, 256, 256)
    whole.labels[0][whole.labels[0] == 2] = 0
    whole.labels[:, 0, :3] = 3

    assert len(augment(whole, np.random.default_rng(0), OFF, 256, 5).masks) == 1
    whole.labels[0][whole.labels[0] == 1] = 0
    with pytest.raises(NoObjectError, match=r"covers 0.05% of the picture"):
        augment(whole, np.random.default_rng(0), OFF, 256, 5)


def test_a_crop_keeps_an_object() -> None:
    clip = clip_of(2, 128, 128)
    clip.labels[clip.labels == 2] = 0

    for seed in range(30):
        settings = OFF.replace(crop=(0.2, 0.3))
        assert augment(clip, np.random.default_rng(seed), settings, 64, 3).masks[0, 0].any()


def test_gray_is_gray_and_colours_change_alike_in_all_frames() -> None:
    source = SampledClip(
        np.full((3, 32, 32, 3), (150, 90, 60), np.uint8), np.ones((3, 32, 32), int), np.ones(3, bool)
    )

    gray = augment(source, np.random.default_rng(0), OFF.replace(gray=1), 32, 1).frames.int()
    assert int((gray.amax(-1) - gray.amin(-1)).max()) <= 1
    for seed in range(10):
        frames = augment(source, np.random.default_rng(seed), OFF.replace(colour=0.5), 32, 1).frames.float()
        means = frames.mean((1, 2))
        assert (means - torch.tensor([150.0, 90, 60])).abs().max() > 2
        assert (means - means.mean(0)).abs().max() < 12


def test_light_changes_alike_in_all_frames_and_leaves_masks_alone() -> None:
    ground = np.full((2, 48, 48, 3), 90, np.uint8)
    ground[:, 20:30, 20:30] = 180
    labels = np.zeros((2, 48, 48), np.uint8)
    labels[:, 20:30, 20:30] = 1
    source = SampledClip(ground, labels, np.ones(2, bool))
    curves, fields = set(), []
    for seed in range(20):
        lit = augment(source, np.random.default_rng(seed), OFF.replace(light=1.0), 48, 1)
        plain = augment(source, np.random.default_rng(seed), OFF, 48, 1)
        assert torch.equal(lit.masks, plain.masks)
        assert torch.equal(lit.frames[0], lit.frames[1])
        assert (lit.frames[..., :1] == lit.frames).all()  # gray stays gray
        outside = lit.frames[0, ..., 0][~lit.masks[0, 0]]
        fields.append(float(outside.float().std()))
        curves.add(int(outside.float().mean()))
    assert max(fields) > 20  # uneven
    assert min(fields) < 5
    assert len(curves) > 10


# Loading


def run_settings(root: Path, workers: int = 0, **changes: Any) -> TrainingSettings:
    sources = [
        {
            "kind": "vos",
            "images": str(root / "JPEGImages"),
            "annotations": str(root / "Annotations"),
            "videos": [name],
            "weight": weight,
        }
        for name, weight in (("one", 3), ("two", 1))
    ]
    run = {"steps": 4, "batch_size": 2, "frames": 3, "seed": 5, "workers": workers, **changes}
    return TrainingSettings.from_dict({"output": str(root / "run"), "training": sources, "run": run})


def same(a: Sequence[TrainingClip], b: Sequence[TrainingClip]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.frames, y.frames)
        and torch.equal(x.masks, y.masks)
        and torch.equal(x.annotated, y.annotated)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_video(tmp_path, "one", frames=12)
    make_video(tmp_path, "two", frames=6, annotated=[0, 2])
    return tmp_path


def test_a_clip_follows_from_seed_step_and_place(data: Path) -> None:
    sampler, again = (ClipSampler(run_settings(data), 64) for _ in range(2))
    other = ClipSampler(run_settings(data, seed=6), 64)

    clips = [sampler.sample(step, index) for step in range(3) for index in range(2)]
    repeated = [again.sample(step, index) for step in reversed(range(3)) for index in (1, 0)]

    assert same(clips, repeated[::-1])
    assert not any(same([a], [b]) for i, a in enumerate(clips) for b in clips[:i])
    assert not same([clips[0]], [other.sample(0, 0)])


def test_batches_go_on_where_a_run_stopped(data: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = list(ClipSampler(run_settings(data), 64).batches())
    rest = list(ClipSampler(run_settings(data), 64).batches(2))

    assert [len(batch) for batch in whole] == [2, 2, 2, 2]
    assert len(rest) == 2
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert list(ClipSampler(run_settings(data), 64).batches(4)) == []
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core only
def test_workers_make_the_same_batches_and_hand_over_errors(data: Path) -> None:
    alone = ClipSampler(run_settings(data), 64)
    sampler = ClipSampler(run_settings(data, workers=2), 64)
    torch.manual_seed(0)
    before = torch.get_rng_state()

    batches = list(sampler.batches(1))

    assert len(batches) == 3
    assert all(same(a, b) for a, b in zip(batches, alone.batches(1), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("frames", "said"), [(3, ""), (13, "No clip of 13 frames from")])
def test_workers_do_not_keep_python_from_ending(data: Path, tmp_path: Path, frames: int, said: str) -> None:
    """As where an error's traceback keeps hold of the clips to come, or the error is one of theirs."""
    settings = run_settings(data, workers=1, steps=100, frames=frames).to_dict()
    code = (
        "from napari_surgsam2.training.loading import ClipSampler\n"
        "from napari_surgsam2.training.settings import TrainingSettings\n"
        "if __name__ == '__main__':\n"
        f"    settings = TrainingSettings.from_dict({settings!r})\n"
        "    batches = ClipSampler(settings, 64).batches()\n"
        "    import sys\n"
        "    sys.kept = batches\n"
        "    try:\n"
        "        next(batches)\n"
        "    except ValueError as error:\n"
        "        sys.exit(str(error))\n"
    )
    (tmp_path / "main.py").write_text(code)

    command = [sys.executable, "-W", "ignore", "main.py"]
    ended = subprocess.run(command, cwd=tmp_path, timeout=60, check=False, capture_output=True, text=True)

    assert ended.stderr.startswith(said)
    assert bool(ended.stderr) == bool(ended.returncode) == bool(said)


def test_an_error_in_a_worker_is_raised_as_it_is(data: Path) -> None:
    sampler = ClipSampler(run_settings(data, workers=1, frames=13), 64)

    with pytest.raises(UsageError, match=r"^No clip of 13 frames from"):
        next(sampler.batches())


def test_sources_are_drawn_by_weight(data: Path) -> None:
    sampler = ClipSampler(run_settings(data), 32)

    sparse = sum(not sampler.sample(step, 0).annotated.all() for step in range(80))

    assert 8 <= sparse <= 32  # a quarter, within three standard deviations


def test_clips_that_an_object_leaves_can_be_asked_for(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_video(tmp_path, name, frames=12)
        for file in sorted((tmp_path / "Annotations" / name).glob("*.png"))[10:]:
            save_png(file, np.zeros((HEIGHT, WIDTH), np.uint8))

    def share(absence: float) -> float:
        sampler = ClipSampler(run_settings(tmp_path, absence=absence, frame_step=[1, 1]), 32)
        clips = [sampler.sample(step, 0) for step in range(40)]
        return float(np.mean([not c.masks[:, c.annotated].flatten(2).any(2).all() for c in clips]))

    assert share(0.0) < 0.4 < 0.8 < share(1.0)


def test_clips_that_show_too_little_are_said(tmp_path: Path) -> None:
    make_video(tmp_path, "one", frames=3)
    make_video(tmp_path, "two", frames=3)
    for file in (tmp_path / "Annotations").rglob("*.png"):
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        label[0, 0] = 1
        save_png(file, label)

    with pytest.raises(
        UsageError, match=r"\[\[training\]\] number \d: 300 clips were drawn\. No object.*smallest"
    ):
        ClipSampler(run_settings(tmp_path), 64).sample(0, 0)


def test_each_kind_of_source_is_made(tmp_path: Path) -> None:
    made = make_source(SourceSettings("synthetic", clips=2, length=3, size=(64, 64), scenes=("things",)))
    assert made.sample(np.random.default_rng(0), 2, (1, 1)).frames.shape == (2, 64, 64, 3)
    assert len(made.validation_videos()) == 2
    video, labels = save_labelled(tmp_path, labels_of(10))
    pair = {"video": str(video), "labels": str(labels)}
    assert isinstance(
        make_source(SourceSettings.from_dict({"kind": "labels", "pairs": [pair]})), LabelledVideos
    )

"""From a video and prompts to a label volume, in one call."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

import napari_surgsam2 as ns
from napari_surgsam2 import pipeline
from napari_surgsam2.checkpoints import Model
from napari_surgsam2.checkpoints.registry import RegistryEntry
from napari_surgsam2.errors import (
    CheckpointError,
    DeviceError,
    OutputError,
    PromptError,
    SurgSam2Error,
    UsageError,
)
from napari_surgsam2.masks import AlreadyCompleteError, LabelVolume, read_labels
from napari_surgsam2.pipeline import Reporting, TrackingInterruptedError, TrackJob, run_job
from tests.helpers.clips import moving_blobs
from tests.helpers.weights import rule_network

PROMPTS = [
    ns.Point(8, 25, 40, 1),
    ns.Point(8, 45, 60, 2),
    ns.Box(14, 30, 40, 60, 70, 2),
    ns.Point(3, 60, 80, 3),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model("tiny", Path("tiny"), rule_network(), 128, torch.device("cpu"))


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return moving_blobs()


@pytest.fixture(scope="module")
def expected(model, clip) -> np.ndarray:
    labels = ns.track(clip, PROMPTS, model=model)
    assert isinstance(labels, np.ndarray)
    assert labels.shape == clip.shape[:3]
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    return labels


def save_as(kind: str, clip: np.ndarray, folder: Path):
    path = folder / f"clip.{kind}"
    match kind:
        case "tif":
            tifffile.imwrite(path, clip, photometric="rgb")
        case "zarr":
            zarr.create_array(path, data=clip, chunks=(5, *clip.shape[1:]))
        case "png":
            path.mkdir()
            for t, frame in enumerate(clip):
                Image.fromarray(frame).save(path / f"frame{t}.png")
        case "dask":
            return pytest.importorskip("dask.array").from_array(clip, chunks=(7, -1, -1, -1))
    return path


@pytest.mark.parametrize("kind", ["tif", "zarr", "png", "dask"])
def test_the_same_frames_give_the_same_masks_from_any_source(kind, model, clip, expected, tmp_path) -> None:
    video = save_as(kind, clip, tmp_path)

    np.testing.assert_array_equal(ns.track(video, PROMPTS, model=model), expected)


@pytest.mark.parametrize("output", ["masks.tif", "masks.zarr", "masks"])
def test_outputs_hold_the_labels_and_nothing_is_left_beside_them(
    output, model, clip, expected, tmp_path
) -> None:
    labels = ns.track(clip, PROMPTS, model=model, output=tmp_path / output)

    np.testing.assert_array_equal(np.asarray(labels), expected)
    assert [p.name for p in tmp_path.iterdir()] == [output]


def test_pngs_are_called_as_the_pictures_that_they_are_of(model, clip, expected, tmp_path) -> None:
    """Truth is found by the names of its frames, and pictures need not be numbered from 0 on."""
    (tmp_path / "pictures").mkdir()
    names = [f"img{5 * t + 1}" for t in range(len(clip))]
    for name, frame in zip(names, clip, strict=True):
        Image.fromarray(frame).save(tmp_path / "pictures" / f"{name}.png")

    labels = ns.track(tmp_path / "pictures", PROMPTS, model=model, output=tmp_path / "masks")

    np.testing.assert_array_equal(np.asarray(labels), expected)
    for t, name in enumerate(names):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / f"{name}.png")), expected[t])
    assert len(list((tmp_path / "masks").iterdir())) == len(clip)


def test_coco_json_names_pictures_and_objects(model, clip, tmp_path) -> None:
    (tmp_path / "pictures").mkdir()
    names = [f"img {t}.bmp" for t in range(len(clip))]
    for name, frame in zip(names, clip, strict=True):
        Image.fromarray(frame).save(tmp_path / "pictures" / name)

    job = TrackJob(
        video=tmp_path / "pictures",
        prompts=PROMPTS,
        model=model,
        output=tmp_path / "masks.json",
        names={PROMPTS[0].object_id: "grasper"},
    )
    run_job(job)

    document = json.loads((tmp_path / "masks.json").read_text())
    assert [image["file_name"] for image in document["images"]] == names
    assert "grasper" in [category["name"] for category in document["categories"]]


def test_large_results_are_zarr_arrays(model, clip, expected) -> None:
    labels = ns.track(clip, PROMPTS, model=model, in_memory_bytes=1000)

    assert isinstance(labels, zarr.Array)
    np.testing.assert_array_equal(labels[:], expected)


def test_frames_outside_the_range_stay_background(model, clip) -> None:
    labels = ns.track(clip, PROMPTS, model=model, frames=(6, 11))

    visited = [t for t in range(len(clip)) if labels[t].any()]
    assert visited == [6, 7, 8, 9, 10]


def interrupt_after(n: int) -> Reporting:
    count = 0

    def tracked(*_) -> None:
        nonlocal count
        count += 1

    return Reporting(tracked=tracked, should_stop=lambda: count >= n)


@pytest.mark.parametrize("stops", [(1,), (7,), (24,), (5, 14, 3)])
def test_an_interrupted_run_resumed_gives_the_same_masks(stops, model, clip, expected, tmp_path) -> None:
    job = TrackJob(video=clip, prompts=PROMPTS, model=model, output=tmp_path / "masks.zarr", resume=True)
    for n in stops:
        with pytest.raises(TrackingInterruptedError, match="Go on with the same command and --resume"):
            run_job(job, interrupt_after(n))
        assert [p.name for p in tmp_path.iterdir()] == ["masks.zarr.partial.zarr"]

    outcome = run_job(job)

    np.testing.assert_array_equal(outcome.labels[:], expected)
    present = {i: int((expected == i).any(axis=(1, 2)).sum()) for i in (1, 2, 3)}
    assert outcome.frames_present == present
    assert [p.name for p in tmp_path.iterdir()] == ["masks.zarr"]


def test_an_error_on_the_way_keeps_what_is_done(model, clip, expected, tmp_path) -> None:
    class Breaks:
        shape, dtype, broken = clip.shape, clip.dtype, True

        def __getitem__(self, t):
            if self.broken and t == 17:
                raise OSError("the disk was pulled out")
            return clip[t]

    video = Breaks()
    job = TrackJob(video=video, prompts=PROMPTS, model=model, output=tmp_path / "masks.tif", resume=True)
    with pytest.raises(SurgSam2Error, match=r"Frame 17 .* the disk was pulled out"):
        run_job(job)

    video.broken = False
    np.testing.assert_array_equal(np.asarray(run_job(job).labels), expected)


@pytest.mark.parametrize("at", [1, 6, 20])
@pytest.mark.parametrize(
    "more", [[], [ns.Point(3 + 19, 45, 60, 2, False)]], ids=["", "with a correction there"]
)
def test_a_frame_that_was_not_written_is_done_again(at, more, model, clip, tmp_path, monkeypatch) -> None:
    prompts = [*PROMPTS, *more]
    expected = ns.track(clip, prompts, model=model)
    written = 0
    write = LabelVolume.__setitem__

    def dies(volume, frame, labels) -> None:
        nonlocal written
        written += 1
        if written == at:
            raise KeyboardInterrupt
        write(volume, frame, labels)

    job = TrackJob(video=clip, prompts=prompts, model=model, output=tmp_path / "masks.zarr", resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(LabelVolume, "__setitem__", dies)
        with pytest.raises(KeyboardInterrupt):
            run_job(job)

    np.testing.assert_array_equal(run_job(job).labels[:], expected)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("left", [b"", b"half a chunk", None])
def test_frames_that_a_power_cut_took_are_not_taken_for_background(
    left: bytes | None, direction, model, clip, tmp_path
) -> None:
    job = TrackJob(
        video=clip,
        prompts=[ns.Point(10, 25, 20)],
        model=model,
        output=tmp_path / "masks.zarr",
        direction=direction,
        resume=True,
    )
    with pytest.raises(TrackingInterruptedError):
        run_job(job, interrupt_after(3))
    frame = 9 if direction == "backward" else 11
    chunk = tmp_path / "masks.zarr.partial.zarr" / "labels" / "c" / str(frame) / "0" / "0"
    chunk.unlink() if left is None else chunk.write_bytes(left)

    with pytest.raises(OutputError, match=rf"1 frames are lost or damaged, such as frame {frame}.*--force"):
        run_job(job)
    assert run_job(dataclasses.replace(job, resume=False, overwrite=True)).frames_tracked


@pytest.mark.parametrize("stops", [(3, 9, 8, 2), (20, 5), (75, 10)])
def test_resuming_is_exact_past_the_memory_limit_too(stops, model, tmp_path) -> None:
    long_clip = moving_blobs(70)
    prompts = [ns.Point(45, 25, 40, 1), ns.Point(8, 45, 60, 2), ns.Point(30, 20, 30, 2, positive=False)]
    job = TrackJob(
        video=long_clip,
        prompts=prompts,
        model=model,
        settings=ns.TrackingSettings(memory_bytes=0),
        output=tmp_path / "masks.zarr",
        resume=True,
    )
    for n in stops:
        with pytest.raises(TrackingInterruptedError):
            run_job(job, interrupt_after(n))

    resumed = run_job(job).labels[:]

    whole = run_job(dataclasses.replace(job, output=None, resume=False)).labels
    np.testing.assert_array_equal(resumed, whole)


@pytest.mark.parametrize("stops", [(7,), (8,), (6, 2)])
def test_resuming_is_exact_where_a_click_took_what_another_object_was_tracked_to(stops, tmp_path) -> None:
    job = TrackJob(
        video=moving_blobs(14),
        prompts=[ns.Point(0, 25, 20, 1), ns.Point(6, 25, 32, 2)],
        direction="forward",
        output=tmp_path / "masks.zarr",
        resume=True,
    )
    whole = run_job(dataclasses.replace(job, output=None, resume=False)).labels[:]
    assert [np.unique(labels).tolist() for labels in whole] == [[0, 1]] * 6 + [[0, 2]] * 8
    for n in stops:
        with pytest.raises(TrackingInterruptedError):
            run_job(job, interrupt_after(n))

    np.testing.assert_array_equal(run_job(job).labels[:], whole)


@pytest.mark.parametrize(
    ("clicked", "saved_after", "killed_after"),
    [((2, 60), 18, 32), ((60, 2), 82, 40), ((60, 2), 18, 100)],
    ids=["forward", "back", "forward, killed on the way back"],
)
def test_a_killed_run_is_resumed_from_its_last_state(
    clicked, saved_after, killed_after, model, tmp_path
) -> None:
    """What it kept after that is not taken for what was tracked before; the click on frame 30 waits."""
    job = TrackJob(
        video=moving_blobs(70, 64, 64),
        prompts=[
            ns.Point(clicked[0], 25, 20, 1),
            ns.Point(30, 25, 40, 1, positive=False),
            ns.Point(clicked[1], 45, 40, 2),
        ],
        model=model,
        settings=ns.TrackingSettings(memory_bytes=0),
        output=tmp_path / "masks.zarr",
        resume=True,
    )
    state = tmp_path / "masks.zarr.partial.zarr" / "state"
    with pytest.raises(TrackingInterruptedError):
        run_job(job, interrupt_after(saved_after))
    old = state.read_bytes()
    with pytest.raises(TrackingInterruptedError):
        run_job(job, interrupt_after(killed_after))
    state.write_bytes(old)

    resumed = run_job(job).labels[:]

    whole = run_job(dataclasses.replace(job, output=None, resume=False)).labels
    np.testing.assert_array_equal(resumed, whole)


def test_a_disk_that_is_full_at_the_end_loses_nothing(model, clip, expected, tmp_path, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    job = TrackJob(video=clip, prompts=PROMPTS, model=model, output=tmp_path / "masks.tif", resume=True)
    with monkeypatch.context() as patch:
        patch.setattr("napari_surgsam2.masks.volume.write_as", full)
        with pytest.raises(OutputError, match="No space left"):
            run_job(job)

    outcome = run_job(job)

    assert outcome.frames_tracked == 0
    np.testing.assert_array_equal(np.asarray(outcome.labels), expected)


def test_a_built_in_model_of_another_version_is_another_model(
    tiny_checkpoint: Path, clip, tmp_path, monkeypatch
) -> None:
    weights = tmp_path / "nano.safetensors"
    weights.write_bytes(tiny_checkpoint.read_bytes())
    monkeypatch.setattr(RegistryEntry, "path", property(lambda _: weights))
    job = TrackJob(video=clip, prompts=PROMPTS, image_size=64, output=tmp_path / "masks.zarr", resume=True)
    with pytest.raises(TrackingInterruptedError):
        run_job(job, interrupt_after(3))
    weights.write_bytes(b"an upgrade")
    with pytest.raises(OutputError, match=r"model \(was 'nano \(SHA-256 "):
        run_job(job)


def test_what_a_model_is_does_not_depend_on_how_it_is_given(
    tiny_checkpoint: Path, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    in_full = pipeline.model_identity(tmp_path / "mine.safetensors", 64)
    assert pipeline.model_identity("~/mine.safetensors", 64) == in_full
    assert pipeline.model_identity(ns.load_model("nano", device="cpu"), None) == pipeline.model_identity(
        "nano", None
    )


def test_a_complete_result_of_another_run_is_not_taken_as_done(model, clip, tmp_path) -> None:
    job = TrackJob(video=clip, prompts=PROMPTS, model=model, output=tmp_path / "masks.zarr", resume=True)
    run_job(job)
    with pytest.raises(AlreadyCompleteError):
        run_job(job)
    with pytest.raises(OutputError, match=r"by another run.*--force.* or move it away") as caught:
        run_job(dataclasses.replace(job, prompts=PROMPTS[:1]))
    assert not isinstance(caught.value, AlreadyCompleteError)


@pytest.mark.parametrize("kind", ["array", "zarr", "png"])
def test_other_frames_of_the_same_shape_are_another_run(kind, model, clip, tmp_path) -> None:
    """Such as frames that were registered to the one that is clicked, under the name of those before."""
    other = clip.copy()
    other[-1] = 255 - other[-1]

    def stored(frames):
        if kind == "array":
            return frames
        shutil.rmtree(tmp_path / f"clip.{kind}", ignore_errors=True)
        return save_as(kind, frames, tmp_path)

    output = tmp_path / "masks.tif"
    job = TrackJob(video=stored(clip), prompts=PROMPTS, model=model, output=output, resume=True)
    with pytest.raises(TrackingInterruptedError):
        run_job(job, interrupt_after(3))
    with pytest.raises(OutputError, match="--force"):
        run_job(dataclasses.replace(job, video=stored(other)))
    run_job(dataclasses.replace(job, video=stored(clip)))


def test_another_run_is_not_resumed(model, clip, tmp_path) -> None:
    job = TrackJob(video=clip, prompts=PROMPTS, model=model, output=tmp_path / "masks.tif")
    with pytest.raises(TrackingInterruptedError):
        run_job(job, interrupt_after(3))

    with pytest.raises(OutputError, match="direction"):
        ns.track(clip, PROMPTS, model=model, output=tmp_path / "masks.tif", direction="forward", resume=True)
    with pytest.raises(OutputError, match="--resume"):
        ns.track(clip, PROMPTS, model=model, output=tmp_path / "masks.tif")


def test_resuming_a_complete_run_draws_the_preview_that_is_missing(model, clip, tmp_path) -> None:
    overlay = tmp_path / "overlay.mp4"
    job = TrackJob(
        video=clip, prompts=PROMPTS, model=model, output=tmp_path / "masks.tif", preview=overlay, resume=True
    )
    run_job(job)
    with pytest.raises(AlreadyCompleteError):
        run_job(job)
    overlay.unlink()

    outcome = run_job(job)

    assert outcome.preview == overlay
    assert ns.open_video(overlay).n_frames == len(clip)


@pytest.mark.parametrize("output", ["clip.tif", ".", "../video/clip.tif"])
def test_the_video_is_never_replaced(output, model, clip, tmp_path) -> None:
    folder = tmp_path / "video"
    folder.mkdir()
    tifffile.imwrite(folder / "clip.tif", clip, photometric="rgb")
    before = (folder / "clip.tif").read_bytes()

    with pytest.raises(UsageError, match="in the place of the input"):
        ns.track(folder / "clip.tif", PROMPTS, model=model, output=folder / output, overwrite=True)

    assert (folder / "clip.tif").read_bytes() == before


def test_a_full_disk_is_told_as_such(model, clip, tmp_path, monkeypatch) -> None:
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr(pipeline, "_SECONDS_BETWEEN_SAVES", 0.0)

    with pytest.raises(OutputError, match="free space and go on with --resume"):
        ns.track(clip, PROMPTS, model=model, output=tmp_path / "masks.tif")

    monkeypatch.undo()
    assert (
        ns.track(clip, PROMPTS, model=model, output=tmp_path / "masks.tif", resume=True).shape
        == clip.shape[:3]
    )


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"device": "cuda:77"}, DeviceError),
        ({"model": "no.safetensors"}, CheckpointError),
        ({"model": "no_such_model"}, UsageError),
        ({"model": "nano", "image_size": 500}, UsageError),
        ({"direction": "backwards"}, UsageError),
        ({"direction": "backward", "frames": (3, None)}, UsageError),
    ],
)
def test_a_call_that_cannot_be_done_leaves_an_interrupted_run(wrong, error, model, clip, tmp_path) -> None:
    asked = {"model": "nano", "output": tmp_path / "masks.tif"}
    job = TrackJob(video=clip, prompts=[ns.Point(0, 25, 40)], model=model, output=asked["output"])
    stopping = Reporting(should_stop=lambda: True)
    with pytest.raises(TrackingInterruptedError):
        run_job(job, stopping)
    (kept,) = tmp_path.iterdir()
    before = {p: p.stat().st_mtime_ns for p in kept.rglob("*")}

    with pytest.raises(error):
        ns.track(clip, [ns.Point(0, 25, 40)], overwrite=True, **{**asked, **wrong})

    assert {p: p.stat().st_mtime_ns for p in kept.rglob("*")} == before


def test_frames_that_are_not_tracked_may_be_damaged(model, clip, tmp_path) -> None:
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{t}.png")
    last = tmp_path / "frames" / f"{len(clip) - 1}.png"
    last.write_bytes(last.read_bytes()[:200])
    labels = ns.track(
        tmp_path / "frames", [ns.Point(0, 25, 40)], model=model, frames=(0, 3), output=tmp_path / "masks.tif"
    )
    assert np.asarray(labels[2]).any()


def test_paths_may_begin_in_the_home_folder(model, clip, tmp_path, monkeypatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    ns.track(clip, [ns.Point(0, 25, 40)], model=model, output="~/masks.tif")
    assert (tmp_path / "masks.tif").exists()
    assert read_labels("~/masks.tif").shape == clip.shape[:3]


def test_an_existing_output_stays_unless_told(model, clip, expected, tmp_path) -> None:
    path = tmp_path / "masks.tif"
    path.write_text("precious")
    with pytest.raises(OutputError, match="--force"):
        ns.track(clip, PROMPTS, model=model, output=path)
    assert path.read_text() == "precious"

    labels = ns.track(clip, PROMPTS, model=model, output=path, overwrite=True)

    np.testing.assert_array_equal(np.asarray(labels), expected)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        ([ns.Point(24, 5, 5)], "frame 24, but the video has 24"),
        ([ns.Point(0, 5, 96)], "outside the video"),
        ([ns.Point(0, 5, 5, positive=False)], "only negative"),
    ],
)
def test_prompts_that_cannot_be_used_leave_no_output(prompts, message, model, clip, tmp_path) -> None:
    with pytest.raises(PromptError, match=message):
        ns.track(clip, prompts, model=model, output=tmp_path / "masks.tif")
    assert list(tmp_path.iterdir()) == []


def test_prompts_may_be_a_points_layer_or_an_array(model, clip) -> None:
    class PointsLayer:
        data = np.array([[8, 25, 40], [8, 45, 60]], float)
        features = {"object_id": [1, 2], "label": [1, 1]}  # noqa: RUF012

    from_layer = ns.track(clip, PointsLayer(), model=model, frames=(6, 10))
    from_points = ns.track(clip, PROMPTS[:2], model=model, frames=(6, 10))

    np.testing.assert_array_equal(from_layer, from_points)
    assert set(np.unique(ns.track(clip, PointsLayer.data, model=model, frames=(6, 10)))) <= {0, 1}

"""`napari-surgsam2 track`, as a user meets it."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_surgsam2 as ns
from napari_surgsam2 import pipeline

from .conftest import Outcome, Run, start

POINT = ("--point", "0,35,30")
posix = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")


@pytest.fixture
def track(run: Run, files: Path, tmp_path: Path):
    """Track in the folder of inputs, with the tiny model, into `tmp_path`."""

    def call(video: str, *arguments: object, output: str = "masks.tif") -> Outcome:
        model = ("--model", "tiny.safetensors", "-o", str(tmp_path / output))
        return run("track", video, *model, *arguments, cwd=files)  # what comes later wins

    return call


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# What comes out


def test_the_masks_are_those_of_the_library(track, files: Path, tmp_path: Path, tiny_model) -> None:
    outcome = track("clip.mp4", *POINT, "--point", "0,20,20,1,-", "--box", "3,50,70,80,110,2", "--json")

    prompts = [ns.Point(0, 35, 30), ns.Point(0, 20, 20, positive=False), ns.Box(3, 50, 70, 80, 110, 2)]
    expected = ns.track(files / "clip.mp4", prompts, model=tiny_model)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "masks.tif"), expected)
    assert outcome.code == 0
    summary = json.loads(outcome.out)
    assert summary["output"] == str(tmp_path / "masks.tif")
    assert summary["video"] == {"name": "clip", "shape": [12, 96, 128], "notes": []}
    assert (summary["model"], summary["image_size"], summary["preview"]) == ("tiny.safetensors", 128, None)
    present = [{"id": i, "frames_present": int((expected == i).any(axis=(1, 2)).sum())} for i in (1, 2)]
    assert summary["objects"] == present
    assert "object 2: present in" in outcome.err
    assert names(tmp_path) == ["masks.tif"]


def test_messages_are_on_the_error_stream(track, tmp_path: Path) -> None:
    outcome = track("clip.mp4", *POINT, "--preview", tmp_path / "overlay.mp4", output="masks.zarr")

    assert (outcome.code, outcome.out) == (0, "")
    assert "Model tiny.safetensors at 128 pixels on cpu" in outcome.err
    assert f"Masks: {tmp_path / 'masks.zarr'}" in outcome.err
    assert f"Preview: {tmp_path / 'overlay.mp4'}" in outcome.err
    assert names(tmp_path) == ["masks.zarr", "overlay.mp4"]
    assert ns.open_video(tmp_path / "overlay.mp4").n_frames == 12


@pytest.mark.parametrize(
    "prompts", [("--prompts", "points.csv"), ("--mask", "labels.png@4"), ("--mask", "labels.tif@4")]
)
def test_prompts_from_files(prompts: tuple[str, str], track, tmp_path: Path) -> None:
    outcome = track("clip.mp4", *prompts, "--json", output="masks")

    assert outcome.code == 0
    ids = [entry["id"] for entry in json.loads(outcome.out)["objects"]]
    assert ids == ([1, 2] if "points.csv" in prompts else [1, 3])
    assert len(names(tmp_path / "masks")) == 12


def test_every_option_reaches_the_run(track, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = []
    monkeypatch.setattr(
        pipeline, "run_job", lambda job, _: jobs.append(job) or (_ for _ in ()).throw(KeyboardInterrupt)
    )
    options = (
        "--image-size 96 --prune-frames 3 --fill-holes 4 --remove-speckles 5 --precision bfloat16 "
        "--direction backward --frames 2:7 --device cpu --force --resume"
    )

    track("clip.mp4", *POINT, *options.split(), "--preview", tmp_path / "overlay.mp4")

    (job,) = jobs
    assert job == pipeline.TrackJob(
        video="clip.mp4",
        prompts=[ns.Point(0, 35, 30)],
        model="tiny.safetensors",
        output=str(tmp_path / "masks.tif"),
        device="cpu",
        image_size=96,
        settings=ns.TrackingSettings(
            pruning=ns.PruningSettings(3), fill_holes=4, remove_speckles=5, precision="bfloat16"
        ),
        direction="backward",
        frames=(2, 7),
        preview=tmp_path / "overlay.mp4",
        overwrite=True,
        resume=True,
    )


def test_clicks_refine_a_mask_whatever_their_order(track, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    monkeypatch.setattr(
        pipeline, "run_job", lambda job, _: jobs.append(job) or (_ for _ in ()).throw(KeyboardInterrupt)
    )

    assert track("clip.mp4", "--point", "4,35,30,1,-", "--mask", "labels.png@4").code == 130

    kinds = [type(prompt) for prompt in jobs[0].prompts]
    assert kinds == [ns.Mask, ns.Mask, ns.Point]


@pytest.mark.parametrize(
    ("frames", "visited"),
    [("2:5", [2, 3, 4]), (":3", [0, 1, 2]), ("9:", [9, 10, 11]), (":", list(range(12)))],
)
def test_frames_are_half_open(frames: str, visited: list[int], track, tmp_path: Path) -> None:
    outcome = track("clip.mp4", "--mask", "labels.png@2", "--frames", frames, "--json")

    assert json.loads(outcome.out)["frames_tracked"] >= len(visited)
    labels = tifffile.imread(tmp_path / "masks.tif")
    assert labels.shape == (12, 96, 128)
    outside = [t for t in range(12) if t not in visited]
    assert not labels[outside].any()


@pytest.mark.parametrize(
    ("video", "message", "at_most"),
    [
        ("cut.tif", "The file is cut short: 6 of 12 positions along T are there and used", 6),
        ("cut.mkv", "The file is damaged or cut short after frame", 79),
    ],
)
def test_what_is_left_of_a_cut_video_is_used(video: str, message: str, at_most: int, track) -> None:
    outcome = track(video, *POINT, "--frames", "0:6", "--json")

    assert outcome.code == 0
    assert f"Note: {message}" in outcome.err
    summary = json.loads(outcome.out)
    assert message in summary["video"]["notes"][0]
    assert 6 <= summary["video"]["shape"][0] <= at_most


def test_a_damaged_frame_ends_the_run_and_what_is_before_can_be_tracked(track, tmp_path: Path) -> None:
    outcome = track("damaged.mp4", *POINT)
    assert outcome.code == 1
    assert "damaged.mp4' cannot be decoded: the file is damaged there" in outcome.err
    frame = int(outcome.err.split("Error: Frame ")[1].split()[0])

    assert track("damaged.mp4", *POINT, "--frames", f"0:{frame}", "--force").code == 0
    assert names(tmp_path) == ["masks.tif"]


# What cannot be done: (arguments after the video, exit code, message)

BAD = {
    "no video": ("gone.mp4", [*POINT], 1, "gone.mp4'; check the path"),
    "no name": ("", [*POINT], 2, "The video is ''"),
    "empty folder": ("empty", [*POINT], 1, "empty' has no frames in it"),
    "empty file": ("empty.mp4", [*POINT], 1, "empty.mp4' is empty"),
    "noise": ("noise.mp4", [*POINT], 1, "noise.mp4' cannot be opened as a video"),
    "cut": ("cut.mp4", [*POINT], 1, "cut.mp4' is incomplete"),
    "sizes": ("sizes", [*POINT], 1, "all frames must be of one size"),
    "text": ("points.csv", [*POINT], 1, "points.csv' is of no known kind"),
    "no prompts": ("clip.mp4", [], 2, "There are no prompts; give --point, --box, --mask or --prompts"),
    "outside": ("clip.mp4", ["--point", "0,35,128"], 2, "(y=35, x=128) on frame 0 is outside the video"),
    "late": ("clip.mp4", ["--point", "12,35,30"], 2, "on frame 12, but the video has 12 frames: 0 to 11"),
    "negative": ("clip.mp4", [*POINT, "--point", "0,9,9,2,-"], 2, "Object 2 has only negative points"),
    "NaN": ("clip.mp4", ["--point", "0,nan,30"], 2, "The y of a point on frame 0 is nan"),
    "half": ("clip.mp4", ["--point", "0.5,3,30"], 2, "The frame of a point is 0.5; it must be a whole"),
    "two numbers": ("clip.mp4", ["--point", "0,35"], 2, "--point is '0,35'; it must be FRAME,Y,X[,ID[,+|-]]"),
    "words": ("clip.mp4", ["--point", "a,b,c"], 2, "--point is 'a,b,c'"),
    "sign": ("clip.mp4", ["--point", "0,3,4,1,x"], 2, "--point is '0,3,4,1,x'"),
    "object 0": ("clip.mp4", ["--point", "0,3,4,0"], 2, "The object id of a point is 0; it must be a whole"),
    "huge id": (
        "clip.mp4",
        ["--point", "0,3,4,99999999999"],
        2,
        "The object id of a point is 99999999999; it must be a whole number, at least 1 and below",
    ),
    "box of 3": (
        "clip.mp4",
        ["--box", "0,1,2,3"],
        2,
        "--box is '0,1,2,3'; it must be FRAME,Y0,X0,Y1,X1[,ID]",
    ),
    "empty box": (
        "clip.mp4",
        ["--box", "0,9,2,5,3"],
        2,
        "on frame 0 is empty; give top, left, bottom, right",
    ),
    "box far": ("clip.mp4", ["--box", "0,200,2,250,3"], 2, "on frame 0 is outside the video"),
    "no frame": ("clip.mp4", ["--mask", "labels.png"], 2, "--mask is 'labels.png'; it must be FILE@FRAME"),
    "frame ²": ("clip.mp4", ["--mask", "labels.png@²"], 2, "it must be FILE@FRAME"),
    "no mask file": ("clip.mp4", ["--mask", "@0"], 2, "--mask is '@0'; it must be FILE@FRAME"),
    "mask gone": ("clip.mp4", ["--mask", "gone.png@0"], 2, "gone.png do not exist"),
    "mask small": ("clip.mp4", ["--mask", "small.png@0"], 2, "(50, 128); it must be the video's, (96, 128)"),
    "mask colour": ("clip.mp4", ["--mask", "colour.png@0"], 2, "labels are integers of shape (Y, X)"),
    "mask stack": ("clip.mp4", ["--mask", "stack.tif@0"], 2, "'stack.tif' holds 3 images, it must hold one"),
    "csv gone": ("clip.mp4", ["--prompts", "gone.csv"], 2, "There is no prompts file 'gone.csv'"),
    "csv other": (
        "clip.mp4",
        ["--prompts", "other.csv"],
        2,
        "'other.csv' has the columns a, b; it must have",
    ),
    "json key": ("clip.mp4", ["--prompts", "unknown.json"], 2, "'points': unknown key 'colour'; known:"),
    "not UTF-8": ("clip.mp4", ["--prompts", "latin.csv"], 2, "'latin.csv' is not UTF-8 text"),
    "one frame": ("clip.mp4", [*POINT, "--frames", "5"], 2, "--frames is '5'; it must be A:B"),
    "no frames": ("clip.mp4", [*POINT, "--frames", "5:5"], 2, "The frames are 5:5; the video has 12 frames"),
    "frames far": (
        "clip.mp4",
        [*POINT, "--frames", "0:13"],
        2,
        "The frames are 0:13; the video has 12 frames",
    ),
    "after end": (
        "clip.mp4",
        [*POINT, "--frames", "12:"],
        2,
        "The frames are 12:12; the video has 12 frames",
    ),
    "no model": (
        "clip.mp4",
        [*POINT, "--model", "sam9"],
        2,
        "There is no model 'sam9'; the models are: nano",
    ),
    "model gone": ("clip.mp4", [*POINT, "--model", "gone.pt"], 1, "There is no checkpoint at 'gone.pt'"),
    "model text": (
        "clip.mp4",
        [*POINT, "--model", "text.pt"],
        1,
        "'text.pt' is not a checkpoint that can be read",
    ),
    "model other": (
        "clip.mp4",
        [*POINT, "--model", "resnet.pt"],
        1,
        "'resnet.pt' is not a checkpoint of SAM 2",
    ),
    "model folder": ("clip.mp4", [*POINT, "--model", "folder.pt"], 1, "'folder.pt' is a folder"),
    "device": ("clip.mp4", [*POINT, "--device", "foo"], 2, "The device is 'foo'; it must be auto, cpu"),
    "gpu": ("clip.mp4", [*POINT, "--device", "cuda:77"], 2, "The device 'cuda:77' is not there"),
    "size": (
        "clip.mp4",
        [*POINT, "--image-size", "100"],
        2,
        "The image size is 100; it must be a multiple of 32",
    ),
    "size 0": ("clip.mp4", [*POINT, "--image-size", "0"], 2, "The image size is 0; it must be a multiple"),
    "prune": (
        "clip.mp4",
        [*POINT, "--prune-frames", "-1"],
        2,
        "prune_frames is -1; it must be a whole number",
    ),
    "holes": ("clip.mp4", [*POINT, "--fill-holes", "-1"], 2, "fill_holes is -1; it must be a whole number"),
    "preview": (
        "clip.mp4",
        [*POINT, "--preview", "x.txt"],
        2,
        "'x.txt' ends in '.txt'; it must end in one of .mp4",
    ),
    "preview there": ("clip.mp4", [*POINT, "--preview", "long.mp4"], 1, "long.mp4 exists already"),
    "option": ("clip.mp4", [*POINT, "--bogus"], 2, "No such option"),
    "direction": ("clip.mp4", [*POINT, "--direction", "up"], 2, "--direction"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_told_in_one_sentence(case: str, track, files: Path, tmp_path: Path) -> None:
    video, arguments, code, message = BAD[case]
    before = names(files)

    outcome = track(video, "--json", *arguments)

    assert message in outcome.err
    assert outcome.code == code
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert names(tmp_path) == []
    assert names(files) == before


OUTPUTS = {
    "suffix": ("masks.xyz", 2, "ends in '.xyz'; labels are written as .tif"),
    "no folder": ("gone/masks.tif", 1, "gone of the output masks.tif does not exist; create it first"),
    "there": (
        "labels.tif",
        1,
        "labels.tif exists already; choose another output, or replace it with --force",
    ),
    "folder there": ("frames", 1, "frames exists already"),
    "dot": ("masks.v2", 2, "or as a folder of PNGs (a name without a suffix, or ending in"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_that_cannot_be_written(case: str, run: Run, inputs: Path) -> None:
    output, code, message = OUTPUTS[case]
    before = digest(inputs)

    outcome = run("track", "clip.mp4", *POINT, "-o", output, "--model", "tiny.safetensors", cwd=inputs)

    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err
    assert digest(inputs) == before


def test_a_separator_at_the_end_asks_for_a_folder(run: Run, inputs: Path) -> None:
    """It is what the message about a name with a dot advises."""
    arguments = (*POINT, "-o", "masks.v2/", "--model", "tiny.safetensors", "--json")
    outcome = run("track", "clip.mp4", *arguments, cwd=inputs)
    assert outcome.code == 0
    assert json.loads(outcome.out)["output"] == str(inputs / "masks.v2")
    assert len(list((inputs / "masks.v2").glob("*.png"))) == 12


# An input is never replaced

TAKEN = {
    "the stack": ("clip.tif", ["-o", "clip.tif"]),
    "by another way": ("clip.tif", ["-o", "frames/../clip.tif"]),
    "a link to it": ("link.tif", ["-o", "clip.tif"]),
    "the zarr": ("clip.zarr", ["-o", "clip.zarr"]),
    "the zarr with a slash": ("clip.zarr", ["-o", "clip.zarr/"]),
    "the folder": ("palette", ["-o", "palette"]),
    "what it lies in": ("palette/00000.png", ["-o", "palette"]),
    "the movie by the preview": ("clip.mp4", ["-o", "masks.tif", "--preview", "clip.mp4"]),
    "the given mask": ("clip.mp4", ["-o", "labels.tif", "--mask", "labels.tif@0"]),
    "a frame among the frames": ("frames", ["-o", "frames/masks.tif"]),
}


@pytest.mark.parametrize("case", TAKEN)
def test_an_input_is_not_replaced_even_by_force(case: str, run: Run, inputs: Path) -> None:
    video, outputs = TAKEN[case]
    (inputs / "link.tif").symlink_to("clip.tif")
    before = digest(inputs)

    outcome = run("track", video, *POINT, *outputs, "--force", "--model", "tiny.safetensors", cwd=inputs)

    assert outcome.code == 2
    assert "choose another output" in outcome.err
    assert digest(inputs) == before


def digest(folder: Path) -> dict[str, str]:
    """Return what is in a folder, at any depth."""
    contents = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in contents}


def test_force_replaces_an_earlier_result(track, tmp_path: Path) -> None:
    assert track("clip.mp4", *POINT, "--preview", tmp_path / "p.mp4").code == 0
    assert track("clip.mp4", *POINT, "--preview", tmp_path / "p.mp4").code == 1
    assert track("clip.mp4", *POINT, "--preview", tmp_path / "p.mp4", "--force").code == 0
    assert names(tmp_path) == ["masks.tif", "p.mp4"]


# Interrupted and gone on with

LONG = ("long.mp4", "--point", "30,35,30", "--point", "30,60,80,2")


@pytest.fixture(scope="package")
def uninterrupted(files: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model, one_thread) -> bytes:
    path = tmp_path_factory.mktemp("reference") / "masks.tif"
    ns.track(files / LONG[0], [ns.Point(30, 35, 30), ns.Point(30, 60, 80, 2)], model=tiny_model, output=path)
    return path.read_bytes()


def stop(after: int, how: signal.Signals, files: Path, tmp_path: Path, *more: str) -> tuple[int, str]:
    """Begin the long run in a process of its own, and send it a signal after some frames."""
    output = tmp_path / "masks.tif"
    process = start("track", *LONG, "-o", output, "--model", "tiny.safetensors", *more, cwd=files)
    done = tmp_path / "masks.tif.partial.zarr" / "done"
    deadline = time.monotonic() + 300  # a machine may be busy with other things
    while process.poll() is None and time.monotonic() < deadline:
        if done.is_file() and sum(done.read_bytes()) >= after:
            break
        time.sleep(0.005)
    process.send_signal(how)
    return_code = process.wait(300)
    _, err = process.communicate()
    return return_code, err


@posix
def test_ctrl_c_and_sigterm_keep_the_frames_and_resuming_gives_the_same_file(
    track, files: Path, tmp_path: Path, uninterrupted: bytes
) -> None:
    code, err = stop(5, signal.SIGINT, files, tmp_path)
    assert code == 130
    assert "Stopping after this frame" in err
    assert "Go on with the same command and --resume." in err
    assert names(tmp_path) == ["masks.tif.partial.zarr"]
    assert "--resume" in track(*LONG).err
    assert (
        "settings.pruning.prune_frames (was 2, is now 0)" in track(*LONG, "--resume", "--prune-frames", 0).err
    )

    code, err = stop(40, signal.SIGTERM, files, tmp_path, "--resume")
    assert code == 130

    outcome = track(*LONG, "--resume", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["frames_tracked"] < 50
    assert (tmp_path / "masks.tif").read_bytes() == uninterrupted
    assert names(tmp_path) == ["masks.tif"]


@posix
def test_a_killed_run_is_gone_on_with(track, files: Path, tmp_path: Path, uninterrupted: bytes) -> None:
    code, _ = stop(20, signal.SIGKILL, files, tmp_path)
    assert code == -signal.SIGKILL

    assert track(*LONG, "--resume").code == 0
    assert (tmp_path / "masks.tif").read_bytes() == uninterrupted
    assert names(tmp_path) == ["masks.tif"]


def test_resuming_what_is_complete_does_nothing(track, tmp_path: Path) -> None:
    assert track("clip.mp4", *POINT).code == 0
    before = digest(tmp_path)

    outcome = track("clip.mp4", *POINT, "--resume", "--json")

    assert outcome.code == 0
    assert json.loads(outcome.out) == {"output": str(tmp_path / "masks.tif"), "already_complete": True}
    assert "nothing to resume" in outcome.err
    assert digest(tmp_path) == before


@posix
@pytest.mark.parametrize("stage", ["opened", "loaded", "drawn"])
def test_ctrl_c_outside_the_tracking_ends_the_run_at_once(
    stage: str, track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_surgsam2.cli.progress import RunProgress

    monkeypatch.setattr(RunProgress, f"_on_{stage}", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)

    outcome = track("clip.mp4", *POINT, "--preview", tmp_path / "p.mp4")

    assert outcome.code == 130
    assert "Stopped at once" in outcome.err
    # In the folder beside the masks it is noted that the preview is still to be drawn.
    assert names(tmp_path) == (["masks.tif", "masks.tif.partial.zarr"] if stage == "drawn" else [])
    assert signal.getsignal(signal.SIGINT) is before


@posix
@pytest.mark.parametrize("again", [("--force", "--resume"), ("--resume",)])
def test_a_preview_that_was_interrupted_is_all_that_is_drawn_again(
    again: tuple[str, ...], track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_surgsam2.cli.progress import RunProgress

    overlay = tmp_path / "p.mp4"
    preview = ("--preview", overlay)
    assert track("clip.mp4", *POINT, *preview).code == 0
    if "--force" not in again:
        overlay.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "_on_drawn", lambda *_: signal.raise_signal(signal.SIGINT))
        outcome = track("clip.mp4", "--point", "0,70,95", *preview, "--force")
    assert (outcome.code, "and --resume" in outcome.err) == (130, True)
    made, old = digest(tmp_path)["masks.tif"], overlay.read_bytes() if overlay.exists() else b""

    outcome = track("clip.mp4", "--point", "0,70,95", *preview, *again, "--json")

    assert outcome.code == 0
    assert json.loads(outcome.out)["frames_tracked"] == 0
    assert digest(tmp_path)["masks.tif"] == made
    assert overlay.read_bytes() != old
    assert names(tmp_path) == ["masks.tif", "p.mp4"]


@posix
def test_masks_whose_preview_was_interrupted_are_made_anew_for_other_prompts(
    track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_surgsam2.cli.progress import RunProgress

    preview = ("--preview", tmp_path / "p.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "_on_drawn", lambda *_: signal.raise_signal(signal.SIGINT))
        assert track("clip.mp4", *POINT, *preview).code == 130

    outcome = track("clip.mp4", "--point", "0,70,95", *preview, "--resume")
    assert (outcome.code, "was made by another run" in outcome.err) == (1, True)
    assert "exists already" in track("clip.mp4", *POINT, *preview).err
    outcome = track("clip.mp4", "--point", "0,70,95", *preview, "--resume", "--force", "--json")
    assert json.loads(outcome.out)["frames_tracked"] == 12
    assert names(tmp_path) == ["masks.tif", "p.mp4"]


@posix
def test_without_the_preview_that_was_interrupted_there_is_nothing_to_resume(
    track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_surgsam2.cli.progress import RunProgress

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "_on_drawn", lambda *_: signal.raise_signal(signal.SIGINT))
        assert track("clip.mp4", *POINT, "--preview", tmp_path / "p.mp4").code == 130
    outcome = track("clip.mp4", *POINT, "--resume")
    assert (outcome.code, "nothing to resume" in outcome.err) == (0, True)
    assert names(tmp_path) == ["masks.tif"]


@posix
def test_a_full_disk_is_told(track, tmp_path: Path) -> None:
    import resource

    assert track("clip.mp4", *POINT, output="elsewhere.tif").code == 0
    whole = (tmp_path / "elsewhere.tif").read_bytes()
    (tmp_path / "elsewhere.tif").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, before[1]))
    try:
        outcome = track("clip.mp4", *POINT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert outcome.code == 1
    assert f"{tmp_path / 'masks.tif'} cannot be written" in outcome.err
    assert names(tmp_path) == ["masks.tif.partial.zarr"]

    assert track("clip.mp4", *POINT, "--resume").code == 0
    assert (tmp_path / "masks.tif").read_bytes() == whole


def test_palette_pngs_hold_the_object_ids(track, tmp_path: Path) -> None:
    track("clip.mp4", "--mask", "labels.png@0", output="masks")

    with Image.open(tmp_path / "masks" / "00000.png") as image:
        assert image.mode == "P"
        assert set(np.unique(np.asarray(image))) <= {0, 1, 3}

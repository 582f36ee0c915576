"""`napari-surgsam2 track --project`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_surgsam2 as ns
from napari_surgsam2 import pipeline

from .conftest import Outcome, Run

PROMPTS = [ns.Point(2, 35, 30), ns.Point(2, 20, 20, positive=False), ns.Box(3, 50, 70, 80, 110, 2)]
ON_COMMAND_LINE = ("--point", "2,35,30", "--point", "2,20,20,1,-", "--box", "3,50,70,80,110,2")
SETTINGS = ns.TrackingSettings(pruning=ns.PruningSettings(1), fill_holes=6, max_conditioning_frames=3)


@pytest.fixture
def project(inputs: Path) -> ns.Project:
    """Saved as `study.surgsam2.json` in the folder of inputs."""
    project = ns.Project(
        video=inputs / "clip.mp4",
        shape=(12, 96, 128),
        prompts=PROMPTS,
        model=str(inputs / "tiny.safetensors"),
        image_size=96,
        settings=SETTINGS,
        direction="forward",
        frames=(1, 8),
        names={1: "grasper"},
    )
    ns.save_project(inputs / "study.surgsam2.json", project)
    return project


@pytest.fixture
def track(run: Run, inputs: Path):
    """Track in the folder of inputs."""

    def call(*arguments: object, output: str = "masks.tif") -> Outcome:
        return run("track", *arguments, "-o", output, cwd=inputs)

    return call


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[pipeline.TrackJob]:
    """The jobs that would have been run."""
    seen: list[pipeline.TrackJob] = []
    monkeypatch.setattr(
        pipeline, "run_job", lambda job, _: seen.append(job) or (_ for _ in ()).throw(KeyboardInterrupt)
    )
    return seen


STUDY = ("--project", "study.surgsam2.json")


def test_the_masks_are_those_of_the_same_on_the_command_line(track, project, inputs: Path) -> None:
    outcome = track(*STUDY, "--json")

    assert outcome.code == 0
    summary = json.loads(outcome.out)
    assert (summary["video"]["name"], summary["image_size"]) == ("clip", 96)
    options = "--image-size 96 --prune-frames 1 --fill-holes 6 --direction forward --frames 1:8"
    settings = ns.TrackingSettings(pruning=ns.PruningSettings(1), fill_holes=6)
    assert dataclasses.replace(SETTINGS, max_conditioning_frames=8) == settings
    model = ("--model", "tiny.safetensors")
    assert track("clip.mp4", *ON_COMMAND_LINE, *model, *options.split(), output="other.tif").code == 0
    masks = tifffile.imread(inputs / "masks.tif")
    np.testing.assert_array_equal(masks, tifffile.imread(inputs / "other.tif"))
    assert set(np.unique(masks)) == {0, 1, 2}


def test_the_project_reaches_the_run(track, project, jobs) -> None:
    assert track(*STUDY).code == 130

    (job,) = jobs
    assert (job.model, job.image_size, job.settings) == (project.model, 96, SETTINGS)
    assert (job.direction, job.frames, job.prompts) == ("forward", (1, 8), list(project.prompts))
    assert (job.video.path, job.device, job.resume) == (project.video, "auto", False)


def test_options_win_over_the_project(track, project, jobs, inputs: Path) -> None:
    options = (
        "clip.tif --model nano --image-size 128 --prune-frames 2 --fill-holes 0 --remove-speckles 5 "
        "--precision bfloat16 --direction both --frames :"
    )

    assert track(*options.split(), *STUDY).code == 130

    (job,) = jobs
    assert (job.video.path, job.model, job.image_size) == (inputs / "clip.tif", "nano", 128)
    assert (job.direction, job.frames) == ("both", (0, None))
    assert job.settings == SETTINGS.replace(
        pruning=ns.PruningSettings(2), fill_holes=0, remove_speckles=5, precision="bfloat16"
    )


def test_prompts_are_added_to_those_of_the_project(track, project, jobs) -> None:
    track(*STUDY, "--point", "5,40,40", "--box", "5,1,2,30,40,3", "--mask", "labels.tif@1")

    (job,) = jobs
    assert [type(prompt) for prompt in job.prompts][:1] == [ns.Mask]
    assert job.prompts[1:] == [*project.prompts, ns.Point(5, 40, 40), ns.Box(5, 1, 2, 30, 40, 3)]


def test_the_prompts_of_a_project_alone(track, project, jobs) -> None:
    track("clip.zarr", "--prompts", "study.surgsam2.json")

    (job,) = jobs
    assert (job.video, job.prompts, job.model) == ("clip.zarr", list(project.prompts), "nano")
    assert job.settings == ns.TrackingSettings()


def test_a_plane_of_a_stack_is_tracked(track, inputs: Path, clip: np.ndarray) -> None:
    planes = np.stack([clip[::-1, ..., 0], clip[..., 0]], axis=1)
    tifffile.imwrite(inputs / "stack.tif", planes, metadata={"axes": "TZYX"}, ome=True)
    project = ns.Project(
        video=inputs / "stack.tif",
        z=1,
        prompts=PROMPTS,
        model=str(inputs / "tiny.safetensors"),
        frames=(2, 4),
    )
    ns.save_project(inputs / "study.surgsam2.json", project)

    assert track(*STUDY).code == 0

    expected = ns.track(clip[..., 0], PROMPTS, model=inputs / "tiny.safetensors", frames=(2, 4))
    np.testing.assert_array_equal(tifffile.imread(inputs / "masks.tif"), expected)


def test_a_given_video_may_be_of_another_shape(track, project, inputs: Path) -> None:
    assert track(*STUDY, "clip.tif", "--frames", "2:3").code == 0

    ns.save_project(inputs / "study.surgsam2.json", dataclasses.replace(project, shape=(11, 96, 128)))
    refused = track(*STUDY, output="other.tif")
    assert (refused.code, refused.out) == (1, "")
    assert "frames 12 (was 11)" in refused.err
    assert track(*STUDY, "clip.mp4", "--frames", "2:3", output="other.tif").code == 0


BAD = {
    "nothing": (["--point", "0,1,2"], 2, "There is no video; give a video file, TIFF stack, zarr, or folder"),
    "gone": (["--project", "gone.surgsam2.json"], 2, "There is no project file 'gone.surgsam2.json'"),
    "no project": (["--project", "clip.tif"], 2, "'clip.tif' is not valid JSON"),
    "no video": (["--project", "bare.surgsam2.json"], 1, "The project names no video"),
    "video gone": (["--project", "lost.surgsam2.json"], 1, "lost.mp4' is not there any more"),
    "no prompts": (["--project", "empty.surgsam2.json"], 2, "There are no prompts"),
    "outside": ([*STUDY, "--point", "0,99,1"], 2, "is outside the video"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_told(case: str, track, project, inputs: Path) -> None:
    ns.save_project(inputs / "bare.surgsam2.json", dataclasses.replace(project, video=None))
    ns.save_project(inputs / "lost.surgsam2.json", dataclasses.replace(project, video=inputs / "lost.mp4"))
    ns.save_project(inputs / "empty.surgsam2.json", dataclasses.replace(project, prompts=()))
    arguments, code, message = BAD[case]
    before = sorted(inputs.iterdir())

    outcome = track(*arguments)

    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err
    assert sorted(inputs.iterdir()) == before


@pytest.mark.parametrize(
    "outputs",
    [
        ["-o", "clip.mp4"],
        ["-o", "masks.tif", "--preview", "study.surgsam2.json"],
        ["-o", "study.surgsam2.json"],
        ["-o", "masks.tif", "--preview", "clip.mp4"],
        ["-o", "."],
    ],
    ids=" ".join,
)
def test_project_and_video_are_not_replaced_even_by_force(
    outputs: list[str], run: Run, project, inputs: Path
) -> None:
    before = {p.name: p.read_bytes() for p in inputs.iterdir() if p.is_file()}

    outcome = run("track", *STUDY, *outputs, "--force", cwd=inputs)

    assert outcome.code == 2
    assert "choose another output" in outcome.err
    assert {p.name: p.read_bytes() for p in inputs.iterdir() if p.is_file()} == before

"""A project file: what is kept, where the video is looked for, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import napari_surgsam2 as ns
from napari_surgsam2.errors import OutputError, UsageError, VideoError
from napari_surgsam2.pipeline import TrackJob, run_job
from napari_surgsam2.project import Project, ProjectError, load_project, save_project

MASK = ns.Mask(1, np.eye(8, 9, dtype=bool), 2)
BOX = ns.Box(2, 1, 2, 3.5, 4, 3)
POINTS = (ns.Point(0, 1.5, 2), ns.Point(2, 0, 1, 7, positive=False))


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A TIFF with time, planes and channels."""
    path = tmp_path / "study" / "data" / "stack.tif"
    path.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 4000, (3, 4, 2, 16, 20)).astype(np.uint16)
    tifffile.imwrite(path, pixels, metadata={"axes": "TZCYX"}, ome=True)
    return path


def project_of(stack: Path) -> Project:
    return Project(
        video=stack,
        shape=(3, 16, 20),
        prompts=(*POINTS, BOX, MASK),
        model="sam2.1_hiera_tiny",
        image_size=512,
        settings=ns.TrackingSettings(pruning=ns.PruningSettings(1), fill_holes=3, precision="float32"),
        names={2: "grasper", 1: "Schere ✂"},
        axes="TZCYX",
        channel=1,
        z=2,
        contrast_limits=(10, 2000.5),
        direction="forward",
        frames=(1, None),
    )


# Round trips


def test_all_is_kept(stack: Path, tmp_path: Path) -> None:
    project = project_of(stack)

    save_project(tmp_path / "study.surgsam2.json", project)

    loaded = load_project(tmp_path / "study.surgsam2.json")
    assert loaded == project
    assert loaded.prompts == (MASK, BOX, *POINTS)
    assert all(getattr(loaded, f.name) != f.default for f in dataclasses.fields(Project))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study", "study.surgsam2.json"]


def test_what_is_left_out_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "p.surgsam2.json"
    save_project(path, Project())
    assert load_project(path) == Project()

    path.write_text('{"napari_surgsam2_project": 1}')
    assert load_project(path) == Project()


coordinates = st.floats(-1e6, 1e6)
frames, ids = st.integers(0, 10**6), st.integers(1, 2**32 - 1)
points = st.builds(ns.Point, frames, coordinates, coordinates, ids, st.booleans())
boxes = st.builds(
    lambda frame, y, x, height, width, i: ns.Box(frame, y, x, y + height, x + width, i),
    *(frames, coordinates, coordinates, st.floats(1, 1e3), st.floats(1, 1e3), ids),
)
pictures = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
masks = st.builds(ns.Mask, frames, pictures, ids)


@settings(max_examples=30, deadline=None)
@given(st.lists(points | boxes | masks, max_size=8), st.dictionaries(ids, st.text()))
def test_any_prompts_and_names_survive(prompts: list, names: dict) -> None:
    project = Project(prompts=prompts, names=names)
    with tempfile.TemporaryDirectory() as folder:
        save_project(Path(folder, "p.surgsam2.json"), project)
        assert load_project(Path(folder, "p.surgsam2.json")) == project
    assert sorted(map(repr, project.prompts)) == sorted(map(repr, prompts))


def test_saving_replaces_and_what_fails_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "p.surgsam2.json"
    save_project(path, Project())
    save_project(path, Project(channel=1))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match=r"The project cannot be written to .*: No space left"):
            save_project(path, Project(channel=2))
    assert load_project(path) == Project(channel=1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_name_says_that_it_is_a_project(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"its name must end in '\.surgsam2\.json'"):
        save_project(tmp_path / "project.json", Project())
    assert list(tmp_path.iterdir()) == []


# Where video and model are


@pytest.mark.parametrize("saved", ["study", "study/data"], ids=["above", "beside"])
def test_a_folder_is_moved_with_project_video_and_model(saved: str, stack: Path, tmp_path: Path) -> None:
    weights = stack.with_name("own.safetensors")
    weights.touch()
    where = Path(saved, "p.surgsam2.json")
    save_project(tmp_path / where, dataclasses.replace(project_of(stack), model=str(weights)))

    (tmp_path / "study").rename(tmp_path / "archive")

    moved = tmp_path / "archive" / where.relative_to("study")
    project = load_project(moved)
    assert project.video == tmp_path / "archive" / "data" / "stack.tif"
    assert project.model == str(tmp_path / "archive" / "data" / "own.safetensors")
    with project.open_video() as video:
        assert video.shape == (3, 16, 20)


def test_a_project_moved_alone_finds_its_video(stack: Path, tmp_path: Path) -> None:
    save_project(stack.parent / "p.surgsam2.json", project_of(stack))
    elsewhere = tmp_path / "p.surgsam2.json"
    (stack.parent / "p.surgsam2.json").rename(elsewhere)

    assert load_project(elsewhere).video == stack


def test_a_video_beside_the_project_goes_before_the_one_it_was_copied_from(
    stack: Path, tmp_path: Path
) -> None:
    save_project(stack.parent / "p.surgsam2.json", project_of(stack))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in stack.parent.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())

    assert load_project(copy / "p.surgsam2.json").video == copy / "stack.tif"


def test_only_what_lies_in_its_folder_is_relative(stack: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    save_project(other / "p.surgsam2.json", Project(video=stack))
    assert json.loads((other / "p.surgsam2.json").read_text())["video"] == {"absolute": str(stack)}

    save_project(stack.parent / "p.surgsam2.json", Project(video=other / ".." / "study/data/stack.tif"))
    stored = json.loads((stack.parent / "p.surgsam2.json").read_text())["video"]
    assert stored["relative"] == "stack.tif"


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project(video="clip.mp4", model="own.pt")
    monkeypatch.chdir("/")

    assert (project.video, project.model) == (tmp_path / "clip.mp4", str(tmp_path / "own.pt"))


# The video and the job


def test_the_video_is_opened_as_it_was(stack: Path) -> None:
    with project_of(stack).open_video() as video:
        np.testing.assert_array_equal(video.raw(1), tifffile.imread(stack)[1, 2, 1])
        assert video.contrast_limits == (10, 2000.5)


CHANGED = {
    "gone": (lambda p: dataclasses.replace(p, video=p.video.with_name("gone.tif")), "gone.tif' is not there"),
    "no file": (lambda p: dataclasses.replace(p, video=None), "names no video, since its stack came from no"),
    "NUL": (lambda p: dataclasses.replace(p, video="a\0b"), "is not there any more; put it back, or give"),
    "shape": (
        lambda p: dataclasses.replace(p, shape=(5, 16, 24)),
        "frames 3 (was 5), width 20 (was 24). Open",
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_video_that_is_not_the_one(case: str, stack: Path) -> None:
    change, message = CHANGED[case]
    with pytest.raises(VideoError) as caught:
        change(project_of(stack)).open_video()
    assert message in str(caught.value)


def test_a_job_is_all_that_the_project_says(stack: Path) -> None:
    project = project_of(stack)

    video = object()
    job = project.job("masks.tif", video=video, resume=True, image_size=256)

    assert job == TrackJob(
        video=video,
        prompts=list(project.prompts),
        model=project.model,
        output="masks.tif",
        image_size=256,
        settings=project.settings,
        direction="forward",
        frames=(1, None),
        names=project.names,
        resume=True,
    )


def test_another_video_is_opened_as_that_of_the_project(stack: Path, tmp_path: Path) -> None:
    project = Project(video=stack, z=2, channel=1, prompts=[ns.Point(0, 8, 9)])
    moved = tmp_path / "moved.tif"
    moved.write_bytes(stack.read_bytes())

    with project.job(video=str(moved)).video as video:
        assert video.path == moved
        np.testing.assert_array_equal(video.raw(0), tifffile.imread(stack)[0, 2, 1])


def test_a_job_tracks_the_video_of_the_project(stack: Path, tiny_checkpoint: Path) -> None:
    project = Project(
        video=stack, z=2, channel=1, prompts=[ns.Point(0, 8, 9)], model=str(tiny_checkpoint), frames=(0, 2)
    )

    labels = run_job(project.job()).labels

    plane = tifffile.imread(stack)[:, 2, 1]
    expected = ns.track(plane, project.prompts, model=tiny_checkpoint, frames=(0, 2))
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("other", [{"z": 1}, {"channel": 0}])
def test_another_plane_of_a_file_is_another_run(other: dict, stack: Path, tiny_model, tmp_path: Path) -> None:
    from napari_surgsam2.pipeline import Reporting, TrackingInterruptedError

    project = Project(video=stack, z=2, channel=1, prompts=[ns.Point(0, 8, 9)], contrast_limits=(0, 4000))
    stop = Reporting(should_stop=lambda: True)
    output = tmp_path / "masks.zarr"
    with pytest.raises(TrackingInterruptedError):
        run_job(project.job(output, model=tiny_model), stop)

    with pytest.raises(OutputError, match="differs in video_part"):
        run_job(dataclasses.replace(project, **other).job(output, model=tiny_model, resume=True))
    assert run_job(project.job(output, model=tiny_model, resume=True)).frames_tracked == 2


# What cannot be used

BAD_FILES = {
    "missing": (None, "There is no project file"),
    "words": ("nope", "is not valid JSON"),
    "latin": ("é".encode("latin-1"), "is not valid JSON"),
    "deep": ("[" * 100_000, "is not valid JSON"),
    "a list": ("[1]", "is not a project: it is another kind of JSON"),
    "COCO": ('{"images": [], "annotations": []}', "is not a project: it is COCO, which holds masks"),
    "prompts": (
        '{"version": 1, "points": []}',
        "it is prompts alone, which `load_prompts` and --prompts take",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_projects(case: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "bad.surgsam2.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ProjectError) as caught:
        load_project(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"cannot be read: .*\. Give a file that you may read"):
        load_project(tmp_path)


BAD_VALUES = {
    "newer": (
        {"napari_surgsam2_project": 2},
        "version 2, made by a newer napari-surgsam2; this one reads ver",
    ),
    "version": ({"napari_surgsam2_project": "x"}, "its version, is 'x'; it must be a whole number"),
    "unknown": ({"colour": 1, "size": 2}, "unknown key 'colour', 'size'; known: 'napari_surgsam2_project'"),
    "video": ({"video": "clip.mp4"}, "video is 'clip.mp4'; it must be an object"),
    "video keys": ({"video": {"path": "x"}}, "video has the keys ['path']; it must have 'relative' or"),
    "video path": ({"video": {"absolute": 5}}, "video has 5 for 'absolute'; it must be a path"),
    "model": ({"model": 7}, "model is 7; it must be a name or the path of a checkpoint"),
    "shape": ({"shape": [3, 16]}, "shape is [3, 16]; it must be 3 entries: frames, height and width"),
    "shape 0": ({"shape": [3, 0, 16]}, "shape is 0; it must be a whole number, at least 1"),
    "axes": ({"axes": 3}, "axes is 3; it must be one letter for each axis"),
    "channel": ({"channel": -1}, "channel is -1; it must be a whole number, at least 0"),
    "z": ({"z": 0.5}, "z is 0.5; it must be a whole number"),
    "z true": ({"z": True}, "z is True; it must be a whole number"),
    "limits": ({"contrast_limits": [5, 1]}, "contrast_limits is (5, 1); both must be finite and the first"),
    "limits word": ({"contrast_limits": "ab"}, "contrast_limits is 'ab'; it must be two numbers"),
    "image size": ({"image_size": 0}, "image_size is 0; it must be a whole number, at least 1"),
    "direction": ({"direction": "up"}, "direction is 'up'; it must be 'forward', 'backward' or 'both'"),
    "frames": ({"frames": [5, 5]}, "frames is 5:5; the first must be below the second"),
    "one frame": ({"frames": 5}, "frames is 5; it must be 2 entries"),
    "setting": (
        {"settings": {"speed": 1}},
        "TrackingSettings has no setting 'speed'; it has: cropped, doubt_masks, exclusive, feature_cache",
    ),
    "pruning": ({"settings": {"pruning": {"prune_frames": -1}}}, "prune_frames is -1; it must be a whole"),
    "settings": ({"settings": 5}, "settings is 5; it must be an object"),
    "names": ({"names": ["a"]}, "names is ['a']; it must be an object"),
    "name id": ({"names": {"0": "a"}}, "An object id in names is 0; it must be a whole number, at least 1"),
    "name word": ({"names": {"a": "a"}}, "An object id in names is 'a'; it must be a whole number"),
    "name": ({"names": {"1": 2}}, "names has 2 for object 1; it must be a text"),
    "prompts": ({"prompts": [1]}, "A prompts document must be an object with 'points', 'boxes' or 'masks'"),
    "prompt": ({"prompts": {"points": [{"frame": -1, "y": 1, "x": 2}]}}, "Entry 0 of 'points': The frame of"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_values_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    values, message = BAD_VALUES[case]
    path = tmp_path / "bad.surgsam2.json"
    path.write_text(json.dumps({"napari_surgsam2_project": 1, **values}))
    with pytest.raises(ProjectError) as caught:
        load_project(path)
    assert str(caught.value).startswith(f"The project file '{path}' cannot be used: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"settings": {"fill_holes": 2}}, "it must be a TrackingSettings"),
        ({"prompts": [(0, 1, 2)]}, "A prompt is"),
        ({"video": 3}, "video is 3"),
    ],
)
def test_projects_that_cannot_be_made(values: dict, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        Project(**values)


# Its prompts as a prompts file


def test_a_project_is_a_prompts_file_too(tmp_path: Path) -> None:
    path = tmp_path / "p.surgsam2.json"
    save_project(path, Project(prompts=[*POINTS, MASK], names={1: "a"}))

    assert ns.load_prompts(path) == [MASK, *POINTS]
    save_project(path, Project())
    with pytest.raises(UsageError, match="holds no prompts"):
        ns.load_prompts(path)
    path.write_text('{"napari_surgsam2_project": ')
    with pytest.raises(UsageError, match="is not valid JSON"):
        ns.load_prompts(path)

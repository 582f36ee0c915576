"""A run's folder: what is there is kept, one run at a time is at work in it, and failures lose no steps."""

import pytest
import torch

from napari_surgsam2.errors import DeviceMemoryError, OutputError, UsageError
from napari_surgsam2.training import TrainingRun
from napari_surgsam2.training import run as run_module
from napari_surgsam2.training.folder import RunFolder
from napari_surgsam2.training.unroll import Batch
from tests.training.test_training_run import VIDEOS, settings


def written(folder, steps=4):
    """Return a folder with the settings of a run of so many steps, and nothing else."""
    run = RunFolder(settings(folder, run={"steps": steps}))
    run.lock()
    run.claim()
    run.release()
    return folder


LOG = "step,loss\n20,1.5\n"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("model.safetensors", "weights", r"holds model\.safetensors, but no checkpoint\.pt to go on from"),
        ("checkpoint.pt", "", r"holds a run without its settings\.json"),
        ("settings.json", '{"theme": "dark"}', r"settings\.json' holds no settings of a training run"),
        ("settings.json", "[1, 2]", r"settings\.json' holds no settings of a training run"),
        ("steps.csv", LOG, "is not empty and holds no training run"),
    ],
)
def test_files_that_are_there_are_left_as_they_are(tmp_path, file, text, said):
    (tmp_path / file).write_text(text)
    with pytest.raises(OutputError, match=said):
        TrainingRun(settings(tmp_path))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(file, text)]


def test_a_model_whose_checkpoint_was_removed_is_not_trained_over(tmp_path):
    (written(tmp_path / "run") / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(OutputError, match=r"start = \".*model\.safetensors\".* or move it away"):
        RunFolder(settings(tmp_path / "run")).check()


def test_the_log_of_a_run_without_a_checkpoint_is_only_that_runs(tmp_path):
    (written(tmp_path / "run") / "steps.csv").write_text(LOG)
    RunFolder(settings(tmp_path / "run")).check()
    other = RunFolder(settings(tmp_path / "run", run={"steps": 9}))
    with pytest.raises(OutputError, match=r"the log of a run with other settings \(run\.steps\)"):
        other.check()
    assert other.elsewhere() == ", and start again with another output"
    (tmp_path / "run" / "steps.csv").write_text("step,loss\n")
    other.check()
    assert other.elsewhere() == ", and start again"


def labelled(folder, **sparse):
    """Return the settings of a run on labels."""
    pair = {"video": "video.tif", "labels": "labels.tif", **sparse}
    return RunFolder(settings(folder, training=[{"kind": "labels", "pairs": [pair]}]))


def test_a_run_goes_on_where_it_is_now_said_that_its_labels_are_not_sparse(tmp_path):
    run = labelled(tmp_path / "run")
    run.lock()
    run.claim()
    run.release()
    (tmp_path / "run" / TrainingRun.CHECKPOINT).touch()
    labelled(tmp_path / "run", sparse=False).check()
    with pytest.raises(OutputError, match=r"other settings \(training\)"):
        labelled(tmp_path / "run", sparse=True).check()


def test_what_file_managers_leave_does_not_count(tmp_path):
    (tmp_path / ".DS_Store").touch()
    RunFolder(settings(tmp_path)).check()


def test_one_run_at_a_time_is_at_work_in_a_folder(tmp_path):
    config = settings(tmp_path / "runs" / "run")
    first = TrainingRun(config)
    with pytest.raises(OutputError, match="is being written by another process"):
        TrainingRun(config)
    steps = first.steps()
    next(steps)
    with pytest.raises(OutputError, match="is being written by another process"):
        TrainingRun(config)
    steps.close()
    TrainingRun(config)


def test_a_run_that_cannot_be_opened_leaves_no_folder(tmp_path):
    missing = {"kind": "vos", "images": str(tmp_path / "i"), "annotations": str(tmp_path / "a")}
    with pytest.raises(UsageError, match="no folder") as kept:
        TrainingRun(settings(tmp_path / "run", training=[missing]))
    assert kept  # and with it what raised it
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    for output in ("file", "file/run"):
        with pytest.raises(OutputError, match=r"file.*; set another output"):
            TrainingRun(settings(tmp_path / output))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "others"], ids=["empty", "text", "others"])
def test_a_damaged_checkpoint_points_to_the_weights(tmp_path, content):
    checkpoint = written(tmp_path / "run") / TrainingRun.CHECKPOINT
    if content == "others":
        torch.save({"step": 3}, checkpoint)
    else:
        checkpoint.write_bytes(content)
    with pytest.raises(OutputError, match=r"checkpoint\.pt' cannot be read .*model\.safetensors"):
        TrainingRun(settings(tmp_path / "run"))


def without_checkpoints(folder):
    """Return settings of a run that is validated after its second step, and saves nothing by itself."""
    return settings(folder, validation=VIDEOS, run={"checkpoint_every": 1000, "validate_every": 2})


def saved_step(folder):
    """Return the step that a run has saved."""
    return torch.load(folder / TrainingRun.CHECKPOINT, weights_only=True)["step"]


def test_a_validation_that_fails_loses_no_steps(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a damaged video")

    monkeypatch.setattr(run_module, "score_videos", fail)
    with pytest.raises(ValueError, match="a damaged video"):
        list(TrainingRun(without_checkpoints(tmp_path / "run")).steps())
    assert saved_step(tmp_path / "run") == 2


def test_clips_that_cannot_be_made_lose_no_steps(tmp_path, monkeypatch):
    run = TrainingRun(without_checkpoints(tmp_path / "run"))
    sample = run._sampler.sample

    def fail(step, index):
        if step == 1:
            raise UsageError("a damaged picture")
        return sample(step, index)

    monkeypatch.setattr(run._sampler, "sample", fail)
    with pytest.raises(UsageError, match="a damaged picture"):
        list(run.steps())
    assert saved_step(tmp_path / "run") == 1
    monkeypatch.undo()
    assert next(run.steps()).step == 2


def test_a_log_that_another_program_keeps_open_loses_no_steps(tmp_path, monkeypatch):
    run = TrainingRun(without_checkpoints(tmp_path / "run"))
    (tmp_path / "run" / TrainingRun.VALIDATION_LOG).mkdir()  # to be opened as little as what Excel holds
    monkeypatch.setattr("napari_surgsam2.training.logs._drop_scores", lambda *_: None)
    with pytest.raises(OutputError, match=r"validation\.csv' cannot be written: .*where another program has"):
        list(run.steps())
    assert saved_step(tmp_path / "run") == 2


def test_a_log_that_another_program_has_changed_is_said(tmp_path):
    (written(tmp_path / "run") / TrainingRun.VALIDATION_LOG).write_text("step;video\n2;synthetic-90\n")
    with pytest.raises(OutputError, match=r"validation\.csv' cannot be read: .*must begin with the number"):
        TrainingRun(settings(tmp_path / "run"))


@pytest.mark.parametrize("where", ["clips", "step"])
def test_too_little_memory_is_told_wherever_it_runs_out(tmp_path, monkeypatch, where):
    run = TrainingRun(settings(tmp_path / "run"))

    def fail(*_):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)")

    if where == "clips":
        monkeypatch.setattr(Batch, "of", fail)
    else:
        monkeypatch.setattr(run._optimizer, "step", fail)
    with pytest.raises(DeviceMemoryError, match="'cpu' ran out of memory with 2 clips of 2 frames"):
        list(run.steps())


def test_other_errors_of_a_step_are_not_taken_for_too_little_memory(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Batch, "of", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(TrainingRun(settings(tmp_path / "run")).steps())

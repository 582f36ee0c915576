"""A run's folder: what is there is kept, one run at a time is at work in it, and failures lose no steps."""

import shutil

import numpy as np
import pytest
import torch

from napari_surgsam2.checkpoints.saving import save_model
from napari_surgsam2.errors import DeviceMemoryError, OutputError, UsageError
from napari_surgsam2.network import NetworkConfig, Sam2Network
from napari_surgsam2.training import TrainingError, TrainingRun
from napari_surgsam2.training import run as run_module
from napari_surgsam2.training.batch import Batch
from napari_surgsam2.training.folder import RunFolder
from napari_surgsam2.training.synthetic import ClipPool, render
from tests.training.test_training_run import NETWORK, VIDEOS, settings


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
    run = labelled(tmp_path / "run", sparse=None)
    run.lock()
    run.claim()
    run.release()
    (tmp_path / "run" / TrainingRun.CHECKPOINT).touch()
    labelled(tmp_path / "run", sparse=False, void=0).check()
    with pytest.raises(OutputError, match=r"other settings \(training\)"):
        labelled(tmp_path / "run", void=255).check()
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


def save_start(path, size=64, **network):
    """Write weights to start from."""
    config = NetworkConfig.from_dict({**NETWORK, **network})
    torch.manual_seed(1)
    save_model(path, Sam2Network(config).state_dict(), config, size)


def from_start(folder, start):
    """Return the settings of a short run that begins with the weights in a file."""
    return settings(
        folder,
        model={"start": str(start), "network": None, "image_size": None},
        run={"steps": 2, "batch_size": 1, "frames": 1},
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after a step, and what it started from."""
    root = tmp_path_factory.mktemp("stopped")
    save_start(root / "start.safetensors")
    run = TrainingRun(from_start(root / "run", root / "start.safetensors"))
    list(run.steps(should_stop=lambda: True))
    assert (run.step, run.image_size) == (1, 64)
    return run, root / "start.safetensors"


@pytest.fixture
def begun(stopped, tmp_path):
    """A copy of that run's folder, and the start, which may be changed for a while."""
    run, start = stopped
    shutil.copytree(run.folder, tmp_path / "run")
    before = start.read_bytes()
    yield tmp_path / "run", start
    start.write_bytes(before)


CHANGES = {
    "gone": lambda start: start.unlink(),
    "of another size": lambda start: save_start(start, size=96),
    "of another network": lambda start: save_start(start, dim=32),
}


def goes_on(folder, start, stopped):
    """Whether a run goes on with the weights and the image size that it was stopped with."""
    resumed, expected = TrainingRun(from_start(folder, start)), stopped[0].network.state_dict()
    weights = resumed.network.state_dict()
    assert (resumed.step, resumed.image_size, weights.keys()) == (1, 64, expected.keys())
    return all(torch.equal(value, expected[name]) for name, value in weights.items())


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_though_its_start_is(begun, stopped, change):
    CHANGES[change](begun[1])
    (begun[0] / TrainingRun.MODEL).unlink()
    assert goes_on(*begun, stopped)


def test_a_run_does_not_go_on_with_other_made_up_clips(begun, monkeypatch):
    monkeypatch.setattr(run_module, "GENERATOR_VERSION", 1000)
    with pytest.raises(OutputError, match=r"saw made-up clips of generator version \d; here it is 1000"):
        TrainingRun(from_start(*begun))


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
    with pytest.raises(OutputError, match=r"validation\.csv' cannot be read: .*where another program has"):
        list(run.steps())
    assert saved_step(tmp_path / "run") == 2


def test_a_log_that_another_program_has_changed_is_said(tmp_path):
    (written(tmp_path / "run") / TrainingRun.VALIDATION_LOG).write_text("step;video\n2;synthetic-90\n")
    with pytest.raises(OutputError, match=r"validation\.csv' cannot be read: .*must begin with the number"):
        TrainingRun(settings(tmp_path / "run"))


@pytest.mark.parametrize("where", ["clips", "step"])
def test_a_process_that_prepares_clips_and_is_killed_costs_no_steps(tmp_path, monkeypatch, where):
    """As where the computer has too little memory; torch says so wherever the training is just then."""
    run = TrainingRun(without_checkpoints(tmp_path / "run"))
    owner, name = (run._sampler, "sample") if where == "clips" else (run, "_unroll")
    work = getattr(owner, name)

    def fail(*args):
        if run.step == 1:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        return work(*args)

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(TrainingError, match=r"lack of memory: .* Killed\. Set fewer workers in \[run\]"):
        list(run.steps())
    assert saved_step(tmp_path / "run") == 1


@pytest.fixture
def disk(monkeypatch):
    """Let a disk be full: what files may have more than so many bytes cannot be written."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_a_full_disk_cannot_take_is_said_and_leaves_nothing(tmp_path, disk):
    run = TrainingRun(settings(tmp_path / "run", run={"checkpoint_every": 1}))
    steps = run.steps()
    next(steps)
    disk(50_000)
    with pytest.raises(OutputError, match=r"checkpoint\.pt' cannot be written: File too large\. .*make room"):
        next(steps)
    disk(2**30)
    assert saved_step(run.folder) == 1
    assert not [p.name for p in run.folder.iterdir() if "partial" in p.name]
    assert next(TrainingRun(settings(tmp_path / "run", run={"checkpoint_every": 1})).steps()).step == 2


def test_a_model_that_a_full_disk_cannot_take_leaves_the_old_one_and_nothing_else(tmp_path, disk):
    config = NetworkConfig.from_dict(NETWORK)
    state = Sam2Network(config).state_dict()
    model = tmp_path / TrainingRun.MODEL
    save_model(model, state, config, 64)
    before = model.read_bytes()
    disk(50_000)
    with pytest.raises(OSError, match="File too large"):
        save_model(model, state, config, 96)
    disk(2**30)
    assert [p.name for p in tmp_path.iterdir()] == [TrainingRun.MODEL]
    assert model.read_bytes() == before


def test_a_run_that_could_not_be_saved_is_refused_before_it_begins(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=10_000_000))
    with pytest.raises(OutputError, match=r"takes 0\.02 GB more, and 0\.01 GB are free there\. Make room on"):
        TrainingRun(settings(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    run = TrainingRun(settings(tmp_path / "run", run={"steps": 1}))
    list(run.steps())
    written = sum((run.folder / name).stat().st_size for name in (run.CHECKPOINT, run.MODEL))
    assert written == pytest.approx(run._size(), rel=0.1)


def test_a_pool_that_a_full_disk_cannot_take_is_said_and_gone_on_with(tmp_path, disk):
    """Writing to a file by its memory would end the process, with no word and with its helpers left."""
    clips = (["things"], 7, 4, 2, (64, 64))
    with pytest.raises(OutputError, match=r"pool' cannot be written: File too large\. .*make room"):
        ClipPool(tmp_path / "pool", *clips, processes=1, progress=lambda *_: disk(2 * 2 * 64 * 64 * 3))
    disk(2**30)
    done = int(np.load(tmp_path / "pool" / "done.npy").sum())
    assert 1 <= done < 4
    told = []
    pool = ClipPool(tmp_path / "pool", *clips, processes=1, progress=lambda *n: told.append(n))
    assert told[0] == (done + 1, 4)
    for i in range(4):
        np.testing.assert_array_equal(pool._frames[i], render(7 + i, *clips[:1], 2, (64, 64)).frames)


def test_a_pool_whose_description_is_damaged_is_said(tmp_path):
    (tmp_path / "pool.json").write_text("")
    with pytest.raises(UsageError, match=r"pool\.json', which says what clips are there, cannot be read"):
        ClipPool(tmp_path, ["things"], 7, 4, 2, (64, 64))


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

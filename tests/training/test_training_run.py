"""Training runs: they learn, go on exactly where they stopped, and leave a model to track with."""

import csv
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from napari_surgsam2.checkpoints import load_model
from napari_surgsam2.checkpoints.saving import save_model
from napari_surgsam2.errors import DeviceMemoryError, OutputError, UsageError
from napari_surgsam2.network import ConvNetConfig, NetworkConfig, Sam2Network
from napari_surgsam2.training import TrainingRun, TrainingSettings, synthetic
from napari_surgsam2.training.optimizer import WeightAverage, freeze, make_optimizer, set_learning_rate
from napari_surgsam2.training.settings import OptimizerSettings
from napari_surgsam2.training.validation import first_views, score_video
from napari_surgsam2.video import open_video
from tests.helpers.weights import TINY_CONFIG, rule_network

NETWORK = {
    "trunk": {"channels": [8, 16, 16, 24], "blocks": [1, 1, 1, 1]},
    "dim": 64,
    "memory_dim": 16,
    "memory_attention_layers": 1,
    "memory_attention_mlp_dim": 64,
    "decoder_mlp_dim": 64,
    "memory_encoder_layers": 1,
}


def settings(folder, **tables):
    """Return the settings of a short run on made-up clips."""
    values = {
        "output": str(folder),
        "model": {"start": "new", "network": NETWORK, "image_size": 64},
        "training": [{"kind": "synthetic", "clips": 4, "length": 2, "size": [64, 64], "scenes": ["things"]}],
        "run": {
            "steps": 4,
            "batch_size": 2,
            "frames": 2,
            "frame_step": [1, 1],
            "checkpoint_every": 2,
            "log_every": 1,
            "device": "cpu",
        },
        "prompts": {"corrections": 1, "corrected_frames": 1},
        "optimizer": {"learning_rate": 1e-3, "ema_decay": 0.9},
    }
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table} if isinstance(table, dict) else table
    return TrainingSettings.from_dict(values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that went through without a stop."""
    run = TrainingRun(settings(tmp_path_factory.mktemp("finished") / "run"))
    return run, list(run.steps())


def test_a_run_reports_its_steps_and_logs_them(finished):
    run, reports = finished
    assert [r.step for r in reports] == [1, 2, 3, 4]
    with (run.folder / run.STEP_LOG).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4]
    for row, report in zip(rows, reports, strict=True):
        assert float(row["loss"]) == pytest.approx(report.loss, rel=1e-4)
        assert 0 <= float(row["first_iou"]) <= 1


def test_a_run_leaves_a_model_that_tracks(finished):
    run, _ = finished
    model = load_model(run.folder / run.MODEL)
    assert model.image_size == 64
    assert model.network.config == NetworkConfig.from_dict(NETWORK)
    expected = run.model().network.state_dict()
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def same_weights(a, b):
    """Compare the networks of two runs, and their averages."""
    pairs = (
        (x.state_dict(), y.state_dict())
        for x, y in ((a.network, b.network), (a.model().network, b.model().network))
    )
    return all(torch.equal(value, y[name]) for x, y in pairs for name, value in x.items())


def test_a_run_that_was_interrupted_ends_with_the_same_weights(finished, tmp_path):
    whole, reports = finished
    config = settings(tmp_path / "run")
    for report in TrainingRun(config).steps():
        if report.step == 3:  # one step after the last checkpoint
            break
    resumed = TrainingRun(config)
    assert resumed.step == 2
    again = list(resumed.steps())
    assert [r.step for r in again] == [3, 4]
    assert [r.loss for r in again] == [r.loss for r in reports[2:]]
    assert same_weights(resumed, whole)
    with (resumed.folder / resumed.STEP_LOG).open(newline="") as file:
        assert [int(r["step"]) for r in csv.DictReader(file)] == [1, 2, 3, 4]


def rows(folder, name=TrainingRun.STEP_LOG):
    """Return the rows of a log, without how long the steps took."""
    with (folder / name).open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_run_that_is_asked_to_stop_keeps_its_last_step(finished, tmp_path):
    whole, _ = finished
    config = settings(tmp_path / "run")
    run = TrainingRun(config)
    assert [r.step for r in run.steps(should_stop=lambda: run.step == 1)] == [1]
    resumed = TrainingRun(config)
    assert resumed.step == 1
    list(resumed.steps())
    assert same_weights(resumed, whole)
    assert rows(run.folder) == rows(whole.folder)


def test_a_row_is_of_all_steps_since_the_last_one_whatever_interrupted_them(tmp_path):
    """A run that is stopped after each step, and one that was ended between checkpoint and row."""
    whole = TrainingRun(settings(tmp_path / "whole", run={"log_every": 2}))
    list(whole.steps())
    config = settings(tmp_path / "run", run={"log_every": 2})
    for stop in (1, 2, 3):
        run = TrainingRun(config)
        list(run.steps(should_stop=lambda run=run, stop=stop: run.step == stop))
        if stop == 2:  # as if it had been ended before the row was written, or while it was
            log = run.folder / run.STEP_LOG
            head, row = log.read_bytes().splitlines(keepends=True)
            log.write_bytes(head + row[:9])
    (report,) = TrainingRun(config).steps()
    assert report.step == 4
    assert rows(run.folder) == rows(whole.folder)
    assert list(TrainingRun(config).steps()) == []
    assert rows(run.folder) == rows(whole.folder)


@pytest.mark.parametrize("ended_at", [2, 4])
def test_a_run_that_ended_between_checkpoint_and_model_goes_on(finished, tmp_path, monkeypatch, ended_at):
    """As where the disk is full; the model is made then, or made anew, also where no step is left."""
    made = []

    def saved(*args, **more):
        if len(made) == ended_at // 2 - 1:
            raise OSError(28, "No space left on device")
        made.append(args[0])
        save_model(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr("napari_surgsam2.training.run.save_model", saved)
        with pytest.raises(OutputError, match=r"No space left.*give the same command to go on"):
            list(TrainingRun(settings(tmp_path / "run")).steps())

    again = TrainingRun(settings(tmp_path / "run"))
    assert again.step == ended_at
    list(again.steps())

    expected = load_model(finished[0].folder / TrainingRun.MODEL).network.state_dict()
    for name, value in load_model(again.folder / TrainingRun.MODEL).network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        ("CUDA out of memory.", DeviceMemoryError, r"up to step 2 is saved\. Lower batch_size, .* a new run"),
        ("shapes do not match", RuntimeError, "shapes do not match"),
    ],
)
def test_a_step_that_fails_costs_none_of_those_before_it(finished, tmp_path, monkeypatch, said, kind, match):
    """Even where the statistics of the failed step were taken already."""
    whole, _ = finished
    config = settings(tmp_path / "run", run={"checkpoint_every": 1000})
    run = TrainingRun(config)
    unroll = run._unroll

    def fail(*args):
        unrolled = unroll(*args)
        if run.step == 2:
            raise RuntimeError(said)
        return unrolled

    monkeypatch.setattr(run, "_unroll", fail)
    with pytest.raises(kind, match=match):
        list(run.steps())
    resumed = TrainingRun(config)
    assert resumed.step == 2
    list(resumed.steps())
    assert same_weights(resumed, whole)
    assert rows(resumed.folder) == rows(whole.folder)


def test_weights_that_were_being_changed_are_not_saved(tmp_path, monkeypatch):
    run = TrainingRun(settings(tmp_path / "run", run={"checkpoint_every": 1000}))

    def fail(*_):
        raise RuntimeError("CUDA out of memory")

    next(run.steps())
    monkeypatch.setattr(run._optimizer, "step", fail)
    with pytest.raises(DeviceMemoryError, match=r"in step 2\. Lower batch_size, .* another output"):
        list(run.steps())
    assert not (run.folder / run.CHECKPOINT).exists()


def test_a_finished_run_has_nothing_left_to_do(finished):
    run, _ = finished
    assert list(TrainingRun(run.settings).steps()) == []


def test_the_loss_on_one_clip_goes_down(tmp_path):
    """The same clip again and again, with the published kind of trunk."""
    save_model(tmp_path / "start.safetensors", rule_network().state_dict(), TINY_CONFIG, 64)
    config = settings(
        tmp_path / "run",
        model={"start": str(tmp_path / "start.safetensors"), "network": None, "image_size": None},
        training=[
            {"kind": "synthetic", "clips": 1, "length": 1, "size": [64, 64], "scenes": ["things"], "seed": 3}
        ],
        run={"steps": 30, "batch_size": 1, "frames": 1, "log_every": 10, "checkpoint_every": 1000},
        prompts={"box": 0, "mask": 0, "corrections": 0, "central_click": 1},
        optimizer={"learning_rate": 1e-3},
        augmentation={
            "flip": False,
            "reverse": False,
            "crop": [1, 1],
            "affine": 0,
            "colour": 0,
            "gray": 0,
            "blur": 0,
        },
    )
    first, *_, last = (r.loss for r in TrainingRun(config).steps())
    assert last < 0.7 * first


def test_validation_tracks_whole_videos(tmp_path):
    config = settings(
        tmp_path / "run",
        validation=[{"kind": "synthetic", "clips": 2, "length": 3, "size": [64, 80], "seed": 90}],
        run={"steps": 2, "validate_every": 2},
    )
    run = TrainingRun(config)
    *_, last = run.steps()
    assert [s.name for s in last.scores] == ["synthetic-90", "synthetic-91"]
    assert all(0 <= s.j <= 1 and 0 <= s.f <= 1 and s.objects >= 1 for s in last.scores)
    assert last.j_and_f == pytest.approx(np.mean([(s.j + s.f) / 2 for s in last.scores]))
    with (run.folder / run.VALIDATION_LOG).open(newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == ["synthetic-90", "synthetic-91"]


def test_pools_are_made_once_and_give_the_clips_of_their_seeds(tmp_path):
    from napari_surgsam2.training.synthetic import ClipPool, render

    told = []
    values = (["microscopy"], 7, 3, 2, (32, 40))
    pool = ClipPool(tmp_path / "pool", *values, processes=1, progress=lambda *n: told.append(n))
    assert told == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(
        np.load(tmp_path / "pool" / "frames.npy")[1], render(8, *values[:1], 2, (32, 40)).frames
    )
    ClipPool(tmp_path / "pool", *values, progress=lambda *n: told.append(n))
    assert len(told) == 3
    assert pool.sample(np.random.default_rng(0), 2, (1, 3)).frames.shape == (2, 32, 40, 3)
    with pytest.raises(UsageError, match="made with"):
        ClipPool(tmp_path / "pool", ["microscopy"], 8, 3, 2, (32, 40))


CLIPS = (["microscopy"], 7, 3, 2, (32, 40))


def test_a_pool_whose_process_is_killed_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_one_thread", functools.partial(os._exit, 1))
    with pytest.raises(OutputError, match=r"ended unexpectedly.*give the same command to go on"):
        synthetic.ClipPool(tmp_path, *CLIPS, processes=1)


def test_a_pool_that_is_interrupted_leaves_no_processes_and_keeps_its_clips(tmp_path):
    before = set(multiprocessing.active_children())

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        synthetic.ClipPool(tmp_path, *CLIPS, processes=1, progress=interrupt)
    assert kept  # and with it what was being done
    assert set(multiprocessing.active_children()) <= before
    assert np.load(tmp_path / "done.npy").sum() == 1


def test_a_folder_of_another_run_is_left_alone(finished, tmp_path):
    run, _ = finished
    with pytest.raises(OutputError, match=r"run\.steps.* start = \".*model\.safetensors\""):
        TrainingRun(settings(run.folder, run={"steps": 5}))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        TrainingRun(settings(tmp_path))


def test_settings_of_a_run_are_kept_beside_it(finished):
    run, _ = finished
    kept = json.loads((run.folder / run.SETTINGS).read_text())
    assert TrainingSettings.from_dict(kept) == run.settings


def test_frozen_parts_stay_as_they_are(tmp_path):
    config = settings(tmp_path / "run", model={"freeze": ["image_encoder"]}, run={"steps": 1})
    run = TrainingRun(config)
    before = {k: v.clone() for k, v in run.network.state_dict().items()}
    list(run.steps())
    changed = {k.split(".")[0] for k, v in run.network.state_dict().items() if not torch.equal(v, before[k])}
    assert "image_encoder" not in changed
    assert "sam_mask_decoder" in changed


def test_what_cannot_be_frozen_is_said():
    network = rule_network()
    with pytest.raises(UsageError, match=r"'trunk'.*image_encoder"):
        freeze(network, ["trunk"])
    with pytest.raises(UsageError, match="All parameters are frozen"):
        freeze(network, {name.split(".")[0] for name, _ in network.named_parameters()})


def test_a_network_that_cannot_be_made_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"model\.network"):
        TrainingRun(settings(tmp_path / "run", model={"network": {"wings": 2}}))


def test_learning_rates_fall_towards_the_first_layers_of_the_trunk():
    network = rule_network()
    rates = OptimizerSettings(learning_rate=1e-3, trunk_rate=0.5, layer_decay=0.8, weight_decay=0.1)
    optimizer = make_optimizer(network, rates)
    assert set_learning_rate(optimizer, rates, 0, 10) == pytest.approx(1e-3)
    of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    found = {n: of[id(p)] for n, p in network.named_parameters()}
    assert found["no_mem_embed"]["lr"] == pytest.approx(1e-3)
    assert found["no_mem_embed"]["weight_decay"] == 0
    trunk = "image_encoder.trunk."
    decayed = {n for n, group in found.items() if group["weight_decay"] == pytest.approx(0.1)}
    assert {
        "obj_ptr_proj.layers.0.weight",
        "sam_mask_decoder.output_upscaling.0.weight",
        trunk + "patch_embed.proj.weight",
    } <= decayed
    codes = ("maskmem_tpos_enc", "no_obj_ptr", "sam_mask_decoder.iou_token.weight", trunk + "pos_embed")
    assert decayed.isdisjoint(codes)
    assert {n for n, p in network.named_parameters() if p.ndim == 1}.isdisjoint(decayed)
    assert found["image_encoder.neck.convs.0.conv.weight"]["lr"] == pytest.approx(5e-4)
    assert found[trunk + "blocks.4.mlp.layers.0.weight"]["lr"] == pytest.approx(5e-4 * 0.8)
    assert found[trunk + "blocks.0.mlp.layers.0.weight"]["lr"] == pytest.approx(5e-4 * 0.8**5)
    assert found[trunk + "patch_embed.proj.weight"]["lr"] == pytest.approx(5e-4 * 0.8**6)
    assert found[trunk + "pos_embed"]["lr"] == pytest.approx(5e-4)


def test_the_rate_rises_and_falls():
    network = torch.nn.Linear(2, 2)
    rates = OptimizerSettings(learning_rate=1.0, warmup_steps=4, final_rate=0.1)
    optimizer = make_optimizer(network, rates)
    course = [set_learning_rate(optimizer, rates, step, 24) for step in range(25)]
    assert course[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert course[4:] == sorted(course[4:], reverse=True)
    assert course[14] == pytest.approx(0.55)
    assert course[24] == pytest.approx(0.1)


def test_averaged_weights_follow_slowly():
    network = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, 0.5)
    start = network.weight.item()
    with torch.no_grad():
        network.weight += 1.0
    average.update(network)
    assert float(average.state["weight"]) == pytest.approx(start + 1 - 2 / 11)  # less decay at first
    for _ in range(30):
        average.update(network)
    assert float(average.state["weight"]) == pytest.approx(start + 1, abs=1e-4)


def test_models_are_saved_in_half_the_size(tmp_path):
    config = NetworkConfig(trunk=ConvNetConfig((8, 8, 8, 8), (1, 1, 1, 1)), dim=64, memory_dim=16)
    network = Sam2Network(config)
    save_model(tmp_path / "whole.safetensors", network.state_dict(), config, 96)
    save_model(tmp_path / "half.safetensors", network.state_dict(), config, 96, half=True)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("whole", "half")]
    assert sizes[1] < 0.53 * sizes[0]
    model = load_model(tmp_path / "half.safetensors")
    assert (model.image_size, model.network.config) == (96, config)


def test_statistics_keep_their_bits_in_half_the_size(tmp_path):
    config = NetworkConfig(trunk=ConvNetConfig((8, 8, 8, 8), (1, 1, 1, 1)), dim=64, memory_dim=16)
    state = Sam2Network(config).state_dict()
    variance = next(name for name in state if name.endswith("running_var"))
    state[variance].fill_(1e6)
    save_model(tmp_path / "half.safetensors", state, config, 96, half=True)
    assert (load_model(tmp_path / "half.safetensors").network.state_dict()[variance] == 1e6).all()


def test_a_run_with_workers_goes_on_to_the_same_weights(finished, tmp_path):
    whole, _ = finished
    run = TrainingRun(settings(tmp_path / "run", run={"workers": 1}))
    list(run.steps(should_stop=lambda: run.step == 2))
    resumed = TrainingRun(settings(tmp_path / "run", run={"workers": 1}))
    assert resumed.step == 2
    list(resumed.steps())
    assert same_weights(resumed, whole)


VIDEOS = [{"kind": "synthetic", "clips": 2, "length": 3, "size": [64, 80], "seed": 90}]


def validated(run):
    """Return the steps in the log of the scores."""
    with (run.folder / run.VALIDATION_LOG).open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_run_goes_on_over_a_validation_to_the_same_weights(finished, tmp_path):
    whole, _ = finished
    config = settings(tmp_path / "run", validation=VIDEOS, run={"validate_every": 3})
    for report in TrainingRun(config).steps():
        if report.step == 2:
            earlier = (tmp_path / "run" / TrainingRun.CHECKPOINT).read_bytes()
        if report.step == 3:
            break
    assert TrainingRun(config).step == 3  # saved before it was validated
    (tmp_path / "run" / TrainingRun.CHECKPOINT).write_bytes(earlier)  # as where that was lost
    resumed = TrainingRun(config)
    assert resumed.step == 2
    list(resumed.steps())
    assert resumed.is_finished
    assert validated(resumed) == [3, 3, 4, 4]
    assert same_weights(resumed, whole)
    assert [{**row, "validation_j_and_f": ""} for row in rows(resumed.folder)] == rows(whole.folder)
    assert [bool(row["validation_j_and_f"]) for row in rows(resumed.folder)] == [False, False, True, True]


def test_a_validation_that_was_stopped_is_made_up_for(tmp_path, monkeypatch):
    config = settings(tmp_path / "run", validation=VIDEOS, run={"steps": 1})
    run = TrainingRun(config)
    asked = []

    def in_the_second_frame():
        asked.append(run.step)
        return len(asked) > 3  # once after the step, once before the video, once after its first frame

    assert list(run.steps(in_the_second_frame)) == []
    assert (len(asked), run.step, run.is_finished) == (5, 1, False)
    resumed = TrainingRun(config)
    assert not resumed.is_finished
    (report,) = resumed.steps()
    assert (report.step, report.has_steps, len(report.scores)) == (1, True, 2)
    assert resumed.is_finished
    assert validated(resumed) == [1, 1]
    assert list(TrainingRun(config).steps()) == []
    (row,) = rows(run.folder)
    assert float(row["loss"]) == pytest.approx(report.loss, rel=1e-4)
    assert float(row["validation_j_and_f"]) == pytest.approx(report.j_and_f, abs=1e-4)


def test_a_step_that_is_validated_later_gets_its_score_into_its_row(tmp_path):
    before = TrainingRun(settings(tmp_path / "run", run={"steps": 1}))
    (earlier,) = before.steps()
    config = settings(tmp_path / "run", run={"steps": 1}, validation=VIDEOS)
    (later,) = TrainingRun(config).steps()
    assert (later.step, later.has_steps) == (1, False)
    (row,) = rows(before.folder)
    assert float(row["loss"]) == pytest.approx(earlier.loss, rel=1e-4)
    assert float(row["validation_j_and_f"]) == pytest.approx(later.j_and_f, abs=1e-4)


def test_scores_that_cannot_be_kept_are_made_up_for(tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("No space left on device")

    config = settings(tmp_path / "run", run={"steps": 1}, validation=VIDEOS)
    with monkeypatch.context() as patch:
        patch.setattr("napari_surgsam2.training.run.append_scores", full)
        with pytest.raises(OutputError, match="No space left"):
            list(TrainingRun(config).steps())
    run = TrainingRun(config)
    assert not run.is_finished
    (report,) = run.steps()
    assert len(report.scores) == 2
    assert validated(run) == [1, 1]
    assert len(rows(run.folder)) == 1


def test_only_the_end_is_validated_unless_told(tmp_path):
    run = TrainingRun(settings(tmp_path / "run", validation=VIDEOS))
    assert [r.step for r in run.steps() if r.scores] == [4]


def test_a_run_with_a_frozen_trunk_goes_on_to_the_same_weights(tmp_path):
    tables = {"model": {"freeze": ["image_encoder"]}, "run": {"steps": 2, "checkpoint_every": 1}}
    whole = TrainingRun(settings(tmp_path / "whole", **tables))
    before = {k: v.clone() for k, v in whole.network.state_dict().items() if "running" in k}
    list(whole.steps())
    run = TrainingRun(settings(tmp_path / "run", **tables))
    list(run.steps(should_stop=lambda: run.step == 1))
    resumed = TrainingRun(settings(tmp_path / "run", **tables))
    list(resumed.steps())
    assert same_weights(resumed, whole)
    assert before
    assert all(torch.equal(resumed.network.state_dict()[k], v) for k, v in before.items())


def test_what_does_not_change_the_result_may_be_changed(finished, tmp_path):
    whole, _ = finished
    run = TrainingRun(settings(tmp_path / "run"))
    list(run.steps(should_stop=lambda: run.step == 1))
    changed = {"workers": 1, "checkpoint_every": 9, "log_every": 9, "validate_every": 9, "device": "auto"}
    config = settings(tmp_path / "run", model={"half": True}, run=changed, validation=VIDEOS)
    resumed = TrainingRun(config)
    assert resumed.step == 1
    assert json.loads((tmp_path / "run" / run.SETTINGS).read_text())["run"]["workers"] == 1
    list(resumed.steps())
    if resumed.device.type == "cpu":
        assert same_weights(resumed, whole)


def test_what_cannot_be_opened_ties_the_folder_to_nothing(tmp_path):
    folders = {"kind": "vos", "images": str(tmp_path / "i"), "annotations": str(tmp_path / "a")}
    for place in ("training", "validation"):
        with pytest.raises(UsageError, match="no folder"):
            TrainingRun(settings(tmp_path / "run", **{place: [folders]}))
        assert not (tmp_path / "run").exists()
    TrainingRun(settings(tmp_path / "run"))
    run = TrainingRun(settings(tmp_path / "run", run={"steps": 5}))  # there is no checkpoint yet
    assert json.loads((tmp_path / "run" / run.SETTINGS).read_text())["run"]["steps"] == 5


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_the_last_step_though_the_workers_get_it_too(tmp_path):
    # Large clips: the training waits for the worker nearly all the time, and so when it is interrupted.
    clips = {"kind": "synthetic", "clips": 4, "length": 2, "size": [384, 384], "scenes": ["things"]}
    long = settings(tmp_path / "run", training=[clips], run={"steps": 100_000, "workers": 1, "batch_size": 1})
    values = long.to_dict()
    (tmp_path / "values.json").write_text(json.dumps(values))
    code = (
        "import json, pathlib, signal, sys, torch\n"
        "import napari_surgsam2.training as training\n"
        "from napari_surgsam2.cli import main\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    torch.set_num_threads(1)\n"
        "    values = json.loads(pathlib.Path('values.json').read_text())\n"
        "    training.load_settings = lambda _: training.TrainingSettings.from_dict(values)\n"
        "    sys.argv = ['napari-surgsam2', 'train', 'any.toml']\n"
        "    main()\n"
    )
    (tmp_path / "main.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "main.py"], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / TrainingRun.STEP_LOG
    try:
        until = time.monotonic() + 180
        while not (log.exists() and len(log.read_text().splitlines()) > 1):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "give the same command to go on" in said
    run = TrainingRun(TrainingSettings.from_dict(values))
    before = run.step
    assert before >= 1
    assert next(run.steps()).step == before + 1


def test_a_step_that_is_not_finite_leaves_no_trace_in_the_average(tmp_path):
    run = TrainingRun(settings(tmp_path / "run", run={"steps": 2}))
    weights = {k: v.clone() for k, v in run.network.state_dict().items()}
    mean = run.network._mean.clone()
    run.network._mean.fill_(float("nan"))  # and with it all activations and their statistics
    next(run.steps())
    assert run._average.updates == 0
    assert all(v.isfinite().all() for v in run.network.state_dict().values())
    for name, parameter in run.network.named_parameters():
        assert torch.equal(parameter, weights[name])
    run.network._mean.copy_(mean)
    list(run.steps())
    assert run._average.updates == 1


def test_activations_that_are_made_again_give_the_same_gradients():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for again in (False, True):
        trunk = rule_network().image_encoder.trunk
        trunk.activation_checkpointing = again
        sum(x.square().mean() for x in trunk(image)).backward()
        found.append([p.grad for p in trunk.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_convolutions_make_nothing_again(tmp_path):
    with pytest.raises(UsageError, match="activation_checkpointing is true; it must be false"):
        TrainingRun(settings(tmp_path / "run", run={"activation_checkpointing": True}))


def test_an_object_is_clicked_where_it_is_first_seen_well(tiny_model):
    labels = np.zeros((6, 40, 40), np.uint8)
    labels[1:, 2:12, 2:12] = 1
    labels[2:, 30, 30] = 2  # a pixel, and more of it later
    labels[4:, 25:35, 25:35] = 2
    annotated = np.arange(6) != 1
    assert first_views(labels, annotated) == {1: 2, 2: 4}
    labels[0, 20, 20:22] = labels[5, 20, 20] = 3
    assert first_views(labels, annotated, any_size=True) == {1: 2, 2: 4, 3: 0}
    labels[labels == 3] = 0
    frames = np.repeat(labels[..., None] * 80, 3, axis=-1)
    score = score_video(tiny_model, "two", open_video(frames), labels, annotated, corrections=1)
    assert score.objects == 2
    assert np.isnan(score.false_positives)  # neither is out of view after its first click


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"dim": 40}, "dim is 40; it must be a multiple of 16, at least 32"),
        ({"dim": 16}, "dim is 16; it must be a multiple of 16, at least 32"),
        ({"dim": "64"}, "dim is '64'; it must be a whole number, at least 1"),
        ({"memory_dim": 6}, "memory_dim is 6; it must be a multiple of 4 that divides dim, 64"),
        ({"memory_dim": 24}, "memory_dim is 24; it must be a multiple of 4 that divides dim, 64"),
        ({"memory_attention_layers": 0}, "memory_attention_layers is 0; it must be a whole number"),
        ({"no_object_memory": 1}, "no_object_memory is 1; it must be true or false"),
        ({"trunk": "hiera"}, "trunk is 'hiera'; it must be a table"),
        ({"trunk": {"channels": [8, 8]}}, r"channels is \(8, 8\); it must be a list of 4 whole numbers"),
        ({"trunk": {"embed_dim": 15, "num_heads": 2}}, "embed_dim is 15; it must be a multiple of num_heads"),
        ({"trunk": {"stages": [1, 1, 1]}}, "stages is .*; it must be a list of 4 whole numbers, at least 1"),
        ({"trunk": {"global_attention_blocks": [12]}}, "has 12; the 12 blocks are numbered from 0 to 11"),
        ({"trunk": {"window_sizes": 8}}, "window_sizes is 8; it must be a list of 4 whole numbers"),
    ],
)
def test_networks_that_cannot_be_made_are_refused(tmp_path, change, rule):
    with pytest.raises(UsageError, match=rf"model\.network describes no network that can be made: .*{rule}"):
        TrainingRun(settings(tmp_path / "run", model={"network": {**NETWORK, **change}}))


def test_training_from_the_command_line(tmp_path):
    from napari_surgsam2.cli import app

    runner = CliRunner()
    listed = runner.invoke(app, ["train", "--example", "list"])
    assert "endovis18" in listed.stdout.split()
    example = ["train", "--example", "own_labels"]
    assert runner.invoke(app, [*example, "-o", str(tmp_path / "own.toml")]).exit_code == 0
    assert (tmp_path / "own.toml").read_text(encoding="utf-8") == runner.invoke(app, example).stdout
    (tmp_path / "my.toml").write_text(
        """
        output = "run"
        [model]
        start = "new"
        image_size = 64
        [model.network]
        trunk = { channels = [8, 8, 8, 8], blocks = [1, 1, 1, 1] }
        dim = 64
        memory_dim = 16
        [[training]]
        kind = "synthetic"
        scenes = ["things"]
        clips = 2
        length = 1
        size = [64, 64]
        [run]
        steps = 1
        batch_size = 1
        frames = 1
        """
    )
    result = runner.invoke(app, ["train", str(tmp_path / "my.toml")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert "[[training]] number 1: 2 made-up clips of things" in result.stderr.splitlines()


def test_the_download_of_the_weights_to_start_from_is_shown(tmp_path, monkeypatch):
    from napari_surgsam2.cli import app, train
    from napari_surgsam2.cli.progress import DownloadBar

    shown = []

    class Bar(DownloadBar):
        def __call__(self, done, total):
            super().__call__(done, total)
            shown.append((done, total))

        def end(self):
            super().end()
            shown.append("end")

    def download(name, *, progress, **_):
        progress(1_000_000, 2_000_000)
        raise OutputError("that is enough")

    monkeypatch.setattr(train, "DownloadBar", Bar)
    monkeypatch.setattr("napari_surgsam2.training.run.load_model", download)
    (tmp_path / "my.toml").write_text(
        """
        output = "run"
        model.start = "sam2.1_hiera_tiny"
        run.steps = 1
        [[training]]
        kind = "synthetic"
        clips = 2
        length = 16
        size = [64, 64]
        """
    )
    result = CliRunner().invoke(app, ["train", str(tmp_path / "my.toml")])
    assert "that is enough" in str(result.exception)
    assert shown == [(1_000_000, 2_000_000)]
    assert "Downloading (MB)" in result.stderr


def test_an_example_is_never_written_over_a_file(tmp_path):
    from napari_surgsam2.cli import app

    (tmp_path / "my.toml").write_text("mine")
    example = ["train", "--example", "own_labels", "-o"]
    for file, said in (
        ("my.toml", "exists already, and is kept"),
        ("no/my.toml", "cannot be written"),
    ):
        result = CliRunner().invoke(app, [*example, str(tmp_path / file)])
        assert isinstance(result.exception, OutputError)
        assert said in str(result.exception)
    assert (tmp_path / "my.toml").read_text() == "mine"
    result = CliRunner().invoke(app, ["train", "my.toml", "-o", "run"])
    assert "-o is for an example; give --example NAME too" in str(result.exception)

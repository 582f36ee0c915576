"""Training by several processes, as torchrun starts them."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from napari_surgsam2.checkpoints import load_model
from napari_surgsam2.errors import UsageError
from napari_surgsam2.training import TrainingRun
from napari_surgsam2.training.team import Team
from tests.training.test_training_run import settings

# Only the first process is asked to stop.
_TRAIN = """
import json, sys
from napari_surgsam2.training import TrainingRun, TrainingSettings
run = TrainingRun(TrainingSettings.from_dict(json.load(open(sys.argv[1]))))
reports = list(run.steps(lambda: run.is_first_process and run.step == int(sys.argv[2])))
print(json.dumps([[[r.step, r.loss] for r in reports], run.step]))
"""


def train_together(tmp_path, config, count=2, stop_after=0):
    """Train in processes with the environment that torchrun gives them.

    Returns for each its reports, as steps and losses, and its last step.
    """
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(config.to_dict()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TRAIN, str(path), str(stop_after)],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(count),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    told = [p.communicate(timeout=120) for p in processes]
    for process, (_, errors) in zip(processes, told, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


def without_chance(folder):
    """Return settings of a run in which nothing is drawn by the processes themselves."""
    return settings(
        folder,
        run={"frames": 1, "steps": 3, "batch_size": 3, "validate_every": 1},
        prompts={"corrections": 0, "central_click": 1, "click": 1, "box": 0, "mask": 0},
        # statistics of a frozen trunk stay; otherwise each process has those of its own clips
        model={"freeze": ["image_encoder.trunk"]},
        optimizer={"kind": "muon", "ema_decay": 0.5},
        validation=[{"kind": "synthetic", "clips": 1, "length": 2, "size": [64, 64], "scenes": ["things"]}],
    )


def test_two_processes_train_what_one_does_though_they_are_stopped_in_between(tmp_path):
    alone = TrainingRun(without_chance(tmp_path / "alone"))
    losses = [r.loss for r in alone.steps()]
    config = without_chance(tmp_path / "together")
    before, after = (train_together(tmp_path, config, stop_after=n) for n in (2, 0))
    assert [step for _, step in before] == [2, 2]  # though only the first was asked to stop
    assert before[0] == before[1]
    assert after[0] == after[1]
    reported = dict(before[0][0] + after[0][0])
    assert [reported[n] for n in (1, 2, 3)] == pytest.approx(losses, rel=1e-3)
    folder = tmp_path / "together"
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == [
        "checkpoint.pt", "model.safetensors", "settings.json", "steps.csv", "validation.csv",
    ]  # fmt: skip
    assert TrainingRun(config).is_finished
    model = load_model(folder / TrainingRun.MODEL)
    expected = alone.model().network.state_dict()
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-3, msg=name)


def test_the_clips_of_a_step_are_shared_out():
    shares = [list(Team(rank, 3).places(7)) for rank in range(3)]
    assert sorted(place for share in shares for place in share) == list(range(7))
    with pytest.raises(UsageError, match="batch_size is 2; it must be at least 3"):
        Team(0, 3).places(2)


def test_without_torchrun_a_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    team = Team.from_environment()
    assert (team.rank, team.count, team.is_first) == (0, 1, True)
    assert team.any(True, torch.device("cpu"))
    tensor = torch.ones(2)
    team.sum_([tensor])
    team.mean_([tensor])
    assert tensor.tolist() == [1, 1]


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    assert Team(3, 4, local_rank=1).place(cuda, "auto") == torch.device("cuda", 1)
    assert Team().place(cuda, "cuda") == cuda
    with pytest.raises(UsageError, match="2 GPUs"):
        Team(2, 3, local_rank=2).place(cuda, "cuda")


def test_on_apple_machines_several_processes_train_on_the_cpu():
    mps = torch.device("mps")
    assert Team().place(mps, "auto") == mps
    assert Team(0, 2).place(mps, "auto") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"device is 'mps', .*; with several it must be 'cpu' or 'cuda'"):
        Team(0, 2).place(mps, "mps")


class TeamWithAnother(Team):
    """The first of two processes, of which the other one has a gradient of 1 for some of the parameters."""

    def __init__(self, having):
        super().__init__(0, 2)
        self.having = having

    def sum_(self, tensors):
        (tensor,) = tensors
        tensor.add_(torch.tensor(self.having))


def test_parameters_without_a_gradient_anywhere_are_left_alone(tmp_path):
    run = TrainingRun(settings(tmp_path / "run"))
    here, there, nowhere = list(run.network.parameters())[:3]
    here.grad = torch.ones_like(here)
    run._team = TeamWithAnother([0.0, 1.0, 0.0])
    shared = run._gradients([here, there, nowhere])
    assert [g is p.grad for g, p in zip(shared, (here, there), strict=True)] == [True, True]
    assert not there.grad.any()  # to be summed with the other's
    assert nowhere.grad is None  # or its weights would decay

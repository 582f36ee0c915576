"""What tracks and trains does so on another device than the CPU too, to the same masks and weights.

The device is one that is pretended, in a process of its own, and refuses tensors of the CPU as a GPU would.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_surgsam2 import PruningSettings, Tracker, TrackingSettings
from napari_surgsam2.checkpoints import Model, load_model
from napari_surgsam2.tracking.state import load_state, save_state
from napari_surgsam2.training import TrainingRun
from napari_surgsam2.training import run as training_run
from tests.helpers import pretended_device
from tests.helpers.clips import moving_blobs
from tests.training.test_training_run import settings

pytestmark = pytest.mark.skipif(not pretended_device.IS_POSSIBLE, reason="needs a newer version of torch")

Run = Callable[..., Any]


def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture(scope="module")
def there() -> Iterator[Run]:
    """Call a function in a process with a pretended device, and return what it returns."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, pretended_device.begin) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def add_across() -> None:
    """Add tensors of two devices."""
    moved = torch.ones(2).to(pretended_device.device())
    assert (moved + torch.tensor(1.0)).cpu().tolist() == [2, 2]
    moved + torch.ones(2)


def test_the_device_refuses_tensors_of_the_cpu(there: Run) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        there(add_across)


def model_on(device: torch.device, checkpoint: str | Path) -> Model:
    """Return a model on a device that no option names."""
    model = load_model(checkpoint, device="cpu")
    return replace(model, network=model.network.to(device), device=device, image_size=96)


def track(
    checkpoint: str | Path, device_of: Callable[[], torch.device], folder: Path, precision: str = "float32"
) -> list[np.ndarray]:
    """Prompt in all ways, track, correct, stop and go on, and track backward; return all logits."""
    model, clip = model_on(device_of(), checkpoint), moving_blobs(9, 96, 128)
    # as little memory as it goes on with
    options = TrackingSettings(
        pruning=PruningSettings(prune_frames=2), memory_bytes=1, feature_cache_bytes=0, precision=precision
    )
    tracker = Tracker(model, clip, options)
    tracker.add_points(0, 1, [(33, 28)])
    tracker.add_box(0, 2, (45, 70, 80, 105))
    mask = np.zeros((96, 128), bool)
    mask[45:80, 65:100] = True
    tracker.add_mask(1, 2, mask)
    logits = [tracker.predict(0).logits]
    logits += [result.logits for result in tracker.propagate()]
    tracker.add_points(5, 1, [(40, 60), (10, 10)], [1, 0])
    logits.append(tracker.predict(5).logits)
    propagation = tracker.propagate()
    logits += [result.logits for result in itertools.islice(propagation, 3)]
    save_state(tracker, propagation.state(), propagation.needed_frames(), folder / "state")
    tracker = Tracker(model, clip, options)
    resume = load_state(tracker, folder / "state")
    logits += [result.logits for result in tracker.propagate(resume=resume)]
    logits += [result.logits for result in tracker.propagate("backward", start=3)]
    return logits


@pytest.fixture(scope="module", params=["nano", "tiny"])
def checkpoint(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> str | Path:
    """Of a network with a trunk of convolutions, and of one with Hiera as published ones have it."""
    return tiny_checkpoint if request.param == "tiny" else str(request.param)


@pytest.fixture(scope="module")
def tracked_here(checkpoint: str | Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    return track(checkpoint, cpu, tmp_path_factory.mktemp("tracked"))


def test_tracking(there: Run, checkpoint: str | Path, tracked_here: list[np.ndarray], tmp_path: Path) -> None:
    elsewhere = there(track, checkpoint, pretended_device.device, tmp_path)
    for a, b in zip(tracked_here, elsewhere, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)


def add_in_half_precision() -> tuple[torch.dtype, torch.dtype]:
    """Return what multiplying and normalizing give with autocast."""
    x = torch.ones(2, 2).to(pretended_device.device())
    with torch.autocast(x.device.type, torch.bfloat16):
        return (x @ x).dtype, F.layer_norm((x @ x), (2,)).dtype


def test_the_device_computes_in_half_precision_what_cuda_does(there: Run) -> None:
    assert there(add_in_half_precision) == (torch.bfloat16, torch.float32)


def test_tracking_in_half_precision(
    there: Run, checkpoint: str | Path, tracked_here: list[np.ndarray], tmp_path: Path
) -> None:
    elsewhere = there(track, checkpoint, pretended_device.device, tmp_path, "bfloat16")
    assert len(elsewhere) == len(tracked_here)
    if checkpoint == "nano":  # the other one's masks mean nothing, and are of chance
        agree = [np.mean((a > 0) == (b > 0)) for a, b in zip(tracked_here, elsewhere, strict=True)]
        assert min(agree) > 0.97


def train(folder: Path, device_of: Callable[[], torch.device], precision: str = "float32") -> list[float]:
    """Train with an interruption; return the losses."""
    config = settings(
        folder,
        run={"precision": precision, "steps": 2, "checkpoint_every": 1},
        optimizer={"kind": "muon", "learning_rate": 1e-3, "ema_decay": 0.9},
    )
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "resolve_device", lambda _: device_of())
        for _ in range(2):
            run = TrainingRun(config)
            assert run.device == device_of()
            losses += [report.loss for report in run.steps(lambda run=run: run.step == 1)]
    return losses


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], Path]:
    """The losses on the CPU, and the folder."""
    folder = tmp_path_factory.mktemp("trained")
    return train(folder / "run", cpu), folder / "run"


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.05), ("float16", 0.05)]
)
def test_training(
    there: Run,
    trained_here: tuple[list[float], Path],
    tmp_path: Path,
    precision: str,
    tolerance: float,
) -> None:
    here, folder = trained_here
    elsewhere = there(train, tmp_path / "run", pretended_device.device, precision)
    assert len(here) == 2
    assert elsewhere == pytest.approx(here, rel=tolerance)
    if precision == "float32":
        expected = load_model(folder / TrainingRun.MODEL).network.state_dict()
        trained = load_model(tmp_path / "run" / TrainingRun.MODEL).network.state_dict()
        apart, count = 0, 0
        for name, value in trained.items():
            difference = (value - expected[name]).abs()
            # Where a gradient is nothing but rounding, each of the two steps goes either way by the rate.
            assert (difference <= 4e-3 + 1e-2 * expected[name].abs()).all(), name
            apart += int((difference > 1e-3 + 1e-2 * expected[name].abs()).sum())
            count += value.numel()
        assert apart < 0.005 * count

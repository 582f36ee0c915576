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

from napari_surgsam2 import PruningSettings, Tracker, TrackingSettings
from napari_surgsam2.checkpoints import Model, load_model
from napari_surgsam2.tracking.state import load_state, save_state
from napari_surgsam2.training import TrainingRun
from napari_surgsam2.training import run as training_run
from tests.helpers import pretended_device
from tests.helpers.clips import moving_blobs
from tests.training.test_training_run import settings

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
    return replace(model, network=model.network.to(device), device=device, image_size=128)


def track(checkpoint: str | Path, device_of: Callable[[], torch.device], folder: Path) -> list[np.ndarray]:
    """Prompt in all ways, track, correct, stop and go on, and track backward; return all logits."""
    model, clip = model_on(device_of(), checkpoint), moving_blobs(9, 96, 128)
    # as little memory as it goes on with
    options = TrackingSettings(pruning=PruningSettings(prune_frames=2), memory_bytes=1, feature_cache_bytes=0)
    tracker = Tracker(model, clip, options)
    tracker.add_points(0, 1, [(33, 28)])
    tracker.add_box(0, 2, (45, 70, 80, 105))
    mask = np.zeros((96, 128), bool)
    mask[60:90, 10:40] = True
    tracker.add_mask(1, 3, mask)
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


@pytest.mark.parametrize("checkpoint", ["nano", "tiny"])
def test_tracking(there: Run, tiny_checkpoint: Path, tmp_path: Path, checkpoint: str) -> None:
    name = tiny_checkpoint if checkpoint == "tiny" else checkpoint
    here = track(name, cpu, tmp_path)
    elsewhere = there(track, name, pretended_device.device, tmp_path)
    assert len(here) == len(elsewhere)
    for a, b in zip(here, elsewhere, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)


def train(folder: Path, device_of: Callable[[], torch.device]) -> list[float]:
    """Train with an interruption; return the losses."""
    config = settings(folder, optimizer={"kind": "muon", "learning_rate": 1e-3, "ema_decay": 0.9})
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "resolve_device", lambda _: device_of())
        for _ in range(2):
            run = TrainingRun(config)
            assert run.device == device_of()
            losses += [report.loss for report in run.steps(lambda run=run: run.step == 2)]
    return losses


def test_training(there: Run, tmp_path: Path) -> None:
    here = train(tmp_path / "here", cpu)
    elsewhere = there(train, tmp_path / "there", pretended_device.device)
    assert elsewhere == pytest.approx(here, rel=1e-3)
    assert len(here) == 4
    model = load_model(tmp_path / "there" / TrainingRun.MODEL)
    expected = load_model(tmp_path / "here" / TrainingRun.MODEL).network.state_dict()
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-3, msg=name)

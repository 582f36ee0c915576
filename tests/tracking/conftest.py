from pathlib import Path

import numpy as np
import pytest
import torch

from napari_surgsam2 import PruningSettings, Tracker, TrackingSettings
from napari_surgsam2.checkpoints import Model
from tests.helpers.clips import moving_blobs
from tests.helpers.weights import rule_network

PLAIN = TrackingSettings(pruning=PruningSettings(0))


@pytest.fixture(scope="session")
def model() -> Model:
    """A tiny SAM 2.1 at 128 pixels; its masks mean nothing but depend on everything."""
    return Model("tiny", Path("tiny"), rule_network(), 128, torch.device("cpu"))


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    return moving_blobs()


@pytest.fixture
def tracker(model: Model, clip: np.ndarray) -> Tracker:
    return Tracker(model, clip)

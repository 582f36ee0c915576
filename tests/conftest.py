"""A tiny model, as a file and loaded, and a clip, for all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from napari_surgsam2.checkpoints import Model, load_model
from napari_surgsam2.checkpoints.loading import CONFIG_KEY, IMAGE_SIZE_KEY
from tests.helpers.clips import moving_blobs
from tests.helpers.weights import TINY_CONFIG, rule_network

# A machine may be busy with other things, and the first example of a test takes longer than the others.
settings.register_profile("without haste", deadline=None)
settings.load_profile("without haste")

# Threads that wait for one another on a machine with other work make the small networks here slower.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny SAM 2.1 for 128 pixels; its masks mean nothing but depend on everything."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    state = {name: value.clone() for name, value in rule_network().state_dict().items()}
    save_file(state, path, metadata={CONFIG_KEY: TINY_CONFIG.to_json(), IMAGE_SIZE_KEY: "128"})
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path) -> Model:
    """The model of that checkpoint, on the CPU."""
    return load_model(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    """(12, 96, 128, 3) uint8: two textured discs that move."""
    return moving_blobs(12, 96, 128)

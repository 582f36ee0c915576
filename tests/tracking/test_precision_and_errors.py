"""Arithmetic other than float32, and devices that run out of memory."""

import numpy as np
import pytest
import torch

from napari_surgsam2 import Tracker, TrackingSettings, load_model
from napari_surgsam2.errors import DeviceMemoryError


def test_bfloat16_is_near_float32(model, clip) -> None:
    logits = []
    for precision in ("float32", "bfloat16"):
        tracker = Tracker(model, clip, TrackingSettings(precision=precision, exclusive=False))
        tracker.add_points(0, 1, [(25, 20)])
        tracker.add_points(0, 2, [(45, 60)])
        logits.append(np.stack([r.logits for r in tracker.propagate("forward", stop=4)]))
        assert tracker.precision == getattr(torch, precision)

    full, half = logits
    assert half.dtype == np.float32
    error = np.linalg.norm(full - half) / np.linalg.norm(full)
    assert 0 < error < 0.1


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "avx2"])
def test_small_networks_take_bfloat16_where_the_processor_has_it(name, model, clip, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, name: True}, raising=False)
    has = name != "avx2"
    assert Tracker(load_model("nano", device="cpu"), clip).precision == (
        torch.bfloat16 if has else torch.float32
    )
    assert Tracker(model, clip).precision == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert Tracker(load_model("nano", device="cpu"), clip).precision == torch.float32


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_says_what_to_do_and_loses_nothing(error, model, clip, monkeypatch) -> None:
    tracker = Tracker(model, clip)
    tracker.add_points(0, 1, [(25, 20)])
    propagation = tracker.propagate("forward")
    done = [next(propagation) for _ in range(3)]

    def exhausted(*_args, **_kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model.network, "encode_memory", exhausted)
        with pytest.raises(DeviceMemoryError, match="smaller image size or model, fewer objects"):
            next(propagation)

    np.testing.assert_array_equal(tracker.predict(2).logits, done[2].logits)
    assert [r.frame for r in tracker.propagate("forward", start=3, stop=5)] == [3, 4]

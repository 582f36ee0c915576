"""Our logits are those of the reference implementations of SAM 2.1 and Surgical SAM 2.

Recorded in float32 with weights by rule: see tests/data/parity.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_surgsam2 import PruningSettings, Tracker, TrackingSettings
from napari_surgsam2.checkpoints import Model
from napari_surgsam2.network import Sam2Network, config_from_state_dict
from napari_surgsam2.tracking import features
from tests.helpers.weights import rule_state_dict

PARITY = Path(__file__).parents[1] / "data" / "parity"
TOLERANCE = 2e-3


def recorded_model(name: str, image_size: int) -> Model:
    state = rule_state_dict(PARITY / f"{name}.json")
    config = config_from_state_dict(state)
    assert config is not None
    network = Sam2Network(config)
    network.load_state_dict(state, strict=True)
    return Model(name, PARITY, network.eval(), image_size, torch.device("cpu"))


def track_recorded(name: str, prune_frames: int) -> tuple[dict, dict, dict]:
    """Repeat a recorded case; return logits and scores by (frame, object), and pruned frames by frame."""
    case = json.loads((PARITY / f"{name}.json").read_text())
    frames = np.stack([np.asarray(Image.open(PARITY / f)) for f in case["frames"]])
    model = recorded_model(name, case["image_size"])
    settings = TrackingSettings(
        pruning=PruningSettings(prune_frames), obey_clicks=False, doubt_masks=False, exclusive=False
    )
    tracker = Tracker(model, frames, settings)
    for p in case["prompts"]:
        if "points" in p:
            tracker.add_points(p["frame"], p["object"], p["points"], p["labels"])
        else:
            tracker.add_box(p["frame"], p["object"], p["box"])
    logits, scores, pruned = {}, {}, {}
    for call in case.get("calls", [{}]):
        direction = "backward" if call.get("reverse") else "forward"
        for result in tracker.propagate(direction, start=call.get("start_frame_idx")):
            for i, object_id in enumerate(result.object_ids.tolist()):
                logits[result.frame, object_id] = result.logits[i]
                scores[result.frame, object_id] = result.scores[i]
                if object_id in result.memory:
                    pruned[result.frame] = result.memory[object_id].pruned
    return logits, scores, pruned


@pytest.fixture(autouse=True)
def resized_as_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resize frames with Pillow, as was done for the recording: rule weights make much of a level of 255."""

    def resize(frame: np.ndarray, size: int) -> np.ndarray:
        return np.array(Image.fromarray(frame).resize((size, size)))

    monkeypatch.setattr(features, "resize_frame", resize)


@pytest.mark.parametrize(("name", "prune_frames"), [("s512_efp_point", 2), ("t21_512_two_objects", 0)])
def test_logits_are_those_of_the_reference(name: str, prune_frames: int) -> None:
    recorded = np.load(PARITY / f"{name}.npz")

    logits, scores, pruned = track_recorded(name, prune_frames)

    keys = [k for k in recorded.files if k.startswith("low_")]
    assert len(keys) == len(logits)
    for key in keys:
        frame, object_id = map(int, key.split("_")[1:])
        np.testing.assert_allclose(
            logits[frame, object_id][::2, ::2], recorded[key], rtol=0, atol=TOLERANCE, err_msg=key
        )
        if (score := f"score_{frame}_{object_id}") in recorded.files:
            expected = 1 / (1 + np.exp(-recorded[score][0]))
            assert scores[frame, object_id] == pytest.approx(expected, abs=1e-4)
    if prune_frames:  # frames 6 on have more memories than slots: that is where pruning shows
        assert [len(pruned[frame]) for frame in range(1, 10)] == [0, 0, 0, 0, 0, 1, 2, 2, 2]

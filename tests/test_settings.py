"""Settings: validated when made, and the same as plain values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from napari_surgsam2 import PruningSettings, TrackingSettings
from napari_surgsam2.errors import UsageError


def test_plain_values_round_trip_through_json() -> None:
    settings = TrackingSettings(pruning=PruningSettings(3), fill_holes=20, precision="float32")

    assert TrackingSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_the_defaults_are_those_of_the_paper() -> None:
    assert TrackingSettings().pruning == PruningSettings(prune_frames=2)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("max_conditioning_frames", 1, "at least 2"),
        ("fill_holes", -1, "at least 0"),
        ("remove_speckles", 1.5, "at least 0"),
        ("feature_cache_bytes", "1", "at least 0"),
        ("memory_bytes", True, "at least 0"),
        ("read_ahead", 257, "from 0 to 256"),
        ("precision", "float16", "'auto', 'float32' or 'bfloat16'"),
        ("pruning", 2, "PruningSettings"),
        ("obey_clicks", 1, "True or False"),
        ("doubt_masks", "no", "True or False"),
        ("mirrored", "yes", "True, False or 'auto'"),
        ("cropped", 1.5, "True, False or 'auto'"),
    ],
)
def test_a_value_out_of_range_is_told_with_the_rule(name: str, value: Any, rule: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrackingSettings(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; it must be")
    assert rule in str(caught.value)
    with pytest.raises(UsageError):
        TrackingSettings().replace(**{name: value})


@pytest.mark.parametrize("value", [-1, 0.5, None])
def test_pruning_takes_whole_numbers(value: Any) -> None:
    with pytest.raises(UsageError, match=r"prune_frames is .*; it must be a whole number, at least 0"):
        PruningSettings(value)


def test_numbers_of_numpy_are_taken_and_stay_json_ready() -> None:
    settings = TrackingSettings(pruning=PruningSettings(np.int64(1)), fill_holes=np.uint8(5))

    assert settings == TrackingSettings(pruning=PruningSettings(1), fill_holes=5)
    json.dumps(settings.to_dict())


def test_unknown_names_are_refused_and_the_known_ones_told() -> None:
    message = "TrackingSettings has no setting 'holes'; it has: .*fill_holes"
    with pytest.raises(UsageError, match=message):
        TrackingSettings.from_dict({"holes": 1})
    with pytest.raises(UsageError, match=message):
        TrackingSettings().replace(holes=1)
    with pytest.raises(UsageError, match="PruningSettings has no setting 'frames'"):
        TrackingSettings.from_dict({"pruning": {"frames": 1}})

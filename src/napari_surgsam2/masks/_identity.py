"""What identifies a run that makes masks, and in what two runs differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from napari_surgsam2.errors import UsageError

_VERSION = 1
_SHOWN = 60  # characters of a value
# Behind the name of a model that came with one version of this package, and perhaps not with another.
_OF_WEIGHTS = " (SHA-256 "


def run_identity(shape: tuple[int, int, int], dtype: np.dtype[Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same for a run to be resumed, as plain JSON values.

    Raises
    ------
    UsageError
        If `run` holds anything else.
    """
    try:
        plain_run = json.loads(json.dumps(dict(run)))
    except (TypeError, ValueError) as error:
        raise UsageError(f"run must hold plain JSON values, to be compared later: {error}.") from error
    return {"version": _VERSION, "shape": list(shape), "dtype": dtype.name, "run": plain_run}


def digest_of(identity: Mapping[str, Any]) -> str:
    """Return a short digest of JSON values."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say key by key what differs, `key (was ..., is now ...)`."""
    old, new = _flatten(old), _flatten(new)
    said = []
    for key in _differing(old, new):
        before, now = (repr(values[key]) if key in values else "not given" for values in (old, new))
        # Of long ones, such as paths, what they have in common tells nothing.
        start = 0
        if max(len(before), len(now)) > _SHOWN:
            pairs = enumerate(zip(before, now, strict=False))
            same = next((i for i, (a, b) in pairs if a != b), min(len(before), len(now)))
            start = max(0, same - _SHOWN // 3)
        said.append(f"{key} (was {_shortened(before, start)}, is now {_shortened(now, start)})")
    return said


def is_of_another_version(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two runs differ in what no option decides, but the version of this package.

    That are settings that only one of them knows, and the weights of a model that comes with the package.
    """
    old, new = _flatten(old), _flatten(new)
    for key in _differing(old, new):
        is_known = key in old and key in new
        if not is_known and key.startswith("settings."):
            return True
        if is_known and key == "model" and _weights_differ(old[key], new[key]):
            return True
    return False


def _weights_differ(old: Any, new: Any) -> bool:
    return isinstance(old, str) and isinstance(new, str) and _model_name(old) == _model_name(new)


def _model_name(text: str) -> str:
    return text.partition(_OF_WEIGHTS)[0]


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    keys = sorted(old.keys() | new.keys())
    return [key for key in keys if key not in old or key not in new or old[key] != new[key]]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted keys; what a record has under `run` stands at the top."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, "" if not prefix and key == "run" else f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shortened(text: str, start: int) -> str:
    before, behind = "..." if start else "", "..." if len(text) - start > _SHOWN else ""
    return f"{before}{text[start : start + _SHOWN]}{behind}"

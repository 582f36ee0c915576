"""Models that are shared by all viewers of a process, so that weights are in memory once."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from napari_surgsam2.paths import expanded

if TYPE_CHECKING:
    from napari_surgsam2.checkpoints import Model, Progress

_lock = threading.Lock()
_loading: dict[tuple[str, int | None, str], threading.Lock] = {}
_models: weakref.WeakValueDictionary[tuple[str, int | None, str], Model] = weakref.WeakValueDictionary()


def shared_model(name: str, image_size: int | None, device: str, progress: Progress | None = None) -> Model:
    """Return a model as `load_model` does, the same one while somebody still has it."""
    from napari_surgsam2.checkpoints import load_model

    path = expanded(name)
    stamp = f"{path.resolve()}@{path.stat().st_mtime_ns}" if path.is_file() else name
    key = (stamp, image_size, device)
    with _lock:
        loading = _loading.setdefault(key, threading.Lock())
    with loading:  # two viewers that open at the same time load, or download, it once
        model = _models.get(key)
        if model is None:
            model = _models[key] = load_model(name, image_size=image_size, device=device, progress=progress)
    return model

"""Models by name or file: registry, verified downloads, safe loading.

What needs torch is imported when first used, so that the command line can list models at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .download import Progress, ensure_downloaded, verify
from .registry import CACHE_VARIABLE, DEFAULT_MODEL, RegistryEntry, cache_folder, registry, registry_entry

if TYPE_CHECKING:
    from .loading import Model, available_devices, check_model, load_model, resolve_device

__all__ = [
    "CACHE_VARIABLE",
    "DEFAULT_MODEL",
    "Model",
    "Progress",
    "RegistryEntry",
    "available_devices",
    "cache_folder",
    "check_model",
    "ensure_downloaded",
    "load_model",
    "registry",
    "registry_entry",
    "resolve_device",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in ("Model", "available_devices", "check_model", "load_model", "resolve_device"):
        from . import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Models by name or file: registry, verified downloads, safe loading."""

from .download import Progress, ensure_downloaded, verify
from .loading import Model, load_model, resolve_device
from .registry import CACHE_VARIABLE, DEFAULT_MODEL, RegistryEntry, cache_folder, registry, registry_entry

__all__ = [
    "CACHE_VARIABLE",
    "DEFAULT_MODEL",
    "Model",
    "Progress",
    "RegistryEntry",
    "cache_folder",
    "ensure_downloaded",
    "load_model",
    "registry",
    "registry_entry",
    "resolve_device",
    "verify",
]

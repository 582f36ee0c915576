"""The models known by name, and where their files are kept."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from napari_surgsam2.errors import UsageError
from napari_surgsam2.paths import expanded

CACHE_VARIABLE = "NAPARI_SURGSAM2_CACHE"
DEFAULT_MODEL = "nano"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class RegistryEntry:
    """A model known by name: built in, or a published checkpoint.

    Attributes
    ----------
    name : str
        What users call it.
    about : str
        One line on what it is.
    architecture : str
        The network it is for.
    file : str
        Its file's name, in this package if built in, else in the cache folder.
    url : str or None
        Where it is downloaded from; None if it is built in.
    bytes : int or None
        The file's size, where known.
    sha256 : str or None
        The file's SHA-256, where known; where not, the digest of the first download is kept beside it.
    image_size : int
        Side of the input it was made for, in pixels.
    """

    name: str
    about: str
    architecture: str
    file: str
    url: str | None
    bytes: int | None
    sha256: str | None
    image_size: int

    @property
    def built_in(self) -> bool:
        """Whether the file came with this package."""
        return self.url is None

    @property
    def path(self) -> Path:
        """Where the file is, or would be after a download."""
        return (Path(__file__).parent if self.built_in else cache_folder()) / self.file


def cache_folder() -> Path:
    """Return the folder of downloaded checkpoints: $NAPARI_SURGSAM2_CACHE, or the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return expanded(chosen)
    import pooch

    return Path(pooch.os_cache("napari-surgsam2"))


@cache
def registry() -> dict[str, RegistryEntry]:
    """Return the known models by name."""
    text = files(__package__).joinpath("registry.json").read_text(encoding="utf-8")
    return {name: RegistryEntry(name=name, **entry) for name, entry in json.loads(text).items()}


def registry_entry(name: str) -> RegistryEntry:
    """Return the entry of a known model.

    Raises
    ------
    UsageError
        If there is no model of that name.
    """
    try:
        return registry()[name]
    except KeyError:
        raise UsageError(
            f"There is no model '{name}'; the models are: {', '.join(registry())}. A file must end in "
            f"{', '.join(CHECKPOINT_SUFFIXES)}."
        ) from None

"""What a session leaves behind for the next one on the same video, with the labels that it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_surgsam2.video.layers import METADATA_KEY

from .prompts import GivenMask, Key
from .records import Records

if TYPE_CHECKING:
    from napari.layers import Labels

_ENTRY = "left"


@dataclass(frozen=True, eq=False)
class Left:
    """What a session leaves behind besides layers.

    Attributes
    ----------
    plane : tuple
        The part of the image that it was on; names alone belong to all of it.
    records, names, masks, edited
        As the session had them.
    """

    plane: tuple[int | None, tuple[tuple[int, int], ...]]
    records: Records
    names: dict[int, str]
    masks: dict[Key, GivenMask]
    edited: set[Key]


def leave(labels: Labels, left: Left) -> None:
    """Leave something with labels, if they are ours."""
    about = labels.metadata.get(METADATA_KEY)
    if isinstance(about, dict):
        about[_ENTRY] = left


def take_up(labels: Labels) -> Left | None:
    """Take what was left with labels, once."""
    about = labels.metadata.get(METADATA_KEY)
    left = about.pop(_ENTRY, None) if isinstance(about, dict) else None
    return left if isinstance(left, Left) else None

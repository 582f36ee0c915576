"""What a session leaves behind for the next one on the same video, with the labels that it made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_surgsam2.video.layers import METADATA_KEY

from .prompts import GivenMask, Key
from .records import Records
from .stacks import Plane

if TYPE_CHECKING:
    from napari.layers import Labels

_ENTRY = "left"


@dataclass(frozen=True, eq=False)
class Left:
    """What a session leaves behind besides layers.

    Attributes
    ----------
    names : dict of int to str
        By object id; they belong to all of the image.
    records : dict of Plane to Records
        What is known of each plane of the image.
    edited : dict of Plane to set of Key
        Where each was painted.
    masks : dict of Plane to dict
        The masks given in each.
    """

    names: dict[int, str]
    records: dict[Plane, Records]
    edited: dict[Plane, set[Key]]
    masks: dict[Plane, dict[Key, GivenMask]]


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

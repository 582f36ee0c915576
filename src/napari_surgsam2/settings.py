"""Settings of a tracking run: frozen, validated when made, and the same for GUI, command line and scripts."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from .errors import UsageError

MEBIBYTE = 2**20


class _Settings:
    """What all settings share: a validated `replace`, and a plain form that refuses unknown keys."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes` made, validated like a new one.

        Raises
        ------
        UsageError
            If a name is unknown or a value is out of its range.
        """
        self._refuse_unknown(changes)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain, JSON-ready values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from what `to_dict` returned.

        Raises
        ------
        UsageError
            If a key is unknown or a value is out of its range.
        """
        cls._refuse_unknown(values)
        return cls(**values)

    @classmethod
    def _refuse_unknown(cls, values: Mapping[str, Any]) -> None:
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise UsageError(
                f"{cls.__name__} has no setting {', '.join(map(repr, unknown))}; "
                f"it has: {', '.join(sorted(known))}."
            )

    def _require_integer(self, name: str, at_least: int, at_most: int | None = None) -> None:
        """Check a setting, and make it an int where it is one of numpy's."""
        value = getattr(self, name)
        try:
            number = at_least - 1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = at_least - 1
        if number < at_least or (at_most is not None and number > at_most):
            rule = f"at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
            raise UsageError(f"{name} is {value!r}; it must be a whole number, {rule}.")
        object.__setattr__(self, name, number)


@dataclass(frozen=True)
class PruningSettings(_Settings):
    """Efficient Frame Pruning (Surgical SAM 2, arXiv 2408.07931).

    Attributes
    ----------
    prune_frames : int
        How many of the memory bank's `num_maskmem` slots are freed before each frame by dropping the
        memories most like the newest one. 0 leaves none out, as SAM 2. Default 2, the paper's.

    Raises
    ------
    UsageError
        If it is not a whole number, at least 0.
    """

    prune_frames: int = 2

    def __post_init__(self) -> None:
        self._require_integer("prune_frames", at_least=0)


@dataclass(frozen=True)
class TrackingSettings(_Settings):
    """How a `Tracker` works.

    Attributes
    ----------
    pruning : PruningSettings
        Efficient Frame Pruning.
    max_conditioning_frames : int
        How many prompted frames an object's memory attention looks at, the nearest in time; at least 2.
    obey_clicks : bool
        Of the network's candidates for the mask of a prompted frame, take rather one that agrees with the
        clicks, as long as it is not expected to be much worse. An object with a positive click, or whose mask
        so far agrees with all clicks, is in view, whatever its score; and negative clicks that its mask
        contradicts all the same tell that it is not. Corrective clicks that lead to a mask which obeys no
        more of them, and is expected to fit worse, leave the mask so far. A mask that covers a positive click
        on another object of the frame is corrected there, if objects are `exclusive`; one that an object was
        only tracked to, and that is nearly the same as the other object's, is that one's. False is SAM 2,
        which looks at none of this.
    doubt_masks : bool
        Heed low predicted IoUs. A mask that an object was tracked to, and whose predicted IoU is under 0.02,
        counts as none: the object is out of view; or under 0.25, if it was out of view in the frame before,
        and then also if it is less than 80 % sure to be there. So does one that does not cover where the
        object was last, if the network is not fairly sure of it and the object did not move as far before, or
        if it is many times as large and the network is not quite sure: it is of another thing. Nor is it the
        object where it is more than twice as large at once and the network not fairly sure. A prompted
        frame whose mask has less than 0.7 of the predicted IoU of the object's best one keeps that mask, and
        is not looked at in others; masks given as prompts are certain. Negative clicks alone make no mask
        more certain than it was. SAM 2 does none of this.
    exclusive : bool
        Each pixel is one object's at most, in memory as in the labels that are written: the one of the
        highest logit has it, where clicked masks that are expected to fit better make an object somewhat
        stronger, and masks given as prompts keep all their pixels. One that was out of view does not come
        back as what another one is. So objects that touch do not run into one
        another. False lets them overlap, as SAM 2 does: for things within things, such as a nucleus and its
        cell.
    mirrored : {"auto", True, False}
        Look at a prompted frame mirrored in three ways as well, once in gray and twice a little smaller, and
        take the average of the masks, for three more encodings of that frame. Not where the object was
        tracked to the frame before it was prompted: memories tell of it there. "auto" does so with small
        convolutional networks such as `nano`, whose masks gain by it; SAM 2 does not.
    cropped : {"auto", True, False}
        Look only at the picture where there is black around it, as in endoscopy: at what is not black in the
        first, the middle or the last frame, unless much in it is black too. What is left out never has a
        mask. "auto" does so with small convolutional networks such as `nano`, which see more of things so;
        SAM 2 does not.
    fill_holes : int
        Holes of a mask up to this area are filled, in pixels of the video; 0 leaves masks as they are.
    remove_speckles : int
        Separate pieces of a mask up to this area are removed, in pixels of the video; 0 leaves them. The
        largest piece of a mask always stays.
    precision : {"auto", "float32", "bfloat16"}
        Arithmetic of the network; "auto" is bfloat16 on CUDA devices that have it and, with small
        convolutional networks such as `nano`, on processors that have it, and float32 elsewhere.
    feature_cache_bytes : int
        How much memory of the device the image features of recently seen frames may take; one frame is
        always kept.
    memory_bytes : int
        How much host memory the memories of tracked frames may take. Past it the frames farthest from the
        newest are reduced to their masks, on disk, and their memories are made again where one is needed.
    read_ahead : int
        How many frames are read and resized in a thread while the network works; 0 reads in turn. On a CPU
        small convolutional networks such as `nano`, with up to two objects, encode them in that thread too.

    Raises
    ------
    UsageError
        If a value is not of its kind, or out of range.
    """

    pruning: PruningSettings = field(default_factory=PruningSettings)
    max_conditioning_frames: int = 8
    obey_clicks: bool = True
    doubt_masks: bool = True
    exclusive: bool = True
    mirrored: bool | Literal["auto"] = "auto"
    cropped: bool | Literal["auto"] = "auto"
    fill_holes: int = 0
    remove_speckles: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    feature_cache_bytes: int = 512 * MEBIBYTE
    memory_bytes: int = 2048 * MEBIBYTE
    read_ahead: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.pruning, Mapping):
            object.__setattr__(self, "pruning", PruningSettings.from_dict(self.pruning))
        if not isinstance(self.pruning, PruningSettings):
            raise UsageError(f"pruning is {self.pruning!r}; it must be a PruningSettings.")
        self._require_integer("max_conditioning_frames", at_least=2)
        for name in ("obey_clicks", "doubt_masks", "exclusive"):
            if not isinstance(value := getattr(self, name), bool):
                raise UsageError(f"{name} is {value!r}; it must be True or False.")
        for name in ("mirrored", "cropped"):
            if not isinstance(value := getattr(self, name), bool) and value != "auto":
                raise UsageError(f"{name} is {value!r}; it must be True, False or 'auto'.")
        for name in ("fill_holes", "remove_speckles", "feature_cache_bytes", "memory_bytes"):
            self._require_integer(name, at_least=0)
        self._require_integer("read_ahead", at_least=0, at_most=256)
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UsageError(f"precision is {self.precision!r}; it must be 'auto', 'float32' or 'bfloat16'.")

"""Points, boxes and masks, and whether they can be used.

Coordinates are napari's: the frame first, then (y, x) in pixels of the video, pixel centres at integers.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import PromptError

BoolArray: TypeAlias = npt.NDArray[np.bool_]


_TOO_LARGE = 2**32  # for label volumes


def finite_number(what: str, value: Any) -> float:
    """Return a finite number; `what` begins the message of the PromptError where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise PromptError(f"{what} is {value!r}; it must be a number.") from None
    if not math.isfinite(number):
        raise PromptError(f"{what} is {number}; coordinates must be finite numbers.")
    return number


def whole_number(what: str, value: Any, at_least: int) -> int:
    """Return a whole number; `what` begins the message of the PromptError where it is none."""
    number: float
    try:
        number = operator.index(value)
    except TypeError:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
    if not (at_least <= number < _TOO_LARGE and number == int(number)):
        limit = f" and below {_TOO_LARGE}" if number >= _TOO_LARGE else ""
        said = f"{value:.15g}" if isinstance(value, float) else repr(value)
        raise PromptError(f"{what} is {said}; it must be a whole number, at least {at_least}{limit}.")
    return int(number)


@dataclass(frozen=True)
class Point:
    """A click.

    Attributes
    ----------
    frame : int
        Frame index, from 0.
    y, x : float
        Position in pixels of the video, pixel centres at integers.
    object_id : int
        The user's number for the object, at least 1.
    positive : bool
        True for "this belongs to the object", False for "this does not".

    Raises
    ------
    PromptError
        If a value is not of its kind, or out of range.
    """

    frame: int
    y: float
    x: float
    object_id: int = 1
    positive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", whole_number("The frame of a point", self.frame, 0))
        object.__setattr__(self, "object_id", whole_number("The object id of a point", self.object_id, 1))
        for name in ("y", "x"):
            value = finite_number(f"The {name} of a point on frame {self.frame}", getattr(self, name))
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Box:
    """A rectangle around an object, its corners belonging to it.

    Attributes
    ----------
    frame : int
        Frame index, from 0.
    y0, x0, y1, x1 : float
        Top, left, bottom and right in pixels of the video; y0 < y1 and x0 < x1.
    object_id : int
        The user's number for the object, at least 1.

    Raises
    ------
    PromptError
        If it is empty, or a value is not of its kind.
    """

    frame: int
    y0: float
    x0: float
    y1: float
    x1: float
    object_id: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", whole_number("The frame of a box", self.frame, 0))
        object.__setattr__(self, "object_id", whole_number("The object id of a box", self.object_id, 1))
        for name in ("y0", "x0", "y1", "x1"):
            value = finite_number(f"The {name} of a box on frame {self.frame}", getattr(self, name))
            object.__setattr__(self, name, value)
        if not (self.y0 < self.y1 and self.x0 < self.x1):
            raise PromptError(
                f"The box (y0={self.y0:g}, x0={self.x0:g}, y1={self.y1:g}, x1={self.x1:g}) on frame "
                f"{self.frame} is empty; give top, left, bottom, right with y0 < y1 and x0 < x1."
            )


@dataclass(frozen=True, eq=False)
class Mask:
    """The exact mask of an object on a frame.

    Attributes
    ----------
    frame : int
        Frame index, from 0.
    mask : ndarray, shape (Y, X), bool
        True where the object is, in pixels of the video.
    object_id : int
        The user's number for the object, at least 1.

    Raises
    ------
    PromptError
        If the mask does not have two axes, or a value is not of its kind.
    """

    frame: int
    mask: BoolArray
    object_id: int = 1

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        if mask.ndim != 2:
            raise PromptError(
                f"The mask on frame {self.frame} has shape {mask.shape}; it must have two axes (Y, X)."
            )
        object.__setattr__(self, "mask", mask.astype(bool))
        object.__setattr__(self, "frame", whole_number("The frame of a mask", self.frame, 0))
        object.__setattr__(self, "object_id", whole_number("The object id of a mask", self.object_id, 1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same_place = (self.frame, self.object_id) == (other.frame, other.object_id)
        return same_place and np.array_equal(self.mask, other.mask)

    @cached_property
    def digest(self) -> bytes:
        """What tells the pixels from those of other masks, 16 bytes; found out once."""
        pixels = hashlib.blake2b(np.packbits(self.mask).tobytes(), digest_size=16)
        pixels.update(repr(self.mask.shape).encode())
        return pixels.digest()


Prompt: TypeAlias = Point | Box | Mask


def check_prompts(prompts: Iterable[Prompt], shape: tuple[int, int, int]) -> None:
    """Raise PromptError if a prompt is outside a video of the given shape (T, Y, X)."""
    frames, height, width = shape
    bottom, right = height - 0.5, width - 0.5
    for prompt in prompts:
        if prompt.frame >= frames:
            raise PromptError(
                f"A prompt is on frame {prompt.frame}, but the video has {frames} frames: 0 to {frames - 1}."
            )
        size = f"{height} pixels high (y) and {width} wide (x)"
        outside = f"on frame {prompt.frame} is outside the video, which is {size}."
        match prompt:
            case Point(y=y, x=x):
                if not (-0.5 <= y <= bottom and -0.5 <= x <= right):
                    raise PromptError(f"The point (y={y:g}, x={x:g}) {outside}")
            case Box(y0=y0, x0=x0, y1=y1, x1=x1):
                if y1 < -0.5 or x1 < -0.5 or y0 > bottom or x0 > right:
                    raise PromptError(f"The box (y0={y0:g}, x0={x0:g}, y1={y1:g}, x1={x1:g}) {outside}")
            case Mask(mask=mask):
                if mask.shape != (height, width):
                    raise PromptError(
                        f"The mask on frame {prompt.frame} has shape {mask.shape}; it must be the video's, "
                        f"({height}, {width})."
                    )


def require_positive(prompts: Iterable[Prompt]) -> None:
    """Raise PromptError if there are no prompts, or nothing says where one of the objects is."""
    said: dict[int, bool] = {}
    for prompt in prompts:
        positive = not isinstance(prompt, Point) or prompt.positive
        said[prompt.object_id] = said.get(prompt.object_id, False) or positive
    if not said:
        raise PromptError("There are no prompts; place at least one point, box or mask on an object.")
    for object_id, positive in said.items():
        if not positive:
            raise PromptError(
                f"Object {object_id} has only negative points; add a positive point, a box or a mask on it."
            )


def masks_from_labels(frame: int, labels: npt.ArrayLike) -> list[Mask]:
    """Make a mask prompt of every object in a labels image.

    Parameters
    ----------
    frame : int
        The frame the image belongs to.
    labels : array, shape (Y, X), integer
        0 is background, every other value the id of an object.

    Raises
    ------
    PromptError
        If the image is not a two-dimensional integer image or holds no object.
    """
    image = np.asarray(labels)
    if image.dtype == bool:
        image = image.astype(np.uint8)
    if image.ndim != 2 or not np.issubdtype(image.dtype, np.integer):
        raise PromptError(
            f"A labels image must have two axes (Y, X) and whole numbers; this one has shape {image.shape} "
            f"and type {image.dtype}."
        )
    ids = [int(i) for i in np.unique(image) if i != 0]
    if not ids:
        raise PromptError(
            f"The labels image for frame {frame} is all background (0); paint an object into it first."
        )
    return [Mask(frame, image == i, i) for i in ids]

"""Which axis of a stack is time, which are the picture, and what is picked along the others."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError, VideoError

SMALLEST_SIDE = 8
_HINT = "Say what the axes are with `axes`, one letter each, for instance axes='TYX', 'TYXC' or 'YXC'."


@dataclass(frozen=True)
class AxesPlan:
    """How a frame is taken from a stack.

    Attributes
    ----------
    shape : tuple of int
        Of the stack.
    y, x : int
        The axes of the picture.
    colour : int or None
        The axis of RGB or RGBA samples.
    stack : int or None
        The axis that is followed as time; None for a single picture.
    picked : mapping of int to int
        The index taken along the axes that are longer than 1 but none of these; axes of length 1 are dropped.
    notes : tuple of str
        Choices that the user should know of.
    """

    shape: tuple[int, ...]
    y: int
    x: int
    colour: int | None
    stack: int | None
    picked: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return 1 if self.stack is None else self.shape[self.stack]

    @property
    def frame_size(self) -> int:
        """Number of values in a frame, over all its channels."""
        channels = 1 if self.colour is None else self.shape[self.colour]
        return self.shape[self.y] * self.shape[self.x] * channels

    def selection(self, frames: int | slice) -> Any:
        """Return what to index the stack with for one frame, or for a run of frames."""
        if self.stack == 0 and not self.picked:
            return frames
        index: list[int | slice] = [self.picked.get(axis, slice(None)) for axis in range(len(self.shape))]
        if self.stack is not None:
            index[self.stack] = frames
        return tuple(index)

    def run_axis(self) -> int:
        """Return the axis of the frames in what a `selection` of a run of frames gives."""
        return 0 if self.stack is None else sum(axis not in self.picked for axis in range(self.stack))

    def arrange(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Return one selected frame as (Y, X) or (Y, X, C)."""
        present = [axis for axis in range(len(self.shape)) if axis != self.stack and axis not in self.picked]
        kept = [axis for axis in (self.y, self.x, self.colour) if axis is not None]
        dropped = [axis for axis in present if axis not in kept]
        ordered = frame.transpose([present.index(axis) for axis in kept + dropped])
        return ordered.reshape(ordered.shape[: len(kept)])


def guess_axes(shape: Sequence[int]) -> str:
    """Return the axes of an array that says nothing but its shape.

    (Y, X), (T, Y, X) and (T, Y, X, 1, 3 or 4) are known; a (N, M, 3) array is three columns wide.

    Raises
    ------
    VideoError
        If the shape is another one.
    """
    if len(shape) in (2, 3):
        return "TYX"[-len(shape) :]
    if len(shape) == 4 and shape[-1] in (1, 3, 4):
        return "TYXC"
    raise VideoError(
        f"An array of shape {tuple(shape)} is not a video: it must be (Y, X), (T, Y, X) or (T, Y, X, 1, "
        "3 or 4). " + _HINT
    )


def plan_axes(
    axes: str, shape: Sequence[int], *, channel: int = 0, z: int | None = None, middle_z: bool = False
) -> AxesPlan:
    """Decide how frames are taken from a stack.

    T is followed as time; without it Z, and without that any other axis. S, and C when it comes last, are
    colours if they have 3 or 4 entries. Another C is a choice of one channel. Axes of length 1 are dropped.

    Parameters
    ----------
    axes : str
        One letter per axis of `shape`; Y and X must be there.
    shape : sequence of int
        Of the stack.
    channel : int
        Which channel, where there are several that are not colours.
    z : int, optional
        Which plane, where both T and Z are longer than 1.
    middle_z : bool
        Take the middle plane where `z` is needed but not given, instead of refusing.

    Raises
    ------
    UsageError
        If `axes`, `channel` or `z` do not fit the stack.
    VideoError
        If the stack cannot be seen as one video.
    """
    axes = _check_letters(axes, shape)
    sizes = dict(zip(axes, shape, strict=True))
    place = axes.index
    _check_sizes(axes, shape)
    channel, z = _whole("channel", channel), None if z is None else _whole("z", z)
    if channel < 0 or (z is not None and z < 0):
        raise UsageError(f"channel is {channel} and z is {z}; they count from 0 and must not be negative.")

    picked: dict[int, int] = {}
    others = [letter for letter in axes if letter not in "YX" and sizes[letter] > 1]
    notes: list[str] = []

    colour = _colour_letter(axes, sizes)
    if colour is not None:
        others.remove(colour)
    if "S" in others and sizes["S"] == 2:
        # Grey with alpha.
        picked[place("S")] = 0
        others.remove("S")

    channels = next((letter for letter in "CS" if letter in others), None)
    if channels is not None:
        _check_choice("channel", channel, sizes[channels])
        picked[place(channels)] = channel
        others.remove(channels)
        notes.append(
            f"The stack has {sizes[channels]} channels: channel {channel} is used; choose another with "
            "`channel`."
        )
    elif channel:
        raise UsageError(f"channel is {channel}, but there is only one; leave `channel` at 0.")

    if "T" in others and "Z" in others and (z is not None or middle_z):
        plane = sizes["Z"] // 2 if z is None else z
        _check_choice("z", plane, sizes["Z"])
        picked[place("Z")] = plane
        others.remove("Z")
        notes.append(f"The stack has {sizes['Z']} planes: plane {plane} is used; choose another with `z`.")
    elif z is not None:
        raise UsageError(
            f"z is {z}, but it picks a plane only where both T and Z are longer than 1; "
            f"the axes here are {_said(axes, shape)}."
        )
    if len(others) > 1:
        remedy = "pick a plane with `z`, or " if {"T", "Z"} == set(others) else ""
        raise VideoError(
            f"The stack has axes {_said(axes, shape)}: {' and '.join(others)} are both longer than 1, "
            "and only one "
            f"can be followed as time. To pick, {remedy}pass one part of it as an array, such as stack[:, 0]."
        )
    if others:
        stack: int | None = place(others[0])
    else:
        # A leading T of length 1 stays the stack, so that `array[t]` is all that is asked of an array.
        stack = 0 if axes[0] == "T" else None
    return AxesPlan(
        shape=tuple(shape),
        y=place("Y"),
        x=place("X"),
        colour=None if colour is None else place(colour),
        stack=stack,
        picked=picked,
        notes=tuple(notes),
    )


def _check_letters(axes: str, shape: Sequence[int]) -> str:
    if not isinstance(axes, str):
        raise UsageError(f"axes is {axes!r}; it must be a string. {_HINT}")
    axes = axes.upper()
    if len(axes) != len(shape):
        raise UsageError(
            f"axes is {axes!r}, which names {len(axes)} axes, but the shape {tuple(shape)} has "
            f"{len(shape)}. {_HINT}"
        )
    if len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        unnamed = " (Q is an axis that the file does not name)" if "Q" in axes else ""
        raise UsageError(
            f"axes is {axes!r}{unnamed}, for the shape {tuple(shape)}; it must hold Y and X, and no letter "
            f"twice. {_HINT}"
        )
    return axes


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} is {value!r}; it must be a whole number, counting from 0.") from None


def _check_sizes(axes: str, shape: Sequence[int]) -> None:
    if 0 in shape:
        raise VideoError(f"The stack has axes {_said(axes, shape)}: there is nothing in it.")
    height, width = shape[axes.index("Y")], shape[axes.index("X")]
    if min(height, width) < SMALLEST_SIDE:
        raise VideoError(
            f"Frames of {height} x {width} pixels (axes {_said(axes, shape)}) are too small: both sides "
            "need at "
            f"least {SMALLEST_SIDE}. If the axes are others, say so with `axes`, for instance "
            "axes='YXC' for one "
            "colour picture."
        )


def _colour_letter(axes: str, sizes: Mapping[str, int]) -> str | None:
    if sizes.get("S") in (3, 4):
        return "S"
    if axes[-1] == "C" and sizes["C"] in (3, 4):
        return "C"
    return None


def _check_choice(name: str, value: int, size: int) -> None:
    if not 0 <= value < size:
        raise UsageError(f"{name} is {value}; it must be from 0 to {size - 1}.")


def _said(axes: str, shape: Sequence[int]) -> str:
    return ", ".join(f"{letter} ({size})" for letter, size in zip(axes, shape, strict=True))

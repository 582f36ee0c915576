"""Image layers as videos: which axis is followed as time, and what is picked along the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import UsageError, VideoError
from napari_surgsam2.video.axes import SMALLEST_SIDE
from napari_surgsam2.video.contrast import require_pixel_type
from napari_surgsam2.video.layers import full_data, layer_limits, spatial_shape

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_surgsam2.video import Video

Plane = tuple[int | None, tuple[tuple[int, int], ...]]  # the frame axis, and what is picked along others
_TIME_NAMES = ("t", "time", "frame", "frames")
_PICTURE_NAMES = ("y", "x")
_PICKED_LETTERS = "ZC"  # what `open_video` calls the axes that one index is picked along
_SPARE_LETTERS = "QRUVWABDEFGHIJKLMNOP"  # for axes of length 1


@dataclass(frozen=True, eq=False)
class LayerStack:
    """An Image layer seen as a video (T, Y, X): the last two axes are the picture.

    Attributes
    ----------
    layer : napari.layers.Image
        The layer.
    frame_axis : int or None
        The axis of the layer that is followed as time; None where there is only one picture.
    picked : mapping of int to int
        The index along each of the other axes before the picture.
    """

    layer: Image
    frame_axis: int | None
    picked: Mapping[int, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        height, width = self.layer_shape[-2:]
        return self.n_frames, height, width

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Of the layer, without colours: that of its labels."""
        return spatial_shape(self.layer)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return 1 if self.frame_axis is None else self.layer_shape[self.frame_axis]

    @property
    def plane(self) -> Plane:
        """Which part of the layer it is, to be looked up by."""
        return self.frame_axis, tuple(sorted(self.picked.items()))

    @property
    def has_other_planes(self) -> bool:
        """Whether the layer has more planes than this one along the axes that are not followed."""
        return any(self.layer_shape[axis] > 1 for axis in self.picked)

    def plane_of(self, row: Sequence[float]) -> Plane:
        """Return the plane that a position in the layer's data, of length D, is in."""
        return self.frame_axis, tuple(sorted((axis, round(float(row[axis]))) for axis in self.picked))

    def index(self, frame: int | slice) -> tuple[int | slice, ...]:
        """Return what to index an array of `layer_shape` with for a frame, or a run of frames."""
        leading = len(self.layer_shape) - 2
        return tuple(frame if axis == self.frame_axis else self.picked[axis] for axis in range(leading))

    def to_frame(self, rows: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Take positions in the layer's data, (N, D), to (frame, y, x), (N, 3), and whether they are in it.

        A position is in the stack where it is, rounded, at the picked indices of the other axes.
        """
        table = np.asarray(rows, dtype=np.float64).reshape(-1, len(self.layer_shape))
        frames = np.zeros(len(table)) if self.frame_axis is None else table[:, self.frame_axis]
        inside = np.ones(len(table), dtype=bool)
        for axis, index in self.picked.items():
            inside &= np.round(table[:, axis]) == index
        return np.column_stack([np.round(frames), table[:, -2:]]), inside

    def to_layer(self, places: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Take (frame, y, x), (N, 3), to positions in the layer's data, (N, D)."""
        table = np.asarray(places, dtype=np.float64).reshape(-1, 3)
        rows = np.zeros((len(table), len(self.layer_shape)))
        for axis, index in self.picked.items():
            rows[:, axis] = index
        if self.frame_axis is not None:
            rows[:, self.frame_axis] = table[:, 0]
        rows[:, -2:] = table[:, 1:]
        return rows

    def require_video(self) -> None:
        """Refuse what cannot be segmented.

        Raises
        ------
        VideoError
            If the layer is empty, its pictures are too small, it holds no numbers or has too many axes.
        """
        name, shape = self.layer.name, self.layer_shape
        if 0 in shape:
            raise VideoError(f"The layer '{name}' has shape {shape}: there is nothing in it. Choose another.")
        height, width = shape[-2:]
        if min(height, width) < SMALLEST_SIDE:
            raise VideoError(
                f"The pictures in '{name}' have {height} x {width} pixels; both sides need at least "
                f"{SMALLEST_SIDE}. Choose another layer, or one whose last two axes are the picture."
            )
        names = [_plain(label) for label in self.layer.axis_labels]
        if any(n in _TIME_NAMES for n in names[-2:]) and any(n in _PICTURE_NAMES for n in names[:-2]):
            raise VideoError(
                f"The axes of '{name}' are called {', '.join(names)}; the last two must be the picture. Move "
                "the axes of the array, for instance by numpy.moveaxis(array, -1, 0)."
            )
        require_pixel_type(full_data(self.layer).dtype)
        self.opening()

    def opening(self) -> dict[str, Any]:
        """Return what `open_video` is to be called with besides the source."""
        shape, leading = self.layer_shape, len(self.layer_shape) - 2
        others = [axis for axis in self.picked if shape[axis] > 1]
        if len(others) > len(_PICKED_LETTERS):
            raise VideoError(
                f"The layer '{self.layer.name}' has shape {shape}: besides the frames and the picture at "
                f"most {len(_PICKED_LETTERS)} axes may be longer than 1, and {len(others)} are. Show a part "
                "of it as a layer of its own."
            )
        letters = dict(zip(others, _PICKED_LETTERS, strict=False))
        if self.frame_axis is not None:
            letters[self.frame_axis] = "T"
        spare = iter(_SPARE_LETTERS)
        axes = "".join(letters.get(axis) or next(spare) for axis in range(leading)) + "YX"
        choice: dict[str, Any] = {"axes": axes + "S" if self.layer.rgb else axes}
        if others:
            choice["z"] = self.picked[others[0]]
        if len(others) > 1:
            choice["channel"] = self.picked[others[1]]
        if (limits := layer_limits(self.layer)) is not None:
            choice["contrast_limits"] = limits
        return choice

    def open(self) -> Video:
        """Open it as a video, from the file that it was read from where that is known."""
        from napari_surgsam2.video import open_video

        if self.frame_axis == 0 and not self.picked:
            return open_video(self.layer)
        return open_video(self.layer, **self.opening())


def frame_axes(layer: Image) -> list[int]:
    """Return the axes that could be followed as time: those before the picture that are longer than 1."""
    shape = spatial_shape(layer)
    return [axis for axis in range(len(shape) - 2) if shape[axis] > 1]


def likely_frame_axis(layer: Image) -> int | None:
    """Return the axis whose name says that it is time, or the first that is longer than 1; None without."""
    axes = frame_axes(layer)
    names = [_plain(name) for name in layer.axis_labels]
    named = [axis for axis in axes if names[axis] in _TIME_NAMES]
    return next(iter(named + axes), None)


def _plain(label: object) -> str:
    return str(label).strip().lower()


def axis_name(layer: Image, axis: int) -> str:
    """Return what an axis is called, with its length."""
    name = str(layer.axis_labels[axis])
    said = f"axis {axis}" if not name or name.startswith("axis ") or name.lstrip("-").isdigit() else name
    return f"{said} ({spatial_shape(layer)[axis]})"


def stack_of(layer: Image, frame_axis: int | None, position: Sequence[float]) -> LayerStack:
    """See a layer as a video.

    Parameters
    ----------
    layer : napari.layers.Image
        The layer.
    frame_axis : int or None
        The axis that is followed; the likeliest if None.
    position : sequence of float, length D
        A position in the layer's data, whose entries are picked along the other axes.

    Raises
    ------
    UsageError
        If the layer has no such axis.
    """
    shape = spatial_shape(layer)
    leading = len(shape) - 2
    axis = likely_frame_axis(layer) if frame_axis is None else frame_axis
    if axis is not None and not 0 <= axis < leading:
        raise UsageError(f"The frame axis is {axis}; '{layer.name}' of shape {shape} has 0 to {leading - 1}.")
    if axis is not None and shape[axis] == 1 and frame_axes(layer):
        raise UsageError(
            f"The frame axis is {axis}, along which '{layer.name}' of shape {shape} has one entry; follow "
            f"one of {', '.join(map(str, frame_axes(layer)))}."
        )
    picked = {
        other: int(np.clip(round(float(position[other])), 0, shape[other] - 1))
        for other in range(leading)
        if other != axis
    }
    return LayerStack(layer, axis, picked)

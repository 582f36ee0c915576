"""The Labels layer that masks are drawn into: merging, repainting, and what the user painted by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import unsaved_labels
from napari_surgsam2.video.layers import METADATA_KEY

from .prompt_layers import transforms
from .prompts import Key
from .stacks import LayerStack, Plane
from .timers import single_shot
from .units import place_in_view

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

LABELS_DTYPE = np.dtype(np.uint16)
_REPAINT_EVERY = 0.1  # seconds from the end of one time to the start of the next, at least

Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stroke:
    """What the user painted in a frame at once.

    Attributes
    ----------
    frame : int
        Frame index.
    painted, over : set of int
        The labels that came, and those that they came in place of; background left out.
    before : array, shape (Y, X)
        The frame's labels as they were.
    """

    frame: int
    painted: set[int]
    over: set[int]
    before: npt.NDArray[Any]


class MaskCanvas:
    """Draws masks into a Labels layer, frame by frame; other labels in it stay as they are.

    Parameters
    ----------
    viewer : ViewerModel
        Where it is shown; only looked at.
    layer : napari.layers.Labels
        The layer, of the stack's `layer_shape`.
    stack : LayerStack
        The video.
    on_painted : callable, optional
        Called with the strokes where the user painted, one for each frame.
    on_painted_elsewhere : callable, optional
        Called with what was painted in other planes of the image: by plane, the frames and objects.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        layer: Labels,
        stack: LayerStack,
        on_painted: Callable[[Sequence[Stroke]], object] | None = None,
        on_painted_elsewhere: Callable[[Mapping[Plane, set[Key]]], object] | None = None,
    ) -> None:
        self.layer = layer
        self.stack = stack
        self._viewer = viewer
        self._on_painted = on_painted
        self._on_painted_elsewhere = on_painted_elsewhere
        self._data = layer.data  # as it was looked at last
        self._paint_next = 0.0
        self._repaint = single_shot(0, self._repaint_now)
        layer.events.paint.connect(self._on_paint)

    def close(self) -> None:
        """Let go of the layer."""
        self._repaint.stop()
        self.layer.events.paint.disconnect(self._on_paint)

    @property
    def largest_id(self) -> int:
        """The largest id that the layer's numbers hold."""
        return int(np.iinfo(self.layer.data.dtype).max)

    def frame(self, frame: int) -> npt.NDArray[Any]:
        """Return a frame's labels, (Y, X), to look at."""
        return np.asarray(self.layer.data[self.stack.index(frame)])

    def merged(
        self,
        current: npt.NDArray[Any],
        labels: npt.NDArray[np.integer],
        objects: Sequence[int],
        rivals: Iterable[int] = (),
        preserve: bool = True,
    ) -> npt.NDArray[Any]:
        """Put the masks of objects in place of those that they have in a frame.

        Parameters
        ----------
        current : array, shape (Y, X)
            The frame as it is.
        labels : array, shape (Y, X)
            The new masks, of these and perhaps other objects.
        objects : sequence of int
            Whose masks are to change; one that has none in `labels` loses what it has.
        rivals : iterable of int
            Objects whose pixels may go to `objects`, since `labels` says whose they are.
        preserve : bool
            Leave the pixels of all other labels as they are.
        """
        out = current.copy()
        np.copyto(out, 0, where=_among(current, objects))
        drawn = _among(labels, objects)
        if preserve:
            drawn &= (out == 0) | _among(out, list(rivals))
        np.copyto(out, labels, where=drawn, casting="unsafe")
        return out

    def write(self, frame: int, labels: npt.NDArray[Any]) -> None:
        """Write a frame and show it soon, if it is in view."""
        self.write_at(self.stack.index(frame), labels)  # type: ignore[arg-type]

    def write_at(self, index: Index, labels: npt.NDArray[Any]) -> None:
        """Write what `index` says, and show it soon, if it is in view."""
        self.layer.data[index] = labels
        if self.is_in_view(index):
            self.repaint()

    def is_in_view(self, index: Index) -> bool:
        """Whether a frame is in what the viewer shows, perhaps across it or in three dimensions."""
        shown = place_in_view(self._viewer, self.layer)
        displayed = {axis - self._viewer.dims.ndim for axis in self._viewer.dims.displayed}
        ndim = self.layer.ndim
        return all(
            axis - ndim in displayed or round(float(shown[axis])) == at for axis, at in enumerate(index)
        )

    def repaint(self) -> None:
        """Show what was written, about ten times a second at most."""
        if not self._repaint.isActive():
            self._repaint.start(max(0, int(1000 * (self._paint_next - time.monotonic()))))

    def _repaint_now(self) -> None:
        began = time.monotonic()
        self.layer.refresh(extent=False)
        ended = time.monotonic()
        # What takes long, as a whole volume does, leaves as much time to all else.
        self._paint_next = ended + max(_REPAINT_EVERY, ended - began)

    def _on_paint(self, event: Any) -> None:
        """Tell which labels of which frames were changed."""
        if self._on_painted is None:
            return
        touched: dict[int, Stroke] = {}
        elsewhere: dict[Plane, set[Key]] = {}
        for atom in reversed(event.value):  # what was there before the first is what was there
            where, before, after = _changed(atom, self.stack.layer_shape)
            for frame, here in self._by_frame(where):
                if frame not in touched:
                    touched[frame] = Stroke(frame, set(), set(), self.frame(frame).copy())
                stroke = touched[frame]
                stroke.painted.update(set(np.unique(after[here]).tolist()) - {0})
                stroke.over.update(set(np.unique(before[here]).tolist()) - {0})
                stroke.before[where[-2][here], where[-1][here]] = before[here]
            for plane, keys in self._in_other_planes(where, after):
                elsewhere.setdefault(plane, set()).update(keys)
        if elsewhere and self._on_painted_elsewhere is not None:
            self._on_painted_elsewhere(elsewhere)
        if touched:
            self._on_painted(list(touched.values()))

    def _by_frame(self, where: Sequence[npt.NDArray[np.intp]]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
        """Yield frames, and which entries of indices, (N,) for each axis, are in them."""
        inside = np.ones(where[-1].shape, dtype=bool)
        for other, index in self.stack.picked.items():
            inside &= where[other] == index
        entries, axis = np.flatnonzero(inside), self.stack.frame_axis
        frames = np.zeros(entries.shape, dtype=np.intp) if axis is None else where[axis][entries]
        order = np.argsort(frames, kind="stable")
        found, starts = np.unique(frames[order], return_index=True)
        yield from zip(found.tolist(), np.split(entries[order], starts[1:]), strict=False)  # none: one, empty

    def _in_other_planes(
        self, where: Sequence[npt.NDArray[np.intp]], labels: npt.NDArray[Any]
    ) -> Iterator[tuple[Plane, set[Key]]]:
        """Yield planes out of view, and the frames and objects that were painted in them."""
        outside = np.zeros(where[-1].shape, dtype=bool)
        for other, index in self.stack.picked.items():
            outside |= where[other] != index
        if not outside.any():
            return
        found = np.unique(np.stack([*(axis[outside] for axis in where[:-2]), labels[outside]]), axis=1)
        for *place, label in found.T.tolist():
            if label > 0:
                frame = 0 if self.stack.frame_axis is None else place[self.stack.frame_axis]
                yield self.stack.plane_of([*place, 0, 0]), {(frame, label)}

    def has_the_same_in_another_array(self) -> bool:
        """Whether the layer got another array since this was asked, in memory, with the same labels."""
        before, self._data = self._data, self.layer.data
        arrays = isinstance(before, np.ndarray) and isinstance(self._data, np.ndarray)
        if not arrays or before is self._data or before.shape != self._data.shape:
            return False
        return all(map(np.array_equal, before, self._data))  # a part at a time takes less memory


def _changed(
    atom: Sequence[Any], shape: tuple[int, ...]
) -> tuple[tuple[npt.NDArray[np.intp], ...], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return where labels were changed, (N,) for each axis, what was there, (N,), and what is, (N,).

    Parameters
    ----------
    atom : tuple
        Of napari's history of edits: indices, the values before and those after; from napari 0.9 on, of
        brush, bucket and polygon, the slices of a box, a mask in it or None, values before, and one after.
    shape : tuple of int
        Of the labels.
    """
    if len(atom) == 4:
        slices, mask, before, after = atom
        ranges = [range(*s.indices(n)) for s, n in zip(slices, shape, strict=True)]
        mask = np.ones([len(r) for r in ranges], dtype=bool) if mask is None else np.asarray(mask)
        found = np.nonzero(mask)
        where = tuple(np.asarray(r, dtype=np.intp)[at] for r, at in zip(ranges, found, strict=True))
    else:
        indices, before, after = atom
        where = tuple(np.ravel(i) for i in np.broadcast_arrays(*map(np.asarray, indices)))
    size = where[0].shape
    return where, np.broadcast_to(np.ravel(before), size), np.broadcast_to(np.ravel(after), size)


def _among(labels: npt.NDArray[Any], ids: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Return where labels are one of some ids; far faster than `np.isin` for a few."""
    if len(ids) > 8:
        found: npt.NDArray[np.bool_] = np.isin(labels, ids)
        return found
    out = np.zeros(labels.shape, dtype=bool)
    for i in ids:
        out |= labels == i
    return out


def make_labels(viewer: ViewerModel, stack: LayerStack) -> Labels:
    """Add a Labels layer for the masks of an image."""
    image = stack.layer
    layer: Labels = viewer.add_labels(
        unsaved_labels(stack.layer_shape, LABELS_DTYPE),
        name=f"{image.name} masks",
        opacity=0.5,
        metadata={METADATA_KEY: {"masks": True, "image": str(image.unique_id)}},
        **transforms(image),
    )
    return layer


def require_fit(layer: Labels, stack: LayerStack) -> None:
    """Check that masks can be drawn into a layer.

    Raises
    ------
    UsageError
    If it does not fit the image, or cannot be written to.
    """
    if layer.multiscale:
        raise UsageError(
            f"The labels '{layer.name}' are multiscale, which cannot be drawn into; take others."
        )
    if tuple(layer.data.shape) != stack.layer_shape:
        raise UsageError(
            f"The labels '{layer.name}' have shape {tuple(layer.data.shape)}; they must have "
            f"{stack.layer_shape}, as '{stack.layer.name}'."
        )
    if not is_writable(layer.data):
        raise UsageError(
            f"The labels '{layer.name}' cannot be written to ({type(layer.data).__name__}); take labels "
            "in numpy or zarr, or new ones."
        )


def ids_in(layer: Labels, image: Image) -> Iterator[set[int]]:
    """Look for ids in labels that are in memory and not our own of an image; yields those of each frame."""
    about = layer.metadata.get(METADATA_KEY)
    is_own = isinstance(about, Mapping) and about.get("image") == str(image.unique_id)
    if isinstance(layer.data, np.ndarray) and not is_own:
        for index in np.ndindex(layer.data.shape[:-2]):
            yield {int(i) for i in np.unique(layer.data[index]) if i > 0}


def largest_id_in(layer: Labels) -> int:
    """Return the largest id in labels that are in memory; 0 of others."""
    return int(layer.data.max(initial=0)) if isinstance(layer.data, np.ndarray) else 0


def is_writable(data: Any) -> bool:
    """Whether labels can be drawn into an array."""
    if not hasattr(data, "__setitem__") or type(data).__module__.startswith("dask"):
        return False
    writeable = getattr(getattr(data, "flags", None), "writeable", True)
    return bool(writeable) and not getattr(data, "read_only", False)
